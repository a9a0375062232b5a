"""One HTTP/1.1 connection to a provider, push-style: bytes in, callbacks out.

aiohttp's C response parser does the parsing; its client session is not used on the hot path. A pull-style client needs
a task per attempt (somebody must await the response), and a task per attempt is what makes hedging and cancellation
expensive. Here an attempt is an object that is told what arrives. See `docs/decisions/0003`.

Nothing that an upstream sends is trusted: two lengths, both framings, an upgrade, an answer before the question, bytes
after the end and a body without its end are all faults of this one exchange, and the connection is not used again.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, Protocol, cast

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

FAULT_CLOSED: Final = "closed"
FAULT_RESET: Final = "reset"
FAULT_MALFORMED: Final = "malformed"
FAULT_INCOMPLETE: Final = "incomplete"

PARSER_REFUSALS: Final = (HttpProcessingError, ValueError, RuntimeError, AssertionError)
"""What aiohttp's parser raises over bytes that are not HTTP: its own tree, and what its payload reader asserts."""

_READ_LIMIT: Final = 1 << 30
"""Parser-side buffering never pauses: every piece is taken out at once and the pump applies its own back-pressure."""

_BUFFER: Final = memoryview(bytearray(64 * 1024))
"""What every connection reads into, one after the other on the one loop of the process. It bounds a read: uvloop's own
buffer takes 256 KiB at once, so that a caller who does not read would hold two such pieces, whatever the limits say."""

RECEIVE_BYTES: Final = 256 * 1024
"""What the kernel is asked to hold of a connection that we do not read; Linux doubles it. Left alone it grows to some
6 MiB, and a hundred callers who do not read take the memory of all sockets, so that new requests stand still (S37).
A stream of 2 MB a second still fits through a round trip of a quarter of a second."""

Headers = tuple[tuple[bytes, bytes], ...]


class Receiver(Protocol):
    """Who is told about one response."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The final response head (interim 1xx are swallowed)."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, never empty."""

    def on_chunk(self, data: bytes, begin: int) -> None:
        """A piece of the body as it came: one chunk, its content from `begin` to the CRLF at the end."""

    def on_end(self) -> None:
        """The body is complete by its framing. Nothing follows."""

    def on_fault(self, fault: str, detail: str) -> None:
        """The exchange is broken: one of the FAULT words. Nothing follows."""


class Wire(asyncio.BufferedProtocol):
    """A connection. `busy` while an exchange runs; `usable` while another one may follow."""

    __slots__ = (
        "_aligned",
        "_head_seen",
        "_loop",
        "_parser",
        "_payload",
        "_receiver",
        "_should_close",
        "_with_body",
        "answered",
        "idle_since",
        "on_gone",
        "reused",
        "transport",
        "usable",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser: Any = None
        self._payload: Any = None
        self._receiver: Receiver | None = None
        self._head_seen = False
        self._should_close = False
        self._with_body = True
        self._aligned = False
        """The parser stands between two chunks: a whole one may pass it by."""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.usable = False
        self.reused = False
        self.answered = False
        """A byte of the answer to the latest request has come: sending that request again is no longer harmless."""
        self.idle_since = 0.0
        self.on_gone: Any = None
        """Called with this wire when it closes while idle, so that the pool forgets it."""

    # Requests ---------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self._receiver is not None

    def send(self, receiver: Receiver, head: bytes, body: bytes, with_body: bool = True) -> None:
        """Write one request and deliver its response to `receiver`. `with_body` False: a HEAD request."""
        self._receiver = receiver
        self.answered = False
        self._aligned = False
        self._head_seen = False
        self._should_close = False
        if self._parser is None or with_body != self._with_body:
            self._with_body = with_body
            self._parser = HttpResponseParser(
                cast(Any, self),
                self._loop,
                _READ_LIMIT,
                max_line_size=16384,
                max_headers=256,
                max_field_size=32768,
                response_with_body=with_body,
                read_until_eof=True,
                auto_decompress=False,
            )
        if len(body) > 65536:
            self.transport.write(head)
            self.transport.write(body)
        else:
            self.transport.write(head + body)

    def drop(self) -> None:
        """Close now; whatever runs on it is not told."""
        self._receiver = None
        self.usable = False
        self.transport.abort()

    # Transport callbacks ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.usable = True
        sock = transport.get_extra_info("socket")
        if sock is not None:  # None: a transport without a network
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for the next read, which `buffer_updated` takes out before anybody else reads."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_BUFFER[:nbytes])
        receiver = self._receiver
        if receiver is None:
            self.drop()  # bytes after the end never reach the next caller
            if self.on_gone is not None:
                self.on_gone(self)
            return
        if self._aligned:
            begin = chunk_at(data)
            if begin:
                receiver.on_chunk(data, begin)
                return
            self._aligned = False
        self.answered = True
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except PARSER_REFUSALS as error:
            self._broken(FAULT_MALFORMED, type(error).__name__)
            return
        if upgraded:
            self._broken(FAULT_MALFORMED, "upgrade")
            return
        if messages and not self._heads(messages):
            return
        payload = self._payload
        if payload is None:
            return
        if payload.exception() is not None:
            self._broken(FAULT_MALFORMED, type(payload.exception()).__name__)
            return
        if payload.total_bytes:
            piece = payload.read_nowait()
            if piece:
                receiver.on_data(piece)
                if self._receiver is not receiver:
                    return  # the receiver left while it was told
                begin = chunk_at(data)
                self._aligned = begin > 0 and piece == data[begin:-2]
        if payload.is_eof():
            self._finish()

    def _heads(self, messages: Any) -> bool:
        """Take the response heads of one read. False: the exchange is over with a fault."""
        receiver = self._receiver
        for message, payload in messages:
            if self._head_seen:
                self._should_close = True  # a second answer to one question: drop it and the connection
                continue
            status = message.code
            if status < 200:
                if status == 101:
                    self._broken(FAULT_MALFORMED, "101")
                    return False
                continue
            fault = _ambiguous(message.raw_headers)
            if fault:
                self._broken(FAULT_MALFORMED, fault)
                return False
            self._head_seen = True
            self._payload = payload
            self._should_close = bool(message.should_close)
            if receiver is not None:
                receiver.on_head(status, message.raw_headers)
                if self._receiver is not receiver:
                    return False
        return True

    def _finish(self) -> None:
        receiver, self._receiver, self._payload = self._receiver, None, None
        unsent = self.transport.get_write_buffer_size() > 0
        if self._should_close or unsent or self.transport.is_closing():
            self.usable = False
            self.transport.abort() if unsent else self.transport.close()
        if receiver is not None:
            receiver.on_end()

    def _broken(self, fault: str, detail: str) -> None:
        receiver, self._receiver, self._payload = self._receiver, None, None
        self.usable = False
        self.transport.abort()
        if receiver is not None:
            receiver.on_fault(fault, detail)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.usable = False
        receiver, payload, parser = self._receiver, self._payload, self._parser
        # Both point back here: a crowd of broken connections must not wait for the cycle collector.
        self._payload = self._parser = None
        if receiver is None:
            if self.on_gone is not None:
                self.on_gone(self)
            return
        if payload is not None and exc is None:
            try:
                parser.feed_eof()
            except PARSER_REFUSALS as error:
                self._receiver = None
                receiver.on_fault(FAULT_INCOMPLETE, type(error).__name__)
                return
            if payload.is_eof():
                self._receiver = None
                receiver.on_end()
                return
        self._receiver = None
        if self._head_seen:
            receiver.on_fault(FAULT_INCOMPLETE, "reset" if exc else "closed")
        else:
            receiver.on_fault(FAULT_RESET if exc else FAULT_CLOSED, type(exc).__name__ if exc else "")

    # What aiohttp's payload reader asks of its protocol ---------------------------------------------------------------

    connected = True

    def pause_reading(self) -> None:
        """Never needed: see `_READ_LIMIT`."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Never needed: see `_READ_LIMIT`."""


def chunk_at(data: bytes) -> int:
    """Where the content of a chunk begins, when `data` is one chunk and nothing else; 0 when it is anything else.

    Only the plainest form counts: a size in lower case without leading zeros or extension, more than 8 bytes, and no
    CRLF among them. So the data tells where the parser stands: when it has taken exactly this content out of exactly
    this data, the data was neither the middle of a longer chunk nor the rest of a head, and it is between two chunks.
    """
    at = data.find(b"\r\n", 1, 10)
    size = len(data) - at - 4
    if at < 0 or size <= 8 or data[:at] != b"%x" % size or data.find(b"\r\n", at + 2) != at + 2 + size:
        return 0
    return at + 2


def _ambiguous(headers: Headers) -> str:
    """Why the framing of a response cannot be trusted; empty when it can."""
    lengths: set[bytes] = set()
    chunked = False
    for name, value in headers:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            lengths.add(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            chunked = True
    if len(lengths) > 1:
        return "two lengths"
    if lengths and chunked:
        return "both framings"
    return ""
