"""The body of a chat caller in canonical form.

What only this dialect knows is kept in `Request.extra`: members of the request by their names, members of messages
under ``messages.<member>`` as a mapping from the message's index (a part: ``<message>.<part>``) to the value, hosted
tools under ``tools``. The writer of this dialect puts them back, others warn of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from proxy.dialects.chat import (
    Choice,
    Format,
    Json,
    Malformed,
    Need,
    Reasoning,
    Request,
    Tool,
)
from proxy.dialects.linking import linked
from proxy.dialects.members import cache_mark, flag, mapping, number, objects, string
from proxy.dialects.openai import messages_in

READ: Final = frozenset(
    {"model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "top_k", "presence_penalty",
     "frequency_penalty", "seed", "random_seed", "stop", "stream", "stream_options", "tools", "tool_choice",
     "functions", "function_call", "parallel_tool_calls", "response_format", "reasoning_effort", "verbosity", "user",
     "safety_identifier", "metadata", "service_tier", "prompt_cache_key"}
)  # fmt: skip
"""Members that have a place in the canonical form."""
_NEEDED: Final = {
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "web_search_options": "server_tools",
    "audio": "audio",
    "moderation": "moderation",
}
"""Members that no other dialect can honour."""
_NUMBERS: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_MODES: Final[Mapping[str, Literal["auto", "required", "none"]]] = {
    "auto": "auto",
    "required": "required",
    "any": "required",
    "none": "none",
}


def read_request(body: Json) -> Request:
    """The canonical request. Raises `Malformed`."""
    extra: dict[str, Any] = {}
    needs: list[Need] = []
    turns = messages_in.read(body.get("messages"), extra, needs)
    tools = _tools(body, extra, needs)
    options = mapping(body.get("stream_options"))
    if more := {key: value for key, value in options.items() if key != "include_usage"}:
        extra["stream_options"] = more
    metadata = body.get("metadata")
    request: dict[str, Any] = {
        "limit": _count(body, "max_completion_tokens", "max_tokens"),
        "top_k": _count(body, "top_k"),
        "seed": _whole(body, "seed", "random_seed"),
        "stop": _stop(body.get("stop")),
        "choice": _choice(body, needs),
        "parallel": flag(body, "parallel_tool_calls"),
        "format": _format(body.get("response_format"), extra, needs),
        "reasoning": _reasoning(body),
        "user": _user(body, extra),
        "metadata": metadata if isinstance(metadata, Mapping) else None,
        **{name: number(body, name) for name in _NUMBERS},
    }
    _rest(body, extra, needs)
    return Request(
        dialect="chat",
        model=string(body.get("model")),
        turns=linked(turns),
        tools=tools,
        verbosity=string(body.get("verbosity")),
        service_tier=string(body.get("service_tier")),
        cache_key=string(body.get("prompt_cache_key")),
        stream=body.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        needs=tuple(needs),
        extra=extra,
        **request,
    )


def _rest(body: Json, extra: dict[str, Any], needs: list[Need]) -> None:
    """Everything that has no place in the canonical form, and what of it the answer depends on."""
    for key, value in body.items():
        if key in READ or value is None or (key == "n" and value == 1):
            continue
        extra[key] = value
        if key == "n":
            if value != 1:
                needs.append(Need(reason="n", where="n"))
        elif key == "modalities":
            if value != ["text"]:
                needs.append(Need(reason="audio", where="modalities"))
        elif key in _NEEDED and value is not False:
            needs.append(Need(reason=_NEEDED[key], where=key))


# Values ---------------------------------------------------------------------------------------------------------------


def _whole(body: Json, *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
            raise Malformed(name, "must be an integer")
        return int(value)
    return None


def _count(body: Json, *names: str) -> int | None:
    found = _whole(body, *names)
    if found is not None and found < 0:
        return None  # vendors' way to say: no limit
    return found


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Malformed("stop", "must be a string or a list of strings")
    return tuple(found)


def _user(body: Json, extra: dict[str, Any]) -> str:
    named, old = string(body.get("safety_identifier")), string(body.get("user"))
    if named and old and named != old:
        extra["user"] = old
    return named or old


def _reasoning(body: Json) -> Reasoning | None:
    """OpenAI's effort, or what other vendors' callers say in its place (which stays in `extra` too)."""
    effort = body.get("reasoning_effort")
    if effort is not None and not isinstance(effort, str):
        raise Malformed("reasoning_effort", "must be a string")
    detailed, thinking = mapping(body.get("reasoning")), mapping(body.get("thinking"))
    if effort:
        return Reasoning(effort=effort)
    if detailed:
        most, excluded = detailed.get("max_tokens"), detailed.get("exclude")
        return Reasoning(
            effort=string(detailed.get("effort")) or None,
            budget=most if isinstance(most, int) else None,
            mode="disabled" if detailed.get("enabled") is False else None,
            shown=not excluded if isinstance(excluded, bool) else None,
        )
    wish = thinking.get("type")
    if wish in ("enabled", "disabled", "adaptive"):
        budget = thinking.get("budget_tokens")
        return Reasoning(mode=wish, budget=budget if isinstance(budget, int) else None)
    switch = body.get("enable_thinking")
    return Reasoning(mode="enabled" if switch else "disabled") if isinstance(switch, bool) else None


def _format(value: Any, extra: dict[str, Any], needs: list[Need]) -> Format | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise Malformed("response_format", "must be an object")
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object" and not value.get("schema"):
        return Format(kind="json_object")
    if kind in ("json_schema", "json_object"):
        stated = value.get("json_schema")
        if not isinstance(stated, Mapping):
            stated = value  # some vendors take the schema one level higher
            extra["response_format"] = value
        schema, strict = stated.get("schema"), stated.get("strict")
        if schema is None and ("properties" in stated or "$ref" in stated):
            schema = {key: value for key, value in stated.items() if key not in ("name", "strict")}
            extra["response_format"] = value
        return Format(
            kind="json_schema",
            name=string(stated.get("name")),
            schema=schema if isinstance(schema, Mapping) else None,
            strict=strict if isinstance(strict, bool) else None,
            description=string(stated.get("description")),
        )
    extra["response_format"] = value
    needs.append(Need(reason="schema", where=f"response_format.type={kind}"))
    return None


# Tools ----------------------------------------------------------------------------------------------------------------


def _tools(body: Json, extra: dict[str, Any], needs: list[Need]) -> tuple[Tool, ...]:
    stated, old = body.get("tools"), body.get("functions")
    if stated is None and isinstance(old, list):
        stated = [{"type": "function", "function": function} for function in old]
    if stated is None:
        return ()
    if not isinstance(stated, list):
        raise Malformed("tools", "must be a list")
    found: list[Tool] = []
    hosted: dict[str, Any] = {}
    for i, tool in enumerate(stated):
        where = f"tools.{i}"
        if not isinstance(tool, Mapping):
            raise Malformed(where, "must be an object")
        kind = tool.get("type", "function")
        if kind == "function":
            found.append(_function(tool, where))
        elif kind == "custom":
            found.append(_custom(tool, where, needs))
        else:
            hosted[str(i)] = tool
            needs.append(Need(reason="server_tools", where=f"{where}.type={kind}"))
    if hosted:
        extra["tools"] = hosted
    return tuple(found)


def _function(tool: Json, where: str) -> Tool:
    function = tool.get("function")
    if not isinstance(function, Mapping) or not string(function.get("name")):
        raise Malformed(f"{where}.function.name", "a function needs a name")
    parameters, strict = function.get("parameters"), function.get("strict")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise Malformed(f"{where}.function.parameters", "must be a JSON schema")
    return Tool(
        name=function["name"],
        description=string(function.get("description")),
        parameters=parameters,
        strict=strict if isinstance(strict, bool) else None,
        cache=cache_mark(tool) or cache_mark(function),
    )


def _custom(tool: Json, where: str, needs: list[Need]) -> Tool:
    custom = mapping(tool.get("custom"))
    if not string(custom.get("name")):
        raise Malformed(f"{where}.custom.name", "a tool needs a name")
    form = mapping(custom.get("format"))
    if form.get("type") == "grammar":
        needs.append(Need(reason="tools", where=f"{where}.custom.format"))
    return Tool(name=custom["name"], description=string(custom.get("description")), custom=form)


def _choice(body: Json, needs: list[Need]) -> Choice | None:
    value = body.get("tool_choice")
    if value is None:
        value = body.get("function_call")
        if isinstance(value, Mapping):
            value = {"type": "function", "function": value}
    if value is None:
        return None
    if isinstance(value, str):
        mode = _MODES.get(value)
        if mode is None:
            raise Malformed("tool_choice", "must be none, auto, required or an object")
        return Choice(mode=mode)
    if not isinstance(value, Mapping):
        raise Malformed("tool_choice", "must be a string or an object")
    kind = string(value.get("type", "function"))
    if kind == "allowed_tools":
        allowed = mapping(value.get("allowed_tools")) or value
        named = tuple(name for tool in objects(allowed.get("tools")) if (name := _named(tool)))
        return Choice(mode="required" if allowed.get("mode") == "required" else "auto", allowed=named)
    name = _named(value)
    if name:
        return Choice(mode="named", name=name)
    if kind in _MODES:
        return Choice(mode=_MODES[kind])
    if kind in ("function", "custom"):
        raise Malformed("tool_choice", "names no tool")
    needs.append(Need(reason="server_tools", where=f"tool_choice.type={kind}"))
    return None


def _named(tool: Any) -> str:
    """The name in ``{function: {name}}``, ``{custom: {name}}`` or ``{name}``."""
    tool = mapping(tool)
    return (
        string(mapping(tool.get("function")).get("name"))
        or string(mapping(tool.get("custom")).get("name"))
        or string(tool.get("name"))
    )
