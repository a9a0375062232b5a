from __future__ import annotations

import base64
import contextlib
import json
import random
import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import eventstream
from proxy.dialects.chat import Ended, Event, StreamReader, TextDelta
from proxy.dialects.eventstream import (
    BROKEN,
    HEADERS_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    BrokenFrame,
    Frame,
    FrameParser,
    InvokeStream,
    Unwrapping,
    encode,
    event_frame,
    exception_frame,
)

EVENT = bytes.fromhex(
    "0000009e00000057fe1b824f0b3a6576656e742d74797065070011636f6e74656e74426c6f636b44656c74610d3a636f6e74656e742d7479"
    "70650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b22636f6e74656e74426c6f63"
    "6b496e646578223a302c2264656c7461223a7b2274657874223a224869227d2c2270223a22616263227d9343f010"
)
EXCEPTION = bytes.fromhex(
    "00000090000000618e91a9b70f3a657863657074696f6e2d747970650700137468726f74746c696e67457863657074696f6e0d3a636f6e74"
    "656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d74797065070009657863657074696f6e7b226d"
    "657373616765223a22546f6f206d616e79207265717565737473227de67f8005"
)
"""The two frames of `providers.md` 9.2."""


def parse(data: bytes, size: int = 0) -> list[Frame]:
    parser, out = FrameParser(), []
    for at in range(0, len(data), size or len(data) or 1):
        parser.receive(data[at : at + (size or len(data))])
        while (frame := parser.next_frame()) is not None:
            out.append(frame)
    return out


def raw_frame(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def test_vectors_split_everywhere() -> None:
    both = EVENT + EXCEPTION
    expected = parse(both)
    assert [frame.headers for frame in expected] == [
        {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"},
        {":exception-type": "throttlingException", ":content-type": "application/json", ":message-type": "exception"},
    ]
    assert json.loads(expected[0].payload) == {"contentBlockIndex": 0, "delta": {"text": "Hi"}, "p": "abc"}
    assert json.loads(expected[1].payload) == {"message": "Too many requests"}
    for at in range(len(both) + 1):
        parser, out = FrameParser(), []
        for piece in (both[:at], both[at:]):
            parser.receive(piece)
            while (frame := parser.next_frame()) is not None:
                out.append(frame)
        assert out == expected
        assert parser.rest == 0
    assert parse(both, 1) == expected


def test_the_encoder_writes_the_vectors() -> None:
    for vector in (EVENT, EXCEPTION):
        (frame,) = parse(vector)
        assert encode(frame.headers, frame.payload) == vector


def test_every_flipped_bit_is_found() -> None:
    for at in range(len(EVENT) * 8):
        damaged = bytearray(EVENT)
        damaged[at // 8] ^= 1 << (at % 8)
        with pytest.raises(BrokenFrame):
            parse(bytes(damaged))


def test_frames_before_the_broken_one_are_given_and_it_stays_broken() -> None:
    parser = FrameParser()
    parser.receive(EVENT + b"\xff" * 20)
    assert parser.next_frame() == parse(EVENT)[0]
    for _ in range(2):
        with pytest.raises(BrokenFrame, match="prelude"):
            parser.next_frame()


def test_every_type_of_header() -> None:
    values = {
        b"yes": (b"\x00", True),
        b"no": (b"\x01", False),
        b"byte": (b"\x02\xff", -1),
        b"short": (b"\x03\x01\x00", 256),
        b"int": (b"\x04\xff\xff\xff\xfe", -2),
        b"long": (b"\x05" + (2**40).to_bytes(8, "big"), 2**40),
        b"bytes": (b"\x06\x00\x02ab", b"ab"),
        b"text": (b"\x07\x00\x03\xc3\xa9!", "é!"),
        b"time": (b"\x08" + (1_700_000_000_000).to_bytes(8, "big"), 1_700_000_000_000),
        b"uuid": (b"\x09" + bytes(range(16)), bytes(range(16))),
    }
    block = b"".join(bytes((len(name),)) + name + raw for name, (raw, _) in values.items())
    (frame,) = parse(raw_frame(block, b"{}"))
    assert frame.headers == {name.decode(): value for name, (_, value) in values.items()}
    assert frame.payload == b"{}"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\x01a\x0a", "unknown type"),
        (b"\x01a\x07\x00\x09abc", "longer"),
        (b"\x05a", "read|unknown"),
        (b"\x01a\x05\x00", "longer"),
        (b"\x01a\x07\x00\x01\xff", "read"),
        (b"\x01\xff\x00", "read"),
        (b"\x01a\x03\x00", "longer"),
    ],
)
def test_headers_that_make_no_sense(block: bytes, message: str) -> None:
    with pytest.raises(BrokenFrame, match=message):
        parse(raw_frame(block))


def prelude(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


@pytest.mark.parametrize(
    ("total", "headers"),
    [(15, 0), (16, 1), (0, 0), (HEADERS_MAX_BYTES + 17, HEADERS_MAX_BYTES + 1), (PAYLOAD_MAX_BYTES + 17, 0)],
)
def test_limits_hold_as_soon_as_the_prelude_is_there(total: int, headers: int) -> None:
    with pytest.raises(BrokenFrame):
        parse(prelude(total, headers))


def test_the_largest_frame_is_taken() -> None:
    parser = FrameParser()
    parser.receive(prelude(HEADERS_MAX_BYTES + PAYLOAD_MAX_BYTES + 16, HEADERS_MAX_BYTES))
    assert parser.next_frame() is None


def test_the_encoder_has_limits_too() -> None:
    with pytest.raises(ValueError, match="frame"):
        encode({}, bytes(PAYLOAD_MAX_BYTES + 1))
    with pytest.raises(ValueError, match="value"):
        encode({"a": "x" * 65536}, b"")
    with pytest.raises(ValueError, match="name"):
        encode({"a" * 256: "x"}, b"")


VALUES = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40), st.text(max_size=20))


@given(
    st.lists(st.tuples(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4), st.binary(max_size=200))),
    st.integers(1, 300),
)
def test_what_was_encoded_is_read_in_any_pieces(frames: list[tuple[dict[str, object], bytes]], size: int) -> None:
    data = b"".join(encode(headers, payload) for headers, payload in frames)  # type: ignore[arg-type]
    assert [(frame.headers, frame.payload) for frame in parse(data, size)] == frames


@given(st.binary(max_size=200))
def test_rubbish_raises_nothing_else(data: bytes) -> None:
    with contextlib.suppress(BrokenFrame):
        parse(data)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors_of_frames() -> None:
    (exception,) = parse(EXCEPTION)
    assert eventstream.error_of(exception) == {"__type": "throttlingException", "message": "Too many requests"}
    (event,) = parse(EVENT)
    assert eventstream.error_of(event) is None
    (error,) = parse(encode({":message-type": "error", ":error-code": "Bad", ":error-message": "worse"}, b""))
    assert eventstream.error_of(error) == {"__type": "Bad", "message": "worse"}
    (odd,) = parse(encode({":message-type": "exception", ":exception-type": "xException"}, b"no json"))
    assert eventstream.error_of(odd) == {"__type": "xException", "message": "no json"}
    said = {"Message": "slow", "originalStatusCode": 429, "p": "abc"}
    (model,) = parse(exception_frame("modelStreamErrorException", said))
    assert eventstream.error_of(model) == {
        "__type": "modelStreamErrorException",
        "message": "slow",
        "Message": "slow",
        "originalStatusCode": 429,
    }


# Invoke ---------------------------------------------------------------------------------------------------------------


def chunk(inner: bytes) -> bytes:
    return event_frame("chunk", {"bytes": base64.b64encode(inner).decode(), "p": "abcd"})


def test_invoke_gives_server_sent_events() -> None:
    data = chunk(b'{"type":"ping"}') + chunk(b'{\n"type": "message_stop"\r\n}')
    stream = InvokeStream()
    expected = b'data: {"type":"ping"}\n\ndata: {"type":"message_stop"}\n\n'
    assert stream.feed(data) == expected
    again = InvokeStream()
    assert b"".join(again.feed(data[i : i + 1]) for i in range(len(data))) == expected


def test_invoke_tells_an_exception_and_then_nothing() -> None:
    stream = InvokeStream()
    out = stream.feed(chunk(b"{}") + exception_frame("throttlingException", {"message": "busy"}) + chunk(b"{}"))
    error = b'{"type":"error","error":{"__type":"throttlingException","message":"busy"}}'
    assert out == b"data: {}\n\nevent: error\ndata: " + error + b"\n\n"
    assert stream.feed(chunk(b"{}")) == b""


def test_invoke_tells_a_broken_frame() -> None:
    out = InvokeStream().feed(chunk(b"{}") + bytes(40))
    assert out.startswith(b"data: {}\n\nevent: error\n")
    assert BROKEN.encode() in out


def test_invoke_counts_what_is_no_event() -> None:
    stream = InvokeStream()
    assert stream.feed(event_frame("chunk", {"bytes": "!"}) + event_frame("chunk", {})) == b""
    assert stream.feed(event_frame("other", {"bytes": ""})) == b""
    assert stream.dropped == 2


class Lines:
    """A reader of another dialect, as far as `Unwrapping` is concerned."""

    dropped = 3

    def feed(self, piece: bytes) -> list[Event]:
        return [TextDelta(piece.decode())]

    def close(self) -> list[Event]:
        return [Ended()]


def test_a_reader_behind_the_frames() -> None:
    inner: StreamReader = Lines()
    reader: StreamReader = Unwrapping(inner)
    frame = chunk(b"{}")
    assert reader.feed(frame[:9]) == []
    assert reader.feed(frame[9:]) == [TextDelta("data: {}\n\n")]
    assert reader.close() == [Ended()]
    assert reader.dropped == 3


def test_a_large_frame_in_small_pieces_is_read_once() -> None:
    payload = random.Random(7).randbytes(2_000_000)
    data = encode({":event-type": "x"}, payload)
    assert parse(data, 1000)[0].payload == payload
