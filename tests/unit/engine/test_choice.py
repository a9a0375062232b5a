from __future__ import annotations

import itertools
from typing import Any

import pytest

from proxy.base.outcome import GROUP, Class, Group, Outcome
from proxy.engine.choice import TELLING, Chooser, best_failure
from proxy.engine.cluster import Cluster
from proxy.engine.plan import Plan, Price, Tier
from proxy.policy.breaker import Forced, State
from tests.playbook.driver import amend, plan

NOW = 50.0
KEY = (False, 0)


def dice() -> float:
    return 0.5


def chooser(the_plan: Plan, cluster: Cluster, rng: Any = dice) -> Chooser:
    made = Chooser(the_plan, cluster, rng, KEY)
    made.begin(NOW)
    return made


def drain(made: Chooser, the_plan: Plan, failure: Outcome | None = None, deadline: float = 1000.0) -> str:
    """The names of all that can be chosen, one after the other, as if each failed."""
    names = []
    while (chosen := made.next(failure, deadline, NOW)) is not None:
        names.append(the_plan.candidates[chosen.index].target.provider)
        failure = Outcome(cls=Class.SERVER_ERROR)
    return " ".join(names)


def test_H6_the_ranking_names_every_class_but_success_and_cancellation_once() -> None:
    ranked = list(itertools.chain.from_iterable(TELLING))
    assert len(ranked) == len(set(ranked))
    assert set(ranked) == {cls for cls in Class if GROUP[cls] not in (Group.GOOD, Group.CANCELLED)}


def test_H6_best_failure_is_the_most_telling_and_the_earliest_of_equals() -> None:
    for better, worse in itertools.pairwise(TELLING):
        outcomes = [Outcome(cls=worse[0]), Outcome(cls=better[-1]), Outcome(cls=Class.CANCELLED)]
        for order in itertools.permutations(outcomes):
            found = best_failure(order)
            assert found is not None
            assert found.cls is better[-1]
    twins = [Outcome(cls=Class.TIMEOUT, code="1"), Outcome(cls=Class.TIMEOUT, code="2")]
    assert best_failure(twins) is twins[0]
    assert best_failure([]) is None


def test_a_refusal_takes_nothing() -> None:
    cluster = Cluster(dice)
    the_plan = plan("a")
    state = cluster.state(the_plan.candidates[0], NOW)
    made = chooser(the_plan, cluster)
    state.breaker.force(Forced.OPEN, None, NOW)
    assert made.next(None, 1000.0, NOW) is None
    assert state.limiter.inflight == 0
    state.breaker.force(Forced.NONE, None, NOW)
    state.cooldown.extend(NOW, 10.0, dice, "rate_limit")
    assert made.next(None, 1000.0, NOW) is None
    assert (state.limiter.inflight, state.limiter.refused) == (0, 0)  # the cool-down is asked first
    assert made.skipped == {"a/m": "rate_limit"}


def test_what_is_given_back_can_be_chosen_again() -> None:
    cluster = Cluster(dice)
    the_plan = amend(plan("a", "b"), 0, max_concurrency=1)
    made = chooser(the_plan, cluster)
    for _ in range(3):
        chosen = made.next(None, 1000.0, NOW)
        assert chosen is not None
        assert chosen.index == 0
        made.give_back(chosen, NOW)
        assert chosen.state.limiter.inflight == 0


@pytest.mark.parametrize(
    ("cooling", "opened", "cls", "wait"),
    [
        ((), (), Class.LOCAL_REJECT, None),
        (("a", "b"), (), Class.RATE_LIMIT, 10.0),
        (("a",), ("b",), Class.CIRCUIT_OPEN, 10.0),
        ((), ("a", "b"), Class.CIRCUIT_OPEN, 60.0),
    ],
)
def test_the_refusal_of_a_whole_chain(
    cooling: tuple[str, ...], opened: tuple[str, ...], cls: Class, wait: float | None
) -> None:
    cluster = Cluster(dice)
    the_plan = plan("a", "b")
    for candidate in the_plan.candidates:
        state = cluster.state(candidate, NOW)
        if candidate.target.provider in cooling:
            state.cooldown.extend(NOW, 10.0, dice, "rate_limit")
        if candidate.target.provider in opened:
            state.breaker.force(Forced.OPEN, None, NOW)
    made = chooser(the_plan, cluster)
    if cooling or opened:
        assert made.next(None, 1000.0, NOW) is None
    assert made.refusal(NOW).cls is cls
    assert made.soonest_s(NOW) == wait


def test_the_message_of_a_refusal_stays_short() -> None:
    cluster = Cluster(dice)
    the_plan = plan(*[f"a-provider-with-a-long-name-{i}" for i in range(16)])
    for candidate in the_plan.candidates:
        cluster.state(candidate, NOW).breaker.force(Forced.OPEN, None, NOW)
    made = chooser(the_plan, cluster)
    assert made.next(None, 1000.0, NOW) is None
    assert len(made.refusal(NOW).message) <= 200


def test_has_next_asks_for_the_class() -> None:
    cluster = Cluster(dice)
    the_plan = amend(plan("a", "b"), 1, trigger=frozenset({Class.RATE_LIMIT}))
    made = chooser(the_plan, cluster)
    assert not made.has_next(0)
    assert made.has_next(0, Class.RATE_LIMIT)
    assert made.next(None, 1000.0, NOW) is not None
    assert made.has_next(0, Class.RATE_LIMIT)
    assert made.next(Outcome(cls=Class.RATE_LIMIT), 1000.0, NOW) is not None
    assert not made.has_next(0, Class.RATE_LIMIT)


def test_tiers_come_in_order_whatever_the_file_says() -> None:
    the_plan = plan("e", "a", "c", "b")
    for index, tier in enumerate((Tier.EMERGENCY, Tier.PRIMARY, Tier.TERTIARY, Tier.SECONDARY)):
        the_plan = amend(the_plan, index, tier=tier)
    assert drain(chooser(the_plan, Cluster(dice)), the_plan) == "a b c e"


def test_balance_changes_places_within_a_tier_only() -> None:
    the_plan = plan("a", "b", "c", balance="cheapest")
    for index, (price, tier) in enumerate([(9.0, Tier.PRIMARY), (3.0, Tier.PRIMARY), (1.0, Tier.SECONDARY)]):
        the_plan = amend(the_plan, index, price=Price(input=price, output=0.0), tier=tier)
    assert drain(chooser(the_plan, Cluster(dice)), the_plan) == "b a c"


def test_weighted_follows_the_dice() -> None:
    the_plan = amend(plan("a", "b", balance="weighted"), 1, weight=3)
    assert drain(chooser(the_plan, Cluster(dice), lambda: 0.2), the_plan) == "a b"
    assert drain(chooser(the_plan, Cluster(dice), lambda: 0.3), the_plan) == "b a"


def test_whom_the_balance_chooses_is_the_primary_of_the_request() -> None:
    cluster = Cluster(dice)
    the_plan = amend(plan("a", "b", balance="weighted"), 1, weight=3)
    assert chooser(the_plan, cluster, lambda: 0.2).primary == 0
    assert chooser(the_plan, cluster, lambda: 0.3).primary == 1
    cluster.state(the_plan.candidates[1], NOW).breaker.force(Forced.OPEN, None, NOW)
    made = chooser(the_plan, cluster, lambda: 0.3)
    chosen = made.next(None, 1000.0, NOW)
    assert chosen is not None
    assert (chosen.index, made.primary, made.primary_refusal) == (0, 1, "circuit_open")
    assert made.primary_state is State.OPEN


def test_without_failover_the_chain_is_the_primary() -> None:
    the_plan = plan("a", "b", failover=False)
    made = chooser(the_plan, Cluster(dice))
    assert made.alone
    assert drain(made, the_plan) == "a"


def test_the_primary_state_is_told_also_when_it_was_not_asked() -> None:
    cluster = Cluster(dice)
    the_plan = plan("a", "b")
    cluster.state(the_plan.candidates[0], NOW).breaker.force(Forced.OPEN, None, NOW)
    made = chooser(the_plan, cluster)
    chosen = made.next(None, 1000.0, NOW)
    assert chosen is not None
    assert (chosen.index, made.primary_state, made.primary_refusal) == (1, State.OPEN, "circuit_open")


def test_a_target_whose_fastest_answers_take_longer_than_what_is_left() -> None:
    cluster = Cluster(dice)
    the_plan = plan("a", "b")
    for _ in range(50):
        cluster.state(the_plan.candidates[0], NOW).latency.observe(KEY, 5.0, NOW)
    made = chooser(the_plan, cluster)
    assert drain(made, the_plan, deadline=NOW + 4.0) == "b"
    assert drain(chooser(the_plan, cluster), the_plan, deadline=NOW + 6.0) == "a b"
