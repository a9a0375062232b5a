"""What a recorded chat answer says, read straight from its JSON: the yardstick for the speaker's reader.

It knows nothing of the reader: it joins what the members hold, and states the vendors' habits as they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.dialects.chat import (
    Answer,
    Event,
    Fault,
    Finish,
    Refusal,
    RefusalDelta,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegin,
    ToolCall,
    ToolDelta,
    Usage,
    Used,
)
from tests import data


@dataclass
class Said:
    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    finish: str = ""
    usage: tuple[int, int, int] | None = None
    is_broken: bool = False


def records(streams: bool) -> Iterator[tuple[dict[str, Any], dict[str, Any], bytes]]:
    """(record, request's body, answer's body) of every recorded 2xx chat answer."""
    for path in sorted(data.need("exchanges").glob("*__openai.chat.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            response = record["response"]
            if 200 <= response["status"] < 300 and bool(record["stream"]) is streams:
                try:
                    asked = json.loads(record["request"]["body"])
                except ValueError:
                    asked = {}
                yield record, asked, data.body(response)


def chunks(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            try:
                parsed = json.loads(line[5:])
            except ValueError:
                continue
            if isinstance(parsed, dict):
                yield parsed


def of_stream(body: bytes) -> Said:
    said = Said()
    calls: dict[Any, list[str]] = {}
    for chunk in chunks(body):
        if chunk.get("error"):
            said.is_broken = True
            break
        _count(said, chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage"))
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            _say(said, delta)
            for entry in delta.get("tool_calls") or []:
                call = calls.setdefault(entry.get("index", entry.get("id")), ["", "", ""])
                function = entry["function"]
                call[0] = call[0] or entry.get("id") or ""
                call[1] = call[1] or function.get("name") or ""
                call[2] += function.get("arguments") or ""
            said.finish = said.finish or choice.get("finish_reason") or ""
    said.calls = [(call[0], call[1], call[2]) for call in calls.values()]
    said.is_broken = said.is_broken or b"\nerror: {" in body
    return said


def of_answer(body: dict[str, Any]) -> Said:
    said = Said()
    choice = body["choices"][0]
    message = choice.get("message") or {}
    _say(said, message)
    for entry in message.get("tool_calls") or []:
        if entry["type"] == "custom" if "type" in entry else False:
            said.calls.append((entry["id"], entry["custom"]["name"], entry["custom"]["input"]))
        else:
            said.calls.append((entry["id"], entry["function"]["name"], entry["function"].get("arguments") or ""))
    old = message.get("function_call") or {}
    if old.get("name"):
        said.calls.append(("", old["name"], old["arguments"]))
    said.finish = choice.get("finish_reason") or ""
    _count(said, body.get("usage"))
    return said


def _say(said: Said, message: dict[str, Any]) -> None:
    content = message.get("content")
    if isinstance(content, dict):
        said.text += json.dumps(content, separators=(",", ":"))
    for part in content if isinstance(content, list) else []:
        if part["type"] == "thinking":
            said.thinking += "".join(inner["text"] for inner in part["thinking"])
        else:
            said.text += part.get("text") or ""
    if isinstance(content, str):
        said.text += content
    plain = message.get("reasoning_content") or message.get("reasoning")
    details = message.get("reasoning_details") or []
    told = "".join(each.get("text") or each.get("summary") or "" for each in details)
    said.thinking += plain or told
    said.refusal += message.get("refusal") or ""


def _count(said: Said, usage: Any) -> None:
    if usage:
        into, out = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        out = max(out, (usage.get("total_tokens") or 0) - into)
        details = usage.get("prompt_tokens_details") or {}
        said.usage = (into, out, min(into, details.get("cached_tokens") or 0))  # Grok on Azure names more than it read


# What the reader made of it -------------------------------------------------------------------------------------------


def heard(events: Iterable[Event]) -> Said:
    said = Said()
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, TextDelta):
            said.text += event.text
        elif isinstance(event, ThinkingDelta):
            said.thinking += event.text
        elif isinstance(event, RefusalDelta):
            said.refusal += event.text
        elif isinstance(event, ToolBegin):
            assert event.index == len(calls)
            calls[event.index] = [event.id, event.name, ""]
        elif isinstance(event, ToolDelta):
            calls[event.index][2] += event.text
        elif isinstance(event, Stopped):
            said.finish = event.finish.value
        elif isinstance(event, Used):
            said.usage = counted(event.usage)
        elif isinstance(event, Fault):
            said.is_broken = True
    said.calls = [(call[0], call[1], call[2]) for call in calls.values()]
    return said


def heard_whole(answer: Answer) -> Said:
    said = Said(finish=answer.finish.value, usage=counted(answer.usage) if answer.usage else None)
    for part in answer.parts:
        if isinstance(part, Text):
            said.text += part.text
        elif isinstance(part, Thinking):
            said.thinking += part.text
        elif isinstance(part, Refusal):
            said.refusal += part.text
        elif isinstance(part, ToolCall):
            said.calls.append((part.id, part.name, part.arguments))
    return said


def counted(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt, usage.output, usage.cache_read


FINISHES = {
    "stop": Finish.STOP,
    "eos": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}


def expected_finish(said: Said) -> str:
    """What a recorded finish reason means beside what was said."""
    found = FINISHES.get(said.finish, Finish.STOP if said.text or said.thinking else Finish.UNKNOWN)
    if said.calls and found in (Finish.STOP, Finish.UNKNOWN):
        found = Finish.TOOL_CALLS
    if not said.calls and found is Finish.TOOL_CALLS:
        found = Finish.STOP
    return found.value


def differences(recorded: Said, read: Said) -> list[str]:
    """Names of what differs; usage in details that only some vendors name is compared in its sums."""
    out = [name for name in ("text", "thinking", "refusal", "calls") if getattr(recorded, name) != getattr(read, name)]
    if not recorded.is_broken and expected_finish(recorded) != read.finish:
        out.append("finish")
    if recorded.is_broken != read.is_broken:
        out.append("fault")
    if (recorded.usage or (0, 0))[:2] != (read.usage or (0, 0))[:2]:
        out.append("usage")
    if recorded.usage and recorded.usage[2] and read.usage and recorded.usage[2] != read.usage[2]:
        out.append("cached")
    return out
