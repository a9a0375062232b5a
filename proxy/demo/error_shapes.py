"""The errors of the fake providers, in OpenAI's, Anthropic's and Gemini's words (`providers.md` section 3). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.demo.asked import Api, Dialect
from proxy.demo.say import NUMBER, named, sse


@dataclass(frozen=True, slots=True)
class _Error:
    """One kind of error in one dialect: `type` is Gemini's status word, `code` Anthropic's `details.error_code`."""

    status: int
    type: str
    code: str | None
    message: str


_OPENAI: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(503, "service_unavailable_error", "server_is_overloaded", "The engine is overloaded."),
    "internal": _Error(500, "server_error", None, "The server had an error while processing your request."),
    "rate_limit": _Error(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "quota": _Error(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "auth": _Error(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "permission": _Error(403, "invalid_request_error", "model_not_allowed", "Project has no access to this model."),
    "model_not_found": _Error(404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "context_length": _Error(
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens.",
    ),
    "content_policy": _Error(
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
    "invalid_request": _Error(400, "invalid_request_error", "invalid_value", "Invalid value for a field."),
    "timeout": _Error(504, "server_error", None, "The upstream model did not answer in time."),
}

_ANTHROPIC: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(529, "overloaded_error", None, "Overloaded"),
    "internal": _Error(500, "api_error", None, "Internal server error"),
    "rate_limit": _Error(429, "rate_limit_error", None, "This request would exceed your rate limit."),
    "quota": _Error(429, "rate_limit_error", "enforced_spend_limit_reached", "You reached your spend limit."),
    "auth": _Error(401, "authentication_error", None, "invalid x-api-key"),
    "permission": _Error(403, "permission_error", None, "Your key may not use this resource."),
    "model_not_found": _Error(404, "not_found_error", None, "model: unknown"),
    "context_length": _Error(400, "invalid_request_error", None, "prompt is too long: 210000 tokens > 200000 maximum"),
    "content_policy": _Error(400, "invalid_request_error", None, "Output blocked by content filtering policy"),
    "invalid_request": _Error(400, "invalid_request_error", None, "Input does not match the expected shape."),
    "timeout": _Error(504, "timeout_error", None, "The request timed out."),
}

_GEMINI: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(503, "UNAVAILABLE", None, "The model is overloaded. Please try again later."),
    "internal": _Error(500, "INTERNAL", None, "An internal error has occurred."),
    "rate_limit": _Error(429, "RESOURCE_EXHAUSTED", "RequestsPerMinutePerProject", "Resource has been exhausted."),
    "quota": _Error(429, "RESOURCE_EXHAUSTED", "RequestsPerDayPerProject", "You exceeded your current quota."),
    "auth": _Error(401, "UNAUTHENTICATED", None, "API key not valid. Please pass a valid API key."),
    "permission": _Error(403, "PERMISSION_DENIED", None, "The caller does not have permission."),
    "model_not_found": _Error(404, "NOT_FOUND", None, "models/unknown is not found."),
    "context_length": _Error(
        400, "INVALID_ARGUMENT", None, "The input token count exceeds the maximum number of tokens allowed."
    ),
    "content_policy": _Error(400, "INVALID_ARGUMENT", None, "The prompt was blocked by content filtering policy."),
    "invalid_request": _Error(400, "INVALID_ARGUMENT", None, "Invalid value at 'contents'."),
    "timeout": _Error(504, "DEADLINE_EXCEEDED", None, "Deadline expired before operation could complete."),
}

_BY_STATUS: Final[Mapping[int, str]] = {
    401: "auth",
    402: "quota",
    403: "permission",
    404: "model_not_found",
    408: "timeout",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    524: "timeout",
    529: "overloaded",
}


def kind_of_status(status: int) -> str:
    """Return the kind of error that a bare status stands for."""
    return _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")


def family(api: Api, dialect: Dialect) -> Dialect:
    """Return whose errors an API speaks; `dialect` decides for paths that are nobody's own."""
    if api == "anthropic":
        return "anthropic"
    if api in ("gemini", "gemini_embeddings"):
        return "gemini"
    return "openai" if api in ("chat", "responses", "embeddings") else dialect


def error_status(dialect: Dialect, kind: str) -> int:
    """Return the status that comes with an error of this kind."""
    return _TABLES[dialect][kind].status


_TABLES: Final[Mapping[Dialect, Mapping[str, _Error]]] = {
    "openai": _OPENAI,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
}


def error(
    dialect: Dialect, kind: str, *, status: int | None = None, code: str | None = None, message: str | None = None
) -> dict[str, Any]:
    """Return the body of an error; `code` and `message` take the place of the usual ones, `status` is Gemini's code."""
    entry = _TABLES[dialect][kind]
    text = message if message is not None else entry.message
    if dialect == "openai":
        return {"error": {"message": text, "type": entry.type, "param": None, "code": code or entry.code}}
    if dialect == "anthropic":
        inner: dict[str, Any] = {"type": entry.type, "message": text}
        if details := code or entry.code:
            inner["details"] = {"error_code": details}
        return {"type": "error", "error": inner, "request_id": f"req_{NUMBER}"}
    answer: dict[str, Any] = {"code": status or entry.status, "message": text, "status": code or entry.type}
    if entry.code is not None:
        violation = {"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": entry.code}
        failure = "type.googleapis.com/google.rpc.QuotaFailure"
        answer["details"] = [{"@type": failure, "violations": [violation]}]
    return {"error": answer}


def error_event(api: Api, kind: str, *, code: str | None, message: str | None, is_bare: bool) -> bytes:
    """Return an error inside a stream, as that API sends it; `is_bare`: the JSON alone, which is no event at all."""
    dialect = family(api, "openai")
    body = error(dialect, kind, code=code, message=message)
    if is_bare:
        return orjson.dumps(body) + b"\n"
    if api == "anthropic":
        return b"event: error\n" + sse(body)
    if api == "responses":
        inner = body["error"]
        value = {"code": inner["code"] or inner["type"], "message": inner["message"]}
        failed = {"id": f"resp_{NUMBER}", "object": "response", "status": "failed", "error": value, "output": []}
        # The numbers are made up: what follows an error is not a proper stream anyway.
        first = named("done", "error", {**value, "param": None, "sequence_number": 1_000})
        second = named("done", "response.failed", {"response": failed, "sequence_number": 1_001})
        return first.data + second.data
    return sse(body)
