"""Server-sent events as bytes (`providers.md` 1.1).

Lines end with LF, CR LF or CR; a blank line ends an event. Nothing is decoded per network piece, because a piece may
end inside a character or inside a CR LF, and nothing is split with `str.splitlines`, which also splits on U+2028.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

_END: Final = re.compile(rb"(?:\r\n){2,}|\n{2,}|\r{2,}|\n\r\n|\r\n\n|\n\r{2,}|\n\r(?=[^\r\n])")
"""A blank line and others of its kind behind it: a megabyte of them is one end, not half a million events. A CR behind
a LF is a line of its own once it is known that no LF follows it."""
_BLANK: Final = 3
"""Bytes at the end of a piece that may begin a blank line."""
_LINE: Final = re.compile(rb"\r\n|\n|\r")


def next_event(buffer: bytes, start: int = 0) -> int:
    """Offset just behind the first whole event of `buffer` from `start`; -1 when none is complete."""
    lf = buffer.find(b"\n\n", start)
    if buffer.find(b"\r", start, lf if lf >= 0 else len(buffer)) < 0:  # by far the most common: a search of bytes
        if lf < 0:
            return -1
        if buffer[lf + 2 : lf + 3] not in (b"\n", b"\r"):
            return lf + 2
    found = _END.search(buffer, start)
    return -1 if found is None else found.end()


def event_around(buffer: bytes, at: int) -> tuple[int, int]:
    """Start and end of the event that holds offset `at`; the end of the buffer when it is not complete."""
    start = 0
    for blank in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        found = buffer.rfind(blank, 0, at)
        if found >= 0:
            start = max(start, found + len(blank))
    end = next_event(buffer, at)
    return start, len(buffer) if end < 0 else end


def whole_events(buffer: bytes) -> int:
    """Offset just behind the last whole event of `buffer`; 0 when none is complete."""
    if buffer.endswith((b"\n\n", b"\r\n\r\n")):
        return len(buffer)
    # Every blank line there can be ends in one of these three.
    return max((at + len(end) for end in (b"\n\n", b"\n\r\n", b"\r\r") if (at := buffer.rfind(end)) >= 0), default=0)


def data_of(event: bytes) -> bytes | None:
    """The event's data: its ``data:`` lines joined with LF, one leading space dropped. None: it has none (a
    comment)."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    if b"data" not in event:
        return None
    lines = []
    for line in _LINE.split(event):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None


def events(buffer: bytes) -> list[bytes]:
    """The whole events of `buffer`, each with its blank line."""
    out, at = [], 0
    while (end := next_event(buffer, at)) > 0:
        out.append(buffer[at:end])
        at = end
    return out


def single(piece: bytes) -> dict[str, Any] | None:
    """What a piece says that is one event with one line of data, perhaps named by a line before it; None: it is
    anything else, or its data is no JSON object."""
    at = piece.find(b"data: {")
    named = at > 0 and piece.startswith(b"event: ") and piece.find(b"\n") == at - 1
    if (at and not named) or piece.find(b"\n", at) != len(piece) - 2 or b"\r" in piece:
        return None
    try:
        return orjson.loads(piece[at + 6 : -2])  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return None


class Frames:
    """Cuts a stream into its events, however its pieces fall. Bytes are joined once per event, not once per piece."""

    __slots__ = ("_held", "_tail")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._tail = b""
        """The last bytes of what is held, which may begin a blank line."""

    def take(self, piece: bytes) -> list[bytes]:
        """The events that `piece` completes, each with its blank line."""
        if not piece:
            return []
        if self._held:
            tail = self._tail + piece
            self._held.append(piece)
            if next_event(tail) < 0:
                self._tail = tail[-_BLANK:]
                return []
            piece = b"".join(self._held)
        out, at = [], 0
        while (end := next_event(piece, at)) > 0:
            out.append(piece[at:end])
            at = end
        self._held = [piece[at:]] if at < len(piece) else []
        self._tail = piece[max(at, len(piece) - _BLANK) :]
        return out

    def rest(self) -> bytes:
        """What stands behind the last blank line; it is taken."""
        rest = b"".join(self._held)
        self._held = []
        return rest


def is_sound(piece: bytes) -> bool:
    """Whether the data of every event of `piece` (whole events) is JSON or the mark of the end; True is certain."""
    try:
        for line in piece.split(b"\n"):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                orjson.loads(line[5:])
    except orjson.JSONDecodeError:
        return False
    return True


def is_json(data: bytes) -> bool:
    """Whether data is JSON. What only orjson refuses (half of a surrogate pair, a number beyond a double) is JSON to
    most parsers, and providers send it: a token may be half a character."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False
    return True


def _no_constant(name: str) -> None:
    """NaN and Infinity are not JSON, whatever Python says."""
    raise ValueError(name)


def without_malformed(piece: bytes, mark: bytes) -> tuple[bytes, int]:
    """(whole events without those whose data is not JSON, how many those were); `mark` stands in the place of each."""
    out, dropped = [], 0
    for event in events(piece):
        data = data_of(event)
        if data is None or not data.strip() or data.startswith(b"[DONE]"):
            out.append(event)
            continue
        if is_json(data):
            out.append(event)
        else:
            dropped += 1
            out.append(mark)
    return b"".join(out), dropped
