"""The section `telemetry` and OpenTelemetry's own variables."""

from __future__ import annotations

import pytest

from proxy.config import telemetry
from proxy.config.load import Loaded, load_text
from proxy.config.telemetry import Telemetry

PROVIDERS = "providers: {a: {dialect: openai, base_url: 'http://127.0.0.1:1/v1'}}\n"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}


def loaded(text: str = "", **env: str) -> Loaded:
    return load_text(f"{PROVIDERS}{text}", "f.yaml", env)


def made(text: str = "", **env: str) -> Telemetry:
    found = loaded(text, **env)
    assert found.config is not None, found.errors
    return found.config.telemetry


def test_nothing_is_sent_unless_it_is_asked_for() -> None:
    assert made() == Telemetry()
    assert not made().is_on
    assert made("telemetry: {otlp: {metrics: true}}").is_on


def test_the_file_beats_the_variables_and_those_beat_the_defaults() -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    assert made(**ENDPOINT, **sampler) == Telemetry(traces=True, sample=0.25, obeys_caller=False)
    stated = made("telemetry: {traces: {enabled: false, sample: 0.5}}", **ENDPOINT, **sampler)
    assert stated == Telemetry(traces=False, sample=0.5)
    assert made("telemetry: {otlp: {endpoint: 'http://y:4318/'}}").endpoint == "http://y:4318"
    assert made("telemetry: {traces: {enabled: true}}", OTEL_SDK_DISABLED="true") == Telemetry()


@pytest.mark.parametrize(
    ("name", "share", "obeys"),
    [
        ("always_on", 1.0, False),
        ("parentbased_always_on", 1.0, True),
        ("parentbased_always_off", 0.0, True),
        ("parentbased_traceidratio", 0.05, True),
        ("", 0.05, True),
        ("rate_limiting", 0.05, True),
    ],
)
def test_the_words_of_the_sampler(name: str, share: float, obeys: bool) -> None:
    found = made(OTEL_TRACES_SAMPLER=name)
    assert (found.sample, found.obeys_caller) == (share, obeys)


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_TRACES_SAMPLER": "rate_limiting"},
        {"OTEL_TRACES_SAMPLER_ARG": "5 %"},
        {"OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER_ARG": "nan"},
    ],
)
def test_a_variable_that_cannot_be_obeyed_is_a_warning(env: dict[str, str]) -> None:
    [warning] = loaded(**env).warnings
    assert next(iter(env)) in warning.message
    assert made(**env).sample == 0.05
    assert not loaded("telemetry: {traces: {sample: 0.1}}", **env).warnings


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("ftp://x", "must begin with http:// or https://"),
        ("collector:4318", "must begin with http:// or https://"),
        ("http://user:secret@x:4318", "must not hold a user or password"),
        ("http://x:4318/?a=1", "must not hold '?' or '#'"),
        ("Console", "must begin with http:// or https://"),
    ],
)
def test_a_bad_endpoint_is_refused(endpoint: str, message: str) -> None:
    [error] = loaded(f"telemetry: {{otlp: {{endpoint: '{endpoint}'}}}}").errors
    assert error.path == "telemetry.otlp.endpoint"
    assert error.message.startswith(message)
    assert "secret" not in str(error)


def test_without_the_package_a_file_that_needs_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_can_export", lambda: False)
    [first, second] = loaded("telemetry: {traces: {enabled: true}, otlp: {metrics: true}}").errors
    assert (first.path, second.path) == ("telemetry.traces.enabled", "telemetry.otlp.metrics")
    assert "pip install 'outrider[otlp]'" in first.message
    assert made("telemetry: {traces: {enabled: true}, otlp: {endpoint: console}}").traces
    [warning] = loaded(**ENDPOINT).warnings  # from whoever runs the cluster: no reason not to start
    assert "pip install 'outrider[otlp]'" in warning.message
    assert not made(**ENDPOINT).is_on
