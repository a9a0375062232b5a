from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects import openai
from proxy.dialects.chat import (
    Answer,
    Asked,
    Finish,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from proxy.dialects.openai.words import usage_in, usage_out

ASKED = Asked(body={}, created=5, seed="0" * 32, model="target")


def answer(message: Any, finish: str | None = "stop", **more: Any) -> Answer:
    return openai.read_answer({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more})


def message(*parts: Any, asked: Asked = ASKED, **more: Any) -> dict[str, Any]:
    written = openai.write_answer(Answer(parts=parts, **more), asked)
    return written["choices"][0]["message"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}], "usage": None, "id": None, "created": "x"},
        {"choices": [{"message": {"content": None, "tool_calls": None, "refusal": None}}], "usage": {}},
        {"choices": [{"message": {"tool_calls": [None, {}, {"function": None}, {"function": {"name": ""}}]}}]},
        {"choices": [{"message": {"content": [None, {"type": "text"}], "reasoning_details": [{}], "audio": {}}}]},
        {"choices": [{"message": {"function_call": {"name": "", "arguments": ""}, "thinking_blocks": [{}]}}]},
    ],
)
def test_an_answer_without_anything_is_read(body: dict[str, Any]) -> None:
    read = openai.read_answer(body)
    assert read.parts == ()
    assert read.finish is Finish.UNKNOWN
    assert openai.write_answer(read, ASKED)["choices"][0]["message"]["content"] == ""


def test_parts_of_an_answer() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "u"}}
    read = answer(
        {
            "content": "a",
            "refusal": "no",
            "annotations": [cited],
            "reasoning_content": "t",
            "audio": {"id": "x", "data": ""},
            "tool_calls": [
                {"id": "1", "function": {"name": "f"}},
                {"id": "2", "type": "custom", "custom": {"name": "g", "input": "i"}},
            ],
        }
    )
    assert read.parts == (
        Thinking(text="t"),
        Text(text="a", annotations=(cited,)),
        Refusal(text="no"),
        Opaque(dialect="chat", kind="audio", raw={"id": "x", "data": ""}),
        ToolCall(id="1", name="f", arguments=""),
        ToolCall(id="2", name="g", arguments="i", custom=True),
    )
    assert read.finish is Finish.TOOL_CALLS


def test_signatures_of_gemini() -> None:
    google = {"google": {"thought_signature": "s"}}
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    assert answer({"tool_calls": [{**call, "extra_content": google}]}).parts == (
        ToolCall(id="1", name="f", arguments="{}", signature="s"),
    )
    assert answer({"tool_calls": [call], "extra_content": google}).parts[0] == ToolCall(
        id="1", name="f", arguments="{}", signature="s"
    )
    assert answer({"content": "a", "extra_content": google}).parts == (Text(text="a", signature="s"),)
    assert message(Text(text="a", signature="s"))["extra_content"] == google
    assert message(ToolCall(id="1", name="f", arguments="", signature="s"))["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": google}
    ]


def test_signed_reasoning_there_and_back() -> None:
    parts = (
        Thinking(text="t", signature="s", origin="anthropic"),
        Thinking(redacted="d", origin="anthropic"),
        Thinking(text="u", redacted="e", origin="openai", id="rs_1"),
        Text(text="a"),
    )
    written = message(*parts)
    assert written["reasoning_content"] == "tu"
    assert answer(written).parts == parts
    assert "thinking_blocks" not in message(Thinking(text="t"), Text(text="a"))
    hidden = message(*parts, asked=Asked(body={}, created=5, seed="0" * 32, shows_thinking=False))
    assert not {"thinking_blocks", "reasoning_content"} & set(hidden)


def test_openrouter_details() -> None:
    claude = {"type": "reasoning.text", "format": "anthropic-claude-v1"}
    read = answer({"reasoning": "ab", "reasoning_details": [{**claude, "text": "ab"}, {**claude, "signature": "s"}]})
    assert read.parts == (Thinking(text="ab", signature="s", origin="anthropic"),)
    closed = {"type": "reasoning.encrypted", "data": "d", "format": "google-gemini-v1", "id": "x"}
    assert answer({"reasoning": "t", "reasoning_details": [closed]}).parts == (
        Thinking(text="t"),
        Thinking(signature="d", origin="gemini", id="x"),
    )


def test_content_is_never_missing_and_null_beside_calls() -> None:
    assert message(Text(text="a"), Text(text="b"))["content"] == "ab"
    assert message()["content"] == ""
    assert message(ToolCall(id="1", name="f", arguments="{}"))["content"] is None
    assert message(Refusal(text="no")) == {"role": "assistant", "content": None, "refusal": "no"}
    assert message(Opaque(dialect="messages", kind="server_tool_use", raw={}), Text(text="a"))["content"] == "a"
    assert message(Opaque(dialect="chat", kind="images", raw={"images": [1]}))["images"] == [1]


def test_what_the_provider_did_not_tell() -> None:
    written = openai.write_answer(Answer(parts=(Text(text="a"),), service_tier="standard"), ASKED)
    assert (written["id"], written["created"], written["model"]) == (f"chatcmpl-{'0' * 32}", 5, "target")
    assert "usage" not in written
    assert "service_tier" not in written
    told = openai.write_answer(Answer(id="msg_1", model="m", created=1, service_tier="default"), ASKED)
    assert (told["id"], told["created"], told["model"], told["service_tier"]) == ("msg_1", 1, "m", "default")


def test_callers_get_calls_in_the_form_they_know() -> None:
    old = Asked(body={"functions": [{"name": "f"}]}, created=5, seed="0" * 32)
    call = ToolCall(id="1", name="f", arguments="")
    written = openai.write_answer(Answer(parts=(call,), finish=Finish.TOOL_CALLS), old)["choices"][0]
    assert written["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert written["finish_reason"] == "function_call"
    custom = Asked(body={"tools": [{"type": "custom", "custom": {"name": "f"}}]}, created=5, seed="0" * 32)
    for arguments, text in (('{"input":"x"}', "x"), ("{half", "{half"), ('{"a":1}', '{"a":1}')):
        stood_in = ToolCall(id="1", name="f", arguments=arguments)
        assert message(stood_in, asked=custom)["tool_calls"][0]["custom"] == {"name": "f", "input": text}


@pytest.mark.parametrize(
    ("finish", "word"),
    [
        (Finish.STOP, "stop"),
        (Finish.STOP_SEQUENCE, "stop"),
        (Finish.LENGTH, "length"),
        (Finish.CONTEXT, "length"),
        (Finish.TOOL_CALLS, "tool_calls"),
        (Finish.CONTENT_FILTER, "content_filter"),
        (Finish.PAUSE, "length"),
        (Finish.MALFORMED, "stop"),
        (Finish.UNKNOWN, "stop"),
    ],
)
def test_finish_reasons(finish: Finish, word: str) -> None:
    assert openai.write_answer(Answer(finish=finish), ASKED)["choices"][0]["finish_reason"] == word


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"message": "x"}}, {"message": "x"}),
        ({"error": "x"}, {"message": "x"}),
        ({"error": {"message": "x"}, "choices": [{"message": {"content": ""}}]}, {"message": "x"}),
        ({"error": {"message": "x"}, "choices": [{"message": {"content": "a"}}]}, None),
        ({"error": None, "choices": []}, None),
        ({"object": "error", "message": "x"}, {"object": "error", "message": "x"}),
        ({"message": "x", "code": 400, "type": "Bad Request"}, {"message": "x", "code": 400, "type": "Bad Request"}),
        ({"detail": "x"}, {"message": "x"}),
        ({"detail": [{"msg": "x"}]}, {"message": '[{"msg":"x"}]'}),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, None),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": "error", "error": {"code": 5}}]}, {"code": 5}),
    ],
)
def test_faults_in_whole_bodies(body: dict[str, Any], error: Any) -> None:
    assert openai.fault_in(body) == error


@pytest.mark.parametrize(
    ("raw", "numbers"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4}, (10, 0, 0, 4, None)),
        (
            {"prompt_tokens": 10, "completion_tokens": 4,
             "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3},
             "completion_tokens_details": {"reasoning_tokens": 2}},
            (1, 6, 3, 4, 2),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 20}, (10, 0, 0, 10, 6)),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 20,
             "completion_tokens_details": {"reasoning_tokens": 6}},
            (10, 0, 0, 10, 6),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 8}, (2, 8, 0, 4, None)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}}, (0, 10, 0, 0, None)),
        ({"prompt_tokens": None, "completion_tokens": "4", "prompt_tokens_details": None}, (0, 0, 0, 0, None)),
    ],
)  # fmt: skip
def test_usage(raw: dict[str, Any], numbers: tuple[Any, ...]) -> None:
    read = usage_in(raw)
    assert read is not None
    assert (read.input, read.cache_read, read.cache_write, read.output, read.reasoning) == numbers


def test_usage_is_told_in_sums() -> None:
    assert usage_out(Usage(input=1, cache_read=6, cache_write=3, output=4, reasoning=2)) == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    raw = {"prompt_tokens": 10, "completion_tokens": 4, "cost": 0.5}
    assert usage_out(Usage(input=10, output=4, raw=raw)) == {**raw, "total_tokens": 14}
    assert usage_in({"total_tokens": 4}) is None
    assert usage_in(None) is None
