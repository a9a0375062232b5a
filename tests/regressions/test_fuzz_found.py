"""What the corpora and the fuzzers have found, each with the least input that shows it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from proxy.base.exchange import Inbound, Sink
from proxy.config.compiled import Listen
from proxy.dialects import sse
from proxy.server.door import build_data_server

LISTEN = Listen(head_timeout_s=0.2, body_timeout_s=0.2, keepalive_timeout_s=0.4)
GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n%b\r\n"


async def spoken(first: bytes, second: bytes = b"", *, inside: bool = False) -> tuple[list[str], bytes]:
    """Paths that got in, and all that came back.

    The second piece is written when the first was answered; `inside`: once its request has begun and waits for more.
    """
    seen: list[str] = []

    async def serve(inbound: Inbound, sink: Sink) -> None:
        seen.append(inbound.path)
        await sink.whole(200, [], b"")

    server = build_data_server(serve, LISTEN, time.monotonic, lambda: "req_1", lambda _: None)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*bound.sockets[0].getsockname())
    got = b""
    async with asyncio.timeout(5):
        writer.write(first)
        while inside and not server.active:
            await asyncio.sleep(0.005)
        if not inside:
            with suppress(asyncio.IncompleteReadError):
                got += await reader.readuntil(b"\r\n\r\n")
        writer.write(second)
        with suppress(ConnectionError):
            got += await reader.read()
    writer.close()
    bound.close()
    await server.shutdown(0.1)
    return seen, got


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_bytes_behind_an_upgrade_are_no_request(protocol: bytes) -> None:
    """aiohttp's parser dropped the rest of the segment behind an upgrade that it does not know.

    The second request was lost and the answer to the third was taken for its; of half a request, the other half in the
    next segment was taken for a request of its own.
    """
    asked = GET % (b"one", b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocol)
    half = b"POST /two HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n"
    seen, got = await spoken(asked + half, GET % (b"smuggled", b""))
    assert seen == ["/one"]
    assert b"Connection: close\r\n" in got
    assert got.count(b"HTTP/1.1 ") == 1


async def test_line_ends_between_requests_begin_no_head() -> None:
    """A line end behind a body was taken for a head that does not go on, and answered 408 on an idle connection."""
    seen, got = await spoken(GET % (b"one", b""), b"\r\n")
    assert seen == ["/one"]
    assert got.count(b"HTTP/1.1 ") == 1


async def test_line_ends_alone_do_not_keep_a_connection() -> None:
    seen, got = await spoken(b"\r\n" * 100)
    assert (seen, got) == ([], b"")


async def test_a_trailer_does_not_condemn_the_next_request() -> None:
    """A trailer that came in the next request's segment leaked into it: two Hosts, and the caller was told 400."""
    head = b"POST /one HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = b"0\r\nHost: y\r\n\r\n" + GET % (b"two", b"")
    seen, got = await spoken(head + b"1\r\na\r\n", rest, inside=True)
    assert seen == ["/one"]
    assert got.count(b"HTTP/1.1 ") == got.count(b" 200 ") == 1
    assert b"Connection: close\r\n" in got


@pytest.mark.parametrize("end", ["\n\r", "\r\n\r"])
def test_a_cr_behind_a_lf_is_a_blank_line(end: str) -> None:
    """The standard lets line ends be mixed; two events were taken for one whose data is no JSON."""
    piece = f"data: 1{end}data: 2\n\n".encode()
    assert [sse.data_of(event) for event in sse.events(piece)] == [b"1", b"2"]
    assert sse.next_event(f"data: 1{end}".encode()) == -1, "the next byte may be the LF of a CRLF"
