"""First-content times of a target: small histograms that forget, and that understand "at least so long".

**Censoring.** A superseded or timed-out attempt had no first content; all we know is that it would have taken longer
than its age. Recording winners only (as tower does) lowers the learned p95, which sends more hedges, which lowers it
again: 9.6 % hedges where 5 % were asked for (`resilience.md` C7). So such attempts are recorded as censored samples and
the quantile is that of Kaplan and Meier.

**Forgetting.** A ring of five sub-histograms; a new one begins after 200 samples, or after 60 s if the newest holds at
least 10. Without that minimum a quiet pod would never hold the 50 samples a quantile needs.

**Storage.** A sub-histogram holds about 200 samples, fewer than it has buckets (1.02 growth gives 700 for 0.1 ms to
100 s). So it is kept as the list of its bucket numbers, two bytes each, the lowest bit saying "censored": 2 KB for a
whole ring. Counting and sorting happen when a quantile is read, at most once a second.

**Unknown is not early.** When more than 1 - q of the mass is censored the quantile cannot be known. It then keeps the
value it had last, so that the disappearance of answers never makes a hedge come sooner.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from math import floor, log
from typing import Final

LatencyKey = tuple[bool, int]
"""(a stream was asked for, `size_bucket` of the request body)."""

SAMPLES_MIN: Final = 50
"""Fewer samples than this: quantiles are those of the whole target, or unknown."""
MEDIAN_SAMPLES_MIN: Final = 20
"""What `max_latency_increase` asks for (`headers.md`)."""

GROWTH: Final = 1.02
"""Ratio of a bucket's edges, hence the relative error of a quantile (H7)."""

_PER_LN: Final = 1.0 / log(GROWTH)
_LEAST_S: Final = 1e-4
_SHIFT: Final = -floor(log(_LEAST_S) * _PER_LN)
"""What makes the number of the least bucket 0."""
_MOST_S: Final = 1e6
_SUBS: Final = 5
_ROTATE_SAMPLES: Final = 200
_ROTATE_S: Final = 60.0
_ROTATE_SAMPLES_MIN: Final = 10
_CACHE_S: Final = 1.0
_EPSILON: Final = 1e-12
"""Rounding allowance: 95 of 100 samples are p95, although 1 - 0.95 is 0.05000000000000004."""


def size_bucket(body_bytes: int) -> int:
    """Class of a request's size, because prompt length moves first-content time.

    0: below 8 KiB (about 2,000 tokens), 1: below 64 KiB, 2: below 512 KiB, 3: more. Chosen: four classes keep a target
    at 18 KB at most.
    """
    return min(3, max(0, (body_bytes.bit_length() - 11) // 3))


def _code(x_s: float) -> int:
    """Twice the number of the bucket of `x_s`, counted from 0; -1 for what is no duration (NaN, negative, 11 days)."""
    if not 0.0 <= x_s < _MOST_S:
        return -1
    # Shifted before it is cut, the number is never negative, so that cutting is rounding down.
    return 2 * int(log(x_s) * _PER_LN + _SHIFT) if x_s > _LEAST_S else 0


def _upper_s(code: int) -> float:
    """Upper edge of a code's bucket."""
    return float(GROWTH ** ((code >> 1) - _SHIFT + 1))


class Histogram:
    """Durations of one kind, the last 800 to 1,000 of them, as buckets with 2 % wide edges."""

    __slots__ = ("_cache", "_last", "_newest", "_older", "_ring", "_since")

    def __init__(self) -> None:
        self._newest = array("h")
        self._ring = [self._newest]
        self._since = 0.0
        self._cache: dict[float, tuple[float, float | None]] = {}
        self._last: dict[float, float] = {}
        self._older = 0
        """Samples in the ring but for its newest part."""

    @property
    def count(self) -> int:
        """Samples held, censored ones included."""
        return self._older + len(self._newest)

    def observe(self, x_s: float, now: float) -> None:
        """An attempt had its first content after `x_s` seconds. What is no duration is ignored."""
        code = _code(x_s)
        if code >= 0:
            self._add(code, now)

    def censor(self, x_s: float, now: float) -> None:
        """An attempt was given up after `x_s` seconds without content."""
        code = _code(x_s)
        if code >= 0:
            self._add(code + 1, now)

    def _add(self, code: int, now: float) -> None:
        newest = self._newest
        held = len(newest)
        if held >= _ROTATE_SAMPLES_MIN and (held >= _ROTATE_SAMPLES or now - self._since >= _ROTATE_S):
            newest = self._rotate(now)
        elif not held:
            self._since = now
        newest.append(code)

    def _rotate(self, now: float) -> array[int]:
        ring = self._ring
        self._older += len(self._newest)
        if len(ring) >= _SUBS:
            self._older -= len(ring.pop(0))
        self._newest = array("h")
        ring.append(self._newest)
        self._since = now
        return self._newest

    def quantile(self, q: float, now: float) -> float | None:
        """Upper edge of the bucket that holds the `q` quantile (0 < q < 1), in seconds; at most 1 s old.

        None: nothing recorded, or too much of it censored.
        """
        cached = self._cache.get(q)
        if cached is not None and 0.0 <= now - cached[0] < _CACHE_S:
            return cached[1]
        self._cache[q] = (now, None)
        # All that are ever asked for, because counting is what costs and the next question comes at the same moment.
        for each, value in self._quantiles(sorted(self._cache)):
            self._cache[each] = (now, value)
            if value is not None:
                self._last[each] = value
        return self._cache[q][1]

    def quantile_or_last(self, q: float, now: float) -> float | None:
        """As `quantile`; while that is unknown, the value it had last."""
        value = self.quantile(q, now)
        return self._last.get(q) if value is None else value

    def above(self, x_s: float) -> list[float]:
        """Upper edges of the buckets of the samples above that of `x_s`, ascending; censored ones are among them."""
        most = _code(x_s) | 1
        return [_upper_s(code) for code in sorted(code for sub in self._ring for code in sub if code > most)]

    def _counted(self) -> list[tuple[int, int]]:
        """(code, samples) ascending; within a bucket the observed come before the censored."""
        counted: Counter[int] = Counter()
        for sub in self._ring:
            counted.update(sub)
        return [(code, counted[code]) for code in sorted(counted)]

    def _quantiles(self, wanted: Sequence[float]) -> Iterator[tuple[float, float | None]]:
        """(q, its value) for every q of `wanted`, which ascend.

        Kaplan and Meier: `s` is the share that takes longer, `n` are the samples still at risk.
        """
        n = self.count
        s = 1.0
        found = 0
        for code, samples in self._counted():
            if not code & 1:
                s *= 1.0 - samples / n
                while found < len(wanted) and s <= 1.0 - wanted[found] + _EPSILON:
                    yield wanted[found], _upper_s(code)
                    found += 1
            n -= samples
        for q in wanted[found:]:
            yield q, None

    def expected_remaining_s(self, elapsed_s: float) -> float | None:
        """Mean further time of an attempt that has had no content for `elapsed_s` seconds.

        The mean of the Kaplan-Meier curve beyond `elapsed_s`; what is censored beyond the last observation counts with
        the longest time recorded, so the figure is rather too small. None: nothing recorded beyond `elapsed_s`.
        """
        n = self.count
        s = 1.0
        weighted = longest = beyond = 0.0
        for code, samples in self._counted():
            upper = _upper_s(code)
            if upper > elapsed_s:
                longest = upper
            if not code & 1:
                step = s * samples / n
                s -= step
                if upper > elapsed_s:
                    weighted += step * (upper - elapsed_s)
                    beyond += step
            n -= samples
        tail = s if s > _EPSILON and longest > 0.0 else 0.0
        mass = beyond + tail
        return (weighted + tail * (longest - elapsed_s)) / mass if mass > 0.0 else None


class Latency:
    """First-content times of one target, by kind of request and for the whole target."""

    __slots__ = ("_all", "_by_key")

    def __init__(self) -> None:
        self._all = Histogram()
        self._by_key: dict[LatencyKey, Histogram] = {}

    @property
    def count(self) -> int:
        """Samples held for the whole target."""
        return self._all.count

    def observe(self, key: LatencyKey, x_s: float, now: float) -> None:
        """An attempt had its first content after `x_s` seconds."""
        code = _code(x_s)
        if code >= 0:
            (self._by_key.get(key) or self._new(key))._add(code, now)
            self._all._add(code, now)

    def censor(self, key: LatencyKey, x_s: float, now: float) -> None:
        """An attempt was superseded, cancelled by the deadline or timed out after `x_s` seconds without content."""
        code = _code(x_s)
        if code >= 0:
            (self._by_key.get(key) or self._new(key))._add(code + 1, now)
            self._all._add(code + 1, now)

    def _new(self, key: LatencyKey) -> Histogram:
        made = self._by_key[key] = Histogram()
        return made

    def _best(self, key: LatencyKey, samples_min: int) -> Histogram | None:
        found = self._by_key.get(key)
        if found is not None and found.count >= samples_min:
            return found
        return self._all if self._all.count >= samples_min else None

    def p(self, q: float, key: LatencyKey, now: float) -> float | None:
        """The `q` quantile (0 < q < 1) in seconds of requests of this kind, else of the whole target.

        None with fewer than 50 samples in both, or while it was never known because too much is censored.
        """
        best = self._best(key, SAMPLES_MIN)
        return None if best is None else best.quantile_or_last(q, now)

    def median(self, key: LatencyKey, now: float, samples_min: int = MEDIAN_SAMPLES_MIN) -> float | None:
        """The median in seconds; it needs fewer samples than `p`. None with fewer than `samples_min`."""
        best = self._best(key, samples_min)
        return None if best is None else best.quantile_or_last(0.5, now)

    def above(self, x_s: float, key: LatencyKey) -> tuple[list[float], int]:
        """The times above `x_s` of this kind, else of the whole target, ascending, and how many times there are in all.

        Censored ones count with what they have waited. Empty with fewer than 50 samples in both.
        """
        best = self._best(key, SAMPLES_MIN)
        return ([], 0) if best is None else (best.above(x_s), best.count)

    def expected_remaining_s(self, key: LatencyKey, elapsed_s: float, now: float) -> float | None:
        """Expected further seconds of an attempt without content after `elapsed_s`; for `X-Hedge-Latency-Saved`.

        None with fewer than 50 samples, or when no attempt was ever seen to take so long. `now` is not used, it keeps
        the calls alike.
        """
        best = self._best(key, SAMPLES_MIN)
        return None if best is None else best.expected_remaining_s(elapsed_s)
