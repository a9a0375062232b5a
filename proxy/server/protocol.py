"""aiohttp's connection, with the gaps closed that matter to a proxy. The only file that knows aiohttp's private names.

aiohttp parses HTTP with llhttp in its strict mode, which is most of the work. What it leaves open, and this file adds:

* **A body that turns out to be malformed in a later segment than its head.** The parser's error is queued as if it were
  the next request, while the handler waits for a body that will never end. Here the error also becomes the exception of
  that body, so that the read ends and 400 goes out.
* **An error swallows the good requests before it in the same segment.** The connection remembers whether a segment
  began on a message boundary; if so, the segment is parsed again by a fresh parser, piece by piece, and each good
  request gets its answer before the bad one gets its 400.
* **A trailer field leaks into the next request**: the parser keeps the last trailer of a chunked body and gives it to
  the following request of the connection as its first header. After a chunked body that did not end in a bare
  ``0 CRLF CRLF`` the connection is therefore not used again (`spoilt`).
* **Bytes behind a request with ``Upgrade`` are lost** where they came in its segment, so that the rest of a request
  could be taken for another one. The connection is not used again after such a request either.
* **Slow heads.** A head that arrives in pieces starts one timer; a head that arrives whole costs nothing.
* **Too many connections** are told so and closed, instead of being queued in the kernel.
* **Refusals are JSON** in the caller's dialect, and the log has no traceback for each of them.

`Server.__call__` of aiohttp falls back to almost none of the settings when one of them has a wrong name; ours has no
such fallback, and `self_check` looks at a finished connection before the first caller does.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from aiohttp import web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo
from aiohttp.web_response import StreamResponse

if TYPE_CHECKING:
    from proxy.config.compiled import Listen

MAX_TARGET_BYTES: Final = 16 * 1024
"""Longest request target; a longer one is 414."""
MAX_HEADERS: Final = 128
"""Most header fields of a request, trailers included; more are 431."""
READ_BUFFER_BYTES: Final = 64 * 1024
"""Reading from the socket stops while twice this much of a body waits for its handler. It also bounds what one turn of
the loop does for one connection: with 256 KiB small calls waited 65 to 100 ms beside twenty bodies of 8 MiB, with 64
KiB less than 50 (S36)."""

LINGER_S: Final = 0.5
LINGER_BYTES: Final = 256 * 1024
"""After a refusal so much more is thrown away: an answer is lost when its reader still sends and meets a reset."""

_BLANK: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"(\s*)([A-Z][A-Z-]{1,19}) (/[!->@-~]{0,512})")


class Gate(Protocol):
    """What a connection asks the door: how a refusal looks that is sent before there is a request."""

    def refusal(self, status: int, code: str, message: str, *, path: str = "") -> bytes:
        """The bytes of a complete refusal with ``Connection: close``; counts it."""
        ...

    def refusal_reply(self, connection: Connection, status: int, code: str, message: str, path: str) -> StreamResponse:
        """The same as an answer to a request that could not be parsed."""
        ...

    async def __call__(self, request: web.BaseRequest) -> StreamResponse: ...


class DataServer(web.Server):
    """The protocol factory of one port; `active`, `draining` and `connections` are its whole state."""

    def __init__(
        self,
        gate: Gate,
        listen: Listen,
        clock: Callable[[], float],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(
            cast("Callable[[web.BaseRequest], Awaitable[StreamResponse]]", gate),
            handler_cancellation=True,
            loop=loop,
            keepalive_timeout=listen.keepalive_timeout_s,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=listen.max_header_kb * 1024,
            max_headers=MAX_HEADERS,
            lingering_time=0.0,
            read_bufsize=READ_BUFFER_BYTES,
        )
        self.gate = gate
        self.clock = clock
        self.head_timeout_s = listen.head_timeout_s
        self.max_header_bytes = listen.max_header_kb * 1024
        self.max_connections = listen.max_connections
        self.draining = False
        """Answers say ``Connection: close`` from now on."""
        self.active = 0
        """Requests between their head and the last byte of their answer."""
        self.left_at = float("-inf")
        """Clock at which a connection was closed last."""
        self.idle = asyncio.Event()
        """Set while `active` is 0 and somebody drains."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def close_idle(self) -> None:
        """Close every connection on which no request runs or waits."""
        for connection in cast("list[Connection]", self.connections):
            if connection.is_idle:
                connection.force_close()

    def cancel_requests(self) -> None:
        """Cancel what still runs; each request gets the chance to say a last word."""
        for connection in cast("list[Connection]", self.connections):
            if connection._task_handler is not None:
                connection._task_handler.cancel()


class Connection(RequestHandler):
    """One connection of a caller."""

    __slots__ = (
        "_body_chunked",
        "_clean",
        "_deaf",
        "_head_since",
        "_head_timer",
        "_lingering",
        "_newest",
        "_ours",
        "_partial",
        "_partial_size",
        "_replayed",
        "_seen",
        "_tail",
        "_thrown",
        "head_at",
        "high_water",
        "server",
        "spoilt",
    )

    def __init__(self, server: DataServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.server = server
        self.head_at = 0.0
        """Clock at which the newest head was complete."""
        self.high_water = 64 * 1024
        """Write buffer at which `writing_paused` becomes true; 64 KiB is asyncio's own default."""
        self.spoilt = False
        """The connection must not carry another request."""
        self._newest: StreamReader = EMPTY_PAYLOAD
        self._body_chunked = False
        self._tail = b""
        self._clean = True
        self._partial = b""
        self._partial_size = 0
        self._head_since = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._deaf = False
        self._thrown = 0
        self._lingering: asyncio.Future[None] | None = None
        self._ours = False
        self._replayed = False
        self._seen = ("", "")

    @property
    def is_idle(self) -> bool:
        """No request runs, waits or has just been taken from the queue."""
        waiting = self._waiter is not None and not self._waiter.done()
        return not self._messages and (waiting or not self._request_count)

    @property
    def request(self) -> web.BaseRequest:
        """The request that is being answered, for an answer that is aiohttp's own."""
        if self._current_request is None:
            raise RuntimeError("no request runs on this connection")
        return self._current_request

    # Arrival and departure --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        if server.connection_count >= server.max_connections:
            self._force_close = self._deaf = True
            refusal = server.gate.refusal(503, "too_many_connections", "too many connections are open; try again")
            cast(asyncio.Transport, transport).write(refusal)
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.server.left_at = self.server.clock()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._ours:
            # We closed it ourselves: the request goes on to its end and only its caller is gone.
            self._task_handler = None
        super().connection_lost(exc)
        self._newest = EMPTY_PAYLOAD  # it points back here, and must not wait for the cycle collector

    def close_now(self) -> None:
        """Close after what is already written, without cancelling the request that runs."""
        self._ours = True
        self.force_close()

    def reset(self) -> None:
        """Close with a reset, dropping what is not sent yet: the only way to say "cut" without framing."""
        transport, self._ours = self.transport, True
        self._force_close = True
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Linger on, for no time: the kernel then ends the connection with RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def abort_if_stuck(self, after_s: float) -> None:
        """A closing connection whose peer does not read would stay for ever: cut it when the time is over."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            self._loop.call_later(after_s, transport.abort)

    async def linger(self) -> None:
        """Half-close and throw away what still comes, for a moment, so that the answer is read before a reset."""
        self._deaf = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        self._resume_transport_reading()
        self._lingering = self._loop.create_future()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._lingering
        except TimeoutError:
            pass

    async def drained(self) -> None:
        """Wait until the write buffer is low. Raises ConnectionError when the caller has gone."""
        if self._drain_waiter is not None and self._drain_waiter.cancelled():
            # Left behind by a wait that ran out of time; waiting on it again would look like our own cancellation.
            self._drain_waiter = None
        await self._drain_helper()

    # Parsing ----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._payload_parser is not None:
            super().data_received(data)
        elif self._deaf:
            self._thrown += len(data)
            if self._thrown > LINGER_BYTES and self._lingering is not None and not self._lingering.done():
                self._lingering.set_result(None)
        elif not self._upgraded:
            # Bytes behind an Upgrade request are nobody's until the upgrade was granted.
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        body, count, queued = self._newest, self._request_count, len(self._messages)
        in_body = not body.is_eof()
        read_before = body.total_bytes if in_body else 0
        self._parse(data)
        new = self._request_count - count
        if new:
            newest, payload = self._messages[-1]
            if isinstance(newest, _ErrInfo):
                self._fail(data, in_body)
                return
            # Had the body before it a trailer, it has leaked into the new request.
            self.spoilt |= in_body and self._body_chunked
            self._newest = payload
            self._after_heads(data, queued)
        elif in_body:
            self._after_body(data, read_before)
        elif data:
            self._after_partial_head(data)

    def _parse(self, data: bytes) -> None:
        """`super().data_received`, which knows only the parser's own exceptions."""
        try:
            super().data_received(data)
        except Exception as exc:
            self._queue_error(_ErrInfo(status=400, exc=exc, message="malformed request"))

    def _queue_error(self, error: _ErrInfo) -> None:
        self._request_count += 1
        self._messages.append((error, EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _after_heads(self, data: bytes, queued: int) -> None:
        """One or more heads are complete: note the time, and whether the segment ended on a message boundary."""
        self.head_at = self.server.clock()
        self._head_since = 0.0
        newest, body, rest = cast(RawRequestMessage, self._messages[-1][0]), self._newest, b""
        if any(getattr(message, "upgrade", False) for message, _ in list(self._messages)[queued:]):
            # The parser loses what follows within the segment: half of a request, and its rest would look like one.
            self.spoilt = True
        alone = len(self._messages) - queued == 1
        if not alone and any(getattr(message, "chunked", True) for message, _ in list(self._messages)[queued:-1]):
            # A trailer before a pipelined request has already leaked into it.
            self.spoilt = True
        self._body_chunked = newest.chunked
        if self._body_chunked:
            self._chunked_progress(self._partial + data)
        elif body is EMPTY_PAYLOAD:
            self._clean = data.endswith(_BLANK)
            if not self._clean:
                _, found, rest = (self._partial + data).rpartition(_BLANK)
                rest = rest if found else b""
        elif body.is_eof():
            whole = self._partial + data if self._partial else data
            end = whole.find(_BLANK) + 4 + body.total_bytes
            rest = whole[end:] if self._clean and alone else b""
            self._clean = self._clean and alone and end == len(whole)
        else:
            self._clean = False
        self._partial, self._partial_size = b"", 0
        if rest:
            self._after_partial_head(rest)

    def _after_body(self, data: bytes, read_before: int) -> None:
        if self._body_chunked:
            self._chunked_progress(data)
        elif self._newest.is_eof():
            self._clean = self._newest.total_bytes - read_before == len(data)

    def _chunked_progress(self, data: bytes) -> None:
        self._tail = (self._tail + data[-7:])[-7:]
        self._clean = self._newest.is_eof() and self._tail == _LAST_CHUNK
        if self._newest.is_eof() and not self._clean:
            self.spoilt = True

    def _after_partial_head(self, data: bytes) -> None:
        """A head has begun and is not complete: the clock runs, and its bytes are counted."""
        if self._buffer_paused:
            # The parser has stopped because enough requests wait: these are whole requests, not parts of one.
            self._clean = False
            return
        self._partial_size += len(data)
        if self._partial_size > self.server.max_header_bytes + MAX_TARGET_BYTES:
            self._queue_error(_ErrInfo(status=431, exc=LineTooLong(b"", 0), message="head too large"))
            self._deaf = self.spoilt = True
            return
        if self._clean:
            self._partial += data
        if not self._head_since and not data.strip(b"\r\n"):
            return  # line ends between two requests begin no head
        if not self._head_since:
            self._head_since = self._loop.time()
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self.server.head_timeout_s, self._check_head)

    def _check_head(self) -> None:
        """At most one of these is pending per connection; it re-arms itself while there is something to watch."""
        self._head_timer = None
        if not self._head_since or self.transport is None:
            return
        left = self._head_since + self.server.head_timeout_s - self._loop.time()
        if self._request_in_progress or self._messages:
            left = self.server.head_timeout_s
        if left > 0:
            self._head_timer = self._loop.call_later(left, self._check_head)
            return
        self._deaf = True
        _, path = _sniff(self._partial)
        self.transport.write(
            self.server.gate.refusal(408, "head_timeout", "the request's head did not arrive in time", path=path)
        )
        self.force_close()

    # Failure ----------------------------------------------------------------------------------------------------------

    def _fail(self, data: bytes, in_body: bool) -> None:
        """The parser gave up within `data`, and its error waits at the end of the queue."""
        whole = self._partial + data
        if self._clean and not in_body and not self._replayed and _BLANK in whole:
            refused = self._messages.pop()
            self._request_count -= 1
            self._replay(whole)
            if not self._messages:
                self._messages.append(refused)
            return
        if in_body and self._body_chunked and self._newest.is_eof():
            self.spoilt = True  # a trailer of the body may have leaked into the request that was refused
        self._deaf = True
        self._seen = _sniff(whole)
        if not self._newest.is_eof():
            error = self._messages[-1][0]
            self._newest.set_exception(RequestPayloadError(getattr(error, "message", "")))
            # A reader that was just woken by the end of a chunk looks only for data or the end: give it the end, and
            # the door looks for the exception.
            self._newest.feed_eof()

    def _replay(self, data: bytes) -> None:
        """Parse again from a message boundary, in pieces that end with each head and each counted body."""
        self._replayed = True
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )
        self._partial, self._partial_size, self._newest, self._tail = b"", 0, EMPTY_PAYLOAD, b""
        while data and not self._deaf:
            if self._newest.is_eof() or self._body_chunked:
                cut = data.find(_BLANK) + 4 if _BLANK in data else len(data)
            else:
                cut = self._body_left()
            piece, data = data[:cut], data[cut:]
            self._feed(piece)

    def _body_left(self) -> int:
        message = cast(RawRequestMessage, self._messages[-1][0])
        length = message.headers.get("Content-Length", "")
        return max(1, int(length) - self._newest.total_bytes) if length.isascii() and length.isdigit() else 1

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """The answer to what the parser refused. aiohttp's own would be plain text, with a traceback in the log."""
        method, path = self._seen
        status, code, text = _explain(status, exc, method)
        return self.server.gate.refusal_reply(self, status, code, text, path)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Only reached when the door itself fails; the callers' mistakes never come here."""
        self.logger.error(*args, **kw)


def _sniff(head: bytes) -> tuple[str, str]:
    """Method and path of a head that may be malformed, for the shape of its refusal; empty when there are none. What
    stands behind a space is no method."""
    match = _REQUEST_LINE.match(head)
    if match is None:
        return "", ""
    return "" if match[1].strip(b"\r\n") else match[2].decode(), match[3].decode()


def _explain(status: int, exc: BaseException | None, method: str) -> tuple[int, str, str]:
    """Status, code and text of a parser's refusal. The parser's own text quotes the caller's bytes: it is not used."""
    if status == 431:
        return 431, "header_too_large", "the request's head is too large"
    if isinstance(exc, LineTooLong):
        if len(exc.args) > 1 and exc.args[1] == MAX_TARGET_BYTES:
            return 414, "target_too_long", f"the request target has more than {MAX_TARGET_BYTES} bytes"
        return 431, "header_too_large", "a header field is too large"
    if isinstance(exc, InvalidURLError):
        return 400, "invalid_target", "the request target is not a valid path"
    if isinstance(exc, BadHttpMethod):
        if method:
            return 501, "method_not_implemented", "the request's method is not known"
        return 400, "invalid_request_line", "the request line is malformed"
    reason = exc.message if isinstance(exc, HttpProcessingError) else ""
    if reason == "Too many headers received":
        return 431, "too_many_headers", f"the request has more than {MAX_HEADERS} header fields"
    reason = reason.partition(":")[0].partition("\n")[0].strip()
    if not re.fullmatch(r"[A-Za-z`][A-Za-z0-9 `'/-]{3,80}", reason):
        reason = "it is not valid HTTP/1.1"
    return 400, "invalid_request_framing", f"the request was refused: {reason}"


def self_check(server: DataServer) -> None:
    """Raise RuntimeError when aiohttp did not take a setting, or has lost a name that this file relies on."""
    probe = server()
    wanted = {
        "_keepalive_timeout": server._kwargs["keepalive_timeout"],
        "_lingering_time": 0.0,
        "_read_bufsize": READ_BUFFER_BYTES,
        "max_line_size": MAX_TARGET_BYTES,
        "max_field_size": server.max_header_bytes,
        "max_headers": MAX_HEADERS,
        "access_logger": None,
        "_paused": False,
        "_deaf": False,
        "_close": False,
        "_force_close": False,
        "_upgraded": False,
        "_payload_parser": None,
        "_waiter": None,
        "_task_handler": None,
        "_request_in_progress": False,
        "_request_count": 0,
        "_current_request": None,
    }
    for name, value in wanted.items():
        if getattr(probe, name, "missing") != value:
            raise RuntimeError(f"aiohttp: {name} is {getattr(probe, name, 'missing')!r}, {value!r} was set")
    for name in ("_messages", "_drain_helper", "_max_msg_queue_size", "_parser"):
        if not hasattr(probe, name):
            raise RuntimeError(f"aiohttp: RequestHandler has no {name} any more")
    if not server.handler_cancellation:
        raise RuntimeError("aiohttp: handler_cancellation was not taken")
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        # The pure Python parser is far more lenient than llhttp.
        raise RuntimeError("aiohttp runs without its C extensions; their strict HTTP parser is required")
