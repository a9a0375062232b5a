"""Many streams at once: what a crowd of slow streams costs one core in time, memory and delay.

    python -m tests.bench.crowd --streams 5000 --target openai,anthropic

Every stream gets `EVENTS_PER_S` events a second, spread evenly, and every event carries the microsecond at which the
mock wrote it; the caller, in the same process and on the same clock, takes the difference. The same crowd is measured
straight at the mock first: load and mock have a delay of their own, and what counts is what the candidate adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.bench import foreign
from tests.bench.candidates import Candidate, Cores, Running, outrider, relay, start, translating_config
from tests.bench.load import Job
from tests.bench.upstream import Connection, Pacer, events

EVENTS_PER_S = 10
SLOTS = 50
"""Streams are spread over so many turns of a tenth of a second."""
BATCH = 25
"""Streams opened at the same time unless told otherwise: a crowd does not arrive within a millisecond."""
OPEN_LIMIT_S = 60.0
SETTLE_S = 1.0
"""Between the first content of the last stream and the measurement, at the most; never longer than that."""

_STAMP = re.compile(rb"w(\d{16})x")
_MARK = "w0000000000000000x"
_TEXT = _MARK.ljust(26, "y")


def now_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A stream of one dialect in pieces: what comes first, the event around the stamp, and the end."""

    first: bytes
    before: bytes
    after: bytes
    last: bytes


def script(dialect: str) -> Script:
    """Chunked, each event in a chunk of its own; the stamp does not change a length."""
    if dialect == "openai":
        said, kind = list(events("crowd-1", [_TEXT])), "text/event-stream; charset=utf-8"
    else:
        said, kind = foreign.stream(dialect, "crowd-1", [_TEXT]), foreign.STREAM_TYPES[dialect]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in said]
    at = next(i for i, chunk in enumerate(chunks) if _MARK.encode() in chunk)
    before, _, after = chunks[at].partition(_MARK.encode())
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return Script(
        first=head + b"".join(chunks[:at]),
        before=before + b"w",
        after=b"x" + after,
        last=b"".join(chunks[at + 1 :]) + b"0\r\n\r\n",
    )


class Crowd(Pacer):
    """The mock's side: all open streams, and when each gets its next event."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[Stream, None]] = [{} for _ in range(SLOTS)]
        self._next = 0
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._scripts: dict[str, Script] = {}
        self.sent = 0
        self.open = 0

    def script(self, dialect: str) -> Script:
        found = self._scripts.get(dialect)
        if found is None:
            found = self._scripts[dialect] = script(dialect)
        return found

    def add(self, stream: Stream) -> None:
        self._rows[self.open % SLOTS][stream] = None
        self.open += 1
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time()
            self._handle = loop.call_soon(self._turn)  # type: ignore[assignment]

    def leave(self, connection: Connection) -> None:
        for row in self._rows:
            if row.pop(cast(Stream, connection), 0) is None:
                self.open -= 1

    def end(self) -> None:
        """The proper end of every stream."""
        for row in self._rows:
            for stream in row:
                stream.transport.write(stream.script.last)
            row.clear()
        self.open = 0

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        """One slot; a late turn is made up for, since the rate is what is promised."""
        loop = asyncio.get_running_loop()
        row = self._rows[self._next]
        self._next = (self._next + 1) % SLOTS
        for stream in row:
            said = stream.script
            stream.transport.write(b"%b%016d%b" % (said.before, now_us(), said.after))
        self.sent += len(row)
        self._due += 1 / EVENTS_PER_S / SLOTS
        self._handle = loop.call_at(self._due, self._turn)


class Stream(Connection):
    """The mock's side of one connection."""

    script: Script

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(crowd)
        self._crowd = crowd

    def _answer(self, dialect: str, model: re.Match[bytes] | None, group: int) -> None:
        if model is None or not model[group].startswith(b"crowd"):
            super()._answer(dialect, model, group)
            return
        self.script = self._crowd.script(dialect)
        self.transport.write(self.script.first)
        self._crowd.add(self)


class Listener(asyncio.Protocol):
    """One caller: asks once, then notes for every stamp how old it is."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self._request = request
        self._seen = seen
        self._tail = b""
        self._welcome = False
        """The answer has begun with a 200."""
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        """The proper end has come."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = now_us()
        if self._tail:
            data = self._tail + data
        ends = data.rfind(b"\n") + 1
        self._tail = data[ends:]
        seen = self._seen
        for stamp in _STAMP.findall(data, 0, ends):
            at = int(stamp)
            seen.count += 1
            if seen.since_us <= at < seen.until_us:
                seen.delays_us.append(now - at)
        if not self.first.done():
            if not self._welcome and not data.startswith(b"HTTP/1.1 200 "):
                self.first.set_exception(AssertionError(f"answered {data[:300]!r}"))
                return
            self._welcome = True
            if _STAMP.search(data, 0, ends):
                self.first.set_result(None)
        if b"data: [DONE]" in data:
            self.ended = True
            seen.ended += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.first.done():
            self.first.set_exception(AssertionError("the connection was closed before the first event"))


@dataclass(slots=True)
class Seen:
    """What all callers together have seen."""

    delays_us: array[int]
    since_us: int = 1 << 62
    until_us: int = 1 << 62
    count: int = 0
    ended: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One measurement."""

    streams: int
    events: int
    """Events whose delay was taken."""
    lost: int
    """Events written that no caller got."""
    unfinished: int
    """Streams without their proper end."""
    delays_ms: dict[str, float]
    """Quantiles of the delay by name: p50, p99, p999, max."""
    per_stream_kb: float
    """Resident memory that one open stream costs, in units of 1000 bytes; 0 for the direct way."""
    left_mb: float
    """Resident memory above that at the beginning, after all have gone, in units of 10^6 bytes."""
    busy: float
    """Share of a core that the candidate used."""
    load_busy: float
    """Share of a core that load and mock used; near 1, they and not the candidate are the limit."""
    per_event_us: float
    """CPU of the candidate per event."""

    def line(self, name: str) -> str:
        delays = "  ".join(f"{key} {value:.1f}" for key, value in self.delays_ms.items())
        return (
            f"{name:<24}{self.streams:>6} streams  delay in ms: {delays}"
            f"  core {self.busy:.2f} (load {self.load_busy:.2f})  {self.per_event_us:.1f} us/event"
            f"  {self.per_stream_kb:.1f} kB/stream  left {self.left_mb:+.1f} MB"
            f"  lost {self.lost}  unfinished {self.unfinished}"
        )


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[int, Crowd]]:
    """The mock and its port."""
    crowd = Crowd()
    server = await asyncio.get_running_loop().create_server(
        lambda: Stream(crowd), "127.0.0.1", 0, backlog=4096, reuse_address=True
    )
    async with server:
        try:
            yield server.sockets[0].getsockname()[1], crowd
        finally:
            crowd.close()


def request(target: str) -> bytes:
    """What a caller sends; the mock's script is told by the model's name."""
    wire = b"".join(Job(model="stream-1", target=target).request())
    head, _, body = wire.replace(b'"stream-1"', b'"crowd-1"').partition(b"\r\n\r\n")
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body


async def measure(
    crowd: Crowd,
    port: int,
    streams: int,
    seconds: float,
    target: str,
    running: Running | None = None,
    together: int = BATCH,
) -> Found:
    """Open `streams`, watch them for `seconds`, end them; `running` None: the way straight to the mock.

    Raises AssertionError when a stream does not come about.
    """
    seen = Seen(array("q"))
    asked = request(target)
    before_mb = running.rss_mb() if running is not None else 0.0
    sent_before = crowd.sent
    listeners = await opened(port, streams, asked, seen, together)
    await asyncio.sleep(min(SETTLE_S, seconds))
    cpu_s = running.cpu_s() if running is not None else 0.0
    load_s, began, counted = time.process_time(), time.monotonic(), crowd.sent
    seen.since_us = now_us()
    seen.until_us = seen.since_us + int(seconds * 1e6)
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    cpu_s = (running.cpu_s() if running is not None else 0.0) - cpu_s
    load_s = time.process_time() - load_s
    events = crowd.sent - counted
    held_mb = running.rss_mb() if running is not None else 0.0
    crowd.end()
    sent = crowd.sent - sent_before
    give_up = time.monotonic() + 10.0
    while (seen.ended < streams or seen.count < sent) and time.monotonic() < give_up:
        await asyncio.sleep(0.02)
    for listener in listeners:
        listener.transport.abort()
    await asyncio.sleep(min(0.3, seconds / 4))
    after_mb = running.rss_mb() if running is not None else 0.0
    delays = sorted(seen.delays_us)
    return Found(
        streams=streams,
        events=len(delays),
        lost=sent - seen.count,
        unfinished=streams - seen.ended,
        delays_ms={name: rank(delays, share) / 1000 for name, share in QUANTILES.items()},
        per_stream_kb=(held_mb - before_mb) * 1000 / streams,
        left_mb=after_mb - before_mb,
        busy=cpu_s / took,
        load_busy=load_s / took,
        per_event_us=cpu_s / max(1, events) * 1e6,
    )


QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}


def rank(ordered: list[int], share: float) -> int:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


async def opened(port: int, streams: int, asked: bytes, seen: Seen, together: int) -> list[Listener]:
    """So many streams that have shown content, `together` at a time."""
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []
    async with asyncio.timeout(OPEN_LIMIT_S):
        while len(listeners) < streams:
            batch = [
                (await loop.create_connection(lambda: Listener(asked, seen), "127.0.0.1", port))[1]
                for _ in range(min(together, streams - len(listeners)))
            ]
            listeners += batch
            await asyncio.gather(*(listener.first for listener in batch))
    return listeners


async def compare(
    streams: int, seconds: float, targets: list[str], folder: Path, cores: Cores, with_relay: bool = True
) -> dict[str, Found | str]:
    """The direct way, the bare relay and the proxy with each of `targets`, one after the other; a text says why there
    is no measurement."""
    found: dict[str, Found | str] = {}
    async with stage() as (mock, crowd):
        found["direct"] = await measure(crowd, mock, streams, seconds, "")
        candidates: list[tuple[str, Candidate, str]] = [("relay", relay("uvloop"), "")] if with_relay else []
        candidates += [(f"outrider, {target}", outrider(config=translating_config), target) for target in targets]
        for number, (name, candidate, target) in enumerate(candidates):
            own = folder / str(number)
            own.mkdir()
            running = await start(candidate, mock, own, cores)
            try:
                await measure(crowd, running.port, min(50, streams), 0.5, target, running)  # first-use imports, caches
                found[name] = await measure(crowd, running.port, streams, seconds, target, running)
            except (AssertionError, OSError) as error:  # TimeoutError is an OSError
                found[name] = f"{name}: {type(error).__name__} {error}"
            finally:
                await running.stop()
    return found


def main() -> int:
    from tests.bench.run import raise_file_limit

    parser = argparse.ArgumentParser(prog="tests.bench.crowd", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--target", default="openai,anthropic", help="dialects, with commas")
    parser.add_argument("--no-relay", action="store_true", help="without the bare relay")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    asked = parser.parse_args()
    raise_file_limit()
    cores = Cores.of_this_machine()
    with cores.spawning():
        pass  # Leaving it moves this process to its own core.
    with (
        tempfile.TemporaryDirectory(prefix="outrider-crowd-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(
            compare(asked.streams, asked.seconds, asked.target.split(","), Path(folder), cores, not asked.no_relay)
        )
    for name, each in found.items():
        print(each if isinstance(each, str) else each.line(name))
    if asked.json:
        told = {name: each if isinstance(each, str) else asdict(each) for name, each in found.items()}
        Path(asked.json).write_text(json.dumps(told, indent=1))
    ours = [each for name, each in found.items() if name.startswith("outrider")]
    return 1 if any(isinstance(each, str) or each.lost or each.unfinished for each in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
