"""Signs in, incidents out: one per cause, with its beginning, its numbers and its end."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.correlation import (
    BASE,
    CASES_MAX,
    GAP_S,
    HOLD_S,
    LIMITED_ERRORS,
    MODELS_MAX,
    REMINDERS_MAX,
    SLOW_RIPE_S,
    TIMELINE_MAX,
    UPDATE_S,
    VISIBLE_ERRORS,
    Machine,
)
from proxy.policy.incident import (
    Change,
    Failed,
    Family,
    Incident,
    Met,
    Over,
    Severity,
    Sign,
    Signal,
    Trouble,
    Type,
    family_of,
)

T = 1_800_000_000.0


class World:
    """A machine, and all it has told."""

    def __init__(self, remind_s: float = 900.0) -> None:
        numbers = count(1)
        self.machine = Machine(lambda: f"i{next(numbers)}", remind_s)
        self.changes: list[Change] = []
        self.requests = count(1)

    def tell(self, *signs: Sign) -> list[str]:
        made = [change for sign in signs for change in self.machine.step(sign)]
        self.changes += made
        return [change.kind for change in made]

    def tick(self, at: float, out: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
        made = self.machine.tick(T + at, out)
        self.changes += made
        return [change.kind for change in made]

    def fail(self, at: float, error: str = "server_error", **over: Any) -> list[str]:
        return self.tell(failed(at, error, request_id=over.pop("request_id", f"r{next(self.requests)}"), **over))

    @property
    def last(self) -> Incident:
        return self.changes[-1].incident

    @property
    def opened(self) -> int:
        return sum(change.kind == "opened" for change in self.changes)


def failed(at: float, error: str = "server_error", **over: Any) -> Failed:
    stated: dict[str, Any] = {"provider": "a", "model": "m", "region": "eu", "request_id": "r", "failed_over": True}
    return Failed(at=T + at, error=error, **{**stated, **over})


def trouble(at: float, signal: Signal, provider: str = "a", **over: Any) -> Trouble:
    return Trouble(at=T + at, provider=provider, signal=signal, **over)


def over(at: float, signal: Signal, provider: str = "a", **more: Any) -> Over:
    return Over(at=T + at, provider=provider, signal=signal, **more)


def test_an_outage_from_its_first_failure_to_its_end() -> None:
    world = World()
    for second in range(5):
        assert world.fail(second) == []
    assert world.tell(trouble(4, Signal.CIRCUIT, model="m", reason="5 errors")) == ["opened"]
    incident = world.last
    assert (incident.started_at, incident.opened_at) == (T, T + 4)
    assert (incident.type, incident.severity) == (Type.PARTIAL_OUTAGE, Severity.MEDIUM)
    assert (incident.affected_requests, incident.failed_over, incident.user_visible_errors) == (5, 5, 0)
    assert incident.errors == {"server_error": 5}
    assert (incident.region, incident.models) == ("eu", ("m",))
    assert world.tell(trouble(5, Signal.DOWN, reason="all circuits open")) == ["escalated"]
    assert (world.last.id, world.last.type, world.last.severity) == ("i1", Type.OUTAGE, Severity.HIGH)
    assert world.last.types == (Type.PARTIAL_OUTAGE, Type.OUTAGE)
    assert world.tell(over(60, Signal.CIRCUIT, model="m")) == []
    assert world.tell(over(61, Signal.DOWN, reason="healthy again")) == []
    assert world.tick(61 + HOLD_S - 1) == []
    assert world.tick(61 + HOLD_S) == ["resolved"]
    assert (world.last.ended_at, world.last.resolution) == (T + 61, "healthy again")
    assert world.opened == 1
    assert [moment.what for moment in world.last.timeline] == [
        "opened", "signal", "escalated", "signal_over", "signal_over", "quiet", "resolved",
    ]  # fmt: skip
    assert world.machine.open() == []


def test_errors_alone_open_nothing() -> None:
    world = World()
    for second in range(600):
        assert world.fail(second, "server_error") == []
    assert world.tick(600) == []


def test_a_stray_failure_long_before_is_not_the_beginning() -> None:
    world = World()
    world.fail(0)
    world.fail(GAP_S + 1)
    world.fail(GAP_S + 2)
    world.tell(trouble(GAP_S + 2, Signal.DOWN))
    assert world.last.started_at == T + GAP_S + 1
    assert world.last.affected_requests == 2


def test_the_beginning_is_at_most_five_minutes_back() -> None:
    world = World()
    for at in range(0, 1000, 10):
        world.fail(at)
    world.tell(trouble(1000, Signal.DOWN))
    assert world.last.started_at == T + 700


def test_a_provider_that_comes_and_goes_is_one_incident() -> None:
    world = World()
    for at in range(0, 60, 6):
        world.tell(trouble(at, Signal.CIRCUIT, model="m"), over(at + 3, Signal.CIRCUIT, model="m"))
        world.tick(at + 4)
    world.tick(57 + HOLD_S)
    assert world.opened == 1
    assert [change.kind for change in world.changes if change.kind != "updated"] == ["opened", "resolved"]
    assert world.last.ended_at == T + 57


def test_what_comes_back_after_its_end_is_another_incident() -> None:
    world = World()
    world.tell(trouble(0, Signal.DOWN), over(5, Signal.DOWN))
    world.tick(5 + HOLD_S)
    world.tell(trouble(60, Signal.DOWN))
    assert (world.opened, world.last.id, world.last.affected_requests) == (2, "i2", 0)


def test_models_of_a_provider_are_one_cause_and_providers_are_not() -> None:
    world = World()
    world.tell(trouble(0, Signal.CIRCUIT, model="m1"), trouble(1, Signal.CIRCUIT, model="m2"))
    assert world.opened == 1
    assert world.last.models == ("m1",)
    world.tell(over(2, Signal.CIRCUIT, model="m1"))
    world.tick(2 + 2 * HOLD_S)
    assert len(world.machine.open()) == 1
    world.tell(trouble(40, Signal.DOWN, provider="b"))
    assert (world.last.provider, world.last.peers) == ("b", ("a",))


def test_a_slow_provider_is_an_incident_only_when_it_stays_slow() -> None:
    world = World()
    assert world.tell(trouble(0, Signal.DEGRADED)) == []
    assert world.tick(SLOW_RIPE_S - 1) == []
    world.tell(over(SLOW_RIPE_S - 1, Signal.DEGRADED))
    assert world.tick(SLOW_RIPE_S + 60) == []
    world.tell(trouble(100, Signal.DEGRADED))
    assert world.tick(100 + SLOW_RIPE_S) == ["opened"]
    assert (world.last.type, world.last.severity) == (Type.DEGRADED_PERFORMANCE, Severity.LOW)
    assert world.last.started_at == T + 100


def test_a_few_rate_limits_are_the_days_business_and_many_are_an_incident() -> None:
    world = World()
    for n in range(20):
        assert world.fail(n * 20.0, "rate_limit") == []
    world = World()
    kinds = [world.fail(float(n), "rate_limit") for n in range(LIMITED_ERRORS)]
    assert kinds == [*[[]] * (LIMITED_ERRORS - 1), ["opened"]]
    assert (world.last.type, world.last.severity) == (Type.RATE_LIMITING, Severity.LOW)
    assert world.tick(LIMITED_ERRORS + 59.0) == []
    assert world.tick(LIMITED_ERRORS + 61.0) == ["resolved"]
    assert world.last.ended_at == T + LIMITED_ERRORS - 1, "it ended with the last refusal, not when we gave up waiting"


def turned_away(*at: float, error: str = "rate_limit", **over: Any) -> list[Sign]:
    """Callers whose requests ended with a rate limit that nobody asked the provider for."""
    return [
        Met(
            at=T + each, provider="a", model="m", region="", error=error, request_id=f"w{each}", is_visible=True, **over
        )
        for each in at
    ]


def test_callers_that_are_turned_away_for_a_limit_are_an_incident_after_half_a_minute() -> None:
    world = World()
    assert world.tell(failed(0.0, "rate_limit", is_visible=True)) == []
    # A told wait of 20 s, renewed by one call each time: never the fifth rate limit in a minute.
    assert world.tell(*turned_away(*range(1, 20))) == [], "a short cool-down is the day's business"
    assert world.tell(failed(20.0, "rate_limit", is_visible=True), *turned_away(*range(21, 30))) == []
    assert world.tell(*turned_away(30)) == ["opened"]
    (incident,) = world.machine.open()
    assert (incident.type, incident.started_at) == (Type.RATE_LIMITING, T)
    assert incident.user_visible_errors == 31
    assert incident.timeline[0].text == "rate limited: 31 callers turned away within 30 s"
    for second in range(31, 200):
        world.tell(*turned_away(second))
        world.tick(second)
    assert len(world.machine.open()) == 1, "it holds as long as callers are turned away"
    assert "resolved" not in [change.kind for change in world.changes]
    assert "resolved" in world.tick(199 + 61)
    assert world.last.ended_at == T + 199, "it ended with the last refusal"


@pytest.mark.parametrize(
    "signs",
    [
        [failed(0.0, "rate_limit"), *turned_away(*range(1, 7))],
        [failed(0.0, "rate_limit"), *turned_away(10, 20, 30)],
        [failed(0.0, "rate_limit"), *turned_away(10, 20, 20 + GAP_S + 1, 50, 60)],
        [failed(0.0, "server_error"), *turned_away(*range(1, 60))],
        [failed(0.0, "rate_limit"), *turned_away(*range(1, 60), error="circuit_open")],
        [
            failed(0.0, "rate_limit"),
            *(
                Met(
                    at=T + n,
                    provider="a",
                    model="m",
                    region="",
                    error="rate_limit",
                    request_id=f"f{n}",
                    failed_over=True,
                )
                for n in range(1, 60)
            ),
        ],
    ],
    ids=["six in six seconds", "a few", "with a pause", "no limit", "a circuit", "fallbacks answered"],
)
def test_what_is_no_row_of_callers_turned_away(signs: list[Sign]) -> None:
    world = World()
    assert world.tell(*signs) == []


def test_an_empty_account_is_not_told_twice_by_the_callers_it_turns_away() -> None:
    world = World()
    world.tell(failed(0.0, "quota_exceeded"), trouble(0.0, Signal.QUOTA))
    world.tell(*turned_away(*range(1, 60), error="quota_exceeded"))
    (incident,) = world.machine.open()
    assert [each.what for each in incident.timeline if each.what == "signal"] == []
    assert world.tell(over(60.0, Signal.QUOTA)) == []
    assert world.tick(61.0 + HOLD_S) == ["resolved"]


def test_a_refused_key_and_an_empty_account_are_incidents_at_once() -> None:
    world = World()
    assert world.tell(trouble(0, Signal.CREDENTIAL, reason="auth")) == ["opened"]
    assert (world.last.type, world.last.severity) == (Type.CREDENTIAL, Severity.HIGH)
    assert world.tell(trouble(1, Signal.QUOTA, reason="quota_exceeded")) == ["opened"]
    assert world.last.type is Type.RATE_LIMITING
    assert world.tell(trouble(2, Signal.DOWN)) == ["opened"], "the same provider, another cause"
    world.tell(over(3, Signal.CREDENTIAL))
    assert world.tick(3 + HOLD_S) == ["resolved"]
    assert world.last.family is Family.CREDENTIAL


def test_requests_are_counted_once_and_by_what_became_of_them() -> None:
    world = World()
    world.tell(trouble(0, Signal.DOWN))
    world.tell(
        Met(at=T + 1, provider="a", model="m", region="", error="server_error", request_id="r1", failed_over=True)
    )
    world.fail(1, request_id="r1")
    world.fail(1, request_id="r1")
    world.tell(
        Met(at=T + 2, provider="a", model="m", region="", error="circuit_open", request_id="r2", failed_over=True)
    )
    world.fail(3, request_id="r3", failed_over=False, is_visible=True)
    world.fail(4, request_id="r4", failed_over=False)
    assert world.tick(UPDATE_S + 1) == ["updated"]
    numbers = (world.last.affected_requests, world.last.failed_over, world.last.user_visible_errors)
    assert numbers == (4, 2, 1)
    assert sum(world.last.errors.values()) == 4
    assert world.tick(UPDATE_S + 2) == [], "nothing has changed since"


def test_other_providers_and_callers_faults_do_not_count() -> None:
    world = World()
    world.tell(trouble(0, Signal.DOWN))
    world.fail(1, provider="b")
    for error in ("invalid_request", "content_policy", "context_length", "cancelled.downstream", "model_not_found"):
        world.fail(2, error)
    assert world.tick(60) == []


def test_visible_errors_make_it_more_severe() -> None:
    for type_, base in BASE.items():
        world = World()
        signal = {
            Type.OUTAGE: Signal.DOWN,
            Type.PARTIAL_OUTAGE: Signal.CIRCUIT,
            Type.DEGRADED_PERFORMANCE: Signal.DEGRADED,
            Type.RATE_LIMITING: Signal.QUOTA,
            Type.CREDENTIAL: Signal.CREDENTIAL,
        }[type_]
        error = {Type.RATE_LIMITING: "quota_exceeded", Type.CREDENTIAL: "auth"}.get(type_, "timeout.first_byte")
        world.tell(trouble(0, signal))
        world.tick(SLOW_RIPE_S)
        assert world.last.severity is base
        told = [world.fail(SLOW_RIPE_S + n, error, is_visible=True, failed_over=False) for n in range(VISIBLE_ERRORS)]
        assert told == [*[[]] * (VISIBLE_ERRORS - 1), ["escalated"]]
        assert world.last.severity == base + 1


def test_an_incident_never_gets_milder() -> None:
    world = World()
    world.tell(trouble(0, Signal.CIRCUIT, model="m"), trouble(0, Signal.DOWN), over(10, Signal.DOWN))
    world.tick(20)
    assert (world.machine.open()[0].type, world.machine.open()[0].severity) == (Type.OUTAGE, Severity.HIGH)


def test_what_is_in_maintenance_is_no_incident() -> None:
    world, out = World(), frozenset({("a", "")})
    world.tick(0, out)
    world.fail(1)
    assert world.tell(trouble(2, Signal.DOWN)) == []
    assert world.tick(100, out) == []
    assert world.tick(101) == ["opened"], "it is still down when the window is over"
    assert world.last.affected_requests == 0
    assert world.tick(102, out) == []
    assert world.tick(102 + HOLD_S, out) == ["resolved"]
    assert world.last.resolution == "announced maintenance began"


def test_maintenance_of_one_model_covers_that_one() -> None:
    world = World()
    world.tick(0, frozenset({("a", "m1")}))
    assert world.tell(trouble(1, Signal.CIRCUIT, model="m1")) == []
    assert world.tell(trouble(1, Signal.CIRCUIT, model="m2")) == ["opened"]


def test_nobody_acknowledges() -> None:
    world = World(remind_s=100)
    world.tell(trouble(0, Signal.CIRCUIT, model="m"))
    told = [at for at in range(0, 2000, 10) if world.tick(at) == ["unacknowledged"]]
    assert told == [100, 200, 300]
    assert len(told) == REMINDERS_MAX
    assert (world.last.severity, world.last.told_severity) == (Severity.MEDIUM, Severity.CRITICAL)


def test_an_acknowledgement_ends_the_reminders() -> None:
    world = World(remind_s=100)
    world.tell(trouble(0, Signal.DOWN))
    assert world.machine.acknowledge("i2", "x", T) is None
    acknowledged = world.machine.acknowledge("i1", "alice", T + 50)
    assert acknowledged is not None
    assert (acknowledged.acknowledged_by, acknowledged.acknowledged_at) == ("alice", T + 50)
    again = world.machine.acknowledge("i1", "bob", T + 60)
    assert again is not None
    assert again.acknowledged_by == "alice"
    assert world.tick(500) == []


@pytest.mark.parametrize(("remind_s", "signal"), [(0.0, Signal.DOWN), (100.0, Signal.QUOTA)])
def test_no_reminder(remind_s: float, signal: Signal) -> None:
    world = World(remind_s)
    world.tell(trouble(0, signal))
    assert world.tick(500) == []


def test_an_incident_goes_on_over_a_restart() -> None:
    world = World()
    world.fail(0)
    world.tell(trouble(1, Signal.DOWN))
    after = World()
    after.machine.restore(world.last, T + 10)
    after.fail(11)
    after.tell(trouble(12, Signal.DOWN))
    assert after.opened == 0
    after.tell(over(20, Signal.DOWN))
    assert after.tick(20 + HOLD_S) == ["resolved"]
    assert (after.last.id, after.last.started_at, after.last.ended_at) == ("i1", T, T + 20)
    assert (after.last.affected_requests, after.last.errors) == (2, {"server_error": 2})


def test_an_incident_that_is_not_seen_again_after_a_restart_ends() -> None:
    world = World()
    world.tell(trouble(1, Signal.DOWN))
    after = World()
    after.machine.restore(world.last, T + 10)
    assert after.tick(309) == []
    assert after.tick(311) == ["resolved"]
    assert (after.last.ended_at, after.last.resolution) == (T + 10, "not seen again after a restart")


def test_a_provider_that_left_the_file_has_no_incident() -> None:
    world = World()
    world.tell(trouble(0, Signal.DOWN), trouble(0, Signal.DOWN, provider="b"))
    (change,) = world.machine.forget(lambda provider: provider == "a", T + 9)
    assert (change.kind, change.incident.provider, change.incident.ended_at) == ("resolved", "a", T + 9)
    assert [incident.provider for incident in world.machine.open()] == ["b"]


def test_limits_hold() -> None:
    world = World()
    for n in range(CASES_MAX + 5):
        world.fail(n / 1000, provider=f"p{n}")
    assert world.machine.refused == 5
    world.tick(1000)
    world.fail(1001, provider="late")
    assert world.machine.refused == 5, "what has gone quiet makes room"
    world = World()
    for n in range(200):
        world.tell(trouble(n, Signal.CIRCUIT, model=f"m{n}"))
        world.fail(n, f"timeout.{n}")
    incident = world.machine.open()[0]
    assert len(incident.timeline) == TIMELINE_MAX
    assert incident.timeline[0].what == "opened"
    world.tick(500)
    assert len(world.last.errors) <= 33
    assert sum(world.last.errors.values()) == 200
    assert len(world.last.models) == MODELS_MAX


def test_models_that_callers_make_up_do_not_fill_the_memory() -> None:
    world = World()
    world.tell(trouble(0, Signal.DOWN, models=("m",)))
    for n in range(1000):
        world.fail(n / 100, model=f"made-up-{n}")
    assert len(world.machine.open()[0].models) <= MODELS_MAX
    world.tick(20)
    assert world.last.models == ("m", *(f"made-up-{n}" for n in range(MODELS_MAX - 1)))


@pytest.mark.parametrize(
    ("error", "family"),
    [
        ("timeout.connect", Family.AVAILABILITY),
        ("circuit_open", Family.AVAILABILITY),
        ("stream_interrupted", Family.AVAILABILITY),
        ("rate_limit", Family.RATE_LIMITING),
        ("quota_exceeded", Family.RATE_LIMITING),
        ("auth", Family.CREDENTIAL),
        ("permission", Family.CREDENTIAL),
        ("invalid_request", None),
        ("cancelled.superseded", None),
        ("maintenance", None),
        ("ok", None),
    ],
)
def test_families(error: str, family: Family | None) -> None:
    assert family_of(error) is family


PROVIDERS = st.sampled_from(["a", "b"])
SIGNALS = st.sampled_from([each for each in Signal if each is not Signal.UNKNOWN])
STEPS = st.lists(
    st.tuples(st.sampled_from(["fail", "trouble", "over", "tick", "out"]), PROVIDERS, SIGNALS, st.integers(0, 40)),
    max_size=60,
)


@given(STEPS)
def test_whatever_comes_an_incident_has_one_beginning_and_one_end(steps: list[tuple[str, str, Signal, int]]) -> None:
    world, at = World(), 0
    errors = {Family.AVAILABILITY: "server_error", Family.RATE_LIMITING: "rate_limit", Family.CREDENTIAL: "auth"}
    families = dict(
        zip(Signal, [*["availability"] * 3, *["rate_limiting"] * 3, "credential", "availability"], strict=True)
    )
    for what, provider, signal, pause in steps:
        at += pause
        if what == "fail":
            world.fail(at, errors[Family(families[signal])], provider=provider, is_visible=pause % 2 == 0)
        elif what == "trouble":
            world.tell(trouble(at, signal, provider))
        elif what == "over":
            world.tell(over(at, signal, provider))
        else:
            world.tick(at, frozenset({(provider, "")}) if what == "out" else frozenset())
    stories: dict[str, list[Change]] = {}
    for change in world.changes:
        stories.setdefault(change.incident.id, []).append(change)
    open_now = {incident.id for incident in world.machine.open()}
    causes = [(incident.provider, incident.family) for incident in world.machine.open()]
    assert len(causes) == len(set(causes))
    for id, story in stories.items():
        kinds = [change.kind for change in story]
        assert kinds.count("opened") == 1
        assert kinds[0] == "opened"
        assert kinds.count("resolved") == (id not in open_now)
        assert ("resolved" in kinds[:-1]) is False
        severities = [change.incident.severity for change in story]
        assert severities == sorted(severities)
        for change in story:
            told = change.incident
            assert told.started_at <= told.opened_at <= change.at
            assert told.failed_over + told.user_visible_errors <= 2 * told.affected_requests
            assert told.ended_at is None or told.started_at <= told.ended_at <= change.at
