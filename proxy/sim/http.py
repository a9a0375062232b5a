"""A strict reading of the answers of one connection, as a caller gets them. Whatever is not plain HTTP/1.1 is noted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [^\r\n]*")
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")


@dataclass(slots=True)
class Answer:
    """One answer, as far as it has come."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """The end of its framing has come."""

    @property
    def keeps(self) -> bool:
        """The connection may carry another request."""
        return self.is_whole and "close" not in self.headers.get("connection", "").lower()


class Reading:
    """Bytes in, answers out."""

    __slots__ = ("_buffer", "_chunk", "_left", "answers", "fault")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self._chunk = False
        self.answers: list[Answer] = []
        self.fault = ""
        """The first thing that no answer may hold; empty: none."""

    @property
    def current(self) -> Answer | None:
        """The answer that is under way or was the last."""
        return self.answers[-1] if self.answers else None

    @property
    def extra(self) -> int:
        """Bytes that belong to nothing so far."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._buffer += data
        while self._buffer and not self.fault and self._step():
            pass

    def _step(self) -> bool:
        """Take one thing out of the buffer; False: it is not there yet."""
        answer = self.current
        if answer is None or answer.is_whole:
            return self._head()
        if "transfer-encoding" in answer.headers:
            return self._chunked(answer)
        taken = min(self._left, len(self._buffer))
        answer.body += self._buffer[:taken]
        del self._buffer[:taken]
        self._left -= taken
        answer.is_whole = not self._left
        return taken > 0

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _STATUS.fullmatch(lines[0])
        if match is None:
            self.fault = f"no status line: {lines[0][:60]!r}"
            return False
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() in headers and name.lower() in ("content-length", "transfer-encoding"):
                self.fault = f"two {name}"
            headers[name.lower()] = value.strip()
        answer = Answer(int(match[1]), headers)
        self.answers.append(answer)
        length = headers.get("content-length")
        if ("transfer-encoding" in headers) == (length is not None) and answer.status != 204:
            self.fault = "not exactly one framing"
            return False
        self._left = int(length or 0)
        answer.is_whole = "transfer-encoding" not in headers and not self._left
        return True

    def _chunked(self, answer: Answer) -> bool:
        buffer = self._buffer
        if self._chunk:
            if len(buffer) < self._left + 2:
                return False
            answer.body += buffer[: self._left]
            if buffer[self._left : self._left + 2] != b"\r\n":
                self.fault = "a chunk without its end"
            del buffer[: self._left + 2]
            self._chunk = False
            return True
        end = buffer.find(b"\r\n")
        if end < 0:
            return False
        size = bytes(buffer[:end])
        if _SIZE.fullmatch(size) is None:
            self.fault = f"no chunk size: {size[:30]!r}"
            return False
        if int(size, 16):
            del buffer[: end + 2]
            self._left, self._chunk = int(size, 16), True
            return True
        if len(buffer) < end + 4:
            return False
        if buffer[end + 2 : end + 4] != b"\r\n":
            self.fault = "a trailer"
        del buffer[: end + 4]
        answer.is_whole = True
        return True
