"""The body of a Responses caller in canonical form.

What only this API knows is kept in `Request.extra`, so that a writer of the same API puts it back and others warn of
it: members of the body under their own name; those of ``text`` and ``reasoning`` as ``text.<member>``; those of tools
as ``tools.<member>``, a table from the tool's number; those of input items and of their parts as ``input.<member>``, a
table from ``turn.part`` (the first part of the item) and ``turn.part.`` (the part itself). Hosted tools stand in
``tools``, by their number. What goes on from state at the provider is a `Need`: no other target can honour it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from proxy.dialects.chat import (
    Choice,
    Document,
    Format,
    Image,
    Json,
    Malformed,
    Media,
    Need,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Request,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from proxy.dialects.media import media_type, split_data_url
from proxy.dialects.members import flag, mapping, number, objects, schema_in, string
from proxy.dialects.responses.answers import thinking_of
from proxy.dialects.responses.words import CALLS, DIALECT, RESULTS

READ: Final = frozenset(
    {"model", "input", "instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice",
     "parallel_tool_calls", "text", "reasoning", "metadata", "user", "safety_identifier", "prompt_cache_key",
     "service_tier", "stream"}
)  # fmt: skip
"""Members that have a place in the canonical form."""
_NEEDED: Final = {
    "previous_response_id": "state",
    "conversation": "state",
    "prompt": "state",
    "background": "background",
    "top_logprobs": "logprobs",
    "access_programs": "server_tools",
}
"""Members that no other API can honour, where they are set."""
_ITEM_READ: Final = frozenset(
    {"type", "id", "status", "role", "content", "call_id", "name", "arguments", "input", "output", "summary",
     "encrypted_content"}
)  # fmt: skip
"""Members of items that have a place, or that say nothing outside the provider's store."""
_PART_READ: Final = frozenset(
    {"type", "text", "refusal", "image_url", "file_id", "detail", "filename", "file_data", "file_url", "input_audio",
     "annotations", "logprobs"}
)  # fmt: skip
_TOOL_READ: Final = frozenset({"type", "name", "description", "parameters", "strict", "format", "function"})
REASONING_TEXT: Final = "input.reasoning_text"
"""In `Request.extra`: reasoning items that show what was thought and not a summary."""
_ROLES: Final = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM, "developer": Role.SYSTEM}
_MODES: Final[Mapping[str, Literal["auto", "required", "none"]]] = {
    "auto": "auto",
    "required": "required",
    "none": "none",
}
_FILES: Final = {"pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown", "csv": "text/csv"}


def read_request(body: Json) -> Request:
    """The canonical request. Raises `Malformed`."""
    extra: dict[str, Any] = {}
    needs: list[Need] = []
    turns = _Items(extra, needs).turns(body)
    tools = _tools(body, extra, needs)
    text = mapping(body.get("text"))
    for key, value in text.items():
        if key not in ("format", "verbosity"):
            extra[f"text.{key}"] = value
    named, old = string(body.get("safety_identifier")), string(body.get("user"))
    if named and old and named != old:
        extra["user"] = old
    metadata = body.get("metadata")
    request: dict[str, Any] = {
        "choice": _choice(body.get("tool_choice"), extra, needs),
        "format": _format(text.get("format"), extra, needs),
        "reasoning": _reasoning(body.get("reasoning"), extra),
        "limit": _whole(body, "max_output_tokens"),
        "temperature": number(body, "temperature"),
        "top_p": number(body, "top_p"),
        "parallel": flag(body, "parallel_tool_calls"),
    }
    _rest(body, extra, needs)
    return Request(
        dialect=DIALECT,
        model=string(body.get("model")),
        turns=turns,
        tools=tools,
        verbosity=string(text.get("verbosity")),
        user=named or old,
        metadata=metadata if isinstance(metadata, Mapping) and metadata else None,
        service_tier=string(body.get("service_tier")),
        cache_key=string(body.get("prompt_cache_key")),
        stream=body.get("stream") is True,
        include_usage=True,
        needs=tuple(needs),
        extra=extra,
        **request,
    )


def _rest(body: Json, extra: dict[str, Any], needs: list[Need]) -> None:
    for key, value in body.items():
        if key in READ or value is None:
            continue
        extra[key] = value
        if key in _NEEDED and value not in (False, 0, "", {}):
            needs.append(Need(reason=_NEEDED[key], where=key))
        elif key == "include" and isinstance(value, list) and "message.output_text.logprobs" in value:
            needs.append(Need(reason="logprobs", where="include"))


def _whole(body: Json, name: str) -> int | None:
    value = number(body, name)
    if value is not None and int(value) != value:
        raise Malformed(name, "must be an integer")
    return None if value is None else int(value)


def _reasoning(value: Any, extra: dict[str, Any]) -> Reasoning | None:
    if not isinstance(value, Mapping):
        return None
    for key, held in value.items():
        if key not in ("effort", "summary", "generate_summary") and held is not None:
            extra[f"reasoning.{key}"] = held
    summary = value.get("summary") or value.get("generate_summary")
    if isinstance(summary, str) and summary != "auto":
        extra["reasoning.summary"] = summary
    effort = string(value.get("effort")) or None
    if effort is None and not summary:
        return None
    return Reasoning(effort=effort, shown=True if summary else None)


def _format(value: Any, extra: dict[str, Any], needs: list[Need]) -> Format | None:
    if not isinstance(value, Mapping):
        return None
    kind = value.get("type")
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return Format(kind="json_object")
    if kind == "json_schema":
        return schema_in(value)
    extra["text.format"] = value
    needs.append(Need(reason="schema", where=f"text.format.type={kind}"))
    return None


# Tools ----------------------------------------------------------------------------------------------------------------


def _tools(body: Json, extra: dict[str, Any], needs: list[Need]) -> tuple[Tool, ...]:
    stated = body.get("tools")
    if stated is None:
        return ()
    if not isinstance(stated, list):
        raise Malformed("tools", "must be a list")
    found: list[Tool] = []
    hosted: dict[str, Any] = {}
    for i, tool in enumerate(stated):
        where = f"tools.{i}"
        if not isinstance(tool, Mapping):
            raise Malformed(where, "must be an object")
        kind = string(tool.get("type"))
        if kind in ("function", "custom"):
            for key, value in tool.items():
                if key not in _TOOL_READ and value is not None:
                    extra.setdefault(f"tools.{key}", {})[str(i)] = value
        if kind == "function":
            found.append(_function(tool, where))
        elif kind == "custom":
            form = mapping(tool.get("format"))
            if form.get("type") == "grammar":
                needs.append(Need(reason="tools", where=f"{where}.format"))
            found.append(Tool(name=_name(tool, where), description=string(tool.get("description")), custom=form))
        else:
            hosted[str(i)] = tool
            needs.append(Need(reason="server_tools", where=f"{where}.type={kind}"))
    if hosted:
        extra["tools"] = hosted
    return tuple(found)


def _name(tool: Json, where: str) -> str:
    name = string(tool.get("name"))
    if not name:
        raise Malformed(f"{where}.name", "a tool needs a name")
    return name


def _function(tool: Json, where: str) -> Tool:
    if not tool.get("parameters") and isinstance(tool.get("function"), Mapping):
        tool = {**tool, **tool["function"]}  # chat's form, which many servers of this API take as well
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise Malformed(f"{where}.parameters", "must be a JSON schema")
    return Tool(
        name=_name(tool, where),
        description=string(tool.get("description")),
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
    )


def _choice(value: Any, extra: dict[str, Any], needs: list[Need]) -> Choice | None:
    if value is None:
        return None
    if isinstance(value, str):
        mode = _MODES.get(value)
        if mode is None:
            raise Malformed("tool_choice", "must be none, auto, required or an object")
        return Choice(mode=mode)
    if not isinstance(value, Mapping):
        raise Malformed("tool_choice", "must be a string or an object")
    kind, name = string(value.get("type")), string(value.get("name"))
    name = name or string(mapping(value.get(kind)).get("name"))  # chat's form
    if kind == "allowed_tools":
        named = tuple(each for tool in objects(value.get("tools")) if (each := string(tool.get("name"))))
        return Choice(mode="required" if value.get("mode") == "required" else "auto", allowed=named)
    if kind in ("function", "custom"):
        if not name:
            raise Malformed("tool_choice", "names no tool")
        return Choice(mode="named", name=name)
    extra["tool_choice"] = value
    needs.append(Need(reason="server_tools", where=f"tool_choice.type={kind}"))
    return None


# Items ----------------------------------------------------------------------------------------------------------------


class _Items:
    """Reads the items of one request. Items of the model that follow each other make one turn, up to its next message,
    and so do the results of its calls: that is what a turn is in every other dialect."""

    __slots__ = ("_extra", "_needs", "_turns")

    def __init__(self, extra: dict[str, Any], needs: list[Need]) -> None:
        self._extra = extra
        self._needs = needs
        self._turns: list[Turn] = []

    def turns(self, body: Json) -> tuple[Turn, ...]:
        instructions, given = body.get("instructions"), body.get("input")
        if isinstance(instructions, str) and instructions:
            self._turns.append(Turn(role=Role.SYSTEM, parts=(Text(text=instructions),)))
        elif isinstance(instructions, list):
            self._all(instructions, "instructions")
        if isinstance(given, str):
            self._turns.append(Turn(role=Role.USER, parts=(Text(text=given),)))
        elif isinstance(given, list):
            self._all(given, "input")
        elif given is not None:
            raise Malformed("input", "must be a string or a list of items")
        return tuple(self._turns)

    def _all(self, items: list[Any], where: str) -> None:
        for i, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise Malformed(f"{where}.{i}", "must be an object")
            self._item(item, f"{where}.{i}")

    def _item(self, item: Json, where: str) -> None:
        kind = string(item.get("type")) or ("message" if "role" in item or "content" in item else "item_reference")
        if kind == "message":
            self._message(item, where)
        elif kind in CALLS:
            self._said((self._call(item, CALLS[kind]),))
            self._keep(item)
        elif kind in RESULTS:
            self._answered(self._result(item, RESULTS[kind], where))
            self._keep(item)
        elif kind == "reasoning":
            self._said((thinking_of(item),))
            self._keep(item)
            if item.get("content"):
                shown = bool(item.get("summary"))
                self._kept("content" if shown else "reasoning_text", self._place(1), item["content"] if shown else True)
        else:
            reason = "state" if kind == "item_reference" else "server_tools"
            self._needs.append(Need(reason=reason, where=f"{where}.type={kind}"))
            self._said((Opaque(dialect=DIALECT, kind=kind, raw=item),))

    def _place(self, parts: int) -> str:
        """Where the first of the parts that came last stands."""
        return f"{len(self._turns) - 1}.{len(self._turns[-1].parts) - parts}"

    def _kept(self, member: str, place: str, value: Any) -> None:
        self._extra.setdefault(f"input.{member}", {})[place] = value

    def _keep(self, item: Json, parts: int = 1) -> None:
        """Keep what of an item has no place in its turn."""
        for key, value in item.items():
            if key not in _ITEM_READ and value is not None:
                self._kept(key, self._place(parts), value)

    def _keep_parts(self, content: Any) -> None:
        """Keep what of a message's parts has no place in them."""
        if not isinstance(content, list):
            return
        for at, part in enumerate(content):
            for key, value in part.items():
                if key not in _PART_READ and value is not None:
                    self._kept(key, f"{self._place(len(content) - at)}.", value)

    def _said(self, parts: tuple[Part, ...], is_message: bool = False) -> None:
        last = self._turns[-1] if self._turns else None
        is_next = is_message and last is not None and any(isinstance(part, Text | Refusal) for part in last.parts)
        if last is not None and last.role is Role.ASSISTANT and not is_next:
            self._turns[-1] = Turn(role=Role.ASSISTANT, parts=(*last.parts, *parts))
        else:
            self._turns.append(Turn(role=Role.ASSISTANT, parts=parts))

    def _answered(self, result: ToolResult) -> None:
        last = self._turns[-1] if self._turns else None
        if last is not None and last.role is Role.USER and all(isinstance(p, ToolResult) for p in last.parts):
            self._turns[-1] = Turn(role=Role.USER, parts=(*last.parts, result))
        else:
            self._turns.append(Turn(role=Role.USER, parts=(result,)))

    def _message(self, item: Json, where: str) -> None:
        role = _ROLES.get(string(item.get("role")))
        if role is None:
            raise Malformed(f"{where}.role", "must be user, assistant, system or developer")
        parts = self._content(item.get("content"), f"{where}.content")
        if role is Role.ASSISTANT:
            self._said(parts, True)
        else:
            self._turns.append(Turn(role=role, parts=parts, developer=item.get("role") == "developer"))
        self._keep(item, len(parts))
        self._keep_parts(item.get("content"))

    def _content(self, content: Any, where: str) -> tuple[Part, ...]:
        if isinstance(content, str):
            return (Text(text=content),)
        if content is None:
            return ()
        if not isinstance(content, list):
            raise Malformed(where, "must be a string or a list of parts")
        return tuple(self._part(part, f"{where}.{i}") for i, part in enumerate(content))

    def _part(self, part: Any, where: str) -> Part:
        if not isinstance(part, Mapping):
            raise Malformed(where, "must be an object")
        kind = string(part.get("type"))
        if kind in ("input_text", "output_text", "text", "summary_text"):
            return Text(text=string(part.get("text")))
        if kind == "refusal":
            return Refusal(text=string(part.get("refusal")))
        if kind == "input_image":
            return self._image(part, where)
        if kind == "input_file":
            return self._file(part, where)
        if kind == "input_audio":
            audio = mapping(part.get("input_audio"))
            return Media(
                kind="audio", data=string(audio.get("data")), media_type=f"audio/{string(audio.get('format'))}"
            )
        self._needs.append(Need(reason="server_tools", where=f"{where}.type={kind}"))
        return Opaque(dialect=DIALECT, kind=kind, raw=part)

    def _image(self, part: Json, where: str) -> Image:
        url, detail = string(part.get("image_url")), string(part.get("detail"))
        if not url:
            self._needs.append(Need(reason="file_id", where=f"{where}.file_id"))
            return Image(file_id=string(part.get("file_id")), detail=detail)
        inline = split_data_url(url)
        if inline is None:
            return Image(url=url, detail=detail)
        return Image(data=inline[1], media_type=inline[0], detail=detail)

    def _file(self, part: Json, where: str) -> Document:
        name, data, url = (string(part.get(key)) for key in ("filename", "file_data", "file_url"))
        if data:
            inline = split_data_url(data)
            kind = inline[0] if inline is not None else _FILES.get(name.rsplit(".", 1)[-1].lower(), "application/pdf")
            return Document(data=inline[1] if inline is not None else data, media_type=media_type(kind), name=name)
        if url:
            return Document(url=url, name=name, media_type="application/pdf" if ".pdf" in url.lower() else "")
        self._needs.append(Need(reason="file_id", where=f"{where}.file_id"))
        return Document(file_id=string(part.get("file_id")), name=name)

    def _call(self, item: Json, custom: bool) -> ToolCall:
        arguments = item.get("input") if custom else item.get("arguments")
        return ToolCall(
            id=string(item.get("call_id")) or string(item.get("id")),
            name=string(item.get("name")),
            arguments=string(arguments),
            custom=custom,
        )

    def _result(self, item: Json, custom: bool, where: str) -> ToolResult:
        output = item.get("output")
        parts = self._content(output, f"{where}.output") if not isinstance(output, Mapping) else ()
        kept = tuple(part for part in parts if isinstance(part, Text | Image | Document))
        value = output if isinstance(output, Mapping) else None
        return ToolResult(call_id=string(item.get("call_id")), parts=kept, value=value, custom=custom)
