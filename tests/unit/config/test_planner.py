"""From configuration and request to plan: routes, chains, credentials, clamps, memory and explanation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.base.outcome import ANY_ERROR, Class
from proxy.base.target import Target
from proxy.config.checks import HeaderError
from proxy.config.compiled import Config, Limits, Model, Route, RouteTarget, Secret
from proxy.config.explain import describe, render
from proxy.config.overrides import fingerprint
from proxy.config.planner import REMEMBERED_CHARS_MAX, NoRoute, Planned, Planner
from proxy.engine.plan import Endpoint, RetryRule, Tier
from proxy.policy import canary
from tests.unit.config.sample import anthropic, config, deepinfra, key, openai

SECRET = b"s" * 32


def plan(configured: Config | None = None, *control: tuple[str, str], **changes: Any) -> Planned:
    request: dict[str, Any] = {
        "endpoint": Endpoint.CHAT,
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "control": control,
        "stream": False,
    }
    return Planner(configured or config(), SECRET).plan(**{**request, **changes})


def names(planned: Planned) -> list[str]:
    return [candidate.name for candidate in planned.plan.candidates]


def failover(value: dict[str, Any]) -> tuple[str, str]:
    return ("x-failover-config", json.dumps(value))


# Routes ---------------------------------------------------------------------------------------------------------------


def test_the_route_decides_without_headers() -> None:
    found = plan()
    assert found.plan.route == "chat"
    assert names(found) == ["openai/gpt-4o", "deepinfra/meta/llama-70b", "anthropic/claude-sonnet-5"]
    assert found.plan.skipped == ()
    assert [c.retries for c in found.plan.candidates] == [2, 1, 0]
    assert [c.tier for c in found.plan.candidates] == [Tier.PRIMARY, Tier.SECONDARY, Tier.SECONDARY]
    assert [c.trigger for c in found.plan.candidates] == [ANY_ERROR, frozenset({Class.TIMEOUT}), ANY_ERROR]
    assert [(c.api, c.foreign) for c in found.plan.candidates] == [("chat", False), ("chat", False), ("messages", True)]
    assert found.plan.candidates[0].max_output_tokens == 16_384
    assert found.plan.candidates[0].region == "us-east"
    assert (found.plan.timeout_s, found.plan.timers.first_byte_s) == (300.0, 20.0)
    assert found.plan.timers.first_byte_stated is False
    assert found.keys == ("sidecar", "sidecar", "sidecar")
    assert found.foreign is True


def test_messages_go_to_anthropic_as_they_are_and_to_others_translated() -> None:
    found = plan(endpoint=Endpoint.MESSAGES, path="/v1/messages", model="claude-3")
    assert (found.plan.route, names(found)) == ("claude", ["anthropic/claude-3"])
    assert found.foreign is False
    header = ("x-failover-providers", "anthropic,openai")
    found = plan(None, header, endpoint=Endpoint.MESSAGES, path="/v1/messages", model="claude-3")
    assert [(c.api, c.foreign) for c in found.plan.candidates] == [("messages", False), ("chat", True)]


def test_vectors_come_from_no_dialect_without_them() -> None:
    found = plan(endpoint=Endpoint.EMBEDDINGS, path="/v1/embeddings", model="gpt-4o-mini")
    assert ("anthropic", "dialect") in found.plan.skipped
    assert [c.api for c in found.plan.candidates] == ["embeddings"]


def test_a_route_may_be_named() -> None:
    found = plan(None, ("x-route", "claude"), endpoint=Endpoint.MESSAGES, path="/elsewhere", model="claude-3")
    assert found.plan.route == "claude"


def test_an_unknown_model_is_404_with_the_nearest() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(endpoint=Endpoint.MESSAGES, path="/v1/messages", model="gpt-4p")
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.message == 'no route covers the model "gpt-4p"; did you mean "gpt-4o"?'


def test_a_model_that_every_target_refuses_is_404() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(config(deepinfra()), model="smll")
    assert (caught.value.status, caught.value.param) == (404, "model")
    assert caught.value.message == 'the model "smll" is served by no target; did you mean "small"?'


def test_a_path_that_no_route_covers_is_404() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(path="/v1/nothing\n")
    assert (caught.value.code, caught.value.message) == ("no_route", "no route covers /v1/nothing\\n")


def test_targets_without_key_or_dialect_are_503_with_reasons() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(config(openai(disabled="no key"), anthropic()), endpoint=Endpoint.EMBEDDINGS, path="/v1/embeddings")
    assert (caught.value.status, caught.value.code) == (503, "no_target_available")
    assert caught.value.message == (
        'no target of route "default" can take this request: openai/gpt-4o=no_key, anthropic=dialect'
    )


def test_the_best_tier_leads_wherever_the_file_lists_it() -> None:
    route = Route(
        name="r",
        targets=(
            RouteTarget(provider="deepinfra", tier=Tier.EMERGENCY),
            RouteTarget(provider="openai", tier=Tier.PRIMARY),
        ),
    )
    found = plan(config(routes=(route,)))
    assert [(c.name, c.tier) for c in found.plan.candidates] == [
        ("openai/gpt-4o", Tier.PRIMARY),
        ("deepinfra/meta/llama-70b", Tier.EMERGENCY),
    ]


def test_a_model_in_the_route_is_called_as_it_is_written() -> None:
    route = Route(name="r", targets=(RouteTarget(provider="deepinfra", model="other/model"),))
    assert names(plan(config(routes=(route,)))) == ["deepinfra/other/model"]


# Chains from headers --------------------------------------------------------------------------------------------------


def test_f8_a_chain_by_header_replaces_the_routes_chain() -> None:
    found = plan(None, ("x-failover-providers", "deepinfra/small, openai , deepinfra/small"))
    assert names(found) == ["deepinfra/meta/llama-8b", "openai/gpt-4o"]
    assert [c.retries for c in found.plan.candidates] == [2, 0]
    assert found.targets_by == "X-Failover-Providers"
    assert found.plan.timers.first_byte_s == 20.0  # the rest of the route's policy stays


def test_a_chain_by_header_needs_no_route() -> None:
    found = plan(None, ("x-failover-providers", "openai"), path="/v1/unheard-of")
    assert (found.plan.route, names(found)) == ("headers", ["openai/gpt-4o"])


def test_a_called_name_in_a_header_is_taken_as_it_is() -> None:
    assert names(plan(None, ("x-failover-providers", "deepinfra/meta/llama-8b"))) == ["deepinfra/meta/llama-8b"]
    assert names(plan(None, ("x-failover-providers", "openai/anything-new"))) == ["openai/anything-new"]


def test_the_conditional_chain() -> None:
    found = plan(
        None,
        failover(
            {
                "fallbacks": [
                    {"provider": "deepinfra", "trigger": ["rate_limit"], "max_latency_increase": 500},
                    {"provider": "openai", "reduce_quality": True, "reduce_max_tokens": 0.7},
                ]
            }
        ),
    )
    primary, second, third = found.plan.candidates
    assert primary.name == "openai/gpt-4o"
    assert (second.name, second.trigger, second.max_latency_increase_s) == (
        "deepinfra/meta/llama-70b",
        frozenset({Class.RATE_LIMIT}),
        0.5,
    )
    assert (third.name, third.degraded, third.output_share, third.quality) == ("openai/gpt-4o-mini", True, 0.3, 7.0)
    assert (primary.degraded, second.degraded) == (False, False)
    assert found.plan.exclusion is not None
    assert found.plan.exclusion.failure_threshold == 3


def test_the_json_chain_wins_over_the_simple_one_but_takes_its_primary() -> None:
    simple = ("x-failover-providers", "deepinfra,openai")
    both = plan(None, simple, failover({"fallbacks": [{"provider": "openai", "model": "gpt-4o-mini"}]}))
    assert names(both) == ["deepinfra/meta/llama-70b", "openai/gpt-4o-mini"]
    primary_only = plan(None, simple, failover({"primary": {"provider": "openai"}}))
    assert names(primary_only) == ["openai/gpt-4o", "deepinfra/meta/llama-70b"]
    thresholds_only = plan(None, simple, failover({"failure_threshold": 5}))
    assert names(thresholds_only) == ["deepinfra/meta/llama-70b", "openai/gpt-4o"]


def test_a_target_named_twice_is_one_candidate_opened_by_both_triggers() -> None:
    found = plan(
        None,
        failover(
            {
                "fallbacks": [
                    {"provider": "deepinfra", "trigger": "timeout"},
                    {"provider": "deepinfra", "trigger": "rate_limit"},
                ]
            }
        ),
    )
    assert names(found) == ["openai/gpt-4o", "deepinfra/meta/llama-70b"]
    assert found.plan.candidates[1].trigger == {Class.TIMEOUT, Class.RATE_LIMIT}


def test_a_target_with_less_output_is_a_candidate_of_its_own() -> None:
    found = plan(None, failover({"fallbacks": [{"provider": "openai", "reduce_max_tokens": 0.5}]}))
    assert [(c.name, c.output_share) for c in found.plan.candidates] == [
        ("openai/gpt-4o", None),
        ("openai/gpt-4o", 0.5),
    ]


def test_content_policy_fails_over_only_when_named() -> None:
    assert Class.CONTENT_POLICY not in plan().plan.candidates[0].trigger
    named = plan(None, failover({"fallbacks": [{"provider": "deepinfra", "trigger": "content_policy"}]}))
    assert named.plan.candidates[1].trigger == {Class.CONTENT_POLICY}


def test_l26_the_off_switch_leaves_one_candidate() -> None:
    found = plan(None, ("x-failover-enabled", "no"))
    assert (names(found), found.plan.failover) == (["openai/gpt-4o"], False)
    assert found.plan.candidates[0].retries == 2


def test_l26_a_primary_without_key_is_not_replaced_when_failover_is_off() -> None:
    keyless = config(openai(disabled="no key"), deepinfra())
    assert names(plan(keyless)) == ["deepinfra/meta/llama-70b"]
    with pytest.raises(NoRoute) as caught:
        plan(keyless, ("x-failover-enabled", "false"))
    assert caught.value.skipped == (("openai/gpt-4o", "no_key"),)


def test_embeddings_never_cross_models() -> None:
    same = deepinfra(models=(Model(asked="*", name=""),))
    other = deepinfra(name="third")
    found = plan(config(openai(), other, same), endpoint=Endpoint.EMBEDDINGS)
    assert names(found) == ["openai/gpt-4o", "deepinfra/gpt-4o"]
    assert found.plan.skipped == (("third/meta/llama-70b", "other_model"),)


def test_embeddings_do_not_change_models_because_a_key_is_missing() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(config(openai(disabled="no key"), deepinfra()), endpoint=Endpoint.EMBEDDINGS)
    assert caught.value.skipped == (("openai/gpt-4o", "no_key"), ("deepinfra/meta/llama-70b", "other_model"))


# Passthrough ----------------------------------------------------------------------------------------------------------


def test_passthrough_to_a_provider_takes_that_entry_and_touches_no_name() -> None:
    found = plan(endpoint=Endpoint.RAW, path="/deepinfra/v1/x", model="gpt-4o", provider="deepinfra")
    assert (found.plan.route, names(found), found.targets_by) == ("passthrough", ["deepinfra/gpt-4o"], "path")
    nameless = plan(endpoint=Endpoint.RAW, path="/deepinfra/v1/x", model="", provider="deepinfra")
    assert names(nameless) == ["deepinfra"]
    assert nameless.plan.timeout_s == 300.0  # defaults apply, no route does


def test_passthrough_on_a_route_takes_the_primary_only() -> None:
    assert names(plan(endpoint=Endpoint.RAW, path="/v1/files/f1", model="")) == ["openai"]
    assert names(plan(endpoint=Endpoint.RAW, path="/v1/unheard-of", model="")) == ["openai"]


def test_passthrough_to_a_stranger_is_404() -> None:
    with pytest.raises(NoRoute) as caught:
        plan(endpoint=Endpoint.RAW, path="/opnai/v1", model="", provider="opnai")
    assert (caught.value.status, caught.value.code) == (404, "provider_not_found")
    assert caught.value.message == 'there is no provider "opnai"; did you mean "openai"?'


# Credentials ----------------------------------------------------------------------------------------------------------


def test_f7_the_callers_key_goes_to_the_first_that_takes_it_and_to_its_origin_only() -> None:
    eu = openai(name="openai-eu", base_url="https://openai.test:443/eu", credentials="caller")
    other = deepinfra(credentials="caller_or_sidecar")
    strict = deepinfra(name="strict", base_url="https://strict.test", credentials="caller")
    found = plan(config(openai(credentials="caller_or_sidecar"), other, strict, eu), caller_key="abc")
    assert [(c.target, source) for c, source in zip(found.plan.candidates, found.keys, strict=True)] == [
        (Target("openai", "gpt-4o", "abc"), "caller"),
        (Target("deepinfra", "meta/llama-70b"), "sidecar"),
        (Target("openai-eu", "gpt-4o", "abc"), "caller"),
    ]
    assert found.plan.skipped == (("strict/meta/llama-70b", "no_key"),)


def test_f7_a_model_that_the_first_refuses_does_not_hand_the_key_to_the_next() -> None:
    first = deepinfra(credentials="caller_or_sidecar")
    second = openai(credentials="caller_or_sidecar")
    found = plan(config(first, second), model="new", caller_key="abc")
    assert (names(found), found.keys) == (["openai/new"], ("sidecar",))


def test_f7_a_key_brought_to_responses_belongs_to_the_provider_that_has_only_chat() -> None:
    """The clients of both are the same, and so are their keys; one of another company gets none."""
    claude = anthropic(credentials="caller")
    chat_only = deepinfra(credentials="caller", apis=("chat",))
    found = plan(config(claude, chat_only), endpoint=Endpoint.RESPONSES, path="/v1/responses", caller_key="abc")
    assert list(zip(names(found), found.keys, strict=True)) == [("deepinfra/meta/llama-70b", "caller")]
    assert found.plan.skipped == (("anthropic/claude-sonnet-5", "no_key"),)
    both = plan(
        config(chat_only, openai(credentials="caller")),
        endpoint=Endpoint.RESPONSES,
        path="/v1/responses",
        caller_key="abc",
    )
    assert list(zip(names(both), both.keys, strict=True)) == [("openai/gpt-4o", "caller")], (
        "who has the API comes first"
    )
    with pytest.raises(NoRoute, match="llama-70b=no_key"):
        plan(config(chat_only), endpoint=Endpoint.MESSAGES, path="/v1/messages", caller_key="abc")


def test_f7_hedging_order_does_not_hand_the_key_to_another() -> None:
    configured = config(openai(credentials="caller_or_sidecar"), deepinfra(credentials="caller_or_sidecar"))
    found = plan(configured, ("x-hedge-config", '{"providers": ["deepinfra", "openai"]}'), caller_key="abc")
    assert list(zip(names(found), found.keys, strict=True)) == [
        ("deepinfra/meta/llama-70b", "sidecar"),
        ("openai/gpt-4o", "caller"),
    ]


def test_f7_a_brought_key_serves_its_provider_whatever_its_mode() -> None:
    configured = config(openai(disabled="no key"), deepinfra())
    found = plan(configured, ("x-provider-key-openai", "sk-12345678"), caller_key="abc")
    assert found.keys == ("header", "sidecar")
    assert found.plan.candidates[0].target.credential == fingerprint("sk-12345678", SECRET)
    assert "sk-12345678" not in repr(found)


def test_without_a_callers_key_the_sidecars_serves_unless_only_callers_are_taken() -> None:
    found = plan(config(openai(credentials="caller"), deepinfra(credentials="caller_or_sidecar")))
    assert (names(found), found.keys) == (["deepinfra/meta/llama-70b"], ("sidecar",))


def test_a_local_server_needs_no_key() -> None:
    assert plan(config(openai(api_key=None, base_url="http://127.0.0.1:8000"))).keys == ("none",)


def test_a_key_that_appears_later_is_noticed_at_the_next_request() -> None:
    held: list[str | None] = [None]
    planner = Planner(config(openai(api_key=Secret("file:/k", lambda: held[0])), deepinfra()), SECRET)
    request: dict[str, Any] = {
        "endpoint": Endpoint.CHAT,
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "control": (),
        "stream": False,
    }
    before = planner.plan(**request)
    assert before.plan.skipped == (("openai/gpt-4o", "no_key"),)
    assert planner.plan(**request) is before
    held[0] = "sk-now"
    assert names(planner.plan(**request)) == ["openai/gpt-4o", "deepinfra/meta/llama-70b"]


# Settings -------------------------------------------------------------------------------------------------------------


def test_retries_of_the_request_win_over_the_routes_first_target() -> None:
    route = Route(name="r", targets=(RouteTarget(provider="openai", max_retries=0), RouteTarget(provider="deepinfra")))
    configured = config(routes=(route,))
    assert [c.retries for c in plan(configured).plan.candidates] == [0, 0]
    assert [c.retries for c in plan(configured, ("x-max-retries", "4")).plan.candidates] == [4, 0]
    assert [c.retries for c in plan(configured, ("x-policy", "batch")).plan.candidates] == [5, 0]


def test_what_headers_ask_for_raises_the_attempts_up_to_the_limit() -> None:
    assert plan().plan.max_attempts == 8
    found = plan(None, ("x-max-retries", "10"))
    assert found.plan.max_attempts == 13
    assert ("failover.max_attempts", "X-Max-Retries") in found.plan.origins
    tight = config(limits=Limits(max_attempts=9))
    found = plan(tight, ("x-max-retries", "10"))
    assert (found.plan.max_attempts, found.plan.clamped) == (9, ("X-Max-Retries=8",))


def test_clamped_values_are_told() -> None:
    found = plan(config(limits=Limits(max_retries=5)), ("x-max-retries", "9"))
    assert (found.plan.candidates[0].retries, found.plan.clamped) == (5, ("X-Max-Retries=5",))


def test_the_token_timeout_bounds_head_and_content_and_stays() -> None:
    timers = plan(None, ("x-first-token-timeout-ms", "1500"), ("x-stream-idle-timeout-ms", "700")).plan.timers
    assert (timers.first_byte_s, timers.first_content_s, timers.idle_s) == (1.5, 1.5, 0.7)
    assert timers.first_byte_stated is True


@pytest.mark.parametrize(
    ("headers", "stream", "seconds"),
    [
        ([("x-stainless-read-timeout", "60")], False, 59.5),
        ([("x-stainless-read-timeout", "0.6")], False, 0.3),
        ([("x-stainless-read-timeout", "60")], True, 300.0),
        ([("x-stainless-read-timeout", "600")], False, 300.0),
        ([("x-stainless-read-timeout", "None")], False, 300.0),
        ([("grpc-timeout", "5S")], True, 5.0),
        ([("grpc-timeout", "5S"), ("x-request-timeout-ms", "4000")], False, 4.0),
        ([("grpc-timeout", "5S"), ("x-stainless-read-timeout", "3")], False, 2.5),
    ],
)
def test_the_deadline_heeds_what_the_callers_software_states(
    headers: list[tuple[str, str]], stream: bool, seconds: float
) -> None:
    assert plan(None, *headers, stream=stream).plan.timeout_s == seconds


def test_a_retry_policy_from_headers() -> None:
    value = {
        "strategy": "custom",
        "jitter": False,
        "rules": [
            {"error_type": "rate_limit", "wait_ms": "parse_retry_after_header", "max_wait_ms": 60_000},
            {"error_type": "timeout", "attempts": [100, 200], "switch_provider_after": 2},
            {"error_type": "server_error", "immediate_failover": True},
            {"error_type": "connect_error", "wait_ms": 50},
        ],
    }
    retry = plan(None, ("x-retry-config", json.dumps(value))).plan.retry
    assert (retry.backoff.strategy, retry.backoff.jitter) == ("exponential", "none")
    assert retry.rules == (
        RetryRule(names=frozenset({"rate_limit"}), told=True, max_wait_s=60.0),
        RetryRule(names=frozenset({"timeout"}), attempts_s=(0.1, 0.2), switch_after=2),
        RetryRule(names=frozenset({"server_error"}), immediate_failover=True),
        RetryRule(names=frozenset({"connect_error"}), wait_s=0.05),
    )


def test_custom_without_rules_is_refused() -> None:
    with pytest.raises(HeaderError) as caught:
        plan(None, ("x-retry-strategy", "custom"))
    assert caught.value.message == 'X-Retry-Strategy: custom needs rules, given in X-Retry-Config as "rules"'
    with pytest.raises(HeaderError) as caught:
        plan(None, ("x-retry-config", '{"strategy": "custom"}'))
    assert caught.value.param == "X-Retry-Config.strategy"


def test_breaker_policies_of_the_request_are_overlays_and_the_base_is_the_files() -> None:
    configured = replace(config(), defaults={"circuit_breaker.error_threshold": 7, "circuit_breaker.looser": "never"})
    bare = plan(configured)
    assert bare.plan.overlay is None
    assert bare.plan.candidates[0].breaker.error_threshold == 7
    assert bare.plan.candidates[0].breaker.looser == "never"
    named = plan(configured, ("x-policy", "batch"), ("x-circuit-breaker", '{"timeout": 5}'))
    assert named.plan.overlay is not None
    assert (named.plan.overlay.error_threshold, named.plan.overlay.timeout_s) == (9, 5.0)
    assert named.plan.candidates[0].breaker == bare.plan.candidates[0].breaker
    assert plan(configured, ("x-circuit-breaker", "{}")).plan.overlay is None
    assert plan(configured, ("x-circuit-breaker-fallback", "cache")).plan.breaker_fallback == "cache"


def test_hedging_by_header() -> None:
    found = plan(None, ("x-request-hedging", "true")).plan
    assert (found.hedge.enabled, found.hedge.delay_s, found.hedge.max_hedges, found.hedge_order) == (True, None, 1, ())
    off = plan(None, ("x-request-hedging", "false")).plan
    assert (off.hedge.enabled, off.hedge.rescue) == (False, False)
    assert plan().plan.hedge.rescue is True


def test_the_limit_on_hedges_binds_headers_and_not_the_file() -> None:
    hedging = {"hedging.enabled": True, "hedging.max_hedges": 3}
    configured = config(defaults=hedging, limits=Limits(max_hedges=1))
    assert plan(configured).plan.hedge.max_hedges == 3
    assert plan(configured, ("x-request-hedging", "true")).plan.hedge.max_hedges == 1


def test_the_hedge_order_leads_and_adds() -> None:
    value = {"providers": ["deepinfra/small", "deepinfra", "anthropic", "openai"], "delay_ms": 200}
    found = plan(None, ("x-hedge-config", json.dumps(value)))
    lead = ["deepinfra/meta/llama-8b", "openai/gpt-4o", "deepinfra/meta/llama-70b"]
    assert names(found) == [*lead, "anthropic/claude-sonnet-5"]
    assert found.plan.hedge_order == (0, 2, 3, 1)
    assert [c.retries for c in found.plan.candidates] == [2, 0, 1, 0]
    assert found.plan.candidates[0].tier is Tier.PRIMARY
    assert Class.TIMEOUT in found.plan.candidates[0].trigger
    assert (found.plan.hedge.max_hedges, found.plan.hedge.delay_s) == (3, 0.2)


def test_explain_priority_and_recovery_reach_the_plan() -> None:
    found = plan(
        None, ("x-explain", "true"), ("x-user-priority", "high"), ("x-stream-recovery", "buffer"), ("x-cache", "off")
    ).plan
    assert (found.explain, found.dry_run, found.priority, found.stream.recovery) == (True, False, "high", "buffer")
    dry = plan(None, ("x-explain", "plan")).plan
    assert (dry.explain, dry.dry_run) == (False, True)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_equal_requests_share_one_plan_and_different_ones_never_do() -> None:
    planner = Planner(config(openai(credentials="caller_or_sidecar"), deepinfra()), SECRET)
    base: dict[str, Any] = {
        "endpoint": Endpoint.CHAT,
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "control": (("x-max-retries", "3"),),
        "stream": False,
        "caller_key": None,
        "provider": None,
    }
    variants = [
        base,
        {**base, "endpoint": Endpoint.RESPONSES},
        {**base, "path": "/v1/other"},
        {**base, "model": "gpt-4"},
        {**base, "control": (("x-max-retries", "4"),)},
        {**base, "control": (("x-provider-key-openai", "sk-11111111"),)},
        {**base, "control": (("x-provider-key-openai", "sk-22222222"),)},
        {**base, "stream": True},
        {**base, "caller_key": "abc"},
        {**base, "provider": "openai"},
    ]
    first = [planner.plan(**variant) for variant in variants]
    assert len({id(each) for each in first}) == len(variants)
    assert all(planner.plan(**variant) is each for variant, each in zip(variants, first, strict=True))


def test_equal_headers_on_two_routes_keep_their_own_settings() -> None:
    routes = tuple(
        Route(name=name, paths=(f"/{name}",), targets=(RouteTarget(provider="openai"),), policy={"timeout_s": seconds})
        for name, seconds in (("fast", 1.0), ("slow", 9.0))
    )
    planner = Planner(config(routes=routes), SECRET)
    found = [
        planner.plan(endpoint=Endpoint.CHAT, path=path, model="gpt-4o", control=(), stream=False).plan.timeout_s
        for path in ("/fast", "/slow", "/fast")
    ]
    assert found == [1.0, 9.0, 1.0]


def test_headers_in_another_order_give_an_equal_plan() -> None:
    one = (("x-max-retries", "3"), ("x-policy", "batch"), ("x-request-timeout-ms", "5000"))
    assert plan(None, *one).plan == plan(None, *reversed(one)).plan


def test_the_memory_is_bounded_and_forgets_the_longest_unused() -> None:
    planner = Planner(config(limits=Limits(max_plans=4)), SECRET)
    request: dict[str, Any] = {
        "endpoint": Endpoint.CHAT,
        "path": "/v1/chat/completions",
        "control": (),
        "stream": False,
    }
    kept = planner.plan(model="kept", **request)
    for number in range(50):
        planner.plan(model=f"m{number}", **request)
        assert planner.plan(model="kept", **request) is kept
        assert planner.remembered <= 4
    first = planner.plan(model="m0", **request)
    assert first.model == "m0"


def test_nothing_long_and_no_key_is_remembered() -> None:
    planner = Planner(config(), SECRET)
    request: dict[str, Any] = {"endpoint": Endpoint.CHAT, "path": "/v1/chat/completions", "stream": False}
    planner.plan(model="m" * REMEMBERED_CHARS_MAX, control=(), **request)
    assert planner.remembered == 0
    planner.plan(model="gpt-4o", control=(("x-provider-key-openai", "sk-12345678"),), **request)
    assert planner.remembered == 1
    assert "sk-12345678" not in repr([vars(planner), planner._plans._held, planner._overrides._held])


# Explanation ----------------------------------------------------------------------------------------------------------


def test_l02_explain_shows_both_lists_and_their_origins() -> None:
    found = describe(plan(None, ("x-retry-config", '{"retry_on": ["timeout"]}')), config())
    assert found["retry_on"] == {"value": ["timeout"], "origin": "X-Retry-Config"}
    assert found["trigger"] == {"value": ["any_error"], "origin": "built-in"}
    assert [target["trigger"] for target in found["targets"]] == [["any_error"], ["timeout"], ["any_error"]]


def test_explain_names_the_layer_of_every_setting() -> None:
    planned = plan(None, ("x-policy", "batch"), ("x-max-retries", "1"), ("x-retry-config", '{"multiplier": 3}'))
    settings = describe(planned, config())["settings"]
    assert settings["timeout_s"] == {"value": 300.0, "origin": "defaults"}
    assert settings["first_byte_timeout_s"] == {"value": 20.0, "origin": "route chat"}
    assert settings["priority"] == {"value": "low", "origin": "policy batch"}
    assert settings["retry.max_retries"] == {"value": 1, "origin": "X-Max-Retries"}
    assert settings["retry.multiplier"] == {"value": 3.0, "origin": "X-Retry-Config"}
    assert settings["retry.strategy"]["origin"] == "built-in"
    assert set(settings) == set(planned.settings)


def test_explain_is_json_and_text_without_any_secret() -> None:
    configured = config(openai(api_key=key("sk-very-secret-1")), deepinfra(), anthropic())
    value = '{"fallbacks": [{"provider": "deepinfra", "trigger": "timeout"}]}'
    planned = plan(
        configured,
        ("x-provider-key-deepinfra", "sk-very-secret-2"),
        ("x-failover-config", value),
        ("x-hedge-config", '{"providers": ["openai", "deepinfra"]}'),
        ("x-circuit-breaker", '{"excluded_errors": ["503", "rate_limit"]}'),
    )
    described = describe(planned, configured)
    text = render(described)
    both = json.dumps(described) + text
    assert "very-secret" not in both
    assert [target["credential"] for target in described["targets"]] == ["sidecar", "header"]
    assert described["hedge_order"] == ["openai/gpt-4o", "deepinfra/meta/llama-70b"]
    assert "  1. openai/gpt-4o  [primary, us-east, the sidecar's key]\n" in text
    assert "circuit_breaker.excluded_errors" in text
    assert text.endswith("\n")


# Canaries -------------------------------------------------------------------------------------------------------------

CANARY = canary.Settings(targets=(("deepinfra", ""),), share=0.1)


def rolled_out(*control: tuple[str, str], settings: canary.Settings = CANARY, **changes: Any) -> Planned:
    """A plan of route `chat` with a canary."""
    routes = (replace(config().routes[0], canary=settings), *config().routes[1:])
    return plan(config(routes=routes), *control, **changes)


def test_a_canary_stands_before_the_chain_of_its_arm_and_in_no_other() -> None:
    found = rolled_out()
    assert names(found) == ["openai/gpt-4o", "anthropic/claude-sonnet-5"]
    assert found.plan.lead == 0
    arm = found.canary
    assert arm is not None
    assert names(arm) == ["deepinfra/meta/llama-70b", "openai/gpt-4o", "anthropic/claude-sonnet-5"]
    assert (arm.plan.lead, arm.plan.route, arm.canary) == (1, "chat", None)
    assert arm.plan.candidates[1:] == found.plan.candidates
    assert [c.retries for c in arm.plan.candidates] == [0, 2, 0]
    assert arm.plan.max_attempts == found.plan.max_attempts + 1
    assert len(arm.keys) == len(arm.facts) == 3
    assert describe(found, config())["canary"] == ["deepinfra/meta/llama-70b"]
    assert "canary    deepinfra/meta/llama-70b first" in render(describe(found, config()))
    assert describe(plan(), config())["canary"] == []


@pytest.mark.parametrize(
    "control",
    [
        ("x-failover-enabled", "false"),
        ("x-failover-providers", "openai,anthropic"),
        failover({"fallbacks": [{"trigger": "any_error", "provider": "anthropic"}]}),
        ("x-hedge-config", json.dumps({"providers": ["openai", "anthropic"]})),
    ],
)
def test_who_chooses_takes_part_in_no_rollout(control: tuple[str, str]) -> None:
    assert rolled_out(control).canary is None


def test_passthrough_and_other_models_take_part_in_no_rollout() -> None:
    assert rolled_out(endpoint=Endpoint.RAW, path="/v1/files").canary is None
    # Embeddings of another model do not compare; of the same model they do.
    embeddings = {"endpoint": Endpoint.EMBEDDINGS, "path": "/v1/embeddings"}
    assert rolled_out(**embeddings).canary is None
    same = replace(CANARY, targets=(("deepinfra", "gpt-4o"),))
    arm = rolled_out(settings=same, **embeddings).canary
    assert arm is None or names(arm)[0] == "deepinfra/gpt-4o"
    # One that has not this model leaves the request as it is.
    assert rolled_out(model="gpt-4-turbo").canary is None


def test_a_header_for_retries_reaches_the_canary_too() -> None:
    arm = rolled_out(("x-max-retries", "1")).canary
    assert arm is not None
    assert [c.retries for c in arm.plan.candidates] == [1, 1, 0]


def test_the_callers_key_belongs_to_whom_it_belongs_without_the_canary() -> None:
    mine = (openai(credentials="caller_or_sidecar"), deepinfra(credentials="caller_or_sidecar"))
    targets = (RouteTarget(provider="openai"),)
    configured = config(*mine, routes=(Route(name="chat", targets=targets, canary=CANARY),))
    arm = plan(configured, caller_key="f" * 24).canary
    assert arm is not None
    assert arm.keys == ("sidecar", "caller")
    only = (openai(credentials="caller"), deepinfra(credentials="caller"))
    configured = config(*only, routes=(Route(name="chat", targets=targets, canary=CANARY),))
    assert plan(configured, caller_key="f" * 24).canary is None  # nobody else's key is there for it
