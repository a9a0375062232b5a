"""The way back: framing, sanitised heads, back-pressure, cut answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.exchange import Inbound, Sink, WriteTimeout
from proxy.base.outcome import Class
from proxy.config.compiled import Listen
from proxy.dialects.errors import ERRORS, caller_dialect, problem
from proxy.server.door import build_data_server
from proxy.server.reply import render_head

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def running(serve: Callable[[Inbound, Sink], Awaitable[None]]) -> AsyncIterator[tuple[int, list[str]]]:
    counted: list[str] = []
    server = build_data_server(serve, Listen(), time.monotonic, lambda: "req_1", counted.append)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield bound.sockets[0].getsockname()[1], counted
    finally:
        bound.close()
        await server.shutdown(0.1)


async def ask(serve: Callable[[Inbound, Sink], Awaitable[None]], request: bytes) -> tuple[bytes, bytes]:
    """Head and rest of everything that came until the connection closed."""
    async with running(serve) as (port, _), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, rest


# The head, pure -------------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(max_codepoint=0x2FFF), max_size=12)


@given(st.lists(st.tuples(any_text, any_text), max_size=5))
def test_no_header_breaks_out_of_its_line(headers: list[tuple[str, str]]) -> None:
    dropped: list[int] = []
    head = render_head(200, headers, "Content-Length: 0\r\n", lambda: dropped.append(1))
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    lines = head[:-4].split(b"\r\n")
    assert all(not any(byte < 0x20 and byte != 9 for byte in line) for line in lines)
    assert b"\x00" not in head
    kept = [line for line in lines[1:] if not line.startswith((b"Date:", b"Server:", b"Content-Length:"))]
    assert len(kept) + len(dropped) <= len(headers)
    assert lines[-1] == b"Content-Length: 0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nSet-Cookie: b"),
        ("X-A", "a\nb"),
        ("X-A", "a\rb"),
        ("X-A", "a\x00b"),
        ("X-A", "a\x7fb"),
        ("X-A", "a\x85b"),
        ("X-A", "caf\udce9"),
        ("X-A", "\u4f60"),
        ("X-A: b\r\nX-B", "c"),
        ("X A", "c"),
        ("X-A:", "c"),
        ("", "c"),
        ("X-\u00e9", "c"),
    ],
)
def test_a_bad_header_is_left_out_and_counted_and_the_others_stay(name: str, value: str) -> None:
    dropped: list[int] = []
    head = render_head(200, [("X-Good", "1"), (name, value), ("X-Last", "2")], "", lambda: dropped.append(1))
    assert b"X-Good: 1\r\n" in head
    assert b"X-Last: 2\r\n" in head
    assert head.count(b"\r\n") == 6
    assert dropped == [1]


def test_framing_is_ours_and_date_and_server_come_once() -> None:
    headers = [("content-length", "99"), ("Transfer-Encoding", "gzip"), ("Connection", "x"), ("Keep-Alive", "t=1")]
    head = render_head(200, [*headers, ("server", "cloud"), ("DATE", "then")], "Content-Length: 5\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nserver: cloud\r\nDATE: then\r\nContent-Length: 5\r\n\r\n"
    own = render_head(529, [], "")
    assert own.startswith(b"HTTP/1.1 529 Overloaded\r\nDate: ")
    assert b"Server: outrider\r\n" in own


@pytest.mark.parametrize("status", [0, 100, 101, 199, 1000, -1])
def test_a_status_that_is_no_final_answer_raises(status: int) -> None:
    with pytest.raises(ValueError):
        render_head(status, [], "")


# Errors ---------------------------------------------------------------------------------------------------------------


def test_every_class_has_a_row_in_both_dialects() -> None:
    for table in ERRORS.values():
        assert set(table) == set(Class) - {Class.OK}
        assert all(400 <= status < 600 for status, _, _ in table.values())
    assert ERRORS["openai"][Class.CONTEXT_LENGTH][2] == "context_length_exceeded"
    assert ERRORS["anthropic"][Class.MODEL_OVERLOADED][0] == 529


def test_problem_has_the_callers_shape() -> None:
    _, headers, body = problem("openai", 400, code="c", message="m", param="p", extra={"attempts": [1]})
    assert orjson.loads(body) == {
        "error": {"message": "m", "type": "invalid_request_error", "param": "p", "code": "c", "attempts": [1]}
    }
    assert headers == [("Content-Type", "application/json")]
    _, headers, body = problem("anthropic", 503, code="c", message="m \udce9", request_id="r")
    assert orjson.loads(body) == {
        "type": "error",
        "error": {"message": "m ?", "type": "overloaded_error"},
        "request_id": "r",
    }
    assert ("request-id", "r") in headers
    _, headers, body = problem("problem", 404, code="c", message="m")
    assert orjson.loads(body)["status"] == 404
    assert headers == [("Content-Type", "application/problem+json")]


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/v1/chat/completions", "openai"),
        ("", "openai"),
    ],
)
def test_the_path_chooses_the_dialect(path: str, dialect: str) -> None:
    assert caller_dialect(path) == dialect


# Over a real socket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 64 * 1024, 64 * 1024 + 1, 3_000_000])
async def test_a_whole_answer_has_one_length_and_the_same_bytes(size: int) -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.whole(200, [("Content-Length", "1"), ("X-A", "b")], b"z" * size)

    head, rest = await ask(serve, GET)
    assert head.count(b"Content-Length") == 1
    assert f"Content-Length: {size}".encode() in head
    assert rest == b"z" * size


@pytest.mark.parametrize(("status", "length"), [(204, False), (304, False), (200, True)])
async def test_answers_without_a_body(status: int, length: bool) -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.whole(status, [], b"" if status == 304 else b"body")

    head, rest = await ask(serve, GET.replace(b"GET", b"HEAD") if status == 200 else GET)
    assert rest == b""
    assert (b"Content-Length: 4" in head) is length


async def test_a_stream_is_chunked_on_11_and_its_empty_pieces_end_nothing() -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [("Content-Type", "text/event-stream")])
        sink.forward(b"6\r\nbefore\r\n", 3)  # with the head
        for piece in (b"", b"one", b"", b"two" * 10):
            await sink.write(piece)
        sink.forward(b"5\r\nthree\r\n", 3)
        await sink.end()

    head, rest = await ask(serve, GET)
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    assert rest == b"6\r\nbefore\r\n3\r\none\r\n1e\r\n" + b"two" * 10 + b"\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_a_stream_is_ended_by_the_close_on_10() -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [])
        await sink.write(b"one")
        await sink.write(b"two")
        sink.forward(b"5\r\nthree\r\n", 3)
        await sink.end()

    head, rest = await ask(serve, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert rest == b"onetwothree"


async def test_a_head_without_a_piece_goes_out_at_once() -> None:
    seen = asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [])
        await seen.wait()
        await sink.end()

    async with running(serve) as (port, _), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        seen.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
        writer.close()


async def test_abort_closes_without_the_last_chunk_and_lets_the_request_finish() -> None:
    finished = asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [])
        await sink.write(b"word")
        sink.abort()
        sink.abort()
        # The close of the connection must not come back to us as a cancellation.
        await asyncio.get_running_loop().run_in_executor(None, str)
        with pytest.raises(ConnectionError):
            await sink.write(b"late")
        finished.set()

    async with asyncio.timeout(5):
        _, rest = await ask(serve, GET)
        assert rest == b"4\r\nword\r\n"
        await finished.wait()


async def test_a_cut_10_stream_ends_in_a_reset() -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [])
        await sink.write(b"word")
        sink.abort()

    with pytest.raises(ConnectionResetError):
        await ask(serve, b"GET / HTTP/1.0\r\n\r\n")


async def test_an_answer_left_open_or_forgotten_is_never_taken_for_a_whole_one() -> None:
    async def leaves_open(inbound: Inbound, sink: Sink) -> None:
        await sink.begin(200, [])
        await sink.write(b"word")

    async def forgets(inbound: Inbound, sink: Sink) -> None:
        return

    _, rest = await ask(leaves_open, GET)
    assert rest == b"4\r\nword\r\n"
    head, rest = await ask(forgets, GET)
    assert head.startswith(b"HTTP/1.1 500 ")
    assert orjson.loads(rest)["error"]["code"] == "proxy_internal_error"


async def test_a_fault_inside_gives_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        raise KeyError("sk-secret")

    head, rest = await ask(serve, GET)
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"sk-secret" not in rest
    assert "req_1" in caplog.text


async def test_two_answers_are_refused() -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        await sink.whole(200, [], b"one")
        with pytest.raises(RuntimeError):
            await sink.whole(200, [], b"two")
        with pytest.raises(RuntimeError):
            await sink.write(b"three")

    head, rest = await ask(serve, GET)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert rest == b"one"


async def test_S37_a_caller_that_does_not_read_holds_no_more_than_the_buffer_and_is_dropped() -> None:
    ended: asyncio.Future[tuple[int, type[BaseException] | None]] = asyncio.get_running_loop().create_future()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        sink.pace(write_timeout_s=0.2, buffer_bytes=64 * 1024)
        await sink.begin(200, [])
        sent = 0
        try:
            while sent < 200_000_000:
                await sink.write(b"x" * 16_384)
                sent += 16_384
            ended.set_result((sent, None))
        except BaseException as exc:
            ended.set_result((sent, type(exc)))
            raise

    async with running(serve) as (port, counted), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        sent, fault = await ended
        assert fault is WriteTimeout
        # What the kernel's own socket buffers take is not ours; it is far below what was to be sent.
        assert sent < 50_000_000
        with suppress(ConnectionError):
            while await reader.read(1 << 20):
                pass
        writer.close()
    assert counted == ["write_timeout"]


async def test_S37_a_slow_reader_that_makes_progress_gets_everything() -> None:
    async def serve(inbound: Inbound, sink: Sink) -> None:
        sink.pace(write_timeout_s=5.0, buffer_bytes=1)
        await sink.begin(200, [])
        for _ in range(200):
            await sink.write(b"y" * 65_536)
        await sink.end()

    async with running(serve) as (port, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(GET)
        got = 0
        while not (piece := await reader.read(65_536)).endswith(b"0\r\n\r\n"):
            got += piece.count(b"y")
        assert got + piece.count(b"y") == 200 * 65_536
        writer.close()


@pytest.mark.parametrize("phase", ["before", "streaming"])
async def test_S30_the_request_is_cancelled_when_the_caller_leaves(phase: str) -> None:
    began, gone = asyncio.Event(), asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        if phase == "streaming":
            await sink.begin(200, [])
            await sink.write(b"word")
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            gone.set()
            raise

    async with running(serve) as (port, _), asyncio.timeout(5):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await began.wait()
        writer.close()
        await gone.wait()
