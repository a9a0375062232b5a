"""What the replay of recordings of every dialect through the running process has found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import models, registry
from proxy.dialects.anthropic import MessagesReader
from proxy.dialects.chat import Asked, Encoded
from proxy.dialects.openai import ChatReader
from proxy.dialects.translation import Translator


def events(*told: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in told)


def test_a_result_with_a_stop_reason_of_its_own_is_no_end() -> None:
    """Cut behind the advisor's result, a stream of the caller's own dialect was presented as a whole one."""
    block = {"type": "advisor_tool_result", "content": {"text": "4", "stop_reason": "end_turn"}}
    reader = MessagesReader()
    piece = events({"type": "content_block_start", "index": 0, "content_block": block})
    assert reader.scan(piece) == len(piece)
    assert not reader.is_finished
    reader.scan(events({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}))
    assert reader.is_finished
    assert reader.usage == (0, 3)


def test_an_empty_finish_reason_is_no_end() -> None:
    reader = ChatReader()
    reader.scan(b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}\n\n')
    assert not reader.is_finished


@pytest.mark.parametrize("line", [b'error: {"error":{"message":"failed to decode"}}', b'{"error":"failed to decode"}'])
def test_an_error_that_is_no_event_is_told_with_its_reason(line: bytes) -> None:
    """GPUStack ends a stream so; callers of its own dialect were told that the stream had ended early."""
    reader = ChatReader()
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    assert reader.scan(piece + line + b"\n\n") == len(piece)
    assert reader.error is not None
    assert reader.error["message"] == "failed to decode"
    assert ChatReader().tail(line)


@pytest.mark.parametrize("caller", ["responses", "messages"])
def test_comments_before_the_first_chunk_begin_nothing(caller: str) -> None:
    """OpenRouter sends them while it waits; the answer was then opened without the model's name."""
    asked = Asked(body={"stream": True}, created=1, seed="5" * 32, model="asked")
    made = Translator(registry.speaker("chat"), registry.speaker(caller), Encoded(body={}), asked, True)
    assert made.feed(b": OPENROUTER PROCESSING\n\n") == b""
    chunk = {"id": "x", "model": "real", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]}
    told = made.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert b'"model":"real"' in told
    assert b"asked" not in told


def test_a_member_that_the_vendor_refuses_leaves_the_bytes_of_the_others() -> None:
    """The mark for what is taken out was written as a value, which is no JSON: a 500 of ours."""
    facts = models.facts("gpt-5-nano", "openai", "openai", {}, None)
    body = b'{"model": "gpt-5-nano",\n "temperature": 0.2, "messages": []}'
    changes, warnings = registry.adjusted("chat", json.loads(body), facts)
    assert warnings == ("temperature=dropped",)
    assert registry.spliced(body, {**(changes or {}), "model": "m"}) == b'{"model": "m", "messages": []}'


def test_the_default_temperature_of_a_reasoning_model_stays() -> None:
    facts = models.facts("gpt-5-nano", "openai", "openai", {}, None)
    assert registry.adjusted("chat", {"model": "gpt-5-nano", "temperature": 1}, facts) == (None, ())
