from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import responses
from proxy.dialects.chat import (
    Annotated,
    Answer,
    Asked,
    Begin,
    Event,
    Finish,
    Opaque,
    OpaqueBlock,
    Refusal,
    RefusalDelta,
    Stopped,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolEnd,
    Usage,
    Used,
)
from tests.unit.dialects.responses import grammar

SEED = "abcdef0123456789abcdef0123456789"
BODY = {
    "model": "gpt-x",
    "instructions": "short",
    "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
    "tool_choice": "required",
    "temperature": 0,
    "parallel_tool_calls": False,
    "metadata": {"a": "b"},
    "reasoning": {"effort": "low"},
    "store": True,
    "previous_response_id": None,
}
ASKED = Asked(body=BODY, created=5, seed=SEED, model="target")
CITED = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}


def write(*events: Event, asked: Asked = ASKED) -> bytes:
    writer = responses.stream_writer(asked)
    return b"".join([writer.feed(event) for event in events]) + writer.end()


def kinds(raw: bytes) -> list[str]:
    return [event["type"].removeprefix("response.") for event in grammar.events(raw)]


def outputs(*events: Event) -> list[dict[str, Any]]:
    """The items of a whole stream."""
    output: list[dict[str, Any]] = grammar.check(write(*events))["output"]
    return output


def test_the_whole_sequence_of_a_text() -> None:
    raw = write(
        Begin("x", "m", 7), TextDelta("a"), TextDelta("b"), Stopped(Finish.STOP), Used(Usage(input=3, output=2))
    )
    assert kinds(raw) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = grammar.check(raw)
    assert response["id"] == f"resp_{SEED}"
    assert (response["model"], response["created_at"], response["object"]) == ("m", 7, "response")
    assert response["output"][0]["id"].startswith("msg_")
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_settings_are_repeated_and_nothing_is_stored() -> None:
    response = grammar.check(write(Stopped(Finish.STOP)))
    for member in ("instructions", "tools", "tool_choice", "temperature", "parallel_tool_calls", "metadata"):
        assert response[member] == BODY[member]
    assert response["store"] is False
    assert (response["model"], response["created_at"], response["top_p"]) == ("target", 5, None)
    plain = grammar.check(write(Stopped(Finish.STOP), asked=Asked(body={}, created=1, seed=SEED)))
    assert (plain["tools"], plain["tool_choice"], plain["parallel_tool_calls"]) == ([], "auto", True)
    assert plain["metadata"] == {}


def test_interleaved_calls_become_items_of_their_own() -> None:
    """P6."""
    items = outputs(
        TextDelta("a"),
        ToolBegin(0, "c0", "f"),
        ToolBegin(1, "c1", "g"),
        ToolDelta(1, '{"b"'),
        ToolDelta(0, '{"a"'),
        ToolDelta(1, ":2}"),
        ToolEnd(1),
        ToolDelta(0, ":1}"),
        ToolBegin(2, "c2", "h"),
        ToolEnd(0),
        ToolEnd(2),
        Stopped(Finish.TOOL_CALLS),
    )
    assert [item["type"] for item in items] == ["message", "function_call", "function_call", "function_call"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in items[1:]] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "g", '{"b":2}'),
        ("c2", "h", "{}"),
    ]
    assert len({item["id"] for item in items}) == 4


def test_the_first_of_several_calls_streams_at_once() -> None:
    writer = responses.stream_writer(ASKED)
    writer.feed(ToolBegin(0, "c0", "f"))
    assert b'"delta":"{"' in writer.feed(ToolDelta(0, "{"))
    assert writer.feed(ToolBegin(1, "c1", "g")) == b""
    assert writer.feed(ToolDelta(1, "{")) == b""
    assert b"c1" in writer.feed(ToolEnd(0))


def test_what_is_said_while_a_call_is_open_follows_it() -> None:
    items = outputs(
        ToolBegin(0, "c0", "f"),
        TextDelta("between"),
        ToolDelta(0, '{"a":1}'),
        ThinkingDelta("hm"),
        ThinkingEnd(),
        ToolEnd(0),
        Stopped(Finish.TOOL_CALLS),
    )
    assert [item["type"] for item in items] == ["function_call", "message", "reasoning"]
    assert items[0]["arguments"] == '{"a":1}'
    assert items[1]["content"][0]["text"] == "between"


def test_calls_that_nobody_closed_are_closed_at_the_end() -> None:
    items = outputs(ToolBegin(0, "c0", "f"), ToolBegin(1, "", "g"), TextDelta("a"), Stopped(Finish.TOOL_CALLS))
    assert [item["type"] for item in items] == ["function_call", "function_call", "message"]
    assert items[1]["call_id"].startswith("call_")


def test_custom_tools_take_text() -> None:
    items = outputs(ToolBegin(0, "c", "sh", True), ToolDelta(0, "ls"), ToolEnd(0), Stopped(Finish.TOOL_CALLS))
    assert items[0] == {
        "id": f"ctc_{SEED}0000",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "c",
        "name": "sh",
        "input": "ls",
    }


def test_reasoning_is_a_summary_and_sealed_only_by_openai() -> None:
    items = outputs(
        ThinkingDelta("one"),
        ThinkingEnd(signature="s", origin="anthropic"),
        ThinkingEnd(redacted="r", origin="anthropic"),
        ThinkingDelta("two"),
        TextDelta("a"),
        ThinkingEnd(redacted="gA", origin="openai", id="rs_9"),
        Stopped(Finish.STOP),
    )
    assert [item["type"] for item in items] == ["reasoning", "reasoning", "message", "reasoning"]
    assert items[0] == {
        "id": f"rs_{SEED}0000",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "one"}],
    }
    assert items[3] == {"id": "rs_9", "type": "reasoning", "summary": [], "encrypted_content": "gA"}


def test_reasoning_may_be_left_out() -> None:
    asked = Asked(body={}, created=1, seed=SEED, shows_thinking=False)
    raw = write(ThinkingDelta("a"), ThinkingEnd(redacted="x", origin="openai"), Stopped(Finish.STOP), asked=asked)
    assert grammar.check(raw)["output"] == []
    answer = Answer(parts=(Thinking(text="a"), Text(text="b")))
    assert [item["type"] for item in responses.write_answer(answer, asked)["output"]] == ["message"]


def test_refusals_and_citations_have_their_place_in_a_message() -> None:
    items = outputs(
        TextDelta("a"),
        Annotated(CITED),
        Annotated({"type": "file", "file": {}}),
        RefusalDelta("no"),
        RefusalDelta("!"),
        Stopped(Finish.CONTENT_FILTER),
    )
    text, refusal = items[0]["content"]
    assert text["annotations"] == [{"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}]
    assert refusal == {"type": "refusal", "refusal": "no!"}
    assert outputs(Annotated(CITED), Stopped(Finish.STOP))[0]["content"][0]["text"] == ""


def test_the_words_of_a_refusal_are_told_once() -> None:
    stop = Stopped(Finish.CONTENT_FILTER, explanation="not this")
    assert outputs(stop)[0]["content"] == [{"type": "refusal", "refusal": "not this"}]
    assert outputs(RefusalDelta("no"), stop)[0]["content"] == [{"type": "refusal", "refusal": "no"}]


def test_items_of_this_api_stay_and_others_are_left_out() -> None:
    raw = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    assert outputs(
        TextDelta("a"),
        OpaqueBlock("responses", "web_search_call", raw),
        OpaqueBlock("messages", "server_tool_use", {}),
        Stopped(Finish.STOP),
    )[1:] == [raw]


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        (Finish.STOP, "completed", None),
        (Finish.STOP_SEQUENCE, "completed", None),
        (Finish.TOOL_CALLS, "completed", None),
        (Finish.UNKNOWN, "completed", None),
        (Finish.MALFORMED, "completed", None),
        (Finish.LENGTH, "incomplete", "max_output_tokens"),
        (Finish.CONTEXT, "incomplete", "max_output_tokens"),
        (Finish.PAUSE, "incomplete", "max_output_tokens"),
        (Finish.CONTENT_FILTER, "incomplete", "content_filter"),
    ],
)
def test_status(finish: Finish, status: str, reason: str | None) -> None:
    for response in (
        grammar.check(write(TextDelta("a"), Stopped(finish))),
        responses.write_answer(Answer(parts=(Text(text="a"),), finish=finish), ASKED),
    ):
        assert response["status"] == response["output"][0]["status"] == status
        assert (response["incomplete_details"] or {}).get("reason") == reason


def test_an_interrupted_stream_fails_and_is_not_closed() -> None:
    """P48, P52, P51 (`providers.md` 8.3)."""
    writer = responses.stream_writer(ASKED)
    raw = b"".join(writer.feed(event) for event in (TextDelta("a"), ToolBegin(0, "c", "f"), ToolDelta(0, "{")))
    raw += writer.fail({"message": "cut", "type": "server_error", "code": "stream_interrupted"})
    response = grammar.check(raw)
    assert response["error"] == {"code": "server_error", "message": "cut"}
    assert [item["type"] for item in response["output"]] == ["message"]
    assert kinds(raw)[-1] == "failed"
    assert b"response.completed" not in raw
    assert b"[DONE]" not in raw


def test_a_failure_before_anything_keeps_a_code_that_the_sdk_knows() -> None:
    raw = responses.stream_writer(ASKED).fail({"code": "rate_limit_exceeded"})
    (event,) = grammar.events(raw)
    assert event["response"]["error"]["code"] == "rate_limit_exceeded"
    assert event["response"]["error"]["message"]


def test_two_beginnings_are_one() -> None:
    """P50."""
    raw = write(Begin("resp_a", "m"), TextDelta("a"), Begin("resp_b", "n"), TextDelta("b"), Stopped(Finish.STOP))
    assert grammar.check(raw)["id"] == "resp_a"
    assert kinds(raw).count("created") == 1


def test_usage_of_the_beginning_counts_when_none_follows() -> None:
    raw = write(Begin(usage=Usage(input=1, cache_read=2, cache_write=3, output=4, reasoning=1)), Stopped(Finish.STOP))
    usage = grammar.check(raw)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (6, 4, 10)
    assert usage["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 3}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 1}


def test_a_usage_of_its_own_keeps_its_details() -> None:
    """P43."""
    raw = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 1, "cost": 3}
    answer = responses.read_answer({"usage": {**raw, "output_tokens_details": None}})
    usage = responses.write_answer(answer, ASKED)["usage"]
    assert usage["cost"] == 3
    assert usage["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 0}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_tiers_of_others_are_not_told() -> None:
    assert "service_tier" not in grammar.check(write(Begin(service_tier="on_demand"), Stopped(Finish.STOP)))
    assert grammar.check(write(Begin(service_tier="flex"), Stopped(Finish.STOP)))["service_tier"] == "flex"


def test_another_writer_goes_on_where_a_stream_stopped() -> None:
    told = [Begin("resp_up", "m", 3), ThinkingDelta("hm"), ThinkingEnd(), TextDelta("a")]
    first = responses.stream_writer(Asked(body=BODY, created=9, seed="f" * 32))
    sent = b"".join(first.feed(event) for event in told)
    second = responses.stream_writer(ASKED)
    for event in told:
        second.feed(event)
    second.resume(sent)
    rest = second.feed(TextDelta("b")) + second.feed(Stopped(Finish.STOP)) + second.end()
    response = grammar.check(sent + rest)
    assert response["id"] == "resp_up"
    assert response["output"][1]["content"][0]["text"] == "ab"


# Whole answers --------------------------------------------------------------------------------------------------------


def test_a_whole_answer() -> None:
    answer = Answer(
        id="chatcmpl-1",
        parts=(
            Thinking(text="hm"),
            Text(text="a", annotations=(CITED,)),
            Refusal(text="no"),
            ToolCall(id="c", name="f", arguments=""),
            ToolCall(id="", name="sh", arguments="ls", custom=True),
            Opaque(dialect="messages", kind="x", raw={}),
        ),
        finish=Finish.TOOL_CALLS,
        usage=Usage(input=1, output=2),
    )
    body = json.loads(json.dumps(responses.write_answer(answer, ASKED)))
    assert set(grammar.MEMBERS) <= set(body)
    assert [item["type"] for item in body["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    assert body["output"][2]["arguments"] == "{}"
    assert body["output"][3]["call_id"].startswith("call_")
    assert body["status"] == "completed"


def test_a_call_that_was_cut_is_incomplete() -> None:
    answer = Answer(parts=(ToolCall(id="c", name="f", arguments='{"a'),), finish=Finish.LENGTH)
    assert responses.write_answer(answer, ASKED)["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"output": None},
        {"output": [None, 1, {}, {"type": "message"}, {"type": "message", "content": [None, {}]}]},
        {
            "output": [{"type": "function_call"}, {"type": "reasoning", "summary": None}],
            "usage": {"input_tokens": None},
        },
        {"output": "x", "usage": [], "created_at": "x", "status": 3, "incomplete_details": "x"},
    ],
)
def test_members_that_are_missing_or_odd_do_no_harm(body: dict[str, Any]) -> None:
    assert responses.fault_in(body) is None
    responses.write_answer(responses.read_answer(body), ASKED)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "x"}},
        {"error": "x"},
        {"status": "failed", "output": [], "error": {"code": "server_error"}},
        {"status": "failed", "output": []},
        {"type": "error", "code": "x", "message": "y"},
    ],
)
def test_faults(body: dict[str, Any]) -> None:
    """P47, P55."""
    assert responses.fault_in(body)


def test_no_fault() -> None:
    assert responses.fault_in({"object": "response", "status": "completed", "error": None, "output": []}) is None
