"""What comes in and what does not; the limits; the admin port; binding and leaving."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.base.exchange import Inbound, Sink
from proxy.config.compiled import Listen
from proxy.server.admin import AdminState, build_admin_server
from proxy.server.door import HeldBytes, Refused, build_data_server, check_head, check_target
from proxy.server.listeners import BindError, Listeners
from proxy.server.pages import is_loopback_peer
from proxy.server.protocol import DataServer, self_check

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
LISTEN = Listen()

Serve = Callable[[Inbound, Sink], Awaitable[None]]


class Echo:
    """Records what was admitted and answers with its path."""

    def __init__(self) -> None:
        self.seen: list[Inbound] = []

    async def __call__(self, inbound: Inbound, sink: Sink) -> None:
        self.seen.append(inbound)
        await sink.whole(200, [("X-Path", inbound.path)], inbound.body)


class Running:
    def __init__(self, server: DataServer, port: int, refused: list[str]) -> None:
        self.server, self.port, self.refused = server, port, refused

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *pieces: bytes) -> bytes:
        """Everything that comes back until the server closes; each piece is a segment of its own."""
        loop, got = asyncio.get_running_loop(), b""
        with socket.socket() as sock:
            sock.setblocking(False)
            async with asyncio.timeout(5):
                await loop.sock_connect(sock, ("127.0.0.1", self.port))
                with suppress(ConnectionError):
                    for piece in pieces:
                        await loop.sock_sendall(sock, piece)
                        await loop.run_in_executor(None, str)
                # The socket itself gives what came before a reset; a stream reader would throw it away.
                with suppress(ConnectionError):
                    while piece := await loop.sock_recv(sock, 65_536):
                        got += piece
        return got


@asynccontextmanager
async def running(serve: Serve, listen: Listen = LISTEN, **settings: Any) -> AsyncIterator[Running]:
    refused: list[str] = []
    server = build_data_server(serve, listen, time.monotonic, lambda: "req_1", refused.append, **settings)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield Running(server, bound.sockets[0].getsockname()[1], refused)
    finally:
        bound.close()
        await server.shutdown(0.1)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


# The head, pure -------------------------------------------------------------------------------------------------------


def head(
    *fields: tuple[str, str], method: str = "POST", target: str = "/v1", version: HttpVersion = HttpVersion11
) -> tuple[str, str]:
    lines = (("Host", "x"), *fields)
    raw = tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in lines)
    headers = CIMultiDictProxy(CIMultiDict(lines))
    return check_head(method, target, version, headers, raw, max_header_bytes=32 * 1024, max_body_bytes=1024)


def test_a_plain_head_comes_in_with_path_and_query_untouched() -> None:
    assert head(target="/v1/a%2Fb;c=d?x=%20&y={1}") == ("/v1/a%2Fb;c=d", "x=%20&y={1}")
    assert head(("Transfer-Encoding", "Chunked")) == ("/v1", "")
    assert head(("Content-Length", "1024")) == ("/v1", "")
    assert head(("Connection", "keep-alive, Upgrade, x-mine")) == ("/v1", "")
    assert head(("X-Under_score", "a_b")) == ("/v1", "")
    assert head(version=HttpVersion10) == ("/v1", "")


@pytest.mark.parametrize(
    ("field", "code"),
    [
        (("Content-Length", "007"), "invalid_request_framing"),
        (("Content-Length", "+1"), "invalid_request_framing"),
        (("Content-Length", "1_0"), "invalid_request_framing"),
        (("Content-Length", "\u0661"), "invalid_header_value"),
        (("Content-Length", ""), "invalid_request_framing"),
        (("Content-Length", "9" * 30), "invalid_request_framing"),
        (("Content-Length", "1025"), "body_too_large"),
        (("Transfer-Encoding", ""), "invalid_request_framing"),
        (("Transfer-Encoding", "gzip, chunked"), "invalid_request_framing"),
        (("Transfer-Encoding", "chunked, chunked"), "invalid_request_framing"),
        (("Transfer-Encoding", "identity"), "invalid_request_framing"),
        (("Connection", "close, Host"), "invalid_connection_header"),
        (("Connection", "content-length"), "invalid_connection_header"),
        (("Connection", "Content-Type"), "invalid_connection_header"),
        (("Connection", "AUTHORIZATION"), "invalid_connection_header"),
        (("X-A", "caf\udce9"), "invalid_header_value"),
        (("X-A", "caf\u00e9"), "invalid_header_value"),
        (("X-A", "a\x01b"), "invalid_header_value"),
        (("Content_Length", "9"), "ambiguous_header"),
        (("Transfer_Encoding", "chunked"), "ambiguous_header"),
        (("X-A", "a" * 33_000), "header_too_large"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(field: tuple[str, str], code: str) -> None:
    with pytest.raises(Refused) as refused:
        head(field)
    assert refused.value.code == code


@pytest.mark.parametrize("field", [("X-Team", "caf\u00e9"), ("X-Team", "a\x01b")])
def test_a_bad_value_is_told_by_the_name_of_its_header(field: tuple[str, str]) -> None:
    with pytest.raises(Refused, match="the value of the header X-Team holds a control character or a non-ASCII byte"):
        head(("X-A", "b"), field, ("X-C", "d"))


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "Content-Encoding"])
def test_a_singleton_in_two_spellings_is_refused(name: str) -> None:
    with pytest.raises(Refused) as refused:
        head((name, "a"), (name.swapcase(), "b"))
    assert refused.value.code == "duplicate_header"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "u@a", "a,b", "a:b", "[::1", "a:123456", "x\\y"])
def test_a_host_that_is_no_authority_is_refused(host: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"Host": host}))
    with pytest.raises(Refused) as refused:
        check_head("GET", "/", HttpVersion11, headers, (), max_header_bytes=1000, max_body_bytes=1)
    assert refused.value.status == 400


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0), (3, 0)])
def test_other_versions_are_505(version: tuple[int, int]) -> None:
    with pytest.raises(Refused) as refused:
        head(version=HttpVersion(*version))
    assert refused.value.status == 505


def test_chunks_are_refused_on_10() -> None:
    with pytest.raises(Refused):
        head(("Transfer-Encoding", "chunked"), version=HttpVersion10)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PROPFIND", "PURGE"])
def test_methods_that_nobody_serves_are_405(method: str) -> None:
    with pytest.raises(Refused) as refused:
        head(method=method)
    assert refused.value.status == 405
    assert refused.value.headers[0][0] == "Allow"


@pytest.mark.parametrize(
    "target",
    [
        "",
        "x",
        "*",
        "/a#b",
        "/a\\b",
        "/a b",
        "/caf\u00e9",
        "/\udce9",
        "/..",
        "/a/../b",
        "/a/./b",
        "/a/%2e%2E/b",
        "/%2e",
        "/a/..%2fb",
        "ftp://x/",
        "http://y/",
        "http://x@y/",
        "//\x00",
        "http:/x",
        "http://x/a/../b",
    ],
)
def test_targets_that_could_mean_another_path_are_refused(target: str) -> None:
    with pytest.raises(Refused) as refused:
        check_target("GET", target, "x")
    assert refused.value.code == "invalid_target"


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("http://X/a?b", ("/a", "b")),
        ("http://x?b", ("/", "b")),
        ("https://x", ("/", "")),
        ("/...", ("/...", "")),
        ("/a..b/.c", ("/a..b/.c", "")),
        ("/?", ("/", "")),
        ("/a?../..", ("/a", "../..")),
    ],
)
def test_targets_that_are_clear_come_in_raw(target: str, result: tuple[str, str]) -> None:
    assert check_target("GET", target, "x") == result


@given(st.text(max_size=40))
def test_no_target_makes_the_door_fail(text: str) -> None:
    try:
        path, query = check_target("GET", "/" + text, "x")
    except Refused:
        return
    assert (path + query).isascii()
    assert "/../" not in path + "/"


# Bodies ---------------------------------------------------------------------------------------------------------------


def post(body: bytes, *fields: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    extra = b"".join(field + b"\r\n" for field in fields)
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (path, extra, len(body)) + body


CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"Connection: close"


async def test_a_body_comes_in_unchanged_whole_cut_and_compressed() -> None:
    echo = Echo()
    body = bytes(range(256)) * 4000
    async with running(echo) as at:
        await at.ask(post(body, CLOSE))
        await at.ask(post(body, CLOSE)[:100], post(body, CLOSE)[100:200], post(body, CLOSE)[200:])
        await at.ask(post(b"not gzip at all", CLOSE, b"Content-Encoding: gzip"))
        await at.ask(CHUNKED[:-2] + CLOSE + b"\r\n\r\n5\r\nhe", b"llo\r\n3;x=y\r\nabc\r\n0\r\n\r\n")
        assert at.refused == []
    assert [one.body for one in echo.seen] == [body, body, b"not gzip at all", b"helloabc"]
    assert echo.seen[2].headers[2] == (b"Content-Encoding", b"gzip")


async def test_S36_a_body_above_the_limit_is_413_without_being_read() -> None:
    echo = Echo()
    async with running(echo, replace(LISTEN, max_body_mb=1)) as at:
        answer = await at.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n" + b"x" * 1000)
        assert statuses(answer) == [413]
        assert b"Connection: close" in answer
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        answer = await at.ask(CHUNKED + chunk * 17)
        assert statuses(answer) == [413]
        assert at.refused == ["body_too_large"] * 2
    assert echo.seen == []


async def test_S36_bodies_of_all_requests_together_are_capped_and_given_back() -> None:
    held = HeldBytes(1000)
    inside, release = asyncio.Event(), asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        inside.set()
        await release.wait()
        await sink.whole(200, [], b"")

    async with running(serve, held=held) as at, asyncio.timeout(5):
        first = asyncio.ensure_future(at.ask(post(b"x" * 800, CLOSE)))
        await inside.wait()
        answer = await at.ask(post(b"x" * 300))
        assert statuses(answer) == [503]
        assert b"Retry-After: 1\r\n" in answer
        assert at.refused == ["too_many_bytes_held"]
        release.set()
        assert statuses(await first) == [200]
        assert statuses(await at.ask(post(b"x" * 1000, CLOSE))) == [200]
    assert held.held == 0


async def test_a_body_that_stands_still_is_408() -> None:
    async with running(Echo(), replace(LISTEN, body_timeout_s=0.05)) as at:
        answer = await at.ask(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        assert statuses(answer) == [408]
        assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"
        assert at.refused == ["body_timeout"]


async def test_a_body_of_a_byte_at_a_time_is_408_too() -> None:
    async with running(Echo(), replace(LISTEN, body_timeout_s=0.2)) as at, asyncio.timeout(5):
        reader, writer = await at.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.ensure_future(reader.read())
        sent = 0
        while not answer.done():
            writer.write(b"x")
            sent += 1
            await asyncio.wait([answer], timeout=0.02)
        assert statuses(answer.result()) == [408]
        assert sent < 100
        writer.close()


async def test_expect_is_answered_here_and_only_on_11() -> None:
    async with running(Echo()) as at, asyncio.timeout(5):
        reader, writer = await at.connect()
        writer.write(b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        # A body that came along needs no invitation.
        assert statuses(await at.ask(post(b"hi", b"Expect: 100-continue", CLOSE))) == [200]
        assert statuses(await at.ask(post(b"hi", b"Expect: 200-ok"))) == [417]
        old = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        assert statuses(await at.ask(old, b"hi")) == [200]
        large = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
        assert statuses(await at.ask(large)) == [413]


async def test_S30_a_caller_that_leaves_within_its_body_leaves_nothing_behind() -> None:
    held = HeldBytes()
    async with running(Echo(), held=held) as at, asyncio.timeout(5):
        reader, writer = await at.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 500)
        await writer.drain()
        while not held.held:
            await asyncio.get_running_loop().run_in_executor(None, str)
        writer.transport.abort()
        while at.server.active or held.held or at.server.connection_count:
            await asyncio.get_running_loop().run_in_executor(None, str)
        assert await reader.read() == b""


# Pipelines and connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", [GET, post(b"body"), CHUNKED + b"4\r\nbody\r\n0\r\n\r\n"], ids=["get", "post", "chunked"]
)
@pytest.mark.parametrize("bad", [b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", b"\x00\x01"])
@pytest.mark.parametrize("cut", [False, True])
async def test_the_request_before_a_malformed_one_is_answered(first: bytes, bad: bytes, cut: bool) -> None:
    echo = Echo()
    async with running(echo) as at:
        answer = await (at.ask(first, bad) if cut else at.ask(first + bad))
    assert statuses(answer)[0] == 200
    assert len(echo.seen) == 1
    assert len(statuses(answer)) == 1 or statuses(answer)[1] in (400, 501)


async def test_good_requests_around_each_other_and_a_bad_last_one_on_a_used_connection() -> None:
    echo = Echo()
    async with running(echo) as at:
        answer = await at.ask(post(b"one"), GET, post(b"two\r\n\r\n") + GET + post(b"three") + b"BAD\r\n\r\n" + GET)
    assert statuses(answer) == [200] * 5 + [400]
    assert [one.body for one in echo.seen] == [b"one", b"", b"two\r\n\r\n", b"", b"three"]


@pytest.mark.parametrize(
    "closing", [b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
)
async def test_what_follows_a_closing_request_is_not_served(closing: bytes) -> None:
    echo = Echo()
    async with running(echo) as at:
        assert statuses(await at.ask(closing + GET)) == [200]
        assert statuses(await at.ask(closing, GET)) == [200]
    assert len(echo.seen) == 2


@pytest.mark.parametrize("cuts", [(), (-2,), (-9,), (70, -9), tuple(range(60, 90))])
async def test_a_trailer_never_becomes_a_header_of_the_next_request(cuts: tuple[int, ...]) -> None:
    echo = Echo()
    request = CHUNKED + b"3\r\nabc\r\n0\r\nX-Api-Key: stolen\r\n\r\n"
    edges = sorted({cut % len(request) for cut in cuts} | {0, len(request)})
    pieces = [request[a:b] for a, b in pairwise(edges)]
    async with running(echo) as at:
        assert statuses(await at.ask(*pieces, GET)) == [200]
        assert statuses(await at.ask(*pieces[:-1], pieces[-1] + GET)) == [200]
    assert len(echo.seen) == 2
    assert all(name != b"X-Api-Key" for one in echo.seen for name, _ in one.headers)


async def test_a_chunked_request_without_trailers_keeps_its_connection() -> None:
    async with running(Echo()) as at, asyncio.timeout(5):
        reader, writer = await at.connect()
        for body in (b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"2\r\nX:\r\n3;a=b\r\nabc\r\n0\r\n\r\n"):
            writer.write(CHUNKED + body[:-3])
            await writer.drain()
            await asyncio.get_running_loop().run_in_executor(None, str)
            writer.write(body[-3:])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"Connection: close" not in head
            await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
        writer.close()


async def test_connect_and_what_follows_is_never_a_second_request() -> None:
    echo = Echo()
    async with running(echo) as at:
        connect = b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"
        assert statuses(await at.ask(connect + GET)) == [405]
        assert statuses(await at.ask(connect, GET)) == [405]
    assert echo.seen == []


async def test_an_upgrade_is_ignored() -> None:
    ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with running(Echo()) as at, asyncio.timeout(5):
        reader, writer = await at.connect()
        writer.write(ask)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close\r\n" in head
        writer.close()


async def test_options_star_is_answered_here() -> None:
    async with running(Echo()) as at:
        answer = await at.ask(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [204]
    assert b"Allow: GET, " in answer


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n", 431, "header_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431, "too_many_headers"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X-A: " + b"a" * 9_000 + b"\r\n") * 4 + b"\r\n", 431, "header_too_large"),
        (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501, "method_not_implemented"),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_request_line"),
        (b" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_request_line"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "unsupported_version"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_request_framing"),
    ],
    ids=["414", "431-one", "431-many", "431-sum", "501", "lower", "space", "505", "no-host"],
)
async def test_refusals_are_json_with_a_code(request_bytes: bytes, status: int, code: str) -> None:
    async with running(Echo()) as at:
        answer = await at.ask(request_bytes)
        assert at.refused == [code]
    assert statuses(answer) == [status]
    assert b"Connection: close" in answer
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code


async def test_the_parsers_refusals_have_the_callers_dialect_and_quote_nothing() -> None:
    async with running(Echo()) as at:
        answer = await at.ask(b"POST /v1/messages?a HTTP/1.1\r\nHost: x\r\nx-api-key : sk-secret\r\n\r\n")
    body = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["type"] == "error"
    assert body["request_id"] == "req_1"
    assert b"sk-secret" not in answer


async def test_a_json_header_of_8_kib_comes_in() -> None:
    echo = Echo()
    async with running(echo) as at:
        await at.ask(GET[:-2] + b"X-Failover-Config: " + b"x" * 9_000 + b"\r\nConnection: close\r\n\r\n")
    assert len(echo.seen[0].headers[1][1]) == 9_000


async def test_a_slow_head_is_408_and_an_idle_connection_is_closed_without_a_word() -> None:
    async with running(Echo(), replace(LISTEN, head_timeout_s=0.05, keepalive_timeout_s=0.15)) as at:
        assert statuses(await at.ask(b"GET / HTTP/1.1\r\n")) == [408]
        assert statuses(await at.ask(GET, b"GET / HT", b"TP")) == [200, 408]
        assert at.refused == ["head_timeout"] * 2
        assert await at.ask() == b""
        assert statuses(await at.ask(GET)) == [200]
        assert at.refused == ["head_timeout"] * 2


@pytest.mark.parametrize(
    ("first", "more", "expected"),
    [
        (GET + b"GET / HT", b"", [200, 408]),
        (GET + b"\r\nGET / HT", b"", [200, 408]),
        (POST + b"GET / HT", b"", [200, 408]),
        (GET + GET + b"G", b"", [200, 200, 408]),
        (GET[:9], GET[9:] + b"GET / HT", [200, 408]),
        (GET + b"\r\n", b"", [200]),
        (POST + b"\r\n", b"", [200]),
        (GET + GET[:20], GET[20:], [200, 200]),
        (POST + GET[:20], GET[20:] + GET[:3], [200, 200, 408]),
    ],
    ids=["a head", "a blank line and a head", "a body", "two", "pieces", "a blank line", "a body and a blank line",
         "its rest comes", "its rest comes and another"],
)  # fmt: skip
async def test_a_head_that_begins_behind_another_request_has_a_clock_too(
    first: bytes, more: bytes, expected: list[int]
) -> None:
    async with running(Echo(), replace(LISTEN, head_timeout_s=0.05, keepalive_timeout_s=0.3)) as at:
        assert statuses(await at.ask(*filter(None, (first, more)))) == expected


async def test_a_head_that_came_in_pieces_leaves_no_clock_running() -> None:
    inside = asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        inside.set()
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.15)
        await sink.whole(200, [], b"")

    async with running(serve, replace(LISTEN, head_timeout_s=0.05)) as at:
        assert statuses(await at.ask(GET[:9], GET[9:-2] + CLOSE + b"\r\n\r\n")) == [200]


async def test_L77_connections_above_the_limit_are_told_so() -> None:
    async with running(Echo(), replace(LISTEN, max_connections=2)) as at, asyncio.timeout(5):
        open_ones = [await at.connect() for _ in range(2)]
        for reader, writer in open_ones:
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
        answer = await at.ask()
        assert statuses(answer) == [503]
        assert at.refused == ["too_many_connections"]
        open_ones[0][1].close()
        while at.server.connection_count == 2:
            await asyncio.get_running_loop().run_in_executor(None, str)
        assert statuses(await at.ask(GET[:-2] + CLOSE + b"\r\n\r\n")) == [200]
        open_ones[1][1].close()


async def test_the_self_check_sees_a_setting_that_was_not_taken() -> None:
    async with running(Echo()) as at:
        self_check(at.server)
        at.server._kwargs["max_headers"] = 7
        with pytest.raises(RuntimeError, match="max_headers"):
            self_check(at.server)


# Admin port and listeners ---------------------------------------------------------------------------------------------


class Operator:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.unready = self.unlive = ""
        self.started = True

    async def metrics(self, wants_open: bool) -> bytes:
        return b"open" if wants_open else b"classic"

    async def status(self) -> dict[str, str]:
        return {"version": "0"}

    def state(self) -> AdminState:
        return AdminState(
            started=lambda: self.started,
            unready=lambda: self.unready,
            unlive=lambda: self.unlive,
            metrics=self.metrics,
            config=lambda: {"version": 1, 2: "x"},
            status=self.status,
            quit=lambda: self.calls.append("quit"),
            drain=lambda: self.calls.append("drain"),
        )


@asynccontextmanager
async def both(serve: Serve, operator: Operator, listen: Listen = LISTEN) -> AsyncIterator[Listeners]:
    free = replace(listen, data_port=0, admin_port=0, admin_host="127.0.0.1")
    data = build_data_server(serve, free, time.monotonic, lambda: "req_1", lambda _: None)
    admin = build_admin_server(operator.state(), free, time.monotonic, lambda: "req_1", lambda _: None)
    listeners = await Listeners.open(data, admin, free)
    try:
        yield listeners
    finally:
        await listeners.close()


async def call(port: int, line: str, *fields: str, host: str = "127.0.0.1") -> tuple[int, bytes, bytes]:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(host, port)
        lines = [f"{line} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
        writer.write("\r\n".join(lines).encode())
        start, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(start[9:12]), start, rest


async def test_the_admin_port_tells_the_state() -> None:
    operator = Operator()
    async with both(Echo(), operator) as listeners:
        port = listeners.admin_port
        for path in ("/startupz", "/livez", "/readyz"):
            assert (await call(port, f"GET {path}"))[0] == 200
            status, _, body = await call(port, f"HEAD {path}")
            assert (status, body) == (200, b"")
        operator.started, operator.unready, operator.unlive = False, "draining", "stalled"
        assert (await call(port, "GET /startupz"))[0] == 503
        assert (await call(port, "GET /readyz"))[2] == b"draining\n"
        assert (await call(port, "GET /livez"))[0] == 503
        assert orjson.loads((await call(port, "GET /config"))[2]) == {"version": 1, "2": "x"}
        assert orjson.loads((await call(port, "GET /status?x=1"))[2]) == {"version": "0", "targets": []}
        assert (await call(port, "GET /metrics"))[2] == b"classic"
        _, start, body = await call(port, "GET /metrics", "Accept: application/openmetrics-text; version=1.0.0")
        assert body == b"open"
        assert b"openmetrics" in start
        assert (await call(port, "POST /livez"))[0] == 405
        status, start, body = await call(port, "GET /nothing")
        assert status == 404
        assert b"application/problem+json" in start
        assert orjson.loads(body)["code"] == "not_found"


async def test_dangerous_routes_are_post_only_and_not_for_web_pages() -> None:
    operator = Operator()
    async with both(Echo(), operator) as listeners:
        port = listeners.admin_port
        assert (await call(port, "GET /quitquitquit"))[0] == 405
        assert (await call(port, "POST /quitquitquit", "Origin: http://evil.test"))[0] == 403
        assert operator.calls == []
        assert (await call(port, "POST /quitquitquit"))[0] == 200
        assert (await call(port, "POST /drain"))[0] == 200
        assert operator.calls == ["quit", "drain"]


async def test_more_admin_routes_can_be_given_and_are_guarded_alike() -> None:
    seen: list[str] = []

    async def force(inbound: Inbound) -> tuple[int, list[tuple[str, str]], bytes]:
        seen.append(inbound.path)
        return 200, [], b""

    free = replace(LISTEN, data_port=0, admin_port=0, admin_host="127.0.0.1")
    data = build_data_server(Echo(), free, time.monotonic, str, lambda _: None)
    state = Operator().state()
    admin = build_admin_server(
        state, free, time.monotonic, str, lambda _: None, read={"/more": force}, dangerous={"/targets/": force}
    )
    listeners = await Listeners.open(data, admin, free)
    try:
        assert (await call(listeners.admin_port, "GET /more"))[0] == 200
        assert (await call(listeners.admin_port, "POST /targets/openai/open"))[0] == 200
        assert (await call(listeners.admin_port, "GET /targets/openai/open"))[0] == 405
        assert (await call(listeners.admin_port, "POST /targets"))[0] == 404
    finally:
        await listeners.close()
    assert seen == ["/more", "/targets/openai/open"]


class Ends(asyncio.BaseTransport):
    def __init__(self, peer: Any, own: Any) -> None:
        super().__init__({"peername": peer, "sockname": own})


@pytest.mark.parametrize(
    ("peer", "own", "answer"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.6", "10.1.2.3", False),
        ("10.1.2.3", "127.0.0.1", False),
        ("::ffff:10.0.0.1", "::ffff:127.0.0.1", False),
        ("fe80::1%eth0", "::1", False),
        ("nonsense", "127.0.0.1", False),
    ],
)
def test_loopback_means_both_ends(peer: str, own: str, answer: bool) -> None:
    assert is_loopback_peer(Ends((peer, 1), (own, 2))) is answer
    assert not is_loopback_peer(None)
    assert not is_loopback_peer(Ends("/tmp/socket", None))


async def test_L75_livez_answers_while_the_data_port_is_full() -> None:
    release = asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        await release.wait()
        await sink.whole(200, [], b"")

    async with both(serve, Operator(), replace(LISTEN, max_connections=50)) as listeners, asyncio.timeout(5):
        writers = []
        for _ in range(60):
            _, writer = await asyncio.open_connection("127.0.0.1", listeners.data_port)
            writer.write(GET)
            writers.append(writer)
        assert (await call(listeners.admin_port, "GET /livez"))[0] == 200
        release.set()
        for writer in writers:
            writer.close()


async def test_both_loopbacks_are_bound_where_they_exist() -> None:
    async with both(Echo(), Operator()) as listeners:
        assert (await call(listeners.data_port, "GET /a"))[0] == 200
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        assert (await call(listeners.data_port, "GET /a", host="::1"))[0] == 200


async def test_a_taken_port_names_what_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = replace(LISTEN, data_port=port, admin_port=0, admin_host="127.0.0.1")
        data = build_data_server(Echo(), free, time.monotonic, str, lambda _: None)
        admin = build_admin_server(Operator().state(), free, time.monotonic, str, lambda _: None)
        with pytest.raises(BindError) as error:
            await Listeners.open(data, admin, free)
    for name in ("--listen-data-port", "OUTRIDER_LISTEN_DATA_PORT", "listen.data.port", str(port)):
        assert name in str(error.value)


@pytest.mark.parametrize("ends", [True, False], ids=["finishes", "is-cancelled"])
async def test_drain_lets_running_requests_end_and_cancels_the_rest(ends: bool) -> None:
    inside, release = asyncio.Event(), asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        inside.set()
        await release.wait()
        await sink.whole(200, [], b"done")

    async with both(serve, Operator()) as listeners, asyncio.timeout(5):
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", listeners.data_port)
        reader, writer = await asyncio.open_connection("127.0.0.1", listeners.data_port)
        writer.write(GET)
        await inside.wait()
        port = listeners.data_port
        draining = asyncio.ensure_future(listeners.drain(5.0 if ends else 0.05))
        assert await idle_reader.read() == b""
        assert listeners.draining
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        if ends:
            release.set()
        answer = await reader.read()
        assert statuses(answer) == [200 if ends else 503]
        assert b"Connection: close" in answer
        assert await draining == (0 if ends else 1)
        assert (await call(listeners.admin_port, "GET /livez"))[0] == 200
        writer.close()
        idle_writer.close()


async def test_hurry_ends_the_lingering_and_the_wait() -> None:
    inside = asyncio.Event()

    async def serve(inbound: Inbound, sink: Sink) -> None:
        inside.set()
        await asyncio.Event().wait()

    async with both(serve, Operator()) as listeners, asyncio.timeout(5):
        _, writer = await asyncio.open_connection("127.0.0.1", listeners.data_port)
        writer.write(GET)
        await inside.wait()
        lingering = asyncio.ensure_future(listeners.linger(60.0, 0.0, asyncio.Event()))
        assert (await call(listeners.admin_port, "GET /livez"))[0] == 200
        assert listeners.draining
        assert not lingering.done()
        listeners.hurry()
        await lingering
        assert await listeners.drain(60.0) == 1
        writer.close()


@pytest.mark.parametrize("why", ["idle", "enough", "over"])
async def test_what_ends_the_lingering(why: str) -> None:
    enough = asyncio.Event()
    async with both(Echo(), Operator()) as listeners, asyncio.timeout(5):
        _, writer = await asyncio.open_connection("127.0.0.1", listeners.data_port)
        lingering = asyncio.ensure_future(listeners.linger(0.1 if why == "over" else 60.0, 0.05, enough))
        for _ in range(2):
            assert (await call(listeners.data_port, "GET /a"))[0] == 200  # new callers come in
        if why == "idle":
            writer.close()
        elif why == "enough":
            enough.set()
        await lingering
        writer.close()
