"""The frozen record of one request: what metrics, logs and history are told, once, when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proxy.base.trace import Trace

Result = Literal[
    "ok", "client_error", "client_cancelled", "error", "timeout", "exhausted", "truncated", "rejected", "drained"
]
"""How the request ended for its caller. `client_error`: the caller's own fault; `rejected`: no target admitted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One dial."""

    provider: str
    model: str
    region: str
    kind: str
    """first, retry, failover or hedge."""
    outcome: str
    """Outcome class, ``timeout``."""
    detail: str
    """Outcome with its sub-name, ``timeout.first_byte``."""
    status: int
    start_ms: float
    end_ms: float
    first_content_ms: float | None
    """Since the attempt's own start; None: none came."""
    won: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What only spans tell; gathered for the requests that have some."""

    path: str
    """As called, without the query."""
    model: str
    """As asked for; empty for passthrough."""
    asked: Mapping[str, float]
    """Settings of the caller's body that are numbers, by their own names: ``temperature``, ``max_tokens``."""
    circuits: tuple[str, ...]
    """State of the breaker that admitted each of `RequestRecord.attempts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request."""

    request_id: str
    route: str
    endpoint: str
    stream: bool
    result: Result
    status: int
    """HTTP status told to the caller; 0 when it left before one."""
    total_ms: float
    first_content_ms: float | None
    """From accept to the first content sent on, failed attempts included."""
    attempts: tuple[AttemptRecord, ...]
    served_by: str
    served_model: str
    failover_reason: str
    """Empty: the primary answered or nobody did."""
    hedges: int
    input_tokens: int | None
    output_tokens: int | None
    error: str = ""
    continuations: int = 0
    """How often another target was asked to go on with a stream that broke; `result` ok: in the end it was whole."""
    left_out: int = 0
    """Events that were not JSON and never reached the caller."""
    translated: str = ""
    """API of the target that answered, where it is not the caller's (``generate``); empty: it is."""
    primary: str = ""
    """``provider/model`` that the plan puts first, dialled or not."""
    clamped: tuple[str, ...] = ()
    """``Header=value`` of what the caller asked for beyond the operator's limits."""
    degraded: bool = False
    """The answer was marked degraded."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(target, reason) of what was left out, in the order of the decisions."""
    method: str = "POST"
    trace: Trace | None = None
    """The trace that it belongs to; None: none that we know of."""
    traced: Traced | None = None
    """None: it has no spans of ours."""

    @property
    def is_announced(self) -> bool:
        """Whether nobody took it, and nothing but announced maintenance stood in the way."""
        return self.result == "rejected" and {reason for _, reason in self.skipped} - {"trigger"} == {"maintenance"}
