from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.balance import Entry, Load, arrange


def entry(index: int, **over: Any) -> Entry:
    return Entry(
        index=index,
        tier=over.get("tier", 0),
        weight=over.get("weight", 1),
        price=over.get("price"),
        load=over.get("load") or Load(),
        pending=over.get("pending", 0),
    )


def load(seconds: float, at: float = 0.0) -> Load:
    made = Load()
    made.observe(seconds, at)
    return made


def test_load_of_an_unknown_target_is_one_second() -> None:
    assert Load().cost_s(1e9) == 1.0


def test_load_takes_a_peak_at_once_and_forgets_it_over_ten_seconds() -> None:
    made = load(0.2)
    made.observe(3.0, 1.0)
    assert made.cost_s(1.0) == 3.0
    assert made.cost_s(11.0) == pytest.approx(3.0 / math.e)
    # cost(now) + x * (1 - w), w = exp(-10 / 10)
    made.observe(0.5, 11.0)
    assert made.cost_s(11.0) == pytest.approx(3.0 / math.e + 0.5 * (1 - 1 / math.e))


@pytest.mark.parametrize(("told", "cost"), [(None, 5.0), (1.0, 5.0), (60.0, 60.0), (1e9, 300.0)])
def test_a_failure_costs_five_seconds_at_least(told: float | None, cost: float) -> None:
    made = load(0.005)
    made.penalise(told, 0.0)
    assert made.cost_s(0.0) == cost


def test_a_penalty_never_makes_a_target_cheaper() -> None:
    made = load(120.0)
    made.penalise(None, 0.0)
    assert made.cost_s(0.0) == 120.0


def test_L3_a_recovered_target_is_forgiven_within_five_time_constants() -> None:
    made = Load()
    made.penalise(None, 0.0)
    made.observe(0.1, 50.0)
    assert made.cost_s(50.0) < 0.2


def test_a_clock_that_goes_backwards_does_not_blow_the_cost_up() -> None:
    made = load(2.0, at=100.0)
    assert made.cost_s(0.0) == 2.0


HOWS = st.sampled_from(["priority", "weighted", "adaptive", "cheapest"])


@given(
    how=HOWS,
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.none() | st.floats(0, 100), st.floats(0.001, 60)), max_size=8
    ),
    seed=st.integers(0, 2**32),
)
def test_every_target_has_one_place_and_tiers_stay_in_order(how: Any, rows: list[Any], seed: int) -> None:
    entries = [
        entry(i, tier=tier, weight=weight, price=price, load=load(cost))
        for i, (tier, weight, price, cost) in enumerate(rows)
    ]
    order = arrange(how, entries, Random(seed).random, 1.0)
    assert sorted(order) == list(range(len(rows)))
    tiers = [rows[i][0] for i in order]
    assert tiers == sorted(tiers)


def test_priority_keeps_the_files_order() -> None:
    assert arrange("priority", [entry(i) for i in range(4)], Random(1).random, 0.0) == [0, 1, 2, 3]


def test_cheapest_puts_unknown_prices_last() -> None:
    entries = [entry(0), entry(1, price=5.0), entry(2, price=0.0), entry(3, price=1.0)]
    assert arrange("cheapest", entries, Random(1).random, 0.0) == [2, 3, 1, 0]


def test_weighted_leads_by_weight_and_weight_zero_is_a_pure_fallback() -> None:
    rng = Random(3).random
    entries = [entry(0, weight=6), entry(1, weight=3), entry(2, weight=1), entry(3, weight=0)]
    orders = [arrange("weighted", entries, rng, 0.0) for _ in range(6000)]
    leads = Counter(order[0] for order in orders)
    assert [leads[i] / 6000 for i in range(4)] == pytest.approx([0.6, 0.3, 0.1, 0.0], abs=0.025)
    assert {order[-1] for order in orders} == {3}
    # All of weight 0: the file's order.
    assert arrange("weighted", [entry(0, weight=0), entry(1, weight=0)], rng, 0.0) == [0, 1]


def test_L1_two_distinct_picks_every_pair_equally_often() -> None:
    rng = Random(5).random
    # Target i costs i: the lead is the lower of the pair, so its distribution tells how pairs are drawn.
    entries = [entry(i, load=load(0.1 * (i + 1))) for i in range(4)]
    leads = Counter(arrange("adaptive", entries, rng, 0.0)[0] for _ in range(6000))
    # Of the 6 pairs target 0 is the lower in 3, 1 in 2, 2 in 1, and 3 in none: it was never picked with itself.
    assert [leads[i] / 6000 for i in range(4)] == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0.0], abs=0.025)


def test_adaptive_counts_what_is_pending_and_the_weight() -> None:
    entries = [entry(0, load=load(0.1), pending=9), entry(1, load=load(0.5))]
    assert arrange("adaptive", entries, Random(1).random, 0.0) == [1, 0]
    entries = [entry(0, load=load(0.5), weight=10), entry(1, load=load(0.1))]
    assert arrange("adaptive", entries, Random(1).random, 0.0) == [0, 1]


def test_L2_an_always_failing_target_attracts_nothing_after_fifty_requests() -> None:
    rng = Random(9).random
    loads = [Load() for _ in range(5)]
    sent: Counter[int] = Counter()
    for request in range(4050):
        now = request / 40
        entries = [entry(i, load=loads[i]) for i in range(5)]
        lead = arrange("adaptive", entries, rng, now)[0]
        if request >= 50:
            sent[lead] += 1
        if lead == 4:
            loads[4].penalise(None, now)
        else:
            loads[lead].observe(0.1, now)
    assert sent[4] / 4000 < 0.01
    assert all(sent[i] / 4000 > 0.1 for i in range(4))  # L4: none of the others starves
