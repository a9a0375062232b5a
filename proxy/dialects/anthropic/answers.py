"""Whole answers of the Messages API, read and written (`providers.md` 1.5, 2.1, 2.2, 2.6).

What the canonical form has no place for travels as opaque parts that only this dialect understands: citations as
Anthropic wrote them, and members of the message such as its container.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from proxy.dialects.anthropic import words
from proxy.dialects.anthropic.words import DIALECT, ORIGIN
from proxy.dialects.chat import Answer, Asked, Finish, Json, Opaque, Part, Refusal, Text, Thinking, ToolCall
from proxy.dialects.members import dumped, finish_in, mapping, string
from proxy.dialects.reading import error_in

KNOWN: Final = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "created"})
"""Members of a message that have a place of their own; others that are not null are kept."""
_ANSWERS: Final = ("content", "stop_reason", "input_tokens", "completion")


def fault_in(body: Json) -> Json | None:
    """See `chat`. A body that is no message but says why is an error too, as those of AWS's front are."""
    found = error_in(body)
    if found is not None or any(member in body for member in _ANSWERS):
        return found
    inner = body.get("Output")  # coral's own errors come as Output and Version
    source = inner if isinstance(inner, Mapping) else body
    message = source.get("message") or source.get("Message") or source.get("detail")
    if isinstance(message, str) or "__type" in source or body.get("type") == "error":
        return {**source, "message": message if isinstance(message, str) else "the answer is an error without words"}
    return None


def read_answer(body: Json) -> Answer:
    """See `chat`."""
    content = body.get("content")
    parts = list(_parts(content)) if isinstance(content, list) else []
    calls = sum(isinstance(part, ToolCall) for part in parts)
    if isinstance(content, str) and content:
        parts.append(Text(text=content))
    rest = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    finish = finish_in(words.FINISH, body.get("stop_reason"), calls)
    if finish is Finish.CONTENT_FILTER:
        explanation = words.explanation_in(body.get("stop_details"))
        # Other dialects tell a refusal in words; this one has its stop reason, and keeps the details as they are.
        parts.append(Refusal(text=explanation or words.REFUSED))
        rest.setdefault("stop_details", None)
    if rest:
        parts.append(Opaque(dialect=DIALECT, kind=words.MEMBERS, raw=rest))
    usage = body.get("usage")
    sequence = body.get("stop_sequence")
    return Answer(
        id=string(body.get("id")),
        model=string(body.get("model")),
        parts=tuple(parts),
        finish=finish,
        stop_sequence=sequence if isinstance(sequence, str) else None,
        usage=words.usage_in(usage),
        service_tier=string(mapping(usage).get("service_tier")),
    )


def _parts(content: list[Any]) -> Iterator[Part]:
    length = 0
    for block in content:
        if not isinstance(block, Mapping):
            continue
        kind = string(block.get("type"))
        if kind == "text":
            text = string(block.get("text"))
            yield from _cited(text, block.get("citations"), length)
            length += len(text)
        elif kind == "thinking":
            signature = string(block.get("signature"))
            yield Thinking(text=string(block.get("thinking")), signature=signature, origin=ORIGIN if signature else "")
        elif kind == "redacted_thinking":
            yield Thinking(redacted=string(block.get("data")), origin=ORIGIN)
        elif kind == "tool_use":
            yield tool_call(block)
        else:
            yield Opaque(dialect=DIALECT, kind=kind, raw=block)


def _cited(text: str, citations: Any, start: int) -> Iterator[Part]:
    found = [each for each in citations if isinstance(each, Mapping)] if isinstance(citations, list) else []
    notes = (words.annotation(each, start, start + len(text)) for each in found)
    yield Text(text=text, annotations=tuple(note for note in notes if note is not None))
    for each in found:
        yield Opaque(dialect=DIALECT, kind=words.CITATION, raw=each)


def tool_call(block: Json) -> ToolCall:
    """A ``tool_use`` block of an answer."""
    given = block.get("input")
    arguments = given if isinstance(given, str) else dumped({} if given is None else given)
    return ToolCall(id=string(block.get("id")), name=string(block.get("name")), arguments=arguments)


# Writing --------------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> dict[str, Any]:
    """See `chat`."""
    content: list[dict[str, Any]] = []
    members: dict[str, Any] = {}
    refused = ""
    calls, has_text = 0, False
    for part in answer.parts:
        if isinstance(part, Opaque):
            _closed(part, content, members)
        elif isinstance(part, Refusal):
            refused += part.text
        elif isinstance(part, ToolCall):
            name = {"id": words.call_id(part.id, asked.seed, calls), "name": part.name}
            content.append({"type": "tool_use", **name, "input": words.call_input(part)})
            calls += 1
        elif isinstance(part, Text):
            has_text = True
            if part.text:
                content.append({"type": "text", "text": part.text})
        elif isinstance(part, Thinking) and shows(part.signature, part.redacted, part.origin, asked):
            content.append(thinking_block(part.text, part.signature, part.redacted))
    details = members.pop("stop_details", None)
    if refused and "stop_details" not in _members(answer):
        content.append({"type": "text", "text": refused})
    if not content and has_text:
        content.append({"type": "text", "text": ""})
    stop_reason = words.stop_reason(answer.finish, calls > 0, bool(refused))
    if stop_reason == "refusal" and "stop_details" not in _members(answer):
        details = words.refusal_details(refused)
    return {
        "id": words.message_id(answer.id, asked.seed),
        "type": "message",
        "role": "assistant",
        "model": answer.model or asked.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": details,
        "usage": words.usage_out(answer.usage),
        **members,
    }


def _members(answer: Answer) -> Json:
    """What the provider's message said beside the canonical form, where it was one of this dialect."""
    for part in answer.parts:
        if isinstance(part, Opaque) and part.dialect == DIALECT and part.kind == words.MEMBERS:
            return part.raw
    return {}


def _closed(part: Opaque, content: list[dict[str, Any]], members: dict[str, Any]) -> None:
    """A part of Anthropic's own; what other dialects have alone is left out."""
    if part.dialect != DIALECT:
        return
    if part.kind == words.MEMBERS:
        members.update(part.raw)
    elif part.kind == words.CITATION:
        if content and content[-1]["type"] == "text":
            content[-1].setdefault("citations", []).append(part.raw)
    else:
        content.append(dict(part.raw))


def shows(signature: str, redacted: str, origin: str, asked: Asked) -> bool:
    """Whether the caller is shown reasoning: only what he can send back, else the real Claude would refuse it."""
    return asked.shows_thinking and origin == ORIGIN and bool(signature or redacted)


def thinking_block(text: str, signature: str, redacted: str) -> dict[str, Any]:
    """Reasoning with what makes it replayable."""
    if redacted:
        return {"type": "redacted_thinking", "data": redacted}
    return {"type": "thinking", "thinking": text, "signature": signature}
