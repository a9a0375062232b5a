"""The callers of a world: bare protocols that send one request, read what comes, and sometimes leave or dawdle.

Each caller keeps its connections, as clients do, so that one request's end can spoil another's beginning. What a caller
has seen is written down and judged by nobody here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from proxy.sim.http import Answer, Reading
from proxy.sim.network import Network
from proxy.sim.scenario import TIMEOUT_S, WRITE_TIMEOUT_S, Ask, Leave, Scenario, Slow, Trouble
from proxy.sim.transport import End

PATHS: Final = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
MODEL: Final = "sim-model"
PATIENCE_S: Final = TIMEOUT_S + 4 * WRITE_TIMEOUT_S + 60.0
"""A caller that has no end by then was forgotten; generous, because the checks know the deadline itself."""
HOST: Final = "callers"
"""The name under which the weather between callers and proxy goes."""


@dataclass(slots=True)
class Seen:
    """What the caller of one request saw."""

    n: int
    sent_at: float
    answer: Answer | None = None
    is_reused: bool = False
    """It went out on a connection that had carried another request."""
    first_byte_at: float | None = None
    ended_at: float | None = None
    """The last byte of the answer, or the end of the connection; None: neither ever came."""
    closed: Literal["", "eof", "reset", "refused"] = ""
    """How the connection ended before the answer was whole; empty: it did not."""
    left_at: float | None = None
    fault: str = ""
    """What came that is no HTTP, or came after the end."""

    @property
    def has_left(self) -> bool:
        return self.left_at is not None


class Line(asyncio.Protocol):
    """One connection of a caller."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.transport = cast(End, None)
        self.is_open = False
        self.served = 0
        self._loop = asyncio.get_running_loop()
        self._seen: Seen | None = None
        self._over: asyncio.Future[None] | None = None
        self._pause_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(End, transport)
        self.is_open = True

    def send(self, request: bytes, seen: Seen, pause_s: float) -> asyncio.Future[None]:
        """Send `request`; the future is done when its answer, or the connection, is over."""
        self._seen, self._pause_s = seen, pause_s
        seen.is_reused = self.served > 0
        self.served += 1
        self._over = self._loop.create_future()
        if self.is_open:
            self.transport.write(request)
        else:
            self._ended("eof")
        return self._over

    def data_received(self, data: bytes) -> None:
        seen, before = self._seen, len(self.reading.answers)
        self.reading.feed(data)
        if seen is None:
            # Between two requests nothing may come.
            self.reading.fault = self.reading.fault or f"{len(data)} bytes that nobody asked for"
            return
        answer = self.reading.current
        if seen.first_byte_at is None:
            seen.first_byte_at = self._loop.time()
        if answer is not None and len(self.reading.answers) > before:
            seen.answer = answer
        seen.fault = seen.fault or self.reading.fault
        if len(self.reading.answers) > self.served:
            seen.fault = seen.fault or "more answers than requests"
        if seen.answer is not None and seen.answer.is_whole:
            if self.reading.extra:
                seen.fault = seen.fault or "bytes after the end"
            self._ended("")
        elif self._pause_s:
            self.transport.pause_reading()
            self._loop.call_later(self._pause_s, self._read_on)

    def _read_on(self) -> None:
        if self.is_open:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self._ended("eof")
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.is_open = False
        self._ended("reset" if exc is not None else "eof")

    def _ended(self, how: Literal["", "eof", "reset"]) -> None:
        seen, self._seen = self._seen, None
        if seen is not None:
            seen.ended_at, seen.closed = self._loop.time(), how
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def leave(self, how: str) -> None:
        """Go away in the middle."""
        seen = self._seen
        if seen is None:
            return
        seen.left_at = self._loop.time()
        if how == "half_close":
            self.transport.write_eof()
            return
        self._ended("eof")
        if how == "reset" and self.transport.socket is not None:
            self.transport.socket.is_cutting = True
        self.transport.abort()


class Callers:
    """All callers, and what they saw."""

    def __init__(
        self, scenario: Scenario, faults: Iterable[Trouble], network: Network, address: tuple[str, int]
    ) -> None:
        self._asks = scenario.asks
        self._network = network
        self._loop = network.loop
        self._address = address
        self._leaves: dict[int, Leave] = {}
        self._pauses: dict[int, float] = {}
        for fault in faults:
            if isinstance(fault, Leave):
                self._leaves[fault.n] = fault
            elif isinstance(fault, Slow):
                self._pauses[fault.n] = fault.pause_s
        self._idle: dict[int, list[Line]] = {}
        self._lines: list[Line] = []
        self.seen: list[Seen] = []
        self.leave_at_turn: tuple[int, int] | None = None
        """(request, turns of the loop after it was sent): that caller leaves then, between two callbacks."""
        self.turns: dict[int, tuple[int, int]] = {}
        """Turn of the loop at which each request was sent, and at which its answer was over."""

    async def run(self) -> None:
        """Send every request at its time and wait until all are over."""
        began = self._loop.time()
        async with asyncio.TaskGroup() as tasks:
            for ask in sorted(self._asks, key=lambda ask: (ask.at, ask.n)):
                await asyncio.sleep(max(0.0, began + ask.at - self._loop.time()))
                tasks.create_task(self._ask(ask))

    async def _ask(self, ask: Ask) -> None:
        seen = Seen(ask.n, self._loop.time())
        self.seen.append(seen)
        await self._exchange(ask, seen)
        if seen.is_reused and seen.first_byte_at is None and not seen.has_left and seen.closed:
            # The proxy closed a connection that was idle just as the request went out: every client tries again.
            again = Seen(ask.n, self._loop.time())
            self.seen[self.seen.index(seen)] = again
            for line in self._idle.pop(ask.caller, []):
                line.transport.abort()
            await self._exchange(ask, again)

    async def _exchange(self, ask: Ask, seen: Seen) -> None:
        try:
            line = await self._line(ask.caller)
        except OSError:
            seen.ended_at, seen.closed = self._loop.time(), "refused"
            return
        seen.sent_at = self._loop.time()
        self.turns[ask.n] = (self._loop.turns, self._loop.turns)
        leave, timer = self._leaves.get(ask.n), None
        over = line.send(request(ask), seen, self._pauses.get(ask.n, 0.0))
        if self.leave_at_turn is not None and self.leave_at_turn[0] == ask.n:
            self._loop.on_turn(self._loop.turns + self.leave_at_turn[1], lambda: line.leave("reset"))
        if leave is not None:
            timer = self._loop.call_later(leave.after_s, line.leave, leave.how)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await over
        except TimeoutError:
            line.transport.abort()
            return
        finally:
            if timer is not None:
                timer.cancel()
            self.turns[ask.n] = (self.turns[ask.n][0], self._loop.turns)
        if line.is_open and seen.answer is not None and seen.answer.keeps and not seen.fault and not seen.has_left:
            self._idle.setdefault(ask.caller, []).append(line)
        else:
            line.transport.close()

    async def _line(self, caller: int) -> Line:
        """A connection that is idle, or a new one."""
        idle = self._idle.get(caller, [])
        while idle:
            line = idle.pop()
            if line.is_open:
                return line
        sock = self._network.socket()
        await self._network.connect(sock, self._address, via=HOST)
        line = Line()
        await self._loop.create_connection(lambda: line, sock=sock)
        self._lines.append(line)
        return line

    def hang_up(self) -> None:
        """Close every connection that is open."""
        for line in self._lines:
            if line.is_open:
                line.transport.close()

    @property
    def unasked(self) -> list[str]:
        """What came on idle connections."""
        return [line.reading.fault for line in self._lines if line.reading.fault]


def request(ask: Ask) -> bytes:
    """The bytes of a request, its mark in the prompt."""
    prompt = f"ask-{ask.n}- say something"
    body: dict[str, Any] = {"model": MODEL, "stream": ask.stream}
    if ask.endpoint == "responses":
        body |= {"input": prompt, "store": False}
    else:
        body["messages"] = [{"role": "user", "content": prompt}]
    if ask.endpoint == "messages":
        body["max_tokens"] = 500
    content = json.dumps(body).encode()
    lines = [
        f"POST {PATHS[ask.endpoint]} HTTP/1.1",
        "Host: proxy.sim",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in ask.headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content
