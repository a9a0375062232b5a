"""Answers in Gemini's own form, for callers of its dialect (`providers.md` 1.6, 2.6, 2.7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from proxy.dialects.chat import (
    Annotated,
    Answer,
    Asked,
    Begin,
    Event,
    Finish,
    Json,
    OpaqueBlock,
    Part,
    Refusal,
    RefusalDelta,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolEnd,
    Usage,
    Used,
)

REASONS: Final = {
    Finish.LENGTH: "MAX_TOKENS",
    Finish.CONTEXT: "MAX_TOKENS",
    Finish.PAUSE: "MAX_TOKENS",  # CONTINUATION promises a token to go on with, and there is none
    Finish.CONTENT_FILTER: "SAFETY",
    Finish.MALFORMED: "MALFORMED_RESPONSE",
}
_STATUS: Final = {
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "insufficient_quota": (429, "RESOURCE_EXHAUSTED"),
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
    "service_unavailable_error": (503, "UNAVAILABLE"),
    "overloaded_error": (503, "UNAVAILABLE"),
    "timeout_error": (504, "DEADLINE_EXCEEDED"),
}


def write_answer(answer: Answer, asked: Asked) -> dict[str, Any]:
    """The body of a unary answer."""
    notes = [note for part in answer.parts if isinstance(part, Text) for note in part.annotations]
    parts = [written for part in answer.parts if (written := _part(part, asked.shows_thinking))]
    body = _body(parts, answer.id or f"resp_{asked.seed[:24]}", answer.model or asked.model, notes)
    body["candidates"][0]["finishReason"] = REASONS.get(answer.finish, "STOP")
    if answer.usage is not None:
        body["usageMetadata"] = usage(answer.usage)
    return body


def _body(parts: list[dict[str, Any]], answer_id: str, model: str, notes: Iterable[Json] = ()) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if cited := [source for note in notes if (source := _source(note))]:
        candidate["citationMetadata"] = {"citationSources": cited}
    return {"candidates": [candidate], "modelVersion": model, "responseId": answer_id}


def _source(note: Json) -> dict[str, Any]:
    cited = note.get("url_citation")
    if not isinstance(cited, dict) or not cited.get("url"):
        return {}
    names = (("start_index", "startIndex"), ("end_index", "endIndex"), ("url", "uri"), ("title", "title"))
    return {name: cited[key] for key, name in names if cited.get(key)}


def usage(told: Usage) -> dict[str, Any]:
    """The ``usageMetadata``. Some providers report more reasoning than output: no count becomes negative of it."""
    thoughts = min(told.reasoning or 0, told.output)
    out: dict[str, Any] = {"promptTokenCount": told.prompt, "candidatesTokenCount": told.output - thoughts}
    if told.cache_read:
        out["cachedContentTokenCount"] = told.cache_read
    if told.reasoning is not None:
        out["thoughtsTokenCount"] = thoughts
    out["totalTokenCount"] = told.prompt + told.output
    return out


def _part(part: Part, shows_thinking: bool) -> dict[str, Any] | None:
    if isinstance(part, Text):
        return _signed({"text": part.text}, part.signature) if part.text or part.signature else None
    if isinstance(part, Refusal):
        return {"text": part.text} if part.text else None
    if isinstance(part, ToolCall):
        return _call(part.id, part.name, part.arguments, part.custom, part.signature)
    if isinstance(part, Thinking):
        signature = part.signature if part.origin == "gemini" else ""
        if not shows_thinking or not (part.text or signature):
            return None
        return _signed({"text": part.text, "thought": True}, signature)
    raw = getattr(part, "raw", None)
    return dict(raw) if raw is not None and getattr(part, "dialect", "") == "gemini" else None


def _signed(part: dict[str, Any], signature: str) -> dict[str, Any]:
    if signature:
        part["thoughtSignature"] = signature
    return part


def _call(call_id: str, name: str, arguments: str, custom: bool, signature: str) -> dict[str, Any]:
    call: dict[str, Any] = {"name": name, "args": _arguments(arguments, custom)}
    if call_id:
        call["id"] = call_id
    return _signed({"functionCall": call}, signature)


def _arguments(text: str, custom: bool) -> dict[str, Any]:
    """Arguments as an object; what a model broke off is handed on as it came, not lost."""
    if custom:
        return {"input": text}
    if not text.strip():
        return {}
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"_raw": text}


def stream_writer(asked: Asked) -> GeminiWriter:
    """A writer for one answer."""
    return GeminiWriter(asked)


class GeminiWriter:
    """See `chat.StreamWriter`."""

    __slots__ = ("_asked", "_calls", "_id", "_model", "_notes", "_stopped", "_usage")

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._id = f"resp_{asked.seed[:24]}"
        self._model = asked.model
        self._calls: dict[int, tuple[ToolBegin, list[str]]] = {}
        """Calls that are not complete: Gemini's callers get each whole."""
        self._notes: list[Json] = []
        self._stopped: Stopped | None = None
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """See `chat.StreamWriter`."""
        if isinstance(event, TextDelta | RefusalDelta):
            return self._chunk({"text": event.text})
        if isinstance(event, ThinkingDelta):
            return self._chunk({"text": event.text, "thought": True}) if self._asked.shows_thinking else b""
        if isinstance(event, ToolBegin):
            self._calls[event.index] = (event, [])
        elif isinstance(event, ToolDelta):
            self._calls[event.index][1].append(event.text)
        elif isinstance(event, ToolEnd):
            return self._called(event.index)
        elif isinstance(event, ThinkingEnd):
            if event.signature and event.origin == "gemini" and self._asked.shows_thinking:
                return self._chunk({"text": "", "thought": True, "thoughtSignature": event.signature})
        elif isinstance(event, OpaqueBlock):
            return self._chunk(dict(event.raw)) if event.dialect == "gemini" else b""
        else:
            self._note(event)
        return b""

    def _note(self, event: Event) -> None:
        if isinstance(event, Begin):
            self._id = event.id or self._id
            self._model = event.model or self._model
            self._usage = event.usage
        elif isinstance(event, Used):
            self._usage = event.usage
        elif isinstance(event, Annotated):
            self._notes.append(event.annotation)
        elif isinstance(event, Stopped):
            self._stopped = event

    def _called(self, index: int) -> bytes:
        call = self._calls.pop(index, None)
        if call is None:
            return b""
        begin, pieces = call
        return self._chunk(_call(begin.id, begin.name, "".join(pieces), begin.custom, begin.signature))

    def _chunk(self, part: dict[str, Any]) -> bytes:
        return _event(_body([part], self._id, self._model))

    def end(self) -> bytes:
        """See `chat.StreamWriter`."""
        out = b"".join(self._called(index) for index in list(self._calls))
        body = _body([], self._id, self._model, self._notes)
        candidate = body["candidates"][0]
        candidate["content"]["parts"] = [{"text": ""}]  # an empty list is refused by some callers' types
        finish = self._stopped.finish if self._stopped is not None else Finish.UNKNOWN
        candidate["finishReason"] = REASONS.get(finish, "STOP")
        if self._stopped is not None and self._stopped.explanation:
            candidate["finishMessage"] = self._stopped.explanation
        if self._usage is not None:
            body["usageMetadata"] = usage(self._usage)
        return out + _event(body)

    def fail(self, error: Json) -> bytes:
        """See `chat.StreamWriter`."""
        code, status = _STATUS.get(str(error.get("type")), (500, "INTERNAL"))
        return _event({"error": {"code": code, "message": error.get("message") or "", "status": status}})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\r\n\r\n"
