"""JSON header > simple header > named policy > route > defaults > built-in, for any subset of layers.

The reference below is the rule as a person would say it: look from the top for the first layer that states the setting.
It knows the settings that overrule others (see `proxy/config/ladder.py`) by drawing only from those that do not.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.config.compiled import Config, Layer, Limits, Listen, Provider, Route, RouteTarget, Secret
from proxy.config.planner import Planned, Planner
from proxy.config.schema import BUILTIN
from proxy.engine.plan import Endpoint

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "timeout_s": st.integers(1, 900_000).map(lambda ms: ms / 1000),
    "first_byte_timeout_s": st.integers(1, 900_000).map(lambda ms: ms / 1000),
    "first_content_timeout_s": st.integers(1, 900_000).map(lambda ms: ms / 1000),
    "stream_idle_timeout_s": st.integers(1, 900_000).map(lambda ms: ms / 1000),
    "stream_recovery": st.sampled_from(["continue", "error", "buffer"]),
    "failover.enabled": st.booleans(),
    "retry.max_retries": st.integers(0, 4),
    "retry.multiplier": st.floats(1, 10),
    "retry.jitter": st.sampled_from(["full", "equal", "decorrelated", "none"]),
    "retry.strategy": st.sampled_from(["exponential", "linear", "constant", "immediate", "decorrelated"]),
    "circuit_breaker.error_threshold": st.integers(1, 1024),
    "circuit_breaker.success_threshold": st.integers(1, 100),
    "circuit_breaker.fallback": st.sampled_from(["cache", "degraded", "error"]),
    "hedging.strategy": st.sampled_from(["latency", "first-success"]),
    "hedging.cancel_slower": st.booleans(),
    "priority": st.sampled_from(["high", "normal", "low"]),
}
SIMPLE = {
    "timeout_s": "x-request-timeout-ms",
    "stream_idle_timeout_s": "x-stream-idle-timeout-ms",
    "stream_recovery": "x-stream-recovery",
    "failover.enabled": "x-failover-enabled",
    "retry.max_retries": "x-max-retries",
    "retry.strategy": "x-retry-strategy",
    "circuit_breaker.fallback": "x-circuit-breaker-fallback",
    "priority": "x-user-priority",
}
STRUCTURED = {
    "retry.max_retries": "x-retry-config",
    "retry.multiplier": "x-retry-config",
    "retry.jitter": "x-retry-config",
    "retry.strategy": "x-retry-config",
    "circuit_breaker.error_threshold": "x-circuit-breaker",
    "circuit_breaker.success_threshold": "x-circuit-breaker",
    "hedging.strategy": "x-hedge-config",
    "hedging.cancel_slower": "x-hedge-config",
}
SHOWN = {
    "x-request-timeout-ms": "X-Request-Timeout-Ms",
    "x-stream-idle-timeout-ms": "X-Stream-Idle-Timeout-Ms",
    "x-stream-recovery": "X-Stream-Recovery",
    "x-failover-enabled": "X-Failover-Enabled",
    "x-max-retries": "X-Max-Retries",
    "x-retry-strategy": "X-Retry-Strategy",
    "x-circuit-breaker-fallback": "X-Circuit-Breaker-Fallback",
    "x-user-priority": "X-User-Priority",
    "x-retry-config": "X-Retry-Config",
    "x-circuit-breaker": "X-Circuit-Breaker",
    "x-hedge-config": "X-Hedge-Config",
}


def layer(among: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={setting: VALUES[setting] for setting in among})


def simple_headers(stated: Layer) -> list[tuple[str, str]]:
    pairs = []
    for setting, value in stated.items():
        if setting.endswith("_s"):
            value = round(value * 1000)
        pairs.append((SIMPLE[setting], str(value).lower()))
    return pairs


def json_headers(stated: Layer) -> list[tuple[str, str]]:
    objects: dict[str, dict[str, Any]] = {}
    for setting, value in stated.items():
        objects.setdefault(STRUCTURED[setting], {})[setting.partition(".")[2]] = value
    return [(header, json.dumps(content)) for header, content in objects.items()]


def planned(defaults: Layer, route: Layer, policy: Layer, headers: list[tuple[str, str]]) -> Planned:
    provider = Provider(name="p", dialect="openai", base_url="https://p.test", api_key=Secret("k", lambda: "k"))
    configured = Config(
        path="",
        digest="",
        listen=Listen(),
        providers={"p": provider},
        defaults=defaults,
        policies={"named": policy},
        routes=(Route(name="r", targets=(RouteTarget(provider="p"),), policy=route),),
        limits=Limits(),
    )
    return Planner(configured, b"s").plan(
        endpoint=Endpoint.CHAT, path="/v1/chat/completions", model="m", control=tuple(headers), stream=True
    )


def reference(layers: list[tuple[str, Layer]], setting: str, headers: dict[str, str]) -> tuple[Any, str]:
    for origin, stated in reversed(layers):
        if setting in stated:
            return stated[setting], origin or SHOWN[headers[setting]]
    raise AssertionError(f"no layer states {setting}")


@given(layer(VALUES), layer(VALUES), layer(VALUES), st.booleans(), layer(SIMPLE), layer(STRUCTURED), st.randoms())
def test_each_setting_comes_from_the_highest_layer_that_states_it(
    defaults: Layer, route: Layer, policy: Layer, named: bool, simple: Layer, structured: Layer, random: Any
) -> None:
    headers = simple_headers(simple) + json_headers(structured) + [("x-policy", "named")] * named
    random.shuffle(headers)
    found = planned(defaults, route, policy, headers)
    below = [("built-in", BUILTIN), ("defaults", defaults), ("route r", route)] + [("policy named", policy)] * named
    origins = dict(found.plan.origins)
    assert set(found.settings) == set(origins)
    stated = {setting for _, each in below for setting in each} | set(simple) | set(structured)
    for setting in stated - {"hedging.enabled"}:
        if setting in structured:
            expected = reference([("", structured)], setting, STRUCTURED)
        else:
            expected = reference([*below, ("", simple)], setting, SIMPLE)
        assert (found.settings[setting], origins[setting]) == expected


@given(layer(VALUES), layer(VALUES), layer(SIMPLE), layer(STRUCTURED))
def test_what_explain_says_is_what_the_plan_does(
    defaults: Layer, route: Layer, simple: Layer, structured: Layer
) -> None:
    found = planned(defaults, route, {}, simple_headers(simple) + json_headers(structured))
    plan, settings = found.plan, found.settings
    assert plan.timeout_s == settings["timeout_s"]
    assert plan.timers.idle_s == settings["stream_idle_timeout_s"]
    assert plan.timers.first_content_s == settings["first_content_timeout_s"]
    assert plan.stream.recovery == settings["stream_recovery"]
    assert plan.failover == settings["failover.enabled"]
    assert plan.candidates[0].retries == plan.retry.max_retries == settings["retry.max_retries"]
    assert plan.retry.backoff.multiplier == settings["retry.multiplier"]
    assert plan.retry.backoff.jitter == settings["retry.jitter"]
    assert plan.retry.backoff.strategy == settings["retry.strategy"]
    assert plan.hedge.strategy == settings["hedging.strategy"]
    assert plan.hedge.cancel_slower == settings["hedging.cancel_slower"]
    assert plan.breaker_fallback == settings["circuit_breaker.fallback"]
    assert plan.priority == settings["priority"]
    headers = {s for s in structured if s.startswith("circuit_breaker.")}
    assert (plan.overlay is not None) == bool(headers)


@given(
    st.sampled_from(["retry.strategy", "retry.initial_delay_ms", "retry.multiplier"]),
    st.sampled_from(["route", "header"]),
)
def test_a_schedule_below_does_not_void_a_shape_stated_above(shape: str, where: str) -> None:
    values: dict[str, Any] = {"retry.strategy": "linear", "retry.initial_delay_ms": 100, "retry.multiplier": 3.0}
    below = {"retry.delays_ms": (0, 1000, 2000)}
    assert planned(below, {}, {}, []).plan.candidates[0].retries == 3
    if where == "route":
        found = planned(below, {shape: values[shape]}, {}, [])
    else:
        key = shape.removeprefix("retry.")
        found = planned(below, {}, {}, [("x-retry-config", json.dumps({key: values[shape]}))])
    assert found.plan.retry.backoff.delays_s == ()
    expected = "route r" if where == "route" else "X-Retry-Config"
    assert dict(found.plan.origins)["retry.delays_ms"] == expected


def test_rules_below_do_not_void_a_plain_strategy_stated_above() -> None:
    rules = {"retry.strategy": "custom", "retry.rules": ({"error_type": ("timeout",), "immediate_failover": True},)}
    assert len(planned(rules, {}, {}, []).plan.retry.rules) == 1
    found = planned(rules, {}, {}, [("x-retry-strategy", "linear")])
    assert found.plan.retry.rules == ()
    assert dict(found.plan.origins)["retry.rules"] == "X-Retry-Strategy"


def test_a_cap_below_does_not_cut_a_longer_first_delay_stated_above() -> None:
    found = planned({"retry.max_delay_ms": 500}, {}, {}, [("x-retry-delay-ms", "20000")])
    assert (found.plan.retry.backoff.initial_s, found.plan.retry.backoff.max_s) == (20.0, 20.0)
    capped = planned({}, {}, {}, [("x-retry-config", '{"initial_delay_ms": 20000, "max_delay_ms": 500}')])
    assert capped.plan.retry.backoff.max_s == 0.5
