"""What incidents are made of: the signs that come in, the incident that comes out (G4).

An incident is about one cause: a provider and a *family*, which is its availability (down, partly down, slow), its rate
limits, or our credential there. `correlation` turns signs into incidents. Times are Unix seconds, since an incident is
told to people and outlives the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final

from proxy.base.outcome import GROUP, Class, Group


class Severity(IntEnum):
    """How bad; a greater one is worse."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


SEVERITIES: Final = tuple(severity.word for severity in Severity)


class Type(StrEnum):
    """What kind of incident."""

    OUTAGE = "outage"
    PARTIAL_OUTAGE = "partial_outage"
    DEGRADED_PERFORMANCE = "degraded_performance"
    RATE_LIMITING = "rate_limiting"
    CREDENTIAL = "credential"


class Family(StrEnum):
    """Causes that one provider can have at the same time."""

    AVAILABILITY = "availability"
    RATE_LIMITING = "rate_limiting"
    CREDENTIAL = "credential"


class Signal(StrEnum):
    """What says that something is wrong."""

    DOWN = "down"
    """The provider does not answer."""
    CIRCUIT = "circuit"
    """The breaker of one of its models is open."""
    DEGRADED = "degraded"
    """It answers late, or not always."""
    LIMITED = "limited"
    """It refuses many calls for their number."""
    COOLING = "cooling"
    """It has told us to stay away for a while."""
    QUOTA = "quota"
    """Its account is empty."""
    CREDENTIAL = "credential"
    """It refuses the sidecar's key, or the key cannot be had."""
    UNKNOWN = "unknown"
    """The incident was open when the process ended; nothing is known since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A finished request that something went wrong for. Told before its failed attempts, one request at a time."""

    at: float
    provider: str
    """Who was to answer it first."""
    model: str
    region: str
    error: str
    """Why that one did not, class with sub-name: ``circuit_open`` when it was not even asked."""
    request_id: str
    is_visible: bool = False
    """Its caller got no whole answer, and it was not the caller's own doing."""
    failed_over: bool = False
    """Another target gave a whole answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Met):
    """An attempt that failed: `provider`, `model` and `error` are those of the attempt."""

    status: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A signal begins, or is renewed."""

    at: float
    provider: str
    signal: Signal
    region: str = ""
    model: str = ""
    """Empty: all of the provider's."""
    models: tuple[str, ...] = ()
    """What else is affected."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A signal ends."""

    at: float
    provider: str
    signal: Signal
    model: str = ""
    """Empty: for all models."""
    reason: str = ""


Sign = Met | Trouble | Over
"""`Failed` is a `Met` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An entry of a timeline."""

    at: float
    what: str
    """opened, escalated, signal, signal_over, returned, quiet, acknowledged, unacknowledged, resolved."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One incident at one time."""

    id: str
    provider: str
    region: str
    family: Family
    type: Type
    types: tuple[Type, ...]
    """Every type it has had; `type` is the worst of them."""
    severity: Severity
    started_at: float
    """First failure of the run that led to it."""
    opened_at: float
    ended_at: float | None = None
    """When the last signal ended; None while it is open."""
    models: tuple[str, ...] = ()
    cause: str = ""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Failed attempts by class with sub-name."""
    samples: tuple[Mapping[str, Any], ...] = ()
    """The first failures, each with time, model, error, status, message and request id."""
    peers: tuple[str, ...] = ()
    """Providers that were in trouble at the same time as it opened: then the cause may be here and not there."""
    affected_requests: int = 0
    failed_over: int = 0
    user_visible_errors: int = 0
    timeline: tuple[Moment, ...] = ()
    resolution: str = ""
    acknowledged_at: float | None = None
    acknowledged_by: str = ""
    reminders: int = 0
    """How often it was told that nobody has acknowledged it."""

    @property
    def told_severity(self) -> Severity:
        """Severity that subscribers' thresholds are held against: each reminder without answer reaches higher up."""
        return Severity(min(Severity.CRITICAL, self.severity + self.reminders))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What has happened to an incident."""

    kind: str
    """opened, escalated, updated, unacknowledged, acknowledged or resolved."""
    at: float
    incident: Incident


def family_of(error: str) -> Family | None:
    """The cause that a failure (class with sub-name) speaks for; None: the provider is not to blame."""
    try:
        cls = Class(error.partition(".")[0])
    except ValueError:
        return None
    if cls in (Class.AUTH, Class.PERMISSION):
        return Family.CREDENTIAL
    if cls is Class.CIRCUIT_OPEN:
        return Family.AVAILABILITY
    group = GROUP[cls]
    return {Group.BAD: Family.AVAILABILITY, Group.LIMITED: Family.RATE_LIMITING}.get(group)
