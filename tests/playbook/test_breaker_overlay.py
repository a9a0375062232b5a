"""The breaker as requests meet it, and the policies that single requests carry (3.5.6, 3.5.7)."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.base.outcome import Class
from proxy.engine.plan import Plan, Retry
from proxy.policy import breaker
from proxy.policy.breaker import Forced, State
from tests.playbook.driver import SILENT, Act, Stage, chain, e429, e500, fails, ok, plan, streams, timeout

NO_RETRY = Retry(max_retries=0)


def calls(*names: str, overlay: dict[str, Any] | None = None, base: dict[str, Any] | None = None, **more: Any) -> Plan:
    """A plan without retries; `overlay` is the request's header, `base` the YAML of every target."""
    candidates = chain(*names, retries=0, breaker=breaker.Settings(**(base or {})))
    header = None if overlay is None else breaker.Settings(**overlay)
    return plan(candidates=candidates, overlay=header, retry=NO_RETRY, **more)


def hit(stage: Stage, the_plan: Plan, act: Act, times: int, every: float = 1.0) -> list[str]:
    """`times` requests, `every` seconds apart; the circuit status of each."""
    seen = []
    for _ in range(times):
        seen.append(str(stage.play(the_plan, {"a": act}).machine.circuit_status))
        stage.wait(every)
    return seen


# The status that is told ----------------------------------------------------------------------------------------------


def test_circuit_status_closed_open_half_open_closed() -> None:
    stage = Stage(dice=0.5)
    story = stage.play(calls("a"), {"a": ok()})
    assert story.machine.circuit_status is State.CLOSED
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    refused = stage.play(calls("a"), {})
    assert (refused.dials, refused.failed) == ([], (0.0, "circuit_open"))
    assert refused.machine.circuit_status is State.OPEN
    assert refused.gave_up.retry_after_s == pytest.approx(3.75)  # 2.5 + 2.5 * 0.5
    assert refused.machine.primary_wait_s(stage.now) == pytest.approx(3.75)
    stage.wait(3.75)
    probes = [stage.play(calls("a"), {"a": ok(0.0)}).machine.circuit_status for _ in range(3)]
    assert probes == [State.HALF_OPEN, State.HALF_OPEN, State.CLOSED]


def test_B2_an_open_target_sees_nothing() -> None:
    stage = Stage(dice=0.0)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stories = [stage.begin(calls("a", "b"), {"b": ok(0.1)}) for _ in range(100)]
    stage.run()
    assert {story.path for story in stories} == {"b"}


def test_B3_at_the_moment_of_reopening_one_request_per_lease_probes_and_the_rest_goes_on() -> None:
    stage = Stage(dice=0.5)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stage.wait(4.0)
    stories = [stage.begin(calls("a", "b"), {"a": ok(0.5), "b": ok(0.5)}) for _ in range(100)]
    stage.run()
    assert [story.path for story in stories].count("a") == 3
    assert [story.path for story in stories].count("b") == 97
    rest = [story for story in stories if story.path == "b"]
    assert {story.machine.circuit_status for story in rest} == {State.OPEN}
    assert {story.machine.failover_reason() for story in rest} == {"circuit_open"}
    stage.assert_quiet()


def test_a_failed_probe_fails_over_at_the_price_of_one_attempt() -> None:
    stage = Stage(dice=0.5)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stage.wait(4.0)
    story = stage.play(calls("a", "b"), {"a": e500(), "b": ok()})
    assert story.path == "a b"
    assert story.machine.circuit_status is State.HALF_OPEN
    assert stage.play(calls("a", "b"), {"b": ok()}).path == "b"


def test_B5_V7_a_cancelled_probe_gives_its_lease_back_and_votes_nothing() -> None:
    stage = Stage(dice=0.5)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stage.wait(4.0)
    for _ in range(20):
        story = stage.play(calls("a"), {"a": SILENT}, gone_at=0.1)
        assert story.machine.circuit_status is State.HALF_OPEN
    stage.assert_quiet()


def test_B5_V8_a_hanging_probe_is_a_failure_when_its_lease_ends() -> None:
    stage = Stage(dice=0.5)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stage.wait(4.0)
    stage.begin(calls("a", timeout_s=100.0), {"a": SILENT})
    stage.wait(15.1)  # the first-byte limit is the lease while the p99 is unknown
    assert stage.state("a").breaker.view(stage.now)["state"] == "open"


def test_the_first_content_of_a_stream_closes_the_circuit_before_the_stream_ends() -> None:
    stage = Stage(dice=0.5)
    hit(stage, calls("a"), e500(0.0), 4, every=0.0)
    stage.wait(4.0)
    for _ in range(2):
        stage.begin(calls("a"), {"a": streams(0.2, 60.0)}, stream=True)
    stage.wait(0.3)
    assert stage.state("a").breaker.view(stage.now)["state"] == "closed"


def test_forty_429_leave_the_circuit_closed() -> None:
    stage = Stage()
    for _ in range(40):
        stage.play(calls("a", "b"), {"a": e429(0.5), "b": ok()})
        stage.wait(1.0)
    assert stage.play(calls("a"), {"a": ok()}).machine.circuit_status is State.CLOSED


# Header policies ------------------------------------------------------------------------------------------------------


def test_V1_five_bad_open_for_thirty_seconds_for_the_header_alone() -> None:
    stage = Stage()
    strict = calls("a", overlay={"error_threshold": 5}, base={"error_threshold": 100})
    easy = calls("a", base={"error_threshold": 100})
    hit(stage, strict, e500(0.0), 5)
    refused = stage.play(strict, {})
    assert refused.failed == (0.0, "circuit_open")
    assert refused.machine.circuit_status is State.OPEN
    assert refused.gave_up.retry_after_s == pytest.approx(29.0)
    assert stage.play(easy, {"a": ok()}).machine.circuit_status is State.CLOSED
    stage.wait(29.1)
    probes = [stage.begin(strict, {"a": ok(0.5)}) for _ in range(4)]
    stage.run()
    assert [probe.path for probe in probes] == ["a", "a", "a", ""]
    assert stage.play(strict, {"a": ok()}).machine.circuit_status is State.CLOSED


def test_B9_a_header_never_changes_the_result_for_a_request_without_one() -> None:
    plain, mixed = Stage(), Stage()
    easy = calls("a", "b")
    for stage in (plain, mixed):
        for round_ in range(30):
            if stage is mixed:
                for n in (1, 2, 5):
                    stage.play(calls("a", "b", overlay={"error_threshold": n}), {}, gone_at=0.0)
            story = stage.play(easy, {"a": e500(0.0) if round_ % 3 else ok(0.0), "b": ok(0.0)})
            stage.events.append((round_, story.path, story.machine.circuit_status))  # type: ignore[arg-type]
            stage.run(until=float(round_ + 1))
    assert [e for e in plain.events if isinstance(e, tuple)] == [e for e in mixed.events if isinstance(e, tuple)]


def test_stricter_moves_the_request_to_the_next_target() -> None:
    stage = Stage()
    strict = calls("a", "b", overlay={"error_threshold": 1}, base={"error_threshold": 100})
    stage.play(strict, {"a": e500(), "b": ok()})
    story = stage.play(strict, {"b": ok()})
    assert story.path == "b"
    assert story.machine.circuit_status is State.OPEN
    assert story.machine.failover_reason() == "circuit_open"


def test_V11_looser_lets_two_at_a_time_through_where_the_base_refuses() -> None:
    stage = Stage()
    base = {"error_threshold": 5}
    hit(stage, calls("a", base=base), e500(0.0), 5, every=0.0)
    assert stage.play(calls("a", base=base), {}).failed == (0.0, "circuit_open")
    loose = calls("a", "b", overlay={"error_threshold": 50}, base=base)
    stories = [stage.begin(loose, {"a": ok(1.0), "b": ok(1.0)}) for _ in range(5)]
    stage.run()
    assert [story.path for story in stories] == ["a", "a", "b", "b", "b"]
    assert stories[0].machine.circuit_status is State.CLOSED
    stage.assert_quiet()


def test_V11_looser_never_refuses_too_and_forced_open_is_never_loosened() -> None:
    stage = Stage()
    base = {"error_threshold": 5, "looser": "never"}
    hit(stage, calls("a", base=base), e500(0.0), 5, every=0.0)
    assert stage.play(calls("a", overlay={"error_threshold": 50}, base=base), {}).dials == []
    forced = Stage()
    forced.state("a").breaker.force(Forced.OPEN, None, forced.now)
    assert forced.play(calls("a", overlay={"error_threshold": 50}), {}).dials == []


def test_V12_the_header_replaces_the_default_rule_for_its_own_request() -> None:
    stage = Stage()
    five = calls("a", overlay={"error_threshold": 5})
    hit(stage, five, e500(0.0), 4, every=0.0)
    assert stage.play(calls("a"), {}).dials == []
    assert stage.play(five, {"a": e500(0.0)}).path == "a"
    assert stage.play(five, {}).gave_up.retry_after_s == pytest.approx(30.0)


def test_a_cool_down_is_never_loosened() -> None:
    stage = Stage()
    stage.play(calls("a"), {"a": e429(60.0)})
    assert stage.play(calls("a", overlay={"error_threshold": 50}), {}).failed == (0.0, "rate_limit")


def test_V4_excluded_errors_are_no_evidence_for_this_policy() -> None:
    stage = Stage()
    base = {"error_threshold": 100}
    kind = calls("a", overlay={"error_threshold": 3, "excluded_errors": frozenset({"timeout"})}, base=base)
    strict = calls("a", overlay={"error_threshold": 3}, base=base)
    hit(stage, kind, timeout(0.1), 3)
    assert stage.play(kind, {"a": ok()}).path == "a"
    assert stage.play(strict, {}).dials == []


def test_V5_with_monitor_latency_silence_opens_while_it_lasts() -> None:
    stage = Stage()
    the_plan = calls("a", overlay={"error_threshold": 5, "monitor_latency": True}, timeout_s=100.0)
    for second in range(5):
        stage.begin(the_plan, {"a": SILENT}, at=float(second))
    stage.run(until=8.9)
    assert stage.state("a").breaker.peek(stage.now, the_plan.overlay) is State.CLOSED
    stage.run(until=9.1)
    assert stage.play(the_plan, {}).failed == (0.0, "circuit_open")


def test_M2_an_empty_header_is_no_header() -> None:
    stage = Stage()
    hit(stage, calls("a", overlay={}), e500(0.0), 4, every=0.0)
    assert stage.state("a").breaker.view(stage.now)["overlays"] == 0
    assert stage.play(calls("a"), {}).dials == []


def test_B12_ever_changing_headers_are_bounded_and_told() -> None:
    stage = Stage()
    for n in range(1, 71):
        stage.play(calls("a", overlay={"error_threshold": 1, "timeout_s": float(n) + 100}), {"a": e500(0.0)})
    view = stage.state("a").breaker.view(stage.now)
    assert view["overlays"] == 64
    assert view["overlays_refused"] == 6


def test_breaker_of_the_fallback_is_its_own() -> None:
    stage = Stage()
    for _ in range(4):
        stage.play(calls("a", "b"), {"a": e500(0.0), "b": e500(0.0)})
    both = stage.play(calls("a", "b"), {})
    assert both.failed == (0.0, "circuit_open")
    assert stage.play(calls("c", "a"), {"c": ok()}).path == "c"
    assert stage.play(calls("c", "a"), {"c": fails(Class.AUTH)}).failed == (0.1, "auth")
