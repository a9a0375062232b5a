"""When the same target is tried again: rules, schedules, told waits and cool-downs (`resilience.md` 3.2, 3.3).

Apart from the machine, because this is one idea with many cases: it answers "how long, if at all", and the machine asks
deadline, breaker and budget whether it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from proxy.base.outcome import Class, Group, Outcome
from proxy.engine.attempt import Attempt
from proxy.engine.plan import Retry, RetryRule
from proxy.policy import backoff, retry_after

COOLING: Final = (Class.RATE_LIMIT, Class.MODEL_OVERLOADED)
"""Failures that set the cool-down which their own retry then has to sit out."""
MARGIN_S: Final = 0.001
"""Sums of times differ in their last bit; a cool-down that ends at the timer's own instant is over."""


class Schedule:
    """The waits of one request."""

    __slots__ = ("_has_next", "_retry", "_rng", "_since_told")

    def __init__(self, retry: Retry, rng: Callable[[], float], has_next: Callable[[int, Class], bool]) -> None:
        """`has_next(index, cls)`: whether another target than candidate `index` is open to a failure of class `cls`."""
        self._retry = retry
        self._rng = rng
        self._has_next = has_next
        self._since_told: dict[int, int] = {}

    def wait_s(
        self, attempt: Attempt, attempts: Sequence[Attempt], failures: Sequence[Attempt], now: float
    ) -> float | None:
        """Seconds to wait before the failed `attempt`'s target is tried again, by rule or schedule; None: not again.

        `attempts` and `failures` are those of the request so far, `attempt` among them. Deadline, breaker and budget
        are asked by the machine afterwards. Call it once per failure: it counts.
        """
        outcome = attempt.outcome
        if outcome is None:
            return None
        retry = self._retry
        cls, name = outcome.cls, outcome.name
        rule = next((r for r in retry.rules if r.covers(cls, name)), None)
        limit: float | None = retry.max_told_wait_s
        if rule is not None:
            if rule.immediate_failover:
                return None
            if rule.attempts_s:
                listed = self._listed(rule, attempt, failures)
                if listed is None:
                    return None
                return self._past_cooling(attempt, listed, max(listed, retry.max_told_wait_s), now)
            limit = rule.max_wait_s
        elif outcome.should_retry is False or (
            not retry.covers(cls, name) and not (outcome.should_retry and outcome.group in (Group.BAD, Group.LIMITED))
        ):
            return None
        used = sum(1 for a in attempts if a.index == attempt.index and a.kind == "retry")
        if used >= attempt.candidate.retries:
            return None
        if rule is not None and rule.wait_s is not None:
            return self._past_cooling(attempt, rule.wait_s, limit, now)
        heed = rule is None or rule.told
        return self._told_or_backoff(attempt, attempts, outcome, limit, heed, now)

    def _told_or_backoff(
        self,
        attempt: Attempt,
        attempts: Sequence[Attempt],
        outcome: Outcome,
        limit: float | None,
        heed: bool,
        now: float,
    ) -> float | None:
        told = outcome.told_wait_s
        if told is not None and heed:
            if limit is not None and told > limit:
                return None
            self._since_told[attempt.index] = 0
            return retry_after.sleep_s(told, self._rng) if told > 0.0 else 0.0
        n = self._since_told.get(attempt.index, 0)
        self._since_told[attempt.index] = n + 1
        wait = backoff.delay_s(self._retry.backoff, n, _previous_wait_s(attempt, attempts), self._rng)
        if outcome.cls is Class.RATE_LIMIT:
            return self._past_cooling(attempt, wait, limit, now)
        return wait

    def _past_cooling(self, attempt: Attempt, wait: float, limit: float | None, now: float) -> float | None:
        """The later of `wait` and the cool-down, within which a limited target is not asked; None: too long."""
        cooling = attempt.state.cooling_s(now)
        if cooling > wait and attempt.outcome is not None and attempt.outcome.cls in COOLING:
            wait = cooling + MARGIN_S
        return None if limit is not None and wait > limit else wait

    def _listed(self, rule: RetryRule, attempt: Attempt, failures: Sequence[Attempt]) -> float | None:
        """`attempts` of a custom rule: one list of delays over all targets, `switch_after` of them on each."""
        hits = [a for a in failures if a.outcome is not None and rule.covers(a.outcome.cls, a.outcome.name)]
        cls = Class.TIMEOUT if attempt.outcome is None else attempt.outcome.cls
        if len(hits) > len(rule.attempts_s):
            return None
        here = sum(1 for a in hits if a.index == attempt.index)
        if rule.switch_after is not None and here >= rule.switch_after and self._has_next(attempt.index, cls):
            return None
        return rule.attempts_s[len(hits) - 1]


def _previous_wait_s(attempt: Attempt, attempts: Sequence[Attempt]) -> float | None:
    """Length of the wait before this attempt, for the decorrelated schedule; None before the first retry."""
    earlier = [a for a in attempts if a.index == attempt.index and a.n < attempt.n and a.ended_at is not None]
    return None if not earlier else attempt.started - (earlier[-1].ended_at or attempt.started)
