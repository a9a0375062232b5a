"""`GET /v1/health/stream`: what changes, as it changes, over WebSocket or Server-Sent Events.

The first event is always a `snapshot`, which is the whole of `GET /v1/health`; then come the events that the reader has
missed since the number that it names (`Last-Event-ID`, or `?since=`), then every new one. So whoever reads the stream
from its first event on knows the present, and whoever comes back knows what it missed, or is told that some of it is no
longer in memory (`missed` in the snapshot).

Readers cannot hold anybody up. Each has a short queue of its own; one that does not take its events is dropped, and
finds what it missed when it comes back. There are `health.max_subscribers` of them at most.

WebSocket is aiohttp's own, reader and writer, over our connection: see `Connection.upgrade`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from proxy.base.exchange import Inbound, WriteTimeout
from proxy.observe.entry import Entry, iso, to_json
from proxy.observe.journal import Journal
from proxy.observe.turns import Turns
from proxy.server.reply import Reply
from proxy.server.status import Query, Wrong

HEARTBEAT_S: Final = 15.0
QUEUE_MAX: Final = 256
"""Events that wait for one reader."""
BUFFER_BYTES: Final = 64 * 1024
"""Written and not yet taken by a reader; more makes its events wait."""
SINCE_MAX: Final = 2**53
MESSAGE_MAX: Final = 4096
"""Bytes of a message that a reader sends; what it says is not looked at."""

NAMES: Final[Mapping[str, str]] = {
    **{kind: kind for kind in ("provider_down", "provider_degraded", "provider_recovered")},
    "circuit": "circuit_changed",
    **{kind: kind for kind in ("degraded_entered", "degraded_left")},
    **{kind: kind for kind in ("incident_opened", "incident_updated", "incident_resolved")},
    **{kind: kind for kind in ("maintenance_started", "maintenance_ended")},
}
"""Kind of an entry -> name of the event; others are not told here."""


class Told(NamedTuple):
    """An event, made once for all readers."""

    id: int
    name: str
    json: bytes


class Reader:
    """One subscriber's queue."""

    __slots__ = ("_drop", "_waiter", "begins_at", "is_slow", "queue")

    def __init__(self, drop: Callable[[], None], begins_at: int) -> None:
        """`drop` cuts its connection; `begins_at`: number of the last event that it is not told in its queue."""
        self._drop = drop
        self.begins_at = begins_at
        self.queue: deque[Told] = deque()
        self.is_slow = False
        """It did not take its events, and its connection is cut."""
        self._waiter: asyncio.Future[None] | None = None

    def put(self, told: Told) -> None:
        """An event for this reader; one whose queue is full is dropped."""
        if self.is_slow:
            return
        if len(self.queue) < QUEUE_MAX:
            self.queue.append(told)
        else:
            self.is_slow = True
            self.queue.clear()
            self._drop()
        self.wake()

    def wake(self) -> None:
        """Let `wait` return."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Until something has come, for `timeout_s` at most; whether something has."""
        if self.queue or self.is_slow:
            return True
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """How a reader begins."""

    snapshot: bytes
    """JSON without the bracket at its beginning, the same for all who come within a second."""
    id: int
    """Number that the snapshot stands for: what comes behind it is newer."""
    missed: list[Entry]
    has_missed: bool
    """Some of what it missed is no longer in memory."""


class HealthStream:
    """All readers of the stream."""

    def __init__(
        self,
        journal: Journal,
        snapshot: Callable[[], Awaitable[tuple[bytes, int]]],
        incident_of: Callable[[str], str],
        wall: Callable[[], float],
        max_subscribers: int,
    ) -> None:
        """`snapshot`: as JSON, with the number of the last event before it. `incident_of`: id of the open incident of a
        provider, empty for none."""
        self.max_subscribers = max_subscribers
        self._journal = journal
        self._snapshot = snapshot
        self._incident_of = incident_of
        self._wall = wall
        self._readers: set[Reader] = set()
        self._closing = False
        self.dropped: Counter[str] = Counter(slow=0, refused=0)
        """Readers that were dropped because they were slow, or refused because there were too many."""
        journal.listen(self._heard)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def close(self) -> None:
        """Say good-bye to every reader: the process leaves."""
        self._closing = True
        for reader in self._readers:
            reader.wake()

    def _heard(self, entry: Entry) -> None:
        if entry.kind in NAMES and self._readers:
            told = self._told(entry)
            for reader in self._readers:
                reader.put(told)

    # Serving ----------------------------------------------------------------------------------------------------------

    async def serve(self, inbound: Inbound, reply: Reply) -> None:
        """The route."""
        query = Query(inbound)
        since = query.whole("since", 0, 0, SINCE_MAX)
        query.finish()
        told = _header(inbound, b"last-event-id")
        if told.isascii() and told.isdigit() and len(told) < 17:
            since = max(since, int(told))
        if self._closing:
            raise Wrong(503, "shutting_down", "the proxy is shutting down", (("Retry-After", "1"),))
        if len(self._readers) >= self.max_subscribers:
            self.dropped["refused"] += 1
            message = f"there are {self.max_subscribers} readers (health.max_subscribers); try again later"
            raise Wrong(503, "too_many_subscribers", message, (("Retry-After", "15"),))
        reader = Reader(reply.connection.reset, self._journal.last_id)
        self._readers.add(reader)
        try:
            if _header(inbound, b"upgrade").lower() == "websocket":
                await self._web_socket(inbound, reply, reader, since)
            else:
                await self._events(reply, reader, since)
        except WriteTimeout:
            reader.is_slow = True
            raise
        finally:
            self._readers.discard(reader)
            self.dropped["slow"] += reader.is_slow

    async def _begin(self, since: int, begins_at: int) -> Begin:
        """`begins_at`: number of the last event before the reader's queue, which has all that came after it."""
        journal = self._journal
        # A number that is still to come was given by another process (a replica behind one address), or before the
        # clock went back: nobody here knows what followed it.
        is_strange = since > begins_at
        snapshot, made_at = await self._snapshot()
        # One that was made for another reader a moment ago does not know what has happened since, even if this one
        # does: it must not have the last word.
        id = min(made_at, begins_at, since if since and not is_strange else begins_at)
        has_missed = is_strange or (id < begins_at and id + 1 < journal.oldest_id)
        missed = [entry for entry in journal.recent(id) if entry.kind in NAMES and entry.id <= begins_at]
        return Begin(snapshot=snapshot, id=id, missed=missed, has_missed=has_missed)

    def _told(self, entry: Entry) -> Told:
        """An entry as an event; what its kind has of its own stands beside the rest."""
        shown = to_json(entry)
        detail = shown.pop("detail", {})
        event = {"event": NAMES[entry.kind], **shown, **detail}
        if entry.kind.startswith("provider_"):
            event["incident"] = self._incident_of(entry.provider) or None
        return Told(entry.id, event["event"], _json(event))

    # Server-Sent Events -----------------------------------------------------------------------------------------------

    async def _events(self, reply: Reply, reader: Reader, since: int) -> None:
        headers = [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
            ("Incremental", "?1"),
        ]
        reply.pace(write_timeout_s=HEARTBEAT_S, buffer_bytes=BUFFER_BYTES)
        await reply.begin(200, headers)
        begin = await self._begin(since, reader.begins_at)
        await reply.write(b'id: %d\nevent: snapshot\ndata: {"missed":%b,' % (begin.id, _json(begin.has_missed)))
        await reply.write(begin.snapshot)
        await reply.write(b"\n\n")
        missed, turns = begin.missed, Turns()
        del begin  # half a megabyte, with many targets, and this reader may stay for days
        for entry in missed:
            told = self._told(entry)
            await reply.write(_sse(told.name, told.json, told.id))
            await turns.pause()
        while True:
            has_come = await reader.wait(HEARTBEAT_S)
            if self._closing:
                await reply.end()
                return
            if reader.is_slow:
                return
            if not has_come:
                await reply.write(_sse("heartbeat", _json({"at": iso(self._wall())}), None))
            while reader.queue:
                told = reader.queue.popleft()
                await reply.write(_sse(told.name, told.json, told.id))

    # WebSocket --------------------------------------------------------------------------------------------------------

    async def _web_socket(self, inbound: Inbound, reply: Reply, reader: Reader, since: int) -> None:
        origin = _header(inbound, b"origin")
        if origin and origin.partition("://")[2].lower() != _header(inbound, b"host").lower():
            # Browsers let any page open a WebSocket to any host, without the checks that keep it from reading answers.
            raise Wrong(403, "foreign_origin", "a page of another origin may not read this stream")
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=MESSAGE_MAX, timeout=1.0, writer_limit=BUFFER_BYTES, heartbeat=HEARTBEAT_S
        )
        socket.headers["Server"] = "outrider"  # else it names aiohttp and Python with their versions
        try:
            await reply.upgrade(socket)
        except web.HTTPBadRequest as error:
            raise Wrong(
                400, "invalid_handshake", (error.text or "the WebSocket handshake is malformed")[:200]
            ) from None
        listening = asyncio.get_running_loop().create_task(_until_closed(socket, reader))
        try:
            await self._feed(socket, reader, since, listening)
        except TimeoutError:
            reply.connection.reset()
            raise WriteTimeout(f"the reader took nothing for {HEARTBEAT_S:g} s") from None
        finally:
            listening.cancel()

    async def _feed(
        self,
        socket: web.WebSocketResponse,
        reader: Reader,
        since: int,
        listening: asyncio.Task[None],
    ) -> None:
        begin = await self._begin(since, reader.begins_at)
        await _send(socket, _first(begin))
        missed, turns = begin.missed, Turns()
        del begin
        for entry in missed:
            await _send(socket, self._told(entry).json)
            await turns.pause()
        while not listening.done():
            has_come = await reader.wait(HEARTBEAT_S)
            if self._closing:
                await socket.close(code=WSCloseCode.GOING_AWAY)
                return
            if reader.is_slow:
                return
            if not has_come:
                await _send(socket, _json({"event": "heartbeat", "at": iso(self._wall())}))
            while reader.queue:
                await _send(socket, reader.queue.popleft().json)


async def _send(socket: web.WebSocketResponse, event: bytes) -> None:
    async with asyncio.timeout(HEARTBEAT_S):
        await socket.send_str(event.decode())


async def _until_closed(socket: web.WebSocketResponse, reader: Reader) -> None:
    """Read what the reader says, which answers its pings and sees its good-bye."""
    while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
        pass
    reader.wake()


def _json(event: Mapping[str, Any] | bool) -> bytes:
    return orjson.dumps(event, default=str)


def _first(begin: Begin) -> bytes:
    """The first event of a WebSocket."""
    return b'{"event":"snapshot","id":%d,"missed":%b,%b' % (begin.id, _json(begin.has_missed), begin.snapshot)


def _sse(event: str, data: bytes, id: int | None) -> bytes:
    number = b"" if id is None else b"id: %d\n" % id
    return b"%bevent: %b\ndata: %b\n\n" % (number, event.encode(), data)


def _header(inbound: Inbound, name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in inbound.headers if key.lower() == name), "")
