"""What an answer says, read straight from its JSON: the yardstick of the readers and the writers.

Written from `providers.md` alone, with nothing of the proxy's own. Everything is read after the fact, from the whole
body, so it needs none of a reader's care for pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.score import wire

Json = dict[str, Any]


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: Any
    """Parsed; what cannot be parsed stands as text."""


@dataclass(slots=True)
class Said:
    texts: list[str] = field(default_factory=list)
    """Text, block by block where the dialect has blocks."""
    refusal: str = ""
    thinking: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finish: str = ""
    """stop, stop_sequence, length, context, tool_calls, content_filter, pause, malformed, unknown; empty: none came."""
    usage: tuple[int, int, int, int, int] | None = None
    """input outside the cache, cache_read, cache_write, output, reasoning."""
    error: str | None = None
    """The message of an error object; empty where it gives none."""
    is_over: bool = False
    """The dialect's end of a complete stream came, or a reason for the end where the dialect has no end marker."""
    blocked: bool = False
    """Something of the answer's own dialect came that has no place elsewhere (images, server tools)."""

    @property
    def text(self) -> str:
        return "".join(self.texts)


FINISH: dict[str, dict[str, str]] = {
    "chat": {
        "stop": "stop", "eos": "stop", "end_turn": "stop", "length": "length", "model_length": "length",
        "max_tokens": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
        "content_filter": "content_filter",
    },
    "messages": {
        "end_turn": "stop", "stop_sequence": "stop_sequence", "max_tokens": "length", "tool_use": "tool_calls",
        "model_context_window_exceeded": "context", "refusal": "content_filter", "pause_turn": "pause",
    },
    "converse": {
        "end_turn": "stop", "stop_sequence": "stop_sequence", "max_tokens": "length", "tool_use": "tool_calls",
        "model_context_window_exceeded": "context", "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter", "malformed_model_output": "malformed", "malformed_tool_use": "malformed",
    },
    "generate": {
        "STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "pause",
        "SAFETY": "content_filter", "RECITATION": "content_filter", "BLOCKLIST": "content_filter",
        "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter", "LANGUAGE": "content_filter",
        "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter",
        "IMAGE_RECITATION": "content_filter", "IMAGE_OTHER": "content_filter", "ESCALATION": "content_filter",
        "MODEL_ARMOR": "content_filter", "MALFORMED_FUNCTION_CALL": "malformed", "UNEXPECTED_TOOL_CALL": "malformed",
        "MALFORMED_RESPONSE": "malformed", "TOO_MANY_TOOL_CALLS": "malformed",
        "MISSING_THOUGHT_SIGNATURE": "malformed", "OTHER": "malformed",
    },
}  # fmt: skip


def said(api: str, body: bytes, stream: bool) -> Said:
    """What an answer of a wire API says."""
    if api == "invoke":
        api, body = "messages", wire.unwrapped(body) if stream else body
    if stream:
        return _STREAMS[api](body)
    parsed = wire.load(body)
    if isinstance(parsed, list) and len(parsed) == 1:
        parsed = parsed[0]
    out = _BODIES[api](parsed) if isinstance(parsed, dict) else Said(error="not JSON")
    out.is_over = out.error is None
    return out


def parse(arguments: Any) -> Any:
    """Arguments as a value: nothing is an empty object, what is no JSON stays text."""
    if not isinstance(arguments, str):
        return arguments if arguments is not None else {}
    if not arguments.strip():
        return {}
    found = wire.load(arguments)
    return arguments if found is None and arguments.strip() != "null" else {} if found is None else found


def _message(error: Any) -> str:
    if isinstance(error, dict):
        inner = error.get("error", error)
        inner = inner if isinstance(inner, dict) else error
        return str(inner.get("message") or inner.get("Message") or "")
    return str(error)


def _settled(out: Said, finish: str | None, words: dict[str, str]) -> None:
    if finish:
        out.finish = words.get(finish, "unknown")
        if out.calls and out.finish in ("stop", "unknown"):
            out.finish = "tool_calls"
        if not out.calls and out.finish == "tool_calls":
            out.finish = "stop"


# Chat -----------------------------------------------------------------------------------------------------------------


def of_chat(body: Json) -> Said:
    out = Said()
    choices = body.get("choices")
    if body.get("error"):
        return Said(error=_message(body["error"]))
    if not isinstance(choices, list):
        return Said(error=_message(body))
    choice = next((each for each in choices if not each.get("index")), None)
    if choice is not None:
        message = choice.get("message") or {}
        _chat_words(out, message)
        for entry in message.get("tool_calls") or []:
            inner = _inner(entry)
            told = inner.get("input") if "input" in inner else parse(inner.get("arguments"))
            out.calls.append(Call(entry.get("id") or "", inner.get("name") or "", told))
        old = message.get("function_call")
        if old and old.get("name"):
            out.calls.append(Call("", old["name"], parse(old.get("arguments"))))
        _settled(out, choice.get("finish_reason") or "stop", FINISH["chat"])
    _chat_count(out, body.get("usage"))
    return out


def _inner(entry: Json) -> Json:
    """What a call says; some servers fill in the empty half of the other kind."""
    custom, function = entry.get("custom") or {}, entry.get("function") or {}
    found: Json = custom if custom.get("name") else function or custom
    return found


def chat_stream(body: bytes) -> Said:
    out = Said()
    calls: dict[Any, Json] = {}
    finish: str | None = None
    last: Any = None
    for _, data in wire.sse(body):
        if data.strip() == "[DONE]":
            out.is_over = True
            break
        chunk = wire.load(data)
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            out.error = _message(chunk["error"])
            return out
        if chunk.get("object") == "error":
            out.error = _message(chunk)
            return out
        groq = chunk.get("x_groq") or {}
        _chat_count(out, chunk.get("usage") or groq.get("usage"))
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue
            delta = choice.get("delta") or choice.get("message") or {}
            _chat_words(out, delta)
            for entry in delta.get("tool_calls") or []:
                last = _slot(calls, entry, last)
                call = calls.setdefault(last, {"id": "", "name": "", "arguments": "", "custom": False})
                inner = _inner(entry)
                call["id"] = call["id"] or entry.get("id") or ""
                call["name"] = call["name"] or inner.get("name") or ""
                arguments = inner.get("input") if "input" in inner else inner.get("arguments")
                call["custom"] = call["custom"] or "input" in inner
                call["arguments"] += (
                    arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
                )
            old = delta.get("function_call")
            if old:
                call = calls.setdefault("old", {"id": "", "name": "", "arguments": "", "custom": False})
                call["name"] = call["name"] or old.get("name") or ""
                call["arguments"] += old.get("arguments") or ""
            finish = finish or choice.get("finish_reason")
    tail = wire.bare(body)
    if isinstance(tail, dict) and not out.is_over:
        out.error = _message(tail)
    for call in calls.values():
        told = call["arguments"] if call["custom"] else parse(call["arguments"])
        out.calls.append(Call(call["id"], call["name"], told))
    # A marker of the end without a reason is an end as well (8.3).
    _settled(out, finish or ("stop" if out.is_over else None), FINISH["chat"])
    out.is_over = out.error is None and bool(out.finish)
    return out


def _slot(calls: dict[Any, Json], entry: Json, last: Any) -> Any:
    """Which call a delta belongs to: by index; another id under the same index is another call; without either it goes
    on with the last one, unless it names a tool."""
    index, call_id = entry.get("index"), entry.get("id")
    named = bool((entry.get("function") or {}).get("name"))
    if index is None:
        if call_id is None:
            return last if last is not None and not named else len(calls)
        return next((slot for slot, call in calls.items() if call["id"] == call_id), len(calls))
    slot: Any = index
    while slot in calls and call_id and calls[slot]["id"] and calls[slot]["id"] != call_id and named:
        slot = (slot, "next")
    if not call_id and not named:
        while (slot, "next") in calls:
            slot = (slot, "next")
    return slot


def _chat_words(out: Said, message: Json) -> None:
    content = message.get("content")
    if isinstance(content, str) and content:
        out.texts.append(content)
    elif isinstance(content, dict):
        out.texts.append(json.dumps(content, separators=(",", ":"), ensure_ascii=False))
    for part in content if isinstance(content, list) else []:
        if part.get("type") == "thinking":
            out.thinking.append("".join(each.get("text") or "" for each in part.get("thinking") or []))
        elif part.get("text"):
            out.texts.append(part["text"])
    plain = message.get("reasoning_content") or message.get("reasoning")
    told = [each.get("text") or each.get("summary") or "" for each in message.get("reasoning_details") or []]
    if isinstance(plain, str) and plain:
        out.thinking.append(plain)
    elif isinstance(plain, list):
        out.thinking.extend(each if isinstance(each, str) else each.get("text") or "" for each in plain)
    elif told:
        out.thinking.extend(each for each in told if each)
    out.refusal += message.get("refusal") or ""
    out.blocked = out.blocked or bool(message.get("images") or message.get("audio"))


def _chat_count(out: Said, usage: Any) -> None:
    if not isinstance(usage, dict) or not usage:
        return
    prompt, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    details = usage.get("prompt_tokens_details") or {}
    told = usage.get("completion_tokens_details") or {}
    hidden = max(0, (usage.get("total_tokens") or 0) - prompt - output)
    elsewhere = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
    read = details.get("cached_tokens") or next((usage[key] for key in elsewhere if usage.get(key)), 0)
    write = details.get("cache_write_tokens") or 0
    read = min(read, prompt)
    write = min(write, prompt - read)
    reasoning = told.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0
    out.usage = (prompt - read - write, read, write, output + hidden, max(reasoning, hidden))


# Responses ------------------------------------------------------------------------------------------------------------


def of_response(body: Json) -> Said:
    out = Said()
    if body.get("error"):
        return Said(error=_message(body["error"]))
    if "output" not in body:
        return Said(error=_message(body))
    if body.get("status") == "failed":
        return Said(error="")
    for item in body.get("output") or []:
        _item(out, item)
    usage = body.get("usage")
    if usage:
        _responses_count(out, usage)
    out.finish = _status(body, bool(out.calls))
    return out


def _status(body: Json, calls: bool) -> str:
    reason = (body.get("incomplete_details") or {}).get("reason")
    if body.get("status") == "incomplete":
        return {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason or "", "unknown")
    if body.get("status") in ("queued", "in_progress", "cancelled"):
        return "unknown"
    return "tool_calls" if calls else "stop"


def _item(out: Said, item: Json) -> None:
    kind = item.get("type")
    if kind == "message":
        for part in item.get("content") or []:
            if part.get("type") == "refusal":
                out.refusal += part.get("refusal") or ""
            elif part.get("text"):
                out.texts.append(part["text"])
    elif kind == "function_call":
        out.calls.append(Call(item.get("call_id") or "", item.get("name") or "", parse(item.get("arguments"))))
    elif kind == "custom_tool_call":
        out.calls.append(Call(item.get("call_id") or "", item.get("name") or "", item.get("input") or ""))
    elif kind == "reasoning":
        told = [each.get("text") or "" for each in item.get("summary") or []]
        told = told or [each.get("text") or "" for each in item.get("content") or []]
        out.thinking.extend(each for each in told if each)
    else:
        out.blocked = True


def responses_stream(body: bytes) -> Said:
    """By the items' own `done` events and the terminal event; deltas count where a stream stops early."""
    out = Said()
    texts: dict[Any, str] = {}
    items: dict[Any, Json] = {}
    last: Json | None = None
    error: str | None = None
    for _, event in wire.objects(body):
        kind = event.get("type", "")
        if kind == "error" or (not kind and event.get("error")):
            error = error or _message(event)
        elif kind == "response.failed":
            error = error or _message((event.get("response") or {}).get("error") or {})
        elif kind in ("response.completed", "response.incomplete"):
            last = event["response"]
            break  # a recording may hold several answers, one after another
        elif kind in ("response.output_text.delta", "response.refusal.delta", "response.reasoning_summary_text.delta",
                      "response.reasoning_text.delta"):  # fmt: skip
            word = "refusal" if "refusal" in kind else "thinking" if "reasoning" in kind else "text"
            part = event.get("summary_index", event.get("content_index"))
            key = (event.get("output_index"), word, part)
            texts[key] = texts.get(key, "") + event["delta"]
        elif kind == "response.output_item.done":
            items[event.get("output_index")] = event["item"]
    if error is not None:
        return Said(error=error)
    heard = {key[0] for key in texts}
    for at in sorted({*items, *heard}, key=lambda index: (index is None, index)):
        item = items.get(at)
        if item is not None and (at not in heard or item.get("type") not in ("message", "reasoning")):
            _item(out, item)
        elif item is not None:
            whole = Said()
            _item(whole, item)
            for key, text in texts.items():
                _add(out, key, at, text)
            if whole.text and not any(key[0] == at and key[1] == "text" for key in texts):
                out.texts.extend(whole.texts)
        else:
            for key, text in texts.items():
                _add(out, key, at, text)
    if last is not None:
        if not items and not texts:
            for item in last.get("output") or []:
                _item(out, item)
        if last.get("usage"):
            _responses_count(out, last["usage"])
        out.finish = _status(last, bool(out.calls))
        out.is_over = True
    return out


def _add(out: Said, key: Any, at: Any, text: str) -> None:
    if key[0] != at:
        return
    if key[1] == "refusal":
        out.refusal += text
    else:
        (out.thinking if key[1] == "thinking" else out.texts).append(text)


def _responses_count(out: Said, usage: Json) -> None:
    read = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    write = (usage.get("input_tokens_details") or {}).get("cache_write_tokens") or 0
    prompt, output = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    hidden = max(0, (usage.get("total_tokens") or 0) - prompt - output)
    read = min(read, prompt)
    write = min(write, prompt - read)
    reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0
    out.usage = (prompt - read - write, read, write, output + hidden, reasoning)


# Messages -------------------------------------------------------------------------------------------------------------


def of_message(body: Json) -> Said:
    out = Said()
    if body.get("type") == "error" or body.get("error"):
        return Said(error=_message(body.get("error") or body))
    if "content" not in body:
        return Said(error=_message(body))
    for block in body["content"] or []:
        _block(out, block)
    out.usage = _messages_count(body.get("usage") or {}) if body.get("usage") else None
    _messages_end(out, body.get("stop_reason"), body.get("stop_details"))
    return out


def _messages_end(out: Said, reason: str | None, details: Any) -> None:
    _settled(out, reason, FINISH["messages"])
    if out.finish == "content_filter" and isinstance(details, dict):
        out.refusal = details.get("explanation") or ""


def _block(out: Said, block: Json) -> None:
    kind = block.get("type")
    if kind == "text":
        if block.get("text"):
            out.texts.append(block["text"])
    elif kind == "thinking":
        if block.get("thinking"):
            out.thinking.append(block["thinking"])
    elif kind == "tool_use":
        out.calls.append(Call(block.get("id") or "", block.get("name") or "", parse(block.get("input"))))
    elif kind != "redacted_thinking":
        out.blocked = True


def messages_stream(body: bytes) -> Said:
    out = Said()
    blocks: dict[Any, Json] = {}
    order: list[Json] = []
    count: Json = {}
    reason: str | None = None
    details: Any = None
    started = ""
    for _, event in wire.objects(body):
        kind = event.get("type")
        if kind == "error":
            out.error = _message(event)
            return out
        if kind == "message_start":
            message = event.get("message") or {}
            if started and message.get("id") != started:
                out.error = "a second message"
                return out
            started = message.get("id") or "?"
            count.update(_known(message.get("usage")))
            reason = message.get("stop_reason") or reason
        elif kind == "content_block_start":
            block = dict(event.get("content_block") or {})
            block["json"] = ""
            blocks[event.get("index")] = block
            order.append(block)
        elif kind == "content_block_delta":
            delta, block = event.get("delta") or {}, blocks.get(event.get("index")) or {}
            if delta.get("type") == "text_delta":
                block["text"] = (block.get("text") or "") + delta.get("text", "")
            elif delta.get("type") == "thinking_delta":
                block["thinking"] = (block.get("thinking") or "") + delta.get("thinking", "")
            elif delta.get("type") == "input_json_delta":
                block["json"] = block.get("json", "") + (delta.get("partial_json") or "")
        elif kind == "message_delta":
            delta = event.get("delta") or {}
            count.update(_known(event.get("usage")))
            reason = delta.get("stop_reason") or reason
            details = delta.get("stop_details") or details
        elif kind == "message_stop":
            out.is_over = True
            break
    for block in order:
        if block.get("type") == "tool_use" and block["json"]:
            block["input"] = parse(block["json"])
        _block(out, block)
    out.usage = _messages_count(count) if count else None
    _messages_end(out, reason, details)
    out.is_over = bool(reason)
    return out


def _known(usage: Any) -> Json:
    return {key: value for key, value in (usage or {}).items() if value is not None}


def _messages_count(usage: Json) -> tuple[int, int, int, int, int]:
    return (
        usage.get("input_tokens") or 0,
        usage.get("cache_read_input_tokens") or 0,
        usage.get("cache_creation_input_tokens") or 0,
        usage.get("output_tokens") or 0,
        (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
    )


# Gemini ---------------------------------------------------------------------------------------------------------------


def of_generated(body: Json) -> Said:
    return _generated([body])


def generate_stream(body: bytes) -> Said:
    chunks = [chunk for _, chunk in wire.objects(body)]
    tail = wire.bare(body)
    if isinstance(tail, list):
        tail = next((each for each in tail if isinstance(each, dict)), None)
    if isinstance(tail, dict) and "error" in tail:
        chunks.append(tail)
    return _generated(chunks)


def _generated(chunks: Iterable[Json]) -> Said:
    out = Said()
    reason: str | None = None
    blocked = answered = False
    growing: list[Call] = []
    for chunk in chunks:
        if chunk.get("error"):
            out.error = _message(chunk["error"])
            return out
        for candidate in chunk.get("candidates") or []:
            if candidate.get("index"):
                continue
            for part in (candidate.get("content") or {}).get("parts") or []:
                _part(out, part, growing)
                answered = True
            reason = candidate.get("finishReason") or reason
        feedback = chunk.get("promptFeedback")
        blocked = blocked or bool(feedback and (feedback.get("blockReason") or not chunk.get("candidates")))
        _generate_count(out, chunk.get("usageMetadata"))
    if reason in ("FINISH_REASON_UNSPECIFIED", None) and blocked and not answered:
        out.finish = "content_filter"
    else:
        _settled(out, reason, FINISH["generate"])
    out.is_over = bool(out.finish)
    return out


def _grow(value: Any, path: list[Any], told: Any) -> Any:
    """`value` with what stands at `path` set, or a string there lengthened."""
    if not path:
        return (value or "") + told if isinstance(told, str) else told
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        found = value if isinstance(value, list) else []
        found.extend([None] * (head + 1 - len(found)))
        found[head] = _grow(found[head], rest, told)
        return found
    inner = value if isinstance(value, dict) else {}
    inner[head] = _grow(inner.get(head), rest, told)
    return inner


def _partial(out: Said, call: Json, growing: list[Call]) -> None:
    """Vertex sends arguments in pieces: a name first, then values by path, then nothing."""
    if call.get("name"):
        growing[:] = [Call(call.get("id") or "", call["name"], dict(call.get("args") or {}))]
        out.calls.extend(growing)
    for piece in call.get("partialArgs") or []:
        steps = re.findall(r"([A-Za-z_][\w-]*)|\[(\d+)\]", piece["jsonPath"])
        told = None if "nullValue" in piece else next((v for key, v in piece.items() if key.endswith("Value")), None)
        growing[0].arguments = _grow(growing[0].arguments, [int(at) if at else name for name, at in steps], told)
    if not call.get("willContinue"):
        growing.clear()


def _part(out: Said, part: Json, growing: list[Call]) -> None:
    call = part.get("functionCall")
    if call is not None and (call.get("willContinue") or growing):
        _partial(out, call, growing)
    elif call:
        out.calls.append(Call(call.get("id") or "", call.get("name") or "", call.get("args") or {}))
    elif isinstance(part.get("text"), str):
        if part["text"]:
            (out.thinking if part.get("thought") else out.texts).append(part["text"])
    elif set(part) - {"thoughtSignature", "thought"}:
        out.blocked = True


def _generate_count(out: Said, usage: Any) -> None:
    if not isinstance(usage, dict):
        return
    read = usage.get("cachedContentTokenCount") or 0
    prompt = (usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0)
    thoughts = usage.get("thoughtsTokenCount") or 0
    output = (usage.get("candidatesTokenCount") or 0) + thoughts
    if not prompt:
        prompt = max(0, (usage.get("totalTokenCount") or 0) - output)
    out.usage = (max(0, prompt - read), read, 0, output, thoughts)


# Converse -------------------------------------------------------------------------------------------------------------


def of_converse(body: Json) -> Said:
    out = Said()
    output = body.get("output")
    if not isinstance(output, dict):
        return Said(error=_message(body))
    for block in (output.get("message") or {}).get("content") or []:
        _converse_block(out, block)
    out.usage = _converse_count(body.get("usage"))
    _settled(out, body.get("stopReason"), FINISH["converse"])
    return out


def _converse_block(out: Said, block: Json) -> None:
    if "text" in block:
        if block["text"]:
            out.texts.append(block["text"])
    elif "toolUse" in block:
        use = block["toolUse"]
        if use.get("type") == "server_tool_use":
            return
        out.calls.append(Call(use.get("toolUseId") or "", use.get("name") or "", parse(use.get("input"))))
    elif "reasoningContent" in block:
        told = (block["reasoningContent"].get("reasoningText") or {}).get("text")
        if told:
            out.thinking.append(told)
    elif "citationsContent" in block:
        out.texts.extend(each["text"] for each in block["citationsContent"].get("content") or [] if each.get("text"))
    else:
        out.blocked = True


def converse_stream(body: bytes) -> Said:
    out = Said()
    blocks: dict[Any, Json] = {}
    reason: str | None = None
    for headers, event in wire.frames(body):
        kind = headers.get(":event-type", "")
        if headers.get(":message-type") != "event":
            out.error = _message(event) or headers.get(":error-message", "")
            return out
        if kind == "contentBlockStart":
            use = (event.get("start") or {}).get("toolUse")
            if use:
                blocks[event["contentBlockIndex"]] = {"toolUse": {**use, "input": ""}}
        elif kind == "contentBlockDelta":
            delta, at = event.get("delta") or {}, event.get("contentBlockIndex")
            block = blocks.setdefault(at, {})
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            elif "toolUse" in delta:
                use = block.setdefault("toolUse", {"input": ""})
                use["input"] += delta["toolUse"].get("input") or ""
            elif "reasoningContent" in delta:
                told = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})
                told["reasoningText"]["text"] += delta["reasoningContent"].get("text") or ""
        elif kind == "messageStop":
            reason = event.get("stopReason") or reason
        elif kind == "metadata":
            out.usage = _converse_count(event.get("usage"))
    for block in blocks.values():
        if block:
            _converse_block(out, block)
    _settled(out, reason, FINISH["converse"])
    out.is_over = bool(reason)
    return out


def _converse_count(usage: Any) -> tuple[int, int, int, int, int] | None:
    if not isinstance(usage, dict) or not usage:
        return None
    return (
        usage.get("inputTokens") or 0,
        usage.get("cacheReadInputTokens") or 0,
        usage.get("cacheWriteInputTokens") or 0,
        usage.get("outputTokens") or 0,
        0,
    )


_BODIES: dict[str, Callable[[Json], Said]] = {
    "chat": of_chat,
    "responses": of_response,
    "messages": of_message,
    "generate": of_generated,
    "converse": of_converse,
}
_STREAMS: dict[str, Callable[[bytes], Said]] = {
    "chat": chat_stream,
    "responses": responses_stream,
    "messages": messages_stream,
    "generate": generate_stream,
    "converse": converse_stream,
}
