"""Small tools for the pitfalls: one request or answer from one API to another, parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.dialects import eventstream, registry, sse
from proxy.dialects.chat import Asked, Encoded, NotPortable
from proxy.dialects.models import facts
from proxy.dialects.translation import Translator

MODELS = {
    "chat": ("gpt-4o", "openai", "openai"),
    "responses": ("gpt-4o", "openai", "openai"),
    "messages": ("claude-sonnet-4-5", "anthropic", ""),
    "generate": ("gemini-2.5-flash", "gemini", ""),
    "converse": ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock", ""),
}
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SEED = "0123456789abcdef0123456789abcdef"
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
CLAUDE_TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}


def encoded(source: str, body: Mapping[str, Any], target: str, model: str = "", **stated: Any) -> Encoded:
    """The caller's body as a target gets it."""
    name, dialect, vendor = MODELS[target]
    known = facts(model or name, dialect, stated.pop("vendor", vendor), stated, None)
    return registry.written(target, registry.speaker(source).read_request({**body}), known)


def written(source: str, body: Mapping[str, Any], target: str, model: str = "", **stated: Any) -> dict[str, Any]:
    """The body of `encoded`."""
    return encoded(source, body, target, model, **stated).body


def chat(*messages: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [dict(message) for message in messages], **more}


def claude(*messages: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 100, "messages": [dict(message) for message in messages], **more}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def call(name: str = "f", arguments: str = "{}", call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(*calls: Mapping[str, Any], content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [dict(each) for each in calls]}


def result(call_id: str = "call_1", content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def use(name: str = "f", call_id: str = "toolu_1", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def refused(source: str, body: Mapping[str, Any], target: str, model: str = "", **stated: Any) -> str:
    """Why the target is left out; empty: it is not."""
    try:
        written(source, body, target, model, **stated)
    except NotPortable as obstacle:
        return obstacle.reason
    return ""


# Streams --------------------------------------------------------------------------------------------------------------


def chunks(*deltas: Mapping[str, Any], finish: str | None = "stop", done: bool = True, **more: Any) -> bytes:
    """A chat stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events = [{**head, "choices": [{"index": 0, "delta": dict(d), "finish_reason": None}]} for d in deltas]
    if finish:
        events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **more})
    raw = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return raw + (b"data: [DONE]\n\n" if done else b"")


def named(*events: Mapping[str, Any]) -> bytes:
    """A stream of Anthropic's or of the Responses API."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), orjson.dumps(e)) for e in events)


def claude_stream(*blocks: Mapping[str, Any], stop: str = "end_turn", usage: Mapping[str, Any] | None = None) -> bytes:
    """A Messages stream: each block is ``{"start": ..., "deltas": [...]}``."""
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 1, **(usage or {})},
    }  # fmt: skip
    events: list[Mapping[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block["start"]})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in block["deltas"]]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": stop, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 9}})
    return named(*events, {"type": "message_stop"})


def text_block(*texts: str) -> dict[str, Any]:
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return {"start": {"type": "text", "text": ""}, "deltas": deltas}


def tool_block(name: str, *fragments: str, call_id: str = "toolu_1", kind: str = "tool_use") -> dict[str, Any]:
    deltas = [{"type": "input_json_delta", "partial_json": fragment} for fragment in fragments]
    return {"start": {"type": kind, "id": call_id, "name": name, "input": {}}, "deltas": deltas}


def gemini_stream(*answers: Mapping[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(answer) + b"\r\n\r\n" for answer in answers)


def candidate(*parts: Mapping[str, Any], finish: str = "", **more: Any) -> dict[str, Any]:
    one: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        one["finishReason"] = finish
    return {"candidates": [one], "modelVersion": "gemini", **more}


def converse_stream(*events: tuple[str, Mapping[str, Any]]) -> bytes:
    return b"".join(eventstream.event_frame(kind, payload) for kind, payload in events)


class Back:
    """A stream of `target` on its way to a caller of `source`."""

    def __init__(
        self, target: str, raw: bytes, source: str, body: Mapping[str, Any] | None = None, size: int = 0
    ) -> None:
        asked = Asked(body=body or ASKED, created=1, seed=SEED, model="m", include_usage=True)
        way: Translator = registry.translator(target, source, Encoded(body={}), asked, True)
        pieces = [raw[i : i + size] for i in range(0, len(raw), size)] if size else [raw]
        out = b"".join(way.feed(piece) for piece in pieces)
        out += way.close()
        self.way = way
        self.raw = out
        self.events = [
            orjson.loads(data) if not data.startswith(b"[DONE]") else "[DONE]"
            for event in sse.events(out)
            if (data := sse.data_of(event)) is not None
        ]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """Deltas of a chat stream."""
        return [c["delta"] for e in self.events if isinstance(e, dict) for c in e.get("choices", [])]

    @property
    def finish(self) -> str:
        found = [c["finish_reason"] for e in self.events if isinstance(e, dict) for c in e.get("choices", [])]
        return next((reason for reason in reversed(found) if reason), "")

    @property
    def calls(self) -> dict[int, tuple[str, str, str]]:
        """Calls of a chat stream: index -> (id, name, arguments)."""
        out: dict[int, tuple[str, str, str]] = {}
        for delta in self.deltas:
            for each in delta.get("tool_calls", []):
                call_id, name, arguments = out.get(each["index"], ("", "", ""))
                function = each.get("function", {})
                out[each["index"]] = (
                    call_id or each.get("id", ""),
                    name or function.get("name", ""),
                    arguments + function.get("arguments", ""),
                )
        return out

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of this type."""
        return [event for event in self.events if isinstance(event, dict) and event.get("type") == kind]


def unary(target: str, answer: Mapping[str, Any], source: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A whole answer of `target` as a caller of `source` gets it; ``{"why": ...}`` where it is none."""
    asked = Asked(body=body or ASKED, created=1, seed=SEED, model="m")
    why, out = registry.translator(target, source, Encoded(body={}), asked, False).whole(orjson.dumps(answer))
    return {"why": why} if why else dict(orjson.loads(out))
