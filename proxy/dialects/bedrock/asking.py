"""A canonical request as the body of Converse and ConverseStream (`providers.md` 1.7, 2.4)."""

from __future__ import annotations

from typing import Any, Final

from proxy.dialects.bedrock import history, options, words
from proxy.dialects.chat import Encoded, ModelFacts, NotPortable, Request
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names, named_in

HINTS: Final = (
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "verbosity",
    "user",
    "metadata",
    "cache_key",
)
"""Fields that Converse has no place for and that may be left out."""


def write_request(request: Request, facts: ModelFacts) -> Encoded:
    """The body for a target, without the model, which stands in the path. Raises `NotPortable`."""
    own = request.dialect == words.DIALECT
    if request.needs and not own:
        need = request.needs[0]
        raise NotPortable(need.reason, f"{need.where} has no counterpart at Bedrock")
    notes = Warnings(request.dialect)
    names = Names(named_in(request))
    writer = history.Writer(request, facts, names, notes)
    thinks = options.thinks(request, facts)
    tools = options.tools(request, facts, writer, notes, thinks)
    system = writer.system() + [{"text": text} for text in tools.instructions]
    messages = writer.messages()
    body: dict[str, Any] = {"messages": messages}
    if system:
        body["system"] = system
    chosen = options.sampling(request, facts, notes)
    fields: dict[str, Any] = {}
    if not own:
        may_think = history.thinks_before_calls(messages)
        fields = options.additional(request, facts, chosen, tools.forced, may_think, notes)
    if inference := options.inference(request, facts, chosen, notes):
        body["inferenceConfig"] = inference
    if tools.config is not None:
        body["toolConfig"] = tools.config
    if tools.text_format is not None:
        body["outputConfig"] = {"textFormat": tools.text_format}
    if fields:
        body["additionalModelRequestFields"] = fields
    if "stopSequences" in inference and facts.family == "claude" and not own:
        # Claude tells which sequence it met only when asked to.
        body["additionalModelResponseFieldPaths"] = ["/stop_sequence"]
    _rest(request, body, notes)
    return Encoded(body=body, warnings=notes.listed(), names=names.changed, format_tool=tools.format_tool)


def _rest(request: Request, body: dict[str, Any], notes: Warnings) -> None:
    """Service tier, metadata and what only Converse knows."""
    own = request.dialect == words.DIALECT
    if request.service_tier:
        tier = request.service_tier if own else options.TIERS.get(request.service_tier)
        if tier is None:
            notes.dropped("service_tier")
        else:
            body["serviceTier"] = {"type": tier}
    if own:
        if request.metadata is not None:
            body["requestMetadata"] = dict(request.metadata)
        for key, value in request.extra.items():
            have = body.get(key)
            body[key] = {**have, **value} if isinstance(have, dict) and isinstance(value, dict) else value
        return
    for name in HINTS:
        if getattr(request, name) not in (None, "", {}):
            notes.dropped(name)
    for name in (*request.hints, *request.extra):
        notes.dropped(name)
