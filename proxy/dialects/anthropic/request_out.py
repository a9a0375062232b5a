"""A canonical request as the body of a Messages request (`providers.md` 1.5, 2.1)."""

from __future__ import annotations

from typing import Any, Final

from proxy.dialects.anthropic import options, tools_out
from proxy.dialects.anthropic.blocks_out import Blocks
from proxy.dialects.anthropic.history import History, thinks_before_calls
from proxy.dialects.anthropic.words import DIALECT
from proxy.dialects.chat import Encoded, ModelFacts, NotPortable, Request
from proxy.dialects.spelling import Warnings

HINTS: Final = ("presence_penalty", "frequency_penalty", "seed", "verbosity", "cache_key")
"""Fields that Anthropic has no place for and that may be left out."""


def write_request(request: Request, facts: ModelFacts) -> Encoded:
    """The body for a target. Raises `NotPortable`."""
    own = request.dialect == DIALECT
    if request.needs and not own:
        need = request.needs[0]
        raise NotPortable(need.reason, f"{need.where} has no counterpart in the Messages API")
    notes = Warnings(request.dialect)
    blocks = Blocks(request, facts, notes)
    history = History(request, facts, blocks, notes)
    # In the order in which Anthropic reads them, because their cache marks are counted.
    tools = tools_out.write(request, facts, blocks, history.has_tool_blocks, options.thinks(request, facts))
    system = history.system() + [{"type": "text", "text": text} for text in tools.instructions]
    messages = history.messages()
    _may_begin(history, tools, own)
    most = options.limit(request, facts, notes)
    body: dict[str, Any] = {"model": facts.model, "max_tokens": most, "messages": messages}
    if system:
        body["system"] = system
    if tools.tools:
        body["tools"] = tools.tools
    if tools.choice is not None:
        body["tool_choice"] = tools.choice
    body.update(options.sampling(request, facts, notes))
    blocked = history.ends_with_assistant or not thinks_before_calls(messages)
    thought = options.reasoning(request, facts, most, tools.forced, blocked, notes)
    _reason(thought, tools, body, notes)
    _rest(request, facts, body, notes)
    return Encoded(body=body, warnings=notes.listed(), names=blocks.names.changed, format_tool=tools.format_tool)


def _may_begin(history: History, tools: tools_out.Tools, own: bool) -> None:
    """A beginning that the model is to go on with goes with neither a demanded call nor a form of the answer."""
    if history.ends_with_assistant and not own and (tools.forced or tools.format is not None):
        raise NotPortable("prefill", "the last message is the assistant's, and another form of answer is demanded")


def _reason(thought: options.Thought, tools: tools_out.Tools, body: dict[str, Any], notes: Warnings) -> None:
    if thought.thinking is not None:
        body["thinking"] = thought.thinking
    config: dict[str, Any] = {"effort": thought.effort} if thought.effort else {}
    if tools.format is not None:
        config["format"] = tools.format
    if config:
        body["output_config"] = config
    if thought.is_on and not thought.kept:
        if body.get("temperature") == 1:
            del body["temperature"]  # the only one that goes with thinking, and what holds anyway
        options.without_sampling(body, notes)


def _rest(request: Request, facts: ModelFacts, body: dict[str, Any], notes: Warnings) -> None:
    """Stops, tier, metadata, and what only Anthropic knows."""
    if stops := options.stops(request, facts, notes):
        body["stop_sequences"] = stops
    if tier := options.service_tier(request, notes):
        body["service_tier"] = tier
    if metadata := options.metadata(request, notes):
        body["metadata"] = metadata
    if request.stream:
        body["stream"] = True
    if request.dialect == DIALECT:
        for name, value in request.extra.items():
            if name == "tools" or "." in name:
                continue  # written with the blocks and tools they belong to
            have = body.get(name)
            body[name] = {**have, **value} if isinstance(have, dict) and isinstance(value, dict) else value
        return
    for name in HINTS:
        if getattr(request, name) not in (None, ""):
            notes.dropped(name)
    for name in (*request.hints, *request.extra):
        notes.dropped(name)
