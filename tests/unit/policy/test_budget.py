from __future__ import annotations

import math

from proxy.policy.budget import HEDGE_COST, RETRY_AFTER_TIMEOUT_COST, RETRY_COST, Budget


def drained(now: float = 0.0) -> Budget:
    budget = Budget(now)
    while budget.withdraw(RETRY_COST, now):
        pass
    return budget


def test_U1_it_starts_full_and_ten_retries_empty_it() -> None:
    budget = Budget(0.0)
    assert [budget.withdraw(RETRY_COST, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert budget.tokens(0.0) == 0.0
    assert budget.refused == 1


def test_a_retry_after_a_timeout_costs_double() -> None:
    budget = Budget(0.0)
    assert [budget.withdraw(RETRY_AFTER_TIMEOUT_COST, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_U2_ten_successes_buy_exactly_one_retry() -> None:
    budget = drained()
    for _ in range(9):
        budget.earn(0.0)
    assert not budget.withdraw(RETRY_COST, 0.0)
    budget.earn(0.0)
    assert budget.tokens(0.0) == 1.0
    assert budget.withdraw(HEDGE_COST, 0.0)
    assert budget.tokens(0.0) == 0.0


def test_U1_earning_and_refunding_stop_at_the_cap() -> None:
    budget = Budget(0.0)
    budget.earn(0.0)
    budget.refund(RETRY_COST, 0.0)
    assert budget.tokens(0.0) == 10.0


def test_U3_a_refund_restores_the_balance() -> None:
    budget = Budget(0.0)
    budget.withdraw(RETRY_AFTER_TIMEOUT_COST, 0.0)
    budget.refund(RETRY_AFTER_TIMEOUT_COST, 0.0)
    assert budget.tokens(0.0) == 10.0


def test_the_trickle_gives_one_token_every_ten_seconds_up_to_two() -> None:
    budget = drained(100.0)
    assert [budget.tokens(100.0 + s) for s in (9.99, 10.0, 19.99, 20.0, 1000.0)] == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_the_trickle_counts_from_the_moment_the_balance_fell_below_two() -> None:
    budget = Budget(0.0)
    for _ in range(8):
        budget.withdraw(RETRY_COST, 0.0)
    assert budget.withdraw(RETRY_COST, 50.0), "2 -> 1 at 50 s"
    assert budget.tokens(59.0) == 1.0
    assert budget.tokens(60.0) == 2.0


def test_the_trickle_never_lifts_above_two() -> None:
    budget = drained(0.0)
    for _ in range(15):
        budget.earn(0.0)
    assert budget.tokens(10.0) == 2.0


def test_wrong_clocks_change_nothing() -> None:
    budget = drained(1000.0)
    assert budget.tokens(0.0) == 0.0
    assert budget.tokens(math.nan) == 0.0
    assert budget.tokens(1010.0) == 1.0
    assert budget.tokens(1e300) == 2.0
    assert budget.tokens(math.inf) == 2.0
    assert not budget.withdraw(math.nan, 1e300)
    assert budget.tokens(1e300) == 2.0


def test_an_unlimited_budget_never_refuses_and_an_empty_one_always_does() -> None:
    off = Budget(0.0, cap=math.inf)
    assert all(off.withdraw(RETRY_COST, 0.0) for _ in range(100))
    off.earn(0.0)
    off.refund(RETRY_COST, 0.0)
    assert off.tokens(1e9) == math.inf
    none = Budget(0.0, cap=0.0)
    assert not none.withdraw(RETRY_COST, 1e9)


def test_C9_a_full_outage_of_ten_minutes_costs_at_most_seventy_retries() -> None:
    budget = Budget(0.0)
    retries = 0
    for tick in range(600 * 20):
        for _ in range(3):
            retries += budget.withdraw(RETRY_COST, tick / 20)
    assert retries <= 70
    assert retries >= 68
