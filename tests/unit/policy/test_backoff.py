from __future__ import annotations

import pytest

from proxy.policy.backoff import Settings, delay_s


def rng(value: float):
    return lambda: value


def never() -> float:
    raise AssertionError("an exact delay draws no random number")


def test_R4_defaults_are_full_jitter_over_a_doubling_wait() -> None:
    waits = [delay_s(Settings(), n, None, rng(0.5)) for n in range(7)]
    assert waits == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert delay_s(Settings(), 3, None, rng(0.0)) == 0.0


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("exponential", [0.1, 0.3, 0.9, 1.0]),
        ("linear", [0.1, 0.2, 0.3, 0.4]),
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        ("immediate", [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_R4_shapes_are_exact_without_jitter(strategy: str, expected: list[float]) -> None:
    settings = Settings(strategy=strategy, initial_s=0.1, max_s=1.0, multiplier=3.0, jitter="none")  # type: ignore[arg-type]
    assert [delay_s(settings, n, None, never) for n in range(4)] == pytest.approx(expected)


def test_equal_jitter_keeps_the_upper_half() -> None:
    settings = Settings(initial_s=1.0, jitter="equal")
    assert delay_s(settings, 0, None, rng(0.0)) == 0.5
    assert delay_s(settings, 0, None, rng(1.0)) == 1.0


@pytest.mark.parametrize("settings", [Settings(strategy="decorrelated"), Settings(jitter="decorrelated")])
def test_decorrelated_lies_between_the_base_and_three_times_the_last(settings: Settings) -> None:
    assert delay_s(settings, 0, None, rng(0.0)) == 0.25
    assert delay_s(settings, 0, None, rng(1.0)) == 0.75
    assert delay_s(settings, 1, 2.0, rng(1.0)) == 6.0
    assert delay_s(settings, 2, 7.0, rng(1.0)) == 8.0
    assert delay_s(settings, 2, 0.0, rng(0.0)) == 0.25, "a last wait below the base counts as the base"
    assert delay_s(settings, 2, float("nan"), rng(0.0)) == 0.25


def test_R4_a_schedule_is_exact_and_its_last_entry_repeats() -> None:
    settings = Settings(delays_s=(0.0, 1.0, 20.0), jitter="full", max_s=8.0)
    assert [delay_s(settings, n, None, never) for n in range(5)] == [0.0, 1.0, 20.0, 20.0, 20.0]


@pytest.mark.parametrize("strategy", ["exponential", "linear", "decorrelated", "constant"])
@pytest.mark.parametrize("n", [1024, 10**6, 10**400])
def test_R4_no_power_overflows(strategy: str, n: int) -> None:
    settings = Settings(strategy=strategy, multiplier=10.0, max_s=8.0)  # type: ignore[arg-type]
    assert 0.0 <= delay_s(settings, n, 1e308, rng(0.999)) <= 8.0


def test_a_multiplier_of_one_never_grows_and_a_base_of_zero_never_waits() -> None:
    assert delay_s(Settings(multiplier=1.0, jitter="none"), 10**9, None, never) == 0.25
    assert delay_s(Settings(initial_s=0.0, jitter="none"), 10**9, None, never) == 0.0
    assert delay_s(Settings(initial_s=9.0, jitter="none"), 0, None, never) == 8.0
    assert delay_s(Settings(max_s=0.0), 5, None, rng(0.9)) == 0.0


@pytest.mark.parametrize("n", [0, 1022, 1023, 1024, 5000])
def test_R4_a_base_of_next_to_nothing_does_not_overflow_either(n: int) -> None:
    settings = Settings(initial_s=5e-324, max_s=1.0, jitter="none")
    assert 0.0 <= delay_s(settings, n, None, never) <= 1.0
