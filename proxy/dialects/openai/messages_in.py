"""The messages of a chat caller as turns; see `request_in` for what becomes of members that have no place there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from proxy.dialects.chat import (
    Document,
    Image,
    Json,
    Malformed,
    Media,
    Need,
    Opaque,
    Part,
    Refusal,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from proxy.dialects.media import media_type, split_data_url
from proxy.dialects.members import cache_mark, dumped, mapping, objects, string
from proxy.dialects.openai.words import block_in, detail_in, signature_in

_READ: Final = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content",
     "thinking_blocks", "extra_content", "cache_control", "audio"}
)  # fmt: skip
_PART_READ: Final = frozenset(
    {"type", "text", "refusal", "image_url", "input_audio", "audio_url", "video_url", "file", "file_url",
     "document_url", "thinking", "cache_control"}
)  # fmt: skip
_ROLES: Final = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "tool": Role.USER,
    "function": Role.USER,
    "assistant": Role.ASSISTANT,
}
_FILES: Final = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown", "csv": "text/csv"}


def read(value: Any, extra: dict[str, Any], needs: list[Need]) -> tuple[Turn, ...]:
    """One turn for each message, in order. Raises `Malformed`."""
    if not isinstance(value, list) or not value:
        raise Malformed("messages", "must be a list of messages")
    return _Reading(extra, needs).turns(value)


class _Reading:
    """Reads the messages of one request."""

    __slots__ = ("_called", "_extra", "_needs")

    def __init__(self, extra: dict[str, Any], needs: list[Need]) -> None:
        self._extra = extra
        self._needs = needs
        self._called: dict[str, str] = {}
        """Id given to the last call of each function in the old form, which has none."""

    def turns(self, messages: list[Any]) -> tuple[Turn, ...]:
        return tuple(self._turn(message, i) for i, message in enumerate(messages))

    def _turn(self, message: Any, i: int) -> Turn:
        where = f"messages.{i}"
        if not isinstance(message, Mapping):
            raise Malformed(where, "must be an object")
        role = _ROLES.get(string(message.get("role")))
        if role is None:
            raise Malformed(f"{where}.role", "must be system, developer, user, assistant or tool")
        for key, value in message.items():
            if key not in _READ and value not in (None, [], {}):
                self._keep(key, str(i), value)
        plain = message.get("reasoning_content")
        if plain == "" or (plain and (message.get("reasoning") or message.get("reasoning_details"))):
            self._keep("reasoning_content", str(i), plain)  # an empty one is demanded by DeepSeek
        kind = message["role"]
        if kind in ("tool", "function"):
            parts: tuple[Part, ...] = (self._result(message, i, kind == "function"),)
        elif role is Role.ASSISTANT:
            parts = self._assistant(message, i)
        else:
            parts = tuple(self._content(message, i))
        name = "" if kind == "function" else string(message.get("name"))
        return Turn(role=role, parts=parts, name=name, developer=kind == "developer")

    def _keep(self, member: str, at: str, value: Any) -> None:
        self._extra.setdefault(f"messages.{member}", {})[at] = value

    # Members ----------------------------------------------------------------------------------------------------------

    def _assistant(self, message: Json, i: int) -> tuple[Part, ...]:
        parts: list[Part] = list(thoughts_in(message))
        signed = signature_in(message)
        calls = [self._call(call, f"messages.{i}.tool_calls.{k}") for k, call in enumerate(objects_of(message, i))]
        content = list(self._content(message, i))
        if signed and not any(call.signature for call in calls):
            _sign(signed, content, calls)
        parts += content
        if refusal := string(message.get("refusal")):
            parts.append(Refusal(text=refusal))
        old = mapping(message.get("function_call"))
        if name := string(old.get("name")):
            self._called[name] = f"call_function_{i}"
            calls.append(ToolCall(id=self._called[name], name=name, arguments=arguments_of(old.get("arguments"))))
        if audio := mapping(message.get("audio")):
            parts.append(Opaque(dialect="chat", kind="audio", raw=audio))
            self._needs.append(Need(reason="audio", where=f"messages.{i}.audio"))
        return (*parts, *calls)

    def _call(self, call: Json, where: str) -> ToolCall:
        found = call_in(call)
        if found is None:
            raise Malformed(f"{where}.function.name", "a call needs a name")
        return found

    def _result(self, message: Json, i: int, old: bool) -> ToolResult:
        name = string(message.get("name"))
        call_id = string(message.get("tool_call_id"))
        if old:
            call_id = self._called.get(name, f"call_function_{i}")
        parts: list[Text | Image | Document] = []
        for part in self._content(message, i):
            if not isinstance(part, Text | Image | Document):
                raise Malformed(f"messages.{i}.content", "a tool answers with text")
            parts.append(part)
        return ToolResult(call_id=call_id, name=name, parts=tuple(parts), cache=cache_mark(message))

    def _content(self, message: Json, i: int) -> Iterator[Part]:
        content = message.get("content")
        if content is None:
            return
        if isinstance(content, str):
            mark = "" if message.get("role") in ("tool", "function") else cache_mark(message)
            yield Text(text=content, cache=mark)
            return
        if not isinstance(content, list):
            raise Malformed(f"messages.{i}.content", "must be a string or a list of parts")
        for j, part in enumerate(content):
            if isinstance(part, str):
                yield Text(text=part)
                continue
            if not isinstance(part, Mapping):
                raise Malformed(f"messages.{i}.content.{j}", "must be an object")
            found = part_in(part, f"messages.{i}.content.{j}")
            if not isinstance(found, Opaque):
                for key, value in part.items():
                    if key not in _PART_READ and value is not None:
                        self._keep(key, f"{i}.{j}", value)
            yield found


def objects_of(message: Json, i: int) -> list[Json]:
    """The tool calls of a message. Raises `Malformed`."""
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise Malformed(f"messages.{i}.tool_calls", "must be a list of calls")
    return calls


def _sign(signature: str, content: list[Part], calls: list[ToolCall]) -> None:
    """Put a message's thought signature where Gemini had it: on the first call, else on the last text."""
    if calls:
        first = calls[0]
        calls[0] = ToolCall(
            id=first.id, name=first.name, arguments=first.arguments, custom=first.custom, signature=signature
        )
        return
    for at in range(len(content) - 1, -1, -1):
        part = content[at]
        if isinstance(part, Text):
            content[at] = Text(text=part.text, cache=part.cache, annotations=part.annotations, signature=signature)
            return
    content.append(Text(text="", signature=signature))


# Shared with the reader of answers ------------------------------------------------------------------------------------


def thoughts_in(message: Json) -> Iterator[Thinking]:
    """The reasoning of a message, from the member that says most of it."""
    blocks = [found for block in objects(message.get("thinking_blocks")) if (found := block_in(block)) is not None]
    if not blocks:
        blocks = _joined(found for each in objects(message.get("reasoning_details")) if (found := detail_in(each)))
    if any(block.text or block.signature or block.redacted for block in blocks):
        plain = string(message.get("reasoning_content")) or string(message.get("reasoning"))
        if plain and not any(block.text for block in blocks):
            yield Thinking(text=plain)
        yield from blocks
        return
    if text := string(message.get("reasoning_content")) or string(message.get("reasoning")):
        yield Thinking(text=text)


def _joined(found: Iterator[Thinking]) -> list[Thinking]:
    """OpenRouter splits a block: a signature in an entry of its own belongs to the text before it."""
    out: list[Thinking] = []
    for each in found:
        last = out[-1] if out else None
        if last is not None and last.text and not last.signature and not last.redacted and not each.text:
            out[-1] = Thinking(
                text=last.text, signature=each.signature, redacted=each.redacted, origin=each.origin, id=each.id
            )
        else:
            out.append(each)
    return out


def arguments_of(value: Any) -> str:
    """Arguments as JSON text; a vendor's object is written out."""
    return value if isinstance(value, str) else "" if value is None else dumped(value)


def call_in(call: Json) -> ToolCall | None:
    """One of a message's ``tool_calls``; None: it names no tool."""
    custom, function = mapping(call.get("custom")), mapping(call.get("function"))
    is_custom = bool(string(custom.get("name"))) and not string(function.get("name"))
    name = string((custom if is_custom else function).get("name"))
    if not name:
        return None
    text = string(custom.get("input")) if is_custom else arguments_of(function.get("arguments"))
    return ToolCall(
        id=string(call.get("id")), name=name, arguments=text, custom=is_custom, signature=signature_in(call)
    )


def part_in(part: Json, where: str) -> Part:
    """One part of a message's content; one of an unknown type stays closed. Raises `Malformed`."""
    kind, cache = string(part.get("type")), cache_mark(part)
    if kind in ("text", "input_text", "output_text"):
        if not isinstance(part.get("text"), str):
            raise Malformed(f"{where}.text", "must be a string")
        return Text(text=part["text"], cache=cache)
    if kind == "refusal":
        return Refusal(text=string(part.get("refusal")))
    if kind == "thinking":
        return Thinking(text=thinking_text(part))
    if kind == "image_url":
        return _image(part, where, cache)
    if kind == "input_audio":
        stated = part.get("input_audio")
        return _audio({"data": stated} if isinstance(stated, str) else mapping(stated), where)
    if kind in ("video_url", "audio_url"):
        return _media("video" if kind == "video_url" else "audio", _url(part.get(kind)), where)
    if kind in ("file", "file_url", "document_url"):
        return _document(part, kind, where, cache)
    return Opaque(dialect="chat", kind=kind, raw=part)


def thinking_text(part: Json) -> str:
    """Mistral's reasoning: a text, or a list of text parts."""
    inner = part.get("thinking")
    if isinstance(inner, str):
        return inner
    return "".join(string(each.get("text")) for each in objects(inner))


def _url(value: Any) -> str:
    """The address in ``"..."`` or ``{"url": "..."}``."""
    return value if isinstance(value, str) else string(mapping(value).get("url"))


def _image(part: Json, where: str, cache: str) -> Image:
    stated = part.get("image_url")
    url, detail = _url(stated), string(mapping(stated).get("detail"))
    if not url:
        raise Malformed(f"{where}.image_url", "must have a url")
    inline = split_data_url(url)
    if inline is not None:
        return Image(data=inline[1], media_type=inline[0], detail=detail, cache=cache)
    return Image(url=url, detail=detail, cache=cache)


def _audio(stated: Json, where: str) -> Media:
    data, form = string(stated.get("data")), string(stated.get("format"))
    if not data:
        raise Malformed(f"{where}.input_audio.data", "must be a string")
    inline = split_data_url(data)
    if inline is not None:
        return Media(kind="audio", data=inline[1], media_type=inline[0])
    if data.startswith(("http://", "https://")):
        return Media(kind="audio", url=data, media_type=f"audio/{form}" if form else "")
    return Media(kind="audio", data=data, media_type=f"audio/{form or 'wav'}")


def _media(kind: Any, url: str, where: str) -> Media:
    if not url:
        raise Malformed(where, "must have a url")
    inline = split_data_url(url)
    if inline is not None:
        return Media(kind=kind, data=inline[1], media_type=inline[0])
    return Media(kind=kind, url=url)


def _document(part: Json, kind: str, where: str, cache: str) -> Document:
    stated = mapping(part.get(kind))
    name = string(stated.get("filename")) or string(part.get("document_name"))
    if kind == "file" and (file_id := string(stated.get("file_id"))):
        return Document(file_id=file_id, name=name, cache=cache)
    data = string(stated.get("file_data")) if kind == "file" else _url(part.get(kind))
    if not data:
        raise Malformed(f"{where}.{kind}", "must have data, a url or an id")
    inline = split_data_url(data)
    if inline is not None:
        return Document(data=inline[1], media_type=inline[0], name=name, cache=cache)
    if data.startswith(("http://", "https://", "gs://")):
        return Document(url=data, name=name, cache=cache)
    guessed = _FILES.get(name.rsplit(".", 1)[-1].lower(), "application/pdf")
    return Document(data=data, media_type=media_type(guessed), name=name, cache=cache)
