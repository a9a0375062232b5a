"""Canonical events as the events of a streamed response (`providers.md` 1.3).

One item is open at a time, and closed before the next one begins. Calls that a chat upstream writes side by side come
one after the other: the first one streams, the others are kept until it is whole. What is said while a call is open is
kept too, until all calls are whole.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from proxy.dialects import sse
from proxy.dialects.chat import (
    Annotated,
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
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolEnd,
    Usage,
    Used,
)
from proxy.dialects.members import mapping, string
from proxy.dialects.reading import loads
from proxy.dialects.responses.answers import (
    call_id,
    call_item,
    item_id,
    message_item,
    reasoning_item,
    skeleton,
    text_part,
)
from proxy.dialects.responses.words import DIALECT, TIERS, annotation_out, error_out, status_out, usage_out

_CALLING: Final = frozenset({ToolDelta, ToolEnd, ToolBegin, Begin, Stopped, Used})
"""Events that may come while a call is open."""
_NUMBER: Final = re.compile(rb'"sequence_number":\s*(\d+)')


class _Call:
    """A call that has not been closed yet."""

    __slots__ = ("begin", "fragments", "is_over")

    def __init__(self, begin: ToolBegin) -> None:
        self.begin = begin
        self.fragments: list[str] = []
        self.is_over = False

    def whole(self) -> ToolCall:
        begin = self.begin
        return ToolCall(id=begin.id, name=begin.name, arguments="".join(self.fragments), custom=begin.custom)


class ResponsesStreamWriter:
    """See `StreamWriter`."""

    __slots__ = (
        "_annotations",
        "_asked",
        "_base",
        "_calls",
        "_content",
        "_finish",
        "_held",
        "_is_refused",
        "_item",
        "_kind",
        "_live",
        "_number",
        "_output",
        "_text",
        "_tier",
        "_usage",
    )

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._base: dict[str, Any] = {}
        """The response object without its answer; empty before the first event."""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._kind = ""
        """Kind of the open item: ``text``, ``refusal``, ``reasoning``, ``call``; empty: none is open."""
        self._item = ""
        self._text: list[str] = []
        self._annotations: list[Json] = []
        self._content: list[dict[str, Any]] = []
        """Parts of the open message that are closed already."""
        self._calls: dict[int, _Call] = {}
        """Calls that are not closed, by index."""
        self._live = -1
        """Index of the call that is the open item; -1: none is."""
        self._held: list[Event] = []
        """What was said while a call was open."""
        self._is_refused = False
        """A refusal has been told in words."""
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._tier = ""

    def feed(self, event: Event) -> bytes:
        """See `StreamWriter`."""
        kind = type(event)
        if not self._base and kind is Ping:
            return b""  # OpenRouter's comments before the first chunk: the model is not known yet
        out = b"" if self._base else self._begin(event if isinstance(event, Begin) else Begin())
        if self._live >= 0 and kind not in _CALLING:
            self._held.append(event)
            return out
        if kind is TextDelta:
            return out + self._say("text", event.text)  # type: ignore[union-attr]
        if kind is ToolDelta:
            return out + self._argument(event)  # type: ignore[arg-type]
        if kind is ThinkingDelta:
            return out + self._think(event.text)  # type: ignore[union-attr]
        if kind is ThinkingEnd:
            return out + self._end_thinking(event)  # type: ignore[arg-type]
        if kind is ToolBegin:
            return out + self._begin_call(event)  # type: ignore[arg-type]
        if kind is ToolEnd:
            return out + self._end_call(event.index)  # type: ignore[union-attr]
        return out + self._rare(event)

    def _rare(self, event: Event) -> bytes:
        if isinstance(event, RefusalDelta):
            self._is_refused = True
            return self._say("refusal", event.text)
        if isinstance(event, Annotated):
            return self._annotate(event.annotation)
        if isinstance(event, OpaqueBlock):
            return self._opaque(event)
        if isinstance(event, Used):
            self._usage = event.usage
        elif isinstance(event, Stopped):
            self._finish = event.finish
            if event.explanation and event.finish is Finish.CONTENT_FILTER and not self._is_refused:
                return self.feed(RefusalDelta(event.explanation))
        return b""

    def end(self) -> bytes:
        """See `StreamWriter`."""
        out = b"" if self._base else self._begin(Begin())
        status, details = status_out(self._finish or Finish.STOP)
        for index in sorted(self._calls):
            out += self._end_call(index)
        out += self._close(status)
        response = self._response(status) | {"incomplete_details": details}
        if self._usage is not None:
            response["usage"] = usage_out(self._usage)
        return out + self._event(f"response.{status}", {"response": response})

    def fail(self, error: Json) -> bytes:
        """See `StreamWriter`. Some clients wait for this event and do not look at a bare ``error``."""
        if not self._base:
            self._base = skeleton(self._asked, "", None, "")
        return self._event("response.failed", {"response": self._response("failed") | {"error": error_out(error)}})

    def resume(self, sent: bytes) -> None:
        """Take over the ids and the count of a stream that somebody else has written so far: `sent` are its bytes, and
        its events have been fed to this writer."""
        for event in sse.events(sent):
            parsed = loads(sse.data_of(event) or b"")
            if not isinstance(parsed, dict):
                continue
            kind = parsed.get("type")
            if isinstance(parsed.get("sequence_number"), int):
                self._number = parsed["sequence_number"] + 1
            if kind == "response.created":
                self._base = {**self._base, **mapping(parsed.get("response")), "output": []}
                self._output = []
            elif kind == "response.output_item.done":
                self._output.append(dict(mapping(parsed.get("item"))))
            elif kind == "response.output_item.added":
                self._item = string(mapping(parsed.get("item")).get("id")) or self._item

    # The frame --------------------------------------------------------------------------------------------------------

    def _event(self, kind: str, members: dict[str, Any]) -> bytes:
        body = orjson.dumps({"type": kind, "sequence_number": self._number, **members})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)

    def _begin(self, event: Begin) -> bytes:
        self._base = skeleton(self._asked, event.id, event.created, event.model)
        self._tier = event.service_tier if event.service_tier in TIERS else ""
        self._usage = event.usage
        opened = {"response": self._response("in_progress")}
        return self._event("response.created", opened) + self._event("response.in_progress", opened)

    def _response(self, status: str) -> dict[str, Any]:
        response = {**self._base, "status": status, "output": self._output}
        if self._tier:
            response["service_tier"] = self._tier
        return response

    @property
    def _at(self) -> int:
        return len(self._output)

    def _added(self, item: dict[str, Any]) -> bytes:
        return self._event("response.output_item.added", {"output_index": self._at, "item": item})

    def _done(self, item: dict[str, Any]) -> bytes:
        out = self._event("response.output_item.done", {"output_index": self._at, "item": item})
        self._output.append(item)
        self._kind = ""
        return out

    def _close(self, status: str = "completed") -> bytes:
        """Close the open item, whatever it is; a call that still grows is closed by its own end. `status`: a message's,
        which the end of the answer may have cut short."""
        if self._kind in ("text", "refusal"):
            out = self._close_part()
            content, self._content = self._content, []
            return out + self._done(message_item(self._item, content, status))
        if self._kind == "reasoning":
            return self._close_reasoning("", "")
        return b""

    # Messages ---------------------------------------------------------------------------------------------------------

    def _say(self, kind: str, text: str) -> bytes:
        out = b"" if self._kind == kind else self._open_part(kind)
        self._text.append(text)
        if kind == "text":
            return out + self._event("response.output_text.delta", {**self._place(), "delta": text, "logprobs": []})
        return out + self._event("response.refusal.delta", {**self._place(), "delta": text})

    def _open_part(self, kind: str) -> bytes:
        """Begin a part of the open message, or a message."""
        if self._kind in ("text", "refusal"):
            out = self._close_part()
        else:
            out = self._close()
            self._item = item_id("msg", self._asked, self._at)
            out += self._added(message_item(self._item, [], "in_progress"))
        self._kind = kind
        part = text_part("", []) if kind == "text" else {"type": "refusal", "refusal": ""}
        return out + self._event("response.content_part.added", {**self._place(), "part": part})

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": self._at, "content_index": len(self._content)}

    def _close_part(self) -> bytes:
        text = "".join(self._text)
        place = self._place()
        if self._kind == "text":
            part = text_part(text, self._annotations)
            out = self._event("response.output_text.done", {**place, "text": text, "logprobs": []})
        else:
            part = {"type": "refusal", "refusal": text}
            out = self._event("response.refusal.done", {**place, "refusal": text})
        out += self._event("response.content_part.done", {**place, "part": part})
        self._content.append(part)
        self._text, self._annotations = [], []
        return out

    def _annotate(self, annotation: Json) -> bytes:
        told = annotation_out(annotation)
        if told is None:
            return b""
        out = b"" if self._kind == "text" else self._open_part("text")
        self._annotations.append(told)
        members = {**self._place(), "annotation_index": len(self._annotations) - 1, "annotation": told}
        return out + self._event("response.output_text.annotation.added", members)

    # Reasoning --------------------------------------------------------------------------------------------------------

    def _think(self, text: str) -> bytes:
        out = b""
        if not self._asked.shows_thinking:
            return out
        if self._kind != "reasoning":
            out = self._close()
            self._kind = "reasoning"
            self._item = item_id("rs", self._asked, self._at)
            out += self._added({"id": self._item, "type": "reasoning", "summary": []})
            part = {"type": "summary_text", "text": ""}
            out += self._event("response.reasoning_summary_part.added", {**self._summary(), "part": part})
        self._text.append(text)
        return out + self._event("response.reasoning_summary_text.delta", {**self._summary(), "delta": text})

    def _summary(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": self._at, "summary_index": 0}

    def _end_thinking(self, event: ThinkingEnd) -> bytes:
        sealed = event.redacted if event.origin == "openai" else ""
        if self._kind == "reasoning":
            return self._close_reasoning(sealed, event.id)
        if not sealed or not self._asked.shows_thinking:
            return b""
        out = self._close()
        item = reasoning_item(
            Thinking(redacted=sealed, origin="openai", id=event.id), item_id("rs", self._asked, self._at)
        )
        assert item is not None
        return out + self._added(item) + self._done(item)

    def _close_reasoning(self, sealed: str, name: str) -> bytes:
        text, self._text = "".join(self._text), []
        part = {"type": "summary_text", "text": text}
        out = self._event("response.reasoning_summary_text.done", {**self._summary(), "text": text})
        out += self._event("response.reasoning_summary_part.done", {**self._summary(), "part": part})
        item: dict[str, Any] = {"id": self._item, "type": "reasoning", "summary": [part]}
        if sealed:
            item["encrypted_content"] = sealed
        return out + self._done(item)

    # Calls ------------------------------------------------------------------------------------------------------------

    def _begin_call(self, event: ToolBegin) -> bytes:
        out = self._close()
        self._calls[event.index] = _Call(event)
        return out + self._next_calls() if self._live < 0 else out

    def _next_calls(self) -> bytes:
        """Open the next call that waits; close those that are whole already."""
        out = b""
        while self._live < 0 and self._calls:
            self._live = min(self._calls)
            call = self._calls[self._live]
            self._kind = "call"
            self._item = item_id("fc", self._asked, self._at)
            opened = ToolCall(id=call.begin.id, name=call.begin.name, arguments="", custom=call.begin.custom)
            item = call_item(opened, self._item, self._call_id(call), "in_progress")
            self._item = item["id"]
            out += self._added(item)
            if call.fragments:
                out += self._grow(call, "".join(call.fragments))
            if call.is_over:
                out += self._finish_live()
        return out

    def _call_id(self, call: _Call) -> str:
        return call.begin.id or call_id(self._asked, call.begin.index)

    def _grow(self, call: _Call, text: str) -> bytes:
        kind = "custom_tool_call_input" if call.begin.custom else "function_call_arguments"
        place = {"item_id": self._item, "output_index": self._at}
        return self._event(f"response.{kind}.delta", {**place, "delta": text})

    def _argument(self, event: ToolDelta) -> bytes:
        call = self._calls.get(event.index)
        if call is None:
            return b""
        call.fragments.append(event.text)
        return self._grow(call, event.text) if event.index == self._live else b""

    def _end_call(self, index: int) -> bytes:
        call = self._calls.get(index)
        if call is None:
            return b""
        call.is_over = True
        if index != self._live:
            return b""
        out = self._finish_live() + self._next_calls()
        if self._live < 0 and self._held:
            held, self._held = self._held, []
            out += b"".join(self.feed(event) for event in held)
        return out

    def _finish_live(self) -> bytes:
        call = self._calls.pop(self._live)
        self._live = -1
        whole = call.whole()
        item = call_item(whole, self._item, self._call_id(call), "completed")
        item["id"] = self._item
        place = {"item_id": self._item, "output_index": self._at}
        if whole.custom:
            out = self._event("response.custom_tool_call_input.done", {**place, "input": item["input"]})
        else:
            out = b"" if call.fragments else self._grow(call, item["arguments"])
            members = {**place, "arguments": item["arguments"], "name": whole.name}
            out += self._event("response.function_call_arguments.done", members)
        return out + self._done(item)

    def _opaque(self, event: OpaqueBlock) -> bytes:
        if event.dialect != DIALECT:
            return b""
        item = dict(event.raw)
        return self._close() + self._added(item) + self._done(item)


def stream_writer(asked: Asked) -> ResponsesStreamWriter:
    """A writer for one stream."""
    return ResponsesStreamWriter(asked)
