"""What the fake providers answer in the words of Bedrock's Converse; its streams are AWS frames. Pure.

Nothing in a frame holds the placeholder of the attempt's number: a stamp would break the checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from proxy.demo.asked import Asked
from proxy.demo.content import cache_split, calls, hidden_pieces, output_tokens, text, text_pieces, thinks, usage_if
from proxy.demo.say import HIDDEN, SIGNATURE, Event, Kind, Say, fragments
from proxy.dialects.eventstream import event_frame


def _usage(asked: Asked, say: Say) -> dict[str, Any]:
    fresh, cached = cache_split(say)
    output = output_tokens(asked, say)
    return {
        "inputTokens": fresh,
        "outputTokens": output,
        "totalTokens": say.prompt_tokens + output,
        "cacheReadInputTokens": cached,
        "cacheWriteInputTokens": 0,
    }


def _blocks(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    if say.empty in ("no_choices", "done"):
        return [], "end_turn"
    if say.empty == "null_content":
        return [{"text": ""}], "end_turn"
    if say.answer == "refusal":
        return [], "content_filtered"
    thinking = {"reasoningContent": {"reasoningText": {"text": HIDDEN, "signature": SIGNATURE}}}
    if say.answer == "length":
        return [thinking], "max_tokens"
    before = [thinking] if thinks(asked, say) else []
    if made := calls(asked, say):
        uses = [
            {"toolUse": {"toolUseId": f"tooluse_{i}", "name": c.name, "input": orjson.loads(c.arguments)}}
            for i, c in enumerate(made)
        ]
        return before + uses, "tool_use"
    return [*before, {"text": text(asked, say)}], "end_turn"


def unary(asked: Asked, say: Say) -> dict[str, Any]:
    """Return a whole answer."""
    if say.empty == "done":
        return {}
    blocks, reason = _blocks(asked, say)
    return {
        "output": {"message": {"role": "assistant", "content": blocks}},
        **({"stopReason": reason} if say.has_finish else {}),
        **usage_if(say, _usage(asked, say)),
        "metrics": {"latencyMs": 5},
    }


def stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the frames of a streamed answer. Only blocks of tools are announced."""

    def frame(kind: Kind, name: str, value: dict[str, Any]) -> Event:
        return Event(kind, event_frame(name, {**value, "p": "abcd"}))

    blocks, reason = _blocks(asked, say)
    if say.empty != "done":
        yield frame("open", "messageStart", {"role": "assistant"})
        for index, block in enumerate(blocks):
            is_before = "reasoningContent" in block and say.answer != "length"
            at = {"contentBlockIndex": index}
            if use := block.get("toolUse"):
                start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
                yield frame("open", "contentBlockStart", {"start": start, **at})
            for delta in _deltas(asked, say, block):
                yield frame("open" if is_before else "word", "contentBlockDelta", {"delta": delta, **at})
            yield frame("open" if is_before else "finish", "contentBlockStop", at)
    if say.has_finish:
        yield frame("done", "messageStop", {"stopReason": reason})
    if say.empty != "done":
        yield frame("usage", "metadata", {**usage_if(say, _usage(asked, say)), "metrics": {"latencyMs": 5}})


def _deltas(asked: Asked, say: Say, block: dict[str, Any]) -> list[dict[str, Any]]:
    if use := block.get("toolUse"):
        return [{"toolUse": {"input": part}} for part in fragments(orjson.dumps(use["input"]).decode())]
    if "reasoningContent" in block:
        told = [HIDDEN] if say.answer == "length" else hidden_pieces()
        return [
            *({"reasoningContent": {"text": piece}} for piece in told),
            {"reasoningContent": {"signature": SIGNATURE}},
        ]
    return [{"text": piece} for piece in text_pieces(asked, say)] if block["text"] else []
