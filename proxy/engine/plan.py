"""The typed, frozen policy of one request: what the planner hands to the engine.

A plan is a value. It is built once per distinct (route, model, header set), memoised, and shared by every request that
looks the same; nothing in it changes and nothing in it remembers a request. Times are seconds; 0 and None are explained
where they mean something special.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

from proxy.base.outcome import ANY_ERROR, Class
from proxy.base.target import Target
from proxy.policy import backoff, breaker, hedge


class Endpoint(StrEnum):
    """What the caller called; decides what counts as content and in which dialect errors are told."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    RESPONSES = "responses"
    COUNT = "count"
    """``/v1/messages/count_tokens``."""
    RAW = "raw"
    """Passthrough: bytes both ways, content is the first body byte of a 2xx answer."""


class Tier(IntEnum):
    """Priority of a target within its route; lower is tried first, EMERGENCY only when all others are out."""

    PRIMARY = 0
    SECONDARY = 1
    TERTIARY = 2
    EMERGENCY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One target of the chain and the conditions under which this request may go to it."""

    target: Target
    dialect: str = "openai"
    api: str = ""
    """The wire API it is called through: ``chat``, ``responses``, ``embeddings``, ``messages``, ``generate``,
    ``converse``, ``invoke``; empty for RAW."""
    deployment: str = ""
    """Name on the wire where it is not the model's (Azure); empty: the model's."""
    foreign: bool = False
    """Called through another API than the caller's: requests and answers are translated."""
    region: str = ""
    tier: Tier = Tier.PRIMARY
    trigger: frozenset[Class] = ANY_ERROR
    """Classes of the latest failure that open the way to this candidate; not asked of the first one dialled."""
    retries: int = 0
    """Further tries on this target (0 to 10): `Retry.max_retries` on the primary, 0 on the others unless stated."""
    weight: int = 1
    max_latency_increase_s: float | None = None
    """Skip while its median exceeds the primary's by more than this; None: no such condition."""
    degraded: bool = False
    """Answers of this candidate are marked degraded (`reduce_quality`, `reduce_max_tokens`)."""
    output_share: float | None = None
    """Share of the output limit that remains (`reduce_max_tokens: 0.7` gives 0.3); None: unchanged."""
    quality: float = 10.0
    max_output_tokens: int | None = None
    context_window: int | None = None
    """Tokens; None: unknown."""
    price: Price | None = None
    max_concurrency: int = 1024
    breaker: breaker.Settings = field(default_factory=breaker.Settings)
    """The target's base policy from YAML."""

    @property
    def name(self) -> str:
        return self.target.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Limits of one attempt, in seconds (`resilience.md` 3.10)."""

    connect_s: float = 2.0
    first_byte_s: float = 15.0
    first_byte_stated: bool = False
    """The request stated the limit itself: it stays even on the last possible attempt."""
    first_content_s: float = 120.0
    idle_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """One rule of ``X-Retry-Config.rules``; the first that covers the latest failure decides."""

    names: frozenset[str]
    """Outcome names (``timeout``, ``timeout.first_byte``) and classes that it covers."""
    immediate_failover: bool = False
    wait_s: float | None = None
    """Fixed wait; None: by `told` or the plain backoff."""
    told: bool = False
    """``parse_retry_after_header``: wait as told; nothing told means the plain backoff."""
    max_wait_s: float | None = None
    """A wait above this means failover now; None: no bound but the deadline."""
    attempts_s: tuple[float, ...] = ()
    """Delay before each further attempt of these errors, over all targets; empty: bounded by `max_retries`."""
    switch_after: int | None = None
    """After so many attempts on one target the following ones go to the next."""

    def covers(self, cls: Class, name: str) -> bool:
        """Whether an outcome of this class and full name is meant."""
        return cls.value in self.names or name in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Same-target retries."""

    max_retries: int = 2
    backoff: backoff.Settings = field(default_factory=backoff.Settings)
    retry_on: frozenset[str] = frozenset(
        {"timeout.connect", "connect_error", "rate_limit", "server_error", "model_overloaded"}
    )
    """Outcome names retried on the same target; a class name covers all its sub-names."""
    rules: tuple[RetryRule, ...] = ()
    max_told_wait_s: float = 3.0

    def covers(self, cls: Class, name: str) -> bool:
        """Whether an outcome of this class and full name is meant."""
        return cls.value in self.retry_on or name in self.retry_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How a streamed answer is held and written."""

    recovery: Literal["continue", "error", "buffer"] = "continue"
    """`error` is also what `continue` falls back to where nothing can be continued."""
    keepalive_s: float = 0.0
    """Comments to a streaming caller that waits for the first content, one so often; 0: none."""
    upstream_stream: Literal["auto", "always", "never"] = "auto"
    """Whether a unary request is streamed from the upstream; `auto`: where hedging or a stated limit to the first
    content makes use of it."""
    continue_bytes: int = 256 * 1024
    """What is kept of a stream for the case that it has to be continued; 0: nothing."""
    write_timeout_s: float = 60.0
    """How long a caller may not read before it is dropped; 0: for ever."""
    buffer_bytes: int = 256 * 1024
    """Held per stream towards a slow caller before the upstream is paused."""
    hold_bytes: int = 8 * 1024 * 1024
    """Held before the commit point; past it the answer commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided before the first dial."""

    route: str
    endpoint: Endpoint
    candidates: tuple[Candidate, ...]
    """The chain in order, first = primary. Never empty."""
    lead: int = 0
    """So many candidates at the front are a canary: they keep their place whatever the balance is, and their failure
    does not narrow what may follow."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(target or provider name, reason) left out before the first attempt: `no_key`, `dialect`, `model`."""
    timeout_s: float = 600.0
    timers: Timers = field(default_factory=Timers)
    failover: bool = True
    """False: the primary only; retries still apply."""
    max_attempts: int = 8
    retry: Retry = field(default_factory=Retry)
    overlay: breaker.Settings | None = None
    exclusion: breaker.Exclusion | None = None
    hedge: hedge.Settings = field(default_factory=hedge.Settings)
    hedge_order: tuple[int, ...] = ()
    """Indexes into `candidates` in the order of ``X-Hedge-Config.providers``; empty: the chain's order."""
    balance: Literal["priority", "weighted", "adaptive", "cheapest"] = "priority"
    stream: Stream = field(default_factory=Stream)
    breaker_fallback: Literal["error", "cache", "degraded"] = "error"
    priority: Literal["high", "normal", "low"] = "normal"
    explain: bool = False
    """Tell the attempts in ``X-Failover-Trace``."""
    dry_run: bool = False
    """``X-Explain: plan``: no upstream call."""
    clamped: tuple[str, ...] = ()
    """``Header=value`` entries for ``X-Policy-Clamped``."""
    origins: tuple[tuple[str, str], ...] = ()
    """(setting, origin) pairs for `explain`: `built-in`, `defaults`, `route chat`, `policy critical`, a header's
    name."""
