from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import responses
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    OpaqueBlock,
    Ping,
    RefusalDelta,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Used,
)


def event(kind: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **more}))


def delta(kind: str, text: str, index: int = 0, **more: Any) -> bytes:
    return event(f"response.{kind}.delta", output_index=index, delta=text, **more)


def added(index: int, kind: str, **more: Any) -> bytes:
    return event("response.output_item.added", output_index=index, item={"type": kind, **more})


def done(index: int, kind: str, **more: Any) -> bytes:
    return event("response.output_item.done", output_index=index, item={"type": kind, **more})


def end(*output: Any, status: str = "completed", **more: Any) -> bytes:
    response = {"id": "resp_1", "model": "m", "status": status, "output": list(output), **more}
    return event(f"response.{status}", response=response)


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text, **more}]}


OPENED = event("response.created", response={"id": "resp_1", "model": "m", "created_at": 7.0, "service_tier": "flex"})
STOP = [Stopped(Finish.STOP), Ended()]


def read(*pieces: bytes, close: bool = True) -> list[Event]:
    reader = responses.stream_reader()
    out = [found for piece in pieces for found in reader.feed(piece)]
    return out + (reader.close() if close else [])


def said(*pieces: bytes) -> list[Event]:
    """The events of a stream between its first one and its end."""
    events = read(OPENED, *pieces)
    assert events[0] == Begin("resp_1", "m", 7, None, "flex")
    assert isinstance(events[-1], Ended)
    return events[1:-1]


def test_text_comes_as_it_is_and_only_once() -> None:
    pieces = [
        added(0, "message", content=[]),
        event("response.content_part.added", output_index=0, content_index=0, part={"type": "output_text", "text": ""}),
        delta("output_text", "a", content_index=0),
        delta("output_text", "", content_index=0),
        delta("output_text", "b", content_index=0),
        event("response.output_text.done", output_index=0, content_index=0, text="ab"),
        event("response.output_item.done", output_index=0, item=message("ab")),
        end(message("ab"), usage={"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}),
    ]
    found = said(*pieces)
    assert found[:3] == [TextDelta("a"), TextDelta("b"), Stopped(Finish.STOP)]
    used = found[3]
    assert isinstance(used, Used)
    assert (used.usage.input, used.usage.cache_read, used.usage.prompt, used.usage.output) == (5, 4, 9, 2)


@pytest.mark.parametrize(
    "late",
    [
        event("response.output_text.done", output_index=0, content_index=0, text="late"),
        event("response.output_item.done", output_index=0, item=message("late")),
        b"",
    ],
)
def test_text_that_comes_late_is_not_lost(late: bytes) -> None:
    assert said(added(0, "message"), late, end(message("late"))) == [TextDelta("late"), Stopped(Finish.STOP)]


def test_a_response_that_comes_only_at_the_end_is_whole() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    assert said(end(thought, message("a"), call)) == [
        ThinkingDelta("hm"),
        ThinkingEnd(id="rs_1"),
        TextDelta("a", 1000),
        ToolBegin(0, "c", "f"),
        ToolDelta(0, "{}"),
        ToolEnd(0),
        Stopped(Finish.TOOL_CALLS),
    ]


def test_parts_that_are_counted_from_one_are_not_told_twice() -> None:
    """P1, P2: neither is any other number of an item taken for the index of a call."""
    pieces = (
        delta("output_text", "a", 3, content_index=1),
        event("response.output_item.done", output_index=3, item=message("a")),
    )
    assert said(*pieces, end(message("a"))) == [TextDelta("a", 3001), Stopped(Finish.STOP)]


def test_the_last_response_may_leave_items_out() -> None:
    pieces = [
        added(0, "reasoning", id="rs_1"),
        delta("reasoning_summary_text", "hm", summary_index=0),
        done(0, "reasoning", id="rs_1", summary=[{"text": "hm"}]),
        added(1, "message", id="msg_a"),
        delta("output_text", "a", 1, content_index=0),
    ]
    assert said(*pieces, end({**message("a"), "id": "msg_other"}))[2:] == [TextDelta("a", 1000), Stopped(Finish.STOP)]


def test_parallel_calls_are_counted_among_calls_and_never_mixed() -> None:
    """P1, P2, P6."""
    pieces = [
        added(0, "reasoning", id="rs_1"),
        done(0, "reasoning", id="rs_1", summary=[]),
        added(1, "function_call", id="fc_1", call_id="c1", name="f", arguments=""),
        added(2, "function_call", id="fc_2", call_id="c2", name="g", arguments=""),
        delta("function_call_arguments", '{"a":', 1),
        delta("function_call_arguments", '{"b":', 2),
        delta("function_call_arguments", "1}", 1),
        delta("function_call_arguments", "2}", 2),
        done(1, "function_call", call_id="c1", name="f", arguments='{"a":1}'),
    ]
    assert said(*pieces, end())[1:] == [
        ToolBegin(0, "c1", "f"),
        ToolBegin(1, "c2", "g"),
        ToolDelta(0, '{"a":'),
        ToolDelta(1, '{"b":'),
        ToolDelta(0, "1}"),
        ToolDelta(1, "2}"),
        ToolEnd(0),
        ToolEnd(1),
        Stopped(Finish.TOOL_CALLS),
    ]


def test_events_without_an_index_belong_to_the_item_of_their_id() -> None:
    pieces = [
        event("response.output_item.added", item={"type": "message", "id": "msg_1"}),
        event("response.output_item.added", item={"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f"}),
        event("response.function_call_arguments.delta", item_id="fc_1", delta="{}"),
        event("response.output_text.delta", item_id="msg_1", delta="a"),
    ]
    assert said(*pieces, end())[:3] == [ToolBegin(0, "c", "f"), ToolDelta(0, "{}"), TextDelta("a")]


def test_a_name_that_comes_late_is_waited_for() -> None:
    """P10."""
    pieces = [
        added(0, "function_call", id="fc_1", call_id="c"),
        delta("function_call_arguments", '{"a"'),
        delta("function_call_arguments", ":1}"),
        event("response.function_call_arguments.done", output_index=0, name="f", arguments='{"a":1}'),
        done(0, "function_call", call_id="c", name="f", arguments='{"a":1}'),
    ]
    assert said(*pieces, end())[:3] == [ToolBegin(0, "c", "f"), ToolDelta(0, '{"a":1}'), ToolEnd(0)]


def test_arguments_that_come_whole_are_told_once() -> None:
    """P5."""
    pieces = [
        added(0, "function_call", call_id="c", name="f"),
        event("response.function_call_arguments.done", output_index=0, arguments="{}"),
        done(0, "function_call", call_id="c", name="f", arguments="{}"),
    ]
    assert said(*pieces, end())[:3] == [ToolBegin(0, "c", "f"), ToolDelta(0, "{}"), ToolEnd(0)]


def test_custom_tools_take_text() -> None:
    pieces = [
        added(0, "custom_tool_call", call_id="c", name="sh"),
        delta("custom_tool_call_input", "ls"),
        done(0, "custom_tool_call", call_id="c", name="sh", input="ls"),
    ]
    assert said(*pieces, end())[:3] == [ToolBegin(0, "c", "sh", True), ToolDelta(0, "ls"), ToolEnd(0)]


def test_reasoning_keeps_its_parts_apart_and_what_makes_it_replayable() -> None:
    pieces = [
        added(0, "reasoning", id="rs_1"),
        delta("reasoning_summary_text", "one", summary_index=0),
        event("response.reasoning_summary_text.done", output_index=0, summary_index=0, text="one"),
        delta("reasoning_summary_text", "two", summary_index=1),
        done(0, "reasoning", id="rs_1", summary=[{"text": "one"}, {"text": "two"}], encrypted_content="gAAA"),
        added(1, "reasoning", id="rs_2"),
        delta("reasoning_text", "open", 1, content_index=0),
        done(1, "reasoning", id="rs_2", summary=[], content=[{"text": "open"}]),
    ]
    assert said(*pieces, end())[:5] == [
        ThinkingDelta("one"),
        ThinkingDelta("\n\ntwo"),
        ThinkingEnd(redacted="gAAA", origin="openai", id="rs_1"),
        ThinkingDelta("open", 1000),
        ThinkingEnd(id="rs_2"),
    ]


def test_tools_of_the_provider_are_no_calls() -> None:
    """P8."""
    pieces = [
        added(0, "web_search_call", id="ws_1"),
        event("response.web_search_call.searching", output_index=0, item_id="ws_1"),
        event("response.mcp_call_arguments.delta", output_index=0, item_id="ws_1", delta="{}"),
        done(0, "web_search_call", id="ws_1", status="completed"),
    ]
    raw = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    assert said(*pieces, end(raw)) == [OpaqueBlock("responses", "web_search_call", raw), Stopped(Finish.STOP)]


def test_refusals_and_citations() -> None:
    cited = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    inner = {key: value for key, value in cited.items() if key != "type"}
    told = Annotated({"type": "url_citation", "url_citation": inner})
    refused = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    assert said(delta("refusal", "no", content_index=0), end(refused)) == [RefusalDelta("no"), Stopped(Finish.STOP)]
    assert said(end(refused))[0] == RefusalDelta("no")
    live = event("response.output_text.annotation.added", output_index=0, annotation=cited)
    whole = message("a", annotations=[cited])
    assert said(delta("output_text", "a"), live, end(whole))[:2] == [TextDelta("a"), told]
    assert said(delta("output_text", "a"), end(whole))[:2] == [TextDelta("a"), told]


@pytest.mark.parametrize(
    ("last", "finish"),
    [
        (end(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), Finish.LENGTH),
        (end(status="incomplete", incomplete_details={"reason": "content_filter"}), Finish.CONTENT_FILTER),
        (end(status="incomplete"), Finish.LENGTH),
        (event("response.incomplete", response={"output": []}), Finish.LENGTH),
        (event("response.completed", response={}), Finish.STOP),
        (event("response.completed"), Finish.STOP),
    ],
)
def test_finish(last: bytes, finish: Finish) -> None:
    assert said(delta("output_text", "a"), last)[1:] == [Stopped(finish)]


def test_a_cut_call_is_a_cut_answer() -> None:
    """P9 is for answers that end well."""
    pieces = added(0, "function_call", call_id="c", name="f"), delta("function_call_arguments", '{"a')
    last = end(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert said(*pieces, last)[-2:] == [ToolEnd(0), Stopped(Finish.LENGTH)]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (event("error", code="server_error", message="x", param=None), "server_error"),
        (event("error", error={"type": "a", "code": "rate_limit_exceeded", "message": "x"}), "rate_limit_exceeded"),
        (
            event("response.failed", response={"status": "failed", "error": {"code": "invalid_prompt"}}),
            "invalid_prompt",
        ),
        (event("response.completed", response={"status": "failed", "error": {"code": "server_error"}}), "server_error"),
        (b'data: {"error":{"code":"boom"}}\n\n', "boom"),
        (b'{"error":{"code":"bare"}}\n\n', "bare"),
        (b'{"error":{"code":"tail"}}', "tail"),
        (b'data: {"error":{"code":"half"}}', "half"),
    ],
)
def test_an_error_is_the_last_word(last: bytes, code: str) -> None:
    """P47, P48, P52."""
    events = read(OPENED, delta("output_text", "a"), last)
    assert isinstance(events[-1], Fault)
    assert events[-1].error["code"] == code
    assert not any(isinstance(found, Stopped | Ended) for found in events)
    if last.endswith(b"\n\n"):
        assert read(OPENED, delta("output_text", "a"), last, delta("output_text", "b"), end()) == events


def test_a_failure_without_an_error_is_one() -> None:
    assert isinstance(read(event("response.failed", response={"error": None}))[-1], Fault)


@pytest.mark.parametrize("rest", [b"", b"data: [DONE]\n\n", b"event: response.comp", b"data: half", b": ping"])
def test_a_stream_that_stops_is_not_complete(rest: bytes) -> None:
    """P48."""
    assert read(OPENED, delta("output_text", "a"), rest)[1:] == [TextDelta("a")]


def test_signs_of_life_and_nonsense() -> None:
    reader = responses.stream_reader()
    noise = b": ping\n\ndata: nonsense\n\ndata: [1]\n\ndata:\n\n" + event("keepalive", sequence_number=3)
    unknown = event("response.something.new", x=1) + event("response.output_text.delta", delta=None)
    assert reader.feed(noise + unknown) == [Ping(), Ping()]
    assert reader.dropped == 2


def test_what_a_text_says_is_not_taken_for_the_protocol() -> None:
    text = '\n\nevent: error\ndata: {"type":"error"}\n\n'
    assert said(delta("output_text", text), end()) == [TextDelta(text), Stopped(Finish.STOP)]


def test_members_of_any_shape_do_no_harm() -> None:
    for value in (None, 1, "x", [], {}, True):
        for kind in (
            "response.output_item.added",
            "response.output_item.done",
            "response.output_text.delta",
            "response.output_text.done",
            "response.output_text.annotation.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.reasoning_text.delta",
            "response.created",
            "response.completed",
        ):
            members = ("item", "output_index", "delta", "text", "annotation", "arguments", "response", "content_index")
            read(event(kind, **dict.fromkeys(members, value)))
        read(end(value, {"type": "message", "content": value}, {"type": "reasoning", "summary": value}))
        read(b"data: " + orjson.dumps({"type": value, "response": value}) + b"\n\n")


STREAM = b"".join(
    [
        b": hello\r\n\r\n",
        OPENED,
        added(0, "message").replace(b"\n", b"\r\n"),
        delta("output_text", "Grüße \u2028 🙂"),
        delta("output_text", "\r\n\r\n"),
        added(1, "function_call", call_id="c", name="f").replace(b"\n", b"\r"),
        delta("function_call_arguments", '{"ü":1}', 1),
        end(message("Grüße"), usage={"input_tokens": 1, "output_tokens": 2}),
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.integers(0, 200))
def test_any_cut_gives_the_same_events(cuts: list[int], short: int) -> None:
    stream = STREAM[: len(STREAM) - short] if short else STREAM
    at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert read(*(stream[one:two] for one, two in pairwise(at))) == read(stream)


def test_a_huge_event_costs_one_pass() -> None:
    piece = delta("output_text", "x" * 4_000_000)
    events = read(*(piece[i : i + 1024] for i in range(0, len(piece), 1024)))
    assert isinstance(events[1], TextDelta)
    assert len(events[1].text) == 4_000_000
