"""The driver of one request, in this process: scripted providers on loopback, a caller who is slow or gone."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from proxy.base.exchange import Inbound, WriteTimeout
from proxy.config.load import load_text
from proxy.config.planner import Planner
from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault, headers
from proxy.dispatch import Dispatcher, dispatcher
from proxy.dispatch.drive import Drive
from proxy.dispatch.room import Room
from proxy.engine.cluster import Cluster
from proxy.observe.record import RequestRecord
from proxy.upstream.session import Account, Upstreams

TWO = """
version: 1
defaults:
  retry: {max_retries: 0}
  stream_recovery: error
providers:
  a: {dialect: openai, base_url: "%s/v1", api_key: sk-a}
  b: {dialect: openai, base_url: "%s/v1", api_key: sk-b}
"""


class FakeSink:
    """The way back to a caller; `gate` set: the caller reads nothing until it is."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = ""
        self.gate: asyncio.Event | None = None
        self.fail: Exception | None = None
        self.begun = asyncio.Event()

    async def whole(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        assert not self.status, "two answers"
        self.status, self.headers, self.body = status, {k.lower(): v for k, v in fields}, body
        self.ended = "whole"

    def pace(self, *, write_timeout_s: float, buffer_bytes: int) -> None:
        assert not self.status
        assert buffer_bytes > 0

    async def begin(self, status: int, fields: list[tuple[str, str]]) -> None:
        assert not self.status, "two answers"
        self.status, self.headers = status, {k.lower(): v for k, v in fields}
        self.begun.set()

    async def write(self, data: bytes) -> None:
        if self.fail is not None:
            raise self.fail
        if self.gate is not None:
            await self.gate.wait()
        self.body += data

    def forward(self, data: bytes, begin: int) -> bool:
        return self.push(data[begin:-2])

    def push(self, data: bytes) -> bool:
        if self.fail is not None:
            raise self.fail
        self.body += data
        return self.gate is None or self.gate.is_set()

    async def end(self) -> None:
        self.ended = "end"

    def abort(self) -> None:
        self.ended = self.ended or "abort"


class Stage:
    """Two providers, a dispatcher, and every record it published."""

    def __init__(self, a: FakeProvider, b: FakeProvider) -> None:
        self.a, self.b = a, b
        loaded = load_text(TWO % (a.url, b.url), "test", {})
        assert loaded.config is not None, [str(error) for error in loaded.errors]
        accounts = {
            provider.name: Account(
                name=provider.name, dialect=provider.dialect, base_url=provider.base_url, key=provider.api_key
            )
            for provider in loaded.config.providers.values()
        }
        self.records: list[RequestRecord] = []
        self.room = Room(
            cluster=Cluster(lambda: 0.5),
            upstreams=Upstreams(accounts, time.monotonic),
            clock=time.monotonic,
            wall=time.time,
            rng=lambda: 0.5,
            observe=self.records.append,
            via=b"Via: 1.1 test\r\n",
        )
        self.dispatcher = Dispatcher(loaded.config, Planner(loaded.config, b"s" * 16), self.room, b"s" * 16, "test")

    def inbound(self, path: str = "/v1/chat/completions", method: str = "POST", **over: Any) -> Inbound:
        fields = over.pop("headers", {})
        sent = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **over}
        return Inbound(
            request_id="req_1",
            method=method,
            path=path,
            query="",
            headers=tuple((k.encode(), v.encode()) for k, v in fields.items()),
            body=orjson.dumps(sent),
            accepted_at=time.monotonic(),
        )

    async def serve(self, sink: FakeSink | None = None, **over: Any) -> FakeSink:
        sink = sink or FakeSink()
        async with asyncio.timeout(10):
            await self.dispatcher.serve(self.inbound(**over), sink)
        return sink

    @property
    def busy(self) -> int:
        return sum(upstream.connector.busy for upstream in self.room.upstreams.built())


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with FakeProvider(name="a", pause_s=0) as a, FakeProvider(name="b", pause_s=0) as b:
        made = Stage(a, b)
        yield made
        assert made.busy == 0, "an exchange was left running"
        made.room.upstreams.close()


async def test_an_answer_and_its_record(stage: Stage) -> None:
    sink = await stage.serve()
    assert (sink.status, sink.ended, sink.headers["x-served-by"]) == (200, "whole", "a")
    assert "server-timing" in sink.headers
    (record,) = stage.records
    assert (record.result, record.status, record.served_by, len(record.attempts)) == ("ok", 200, "a", 1)
    assert record.input_tokens
    assert record.total_ms >= record.attempts[0].end_ms


async def test_whom_the_balance_chooses_is_no_failover(stage: Stage) -> None:
    """X-Failover says that the request's own primary did not answer; a share of the traffic is nobody's failure."""
    weights = "routes: [{name: r, balance: weighted, targets: [{provider: a}, {provider: b, weight: 1000}]}]\n"
    loaded = load_text(TWO % (stage.a.url, stage.b.url) + weights, "test", {})
    assert loaded.config is not None, [str(error) for error in loaded.errors]
    stage.dispatcher.config, stage.dispatcher.planner = loaded.config, Planner(loaded.config, b"s" * 16)
    sink = await stage.serve()
    assert (sink.headers["x-served-by"], sink.headers.get("x-failover")) == ("b", None)
    assert stage.records[0].failover_reason == ""
    stage.b.default = Fault(status=500, error="internal")
    sink = await stage.serve()
    assert (sink.headers["x-served-by"], sink.headers["x-failover-reason"]) == ("a", "server_error")
    assert stage.records[1].failover_reason == "server_error"


async def test_a_stream_is_sent_and_ended(stage: Stage) -> None:
    sink = await stage.serve(stream=True)
    assert (sink.status, sink.ended) == (200, "end")
    assert sink.body.endswith(b"data: [DONE]\n\n")
    assert sink.headers["x-accel-buffering"] == "no"
    assert sink.headers["cache-control"] == "no-store"


async def test_failover_starts_without_a_task_of_its_own(stage: Stage) -> None:
    stage.a.default = Fault(status=500, error="internal")
    await stage.serve()
    before = asyncio.all_tasks()
    sink = await stage.serve()
    assert sink.headers["x-served-by"] == "b"
    assert asyncio.all_tasks() == before


async def test_L39_a_broken_stream_ends_with_an_error_and_an_abort(stage: Stage) -> None:
    stage.a.default = Fault(cut_after_words=5)
    sink = await stage.serve(stream=True)
    assert sink.ended == "abort"
    assert sink.body.rstrip().rpartition(b"data: ")[2].startswith(b'{"error":')
    assert stage.records[0].result == "truncated"
    assert len(stage.records[0].attempts) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_takes_the_upstream_call_along(stage: Stage, stream: bool) -> None:
    stage.a.default = Fault(silence_s=math.inf)
    serving = asyncio.create_task(stage.dispatcher.serve(stage.inbound(stream=stream), FakeSink()))
    await stage.a.wait_attempts(1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await stage.a.wait_idle()
    assert stage.records[0].result == "client_cancelled"
    assert stage.b.attempts == []


@pytest.mark.parametrize("error", [ConnectionResetError(), WriteTimeout()])
async def test_a_caller_who_cannot_be_written_to_is_gone(stage: Stage, error: Exception) -> None:
    sink = FakeSink()
    sink.fail = error
    await stage.serve(sink, stream=True)
    assert sink.ended == "abort"
    assert stage.records[0].result == "client_cancelled"


async def test_a_request_cut_by_the_drain_is_told_apart(stage: Stage) -> None:
    stage.a.default = Fault(silence_s=math.inf)
    serving = asyncio.create_task(stage.dispatcher.serve(stage.inbound(), FakeSink()))
    await stage.a.wait_attempts(1)
    stage.room.draining = True
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert stage.records[0].result == "drained"


async def test_a_slow_caller_holds_the_upstream_and_its_connection_lives_on(stage: Stage) -> None:
    """A held connection that goes back to the pool must read again, or the next request on it gets no answer."""
    stage.a.default = Fault(big_body_bytes=6 << 20)
    sink = FakeSink()
    sink.gate = asyncio.Event()
    serving = asyncio.create_task(stage.serve(sink, stream=True))
    async with asyncio.timeout(5):
        await sink.begun.wait()
    sink.gate.set()
    await serving
    assert sink.ended == "end"
    stage.a.heal()
    for _ in range(3):
        again = await stage.serve()
        assert again.headers["x-served-by"] == "a"
    assert len(stage.b.attempts) == 0


async def test_a_fault_of_ours_in_a_callback_ends_this_request_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, n: int) -> None:
        raise RuntimeError("ours")

    with monkeypatch.context() as patched:
        patched.setattr("proxy.dispatch.drive.Drive.content", broken)
        with pytest.raises(RuntimeError, match="ours"):
            await stage.serve()
    assert (await stage.serve()).status == 200


async def test_the_deadline_ends_silence_with_a_504(stage: Stage) -> None:
    stage.a.default = stage.b.default = Fault(silence_s=math.inf)
    sink = await stage.serve(headers={"X-Request-Timeout-Ms": "60", "X-Request-Hedging": "false"})
    assert (sink.status, orjson.loads(sink.body)["error"]["code"]) == (504, "timeout")


async def test_dry_run_calls_nobody(stage: Stage) -> None:
    sink = await stage.serve(headers={"X-Explain": "plan"})
    assert sink.status == 200
    assert stage.a.attempts_total == stage.b.attempts_total == 0
    assert stage.records == []


async def test_passthrough_keeps_the_label_of_a_packed_body(stage: Stage) -> None:
    stage.a.default = Fault(encoding="gzip")
    sink = await stage.serve(path="/a/v1/chat/completions", headers={"Accept-Encoding": "gzip"})
    assert sink.headers["content-encoding"] == "gzip"
    assert sink.body.startswith(b"\x1f\x8b")
    assert stage.a.attempts[0].header("accept-encoding") == "gzip"
    assert stage.a.attempts[0].header("via") == "1.1 test"


async def test_a_read_answer_loses_the_label_of_its_packing(stage: Stage) -> None:
    stage.a.default = Fault(encoding="gzip")
    sink = await stage.serve()
    assert "content-encoding" not in sink.headers
    assert sink.body.startswith(b"{")
    assert stage.a.attempts[0].header("accept-encoding") == "identity"


async def test_an_upstream_that_names_headers_in_connection_is_answered(stage: Stage) -> None:
    stage.a.default = Fault(headers=headers({"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-Kept": "2"}))
    sink = await stage.serve()
    assert sink.status == 200
    assert "x-hop" not in sink.headers
    assert sink.headers["x-kept"] == "2"


async def test_a_finished_request_leaves_no_timer_and_no_garbage(stage: Stage) -> None:
    await stage.serve()
    loop: Any = asyncio.get_running_loop()
    gc.collect()
    before = len([handle for handle in loop._scheduled if not handle.cancelled()])
    for _ in range(20):
        await stage.serve()
    after = len([handle for handle in loop._scheduled if not handle.cancelled()])
    assert after <= before


# A busy event loop ----------------------------------------------------------------------------------------------------

WORD = b'data: {"choices":[{"index":0,"delta":{"content":"%s "}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Hand:
    """A provider in the test's own hands, and the drive of the one request it got; the clock may be put forward."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.writer: asyncio.StreamWriter
        self.drive: Drive
        self.late_s = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + WORD % b"one")
        self.writer = writer
        self.asked.set()

    def clock(self) -> float:
        return time.monotonic() + self.late_s

    def ring(self) -> None:
        """The request's timer rings now, whatever time the event loop has."""
        handle = self.drive._handle
        assert handle is not None
        handle.cancel()
        self.drive._ring()


@pytest.fixture
async def hand(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Hand, Stage, asyncio.Task[FakeSink]]]:
    """A stream whose first word has come."""
    made = Hand()

    def caught(*given: Any) -> Drive:
        made.drive = Drive(*given)
        return made.drive

    monkeypatch.setattr(dispatcher, "Drive", caught)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    stage = Stage(*(cast(FakeProvider, SimpleNamespace(url=url)),) * 2)
    stage.room.clock = made.clock
    sink = FakeSink()
    serving = asyncio.create_task(stage.serve(sink, stream=True))
    async with asyncio.timeout(10):
        await sink.begun.wait()
    yield made, stage, serving
    made.writer.close()
    server.close()
    stage.room.upstreams.close()


async def test_what_lies_in_the_socket_is_read_before_a_late_timer_is_believed(
    hand: tuple[Hand, Stage, asyncio.Task[FakeSink]],
) -> None:
    """An event loop that was busy for longer than the limit must not take a speaking target for a silent one."""
    provider, stage, serving = hand
    provider.writer.write(WORD % b"two" + STOP)
    provider.late_s = 60.0
    provider.ring()
    sink = await serving
    assert (sink.ended, stage.records[0].result) == ("end", "ok")
    assert b"two" in sink.body


async def test_silence_is_found_out_by_a_late_timer_too(hand: tuple[Hand, Stage, asyncio.Task[FakeSink]]) -> None:
    provider, stage, serving = hand
    provider.late_s = 60.0
    provider.ring()
    sink = await serving
    assert sink.ended == "abort"
    assert stage.records[0].attempts[0].detail == "timeout.idle"
