from __future__ import annotations

import math

import pytest

from proxy.policy.hedge import HedgeBudget, Settings, delay_s, rescue_s


@pytest.mark.parametrize(
    ("delay", "p50", "p95", "watched", "expected"),
    [
        (None, None, None, False, 1.0),
        (None, None, None, True, 1.0),
        (None, 0.8, 1.8, False, 1.8),
        (None, 0.8, 1.8, True, 1.3),
        (None, 0.01, 0.02, False, 0.05),
        (None, 0.01, 0.02, True, 0.05),
        (None, 30.0, 400.0, False, 400.0),
        (0.2, 0.8, 1.8, True, 0.2),
        (0.0, 0.8, 1.8, False, 0.0),
    ],
)
def test_H2_the_delay(
    delay: float | None, p50: float | None, p95: float | None, watched: bool, expected: float
) -> None:
    assert delay_s(Settings(delay_s=delay), p50, p95, watched) == pytest.approx(expected)


def test_the_rescue_waits_for_the_later_of_ten_seconds_and_p99() -> None:
    assert rescue_s(Settings(), None) == 10.0
    assert rescue_s(Settings(), 4.0) == 10.0
    assert rescue_s(Settings(), 44.0) == 44.0
    assert rescue_s(Settings(rescue_after_s=0.0), 44.0) is None
    assert rescue_s(Settings(rescue=False), 44.0) is None


def test_H1_from_rest_five_hedges_and_then_one_per_twenty_requests() -> None:
    budget = HedgeBudget()
    assert [budget.try_spend() for _ in range(6)] == [True] * 5 + [False]
    for _ in range(3):
        for _ in range(19):
            budget.on_request(5.0)
        assert not budget.try_spend()
        budget.on_request(5.0)
        assert budget.try_spend()
    assert (budget.sent, budget.refused) == (8, 4)


def test_H1_over_any_window_hedges_stay_below_percent_plus_burst() -> None:
    budget = HedgeBudget()
    sent: list[int] = []
    for request in range(2000):
        budget.on_request(5.0)
        # Bursts of wishes after long quiet stretches are what a counter per window would let through.
        wished = request % 400 > 300
        sent.append(sum(budget.try_spend() for _ in range(2)) if wished else 0)
    for start in range(0, 2000, 37):
        total = 0
        for end in range(start, 2000):
            total += sent[end]
            assert total <= 0.05 * (end - start + 1) + 5


def test_a_refund_gives_back_what_was_spent_and_no_more_than_the_burst() -> None:
    budget = HedgeBudget()
    assert budget.try_spend()
    budget.refund()
    assert budget.sent == 0
    budget.refund()
    assert [budget.try_spend() for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("percent", [0.0, -5.0, math.nan])
def test_a_policy_without_a_share_earns_nothing(percent: float) -> None:
    budget = HedgeBudget()
    while budget.try_spend():
        pass
    for _ in range(1000):
        budget.on_request(percent)
    assert not budget.try_spend()
