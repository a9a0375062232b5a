"""One cause of incidents: what speaks for it at present, and the failures in a row that are counted for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.policy.incident import Failed, Incident, Met, Signal

LIMITED_ERRORS: Final = 5
"""Rate limits that make an incident, where they come close together."""
SAMPLES_MAX: Final = 5
"""First failures that are kept whole."""
MODELS_MAX: Final = 100
"""Models that an incident names: those it met first."""
ERRORS_MAX: Final = 32
"""Names of errors that are counted apart."""


@dataclass(slots=True)
class Active:
    """A signal that holds."""

    since: float
    seen: float
    reason: str


class Run:
    """Failures in a row, with the requests they met."""

    __slots__ = (
        "affected",
        "errors",
        "failed_over",
        "last_at",
        "recent",
        "request_id",
        "samples",
        "started_at",
        "visible",
    )

    def __init__(self) -> None:
        self.started_at = 0.0
        self.last_at = 0.0
        self.errors: dict[str, int] = {}
        self.samples: list[Mapping[str, Any]] = []
        self.recent: list[float] = []
        """Times of the last `LIMITED_ERRORS` failures."""
        self.request_id = ""
        """The request counted last: the signs of one request come together."""
        self.affected = self.failed_over = self.visible = 0

    def fail(self, sign: Failed) -> None:
        """Count a failed attempt, and its request."""
        self.started_at = self.started_at or sign.at
        self.last_at = sign.at
        self.recent = [*self.recent[1 - LIMITED_ERRORS :], sign.at]
        name = sign.error if sign.error in self.errors or len(self.errors) < ERRORS_MAX else "other"
        self.errors[name] = self.errors.get(name, 0) + 1
        if len(self.samples) < SAMPLES_MAX:
            names = ("at", "model", "error", "status", "message", "request_id")
            self.samples.append({name: getattr(sign, name) for name in names})
        self.meet(sign)

    def follow(self, incident: Incident) -> None:
        """Begin with what an incident has counted, and keep what was counted since."""
        self.started_at = incident.started_at
        self.last_at = self.last_at or incident.started_at
        self.errors = {
            name: incident.errors.get(name, 0) + self.errors.get(name, 0) for name in (*incident.errors, *self.errors)
        }
        self.samples = [*incident.samples, *self.samples][:SAMPLES_MAX]
        self.affected += incident.affected_requests
        self.failed_over += incident.failed_over
        self.visible += incident.user_visible_errors

    def meet(self, sign: Met) -> None:
        """Count a request, once."""
        if sign.request_id == self.request_id:
            return
        self.request_id = sign.request_id
        self.affected += 1
        self.failed_over += sign.failed_over
        self.visible += sign.is_visible


class Case:
    """One cause: a provider and a family."""

    __slots__ = (
        "incident",
        "is_stale",
        "is_unsaved",
        "models",
        "provider",
        "quiet_at",
        "region",
        "run",
        "signals",
        "told_at",
    )

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.region = ""
        self.run = Run()
        self.signals: dict[tuple[Signal, str], Active] = {}
        self.models: dict[str, None] = {}
        self.incident: Incident | None = None
        self.quiet_at: float | None = None
        """When the last signal of the incident ended; None: one holds."""
        self.told_at = 0.0
        self.is_stale = False
        """Its numbers have changed since they were told."""
        self.is_unsaved = False
        """The same, and nobody has asked `Machine.changed` since."""

    def meets(self, model: str) -> None:
        """A model it concerns; empty: none is known. Callers may make up names, so only the first few are kept."""
        if model and len(self.models) < MODELS_MAX:
            self.models.setdefault(model)
