"""Our numbers as prometheus_client's families, made anew for each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from proxy import __version__
from proxy.observe.metrics import Histogram, Metrics, Timings
from proxy.observe.peer import Peer
from proxy.observe.spans import OPERATIONS

GEN_AI: Final = (
    *("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model"),
    *("server_address", "server_port"),
)
HTTP: Final = ("server_address", "server_port", "http_request_method", "http_response_status_code", "error_type")


class _Collector:
    """What prometheus_client's registry asks."""

    def __init__(self, metrics: Metrics, gauges: Callable[[], Iterable[Metric]]) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Every family; prometheus_client calls this at a scrape."""
        m = self._metrics
        info = GaugeMetricFamily("outrider_build_info", "Version of the sidecar.", labels=["version"])
        info.add_metric([__version__], 1.0)
        yield info
        for name, text, labels, counts in (
            ("outrider_requests", "Requests by route and outcome for the caller.", ["route", "outcome"], m.requests),
            ("outrider_refused", "Requests refused before any upstream call, by code.", ["code"], m.refused),
            (
                "outrider_attempts",
                "Upstream calls by target, kind and outcome class.",
                ["provider", "model", "kind", "outcome"],
                m.attempts,
            ),
            ("outrider_failovers", "Answers by another target than the primary.", ["route", "reason"], m.failovers),
            ("outrider_hedges", "Extra attempts sent beside a running one.", ["route", "result"], m.hedges),
            (
                "outrider_stream_continuations",
                "Demands to go on with a stream that broke, by what became of the stream.",
                ["route", "result"],
                m.continuations,
            ),
            ("outrider_events_left_out", "Events of streams that were not JSON.", ["provider"], m.left_out),
            (
                "outrider_translated_answers",
                "Answers by a target of another API than the caller's.",
                ["endpoint", "api"],
                m.translated,
            ),
            ("outrider_canary_withdrawn", "Canaries withdrawn, by reason.", ["route", "reason"], m.canary_withdrawn),
            (
                "outrider_cost_usd",
                "What answers cost by the configured prices.",
                ["route", "provider", "model"],
                m.cost,
            ),
            ("outrider_faults_injected", "Faults met on purpose.", ["route", "provider"], m.faults_injected),
            ("outrider_circuit_changes", "Breaker transitions.", ["provider", "model", "to"], m.circuit_changes),
            ("outrider_config_reloads", "Changed files read, by what became of them.", ["result"], m.reloads),
        ):
            family = CounterMetricFamily(name, text, labels=labels)
            for values, count in counts.items():
                family.add_metric(list(values), count)
            yield family
        yield from self._histograms()
        yield from self._gauges()

    def _histograms(self) -> Iterator[Metric]:
        m = self._metrics
        for name, text, labels, timings in (
            ("outrider_request_duration_seconds", "From accept to the last byte.", ["route"], m.duration),
            (
                "outrider_first_content_seconds",
                "From accept to the first content sent on, failed attempts included; streams.",
                ["route"],
                m.first_content,
            ),
            (
                "outrider_attempt_first_content_seconds",
                "From the start of an attempt to its first content.",
                ["provider", "model"],
                m.attempt_first_content,
            ),
        ):
            yield _family(name, text, labels, timings.items())
        for name, text, more, timings in (
            ("gen_ai_client_operation_duration_seconds", "GenAI semantic conventions.", ["error_type"], m.operation),
            (
                "gen_ai_client_operation_time_to_first_chunk_seconds",
                "GenAI semantic conventions; streams.",
                [],
                m.first_chunk,
            ),
            ("gen_ai_client_token_usage", "Tokens as the provider reported them.", ["gen_ai_token_type"], m.tokens),
        ):
            yield _family(name, text, [*GEN_AI, *more], _renamed(timings, self._gen_ai))
        calls = _renamed(m.http_client, self._http)
        yield _family("http_client_request_duration_seconds", "Upstream calls; HTTP semantic conventions.", HTTP, calls)

    def _gen_ai(self, counted: tuple[str, ...]) -> tuple[str, ...]:
        """Endpoint, provider, model and whatever follows, as `GEN_AI` and that."""
        endpoint, provider, model, *rest = counted
        peer = self._peer(provider)
        operation = OPERATIONS.get(endpoint, endpoint)
        return (operation, peer.name, model, model, peer.address, str(peer.port or ""), *rest)

    def _http(self, counted: tuple[str, ...]) -> tuple[str, ...]:
        """Provider, method, status and class of outcome, as `HTTP`."""
        provider, method, status, outcome = counted
        peer = self._peer(provider)
        error = "" if outcome in ("ok", "cancelled") else status if status >= "400" else outcome
        return (peer.address, str(peer.port or ""), method, status, error)

    def _peer(self, provider: str) -> Peer:
        return self._metrics.peers.get(provider) or Peer(name=provider, address=provider)


def _family(
    name: str, text: str, labels: Sequence[str], timings: Iterable[tuple[tuple[str, ...], Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in timings:
        family.add_metric(list(values), buckets=histogram.buckets(), sum_value=histogram.total)
    return family


def _renamed(
    timings: Timings, rename: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> Iterable[tuple[tuple[str, ...], Histogram]]:
    """Labels as we count in those of the conventions. Those tell less apart, so that several become one."""
    made: dict[tuple[str, ...], Histogram] = {}
    for labels, histogram in timings.items():
        made.setdefault(rename(labels), Histogram(timings.bounds)).include(histogram)
    return made.items()


def families(metrics: Metrics, gauges: Callable[[], Iterable[Metric]]) -> Callable[[], Iterator[Metric]]:
    """What a scrape would tell, whenever it is called. Takes milliseconds: call it in a thread, as `gauges` then is."""
    return _Collector(metrics, gauges).collect


def render(metrics: Metrics, gauges: Iterable[Metric] = (), open_metrics: bool = False) -> tuple[bytes, str]:
    """The exposition and its content type: Prometheus text, or OpenMetrics. Takes milliseconds: call it in a thread.

    `gauges`: what `Metrics.gauges` has read.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, lambda: gauges))
    if open_metrics:
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST
