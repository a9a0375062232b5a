"""What a chat body means, for comparing a body with what the speaker makes of it in the same dialect.

Members that say the same in two spellings are brought to one of them, and members that say nothing are left out.
"""

from __future__ import annotations

import json
from typing import Any

from proxy.dialects.media import media_type

SPELT = {
    "max_tokens": "max_completion_tokens",
    "random_seed": "seed",
    "user": "safety_identifier",
}


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """The body in one spelling."""
    out = {SPELT.get(key, key): value for key, value in body.items() if value is not None and key != "model"}
    if out.get("n") == 1:
        del out["n"]
    out["messages"] = [_message(message) for message in body["messages"]]
    functions = out.pop("functions", None)
    if functions is not None:
        out["tools"] = [{"type": "function", "function": function} for function in functions]
    if "tools" in out:
        out["tools"] = [_tool(tool) for tool in out["tools"]]
    out.setdefault("tool_choice", out.pop("function_call", None))
    choice = out.pop("tool_choice")
    if choice not in (None, "auto") and out.get("tools"):
        if choice == "any":
            choice = "required"
        named = choice.get("function", choice) if isinstance(choice, dict) else None
        out["tool_choice"] = {"name": named["name"]} if named and "name" in named else choice
    if not out.get("tools"):
        out.pop("tools", None)
        out.pop("parallel_tool_calls", None)
    if isinstance(out.get("stop"), str):
        out["stop"] = [out["stop"]]
    if not out.get("stop"):
        out.pop("stop", None)
    if out.get("stream") is False:
        del out["stream"]
    options = {key: value for key, value in (out.pop("stream_options", None) or {}).items() if value is not False}
    if options and out.get("stream"):
        out["stream_options"] = options
    schema = (out.get("response_format") or {}).get("json_schema")
    if isinstance(schema, dict):
        named = {key: value for key, value in schema.items() if value != ""}
        out["response_format"] = {**out["response_format"], "json_schema": named}
    if out.get("response_format") == {"type": "text"}:
        del out["response_format"]
    return out


def _mark(mark: Any) -> Any:
    """Five minutes are the default."""
    return {key: value for key, value in mark.items() if value != "5m"} if isinstance(mark, dict) else mark


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type") or "function"
    if kind != "function":
        return tool
    known = {"name", "description", "parameters", "strict"}
    function = {key: value for key, value in tool["function"].items() if key in known and value not in (None, "")}
    return {"type": kind, "function": function, "cache": _mark(tool.get("cache_control"))}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in message.items() if value not in (None, [], {})}
    content = out.pop("content", None)
    if isinstance(content, str):
        content = [content] if content else []
    parts = [_part(part) for part in content or []]
    mark = _mark(out.pop("cache_control", None))
    if mark and parts:
        parts[-1] = {**(parts[-1] if isinstance(parts[-1], dict) else {"text": parts[-1]}), "cache": mark}
    if out["role"] == "function":
        out = {"role": "tool", "name": out["name"]}
    if "function_call" in out:
        out["tool_calls"] = [{"function": out.pop("function_call")}]
    calls = out.pop("tool_calls", None)
    if calls:
        out["calls"] = [_call(call) for call in calls]
    if out["role"] == "tool":
        out.pop("tool_call_id", None)
    return {**out, "parts": parts}


def _call(call: dict[str, Any]) -> Any:
    if "custom" in call:
        return call["custom"]
    arguments = call["function"].get("arguments") or "{}"
    return call["function"]["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    part = {key: value for key, value in part.items() if value is not None}
    kind = part["type"]
    if kind == "text" and set(part) == {"type", "text"}:
        return part["text"]
    if kind in ("image_url", "video_url"):
        stated = part[kind]
        url = stated["url"] if isinstance(stated, dict) else stated
        return kind, _url(url)
    if kind in ("file", "file_url", "document_url"):
        stated = part[kind] if isinstance(part[kind], dict) else {"url": part[kind]}
        return "file", _url(stated.get("file_data") or stated.get("url") or stated["file_id"])
    if kind == "thinking":
        return "thinking"
    if "cache_control" in part:
        return {"text": part["text"], "cache": _mark(part["cache_control"])}
    return part


def _url(url: str) -> str:
    head, comma, rest = url.partition(",")
    if head.startswith("data:") and comma:
        return f"{media_type(head[5:])},{rest}"
    return url
