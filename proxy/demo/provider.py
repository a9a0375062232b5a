"""A fake LLM provider that misbehaves on command: the upstream of `outrider demo` and of the black-box tests.

It speaks HTTP/1.1 over a bare asyncio transport, not through a server library, because a library would refuse to send
most of what we must send: two lengths, half a chunk, a reset between two words. Correct by default; what is wrong is
said by a `Fault` (`proxy.demo.script`), which becomes a list of steps before the first byte is written.

A `Connection` reads, an `Answer` writes. Here is what outlives both: the port, the faults that are due, the attempt log
(tests wait on the log, never on time) and the healthy answers, built once, so that the provider can stand behind a
load test.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import socket
import ssl as tls
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, Final

import orjson

from proxy.demo import shapes
from proxy.demo.answer import DATE, JSON, TEMPLATES_MAX, Answer, chunk, response_head, stream_type
from proxy.demo.asked import Asked, Dialect
from proxy.demo.connection import READ_BYTES, Connection
from proxy.demo.ports import clogged_port, dead_port, mute_port
from proxy.demo.request import HEAD_BYTES_MAX, BadRequest
from proxy.demo.script import Attempt, Fault, FaultError, script_from_json
from proxy.demo.steps import Step, say_of

__all__ = [
    "HEAD_BYTES_MAX",
    "LOG_MAX",
    "TEMPLATES_MAX",
    "BadRequest",
    "FakeProvider",
    "Hook",
    "clogged_port",
    "dead_port",
    "mute_port",
    "serve",
]

LOG_MAX: Final = 50_000
"""Attempts kept in the log; older ones are forgotten."""

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
        self._connections: set[Connection] = set()
        self._log: dict[int, Attempt] = {}
        self._script: deque[_Entry] = deque()
        self._default: Fault | None = None
        self._default_since = 0.0
        self._changed: asyncio.Event | None = None
        self._crashes: list[BaseException] = []
        self._templates: dict[tuple[Asked, bool], bytes] = {}
        self._date = (0, b"")
        self.healthy_steps: dict[tuple[Asked, float], list[Step]] = {}
        self.read_buffer = memoryview(bytearray(READ_BYTES))

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
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, ssl=self._ssl, backlog=1024)
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

    def opened(self, connection: Connection) -> int:
        """Take a connection in; returns its number."""
        self._connections.add(connection)
        self.connections_total += 1
        self.changed()
        return self.connections_total

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.changed()

    def begin(self, answer: Answer) -> asyncio.Task[None]:
        """Start an answer. Its connection keeps it and cancels it when it closes; `stop` waits for it."""
        return asyncio.get_running_loop().create_task(answer.run())

    @property
    def crashes(self) -> tuple[BaseException, ...]:
        """What answers and hooks died of."""
        return tuple(self._crashes)

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
        """Whole healthy answer, head and all, as a template: stamp it and put the date in the place of `DATE`."""
        if (kept := self._templates.get((asked, is_stream))) is not None:
            return kept
        say = say_of(None, self.name, self.prompt_tokens)
        if is_stream:
            body = b"".join(chunk(event.data) for event in shapes.stream(asked, say)) + b"0\r\n\r\n"
            fields = [*self.headers(asked, 200, is_stream=True), ("transfer-encoding", "chunked")]
        else:
            body = shapes.unary(asked, say, self.dialect)
            fields = [*self.headers(asked, 200, is_stream=False), ("content-length", str(len(body)))]
        answer = response_head("HTTP/1.1 200 OK", [("date", DATE.decode()), *fields]) + body
        if len(self._templates) < TEMPLATES_MAX:
            self._templates[asked, is_stream] = answer
        return answer

    def headers(self, asked: Asked, status: int, *, is_stream: bool) -> list[tuple[str, str]]:
        """Response headers but for date and framing; a template."""
        fields = [("content-type", stream_type(asked) if is_stream else JSON), ("x-provider", self.name)]
        if is_stream:
            fields.append(("cache-control", "no-cache"))
        family = shapes.family(asked, self.dialect)
        fields.append((_REQUEST_ID.get(family, "x-request-id"), f"req_{self.name}_{shapes.ID.decode()}"))
        if family == "azure":
            fields += [("apim-request-id", f"apim_{shapes.ID.decode()}"), ("x-ms-region", "Demo")]
        if self.ratelimit_headers:
            fields += _RATELIMIT[family]
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
    "azure": [("x-ratelimit-remaining-requests", "9999"), ("x-ratelimit-remaining-tokens", "1999900")],
    "gemini": [],
    "bedrock": [],
}
_REQUEST_ID: Final[dict[Dialect, str]] = {"anthropic": "request-id", "bedrock": "x-amzn-requestid"}


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
