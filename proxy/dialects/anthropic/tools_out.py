"""The tools of a request, which of them must be called, and the form of the answer (`providers.md` 2.1).

A form that the model cannot be held to natively is had by a tool that must be called: its arguments are the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.dialects.anthropic.blocks_out import Blocks
from proxy.dialects.anthropic.words import DIALECT, INPUT
from proxy.dialects.chat import Choice, Format, Json, ModelFacts, NotPortable, Request, Tool, ToolCall
from proxy.dialects.closed import closed
from proxy.dialects.spelling import Warnings

FORMAT_TOOL: Final = "json_response"
ONLY_JSON: Final = "Respond with a single JSON object only."
_COMBINED: Final = ("anyOf", "oneOf", "allOf")

Body = dict[str, Any]


@dataclass(slots=True)
class Tools:
    """The tools of a request as they are sent."""

    tools: list[Body] = field(default_factory=list)
    choice: Body | None = None
    format: Body | None = None
    """``output_config.format``; None: none."""
    instructions: list[str] = field(default_factory=list)
    """Sentences for the system prompt, where Anthropic has no field."""
    format_tool: str = ""
    forced: bool = False
    """A call is demanded."""


def write(request: Request, facts: ModelFacts, blocks: Blocks, has_tool_blocks: bool, thinks: bool) -> Tools:
    """`has_tool_blocks`: the history has calls or results. `thinks`: the model is asked to reason."""
    own = request.dialect == DIALECT
    out = Tools(tools=_own_tools(request, blocks) if own else _tools(request, facts, blocks))
    if (out.tools or has_tool_blocks) and facts.tools is False:
        raise NotPortable("tools", "the model takes no tools")
    on_offer = bool(out.tools)
    if not own and has_tool_blocks and not out.tools:
        # As long as the history has calls there must be tools, also where none is on offer any more.
        out.tools = [_stub(name) for name in _called(request, blocks) or [blocks.names.fresh("tool")]]
    if request.format is not None:
        may_call = on_offer and (request.choice is None or request.choice.mode != "none")
        _format(request, request.format, facts, blocks, out, may_call or thinks)
    if not out.format_tool:
        _choose(request, facts, blocks, out, on_offer)
    return out


# Tools ----------------------------------------------------------------------------------------------------------------


def _own_tools(request: Request, blocks: Blocks) -> list[Body]:
    """The tools of a Messages caller, those of Anthropic's own in their places."""
    servers = request.extra.get("tools") or {}
    mine = iter(request.tools)
    left = [(name[len("tools.") :], places) for name, places in request.extra.items() if name.startswith("tools.")]
    out: list[Body] = []
    for i in range(len(request.tools) + len(servers)):
        place = str(i)
        if place in servers:
            out.append(dict(servers[place]))
            continue
        tool = next(mine)
        body: Body = {"name": blocks.names.sent(tool.name)}
        if tool.description:
            body["description"] = tool.description
        if tool.parameters is not None:
            body["input_schema"] = tool.parameters
        if tool.strict is not None:
            body["strict"] = tool.strict
        body.update((member, places[place]) for member, places in left if place in places)
        out.append(blocks.marked(body, tool.cache))
    return out


def _tools(request: Request, facts: ModelFacts, blocks: Blocks) -> list[Body]:
    allowed = request.choice.allowed if request.choice is not None else ()
    return [
        blocks.marked(_tool(tool, facts, blocks), tool.cache)
        for tool in request.tools
        if not allowed or tool.name in allowed
    ]


def _tool(tool: Tool, facts: ModelFacts, blocks: Blocks) -> Body:
    body: Body = {"name": blocks.names.sent(tool.name)}
    if tool.description.strip():
        body["description"] = tool.description
    if tool.custom is not None:
        blocks.notes.approximated("tools")
        return {**body, "input_schema": INPUT}
    schema = _object(tool.parameters or {}, blocks.notes)
    if tool.strict:
        found = closed(schema) if facts.structured is True else None
        if found is None or found[1]:
            blocks.notes.dropped("strict")
        else:
            schema, body["strict"] = found[0], True
    return {**body, "input_schema": schema}


def _object(schema: Json, notes: Warnings) -> Body:
    """A tool's parameters as the object that they have to be: alternatives at the top are refused."""
    if any(isinstance(schema.get(key), list) for key in _COMBINED):
        notes.approximated("tools")
        schema = _laid_together(schema)
    out = {"type": "object", **schema}
    if out["type"] != "object":
        out["type"] = "object"
    out.setdefault("properties", {})
    return out


def _laid_together(schema: Json) -> Body:
    """The properties of all alternatives; required is what all of them require."""
    out: Body = {key: value for key, value in schema.items() if key not in _COMBINED}
    properties: Body = dict(out.get("properties") or {})
    required = [name for name in out.get("required") or () if isinstance(name, str)]
    for key in _COMBINED:
        branches = [each for each in schema.get(key) or () if isinstance(each, Mapping)]
        for branch in branches:
            found = branch.get("properties")
            for name, inner in found.items() if isinstance(found, Mapping) else ():
                properties.setdefault(name, inner)
        needed = [set(branch.get("required") or ()) for branch in branches]
        if needed:
            common = set.union(*needed) if key == "allOf" else set.intersection(*needed)
            required += sorted(name for name in common if name not in required)
    out["properties"] = properties
    if required:
        out["required"] = required
    return out


def _called(request: Request, blocks: Blocks) -> list[str]:
    """Tools that the history speaks of, as they are sent, each once."""
    called = (part.name for turn in request.turns for part in turn.parts if isinstance(part, ToolCall))
    return list(dict.fromkeys(blocks.names.sent(name) for name in called))


def _stub(name: str) -> Body:
    """A tool of which nothing but the name is known."""
    return {"name": name, "input_schema": {"type": "object", "properties": {}, "additionalProperties": True}}


# Choice ---------------------------------------------------------------------------------------------------------------


def _choose(request: Request, facts: ModelFacts, blocks: Blocks, out: Tools, on_offer: bool) -> None:
    """`on_offer`: there are tools that may be called, and not only such as the history has called."""
    choice = request.choice
    if not on_offer:
        if choice is not None and choice.mode in ("required", "named"):
            raise NotPortable("tools", "a call is demanded and no tool is declared")
        out.choice = {"type": "none"} if out.tools else None
        return
    if choice is None:
        if request.parallel is False:
            out.choice = {"type": "auto", "disable_parallel_tool_use": True}
        return
    out.choice = _written(choice, request, blocks)
    out.forced = choice.mode in ("required", "named")
    if out.forced and facts.forced_tools is False:
        raise NotPortable("forced_tools", "the model cannot be made to call a tool")
    if request.parallel is False and choice.mode != "none":
        out.choice["disable_parallel_tool_use"] = True


def _written(choice: Choice, request: Request, blocks: Blocks) -> Body:
    if choice.mode == "named":
        if request.dialect != DIALECT and all(tool.name != choice.name for tool in request.tools):
            raise NotPortable("tools", "the tool that is to be called is not declared")
        return {"type": "tool", "name": blocks.names.sent(choice.name)}
    return {"type": "any" if choice.mode == "required" else choice.mode}


# The form of the answer -----------------------------------------------------------------------------------------------


def _format(request: Request, wanted: Format, facts: ModelFacts, blocks: Blocks, out: Tools, is_busy: bool) -> None:
    """`is_busy`: the model may call tools or is asked to reason, which a tool that must be called rules out."""
    notes = blocks.notes
    if wanted.kind == "json_object" or wanted.schema is None:
        notes.approximated("format")
        out.instructions.append(ONLY_JSON)
        return
    if request.dialect == DIALECT and facts.structured is not False:
        out.format = {"type": "json_schema", "schema": wanted.schema}
        return
    if facts.structured is True:
        found = closed(wanted.schema)
        if found is not None:
            if found[1]:
                notes.approximated("format")
            out.format = {"type": "json_schema", "schema": found[0]}
            return
    if is_busy:
        raise NotPortable("schema", "without native structured output a schema excludes tools and reasoning")
    if facts.tools is False or facts.forced_tools is False:
        raise NotPortable("schema", "the model can neither be held to a schema nor made to call a tool")
    if wanted.schema.get("type", "object") != "object":
        raise NotPortable("schema", "the answer is to be something else than an object")
    notes.approximated("format")
    _with_format_tool(wanted, blocks, out)


def _with_format_tool(wanted: Format, blocks: Blocks, out: Tools) -> None:
    """The tool whose call is the answer; beside it at most what the history has called."""
    out.format_tool = blocks.names.fresh(FORMAT_TOOL)
    body: Body = {
        "name": out.format_tool,
        "description": wanted.description.strip() or "Gives the answer in the form that was asked for.",
        "input_schema": {"properties": {}, **(wanted.schema or {}), "type": "object"},
    }
    out.tools = [*out.tools, body]
    out.choice = {"type": "tool", "name": out.format_tool, "disable_parallel_tool_use": True}
    out.forced = True
