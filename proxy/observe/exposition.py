"""Our numbers as prometheus_client's families, made anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from proxy import __version__
from proxy.observe.metrics import Metrics


class _Collector:
    """What prometheus_client's registry asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

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
            ("outrider_faults_injected", "Faults met on purpose.", ["route", "provider"], m.faults_injected),
            ("outrider_circuit_changes", "Breaker transitions.", ["provider", "model", "to"], m.circuit_changes),
            ("outrider_config_reloads", "Changed files read, by what became of them.", ["result"], m.reloads),
        ):
            family = CounterMetricFamily(name, text, labels=labels)
            for values, count in counts.items():
                family.add_metric(list(values), count)
            yield family
        yield from self._histograms()
        for gauges in m.gauges:
            yield from gauges()

    def _histograms(self) -> Iterator[Metric]:
        m = self._metrics
        gen_ai = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model"]
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
            ("gen_ai_client_operation_duration_seconds", "GenAI semantic conventions.", gen_ai, m.operation),
            (
                "gen_ai_client_operation_time_to_first_chunk_seconds",
                "GenAI semantic conventions; streams.",
                gen_ai,
                m.first_chunk,
            ),
            (
                "gen_ai_client_token_usage",
                "Tokens as the provider reported them.",
                [*gen_ai, "gen_ai_token_type"],
                m.tokens,
            ),
            (
                "http_client_request_duration_seconds",
                "Upstream calls; HTTP semantic conventions.",
                ["server_address", "http_response_status_code"],
                m.http_client,
            ),
        ):
            family = HistogramMetricFamily(name, text, labels=labels)
            for values, histogram in timings.items():
                family.add_metric(list(values), buckets=histogram.buckets(), sum_value=histogram.total)
            yield family


def render(metrics: Metrics, open_metrics: bool = False) -> tuple[bytes, str]:
    """The exposition and its content type: Prometheus text, or OpenMetrics. Takes milliseconds: call it in a thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    if open_metrics:
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST
