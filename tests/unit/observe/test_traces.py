"""Spans of a finished request, and their way into the SDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from proxy.base.trace import Trace
from proxy.observe.peer import Peer, peer_of
from proxy.observe.record import RequestRecord, Traced
from proxy.observe.spans import Span, spans
from proxy.observe.traces import BATCH, QUEUE_MAX, SCHEMA, Traces
from tests.unit.observe.sample import attempt, record

TRACE = Trace(0x4BF92F3577B34DA6A3CE929D0E0E4736, 7, True, "a=1", first_span=100)
TRACED = Traced(path="/v1/chat/completions", model="gpt-4o", asked={}, circuits=("closed",) * 3)
PEERS = {"openai": Peer(name="openai", address="api.openai.com", port=443)}


def made(traced: Traced = TRACED, **over: Any) -> list[Span]:
    whole = record(trace=TRACE, traced=traced, **over)
    return list(spans(whole, TRACE, traced, PEERS))


def test_a_losing_hedge_and_a_caller_that_left_are_no_errors() -> None:
    lost = attempt(outcome="cancelled", detail="cancelled.superseded", status=0, won=False, first_content_ms=None)
    won = attempt(kind="hedge", provider="other")
    server, operation, first, second = made(attempts=(lost, won), hedges=1, served_by="other")
    assert [span.error for span in (server, operation, first, second)] == [""] * 4
    assert "error.type" not in first.attributes
    assert second.attributes["outrider.attempt.kind"] == "hedge"
    assert operation.attributes["gen_ai.provider.name"] == "other"  # nobody that we know: its own name
    for result in ("client_cancelled", "drained", "client_error"):
        assert made(result=result)[0].error == ""


def test_a_failure_is_told_on_every_level() -> None:
    failed = attempt(outcome="timeout", detail="timeout.first_byte", status=0, won=False, first_content_ms=None)
    server, operation, call = made(
        result="timeout", status=504, attempts=(failed,), served_by="", served_model="", error="timeout.first_byte",
        first_content_ms=None, input_tokens=None, output_tokens=None,
    )  # fmt: skip
    assert {span.error for span in (server, operation, call)} == {"timeout.first_byte"}
    assert call.attributes["error.type"] == "timeout.first_byte"
    assert "http.response.status_code" not in call.attributes
    assert operation.attributes["server.address"] == "api.openai.com"
    assert not {"gen_ai.response.model", "gen_ai.usage.input_tokens"} & set(operation.attributes)


def test_a_request_that_nobody_admitted_has_one_span() -> None:
    [server] = made(result="rejected", status=503, attempts=(), served_by="", first_content_ms=None)
    assert server.error == "rejected"


def test_settings_are_told_as_far_as_a_span_can_hold_them() -> None:
    asked = {"max_tokens": 5, "seed": 1 << 70, "n": 3, "presence_penalty": float("inf"), "top_p": float("nan")}
    operation = made(replace(TRACED, asked=asked))[1]
    told = {name: value for name, value in operation.attributes.items() if name.startswith("gen_ai.request.")}
    assert told == {
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.choice.count": 3,
    }


def test_passthrough_is_named_by_its_method_alone() -> None:
    server, operation, call = made(
        Traced(path="/openai/files", model="", asked={}, circuits=("half_open",)), endpoint="raw", method="GET"
    )
    assert (server.name, operation.name, call.name) == ("GET", "raw", "GET")
    assert server.attributes["url.path"] == "/openai/files"
    assert call.attributes["outrider.breaker.state"] == "half_open"


@pytest.mark.parametrize(
    ("dialect", "vendor", "url", "expected"),
    [
        ("openai", "openai", "https://api.openai.com/v1", Peer(name="openai", address="api.openai.com", port=443)),
        ("openai", "", "http://vllm:8000/v1", Peer(name="mine", address="vllm", port=8000)),
        ("openai", "mistral", "https://api.mistral.ai/v1", Peer(name="mistral_ai", address="api.mistral.ai", port=443)),
        ("azure", "", "https://gateway/x", Peer(name="azure.ai.openai", address="gateway", port=443)),
        ("bedrock", "", "https://b.amazonaws.com", Peer(name="aws.bedrock", address="b.amazonaws.com", port=443)),
        ("anthropic", "vertex", "https://x", Peer(name="gcp.vertex_ai", address="x", port=443)),
        ("anthropic", "", "http://[::1]:81", Peer(name="mine", address="::1", port=81)),
    ],
)
def test_a_provider_in_the_words_of_the_conventions(dialect: str, vendor: str, url: str, expected: Peer) -> None:
    assert peer_of("mine", dialect, vendor, url) == expected


class Slow(SpanExporter):
    """Takes spans when it is let, and fails or raises when it is told to."""

    def __init__(self) -> None:
        self.go = Event()
        self.result: SpanExportResult | None = SpanExportResult.SUCCESS
        self.taken: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go.wait(10)
        if self.result is None:
            raise OSError("no")
        self.taken += spans
        return self.result

    def shutdown(self) -> None:
        self.go.set()


def traced(**over: Any) -> RequestRecord:
    return record(trace=TRACE, traced=TRACED, **over)


def test_what_the_receiver_does_not_take_in_time_is_dropped_and_counted() -> None:
    exporter = Slow()
    traces = Traces(exporter, Resource.get_empty(), lambda: 1000.0, PEERS)
    for _ in range(QUEUE_MAX):
        traces.take(traced())
    assert QUEUE_MAX - 3 < traces.waiting <= QUEUE_MAX
    assert traces.waiting + traces.dropped == 3 * QUEUE_MAX
    exporter.go.set()
    traces.close()
    assert (traces.waiting, traces.exported) == (0, len(exporter.taken))
    assert traces.exported + traces.dropped == 3 * QUEUE_MAX
    traces.take(record())  # not traced: nothing to do, even after the end
    assert traces.waiting == 0


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, None])
def test_what_is_refused_is_counted_as_failed(
    result: SpanExportResult | None, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Slow()
    exporter.result = result
    traces = Traces(exporter, Resource.get_empty(), lambda: 1000.0, PEERS)
    for _ in range(BATCH):
        traces.take(traced())
    exporter.go.set()
    traces.close()
    assert (traces.exported, traces.failed, traces.waiting) == (0, 3 * BATCH, 0)
    assert bool(caplog.records) == (result is None)


def test_the_sdk_gets_the_ids_that_went_out_and_the_times_at_which_things_happened() -> None:
    exporter = Slow()
    exporter.go.set()
    traces = Traces(exporter, Resource.get_empty(), lambda: 1000.0, PEERS)
    traces.take(traced(total_ms=500.0))
    root = replace(TRACE, caller_span=0, state="")
    traces.take(record(trace=root, traced=TRACED))
    traces.close()
    server, operation, call, alone = exporter.taken[:4]
    for span, number in ((server, 100), (operation, 101), (call, 102), (alone, 100)):
        assert span.context is not None
        assert (span.context.trace_id, span.context.span_id) == (TRACE.trace_id, number)
    assert server.instrumentation_scope is not None
    assert (server.instrumentation_scope.name, server.instrumentation_scope.schema_url) == ("outrider", SCHEMA)
    assert server.parent is not None
    assert (server.parent.span_id, server.parent.is_remote) == (7, True)
    assert server.parent.trace_state.to_header() == "a=1"
    assert call.parent is not None
    assert (call.parent.span_id, call.parent.is_remote) == (101, False)
    assert alone.parent is None
    assert (server.start_time, server.end_time) == (int(999.5e9), int(1000e9))
    assert call.end_time == pytest.approx(999.8e9, abs=1e6)
