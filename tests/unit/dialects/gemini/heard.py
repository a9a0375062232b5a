"""What the speaker makes of an answer, put into the terms of `recorded.Said`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from proxy.dialects import gemini
from proxy.dialects.chat import (
    Answer,
    Asked,
    Begin,
    Ended,
    Event,
    Fault,
    OpaqueBlock,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Used,
    events_of,
)
from tests.unit.dialects.gemini.recorded import Said

ASKED = Asked(body={}, created=1, seed="0123456789abcdef0123456789abcdef", model="gemini-2.5-flash")


def cut(body: bytes, sizes: list[int]) -> Iterable[bytes]:
    """The body in pieces; the last size repeats, none means whole."""
    at = i = 0
    while at < len(body):
        size = max(1, sizes[min(i, len(sizes) - 1)]) if sizes else len(body)
        yield body[at : at + size]
        at, i = at + size, i + 1


def read(body: bytes, sizes: list[int]) -> list[Event]:
    """All events of a stream that comes in pieces of these sizes."""
    reader = gemini.stream_reader()
    out: list[Event] = []
    for piece in cut(body, sizes):
        out += reader.feed(piece)
    return out + reader.close()


def heard(events: Iterable[Event]) -> Said:
    """The meaning of events; checks their order on the way."""
    out, open_calls, begun, over = Said(), set[int](), False, False
    texts: dict[int, str] = {}
    calls: dict[int, ToolBegin] = {}
    for event in events:
        assert not over, "nothing follows the end"
        if isinstance(event, Begin):
            assert not begun
            begun = True
            if event.usage is not None:
                out.usage = (event.usage.prompt, event.usage.cache_read, event.usage.output)
        elif isinstance(event, TextDelta):
            assert event.text
            out.text += event.text
        elif isinstance(event, ThinkingDelta):
            out.thought += event.text
        elif isinstance(event, ToolBegin):
            assert event.index == len(calls)
            assert event.name
            calls[event.index], texts[event.index] = event, ""
            open_calls.add(event.index)
        elif isinstance(event, ToolDelta):
            assert event.text
            assert event.index in open_calls
            texts[event.index] += event.text
        elif isinstance(event, ToolEnd):
            open_calls.remove(event.index)
        elif isinstance(event, OpaqueBlock):
            out.opaque.append(event.kind)
        elif isinstance(event, Stopped):
            assert not out.finish
            assert not open_calls
            out.finish = event.finish.value
        elif isinstance(event, Used):
            out.usage = (event.usage.prompt, event.usage.cache_read, event.usage.output)
        elif isinstance(event, Ended | Fault):
            over = True
    for index, call in calls.items():
        out.calls.append((call.id, call.name, orjson.loads(texts[index]), call.signature))
    return out


def heard_answer(answer: Answer) -> Said:
    """The meaning of a whole answer."""
    return heard(events_of(answer))


def rewritten(events: Iterable[Event]) -> bytes:
    """Events in Gemini's own form again."""
    writer = gemini.stream_writer(ASKED)
    out = b""
    for event in events:
        if not isinstance(event, Ended | Fault):
            out += writer.feed(event)
    return out + writer.end()


def dumped(value: Any) -> bytes:
    """A value as JSON."""
    return orjson.dumps(value)
