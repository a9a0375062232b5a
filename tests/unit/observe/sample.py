"""One finished request, as observers are told of it."""

from __future__ import annotations

from typing import Any

from proxy.observe.record import AttemptRecord, RequestRecord


def attempt(**over: Any) -> AttemptRecord:
    made: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-4o",
        "region": "",
        "kind": "first",
        "outcome": "ok",
        "detail": "ok",
        "status": 200,
        "start_ms": 0.0,
        "end_ms": 300.0,
        "first_content_ms": 200.0,
        "won": True,
    }
    return AttemptRecord(**{**made, **over})


def record(**over: Any) -> RequestRecord:
    made: dict[str, Any] = {
        "request_id": "req_1",
        "route": "chat",
        "endpoint": "chat",
        "stream": True,
        "result": "ok",
        "status": 200,
        "total_ms": 350.0,
        "first_content_ms": 210.0,
        "attempts": (attempt(),),
        "served_by": "openai",
        "served_model": "gpt-4o",
        "failover_reason": "",
        "hedges": 0,
        "input_tokens": 100,
        "output_tokens": 20,
    }
    return RequestRecord(**{**made, **over})
