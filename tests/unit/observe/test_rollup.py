"""Counts by hour, and the sums that analytics and uptime are made of."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.observe.analysis import analytics, by_day, uptime
from proxy.observe.entry import Entry
from proxy.observe.rollup import HOURS_MAX, PROVIDERS_MAX, Rollup, add, by_hour, uptime_percent
from tests.unit.observe.sample import attempt, record

HOUR = 486_111
"""A Wednesday noon, UTC."""
NOW = HOUR * 3600.0
PRICES = {"openai": (1e-6, 2e-6), "anthropic": (3e-6, 4e-6)}


def rollup() -> Rollup:
    return Rollup(lambda provider, model: PRICES.get(provider))


def failed_over(reason: str = "server_error", **over: Any) -> Any:
    made: dict[str, Any] = {
        "primary": "openai/gpt-4o",
        "attempts": (
            attempt(outcome="server_error", detail="server_error", status=503, won=False),
            attempt(kind="retry", outcome="server_error", detail="server_error", status=503, won=False),
            attempt(provider="anthropic", model="claude", kind="failover", end_ms=500.0),
        ),
        "served_by": "anthropic",
        "served_model": "claude",
        "failover_reason": reason,
    }
    return record(**{**made, **over})


def of_today(counts: Rollup, now: float = NOW) -> dict[str, Any]:
    return analytics(by_day(counts.hours(), int(now // 3600), int(now // 3600)))


def test_everything_is_counted_once() -> None:
    counts = rollup()
    for _ in range(7):
        counts.request(record(primary="openai/gpt-4o"), NOW)
    counts.request(failed_over(), NOW)
    dial = attempt(outcome="auth", detail="auth", status=401, won=False)
    gone = {"served_by": "", "input_tokens": None, "output_tokens": None}
    counts.request(record(result="error", attempts=(dial,), **gone), NOW)
    counts.request(record(result="client_error", attempts=(dial,), **gone), NOW)
    counts.request(record(result="client_cancelled", attempts=(), **gone), NOW)
    told = of_today(counts)
    assert told["requests"] == 11
    assert (told["completed"], told["failed"], told["client_errors"], told["cancelled"]) == (8, 1, 1, 1)
    assert told["success_rate"] == pytest.approx(8 / 9, abs=1e-6)
    assert told["primary_success_rate"] == pytest.approx(7 / 9, abs=1e-6)
    assert told["first_attempt_success_rate"] == pytest.approx(7 / 9, abs=1e-6)
    assert told["retries"] == 1
    assert told["mean_retries_before_success"] == 2.0
    assert told["avg_response_time_ms"] == 350.0
    assert told["failovers"]["requests"] == 1
    assert told["failovers"]["reasons"] == {"outage": 1}
    assert told["failovers"]["classes"] == {"server_error": 1}
    openai, anthropic = told["providers"]["openai"], told["providers"]["anthropic"]
    assert (openai["attempts"], openai["errors"]) == (11, {"server_error": 2, "auth": 2})
    assert openai["success_rate"] == pytest.approx(7 / 11, abs=1e-6)
    assert (anthropic["attempts"], anthropic["avg_response_time_ms"]) == (1, 500.0)
    assert (openai["input_tokens"], openai["output_tokens"], anthropic["input_tokens"]) == (700, 140, 100)


def test_cost_of_failover_is_held_against_the_primary() -> None:
    counts = rollup()
    counts.request(record(primary="openai/gpt-4o"), NOW)
    counts.request(failed_over(), NOW)
    plain, dear = 100e-6 + 40e-6, 300e-6 + 80e-6
    told = of_today(counts)["cost_usd"]
    assert told == {
        "all": pytest.approx(plain + dear, abs=1e-6),
        "by_fallbacks": pytest.approx(dear, abs=1e-6),
        "beyond_primary": pytest.approx(dear - plain, abs=1e-6),
    }


def test_without_a_price_nothing_is_made_up() -> None:
    counts = rollup()
    counts.request(record(served_by="unknown", primary="unknown/x"), NOW)
    told = of_today(counts)
    assert told["cost_usd"]["all"] == 0.0
    assert told["providers"]["unknown"]["input_tokens"] == 100


def test_a_hedge_that_won_is_no_failover() -> None:
    counts = rollup()
    dials = (
        attempt(outcome="cancelled", detail="cancelled.superseded", won=False),
        attempt(provider="anthropic", kind="hedge"),
    )
    counts.request(failed_over("hedge", attempts=dials, hedges=1), NOW)
    told = of_today(counts)
    assert told["hedges"] == {"sent": 1, "won": 1}
    assert told["failovers"]["requests"] == 0
    assert told["primary_success_rate"] == 0.0


@pytest.mark.parametrize(
    ("cls", "word"),
    [
        ("rate_limit", "rate_limit"),
        ("auth", "auth"),
        ("connect_error", "network"),
        ("circuit_open", "outage"),
        ("timeout", "timeout"),
        ("context_length", "other"),
    ],
)
def test_reasons_have_words_for_people(cls: str, word: str) -> None:
    counts = rollup()
    counts.request(failed_over(cls), NOW)
    assert of_today(counts)["failovers"]["reasons"] == {word: 1}


def test_hours_go_to_their_days_and_old_ones_leave_the_memory() -> None:
    counts = rollup()
    for hour in range(HOURS_MAX + 30):
        counts.request(record(), NOW + hour * 3600.0)
    last = HOUR + HOURS_MAX + 29
    assert sorted(counts.own_hours()) == list(range(last - HOURS_MAX + 1, last + 1))
    days = by_day(counts.hours(), HOUR, last)
    assert [day for day in days if days[day].get("requests")] == sorted(days)[-len(days) + 1 :]
    assert sum(day.get("requests", 0) for day in days.values()) == HOURS_MAX


def test_the_present_hour_and_the_last_one_go_to_the_store() -> None:
    counts = rollup()
    assert counts.present(NOW) == [(HOUR, {"seconds": _zeros(), "providers": {}})]
    counts.request(record(), NOW)
    counts.request(record(), NOW + 3600.0)
    told = counts.present(NOW + 3600.0)
    assert [(hour, each["requests"]) for hour, each in told] == [(HOUR, 1), (HOUR + 1, 1)]


def _zeros() -> dict[str, float]:
    return dict.fromkeys(("healthy", "degraded", "down", "maintenance"), 0.0)


def test_names_of_providers_are_bounded() -> None:
    counts = rollup()
    for number in range(PROVIDERS_MAX + 20):
        counts.request(record(attempts=(attempt(provider=f"p{number}"),), served_by=f"p{number}"), NOW)
    told = of_today(counts)["providers"]
    assert len(told) == PROVIDERS_MAX + 1
    assert told["other"]["attempts"] == 20


def test_entries_are_counted_by_kind() -> None:
    counts = rollup()
    counts.entry(Entry(at=NOW, kind="circuit"))
    counts.entry(Entry(at=NOW, kind="circuit"))
    assert of_today(counts)["events"] == {"circuit": 2}


def test_runs_add_up() -> None:
    assert add({"a": 1, "b": {"x": 1}}, {"a": 2, "b": {"x": 2, "y": 3}, "c": 1.5}) == {
        "a": 3,
        "b": {"x": 3, "y": 3},
        "c": 1.5,
    }


# Uptime ---------------------------------------------------------------------------------------------------------------


def test_uptime_counts_watched_seconds_without_maintenance() -> None:
    counts = rollup()
    counts.seconds(NOW, 3000.0, "healthy", {"openai": "healthy", "azure": "maintenance"})
    counts.seconds(NOW, 300.0, "degraded", {"openai": "down", "azure": "maintenance"})
    counts.seconds(NOW, 300.0, "degraded", {"openai": "degraded", "azure": "healthy"})
    days = by_day(counts.hours(), HOUR, HOUR)
    told = uptime(days, ["openai", "azure", "new"], 0.999)
    by_name = {each["name"]: each for each in told["providers"]}
    assert told["overall"]["uptime_percentage"] == 100.0
    assert told["overall"]["degraded_minutes"] == 10.0
    assert by_name["openai"]["uptime_percentage"] == pytest.approx(100 * 3300 / 3600, abs=1e-4)
    assert by_name["openai"]["downtime_minutes"] == 5.0
    assert (by_name["azure"]["uptime_percentage"], by_name["azure"]["maintenance_minutes"]) == (100.0, 55.0)
    assert by_name["azure"]["watched_minutes"] == 5.0
    assert by_name["new"]["uptime_percentage"] is None
    # Configured ones in the order of the file, as everywhere else; then those that are no longer there.
    assert [each["name"] for each in uptime(days, ["new", "openai"], 0.999)["providers"]] == ["new", "openai", "azure"]
    assert [each["date"] for each in by_name["openai"]["daily"]] == list(days)


def test_the_budget_is_what_the_target_leaves_of_the_window() -> None:
    counts = rollup()
    counts.seconds(NOW, 21.6, "healthy", {"openai": "down"})
    days = by_day(counts.hours(), HOUR - 29 * 24, HOUR)
    assert len(days) == 30
    budget = uptime(days, [], 0.999)["providers"][0]["error_budget"]
    assert budget == {"allowed_minutes": 43.2, "left_minutes": 42.84, "left_percent": 99.17}


def test_an_overdrawn_budget_is_negative() -> None:
    counts = rollup()
    counts.seconds(NOW, 2 * 86.4, "down", {})
    budget = uptime(by_day(counts.hours(), HOUR, HOUR), [], 0.999)["overall"]["error_budget"]
    assert budget["left_percent"] == -100.0


def test_the_promise_is_held_against_requests_too() -> None:
    counts = rollup()
    for _ in range(999):
        counts.request(record(), NOW)
    counts.request(record(result="exhausted", served_by="", input_tokens=None, output_tokens=None), NOW)
    told = uptime(by_day(counts.hours(), HOUR, HOUR), [], 0.998)["overall"]["requests"]
    assert told == {
        "judged": 1000,
        "failed": 1,
        "success_rate": 0.999,
        "allowed_failures": 2.0,
        "left_percent": 50.0,
    }


def test_the_last_day_is_known_without_the_store() -> None:
    counts = rollup()
    assert counts.uptime_24h("openai", NOW) is None
    run = {"seconds": {"healthy": 30.0}, "providers": {"openai": {"seconds": {"down": 50.0}}}}
    long_ago = {"providers": {"openai": {"seconds": {"down": 9999.0}}}}
    counts.remember(by_hour([(HOUR - 2, run), (HOUR - 30, long_ago), (HOUR - 2, run)]))
    counts.seconds(NOW, 300.0, "healthy", {"openai": "healthy"})
    assert counts.uptime_24h("openai", NOW) == 75.0
    assert counts.uptime_24h("", NOW) == 100.0


def test_no_seconds_give_no_share() -> None:
    assert uptime_percent({"maintenance": 60.0}) is None
