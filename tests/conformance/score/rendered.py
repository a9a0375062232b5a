"""Recorded failures as the callers of both error dialects are told them: the class and the provider's words.

What a failure is, is judged here a second time from `providers.md` 3 alone: an explicit code first, then the type, then
the status, and sentences only where one status stands for several classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from proxy.dialects.errors import ERRORS, problem
from proxy.policy.classify import Reply, classify, reason
from tests.conformance.score import wire
from tests.conformance.score.records import ERROR_DIALECT, Record, recorded

CALLERS = ("openai", "anthropic")
STATUS = {
    401: "auth", 402: "quota_exceeded", 403: "permission", 404: "model_not_found", 408: "timeout", 409: "server_error",
    413: "invalid_request", 422: "invalid_request", 424: "server_error", 429: "rate_limit", 498: "model_overloaded",
    500: "server_error", 502: "server_error", 503: "model_overloaded", 504: "timeout", 529: "model_overloaded",
}  # fmt: skip
WORDS = {
    word: cls
    for cls, words in {
        "context_length": "context_length_exceeded exceed_context_size_error too_many_prompt_tokens",
        "content_policy": "content_filter ResponsibleAIPolicyViolation content_policy_violation data_inspection_failed",
        "quota_exceeded": "insufficient_quota credit_balance_exhausted billing_error",
        "rate_limit": "rate_limit_exceeded rate_limit_error ThrottlingException RESOURCE_EXHAUSTED",
        "auth": "invalid_api_key authentication_error API_KEY_INVALID UNAUTHENTICATED UnrecognizedClientException "
        "InvalidSignatureException ExpiredTokenException",
        "permission": "permission_error PERMISSION_DENIED AccessDeniedException",
        "model_not_found": "model_not_found DeploymentNotFound model_decommissioned invalid_model",
        "model_overloaded": "overloaded_error UNAVAILABLE server_is_overloaded ServiceUnavailableException",
        "timeout": "timeout_error DEADLINE_EXCEEDED",
        "server_error": "tool_use_failed json_validate_failed",
        "invalid_request": "unsupported_parameter unsupported_value unknown_parameter invalid_value invalid_image_url",
    }.items()
    for word in words.split()
}
PHRASES = (
    (
        "maximum context length|prompt is too long|prompt too long|exceeds the available context size|input is too long"
        "|context size has been exceeded|too many input tokens|exceeds the maximum number of tokens"
        "|exceed context limit|number of input tokens exceeds|current length is .* while limit is|maximum context limit"
        "|longer than the model's context",
        "context_length",
    ),
    (
        "credit balance is too low|insufficient balance|insufficient credits|exceeded your monthly|spend limit"
        "|current quota",
        "quota_exceeded",
    ),
    (
        "api key not valid|check the api-key|incorrect api key|invalid api key|wrong api key|security token",
        "auth",
    ),
    (
        "model identifier is invalid|on-demand throughput|model .{1,80} does not exist|model not exist"
        "|(?:not a valid|invalid) model id|unexpected model name format|supported api model names are",
        "model_not_found",
    ),
    # Google counts by the minute and by the day in one sentence, and sheds load of a shared pool in another (3.4).
    (r"check your plan and billing details\.\s*(?:for more|\*)", "rate_limit"),
    (r"^resource exhausted\. please try again later", "model_overloaded"),
    # What a model cannot do is the request's matter, whatever code the provider gives it.
    ("no endpoints found that support", "invalid_request"),
    ("not supported (?:with the responses api|in the v1|in this model|with this model)", "invalid_request"),
    ("content filtering policy|content management policy", "content_policy"),
)


def sources() -> Iterator[Record]:
    """Every recorded answer with an error status."""
    return (record for record in recorded() if record.status >= 400)


def words_of(value: Any, depth: int = 0) -> Iterator[str]:
    """Codes, types and status words anywhere in an error's body, the innermost first."""
    if isinstance(value, list):
        for each in value:
            yield from words_of(each, depth + 1)
    elif isinstance(value, dict) and depth < 6:
        for key in ("error", "innererror", "details", "errors", "detail"):
            yield from words_of(value.get(key), depth + 1)
        if isinstance(value.get("param"), str) and value["param"].lower().startswith("not supported model"):
            yield "invalid_model"
        for key in ("error_code", "reason", "code", "__type", "type", "status"):
            if isinstance(value.get(key), str):
                yield value[key].split(":")[0].rsplit("#", 1)[-1]


def sentence(value: Any) -> str:
    """The provider's own words."""
    if isinstance(value, list):
        return next((found for each in value if (found := sentence(each))), "")
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return ""
    found = (sentence(value.get(key)) for key in ("error", "message", "Message", "msg", "detail", "errors"))
    return next((each for each in found if each), "")


def meant(record: Record) -> set[str]:
    """The classes that a failure can be by the text."""
    parsed = wire.load(record.body)
    header = {key.lower(): value for key, value in record.headers.items()}.get("x-amzn-errortype", "")
    said = [header.split(":")[0].rsplit("#", 1)[-1], *words_of(parsed)]
    told = sentence(parsed) if parsed is not None else record.body[:2000].decode("utf-8", "replace")
    by_word = [WORDS[word] for word in said if word in WORDS]
    by_phrase = [cls for pattern, cls in PHRASES if re.search(pattern, told.lower())]
    if by_word or by_phrase:
        return {*by_word, *by_phrase}
    by_status = STATUS.get(record.status, "invalid_request" if record.status < 500 else "server_error")
    return {by_status}


MERGED = {
    "openai": {"connect_error": "server_error"},
    "anthropic": {
        "connect_error": "server_error",
        "context_length": "invalid_request",
        "content_policy": "invalid_request",
    },
}
"""Classes that a dialect tells by one status and type (2.8)."""


def told_class(dialect: str, status: int, body: Any) -> str:
    """The class that a caller reads out of an answer, by the table of 2.8 turned round."""
    error = body["error"]
    if dialect == "openai":
        by_code = {
            "timeout": "timeout", "upstream_error": "server_error", "rate_limit_exceeded": "rate_limit",
            "insufficient_quota": "quota_exceeded", "invalid_api_key": "auth", "permission_denied": "permission",
            "model_not_found": "model_not_found", "context_length_exceeded": "context_length",
            "content_filter": "content_policy", "server_is_overloaded": "model_overloaded",
            "invalid_request": "invalid_request",
        }  # fmt: skip
        return by_code.get(error["code"], f"? {status} {error['code']}")
    by_type = {
        "timeout_error": "timeout", "api_error": "server_error", "rate_limit_error": "rate_limit",
        "billing_error": "quota_exceeded", "authentication_error": "auth", "permission_error": "permission",
        "not_found_error": "model_not_found", "invalid_request_error": "invalid_request",
        "overloaded_error": "model_overloaded",
    }  # fmt: skip
    return by_type.get(error["type"], f"? {status} {error['type']}")


def differences(record: Record, dialect: str) -> list[str]:
    """What a caller is told otherwise than the provider said."""
    get = {key.lower(): value for key, value in record.headers.items()}.get
    vendor = "azure" if record.provider == "azure" else ERROR_DIALECT.get(record.api, "bedrock")
    vendor = "bedrock" if record.provider == "bedrock" else vendor
    outcome = classify(Reply(dialect=vendor, status=record.status, get=get, body=record.body, wall_s=0.0))
    status, kind, code = ERRORS[dialect][outcome.cls]  # type: ignore[index]
    message = reason(record.body, record.status) or outcome.message
    status, _, made = problem(dialect, status, code=code, message=message, type=kind)  # type: ignore[arg-type]
    body = wire.load(made)
    merged = MERGED[dialect]
    found = []
    allowed = {merged.get(each, each) for each in meant(record)}
    if (told := told_class(dialect, status, body)) not in allowed:
        found.append(f"{record.status} {sorted(allowed)} is told as {told}: {message[:100]}")
    parsed = wire.load(record.body)
    want = " ".join(sentence(parsed).split()) if parsed is not None else ""
    if want and not _is_kept(want, body["error"]["message"]):
        found.append(f"{want[:80]!r} is told as {body['error']['message'][:80]!r}")
    return found


def _is_kept(want: str, told: str) -> bool:
    """Whether the provider's sentence is there; what looks like a key is masked, and very long ones are cut."""
    want = re.sub(r"(?<=key provided: )\S+", "", want)
    pieces = [piece for piece in re.split(r"\s+", want[:300]) if re.fullmatch(r"[A-Za-z]{2,}[.,]?", piece)]
    return all(piece in told for piece in pieces[:12])
