"""The door: what a request must be before an inner room sees it, and the reading of its body.

Rule of the house: nothing ambiguous gets in. llhttp has already refused what no grammar allows; here goes what two
parsers could read differently (`http.md`): any framing but one plain length or one plain ``chunked``, target forms that
resolve to another path, bytes above ASCII in headers, names that a CGI-minded server would fold into framing fields.
A refusal always closes the connection: after it nobody can be sure where the next request would begin.

Bodies are read whole, because every body that is accepted must be replayable on another target. Three limits guard
that: the size of one, the bytes held by all together, and time. Time is counted twice: no pause longer than
`body_timeout_s`, and no average below 1 KiB/s after that grace, since a byte a second is a pause in disguise.

The hot path is the body that has arrived with its head: it is taken from the buffer without a timer or a task switch.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from proxy.base.exchange import Inbound, Sink, WriteTimeout
from proxy.dialects.errors import Dialect, caller_dialect, problem
from proxy.server.pages import REBOUND, is_from_here, is_our_port, page_fault
from proxy.server.protocol import MAX_TARGET_BYTES, Connection, DataServer, self_check
from proxy.server.reply import Reply, render_head

if TYPE_CHECKING:
    from proxy.config.compiled import Listen

log = logging.getLogger("outrider.server")

Serve = Callable[[Inbound, Sink], Awaitable[None]]

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MIN_BODY_RATE: Final = 1024
"""Bytes per second below which a body counts as stalled, on average over the whole body."""
COPIED_BYTES: Final = 256 * 1024
"""A body up to this size is copied into bytes once it is whole."""
DEFAULT_HELD_BYTES: Final = 256 * 1024 * 1024

_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_TARGET: Final = re.compile(r"[!\"$-\[\]-~]+")
"""Visible ASCII without ``#`` and the backslash."""
_DOTS: Final = re.compile(r"/(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)", re.IGNORECASE)
_ABSOLUTE: Final = re.compile(r"https?://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")
_TEXT: Final = bytes([9, *range(0x20, 0x7F)])
_FRAMING_LOOKALIKES: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"connection"})
_NOT_FOR_CONNECTION: Final = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
    }
)
_SINGLE: Final = ("Authorization", "x-api-key", "api-key", "x-goog-api-key", "Content-Encoding")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refused(Exception):
    """The request stops here; its connection is closed after the answer."""

    def __init__(self, status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """Machine-readable reason, also the label of the counter."""
        self.headers = headers


class HeldBytes:
    """The bytes that all requests together hold; shared by everyone who holds some."""

    __slots__ = ("cap", "held")

    def __init__(self, cap: int = DEFAULT_HELD_BYTES) -> None:
        self.cap = cap
        """Most bytes held at one time, > 0."""
        self.held = 0

    def try_take(self, size: int) -> bool:
        """Reserve `size` bytes (>= 0); False, and nothing reserved, when the cap would be passed."""
        if self.held + size > self.cap:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        self.held -= size


# Checks of the head, pure ---------------------------------------------------------------------------------------------


def check_head(
    method: str,
    target: str,
    version: tuple[int, int],
    headers: CIMultiDictProxy[str],
    raw: tuple[tuple[bytes, bytes], ...],
    *,
    max_header_bytes: int,
    max_body_bytes: int,
) -> tuple[str, str]:
    """Raw path and query of a parsed head that may come in. Raises `Refused` for any other."""
    if version not in ((1, 1), (1, 0)):
        raise Refused(505, "unsupported_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method not in METHODS:
        allow = (("Allow", ", ".join(METHODS)),)
        raise Refused(405, "method_not_allowed", f"the method {method} is not allowed", allow)
    _check_bytes(raw, max_header_bytes)
    _check_host(headers.get(hdrs.HOST), version)
    if hdrs.CONNECTION in headers:
        _check_connection(headers)
    for name in _SINGLE:
        if name in headers and len(headers.getall(name)) > 1:
            raise Refused(400, "duplicate_header", f"{name} may be sent only once")
    _check_framing(headers, version, max_body_bytes)
    return check_target(method, target, headers.get(hdrs.HOST, ""))


def _check_bytes(raw: tuple[tuple[bytes, bytes], ...], max_header_bytes: int) -> None:
    flat = b"".join(chain.from_iterable(raw))
    if len(flat) + 4 * len(raw) > max_header_bytes:
        raise Refused(431, "header_too_large", f"the header fields have more than {max_header_bytes} bytes together")
    if flat.translate(None, _TEXT):
        name = next(name for name, value in raw if (name + value).translate(None, _TEXT))
        told = name.decode("ascii", "replace")
        raise Refused(
            400, "invalid_header_value", f"the value of the header {told} holds a control character or a non-ASCII byte"
        )
    if b"_" in flat:
        for name, _ in raw:
            if b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING_LOOKALIKES:
                raise Refused(
                    400, "ambiguous_header", f"the header name {name.decode('ascii', 'replace')} is ambiguous"
                )


def _check_host(host: str | None, version: tuple[int, int]) -> None:
    if host is None and version == (1, 0):
        return
    if host is None or _HOST.fullmatch(host) is None:
        raise Refused(400, "invalid_host", "the Host header is missing or malformed")


def _check_connection(headers: CIMultiDictProxy[str]) -> None:
    for line in headers.getall(hdrs.CONNECTION):
        for token in line.split(","):
            name = token.strip().lower()
            if name in _NOT_FOR_CONNECTION:
                raise Refused(400, "invalid_connection_header", f"Connection may not name {name}")


def _check_framing(headers: CIMultiDictProxy[str], version: tuple[int, int], max_body_bytes: int) -> None:
    coding, length = headers.get(hdrs.TRANSFER_ENCODING), headers.get(hdrs.CONTENT_LENGTH)
    if coding is not None:
        if length is not None or coding.lower() != "chunked" or version != (1, 1):
            raise Refused(
                400, "invalid_request_framing", "Transfer-Encoding must be chunked, alone, and on HTTP/1.1 only"
            )
        return
    if length is None:
        return
    if _LENGTH.fullmatch(length) is None:
        raise Refused(400, "invalid_request_framing", "Content-Length is not a plain decimal number")
    if int(length) > max_body_bytes:
        raise _too_large(max_body_bytes)


def check_target(method: str, target: str, host: str) -> tuple[str, str]:
    """Raw path and query of a request target: origin form, absolute form (its authority must be `host`), or ``*``."""
    if len(target) > MAX_TARGET_BYTES:
        raise Refused(414, "target_too_long", f"the request target has more than {MAX_TARGET_BYTES} bytes")
    if target == "*" and method == "OPTIONS":
        return "*", ""
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or absolute[1].lower() != host.lower() or not host:
            raise Refused(400, "invalid_target", "the request target is neither a path nor a URL of this host")
        target = (absolute[2] or "/") + (absolute[3] or "")
    if _TARGET.fullmatch(target) is None:
        raise Refused(400, "invalid_target", "the request target holds a character that a URL may not hold")
    path, _, query = target.partition("?")
    if ("." in path or "%" in path) and _DOTS.search(path) is not None:
        raise Refused(400, "invalid_target", "the path holds a dot segment")
    return path, query


def check_expect(headers: CIMultiDictProxy[str], version: tuple[int, int]) -> bool:
    """Whether the caller waits for 100 Continue. Raises `Refused` (417) for any other expectation."""
    if hdrs.EXPECT not in headers or version == (1, 0):
        return False
    if [value.strip().lower() for value in headers.getall(hdrs.EXPECT)] != ["100-continue"]:
        raise Refused(417, "expectation_failed", "the only expectation met here is 100-continue")
    return True


def _too_large(max_body_bytes: int) -> Refused:
    return Refused(413, "body_too_large", f"the body has more than {max_body_bytes} bytes")


# The door itself ------------------------------------------------------------------------------------------------------


class Door:
    """The handler of one port: checks the head, reads the body, calls `serve`, and ends the answer in every case."""

    def __init__(
        self,
        serve: Callable[[Inbound, Reply], Awaitable[None]],
        listen: Listen,
        ids: Callable[[], str],
        on_refused: Callable[[str], None],
        *,
        held: HeldBytes,
        dialect_of: Callable[[str], Dialect],
        is_open: Callable[[], bool],
        write_timeout_s: float,
        buffer_bytes: int,
    ) -> None:
        self._serve = serve
        self._ids = ids
        self._on_refused = on_refused
        self._held = held
        self._dialect_of = dialect_of
        self._is_open = is_open
        self._write_timeout_s = write_timeout_s
        self._buffer_bytes = buffer_bytes
        self._max_header_bytes = listen.max_header_kb * 1024
        self._max_body_bytes = listen.max_body_mb * 1024 * 1024
        self._body_timeout_s = listen.body_timeout_s

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        server = connection.server
        server.active += 1
        reply = Reply(
            connection,
            head_request=request.method == "HEAD",
            http10=request.version == (1, 0),
            keep=request.keep_alive,
            write_timeout_s=self._write_timeout_s,
            buffer_bytes=self._buffer_bytes,
            on_dropped=self._count_dropped,
        )
        try:
            await self._admit(request, connection, reply)
        finally:
            server.active -= 1
            if server.draining and not server.active:
                server.idle.set()
        return cast(web.StreamResponse, reply)

    async def _admit(self, request: web.BaseRequest, connection: Connection, reply: Reply) -> None:
        accepted_at, content = connection.head_at, request.content
        taken = [0]
        try:
            path, query = check_head(
                request.method,
                request.raw_path,
                request.version,
                request.headers,
                request.raw_headers,
                max_header_bytes=self._max_header_bytes,
                max_body_bytes=self._max_body_bytes,
            )
            if (fault := page_fault(request.method, request.headers)) and self._is_page(fault, request, connection):
                raise Refused(403, "foreign_page", fault)
            waits = check_expect(request.headers, request.version)
            if path == "*":
                connection.spoilt |= not content.is_eof()
                reply.send(204, [("Allow", ", ".join(METHODS))], b"")
                return
            if content.is_eof():
                body = self._take_buffered(content, taken)
            else:
                if waits and connection.transport is not None:
                    connection.transport.write(_CONTINUE)
                body = await self._read_body(content, taken)
            inbound = Inbound(
                request_id=self._ids(),
                method=request.method,
                path=path,
                query=query,
                headers=request.raw_headers,
                body=body,
                accepted_at=accepted_at,
            )
            await self._run(inbound, reply)
        except Refused as no:
            self._refuse(no, request, connection, reply)
        finally:
            self._held.give(taken[0])

    def _is_page(self, fault: str, request: web.BaseRequest, connection: Connection) -> bool:
        """Whether a fault of `page_fault` is one here: the port is open to its host, and it is its host that calls."""
        transport = connection.transport
        if not self._is_open() or not is_from_here(transport):
            return False
        return fault is not REBOUND or is_our_port(request.headers.get(hdrs.HOST, ""), transport)

    async def _run(self, inbound: Inbound, reply: Reply) -> None:
        """The outermost border: whatever happens inside, the caller gets one answer or a cut connection."""
        try:
            await self._serve(inbound, reply)
        except asyncio.CancelledError:
            # Either the caller has gone, and nothing goes out, or we leave: then say so.
            if not reply.started:
                self._send_problem(inbound, reply, 503, "shutting_down", "the proxy is shutting down; try again")
            raise
        except ConnectionError:
            reply.abort()
        except WriteTimeout:
            reply.abort()
            self._on_refused("write_timeout")
        except Exception:
            log.exception("request %s failed inside the proxy", inbound.request_id)
        if not reply.started:
            self._send_problem(inbound, reply, 500, "proxy_internal_error", "the proxy failed to serve the request")
        elif not reply.finished:
            reply.abort()

    def _send_problem(self, inbound: Inbound, reply: Reply, status: int, code: str, message: str) -> None:
        retry = (("Retry-After", "1"), ("x-should-retry", "true")) if status == 503 else ()
        dialect = self._dialect_of(inbound.path)
        answer = problem(dialect, status, code=code, message=message, request_id=inbound.request_id, headers=retry)
        try:
            reply.send(*answer)
        except ConnectionError:
            reply.abort()

    # Body -------------------------------------------------------------------------------------------------------------

    def _take_buffered(self, content: StreamReader, taken: list[int]) -> bytes:
        if content.exception() is not None:
            raise _malformed()
        body = content.read_nowait()
        if body:
            self._take(len(body), len(body), taken)
        return body

    def _take(self, size: int, total: int, taken: list[int]) -> None:
        if total > self._max_body_bytes:
            raise _too_large(self._max_body_bytes)
        if not self._held.try_take(size):
            wait = (("Retry-After", "1"), ("retry-after-ms", "1000"), ("x-should-retry", "true"))
            raise Refused(503, "too_many_bytes_held", "too many request bodies are held at the moment", wait)
        taken[0] += size

    async def _read_body(self, content: StreamReader, taken: list[int]) -> bytes:
        """The rest of a body that is still arriving. `taken` counts what was reserved, also when this raises.

        It grows in one buffer, and a large one is handed on as it is: joining 8 MiB of pieces at the end would hold the
        event loop, and everybody who waits on it, for 20 ms (S36). A bytearray does all that bytes are asked for here.
        """
        body = bytearray()
        total = 0
        loop = asyncio.get_running_loop()
        pause, started = self._body_timeout_s, loop.time()
        try:
            async with asyncio.timeout(pause) as limit:
                while piece := await content.readany():
                    total += len(piece)
                    self._take(len(piece), total, taken)
                    body += piece
                    limit.reschedule(min(loop.time() + pause, started + pause + total / MIN_BODY_RATE))
        except TimeoutError:
            raise Refused(408, "body_timeout", "the body did not arrive in time") from None
        except web.RequestPayloadError:
            raise _malformed() from None
        if content.exception() is not None:
            raise _malformed()
        return bytes(body) if total <= COPIED_BYTES else cast(bytes, body)

    # Refusals ---------------------------------------------------------------------------------------------------------

    def _refuse(self, no: Refused, request: web.BaseRequest, connection: Connection, reply: Reply) -> None:
        self._on_refused(no.code)
        connection.spoilt = True
        answer = problem(
            self._dialect_of(request.raw_path.partition("?")[0]),
            no.status,
            code=no.code,
            message=str(no),
            request_id=self._ids(),
            headers=no.headers,
        )
        try:
            reply.send(*answer)
        except ConnectionError:
            reply.abort()

    def refusal(self, status: int, code: str, message: str, *, path: str = "") -> bytes:
        self._on_refused(code)
        headers = (("Retry-After", "1"), ("x-should-retry", "true")) if status == 503 else ()
        status, lines, body = problem(
            self._dialect_of(path), status, code=code, message=message, request_id=self._ids(), headers=headers
        )
        return render_head(status, lines, f"Content-Length: {len(body)}\r\nConnection: close\r\n") + body

    def refusal_reply(
        self, connection: Connection, status: int, code: str, message: str, path: str
    ) -> web.StreamResponse:
        self._on_refused(code)
        connection.spoilt = True
        reply = Reply(
            connection,
            head_request=False,
            http10=False,
            keep=False,
            write_timeout_s=self._write_timeout_s,
            buffer_bytes=self._buffer_bytes,
        )
        try:
            reply.send(*problem(self._dialect_of(path), status, code=code, message=message, request_id=self._ids()))
        except ConnectionError:
            reply.abort()
        return cast(web.StreamResponse, reply)

    def _count_dropped(self) -> None:
        self._on_refused("answer_header_dropped")


def _malformed() -> Refused:
    return Refused(400, "invalid_request_framing", "the body is malformed")


def build_data_server(
    serve: Callable[[Inbound, Reply], Awaitable[None]],
    listen: Listen,
    clock: Callable[[], float],
    ids: Callable[[], str],
    on_refused: Callable[[str], None],
    *,
    held: HeldBytes | None = None,
    dialect_of: Callable[[str], Dialect] = caller_dialect,
    is_open: Callable[[], bool] = lambda: True,
    write_timeout_s: float = 60.0,
    buffer_bytes: int = 256 * 1024,
) -> DataServer:
    """The server of a port, checked and ready for ``loop.create_server``; needs a running loop.

    `serve` gets every admitted request and must answer it through its sink; it is cancelled when the caller leaves.
    `clock` gives monotonic seconds, `ids` a new request id, `on_refused` counts refusals (and dropped answer headers)
    by code. `held` is shared with whoever else holds bodies; None: an own cap of 256 MiB. `dialect_of` tells the shape
    of an error by path, `is_open` whether the port asks for no token: then web pages are looked at (see `pages`).
    `write_timeout_s` and `buffer_bytes` hold for answers whose `serve` did not call `Sink.pace`. Raises RuntimeError
    when aiohttp did not take the settings.
    """
    door = Door(
        serve,
        listen,
        ids,
        on_refused,
        held=held or HeldBytes(),
        dialect_of=dialect_of,
        is_open=is_open,
        write_timeout_s=write_timeout_s,
        buffer_bytes=buffer_bytes,
    )
    server = DataServer(door, listen, clock)
    self_check(server)
    return server
