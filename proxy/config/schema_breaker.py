"""The ``circuit_breaker`` section: the keys of ``X-Circuit-Breaker`` and the further trip rules of the file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.config.section import Section
from proxy.config.section import key as _key
from proxy.config.section import section as _section
from proxy.config.validate import EXCLUDED, FLAG, number, whole, word


class SlidingWindow(Section):
    """What a rate rule looks at."""

    type: Annotated[str | None, word("count", "time")] = _key(None, "Attempts or seconds; count if unstated.")
    size: Annotated[int | None, whole(1, 1024)] = _key(None, "Attempts, or seconds up to 120; 100 if unstated.")


class Machine(Section):
    """Keys of the breaker itself; all unstated: the adaptive trip rule."""

    error_threshold: Annotated[int | None, whole(1, 1024)] = _key(
        None, "Failures within the window that open; 5 when only the window is given. Selects the count rule."
    )
    error_threshold_window: Annotated[float | None, number(0.1, 3600, " seconds")] = _key(
        None, "Length of the window; 60 when only the threshold is given. Selects the count rule."
    )
    timeout: Annotated[float | None, number(0.1, 3600, " seconds")] = _key(
        None, "Time open; 30 under the count rule, else adaptive."
    )
    half_open_requests: Annotated[int | None, whole(1, 10)] = _key(None, "Probes at the same time; 3 if unstated.")
    success_threshold: Annotated[int | None, whole(1, 100)] = _key(None, "Successes that close; 2 if unstated.")
    excluded_errors: Annotated[list[Annotated[str, EXCLUDED]], Field(max_length=32)] | None = _key(
        None, "Classes, sub-names or statuses that are no evidence; none if unstated."
    )
    monitor_latency: Annotated[bool | None, FLAG] = _key(None, "Whether slowness may open; false if unstated.")
    latency_threshold_ms: Annotated[int | None, whole(1, 600_000, " milliseconds")] = _key(
        None, "Slow line; 5000 under the count rule, else learned."
    )
    failureRateThreshold: Annotated[int | None, whole(1, 100, " percent")] = _key(
        None, "Share of failures that opens; 50 if unstated. Selects the rate rule, as do the next four."
    )
    slidingWindow: SlidingWindow = _section(SlidingWindow, "Window of the rate rule.")
    minimumNumberOfCalls: Annotated[int | None, whole(1, 1024)] = _key(
        None, "Nothing opens below it; 100 if unstated, never more than a window of attempts."
    )
    slowCallDurationThreshold: Annotated[int | None, whole(1, 600_000, " milliseconds")] = _key(
        None, "Time to first content from which an attempt is slow; unstated: none is."
    )
    slowCallRateThreshold: Annotated[int | None, whole(1, 100, " percent")] = _key(
        None, "Share of slow attempts that opens; 100 if unstated."
    )
    consecutive: Annotated[int | None, whole(1, 1024)] = _key(
        None, "Failures in a row that open. Selects the consecutive rule."
    )
    waitDurationInOpenState: Annotated[float | None, number(0.1, 3600, " seconds")] = _key(
        None, "Another name of `timeout`."
    )
    permittedNumberOfCallsInHalfOpenState: Annotated[int | None, whole(1, 10)] = _key(
        None, "Another name of `half_open_requests`."
    )
    looser: Annotated[str, word("capped", "never")] = _key(
        "capped", "Whether a header with a looser rule may pass an open circuit, two calls at a time."
    )
    panic: Annotated[bool, FLAG] = _key(False, "With every target refused, try the one that reopens first.")


class Breaker(Machine):
    fallback: Annotated[str, word("error", "cache", "degraded")] = _key(
        "error", "What the caller gets when no target admits the request."
    )
