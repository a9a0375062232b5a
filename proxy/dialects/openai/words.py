"""Chat completions' own words, in one place for both directions (`providers.md` 1.2, 2.6, 2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.chat import Finish, Json, Thinking, Usage
from proxy.dialects.members import dumped, mapping, string
from proxy.dialects.reading import error_in

DIALECT: Final = "chat"

FINISH: Final[Mapping[str, Finish]] = {
    "stop": Finish.STOP,
    "eos": Finish.STOP,
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP_SEQUENCE,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "model_length": Finish.CONTEXT,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "tool_use": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
    "sensitive": Finish.CONTENT_FILTER,
    "malformed_function_call": Finish.MALFORMED,
}
"""Of all vendors, in small letters; a word that is missing is UNKNOWN."""
BROKEN: Final = frozenset({"error", "insufficient_system_resource", "network_error", "abort"})
"""Words by which a vendor says that the answer failed under way."""
FINISH_REASON: Final[Mapping[Finish, str]] = {
    Finish.STOP: "stop",
    Finish.STOP_SEQUENCE: "stop",
    Finish.LENGTH: "length",
    Finish.CONTEXT: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.CONTENT_FILTER: "content_filter",
    Finish.PAUSE: "length",
    Finish.MALFORMED: "stop",
    Finish.UNKNOWN: "stop",
}
TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
"""Values of ``service_tier``; what other dialects call theirs is not told, because the SDK checks it."""
ORIGINS: Final = {"anthropic-claude-v1": "anthropic", "google-gemini-v1": "gemini"}
"""OpenRouter's ``format`` of reasoning -> who signed it. What it wraps for others is readable at OpenRouter only."""


def whole(value: Any) -> int:
    """A count; anything else is 0."""
    return int(value) if isinstance(value, int | float) and value > 0 else 0


# Errors ---------------------------------------------------------------------------------------------------------------


def error_of(body: Json) -> Json | None:
    """The error of a body or event without regard to what stands beside it; None: none."""
    found = error_in(body)
    if found is None and "choices" not in body and "data" not in body:
        if body.get("object") == "error" or (body.get("message") and ("code" in body or "type" in body)):
            return body
        if body.get("detail"):
            detail = body["detail"]
            return {"message": detail if isinstance(detail, str) else dumped(detail)}
    if found is None and (groq := mapping(body.get("x_groq")).get("error")):
        return groq if isinstance(groq, Mapping) else {"message": str(groq)}
    return found


def failed(choice: Json, reason: str) -> Json:
    """The error of a choice that ended with one of `BROKEN`."""
    return error_in(choice) or {"message": f"the answer ended with finish_reason {reason}", "type": "server_error"}


# Reasoning ------------------------------------------------------------------------------------------------------------


def block_in(block: Json) -> Thinking | None:
    """One of our ``thinking_blocks``; None: it says nothing."""
    origin = string(block.get("origin")) or "anthropic"
    signature, data, text = (string(block.get(key)) for key in ("signature", "data", "thinking"))
    if not (signature or data or text):
        return None
    signed = origin if signature or data else ""
    return Thinking(text=text, signature=signature, redacted=data, origin=signed, id=string(block.get("id")))


def block_out(text: str, signature: str, redacted: str, origin: str, item: str) -> dict[str, Any]:
    """A reasoning block with what makes it replayable; who signed it is told unless it is Anthropic."""
    if redacted:
        out = {"type": "redacted_thinking", "data": redacted}
        if text:
            out["thinking"] = text
    else:
        out = {"type": "thinking", "thinking": text, "signature": signature}
    if origin and origin != "anthropic":
        out["origin"] = origin
    if item:
        out["id"] = item
    return out


def detail_in(detail: Json) -> Thinking | None:
    """One of OpenRouter's ``reasoning_details``; None: it says nothing."""
    text = string(detail.get("text")) or string(detail.get("summary"))
    signature, data = string(detail.get("signature")), string(detail.get("data"))
    if not (text or signature or data):
        return None
    form = string(detail.get("format"))
    origin = (ORIGINS.get(form) or f"openrouter:{form}") if signature or data else ""
    if origin == "gemini" and data:
        signature, data = data, ""
    return Thinking(text=text, signature=signature, redacted=data, origin=origin, id=string(detail.get("id")))


def signature_in(holder: Json) -> str:
    """Gemini's thought signature on a message or a tool call; empty: none."""
    google = mapping(mapping(holder.get("extra_content")).get("google"))
    return string(google.get("thought_signature"))


def signature_out(signature: str) -> dict[str, Any]:
    """What carries a thought signature of Gemini's."""
    return {"google": {"thought_signature": signature}}


# Usage ----------------------------------------------------------------------------------------------------------------

_CACHED: Final = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")


def usage_in(raw: Any) -> Usage | None:
    """The normal form; None: it is no usage object."""
    if not isinstance(raw, Mapping) or not ("prompt_tokens" in raw or "completion_tokens" in raw):
        return None
    prompt, output = whole(raw.get("prompt_tokens")), whole(raw.get("completion_tokens"))
    details = mapping(raw.get("prompt_tokens_details"))
    cached = whole(details.get("cached_tokens"))
    if not cached:
        cached = next((count for key in _CACHED if (count := whole(raw.get(key)))), 0)
    cached = min(cached, prompt)
    wrote = min(
        whole(details.get("cache_write_tokens")) or whole(raw.get("cache_creation_input_tokens")), prompt - cached
    )
    completion = mapping(raw.get("completion_tokens_details"))
    told = completion.get("reasoning_tokens", raw.get("reasoning_tokens"))
    reasoning = whole(told) if isinstance(told, int | float) else None
    hidden = whole(raw.get("total_tokens")) - prompt - output
    if hidden > 0:  # xAI and Google count what was thought in the total only
        output += hidden
        reasoning = reasoning or hidden
    return Usage(
        input=prompt - cached - wrote, cache_read=cached, cache_write=wrote, output=output, reasoning=reasoning, raw=raw
    )


def annotation_out(raw: Json) -> Json | None:
    """A citation as chat knows it, with the members that callers rely on; None: of a kind that only the Responses API
    has, over which strict callers stumble."""
    if raw.get("type") in ("file_citation", "container_file_citation", "file_path"):
        return None
    cited = raw.get("url_citation")
    if not isinstance(cited, Mapping):
        return raw
    told = {key: value for key, value in cited.items() if value is not None}
    return {**raw, "url_citation": {"start_index": 0, "end_index": 0, "title": "", "url": "", **told}}


def usage_out(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object; one that came in this form keeps its details."""
    prompt, output, raw = usage.prompt, usage.output, usage.raw
    if raw is not None and raw.get("prompt_tokens") == prompt and raw.get("completion_tokens") == output:
        return {"total_tokens": prompt + output, **raw}
    details = {"cached_tokens": usage.cache_read}
    if usage.cache_write:
        details["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
    }
