"""Recorded error bodies, judged as production judges them and held against what their status may mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.base.outcome import Class
from proxy.policy.classify import Reply, classify, reason
from tests.conformance.score import wire
from tests.conformance.score.records import Record, exchanges, shapes

_REQUEST = {
    Class.INVALID_REQUEST,
    Class.CONTEXT_LENGTH,
    Class.CONTENT_POLICY,
    Class.MODEL_NOT_FOUND,
    Class.PERMISSION,
    Class.QUOTA_EXCEEDED,
    Class.AUTH,
}
_BROKEN = {Class.SERVER_ERROR, Class.MODEL_OVERLOADED}
EXPECTED: Final[Mapping[int, set[Class]]] = {
    400: _REQUEST | {Class.SERVER_ERROR, Class.RATE_LIMIT, Class.TIMEOUT},  # 3.7: a model's own failures at Groq
    401: {Class.AUTH},
    402: {Class.QUOTA_EXCEEDED},
    403: {Class.PERMISSION, Class.AUTH, Class.CONTENT_POLICY, Class.QUOTA_EXCEEDED, Class.MODEL_NOT_FOUND}
    | {Class.SERVER_ERROR},
    404: {Class.MODEL_NOT_FOUND, Class.INVALID_REQUEST, Class.PERMISSION},
    408: {Class.TIMEOUT},
    413: {Class.INVALID_REQUEST, Class.RATE_LIMIT, Class.CONTEXT_LENGTH},
    422: {Class.INVALID_REQUEST, Class.CONTEXT_LENGTH, Class.CONTENT_POLICY},
    424: {Class.SERVER_ERROR, Class.INVALID_REQUEST},
    429: {Class.RATE_LIMIT, Class.QUOTA_EXCEEDED, Class.MODEL_OVERLOADED},
    500: {Class.SERVER_ERROR, Class.CONTEXT_LENGTH},
    502: {Class.SERVER_ERROR},
    503: {Class.MODEL_OVERLOADED, Class.SERVER_ERROR},
    504: {Class.TIMEOUT},
    529: {Class.MODEL_OVERLOADED},
}  # fmt: skip
"""Classes that a status may stand for (`providers.md` 3.1 to 3.7)."""
_TOLD: Final = (
    ("api key not valid", {Class.AUTH}),
    ("incorrect api key", {Class.AUTH}),
    ("maximum context length", {Class.CONTEXT_LENGTH}),
    ("prompt is too long", {Class.CONTEXT_LENGTH}),
    ("exceeds the available context size", {Class.CONTEXT_LENGTH}),
    ("exceeded your current quota", {Class.QUOTA_EXCEEDED, Class.RATE_LIMIT, Class.MODEL_OVERLOADED}),
    ("credit balance is too low", {Class.QUOTA_EXCEEDED}),
    ("model identifier is invalid", {Class.MODEL_NOT_FOUND}),
    ("security token included in the request", {Class.AUTH}),
    ("insufficient balance", {Class.QUOTA_EXCEEDED}),
)
"""Sentences that leave one class only, whatever the status."""
_GROUNDS: Final[Mapping[Class, str]] = {
    Class.CONTEXT_LENGTH: "token|context",
    Class.CONTENT_POLICY: "polic|filter|safety|flagged|inspection|moderation",
    Class.MODEL_NOT_FOUND: "model|deployment|not.?found|no endpoints found",
    Class.AUTH: "api.?key|token|authenti|credential|signature|unauthorized",
    Class.PERMISSION: "not allowed|permission|access|denied|region|country|location|precondition|enabled|form",
    Class.QUOTA_EXCEEDED: "credit|quota|limit|balance|billing",
    Class.RATE_LIMIT: "rate.?limit|too many|throttl",
    Class.SERVER_ERROR: "server|failed|<html|overload",
    Class.TIMEOUT: "time",
}
"""What a body must at least speak of before a status that stands for much may be given this class."""
_DIALECTS: Final = {"messages": "anthropic", "generate": "gemini", "converse": "bedrock", "invoke": "bedrock"}


def sources() -> Iterator[Record]:
    """Every recorded answer that is an error by its status, the users' reports included."""
    for record in exchanges():
        if record.status >= 400:
            yield record
    for record in shapes():
        if record.status >= 400:
            yield record


def dialect_of(record: Record) -> str:
    return "azure" if record.provider == "azure" else _DIALECTS.get(record.api, "openai")


def differences(record: Record) -> list[str]:
    """What is judged otherwise than the status and the words say, and what of the provider's reason is lost."""
    headers = {key.lower(): value for key, value in record.headers.items()}
    reply = Reply(
        dialect=dialect_of(record), status=record.status, body=record.body, get=headers.get, wall_s=1_764_000_000.0
    )
    outcome = classify(reply)
    out = []
    told = message(record.body)
    stated = _status_in(record.body) or record.status
    allowed = EXPECTED.get(record.status, EXPECTED[500] if record.status >= 500 else _REQUEST)
    if stated != record.status:
        allowed = allowed | EXPECTED.get(stated, set())
    if record.status in (400, 403, 404, 422):
        text = record.body.decode("utf-8", "replace").lower() + str(headers).lower()
        allowed = {cls for cls in allowed if cls not in _GROUNDS or re.search(_GROUNDS[cls], text)}
    allowed = next((classes for words, classes in _TOLD if words in told.lower()), allowed)
    if outcome.cls not in allowed:
        out.append(f"{record.status} {told[:80]!r} became {outcome.cls}")
    kept = reason(record.body, record.status)
    if told and not _starts_alike(told, kept):
        out.append(f"reason {told[:80]!r} became {kept[:80]!r}")
    return out


def _starts_alike(told: str, kept: str) -> bool:
    """The reason's beginning stands in what is kept; a key in it is masked, and a long one may be cut."""
    want, have = " ".join(told.split()).lower(), kept.lower()
    return want[:24] in have or (bool(have) and (have[:24] in want or "[redacted]" in have))


def _status_in(body: bytes) -> int:
    parsed = wire.load(body)
    parsed = parsed[0] if isinstance(parsed, list) and parsed else parsed
    error = parsed.get("error") if isinstance(parsed, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else 0


def message(body: bytes) -> str:
    """The provider's own sentence, by the shapes that providers document; empty: there is none."""
    parsed = wire.load(body)
    parsed = parsed[0] if isinstance(parsed, list) and parsed else parsed
    if not isinstance(parsed, dict):
        return ""
    error = parsed.get("error")
    if isinstance(error, str):
        return error
    holder = error if isinstance(error, dict) else parsed
    found = holder.get("message") or holder.get("Message")
    return found if isinstance(found, str) else ""
