"""What a recorded response says, read straight from its JSON: the yardstick for the speaker's reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.dialects.chat import (
    Annotated,
    Answer,
    Event,
    OpaqueBlock,
    Refusal,
    RefusalDelta,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    Usage,
    Used,
)
from proxy.dialects.chat import Opaque as OpaquePart
from tests import data


@dataclass
class Said:
    text: str = ""
    refusal: str = ""
    thinking: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    hosted: list[str] = field(default_factory=list)
    sealed: int = 0
    annotations: int = 0
    finish: str = ""
    usage: tuple[int, int, int, int] | None = None


def records(streams: bool) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(record, answer's body) of every recorded 2xx response."""
    for path in sorted(data.need("exchanges").glob("*__openai.responses.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            if 200 <= record["response"]["status"] < 300 and (record["wire"] == "sse") is streams:
                yield record, data.body(record["response"])


def last_of(body: bytes) -> dict[str, Any]:
    """The response object of a stream's last event."""
    found: dict[str, Any] = {}
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            event = json.loads(line[5:])
            if event["type"] in ("response.completed", "response.incomplete"):
                found = event["response"]
    return found


def of_response(response: dict[str, Any]) -> Said:
    said = Said()
    for item in response.get("output") or []:
        kind = item["type"]
        if kind == "message":
            for part in item["content"]:
                said.text += part.get("text") or ""
                said.refusal += part.get("refusal") or ""
                said.annotations += len(part.get("annotations") or [])
        elif kind in ("function_call", "custom_tool_call"):
            said.calls.append((item["call_id"], item["name"], item.get("arguments") or item.get("input") or ""))
        elif kind == "reasoning":
            told = item.get("summary") or item.get("content") or []
            said.thinking += "".join(part["text"] for part in told).replace("\n", "")
            said.sealed += bool(item.get("encrypted_content"))
        else:
            said.hosted.append(kind)
    said.finish = "tool_calls" if said.calls else "stop"
    if response.get("status") == "incomplete":
        said.finish = "length" if response["incomplete_details"]["reason"] == "max_output_tokens" else "content_filter"
    if usage := response.get("usage"):
        cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
        reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0
        said.usage = (usage["input_tokens"], usage["output_tokens"], cached, reasoning)
    return said


def heard(events: Iterable[Event]) -> Said:
    said = Said()
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, TextDelta):
            said.text += event.text
        elif isinstance(event, RefusalDelta):
            said.refusal += event.text
        elif isinstance(event, ThinkingDelta):
            said.thinking += event.text.replace("\n", "")
        elif isinstance(event, ThinkingEnd):
            said.sealed += bool(event.redacted)
        elif isinstance(event, ToolBegin):
            assert event.index == len(calls)
            calls[event.index] = [event.id, event.name, ""]
        elif isinstance(event, ToolDelta):
            calls[event.index][2] += event.text
        elif isinstance(event, OpaqueBlock):
            said.hosted.append(event.kind)
        elif isinstance(event, Annotated):
            said.annotations += 1
        elif isinstance(event, Stopped):
            said.finish = event.finish.value
        elif isinstance(event, Used):
            said.usage = counted(event.usage)
    said.calls = [(call[0], call[1], call[2]) for call in calls.values()]
    return said


def heard_whole(answer: Answer) -> Said:
    said = Said(finish=answer.finish.value, usage=counted(answer.usage) if answer.usage else None)
    for part in answer.parts:
        if isinstance(part, Text):
            said.text += part.text
            said.annotations += len(part.annotations)
        elif isinstance(part, Refusal):
            said.refusal += part.text
        elif isinstance(part, Thinking):
            said.thinking += part.text.replace("\n", "")
            said.sealed += bool(part.redacted)
        elif isinstance(part, ToolCall):
            said.calls.append((part.id, part.name, part.arguments))
        elif isinstance(part, OpaquePart):
            said.hosted.append(part.kind)
    return said


def counted(usage: Usage) -> tuple[int, int, int, int]:
    return usage.prompt, usage.output, usage.cache_read, usage.reasoning or 0
