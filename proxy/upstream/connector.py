"""Connections to one provider: a pool of idle wires, name look-up, TLS. The narrow seam to the network.

Each provider has its own `Connector`, so a provider that hangs cannot exhaust what another needs. Name look-ups run in
threads, one at a time per name, so that a resolver that does not answer for one provider holds one thread and nothing
of the others (`lessons.md` S27).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import aiohappyeyeballs

from proxy.upstream.wire import Wire

DNS_TTL_S: Final = 30.0
KEEPALIVE_S: Final = 30.0
"""Below what providers keep, so that a reused connection is rarely dead."""
IDLE_MAX: Final = 100

AddrInfo = tuple[Any, ...]
Lookup = Callable[[str, int], list[AddrInfo]]
"""Address infos of (host, port), as of `socket.getaddrinfo`; blocks."""
Start = Callable[[Callable[[], None], str], object]
"""Has work done elsewhere, for the host that is named."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a provider lives."""

    scheme: str
    host: str
    port: int
    path: str
    """Path of the base URL without a trailing slash; empty for none."""

    @classmethod
    def parse(cls, url: str) -> Origin:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


class Resolver:
    """Names to addresses, cached for `DNS_TTL_S`, never two look-ups of one name at once.

    The threads are daemons and no pool: the interpreter waits for a pool's threads when it ends, and a resolver that
    does not answer would keep a drained process alive for half a minute.
    """

    def __init__(self, clock: Callable[[], float], lookup: Lookup | None = None, start: Start | None = None) -> None:
        """`lookup` blocks until it has the address infos of (host, port), or raises OSError; None: the system's.

        `start`: where look-ups run; None: each in a thread of its own.
        """
        self._clock = clock
        self._lookup = lookup or _lookup
        self._start = start or _in_thread
        self._known: dict[tuple[str, int], tuple[float, list[AddrInfo]]] = {}
        self._running: dict[tuple[str, int], asyncio.Future[list[AddrInfo]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Address infos of `host`; `socket.gaierror` when it has none."""
        key = (host, port)
        cached = self._known.get(key)
        if cached is not None and self._clock() - cached[0] < DNS_TTL_S:
            return cached[1]
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_future()
            running.add_done_callback(lambda done: self._store(key, done))
            self._start(partial(self._look_up, host, port, running), host)
        return await asyncio.shield(running)

    def _look_up(self, host: str, port: int, answer: asyncio.Future[list[AddrInfo]]) -> None:
        """Runs where `start` has it run."""
        try:
            found = self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            self._tell(answer, answer.set_exception, error)
        else:
            self._tell(answer, answer.set_result, found)

    @staticmethod
    def _tell(answer: asyncio.Future[list[AddrInfo]], tell: Callable[[Any], None], what: object) -> None:
        """Hand `what` to the loop of `answer`, unless that has been closed meanwhile."""
        with suppress(RuntimeError):
            answer.get_loop().call_soon_threadsafe(lambda: None if answer.done() else tell(what))

    def _store(self, key: tuple[str, int], done: asyncio.Future[list[AddrInfo]]) -> None:
        self._running.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._known[key] = (self._clock(), done.result())

    def forget(self, host: str, port: int) -> None:
        """After a failed connect: the address may have moved."""
        self._known.pop((host, port), None)

    def close(self) -> None:
        """Nobody waits any more; what still runs is forgotten."""
        for running in tuple(self._running.values()):
            running.cancel()


def _in_thread(work: Callable[[], None], host: str) -> None:
    Thread(target=work, name=f"dns {host}", daemon=True).start()


def _lookup(host: str, port: int) -> list[AddrInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))


class Connector:
    """The pool of one provider. `opened` and `reused` count for the metrics."""

    def __init__(
        self, origin: Origin, resolver: Resolver, clock: Callable[[], float], tls: ssl.SSLContext | None = None
    ) -> None:
        self.origin = origin
        self._resolver = resolver
        self._clock = clock
        self._tls = tls if origin.scheme == "https" else None
        self._idle: deque[Wire] = deque()
        self._busy: set[Wire] = set()
        self._closed = False
        self.opened = 0
        self.reused = 0

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return len(self._busy)

    def acquire(self) -> Wire | None:
        """The most recently used idle connection, at once; None when a new one must be opened."""
        idle = self._idle
        oldest = self._clock() - KEEPALIVE_S
        while idle:
            wire = idle.pop()
            if wire.usable and not wire.transport.is_closing() and wire.idle_since > oldest:
                wire.reused = True
                wire.on_gone = None
                self.reused += 1
                self._busy.add(wire)
                return wire
            wire.on_gone = None
            wire.drop()
        return None

    async def open(self) -> Wire:
        """A fresh connection; OSError, ssl.SSLError or socket.gaierror when there is none to be had."""
        loop = asyncio.get_running_loop()
        origin = self.origin
        infos = await self._resolver.resolve(origin.host, origin.port)
        try:
            sock = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.25, interleave=1)
        except OSError:
            self._resolver.forget(origin.host, origin.port)
            raise
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, wire = await loop.create_connection(
                lambda: Wire(loop),
                sock=sock,
                ssl=self._tls,
                server_hostname=origin.host if self._tls is not None else None,
            )
        except BaseException:
            sock.close()
            raise
        self.opened += 1
        self._busy.add(wire)
        return wire

    def give_back(self, wire: Wire) -> None:
        """The exchange is over; keep the connection when it may serve another."""
        self._busy.discard(wire)
        if not wire.usable or wire.busy or self._closed or len(self._idle) >= IDLE_MAX:
            if wire.usable or not wire.transport.is_closing():
                wire.drop()
            return
        wire.idle_since = self._clock()
        wire.on_gone = self._forget
        self._idle.append(wire)

    def discard(self, wire: Wire) -> None:
        """The exchange was cut: the connection cannot be used again."""
        self._busy.discard(wire)
        wire.drop()

    def _forget(self, wire: Wire) -> None:
        try:
            self._idle.remove(wire)
        except ValueError:
            return

    def sweep(self) -> None:
        """Close what has been idle too long. Called now and then; nothing depends on when."""
        oldest = self._clock() - KEEPALIVE_S
        while self._idle and self._idle[0].idle_since <= oldest:
            wire = self._idle.popleft()
            wire.on_gone = None
            wire.drop()

    def retire(self) -> None:
        """Nobody begins here any more: idle connections are closed now, others when their exchange is over."""
        self._closed = True
        for wire in self._idle:
            wire.on_gone = None
            wire.drop()
        self._idle.clear()

    def close(self) -> None:
        self._closed = True
        for wire in (*self._idle, *self._busy):
            wire.on_gone = None
            wire.drop()
        self._idle.clear()


def tls_context(verify: bool = True, ca_file: str = "") -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, certificates verified unless the operator said otherwise for a test rig."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)  # beside the system's authorities, not in their place
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
