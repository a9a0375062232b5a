"""The configuration as the running program uses it: frozen, checked, free of pydantic.

`config/schema` says what a file may contain, `config/load` reads and checks it and builds these values; the planner
turns them, with a request, into a `Plan`. Policies stay layers of flat settings (``retry.max_retries`` -> 5) until a
plan is built, so that precedence is one dictionary merge and every effective value knows which layer it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from proxy.base.outcome import Class
from proxy.config.notify import Notify
from proxy.config.telemetry import Telemetry
from proxy.dialects import models
from proxy.dialects.facts import ModelFacts
from proxy.engine.plan import Price, Tier
from proxy.policy import breaker, canary
from proxy.policy.absence import Window
from proxy.policy.window import ConsecutiveRule, RateRule

Layer = Mapping[str, Any]
"""Flat policy settings by dotted YAML name, already checked: ``{"timeout_s": 30.0, "retry.max_retries": 5}``."""


class Secret:
    """A credential that never prints itself. `read` returns the present value, None when it is missing."""

    __slots__ = ("_read", "_reread", "reference")

    def __init__(
        self, reference: str, read: Callable[[], str | None], reread: Callable[[], str | None] | None = None
    ) -> None:
        """`reread` looks at the source at once, where `read` may remember it for a second; None: nothing changes."""
        self.reference = reference
        """As written in the file: ``${OPENAI_API_KEY}`` or ``file:/path``; ``(literal)`` for a key in the open."""
        self._read = read
        self._reread = reread or read

    def read(self) -> str | None:
        return self._read()

    def reread(self) -> str | None:
        """As `read`, and certain to see a change that has just happened."""
        return self._reread()

    def __repr__(self) -> str:
        return f"Secret({self.reference})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of a provider's model map."""

    asked: str
    """Name or glob (``claude-*``, ``*``) that the caller asks for."""
    name: str
    """Name the provider is called with; empty: as asked (passthrough)."""
    deployment: str = ""
    tier: str = ""
    """``economy`` marks the smaller model that `reduce_quality` may use."""
    quality: float = 10.0
    max_output_tokens: int | None = None
    context_window: int | None = None
    price: Price | None = None
    api: str = ""
    """The one API that the model speaks; empty: what its provider speaks."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """Stated facts by the names of `ModelFacts`."""

    def called(self, asked: str) -> str:
        return self.name or asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """How calls are signed for AWS."""

    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    region: str = ""
    """Region and service that are signed for; empty: calls are not signed."""
    service: str = ""
    role_arn: str = ""
    """With `web_identity_token_file` for identity aws; empty: the environment tells."""
    web_identity_token_file: str = ""

    @property
    def has_keys(self) -> bool:
        """Whether keys are stated, be they there yet or not."""
        return self.access_key_id is not None


NO_SAMPLING_FROM: Final = "2026-10-21"
"""From this version on Anthropic refuses sampling parameters of every model (`providers.md` 0.1)."""
MEMO_MAX: Final = 1024
"""Models per provider whose facts are remembered; names that callers make up must not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A configured vendor account."""

    name: str
    dialect: Literal["openai", "azure", "anthropic", "gemini", "bedrock"]
    base_url: str
    """Without a trailing slash; scheme http or https; may carry a path (``/v1``)."""
    api_key: Secret | None
    credentials: Literal["sidecar", "caller", "caller_or_sidecar"] = "sidecar"
    region: str = ""
    max_concurrency: int = 1024
    api_version: str = ""
    models: tuple[Model, ...] = (Model(asked="*", name=""),)
    """In file order, exact names before globs. Without a ``models`` section every name is sent as asked."""
    breaker: Layer = field(default_factory=dict)
    disabled: str = ""
    """Why the provider takes no calls (its key is missing); empty: it does."""
    tls_verify: bool = True
    ca_file: str = ""
    ca_digest: str = ""
    """SHA-256 of that file when it was read, hex: authorities change in place."""
    vendor: str = ""
    """Whose quirks the address has (`ModelFacts.vendor`); empty: nobody's that we know."""
    apis: tuple[str, ...] = ()
    """Wire APIs that it speaks itself; empty: by dialect and vendor (`apis.native`)."""
    identity: Literal["", "aws", "azure_workload", "gcp_metadata"] = ""
    """Where the platform hands out the credential; empty: nowhere."""
    aws: Aws = field(default_factory=Aws)
    anthropic_version: str = ""
    """Empty: as the caller says, else 2023-06-01."""
    anthropic_betas: tuple[str, ...] | None = None
    """Values of ``anthropic-beta`` that are let through; None: all."""
    safety_settings: tuple[Mapping[str, str], ...] = ()
    traceparent: bool = False
    """Calls carry the trace context."""
    external: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    """The external model data, shared by all providers."""
    memo: dict[tuple[str, str], tuple[Model, ModelFacts]] = field(default_factory=dict, repr=False, compare=False)
    """Facts by asked and called name, with the entry they were made of."""

    def facts_for(self, entry: Model, called: str) -> ModelFacts:
        """What is known of the model of `entry` when it is called `called`; remembered."""
        found = self.memo.get((entry.asked, called))
        if found is not None and found[0] is entry:
            return found[1]
        if len(self.memo) >= MEMO_MAX:
            self.memo.clear()
        stated: dict[str, Any] = dict(entry.capabilities)
        stated["max_output_tokens"], stated["context_window"] = entry.max_output_tokens, entry.context_window
        facts = models.facts(called, self.dialect, self.vendor, stated, self.external_entry(called))
        if self.dialect == "anthropic" and self.anthropic_version:
            is_late = self.anthropic_version[-10:] >= NO_SAMPLING_FROM
            facts = replace(facts, api_version=self.anthropic_version, sampling=False if is_late else facts.sampling)
        if self.safety_settings:
            facts = replace(facts, safety_settings=self.safety_settings)
        self.memo[entry.asked, called] = entry, facts
        return facts

    def completed(self, entry: Model, called: str) -> Model:
        """`entry` with the limits and the price that the external data tells of the model it is called."""
        known = self.external_entry(called)
        if known is None:
            return entry
        most, window = models.tokens(known)
        cost = None if entry.price is not None else models.price(known)
        return replace(
            entry,
            max_output_tokens=most if entry.max_output_tokens is None else entry.max_output_tokens,
            context_window=window if entry.context_window is None else entry.context_window,
            price=entry.price if cost is None else Price(input=cost[0], output=cost[1]),
        )

    def external_entry(self, called: str) -> Mapping[str, Any] | None:
        """What the external data holds of a model; None: nothing."""
        if not self.external:
            return None
        names = models.external_names(called, self.dialect, self.vendor, self.name)
        return next((self.external[name] for name in names if name in self.external), None)

    def model_for(self, asked: str) -> Model | None:
        """The first entry that covers the asked name; None: this provider refuses it."""
        for model in self.models:
            if model.asked == asked or ("*" in model.asked and fnmatchcase(asked, model.asked)):
                return model
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTarget:
    provider: str
    model: str = ""
    """Called model; empty: the provider's model map decides."""
    tier: Tier = Tier.PRIMARY
    weight: int = 1
    trigger: frozenset[Class] | None = None
    """None: the policy's `failover.on`."""
    max_retries: int | None = None
    """None: the policy's `retry.max_retries` on the first target, 0 on the others."""
    max_latency_increase_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    name: str
    paths: tuple[str, ...] = ()
    """Exact paths or globs; empty: every path."""
    models: tuple[str, ...] = ()
    """Globs over the asked model; empty: every model."""
    targets: tuple[RouteTarget, ...] = ()
    balance: Literal["priority", "weighted", "adaptive", "cheapest"] = "priority"
    policy: Layer = field(default_factory=dict)
    canary: canary.Settings | None = None
    """What is rolled out to a share of its requests; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What headers may ask for at most, and the sizes of everything that could grow."""

    max_retries: int = 10
    max_attempts: int = 16
    max_timeout_s: float = 900.0
    max_hedges: int = 3
    allow_overrides: frozenset[str] = frozenset(
        {"failover", "retry", "circuit_breaker", "hedging", "degraded", "cache", "timeout", "explain"}
    )
    max_targets: int = 1024
    """Targets whose evidence is kept (callers' own keys make targets of their own); least recently used first out."""
    max_plans: int = 1024
    """Memoised plans and parsed header sets."""
    max_held_mb: int = 256
    """Request bodies and held answers of all requests together; beyond it new requests get 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    data_host: str = "127.0.0.1"
    data_port: int = 8711
    admin_host: str = "0.0.0.0"
    admin_port: int = 8712
    auth_tokens: tuple[Secret, ...] = ()
    admin_tokens: tuple[Secret, ...] = ()
    insecure: bool = False
    max_body_mb: int = 32
    max_connections: int = 10_000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    """Longest pause between two pieces of a request's body."""
    keepalive_timeout_s: float = 75.0
    max_header_kb: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Active probes, and the stream of events."""

    probe: Literal["off", "shallow", "deep"] = "off"
    interval_s: float = 30.0
    timeout_s: float = 5.0
    failure_threshold: int = 3
    success_threshold: int = 2
    max_subscribers: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The history."""

    path: str = ":memory:"
    """``:memory:``: it ends with the process."""
    retention_days: int = 35
    max_mb: int = 512
    """Size at which the oldest entries go before their time."""
    recent: int = 2000
    """Entries, and finished requests, kept in memory."""
    queue: int = 10_000
    """Entries that wait for the file; what comes when it is full is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    path: str
    digest: str
    """SHA-256 of the file's bytes, hex."""
    listen: Listen
    providers: Mapping[str, Provider]
    defaults: Layer
    policies: Mapping[str, Layer]
    routes: tuple[Route, ...]
    """Never empty: with none in the file, one route `default` over all providers in file order."""
    limits: Limits
    drain_timeout_s: float = 5.0
    shutdown_mode: Literal["native", "plain"] = "native"
    linger_s: float = 20.0
    """Mode plain: longest time that it serves on after SIGTERM, before it drains."""
    linger_idle_s: float = 10.0
    """Mode plain: it drains earlier when nobody has been connected for so long."""
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: bool = True
    telemetry: Telemetry = field(default_factory=Telemetry)
    chaos: bool = False
    maintenance: tuple[Window, ...] = ()
    health: Health = field(default_factory=Health)
    store: Store = field(default_factory=Store)
    notify: Notify = field(default_factory=Notify)
    slo_availability: float = 0.999
    """Promised share, of the time and of the requests."""
    files: tuple[str, ...] = ()
    """Other files that were read with this one: authorities, model data."""
    warnings: tuple[str, ...] = ()
    """Things that do not stop the start: disabled providers, settings of this version without effect."""
    redacted: Mapping[str, Any] = field(default_factory=dict)
    """The effective file as a tree with every secret replaced, for `GET /config`."""

    @property
    def canaries(self) -> dict[str, canary.Settings]:
        """Rollouts by route."""
        return {route.name: route.canary for route in self.routes if route.canary is not None}


def base_breaker(provider: Provider, layer: Layer) -> breaker.Settings:
    """The base policy of a provider's targets: its own `circuit_breaker` section over the policy's."""
    merged = {**{k[16:]: v for k, v in layer.items() if k.startswith("circuit_breaker.")}, **provider.breaker}
    return breaker_settings(merged)


def breaker_settings(stated: Mapping[str, Any]) -> breaker.Settings:
    """Stated keys of a `circuit_breaker` section (without its name) as the machine takes them."""
    return breaker.Settings(
        error_threshold=stated.get("error_threshold"),
        error_threshold_window_s=stated.get("error_threshold_window"),
        timeout_s=stated.get("timeout", stated.get("waitDurationInOpenState")),
        half_open_requests=stated.get("half_open_requests", stated.get("permittedNumberOfCallsInHalfOpenState")),
        success_threshold=stated.get("success_threshold"),
        excluded_errors=stated.get("excluded_errors"),
        monitor_latency=stated.get("monitor_latency"),
        latency_threshold_ms=stated.get("latency_threshold_ms"),
        looser=stated.get("looser", "capped"),
        panic=stated.get("panic", False),
        rule=_rule(stated),
    )


RATE_KEYS: Final = frozenset(
    {
        "failureRateThreshold",
        "slidingWindow.type",
        "slidingWindow.size",
        "minimumNumberOfCalls",
        "slowCallDurationThreshold",
        "slowCallRateThreshold",
    }
)
"""Keys that select the rate rule (resilience4j's words)."""


def _rule(stated: Mapping[str, Any]) -> RateRule | ConsecutiveRule | None:
    """The further trip rules of the file; a count rule that is stated as well (a header's) takes their place."""
    if "error_threshold" in stated or "error_threshold_window" in stated:
        return None
    if "consecutive" in stated:
        return ConsecutiveRule(n=stated["consecutive"])
    if not RATE_KEYS & stated.keys():
        return None
    window, size = stated.get("slidingWindow.type", "count"), stated.get("slidingWindow.size", 100)
    least = stated.get("minimumNumberOfCalls", 100)
    slow_ms = stated.get("slowCallDurationThreshold")
    return RateRule(
        failure_rate_percent=stated.get("failureRateThreshold", 50),
        window=window,
        size=size,
        minimum_calls=min(least, size) if window == "count" else least,
        slow_call_s=None if slow_ms is None else slow_ms / 1000,
        slow_rate_percent=stated.get("slowCallRateThreshold", 100),
    )
