"""The running process between raw sockets: callers that write exact bytes, and upstreams that keep every byte they get.

A `Lane` is a provider of its own. One case at a time runs on a lane, so that what arrived upstream belongs to it, and
many lanes run side by side. Everything a test does is blocking, which is what lets Hypothesis drive it; the process and
its upstreams live on an event loop in a thread.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from tests.e2e.harness import Sidecar, config
from tests.fuzz import strict

T = TypeVar("T")
K = TypeVar("K")

ANSWER = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."}}]}'
)
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
PATIENCE_S = 10.0
"""Longer than every limit of the stage together: a caller that waits so long has been forgotten."""
LIMITS = {"head_timeout_s": 1.5, "body_timeout_s": 1.5, "keepalive_timeout_s": 3.0}
"""Long enough for a head that comes byte by byte on a busy machine.

The idle limit is well above the others, or a head that stops would be taken for an idle connection."""


class Lane:
    """A provider that records what it gets, byte for byte, and answers each request it can read with `answer`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.server: asyncio.Server
        self.connections: list[bytearray] = []
        """Every byte, by connection."""
        self.transports: list[asyncio.Transport] = []
        self.answer: tuple[Sequence[bytes], bool] | None = None
        """Raw pieces to answer with, and whether to close behind them; None: an ordinary answer."""

    async def start(self) -> None:
        self.server = await asyncio.get_running_loop().create_server(lambda: _Upstream(self), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def taken(self) -> list[bytes]:
        """What has come since the last call, by connection; connections without news are left out."""
        found = [bytes(data) for data in self.connections if data]
        for data in self.connections:
            data.clear()
        return found


class _Upstream(asyncio.Protocol):
    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._seen = bytearray()
        self._record = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._lane.transports.append(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lane.connections.append(self._record)

    def data_received(self, data: bytes) -> None:
        self._record += data
        self._seen += data
        found = strict.read(bytes(self._seen))
        for message in found.messages:
            self._say(message)
        if found.ends:
            del self._seen[: found.ends[-1]]

    def _say(self, message: strict.Message) -> None:
        assert self._transport is not None
        if self._lane.answer is None:
            self._transport.write(WHOLE + (ANSWER if message.method != "HEAD" else b""))
            return
        pieces, closes = self._lane.answer
        for piece in pieces:
            self._transport.write(piece)
        if closes:
            self._transport.close()


class Heard:
    """What a caller got back on one connection."""

    def __init__(self, raw: bytes, took_s: float, closed: bool) -> None:
        self.raw = raw
        self.took_s = took_s
        self.closed = closed
        """The server closed in the end; False: it was still open when patience ran out."""

    @property
    def statuses(self) -> list[int]:
        """Of every answer, interim ones left out."""
        return [int(code) for code in re.findall(rb"(?:^|(?<=[\n}]))HTTP/1\.1 (\d{3}) ", self.raw) if code[:1] != b"1"]

    @property
    def codes(self) -> list[str]:
        """Reasons of our refusals, in order."""
        return [code.decode() for code in re.findall(rb'"code":\s?"(\w+)"', self.raw)]


class Stage:
    """One process and its lanes; `across` runs a function over many cases, a lane each."""

    def __init__(self, folder: Path, lanes: int, dialects: Sequence[str] = ("openai",), **over: Any) -> None:
        """`dialects` of the lanes, in turn; `over` as in `harness.config`."""
        self._folder = folder
        self._dialects = dialects
        self._over = over
        self.lanes = [Lane(f"p{n}") for n in range(lanes)]
        self.sidecar: Sidecar
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def do(self, work: Any) -> Any:
        """Run a coroutine on the stage's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> None:
        for lane in self.lanes:
            await lane.start()
        tree = config({lane.name: "" for lane in self.lanes}, **self._over)
        tree["listen"] |= LIMITS
        for n, lane in enumerate(self.lanes):
            dialect = self._dialects[n % len(self._dialects)]
            tree["providers"][lane.name] |= {"base_url": f"http://127.0.0.1:{lane.port}", "dialect": dialect}
        self.sidecar = await Sidecar(tree, self._folder).__aenter__()
        self.port = self.sidecar.data_port

    async def _close(self) -> None:
        await self.sidecar.__aexit__(None, None, None)
        for lane in self.lanes:
            lane.server.close()
            for transport in lane.transports:
                transport.abort()

    def __enter__(self) -> Stage:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def across(self, work: Callable[[Lane, K], T], cases: Sequence[K], most: int | None = None) -> list[T]:
        """`work` over all cases, each with a lane that is its own meanwhile; results in the order of the cases.

        `most`: so many at the same time, at most; None: as many as there are lanes.
        """
        lanes = self.lanes[:most]
        free: Queue[Lane] = Queue()
        for lane in lanes:
            free.put(lane)

        def one(case: K) -> T:
            lane = free.get()
            try:
                return work(lane, case)
            finally:
                free.put(lane)

        with ThreadPoolExecutor(len(lanes)) as pool:
            return list(pool.map(one, cases))

    def throw(self, pieces: Sequence[bytes]) -> Heard:
        """Write the pieces, then listen until the server closes.

        Each piece is a segment of its own; the kernel may still hand two of them over together, which is a cut as good
        as any. Exact cuts without a socket are in tests/conformance/test_chunked_bodies.py.
        """
        began, got, closed = time.monotonic(), bytearray(), False
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(PATIENCE_S)
            with suppress(ConnectionError):
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(0)  # another thread's turn, or the server's
            try:
                while piece := sock.recv(65_536):
                    got += piece
                closed = True
            except ConnectionError:
                closed = True
            except TimeoutError:
                pass
        return Heard(bytes(got), time.monotonic() - began, closed)

    def ordinary(self, lane: Lane) -> None:
        """An ordinary request on a new connection gets its answer, and the upstream exactly that request."""
        lane.answer = None
        lane.taken()
        heard = self.throw([b"GET /%b/after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % lane.name.encode()])
        assert heard.statuses == [200], heard.raw[:300]
        assert heard.raw.endswith(ANSWER)
        said = [strict.read(data) for data in lane.taken()]
        assert [[message.target for message in each.messages] for each in said] == [["/after"]], said
        assert not any(each.breach for each in said)

    def sound(self) -> None:
        """The process lives, holds nothing and has not failed inside."""
        assert self.sidecar.process.returncode is None
        status = self.do(_settled(self.sidecar))
        assert status["requests_active"] == 0
        assert status["observer_failures"] == 0
        faults = [line for line in self.sidecar.lines if line["msg"] == "raw" or "failed inside" in str(line)]
        assert not faults, faults[:20]


async def _settled(sidecar: Sidecar) -> dict[str, Any]:
    """The status once no request runs any more, or after two seconds."""
    until = time.monotonic() + 2.0
    while (status := await sidecar.status())["requests_active"] and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return status


@contextmanager
def stage(folder: Path, lanes: int = 32, dialects: Sequence[str] = ("openai",), **over: Any) -> Iterator[Stage]:
    """A stage without second attempts, so that one request is one call upstream."""
    defaults = {"retry": {"max_retries": 0}, "hedging": {"rescue_after_s": 0}, "failover": {"enabled": False}}
    with Stage(folder, lanes, dialects, defaults=defaults, **over) as made:
        yield made
        made.sound()
