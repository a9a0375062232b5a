"""What a provider says about waiting, in every spelling seen in the field.

The told wait only says *when*; it never makes an outcome retryable. It is read on a rate limit, a spent quota or an
overload and nowhere else: a successful answer may well carry `x-ratelimit-reset-*`, and reading it there would cool
down a healthy target.

What cannot be a wait counts as absent, never as zero: garbage, negative numbers, dates in the past (Linkerd takes those
as 0). `0` itself means "at once". Waits between one day and 32 days are cut to one day instead of being dropped: a
target that says "come back in 30 hours" must not be asked again after the second that an untold wait would give. Longer
ones are taken for a misread number and count as absent.

Dates are read relative to the response's own `Date` header, so that a provider whose clock is an hour off is still
understood.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from proxy.base.outcome import Class

Get = Callable[[str], str | None]
"""Case-insensitive look-up of a header's value."""

TOLD_CLASSES: Final = frozenset({Class.RATE_LIMIT, Class.QUOTA_EXCEEDED, Class.MODEL_OVERLOADED})
DOWNSTREAM_MAX_S: Final = 60.0
DAY_S: Final = 86_400.0
NEVER: Final = -1.0
"""`grpc_pushback`: no retry on this target."""

_ABSURD_S: Final = 32 * DAY_S
_EPOCH_S: Final = 1e9
_EPOCH_MS: Final = 1e12
_TEXT_MAX: Final = 64

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|μs|ns)")
_UNIT_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_CLOCK = "([0-9]{2}:[0-9]{2}:[0-9]{2})"
_WEEKDAY = "(?:[A-Za-z]{3,9},? +)?"
_DATE_FIXED = re.compile(  # Sun, 06 Nov 1994 08:49:37 GMT and Sunday, 06-Nov-94 08:49:37 GMT
    f"{_WEEKDAY}([0-9]{{1,2}})[ -]([A-Za-z]{{3}})[ -]([0-9]{{2}}|[0-9]{{4}}) +{_CLOCK} *(?:GMT|UTC|[+-]0000)"
)
_DATE_C = re.compile(f"{_WEEKDAY}([A-Za-z]{{3}}) +([0-9]{{1,2}}) {_CLOCK} ([0-9]{{4}})")  # Sun Nov  6 08:49:37 1994
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_DIMENSIONS: Final = tuple(
    (f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}")
    for name in (
        "requests",
        "tokens",
        "project-tokens",
        "project-requests",
        "requests-day",
        "requests-hour",
        "requests-minute",
        "tokens-day",
        "tokens-hour",
        "tokens-minute",
        "req-minute",
        "tokens-month",
    )
) + tuple(
    (f"anthropic-{name}-remaining", f"anthropic-{name}-reset")
    for name in (
        "ratelimit-requests",
        "ratelimit-tokens",
        "ratelimit-input-tokens",
        "ratelimit-output-tokens",
        "priority-input-tokens",
        "priority-output-tokens",
    )
)
_GENERIC: Final = (("x-ratelimit-remaining", "x-ratelimit-reset"), ("ratelimit-remaining", "ratelimit-reset"))


def told_wait_s(get: Get, wall_s: float, cls: Class) -> float | None:
    """Seconds (>= 0, at most a day) the headers of an answer of class `cls` tell to wait; None: nothing usable.

    `retry-after-ms` beats `Retry-After`, which beats the reset of an exhausted rate-limit dimension. `wall_s` is the
    local epoch time, used where the answer has no `Date`.
    """
    if cls not in TOLD_CLASSES:
        return None
    for text, scale in ((get("retry-after-ms"), 1e-3), (get("retry-after"), 1.0)):
        if text is None:
            continue
        wait = _plain(text, scale) if scale != 1.0 else parse_wait(text, server_now_s(get, wall_s))
        if wait is not None:
            return wait
    if cls is not Class.RATE_LIMIT:
        return None
    return reset_s(get, server_now_s(get, wall_s))


def server_now_s(get: Get, wall_s: float) -> float:
    """Epoch time of the answer by the sender's own clock (`Date`), else `wall_s`."""
    text = get("date")
    stamp = None if text is None else http_date_s(text)
    return wall_s if stamp is None else stamp


def reset_s(get: Get, wall_s: float) -> float | None:
    """The longest reset of the dimensions of which nothing remains; else the reset that names no dimension."""
    waits = [
        wait
        for remaining, reset in _DIMENSIONS
        if _is_spent(get(remaining)) and (wait := _parse(get(reset), wall_s)) is not None
    ]
    if waits:
        return max(waits)
    for remaining, reset in _GENERIC:
        left = get(remaining)
        if (left is None or _is_spent(left)) and (wait := _parse(get(reset), wall_s)) is not None:
            return wait
    return None


def parse_wait(text: str, wall_s: float) -> float | None:
    """Seconds from `wall_s` (epoch) that `text` means; None: not a wait.

    Plain seconds (`1`, `0.5`), epoch seconds (above 1e9) or milliseconds (above 1e12), Go and protobuf durations
    (`1h2m3.5s`, `120ms`, `38s`), RFC 3339, HTTP dates.
    """
    text = text.strip()
    if not text or len(text) > _TEXT_MAX:
        return None
    if _NUMBER.fullmatch(text):
        value = float(text)
        if value > _EPOCH_MS:
            return _sane(value / 1000.0 - wall_s)
        return _sane(value - wall_s if value > _EPOCH_S else value)
    duration = _duration_s(text)
    if duration is not None:
        return _sane(duration)
    stamp = _rfc3339_s(text)
    if stamp is None:
        stamp = http_date_s(text)
    return None if stamp is None else _sane(stamp - wall_s)


def grpc_pushback(get: Get) -> float | None:
    """`grpc-retry-pushback-ms` in seconds; `NEVER` when it forbids a retry on this target; None: absent.

    What is no number forbids too (gRPC proposal A6).
    """
    text = get("grpc-retry-pushback-ms")
    if text is None:
        return None
    wait = _plain(text, 1e-3)
    return NEVER if wait is None else wait


def sleep_s(told_s: float, rng: Callable[[], float]) -> float:
    """How long a request that waits for a told wait really sleeps: `U(RA, 1.25 * RA + 50 ms)`, never less than told."""
    return told_s + rng() * (0.25 * told_s + 0.05)


def downstream_s(wait_s: float | None, max_s: float = DOWNSTREAM_MAX_S) -> float | None:
    """The wait we tell the caller: 0 to `max_s`, because some client libraries sleep for any value they are given."""
    if wait_s is None or wait_s != wait_s:
        return None
    return min(max(wait_s, 0.0), max_s)


def http_date_s(text: str) -> float | None:
    """Epoch seconds of an HTTP date in any of the three forms of RFC 9110 section 5.6.7; None: not one."""
    text = text.strip()
    if len(text) > _TEXT_MAX:
        return None
    if found := _DATE_FIXED.fullmatch(text):
        day, month, year, clock = found.groups()
    elif found := _DATE_C.fullmatch(text):
        month, day, clock, year = found.groups()
    else:
        return None
    years = int(year)
    if len(year) == 2:
        years += 2000 if years < 70 else 1900
    hour, minute, second = (int(part) for part in clock.split(":"))
    try:
        stamp = datetime(years, _MONTHS.index(month.lower()) + 1, int(day), hour, minute, tzinfo=UTC)
    except ValueError:
        return None
    # Added apart, because a leap second (60) is a legal clock and no legal `datetime`.
    return float(timegm(stamp.utctimetuple())) + min(second, 60)


def _rfc3339_s(text: str) -> float | None:
    if not _RFC3339.fullmatch(text):
        return None
    try:
        stamp = datetime.fromisoformat(text.upper())
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _duration_s(text: str) -> float | None:
    """A Go duration: numbers with units, nothing between them; None: not one."""
    total, at = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != at:
            return None
        total += float(part[1]) * _UNIT_S[part[2]]
        at = part.end()
    return total if at == len(text) and at > 0 else None


def _plain(text: str, scale: float) -> float | None:
    text = text.strip()
    return _sane(float(text) * scale) if len(text) <= _TEXT_MAX and _NUMBER.fullmatch(text) else None


def _parse(text: str | None, wall_s: float) -> float | None:
    return None if text is None else parse_wait(text, wall_s)


def _is_spent(remaining: str | None) -> bool:
    """Whether a `remaining` header says that nothing is left."""
    return remaining is not None and re.fullmatch(r"0+(?:\.0*)?|-[0-9.]+", remaining.strip()) is not None


def _sane(wait_s: float) -> float | None:
    """`wait_s` cut to one day; None when it is negative, absurd or no number."""
    return min(wait_s, DAY_S) if 0.0 <= wait_s <= _ABSURD_S else None
