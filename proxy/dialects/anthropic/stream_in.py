"""A streamed answer of the Messages API as events, whatever the sizes of the pieces (`providers.md` 1.1, 1.5).

Blocks come one after the other, each with a start and an end. A call is counted among the caller's calls, not among the
blocks. Blocks of tools that run at Anthropic are collected and handed on whole, so that nothing in them can be taken
for a call of the caller's. Events and deltas that did not exist when this was written are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from proxy.dialects import sse
from proxy.dialects.anthropic import words
from proxy.dialects.anthropic.answers import KNOWN, fault_in, read_answer
from proxy.dialects.anthropic.words import DIALECT, ORIGIN
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    OpaqueBlock,
    Ping,
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
from proxy.dialects.eventstream import Unwrapping
from proxy.dialects.members import dumped, finish_in, mapping, string
from proxy.dialects.reading import loads

_LAST: Final = (Fault, Ended)
_EXPECTED: Final = KNOWN | {"context_management"}
"""Members of the message's start; a context's management is told again at its end."""

Raw = dict[str, Any]


class _Block:
    """A content block that is under way."""

    __slots__ = ("call", "citations", "fragments", "given", "kind", "raw", "signature", "start")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """Its type in the dialect."""
        self.call = -1
        """Place among the caller's calls; -1: it is none."""
        self.given: Any = None
        """Arguments that came with the start."""
        self.fragments: list[str] = []
        self.signature = ""
        self.raw: Raw = {}
        """The block as it began, where it is handed on whole."""
        self.start = 0
        """Characters of text before it."""
        self.citations: list[Raw] = []


class MessagesStreamReader:
    """See `StreamReader`."""

    __slots__ = (
        "_begun",
        "_blocks",
        "_calls",
        "_frames",
        "_has_blocks",
        "_is_over",
        "_is_stopped",
        "_length",
        "_members",
        "_usage",
        "dropped",
    )

    def __init__(self) -> None:
        self.dropped = 0
        self._frames = sse.Frames()
        self._is_over = False
        self._begun = False
        self._is_stopped = False
        self._has_blocks = False
        self._blocks: dict[int, _Block] = {}
        """The open ones, by their index in the message."""
        self._calls = 0
        self._length = 0
        """Characters of text so far."""
        self._usage: Raw = {}
        self._members: Raw = {}
        """Members of the message that have no place in the canonical form."""

    # Framing ----------------------------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._is_over:
            return out
        for event in self._frames.take(piece):
            self._event(event, out)
            if out and type(out[-1]) in _LAST:
                self._is_over = True
                break
        return out

    def close(self) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._is_over:
            return out
        self._is_over = True
        rest = self._frames.rest()
        data = sse.data_of(rest)
        parsed = loads(data if data is not None else rest.strip())
        if isinstance(parsed, dict):
            if data is None and not self._begun and parsed.get("type") == "message":
                return list(events_of(read_answer(parsed)))  # one body where events were asked for
            self._told(parsed, out, data is None)
        if self._is_stopped and not (out and type(out[-1]) in _LAST):
            out.append(Ended())
        return out

    def _event(self, event: bytes, out: list[Event]) -> None:
        data = _data(event)
        if data is None or not data.strip() or data.startswith(b"[DONE]"):
            return
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.dropped += 1
            return
        if type(parsed) is dict:
            self._told(parsed, out, False)
        else:
            self.dropped += 1

    def _told(self, event: Raw, out: list[Event], is_bare: bool) -> None:
        """`is_bare`: it did not come as an event."""
        kind = event.get("type")
        handle = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handle is not None and "error" not in event:
            handle(self, event, out)
            return
        fault = fault_in(event) if is_bare or kind in ("error", None) or "error" in event else None
        if fault is not None:
            out.append(Fault(fault))

    # Message ----------------------------------------------------------------------------------------------------------

    def _message_start(self, event: Raw, out: list[Event]) -> None:
        message = mapping(event.get("message"))
        self._merge(message.get("usage"))
        if self._begun:
            if self._has_blocks:
                # Another answer spliced into this one: what was sent of the first cannot be taken back.
                out.append(Fault({"type": "api_error", "message": "a second message began inside the first"}))
            return
        self._begun = True
        self._members = {name: value for name, value in message.items() if name not in _EXPECTED and value is not None}
        usage = words.usage_in(self._usage)
        tier = string(self._usage.get("service_tier"))
        out.append(Begin(string(message.get("id")), string(message.get("model")), None, usage, tier))

    def _message_delta(self, event: Raw, out: list[Event]) -> None:
        usage = event.get("usage")
        self._merge(usage)
        delta = mapping(event.get("delta"))
        for holder in (event, delta):
            for name, value in holder.items():
                if name not in ("type", "delta", "usage", "stop_reason", "stop_sequence") and value is not None:
                    self._members[name] = value
        reason = delta.get("stop_reason")
        if isinstance(reason, str):
            self._stop(reason, delta.get("stop_sequence"), out)
        if isinstance(usage, Mapping) and (told := words.usage_in(self._usage)) is not None:
            out.append(Used(told))

    def _stop(self, reason: str | None, sequence: Any, out: list[Event]) -> None:
        if self._is_stopped:
            return
        self._begin(out)
        self._is_stopped = True
        for index in list(self._blocks):
            self._end(index, out)
        finish = finish_in(words.FINISH, reason, self._calls)
        explanation = ""
        if finish is Finish.CONTENT_FILTER:
            details = self._members.setdefault("stop_details", None)
            explanation = words.explanation_in(details) or words.REFUSED
        if self._members:
            out.append(OpaqueBlock(DIALECT, words.MEMBERS, self._members))
        out.append(Stopped(finish, sequence if isinstance(sequence, str) else None, explanation))

    def _message_stop(self, event: Raw, out: list[Event]) -> None:
        self._stop("end_turn", None, out)  # where no reason was told
        out.append(Ended())

    def _ping(self, event: Raw, out: list[Event]) -> None:
        out.append(Ping())

    def _begin(self, out: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            out.append(Begin())

    def _merge(self, usage: Any) -> None:
        """Usage is cumulative: later numbers replace earlier ones, missing ones and nulls do not."""
        if isinstance(usage, Mapping):
            told = {name: value for name, value in usage.items() if value is not None}
            self._usage = {**self._usage, **told}

    # Blocks -----------------------------------------------------------------------------------------------------------

    def _block_start(self, event: Raw, out: list[Event]) -> None:
        self._begin(out)
        self._has_blocks = True
        index = _index(event)
        if index in self._blocks:
            self._end(index, out)
        raw = event.get("content_block")
        raw = raw if type(raw) is dict else {}
        kind = string(raw.get("type"))
        block = self._blocks[index] = _Block(kind)
        if kind == "text":
            self._begin_text(block, raw, index, out)
        elif kind == "tool_use":
            block.call = self._calls
            self._calls += 1
            block.given = raw.get("input")
            out.append(ToolBegin(block.call, string(raw.get("id")), string(raw.get("name"))))
        elif kind == "thinking":
            block.signature = string(raw.get("signature"))
            if text := string(raw.get("thinking")):
                out.append(ThinkingDelta(text, index))
        else:
            block.raw = raw

    def _begin_text(self, block: _Block, raw: Raw, index: int, out: list[Event]) -> None:
        block.start = self._length
        citations = raw.get("citations")
        if isinstance(citations, list):
            block.citations = [each for each in citations if type(each) is dict]
        if text := string(raw.get("text")):
            self._length += len(text)
            out.append(TextDelta(text, index))

    def _delta(self, event: Raw, out: list[Event]) -> None:
        delta = event.get("delta")
        if type(delta) is not dict:
            return
        index = _index(event)
        block = self._blocks.get(index)
        kind = delta.get("type")
        if block is None:
            block = self._unannounced(kind, index, out)
            if block is None:
                return
        if kind == "text_delta":
            text = delta.get("text")
            if type(text) is str and text:
                self._length += len(text)
                out.append(TextDelta(text, index))
        elif kind == "input_json_delta":
            text = delta.get("partial_json")
            if type(text) is str and text:
                block.fragments.append(text)
                if block.call >= 0:
                    out.append(ToolDelta(block.call, text))
        elif kind == "thinking_delta":
            text = delta.get("thinking")
            if type(text) is str and text:
                out.append(ThinkingDelta(text, index))
        elif kind == "signature_delta":
            block.signature += string(delta.get("signature"))
        elif kind == "citations_delta":
            if type(citation := delta.get("citation")) is dict:
                block.citations.append(citation)
        elif block.raw:
            _grow(block, delta)

    def _unannounced(self, kind: Any, index: int, out: list[Event]) -> _Block | None:
        """A block whose start was not sent, as some imitations leave it out; None: it says nothing without one."""
        known = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}.get(kind)
        if known is None:
            return None
        self._begin(out)
        self._has_blocks = True
        block = self._blocks[index] = _Block(known)
        block.start = self._length
        return block

    def _block_stop(self, event: Raw, out: list[Event]) -> None:
        self._end(_index(event), out)

    def _end(self, index: int, out: list[Event]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.call >= 0:
            if not block.fragments and block.given not in (None, {}, ""):
                given = block.given  # it came whole, with the start
                out.append(ToolDelta(block.call, given if isinstance(given, str) else dumped(given)))
            out.append(ToolEnd(block.call))
        elif block.kind == "text":
            self._cite(block, out)
        elif block.kind == "thinking":
            out.append(ThinkingEnd(block.signature, "", ORIGIN if block.signature else ""))
        elif block.kind == "redacted_thinking":
            out.append(ThinkingEnd("", string(block.raw.get("data")), ORIGIN))
        elif block.kind:
            out.append(OpaqueBlock(DIALECT, block.kind, _whole(block)))

    def _cite(self, block: _Block, out: list[Event]) -> None:
        """The sources of a text, once it is whole: in OpenAI's form for others, and as they came for this dialect."""
        for citation in block.citations:
            note = words.annotation(citation, block.start, self._length)
            if note is not None:
                out.append(Annotated(note))
            out.append(OpaqueBlock(DIALECT, words.CITATION, citation))


def _data(event: bytes) -> bytes | None:
    """The data of an event. Nearly all have one line for their name and one for their data."""
    if event[:6] == b"event:" and event.endswith(b"\n\n") and event.count(b"\n") == 3 and b"\r" not in event:
        at = event.find(b"\ndata: ")
        if at >= 0:
            return event[at + 7 : -2]
    return sse.data_of(event)


def _index(event: Raw) -> int:
    index = event.get("index")
    return index if type(index) is int else 0


def _grow(block: _Block, delta: Raw) -> None:
    """A delta of a block that is handed on whole: text is added to what is there, anything else replaces it."""
    grown = dict(block.raw)
    for name, value in delta.items():
        have = grown.get(name)
        if name != "type":
            grown[name] = have + value if isinstance(have, str) and isinstance(value, str) else value
    block.raw = grown


def _whole(block: _Block) -> Raw:
    """The block as it would stand in a whole answer."""
    if not block.fragments:
        return block.raw
    text = "".join(block.fragments)
    given = loads(text.encode())
    return {**block.raw, "input": {"_raw": text} if given is None else given}


_Handler = Callable[[MessagesStreamReader, Raw, list[Event]], None]
_HANDLERS: Final[Mapping[str, _Handler]] = {
    "content_block_delta": MessagesStreamReader._delta,
    "content_block_start": MessagesStreamReader._block_start,
    "content_block_stop": MessagesStreamReader._block_stop,
    "message_start": MessagesStreamReader._message_start,
    "message_delta": MessagesStreamReader._message_delta,
    "message_stop": MessagesStreamReader._message_stop,
    "ping": MessagesStreamReader._ping,
}


def stream_reader() -> MessagesStreamReader:
    """See `chat`."""
    return MessagesStreamReader()


def invoke_stream_reader() -> Unwrapping:
    """The same out of the frames of Bedrock's ``invoke-with-response-stream``."""
    return Unwrapping(MessagesStreamReader())
