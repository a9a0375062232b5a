"""A canary before the chain, and targets that an operator has taken out of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.base.outcome import Class
from proxy.engine.plan import Plan, Tier
from proxy.engine.rollout import CanaryMoved, Rollout
from proxy.policy.absence import Absence, Window, Windows
from proxy.policy.breaker import State as Circuit
from proxy.policy.canary import Settings, State
from tests.playbook.driver import Act, Stage, amend, chain, e429, e500, fails, ok, plan, timeout

ONLY_TIMEOUT = frozenset({Class.TIMEOUT})


def before(*names: str, base: Plan) -> Plan:
    """`base` with the canary `names` before its chain, as the planner makes it."""
    return replace(base, candidates=(*chain(*names, retries=0), *base.candidates), lead=len(names))


# The canary -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [e500(), e429(2.0), timeout(5.0), fails(Class.INVALID_REQUEST, status=400)],
    ids=lambda act: str(act)[:40],
)
def test_whatever_the_canary_does_the_chain_begins_after_it(failure: Act) -> None:
    base = plan("a", "b")
    base = amend(base, 0, trigger=ONLY_TIMEOUT)  # of the first one nobody asks for a trigger
    story = Stage().play(before("v2", base=base), {"v2": failure, "a": ok(), "b": ok()})
    assert story.path == "v2 a"
    assert story.waits == [0.0]


def test_the_chain_keeps_its_retries_and_triggers_behind_a_canary() -> None:
    base = amend(plan("a", "b"), 1, trigger=ONLY_TIMEOUT)
    story = Stage().play(before("v2", base=base), {"v2": timeout(1.0), "a": [e500(), ok()], "b": ok()})
    assert story.path == "v2 a a"
    story = Stage().play(before("v2", base=base), {"v2": timeout(1.0), "a": e500(), "b": ok()})
    assert story.path == "v2 a a a"  # b is there for time-outs, and the canary's is not a's
    assert ("b/m", "trigger") in story.machine.skipped


def test_the_error_told_is_the_chains_own() -> None:
    story = Stage().play(before("v2", base=plan("a")), {"v2": fails(Class.INVALID_REQUEST, status=400), "a": e500()})
    assert story.gave_up.outcome.cls is Class.SERVER_ERROR
    stage = Stage()
    stage.cluster.absences = (Absence(reason="drained", until=stage.now + 60, provider="a"),)
    story = stage.play(before("v2", base=plan("a")), {"v2": e500()})
    assert story.gave_up.outcome.cls is Class.SERVER_ERROR  # there is no other


@pytest.mark.parametrize("balance", ["weighted", "adaptive", "cheapest", "priority"])
def test_the_canary_leads_whatever_the_balance_is(balance: str) -> None:
    base = replace(plan(candidates=chain("a", "b", weight=1000)), balance=balance)
    for dice in (0.0, 0.5, 0.99):
        story = Stage(dice).play(before("v2", "v3", base=base), {"v2": e500(), "v3": e500(), "a": ok(), "b": ok()})
        assert story.path.startswith("v2 v3 ")


def test_tiers_stand_behind_the_canary() -> None:
    base = amend(plan("a", "b"), 1, tier=Tier.EMERGENCY)
    assert Stage().play(before("v2", base=base), {"v2": ok()}).path == "v2"


# What is observed -----------------------------------------------------------------------------------------------------

SETTINGS = Settings(targets=(("v2", ""),), share=1.0)


class Trial:
    """A stage with a rollout on its route."""

    def __init__(self, **settings: object) -> None:
        self.stage = Stage()
        self.told: list[CanaryMoved] = []
        self.rollout = Rollout(self.told.append)
        self.rollout.adopt({"chat": replace(SETTINGS, **settings)}, self.stage.now)  # type: ignore[arg-type]

    def play(self, the_plan: Plan, script: dict[str, Act]) -> None:
        story = self.stage.play(the_plan, script)
        self.rollout.ended(the_plan, story.machine, self.stage.now)

    def counts(self) -> list[tuple[int, int]]:
        """(requests, errors) of the canary and of the baseline."""
        view = self.rollout.view(self.stage.now)[0]
        return [(view[arm]["requests"], view[arm]["errors"]) for arm in ("canary", "baseline")]


def test_every_request_is_observed_once_per_arm() -> None:
    trial, base = Trial(), plan("a", "b")
    arm = before("v2", base=base)
    trial.play(arm, {"v2": ok()})
    assert trial.counts() == [(1, 0), (0, 0)]
    trial.play(arm, {"v2": e500(), "a": ok()})  # who stood in is of the baseline
    assert trial.counts() == [(2, 1), (1, 0)]
    trial.play(base, {"a": e500(), "b": ok()})  # three tries of a are one first call
    assert trial.counts() == [(2, 1), (2, 1)]
    trial.play(base, {"a": fails(Class.INVALID_REQUEST, status=400)})
    assert trial.counts() == [(2, 1), (3, 2)]


def test_a_refused_canary_is_a_failed_one_but_not_a_forbidden_one() -> None:
    trial, arm = Trial(), before("v2", base=plan("a"))
    trial.stage.fail_times("v2", 12, act=fails(Class.CONNECT_ERROR, 0.0, sub="refused"))
    assert trial.stage.state("v2").breaker.peek(trial.stage.now) is Circuit.OPEN
    trial.play(arm, {"a": ok()})
    assert trial.counts() == [(1, 1), (1, 0)]
    trial.stage.cluster.absences = (Absence(reason="drained", until=trial.stage.now + 60, provider="v2"),)
    trial.play(arm, {"a": ok()})
    assert trial.counts() == [(1, 1), (2, 0)]


def test_compare_with_says_who_is_the_baseline() -> None:
    trial, base = Trial(compare_with=(("b", ""),)), plan("a", "b")
    trial.play(base, {"a": ok()})
    assert trial.counts() == [(0, 0), (0, 0)]
    trial.play(base, {"a": e500(), "b": ok()})
    assert trial.counts() == [(0, 0), (1, 0)]


def test_a_bad_canary_is_told_of_once() -> None:
    trial, base = Trial(), plan("a")
    for _ in range(40):
        trial.play(base, {"a": ok()})
    for _ in range(20):
        trial.play(before("v2", base=base), {"v2": fails(Class.PERMISSION, status=403), "a": ok()})
        trial.stage.wait(400.0)
    assert [event.state for event in trial.told] == [State.WITHDRAWN]
    assert trial.told[0].verdict is not None
    assert trial.told[0].verdict.reason == "errors"
    assert not trial.rollout.takes("chat", None, lambda: 0.0)
    assert trial.rollout.states() == [("chat", State.WITHDRAWN)]
    assert trial.rollout.resume("chat", trial.stage.now)
    assert trial.rollout.takes("chat", None, lambda: 0.0)
    assert not trial.rollout.resume("other", trial.stage.now)
    assert not trial.rollout.takes("other", None, lambda: 0.0)


# Targets that are out -------------------------------------------------------------------------------------------------


def out(stage: Stage, **what: str) -> None:
    stage.cluster.absences = (
        *stage.cluster.absences,
        Absence(reason="maintenance", until=stage.now + 60.0, **what),  # type: ignore[arg-type]
    )


def test_who_is_out_is_as_if_it_were_not_there() -> None:
    stage = Stage()
    out(stage, provider="a")
    story = stage.play(amend(plan("a", "b"), 1, trigger=ONLY_TIMEOUT), {"b": ok()})
    assert story.path == "b"
    assert story.machine.failover_reason() == "maintenance"
    assert story.machine.skipped == [("a/m", "maintenance")]
    assert story.machine.circuit_status is Circuit.CLOSED
    stage.wait(60.0)  # the time is over, whatever the list says
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


def test_a_window_of_another_route_or_model_is_none_of_ours() -> None:
    stage = Stage()
    out(stage, provider="a", route="other")
    out(stage, provider="a", model="x")
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"
    out(stage, route="chat")
    story = stage.play(plan("a", "b"), {})
    assert story.path == ""
    assert story.gave_up.outcome.cls is Class.LOCAL_REJECT
    assert story.gave_up.retry_after_s == 60.0


def test_retries_do_not_go_to_who_has_just_been_taken_out() -> None:
    stage = Stage(dice=0.5)
    request = stage.begin(plan("a", "b"), {"a": e500(), "b": ok()})
    stage.run(until=0.15)  # a has failed, and the wait for its retry is on
    out(stage, provider="a")
    stage.run()
    assert request.path == "a b"


def test_windows_by_the_wall_clock() -> None:
    windows = Windows()
    stated = Window(id="file1", begins=1000.0, ends=2000.0, provider="a", from_file=True)
    windows.adopt([stated])
    assert windows.announce(Window(id="m1", begins=500.0, ends=1500.0, route="r"))
    assert windows.active(499.0, 10.0) == []
    assert [(each.provider, each.route, each.until) for each in windows.active(1000.0, 10.0)] == [
        ("a", "", 1010.0),
        ("", "r", 510.0),
    ]
    assert [each.until for each in windows.active(1500.0, 510.0)] == [1010.0]
    assert windows.listed == (stated,)  # what was announced is over and forgotten, what is stated stays listed
    windows.adopt([])
    assert windows.listed == ()
    assert windows.cancel("file1") is None
