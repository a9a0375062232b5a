from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.backoff import Settings, delay_s

SECONDS = st.floats(0.0, 3600.0)
UNIT = st.floats(0.0, 1.0, exclude_max=True)
SHAPES = st.builds(
    Settings,
    strategy=st.sampled_from(["exponential", "linear", "constant", "immediate", "decorrelated"]),
    initial_s=SECONDS,
    max_s=SECONDS,
    multiplier=st.floats(1.0, 10.0),
    jitter=st.sampled_from(["full", "equal", "decorrelated", "none"]),
)


@given(SHAPES, st.integers(0, 10**6), st.none() | SECONDS, UNIT)
def test_R4_every_delay_lies_between_zero_and_the_cap(
    settings: Settings, n: int, previous: float | None, draw: float
) -> None:
    assert 0.0 <= delay_s(settings, n, previous, lambda: draw) <= settings.max_s


@given(st.floats(0.001, 60.0), st.floats(0.001, 60.0), st.floats(1.0, 10.0), st.integers(0, 40))
def test_R4_exponential_is_the_formula(base: float, cap: float, multiplier: float, n: int) -> None:
    settings = Settings(initial_s=base, max_s=cap, multiplier=multiplier, jitter="none")
    assert delay_s(settings, n, None, lambda: 0.5) == pytest.approx(min(cap, base * multiplier**n))


@given(SHAPES, st.integers(0, 10**6))
def test_the_wait_never_shrinks_from_one_retry_to_the_next(settings: Settings, n: int) -> None:
    assert delay_s(settings, n, None, lambda: 0.5) <= delay_s(settings, n + 1, None, lambda: 0.5) * (1 + 1e-9)
