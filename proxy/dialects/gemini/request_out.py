"""A canonical request as the body of Gemini's ``generateContent`` (`providers.md` 1.6, 2.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects import schema
from proxy.dialects.chat import Encoded, Json, ModelFacts, NotPortable, Request, Tool, ToolCall
from proxy.dialects.gemini.history import History
from proxy.dialects.gemini.models import Generation, generation, thinking
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names

NAME_BAD: Final = re.compile(r"^[^a-zA-Z_]|[^a-zA-Z0-9_.:-]")
STOPS_MAX: Final = 5
SEED_MAX: Final = 2**31 - 1
JSON_SCHEMA: Final = frozenset(
    {
        "$defs", "definitions", "$ref", "type", "format", "description", "enum", "const", "items", "prefixItems",
        "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties",
        "required", "propertyOrdering",
    }
)  # fmt: skip
"""Keywords that ``responseJsonSchema`` and ``parametersJsonSchema`` heed. Others are taken, and passed over."""
LIMITING: Final = frozenset(
    {
        "pattern", "minLength", "maxLength", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems",
        "minProperties", "maxProperties", "minContains", "maxContains", "contentEncoding", "contentMediaType",
        "deprecated", "readOnly", "writeOnly",
    }
)  # fmt: skip
"""Keywords that narrow a value without changing its shape: an answer without them still parses."""
CUSTOM: Final[Json] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""Parameters of the function that stands for a custom tool with free text."""


def write_request(request: Request, facts: ModelFacts, *, openapi: bool | None = None) -> Encoded:
    """The body for the target. Raises `NotPortable`.

    `openapi`: whether schemas are sent in the older form after OpenAPI; None: only to models before 2.0, which know no
    other.
    """
    warn = Warnings(request.dialect)
    made = generation(facts)
    own = request.dialect == "gemini"
    if request.needs and not own:
        need = request.needs[0]
        raise NotPortable(need.reason, f"{need.where} has no equivalent at Gemini")
    writer = _Writer(request, facts, made, warn, made < (2, 0) if openapi is None else openapi)
    body = writer.body()
    if own:
        for path, value in request.extra.items():
            _put(body, path, value)
    else:
        _leave_out(request, warn)
    return Encoded(body=body, warnings=warn.listed(), names=writer.names.changed)


def _leave_out(request: Request, warn: Warnings) -> None:
    """Warn of the hints that have no place here."""
    for name in ("verbosity", "user", "metadata", "service_tier", "cache_key"):
        if getattr(request, name):
            warn.dropped(name)
    for name in (*request.hints, *request.extra):
        warn.dropped(name)
    marked = any(getattr(part, "cache", "") for turn in request.turns for part in turn.parts)
    if marked or any(tool.cache for tool in request.tools):
        warn.dropped("cache")


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set what the reader kept under a dotted path (``generationConfig.mediaResolution``)."""
    *steps, last = path.split(".")
    if steps == ["tools"]:  # members of declarations, by the name of the tool
        for entry in body.get("tools", ()):
            for declared in entry.get("functionDeclarations", ()):
                if isinstance(value, Mapping) and declared["name"] in value:
                    declared[last] = value[declared["name"]]
        return
    at = body
    for step in steps:
        at = at.setdefault(step, {})
    if path == "tools":
        at[last] = [*at.get(last, []), *value]
    else:
        at[last] = value


class _Writer:
    """One request for one target."""

    __slots__ = ("_facts", "_made", "_openapi", "_request", "_tools", "_warn", "names")

    def __init__(self, request: Request, facts: ModelFacts, made: Generation, warn: Warnings, openapi: bool) -> None:
        self._request = request
        self._facts = facts
        self._made = made
        self._warn = warn
        self._openapi = openapi
        called = (part.name for turn in request.turns for part in turn.parts if isinstance(part, ToolCall))
        self.names = Names(
            [*(tool.name for tool in request.tools), *called], bad=NAME_BAD, longest=128 if made >= (3, 0) else 64
        )
        self._tools = request.tools
        if self._tools and facts.tools is False:
            raise NotPortable("tools", "the target calls no tools")

    def body(self) -> dict[str, Any]:
        history = History(self._request, self._facts, self._made, self.names.sent, self._warn)
        history.write()
        body: dict[str, Any] = {"contents": history.contents}
        if history.system:
            body["systemInstruction"] = {"parts": history.system}
        if self._tools:
            body["tools"] = [{"functionDeclarations": [self._declared(tool) for tool in self._tools]}]
        if config := self._calling():
            body["toolConfig"] = {"functionCallingConfig": config}
        if config := self._config():
            body["generationConfig"] = config
        if self._facts.safety_settings:
            body["safetySettings"] = [dict(setting) for setting in self._facts.safety_settings]
        return body

    # Tools ------------------------------------------------------------------------------------------------------------

    def _declared(self, tool: Tool) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.names.sent(tool.name)}
        if tool.description:
            out["description"] = tool.description
        parameters = tool.parameters
        if tool.custom is not None:
            if tool.custom.get("type") == "grammar":
                raise NotPortable("tools", "a custom tool demands a grammar")
            self._warn.approximated("tools")
            parameters = CUSTOM
        if parameters is None or schema.is_empty_object(parameters):
            return out
        if self._openapi:
            out["parameters"], lossy = schema.openapi(parameters)
            if lossy:
                self._warn.approximated("tools")
        else:
            out["parametersJsonSchema"] = parameters
            if tool.strict and schema.beyond(parameters, JSON_SCHEMA):
                self._warn.approximated("tools")
        return out

    def _calling(self) -> dict[str, Any]:
        request, choice = self._request, self._request.choice
        if request.parallel is False and self._tools:
            self._warn.dropped("parallel")
        if choice is None or not self._tools:
            return {}  # a choice without declarations is refused
        if choice.mode == "none":
            return {"mode": "NONE"}
        allowed = [choice.name] if choice.mode == "named" else list(choice.allowed)
        if choice.mode == "auto":
            if not allowed:
                return {"mode": "AUTO"}
            return {"mode": "VALIDATED", "allowedFunctionNames": [self.names.sent(name) for name in allowed]}
        if self._facts.forced_tools is False:
            raise NotPortable("tools", "the target cannot be made to call a tool")
        out: dict[str, Any] = {"mode": "ANY"}
        if allowed:
            out["allowedFunctionNames"] = [self.names.sent(name) for name in allowed]
        return out

    # Settings ---------------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        request, out = self._request, dict[str, Any]()
        self._sampling(out)
        if request.limit is not None:
            most = self._facts.max_output_tokens
            out["maxOutputTokens"] = request.limit if most is None else min(request.limit, most)
            if most is not None and request.limit > most:
                self._warn.approximated("limit")
        if stops := [stop for stop in request.stop if stop]:
            if len(stops) > STOPS_MAX or self._facts.stop is False:
                raise NotPortable("stop", "the target takes at most five stop sequences")
            out["stopSequences"] = stops
        if request.seed is not None:
            if -SEED_MAX - 1 <= request.seed <= SEED_MAX:
                out["seed"] = request.seed
            else:
                self._warn.dropped("seed")
        out.update(self._format())
        if config := thinking(request, self._facts, self._warn):
            out["thinkingConfig"] = config
        return out

    def _sampling(self, out: dict[str, Any]) -> None:
        request, facts = self._request, self._facts
        for name, key in (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK")):
            value = getattr(request, name)
            if value is None:
                continue
            if facts.sampling is False or (name == "top_p" and facts.both_sampling is False and "temperature" in out):
                self._warn.dropped(name)
            else:
                out[key] = value
        if out.get("temperature", 0) > 2 and request.dialect != "gemini":
            out["temperature"] = 2.0
            self._warn.approximated("temperature")
        for name, key in (("presence_penalty", "presencePenalty"), ("frequency_penalty", "frequencyPenalty")):
            value = getattr(request, name)
            if value is None:
                continue
            if self._made >= (3, 0) or facts.sampling is False:
                if value:
                    self._warn.dropped(name)
            else:
                out[key] = value

    def _format(self) -> dict[str, Any]:
        wanted = self._request.format
        if wanted is None:
            return {}
        if self._tools and self._made < (3, 0) and self._request.dialect != "gemini":
            raise NotPortable("schema", "a model before Gemini 3 takes no output format together with tools")
        out: dict[str, Any] = {"responseMimeType": "application/json"}
        if wanted.kind == "json_object" or wanted.schema is None:
            return out
        if self._facts.structured is False:
            raise NotPortable("schema", "the target has no structured output")
        if self._openapi:
            out["responseSchema"], lossy = schema.openapi(wanted.schema)
            if lossy and wanted.strict:
                raise NotPortable("schema", "the output schema says more than the target's form can")
            if lossy:
                self._warn.approximated("format")
            return out
        unheeded = schema.beyond(wanted.schema, JSON_SCHEMA)
        if wanted.strict and unheeded - LIMITING:
            raise NotPortable("schema", f"the target passes over {sorted(unheeded - LIMITING)[0]} of the output schema")
        if unheeded:
            self._warn.approximated("format")
        out["responseJsonSchema"] = wanted.schema
        return out
