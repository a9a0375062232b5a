"""The way back to the caller: one object per request, one write per answer or piece.

aiohttp's own responses build a multi-dict, a cookie jar and a writer before the first byte; on the hot path that costs
more than everything else the server does. `Reply` gives aiohttp the three things it asks of a response (`prepare`,
`write_eof`, `keep_alive`) and writes to the transport itself. Whole answers leave in one write, head and body together;
pieces of a stream leave in one write each, the first one together with the head.

No header can break out of its line: the finished head is compared with what it must be made of, and only when that
fails each header is looked at and the bad ones are left out and counted.
"""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from proxy.base.exchange import WriteTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.server.protocol import Connection

Headers = list[tuple[str, str]]

_ONE_WRITE_BYTES: Final = 64 * 1024
"""Above this a second system call is cheaper than copying the body behind the head."""

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus if s.value >= 200} | {
    529: "HTTP/1.1 529 Overloaded\r\n"
}
_VISIBLE: Final = bytes([9, *range(0x20, 0x7F), *range(0xA0, 0x100)])
"""Every byte a header line may hold: printable ASCII, tab, printable Latin-1."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_PLAIN, _OURS, _DATE, _SERVER, _BAD = range(5)
_OWNED: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Framing and connection of the answer are decided here, whatever the upstream said."""
_KINDS_MAX: Final = 2048
_kinds: dict[str, int] = {}


def _kind(name: str) -> int:
    """What to do with a header of this name; remembered, and forgotten all at once when an upstream invents names."""
    if _TOKEN.fullmatch(name) is None:
        return _BAD
    lower = name.lower()
    kind = _OURS if lower in _OWNED else {"date": _DATE, "server": _SERVER}.get(lower, _PLAIN)
    if len(_kinds) >= _KINDS_MAX:
        _kinds.clear()
    if len(name) <= 64:
        _kinds[name] = kind
    return kind


class _Date:
    """The `Date` header, formatted once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, f"Date: {formatdate(now, usegmt=True)}\r\n"
        return self._text


_date: Final = _Date()


def render_head(
    status: int, headers: Iterable[tuple[str, str]], own: str, on_dropped: Callable[[], None] | None = None
) -> bytes:
    """The head of an answer, blank line included.

    `own`: our own lines (framing, connection), each with its CRLF. A header whose name is no token, or whose value has
    anything but printable ASCII, tab or printable Latin-1, is left out and `on_dropped` is called for it. `Date` and
    `Server: outrider` are added where the list has none. Raises ValueError for a status below 200 or above 999.
    """
    line = _STATUS_LINES.get(status)
    if line is None:
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of a final answer")
        line = f"HTTP/1.1 {status} Unknown\r\n"
    lines = [line]
    dropped, has_date, has_server = 0, False, False
    for name, value in headers:
        kind = _kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if kind != _PLAIN:
            if kind == _DATE:
                has_date = True
            elif kind == _SERVER:
                has_server = True
            else:
                dropped += kind == _BAD
                continue
        lines.append(f"{name}: {value}\r\n")
    if not has_date:
        lines.append(_date())
    if not has_server:
        lines.append("Server: outrider\r\n")
    raw = _encode(lines)
    if raw is None:
        good = [one for one in lines if _encode([one]) is not None]
        dropped += len(lines) - len(good)
        raw = "".join(good).encode("latin-1")
    if dropped and on_dropped is not None:
        for _ in range(dropped):
            on_dropped()
    return raw + own.encode("ascii") + b"\r\n"


def _encode(lines: list[str]) -> bytes | None:
    """The lines as bytes; None when one of them is more, or less, than a line."""
    try:
        raw = "".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        return None
    # What is left without the visible characters must be the line ends that we put there.
    return raw if raw.translate(None, _VISIBLE) == b"\r\n" * len(lines) else None


_NEW, _STREAM, _DONE, _ABORTED = range(4)


class Reply:
    """Implements `proxy.base.exchange.Sink` for one request, and what aiohttp wants of a response."""

    __slots__ = (
        "_bodiless",
        "_buffer_bytes",
        "_chunked",
        "_connection",
        "_head",
        "_http10",
        "_keep",
        "_on_dropped",
        "_state",
        "_write_timeout_s",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        *,
        head_request: bool,
        http10: bool,
        keep: bool,
        write_timeout_s: float,
        buffer_bytes: int,
        on_dropped: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._bodiless = head_request
        self._http10 = http10
        self._keep = keep
        self._write_timeout_s = write_timeout_s
        self._buffer_bytes = buffer_bytes
        self._on_dropped = on_dropped
        self._chunked = False
        self._head = b""
        self._state = _NEW
        self.status = 0
        """Status that was sent; 0: none yet."""

    # What aiohttp asks of a response ----------------------------------------------------------------------------------

    async def prepare(self, request: Any) -> None:
        """Nothing is left to prepare when the handler returns."""

    async def write_eof(self) -> None:
        """Called last: an answer left open is cut, a closing connection must not wait for its reader for ever."""
        if self._state not in (_DONE, _ABORTED):
            self.abort()
        if not self._keep:
            self._connection.abort_if_stuck(self._write_timeout_s)
            if self._connection.spoilt and self._state == _DONE:
                await self._connection.linger()

    @property
    def keep_alive(self) -> bool:
        return self._keep and self._state == _DONE

    # Sink -------------------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Bytes of an answer may have been sent: no other answer is possible."""
        return self._state != _NEW

    @property
    def finished(self) -> bool:
        return self._state in (_DONE, _ABORTED)

    @property
    def connection(self) -> Connection:
        return self._connection

    def pace(self, *, write_timeout_s: float, buffer_bytes: int) -> None:
        self._write_timeout_s = write_timeout_s
        self._buffer_bytes = buffer_bytes

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.send(status, headers, body)
        if self._connection.writing_paused:
            await self._drained()

    def send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """`whole` without waiting for a slow reader."""
        if self._state != _NEW:
            raise RuntimeError("the answer has already begun")
        bodiless = self._bodiless or status in (204, 304)
        length = "" if status == 204 or (status == 304 and not body) else f"Content-Length: {len(body)}\r\n"
        head = render_head(status, headers, length + self._fate(), self._on_dropped)
        self._state, self.status = _DONE, status
        if bodiless or not body:
            self._put(head)
        elif len(body) <= _ONE_WRITE_BYTES:
            self._put(head + body)
        else:
            self._put(head)
            self._put(body)

    async def begin(self, status: int, headers: Headers) -> None:
        if self._state != _NEW:
            raise RuntimeError("the answer has already begun")
        bodiless = self._bodiless or status in (204, 304)
        if self._http10 and not bodiless:
            self._keep = False
        self._chunked = not (bodiless or self._http10)
        framing = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        self._head = render_head(status, headers, framing + self._fate(), self._on_dropped)
        self._bodiless = bodiless
        self._state, self.status = _STREAM, status
        connection = self._connection
        if connection.transport is not None and connection.high_water != self._buffer_bytes:
            connection.high_water = self._buffer_bytes
            connection.transport.set_write_buffer_limits(high=self._buffer_bytes)
        # The first piece usually follows within this turn of the loop and takes the head along.
        asyncio.get_running_loop().call_soon(self._flush_head)

    async def write(self, data: bytes) -> None:
        if not self.push(data):
            await self._drained()

    def push(self, data: bytes) -> bool:
        if self._state != _STREAM:
            self._refuse_late()
        if not data or self._bodiless:
            return not self._connection.writing_paused
        frame = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if self._head:
            frame, self._head = self._head + frame, b""
        self._put(frame)
        return not self._connection.writing_paused

    def forward(self, data: bytes, begin: int) -> bool:
        if self._state != _STREAM or not self._chunked or self._head:
            return self.push(data[begin:-2])
        connection = self._connection
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        transport.write(data)
        return not connection.writing_paused

    async def upgrade(self, socket: Any) -> None:
        """Hand the connection over to one of aiohttp's `WebSocketResponse`, which writes from here on.

        Raises aiohttp's `HTTPBadRequest`, with nothing sent, for a handshake that is none.
        """
        if self._state != _NEW:
            raise RuntimeError("the answer has already begun")
        await socket.prepare(self._connection.request)
        self._state, self._keep, self.status = _DONE, False, 101

    async def end(self) -> None:
        if self._state != _STREAM:
            self._refuse_late()
        last = self._head + (b"0\r\n\r\n" if self._chunked else b"")
        self._head = b""
        if last:
            self._put(last)
        self._state = _DONE
        if self._connection.writing_paused:
            await self._drained()

    def abort(self) -> None:
        if self._state == _ABORTED:
            return
        cut = self._state == _STREAM
        if cut:
            self._flush_head()
        self._state, self._keep = _ABORTED, False
        connection = self._connection
        if cut and self._http10:
            # Without chunks a proper close would pass for a proper end: only a reset can say that it is none.
            connection.reset()
        else:
            connection.abort_if_stuck(self._write_timeout_s)
            connection.close_now()

    # Inside -----------------------------------------------------------------------------------------------------------

    def _fate(self) -> str:
        """The `Connection` line, decided when the head is written."""
        connection = self._connection
        if connection.spoilt or connection.server.draining:
            self._keep = False
        if not self._keep:
            return "Connection: close\r\n"
        return "Connection: keep-alive\r\n" if self._http10 else ""

    def _put(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        transport.write(data)

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        transport = self._connection.transport
        if head and transport is not None and not transport.is_closing():
            transport.write(head)

    def _refuse_late(self) -> None:
        if self._state == _ABORTED:
            raise ConnectionAbortedError("the answer was cut")
        raise RuntimeError("the answer is not open for pieces")

    async def _drained(self) -> None:
        """Wait for the reader. Any byte that it takes within `write_timeout_s` is progress, looked for four times."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        transport = connection.transport
        held = transport.get_write_buffer_size() if transport is not None else 0
        patience = loop.time() + self._write_timeout_s
        while connection.writing_paused and connection.transport is not None:
            try:
                async with asyncio.timeout(self._write_timeout_s / 4):
                    await connection.drained()
            except TimeoutError:
                transport = connection.transport
                left = transport.get_write_buffer_size() if transport is not None else 0
                if left < held:
                    held, patience = left, loop.time() + self._write_timeout_s
                elif loop.time() >= patience:
                    self._give_up()
                    raise WriteTimeout(f"the caller took nothing for {self._write_timeout_s:g} s") from None
        if connection.transport is None:
            raise ConnectionResetError("the caller has gone")

    def _give_up(self) -> None:
        """A caller that does not read will not read our last words either."""
        self._state, self._keep = _ABORTED, False
        self._connection.reset()
