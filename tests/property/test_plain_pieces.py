"""The quick look at a piece of a stream agrees with the thorough one: what is plain holds nothing to be scanned for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import sse
from proxy.dialects.anthropic.reading import MessagesReader
from proxy.dialects.openai.reading import ChatReader
from proxy.dialects.reading import JsonEvents
from proxy.dialects.responses.reading import ResponsesReader

READERS: dict[str, Callable[[], JsonEvents]] = {
    "chat": ChatReader,
    "messages": MessagesReader,
    "responses": ResponsesReader,
}
words = st.sampled_from(["", "w", '"error"', '"finish_reason":"', "data: [DONE]", "\n\n", "\u2028", "é", '"usage":{'])
reasons = st.sampled_from([None, "", "stop", "end_turn"])
errors = st.sampled_from([{}, {"error": {"message": "m"}}, {"error": "m"}, {"error": None}])
usages = st.sampled_from([{}, {"usage": None}, {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}])
choices = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(0, 2), "delta": st.fixed_dictionaries({"content": words}), "finish_reason": reasons}
    ),
    max_size=2,
)
typed = st.sampled_from(
    ["content_block_delta", "message_delta", "message_stop", "response.output_text.delta", "response.completed", "ping"]
)
events: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda *parts: {key: value for part in parts for key, value in part.items()},
    st.one_of(st.just({}), choices.map(lambda found: {"choices": found})),
    st.one_of(st.just({}), typed.map(lambda kind: {"type": kind})),
    st.builds(lambda reason, word: {"delta": {"stop_reason": reason, "text": word}}, reasons, words),
    errors,
    usages,
)


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """One to three events, well formed or not, in every kind of line ends."""
    out = b""
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    for event in draw(st.lists(events, min_size=1, max_size=3)):
        data = orjson.dumps(event)
        damage = draw(st.sampled_from(["", "", "", "half", "spaced", "done", "comment", "two"]))
        if damage == "half":
            data = data[: len(data) // 2]
        elif damage == "spaced":
            data = data.replace(b":", b": ")
        elif damage == "done":
            data = b"[DONE]"
        lines = [b"data: " + data]
        if damage == "comment":
            lines.insert(0, b": ping")
        elif damage == "two":
            lines.append(b"data: {}")
        elif draw(st.booleans()) and "type" in event:
            lines.insert(0, b"event: " + str(event["type"]).encode())
        out += end.join(lines) + 2 * end
    return out


def state(reader: JsonEvents) -> tuple[Any, ...]:
    return reader.is_done, reader.is_finished, reader.usage, reader.error


@pytest.mark.parametrize("api", READERS)
@given(piece=pieces())
def test_what_is_plain_needs_no_scan(api: str, piece: bytes) -> None:
    quick, thorough = READERS[api](), READERS[api]()
    is_plain = quick.is_plain(piece)
    assert state(quick) == state(READERS[api]()), "a look changes nothing"
    if is_plain:
        assert sse.is_sound(piece)
        assert sse.events(piece) == [piece]
        assert thorough.scan(piece) == len(piece)
        assert state(thorough) == state(quick)


texts = st.one_of(st.text(max_size=5), st.sampled_from(['"', "\\", '","error":"', "\n\n", "\u2028", "\x00"]))


@pytest.mark.parametrize("api", READERS)
@given(said=st.lists(texts, min_size=1, max_size=4), piece=pieces(), around=st.binary(max_size=3), raw=st.data())
def test_another_event_of_many_is_plain(
    api: str, said: list[str], piece: bytes, around: bytes, raw: st.DataObject
) -> None:
    """Whatever was seen before: a piece that is another event is plain to a reader that has seen nothing."""
    reader = READERS[api]()
    event = EVENTS[api]
    for text in said:
        told = event.replace(b'"a"', b'"%b"' % orjson.dumps(text)[1:-1], 1) if raw.draw(st.booleans()) else event
        assert reader.is_another(around + told + around, len(around), len(around) + len(told))
    damaged = raw.draw(st.sampled_from([*DAMAGE, piece])) if raw.draw(st.booleans()) else piece
    made = event.replace(b'"a"', b'"%b"' % damaged, 1) if raw.draw(st.booleans()) else damaged
    another = reader.is_another(around + made + around, len(around), len(around) + len(made))
    assert another == (made.endswith(b"\n\n") and READERS[api]().is_plain(made))


DAMAGE = [
    b'"',
    b"\\",
    b'\\"',
    b"\n",
    b"\xff",
    b'","error":"',
    b'"},"finish_reason":"stop","x":{"y":"',
    b'","type":"message_stop',
]
"""What takes the place of a text and makes the event unsound, or another one."""
EVENTS = {
    "chat": b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n',
    "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
    "responses": b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n',
}


@pytest.mark.parametrize(
    ("api", "piece"),
    [
        ("chat", b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n'),
        ("messages", b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'),
        ("responses", b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n'),
    ],
)
def test_what_streams_are_made_of_is_plain(api: str, piece: bytes) -> None:
    assert READERS[api]().is_plain(piece)
    assert not READERS[api]().is_plain(piece + piece)
    assert not READERS[api]().is_plain(piece[:-1])
