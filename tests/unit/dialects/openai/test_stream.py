from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import openai
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

DONE = b"data: [DONE]\n\n"
SEED = "abcdef0123456789abcdef0123456789"


def sse(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse({"id": "c1", "created": 7, "model": "m", "choices": [choice], **more})


def call(index: int | None = 0, **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {} if index is None else {"index": index}
    function = {key: more.pop(key) for key in ("name", "arguments") if key in more}
    return {"tool_calls": [{**entry, **more, "function": function}]}


def read(*pieces: bytes, close: bool = True) -> list[Event]:
    reader = openai.stream_reader()
    out = [event for piece in pieces for event in reader.feed(piece)]
    return out + (reader.close() if close else [])


def said(*pieces: bytes) -> list[Event]:
    """Events without the first and the last ones that every complete stream has."""
    return [event for event in read(*pieces, DONE) if not isinstance(event, Begin | Stopped | Ended)]


def asked(**more: Any) -> Asked:
    return Asked(body=more.pop("body", {}), created=5, seed=SEED, model="target", **more)


def write(events: list[Event], to: Asked | None = None) -> list[dict[str, Any]]:
    writer = openai.stream_writer(to or asked())
    raw = b"".join(writer.feed(event) for event in events) + writer.end()
    assert raw.endswith(DONE)
    return [orjson.loads(line[6:]) for line in raw.split(b"\n\n")[:-2]]


def deltas(events: list[Event], to: Asked | None = None) -> list[dict[str, Any]]:
    return [each["choices"][0]["delta"] for each in write(events, to) if each["choices"]]


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_plain_stream() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    events = read(
        chunk({"role": "assistant", "content": ""}, service_tier="default"),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        sse({"choices": [], "usage": usage}),
        DONE,
    )
    assert events == [
        Begin("c1", "m", 7, None, "default"),
        TextDelta("Hel"),
        TextDelta("lo"),
        Stopped(Finish.STOP),
        Used(Usage(input=4, cache_read=5, output=4, raw=usage)),
        Ended(),
    ]


def test_azure_begins_with_a_chunk_without_choices_or_delta() -> None:
    first = sse({"id": "", "model": "", "choices": [], "prompt_filter_results": [{}]})
    only_filter = sse({"choices": [{"index": 0, "content_filter_offsets": {}, "delta": None}]})
    events = read(first, chunk({"content": "a"}), only_filter, chunk({}, "content_filter"), DONE)
    assert events[0] == Begin("c1", "m", 7)
    assert events[1:] == [TextDelta("a"), Stopped(Finish.CONTENT_FILTER), Ended()]


def test_parallel_calls_that_come_in_one_chunk_stay_apart() -> None:
    both = {"tool_calls": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 0, "id": "b", "function": {"name": "f", "arguments": '{"x":1}'}},
    ]}  # fmt: skip
    expected = [ToolBegin(0, "a", "f"), ToolDelta(0, "{}"), ToolBegin(1, "b", "f"), ToolDelta(1, '{"x":1}')]
    assert said(chunk(both)) == [*expected, ToolEnd(0), ToolEnd(1)]
    for entry in both["tool_calls"]:
        del entry["index"]
    assert said(chunk(both))[:4] == expected
    for entry in both["tool_calls"]:
        entry["id"], entry["index"] = "", 0
    assert [event.index for event in said(chunk(both)) if isinstance(event, ToolBegin)] == [0, 1]


def test_whole_calls_under_one_index_in_several_chunks_stay_apart() -> None:
    first = chunk(call(0, id="", name="f", arguments='{"x":1}'))
    second = chunk(call(0, id="", name="f", arguments='{"x":2}'))
    assert [event for event in said(first, second) if isinstance(event, ToolDelta)] == [
        ToolDelta(0, '{"x":1}'),
        ToolDelta(1, '{"x":2}'),
    ]


def test_interleaved_fragments_find_their_call() -> None:
    events = said(
        chunk(call(0, id="a", name="f", arguments="")),
        chunk(call(1, id="b", name="g", arguments="")),
        chunk(call(1, arguments="{")),
        chunk(call(0, arguments="{")),
        chunk(call(1, arguments="}")),
        chunk(call(0, arguments="}")),
    )
    assert events == [
        ToolBegin(0, "a", "f"),
        ToolBegin(1, "b", "g"),
        ToolDelta(1, "{"),
        ToolDelta(0, "{"),
        ToolDelta(1, "}"),
        ToolDelta(0, "}"),
        ToolEnd(0),
        ToolEnd(1),
    ]


def test_an_id_and_name_in_every_fragment_are_one_call() -> None:
    events = said(
        chunk(call(0, id="a", name="f", arguments="{")),
        chunk(call(0, id="a", name="f", arguments="}")),
        chunk(call(0, id="a", name="f", arguments="")),
    )
    assert events == [ToolBegin(0, "a", "f"), ToolDelta(0, "{"), ToolDelta(0, "}"), ToolEnd(0)]


def test_a_name_or_id_that_comes_late() -> None:
    late_name = said(chunk(call(0, id="a")), chunk(call(0, arguments="{")), chunk(call(0, name="f", arguments="}")))
    assert late_name == [ToolBegin(0, "a", "f"), ToolDelta(0, "{}"), ToolEnd(0)]
    late_id = said(chunk(call(0, name="f")), chunk(call(0, id="a")), chunk(call(0, arguments="{}")))
    assert late_id == [ToolBegin(0, "a", "f"), ToolDelta(0, "{}"), ToolEnd(0)]
    assert said(chunk(call(0, name="f"), "tool_calls")) == [ToolBegin(0, "", "f"), ToolEnd(0)]


def test_a_missing_index_goes_on_with_the_last_call() -> None:
    events = said(chunk(call(None, id="a", name="f", arguments="{")), chunk(call(None, arguments="}")))
    assert events == [ToolBegin(0, "a", "f"), ToolDelta(0, "{"), ToolDelta(0, "}"), ToolEnd(0)]


def test_arguments_as_an_object_and_the_old_form() -> None:
    assert said(chunk(call(0, id="a", name="f", arguments={"x": 1})))[1] == ToolDelta(0, '{"x":1}')
    old = said(chunk({"function_call": {"name": "f", "arguments": ""}}), chunk({"function_call": {"arguments": "{}"}}))
    assert old == [ToolBegin(0, "", "f"), ToolDelta(0, "{}"), ToolEnd(0)]


def test_custom_calls_and_signatures() -> None:
    custom = {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x y"}}]}
    assert said(chunk(custom)) == [ToolBegin(0, "a", "f", True), ToolDelta(0, "x y"), ToolEnd(0)]
    signed = call(0, id="a", name="f", extra_content={"google": {"thought_signature": "sig"}})
    assert said(chunk(signed))[0] == ToolBegin(0, "a", "f", False, "sig")


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("stop", Finish.STOP),
        ("length", Finish.LENGTH),
        ("content_filter", Finish.CONTENT_FILTER),
        ("eos", Finish.STOP),
        ("model_length", Finish.CONTEXT),
        ("tool_calls", Finish.STOP),
        ("something", Finish.UNKNOWN),
    ],
)
def test_finish_reasons(word: str, finish: Finish) -> None:
    assert read(chunk({"content": "a"}), chunk({}, word), DONE)[-2] == Stopped(finish)


def test_stop_although_a_tool_was_called() -> None:
    assert read(chunk(call(0, id="a", name="f")), chunk({}, "stop"))[-2] == Stopped(Finish.TOOL_CALLS)
    assert read(chunk(call(0, id="a", name="f")), chunk({}, "length"))[-2] == Stopped(Finish.LENGTH)


def test_content_beside_the_finish_reason_comes_first_and_is_not_lost_behind_it() -> None:
    assert read(chunk({"content": "a"}, "stop"), chunk({"content": "b"}))[1:] == [
        TextDelta("a"),
        Stopped(Finish.STOP),
        TextDelta("b"),
        Ended(),
    ]


def test_a_finish_reason_that_is_repeated_counts_once() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    events = read(chunk({"content": "a"}, "stop"), chunk({}, "stop", usage=usage), chunk({}, None, usage=usage), DONE)
    assert [type(event) for event in events] == [Begin, TextDelta, Stopped, Used, Ended]


def test_done_without_a_finish_reason_is_an_end_and_silence_is_none() -> None:
    assert read(chunk({"content": "a"}), DONE)[-2:] == [Stopped(Finish.STOP), Ended()]
    assert read(chunk({"content": "a"})) == [Begin("c1", "m", 7), TextDelta("a")]
    assert read(chunk({"content": "a"}), chunk({}, "stop"))[-1] == Ended()
    assert read(DONE)[-2:] == [Stopped(Finish.UNKNOWN), Ended()]


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (sse({"error": {"message": "x", "code": 429}}), {"message": "x", "code": 429}),
        (sse({"error": "plain"}), {"message": "plain"}),
        (sse({"error": {"code": 502}, "choices": [{"finish_reason": "error"}]}), {"code": 502}),
        (b'event: error\ndata: {"message":"x"}\n\n', {"message": "x"}),
        (b'error: {"detail":"d","error":{"message":"x"}}\n\n', {"message": "x"}),
        (b'{"error":{"message":"bare"}}\n\n', {"message": "bare"}),
        (sse({"object": "error", "message": "x"}), {"object": "error", "message": "x"}),
        (sse({"choices": [], "x_groq": {"error": "over"}}), {"message": "over"}),
        (chunk({}, "insufficient_system_resource"), None),
    ],
)
def test_errors_end_the_stream(piece: bytes, error: dict[str, Any] | None) -> None:
    events = read(chunk({"content": "a"}), piece, chunk({"content": "b"}), DONE)
    assert isinstance(events[-1], Fault)
    assert error is None or events[-1].error == error
    assert TextDelta("b") not in events


def test_an_error_without_a_blank_line_at_the_end() -> None:
    for rest in (b'{"error":{"message":"x"}}', b'data: {"error":{"message":"x"}}', b'error: {"message":"x"}\n'):
        assert read(chunk({"content": "a"}), rest)[-1] == Fault({"message": "x"})
    assert read(chunk({"content": "a"}), b'data: {"choices":[{"delta":{"con')[-1] == TextDelta("a")
    assert read(chunk({"content": "a"}), chunk({}, "stop")[:-2])[-2:] == [Stopped(Finish.STOP), Ended()]


def test_what_is_no_event_is_counted_and_skipped() -> None:
    reader = openai.stream_reader()
    events = reader.feed(b"data: {half\n\n" + b": ping\n\n" + b"data: [1]\n\n" + chunk({"content": "a"}))
    assert events == [Ping(), Begin("c1", "m", 7), TextDelta("a")]
    assert reader.dropped == 2


def test_reasoning_in_all_its_members() -> None:
    for name in ("reasoning_content", "reasoning"):
        assert said(chunk({name: "hm"}), chunk({"content": "a"})) == [
            ThinkingDelta("hm", 1),
            ThinkingEnd(),
            TextDelta("a"),
        ]
    both = {"reasoning": "hm", "reasoning_content": "hm", "content": "a"}
    assert said(chunk(both)) == [ThinkingDelta("hm", 1), ThinkingEnd(), TextDelta("a")]
    part = {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    }
    assert said(chunk(part)) == [ThinkingDelta("hm", 1), ThinkingEnd(), TextDelta("a")]


def test_signatures_of_openrouter_end_their_block() -> None:
    claude = "anthropic-claude-v1"
    events = said(
        chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "format": claude}]}),
        chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "s", "format": claude}]}),
        chunk({"content": "a"}),
    )
    assert events == [ThinkingDelta("hm", 1), ThinkingEnd("s", origin="anthropic"), TextDelta("a")]
    closed = {"type": "reasoning.encrypted", "data": "d", "format": "openai-responses-v1", "id": "rs_1"}
    assert said(chunk({"reasoning_details": [closed]})) == [
        ThinkingEnd(redacted="d", origin="openrouter:openai-responses-v1", id="rs_1")
    ]


def test_rare_members() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "u"}}
    events = said(chunk({"annotations": [cited], "refusal": "no", "audio": {"data": "x"}}))
    assert events == [RefusalDelta("no"), Annotated(cited), OpaqueBlock("chat", "audio", {"data": "x"})]


STREAM = (
    b": wait\r\n\r\n"
    + chunk({"role": "assistant", "content": ""}).replace(b"\n\n", b"\r\n\r\n")
    + chunk({"reasoning_content": "h\u00e9 \u2028"})
    + chunk({"content": "\u4f60\u597d"})
    + b"data: broken\n\n\n\n"
    + chunk(call(0, id="a", name="f", arguments="{"))
    + chunk(call(0, arguments="}")).replace(b"\n\n", b"\r\r")
    + chunk({}, "tool_calls")
    + sse({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_any_cut_gives_the_same_events(cuts: list[int], done: bool) -> None:
    stream = STREAM + (DONE if done else b"")
    at = [0, *sorted(cuts), len(stream)]
    pieces = [stream[one:two] for one, two in pairwise(at)]
    assert read(*pieces) == read(stream)


def test_a_huge_event_costs_one_pass() -> None:
    piece = chunk({"content": "x" * 4_000_000})
    events = read(*(piece[i : i + 1024] for i in range(0, len(piece), 1024)))
    assert isinstance(events[1], TextDelta)
    assert len(events[1].text) == 4_000_000


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_stream_as_openai_writes_it() -> None:
    out = write([Begin("i", "m", 3), TextDelta("a"), Stopped(Finish.STOP), Used(Usage(input=2, output=1))])
    assert [each["choices"][0]["delta"] if each["choices"] else None for each in out] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "a"},
        {},
        None,
    ]
    assert {(each["id"], each["object"], each["created"], each["model"]) for each in out} == {
        ("i", "chat.completion.chunk", 3, "m")
    }
    assert [each["choices"][0]["finish_reason"] for each in out[:3]] == [None, None, "stop"]
    assert [each["usage"] is None for each in out] == [True, True, True, False]
    assert out[-1]["usage"]["total_tokens"] == 3


def test_usage_only_for_those_who_want_it() -> None:
    out = write([TextDelta("a"), Stopped(Finish.LENGTH), Used(Usage(input=2))], asked(include_usage=False))
    assert all("usage" not in each for each in out)
    assert out[0]["id"] == f"chatcmpl-{SEED}"
    assert (out[0]["created"], out[0]["model"]) == (5, "target")
    assert out[-1]["choices"][0]["finish_reason"] == "length"


def test_calls_are_numbered_and_never_without_arguments() -> None:
    out = deltas(
        [ToolBegin(0, "a", "f", False, "sig"), ToolEnd(0), ToolBegin(1, "b", "g"), ToolDelta(1, "{}"), ToolEnd(1)]
    )[1:]
    assert out[:4] == [
        {"tool_calls": [{
            "index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""},
            "extra_content": {"google": {"thought_signature": "sig"}},
        }]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]  # fmt: skip


def test_a_function_that_stands_for_a_custom_tool_is_told_as_one() -> None:
    body = {"tools": [{"type": "custom", "custom": {"name": "f"}}]}
    events: list[Event] = [ToolBegin(0, "a", "f"), ToolDelta(0, '{"inp'), ToolDelta(0, 'ut":"x\\ny"}'), ToolEnd(0)]
    out = deltas(events, asked(body=body))[1:]
    assert out[:2] == [
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "x\ny"}}]},
    ]
    own: list[Event] = [ToolBegin(0, "a", "f", True), ToolDelta(0, "{"), ToolEnd(0)]
    assert deltas(own)[2] == {"tool_calls": [{"index": 0, "custom": {"input": "{"}}]}


def test_callers_of_the_old_form_get_it() -> None:
    events: list[Event] = [ToolBegin(0, "a", "f"), ToolEnd(0), ToolBegin(1, "b", "g"), Stopped(Finish.TOOL_CALLS)]
    out = write(events, asked(body={"functions": [{"name": "f"}]}, include_usage=False))
    assert [each["choices"][0]["delta"] for each in out[1:]] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        {},
    ]
    assert out[-1]["choices"][0]["finish_reason"] == "function_call"


def test_reasoning_is_text_and_what_makes_it_replayable_a_block() -> None:
    events: list[Event] = [
        ThinkingDelta("h"), ThinkingDelta("m"), ThinkingEnd("s", origin="anthropic"),
        ThinkingEnd(redacted="d", origin="openai", id="rs_1"), ThinkingDelta("x"), ThinkingEnd(),
    ]  # fmt: skip
    assert deltas(events)[1:-1] == [
        {"reasoning_content": "h"},
        {"reasoning_content": "m"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "d", "origin": "openai", "id": "rs_1"}]},
        {"reasoning_content": "x"},
    ]
    assert deltas(events, asked(shows_thinking=False))[1:-1] == []
    writer = openai.stream_writer(asked())
    again = read(b"".join(writer.feed(event) for event in events))
    assert [event for event in again if isinstance(event, ThinkingEnd)] == [events[2], events[3]]


def test_refusals_citations_and_closed_blocks() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "u"}}
    events: list[Event] = [
        OpaqueBlock("messages", "server_tool_use", {}),
        OpaqueBlock("chat", "audio", {"data": "x"}),
        Ping(),
        Annotated(cited),
        Stopped(Finish.CONTENT_FILTER, None, "because"),
    ]
    whole = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 0, "title": "", "url": "u"}}
    assert deltas(events)[1:] == [{"audio": {"data": "x"}}, {"annotations": [whole]}, {"refusal": "because"}, {}]


def test_an_interrupted_stream_ends_with_an_error_and_no_mark_of_the_end() -> None:
    writer = openai.stream_writer(asked())
    writer.feed(TextDelta("a"))
    out = writer.fail({"message": "gone", "type": "server_error", "code": "stream_interrupted"})
    assert orjson.loads(out[6:]) == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "stream_interrupted"}
    }
    assert out.startswith(b"data: ")
    assert out.endswith(b"\n\n")
    assert b"[DONE]" not in out
