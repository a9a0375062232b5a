"""`outrider replay`: three kinds of history, and what another configuration makes of them."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import DONE, USAGE, main
from proxy.observe.logs import Log
from proxy.observe.record import AttemptRecord, RequestRecord
from proxy.sim.whatif import history
from proxy.sim.whatif.replay import replay
from proxy.sim.whatif.simulate import configured

BEGIN = 1_700_000_000.0 // 3600 * 3600
COLUMNS = (
    *("id INTEGER PRIMARY KEY", "at REAL", "kind TEXT", "route TEXT", "provider TEXT", "model TEXT", "region TEXT"),
    *("request_id TEXT", "attempt INTEGER", "attempt_kind TEXT", "error TEXT", "status INTEGER", "message TEXT"),
    *("latency_ms REAL", "first_content_ms REAL", "retries INTEGER", "fallback TEXT", "completed INTEGER"),
    *("input_tokens INTEGER", "output_tokens INTEGER", "cost_usd REAL", "detail TEXT"),
)
ALONE = """
providers:
  a: {dialect: openai, base_url: "https://a.test/v1", api_key: "${REPLAY_A}", models: {gpt-4o: gpt-4o}}
routes:
  - {name: chat, targets: [{provider: a}], policy: {retry: {max_retries: 0}}}
"""
BOTH = """
providers:
  a: {dialect: openai, base_url: "https://a.test/v1", api_key: "${REPLAY_A}", models: {gpt-4o: gpt-4o}}
  b: {dialect: openai, base_url: "https://b.test/v1", api_key: "${REPLAY_B}", models: {gpt-4o: gpt-4o}}
routes:
  - {name: chat, targets: [{provider: a}, {provider: b}], policy: {retry: {max_retries: 0}}}
"""


def failed(n: int, at: float, provider: str = "a", error: str = "server_error", took_ms: float = 200.0) -> list[Any]:
    """Entries of a request whose only attempt failed."""
    common = {
        "request_id": f"r{n}", "route": "chat", "provider": provider, "model": "gpt-4o", "error": error,
        "at": at + took_ms / 1000, "latency_ms": took_ms, "completed": False,
    }  # fmt: skip
    detail = {"result": "error", "endpoint": "chat", "stream": True, "attempts": 1}
    return [
        {**common, "id": 2 * n, "kind": "request", "detail": detail},
        {
            **common, "id": 2 * n + 1, "kind": "attempt", "attempt": 1, "attempt_kind": "first", "status": 500,
            "detail": {"start_ms": 0.0, "end_ms": took_ms, "won": False},
        },
    ]  # fmt: skip


def database(path: Path, entries: list[dict[str, Any]], hours: dict[int, dict[str, Any]]) -> str:
    """A history file with the tables that the proxy writes."""
    names = [column.split()[0] for column in COLUMNS]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE entries ({', '.join(COLUMNS)})")
        connection.execute("CREATE TABLE hours (hour INTEGER, run TEXT, counts TEXT)")
        for entry in entries:
            row = {"region": "", "message": "", "fallback": "", **entry, "detail": json.dumps(entry["detail"])}
            marks = ", ".join("?" * len(names))
            connection.execute(f"INSERT INTO entries VALUES ({marks})", [row.get(name) for name in names])
        for hour, counts in hours.items():
            connection.execute("INSERT INTO hours VALUES (?, 'run', ?)", (hour, json.dumps(counts)))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str) -> Any:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        found, problems = configured(str(path))
        assert found is not None, problems
        return found

    return write


def test_a_second_target_would_have_answered_what_failed(tmp_path: Path, config: Any) -> None:
    entries = [entry for n in range(5) for entry in failed(n, BEGIN + 600 + 10 * n)]
    hour = int(BEGIN // 3600)
    past = history.read(database(tmp_path / "history.sqlite", entries, {hour: {"first_ok": 100, "requests": 105}}))
    assert [len(past.requests), past.plain, past.unreadable] == [5, {hour: 100}, 0]

    before = replay(config(ALONE), past, 1, {})
    assert (before.tally.sidecar.requests, before.tally.sidecar.failed, before.tally.alone.failed) == (105, 5, 5)
    after = replay(config(BOTH), past, 1, {})
    assert (after.tally.sidecar.failed, after.tally.alone.failed) == (0, 5)
    assert after.tally.failed_over == 5
    assert any("100 of 105 requests answered" in note for note in after.notes)
    assert any(note.startswith("b/gpt-4o: no good attempt") for note in after.notes)


def test_a_history_says_the_same_twice(tmp_path: Path, config: Any) -> None:
    entries = [
        entry for n in range(8) for entry in failed(n, BEGIN + 60 * n, error="timeout.first_byte", took_ms=15000)
    ]
    past = history.read(database(tmp_path / "h.sqlite", entries, {int(BEGIN // 3600): {"first_ok": 50}}))
    one, two = (replay(config(BOTH), past, 9, {}) for _ in range(2))
    assert one.tally.sidecar.first_content.told() == two.tally.sidecar.first_content.told()
    assert one.tally.attempts == two.tally.attempts


def test_the_json_of_the_events_tells_the_same_as_the_file(tmp_path: Path) -> None:
    entries = [entry for n in range(3) for entry in failed(n, BEGIN + 10 * n)]
    stored = history.read(database(tmp_path / "h.sqlite", entries, {}))
    told = [{**entry, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["at"]))} for entry in entries]
    (tmp_path / "events.json").write_text(json.dumps({"events": told}))
    read = history.read(str(tmp_path / "events.json"))
    assert [(past.id, past.dials[0].outcome) for past in read.requests] == [
        (past.id, past.dials[0].outcome) for past in stored.requests
    ]


def test_lines_of_our_own_log_are_understood(tmp_path: Path) -> None:
    attempts = (
        _attempt("a", "first", "timeout.first_byte", 0.0, 2000.0),
        _attempt("b", "failover", "ok", 2000.0, 2500.0),
    )
    record = RequestRecord(
        request_id="r1", route="chat", endpoint="chat", stream=True, result="ok", status=200, total_ms=2600.0,
        first_content_ms=2300.0, attempts=attempts, served_by="b", served_model="gpt-4o", failover_reason="timeout",
        hedges=0, input_tokens=10, output_tokens=20,
    )  # fmt: skip
    raw = io.BytesIO()
    log = Log(wall=lambda: BEGIN, out=io.TextIOWrapper(raw))
    log.write("info", "started")
    log.take(record)
    log.close()
    path = tmp_path / "log.jsonl"
    path.write_bytes(raw.getvalue())
    (past,) = history.read(str(path)).requests
    assert past.answered
    assert [(dial.target, dial.kind, dial.outcome.name) for dial in past.dials] == [
        ("a/gpt-4o", "first", "timeout.first_byte"),
        ("b/gpt-4o", "failover", "ok"),
    ]
    assert past.at == pytest.approx(BEGIN - 2.6)
    assert past.dials[1].at == pytest.approx(BEGIN - 0.6)


def _attempt(provider: str, kind: str, detail: str, start_ms: float, end_ms: float) -> AttemptRecord:
    return AttemptRecord(
        provider=provider, model="gpt-4o", region="", kind=kind, outcome=detail.partition(".")[0], detail=detail,
        status=0, start_ms=start_ms, end_ms=end_ms, first_content_ms=None, won=detail == "ok",
    )  # fmt: skip


def test_rows_that_tell_nothing_are_counted(tmp_path: Path) -> None:
    entries = [*failed(1, BEGIN), *failed(2, BEGIN, error="no_such_class")]
    past = history.read(database(tmp_path / "h.sqlite", entries, {}))
    assert (len(past.requests), past.unreadable) == (1, 1)


@pytest.mark.parametrize("content", [b"", b"hello", b"[1, 2", b"{}", b"SQLite format 3\x00" + bytes(200)])
def test_what_is_no_history_is_said_to_be_none(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(BOTH)
    (tmp_path / "h").write_bytes(content)
    assert main(["replay", "--config", str(tmp_path / "c.yaml"), str(tmp_path / "h")]) == USAGE
    assert "outrider replay: " in capsys.readouterr().err


def test_the_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(BOTH)
    path = database(tmp_path / "h.sqlite", failed(1, BEGIN), {})
    assert main(["replay", "--config", str(tmp_path / "c.yaml"), "--format", "json", path]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["with_policy"]["failed"] == 0
    assert told["primary_alone"]["failed"] == 1
