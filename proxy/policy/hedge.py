"""When a second attempt is started beside the first, and how many such attempts the process may afford.

The delay is the learned p95 of the first-content time, which costs about 5 % more calls (Dean and Barroso, The Tail at
Scale). It has a floor but no ceiling: Finagle caps its quantile at 2 s and switches hedging off there, which would be
always for a language model. A *rescue* is the same second attempt where nobody asked for hedging; it comes late
(10 s or p99) because it is unasked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FLOOR_S: Final = 0.05
"""No learned delay is shorter than this (`resilience.md` 3.8)."""
UNKNOWN_S: Final = 1.0
"""The delay while fewer than 50 samples are known."""
BURST: Final = 5.0
"""Hedges that may be sent at once from rest, whatever the percentage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hedging of one request."""

    enabled: bool = False
    strategy: Literal["latency", "first-success"] = "latency"
    delay_s: float | None = None
    """Fixed delay, >= 0; None: learned."""
    cancel_slower: bool = True
    """False: losers run to their end, so that the time saved is measured."""
    max_additional_cost: float | None = None
    """USD for the extra attempts of one request; None: no limit."""
    budget_percent: float = 5.0
    """Hedges per hundred requests of the process; 0: only the burst."""
    max_hedges: int = 1
    rescue_after_s: float = 10.0
    """0: never rescue."""
    rescue: bool = True
    """False: the caller switched hedging off, rescue included."""


def delay_s(settings: Settings, p50: float | None, p95: float | None, watched: bool) -> float:
    """Seconds from the start of the first attempt to the hedge.

    `p50` and `p95` are those of the first target's bucket, None while unknown. A `watched` target (its slow detector is
    half way up) is hedged earlier, at p50 + (p95 - p50)/2 (`resilience.md` 3.6). A stated delay is kept as it is.
    """
    if settings.delay_s is not None:
        return settings.delay_s
    if p95 is None:
        return UNKNOWN_S
    if watched and p50 is not None:
        return max(FLOOR_S, p50 + (p95 - p50) / 2)
    return max(FLOOR_S, p95)


def rescue_s(settings: Settings, p99: float | None) -> float | None:
    """Seconds without content after which an unasked second attempt is sent; None: never."""
    if not settings.rescue or settings.rescue_after_s <= 0.0:
        return None
    return settings.rescue_after_s if p99 is None else max(settings.rescue_after_s, p99)


class HedgeBudget:
    """The process-wide guard: hedges <= percent of requests + 5 over any window (H1).

    A token bucket says exactly that: it starts with the burst, holds no more than the burst, earns a share of a token
    per request. It counts in hundredths, so that twenty requests at 5 % are exactly one hedge.
    """

    __slots__ = ("_hundredths", "refused", "sent")

    def __init__(self) -> None:
        self._hundredths = BURST * 100.0
        self.sent = 0
        self.refused = 0

    def on_request(self, percent: float) -> None:
        """A request began whose policy allows `percent` (0 to 100) hedges per hundred requests."""
        have = self._hundredths
        if have < 500.0 and percent > 0.0:
            self._hundredths = min(500.0, have + percent)

    def try_spend(self) -> bool:
        """Take the right to one hedge; False: the budget is spent."""
        if self._hundredths < 100.0:
            self.refused += 1
            return False
        self._hundredths -= 100.0
        self.sent += 1
        return True

    def refund(self) -> None:
        """Give back a right whose hedge was never dialled. Exactly once per `try_spend`."""
        self._hundredths = min(500.0, self._hundredths + 100.0)
        self.sent -= 1
