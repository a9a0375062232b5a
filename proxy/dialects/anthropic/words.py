"""Anthropic's own words, in one place for both directions (`providers.md` 1.5, 2.6, 2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects import model_table
from proxy.dialects.chat import Finish, Json, ModelFacts, ToolCall, Usage
from proxy.dialects.members import mapping, string

DIALECT: Final = "messages"
ORIGIN: Final = "anthropic"
"""Who signs Claude's reasoning, whatever platform it came over."""

CITATION: Final = "citation"
"""Kind of the opaque part that carries a citation of the text before it, as Anthropic wrote it."""
MEMBERS: Final = "message"
"""Kind of the opaque part that carries members of a message which have no place in the canonical form."""
REFUSED: Final = "refused"
"""What is told of a refusal that gives no reason."""

IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
INPUT: Final = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""What a tool of free text takes where every tool takes an object."""

FINISH: Final[Mapping[str, Finish]] = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP_SEQUENCE,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.CONTEXT,
    "tool_use": Finish.TOOL_CALLS,
    "refusal": Finish.CONTENT_FILTER,
    "pause_turn": Finish.PAUSE,
    "compaction": Finish.PAUSE,  # like a pause: the turn is sent back to go on
}
STOP_REASON: Final[Mapping[Finish, str]] = {
    Finish.STOP: "end_turn",
    Finish.STOP_SEQUENCE: "stop_sequence",
    Finish.LENGTH: "max_tokens",
    Finish.CONTEXT: "model_context_window_exceeded",
    Finish.TOOL_CALLS: "tool_use",
    Finish.CONTENT_FILTER: "refusal",
    Finish.PAUSE: "pause_turn",
    Finish.MALFORMED: "end_turn",
    Finish.UNKNOWN: "end_turn",
}
_FOREIGN_IDS: Final = ("chatcmpl-", "resp_", "gen-", "cmpl-", "msg-")


def generation(facts: ModelFacts) -> tuple[int, int]:
    """(4, 5) of ``claude-sonnet-4-5``; zeros where the name does not tell."""
    found = model_table.claude_generation(facts.model.lower())
    return (0, 0) if found is None else found[1]


# Answers --------------------------------------------------------------------------------------------------------------


def stop_reason(finish: Finish, calls: bool, refused: bool) -> str:
    """The stop reason; `refused`: the model has declined in words, which other dialects tell as a plain stop."""
    if finish in (Finish.STOP, Finish.UNKNOWN, Finish.MALFORMED):
        if calls:
            return "tool_use"
        if refused:
            return "refusal"
    return STOP_REASON[finish]


def explanation_in(details: Any) -> str:
    """The provider's words about a refusal; empty: none."""
    return string(mapping(details).get("explanation"))


def refusal_details(explanation: str) -> dict[str, Any]:
    """``stop_details`` of a refusal whose category nobody told."""
    return {"type": "refusal", "category": None, "explanation": explanation or None}


def message_id(given: str, seed: str) -> str:
    """The id of an answer in Anthropic's form, made of the provider's, else of the seed."""
    if given.startswith("msg_"):
        return given
    for prefix in _FOREIGN_IDS:
        if given.startswith(prefix):
            given = given[len(prefix) :]
            break
    return f"msg_{given or seed}"


def call_id(given: str, seed: str, index: int) -> str:
    """The id of a call, made of the seed where the provider gave none."""
    return given or f"toolu_{seed[:22]}{index:02d}"


def call_input(call: ToolCall) -> dict[str, Any]:
    """A call's arguments as the object that they have to be; what is none stays there to be read, under ``_raw``."""
    if call.custom:
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    try:
        parsed = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"_raw": call.arguments}


def annotation(citation: Json, start: int, end: int) -> dict[str, Any] | None:
    """A citation of the web in OpenAI's chat form, for the text between two offsets; None: it cites something else."""
    url = citation.get("url")
    if not isinstance(url, str) or not url:
        return None
    title = string(citation.get("title"))
    return {
        "type": "url_citation",
        "url_citation": {"url": url, "title": title, "start_index": start, "end_index": end},
    }


# Usage ----------------------------------------------------------------------------------------------------------------


def count(raw: Json, name: str) -> int:
    """A number of tokens; anything else is 0."""
    value = raw.get(name)
    return max(0, int(value)) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def usage_in(raw: Any) -> Usage | None:
    """The normal form; None: it is no usage object. `input_tokens` leaves the cached ones out already."""
    if not isinstance(raw, Mapping) or not ("input_tokens" in raw or "output_tokens" in raw):
        return None
    thought = mapping(raw.get("output_tokens_details")).get("thinking_tokens")
    return Usage(
        input=count(raw, "input_tokens"),
        cache_read=count(raw, "cache_read_input_tokens"),
        cache_write=count(raw, "cache_creation_input_tokens"),
        output=count(raw, "output_tokens"),
        reasoning=max(0, int(thought)) if isinstance(thought, int | float) else None,
        raw=raw,
    )


def usage_out(usage: Usage | None) -> dict[str, Any]:
    """Anthropic's usage object; one that came in this form keeps its details. Zeros when none was told, as its place
    is not optional."""
    usage = usage or Usage()
    raw = usage.raw
    if raw is not None and "total_tokens" not in raw and "input_tokens_details" not in raw and _is_same(raw, usage):
        return dict(raw)
    out: dict[str, Any] = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.reasoning is not None:
        out["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return out


def _is_same(raw: Json, usage: Usage) -> bool:
    """Whether an object in Anthropic's form says what the normal form says: others use the same names in part."""
    return (
        raw.get("input_tokens") == usage.input
        and raw.get("output_tokens") == usage.output
        and count(raw, "cache_read_input_tokens") == usage.cache_read
        and count(raw, "cache_creation_input_tokens") == usage.cache_write
    )
