"""What a request to a fake provider wants, in whatever dialect it was written. Pure: path and body in, `Asked` out.

The path alone decides the dialect, so one port answers them all: OpenAI's and Azure's paths, Anthropic's, Gemini's,
those of Vertex and those of Bedrock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import unquote

import orjson

from proxy.demo.example import example

Dialect = Literal["openai", "azure", "anthropic", "gemini", "bedrock"]
DIALECTS: Final[tuple[Dialect, ...]] = ("openai", "azure", "anthropic", "gemini", "bedrock")

Api = Literal[
    "chat",
    "responses",
    "anthropic",
    "gemini",
    "converse",
    "invoke",
    "embeddings",
    "gemini_embeddings",
    "models",
    "count_tokens",
    "gemini_count",
    "converse_count",
    "echo",
]
STREAM_APIS: Final = frozenset({"chat", "responses", "anthropic", "gemini", "converse", "invoke"})
FRAMED_APIS: Final = frozenset({"converse", "invoke"})
"""APIs whose streams are AWS frames, not server-sent events. `invoke` is Claude behind InvokeModel."""

EMBEDDING_SIZE: Final = 8
CHOICES_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool that the answer makes; `arguments` is JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request wants, as far as the answer depends on it."""

    api: Api
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls a healthy answer makes; empty: it says the words."""
    text: str = ""
    """JSON that fits the schema which was asked for; empty: the words."""
    thinks: bool = False
    """Reasoning was asked for."""
    hides: bool = False
    """Gemini: the reasoning counts but is not shown."""
    is_sealed: bool = False
    """Responses: encrypted reasoning was asked for."""
    is_azure: bool = False
    inputs: int = 1
    dimensions: int = EMBEDDING_SIZE
    is_base64: bool = False
    is_array: bool = False
    """Gemini's stream without ``alt=sse``: one JSON array."""
    is_prefill: bool = False
    """The last message is the assistant's."""


_GOOGLE_PATH: Final = re.compile(r"/models/([^/:?]+):(\w+)$")
_BEDROCK_PATH: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|invoke-with-[a-z-]+|count-tokens)$")
_AZURE_PATH: Final = re.compile(r"/openai/(?:deployments/([^/]+)/|responses$)")


def read(path: str, body: bytes, method: str = "POST") -> Asked:
    """Tell what a request wants; a body that is not a JSON object of the right shape asks for the plainest answer."""
    bare, _, query = path.partition("?")
    bare = bare.rstrip("/")
    if google := _GOOGLE_PATH.search(bare.replace("%3A", ":")):
        model, verb = unquote(google[1]), google[2]
        if "RawPredict" in verb or "rawPredict" in verb:
            api: Api = "count_tokens" if model == "count-tokens" else "anthropic"
            return replace(_read_other(api, _object(body)), model=model, stream=verb == "streamRawPredict")
        return _read_gemini(model, verb, query, _object(body))
    if bedrock := _BEDROCK_PATH.search(bare):
        return _read_bedrock(unquote(bedrock[1]), bedrock[2], _object(body))
    if method == "GET":
        return Asked(api="models" if re.search(r"/models(/[^/]+)?$", bare) else "echo")
    for ending, api in _ENDINGS:
        if bare.endswith(ending):
            asked = _read_other(api, _object(body))
            azure = _AZURE_PATH.search(bare)
            deployment = unquote(azure[1]) if azure and azure[1] else ""
            return replace(asked, is_azure=True, model=deployment or asked.model) if azure else asked
    return Asked(api="echo")


_ENDINGS: Final[tuple[tuple[str, Api], ...]] = (
    ("/chat/completions", "chat"),
    ("/responses", "responses"),
    ("/embeddings", "embeddings"),
    ("/messages/count_tokens", "count_tokens"),
    ("/messages", "anthropic"),
)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_gemini(model: str, method: str, query: str, body: dict[str, Any]) -> Asked:
    if method in ("embedContent", "batchEmbedContents"):
        inputs = len(_list(body.get("requests"))) if method == "batchEmbedContents" else 0
        return Asked(api="gemini_embeddings", model=model, inputs=inputs)
    if method not in ("generateContent", "streamGenerateContent"):
        return Asked(api="gemini_count", model=model)
    is_sse = "alt=sse" in query.split("&")
    turns = [turn for turn in _list(body.get("contents")) if isinstance(turn, dict)]
    last = turns[-1] if turns else {}
    config = _dict(_either(_dict(_either(body, "toolConfig")), "functionCallingConfig"))
    tools = [
        (str(f.get("name", "")), _dict(_either(f, "parametersJsonSchema") or f.get("parameters")))
        for tool in _list(body.get("tools"))
        for f in _list(_either(_dict(tool), "functionDeclarations"))
        if isinstance(f, dict)
    ]
    names = [str(name) for name in _list(_either(config, "allowedFunctionNames"))]
    forced = str(config.get("mode", "")).upper() == "ANY"
    wishes = _dict(_either(body, "generationConfig"))
    thinking = _dict(_either(wishes, "thinkingConfig"))
    is_json = _either(wishes, "responseMimeType") == "application/json"
    return Asked(
        api="gemini",
        model=model,
        stream=method == "streamGenerateContent" and is_sse,
        is_array=method == "streamGenerateContent" and not is_sse,
        is_prefill=last.get("role") == "model",
        text=_json_text(_either(wishes, "responseJsonSchema") or _either(wishes, "responseSchema") or _ANY_OBJECT)
        if is_json
        else "",
        thinks=any(_either(thinking, key) for key in ("includeThoughts", "thinkingBudget", "thinkingLevel")),
        hides=_either(thinking, "includeThoughts") is not True,
        tool_calls=_choose(
            [t for t in tools if t[0] in names] or tools,
            is_forced=forced,
            is_barred=str(config.get("mode", "")).upper() == "NONE",
            says=_text_of(last.get("parts")) if last.get("role", "user") == "user" else "",
            is_parallel=True,
        ),
    )


def _either(value: dict[str, Any], key: str) -> Any:
    """A member of Gemini's JSON by its name, which may also come in snake case: its own client mixes them."""
    return value.get(key, value.get(re.sub("[A-Z]", lambda found: "_" + found[0].lower(), key)))


def _read_bedrock(model: str, method: str, body: dict[str, Any]) -> Asked:
    if method == "count-tokens":
        return Asked(api="converse_count", model=model)
    if method.startswith("invoke"):
        return replace(_read_other("invoke", body), model=model, stream=method != "invoke")
    last = _dict((_list(body.get("messages")) or [{}])[-1])
    config = _dict(body.get("toolConfig"))
    specs = [_dict(_dict(tool).get("toolSpec")) for tool in _list(config.get("tools"))]
    tools = [(str(s["name"]), _dict(_dict(s.get("inputSchema")).get("json"))) for s in specs if s.get("name")]
    choice = _dict(config.get("toolChoice"))
    named = _dict(choice.get("tool")).get("name")
    form = _dict(_dict(body.get("outputConfig")).get("textFormat"))
    schema = _dict(_dict(form.get("structure")).get("jsonSchema")).get("schema")
    extra = _dict(body.get("additionalModelRequestFields"))
    return Asked(
        api="converse",
        model=model,
        stream=method == "converse-stream",
        is_prefill=last.get("role") == "assistant",
        text=_json_text(_object(schema.encode())) if isinstance(schema, str) else "",
        thinks=_is_on(extra.get("thinking")) or "reasoning_effort" in extra or "reasoning_config" in extra,
        tool_calls=_choose(
            [t for t in tools if t[0] == named] if named else tools,
            is_forced=bool(named) or "any" in choice,
            is_barred=False,
            says=_text_of(last.get("content")) if last.get("role") == "user" else "",
            is_parallel=_dict(_dict(extra.get("tool_choice"))).get("disable_parallel_tool_use") is not True,
        ),
    )


def _read_other(api: Api, body: dict[str, Any]) -> Asked:
    model = body.get("model")
    inputs = body.get("input")
    dimensions = body.get("dimensions")
    messages = body.get("input" if api == "responses" else "messages")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    last = _dict((_list(messages) or [{}])[-1])
    choices = body.get("n")
    return Asked(
        api=api,
        model=model if isinstance(model, str) else "",
        stream=body.get("stream") is True,
        include_usage=_dict(body.get("stream_options")).get("include_usage") is True,
        choices=min(choices, CHOICES_MAX) if isinstance(choices, int) and choices > 1 and api == "chat" else 1,
        tool_calls=_tool_calls(api, body, last) if api != "embeddings" else (),
        text=_structured(body),
        thinks=_thinks(body),
        is_sealed="reasoning.encrypted_content" in _list(body.get("include")),
        inputs=len(inputs) if isinstance(inputs, list) and not (inputs and isinstance(inputs[0], int)) else 1,
        dimensions=min(dimensions, 4096) if isinstance(dimensions, int) and dimensions > 0 else EMBEDDING_SIZE,
        is_base64=body.get("encoding_format") == "base64",
        is_prefill=last.get("role") == "assistant",
    )


def _structured(body: dict[str, Any]) -> str:
    """The answer to a demand for JSON: chat's `response_format`, Responses' `text`, Anthropic's `output_config`."""
    places = (
        body.get("response_format"),
        _dict(body.get("text")).get("format"),
        _dict(body.get("output_config")).get("format"),
        body.get("output_format"),
    )
    form = next((_dict(place) for place in places if isinstance(place, dict)), {})
    if form.get("type") not in ("json_schema", "json_object"):
        return ""
    return _json_text(form.get("schema") or _dict(form.get("json_schema")).get("schema") or _ANY_OBJECT)


_ANY_OBJECT: Final = {"type": "object", "properties": {"answer": {"type": "string"}}}


def _thinks(body: dict[str, Any]) -> bool:
    """Whether reasoning was asked for, in the words of chat, Responses or Anthropic."""
    effort = body.get("reasoning_effort") or _dict(body.get("reasoning")).get("effort")
    return effort not in (None, "none") or _is_on(body.get("thinking"))


def _is_on(thinking: object) -> bool:
    return _dict(thinking).get("type") in ("enabled", "adaptive")


def _tool_calls(api: Api, body: dict[str, Any], last: dict[str, Any]) -> tuple[ToolCall, ...]:
    tools = [t for t in (_tool(api, _dict(tool)) for tool in _list(body.get("tools"))) if t[0]]
    choice = body.get("tool_choice")
    word = choice if isinstance(choice, str) else str(_dict(choice).get("type", ""))
    named = _dict(choice).get("name") or _dict(_dict(choice).get("function")).get("name")
    return _choose(
        [t for t in tools if t[0] == named] if named else tools,
        is_forced=bool(named) or word in ("required", "any"),
        is_barred=word == "none",
        says=_text_of(last.get("content")) if last.get("role") == "user" else "",
        is_parallel=body.get("parallel_tool_calls") is not False
        and _dict(choice).get("disable_parallel_tool_use") is not True,
    )


def _tool(api: Api, tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and schema of one tool; Responses has them flat, chat in a wrapper, Anthropic under `input_schema`."""
    inner = _dict(tool.get("function")) if api == "chat" else tool
    return str(inner.get("name", "")), _dict(inner.get("parameters") or inner.get("input_schema"))


def _choose(
    tools: list[tuple[str, dict[str, Any]]], *, is_forced: bool, is_barred: bool, says: str, is_parallel: bool
) -> tuple[ToolCall, ...]:
    """ "call the tool" calls the first, "call the tools" or "both" all of them; a forced choice calls untold."""
    told = says.lower()
    wants_many = len(tools) > 1 and ("call the tools" in told or re.search(r"\bboth\b", told) is not None)
    if is_barred or not tools or not (is_forced or wants_many or "call the tool" in told):
        return ()
    many = tools if is_parallel and wants_many else tools[:1]
    return tuple(ToolCall(name=name, arguments=_json_text(schema)) for name, schema in many)


def _json_text(schema: object) -> str:
    """JSON that fits a schema of an object; without a schema, any object."""
    value = example(schema) if isinstance(schema, Mapping) and schema else {}
    return orjson.dumps(value if isinstance(value, dict) else {"value": value}).decode()


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(_dict(part).get("text", "")) for part in _list(content))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
