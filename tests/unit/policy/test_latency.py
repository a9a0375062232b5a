from __future__ import annotations

import math
import random

import pytest

from proxy.policy.latency import GROWTH, Histogram, Latency, size_bucket

KEY = (True, 0)
OTHER = (False, 2)


def test_H7_quantiles_of_a_plain_sample() -> None:
    histogram = Histogram()
    for ms in range(1, 101):
        histogram.observe(ms / 1000, 0.0)
    for q in (0.1, 0.5, 0.95, 0.99):
        assert q / 10 <= histogram.quantile(q, 0.0) <= q / 10 * GROWTH * 1.0001


def test_an_empty_histogram_knows_nothing() -> None:
    assert Histogram().quantile(0.5, 0.0) is None
    assert Histogram().expected_remaining_s(0.0) is None


@pytest.mark.parametrize("x", [-1.0, math.nan, math.inf, -math.inf, 1e7])
def test_what_is_no_duration_is_not_recorded(x: float) -> None:
    histogram, latency = Histogram(), Latency()
    histogram.observe(x, 0.0)
    histogram.censor(x, 0.0)
    latency.observe(KEY, x, 0.0)
    latency.censor(KEY, x, 0.0)
    assert (histogram.count, latency.count) == (0, 0)


@pytest.mark.parametrize("x", [0.0, 1e-9, 1e-4, 999_999.0])
def test_the_ends_of_the_range_are_recorded(x: float) -> None:
    histogram = Histogram()
    histogram.observe(x, 0.0)
    assert max(x, 1e-4) <= histogram.quantile(0.5, 0.0) <= max(x, 1e-4) * GROWTH**2


def test_kaplan_meier_of_a_textbook_sample() -> None:
    """Observed 1, 3, 4 and censored 2, 5: S = 4/5, then 4/5 * 2/3 = 8/15, then 8/15 * 1/2 = 4/15."""
    histogram = Histogram()
    for x in (1.0, 3.0, 4.0):
        histogram.observe(x, 0.0)
    for x in (2.0, 5.0):
        histogram.censor(x, 0.0)
    assert histogram.quantile(0.2, 0.0) == pytest.approx(1.0, rel=0.021)
    assert histogram.quantile(0.46, 0.0) == pytest.approx(3.0, rel=0.021)
    assert histogram.quantile(0.47, 0.0) == pytest.approx(4.0, rel=0.021)
    assert histogram.quantile(0.73, 0.0) == pytest.approx(4.0, rel=0.021)
    assert histogram.quantile(0.74, 0.0) is None


def test_too_much_censored_keeps_the_value_known_last() -> None:
    histogram = Histogram()
    for _ in range(100):
        histogram.observe(1.0, 0.0)
    known = histogram.quantile_or_last(0.95, 0.0)
    for _ in range(50):
        histogram.censor(2.0, 5.0)
    assert histogram.quantile(0.95, 10.0) is None
    assert histogram.quantile_or_last(0.95, 10.0) == known


def test_a_quantile_is_cached_for_a_second() -> None:
    histogram = Histogram()
    histogram.observe(1.0, 0.0)
    first = histogram.quantile(0.5, 0.0)
    for _ in range(10):
        histogram.observe(9.0, 0.5)
    assert histogram.quantile(0.5, 0.999) == first
    assert histogram.quantile(0.5, 1.0) > 8.0
    assert histogram.quantile(0.5, -1e9) > 8.0, "a clock that jumped back reads anew instead of for ever the same"


def test_it_forgets_after_five_rings_of_two_hundred() -> None:
    histogram = Histogram()
    for _ in range(1000):
        histogram.observe(0.1, 0.0)
    assert histogram.count == 1000
    for _ in range(1001):
        histogram.observe(5.0, 0.0)
    assert histogram.count == 801
    assert histogram.quantile(0.01, 10.0) > 4.9


def test_time_rotates_only_a_ring_that_holds_ten() -> None:
    histogram = Histogram()
    for i in range(60):
        histogram.observe(1.0, i * 120.0)
    assert histogram.count >= 50, "a pod with one request in two minutes still reaches 50 samples"
    busy = Histogram()
    for i in range(700):
        busy.observe(1.0, i * 1.0)
    assert busy.count <= 5 * 61


def test_expected_remaining_time() -> None:
    histogram = Histogram()
    for x in (1.0, 2.0, 4.0, 8.0):
        histogram.observe(x, 0.0)
    assert histogram.expected_remaining_s(3.0) == pytest.approx((1.0 + 5.0) / 2, rel=0.05)
    assert histogram.expected_remaining_s(0.0) == pytest.approx(15.0 / 4, rel=0.03)
    assert histogram.expected_remaining_s(9.0) is None
    histogram.censor(20.0, 0.0)
    assert histogram.expected_remaining_s(9.0) == pytest.approx(11.0, rel=0.05)


def test_a_kind_with_few_samples_uses_the_whole_targets() -> None:
    latency = Latency()
    for _ in range(49):
        latency.observe(KEY, 1.0, 0.0)
    assert latency.p(0.5, KEY, 0.0) is None
    assert latency.median(KEY, 0.0) == pytest.approx(1.0, rel=0.021)
    assert latency.expected_remaining_s(KEY, 0.0, 0.0) is None
    for _ in range(49):
        latency.observe(OTHER, 9.0, 0.0)
    assert latency.p(0.95, KEY, 2.0) == pytest.approx(9.0, rel=0.021), "the whole target"
    latency.observe(KEY, 1.0, 2.0)
    assert latency.p(0.95, KEY, 2.0) == pytest.approx(1.0, rel=0.021), "its own 50 samples"
    assert latency.expected_remaining_s(KEY, 0.5, 2.0) == pytest.approx(0.5, rel=0.05)


def test_the_times_above_one() -> None:
    latency = Latency()
    for ms in range(1, 101):
        (latency.censor if ms == 100 else latency.observe)(KEY, ms / 1000, 0.0)
    above, count = latency.above(0.095, KEY)
    assert count == 100
    assert above == sorted(above)
    assert above[-1] == pytest.approx(0.1, rel=GROWTH - 1)  # censored, with what it has waited
    assert 3 <= len(above) <= 5  # those in the bucket of 95 ms are not above it
    assert latency.above(0.1 * GROWTH, KEY) == ([], 100)
    assert latency.above(0.095, OTHER) == (above, 100)
    assert Latency().above(0.095, KEY) == ([], 0)


def test_the_median_needs_twenty_samples() -> None:
    latency = Latency()
    for _ in range(19):
        latency.observe(KEY, 1.0, 0.0)
    assert latency.median(KEY, 0.0) is None
    latency.observe(OTHER, 1.0, 0.0)
    assert latency.median(KEY, 0.0) is not None


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(-5, 0), (0, 0), (8191, 0), (8192, 1), (65535, 1), (65536, 2), (524287, 2), (524288, 3), (10**12, 3)],
)
def test_size_buckets(size: int, bucket: int) -> None:
    assert size_bucket(size) == bucket


def hedged_rate(censor: bool, seed: int) -> tuple[float, float]:
    """C7: rate of hedges aimed at 5 %, in the second half, and the learned p95 at the end."""
    dice = random.Random(seed)

    def draw() -> float:
        return dice.uniform(5, 20) if dice.random() < 0.04 else dice.lognormvariate(math.log(0.6), 0.5)

    histogram, hedges, delay = Histogram(), 0, 1.0
    for i in range(6000):
        now = i * 1.0
        if i % 20 == 0 and histogram.count >= 50:
            delay = histogram.quantile_or_last(0.95, now) or delay
        first = draw()
        if first <= delay:
            histogram.observe(first, now)
            continue
        second = delay + draw()
        hedges += i >= 3000
        winner, loser_age = min(first, second), (second - delay if first > second else first)
        histogram.observe(loser_age, now)
        if censor:
            histogram.censor(winner if first > second else winner - delay, now)
    return hedges / 3000, delay


def test_H8_C7_censoring_keeps_the_hedge_rate_at_its_aim_and_winners_only_does_not() -> None:
    honest, p95 = hedged_rate(True, 11)
    creeping, too_low = hedged_rate(False, 11)
    assert 0.025 <= honest <= 0.075
    assert creeping > 0.08
    assert too_low < p95
