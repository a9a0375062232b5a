"""One finished request as spans (`ecosystem.md` 6.1 and 6.2), in the words of OpenTelemetry's conventions.

Three levels: what the caller asked of us (SERVER), what was asked of models (CLIENT, by the GenAI conventions), and
below it one call for each attempt (CLIENT, by the HTTP conventions). Nothing of a prompt or an answer is told.

These are plain values: who exports them is `traces`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.base.trace import Trace
from proxy.observe.peer import Peer
from proxy.observe.record import AttemptRecord, RequestRecord, Traced

OPERATIONS: Final = {"chat": "chat", "messages": "chat", "responses": "chat", "embeddings": "embeddings"}
"""``gen_ai.operation.name`` by endpoint; others keep their own name, for which the conventions have no word."""
_ROUTES: Final = {
    "chat": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "count": "/v1/messages/count_tokens",
}
_ASKED: Final = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""Member of a body -> ``gen_ai.request.`` name."""
_KINDS: Final = {"first": "primary"}
FAILED: Final = frozenset({"error", "timeout", "exhausted", "truncated", "rejected"})
"""Results that are errors of ours; a caller's own fault or leaving is none."""
_INT_MAX: Final = (1 << 63) - 1
PATH_MAX: Final = 1024
"""Characters of a path that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Times are milliseconds since the request was accepted."""

    id: int
    parent: int
    """0: none."""
    kind: Literal["server", "client"]
    name: str
    start_ms: float
    end_ms: float
    attributes: Mapping[str, Any]
    error: str = ""
    """Why it failed, a class of ours; empty: it did not."""


def spans(record: RequestRecord, trace: Trace, traced: Traced, peers: Mapping[str, Peer]) -> Iterator[Span]:
    """All spans of a request, parents first. `peers`: by provider's name."""
    server = trace.first_span
    error = (record.error or record.result) if record.result in FAILED else ""
    yield _server(record, trace, traced, error)
    if not record.attempts:
        return
    yield _operation(record, server, traced, peers, error)
    for number, attempt in enumerate(record.attempts):
        circuit = traced.circuits[number] if number < len(traced.circuits) else ""
        peer = peers.get(attempt.provider, Peer(name=attempt.provider))
        yield _call(record, attempt, number, trace, peer, circuit)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if value is not None and value != ""}


def _server(record: RequestRecord, trace: Trace, traced: Traced, error: str) -> Span:
    route = _ROUTES.get(record.endpoint, "")
    attributes = {
        "http.request.method": record.method,
        "http.route": route,
        "url.path": traced.path[:PATH_MAX],
        "url.scheme": "http",
        "http.response.status_code": record.status or None,
        "error.type": error,
        "outrider.request.id": record.request_id,
        "outrider.route": record.route,
        "outrider.outcome": record.result,
        "outrider.failover.reason": record.failover_reason,
        "outrider.attempts": len(record.attempts),
    }
    return Span(
        id=trace.first_span,
        parent=trace.caller_span,
        kind="server",
        name=f"{record.method} {route}".rstrip(),
        start_ms=0.0,
        end_ms=record.total_ms,
        attributes=_known(attributes),
        error=error,
    )


def _operation(record: RequestRecord, server: int, traced: Traced, peers: Mapping[str, Peer], error: str) -> Span:
    operation = OPERATIONS.get(record.endpoint, record.endpoint)
    first, last = record.attempts[0], record.attempts[-1]
    provider = record.served_by or last.provider
    peer = peers.get(provider, Peer(name=provider))
    waited_ms = None if record.first_content_ms is None else record.first_content_ms - first.start_ms
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": peer.name,
        "gen_ai.request.model": traced.model,
        "gen_ai.request.stream": record.stream or None,
        **_settings(traced.asked),
        "gen_ai.response.model": record.served_model,
        "gen_ai.response.time_to_first_chunk": None if waited_ms is None or not record.stream else waited_ms / 1000,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "server.address": peer.address,
        "server.port": peer.port or None,
        "error.type": error,
        "outrider.provider": provider,
    }
    return Span(
        id=server + 1,
        parent=server,
        kind="client",
        name=f"{operation} {traced.model}".rstrip(),
        start_ms=first.start_ms,
        end_ms=record.total_ms,
        attributes=_known(attributes),
        error=error,
    )


def _settings(asked: Mapping[str, float]) -> dict[str, float]:
    """The caller's settings; a number that no span can hold is left out."""
    numbers = {key: value for key, value in asked.items() if abs(value) <= _INT_MAX}
    told = {f"gen_ai.request.{_ASKED[key]}": value for key, value in numbers.items() if key in _ASKED}
    if numbers.get("n", 1) != 1:
        told["gen_ai.request.choice.count"] = numbers["n"]
    return told


def _call(record: RequestRecord, attempt: AttemptRecord, number: int, trace: Trace, peer: Peer, circuit: str) -> Span:
    error = "" if attempt.outcome in ("ok", "cancelled") else attempt.detail
    kind_of_error = str(attempt.status) if error and attempt.status >= 400 else error
    attributes = {
        "http.request.method": record.method,
        "http.request.resend_count": number or None,
        "http.response.status_code": attempt.status or None,
        "server.address": peer.address,
        "server.port": peer.port or None,
        "error.type": kind_of_error,
        "outrider.provider": attempt.provider,
        "outrider.model": attempt.model,
        "outrider.region": attempt.region,
        "outrider.attempt.kind": _KINDS.get(attempt.kind, attempt.kind),
        "outrider.attempt.outcome": attempt.detail,
        "outrider.breaker.state": circuit,
    }
    return Span(
        id=trace.attempt_span(number),
        parent=trace.first_span + 1,
        kind="client",
        name=record.method,
        start_ms=attempt.start_ms,
        end_ms=attempt.end_ms,
        attributes=_known(attributes),
        error=error,
    )
