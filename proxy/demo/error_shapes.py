"""The errors of the fake providers, each in its provider's words (`providers.md` section 3). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.demo.asked import FRAMED_APIS, Asked, Dialect
from proxy.demo.say import NUMBER, named, sse
from proxy.dialects.eventstream import exception_frame


@dataclass(frozen=True, slots=True)
class _Error:
    """One kind of error in one dialect: `type` is Gemini's status word or the name of Bedrock's exception, `code`
    Anthropic's `details.error_code` or Gemini's quota."""

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

_AZURE: Final[Mapping[str, _Error]] = {
    **_OPENAI,
    "rate_limit": _Error(429, "too_many_requests", "429", "Requests have exceeded the rate limit of your tier."),
    "quota": _Error(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "auth": _Error(401, "", "401", "Access denied due to invalid subscription key or wrong API endpoint."),
    "model_not_found": _Error(404, "", "DeploymentNotFound", "The API deployment for this resource does not exist."),
    "content_policy": _Error(
        400, "", "content_filter", "The response was filtered as the prompt triggers the content management policy."
    ),
    "timeout": _Error(408, "", "Timeout", "The operation timed out."),
}

_BEDROCK: Final[Mapping[str, _Error]] = {
    "overloaded": _Error(503, "ServiceUnavailableException", None, "The service is temporarily unavailable."),
    "internal": _Error(500, "InternalServerException", None, "An internal server error occurred."),
    "rate_limit": _Error(429, "ThrottlingException", None, "Too many requests, please wait before trying again."),
    "quota": _Error(400, "ServiceQuotaExceededException", None, "Your request exceeds the service quota."),
    "auth": _Error(403, "UnrecognizedClientException", None, "The security token in the request is invalid."),
    "permission": _Error(403, "AccessDeniedException", None, "You don't have access to the model with this ID."),
    "model_not_found": _Error(404, "ResourceNotFoundException", None, "Could not resolve the foundation model."),
    "context_length": _Error(400, "ValidationException", None, "Input is too long for requested model."),
    "content_policy": _Error(400, "ValidationException", None, "Output blocked by content filtering policy"),
    "invalid_request": _Error(400, "ValidationException", None, "Malformed input request, please reformat."),
    "timeout": _Error(408, "ModelTimeoutException", None, "The model took too long to answer."),
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


def family(asked: Asked, dialect: Dialect) -> Dialect:
    """Return whose errors a request gets; `dialect` decides for paths that are nobody's own."""
    if asked.api in ("anthropic", "count_tokens"):
        return "anthropic"
    if asked.api.startswith("gemini"):
        return "gemini"
    if asked.api in ("converse", "invoke", "converse_count"):
        return "bedrock"
    if asked.is_azure:
        return "azure"
    if asked.api in ("chat", "responses", "embeddings"):
        return "azure" if dialect == "azure" else "openai"
    return dialect


def error_status(dialect: Dialect, kind: str) -> int:
    """Return the status that comes with an error of this kind."""
    return _TABLES[dialect][kind].status


_TABLES: Final[Mapping[Dialect, Mapping[str, _Error]]] = {
    "openai": _OPENAI,
    "azure": _AZURE,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
    "bedrock": _BEDROCK,
}


def error(
    dialect: Dialect,
    kind: str,
    *,
    status: int | None = None,
    code: str | None = None,
    message: str | None = None,
    wait_s: float | None = None,
) -> dict[str, Any]:
    """Return the body of an error; `code` and `message` take the place of the usual ones, `status` is Gemini's code.

    `wait_s`: the provider tells how long to wait; here where it does so in the body.
    """
    entry = _TABLES[dialect][kind]
    text = message if message is not None else entry.message
    if dialect == "openai":
        return {"error": {"message": text, "type": entry.type, "param": None, "code": code or entry.code}}
    if dialect == "azure":
        return _azure_error(entry, kind, code or entry.code, text)
    if dialect == "bedrock":
        return {"message": text} if status != 200 else {"__type": code or entry.type, "message": text}
    if dialect == "anthropic":
        inner: dict[str, Any] = {"type": entry.type, "message": text}
        if details := code or entry.code:
            inner["details"] = {"error_code": details}
        return {"type": "error", "error": inner, "request_id": f"req_{NUMBER}"}
    answer: dict[str, Any] = {"code": status or entry.status, "message": text, "status": code or entry.type}
    details_: list[dict[str, Any]] = []
    if entry.code is not None:
        violation = {"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": entry.code}
        details_.append({"@type": f"{_GOOGLE_RPC}QuotaFailure", "violations": [violation]})
    if wait_s is not None:
        details_.append({"@type": f"{_GOOGLE_RPC}RetryInfo", "retryDelay": f"{wait_s:g}s"})
    return {"error": {**answer, "details": details_} if details_ else answer}


_GOOGLE_RPC: Final = "type.googleapis.com/google.rpc."


def _azure_error(entry: _Error, kind: str, code: str | None, text: str) -> dict[str, Any]:
    """Azure's gateway leaves `type` and `param` out; its content filter says more."""
    inner: dict[str, Any] = {"code": code, "message": text}
    if kind == "content_policy":
        filtered = {"hate": {"filtered": True, "severity": "high"}}
        inner |= {"param": "prompt", "type": None, "status": 400}
        inner["innererror"] = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": filtered}
    elif entry.type:
        inner |= {"type": entry.type, "param": None}
    return {"error": inner}


def error_headers(
    dialect: Dialect, kind: str, *, code: str | None, wait_s: float | None, now: float
) -> list[tuple[str, str]]:
    """Return the headers of an error: what is wrong and how long to wait (`now` in unix seconds), where those are told
    in headers."""
    if dialect == "bedrock":
        name = code or _TABLES[dialect][kind].type
        return [("x-amzn-errortype", f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/")]
    if wait_s is None:
        return []
    whole = ("retry-after", str(math.ceil(wait_s)))
    if dialect == "anthropic":
        reset = datetime.fromtimestamp(now + wait_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [
            whole,
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", reset),
        ]
    if dialect == "gemini":
        return []
    millis = ("retry-after-ms", str(math.ceil(wait_s * 1000)))
    if dialect == "azure":
        return [whole, millis, ("x-ratelimit-remaining-requests", "0")]
    return [whole, millis, ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", f"{wait_s:g}s")]


_FRAMED: Final[Mapping[str, str]] = {
    "ServiceUnavailableException": "serviceUnavailableException",
    "ThrottlingException": "throttlingException",
    "ValidationException": "validationException",
    "InternalServerException": "internalServerException",
    "ModelTimeoutException": "modelStreamErrorException",
}
"""Exceptions that a stream can carry, as they are called there."""


def error_event(asked: Asked, kind: str, *, code: str | None, message: str | None, is_bare: bool) -> bytes:
    """Return an error inside a stream, as that API sends it; `is_bare`: the JSON alone, which is no event at all."""
    dialect = family(asked, "openai")
    body = error(dialect, kind, code=code, message=message)
    if is_bare:
        return orjson.dumps(body) + b"\n"
    if asked.api in FRAMED_APIS:
        name = code or _FRAMED.get(_BEDROCK[kind].type, "internalServerException")
        return exception_frame(name, body)
    if asked.api == "anthropic":
        return b"event: error\n" + sse(body)
    if asked.api == "responses":
        inner = body["error"]
        value = {"code": inner["code"] or inner["type"], "message": inner["message"]}
        failed = {"id": f"resp_{NUMBER}", "object": "response", "status": "failed", "error": value, "output": []}
        # The numbers are made up: what follows an error is not a proper stream anyway.
        first = named("done", "error", {**value, "param": None, "sequence_number": 1_000})
        second = named("done", "response.failed", {"response": failed, "sequence_number": 1_001})
        return first.data + second.data
    return sse(body)
