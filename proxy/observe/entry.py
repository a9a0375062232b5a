"""The one event of the history, of the stream, of incidents and notifications: a frozen value and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

KINDS: Final = (
    "request",
    "attempt",
    "retry",
    "failover",
    "hedge",
    "circuit",
    "cooldown",
    "clamp",
    "degraded_answer",
    "provider_down",
    "provider_degraded",
    "provider_recovered",
    "degraded_entered",
    "degraded_left",
    "incident_opened",
    "incident_updated",
    "incident_resolved",
    "maintenance_started",
    "maintenance_ended",
    "reload",
    "credential",
    "canary_withdrawn",
    "notification_failed",
    "store",
)
"""What an entry may tell; `docs/history.md` says when each comes."""

MESSAGE_MAX: Final = 500
"""Longest `Entry.message`, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event. Texts are empty and numbers None where the kind has nothing to say."""

    id: int = 0
    """Given by the journal: rises from event to event, also over restarts. 0: not numbered yet."""
    at: float
    """Unix seconds."""
    kind: str
    """One of `KINDS`."""
    route: str = ""
    provider: str = ""
    model: str = ""
    region: str = ""
    request_id: str = ""
    attempt: int | None = None
    """Number of the dial within its request, from 1."""
    attempt_kind: str = ""
    """first, retry, failover or hedge."""
    error: str = ""
    """Class with its sub-name: ``timeout.first_byte``."""
    status: int | None = None
    message: str = ""
    """Redacted, at most `MESSAGE_MAX` characters."""
    latency_ms: float | None = None
    first_content_ms: float | None = None
    retries: int | None = None
    fallback: str = ""
    """``provider/model`` that was used instead."""
    completed: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    """A few small JSON values that only this kind has."""


FIELDS: Final = tuple(Entry.__dataclass_fields__)
"""Names in the order of the columns of the history and of its CSV."""


def iso(at: float) -> str:
    """Unix seconds as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(entry: Entry) -> dict[str, Any]:
    """What callers are shown: `id`, `at` and `kind` always, the rest where it says something."""
    shown: dict[str, Any] = {"id": entry.id, "at": iso(entry.at), "kind": entry.kind}
    for name in FIELDS[3:]:
        value = getattr(entry, name)
        if value is not None and value != "" and value != {}:
            shown[name] = round(value, 3) if name.endswith("_ms") else value
    return shown
