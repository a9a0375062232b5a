"""Public HTTP/1.1 corpora and our own malformed chunks against the door, over real sockets and byte by byte.

What must hold for every input, whatever it is: never a 500, never silence beyond the configured limits, nothing
ambiguous handed inwards, and the next ordinary request works.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.base.exchange import Inbound, Sink
from proxy.config.compiled import Listen
from proxy.server.door import build_data_server
from proxy.server.protocol import Connection, DataServer

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("OUTRIDER_DATA") or ROOT.parent / "shared" / "data") / "http"
LISTEN = Listen(head_timeout_s=0.25, body_timeout_s=0.25, keepalive_timeout_s=0.25)
GET = b"GET /ordinary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MISPRINTED = {"MAL-URL-OVERLONG-UTF8"}
"""The corpus lost the bytes that matter, so that an ordinary request is left."""


def corpus(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs OUTRIDER_DATA: {path} not found")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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


async def throw(port: int, raw: bytes) -> tuple[bytes, float]:
    """What came back until the server closed, and how long that took."""
    loop, got, began = asyncio.get_running_loop(), b"", time.monotonic()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        with suppress(ConnectionError):
            await loop.sock_sendall(sock, raw)
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(sock, 65_536):
                got += piece
    return got, time.monotonic() - began


async def run_case(raw: bytes) -> tuple[bytes, list[Inbound]]:
    recorder = Recorder()
    server = build(recorder)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = bound.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(10):
            answer, took = await throw(port, raw)
            seen = list(recorder.seen)
            assert took < 2.0, f"{raw[:80]!r} took {took:.2f} s"
            assert all(status < 500 or status in (501, 505) for status in statuses(answer)), answer[:200]
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            for one in seen:
                check_unambiguous(one)
            after, _ = await throw(port, GET)
            assert statuses(after) == [200], f"after {raw[:80]!r}: {after[:100]!r}"
            assert server.active == 0
    finally:
        bound.close()
        await server.shutdown(0.1)
    return answer, seen


async def run_all(raws: Iterable[bytes]) -> list[tuple[bytes, list[Inbound]]]:
    gate = asyncio.Semaphore(40)

    async def one(raw: bytes) -> tuple[bytes, list[Inbound]]:
        async with gate:
            return await run_case(raw)

    return await asyncio.gather(*(one(raw) for raw in raws))


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


# Public corpora -------------------------------------------------------------------------------------------------------


async def test_http11probe() -> None:
    cases = [case for case in corpus("http11probe_cases.jsonl") if case.get("raw_b64")]
    results = await run_all(base64.b64decode(case["raw_b64"]) for case in cases)
    wrong = []
    for case, (answer, _) in zip(cases, results, strict=True):
        expected = str(case["expected"]).lower()
        first = statuses(answer)[:1]
        served = bool(first) and first[0] < 300
        strict = expected.startswith(("400", "`400`")) and not any(
            word in expected for word in ("2xx", "preferred", "pass-through")
        )
        if served and strict and case["id"] not in MISPRINTED:
            wrong.append((case["id"], expected, first))
        if not served and expected in ("2xx", "`2xx`", "2xx or close", "`2xx` with `date` header"):
            wrong.append((case["id"], expected, first))
        if 100 in statuses(answer) or 101 in statuses(answer):
            wrong.append((case["id"], expected, statuses(answer)))
    assert wrong == []


async def test_gunicorn() -> None:
    cases = corpus("gunicorn_requests.jsonl")
    results = await run_all(base64.b64decode(case["raw_b64"]) for case in cases)
    plain = [(c, r) for c, r in zip(cases, results, strict=True) if c["needs_config"] is None]
    # A valid request is admitted or refused with a reason, never left without an answer.
    assert all(statuses(answer) for case, (answer, _) in plain if case["kind"] == "valid")
    framing = ("InvalidHeader", "InvalidHeaderName", "InvalidChunkSize", "InvalidChunkExtension", "ObsoleteFolding")
    admitted = [
        (case["id"], case["reason"])
        for case, (_, seen) in plain
        if case["kind"] == "invalid" and case["reason"] in framing and seen
    ]
    assert admitted == []


async def test_llhttp() -> None:
    cases = [case for case in corpus("llhttp_cases.jsonl") if "request" in str(case["meta"].get("type"))]
    await run_all(base64.b64decode(case["raw_b64"]) for case in cases)


async def test_json_bodies_come_in_unchanged() -> None:
    bodies = [base64.b64decode(case["b64"]) for case in corpus("json_parsing.jsonl")]
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    results = await run_all(post % len(body) + body for body in bodies)
    for body, (answer, seen) in zip(bodies, results, strict=True):
        assert statuses(answer)[:1] == [200]
        assert [one.body for one in seen] == [body]


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
