"""What the fake providers answer, in OpenAI's, Anthropic's and Gemini's words. Pure: a request in, bytes out.

Answers depend on nothing but the request (`asked.py`) and on what is to be said (`say.py`). Field names and event
orders are those of `providers.md` 1.2 to 1.6; errors have a file of their own (`error_shapes.py`).
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from proxy.demo.asked import CHOICES_MAX, DIALECTS, EMBEDDING_SIZE, STREAM_APIS, Api, Asked, Dialect, ToolCall, read
from proxy.demo.error_shapes import error, error_event, error_status, family, kind_of_status
from proxy.demo.say import (
    CREATED,
    ID,
    NUMBER,
    PROMPT_TOKENS,
    REFUSAL,
    TEXT,
    WORDS,
    Event,
    Kind,
    Say,
    fragments,
    named,
    pieces,
    sse,
    stamp,
)

__all__ = [
    "CHOICES_MAX",
    "CREATED",
    "DIALECTS",
    "EMBEDDING_SIZE",
    "ID",
    "MODELS",
    "PROMPT_TOKENS",
    "REFUSAL",
    "STREAM_APIS",
    "TEXT",
    "WORDS",
    "Api",
    "Asked",
    "Dialect",
    "Event",
    "Kind",
    "Say",
    "ToolCall",
    "echo",
    "error",
    "error_event",
    "error_status",
    "family",
    "html",
    "kind_of_status",
    "padded",
    "preamble",
    "read",
    "sha256",
    "stamp",
    "stream",
    "unary",
]


def unary(asked: Asked, say: Say, dialect: Dialect = "openai") -> bytes:
    """Return the body of a whole answer, a template for `stamp`; `dialect` decides the shape of a model list."""
    match asked.api:
        case "chat":
            value = _chat_unary(asked, say)
        case "responses":
            value = _responses_unary(asked, say)
        case "anthropic":
            value = _anthropic_unary(asked, say)
        case "gemini":
            value = _gemini_unary(asked, say)
        case "embeddings":
            value = _embeddings(asked, say)
        case "gemini_embeddings":
            vectors = [{"values": _vector(i, asked.dimensions)} for i in range(max(1, asked.inputs))]
            value = {"embeddings": vectors} if asked.inputs else {"embedding": vectors[0]}
        case "count_tokens":
            value = {"input_tokens": say.prompt_tokens, "totalTokens": say.prompt_tokens}
        case "models" | "echo":
            value = _models(dialect)
    return orjson.dumps([value] if asked.is_array else value)


def stream(asked: Asked, say: Say) -> tuple[Event, ...]:
    """Return the events of a streamed answer, templates for `stamp`; only of the `STREAM_APIS`."""
    makers = {
        "chat": _chat_stream,
        "responses": _responses_stream,
        "anthropic": _anthropic_stream,
        "gemini": _gemini_stream,
    }
    return tuple(makers[asked.api](asked, say))


def echo(method: str, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    """Return what reached us, for paths that mean nothing to us."""
    return orjson.dumps(
        {"method": method, "path": path, "headers": headers, "body_bytes": len(body), "sha256": sha256(body)}
    )


def sha256(body: bytes | bytearray) -> str:
    """Hex digest of a body."""
    return hashlib.sha256(body).hexdigest()


def _output_tokens(asked: Asked, say: Say) -> int:
    if say.empty is not None:
        return 0
    return len(say.words) * asked.choices


def _calls(asked: Asked, say: Say) -> tuple[ToolCall, ...]:
    """The calls the answer makes: those asked for, or one made up when the fault wants a tool call."""
    if say.answer == "tool_call":
        return asked.tool_calls or (ToolCall(name="lookup", arguments='{"key":"example"}'),)
    return asked.tool_calls if say.answer == "text" else ()


_HIDDEN: Final = "Thinking it over until the limit came."


# chat completions


def _chat_usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = _output_tokens(asked, say)
    return {
        "prompt_tokens": say.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": say.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": output if say.answer == "length" else 0},
    }


def _chat_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    calls = _calls(asked, say)
    message: dict[str, Any] = {"role": "assistant", "content": " ".join(say.words), "refusal": None}
    reason = "stop"
    if say.empty == "null_content":
        message["content"] = None
    elif say.answer == "refusal":
        message |= {"content": None, "refusal": REFUSAL}
    elif say.answer == "length":
        message["content"], reason = "", "length"
    elif calls:
        message |= {"content": None, "tool_calls": [_chat_call(i, call) for i, call in enumerate(calls)]}
        reason = "tool_calls"
    choice = {"message": message, "finish_reason": reason if say.has_finish else None, "logprobs": None}
    choices = [] if say.empty == "no_choices" else [{"index": i, **choice} for i in range(asked.choices)]
    answer = {**_chat_head(asked, say, "chat.completion"), "choices": choices}
    return answer | ({"usage": _chat_usage(asked, say)} if say.has_usage else {})


def _chat_head(asked: Asked, say: Say, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{say.provider}-{NUMBER}",
        "object": kind,
        "created": CREATED,
        "model": asked.model,
        "system_fingerprint": say.provider,
    }


def _chat_call(i: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{NUMBER}_{i}", "type": "function", "function": function}


def _chat_stream(asked: Asked, say: Say) -> Iterator[Event]:
    head = _chat_head(asked, say, "chat.completion.chunk")
    with_usage = asked.include_usage and say.has_usage
    if with_usage:
        head["usage"] = None

    def chunk(kind: Kind, index: int, delta: dict[str, Any], reason: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return Event(kind, sse({**head, "choices": [choice]}))

    each = range(asked.choices)
    if say.empty == "no_choices":
        yield Event("open", sse({**head, "choices": []}))
    elif say.empty != "done":
        yield from (chunk("open", i, {"role": "assistant", "content": "", "refusal": None}) for i in each)
        reason = "stop"
        if say.empty is None:
            deltas, reason = _chat_deltas(asked, say)
            yield from (chunk("word", i, delta) for delta in deltas for i in each)
        if say.has_finish:
            yield from (chunk("finish", i, {}, reason) for i in each)
        if with_usage:
            yield Event("usage", sse({**head, "choices": [], "usage": _chat_usage(asked, say)}))
    yield Event("done", b"data: [DONE]\n\n")


def _chat_deltas(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    calls = _calls(asked, say)
    if say.answer == "refusal":
        return [{"refusal": piece} for piece in pieces(tuple(REFUSAL.split()))], "stop"
    if say.answer == "length":
        return [], "length"
    if not calls:
        return [{"content": piece} for piece in pieces(say.words)], "stop"
    deltas: list[dict[str, Any]] = []
    for i, call in enumerate(calls):
        first = _chat_call(i, ToolCall(name=call.name, arguments=""))
        deltas.append({"tool_calls": [{"index": i, **first}]})
        parts = fragments(call.arguments)
        deltas += [{"tool_calls": [{"index": i, "function": {"arguments": part}}]} for part in parts]
    return deltas, "tool_calls"


# responses


def _responses_usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = _output_tokens(asked, say)
    return {
        "input_tokens": say.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": output if say.answer == "length" else 0},
        "total_tokens": say.prompt_tokens + output,
    }


def _response(asked: Asked, say: Say, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    is_over = status in ("completed", "incomplete")
    return {
        "id": f"resp_{say.provider}_{NUMBER}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _responses_usage(asked, say) if is_over and say.has_usage else None,
    }


def _responses_items(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty in ("no_choices", "done"):
        return []
    if calls := _calls(asked, say):
        return [
            {
                "type": "function_call",
                "id": f"fc_{NUMBER}_{i}",
                "call_id": f"call_{NUMBER}_{i}",
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for i, call in enumerate(calls)
        ]
    if say.answer == "length":
        summary = [{"type": "summary_text", "text": _HIDDEN}]
        return [{"type": "reasoning", "id": f"rs_{NUMBER}", "summary": summary}]
    part: dict[str, Any] = {"type": "output_text", "text": " ".join(say.words), "annotations": []}
    if say.answer == "refusal":
        part = {"type": "refusal", "refusal": REFUSAL}
    content = [] if say.empty == "null_content" else [part]
    return [{"type": "message", "id": f"msg_{NUMBER}", "role": "assistant", "status": "completed", "content": content}]


def _responses_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    status = "incomplete" if say.answer == "length" else "completed" if say.has_finish else "in_progress"
    return _response(asked, say, status, _responses_items(asked, say))


def _responses_stream(asked: Asked, say: Say) -> Iterator[Event]:
    sequence = iter(range(1_000_000))

    def event(kind: Kind, name: str, **value: Any) -> Event:
        return named(kind, name, {**value, "sequence_number": next(sequence)})

    items = _responses_items(asked, say)
    opening = _response(asked, say, "in_progress", [])
    if say.empty != "done":
        yield event("open", "response.created", response=opening)
        yield event("open", "response.in_progress", response=opening)
    for index, item in enumerate(items):
        for kind, name, value in _responses_item_events(item):
            yield event(kind, name, output_index=index, **value)
    last = "incomplete" if say.answer == "length" else "completed"
    if say.has_finish:
        yield event("done", f"response.{last}", response=_response(asked, say, last, items))


_BLANK: Final[Mapping[str, dict[str, Any]]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "reasoning": {"summary": []},
}
"""What an item holds when it is announced."""


def _responses_item_events(item: dict[str, Any]) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """The events of one output item, without their numbers."""
    yield "open", "response.output_item.added", {"item": {**item, "status": "in_progress", **_BLANK[item["type"]]}}
    at: dict[str, Any] = {"item_id": item["id"]}
    if item["type"] == "function_call":
        for fragment in fragments(item["arguments"]):
            yield "word", "response.function_call_arguments.delta", {**at, "delta": fragment}
        yield "finish", "response.function_call_arguments.done", {**at, "arguments": item["arguments"]}
    elif item["type"] == "reasoning":
        at |= {"summary_index": 0}
        yield "word", "response.reasoning_summary_text.delta", {**at, "delta": _HIDDEN}
        yield "finish", "response.reasoning_summary_text.done", {**at, "text": _HIDDEN}
    for part in item.get("content", []):
        at |= {"content_index": 0}
        name, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        yield "open", "response.content_part.added", {**at, "part": {**part, key: ""}}
        for piece in pieces(tuple(part[key].split(" "))):
            yield "word", f"response.{name}.delta", {**at, "delta": piece}
        yield "finish", f"response.{name}.done", {**at, key: part[key]}
        yield "finish", "response.content_part.done", {**at, "part": part}
    yield "finish", "response.output_item.done", {"item": item}


# Anthropic messages


def _anthropic_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    blocks, reason = _anthropic_blocks(asked, say)
    return {
        **_anthropic_head(asked, say),
        "content": blocks,
        "stop_reason": reason if say.has_finish else None,
        "stop_sequence": None,
        "stop_details": _stop_details(reason),
        **({"usage": _anthropic_usage(say, _output_tokens(asked, say))} if say.has_usage else {}),
    }


def _stop_details(reason: str) -> dict[str, Any] | None:
    if reason != "refusal":
        return None
    return {"type": "refusal", "category": None, "explanation": None}


def _anthropic_head(asked: Asked, say: Say) -> dict[str, Any]:
    return {"id": f"msg_{say.provider}_{NUMBER}", "type": "message", "role": "assistant", "model": asked.model}


def _anthropic_usage(say: Say, output: int) -> dict[str, Any]:
    return {
        "input_tokens": say.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
        "service_tier": "standard",
    }


def _anthropic_blocks(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    if say.empty in ("no_choices", "done"):
        return [], "end_turn"
    if say.empty == "null_content":
        return [{"type": "text", "text": ""}], "end_turn"
    if say.answer == "refusal":
        return [], "refusal"
    if say.answer == "length":
        return [{"type": "thinking", "thinking": _HIDDEN, "signature": "c2lnbmVk"}], "max_tokens"
    if calls := _calls(asked, say):
        uses = [
            {"type": "tool_use", "id": f"toolu_{NUMBER}_{i}", "name": c.name, "input": orjson.loads(c.arguments)}
            for i, c in enumerate(calls)
        ]
        return uses, "tool_use"
    return [{"type": "text", "text": " ".join(say.words)}], "end_turn"


def _anthropic_stream(asked: Asked, say: Say) -> Iterator[Event]:
    blocks, reason = _anthropic_blocks(asked, say)
    if say.empty != "done":
        message = {**_anthropic_head(asked, say), "content": [], "stop_reason": None, "stop_sequence": None}
        if say.has_usage:
            message["usage"] = _anthropic_usage(say, 1)
        yield named("open", "message_start", {"message": message})
        yield named("open", "ping", {})
        for index, block in enumerate(blocks):
            start, deltas = _anthropic_deltas(block)
            yield named("open", "content_block_start", {"index": index, "content_block": start})
            yield from (named("word", "content_block_delta", {"index": index, "delta": delta}) for delta in deltas)
            yield named("finish", "content_block_stop", {"index": index})
        if say.has_finish:
            delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": _stop_details(reason)}
            usage = {"usage": _anthropic_usage(say, _output_tokens(asked, say))} if say.has_usage else {}
            yield named("finish", "message_delta", {"delta": delta, **usage})
    yield named("done", "message_stop", {})


def _anthropic_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The opening block and the deltas that fill it."""
    if block["type"] == "tool_use":
        parts = fragments(orjson.dumps(block["input"]).decode())
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    texts = pieces(tuple(block["text"].split(" "))) if block["text"] else iter(())
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in texts]


# Gemini


def _gemini_usage(asked: Asked, say: Say, output: int) -> dict[str, Any]:
    thoughts = output if say.answer == "length" else 0
    return {
        "promptTokenCount": say.prompt_tokens,
        "candidatesTokenCount": output - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": say.prompt_tokens + output,
    }


def _gemini_chunk(asked: Asked, say: Say, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    chunk: dict[str, Any] = {"candidates": [candidate]}
    if say.answer == "refusal":
        chunk = {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []}}
    elif say.empty == "no_choices":
        chunk = {"candidates": []}
    output = _output_tokens(asked, say) if reason is not None else 1
    usage = {"usageMetadata": _gemini_usage(asked, say, output)} if say.has_usage else {}
    return {**chunk, **usage, "modelVersion": asked.model, "responseId": f"{say.provider}-{NUMBER}"}


def _gemini_parts(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty is not None or say.answer in ("refusal", "length"):
        return []
    calls = _calls(asked, say)
    if not calls:
        return [{"text": piece} for piece in pieces(say.words)]
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": call.name, "args": orjson.loads(call.arguments)}} for call in calls
    ]
    parts[0]["thoughtSignature"] = base64.b64encode(b"signed").decode()
    return parts


def _gemini_reason(say: Say) -> str | None:
    if not say.has_finish:
        return None
    return "MAX_TOKENS" if say.answer == "length" else "STOP"


def _gemini_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    parts = _gemini_parts(asked, say)
    if parts and "text" in parts[0]:
        parts = [{"text": "".join(part["text"] for part in parts)}]
    return _gemini_chunk(asked, say, parts, _gemini_reason(say))


def _gemini_stream(asked: Asked, say: Say) -> Iterator[Event]:
    for part in _gemini_parts(asked, say):
        yield Event("word", sse(_gemini_chunk(asked, say, [part], None)))
    if say.has_finish and say.empty != "done":
        yield Event("finish", sse(_gemini_chunk(asked, say, [], _gemini_reason(say))))


# lists


def _vector(i: int, size: int) -> list[float]:
    """A vector that differs per input and is exact in 32 bits, so that float and base64 agree."""
    return [((i * 31 + k * 7) % 64 - 32) / 64 for k in range(size)]


def _embeddings(asked: Asked, say: Say) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for i in range(asked.inputs):
        vector = _vector(i, asked.dimensions)
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": i, "embedding": packed if asked.is_base64 else vector})
    usage = {"prompt_tokens": say.prompt_tokens, "total_tokens": say.prompt_tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


MODELS: Final[Mapping[Dialect, tuple[str, ...]]] = {
    "openai": ("gpt-4o", "gpt-4o-mini"),
    "anthropic": ("claude-sonnet-5", "claude-haiku-5"),
    "gemini": ("gemini-3-pro", "gemini-3-flash"),
}
"""What a provider lists; it answers for any model name all the same."""


def _models(dialect: Dialect) -> dict[str, Any]:
    names = MODELS[dialect]
    if dialect == "gemini":
        return {"models": [{"name": f"models/{n}", "supportedGenerationMethods": ["generateContent"]} for n in names]}
    if dialect == "anthropic":
        data = [{"id": n, "type": "model", "display_name": n, "created_at": "2026-01-01T00:00:00Z"} for n in names]
        return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {
        "object": "list",
        "data": [{"id": n, "object": "model", "created": CREATED, "owned_by": "demo"} for n in names],
    }


def preamble(api: Api, kind: str, asked: Asked, say: Say, pad_bytes: int = 0) -> bytes:
    """Return one event that carries no content; where a dialect has none of that kind, a comment."""
    pad = "." * pad_bytes
    opening = {event.kind: event.data for event in reversed(stream(asked, say))}.get("open")
    if kind == "ping" and api == "anthropic":
        return b"event: ping\n" + sse({"type": "ping", **({"padding": pad} if pad else {})})
    if kind == "empty" and api == "chat":
        head = _chat_head(asked, say, "chat.completion.chunk")
        return sse({**head, "choices": [], **({"obfuscation": pad} if pad else {})})
    if kind == "created" and api == "responses":
        response = _response(asked, say, "in_progress", [])
        name = "response.in_progress"
        return named("open", name, {"response": response, "sequence_number": 0, "padding": pad}).data
    if kind == "role" and api == "chat" and opening is not None:
        return padded(opening, pad_bytes)
    return f": {kind}{pad}\n\n".encode()


def padded(event: bytes, size: int) -> bytes:
    """Return an event with `size` bytes of meaningless text in a field of its own; its meaning stays."""
    if not size or not event.endswith(b"}\n\n"):
        return event
    return event[:-3] + b',"obfuscation":"' + b"." * size + b'"}\n\n'


def html(size: int) -> bytes:
    """Return an HTML page of exactly `size` bytes (at least the bare skeleton)."""
    head = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><h1>Scheduled maintenance</h1><p>"
    tail = b"</p></body></html>\n"
    return head + b"x" * max(0, size - len(head) - len(tail)) + tail
