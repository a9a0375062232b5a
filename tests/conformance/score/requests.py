"""Recorded requests, written for targets of every dialect and compared by meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from proxy.dialects import models, registry
from proxy.dialects.chat import ModelFacts, NotPortable
from tests.conformance.score import asked, meant, sdk
from tests.conformance.score.records import Record, exchanges, fuzzed, parallel_api, parallel_requests

_TARGETS = {
    "chat": ("openai", "gpt-4o-mini", "gpt-5.1"),
    "responses": ("openai", "gpt-4o-mini", "gpt-5.1"),
    "messages": ("anthropic", "claude-sonnet-4-5", "claude-sonnet-5"),
    "generate": ("gemini", "gemini-2.5-flash", "gemini-3-pro"),
    "converse": ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
}
"""Wire API -> (dialect, models that are typical of its targets)."""
HOME = {"invoke": "messages"}
NONSENSE = {
    "fuzz/chat-anthropic-two-arm/case-0186789502d1be4b": "a tool's result that is no text",
    "fuzz/openai-roundtrip/case-00230fe74bfe3766": "a call of a tool without a name",
}
"""Generated requests that every provider refuses; looked at one by one."""


class Excluded(Exception):
    """A target that is left out for a stated reason, which counts neither for nor against."""


def sources() -> Iterator[Record]:
    """Every recorded request that its own provider has taken, and the parallel and the generated ones."""
    for record in exchanges():
        if record.status < 300 and record.api not in ("other",) and isinstance(record.asked, dict):
            yield record
    for case, found in parallel_requests():
        for name, body in found.items():
            yield Record(id=f"parallel/{case}/{name}", api=parallel_api(name), stream=False, body=b"", asked=body)
    yield from fuzzed()


@cache
def targets(api: str) -> tuple[ModelFacts, ...]:
    """What production knows of the typical targets of a wire API."""
    dialect, *names = _TARGETS[api]
    vendor = "openai" if dialect == "openai" else ""
    return tuple(models.facts(name, dialect, vendor, {}, None) for name in names)


def _over_the_wire(body: dict[str, Any]) -> Any:
    """The body as the target reads it."""
    return json.loads(json.dumps(body))


def home_of(record: Record) -> str:
    return HOME.get(record.api, record.api)


def differences(record: Record, target: str, facts: ModelFacts) -> list[str]:
    """What a target is asked otherwise than the caller has asked. Raises `Excluded`."""
    home = home_of(record)
    want = asked.meaning(home, record.asked)
    if record.id in NONSENSE:
        raise Excluded("malformed")
    request = registry.speaker(home).read_request(record.asked)
    try:
        encoded = registry.written(target, request, facts)
    except NotPortable as obstacle:
        raise Excluded(obstacle.reason) from obstacle
    body = _over_the_wire(encoded.body)
    out = []
    if want.hosted and target != home:
        out.append(f"{sorted(set(want.hosted))} passed as if the target had it")
    got = asked.meaning(target, body)
    warnings = " ".join(encoded.warnings)
    out += meant.differences(want, got, encoded.names, encoded.format_tool, warnings)
    if target == "messages" and not isinstance(body.get("max_tokens"), int):
        out.append("no max_tokens")
    if target != home:
        out += sdk.request_faults(target, _as_typed(target, body, facts))
    return out


def _as_typed(target: str, body: dict[str, Any], facts: ModelFacts) -> dict[str, Any]:
    """The body without what its SDK's types have given up though the API version that we call still has it: Claude's
    sampling parameters, for models that take them (`providers.md` 1.5, P30)."""
    if target != "messages" or facts.sampling is False:
        return body
    return {key: value for key, value in body.items() if key not in ("temperature", "top_p", "top_k")}


def round_trip(record: Record, target: str, facts: ModelFacts) -> list[str]:
    """A request written for a target, read there, and written again in its own dialect. Raises `Excluded`."""
    home = home_of(record)
    if record.id in NONSENSE:
        raise Excluded("malformed")
    try:
        there = registry.written(target, registry.speaker(home).read_request(record.asked), facts)
        # Of a Bedrock model that nobody knows it is unknown whether it can be made to call one tool.
        unknown = ModelFacts(model=record.model or "m", dialect=_TARGETS[home][0])
        own = targets(home)[0] if home == "converse" else unknown
        back = registry.written(home, registry.speaker(target).read_request(_over_the_wire(there.body)), own)
    except NotPortable as obstacle:
        raise Excluded(obstacle.reason) from obstacle
    names: dict[str, Any] = {sent: there.names.get(name, name) for sent, name in back.names.items()}
    names = {**there.names, **names}
    want, got = asked.meaning(home, record.asked), asked.meaning(home, _over_the_wire(back.body))
    format_tool = back.format_tool or there.format_tool
    return meant.differences(want, got, names, format_tool, " ".join((*there.warnings, *back.warnings)))
