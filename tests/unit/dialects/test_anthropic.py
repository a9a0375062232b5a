from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.anthropic import MessagesReader
from proxy.dialects.reading import Verdict
from proxy.dialects.registry import reader
from tests.unit.dialects import recorded


def data(kind: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, **more}, separators=(",", ":")).encode()


def event(kind: str, **more: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data(kind, **more) + b"\n\n"


def stopped(reason: str) -> bytes:
    return data("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 4})


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (data("message_start", message={"content": [], "usage": {"input_tokens": 3}}), Verdict.HOLD),
        (data("ping"), Verdict.HOLD),
        (None, Verdict.HOLD),
        (data("content_block_start", content_block={"type": "text", "text": ""}), Verdict.HOLD),
        (data("content_block_start", content_block={"type": "thinking", "thinking": ""}), Verdict.HOLD),
        (data("content_block_start", content_block={"type": "text", "text": "a"}), Verdict.CONTENT),
        (data("content_block_start", content_block={"type": "tool_use", "name": "f", "input": {}}), Verdict.CONTENT),
        (data("content_block_start", content_block={"type": "redacted_thinking", "data": "x"}), Verdict.CONTENT),
        (data("content_block_delta", delta={"type": "text_delta", "text": ""}), Verdict.HOLD),
        (data("content_block_delta", delta={"type": "text_delta", "text": "a"}), Verdict.CONTENT),
        (data("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}), Verdict.CONTENT),
        (data("content_block_delta", delta={"type": "input_json_delta", "partial_json": "{"}), Verdict.CONTENT),
        (data("content_block_delta", delta={"type": "signature_delta", "signature": "x"}), Verdict.CONTENT),
        (data("content_block_stop", index=0), Verdict.HOLD),
        (stopped("end_turn"), Verdict.HOLD),
        (stopped("max_tokens"), Verdict.CONTENT),
        (stopped("tool_use"), Verdict.CONTENT),
        (stopped("refusal"), Verdict.CONTENT),
        (stopped("stop_sequence"), Verdict.CONTENT),
        (data("message_stop"), Verdict.DONE),
        (data("error", error={"type": "overloaded_error", "message": "Overloaded"}), Verdict.ERROR),
        (b"nonsense", Verdict.DROP),
    ],
)
def test_event(told: bytes | None, verdict: Verdict) -> None:
    made = MessagesReader()
    assert made.event(told) is verdict
    assert (made.error is not None) == (verdict is Verdict.ERROR)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"}, ""),
        ({"type": "message", "content": [], "stop_reason": "end_turn"}, "empty"),
        ({"type": "message", "content": [{"type": "text", "text": ""}], "stop_reason": "end_turn"}, "empty"),
        ({"type": "message", "content": [{"type": "tool_use", "name": "f"}], "stop_reason": "end_turn"}, ""),
        ({"type": "message", "content": [], "stop_reason": "refusal"}, ""),
        ({"type": "message", "content": [], "stop_reason": "max_tokens"}, ""),
        ({"type": "message", "content": [], "stop_reason": "stop_sequence"}, ""),
        ({"input_tokens": 12}, ""),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
        ({}, "empty"),
    ],
)
def test_whole(body: dict[str, Any], verdict: str) -> None:
    assert MessagesReader().whole(json.dumps(body).encode()) == verdict


def test_usage_is_cumulative_and_missing_numbers_replace_nothing() -> None:
    made = MessagesReader()
    made.event(data("message_start", message={"usage": {"input_tokens": 30, "output_tokens": 1}}))
    assert made.usage == (30, 1)
    made.event(data("content_block_delta", delta={"type": "text_delta", "text": "a"}))
    made.scan(event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}))
    assert made.usage == (30, 9)
    assert made.is_finished
    assert not made.is_done
    made.scan(event("message_stop"))
    assert made.is_done


def test_an_overload_after_content_is_found() -> None:
    made = MessagesReader()
    made.event(data("content_block_delta", delta={"type": "text_delta", "text": "a"}))
    clean = event("content_block_delta", delta={"type": "text_delta", "text": "b"})
    assert made.scan(clean + event("error", error={"type": "overloaded_error"})) == len(clean)
    assert made.error == {"type": "overloaded_error"}
    assert not made.is_finished


def test_what_the_model_writes_is_never_taken_for_the_protocol() -> None:
    made = MessagesReader()
    for text in ('"stop_reason":"end_turn"', "\nevent: message_stop\ndata: {}", '{"type":"error","error":{"a":1}}'):
        piece = event("content_block_delta", delta={"type": "text_delta", "text": text})
        assert made.scan(piece) == len(piece)
    assert not made.is_finished


def test_registry() -> None:
    assert isinstance(reader("messages", {}), MessagesReader)


def test_recorded_messages_of_all_providers() -> None:
    streams, unary = recorded.check("anthropic.messages")
    assert streams > 150
    assert unary > 300
