"""What a request to a fake provider wants, in whatever dialect it was written. Pure: path and body in, `Asked` out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

Dialect = Literal["openai", "anthropic", "gemini"]
DIALECTS: Final[tuple[Dialect, ...]] = ("openai", "anthropic", "gemini")

Api = Literal[
    "chat", "responses", "anthropic", "gemini", "embeddings", "gemini_embeddings", "models", "count_tokens", "echo"
]
STREAM_APIS: Final = frozenset({"chat", "responses", "anthropic", "gemini"})

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
    inputs: int = 1
    dimensions: int = EMBEDDING_SIZE
    is_base64: bool = False
    is_array: bool = False
    """Gemini's stream without ``alt=sse``: one JSON array."""
    is_prefill: bool = False
    """The last message is the assistant's."""


_GEMINI_PATH: Final = re.compile(r"/models/([^/:?]+):(\w+)")


def read(path: str, body: bytes, method: str = "POST") -> Asked:
    """Tell what a request wants; a body that is not a JSON object of the right shape asks for the plainest answer."""
    bare, _, query = path.partition("?")
    if gemini := _GEMINI_PATH.search(bare):
        return _read_gemini(gemini[1], gemini[2], query, _object(body))
    bare = bare.rstrip("/")
    if method == "GET":
        return Asked(api="models" if re.search(r"/models(/[^/]+)?$", bare) else "echo")
    for ending, api in _ENDINGS:
        if bare.endswith(ending):
            return _read_other(api, _object(body))
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
        return Asked(api="count_tokens", model=model)
    is_sse = "alt=sse" in query.split("&")
    turns = [turn for turn in _list(body.get("contents")) if isinstance(turn, dict)]
    last = turns[-1] if turns else {}
    config = _dict(_dict(body.get("toolConfig")).get("functionCallingConfig"))
    tools = [
        (str(f.get("name", "")), _dict(f.get("parametersJsonSchema") or f.get("parameters")))
        for tool in _list(body.get("tools"))
        for f in _list(_dict(tool).get("functionDeclarations"))
        if isinstance(f, dict)
    ]
    names = [str(name) for name in _list(config.get("allowedFunctionNames"))]
    forced = str(config.get("mode", "")).upper() == "ANY"
    return Asked(
        api="gemini",
        model=model,
        stream=method == "streamGenerateContent" and is_sse,
        is_array=method == "streamGenerateContent" and not is_sse,
        is_prefill=last.get("role") == "model",
        tool_calls=_choose(
            [t for t in tools if t[0] in names] or tools,
            is_forced=forced,
            is_barred=str(config.get("mode", "")).upper() == "NONE",
            says=_text_of(last.get("parts")) if last.get("role", "user") == "user" else "",
            is_parallel=True,
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
        inputs=len(inputs) if isinstance(inputs, list) and not (inputs and isinstance(inputs[0], int)) else 1,
        dimensions=min(dimensions, 4096) if isinstance(dimensions, int) and dimensions > 0 else EMBEDDING_SIZE,
        is_base64=body.get("encoding_format") == "base64",
        is_prefill=last.get("role") == "assistant",
    )


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
    """ "call the tool" calls the first, "call the tools" all of them; a forced choice calls without being told."""
    told = says.lower()
    if is_barred or not tools or not (is_forced or "call the tool" in told):
        return ()
    many = tools if is_parallel and "call the tools" in told else tools[:1]
    return tuple(ToolCall(name=name, arguments=_arguments(schema)) for name, schema in many)


_EXAMPLES: Final[Mapping[str, object]] = {
    "string": "example",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def _arguments(schema: dict[str, Any]) -> str:
    """Arguments that fit the outermost level of a JSON Schema: an example per property."""
    values: dict[str, object] = {}
    for name, rule in _dict(schema.get("properties")).items():
        rule = _dict(rule)
        choices = _list(rule.get("enum"))
        values[name] = choices[0] if choices else _EXAMPLES.get(str(rule.get("type", "")).lower(), "example")
    return orjson.dumps(values).decode()


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(_dict(part).get("text", "")) for part in _list(content))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
