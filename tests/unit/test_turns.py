"""Whatever looks on lets requests go first, however many targets there are, and touches them on the event loop only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest

from proxy import app as app_module
from proxy.app import App
from proxy.base.outcome import Class, Outcome
from proxy.base.target import Target
from proxy.config.compiled import Config
from proxy.config.load import load_text
from proxy.config.planner import Planner
from proxy.engine.plan import Candidate
from proxy.observe import health, health_report, incidents, target_report, turns
from proxy.observe.entry import Entry
from proxy.observe.logs import Log
from proxy.observe.record import AttemptRecord, RequestRecord
from proxy.observe.threads import on_loop
from proxy.observe.turns import Round, Turns
from proxy.policy.breaker import Breaker
from proxy.policy.correlation import UPDATE_S
from proxy.server import vitals as vitals_module

FILE = """
version: 1
listen:
  data: {port: 0}
  admin: {port: 0}
limits: {max_targets: 4096}
providers:
  a: {dialect: openai, base_url: "http://127.0.0.1:1/v1"}
  b: {dialect: openai, base_url: "http://127.0.0.1:1/v1"}
routes: [{name: r, targets: [{provider: a}, {provider: b}]}]
"""
KEY = (True, 0)


def configuration(text: str = FILE) -> Config:
    loaded = load_text(text, "f", {})
    assert loaded.config is not None, loaded.errors
    return loaded.config


class Crowd:
    """An app with many targets, on a clock that stands still until it is moved; nothing is bound."""

    def __init__(self, targets: int, provider: str = "a") -> None:
        self.now = 100.0
        self.app = App(configuration(), clock=lambda: self.now, wall=lambda: 1e9 + self.now, log=Log("json", "error"))
        self.told: list[Entry] = []
        self.app.bus.subscribe(lambda event: self.told.append(event) if isinstance(event, Entry) else None)
        for n in range(targets):
            self.app.cluster.state(Candidate(target=Target(provider, f"m{n}")), self.now)

    def fail(self) -> None:
        """Every target has failed four times, over two seconds."""
        for state in self.app.cluster.states():
            for n in range(4):
                state.pulse.ended(KEY, Outcome(cls=Class.SERVER_ERROR), 0.1, False, self.now + n / 2)
        self.now += 2.0

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.told]


def failed(provider: str) -> RequestRecord:
    """A request that this provider has failed, as observers are told of it."""
    attempt = AttemptRecord(
        provider=provider,
        model="m",
        region="",
        kind="first",
        outcome="server_error",
        detail="server_error",
        status=500,
        start_ms=0.0,
        end_ms=20.0,
        first_content_ms=None,
        won=False,
    )
    return RequestRecord(
        request_id=f"req_{provider}",
        route="r",
        endpoint="chat",
        stream=False,
        result="error",
        status=502,
        total_ms=30.0,
        first_content_ms=None,
        attempts=(attempt,),
        served_by="",
        served_model="",
        failover_reason="",
        hedges=0,
        input_tokens=None,
        output_tokens=None,
    )


class Beside:
    """Counts the turns that other work of the event loop gets."""

    def __init__(self) -> None:
        self.turns = 0
        self._task = asyncio.get_running_loop().create_task(self._count())

    async def _count(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def beside() -> AsyncIterator[Beside]:
    made = Beside()
    await asyncio.sleep(0)
    yield made
    await made.end()


async def test_work_pauses_when_its_turn_is_over_and_not_before(
    monkeypatch: pytest.MonkeyPatch, beside: Beside
) -> None:
    clock = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0], raising=False)
    work = Turns()
    before = beside.turns
    clock[0] = turns.TURN_S * 0.9
    await work.pause()
    assert beside.turns == before
    clock[0] = turns.TURN_S
    await work.pause()
    assert beside.turns == before + 1
    await work.pause()
    assert beside.turns == before + 1  # a new turn has begun


@pytest.mark.parametrize("targets", [300, 1000])
async def test_reports_give_others_their_turn_at_every_target(
    targets: int, monkeypatch: pytest.MonkeyPatch, beside: Beside
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    crowd = Crowd(targets)
    crowd.app.eyes.vitals.book.tick()
    for ask, least in (
        (crowd.app.eyes.vitals.snapshot, targets + health_report.MODELS_MAX),
        (crowd.app.status, targets),
        (crowd.app.metrics.gauges, targets // target_report.STEP),
    ):
        before = beside.turns
        assert await ask()
        assert beside.turns - before >= least


async def test_the_look_of_each_second_gives_others_their_turn_and_sees_the_same(beside: Beside) -> None:
    crowd = Crowd(1000)
    crowd.fail()
    crowd.app.eyes.tick()
    assert crowd.kinds == []  # 32 of 1,000 have been looked at
    before = beside.turns
    while "degraded_entered" not in crowd.kinds:
        assert beside.turns - before < 150
        await asyncio.sleep(0)
    assert beside.turns - before >= 1000 // health.STEP
    assert sorted(crowd.kinds) == ["degraded_entered", "incident_opened", "provider_down"]
    assert len(crowd.app.eyes.vitals.book.targets("a")) == 1000


def test_few_targets_are_looked_at_before_anybody_is_answered() -> None:
    crowd = Crowd(health.GLANCE_MAX)
    crowd.fail()
    snapshot = asyncio.run(crowd.app.eyes.vitals.snapshot())
    assert [each["status"] for each in snapshot["providers"]] == ["down", "healthy"]


def test_of_many_targets_the_last_look_is_told() -> None:
    crowd = Crowd(health.GLANCE_MAX + 1)
    crowd.fail()
    assert asyncio.run(crowd.app.eyes.vitals.snapshot())["status"] == "healthy"
    crowd.app.eyes.vitals.book.tick()
    assert asyncio.run(crowd.app.eyes.vitals.snapshot())["status"] == "degraded"


async def test_many_targets_are_told_to_all_who_ask_at_once_and_again_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd = Crowd(health.GLANCE_MAX + 1)
    report, made = crowd.app.eyes.vitals._routes._report, []
    snapshot = report.snapshot

    async def counted() -> dict[str, Any]:
        made.append(crowd.now)
        await asyncio.sleep(0)
        return await snapshot()

    monkeypatch.setattr(report, "snapshot", counted)
    first, *others = await asyncio.gather(*(report.recent() for _ in range(4)))
    assert all(other is first for other in others)
    crowd.now += health_report.KEPT_S * 0.9
    assert await report.recent() is first
    crowd.now += health_report.KEPT_S * 0.2
    assert await report.recent() is not first
    assert made == [100.0, crowd.now]


async def test_who_asks_goes_on_when_the_one_who_asked_first_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(health.GLANCE_MAX + 1)
    report = crowd.app.eyes.vitals._routes._report
    first, second = (asyncio.ensure_future(report.recent()) for _ in range(2))
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    await asyncio.sleep(0)
    first.cancel()
    assert orjson.loads(b"{" + (await second)[0])["status"] == "healthy"
    assert first.cancelled()


async def test_few_targets_are_told_anew_each_time() -> None:
    crowd = Crowd(3)
    report = crowd.app.eyes.vitals._routes._report
    assert await report.recent() is not await report.recent()


@pytest.mark.parametrize("pauses", [1, 2, 7])
def test_a_look_ends_when_another_configuration_is_adopted(pauses: int) -> None:
    crowd = Crowd(1000)
    crowd.fail()
    book = crowd.app.eyes.vitals.book
    look = book.look()
    for _ in range(pauses):
        next(look)
    book.adopt(health.Layout(providers={}, routes={}))
    assert list(look) == []
    assert crowd.kinds == []
    assert book.routes == ()


async def test_a_second_look_does_not_begin_before_the_first_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(1000)
    begun = []
    vitals = crowd.app.eyes.vitals
    look = vitals.book.look
    monkeypatch.setattr(vitals.book, "look", lambda: begun.append(1) or look())
    for _ in range(3):
        vitals.tick()
    assert len(begun) == 1
    for _ in range(100):
        await asyncio.sleep(0)
    vitals.tick()
    assert len(begun) == 2


def test_status_tells_the_targets_that_were_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_report, "TARGETS_MAX", 2)
    crowd = Crowd(5)
    for n, state in enumerate(crowd.app.cluster.states()):
        state.used_at = [3.0, 9.0, 1.0, 8.0, 2.0][n]
    told = asyncio.run(crowd.app.status())
    assert [each["target"] for each in told["targets"]] == ["a/m1", "a/m3"]
    assert told["targets_left_out"] == 3


def test_percentiles_of_very_many_times_are_read_from_an_even_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_report, "RANKED_MAX", 50)
    crowd = Crowd(10)
    for n, state in enumerate(crowd.app.cluster.states()):
        for m in range(100):
            state.pulse.content(KEY, (100 * n + m) / 1000, state.latency, crowd.now)
            state.pulse.ended(KEY, Outcome(cls=Class.OK), 1.0, True, crowd.now)
    provider = asyncio.run(crowd.app.eyes.vitals.snapshot())["providers"][0]
    assert provider["avg_response_time_ms"] == 499.5
    for quantile, exact in (("p50", 499.0), ("p95", 949.0), ("p99", 989.0)):
        assert provider["latency_ms"][quantile] == pytest.approx(exact, abs=21.0)  # one of 48 is 21 ms


# An outage of everything ----------------------------------------------------------------------------------------------

MANY = 200
OUTAGE = (
    "version: 1\nlisten: {data: {port: 0}, admin: {port: 0}}\nproviders:\n"
    + "".join(f"  p{n}: {{dialect: openai, base_url: 'http://127.0.0.1:1/v1'}}\n" for n in range(MANY))
    + "routes: [{name: r, targets: ["
    + ", ".join(f"{{provider: p{n}}}" for n in range(32))
    + "]}]\n"
)


class Outage(Crowd):
    """An app with many providers, of which every one fails."""

    def __init__(self) -> None:
        self.now = 100.0
        self.app = App(
            configuration(OUTAGE), clock=lambda: self.now, wall=lambda: 1e9 + self.now, log=Log("json", "error")
        )
        self.told = []
        self.app.bus.subscribe(lambda event: self.told.append(event) if isinstance(event, Entry) else None)
        for n in range(MANY):
            self.app.cluster.state(Candidate(target=Target(f"p{n}", "m")), self.now)
        self.fail()


async def most_told_in_a_turn(crowd: Crowd, is_on: Callable[[], bool]) -> int:
    """The most entries that were told between two turns of others."""
    most, before = len(crowd.told), len(crowd.told)
    while is_on():
        await asyncio.sleep(0)
        most = max(most, len(crowd.told) - before)
        before = len(crowd.told)
    return most


async def test_providers_that_fail_together_are_told_a_few_at_a_time() -> None:
    crowd = Outage()
    vitals, alarms = crowd.app.eyes.vitals, crowd.app.eyes.alarms
    vitals.tick()
    assert await most_told_in_a_turn(crowd, lambda: vitals._round.is_on) <= 2 * health.TOLD_STEP + 1
    assert crowd.kinds.count("provider_down") == crowd.kinds.count("incident_opened") == MANY
    crowd.told.clear()
    for n in range(MANY):
        record = failed(f"p{n}")
        crowd.app.bus.publish(record)
    crowd.told.clear()
    crowd.now += UPDATE_S
    alarms.tick()
    assert await most_told_in_a_turn(crowd, lambda: alarms._round.is_on) <= incidents.STEP
    assert crowd.kinds == ["incident_updated"] * MANY


async def test_a_cause_that_is_forgotten_while_all_are_looked_at_opens_nothing() -> None:
    crowd = Outage()
    crowd.app.eyes.vitals.book.tick()
    alarms = crowd.app.eyes.alarms
    crowd.told.clear()
    alarms.tick()
    for _ in range(3):
        await asyncio.sleep(0)
    assert alarms._round.is_on
    alarms.incidents.adopt([], 900.0)
    while alarms._round.is_on:
        await asyncio.sleep(0)
    assert crowd.kinds == ["incident_resolved"] * MANY
    assert alarms.incidents.open == 0


async def test_a_fault_ends_a_round_and_not_those_to_come() -> None:
    def broken() -> Iterator[None]:
        yield
        raise ZeroDivisionError

    work = Round()
    work.begin(broken)
    with pytest.raises(ZeroDivisionError):
        work.end()
    assert not work.is_on
    done: list[int] = []
    work.begin(lambda: (done.append(n) for n in range(2)))
    work.begin(lambda: (done.append(9) for _ in range(9)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (done, work.is_on) == ([0, 1], False)


async def test_abilities_give_others_their_turn_at_every_route(monkeypatch: pytest.MonkeyPatch, beside: Beside) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    crowd = Outage()
    before = beside.turns
    assert (await crowd.app.eyes.vitals._routes._all())["chat"][0] == "available"
    assert beside.turns - before >= 4


async def test_readers_who_come_together_share_a_snapshot_and_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(health.GLANCE_MAX + 1)
    vitals = crowd.app.eyes.vitals
    report, made = vitals._routes._report, []
    snapshot = report.snapshot

    async def counted() -> dict[str, Any]:
        made.append(crowd.now)
        return await snapshot()

    monkeypatch.setattr(report, "snapshot", counted)
    first = await asyncio.gather(*(vitals._stream._begin(0, crowd.app.eyes.journal.last_id) for _ in range(100)))
    crowd.app.eyes.tell("provider_down", provider="a", detail={"status": "down"})
    late = await vitals._stream._begin(0, crowd.app.eyes.journal.last_id)
    assert len(made) == 1
    assert {begin.snapshot for begin in first} == {late.snapshot}
    assert [len(begin.missed) for begin in first] == [0] * 100
    assert late.missed[0].kind == "provider_down"
    assert late.id == first[0].id < late.missed[0].id


async def test_configurations_are_compared_and_laid_out_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 300 providers that holds whatever does it for tens of milliseconds."""
    crowd = Crowd(1)
    seen: list[tuple[str, int]] = []

    def spied(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *of: seen.append((name, threading.get_ident())) or work(*of)

    monkeypatch.setattr(app_module, "changes", spied("changes", app_module.changes))
    monkeypatch.setattr(vitals_module, "layout_of", spied("layout", vitals_module.layout_of))
    other = configuration(OUTAGE)
    planner = await asyncio.to_thread(crowd.app._plan, other)
    found, _ = crowd.app.install(other, planner)
    assert [name for name, _ in seen] == ["changes", "layout"]
    assert threading.get_ident() not in {thread for _, thread in seen}
    assert found.keys
    assert len(crowd.app.eyes.vitals.book.layout.providers) == MANY
    # What was prepared for another one is of no use.
    third = configuration(FILE)
    await asyncio.to_thread(crowd.app._plan, configuration(FILE))
    crowd.app.install(third, await asyncio.to_thread(Planner, third, b""))
    assert sorted(crowd.app.eyes.vitals.book.layout.providers) == ["a", "b"]


async def test_what_happens_between_a_readers_coming_and_its_snapshot_is_told_once() -> None:
    crowd = Crowd(1)
    eyes, written = crowd.app.eyes, bytearray()

    class Told:
        connection = SimpleNamespace(reset=lambda: None)

        def pace(self, **_: float) -> None:
            pass

        async def begin(self, *_: object) -> None:
            eyes.tell("provider_down", provider="a", detail={"status": "down"})

        async def write(self, data: bytes) -> None:
            written.extend(data)

    inbound = SimpleNamespace(query=f"since={eyes.journal.last_id}", headers=[])
    task = asyncio.create_task(eyes.vitals._stream.serve(inbound, Told()))  # type: ignore[arg-type]
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert written.count(b"event: snapshot") == written.count(b"event: provider_down") == 1
    assert written.index(b"event: snapshot") < written.index(b"event: provider_down")


# One thread -----------------------------------------------------------------------------------------------------------


async def test_a_scrape_touches_targets_on_the_event_loop_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of a breaker may move it: two threads at once would break what admits requests."""
    seen = set()
    peek = Breaker.peek

    def spied(self: Breaker, *args: Any) -> Any:
        seen.add(threading.get_ident())
        return peek(self, *args)

    monkeypatch.setattr(Breaker, "peek", spied)
    app = App(configuration(), log=Log("json", "error"))
    app.cluster.state(Candidate(target=Target("a", "m")), 0.0)
    await app.start()
    try:
        assert app.listeners is not None
        seen.clear()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{app.listeners.admin_port}/metrics") as answer,
        ):
            text = await answer.text()
    finally:
        await app.close()
    assert 'outrider_circuit_state{model="other",provider="a"} 0.0' in text
    assert seen == {threading.get_ident()}


async def test_another_thread_gets_what_the_event_loop_has_read() -> None:
    async def read() -> int:
        return threading.get_ident()

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(on_loop, loop, read, 5.0) == threading.get_ident()


async def test_another_thread_does_not_wait_for_an_event_loop_that_has_no_time() -> None:
    left = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    assert await asyncio.to_thread(on_loop, asyncio.get_running_loop(), never, 0.01) is None
    async with asyncio.timeout(5):
        await left.wait()


def test_an_event_loop_that_has_ended_tells_nothing() -> None:
    async def read() -> int:
        return 1

    loop = asyncio.new_event_loop()
    loop.close()
    assert on_loop(loop, read, 1.0) is None


# What happens meanwhile -----------------------------------------------------------------------------------------------


async def test_what_happens_while_a_snapshot_is_made_comes_after_it() -> None:
    app = App(configuration(), log=Log("json", "error"))
    await app.start()
    stream = app.eyes.vitals._stream
    snapshot = stream._snapshot

    async def slow() -> tuple[bytes, int]:
        found = await snapshot()
        app.eyes.tell("provider_down", provider="a", detail={"status": "down"})
        return found

    stream._snapshot = slow
    try:
        assert app.listeners is not None
        async with (
            asyncio.timeout(10),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{app.listeners.data_port}/v1/health/stream") as socket,
        ):
            first, second = await socket.receive_json(), await socket.receive_json()
    finally:
        await app.close()
    assert (first["event"], second["event"]) == ("snapshot", "provider_down")
    assert second["id"] > first["id"]


async def test_a_fault_of_an_observer_does_not_stop_the_heart_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(configuration(), log=Log("json", "error"))
    await app.start()
    try:

        def broken() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(app.eyes, "tick", broken)
        with pytest.raises(ZeroDivisionError):
            app._tick()
        (timer,) = app._timers
        assert not timer.cancelled()
        assert 0.0 < timer.when() - asyncio.get_running_loop().time() <= 1.0
    finally:
        await app.close()
