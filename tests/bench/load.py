"""The load generator: callers with openai-python's headers, a fixed number of them, each asking again when answered.

Closed loop, because the measure is CPU time per answer and not latency under overload. Every answer is compared with
the mock's own bytes, status, length and content: a candidate that answers wrongly is never fast. A raw Protocol on
uvloop, without a future or a task per request; it must stay cheaper than what it drives.

Connections are opened, and warmed with answers that nobody counts, before a measurement begins.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

from tests.bench.upstream import Answer, answer

PATH = "/v1/chat/completions"
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
WRONG_MAX = 5
"""A run stops after so many wrong answers; one is enough to fail it."""

PROMPT = (
    "You are the support assistant of a shop for bicycle parts. Answer in the language of the question, keep to what "
    "the context says, and ask for the order number when it is missing. Never promise a delivery date. "
)
QUESTION = (
    "Context: order 48213, placed on Monday, paid by card, two items: a rear derailleur of eleven speeds and a chain "
    "of 116 links. The parcel left the warehouse yesterday at noon and the carrier has scanned it once since then. "
    "Question: where is my order, and may I still change the chain for one of twelve speeds before it arrives here? "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One kind of request and the answer it must get."""

    model: str
    split: bool = False
    """Send head and body in two segments, as httpx does; else in one, as aiohttp does."""
    target: str = ""
    """Name of the provider to ask: that of its dialect; empty: whoever the candidate asks by default."""

    def request(self) -> tuple[bytes, ...]:
        """What goes on the wire, one element per write: a request body of about 1.5 KiB with 17 headers."""
        streams = answer(self.model).gap is not None
        wish = ',"stream":true,"stream_options":{"include_usage":true}' if streams else ""
        body = (
            f'{{"messages":[{{"role":"system","content":"{PROMPT * 2}"}},{{"role":"user","content":"{QUESTION * 2}"}}],'
            f'"model":"{self.model}","max_tokens":512,"temperature":0.2{wish}}}'
        ).encode()
        target = f"X-Failover-Providers: {self.target}\r\n" if self.target else ""
        head = (
            f"POST {PATH} HTTP/1.1\r\n"
            "Host: 127.0.0.1:8711\r\n"
            "Accept-Encoding: gzip, deflate\r\n"
            "Connection: keep-alive\r\n"
            "Accept: application/json\r\n"
            "Content-Type: application/json\r\n"
            "User-Agent: OpenAI/Python 2.8.0\r\n"
            "X-Stainless-Lang: python\r\n"
            "X-Stainless-Package-Version: 2.8.0\r\n"
            "X-Stainless-OS: Linux\r\n"
            "X-Stainless-Arch: x64\r\n"
            "X-Stainless-Runtime: CPython\r\n"
            "X-Stainless-Runtime-Version: 3.11.7\r\n"
            f"Authorization: Bearer {KEY}\r\n"
            "X-Stainless-Async: async:asyncio\r\n"
            "x-stainless-retry-count: 0\r\n"
            "x-stainless-read-timeout: 600\r\n"
            f"{target}"
            f"Content-Length: {len(body)}\r\n"
            "\r\n"
        ).encode()
        return (head, body) if self.split else (head + body,)


@dataclass(slots=True)
class Run:
    """One measurement in progress, then its result."""

    job: Job
    left: int
    """Requests not yet sent."""
    open: int = 0
    """Requests sent and not yet answered."""
    answered: int = 0
    reads: int = 0
    """Reads that carried a part of an answer; against the events written it shows how many arrived together."""
    latency_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """Seconds to the first content event; streams only."""
    wrong: list[str] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def note_wrong(self, what: str) -> None:
        if len(self.wrong) < WRONG_MAX:
            self.wrong.append(what)
        if len(self.wrong) == WRONG_MAX:
            self.done.set()

    def note_end(self) -> None:
        self.open -= 1
        if not self.open and not self.left:
            self.ended_s = time.perf_counter()
            self.done.set()

    @property
    def per_second(self) -> float:
        return self.answered / (self.ended_s - self.began_s)


class Caller(asyncio.Protocol):
    """One keep-alive connection that takes requests from a run until none is left."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.lost = False
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._tail = b""
        self._body_at = 0
        """Offset of the body; 0 while the head is not complete."""
        self._end: int | None = None
        """Bytes of head and body together; None: chunked."""
        self._has = 0
        self._first = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.run is not None:
            self._fail(f"connection closed after {self._has} bytes of an answer")

    def close(self) -> None:
        self.run = None
        self._transport.abort()

    def ask(self, run: Run) -> None:
        """Send the next request of `run`; without one left, rest."""
        if not run.left or self.lost:
            self.run = None
            return
        self.run, self._wire, self._said = run, run.job.request(), answer(run.job.model)
        self._send()

    def _send(self) -> None:
        run = self.run
        assert run is not None
        run.left -= 1
        run.open += 1
        self._parts.clear()
        self._tail = b""
        self._body_at, self._end, self._has, self._first = 0, None, 0, False
        self._sent_s = time.perf_counter()
        self._transport.write(self._wire[0])
        if len(self._wire) > 1:  # in the next turn of the loop: in this one both would go out together
            asyncio.get_running_loop().call_soon(self._transport.write, self._wire[1])

    def data_received(self, data: bytes) -> None:
        run = self.run
        if run is None:
            return
        run.reads += 1
        self._has += len(data)
        self._parts.append(data)
        if not self._body_at and not self._read_head(run):
            return
        if self._said.gap is not None and not self._first and b'"content":"w' in data:
            self._first = True
            run.first_s.append(time.perf_counter() - self._sent_s)
            if not self._said.ends:
                self._rest(run)
                return
        if self._end is not None:
            if self._has >= self._end:
                self._finish(run, b"".join(self._parts)[self._body_at :])
            return
        self._tail = (self._tail + data)[-7:]
        if self._tail == b"\r\n0\r\n\r\n":
            self._finish(run, unchunked(b"".join(self._parts)[self._body_at :]))

    def _read_head(self, run: Run) -> bool:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._body_at = data.find(b"\r\n\r\n") + 4
        if self._body_at < 4:
            self._body_at = 0
            return False
        if data[9:12] != b"200":
            self._fail(f"answered {data[:200]!r}")
            return False
        head = data[: self._body_at].lower()
        at = head.find(b"\r\ncontent-length:")
        self._end = self._body_at + int(head[at + 17 : head.index(b"\r", at + 2)]) if at >= 0 else None
        return True

    def _rest(self, run: Run) -> None:
        """A held stream counts as answered when its first content is here; the connection stays."""
        self.run = None
        run.answered += 1
        run.note_end()

    def _finish(self, run: Run, body: bytes) -> None:
        run.latency_s.append(time.perf_counter() - self._sent_s)
        if run.job.target in ("", "openai"):
            if body != self._said.body:
                self._fail(f"body of {len(body)} bytes is not the {len(self._said.body)} bytes that the upstream sent")
                return
        elif why := mistranslated(body, self._said):
            self._fail(f"from {run.job.target}: {why}")
            return
        run.answered += 1
        if run.left and not run.done.is_set():
            run.open -= 1
            self._send()
        else:
            self.run = None
            run.note_end()

    def _fail(self, what: str) -> None:
        run, self.run = self.run, None
        assert run is not None
        self.lost = True
        self._transport.abort()
        run.note_wrong(f"{run.job.model}: {what}")
        run.note_end()


def mistranslated(body: bytes, said: Answer) -> str:
    """Why `body` is not a chat answer with the text of `said`, its usage and its proper end; empty: it is one."""
    try:
        if said.gap is None:
            whole = json.loads(body)
            choice = whole["choices"][0]
            text, finish, usage, end = choice["message"]["content"], choice["finish_reason"], whole["usage"], True
        else:
            lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
            end = lines.pop() == b"[DONE]"
            chunks = [json.loads(line) for line in lines]
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            text = "".join(choice["delta"].get("content") or "" for choice in choices)
            finish, usage = choices[-1]["finish_reason"], chunks[-1]["usage"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"no chat answer: {type(error).__name__}: {error}"
    if text != said.text:
        return f"text of {len(text)} characters is not the one that was said"
    if not end or finish != "stop" or usage["total_tokens"] != 500:
        return f"ends with {finish!r}, {usage}, {'an end mark' if end else 'no end mark'}"
    return ""


def unchunked(data: bytes) -> bytes:
    """The body of a complete chunked message without trailers; what cannot be read becomes a body that fits nothing."""
    parts: list[bytes] = []
    at = 0
    try:
        while True:
            line = data.index(b"\r\n", at)
            size = int(data[at:line].split(b";")[0], 16)
            if not size:
                return b"".join(parts)
            parts.append(data[line + 2 : line + 2 + size])
            at = line + 2 + size
            if data[at : at + 2] != b"\r\n":
                return b"?"
            at += 2
    except ValueError:
        return b"?"


class Callers:
    """A number of open connections to one candidate; use as an async context manager."""

    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.count = count
        self._callers: list[Caller] = []

    async def __aenter__(self) -> Callers:
        loop = asyncio.get_running_loop()
        for _ in range(self.count):
            self._callers.append((await loop.create_connection(Caller, "127.0.0.1", self.port))[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for caller in self._callers:
            caller.close()

    async def run(self, job: Job, requests: int, limit_s: float = 60.0) -> Run:
        """Ask `requests` times over all connections together. Never raises for a wrong answer: see `Run.wrong`."""
        run = Run(job, requests)
        run.began_s = time.perf_counter()
        for caller in self._callers:
            caller.ask(run)
        if not run.open:
            run.note_wrong(f"{job.model}: no connection is left")
        try:
            async with asyncio.timeout(limit_s):
                await run.done.wait()
        except TimeoutError:
            run.note_wrong(f"{job.model}: {run.open} requests unanswered after {limit_s:g} s")
        run.ended_s = run.ended_s or time.perf_counter()
        return run
