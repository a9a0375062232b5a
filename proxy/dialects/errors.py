"""Errors as the caller's own SDK expects them: one renderer, one table.

The table is `providers.md` section 2.8. Where it leaves a choice: an upstream's bad credential keeps 401 here, and
whoever knows that the credential was ours picks 502 instead; a class that has no row of its own because no provider
sends it (an open breaker, a local refusal) is 503, which every SDK takes as "later".

The third dialect, ``problem``, is RFC 9457 for people and kubelets on the admin port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import orjson

from proxy.base.outcome import Class

Dialect = Literal["openai", "anthropic", "problem"]

Row = tuple[int, str, str]
"""Status, type, code."""

ERRORS: Final[dict[str, dict[Class, Row]]] = {
    "openai": {
        Class.TIMEOUT: (504, "server_error", "timeout"),
        Class.CONNECT_ERROR: (502, "server_error", "upstream_error"),
        Class.SERVER_ERROR: (502, "server_error", "upstream_error"),
        Class.STREAM_INTERRUPTED: (502, "server_error", "stream_interrupted"),
        Class.RATE_LIMIT: (429, "rate_limit_error", "rate_limit_exceeded"),
        Class.QUOTA_EXCEEDED: (429, "insufficient_quota", "insufficient_quota"),
        Class.AUTH: (401, "invalid_request_error", "invalid_api_key"),
        Class.PERMISSION: (403, "permission_error", "permission_denied"),
        Class.MODEL_NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
        Class.INVALID_REQUEST: (400, "invalid_request_error", "invalid_request"),
        Class.CONTEXT_LENGTH: (400, "invalid_request_error", "context_length_exceeded"),
        Class.CONTENT_POLICY: (400, "invalid_request_error", "content_filter"),
        Class.MODEL_OVERLOADED: (503, "service_unavailable_error", "server_is_overloaded"),
        Class.CIRCUIT_OPEN: (503, "service_unavailable_error", "circuit_open"),
        Class.LOCAL_REJECT: (503, "service_unavailable_error", "no_target_available"),
        Class.CANCELLED: (503, "service_unavailable_error", "cancelled"),
    },
    "anthropic": {
        Class.TIMEOUT: (504, "timeout_error", "timeout"),
        Class.CONNECT_ERROR: (500, "api_error", "upstream_error"),
        Class.SERVER_ERROR: (500, "api_error", "upstream_error"),
        Class.STREAM_INTERRUPTED: (500, "api_error", "stream_interrupted"),
        Class.RATE_LIMIT: (429, "rate_limit_error", "rate_limit_exceeded"),
        Class.QUOTA_EXCEEDED: (402, "billing_error", "insufficient_quota"),
        Class.AUTH: (401, "authentication_error", "invalid_api_key"),
        Class.PERMISSION: (403, "permission_error", "permission_denied"),
        Class.MODEL_NOT_FOUND: (404, "not_found_error", "model_not_found"),
        Class.INVALID_REQUEST: (400, "invalid_request_error", "invalid_request"),
        Class.CONTEXT_LENGTH: (400, "invalid_request_error", "context_length_exceeded"),
        Class.CONTENT_POLICY: (400, "invalid_request_error", "content_filter"),
        Class.MODEL_OVERLOADED: (529, "overloaded_error", "server_is_overloaded"),
        Class.CIRCUIT_OPEN: (503, "overloaded_error", "circuit_open"),
        Class.LOCAL_REJECT: (503, "overloaded_error", "no_target_available"),
        Class.CANCELLED: (503, "overloaded_error", "cancelled"),
    },
}
"""What the caller is told when an attempt ended in a class and nothing better is known; every class but OK."""

_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES: Final = {403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


def caller_dialect(path: str) -> Dialect:
    """The dialect whose errors a caller of `path` understands: Anthropic's under ``/v1/messages``, else OpenAI's."""
    return "anthropic" if path == "/v1/messages" or path.startswith("/v1/messages/") else "openai"


def type_for(dialect: Dialect, status: int) -> str:
    """The error type that fits a status when no class is known."""
    if dialect == "problem":
        return "about:blank"
    known = (_ANTHROPIC_TYPES if dialect == "anthropic" else _OPENAI_TYPES).get(status)
    if known is not None:
        return known
    if status < 500:
        return "invalid_request_error"
    return "api_error" if dialect == "anthropic" else "server_error"


def problem(
    dialect: Dialect,
    status: int,
    *,
    code: str,
    message: str,
    type: str | None = None,
    param: str | None = None,
    request_id: str = "",
    headers: Iterable[tuple[str, str]] = (),
    extra: Mapping[str, Any] | None = None,
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Render an error: status, headers, JSON body.

    `type` None: chosen by status. `param` names what was wrong (header and path); None when nothing can be named.
    `request_id` empty: none is told. `headers` go out after ours. `extra` joins the error object (``attempts``); it
    must be JSON and cannot replace our own members. Lone surrogates in texts become ``?``, it never fails on them.
    """
    chosen = _text(type or type_for(dialect, status))
    error: dict[str, Any] = {"message": _text(message), "type": chosen}
    body: dict[str, Any]
    if dialect == "openai":
        error |= {"param": None if param is None else _text(param), "code": _text(code)}
        body = {"error": {**(extra or {}), **error}}
    elif dialect == "anthropic":
        body = {"type": "error", "error": {**(extra or {}), **error}}
        if request_id:
            body["request_id"] = request_id
    else:
        body = {**(extra or {}), "type": chosen, "status": status, "code": _text(code), "detail": _text(message)}
        if param is not None:
            body["param"] = _text(param)
    kind = "application/problem+json" if dialect == "problem" else "application/json"
    out = [("Content-Type", kind)]
    if request_id:
        out.append(("request-id" if dialect == "anthropic" else "x-request-id", request_id))
        out.append(("X-Outrider-Request-Id", request_id))
    out.extend(headers)
    return status, out, orjson.dumps(body)


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
