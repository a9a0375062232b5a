"""The zero-delay mock: an OpenAI-shaped provider whose every answer was rendered before the first request came.

The model's name is the script, so that one connection can ask for anything and the mock keeps no state:

| model | answer |
|---|---|
| `unary-N` | a chat completion of exactly N bytes with `Content-Length`, at once |
| `stream-N` | N content events of about 200 bytes, one write each, `GAP_MS` apart, then finish, usage and `[DONE]` |
| `burst-N` | the same events, one write per turn of the event loop, as fast as it turns |
| `hold` | the role event and one content event, then silence until the caller leaves |

The path says in which dialect: `/v1/chat/completions`, `/v1/messages` (Anthropic), `...:generateContent` (Gemini) or
`/model/.../converse` (Bedrock). A translated answer has the text of the chat answer of the same name, to the letter.

A raw Protocol on uvloop: one search for the head, one for the length, one for the name. It costs about a tenth of the
candidate it answers, so that the candidate is what is measured. Paced streams are spread over the gap by one common
ticker, because that is what tokens from many calls look like: events of different streams do not arrive together, and
two events of one stream do not arrive in one read.

`python -m tests.bench.upstream --port 9100` runs it alone, for work by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import uvloop

from tests.bench import foreign

GAP_MS = 4
"""Milliseconds between two events of a paced stream; also the number of slots over which streams are spread."""
CONTENT_BYTES = 26
"""Bytes of text in a content event; the event around it makes about 200 of them."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
_MODEL = re.compile(rb'"model": ?"([a-z]+(?:-\d+)?)"')
_PATH_MODEL = re.compile(rb"POST /(v1beta/models|model)/([a-z]+(?:-\d+)?)[:/]")

_COMMON = (
    "date: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    "openai-organization: acme-a1b2c3\r\n"
    "openai-processing-ms: 12\r\n"
    "openai-version: 2020-10-01\r\n"
    "x-ratelimit-limit-requests: 10000\r\n"
    "x-ratelimit-limit-tokens: 2000000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\n"
    "x-ratelimit-remaining-tokens: 1999000\r\n"
    "x-ratelimit-reset-requests: 6ms\r\n"
    "x-ratelimit-reset-tokens: 30ms\r\n"
    "x-request-id: req_0123456789abcdef0123456789abcdef\r\n"
    "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
    "x-content-type-options: nosniff\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One rendered answer."""

    writes: tuple[bytes, ...]
    """What goes on the wire, one element per write; the first holds the head."""
    body: bytes
    """The body without transfer coding: what a caller of this dialect must end up with."""
    text: str
    """What it says: all that is the same for a caller of another dialect."""
    gap: int | None
    """None: everything in one write. 0: one write per turn of the loop. `GAP_MS`: paced."""
    ends: bool = True
    """False for `hold`, which never finishes."""


@functools.cache
def answer(model: str, dialect: str = "openai") -> Answer:
    """The answer to `model`. Raises ValueError for a name that is not in the table above."""
    kind, _, size = model.partition("-")
    if kind == "unary":
        return _unary(model, int(size), dialect)
    if kind in ("stream", "burst"):
        return _stream(model, int(size), dialect, gap=GAP_MS if kind == "stream" else 0)
    if model == "hold":
        return _stream(model, 1, dialect, gap=0, ends=False)
    raise ValueError(f"unknown model {model!r}")


def _unary(model: str, size: int, dialect: str) -> Answer:
    def rendered(text: str) -> bytes:
        return _json(
            {
                "id": "chatcmpl-bench",
                "object": "chat.completion",
                "created": 1763726400,
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": USAGE,
                "service_tier": "default",
                "system_fingerprint": "fp_bench",
            }
        )

    room = size - len(rendered(""))
    if room < 1:
        raise ValueError(f"unary answers have at least {size - room + 1} bytes")
    text = ("word " * (room // 5 + 1))[:room]
    body = rendered(text) if dialect == "openai" else foreign.unary(dialect, model, text)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{_COMMON}content-length: {len(body)}\r\n\r\n"
    return Answer(writes=(head.encode() + body,), body=body, text=text, gap=None)


def _stream(model: str, contents: int, dialect: str, *, gap: int, ends: bool = True) -> Answer:
    pieces = [f"w{number:06d} ".ljust(CONTENT_BYTES, "x") for number in range(contents)]
    said = list(events(model, pieces)) if dialect == "openai" else foreign.stream(dialect, model, pieces)
    if not ends:
        content = next(at for at, event in enumerate(said) if pieces[0].encode() in event)
        said = said[: content + 1]
    kind = foreign.STREAM_TYPES.get(dialect, "text/event-stream; charset=utf-8")
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{_COMMON}transfer-encoding: chunked\r\n"
    writes = [b"%x\r\n%b\r\n" % (len(event), event) for event in said]
    writes[0] = head.encode() + b"\r\n" + writes[0]
    if ends:
        writes[-1] += b"0\r\n\r\n"
    return Answer(writes=tuple(writes), body=b"".join(said), text="".join(pieces), gap=gap, ends=ends)


USAGE = {
    "prompt_tokens": 300,
    "completion_tokens": 200,
    "total_tokens": 500,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def events(model: str, pieces: Sequence[str]) -> Iterator[bytes]:
    """Role, a content event for each of `pieces`, finish, usage, `[DONE]`: four more than pieces."""

    def event(choices: list[dict[str, object]], usage: object = None) -> bytes:
        chunk = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1763726400,
            "model": model,
            "choices": choices,
            "usage": usage,
        }
        return b"data: " + _json(chunk) + b"\n\n"

    def choice(delta: dict[str, object], finish: str | None = None) -> list[dict[str, object]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    yield event(choice({"role": "assistant", "content": ""}))
    for piece in pieces:
        yield event(choice({"content": piece}))
    yield event(choice({}, "stop"))
    yield event([], USAGE)
    yield b"data: [DONE]\n\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Pacer:
    """Writes the next event of every paced stream, a `GAP_MS`-th of the streams each millisecond.

    A late tick is not made up for: the gap is then longer, but no stream gets two events at once.
    """

    def __init__(self) -> None:
        self._slots: list[dict[Connection, Iterator[bytes]]] = [{} for _ in range(GAP_MS)]
        self._at = 0
        self._joined = 0
        self._ticking = False

    def join(self, connection: Connection, writes: Iterator[bytes]) -> None:
        self._slots[self._joined % GAP_MS][connection] = writes
        self._joined += 1
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(0.001, self._tick)

    def leave(self, connection: Connection) -> None:
        for slot in self._slots:
            slot.pop(connection, None)

    def _tick(self) -> None:
        self._at = (self._at + 1) % GAP_MS
        slot = self._slots[self._at]
        for connection, writes in list(slot.items()):
            data = next(writes, None)
            if data is None:
                del slot[connection]
            else:
                connection.transport.write(data)
        self._ticking = any(self._slots)
        if self._ticking:
            asyncio.get_running_loop().call_later(0.001, self._tick)


class Connection(asyncio.Protocol):
    """One connection of a candidate: requests one after the other, never pipelined."""

    transport: asyncio.Transport

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pacer.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        head = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, head) if head > 3 else None
        if head < 4 or (length is not None and len(data) < head + int(length[1])):
            self._held = data
            return
        self._held = b""
        if data.startswith((b"GET ", b"POST /v1/traces ")):  # a probe of the proxy's, or its spans
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        elif data.startswith(b"POST /v1/chat/"):
            self._answer("openai", _MODEL.search(data, head), 1)
        elif data.startswith(b"POST /v1/messages"):
            self._answer("anthropic", _MODEL.search(data, head), 1)
        else:
            self._answer("bedrock" if data.startswith(b"POST /model/") else "gemini", _PATH_MODEL.match(data), 2)

    def _answer(self, dialect: str, model: re.Match[bytes] | None, group: int) -> None:
        if model is None:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        said = answer(model[group].decode(), dialect)
        self.transport.write(said.writes[0])
        if said.gap:
            self._pacer.join(self, iter(said.writes[1:]))
        elif said.gap == 0:
            asyncio.get_running_loop().call_soon(self._next, iter(said.writes[1:]))

    def _next(self, writes: Iterator[bytes]) -> None:
        data = next(writes, None)
        if data is not None and not self.transport.is_closing():
            self.transport.write(data)
            asyncio.get_running_loop().call_soon(self._next, writes)


async def serve(port: int = 0) -> asyncio.Server:
    """The mock, listening on 127.0.0.1; `port` 0 lets the system choose."""
    pacer = Pacer()
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(pacer), "127.0.0.1", port, backlog=4096, reuse_address=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=9100)
    port = parser.parse_args().port

    async def run() -> None:
        async with await serve(port) as server:
            await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
