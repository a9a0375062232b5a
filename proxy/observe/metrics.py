"""Numbers for Prometheus (`ecosystem.md` 6.5): plain counters on the hot path, rendered only when somebody asks.

A bound prometheus_client counter costs 0.3 µs and a histogram 0.8 µs; an integer in a dictionary costs 0.1 µs. So the
numbers are kept in dictionaries and lists, and `exposition` turns them into prometheus_client's families at a scrape.
Labels come from the configuration only: a model that it does not name is ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from proxy.observe.peer import Peer
from proxy.observe.record import AttemptRecord, RequestRecord
from proxy.observe.turns import Turns

if TYPE_CHECKING:
    from prometheus_client.core import Metric

GEN_AI_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

OUTCOMES: Final = (
    "ok",
    "client_error",
    "client_cancelled",
    "error",
    "timeout",
    "exhausted",
    "maintenance",
    "truncated",
    "drained",
)
"""Values of the label ``outcome`` of ``outrider_requests_total``; created at start, because a sum over nothing is
empty."""

UNCOUNTED: Final = frozenset({"client_cancelled", "drained"})
"""Results that are no error of anybody's: whoever asked has left, or was sent away."""

RELOADS: Final = ("ok", "refused", "missing")
"""Values of the label ``result`` of ``outrider_config_reloads_total``."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
"""Values of the label ``http_request_method``; any other method is ``_OTHER``, as the conventions have it."""

LABELS_MAX: Final = 1000
"""Distinct label sets per family; what comes later is counted under ``other``."""


class Histogram:
    """Counts per bucket and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def include(self, other: Histogram) -> None:
        """Add what `other`, of the same bounds, has counted."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        out, running = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            running += count
            out.append((str(float(bound)), float(running)))
        out.append(("+Inf", float(running + self.counts[-1])))
        return out


class Counts:
    """A bounded family of counters by label values."""

    __slots__ = ("_values", "overflowed")

    def __init__(self) -> None:
        self._values: dict[tuple[str, ...], float] = {}
        self.overflowed = 0

    def add(self, labels: tuple[str, ...], by: float = 1.0) -> None:
        values = self._values
        if labels in values:
            values[labels] += by
        elif len(values) < LABELS_MAX:
            values[labels] = by
        else:
            self.overflowed += 1
            other = ("other",) * len(labels)
            values[other] = values.get(other, 0.0) + by

    def items(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return list(self._values.items())


class Timings:
    """A bounded family of histograms by label values."""

    __slots__ = ("_bounds", "_values")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._values: dict[tuple[str, ...], Histogram] = {}

    @property
    def bounds(self) -> tuple[float, ...]:
        return self._bounds

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        found = self._values.get(labels)
        if found is None:
            if len(self._values) >= LABELS_MAX:
                labels = ("other",) * len(labels)
            found = self._values.setdefault(labels, Histogram(self._bounds))
        found.observe(value)

    def items(self) -> Iterable[tuple[tuple[str, ...], Histogram]]:
        return list(self._values.items())


Gauges = Callable[[], "Iterable[Metric | None]"]
"""Families that are read where their numbers live; None is a moment in which other work may be done."""


class Metrics:
    """All numbers of the process. `take` is the observer; `exposition` answers a scrape."""

    def __init__(self, routes: Iterable[str], models: Iterable[str]) -> None:
        """`routes` and `models` are the configured names; any other model is told as ``other``."""
        self._models: frozenset[str] = frozenset()
        self.peers: Mapping[str, Peer] = {}
        """Providers by name, as a scrape tells them in OpenTelemetry's words."""
        self.price: Callable[[str, str], tuple[float, float] | None] = lambda provider, model: None
        """USD per input and output token of a provider's model; None: unknown."""
        self._gauges: list[Gauges] = []
        self.requests = Counts()
        self.follow(routes, models)
        self.reloads = Counts()
        for result in RELOADS:
            self.reloads.add((result,), 0.0)
        self.refused = Counts()
        self.attempts = Counts()
        self.failovers = Counts()
        self.hedges = Counts()
        self.continuations = Counts()
        self.left_out = Counts()
        self.translated = Counts()
        self.circuit_changes = Counts()
        self.canary_withdrawn = Counts()
        self.faults_injected = Counts()
        self.cost = Counts()
        self.duration = Timings(GEN_AI_SECONDS)
        self.first_content = Timings(GEN_AI_SECONDS)
        self.attempt_first_content = Timings(GEN_AI_SECONDS)
        self.operation = Timings(GEN_AI_SECONDS)
        self.first_chunk = Timings(GEN_AI_SECONDS)
        self.tokens = Timings(TOKENS)
        self.http_client = Timings(HTTP_SECONDS)

    def follow(self, routes: Iterable[str], models: Iterable[str]) -> None:
        """Take the names of another configuration. What was counted under the old ones stays: counters never fall."""
        self._models = frozenset(models)
        for route in routes:
            for outcome in OUTCOMES:
                self.requests.add((route, outcome), 0.0)

    def add_gauges(self, gauges: Gauges) -> None:
        """Numbers that are read where they live, at a scrape."""
        self._gauges.append(gauges)

    async def gauges(self) -> list[Metric]:
        """Read the gauges: on the event loop, since what they read is changed there, and in turns."""
        turns = Turns()
        found = []
        for gauges in self._gauges:
            for family in gauges():
                if family is not None:
                    found.append(family)
                await turns.pause()
        return found

    def model(self, name: str) -> str:
        return name if name in self._models else "other"

    # Observing --------------------------------------------------------------------------------------------------------

    def take(self, event: object) -> None:
        """Count one finished request; other events are not counted here."""
        if type(event) is RequestRecord:
            self._request(event)

    def _request(self, record: RequestRecord) -> None:
        route = record.route
        outcome: str = record.result
        if outcome == "rejected":
            outcome = "maintenance" if record.is_announced else "exhausted"
        self.requests.add((route, outcome))
        self.duration.observe((route,), record.total_ms / 1000)
        if record.first_content_ms is not None and record.stream:
            self.first_content.observe((route,), record.first_content_ms / 1000)
        if record.failover_reason:
            self.failovers.add((route, record.failover_reason))
        method = record.method if record.method in METHODS else "_OTHER"
        for attempt in record.attempts:
            self._attempt(attempt, method)
        if record.hedges:
            won = any(a.won and a.kind == "hedge" for a in record.attempts)
            self.hedges.add((route, "won" if won else "lost"), record.hedges)
        if record.continuations and record.result not in ("client_cancelled", "drained"):
            self.continuations.add((route, "whole" if record.result == "ok" else "broken"), record.continuations)
        if record.left_out:
            self.left_out.add((record.served_by,), record.left_out)
        if record.translated:
            self.translated.add((record.endpoint, record.translated))
        if record.served_by:
            self._served(record)
        elif record.attempts and record.result not in UNCOUNTED:
            last = record.attempts[-1]
            error = record.error or record.result
            labels = (record.endpoint, last.provider, self.model(last.model), error)
            self.operation.observe(labels, record.total_ms / 1000)

    def _attempt(self, attempt: AttemptRecord, method: str) -> None:
        model = self.model(attempt.model)
        self.attempts.add((attempt.provider, model, attempt.kind, attempt.outcome))
        self.http_client.observe(
            (attempt.provider, method, str(attempt.status or ""), attempt.outcome),
            (attempt.end_ms - attempt.start_ms) / 1000,
        )
        if attempt.first_content_ms is not None:
            self.attempt_first_content.observe((attempt.provider, model), attempt.first_content_ms / 1000)

    def _served(self, record: RequestRecord) -> None:
        model = self.model(record.served_model)
        labels = (record.endpoint, record.served_by, model)
        error = "" if record.result == "ok" or record.result in UNCOUNTED else record.error or record.result
        self.operation.observe((*labels, error), record.total_ms / 1000)
        if record.stream and record.first_content_ms is not None:
            self.first_chunk.observe(labels, record.first_content_ms / 1000)
        if record.input_tokens is not None:
            self.tokens.observe((*labels, "input"), record.input_tokens)
        if record.output_tokens is not None:
            self.tokens.observe((*labels, "output"), record.output_tokens)
            price = self.price(record.served_by, record.served_model)
            if price is not None:
                cost = (record.input_tokens or 0) * price[0] + record.output_tokens * price[1]
                self.cost.add((record.route, record.served_by, model), cost)
