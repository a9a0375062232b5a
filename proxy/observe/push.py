"""The numbers of `/metrics`, pushed: the families of a scrape turned into OpenTelemetry's data.

Nothing is counted twice: what is sent is read where a scrape reads it. OpenTelemetry has no observable histogram and
its Python SDK takes no data of others, so the SDK's reader collects one instrument, and what goes out in its place are
our families.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import Metric as Family

from proxy import __version__

NAMES: Final = {
    "gen_ai_client_operation_duration_seconds": ("gen_ai.client.operation.duration", "s"),
    "gen_ai_client_operation_time_to_first_chunk_seconds": ("gen_ai.client.operation.time_to_first_chunk", "s"),
    "gen_ai_client_token_usage": ("gen_ai.client.token.usage", "{token}"),
    "http_client_request_duration_seconds": ("http.client.request.duration", "s"),
}
"""Families of the conventions -> name and unit there. Others keep their names, which no collector changes."""
_ATTRIBUTES: Final = {
    name.replace(".", "_"): name
    for name in (
        "error.type",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.model",
        "gen_ai.token.type",
        "http.request.method",
        "http.response.status_code",
        "server.address",
        "server.port",
    )
}
_WHOLE: Final = frozenset({"http.response.status_code", "server.port"})
_UNITS: Final = {"_seconds": "s", "_bytes": "By", "_usd": "USD"}


def metric_of(family: Family, began_ns: int, now_ns: int) -> Metric:
    """One family; `began_ns`: since when its counters run."""
    name, unit = NAMES.get(family.name, (family.name, ""))
    unit = unit or next((unit for end, unit in _UNITS.items() if family.name.endswith(end)), "1")
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        data = Histogram(_distributions(family, began_ns, now_ns), AggregationTemporality.CUMULATIVE)
    else:
        points = [NumberDataPoint(_attributes(s.labels), began_ns, now_ns, s.value) for s in family.samples]
        is_counter = family.type == "counter"
        data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if is_counter else Gauge(points)
    return Metric(name, family.documentation, unit, data)


def _attributes(labels: Mapping[str, str]) -> dict[str, Any]:
    """Labels as attributes; an empty label is none."""
    named = ((_ATTRIBUTES.get(label, label), value) for label, value in labels.items() if value and label != "le")
    return {name: int(value) if name in _WHOLE and value.isdigit() else value for name, value in named}


def _distributions(family: Family, began_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """The samples of each label set together again; Prometheus' buckets are cumulative, these are not."""
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[str, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        key = tuple((label, value) for label, value in sample.labels.items() if label != "le")
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((sample.labels["le"], sample.value))
        elif sample.name.endswith("_sum"):
            sums[key] = sample.value
    points = []
    for key, cumulative in buckets.items():
        counts = [int(count) for _, count in cumulative]
        points.append(
            HistogramDataPoint(
                attributes=_attributes(dict(key)),
                start_time_unix_nano=began_ns,
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sums.get(key, 0.0),
                bucket_counts=[upper - lower for lower, upper in zip([0, *counts], counts, strict=False)],
                explicit_bounds=[float(bound) for bound, _ in cumulative[:-1]],
                min=float("nan"),
                max=float("nan"),
            )
        )
    return points


class Replacing(MetricExporter):
    """Sends our families in the place of what the SDK's reader collected; runs in the SDK's thread."""

    def __init__(self, inner: MetricExporter, families: Callable[[], Iterable[Family]]) -> None:
        super().__init__()
        self._inner = inner
        self._families = families
        self._began_ns = time.time_ns()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """See `MetricExporter`."""
        now_ns = time.time_ns()
        resource = metrics_data.resource_metrics[0]
        made = [metric_of(family, self._began_ns, now_ns) for family in self._families()]
        scope = replace(resource.scope_metrics[0], metrics=made)
        sent = MetricsData([replace(resource, scope_metrics=[scope])])
        return self._inner.export(sent, timeout_millis=timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """See `MetricExporter`."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """See `MetricExporter`."""
        self._inner.shutdown(timeout_millis, **kwargs)


def pushing(exporter: MetricExporter, families: Callable[[], Iterable[Family]], resource: Resource) -> MeterProvider:
    """Push every ``OTEL_METRIC_EXPORT_INTERVAL`` (60 s) until it is shut down, once more then."""
    reader = PeriodicExportingMetricReader(Replacing(exporter, families))
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)

    def alive(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(1)

    provider.get_meter("outrider", __version__).create_observable_gauge("outrider_alive", [alive])
    return provider
