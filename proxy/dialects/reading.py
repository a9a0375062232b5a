"""How an answer is judged while it arrives: what is content, what is an error, what is the end.

A `Reader` reads one answer of one dialect. Before the first content every event is parsed; afterwards `scan` looks for
a few byte patterns only. The patterns cannot occur inside a JSON string, where every quote is preceded by a backslash,
so what looks like the key ``"finish_reason":"`` is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Protocol

import orjson

from proxy.dialects import sse

LESSONS_MAX: Final = 8
"""So many events of an answer are remembered, one in the place of the other, before it is clear that each is new in
more than its text (a number, padding)."""


class Verdict(Enum):
    """What one event is."""

    HOLD = "hold"
    """Preamble: kept, sent in order once content comes."""
    CONTENT = "content"
    """The first event that speaks to the caller: the commit point."""
    ERROR = "error"
    """An error inside a 200; `Reader.error` holds it."""
    DONE = "done"
    """The stream's own end marker."""
    DROP = "drop"
    """Not an event of this dialect (not JSON): never forwarded."""


class Reader(Protocol):
    """State of reading one answer."""

    error: Mapping[str, Any] | None
    """The error object found by the last ERROR verdict."""
    usage: tuple[int, int] | None
    """(input, output) tokens as the provider reported them; None: not reported."""

    def event(self, data: bytes | None) -> Verdict:
        """Judge one event before the first content; `data` None: a comment."""

    def is_plain(self, piece: bytes) -> bool:
        """Whether `piece` (whole events) is one sound event from the middle of the answer: nothing `scan` looks for."""

    def is_another(self, data: bytes, begin: int, end: int) -> bool:
        """Whether `data` between `begin` and `end` is one whole event, and `is_plain`."""

    def scan(self, piece: bytes) -> int:
        """Cheap look at whole events after the first content.

        Returns how many bytes of `piece` may be forwarded: all of it, or up to the event that carries an error, which
        is then in `error`.
        """

    @property
    def is_done(self) -> bool:
        """The end marker has come: nothing more is expected."""

    @property
    def is_finished(self) -> bool:
        """A proper reason for the end has come; a stream that stops now is complete, before it is cut."""

    def tail(self, rest: bytes) -> bool:
        """Judge what was left of the stream without a blank line; True when it is an error, then in `error`."""

    def whole(self, body: bytes) -> str:
        """Judge a unary 200 body: empty when it is an answer, else why not (``empty``, ``not_json``, ``error``)."""


def loads(data: bytes) -> Any:
    """Parse JSON; None when it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def error_in(parsed: Any) -> Mapping[str, Any] | None:
    """The error object of an event or body (a bare string becomes its message); None when it carries none."""
    if not isinstance(parsed, Mapping):
        return None
    error = parsed.get("error")
    if isinstance(error, Mapping) and error:
        return error
    return {"message": error} if isinstance(error, str) and error else None


def _parsed(event: bytes) -> Any:
    """What an event says, or a line that is no field of an event stream: bare JSON, ``error: {...}`` (GPUStack)."""
    data = sse.data_of(event)
    return loads(data if data is not None else event.strip().removeprefix(b"error:"))


class JsonEvents:
    """What the readers of all JSON event streams share; a dialect says what an event means (`judge`)."""

    FINISHES: ClassVar[tuple[bytes, ...]] = ()
    """Byte patterns of a proper end reason; each occurrence counts once."""
    DONES: ClassVar[tuple[bytes, ...]] = ()
    """Byte patterns of the end marker, which stand at the beginning of a line."""
    USAGES: ClassVar[tuple[bytes, ...]] = (b'"usage":{', b'"usage": {')
    WORD: ClassVar[bytes] = b""
    """Key of the text that is new in every event, its opening quote included; empty: more than a text is new."""

    __slots__ = ("_after", "_before", "_done", "_finished", "_lessons", "_needed", "error", "usage")

    def __init__(self, needed: int = 1) -> None:
        self._needed = needed
        self._finished = 0
        self._done = False
        self._before = self._after = b""
        """What stands around the text of the latest plain event; empty: unknown."""
        self._lessons = LESSONS_MAX if self.WORD else 0
        self.error: Mapping[str, Any] | None = None
        self.usage: tuple[int, int] | None = None

    def judge(self, event: Mapping[str, Any]) -> Verdict:
        """Judge one parsed event that carries no error; also takes its usage and end reasons."""
        raise AssertionError("each dialect judges its own events")  # pragma: no cover

    def goes_on(self, event: Mapping[str, Any]) -> bool:
        """Whether an event without error is one of many: neither a reason for the end nor usage is in it."""
        raise AssertionError("each dialect judges its own events")  # pragma: no cover

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Whether a unary body without error says something to the caller; also takes its usage."""
        raise AssertionError("each dialect judges its own answers")  # pragma: no cover

    def fault_in(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The error that an event or a body carries; None for none."""
        return error_in(event)

    @property
    def is_done(self) -> bool:
        """See `Reader`."""
        return self._done

    @property
    def is_finished(self) -> bool:
        """See `Reader`."""
        return self._done or self._finished >= self._needed

    def event(self, data: bytes | None) -> Verdict:
        """See `Reader`."""
        if data is None or not data.strip():
            return Verdict.HOLD
        if data.startswith(b"[DONE]"):
            self._done = True
            return Verdict.DONE
        parsed = loads(data)
        if not isinstance(parsed, Mapping):
            return Verdict.DROP
        self.error = self.fault_in(parsed)
        return Verdict.ERROR if self.error is not None else self.judge(parsed)

    def is_plain(self, piece: bytes) -> bool:
        """See `Reader`. To look into one parsed event costs less than to search its bytes for every pattern."""
        event = sse.single(piece)
        if event is None or "error" in event or not self.goes_on(event):
            return False
        if self._lessons:
            self._learn(piece)
        return True

    def is_another(self, data: bytes, begin: int, end: int) -> bool:
        """See `Reader`. To see that only the text is new costs less than to parse the event."""
        at, till = begin + len(self._before), end - len(self._after)
        if (
            begin < at <= till
            and data.startswith(self._before, begin)
            and data.endswith(self._after, till, end)
            and isinstance(loads(b'"%b"' % data[at:till]), str)
        ):
            return True
        return data.endswith(b"\n\n", begin, end) and self.is_plain(data[begin:end])

    def _learn(self, event: bytes) -> None:
        """Remember a plain event without its text. What stands around a text without any escape, around another text
        that is sound is the same event, and as plain."""
        self._lessons -= 1
        at = event.find(self.WORD) + len(self.WORD)
        end = event.find(b'"', at)
        if at >= len(self.WORD) and b"\\" not in event[at:end]:
            self._before, self._after = event[:at], event[end:]

    def scan(self, piece: bytes) -> int:
        """See `Reader`."""
        if b'"error"' in piece:
            clean = self._until_error(piece)
            if clean < len(piece):
                if clean:
                    self.scan(piece[:clean])
                return clean
        for pattern in self.FINISHES:
            if pattern in piece:
                self._finished += piece.count(pattern) - piece.count(pattern + b'"')  # an empty reason is none
        for pattern in self.DONES:
            if pattern in piece and (piece.startswith(pattern) or b"\n" + pattern in piece or b"\r" + pattern in piece):
                self._done = True
        for pattern in self.USAGES:
            if pattern in piece:
                self._take_usage(piece)
                break
        return len(piece)

    def _events_with(self, piece: bytes, patterns: tuple[bytes, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(offset, parsed data) of the events of a piece that hold one of the patterns; nothing else is parsed."""
        at = 0
        while True:
            hits = [hit for pattern in patterns if (hit := piece.find(pattern, at)) >= 0]
            if not hits:
                return
            start, at = sse.event_around(piece, min(hits))
            parsed = _parsed(piece[start:at])
            if isinstance(parsed, Mapping):
                yield start, parsed

    def _until_error(self, piece: bytes) -> int:
        for at, parsed in self._events_with(piece, (b'"error"',)):
            self.error = self.fault_in(parsed)
            if self.error is not None:
                return at
        return len(piece)

    def _take_usage(self, piece: bytes) -> None:
        finished = self._finished
        for _, parsed in self._events_with(piece, self.USAGES):
            self.judge(parsed)
        self._finished = finished

    def tail(self, rest: bytes) -> bool:
        """See `Reader`. A left-over that parses as an error is one, event or not (Gemini ends streams so)."""
        parsed = _parsed(rest)
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        self.error = self.fault_in(parsed) if isinstance(parsed, Mapping) else None
        return self.error is not None

    def whole(self, body: bytes) -> str:
        """See `Reader`."""
        parsed = loads(body)
        if not isinstance(parsed, Mapping):
            return "not_json" if body.strip() else "empty"
        self.error = self.fault_in(parsed)
        if self.error is not None:
            return "error"
        if not self.answers(parsed):
            return "empty"
        self._done = True
        return ""
