"""What the mock says in the words of other dialects, for the price of translation: rendered once, like everything else.

One text, four ways to say it. The events carry what the real ones carry beside the text, because a translator reads
all of it: block indexes and ids, the usage that Gemini repeats in every event, the checksums of Converse's frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from proxy.dialects.eventstream import event_frame

PROMPT, OUTPUT = 300, 200
"""Tokens that every answer claims."""

STREAM_TYPES = {
    "anthropic": "text/event-stream; charset=utf-8",
    "gemini": "text/event-stream",
    "bedrock": "application/vnd.amazon.eventstream",
}


def unary(dialect: str, model: str, text: str) -> bytes:
    """A whole answer that says `text`."""
    return _json(_BODIES[dialect](model, text))


def stream(dialect: str, model: str, pieces: Sequence[str]) -> list[bytes]:
    """The events of a streamed answer, one content event for each of `pieces`; not framed for HTTP."""
    return list(_STREAMS[dialect](model, pieces))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Anthropic ------------------------------------------------------------------------------------------------------------


def _message(model: str, content: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": PROMPT,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": OUTPUT if reason else 1,
            "service_tier": "standard",
        },
    }


def _anthropic_body(model: str, text: str) -> dict[str, Any]:
    return _message(model, [{"type": "text", "text": text}], "end_turn")


def _anthropic_stream(model: str, pieces: Sequence[str]) -> Iterator[bytes]:
    def event(kind: str, **more: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind, **more}))

    yield event("message_start", message=_message(model, [], None))
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for piece in pieces:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield event("content_block_stop", index=0)
    yield event(
        "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": OUTPUT}
    )
    yield event("message_stop")


# Gemini ---------------------------------------------------------------------------------------------------------------


def _chunk(model: str, text: str, reason: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": PROMPT,
            "candidatesTokenCount": OUTPUT,
            "totalTokenCount": PROMPT + OUTPUT,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": PROMPT}],
        },
        "modelVersion": model,
        "responseId": "mA0aaYbXEZ6V1PIP2amXiQk",
    }


def _gemini_body(model: str, text: str) -> dict[str, Any]:
    return _chunk(model, text, "STOP")


def _gemini_stream(model: str, pieces: Sequence[str]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"data: " + _json(_chunk(model, piece, None)) + b"\r\n\r\n"
    yield b"data: " + _json(_chunk(model, "", "STOP")) + b"\r\n\r\n"


# Converse -------------------------------------------------------------------------------------------------------------


def _usage() -> dict[str, Any]:
    return {
        "usage": {"inputTokens": PROMPT, "outputTokens": OUTPUT, "totalTokens": PROMPT + OUTPUT},
        "metrics": {"latencyMs": 551},
    }


def _converse_body(_model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"text": text}]}
    return {"output": {"message": message}, "stopReason": "end_turn", **_usage()}


def _converse_stream(_model: str, pieces: Sequence[str]) -> Iterator[bytes]:
    padding = "abcdefghijklmnopqrstuv"  # The service pads its events with letters, so that their size tells nothing.
    yield event_frame("messageStart", {"role": "assistant", "p": padding})
    for piece in pieces:
        yield event_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}, "p": padding})
    yield event_frame("contentBlockStop", {"contentBlockIndex": 0, "p": padding})
    yield event_frame("messageStop", {"stopReason": "end_turn", "p": padding})
    yield event_frame("metadata", {**_usage(), "p": padding})


_BODIES = {"anthropic": _anthropic_body, "gemini": _gemini_body, "bedrock": _converse_body}
_STREAMS = {"anthropic": _anthropic_stream, "gemini": _gemini_stream, "bedrock": _converse_stream}
DIALECTS = tuple(_BODIES)
