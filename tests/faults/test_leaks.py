"""Nothing is left behind: after the faults, and after thousands of callers who left in every phase, the process holds
what it held before.

What is compared: tasks, timers and every object of ours by class (`census/`, a look from outside), sockets without the
idle ones of the pool, permits of the breakers, slots of the limiters, held bytes, requests and resident memory. The
first round fills what may stay (pools, plans, histories); the rounds behind it must add nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.demo.script import Fault
from proxy.observe.incidents import KEPT_MAX
from proxy.policy.correlation import TIMELINE_MAX
from proxy.policy.window import HISTORY
from tests.e2e.scenario import CHAT, LATE_S, MESSAGES, RESPONSES, Pair, Scene, scene
from tests.faults.census.sitecustomize import SIGNAL
from tests.faults.test_stream_matrix import LIMITS, cases, check

CROWD = 25
"""Callers of one phase that leave together."""
OBJECTS_MORE = 6
"""So many more objects of one class are no leak: a log line on its way, a timer of the process."""
MODELS = [f"m{number}" for number in range(12)]
"""Budgets are per model: with more than one, more hedges are paid for."""
RECENT = 100
"""Requests, and events, that the process remembers (`store.recent`, its least)."""
REMEMBERED = {
    "RequestRecord": RECENT,
    "Entry": RECENT,
    "AttemptRecord": 64 * RECENT,
    "Incident": KEPT_MAX,
    "Moment": TIMELINE_MAX * KEPT_MAX,
}
"""Class -> most objects that the history in memory may hold; a request has 64 attempts at most."""
GARBAGE_MORE = 300
"""Objects in cycles that are not a request's: an administrative page, a log line's exception."""
RSS_MORE = 14 * 1024 * 1024
"""The histories of breakers fill meanwhile; a leak of one object per call would be found by its class."""
PATIENT: dict[str, Any] = {
    # Breaks that are wanted here must not open a circuit.
    "circuit_breaker": {
        "failureRateThreshold": 100,
        "excluded_errors": ["stream_interrupted", "timeout", "server_error"],
    },
    "retry": {"max_retries": 0},
}
LOYAL = {"failover": {"on": ["server_error", "stream_interrupted"]}}
"""A target that a busy machine makes slow keeps its place: nobody goes elsewhere for a timeout, nor by a hedge."""
SPARE = {
    "X-Request-Hedging": "true",
    "X-Hedge-Config": json.dumps({"delay_ms": 1, "strategy": "first-success"}),
}


# What a process holds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One look."""

    objects: dict[str, int]
    """Living objects by class, and ``tasks``."""
    garbage: int
    """Objects that only the cycle collector could free, since the start."""
    idle: int
    """Upstream connections that wait for their next request."""
    sockets: int
    rss: int
    busy: dict[str, float]
    """Everything that must be 0 while nobody asks anything, by name, without the zeros."""

    def more_than(self, before: Holding) -> dict[str, tuple[int, int]]:
        """Class -> objects before and now, where there are more; connections that wait are no leak."""
        of_idle = {"Wire", "TCPTransport", "HttpResponseParser"}
        out = {}
        for name, count in self.objects.items():
            was = before.objects.get(name, 0)
            allowed = OBJECTS_MORE + (max(0, self.idle - before.idle) if name in of_idle else 0)
            if name == "Permit":
                allowed = HISTORY * self.objects["Breaker"]  # a breaker keeps the latest, and no more
            if name in ("Watch", "Reading", "RouteHealth", "Base"):
                was, allowed = 0, OBJECTS_MORE + self.objects["Breaker"]  # one of each target, or of each route
            if name in REMEMBERED:
                was, allowed = 0, OBJECTS_MORE + REMEMBERED[name]
            if count > was + allowed:
                out[name] = (was, count)
        return out

    def tell(self) -> str:
        return (
            f"{sum(self.objects.values())} objects, {self.sockets} sockets of which {self.idle} idle, {self.rss} bytes"
        )


class Watch:
    """Looks at one process."""

    def __init__(self, stage: Scene, file: Path) -> None:
        self._stage = stage
        self._file = file

    async def look(self) -> Holding:
        """Wait until nothing runs, within 3 s, and look."""
        busy: dict[str, float] = {}
        async with asyncio.timeout(10):
            for pair in self._stage.pairs.values():
                for provider in pair.providers:
                    await provider.wait_idle()
        for _ in range(150):
            status = await self._stage.sidecar.status()
            busy = dict(_busy(status))
            if not busy:
                break
            await asyncio.sleep(0.02)
        idle = sum(pool["idle"] for pool in status["connections"].values())
        self._file.unlink(missing_ok=True)
        os.kill(self._stage.pid, SIGNAL)
        async with asyncio.timeout(5):
            while not self._file.exists():
                await asyncio.sleep(0.01)
        objects = json.loads(self._file.read_text())
        return Holding(
            garbage=objects.pop("garbage"),
            objects=objects,
            idle=idle,
            sockets=sockets_of(self._stage.pid),
            rss=self._stage.rss(),
            busy=busy,
        )


def sockets_of(pid: int) -> int:
    """Open sockets of a process."""
    count = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(entry.path).startswith("socket:")
        except FileNotFoundError:
            continue  # it was closed while we looked
    return count


def _busy(status: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What is not 0 of all that must be 0 when nobody asks anything."""
    yield from ((key, status[key]) for key in ("held_bytes", "observer_failures", "requests_active") if status[key])
    if status["store"]["queued"]:
        yield "events that are not stored", status["store"]["queued"]
    for target in status["targets"]:
        circuit = target["circuit"]
        seen = {
            "limiter slots": target["concurrency"]["running"],
            "permits": circuit["in_flight"] + circuit["leases"] + circuit["overlay_cap_used"],
        }
        yield from ((f"{key} of {target['target']}", value) for key, value in seen.items() if value)
    yield from (
        (f"busy connections of {name}", pool["busy"]) for name, pool in status["connections"].items() if pool["busy"]
    )


def assert_same(before: Holding, after: Holding) -> None:
    told = f"before: {before.tell()}; after: {after.tell()}"
    assert after.busy == {}, told
    assert after.more_than(before) == {}, told
    assert after.garbage - before.garbage <= GARBAGE_MORE, "requests leave cycles behind"
    assert after.sockets - after.idle <= before.sockets - before.idle + 2, told
    assert after.rss <= before.rss + RSS_MORE, told


@pytest.fixture
def census(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a process started from now on writes its census to."""
    file = tmp_path / "census.json"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("census")))
    monkeypatch.setenv("OUTRIDER_CENSUS", str(file))
    return file


# Callers who leave ----------------------------------------------------------------------------------------------------


class Leaver(asyncio.Protocol):
    """A caller that asks and can be told to leave; it knows what it has read."""

    def __init__(self, wire: bytes, marks: tuple[bytes, ...], reads: bool) -> None:
        self._wire = wire
        self._marks = marks
        self._reads = reads
        self._read = b""
        self.reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Any of the marks has been read, or there is nothing to wait for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._wire)
        if not self._reads:
            self._transport.pause_reading()
        if not self._marks:
            self.reached.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.reached.done():
            return
        self._read += data
        if any(mark in self._read for mark in self._marks):
            self.reached.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.reached.done():
            self.reached.set_exception(AssertionError(f"ended too early: {self._read[:600]!r}"))

    def leave(self) -> None:
        self.reached.cancel()
        self._transport.abort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """When callers leave."""

    p: Fault | None
    f: Fault | None = None
    dialect: str = "openai"
    f_dialect: str = ""
    """Empty: as P's."""
    path: str = CHAT
    stream: bool = True
    marks: tuple[bytes, ...] = ()
    """Bytes, any of which a caller has read before it leaves."""
    at_f: bool = False
    """F has got the call too before they leave; P always has."""
    f_calls: int = 1
    """So many from each caller."""
    f_speaks: bool = False
    """And has begun to say something."""
    reads: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    stream_policy: tuple[tuple[str, Any], ...] = ()


SILENT = Fault(silence_s=math.inf)
STALLED = Fault(stall_after_words=5, stall_s=math.inf)
SPOKEN = Fault(first_word_s=0.05, stall_after_words=5, stall_s=math.inf)
"""Late enough for a hedge to be sent meanwhile."""
PHASES: dict[str, Phase] = {
    "before-headers": Phase(p=SILENT),
    "before-content": Phase(p=Fault(first_word_s=math.inf)),
    "mid-stream": Phase(p=STALLED, marks=(b"data",)),
    "keepalive": Phase(p=SILENT, marks=(b": waiting",), stream_policy=(("keepalive_s", 0.05),)),
    "translated": Phase(p=STALLED, dialect="anthropic", marks=(b"data",)),
    "translated-gemini": Phase(p=STALLED, dialect="gemini", path=RESPONSES, marks=(b"output_text.delta",)),
    "translated-before": Phase(p=Fault(first_word_s=math.inf), dialect="openai", path=MESSAGES),
    "continuation": Phase(p=Fault(cut_after_words=5), f=SILENT, marks=(b"data",), at_f=True),
    "continuation-held": Phase(
        p=Fault(cut_after_words=5),
        f=Fault(stall_after_words=2, stall_s=math.inf),
        f_dialect="anthropic",
        marks=(b"data",),
        at_f=True,
        f_speaks=True,
    ),
    "spare": Phase(p=SPOKEN, f=SPOKEN, marks=(b"data",), at_f=True, f_speaks=True, headers=tuple(SPARE.items())),
    "continuation-spare": Phase(
        p=Fault(first_word_s=0.05, cut_after_words=5),
        f=SILENT,
        marks=(b"data",),
        at_f=True,
        f_calls=2,  # the spare, and the demand to go on
        headers=tuple(SPARE.items()),
    ),
    "hedged-silent": Phase(p=SILENT, f=SILENT, at_f=True, headers=tuple(SPARE.items())),
    "assembled": Phase(p=STALLED, stream=False, stream_policy=(("upstream_stream", "always"),)),
    "slow-reader": Phase(p=Fault(big_body_bytes=6 << 20), reads=False),
    "slow-translated": Phase(p=Fault(big_body_bytes=6 << 20), dialect="anthropic", reads=False),
    "unary": Phase(p=SILENT, stream=False),
}


def pair_of(name: str, phase: Phase) -> Pair:
    policy = {
        **PATIENT,
        **({} if phase.headers else LOYAL),
        "hedging": {"enabled": bool(phase.headers), "rescue_after_s": 0, "budget_percent": 100},
        "stream": dict(phase.stream_policy),
        "stream_recovery": "continue",
    }
    made = Pair(
        name,
        dialect=phase.dialect,  # type: ignore[arg-type]
        f_dialect=phase.f_dialect or phase.dialect,  # type: ignore[arg-type]
        policy=policy,
        pause_s=0.0,
    )
    made.p.default, made.f.default = phase.p, phase.f
    return made


def wire_of(pair: Pair, phase: Phase, model: str) -> bytes:
    """One request as bytes."""
    body = json.dumps({**pair.body(phase.path, stream=phase.stream), "model": model}).encode()
    lines = [
        f"POST {phase.path} HTTP/1.1",
        "Host: o",
        f"X-Route: {pair.name}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in phase.headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def leave_together(
    stage: Scene, pair: Pair, phase: Phase, count: int, model: str, patience_s: float = 0.3
) -> float:
    """So many callers ask, come as far as the phase says, and leave at once; when they left, on the loop's clock.

    Returns when every attempt of theirs has ended. `patience_s`: how long hedges are waited for, see `hedged`.
    """
    loop = asyncio.get_running_loop()
    wire, port = wire_of(pair, phase, model), stage.sidecar.data_port
    began = pair.p.attempts_total, pair.f.attempts_total
    callers = []
    for _ in range(count):
        connected = await loop.create_connection(lambda: Leaver(wire, phase.marks, phase.reads), "127.0.0.1", port)
        callers.append(connected[1])

    def all_at_f() -> bool:
        """All calls have come, and have been answered where that is what is waited for."""
        spoke = not phase.f_speaks or all(attempt.first_word_at is not None for attempt in pair.f.attempts)
        return spoke and pair.f.attempts_total >= began[1] + count * phase.f_calls

    def all_came() -> bool:
        return all_at_f() and pair.p.attempts_total >= began[0] + count

    try:
        async with asyncio.timeout(10):
            if phase.headers:
                # Not all come so far: who is asked first may be the silent one, when the other has been found to be
                # slow and has no budget left for a second attempt.
                await asyncio.wait({caller.reached for caller in callers}, timeout=patience_s)
                await hedged(pair, sum(began) + count, all_came, patience_s)
            else:
                await asyncio.gather(*(caller.reached for caller in callers))
                await pair.p.wait(lambda: pair.p.attempts_total >= began[0] + count)
                await pair.f.wait(lambda: not phase.at_f or all_at_f())
    except TimeoutError:
        reached = sum(caller.reached.done() for caller in callers)
        seen = f"P had {pair.p.attempts_total - began[0]} calls, F {pair.f.attempts_total - began[1]}"
        raise AssertionError(f"{pair.name}: {reached} of {count} callers came as far as they should; {seen}") from None
    left = loop.time()
    for caller in callers:
        caller.leave()
    for provider in pair.providers:
        await provider.wait_idle(timeout_s=1.0 + LATE_S)
    return left


async def hedged(pair: Pair, calls: int, all_came: Callable[[], bool], patience_s: float) -> None:
    """Wait for the first attempts, and a moment for the second ones: of many callers, those who left have spent the
    budgets of their targets, and where all has become slow none is sent."""
    until = asyncio.get_running_loop().time() + patience_s
    while pair.p.attempts_total + pair.f.attempts_total < calls:
        await asyncio.sleep(0.005)
    while not all_came() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.005)


def size_of(phase: Phase) -> int:
    """How many callers leave together."""
    return 10 if phase.headers else CROWD if phase.reads else 2


async def leave(stage: Scene, rounds: range) -> int:
    """All phases at the same time, as often as `rounds` says; how many streams were aborted."""

    async def walk(name: str, phase: Phase) -> None:
        for number in rounds:
            model = MODELS[number % len(MODELS) if phase.headers else 0]
            await leave_together(stage, stage[name], phase, size_of(phase), model)
            for provider in stage[name].providers:
                provider.clear()

    await asyncio.gather(*(walk(name, phase) for name, phase in PHASES.items()))
    return len(rounds) * sum(map(size_of, PHASES.values()))


async def know_all_targets(stage: Scene, pair: Pair, phase: Phase) -> None:
    """Healthy answers for each model, from the pair as it is asked later and from F, so that no plan and no target is
    new later on."""
    pair.p.default = pair.f.default = None
    for model in MODELS if phase.headers else MODELS[:1]:
        for asked in ({"X-Route": pair.name, **dict(phase.headers)}, {"X-Failover-Providers": pair.f.name}):
            reply = await stage.post(CHAT, {**pair.body(), "model": model}, asked)
            assert reply.status == 200
    pair.p.default, pair.f.default = phase.p, phase.f


@pytest.mark.parametrize("aborted", [1_000, pytest.param(100_000, marks=pytest.mark.torture)])
async def test_callers_who_leave_leave_nothing_behind(tmp_path: Path, census: Path, aborted: int) -> None:
    pairs = [pair_of(name, phase) for name, phase in PHASES.items()]
    async with scene(tmp_path, *pairs, headers={}, store={"recent": RECENT}) as stage:
        watch = Watch(stage, census)
        done = number = 0
        for name, phase in PHASES.items():
            await know_all_targets(stage, stage[name], phase)
        before: Holding | None = None
        while done < aborted:
            done += await leave(stage, range(number, number + 1))
            number += 1
            if before is None and done > aborted // 5:
                before = await watch.look()
        assert before is not None
        after = await watch.look()
        assert_same(before, after)
        assert_blamed_nobody(await stage.sidecar.status())
        metrics = await stage.sidecar.metrics()
        left = sum(
            v for k, v in metrics.items() if k.startswith("outrider_requests_total{") and "client_cancelled" in k
        )
        assert left == done
        hedges = sum(v for k, v in metrics.items() if k.startswith("outrider_hedges_total{"))
        assert hedges >= 50, "callers left while second attempts ran"


def assert_blamed_nobody(status: dict[str, Any]) -> None:
    """A call that was left counts neither for nor against its target."""
    for target in status["targets"]:
        counts = target["circuit"]["counts"]
        name = target["target"].partition("/")[0]
        allowed = {"cancelled.downstream", "cancelled.superseded"}
        if counts.get("ok", 0) <= 2:
            allowed |= {"ok"}  # from the healthy answers of `know_all_targets`
        if name.startswith("p-continuation"):
            allowed |= {"stream_interrupted"}
        assert set(counts) <= allowed, (name, counts)
        assert target["circuit"]["S_err"] == 0.0 or name.startswith("p-continuation"), name


# The faults -----------------------------------------------------------------------------------------------------------


POSITIONS = [
    pytest.param((0, 33), id="short"),
    pytest.param(tuple(range(60)), id="full", marks=pytest.mark.torture),
]


@pytest.mark.parametrize("positions", POSITIONS)
async def test_faults_leave_nothing_behind(tmp_path: Path, census: Path, positions: tuple[int, ...]) -> None:
    pairs = {
        path: Pair(path.rpartition("/")[2], dialect=own, f_dialect=other, policy=PATIENT, pause_s=0.0)  # type: ignore[arg-type]
        for path, own, other in (
            (CHAT, "openai", "anthropic"),
            (RESPONSES, "openai", "gemini"),
            (MESSAGES, "anthropic", "openai"),
        )
    }
    sent = {**LIMITS, "X-Stream-Recovery": "continue"}
    async with scene(tmp_path, *pairs.values(), x=0.1, headers=sent, store={"recent": RECENT}) as stage:

        async def walk(path: str, pair: Pair, at: tuple[int, ...]) -> None:
            for name, _, fault in cases(at):
                if name == "no-done" and path == RESPONSES:
                    continue
                pair.p.script([fault])
                check(await pair.ask(path=path), f"{pair.name} {name}")

        async def run(at: tuple[int, ...]) -> None:
            await asyncio.gather(*(walk(path, pair, at) for path, pair in pairs.items()))
            for pair in pairs.values():
                pair.calls.clear()

        watch = Watch(stage, census)
        await run((1,) if len(positions) < 10 else positions)
        before = await watch.look()
        await run(positions)
        assert_same(before, await watch.look())
