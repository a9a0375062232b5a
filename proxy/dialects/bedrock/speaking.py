"""ConverseStream written: events to frames. Blocks are numbered in the order in which they begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects.bedrock import words
from proxy.dialects.bedrock.answers import citation
from proxy.dialects.chat import (
    Annotated,
    Asked,
    Begin,
    Event,
    Json,
    OpaqueBlock,
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
from proxy.dialects.eventstream import event_frame, exception_frame

EXCEPTIONS: Final = {
    "rate_limit_error": "throttlingException",
    "insufficient_quota": "throttlingException",
    "service_unavailable_error": "serviceUnavailableException",
    "overloaded_error": "serviceUnavailableException",
    "invalid_request_error": "validationException",
}
"""Type of an error -> the exception that says it; all others: the server's."""


class ConverseWriter:
    """See `StreamWriter`."""

    __slots__ = ("_asked", "_begun", "_block", "_calls", "_next", "_usage")

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._begun = False
        self._block: tuple[tuple[str, int], int] | None = None
        """(kind and block, index) of the text or reasoning that is open."""
        self._calls: dict[int, int] = {}
        """Running index of a call -> index of its block, while it is open."""
        self._next = 0
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """See `StreamWriter`."""
        out: list[bytes] = []
        if not self._begun:
            self._begun = True
            out.append(event_frame("messageStart", {"role": "assistant"}))
        if isinstance(event, TextDelta):
            self._delta(("text", event.block), {"text": event.text}, out)
        elif isinstance(event, ToolDelta):
            index = self._calls.get(event.index)
            if index is not None:
                out.append(_delta_frame(index, {"toolUse": {"input": event.text}}))
        elif isinstance(event, ThinkingDelta):
            self._delta(("thinking", event.block), {"reasoningContent": {"text": event.text}}, out)
        elif isinstance(event, RefusalDelta):
            self._delta(("refusal", 0), {"text": event.text}, out)
        elif isinstance(event, Begin | Used):
            self._usage = event.usage
        else:
            self._other(event, out)
        return b"".join(out)

    def _other(self, event: Event, out: list[bytes]) -> None:
        if isinstance(event, ToolBegin):
            self._close(out)
            index = self._calls[event.index] = self._take()
            call_id = event.id or f"tooluse_{self._asked.seed[:20]}{event.index}"
            start = {"toolUse": {"toolUseId": call_id, "name": event.name}}
            out.append(event_frame("contentBlockStart", {"contentBlockIndex": index, "start": start}))
        elif isinstance(event, ToolEnd):
            self._close_call(event.index, out)
        elif isinstance(event, ThinkingEnd):
            self._end_thinking(event, out)
        elif isinstance(event, Annotated):
            written = citation(event.annotation)
            if written is not None:
                key = self._block[0] if self._block is not None and self._block[0][0] == "text" else ("text", -1)
                self._delta(key, {"citation": written}, out)
        elif isinstance(event, OpaqueBlock):
            self._opaque(event, out)
        elif isinstance(event, Stopped):
            self._close(out)
            for call in list(self._calls):
                self._close_call(call, out)
            stop: dict[str, Any] = {"stopReason": words.STOP_REASON[event.finish]}
            if event.stop_sequence is not None:
                stop["additionalModelResponseFields"] = {"stop_sequence": event.stop_sequence}
            out.append(event_frame("messageStop", stop))

    def end(self) -> bytes:
        """See `StreamWriter`. Usage that nobody told is left out: zeros would be a lie."""
        if self._usage is None:
            return b""
        return event_frame("metadata", {"usage": words.usage_out(self._usage), "metrics": {"latencyMs": 0}})

    def fail(self, error: Json) -> bytes:
        """See `StreamWriter`: an exception, as Bedrock itself ends a stream that has failed."""
        name = EXCEPTIONS.get(str(error.get("type") or ""), "internalServerException")
        return exception_frame(name, {"message": str(error.get("message") or "")})

    # Blocks -----------------------------------------------------------------------------------------------------------

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    def _delta(self, key: tuple[str, int], delta: Mapping[str, Any], out: list[bytes]) -> None:
        """A delta of text or reasoning; a block of another kind or number is closed first."""
        if self._block is None or self._block[0] != key:
            self._close(out)
            self._block = (key, self._take())
        out.append(_delta_frame(self._block[1], delta))

    def _close(self, out: list[bytes]) -> None:
        if self._block is not None:
            out.append(event_frame("contentBlockStop", {"contentBlockIndex": self._block[1]}))
            self._block = None

    def _close_call(self, call: int, out: list[bytes]) -> None:
        index = self._calls.pop(call, None)
        if index is not None:
            out.append(event_frame("contentBlockStop", {"contentBlockIndex": index}))

    def _end_thinking(self, event: ThinkingEnd, out: list[bytes]) -> None:
        is_open = self._block is not None and self._block[0][0] == "thinking"
        key = self._block[0] if self._block is not None and is_open else ("thinking", -1)
        if event.origin == "anthropic":
            if event.redacted:
                blob = words.redacted_out(event.redacted)
                self._delta(key, {"reasoningContent": {"redactedContent": blob}}, out)
            elif event.signature:
                self._delta(key, {"reasoningContent": {"signature": event.signature}}, out)
        if self._block is not None and self._block[0][0] == "thinking":
            self._close(out)

    def _opaque(self, event: OpaqueBlock, out: list[bytes]) -> None:
        """A tool of Bedrock's own and its result; what other dialects have alone is left out."""
        if event.dialect != words.DIALECT:
            return
        for member, payload in (("toolUse", "input"), ("toolResult", "content")):
            inner = event.raw.get(member)
            if not isinstance(inner, Mapping):
                continue
            self._close(out)
            index = self._take()
            start = {member: {key: value for key, value in inner.items() if key != payload}}
            value = inner.get(payload)
            delta = {"input": orjson.dumps(value).decode()} if member == "toolUse" else value
            out.append(event_frame("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            out.append(_delta_frame(index, {member: delta}))
            out.append(event_frame("contentBlockStop", {"contentBlockIndex": index}))


def _delta_frame(index: int, delta: Mapping[str, Any]) -> bytes:
    return event_frame("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})


def stream_writer(asked: Asked) -> ConverseWriter:
    """See `chat`."""
    return ConverseWriter(asked)
