"""Events as the chunks of a chat completion. Every chunk is whole: what is the same in all of them is made once."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.dialects.chat import (
    Annotated,
    Asked,
    Begin,
    Event,
    Finish,
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
from proxy.dialects.openai.answer_out import Wishes, answer_id, free_text
from proxy.dialects.openai.words import DIALECT, TIERS, annotation_out, block_out, signature_out, usage_out


class ChatStreamWriter:
    """See `StreamWriter`."""

    __slots__ = (
        "_after",
        "_asked",
        "_bare",
        "_buffered",
        "_custom",
        "_finish",
        "_has_begun",
        "_head",
        "_is_told",
        "_thoughts",
        "_usage",
        "_wishes",
    )

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._wishes = Wishes(asked)
        self._has_begun = False
        self._head = b""
        """Everything of a chunk before its choices."""
        self._after = b',"usage":null}\n\n' if asked.include_usage else b"}\n\n"
        self._bare: set[int] = set()
        """Calls without any argument so far."""
        self._buffered: dict[int, list[str]] = {}
        """Arguments of calls whose input can be read only when they are whole."""
        self._custom: set[int] = set()
        """Calls of tools that take free text, which comes as it is."""
        self._thoughts: list[str] = []
        self._is_told = False
        """A refusal has been told in words."""
        self._finish: Finish | None = None
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """See `StreamWriter`."""
        kind = type(event)
        if kind is TextDelta:
            return self._chunk({"content": event.text})  # type: ignore[union-attr]
        if kind is ToolDelta:
            return self._arguments(event)  # type: ignore[arg-type]
        if kind is ThinkingDelta:
            return self._think(event)  # type: ignore[arg-type]
        if kind is ThinkingEnd:
            return self._end_thinking(event)  # type: ignore[arg-type]
        if kind is ToolBegin:
            return self._call(event)  # type: ignore[arg-type]
        if kind is ToolEnd:
            return self._end_call(event)  # type: ignore[arg-type]
        if kind is Begin:
            return self._begin(event)  # type: ignore[arg-type]
        if kind is Used:
            self._usage = event.usage  # type: ignore[union-attr]
            return b""
        return self._rare(event)

    def _rare(self, event: Event) -> bytes:
        if isinstance(event, RefusalDelta):
            self._is_told = True
            return self._chunk({"refusal": event.text})
        if isinstance(event, Annotated):
            annotation = annotation_out(event.annotation)
            return self._chunk({"annotations": [annotation]}) if annotation is not None else b""
        if isinstance(event, Stopped):
            self._finish = event.finish
            if event.explanation and event.finish is Finish.CONTENT_FILTER and not self._is_told:
                return self._chunk({"refusal": event.explanation})
        elif isinstance(event, OpaqueBlock) and event.dialect == DIALECT:
            return self._chunk(dict(event.raw) if event.kind == "images" else {event.kind: event.raw})
        return b""

    def end(self) -> bytes:
        """See `StreamWriter`."""
        out = self._chunk({}, self._wishes.finish(self._finish or Finish.STOP))
        if self._asked.include_usage:
            usage = usage_out(self._usage or Usage())
            out += b'%b[],"usage":%b}\n\n' % (self._head, orjson.dumps(usage))
        return out + b"data: [DONE]\n\n"

    def fail(self, error: Json) -> bytes:
        """See `StreamWriter`."""
        told = {"message": error.get("message"), "type": error.get("type"), "param": None, "code": error.get("code")}
        return b"data: %b\n\n" % orjson.dumps({"error": told})

    # Chunks -----------------------------------------------------------------------------------------------------------

    def _begin(self, event: Begin) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        if event.usage is not None:
            self._usage = event.usage
        head = {
            "id": answer_id(event.id, self._asked),
            "object": "chat.completion.chunk",
            "created": event.created if event.created is not None else self._asked.created,
            "model": event.model or self._asked.model,
        }
        if event.service_tier in TIERS:
            head["service_tier"] = event.service_tier
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":'
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _chunk(self, delta: dict[str, Any], finish: str = "") -> bytes:
        before = b"" if self._has_begun else self._begin(Begin())
        reason = b'"%b"' % finish.encode() if finish else b"null"
        return b'%b%b[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b' % (
            before,
            self._head,
            orjson.dumps(delta),
            reason,
            self._after,
        )

    # Reasoning --------------------------------------------------------------------------------------------------------

    def _think(self, event: ThinkingDelta) -> bytes:
        if not self._asked.shows_thinking:
            return b""
        self._thoughts.append(event.text)
        return self._chunk({"reasoning_content": event.text})

    def _end_thinking(self, event: ThinkingEnd) -> bytes:
        text, self._thoughts = "".join(self._thoughts), []
        if not self._asked.shows_thinking or not (event.signature or event.redacted):
            return b""
        block = block_out(text, event.signature, event.redacted, event.origin, event.id)
        return self._chunk({"thinking_blocks": [block]})

    # Calls ------------------------------------------------------------------------------------------------------------

    def _call(self, event: ToolBegin) -> bytes:
        if self._wishes.functions:
            if event.index:
                return b""  # the old form has one call only
            self._bare.add(event.index)
            return self._chunk({"function_call": {"name": event.name, "arguments": ""}})
        call: dict[str, Any] = {"index": event.index, "id": event.id}
        if event.custom or event.name in self._wishes.custom:
            call["type"], call["custom"] = "custom", {"name": event.name, "input": ""}
            if event.custom:
                self._custom.add(event.index)
            else:
                self._buffered[event.index] = []
        else:
            call["type"], call["function"] = "function", {"name": event.name, "arguments": ""}
            self._bare.add(event.index)
        if event.signature:
            call["extra_content"] = signature_out(event.signature)
        return self._chunk({"tool_calls": [call]})

    def _arguments(self, event: ToolDelta) -> bytes:
        index = event.index
        if index in self._buffered:
            self._buffered[index].append(event.text)
            return b""
        if self._wishes.functions:
            if index:
                return b""
            self._bare.discard(index)
            return self._chunk({"function_call": {"arguments": event.text}})
        if index in self._custom:
            return self._chunk({"tool_calls": [{"index": index, "custom": {"input": event.text}}]})
        self._bare.discard(index)
        return self._chunk({"tool_calls": [{"index": index, "function": {"arguments": event.text}}]})

    def _end_call(self, event: ToolEnd) -> bytes:
        index = event.index
        if index in self._buffered:
            text = free_text("".join(self._buffered.pop(index)))
            return self._chunk({"tool_calls": [{"index": index, "custom": {"input": text}}]}) if text else b""
        if index not in self._bare:
            return b""
        return self._arguments(ToolDelta(index, "{}"))


def stream_writer(asked: Asked) -> ChatStreamWriter:
    """A fresh writer for one stream."""
    return ChatStreamWriter(asked)
