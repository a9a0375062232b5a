"""A whole chat completion in canonical form. Vendors leave out what they like: nothing here expects a member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.chat import Answer, Finish, Json, Opaque, Part, Refusal, Text, Thinking, ToolCall
from proxy.dialects.members import dumped, mapping, objects, string
from proxy.dialects.openai.messages_in import arguments_of, call_in, thinking_text, thoughts_in
from proxy.dialects.openai.reading import speaks
from proxy.dialects.openai.words import BROKEN, DIALECT, FINISH, error_of, failed, signature_in, usage_in


def fault_in(body: Json) -> Json | None:
    """The error of a whole body; an error beside a choice that speaks is none. None: it is an answer."""
    choice = first_choice(body)
    if choice is not None:
        reason = string(choice.get("finish_reason"))
        if reason in BROKEN:
            return failed(choice, reason)
        if speaks(choice.get("message")):
            return None
    return error_of(body)


def first_choice(body: Json) -> Json | None:
    """The choice of index 0; None: there is none."""
    for choice in objects(body.get("choices")):
        if choice.get("index") in (0, None):
            return choice
    return None


def read_answer(body: Json) -> Answer:
    """The first choice of an answer with its usage."""
    choice = first_choice(body) or {}
    message = mapping(choice.get("message")) or mapping(choice.get("delta"))
    parts = message_parts(message)
    if not message and (text := string(choice.get("text"))):
        parts = (Text(text=text),)
    created = body.get("created")
    return Answer(
        id=string(body.get("id")),
        model=string(body.get("model")),
        created=created if isinstance(created, int) else None,
        parts=parts,
        finish=finish_of(
            string(choice.get("finish_reason")), any(isinstance(part, ToolCall) for part in parts), bool(parts)
        ),
        usage=usage_in(body.get("usage")) or usage_in(mapping(body.get("x_groq")).get("usage")),
        service_tier=string(body.get("service_tier")),
    )


def finish_of(word: str, calls: bool, said: bool) -> Finish:
    """The reason behind a vendor's word, which must fit what was said: calls are calls whatever the word."""
    if not word:
        return Finish.TOOL_CALLS if calls else Finish.STOP if said else Finish.UNKNOWN
    found = FINISH.get(word) or FINISH.get(word.lower(), Finish.UNKNOWN)
    if calls and found in (Finish.STOP, Finish.UNKNOWN):
        return Finish.TOOL_CALLS
    return Finish.STOP if found is Finish.TOOL_CALLS and not calls else found


def message_parts(message: Json) -> tuple[Part, ...]:
    """The parts of an answer's message, reasoning first."""
    parts: list[Part] = list(thoughts_in(message))
    parts += content_parts(message.get("content"))
    annotations = tuple(objects(message.get("annotations")))
    calls = [found for call in objects(message.get("tool_calls")) if (found := call_in(call)) is not None]
    old = mapping(message.get("function_call"))
    if not calls and string(old.get("name")):
        calls.append(ToolCall(id="", name=old["name"], arguments=arguments_of(old.get("arguments"))))
    signature = signature_in(message)
    if signature and calls and not any(call.signature for call in calls):
        first = calls[0]
        calls[0] = ToolCall(
            id=first.id, name=first.name, arguments=first.arguments, custom=first.custom, signature=signature
        )
        signature = ""
    if annotations or signature:
        _mark_last_text(parts, annotations, signature)
    if refusal := string(message.get("refusal")):
        parts.append(Refusal(text=refusal))
    parts += closed_parts(message)
    return (*parts, *calls)


def closed_parts(message: Json) -> list[Opaque]:
    """Sound and pictures in an answer, which only this dialect carries."""
    out = []
    audio = message.get("audio")
    if isinstance(audio, Mapping) and any(audio.values()):
        out.append(Opaque(dialect=DIALECT, kind="audio", raw=audio))
    if isinstance(message.get("images"), list) and message["images"]:
        out.append(Opaque(dialect=DIALECT, kind="images", raw={"images": message["images"]}))
    return out


def content_parts(content: Any) -> list[Part]:
    """Content as text; a list may hold reasoning too (Mistral), an object is structured output (Cloudflare)."""
    if isinstance(content, str):
        return [Text(text=content)] if content else []
    if isinstance(content, Mapping):
        return [Text(text=dumped(content))]
    out: list[Part] = []
    for part in objects(content):
        kind = string(part.get("type"))
        if kind == "thinking":
            if text := thinking_text(part):
                out.append(Thinking(text=text))
        elif kind == "refusal":
            out.append(Refusal(text=string(part.get("refusal"))))
        elif text := string(part.get("text")):
            out.append(Text(text=text))
        elif kind and kind != "text":
            out.append(Opaque(dialect=DIALECT, kind=kind, raw=part))
    return out


def _mark_last_text(parts: list[Part], annotations: tuple[Json, ...], signature: str) -> None:
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        if isinstance(part, Text):
            parts[at] = Text(text=part.text, annotations=annotations, signature=signature)
            return
    parts.append(Text(text="", annotations=annotations, signature=signature))
