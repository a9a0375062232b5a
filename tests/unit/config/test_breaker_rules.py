"""The further trip rules of the file (resilience4j's words): what they become, and what contradicts."""

from __future__ import annotations

import pytest

from proxy.config.compiled import Layer, breaker_settings
from proxy.config.load import load_text
from proxy.policy.window import ConsecutiveRule, RateRule

FILE = """
version: 1
providers:
  a: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", circuit_breaker: {{{keys}}}}}
"""


def stated(keys: str) -> Layer:
    loaded = load_text(FILE.format(keys=keys), "t.yaml", {})
    assert loaded.config is not None, loaded.errors
    return loaded.config.providers["a"].breaker


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ("failureRateThreshold: 30", RateRule(failure_rate_percent=30)),
        (
            "failureRateThreshold: 30, slidingWindow: {type: time, size: 60}, minimumNumberOfCalls: 5",
            RateRule(failure_rate_percent=30, window="time", size=60, minimum_calls=5),
        ),
        ("slidingWindow: {size: 20}", RateRule(size=20, minimum_calls=20)),
        (
            "slowCallDurationThreshold: 4000, slowCallRateThreshold: 60",
            RateRule(slow_call_s=4.0, slow_rate_percent=60),
        ),
        ("consecutive: 7", ConsecutiveRule(n=7)),
        ("success_threshold: 3", None),
    ],
)
def test_a_rule_is_built_from_its_words(keys: str, rule: object) -> None:
    assert breaker_settings(stated(keys)).rule == rule


def test_other_names_of_the_open_time_and_the_probes() -> None:
    settings = breaker_settings(stated("waitDurationInOpenState: 12.5, permittedNumberOfCallsInHalfOpenState: 4"))
    assert (settings.timeout_s, settings.half_open_requests) == (12.5, 4)


def test_a_count_rule_over_it_takes_its_place() -> None:
    settings = breaker_settings({**stated("failureRateThreshold: 30"), "error_threshold": 5})
    assert settings.rule is None
    assert settings.error_threshold == 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("consecutive: 3, error_threshold: 2", "consecutive: selects another trip rule than error_threshold"),
        ("consecutive: 3, failureRateThreshold: 2", "consecutive: selects another trip rule than failureRateThreshold"),
        ("timeout: 3, waitDurationInOpenState: 3", "waitDurationInOpenState: is another name of timeout"),
        ("slidingWindow: {type: time, size: 121}", "slidingWindow.size: must be at most 120 seconds"),
        ("slidingWindow: {type: time}", "slidingWindow.type: a window of time needs size"),
        ("failureRateThreshold: 101", "failureRateThreshold: must be a whole number from 1 to 100"),
    ],
)
def test_contradictions_are_told(keys: str, message: str) -> None:
    loaded = load_text(FILE.format(keys=keys), "t.yaml", {})
    assert loaded.config is None
    assert any(message in str(error) for error in loaded.errors), [str(e) for e in loaded.errors]
