"""Chunked bodies and pipelined requests against the door in memory, whole, cut at every byte and byte by byte.

What must hold however they are cut: a malformed body is refused at once, what is right comes in unchanged, and nothing
ambiguous is handed inwards. The public corpora are in tests/fuzz/test_corpora.py, over sockets.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest

from proxy.base.exchange import Inbound, Sink
from proxy.config.compiled import Listen
from proxy.server.door import build_data_server
from proxy.server.protocol import Connection, DataServer

LISTEN = Listen(head_timeout_s=0.25, body_timeout_s=0.25, keepalive_timeout_s=0.25)
GET = b"GET /ordinary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Inbound] = []

    async def __call__(self, inbound: Inbound, sink: Sink) -> None:
        self.seen.append(inbound)
        await sink.whole(200, [], inbound.body)


def build(recorder: Recorder) -> DataServer:
    return build_data_server(recorder, LISTEN, time.monotonic, lambda: "req_1", lambda _: None)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


SINGLE = {b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization"}


def check_unambiguous(inbound: Inbound) -> None:
    assert re.fullmatch(r"[A-Z]+", inbound.method)
    assert inbound.method not in ("CONNECT", "TRACE")
    assert inbound.path.startswith("/")
    assert re.fullmatch(r"[!-~]*", inbound.path + inbound.query)
    assert not {".", "..", "%2e", "%2e%2e"} & set(inbound.path.lower().split("/"))
    names = [name.lower() for name, _ in inbound.headers]
    assert all(re.fullmatch(rb"[!#$%&'*+.^_`|~0-9a-z-]+", name) for name in names)
    assert all(re.fullmatch(rb"[\t -~]*", value) for _, value in inbound.headers)
    assert all(names.count(name) <= 1 for name in SINGLE)
    fields = dict(zip(names, (value for _, value in inbound.headers), strict=True))
    assert b"content_length" not in names
    assert b"transfer_encoding" not in names
    if b"content-length" in fields:
        assert b"transfer-encoding" not in fields
        assert re.fullmatch(rb"0|[1-9][0-9]*", fields[b"content-length"])
        assert int(fields[b"content-length"]) == len(inbound.body)
    elif b"transfer-encoding" in fields:
        assert fields[b"transfer-encoding"].lower() == b"chunked"
    else:
        assert inbound.body == b""


# Malformed chunks, ours -----------------------------------------------------------------------------------------------

HEAD = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "size-not-hex": b"g\r\nhello\r\n0\r\n\r\n",
    "size-empty": b"\r\nhello\r\n0\r\n\r\n",
    "size-hex-prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size-minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size-underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size-leading-space": b" 5\r\nhello\r\n0\r\n\r\n",
    "size-trailing-space": b"5 \r\nhello\r\n0\r\n\r\n",
    "size-20-digits": b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size-ends-in-lf": b"5\nhello\r\n0\r\n\r\n",
    "size-ends-in-cr": b"5\rhello\r\n0\r\n\r\n",
    "no-crlf-after-chunk": b"5\r\nhello0\r\n\r\n",
    "lf-after-chunk": b"5\r\nhello\n0\r\n\r\n",
    "chunk-too-long": b"5\r\nhelloo\r\n0\r\n\r\n",
    "chunk-too-short": b"5\r\nhell\r\n0\r\n\r\n",
    "extension-control": b"5;a\x01\r\nhello\r\n0\r\n\r\n",
    "extension-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension-bare": b"5;\r\nhello\r\n0\r\n\r\n",
    "extension-quote-open": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "trailer-name": b"5\r\nhello\r\n0\r\nbad name: x\r\n\r\n",
    "trailer-without-colon": b"5\r\nhello\r\n0\r\ntrailer\r\n\r\n",
    "trailer-control": b"5\r\nhello\r\n0\r\nx: a\x00b\r\n\r\n",
    "trailers-too-many": b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 130 + b"\r\n",
}


class Wire(asyncio.Transport):
    """A transport in memory: a segment is exactly what the test says. Its caller leaves when it is told the end."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.out = b""
        self.closed = False
        self._connection = connection

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


async def feed(server: DataServer, pieces: Iterable[bytes]) -> bytes:
    """What comes back to these segments; fails when the connection is still open after a hundred turns of the loop."""
    connection = server()
    wire = Wire(connection)
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        connection.data_received(piece)
        await turns(wire, 4)
    await turns(wire, 100)
    assert wire.closed, "the caller would wait for ever"
    await turns(None, 4)
    return wire.out


async def turns(wire: Wire | None, count: int) -> None:
    for _ in range(count):
        if wire is not None and wire.closed:
            return
        waiter = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waiter.set_result, None)
        await waiter


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_chunked_body_is_400_at_once_however_it_is_cut(name: str) -> None:
    recorder = Recorder()
    server = build(recorder)
    raw = HEAD + MALFORMED[name]
    cuts = range(1, len(raw)) if len(raw) < 200 else [*range(1, 90), *range(90, len(raw), 37)]
    ways: list[list[bytes]] = [[raw], [raw[i : i + 1] for i in range(len(raw))]]
    ways.extend([raw[:cut], raw[cut:]] for cut in cuts)
    ways.append([GET.replace(b"Connection: close\r\n", b"") + raw])
    for pieces in ways:
        answer = await feed(server, pieces)
        assert statuses(answer)[-1:] == [431 if name == "trailers-too-many" else 400] or statuses(answer)[-1:] == [400]
        assert b"Connection: close" in answer
    # Only the good request in front of the bad one got in.
    assert [one.path for one in recorder.seen] == ["/ordinary"]
    assert server.active == 0
    assert server.connection_count == 0


async def test_well_formed_chunks_come_in_however_they_are_cut() -> None:
    recorder = Recorder()
    server = build(recorder)
    raw = HEAD[:-2] + b"Connection: close\r\n\r\n" + b'5;a="b c"\r\nhello\r\n00006\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n'
    ways = [[raw], [raw[i : i + 1] for i in range(len(raw))], *([raw[:cut], raw[cut:]] for cut in range(1, len(raw)))]
    for pieces in ways:
        assert statuses(await feed(server, pieces)) == [200]
    assert {one.body for one in recorder.seen} == {b"hello world"}
    assert len(recorder.seen) == len(ways)


async def test_two_requests_come_in_the_same_however_they_are_cut() -> None:
    recorder = Recorder()
    server = build(recorder)
    first = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\na\r\n\r\nbc"
    raw = first + GET + b"BAD"
    for cut in range(1, len(raw)):
        recorder.seen.clear()
        answer = await feed(server, [raw[:cut], raw[cut:]])
        # Only a cut within the first request can cost the second one, and then it is refused, not lost.
        assert statuses(answer)[0] in (200, 400), cut
        if cut >= len(first) or statuses(answer)[0] == 200:
            assert [one.path for one in recorder.seen][:1] == ["/a"], cut
        for one in recorder.seen:
            check_unambiguous(one)
