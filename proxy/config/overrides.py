"""The control headers of one request: which there are, who may send them, and what they ask for.

Control headers are ours alone: they are read once, here, and no provider ever sees one (`is_control` tells which they
are). The result, `Overrides`, is a value without any credential in it: a caller's own key (``X-Provider-Key-...``) is
replaced by a keyed fingerprint before anything is remembered, so neither a memo nor a message can leak it; who dials
reads the key from the request itself.

Two rules decide the difficult cases. Values beyond a header's own range are errors (400); values within it but beyond
the operator's `limits` are cut, and the answer says so. And headers are judged in the order of `KNOWN`, not in the
order in which they came, so the same set always gives the same result and the same error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from proxy.base.outcome import Class
from proxy.config import json_headers
from proxy.config.checks import LIST_MAX, HeaderError, Place, classes, label, nearest, plain, show
from proxy.config.compiled import Config, Layer, Model, Provider
from proxy.config.control import (
    ANSWER_ONLY,
    FOREIGN,
    KEY_PREFIX,
    KNOWN,
    Fingerprint,
    by_name,
    fingerprint,
    is_control,
    seal,
    titled,
)
from proxy.engine.plan import Tier
from proxy.policy import breaker, chaos
from proxy.policy.chaos import Fault

__all__ = [
    "ANSWER_ONLY",
    "KNOWN",
    "Fingerprint",
    "HeaderError",
    "Overrides",
    "Step",
    "explicit_model",
    "fingerprint",
    "is_control",
    "parse",
    "seal",
]

# Values ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One target as asked for, by a header or a route, before it is known whether it can take the request."""

    provider: str
    model: str = ""
    """Empty: the provider's model map decides."""
    called: bool = False
    """`model` is the called name as the operator wrote it; False: the model map may rename it."""
    tier: Tier | None = None
    """None: PRIMARY for the first of the chain, SECONDARY for the others."""
    weight: int = 1
    trigger: frozenset[Class] | None = None
    """None: the policy's `failover.on`."""
    retries: int | None = None
    """None: the policy's `retry.max_retries` on the first target, 0 on the others."""
    max_latency_increase_s: float | None = None
    reduce_quality: bool = False
    reduce_max_tokens: float = 0.0
    """Share by which the output limit is reduced, 0 to 1; 0: not at all."""

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}" if self.model else self.provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the headers of one request ask for; empty for a request without any."""

    simple: Layer = field(default_factory=dict)
    """Flat settings from simple headers, in the value forms of `compiled.Layer`."""
    json: Layer = field(default_factory=dict)
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Setting -> (simple header, JSON header) that states it; an empty name where none does."""
    providers: tuple[Step, ...] | None = None
    """``X-Failover-Providers``: the whole chain. None: not given."""
    primary: Step | None = None
    """``X-Failover-Config.primary``."""
    fallbacks: tuple[Step, ...] | None = None
    """``X-Failover-Config.fallbacks``. None: not given."""
    exclusion: breaker.Exclusion | None = None
    hedge: tuple[Step, ...] = ()
    """``X-Hedge-Config.providers``."""
    route: str = ""
    policy: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Provider -> fingerprint of the key that the caller brought for it."""
    read_timeout_s: float | None = None
    """The caller's client gives up after so long a silence (``x-stainless-read-timeout``). None: not said."""
    grpc_timeout_s: float | None = None
    explain: bool = False
    dry_run: bool = False
    degraded: Mapping[str, Any] | None = None
    """``X-Degraded-Mode-Config``, checked; without effect in this version."""
    cache: str = ""
    """``X-Cache``; without effect in this version."""
    chaos: Fault | None = None
    """``X-Chaos``."""
    clamped: tuple[str, ...] = ()


def explicit_model(provider: Provider, name: str) -> Model | None:
    """The entry of the model map behind an explicit ``provider/model``; None: the map refuses it.

    An asked name wins over a called name, and both over a glob: ``anthropic/gpt-4o`` is what the map makes of `gpt-4o`,
    ``anthropic/claude-sonnet-5`` is that model.
    """
    for model in provider.models:
        if name == model.asked:
            return model
    for model in provider.models:
        if name == model.name:
            return model
    return provider.model_for(name)


# Reading --------------------------------------------------------------------------------------------------------------


def parse(pairs: Sequence[tuple[str, str]], config: Config, secret: bytes = b"") -> Overrides:
    """What the control headers `pairs` (lower-case name, value) of one request ask for.

    Raises `HeaderError`: 400 ``invalid_header``, or 403 ``override_forbidden`` where `limits.allow_overrides` or
    `chaos.enabled` does not allow the header.
    """
    given = by_name(seal(pairs, secret))
    reader = _Reader(given, config)
    for name, (shown, family) in KNOWN.items():
        if name in given:
            reader.allow(shown, family)
            _READERS[name](reader, Place(shown), given[name].strip(" \t"))
    for name in sorted(given):
        if name.startswith(KEY_PREFIX):
            reader.key(name, given[name])
    reader.foreign()
    return reader.overrides()


class _Reader:
    """Collects the values of one header set; one method per header."""

    def __init__(self, given: Mapping[str, str], config: Config) -> None:
        self._given = given
        self._config = config
        self._by_lower_name = {name.lower(): name for name in config.providers}
        self._simple: dict[str, Any] = {}
        self._json: dict[str, Any] = {}
        self._origins: dict[str, tuple[str, str]] = {}
        self._keys: dict[str, str] = {}
        self._clamped: list[str] = []
        self._rest: dict[str, Any] = {}

    def overrides(self) -> Overrides:
        return Overrides(
            simple=self._simple,
            json=self._json,
            origins=self._origins,
            keys=self._keys,
            clamped=tuple(self._clamped),
            **self._rest,
        )

    def allow(self, header: str, family: str) -> None:
        if family == "chaos":
            if not self._config.chaos:
                raise HeaderError(403, header, "", "chaos is not enabled here", "override_forbidden")
        elif family not in self._config.limits.allow_overrides:
            text = f'the operator does not allow "{family}" headers'
            raise HeaderError(403, header, "", text, "override_forbidden")

    # Setting values.

    def _set(self, at: Place, setting: str, value: Any) -> None:
        self._simple[setting] = value
        self._origins[setting] = (at.header, self._origins.get(setting, ("", ""))[1])

    def _set_json(self, header: str, setting: str, value: Any) -> None:
        self._json[setting] = value
        self._origins[setting] = (self._origins.get(setting, ("", ""))[0], header)

    def _cut(self, at: Place, value: int, most: int) -> int:
        """`value`, or the operator's limit where that is less; the answer will say so."""
        if value <= most:
            return value
        self._clamped.append(f"{HeaderError(0, at.header, at.path, '').param}={most}")
        return most

    @property
    def _retries_max(self) -> int:
        limits = self._config.limits
        return max(0, min(limits.max_retries, limits.max_attempts - 1))

    # Names that the configuration must know.

    def _provider(self, at: Place, name: str) -> Provider:
        found = self._config.providers.get(name)
        if found is None:
            if "://" in name:
                raise at.wrong("must be the name of a configured provider, not a URL")
            hint = nearest(name, self._config.providers)
            raise at.wrong(f"must be the name of a configured provider, got {show(name)}{hint}")
        return found

    def _target(self, at: Place, provider_at: Place, model_at: Place, provider: str, model: str) -> tuple[str, str]:
        """Checked (provider, model); an empty model leaves the choice to the provider's model map."""
        found = self._provider(provider_at, provider)
        if model and explicit_model(found, model) is None:
            known = {n for m in found.models for n in (m.asked, m.name) if n and "*" not in n}
            raise model_at.wrong(
                f'must be a model of provider "{found.name}", got {show(model)}{nearest(model, known)}'
            )
        return found.name, model

    def _named(self, at: Place, name: str) -> Step:
        provider, slash, model = name.partition("/")
        if slash and not model:
            raise at.wrong(f"must be provider or provider/model, got {show(name)}")
        provider, model = self._target(at, at, at, provider, model)
        return Step(provider=provider, model=model)

    # Simple headers.

    def route(self, at: Place, value: str) -> None:
        routes = [route.name for route in self._config.routes]
        if value not in routes:
            raise at.wrong(f"must be the name of a route, got {show(value)}{nearest(value, routes)}")
        self._rest["route"] = value

    def policy(self, at: Place, value: str) -> None:
        if value not in self._config.policies:
            raise at.wrong(f"must be the name of a policy, got {show(value)}{nearest(value, self._config.policies)}")
        self._rest["policy"] = value

    def failover_enabled(self, at: Place, value: str) -> None:
        self._set(at, "failover.enabled", _boolean(at, value))

    def failover_providers(self, at: Place, value: str) -> None:
        entries = [entry.strip(" \t") for entry in value.split(",")]
        if not value or len(entries) > LIST_MAX:
            count = len(entries) if value else 0
            raise at.wrong(f"must be a list of 1 to {LIST_MAX} entries, got {count}")
        steps: list[Step] = []
        for index, entry in enumerate(entries):
            here = at.item(index)
            if not entry:
                raise here.wrong("must not be empty")
            step = self._named(here, label(entry, here))
            if step not in steps:
                steps.append(step)
        self._rest["providers"] = tuple(steps)

    def stream_recovery(self, at: Place, value: str) -> None:
        self._set(at, "stream_recovery", _word(at, value, "continue", "error", "buffer"))

    def request_timeout(self, at: Place, value: str) -> None:
        self._set(at, "timeout_s", self._milliseconds(at, value))

    def first_token_timeout(self, at: Place, value: str) -> None:
        """One limit for the response head and for the first content: a target silent for so long has timed out."""
        seconds = self._milliseconds(at, value)
        self._set(at, "first_byte_timeout_s", seconds)
        self._set(at, "first_content_timeout_s", seconds)

    def stream_idle_timeout(self, at: Place, value: str) -> None:
        self._set(at, "stream_idle_timeout_s", self._milliseconds(at, value))

    def _milliseconds(self, at: Place, value: str) -> float:
        """Seconds. The upper end is the operator's, so a longer time is cut, not refused."""
        if not re.fullmatch(r"[0-9]+", value) or not value.strip("0"):
            raise at.wrong(f"must be a whole number of milliseconds, at least 1, got {show(value)}")
        asked = int(value) if len(value) <= 18 else 10**18
        return self._cut(at, asked, max(1, int(self._config.limits.max_timeout_s * 1000))) / 1000

    def max_retries(self, at: Place, value: str) -> None:
        self._set(at, "retry.max_retries", self._cut(at, _whole(at, value, 0, 10), self._retries_max))

    def retry_delay(self, at: Place, value: str) -> None:
        self._set(at, "retry.initial_delay_ms", _whole(at, value, 0, 60_000))

    def retry_strategy(self, at: Place, value: str) -> None:
        self._set(at, "retry.strategy", _word(at, value, *json_headers.STRATEGIES))

    def breaker_fallback(self, at: Place, value: str) -> None:
        self._set(at, "circuit_breaker.fallback", _word(at, value, "cache", "degraded", "error"))

    def hedging(self, at: Place, value: str) -> None:
        wanted = _boolean(at, value)
        if wanted and self._config.limits.max_hedges < 1:
            self._clamped.append(f"{at.header}=false")
            wanted = False
        elif not wanted:
            self._set(at, "hedging.rescue_after_s", 0.0)
        self._set(at, "hedging.enabled", wanted)

    def priority(self, at: Place, value: str) -> None:
        self._set(at, "priority", _word(at, value, "high", "normal", "low"))

    def cache(self, at: Place, value: str) -> None:
        self._rest["cache"] = _word(at, value, "exact", "semantic", "off")

    def explain(self, at: Place, value: str) -> None:
        if value.lower() == "plan":
            self._rest["dry_run"] = True
            return
        try:
            self._rest["explain"] = _boolean(at, value)
        except HeaderError:
            raise at.wrong(f"must be true, false or plan, got {show(value)}") from None

    def chaos(self, at: Place, value: str) -> None:
        try:
            fault = chaos.parse(value)
        except chaos.Unclear as unclear:
            here = at.key(plain(unclear.key)) if unclear.key else at
            hint = nearest(unclear.key, chaos.KEYS) if unclear.key not in chaos.KEYS else ""
            raise here.wrong(
                unclear.must + hint + ("" if unclear.got is None else f", got {show(unclear.got)}")
            ) from None
        if fault.who != chaos.PRIMARY:
            self._provider(at, fault.who.partition("/")[0])
        self._rest["chaos"] = fault

    # JSON headers.

    def failover_config(self, at: Place, value: str) -> None:
        content = json_headers.read(at.header, value, json_headers.FAILOVER)
        if "primary" in content:
            self._rest["primary"] = self._step(at.key("primary"), content["primary"])
        if "fallbacks" in content:
            listed = enumerate(content["fallbacks"])
            self._rest["fallbacks"] = tuple(self._step(at.key("fallbacks").item(i), each) for i, each in listed)
        self._rest["exclusion"] = breaker.Exclusion(
            failure_threshold=content.get("failure_threshold", 3),
            success_threshold=content.get("success_threshold", 2),
            health_check_interval_s=content.get("health_check_interval", 30.0),
        )

    def _step(self, at: Place, content: Mapping[str, Any]) -> Step:
        provider, model = self._target(
            at, at.key("provider"), at.key("model"), content["provider"], content.get("model", "")
        )
        later_ms = content.get("max_latency_increase")
        return Step(
            provider=provider,
            model=model,
            trigger=classes(content["trigger"]) if "trigger" in content else None,
            max_latency_increase_s=None if later_ms is None else later_ms / 1000,
            reduce_quality=content.get("reduce_quality", False),
            reduce_max_tokens=content.get("reduce_max_tokens", 0.0),
        )

    def retry_config(self, at: Place, value: str) -> None:
        content = json_headers.read(at.header, value, json_headers.RETRY)
        if "max_retries" in content:
            content["max_retries"] = self._cut(at.key("max_retries"), content["max_retries"], self._retries_max)
        elif "delays_ms" in content and "retry.max_retries" not in self._simple:
            # A schedule outright says by its length how often; three delays with two retries would drop the last.
            most = self._cut(at.key("delays_ms"), len(content["delays_ms"]), self._retries_max)
            content["max_retries"] = most
        for index, rule in enumerate(content.get("rules", ())):
            if "attempts" in rule:
                here = at.key("rules").item(index).key("attempts")
                rule["attempts"] = rule["attempts"][: self._cut(here, len(rule["attempts"]), self._retries_max)]
        for key, each in content.items():
            self._set_json(at.header, f"retry.{key}", each)

    def breaker(self, at: Place, value: str) -> None:
        content = json_headers.read(at.header, value, json_headers.BREAKER)
        for key, each in content.items():
            # As a set, so that two ways to write one policy are one policy.
            self._set_json(at.header, f"circuit_breaker.{key}", frozenset(each) if isinstance(each, tuple) else each)

    def hedge_config(self, at: Place, value: str) -> None:
        content = json_headers.read(at.header, value, json_headers.HEDGE)
        most = self._config.limits.max_hedges
        if "providers" in content:
            listed = content["providers"]
            self._rest["hedge"] = tuple(self._named(at.key("providers").item(i), each) for i, each in enumerate(listed))
            self._set_json(at.header, "hedging.max_hedges", max(1, len(listed) - 1))
            if len(listed) - 1 > most:
                self._set_json(
                    at.header, "hedging.max_hedges", self._cut(at.key("providers"), len(listed), most + 1) - 1
                )
        for key, each in content.items():
            self._set_json(at.header, f"hedging.{key}", each)
        if "x-request-hedging" not in self._given:
            # Who describes how to hedge wants to hedge; X-Request-Hedging has the last word.
            self._set_json(at.header, "hedging.enabled", most >= 1)
            if most < 1:
                self._clamped.append(f"{at.header}=off")

    def degraded(self, at: Place, value: str) -> None:
        self._rest["degraded"] = json_headers.read(at.header, value, json_headers.DEGRADED)

    # Others.

    def key(self, name: str, value: str) -> None:
        self.allow(titled(name), "failover")
        asked = name[len(KEY_PREFIX) :]
        found = self._by_lower_name.get(asked)
        if found is None:
            hint = nearest(asked, self._by_lower_name)
            raise Place(titled(name)).wrong(f"{show(asked)} is not the name of a configured provider{hint}")
        self._keys[found] = value

    def foreign(self) -> None:
        """Bounds that other software states. They are not ours, so what is malformed is passed over in silence."""
        if "timeout" not in self._config.limits.allow_overrides:
            return
        try:
            seconds = float(self._given.get(FOREIGN[0], "")[:32])
        except ValueError:
            seconds = 0.0
        if isfinite(seconds) and seconds > 0.0:
            self._rest["read_timeout_s"] = seconds
        match = re.fullmatch(r"([0-9]{1,8})([HMSmun])", self._given.get(FOREIGN[1], "").strip(" \t"))
        if match is not None:
            # gRPC over HTTP/2, "Timeout": at most 8 digits and a unit; 0 means that the time is up.
            units = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
            self._rest["grpc_timeout_s"] = max(0.001, int(match[1]) * units[match[2]])


def _boolean(at: Place, value: str) -> bool:
    lowered = value.lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off"):
        return False
    raise at.wrong(f"must be true or false, got {show(value)}")


def _whole(at: Place, value: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
        raise at.wrong(f"must be a whole number from {low} to {high}, got {show(value)}")
    return int(value)


def _word(at: Place, value: str, *allowed: str) -> str:
    lowered = value.lower()
    if lowered not in allowed:
        raise at.wrong(f"must be one of {', '.join(allowed)}, got {show(value)}{nearest(lowered, allowed)}")
    return lowered


_READERS: Final[Mapping[str, Callable[[_Reader, Place, str], None]]] = {
    "x-route": _Reader.route,
    "x-policy": _Reader.policy,
    "x-failover-enabled": _Reader.failover_enabled,
    "x-failover-providers": _Reader.failover_providers,
    "x-failover-config": _Reader.failover_config,
    "x-stream-recovery": _Reader.stream_recovery,
    "x-request-timeout-ms": _Reader.request_timeout,
    "x-first-token-timeout-ms": _Reader.first_token_timeout,
    "x-stream-idle-timeout-ms": _Reader.stream_idle_timeout,
    "x-max-retries": _Reader.max_retries,
    "x-retry-delay-ms": _Reader.retry_delay,
    "x-retry-strategy": _Reader.retry_strategy,
    "x-retry-config": _Reader.retry_config,
    "x-circuit-breaker": _Reader.breaker,
    "x-circuit-breaker-fallback": _Reader.breaker_fallback,
    "x-request-hedging": _Reader.hedging,
    "x-hedge-config": _Reader.hedge_config,
    "x-degraded-mode-config": _Reader.degraded,
    "x-user-priority": _Reader.priority,
    "x-cache": _Reader.cache,
    "x-explain": _Reader.explain,
    "x-chaos": _Reader.chaos,
}
