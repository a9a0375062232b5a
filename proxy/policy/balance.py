"""Order among targets of the same tier: `priority`, `weighted`, `adaptive`, `cheapest` (`resilience.md` 3.11).

Health comes first (the engine leaves refused and slow targets out), load second. `adaptive` is two random choices by
Peak-EWMA: a peak is taken at once, it decays with a time constant of 10 s, and a failure counts as at least 5 s, so
that a target that fails fast attracts no traffic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

TAU_S = 10.0
UNKNOWN_S = 1.0
PENALTY_S = 5.0
PENALTY_MAX_S = 300.0


class Load:
    """Peak-EWMA of the first-content time of one target, in seconds."""

    __slots__ = ("_at", "_cost")

    def __init__(self) -> None:
        self._cost = UNKNOWN_S
        self._at: float | None = None

    def cost_s(self, now: float) -> float:
        """The decayed cost; an unknown target costs 1 s."""
        if self._at is None:
            return UNKNOWN_S
        return self._cost * math.exp(-max(0.0, now - self._at) / TAU_S)

    def observe(self, seconds: float, now: float) -> None:
        """Take a first-content time: at once when it is a peak, else weighted by the age of the last one."""
        if self._at is None or seconds > self.cost_s(now):
            self._cost = seconds
        else:
            weight = math.exp(-max(0.0, now - self._at) / TAU_S)
            self._cost = self._cost * weight + seconds * (1.0 - weight)
        self._at = now

    def penalise(self, told_s: float | None, now: float) -> None:
        """A failure, transport errors included: max(5 s, min(told wait, 300 s), present cost)."""
        told = min(told_s, PENALTY_MAX_S) if told_s is not None else 0.0
        self._cost = max(PENALTY_S, told, self.cost_s(now))
        self._at = now


@dataclass(frozen=True, slots=True)
class Entry:
    """One target as the balancer sees it."""

    index: int
    tier: int
    weight: float
    """Halved while the target is suspected of being slow (`resilience.md` 3.6)."""
    price: float | None
    """USD per million tokens, input plus output; None: unknown, sorted last by `cheapest`."""
    load: Load
    pending: int


def arrange(
    how: Literal["priority", "weighted", "adaptive", "cheapest"],
    entries: Sequence[Entry],
    rng: Callable[[], float],
    now: float,
) -> list[int]:
    """Indexes in the order in which they are tried; only targets of the same tier change places."""
    if how == "cheapest":
        ordered = sorted(entries, key=lambda e: (e.tier, e.price is None, e.price or 0.0))
        return [e.index for e in ordered]
    out: list[int] = []
    for tier in sorted({e.tier for e in entries}):
        group = [e for e in entries if e.tier == tier]
        if how == "weighted":
            out += _weighted(group, rng)
        elif how == "adaptive":
            out += _adaptive(group, rng, now)
        else:
            out += [e.index for e in group]
    return out


def _weighted(group: list[Entry], rng: Callable[[], float]) -> list[int]:
    """Draw without replacement, each with the probability of its weight; weight 0 is a pure fallback."""
    left, out = list(group), []
    while left:
        total = sum(e.weight for e in left)
        at, chosen = rng() * total, left[0]
        for entry in left:
            if at < entry.weight:
                chosen = entry
                break
            at -= entry.weight
        left.remove(chosen)
        out.append(chosen.index)
    return out


def _adaptive(group: list[Entry], rng: Callable[[], float], now: float) -> list[int]:
    """The better of two distinct random choices leads; the others follow by load."""

    def load(entry: Entry) -> float:
        return entry.load.cost_s(now) * (entry.pending + 1) / (entry.weight or 1.0)

    if len(group) > 1:
        a = min(int(rng() * len(group)), len(group) - 1)
        b = min(int(rng() * (len(group) - 1)), len(group) - 2)
        b += b >= a
        lead = min(group[a], group[b], key=load)
        rest = sorted((e for e in group if e is not lead), key=load)
        return [lead.index, *(e.index for e in rest)]
    return [e.index for e in group]
