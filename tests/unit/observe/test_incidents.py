"""From the journal's entries to incidents, their entries and their documents."""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson
import pytest

from proxy.observe.entry import Entry
from proxy.observe.incident_json import document, impact, restored, shown
from proxy.observe.incidents import KEPT_MAX, Incidents
from proxy.policy.correlation import HOLD_S
from proxy.policy.incident import Change, Family, Severity, Type

T = 1_800_000_000.0


class World:
    def __init__(self, disk: dict[tuple[str, str], Any] | None = None) -> None:
        self.now = T
        self.disk: dict[tuple[str, str], Any] = {} if disk is None else disk
        self.entries: list[Entry] = []
        self.changes: list[Change] = []
        numbers = count(len(self.disk))
        self.incidents = Incidents(
            ids=lambda: f"inc_{next(numbers)}",
            wall=lambda: self.now,
            publish=self.entries.append,
            put=self.put,
            told=self.changes.append,
            region_of=lambda provider: f"region of {provider}",
        )

    def put(self, kind: str, id: str, kept: Any) -> None:
        if kept is None:
            del self.disk[kind, id]
        else:
            self.disk[kind, id] = orjson.loads(orjson.dumps(kept))

    def take(self, kind: str, **fields: Any) -> None:
        self.incidents.take(Entry(at=self.now, kind=kind, **{"provider": "a", **fields}))

    def request(self, number: int, *dials: tuple[str, str], result: str = "ok", reason: str = "server_error") -> None:
        """One finished request as the journal tells it: itself, then its dials as (provider, error)."""
        fallback = f"{dials[-1][0]}/m" if result == "ok" and dials and dials[-1][0] != "a" else ""
        self.take(
            "request",
            request_id=f"r{number}",
            model="m",
            error=reason,
            completed=result == "ok",
            fallback=fallback,
            detail={"result": result, "failover_reason": reason if fallback else None},
        )
        for place, (provider, error) in enumerate(dials):
            kind = "attempt" if place == 0 else "failover"
            self.take(kind, provider=provider, model="m", request_id=f"r{number}", error=error)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.incidents.tick()

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]


def test_an_outage_is_one_incident_with_its_numbers() -> None:
    world = World()
    for n in range(5):
        world.request(n, ("a", "server_error"), ("b", ""))
        world.now += 1
    world.take("circuit", model="m", detail={"to": "open"}, message="5 errors")
    world.take("provider_down", error="server_error", detail={"affected_models": ["m", "n"]})
    world.request(5, ("b", ""), reason="circuit_open")
    world.request(6, ("b", "timeout.first_byte"), result="exhausted", reason="circuit_open")
    world.take("circuit", model="m", detail={"to": "half_open"})
    (incident,) = map(world.incidents.present, world.incidents.listed())
    assert (incident.provider, incident.type, incident.severity) == ("a", Type.OUTAGE, Severity.HIGH)
    assert incident.started_at == T
    assert (incident.affected_requests, incident.failed_over, incident.user_visible_errors) == (7, 6, 1)
    assert incident.models == ("m", "n")
    assert incident.region == "region of a", "where the entries name none"
    assert impact(incident) == "7 requests affected: 6 answered by another target, 1 failed for their callers"
    world.take("circuit", model="m", detail={"to": "closed"})
    world.take("provider_recovered")
    world.pass_time(1)
    world.pass_time(HOLD_S)
    assert world.kinds == ["incident_opened", "incident_updated", "incident_resolved"]
    assert [change.kind for change in world.changes] == ["opened", "escalated", "resolved"]
    assert world.entries[-1].message == "the provider is healthy again"
    assert world.incidents.open == 0


@pytest.mark.parametrize(
    ("entries", "families"),
    [
        ([("credential", {"error": "auth"}), ("provider_down", {"error": "auth"})], [Family.CREDENTIAL]),
        ([("provider_down", {"error": "auth"}), ("credential", {"error": "auth"})], [Family.CREDENTIAL]),
        ([("credential", {"error": "permission", "model": "m"})], [Family.CREDENTIAL]),
        ([("credential", {"error": "quota_exceeded"})], [Family.RATE_LIMITING]),
        ([("credential", {"error": "auth", "detail": {"callers_key": True}})], []),
        ([("circuit", {"detail": {"to": "open"}, "message": "forced"})], []),
        ([("circuit", {"detail": {"to": "half_open"}})], []),
        ([("cooldown", {"error": "rate_limit"})], []),
        ([("provider_down", {"error": "slow"}), ("circuit", {"detail": {"to": "open"}})], [Family.AVAILABILITY]),
        ([("request", {"error": "invalid_request"}), ("incident_opened", {}), ("reload", {})], []),
    ],
)
def test_what_entries_mean(entries: list[tuple[str, dict[str, Any]]], families: list[Family]) -> None:
    world = World()
    for kind, fields in entries:
        world.take(kind, **fields)
    assert [incident.family for incident in world.incidents.listed()] == families


def test_a_key_that_changed_ends_its_incident() -> None:
    world = World()
    world.take("credential", error="auth", model="")
    world.take("provider_recovered")
    assert world.incidents.open == 1
    world.take("credential", message="changed")
    world.pass_time(HOLD_S)
    assert world.incidents.open == 0
    assert world.incidents.listed()[0].resolution == "the credential has changed"


def test_a_provider_told_to_wait_for_long_is_rate_limited_and_not_slow() -> None:
    world = World()
    world.take("provider_degraded", error="rate_limit")
    world.pass_time(31)
    (incident,) = world.incidents.listed()
    assert incident.type is Type.RATE_LIMITING
    world.take("provider_recovered")
    world.pass_time(HOLD_S)
    assert world.incidents.open == 0


def test_a_circuit_that_a_reload_has_forgotten_is_open_no_more() -> None:
    world = World()
    world.take("circuit", model="m", detail={"to": "open"})
    world.incidents.tick(open_circuits=lambda: {("a", "m")})
    assert world.incidents.open == 1
    world.now += 1
    world.incidents.tick(open_circuits=set)
    world.pass_time(HOLD_S)
    assert world.incidents.open == 0


def test_documents_come_back_as_they_were() -> None:
    world = World()
    world.request(1, ("a", "auth"), ("b", ""), reason="auth")
    world.take("credential", error="auth")
    world.incidents.acknowledge("inc_0", "ann")
    world.take("circuit", provider="b", detail={"to": "open"})
    world.take("circuit", provider="b", detail={"to": "closed"})
    world.pass_time(1)
    world.pass_time(HOLD_S)
    for incident in world.incidents.listed():
        assert restored(orjson.loads(orjson.dumps(document(incident)))) == incident
    after = World(world.disk)
    after.now = world.now + 5
    after.incidents.loaded(dict(world.disk), T - 1, ["a", "b"])
    assert [shown(each, 0.0)["id"] for each in after.incidents.listed()] == ["inc_1", "inc_0"]
    assert (after.incidents.open, after.incidents.open_of("a"), after.incidents.open_of("b")) == (1, "inc_0", "")
    after.take("credential", error="auth")
    assert after.changes == [], "it goes on, it is not opened again"


def test_a_provider_that_is_gone_and_what_is_too_old() -> None:
    world = World()
    world.take("circuit", detail={"to": "open"})
    world.take("circuit", provider="b", detail={"to": "open"})
    world.take("circuit", provider="b", detail={"to": "closed"})
    world.pass_time(1)
    world.pass_time(HOLD_S)
    after = World(world.disk)
    after.now = T + 100
    after.disk["incident", "odd"] = {"id": "odd"}
    after.incidents.loaded({**after.disk, ("letter", "x"): {}}, T + 50, ["b"])
    (left,) = after.incidents.listed()
    assert (left.provider, left.resolution) == ("a", "the provider is not configured any more")
    after.incidents.expire(T + 200)
    assert after.incidents.listed() == []
    assert after.disk == {}


def test_a_provider_that_leaves_the_file_and_its_incident() -> None:
    world = World()
    world.take("circuit", detail={"to": "open"})
    world.incidents.adopt(["b"], 900.0)
    assert world.kinds == ["incident_opened", "incident_resolved"]


def test_the_oldest_are_forgotten() -> None:
    world = World()
    for _ in range(KEPT_MAX + 3):
        world.take("circuit", model="m", detail={"to": "open"})
        world.take("circuit", model="m", detail={"to": "closed"})
        world.pass_time(1)
        world.pass_time(HOLD_S)
    assert (len(world.incidents.listed()), world.incidents.forgotten, len(world.disk)) == (KEPT_MAX, 3, KEPT_MAX)
    assert world.incidents.get("inc_2") is None
    assert world.incidents.get("inc_3") is not None
