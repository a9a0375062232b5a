"""Converse's answers, whole and streamed, with fixtures of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.bedrock import fault_in, read_answer, stream_reader, stream_writer, write_answer
from proxy.dialects.chat import (
    Annotated,
    Answer,
    Asked,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    Opaque,
    OpaqueBlock,
    Part,
    Refusal,
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
    events_of,
)
from proxy.dialects.eventstream import BROKEN, event_frame, exception_frame
from proxy.dialects.translation import Assembler

ASKED = Asked(body={}, created=1, seed="0123456789abcdef01234567")
USAGE = {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}


def body(*content: Any, stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"output": {"message": {"role": "assistant", "content": list(content)}}, "stopReason": stop, **more}


def use(call_id: str = "t1", name: str = "look", **more: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": call_id, "name": name, "input": {"q": 1}, **more}}


# Whole ----------------------------------------------------------------------------------------------------------------


def test_parts() -> None:
    answer = read_answer(
        body(
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
            {"reasoningContent": {"reasoningText": {"text": "plain"}}},
            {"text": "a"},
            use(),
            use("t2", type="tool_use", input={}),
            stop="tool_use",
            usage={**USAGE, "cacheReadInputTokens": 2, "cacheWriteInputTokens": 1},
            serviceTier={"type": "flex"},
        )
    )
    assert answer.parts == (
        Thinking(text="hm", signature="sig", origin="anthropic"),
        Thinking(text="plain"),
        Text(text="a"),
        ToolCall(id="t1", name="look", arguments='{"q":1}'),
        ToolCall(id="t2", name="look", arguments="{}"),
    )
    assert answer.finish is Finish.TOOL_CALLS
    assert answer.service_tier == "flex"
    assert answer.usage is not None
    assert (answer.usage.input, answer.usage.cache_read, answer.usage.cache_write, answer.usage.output) == (5, 2, 1, 3)
    assert answer.usage.prompt == 8


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("end_turn", Finish.STOP),
        ("stop_sequence", Finish.STOP_SEQUENCE),
        ("max_tokens", Finish.LENGTH),
        ("model_context_window_exceeded", Finish.CONTEXT),
        ("tool_use", Finish.STOP),  # without a call there is nothing to answer
        ("content_filtered", Finish.CONTENT_FILTER),
        ("guardrail_intervened", Finish.CONTENT_FILTER),
        ("malformed_model_output", Finish.MALFORMED),
        ("malformed_tool_use", Finish.MALFORMED),
        ("brand_new", Finish.UNKNOWN),
        (None, Finish.UNKNOWN),
    ],
)
def test_finish(word: Any, finish: Finish) -> None:
    assert read_answer(body({"text": "a"}, stop=word)).finish is finish


def test_whoever_calls_tools_has_not_simply_stopped() -> None:
    assert read_answer(body(use(), stop="end_turn")).finish is Finish.TOOL_CALLS
    assert read_answer(body(use(), stop="max_tokens")).finish is Finish.LENGTH


def test_tools_of_the_provider_are_no_calls() -> None:
    server = use(type="server_tool_use", name="nova_grounding")
    result = {"toolResult": {"toolUseId": "t1", "type": "nova_grounding_result", "content": [{"text": "x"}]}}
    answer = read_answer(body(server, result, {"text": "found"}, {"image": {"format": "png"}}))
    assert answer.finish is Finish.STOP
    assert [part.kind for part in answer.parts if isinstance(part, Opaque)] == [
        "server_tool_use",
        "nova_grounding_result",
        "image",
    ]
    assert write_answer(answer, ASKED)["output"]["message"]["content"][:2] == [server, result]


def test_citations() -> None:
    web = {"location": {"web": {"url": "https://a.test/", "domain": "a.test"}}}
    page = {"location": {"documentPage": {"documentIndex": 0}}, "title": "doc"}
    answer = read_answer(
        body({"text": "So "}, {"citationsContent": {"content": [{"text": "it is"}], "citations": [web, page]}})
    )
    cited = answer.parts[1]
    assert cited == Text(
        text="it is",
        annotations=(
            {
                "type": "url_citation",
                "url_citation": {"url": "https://a.test/", "title": "a.test", "start_index": 3, "end_index": 8},
            },
        ),
    )
    again = read_answer(write_answer(answer, ASKED))
    assert again.parts[1].annotations[0]["url_citation"]["url"] == "https://a.test/"  # type: ignore[union-attr]


def test_the_stop_sequence_that_was_met() -> None:
    fields = {"additionalModelResponseFields": {"stop_sequence": "END"}}
    answer = read_answer(body({"text": "a"}, stop="stop_sequence", **fields))
    assert answer.stop_sequence == "END"
    assert write_answer(answer, ASKED)["additionalModelResponseFields"] == {"stop_sequence": "END"}


@pytest.mark.parametrize(
    "odd",
    [
        {"output": {}},
        {"output": {"message": None}},
        {"output": {"message": {"content": [None, 3, {}]}}},
        {"output": {"message": {"content": [{"toolUse": {}}, {"reasoningContent": {}}, {"citationsContent": {}}]}}},
        {"output": {"message": {"content": [{"citationsContent": {"citations": [1], "content": [2]}}]}}, "usage": []},
        {"output": {"message": {"content": []}}, "usage": {"inputTokens": None}, "serviceTier": "x"},
    ],
)
def test_nothing_that_is_missing_breaks_the_reader(odd: Any) -> None:
    assert fault_in(odd) is None
    write_answer(read_answer(odd), ASKED)


def test_a_body_without_output_is_an_error() -> None:
    assert fault_in({"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}) == {
        "__type": "com.amazon.coral.service#UnknownOperationException",
        "message": "the answer has no output",
    }
    assert fault_in({"message": "slow down"}) == {"__type": "UnknownError", "message": "slow down"}
    assert fault_in({}) is not None
    assert fault_in({"inputTokens": 3}) is None
    assert fault_in(body({"text": "a"})) is None


def test_writing() -> None:
    answer = Answer(
        parts=(
            Text(text=""),
            Refusal(text="No."),
            Thinking(text="t", signature="foreign", origin="gemini"),
            Thinking(redacted="r", origin="openai"),
            ToolCall(id="", name="a", arguments='{"half'),
            Opaque(dialect="messages", kind="x", raw={}),
        ),
        finish=Finish.TOOL_CALLS,
    )
    written = write_answer(answer, ASKED)
    assert written["output"]["message"]["content"] == [
        {"text": "No."},
        {"reasoningContent": {"reasoningText": {"text": "t"}}},
        {"toolUse": {"toolUseId": "tooluse_0123456789abcdef01234", "name": "a", "input": {"_raw": '{"half'}}},
    ]
    assert written["stopReason"] == "tool_use"
    assert written["usage"] == {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}


# Streams --------------------------------------------------------------------------------------------------------------


def delta(index: int, inner: dict[str, Any]) -> bytes:
    return event_frame("contentBlockDelta", {"contentBlockIndex": index, "delta": inner, "p": "abc"})


def start(index: int, inner: dict[str, Any]) -> bytes:
    return event_frame("contentBlockStart", {"contentBlockIndex": index, "start": inner})


def stop(index: int) -> bytes:
    return event_frame("contentBlockStop", {"contentBlockIndex": index})


MESSAGE_START = event_frame("messageStart", {"role": "assistant"})
METADATA = event_frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})


def message_stop(reason: str = "end_turn", **more: Any) -> bytes:
    return event_frame("messageStop", {"stopReason": reason, **more})


def read(*frames: bytes) -> list[Event]:
    reader = stream_reader()
    return reader.feed(b"".join(frames)) + reader.close()


FULL = b"".join(
    (
        MESSAGE_START,
        delta(0, {"reasoningContent": {"text": "h"}}),
        delta(0, {"reasoningContent": {"text": "m"}}),
        delta(0, {"reasoningContent": {"signature": "si"}}),
        delta(0, {"reasoningContent": {"signature": "g"}}),
        stop(0),
        delta(1, {"text": "Héllo"}),
        delta(1, {"text": ""}),
        stop(1),
        start(2, {"toolUse": {"toolUseId": "a", "name": "one"}}),
        delta(2, {"toolUse": {"input": ""}}),
        delta(2, {"toolUse": {"input": '{"x":'}}),
        delta(2, {"toolUse": {"input": "1}"}}),
        stop(2),
        start(3, {"toolUse": {"toolUseId": "b", "name": "two", "type": "tool_use"}}),
        stop(3),
        message_stop("tool_use"),
        METADATA,
    )
)
FULL_EVENTS: list[Event] = [
    Begin(),
    ThinkingDelta("h"),
    ThinkingDelta("m"),
    ThinkingEnd("sig", "", "anthropic"),
    TextDelta("Héllo", 1),
    ToolBegin(0, "a", "one"),
    ToolDelta(0, '{"x":'),
    ToolDelta(0, "1}"),
    ToolEnd(0),
    ToolBegin(1, "b", "two"),
    ToolEnd(1),
    Stopped(Finish.TOOL_CALLS),
    Used(Usage(input=5, output=3, raw=USAGE)),
    Ended(),
]


def test_a_stream() -> None:
    assert read(FULL) == FULL_EVENTS


@given(st.lists(st.integers(1, len(FULL)), min_size=1, max_size=20))
def test_any_pieces_give_the_same_events(sizes: list[int]) -> None:
    reader = stream_reader()
    out, at, n = [], 0, 0
    while at < len(FULL):
        out += reader.feed(FULL[at : at + sizes[n % len(sizes)]])
        at, n = at + sizes[n % len(sizes)], n + 1
    assert out + reader.close() == FULL_EVENTS


def test_the_end_is_metadata_or_the_connections_after_the_stop() -> None:
    assert read(MESSAGE_START, delta(0, {"text": "a"}), message_stop())[-2:] == [Stopped(Finish.STOP), Ended()]
    assert read(MESSAGE_START, delta(0, {"text": "a"}), stop(0)) == [Begin(), TextDelta("a")]
    assert read(MESSAGE_START, delta(0, {"text": "a"}), message_stop(), METADATA[:-3])[-1] == Ended()
    reader = stream_reader()
    assert reader.feed(FULL + MESSAGE_START) == FULL_EVENTS
    assert reader.feed(FULL) == []
    assert reader.close() == []


@pytest.mark.parametrize(
    "name",
    [
        "internalServerException",
        "modelStreamErrorException",
        "validationException",
        "throttlingException",
        "serviceUnavailableException",
    ],
)
def test_exceptions_are_faults_first_or_later(name: str) -> None:
    frame = exception_frame(name, {"message": "why"})
    fault = Fault({"__type": name, "message": "why"})
    assert read(frame, FULL) == [fault]
    assert read(MESSAGE_START, delta(0, {"text": "a"}), frame, FULL) == [Begin(), TextDelta("a"), fault]
    assert read(MESSAGE_START, message_stop(), frame)[-1] == fault


def test_a_broken_frame_is_a_fault_and_nothing_follows() -> None:
    damaged = bytearray(FULL)
    damaged[len(MESSAGE_START) + 30] ^= 1
    reader = stream_reader()
    events = reader.feed(bytes(damaged))
    assert events[0] == Begin()
    assert isinstance(events[1], Fault)
    assert events[1].error["__type"] == BROKEN
    assert len(events) == 2
    assert reader.feed(FULL) == reader.close() == []


def test_a_bare_body_instead_of_a_stream() -> None:
    bare = b'{"message":"Too many requests"}'
    expected = [Fault({"__type": "UnknownError", "message": "Too many requests"})]
    assert read(bare) == expected
    reader = stream_reader()
    events = [event for at in range(len(bare)) for event in reader.feed(bare[at : at + 1])]
    assert events + reader.close() == expected
    whole = read(json.dumps(body({"text": "a"}, usage=USAGE)).encode())
    assert [type(event) for event in whole] == [Begin, TextDelta, Stopped, Used, Ended]
    assert isinstance(read(b"{nonsense")[0], Fault)


def test_blocks_whose_end_is_not_told() -> None:
    assert read(
        delta(0, {"reasoningContent": {"text": "h"}}),
        delta(1, {"text": "a"}),
        start(2, {"toolUse": {"toolUseId": "a", "name": "one"}}),
        message_stop("end_turn"),
    ) == [
        Begin(),
        ThinkingDelta("h"),
        ThinkingEnd(),
        TextDelta("a", 1),
        ToolBegin(0, "a", "one"),
        ToolEnd(0),
        Stopped(Finish.TOOL_CALLS),
        Ended(),
    ]


def test_redacted_reasoning_in_pieces() -> None:
    events = read(
        delta(0, {"reasoningContent": {"redactedContent": "RXRr"}}),
        delta(0, {"reasoningContent": {"redactedContent": "RUNr"}}),
        stop(0),
        message_stop(),
    )
    assert events[1] == ThinkingEnd("", "EtkECk", "anthropic")


def test_tools_of_the_provider_do_not_leak_into_the_callers() -> None:
    events = read(
        start(0, {"toolUse": {"toolUseId": "s", "name": "nova_grounding", "type": "server_tool_use"}}),
        delta(0, {"toolUse": {"input": '{"q":1}'}}),
        stop(0),
        start(1, {"toolResult": {"toolUseId": "s", "type": "nova_grounding_result", "status": "success"}}),
        delta(1, {"toolResult": [{"text": "r"}]}),
        stop(1),
        delta(2, {"text": "It "}),
        delta(3, {"text": "is."}),
        delta(3, {"citation": {"location": {"web": {"url": "https://a.test"}}}}),
        delta(3, {"citation": {"location": {"documentChar": {}}}}),
        message_stop(),
    )
    server = {"toolUseId": "s", "name": "nova_grounding", "type": "server_tool_use", "input": {"q": 1}}
    assert events[1] == OpaqueBlock("converse", "server_tool_use", {"toolUse": server})
    assert isinstance(events[2], OpaqueBlock)
    assert events[2].raw["toolResult"]["content"] == [{"text": "r"}]
    (note,) = [event for event in events if isinstance(event, Annotated)]
    assert note.annotation["url_citation"] == {"url": "https://a.test", "title": "", "start_index": 3, "end_index": 6}
    assert Stopped(Finish.STOP) in events


def test_what_nobody_knows_is_left_out() -> None:
    reader = stream_reader()
    events = reader.feed(
        event_frame("somethingNew", {"a": 1})
        + MESSAGE_START
        + start(0, {"holograph": {}})
        + delta(0, {"holograph": "x"})
        + event_frame("contentBlockDelta", {"contentBlockIndex": 0})
        + event_frame("contentBlockStart", {})
        + delta(7, {"toolUse": {"input": "lost"}})
    )
    assert events == [Begin()]
    assert reader.dropped == 0


def test_frames_that_are_no_json_are_counted() -> None:
    from proxy.dialects.eventstream import encode

    reader = stream_reader()
    headers = {":event-type": "contentBlockDelta", ":message-type": "event"}
    assert reader.feed(encode(headers, b"nonsense") + encode(headers, b"[1]")) == []
    assert reader.dropped == 2


def test_malformed_answers_are_told_as_such() -> None:
    assert Stopped(Finish.MALFORMED) in read(MESSAGE_START, message_stop("malformed_tool_use"), METADATA)


# Writing streams ------------------------------------------------------------------------------------------------------


def written(events: list[Event]) -> bytes:
    writer = stream_writer(ASKED)
    return b"".join(writer.feed(event) for event in events if not isinstance(event, Ended)) + writer.end()


def test_a_stream_written_and_read_again() -> None:
    assert [event for event in read(written(FULL_EVENTS)) if not isinstance(event, Used)] == [
        event for event in FULL_EVENTS if not isinstance(event, Used)
    ]


def test_calls_side_by_side_keep_apart() -> None:
    events = read(
        written(
            [
                Begin(),
                TextDelta("a"),
                ToolBegin(0, "x", "one"),
                ToolBegin(1, "y", "two"),
                ToolDelta(1, "{}"),
                ToolDelta(0, '{"a":1}'),
                Stopped(Finish.TOOL_CALLS),
            ]
        )
    )
    assert [event.text for event in events if isinstance(event, ToolDelta) and event.index == 0] == ['{"a":1}']
    assert sum(isinstance(event, ToolEnd) for event in events) == 2


def test_usage_that_nobody_told_is_not_made_up() -> None:
    assert not any(isinstance(event, Used) for event in read(written([Begin(), TextDelta("a"), Stopped(Finish.STOP)])))


def test_a_failed_stream_ends_in_an_exception() -> None:
    writer = stream_writer(ASKED)
    raw = writer.feed(Begin()) + writer.feed(TextDelta("a"))
    raw += writer.fail({"message": "cut", "type": "server_error", "code": "stream_interrupted"})
    assert read(raw)[-1] == Fault({"__type": "internalServerException", "message": "cut"})


PARTS: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, text=st.text(min_size=1)),
    st.builds(Thinking, text=st.text(min_size=1)),
    st.builds(Thinking, text=st.text(min_size=1), signature=st.just("sig"), origin=st.just("anthropic")),
    st.builds(ToolCall, id=st.text(min_size=1), name=st.text(min_size=1), arguments=st.just('{"a":"é"}')),
)
FINISHES = st.sampled_from([Finish.LENGTH, Finish.CONTENT_FILTER, Finish.CONTEXT])


@given(st.lists(PARTS, min_size=1, max_size=5), FINISHES)
def test_any_answer_survives_whole_and_streamed(parts: list[Part], finish: Finish) -> None:
    answer = Answer(parts=tuple(parts), finish=finish, usage=Usage(input=1, cache_read=2, output=3))
    whole = read_answer(json.loads(json.dumps(write_answer(answer, ASKED))))
    assert (whole.parts, whole.finish) == (answer.parts, finish)
    assembler = Assembler()
    for event in read(written(list(events_of(answer)))):
        assembler.take(event)
    streamed = assembler.answer()
    assert (streamed.parts, streamed.finish) == (answer.parts, finish)
    for found in (whole, streamed):
        assert found.usage is not None
        assert (found.usage.input, found.usage.cache_read, found.usage.output) == (1, 2, 3)
