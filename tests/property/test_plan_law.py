"""What a plan promises: for any plan and any behaviour of its targets, in virtual time, on a well-behaved driver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.base.outcome import Class
from proxy.engine.plan import Plan, Retry, RetryRule, Stream
from proxy.policy import backoff, hedge
from tests.playbook.driver import SILENT, START, Act, Request, Stage, amend, breaks, fails, ok, plan, streams

NAMES = ("a", "b", "c", "d")
SECONDS = st.sampled_from([0.0, 0.01, 0.2, 1.5, 20.0])
PASSING = [Class.SERVER_ERROR, Class.MODEL_OVERLOADED, Class.RATE_LIMIT, Class.CONNECT_ERROR, Class.TIMEOUT, Class.AUTH]
"""Failures that any_error covers and that say nothing against other targets."""


@st.composite
def failures(draw: st.DrawFn, classes: list[Class] = PASSING) -> Act:
    cls = draw(st.sampled_from(classes))
    told = draw(st.sampled_from([None, 0.0, 0.3, 2.0, 90.0])) if cls is Class.RATE_LIMIT else None
    return fails(cls, draw(SECONDS), told_wait_s=told)


ACTS = st.one_of(
    failures(),
    failures([Class.INVALID_REQUEST, Class.CONTENT_POLICY, Class.CONTEXT_LENGTH, Class.QUOTA_EXCEEDED]),
    SECONDS.map(ok),
    st.builds(lambda c, d: streams(c, c + d), SECONDS, SECONDS),
    st.builds(lambda c, d: breaks(c, c + d), SECONDS, SECONDS),
    st.just(SILENT),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = NAMES[: draw(st.integers(1, 4))]
    rules = draw(
        st.sampled_from(
            [
                (),
                (),
                (RetryRule(names=frozenset({"server_error", "timeout"}), attempts_s=(0.1, 0.0, 2.0), switch_after=1),),
                (RetryRule(names=frozenset({"rate_limit"}), told=True, max_wait_s=60.0),),
                (RetryRule(names=frozenset({"model_overloaded"}), wait_s=0.4),),
            ]
        )
    )
    shape = backoff.Settings(
        strategy=draw(st.sampled_from(["exponential", "linear", "constant", "immediate", "decorrelated"])),
        jitter=draw(st.sampled_from(["full", "equal", "none", "decorrelated"])),
        initial_s=draw(st.sampled_from([0.0, 0.25, 5.0])),
    )
    retry = Retry(max_retries=draw(st.integers(0, 3)), backoff=shape, rules=rules)
    hedges = hedge.Settings(
        enabled=draw(st.booleans()),
        strategy=draw(st.sampled_from(["latency", "first-success"])),
        cancel_slower=draw(st.booleans()),
        delay_s=draw(st.sampled_from([None, 0.0, 0.3])),
        max_hedges=draw(st.integers(1, 3)),
    )
    return plan(
        *names,
        retry=retry,
        hedge=hedges,
        timeout_s=draw(st.sampled_from([0.1, 2.0, 30.0, 600.0])),
        failover=draw(st.sampled_from([True, True, True, False])),
        max_attempts=draw(st.integers(1, 8)),
        stream=Stream(recovery=draw(st.sampled_from(["continue", "buffer"]))),
        balance=draw(st.sampled_from(["priority", "weighted", "adaptive", "cheapest"])),
    )


SCRIPTS = st.fixed_dictionaries({name: st.lists(ACTS, min_size=1, max_size=3) for name in NAMES})
DICE = st.floats(0.0, 0.999)


def check(stage: Stage, story: Request) -> None:
    """What holds for every finished request."""
    limit = story.plan.timeout_s
    ends = [moment[0] for moment in (story.served, story.failed) if moment]
    assert len(ends) == 1  # I1
    assert ends[0] <= limit + 1e-6  # I4: to the instant, in virtual time
    assert all(at < limit for at, _, _ in story.dials)
    for attempt in story.machine.attempts:
        assert attempt.outcome is not None
        assert attempt.ended_at is not None
        assert attempt.ended_at - START <= stage.now - START
    firsts = [a.content_at for a in story.machine.attempts if a.content_at is not None]
    if firsts and story.plan.stream.recovery != "buffer":
        assert story.served is not None  # H4
        assert story.served[0] == pytest.approx(min(firsts) - story.began)
    stage.assert_quiet()


@given(the_plan=plans(), script=SCRIPTS, dice=DICE, stream=st.booleans())
def test_I1_I4_I8_H4_every_request_ends_once_and_in_time(
    the_plan: Plan, script: Any, dice: float, stream: bool
) -> None:
    stage = Stage(dice)
    check(stage, stage.play(the_plan, script, stream=stream))


@given(the_plan=plans(), script=SCRIPTS, dice=DICE, gone_at=SECONDS, drain=st.booleans())
def test_I5_the_caller_may_leave_at_any_point(
    the_plan: Plan, script: Any, dice: float, gone_at: float, drain: bool
) -> None:
    stage = Stage(dice)
    story = stage.play(the_plan, script, stream=True, gone_at=gone_at, drain=drain)
    check(stage, story)
    assert all(at <= gone_at for at, _, _ in story.dials)
    assert all((a.ended_at or 0.0) - story.began <= gone_at + 1e-6 for a in story.machine.attempts)


@given(the_plan=plans(), script=SCRIPTS, dice=DICE)
def test_I6_the_same_dice_give_the_same_story_and_a_plan_remembers_nothing(
    the_plan: Plan, script: Any, dice: float
) -> None:
    stories = [Stage(dice).play(the_plan, script, stream=True) for _ in range(2)]
    assert stories[0].dials == stories[1].dials
    assert (stories[0].served, stories[0].failed) == (stories[1].served, stories[1].failed)
    assert hash(replace(the_plan)) == hash(the_plan)


@given(the_plan=plans(), scripts=st.lists(SCRIPTS, min_size=2, max_size=5), dice=DICE, gap=SECONDS)
def test_requests_that_share_a_cluster_leave_it_quiet(
    the_plan: Plan, scripts: list[Any], dice: float, gap: float
) -> None:
    stage = Stage(dice)
    crowded = amend(the_plan, 0, max_concurrency=1)
    stories = [
        stage.begin(crowded, script, at=i * gap, stream=bool(i % 2), gone_at=3.0 if i == 1 else None)
        for i, script in enumerate(scripts)
    ]
    stage.run()
    for story in stories:
        check(stage, story)


@given(
    bad=st.lists(failures(), min_size=0, max_size=3),
    healthy=st.integers(0, 3),
    retries=st.integers(0, 2),
    hedging=st.booleans(),
    dice=DICE,
)
def test_a_chain_with_one_healthy_target_answers(
    bad: list[Act], healthy: int, retries: int, hedging: bool, dice: float
) -> None:
    """The product's promise: whatever the others do, a request is answered if a target of its chain would answer it."""
    names = NAMES[: len(bad) + 1]
    place = healthy % len(names)
    acts = [*bad[:place], ok(0.5), *bad[place:]]
    the_plan = plan(*names, retry=Retry(max_retries=retries), hedge=hedge.Settings(enabled=hedging))
    story = Stage(dice).play(the_plan, dict(zip(names, acts, strict=True)))
    assert story.served is not None
    assert story.served[1] == names[place]


@given(acts=st.lists(failures(), min_size=2, max_size=4), dice=DICE)
def test_R4_moving_on_is_immediate_and_waits_stay_within_bounds(acts: list[Act], dice: float) -> None:
    names = NAMES[: len(acts)]
    quiet = hedge.Settings(rescue=False)
    story = Stage(dice).play(plan(*names, hedge=quiet), dict(zip(names, acts, strict=True)))
    for (_, _, kind), wait in zip(story.dials[1:], story.waits, strict=True):
        assert kind in ("retry", "failover")
        # cap 8 s; a told wait of up to 3 s is slept 1.25 times at most, plus 50 ms
        assert wait == 0.0 if kind == "failover" else 0.0 <= wait <= 8.0


@given(acts=st.lists(failures(), min_size=1, max_size=4), dice=DICE)
def test_H6_the_error_told_is_one_that_happened(acts: list[Act], dice: float) -> None:
    names = NAMES[: len(acts)]
    story = Stage(dice).play(plan(*names), dict(zip(names, acts, strict=True)))
    assume(story.failed is not None)
    assert story.gave_up.outcome in [a.outcome for a in story.machine.attempts]
    assert story.gave_up.final
