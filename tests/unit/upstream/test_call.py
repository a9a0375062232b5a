"""One attempt on the wire: the resend that nobody counts, the five clocks, holding, stopping."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any

import pytest

from proxy.base.outcome import Outcome
from proxy.upstream.call import LINGER_S, NEVER, Call, connect_outcome
from proxy.upstream.connector import Connector, Origin, Resolver
from proxy.upstream.wire import Headers, Wire
from tests.unit.upstream.faketransport import FakeTransport, connected, feed

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HEAD_ONLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


class FakeConnector(Connector):
    """Hands out wires over fake transports; `fresh` decides what `open` does."""

    def __init__(self) -> None:
        super().__init__(Origin.parse("http://p.test"), Resolver(lambda: 0.0), lambda: 0.0)
        self.fresh: list[Exception | asyncio.Event] = []
        self.given: list[FakeTransport] = []

    async def open(self) -> Wire:
        if self.fresh:
            what = self.fresh.pop(0)
            if isinstance(what, Exception):
                raise what
            await what.wait()
        return self.wire()

    def wire(self) -> Wire:
        wire, transport = connected(asyncio.get_running_loop())
        self.given.append(transport)
        self._busy.add(wire)
        return wire

    def pool(self) -> Wire:
        """An idle connection that has served before."""
        wire = self.wire()
        self.give_back(wire)
        return wire


class Answers:
    """An `Answer` that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.ended = 0
        self.outcome: Outcome | None = None
        self.complete = False
        self.crash: Exception | None = None
        self.fail_with: Exception | None = None
        self.call: Call | None = None

    def head(self, status: int, headers: Headers) -> None:
        self.status = status
        if self.fail_with is not None:
            raise self.fail_with

    def data(self, piece: bytes) -> None:
        self.body += piece
        if self.call is not None and self.call.content_at is None:
            self.call.content_at = self.call.last_byte

    def end(self) -> None:
        self.ended += 1

    def is_complete(self) -> bool:
        return self.complete

    def cut(self, outcome: Outcome) -> None:
        assert self.outcome is None, "two ends"
        assert not self.ended
        self.outcome = outcome

    def crashed(self, error: Exception) -> None:
        self.crash = error


class Stage:
    def __init__(self) -> None:
        self.now = 100.0
        self.connector = FakeConnector()
        self.answer = Answers()

    def call(self, **over: Any) -> Call:
        clocks = {"connect_s": 2.0, "first_byte_s": 15.0, "first_content_s": 120.0, "idle_s": 30.0, **over}
        made = Call(self.connector, b"HEAD", b"BODY", self.answer, lambda: self.now, **clocks)
        self.answer.call = made
        return made

    def outcome(self) -> str:
        return "" if self.answer.outcome is None else self.answer.outcome.name


@pytest.fixture
async def stage() -> Stage:
    return Stage()


async def settle() -> None:
    """Let the task of an opening connection run to its next wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_reused_connection_needs_no_task(stage: Stage) -> None:
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    assert call.wire is wire
    feed(wire, LENGTH)
    assert (stage.answer.status, stage.answer.body, stage.answer.ended) == (200, b"hello", 1)
    assert (stage.connector.idle, stage.connector.busy) == (1, 0)
    assert call.ended


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_reused_connection_that_died_is_resent_once_on_a_fresh_one(
    stage: Stage, error: Exception | None
) -> None:
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    wire.connection_lost(error)
    assert stage.answer.outcome is None
    await settle()
    first, second = stage.connector.given
    assert first.written == second.written == b"HEADBODY"
    assert call.wire is not None
    assert call.wire is not wire
    call.wire.connection_lost(error)
    assert stage.outcome() == "connect_error.reset"
    await settle()
    assert len(stage.connector.given) == 2
    assert (stage.connector.idle, stage.connector.busy) == (0, 0)


async def test_a_resend_is_never_made_on_another_reused_connection(stage: Stage) -> None:
    stage.connector.pool()
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    wire.connection_lost(None)
    await settle()
    assert call.wire is not None
    assert not call.wire.reused
    call.stop()


async def test_a_fresh_connection_that_dies_is_a_failure(stage: Stage) -> None:
    call = stage.call()
    call.start()
    await settle()
    assert call.wire is not None
    call.wire.connection_lost(None)
    assert stage.outcome() == "connect_error.reset"
    assert len(stage.connector.given) == 1


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        (b"H", "connect_error.reset"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "connect_error.reset"),
        (HEAD_ONLY, "stream_interrupted"),
        (HEAD_ONLY + b"he", "stream_interrupted"),
        (b"nonsense\r\n\r\n", "server_error"),
    ],
)
async def test_after_a_byte_of_the_answer_nothing_is_resent(stage: Stage, came: bytes, expected: str) -> None:
    wire = stage.connector.pool()
    stage.call().start()
    feed(wire, came)
    wire.connection_lost(None)
    await settle()
    assert stage.outcome() == expected
    assert len(stage.connector.given) == 1


async def test_a_resend_that_cannot_connect_is_a_failure(stage: Stage) -> None:
    wire = stage.connector.pool()
    stage.connector.fresh = [ConnectionRefusedError()]
    stage.call().start()
    wire.connection_lost(None)
    await settle()
    assert stage.outcome() == "connect_error.refused"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "connect_error.dns"),
        (UnicodeError("label too long"), "connect_error.dns"),
        (ConnectionRefusedError(), "connect_error.refused"),
        (ConnectionResetError(), "connect_error.reset"),
        (BrokenPipeError(), "connect_error.reset"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "connect_error.tls"),
        (ssl.SSLCertVerificationError(1, "x"), "connect_error.tls"),
        (OSError(errno.ETIMEDOUT, "x"), "timeout.connect"),
        (OSError(errno.EHOSTUNREACH, "x"), "connect_error.unreachable"),
        (OSError(), "connect_error.unreachable"),
    ],
)
def test_a_failed_connect_is_named_by_its_type(error: Exception, name: str) -> None:
    outcome = connect_outcome(error)
    assert outcome.name == name
    assert 0 < len(outcome.message) <= 200


# Leaving --------------------------------------------------------------------------------------------------------------


async def test_stopped_while_it_connects_it_opens_nothing_and_tells_nothing(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.connector.fresh = [gate]
    call = stage.call()
    call.start()
    await settle()
    call.stop()
    gate.set()
    await settle()
    assert stage.connector.given == []
    assert stage.connector.busy == 0
    assert (stage.outcome(), call.due()) == ("", (NEVER, ""))


async def test_stopped_in_use_its_connection_is_closed(stage: Stage) -> None:
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    call.stop()
    call.stop()
    assert stage.connector.given[0].closed == "abort"
    wire.connection_lost(None)
    assert (stage.outcome(), stage.answer.ended, stage.connector.idle) == ("", 0, 0)


async def test_a_fault_of_ours_reaches_the_request(stage: Stage) -> None:
    wire = stage.connector.pool()
    stage.answer.fail_with = RuntimeError("ours")
    stage.call().start()
    feed(wire, HEAD_ONLY)
    assert str(stage.answer.crash) == "ours"


# Clocks ---------------------------------------------------------------------------------------------------------------


async def test_the_clock_of_each_phase(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.connector.fresh = [gate]
    call = stage.call()
    call.start()
    assert call.due() == (102.0, "connect")
    stage.now = 101.0
    gate.set()
    await settle()
    assert call.due() == (116.0, "first_byte")
    assert call.wire is not None
    feed(call.wire, HEAD_ONLY)
    assert call.due() == (220.0, "first_content")
    stage.now = 105.0
    feed(call.wire, b"h")
    assert call.due() == (135.0, "idle")
    stage.now = 110.0
    feed(call.wire, b"e")
    assert call.due() == (140.0, "idle")


@pytest.mark.parametrize("missing", ["first_byte_s", "first_content_s"])
async def test_a_limit_that_does_not_hold_never_fires(stage: Stage, missing: str) -> None:
    stage.connector.pool()
    call = stage.call(**{missing: None})
    call.start()
    assert call.due() == ((220.0, "first_content") if missing == "first_byte_s" else (115.0, "first_byte"))
    both = stage.call(first_byte_s=None, first_content_s=None)
    stage.connector.pool()
    both.start()
    assert both.due()[0] == NEVER


async def test_silence_ends_the_attempt_and_its_connection(stage: Stage) -> None:
    stage.connector.pool()
    call = stage.call()
    call.start()
    call.expire(114.9)
    assert stage.outcome() == ""
    call.expire(115.0)
    assert stage.outcome() == "timeout.first_byte"
    assert stage.connector.given[0].closed == "abort"


async def test_the_first_byte_clock_starts_when_a_large_body_has_left(stage: Stage) -> None:
    stage.connector.pool()
    call = stage.call()
    call.start()
    stage.connector.given[0].unsent = 1
    call.expire(115.0)
    assert (stage.outcome(), call.due()) == ("", (130.0, "first_byte"))


async def test_a_complete_answer_whose_connection_stays_open_ends_soon_and_well(stage: Stage) -> None:
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    feed(wire, HEAD_ONLY + b"h")
    stage.answer.complete = True
    assert call.due() == (100.0 + LINGER_S, "linger")
    call.expire(100.0 + LINGER_S)
    assert (stage.answer.ended, stage.outcome(), stage.connector.idle) == (1, "", 0)


async def test_a_complete_answer_whose_connection_breaks_is_complete(stage: Stage) -> None:
    wire = stage.connector.pool()
    stage.call().start()
    feed(wire, HEAD_ONLY + b"h")
    stage.answer.complete = True
    wire.connection_lost(ConnectionResetError())
    assert (stage.answer.ended, stage.outcome()) == (1, "")


# A slow caller --------------------------------------------------------------------------------------------------------


async def test_while_the_caller_is_slow_no_clock_runs_and_nothing_is_read(stage: Stage) -> None:
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    feed(wire, HEAD_ONLY + b"h")
    call.hold()
    assert (stage.connector.given[0].reading, call.due()) == (False, (NEVER, ""))
    stage.now = 500.0
    call.resume()
    assert (stage.connector.given[0].reading, call.due()) == (True, (530.0, "idle"))


async def test_a_connection_held_at_the_end_of_its_answer_reads_for_the_next(stage: Stage) -> None:
    """Held and ended in the same read, it once went back to the pool deaf: the next request on it timed out."""
    wire = stage.connector.pool()
    call = stage.call()
    call.start()
    feed(wire, HEAD_ONLY + b"h")
    call.hold()
    feed(wire, b"ello")
    assert stage.answer.ended == 1
    call.resume()
    assert stage.connector.acquire() is wire
    assert stage.connector.given[0].reading
