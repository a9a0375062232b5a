"""Gemini's answers in canonical form: whole bodies, and what whole bodies and streams share (`providers.md` 1.6, 2.6,
2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from proxy.dialects.chat import Answer, Finish, Json, Opaque, Part, Text, Thinking, ToolCall, Usage
from proxy.dialects.gemini.request_in import camels, read_call
from proxy.dialects.members import string
from proxy.dialects.reading import error_in

_FILTERED: Final = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "ESCALATION", "MODEL_ARMOR",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER",
)  # fmt: skip
_MALFORMED: Final = (
    "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE", "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE", "OTHER",
)  # fmt: skip
FINISHES: Final[Mapping[str, Finish]] = {
    "STOP": Finish.STOP,
    "MAX_TOKENS": Finish.LENGTH,
    "CONTINUATION": Finish.PAUSE,
    **dict.fromkeys(_FILTERED, Finish.CONTENT_FILTER),
    **dict.fromkeys(_MALFORMED, Finish.MALFORMED),
}
_NUMBERED: Final = (
    "FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "BLOCKLIST",
    "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL",
)  # fmt: skip
"""Reasons by their number in the enumeration: gateways that speak protobuf have been recorded sending it."""


def fault_in(body: Json) -> Json | None:
    """The error object of a body; None: it carries none."""
    return error_in(body)


def finish_of(reason: Any, called: bool) -> Finish:
    """What a ``finishReason`` means; `called`: a function of the caller's was called, which Gemini ends with STOP."""
    if isinstance(reason, int):
        reason = _NUMBERED[reason] if 0 <= reason < len(_NUMBERED) else ""
    found = FINISHES.get(reason, Finish.UNKNOWN) if isinstance(reason, str) else Finish.UNKNOWN
    return Finish.TOOL_CALLS if called and found in (Finish.STOP, Finish.UNKNOWN) else found


def blocked(body: Json) -> str | None:
    """Why the prompt was refused, in the provider's words (may be empty); None: it was not."""
    feedback = body.get("promptFeedback")
    if not isinstance(feedback, Mapping) or body.get("candidates"):
        return None
    reason, message = feedback.get("blockReason"), feedback.get("blockReasonMessage")
    if reason is None and message is None:
        return None
    return str(message or reason or "")


def first_candidate(body: Json) -> Json | None:
    """The candidate that counts; None: there is none."""
    candidates = body.get("candidates")
    if not isinstance(candidates, list):
        return None
    return next((each for each in candidates if isinstance(each, Mapping) and not each.get("index")), None)


def parts_of(candidate: Json) -> list[Any]:
    """The parts of a candidate, as they came."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Mapping) else None
    return parts if isinstance(parts, list) else []


def usage_of(body: Json) -> Usage | None:
    """Usage in the normal form; None: none is told. Thoughts are output, whatever ``candidatesTokenCount`` says."""
    told = body.get("usageMetadata")
    if not isinstance(told, Mapping):
        return None
    prompt, answer = _count(told, "promptTokenCount"), _count(told, "candidatesTokenCount")
    thoughts, hosted = _count(told, "thoughtsTokenCount"), _count(told, "toolUsePromptTokenCount")
    total = _count(told, "totalTokenCount")
    if prompt is None and answer is None and thoughts is None and total is None:
        return None
    output = (answer or 0) + (thoughts or 0)
    cached = _count(told, "cachedContentTokenCount") or 0
    if prompt is None and total is not None:
        prompt = total - output - (hosted or 0)  # the recorded cases that tell no prompt tell the sum
    return Usage(
        input=max(0, (prompt or 0) + (hosted or 0) - cached),
        cache_read=cached,
        output=output,
        reasoning=thoughts,
        raw=told,
    )


def _count(told: Json, key: str) -> int | None:
    value = told.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def created_of(body: Json) -> int | None:
    """Unix seconds of ``createTime``, which Vertex tells; None: not told."""
    told = body.get("createTime")
    if not isinstance(told, str):
        return None
    try:
        return int(datetime.fromisoformat(told).timestamp())
    except ValueError:
        return None


def service_tier_of(body: Json) -> str:
    """The tier that the usage names; empty: none."""
    told = body.get("usageMetadata")
    return string(told.get("serviceTier")) if isinstance(told, Mapping) else ""


def read_answer(body: Json) -> Answer:
    """A whole answer.

    One that says nothing comes out with empty `parts` and `Finish.STOP` or `Finish.MALFORMED`: for the caller of this
    function a failed attempt.
    """
    candidate = first_candidate(body)
    parts: tuple[Part, ...] = ()
    finish = Finish.STOP
    if candidate is not None:
        parts = _parts(candidate)
        called = any(isinstance(part, ToolCall) for part in parts)
        finish = finish_of(candidate.get("finishReason", "STOP"), called)
    elif blocked(body) is not None:
        finish = Finish.CONTENT_FILTER
    return Answer(
        id=string(body.get("responseId")),
        model=string(body.get("modelVersion")),
        created=created_of(body),
        parts=parts,
        finish=finish,
        usage=usage_of(body),
        service_tier=service_tier_of(body),
    )


def _parts(candidate: Json) -> tuple[Part, ...]:
    out: list[Part] = []
    last, said = -1, 0
    for part in parts_of(candidate):
        read = read_part(part)
        if read is None:
            continue
        if isinstance(read, Text):
            last, said = len(out), said + len(read.text.encode())
        out.append(read)
    if last >= 0:
        text = "".join(part.text for part in out if isinstance(part, Text))
        found = out[last]
        notes = citations(candidate, text)
        if notes and isinstance(found, Text):
            out[last] = Text(text=found.text, signature=found.signature, annotations=notes)
    return tuple(out)


def read_part(part: Any) -> Part | None:
    """One part of an answer; None: it says nothing."""
    if not isinstance(part, Mapping):
        return None
    signature = string(part.get("thoughtSignature"))
    if "functionCall" in part:
        call = part["functionCall"]
        return read_call(camels(call), signature) if isinstance(call, Mapping) and call.get("name") else None
    text = part.get("text")
    if part.get("thought") is True:
        text = string(text)
        return Thinking(text=text, signature=signature, origin="gemini") if text or signature else None
    if isinstance(text, str) or (signature and len(part) == 1):
        return Text(text=string(text), signature=signature) if text or signature else None
    kind = next((key for key in part if key not in ("thoughtSignature", "thought")), "")
    return Opaque(dialect="gemini", kind=kind, raw=part) if kind else None


# Citations ------------------------------------------------------------------------------------------------------------


def citations(candidate: Json, text: str) -> tuple[Json, ...]:
    """The sources of an answer in OpenAI's chat form; `text` is all of the answer's text, to turn offsets in bytes into
    offsets in characters."""
    out: list[Json] = []
    raw = text.encode()
    cited = candidate.get("citationMetadata")
    if isinstance(cited, Mapping):
        sources = cited.get("citationSources") or cited.get("citations") or ()
        out.extend(_cited(raw, each, each) for each in sources if isinstance(each, Mapping) and each.get("uri"))
    grounded = candidate.get("groundingMetadata")
    if isinstance(grounded, Mapping):
        chunks = [
            each.get("web") if isinstance(each, Mapping) else None for each in grounded.get("groundingChunks") or ()
        ]
        for support in grounded.get("groundingSupports") or ():
            if not isinstance(support, Mapping):
                continue
            for at in support.get("groundingChunkIndices") or ():
                web = chunks[at] if isinstance(at, int) and 0 <= at < len(chunks) else None
                if isinstance(web, Mapping) and web.get("uri"):
                    out.append(_cited(raw, support.get("segment"), web))
    return tuple(out)


def _cited(raw: bytes, span: Any, source: Json) -> Json:
    start, end = (_count(span, key) or 0 for key in ("startIndex", "endIndex")) if isinstance(span, Mapping) else (0, 0)
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": len(raw[:start].decode(errors="ignore")),
            "end_index": len(raw[:end].decode(errors="ignore")),
            "url": source["uri"],
            "title": string(source.get("title")),
        },
    }
