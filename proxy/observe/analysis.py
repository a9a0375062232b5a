"""Sums over the hours, as `GET /v1/analytics` and `GET /v1/uptime` tell them: numbers in, JSON-able values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from proxy.observe.rollup import HOUR_S, Counts, add, uptime_percent

Hours = Iterable[tuple[int, Mapping[str, Any]]]
"""Counts by number of the hour since 1970; an hour may come more than once."""

REASONS: Final = {
    "server_error": "outage",
    "model_overloaded": "outage",
    "circuit_open": "outage",
    "timeout": "timeout",
    "connect_error": "network",
    "stream_interrupted": "network",
    "rate_limit": "rate_limit",
    "quota_exceeded": "rate_limit",
    "auth": "auth",
    "permission": "auth",
    "maintenance": "maintenance",
    "drained": "maintenance",
    "predicted": "predicted",
    "latency": "predicted",
}
"""Word of people for the class of a failover; any other class is ``other``."""
DAY_H: Final = 24


def date_of(hour: int) -> str:
    """The day (UTC) of an hour: ``2026-03-01``."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("%Y-%m-%d")


def by_day(hours: Hours, first: int, last: int) -> dict[str, Counts]:
    """Sums by day, of every day from hour `first` to hour `last`, oldest first."""
    days: dict[str, Counts] = {date_of(hour): {} for hour in range(first, last + 1, DAY_H)}
    days.setdefault(date_of(last), {})
    for hour, counts in hours:
        if first <= hour <= last:
            add(days[date_of(hour)], counts)
    return days


# Analytics ------------------------------------------------------------------------------------------------------------


def analytics(days: Mapping[str, Counts]) -> dict[str, Any]:
    """What became of the requests of these days, together and day by day."""
    total: Counts = {}
    for counts in days.values():
        add(total, counts)
    return {
        **_requests(total),
        "failovers": _failovers(total),
        "hedges": {"sent": _n(total, "hedges_sent"), "won": _n(total, "hedges_won")},
        "cache_hits": _n(total, "cache_hits"),
        "degraded": {"answers": _n(total, "degraded"), "share": _share(_n(total, "degraded"), _n(total, "ok"))},
        "cost_usd": {
            "all": _usd(total, "cost_usd"),
            "by_fallbacks": _usd(total, "failover_cost_usd"),
            "beyond_primary": _usd(total, "failover_extra_usd"),
        },
        "events": dict(sorted(total.get("events", {}).items())),
        "providers": {name: _provider(counts) for name, counts in sorted(total.get("providers", {}).items())},
        "daily": [{"date": date, **_day(counts)} for date, counts in days.items()],
    }


def _requests(counts: Counts) -> dict[str, Any]:
    judged = _n(counts, "ok") + _n(counts, "failed")
    return {
        "requests": _n(counts, "requests"),
        "completed": _n(counts, "ok"),
        "failed": _n(counts, "failed"),
        "client_errors": _n(counts, "client_errors"),
        "cancelled": _n(counts, "cancelled"),
        "success_rate": _share(_n(counts, "ok"), judged),
        "primary_success_rate": _share(_n(counts, "primary_ok"), judged),
        "first_attempt_success_rate": _share(_n(counts, "first_ok"), judged),
        "retries": _n(counts, "retries"),
        "mean_retries_before_success": _mean(_n(counts, "retries_before_ok"), _n(counts, "retried_ok")),
        "avg_response_time_ms": _mean(counts.get("latency_ms", 0.0), _n(counts, "ok")),
    }


def _failovers(counts: Counts) -> dict[str, Any]:
    classes: Mapping[str, int] = counts.get("reasons", {})
    reasons: dict[str, int] = {}
    for name, count in classes.items():
        word = REASONS.get(name, "other")
        reasons[word] = reasons.get(word, 0) + count
    return {
        "requests": _n(counts, "failovers"),
        "dials": counts.get("events", {}).get("failover", 0),
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "classes": dict(sorted(classes.items(), key=lambda item: -item[1])),
    }


def _provider(counts: Counts) -> dict[str, Any]:
    return {
        "attempts": counts.get("attempts", 0),
        "success_rate": _share(counts.get("ok", 0), counts.get("attempts", 0)),
        "errors": dict(sorted(counts.get("errors", {}).items(), key=lambda item: -item[1])),
        "avg_response_time_ms": _mean(counts.get("latency_ms", 0.0), counts.get("ok", 0)),
        "input_tokens": counts.get("input_tokens", 0),
        "output_tokens": counts.get("output_tokens", 0),
        "cost_usd": _usd(counts, "cost_usd"),
    }


def _day(counts: Counts) -> dict[str, Any]:
    told = _requests(counts)
    names = ("requests", "completed", "failed", "primary_success_rate", "mean_retries_before_success")
    return {
        **{name: told[name] for name in names},
        "failovers": _n(counts, "failovers"),
        "reasons": _failovers(counts)["reasons"],
        "retries": _n(counts, "retries"),
        "hedges_sent": _n(counts, "hedges_sent"),
        "degraded": _n(counts, "degraded"),
        "cost_usd": _usd(counts, "cost_usd"),
    }


# Uptime ---------------------------------------------------------------------------------------------------------------


def uptime(days: Mapping[str, Counts], providers: Iterable[str], target: float) -> dict[str, Any]:
    """Share of the time that each provider, and the whole, was up, and what is left of the error budget.

    `target`: the promised share. `providers`: names that are shown first, in this order, even without counts. Only
    watched time counts, and maintenance does not.
    """
    named = {
        name for counts in days.values() for name, each in counts.get("providers", {}).items() if "seconds" in each
    }
    window_s = len(days) * 86_400.0
    whole = {date: counts.get("seconds", {}) for date, counts in days.items()}
    total: Counts = {}
    for counts in days.values():
        add(total, {name: counts.get(name, 0) for name in ("ok", "failed", "announced")})
    return {
        "target": target,
        "overall": {**_up(whole, window_s, target), "requests": _promised(total, target)},
        "providers": [
            {
                "name": name,
                **_up(
                    {
                        date: counts.get("providers", {}).get(name, {}).get("seconds", {})
                        for date, counts in days.items()
                    },
                    window_s,
                    target,
                ),
            }
            for name in dict.fromkeys((*providers, *sorted(name for name in named if name)))
        ],
    }


def _up(by_date: Mapping[str, Mapping[str, float]], window_s: float, target: float) -> dict[str, Any]:
    seconds: Counts = {}
    for each in by_date.values():
        add(seconds, each)
    down_s, allowed_s = seconds.get("down", 0.0), (1.0 - target) * window_s
    return {
        **_minutes(seconds),
        "error_budget": {
            "allowed_minutes": round(allowed_s / 60, 2),
            "left_minutes": round((allowed_s - down_s) / 60, 2),
            "left_percent": round(100.0 * (1.0 - down_s / allowed_s), 2),
        },
        "daily": [{"date": date, **_minutes(each)} for date, each in by_date.items()],
    }


def _minutes(seconds: Mapping[str, float]) -> dict[str, Any]:
    watched = sum(seconds.get(name, 0.0) for name in ("healthy", "degraded", "down"))
    return {
        "uptime_percentage": uptime_percent(seconds),
        "downtime_minutes": round(seconds.get("down", 0.0) / 60, 2),
        "degraded_minutes": round(seconds.get("degraded", 0.0) / 60, 2),
        "maintenance_minutes": round(seconds.get("maintenance", 0.0) / 60, 2),
        "watched_minutes": round(watched / 60, 2),
    }


def _promised(counts: Counts, target: float) -> dict[str, Any]:
    """The same budget by requests: how many might have failed, and how many did, announced refusals left out."""
    failed = _n(counts, "failed") - _n(counts, "announced")
    judged = _n(counts, "ok") + failed
    allowed = (1.0 - target) * judged
    return {
        "judged": judged,
        "failed": failed,
        "success_rate": _share(judged - failed, judged),
        "allowed_failures": round(allowed, 3),
        "left_percent": round(100.0 * (1.0 - failed / allowed), 2) if allowed else None,
    }


def _n(counts: Counts, name: str) -> int:
    return int(counts.get(name, 0))


def _share(part: float, whole: float) -> float | None:
    """None: there is nothing to take a share of."""
    return round(part / whole, 6) if whole else None


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 3) if count else None


def _usd(counts: Counts, name: str) -> float:
    return round(float(counts.get(name, 0.0)), 6)
