"""What became of an attempt, in the words of the header contract.

One attempt gives exactly one `Outcome`. Every consumer (breaker, budget, cool-down, limiter, metrics, trace) reads the
outcome and never a raw status, so that the same fault counts the same whether it came as a status line, as the first
event of a stream or after ten words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Class(StrEnum):
    """Class of an outcome. The first 14 failure names are those of ``X-Failover-Config.trigger``."""

    OK = "ok"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    RATE_LIMIT = "rate_limit"
    QUOTA_EXCEEDED = "quota_exceeded"
    AUTH = "auth"
    PERMISSION = "permission"
    MODEL_NOT_FOUND = "model_not_found"
    SERVER_ERROR = "server_error"
    MODEL_OVERLOADED = "model_overloaded"
    CONTEXT_LENGTH = "context_length"
    STREAM_INTERRUPTED = "stream_interrupted"
    CIRCUIT_OPEN = "circuit_open"
    CONTENT_POLICY = "content_policy"
    INVALID_REQUEST = "invalid_request"
    CANCELLED = "cancelled"
    LOCAL_REJECT = "local_reject"
    """We refused without contacting the target for another reason than its breaker (cool-down, limit, no key)."""


class Group(StrEnum):
    """What the machinery does with a class (`resilience.md` section 2)."""

    GOOD = "good"
    BAD = "bad"
    LIMITED = "limited"
    TARGET_FAULT = "target_fault"
    CALLER_FAULT = "caller_fault"
    CANCELLED = "cancelled"
    LOCAL = "local"


GROUP: Final[dict[Class, Group]] = {
    Class.OK: Group.GOOD,
    Class.TIMEOUT: Group.BAD,
    Class.CONNECT_ERROR: Group.BAD,
    Class.SERVER_ERROR: Group.BAD,
    Class.MODEL_OVERLOADED: Group.BAD,
    Class.STREAM_INTERRUPTED: Group.BAD,
    Class.RATE_LIMIT: Group.LIMITED,
    Class.QUOTA_EXCEEDED: Group.LIMITED,
    Class.AUTH: Group.TARGET_FAULT,
    Class.PERMISSION: Group.TARGET_FAULT,
    Class.MODEL_NOT_FOUND: Group.TARGET_FAULT,
    Class.CONTEXT_LENGTH: Group.CALLER_FAULT,
    Class.CONTENT_POLICY: Group.CALLER_FAULT,
    Class.INVALID_REQUEST: Group.CALLER_FAULT,
    Class.CANCELLED: Group.CANCELLED,
    Class.CIRCUIT_OPEN: Group.LOCAL,
    Class.LOCAL_REJECT: Group.LOCAL,
}

TRIGGER_CLASSES: Final = frozenset(Class) - {Class.OK, Class.CANCELLED, Class.LOCAL_REJECT}
"""The classes a caller may name in ``trigger``, ``retry_on`` and ``excluded_errors``."""

ANY_ERROR: Final = TRIGGER_CLASSES - {Class.CONTENT_POLICY, Class.INVALID_REQUEST}
"""What ``any_error`` covers: content policy and invalid request fail over only when named.

A context that is too long is covered, but the engine skips a target whose window is known not to be larger
(`lessons.md` S12)."""

TIMEOUT_SUBS: Final = ("connect", "first_byte", "first_content", "idle", "total")
CANCELLED_SUBS: Final = ("downstream", "superseded", "deadline", "drain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one attempt."""

    cls: Class
    sub: str = ""
    """Narrower name: of TIMEOUT one of `TIMEOUT_SUBS`, of CANCELLED one of `CANCELLED_SUBS`, of CONNECT_ERROR `dns`,
    `refused`, `tls`, `reset` or `unreachable`; else empty."""
    status: int = 0
    """HTTP status the upstream sent; 0 when none came."""
    code: str = ""
    """The provider's own error code or type, at most 64 printable ASCII characters; empty when it sent none."""
    message: str = ""
    """The provider's own reason, or ours; at most 200 characters, never a secret, never prompt text."""
    told_wait_s: float | None = None
    """Seconds the target told us to wait (uncapped, >= 0); None when it told nothing usable."""
    no_wait_helps: bool = False
    """A rate limit that this request can never pass on this target (larger than its per-minute allowance)."""
    should_retry: bool | None = None
    """The upstream's ``x-should-retry``: overrides the same-target retry decision, never failover. None: not said."""
    per_credential: bool = False
    """The fault belongs to the credential, not to this one model (auth, quota)."""

    @property
    def group(self) -> Group:
        return GROUP[self.cls]

    @property
    def name(self) -> str:
        """Class and sub-name, ``timeout.first_byte``."""
        return f"{self.cls}.{self.sub}" if self.sub else str(self.cls)


OK: Final = Outcome(cls=Class.OK, status=200)
