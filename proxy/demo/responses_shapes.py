"""What the fake providers answer in the words of OpenAI's Responses. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from proxy.demo.asked import Asked
from proxy.demo.content import cache_split, calls, output_tokens, reasoning_tokens, text, text_pieces, thinks
from proxy.demo.say import CREATED, HIDDEN, NUMBER, REFUSAL, SIGNATURE, Event, Kind, Say, fragments, named, pieces


def _usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = output_tokens(asked, say)
    return {
        "input_tokens": say.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cache_split(say)[1]},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens(asked, say)},
        "total_tokens": say.prompt_tokens + output,
    }


def response(asked: Asked, say: Say, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the response object in one of its states."""
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
        "usage": _usage(asked, say) if is_over and say.has_usage else None,
    }


def _items(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty in ("no_choices", "done"):
        return []
    summary = [{"type": "summary_text", "text": HIDDEN}]
    reasoning: dict[str, Any] = {"type": "reasoning", "id": f"rs_{NUMBER}", "summary": summary}
    if asked.is_sealed:
        reasoning["encrypted_content"] = SIGNATURE
    if say.answer == "length":
        return [reasoning]
    before = [reasoning] if thinks(asked, say) else []
    if made := calls(asked, say):
        return before + [
            {
                "type": "function_call",
                "id": f"fc_{NUMBER}_{i}",
                "call_id": f"call_{NUMBER}_{i}",
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for i, call in enumerate(made)
        ]
    part: dict[str, Any] = {"type": "output_text", "text": text(asked, say), "annotations": []}
    if say.answer == "refusal":
        part = {"type": "refusal", "refusal": REFUSAL}
    content = [] if say.empty == "null_content" else [part]
    message = {"type": "message", "id": f"msg_{NUMBER}", "role": "assistant", "status": "completed"}
    return [*before, {**message, "content": content}]


def unary(asked: Asked, say: Say) -> dict[str, Any]:
    """Return a whole answer."""
    if say.empty == "done":
        return {}
    status = "incomplete" if say.answer == "length" else "completed" if say.has_finish else "in_progress"
    return response(asked, say, status, _items(asked, say))


def stream(asked: Asked, say: Say) -> Iterator[Event]:
    """Give the events of a streamed answer."""
    sequence = iter(range(1_000_000))

    def event(kind: Kind, name: str, /, **value: Any) -> Event:
        return named(kind, name, {**value, "sequence_number": next(sequence)})

    items = _items(asked, say)
    opening = response(asked, say, "in_progress", [])
    if say.empty != "done":
        yield event("open", "response.created", response=opening)
        yield event("open", "response.in_progress", response=opening)
    for index, item in enumerate(items):
        for kind, name, value in _item_events(asked, say, item):
            yield event(kind, name, output_index=index, **value)
    last = "incomplete" if say.answer == "length" else "completed"
    if say.has_finish:
        yield event("done", f"response.{last}", response=response(asked, say, last, items))


_BLANK: Final[Mapping[str, dict[str, Any]]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "reasoning": {"summary": []},
}
"""What an item holds when it is announced."""


def _item_events(asked: Asked, say: Say, item: dict[str, Any]) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """The events of one output item, without their numbers."""
    after: Kind = "open" if item["type"] == "reasoning" and say.answer != "length" else "finish"
    yield "open", "response.output_item.added", {"item": {**item, "status": "in_progress", **_BLANK[item["type"]]}}
    at: dict[str, Any] = {"item_id": item["id"]}
    if item["type"] == "function_call":
        for fragment in fragments(item["arguments"]):
            yield "word", "response.function_call_arguments.delta", {**at, "delta": fragment}
        done = {**at, "name": item["name"], "arguments": item["arguments"]}
        yield after, "response.function_call_arguments.done", done
    elif item["type"] == "reasoning":
        at |= {"summary_index": 0}
        said: Kind = "word" if say.answer == "length" else "open"
        part = {"type": "summary_text", "text": ""}
        yield "open", "response.reasoning_summary_part.added", {**at, "part": part}
        yield said, "response.reasoning_summary_text.delta", {**at, "delta": HIDDEN}
        yield after, "response.reasoning_summary_text.done", {**at, "text": HIDDEN}
        yield after, "response.reasoning_summary_part.done", {**at, "part": {**part, "text": HIDDEN}}
    for part in item.get("content", []):
        at |= {"content_index": 0}
        name, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        yield "open", "response.content_part.added", {**at, "part": {**part, key: ""}}
        texts = pieces(tuple(REFUSAL.split())) if key == "refusal" else text_pieces(asked, say)
        for piece in texts:
            yield "word", f"response.{name}.delta", {**at, "delta": piece}
        yield "finish", f"response.{name}.done", {**at, key: part[key]}
        yield "finish", "response.content_part.done", {**at, "part": part}
    yield after, "response.output_item.done", {"item": item}
