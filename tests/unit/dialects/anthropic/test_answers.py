"""Whole answers, read for other callers and written for Messages callers."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.anthropic import fault_in, read_answer, write_answer
from proxy.dialects.anthropic.platform import adapt
from proxy.dialects.chat import (
    Answer,
    Asked,
    Finish,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from tests.unit.dialects.anthropic.heard import ASKED


def message(*content: dict[str, Any], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 5}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": list(content),
            "stop_reason": stop, "stop_sequence": None, "usage": usage, **more}  # fmt: skip


def written(*parts: Part, asked: Asked = ASKED, **more: Any) -> dict[str, Any]:
    return write_answer(Answer(parts=parts, **more), asked)


USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
SERVER = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"q": "x"}}


# Reading --------------------------------------------------------------------------------------------------------------


def test_an_answer_with_everything() -> None:
    answer = read_answer(
        message(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "r"},
            {"type": "text", "text": "a"},
            SERVER,
            USE,
            stop="tool_use",
            usage={
                "input_tokens": 3,
                "cache_read_input_tokens": 10,
                "cache_creation_input_tokens": 20,
                "output_tokens": 5,
                "output_tokens_details": {"thinking_tokens": 2},
                "service_tier": "standard",
            },
        )
    )
    assert answer.parts == (
        Thinking(text="hm", signature="s", origin="anthropic"),
        Thinking(redacted="r", origin="anthropic"),
        Text(text="a"),
        Opaque(dialect="messages", kind="server_tool_use", raw=SERVER),
        ToolCall(id="toolu_1", name="f", arguments='{"a":1}'),
    )
    assert answer.finish is Finish.TOOL_CALLS
    assert answer.usage is not None
    assert (answer.usage.input, answer.usage.cache_read, answer.usage.cache_write) == (3, 10, 20)
    assert (answer.usage.prompt, answer.usage.output, answer.usage.reasoning) == (33, 5, 2)
    assert (answer.id, answer.model, answer.service_tier) == ("msg_1", "claude", "standard")


@pytest.mark.parametrize(
    ("stop", "content", "finish"),
    [
        ("end_turn", [], Finish.STOP),
        ("end_turn", [USE], Finish.TOOL_CALLS),
        ("tool_use", [SERVER], Finish.STOP),
        ("max_tokens", [USE], Finish.LENGTH),
        ("stop_sequence", [], Finish.STOP_SEQUENCE),
        ("model_context_window_exceeded", [], Finish.CONTEXT),
        ("pause_turn", [SERVER], Finish.PAUSE),
        ("refusal", [], Finish.CONTENT_FILTER),
        ("brand_new", [], Finish.UNKNOWN),
        (None, [], Finish.UNKNOWN),
    ],
)
def test_finish(stop: Any, content: list[dict[str, Any]], finish: Finish) -> None:
    assert read_answer(message(*content, stop=stop)).finish is finish


def test_a_refusal_is_told_in_words_and_keeps_its_details() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "not this"}
    answer = read_answer(message(stop="refusal", stop_details=details))
    assert [part.text for part in answer.parts if isinstance(part, Refusal)] == ["not this"]
    again = write_answer(answer, ASKED)
    assert (again["content"], again["stop_reason"], again["stop_details"]) == ([], "refusal", details)
    silent = read_answer(message(stop="refusal"))
    assert [part.text for part in silent.parts if isinstance(part, Refusal)] == ["refused"]
    assert write_answer(silent, ASKED)["content"] == []


def test_citations() -> None:
    web = {"type": "web_search_result_location", "url": "https://x", "title": "X", "cited_text": "c"}
    page = {"type": "page_location", "cited_text": "c", "document_index": 0}
    body = message({"type": "text", "text": "ab"}, {"type": "text", "text": "cde", "citations": [web, page]})
    answer = read_answer(body)
    cited = answer.parts[1]
    assert isinstance(cited, Text)
    assert cited.annotations == (
        {
            "type": "url_citation",
            "url_citation": {"url": "https://x", "title": "X", "start_index": 2, "end_index": 5},
        },
    )
    assert write_answer(answer, ASKED)["content"] == body["content"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"content": None, "usage": None},
        {"content": ["x", {}, {"type": "text"}, {"type": "tool_use"}, {"type": None}], "usage": {"input_tokens": None}},
        {"content": "plain", "stop_reason": 3, "usage": []},
    ],
)
def test_answers_with_holes(body: dict[str, Any]) -> None:
    answer = read_answer(body)
    assert write_answer(answer, ASKED)["type"] == "message"
    if body.get("content") == "plain":
        assert answer.parts == (Text(text="plain"),)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "overloaded_error"),
        ({"type": "error", "message": "m"}, "error"),
        ({"message": "m"}, None),
        ({"Output": {"__type": "com.amazon#UnknownOperationException"}, "Version": "1.0"}, None),
        (message({"type": "text", "text": "a"}), "none"),
        ({"input_tokens": 3}, "none"),
        ({"id": "x"}, "none"),
    ],
)
def test_faults(body: dict[str, Any], kind: str | None) -> None:
    found = fault_in(body)
    assert (found is None) == (kind == "none")
    if found is not None:
        assert found.get("type") == kind
        assert isinstance(found["message"], str)


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_foreign_answer() -> None:
    body = written(
        Thinking(text="foreign"),
        Text(text="a"),
        ToolCall(id="", name="f", arguments=""),
        ToolCall(id="call_2", name="g", arguments='{"n":1}'),
        id="chatcmpl-7",
        usage=Usage(input=3, cache_read=10, cache_write=1, output=5, reasoning=2),
    )
    assert body == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "toolu_0123456789abcdef01234500", "name": "f", "input": {}},
            {"type": "tool_use", "id": "call_2", "name": "g", "input": {"n": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 10,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def test_usage_of_responses_is_not_taken_for_anthropics() -> None:
    raw = {"input_tokens": 13, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 5, "total_tokens": 18}
    body = written(Text(text="a"), usage=Usage(input=3, cache_read=10, output=5, raw=raw))
    assert body["usage"]["input_tokens"] == 3
    assert "total_tokens" not in body["usage"]
    assert written(Text(text="a"))["usage"]["output_tokens"] == 0


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "no json"])
def test_p27_arguments_that_are_no_object_can_still_be_read(arguments: str) -> None:
    body = written(ToolCall(id="c", name="f", arguments=arguments))
    assert body["content"][0]["input"] == {"_raw": arguments}


@pytest.mark.parametrize(
    ("finish", "parts", "reason"),
    [
        (Finish.STOP, (Text(text="a"),), "end_turn"),
        (Finish.STOP, (ToolCall(id="c", name="f", arguments=""),), "tool_use"),
        (Finish.STOP, (Refusal(text="no"),), "refusal"),
        (Finish.UNKNOWN, (Text(text="a"),), "end_turn"),
        (Finish.MALFORMED, (Text(text="a"),), "end_turn"),
        (Finish.LENGTH, (ToolCall(id="c", name="f", arguments=""),), "max_tokens"),
        (Finish.CONTEXT, (Text(text="a"),), "model_context_window_exceeded"),
        (Finish.CONTENT_FILTER, (), "refusal"),
        (Finish.PAUSE, (), "pause_turn"),
        (Finish.STOP_SEQUENCE, (Text(text="a"),), "stop_sequence"),
    ],
)
def test_p9_stop_reasons(finish: Finish, parts: tuple[Part, ...], reason: str) -> None:
    assert written(*parts, finish=finish)["stop_reason"] == reason


def test_a_foreign_refusal() -> None:
    body = written(Refusal(text="I will not"))
    assert body["content"] == [{"type": "text", "text": "I will not"}]
    assert body["stop_details"] == {"type": "refusal", "category": None, "explanation": "I will not"}


def test_nothing_is_made_up() -> None:
    assert written(Text(text=""))["content"] == [{"type": "text", "text": ""}]
    assert written(finish=Finish.LENGTH)["content"] == []
    assert written(Opaque(dialect="responses", kind="web_search_call", raw={"a": 1}), Text(text="a"))["content"] == [
        {"type": "text", "text": "a"}
    ]


def test_p20_reasoning_only_with_anthropics_signature() -> None:
    mine = Thinking(text="t", signature="s", origin="anthropic")
    other = Thinking(text="t", signature="s", origin="gemini")
    assert written(mine, other, Thinking(text="t"))["content"] == [
        {"type": "thinking", "thinking": "t", "signature": "s"}
    ]
    hidden = Asked(body={}, created=1, seed=ASKED.seed, shows_thinking=False)
    assert written(mine, asked=hidden)["content"] == []


def test_members_of_the_message_come_back() -> None:
    body = message({"type": "text", "text": "a"}, container={"id": "c"}, context_management={"applied_edits": []})
    assert write_answer(read_answer(body), ASKED) == {**body, "stop_details": None}


# Other clouds ---------------------------------------------------------------------------------------------------------


BODY = {"model": "claude", "stream": True, "max_tokens": 1, "messages": []}


def test_vertex() -> None:
    assert adapt(BODY, "vertex", ("b1",)) == {
        "stream": True, "max_tokens": 1, "messages": [], "anthropic_version": "vertex-2023-10-16"
    }  # fmt: skip


def test_invoke() -> None:
    assert adapt({**BODY, "anthropic_beta": ["b0"]}, "bedrock-invoke", ("b1", "b0")) == {
        "max_tokens": 1,
        "messages": [],
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["b0", "b1"],
    }
    assert "anthropic_beta" not in adapt(BODY, "bedrock-invoke")
    assert adapt(BODY, "bedrock-invoke", version="2026-10-21")["anthropic_version"] == "2026-10-21"
    moved = {**BODY, "anthropic_version": "vertex-2023-10-16"}
    assert adapt(moved, "bedrock-invoke")["anthropic_version"] == "bedrock-2023-05-31"


@pytest.mark.parametrize("platform", ["", "mantle", "foundry"])
def test_native_platforms(platform: str) -> None:
    assert adapt({**BODY, "anthropic_version": "bedrock-2023-05-31", "anthropic_beta": []}, platform, ("b",)) == BODY
