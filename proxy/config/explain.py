"""A plan in words: what ``X-Explain: plan`` and ``outrider explain`` show.

Every effective setting with the layer it came from, and the two lists that are so easily taken for one: which failures
are tried again on the same target (`retry_on`) and which open the way to another (`trigger` of each target). Nothing in
it is secret: of a credential only its kind is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.base.outcome import ANY_ERROR
from proxy.config.compiled import Config
from proxy.config.planner import Planned
from proxy.engine.plan import Candidate, Plan

_CREDENTIALS = {
    "sidecar": "the sidecar's key",
    "caller": "the caller's own key",
    "header": "the caller's key from X-Provider-Key",
    "none": "none",
}


def describe(planned: Planned, config: Config) -> dict[str, Any]:
    """The plan as a JSON-able tree, the same for equal plans; times in seconds, None where nothing is bounded."""
    plan = planned.plan
    return {
        "route": plan.route,
        "endpoint": str(plan.endpoint),
        "model": planned.model,
        "config": config.digest[:12],
        "targets": [
            {"role": "primary" if index == 0 else "fallback", **_target(candidate), "credential": key}
            for index, (candidate, key) in enumerate(zip(plan.candidates, planned.keys, strict=True))
        ],
        "skipped": [{"target": name, "reason": reason} for name, reason in plan.skipped],
        "canary": _canary(planned),
        "hedge_order": [plan.candidates[index].name for index in plan.hedge_order],
        "retry_on": _sourced(plan, "retry.retry_on", sorted(plan.retry.retry_on)),
        "trigger": _sourced(plan, "failover.on", _plain(planned.settings["failover.on"])),
        "settings": {
            name: {"value": _plain(planned.settings[name]), "origin": origin} for name, origin in plan.origins
        },
        "targets_origin": planned.targets_by,
        "exclusion": None
        if plan.exclusion is None
        else {
            "failure_threshold": plan.exclusion.failure_threshold,
            "success_threshold": plan.exclusion.success_threshold,
            "health_check_interval_s": plan.exclusion.health_check_interval_s,
        },
        "clamped": list(plan.clamped),
    }


def render(described: Mapping[str, Any]) -> str:
    """`describe`'s tree as text for a terminal, one fact per line, ending in a newline."""
    lines = [f"route     {described['route']}  ({described['endpoint']}, model {described['model'] or '-'})"]
    lines.append(f"targets   from {described['targets_origin']}")
    for index, target in enumerate(described["targets"], 1):
        region = f", {target['region']}" if target["region"] else ""
        lines.append(f"  {index}. {target['name']}  [{target['tier']}{region}, {_CREDENTIALS[target['credential']]}]")
        lines.append(f"     retries {target['retries']}, opened by {', '.join(target['trigger']) or 'nothing'}")
    lines.extend(f"  -  {each['target']}  left out: {each['reason']}" for each in described["skipped"])
    if described["canary"]:
        lines.append(f"canary    {', '.join(described['canary'])} first, for a share of the requests")
    if described["hedge_order"]:
        lines.append(f"hedges    {', '.join(described['hedge_order'])}")
    lines.append(f"retry_on  {', '.join(described['retry_on']['value'])}  ({described['retry_on']['origin']})")
    lines.append("settings")
    width = max(len(name) for name in described["settings"])
    for name, setting in described["settings"].items():
        lines.append(f"  {name:<{width}}  {_word(setting['value'])}  ({setting['origin']})")
    if described["clamped"]:
        lines.append(f"clamped   {', '.join(described['clamped'])}")
    return "\n".join(lines) + "\n"


def _canary(planned: Planned) -> list[str]:
    """What stands before the chain in the other arm of a rollout; which arm a request gets is decided each time."""
    arm = planned.canary
    return [] if arm is None else [candidate.name for candidate in arm.plan.candidates[: arm.plan.lead]]


def _target(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "provider": candidate.target.provider,
        "model": candidate.target.model,
        "dialect": candidate.dialect,
        "api": candidate.api,
        "translated": candidate.foreign,
        "region": candidate.region,
        "tier": candidate.tier.name.lower(),
        "trigger": ["any_error"] if candidate.trigger == ANY_ERROR else sorted(c.value for c in candidate.trigger),
        "retries": candidate.retries,
        "weight": candidate.weight,
        "max_latency_increase_s": candidate.max_latency_increase_s,
        "degraded": candidate.degraded,
        "output_share": candidate.output_share,
    }


def _sourced(plan: Plan, setting: str, value: Any) -> dict[str, Any]:
    return {"value": value, "origin": dict(plan.origins)[setting]}


def _plain(value: Any) -> Any:
    """Tuples and sets as lists (sets in order), mappings as dicts."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_word(each) for each in value) or "-"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_word(each)}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"
