"""The page in front of canned status routes: a world in which everything that it can show is to be seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from proxy.base.exchange import Inbound
from proxy.server.dashboard import dashboard

Json = dict[str, Any]


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def provider(name: str, status: str = "healthy", **over: Any) -> Json:
    made = {
        "name": name,
        "status": status,
        "reason": None,
        "since": ago(minutes=4) if status != "healthy" else None,
        "maintenance": False,
        "last_success_at": ago(minutes=4),
        "requests": 71,
        "uptime_24h": 99.98,
        "avg_response_time_ms": 840.0,
        "error_rate": 0.004,
        "success_rate": 0.996,
        "region": "us-east",
        "circuit": {"state": "closed", "reason": "", "opened_at": None, "retry_after_s": None},
        "rate_limit": {
            "requests": {"limit": 500, "remaining": 460, "reset_s": 12},
            "tokens": {"limit": 200000, "remaining": 151000, "reset_s": 12},
            "utilization": 0.245,
        },
        "errors": {},
        "latency_ms": {"p50": 620.0, "p95": 2100.0, "p99": 4800.0},
        "models": [{"name": "gpt-4o", "status": status, "healthy": status == "healthy"}],
    }
    return {**made, **over}


def outage() -> Json:
    """The answers of all routes in the middle of an outage of `openai`; `backup` answers for it."""
    circuit = {"state": "open", "reason": "error_threshold", "opened_at": ago(minutes=4), "retry_after_s": 12.4}
    ill = provider(
        "openai",
        "down",
        reason="circuit_open",
        success_rate=0.31,
        error_rate=0.69,
        avg_response_time_ms=9300.0,
        circuit=circuit,
        errors={"server_error": 42, "timeout": 7},
        uptime_24h=99.41,
        models=[
            {"name": "gpt-4o", "status": "down", "healthy": False},
            {"name": "gpt-4o-mini", "status": "healthy", "healthy": True},
        ],
    )
    health = {
        "status": "degraded",
        "uptime_percentage": 99.97,
        "routes": [
            {"name": "messages", "status": "healthy", "serving": "backup"},
            {"name": "demo", "status": "degraded", "serving": "backup"},
        ],
        "providers": [ill, provider("backup"), provider("anthropic", "degraded", reason="latency", rate_limit=None)],
    }
    return {
        "/v1/health": health,
        "/v1/events": {"events": events(), "next": None},
        "/v1/incidents": {"incidents": incidents(), "next": None},
        "/v1/analytics": analytics(),
        "/v1/uptime": uptime(),
        "/v1/explain/req_7f3a": explained(),
        "/v1/capabilities": {"history": {"status": "available", "reason": None}},
    }


def events() -> list[Json]:
    call = {"provider": "openai", "model": "gpt-4o", "route": "demo", "request_id": "req_7f3a"}
    failed = {"error": "server_error", "status": 503, "message": "The server is overloaded"}
    return [
        {"id": 101, "at": ago(minutes=5), "kind": "reload", "message": "configuration loaded"},
        {
            "id": 102, "at": ago(minutes=4, seconds=7), "kind": "request", **call, "error": "server_error",
            "status": 200, "message": "The server is overloaded", "fallback": "backup/demo-large", "completed": True,
        },
        {"id": 103, "at": ago(minutes=4, seconds=9), "kind": "attempt", **call, **failed, "attempt": 1},
        {"id": 104, "at": ago(minutes=4, seconds=8), "kind": "retry", **call, **failed, "attempt": 2},
        {
            "id": 105, "at": ago(minutes=4), "kind": "circuit", "provider": "openai", "model": "gpt-4o",
            "error": "circuit_open", "message": "error_threshold", "detail": {"from": "closed", "to": "open"},
        },
        {
            "id": 106, "at": ago(minutes=4), "kind": "provider_down", "provider": "openai", "fallback": "backup",
            "detail": {"reason": "circuit open", "affected_models": ["gpt-4o"], "fallback_provider": "backup"},
        },
        {
            "id": 107, "at": ago(minutes=3, seconds=58), "kind": "incident_opened", "provider": "openai",
            "message": "openai answers with server errors", "detail": {"incident": "inc_1"},
        },
        {
            "id": 108, "at": ago(minutes=1), "kind": "provider_degraded", "provider": "anthropic",
            "message": "first content is 3 times slower than usual", "detail": {"reason": "latency"},
        },
    ]  # fmt: skip


def incidents() -> list[Json]:
    failure = {"at": ago(minutes=4), "model": "gpt-4o", "error": "server_error", "status": 503}
    return [
        {
            "id": "inc_1", "timestamp": ago(minutes=4), "ended_at": None, "duration_minutes": 4.0, "severity": "high",
            "type": "outage", "affected_services": ["openai"], "region": "us-east", "cause": "server_error",
            "impact": "61 requests affected: 60 answered by another target, 1 failed for their callers",
            "evidence": {
                "errors": {"server_error": 42, "timeout.first_byte": 7},
                "first_failures": [{**failure, "request_id": "req_7f3a", "message": "The server is overloaded"}],
            },
            "affected_requests": 61, "failed_over": 60, "user_visible_errors": 1, "resolution": None,
            "timeline": [
                {"at": ago(minutes=4), "what": "opened", "text": "5 of 5 attempts failed"},
                {"at": ago(minutes=3), "what": "escalated", "text": "no attempt has succeeded for a minute"},
            ],
        },
        {
            "id": "inc_0", "timestamp": ago(days=3, hours=2), "ended_at": ago(days=3, hours=1), "severity": "medium",
            "type": "degraded_performance", "affected_services": ["openai/gpt-4o"], "duration_minutes": 61.5,
            "region": None, "cause": "latency", "impact": "410 requests affected",
            "evidence": {"errors": {}, "first_failures": [], "other_providers_in_trouble": ["backup"]},
            "affected_requests": 410, "failed_over": 388, "user_visible_errors": 0,
            "resolution": "latency is back to its usual range",
            "timeline": [{"at": ago(days=3, hours=2), "what": "opened", "text": "3 times slower than usual"}],
        },
    ]  # fmt: skip


def analytics() -> Json:
    reasons = {"outage": 803, "rate_limit": 391, "network": 77, "predicted": 38, "auth": 3}
    return {
        "requests": 345210,
        "primary_success_rate": 0.9962,
        "mean_retries_before_success": 0.41,
        "failovers": {"requests": 1312, "reasons": reasons},
        "hedges": {"sent": 5120, "won": 1744},
        "cache_hits": 0,
        "degraded": {"answers": 138, "share": 0.0004},
        "cost_usd": {"by_fallbacks": 12.84},
    }


def uptime() -> Json:
    low = {7: (98.1, 27.4), 19: (99.72, 4.0)}

    def days(ill: dict[int, tuple[float, float]]) -> list[Json]:
        today = datetime.now(UTC).date()
        made = []
        for back in range(29, -1, -1):
            share, minutes = ill.get(back, (100.0, 0.0))
            date = (today - timedelta(days=back)).isoformat()
            made.append({"date": date, "uptime_percentage": None if back > 26 else share, "downtime_minutes": minutes})
        return made

    overall = {
        "uptime_percentage": 99.99,
        "downtime_minutes": 0.6,
        "error_budget": {"left_percent": 86.0},
        "daily": days({7: (99.96, 0.6)}),
    }
    each = {"uptime_percentage": 99.92, "downtime_minutes": 31.4, "error_budget": {"left_percent": -12.5}}
    return {
        "overall": overall,
        "providers": [{"name": "openai", **each, "daily": days(low)}, {"name": "backup", **overall, "daily": days({})}],
        "maintenance": [
            {"provider": "backup", "from": ago(days=2), "until": ago(days=1, hours=23), "note": "new keys"}
        ],
    }


def explained() -> Json:
    def attempt(kind: str, name: str, start: float, end: float, **over: Any) -> Json:
        return {
            "provider": name, "model": "gpt-4o", "region": "us-east", "kind": kind, "outcome": "server_error",
            "status": 503, "start_ms": start, "end_ms": end, "first_content_ms": None, "won": False, "message": None,
            **over,
        }  # fmt: skip

    ok = {"outcome": "ok", "status": 200, "first_content_ms": 412.0, "won": True}
    late = {"outcome": "cancelled.superseded", "status": None}
    return {
        "request_id": "req_7f3a",
        "request": {
            "at": ago(minutes=4), "route": "demo", "latency_ms": 3350.0, "cost_usd": 0.0031,
            "detail": {"result": "ok", "served_by": "backup/demo-large"},
        },
        "attempts": [
            attempt("first", "openai", 2.0, 180.0, message="The server is overloaded"),
            attempt("retry", "openai", 690.0, 850.0),
            attempt("failover", "anthropic", 851.0, 2100.0, model="claude-sonnet-5", **late),
            attempt("hedge", "backup", 1640.0, 3340.0, model="demo-large", **ok),
        ],
    }  # fmt: skip


class Canned:
    """The server. `answers` may be changed while it runs: by path a body, a status, or None for a cut connection."""

    def __init__(self, answers: Json) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.url = ""
        self._streams: set[web.StreamResponse] = set()
        self._closing = asyncio.Event()

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def close(self) -> None:
        """End the streams."""
        self._closing.set()

    def tell(self, kind: str, told: Json) -> Any:
        """Send an event to every open stream."""
        text = f"id: {told['id']}\nevent: {kind}\ndata: {json.dumps({'kind': kind, **told})}\n\n"
        return asyncio.gather(*(stream.write(text.encode()) for stream in self._streams))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if request.path in ("/", "/dashboard"):
            inbound = Inbound("req_0", "GET", request.path, "", (), b"", 0.0)
            status, headers, body = await dashboard(inbound)
            return web.Response(status=status, headers=dict(headers), body=body)
        answer = self.answers.get(request.path, 404)
        if request.path == "/v1/health/stream" and answer == 404:
            return await self._stream(request)
        if answer is None and request.transport is not None:
            request.transport.abort()
        if request.path == "/v1/events" and isinstance(answer, dict):
            wanted = request.query["kind"].split(",")
            since = int(request.query.get("since", 0))
            found = [each for each in answer["events"] if each["kind"] in wanted and each["id"] > since]
            answer = {**answer, "events": found}
        if isinstance(answer, int):
            return web.json_response({"detail": "canned"}, status=answer)
        return web.json_response(answer)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"event: snapshot\ndata: {}\n\n")
        self._streams.add(stream)
        try:
            await self._closing.wait()
        finally:
            self._streams.discard(stream)
        return stream


@asynccontextmanager
async def canned(answers: Json) -> AsyncIterator[Canned]:
    server = Canned(answers)
    app = web.Application()
    app.router.add_get("/{path:.*}", server._answer)
    runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        server.close()
        await runner.cleanup()
