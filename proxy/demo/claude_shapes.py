"""What the fake providers answer in the words of Anthropic's Messages, also behind Bedrock's InvokeModel. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.demo.asked import Asked
from proxy.demo.content import (
    cache_split,
    calls,
    hidden_pieces,
    output_tokens,
    reasoning_tokens,
    text,
    text_pieces,
    thinks,
    usage_if,
)
from proxy.demo.say import HIDDEN, ID, NUMBER, SIGNATURE, Event, Say, fragments, named
from proxy.dialects.eventstream import event_frame

FIXED_ID: Final = b"0" * len(ID)
"""In the place of the attempt's number inside frames, whose checksums a stamp would break."""


def unary(asked: Asked, say: Say) -> dict[str, Any]:
    """Return a whole answer."""
    if say.empty == "done":
        return {}
    blocks, reason = _blocks(asked, say)
    return {
        **_head(asked, say),
        "content": blocks,
        "stop_reason": reason if say.has_finish else None,
        "stop_sequence": None,
        "stop_details": _stop_details(reason),
        **usage_if(say, _usage(asked, say)),
    }


def _stop_details(reason: str) -> dict[str, Any] | None:
    if reason != "refusal":
        return None
    return {"type": "refusal", "category": None, "explanation": None}


def _head(asked: Asked, say: Say) -> dict[str, Any]:
    return {"id": f"msg_{say.provider}_{NUMBER}", "type": "message", "role": "assistant", "model": asked.model}


def _usage(asked: Asked, say: Say, output: int | None = None) -> dict[str, Any]:
    fresh, cached = cache_split(say)
    usage: dict[str, Any] = {
        "input_tokens": fresh,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens(asked, say) if output is None else output,
        "service_tier": "standard",
    }
    if output is None and thinks(asked, say):
        usage["output_tokens_details"] = {"thinking_tokens": reasoning_tokens(asked, say)}
    return usage


def _blocks(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    if say.empty in ("no_choices", "done"):
        return [], "end_turn"
    if say.empty == "null_content":
        return [{"type": "text", "text": ""}], "end_turn"
    if say.answer == "refusal":
        return [], "refusal"
    thinking = {"type": "thinking", "thinking": HIDDEN, "signature": SIGNATURE}
    if say.answer == "length":
        return [thinking], "max_tokens"
    before = [thinking] if thinks(asked, say) else []
    if made := calls(asked, say):
        uses = [
            {"type": "tool_use", "id": f"toolu_{NUMBER}_{i}", "name": c.name, "input": orjson.loads(c.arguments)}
            for i, c in enumerate(made)
        ]
        return before + uses, "tool_use"
    return [*before, {"type": "text", "text": text(asked, say)}], "end_turn"


def stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the events of a streamed answer."""
    blocks, reason = _blocks(asked, say)
    if say.empty != "done":
        message = {**_head(asked, say), "content": [], "stop_reason": None, "stop_sequence": None}
        if say.has_usage:
            message["usage"] = _usage(asked, say, 1)
        yield named("open", "message_start", {"message": message})
        yield named("open", "ping", {})
        for index, block in enumerate(blocks):
            yield from _block_events(asked, say, index, block)
        if say.has_finish:
            delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": _stop_details(reason)}
            yield named("finish", "message_delta", {"delta": delta, **usage_if(say, _usage(asked, say))})
    yield named("done", "message_stop", {})


def _block_events(asked: Asked, say: Say, index: int, block: dict[str, Any]) -> Iterator[Event]:
    """The opening of a block, the deltas that fill it, its end. Reasoning before an answer is no word of it."""
    is_before = block["type"] == "thinking" and say.answer != "length"
    start, deltas = _deltas(asked, say, block)
    yield named("open", "content_block_start", {"index": index, "content_block": start})
    for delta in deltas:
        yield named("open" if is_before else "word", "content_block_delta", {"index": index, "delta": delta})
    yield named("open" if is_before else "finish", "content_block_stop", {"index": index})


def _deltas(asked: Asked, say: Say, block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "tool_use":
        parts = fragments(orjson.dumps(block["input"]).decode())
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    if block["type"] == "thinking":
        told = [HIDDEN] if say.answer == "length" else hidden_pieces()
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in told]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    texts = text_pieces(asked, say) if block["text"] else iter(())
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in texts]


def invoke_stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the same events as Bedrock's InvokeModel sends them: each in a frame, base64."""
    for event in stream(asked, say):
        yield Event(event.kind, framed(event.data))


def framed(event: bytes) -> bytes:
    """Return a server-sent event as a frame of an InvokeModel stream."""
    inner = event[event.index(b"data: ") + 6 :].strip().replace(ID, FIXED_ID)
    return event_frame("chunk", {"bytes": b64encode(inner).decode()})
