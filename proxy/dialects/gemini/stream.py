"""A streamed answer of Gemini as events (`providers.md` 1.1, 1.6).

Each event is a whole answer in small, with the parts that are new. There is no end marker: the end is a reason to stop
and then the end of the connection. Besides server-sent events the reader takes what comes without ``alt=sse``, one JSON
array, and the bare error object that an overloaded server puts at the end of a stream of events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    Json,
    OpaqueBlock,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Usage,
    Used,
)
from proxy.dialects.gemini.answer import (
    blocked,
    citations,
    created_of,
    fault_in,
    finish_of,
    first_candidate,
    parts_of,
    service_tier_of,
    usage_of,
)
from proxy.dialects.gemini.partial import Arguments
from proxy.dialects.gemini.request_in import arguments_of, camels
from proxy.dialects.members import string
from proxy.dialects.reading import loads
from proxy.dialects.sse import data_of, next_event

_FIRST: Final = re.compile(rb"\S")
_BARE: Final = re.compile(rb"[\r\n][\[{]")
_OUTSIDE: Final = re.compile(rb'["{}]')
_INSIDE: Final = re.compile(rb'["\\]')
TEXT_MAX: Final = 4 * 1024 * 1024
"""Characters of an answer that are kept to place its citations; an answer that is longer is told without them."""
_COUNTS: Final = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")


def stream_reader() -> GeminiStream:
    """A reader for one answer."""
    return GeminiStream()


class GeminiStream:
    """See `chat.StreamReader`."""

    __slots__ = ("_buffer", "_is_known", "_objects", "_over", "_searched", "_state", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._buffer = bytearray()
        self._searched = 0
        """Where in the buffer no event can end before."""
        self._objects: _Objects | None = None
        """Set when the stream is bare JSON."""
        self._is_known = False
        """Whether the first byte has told events from bare JSON."""
        self._over = False
        self._state = _State()

    def feed(self, piece: bytes) -> list[Event]:
        """See `chat.StreamReader`."""
        out: list[Event] = []
        if self._over:
            return out
        buffer = self._buffer
        buffer += piece
        if not self._is_known and (first := _FIRST.search(buffer)) is not None:
            self._is_known = True
            if first[0] in (b"[", b"{"):
                self._objects = _Objects()
        if self._objects is not None:
            self._take_objects(out)
            return out
        at, search = 0, self._searched
        while (end := _next_event(buffer, search)) > 0:
            event, at = bytes(buffer[at:end]), end
            search = end
            if self._take_event(event, out):
                return out
        if at:
            del buffer[:at]
        self._searched = max(0, len(buffer) - 3)
        return out

    def close(self) -> list[Event]:
        """See `chat.StreamReader`."""
        out: list[Event] = []
        if self._over:
            return out
        rest = bytes(self._buffer)
        self._buffer.clear()
        if self._objects is None and rest.strip():
            # A bare error may stand right behind an event that never got its blank line.
            bare = _BARE.search(rest) if rest.lstrip()[:1] not in (b"{", b"[") else None
            over = self._take_event(rest[: bare.start()] if bare else rest, out, whole=False)
            if over or (bare and self._take_event(rest[bare.start() :], out, whole=False)):
                return out
        self._over = True
        self._state.close(out)
        return out

    def _take_objects(self, out: list[Event]) -> None:
        assert self._objects is not None
        for raw in self._objects.take(self._buffer):
            if self._take_json(raw, out):
                return

    def _take_event(self, event: bytes, out: list[Event], whole: bool = True) -> bool:
        """One event of the stream; `whole` False: what was left of it without a blank line. True: a fault, it is
        over."""
        data = _data_of(event)
        if data is not None:
            return bool(data.strip() and (whole or loads(data) is not None) and self._take_json(data, out))
        if (bare := event.strip())[:1] in (b"{", b"["):
            # No event at all. An error put there by an overloaded server is one, anything else is noise.
            parsed = loads(bare)
            if isinstance(parsed, list) and len(parsed) == 1:
                parsed = parsed[0]
            error = fault_in(parsed) if isinstance(parsed, Mapping) else None
            return error is not None and self._fail(error, out)
        return False

    def _take_json(self, data: bytes, out: list[Event]) -> bool:
        parsed = loads(data)
        for each in parsed if isinstance(parsed, list) else (parsed,):
            if not isinstance(each, Mapping):
                self.dropped += 1
                continue
            error = fault_in(each)
            if error is not None:
                return self._fail(error, out)
            self._state.take(each, out)
        return False

    def _fail(self, error: Json, out: list[Event]) -> bool:
        self._over = True
        self._buffer.clear()
        out.append(Fault(error))
        return True


def _next_event(buffer: bytearray, start: int) -> int:
    """As `sse.next_event`, but quick where lines end with CR LF, which is how Google ends them."""
    end = buffer.find(b"\r\n\r\n", start)
    if end < 0 or any(buffer.find(blank, start, end + 3) >= 0 for blank in (b"\n\n", b"\r\r", b"\n\r\n")):
        return next_event(buffer, start)  # type: ignore[arg-type]
    return end + 4


def _data_of(event: bytes) -> bytes | None:
    """As `sse.data_of`, quick for one line that ends with CR LF."""
    size = len(event)
    plain = event.startswith(b"data: ") and event.endswith(b"\r\n\r\n")
    if plain and event.find(b"\n") == size - 3 and event.find(b"\r") == size - 4:
        return event[6:-4]
    return data_of(event)


class _Objects:
    """Finds the objects of a JSON array, or a single one, while it arrives. Every byte is looked at once."""

    __slots__ = ("_at", "_depth", "_quoted", "_start")

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._start = 0
        self._quoted = False

    def take(self, buffer: bytearray) -> list[bytes]:
        """The objects that are complete; they are taken out of the buffer."""
        out: list[bytes] = []
        at, done = self._at, 0
        while found := (_INSIDE if self._quoted else _OUTSIDE).search(buffer, at):
            mark, at = buffer[found.start()], found.end()
            if mark == 0x5C:  # a backslash: the next byte belongs to it
                if at >= len(buffer):
                    at -= 1
                    break
                at += 1
            elif mark == 0x22:
                self._quoted = not self._quoted
            elif mark == 0x7B:
                if self._depth == 0:
                    self._start = at - 1
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == 0:
                    out.append(bytes(buffer[self._start : at]))
                    done = at
        else:
            at = len(buffer)
        if done:
            del buffer[:done]
            at -= done
            self._start -= done
        self._at = at
        return out


class _State:
    """What has come of the answer: turns each partial answer into events."""

    __slots__ = ("_block", "_calls", "_kind", "_open", "_signature", "_size", "_stopped", "_text", "_usage", "begun")

    def __init__(self) -> None:
        self.begun = False
        self._kind = ""
        """What the open block is: ``text``, ``thought``; empty: none."""
        self._block = -1
        self._signature = ""
        """Of the open thought."""
        self._calls = 0
        self._open: Arguments | None = None
        """Arguments of the last call while they arrive in pieces."""
        self._stopped = False
        self._size = 0
        """Of the text so far, in characters."""
        self._text: list[str] = []
        self._usage: Json | None = None
        """The latest body that told usage, not yet reported."""

    def take(self, body: Json, out: list[Event]) -> None:
        """The events of one partial answer."""
        if not self.begun:
            self.begun = True
            out.append(
                Begin(
                    string(body.get("responseId")),
                    string(body.get("modelVersion")),
                    created_of(body),
                    usage_of(body),
                    service_tier_of(body),
                )
            )
        told = body.get("usageMetadata")
        if isinstance(told, Mapping) and any(key in told for key in _COUNTS):
            self._usage = body
        candidate = first_candidate(body)
        if candidate is None:
            reason = blocked(body)
            if reason is not None:
                self._stop(Finish.CONTENT_FILTER, reason, out)
        else:
            for part in parts_of(candidate):
                if isinstance(part, Mapping):
                    self._part(part, out)
            cited = "citationMetadata" in candidate or "groundingMetadata" in candidate
            if cited and self._size <= TEXT_MAX:
                out.extend(Annotated(note) for note in citations(candidate, "".join(self._text)))
            reason = candidate.get("finishReason")
            if reason is not None and reason not in ("FINISH_REASON_UNSPECIFIED", 0):
                self._end_call(out)
                finish = finish_of(reason, self._calls > 0)
                self._stop(finish, string(candidate.get("finishMessage")), out)
        if self._stopped:
            self._report(out)

    def close(self, out: list[Event]) -> None:
        """The connection has ended."""
        self._report(out)
        if self._stopped:
            out.append(Ended())

    def _part(self, part: Json, out: list[Event]) -> None:
        text = part.get("text")
        if part.get("thought") is True:
            self._think(string(text), string(part.get("thoughtSignature")), out)
        elif "functionCall" in part:
            if isinstance(call := part["functionCall"], Mapping):
                self._call(camels(call), string(part.get("thoughtSignature")), out)
        elif isinstance(text, str):
            if text:
                self._begin("text", out)
                self._keep(text)
                out.append(TextDelta(text, self._block))
        else:
            kind = next((key for key in part if key != "thoughtSignature"), "")
            if kind:
                self._begin("", out)
                out.append(OpaqueBlock("gemini", kind, part))

    def _keep(self, text: str) -> None:
        self._size += len(text)
        if self._size <= TEXT_MAX:
            self._text.append(text)
        else:
            self._text.clear()

    def _begin(self, kind: str, out: list[Event]) -> None:
        """Another kind of part begins: the open block is over."""
        if kind == self._kind and kind:
            return
        if self._kind == "thought":
            out.append(ThinkingEnd(self._signature, origin="gemini" if self._signature else ""))
            self._signature = ""
        self._kind = kind
        self._block += 1

    def _think(self, text: str, signature: str, out: list[Event]) -> None:
        if not text and not signature:
            return
        self._begin("thought", out)
        if text:
            out.append(ThinkingDelta(text, self._block))
        if signature:  # a signature ends its block: what follows belongs to another one
            self._signature = signature
            self._begin("", out)

    def _call(self, call: Json, signature: str, out: list[Event]) -> None:
        name = string(call.get("name"))
        pieces, goes_on = call.get("partialArgs"), call.get("willContinue") is True
        if name:
            self._end_call(out)
            self._begin("", out)
            out.append(ToolBegin(self._calls, string(call.get("id")), name, signature=signature))
            self._calls += 1
            if not goes_on and pieces is None:
                out.append(ToolDelta(self._calls - 1, arguments_of(call.get("args"))))
                out.append(ToolEnd(self._calls - 1))
                return
            self._open = Arguments(call.get("args"))
        if self._open is not None:
            self._open.take(pieces)
            if not goes_on:
                self._end_call(out)

    def _end_call(self, out: list[Event]) -> None:
        if self._open is not None:
            out.append(ToolDelta(self._calls - 1, orjson.dumps(self._open.value).decode()))
            out.append(ToolEnd(self._calls - 1))
            self._open = None

    def _stop(self, finish: Finish, explanation: str, out: list[Event]) -> None:
        if not self._stopped:
            self._stopped = True
            self._begin("", out)
            out.append(Stopped(finish, explanation=explanation if finish is Finish.CONTENT_FILTER else ""))

    def _report(self, out: list[Event]) -> None:
        usage: Usage | None = usage_of(self._usage) if self._usage is not None else None
        self._usage = None
        if usage is not None:
            out.append(Used(usage))
