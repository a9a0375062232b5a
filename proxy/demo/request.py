"""Reading a request strictly: its head, then its body by length or by chunks, as the bytes come in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxy.demo.script import Fault

HEAD_BYTES_MAX: Final = 1 << 18
"""A larger request head is refused with 431."""


class BadRequest(Exception):
    """The request cannot be read; carries the status to answer with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Request:
    """A request as it comes in."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    is_old: bool
    """HTTP/1.0."""
    wants_close: bool
    expects_100: bool
    length: int
    """Bytes of the body still to come; -1: chunked."""
    body: bytearray
    chunk_left: int = 0
    """In a chunked body: bytes of the chunk still to come; -1: the CRLF after it, -2: the trailers."""
    early: Fault | None = None
    bytes_per_s: int = 0
    echo: bytes | None = None

    def take(self, buffer: bytearray, bytes_max: int) -> bool:
        """Move bytes of the body from `buffer` to `body`; True when it is complete. Raises `BadRequest`."""
        if self.length >= 0:
            if self.length > bytes_max:
                raise BadRequest(413, "body too large")
            part = buffer[: self.length]
            self.body += part
            del buffer[: len(part)]
            self.length -= len(part)
            return self.length == 0
        while self._take_chunk(buffer):
            if len(self.body) > bytes_max:
                raise BadRequest(413, "body too large")
            if self.length == 0:
                return True
        return False

    def _take_chunk(self, buffer: bytearray) -> bool:
        """One step through a chunked body; False when more bytes are needed. Sets `length` to 0 at the end."""
        if self.chunk_left > 0:
            part = buffer[: self.chunk_left]
            self.body += part
            del buffer[: len(part)]
            self.chunk_left -= len(part)
            if self.chunk_left == 0:
                self.chunk_left = -1
            return bool(part)
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > HEAD_BYTES_MAX:
                raise BadRequest(400, "endless chunk line")
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        if self.chunk_left == -1:
            if line:
                raise BadRequest(400, "chunk longer than its size")
            self.chunk_left = 0
        elif self.chunk_left == -2:
            self.length = -1 if line else 0
        else:
            size = line.partition(b";")[0]
            if not _CHUNK_SIZE.fullmatch(size):
                raise BadRequest(400, "bad chunk size")
            self.chunk_left = int(size, 16) or -2
        return True


_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,15}")
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,65536}) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")


def read_head(head: bytes) -> Request:
    """Read request line and headers, strictly: what two parsers could read differently raises `BadRequest`."""
    first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
    start = _REQUEST_LINE.fullmatch(first)
    if start is None:
        raise BadRequest(400, "bad request line")
    pairs = []
    known: dict[bytes, bytes] = {}
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise BadRequest(400, "bad header line")
        name, value = field[1], field[2]
        pairs.append((name.decode(), value.decode("latin-1")))
        key = name.lower()
        if key in known and key in (b"content-length", b"transfer-encoding", b"host"):
            raise BadRequest(400, f"two {key.decode()} headers")
        known[key] = value
    length = known.get(b"content-length", b"0")
    encoding = known.get(b"transfer-encoding")
    if encoding is not None and (encoding.lower() != b"chunked" or b"content-length" in known):
        raise BadRequest(400, "ambiguous framing")
    if not length.isdigit() or len(length) > 15:
        raise BadRequest(400, "bad content-length")
    is_old = start[3] == b"0"
    return Request(
        method=start[1].decode(),
        path=start[2].decode(),
        headers=tuple(pairs),
        is_old=is_old,
        wants_close=is_old or known.get(b"connection", b"").lower() == b"close",
        expects_100=known.get(b"expect", b"").lower() == b"100-continue",
        length=-1 if encoding is not None else int(length),
        body=bytearray(),
    )
