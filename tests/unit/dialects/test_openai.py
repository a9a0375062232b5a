from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import sse
from proxy.dialects.openai import ChatReader, EmbeddingsReader, choices_asked, output_limit
from proxy.dialects.reading import Verdict
from proxy.dialects.registry import reader
from tests.unit.dialects import recorded


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    return json.dumps(
        {"choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}, separators=(",", ":")
    ).encode()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (None, Verdict.HOLD),
        (b"", Verdict.HOLD),
        (b"[DONE]", Verdict.DONE),
        (b"not json", Verdict.DROP),
        (b"[1]", Verdict.DROP),
        (b"{}", Verdict.HOLD),
        (b'{"choices":[]}', Verdict.HOLD),
        (b'{"choices":[],"prompt_filter_results":[{}]}', Verdict.HOLD),
        (b'{"choices":null}', Verdict.HOLD),
        (b'{"choices":[null]}', Verdict.HOLD),
        (chunk({"role": "assistant", "content": ""}), Verdict.HOLD),
        (chunk({"role": "assistant", "content": None}), Verdict.HOLD),
        (chunk(None), Verdict.HOLD),
        (chunk({}, "stop"), Verdict.HOLD),
        (chunk({"content": "a"}), Verdict.CONTENT),
        (chunk({"content": " "}), Verdict.CONTENT),
        (chunk({"refusal": "no"}), Verdict.CONTENT),
        (chunk({"reasoning_content": "hm"}), Verdict.CONTENT),
        (chunk({"reasoning": "hm"}), Verdict.CONTENT),
        (chunk({"tool_calls": [{"index": 0}]}), Verdict.CONTENT),
        (chunk({"function_call": {"name": "f"}}), Verdict.CONTENT),
        (chunk({"audio": {"id": "x"}}), Verdict.CONTENT),
        (chunk({}, "length"), Verdict.CONTENT),
        (chunk({}, "tool_calls"), Verdict.CONTENT),
        (chunk({}, "content_filter"), Verdict.CONTENT),
        (b'{"choices":[{"text":"legacy"}]}', Verdict.CONTENT),
        (b'{"error":{"message":"x"}}', Verdict.ERROR),
        (b'{"error":"plain"}', Verdict.ERROR),
        (b'{"error":null,"choices":[]}', Verdict.HOLD),
        (b'{"error":{},"choices":[]}', Verdict.HOLD),
        (b'{"error":{"code":429},"choices":[{"delta":{"content":"x"}}]}', Verdict.ERROR),
    ],
)
def test_event(data: bytes | None, verdict: Verdict) -> None:
    made = ChatReader()
    assert made.event(data) is verdict
    assert (made.error is not None) == (verdict is Verdict.ERROR)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<html>", "not_json"),
        (b"[]", "not_json"),
        (b"{}", "empty"),
        (b'{"choices":[]}', "empty"),
        (b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}', "empty"),
        (b'{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}', "empty"),
        (b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}', ""),
        (b'{"choices":[{"message":{"content":""}},{"message":{"content":"b"}}]}', ""),
        (b'{"choices":[{"message":{"content":null},"finish_reason":"length"}]}', ""),
        (b'{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}', ""),
        (b'{"choices":[{"message":{"content":null,"tool_calls":[{}]},"finish_reason":"tool_calls"}]}', ""),
        (b'{"choices":[{"text":"legacy","finish_reason":"stop"}]}', ""),
        (b'\n  \n{"choices":[{"message":{"refusal":"no"}}]}', ""),
        (b'{"error":{"message":"x"}}', "error"),
        (b'{"error":"x"}', "error"),
        (b'{"error":{"message":"x"},"choices":[{"message":{"content":"a"}}]}', ""),
    ],
)
def test_whole(body: bytes, verdict: str) -> None:
    assert ChatReader().whole(body) == verdict


def test_usage_on_the_last_chunk_with_or_beside_choices() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    for last in (chunk({"content": "b"}, "stop", usage=usage), json.dumps({"choices": [], "usage": usage}).encode()):
        made = ChatReader()
        assert made.event(chunk({"content": "a"}, usage=None)) is Verdict.CONTENT
        assert made.usage is None
        made.scan(event(last))
        assert made.usage == (7, 3)


def test_with_n_choices_the_stream_is_finished_when_all_are() -> None:
    made = ChatReader(2)
    made.event(chunk({"content": "a"}, index=0))
    made.scan(event(chunk({}, "stop", index=0)))
    assert not made.is_finished
    made.scan(event(chunk({"content": "b"}, index=1)) + event(chunk({}, "length", index=1)))
    assert made.is_finished
    assert not made.is_done
    assert made.scan(event(b"[DONE]")) == len(event(b"[DONE]"))
    assert made.is_done


def test_an_end_that_carries_usage_counts_once() -> None:
    made = ChatReader(2)
    made.event(chunk({"content": "a"}))
    made.scan(event(chunk({}, "stop", usage={"prompt_tokens": 7, "completion_tokens": 3})))
    assert made.usage == (7, 3)
    assert not made.is_finished


def test_both_choices_may_end_in_one_event_and_before_the_first_content_too() -> None:
    made = ChatReader(2)
    both = b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"},{"delta":{},"finish_reason":"stop"}]}'
    assert made.event(both) is Verdict.CONTENT
    assert made.is_finished


def test_done_finishes_whatever_was_said_before() -> None:
    made = ChatReader()
    made.event(chunk({"content": "a"}))
    made.scan(event(b"[DONE]"))
    assert made.is_finished


@pytest.mark.parametrize(
    "text",
    ['{"finish_reason":"stop"}', "data: [DONE]\n\n", '"usage":{', '"error"', '\n\ndata: {"error":{"message":1}}'],
)
def test_what_the_model_writes_is_never_taken_for_the_protocol(text: str) -> None:
    made = ChatReader()
    piece = event(chunk({"content": text}))
    assert made.event(sse.data_of(piece)) is Verdict.CONTENT
    assert made.scan(piece) == len(piece)
    assert not made.is_finished
    assert made.error is None
    assert made.usage is None


def test_an_error_after_content_ends_the_clean_part() -> None:
    made = ChatReader()
    made.event(chunk({"content": "a"}))
    clean = event(chunk({"content": "b"})) + event(chunk({}, "stop"))
    piece = clean + event(b'{"error":{"message":"overloaded"}}') + event(b"[DONE]")
    assert made.scan(piece) == len(clean)
    assert made.error == {"message": "overloaded"}
    assert made.is_finished
    assert not made.is_done


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        (b'{"error":{"message":"x"}}', True),
        (b'data: {"error":{"message":"x"}}', True),
        (b'[{"error":{"code":503}}]', True),
        (b'data: {"choices":[]}', False),
        (b"data: {", False),
        (b"", False),
    ],
)
def test_tail(rest: bytes, found: bool) -> None:
    made = ChatReader()
    assert made.tail(rest) is found
    assert (made.error is not None) is found


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b'{"object":"list","data":[{"object":"embedding","embedding":[0.1]}]}', ""),
        (b' {"data":[{"embedding":"AAAA"}]}\n', ""),
        (b'{"object":"list","data":[]}', "empty"),
        (b'{"error":{"message":"x","param":"embedding"}}', "error"),
        (b'{"data":[{"embedding":[0.1', "not_json"),
        (b"", "empty"),
    ],
)
def test_embeddings_whole(body: bytes, verdict: str) -> None:
    assert EmbeddingsReader().whole(body) == verdict


@pytest.mark.parametrize(("n", "asked"), [(None, 1), (1, 1), (3, 3), (0, 1), (-1, 1), (True, 1), ("2", 1), (10**9, 1)])
def test_choices_asked(n: Any, asked: int) -> None:
    assert choices_asked({"n": n}) == asked


def test_output_limit() -> None:
    assert output_limit({}) is None
    assert output_limit({"max_tokens": 5, "max_completion_tokens": 7}) == 7
    assert output_limit({"max_output_tokens": 9}) == 9
    for nonsense in (0, -1, True, "5", None, 1.5):
        assert output_limit({"max_tokens": nonsense}) is None


def test_registry() -> None:
    made = reader("chat", {"n": 2})
    assert isinstance(made, ChatReader)
    made.event(chunk({"content": "a"}, "stop"))
    assert not made.is_finished
    assert isinstance(reader("embeddings", {}), EmbeddingsReader)
    assert reader("raw", {}) is None


def test_recorded_chat_of_all_providers() -> None:
    streams, unary = recorded.check("openai.chat")
    assert streams > 600
    assert unary > 1000


def test_recorded_embeddings() -> None:
    assert recorded.check("openai.embeddings")[1] > 10
