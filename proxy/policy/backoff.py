"""How long to wait before the same target is tried again.

The default is full jitter, `U(0, min(cap, base * multiplier^n))`: of AWS's five published shapes it needs the fewest
calls (`resilience.md` 3.2). A draw near 0 is accepted; it is the average that spreads load. Jitter that only adds to a
floor keeps the retries of many callers together at the low edge, which is why none is offered here. Before *another*
target there is no wait at all; that is the engine's law, not this module's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal

Strategy = Literal["exponential", "linear", "constant", "immediate", "decorrelated"]
Jitter = Literal["full", "equal", "decorrelated", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Shape, spread and bounds of the waits of one request."""

    strategy: Strategy = "exponential"
    initial_s: float = 0.25
    """First wait before jitter, >= 0; for `decorrelated` the lower bound of every wait."""
    max_s: float = 8.0
    """No wait is longer than this, but for an entry of `delays_s`."""
    multiplier: float = 2.0
    """Growth per retry, >= 1; `exponential` only."""
    jitter: Jitter = "full"
    delays_s: tuple[float, ...] = ()
    """The schedule outright, exact and uncapped; past its end the last entry repeats. Empty: not used."""


def delay_s(settings: Settings, n: int, previous_s: float | None, rng: Callable[[], float]) -> float:
    """Seconds to wait before retry `n` (0 = the first) on the same target.

    `previous_s` is the wait before the last retry and matters to `decorrelated` only; None: there was none.
    `rng` is drawn at most once, and not at all where the wait is exact.
    """
    n = max(n, 0)
    if settings.delays_s:
        return settings.delays_s[min(n, len(settings.delays_s) - 1)]
    if settings.strategy == "immediate":
        return 0.0
    if "decorrelated" in (settings.strategy, settings.jitter):
        return _decorrelated_s(settings, previous_s, rng)
    value = _capped_s(settings, n)
    if settings.jitter == "full":
        return value * rng()
    if settings.jitter == "equal":
        return value / 2 + value / 2 * rng()
    return value


def _decorrelated_s(settings: Settings, previous_s: float | None, rng: Callable[[], float]) -> float:
    """`min(cap, U(base, 3 * previous))`, previous = base at first (AWS, "decorrelated jitter")."""
    base = settings.initial_s
    # A previous wait below the base (a told wait of 0, say) counts as the base, as does one that is no number.
    previous = previous_s if previous_s is not None and previous_s > base else base
    return min(settings.max_s, base + (3 * previous - base) * rng())


def _capped_s(settings: Settings, n: int) -> float:
    """The wait before jitter."""
    base, cap = settings.initial_s, settings.max_s
    if base >= cap or base <= 0.0:
        return max(0.0, min(base, cap))
    if settings.strategy == "constant":
        return base
    if settings.strategy == "linear":
        return cap if n >= cap / base else base * (n + 1)
    if settings.multiplier <= 1.0:
        return base
    # The exponent is compared with the cap before the power is taken: 2.0 ** 1024 would raise OverflowError. The power
    # itself stays below e^700 even where the base is as good as nothing.
    if n >= min(log(cap / base), 700.0) / log(settings.multiplier):
        return cap
    return float(min(cap, base * settings.multiplier**n))
