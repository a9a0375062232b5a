"""Requests of every dialect read for what they mean, straight from their JSON (`providers.md` 1)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.conformance.score.meant import Json, Meant, plain, properties, url
from tests.conformance.score.oracle import parse


def meaning(api: str, body: Json) -> Meant:
    """What a request of a wire API means."""
    return _READERS[api](body)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _wanted(schema: Any) -> set[str] | None:
    return properties(schema) if schema else None


def _limit(value: Any) -> int | None:
    """A limit that any provider would take."""
    return value if isinstance(value, int) and value > 0 else None


def _stops(value: Any) -> list[str]:
    return [each for each in _list(value) if isinstance(each, str)]


# Chat -----------------------------------------------------------------------------------------------------------------


def of_chat(body: Json) -> Meant:
    out = Meant(
        limit=_limit(body.get("max_completion_tokens") or body.get("max_tokens")), stop=_stops(body.get("stop"))
    )
    for message in body["messages"]:
        role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
        if role == "tool":
            call_id = message.get("tool_call_id") or _last_of(out, message.get("name"))
            out.results.append((call_id, _chat_content(out, None, message.get("content"))))
            continue
        _chat_content(out, role, message.get("content"))
        out.say(role, message.get("refusal"))
        for call in message.get("tool_calls") or []:
            inner = call.get("custom") or call["function"]
            told = inner["input"] if "input" in inner else parse(inner.get("arguments"))
            out.calls.append((call.get("id") or "", inner["name"], told))
        old = message.get("function_call")
        if old:
            out.calls.append((f"old#{len(out.calls)}", old["name"], parse(old.get("arguments"))))
    for tool in _list(body.get("tools")) or [{"function": each} for each in _list(body.get("functions"))]:
        _chat_tool(out, tool)
    out.choice = _openai_choice(body.get("tool_choice", body.get("function_call")))
    out.allowed = _openai_allowed(body.get("tool_choice"))
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        inner = form.get("json_schema") or {}
        out.schema = _wanted(inner.get("schema", inner if "properties" in inner else form.get("schema")))
    return out


def _last_of(out: Meant, name: Any) -> str:
    """The id of the last call of a tool, for results of the old form, which name the tool alone."""
    return next((call_id for call_id, called, _ in reversed(out.calls) if called == name), "")


def _chat_content(out: Meant, role: str | None, content: Any) -> str:
    """Takes note of a message's parts; returns its text. `role` None: a tool's result."""
    texts: list[str] = []
    for part in [content] if isinstance(content, str) else _list(content):
        kind = "text" if isinstance(part, str) else part.get("type") or "text"
        if kind in ("text", "refusal"):
            texts.append(part if isinstance(part, str) else part.get("text") or part.get("refusal") or "")
        elif kind == "image_url":
            stated = part["image_url"]
            out.images[url(stated if isinstance(stated, str) else stated["url"])] += 1
        elif kind == "input_audio":
            held = part["input_audio"]
            out.files.append(plain(held if isinstance(held, str) else held["data"]))
        elif kind in ("file", "video_url", "audio_url", "document_url", "file_url"):
            stated = part[kind] if isinstance(part[kind], dict) else {"url": part[kind]}
            found = stated.get("file_data") or stated.get("url")
            out.files.append(url(found)) if found else out.hosted.append("file_id")
        elif kind != "thinking":
            out.hosted.append(kind)
    if role is not None:
        for text in texts:
            out.say(role, text)
    return "".join(texts)


def _chat_tool(out: Meant, tool: Json) -> None:
    kind = tool.get("type") or "function"
    inner = tool.get(kind) or tool
    if kind in ("function", "custom"):
        out.tools[inner["name"]] = (inner.get("description") or "", properties(inner.get("parameters")))
    else:
        out.hosted.append(kind)


def _openai_choice(choice: Any) -> str:
    if isinstance(choice, dict):
        inner = choice.get("function") or choice.get("custom") or choice
        if choice.get("type") == "allowed_tools":
            return str((choice.get("allowed_tools") or choice).get("mode", "auto"))
        return f"={inner['name']}" if "name" in inner else "auto"
    return {"any": "required", None: "auto"}.get(choice, str(choice))


def _openai_allowed(choice: Any) -> frozenset[str]:
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return frozenset()
    listed = (choice.get("allowed_tools") or choice).get("tools") or []
    names = ((each.get("function") or each.get("custom") or each).get("name") for each in listed)
    return frozenset(name for name in names if name)


# Responses ------------------------------------------------------------------------------------------------------------


def of_responses(body: Json) -> Meant:
    out = Meant(limit=body.get("max_output_tokens"))
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        out.say("system", instructions)
    items = body.get("input")
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else _list(items):
        _responses_item(out, item)
    for tool in _list(body.get("tools")):
        if tool.get("type", "function") in ("function", "custom"):
            inner = tool.get("function") or tool  # some servers take chat's form as well
            fields = properties(inner.get("parameters") or tool.get("parameters"))
            out.tools[tool.get("name") or inner["name"]] = (
                tool.get("description") or inner.get("description") or "",
                fields,
            )
        else:
            out.hosted.append(str(tool.get("type")))
    out.choice = _openai_choice(body.get("tool_choice"))
    out.allowed = _openai_allowed(body.get("tool_choice"))
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        out.schema = _wanted(form.get("schema"))
    out.hosted += [key for key in ("previous_response_id", "conversation", "prompt") if body.get(key)]
    return out


def _responses_item(out: Meant, item: Json) -> None:
    kind = item.get("type") or "message"
    if kind == "message":
        role = {"developer": "system"}.get(item["role"], item["role"])
        _responses_content(out, role, item.get("content"))
    elif kind == "function_call":
        out.calls.append((item.get("call_id") or "", item["name"], parse(item.get("arguments"))))
    elif kind == "custom_tool_call":
        out.calls.append((item.get("call_id") or "", item["name"], item.get("input") or ""))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        out.results.append((item.get("call_id") or "", _responses_content(out, None, item.get("output"))))
    elif kind != "reasoning":
        out.hosted.append(kind)


def _responses_content(out: Meant, role: str | None, content: Any) -> str:
    texts = []
    for part in [content] if isinstance(content, str) else _list(content):
        kind = "text" if isinstance(part, str) else part.get("type") or "text"
        if kind in ("text", "input_text", "output_text", "refusal"):
            texts.append(part if isinstance(part, str) else part.get("text") or part.get("refusal") or "")
        elif kind == "input_image" and part.get("image_url"):
            out.images[url(part["image_url"])] += 1
        elif kind == "input_audio":
            out.files.append(plain(part["input_audio"]["data"]))
        elif kind == "input_file" and (part.get("file_data") or part.get("file_url")):
            out.files.append(url(part.get("file_data") or part["file_url"]))
        else:
            out.hosted.append("file_id" if part.get("file_id") else kind)
    if role is not None:
        for text in texts:
            out.say(role, text)
    return "".join(texts)


# Messages -------------------------------------------------------------------------------------------------------------


def of_messages(body: Json) -> Meant:
    out = Meant(limit=body.get("max_tokens"), stop=_stops(body.get("stop_sequences")))
    _messages_content(out, "system", body.get("system"))
    for message in body["messages"]:
        _messages_content(out, message["role"], message["content"])
    for tool in _list(body.get("tools")):
        if tool.get("type") in (None, "custom"):
            out.tools[tool["name"]] = (tool.get("description") or "", properties(tool.get("input_schema")))
        else:
            out.hosted.append(tool["type"])
    choice = body.get("tool_choice") or {}
    mode = choice.get("type", "auto")
    out.choice = f"={choice['name']}" if "name" in choice else "required" if mode == "any" else mode
    form = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    if form.get("type") == "json_schema":
        out.schema = _wanted(form["schema"])
    out.hosted += [key for key in ("container", "mcp_servers") if body.get(key)]
    return out


def _messages_content(out: Meant, role: str | None, content: Any) -> str:
    texts = []
    for block in [content] if isinstance(content, str) else _list(content):
        kind = "text" if isinstance(block, str) else block["type"]
        if kind == "text":
            texts.append(block if isinstance(block, str) else block["text"])
        elif kind in ("image", "document"):
            _messages_source(out, kind, block["source"])
        elif kind == "tool_use":
            out.calls.append((block["id"], block["name"], parse(block.get("input"))))
        elif kind == "tool_result":
            out.results.append((block["tool_use_id"], _messages_content(out, None, block.get("content"))))
        elif kind not in ("thinking", "redacted_thinking"):
            out.hosted.append(kind)
    if role is not None:
        for text in texts:
            out.say(role, text)
    return "".join(texts)


def _messages_source(out: Meant, kind: str, source: Json) -> None:
    if source["type"] == "content":
        _messages_content(out, "user", source["content"])
        return
    found = plain(source["data"]) if source["type"] == "base64" else source.get("url") or source.get("data")
    if not found:
        out.hosted.append("file_id")
    elif kind == "image":
        out.images[found] += 1
    else:
        out.files.append(found)


# Gemini ---------------------------------------------------------------------------------------------------------------


def _camel(value: Any) -> Any:
    """Members of an object in lowerCamelCase, as Google takes both spellings."""
    if not isinstance(value, dict):
        return value
    return {key[:1] + "".join(w.capitalize() if i else w for i, w in enumerate(key[1:].split("_"))): each
            for key, each in value.items()}  # fmt: skip


def of_generate(body: Json) -> Meant:
    body = _camel(body)
    config = _camel(body.get("generationConfig") or {})
    out = Meant(limit=config.get("maxOutputTokens"), stop=_stops(config.get("stopSequences")))
    seen: Counter[str] = Counter()
    system = body.get("systemInstruction")
    for part in [{"text": system}] if isinstance(system, str) else _list((system or {}).get("parts")):
        out.say("system", part.get("text"))
    contents = body["contents"]
    for content in [{"parts": [{"text": contents}]}] if isinstance(contents, str) else _list(contents):
        role = "assistant" if content.get("role") == "model" else "user"
        for part in _list(content.get("parts")):
            _generate_part(out, role, _camel(part), seen)
    for tool in _list(body.get("tools")):
        for key, value in _camel(tool).items():
            if key != "functionDeclarations":
                out.hosted.append(key)
                continue
            for declared in map(_camel, value):
                fields = properties(declared.get("parametersJsonSchema") or declared.get("parameters"))
                out.tools[declared["name"]] = (declared.get("description") or "", fields)
    calling = _camel(_camel(body.get("toolConfig") or {}).get("functionCallingConfig") or {})
    mode, allowed = str(calling.get("mode", "AUTO")).upper(), calling.get("allowedFunctionNames") or []
    out.choice = f"={allowed[0]}" if mode == "ANY" and len(allowed) == 1 else _MODES.get(mode, "auto")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    out.schema = _wanted(schema)
    if body.get("cachedContent"):
        out.hosted.append("cachedContent")
    return out


_MODES = {"ANY": "required", "NONE": "none", "VALIDATED": "auto"}


def _generate_part(out: Meant, role: str, part: Json, seen: Counter[str]) -> None:
    if "functionCall" in part:
        call = _camel(part["functionCall"])
        name = call["name"]
        out.calls.append((call.get("id") or f"{name}#{seen['call ' + name]}", name, call.get("args") or {}))
        seen["call " + name] += 1
    elif "functionResponse" in part:
        told = _camel(part["functionResponse"])
        name = told.get("name") or ""
        call_id = told.get("id") or f"{name}#{seen['result ' + name]}"
        seen["result " + name] += 1
        out.results.append((call_id, told.get("response")))
        for inner in _list(told.get("parts")):
            _generate_part(out, role, _camel(inner), seen)
    elif "inlineData" in part or "fileData" in part:
        held = _camel(part.get("inlineData") or part["fileData"])
        found = plain(held["data"]) if "data" in held else held["fileUri"]
        if str(held.get("mimeType", "")).startswith("image/"):
            out.images[found] += 1
        else:
            out.files.append(found)
    elif "text" in part:
        if not part.get("thought"):
            out.say(role, part["text"])
    elif set(part) - {"thoughtSignature", "thought"}:
        out.hosted += [key for key in part if key not in ("thoughtSignature", "thought")]


# Converse -------------------------------------------------------------------------------------------------------------


def of_converse(body: Json) -> Meant:
    config = body.get("inferenceConfig") or {}
    out = Meant(limit=config.get("maxTokens"), stop=_stops(config.get("stopSequences")))
    for block in _list(body.get("system")):
        out.say("system", block.get("text"))
    for message in body["messages"]:
        for block in message["content"]:
            _converse_block(out, message["role"], block)
    held = body.get("toolConfig") or {}
    for tool in _list(held.get("tools")):
        spec = tool.get("toolSpec")
        if spec:
            fields = properties(spec["inputSchema"].get("json"))
            out.tools[spec["name"]] = (spec.get("description") or "", fields)
        elif "cachePoint" not in tool:
            out.hosted.append(str(next(iter(tool))))
    choice = held.get("toolChoice") or {}
    out.choice = f"={choice['tool']['name']}" if "tool" in choice else "required" if "any" in choice else "auto"
    structure = ((body.get("outputConfig") or {}).get("textFormat") or {}).get("structure") or {}
    if structure:
        out.schema = _wanted(structure["jsonSchema"]["schema"])
    return out


def _converse_block(out: Meant, role: str, block: Json) -> None:
    if "text" in block:
        out.say(role, block["text"])
    elif "toolUse" in block:
        use = block["toolUse"]
        out.calls.append((use["toolUseId"], use["name"], parse(use.get("input"))))
    elif "toolResult" in block:
        told = block["toolResult"]
        found = []
        for each in told.get("content") or []:
            if "text" in each or "json" in each:
                found.append(each["text"] if "text" in each else each["json"])
            else:
                _converse_block(out, role, each)
        values = found[0] if len(found) == 1 else "".join(e if isinstance(e, str) else json.dumps(e) for e in found)
        out.results.append((told["toolUseId"], values))
    elif "citationsContent" in block:
        for each in block["citationsContent"].get("content") or []:
            out.say(role, each.get("text"))
    elif {"image", "document", "video", "audio"} & set(block):
        kind = str(next(iter(block)))
        source = block[kind]["source"]
        found = plain(source["bytes"]) if "bytes" in source else source.get("text")
        if found is None and "content" in source:
            found = "".join(each.get("text", "") for each in source["content"])
        if found is None:
            out.hosted.append("s3Location")
        elif kind == "image":
            out.images[found] += 1
        else:
            out.files.append(found)
    elif not {"reasoningContent", "cachePoint"} & set(block):
        out.hosted.append(str(next(iter(block))))


_READERS: dict[str, Callable[[Json], Meant]] = {
    "chat": of_chat,
    "responses": of_responses,
    "messages": of_messages,
    "generate": of_generate,
    "converse": of_converse,
}
