"""The five JSON headers: their shapes, and reading one strictly.

What a value may be is written once, as a tree of checks from `config/checks`; the ranges are those of `headers.md` and
of `resilience.md` 3.5.6, and the same as in the file. Beyond the checks only what depends on two keys is code here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from proxy.config.checks import (
    Check,
    Place,
    excluded,
    failure,
    failure_class,
    flag,
    label,
    listing,
    number,
    one_or_more,
    plain,
    record,
    series,
    show,
    text,
    whole,
    word,
    word_or_whole,
)

JSON_BYTES_MAX: Final = 8192
"""A JSON header is refused above this size (`headers.md`)."""

# Shapes ---------------------------------------------------------------------------------------------------------------


def _retry_rule(value: Any, at: Place) -> dict[str, Any]:
    rule: dict[str, Any] = _RULE(value, at)
    if rule.get("immediate_failover") and len(rule) > 2:
        other = next(key for key in rule if key not in ("error_type", "immediate_failover"))
        raise at.key(other).wrong("cannot stand beside immediate_failover: true")
    if "wait_ms" in rule and "attempts" in rule:
        raise at.key("wait_ms").wrong("cannot stand beside attempts, which gives the delays itself")
    if "switch_provider_after" in rule and "attempts" not in rule:
        raise at.key("switch_provider_after").wrong("needs attempts beside it")
    return rule


def _jitter(value: Any, at: Place) -> str:
    if isinstance(value, bool):
        return "full" if value else "none"
    if value not in ("full", "equal", "decorrelated", "none"):
        raise at.wrong(f"must be true, false, full, equal, decorrelated or none, got {show(value)}")
    return str(value)


STRATEGIES: Final = ("exponential", "linear", "constant", "immediate", "decorrelated", "custom")
FEATURES: Final = (
    "image_generation",
    "code_execution",
    "web_search",
    "file_search",
    "tools",
    "vision",
    "audio",
    "reasoning",
    "streaming",
)

_RULE: Final = record(
    {
        "error_type": one_or_more(failure),
        "wait_ms": word_or_whole("parse_retry_after_header", 600_000),
        "max_wait_ms": whole(0, 600_000),
        "attempts": series(whole(0, 60_000), most=10),
        "switch_provider_after": whole(1, 10),
        "immediate_failover": flag,
    },
    required=("error_type",),
)

RETRY: Final = record(
    {
        "initial_delay_ms": whole(0, 60_000),
        "max_delay_ms": whole(0, 600_000),
        "multiplier": number(1, 10),
        "max_retries": whole(0, 10),
        "jitter": _jitter,
        "retry_on": listing(failure, most=32, least=0),
        "delays_ms": series(whole(0, 60_000), most=10),
        "strategy": word(*STRATEGIES),
        "rules": series(_retry_rule),
        "max_told_wait_ms": whole(0, 300_000),
    }
)
"""``X-Retry-Config``: the `retry.*` settings under their own names; `error_type` is always a tuple of words."""

_PRIMARY: Final = record({"provider": label, "model": label}, required=("provider",))
_FALLBACK: Final = record(
    {
        "provider": label,
        "model": label,
        "trigger": one_or_more(failure_class),
        "max_latency_increase": number(0, 600_000),
        "reduce_quality": flag,
        "reduce_max_tokens": number(0, 1),
    },
    required=("provider",),
)

FAILOVER: Final = record(
    {
        "primary": _PRIMARY,
        "fallbacks": series(_FALLBACK),
        "health_check_interval": number(1, 3600),
        "failure_threshold": whole(1, 1024),
        "success_threshold": whole(1, 100),
    }
)
"""``X-Failover-Config``; times in the units of the header (ms for `max_latency_increase`, else seconds)."""

BREAKER: Final = record(
    {
        "error_threshold": whole(1, 1024),
        "error_threshold_window": number(0.1, 3600),
        "timeout": number(0.1, 3600),
        "half_open_requests": whole(1, 10),
        "success_threshold": whole(1, 100),
        "excluded_errors": listing(excluded, most=32, least=0),
        "monitor_latency": flag,
        "latency_threshold_ms": whole(1, 600_000),
    }
)
"""``X-Circuit-Breaker``; the bounds are those of `resilience.md` 3.5.6."""

HEDGE: Final = record(
    {
        "strategy": word("latency", "first-success"),
        "providers": listing(label, most=4),
        "delay_ms": word_or_whole("auto", 60_000),
        "cancel_slower": flag,
        "max_additional_cost": number(0, 1000),
    }
)
"""``X-Hedge-Config``."""

_CONDITIONS: Final = ("high_latency", "partial_outage", "rate_limiting")
_ACTIONS: Final[Mapping[str, Check]] = {
    "reduce_quality": record(
        {
            "use_model": label,
            "reduce_max_tokens": number(0, 1),
            "disable_streaming": flag,
            "cache_aggressively": flag,
        }
    ),
    "feature_flags": record(
        {
            "disable_features": listing(word(*FEATURES)),
            "simplify_prompts": flag,
            "use_cached_responses": flag,
            "cache_ttl_multiplier": number(1, 1000),
        }
    ),
    "queue_and_batch": record(
        {
            "batch_size": whole(1, 1000),
            "max_queue_time_ms": whole(0, 600_000),
            "priority_queue": flag,
            "notify_users": flag,
        }
    ),
}


def _as_is(value: Any, at: Place) -> Any:
    return value


_STRATEGY: Final = record(
    {"condition": word(*_CONDITIONS), "action": word(*_ACTIONS), "config": _as_is}, required=("condition", "action")
)


def _strategy(value: Any, at: Place) -> dict[str, Any]:
    """The keys of `config` depend on the action beside it."""
    strategy: dict[str, Any] = _STRATEGY(value, at)
    if "config" in strategy:
        strategy["config"] = _ACTIONS[strategy["action"]](strategy["config"], at.key("config"))
    return strategy


DEGRADED: Final = record(
    {
        "enabled": flag,
        "triggers": listing(word(*_CONDITIONS)),
        "strategies": series(_strategy),
        "user_notification": record({"enabled": flag, "message": text(500), "show_status": flag}),
    }
)
"""``X-Degraded-Mode-Config``."""


# Text to value --------------------------------------------------------------------------------------------------------


class _Twice(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _Twice(key)
        made[key] = value
    return made


def _integer(digits: str) -> int | float:
    """An integer, or a float when it has more digits than any key allows (Python refuses to read 4,301 of them)."""
    return int(digits) if len(digits) <= 18 else float(digits)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_int=_integer)


def read(header: str, value: str, shape: Check) -> dict[str, Any]:
    """The checked content of JSON header `header`, only with the keys that it gives.

    Raises `HeaderError` (400) for a value above `JSON_BYTES_MAX`, for anything but one JSON object, and for what
    `shape` refuses.
    """
    at = Place(header)
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > JSON_BYTES_MAX:
        raise at.wrong(f"must be at most {JSON_BYTES_MAX} bytes, got {size}")
    try:
        decoded = _DECODER.decode(value)
    except _Twice as error:
        raise at.wrong(f'has the key "{plain(error.key)}" twice') from None
    except json.JSONDecodeError as error:
        raise at.wrong(f"must be one JSON object, and is no JSON at character {error.pos + 1}") from None
    except RecursionError:
        raise at.wrong("is nested too deeply") from None
    checked: dict[str, Any] = shape(decoded, at)
    return checked
