from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.latency import GROWTH, Histogram, Latency

SECONDS = st.floats(0.001, 3600.0)
SAMPLES = st.lists(st.tuples(SECONDS, st.booleans()), min_size=1, max_size=150)


def filled(samples: list[tuple[float, bool]]) -> Histogram:
    histogram = Histogram()
    for x, censored in samples:
        (histogram.censor if censored else histogram.observe)(x, 0.0)
    return histogram


def reference(samples: list[tuple[float, bool]], q: float) -> float | None:
    """Kaplan and Meier over the sorted list itself, without buckets."""
    at_risk, s = len(samples), 1.0
    for x, censored in sorted(samples):
        if not censored:
            s *= 1 - 1 / at_risk
            if s <= 1 - q + 1e-9:
                return x
        at_risk -= 1
    return None


@given(st.lists(SECONDS, min_size=1, max_size=150), st.floats(0.01, 0.99))
def test_H7_without_censoring_the_error_is_below_one_bucket(values: list[float], q: float) -> None:
    samples = [(x, False) for x in values]
    exact = reference(samples, q)
    assert exact is not None
    got = filled(samples).quantile(q, 0.0)
    assert got is not None
    assert exact * (1 - 1e-9) <= got <= exact * GROWTH * (1 + 1e-9)


@given(SAMPLES, st.floats(0.01, 0.99))
def test_censoring_agrees_with_a_list_of_bucketed_values(samples: list[tuple[float, bool]], q: float) -> None:
    edges = [(filled([(x, False)]).quantile(0.5, 0.0) or 0.0, censored) for x, censored in samples]
    assert filled(samples).quantile(q, 0.0) == reference(edges, q)


@given(SAMPLES)
def test_quantiles_rise_with_q(samples: list[tuple[float, bool]]) -> None:
    histogram = filled(samples)
    known = [v for v in (histogram.quantile(q / 20, 0.0) for q in range(1, 20)) if v is not None]
    assert known == sorted(known)


@given(SAMPLES, SECONDS)
def test_a_censored_sample_never_lowers_a_quantile(samples: list[tuple[float, bool]], x: float) -> None:
    before = filled(samples).quantile(0.95, 0.0)
    after = filled([*samples, (x, True)]).quantile(0.95, 0.0)
    assert after is None or (before is not None and after >= before)


@given(SAMPLES, st.floats(0.0, 4000.0))
def test_the_expected_rest_is_positive_and_bounded_by_the_longest(
    samples: list[tuple[float, bool]], elapsed: float
) -> None:
    rest = filled(samples).expected_remaining_s(elapsed)
    longest = max(x for x, _ in samples) * GROWTH * (1 + 1e-9)
    assert rest is None or 0.0 <= rest <= max(0.0, longest - elapsed) + 1e-9


@given(st.lists(st.tuples(st.floats(), st.booleans(), st.floats()), max_size=100))
def test_no_number_and_no_clock_breaks_it(samples: list[tuple[float, bool, float]]) -> None:
    latency = Latency()
    for x, censored, now in samples:
        (latency.censor if censored else latency.observe)((True, 0), x, now)
        value = latency.p(0.95, (True, 0), now)
        assert value is None or 0.0 < value < 1.1e6
    assert latency.count <= 1000
