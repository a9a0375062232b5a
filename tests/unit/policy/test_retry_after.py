from __future__ import annotations

import pytest

from proxy.base.outcome import Class
from proxy.policy import retry_after as ra

WALL = 1_700_000_000.0
"""Tue, 14 Nov 2023 22:13:20 GMT."""


def headers(**values: str):
    found = {name.replace("_", "-"): value for name, value in values.items()}
    return lambda name: found.get(name)


def told(cls: Class = Class.RATE_LIMIT, **values: str) -> float | None:
    return ra.told_wait_s(headers(**values), WALL, cls)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("1", 1.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("120ms", 0.12),
        ("17ms", 0.017),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("3.957525076s", 3.957525076),
        ("1700000030", 30.0),
        ("1700000030500", 30.5),
        ("2023-11-14T22:13:50Z", 30.0),
        ("2023-11-14t22:13:50.5z", 30.5),
        ("2023-11-15T00:13:50+02:00", 30.0),
        ("2023-11-14T22:13:50", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("Tue, 14 Nov 2023 22:13:60 GMT", 40.0),
        ("86400", 86_400.0),
        ("100000", 86_400.0),
    ],
)
def test_R5_every_spelling_of_a_wait(text: str, expected: float) -> None:
    assert ra.parse_wait(text, WALL) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0.5", "abc", "nan", "inf", "1e3", "1_000", "+5", "0x10", "١٢", "1,5", "5 s", "s", "1.2.3",
        "1s-2s", "10000000", "1600000000", "99999999999999999", "9" * 400, "1h" * 40, "Tue, 14 Nov 2023 22:13:19 GMT",
        "Tue, 14 Nov 2023 25:13:50 GMT", "Tue, 99 Nov 2023 22:13:50 GMT", "Tue, 14 Xyz 2023 22:13:50 GMT",
        "2023-13-14T22:13:50Z", "2023-11-14", "2023-11-14T22:13:19Z", "REMAINING-TOKENS-XXX", "**REDACTED**",
    ],
)  # fmt: skip
def test_R5_what_is_no_wait_counts_as_absent(text: str) -> None:
    assert ra.parse_wait(text, WALL) is None


def test_R5_milliseconds_beat_seconds_and_seconds_beat_resets() -> None:
    everything = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "1m0.1s"}
    assert told(retry_after_ms="700", retry_after="3", **everything) == pytest.approx(0.7)
    assert told(retry_after_ms="soon", retry_after="3", **everything) == 3.0
    assert told(retry_after="-1", **everything) == pytest.approx(60.1)
    assert told(retry_after_ms="0", retry_after="1") == 0.0


@pytest.mark.parametrize("cls", sorted(set(Class) - ra.TOLD_CLASSES))
def test_a_wait_is_read_on_no_other_class(cls: Class) -> None:
    assert told(cls, retry_after="3", retry_after_ms="3000", x_ratelimit_reset="3") is None


def test_resets_are_read_on_a_rate_limit_only() -> None:
    spent = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "7.66s"}
    assert told(**spent) == pytest.approx(7.66)
    assert told(Class.QUOTA_EXCEEDED, **spent) is None
    assert told(Class.MODEL_OVERLOADED, **spent) is None
    assert told(Class.MODEL_OVERLOADED, retry_after="2") == 2.0


def test_only_the_resets_of_spent_dimensions_count_and_the_longest_of_them() -> None:
    assert told(x_ratelimit_remaining_requests="9999", x_ratelimit_reset_requests="6ms") is None
    assert told(
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="2m",
        x_ratelimit_remaining_tokens="0",
        x_ratelimit_reset_tokens="6s",
        x_ratelimit_remaining_tokens_day="5",
        x_ratelimit_reset_tokens_day="9h",
    ) == pytest.approx(120.0)


def test_the_reset_that_names_no_dimension_counts_unless_something_remains() -> None:
    assert told(x_ratelimit_reset="1700000015000", x_ratelimit_remaining="0") == pytest.approx(15.0)
    assert told(x_ratelimit_reset="4") == 4.0
    assert told(x_ratelimit_reset="4", x_ratelimit_remaining="3") is None


def test_anthropic_resets_are_dates() -> None:
    assert told(
        date="Tue, 26 Mar 2024 19:59:59 GMT",
        anthropic_ratelimit_requests_remaining="0",
        anthropic_ratelimit_requests_reset="2024-03-26T20:00:00Z",
        anthropic_ratelimit_tokens_remaining="16000",
        anthropic_ratelimit_tokens_reset="2024-03-26T21:00:00Z",
    ) == pytest.approx(1.0)


def test_S23_a_date_is_relative_to_the_senders_own_clock() -> None:
    hour_ahead = "Tue, 14 Nov 2023 23:13:20 GMT"
    assert told(retry_after="Tue, 14 Nov 2023 23:13:22 GMT", date=hour_ahead) == 2.0
    assert told(retry_after="Tue, 14 Nov 2023 22:13:22 GMT", date="nonsense") == 2.0
    assert told(retry_after="Tue, 14 Nov 2023 22:13:22 GMT", date=hour_ahead) is None, "past by the sender's clock"


def test_grpc_pushback() -> None:
    assert ra.grpc_pushback(headers()) is None
    assert ra.grpc_pushback(headers(grpc_retry_pushback_ms="1500")) == 1.5
    assert ra.grpc_pushback(headers(grpc_retry_pushback_ms="-1")) == ra.NEVER
    assert ra.grpc_pushback(headers(grpc_retry_pushback_ms="x")) == ra.NEVER


def test_R5_a_sleeper_never_sleeps_less_than_told() -> None:
    assert ra.sleep_s(2.0, lambda: 0.0) == 2.0
    assert ra.sleep_s(2.0, lambda: 1.0) == pytest.approx(1.25 * 2.0 + 0.05)
    assert ra.sleep_s(0.0, lambda: 1.0) == pytest.approx(0.05)


def test_what_goes_downstream_is_clamped() -> None:
    assert ra.downstream_s(3.2) == 3.2
    assert ra.downstream_s(86_400.0) == 60.0
    assert ra.downstream_s(86_400.0, 600.0) == 600.0
    assert ra.downstream_s(-1.0) == 0.0
    assert ra.downstream_s(None) is None
    assert ra.downstream_s(float("nan")) is None
