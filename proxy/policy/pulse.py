"""What has been seen of one target in the last five minutes, for those who ask how it is. No breaker reads it.

Three things are kept, all fed at the moment of the event and not when the request is over, which may be minutes later:

* **Counts** of outcomes by name and the first-content times of answers, in slots of five seconds and in a short ring.
* **A row** of bad outcomes since the last content: how long, since when. A provider that answers nothing has a row
  that grows; one that fails now and then has none.
* **Two running sums**, sequential tests in the manner of the breaker's (Page 1954, `window.py`), with a far higher bar,
  because what they lead to wakes people. Over errors: 2 % of a target that is well against 15 % of one that is ill.
  Over first-content times: whether they have become three times longer. A line through one quantile, which the breaker
  uses to prefer other targets, is right to be nervous: it costs nothing to be wrong. Here the whole distribution is
  weighed. With m the mean and s the spread of ln(time) as learned (s from median and p95), an answer that takes x adds
  d*z - d*d/2, where z = (ln x - m) / s and d = ln 3 / s: the log likelihood ratio of two normal distributions a factor
  of 3 apart. What one answer can add is bounded, since real tails are fatter than normal ones: by what an ordinary
  answer of the ill target adds, and by 3, as if one answer in twenty were slow for no reason at all. Four answers are
  the least that reach the bar of 10. A healthy target needs e^10 (22,000) answers to get there by chance, and fewer
  than one in 300,000 does where the breaker's mark is asked for as well; a tripled one, at a p95 of up to 2.3 medians
  (s = 0.5), gets there within 15.

The learned median and p95 are held while the sum stands at half its bar or above (for 15 minutes at most), or the slow
answers would become what is usual.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from math import exp, log
from typing import Final

from proxy.base.outcome import Class, Group, Outcome
from proxy.policy.latency import Latency, LatencyKey

WINDOW_S: Final = 300.0
"""What is told is about so long (`api.md`)."""
SLOT_S: Final = 5.0
SAMPLES: Final = 256
"""First-content times kept for percentiles; with more than that in five minutes they are about the last ones."""
BAR: Final = 10.0
"""Where a sum says "ill"."""
SLOWER: Final = 3.0
"""The factor that is looked for (F11)."""
QUICK_S: Final = 0.05
"""No answer is slow before this, as for the breaker (`engine.cluster.SLOW_LINE_MIN_S`)."""
HANG: Final = 2.0
"""An attempt in flight hangs when it is older than so many times its own p95."""
TAIL: Final = 1.5
"""Exponent of the tail that a healthy target is thought to have beyond its p95: a share of 0.05 * k^-1.5 takes longer
than k times the p95."""

_SLOTS: Final = int(WINDOW_S / SLOT_S)
_ILL, _WELL = 0.15, 0.02
_BAD_ADDS: Final = log(_ILL / _WELL)
_GOOD_TAKES: Final = log((1 - _WELL) / (1 - _ILL))
_SPREAD_MIN: Final = 0.2
_P95_Z: Final = 1.645
_SINGLE_MAX: Final = log(20.0)
_RELEARN_S: Final = 10.0
_FROZEN_S: Final = 900.0
_BASES_MAX: Final = 16
_BAD: Final = frozenset({Group.BAD, Group.LIMITED})
_CENSORED: Final = frozenset({"superseded", "deadline"})
"""Ends without content that say how slow a target is at least; a caller that leaves says nothing (S30)."""


def hung(ratios: Iterable[float]) -> float:
    """What attempts without content add, each told by its age as a multiple of its p95: nothing below `HANG`."""
    return sum(log(20.0) + TAIL * log(ratio) for ratio in ratios if ratio >= HANG)


class Base:
    """What is usual for one kind of request, as far as an answer's time is weighed against it."""

    __slots__ = ("_factor", "_mean", "half", "learned_at", "middle_s", "p95_s")

    def __init__(self, median_s: float, p95_s: float, now: float) -> None:
        spread = max(_SPREAD_MIN, log(p95_s / median_s) / _P95_Z)
        shift = log(SLOWER) / spread
        self._mean = log(median_s)
        self._factor = shift / spread
        self.half = shift * shift / 2
        self.middle_s = median_s * SLOWER**0.5
        """Time that speaks for neither: quicker ones take away, slower ones add."""
        self.p95_s = median_s * exp(_P95_Z * spread)
        self.learned_at = now

    def adds(self, elapsed_s: float) -> float:
        """The log likelihood ratio of one time, with its bounds."""
        ratio = self._factor * (log(elapsed_s) - self._mean) - self.half
        return max(-self.half, min(self.half, _SINGLE_MAX, ratio))


class Pulse:
    """One target. Times are monotonic seconds and never fall."""

    __slots__ = (
        "_bases",
        "_ms",
        "_next",
        "_slots",
        "_times",
        "errors",
        "good_at",
        "good_began",
        "last",
        "row",
        "row_since",
        "seen_at",
        "slowness",
    )

    def __init__(self) -> None:
        self._slots: list[tuple[int, dict[str, int]]] = []
        self._times = array("d")
        self._ms = array("f")
        self._next = 0
        self._bases: dict[LatencyKey, Base] = {}
        self.errors = 0.0
        """Sum over errors, 0 to `BAR`."""
        self.slowness = 0.0
        """Sum over first-content times, 0 to `BAR`."""
        self.row = 0
        """Bad outcomes since the last content."""
        self.row_since = 0.0
        self.last = ""
        """Class of the latest bad outcome; empty: there was none."""
        self.good_at = -1e9
        """Latest content."""
        self.good_began = -1e9
        """Latest beginning of an attempt that has shown content: what began before it and waits is an exception."""
        self.seen_at = -1e9
        """Latest content or end."""

    # Feeding ----------------------------------------------------------------------------------------------------------

    def content(self, key: LatencyKey, elapsed_s: float, latency: Latency, now: float) -> None:
        """The first content of an attempt came after `elapsed_s`. `latency` is what was learned before it."""
        self.seen_at = self.good_at = now
        self.good_began = max(self.good_began, now - elapsed_s)
        self.row = 0
        if len(self._times) < SAMPLES:
            self._times.append(now)
            self._ms.append(elapsed_s * 1000)
        else:
            place = self._next
            self._times[place], self._ms[place] = now, elapsed_s * 1000
            self._next = (place + 1) % SAMPLES
        base = self._base(key, latency, now)
        if base is not None:
            self._weigh(elapsed_s, base)

    def ended(self, key: LatencyKey, outcome: Outcome, elapsed_s: float, had_content: bool, now: float) -> None:
        """The one outcome of an attempt; `elapsed_s` since it began."""
        group = outcome.group
        if group is Group.LOCAL:
            return
        self.seen_at = now
        self._count(outcome.name, now)
        if not had_content and (outcome.cls is Class.TIMEOUT or outcome.sub in _CENSORED):
            base = self._bases.get(key)
            if base is not None:
                self.slowness = min(BAR, self.slowness + hung((elapsed_s / base.p95_s,)))
        if group is Group.GOOD:
            self.errors = max(0.0, self.errors - _GOOD_TAKES)
        elif group in _BAD:
            self.errors = min(BAR, self.errors + _BAD_ADDS)
            self.last = str(outcome.cls)
            if group is Group.BAD:
                if not self.row:
                    self.row_since = now
                self.row += 1

    def settled(self) -> None:
        """The target has recovered from an outage: what it did in it says no more."""
        self.errors = self.slowness = 0.0
        self.row = 0

    def _count(self, name: str, now: float) -> None:
        slots, slot = self._slots, int(now / SLOT_S)
        if not slots or slots[-1][0] != slot:
            slots.append((slot, {}))
            while slots[0][0] <= slot - _SLOTS:
                slots.pop(0)
        counts = slots[-1][1]
        counts[name] = counts.get(name, 0) + 1

    # Slowness ---------------------------------------------------------------------------------------------------------

    def _base(self, key: LatencyKey, latency: Latency, now: float) -> Base | None:
        """What is usual for a kind of request; None: too little is known of it."""
        base = self._bases.get(key)
        keeps_s = _RELEARN_S if self.slowness < BAR / 2 else _FROZEN_S
        if base is not None and now - base.learned_at < keeps_s:
            return base
        median, p95 = latency.p(0.5, key, now), latency.p(0.95, key, now)
        if median is None or p95 is None or median <= 0.0:
            return base
        if base is None and len(self._bases) >= _BASES_MAX:
            return None
        base = self._bases[key] = Base(median, p95, now)
        return base

    def _weigh(self, elapsed_s: float, base: Base) -> None:
        if self.slowness == 0.0 and elapsed_s <= base.middle_s:
            return  # it would take something away, and there is nothing
        adds = base.adds(elapsed_s) if elapsed_s > QUICK_S else -base.half
        self.slowness = min(BAR, max(0.0, self.slowness + adds))

    # Asking -----------------------------------------------------------------------------------------------------------

    def counts(self, now: float) -> Counter[str]:
        """Outcomes of the last five minutes by name (``timeout.first_byte``)."""
        oldest = int(now / SLOT_S) - _SLOTS
        total: Counter[str] = Counter()
        for slot, counts in self._slots:
            if slot > oldest:
                total.update(counts)
        return total

    def latencies_ms(self, now: float) -> list[float]:
        """First-content times of the last five minutes, in no order."""
        return [ms for at, ms in zip(self._times, self._ms, strict=True) if now - at < WINDOW_S]
