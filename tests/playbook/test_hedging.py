"""A second attempt at once: when it comes, when it must not, who wins and who is sent home."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.base.outcome import Class
from proxy.engine.attempts import Facts
from proxy.engine.messages import ClientGone, Fired, HoldFull, Timer
from proxy.engine.plan import Plan, Price, Retry, Stream
from proxy.policy import hedge
from proxy.policy.breaker import Forced
from tests.playbook.driver import (
    SILENT,
    Act,
    Stage,
    amend,
    breaks,
    chain,
    e429,
    e500,
    fails,
    ok,
    plan,
    streams,
    timeout,
)

NO_RETRY = Retry(max_retries=0)


def hedged(*names: str, hedge_order: tuple[int, ...] = (), max_attempts: int = 8, **settings: Any) -> Plan:
    the_hedge = hedge.Settings(enabled=True, **settings)
    return plan(*names, hedge=the_hedge, hedge_order=hedge_order, max_attempts=max_attempts, retry=NO_RETRY)


def test_H2_before_fifty_samples_the_hedge_comes_after_one_second() -> None:
    story = Stage().play(hedged("a", "b"), {"a": ok(5.0), "b": ok(0.3)})
    assert story.dials == [(0.0, "a", "first"), (1.0, "b", "hedge")]
    assert story.served == (1.3, "b")
    assert story.cancels == [(1.3, 0, "superseded")]
    assert story.machine.failover_reason() == "hedge"


def test_H2_the_hedge_comes_at_the_learned_p95() -> None:
    stage = Stage()
    stage.learn("a", [0.1 * i for i in range(1, 101)], count=1)
    story = stage.play(hedged("a", "b"), {"a": ok(20.0), "b": ok(0.3)})
    assert story.dials[1][0] == pytest.approx(9.5, rel=0.03)


def test_H2_the_floor_is_fifty_milliseconds_and_there_is_no_ceiling() -> None:
    stage = Stage()
    stage.learn("a", 0.004)
    stage.learn("slow", 90.0)
    assert stage.play(hedged("a", "b"), {"a": ok(5.0), "b": ok(0.3)}).dials[1][0] == 0.05
    story = stage.play(hedged("slow", "b"), {"slow": ok(500.0), "b": ok(0.3)})
    assert story.dials[1][0] == pytest.approx(90.0, rel=0.03)


def test_a_stated_delay_is_kept_even_when_it_is_zero() -> None:
    assert Stage().play(hedged("a", "b", delay_s=0.2), {"a": ok(5.0), "b": ok(0.3)}).dials[1][0] == 0.2
    assert Stage().play(hedged("a", "b", delay_s=0.0), {"a": ok(5.0), "b": ok(0.3)}).dials[1] == (0.0, "b", "hedge")


def test_a_fast_primary_is_not_hedged() -> None:
    story = Stage().play(hedged("a", "b"), {"a": ok(0.9)})
    assert (story.path, story.served) == ("a", (0.9, "a"))
    assert story.machine.hedge_armed
    assert story.machine.hedges == 0
    assert story.hedge_sets == [1.0, None]


def test_rescue_after_ten_seconds_where_nobody_asked() -> None:
    story = Stage().play(plan("a", "b"), {"a": ok(30.0), "b": ok(0.3)})
    assert story.dials == [(0.0, "a", "first"), (10.0, "b", "hedge")]
    assert not story.machine.hedge_armed


def test_rescue_waits_for_a_longer_p99() -> None:
    stage = Stage()
    stage.learn("a", 25.0)
    story = stage.play(plan("a", "b"), {"a": ok(60.0), "b": ok(0.3)})
    assert story.dials[1][0] == pytest.approx(25.0, rel=0.03)


def test_X_Request_Hedging_false_and_rescue_after_zero_switch_it_off() -> None:
    for settings in (hedge.Settings(rescue=False), hedge.Settings(rescue_after_s=0.0)):
        assert Stage().play(plan("a", "b", hedge=settings), {"a": ok(30.0)}).path == "a"


def test_a_lone_target_and_a_chain_without_failover_are_never_hedged() -> None:
    assert Stage().play(hedged("a"), {"a": ok(30.0)}).path == "a"
    off = replace(hedged("a", "b"), failover=False)
    assert Stage().play(off, {"a": ok(30.0)}).path == "a"


# After a failure ------------------------------------------------------------------------------------------------------


def test_H2_after_a_definite_failure_there_is_failover_and_no_hedge() -> None:
    stage = Stage()
    story = stage.play(hedged("a", "b"), {"a": e500(0.5), "b": ok(0.9)})
    assert story.kinds == "first failover"
    assert story.dials[1][0] == 0.5
    assert stage.tokens("b") == 10.0
    # The failover is watched anew, from its own start.
    assert story.hedge_sets == [1.0, None, 1.5, None]


def test_H4_an_error_of_one_waits_for_the_other() -> None:
    story = Stage().play(hedged("a", "b"), {"a": ok(4.0), "b": e500(0.3)})
    assert (story.path, story.served) == ("a b", (4.0, "a"))
    story = Stage().play(hedged("a", "b", "c"), {"a": e500(1.5), "b": ok(4.0)})
    assert (story.path, story.served) == ("a b", (5.0, "b"))
    assert story.machine.failover_reason() == "server_error"


def test_H4_the_callers_fault_of_one_does_not_end_the_other() -> None:
    story = Stage().play(hedged("a", "b"), {"a": fails(Class.INVALID_REQUEST, 1.5, status=400), "b": ok(4.0)})
    assert story.served == (5.0, "b")


def test_if_both_fail_the_chain_goes_on_without_delay() -> None:
    story = Stage().play(hedged("a", "b", "c"), {"a": e500(2.0), "b": e500(3.0), "c": ok()})
    assert story.dials[2] == (4.0, "c", "failover")


def test_H6_if_all_fail_the_best_error_is_told() -> None:
    story = Stage().play(hedged("a", "b"), {"a": fails(Class.CONNECT_ERROR, 2.0), "b": e429(120.0, after=3.0)})
    assert story.failed == (4.0, "rate_limit")


# Where a hedge may not go ---------------------------------------------------------------------------------------------


def test_a_hedge_goes_only_to_a_closed_target_that_is_not_cooling_and_has_room() -> None:
    stage = Stage()
    stage.state("open").breaker.force(Forced.OPEN, None, stage.now)
    stage.state("cooling").cooldown.extend(stage.now, 60.0, lambda: 0.5, "rate_limit")
    the_plan = hedged("a", "open", "cooling", "full", "b")
    the_plan = amend(the_plan, 3, max_concurrency=1)
    stage.cluster.state(the_plan.candidates[3], stage.now).limiter.try_acquire(stage.now)
    assert stage.play(the_plan, {"a": ok(9.0), "b": ok()}).path == "a b"
    without = replace(the_plan, candidates=the_plan.candidates[:4])
    story = stage.play(without, {"a": ok(9.0)})
    assert (story.path, story.served) == ("a", (9.0, "a"))
    assert story.machine.hedge_note == "no_target"


def test_a_half_open_target_is_no_place_for_a_hedge() -> None:
    stage = Stage()
    stage.fail_times("b", 4)
    stage.wait(30.0)
    assert stage.play(hedged("a", "b"), {"a": ok(9.0)}).path == "a"


def test_a_target_whose_trigger_takes_no_timeout_is_not_hedged_to() -> None:
    the_plan = amend(hedged("a", "b"), 1, trigger=frozenset({Class.RATE_LIMIT}))
    assert Stage().play(the_plan, {"a": ok(9.0)}).path == "a"


def test_another_provider_is_preferred_and_a_stated_order_obeyed() -> None:
    assert Stage().play(hedged("a/x", "a/y", "b"), {"a": ok(9.0), "b": ok()}).path == "a b"
    assert Stage().play(hedged("a/x", "a/y"), {"a": [ok(9.0), ok()]}).path == "a a"
    assert Stage().play(hedged("a", "b", "c", hedge_order=(0, 2, 1)), {"a": ok(9.0), "c": ok()}).path == "a c"


def test_when_all_targets_are_watched_hedging_is_off() -> None:
    stage = Stage(dice=0.5)
    for name in "ab":
        stage.learn(name, 0.5)
        for _ in range(2):
            stage.play(plan(name), {name: ok(3.0)})
    story = stage.play(hedged("a", "b"), {"a": ok(9.0)})
    assert (story.path, story.machine.hedge_note) == ("a", "overload")


def test_a_watched_target_is_hedged_earlier() -> None:
    stage = Stage(dice=0.5)
    stage.learn("a", [0.2] * 50 + [1.0] * 50, count=1)
    for _ in range(2):
        stage.play(plan("a"), {"a": ok(3.0)})
    story = stage.play(hedged("a", "b"), {"a": ok(9.0), "b": ok()})
    # p50 + (p95 - p50) / 2 instead of p95; the two slow answers have moved p50 to 1.0's bucket at most.
    p50, p95 = (stage.state("a").latency.p(q, (False, 0), stage.now) for q in (0.5, 0.95))
    assert p50 is not None
    assert p95 is not None
    assert story.dials[1][0] <= p50 + (p95 - p50) / 2 + 0.05


# Budgets --------------------------------------------------------------------------------------------------------------


def test_H1_a_burst_of_five_then_one_hedge_per_twenty_requests() -> None:
    stage = Stage()
    for i in range(5):
        assert stage.play(hedged("a", "b", delay_s=1.0), {"a": ok(5.0), "b": ok(0.0)}).path == "a b", i
    story = stage.play(hedged("a", "b", delay_s=1.0), {"a": ok(1.5)})
    assert (story.path, story.machine.hedge_note) == ("a", "hedge_budget")
    sent = sum(
        stage.play(hedged("a", "b", delay_s=1.0), {"a": ok(1.5), "b": ok(0.0)}).machine.hedges for _ in range(100)
    )
    assert sent == 5
    stage.assert_quiet()


def test_U2_a_hedge_costs_a_token_of_its_own_target() -> None:
    stage = Stage()
    stage.play(hedged("a", "b"), {"a": ok(5.0), "b": fails(Class.SERVER_ERROR, 0.1)})
    assert (stage.tokens("a"), stage.tokens("b")) == (10.0, 9.0)
    while stage.state("b").budget.withdraw(1.0, stage.now):
        pass
    story = stage.play(hedged("a", "b"), {"a": ok(5.0)})
    assert (story.path, story.machine.hedge_note) == ("a", "target_budget")
    # The refusal gave everything back, and the running attempt went on (U4).
    assert story.served == (5.0, "a")
    assert stage.cluster.hedges.sent == 1
    stage.assert_quiet()


@pytest.mark.parametrize(
    ("price", "output_limit", "most", "note"),
    [
        (None, 1000, 1.0, "price_unknown"),
        (Price(input=10.0, output=30.0), None, 1.0, "price_unknown"),
        # 2,000 tokens in at 10 and 1,000 out at 30 USD per million: 0.05 USD
        (Price(input=10.0, output=30.0), 1000, 0.0499, "max_additional_cost"),
        (Price(input=10.0, output=30.0), 1000, 0.0501, ""),
        (None, None, None, ""),
    ],
)
def test_max_additional_cost(price: Price | None, output_limit: int | None, most: float | None, note: str) -> None:
    the_plan = amend(hedged("a", "b", max_additional_cost=most), 1, price=price)
    facts = Facts(prompt_tokens=2000, output_limit=output_limit)
    story = Stage().play(the_plan, {"a": ok(5.0), "b": ok()}, facts=facts)
    assert story.path == ("a" if note else "a b")
    assert story.machine.hedge_note == note


def test_max_additional_cost_counts_all_extra_attempts_of_the_request() -> None:
    the_plan = hedged("a", "b", "c", max_additional_cost=0.08, max_hedges=2)
    for index in (1, 2):
        the_plan = amend(the_plan, index, price=Price(input=10.0, output=30.0))
    facts = Facts(prompt_tokens=2000, output_limit=1000)
    story = Stage().play(the_plan, {"a": ok(9.0), "b": SILENT}, facts=facts)
    assert (story.path, story.machine.hedge_note) == ("a b", "max_additional_cost")


def test_H3_at_most_as_many_hedges_as_the_plan_allows() -> None:
    script = {"a": SILENT, "b": SILENT, "c": ok(0.5), "d": ok(0.5)}
    one = Stage().play(replace(hedged("a", "b", "c"), timeout_s=20.0), script)
    assert one.path == "a b"
    two = Stage().play(hedged("a", "b", "c", "d", max_hedges=2), script)
    assert two.dials == [(0.0, "a", "first"), (1.0, "b", "hedge"), (2.0, "c", "hedge")]
    assert two.cancels == [(2.5, 0, "superseded"), (2.5, 1, "superseded")]


def test_R1_hedges_count_as_attempts() -> None:
    assert Stage().play(hedged("a", "b", max_attempts=1), {"a": ok(9.0)}).path == "a"


# Streams, winners, losers ---------------------------------------------------------------------------------------------


def test_H3_no_hedge_once_a_stream_has_begun() -> None:
    story = Stage().play(hedged("a", "b"), {"a": streams(0.9, 60.0)}, stream=True)
    assert (story.path, story.served) == ("a", (0.9, "a"))


def test_first_success_keeps_the_others_until_the_stream_has_ended() -> None:
    script = {"a": streams(3.0, 9.0), "b": streams(0.5, 5.0)}
    story = Stage().play(hedged("a", "b", strategy="first-success"), script, stream=True)
    assert story.served == (1.5, "b")
    assert story.cancels == [(6.0, 0, "superseded")]


@pytest.mark.parametrize(("spare", "heir"), [(SILENT, None), (streams(3.0, 60.0), 0)], ids=["silent", "speaking"])
def test_first_success_offers_a_spare_that_has_spoken_when_the_winner_breaks(spare: Act, heir: int | None) -> None:
    stage = Stage()
    script = {"a": spare, "b": breaks(0.5, 5.0)}
    story = stage.begin(hedged("a", "b", strategy="first-success"), script, stream=True)
    stage.run(until=7.0)
    assert (story.served, story.cancels) == ((1.5, "b"), [])
    assert story.machine.take_over(lambda n: False) is None, "its answer has been thrown away"
    assert story.machine.take_over() == heir
    stage.feed(story, ClientGone("downstream"))  # what dispatch says when the request is over, whoever ended it
    assert story.cancels == [(7.0, 0, "downstream")]
    stage.assert_quiet()


def test_cancel_slower_false_lets_the_loser_run_and_measures() -> None:
    stage = Stage()
    story = stage.play(hedged("a", "b", cancel_slower=False), {"a": ok(5.0), "b": ok(0.3)})
    assert (story.served, story.cancels) == ((1.3, "b"), [])
    assert story.machine.hedge_saved_s(stage.now) == pytest.approx(3.7)
    assert stage.state("a").latency.count == 1
    stage.assert_quiet()


def test_H5_a_loser_that_is_let_run_ends_with_the_deadline() -> None:
    stage = Stage()
    the_plan = replace(hedged("a", "b", cancel_slower=False), timeout_s=30.0)
    story = stage.play(the_plan, {"a": SILENT, "b": ok(0.3)})
    assert story.cancels == [(30.0, 0, "deadline")]
    assert story.failed is None
    stage.assert_quiet()


def test_what_a_cancelled_loser_would_have_needed_is_estimated() -> None:
    stage = Stage()
    stage.learn("a", [0.5] * 96 + [8.0] * 4, count=1)
    story = stage.play(hedged("a", "b"), {"a": ok(9.0), "b": ok(0.2)})
    assert story.served is not None
    waited = story.served[0]
    assert story.machine.hedge_saved_s(stage.now) == pytest.approx(8.0 - waited, rel=0.05)
    unknown = Stage().play(hedged("a", "b"), {"a": ok(9.0), "b": ok(0.2)})
    assert unknown.machine.hedge_saved_s(2000.0) == 0.0


def test_losers_are_recorded_as_at_least_so_long_and_as_no_error() -> None:
    stage = Stage()
    stage.play(hedged("a", "b"), {"a": ok(9.0), "b": ok(0.2)})
    assert stage.state("a").latency.count == 1
    assert stage.state("a").breaker.view(stage.now)["counts"] == {"cancelled.superseded": 1}
    assert stage.tokens("a") == 10.0


def test_buffer_recovery_sends_losers_home_at_content_and_commits_at_the_end() -> None:
    the_plan = replace(hedged("a", "b"), stream=Stream(recovery="buffer"))
    story = Stage().play(the_plan, {"a": streams(5.0, 9.0), "b": streams(0.5, 3.0)}, stream=True)
    assert story.cancels == [(1.5, 0, "superseded")]
    assert story.served == (4.0, "b")


def test_a_full_hold_buffer_commits_at_the_cap() -> None:
    stage = Stage()
    story = stage.begin(hedged("a", "b"), {"a": streams(50.0, 60.0)}, stream=True)
    stage.run(until=0.5)
    stage.feed(story, HoldFull(0))
    stage.feed(story, HoldFull(0))
    stage.run()
    assert (story.path, story.served) == ("a", (0.5, "a"))
    stage.assert_quiet()


def test_a_hedge_timer_that_was_disarmed_does_nothing_when_it_still_fires() -> None:
    stage = Stage()
    story = stage.begin(hedged("a", "b"), {"a": streams(0.5, 9.0)}, stream=True)
    stage.feed(stage.begin(hedged("x", "y"), {}), Fired(Timer.BACKOFF))
    stage.run(until=0.6)
    stage.feed(story, Fired(Timer.HEDGE))
    waiting = stage.begin(plan(candidates=chain("c", "d")), {"c": [e500(0.1), timeout(1.0)]}, at=0.6)
    stage.run(until=0.8)
    stage.feed(waiting, Fired(Timer.HEDGE))
    assert (story.path, waiting.path) == ("a", "c")


def test_a_hedge_that_was_refused_is_not_sent_when_its_timer_is_told_twice() -> None:
    stage = Stage()
    stage.state("b").breaker.force(Forced.OPEN, stage.now + 2.0, stage.now)
    story = stage.begin(hedged("a", "b"), {"a": ok(9.0), "b": ok()})
    stage.run(until=3.0)
    stage.feed(story, Fired(Timer.HEDGE))
    stage.run()
    assert (story.path, story.machine.hedge_note) == ("a", "no_target")


def test_U2_only_a_hedge_that_fails_keeps_its_price() -> None:
    chosen = plan("a", "b", hedge=hedge.Settings(enabled=True, delay_s=1.0))
    stage = Stage()
    stage.play(chosen, {"a": [SILENT], "b": [ok(0.1)]})
    assert stage.tokens("b") == pytest.approx(10.0), "it answered"
    stage.play(chosen, {"a": [ok(1.5)], "b": [ok(9.0)]})
    assert stage.tokens("b") == pytest.approx(10.0), "it lost against an answer"
    stage.play(chosen, {"a": [ok(3.0)], "b": [e500(0.1)]})
    assert stage.tokens("b") == pytest.approx(9.0), "it failed"


def test_a_call_with_effects_of_its_own_is_never_sent_twice_at_once() -> None:
    chosen = plan("a", "b", hedge=hedge.Settings(enabled=True, delay_s=1.0))
    request = Stage().play(chosen, {"a": [ok(5.0)]}, facts=Facts(may_hedge=False))
    assert request.kinds == "first"
    assert request.hedge_sets == []
