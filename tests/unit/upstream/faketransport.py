"""A transport without a network, and a receiver that writes down what it is told."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.upstream.wire import Headers, Wire


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `unsent` plays a socket that takes no more."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closed = ""
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = self.closed or "close"

    def abort(self) -> None:
        self.closed = self.closed or "abort"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Told:
    """A `Receiver`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.body = b""
        self.pieces = 0
        self.chunks = 0
        """Of the pieces, those that came as one chunk each and went past the parser."""
        self.ended = 0
        self.fault = ""
        self.detail = ""

    def on_head(self, status: int, headers: Headers) -> None:
        assert self.status == 0, "a second head"
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        assert data
        assert not self.ended
        self.body += data
        self.pieces += 1

    def on_chunk(self, data: bytes, begin: int) -> None:
        assert data == b"%x\r\n%b\r\n" % (len(data) - begin - 2, data[begin:-2])
        self.chunks += 1
        self.on_data(data[begin:-2])

    def on_end(self) -> None:
        self.ended += 1
        assert not self.fault

    def on_fault(self, fault: str, detail: str) -> None:
        assert not self.ended
        assert not self.fault, "told twice"
        self.fault, self.detail = fault, detail


def connected(loop: asyncio.AbstractEventLoop) -> tuple[Wire, FakeTransport]:
    wire, transport = Wire(loop), FakeTransport()
    wire.connection_made(transport)
    return wire, transport


def feed(wire: Wire, data: bytes, size: int = 1 << 20) -> None:
    """Deliver `data` as the event loop would, at most `size` bytes at a time."""
    at = 0
    while at < len(data):
        room = wire.get_buffer(-1)
        piece = data[at : at + min(size, len(room))]
        room[: len(piece)] = piece
        wire.buffer_updated(len(piece))
        at += len(piece)
