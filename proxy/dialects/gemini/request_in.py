"""The body of a Gemini caller in canonical form. camelCase and snake_case are both accepted, as Google's servers do.

What only Gemini knows is kept in `Request.extra` under dotted paths (``generationConfig.mediaResolution``), where the
writer of this dialect finds it again and others warn of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects import media, schema
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
from proxy.dialects.linking import linked

OPAQUE: Final = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_ROLES: Final = {"user": Role.USER, "function": Role.USER, "": Role.USER, "model": Role.ASSISTANT}
_KNOWN: Final = frozenset(
    {"model", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "stream"}
)
_STATE: Final = {"cachedContent": "state", "continuationToken": "state"}
"""Top-level members that point to something at Google: no other provider can honour them."""
_NUMBERS: Final = {
    "temperature": "temperature", "topP": "top_p", "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}  # fmt: skip
_WHOLES: Final = {"maxOutputTokens": "limit", "topK": "top_k", "seed": "seed"}
_NEEDED: Final = {"responseLogprobs": "logprobs", "logprobs": "logprobs", "speechConfig": "audio"}


def camel(key: str) -> str:
    """``max_output_tokens`` as ``maxOutputTokens``."""
    if "_" not in key:
        return key
    first, *rest = key.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def camels(value: Any) -> dict[str, Any]:
    """A structure's own members in camelCase; empty when it is no object. What lies deeper is left alone: it may be
    the caller's data."""
    return {camel(key): each for key, each in value.items()} if isinstance(value, Mapping) else {}


def read_request(body: Json) -> Request:
    """The canonical request. Raises `Malformed`."""
    source = camels(body)
    reading = _Reading()
    turns = [Turn(role=Role.SYSTEM, parts=system)] if (system := _system(source.get("systemInstruction"))) else []
    turns += _contents(source.get("contents"))
    fields = reading.config(camels(source.get("generationConfig")))
    tools = reading.tools(source.get("tools"))
    choice = reading.choice(camels(source.get("toolConfig")))
    for key, value in source.items():
        if key in _KNOWN:
            continue
        reading.extra[key] = value
        if key in _STATE:
            reading.needs.append(Need(reason=_STATE[key], where=key))
    model = source.get("model")
    return Request(
        dialect="gemini",
        model=model if isinstance(model, str) else "",
        turns=linked(turns),
        tools=tools,
        choice=choice,
        needs=tuple(reading.needs),
        extra=reading.extra,
        **fields,
    )


# Conversation ---------------------------------------------------------------------------------------------------------


def _system(value: Any) -> tuple[Part, ...]:
    if isinstance(value, str):
        return (Text(text=value),) if value else ()
    parts = camels(value).get("parts")
    if isinstance(parts, Mapping):
        parts = [parts]
    texts = [camels(part).get("text") for part in parts] if isinstance(parts, list) else []
    return tuple(Text(text=text) for text in texts if isinstance(text, str) and text)


def _contents(value: Any) -> list[Turn]:
    if isinstance(value, str):
        return [Turn(role=Role.USER, parts=(Text(text=value),))]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Malformed("contents", "must be a list of turns")
    turns = []
    for i, content in enumerate(value):
        if not isinstance(content, Mapping):
            raise Malformed(f"contents.{i}", "must be an object")
        role = _ROLES.get(content.get("role") or "")
        if role is None:
            raise Malformed(f"contents.{i}.role", "must be user or model")
        parts = content.get("parts") or ()
        if isinstance(parts, Mapping):
            parts = [parts]
        if not isinstance(parts, list | tuple):
            raise Malformed(f"contents.{i}.parts", "must be a list")
        turns.append(
            Turn(role=role, parts=tuple(_part(part, f"contents.{i}.parts.{j}") for j, part in enumerate(parts)))
        )
    return turns


def _part(value: Any, path: str) -> Part:
    if isinstance(value, str):
        return Text(text=value)
    if not isinstance(value, Mapping):
        raise Malformed(path, "must be an object")
    part = camels(value)
    signature = part.get("thoughtSignature") or ""
    if part.get("thought") is True and "functionCall" not in part:
        return Thinking(text=part.get("text") or "", signature=signature, origin="gemini")
    if isinstance(part.get("text"), str):
        return Text(text=part["text"], signature=signature)
    if (call := part.get("functionCall")) is not None:
        return read_call(camels(call), signature)
    if (response := part.get("functionResponse")) is not None:
        return _result(camels(response), path)
    if "inlineData" in part and "videoMetadata" not in part:
        return _inline(camels(part["inlineData"]))
    if "fileData" in part and "videoMetadata" not in part:
        return _file(camels(part["fileData"]))
    kind = next((key for key in part if key not in ("thoughtSignature", "thought", "videoMetadata")), "")
    if signature and not kind:
        return Text(text="", signature=signature)
    return Opaque(dialect="gemini", kind=kind, raw=part)


def read_call(call: Json, signature: str) -> ToolCall:
    """A call from the members of a ``functionCall``."""
    return ToolCall(
        id=call.get("id") or "",
        name=call.get("name") or "",
        arguments=arguments_of(call.get("args")),
        signature=signature if isinstance(signature, str) else "",
    )


def arguments_of(value: Any) -> str:
    """The arguments of a call as JSON text; none are an empty object."""
    if isinstance(value, str) and value:
        return value
    return orjson.dumps(value or {}).decode()


def _result(response: Json, path: str) -> ToolResult:
    value = response.get("response")
    parts = [_part(part, path) for part in response.get("parts") or ()]
    blobs = [part for part in parts if isinstance(part, Image | Document)]
    if len(blobs) < len(parts):
        raise Malformed(f"{path}.functionResponse.parts", "may hold images and documents only")
    if blobs:
        words = [Text(text=orjson.dumps(value).decode())] if value else []
        return ToolResult(call_id=response.get("id") or "", name=response.get("name") or "", parts=(*words, *blobs))
    return ToolResult(
        call_id=response.get("id") or "",
        name=response.get("name") or "",
        value=value if value is not None else {},
        is_error=isinstance(value, Mapping) and list(value) == ["error"],
    )


def _inline(blob: Json) -> Part:
    media_type = _type(blob)
    data = _base64(blob.get("data") or "")
    if media_type.startswith("image/"):
        return Image(data=data, media_type=media_type)
    if (kind := media_type.split("/", 1)[0]) in ("audio", "video"):
        return Media(kind="audio" if kind == "audio" else "video", data=data, media_type=media_type)
    return Document(data=data, media_type=media_type, name=blob.get("displayName") or "")


def _file(blob: Json) -> Part:
    media_type = _type(blob)
    uri = blob.get("fileUri") or ""
    kind = media_type.split("/", 1)[0]
    at_google = not uri.startswith(("http://", "https://", "gs://")) or "generativelanguage.googleapis.com" in uri
    if kind in ("audio", "video") or "//youtu.be/" in uri or "youtube.com/watch" in uri:
        return Media(kind="audio" if kind == "audio" else "video", url=uri, media_type=media_type)
    if kind == "image":
        return Image(media_type=media_type, url="" if at_google else uri, file_id=uri if at_google else "")
    return Document(media_type=media_type, url="" if at_google else uri, file_id=uri if at_google else "")


def _type(blob: Json) -> str:
    found = blob.get("mimeType")
    return media.media_type(found) if isinstance(found, str) else ""


def _base64(data: str) -> str:
    """Google takes the alphabet for URLs and missing padding as well; nobody else does."""
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


# Settings -------------------------------------------------------------------------------------------------------------


class _Reading:
    """What is found beside the conversation."""

    __slots__ = ("extra", "needs")

    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}
        self.needs: list[Need] = []

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Fields of the request by ``generationConfig``; what is not among them goes to `extra`."""
        fields: dict[str, Any] = {}
        for key, value in config.items():
            if key in _NUMBERS and isinstance(value, int | float):
                fields[_NUMBERS[key]] = value
            elif key in _WHOLES and isinstance(value, int | float):
                fields[_WHOLES[key]] = int(value)
            elif key == "stopSequences" and isinstance(value, list):
                fields["stop"] = tuple(stop for stop in value if isinstance(stop, str))
            elif key == "thinkingConfig":
                fields["reasoning"] = self._reasoning(camels(value))
            elif key not in ("responseMimeType", "responseSchema", "responseJsonSchema") and value is not None:
                self._only_here(key, value)
        fields["format"] = self._format(config)
        return fields

    def _only_here(self, key: str, value: Any) -> None:
        where = f"generationConfig.{key}"
        self.extra[where] = value
        if key == "candidateCount" and value not in (0, 1):
            self.needs.append(Need(reason="n", where=where))
        elif key == "responseModalities" and [str(each).upper() for each in value or ()] not in ([], ["TEXT"]):
            self.needs.append(Need(reason="modalities", where=where))
        elif key in _NEEDED and value is not False:
            self.needs.append(Need(reason=_NEEDED[key], where=where))

    def _reasoning(self, config: Json) -> Reasoning:
        level, budget = config.get("thinkingLevel"), config.get("thinkingBudget")
        shown = config.get("includeThoughts")
        return Reasoning(
            effort=level.lower() if isinstance(level, str) and "UNSPECIFIED" not in level.upper() else None,
            budget=int(budget) if isinstance(budget, int | float) else None,
            shown=shown if isinstance(shown, bool) else None,
        )

    def _format(self, config: Json) -> Format | None:
        mime = config.get("responseMimeType")
        found = config.get("responseJsonSchema")
        if not isinstance(found, Mapping):
            older = config.get("responseSchema")
            found = schema.from_openapi(older) if isinstance(older, Mapping) else None
        if mime in (None, "text/plain", "application/json"):
            if found is not None:
                return Format(kind="json_schema", schema=found, strict=True)
            return Format(kind="json_object") if mime == "application/json" else None
        # ``text/x.enum``: one word out of a list, which no other dialect knows.
        self.needs.append(Need(reason="schema", where="generationConfig.responseMimeType"))
        for key in ("responseMimeType", "responseSchema", "responseJsonSchema"):
            if key in config:
                self.extra[f"generationConfig.{key}"] = config[key]
        return None

    def tools(self, value: Any) -> tuple[Tool, ...]:
        """Functions; what runs at Google is kept apart."""
        entries = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
        out: list[Tool] = []
        hosted: list[dict[str, Any]] = []
        for i, entry in enumerate(entries):
            members = camels(entry)
            declared = members.pop("functionDeclarations", None) or ()
            out.extend(self._tool(camels(each), i) for each in declared)
            for key in members:
                self.needs.append(Need(reason="server_tools", where=f"tools.{i}.{key}"))
            if members:
                hosted.append(members)
        if hosted:
            self.extra["tools"] = hosted
        return tuple(out)

    def _tool(self, declared: dict[str, Any], i: int) -> Tool:
        name = declared.get("name")
        if not isinstance(name, str) or not name:
            raise Malformed(f"tools.{i}.functionDeclarations", "a function needs a name")
        parameters = declared.get("parametersJsonSchema")
        if not isinstance(parameters, Mapping):
            older = declared.get("parameters")
            parameters = schema.from_openapi(older) if isinstance(older, Mapping) else None
        for key in declared:
            if key not in ("name", "description", "parameters", "parametersJsonSchema"):
                self.extra.setdefault(f"tools.{key}", {})[name] = declared[key]
        return Tool(name=name, description=declared.get("description") or "", parameters=parameters)

    def choice(self, config: dict[str, Any]) -> Choice | None:
        """Which functions may be called, by ``toolConfig``."""
        calling = camels(config.pop("functionCallingConfig", None))
        for key, value in config.items():
            self.extra[f"toolConfig.{key}"] = value
        mode = str(calling.get("mode") or "").upper()
        allowed = tuple(name for name in calling.get("allowedFunctionNames") or () if isinstance(name, str))
        if mode == "NONE":
            return Choice(mode="none")
        if mode == "ANY":
            if len(allowed) == 1:
                return Choice(mode="named", name=allowed[0])
            return Choice(mode="required", allowed=allowed)
        if mode == "VALIDATED" and not allowed:
            self.extra["toolConfig.functionCallingConfig.mode"] = mode
        return Choice(mode="auto", allowed=allowed) if mode else None
