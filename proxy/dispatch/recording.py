"""What observers are told of a request when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.exchange import Inbound
from proxy.base.outcome import Class, Group
from proxy.base.trace import Trace
from proxy.engine.attempts import Attempt, Attempts
from proxy.engine.messages import GiveUp
from proxy.engine.plan import Plan
from proxy.observe.record import AttemptRecord, RequestRecord, Result, Traced

TRACED_KEYS: Final = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "seed", "n"),
    *("frequency_penalty", "presence_penalty"),
)
"""Members of a request body that spans tell: numbers, never content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the request ended, as its drive knows it."""

    now: float
    status: int
    left: bool
    """The caller has gone, or was sent away by a drain."""
    draining: bool
    first_sent: float | None
    """Monotonic time of the first byte of the answer; None: there was none."""
    usage: tuple[int, int] | None
    given_up: GiveUp | None
    left_out: int = 0


def record(
    plan: Plan,
    machine: Attempts,
    past: Sequence[Attempts],
    inbound: Inbound,
    is_stream: bool,
    ending: Ending,
    trace: Trace | None = None,
    traced: Traced | None = None,
) -> RequestRecord:
    """`machine` is the one that ran last; `past` those whose committed stream broke and was continued by it."""
    first = past[0] if past else machine
    started, now = first.started, ending.now
    winner = machine.committed
    shown = next((each.committed for each in (*past, machine) if each.committed is not None), None)
    served = (winner or shown).candidate.target if (winner or shown) is not None else None  # type: ignore[union-attr]
    attempts = tuple(_attempt(a, started, now, a is each.committed) for each in (*past, machine) for a in each.attempts)
    given_up = ending.given_up
    return RequestRecord(
        request_id=inbound.request_id,
        route=plan.route,
        endpoint=plan.endpoint.value,
        stream=is_stream,
        result=_result(machine, past, ending),
        status=ending.status,
        total_ms=(now - started) * 1000,
        first_content_ms=None if ending.first_sent is None or shown is None else (ending.first_sent - started) * 1000,
        attempts=attempts,
        served_by=served.provider if served is not None else "",
        served_model=served.model if served is not None else "",
        failover_reason=first.failover_reason() if shown is not None and shown.index != first.primary else "",
        hedges=first.hedges,
        input_tokens=ending.usage[0] if ending.usage is not None else None,
        output_tokens=ending.usage[1] if ending.usage is not None else None,
        error=given_up.outcome.name if given_up is not None else "",
        continuations=len(past),
        left_out=ending.left_out,
        translated=shown.candidate.api if shown is not None and shown.candidate.foreign else "",
        primary=first.meant_for.target.name,
        clamped=plan.clamped,
        degraded=shown is not None and shown.candidate.degraded,
        skipped=tuple(first.skipped),
        method=inbound.method,
        trace=trace,
        traced=traced,
    )


def traced(inbound: Inbound, model: str, parsed: Mapping[str, Any], machines: Sequence[Attempts]) -> Traced:
    """What the spans of a traced request tell beside its record."""
    return Traced(
        path=inbound.path,
        model=model,
        # Anything else is for the provider to refuse; it may be as large as the body, and records are kept.
        asked={key: parsed[key] for key in TRACED_KEYS if type(parsed.get(key)) in (int, float)},
        circuits=tuple(a.permit.state.value for machine in machines for a in machine.attempts),
    )


def _attempt(a: Attempt, started: float, now: float, won: bool) -> AttemptRecord:
    outcome = a.outcome
    return AttemptRecord(
        provider=a.candidate.target.provider,
        model=a.candidate.target.model,
        region=a.candidate.region,
        kind=a.kind,
        outcome=outcome.cls.value if outcome is not None else "ok",
        detail=outcome.name if outcome is not None else "ok",
        status=outcome.status if outcome is not None else 0,
        start_ms=(a.started - started) * 1000,
        end_ms=((a.ended_at or now) - started) * 1000,
        first_content_ms=None if a.content_at is None else (a.content_at - a.started) * 1000,
        won=won,
        message=outcome.message if outcome is not None else "",
    )


def _result(machine: Attempts, past: Sequence[Attempts], ending: Ending) -> Result:
    if ending.left:
        return "drained" if ending.draining else "client_cancelled"
    winner = machine.committed
    if winner is not None:
        return "ok" if winner.outcome is not None and winner.outcome.cls is Class.OK else "truncated"
    if past:
        return "truncated"
    outcome = ending.given_up.outcome if ending.given_up is not None else None
    if outcome is None or outcome.group is Group.CANCELLED:
        return "client_cancelled"
    if outcome.group is Group.CALLER_FAULT:
        return "client_error"
    if not machine.attempts:
        return "rejected"
    if outcome.cls is Class.TIMEOUT:
        return "timeout"
    return "exhausted" if len(machine.attempts) > 1 else "error"
