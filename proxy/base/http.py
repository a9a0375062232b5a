"""Header names: which pass, which are ours, which are somebody's credential.

One table answers for every header of a request in one dictionary look-up, memoised by the name as it was spelled.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)

OUR_ANSWERS: Final = frozenset(
    {
        "x-circuit-status",
        "x-retry-after",
        "x-served-by",
        "x-served-model",
        "x-served-region",
        "x-failover",
        "x-failover-reason",
        "x-failover-skipped",
        "x-failover-trace",
        "x-attempts",
        "x-retry-count",
        "x-hedge-winner",
        "x-hedge-launched",
        "x-hedge-latency-saved",
        "x-degraded-mode",
        "x-degradation-reason",
        "x-quality-score",
        "x-user-notification",
        "x-translation-warnings",
        "x-policy-clamped",
        "x-outrider-request-id",
        "cache-status",
        "proxy-status",
        "server-timing",
    }
)
"""Names we answer with: an upstream that sends one is spoofing, a caller that sends one is ignored."""

CONTROL: Final = frozenset(
    {
        "x-failover-enabled",
        "x-failover-providers",
        "x-failover-config",
        "x-route",
        "x-policy",
        "x-request-timeout-ms",
        "x-first-token-timeout-ms",
        "x-stream-idle-timeout-ms",
        "x-stream-recovery",
        "x-max-retries",
        "x-retry-delay-ms",
        "x-retry-strategy",
        "x-retry-config",
        "x-circuit-breaker",
        "x-circuit-breaker-fallback",
        "x-request-hedging",
        "x-hedge-config",
        "x-degraded-mode-config",
        "x-user-priority",
        "x-cache",
        "x-explain",
        "x-chaos",
    }
)
"""What a caller may ask of one request; read once, then removed."""

OUR_PREFIXES: Final = (
    "x-failover",
    "x-retry",
    "x-retries",
    "x-max-retr",
    "x-circuit",
    "x-hedg",
    "x-request-hedg",
    "x-request-timeout",
    "x-first-token",
    "x-stream-idle",
    "x-stream-recover",
    "x-degrad",
    "x-provider-key",
    "x-expl",
    "x-chaos",
    "x-outrider",
    "x-user-prior",
)
"""A name that begins so and is not known is a misspelt control header: the planner refuses it by name."""

CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})

_DROPPED: Final = frozenset(
    {
        "host",
        "content-length",
        "expect",
        "via",
        "forwarded",
        "cookie",
        "priority",
        "baggage",
        "x-real-ip",
        "cache-control",
        "pragma",
        # A signature covers the path and the key that the caller signed with, neither of which we send.
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-content-sha256",
    }
)
_READ_TOO: Final = frozenset({"x-stainless-read-timeout"})

_ANSWER_DROPPED: Final = frozenset(
    {
        "content-length",
        "content-encoding",
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
        "server",
        "via",
        "date",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "age",
    }
)


class Fate(IntEnum):
    """What happens to a header of a caller's request."""

    PASS = 0
    DROP = 1
    CONTROL = 2
    CREDENTIAL = 3
    READ = 4
    """Passes, and bounds the deadline."""
    ACCEPT_ENCODING = 5
    ACCOUNT = 6
    """Names an account (`OpenAI-Organization`): only to the primary's provider."""
    CONNECTION = 7
    TRACE = 8
    """W3C trace context; what a provider gets of it is ours to write."""


def fate(name: str) -> Fate:
    """What happens to the request header `name` (lower case)."""
    if name in HOP_BY_HOP:
        return Fate.CONNECTION if name == "connection" else Fate.DROP
    if name in CREDENTIALS:
        return Fate.CREDENTIAL
    if name in _READ_TOO:
        return Fate.READ
    if name == "accept-encoding":
        return Fate.ACCEPT_ENCODING
    if name in ("traceparent", "tracestate"):
        return Fate.TRACE
    if name in ("openai-organization", "openai-project"):
        return Fate.ACCOUNT
    if name in OUR_ANSWERS or name in _DROPPED or name.startswith("x-forwarded-"):
        return Fate.DROP
    if name in CONTROL or name == "grpc-timeout" or name.startswith(OUR_PREFIXES):
        return Fate.CONTROL  # a later attempt has less time than grpc-timeout says: no provider sees it
    return Fate.PASS


def answer_passes(name: str) -> bool:
    """Whether an upstream's response header `name` (lower case) may reach the caller."""
    return not (
        name in HOP_BY_HOP
        or name in OUR_ANSWERS
        or name in _ANSWER_DROPPED
        or name.startswith(("cf-", "x-outrider"))
        or name in CONTROL
    )
