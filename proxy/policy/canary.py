"""The rollout of a new target to a share of a route's requests, and its withdrawal when it is worse.

Two arms: requests of the canary are begun at its targets, all others at what the route has besides. Each request gives
at most one observation per arm: whether its first call there was answered, and after how long the first content came.
A call that the target's breaker or cool-down refused is an error as well, or a target that is refused because it fails
would never be judged for it.

The verdict is about a *window*. Within it the arms are compared when the canary has had `min_requests`, twice as many,
four times as many and so on, and a last time when the window ends; then a new one begins with empty hands, so that what
was good last hour excuses nothing. Looking again and again would find a difference where there is none, so the error
probability 1 - `confidence` is spent: half of it on the first look, a quarter on the second and so on. The sum over all
looks of a window stays below it, whatever the looks have to do with each other (Bonferroni).

A look asks three questions and gives each a third of its share:

* **Errors**: is the lower bound of the canary's share of errors above the upper bound of the baseline's by more than
  `max_error_increase`? Both bounds are Clopper and Pearson's, half of the question's share for each.
* **Latency**, at the median and at the 90th percentile: the *line* is the upper bound of the baseline's quantile, times
  1 + `max_latency_increase`. Were the canary's quantile below it, requests above the line would be a binomial number
  with the known probability 1 - q; are there too many for that? It is a sign test, so no shape of the distribution is
  supposed.

A call that was given up without content (a time-out, a hedge that won, a caller who left) is known to have taken at
least so long: the canary's counts as slow if that is beyond the line and as quick if not, the baseline's as endless.
Both spare the canary. So do the bounds: at the very edge of what is allowed a canary is withdrawn in at most 1 -
`confidence` of the windows, and far less often when it is as good as the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from proxy.policy.binomial import at_least, quantile_at_most, share_at_least, share_at_most
from proxy.policy.hedge import FLOOR_S

QUANTILES: Final = (0.5, 0.9)
TIMES_MAX: Final = 2000
"""First-content times kept per arm, the latest: a look sorts them in half a millisecond."""
QUESTIONS: Final = 1 + len(QUANTILES)

Names = tuple[tuple[str, str], ...]
"""(provider, model); an empty model: as the provider's map has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One route's canary."""

    targets: Names
    """Tried in order before the route's own."""
    share: float
    """Of the route's requests, 0 to 1."""
    sticky: str = ""
    """What decides: empty, dice for every request; ``caller``, the caller's credential; else a lower-case header name.
    A request without it is left to the dice."""
    window_s: float = 300.0
    """A window with fewer than `min_requests` of the canary goes on until it has them."""
    min_requests: int = 20
    max_error_increase: float = 0.02
    """Of the share of errors, 0 to 1: 0.02 is two points more than the baseline's."""
    max_latency_increase: float = 0.5
    """Of the first-content time, as a share of the baseline's: 0.5 is half as long again."""
    confidence: float = 0.99
    compare_with: Names = ()
    """Baseline targets that are observed; empty: all."""


class State(StrEnum):
    """What becomes of the canary's share."""

    RUNNING = "running"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One look. Shares and seconds as observed; bounds as proven at this look's share of the error probability."""

    withdraw: bool
    reason: str
    """``errors``, ``latency``, ``operator``; empty: nothing is wrong."""
    why: str
    """The numbers in one sentence; empty: nothing is wrong."""
    canary_requests: int = 0
    canary_errors: int = 0
    baseline_requests: int = 0
    baseline_errors: int = 0


def bucket(key: str, route: str) -> float:
    """The place of `key` in [0, 1): the same in every process, and another one for every route.

    A canary takes those below its share, so a growing share keeps whom it had.
    """
    data = f"{route}\0{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest()) / 2**64


class Arm:
    """What was observed of one arm in the present window."""

    __slots__ = ("errors", "requests", "times")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.times: deque[float] = deque(maxlen=TIMES_MAX)

    def median_s(self) -> float | None:
        """The middle one of the known first-content times; None: there is none."""
        known = sorted(time for time in self.times if time < math.inf)
        return known[len(known) // 2] if known else None


class Canary:
    """The canary of one route. Times are monotonic seconds."""

    __slots__ = ("_began", "_looked", "_looks", "_next", "baseline", "canary", "route", "settings", "since", "verdict")

    def __init__(self, route: str, settings: Settings, now: float) -> None:
        self.route = route
        self.settings = settings
        self.since = now
        """When it began, was withdrawn or was resumed."""
        self.verdict: Verdict | None = None
        """Why it was withdrawn; None: it runs."""
        self._renew(now)

    def _renew(self, now: float) -> None:
        self.canary, self.baseline = Arm(), Arm()
        self._began = now
        self._looks = 0
        self._looked = 0
        self._next = self.settings.min_requests

    @property
    def state(self) -> State:
        return State.RUNNING if self.verdict is None else State.WITHDRAWN

    def takes(self, key: str | None, rng: Callable[[], float]) -> bool:
        """Whether a request goes to the canary. `key`: what it sticks by; None: the dice decide."""
        if self.verdict is not None:
            return False
        at = rng() if key is None else bucket(key, self.route)
        return at < self.settings.share

    def observe(self, of_canary: bool, failed: bool, seconds: float | None, known: bool, now: float) -> Verdict | None:
        """One observation of an arm; a verdict when it is the one by which the canary is withdrawn.

        `seconds`: until the first content; None: there is nothing to say (an error came). Not `known`: it took at least
        so long and was given up.
        """
        if self.verdict is not None:
            return None
        arm = self.canary if of_canary else self.baseline
        arm.requests += 1
        arm.errors += failed
        if seconds is not None:
            arm.times.append(seconds if known or of_canary else math.inf)
        ended = now - self._began >= self.settings.window_s and self.canary.requests >= self.settings.min_requests
        if not ended and self.canary.requests < self._next:
            return None
        found = self._look()
        if found.withdraw:
            self.verdict, self.since = found, now
            return found
        if ended:
            self._renew(now)
        return None

    def withdraw(self, why: str, now: float) -> Verdict:
        """An operator takes it out."""
        self.verdict = Verdict(withdraw=True, reason="operator", why=why)
        self.since = now
        return self.verdict

    def resume(self, now: float) -> None:
        """Give it its share back, with a new window."""
        self.verdict = None
        self.since = now
        self._renew(now)

    # The look ---------------------------------------------------------------------------------------------------------

    def _look(self) -> Verdict:
        """Compare the arms, and spend this look's part of the error probability."""
        self._looks += 1
        self._next = max(2 * self._next, self.canary.requests + 1)
        alpha = (1.0 - self.settings.confidence) / 2**self._looks / QUESTIONS
        why = self._errors(alpha)
        reason = "errors" if why else ""
        if not why:
            why = self._latency(alpha)
            reason = "latency" if why else ""
        return Verdict(
            withdraw=bool(why),
            reason=reason,
            why=why,
            canary_requests=self.canary.requests,
            canary_errors=self.canary.errors,
            baseline_requests=self.baseline.requests,
            baseline_errors=self.baseline.errors,
        )

    def _errors(self, alpha: float) -> str:
        ours, theirs, allowed = self.canary, self.baseline, self.settings.max_error_increase
        least = share_at_least(ours.errors, ours.requests, alpha / 2)
        most = share_at_most(theirs.errors, theirs.requests, alpha / 2)
        if least <= most + allowed:
            return ""
        return (
            f"{ours.errors} of {ours.requests} first calls failed, {theirs.errors} of {theirs.requests} at the"
            f" baseline: at least {least:.1%} against at most {most:.1%}, where {allowed:.1%} more are allowed"
        )

    def _latency(self, alpha: float) -> str:
        ours, theirs = self.canary.times, sorted(self.baseline.times)
        for q in QUANTILES:
            bound = quantile_at_most(theirs, q, alpha / 2)
            line = max(bound * (1.0 + self.settings.max_latency_increase), bound + FLOOR_S)
            beyond = sum(time > line for time in ours)
            if line < math.inf and beyond and at_least(beyond, len(ours), 1.0 - q) <= alpha / 2:
                return (
                    f"{beyond} of {len(ours)} first contents came later than {line * 1000:.0f} ms, where at most"
                    f" {1.0 - q:.0%} should: the baseline's p{q * 100:.0f} is at most {bound * 1000:.0f} ms, and"
                    f" {self.settings.max_latency_increase:.0%} more is allowed"
                )
        return ""
