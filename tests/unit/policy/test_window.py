"""The evidence of a target and the tallies of its rules."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.base.outcome import Class
from proxy.policy.window import (
    HISTORY,
    A,
    ConsecutiveRule,
    CountRule,
    Cusum,
    Evidence,
    G,
    H,
    Key,
    Permit,
    RateRule,
    RateTally,
    Ring,
    matches,
    tally,
)

BAD: Key = (Class.SERVER_ERROR, "", 500)
GOOD: Key = (Class.OK, "", 200)


def test_the_cusum_constants_are_those_of_the_formulas() -> None:
    assert round(A, 4) == 2.0794
    assert round(G, 4) == 0.4595
    assert H == 8.0
    assert round(G / (A + G), 3) == 0.181  # the share at which the drift is zero


def test_four_bad_events_in_a_row_trip_and_the_way_back_is_18_good_ones() -> None:
    detector = Cusum()
    assert [detector.bad() for _ in range(6)] == [False, False, False, True, True, True]
    steps = []
    while detector.s > 0.0:
        detector.good()
        steps.append(detector.s)
    assert len(steps) == 18
    assert next(i for i, s in enumerate(steps, 1) if s < H / 2) == 9


@given(st.lists(st.booleans(), max_size=200))
@settings(max_examples=60)
def test_S1_S2_the_detector_stays_in_bounds_and_good_events_empty_it(events: list[bool]) -> None:
    detector = Cusum()
    for bad in events:
        if bad:
            detector.bad()
        else:
            detector.good()
        assert 0.0 <= detector.s <= H
    for _ in range(18):
        detector.good()
    assert detector.s == 0.0


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
@settings(max_examples=100)
def test_S3_a_good_event_turned_bad_never_delays_a_trip(events: list[bool], data: st.DataObject) -> None:
    def trips_at(stream: list[bool]) -> float:
        detector = Cusum()
        for i, bad in enumerate(stream):
            if bad and detector.bad():
                return i
            if not bad:
                detector.good()
        return math.inf

    worse = list(events)
    worse[data.draw(st.integers(0, len(events) - 1))] = True
    assert trips_at(worse) <= trips_at(events)


def test_the_ring_forgets_after_120_s_and_counts_by_key() -> None:
    ring = Ring()
    ring.add(BAD, 0.0)
    ring.add(BAD, 0.9)
    ring.add(GOOD, 100.0)
    assert ring.counts(100.0) == {BAD: 2, GOOD: 1}
    assert ring.counts(119.9) == {BAD: 2, GOOD: 1}
    assert ring.counts(120.0) == {GOOD: 1}
    assert ring.counts(100.0, 1) == {GOOD: 1}
    ring.add(GOOD, 120.0)  # takes the place of second 0
    assert ring.counts(120.0) == {GOOD: 2}
    assert ring.counts(1e15) == {}


def test_the_ring_takes_clocks_below_zero_and_very_large_ones() -> None:
    ring = Ring()
    for now in (-5.5, -0.1, 0.0, 1e12, 1e300):
        ring.add(BAD, now)
        assert ring.counts(now)[BAD] >= 1
    assert ring.counts(1e300) == {BAD: 1}


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from([BAD, GOOD])), max_size=60), st.integers(1, 120))
@settings(max_examples=80)
def test_B8_the_ring_equals_a_list_and_ignores_order_within_a_second(
    events: list[tuple[int, Key]], seconds: int
) -> None:
    events.sort(key=lambda event: event[0])
    ring = Ring()
    for at, key in events:
        ring.add(key, float(at))
    now = events[-1][0] if events else 0
    wanted: dict[Key, int] = {}
    for at, key in events:
        if at > now - seconds:
            wanted[key] = wanted.get(key, 0) + 1
    assert ring.counts(float(now), seconds) == wanted


def test_the_history_keeps_the_newest_1024() -> None:
    evidence = Evidence()
    for serial in range(1, HISTORY + 11):
        evidence.ended(Permit(serial, 0), GOOD, float(serial))
    assert [p.serial for p in evidence.newest(3)] == [HISTORY + 8, HISTORY + 9, HISTORY + 10]
    assert next(p.serial for p in evidence.newest(5000)) == 11
    assert list(evidence.newest(0)) == []
    assert evidence.total == HISTORY + 10


@pytest.mark.parametrize(
    ("listed", "key", "hit"),
    [
        ({"timeout"}, (Class.TIMEOUT, "idle", 0), True),
        ({"timeout.idle"}, (Class.TIMEOUT, "idle", 0), True),
        ({"timeout.idle"}, (Class.TIMEOUT, "connect", 0), False),
        ({"503"}, (Class.MODEL_OVERLOADED, "", 503), True),
        ({"503"}, (Class.SERVER_ERROR, "", 500), False),
        ({"0"}, (Class.CONNECT_ERROR, "refused", 0), False),
        ({""}, (Class.SERVER_ERROR, "", 500), False),
        (set(), (Class.SERVER_ERROR, "", 500), False),
    ],
)
def test_exclusions_name_classes_sub_names_and_statuses(listed: set[str], key: Key, hit: bool) -> None:
    assert matches(frozenset(listed), key) is hit


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=50), st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=150)
def test_M1_the_count_tally_equals_counting_all_failures(
    events: list[tuple[int, bool]], n: int, window_quarters: int
) -> None:
    events.sort(key=lambda event: event[0])
    window_s = window_quarters / 4
    counted = tally(CountRule(n=n, window_s=window_s))
    failures: list[float] = []
    for quarter, bad in events:
        at = quarter / 4
        tripped = counted.weigh(at, bad, False)
        if bad:
            failures.append(at)
        assert tripped == (bad and sum(at - f < window_s for f in failures) >= n)


def test_B8_outcomes_of_equal_time_may_come_in_any_order() -> None:
    for order in set(permutations([True, True, True, False, False])):
        counted = tally(CountRule(n=4, window_s=2.0))
        counted.weigh(9.0, True, False)
        assert any(counted.weigh(10.0, bad, False) for bad in order)
        sums = RateTally(RateRule(window="time", size=3, minimum_calls=100))
        sums.weigh(9.0, True, True)
        for bad in order:
            sums.weigh(10.5, bad, not bad)
        assert sums.sums == (6, 4, 3)


def test_the_consecutive_tally_is_broken_by_success_only() -> None:
    row = tally(ConsecutiveRule(n=3))
    assert [row.weigh(0.0, bad, False) for bad in (True, True, False, True, True, True)] == [False] * 5 + [True]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=60),
    st.sampled_from(["count", "time"]),
    st.integers(1, 12),
    st.integers(1, 15),
    st.integers(1, 100),
    st.integers(1, 100),
)
@settings(max_examples=150)
def test_the_rate_tally_equals_whole_number_arithmetic_over_a_list(
    events: list[tuple[int, bool, bool]], window: str, size: int, least: int, failed_percent: int, slow_percent: int
) -> None:
    events.sort(key=lambda event: event[0])
    rule = RateRule(
        window="count" if window == "count" else "time",
        size=size,
        minimum_calls=least,
        failure_rate_percent=failed_percent,
        slow_rate_percent=slow_percent,
        slow_call_s=1.0,
    )
    rates = tally(rule)
    for i, (at, bad, slow) in enumerate(events):
        seen = events[: i + 1]
        inside = seen[-size:] if window == "count" else [event for event in seen if event[0] > at - size]
        n = len(inside)
        enough = n >= (min(least, size) if window == "count" else least)
        wanted = enough and (
            sum(e[1] for e in inside) * 100 >= failed_percent * n or sum(e[2] for e in inside) * 100 >= slow_percent * n
        )
        assert rates.weigh(at + 0.5, bad, slow) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 1025},
        {"window": "time", "size": 121},
        {"failure_rate_percent": 0},
        {"failure_rate_percent": 101},
        {"slow_rate_percent": 0},
        {"minimum_calls": 0},
    ],
)
def test_a_rate_rule_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RateRule(**wrong)  # type: ignore[arg-type]


def test_a_consecutive_rule_of_none_is_refused() -> None:
    with pytest.raises(ValueError):
        ConsecutiveRule(n=0)
