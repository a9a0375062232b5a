"""Log lines: one JSON object each, never in the way of the loop, silent about what went well."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime

import pytest

from proxy.observe import logs
from proxy.observe.logs import Log
from tests.unit.observe.sample import attempt, record

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class Out(io.TextIOWrapper):
    """A stream that keeps bytes; while `gate` is clear, writing to it blocks as a full pipe does."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.blocked = threading.Event()
        outer = self

        class Raw(io.BytesIO):
            def write(self, data: object) -> int:
                if not outer.gate.is_set():
                    outer.blocked.set()
                    assert outer.gate.wait(5)
                return super().write(data)

        super().__init__(Raw(), encoding="utf-8")

    @property
    def lines(self) -> list[str]:
        return self.buffer.getvalue().decode().splitlines()


def logged(log: Log, out: Out) -> list[str]:
    log.close()
    return out.lines


@pytest.fixture
def out() -> Out:
    return Out()


def test_a_line_is_one_json_object_in_utc(out: Out) -> None:
    log = Log(wall=lambda: NOON, out=out)
    log.write("info", "ready", data_port=8711, missing=None, text='a"\n\u2028b', odd={1, 2})
    (line,) = [json.loads(text) for text in out_lines(log, out)]
    assert (line["ts"], line["level"], line["msg"], line["data_port"]) == (
        "2026-11-21T12:00:00.000Z",
        "info",
        "ready",
        8711,
    )
    assert "missing" not in line
    assert line["text"] == 'a"\n\u2028b'


def out_lines(log: Log, out: Out) -> list[str]:
    """By line feed only: other separators may stand inside a text."""
    log.close()
    return out.buffer.getvalue().decode().rstrip("\n").split("\n")


def test_text_lines_hold_no_line_end_of_their_fields(out: Out) -> None:
    log = Log("text", wall=lambda: NOON, out=out)
    log.write("warning", "circuit", target="a/m", reason="first\r\nsecond\x1b[31m\u2028third")
    (line,) = logged(log, out)
    assert line.startswith("2026-11-21T12:00:00.000Z warning circuit target=a/m reason=first")
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["debug", "info", "error"]), ("info", ["info", "error"]), ("error", ["error"])],
)
def test_lines_below_the_level_are_not_written(out: Out, level: str, expected: list[str]) -> None:
    log = Log(out=out)
    log.set_level(level)
    for each in ("debug", "info", "error"):
        log.write(each, "x")
    assert [json.loads(line)["level"] for line in logged(log, out)] == expected


def test_an_unknown_level_is_an_error_and_changes_nothing(out: Out) -> None:
    log = Log(out=out)
    with pytest.raises(KeyError):
        log.set_level("loud")
    log.write("info", "x")
    assert len(logged(log, out)) == 1


def test_a_full_pipe_drops_and_counts_and_never_blocks(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX", 10)
    log = Log(out=out)
    out.gate.clear()
    log.write("info", "stuck")
    assert out.blocked.wait(5)
    for n in range(100):
        log.write("info", "x", n=n)
    assert log.dropped == 90
    out.gate.set()
    assert [json.loads(line).get("n") for line in logged(log, out)] == [None, *range(10)]


def test_a_pipe_that_stays_full_does_not_hold_up_the_end(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX", 5)
    log = Log(out=out)
    out.gate.clear()
    log.write("info", "stuck")
    assert out.blocked.wait(5)
    for _ in range(20):
        log.write("info", "x")
    log.close(timeout_s=0.01)
    out.gate.set()


def test_a_line_that_finds_no_room_is_not_made(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX", 10)
    made = []
    line = Log._line
    monkeypatch.setattr(Log, "_line", lambda self, *of: made.append(of) or line(self, *of))
    log = Log(out=out)
    out.gate.clear()
    log.write("info", "stuck")
    assert out.blocked.wait(5)
    for _ in range(100):
        log.write("info", "x")
    assert (len(made), log.dropped) == (11, 90)
    out.gate.set()
    log.close()


def test_a_closed_pipe_is_counted(out: Out) -> None:
    log = Log(out=out)
    out.close()
    log.write("info", "x")
    log.close()
    assert log.dropped == 1


def test_closing_twice_and_without_a_line_is_fine(out: Out) -> None:
    log = Log(out=out)
    log.close()
    log.write("info", "x")
    log.close()
    log.close()
    assert len(out.lines) == 1


# Requests -------------------------------------------------------------------------------------------------------------


def test_what_went_well_is_not_logged(out: Out) -> None:
    log = Log(out=out)
    log.take(record())
    log.take("no record")
    assert logged(log, out) == []


def test_L71_a_request_that_needed_help_is_one_line_with_its_attempts(out: Out) -> None:
    failed = attempt(detail="timeout.first_byte", outcome="timeout", won=False, end_ms=15_000.4)
    log = Log(out=out)
    log.take(record(attempts=(failed, attempt(provider="b", kind="failover")), failover_reason="timeout"))
    (line,) = [json.loads(text) for text in logged(log, out)]
    assert (line["level"], line["request_id"], line["target"], line["attempt"]) == ("info", "req_1", "b/gpt-4o", 2)
    assert line["attempts"] == ["openai/gpt-4o first timeout.first_byte 15000ms", "b/gpt-4o failover ok 300ms"]
    assert "error" not in line


@pytest.mark.parametrize(
    ("result", "level"),
    [
        ("client_error", "info"),
        ("client_cancelled", "info"),
        ("drained", "info"),
        ("error", "warning"),
        ("timeout", "warning"),
        ("exhausted", "warning"),
        ("truncated", "warning"),
        ("rejected", "warning"),
    ],
)
def test_the_level_says_whose_business_it_is(out: Out, result: str, level: str) -> None:
    log = Log(out=out)
    log.take(record(result=result, attempts=()))
    (line,) = [json.loads(text) for text in logged(log, out)]
    assert (line["level"], line["outcome"]) == (level, result)
    assert "target" not in line
