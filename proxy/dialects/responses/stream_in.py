"""The events of a streamed response as canonical events.

Text, arguments and reasoning normally come as deltas; some servers send them only with the event that closes an item,
or only with the whole response at the end. What has not been heard by then is told then, and nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.dialects import sse
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
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
    Used,
)
from proxy.dialects.reading import loads
from proxy.dialects.responses.answers import fault_in, thinking_text
from proxy.dialects.responses.words import (
    CALLS,
    DIALECT,
    annotation_in,
    finish_in,
    mapping,
    objects,
    string,
    usage_in,
)

_LAST: Final = frozenset({"response.completed", "response.incomplete"})
_BLOCKS: Final = 1000
"""Blocks of one item are counted on from the item's own thousand."""


class _Item:
    """What has been heard of one output item."""

    __slots__ = ("call", "heard", "is_over", "kind")

    def __init__(self, kind: str, call: int) -> None:
        self.kind = kind
        self.call = call
        """Index of the call; -1: it is none."""
        self.heard: dict[int, int] = {}
        """Characters told so far, by content index."""
        self.is_over = False


class ResponsesStreamReader:
    """See `StreamReader`."""

    __slots__ = ("_begun", "_buffer", "_calls", "_items", "_over", "_searched", "dropped")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0
        self._begun = False
        self._over = False
        self._calls = 0
        self._items: dict[int, _Item] = {}
        self.dropped = 0

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._over:
            return out
        self._buffer += piece
        at = 0
        start = max(0, self._searched - 3)  # a blank line may have been cut in two
        while (end := sse.next_event(self._buffer, max(at, start))) > 0:
            data = sse.data_of(self._buffer[at:end])
            at = end
            start = 0
            if data is not None and data.strip() and self._data(data, out):
                self._buffer = b""
                return out
        self._buffer = self._buffer[at:]
        self._searched = len(self._buffer)
        return out

    def close(self) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        rest, self._buffer = self._buffer.strip(), b""
        if self._over or not rest:
            return out
        data = sse.data_of(rest)
        parsed = loads(data if data is not None else rest)
        if isinstance(parsed, Mapping) and (data is not None or parsed.get("error") or parsed.get("type") == "error"):
            self._event(parsed, out)
        return out

    def _data(self, data: bytes, out: list[Event]) -> bool:
        """Read one event; whether it was the last."""
        if data.startswith(b"[DONE]"):
            return False
        parsed = loads(data)
        if isinstance(parsed, Mapping):
            self._event(parsed, out)
        else:
            self.dropped += 1
        return self._over

    def _event(self, event: Json, out: list[Event]) -> None:
        kind = string(event.get("type"))
        if kind == "response.output_text.delta":
            self._text(event, out)
        elif kind == "response.function_call_arguments.delta" or kind == "response.custom_tool_call_input.delta":
            self._argument(event, out)
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self._thought(event, out)
        elif kind == "response.refusal.delta":
            self._heard(event, string(event.get("delta")))
            if delta := string(event.get("delta")):
                self._begin({}, out)
                out.append(RefusalDelta(delta))
        elif kind == "response.output_item.added":
            self._added(mapping(event.get("item")), _index(event), out)
        elif kind == "response.output_item.done":
            self._done(mapping(event.get("item")), _index(event), out)
        elif kind == "response.output_text.annotation.added":
            if isinstance(event.get("annotation"), Mapping):
                out.append(Annotated(annotation_in(event["annotation"])))
        elif kind in ("response.created", "response.in_progress", "response.queued"):
            self._begin(mapping(event.get("response")), out)
        elif kind in _LAST:
            self._last(mapping(event.get("response")), out)
        elif (error := fault_in(event)) is not None:
            out.append(Fault(error))
            self._over = True

    def _begin(self, response: Json, out: list[Event]) -> None:
        if self._begun:
            return
        self._begun = True
        created = response.get("created_at")
        out.append(
            Begin(
                string(response.get("id")),
                string(response.get("model")),
                int(created) if isinstance(created, int | float) else None,
                None,
                string(response.get("service_tier")),
            )
        )

    # Deltas -----------------------------------------------------------------------------------------------------------

    def _heard(self, event: Json, delta: str) -> _Item:
        item = self._items.get(_index(event))
        if item is None:
            item = self._items[_index(event)] = _Item("message", -1)
        part = _content(event)
        item.heard[part] = item.heard.get(part, 0) + len(delta)
        return item

    def _text(self, event: Json, out: list[Event]) -> None:
        delta = string(event.get("delta"))
        if delta:
            self._begin({}, out)
            self._heard(event, delta)
            out.append(TextDelta(delta, _index(event) * _BLOCKS + _content(event)))

    def _thought(self, event: Json, out: list[Event]) -> None:
        delta = string(event.get("delta"))
        if delta:
            self._begin({}, out)
            item = self._heard(event, delta)
            item.kind = "reasoning"
            if _content(event) and item.heard[_content(event)] == len(delta):
                delta = "\n\n" + delta  # the next part of a summary
            out.append(ThinkingDelta(delta, _index(event) * _BLOCKS))

    def _argument(self, event: Json, out: list[Event]) -> None:
        item = self._items.get(_index(event))
        delta = string(event.get("delta"))
        if item is not None and item.call >= 0 and delta:
            item.heard[0] = item.heard.get(0, 0) + len(delta)
            out.append(ToolDelta(item.call, delta))

    # Items ------------------------------------------------------------------------------------------------------------

    def _added(self, raw: Json, index: int, out: list[Event]) -> None:
        if index in self._items:
            return
        self._begin({}, out)
        kind = string(raw.get("type"))
        item = self._items[index] = _Item(kind, -1)
        if kind in CALLS:
            item.call = self._calls
            self._calls += 1
            call_id = string(raw.get("call_id")) or string(raw.get("id"))
            out.append(ToolBegin(item.call, call_id, string(raw.get("name")), CALLS[kind]))

    def _done(self, raw: Json, index: int, out: list[Event]) -> None:
        """An item is whole: tell what was not heard of it."""
        if index not in self._items:
            self._added(raw, index, out)
        item = self._items[index]
        if item.is_over:
            return
        item.is_over = True
        kind = string(raw.get("type")) or item.kind
        if kind in CALLS:
            whole = string(raw.get("input" if CALLS[kind] else "arguments"))
            if whole and not item.heard and item.call >= 0:
                out.append(ToolDelta(item.call, whole))
            if item.call >= 0:
                out.append(ToolEnd(item.call))
        elif kind == "message":
            self._message_done(raw, item, index, out)
        elif kind == "reasoning":
            if not item.heard and (text := thinking_text(raw)):
                out.append(ThinkingDelta(text, index * _BLOCKS))
            sealed = string(raw.get("encrypted_content"))
            out.append(ThinkingEnd("", sealed, "openai" if sealed else "", string(raw.get("id"))))
        elif kind:
            out.append(OpaqueBlock(DIALECT, kind, raw))

    def _message_done(self, raw: Json, item: _Item, index: int, out: list[Event]) -> None:
        for at, part in enumerate(objects(raw.get("content"))):
            kind = string(part.get("type"))
            if at in item.heard or kind not in ("output_text", "refusal"):
                continue
            if kind == "refusal":
                if text := string(part.get("refusal")):
                    out.append(RefusalDelta(text))
                continue
            if text := string(part.get("text")):
                out.append(TextDelta(text, index * _BLOCKS + at))
            out.extend(Annotated(annotation_in(each)) for each in objects(part.get("annotations")))

    def _last(self, response: Json, out: list[Event]) -> None:
        self._begin(response, out)
        for index, raw in enumerate(objects(response.get("output"))):
            known = self._items.get(index)
            if known is None or not known.is_over:
                self._done(raw, index, out)
        for item in self._items.values():
            if item.call >= 0 and not item.is_over:
                item.is_over = True
                out.append(ToolEnd(item.call))
        out.append(Stopped(finish_in(response, self._calls > 0)))
        usage = usage_in(response.get("usage"))
        if usage is not None:
            out.append(Used(usage))
        out.append(Ended())
        self._over = True


def _index(event: Json) -> int:
    value = event.get("output_index")
    return value if isinstance(value, int) else 0


def _content(event: Json) -> int:
    for key in ("content_index", "summary_index"):
        value = event.get(key)
        if isinstance(value, int):
            return value
    return 0


def stream_reader() -> ResponsesStreamReader:
    """A reader for one stream."""
    return ResponsesStreamReader()
