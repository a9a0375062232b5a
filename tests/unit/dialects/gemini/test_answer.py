"""Whole answers, counts of tokens and vectors of Gemini."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from proxy.dialects import gemini
from proxy.dialects.chat import (
    Answer,
    Finish,
    ModelFacts,
    NotPortable,
    Opaque,
    Refusal,
    Request,
    Role,
    Text,
    Thinking,
    ToolCall,
    Turn,
    Usage,
)
from tests.unit.dialects.gemini.heard import ASKED

FACTS = ModelFacts(model="gemini-2.5-flash", dialect="gemini")
VERTEX = ModelFacts(model="gemini-2.5-flash", dialect="gemini", vendor="vertex")


def body(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP"}], **more}


def test_an_answer() -> None:
    answer = gemini.read_answer(
        body(
            {"text": "hm", "thought": True},
            {"text": "a", "thoughtSignature": "s"},
            {"text": "b"},
            {"functionCall": {"name": "f"}},
            {"inlineData": {"mimeType": "image/png", "data": "A"}},
            usageMetadata={
                "promptTokenCount": 10,
                "cachedContentTokenCount": 4,
                "toolUsePromptTokenCount": 3,
                "candidatesTokenCount": 2,
                "thoughtsTokenCount": 5,
                "serviceTier": "standard",
            },
            createTime="2026-05-04T20:01:02.264968Z",
            responseId="r",
            modelVersion="m",
        )
    )
    assert answer.parts == (
        Thinking(text="hm", origin="gemini"),
        Text(text="a", signature="s"),
        Text(text="b"),
        ToolCall(id="", name="f", arguments="{}"),
        Opaque(dialect="gemini", kind="inlineData", raw={"inlineData": {"mimeType": "image/png", "data": "A"}}),
    )
    assert (answer.finish, answer.created, answer.id, answer.model) == (Finish.TOOL_CALLS, 1777924862, "r", "m")
    assert answer.service_tier == "standard"
    usage = answer.usage
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (9, 4, 7, 5)  # P43


def test_usage_without_a_prompt_is_told_by_the_sum() -> None:
    usage = gemini.read_answer(body(usageMetadata={"candidatesTokenCount": 1, "totalTokenCount": 20})).usage
    assert usage is not None
    assert (usage.prompt, usage.output, usage.reasoning) == (19, 1, None)
    assert gemini.read_answer(body(usageMetadata={"trafficType": "ON_DEMAND"})).usage is None


def test_an_answer_that_says_nothing_can_be_told() -> None:
    assert gemini.read_answer(body()) == Answer(finish=Finish.STOP)
    broken = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "content": {}}]}
    assert gemini.read_answer(broken) == Answer(finish=Finish.MALFORMED)


def test_only_the_first_candidate_counts() -> None:
    two = body({"text": "a"})
    two["candidates"].append({"index": 1, "content": {"parts": [{"text": "b"}]}})
    assert gemini.read_answer(two).parts == (Text(text="a"),)


def test_faults() -> None:
    assert gemini.fault_in({"error": {"code": 503}}) == {"code": 503}
    assert gemini.fault_in(body()) is None


def test_answers_of_other_dialects_are_written() -> None:
    written = gemini.write_answer(
        Answer(
            parts=(
                Thinking(text="hm", signature="foreign", origin="anthropic"),
                Text(text="a", annotations=({"type": "url_citation", "url_citation": {"url": "u", "end_index": 1}},)),
                Refusal(text="no"),
                ToolCall(id="c", name="f", arguments="{}"),
                Opaque(dialect="messages", kind="x", raw={"type": "x"}),
            ),
            finish=Finish.CONTEXT,
            usage=Usage(input=1, cache_read=2, cache_write=3, output=4),
        ),
        ASKED,
    )
    (candidate,) = written["candidates"]
    assert candidate["content"]["parts"] == [
        {"text": "hm", "thought": True},
        {"text": "a"},
        {"text": "no"},
        {"functionCall": {"name": "f", "args": {}, "id": "c"}},
    ]
    assert candidate["citationMetadata"] == {"citationSources": [{"endIndex": 1, "uri": "u"}]}
    assert candidate["finishReason"] == "MAX_TOKENS"
    assert written["usageMetadata"] == {
        "promptTokenCount": 6, "candidatesTokenCount": 4, "cachedContentTokenCount": 2, "totalTokenCount": 10,
    }  # fmt: skip
    assert written["modelVersion"] == ASKED.model


# Counting and vectors -------------------------------------------------------------------------------------------------


def test_counting() -> None:
    system = Turn(role=Role.SYSTEM, parts=(Text(text="s"),))
    request = Request(dialect="messages", turns=(system, Turn(role=Role.USER, parts=(Text(text="hi"),))))
    inner = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "systemInstruction": {"parts": [{"text": "s"}]}}
    assert gemini.write_count(request, FACTS).body == {
        "generateContentRequest": {"model": "models/gemini-2.5-flash", **inner}
    }
    assert gemini.write_count(request, VERTEX).body == inner
    assert gemini.read_count({"totalTokens": 8}) == 8
    with pytest.raises(ValueError):
        gemini.read_count({})


def test_vectors() -> None:  # P64
    asked = {"model": "x", "input": ["a", "b"], "dimensions": 2, "encoding_format": "base64"}
    one = {"model": "models/gemini-2.5-flash", "outputDimensionality": 2}
    assert gemini.write_embeddings(asked, FACTS).body == {
        "requests": [{**one, "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    }
    vectors = {"embeddings": [{"values": [0.5, 1]}, {"values": [2.0, 3.0]}]}
    got = gemini.read_embeddings(vectors, asked, "m")
    assert [struct.unpack("<2f", base64.b64decode(each["embedding"])) for each in got["data"]] == [(0.5, 1), (2, 3)]
    plain = gemini.read_embeddings({"embeddings": [{"values": [0.5]}]}, {"input": "a"}, "m")
    assert plain == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "model": "m",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    assert gemini.write_embeddings({"input": "a", "user": "u"}, FACTS).warnings == ("user=dropped",)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"input": []},
        {"input": [1, 2]},
        {"input": [["a"]]},
        {"input": "a", "encoding_format": "x"},
        {"input": "a", "z": 1},
    ],
)
def test_vectors_that_cannot_be_asked_for(asked: dict[str, Any]) -> None:
    with pytest.raises(NotPortable):
        gemini.write_embeddings(asked, FACTS)


def test_vertex_has_no_batches() -> None:
    with pytest.raises(NotPortable):
        gemini.write_embeddings({"input": "a"}, VERTEX)


@pytest.mark.parametrize(
    "answer", [{}, {"embeddings": []}, {"embeddings": [{}]}, {"embeddings": [{"values": [1]}] * 2}]
)
def test_vectors_that_are_none(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        gemini.read_embeddings(answer, {"input": "a"}, "m")
