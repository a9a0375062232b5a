from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import sse

ENDS = ("\n", "\r\n", "\r")


def reference(text: str) -> list[str | None]:
    """The data of every whole event, by the letter of the standard: lines first, then blank lines."""
    out: list[str | None] = []
    data: list[str] = []
    seen = False
    for line in re.findall(r"[^\r\n]*(?:\r\n|\n|\r)", text):
        bare = line.rstrip("\r\n")
        if not bare:
            if seen:
                out.append("\n".join(data) if data else None)
            data, seen = [], False
            continue
        seen = True
        name, _, value = bare.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
    return out


def fed(pieces: list[bytes]) -> tuple[list[bytes | None], bytes]:
    """What a reader sees that gets `pieces`: the data of every event, and what is left over."""
    buffer, seen = b"", []
    for piece in pieces:
        buffer += piece
        at = 0
        while (end := sse.next_event(buffer, at)) > 0:
            seen.append(sse.data_of(buffer[at:end]))
            at = end
        buffer = buffer[at:]
    return seen, buffer


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(c % (len(raw) + 1) for c in cuts), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(places)]


VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
LINES = st.one_of(
    VALUES.map("data: {}".format),
    VALUES.map("data:{}".format),
    st.just("data"),
    VALUES.map(":{}".format),
    VALUES.map("event: {}".format),
    VALUES.map("id: {}".format),
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5)


@given(events=EVENTS, end=st.sampled_from(ENDS), cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_any_chunking_gives_the_events_of_the_standard(events: list[list[str]], end: str, cuts: list[int]) -> None:
    text = "".join("".join(line + end for line in event) + end for event in events)
    raw = text.encode()
    expected = [None if data is None else data.encode() for data in reference(text)]
    assert fed(cut(raw, cuts)) == (expected, b"")
    assert fed([raw[i : i + 1] for i in range(len(raw))]) == (expected, b"")
    assert [sse.data_of(event) for event in sse.events(raw)] == expected


def test_pieces_may_end_inside_a_line_end_and_inside_a_character() -> None:
    raw = "data: é \u2028 \u0085 🎈\r\n\r\ndata: b\r\n\r\n".encode()
    expected = ["é \u2028 \u0085 🎈".encode(), b"b"]
    for i in range(len(raw)):
        for j in range(i, len(raw)):
            assert fed([raw[:i], raw[i:j], raw[j:]]) == (expected, b"")


@given(pieces=st.lists(st.sampled_from([b"a", b"data: x", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"]), max_size=9))
def test_whole_events_ends_behind_the_last_event_and_never_inside_one(pieces: list[bytes]) -> None:
    buffer = b"".join(pieces)
    end = sse.whole_events(buffer)
    assert 0 <= end <= len(buffer)
    assert end >= sum(map(len, sse.events(buffer)))
    assert sse.next_event(buffer[end:]) == -1  # nothing whole is left behind
    if end:
        assert buffer[:end].endswith((b"\n\n", b"\r\r", b"\n\r\n"))


@pytest.mark.parametrize(
    ("buffer", "end"),
    [
        (b"", 0),
        (b"data: x", 0),
        (b"data: x\n", 0),
        (b"data: x\n\n", 9),
        (b"data: x\n\nda", 9),
        (b"data: x\r\n\r\nda", 11),
        (b"data: x\r\rda", 9),
        (b"data: x\n\r\nda", 10),
        (b"data: x\r\n\nda", 10),
        (b"\n\nabc", 2),
        (b"data: x\r\n\r", 0),
    ],
)
def test_whole_events_table(buffer: bytes, end: int) -> None:
    assert sse.whole_events(buffer) == end


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b": ping\n\n", None),
        (b"event: ping\n\n", None),
        (b"event: x\r\ndata: y\r\n\r\n", b"y"),
        (b"data: x\rdata: y\r\r", b"x\ny"),
        (b"database: x\n\n", None),
        (b"data: x\n:", b"x"),
        (b"data: x", b"x"),
        (b"error: {}\n\n", None),
    ],
)
def test_data_of(event: bytes, data: bytes | None) -> None:
    assert sse.data_of(event) == data
