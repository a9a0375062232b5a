"""What a single value may be, and what several values together may not.

The first half holds the `Rule` of every kind of value: one object that knows the words of its refusal, so that a
message always names type, range and unit, and the JSON Schema that says the same to an editor. The second half looks at
a file whose single values are all right. What can never work is an error that names the field: a target that no request
could reach is worse than none, because it looks like safety. What merely has no use is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from proxy.base.outcome import TIMEOUT_SUBS, TRIGGER_CLASSES
from proxy.config import names
from proxy.config.names import Loc

if TYPE_CHECKING:  # the schema is made of the rules below
    from proxy.config.schema import File, Policy, Provider, Route, Target
    from proxy.config.schema_breaker import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to say about one place of the file."""

    loc: Loc
    """Keys and list indexes from the top; the deepest that exists gives line and column."""
    message: str
    show: bool = False
    """Tell the value that stands there too, unless it is a secret."""
    hint: str = ""
    """A suggestion to append: ``; did you mean "weight"?``."""


# --- single values ---------------------------------------------------------------------------------------------------


class Broken(ValueError):
    """A value against its rule: what it must be, and a suggestion or nothing."""

    def __init__(self, must: str, hint: str) -> None:
        super().__init__(must + hint)
        self.must = must
        self.hint = hint


class Rule:
    """One kind of value. pydantic finds the two methods with its name in ``Annotated[int, rule]``."""

    __slots__ = ("check", "json", "must", "words")

    def __init__(
        self, must: str, check: Callable[[Any], Any], json: dict[str, Any], words: tuple[str, ...] = ()
    ) -> None:
        self.must = must
        """``must be a whole number from 0 to 10``."""
        self.check = check
        """The value in its normal form, None when the rule refuses it."""
        self.json = json
        self.words = words
        """The allowed words, for the nearest one."""

    def value(self, given: object) -> Any:
        made = self.check(given)
        if made is None:
            raise Broken(self.must, names.did_you_mean(given, self.words) if isinstance(given, str) else "")
        return made

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> dict[str, Any]:
        return {"type": "function-plain", "function": {"type": "no-info", "function": self.value}}

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return dict(self.json)


def flag() -> Rule:
    return Rule("must be true or false", lambda v: v if isinstance(v, bool) else None, {"type": "boolean"})


def whole(low: int, high: int, unit: str = "") -> Rule:
    """A whole number in [low, high]; `unit` with its leading space. True is no number."""

    def check(v: object) -> int | None:
        return v if isinstance(v, int) and not isinstance(v, bool) and low <= v <= high else None

    must = f"must be a whole number from {low} to {high}{unit}"
    return Rule(must, check, {"type": "integer", "minimum": low, "maximum": high})


def number(low: float, high: float, unit: str = "") -> Rule:
    """A finite number in [low, high] as float."""

    def check(v: object) -> float | None:
        if not isinstance(v, int | float) or isinstance(v, bool) or not low <= v <= high:
            return None  # NaN fails every comparison, and a huge int is compared without becoming a float
        return float(v)

    must = f"must be a number from {_digits(low)} to {_digits(high)}{unit}"
    return Rule(must, check, {"type": "number", "minimum": low, "maximum": high})


def word(*allowed: str) -> Rule:
    def check(v: object) -> str | None:
        return v if isinstance(v, str) and v in allowed else None

    must = f"must be one of {', '.join(allowed[:-1])} or {allowed[-1]}"
    return Rule(must, check, {"type": "string", "enum": list(allowed)}, allowed)


def text(must: str, pattern: str) -> Rule:
    compiled = re.compile(pattern)

    def check(v: object) -> str | None:
        return v if isinstance(v, str) and compiled.fullmatch(v) else None

    return Rule(f"must be {must}", check, {"type": "string", "pattern": f"^(?:{pattern})$"})


def or_word(rule: Rule, other: str) -> Rule:
    """What `rule` takes, or one word."""

    def check(v: object) -> Any:
        return other if isinstance(v, str) and v == other else rule.check(v)

    return Rule(f"{rule.must}, or {other}", check, {"anyOf": [rule.json, {"const": other}]}, (other,))


def _digits(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _excluded(v: object) -> str | None:
    if isinstance(v, int) and not isinstance(v, bool) and 100 <= v <= 599:
        return str(v)
    return v if isinstance(v, str) and (v in FAILURES or re.fullmatch(r"[1-5][0-9]{2}", v)) else None


def _jitter(v: object) -> str | None:
    if isinstance(v, bool):
        return "full" if v else "none"
    return v if isinstance(v, str) and v in JITTERS else None


def _secret(v: object) -> object:
    if isinstance(v, str):
        return v if re.fullmatch(r"\s*[!-~]+\s*", v) else None
    is_file = isinstance(v, dict) and set(v) == {"file"} and isinstance(v["file"], str) and v["file"].startswith("/")
    return v if is_file else None


TRIGGERS: Final = (*sorted(TRIGGER_CLASSES), "any_error")
_SUBS: Final = {"timeout": TIMEOUT_SUBS, "connect_error": ("dns", "refused", "tls", "reset", "unreachable")}
FAILURES: Final = (*sorted(TRIGGER_CLASSES), *(f"{cls}.{sub}" for cls, subs in _SUBS.items() for sub in subs))
"""Classes and sub-names, as `retry.retry_on` and `circuit_breaker.excluded_errors` take them."""
DIALECTS: Final = ("openai", "azure", "anthropic", "gemini", "bedrock")
APIS: Final = ("chat", "responses", "embeddings", "messages", "converse", "invoke", "generate")
"""Wire APIs that a provider may speak."""
IDENTITIES: Final = ("aws", "azure_workload", "gcp_metadata")
REASONINGS: Final = ("none", "effort", "budget", "adaptive", "level", "always")
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FAMILIES: Final = ("failover", "retry", "circuit_breaker", "hedging", "degraded", "cache", "timeout", "explain")
JITTERS: Final = ("full", "equal", "decorrelated", "none")
TAKEN: Final = ("redis", "classify", "prices")
"""Sections of later versions: any content is accepted, and none has an effect."""
RESERVED: Final = ("v1", "chat", "responses", "embeddings", "models", "messages", "dashboard")
"""First path segments of our own endpoints, which ``/{provider}/...`` must not hide."""
DAY_S: Final = 86_400.0

_PRINTABLE: Final = r"[^\x00-\x1f\x7f-\x9f]"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
NAME = text("a name of 1 to 63 letters, digits, '.', '_' and '-' that begins with a letter or digit", _NAME)
FLAG, PORT = flag(), whole(0, 65_535)
# The shortest limit is a millisecond, as in the headers; a day is longer than any call.
SECONDS, SECONDS_OR_0 = number(0.001, DAY_S, " seconds"), number(0, DAY_S, " seconds")
MILLIS, LONG_MILLIS = whole(0, 60_000, " milliseconds"), whole(0, 600_000, " milliseconds")
TOKENS = whole(1, 1_000_000_000, " tokens")
HOST = text("an IP address or a host name", r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}|::[A-Fa-f0-9.:]{0,40}")
_FILE: Final = {"type": "string", "pattern": "^/", "description": "Absolute path of a file that holds it."}
SECRET = Rule(
    "must be text without spaces such as ${NAME}, or {file: /absolute/path}",
    _secret,
    {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "object", "properties": {"file": _FILE}, "required": ["file"], "additionalProperties": False},
        ]
    },
)
CALLED = text("a model's name in one line, in quotes if it looks like a number", rf"{_PRINTABLE}{{1,256}}")
ASKED = text("a model's name without spaces, '?' and '[', where * is any text", r"[^\x00-\x20\x7f-\x9f?\[\]]{1,256}")
PATH = text("a path that begins with / and holds no '?', where * is any text", r"/[^\x00-\x20\x7f-\x9f?\[\]#]{0,1023}")
PICK = text("a provider or provider/model", rf"{_NAME}(?:/{_PRINTABLE}{{1,256}})?")
LINE = text("text in one line, in quotes if it looks like a number", _PRINTABLE + "{0,1000}")
URL = text("an http:// or https:// address", r"[^\x00-\x20\x7f-\x9f]{1,2048}")
VERSION = text("v1, preview or a date such as 2024-10-21", r"v1|preview|\d{4}-\d\d-\d\d(?:-preview)?")
VENDOR = text("a word of lower-case letters, digits, '-' and '_'", r"[a-z0-9][a-z0-9_-]{0,39}")
REGION = text("a word of lower-case letters, digits and '-'", r"[a-z0-9][a-z0-9-]{0,62}")
BETA = text("a value of anthropic-beta", r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CATEGORY = text("a word in capitals with '_'", r"[A-Z][A-Z0-9_]{0,99}")
PLATFORM_VERSION = text(
    "a date such as 2023-06-01, or a platform's such as vertex-2023-10-16", r"(?:[a-z]+-)?\d{4}-\d\d-\d\d"
)
API, EFFORT = word(*APIS), word(*EFFORTS)
ONE = Rule("must be 1", lambda v: v if type(v) is int and v == 1 else None, {"const": 1})
JITTER = Rule(
    f"must be true, false, {', '.join(JITTERS[:-1])} or {JITTERS[-1]}",
    _jitter,
    {"enum": [True, False, *JITTERS]},
    JITTERS,
)
TRIGGER, FAILURE = word(*TRIGGERS), word(*FAILURES)
EXCLUDED = Rule(
    f"must be a status from 100 to 599 or one of {', '.join(FAILURES)}",
    _excluded,
    {
        "anyOf": [
            {"enum": list(FAILURES)},
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": "^[1-5][0-9]{2}$"},
        ]
    },
    FAILURES,
)


# --- between fields: errors ------------------------------------------------------------------------------------------

VENDORS: Final = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "bedrock": "https://bedrock-runtime.{region}.amazonaws.com",
}
"""Where a dialect is spoken when `base_url` is left out."""


def dialect_of(name: str, provider: Provider) -> str:
    """The stated dialect, else the provider's own name where it is one; else empty."""
    return provider.dialect or (name if name in DIALECTS else "")


def base_url_of(name: str, provider: Provider) -> str:
    """The address without a trailing slash; empty when it must be stated.

    Many vendors speak openai, so a provider with another name must say which one it is: a guess would send its key
    to the wrong company.
    """
    dialect = dialect_of(name, provider)
    if (
        provider.base_url
        or (dialect == "openai" and name != "openai")
        or (dialect == "bedrock" and not provider.region)
    ):
        return (provider.base_url or "").rstrip("/")
    return VENDORS.get(dialect, "").format(region=provider.region)


def is_loopback(host: str) -> bool:
    """Whether `host` (an address or a name, no port) means this machine only."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def errors(file: File, known: tuple[str, ...], complete: bool) -> Iterator[Finding]:
    """What can never work.

    `known`: all providers' names, also of those with errors of their own. `complete`: False when broken parts were cut
    out of `file`, so that what is missing may only be missing here.
    """
    yield from _listener_errors(file, complete)
    lower: dict[str, str] = {}
    for name, provider in file.providers.items():
        yield from _provider_errors(name, provider, complete)
        if lower.setdefault(name.lower(), name) != name:
            message = f'differs from "{lower[name.lower()]}" in capitals only, which header names do not tell apart'
            yield Finding(loc=("providers", name), message=message)
    yield from _policy_errors(("defaults",), file.defaults, file, known)
    for name, policy in file.policies.items():
        yield from _policy_errors(("policies", name), policy, file, known)
    seen: set[str] = set()
    for index, route in enumerate(file.routes):
        if route.name and route.name in seen:
            yield Finding(loc=("routes", index, "name"), message="is the name of an earlier route too", show=True)
        seen.add(route.name)
        yield from _policy_errors(("routes", index, "policy"), route.policy, file, known)
        yield from _target_errors(file, ("routes", index), route, known, complete)


def _listener_errors(file: File, complete: bool) -> Iterator[Finding]:
    data, admin = file.listen.data, file.listen.admin
    if data.port and data.port == admin.port:
        message = "must differ from listen.data.port (0 lets the system choose)"
        yield Finding(loc=("listen", "admin", "port"), message=message, show=True)
    if complete and not (is_loopback(data.host) or file.listen.auth_tokens or file.listen.insecure):
        message = "is not loopback: this needs listen.auth_tokens, or listen.insecure: true"
        yield Finding(loc=("listen", "data", "host"), message=message, show=True)


def _provider_errors(name: str, provider: Provider, complete: bool) -> Iterator[Finding]:
    at: Loc = ("providers", name)
    yield from breaker_errors((*at, "circuit_breaker"), provider.circuit_breaker)
    if name in RESERVED:
        yield Finding(loc=at, message=f"is the name of an endpoint; taken are {', '.join(RESERVED)}")
    if not dialect_of(name, provider):
        yield Finding(loc=(*at, "dialect"), message=f"is required: one of {', '.join(DIALECTS)}")
    elif not base_url_of(name, provider):
        needs = "is required, or region" if provider.dialect == "bedrock" or name == "bedrock" else "is required"
        yield Finding(loc=(*at, "base_url"), message=needs)
    url = provider.base_url or base_url_of(name, provider)
    fault = url_fault(url) if url else ""
    if fault:
        # A password or a key may stand in the address, so it is shown only where nothing of the kind can.
        yield Finding(loc=(*at, "base_url"), message=fault, show=not set("@?#") & set(url))
    if provider.api_key is None and not fault and _needs_key(name, provider):
        message = "is required: write ${NAME}, {file: /path}, or credentials: caller"
        yield Finding(loc=(*at, "api_key"), message=message)
    if complete and provider.models is not None and not provider.models:
        message = "is empty, so that every model would be refused; leave it out to send every name as asked"
        yield Finding(loc=(*at, "models"), message=message)


def _needs_key(name: str, provider: Provider) -> bool:
    """A local model needs none, nor does who brings their own; AWS credentials come from the pod's identity."""
    if provider.credentials == "caller" or dialect_of(name, provider) == "bedrock":
        return False
    if provider.identity or provider.aws.access_key_id is not None:
        return False
    return provider.credentials == "caller_or_sidecar" or not is_local(base_url_of(name, provider))


def is_local(url: str) -> bool:
    """Whether a checked address is on this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def url_fault(url: str) -> str:
    """Why `url` cannot be the base of calls; empty: it can."""
    if not url.lower().startswith(("http://", "https://")):
        return "must begin with http:// or https://"
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "has no valid host and port"
    if "@" in parts.netloc:
        return "must not hold a user or password; put the key into api_key"
    if "?" in url or "#" in url:
        return "must not hold '?' or '#'"
    if not has_host or not re.fullmatch(r"[\w.:\[\]%-]+(?::\d+)?", parts.netloc, re.ASCII):
        return "has no valid host and port"
    return "" if re.fullmatch(r"[\w/.~!$&'()*+,;=:@%-]*", parts.path, re.ASCII) else "has a path with odd characters"


def breaker_errors(at: Loc, section: Machine) -> Iterator[Finding]:
    """A breaker has one trip rule, and each of its settings one name."""
    stated = section.model_fields_set
    counts = sorted({"error_threshold", "error_threshold_window"} & stated)
    rates = sorted(
        {
            "failureRateThreshold",
            "slidingWindow",
            "minimumNumberOfCalls",
            "slowCallDurationThreshold",
            "slowCallRateThreshold",
        }
        & stated
    )
    row = sorted({"consecutive"} & stated)
    chosen = [keys[0] for keys in (counts, rates, row) if keys]
    for other in chosen[1:]:
        yield Finding(loc=(*at, other), message=f"selects another trip rule than {chosen[0]}; state one of them")
    for one, other in (
        ("timeout", "waitDurationInOpenState"),
        ("half_open_requests", "permittedNumberOfCallsInHalfOpenState"),
    ):
        if {one, other} <= stated:
            yield Finding(loc=(*at, other), message=f"is another name of {one}; state one of them")
    window = section.slidingWindow
    if window.type == "time" and window.size is not None and window.size > 120:
        yield Finding(loc=(*at, "slidingWindow", "size"), message="must be at most 120 seconds for a window of time")
    if window.type == "time" and window.size is None:
        yield Finding(loc=(*at, "slidingWindow", "type"), message="a window of time needs size, in seconds")


def _policy_errors(at: Loc, policy: Policy, file: File, known: tuple[str, ...]) -> Iterator[Finding]:
    yield from breaker_errors((*at, "circuit_breaker"), policy.circuit_breaker)
    for index, pick in enumerate(policy.hedging.providers):
        name, _, model = pick.partition("/")
        place: Loc = (*at, "hedging", "providers", index)
        if name not in known:
            yield _unknown(place, "provider", name, known)
        elif model and name in file.providers:
            yield from _model_errors(place, name, file.providers[name], model)
    retry = policy.retry
    if retry.strategy == "custom" and not retry.rules and not file.defaults.retry.rules:
        yield Finding(loc=(*at, "retry", "strategy"), message="custom needs retry.rules")
    for index, rule in enumerate(retry.rules):
        if not {"wait_ms", "attempts", "immediate_failover"} & rule.model_fields_set:
            message = "needs one of wait_ms, attempts or immediate_failover"
            yield Finding(loc=(*at, "retry", "rules", index), message=message)


def _unknown(loc: Loc, kind: str, name: str, known: Iterable[str]) -> Finding:
    allowed = sorted(known)
    hint = names.did_you_mean(name, allowed) or f"; there are {', '.join(allowed[:20]) or 'none'}"
    return Finding(loc=loc, message=f"is no configured {kind}", hint=hint, show=True)


def _target_errors(file: File, at: Loc, route: Route, known: tuple[str, ...], complete: bool) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for index, target in enumerate(route.targets or ()):
        place: Loc = (*at, "targets", index)
        if target.provider not in known:
            yield _unknown((*place, "provider"), "provider", target.provider, known)
        elif (target.provider, target.model) in seen:
            yield Finding(loc=place, message="is the same as an earlier target of the route")
        elif complete and target.provider in file.providers:
            yield from _reach_errors(place, file.providers[target.provider], target, route)
        seen.add((target.provider, target.model))


def _reach_errors(at: Loc, provider: Provider, target: Target, route: Route) -> Iterator[Finding]:
    entries = provider.models if provider.models is not None else {"*": None}
    if not entries:
        return  # told at the provider
    if target.model:
        yield from _model_errors((*at, "model"), target.provider, provider, target.model)
    elif not any(overlap(asked, wanted) for asked in entries for wanted in route.match.models or ["*"]):
        message = "can never be reached: its provider's models cover none of the route's match.models"
        yield Finding(loc=(*at, "provider"), message=message)


def _model_errors(loc: Loc, name: str, provider: Provider, model: str) -> Iterator[Finding]:
    """A model named outright must be one that the provider's map asks for or calls."""
    if provider.models is None:
        return
    called = {entry.name for entry in provider.models.values()} - {"", "passthrough"}
    if model not in called and not any(fnmatchcase(model, asked) for asked in provider.models):
        yield _unknown(loc, f"model of provider {name}", model, called | set(provider.models))


def overlap(one: str, other: str) -> bool:
    """Whether some name fits both globs (``*`` only).

    With a star in each, all depends on the ends: what stands between can follow one after the other inside the stars.
    """
    if "*" not in one:
        return fnmatchcase(one, other)
    if "*" not in other:
        return fnmatchcase(other, one)
    heads = one.partition("*")[0], other.partition("*")[0]
    tails = one.rpartition("*")[2], other.rpartition("*")[2]
    return (heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])) and (
        tails[0].endswith(tails[1]) or tails[1].endswith(tails[0])
    )


def covers(one: list[str], other: list[str]) -> bool:
    """Whether every name of the globs `other` fits one of the globs `one`; an empty list means all names.

    A star of `other` counts as a character that only a star fits: never wrong when it says yes.
    """
    stars = [glob for glob in one if "*" in glob]
    return not one or (bool(other) and all(b in one or any(fnmatchcase(b, a) for a in stars) for b in other))


# --- between fields: warnings ----------------------------------------------------------------------------------------

UNUSED: Final = "accepted, but without effect in this version"


def warnings(file: File) -> Iterator[Finding]:
    """What works, but not as its author may think. Asked only of a file without errors."""
    yield from (Finding(loc=(name,), message=UNUSED) for name in TAKEN if name in file.model_fields_set)
    for name, provider in file.providers.items():
        yield from _provider_warnings(name, provider)
    yield from _policy_warnings(("defaults",), file.defaults)
    for name, policy in file.policies.items():
        yield from _policy_warnings(("policies", name), policy)
    for index, route in enumerate(file.routes):
        yield from _policy_warnings(("routes", index, "policy"), route.policy)
        yield from _route_warnings(file, index, route)


def _provider_warnings(name: str, provider: Provider) -> Iterator[Finding]:
    at: Loc = ("providers", name)
    if not provider.tls_verify:
        yield Finding(loc=(*at, "tls_verify"), message="the server's certificate is not checked")
    url = base_url_of(name, provider)
    if provider.api_key is not None and url.lower().startswith("http://") and not is_local(url):
        yield Finding(loc=(*at, "base_url"), message="sends the key without encryption; use https://")
    if provider.api_key is not None and provider.credentials == "caller":
        yield Finding(loc=(*at, "api_key"), message="is never used with credentials: caller")


def _policy_warnings(at: Loc, policy: Policy) -> Iterator[Finding]:
    unused = {
        ("circuit_breaker", "fallback"): policy.circuit_breaker.fallback != "error",
        ("degraded_mode", "enabled"): policy.degraded_mode.enabled,
        ("cache", "mode"): policy.cache.mode != "off",
    }
    yield from (Finding(loc=(*at, *key), message=UNUSED) for key, stated in unused.items() if stated)
    # Only what one section says together: a short deadline over the built-in timers is an ordinary thing to write.
    stated = policy.model_fields_set
    timers = ("connect_timeout_s", "first_byte_timeout_s", "first_content_timeout_s", "stream_idle_timeout_s")
    for key in timers:
        if {key, "timeout_s"} <= stated and getattr(policy, key) > policy.timeout_s:
            yield Finding(loc=(*at, key), message="never fires: it is longer than timeout_s")
    waits = sum(policy.retry.delays_ms) / 1000
    if waits > policy.timeout_s:
        message = f"add up to {waits:g} seconds, more than timeout_s ({policy.timeout_s:g})"
        yield Finding(loc=(*at, "retry", "delays_ms"), message=message)
    if {"initial_delay_ms", "max_delay_ms"} <= policy.retry.model_fields_set and (
        policy.retry.initial_delay_ms > policy.retry.max_delay_ms
    ):
        yield Finding(loc=(*at, "retry", "initial_delay_ms"), message="is cut to retry.max_delay_ms")
    if policy.retry.rules and policy.retry.strategy != "custom":
        yield Finding(loc=(*at, "retry", "rules"), message="are used with strategy: custom only")


def _route_warnings(file: File, index: int, route: Route) -> Iterator[Finding]:
    at: Loc = ("routes", index)
    for place, earlier in enumerate(file.routes[:index]):
        if covers(earlier.match.paths, route.match.paths) and covers(earlier.match.models, route.match.models):
            name = earlier.name or f"route{place + 1}"
            message = f'never matches: route "{name}" comes first and covers it; only X-Route reaches it'
            yield Finding(loc=at, message=message)
            break
    targets = len(file.providers) if route.targets is None else len(route.targets)
    failover, base = route.policy.failover, file.defaults.failover
    enabled = failover.enabled if "enabled" in failover.model_fields_set else base.enabled
    attempts = failover.max_attempts if "max_attempts" in failover.model_fields_set else base.max_attempts
    stated: Loc = (*at, "policy", "failover") if failover.model_fields_set else ("defaults", "failover")
    if targets > 1 and not enabled:
        message = f"is off, so only the first of the {targets} targets is used unless a header asks for more"
        yield Finding(loc=(*stated, "enabled"), message=message)
    elif attempts < targets:
        message = (
            f"is {attempts}, but the route has {targets} targets: the last ones are reached only past refused ones"
        )
        yield Finding(loc=(*stated, "max_attempts"), message=message)
    if (
        route.targets
        and route.targets[0].trigger is not None
        and route.balance == "priority"
        and len(route.targets) == 1
    ):
        yield Finding(loc=(*at, "targets", 0, "trigger"), message="has no effect on the only target of a route")
