"""The header contract: what is refused and in which words, what is cut, what is understood."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.outcome import ANY_ERROR, Class
from proxy.config.checks import HeaderError
from proxy.config.compiled import Limits
from proxy.config.control import ANSWER_ONLY, FOREIGN, KNOWN, by_name, fingerprint, is_control, seal
from proxy.config.overrides import Overrides, Step, parse
from tests.unit.config.sample import config, openai

CONFIG = config()
SECRET = b"s" * 32


def refused(*pairs: tuple[str, str], configured=CONFIG) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        parse(pairs, configured, SECRET)
    return caught.value


def read(*pairs: tuple[str, str], configured=CONFIG) -> Overrides:
    return parse(pairs, configured, SECRET)


CLASS = "must be a failure class or any_error"
FAILURE = "must be a failure class, a sub-name such as timeout.connect, or any_error"
KNOWN_PROVIDER = "must be the name of a configured provider"

SIMPLE = [
    ("X-Failover-Enabled", "maybe", 'X-Failover-Enabled: must be true or false, got "maybe"'),
    ("X-Failover-Enabled", "", 'X-Failover-Enabled: must be true or false, got ""'),
    ("X-Failover-Enabled", "2", 'X-Failover-Enabled: must be true or false, got "2"'),
    ("X-Max-Retries", "11", 'X-Max-Retries: must be a whole number from 0 to 10, got "11"'),
    ("X-Max-Retries", "-1", 'X-Max-Retries: must be a whole number from 0 to 10, got "-1"'),
    ("X-Max-Retries", "2.0", 'X-Max-Retries: must be a whole number from 0 to 10, got "2.0"'),
    ("X-Max-Retries", "+2", 'X-Max-Retries: must be a whole number from 0 to 10, got "+2"'),
    ("X-Max-Retries", "٣", 'X-Max-Retries: must be a whole number from 0 to 10, got "\\u0663"'),
    ("X-Max-Retries", "NaN", 'X-Max-Retries: must be a whole number from 0 to 10, got "NaN"'),
    (
        "X-Max-Retries",
        "9" * 5000,
        'X-Max-Retries: must be a whole number from 0 to 10, got "' + "9" * 64 + '..."',
    ),
    ("X-Max-Retries", "1\r\nX: y", 'X-Max-Retries: must be a whole number from 0 to 10, got "1\\r\\nX: y"'),
    ("X-Retry-Delay-Ms", "60001", 'X-Retry-Delay-Ms: must be a whole number from 0 to 60000, got "60001"'),
    ("X-Request-Timeout-Ms", "0", 'X-Request-Timeout-Ms: must be a whole number of milliseconds, at least 1, got "0"'),
    (
        "X-First-Token-Timeout-Ms",
        "1e3",
        'X-First-Token-Timeout-Ms: must be a whole number of milliseconds, at least 1, got "1e3"',
    ),
    (
        "X-Stream-Idle-Timeout-Ms",
        "",
        'X-Stream-Idle-Timeout-Ms: must be a whole number of milliseconds, at least 1, got ""',
    ),
    (
        "X-Retry-Strategy",
        "exponentail",
        "X-Retry-Strategy: must be one of exponential, linear, constant, immediate, decorrelated, custom, "
        'got "exponentail"; did you mean "exponential"?',
    ),
    (
        "X-Stream-Recovery",
        "contiune",
        'X-Stream-Recovery: must be one of continue, error, buffer, got "contiune"; did you mean "continue"?',
    ),
    ("X-Request-Hedging", "auto", 'X-Request-Hedging: must be true or false, got "auto"'),
    (
        "X-Circuit-Breaker-Fallback",
        "cached",
        'X-Circuit-Breaker-Fallback: must be one of cache, degraded, error, got "cached"; did you mean "cache"?',
    ),
    (
        "X-User-Priority",
        "hihg",
        'X-User-Priority: must be one of high, normal, low, got "hihg"; did you mean "high"?',
    ),
    ("X-Cache", "1", 'X-Cache: must be one of exact, semantic, off, got "1"'),
    ("X-Explain", "plans", 'X-Explain: must be true, false or plan, got "plans"'),
    ("X-Route", "chatt", 'X-Route: must be the name of a route, got "chatt"; did you mean "chat"?'),
    ("X-Policy", "critcal", 'X-Policy: must be the name of a policy, got "critcal"; did you mean "critical"?'),
    ("X-Failover-Providers", "", "X-Failover-Providers: must be a list of 1 to 16 entries, got 0"),
    (
        "X-Failover-Providers",
        ",".join(["openai"] * 17),
        "X-Failover-Providers: must be a list of 1 to 16 entries, got 17",
    ),
    ("X-Failover-Providers", "openai,,deepinfra", "X-Failover-Providers[1]: must not be empty"),
    ("X-Failover-Providers", "openai,", "X-Failover-Providers[1]: must not be empty"),
    (
        "X-Failover-Providers",
        "opnai",
        f'X-Failover-Providers[0]: {KNOWN_PROVIDER}, got "opnai"; did you mean "openai"?',
    ),
    ("X-Failover-Providers", "openai/", 'X-Failover-Providers[0]: must be provider or provider/model, got "openai/"'),
    (
        "X-Failover-Providers",
        "https://evil.test/v1",
        'X-Failover-Providers[0]: must be the name of a configured provider, got "https:"',
    ),
    (
        "X-Failover-Providers",
        "openai, open ai",
        'X-Failover-Providers[1]: must be a name of 1 to 256 printable characters without spaces, got "open ai"',
    ),
    (
        "X-Failover-Providers",
        "openai,deepinfra/smal",
        'X-Failover-Providers[1]: must be a model of provider "deepinfra", got "smal"; did you mean "small"?',
    ),
    (
        "X-Failover-Providers",
        "sk-abcdefgh12345678",
        f'X-Failover-Providers[0]: {KNOWN_PROVIDER}, got "(hidden)"',
    ),
    (
        "X-Provider-Key-opnai",
        "sk-12345678",
        'X-Provider-Key-opnai: "opnai" is not the name of a configured provider; did you mean "openai"?',
    ),
    ("X-Provider-Key-openai", "short", "X-Provider-Key-openai: must be 8 to 4096 printable characters without spaces"),
    (
        "X-Provider-Key-openai",
        "Bearer sk-12345678",
        "X-Provider-Key-openai: must be 8 to 4096 printable characters without spaces",
    ),
    (
        "X-Provider-Key-openai",
        "k" * 4097,
        "X-Provider-Key-openai: must be 8 to 4096 printable characters without spaces",
    ),
    ("X-Provider-Key-", "sk-12345678", 'X-Provider-Key-: unknown header; did you mean "X-Provider-Key-<provider>"?'),
    ("X-Retry-Stratgy", "linear", 'X-Retry-Stratgy: unknown header; did you mean "X-Retry-Strategy"?'),
    ("X-Hedge-Confg", "{}", 'X-Hedge-Confg: unknown header; did you mean "X-Hedge-Config"?'),
    ("X-Failover-Provider", "openai", 'X-Failover-Provider: unknown header; did you mean "X-Failover-Providers"?'),
    ("X-Circuit-Braker", "{}", 'X-Circuit-Braker: unknown header; did you mean "X-Circuit-Breaker"?'),
    ("X-Request-Hedgeing", "true", 'X-Request-Hedgeing: unknown header; did you mean "X-Request-Hedging"?'),
    ("X-Explane", "true", 'X-Explane: unknown header; did you mean "X-Explain"?'),
    ("X-Outrider-Zzz", "1", "X-Outrider-Zzz: unknown header"),
]

HUGE = '{"max_retries": ' + "9" * 6000 + "}"

STRUCTURED = [
    ("X-Retry-Config", '{"multiplier": "two"}', 'X-Retry-Config.multiplier: must be a number from 1 to 10, got "two"'),
    ("X-Retry-Config", '{"multiplier": true}', "X-Retry-Config.multiplier: must be a number from 1 to 10, got true"),
    ("X-Retry-Config", '{"multiplier": "5"}', 'X-Retry-Config.multiplier: must be a number from 1 to 10, got "5"'),
    ("X-Retry-Config", '{"multiplier": null}', "X-Retry-Config.multiplier: must be a number from 1 to 10, got null"),
    ("X-Retry-Config", '{"multiplier": [2]}', "X-Retry-Config.multiplier: must be a number from 1 to 10, got a list"),
    ("X-Retry-Config", '{"multiplier": {}}', "X-Retry-Config.multiplier: must be a number from 1 to 10, got an object"),
    ("X-Retry-Config", '{"multiplier": NaN}', "X-Retry-Config.multiplier: must be a number from 1 to 10, got NaN"),
    (
        "X-Retry-Config",
        '{"multiplier": 1e999}',
        "X-Retry-Config.multiplier: must be a number from 1 to 10, got Infinity",
    ),
    (
        "X-Retry-Config",
        '{"multiplier": -Infinity}',
        "X-Retry-Config.multiplier: must be a number from 1 to 10, got -Infinity",
    ),
    (
        "X-Retry-Config",
        '{"max_retries": 11}',
        "X-Retry-Config.max_retries: must be a whole number from 0 to 10, got 11",
    ),
    (
        "X-Retry-Config",
        '{"max_retries": 1.5}',
        "X-Retry-Config.max_retries: must be a whole number from 0 to 10, got 1.5",
    ),
    ("X-Retry-Config", HUGE, "X-Retry-Config.max_retries: must be a whole number from 0 to 10, got Infinity"),
    ("X-Retry-Config", '{"max_retrys": 1}', 'X-Retry-Config.max_retrys: unknown key; did you mean "max_retries"?'),
    ("X-Retry-Config", '{"zzz": 1}', "X-Retry-Config.zzz: unknown key"),
    ("X-Retry-Config", '{"a\\u0000b\\u007f": 1}', "X-Retry-Config.a\\u0000b\\u007f: unknown key"),
    ("X-Retry-Config", '{"max_retries": 1, "max_retries": 2}', 'X-Retry-Config: has the key "max_retries" twice'),
    ("X-Retry-Config", "", "X-Retry-Config: must be one JSON object, and is no JSON at character 1"),
    ("X-Retry-Config", '{"a": 1,}', "X-Retry-Config: must be one JSON object, and is no JSON at character 9"),
    ("X-Retry-Config", "{} {}", "X-Retry-Config: must be one JSON object, and is no JSON at character 4"),
    ("X-Retry-Config", "[1]", "X-Retry-Config: must be an object, got a list"),
    ("X-Retry-Config", "5", "X-Retry-Config: must be an object, got 5"),
    ("X-Retry-Config", "[" * 8000, "X-Retry-Config: is nested too deeply"),
    ("X-Retry-Config", '{"retry_on": ["' + "x" * 9199 + '"]}', "X-Retry-Config: must be at most 8192 bytes, got 9217"),
    (
        "X-Retry-Config",
        '{"jitter": "some"}',
        'X-Retry-Config.jitter: must be true, false, full, equal, decorrelated or none, got "some"',
    ),
    (
        "X-Retry-Config",
        '{"jitter": 1}',
        "X-Retry-Config.jitter: must be true, false, full, equal, decorrelated or none, got 1",
    ),
    (
        "X-Retry-Config",
        '{"retry_on": "timeout"}',
        'X-Retry-Config.retry_on: must be a list of 0 to 32 entries, got "timeout"',
    ),
    (
        "X-Retry-Config",
        '{"retry_on": ["time_out"]}',
        f'X-Retry-Config.retry_on[0]: {FAILURE}, got "time_out"; did you mean "timeout"?',
    ),
    (
        "X-Retry-Config",
        '{"delays_ms": []}',
        "X-Retry-Config.delays_ms: must be a list of 1 to 10 entries, got 0 entries",
    ),
    (
        "X-Retry-Config",
        '{"delays_ms": [0, -1]}',
        "X-Retry-Config.delays_ms[1]: must be a whole number from 0 to 60000, got -1",
    ),
    (
        "X-Retry-Config",
        '{"rules": [{"wait_ms": 5}]}',
        'X-Retry-Config.rules[0]: must have the key "error_type"',
    ),
    (
        "X-Retry-Config",
        '{"rules": [{"error_type": "rate_limit", "wait_ms": "parse"}]}',
        "X-Retry-Config.rules[0].wait_ms: must be parse_retry_after_header or a whole number from 0 to 600000, "
        'got "parse"',
    ),
    (
        "X-Retry-Config",
        '{"rules": [{"error_type": "timeout", "switch_provider_after": 2}]}',
        "X-Retry-Config.rules[0].switch_provider_after: needs attempts beside it",
    ),
    (
        "X-Retry-Config",
        '{"rules": [{"error_type": "timeout", "wait_ms": 1, "attempts": [1]}]}',
        "X-Retry-Config.rules[0].wait_ms: cannot stand beside attempts, which gives the delays itself",
    ),
    (
        "X-Retry-Config",
        '{"rules": [{"error_type": "timeout", "immediate_failover": true, "attempts": [1]}]}',
        "X-Retry-Config.rules[0].attempts: cannot stand beside immediate_failover: true",
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "openai"}, {"provider": "deepinfra", "trigger": ["time-outs"]}]}',
        f'X-Failover-Config.fallbacks[1].trigger[0]: {CLASS}, got "time-outs"; did you mean "timeout"?',
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "openai", "trigger": "timeout.connect"}]}',
        f'X-Failover-Config.fallbacks[0].trigger: {CLASS}, got "timeout.connect"; did you mean "timeout"?',
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"model": "gpt-4o"}]}',
        'X-Failover-Config.fallbacks[0]: must have the key "provider"',
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "google"}]}',
        f'X-Failover-Config.fallbacks[0].provider: {KNOWN_PROVIDER}, got "google"',
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "https://evil.test"}]}',
        "X-Failover-Config.fallbacks[0].provider: must be the name of a configured provider, not a URL",
    ),
    (
        "X-Failover-Config",
        '{"primary": {"provider": "anthropic", "model": "gpt-5"}}',
        'X-Failover-Config.primary.model: must be a model of provider "anthropic", got "gpt-5"; did you mean "gpt-4o"?',
    ),
    (
        "X-Failover-Config",
        '{"primary": {"provider": "openai", "modle": "gpt-4o"}}',
        'X-Failover-Config.primary.modle: unknown key; did you mean "model"?',
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "openai", "reduce_max_tokens": 1.5}]}',
        "X-Failover-Config.fallbacks[0].reduce_max_tokens: must be a number from 0 to 1, got 1.5",
    ),
    (
        "X-Failover-Config",
        '{"fallbacks": {}}',
        "X-Failover-Config.fallbacks: must be a list of 1 to 16 entries, got an object",
    ),
    (
        "X-Failover-Config",
        '{"failure_threshold": 0}',
        "X-Failover-Config.failure_threshold: must be a whole number from 1 to 1024, got 0",
    ),
    (
        "X-Circuit-Breaker",
        '{"error_threshold": 0}',
        "X-Circuit-Breaker.error_threshold: must be a whole number from 1 to 1024, got 0",
    ),
    ("X-Circuit-Breaker", '{"timeout": 0}', "X-Circuit-Breaker.timeout: must be a number from 0.1 to 3600, got 0"),
    (
        "X-Circuit-Breaker",
        '{"excluded_errors": ["600"]}',
        "X-Circuit-Breaker.excluded_errors[0]: must be a failure class, a sub-name such as timeout.first_byte, "
        'or a status, got "600"',
    ),
    ("X-Circuit-Breaker", '{"looser": "never"}', "X-Circuit-Breaker.looser: unknown key"),
    (
        "X-Hedge-Config",
        '{"strategy": "fastest"}',
        'X-Hedge-Config.strategy: must be one of latency, first-success, got "fastest"',
    ),
    (
        "X-Hedge-Config",
        '{"providers": ["openai", "deepinfra", "anthropic", "a", "b"]}',
        "X-Hedge-Config.providers: must be a list of 1 to 4 entries, got 5 entries",
    ),
    (
        "X-Hedge-Config",
        '{"providers": ["openai", "antropic"]}',
        f'X-Hedge-Config.providers[1]: {KNOWN_PROVIDER}, got "antropic"; did you mean "anthropic"?',
    ),
    (
        "X-Hedge-Config",
        '{"delay_ms": "soon"}',
        'X-Hedge-Config.delay_ms: must be auto or a whole number from 0 to 60000, got "soon"',
    ),
    ("X-Hedge-Config", '{"cancel_slower": 0}', "X-Hedge-Config.cancel_slower: must be true or false, got 0"),
    (
        "X-Degraded-Mode-Config",
        '{"strategies": [{"condition": "high_latency", "action": "reduce_quality", "config": {"use_modl": "x"}}]}',
        'X-Degraded-Mode-Config.strategies[0].config.use_modl: unknown key; did you mean "use_model"?',
    ),
    (
        "X-Degraded-Mode-Config",
        '{"triggers": ["latency"]}',
        "X-Degraded-Mode-Config.triggers[0]: must be one of high_latency, partial_outage, rate_limiting, "
        'got "latency"; did you mean "high_latency"?',
    ),
]


@pytest.mark.parametrize(("header", "value", "message"), SIMPLE + STRUCTURED)
def test_every_bad_value_is_refused_in_exactly_these_words(header: str, value: str, message: str) -> None:
    error = refused((header.lower(), value))
    assert (error.status, error.code) == (400, "invalid_header")
    assert error.message == message
    assert error.message.startswith(error.param)
    assert error.message.isascii()
    assert error.message.isprintable()


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(SIMPLE + STRUCTURED) >= 60


@pytest.mark.parametrize(
    ("header", "family"),
    [
        *((shown, family) for shown, family in KNOWN.values() if family != "chaos"),
        ("X-Provider-Key-openai", "failover"),
    ],
)
def test_a_forbidden_family_is_403_before_its_value_is_looked_at(header: str, family: str) -> None:
    narrow = config(limits=Limits(allow_overrides=Limits().allow_overrides - {family}))
    error = refused((header.lower(), "nonsense"), configured=narrow)
    assert (error.status, error.code) == (403, "override_forbidden")
    assert error.message == f'{header}: the operator does not allow "{family}" headers'


def test_chaos_is_403_until_the_operator_enables_it() -> None:
    error = refused(("x-chaos", "primary:error=503"))
    assert (error.status, error.code, error.message) == (
        403,
        "override_forbidden",
        "X-Chaos: chaos is not enabled here",
    )
    enabled = config(chaos=True)
    assert read(("x-chaos", "anthropic:delay_ms=2000,after=content"), configured=enabled).chaos
    assert refused(("x-chaos", "primary"), configured=enabled).message == (
        'X-Chaos: must look like primary:error=503, got "primary"'
    )
    assert refused(("x-chaos", "primary:error=200"), configured=enabled).message == (
        'X-Chaos.error: must be a whole number from 400 to 599, got "200"'
    )
    assert refused(("x-chaos", "nobody:error=503"), configured=enabled).param == "X-Chaos"


def test_the_page_on_headers_names_all_of_them_and_quotes_errors_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs/headers.md").read_text(encoding="utf-8")
    named = {name.lower() for name in re.findall(r"`(X-[A-Za-z-]+)", page)}
    assert {*KNOWN, *ANSWER_ONLY} <= named
    assert named <= {
        *KNOWN,
        *ANSWER_ONLY,
        "x-provider-key-",
        "x-provider-key-openai",
        "x-provider-key-opnai",
        "x-retry-stratgy",
    }
    said = {" ".join(quoted.split()) for quoted in re.findall(r"`(X-[^`]+)`", page)}
    errors = {quoted for quoted in said if re.search(r": (must|unknown|the operator|chaos|\")", quoted)}
    real = {message for _, _, message in SIMPLE + STRUCTURED} | {
        'X-Max-Retries: the operator does not allow "retry" headers',
        "X-Chaos: chaos is not enabled here",
    }
    assert len(errors) >= 12
    assert errors <= real


def test_repeated_headers_must_agree() -> None:
    assert read(("x-max-retries", "3"), ("x-max-retries", "3")).simple == {"retry.max_retries": 3}
    error = refused(("x-max-retries", "3"), ("x-max-retries", "4"))
    assert error.message == "X-Max-Retries: was sent twice with different values"


def test_answer_headers_and_strangers_in_a_request_are_passed_over() -> None:
    pairs = [(name, "spoofed") for name in ANSWER_ONLY] + [("x-request-id", "1"), ("accept", "*/*")]
    assert read(*pairs, ("x-served-by", "other")) == Overrides()


def test_every_name_of_the_contract_is_ours() -> None:
    ours = [*KNOWN, *ANSWER_ONLY, "x-provider-key-openai", "x-retry-stratgy", "x-failover-provider"]
    assert all(is_control(name) for name in ours)
    strangers = ["authorization", "x-api-key", "x-request-id", "content-type", "x-forwarded-for", *FOREIGN]
    assert not any(is_control(name) for name in strangers)


def test_limits_cut_what_is_well_formed_and_say_so() -> None:
    tight = config(limits=Limits(max_retries=5, max_timeout_s=60.0, max_hedges=1))
    found = read(
        ("x-max-retries", "9"),
        ("x-request-timeout-ms", "9" * 40),
        ("x-retry-config", '{"max_retries": 7, "rules": [{"error_type": "timeout", "attempts": [1,2,3,4,5,6]}]}'),
        ("x-hedge-config", '{"providers": ["openai", "deepinfra", "anthropic"]}'),
        configured=tight,
    )
    assert found.clamped == (
        "X-Request-Timeout-Ms=60000",
        "X-Max-Retries=5",
        "X-Retry-Config.max_retries=5",
        "X-Retry-Config.rules[0].attempts=5",
        "X-Hedge-Config.providers=2",
    )
    assert found.simple["timeout_s"] == 60.0
    assert found.simple["retry.max_retries"] == found.json["retry.max_retries"] == 5
    assert found.json["retry.rules"][0]["attempts"] == (1, 2, 3, 4, 5)
    assert found.json["hedging.max_hedges"] == 1


def test_retries_never_exceed_what_the_attempts_allow() -> None:
    tight = config(limits=Limits(max_attempts=3))
    found = read(("x-max-retries", "4"), configured=tight)
    assert (found.simple["retry.max_retries"], found.clamped) == (2, ("X-Max-Retries=2",))


def test_hedging_where_the_operator_allows_no_hedge() -> None:
    none = config(limits=Limits(max_hedges=0))
    found = read(("x-request-hedging", "true"), configured=none)
    assert (found.simple["hedging.enabled"], found.clamped) == (False, ("X-Request-Hedging=false",))
    found = read(("x-hedge-config", "{}"), configured=none)
    assert (found.json["hedging.enabled"], found.clamped) == (False, ("X-Hedge-Config=off",))


def test_the_whole_vocabulary_of_x_failover_config() -> None:
    value = {
        "primary": {"provider": "openai", "model": "gpt-4o"},
        "fallbacks": [
            {
                "trigger": ["timeout", "rate_limit"],
                "provider": "anthropic",
                "model": "claude-3",
                "max_latency_increase": 500,
            },
            {"trigger": "any_error", "provider": "openai", "reduce_quality": True, "reduce_max_tokens": 0.5},
        ],
        "health_check_interval": 10,
        "failure_threshold": 4,
        "success_threshold": 1,
    }
    found = read(("x-failover-config", json.dumps(value)))
    assert found.primary == Step(provider="openai", model="gpt-4o")
    assert found.fallbacks == (
        Step(
            provider="anthropic",
            model="claude-3",
            trigger=frozenset({Class.TIMEOUT, Class.RATE_LIMIT}),
            max_latency_increase_s=0.5,
        ),
        Step(provider="openai", trigger=ANY_ERROR, reduce_quality=True, reduce_max_tokens=0.5),
    )
    assert found.exclusion is not None
    assert (found.exclusion.failure_threshold, found.exclusion.success_threshold) == (4, 1)
    assert found.exclusion.health_check_interval_s == 10.0
    assert read(("x-max-retries", "1")).exclusion is None


def test_the_whole_vocabulary_of_x_retry_config() -> None:
    value = {
        "initial_delay_ms": 100,
        "max_delay_ms": 10_000,
        "multiplier": 2,
        "max_retries": 5,
        "jitter": True,
        "retry_on": ["timeout", "connect_error.dns", "timeout"],
        "strategy": "custom",
        "rules": [
            {"error_type": "rate_limit", "wait_ms": "parse_retry_after_header", "max_wait_ms": 60_000},
            {"error_type": ["timeout"], "attempts": [100, 100, 500], "switch_provider_after": 2},
            {"error_type": "server_error", "immediate_failover": True},
        ],
    }
    found = read(("x-retry-config", json.dumps(value)))
    assert found.json["retry.jitter"] == "full"
    assert found.json["retry.retry_on"] == ("timeout", "connect_error.dns")
    assert found.json["retry.rules"][1] == {
        "error_type": ("timeout",),
        "attempts": (100, 100, 500),
        "switch_provider_after": 2,
    }
    assert set(found.origins) == {f"retry.{key}" for key in value}
    assert set(found.origins.values()) == {("", "X-Retry-Config")}


def test_a_schedule_outright_says_how_often_unless_something_else_does() -> None:
    schedule = ("x-retry-config", '{"delays_ms": [0, 1000, 2000]}')
    assert read(schedule).json["retry.max_retries"] == 3
    assert "retry.max_retries" not in read(schedule, ("x-max-retries", "1")).json
    assert read(("x-retry-config", '{"delays_ms": [0, 1], "max_retries": 1}')).json["retry.max_retries"] == 1


def test_two_ways_to_write_one_breaker_policy_are_one_policy() -> None:
    one = read(("x-circuit-breaker", '{"excluded_errors": ["rate_limit", "503", 502]}'))
    two = read(("x-circuit-breaker", '{"excluded_errors": ["502", 503, "rate_limit", 503]}'))
    assert one == two
    assert one.json == {"circuit_breaker.excluded_errors": frozenset({"rate_limit", "502", "503"})}


def test_who_describes_hedging_wants_it_unless_they_say_no() -> None:
    assert read(("x-hedge-config", '{"delay_ms": 200}')).json["hedging.enabled"] is True
    off = read(("x-hedge-config", '{"delay_ms": 200}'), ("x-request-hedging", "off"))
    assert "hedging.enabled" not in off.json
    assert off.simple == {"hedging.enabled": False, "hedging.rescue_after_s": 0.0}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("600", 600.0),
        ("12.5", 12.5),
        ("0", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("x", None),
    ],
)
def test_the_read_timeout_of_a_client_is_taken_when_it_is_one(value: str, seconds: float | None) -> None:
    assert read(("x-stainless-read-timeout", value)).read_timeout_s == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10S", 10.0),
        ("500m", 0.5),
        ("2H", 7200.0),
        ("3M", 180.0),
        ("0S", 0.001),
        ("5u", 0.001),
        ("10", None),
        ("-1S", None),
        ("123456789S", None),
        ("1s", None),
        ("", None),
    ],
)
def test_grpc_timeout_is_taken_when_it_is_one(value: str, seconds: float | None) -> None:
    assert read(("grpc-timeout", value)).grpc_timeout_s == seconds


def test_foreign_bounds_do_not_pass_an_operator_who_forbids_timeouts() -> None:
    narrow = config(limits=Limits(allow_overrides=frozenset()))
    assert read(("grpc-timeout", "1S"), ("x-stainless-read-timeout", "5"), configured=narrow) == Overrides()


def test_contradicting_foreign_headers_are_ignored_not_refused() -> None:
    assert read(("grpc-timeout", "1S"), ("grpc-timeout", "2S")).grpc_timeout_s is None


def test_a_brought_key_leaves_only_its_fingerprint() -> None:
    key = "sk-live-0123456789abcdef"
    found = read(("x-provider-key-openai", key))
    assert found.keys == {"openai": fingerprint(key, SECRET)}
    assert key not in repr(found)
    assert fingerprint(key, SECRET) != fingerprint(key, b"t" * 32)
    sealed = seal((("x-provider-key-openai", key),), SECRET)
    assert seal(sealed, SECRET) == sealed
    assert read(*sealed) == found


def test_a_brought_key_reaches_no_message() -> None:
    key = "sk-live-0123456789abcdef"
    for pairs in (
        [("x-provider-key-nobody", key)],
        [("x-provider-key-openai", key + " ")],
        [("x-provider-key-openai", key), ("x-provider-key-openai", key + "2")],
        [("x-provider-key-openai", key), ("x-retry-config", key)],
        [("x-retry-strategy", key)],
        [("x-retry-config", json.dumps({key: 1}))],
    ):
        assert key not in refused(*pairs).message


def test_a_provider_key_finds_its_provider_whatever_its_capitals() -> None:
    configured = config(openai(name="OpenAI-EU"))
    found = read(("x-provider-key-openai-eu", "sk-12345678"), configured=configured)
    assert list(found.keys) == ["OpenAI-EU"]


@given(st.permutations([*by_name([("x-policy", "batch"), ("x-max-retries", "3"), ("x-explain", "plan")]).items()]))
def test_the_order_of_headers_means_nothing(pairs: list[tuple[str, str]]) -> None:
    assert read(*pairs) == read(("x-explain", "plan"), ("x-max-retries", "3"), ("x-policy", "batch"))


@given(st.permutations([("x-cache", "?"), ("x-max-retries", "?"), ("x-policy", "?"), ("x-zzz", "?")]))
def test_of_several_errors_always_the_same_is_told(pairs: list[tuple[str, str]]) -> None:
    assert refused(*pairs).param == "X-Policy"


@given(st.permutations([("x-hedge-b", "1"), ("x-retry-a", "1"), ("x-circuit-c", "1")]))
def test_of_several_unknown_headers_always_the_same_is_told(pairs: list[tuple[str, str]]) -> None:
    assert refused(*pairs).param == "X-Circuit-C"


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["openai", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["provider", "fallbacks", "trigger", "rules", "error_type", "delay_ms", "providers", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
NAMES = st.sampled_from([*KNOWN, *FOREIGN, "x-provider-key-openai", "x-retry-zzz", "x-failover-"])


@given(st.lists(st.tuples(NAMES, JSONISH.map(json.dumps) | st.text(max_size=40)), max_size=5))
def test_whatever_comes_is_read_or_refused_politely(pairs: list[tuple[str, str]]) -> None:
    error = None
    try:
        read(*pairs, configured=config(chaos=True))
    except HeaderError as caught:
        error = caught
    if error is not None:
        assert error.status in (400, 403)
        assert error.message.startswith(error.param + ": ")
        assert error.message.isascii()
        assert error.message.isprintable()
        assert len(error.message) < 500
