"""Oracles over raw Messages JSON that know nothing of the speaker, and a listener for the speaker's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from proxy.dialects.chat import (
    Answer,
    Asked,
    Begin,
    Ended,
    Event,
    Fault,
    Opaque,
    OpaqueBlock,
    Stopped,
    StreamReader,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolEnd,
    Used,
)

ASKED = Asked(body={}, created=1, seed="0123456789abcdef01234567", model="claude-x")
STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context",
    "compaction": "pause",
}
OWN = {"text", "thinking", "redacted_thinking", "tool_use"}

Said = dict[str, Any]
"""id, model, text, thinking (text, signature, redacted) in order, calls (id, name, arguments), kinds of closed blocks,
finish, stop sequence, usage."""


def usage_of(raw: dict[str, Any]) -> tuple[int, int, int, int, int | None]:
    details = raw.get("output_tokens_details") or {}
    return (
        raw.get("input_tokens") or 0,
        raw.get("cache_read_input_tokens") or 0,
        raw.get("cache_creation_input_tokens") or 0,
        raw.get("output_tokens") or 0,
        details.get("thinking_tokens"),
    )


def of_body(body: dict[str, Any]) -> Said:
    """What a whole answer says."""
    said: Said = {"id": body["id"], "model": body["model"], "text": "", "thinking": [], "calls": [], "closed": []}
    for block in body["content"]:
        kind = block["type"]
        if kind == "text":
            said["text"] += block["text"]
        elif kind == "tool_use":
            said["calls"].append((block["id"], block["name"], block["input"]))
        elif kind == "thinking":
            said["thinking"].append((block["thinking"], block.get("signature") or "", ""))
        elif kind == "redacted_thinking":
            said["thinking"].append(("", "", block["data"]))
        else:
            said["closed"].append((kind, block))
    stop = STOPS[body["stop_reason"]]
    said["finish"] = "stop" if stop == "tool_calls" and not said["calls"] else stop
    said["sequence"] = body.get("stop_sequence")
    said["usage"] = usage_of(body["usage"])
    return said


def events_in(raw: str) -> Iterator[dict[str, Any]]:
    """The data of every event of a stream; those that are no JSON are left out."""
    for line in raw.replace("\r\n", "\n").split("\n"):
        if line.startswith("data:"):
            try:
                yield json.loads(line[5:])
            except ValueError:
                continue


def of_stream(raw: str) -> Said:
    """The whole answer that a stream adds up to, and what it says."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    fragments: dict[int, str] = {}
    for event in events_in(raw):
        kind = event.get("type")
        if kind == "message_start":
            message = message or dict(event["message"])
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                fragments[event["index"]] = fragments.get(event["index"], "") + delta["partial_json"]
            for name in ("text", "thinking", "signature"):
                if name in delta:
                    block[name] = block.get(name, "") + delta[name]
            if delta["type"] == "compaction_delta":
                block.update((name, value) for name, value in delta.items() if name != "type")
        elif kind == "message_delta":
            message.update({name: value for name, value in event["delta"].items() if name != "usage"})
            told = {name: value for name, value in event["usage"].items() if value is not None}
            message["usage"] = {**message["usage"], **told}
        elif kind == "message_stop":
            break
    for index, text in fragments.items():
        if text:
            try:
                blocks[index]["input"] = json.loads(text)
            except ValueError:
                blocks[index]["input"] = text
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return of_body(message)


# What the speaker made of it ------------------------------------------------------------------------------------------


def parsed(text: str) -> Any:
    """Arguments as JSON; those that are cut off as they are."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def of_answer(answer: Answer) -> Said:
    """The same of a canonical answer."""
    said: Said = {"id": answer.id, "model": answer.model, "text": "", "thinking": [], "calls": [], "closed": []}
    for part in answer.parts:
        if isinstance(part, Text):
            said["text"] += part.text
        elif isinstance(part, ToolCall):
            said["calls"].append((part.id, part.name, parsed(part.arguments)))
        elif isinstance(part, Thinking):
            said["thinking"].append((part.text, part.signature, part.redacted))
        elif isinstance(part, Opaque) and part.kind not in ("citation", "message"):
            said["closed"].append((part.kind, part.raw))
    said["finish"], said["sequence"] = answer.finish.value, answer.stop_sequence
    usage = answer.usage
    assert usage is not None
    said["usage"] = (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning)
    return said


def of_events(events: list[Event]) -> tuple[Said, str]:
    """(the same of a stream's events, how it ended: ``ended``, ``fault`` or ``cut``)."""
    said: Said = {"text": "", "thinking": [], "calls": [], "closed": [], "finish": "", "sequence": None, "usage": None}
    thought, how, ended = "", "cut", set()
    for event in events:
        assert how == "cut", "something follows the end"
        if isinstance(event, Begin):
            assert "id" not in said, "two beginnings"
            said["id"], said["model"] = event.id, event.model
            if event.usage is not None:
                said["usage"] = event.usage
        elif isinstance(event, TextDelta):
            assert event.text
            said["text"] += event.text
        elif isinstance(event, ThinkingDelta):
            assert event.text
            thought += event.text
        elif isinstance(event, ThinkingEnd):
            said["thinking"].append((thought, event.signature, event.redacted))
            thought = ""
        elif isinstance(event, ToolBegin):
            assert event.index == len(said["calls"])
            said["calls"].append([event.id, event.name, ""])
        elif isinstance(event, ToolDelta):
            assert event.text
            said["calls"][event.index][2] += event.text
        elif isinstance(event, ToolEnd):
            assert event.index not in ended
            ended.add(event.index)
        elif isinstance(event, OpaqueBlock):
            if event.kind not in ("citation", "message"):
                said["closed"].append((event.kind, event.raw))
        elif isinstance(event, Stopped):
            assert not said["finish"], "two ends"
            said["finish"], said["sequence"] = event.finish.value, event.stop_sequence
        elif isinstance(event, Used):
            said["usage"] = event.usage
        elif isinstance(event, Ended):
            how = "ended"
        elif isinstance(event, Fault):
            how = "fault"
    assert how != "ended" or len(ended) == len(said["calls"])
    said["calls"] = [(call_id, name, parsed(text)) for call_id, name, text in said["calls"]]
    if (usage := said["usage"]) is not None:
        said["usage"] = (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning)
    return said, how


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes; the last size repeats."""
    out, at, i = [], 0, 0
    while at < len(raw):
        size = max(1, sizes[min(i, len(sizes) - 1)])
        out.append(raw[at : at + size])
        at, i = at + size, i + 1
    return out


def hear(reader: StreamReader, pieces: list[bytes]) -> list[Event]:
    """All events of a stream that comes in pieces."""
    events: list[Event] = []
    for piece in pieces:
        events += reader.feed(piece)
    return events + reader.close()
