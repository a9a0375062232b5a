"""Until when a target is left alone because it said so, or because it refused the credential.

A cool-down is not an open breaker: no trip, no probe, it ends by time alone. One object belongs to one scope: a target,
or a credential where the provider's quota is per key; the caller of this module owns the map from scope to object.

Two times are kept. The capped one (300 s) decides about admission, so that one absurd header cannot take a target out
for a day: when it has passed the target is asked again, and a new 429 renews it. The uncapped one is for reports and
for a request that really waits. Envoy instead throws a long Retry-After away and falls back to 25-250 ms, the worst
possible answer to a 429 of minutes (`resilience.md` 3.3).

Refusals that arrive *while* the target cools down belong to the episode that began it: fifty calls in flight that all
come back with 429 are one piece of news, not fifty doublings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CAP_S: Final = 300.0
OUT_S: Final = 300.0
"""How long a refused credential, a missing right or an unknown model stays out when no time was told (chosen)."""
_FIRST_S: Final = 1.0
_GUESS_MAX_S: Final = 30.0
_DOUBLINGS_MAX: Final = 5
"""1 s * 2^5 = 32 s is already above the 30 s limit."""


class Cooldown:
    """When one target (or credential) may be asked again. Both times only ever move later (R5)."""

    __slots__ = ("_streak", "reason", "told_until_s", "until_s")

    def __init__(self) -> None:
        self.until_s = float("-inf")
        """Monotonic time before which nothing is sent; in the past when not cooling down."""
        self.told_until_s = float("-inf")
        """The same without the cap of 300 s."""
        self.reason = ""
        """Class name of the outcome that set `until_s`; empty when there never was one."""
        self._streak = 0

    def extend(self, now: float, told_s: float | None, rng: Callable[[], float], reason: str) -> float:
        """Take a refusal at `now`; return the monotonic time at which the cool-down ends.

        `told_s`: the wait the target told, >= 0; None (also negative or no number): own guess of 1 s * 2^k with equal
        jitter, at most 30 s, k = consecutive refusals before this one.
        """
        streak = self._streak
        if not now < self.until_s:
            self._streak = streak + 1
        elif streak:
            streak -= 1  # still the episode that began the running cool-down
        if told_s is None or not told_s >= 0.0:
            value = min(_GUESS_MAX_S, _FIRST_S * 2.0 ** min(streak, _DOUBLINGS_MAX))
            told_s = value / 2 + value / 2 * rng()
        return self._later(now, told_s, reason)

    def out(self, now: float, seconds: float = OUT_S, reason: str = "") -> float:
        """Leave the scope alone for `seconds` (told, or 5 min); return the monotonic time at which that ends.

        For `auth`, `permission`, `model_not_found` and `quota_exceeded`. Alert once: when `remaining_s` was 0 before.
        """
        return self._later(now, seconds if seconds >= 0.0 else OUT_S, reason)

    def _later(self, now: float, wait_s: float, reason: str) -> float:
        self.told_until_s = max(self.told_until_s, now + wait_s)
        until = now + min(wait_s, CAP_S)
        if until > self.until_s:
            self.until_s = until
            self.reason = reason
        return self.until_s

    def reset_streak(self) -> None:
        """An attempt ended `ok`: the next guess starts at 1 s again. A running cool-down stays."""
        self._streak = 0

    def remaining_s(self, now: float) -> float:
        """Seconds until the target may be asked again; 0 when it may be now."""
        return max(0.0, self.until_s - now)

    def told_remaining_s(self, now: float) -> float:
        """As `remaining_s`, without the cap."""
        return max(0.0, self.told_until_s - now)

    def clear(self) -> None:
        """Forget everything. Only for an operator's word or a new credential, never for an outcome."""
        self.until_s = self.told_until_s = float("-inf")
        self.reason = ""
        self._streak = 0
