"""What tracing costs by itself: ``python -m tests.bench.telemetry``. No sockets, the least of several repetitions.

The process rows of `run` with `telemetry.traces` on hold everything and share the noise of the machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from proxy.base.trace import Trace
from proxy.observe.record import AttemptRecord, RequestRecord, Traced
from proxy.observe.traces import BATCH, QUEUE_MAX, Traces
from proxy.policy.sampler import NeverSampler, Sampler, Settings
from tests.bench.pure import REPEATS, least_us

SHARE = 0.05
CALLS = 10_000
TAKEN = QUEUE_MAX // 3
"""Traced requests that the queue holds; more would be dropped, which costs less."""
ATTEMPT = AttemptRecord(
    provider="openai", model="gpt-4o", region="", kind="first", outcome="ok", detail="ok", status=200,
    start_ms=0.2, end_ms=300.0, first_content_ms=200.0, won=True,
)  # fmt: skip
RECORD = RequestRecord(
    request_id="req_1", route="chat", endpoint="chat", stream=True, result="ok", status=200, total_ms=300.5,
    first_content_ms=200.0, attempts=(ATTEMPT,), served_by="openai", served_model="gpt-4o", failover_reason="",
    hedges=0, input_tokens=100, output_tokens=20, trace=Trace(1 << 100, 7, True, "", 1 << 40),
    traced=Traced(path="/v1/chat/completions", model="gpt-4o", asked={"max_tokens": 100}, circuits=("closed",)),
)  # fmt: skip


class Kept(SpanExporter):
    """Takes everything and sends nothing."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def traced_us() -> tuple[float, list[ReadableSpan]]:
    """Microseconds of the event loop's thread for the spans of one request, and a batch of them."""
    found, batch = [], []
    for _ in range(REPEATS):
        kept = Kept()
        traces = Traces(kept, Resource.create({"service.name": "outrider"}), time.time, {})
        began = time.thread_time_ns()
        for _ in range(TAKEN):
            traces.take(RECORD)
        found.append((time.thread_time_ns() - began) / TAKEN / 1000)
        traces.close()
        batch = kept.spans[:BATCH]
    return min(found), batch


def costs() -> Iterator[tuple[str, float]]:
    """(row, microseconds per request with one attempt)."""
    sampler, never = Sampler(Settings(share=SHARE), random.getrandbits), NeverSampler()
    off = least_us(lambda: never.begin(None), CALLS)
    begun = least_us(lambda: sampler.begin(None), CALLS)
    loop_us, batch = traced_us()
    encoded = least_us(lambda: encode_spans(batch).SerializePartialToString(), 10) / BATCH * 3
    yield "off", off
    yield f"on, not traced (share {SHARE:g}: the choice)", begun
    yield "traced: on the event loop", loop_us
    yield "traced: encoding in the SDK's thread", encoded
    yield f"in all at a share of {SHARE:g}, sending left out", begun + SHARE * (loop_us + encoded)


if __name__ == "__main__":
    for row, us in costs():
        print(f"{row:<52} {us:8.2f} us")
