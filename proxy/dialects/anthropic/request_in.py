"""The body of a Messages request read into canonical form.

Members that Anthropic alone knows are kept in `extra`: they mean something to the same dialect, and others tell that
they dropped them. Those that no one else could honour are `Need`s as well. Extra names with a dot in them hold what
blocks and tools say beside their parts, by place (``tools.defer_loading``: ``{"0": true}``); the name ``tools`` holds,
by place, tools that are not the caller's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from proxy.dialects.anthropic.blocks_in import Leftovers, content
from proxy.dialects.anthropic.words import DIALECT
from proxy.dialects.chat import Choice, Format, Json, Malformed, Reasoning, Request, Role, Text, Tool, Turn
from proxy.dialects.members import cache_mark, mapping, string

READ: Final = frozenset(
    {"model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream", "tools",
     "tool_choice", "thinking", "output_config", "output_format", "metadata", "service_tier"}
)  # fmt: skip
"""Members that have a place of their own in the canonical form; the rest is kept as it came."""
STATE: Final = {"container": "state", "mcp_servers": "server_tools"}
"""Members that only Anthropic can honour -> the word for what others lack."""
_TOOL_READ: Final = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_MODES: Final[Mapping[str, Literal["enabled", "disabled", "adaptive"]]] = {
    "enabled": "enabled",
    "disabled": "disabled",
    "adaptive": "adaptive",
}


def read_request(body: Json) -> Request:
    """See `chat`. Raises `Malformed`."""
    left = Leftovers()
    turns = (*_system(body.get("system"), left), *_messages(body, left))
    tools = _tools(body.get("tools"), left)
    choice, parallel = _choice(body.get("tool_choice"))
    config = mapping(body.get("output_config"))
    metadata = mapping(body.get("metadata"))
    limit = _number(body, "max_tokens", int)
    for name, value in body.items():
        if name not in READ and value is not None:
            left.extra[name] = value
    _needs(body, limit, left)
    reasoning = _reasoning(body, config, left)
    if rest := {key: value for key, value in config.items() if key not in ("effort", "format")}:
        left.extra["output_config"] = rest
    return Request(
        dialect=DIALECT,
        model=string(body.get("model")),
        turns=turns,
        tools=tools,
        choice=choice,
        parallel=parallel,
        limit=limit,
        temperature=_number(body, "temperature", float),
        top_p=_number(body, "top_p", float),
        top_k=_number(body, "top_k", int),
        stop=_stop(body.get("stop_sequences")),
        format=_format(config.get("format") or body.get("output_format")),
        reasoning=reasoning,
        user=string(metadata.get("user_id")),
        metadata={key: value for key, value in metadata.items() if key != "user_id"} or None,
        service_tier=string(body.get("service_tier")),
        stream=body.get("stream") is True,
        needs=tuple(left.needs),
        extra=left.extra,
    )


def _needs(body: Json, limit: int | None, left: Leftovers) -> None:
    for name, reason in STATE.items():
        if body.get(name):
            left.need(reason, name)
    if body.get("inference_geo") not in (None, "", "global"):
        # Where it may be computed is a condition, not a hint, and no other dialect can state it.
        left.need("inference_geo", "inference_geo")
    if limit == 0:
        left.need("state", "max_tokens=0")  # only warms the cache of one provider


def _number(body: Json, name: str, kind: type) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
        raise Malformed(name, "must be a number" if kind is float else "must be a whole number")
    return kind(value)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Malformed("stop_sequences", "must be a list of strings")
    return tuple(value)


# Conversation ---------------------------------------------------------------------------------------------------------


def _system(value: Any, left: Leftovers) -> tuple[Turn, ...]:
    if value is None or value in ("", []):
        return ()
    parts = content(value, "system", "0", left)
    if not all(isinstance(part, Text) for part in parts):
        raise Malformed("system", "must be a string or blocks of text")
    return (Turn(role=Role.SYSTEM, parts=parts),)


def _messages(body: Json, left: Leftovers) -> list[Turn]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Malformed("messages", "must be a list of messages")
    first = 1 if body.get("system") else 0
    turns = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise Malformed(f"messages.{i}", "must be an object")
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise Malformed(f"messages.{i}.role", "must be user, assistant or system")
        parts = content(message.get("content"), f"messages.{i}.content", str(first + i), left)
        turns.append(Turn(role=Role(role), parts=parts))
    return turns


# Tools and options ----------------------------------------------------------------------------------------------------


def _tools(value: Any, left: Leftovers) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Malformed("tools", "must be a list of tools")
    tools = []
    for i, tool in enumerate(value):
        if not isinstance(tool, Mapping):
            raise Malformed(f"tools.{i}", "must be an object")
        kind = tool.get("type")
        if kind not in (None, "custom"):
            # Also those which the caller runs himself (bash, text editor): their schema is known to Claude alone.
            left.need("server_tools", f"tools.{i}.type={kind}")
            left.extra.setdefault("tools", {})[str(i)] = tool
            continue
        tools.append(_tool(tool, i))
        left.keep("tools", _TOOL_READ, tool, str(i))
    return tuple(tools)


def _tool(tool: Json, i: int) -> Tool:
    name, schema, strict = string(tool.get("name")), tool.get("input_schema"), tool.get("strict")
    if not name:
        raise Malformed(f"tools.{i}.name", "a tool needs a name")
    if schema is not None and not isinstance(schema, Mapping):
        raise Malformed(f"tools.{i}.input_schema", "must be an object")
    return Tool(
        name=name,
        description=string(tool.get("description")),
        parameters=schema,
        strict=strict if isinstance(strict, bool) else None,
        cache=cache_mark(tool),
    )


def _choice(value: Any) -> tuple[Choice | None, bool | None]:
    """(which tools, whether several at once); each None where nothing is said of it."""
    if value is None:
        return None, None
    wanted = mapping(value)
    parallel = False if wanted.get("disable_parallel_tool_use") is True else None
    kind = wanted.get("type")
    if kind == "tool" and string(wanted.get("name")):
        return Choice(mode="named", name=wanted["name"]), parallel
    if kind == "any":
        return Choice(mode="required"), parallel
    if kind == "auto":
        return Choice(mode="auto"), parallel
    if kind == "none":
        return Choice(mode="none"), parallel
    raise Malformed("tool_choice", "must be auto, any, tool with a name, or none")


def _format(value: Any) -> Format | None:
    wanted = mapping(value)
    if wanted.get("type") != "json_schema":
        return None
    schema = wanted.get("schema")
    if not isinstance(schema, Mapping):
        raise Malformed("output_config.format.schema", "must be an object")
    return Format(kind="json_schema", name=string(wanted.get("name")), schema=schema, strict=True)


def _reasoning(body: Json, config: Json, left: Leftovers) -> Reasoning | None:
    wanted = body.get("thinking")
    effort = string(config.get("effort")) or None
    if wanted is None:
        return Reasoning(effort=effort) if effort else None
    if not isinstance(wanted, Mapping):
        raise Malformed("thinking", "must be an object")
    mode = _MODES.get(string(wanted.get("type")))
    if mode is None:
        left.extra["thinking"] = wanted  # a kind that nobody else knows
        return Reasoning(effort=effort)
    budget, display = wanted.get("budget_tokens"), wanted.get("display")
    return Reasoning(
        effort=effort,
        budget=budget if isinstance(budget, int) and not isinstance(budget, bool) and mode == "enabled" else None,
        mode=mode,
        shown=None if display is None else display != "omitted",
    )
