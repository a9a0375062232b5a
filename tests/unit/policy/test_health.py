"""The machine that turns readings into what is told, and the verdict of probes; whole stories are in the playbook."""

from __future__ import annotations

import math

import pytest

from proxy.policy.health import (
    CALM_S,
    FALLEN_S,
    SUSPECTED,
    UNSTEADY,
    WELL,
    Health,
    Probed,
    Reading,
    Signs,
    Status,
    Watch,
    combined,
    worst,
)
from proxy.policy.latency import Latency
from proxy.policy.pulse import BAR, Pulse
from proxy.policy.window import State

DOWN = Reading(status=Status.DOWN, reason="timeout")
KEY = (False, 0)
ILL = Reading(status=Status.DEGRADED, reason="slow")


def test_it_gets_worse_at_once_and_better_by_evidence() -> None:
    health = Health(0.0)
    step = health.judge(ILL, 1.0)
    assert step is not None
    assert (step.before, step.to, step.reason, step.duration_s) == (Status.HEALTHY, Status.DEGRADED, "slow", None)
    assert health.judge(ILL, 2.0) is None
    step = health.judge(DOWN, 3.0)
    assert step is not None
    assert (step.before, step.to) == (Status.DEGRADED, Status.DOWN)
    step = health.judge(WELL, 4.0)
    assert step is not None
    assert (step.to, step.duration_s) == (Status.HEALTHY, 3.0)
    assert health.reason == ""


def test_out_of_degraded_leads_a_calm_without_a_break() -> None:
    health = Health(0.0)
    health.judge(ILL, 0.0)
    assert health.judge(WELL, 1.0) is None
    health.judge(ILL, 1.0 + CALM_S - 1)
    assert health.judge(WELL, 1.0 + CALM_S) is None
    assert health.judge(WELL, 1.0 + 2 * CALM_S) is not None


def test_the_third_fall_within_five_minutes_asks_for_patience() -> None:
    health = Health(0.0)
    for at in (0.0, 20.0):
        assert health.judge(DOWN, at) is not None
        assert health.judge(WELL, at + 10.0) is not None
    assert health.judge(DOWN, 40.0) is not None
    assert health.judge(WELL, 50.0) is not None
    assert (health.status, health.reason) == (Status.DEGRADED, UNSTEADY)
    assert health.judge(DOWN, 51.0) is None  # not yet: it may be over in a moment
    assert health.judge(DOWN, 50.0 + FALLEN_S + 0.1) is not None
    assert health.judge(WELL, 60.0) is not None
    assert health.judge(WELL, 89.0) is None  # two falls beyond the free ones: 30 s
    step = health.judge(WELL, 91.0)
    assert step is not None
    assert step.duration_s == 51.0


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], Status.HEALTHY),
        ([(DOWN, 0.0)], Status.DOWN),
        ([(Reading(status=Status.DOWN, since=5.0), 4.0), (WELL, 4.9)], Status.DOWN),
        ([(Reading(status=Status.DOWN, since=5.0), 4.0), (WELL, 5.1)], Status.DEGRADED),
        ([(Reading(status=Status.DOWN, since=5.0, whole=True), 4.0), (WELL, 5.1)], Status.DOWN),
        ([(WELL, 0.0), (ILL, 0.0)], Status.DEGRADED),
    ],
)
def test_a_provider_is_read_off_its_targets(targets: list[tuple[Reading, float]], expected: Status) -> None:
    assert combined(targets).status is expected


def test_the_worst_of_several() -> None:
    assert worst(()) is Status.HEALTHY
    assert worst((Status.HEALTHY, Status.DOWN, Status.DEGRADED)) is Status.DOWN


def test_a_target_that_was_never_called_is_well_whatever_its_circuit_says() -> None:
    assert Watch().read(Pulse(), Signs(circuit=State.OPEN), -1e9, 1000.0) is WELL


@pytest.mark.parametrize(
    ("since_s", "expected"), [(None, Status.HEALTHY), (0.5, Status.HEALTHY), (2.0, Status.DEGRADED)]
)
def test_a_mark_that_lasts_is_told_when_what_began_after_it_is_slow_too(
    since_s: float | None, expected: Status
) -> None:
    pulse, latency, watch = Pulse(), Latency(), Watch()
    for n in range(200):
        latency.observe(KEY, math.exp(0.8 * math.sin(n)), 0.0)
    for n in range(3):
        pulse.content(KEY, 3.0, latency, 1000.0 + n)
    marked = Signs(circuit=State.CLOSED, slow=True)
    assert BAR * 0.6 <= pulse.slowness < BAR
    assert watch.read(pulse, marked, -1e9, 1004.0) == SUSPECTED
    if since_s is not None:
        pulse.content(KEY, since_s, latency, 1004.0 + since_s)
    assert watch.read(pulse, marked, -1e9, 1033.0) == SUSPECTED
    assert watch.read(pulse, marked, -1e9, 1035.0).status is expected


def test_it_is_suspected_without_a_mark_and_until_that_has_gone_by_half() -> None:
    pulse, watch, signs = Pulse(), Watch(), Signs(circuit=State.CLOSED)
    pulse.seen_at = 1000.0
    for suspicion, expected in ((9.9, WELL), (10.0, SUSPECTED), (5.0, SUSPECTED), (4.9, WELL), (9.9, WELL)):
        pulse.suspicion = suspicion
        assert watch.read(pulse, signs, -1e9, 1000.0) == expected


def probe(probed: Probed, results: str, sees: bool = False) -> None:
    for n, result in enumerate(results):
        probed.took(result == "+", sees, 3, 2, float(n))


@pytest.mark.parametrize(
    ("results", "is_down", "is_settled"),
    [
        ("", False, True),
        ("+", False, True),
        ("-", False, False),
        ("--+--", False, False),
        ("---", True, True),
        ("---+", True, False),
        ("---+-", True, True),
        ("---++", False, True),
        ("---++-", False, False),
    ],
)
def test_probes_make_a_verdict_with_hysteresis(results: str, is_down: bool, is_settled: bool) -> None:
    probed = Probed()
    probe(probed, results)
    assert (probed.is_down, probed.is_settled) == (is_down, is_settled)


def test_only_a_probe_that_can_see_an_outage_sees_its_end() -> None:
    shallow, deep, saw = Probed(), Probed(), Probed()
    probe(shallow, "+++")
    probe(deep, "++", sees=True)
    probe(saw, "---++")
    assert (shallow.cleared_at < 0.0, deep.cleared_at, saw.cleared_at) == (True, 1.0, 4.0)
