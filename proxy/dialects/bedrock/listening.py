"""ConverseStream read: frames to events (`providers.md` 1.7, 2.4).

Only blocks of tools have a start event; text and reasoning begin with their first delta. An exception may come at any
time, also as the first and only frame of a 200. What ends a stream is ``metadata``, or the end of the connection once
``messageStop`` has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from proxy.dialects.bedrock import words
from proxy.dialects.bedrock.answers import annotation, fault_in, read_answer
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    OpaqueBlock,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Used,
    events_of,
)
from proxy.dialects.eventstream import PAYLOAD_MAX_BYTES, BrokenFrame, FrameParser, broken_error, error_of
from proxy.dialects.members import finish_in

BARE: Final = b"{"
"""First byte of a body that is JSON. As the beginning of a frame it would announce one of 2 GB."""


class ConverseReader:
    """See `StreamReader`."""

    __slots__ = (
        "_bare",
        "_begun",
        "_calls",
        "_length",
        "_opaque",
        "_open",
        "_over",
        "_parser",
        "_redacted",
        "_signature",
        "_start",
        "_stopped",
        "_text_index",
        "_thinking",
        "_told_usage",
        "dropped",
    )

    def __init__(self) -> None:
        self._parser = FrameParser()
        self._bare: bytearray | None = None
        self._begun = False
        self._stopped = False
        self._told_usage = False
        self._over = False
        self._calls = 0
        self._open: dict[int, int] = {}
        """Content block index -> running index of the call that is open there."""
        self._opaque: dict[int, tuple[str, dict[str, Any], list[Any]]] = {}
        """Content block index -> (kind, start, deltas) of a block of a tool that runs at the provider."""
        self._thinking: int | None = None
        self._signature = ""
        self._redacted = ""
        self._text_index: int | None = None
        self._start = 0
        """Characters of text before the present text block."""
        self._length = 0
        self.dropped = 0

    # Bytes ------------------------------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._over or not piece:
            return out
        if self._bare is not None or (not self._begun and self._is_bare(piece)):
            self._keep(piece, out)
            return out
        parser = self._parser
        parser.receive(piece)
        try:
            while not self._over and (frame := parser.next_frame()) is not None:
                headers = frame.headers
                if headers.get(":message-type", "event") != "event" or ":exception-type" in headers:
                    self._fail(error_of(frame) or {"__type": "UnknownError", "message": "unknown message"}, out)
                else:
                    self._event(headers.get(":event-type"), frame.payload, out)
        except BrokenFrame as broken:
            self._fail(broken_error(broken), out)
        return out

    def close(self) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._over:
            return out
        if self._bare is not None:
            self._whole(bytes(self._bare), out)
        elif self._stopped:
            out.append(Ended())
        self._over = True
        return out

    def _is_bare(self, piece: bytes) -> bool:
        return self._parser.rest == 0 and piece.startswith(BARE)

    def _keep(self, piece: bytes, out: list[Event]) -> None:
        """Collect a body that is no event stream: an error that came with a 200, or a whole answer."""
        self._bare = self._bare if self._bare is not None else bytearray()
        self._bare += piece
        if len(self._bare) > PAYLOAD_MAX_BYTES:
            self._fail(broken_error(BrokenFrame("the answer is no event stream")), out)

    def _whole(self, body: bytes, out: list[Event]) -> None:
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            self._fail(broken_error(BrokenFrame("the answer is no event stream")), out)
            return
        fault = fault_in(parsed)
        if fault is not None:
            out.append(Fault(fault))
        else:
            out.extend(events_of(read_answer(parsed)))

    def _fail(self, error: Mapping[str, Any], out: list[Event]) -> None:
        self._over = True
        out.append(Fault(error))

    # Events -----------------------------------------------------------------------------------------------------------

    def _event(self, kind: Any, payload: bytes, out: list[Event]) -> None:
        handle = _HANDLERS.get(kind)
        if handle is None:
            return  # an event that did not exist when this was written
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = None
        if type(event) is not dict:
            self.dropped += 1
            return
        if not self._begun:
            self._begun = True
            out.append(Begin())
        handle(self, event, out)

    def _message_start(self, event: dict[str, Any], out: list[Event]) -> None:
        """Says nothing but the role."""

    def _block_start(self, event: dict[str, Any], out: list[Event]) -> None:
        start = event.get("start")
        if type(start) is not dict:
            return
        index = _index(event)
        self._leave_thinking(index, out)
        if type(use := start.get("toolUse")) is dict:
            if words.is_callers(use):
                self._open[index] = self._calls
                out.append(ToolBegin(self._calls, str(use.get("toolUseId") or ""), str(use.get("name") or "")))
                self._calls += 1
            else:
                self._opaque[index] = ("toolUse", use, [])
        elif type(result := start.get("toolResult")) is dict:
            self._opaque[index] = ("toolResult", result, [])

    def _delta(self, event: dict[str, Any], out: list[Event]) -> None:
        delta = event.get("delta")
        if type(delta) is not dict:
            return
        index = _index(event)
        if self._thinking is not None and self._thinking != index:
            self._leave_thinking(index, out)
        text = delta.get("text")
        if type(text) is str:
            if text:
                self._text(text, index, out)
        elif type(use := delta.get("toolUse")) is dict:
            self._fragment(use.get("input"), index, out)
        elif type(inner := delta.get("reasoningContent")) is dict:
            self._reason(inner, index, out)
        elif (citation := delta.get("citation")) is not None:
            found = annotation(citation, self._start, self._length)
            if found is not None:
                out.append(Annotated(found))
        elif index in self._opaque and type(content := delta.get("toolResult")) is list:
            self._opaque[index][2].extend(content)

    def _text(self, text: str, index: int, out: list[Event]) -> None:
        if index != self._text_index:
            self._text_index = index
            self._start = self._length
        self._length += len(text)
        out.append(TextDelta(text, index))

    def _fragment(self, text: Any, index: int, out: list[Event]) -> None:
        call = self._open.get(index)
        if type(text) is not str:
            text = "" if text is None else orjson.dumps(text).decode()
        if call is not None:
            if text:
                out.append(ToolDelta(call, text))
        elif index in self._opaque:
            self._opaque[index][2].append(text)

    def _reason(self, inner: dict[str, Any], index: int, out: list[Event]) -> None:
        self._thinking = index
        if type(text := inner.get("text")) is str:
            if text:
                out.append(ThinkingDelta(text, index))
        elif type(signature := inner.get("signature")) is str:
            self._signature += signature
        elif (blob := inner.get("redactedContent")) is not None:
            self._redacted += words.redacted_in(blob)

    def _block_stop(self, event: dict[str, Any], out: list[Event]) -> None:
        index = _index(event)
        if index == self._thinking:
            self._end_thinking(out)
        call = self._open.pop(index, None)
        if call is not None:
            out.append(ToolEnd(call))
        elif index in self._opaque:
            self._end_opaque(index, out)

    def _leave_thinking(self, index: int, out: list[Event]) -> None:
        """Another block has begun, whether or not the end of the reasoning was told."""
        if self._thinking is not None and self._thinking != index:
            self._end_thinking(out)

    def _end_thinking(self, out: list[Event]) -> None:
        signed = bool(self._signature or self._redacted)
        out.append(ThinkingEnd(self._signature, self._redacted, "anthropic" if signed else ""))
        self._thinking, self._signature, self._redacted = None, "", ""

    def _end_opaque(self, index: int, out: list[Event]) -> None:
        member, start, deltas = self._opaque.pop(index)
        if member == "toolUse":
            text = "".join(deltas)
            try:
                given = orjson.loads(text) if text else {}
            except orjson.JSONDecodeError:
                given = {"_raw": text}
            raw = {member: {**start, "input": given}}
        else:
            raw = {member: {**start, "content": deltas}}
        out.append(OpaqueBlock(words.DIALECT, str(start.get("type") or member), raw))

    def _message_stop(self, event: dict[str, Any], out: list[Event]) -> None:
        if self._stopped:
            return
        if self._thinking is not None:
            self._end_thinking(out)
        out.extend(ToolEnd(call) for call in self._open.values())
        self._open.clear()
        for index in list(self._opaque):
            self._end_opaque(index, out)
        self._stopped = True
        finish = finish_in(words.FINISH, event.get("stopReason"), self._calls)
        out.append(Stopped(finish, words.stop_sequence_in(event.get("additionalModelResponseFields"))))
        if self._told_usage:
            self._end(out)

    def _metadata(self, event: dict[str, Any], out: list[Event]) -> None:
        usage = words.usage_in(event.get("usage"))
        if usage is not None:
            out.append(Used(usage))
        self._told_usage = True
        if self._stopped:
            self._end(out)

    def _end(self, out: list[Event]) -> None:
        self._over = True
        out.append(Ended())


def _index(event: dict[str, Any]) -> int:
    index = event.get("contentBlockIndex")
    return index if type(index) is int else 0


_Handler = Callable[[ConverseReader, dict[str, Any], list[Event]], None]
_HANDLERS: Final[Mapping[Any, _Handler]] = {
    "contentBlockDelta": ConverseReader._delta,
    "contentBlockStart": ConverseReader._block_start,
    "contentBlockStop": ConverseReader._block_stop,
    "messageStart": ConverseReader._message_start,
    "messageStop": ConverseReader._message_stop,
    "metadata": ConverseReader._metadata,
}


def stream_reader() -> ConverseReader:
    """See `chat`."""
    return ConverseReader()
