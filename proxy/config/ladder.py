"""The ladder of precedence: layers of flat settings, the later over the earlier, and what their sum means.

built-in < `defaults` < the route's `policy` < ``X-Policy`` < simple headers < JSON headers. It is one dictionary merge,
and beside each value stands the name of the layer it came from.

A setting on a higher rung must not be made void by one on a lower rung that it does not mention. Four settings overrule
others by their presence, so a layer that states the overruled one alone takes the overruling one away, in its own name:

* a schedule outright (`retry.delays_ms`) would hide a strategy, a first delay or a multiplier stated later;
* rules (`retry.rules`) would hide a plain strategy stated later;
* `retry.max_delay_ms` would cut a longer first delay stated later;
* a schedule outright says by its length how many retries there are, unless its layer says it itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.outcome import Class
from proxy.config.checks import HeaderError, classes, failure_names
from proxy.config.compiled import Config, Layer, Limits, Route, breaker_settings
from proxy.config.overrides import Overrides
from proxy.config.schema import BUILTIN
from proxy.engine.plan import Retry, RetryRule, Stream, Timers
from proxy.policy import backoff, breaker, hedge

_SHAPES: Final = ("retry.strategy", "retry.initial_delay_ms", "retry.multiplier")
"""Settings that a schedule outright would hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One layer and the name of its origin; for headers each setting has its own."""

    layer: Layer
    origin: str = ""
    headers: Mapping[str, str] | None = None
    """Setting -> header; None for a layer of the file, which `origin` names."""

    def whence(self, setting: str) -> str:
        return self.origin if self.headers is None else self.headers[setting]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The sum of the ladder and the policies it makes; shared by all plans of one route and header set."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    listed: tuple[tuple[str, str], ...]
    """`origins` as sorted pairs."""
    trigger: frozenset[Class]
    """The failures that open the way to the next target where the chain does not say it itself."""
    timers: Timers
    retry: Retry
    hedge: hedge.Settings
    stream: Stream
    overlay: breaker.Settings | None
    """The breaker policy that the request itself states; None: it states none and the base policy alone decides."""

    def retries_stated(self) -> bool:
        """Whether the request itself says how often to retry, be it by naming a policy."""
        return _by_request(self.origins["retry.max_retries"])


def rungs(config: Config, route: Route | None, overrides: Overrides) -> list[Rung]:
    """The layers that apply, lowest first. `route` None: the request is outside all routes."""
    found = [Rung(layer=BUILTIN, origin="built-in"), Rung(layer=config.defaults, origin="defaults")]
    if route is not None:
        found.append(Rung(layer=route.policy, origin=f"route {route.name}"))
    if overrides.policy:
        found.append(Rung(layer=config.policies[overrides.policy], origin=f"policy {overrides.policy}"))
    simple = {setting: names[0] for setting, names in overrides.origins.items()}
    structured = {setting: names[1] for setting, names in overrides.origins.items()}
    found.append(Rung(layer=overrides.simple, headers=simple))
    found.append(Rung(layer=overrides.json, headers=structured))
    return found


def merge(layers: Sequence[Rung]) -> tuple[dict[str, Any], dict[str, str]]:
    """(values, origins) by setting: of each setting the highest rung that states it."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for rung in layers:
        values.update(rung.layer)
        origins.update((setting, rung.whence(setting)) for setting in rung.layer)
        for setting, (value, because) in _implied(rung, values).items():
            values[setting] = value
            origins[setting] = rung.whence(because)
    return values, origins


def _implied(rung: Rung, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What the layer of `rung` changes besides the settings it states: setting -> (value, the stated one it is due to).

    `values` is the sum up to and with this layer.
    """
    layer = rung.layer
    found: dict[str, tuple[Any, str]] = {}
    if layer.get("retry.delays_ms"):
        # The header parser has counted the schedules of headers itself: they are subject to limits.
        if "retry.max_retries" not in layer and rung.headers is None:
            found["retry.max_retries"] = (len(layer["retry.delays_ms"]), "retry.delays_ms")
    elif values.get("retry.delays_ms") and "retry.delays_ms" not in layer:
        shape = next((each for each in _SHAPES if each in layer), None)
        if shape is not None:
            found["retry.delays_ms"] = ((), shape)
    plain = layer.get("retry.strategy", "custom") != "custom"
    if plain and "retry.rules" not in layer and values.get("retry.rules"):
        found["retry.rules"] = ((), "retry.strategy")
    first = layer.get("retry.initial_delay_ms")
    if first is not None and "retry.max_delay_ms" not in layer and first > values.get("retry.max_delay_ms", first):
        found["retry.max_delay_ms"] = (first, "retry.initial_delay_ms")
    return found


def base(config: Config, route: Route | None) -> Layer:
    """The sum of built-in, `defaults` and route: where the targets' base breaker policy comes from."""
    values, _ = merge(rungs(config, route, Overrides()))
    return values


def climb(config: Config, route: Route | None, overrides: Overrides) -> Effective:
    """The effective settings of a request. Raises `HeaderError` (400) for ``custom`` without any rules."""
    values, origins = merge(rungs(config, route, overrides))
    by = origins.get("retry.strategy", "")
    if values["retry.strategy"] == "custom" and not values["retry.rules"] and by.startswith("X-"):
        path = "strategy" if by == "X-Retry-Config" else ""
        raise HeaderError(400, by, path, 'custom needs rules, given in X-Retry-Config as "rules"')
    return Effective(
        values=values,
        origins=origins,
        listed=tuple(sorted(origins.items())),
        trigger=classes(values["failover.on"]),
        timers=_timers(values, origins),
        retry=_retry(values),
        hedge=_hedging(values, origins, config.limits),
        stream=_stream(values),
        overlay=_overlay(values, origins),
    )


def _by_request(origin: str) -> bool:
    return origin.startswith(("X-", "policy "))


# Settings to policies -------------------------------------------------------------------------------------------------


def _timers(values: Mapping[str, Any], origins: Mapping[str, str]) -> Timers:
    return Timers(
        connect_s=values["connect_timeout_s"],
        first_byte_s=values["first_byte_timeout_s"],
        first_byte_stated=origins["first_byte_timeout_s"].startswith("X-"),
        first_content_s=values["first_content_timeout_s"],
        idle_s=values["stream_idle_timeout_s"],
    )


def _retry(values: Mapping[str, Any]) -> Retry:
    strategy = values["retry.strategy"]
    return Retry(
        max_retries=values["retry.max_retries"],
        backoff=backoff.Settings(
            # Failures that no custom rule covers back off in the default way.
            strategy="exponential" if strategy == "custom" else strategy,
            initial_s=values["retry.initial_delay_ms"] / 1000,
            max_s=values["retry.max_delay_ms"] / 1000,
            multiplier=values["retry.multiplier"],
            jitter=values["retry.jitter"],
            delays_s=tuple(each / 1000 for each in values["retry.delays_ms"]),
        ),
        retry_on=failure_names(values["retry.retry_on"]),
        rules=tuple(_rule(each) for each in values["retry.rules"]),
        max_told_wait_s=values["retry.max_told_wait_ms"] / 1000,
    )


def _rule(rule: Mapping[str, Any]) -> RetryRule:
    words = rule["error_type"]
    wait = rule.get("wait_ms")
    longest = rule.get("max_wait_ms")
    told = wait == "parse_retry_after_header"
    return RetryRule(
        names=failure_names((words,) if isinstance(words, str) else words),
        immediate_failover=rule.get("immediate_failover", False),
        wait_s=None if told or wait is None else wait / 1000,
        told=told,
        max_wait_s=None if longest is None else longest / 1000,
        attempts_s=tuple(each / 1000 for each in rule.get("attempts", ())),
        switch_after=rule.get("switch_provider_after"),
    )


def _hedging(values: Mapping[str, Any], origins: Mapping[str, str], limits: Limits) -> hedge.Settings:
    # `limits` bind headers only: what the operator writes elsewhere in the file is the operator's own wish.
    by_header = origins["hedging.enabled"].startswith("X-")
    most = limits.max_hedges if by_header else values["hedging.max_hedges"]
    delay = values["hedging.delay_ms"]
    return hedge.Settings(
        enabled=values["hedging.enabled"],
        strategy=values["hedging.strategy"],
        delay_s=None if delay == "auto" else delay / 1000,
        cancel_slower=values["hedging.cancel_slower"],
        max_additional_cost=values.get("hedging.max_additional_cost"),
        budget_percent=values["hedging.budget_percent"],
        max_hedges=min(most, values["hedging.max_hedges"]),
        rescue_after_s=values["hedging.rescue_after_s"],
        rescue=values["hedging.rescue_after_s"] > 0.0,
    )


def _stream(values: Mapping[str, Any]) -> Stream:
    return Stream(
        recovery=values["stream_recovery"],
        keepalive_s=values["stream.keepalive_s"],
        upstream_stream=values["stream.upstream_stream"],
        continue_bytes=values["stream.continue_kb"] * 1024,
        write_timeout_s=values["stream.write_timeout_s"],
        buffer_bytes=values["stream.buffer_kb"] * 1024,
    )


def _overlay(values: Mapping[str, Any], origins: Mapping[str, str]) -> breaker.Settings | None:
    """A named policy is an overlay as a header is: a request chooses it, and a target's base policy is everybody's."""
    stated: dict[str, Any] = {}
    for setting, value in values.items():
        if setting.startswith("circuit_breaker.") and _by_request(origins[setting]):
            stated[setting.removeprefix("circuit_breaker.")] = value
    for key in ("fallback", "looser", "panic"):  # the first is the plan's own, the others matter to a base policy only
        stated.pop(key, None)
    if not stated:
        return None
    return breaker_settings(stated)
