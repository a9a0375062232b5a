"""Everything that leaves through OpenTelemetry: spans, and the numbers of `/metrics`. Imported only when one does.

Sending happens in the SDK's threads. Whatever goes wrong there is a log line at most: no request ever waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from proxy import __version__
from proxy.observe import exposition
from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.observe.peer import Peer
from proxy.observe.threads import in_thread, on_loop
from proxy.observe.traces import Traces

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client.core import Metric

CLOSE_S: Final = 1.0
"""Longest time that sending the rest may take at the end."""
GAUGES_S: Final = 5.0
"""An event loop that has not told its gauges in this time is left alone: the counters go without them."""
SAY_AGAIN_S: Final = 60.0
"""The same complaint of the SDK is written once in so long."""
_POD: Final = {"POD_NAME": "k8s.pod.name", "POD_NAMESPACE": "k8s.namespace.name", "POD_UID": "k8s.pod.uid"}
"""Variables that our manifests fill from the downward API."""


class Complaints(logging.Handler):
    """Lines of the SDK, as lines of our log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self.log = log
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Called in any thread."""
        what = f"{record.module}:{record.lineno}"
        if record.created - self._said.get(what, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[what] = record.created
            self.log.write("warning", "telemetry", reason=record.getMessage()[:300])


def resource(env: Mapping[str, str]) -> Resource:
    """Who sends: ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` beat what we say of ourselves."""
    ours = {"service.name": "outrider", "service.version": __version__}
    ours |= {attribute: env[variable] for variable, attribute in _POD.items() if env.get(variable)}
    stated = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in stated})


def span_exporter(endpoint: str) -> SpanExporter:
    """`endpoint`: see `config.telemetry`."""
    if endpoint == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces" if endpoint else None)


def metric_exporter(endpoint: str) -> MetricExporter:
    """As `span_exporter`."""
    if endpoint == "console":
        return ConsoleMetricExporter(out=sys.stderr, formatter=lambda data: data.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics" if endpoint else None)


class Exports:
    """What is being sent; `take` is the observer of the bus."""

    def __init__(
        self,
        endpoint: str,
        log: Log,
        wall: Callable[[], float],
        peers: Mapping[str, Peer],
        *,
        traces: bool,
        metrics: Metrics | None,
    ) -> None:
        """`metrics` None: they are not sent."""
        self._complaints = Complaints(log)
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self._complaints)
        self._logger.propagate = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_gauges = metrics.gauges if metrics is not None else None
        self._traces: Traces | None = None
        self._meters: MeterProvider | None = None
        about = resource(os.environ)
        if traces:
            self._traces = Traces(span_exporter(endpoint), about, wall, peers)
        if metrics is not None:
            from proxy.observe.push import pushing

            try:
                self._meters = pushing(metric_exporter(endpoint), exposition.families(metrics, self._gauges), about)
            except ValueError as error:  # an interval of 0; whatever else is wrong the SDK replaces by a default
                log.write("error", "metrics are not pushed", reason=str(error)[:300])

    def start(self) -> None:
        """Called on the event loop whose gauges are told; before this none are."""
        self._loop = asyncio.get_running_loop()

    def _gauges(self) -> Iterable[Metric]:
        """Called in the thread that sends."""
        if self._loop is None or self._read_gauges is None:
            return ()
        return on_loop(self._loop, self._read_gauges, GAUGES_S) or ()

    def take(self, event: object) -> None:
        """The observer."""
        if self._traces is not None:
            self._traces.take(event)

    def follow(self, peers: Mapping[str, Peer]) -> None:
        """Take the providers of another configuration."""
        if self._traces is not None:
            self._traces.peers = peers

    def counts(self) -> dict[str, int]:
        """Spans by what became of them: `exported`, `failed`, `dropped`, and `waiting`; empty without traces."""
        traces = self._traces
        if traces is None:
            return {}
        return {
            "exported": traces.exported,
            "failed": traces.failed,
            "dropped": traces.dropped,
            "waiting": traces.waiting,
        }

    async def close(self) -> None:
        """Send what waits, within `CLOSE_S`; a receiver that does not answer is left to threads that end with us."""
        acts: list[Callable[[], None]] = []
        if self._traces is not None:
            acts.append(self._traces.close)
        if self._meters is not None:
            acts.append(self._meters.shutdown)
        if acts:
            await asyncio.wait([in_thread(act, "telemetry close") for act in acts], timeout=CLOSE_S)
        self._logger.removeHandler(self._complaints)
