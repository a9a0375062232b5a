"""What the caller is told beside the answer: our headers, the trace, the error of a request that no target answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

import orjson

from proxy.base.http import answer_passes
from proxy.base.outcome import Class, Group, Outcome
from proxy.base.trace import Trace
from proxy.dialects import errors
from proxy.dialects.responses import ResponsesReader
from proxy.engine.attempts import Attempt, Attempts
from proxy.engine.messages import GiveUp
from proxy.engine.plan import Plan
from proxy.policy import classify, retry_after
from proxy.policy.breaker import State
from proxy.upstream.pump import Pump

TRACE_MAX: Final = 4096
WARNINGS_MAX: Final = 2048
SDK_WAIT_MAX_S: Final = 20.0
"""A local refusal with a wait up to this asks the caller's client to come back (`providers.md` 5.6)."""

_PASSES: dict[bytes, str] = {}
_PASSES_MAX: Final = 4096

Headers = list[tuple[str, str]]


def passed(raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
    """The upstream's response headers that may reach the caller."""
    out: Headers = []
    named: set[str] = set()
    for name, value in raw:
        known = _PASSES.get(name)
        if known is None:
            text = name.decode("latin-1")
            known = text if answer_passes(text.lower()) else ""
            if len(_PASSES) < _PASSES_MAX:
                _PASSES[name] = known
        if known:
            out.append((known, value.decode("latin-1")))
        elif len(name) == 10 and name.lower() == b"connection":
            named |= {token.strip().lower() for token in value.decode("latin-1").split(",")}
    if named - {"close", "keep-alive"}:
        return [pair for pair in out if pair[0].lower() not in named]
    return out


_REQUEST_IDS: Final = (b"x-request-id", b"request-id", b"x-amzn-requestid", b"apim-request-id")


def translated(pump: Pump, dialect: errors.Dialect, warnings: Sequence[str]) -> Headers:
    """The headers of an answer that was written anew.

    Of the provider's own only its request id is kept, under the name the caller's client looks for: rate limits and
    other words are those of an API that the caller does not speak (`providers.md` 4).
    """
    out: Headers = [("Content-Type", "text/event-stream; charset=utf-8" if pump.in_pieces else "application/json")]
    for wanted in _REQUEST_IDS:
        found = next((value for name, value in pump.headers if name.lower() == wanted), None)
        if found is not None:
            out.append(
                ("request-id" if dialect == "anthropic" else "x-request-id", ascii_only(found.decode("latin-1")))
            )
            break
    if warnings:
        out.append(warned(warnings))
    return out


def warned(warnings: Sequence[str]) -> tuple[str, str]:
    """``X-Translation-Warnings``: what was approximated or left out, each once, at most `WARNINGS_MAX` bytes."""
    text = ascii_only(", ".join(dict.fromkeys(warnings)))
    if len(text) > WARNINGS_MAX:
        text = text[: text.rfind(",", 0, WARNINGS_MAX - 5)] + ", ..."
    return "X-Translation-Warnings", text


def policy_headers(plan: Plan, machine: Attempts, request_id: str, now: float) -> Headers:
    """The headers that every answer of ours carries, whoever answered."""
    attempts = machine.attempts
    retries = 0
    if len(attempts) > 1:
        retries = sum(1 for attempt in attempts if attempt.kind == "retry")
    status = machine.circuit_status
    out: Headers = [
        ("X-Outrider-Request-Id", request_id),
        ("X-Circuit-Status", status.value),
        ("X-Attempts", str(len(attempts))),
        ("X-Retry-Count", str(retries)),
    ]
    if (
        len(attempts) != 1
        or attempts[0].index != machine.primary
        or status is not State.CLOSED
        or machine.gave_up is not None
    ):
        wait = machine.primary_wait_s(now)
        if wait > 0.0:
            out.append(("X-Retry-After", str(max(1, ceil(wait)))))
    skipped = machine.skipped
    if skipped:
        out.append(("X-Failover-Skipped", ascii_only(", ".join(f"{name}={reason}" for name, reason in skipped))))
    if plan.clamped or machine.warning:
        clamped = [*plan.clamped, f"X-Circuit-Breaker={machine.warning}"] if machine.warning else plan.clamped
        out.append(("X-Policy-Clamped", ascii_only(", ".join(clamped))))
    if plan.explain:
        out.append(("X-Failover-Trace", trace(machine, now)))
    return out


def served_headers(machine: Attempts, winner: Attempt, now: float) -> Headers:
    """Who answered, and what it took."""
    target = winner.candidate.target
    out: Headers = [("X-Served-By", target.provider)]
    if target.model:
        out.append(("X-Served-Model", ascii_only(target.model)))
    if winner.candidate.region:
        out.append(("X-Served-Region", ascii_only(winner.candidate.region)))
    if winner.index != machine.primary:
        reason = machine.failover_reason()
        out += [("X-Failover", "true"), ("X-Failover-Reason", reason)]
    if winner.candidate.degraded:
        out += [
            ("X-Degraded-Mode", "active"),
            ("X-Degradation-Reason", machine.failover_reason()),
            ("X-Quality-Score", f"{quality(winner):.1f}"),
        ]
    if machine.hedge_armed or machine.hedges:
        out.append(("X-Hedge-Winner", target.provider))
        out.append(("X-Hedge-Launched", str(machine.hedges)))
        if winner.kind == "hedge":
            out.append(("X-Hedge-Latency-Saved", str(round(machine.hedge_saved_s(now) * 1000))))
    failed = next((a for a in reversed(machine.attempts) if a.outcome and a is not winner and _spoke(a.outcome)), None)
    if failed is not None and failed.outcome is not None:
        out.append(("Proxy-Status", proxy_status(failed.candidate.target.provider, failed.outcome)))
    return out


def _spoke(outcome: Outcome) -> bool:
    return outcome.group not in (Group.GOOD, Group.CANCELLED, Group.LOCAL)


def quality(winner: Attempt) -> float:
    """0.0 to 10.0: the model's own score times 0.9 where the output limit was cut (`headers.md`, Answers)."""
    return winner.candidate.quality * (0.9 if winner.candidate.output_share is not None else 1.0)


def timing(planned_ms: float, upstream_ms: float, total_ms: float, trace: Trace | None = None) -> tuple[str, str]:
    """``Server-Timing``; our own share is total minus upstream. The trace is told as browsers' agents look for it."""
    spent = f"plan;dur={planned_ms:.2f}, queue;dur=0, upstream;dur={upstream_ms:.2f}, total;dur={total_ms:.2f}"
    return "Server-Timing", spent if trace is None else f'{spent}, traceparent;desc="{trace.told()}"'


def trace(machine: Attempts, now: float) -> str:
    """The attempts as compact ASCII JSON of at most `TRACE_MAX` bytes; the oldest stay, the cut is told."""
    entries = attempt_list(machine, now)
    if machine.hedge_note:
        entries.append({"hedge": machine.hedge_note})
    while True:
        text = orjson.dumps(entries).decode("ascii", "replace")
        if len(text) <= TRACE_MAX or not entries:
            return ascii_only(text)
        entries = [*entries[:-2], {"truncated": True}]


def attempt_list(machine: Attempts, now: float) -> list[dict[str, Any]]:
    """Every attempt: target, cause, outcome, start and end in ms since the request was accepted."""
    out: list[dict[str, Any]] = []
    cause = "first"
    for attempt in machine.attempts:
        end = now if attempt.ended_at is None else attempt.ended_at
        outcome = attempt.outcome.name if attempt.outcome is not None else "ok" if attempt.content_at else "running"
        entry: dict[str, Any] = {
            "target": ascii_only(attempt.candidate.name),
            "kind": attempt.kind,
            "cause": cause if attempt.kind != "hedge" else "slow",
            "class": outcome,
            "start_ms": round((attempt.started - machine.started) * 1000, 1),
            "end_ms": round((end - machine.started) * 1000, 1),
        }
        if attempt.outcome is not None:
            if attempt.outcome.status:
                entry["status"] = attempt.outcome.status
            if attempt.kind != "hedge" or attempt.outcome.group is not Group.CANCELLED:
                cause = attempt.outcome.name
        out.append(entry)
    return out


def failure(
    plan: Plan,
    machine: Attempts,
    given_up: GiveUp,
    dialect: errors.Dialect,
    request_id: str,
    upstream_error: tuple[int, bytes, tuple[tuple[bytes, bytes], ...]] | None,
    now: float,
    *,
    foreign: bool = False,
    untouched: bool = False,
    trace: Trace | None = None,
) -> tuple[int, Headers, bytes]:
    """The answer to a request that no target answered.

    `upstream_error` is the status, body and headers of the attempt whose outcome was chosen. Where that target speaks
    the caller's dialect, the caller's own fault after one attempt is passed on byte for byte, and every other error
    keeps the provider's status, code and message and gains the list of attempts. A `foreign` target's error is told in
    the caller's dialect: status, type and code by the class, the reason in the provider's own words. `untouched`: a
    passthrough call, whose caller speaks the provider's own API and gets its error as it is.
    """
    outcome = given_up.outcome
    headers = policy_headers(plan, machine, request_id, now)
    headers += _retry_trio(outcome, given_up)
    if machine.attempts and _spoke(outcome):
        failed = next((a for a in machine.attempts if a.outcome is outcome), machine.attempts[-1])
        headers.append(("Proxy-Status", proxy_status(failed.candidate.target.provider, outcome)))
    told_status, told_body = 0, b""
    message = outcome.message
    if untouched and upstream_error is not None and _sendable(upstream_error[0]):
        told_status, told_body, raw = upstream_error
        headers += [pair for pair in passed(raw) if pair[0].lower() != "server-timing"]
        return told_status, headers, told_body
    if foreign and upstream_error is not None:
        message = classify.reason(upstream_error[1], upstream_error[0]) or message
        headers += [pair for pair in passed(upstream_error[2]) if pair[0].lower() in ("x-request-id", "request-id")]
    elif upstream_error is not None:
        told_status, told_body, raw = upstream_error
        headers += [(n, v) for n, v in passed(raw) if n.lower() not in ("content-type", "server-timing")]
    shown_id = _identified(headers, dialect, request_id)
    status, kind, code = errors.ERRORS[dialect][outcome.cls]
    if outcome.cls is Class.LOCAL_REJECT:
        status = 503
    elif not machine.attempts and outcome.group is Group.TARGET_FAULT:
        status = 502  # remembered from an earlier request: nobody has refused this caller
        kind = errors.type_for(dialect, status)
    extra: dict[str, Any] = {"attempts": attempt_list(machine, now)} if machine.attempts else {}
    if trace is not None:
        extra["trace_id"] = trace.id
    if foreign:
        told_code, final = code, _foreign_status(outcome, status)
    else:
        told_code, final = outcome.code or code, _sendable(outcome.status) or status
    parsed = _error_of(told_body)
    if parsed is not None:
        headers.append(("Content-Type", "application/json"))
        if outcome.group is Group.CALLER_FAULT and len(machine.attempts) == 1 and _sendable(told_status):
            return told_status, headers, told_body
        parsed["error"] = {**parsed["error"], **extra}
        return _sendable(told_status) or final, headers, orjson.dumps(parsed)
    status, ours, body = errors.problem(
        dialect,
        final,
        type=kind,
        code=told_code,
        message=message or f"the request ended with {outcome.name}",
        request_id=shown_id,
        extra=extra,
    )
    known = {name.lower() for name, _ in headers}
    return status, [*(pair for pair in ours if pair[0].lower() not in known), *headers], body


def _sendable(status: int) -> int:
    """An upstream's status where it is one of an error; 0 where it is none that HTTP knows (RFC 9110 §15)."""
    return status if 400 <= status <= 599 else 0


def _foreign_status(outcome: Outcome, status: int) -> int:
    """The status for a failure at a target of another dialect: by the class, for vendors use numbers differently.

    A caller's mistake keeps its own number (413, 422) where it is one.
    """
    if outcome.cls is Class.INVALID_REQUEST and outcome.status in (413, 422):
        return outcome.status
    return status


def _identified(headers: Headers, dialect: errors.Dialect, request_id: str) -> str:
    """The id by which the caller's client knows the answer: the upstream's own, else ours, which is then added."""
    wanted = "request-id" if dialect == "anthropic" else "x-request-id"
    for name, value in headers:
        if name.lower() == wanted:
            return value
    headers.append((wanted, request_id))
    return request_id


def _error_of(body: bytes) -> dict[str, Any] | None:
    """The JSON object of an error body when it carries an error object; None when it does not."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), dict):
        return parsed
    return None


def _retry_trio(outcome: Outcome, given_up: GiveUp) -> Headers:
    """``Retry-After``, ``retry-after-ms``, ``x-should-retry``."""
    wait = given_up.retry_after_s
    if wait is None and outcome.told_wait_s is not None and outcome.group is Group.LIMITED:
        wait = outcome.told_wait_s
    out: Headers = []
    again = not given_up.final and wait is not None and wait <= SDK_WAIT_MAX_S
    wait = retry_after.downstream_s(wait)
    if wait is not None:
        out.append(("Retry-After", str(max(1, ceil(wait)))))
        out.append(("retry-after-ms", str(max(1, ceil(wait * 1000)))))
    out.append(("x-should-retry", "true" if again else "false"))
    return out


_PROXY_ERRORS: Final = {
    "timeout.connect": "connection_timeout",
    "timeout": "http_response_timeout",
    "connect_error.dns": "dns_error",
    "connect_error.refused": "connection_refused",
    "connect_error.tls": "tls_certificate_error",
    "connect_error": "connection_terminated",
    "stream_interrupted": "http_response_incomplete",
}


def proxy_status(provider: str, outcome: Outcome) -> str:
    """RFC 9209: which next hop failed, and how."""
    parts = [f'outrider; next-hop="{ascii_only(provider)}"']
    error = _PROXY_ERRORS.get(outcome.name) or _PROXY_ERRORS.get(outcome.cls.value)
    if error is not None:
        parts.append(f"error={error}")
    if outcome.status:
        parts.append(f"received-status={outcome.status}")
    return "; ".join(parts)


def broken_error(dialect: errors.Dialect, outcome: Outcome, error: Mapping[str, Any] | None) -> dict[str, Any]:
    """The error object that ends a translated stream, in the caller's words with the provider's reason."""
    _status, kind, code = errors.ERRORS[dialect][outcome.cls if outcome.cls is not Class.CANCELLED else Class.TIMEOUT]
    reason = classify.reason_of(error) if error else ""
    message = reason or outcome.message or "the upstream stream was interrupted"
    return {"message": message, "type": kind, "param": None, "code": code}


def broken_response(reader: ResponsesReader, error: Mapping[str, Any]) -> bytes:
    """The event that ends an interrupted stream of the Responses API: some clients wait for it, and do not look at a
    bare ``error`` (`providers.md` 1.3)."""
    failed = {
        **reader.opened,
        "status": "failed",
        "error": {"code": str(error.get("code") or "server_error"), "message": str(error.get("message") or "")},
    }
    body = {"type": "response.failed", "sequence_number": reader.following, "response": failed}
    return b"event: response.failed\ndata: " + orjson.dumps(body) + b"\n\n"


def error_object(body: bytes) -> Mapping[str, Any] | None:
    """The error object of a body of ours; None when it has none."""
    parsed = _error_of(body)
    return parsed["error"] if parsed is not None else None


def broken(dialect: errors.Dialect, outcome: Outcome, error: Any, request_id: str) -> bytes:
    """The one error event that ends an interrupted stream (`providers.md` 8.3); no success marker follows it."""
    _status, kind, code = errors.ERRORS[dialect][outcome.cls if outcome.cls is not Class.CANCELLED else Class.TIMEOUT]
    if dialect == "anthropic":
        body = {"type": "error", "error": error or {"type": kind, "message": outcome.message}, "request_id": request_id}
        return b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"
    if not error:
        message = outcome.message or "the upstream stream was interrupted"
        error = {"message": message, "type": kind, "param": None, "code": outcome.code or code}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def ascii_only(text: str) -> str:
    """Printable ASCII; everything else becomes ``?``, so that no model name can inject a header."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else "?" for char in text)


__all__: Sequence[str] = ("ascii_only", "attempt_list", "broken", "failure", "passed", "policy_headers", "timing")
