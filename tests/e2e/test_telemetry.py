"""Traces and numbers through OpenTelemetry, out of the real process into a receiver that decodes them."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import Sidecar, Stage, config, free_port
from tests.e2e.otlp import Receiver, attributes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER_SPAN = "00f067aa0ba902b7"
SERVER, CLIENT = 2, 3
ERROR = 2


def exporting(receiver: Receiver, sample: float, **otlp: Any) -> dict[str, Any]:
    """The section of a file that exports."""
    return {"traces": {"enabled": True, "sample": sample}, "otlp": {"endpoint": receiver.url, **otlp}}


class Scene:
    """A process that traces everything and pushes its numbers, and what has been received of one request."""

    def __init__(self, receiver: Receiver, stage: Stage) -> None:
        self.receiver = receiver
        self.stage = stage

    async def spans(self, trace_id: str, count: int) -> list[Any]:
        """All spans of a trace, once there are so many."""

        def found() -> list[Any]:
            return [span for span in self.receiver.spans if span.trace_id.hex() == trace_id]

        await self.receiver.until(lambda: len(found()) >= count)
        return found()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    env = {"POD_NAME": "web-1", "OTEL_RESOURCE_ATTRIBUTES": "team=chat", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    async with Receiver() as receiver:
        stage = Stage(
            tmp_path_factory.mktemp("telemetry"),
            9,
            entries=lambda providers: {provider.name: {"traceparent": True} for provider in providers[:-1]},
            env=env,
            telemetry=exporting(receiver, 1.0, metrics=True),
        )
        async with stage:
            yield Scene(receiver, stage)


def parent(number: int, flags: str = "01") -> tuple[str, str]:
    """A caller's trace of this number: its id, and its ``traceparent``."""
    trace_id = f"4bf92f3577b34da6a3ce929d0e0e{number:04x}"
    return trace_id, f"00-{trace_id}-{CALLER_SPAN}-{flags}"


async def test_a_failover_is_one_trace_of_four_spans(scene: Scene) -> None:
    a, b = scene.stage.take(2)
    a.script([Fault(status=503)])
    trace_id, context = parent(1)
    sent = {"traceparent": context, "tracestate": "vendor=x", "baggage": "user=1", "X-Max-Retries": "0"}
    answer = await scene.stage.chat(a, b, stream=True, headers=sent, max_tokens=50, temperature=0.5)
    assert answer.status == 200
    server, operation, failed, served = spans = await scene.spans(trace_id, 4)
    assert [span.kind for span in spans] == [SERVER, CLIENT, CLIENT, CLIENT]
    assert [span.name for span in spans] == ["POST /v1/chat/completions", "chat gpt-4o", "POST", "POST"]
    assert server.parent_span_id.hex() == CALLER_SPAN
    assert server.trace_state == "vendor=x"
    assert operation.parent_span_id == server.span_id
    assert {failed.parent_span_id, served.parent_span_id} == {operation.span_id}
    assert len({span.span_id for span in spans}) == 4

    told = attributes(server)
    assert (told["http.request.method"], told["http.route"]) == ("POST", "/v1/chat/completions")
    assert (told["http.response.status_code"], told["outrider.failover.reason"]) == (200, "model_overloaded")
    assert told["outrider.request.id"] == answer.headers["X-Outrider-Request-Id"]
    told = attributes(operation)
    assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("chat", b.name)
    assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("gpt-4o", "gpt-4o")
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (50, 0.5)
    assert told["gen_ai.request.stream"] is True
    assert told["gen_ai.usage.output_tokens"] > 0
    assert 0 < told["gen_ai.response.time_to_first_chunk"] < 5
    told = attributes(failed)
    assert (told["error.type"], told["http.response.status_code"]) == ("503", 503)
    assert (told["outrider.attempt.kind"], told["outrider.breaker.state"]) == ("primary", "closed")
    assert "http.request.resend_count" not in told
    assert failed.status.code == ERROR
    told = attributes(served)
    assert (told["outrider.attempt.kind"], told["http.request.resend_count"]) == ("failover", 1)
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", b.port)
    assert served.status.code == server.status.code == operation.status.code == 0
    assert server.start_time_unix_nano <= operation.start_time_unix_nano <= failed.start_time_unix_nano
    assert failed.end_time_unix_nano <= served.start_time_unix_nano <= served.end_time_unix_nano
    assert abs(server.end_time_unix_nano / 1e9 - time.time()) < 60  # of this day, and not of another clock
    resource = scene.receiver.resources[0]
    assert (resource["service.name"], resource["k8s.pod.name"], resource["team"]) == ("outrider", "web-1", "chat")

    # What went to the providers: the caller's trace, the attempt's own span, nothing else of the context.
    for provider, span in ((a, failed), (b, served)):
        [attempt] = provider.attempts
        assert attempt.header("traceparent") == f"00-{trace_id}-{span.span_id.hex()}-01"
        assert attempt.header("tracestate") is None
        assert attempt.header("baggage") is None
    assert f'traceparent;desc="00-{trace_id}-{server.span_id.hex()}-01"' in answer.headers["Server-Timing"]
    line = await scene.stage.sidecar.line(lambda line: line.get("trace_id") == trace_id)
    assert line["request_id"] == answer.headers["X-Outrider-Request-Id"]


async def test_a_caller_that_does_not_sample_is_obeyed_and_its_context_goes_on_unchanged(scene: Scene) -> None:
    [a], silent = scene.stage.take(1), scene.stage.providers[-1]
    unsampled, context = parent(2, "00")
    await scene.stage.chat(a, headers={"traceparent": context})
    trace_id, sampled = parent(3)
    await scene.stage.chat(silent, headers={"traceparent": sampled})
    # A parent that is none is no reason to refuse, and the trace begins here.
    await scene.stage.chat(a, headers={"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"})
    assert len(await scene.spans(trace_id, 3)) == 3
    assert a.attempts[0].header("traceparent") == context
    assert silent.attempts[0].header("traceparent") is None
    own = (a.attempts[1].header("traceparent") or "").split("-")
    root, _, call = await scene.spans(own[1], 3)
    assert root.parent_span_id == b""
    assert own == ["00", root.trace_id.hex(), call.span_id.hex(), "01"]
    assert await scene.spans(unsampled, 0) == []


async def test_a_stream_that_is_continued_counts_its_spans_on(scene: Scene) -> None:
    a, b = scene.stage.take(2)
    a.script([Fault(cut_after_words=10)])
    trace_id, context = parent(4)
    answer = await scene.stage.chat(
        a, b, stream=True, headers={"traceparent": context, "X-Stream-Recovery": "continue"}
    )
    _, _, broken, following = await scene.spans(trace_id, 4)
    assert len(answer.words) >= 60
    for provider, span in ((a, broken), (b, following)):
        assert provider.attempts[0].header("traceparent") == f"00-{trace_id}-{span.span_id.hex()}-01"
    assert (broken.status.code, following.status.code) == (ERROR, 0)


async def test_a_receiver_that_does_not_answer_costs_no_request_anything(scene: Scene) -> None:
    [a] = scene.stage.take(1)
    await scene.stage.chat(a)
    trace_id, context = parent(5)
    scene.receiver.here.clear()
    try:
        asked = scene.receiver.asked
        answers = [await scene.stage.chat(a, headers={"traceparent": context}) for _ in range(60)]
        assert {answer.status for answer in answers} == {200}
        assert max(answer.took_s for answer in answers) < 1.0  # whoever waits for the receiver waits for its 10 s
        await scene.receiver.until(lambda: scene.receiver.asked > asked)
        samples = await scene.stage.sidecar.metrics()
        assert samples["outrider_spans_waiting"] >= 3 * 60
        assert samples["outrider_observer_failures"] == 0
    finally:
        scene.receiver.here.set()
    assert len(await scene.spans(trace_id, 3 * 60)) == 3 * 60
    assert max(scene.receiver.batches) <= 64


async def test_the_numbers_pushed_are_those_of_a_scrape(scene: Scene) -> None:
    a, b = scene.stage.take(2)
    names = {a.name, b.name}
    a.script([None, Fault(status=503)])
    for _ in range(2):
        await scene.stage.chat(a, b, stream=True, headers={"X-Max-Retries": "0"})

    def points(name: str) -> list[tuple[dict[str, Any], Any]]:
        """Of the two providers."""
        metric = scene.receiver.metrics.get(name)
        if metric is None:
            return []
        found = [(attributes(point), point) for point in getattr(metric, metric.WhichOneof("data")).data_points]
        ports = {a.port, b.port}
        return [
            (told, point) for told, point in found if told.get("provider") in names or told.get("server.port") in ports
        ]

    def attempts() -> dict[tuple[str, str], float]:
        return {(told["provider"], told["outcome"]): point.as_double for told, point in points("outrider_attempts")}

    expected = {(a.name, "ok"): 1.0, (a.name, "model_overloaded"): 1.0, (b.name, "ok"): 1.0}
    await scene.receiver.until(lambda: attempts() == expected)
    scraped = await scene.stage.sidecar.metrics()
    assert scene.receiver.metrics["outrider_attempts"].sum.is_monotonic
    durations = points("gen_ai.client.operation.duration")
    assert scene.receiver.metrics["gen_ai.client.operation.duration"].unit == "s"
    assert {told["gen_ai.provider.name"] for told, _ in durations} == names
    for told, point in durations:
        assert set(told) == {
            *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model"),
            *("server.address", "server.port"),
        }
        assert sum(point.bucket_counts) == point.count == 1
        mark = f'gen_ai_provider_name="{told["gen_ai.provider.name"]}"'
        family = "gen_ai_client_operation_duration_seconds_sum"
        [name] = [name for name in scraped if name.startswith(family) and mark in name]
        assert point.sum == pytest.approx(scraped[name])
    statuses = {
        (told["http.response.status_code"], told.get("error.type", ""))
        for told, _ in points("http.client.request.duration")
    }
    assert statuses == {(200, ""), (503, "503")}
    pushed = {metric.replace(".", "_") for metric in scene.receiver.metrics}
    for family in {re.sub(r"(_total|_bucket|_sum|_count)?(\{.*)?$", "", name) for name in scraped}:
        assert {family, family.removesuffix("_seconds")} & pushed, family


async def test_without_tracing_the_context_goes_through_and_is_told(tmp_path: Path) -> None:
    trace_id, context = parent(6)
    async with FakeProvider(name="a") as a:
        tree = config({"a": a.url}, defaults={"retry": {"max_retries": 0}})
        tree["providers"]["a"]["traceparent"] = True
        async with Sidecar(tree, tmp_path) as sidecar:
            await sidecar.chat(headers={"traceparent": context, "tracestate": "vendor=x"})
            a.default = Fault(status=503)
            failed = await sidecar.chat(headers={"traceparent": context})
            refused = await sidecar.chat(headers={"traceparent": context, "X-Max-Retries": "many"})
            plain = await sidecar.chat()
    assert [attempt.header("traceparent") for attempt in a.attempts] == [context, context, None]
    assert {attempt.header("tracestate") for attempt in a.attempts} == {None}
    assert (failed.status, failed.error["trace_id"]) == (503, trace_id)
    assert (refused.status, refused.error["trace_id"]) == (400, trace_id)
    assert context in refused.headers["Server-Timing"]
    assert "trace_id" not in plain.error
    assert "traceparent" not in plain.headers["Server-Timing"]


async def test_the_share_changes_with_a_reload_and_the_rest_waits(tmp_path: Path) -> None:
    async with Receiver() as receiver, FakeProvider(name="a") as a:
        path = tmp_path / "outrider.yaml"
        tree = config({"a": a.url}, telemetry=exporting(receiver, 0.0))
        tree["providers"]["a"]["traceparent"] = True
        async with Sidecar(tree, tmp_path) as sidecar:
            await sidecar.chat()
            path.write_text(path.read_text().replace("sample: 0.0", "sample: 0.5").replace(receiver.url, "console"))
            async with sidecar.session.post(f"{sidecar.admin}/reload") as response:
                told = await response.json()
            assert told["waits_for_restart"] == ["telemetry.otlp"]
            for _ in range(100):
                await sidecar.chat()
            sampled = sum(attempt.header("traceparent") is not None for attempt in a.attempts)
            await receiver.until(lambda: len(receiver.spans) == 3 * sampled)
    assert 25 <= sampled <= 75  # five standard deviations: once in 1.7 million runs
    assert a.attempts[0].header("traceparent") is None


async def test_what_callers_make_up_makes_no_series_and_the_log_tells_every_request(tmp_path: Path) -> None:
    """A thousand invented models, ids and paths leave as many series as one; what failed over has its line of JSON."""
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        tree = config({"a": a.url, "b": b.url}, telemetry={"log": {"format": "json", "level": "info"}})
        async with Sidecar(tree, tmp_path) as sidecar:

            async def wave(name: str, size: int) -> list[str]:
                a.default = Fault(status=503, message="<b>\nno\u2028")
                answers = [
                    await sidecar.chat(
                        model=f"{name}-{n}-\u00fc<b>", headers={"X-Max-Retries": "0", "X-User-Id": f"{name}-{n}"}
                    )
                    for n in range(size)
                ]
                a.default = None
                for n in range(size):
                    path = f"{sidecar.url}/v1/{name}/{n}"
                    async with sidecar.session.request("PUT", path, data=b"x") as response:
                        await response.read()
                return [answer.headers["X-Outrider-Request-Id"] for answer in answers]

            ids = await wave("first", 10)
            before = {name for name in await sidecar.metrics() if "_bucket" not in name}
            ids += await wave("later", 150)
            after = {name for name in await sidecar.metrics() if "_bucket" not in name}
            await sidecar.terminate()
        assert after == before
        assert not any(mark in name for name in after for mark in ("first-", "later", "\u00fc"))
        told = [line for line in sidecar.lines if line["msg"] == "request" and line.get("failover")]
        assert [line["request_id"] for line in told] == ids
        assert {(line["level"], line["route"], line["status"]) for line in told} == {("info", "default", 200)}


async def test_a_receiver_that_is_not_there_does_not_hold_the_process(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Receiver() as receiver:
        tree = config({"a": a.url}, telemetry=exporting(receiver, 1.0, metrics=True))
        tree["telemetry"]["otlp"]["endpoint"] = f"http://127.0.0.1:{free_port()}"
        async with Sidecar(tree, tmp_path) as sidecar:
            for _ in range(5):
                assert (await sidecar.chat()).status == 200
            began = time.monotonic()
            assert await sidecar.terminate() == 0
            assert time.monotonic() - began < 5.0  # a second for the rest, not the SDK's thirty
    assert {line["msg"] for line in sidecar.lines} <= {"ready", "draining", "telemetry"}


async def test_the_console_gets_spans_as_lines(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Receiver() as receiver:
        tree = config({"a": a.url}, telemetry=exporting(receiver, 1.0))
        tree["telemetry"]["otlp"]["endpoint"] = "console"
        async with Sidecar(tree, tmp_path) as sidecar:
            await sidecar.chat()
            assert await sidecar.terminate() == 0
    kinds = [line["kind"] for line in sidecar.lines if "kind" in line]
    assert kinds == ["SpanKind.SERVER", "SpanKind.CLIENT", "SpanKind.CLIENT"]


async def test_an_endpoint_in_the_environment_is_enough_and_what_waits_is_sent_at_the_end(tmp_path: Path) -> None:
    trace_id, unsampled = parent(7, "00")
    async with Receiver() as receiver, FakeProvider(name="a") as a:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_SERVICE_NAME": "mine",
        }
        async with Sidecar(config({"a": a.url}), tmp_path, env) as sidecar:
            await sidecar.chat(headers={"traceparent": unsampled})
            assert await sidecar.terminate() == 0
        assert receiver.resources[0]["service.name"] == "mine"
        assert [span.trace_id.hex() for span in receiver.spans] == [trace_id] * 3
