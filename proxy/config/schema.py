"""What the YAML file may contain: with `section` and the other `schema_...` all that knows pydantic.

Every value has one `Rule` (in `validate`), which knows the words of its refusal and its JSON Schema. pydantic walks the
structure and reports all errors with their paths; it never coerces, so that the *string* ``on`` of YAML 1.2 does not
become a truth value by the back door. Positions, the values shown in messages and the compiled result are in `load`. No
object of this module outlives the reading of a file.

The defaults stand beside the fields, and `BUILTIN`, the lowest layer of every policy, is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema

from proxy.config import names
from proxy.config.names import Loc
from proxy.config.schema_breaker import Breaker
from proxy.config.schema_notify import Notify
from proxy.config.schema_provider import Capabilities as Capabilities
from proxy.config.schema_provider import Provider as Provider
from proxy.config.schema_rollout import Canary, Maintenance
from proxy.config.section import Section
from proxy.config.section import key as _key
from proxy.config.section import section as _section
from proxy.config.validate import (
    ASKED,
    CALLED,
    DAY_S,
    FAILURE,
    FAMILIES,
    FLAG,
    HOST,
    JITTER,
    LINE,
    LONG_MILLIS,
    MILLIS,
    NAME,
    ONE,
    PATH,
    PICK,
    PORT,
    SECONDS,
    SECONDS_OR_0,
    SECRET,
    TOKENS,
    TRIGGER,
    Broken,
    Finding,
    Rule,
    number,
    or_word,
    whole,
    word,
)

S = TypeVar("S", bound=Section)


def _listed(v: object) -> object:
    return [v] if isinstance(v, str) else v


def _nothing_is_empty(v: object) -> object:
    return [] if v is None else v


def _one_or_more(rule: Rule) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [rule.json, {"type": "array", "items": rule.json, "minItems": 1, "maxItems": 32}]})


# A list of at least one word, or a single word without brackets.
Triggers = Annotated[
    list[Annotated[str, TRIGGER]],
    Field(min_length=1, max_length=32),
    BeforeValidator(_listed),
    _one_or_more(TRIGGER),
]
Failures = Annotated[
    list[Annotated[str, FAILURE]],
    Field(min_length=1, max_length=32),
    BeforeValidator(_listed),
    _one_or_more(FAILURE),
]


class Listener(Section):
    host: Annotated[str, HOST] = _key("127.0.0.1", "Address to bind; ::1 is bound too beside 127.0.0.1.")
    port: Annotated[int, PORT] = _key(8711, "TCP port; 0 lets the system choose.")


class AdminListener(Section):
    host: Annotated[str, HOST] = _key("0.0.0.0", "Address to bind; :: is bound too beside 0.0.0.0.")
    port: Annotated[int, PORT] = _key(8712, "TCP port; 0 lets the system choose.")


class Listen(Section):
    data: Listener = _section(Listener, "What the app calls.")
    admin: AdminListener = _section(AdminListener, "Probes, metrics and status.")
    auth_tokens: Annotated[list[Annotated[Any, SECRET]], BeforeValidator(_nothing_is_empty)] = _key(
        [], "Tokens of which a caller must send one; required when data.host is not loopback.", max_length=64
    )
    admin_tokens: Annotated[list[Annotated[Any, SECRET]], BeforeValidator(_nothing_is_empty)] = _key(
        [],
        "Tokens for what changes something, such as subscriptions; needed where a port is not loopback.",
        max_length=64,
    )
    insecure: Annotated[bool, FLAG] = _key(False, "Allow data.host beyond loopback without auth_tokens.")
    max_body_mb: Annotated[int, whole(1, 1024, " MiB")] = _key(32, "Largest request body.")
    max_connections: Annotated[int, whole(1, 1_000_000)] = _key(10_000, "Open connections of callers.")
    head_timeout_s: Annotated[float, SECONDS] = _key(10.0, "Longest time for a request's head to arrive.")
    body_timeout_s: Annotated[float, SECONDS] = _key(30.0, "Longest pause between two pieces of a request's body.")
    keepalive_timeout_s: Annotated[float, SECONDS] = _key(75.0, "How long an idle connection is kept.")
    max_header_kb: Annotated[int, whole(1, 1024, " KiB")] = _key(32, "Largest request head.")


class Failover(Section):
    enabled: Annotated[bool, FLAG] = _key(True, "False: the primary only; retries still apply.")
    max_attempts: Annotated[int, whole(1, 64)] = _key(8, "Upstream calls of one request, hedges and retries included.")
    on: Triggers = _key(["any_error"], "Classes of failure that lead to the next target.")


class RetryRule(Section):
    error_type: Triggers = Field(description="Classes of failure that the rule covers.")
    wait_ms: Annotated[Any, or_word(LONG_MILLIS, "parse_retry_after_header")] = _key(
        None, "Wait before the same target."
    )
    max_wait_ms: Annotated[int | None, LONG_MILLIS] = _key(None, "A longer wait means failover now.")
    attempts: Annotated[list[Annotated[int, MILLIS]], Field(min_length=1, max_length=10)] | None = _key(
        None, "Wait before each further attempt, in milliseconds."
    )
    switch_provider_after: Annotated[int | None, whole(1, 10)] = _key(
        None, "After so many attempts on one target the following ones go to the next."
    )
    immediate_failover: Annotated[bool, FLAG] = _key(False, "Leave the target at once.")


class Retry(Section):
    max_retries: Annotated[int, whole(0, 10)] = _key(2, "Further tries on the same target.")
    strategy: Annotated[str, word("exponential", "linear", "constant", "immediate", "decorrelated", "custom")] = _key(
        "exponential", "Shape of the waits; custom needs rules."
    )
    initial_delay_ms: Annotated[int, MILLIS] = _key(250, "First wait.")
    max_delay_ms: Annotated[int, LONG_MILLIS] = _key(8000, "No wait is longer.")
    multiplier: Annotated[float, number(1, 10)] = _key(2.0, "Growth per retry (exponential).")
    jitter: Annotated[str, JITTER] = _key("full", "Spread of the waits; true means full, false none.")
    max_told_wait_ms: Annotated[int, whole(0, 300_000, " milliseconds")] = _key(
        3000, "Longest Retry-After that is waited out on the same target."
    )
    retry_on: Failures = _key(
        ["timeout.connect", "connect_error", "rate_limit", "server_error", "model_overloaded"],
        "Classes and sub-names that are tried again on the same target.",
    )
    delays_ms: Annotated[list[Annotated[int, MILLIS]], Field(max_length=10)] = _key(
        [], "The waits outright, instead of strategy and jitter."
    )
    rules: Annotated[list[RetryRule], Field(max_length=16)] = _key(
        [], "For strategy custom: the first that covers decides."
    )


class Hedging(Section):
    enabled: Annotated[bool, FLAG] = _key(False, "Start a second attempt when the first is slow.")
    strategy: Annotated[str, word("latency", "first-success")] = _key(
        "latency", "Which attempt wins: first content, or first complete answer."
    )
    delay_ms: Annotated[Any, or_word(MILLIS, "auto")] = _key("auto", "auto: the learned p95; 1000 before 50 samples.")
    providers: Annotated[list[Annotated[str, PICK]], Field(max_length=4)] = _key(
        [], "Order of the hedges, first = primary; empty: the chain's order."
    )
    cancel_slower: Annotated[bool, FLAG] = _key(True, "False: losers run to their end, to measure what was saved.")
    max_additional_cost: Annotated[float | None, number(0, 1000, " USD")] = _key(
        None, "Most that the extra attempts of a request may cost; none: no limit."
    )
    budget_percent: Annotated[float, number(0, 100)] = _key(5.0, "Hedges per hundred requests of the process.")
    max_hedges: Annotated[int, whole(0, 3)] = _key(1, "Extra attempts of one request.")
    rescue_after_s: Annotated[float, SECONDS_OR_0] = _key(
        10.0, "One unasked second attempt after so long without content, or after the learned p99; 0: never."
    )


class Stream(Section):
    keepalive_s: Annotated[float, SECONDS_OR_0] = _key(0.0, "Comments before the first content; 0: none.")
    write_timeout_s: Annotated[float, SECONDS_OR_0] = _key(60.0, "How long a caller may not read; 0: for ever.")
    buffer_kb: Annotated[int, whole(16, 65_536, " KiB")] = _key(256, "Held per stream towards a slow caller.")
    continue_kb: Annotated[int, whole(0, 65_536, " KiB")] = _key(
        256, "Kept of a stream for the case that another target has to go on with it; 0: never."
    )
    upstream_stream: Annotated[str, word("auto", "always", "never")] = _key(
        "auto",
        "Whether a unary request is streamed from the upstream; auto: for hedging and a stated first token limit.",
    )


_ACTIONS: Final = ("reduce_quality", "feature_flags", "queue_and_batch")
_CONDITIONS: Final = ("high_latency", "partial_outage", "rate_limiting")
_FEATURES: Final = (
    *("image_generation", "code_execution", "web_search", "file_search", "tools", "vision", "audio", "reasoning"),
    "streaming",
)


class StrategyConfig(Section):
    use_model: Annotated[str | None, CALLED] = _key(None, "Model, or provider/model.")
    reduce_max_tokens: Annotated[float | None, number(0, 1)] = _key(None, "Share by which the output limit shrinks.")
    disable_streaming: Annotated[bool, FLAG] = _key(False, "Answer in one piece.")
    cache_aggressively: Annotated[bool, FLAG] = _key(False, "Serve cached answers of up to ten times their age.")
    disable_features: Annotated[list[Annotated[str, word(*_FEATURES)]], Field(max_length=16)] = _key(
        [], "Features taken out of the request."
    )
    simplify_prompts: Annotated[bool, FLAG] = _key(False, "Keep system messages and the newest turns.")
    use_cached_responses: Annotated[bool, FLAG] = _key(False, "Serve cached answers.")
    cache_ttl_multiplier: Annotated[float, number(1, 1000)] = _key(1.0, "How much longer answers stay fresh.")
    batch_size: Annotated[int, whole(1, 1000)] = _key(10, "Requests released together.")
    max_queue_time_ms: Annotated[int, LONG_MILLIS] = _key(5000, "Longest wait in the queue.")
    priority_queue: Annotated[bool, FLAG] = _key(False, "Order by X-User-Priority.")
    notify_users: Annotated[bool, FLAG] = _key(False, "Tell the caller that it waits.")


class Strategy(Section):
    condition: Annotated[str, word(*_CONDITIONS)] = Field(description="When the strategy applies.")
    action: Annotated[str, word(*_ACTIONS)] = Field(description="What it does.")
    config: StrategyConfig = _section(StrategyConfig, "Settings of the action.")


class Notification(Section):
    enabled: Annotated[bool, FLAG] = _key(False, "Send X-User-Notification.")
    message: Annotated[str, LINE] = _key("", "Its text.")
    show_status: Annotated[bool, FLAG] = _key(False, "Tell the status too.")


class DegradedMode(Section):
    enabled: Annotated[bool, FLAG] = _key(False, "Answer with less when a condition holds.")
    triggers: Annotated[list[Annotated[str, word(*_CONDITIONS)]], Field(max_length=3)] = _key(
        list(_CONDITIONS), "Conditions looked at."
    )
    strategies: Annotated[list[Strategy], Field(max_length=16)] = _key([], "The first whose condition holds applies.")
    user_notification: Notification = _section(Notification, "What the caller is told.")
    high_latency_ms: Annotated[int | None, whole(1, 600_000, " milliseconds")] = _key(
        None, "Line of high_latency; none: twice the healthy p95."
    )
    max_prompt_tokens: Annotated[int, TOKENS] = _key(4000, "What simplify_prompts keeps.")


class Cache(Section):
    mode: Annotated[str, word("off", "exact", "semantic")] = _key("off", "Whether answers are kept.")
    ttl_s: Annotated[float, number(0, 31_536_000, " seconds")] = _key(300.0, "How long an answer is fresh.")
    stale_if_error_s: Annotated[float, number(0, 31_536_000, " seconds")] = _key(
        3600.0, "How long a stale one may serve when every target failed."
    )


class Policy(Section):
    timeout_s: Annotated[float, SECONDS] = _key(600.0, "Deadline for everything, the whole stream included.")
    first_byte_timeout_s: Annotated[float, SECONDS] = _key(15.0, "Per attempt, until the response head.")
    first_content_timeout_s: Annotated[float, SECONDS] = _key(120.0, "Per attempt, until the first content.")
    stream_idle_timeout_s: Annotated[float, SECONDS] = _key(30.0, "Silence after the first content.")
    connect_timeout_s: Annotated[float, SECONDS] = _key(2.0, "Per attempt, until connection and TLS are ready.")
    stream_recovery: Annotated[str, word("continue", "error", "buffer")] = _key(
        "continue", "When a stream breaks after content: go on elsewhere, end with an error, or hold it all back first."
    )
    priority: Annotated[str, word("high", "normal", "low")] = _key("normal", "Who is shed last and first.")
    failover: Failover = _section(Failover, "Moving to the next target.")
    retry: Retry = _section(Retry, "Trying the same target again.")
    circuit_breaker: Breaker = _section(Breaker, "Refusing targets that fail; empty: the adaptive rule.")
    hedging: Hedging = _section(Hedging, "A second attempt at the same time.")
    stream: Stream = _section(Stream, "Streamed answers.")
    degraded_mode: DegradedMode = _section(DegradedMode, "Answering with less.")
    cache: Cache = _section(Cache, "Stored answers.")


class Target(Section):
    provider: Annotated[str, NAME] = Field(description="Name of a provider.")
    model: Annotated[str, CALLED] = _key("", "Called model; default: the provider's models decide.")
    tier: Annotated[str | None, word("primary", "secondary", "tertiary", "emergency")] = _key(
        None, "Lower tiers are tried first. Default: with balance priority the first target primary, others secondary."
    )
    weight: Annotated[int, whole(1, 1000)] = _key(1, "Share within its tier, for balance weighted.")
    trigger: Triggers | None = _key(None, "Classes that lead here; default: failover.on.")
    max_retries: Annotated[int | None, whole(0, 10)] = _key(
        None, "Default: retry.max_retries on the first target, 0 on others."
    )
    max_latency_increase_ms: Annotated[int | None, LONG_MILLIS] = _key(
        None, "Skip while its median first content is later than the primary's by more; none: never skipped for it."
    )


class Match(Section):
    paths: Annotated[list[Annotated[str, PATH]], Field(max_length=64), BeforeValidator(_nothing_is_empty)] = _key(
        [], "Exact paths or globs; empty: every path."
    )
    models: Annotated[list[Annotated[str, ASKED]], Field(max_length=256), BeforeValidator(_nothing_is_empty)] = _key(
        [], "Globs over the asked model; empty: every model."
    )


class Route(Section):
    name: Annotated[str, NAME] = _key("", "Default: route1, route2 and so on by position.")
    match: Match = _section(Match, "Which requests take the route.")
    targets: Annotated[list[Target], Field(min_length=1, max_length=64)] | None = _key(
        None, "The chain; default: all providers in file order."
    )
    balance: Annotated[str, word("priority", "weighted", "adaptive", "cheapest")] = _key(
        "priority", "How targets of the same tier share requests."
    )
    policy: Policy = _section(Policy, "Over the defaults.")


class Limits(Section):
    max_retries: Annotated[int, whole(0, 10)] = _key(10, "Most retries that a header may ask for.")
    max_attempts: Annotated[int, whole(1, 64)] = _key(16, "Most attempts that a header may ask for.")
    max_timeout_s: Annotated[float, SECONDS] = _key(900.0, "Longest deadline that a header may ask for.")
    max_hedges: Annotated[int, whole(0, 3)] = _key(3, "Most extra attempts that a header may ask for.")
    allow_overrides: Annotated[
        list[Annotated[str, word(*FAMILIES)]], Field(max_length=8), BeforeValidator(_nothing_is_empty)
    ] = _key(list(FAMILIES), "Families of headers that callers may use.")
    max_targets: Annotated[int, whole(16, 65_536)] = _key(1024, "Targets whose evidence is kept.")
    max_plans: Annotated[int, whole(16, 65_536)] = _key(1024, "Memoised plans and header sets.")
    max_held_mb: Annotated[int, whole(1, 65_536, " MiB")] = _key(
        256, "Request bodies and held answers of all requests together."
    )


class Health(Section):
    probe: Annotated[str, word("off", "shallow", "deep")] = _key(
        "off", "shallow: ask every provider for its models; deep: ask a model for one token."
    )
    interval_s: Annotated[float, number(1, DAY_S, " seconds")] = _key(30.0, "Between two probes.")
    timeout_s: Annotated[float, SECONDS] = _key(5.0, "Of one probe.")
    failure_threshold: Annotated[int, whole(1, 100)] = _key(3, "Failed probes until a provider is down.")
    success_threshold: Annotated[int, whole(1, 100)] = _key(2, "Passed probes until it is up.")
    max_subscribers: Annotated[int, whole(1, 10_000)] = _key(100, "Readers of /v1/health/stream at the same time.")


class ModelData(Section):
    path: Annotated[str, LINE] = _key("", "JSON file in the shape of LiteLLM's list of models; empty: none.")


class Store(Section):
    path: Annotated[str, LINE] = _key(":memory:", "File of the history; :memory: keeps nothing.")
    retention_days: Annotated[int, whole(1, 3650, " days")] = _key(35, "How long the history is kept.")
    max_mb: Annotated[int, whole(8, 1_048_576, " MiB")] = _key(512, "Size at which the oldest of it goes earlier.")
    recent: Annotated[int, whole(100, 100_000)] = _key(2000, "Events, and finished requests, kept in memory.")
    queue: Annotated[int, whole(100, 1_000_000)] = _key(10_000, "Events that wait for the file; the next are dropped.")


class Slo(Section):
    availability: Annotated[float, number(0.5, 0.999999)] = _key(
        0.999, "Share of the time, and of the requests, that is promised; what is left is the error budget."
    )


class Shutdown(Section):
    mode: Annotated[str, word("native", "plain")] = _key("native", "Whether the app ends first, or hears SIGTERM too.")
    linger_s: Annotated[float, SECONDS_OR_0] = _key(20.0, "Plain: how long it serves on after SIGTERM, at most.")
    idle_s: Annotated[float, SECONDS_OR_0] = _key(10.0, "Plain: it leaves once nobody has been connected for so long.")
    drain_timeout_s: Annotated[float, SECONDS_OR_0] = _key(5.0, "How long running requests may finish.")


class Chaos(Section):
    enabled: Annotated[bool, FLAG] = _key(False, "Whether X-Chaos and drills may inject faults.")


class Traces(Section):
    enabled: Annotated[bool, FLAG] = _key(False, "Export traces.")
    sample: Annotated[float, number(0, 1)] = _key(
        0.05, "Share of the requests traced where the caller has not decided."
    )


class Otlp(Section):
    endpoint: Annotated[str, or_word(LINE, "console")] = _key(
        "", "Address without /v1/traces, or console for standard error; empty: OTEL_EXPORTER_OTLP_ENDPOINT decides."
    )
    metrics: Annotated[bool, FLAG] = _key(False, "Send the numbers of /metrics too.")


class Log(Section):
    format: Annotated[str, word("json", "text")] = _key("json", "Form of the lines on stderr.")
    level: Annotated[str, word("debug", "info", "warning", "error")] = _key("info", "Least level written.")


class Telemetry(Section):
    metrics: Annotated[bool, FLAG] = _key(True, "Serve /metrics.")
    traces: Traces = _section(Traces, "Spans of requests and attempts.")
    otlp: Otlp = _section(Otlp, "Where OpenTelemetry sends.")
    log: Log = _section(Log, "Log lines.")


_LATER: Final = "Taken by a later version; accepted without effect."


class File(Section):
    """The whole file."""

    version: Annotated[int, ONE] = _key(1, "Version of this format.")
    listen: Listen = _section(Listen, "Where the proxy listens.")
    providers: Annotated[dict[Annotated[str, NAME], Provider], Field(min_length=1)] = Field(
        description="Configured vendor accounts by name; the only section without a default."
    )
    defaults: Policy = _section(Policy, "The policy every route starts from.")
    policies: Annotated[dict[Annotated[str, NAME], Policy], BeforeValidator(lambda v: {} if v is None else v)] = _key(
        {}, "Named policies for X-Policy."
    )
    routes: Annotated[list[Route], Field(max_length=256), BeforeValidator(_nothing_is_empty)] = _key(
        [], "First match wins; empty: one route over all providers in file order."
    )
    limits: Limits = _section(Limits, "What headers may ask for at most, and the sizes of what could grow.")
    health: Health = _section(Health, "Active probes.")
    model_data: ModelData = _section(ModelData, "Prices, limits and abilities of models from outside.")
    store: Store = _section(Store, "History.")
    shutdown: Shutdown = _section(Shutdown, "Leaving.")
    chaos: Chaos = _section(Chaos, "Fault injection.")
    telemetry: Telemetry = _section(Telemetry, "Metrics, traces and logs.")
    redis: Any = _key(None, _LATER)
    notify: Notify = _section(Notify, "Who is told of incidents, and how.")
    slo: Slo = _section(Slo, "What is promised.")
    maintenance: Annotated[list[Maintenance], Field(max_length=256), BeforeValidator(_nothing_is_empty)] = _key(
        [], "Announced windows in which targets are left out."
    )
    classify: Any = _key(None, _LATER)
    canary: Annotated[
        dict[Annotated[str, NAME], Canary], Field(max_length=256), BeforeValidator(lambda v: {} if v is None else v)
    ] = _key({}, "Rollouts by the name of their route.")
    prices: Any = _key(None, _LATER)


def check(data: object) -> tuple[File | None, list[Finding]]:
    """Check a tree of plain values; either the file or at least one finding."""
    return checked(data, File)


def checked(data: object, kind: type[S]) -> tuple[S | None, list[Finding]]:
    """As `check` for another kind of file in the same manner."""
    try:
        return kind.model_validate(data), []
    except ValidationError as exc:
        return None, [_finding(error, kind) for error in exc.errors(include_url=False, include_input=False)]


def _finding(error: Any, kind: type[Section] = File) -> Finding:
    """pydantic's error in our words; `loc` may end in marks of pydantic's own, which no file has as keys."""
    loc, context = error["loc"], error.get("ctx", {})
    match error["type"]:
        case "value_error" if isinstance(context["error"], Broken):
            return Finding(loc=loc, message=context["error"].must, hint=context["error"].hint, show=True)
        case "extra_forbidden":
            allowed = sorted(_keys_at(loc[:-1], kind))
            hint = names.did_you_mean(str(loc[-1]), allowed)
            return Finding(loc=loc, message=f"unknown key{hint or '; allowed: ' + ', '.join(allowed)}")
        case "missing":
            return Finding(loc=loc, message="is required")
        case "list_type":
            return Finding(loc=loc, message="must be a list", show=True)
        case "too_short":
            return Finding(loc=loc, message=f"must have at least {context['min_length']} entry")
        case "too_long":
            return Finding(loc=loc, message=f"must have at most {context['max_length']} entries")
        case "dict_type" | "model_type" | "model_attributes_type":
            keys = ", ".join(sorted(_keys_at(loc, kind)))
            name = "a model's name in quotes, or " if loc[2:3] == ("models",) and len(loc) == 4 else ""
            return Finding(loc=loc, message=f"must be {name}a mapping{' with keys ' * bool(keys)}{keys}", show=True)
    return Finding(loc=loc, message=error["msg"], show=True)


def _keys_at(loc: Loc, kind: type[Section]) -> tuple[str, ...]:
    """The keys that may stand in the mapping at `loc`; none when it takes any."""
    section = kind
    parts = iter(loc)
    for part in parts:
        if not isinstance(part, str) or part not in section.model_fields:
            continue
        inner, is_map = _inner(section.model_fields[part].annotation)
        if inner is None or (is_map and next(parts, None) is None):
            return ()
        section = inner
    return tuple(section.model_fields)


def _inner(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section inside ``| None``, ``list[...]`` or ``dict[str, ...]``, and whether its keys are names."""
    is_map = False
    while not (isinstance(annotation, type) and issubclass(annotation, Section)):
        is_map = is_map or get_origin(annotation) is dict
        arguments = [a for a in get_args(annotation) if a is not type(None)]
        if not arguments:
            return None, is_map
        annotation = arguments[-1] if get_origin(annotation) is dict else arguments[0]
    return annotation, is_map


def flat(section: Section, *, stated_only: bool, prefix: str = "") -> dict[str, Any]:
    """A policy section as a layer: dotted names, lists as tuples, sections inside lists as plain mappings."""
    layer: dict[str, Any] = {}
    for key in type(section).model_fields:
        value = getattr(section, key)
        if stated_only and key not in section.model_fields_set:
            continue
        if isinstance(value, Section):
            layer.update(flat(value, stated_only=stated_only, prefix=f"{prefix}{key}."))
        elif value is not None:
            layer[prefix + key] = frozenset(value) if key == "excluded_errors" else _plain(value)
    return layer


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return {key: _plain(getattr(value, key)) for key in type(value).model_fields if key in value.model_fields_set}
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value


BUILTIN: Final[Mapping[str, Any]] = flat(Policy(), stated_only=False)
"""The lowest layer of every policy: each setting that has a value when nobody states one."""


def scalars(section: type[Section] = File, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Paths that a variable or flag may set, and whether the value is text whatever it looks like.

    Every scalar outside lists and named maps, but for `version`, which describes the file and not the program.
    """
    for key, field in section.model_fields.items():
        rule = next((part for part in field.metadata if isinstance(part, Rule)), None)
        if rule is not None and (*at, key) != ("version",):
            yield (*at, key), rule.json.get("type") == "string" and not rule.words
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from scalars(field.annotation, (*at, key))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file, for editors and ``outrider schema``."""
    schema = File.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "OUTRIDER configuration"}
