"""Events as the stream of a Messages answer (`providers.md` 2.2).

The blocks of this dialect never interleave, and other dialects' calls do. So one block is open at a time; what belongs
to another one while a call is open waits in line, and is written as whole blocks when the call is complete. Reasoning
waits for its signature, since without one the caller must not be shown it; pings tell meanwhile that something comes.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import orjson

from proxy.dialects.anthropic import words
from proxy.dialects.anthropic.answers import shows, thinking_block
from proxy.dialects.anthropic.words import DIALECT
from proxy.dialects.chat import (
    Asked,
    Begin,
    Event,
    Finish,
    Json,
    OpaqueBlock,
    Ping,
    RefusalDelta,
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
from proxy.dialects.members import dumped

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
PING_EVERY: Final = 16
"""So many pieces of reasoning that are held are worth one ping."""
_OF_MESSAGE: Final = frozenset({"container", "stop_details"})
"""Members that stand in the delta of the message; others stand beside it."""
_TEXT: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'  # noqa: E501
_JSON: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"input_json_delta","partial_json":%b}}\n\n'  # noqa: E501
_STOP: Final = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_REFUSAL: Final = -1
"""Stands for the block of a refusal; blocks of text are counted from 0."""

_dumps = orjson.dumps


class _Waiting:
    """A block of text, a call, or a block as it is (`raw`), while it is open or waits for its turn."""

    __slots__ = ("begin", "block", "is_whole", "pieces", "raw", "was_told")

    def __init__(self, block: int = 0, begin: ToolBegin | None = None, raw: Json | None = None) -> None:
        self.block = block
        """Number of the text block, as the reader counts."""
        self.begin = begin
        self.raw = raw
        self.pieces: list[str] = []
        """What has not been written yet."""
        self.was_told = False
        """Arguments have been written."""
        self.is_whole = raw is not None


class MessagesStreamWriter:
    """See `StreamWriter`."""

    __slots__ = (
        "_asked",
        "_calls",
        "_finish",
        "_has_begun",
        "_has_called",
        "_held_thoughts",
        "_line",
        "_members",
        "_next",
        "_open",
        "_refusal",
        "_sequence",
        "_thoughts",
        "_usage",
    )

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._has_begun = False
        self._has_called = False
        self._next = 0
        """Index of the next block."""
        self._open: _Waiting | None = None
        self._line: deque[_Waiting] = deque()
        self._calls: dict[int, _Waiting] = {}
        """Calls that are not complete, open or in line."""
        self._thoughts: list[str] = []
        self._held_thoughts = 0
        self._members: dict[str, Any] = {}
        self._refusal = ""
        self._finish: Finish | None = None
        self._sequence: str | None = None
        self._usage: Usage | None = None

    # Events -----------------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> bytes:
        """See `StreamWriter`."""
        kind = type(event)
        if kind is TextDelta:
            return self._text(event.text, event.block)  # type: ignore[union-attr]
        if kind is ToolDelta:
            return self._arguments(event)  # type: ignore[arg-type]
        if kind is ThinkingDelta:
            return self._think(event)  # type: ignore[arg-type]
        if kind is Begin:
            return self._begin(event)  # type: ignore[arg-type]
        if kind is ToolBegin:
            return self._call(event)  # type: ignore[arg-type]
        if kind is ToolEnd:
            return self._end_call(event.index)  # type: ignore[union-attr]
        if kind is Ping:
            return PING if self._has_begun else b""  # nothing comes before message_start
        return self._rare(event)

    def _rare(self, event: Event) -> bytes:
        if isinstance(event, ThinkingEnd):
            return self._end_thinking(event)
        if isinstance(event, Used):
            self._usage = event.usage
        elif isinstance(event, RefusalDelta):
            self._refusal += event.text
            return self._text(event.text, _REFUSAL)
        elif isinstance(event, Stopped):
            self._finish, self._sequence = event.finish, event.stop_sequence
            self._refusal = self._refusal or event.explanation
        elif isinstance(event, OpaqueBlock) and event.dialect == DIALECT:
            return self._closed(event)
        return b""  # other dialects' blocks and citations, which nobody could replay here

    def end(self) -> bytes:
        """See `StreamWriter`."""
        out = [self._ready()]
        for waiting in list(self._calls.values()):
            waiting.is_whole = True
        self._calls.clear()
        self._advance(out, at_end=True)
        finish = self._finish or Finish.STOP
        delta: dict[str, Any] = {
            "stop_reason": words.stop_reason(finish, self._has_called, bool(self._refusal)),
            "stop_sequence": self._sequence,
        }
        if "stop_details" not in self._members and delta["stop_reason"] == "refusal":
            delta["stop_details"] = words.refusal_details(self._refusal)
        delta.update((name, value) for name, value in self._members.items() if name in _OF_MESSAGE)
        beside = {name: value for name, value in self._members.items() if name not in _OF_MESSAGE}
        told = words.usage_out(self._usage) if self._usage is not None else {"output_tokens": 0}
        out.append(_event("message_delta", {"delta": delta, "usage": told, **beside}))
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def fail(self, error: Json) -> bytes:
        """See `StreamWriter`."""
        told = {"type": error.get("type") or "api_error", "message": error.get("message") or ""}
        return _event("error", {"error": told})

    def _begin(self, event: Begin) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        if event.usage is not None:
            self._usage = event.usage
        message: dict[str, Any] = {
            "id": words.message_id(event.id, self._asked.seed),
            "type": "message",
            "role": "assistant",
            "model": event.model or self._asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": words.usage_out(event.usage),
        }
        return _event("message_start", {"message": message})

    def _ready(self) -> bytes:
        """The message's start, where no reader has told one."""
        return b"" if self._has_begun else self._begin(Begin())

    # Text and blocks as they are --------------------------------------------------------------------------------------

    def _text(self, text: str, block: int) -> bytes:
        now = self._open
        if now is not None and now.begin is None and now.block == block:
            return _TEXT % (self._next - 1, _dumps(text))
        if self._line and self._line[-1].begin is None and self._line[-1].raw is None and self._line[-1].block == block:
            self._line[-1].pieces.append(text)
            return b""
        waiting = _Waiting(block)
        waiting.pieces.append(text)
        return self._enter(waiting)

    def _closed(self, event: OpaqueBlock) -> bytes:
        if event.kind == words.MEMBERS:
            self._members.update(event.raw)
            return b""
        if event.kind != words.CITATION:
            return self._enter(_Waiting(raw=event.raw))
        if self._open is None or self._open.begin is not None:
            return b""
        delta = {"type": "citations_delta", "citation": event.raw}
        return _event("content_block_delta", {"index": self._next - 1, "delta": delta})

    # Reasoning --------------------------------------------------------------------------------------------------------

    def _think(self, event: ThinkingDelta) -> bytes:
        if self._asked.shows_thinking:
            self._thoughts.append(event.text)
        self._held_thoughts += 1
        return PING if self._held_thoughts % PING_EVERY == 1 else b""

    def _end_thinking(self, event: ThinkingEnd) -> bytes:
        text, self._thoughts, self._held_thoughts = "".join(self._thoughts), [], 0
        if not shows(event.signature, event.redacted, event.origin, self._asked):
            return b""
        return self._enter(_Waiting(raw=thinking_block(text, event.signature, event.redacted)))

    # Calls ------------------------------------------------------------------------------------------------------------

    def _call(self, event: ToolBegin) -> bytes:
        self._has_called = True
        waiting = self._calls[event.index] = _Waiting(begin=event)
        return self._enter(waiting)

    def _arguments(self, event: ToolDelta) -> bytes:
        waiting = self._calls.get(event.index)
        if waiting is None:
            return b""
        if waiting is self._open and waiting.begin is not None and not waiting.begin.custom:
            waiting.was_told = True
            return _JSON % (self._next - 1, _dumps(event.text))
        waiting.pieces.append(event.text)
        return b""

    def _end_call(self, index: int) -> bytes:
        waiting = self._calls.pop(index, None)
        if waiting is None:
            return b""
        waiting.is_whole = True
        if waiting is not self._open:
            return b""
        out: list[bytes] = []
        self._advance(out)
        return b"".join(out)

    # The line ---------------------------------------------------------------------------------------------------------

    def _enter(self, waiting: _Waiting) -> bytes:
        """A block takes its place in line, and is written at once where it can be."""
        out = [self._ready()]
        self._line.append(waiting)
        self._advance(out)
        return b"".join(out)

    def _advance(self, out: list[bytes], at_end: bool = False) -> None:
        """Close what is complete and open what comes next, as far as possible. Text is complete once another block
        waits behind it."""
        while True:
            now = self._open
            if now is not None:
                if not (now.is_whole or (now.begin is None and (self._line or at_end))):
                    return
                self._close(now, out)
            if not self._line:
                return
            self._start(self._line.popleft(), out)

    def _start(self, waiting: _Waiting, out: list[bytes]) -> None:
        index = self._next
        self._next += 1
        self._open = waiting
        begin = waiting.begin
        if waiting.raw is not None:
            _write_raw(index, waiting.raw, out)
        elif begin is None:
            out.append(_started(index, {"type": "text", "text": ""}))
            out.append(_TEXT % (index, _dumps("".join(waiting.pieces))))
        else:
            name = {"id": words.call_id(begin.id, self._asked.seed, begin.index), "name": begin.name}
            out.append(_started(index, {"type": "tool_use", **name, "input": {}}))
            if waiting.pieces and not begin.custom:
                waiting.was_told = True
                out.append(_JSON % (index, _dumps("".join(waiting.pieces))))
                waiting.pieces = []

    def _close(self, now: _Waiting, out: list[bytes]) -> None:
        index = self._next - 1
        if now.begin is not None and not now.was_told:
            arguments = "{}"
            if now.begin.custom:
                arguments = dumped({"input": "".join(now.pieces)})
            out.append(_JSON % (index, _dumps(arguments)))
        out.append(_STOP % index)
        self._open = None


def _event(kind: str, members: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _dumps({"type": kind, **members}))


def _started(index: int, block: Json) -> bytes:
    return _event("content_block_start", {"index": index, "content_block": block})


def _write_raw(index: int, raw: Json, out: list[bytes]) -> None:
    """A whole block: what clients put together from deltas comes in deltas, the rest with the start."""
    kind = raw.get("type")
    deltas: list[Json] = []
    start = dict(raw)
    if kind == "thinking":
        start.update(thinking="", signature="")
        if raw.get("thinking"):
            deltas.append({"type": "thinking_delta", "thinking": raw["thinking"]})
        deltas.append({"type": "signature_delta", "signature": raw.get("signature") or ""})
    elif isinstance(kind, str) and kind.endswith("_tool_use") and "input" in raw:
        start["input"] = {}
        deltas.append({"type": "input_json_delta", "partial_json": dumped(raw["input"])})
    out.append(_started(index, start))
    out += [_event("content_block_delta", {"index": index, "delta": delta}) for delta in deltas]


def stream_writer(asked: Asked) -> MessagesStreamWriter:
    """See `chat`."""
    return MessagesStreamWriter(asked)
