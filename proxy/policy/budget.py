"""The retry budget: one token bucket per target, earned by success.

A budget limits how much a failing target is amplified by our own retries and hedges. It never touches failover: that
load goes to somebody else (`resilience.md` 3.4). Earning on *success* lets the load fall back to about 1.0 in a full
outage. The trickle lets a pod with one request in ten seconds retry at all, and bounds extra load by 0.1 attempts per
second whatever the rate.

The balance is kept in tenths of a token, so that ten successes of 0.1 are exactly one token; with plain 0.1 they would
be 0.9999999999999999, and the tenth success would not buy the retry it paid for.
"""

from __future__ import annotations

from typing import Final

RETRY_COST: Final = 1.0
RETRY_AFTER_TIMEOUT_COST: Final = 2.0
"""A retry after a timeout costs double: the first attempt may still be burning the target's capacity."""
HEDGE_COST: Final = 1.0
CAP: Final = 10.0

_TENTHS: Final = 10.0
_TRICKLE_S: Final = 10.0
_TRICKLE_BELOW: Final = 2.0 * _TENTHS


class Budget:
    """Tokens of one target, always in [0, cap]. Settings do not change; a budget that is off has `cap=math.inf`."""

    __slots__ = ("_cap", "_low_since", "_tenths", "refused")

    def __init__(self, now: float, cap: float = CAP) -> None:
        """Start full. `cap` in tokens, >= 0."""
        self._cap = cap * _TENTHS
        self._tenths = self._cap
        self._low_since = now
        self.refused = 0
        """How often `withdraw` refused (metric `retry_overflow`)."""

    def earn(self, now: float) -> None:
        """An attempt on this target ended `ok`: + 0.1."""
        if self._tenths < _TRICKLE_BELOW:
            self._trickle(now)
        if self._tenths < self._cap:
            # Only a broken cap (0.05, say) could be overshot by a tenth.
            self._tenths = min(self._cap, self._tenths + 1.0)

    def withdraw(self, cost: float, now: float) -> bool:
        """Take `cost` tokens (> 0) if they are there. A refusal changes nothing but `refused`."""
        if self._tenths < _TRICKLE_BELOW:
            self._trickle(now)
        left = self._tenths - cost * _TENTHS
        if not left >= 0.0:
            self.refused += 1
            return False
        if left < _TRICKLE_BELOW <= self._tenths:
            self._low_since = now
        self._tenths = left
        return True

    def refund(self, cost: float, now: float) -> None:
        """Give back a withdrawal whose attempt was never dialled. Exactly once per withdrawal."""
        if self._tenths < _TRICKLE_BELOW:
            self._trickle(now)
        self._tenths = min(self._cap, self._tenths + cost * _TENTHS)

    def tokens(self, now: float) -> float:
        """The balance, 0 to cap."""
        if self._tenths < _TRICKLE_BELOW:
            self._trickle(now)
        return self._tenths / _TENTHS

    def _trickle(self, now: float) -> None:
        """+ 1 for every 10 s below 2 tokens, up to 2; from the clock on access, so that no timer is needed."""
        elapsed = now - self._low_since
        if not elapsed >= _TRICKLE_S:
            return  # also a clock that went backwards, or is no number
        ceiling = min(_TRICKLE_BELOW, self._cap)
        if elapsed >= 2 * _TRICKLE_S:
            # Two steps fill the gap from anywhere, so no count of steps is needed.
            self._tenths = ceiling
            self._low_since = now
            return
        self._tenths = min(ceiling, self._tenths + _TENTHS)
        self._low_since += _TRICKLE_S
