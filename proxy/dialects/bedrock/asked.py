"""The body of a Converse request read into canonical form.

No caller of the sidecar speaks Converse; this reader is what the writer is measured with, and what goes on with an
answer that Bedrock began. What the canonical form cannot say stays a block of Converse (`Opaque`), or stays in `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects.bedrock import words
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
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)

READ: Final = frozenset(
    {"messages", "system", "inferenceConfig", "toolConfig", "outputConfig", "requestMetadata", "serviceTier", "modelId"}
)
"""Members that have a place of their own in the canonical form."""


def read_request(body: Json) -> Request:
    """See `chat`. Raises `Malformed`."""
    inference = _mapping(body, "inferenceConfig")
    fields = _mapping(body, "additionalModelRequestFields")
    tools, choice, needs = _tools(_mapping(body, "toolConfig"))
    output = _mapping(body, "outputConfig")
    extra = {key: value for key, value in body.items() if key not in READ}
    if rest := {key: value for key, value in output.items() if key != "textFormat"}:
        extra["outputConfig"] = rest
    if rest := {key: value for key, value in inference.items() if key not in _INFERENCE}:
        extra["inferenceConfig"] = rest
    return Request(
        dialect=words.DIALECT,
        model=body["modelId"] if isinstance(body.get("modelId"), str) else "",
        turns=(*_system(body.get("system") or []), *_turns(body.get("messages"))),
        tools=tools,
        choice=choice,
        limit=_number(inference, "maxTokens", int),
        temperature=_number(inference, "temperature", float),
        top_p=_number(inference, "topP", float),
        top_k=_top_k(fields),
        stop=tuple(inference.get("stopSequences") or ()),
        format=_format(_mapping(output, "textFormat")),
        reasoning=_reasoning(fields),
        metadata=_mapping(body, "requestMetadata") or None,
        service_tier=str(_mapping(body, "serviceTier").get("type") or ""),
        needs=tuple(needs),
        extra=extra,
    )


_INFERENCE: Final = frozenset({"maxTokens", "temperature", "topP", "stopSequences"})


def _mapping(body: Json, key: str) -> Json:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Malformed(key, "must be an object")
    return value


def _number(values: Json, key: str, kind: type) -> Any:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(key, "must be a number")
    return kind(value)


def _top_k(fields: Json) -> int | None:
    """Claude's spelling, else Nova's."""
    found: int | None = _number(fields, "top_k", int)
    return found if found is not None else _number(_mapping(fields, "inferenceConfig"), "topK", int)


def _blocks(value: Any, path: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(block, Mapping) for block in value):
        raise Malformed(path, "must be a list of blocks")
    return value


# Conversation ---------------------------------------------------------------------------------------------------------


def _system(blocks: Any) -> tuple[Turn, ...]:
    parts = _parts(_blocks(blocks, "system"), "system")
    return (Turn(role=Role.SYSTEM, parts=tuple(parts)),) if parts else ()


def _turns(messages: Any) -> list[Turn]:
    turns = []
    for at, message in enumerate(_blocks(messages, "messages")):
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise Malformed(f"messages.{at}.role", "must be user or assistant")
        path = f"messages.{at}.content"
        turns.append(Turn(role=Role(role), parts=tuple(_parts(_blocks(message.get("content"), path), path))))
    return turns


def _parts(blocks: list[Json], path: str) -> list[Part]:
    out: list[Part] = []
    for at, block in enumerate(blocks):
        point = block.get("cachePoint")
        if isinstance(point, Mapping) and out and isinstance(out[-1], _MARKABLE) and not out[-1].cache:
            out[-1] = _marked(out[-1], str(point.get("ttl") or "5m"))
        else:
            out.append(_part(block, f"{path}.{at}"))
    return out


_MARKABLE: Final = (Text, Image, Document, ToolCall, ToolResult)


def _marked(part: Any, mark: str) -> Part:
    values = {name: getattr(part, name) for name in part.__slots__}
    return type(part)(**{**values, "cache": mark})  # type: ignore[no-any-return]


def _part(block: Json, path: str) -> Part:
    if isinstance(block.get("text"), str):
        return Text(text=block["text"])
    for kind, read in _READERS.items():
        inner = block.get(kind)
        if isinstance(inner, Mapping):
            found = read(inner)
            if found is not None:
                return found
    kinds = [key for key, value in block.items() if value is not None]
    if not kinds:
        raise Malformed(path, "is empty")
    return Opaque(dialect=words.DIALECT, kind=kinds[0], raw=block)


def _image(inner: Json) -> Part | None:
    found = _source(inner, words.IMAGES, {"format", "source"})
    return None if found is None else Image(media_type=found[0], data=found[1], url=found[2])


def _document(inner: Json) -> Part | None:
    source = inner.get("source")
    name, context = str(inner.get("name") or ""), inner.get("context")
    if isinstance(source, Mapping) and isinstance(source.get("text"), str) and "citations" not in inner:
        kind = words.media_type(words.DOCUMENTS, inner.get("format"))
        return Document(text=source["text"], media_type=kind, name=name, context=str(context or ""))
    found = _source(inner, words.DOCUMENTS, {"format", "source", "name", "context"})
    if found is None:
        return None
    return Document(media_type=found[0], data=found[1], url=found[2], name=name, context=str(context or ""))


def _audio(inner: Json) -> Part | None:
    found = _source(inner, words.AUDIOS, {"format", "source"})
    return None if found is None else Media(kind="audio", media_type=found[0], data=found[1], url=found[2])


def _video(inner: Json) -> Part | None:
    found = _source(inner, words.VIDEOS, {"format", "source"})
    return None if found is None else Media(kind="video", media_type=found[0], data=found[1], url=found[2])


def _source(inner: Json, kinds: Mapping[str, str], known: set[str]) -> tuple[str, str, str] | None:
    """(media type, base64, address) of a medium; None: it has something that the canonical form has not."""
    source = inner.get("source")
    kind = words.media_type(kinds, inner.get("format"))
    if not kind or not set(inner) <= known or not isinstance(source, Mapping):
        return None
    if isinstance(data := source.get("bytes"), str):
        return kind, data, ""
    place = source.get("s3Location")
    if isinstance(place, Mapping) and set(place) == {"uri"}:
        return kind, "", str(place["uri"])
    return None


def tool_call(inner: Json) -> Part | None:
    """A toolUse of the caller's; None: a tool that runs at the provider."""
    if not words.is_callers(inner):
        return None
    given = inner.get("input")
    text = given if isinstance(given, str) else orjson.dumps({} if given is None else given).decode()
    return ToolCall(id=str(inner.get("toolUseId") or ""), name=str(inner.get("name") or ""), arguments=text)


def _tool_result(inner: Json) -> Part | None:
    content = inner.get("content") or []
    if "type" in inner or not isinstance(content, list):
        return None
    parts: list[Text | Image | Document] = []
    value = None
    for block in content:
        found = _part(block, "toolResult") if isinstance(block, Mapping) else None
        if isinstance(found, Text | Image | Document):
            parts.append(found)
        elif isinstance(block, Mapping) and len(content) == 1 and block.get("json") is not None:
            value = block["json"]
        else:
            return None
    return ToolResult(
        call_id=str(inner.get("toolUseId") or ""),
        parts=tuple(parts),
        value=value,
        is_error=inner.get("status") == "error",
    )


def thinking(inner: Json) -> Part | None:
    """Reasoning, in a request or in an answer. Whoever signs is Claude: no other model at Bedrock does."""
    plain = inner.get("reasoningText")
    if isinstance(plain, Mapping):
        signature = str(plain.get("signature") or "")
        return Thinking(text=str(plain.get("text") or ""), signature=signature, origin="anthropic" if signature else "")
    blob = inner.get("redactedContent")
    return None if blob is None else Thinking(redacted=words.redacted_in(blob), origin="anthropic")


_READERS: Final = {
    "image": _image,
    "document": _document,
    "audio": _audio,
    "video": _video,
    "toolUse": tool_call,
    "toolResult": _tool_result,
    "reasoningContent": thinking,
}


# Tools and options ----------------------------------------------------------------------------------------------------


def _tools(config: Json) -> tuple[tuple[Tool, ...], Choice | None, list[Need]]:
    tools: list[Tool] = []
    needs: list[Need] = []
    for at, entry in enumerate(_blocks(config.get("tools") or [], "toolConfig.tools")):
        spec, point = entry.get("toolSpec"), entry.get("cachePoint")
        if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
            tools.append(_tool(spec))
        elif isinstance(point, Mapping) and tools:
            tools[-1] = _marked_tool(tools[-1], str(point.get("ttl") or "5m"))
        else:
            # Kept whole as the tool's only property: a server tool is written back by its own dialect.
            needs.append(Need(reason="server_tools", where=f"toolConfig.tools.{at}={next(iter(entry), '')}"))
            tools.append(Tool(name="", custom={"converse": entry}))
    return tuple(tools), _choice(config.get("toolChoice")), needs


def _tool(spec: Json) -> Tool:
    schema = spec.get("inputSchema")
    parameters = schema.get("json") if isinstance(schema, Mapping) else None
    strict = spec.get("strict")
    return Tool(
        name=spec["name"],
        description=str(spec.get("description") or ""),
        parameters=parameters if isinstance(parameters, Mapping) else None,
        strict=strict if isinstance(strict, bool) else None,
    )


def _marked_tool(tool: Tool, mark: str) -> Tool:
    values = {name: getattr(tool, name) for name in tool.__slots__}
    return Tool(**{**values, "cache": mark})


def _choice(wanted: Any) -> Choice | None:
    if not isinstance(wanted, Mapping) or not wanted:
        return None
    if "any" in wanted:
        return Choice(mode="required")
    named = wanted.get("tool")
    if isinstance(named, Mapping):
        return Choice(mode="named", name=str(named.get("name") or ""))
    return Choice(mode="auto")


def _format(wanted: Json) -> Format | None:
    structure = wanted.get("structure")
    inner = structure.get("jsonSchema") if isinstance(structure, Mapping) else None
    if not isinstance(inner, Mapping):
        return None
    try:
        schema = orjson.loads(inner.get("schema") or "")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise Malformed("outputConfig.textFormat.structure.jsonSchema.schema", "must be JSON in a string") from error
    return Format(
        kind="json_schema",
        name=str(inner.get("name") or ""),
        schema=schema if isinstance(schema, Mapping) else None,
        description=str(inner.get("description") or ""),
    )


def _reasoning(fields: Json) -> Reasoning | None:
    """What the additional fields ask of the reasoning, in the words of the families that have any."""
    wanted = fields.get("thinking") or fields.get("reasoning_config") or fields.get("reasoningConfig")
    output = fields.get("output_config")
    effort = output.get("effort") if isinstance(output, Mapping) else None
    effort = effort or fields.get("reasoning_effort")
    if isinstance(wanted, str):
        wanted, effort = None, wanted
    if not isinstance(wanted, Mapping):
        return Reasoning(effort=effort) if isinstance(effort, str) else None
    effort = effort or wanted.get("maxReasoningEffort")
    budget, mode, shown = wanted.get("budget_tokens"), wanted.get("type"), wanted.get("display")
    return Reasoning(
        effort=effort if isinstance(effort, str) else None,
        budget=budget if isinstance(budget, int) else None,
        mode=mode if mode in ("enabled", "disabled", "adaptive") else None,
        shown=None if shown is None else shown != "omitted",
    )
