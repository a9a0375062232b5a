"""Where a request goes when a target fails: the chain, its triggers, exclusions, the error that is told in the end."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from proxy.base.outcome import ANY_ERROR, Class
from proxy.engine.choice import TELLING
from proxy.engine.plan import Plan, Retry, Stream, Tier, Timers
from proxy.policy import breaker, hedge
from proxy.policy.breaker import Exclusion, Forced, State
from tests.playbook.driver import (
    SILENT,
    Act,
    Stage,
    amend,
    breaks,
    chain,
    e429,
    e500,
    e503,
    fails,
    ok,
    plan,
    refused,
    streams,
    timeout,
)

NO_RETRY = Retry(max_retries=0)


def test_primary_503_three_times_then_the_fallback_answers() -> None:
    story = Stage(dice=0.5).play(plan("a", "b"), {"a": e503(), "b": ok()})
    # Full jitter at 0.5: 125 ms, 250 ms; then at once to b.
    assert story.dials == [(0.0, "a", "first"), (0.225, "a", "retry"), (0.575, "a", "retry"), (0.675, "b", "failover")]
    assert story.served == (0.875, "b")
    assert story.machine.failover_reason() == "model_overloaded"


def test_R4_R8_failover_is_immediate_and_free_even_with_empty_budgets() -> None:
    stage = Stage()
    for name in "ab":
        for _ in range(10):
            assert stage.state(name).budget.withdraw(1.0, stage.now)
    story = stage.play(plan("a", "b"), {"a": e503(), "b": ok()})
    assert story.path == "a b"  # no token: the request does not wait, it moves on
    assert story.waits == [0.0]
    assert (stage.tokens("a"), stage.tokens("b")) == (0.0, 0.1)


def test_a_silent_target_is_left_not_retried() -> None:
    story = Stage().play(plan("a", "b"), {"a": timeout(8.0), "b": ok()})
    assert story.path == "a b"
    assert story.dials[1] == (8.0, "b", "failover")


@pytest.mark.parametrize("cls", [Class.AUTH, Class.PERMISSION, Class.MODEL_NOT_FOUND, Class.QUOTA_EXCEEDED])
def test_R3_after_a_targets_fault_there_is_only_failover(cls: Class) -> None:
    stage = Stage()
    story = stage.play(plan("a", "b"), {"a": fails(cls, status=401), "b": ok()})
    assert story.path == "a b"
    # Out for five minutes for everybody, and told once.
    assert stage.play(plan("a", "b"), {"b": ok()}).path == "b"
    assert [event.reason for event in stage.events if hasattr(event, "reason")] == [cls]
    stage.wait(300.0)
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


def test_a_callers_own_key_is_refused_each_time_anew() -> None:
    stage = Stage()
    the_plan = plan("a/m/key-of-the-caller", "b")
    for _ in range(2):
        assert stage.play(the_plan, {"a": fails(Class.AUTH, status=401), "b": ok()}).path == "a b"


@pytest.mark.parametrize("cls", [Class.INVALID_REQUEST, Class.CONTENT_POLICY])
def test_R3_the_callers_fault_is_passed_on_unless_a_trigger_names_it(cls: Class) -> None:
    script = {"a": fails(cls, status=400), "b": ok()}
    story = Stage().play(plan("a", "b"), script)
    assert story.path == "a"
    assert story.failed == (0.1, cls.value)
    named = amend(plan("a", "b"), 1, trigger=frozenset({cls}))
    assert Stage().play(named, script).path == "a b"


@pytest.mark.parametrize(
    ("mine", "theirs", "path"),
    [
        (None, None, "a b"),
        (8_000, None, "a b"),
        (None, 128_000, "a b"),
        (8_000, 128_000, "a b"),
        (8_000, 8_000, "a"),
        (8_000, 4_000, "a"),
    ],
)
def test_a_context_that_is_too_long_goes_only_where_the_window_may_be_larger(
    mine: int | None, theirs: int | None, path: str
) -> None:
    the_plan = amend(amend(plan("a", "b"), 0, context_window=mine), 1, context_window=theirs)
    story = Stage().play(the_plan, {"a": fails(Class.CONTEXT_LENGTH, status=400), "b": ok()})
    assert story.path == path


def test_a_fallback_that_was_skipped_is_reached_by_a_later_failure_of_its_class() -> None:
    the_plan = plan("a", "b", "c", retry=NO_RETRY)
    the_plan = amend(the_plan, 1, trigger=frozenset({Class.RATE_LIMIT}))
    story = Stage().play(the_plan, {"a": e500(), "c": e429(120.0), "b": ok()})
    assert story.path == "a c b"
    assert story.machine.skipped == []


def test_nothing_covers_the_failure() -> None:
    the_plan = amend(plan("a", "b", retry=NO_RETRY), 1, trigger=frozenset({Class.RATE_LIMIT}))
    story = Stage().play(the_plan, {"a": e500()})
    assert story.path == "a"
    assert story.failed == (0.1, "server_error")
    assert story.machine.skipped == [("b/m", "trigger")]
    assert story.gave_up.final


@pytest.mark.parametrize("cls", sorted(ANY_ERROR - {Class.CIRCUIT_OPEN}))
def test_any_error_covers(cls: Class) -> None:
    assert Stage().play(plan("a", "b", retry=NO_RETRY), {"a": fails(cls), "b": ok()}).path == "a b"


def test_an_open_primary_counts_as_circuit_open_and_as_the_class_that_opened_it() -> None:
    for trigger in (Class.CIRCUIT_OPEN, Class.SERVER_ERROR):
        stage = Stage()
        stage.fail_times("a", 4)
        the_plan = amend(plan("a", "b"), 1, trigger=frozenset({trigger}))
        story = stage.play(the_plan, {"b": ok()})
        assert story.path == "b"
        assert story.machine.circuit_status is State.OPEN
        assert story.machine.failover_reason() == "circuit_open"
        assert story.machine.skipped == [("a/m", "circuit_open")]
    refused_by = amend(plan("a", "b"), 1, trigger=frozenset({Class.RATE_LIMIT}))
    assert stage.play(refused_by, {}).failed == (0.0, "circuit_open")


def test_failover_disabled_stays_on_the_primary_but_retries() -> None:
    story = Stage().play(plan("a", "b", failover=False), {"a": e503()})
    assert story.kinds == "first retry retry"
    assert story.path == "a a a"
    assert story.failed is not None


def test_R1_attempts_never_exceed_the_maximum() -> None:
    names = [f"p{i}" for i in range(12)]
    story = Stage().play(plan(*names, retry=NO_RETRY, max_attempts=5), {name: e500() for name in names})
    assert story.path == "p0 p1 p2 p3 p4"
    one = Stage().play(plan("a", "b", max_attempts=1), {"a": e503()})
    assert (one.path, one.failed) == ("a", (0.1, "model_overloaded"))


def test_R9_a_full_target_is_passed_over() -> None:
    stage = Stage()
    the_plan = amend(plan("a", "b", retry=NO_RETRY), 0, max_concurrency=1)
    first = stage.begin(the_plan, {"a": ok(5.0)})
    second = stage.begin(the_plan, {"b": ok()}, at=1.0)
    stage.run()
    assert (first.path, second.path) == ("a", "b")
    assert second.machine.failover_reason() == "max_concurrency"
    assert second.machine.circuit_status is State.CLOSED
    alone = replace(the_plan, candidates=the_plan.candidates[:1])
    stage.begin(alone, {"a": ok(5.0)})
    third = stage.begin(alone, {"a": ok()})
    stage.run()
    assert third.failed == (0.0, "local_reject")
    assert third.gave_up.retry_after_s == 1.0
    assert not third.gave_up.final


def test_a_target_that_cannot_answer_within_what_is_left_is_skipped() -> None:
    stage = Stage()
    stage.learn("b", 5.0)
    story = stage.play(plan("a", "b", "c", timeout_s=4.0), {"a": timeout(2.0), "c": ok()})
    assert story.path == "a c"
    assert ("b/m", "deadline") in story.machine.skipped


# Exclusions (3.5.8) ---------------------------------------------------------------------------------------------------

EXCLUDING = Exclusion()


def excluding(*names: str) -> Plan:
    """A plan with the header's thresholds, over targets whose own breaker stays closed."""
    calm = breaker.Settings(error_threshold=100)
    return plan(candidates=chain(*names, retries=0, breaker=calm), retry=NO_RETRY, exclusion=EXCLUDING)


def test_F1_three_bad_in_a_row_exclude_and_a_good_one_resets() -> None:
    stage = Stage()
    the_plan = excluding("a", "b")
    for act, path in [(e500(), "a b"), (e500(), "a b"), (ok(), "a"), (e500(), "a b"), (e500(), "a b"), (e500(), "a b")]:
        assert stage.play(the_plan, {"a": act, "b": ok()}).path == path
    excluded = stage.play(the_plan, {"a": ok(), "b": ok()})
    assert excluded.path == "b"
    # Requests without the header are not affected.
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


def test_F2_F3_after_the_interval_one_trial_and_two_good_ones_restore() -> None:
    stage = Stage()
    the_plan = excluding("a", "b")
    for _ in range(3):
        stage.play(the_plan, {"a": e500(), "b": ok()})
    stage.wait(29.0)
    assert stage.play(the_plan, {"b": ok()}).path == "b"
    stage.wait(2.0)
    trial = stage.begin(the_plan, {"a": ok(1.0)})
    beside = stage.begin(the_plan, {"b": ok()})
    stage.run()
    assert (trial.path, beside.path) == ("a", "b")
    assert stage.play(the_plan, {"a": ok()}).path == "a"
    both = [stage.begin(the_plan, {"a": ok(1.0)}) for _ in range(2)]
    stage.run()
    assert [request.path for request in both] == ["a", "a"]


def test_F4_a_failed_trial_excludes_for_another_interval() -> None:
    stage = Stage()
    the_plan = excluding("a", "b")
    for _ in range(3):
        stage.play(the_plan, {"a": e500(), "b": ok()})
    stage.wait(31.0)
    assert stage.play(the_plan, {"a": ok(), "b": ok()}).path == "a"
    assert stage.play(the_plan, {"a": e500(), "b": ok()}).path == "a b"
    stage.wait(29.0)
    assert stage.play(the_plan, {"b": ok()}).path == "b"
    stage.wait(2.0)
    assert stage.play(the_plan, {"a": ok()}).path == "a"


def test_F5_M5_an_excluded_target_is_tried_before_the_request_gives_up() -> None:
    stage = Stage()
    the_plan = excluding("a", "b")
    for _ in range(3):
        stage.play(the_plan, {"a": e500(), "b": ok()})
    stage.state("b").breaker.force(Forced.OPEN, None, stage.now)
    assert stage.play(the_plan, {"a": ok()}).path == "a"
    stage.state("b").breaker.force(Forced.NONE, None, stage.now)
    for _ in range(3):
        stage.play(the_plan, {"a": e500(), "b": ok()})
    # Also as the last resort after a failure of the one that is left.
    assert stage.play(the_plan, {"a": ok(), "b": e500()}).path == "b a"


# Order ----------------------------------------------------------------------------------------------------------------


def test_the_emergency_tier_comes_last_and_its_fastest_first() -> None:
    stage = Stage()
    the_plan = plan("a", "slow", "quick", "b", retry=NO_RETRY)
    the_plan = amend(amend(the_plan, 1, tier=Tier.EMERGENCY), 2, tier=Tier.EMERGENCY)
    the_plan = amend(the_plan, 3, tier=Tier.SECONDARY)
    stage.learn("slow", 2.0)
    stage.learn("quick", 0.5)
    story = stage.play(the_plan, dict.fromkeys(["a", "b", "slow", "quick"], e500()))
    assert story.path == "a b quick slow"


def soft_trip(stage: Stage, name: str) -> None:
    """Give the target a baseline, then let four attempts pass their slow line."""
    stage.learn(name, 0.5)
    for _ in range(4):
        stage.play(plan(name), {name: ok(3.0)})


def test_a_slow_lead_is_passed_over_before_it_fails() -> None:
    stage = Stage(dice=0.5)
    soft_trip(stage, "a")
    story = stage.play(plan("a", "b"), {"a": ok(), "b": ok()})
    assert story.path == "b"
    assert story.machine.failover_reason() == "predicted"
    assert story.machine.skipped == [("a/m", "slow")]
    assert story.machine.circuit_status is State.CLOSED
    # It is reordered, not refused: it still takes what b cannot.
    assert stage.play(plan("a", "b"), {"a": ok(), "b": e500()}).path == "b a"


def test_a_slow_target_gets_one_request_in_twenty_and_one_per_thirty_seconds() -> None:
    stage = Stage(dice=0.5)
    soft_trip(stage, "a")
    dice = itertools.cycle([i / 20 + 0.001 for i in range(20)])
    stage.dice = lambda: next(dice)
    led = [stage.play(plan("a", "b"), {"a": ok(3.0), "b": ok(0.001)}).dials[0][1] for _ in range(60)]
    assert 2 <= led.count("a") <= 4
    stage.dice = lambda: 0.5
    assert stage.play(plan("a", "b"), {"a": ok(3.0), "b": ok()}).path == "b"
    stage.wait(31.0)
    assert stage.play(plan("a", "b"), {"a": ok(3.0), "b": ok()}).path.startswith("a")


def test_if_all_are_slow_the_mark_is_ignored() -> None:
    stage = Stage(dice=0.5)
    soft_trip(stage, "a")
    soft_trip(stage, "b")
    assert stage.play(plan("a", "b"), {"a": ok(0.1)}).dials[0][1] == "a"


def test_max_latency_increase_skips_and_still_serves_as_the_very_last_resort() -> None:
    stage = Stage()
    stage.learn("a", 0.5, count=20)
    stage.learn("b", 1.5, count=20)
    the_plan = amend(plan("a", "b", "c", retry=NO_RETRY), 1, max_latency_increase_s=0.5)
    script = {"a": e500(), "b": ok(), "c": e500()}
    assert stage.play(the_plan, {**script, "c": ok()}).path == "a c"
    assert stage.play(the_plan, script).path == "a c b"
    assert stage.play(amend(the_plan, 1, max_latency_increase_s=1.2), script).path == "a b"


def test_max_latency_increase_needs_twenty_samples_on_both() -> None:
    stage = Stage()
    stage.learn("a", 0.5, count=20)
    stage.learn("b", 1.5, count=19)
    the_plan = amend(plan("a", "b", "c", retry=NO_RETRY), 1, max_latency_increase_s=0.5)
    assert stage.play(the_plan, {"a": e500(), "b": ok()}).path == "a b"


# The last attempt, streams, leaving -----------------------------------------------------------------------------------


def first_bytes(the_plan: Plan, script: dict[str, Act]) -> list[float | None]:
    """The first-byte limit of each dial."""
    return Stage().play(the_plan, script).first_bytes


def test_the_last_possible_attempt_drops_its_default_first_byte_limit() -> None:
    script = {"a": timeout(15.0), "b": timeout(15.0), "c": ok()}
    assert first_bytes(plan("a", "b", "c"), script) == [15.0, 15.0, None]
    assert first_bytes(plan("a"), {"a": ok()}) == [None]
    assert first_bytes(plan("a", "b", "c", max_attempts=2), script) == [15.0, None]
    assert first_bytes(plan("a", "b", failover=False), {"a": ok()}) == [None]
    # b takes no timeout: nothing could follow a's silence.
    assert first_bytes(amend(plan("a", "b"), 1, trigger=frozenset({Class.RATE_LIMIT})), {"a": ok()}) == [None]
    # A retry could.
    again = Retry(retry_on=frozenset({"timeout"}), max_retries=1)
    assert first_bytes(plan("a", retry=again), {"a": timeout(15.0)}) == [15.0, None]


def test_a_first_byte_limit_that_the_request_stated_stays() -> None:
    stated = Timers(first_byte_s=2.0, first_byte_stated=True)
    assert first_bytes(plan("a", "b", timers=stated), {"a": timeout(2.0), "b": ok()}) == [2.0, 2.0]


def test_R2_after_the_commit_nothing_follows() -> None:
    stage = Stage()
    story = stage.play(plan("a", "b"), {"a": breaks(0.2, 0.5)}, stream=True)
    assert (story.path, story.served, story.failed) == ("a", (0.2, "a"), None)
    assert stage.state("a").breaker.view(stage.now)["counts"] == {"stream_interrupted": 1}


def test_with_buffer_recovery_a_broken_stream_fails_over_unseen() -> None:
    the_plan = plan("a", "b", stream=Stream(recovery="buffer"), retry=NO_RETRY)
    story = Stage().play(the_plan, {"a": breaks(0.2, 0.5), "b": streams(0.2, 1.0)}, stream=True)
    assert story.path == "a b"
    assert story.served == (1.5, "b")  # when it was complete
    assert story.machine.failover_reason() == "stream_interrupted"


@pytest.mark.parametrize("reason", ["downstream", "drain"])
@pytest.mark.parametrize(
    ("when", "cancelled"),
    [(0.05, 1), (0.15, 0), (0.4, 1), (9.0, 1)],
    ids=["dialled", "backing off", "retried", "after the rescue"],
)
def test_I5_the_caller_leaves_in_each_phase(when: float, cancelled: int, reason: str) -> None:
    stage = Stage()
    story = stage.play(plan("a", "b"), {"a": [e503(), SILENT]}, gone_at=when, drain=reason == "drain")
    assert story.failed == (when, f"cancelled.{reason}")
    assert [(at, why) for at, _, why in story.cancels] == [(when, reason)] * cancelled
    assert stage.tokens("a") == (9.0 if when > 0.2 else 10.0)  # refunded while it only waited
    stage.assert_quiet()


def test_I5_the_caller_leaves_in_the_middle_of_the_answer() -> None:
    stage = Stage()
    story = stage.play(plan("a", "b"), {"a": streams(0.2, 5.0)}, stream=True, gone_at=1.0)
    assert (story.served, story.failed, story.cancels) == ((0.2, "a"), None, [(1.0, 0, "downstream")])
    stage.assert_quiet()
    assert stage.state("a").breaker.view(stage.now)["counts"] == {"cancelled.downstream": 1}


# What is told ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reversed_", [False, True])
def test_H6_the_most_telling_error_is_told_whatever_the_order(reversed_: bool) -> None:
    ranked = [classes[0] for classes in TELLING if classes[0] not in (Class.INVALID_REQUEST, Class.CIRCUIT_OPEN)]
    for better, worse in itertools.pairwise(ranked):
        first, second = (worse, better) if reversed_ else (better, worse)
        story = Stage().play(plan("a", "b", retry=NO_RETRY), {"a": fails(first), "b": fails(second)})
        assert story.failed == (0.2, better.value)


@pytest.mark.parametrize("primary_s", [3.0, 6.0])
def test_H6_among_equals_the_primarys_error_is_told_whoever_failed_first(primary_s: float) -> None:
    hedged = plan("a", "b", hedge=hedge.Settings(enabled=True, delay_s=1.0), retry=NO_RETRY)
    script = {"a": fails(Class.SERVER_ERROR, primary_s, code="of a"), "b": fails(Class.SERVER_ERROR, 4.0, code="of b")}
    story = Stage().play(hedged, script)
    assert story.path == "a b"
    assert story.gave_up.outcome.code == "of a"


def test_no_target_left_tells_when_the_soonest_comes_back() -> None:
    stage = Stage(dice=0.5)
    the_plan = plan("a", "b", retry=NO_RETRY)
    stage.play(the_plan, {"a": e429(40.0), "b": e429(100.0)})
    stage.wait(10.0)
    story = stage.play(the_plan, {})
    assert story.dials == []
    assert story.failed == (0.0, "rate_limit")
    assert story.gave_up.retry_after_s == pytest.approx(29.9, abs=0.2)
    assert not story.gave_up.final  # nothing of ours is spent: the caller's client may try again
    assert "a/m=rate_limit" in story.gave_up.outcome.message


def test_panic_tries_an_open_target_when_nothing_else_is_left() -> None:
    stage = Stage()
    stage.fail_times("a", 4)
    assert stage.play(plan("a"), {"a": ok()}).failed == (0.0, "circuit_open")
    base = plan("a").candidates[0].breaker
    the_plan = amend(plan("a"), 0, breaker=replace(base, panic=True))
    stage.state("a").breaker.reconfigure(replace(base, panic=True), stage.now)
    assert stage.play(the_plan, {"a": ok()}).path == "a"


def test_an_unreachable_primary_is_left_for_good_after_three_failed_connects() -> None:
    stage = Stage(dice=0.5)
    the_plan = plan("a", "b")
    first = stage.play(the_plan, {"a": refused(), "b": ok()})
    assert first.path == "a a a b"  # the third one opens the circuit
    assert stage.play(the_plan, {"b": ok()}).path == "b"


def test_a_failure_that_opens_the_circuit_is_not_followed_by_a_wait() -> None:
    stage = Stage()
    stage.fail_times("a", 3)
    story = stage.play(plan("a", "b"), {"a": e500(), "b": ok()})
    assert story.path == "a b"
    assert story.waits == [0.0]
    assert stage.tokens("a") == 10.0


def test_quota_of_one_model_leaves_the_others_of_the_credential_alone() -> None:
    stage = Stage()
    stage.play(plan("a/x", "b"), {"a": fails(Class.QUOTA_EXCEEDED, status=429, told_wait_s=60.0), "b": ok()})
    assert stage.play(plan("a/y"), {"a": ok()}).path == "a"
    stage.play(plan("a/y", "b"), {"a": fails(Class.QUOTA_EXCEEDED, status=429, per_credential=True), "b": ok()})
    assert stage.play(plan("a/z", "b"), {"b": ok()}).path == "b"


def test_targets_left_out_by_the_planner_are_told_too() -> None:
    story = Stage().play(plan("a", skipped=(("c", "no_key"),)), {"a": ok()})
    assert story.machine.skipped == [("c", "no_key")]


def test_I8_a_local_reject_is_no_evidence_and_moves_on() -> None:
    stage = Stage()
    stage.fail_times("a", 4)
    before = stage.state("a").breaker.view(stage.now)["counts"]
    for _ in range(50):
        stage.play(plan("a", "b"), {"b": ok(0.0)})
    assert stage.state("a").breaker.view(stage.now)["counts"] == before
    assert "local_reject" not in before
    stage.assert_quiet()


def test_an_outcome_of_a_cancelled_call_is_no_reason_to_go_on() -> None:
    story = Stage().play(plan("a", "b"), {"a": fails(Class.CANCELLED, sub="downstream")})
    assert (story.path, story.failed) == ("a", (0.1, "cancelled.downstream"))
