"""Streams, read for other callers and written for Messages callers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.anthropic import invoke_stream_reader, stream_reader, stream_writer
from proxy.dialects.chat import (
    Annotated,
    Asked,
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
    Usage,
    Used,
)
from proxy.dialects.eventstream import encode
from tests.unit.dialects.anthropic import heard
from tests.unit.dialects.anthropic.heard import ASKED


def event(kind: str, **more: Any) -> bytes:
    data = json.dumps({"type": kind, **more}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start(index: int, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, kind: str, **more: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": f"{kind}_delta", **more})


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


BEGIN = event(
    "message_start",
    message={"id": "msg_1", "model": "claude", "content": [], "usage": {"input_tokens": 7, "output_tokens": 1}},
)
HELLO = start(0, type="text", text="") + delta(0, "text", text="hello") + stop(0)
END = event("message_stop")


def stopped(reason: str | None, usage: Any = None, **more: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, **more}, usage=usage or {"output_tokens": 9})


def read(*pieces: bytes) -> list[Event]:
    return heard.hear(stream_reader(), list(pieces))


STREAM = b"".join(
    [
        BEGIN,
        event("ping"),
        start(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking", thinking="hm ünd 😀"),
        delta(0, "signature", signature="sig"),
        stop(0),
        start(1, type="text", text=""),
        delta(1, "text", text="a b"),
        b": a comment\n\n",
        b"data: not json\n\n",
        delta(1, "text", text='"\\n'),
        stop(1),
        start(2, type="server_tool_use", id="s", name="web_search", input={}),
        delta(2, "input_json", partial_json='{"q":'),
        delta(2, "input_json", partial_json='"x"}'),
        stop(2),
        start(3, type="web_search_tool_result", tool_use_id="s", content=[{"url": "u"}]),
        stop(3),
        start(4, type="tool_use", id="t1", name="f", input={}),
        delta(4, "input_json", partial_json=""),
        delta(4, "input_json", partial_json='{"a":1}'),
        stop(4),
        start(5, type="tool_use", id="t2", name="g", input={}),
        stop(5),
        stopped("tool_use", {"input_tokens": None, "output_tokens": 20, "cache_read_input_tokens": 4}),
        END,
    ]
)


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_stream_with_everything() -> None:
    events = read(STREAM)
    assert events == [
        Begin("msg_1", "claude", None, events[0].usage, ""),  # type: ignore[union-attr]
        Ping(),
        ThinkingDelta("hm ünd 😀", 0),
        ThinkingEnd("sig", "", "anthropic"),
        TextDelta("a b", 1),
        TextDelta('"\\n', 1),
        OpaqueBlock(
            "messages",
            "server_tool_use",
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        ),
        OpaqueBlock(
            "messages",
            "web_search_tool_result",
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]},
        ),
        ToolBegin(0, "t1", "f"),
        ToolDelta(0, '{"a":1}'),
        ToolEnd(0),
        ToolBegin(1, "t2", "g"),
        ToolEnd(1),
        Stopped(Finish.TOOL_CALLS),
        events[-2],
        Ended(),
    ]
    used = events[-2]
    assert isinstance(used, Used)
    assert (used.usage.input, used.usage.cache_read, used.usage.output) == (7, 4, 20)  # P46


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_chunking_gives_the_same_events(sizes: list[int], end: bytes) -> None:
    raw = STREAM.replace(b"\n", end)
    reader = stream_reader()
    assert heard.hear(reader, heard.cut(raw, sizes)) == read(STREAM)
    assert reader.dropped == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_single_byte(end: bytes) -> None:
    assert heard.hear(stream_reader(), heard.cut(STREAM.replace(b"\n", end), [1])) == read(STREAM)


def test_p48_a_stream_that_is_cut_has_no_end() -> None:
    whole = read(BEGIN + HELLO + stopped("end_turn") + END)
    assert [type(event).__name__ for event in whole[-3:]] == ["Stopped", "Used", "Ended"]
    pieces = [BEGIN, start(0, type="text", text=""), delta(0, "text", text="hello"), stop(0)]
    for n in range(len(pieces) + 1):
        events = read(*pieces[:n])
        assert not [event for event in events if isinstance(event, Stopped | Ended | Fault)]
    assert isinstance(read(BEGIN + HELLO + stopped("end_turn"))[-1], Ended)  # the reason has come
    assert not isinstance(read(BEGIN + HELLO + stopped("end_turn")[:-20])[-1], Ended)
    assert isinstance(read(BEGIN + HELLO + stopped("end_turn").rstrip())[-1], Ended)  # but for its blank line


def test_a_stream_without_a_reason_that_has_its_end() -> None:
    events = read(BEGIN + HELLO + END)
    assert [type(event).__name__ for event in events[-2:]] == ["Stopped", "Ended"]
    assert read(BEGIN + HELLO + stopped(None))[-1] != Ended()


def test_nothing_follows_the_end() -> None:
    reader = stream_reader()
    reader.feed(BEGIN + stopped("end_turn") + END + HELLO)
    assert reader.feed(HELLO) == []
    assert reader.close() == []


@pytest.mark.parametrize(
    "raw",
    [
        event("error", error={"type": "overloaded_error", "message": "m"}, request_id="r"),
        b'data: {"error":{"type":"overloaded_error","message":"m"}}\n\n',
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"m"}}',
        b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}',
    ],
)
def test_p47_an_error_in_the_stream(raw: bytes) -> None:
    for before in (b"", BEGIN + HELLO):
        events = read(before + raw)
        assert [event.error["type"] for event in events if isinstance(event, Fault)] == ["overloaded_error"]
        assert isinstance(events[-1], Fault)
    reader = stream_reader()
    reader.feed(raw + b"\n\n")
    reader.close()
    assert reader.feed(HELLO) == []


def test_one_body_where_events_were_asked_for() -> None:
    body = {"type": "message", "id": "m", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"}
    events = read(json.dumps(body).encode())
    assert [type(event).__name__ for event in events] == ["Begin", "TextDelta", "Stopped", "Ended"]
    assert read(b"<html>no</html>") == []


def test_p50_a_second_message_start() -> None:
    assert read(BEGIN + BEGIN + HELLO + stopped("end_turn") + END) == read(BEGIN + HELLO + stopped("end_turn") + END)
    assert isinstance(read(BEGIN + HELLO + BEGIN + HELLO)[-1], Fault)


def test_arguments_and_texts_that_come_with_the_start() -> None:
    events = read(
        BEGIN
        + start(0, type="text", text="first")
        + stop(0)
        + start(1, type="tool_use", id="t", name="f", input={"a": 1})
        + stop(1)
        + start(2, type="redacted_thinking", data="r")
        + stopped("tool_use")
        + END
    )
    assert events[1:6] == [
        TextDelta("first", 0),
        ToolBegin(0, "t", "f"),
        ToolDelta(0, '{"a":1}'),
        ToolEnd(0),
        ThinkingEnd("", "r", "anthropic"),
    ]


def test_streams_with_holes() -> None:
    events = read(
        delta(0, "text", text="unannounced"),
        delta(3, "input_json", partial_json="lost"),
        event("content_block_delta", index=0),
        event("content_block_start"),
        event("content_block_stop", index=99),
        event("message_delta"),
        event("message_start"),
        event("brand_new", error=None),
        b"data: [1]\n\n",
        b"data: [DONE]\n\n",
        stopped("end_turn"),
    )
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("unannounced", 0)]
    assert isinstance(events[-1], Ended | Fault)


def test_open_blocks_are_closed_before_the_reason() -> None:
    events = read(BEGIN + start(0, type="tool_use", id="t", name="f") + stopped("max_tokens") + END)
    assert events[2:4] == [ToolEnd(0), Stopped(Finish.LENGTH)]


def test_citations_and_members() -> None:
    web = {"type": "web_search_result_location", "url": "https://x", "title": "X"}
    events = read(
        BEGIN
        + start(0, type="text", text="", citations=[])
        + delta(0, "citations", citation=web)
        + delta(0, "text", text="abc")
        + stop(0)
        + stopped("end_turn", container={"id": "c"})
        + END
    )
    cited = {"url": "https://x", "title": "X", "start_index": 0, "end_index": 3}
    assert events[2:5] == [
        Annotated({"type": "url_citation", "url_citation": cited}),
        OpaqueBlock("messages", "citation", web),
        OpaqueBlock("messages", "message", {"container": {"id": "c"}}),
    ]


def test_a_refusal() -> None:
    details = {"type": "refusal", "category": None, "explanation": "not this"}
    events = read(BEGIN + stopped("refusal", stop_details=details) + END)
    assert Stopped(Finish.CONTENT_FILTER, None, "not this") in events
    assert Stopped(Finish.CONTENT_FILTER, None, "refused") in read(BEGIN + stopped("refusal") + END)


def test_a_large_event_in_small_pieces() -> None:
    text = "x" * 400_000
    raw = BEGIN + start(0, type="text", text="") + delta(0, "text", text=text) + stopped("end_turn") + END
    events = heard.hear(stream_reader(), heard.cut(raw, [700]))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text


def test_an_exception_in_a_wrapped_stream() -> None:
    headers = {":message-type": "exception", ":exception-type": "throttlingException"}
    events = heard.hear(invoke_stream_reader(), [encode(headers, b'{"message":"slow down"}')])
    assert events == [Fault({"__type": "throttlingException", "message": "slow down"})]


# Writing --------------------------------------------------------------------------------------------------------------


def write(*events: Event, asked: Asked = ASKED, end: bool = True) -> list[dict[str, Any]]:
    """The written events, after a look at the order that the protocol demands."""
    writer = stream_writer(asked)
    raw = b"".join(writer.feed(event) for event in events) + (writer.end() if end else b"")
    found = list(heard.events_in(raw.decode()))
    named = [line[7:] for line in raw.decode().split("\n") if line.startswith("event: ")]
    assert named == [event["type"] for event in found]
    now, blocks = None, 0
    for written in found:
        if written["type"] == "content_block_start":
            assert (now, written["index"]) == (None, blocks)
            now, blocks = blocks, blocks + 1
        elif written["type"] == "content_block_delta":
            assert written["index"] == now
        elif written["type"] == "content_block_stop":
            assert written["index"] == now
            now = None
    assert now is None or not end
    return [written for written in found if written["type"] != "ping"]


def said(*events: Event, **more: Any) -> list[Any]:
    """What the blocks say, in short: a text, or (name, arguments) of a call, or the block."""
    out: list[Any] = []
    for written in write(*events, **more):
        if written["type"] == "content_block_start":
            block = written["content_block"]
            out.append("" if block["type"] == "text" else [block["name"], ""] if block["type"] == "tool_use" else block)
        elif written["type"] == "content_block_delta":
            told = written["delta"]
            if told["type"] == "text_delta":
                out[-1] += told["text"]
            elif told["type"] == "input_json_delta" and isinstance(out[-1], list):
                out[-1][1] += told["partial_json"]
    return out


STOP = Stopped(Finish.STOP)


def test_a_text() -> None:
    begin, used = Begin("chatcmpl-9", "gpt", usage=Usage(input=4)), Used(Usage(input=4, output=2))
    found = write(begin, TextDelta("a"), TextDelta("b"), STOP, used)
    assert [event["type"] for event in found] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message = found[0]["message"]
    assert (message["id"], message["model"], message["content"]) == ("msg_9", "gpt", [])
    assert message["usage"]["input_tokens"] == 4
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 2


def test_p7_no_token_is_lost_where_blocks_change() -> None:
    assert said(
        Begin(),
        TextDelta("a", 0),
        TextDelta("b", 1),
        ToolBegin(0, "1", "f"),
        ToolDelta(0, "{}"),
        ToolEnd(0),
        TextDelta("c", 2),
        STOP,
    ) == ["a", "b", ["f", "{}"], "c"]


def test_p6_interleaved_calls() -> None:
    events: list[Event] = [
        Begin(),
        ToolBegin(0, "1", "f"),
        ToolBegin(1, "2", "g"),
        ToolDelta(0, '{"a"'),
        ToolDelta(1, '{"b"'),
        ToolBegin(2, "3", "h"),
        ToolDelta(0, ":1}"),
        ToolDelta(1, ":2}"),
    ]
    ends: list[Event] = [ToolEnd(0), ToolEnd(1), ToolEnd(2)]
    wanted = [["f", '{"a":1}'], ["g", '{"b":2}'], ["h", "{}"]]
    assert said(*events, *ends, STOP) == wanted
    assert said(*events, *reversed(ends), STOP) == wanted
    assert said(*events, STOP) == wanted  # nobody told that they end


def test_a_call_that_waited_goes_on_live() -> None:
    writer = stream_writer(ASKED)
    for event_ in (Begin(), ToolBegin(0, "1", "f"), ToolBegin(1, "2", "g"), ToolDelta(1, '{"b"')):
        writer.feed(event_)
    assert b'"name":"g"' in writer.feed(ToolEnd(0))
    assert b":2}" in writer.feed(ToolDelta(1, ":2}"))


def test_text_between_calls_waits_for_them() -> None:
    call = (Begin(), ToolBegin(0, "1", "f"), TextDelta("a"), TextDelta("b"), ToolDelta(0, "{}"), ToolEnd(0))
    assert said(*call, TextDelta("c"), STOP) == [["f", "{}"], "abc"]
    assert said(Begin(), ToolBegin(0, "1", "f"), TextDelta("a"), TextDelta("b", 1), STOP) == [["f", "{}"], "a", "b"]


def test_p5_p9_calls() -> None:
    found = write(Begin(), ToolBegin(0, "", "f"), ToolEnd(0), STOP)
    assert found[1]["content_block"] == {
        "type": "tool_use", "id": "toolu_0123456789abcdef01234500", "name": "f", "input": {}
    }  # fmt: skip
    assert found[2]["delta"] == {"type": "input_json_delta", "partial_json": "{}"}
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    assert found[-2]["usage"] == {"output_tokens": 0}
    custom = said(Begin(), ToolBegin(0, "1", "sh", True), ToolDelta(0, "ls"), ToolDelta(0, " -l"), ToolEnd(0), STOP)
    assert custom == [["sh", '{"input":"ls -l"}']]


def test_p20_reasoning_waits_for_its_signature() -> None:
    thought = (ThinkingDelta("t1"), ThinkingDelta("t2"))
    found = write(Begin(), *thought, ThinkingEnd("sig", "", "anthropic"), TextDelta("a"), STOP)
    assert [event.get("delta") for event in found[2:4]] == [
        {"type": "thinking_delta", "thinking": "t1t2"},
        {"type": "signature_delta", "signature": "sig"},
    ]
    for end in (ThinkingEnd(), ThinkingEnd("g", "", "gemini"), ThinkingEnd("", "e", "openai")):
        assert said(Begin(), *thought, end, TextDelta("a"), STOP) == ["a"]
    redacted = said(Begin(), ThinkingEnd("", "r", "anthropic"), STOP)
    assert redacted == [{"type": "redacted_thinking", "data": "r"}]
    hidden = Asked(body={}, created=1, seed=ASKED.seed, shows_thinking=False)
    assert said(Begin(), *thought, ThinkingEnd("sig", "", "anthropic"), STOP, asked=hidden) == []


def test_reasoning_that_is_held_is_a_sign_of_life() -> None:
    writer = stream_writer(ASKED)
    writer.feed(Begin())
    out = [writer.feed(ThinkingDelta("t")) for _ in range(40)]
    assert [piece for piece in out if piece] == [b'event: ping\ndata: {"type":"ping"}\n\n'] * 3
    assert writer.feed(Ping()) == out[0]


def test_a_refusal_in_words() -> None:
    found = write(Begin(), RefusalDelta("I "), RefusalDelta("won't"), STOP)
    assert said(Begin(), RefusalDelta("I "), RefusalDelta("won't"), STOP) == ["I won't"]
    assert found[-2]["delta"] == {
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None, "explanation": "I won't"},
    }


def test_an_answer_without_blocks() -> None:
    assert [event["type"] for event in write(Stopped(Finish.LENGTH))] == [
        "message_start", "message_delta", "message_stop"
    ]  # fmt: skip


def test_blocks_of_other_dialects_are_left_out() -> None:
    foreign = OpaqueBlock("responses", "web_search_call", {"type": "web_search_call"})
    assert said(Begin(), foreign, TextDelta("a"), Annotated({"type": "url_citation"}), STOP) == ["a"]


def test_own_blocks_come_back() -> None:
    writer = stream_writer(ASKED)
    events = read(STREAM)
    raw = b"".join(writer.end() if type(event_) is Ended else writer.feed(event_) for event_ in events)
    assert heard.of_stream(raw.decode()) == {**heard.of_stream(STREAM.decode())}
    cited = {"type": "page_location", "cited_text": "c"}
    found = write(Begin(), TextDelta("a"), OpaqueBlock("messages", "citation", cited), STOP)
    assert found[3]["delta"] == {"type": "citations_delta", "citation": cited}
    members = {"container": {"id": "c"}, "context_management": {"applied_edits": []}}
    last = write(Begin(), TextDelta("a"), OpaqueBlock("messages", "message", members), STOP)[-2]
    assert last["delta"]["container"] == {"id": "c"}
    assert last["context_management"] == {"applied_edits": []}


def test_an_honest_end() -> None:
    writer = stream_writer(ASKED)
    writer.feed(Begin())
    writer.feed(TextDelta("a"))
    error = {"type": "overloaded_error", "message": "Overloaded", "code": "server_is_overloaded"}
    assert writer.fail(error) == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    assert b'"api_error"' in stream_writer(ASKED).fail({})
