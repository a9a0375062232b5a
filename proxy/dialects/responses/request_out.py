"""A canonical request as the body of a Responses call (`providers.md` 2.5)."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

from proxy.dialects.chat import Encoded, Format, ModelFacts, NotPortable, Reasoning, Request, Role, Text, Tool
from proxy.dialects.responses.items_out import ItemsWriter
from proxy.dialects.responses.words import DIALECT, TIERS
from proxy.dialects.spelling import Warnings
from proxy.dialects.strictness import is_strict
from proxy.dialects.tools import NAME_BAD, Names

LIMIT_MIN: Final = 16
"""Smallest ``max_output_tokens`` that OpenAI takes."""
_USER_MAX: Final = 128
"""Longest ``safety_identifier``."""
_BUDGETS: Final = ((2048, "low"), (8192, "medium"), (24576, "high"))
"""Most tokens of a budget that an effort stands for; above them ``xhigh`` (`providers.md` 2.2)."""
_LOWER: Final = {"max": "xhigh", "xhigh": "high", "minimal": "low"}
_JSON_ONLY: Final = "Respond with a single JSON object only."
_NOTHING: Final = re.compile(r"(?!)")
"""What is bad in a name of the caller's own dialect."""
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}


def write_request(request: Request, facts: ModelFacts) -> Encoded:
    """The body for a target of this API. Raises `NotPortable`."""
    own = request.dialect == DIALECT
    warn = Warnings(request.dialect)
    if not own:
        _check(request)
    names = Names(bad=_NOTHING, longest=sys.maxsize) if own else Names(_names(request))
    body: dict[str, Any] = {"model": facts.model or request.model}
    items = ItemsWriter(request, facts, names, warn)
    written = items.write()
    if written or "prompt" not in request.extra:
        body["input"] = written
    if items.instructions:
        body["instructions"] = items.instructions
    _tools(request, facts, names, body, warn)
    _text(request, facts, body, warn)
    _reasoning(request, facts, body, warn)
    _options(request, facts, body, warn)
    _rest(request, body, warn)
    return Encoded(body=body, warnings=warn.listed(), names={} if own else names.changed)


def _check(request: Request) -> None:
    """Refuse what the target cannot honour; a grammar is at home here."""
    for need in request.needs:
        if need.reason not in ("tools", "grammar"):
            raise NotPortable(need.reason, f"{need.where} has no counterpart in the Responses API")


def _names(request: Request) -> list[str]:
    chosen = [request.choice.name] if request.choice is not None and request.choice.name else []
    return [*(tool.name for tool in request.tools), *chosen]


# Tools ----------------------------------------------------------------------------------------------------------------


def _tools(request: Request, facts: ModelFacts, names: Names, body: dict[str, Any], warn: Warnings) -> None:
    own, choice = request.dialect == DIALECT, request.choice
    tools: list[dict[str, Any]] = [_tool(tool, names, own, warn) for tool in request.tools]
    if tools and facts.tools is False and not own:
        if choice is None or choice.mode != "none":
            raise NotPortable("tools", "the model takes no tools")
        return
    for at, raw in sorted((request.extra.get("tools") or {}).items(), key=lambda entry: int(entry[0])):
        tools.insert(int(at), dict(raw))
    for key, table in request.extra.items() if own else ():
        if key.startswith("tools."):
            for at, value in table.items():
                tools[int(at)][key.removeprefix("tools.")] = value
    if not tools:
        if choice is not None and choice.mode not in ("none", "auto"):
            warn.dropped("choice")
        return
    body["tools"] = tools
    if request.parallel is not None:
        body["parallel_tool_calls"] = request.parallel
    if choice is None:
        return
    if choice.mode in ("required", "named") and facts.forced_tools is False and not own:
        raise NotPortable("tools", "the model cannot be made to call a tool")
    customs = {tool.name for tool in request.tools if tool.custom is not None}

    def named(name: str) -> dict[str, Any]:
        return {"type": "custom" if name in customs else "function", "name": names.sent(name)}

    if choice.mode == "named":
        body["tool_choice"] = named(choice.name)
    elif choice.allowed and choice.mode != "none":
        allowed = [named(name) for name in choice.allowed]
        body["tool_choice"] = {"type": "allowed_tools", "mode": choice.mode, "tools": allowed}
    else:
        body["tool_choice"] = choice.mode


def _tool(tool: Tool, names: Names, own: bool, warn: Warnings) -> dict[str, Any]:
    if tool.custom is not None:
        out: dict[str, Any] = {"type": "custom", "name": names.sent(tool.name)}
        if tool.description:
            out["description"] = tool.description
        if tool.custom:
            form = dict(tool.custom)
            grammar = form.pop("grammar", None)
            out["format"] = {**form, **grammar} if isinstance(grammar, dict) else form
        return out
    out = {"type": "function", "name": names.sent(tool.name)}
    if tool.description:
        out["description"] = tool.description
    out["parameters"] = dict(tool.parameters) if tool.parameters is not None else dict(_NO_PARAMETERS)
    if not own:
        # Here a function is strict unless it says otherwise; elsewhere it is not.
        out["strict"] = bool(tool.strict) and is_strict(out["parameters"])
        if tool.strict and not out["strict"]:
            warn.approximated("tools.strict")
    elif tool.strict is not None:
        out["strict"] = tool.strict
    return out


# Text and reasoning ---------------------------------------------------------------------------------------------------


def _text(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    text: dict[str, Any] = {
        key.partition(".")[2]: value for key, value in request.extra.items() if key.startswith("text.")
    }
    if request.format is not None:
        text["format"] = _format(request.format, request, facts, body, warn)
    if request.verbosity:
        text["verbosity"] = request.verbosity
    if text:
        body["text"] = text


def _speaks_of_json(request: Request) -> bool:
    """Whether a message that becomes an item of the input has the word in it."""
    turns = request.turns
    first = next((at for at, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    return any(
        isinstance(part, Text) and "json" in part.text.lower()
        for turn in turns[first:]
        if turn.role is not Role.ASSISTANT
        for part in turn.parts
    )


def _format(wish: Format, request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> dict[str, Any]:
    own = request.dialect == DIALECT
    if wish.kind == "json_object":
        if not own and not _speaks_of_json(request):
            # The word has to stand in the input, or the request is refused; instructions do not count.
            body["input"].insert(0, {"role": "developer", "content": _JSON_ONLY})
            warn.approximated("format")
        return {"type": "json_object"}
    if facts.structured is False and not own:
        raise NotPortable("schema", "the model has no structured output")
    schema = dict(wish.schema) if wish.schema is not None else {"type": "object"}
    name = wish.name if own else NAME_BAD.sub("_", wish.name)[:64]
    out: dict[str, Any] = {"type": "json_schema", "name": name or "output", "schema": schema}
    if wish.description:
        out["description"] = wish.description
    if own:
        if wish.strict is not None:
            out["strict"] = wish.strict
        return out
    out["strict"] = wish.strict is not False and is_strict(schema)
    if wish.strict and not out["strict"]:
        warn.approximated("format")
    return out


def _reasoning(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    out: dict[str, Any] = {
        key.partition(".")[2]: value for key, value in request.extra.items() if key.startswith("reasoning.")
    }
    wish = request.reasoning
    if wish is not None:
        if request.dialect != DIALECT and facts.reasoning == "none":
            if _effort(wish) not in (None, "none"):
                warn.dropped("reasoning")
            return
        effort = _accepted(_effort(wish), facts)
        if effort is not None:
            out["effort"] = effort
            if request.dialect != DIALECT and effort != wish.effort and wish.mode != "disabled":
                warn.approximated("reasoning")
        if wish.shown and "summary" not in out:
            out["summary"] = "auto"
    if out:
        body["reasoning"] = out


def _effort(wish: Reasoning) -> str | None:
    """The effort that a wish amounts to; None: none in particular."""
    if wish.mode == "disabled" or wish.budget == 0:
        return "none"
    if wish.effort is not None:
        return wish.effort
    if wish.budget is None or wish.budget < 0:
        return None
    return next((effort for most, effort in _BUDGETS if wish.budget <= most), "xhigh")


def _accepted(effort: str | None, facts: ModelFacts) -> str | None:
    """The effort, or the next lower one that the model is known to take; to switch off is not to ask for little."""
    known = facts.efforts
    if effort is None or known is None or effort in known:
        return effort
    if effort == "none":
        return None
    lower = _LOWER.get(effort)
    while lower is not None and lower not in known:
        lower = _LOWER.get(lower)
    return lower


# Options --------------------------------------------------------------------------------------------------------------


def _options(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    own = request.dialect == DIALECT
    limit, most = request.limit, facts.max_output_tokens
    if limit is not None:
        if most is not None and limit > most and not own:
            limit = most
            warn.approximated("limit")
        if limit < LIMIT_MIN and not own:
            limit = LIMIT_MIN
            warn.approximated("limit")
        body["max_output_tokens"] = limit
    for name in ("temperature", "top_p"):
        value = getattr(request, name)
        if value is None:
            continue
        if facts.sampling is False and (not own or value != 1):
            warn.dropped(name)
        else:
            body[name] = value
    for name in ("top_k", "presence_penalty", "frequency_penalty", "seed"):
        if getattr(request, name) is not None:
            warn.dropped(name)
    if any(request.stop):
        warn.dropped("stop")  # the API has none: as for models of chat that refuse them (`providers.md` 2.2)
    if request.user:
        named = facts.vendor in ("openai", "azure") or "user" in request.extra
        body["safety_identifier" if named else "user"] = request.user if own else request.user[:_USER_MAX]
    if request.metadata:
        if own or request.dialect == "chat":
            body["metadata"] = dict(request.metadata)
        else:
            warn.dropped("metadata")
    if request.cache_key:
        body["prompt_cache_key"] = request.cache_key
    if request.service_tier:
        if own or request.service_tier in TIERS:
            body["service_tier"] = request.service_tier
        else:
            warn.dropped("service_tier")
    if request.stream:
        body["stream"] = True
    if not own:
        body["store"] = False
        if _has_cache_marks(request):
            warn.dropped("cache")


def _has_cache_marks(request: Request) -> bool:
    marked = [*request.tools, *(part for turn in request.turns for part in turn.parts)]
    return any(getattr(each, "cache", "") for each in marked)


def _rest(request: Request, body: dict[str, Any], warn: Warnings) -> None:
    """What only this API knows, for its own callers; all others are told that it is left out."""
    if request.dialect != DIALECT:
        for name in (*request.hints, *request.extra):
            warn.dropped(name)
        return
    body |= {name: value for name, value in request.extra.items() if name != "tools" and "." not in name}
