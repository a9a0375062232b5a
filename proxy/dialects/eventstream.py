"""AWS event-stream framing (`providers.md` 1.7): bytes in any pieces to checked frames, and frames to bytes.

Everything in a frame is covered by a checksum, so a frame is either whole and right or the stream is broken: there is
no way to find the next frame behind a wrong length. The prelude is checked as soon as it is there, so that a flipped
bit in a length does not make the parser wait for gigabytes.

`InvokeStream` is for models that are called in their own dialect over ``InvokeModelWithResponseStream``: it takes the
frames off, and what is left are the server-sent events that the dialect's own reader understands.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final
from zlib import crc32

import orjson

from proxy.dialects.chat import Event, StreamReader

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
HEADERS_MAX_BYTES: Final = 128 * 1024
PAYLOAD_MAX_BYTES: Final = 24 * 1024 * 1024
BROKEN: Final = "EventStreamBroken"
"""Name that a broken frame gets where Bedrock's own errors carry the name of an exception; no class knows it, so it is
judged as an interrupted stream."""

_PRELUDE: Final = Struct(">III")
_CRC: Final = Struct(">I")
_OVERHEAD: Final = 16
"""Prelude of 12 bytes and the checksum at the end."""
_NUMBERS: Final = {2: Struct(">b"), 3: Struct(">h"), 4: Struct(">i"), 5: Struct(">q"), 8: Struct(">q")}

HeaderValue = bool | int | bytes | str


class BrokenFrame(ValueError):
    """The bytes are no event stream, or one that was damaged on its way; nothing behind it can be read."""


@dataclass(slots=True)
class Frame:
    """One frame. Not frozen: one is made per event on a warm path."""

    headers: dict[str, HeaderValue]
    """By name, without a change in case. A timestamp is milliseconds since 1970, a UUID its 16 bytes."""
    payload: bytes


class FrameParser:
    """Feed it pieces of any size with `receive`, take frames with `next_frame`."""

    __slots__ = ("_at", "_buffer", "_need", "_sizes")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """Where the frame that is being read begins."""
        self._need = _PRELUDE.size
        """Bytes from `_at` on without which there is nothing to do."""
        self._sizes: tuple[int, int] | None = None
        """Total and headers' length of the frame, once its prelude has been checked."""

    @property
    def rest(self) -> int:
        """Bytes of a frame that is not complete; not 0 at the end of a stream means that it was cut."""
        return len(self._buffer) - self._at

    def receive(self, piece: bytes) -> None:
        """Take in the next bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += piece

    def next_frame(self) -> Frame | None:
        """The next whole frame; None: more bytes are needed. Raises `BrokenFrame`, and again if called again."""
        if len(self._buffer) - self._at < self._need:
            return None
        if self._sizes is None:
            self._sizes = _checked_prelude(self._buffer, self._at)
            self._need = self._sizes[0]
            if len(self._buffer) - self._at < self._need:
                return None
        total, headers_length = self._sizes
        message = bytes(memoryview(self._buffer)[self._at : self._at + total])
        if crc32(memoryview(message)[:-4]) != _CRC.unpack_from(message, total - 4)[0]:
            raise BrokenFrame("the checksum of a frame is wrong")
        frame = Frame(_headers(message, 12 + headers_length), message[12 + headers_length : -4])
        self._at += total
        self._need, self._sizes = _PRELUDE.size, None
        return frame


def _checked_prelude(buffer: bytearray, at: int) -> tuple[int, int]:
    """(total length, headers' length) of the frame at an offset."""
    total, headers_length, checksum = _PRELUDE.unpack_from(buffer, at)
    if crc32(buffer[at : at + 8]) != checksum:
        raise BrokenFrame("the checksum of a frame's prelude is wrong")
    payload_length = total - headers_length - _OVERHEAD
    if payload_length < 0:
        raise BrokenFrame("the lengths of a frame contradict each other")
    if headers_length > HEADERS_MAX_BYTES or payload_length > PAYLOAD_MAX_BYTES:
        raise BrokenFrame("a frame is larger than the format allows")
    return total, headers_length


def _headers(message: bytes, end: int) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 12
    try:
        while at < end:
            name_end = at + 1 + message[at]
            name = message[at + 1 : name_end].decode()
            kind = message[name_end]
            headers[name], at = _value(message, name_end + 1, kind)
    except (IndexError, UnicodeDecodeError) as error:
        raise BrokenFrame("the headers of a frame cannot be read") from error
    if at != end:
        raise BrokenFrame("the headers of a frame are longer than it says")
    return headers


def _value(message: bytes, at: int, kind: int) -> tuple[HeaderValue, int]:
    """A header's value at an offset, and the offset behind it."""
    if kind in (6, 7):
        end = at + 2 + (message[at] << 8 | message[at + 1])
        if end > len(message):
            raise BrokenFrame("a header of a frame is longer than the frame")
        return (message[at + 2 : end].decode() if kind == 7 else message[at + 2 : end]), end
    if kind in (0, 1):
        return kind == 0, at
    if kind == 9:
        return message[at : at + 16], at + 16
    number = _NUMBERS.get(kind)
    if number is None:
        raise BrokenFrame(f"a header of a frame has the unknown type {kind}")
    if at + number.size > len(message):
        raise BrokenFrame("a header of a frame is longer than the frame")
    return number.unpack_from(message, at)[0], at + number.size


# Writing --------------------------------------------------------------------------------------------------------------


def encode(headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
    """One frame. Integers are written in 4 bytes where they fit, else in 8. Raises ValueError beyond the limits."""
    block = b"".join(_encoded_header(name, value) for name, value in headers.items())
    if len(block) > HEADERS_MAX_BYTES or len(payload) > PAYLOAD_MAX_BYTES:
        raise ValueError("a frame cannot be that large")
    prelude = Struct(">II").pack(len(block) + len(payload) + _OVERHEAD, len(block))
    message = prelude + _CRC.pack(crc32(prelude)) + block + payload
    return message + _CRC.pack(crc32(message))


def _encoded_header(name: str, value: HeaderValue) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 256:
        raise ValueError("the name of a header has 1 to 255 bytes")
    head = bytes((len(raw),)) + raw
    if isinstance(value, bool):
        return head + (b"\x00" if value else b"\x01")
    if isinstance(value, int):
        kind = 4 if -(2**31) <= value < 2**31 else 5
        return head + bytes((kind,)) + _NUMBERS[kind].pack(value)
    data = value.encode() if isinstance(value, str) else value
    if len(data) > 0xFFFF:
        raise ValueError("the value of a header has at most 65535 bytes")
    return head + (b"\x07" if isinstance(value, str) else b"\x06") + len(data).to_bytes(2, "big") + data


def event_frame(kind: str, payload: Mapping[str, Any]) -> bytes:
    """A frame that carries an event: a member of the operation's union and its JSON."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, orjson.dumps(payload))


def exception_frame(name: str, payload: Mapping[str, Any]) -> bytes:
    """A frame that carries a modelled exception (``throttlingException``)."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, orjson.dumps(payload))


# Errors and wrapped streams -------------------------------------------------------------------------------------------


def error_of(frame: Frame) -> dict[str, Any] | None:
    """The error that a frame carries, as ``{"__type": name, "message": ...}`` and what else it says; None for none.

    Exceptions are told by their message type; the name begins with a small letter there, unlike in HTTP errors.
    """
    kind = frame.headers.get(":message-type")
    if kind == "error":
        name, message = frame.headers.get(":error-code"), frame.headers.get(":error-message")
        return {"__type": str(name or "UnknownError"), "message": str(message or "")}
    name = frame.headers.get(":exception-type")
    if kind != "exception" and name is None:
        return None
    try:
        said = orjson.loads(frame.payload)
    except orjson.JSONDecodeError:
        said = frame.payload.decode("utf-8", "replace")
    error: dict[str, Any] = {"__type": str(name or "UnknownError"), "message": ""}
    if isinstance(said, Mapping):
        error.update((key, value) for key, value in said.items() if key not in ("p", "__type"))
        error["message"] = next((v for k in ("message", "Message") if isinstance(v := said.get(k), str)), "")
    else:
        error["message"] = str(said)
    return error


def broken_error(broken: BrokenFrame) -> dict[str, Any]:
    """A broken frame in the shape of the stream's own errors."""
    return {"__type": BROKEN, "message": str(broken)}


class InvokeStream:
    """Takes the frames off an ``invoke-with-response-stream`` answer: pieces in, server-sent events out."""

    __slots__ = ("_over", "_parser", "dropped")

    def __init__(self) -> None:
        self._parser = FrameParser()
        self._over = False
        self.dropped = 0
        """Frames left out because they held no JSON event."""

    def feed(self, piece: bytes) -> bytes:
        """The inner events that `piece` completes, each as ``data: <json>`` and a blank line.

        An exception, or a broken frame, becomes one ``error`` event with Bedrock's error in it; nothing follows it.
        """
        if self._over:
            return b""
        self._parser.receive(piece)
        out: list[bytes] = []
        try:
            while (frame := self._parser.next_frame()) is not None:
                error = error_of(frame)
                if error is not None:
                    return self._ended(out, error)
                if frame.headers.get(":event-type") == "chunk":
                    out.append(self._inner(frame.payload))
        except BrokenFrame as broken:
            return self._ended(out, broken_error(broken))
        return b"".join(out)

    def _inner(self, payload: bytes) -> bytes:
        try:
            inner = b64decode(orjson.loads(payload)["bytes"], validate=True)
            if b"\n" in inner or b"\r" in inner:
                inner = orjson.dumps(orjson.loads(inner))  # a line end outside a string would end the event's line
        except (ValueError, KeyError, TypeError):
            self.dropped += 1
            return b""
        return b"data: " + inner + b"\n\n"

    def _ended(self, out: list[bytes], error: Mapping[str, Any]) -> bytes:
        self._over = True
        out.append(b"event: error\ndata: " + orjson.dumps({"type": "error", "error": error}) + b"\n\n")
        return b"".join(out)


def unwrap_stream() -> InvokeStream:
    """A fresh `InvokeStream`."""
    return InvokeStream()


class Unwrapping:
    """A `StreamReader` of an SSE dialect behind an `InvokeStream`."""

    __slots__ = ("_inner", "_stream")

    def __init__(self, inner: StreamReader) -> None:
        self._inner = inner
        self._stream = InvokeStream()

    @property
    def dropped(self) -> int:
        return self._inner.dropped + self._stream.dropped

    @dropped.setter
    def dropped(self, value: int) -> None:
        raise AttributeError("counted by the readers inside")

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        events = self._stream.feed(piece)
        return self._inner.feed(events) if events else []

    def close(self) -> list[Event]:
        """See `StreamReader`. A frame that was cut says nothing: whether the answer is complete, the events tell."""
        return self._inner.close()
