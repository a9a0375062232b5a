"""The events of a streamed response as canonical events.

Text, arguments and reasoning normally come as deltas; some servers send them only with the event that closes a part or
an item, or only with the whole response at the end. What has not been heard by then is told then, and nothing twice:
the n-th item of a kind in the whole response is the n-th of that kind in the stream, because not every server keeps
indexes and ids in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects import sse
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
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
    Used,
)
from proxy.dialects.members import mapping, objects, string
from proxy.dialects.reading import loads
from proxy.dialects.responses.answers import fault_in, thinking_text
from proxy.dialects.responses.words import CALLS, DIALECT, annotation_in, finish_in, usage_in

_LAST: Final = frozenset({"response.completed", "response.incomplete"})
_OPENINGS: Final = frozenset({"response.created", "response.in_progress", "response.queued"})
_ARGUMENTS: Final = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
_THOUGHTS: Final = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_PARTS: Final = frozenset(
    {"response.output_text.done", "response.refusal.done", "response.reasoning_text.done",
     "response.reasoning_summary_text.done"}
)  # fmt: skip
"""Ends of parts, with the whole text."""
_WHOLE_ARGUMENTS: Final = frozenset({"response.function_call_arguments.done", "response.custom_tool_call_input.done"})
_ENDS: Final = (Fault, Ended)
_BLOCKS: Final = 1000
"""Blocks of one item are counted on from the item's own thousand."""


class _Item:
    """What has been heard of one output item."""

    __slots__ = ("annotations", "call", "call_id", "heard", "is_over", "kind", "name", "pieces")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.call = -1
        """Index of the call; -1: it is none, or its name is not known yet."""
        self.call_id = ""
        self.name = ""
        self.pieces: list[str] = []
        """Arguments of a call whose name is not known yet."""
        self.heard: set[int] = set()
        """Indexes of the parts of which something has been told."""
        self.annotations = 0
        self.is_over = False


class ResponsesStreamReader:
    """See `StreamReader`."""

    __slots__ = ("_begun", "_calls", "_frames", "_ids", "_is_over", "_items", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._frames = sse.Frames()
        self._begun = False
        self._is_over = False
        self._calls = 0
        self._items: dict[int, _Item] = {}
        """By output index."""
        self._ids: dict[str, int] = {}
        """Item id -> output index, for events that leave the index out."""

    # Framing ----------------------------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._is_over:
            return out
        for event in self._frames.take(piece):
            self._framed(event, out)
            if out and type(out[-1]) in _ENDS:
                break
        return out

    def close(self) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        rest = self._frames.rest().strip()
        if self._is_over or not rest:
            return out
        data = sse.data_of(rest)
        if data is None:
            self._bare(rest, out)
        elif isinstance(parsed := loads(data), Mapping):
            self._event(parsed, out)
        return out

    def _framed(self, event: bytes, out: list[Event]) -> None:
        data = sse.data_of(event)
        if data is None:
            if event.startswith(b":"):
                out.append(Ping())
            else:
                self._bare(event, out)
            return
        parsed = loads(data)
        if isinstance(parsed, Mapping):
            self._event(parsed, out)
        elif data.strip() and not data.startswith(b"[DONE]"):
            self.dropped += 1

    def _bare(self, text: bytes, out: list[Event]) -> None:
        """An error that is no event of the stream, only its JSON."""
        text = text.strip()
        parsed = loads(text) if text.startswith(b"{") else None
        if isinstance(parsed, Mapping) and (error := fault_in(parsed)) is not None:
            self._fail(error, out)

    def _fail(self, error: Json, out: list[Event]) -> None:
        out.append(Fault(error))
        self._is_over = True

    # Events -----------------------------------------------------------------------------------------------------------

    def _event(self, event: Json, out: list[Event]) -> None:
        kind = string(event.get("type"))
        if kind == "response.output_text.delta":
            self._text(event, out)
        elif kind in _ARGUMENTS:
            self._argument(event, out)
        elif kind in _THOUGHTS:
            self._think(event, string(event.get("delta")), out)
        elif kind == "response.refusal.delta":
            self._refuse(event, string(event.get("delta")), out)
        elif kind == "response.output_item.added":
            self._added(mapping(event.get("item")), self._place(event, True), out)
        elif kind == "response.output_item.done":
            self._done(mapping(event.get("item")), self._place(event, True), out)
        elif kind in _PARTS:
            self._part_done(event, out)
        elif kind in _WHOLE_ARGUMENTS:
            self._arguments_done(event, out)
        elif kind == "response.output_text.annotation.added":
            self._annotate(event, out)
        elif kind in _OPENINGS:
            self._begin(mapping(event.get("response")), out)
        elif kind in _LAST and mapping(event.get("response")).get("status") != "failed":
            self._last(mapping(event.get("response")), kind == "response.incomplete", out)
        elif kind == "keepalive":
            out.append(Ping())
        elif (error := fault_in(event)) is not None:
            self._fail(error, out)

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

    def _place(self, event: Json, is_item: bool = False) -> int:
        """Output index of an event; one that names none belongs to the item of its id, else to the latest one."""
        index = event.get("output_index")
        name = string(mapping(event.get("item")).get("id") if is_item else event.get("item_id"))
        if isinstance(index, int):
            if is_item and name:
                self._ids[name] = index
            return index
        if name in self._ids:
            return self._ids[name]
        latest = max(self._items, default=-1)
        if not is_item:
            return max(latest, 0)
        if name:
            self._ids[name] = latest + 1
        return latest + 1

    def _item(self, event: Json, kind: str) -> tuple[int, _Item]:
        """Index and item of a delta; a server may forget to open it."""
        index = self._place(event)
        item = self._items.get(index)
        if item is None:
            item = self._items[index] = _Item(kind)
        return index, item

    # Text and reasoning -----------------------------------------------------------------------------------------------

    def _text(self, event: Json, out: list[Event], name: str = "delta") -> None:
        text = event.get(name)
        if not text or not isinstance(text, str):
            return
        if not self._begun:
            self._begin({}, out)
        index, item = self._item(event, "message")
        part = _part(event)
        item.heard.add(part)
        out.append(TextDelta(text, index * _BLOCKS + part))

    def _refuse(self, event: Json, text: str, out: list[Event]) -> None:
        if text:
            self._begin({}, out)
            self._item(event, "message")[1].heard.add(_part(event))
            out.append(RefusalDelta(text))

    def _think(self, event: Json, text: str, out: list[Event]) -> None:
        if not text:
            return
        self._begin({}, out)
        index, item = self._item(event, "reasoning")
        part = _part(event)
        if item.heard and part not in item.heard:
            text = "\n\n" + text  # the next part of a summary
        item.heard.add(part)
        out.append(ThinkingDelta(text, index * _BLOCKS))

    def _part_done(self, event: Json, out: list[Event]) -> None:
        """A part is whole: tell its text if nothing of it has been heard."""
        item = self._items.get(self._place(event))
        if item is not None and (item.is_over or _part(event) in item.heard):
            return
        if event["type"] == "response.output_text.done":
            self._text(event, out, "text")
        elif event["type"] == "response.refusal.done":
            self._refuse(event, string(event.get("refusal")), out)
        else:
            self._think(event, string(event.get("text")), out)

    def _annotate(self, event: Json, out: list[Event]) -> None:
        annotation = event.get("annotation")
        if isinstance(annotation, Mapping):
            self._begin({}, out)
            self._item(event, "message")[1].annotations += 1
            out.append(Annotated(annotation_in(annotation)))

    # Calls ------------------------------------------------------------------------------------------------------------

    def _argument(self, event: Json, out: list[Event]) -> None:
        delta = event.get("delta")
        if not delta or not isinstance(delta, str):
            return
        item = self._item(event, "custom_tool_call" if "custom" in event["type"] else "function_call")[1]
        if item.is_over:
            return
        item.heard.add(0)
        if item.call >= 0:
            out.append(ToolDelta(item.call, delta))
        else:
            item.pieces.append(delta)

    def _arguments_done(self, event: Json, out: list[Event]) -> None:
        item = self._items.get(self._place(event))
        if item is None or item.is_over or item.kind not in CALLS:
            return
        self._call(item, string(event.get("name")), item.call_id, out)
        self._whole_arguments(item, string(event.get("input" if CALLS[item.kind] else "arguments")), out)

    def _call(self, item: _Item, name: str, call_id: str, out: list[Event]) -> None:
        """Tell that a call begins, once, when its name is known, with what has been heard of its arguments."""
        item.name = item.name or name
        item.call_id = item.call_id or call_id
        if item.call >= 0 or not item.name:
            return
        item.call = self._calls
        self._calls += 1
        out.append(ToolBegin(item.call, item.call_id, item.name, CALLS[item.kind]))
        if item.pieces:
            out.append(ToolDelta(item.call, "".join(item.pieces)))

    def _whole_arguments(self, item: _Item, text: str, out: list[Event]) -> None:
        if text and item.call >= 0 and not item.heard:
            item.heard.add(0)
            out.append(ToolDelta(item.call, text))

    # Items ------------------------------------------------------------------------------------------------------------

    def _added(self, raw: Json, index: int, out: list[Event]) -> None:
        self._begin({}, out)
        if index in self._items:
            return
        item = self._items[index] = _Item(string(raw.get("type")))
        if item.kind in CALLS:
            self._call(item, string(raw.get("name")), _call_id(raw), out)

    def _done(self, raw: Json, index: int, out: list[Event]) -> None:
        """An item is whole: tell what was not heard of it."""
        if index not in self._items:
            self._added(raw, index, out)
        item = self._items[index]
        if item.is_over:
            return
        kind = item.kind = string(raw.get("type")) or item.kind
        if kind in CALLS:
            self._call(item, string(raw.get("name")), _call_id(raw), out)
            self._whole_arguments(item, string(raw.get("input" if CALLS[kind] else "arguments")), out)
            self._end_call(item, out)
        elif kind == "message":
            self._message_done(raw, item, index, out)
        elif kind == "reasoning":
            if not item.heard and (text := thinking_text(raw)):
                out.append(ThinkingDelta(text, index * _BLOCKS))
            sealed = string(raw.get("encrypted_content"))
            out.append(ThinkingEnd("", sealed, "openai" if sealed else "", string(raw.get("id"))))
        elif kind:
            out.append(OpaqueBlock(DIALECT, kind, raw))
        item.is_over = True

    def _end_call(self, item: _Item, out: list[Event]) -> None:
        if item.call >= 0 and not item.is_over:
            out.append(ToolEnd(item.call))
        item.is_over = True

    def _message_done(self, raw: Json, item: _Item, index: int, out: list[Event]) -> None:
        parts = [part for part in objects(raw.get("content")) if part.get("type") in ("output_text", "refusal")]
        # As many parts as were heard are no news, wherever the server counted them from.
        is_heard = len(item.heard) >= len(parts)
        for at, part in enumerate(parts):
            if not is_heard and at not in item.heard:
                if part["type"] == "refusal" and (text := string(part.get("refusal"))):
                    out.append(RefusalDelta(text))
                elif text := string(part.get("text")):
                    out.append(TextDelta(text, index * _BLOCKS + at))
            if not item.annotations:
                out.extend(Annotated(annotation_in(each)) for each in objects(part.get("annotations")))

    # The end ----------------------------------------------------------------------------------------------------------

    def _last(self, response: Json, is_cut: bool, out: list[Event]) -> None:
        self._begin(response, out)
        known: dict[str, list[int]] = {}
        for index in sorted(self._items):
            known.setdefault(self._items[index].kind, []).append(index)
        for raw in objects(response.get("output")):
            same = known.get(string(raw.get("type")))
            self._done(raw, same.pop(0) if same else max(self._items, default=-1) + 1, out)
        for item in self._items.values():
            self._end_call(item, out)
        if is_cut and response.get("status") != "incomplete":
            response = {**response, "status": "incomplete"}
        out.append(Stopped(finish_in(response, self._calls > 0)))
        usage = usage_in(response.get("usage"))
        if usage is not None:
            out.append(Used(usage))
        out.append(Ended())
        self._is_over = True


def _call_id(raw: Json) -> str:
    return string(raw.get("call_id")) or string(raw.get("id"))


def _part(event: Json) -> int:
    """Index of a part within its item."""
    index: Any = event.get("content_index")
    if index is None:
        index = event.get("summary_index")
    return index if isinstance(index, int) else 0


def stream_reader() -> ResponsesStreamReader:
    """A reader for one stream."""
    return ResponsesStreamReader()
