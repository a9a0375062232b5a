"""What a request asks for, read straight from its JSON: the yardstick of the translation of requests.

Everything is brought into one form in which only meaning is left: a list of steps, each one side's words, calls,
results and pictures, neighbours of one side taken together, white space forgotten (joining texts adds some).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from tests.conformance.score.oracle import parse

Json = dict[str, Any]
MISSING = "no result"
"""Begins what stands for a result that the caller never gave."""


@dataclass(slots=True)
class Step:
    side: str
    """``user`` or ``assistant``; system words in mid-conversation are the user's, for not every dialect has them."""
    words: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """id, name, arguments."""
    results: list[tuple[str, Any, bool]] = field(default_factory=list)
    """id (or the name, where there is none), content, whether it is an error."""
    media: list[str] = field(default_factory=list)
    """Prints of pictures and files, also of those inside results."""


@dataclass(slots=True)
class Plea:
    system: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    tools: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Name -> description, shape of its parameters."""
    server_tools: list[str] = field(default_factory=list)
    choice: tuple[str, ...] = ("auto",)
    parallel: bool = True
    limit: int | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    """temperature, top_p, top_k, presence, frequency, seed."""
    stop: list[str] = field(default_factory=list)
    format: tuple[Any, ...] | None = None
    reasoning: tuple[Any, ...] | None = None
    unread: set[str] = field(default_factory=set)
    """Members that are none of the above."""

    def step(self, side: str) -> Step:
        """The step that is being spoken: the last one, if it is of this side."""
        if not self.steps or self.steps[-1].side != side:
            self.steps.append(Step(side))
        return self.steps[-1]


def plea(api: str, body: Json) -> Plea:
    return _READERS[api](body)


# Common pieces --------------------------------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    """Without white space, and without the marks that some dialects put around system words."""
    return re.sub(r"\s+", "", re.sub(r"</?system>", "", text))


def value_of(content: Any) -> Any:
    """A tool's result as a value: JSON where it is JSON, without the envelope that Gemini demands."""
    if isinstance(content, str):
        text = content.strip()
        text = re.sub(r"^Error: |\s*\((?:image|file): see the next message\)", "", text)
        try:
            content = json.loads(text) if text[:1] in "{[" and text else text
        except ValueError:
            content = text
    while (
        isinstance(content, dict) and len(content) == 1 and next(iter(content)) in ("output", "error", "result", "_raw")
    ):
        content = value_of(next(iter(content.values())))
    return squeezed(content) if isinstance(content, str) else content


def print_of(data: str) -> str:
    """A short name for a base64 text, whatever its alphabet and padding."""
    plain = re.sub(r"\s", "", data).replace("-", "+").replace("_", "/").rstrip("=")
    return hashlib.sha1(plain.encode()).hexdigest()[:12]


_NUMBERED = {"1": "string", "2": "number", "3": "integer", "4": "boolean", "5": "array", "6": "object"}
"""Types by their number in Google's enumeration."""


def shape(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """What a JSON Schema demands in the terms that every dialect has: types, members, which are needed, choices."""
    if not isinstance(schema, dict) or depth > 12:
        return "any"
    root = schema if root is None else root
    if isinstance(ref := schema.get("$ref"), str):
        target: Any = root
        for step in ref.removeprefix("#/").split("/"):
            target = target.get(step, {}) if isinstance(target, dict) else {}
        return shape(
            {**target, **{key: each for key, each in schema.items() if key != "$ref" and each}}, root, depth + 1
        )
    kind = schema.get("type")
    kinds = sorted(
        {_NUMBERED.get(str(each), str(each)).lower() for each in (kind if isinstance(kind, list) else [kind]) if each}
        - {"null"}
    )
    found: Json = {}
    if kinds:
        found["type"] = kinds
    members = schema.get("properties")
    if isinstance(members, dict) and members:
        found["type"] = ["object"]
        found["members"] = {name: shape(each, root, depth + 1) for name, each in members.items()}
        needed = [name for name in schema.get("required") or [] if name in members]
        found["needed"] = sorted(needed)
    if isinstance(items := schema.get("items"), dict) and items:
        found["items"] = shape(items, root, depth + 1)
    options = schema.get("anyOf") or schema.get("oneOf") or schema.get("any_of")
    if isinstance(options, list):
        inner = [shape(each, root, depth + 1) for each in options if each.get("type") not in ("null", "NULL")]
        if len(inner) == 1 and isinstance(inner[0], dict):
            found = {**inner[0], **found}
        else:
            found["options"] = sorted(inner, key=lambda each: json.dumps(each, sort_keys=True, default=str))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        found["values"] = sorted(
            {json.dumps(each) if not isinstance(each, str) else each for each in values if each is not None}
        )
    if found == {"type": ["object"]}:
        return "any"
    return found or "any"


def _take(out: Plea, body: Json, names: dict[str, str]) -> None:
    for theirs, ours in names.items():
        if body.get(theirs) is not None:
            out.numbers[ours] = body[theirs]


def _unread(body: Json, known: str) -> set[str]:
    nothing = (None, [], {}, "", False)
    said = {key for key, value in body.items() if key not in known.split() and value not in nothing}
    return said - ({"n"} if body.get("n") == 1 else set())


# Chat -----------------------------------------------------------------------------------------------------------------


def of_chat(body: Json) -> Plea:
    out = Plea()
    leading = True
    for message in body.get("messages") or []:
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer"):
            texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content or []]
            if leading:
                out.system.extend(texts)
            else:
                out.step("user").words.extend(texts)
            continue
        leading = False
        if role == "user":
            if message.get("name"):
                out.step("user").words.append(f"{message['name']}: ")
            _chat_parts(out.step("user"), content)
        elif role == "assistant":
            step = out.step("assistant")
            _chat_parts(step, content)
            if message.get("refusal"):
                step.words.append(message["refusal"])
            for call in message.get("tool_calls") or []:
                inner = call.get("custom") or call.get("function") or {}
                told = inner.get("input") if call.get("custom") else parse(inner.get("arguments"))
                step.calls.append((call.get("id") or "", inner.get("name") or "", told))
            if old := message.get("function_call"):
                step.calls.append((old.get("name") or "", old.get("name") or "", parse(old.get("arguments"))))
        elif role in ("tool", "function"):
            texts = content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or [])
            step = out.step("user")
            step.results.append(
                (message.get("tool_call_id") or message.get("name") or "", value_of(texts), _is_error(texts))
            )
            if isinstance(content, list):
                step.media.extend(_chat_media(content))
    for tool in body.get("tools") or []:
        inner = tool.get("function") or tool.get("custom") or {}
        if tool.get("type") == "custom":
            out.tools[inner["name"]] = (inner.get("description") or "", "text")
        elif tool.get("type") == "function" or tool.get("function"):
            out.tools[inner["name"]] = (inner.get("description") or "", shape(inner.get("parameters")))
        else:
            out.server_tools.append(str(tool.get("type")))
    for old in (body.get("functions") or []) if not out.tools else []:
        out.tools[old["name"]] = (old.get("description") or "", shape(old.get("parameters")))
    _openai_choice(out, body.get("tool_choice", body.get("function_call")))
    out.parallel = body.get("parallel_tool_calls") is not False
    limit = body.get("max_completion_tokens")
    out.limit = limit if limit is not None else body.get("max_tokens")
    _openai_numbers(out, body)
    stop = body.get("stop")
    out.stop = [stop] if isinstance(stop, str) else list(stop or [])
    form = body.get("response_format") or {}
    if form.get("type") == "json_object":
        out.format = ("object",)
    elif form.get("type") == "json_schema":
        inner = form.get("json_schema") or {}
        out.format = ("schema", shape(inner.get("schema", inner if "properties" in inner else form.get("schema"))))
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        out.reasoning = ("effort", effort)
    elif isinstance(body.get("thinking"), dict):
        out.reasoning = _claude_reasoning(body["thinking"], None)
    elif body.get("enable_thinking") is False:
        out.reasoning = ("disabled",)
    out.unread = _unread(
        body,
        "model messages tools functions tool_choice function_call parallel_tool_calls max_tokens max_completion_tokens "
        "temperature top_p top_k presence_penalty frequency_penalty seed random_seed stop response_format "
        "reasoning_effort reasoning thinking enable_thinking stream stream_options",
    )
    return out


def _is_error(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("Error: ")


def _openai_numbers(out: Plea, body: Json) -> None:
    _take(out, body, OPENAI_NUMBERS)


OPENAI_NUMBERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "random_seed": "seed",
    "presence_penalty": "presence",
    "frequency_penalty": "frequency",
}


def _openai_choice(out: Plea, choice: Any) -> None:
    if isinstance(choice, str):
        out.choice = ("required" if choice == "any" else choice,)
    elif isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            inner = choice.get("allowed_tools") or choice
            found = [(each.get("function") or each.get("custom") or each).get("name") for each in inner["tools"]]
            names = sorted(name for name in found if name)
            out.choice = (inner.get("mode", "auto"), *names)
        elif choice.get("mode") == "auto":
            out.choice = ("auto",)
        else:
            name = (choice.get("function") or choice.get("custom") or choice).get("name")
            out.choice = ("named", name) if name else ("server", str(choice.get("type")))


def _chat_parts(step: Step, content: Any) -> None:
    if isinstance(content, str):
        step.words.append(content)
        return
    for part in content or []:
        if part.get("type") in ("text", "input_text", "output_text"):
            step.words.append(part.get("text") or "")
        elif part.get("type") == "refusal":
            step.words.append(part.get("refusal") or "")
        elif words := _text_file(part):
            step.words.append(words)
    step.media.extend(_chat_media(content or []))


def _text_file(part: Json) -> str:
    """What a file of plain text says; empty: it is none."""
    url = (part.get("file") or part).get("file_data") or ""
    head, _, data = url.partition(",")
    return _words_in(data) if head.startswith("data:text/") and head.endswith(";base64") else ""


def _words_in(data: str) -> str:
    return base64.b64decode(data + "=" * (-len(data) % 4)).decode("utf-8", "replace")


def _chat_media(parts: list[Json]) -> Iterator[str]:
    for part in parts:
        kind = part.get("type")
        if kind in ("image_url", "input_image"):
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            yield _address(url) if url else f"file:{part.get('file_id')}"
        elif kind == "input_audio":
            sound = part["input_audio"]
            yield print_of(sound if isinstance(sound, str) else sound["data"])
        elif kind in ("file", "input_file"):
            inner = part.get("file") or part
            if _text_file(part):
                continue
            if inner.get("file_data"):
                yield _address(inner["file_data"])
            elif inner.get("file_url"):
                yield inner["file_url"]
            else:
                yield f"file:{inner.get('file_id')}"
        elif kind in ("video_url", "audio_url", "document_url", "file_url"):
            yield _address(part[kind]["url"] if isinstance(part[kind], dict) else part[kind])


def _address(url: str) -> str:
    """A data: URL by its bytes, any other as it is."""
    if not url.startswith("data:"):
        return url if "://" in url else print_of(url)
    head, _, data = url.partition(",")
    if ";base64" in head:
        return print_of(data)
    return print_of(base64.b64encode(unquote_to_bytes(data)).decode())


# Responses ------------------------------------------------------------------------------------------------------------


def of_responses(body: Json) -> Plea:
    out = Plea()
    if body.get("instructions"):
        out.system.append(body["instructions"])
    leading = True
    items = body.get("input")
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items or []:
        kind, role = item.get("type") or "message", item.get("role")
        if kind == "message" and role in ("system", "developer"):
            content = item.get("content")
            texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content or []]
            if leading:
                out.system.extend(texts)
            else:
                out.step("user").words.extend(texts)
            continue
        leading = False
        if kind == "message":
            _chat_parts(out.step("assistant" if role == "assistant" else "user"), item.get("content"))
        elif kind == "function_call":
            out.step("assistant").calls.append((item["call_id"], item["name"], parse(item.get("arguments"))))
        elif kind == "custom_tool_call":
            out.step("assistant").calls.append((item["call_id"], item["name"], item.get("input") or ""))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            told = item.get("output")
            step = out.step("user")
            texts = told if isinstance(told, str) else "".join(part.get("text") or "" for part in told or [])
            step.results.append((item["call_id"], value_of(texts), _is_error(texts)))
            if isinstance(told, list):
                step.media.extend(_chat_media(told))
    for tool in body.get("tools") or []:
        if tool.get("type") == "function":
            inner = {**(tool.get("function") or {}), **tool}  # some callers write it as for chat, and are understood
            out.tools[inner["name"]] = (inner.get("description") or "", shape(inner.get("parameters")))
        elif tool.get("type") == "custom":
            out.tools[tool["name"]] = (tool.get("description") or "", "text")
        else:
            out.server_tools.append(str(tool.get("type")))
    _openai_choice(out, body.get("tool_choice"))
    out.parallel = body.get("parallel_tool_calls") is not False
    out.limit = body.get("max_output_tokens")
    _openai_numbers(out, body)
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_object":
        out.format = ("object",)
    elif form.get("type") == "json_schema":
        out.format = ("schema", shape(form.get("schema")))
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        out.reasoning = ("effort", effort)
    out.unread = _unread(
        body,
        "model input instructions tools tool_choice parallel_tool_calls max_output_tokens temperature top_p text "
        "reasoning stream stream_options",
    )
    return out


# Messages -------------------------------------------------------------------------------------------------------------


def of_messages(body: Json) -> Plea:
    out = Plea()
    system = body.get("system")
    out.system = [system] if isinstance(system, str) else [block.get("text") or "" for block in system or []]
    for message in body.get("messages") or []:
        content = message.get("content")
        step = out.step("assistant" if message.get("role") == "assistant" else "user")
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            _messages_block(step, block)
    for tool in body.get("tools") or []:
        if "input_schema" in tool or tool.get("type") == "custom":
            out.tools[tool["name"]] = (tool.get("description") or "", shape(tool.get("input_schema")))
        else:
            out.server_tools.append(str(tool.get("type")))
    choice = body.get("tool_choice") or {}
    word = {"any": "required", "tool": "named"}.get(choice.get("type"), choice.get("type") or "auto")
    out.choice = ("named", choice["name"]) if word == "named" else (word,)
    out.parallel = choice.get("disable_parallel_tool_use") is not True
    out.limit = body.get("max_tokens")
    _take(out, body, {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"})
    out.stop = list(body.get("stop_sequences") or [])
    config = body.get("output_config") or {}
    form = config.get("format") or body.get("output_format")
    if form:
        out.format = ("schema", shape(form.get("schema")))
    thinking = body.get("thinking") or {}
    out.reasoning = _claude_reasoning(thinking, config.get("effort"))
    out.unread = _unread(
        body,
        "model messages system tools tool_choice max_tokens temperature top_p top_k stop_sequences output_config "
        "output_format thinking stream anthropic_version",
    )
    return out


def _claude_reasoning(thinking: Any, effort: Any) -> tuple[Any, ...] | None:
    if not isinstance(thinking, dict):
        return ("effort", thinking)
    if thinking.get("type") == "enabled":
        return ("budget", thinking.get("budget_tokens"))
    if effort is not None and thinking.get("type") != "disabled":
        return ("effort", effort)
    return (thinking["type"],) if thinking.get("type") else None


def _messages_block(step: Step, block: Json) -> None:
    kind = block.get("type")
    if kind == "text":
        step.words.append(block.get("text") or "")
    elif kind in ("image", "document"):
        source = block.get("source") or {}
        how = source.get("type")
        if how == "base64" and source.get("media_type", "").startswith("text/"):
            step.words.append(_words_in(source["data"]))
        elif how == "base64":
            step.media.append(print_of(source["data"]))
        elif how == "url":
            step.media.append(source["url"])
        elif how == "text":
            step.words.append(source.get("data") or "")
        elif how == "content":
            inner = source.get("content")
            for each in [{"type": "text", "text": inner}] if isinstance(inner, str) else inner or []:
                _messages_block(step, each)
        else:
            step.media.append(f"file:{source.get('file_id')}")
    elif kind == "tool_use":
        step.calls.append((block.get("id") or "", block.get("name") or "", parse(block.get("input"))))
    elif kind == "tool_result":
        content = block.get("content")
        texts, inner_step = content or "", Step("user")
        if isinstance(content, list):
            texts = "".join(each.get("text") or "" for each in content if each.get("type") == "text")
            for each in content:
                if each.get("type") != "text":
                    _messages_block(inner_step, each)
        step.results.append((block.get("tool_use_id") or "", value_of(texts), block.get("is_error") is True))
        step.media.extend(inner_step.media)
        step.words.extend(inner_step.words)


# Gemini ---------------------------------------------------------------------------------------------------------------


def _camel(value: Any) -> Any:
    """Members in camelCase; both spellings are valid on input. What belongs to the caller stays."""
    if isinstance(value, list):
        return [_camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    own = ("args", "response", "parametersJsonSchema", "responseJsonSchema", "properties", "labels")
    out = {}
    for key, each in value.items():
        name = re.sub(r"_([a-z])", lambda m: m[1].upper(), key)
        out[name] = each if name in own else _camel(each)
    return out


def of_generate(body: Json) -> Plea:
    out = Plea()
    body = _camel(body)
    system = body.get("systemInstruction")
    if isinstance(system, str):
        out.system = [system]
    elif system:
        parts = system.get("parts") or []
        out.system = [part.get("text") or "" for part in (parts if isinstance(parts, list) else [parts])]
    contents = body.get("contents") or []
    for content in contents if isinstance(contents, list) else [contents]:
        step = out.step("assistant" if content.get("role") == "model" else "user")
        for part in content.get("parts") or []:
            _generate_part(step, part)
    for tool in body.get("tools") or []:
        for told in tool.get("functionDeclarations") or []:
            schema = told.get("parametersJsonSchema") or told.get("parameters")
            out.tools[told["name"]] = (told.get("description") or "", shape(schema))
        out.server_tools.extend(key for key in tool if key != "functionDeclarations")
    config = ((body.get("toolConfig") or {}).get("functionCallingConfig")) or {}
    mode = {"ANY": "required", "NONE": "none", "VALIDATED": "auto"}.get(config.get("mode", "").upper(), "auto")
    names = config.get("allowedFunctionNames") or []
    out.choice = ("named", names[0]) if mode == "required" and len(names) == 1 else (mode, *sorted(names))
    settings = body.get("generationConfig") or {}
    out.limit = settings.get("maxOutputTokens")
    _take(out, settings, {"temperature": "temperature", "topP": "top_p", "topK": "top_k", "seed": "seed",
                          "presencePenalty": "presence", "frequencyPenalty": "frequency"})  # fmt: skip
    out.stop = list(settings.get("stopSequences") or [])
    schema = settings.get("responseJsonSchema", settings.get("responseSchema"))
    if schema is not None:
        out.format = ("schema", shape(schema))
    elif settings.get("responseMimeType") == "application/json":
        out.format = ("object",)
    thinking = settings.get("thinkingConfig") or {}
    if thinking.get("thinkingLevel"):
        out.reasoning = ("effort", thinking["thinkingLevel"].lower())
    elif thinking.get("thinkingBudget") is not None:
        out.reasoning = ("budget", thinking["thinkingBudget"])
    out.unread = _unread(body, "contents systemInstruction tools toolConfig generationConfig") | _unread(
        settings,
        "maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty stopSequences responseJsonSchema "
        "responseSchema responseMimeType thinkingConfig",
    )
    return out


def _generate_part(step: Step, part: Json) -> None:
    if part.get("thought"):
        return
    if isinstance(part.get("text"), str):
        step.words.append(part["text"])
    elif "inlineData" in part and part["inlineData"].get("mimeType", "").startswith("text/"):
        step.words.append(_words_in(part["inlineData"]["data"]))
    elif "inlineData" in part:
        step.media.append(print_of(part["inlineData"]["data"]))
    elif "fileData" in part:
        step.media.append(part["fileData"]["fileUri"])
    elif "functionCall" in part:
        call = part["functionCall"]
        step.calls.append((call.get("id") or "", call.get("name") or "", call.get("args") or {}))
    elif "functionResponse" in part:
        answer = part["functionResponse"]
        told = answer.get("response")
        is_error = isinstance(told, dict) and set(told) == {"error"}
        step.results.append((answer.get("id") or f"={answer.get('name')}", value_of(told), is_error))
        for inner in answer.get("parts") or []:
            _generate_part(step, inner)


# Converse -------------------------------------------------------------------------------------------------------------


def of_converse(body: Json) -> Plea:
    out = Plea()
    out.system = [block["text"] for block in body.get("system") or [] if "text" in block]
    for message in body.get("messages") or []:
        step = out.step("assistant" if message.get("role") == "assistant" else "user")
        for block in message.get("content") or []:
            _converse_block(step, block)
    config = body.get("toolConfig") or {}
    for tool in config.get("tools") or []:
        if "toolSpec" in tool:
            spec = tool["toolSpec"]
            out.tools[spec["name"]] = (
                spec.get("description") or "",
                shape((spec.get("inputSchema") or {}).get("json")),
            )
        elif "systemTool" in tool:
            out.server_tools.append(tool["systemTool"].get("name") or "")
    choice = config.get("toolChoice") or {}
    if "any" in choice:
        out.choice = ("required",)
    elif "tool" in choice:
        out.choice = ("named", choice["tool"]["name"])
    settings = body.get("inferenceConfig") or {}
    out.limit = settings.get("maxTokens")
    _take(out, settings, {"temperature": "temperature", "topP": "top_p"})
    out.stop = list(settings.get("stopSequences") or [])
    more = body.get("additionalModelRequestFields") or {}
    _take(out, more, {"top_k": "top_k"})
    _take(out, more.get("inferenceConfig") or {}, {"topK": "top_k"})
    if isinstance(claude := more.get("tool_choice"), dict):
        out.parallel = claude.get("disable_parallel_tool_use") is not True
    form = (body.get("outputConfig") or {}).get("textFormat")
    if form:
        schema = ((form.get("structure") or {}).get("jsonSchema") or {}).get("schema")
        out.format = ("schema", shape(json.loads(schema) if isinstance(schema, str) else schema))
    effort = (more.get("output_config") or {}).get("effort") or more.get("reasoning_effort")
    out.reasoning = _claude_reasoning(more.get("thinking") or more.get("reasoning_config") or {}, effort)
    if "reasoningConfig" in more:
        told = more["reasoningConfig"]
        out.reasoning = ("effort", told.get("maxReasoningEffort")) if told.get("type") == "enabled" else ("disabled",)
    out.unread = _unread(body, "messages system toolConfig inferenceConfig outputConfig additionalModelRequestFields")
    out.unread |= _unread(
        more, "top_k thinking reasoning_config output_config reasoning_effort reasoningConfig inferenceConfig"
    )
    return out


def _converse_block(step: Step, block: Json) -> None:
    if "text" in block:
        step.words.append(block["text"])
    elif "image" in block or "document" in block or "video" in block or "audio" in block:
        inner = next(block[key] for key in ("image", "document", "video", "audio") if key in block)
        source = inner.get("source") or {}
        if "bytes" in source and inner.get("format") in ("txt", "md", "html", "csv"):
            step.words.append(_words_in(source["bytes"]))
        elif "bytes" in source:
            step.media.append(print_of(source["bytes"]))
        elif "s3Location" in source:
            step.media.append(source["s3Location"].get("uri") or "")
        elif "text" in source:
            step.words.append(source["text"])
        elif "content" in source:
            step.words.extend(each.get("text") or "" for each in source["content"])
    elif "toolUse" in block:
        use = block["toolUse"]
        step.calls.append((use.get("toolUseId") or "", use.get("name") or "", parse(use.get("input"))))
    elif "toolResult" in block:
        result = block["toolResult"]
        content = result.get("content") or []
        texts: Any = "".join(each.get("text") or "" for each in content if "text" in each)
        values = [each["json"] for each in content if "json" in each]
        told = values[0] if len(values) == 1 and not texts else texts + "".join(json.dumps(each) for each in values)
        step.results.append((result.get("toolUseId") or "", value_of(told), result.get("status") == "error"))
        for each in content:
            if "image" in each or "document" in each:
                _converse_block(step, each)


_READERS: dict[str, Callable[[Json], Plea]] = {
    "chat": of_chat,
    "responses": of_responses,
    "messages": of_messages,
    "invoke": of_messages,
    "generate": of_generate,
    "converse": of_converse,
}
