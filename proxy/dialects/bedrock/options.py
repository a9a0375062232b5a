"""What a Converse request says beside the conversation: sampling, reasoning, tools, the form of the answer.

Reasoning is the model's matter at Bedrock: it travels as free JSON (``additionalModelRequestFields``) in the words of
the model's family, and a family that is not known gets none, because an unknown member is a 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from proxy.dialects.bedrock import words
from proxy.dialects.bedrock.history import Writer
from proxy.dialects.chat import Choice, Json, ModelFacts, NotPortable, Reasoning, Request, Tool, ToolCall
from proxy.dialects.closed import closed
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names

BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""Tokens of thinking for an effort (`providers.md` 2.1)."""
BUDGET_MIN: Final = 1024
EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
FORMAT_TOOL: Final = "json_response"
ONLY_JSON: Final = "Respond with a single JSON object only."
NO_CALLS: Final = "Do not call any tool. Answer in words."
ONE_CALL: Final = "Call at most one tool at a time."
NAMING: Final = frozenset({"claude", "nova"})
"""Families of which a certain tool can be demanded; of others only some tool."""
STOPS_MAX: Final = {"nova": 4, "mistral": 10}
TIERS: Final = {
    "auto": "default",
    "default": "default",
    "standard_only": "default",
    "flex": "flex",
    "priority": "priority",
    "reserved": "reserved",
}


@dataclass(slots=True)
class Tools:
    """The tools of a request as they are sent."""

    config: dict[str, Any] | None = None
    instructions: list[str] = field(default_factory=list)
    """Sentences for the system prompt, where Converse has no field."""
    format_tool: str = ""
    forced: bool = False
    """A call is demanded."""
    text_format: dict[str, Any] | None = None


# Tools and the form of the answer -------------------------------------------------------------------------------------


def tools(request: Request, facts: ModelFacts, writer: Writer, notes: Warnings, thinks: bool) -> Tools:
    """``toolConfig``, and what a wanted form of the answer makes of it. `thinks`: reasoning was asked for."""
    own = request.dialect == words.DIALECT
    out = Tools()
    specs = _specs(request, facts, writer, notes)
    if (specs or writer.has_tool_blocks) and facts.tools is False:
        raise NotPortable("tools", "the model takes no tools")
    choice = request.choice
    if choice is not None and choice.mode == "none" and not own:
        if not writer.has_tool_blocks:
            specs, choice = [], None
        else:
            notes.approximated("choice")
            out.instructions.append(NO_CALLS)
            choice = None
    if request.format is not None:
        _format(request, facts, notes, out, bool(specs), thinks, writer.names)
    if not specs and writer.has_tool_blocks and not own:
        specs = [_stub(name) for name in _called(request, writer.names)]
    if out.format_tool:
        return _with_format_tool(request, facts, out, specs)
    if specs:
        out.config = {"tools": specs}
        _choose(choice, request, facts, writer, out, own)
        if request.parallel is False and request.tools and not own:
            notes.approximated("parallel")
            out.instructions.append(ONE_CALL)
    return out


def _specs(request: Request, facts: ModelFacts, writer: Writer, notes: Warnings) -> list[dict[str, Any]]:
    allowed = request.choice.allowed if request.choice is not None else ()
    out: list[dict[str, Any]] = []
    for tool in request.tools:
        if allowed and tool.name not in allowed:
            continue
        if tool.custom is not None and "converse" in tool.custom:
            out.append(dict(tool.custom["converse"]))  # a server tool of Bedrock's own, which only its callers have
            continue
        out.append({"toolSpec": _spec(tool, request, facts, writer.names, notes)})
        out += writer.cache_point(tool.cache)
    return out


def _spec(tool: Tool, request: Request, facts: ModelFacts, names: Names, notes: Warnings) -> dict[str, Any]:
    own = request.dialect == words.DIALECT
    spec: dict[str, Any] = {"name": names.sent(tool.name)}
    if tool.description.strip():
        spec["description"] = tool.description
    schema: Json
    if tool.custom is not None:
        notes.approximated("tools")
        schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    elif own and tool.parameters is not None:
        schema = tool.parameters
    else:
        schema = {"type": "object", **(tool.parameters or {"properties": {}})}
        if schema["type"] != "object":
            schema = {**schema, "type": "object"}
    if own and tool.strict is not None:
        spec["strict"] = tool.strict
    elif tool.strict:
        found = closed(schema) if facts.structured is True and tool.custom is None else None
        if found is None or found[1]:
            notes.dropped("strict")
        else:
            schema, spec["strict"] = found[0], True
    spec["inputSchema"] = {"json": schema}
    return spec


def _called(request: Request, names: Names) -> list[str]:
    """Tools that the history speaks of, as they are sent, each once."""
    called = (part.name for turn in request.turns for part in turn.parts if isinstance(part, ToolCall))
    return list(dict.fromkeys(names.sent(name) for name in called)) or [names.fresh("tool")]


def _stub(name: str) -> dict[str, Any]:
    """A tool of which nothing but the name is known; Converse wants it declared as long as the history has calls."""
    return {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object", "properties": {}}}}}


def _choose(choice: Choice | None, request: Request, facts: ModelFacts, writer: Writer, out: Tools, own: bool) -> None:
    assert out.config is not None
    if choice is None or (choice.mode in ("auto", "none") and not own):
        return
    if choice.mode == "auto":
        out.config["toolChoice"] = {"auto": {}}
    elif choice.mode in ("required", "named"):
        if facts.forced_tools is False:
            raise NotPortable("tools", "the model cannot be made to call a tool")
        if choice.mode == "named" and not own and all(tool.name != choice.name for tool in request.tools):
            raise NotPortable("tools", "the tool that is to be called is not declared")
        name = writer.names.sent(choice.name)
        if choice.mode == "named" and (own or facts.family in NAMING):
            out.config["toolChoice"] = {"tool": {"name": name}}
        else:
            if choice.mode == "named":  # any call is this one when there is no other tool
                specs = [spec for spec in out.config["tools"] if spec.get("toolSpec", {}).get("name") == name]
                out.config["tools"] = specs
            out.config["toolChoice"] = {"any": {}}
        out.forced = True


def _format(
    request: Request, facts: ModelFacts, notes: Warnings, out: Tools, has_tools: bool, thinks: bool, names: Names
) -> None:
    """Structured output: by the model's own means, by a tool that has to be called, or by a plain request."""
    wanted = request.format
    assert wanted is not None
    if request.dialect == words.DIALECT:
        out.text_format = _text_format(wanted.schema or {}, wanted.name, wanted.description)
        return
    if wanted.kind == "json_object" or wanted.schema is None:
        notes.approximated("format")
        out.instructions.append(ONLY_JSON)
        return
    name = Names([wanted.name]).sent(wanted.name) if wanted.name else ""
    if facts.structured is True:
        found = closed(wanted.schema)
        if found is not None:
            if found[1]:
                notes.approximated("format")
            out.text_format = _text_format(found[0], name, wanted.description)
            return
    if has_tools or thinks:
        raise NotPortable("schema", "without structured outputs a schema excludes tools and reasoning")
    if facts.tools is False or facts.forced_tools is False:
        raise NotPortable("schema", "the model can neither be held to a schema nor made to call a tool")
    if wanted.schema.get("type", "object") != "object":
        raise NotPortable("schema", "the answer is to be something else than an object")
    notes.approximated("format")
    out.format_tool = names.fresh(FORMAT_TOOL)


def _text_format(schema: Json, name: str, description: str) -> dict[str, Any]:
    inner: dict[str, Any] = {"schema": orjson.dumps(schema).decode()}
    if name:
        inner["name"] = name
    if description.strip():
        inner["description"] = description
    return {"type": "json_schema", "structure": {"jsonSchema": inner}}


def _with_format_tool(request: Request, facts: ModelFacts, out: Tools, stubs: list[dict[str, Any]]) -> Tools:
    """The tool whose call is the answer; beside it at most what the history has called."""
    wanted = request.format
    assert wanted is not None
    spec: dict[str, Any] = {
        "name": out.format_tool,
        "description": wanted.description.strip() or "Gives the answer in the form that was asked for.",
        "inputSchema": {"json": {"type": "object", **(wanted.schema or {})}},
    }
    named = facts.family in NAMING
    choice = {"tool": {"name": out.format_tool}} if named else {"any": {}}
    out.config = {"tools": [*(stubs if named else ()), {"toolSpec": spec}], "toolChoice": choice}
    out.forced = True
    return out


# Sampling -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sampling:
    """``inferenceConfig``, and what the model wants elsewhere."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


def sampling(request: Request, facts: ModelFacts, notes: Warnings) -> Sampling:
    """Temperature and its like as far as the model takes them."""
    own = request.dialect == words.DIALECT
    out = Sampling(request.temperature, request.top_p, None if own else request.top_k)
    if own:
        return out
    if facts.sampling is False or (facts.sampling is None and _is_without_sampling(facts)):
        drop_sampling(out, notes)
        return out
    if out.temperature is not None and out.temperature > 1:
        out.temperature = 1.0
        notes.approximated("temperature")
    if out.temperature is not None and out.top_p is not None:
        single = facts.both_sampling is False or (facts.both_sampling is None and facts.family == "claude")
        if single:
            out.top_p = None
            notes.dropped("top_p")
    if out.top_k is not None and facts.family not in ("claude", "nova"):
        out.top_k = None
        notes.dropped("top_k")
    return out


def _is_without_sampling(facts: ModelFacts) -> bool:
    """Claude from Opus 4.7 on refuses sampling parameters (`providers.md` 0.3); used where nothing else is known."""
    return facts.family == "claude" and words.claude_generation(facts.model) >= (4, 7)


def drop_sampling(out: Sampling, notes: Warnings) -> None:
    """Leave all of it out."""
    for name in ("temperature", "top_p", "top_k"):
        if getattr(out, name) is not None:
            setattr(out, name, None)
            notes.dropped(name)


def inference(request: Request, facts: ModelFacts, chosen: Sampling, notes: Warnings) -> dict[str, Any]:
    """``inferenceConfig``; empty when there is nothing to say."""
    out: dict[str, Any] = {}
    own = request.dialect == words.DIALECT
    if request.limit is not None:
        out["maxTokens"] = request.limit
        if not own and facts.max_output_tokens is not None and request.limit > facts.max_output_tokens:
            out["maxTokens"] = facts.max_output_tokens
            notes.approximated("limit")
    if chosen.temperature is not None:
        out["temperature"] = chosen.temperature
    if chosen.top_p is not None:
        out["topP"] = chosen.top_p
    stops = list(request.stop) if own else _stops(request, facts, notes)
    if stops:
        out["stopSequences"] = stops
    return out


def _stops(request: Request, facts: ModelFacts, notes: Warnings) -> list[str]:
    """Claude takes no stop sequence of nothing but white space, and nobody takes an empty one."""
    stops = [stop for stop in request.stop if (stop.strip() if facts.family == "claude" else stop)]
    if len(stops) < len(request.stop):
        notes.dropped("stop")
    if stops and facts.stop is False:
        raise NotPortable("stop", "the model takes no stop sequences")
    most = STOPS_MAX.get(facts.family)
    if most is not None and len(stops) > most:
        raise NotPortable("stop", f"the model takes at most {most} stop sequences")
    return stops


# Reasoning ------------------------------------------------------------------------------------------------------------


def asks_to_think(reasoning: Reasoning | None) -> bool | None:
    """Whether reasoning was switched on (True), off (False), or neither was said (None)."""
    if reasoning is None:
        return None
    if reasoning.mode == "disabled" or reasoning.effort == "none" or reasoning.budget == 0:
        return False
    if reasoning.effort is not None or reasoning.budget is not None or reasoning.mode is not None:
        return True
    return None


def reasoning_kind(facts: ModelFacts) -> str:
    """How the model is asked to reason: the fact where it is known, else what its name tells; ``none``: not at all."""
    if facts.reasoning is not None:
        return facts.reasoning
    if facts.family == "claude":
        generation = words.claude_generation(facts.model)
        return "adaptive" if generation >= (4, 6) else "budget" if generation >= (3, 7) else "none"
    if facts.family == "nova":
        return "effort" if "nova-2" in facts.model else "none"
    return "effort" if facts.family == "gpt-oss" else "none"


def thinks(request: Request, facts: ModelFacts) -> bool:
    """Whether this model would be asked to reason for this request."""
    speaks = facts.family in ("claude", "nova", "gpt-oss")
    return asks_to_think(request.reasoning) is True and speaks and reasoning_kind(facts) not in ("none", "always")


def additional(
    request: Request, facts: ModelFacts, chosen: Sampling, forced: bool, may_think: bool, notes: Warnings
) -> dict[str, Any]:
    """``additionalModelRequestFields``; takes what reasoning forbids out of `chosen`.

    `forced`: a tool call is demanded. `may_think`: the tool loop at the end began with reasoning.
    """
    out: dict[str, Any] = {}
    if request.reasoning is not None:
        if facts.family == "claude":
            _claude(request, facts, chosen, forced, may_think, notes, out)
        elif facts.family == "nova":
            _nova(request, facts, chosen, notes, out)
        elif facts.family == "gpt-oss" and reasoning_kind(facts) != "none":
            _gpt_oss(request.reasoning, notes, out)
        elif asks_to_think(request.reasoning):
            notes.dropped("reasoning")
    if chosen.top_k is not None:
        if facts.family == "nova":
            out["inferenceConfig"] = {"topK": chosen.top_k}
        else:
            out["top_k"] = chosen.top_k
    return out


def _claude(
    request: Request,
    facts: ModelFacts,
    chosen: Sampling,
    forced: bool,
    may_think: bool,
    notes: Warnings,
    out: dict[str, Any],
) -> None:
    reasoning = request.reasoning
    assert reasoning is not None
    kind, wanted = reasoning_kind(facts), asks_to_think(reasoning)
    if not wanted:
        if wanted is False and kind == "adaptive" and words.claude_generation(facts.model) >= (5, 0):
            out["thinking"] = {"type": "disabled"}
        elif wanted is False and kind == "always":
            notes.dropped("reasoning")
        return
    if kind in ("none", "always"):
        notes.dropped("reasoning")
        return
    if kind != "budget":
        effort = _effort(reasoning, facts, notes)
        if forced and effort in ("xhigh", "max"):
            effort = "high"  # more than that is refused where the model may not think first
        if effort:
            out["output_config"] = {"effort": effort}
        if forced:
            notes.dropped("reasoning")
            return
        out["thinking"] = {"type": "adaptive"}
        if reasoning.shown is not False:
            out["thinking"]["display"] = "summarized"
    else:
        budget = _budget(request, facts, notes)
        if budget is None or forced or not may_think:
            notes.dropped("reasoning")
            return
        out["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if chosen.temperature == 1:
        chosen.temperature = None  # the only one that goes with thinking, and what holds anyway
    drop_sampling(chosen, notes)


def _budget(request: Request, facts: ModelFacts, notes: Warnings) -> int | None:
    """Tokens to think with, below the limit of the answer, which includes them; None: the limit leaves no room."""
    reasoning = request.reasoning
    assert reasoning is not None
    if reasoning.budget is not None and reasoning.budget > 0:
        budget = reasoning.budget
    else:
        budget = BUDGETS.get(reasoning.effort or "medium", BUDGETS["medium"])
        notes.approximated("reasoning")
    limits = [limit for limit in (request.limit, facts.max_output_tokens) if limit is not None]
    limit = min(limits, default=32_000)
    if limit <= BUDGET_MIN:
        return None
    # A fifth is kept for the answer itself where the limit is that narrow.
    fitting = max(BUDGET_MIN, min(budget, limit * 4 // 5 if budget >= limit else budget))
    if fitting != budget:
        notes.approximated("reasoning")
    return fitting


def _effort(reasoning: Reasoning, facts: ModelFacts, notes: Warnings) -> str:
    """The effort for an adaptive Claude; empty: its own."""
    if reasoning.effort is None:
        if reasoning.budget is None or reasoning.budget < 0:
            return ""
        notes.approximated("reasoning")
        return "low" if reasoning.budget <= 2048 else "medium" if reasoning.budget <= 8192 else "high"
    known = facts.efforts or frozenset({"low", "medium", "high"})
    return _nearest(reasoning.effort, known, notes)


def _nearest(effort: str, known: Sequence[str] | frozenset[str], notes: Warnings) -> str:
    """The effort itself where it is known, else the next lower one, else the lowest."""
    if effort in known:
        return effort
    notes.approximated("reasoning")
    at = EFFORTS.index(effort) if effort in EFFORTS else EFFORTS.index("medium")
    lower = [name for name in EFFORTS[:at] if name in known]
    higher = [name for name in EFFORTS[at:] if name in known]
    return lower[-1] if lower else higher[0] if higher else "medium"


def _as_effort(reasoning: Reasoning, notes: Warnings) -> str:
    """Low, medium or high for whatever was asked."""
    if reasoning.effort is not None:
        return _nearest(reasoning.effort, ("low", "medium", "high"), notes)
    if reasoning.budget is None or reasoning.budget < 0:
        return "medium"
    notes.approximated("reasoning")
    return "low" if reasoning.budget <= 2048 else "medium" if reasoning.budget <= 8192 else "high"


def _nova(request: Request, facts: ModelFacts, chosen: Sampling, notes: Warnings, out: dict[str, Any]) -> None:
    reasoning = request.reasoning
    assert reasoning is not None
    if not asks_to_think(reasoning):
        return  # it does not think by itself
    if reasoning_kind(facts) in ("none", "always"):
        notes.dropped("reasoning")
        return
    effort = _as_effort(reasoning, notes)
    if effort == "high" and request.limit is not None:
        effort = "medium"  # the highest effort is refused beside a limit, and the limit is the caller's money
        notes.approximated("reasoning")
    if effort == "high":
        drop_sampling(chosen, notes)
    out["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": effort}


def _gpt_oss(reasoning: Reasoning, notes: Warnings, out: dict[str, Any]) -> None:
    """It always reasons: off becomes as little as there is."""
    wanted = asks_to_think(reasoning)
    if wanted is False:
        notes.approximated("reasoning")
        out["reasoning_effort"] = "low"
    elif wanted:
        out["reasoning_effort"] = _as_effort(reasoning, notes)
