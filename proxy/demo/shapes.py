"""What the fake providers answer, whoever is asked. Pure: a request in, bytes out.

Answers depend on nothing but the request (`asked.py`) and on what is to be said (`say.py`). Field names and event
orders are those of `providers.md` 1.2 to 1.8. Each dialect has a file of its own (`chat_shapes.py` and its neighbours);
here are the choice among them, the lists and what is no answer at all.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from proxy.demo import chat_shapes, claude_shapes, converse_shapes, gemini_shapes, responses_shapes
from proxy.demo.asked import (
    CHOICES_MAX,
    DIALECTS,
    EMBEDDING_SIZE,
    FRAMED_APIS,
    STREAM_APIS,
    Api,
    Asked,
    Dialect,
    ToolCall,
    read,
)
from proxy.demo.error_shapes import error, error_event, error_status, family, kind_of_status
from proxy.demo.say import (
    CREATED,
    HIDDEN,
    ID,
    PROMPT_TOKENS,
    REFUSAL,
    TEXT,
    WORDS,
    Event,
    Kind,
    Say,
    named,
    sse,
    stamp,
)

__all__ = [
    "CHOICES_MAX",
    "CREATED",
    "DIALECTS",
    "EMBEDDING_SIZE",
    "FRAMED_APIS",
    "HIDDEN",
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


_WHOLE: Final[Mapping[Api, Callable[[Asked, Say], dict[str, Any]]]] = {
    "chat": chat_shapes.unary,
    "responses": responses_shapes.unary,
    "anthropic": claude_shapes.unary,
    "invoke": claude_shapes.unary,
    "gemini": gemini_shapes.unary,
    "converse": converse_shapes.unary,
}
_STREAMED: Final[Mapping[Api, Callable[[Asked, Say], Iterator[Event]]]] = {
    "chat": chat_shapes.stream,
    "responses": responses_shapes.stream,
    "anthropic": claude_shapes.stream,
    "invoke": claude_shapes.invoke_stream,
    "gemini": gemini_shapes.stream,
    "converse": converse_shapes.stream,
}
_COUNTED: Final[Mapping[Api, str]] = {
    "count_tokens": "input_tokens",
    "gemini_count": "totalTokens",
    "converse_count": "inputTokens",
}


def unary(asked: Asked, say: Say, dialect: Dialect = "openai") -> bytes:
    """Return the body of a whole answer, a template for `stamp`; `dialect` decides the shape of a model list."""
    if (make := _WHOLE.get(asked.api)) is not None:
        value = make(asked, say)
    elif (member := _COUNTED.get(asked.api)) is not None:
        value = {member: say.prompt_tokens}
    elif asked.api == "embeddings":
        value = _embeddings(asked, say)
    elif asked.api == "gemini_embeddings":
        vectors = [{"values": _vector(i, asked.dimensions)} for i in range(max(1, asked.inputs))]
        value = {"embeddings": vectors} if asked.inputs else {"embedding": vectors[0]}
    else:
        value = _models(dialect)
    return orjson.dumps([value] if asked.is_array else value)


def stream(asked: Asked, say: Say) -> tuple[Event, ...]:
    """Return the events of a streamed answer, templates for `stamp`; only of the `STREAM_APIS`."""
    return tuple(_STREAMED[asked.api](asked, say))


def echo(method: str, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    """Return what reached us, for paths that mean nothing to us."""
    return orjson.dumps(
        {"method": method, "path": path, "headers": headers, "body_bytes": len(body), "sha256": sha256(body)}
    )


def sha256(body: bytes | bytearray) -> str:
    """Hex digest of a body."""
    return hashlib.sha256(body).hexdigest()


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
    "azure": ("gpt-4o", "gpt-4o-mini"),
    "bedrock": ("us.anthropic.claude-sonnet-5-v1:0", "amazon.nova-pro-v2:0"),
}
"""What a provider lists; it answers for any model name all the same."""


def _models(dialect: Dialect) -> dict[str, Any]:
    names = MODELS[dialect]
    if dialect == "gemini":
        return {"models": [{"name": f"models/{n}", "supportedGenerationMethods": ["generateContent"]} for n in names]}
    if dialect == "bedrock":
        return {"modelSummaries": [{"modelId": n, "responseStreamingSupported": True} for n in names]}
    if dialect == "anthropic":
        data = [{"id": n, "type": "model", "display_name": n, "created_at": "2026-01-01T00:00:00Z"} for n in names]
        return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {
        "object": "list",
        "data": [{"id": n, "object": "model", "created": CREATED, "owned_by": "demo"} for n in names],
    }


def preamble(api: Api, kind: str, asked: Asked, say: Say, pad_bytes: int = 0) -> bytes:
    """Return one event that carries no content; where a dialect has none of that kind: a comment, or no frame."""
    if api in FRAMED_APIS:
        ping = b"event: ping\n" + sse({"type": "ping"})
        return claude_shapes.framed(ping) if kind == "ping" and api == "invoke" else b""
    pad = "." * pad_bytes
    opening = {event.kind: event.data for event in reversed(stream(asked, say))}.get("open")
    if kind == "ping" and api == "anthropic":
        return b"event: ping\n" + sse({"type": "ping", **({"padding": pad} if pad else {})})
    if kind == "empty" and api == "chat":
        head = chat_shapes.head(asked, say, "chat.completion.chunk")
        return sse({**head, "choices": [], **({"obfuscation": pad} if pad else {})})
    if kind == "created" and api == "responses":
        response = responses_shapes.response(asked, say, "in_progress", [])
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
