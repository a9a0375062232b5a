"""Incidents as JSON: what callers and subscribers are shown, and what is kept for the next run of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.observe.entry import iso
from proxy.policy.incident import Family, Incident, Moment, Severity, Type

_AS_THEY_ARE: Final = (
    *("id", "provider", "region", "started_at", "opened_at", "ended_at", "cause", "affected_requests", "failed_over"),
    *("user_visible_errors", "resolution", "acknowledged_at", "acknowledged_by", "reminders"),
)
"""Fields that JSON keeps as they are."""


def shown(incident: Incident, now: float) -> dict[str, Any]:
    """What `/v1/incidents` and webhooks tell; `now`: for the duration of what is not over."""
    ended = incident.ended_at
    duration_s = (now if ended is None else ended) - incident.started_at
    return {
        "id": incident.id,
        "status": "open" if ended is None else "resolved",
        "timestamp": iso(incident.started_at),
        "ended_at": None if ended is None else iso(ended),
        "duration_minutes": round(max(0.0, duration_s) / 60, 2),
        "provider": incident.provider,
        "impact": impact(incident),
        "affected_services": [f"{incident.provider}/{model}" for model in incident.models] or [incident.provider],
        "severity": incident.severity.word,
        "type": incident.type.value,
        "region": incident.region or None,
        "cause": incident.cause,
        "evidence": {
            "errors": dict(incident.errors),
            "first_failures": [{**sample, "at": iso(sample["at"])} for sample in incident.samples],
            "other_providers_in_trouble": list(incident.peers),
        },
        "affected_requests": incident.affected_requests,
        "failed_over": incident.failed_over,
        "user_visible_errors": incident.user_visible_errors,
        "acknowledged_at": None if incident.acknowledged_at is None else iso(incident.acknowledged_at),
        "acknowledged_by": incident.acknowledged_by or None,
        "timeline": [{"at": iso(each.at), "what": each.what, "text": each.text} for each in incident.timeline],
        "resolution": incident.resolution or None,
    }


def impact(incident: Incident) -> str:
    """A sentence about callers: ``42 requests affected: 40 answered by another target, 1 failed, 1 tried again``."""
    if not incident.affected_requests:
        return "no request affected so far" if incident.ended_at is None else "no request affected"
    rest = incident.affected_requests - incident.failed_over - incident.user_visible_errors
    parts = (
        (incident.failed_over, "answered by another target"),
        (incident.user_visible_errors, "failed for their callers"),
        (rest, "answered after another try, or left by their callers"),
    )
    told = ", ".join(f"{count} {what}" for count, what in parts if count > 0)
    return f"{incident.affected_requests} requests affected: {told}"


def document(incident: Incident) -> dict[str, Any]:
    """What is kept."""
    return {
        **{name: getattr(incident, name) for name in _AS_THEY_ARE},
        "family": incident.family.value,
        "type": incident.type.value,
        "types": [each.value for each in incident.types],
        "severity": incident.severity.word,
        "models": list(incident.models),
        "errors": dict(incident.errors),
        "samples": [dict(sample) for sample in incident.samples],
        "peers": list(incident.peers),
        "timeline": [[each.at, each.what, each.text] for each in incident.timeline],
    }


def restored(kept: Mapping[str, Any]) -> Incident | None:
    """The incident of a document; None: it was not written by this version or a compatible one."""
    try:
        return Incident(
            **{name: kept[name] for name in _AS_THEY_ARE},
            family=Family(kept["family"]),
            type=Type(kept["type"]),
            types=tuple(map(Type, kept["types"])),
            severity=Severity[kept["severity"].upper()],
            models=tuple(kept["models"]),
            errors=dict(kept["errors"]),
            samples=tuple(kept["samples"]),
            peers=tuple(kept["peers"]),
            timeline=tuple(Moment(at=at, what=what, text=text) for at, what, text in kept["timeline"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
