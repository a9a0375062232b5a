"""A canonical request as the body of a chat completion (`providers.md` 2.2, 2.5)."""

from __future__ import annotations

from typing import Any, Final

from proxy.dialects.chat import Encoded, ModelFacts, NotPortable, Request
from proxy.dialects.openai import effort
from proxy.dialects.openai.messages_out import MessagesWriter
from proxy.dialects.openai.quirks import (
    is_reasoning,
    limit_name,
    obstacle,
    quirks_of,
    refuses_defaults,
    refuses_sampling,
    refuses_stop,
    vendor,
)
from proxy.dialects.openai.tools_out import ToolsWriter
from proxy.dialects.openai.words import TIERS
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names, named_in

_USER_MAX: Final = 128
"""Longest ``safety_identifier``."""


def write_request(request: Request, facts: ModelFacts) -> Encoded:
    """The body for a target of this dialect. Raises `NotPortable`."""
    warn = Warnings(request.dialect)
    own = request.dialect == "chat"
    _check(request, facts)
    names = Names(() if own else named_in(request))
    body: dict[str, Any] = {"model": facts.model or request.model}
    body["messages"] = MessagesWriter(request, facts, names, warn).write()
    if not body["messages"]:
        raise NotPortable("malformed", "no message has anything to say")
    if not own and body["messages"][-1]["role"] == "assistant" and quirks_of(facts).prefill == "flags":
        body.update(continue_final_message=True, add_generation_prompt=False)
    tools = ToolsWriter(request, facts, names, warn, body)
    tools.write()
    effort.write(request, facts, body, warn)
    _limit(request, facts, body, warn)
    _sampling(request, facts, body, warn)
    _hints(request, facts, body, warn)
    _stream(request, facts, body)
    _rest(request, facts, body, warn)
    return Encoded(
        body=body,
        warnings=warn.listed(),
        names={} if own else names.changed,
        format_tool=tools.format_tool,
    )


def _check(request: Request, facts: ModelFacts) -> None:
    """Refuse what the target cannot honour. A grammar is no obstacle for OpenAI's own tools."""
    if request.dialect == "chat":
        reason = obstacle({**request.extra, "stop": [each for each in request.stop if each]}, facts)
        if reason:
            raise NotPortable(reason, f"the target does not take {reason}")
        return
    takes_grammars = request.dialect == "responses" and quirks_of(facts).custom_tools
    for need in request.needs:
        if not (takes_grammars and need.reason in ("tools", "grammar")):
            raise NotPortable(need.reason, f"{need.where} has no counterpart in chat completions")


def _limit(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    limit, most = request.limit, facts.max_output_tokens
    if limit is None:
        return
    if most is not None and limit > most:
        limit = most
        warn.approximated("limit")
    body[limit_name(facts)] = limit


def _sampling(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    refused = refuses_sampling(facts, body.get("reasoning_effort"))
    for name in ("temperature", "top_p"):
        value = getattr(request, name)
        if value is None:
            continue
        if refused and (value != 1 or refuses_defaults(facts)):
            warn.dropped(name)
        else:
            body[name] = value
    if facts.both_sampling is False and "temperature" in body and "top_p" in body:
        del body["top_p"]
        warn.dropped("top_p")
    quirks, own, known = quirks_of(facts), request.dialect == "chat", bool(vendor(facts))
    if request.top_k is not None:
        if facts.sampling is not False and (quirks.top_k or (own and not known)):
            body["top_k"] = request.top_k
        else:
            warn.dropped("top_k")
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(request, name)
        if value is None:
            continue
        if name in quirks.strip or (refused and value):
            warn.dropped(name)
        else:
            body[name] = value
    _stop(request, facts, body, warn)
    if request.seed is not None:
        if quirks.seed:
            body[quirks.seed] = request.seed
        else:
            warn.dropped("seed")


def _stop(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    stop = [each for each in request.stop if each]
    if not stop:
        return
    if refuses_stop(facts):
        warn.dropped("stop")
        return
    most = quirks_of(facts).stops
    is_bound = bool(vendor(facts)) or request.dialect != "chat"
    if most is not None and len(stop) > most and is_bound:
        raise NotPortable("stop", f"the target takes at most {most} stop sequences")
    body["stop"] = stop


def _hints(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    """What may be left out where it has no place, each with a warning."""
    quirks, who, own = quirks_of(facts), vendor(facts), request.dialect == "chat"
    openai = who in ("openai", "azure")
    related = own or (request.dialect == "responses" and openai)

    def put(field: str, name: str, value: Any, taken: bool) -> None:
        if value in (None, "", {}):
            return
        if taken and name not in quirks.strip:
            body[name] = value
        else:
            warn.dropped(field)

    put("user", "safety_identifier" if openai else "user", request.user[:_USER_MAX], True)
    put("metadata", "metadata", request.metadata, own)
    put("service_tier", "service_tier", request.service_tier, own or (related and request.service_tier in TIERS))
    put("cache_key", "prompt_cache_key", request.cache_key, own or openai)
    put("verbosity", "verbosity", request.verbosity, own or (openai and is_reasoning(facts.model)))


def _stream(request: Request, facts: ModelFacts, body: dict[str, Any]) -> None:
    if not request.stream:
        return
    body["stream"] = True
    if not quirks_of(facts).stream_options:
        return
    options: dict[str, Any] = {}
    if request.dialect == "chat":
        options.update(request.extra.get("stream_options") or {})
    if request.include_usage or request.dialect != "chat":
        options["include_usage"] = True
    if options:
        body["stream_options"] = options


def _rest(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    """What only this dialect knows, for its own callers; all others are told that it is left out."""
    if request.dialect != "chat":
        for name in (*request.hints, *request.extra):
            warn.dropped(name)
        return
    strip = quirks_of(facts).strip
    for name, value in request.extra.items():
        if name.startswith("messages.") or name in ("tools", "response_format", "stream_options"):
            continue
        if name in strip:
            warn.dropped(name)
        else:
            body[name] = value
