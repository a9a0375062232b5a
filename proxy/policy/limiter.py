"""How many attempts may run on one target at once: a bound, and below it a limit that yields to loss.

Loss and not delay moves the limit: the latency of a language model depends on how many tokens it writes, so a gradient
of delay would mistake long answers for congestion (`resilience.md` 3.12). On loss the limit falls by a fifth, at most
once per first-content time, because the losses of one round trip are one piece of news. It rises by 1/limit per good
attempt while it is at least half used, and by 1 for each whole second without a loss, so that a target from which
nothing comes back at all is not held at 1 for ever.
"""

from __future__ import annotations

import math
from typing import Final

_CUT: Final = 0.8
_GAP_UNKNOWN_S: Final = 1.0
"""Least time between cuts while the p50 is unknown (chosen). Without it one burst of 20 refusals would cut to 1."""
_REGAIN_S: Final = 1.0


class Limiter:
    """Permits of one target. `inflight` counts from the permit to the end of the stream."""

    __slots__ = ("_bound", "_cut_at", "_regain_from", "inflight", "limit", "refused")

    def __init__(self, bound: float) -> None:
        """`bound`: greatest number at once, >= 1; `math.inf`: no bound, and then loss does not limit either.

        Raises ValueError for a bound below 1.
        """
        if not bound >= 1:
            raise ValueError(f"bound must be at least 1, got {bound}")
        self._bound = float(bound)
        self.limit = float(bound)
        """Current limit, 1 to bound; attempts are admitted up to its whole part."""
        self.inflight = 0
        self.refused = 0
        self._cut_at = -math.inf
        self._regain_from: float | None = None

    @property
    def bound(self) -> float:
        """Greatest number at once."""
        return self._bound

    def rebind(self, bound: float) -> None:
        """Another bound, >= 1, from now on; a limit that had yielded to loss rises to it as it would have before."""
        free = self.limit >= self._bound
        self._bound = float(bound)
        self.limit = self._bound if free else min(self.limit, self._bound)
        if self.limit >= self._bound:
            self._regain_from = None

    def try_acquire(self, now: float | None = None) -> bool:
        """Take one permit if there is room. With `now`, seconds without loss are credited first.

        After a cut more attempts may be running than the limit allows; nothing is admitted until they have ended.
        """
        if now is not None and self._regain_from is not None:
            self._regain(now)
        if self.inflight + 1 > self.limit:
            self.refused += 1
            return False
        self.inflight += 1
        return True

    def release(self) -> None:
        """Give back one permit. Raises RuntimeError when none is out: a permit was released twice."""
        if self.inflight <= 0:
            raise RuntimeError("a permit was released that nobody holds")
        self.inflight -= 1

    def on_ok(self, now: float, p50_s: float) -> None:
        """An attempt ended well and its permit was released; it is counted back in here.

        `p50_s` is not used, it keeps the two calls alike.
        """
        if self._regain_from is None:
            return  # the limit is at its bound
        self._regain(now)
        if 2 * (self.inflight + 1) >= self.limit:
            self._raise_to(self.limit + 1.0 / self.limit)

    def on_loss(self, now: float, p50_s: float) -> None:
        """An attempt ended in rate limit, overload or timeout. `p50_s`: median first-content time, 0 while unknown."""
        if self._bound == math.inf:
            return
        if self._regain_from is not None:
            self._regain(now)
        gap = p50_s if p50_s > 0.0 else _GAP_UNKNOWN_S
        if now - self._cut_at >= gap:
            self.limit = max(1.0, _CUT * self.limit)
            self._cut_at = now
        if self.limit < self._bound:
            self._regain_from = now

    def _regain(self, now: float) -> None:
        """+ 1 for each whole second since the last loss."""
        start = self._regain_from
        if start is None or not now - start >= _REGAIN_S:
            return
        steps = min((now - start) // _REGAIN_S, self._bound)
        self._regain_from = start + steps * _REGAIN_S
        self._raise_to(self.limit + steps)

    def _raise_to(self, limit: float) -> None:
        self.limit = min(self._bound, limit)
        if self.limit >= self._bound:
            self._regain_from = None
