"""The canary's judge: assignment, looks, verdicts, and that it is right as often as it says."""

from __future__ import annotations

import math
import random

import pytest

from proxy.policy.binomial import at_least, quantile_at_most, share_at_least, share_at_most
from proxy.policy.canary import Canary, Settings, State, Verdict, bucket


def canary(**stated: object) -> Canary:
    settings: dict[str, object] = {"targets": (("v2", ""),), "share": 0.1, **stated}
    return Canary("r", Settings(**settings), 0.0)  # type: ignore[arg-type]


# Exact statements -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("trials", [1, 7, 60])
def test_tails_are_exact(trials: int, share: float) -> None:
    for successes in range(trials + 2):
        terms = (math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(successes, trials + 1))
        assert at_least(successes, trials, share) == pytest.approx(sum(terms), rel=1e-9, abs=1e-15)


def test_tails_at_the_edges() -> None:
    assert (at_least(0, 5, 0.0), at_least(1, 5, 0.0), at_least(5, 5, 1.0), at_least(6, 5, 1.0)) == (1.0, 0.0, 1.0, 0.0)
    assert 0.4 < at_least(50_000, 100_000, 0.5) < 0.6


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (2000, 100_000)])
def test_bounds_are_those_at_which_the_tail_has_the_level(successes: int, trials: int) -> None:
    low, high = share_at_least(successes, trials, 0.01), share_at_most(successes, trials, 0.01)
    assert low <= successes / trials <= high
    if successes:
        assert at_least(successes, trials, low) == pytest.approx(0.01, rel=1e-3)
    if successes < trials:
        assert at_least(trials - successes, trials, 1 - high) == pytest.approx(0.01, rel=1e-3)


def test_bounds_without_evidence_say_nothing() -> None:
    assert (share_at_least(0, 0, 0.01), share_at_most(0, 0, 0.01)) == (0.0, 1.0)
    assert quantile_at_most([], 0.5, 0.01) == math.inf
    assert quantile_at_most([1.0] * 6, 0.5, 0.01) == math.inf  # 2^-6 is more than 1 %
    assert quantile_at_most([1.0] * 7, 0.5, 0.01) == 1.0
    assert quantile_at_most([float(n) for n in range(100)], 0.5, 0.01) == 62.0  # P(X >= 62) is 1.05 %, of 63 0.6 %


def test_a_bound_of_a_quantile_is_rarely_too_low() -> None:
    rng = random.Random(5)
    low = sum(quantile_at_most(sorted(rng.random() for _ in range(40)), 0.9, 0.05) < 0.9 for _ in range(2000))
    assert low <= 0.065 * 2000


# Who gets it ----------------------------------------------------------------------------------------------------------


def test_sticky_assignment_is_the_same_everywhere_and_grows() -> None:
    assert bucket("user-1", "chat") == 0.26922809698224903
    keys = [f"user-{n}" for n in range(4000)]

    def never() -> float:
        raise AssertionError("a key needs no dice")

    small = {key for key in keys if canary(share=0.1).takes(key, never)}
    large = {key for key in keys if canary(share=0.25).takes(key, never)}
    assert small < large
    assert 0.08 < len(small) / 4000 < 0.12
    assert 0.22 < len(large) / 4000 < 0.28
    others = {key for key in keys if bucket(key, "another route") < 0.1}
    assert 0.0 < len(others & small) / len(small) < 0.25  # another route picks other people


def test_without_a_key_the_dice_decide() -> None:
    assert canary(share=0.3).takes(None, lambda: 0.29)
    assert not canary(share=0.3).takes(None, lambda: 0.3)
    assert canary(share=1.0).takes(None, lambda: 0.999999)
    assert not canary(share=0.0).takes(None, lambda: 0.0)


# The verdict ----------------------------------------------------------------------------------------------------------


def fed(judge: Canary, of_canary: bool, count: int, *, failed: bool = False, s: float | None = None) -> Verdict | None:
    found = None
    for _ in range(count):
        found = found or judge.observe(of_canary, failed, None if failed else (s or 0.1), True, 1.0)
    return found


def test_one_that_only_fails_goes_at_the_first_look() -> None:
    judge = canary()
    fed(judge, False, 180)
    assert fed(judge, True, 19, failed=True) is None
    found = judge.observe(True, True, None, False, 1.0)
    assert found is not None
    assert (found.reason, found.canary_requests, found.canary_errors) == ("errors", 20, 20)
    assert (found.baseline_requests, found.baseline_errors) == (180, 0)
    assert found.why.startswith("20 of 20 first calls failed, 0 of 180 at the baseline: at least 7")
    assert (judge.state, judge.verdict) == (State.WITHDRAWN, found)
    assert not judge.takes(None, lambda: 0.0)
    assert judge.observe(True, True, None, False, 1.0) is None  # what still runs says nothing more
    judge.resume(2.0)
    assert (judge.state, judge.canary.requests, judge.takes(None, lambda: 0.0)) == (State.RUNNING, 0, True)


def test_what_both_do_is_nobodys_fault() -> None:
    judge = canary()
    for _ in range(40):
        assert fed(judge, False, 9, failed=True) is None
        assert fed(judge, True, 1, failed=True) is None


def test_without_a_baseline_there_is_no_verdict() -> None:
    assert fed(canary(share=1.0), True, 500, failed=True) is None


def test_a_slow_one_goes_and_one_within_its_allowance_stays() -> None:
    for seconds, reason in ((0.29, "latency"), (0.149, "")):
        judge = canary(max_latency_increase=0.5)
        fed(judge, False, 300, s=0.1)
        found = fed(judge, True, 80, s=seconds)
        assert (found.reason if found is not None else "") == reason
    assert canary().verdict is None


def test_a_slow_tail_is_seen_too() -> None:
    judge = canary()
    fed(judge, False, 400, s=0.1)
    found = None
    for n in range(200):
        found = found or judge.observe(True, False, 2.0 if n % 3 == 0 else 0.1, True, 1.0)
    assert found is not None
    assert found.reason == "latency"
    assert "p90" in found.why


def test_milliseconds_are_no_reason() -> None:
    judge = canary()
    fed(judge, False, 400, s=0.002)
    assert fed(judge, True, 400, s=0.02) is None


def test_who_gave_up_counts_for_the_time_it_waited() -> None:
    judge = canary()
    fed(judge, False, 300, s=0.1)
    found = None
    for _ in range(80):  # a hedge won each time, after a second
        found = found or judge.observe(True, False, 1.0, False, 1.0)
    assert found is not None
    assert found.reason == "latency"
    patient = canary()
    for _ in range(300):  # the baseline's are endless, for nobody knows how long they would have taken
        patient.observe(False, False, 0.01, False, 1.0)
    assert fed(patient, True, 80, s=5.0) is None


def test_a_window_begins_anew_and_waits_for_enough() -> None:
    judge = canary(window_s=60.0)
    fed(judge, False, 100)
    fed(judge, True, 10)
    judge.observe(True, False, 0.1, True, 100.0)  # over by time, but the canary has had 11 only
    assert judge.canary.requests == 11
    for _ in range(9):
        judge.observe(True, False, 0.1, True, 100.0)
    assert (judge.canary.requests, judge.baseline.requests) == (0, 0)
    # What was good in the last window excuses nothing in this one.
    fed(judge, False, 200)
    assert fed(judge, True, 20, failed=True) is not None


def run(judge: Canary, rng: random.Random, ours: float, theirs: float, count: int) -> Verdict | None:
    for _ in range(count):
        is_ours = rng.random() < judge.settings.share
        failed = rng.random() < (ours if is_ours else theirs)
        found = judge.observe(is_ours, failed, None if failed else rng.lognormvariate(0.0, 0.5), True, 1.0)
        if found is not None:
            return found
    return None


def test_it_is_wrong_at_most_as_often_as_it_says() -> None:
    # At the very edge of what is allowed (2 % and two points more), with a confidence of 80 % so that few runs tell.
    rng = random.Random(7)
    wrong = sum(run(canary(share=0.5, confidence=0.8), rng, 0.04, 0.02, 700) is not None for _ in range(120))
    assert wrong <= 0.2 * 120


def test_a_clear_difference_is_found() -> None:
    rng = random.Random(8)
    found = [run(canary(share=0.2), rng, 0.3, 0.02, 3000) for _ in range(20)]
    assert all(verdict is not None and verdict.reason == "errors" for verdict in found)
    same = [run(canary(share=0.2), rng, 0.02, 0.02, 1000) for _ in range(20)]
    assert same == [None] * 20


def test_an_operator_may_withdraw() -> None:
    judge = canary()
    assert judge.withdraw("a doubt", 5.0).reason == "operator"
    assert (judge.state, judge.since) == (State.WITHDRAWN, 5.0)
