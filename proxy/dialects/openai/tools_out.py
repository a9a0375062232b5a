"""Tools, the choice among them, and structured output as members of a chat body (`providers.md` 2.2, 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.chat import Choice, Format, Json, ModelFacts, NotPortable, Request, Role, Text, Tool
from proxy.dialects.openai.quirks import quirks_of, vendor
from proxy.dialects.spelling import Warnings
from proxy.dialects.strictness import is_strict
from proxy.dialects.tools import NAME_BAD, Names

FORMAT_TOOL: Final = "json_response"
"""Name of the tool that stands for structured output."""
_INPUT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The input as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""Parameters of the function that stands for a custom tool with free text."""
_WORD: Final = "Answer with a JSON object."


class ToolsWriter:
    """Writes the tools of one request into its body."""

    __slots__ = ("_body", "_facts", "_names", "_own", "_quirks", "_request", "_warn", "format_tool")

    def __init__(self, request: Request, facts: ModelFacts, names: Names, warn: Warnings, body: dict[str, Any]) -> None:
        self._request = request
        self._facts = facts
        self._names = names
        self._warn = warn
        self._body = body
        self._quirks = quirks_of(facts)
        self._own = request.dialect == "chat"
        self.format_tool = ""
        """See `Encoded`."""

    def write(self) -> None:
        """Set ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``response_format``. Raises `NotPortable`."""
        request, choice = self._request, self._request.choice
        tools = list(request.tools)
        if choice is not None and choice.allowed and not self._takes_allowed():
            tools = [tool for tool in tools if tool.name in choice.allowed]
        written = [self._tool(tool) for tool in tools]
        self._add_hosted(written)
        if written and self._facts.tools is False:
            if choice is None or choice.mode != "none":
                raise NotPortable("tools", "the target takes no tools")
            written = []
        if written:
            self._body["tools"] = written
            self._choice(choice)
            self._parallel(request.parallel)
        if request.format is not None:
            self._format(request.format)
        elif "response_format" in request.extra and self._own:
            self._body["response_format"] = request.extra["response_format"]

    def _takes_allowed(self) -> bool:
        return self._quirks.custom_tools or (self._own and not vendor(self._facts))

    # Tools ------------------------------------------------------------------------------------------------------------

    def _add_hosted(self, written: list[dict[str, Any]]) -> None:
        """Tools that run at the provider, for callers of this dialect: at the places where they stood."""
        hosted = self._request.extra.get("tools") if self._own else None
        if isinstance(hosted, Mapping):
            for at, tool in hosted.items():
                written.insert(int(at), dict(tool))

    def _tool(self, tool: Tool) -> dict[str, Any]:
        name = tool.name if self._own else self._names.sent(tool.name)
        if tool.custom is not None:
            return self._custom(tool, name, tool.custom)
        function: dict[str, Any] = {"name": name}
        if tool.description:
            function["description"] = tool.description
        if tool.parameters is not None:
            function["parameters"] = tool.parameters if self._own else _object(tool.parameters)
        elif not self._own:
            function["parameters"] = {"type": "object", "properties": {}}
        if self._own and tool.strict is not None:
            function["strict"] = tool.strict
        elif tool.strict:
            if is_strict(function["parameters"]):
                function["strict"] = True
            else:
                self._warn.approximated("tools.strict")
        out: dict[str, Any] = {"type": "function", "function": function}
        if tool.cache:
            self._cache(out, tool.cache)
        return out

    def _custom(self, tool: Tool, name: str, form: Json) -> dict[str, Any]:
        if self._quirks.custom_tools or (self._own and not vendor(self._facts)):
            custom: dict[str, Any] = {"name": name}
            if tool.description:
                custom["description"] = tool.description
            if form:
                custom["format"] = _format_out(form)
            return {"type": "custom", "custom": custom}
        if form.get("type") == "grammar":
            raise NotPortable("tools", "a custom tool demands a grammar")
        self._warn.approximated("tools.custom")
        function: dict[str, Any] = {"name": name, "parameters": _INPUT}
        if tool.description:
            function["description"] = tool.description
        return {"type": "function", "function": function}

    def _cache(self, out: dict[str, Any], mark: str) -> None:
        if (self._own and self._quirks.cache is not False) or (
            self._quirks.cache is True and self._facts.family == "claude"
        ):
            out["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if mark == "1h" else {"type": "ephemeral"}
        else:
            self._warn.dropped("cache")

    # Choice -----------------------------------------------------------------------------------------------------------

    def _choice(self, choice: Choice | None) -> None:
        if choice is None:
            return
        if choice.mode in ("required", "named") and self._facts.forced_tools is False:
            raise NotPortable("tools", "the target cannot be made to call a tool")
        if choice.mode == "named":
            self._body["tool_choice"] = self._named(choice.name)
        elif choice.allowed and self._takes_allowed() and choice.mode != "none":
            allowed = {"mode": choice.mode, "tools": [self._named(name) for name in choice.allowed]}
            self._body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
        else:
            self._body["tool_choice"] = self._quirks.required if choice.mode == "required" else choice.mode

    def _named(self, name: str) -> dict[str, Any]:
        sent = name if self._own else self._names.sent(name)
        is_custom = any(tool.name == name and tool.custom is not None for tool in self._request.tools)
        kind = "custom" if is_custom and self._takes_allowed() else "function"
        return {"type": kind, kind: {"name": sent}}

    def _parallel(self, parallel: bool | None) -> None:
        if parallel is None:
            return
        if self._quirks.parallel:
            self._body["parallel_tool_calls"] = parallel
        elif not parallel:
            self._warn.dropped("parallel")

    # Structured output ------------------------------------------------------------------------------------------------

    def _format(self, form: Format) -> None:
        if self._own and "response_format" in self._request.extra:
            self._body["response_format"] = self._request.extra["response_format"]
            return
        if form.kind == "json_object":
            self._body["response_format"] = {"type": "json_object"}
            self._ask_for_json()
            return
        lacks = self._facts.structured is False or (not self._quirks.schema and self._facts.structured is None)
        if lacks and not self._own:
            self._stand_in(form)
            return
        self._body["response_format"] = {"type": "json_schema", "json_schema": self._schema(form)}

    def _schema(self, form: Format) -> dict[str, Any]:
        if self._own:
            stated = {"name": form.name, "description": form.description, "schema": form.schema, "strict": form.strict}
            return {key: value for key, value in stated.items() if value not in (None, "")}
        schema = form.schema if form.schema is not None else {"type": "object"}
        out: dict[str, Any] = {"name": NAME_BAD.sub("_", form.name)[:64] or "output", "schema": schema}
        if form.description:
            out["description"] = form.description
        if form.strict is not False:
            out["strict"] = is_strict(schema)
            if form.strict and not out["strict"]:
                self._warn.approximated("format")
        return out

    def _stand_in(self, form: Format) -> None:
        """A tool whose arguments are the answer, at targets without native structured output."""
        if form.schema is None or self._body.get("tools") or self._facts.tools is False:
            raise NotPortable("schema", "the target has no structured output that goes with this request")
        if self._facts.forced_tools is False:
            raise NotPortable("schema", "the target cannot be made to call a tool")
        self.format_tool = self._names.fresh(FORMAT_TOOL)
        function: dict[str, Any] = {
            "name": self.format_tool,
            "description": form.description or "Give the answer in this form.",
            "parameters": _object(form.schema),
        }
        self._body["tools"] = [{"type": "function", "function": function}]
        self._body["tool_choice"] = {"type": "function", "function": {"name": self.format_tool}}
        self._warn.approximated("format")

    def _ask_for_json(self) -> None:
        """OpenAI refuses JSON mode when no message speaks of JSON."""
        if self._own or any(
            "json" in part.text.lower()
            for turn in self._request.turns
            for part in turn.parts
            if isinstance(part, Text) and turn.role is not Role.ASSISTANT
        ):
            return
        self._body["messages"].insert(0, {"role": "system", "content": _WORD})
        self._warn.approximated("format")


def _object(schema: Json) -> Json:
    """Parameters are an object, whether or not the caller says so."""
    if schema.get("type") == "object":
        return schema
    return {"properties": {}, **schema, "type": "object"}


def _format_out(form: Json) -> Json:
    """A custom tool's format as chat spells it; Responses writes a grammar one level higher."""
    if form.get("type") == "grammar" and "grammar" not in form:
        return {"type": "grammar", "grammar": {key: value for key, value in form.items() if key != "type"}}
    return form
