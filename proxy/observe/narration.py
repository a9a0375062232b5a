"""What an event means, told as entries: a finished request and its dials, circuits, cool-downs, canaries.

A request that went as it should has no entry. Any other has one of kind ``request``, which is the line of the audit log
(who was to answer, what went wrong, how often it was tried, who answered instead, whether the caller got all of it),
and one for every dial, whose kind tells why it was made: ``attempt`` for the first, ``retry``, ``failover``, ``hedge``.
A success that was clamped or degraded has both as well, and one entry more that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from proxy.engine.cluster import Cooled, Moved
from proxy.engine.rollout import CanaryMoved
from proxy.observe.entry import Entry
from proxy.observe.record import AttemptRecord, RequestRecord
from proxy.observe.redact import redact

CREDENTIAL: Final = frozenset({"auth", "permission", "quota_exceeded"})
"""Reasons of a cool-down that somebody has to mend."""
DETAIL_ATTEMPTS_MAX: Final = 64
"""Dials of one request that get an entry of their own; a plan allows no more."""

Cost = Callable[[str, str, int | None, int | None], float | None]
"""USD of an answer by provider, model, input and output tokens; None: the price or the tokens are unknown."""


class Narration:
    """Pure but for `cost` and the monotonic `clock`, which turns the end of a cool-down into seconds."""

    def __init__(self, cost: Cost, clock: Callable[[], float]) -> None:
        self._cost = cost
        self._clock = clock

    @staticmethod
    def is_plain(record: RequestRecord) -> bool:
        """Whether nothing is to be told: the primary answered at once, in full, as it was asked."""
        return (
            record.result == "ok"
            and len(record.attempts) == 1
            and not record.failover_reason
            and not record.clamped
            and not record.degraded
            and not record.left_out
        )

    # Requests ---------------------------------------------------------------------------------------------------------

    def of_request(self, record: RequestRecord, at: float) -> Iterator[Entry]:
        """The entry of the request and those of its dials, in that order, without numbers; `at`: when it ended."""
        yield self._request(record, at)
        began = at - record.total_ms / 1000
        for number, attempt in enumerate(record.attempts[:DETAIL_ATTEMPTS_MAX], 1):
            yield _dial(record, attempt, number, began)
        if record.clamped:
            yield _of(record, at, "clamp", detail={"clamped": list(record.clamped)})
        if record.degraded:
            yield _of(
                record,
                at,
                "degraded_answer",
                provider=record.served_by,
                model=record.served_model,
                detail={"reason": record.failover_reason},
            )

    def _request(self, record: RequestRecord, at: float) -> Entry:
        failed = next((attempt for attempt in record.attempts if attempt.outcome != "ok"), None)
        provider, _, model = record.primary.partition("/")
        region = next((attempt.region for attempt in record.attempts if attempt.provider == provider), "")
        completed = record.result == "ok"
        error = "" if completed and not record.failover_reason and failed is None else _error(record, failed)
        detail: dict[str, Any] = {
            "result": record.result,
            "endpoint": record.endpoint,
            "stream": record.stream,
            "attempts": len(record.attempts),
            "served_by": f"{record.served_by}/{record.served_model}" if record.served_by else None,
            "failover_reason": record.failover_reason or None,
            "hedges": record.hedges or None,
            "continuations": record.continuations or None,
            "left_out": record.left_out or None,
            "translated": record.translated or None,
            "skipped": [f"{name}={reason}" for name, reason in record.skipped] or None,
        }
        return _of(
            record,
            at,
            "request",
            provider=provider,
            model=model,
            region=region,
            error=error,
            status=record.status or None,
            message=redact(failed.message) if failed is not None else "",
            latency_ms=record.total_ms,
            first_content_ms=record.first_content_ms,
            retries=sum(attempt.kind == "retry" for attempt in record.attempts),
            fallback=f"{record.served_by}/{record.served_model}" if record.failover_reason else "",
            completed=completed,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cost_usd=self._cost(record.served_by, record.served_model, record.input_tokens, record.output_tokens),
            detail={name: value for name, value in detail.items() if value is not None},
        )

    # Everything else --------------------------------------------------------------------------------------------------

    def of_event(self, event: object, at: float) -> Iterator[Entry]:
        """Entries of any other event of the bus; none for what is not told."""
        if isinstance(event, Moved):
            change = event.change
            open_s = None if change.open_until is None else round(max(0.0, change.open_until - self._clock()), 3)
            yield Entry(
                at=at,
                kind="circuit",
                provider=event.target.provider,
                model=event.target.model,
                error="circuit_open" if change.to.value == "open" else "",
                message=redact(str(change.reason)),
                detail={"from": change.from_.value, "to": change.to.value, "retry_after_s": open_s},
            )
        elif isinstance(event, Cooled):
            reason = event.reason.value
            yield Entry(
                at=at,
                kind="credential" if reason in CREDENTIAL else "cooldown",
                provider=event.target.provider,
                model="" if event.credential else event.target.model,
                error=reason,
                detail={
                    "for_s": round(max(0.0, event.until - self._clock()), 3),
                    **({"callers_key": True} if event.target.credential else {}),
                },
            )
        elif isinstance(event, CanaryMoved) and event.verdict is not None:
            verdict = event.verdict
            yield Entry(
                at=at,
                kind="canary_withdrawn",
                route=event.route,
                error=verdict.reason,
                message=redact(verdict.why),
                detail={"requests": verdict.canary_requests, "errors": verdict.canary_errors},
            )


def _of(record: RequestRecord, at: float, kind: str, **fields: Any) -> Entry:
    return Entry(at=at, kind=kind, route=record.route, request_id=record.request_id, **fields)


def _error(record: RequestRecord, failed: AttemptRecord | None) -> str:
    """What went wrong first; without a failed dial why the primary was left out, or how the request ended."""
    if failed is not None:
        return failed.detail
    return record.failover_reason or record.error or record.result


def _kind(record: RequestRecord, attempt: AttemptRecord) -> str:
    """Why the dial was made. The first one is a failover, too, when the primary was left out."""
    if attempt.kind != "first":
        return attempt.kind
    is_elsewhere = f"{attempt.provider}/{attempt.model}".rstrip("/") != record.primary
    return "failover" if record.failover_reason and is_elsewhere else "attempt"


def _dial(record: RequestRecord, attempt: AttemptRecord, number: int, began: float) -> Entry:
    """One dial; `began`: Unix seconds at which the request came."""
    return _of(
        record,
        began + attempt.end_ms / 1000,
        _kind(record, attempt),
        provider=attempt.provider,
        model=attempt.model,
        region=attempt.region,
        attempt=number,
        attempt_kind=attempt.kind,
        error="" if attempt.outcome == "ok" else attempt.detail,
        status=attempt.status or None,
        message=redact(attempt.message),
        latency_ms=attempt.end_ms - attempt.start_ms,
        first_content_ms=attempt.first_content_ms,
        completed=attempt.won and attempt.outcome == "ok",
        detail={"start_ms": round(attempt.start_ms, 3), "end_ms": round(attempt.end_ms, 3), "won": attempt.won},
    )
