"""What the fake providers say, in OpenAI's, Anthropic's and Gemini's words. Pure: a request in, bytes out.

The healthy answer is always the same 60 different words (`WORDS`), one word per event, so that a missing, doubled or
misplaced word is always visible. Three words hold a character of two bytes, so that a cut through one can happen.
Answers depend on nothing but the request and on `Say`; the one thing that differs between attempts, the id, is left as
the placeholder `ID` of fixed width, which makes every answer a template that can be kept and stamped.

Field names and event orders are those of `providers.md` 1.2 to 1.6, errors those of its section 3.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

Dialect = Literal["openai", "anthropic", "gemini"]
DIALECTS: Final[tuple[Dialect, ...]] = ("openai", "anthropic", "gemini")

Api = Literal[
    "chat", "responses", "anthropic", "gemini", "embeddings", "gemini_embeddings", "models", "count_tokens", "echo"
]
STREAM_APIS: Final = frozenset({"chat", "responses", "anthropic", "gemini"})
Kind = Literal["open", "word", "finish", "usage", "done"]

ID: Final = b"@attempt@@"
"""Stands for the attempt's number; ten bytes, as is `stamp`'s number, so that lengths stay true."""

TEXT: Final = (
    "harbour lantern copper meadow thistle granite café pepper violin anchor "
    "saddle marble window orchard feather compass naïve bottle gravel ribbon "
    "cinnamon tunnel whistle garden puzzle kettle glacier button hammer island "
    "jacket kitchen ladder magnet needle ocean pencil quartz rocket señor "
    "timber umbrella valley walnut yellow zipper blanket candle dragon engine "
    "falcon goblet helmet insect jungle kernel lemon mirror nectar olive"
)
"""The healthy answer."""

WORDS: Final = tuple(TEXT.split())
"""Its 60 different words."""

REFUSAL: Final = "I am sorry, but I cannot help with that."
PROMPT_TOKENS: Final = 11
"""What every answer counts for its prompt, unless the provider is told another number."""
CREATED: Final = 1_790_000_000
"""Unix seconds put into `created`; a constant, so that answers are templates."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """What the provider says, whoever asks."""

    provider: str
    words: tuple[str, ...] = WORDS
    answer: Literal["text", "refusal", "tool_call", "length"] = "text"
    empty: Literal["no_choices", "null_content", "done"] | None = None
    has_usage: bool = True
    has_finish: bool = True
    prompt_tokens: int = PROMPT_TOKENS


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, complete with its blank line, LF line ends. Only "word" is content."""

    kind: Kind
    data: bytes


def stamp(template: bytes, n: int) -> bytes:
    """Put attempt number `n` into an answer."""
    return template.replace(ID, b"%010d" % n)


# --- reading the request -------------------------------------------------------------------------------------------

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


# --- answers -------------------------------------------------------------------------------------------------------


def unary(asked: Asked, say: Say, dialect: Dialect = "openai") -> bytes:
    """Return the body of a whole answer, a template for `stamp`; `dialect` decides the shape of a model list."""
    match asked.api:
        case "chat":
            value = _chat_unary(asked, say)
        case "responses":
            value = _responses_unary(asked, say)
        case "anthropic":
            value = _anthropic_unary(asked, say)
        case "gemini":
            value = _gemini_unary(asked, say)
        case "embeddings":
            value = _embeddings(asked, say)
        case "gemini_embeddings":
            vectors = [{"values": _vector(i, asked.dimensions)} for i in range(max(1, asked.inputs))]
            value = {"embeddings": vectors} if asked.inputs else {"embedding": vectors[0]}
        case "count_tokens":
            value = {"input_tokens": say.prompt_tokens, "totalTokens": say.prompt_tokens}
        case "models" | "echo":
            value = _models(dialect)
    return orjson.dumps([value] if asked.is_array else value)


def stream(asked: Asked, say: Say) -> tuple[Event, ...]:
    """Return the events of a streamed answer, templates for `stamp`; only of the `STREAM_APIS`."""
    makers = {
        "chat": _chat_stream,
        "responses": _responses_stream,
        "anthropic": _anthropic_stream,
        "gemini": _gemini_stream,
    }
    return tuple(makers[asked.api](asked, say))


def echo(method: str, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    """Return what reached us, for paths that mean nothing to us."""
    return orjson.dumps(
        {"method": method, "path": path, "headers": headers, "body_bytes": len(body), "sha256": sha256(body)}
    )


def sha256(body: bytes | bytearray) -> str:
    """Hex digest of a body."""
    return hashlib.sha256(body).hexdigest()


def _data(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _named(kind: Kind, name: str, value: dict[str, Any]) -> Event:
    return Event(kind, b"event: " + name.encode() + b"\n" + _data({"type": name, **value}))


def _pieces(words: tuple[str, ...]) -> Iterator[str]:
    """Give the words so that they join to a text: every one but the first with the space before it."""
    for i, word in enumerate(words):
        yield word if i == 0 else f" {word}"


def _fragments(arguments: str) -> tuple[str, str]:
    """Cut arguments in two, as a stream brings them."""
    half = (len(arguments) + 1) // 2
    return arguments[:half], arguments[half:]


def _output_tokens(asked: Asked, say: Say) -> int:
    if say.empty is not None:
        return 0
    return len(say.words) * asked.choices


def _calls(asked: Asked, say: Say) -> tuple[ToolCall, ...]:
    """The calls the answer makes: those asked for, or one made up when the fault wants a tool call."""
    if say.answer == "tool_call":
        return asked.tool_calls or (ToolCall(name="lookup", arguments='{"key":"example"}'),)
    return asked.tool_calls if say.answer == "text" else ()


_NUMBER: Final = ID.decode()
_HIDDEN: Final = "Thinking it over until the limit came."


# chat completions


def _chat_usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = _output_tokens(asked, say)
    return {
        "prompt_tokens": say.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": say.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": output if say.answer == "length" else 0},
    }


def _chat_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    calls = _calls(asked, say)
    message: dict[str, Any] = {"role": "assistant", "content": " ".join(say.words), "refusal": None}
    reason = "stop"
    if say.empty == "null_content":
        message["content"] = None
    elif say.answer == "refusal":
        message |= {"content": None, "refusal": REFUSAL}
    elif say.answer == "length":
        message["content"], reason = "", "length"
    elif calls:
        message |= {"content": None, "tool_calls": [_chat_call(i, call) for i, call in enumerate(calls)]}
        reason = "tool_calls"
    choice = {"message": message, "finish_reason": reason if say.has_finish else None, "logprobs": None}
    choices = [] if say.empty == "no_choices" else [{"index": i, **choice} for i in range(asked.choices)]
    answer = {**_chat_head(asked, say, "chat.completion"), "choices": choices}
    return answer | ({"usage": _chat_usage(asked, say)} if say.has_usage else {})


def _chat_head(asked: Asked, say: Say, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{say.provider}-{_NUMBER}",
        "object": kind,
        "created": CREATED,
        "model": asked.model,
        "system_fingerprint": say.provider,
    }


def _chat_call(i: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{_NUMBER}_{i}", "type": "function", "function": function}


def _chat_stream(asked: Asked, say: Say) -> Iterator[Event]:
    head = _chat_head(asked, say, "chat.completion.chunk")
    with_usage = asked.include_usage and say.has_usage
    if with_usage:
        head["usage"] = None

    def chunk(kind: Kind, index: int, delta: dict[str, Any], reason: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return Event(kind, _data({**head, "choices": [choice]}))

    each = range(asked.choices)
    if say.empty == "no_choices":
        yield Event("open", _data({**head, "choices": []}))
    elif say.empty != "done":
        yield from (chunk("open", i, {"role": "assistant", "content": "", "refusal": None}) for i in each)
        reason = "stop"
        if say.empty is None:
            deltas, reason = _chat_deltas(asked, say)
            yield from (chunk("word", i, delta) for delta in deltas for i in each)
        if say.has_finish:
            yield from (chunk("finish", i, {}, reason) for i in each)
        if with_usage:
            yield Event("usage", _data({**head, "choices": [], "usage": _chat_usage(asked, say)}))
    yield Event("done", b"data: [DONE]\n\n")


def _chat_deltas(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    calls = _calls(asked, say)
    if say.answer == "refusal":
        return [{"refusal": piece} for piece in _pieces(tuple(REFUSAL.split()))], "stop"
    if say.answer == "length":
        return [], "length"
    if not calls:
        return [{"content": piece} for piece in _pieces(say.words)], "stop"
    deltas: list[dict[str, Any]] = []
    for i, call in enumerate(calls):
        first = _chat_call(i, ToolCall(name=call.name, arguments=""))
        deltas.append({"tool_calls": [{"index": i, **first}]})
        parts = _fragments(call.arguments)
        deltas += [{"tool_calls": [{"index": i, "function": {"arguments": part}}]} for part in parts]
    return deltas, "tool_calls"


# responses


def _responses_usage(asked: Asked, say: Say) -> dict[str, Any]:
    output = _output_tokens(asked, say)
    return {
        "input_tokens": say.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": output if say.answer == "length" else 0},
        "total_tokens": say.prompt_tokens + output,
    }


def _response(asked: Asked, say: Say, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    is_over = status in ("completed", "incomplete")
    return {
        "id": f"resp_{say.provider}_{_NUMBER}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _responses_usage(asked, say) if is_over and say.has_usage else None,
    }


def _responses_items(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty in ("no_choices", "done"):
        return []
    if calls := _calls(asked, say):
        return [
            {
                "type": "function_call",
                "id": f"fc_{_NUMBER}_{i}",
                "call_id": f"call_{_NUMBER}_{i}",
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for i, call in enumerate(calls)
        ]
    if say.answer == "length":
        summary = [{"type": "summary_text", "text": _HIDDEN}]
        return [{"type": "reasoning", "id": f"rs_{_NUMBER}", "summary": summary}]
    part: dict[str, Any] = {"type": "output_text", "text": " ".join(say.words), "annotations": []}
    if say.answer == "refusal":
        part = {"type": "refusal", "refusal": REFUSAL}
    content = [] if say.empty == "null_content" else [part]
    return [{"type": "message", "id": f"msg_{_NUMBER}", "role": "assistant", "status": "completed", "content": content}]


def _responses_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    status = "incomplete" if say.answer == "length" else "completed" if say.has_finish else "in_progress"
    return _response(asked, say, status, _responses_items(asked, say))


def _responses_stream(asked: Asked, say: Say) -> Iterator[Event]:
    sequence = iter(range(1_000_000))

    def event(kind: Kind, name: str, **value: Any) -> Event:
        return _named(kind, name, {**value, "sequence_number": next(sequence)})

    items = _responses_items(asked, say)
    opening = _response(asked, say, "in_progress", [])
    if say.empty != "done":
        yield event("open", "response.created", response=opening)
        yield event("open", "response.in_progress", response=opening)
    for index, item in enumerate(items):
        for kind, name, value in _responses_item_events(item):
            yield event(kind, name, output_index=index, **value)
    last = "incomplete" if say.answer == "length" else "completed"
    if say.has_finish:
        yield event("done", f"response.{last}", response=_response(asked, say, last, items))


_BLANK: Final[Mapping[str, dict[str, Any]]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "reasoning": {"summary": []},
}
"""What an item holds when it is announced."""


def _responses_item_events(item: dict[str, Any]) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """The events of one output item, without their numbers."""
    yield "open", "response.output_item.added", {"item": {**item, "status": "in_progress", **_BLANK[item["type"]]}}
    at: dict[str, Any] = {"item_id": item["id"]}
    if item["type"] == "function_call":
        for fragment in _fragments(item["arguments"]):
            yield "word", "response.function_call_arguments.delta", {**at, "delta": fragment}
        yield "finish", "response.function_call_arguments.done", {**at, "arguments": item["arguments"]}
    elif item["type"] == "reasoning":
        at |= {"summary_index": 0}
        yield "word", "response.reasoning_summary_text.delta", {**at, "delta": _HIDDEN}
        yield "finish", "response.reasoning_summary_text.done", {**at, "text": _HIDDEN}
    for part in item.get("content", []):
        at |= {"content_index": 0}
        name, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        yield "open", "response.content_part.added", {**at, "part": {**part, key: ""}}
        for piece in _pieces(tuple(part[key].split(" "))):
            yield "word", f"response.{name}.delta", {**at, "delta": piece}
        yield "finish", f"response.{name}.done", {**at, key: part[key]}
        yield "finish", "response.content_part.done", {**at, "part": part}
    yield "finish", "response.output_item.done", {"item": item}


# Anthropic messages


def _anthropic_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    blocks, reason = _anthropic_blocks(asked, say)
    return {
        **_anthropic_head(asked, say),
        "content": blocks,
        "stop_reason": reason if say.has_finish else None,
        "stop_sequence": None,
        "stop_details": _stop_details(reason),
        **({"usage": _anthropic_usage(say, _output_tokens(asked, say))} if say.has_usage else {}),
    }


def _stop_details(reason: str) -> dict[str, Any] | None:
    if reason != "refusal":
        return None
    return {"type": "refusal", "category": None, "explanation": None}


def _anthropic_head(asked: Asked, say: Say) -> dict[str, Any]:
    return {"id": f"msg_{say.provider}_{_NUMBER}", "type": "message", "role": "assistant", "model": asked.model}


def _anthropic_usage(say: Say, output: int) -> dict[str, Any]:
    return {
        "input_tokens": say.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
        "service_tier": "standard",
    }


def _anthropic_blocks(asked: Asked, say: Say) -> tuple[list[dict[str, Any]], str]:
    if say.empty in ("no_choices", "done"):
        return [], "end_turn"
    if say.empty == "null_content":
        return [{"type": "text", "text": ""}], "end_turn"
    if say.answer == "refusal":
        return [], "refusal"
    if say.answer == "length":
        return [{"type": "thinking", "thinking": _HIDDEN, "signature": "c2lnbmVk"}], "max_tokens"
    if calls := _calls(asked, say):
        uses = [
            {"type": "tool_use", "id": f"toolu_{_NUMBER}_{i}", "name": c.name, "input": orjson.loads(c.arguments)}
            for i, c in enumerate(calls)
        ]
        return uses, "tool_use"
    return [{"type": "text", "text": " ".join(say.words)}], "end_turn"


def _anthropic_stream(asked: Asked, say: Say) -> Iterator[Event]:
    blocks, reason = _anthropic_blocks(asked, say)
    if say.empty != "done":
        message = {**_anthropic_head(asked, say), "content": [], "stop_reason": None, "stop_sequence": None}
        if say.has_usage:
            message["usage"] = _anthropic_usage(say, 1)
        yield _named("open", "message_start", {"message": message})
        yield _named("open", "ping", {})
        for index, block in enumerate(blocks):
            start, deltas = _anthropic_deltas(block)
            yield _named("open", "content_block_start", {"index": index, "content_block": start})
            yield from (_named("word", "content_block_delta", {"index": index, "delta": delta}) for delta in deltas)
            yield _named("finish", "content_block_stop", {"index": index})
        if say.has_finish:
            delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": _stop_details(reason)}
            usage = {"usage": _anthropic_usage(say, _output_tokens(asked, say))} if say.has_usage else {}
            yield _named("finish", "message_delta", {"delta": delta, **usage})
    yield _named("done", "message_stop", {})


def _anthropic_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The opening block and the deltas that fill it."""
    if block["type"] == "tool_use":
        parts = _fragments(orjson.dumps(block["input"]).decode())
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    pieces = _pieces(tuple(block["text"].split(" "))) if block["text"] else iter(())
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]


# Gemini


def _gemini_usage(asked: Asked, say: Say, output: int) -> dict[str, Any]:
    thoughts = output if say.answer == "length" else 0
    return {
        "promptTokenCount": say.prompt_tokens,
        "candidatesTokenCount": output - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": say.prompt_tokens + output,
    }


def _gemini_chunk(asked: Asked, say: Say, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    chunk: dict[str, Any] = {"candidates": [candidate]}
    if say.answer == "refusal":
        chunk = {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []}}
    elif say.empty == "no_choices":
        chunk = {"candidates": []}
    output = _output_tokens(asked, say) if reason is not None else 1
    usage = {"usageMetadata": _gemini_usage(asked, say, output)} if say.has_usage else {}
    return {**chunk, **usage, "modelVersion": asked.model, "responseId": f"{say.provider}-{_NUMBER}"}


def _gemini_parts(asked: Asked, say: Say) -> list[dict[str, Any]]:
    if say.empty is not None or say.answer in ("refusal", "length"):
        return []
    calls = _calls(asked, say)
    if not calls:
        return [{"text": piece} for piece in _pieces(say.words)]
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": call.name, "args": orjson.loads(call.arguments)}} for call in calls
    ]
    parts[0]["thoughtSignature"] = base64.b64encode(b"signed").decode()
    return parts


def _gemini_reason(say: Say) -> str | None:
    if not say.has_finish:
        return None
    return "MAX_TOKENS" if say.answer == "length" else "STOP"


def _gemini_unary(asked: Asked, say: Say) -> dict[str, Any]:
    if say.empty == "done":
        return {}
    parts = _gemini_parts(asked, say)
    if parts and "text" in parts[0]:
        parts = [{"text": "".join(part["text"] for part in parts)}]
    return _gemini_chunk(asked, say, parts, _gemini_reason(say))


def _gemini_stream(asked: Asked, say: Say) -> Iterator[Event]:
    for part in _gemini_parts(asked, say):
        yield Event("word", _data(_gemini_chunk(asked, say, [part], None)))
    if say.has_finish and say.empty != "done":
        yield Event("finish", _data(_gemini_chunk(asked, say, [], _gemini_reason(say))))


# lists


def _vector(i: int, size: int) -> list[float]:
    """A vector that differs per input and is exact in 32 bits, so that float and base64 agree."""
    return [((i * 31 + k * 7) % 64 - 32) / 64 for k in range(size)]


def _embeddings(asked: Asked, say: Say) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for i in range(asked.inputs):
        vector = _vector(i, asked.dimensions)
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": i, "embedding": packed if asked.is_base64 else vector})
    usage = {"prompt_tokens": say.prompt_tokens, "total_tokens": say.prompt_tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


MODELS: Final[Mapping[Dialect, tuple[str, ...]]] = {
    "openai": ("gpt-4o", "gpt-4o-mini"),
    "anthropic": ("claude-sonnet-5", "claude-haiku-5"),
    "gemini": ("gemini-3-pro", "gemini-3-flash"),
}
"""What a provider lists; it answers for any model name all the same."""


def _models(dialect: Dialect) -> dict[str, Any]:
    names = MODELS[dialect]
    if dialect == "gemini":
        return {"models": [{"name": f"models/{n}", "supportedGenerationMethods": ["generateContent"]} for n in names]}
    if dialect == "anthropic":
        data = [{"id": n, "type": "model", "display_name": n, "created_at": "2026-01-01T00:00:00Z"} for n in names]
        return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {
        "object": "list",
        "data": [{"id": n, "object": "model", "created": CREATED, "owned_by": "demo"} for n in names],
    }


# --- errors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Error:
    """One kind of error in one dialect: `type` is Gemini's status word, `code` Anthropic's `details.error_code`."""

    status: int
    type: str
    code: str | None
    message: str


_OPENAI: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(503, "service_unavailable_error", "server_is_overloaded", "The engine is overloaded."),
    "internal": _Error(500, "server_error", None, "The server had an error while processing your request."),
    "rate_limit": _Error(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "quota": _Error(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "auth": _Error(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "permission": _Error(403, "invalid_request_error", "model_not_allowed", "Project has no access to this model."),
    "model_not_found": _Error(404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "context_length": _Error(
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens.",
    ),
    "content_policy": _Error(
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
    "invalid_request": _Error(400, "invalid_request_error", "invalid_value", "Invalid value for a field."),
    "timeout": _Error(504, "server_error", None, "The upstream model did not answer in time."),
}

_ANTHROPIC: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(529, "overloaded_error", None, "Overloaded"),
    "internal": _Error(500, "api_error", None, "Internal server error"),
    "rate_limit": _Error(429, "rate_limit_error", None, "This request would exceed your rate limit."),
    "quota": _Error(429, "rate_limit_error", "enforced_spend_limit_reached", "You reached your spend limit."),
    "auth": _Error(401, "authentication_error", None, "invalid x-api-key"),
    "permission": _Error(403, "permission_error", None, "Your key may not use this resource."),
    "model_not_found": _Error(404, "not_found_error", None, "model: unknown"),
    "context_length": _Error(400, "invalid_request_error", None, "prompt is too long: 210000 tokens > 200000 maximum"),
    "content_policy": _Error(400, "invalid_request_error", None, "Output blocked by content filtering policy"),
    "invalid_request": _Error(400, "invalid_request_error", None, "Input does not match the expected shape."),
    "timeout": _Error(504, "timeout_error", None, "The request timed out."),
}

_GEMINI: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(503, "UNAVAILABLE", None, "The model is overloaded. Please try again later."),
    "internal": _Error(500, "INTERNAL", None, "An internal error has occurred."),
    "rate_limit": _Error(429, "RESOURCE_EXHAUSTED", "RequestsPerMinutePerProject", "Resource has been exhausted."),
    "quota": _Error(429, "RESOURCE_EXHAUSTED", "RequestsPerDayPerProject", "You exceeded your current quota."),
    "auth": _Error(401, "UNAUTHENTICATED", None, "API key not valid. Please pass a valid API key."),
    "permission": _Error(403, "PERMISSION_DENIED", None, "The caller does not have permission."),
    "model_not_found": _Error(404, "NOT_FOUND", None, "models/unknown is not found."),
    "context_length": _Error(
        400, "INVALID_ARGUMENT", None, "The input token count exceeds the maximum number of tokens allowed."
    ),
    "content_policy": _Error(400, "INVALID_ARGUMENT", None, "The prompt was blocked by content filtering policy."),
    "invalid_request": _Error(400, "INVALID_ARGUMENT", None, "Invalid value at 'contents'."),
    "timeout": _Error(504, "DEADLINE_EXCEEDED", None, "Deadline expired before operation could complete."),
}

_BY_STATUS: Final[Mapping[int, str]] = {
    401: "auth",
    402: "quota",
    403: "permission",
    404: "model_not_found",
    408: "timeout",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    524: "timeout",
    529: "overloaded",
}


def kind_of_status(status: int) -> str:
    """Return the kind of error that a bare status stands for."""
    return _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")


def family(api: Api, dialect: Dialect) -> Dialect:
    """Return whose errors an API speaks; `dialect` decides for paths that are nobody's own."""
    if api == "anthropic":
        return "anthropic"
    if api in ("gemini", "gemini_embeddings"):
        return "gemini"
    return "openai" if api in ("chat", "responses", "embeddings") else dialect


def error_status(dialect: Dialect, kind: str) -> int:
    """Return the status that comes with an error of this kind."""
    return _TABLES[dialect][kind].status


_TABLES: Final[Mapping[Dialect, Mapping[str, _Error]]] = {
    "openai": _OPENAI,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
}


def error(
    dialect: Dialect, kind: str, *, status: int | None = None, code: str | None = None, message: str | None = None
) -> dict[str, Any]:
    """Return the body of an error; `code` and `message` take the place of the usual ones, `status` is Gemini's code."""
    entry = _TABLES[dialect][kind]
    text = message if message is not None else entry.message
    if dialect == "openai":
        return {"error": {"message": text, "type": entry.type, "param": None, "code": code or entry.code}}
    if dialect == "anthropic":
        inner: dict[str, Any] = {"type": entry.type, "message": text}
        if details := code or entry.code:
            inner["details"] = {"error_code": details}
        return {"type": "error", "error": inner, "request_id": f"req_{_NUMBER}"}
    answer: dict[str, Any] = {"code": status or entry.status, "message": text, "status": code or entry.type}
    if entry.code is not None:
        violation = {"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": entry.code}
        failure = "type.googleapis.com/google.rpc.QuotaFailure"
        answer["details"] = [{"@type": failure, "violations": [violation]}]
    return {"error": answer}


def error_event(api: Api, kind: str, *, code: str | None, message: str | None, is_bare: bool) -> bytes:
    """Return an error inside a stream, as that API sends it; `is_bare`: the JSON alone, which is no event at all."""
    dialect = family(api, "openai")
    body = error(dialect, kind, code=code, message=message)
    if is_bare:
        return orjson.dumps(body) + b"\n"
    if api == "anthropic":
        return b"event: error\n" + _data(body)
    if api == "responses":
        inner = body["error"]
        value = {"code": inner["code"] or inner["type"], "message": inner["message"]}
        failed = {"id": f"resp_{_NUMBER}", "object": "response", "status": "failed", "error": value, "output": []}
        # The numbers are made up: what follows an error is not a proper stream anyway.
        first = _named("done", "error", {**value, "param": None, "sequence_number": 1_000})
        second = _named("done", "response.failed", {"response": failed, "sequence_number": 1_001})
        return first.data + second.data
    return _data(body)


def preamble(api: Api, kind: str, asked: Asked, say: Say, pad_bytes: int = 0) -> bytes:
    """Return one event that carries no content; where a dialect has none of that kind, a comment."""
    pad = "." * pad_bytes
    opening = {event.kind: event.data for event in reversed(stream(asked, say))}.get("open")
    if kind == "ping" and api == "anthropic":
        return b"event: ping\n" + _data({"type": "ping", **({"padding": pad} if pad else {})})
    if kind == "empty" and api == "chat":
        head = _chat_head(asked, say, "chat.completion.chunk")
        return _data({**head, "choices": [], **({"obfuscation": pad} if pad else {})})
    if kind == "created" and api == "responses":
        response = _response(asked, say, "in_progress", [])
        name = "response.in_progress"
        return _named("open", name, {"response": response, "sequence_number": 0, "padding": pad}).data
    if kind == "role" and api == "chat" and opening is not None:
        return padded(opening, pad_bytes)
    return f": {kind}{pad}\n\n".encode()


def padded(event: bytes, size: int) -> bytes:
    """Return an event with `size` bytes of meaningless text in a field of its own; its meaning stays."""
    if not size or not event.endswith(b"}\n\n"):
        return event
    return event[:-3] + b',"obfuscation":"' + b"." * size + b'"}\n\n'


def html(size: int) -> bytes:
    """Return an HTML page of exactly `size` bytes (at least the bare skeleton)."""
    head = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><h1>Scheduled maintenance</h1><p>"
    tail = b"</p></body></html>\n"
    return head + b"x" * max(0, size - len(head) - len(tail)) + tail
