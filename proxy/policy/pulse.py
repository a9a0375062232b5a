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
  the least that reach the bar of 10. A *keener* sum may take half as much again from one answer; it is for those who
  look (`suspicion`), and wakes nobody.

Measured (1,000 seeds each, one call a second): of targets that become three times slower 997 are noticed within 15
requests at a p95 of 2.3 medians (s = 0.5), 861 at 3.2 (s = 0.7) and 697 at 3.7 (s = 0.8); the whole table, with what
healthy ones raise, is in `docs/decisions/0018-health-is-told-by-likelihood.md`.

The learned median and p95 are held while the sum stands at half its bar or above (for 15 minutes at most), or the slow
answers would become what is usual.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, inf, log
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
"""Exponent of the tail that a healthy target is thought to have beyond its p95 at least: a share of 0.05 * k^-1.5
takes longer than k times the p95."""

_SLOTS: Final = int(WINDOW_S / SLOT_S)
_ILL, _WELL = 0.15, 0.02
_BAD_ADDS: Final = log(_ILL / _WELL)
_GOOD_TAKES: Final = log((1 - _WELL) / (1 - _ILL))
_SPREAD_MIN: Final = 0.2
_P95_Z: Final = 1.645
_SINGLE_MAX: Final = log(20.0)
_KEENER: Final = 1.5
_RELEARN_S: Final = 10.0
_FROZEN_S: Final = 900.0
_BASES_MAX: Final = 16
_BAD: Final = frozenset({Group.BAD, Group.LIMITED})
_CENSORED: Final = frozenset({"superseded", "deadline"})
"""Ends without content that say how slow a target is at least; a caller that leaves says nothing (S30)."""


class Base:
    """What is usual for one kind of request, as far as an answer's time is weighed against it."""

    __slots__ = ("_count", "_factor", "_mean", "_slowest", "half", "keener", "learned_at", "middle_s", "most", "p95_s")

    def __init__(self, median_s: float, p95_s: float, slowest: Sequence[float], count: int, now: float) -> None:
        """`slowest`: those of the `count` times learned that are above the p95, ascending."""
        spread = max(_SPREAD_MIN, log(p95_s / median_s) / _P95_Z)
        shift = log(SLOWER) / spread
        self._mean = log(median_s)
        self._factor = shift / spread
        self._slowest = slowest
        self._count = count
        self.half = shift * shift / 2
        self.most = min(self.half, _SINGLE_MAX)
        """What one answer adds to the sum at most."""
        self.keener = min(_KEENER * self.half, _SINGLE_MAX)
        """What it adds to the keener sum at most."""
        self.middle_s = median_s * SLOWER**0.5
        """Time that speaks for neither: quicker ones take away, slower ones add."""
        self.p95_s = median_s * exp(_P95_Z * spread)
        self.learned_at = now

    def ratio(self, elapsed_s: float) -> float:
        """The log likelihood ratio of one time. Bounded below, since one quick answer must not hide several slow ones,
        and above by what is known of times so long."""
        if elapsed_s <= QUICK_S:
            return -self.half
        ratio = self._factor * (log(elapsed_s) - self._mean) - self.half
        if ratio > 0.0:
            slowest = self._slowest
            if slowest and elapsed_s >= SLOWER * slowest[0]:
                return min(ratio, self._known(elapsed_s))
            return ratio
        return ratio if ratio > -self.half else -self.half

    def _known(self, elapsed_s: float) -> float:
        """What a time far beyond the p95 adds at most: the share that takes longer than it, against the share that
        takes longer than a third of it. One answer in thirty that takes ten seconds is usual for whom it is. Infinite
        for a time longer than any that is known."""
        slowest = self._slowest
        longer = len(slowest) - bisect_right(slowest, elapsed_s)
        if not longer:
            return inf
        return log((len(slowest) - bisect_right(slowest, elapsed_s / SLOWER) + 1) / (longer + 1))

    def share_beyond(self, ratio: float) -> float:
        """Share of a healthy target's answers that take longer than `ratio` times its p95: as learned, and never less
        than a heavy tail would have."""
        longer = len(self._slowest) - bisect_right(self._slowest, ratio * self.p95_s)
        return max((longer + 1) / (self._count + 1), 0.05 * exp(-TAIL * log(ratio)))


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
        "suspicion",
        "trial",
        "trial_since",
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
        self.suspicion = 0.0
        """The keener sum over them, never below `slowness`."""
        self.trial = 0.0
        """What the answers have added, and taken away, that began since `trial_since`."""
        self.trial_since = inf
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
            self._weigh(elapsed_s, base, now)

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
                ratio = elapsed_s / base.p95_s
                if ratio >= HANG:
                    adds = -log(base.share_beyond(ratio))
                    self._add(adds, adds, now - elapsed_s)
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
        self.errors = self.slowness = self.suspicion = 0.0
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
        base = self._bases[key] = Base(median, p95, *latency.above(p95, key), now)
        return base

    def _weigh(self, elapsed_s: float, base: Base, now: float) -> None:
        if self.suspicion == 0.0 and elapsed_s <= base.middle_s and self.trial_since == inf:
            return  # it would take something away, and there is nothing
        ratio = base.ratio(elapsed_s)
        self._add(
            ratio if ratio < base.most else base.most, ratio if ratio < base.keener else base.keener, now - elapsed_s
        )

    def _add(self, adds: float, keener: float, began: float) -> None:
        total = self.slowness + adds
        self.slowness = 0.0 if total < 0.0 else total if total < BAR else BAR
        total = self.suspicion + keener
        self.suspicion = 0.0 if total < 0.0 else total if total < BAR else BAR
        if began >= self.trial_since:
            self.trial += adds

    def try_since(self, at: float) -> None:
        """Begin a new `trial` (infinite: none)."""
        self.trial, self.trial_since = 0.0, at

    def hung(self, ratios: Iterable[float]) -> float:
        """What attempts without content add, each told by its age as a multiple of its p95: nothing below `HANG`."""
        bases = self._bases.values()
        return sum(
            -log(max((base.share_beyond(ratio) for base in bases), default=1.0)) for ratio in ratios if ratio >= HANG
        )

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
