"""What the fake providers answer in the words of OpenAI's chat completions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.demo.asked import Asked, ToolCall
from proxy.demo.content import cache_split, calls, hidden_pieces, output_tokens, reasoning_tokens, text, text_pieces
from proxy.demo.say import CREATED, HIDDEN, NUMBER, REFUSAL, Event, Kind, Say, fragments, pieces, sse


def _usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = output_tokens(asked, say)
    return {
        "prompt_tokens": say.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": say.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": cache_split(say)[1]},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens(asked, say)},
    }


def unary(asked: Asked, say: Say) -> dict[str, Any]:
    """Return a whole answer."""
    if say.empty == "done":
        return {}
    made = calls(asked, say)
    message: dict[str, Any] = {"role": "assistant", "content": text(asked, say), "refusal": None}
    reason = "stop"
    if say.empty == "null_content":
        message["content"] = None
    elif say.answer == "refusal":
        message |= {"content": None, "refusal": REFUSAL}
    elif say.answer == "length":
        message["content"], reason = "", "length"
    elif made:
        message |= {"content": None, "tool_calls": [_call(i, call) for i, call in enumerate(made)]}
        reason = "tool_calls"
    if say.answer == "reasoning":  # OpenAI itself shows none; the compatible vendors do
        message["reasoning_content"] = HIDDEN
    choice = {"message": message, "finish_reason": reason if say.has_finish else None, "logprobs": None}
    choices = [] if say.empty == "no_choices" else [{"index": i, **choice} for i in range(asked.choices)]
    answer = {**head(asked, say, "chat.completion"), "choices": choices}
    return answer | ({"usage": _usage(asked, say)} if say.has_usage else {})


def head(asked: Asked, say: Say, kind: str) -> dict[str, Any]:
    """Return what every chunk and every answer begins with."""
    return {
        "id": f"chatcmpl-{say.provider}-{NUMBER}",
        "object": kind,
        "created": CREATED,
        "model": asked.model,
        "system_fingerprint": say.provider,
    }


def _call(i: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{NUMBER}_{i}", "type": "function", "function": function}


def stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the events of a streamed answer."""
    first = head(asked, say, "chat.completion.chunk")
    with_usage = asked.include_usage and say.has_usage
    if with_usage:
        first["usage"] = None

    def chunk(kind: Kind, index: int, delta: dict[str, Any], reason: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return Event(kind, sse({**first, "choices": [choice]}))

    each = range(asked.choices)
    if asked.is_azure:
        filtered = {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
        yield Event("open", sse({**first, "model": "", "choices": [], **filtered}))
    if say.empty == "no_choices":
        yield Event("open", sse({**first, "choices": []}))
    elif say.empty != "done":
        yield from (chunk("open", i, {"role": "assistant", "content": "", "refusal": None}) for i in each)
        reason = "stop"
        if say.empty is None:
            if say.answer == "reasoning":
                yield from (chunk("open", i, {"reasoning_content": piece}) for piece in hidden_pieces() for i in each)
            deltas, reason = _deltas(asked, say)
            yield from (chunk("word", i, delta) for delta in deltas for i in each)
        if say.has_finish:
            yield from (chunk("finish", i, {}, reason) for i in each)
        if with_usage:
            yield Event("usage", sse({**first, "choices": [], "usage": _usage(asked, say)}))
    yield Event("done", b"data: [DONE]\n\n")


def _deltas(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    made = calls(asked, say)
    if say.answer == "refusal":
        return [{"refusal": piece} for piece in pieces(tuple(REFUSAL.split()))], "stop"
    if say.answer == "length":
        return [], "length"
    if not made:
        return [{"content": piece} for piece in text_pieces(asked, say)], "stop"
    deltas: list[dict[str, Any]] = []
    for i, call in enumerate(made):
        first = _call(i, ToolCall(name=call.name, arguments=""))
        deltas.append({"tool_calls": [{"index": i, **first}]})
        parts = fragments(call.arguments)
        deltas += [{"tool_calls": [{"index": i, "function": {"arguments": part}}]} for part in parts]
    return deltas, "tool_calls"
