"""Numbers for Prometheus: the names of the contract, labels that cannot grow, one count per request."""

from __future__ import annotations

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from proxy.observe import exposition
from proxy.observe.metrics import LABELS_MAX, OUTCOMES, Counts, Histogram, Metrics, Timings
from proxy.observe.peer import Peer
from tests.unit.observe.sample import attempt, record

NAMES = {
    "outrider_build_info",
    "outrider_requests",
    "outrider_refused",
    "outrider_attempts",
    "outrider_failovers",
    "outrider_events_left_out",
    "outrider_hedges",
    "outrider_stream_continuations",
    "outrider_translated_answers",
    "outrider_canary_withdrawn",
    "outrider_faults_injected",
    "outrider_cost_usd",
    "outrider_circuit_changes",
    "outrider_config_reloads",
    "outrider_request_duration_seconds",
    "outrider_first_content_seconds",
    "outrider_attempt_first_content_seconds",
    "gen_ai_client_operation_duration_seconds",
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "gen_ai_client_token_usage",
    "http_client_request_duration_seconds",
}


def metrics() -> Metrics:
    made = Metrics(["chat", "other-route"], ["gpt-4o", "claude"])
    made.peers = {
        "openai": Peer(name="openai", address="api.openai.com", port=443),
        "eu": Peer(name="openai", address="eu.api.openai.com", port=443),
        "us": Peer(name="openai", address="api.openai.com", port=443),
    }
    return made


SERVED = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "gpt-4o",
    "gen_ai_response_model": "gpt-4o",
    "server_address": "api.openai.com",
    "server_port": "443",
}
CALLED = {"server_address": "api.openai.com", "server_port": "443", "http_request_method": "POST"}


def samples(made: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = exposition.render(made)[0].decode()
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse(text) for s in family.samples}


def value(made: Metrics, name: str, **labels: str) -> float | None:
    return samples(made).get((name, frozenset(labels.items())))


def test_names_are_those_of_the_contract_in_both_formats() -> None:
    made = metrics()
    made.take(record())
    made.refused.add(("invalid_header",))
    text, kind = exposition.render(made)
    assert {family.name for family in parse(text.decode())} == NAMES
    assert kind.startswith("text/plain")
    text, kind = exposition.render(made, open_metrics=True)
    assert {family.name for family in parse_open(text.decode())} == NAMES
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_all_outcomes_exist_from_the_start() -> None:
    made = metrics()
    for route in ("chat", "other-route"):
        for outcome in OUTCOMES:
            assert value(made, "outrider_requests_total", route=route, outcome=outcome) == 0.0


def test_a_request_counts_once_everywhere() -> None:
    made = metrics()
    made.take(record())
    assert value(made, "outrider_requests_total", route="chat", outcome="ok") == 1.0
    assert value(made, "outrider_attempts_total", provider="openai", model="gpt-4o", kind="first", outcome="ok") == 1.0
    assert value(made, "outrider_request_duration_seconds_count", route="chat") == 1.0
    assert value(made, "outrider_request_duration_seconds_sum", route="chat") == pytest.approx(0.35)
    assert value(made, "outrider_first_content_seconds_sum", route="chat") == pytest.approx(0.21)
    assert value(made, "gen_ai_client_operation_duration_seconds_count", **SERVED, error_type="") == 1.0
    first = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert value(made, f"{first}_sum", **SERVED) == pytest.approx(0.21)
    assert value(made, "gen_ai_client_token_usage_sum", **SERVED, gen_ai_token_type="input") == 100.0
    assert value(made, "gen_ai_client_token_usage_sum", **SERVED, gen_ai_token_type="output") == 20.0
    calls = {**CALLED, "http_response_status_code": "200", "error_type": ""}
    assert value(made, "http_client_request_duration_seconds_count", **calls) == 1.0


def test_what_the_conventions_do_not_tell_apart_becomes_one_series() -> None:
    made = metrics()
    for endpoint, provider in (("chat", "openai"), ("messages", "us"), ("responses", "openai"), ("chat", "eu")):
        made.take(record(endpoint=endpoint, served_by=provider, attempts=(attempt(provider=provider),)))
    duration = "gen_ai_client_operation_duration_seconds"
    assert value(made, f"{duration}_count", **SERVED, error_type="") == 3.0
    assert value(made, f"{duration}_sum", **SERVED, error_type="") == pytest.approx(3 * 0.35)
    assert value(made, f"{duration}_bucket", **SERVED, error_type="", le="0.64") == 3.0
    elsewhere = {**SERVED, "server_address": "eu.api.openai.com"}
    assert value(made, f"{duration}_count", **elsewhere, error_type="") == 1.0
    made.take(record(endpoint="embeddings", served_by="gone"))  # of a configuration that is no longer in force
    unknown = {"gen_ai_operation_name": "embeddings", "gen_ai_provider_name": "gone", "server_address": "gone"}
    assert value(made, f"{duration}_count", **{**SERVED, **unknown, "server_port": ""}, error_type="") == 1.0


def test_failures_are_told_by_their_class_and_leaving_is_none() -> None:
    made = metrics()
    failed = attempt(outcome="server_error", detail="server_error.502", status=502, won=False)
    over = {"attempts": (failed,), "served_by": "", "served_model": "", "first_content_ms": None}
    made.take(record(result="exhausted", error="server_error", **over))
    made.take(record(result="client_cancelled", **over))
    made.take(record(result="truncated"))
    made.take(record(result="drained"))
    duration = "gen_ai_client_operation_duration_seconds_count"
    assert value(made, duration, **SERVED, error_type="server_error") == 1.0
    assert value(made, duration, **SERVED, error_type="truncated") == 1.0
    assert value(made, duration, **SERVED, error_type="") == 1.0
    calls = {**CALLED, "http_response_status_code": "502", "error_type": "502"}
    assert value(made, "http_client_request_duration_seconds_count", **calls) == 2.0


def test_methods_are_bounded() -> None:
    made = metrics()
    for n in range(50):
        made.take(record(method=f"BREW{n}"))
    calls = {**CALLED, "http_request_method": "_OTHER", "http_response_status_code": "200", "error_type": ""}
    assert value(made, "http_client_request_duration_seconds_count", **calls) == 50.0


def test_what_answers_cost_is_counted_where_a_price_is_known() -> None:
    made = metrics()
    made.price = lambda provider, model: (2e-6, 8e-6) if provider == "openai" else None
    for provider in ("openai", "openai", "eu"):
        made.take(record(served_by=provider))
    cost = {"route": "chat", "provider": "openai", "model": "gpt-4o"}
    assert value(made, "outrider_cost_usd_total", **cost) == pytest.approx(2 * (100 * 2e-6 + 20 * 8e-6))
    assert len([key for key in samples(made) if key[0] == "outrider_cost_usd_total"]) == 1


def test_a_unary_answer_has_no_first_chunk() -> None:
    made = metrics()
    made.take(record(stream=False))
    assert not [key for key in samples(made) if key[0].startswith("outrider_first_content_seconds_")]
    assert not [key for key in samples(made) if "time_to_first_chunk" in key[0] and key[0].endswith("_count")]


def test_continuations_translations_and_events_left_out_are_counted() -> None:
    made = metrics()
    made.take(record(continuations=2, left_out=3, served_by="b", translated="generate"))
    made.take(record(continuations=1, result="truncated", served_by="b"))
    assert value(made, "outrider_stream_continuations_total", route="chat", result="whole") == 2.0
    assert value(made, "outrider_stream_continuations_total", route="chat", result="broken") == 1.0
    assert value(made, "outrider_events_left_out_total", provider="b") == 3.0
    assert value(made, "outrider_translated_answers_total", endpoint="chat", api="generate") == 1.0


def test_failovers_and_hedges_are_told_by_reason_and_result() -> None:
    made = metrics()
    failed = attempt(outcome="timeout", detail="timeout.first_byte", status=0, first_content_ms=None, won=False)
    won = attempt(provider="b", kind="hedge")
    made.take(record(attempts=(failed, won), failover_reason="timeout", hedges=1, served_by="b"))
    assert value(made, "outrider_failovers_total", route="chat", reason="timeout") == 1.0
    assert value(made, "outrider_hedges_total", route="chat", result="won") == 1.0
    assert value(made, "outrider_attempts_total", provider="b", model="gpt-4o", kind="hedge", outcome="ok") == 1.0
    lost = {**CALLED, "http_response_status_code": "", "error_type": "timeout"}
    assert value(made, "http_client_request_duration_seconds_count", **lost) == 1.0


def test_nobody_answered() -> None:
    made = metrics()
    made.take(record(result="rejected", attempts=(), served_by="", served_model="", first_content_ms=None))
    assert value(made, "outrider_requests_total", route="chat", outcome="exhausted") == 1.0
    assert not [key for key in samples(made) if key[0].startswith("gen_ai_client_operation_duration_seconds_")]


@pytest.mark.parametrize(
    ("skipped", "outcome"),
    [
        ((("a", "maintenance"),), "maintenance"),
        ((("a", "maintenance"), ("b", "maintenance"), ("c", "trigger")), "maintenance"),
        ((("a", "maintenance"), ("b", "circuit_open")), "exhausted"),
        ((("a", "drained"),), "exhausted"),
        ((), "exhausted"),
    ],
)
def test_what_only_announced_maintenance_turned_away_is_counted_apart(
    skipped: tuple[tuple[str, str], ...], outcome: str
) -> None:
    made = metrics()
    made.take(record(result="rejected", attempts=(), served_by="", served_model="", skipped=skipped))
    assert value(made, "outrider_requests_total", route="chat", outcome=outcome) == 1.0


def test_other_events_are_not_counted() -> None:
    made = metrics()
    before = samples(made)
    for event in (None, 1, "record", object()):
        made.take(event)
    assert samples(made) == before


def test_a_model_that_the_configuration_does_not_name_is_other() -> None:
    made = metrics()
    for n in range(50):
        made.take(record(served_model=f"m-{n}", attempts=(attempt(model=f"m-{n}"),)))
    text = exposition.render(made)[0].decode()
    assert set(re.findall(r'[^_]model="([^"]*)"', text)) == {"other"}
    assert value(made, "outrider_attempts_total", provider="openai", model="other", kind="first", outcome="ok") == 50.0


def test_labels_are_bounded_and_the_rest_is_still_counted() -> None:
    counts, timings = Counts(), Timings((1.0,))
    for n in range(LABELS_MAX * 2):
        counts.add((f"a-{n}", "b"))
        timings.observe((f"a-{n}",), 0.5)
    assert len(list(counts.items())) <= LABELS_MAX + 1
    assert len(list(timings.items())) <= LABELS_MAX + 1
    assert sum(count for _, count in counts.items()) == LABELS_MAX * 2
    assert dict(counts.items())["other", "other"] == LABELS_MAX
    assert counts.overflowed == LABELS_MAX
    assert sum(histogram.counts[0] for _, histogram in timings.items()) == LABELS_MAX * 2


def test_names_with_any_character_survive_the_exposition() -> None:
    made = Metrics(['r"\n\\'], [])
    made.take(record(route='r"\n\\'))
    assert value(made, "outrider_requests_total", route='r"\n\\', outcome="ok") == 1.0


@pytest.mark.parametrize(
    ("observed", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (2.5, 2), (1e30, 2), (float("inf"), 2)]
)
def test_a_bound_belongs_to_its_bucket(observed: float, bucket: int) -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(observed)
    assert histogram.counts.index(1) == bucket


def test_buckets_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for number in (0.5, 1.5, 1.5, 9.0):
        histogram.observe(number)
    assert histogram.buckets() == [("1.0", 1.0), ("2.0", 3.0), ("+Inf", 4.0)]


async def test_gauges_are_read_at_the_scrape() -> None:
    from prometheus_client.core import GaugeMetricFamily

    made, now = metrics(), [1.0]
    made.add_gauges(lambda: [None, GaugeMetricFamily("outrider_test", "x", value=now[0])])
    assert b"outrider_test 1.0" in exposition.render(made, await made.gauges())[0]
    now[0] = 2.0
    assert b"outrider_test 2.0" in exposition.render(made, await made.gauges())[0]
