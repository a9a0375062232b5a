"""A whole answer as a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.chat import Answer, Asked, Finish, Json, Opaque, Refusal, Text, Thinking, ToolCall
from proxy.dialects.members import mapping, objects, string
from proxy.dialects.openai.words import (
    DIALECT,
    FINISH_REASON,
    TIERS,
    annotation_out,
    block_out,
    signature_out,
    usage_out,
)
from proxy.dialects.reading import loads


class Wishes:
    """How the caller asked for his tools, which decides how he is told of calls."""

    __slots__ = ("custom", "functions")

    def __init__(self, asked: Asked) -> None:
        body = asked.body
        self.functions = bool(body.get("functions")) and not body.get("tools")
        """He used the old form: one call, without an id."""
        self.custom = frozenset(
            string(mapping(tool.get("custom")).get("name"))
            for tool in objects(body.get("tools"))
            if tool.get("type") == "custom"
        )
        """Names of his tools that take free text; towards other dialects each stands as a function with one
        argument."""

    def finish(self, finish: Finish) -> str:
        """The finish reason in the form that fits."""
        word = FINISH_REASON[finish]
        return "function_call" if self.functions and word == "tool_calls" else word


def free_text(arguments: str) -> str:
    """The text that stood in for a custom tool's input as the argument ``input``; anything else is the text itself."""
    parsed = loads(arguments.encode("utf-8", "replace"))
    if isinstance(parsed, Mapping) and isinstance(parsed.get("input"), str):
        return str(parsed["input"])
    return arguments


def answer_id(given: str, asked: Asked) -> str:
    """The provider's id, else one of our own."""
    return given or f"chatcmpl-{asked.seed}"


def write_answer(answer: Answer, asked: Asked) -> dict[str, Any]:
    """The body for a chat caller."""
    wishes = Wishes(asked)
    body: dict[str, Any] = {
        "id": answer_id(answer.id, asked),
        "object": "chat.completion",
        "created": answer.created if answer.created is not None else asked.created,
        "model": answer.model or asked.model,
        "choices": [
            {
                "index": 0,
                "message": _message(answer, asked, wishes),
                "logprobs": None,
                "finish_reason": wishes.finish(answer.finish),
            }
        ],
    }
    if answer.usage is not None:
        body["usage"] = usage_out(answer.usage)
    if answer.service_tier in TIERS:
        body["service_tier"] = answer.service_tier
    return body


def _message(answer: Answer, asked: Asked, wishes: Wishes) -> dict[str, Any]:
    texts: list[str] = []
    refusals: list[str] = []
    annotations: list[Json] = []
    calls: list[ToolCall] = []
    more: dict[str, Any] = {}
    for part in answer.parts:
        if isinstance(part, Text):
            texts.append(part.text)
            annotations += [out for each in part.annotations if (out := annotation_out(each)) is not None]
            if part.signature:
                more["extra_content"] = signature_out(part.signature)
        elif isinstance(part, Refusal):
            refusals.append(part.text)
        elif isinstance(part, ToolCall):
            calls.append(part)
        elif isinstance(part, Opaque) and part.dialect == DIALECT:
            more.update(part.raw if part.kind == "images" else {part.kind: part.raw})
    text = "".join(texts)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls or refusals or more.get("audio") else ""),
        "refusal": "".join(refusals) or None,
    }
    if annotations:
        message["annotations"] = annotations
    if asked.shows_thinking:
        message.update(_thoughts(answer))
    if calls and wishes.functions:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments or "{}"}
    elif calls:
        message["tool_calls"] = [call_out(call, wishes) for call in calls]
    return {**message, **more}


def _thoughts(answer: Answer) -> dict[str, Any]:
    """The reasoning as text, and as blocks where something makes it replayable."""
    found = [part for part in answer.parts if isinstance(part, Thinking)]
    out: dict[str, Any] = {}
    if text := "".join(part.text for part in found):
        out["reasoning_content"] = text
    if any(part.signature or part.redacted for part in found):
        out["thinking_blocks"] = [
            block_out(part.text, part.signature, part.redacted, part.origin, part.id) for part in found
        ]
    return out


def call_out(call: ToolCall, wishes: Wishes) -> dict[str, Any]:
    """One of ``tool_calls``."""
    out: dict[str, Any]
    if call.custom or call.name in wishes.custom:
        text = call.arguments if call.custom else free_text(call.arguments)
        out = {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": text}}
    else:
        function = {"name": call.name, "arguments": call.arguments or "{}"}
        out = {"id": call.id, "type": "function", "function": function}
    if call.signature:
        out["extra_content"] = signature_out(call.signature)
    return out
