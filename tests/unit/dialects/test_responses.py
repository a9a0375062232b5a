from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.reading import Verdict
from proxy.dialects.registry import reader
from proxy.dialects.responses import ResponsesReader
from tests.unit.dialects import recorded

OUTPUT = [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}]
SILENT = [{"type": "reasoning", "summary": []}, {"type": "message", "content": [{"type": "output_text", "text": ""}]}]


def data(kind: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, **more}, separators=(",", ":")).encode()


def event(kind: str, **more: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data(kind, **more) + b"\n\n"


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (data("response.created", response={"status": "in_progress", "output": [], "error": None}), Verdict.HOLD),
        (data("response.in_progress", response={"error": None}), Verdict.HOLD),
        (data("response.queued", response={}), Verdict.HOLD),
        (data("response.output_item.added", item={"type": "message", "content": []}), Verdict.HOLD),
        (data("response.output_item.added", item={"type": "reasoning", "summary": []}), Verdict.HOLD),
        (data("response.output_item.added", item={"type": "function_call", "name": "f"}), Verdict.CONTENT),
        (data("response.output_item.added", item={"type": "web_search_call"}), Verdict.CONTENT),
        (data("response.content_part.added", part={"type": "output_text", "text": ""}), Verdict.HOLD),
        (data("response.output_text.delta", delta="a"), Verdict.CONTENT),
        (data("response.refusal.delta", delta="no"), Verdict.CONTENT),
        (data("response.function_call_arguments.delta", delta="{"), Verdict.CONTENT),
        (data("response.reasoning_summary_text.delta", delta="hm"), Verdict.CONTENT),
        (data("response.completed", response={"output": []}), Verdict.DONE),
        (data("response.completed", response={"output": OUTPUT}), Verdict.CONTENT),
        (data("response.completed", response={"output": SILENT}), Verdict.DONE),
        (data("response.incomplete", response={"output": []}), Verdict.CONTENT),
        (data("response.failed", response={"error": {"code": "server_error"}}), Verdict.ERROR),
        (data("response.failed", response={"error": None}), Verdict.ERROR),
        (data("error", code="rate_limit_exceeded", message="x"), Verdict.ERROR),
        (data("error", error={"code": "x"}), Verdict.ERROR),
        (b'{"error":{"message":"x"}}', Verdict.ERROR),
        (b"[DONE]", Verdict.DONE),
        (b"nonsense", Verdict.DROP),
        (None, Verdict.HOLD),
    ],
)
def test_event(told: bytes | None, verdict: Verdict) -> None:
    made = ResponsesReader()
    assert made.event(told) is verdict
    assert (made.error is not None) == (verdict is Verdict.ERROR)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"object": "response", "status": "completed", "output": OUTPUT, "error": None}, ""),
        ({"object": "response", "status": "completed", "output": [], "error": None}, "empty"),
        ({"object": "response", "status": "completed", "output": SILENT, "error": None}, "empty"),
        ({"object": "response", "status": "completed", "output": [*SILENT, *OUTPUT], "error": None}, ""),
        ({"object": "response", "status": "incomplete", "output": [], "error": None}, ""),
        ({"object": "response", "status": "queued", "output": []}, ""),
        ({"object": "response", "status": "failed", "output": [], "error": {"code": "server_error"}}, "error"),
        ({"object": "response", "status": "failed", "output": []}, "error"),
        ({"error": {"message": "x"}}, "error"),
        ({}, "empty"),
    ],
)
def test_whole(body: dict[str, Any], verdict: str) -> None:
    assert ResponsesReader().whole(json.dumps(body).encode()) == verdict


@pytest.mark.parametrize("end", ["response.completed", "response.incomplete"])
def test_the_end_is_an_event_that_carries_usage(end: str) -> None:
    made = ResponsesReader()
    made.event(data("response.output_text.delta", delta="a"))
    assert not made.is_finished
    piece = event(end, response={"output": OUTPUT, "error": None, "usage": {"input_tokens": 5, "output_tokens": 2}})
    assert made.scan(piece) == len(piece)
    assert made.is_finished
    assert made.usage == (5, 2)
    assert made.error is None


def test_a_failure_after_content_is_found() -> None:
    made = ResponsesReader()
    made.event(data("response.output_text.delta", delta="a"))
    clean = event("response.output_text.delta", delta="b")
    failed = event("response.failed", response={"status": "failed", "error": {"code": "server_error"}})
    assert made.scan(clean + failed) == len(clean)
    assert made.error == {"code": "server_error"}
    assert not made.is_finished


def test_what_the_model_writes_is_never_taken_for_the_protocol() -> None:
    made = ResponsesReader()
    for text in ('"type":"response.completed"', "\nevent: response.completed\n", '"error"'):
        piece = event("response.output_text.delta", delta=text)
        assert made.scan(piece) == len(piece)
    assert not made.is_finished


def test_registry() -> None:
    assert isinstance(reader("responses", {}), ResponsesReader)


def test_recorded_responses_of_all_providers() -> None:
    streams, unary = recorded.check("openai.responses")
    assert streams > 150
    assert unary > 300
