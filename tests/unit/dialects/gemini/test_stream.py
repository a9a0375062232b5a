"""Streams of Gemini read and written: the pitfalls of `providers.md` 2.9 in fixtures of our own."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import gemini
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    OpaqueBlock,
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
from proxy.dialects.gemini import stream
from tests.unit.dialects.gemini.heard import ASKED, heard, read, rewritten


def chunk(*parts: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "responseId": "r1", "modelVersion": "gemini-x", **more}


def sse(*events: Any, end: bytes = b"\r\n") -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + end + end for event in events)


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": args}}


def told(**counts: int) -> dict[str, Any]:
    return {"usageMetadata": counts}


def after_begin(body: bytes) -> list[Event]:
    events = read(body, [])
    assert isinstance(events[0], Begin)
    return events[1:]


def test_text_usage_and_end() -> None:
    body = sse(
        chunk({"text": "Hel"}, **told(promptTokenCount=7, totalTokenCount=7)),
        chunk({"text": "lo"}, **told(promptTokenCount=7, candidatesTokenCount=1, totalTokenCount=8)),
        chunk({"text": ""}, finish="STOP", **told(promptTokenCount=7, candidatesTokenCount=2, thoughtsTokenCount=5)),
    )
    events = read(body, [])
    begin = events[0]
    assert isinstance(begin, Begin)
    assert (begin.id, begin.model, begin.created) == ("r1", "gemini-x", None)
    assert begin.usage is not None
    assert begin.usage.prompt == 7
    used = events[4]
    assert isinstance(used, Used)
    assert (used.usage.prompt, used.usage.output, used.usage.reasoning) == (7, 7, 5)  # thoughts are output
    assert events[1:4] + events[5:] == [TextDelta("Hel", 0), TextDelta("lo", 0), Stopped(Finish.STOP), Ended()]


def test_calls_are_counted_over_the_whole_stream() -> None:  # P1, P3, P5, P9
    body = sse(chunk(call("a", x=1), call("b")), chunk(call("a", x=1)), chunk(finish="STOP"))
    assert after_begin(body) == [
        ToolBegin(0, "", "a"),
        ToolDelta(0, '{"x":1}'),
        ToolEnd(0),
        ToolBegin(1, "", "b"),
        ToolDelta(1, "{}"),
        ToolEnd(1),
        ToolBegin(2, "", "a"),
        ToolDelta(2, '{"x":1}'),
        ToolEnd(2),
        Stopped(Finish.TOOL_CALLS),
        Ended(),
    ]


def test_thoughts_and_signatures() -> None:
    body = sse(
        chunk({"text": "hm", "thought": True}),
        chunk({"text": "!", "thought": True, "thoughtSignature": "s1"}),
        chunk({"functionCall": {"name": "f", "id": "c1"}, "thoughtSignature": "s2"}, finish="STOP"),
    )
    assert after_begin(body) == [
        ThinkingDelta("hm", 0),
        ThinkingDelta("!", 0),
        ThinkingEnd("s1", origin="gemini"),
        ToolBegin(0, "c1", "f", signature="s2"),
        ToolDelta(0, "{}"),
        ToolEnd(0),
        Stopped(Finish.TOOL_CALLS),
        Ended(),
    ]


def test_a_thought_without_signature_ends_where_text_begins() -> None:
    body = sse(chunk({"text": "hm", "thought": True}), chunk({"text": "a"}), chunk(finish="STOP"))
    assert after_begin(body) == [
        ThinkingDelta("hm", 0), ThinkingEnd(), TextDelta("a", 1), Stopped(Finish.STOP), Ended(),
    ]  # fmt: skip


def test_arguments_in_pieces() -> None:
    def pieces(*given: tuple[str, Any, bool], goes_on: bool = True) -> dict[str, Any]:
        kinds = {str: "stringValue", bool: "boolValue", float: "numberValue", type(None): "nullValue"}
        listed = [{"jsonPath": at, kinds[type(value)]: value, "willContinue": more} for at, value, more in given]
        return {"functionCall": {"partialArgs": listed, "willContinue": goes_on}}

    body = sse(
        chunk({"functionCall": {"name": "f", "willContinue": True}}),
        chunk(pieces(("$.a", "Bos", True))),
        chunk(pieces(("$.a", "ton", False), ("$.b[0].c", 0.5, False))),
        chunk(pieces(("$.b[1].c", None, False), ("$['d e']", True, False))),
        chunk({"functionCall": {}}),
        chunk({"functionCall": {"name": "g", "willContinue": True}}),
        chunk(pieces(("$.a", "x", False), goes_on=False)),
        chunk({"functionCall": {"name": "h", "willContinue": True}}),
        chunk({"text": ""}, finish="STOP"),
    )
    assert heard(read(body, [5])).calls == [
        ("", "f", {"a": "Boston", "b": [{"c": 0.5}, {"c": None}], "d e": True}, ""),
        ("", "g", {"a": "x"}, ""),
        ("", "h", {}, ""),
    ]


def test_a_call_cut_in_its_pieces_is_not_ended() -> None:
    body = sse(chunk({"functionCall": {"name": "f", "willContinue": True}}))
    assert after_begin(body) == [ToolBegin(0, "", "f")]


@pytest.mark.parametrize("path", ["$", "$[0]", "a", "$.a[99999999]", "$.a.b", "", 5])
def test_odd_paths_are_passed_over(path: Any) -> None:
    part = {
        "functionCall": {"name": "f", "args": {"a": [1]}, "partialArgs": [{"jsonPath": path, "stringValue": "x"}, 3]}
    }
    (found,) = heard(read(sse(chunk(part, finish="STOP")), [])).calls
    assert found[1] == "f"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", Finish.STOP),
        (1, Finish.STOP),
        ("MAX_TOKENS", Finish.LENGTH),
        (2, Finish.LENGTH),
        ("SAFETY", Finish.CONTENT_FILTER),
        ("IMAGE_SAFETY", Finish.CONTENT_FILTER),
        ("MODEL_ARMOR", Finish.CONTENT_FILTER),
        ("MALFORMED_FUNCTION_CALL", Finish.MALFORMED),
        ("MISSING_THOUGHT_SIGNATURE", Finish.MALFORMED),
        ("OTHER", Finish.MALFORMED),
        ("CONTINUATION", Finish.PAUSE),
        ("BRAND_NEW", Finish.UNKNOWN),
        (99, Finish.UNKNOWN),
    ],
)
def test_reasons(reason: Any, finish: Finish) -> None:
    assert after_begin(sse(chunk({"text": "a"}, finish=reason)))[-2:] == [Stopped(finish), Ended()]
    assert gemini.read_answer(chunk({"text": "a"}, finish=reason)).finish is finish


def test_a_blocked_prompt() -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no"}}
    assert after_begin(sse(body)) == [Stopped(Finish.CONTENT_FILTER, explanation="no"), Ended()]
    answer = gemini.read_answer(body)
    assert (answer.parts, answer.finish) == ((), Finish.CONTENT_FILTER)


def test_a_cut_is_no_end() -> None:  # P48
    body = sse(chunk({"text": "a"}, **told(promptTokenCount=3, candidatesTokenCount=1)))
    events = after_begin(body)
    assert events[0] == TextDelta("a", 0)
    assert all(isinstance(event, Used) for event in events[1:])


def test_a_last_event_without_its_blank_line_counts() -> None:
    body = sse(chunk({"text": "a"})) + sse(chunk({"text": "b"}, finish="STOP")).rstrip()
    assert after_begin(body) == [TextDelta("a", 0), TextDelta("b", 0), Stopped(Finish.STOP), Ended()]


ERROR = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}


@pytest.mark.parametrize(
    "tail",
    [
        orjson.dumps({"error": ERROR}),
        orjson.dumps({"error": ERROR}, option=orjson.OPT_INDENT_2) + b"\n",
        orjson.dumps({"error": ERROR}, option=orjson.OPT_INDENT_2) + b"\r\n\r\n",
        orjson.dumps([{"error": ERROR}]),
        sse({"error": ERROR}),
        sse([{"error": ERROR}]),
        b"data: {}\n" + orjson.dumps({"error": ERROR}),
        b'data: {"candid\n' + orjson.dumps({"error": ERROR}),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_errors_in_the_stream(tail: bytes, size: int) -> None:  # P47, P49
    events = read(sse(chunk({"text": "a"})) + tail, [size])
    assert events[-1] == Fault(ERROR)
    assert events[1:-1] == [TextDelta("a", 0)]


def test_nothing_follows_a_fault() -> None:
    reader = gemini.stream_reader()
    assert reader.feed(sse({"error": ERROR}, chunk({"text": "a"}, finish="STOP"))) == [Fault(ERROR)]
    assert reader.feed(sse(chunk({"text": "b"}))) == []
    assert reader.close() == []


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: [error]])
def test_a_bare_error_instead_of_a_stream(wrap: Any) -> None:
    assert read(orjson.dumps(wrap({"error": ERROR}), option=orjson.OPT_INDENT_2), [3]) == [Fault(ERROR)]


@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2])
def test_an_array_without_events(option: int) -> None:
    chunks = [chunk({"text": 'a"}]{\\'}), chunk(call("f", q="{[")), chunk({"text": "ä\u2028"}, finish="STOP")]
    body = orjson.dumps(chunks, option=option)
    expected = read(sse(*chunks), [])
    for size in (1, 2, 3, 1 << 20):
        assert read(body, [size]) == expected
    assert read(body[: len(body) // 3], [])[-1] == TextDelta('a"}]{\\', 0)  # each is told as soon as it is whole


def test_what_is_no_event_is_counted_and_skipped() -> None:
    reader = gemini.stream_reader()
    events = reader.feed(b": ping\n\ndata: nonsense\n\ndata: 3\n\ndata:\n\n" + sse(chunk({"text": "a"}), end=b"\n"))
    assert [type(event) for event in events] == [Begin, TextDelta]
    assert reader.dropped == 2


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": None},
        {"candidates": []},
        {"candidates": ["x"]},
        {"candidates": [{"content": None}]},
        {"candidates": [{"content": {"parts": None}}]},
        {"candidates": [{"content": {"parts": [None, {}, 3]}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": None}, {"functionCall": {"args": {}}}]}}]},
        {"candidates": [{"content": "x"}], "usageMetadata": []},
        {"usageMetadata": {"promptTokenCount": None}, "createTime": "soon", "responseId": 3},
        {"promptFeedback": {"safetyRatings": []}},
        {"candidates": [{"content": {"parts": []}, "citationMetadata": {"citationSources": [{}, 3]}}]},
    ],
)
def test_odd_shapes_say_nothing_and_raise_nothing(odd: dict[str, Any]) -> None:
    assert [type(event) for event in read(sse(odd), []) if not isinstance(event, Used)] == [Begin]
    answer = gemini.read_answer(odd)
    assert (answer.parts, answer.finish) == ((), Finish.STOP)  # for whoever called: a failed attempt


def test_hosted_tools_are_no_calls() -> None:  # P8
    code = {"executableCode": {"code": "1", "language": "PYTHON"}, "thoughtSignature": "s"}
    assert after_begin(sse(chunk(code, {"text": "a"}, finish="STOP"))) == [
        OpaqueBlock("gemini", "executableCode", code), TextDelta("a", 1), Stopped(Finish.STOP), Ended(),
    ]  # fmt: skip


def test_sources_of_grounded_text() -> None:
    last = chunk({"text": "grün ist"}, finish="STOP")
    last["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "t"}}],
        "groundingSupports": [{"segment": {"startIndex": 6, "endIndex": 9}, "groundingChunkIndices": [0, 7]}],
    }
    cited = {"start_index": 5, "end_index": 8, "url": "https://a.example", "title": "t"}
    assert Annotated({"type": "url_citation", "url_citation": cited}) in read(sse(last), [])
    (text,) = gemini.read_answer(last).parts
    assert text.annotations == ({"type": "url_citation", "url_citation": cited},)  # type: ignore[union-attr]


@pytest.mark.parametrize(("most", "is_told"), [(8, True), (7, False)])
def test_text_kept_for_sources_has_a_limit(monkeypatch: pytest.MonkeyPatch, most: int, is_told: bool) -> None:
    monkeypatch.setattr(stream, "TEXT_MAX", most)
    last = chunk({"text": " ist"}, finish="STOP")
    last["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "t"}}],
        "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 5}, "groundingChunkIndices": [0]}],
    }
    events = read(sse(chunk({"text": "grün"}), last), [])
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["grün", " ist"]
    assert any(isinstance(event, Annotated) for event in events) is is_told


def test_megabytes_in_one_event_do_not_take_forever() -> None:
    body = sse(chunk({"text": "x" * 3_000_000}, finish="STOP"))
    assert len(heard(read(body, [4096])).text) == 3_000_000
    assert len(heard(read(b"[" + body[6:-4] + b"]", [4096])).text) == 3_000_000


# Any cut --------------------------------------------------------------------------------------------------------------

texts = st.text(max_size=12)
parts_of_any_kind = st.one_of(
    st.builds(lambda text: {"text": text}, texts),
    st.builds(
        lambda text, sig: {"text": text, "thought": True, **({"thoughtSignature": sig} if sig else {})}, texts, texts
    ),
    st.builds(lambda args: {"functionCall": {"name": "f", "args": args}}, st.dictionaries(texts, texts, max_size=2)),
)
streams = st.lists(st.lists(parts_of_any_kind, max_size=3), max_size=5)


@given(
    streams,
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
)
def test_any_cut_gives_the_same_events(made: list[list[Any]], sizes: list[int], end: bytes, array: bool) -> None:
    chunks = [chunk(*parts) for parts in made] + [chunk(finish="STOP")]
    body = orjson.dumps(chunks) if array else sse(*chunks, end=end)
    expected = read(body, [])
    assert read(body, sizes) == expected
    assert isinstance(expected[-1], Ended)
    assert heard(read(rewritten(expected), sizes)) == heard(expected)


# Writing --------------------------------------------------------------------------------------------------------------


def test_calls_of_other_dialects_arrive_whole() -> None:
    events: list[Event] = [
        Begin("id", "m"),
        ToolBegin(0, "c0", "a"),
        ToolBegin(1, "c1", "b"),
        ToolDelta(0, '{"x":'),
        ToolDelta(1, '{"broken'),
        ToolDelta(0, "1}"),
        ToolEnd(0),
        Stopped(Finish.TOOL_CALLS),
        Used(Usage(input=2, cache_read=3, output=9, reasoning=4)),
    ]
    got = heard(read(rewritten(events), []))
    assert got.calls == [("c0", "a", {"x": 1}, ""), ("c1", "b", {"_raw": '{"broken'}, "")]
    assert (got.finish, got.usage) == ("tool_calls", (5, 3, 9))


def test_signatures_of_others_are_not_handed_on() -> None:
    assert b"secret" not in rewritten([Begin(), ThinkingDelta("a"), ThinkingEnd("secret", origin="anthropic")])


def test_an_interrupted_stream_ends_with_an_error() -> None:  # P51, P52
    writer = gemini.stream_writer(ASKED)
    out = writer.feed(Begin()) + writer.feed(TextDelta("a"))
    out += writer.fail({"message": "upstream stream interrupted", "type": "server_error", "code": "x"})
    events = read(out, [])
    assert events[-1] == Fault({"code": 500, "message": "upstream stream interrupted", "status": "INTERNAL"})
