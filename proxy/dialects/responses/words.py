"""The Responses API's own words, in one place for both directions (`providers.md` 1.3, 2.6, 2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.chat import Finish, Json, Usage
from proxy.dialects.members import mapping, string

DIALECT: Final = "responses"
TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})

CALLS: Final = {"function_call": False, "custom_tool_call": True}
"""Items by which the model asks for a tool of the caller's -> whether it takes free text."""
RESULTS: Final = {"function_call_output": False, "custom_tool_call_output": True}


def whole(value: Any) -> int:
    """A count; anything else is 0."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def usage_in(raw: Any) -> Usage | None:
    """The normal form; None: it is no usage object."""
    if not isinstance(raw, Mapping) or not ("input_tokens" in raw or "output_tokens" in raw):
        return None
    prompt, output = whole(raw.get("input_tokens")), whole(raw.get("output_tokens"))
    details = mapping(raw.get("input_tokens_details"))
    cached = min(whole(details.get("cached_tokens")), prompt)
    wrote = min(whole(details.get("cache_write_tokens")), prompt - cached)
    told = mapping(raw.get("output_tokens_details")).get("reasoning_tokens")
    return Usage(
        input=prompt - cached - wrote,
        cache_read=cached,
        cache_write=wrote,
        output=output,
        reasoning=whole(told) if isinstance(told, int | float) else None,
        raw=raw,
    )


def usage_out(usage: Usage) -> dict[str, Any]:
    """The usage object with both details, which the SDK demands; one that came in this form keeps its own."""
    prompt, output, raw = usage.prompt, usage.output, usage.raw
    out: dict[str, Any] = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": prompt + output,
    }
    if raw is not None and raw.get("input_tokens") == prompt and isinstance(raw.get("input_tokens_details"), Mapping):
        for key, value in raw.items():
            if isinstance(value, Mapping):
                out[key] = {**mapping(out.get(key)), **value}
            elif value is not None:
                out[key] = value
    return out


def finish_in(response: Json, calls: bool) -> Finish:
    """Why a response ended, by its status; calls are calls whatever else it says."""
    status = string(response.get("status"))
    if status == "incomplete":
        reason = string(mapping(response.get("incomplete_details")).get("reason"))
        if reason == "content_filter":
            return Finish.CONTENT_FILTER
        return Finish.LENGTH if reason in ("max_output_tokens", "max_tokens", "") else Finish.UNKNOWN
    if status in ("queued", "in_progress", "cancelled"):
        return Finish.PAUSE
    return Finish.TOOL_CALLS if calls else Finish.STOP


def status_out(finish: Finish) -> tuple[str, dict[str, str] | None]:
    """(status, incomplete_details) of an answer."""
    if finish in (Finish.LENGTH, Finish.CONTEXT, Finish.PAUSE):
        return "incomplete", {"reason": "max_output_tokens"}
    if finish is Finish.CONTENT_FILTER:
        return "incomplete", {"reason": "content_filter"}
    return "completed", None


_CODES: Final = frozenset(
    {"server_error", "rate_limit_exceeded", "invalid_prompt", "data_residency_mismatch", "bio_policy",
     "misalignment_policy_violation", "vector_store_timeout"}
)  # fmt: skip


def error_out(error: Json) -> dict[str, Any]:
    """The error of a failed response; the SDK knows a closed list of codes, and what is not in it is the server's."""
    code = string(error.get("code"))
    message = string(error.get("message")) or "the response failed"
    return {"code": code if code in _CODES else "server_error", "message": message}


def annotation_in(raw: Json) -> Json:
    """A citation in chat's form, where what it is stands one level deeper."""
    kind = string(raw.get("type"))
    if kind == "url_citation" and "url_citation" not in raw:
        return {"type": kind, kind: {key: value for key, value in raw.items() if key != "type"}}
    return raw


_CITATIONS: Final = ("url_citation", "file_citation", "container_file_citation", "file_path")


def annotation_out(raw: Json) -> Json | None:
    """The same in this API's flat form; indexes that nobody told are 0. None: of a kind that no caller of this API
    knows, over which strict ones stumble."""
    kind = string(raw.get("type"))
    if kind != "url_citation":
        return raw if kind in _CITATIONS else None
    inner = raw.get(kind)
    told = {key: value for key, value in (inner if isinstance(inner, Mapping) else raw).items() if value is not None}
    return {"start_index": 0, "end_index": 0, "title": "", "url": "", **told, "type": kind}
