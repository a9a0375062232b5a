"""A fake LLM provider that misbehaves on command: the upstream of `outrider demo` and of the black-box tests.

It speaks HTTP/1.1 over a bare asyncio transport, not through a server library, because a library would refuse to send
most of what we must send: two lengths, half a chunk, a reset between two words. Correct by default; what is wrong is
said by a `Fault` (`proxy.demo.script`), which becomes a list of steps before the first byte is written.

The one clever thing is the transport protocol: it takes its bytes into a buffer of our size (so that a slow reader of
requests is slow in small bites and still notices who leaves) and hears at once when the other side closes, even in
the middle of a silence. That moment, and every other, goes into the attempt log; tests wait on the log, never on time.

A healthy answer that needs no pause is written in the callback that completed the request, from bytes that were built
once, so that the provider can stand behind a load test.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import re
import signal
import socket
import ssl as tls
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

import orjson

from proxy.demo import shapes
from proxy.demo.script import (
    BODY_KEPT_MAX,
    SPOOFED,
    Attempt,
    Cut,
    Damage,
    End,
    Fault,
    FaultError,
    Send,
    Step,
    Wait,
    say_of,
    script_from_json,
    stream_steps,
    unary_steps,
)
from proxy.demo.shapes import Asked, Dialect

HEAD_BYTES_MAX: Final = 1 << 18
"""A larger request head is refused with 431."""
LOG_MAX: Final = 50_000
"""Attempts kept in the log; older ones are forgotten."""
TEMPLATES_MAX: Final = 256
_READ_BYTES: Final = 1 << 18
_FIRST_BYTES: Final = 1 << 14
"""Bytes taken at once while no head is known, so that little of a body comes before we know how slowly to read it."""
_YIELD_EVERY: Final = 64
_SETTLE_S: Final = 0.02
"""Between the last bytes and a cut. Many readers forget what they hold when they learn of an error, so without it a
cut after 40 words would be one after any number up to 40 when the words come at full speed."""
_RUBBISH: Final = b"\xff" * 16
_JSON: Final = "application/json"
_SSE: Final = "text/event-stream; charset=utf-8"

_HEALTHY: Final = Fault()

Hook = Callable[[Attempt], Fault | None]
"""Asked for every attempt whose body has come; None leaves the decision to the script."""


@dataclass(slots=True)
class _Entry:
    """A fault of the script and how often it is still due (None: for ever)."""

    fault: Fault | None
    left: int | None
    since: float


class FakeProvider:
    """One fake provider on one port of the loopback interface.

    Faults are looked for in this order: `hook`, the script, the standing fault (`default`). All times are of the
    running loop's clock. Use it as ``async with FakeProvider() as provider``.
    """

    def __init__(
        self,
        *,
        name: str = "",
        dialect: Dialect = "openai",
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
        pause_s: float = 0.015,
        burst: bool = False,
        keep_log: bool = True,
        ratelimit_headers: bool = False,
        prompt_tokens: int = shapes.PROMPT_TOKENS,
        receive_buffer_bytes: int | None = None,
        body_bytes_max: int = 256 << 20,
        hook: Hook | None = None,
    ) -> None:
        """Describe a provider; nothing happens before `start`.

        `name` (empty: that of the dialect) is in every answer: header ``x-provider``, ids, ``system_fingerprint``.
        `pause_s` is the time between two words; with 0 and `burst` a healthy stream is written at once. `port` 0 takes
        a free one and keeps it over a restart. `receive_buffer_bytes` limits the kernel's buffer, for slow readers.
        `dialect` shapes model lists and errors of paths that are nobody's own; every API is always served.
        """
        self.name = name or dialect
        self.dialect: Dialect = dialect
        self.pause_s = pause_s
        self.burst = burst
        self.keep_log = keep_log
        self.ratelimit_headers = ratelimit_headers
        self.prompt_tokens = prompt_tokens
        self.body_bytes_max = body_bytes_max
        self.hook = hook
        self.attempts_total = 0
        self.connections_total = 0
        self.connections_in_use = 0
        """Connections on which a request is being read or answered."""
        self._host, self._port, self._ssl = host, port, ssl
        self._receive_buffer_bytes = receive_buffer_bytes
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._log: dict[int, Attempt] = {}
        self._script: deque[_Entry] = deque()
        self._default: Fault | None = None
        self._default_since = 0.0
        self._changed: asyncio.Event | None = None
        self._crashes: list[BaseException] = []
        self._templates: dict[tuple[Asked, bool], bytes] = {}
        self._date = (0, b"")
        self.healthy_steps: dict[tuple[Asked, float], list[Step]] = {}
        self.read_buffer = memoryview(bytearray(_READ_BYTES))

    # life

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio switches Nagle's delay off only for sockets that name their protocol; with it, words come 40 ms late.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._receive_buffer_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
            sock.bind((self._host, self._port))
        except OSError:
            sock.close()
            raise
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=sock, ssl=self._ssl, backlog=1024)
        self._port = sock.getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and abort every connection; from now on the port refuses. Raises what crashed an answer."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        tasks = [task for connection in list(self._connections) if (task := connection.stop()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._connections:
            await self._wait_change()
        await server.wait_closed()
        if self._crashes:
            raise self._crashes[0]

    async def __aenter__(self) -> FakeProvider:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port; 0 before the first start when none was given."""
        return self._port

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path and without a slash at the end."""
        return f"{'http' if self._ssl is None else 'https'}://{self._host}:{self._port}"

    @property
    def connections_open(self) -> int:
        return len(self._connections)

    # the log

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt so far, oldest first; empty with ``keep_log=False``."""
        return list(self._log.values())

    def clear(self) -> None:
        """Forget the attempts that have ended; numbers go on."""
        self._log = {n: attempt for n, attempt in self._log.items() if not attempt.ended}

    async def wait(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Wait until `condition`, judged anew at every change of log or connections, is true; else TimeoutError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._wait_change()
        except TimeoutError:
            raise TimeoutError(f"{self.name}: waited {timeout_s} s in vain; log: {self.attempts}") from None

    async def wait_attempts(self, n: int, *, ended: bool = False, timeout_s: float = 10.0) -> list[Attempt]:
        """Wait until `n` attempts are in the log with their bodies, or with `ended` are over; return the log."""

        def is_there() -> bool:
            return sum(1 for a in self._log.values() if (a.ended if ended else a.body_at is not None or a.ended)) >= n

        await self.wait(is_there, timeout_s=timeout_s)
        return self.attempts

    async def wait_idle(self, *, timeout_s: float = 10.0) -> None:
        """Wait until no connection is in use."""
        await self.wait(lambda: self.connections_in_use == 0, timeout_s=timeout_s)

    async def _wait_change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def changed(self) -> None:
        """Wake everyone who waits on the log."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # faults

    @property
    def default(self) -> Fault | None:
        """The standing fault, for every attempt that neither hook nor script decide; None: healthy."""
        return self._default

    @default.setter
    def default(self, fault: Fault | None) -> None:
        self._default, self._default_since = fault, _now()

    def script(self, faults: Sequence[Fault | None], *, repeat_last: bool = False) -> None:
        """Replace the script: one fault per attempt (`times` of it), None for a healthy one.

        After the script the standing fault rules; with `repeat_last` the last entry is due for ever.
        """
        now = _now()
        self._script = deque(_Entry(fault, (fault.times if fault else None) or 1, now) for fault in faults)
        if repeat_last and self._script:
            self._script[-1].left = None

    def outage(self, for_s: float, fault: Fault | None = None) -> None:
        """Be down for `for_s` seconds from now: `fault`, else 503."""
        self.default = replace(fault or Fault(status=503), for_s=for_s)

    def flap(self, every_s: float, for_s: float, fault: Fault | None = None) -> None:
        """Be down for `every_s`, up for `every_s` and so on, down first, for `for_s` in all."""
        self.default = replace(fault or Fault(status=503), for_s=for_s, flap_s=every_s)

    def heal(self) -> None:
        """Drop script and standing fault; `hook` stays."""
        self._script.clear()
        self._default = None

    def take_early(self, attempt: Attempt) -> Fault | None:
        """Use up and return the fault that is due, if it is one that acts before the body is read."""
        entry = self._due()
        fault = entry.fault if entry is not None else self._standing()
        if self.hook is not None or fault is None or not fault.is_before_body:
            return None
        if not self._is_meant(fault, attempt, None):
            return None
        self._use(entry)
        return fault

    def take(self, attempt: Attempt, asked: Asked, body_bytes: int) -> Fault | None:
        """Use up and return the fault that is due for an attempt whose body has come."""
        if self.hook is not None and (fault := self._ask(self.hook, attempt)) is not None:
            return fault
        entry = self._due()
        if entry is not None and (entry.fault is None or self._is_meant(entry.fault, attempt, asked, body_bytes)):
            self._use(entry)
            return entry.fault
        fault = self._standing()
        return fault if fault is not None and self._is_meant(fault, attempt, asked, body_bytes) else None

    def _ask(self, hook: Hook, attempt: Attempt) -> Fault | None:
        """Ask the hook; what it raises closes the connection and is raised again by `stop`, lest a test pass by it."""
        try:
            return hook(attempt)
        except Exception as error:
            self._crashes.append(error)
            raise

    @property
    def is_healthy(self) -> bool:
        """True when nothing is set that could make an attempt unhealthy."""
        return self._default is None and not self._script and self.hook is None

    def _due(self) -> _Entry | None:
        while self._script:
            entry = self._script[0]
            if entry.fault is None or entry.fault.is_on(_now() - entry.since):
                return entry
            if entry.fault.for_s is None or _now() - entry.since < entry.fault.for_s:
                return None  # flapping, in its good half
            self._script.popleft()
        return None

    def _use(self, entry: _Entry | None) -> None:
        if entry is None or entry.left is None:
            return
        entry.left -= 1
        if entry.left <= 0:
            self._script.popleft()

    def _standing(self) -> Fault | None:
        fault = self._default
        return fault if fault is not None and fault.is_on(_now() - self._default_since) else None

    def _is_meant(self, fault: Fault, attempt: Attempt, asked: Asked | None, body_bytes: int = 0) -> bool:
        if fault.drop_reused and not attempt.reused:
            return False
        if fault.one_in is not None and attempt.n % fault.one_in != 0:
            return False
        if fault.only_key is not None and not any(fault.only_key in key for key in _credentials(attempt)):
            return False
        if asked is None:
            return True
        if fault.only_model is not None and asked.model != fault.only_model:
            return False
        if fault.only_prefill and not asked.is_prefill:
            return False
        return fault.only_body_over is None or body_bytes > fault.only_body_over

    # used by the connections

    def opened(self, connection: _Connection) -> int:
        """Take a connection in; returns its number."""
        self._connections.add(connection)
        self.connections_total += 1
        self.changed()
        return self.connections_total

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.changed()

    def crashed(self, error: BaseException) -> None:
        """Keep what an answer died of, for `stop` to raise."""
        self._crashes.append(error)

    def note(self, attempt: Attempt) -> None:
        """Put the newest record of an attempt into the log."""
        if not self.keep_log:
            return
        self._log[attempt.n] = attempt
        if len(self._log) > LOG_MAX:
            del self._log[next(iter(self._log))]
        self.changed()

    def date_line(self) -> bytes:
        """The Date header, made once a second."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]

    def healthy(self, asked: Asked, *, is_stream: bool) -> bytes:
        """Whole healthy answer, head and all, as a template: stamp it and put the date in the place of `_DATE`."""
        if (kept := self._templates.get((asked, is_stream))) is not None:
            return kept
        say = say_of(None, self.name, self.prompt_tokens)
        if is_stream:
            body = b"".join(_chunk(event.data) for event in shapes.stream(asked, say)) + b"0\r\n\r\n"
            fields = [*self.headers(asked, 200, is_stream=True), ("transfer-encoding", "chunked")]
        else:
            body = shapes.unary(asked, say, self.dialect)
            fields = [*self.headers(asked, 200, is_stream=False), ("content-length", str(len(body)))]
        answer = _head("HTTP/1.1 200 OK", [("date", _DATE.decode()), *fields]) + body
        if len(self._templates) < TEMPLATES_MAX:
            self._templates[asked, is_stream] = answer
        return answer

    def headers(self, asked: Asked, status: int, *, is_stream: bool) -> list[tuple[str, str]]:
        """Response headers but for date and framing; a template."""
        fields = [("content-type", _SSE if is_stream else _JSON), ("x-provider", self.name)]
        if is_stream:
            fields.append(("cache-control", "no-cache"))
        request_id = "request-id" if shapes.family(asked.api, self.dialect) == "anthropic" else "x-request-id"
        fields.append((request_id, f"req_{self.name}_{shapes.ID.decode()}"))
        if self.ratelimit_headers:
            fields += _RATELIMIT[shapes.family(asked.api, self.dialect)]
        return fields

    # control over HTTP

    def control(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request below ``/_demo/``; returns status and JSON body."""
        bare, _, query = path.partition("?")
        if bare == "/_demo/log" and method == "GET":
            is_raw = "raw=1" in query.split("&")
            attempts = [_attempt_json(attempt, is_raw=is_raw) for attempt in self._log.values()]
            return 200, orjson.dumps({**self._state(), "attempts": attempts})
        if bare == "/_demo/fault" and method == "GET":
            return 200, orjson.dumps(self._state())
        if bare == "/_demo/fault" and method == "POST":
            try:
                self._set(orjson.loads(body or b"{}"))
            except (FaultError, orjson.JSONDecodeError) as error:
                return 400, orjson.dumps({"error": {"message": str(error), "type": "bad_fault"}})
            return 200, orjson.dumps(self._state())
        text = "there are GET /_demo/log (?raw=1: keys and whole bodies), GET /_demo/fault and POST /_demo/fault"
        return 404, orjson.dumps({"error": {"message": text, "type": "not_found"}})

    def _set(self, value: object) -> None:
        """An object with `times` is a script of one, without it the standing fault; a list is a script; {} heals."""
        if isinstance(value, list):
            self.script(script_from_json(value))
        elif value == {}:
            self.heal()
        else:
            fault = Fault.from_json(value)
            if fault.times is None:
                self.default = fault
            else:
                self.script([fault])

    def _state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "fault": self._default.to_json() if self._default else {},
            "script": [{**(e.fault.to_json() if e.fault else {}), "times": e.left} for e in self._script],
            "attempts_total": self.attempts_total,
            "connections_open": self.connections_open,
            "connections_in_use": self.connections_in_use,
        }


def _now() -> float:
    """The running loop's clock; before there is a loop, the clock that loops use by default."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


_KEY_HEADERS: Final = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"})


def _credentials(attempt: Attempt) -> Iterator[str]:
    return (value for name, value in attempt.headers if name.lower() in _KEY_HEADERS)


def _attempt_json(attempt: Attempt, *, is_raw: bool) -> dict[str, Any]:
    """An attempt for ``/_demo/log``: without `is_raw` no key and at most 4 KiB of the body."""
    body = attempt.body if is_raw else attempt.body[:4096]
    hide = frozenset() if is_raw else _KEY_HEADERS
    return {
        "n": attempt.n,
        "at": attempt.at,
        "method": attempt.method,
        "path": attempt.path,
        "headers": [[name, "(hidden)" if name.lower() in hide else value] for name, value in attempt.headers],
        "body": body.decode("utf-8", "replace"),
        "body_bytes": attempt.body_bytes,
        "body_at": attempt.body_at,
        "sha256": attempt.sha256,
        "connection": attempt.connection,
        "reused": attempt.reused,
        "model": attempt.model,
        "fault": attempt.fault.to_json() if attempt.fault else None,
        "status": attempt.status,
        "first_byte_at": attempt.first_byte_at,
        "first_word_at": attempt.first_word_at,
        "words": attempt.words,
        "ended": attempt.ended,
        "ended_at": attempt.ended_at,
        "peer_closed_at": attempt.peer_closed_at,
    }


_DATE: Final = b"@the date@"
_RATELIMIT: Final[dict[Dialect, list[tuple[str, str]]]] = {
    "openai": [
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "1999900"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "3ms"),
    ],
    "anthropic": [
        ("anthropic-ratelimit-requests-limit", "4000"),
        ("anthropic-ratelimit-requests-remaining", "3999"),
        ("anthropic-ratelimit-requests-reset", "2030-01-01T00:00:00Z"),
    ],
    "gemini": [],
}


# --- one connection ------------------------------------------------------------------------------------------------


class BadRequest(Exception):
    """The request cannot be read; carries the status to answer with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Connection(asyncio.BufferedProtocol):
    """Reads requests, one after the other, and hands each to an answer. Every callback is short and synchronous."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.transport: asyncio.Transport
        self.attempt: Attempt | None = None
        self.is_gone = False
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._buffer = bytearray()
        self._request: _Request | None = None
        self._requests = 0
        self._is_answering = False
        self._is_deaf = False
        self._peer_left_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._may_write: asyncio.Future[None] | None = None
        self.words = 0
        """Content events written for the running attempt."""

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are transports by shape, not by class
        self._number = self.provider.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        request = self._request
        if request is not None and request.bytes_per_s:
            return self.provider.read_buffer[: max(1, min(_READ_BYTES, request.bytes_per_s // 20))]
        return self.provider.read_buffer if request is not None else self.provider.read_buffer[:_FIRST_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_deaf:
            return
        self._buffer += self.provider.read_buffer[:nbytes]
        if self._request is not None and self._request.bytes_per_s and not self._is_answering:
            self.transport.pause_reading()
            self._timer = self._loop.call_later(nbytes / self._request.bytes_per_s, self._read_on)
        if self._is_answering and len(self._buffer) > HEAD_BYTES_MAX:
            self.close()  # nobody pipelines that much
        self._advance()

    def eof_received(self) -> None:
        self._peer_left("peer_closed")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._peer_left("peer_reset")
        self.is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self.end("closed")
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        self.provider.closed(self)

    def pause_writing(self) -> None:
        self._may_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._may_write is not None and not self._may_write.done():
            self._may_write.set_result(None)
        self._may_write = None

    # reading

    def _read_on(self) -> None:
        if not self.is_gone:
            self.transport.resume_reading()

    def _advance(self) -> None:
        """Go on with what the buffer holds: a head, a body, the next request; stops while an answer is under way."""
        try:
            while not self._is_answering and not self._is_deaf and not self.is_gone:
                if self._request is None:
                    end = self._buffer.find(b"\r\n\r\n")
                    if end < 0:
                        if len(self._buffer) > HEAD_BYTES_MAX:
                            self.attempt = None
                            raise BadRequest(431, "head too large")
                        return
                    head = bytes(self._buffer[:end])
                    del self._buffer[: end + 4]
                    self._on_head(head)
                elif self._request.take(self._buffer, self.provider.body_bytes_max):
                    self._on_body(self._request)
                else:
                    return
        except BadRequest as error:
            self._refuse(error)

    def _on_head(self, head: bytes) -> None:
        self.attempt = None
        self.words = 0
        self._request = request = _read_head(head)
        if request.path.startswith("/_demo/"):
            return
        provider = self.provider
        attempt = self._begin(request.method, request.path, request.headers)
        request.early = fault = provider.take_early(attempt)
        if fault is not None and fault.drop_reused:
            self.note(fault=fault)
            self.close(is_reset=fault.drop_reused == "reset")
        elif fault is not None and fault.early_answer:
            self._answer(request, shapes.read(request.path, b"", request.method), fault)
        elif fault is not None:
            request.bytes_per_s = fault.read_bytes_per_s or 0
        if request.expects_100 and not self._is_answering and not self.is_gone:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _on_body(self, request: _Request) -> None:
        body = bytes(request.body)
        request.body = bytearray()
        if self.attempt is None:
            self._request = None
            status, answer = self.provider.control(request.method, request.path, body)
            fields = [("content-type", _JSON), ("content-length", str(len(answer)))]
            self.transport.write(_head(f"HTTP/1.1 {status} {_phrase(status)}", fields) + answer)
            return
        asked = shapes.read(request.path, body, request.method)
        provider = self.provider
        if provider.keep_log or not provider.is_healthy:
            self.note(
                body=body if len(body) <= BODY_KEPT_MAX else b"",
                body_bytes=len(body),
                body_at=self._loop.time(),
                sha256=shapes.sha256(body) if provider.keep_log else "",
                model=asked.model,
            )
        fault = request.early or provider.take(self.attempt, asked, len(body))
        if asked.api == "echo":
            request.echo = shapes.echo(request.method, request.path, request.headers, body)
        self._answer(request, asked, fault)

    def _refuse(self, error: BadRequest) -> None:
        """Answer what cannot be read, and close."""
        if self.attempt is None:
            self._begin("", "", ())
        body = orjson.dumps({"error": {"message": str(error), "type": "bad_request"}})
        fields = [("content-type", _JSON), ("content-length", str(len(body))), ("connection", "close")]
        self.note(status=error.status)
        self.write(_head(f"HTTP/1.1 {error.status} {_phrase(error.status)}", fields) + body)
        self.end("bad_request")
        self.hang_up()

    def _begin(self, method: str, path: str, headers: tuple[tuple[str, str], ...]) -> Attempt:
        """Open the record of an attempt whose head has come."""
        provider = self.provider
        provider.attempts_total += 1
        provider.connections_in_use += 1
        self.attempt = attempt = Attempt(
            n=provider.attempts_total,
            at=self._loop.time(),
            method=method,
            path=path,
            headers=headers,
            connection=self._number,
            reused=self._requests > 0,
        )
        self._requests += 1
        provider.note(attempt)
        return attempt

    # answering

    def _answer(self, request: _Request, asked: Asked, fault: Fault | None) -> None:
        provider = self.provider
        is_stream = asked.stream and asked.api in shapes.STREAM_APIS
        is_plain = fault is None and request.echo is None and not request.wants_close and request.method != "HEAD"
        if is_plain and (not is_stream or (provider.burst and not provider.pause_s)):
            self._answer_at_once(provider.healthy(asked, is_stream=is_stream), words=60 if is_stream else 1)
            return
        self._is_answering = True
        answer = _Answer(self, request, asked, fault or _HEALTHY)
        if fault is not None:
            self.note(fault=fault)
        self._task = self._loop.create_task(answer.run())
        self._task.add_done_callback(self._answered)

    def _answer_at_once(self, template: bytes, words: int) -> None:
        assert self.attempt is not None
        if self.provider.keep_log:
            self.words = words
            now = self._loop.time()
            self.note(status=200, first_byte_at=now, first_word_at=now)
        self.transport.write(shapes.stamp(template, self.attempt.n).replace(_DATE, self.provider.date_line(), 1))
        self._request = None
        self.end("complete")

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._is_answering = False
        self._request = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.provider.crashed(error)
            self.close(is_reset=True)
        if not self.is_gone:
            self._advance()

    def note(self, **changes: Any) -> None:
        """Change the record of the running attempt."""
        if self.attempt is not None:
            self.attempt = replace(self.attempt, **changes)
            self.provider.note(self.attempt)

    def end(self, how: str) -> None:
        """End the running attempt, once; later calls do nothing."""
        attempt = self.attempt
        if attempt is None or attempt.ended:
            return
        self.provider.connections_in_use -= 1
        if self.provider.keep_log:
            left_at = self._peer_left_at
            self.note(ended=how, ended_at=left_at or self._loop.time(), peer_closed_at=left_at, words=self.words)
        else:
            self.attempt = None
            self.provider.changed()

    def _peer_left(self, how: str) -> None:
        """The other side closed or reset: note when, and stop whatever was going on."""
        if self._peer_left_at is None:
            self._peer_left_at = self._loop.time()
            if self.attempt is not None and self.attempt.ended:
                self.note(peer_closed_at=self._peer_left_at)
        self.end(how)
        if self._task is not None:
            self._task.cancel()

    # writing

    @property
    def peer_left_at(self) -> float | None:
        return self._peer_left_at

    def write(self, data: bytes) -> None:
        """Write if there is still somebody; never waits."""
        if not self.is_gone:
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the other side has taken enough of what was written."""
        while self._may_write is not None:
            await self._may_write

    async def flushed(self) -> None:
        """Wait until everything written is with the kernel."""
        self.transport.set_write_buffer_limits(high=1, low=0)  # with 0, TLS counts an empty buffer as too full
        await self.drained()

    def close(self, *, is_reset: bool = False) -> None:
        """End the connection as a fault: orderly (FIN), or with a reset, which discards what was not read yet."""
        self.end("reset" if is_reset else "closed")
        self._is_deaf = True
        self._buffer.clear()
        if is_reset and not self.is_gone:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.is_gone = True
            self.transport.abort()
        else:
            self.hang_up()

    def hang_up(self) -> None:
        """Close after what was written, and listen to nothing more."""
        self._is_deaf = True
        if not self.is_gone:
            self.transport.close()

    def half_close(self) -> None:
        """Send our end and go on reading, to throw it away, until the other side has ended too."""
        self._is_deaf = True
        self._buffer.clear()
        if self.is_gone:
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS cannot half-close

    def close_later(self, after_s: float) -> None:
        """Close the idle connection unannounced after `after_s` seconds, unless a request comes before."""
        requests = self._requests

        def close() -> None:
            if not self.is_gone and self._requests == requests:
                self.transport.close()

        self._timer = self._loop.call_later(after_s, close)

    def stop(self) -> asyncio.Task[None] | None:
        """The provider stops: abort; returns the task to wait for."""
        self.end("stopped")
        if not self.is_gone:
            self.is_gone = True
            self.transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task


@dataclass(slots=True)
class _Request:
    """A request as it comes in."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    is_old: bool
    """HTTP/1.0."""
    wants_close: bool
    expects_100: bool
    length: int
    """Bytes of the body still to come; -1: chunked."""
    body: bytearray
    chunk_left: int = 0
    """In a chunked body: bytes of the chunk still to come; -1: the CRLF after it, -2: the trailers."""
    early: Fault | None = None
    bytes_per_s: int = 0
    echo: bytes | None = None

    def take(self, buffer: bytearray, bytes_max: int) -> bool:
        """Move bytes of the body from `buffer` to `body`; True when it is complete. Raises `BadRequest`."""
        if self.length >= 0:
            if self.length > bytes_max:
                raise BadRequest(413, "body too large")
            part = buffer[: self.length]
            self.body += part
            del buffer[: len(part)]
            self.length -= len(part)
            return self.length == 0
        while self._take_chunk(buffer):
            if len(self.body) > bytes_max:
                raise BadRequest(413, "body too large")
            if self.length == 0:
                return True
        return False

    def _take_chunk(self, buffer: bytearray) -> bool:
        """One step through a chunked body; False when more bytes are needed. Sets `length` to 0 at the end."""
        if self.chunk_left > 0:
            part = buffer[: self.chunk_left]
            self.body += part
            del buffer[: len(part)]
            self.chunk_left -= len(part)
            if self.chunk_left == 0:
                self.chunk_left = -1
            return bool(part)
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > HEAD_BYTES_MAX:
                raise BadRequest(400, "endless chunk line")
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        if self.chunk_left == -1:
            if line:
                raise BadRequest(400, "chunk longer than its size")
            self.chunk_left = 0
        elif self.chunk_left == -2:
            self.length = -1 if line else 0
        else:
            size = line.partition(b";")[0]
            if not _CHUNK_SIZE.fullmatch(size):
                raise BadRequest(400, "bad chunk size")
            self.chunk_left = int(size, 16) or -2
        return True


_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,15}")
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,65536}) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")


def _read_head(head: bytes) -> _Request:
    """Read request line and headers, strictly: what two parsers could read differently raises `BadRequest`."""
    first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
    start = _REQUEST_LINE.fullmatch(first)
    if start is None:
        raise BadRequest(400, "bad request line")
    pairs = []
    known: dict[bytes, bytes] = {}
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise BadRequest(400, "bad header line")
        name, value = field[1], field[2]
        pairs.append((name.decode(), value.decode("latin-1")))
        key = name.lower()
        if key in known and key in (b"content-length", b"transfer-encoding", b"host"):
            raise BadRequest(400, f"two {key.decode()} headers")
        known[key] = value
    length = known.get(b"content-length", b"0")
    encoding = known.get(b"transfer-encoding")
    if encoding is not None and (encoding.lower() != b"chunked" or b"content-length" in known):
        raise BadRequest(400, "ambiguous framing")
    if not length.isdigit() or len(length) > 15:
        raise BadRequest(400, "bad content-length")
    is_old = start[3] == b"0"
    return _Request(
        method=start[1].decode(),
        path=start[2].decode(),
        headers=tuple(pairs),
        is_old=is_old,
        wants_close=is_old or known.get(b"connection", b"").lower() == b"close",
        expects_100=known.get(b"expect", b"").lower() == b"100-continue",
        length=-1 if encoding is not None else int(length),
        body=bytearray(),
    )


# --- one answer ----------------------------------------------------------------------------------------------------


class _Coder:
    """Compresses a body, or only says so. `feed` flushes what it gets, so that every word can be read at once."""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if encoding == "gzip" else None
        self._is_rubbish = False

    def feed(self, data: bytes) -> bytes:
        if self._is_rubbish:
            return _RUBBISH
        if self._encoding == "br":
            return bytes(byte ^ 0xA5 for byte in data)
        if self._gzip is None or not data:
            return data
        return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)

    def damage(self) -> bytes:
        self._is_rubbish = True
        return _RUBBISH

    def finish(self) -> bytes:
        return self._gzip.flush() if self._gzip is not None and not self._is_rubbish else b""


class _Answer:
    """Writes one answer under a fault; `run` is the task of the attempt."""

    def __init__(self, connection: _Connection, request: _Request, asked: Asked, fault: Fault) -> None:
        self._connection = connection
        self._provider = connection.provider
        self._request = request
        self._asked = asked
        self._fault = fault
        self._n = connection.attempt.n if connection.attempt is not None else 0
        self._coder = _Coder(fault.encoding)
        self._unsent = b""
        """Head that waits for the first bytes of the body, to leave in one piece with them."""
        self._is_chunked = False

    async def run(self) -> None:
        connection = self._connection
        try:
            if self._fault.silence_s:
                await _sleep(self._fault.silence_s)
            if self._fault.reset or self._fault.close:
                connection.close(is_reset=self._fault.reset)
            elif self._fault.raw is not None:
                self._mark_first_byte(0)
                connection.write(self._fault.raw.encode("latin-1", "replace"))
                connection.end("complete")
                connection.hang_up()
            else:
                await self._respond()
        except asyncio.CancelledError:
            if connection.peer_left_at is None and not connection.is_gone:
                raise

    async def _respond(self) -> None:
        fault, connection = self._fault, self._connection
        status, content_type, steps = self._plan()
        framing = fault.framing or ("chunked" if content_type == _SSE or fault.bomb_bytes else "length")
        if framing in ("chunked", "both") and self._request.is_old:
            framing = "close"
        if fault.no_last_chunk:
            framing = "chunked"
        has_body = self._request.method != "HEAD" and not ((status < 200 or status in (204, 304)) and not steps)
        self._is_chunked = framing in ("chunked", "both") and has_body
        must_close = self._must_close(framing)
        for _ in range(fault.early_hints or 0):
            connection.write(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
        fields = self._fields(status, content_type, framing if has_body else "none", steps, must_close)
        line = fault.status_line if fault.status_line is not None else f"HTTP/1.1 {status} {_phrase(status)}"
        self._unsent = shapes.stamp(_head(line, fields, fault.raw_head or ""), self._n)
        self._mark_first_byte(status)
        if has_body and not await self._walk(steps):
            return
        await self._finish(must_close)

    def _plan(self) -> tuple[int, str, list[Step]]:
        """Status, content type and the steps of the body."""
        fault, asked = self._fault, self._asked
        say = say_of(fault, self._provider.name, self._provider.prompt_tokens)
        status = fault.status if fault.status is not None else 200
        if fault.is_error:
            return self._plan_error(say)
        if fault.body is not None:
            is_json = fault.body.lstrip()[:1] in ("{", "[")
            kind = _JSON if is_json else "text/plain; charset=utf-8"
            return status, kind, unary_steps(fault, fault.body.encode(), say)
        if fault.html_bytes is not None:
            return status, "text/html; charset=utf-8", unary_steps(fault, shapes.html(fault.html_bytes), say)
        is_stream = asked.stream and asked.api in shapes.STREAM_APIS
        if fault.empty in ("zero_bytes", "whitespace"):
            blank = b" \n\n \n" if fault.empty == "whitespace" else b""
            return status, _SSE if is_stream else _JSON, unary_steps(fault, blank, say)
        if status < 200 or status in (204, 304):
            return status, _JSON, []
        if is_stream:
            return status, _SSE, self._stream_steps(say)
        if fault.error_after_words is not None:
            return self._plan_error(say)
        if fault.big_body_bytes:
            say = replace(say, words=("x" * fault.big_body_bytes,))
        body = self._request.echo or shapes.unary(asked, say, self._provider.dialect)
        return status, _JSON, unary_steps(fault, body, say)

    def _plan_error(self, say: shapes.Say) -> tuple[int, str, list[Step]]:
        fault = self._fault
        family = shapes.family(self._asked.api, self._provider.dialect)
        in_stream = 200 if fault.error_after_words is not None else None  # asked for in one piece: a 200 all the same
        kind = fault.error or shapes.kind_of_status(fault.status or 503)
        status = fault.status or in_stream or shapes.error_status(family, kind)
        body = shapes.error(family, kind, status=status, code=fault.code, message=fault.message)
        return status, _JSON, unary_steps(fault, orjson.dumps(body), say, is_content=False)

    def _stream_steps(self, say: shapes.Say) -> list[Step]:
        """The steps of a stream; those of a healthy one are made once."""
        provider, asked = self._provider, self._asked
        if self._fault is not _HEALTHY:
            return stream_steps(self._fault, asked, say, provider.pause_s)
        key = (asked, provider.pause_s)
        steps = provider.healthy_steps.get(key)
        if steps is None:
            steps = stream_steps(_HEALTHY, asked, say, provider.pause_s)
            if len(provider.healthy_steps) < TEMPLATES_MAX:
                provider.healthy_steps[key] = steps
        return steps

    def _fields(
        self, status: int, content_type: str, framing: str, steps: list[Step], must_close: bool
    ) -> list[tuple[str, str]]:
        """The response headers, with whatever the fault puts among them."""
        fault = self._fault
        now = time.time() + (fault.date_skew_s or 0.0)
        fields = [("date", formatdate(now, usegmt=True))]
        fields += self._provider.headers(self._asked, status, is_stream=content_type == _SSE)
        fields = [(k, content_type if k == "content-type" else v) for k, v in fields]
        if fault.encoding is not None:
            fields.append(("content-encoding", "br" if fault.encoding == "br" else "gzip"))
        if framing in ("length", "both"):
            length = self._length(steps) + int(fault.length_off or 0)
            fields.append(("content-length", str(max(0, length))))
            if fault.two_lengths:
                fields.append(("content-length", str(max(0, length) + 7)))
        if framing in ("chunked", "both"):
            fields.append(("transfer-encoding", "chunked"))
        if framing == "close" or fault.connection_close or (must_close and self._request.wants_close):
            fields.append(("connection", "close"))
        if fault.retry_after_date_s is not None:
            fields.append(("retry-after", formatdate(now + fault.retry_after_date_s, usegmt=True)))
        if fault.spoof:
            fields += SPOOFED
        for name, values in fault.headers:
            fields = [(k, v) for k, v in fields if k.lower() != name.lower()]
            fields += [(name, value) for value in values]
        return fields

    def _length(self, steps: list[Step]) -> int:
        """Bytes that the whole body would have on the wire: the true Content-Length, also of a body that is cut."""
        whole = steps
        if self._fault.cut_after_words is not None or self._fault.cut_after_bytes is not None:
            uncut = replace(self._fault, cut_after_words=None, cut_after_bytes=None, cut=None)
            whole = _Answer(self._connection, self._request, self._asked, uncut)._plan()[2]
        coder = _Coder(self._fault.encoding)
        total = 0
        for step in whole:
            if isinstance(step, Send):
                total += len(coder.feed(shapes.stamp(step.data, self._n)))
            elif isinstance(step, Damage):
                total += len(coder.damage())
        return total + len(coder.finish())

    def _must_close(self, framing: str) -> bool:
        fault = self._fault
        is_short = framing == "length" and (fault.length_off or 0) > 0
        is_told = fault.connection_close or self._request.wants_close
        return framing == "close" or fault.no_last_chunk or is_short or is_told

    async def _walk(self, steps: list[Step]) -> bool:
        """Do the steps; False when one of them ended the connection."""
        for i, step in enumerate(steps):
            match step:
                case Send(data, is_word):
                    self._connection.words += is_word
                    if is_word and self._connection.words == 1:
                        self._connection.note(first_word_at=asyncio.get_running_loop().time())
                    await self._write(self._coder.feed(shapes.stamp(data, self._n)))
                    if i % _YIELD_EVERY == _YIELD_EVERY - 1:
                        await asyncio.sleep(0)
                case Wait():
                    self._flush_head()
                    await self._wait(step)
                case Damage():
                    await self._write(self._coder.damage())
                case Cut(is_reset):
                    self._flush_head()
                    await self._connection.flushed()
                    await asyncio.sleep(_SETTLE_S)
                    self._connection.close(is_reset=is_reset)
                    return False
                case End():
                    return True
        return True

    async def _wait(self, step: Wait) -> None:
        if not step.pieces:
            await _sleep(step.for_s)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + step.for_s
        said = 0
        while (left := until - loop.time()) > 0:
            await self._write(self._coder.feed(shapes.stamp(step.pieces[said % len(step.pieces)], self._n)))
            said += 1
            await _sleep(min(left, step.every_s))

    async def _write(self, data: bytes) -> None:
        """Write a piece of the encoded body in its framing, and wait while the other side takes no more."""
        if not data:
            return
        size = self._fault.split_bytes or len(data)
        for at in range(0, len(data), size):
            if at:
                await _sleep(self._fault.split_pause_s or 0.0)
            piece = data[at : at + size]
            head, self._unsent = self._unsent, b""
            self._connection.write(head + (_chunk(piece) if self._is_chunked else piece))
            await self._connection.drained()

    def _flush_head(self) -> None:
        if self._unsent:
            self._connection.write(self._unsent)
            self._unsent = b""

    async def _finish(self, must_close: bool) -> None:
        """The end of the body and what follows it."""
        fault, connection = self._fault, self._connection
        await self._write(self._coder.finish())
        self._flush_head()
        if self._is_chunked and not fault.no_last_chunk:
            connection.write(b"0\r\n\r\n")
        if fault.after_end is not None:
            connection.write(fault.after_end.encode("latin-1", "replace"))
        connection.end("complete")
        if fault.early_answer:
            connection.half_close()
        elif must_close:
            connection.hang_up()
        elif fault.close_idle_s is not None:
            connection.close_later(fault.close_idle_s)

    def _mark_first_byte(self, status: int) -> None:
        self._connection.note(status=status, first_byte_at=asyncio.get_running_loop().time())


async def _sleep(for_s: float) -> None:
    """Sleep; for ever when `for_s` is infinite."""
    if math.isinf(for_s):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(for_s)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _head(line: str, fields: Sequence[tuple[str, str]], raw: str = "") -> bytes:
    """A response head with its blank line; header names and values go out as they are, in Latin-1."""
    text = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{line}\r\n{text}{raw}\r\n".encode("latin-1", "replace")


# --- ports where nothing answers -----------------------------------------------------------------------------------


def dead_port() -> int:
    """Return a port of the loopback interface on which nobody listens: a connection is refused at once.

    It is taken from below the range that the kernel hands out (32768 and up), so that it stays dead.
    """
    for k in range(10_000):
        port = 20_000 + (os.getpid() * 37 + next(_dead) + k) % 10_000
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 29999")


def _count() -> Iterator[int]:
    n = 0
    while True:
        yield n
        n += 1


_dead = _count()


@contextlib.contextmanager
def mute_port() -> Iterator[int]:
    """A port that takes connections (the kernel does) and never says or reads anything: also a TLS handshake stalls."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        yield sock.getsockname()[1]


@contextlib.contextmanager
def clogged_port() -> Iterator[int]:
    """A port whose listen queue is full: a connection attempt gets no answer and hangs until its own time-out."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(sock.getsockname())
        yield sock.getsockname()[1]


# --- in a process of its own ---------------------------------------------------------------------------------------


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m proxy.demo.provider",
        description="A fake LLM provider that misbehaves on command (POST /_demo/fault).",
        epilog='example: curl -d \'{"status": 503, "for_s": 60}\' http://127.0.0.1:9001/_demo/fault',
    )
    parser.add_argument("--port", type=int, default=0, help="0 (default): any free one")
    parser.add_argument("--dialect", choices=shapes.DIALECTS, default="openai")
    parser.add_argument("--name", default="", help="default: the dialect's name")
    parser.add_argument("--pause-ms", type=float, default=15.0, help="between two words (default 15)")
    parser.add_argument("--burst", action="store_true", help="with --pause-ms 0: write a healthy stream at once")
    parser.add_argument("--no-log", action="store_true", help="keep no attempt log, for load tests")
    arguments = parser.parse_args(argv)
    if not (0 <= arguments.pause_ms < math.inf and 0 <= arguments.port <= 65_535):
        parser.error("--pause-ms must be a number >= 0, --port one from 0 to 65535")
    return arguments


async def serve(arguments: argparse.Namespace) -> None:
    """Run one provider until SIGTERM or SIGINT; its URL is the only line on standard output."""
    provider = FakeProvider(
        name=arguments.name,
        dialect=arguments.dialect,
        port=arguments.port,
        pause_s=arguments.pause_ms / 1000,
        burst=arguments.burst,
        keep_log=not arguments.no_log,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with provider:
        print(provider.url, flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(_arguments(None)))
