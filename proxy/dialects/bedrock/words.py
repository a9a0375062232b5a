"""Converse's own words, in one place for both directions (`providers.md` 1.7, 2.6)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects import model_table
from proxy.dialects.chat import Finish, Json, ModelFacts, Usage

DIALECT: Final = "converse"

FINISH: Final[Mapping[str, Finish]] = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP_SEQUENCE,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.CONTEXT,
    "tool_use": Finish.TOOL_CALLS,
    "content_filtered": Finish.CONTENT_FILTER,
    "guardrail_intervened": Finish.CONTENT_FILTER,
    "refusal": Finish.CONTENT_FILTER,  # Claude's own word, in case it is passed through
    "pause_turn": Finish.PAUSE,
    "malformed_model_output": Finish.MALFORMED,
    "malformed_tool_use": Finish.MALFORMED,
}
STOP_REASON: Final[Mapping[Finish, str]] = {
    Finish.STOP: "end_turn",
    Finish.STOP_SEQUENCE: "stop_sequence",
    Finish.LENGTH: "max_tokens",
    Finish.CONTEXT: "model_context_window_exceeded",
    Finish.TOOL_CALLS: "tool_use",
    Finish.CONTENT_FILTER: "content_filtered",
    Finish.PAUSE: "max_tokens",
    Finish.MALFORMED: "malformed_model_output",
    Finish.UNKNOWN: "end_turn",
}

IMAGES: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
DOCUMENTS: Final[Mapping[str, str]] = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
VIDEOS: Final[Mapping[str, str]] = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "video/webm": "webm",
    "video/x-flv": "flv",
    "video/mpeg": "mpeg",
    "video/x-ms-wmv": "wmv",
    "video/3gpp": "three_gp",
}
AUDIOS: Final[Mapping[str, str]] = {
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
    "audio/webm": "webm",
}

ID_BAD: Final = re.compile(r"[^a-zA-Z0-9_.:-]")
_NAME_BAD: Final = re.compile(r"[^a-zA-Z0-9()\[\] -]+")
_SPACES: Final = re.compile(r"\s+")


def claude_generation(model: str) -> tuple[int, int]:
    """(4, 5) of ``us.anthropic.claude-sonnet-4-5-20250929-v1:0``; zeros where the name does not tell."""
    found = model_table.claude_generation(model.lower())
    return (0, 0) if found is None else found[1]


def takes_prefill(facts: ModelFacts) -> bool:
    """Whether a trailing assistant message is taken; where it is not known, Claude's generation decides (0.3)."""
    if facts.prefill is None and facts.family == "claude":
        return claude_generation(facts.model) < (4, 6)
    return facts.prefill is not False


def media_type(kinds: Mapping[str, str], wanted: Any) -> str:
    """The media type of one of Converse's formats; empty when it is unknown. Some write the media type itself."""
    if isinstance(wanted, str) and "/" in wanted:
        return wanted
    return next((kind for kind, name in kinds.items() if name == wanted), "")


def document_name(name: str) -> str:
    """A document's name in the letters that Converse takes, at most 190 of them, so that a number fits behind."""
    return _SPACES.sub(" ", _NAME_BAD.sub("-", name)).strip(" -")[:190] or "document"


def redacted_in(blob: Any) -> str:
    """Redacted reasoning as Anthropic tells it: Converse wraps those letters in base64 once more."""
    try:
        return b64decode(blob, validate=True).decode("latin-1")
    except (ValueError, TypeError):
        return blob if isinstance(blob, str) else ""


def redacted_out(data: str) -> str:
    """The other way round."""
    return b64encode(data.encode("latin-1", "replace")).decode()


def is_callers(tool_use: Json) -> bool:
    """Whether a toolUse asks for a tool of the caller's: one that runs at the provider has a type of its own."""
    return tool_use.get("type") in (None, "", "tool_use")


def usage_in(raw: Any) -> Usage | None:
    """Converse's usage; None when there is none. `inputTokens` leaves the cached ones out already."""
    if not isinstance(raw, Mapping):
        return None
    return Usage(
        input=_count(raw, "inputTokens"),
        cache_read=_count(raw, "cacheReadInputTokens", "cacheReadInputTokenCount"),
        cache_write=_count(raw, "cacheWriteInputTokens", "cacheWriteInputTokenCount"),
        output=_count(raw, "outputTokens"),
        raw=raw,
    )


def _count(raw: Json, *names: str) -> int:
    for name in names:
        value = raw.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return max(0, int(value))
    return 0


def usage_out(usage: Usage | None) -> dict[str, Any]:
    """Usage in Converse's form; zeros when none was told, as its place is not optional."""
    usage = usage or Usage()
    out = {
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "totalTokens": usage.prompt + usage.output,
    }
    if usage.cache_read or usage.cache_write:
        out["cacheReadInputTokens"] = usage.cache_read
        out["cacheWriteInputTokens"] = usage.cache_write
    return out


def stop_sequence_in(fields: Any) -> str | None:
    """The stop sequence that was met, where the model tells it among its additional fields."""
    found = fields.get("stop_sequence") if isinstance(fields, Mapping) else None
    return found if isinstance(found, str) else None
