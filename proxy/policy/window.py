"""What has been seen of one target, and how it is summed up.

Evidence is a fold over attempts and knows no policy: it would be the same if other rules had looked at it. Rules are
values; a *tally* is the small running sum that one rule keeps over the evidence. Keeping the two apart is what lets a
request bring its own rule (`overlay.py`) without changing anything for anybody else.

An attempt has one object for its whole life, its `Permit`: made when it is admitted, filled in as things happen, kept
in the history when it has ended. So an attempt in flight and one that ended are judged by the same few fields, and the
ordinary path allocates nothing else.

The default rule is a CUSUM (Page 1954): one number which a bad event raises by ln(p1/p0) and a good one lowers by
ln((1-p0)/(1-p1)), the log likelihood ratio of "ill" against "well", held between 0 and h. It needs no window and no
least number of calls. With p0 = 0.05, p1 = 0.40, h = 8 four bad events in a row trip it, and it does not drift while
fewer than 18.1 % are bad (`resilience.md` 3.5.2).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, Literal, Protocol

from proxy.base.outcome import Class

P0: Final = 0.05
"""Share of bad events of a target that is well."""
P1: Final = 0.40
"""Share of bad events of a target that is ill."""
H: Final = 8.0
"""Where a CUSUM trips."""
A: Final = math.log(P1 / P0)
"""What a bad event adds: 2.0794."""
G: Final = math.log((1 - P0) / (1 - P1))
"""What a good event takes away: 0.4595."""

RING_S: Final = 120
"""Seconds of rates kept. Longer than the longest usual first-content time, or slow calls would end outside of it."""
HISTORY: Final = 1024
"""Ended attempts kept for rules that requests bring."""
CUSUM_DEPTH: Final = 128
"""Newest ended attempts over which such a rule works out a CUSUM of its own."""
INF: Final = math.inf
_NEVER: Final = -(10**18)
"""A second before any clock's."""

Key = tuple[Class, str, int]
"""Class, sub-name and status of an outcome."""
_NOT_ENDED: Final[Key] = (Class.LOCAL_REJECT, "", 0)


class State(StrEnum):
    """State of a circuit: it flows, refuses, or probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Grant:
    """What an attempt was given beyond plain admission: a probe's lease, a place under the overlay cap, a warning."""

    __slots__ = ("capped", "lease_id", "warning")

    def __init__(self, lease_id: int | None, capped: bool, warning: str) -> None:
        self.lease_id = lease_id
        self.capped = capped
        self.warning = warning


class Permit:
    """One admitted attempt and, as time goes on, the record of it. Times are monotonic seconds; infinite: not yet.

    Callers read `state`, `warning` and `generation` and hand the permit back; all else belongs to the breaker.
    """

    __slots__ = (
        "content_at",
        "counted",
        "ended_at",
        "generation",
        "grant",
        "key",
        "released",
        "replied_at",
        "serial",
        "slow",
        "slow_at",
        "started_at",
    )

    def __init__(self, serial: int, generation: int, grant: Grant | None = None) -> None:
        self.serial = serial
        """Place in the order of admission, from 1."""
        self.generation = generation
        """Generation of the base circuit at admission."""
        self.grant = grant
        self.started_at = INF
        self.slow_at = INF
        """When its age passes the slow line; infinite while it has none."""
        self.slow = False
        """Its age has passed the slow line and this was counted."""
        self.counted = False
        """It has been counted as a failure for being slow by the base's count rule."""
        self.replied_at = INF
        self.content_at = INF
        self.ended_at = INF
        self.key = _NOT_ENDED
        self.released = False

    @property
    def lease_id(self) -> int | None:
        """Number of the half-open lease this attempt was admitted with; None for ordinary admission."""
        return None if self.grant is None else self.grant.lease_id

    @property
    def state(self) -> State:
        """The circuit as it was decided on: HALF_OPEN if a lease was needed, else CLOSED."""
        return State.CLOSED if self.lease_id is None else State.HALF_OPEN

    @property
    def warning(self) -> str:
        """Not empty when the request's own policy could not be applied."""
        return "" if self.grant is None else self.grant.warning

    def passed(self, line_at: float, now: float) -> bool:
        """Whether the attempt reached `line_at` before its first content, its end and `now`."""
        return line_at <= now and line_at <= self.content_at and line_at <= self.ended_at


def matches(excluded: frozenset[str], key: Key) -> bool:
    """Whether a list names an outcome by class (``timeout``), sub-name (``timeout.idle``) or status (``503``)."""
    cls, sub, status = key
    if cls in excluded:
        return True
    return (sub != "" and f"{cls}.{sub}" in excluded) or (status != 0 and str(status) in excluded)


class Ring:
    """Outcomes of the last 120 s by key, in buckets of one second. A bucket is emptied when its turn comes again."""

    __slots__ = ("_counts", "_dicts", "_second", "_seconds")

    def __init__(self) -> None:
        self._second = _NEVER
        self._counts: dict[Key, int] = {}
        self._seconds = [_NEVER] * RING_S
        self._dicts: list[dict[Key, int]] = [{} for _ in range(RING_S)]

    def add(self, key: Key, now: float) -> None:
        """Count one outcome. `now` never falls (the breaker sees to it)."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._counts = {}
            place = second % RING_S
            self._seconds[place] = second
            self._dicts[place] = self._counts
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1

    def counts(self, now: float, seconds: int = RING_S) -> dict[Key, int]:
        """Outcomes of the last `seconds` (1 to 120), the running second included."""
        oldest = int(now) - seconds
        total: dict[Key, int] = {}
        for second, counts in zip(self._seconds, self._dicts, strict=True):
            if second > oldest:
                for key, count in counts.items():
                    total[key] = total.get(key, 0) + count
        return total


class Evidence:
    """All that is known of one target. Only attempts change it, never a policy."""

    __slots__ = ("history", "probe_failed_at", "ring", "running", "serial", "total")

    def __init__(self) -> None:
        self.ring = Ring()
        self.history: deque[Permit] = deque(maxlen=HISTORY)
        """Ended attempts in the order of their ends, the newest last."""
        self.total = 0
        """Attempts that ended since the start, local rejects left out."""
        self.running: dict[Permit, None] = {}
        """Attempts in flight in the order of their starts."""
        self.serial = 0
        """Attempts admitted since the start."""
        self.probe_failed_at = -INF
        """Latest failed active probe that no passed one has followed."""

    def ended(self, permit: Permit, key: Key, now: float) -> None:
        """Take in an attempt that ended at `now`, and as what."""
        permit.key = key
        self.ring.add(key, now)
        self.history.append(permit)
        self.total += 1

    def overdue(self, since: float, now: float) -> list[float]:
        """Ages of the attempts in flight that began after `since` and have had no content, as multiples of their slow
        lines; those above 1."""
        waiting = (p for p in self.running if p.content_at == INF and p.slow_at < now and p.started_at > since)
        return [(now - p.started_at) / (p.slow_at - p.started_at) for p in waiting]

    def newest(self, count: int) -> Iterator[Permit]:
        """The newest `count` ended attempts, oldest first; fewer when there are not so many."""
        history = self.history
        if count >= len(history):
            return iter(history)
        return reversed(list(islice(reversed(history), count)))


# Rules and their tallies ----------------------------------------------------------------------------------------------


class Cusum:
    """One detector. `s` stays within 0 and h; the clamp at h leaves 18 good events to 0, whatever came before."""

    __slots__ = ("s",)

    def __init__(self) -> None:
        self.s = 0.0

    def bad(self) -> bool:
        """A bad event; True when the detector stands at h."""
        s = self.s + A
        self.s = s if s < H else H
        return s >= H

    def good(self) -> None:
        """A good event."""
        s = self.s - G
        self.s = s if s > 0.0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRule:
    """Trip when `n` failures (1 to 1024) are younger than `window_s` (0.1 to 3600)."""

    n: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """Trip on a share of failed, or of slow, attempts (resilience4j's words; whole numbers instead of its floats)."""

    failure_rate_percent: int = 50
    """``failureRateThreshold``, 1 to 100."""
    window: Literal["count", "time"] = "count"
    size: int = 100
    """Attempts (1 to 1024), or whole seconds (1 to 120)."""
    minimum_calls: int = 100
    """Nothing trips below it, 1 or more. In a window of attempts never more than `size`."""
    slow_call_s: float | None = None
    """``slowCallDurationThreshold``: time to first content from which an attempt is slow. None: none is."""
    slow_rate_percent: int = 100
    """``slowCallRateThreshold``, 1 to 100."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of bounds."""
        if not 1 <= self.size <= (HISTORY if self.window == "count" else RING_S):
            raise ValueError(f"size of a {self.window} window out of bounds: {self.size}")
        if not (1 <= self.failure_rate_percent <= 100 and 1 <= self.slow_rate_percent <= 100):
            raise ValueError("a rate threshold is a whole percentage from 1 to 100")
        if self.minimum_calls < 1:
            raise ValueError(f"minimum_calls must be at least 1, got {self.minimum_calls}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsecutiveRule:
    """Trip on `n` failures in a row; only success breaks the row."""

    n: int

    def __post_init__(self) -> None:
        """Raises ValueError for `n` below 1."""
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")


Rule = CountRule | RateRule | ConsecutiveRule


class Tally(Protocol):
    """The running sum of one rule. Times given to `weigh` never fall."""

    def weigh(self, at: float, bad: bool, slow: bool) -> bool:
        """Take one good or bad event; True when the rule trips with it."""


class CountTally:
    """The newest n failures. n failures lie in the window exactly when the n-th newest is younger than it."""

    __slots__ = ("_times", "_window_s")

    def __init__(self, rule: CountRule) -> None:
        self._times: deque[float] = deque(maxlen=rule.n)
        self._window_s = rule.window_s

    def weigh(self, at: float, bad: bool, slow: bool) -> bool:
        """See `Tally.weigh`; only bad events matter."""
        if not bad:
            return False
        times = self._times
        times.append(at)
        return len(times) == times.maxlen and at - times[0] < self._window_s


class ConsecutiveTally:
    """Failures since the last success."""

    __slots__ = ("_n", "_row")

    def __init__(self, rule: ConsecutiveRule) -> None:
        self._n = rule.n
        self._row = 0

    def weigh(self, at: float, bad: bool, slow: bool) -> bool:
        """See `Tally.weigh`; times do not matter."""
        self._row = self._row + 1 if bad else 0
        return self._row >= self._n


class RateTally:
    """Sums over the window. Entries are single attempts, or seconds in which several are added up."""

    __slots__ = ("_bad", "_entries", "_least", "_rule", "_slow", "_sum")

    def __init__(self, rule: RateRule) -> None:
        self._rule = rule
        self._entries: deque[list[int]] = deque()
        self._sum = self._bad = self._slow = 0
        self._least = min(rule.minimum_calls, rule.size) if rule.window == "count" else rule.minimum_calls

    @property
    def sums(self) -> tuple[int, int, int]:
        """Attempts, failures and slow ones in the window."""
        return self._sum, self._bad, self._slow

    def weigh(self, at: float, bad: bool, slow: bool) -> bool:
        """See `Tally.weigh`; nothing trips below the least number of attempts."""
        rule, entries = self._rule, self._entries
        second = int(at)
        if rule.window == "time" and entries and entries[-1][0] == second:
            last = entries[-1]
        else:
            last = [second, 0, 0, 0]
            entries.append(last)
        last[1] += 1
        last[2] += bad
        last[3] += slow
        self._sum += 1
        self._bad += bad
        self._slow += slow
        while entries[0][0] <= second - rule.size if rule.window == "time" else len(entries) > rule.size:
            _, total, failed, late = entries.popleft()
            self._sum -= total
            self._bad -= failed
            self._slow -= late
        n = self._sum
        if n < self._least:
            return False
        late_trips = rule.slow_call_s is not None and self._slow * 100 >= rule.slow_rate_percent * n
        return self._bad * 100 >= rule.failure_rate_percent * n or late_trips


def tally(rule: Rule) -> Tally:
    """An empty tally for a rule."""
    if isinstance(rule, CountRule):
        return CountTally(rule)
    if isinstance(rule, RateRule):
        return RateTally(rule)
    return ConsecutiveTally(rule)


def is_slow(rule: Rule | None, permit: Permit, now: float) -> bool:
    """Whether an attempt that ends at `now` is slow by a rate rule's own measure; False for every other rule."""
    if not isinstance(rule, RateRule) or rule.slow_call_s is None:
        return False
    return permit.passed(permit.started_at + rule.slow_call_s, now)


Dice = Callable[[], float]
