"""What the fake providers answer in the words of Gemini's generateContent. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from proxy.demo.asked import Asked
from proxy.demo.content import cache_split, calls, output_tokens, reasoning_tokens, text_pieces, thinks
from proxy.demo.say import HIDDEN, NUMBER, SIGNATURE, Event, Say, sse


def _usage(asked: Asked, say: Say, output: int) -> dict[str, Any]:
    thoughts = min(reasoning_tokens(asked, say), output)
    _, cached = cache_split(say)
    return {
        "promptTokenCount": say.prompt_tokens,
        **({"cachedContentTokenCount": cached} if cached else {}),
        "candidatesTokenCount": output - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": say.prompt_tokens + output,
    }


def _chunk(asked: Asked, say: Say, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    chunk: dict[str, Any] = {"candidates": [candidate]}
    if say.answer == "refusal":
        chunk = {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []}}
    elif say.empty == "no_choices":
        chunk = {"candidates": []}
    output = output_tokens(asked, say) if reason is not None else 1
    usage = {"usageMetadata": _usage(asked, say, output)} if say.has_usage else {}
    return {**chunk, **usage, "modelVersion": asked.model, "responseId": f"{say.provider}-{NUMBER}"}


def _thoughts(asked: Asked, say: Say) -> list[dict[str, Any]]:
    is_shown = thinks(asked, say) and (say.answer == "reasoning" or not asked.hides)
    return [{"text": HIDDEN, "thought": True}] if is_shown else []


def _parts(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty is not None or say.answer in ("refusal", "length"):
        return []
    made = calls(asked, say)
    if not made:
        return [{"text": piece} for piece in text_pieces(asked, say)]
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": call.name, "args": orjson.loads(call.arguments)}} for call in made
    ]
    parts[0]["thoughtSignature"] = SIGNATURE
    return parts


def _reason(say: Say) -> str | None:
    if not say.has_finish:
        return None
    return "MAX_TOKENS" if say.answer == "length" else "STOP"


def unary(asked: Asked, say: Say) -> dict[str, Any]:
    """Return a whole answer."""
    if say.empty == "done":
        return {}
    parts = _parts(asked, say)
    if parts and "text" in parts[0]:
        parts = [{"text": "".join(part["text"] for part in parts)}]
    return _chunk(asked, say, _thoughts(asked, say) + parts, _reason(say))


def stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the events of a streamed answer."""
    for part in _thoughts(asked, say):
        yield Event("open", sse(_chunk(asked, say, [part], None)))
    for part in _parts(asked, say):
        yield Event("word", sse(_chunk(asked, say, [part], None)))
    if say.has_finish and say.empty != "done":
        yield Event("finish", sse(_chunk(asked, say, [], _reason(say))))
