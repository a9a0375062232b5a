"""What stands between us and OpenTelemetry's SDK: its complaints, who sends, and that nobody pays for it unasked."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.observe.otel import SAY_AGAIN_S, Complaints, Exports, resource

ROOT = Path(__file__).resolve().parents[3]


class Lines:
    """A log and what was written to it."""

    def __init__(self) -> None:
        self._out = io.TextIOWrapper(io.BytesIO())
        self.log = Log("json", "info", out=self._out)

    def written(self) -> list[dict[str, str]]:
        self.log.close()
        raw = self._out.buffer.getvalue()  # type: ignore[attr-defined]
        return [json.loads(line) for line in raw.splitlines()]


def complaint(line: int, at: float, level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("opentelemetry.sdk", level, "/x/export.py", line, "no %s", ("luck",), None)
    made.created = at
    return made


def test_a_complaint_of_the_sdk_is_a_line_of_ours_once_a_minute() -> None:
    lines = Lines()
    handler = Complaints(lines.log)
    for line, at in ((1, 0.0), (1, 1.0), (2, 1.0), (1, SAY_AGAIN_S), (1, SAY_AGAIN_S + 1)):
        handler.handle(complaint(line, at))
    assert [(line["msg"], line["level"], line["reason"]) for line in lines.written()] == [
        ("telemetry", "warning", "no luck")
    ] * 3


async def test_variables_that_make_no_sense_do_not_stop_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "0")
    lines = Lines()
    exports = Exports("http://127.0.0.1:1", lines.log, lambda: 0.0, {}, traces=True, metrics=Metrics([], []))
    assert exports.counts() == {"exported": 0, "failed": 0, "dropped": 0, "waiting": 0}
    await exports.close()
    written = lines.written()
    assert ("metrics are not pushed", "error") in {(line["msg"], line["level"]) for line in written}
    assert {line["msg"] for line in written} <= {"metrics are not pushed", "telemetry"}
    assert len(written) > 1  # the SDK says what it did not understand


def test_whoever_runs_us_may_say_who_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    found = resource({"POD_NAME": "web-1", "POD_UID": ""}).attributes
    assert (found["service.name"], found["k8s.pod.name"]) == ("outrider", "web-1")
    assert "k8s.pod.uid" not in found
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,k8s.pod.name=theirs")
    found = resource({"POD_NAME": "web-1"}).attributes
    assert (found["service.name"], found["k8s.pod.name"]) == ("mine", "theirs")


def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys\n"
        "from proxy.app import App\n"
        "from proxy.config.load import load_text\n"
        "text = \"providers: {a: {dialect: openai, base_url: 'http://127.0.0.1:1/v1'}}\\n\"\n"
        "App(load_text(text, 'f', {}).config)\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests', 'google'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr
