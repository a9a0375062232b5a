"""Reading an answer: the commit point, what may be sent on, and how it ended, whatever the network made of it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.outcome import Class, Outcome
from proxy.dialects import registry
from proxy.upstream.pump import ERROR_BODY_MAX, Asked, Pump

JSON = (b"Content-Type", b"application/json")
SSE = (b"content-type", b"text/event-stream; charset=utf-8")
ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'


def chunk(delta: Any, reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()


ROLE = chunk({"role": "assistant", "content": ""}) + b"\n\n"
HI = chunk({"content": "h\u00e9 \U0001f600"}) + b"\n\n"
STOP = chunk({}, "stop") + b"\n\n"
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"busy","type":"overloaded_error","code":"overloaded"}}\n\n'
STREAM = b": ping\n\n" + ROLE + HI + HI + STOP + DONE


class FakeDriver:
    """A `Driver` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.outcome: Outcome | None = None

    def opened(self, n: int) -> None:
        self.told.append("opened")

    def content(self, n: int) -> None:
        self.told.append("content")

    def full(self, n: int) -> None:
        self.told.append("full")

    def finished(self, n: int, outcome: Outcome) -> None:
        assert self.outcome is None, "two ends"
        self.outcome = outcome

    def forwards(self, n: int, data: bytes, begin: int) -> bool:
        return False

    def readable(self, n: int) -> None:
        pass

    def crashed(self, error: Exception) -> None:
        raise error


def pump(mode: Any = "unary", endpoint: str = "chat", hold: int = 8 << 20) -> tuple[Pump, FakeDriver]:
    driver = FakeDriver()
    reader = registry.reader(endpoint, {})
    return Pump(0, driver, reader, Asked(mode, "openai", hold, lambda: 0.0, False)), driver


def play(
    body: bytes, *, mode: Any = "stream", status: int = 200, headers: Any = None, size: int = 1 << 20, **more: Any
) -> tuple[Pump, FakeDriver]:
    """The whole answer, cut into pieces of `size`, and its proper HTTP end."""
    made, driver = pump(mode, **more)
    made.head(status, tuple(headers if headers is not None else [SSE if mode == "stream" else JSON]))
    for at in range(0, len(body), size):
        if made.over:
            return made, driver  # its call has closed the connection
        made.data(body[at : at + size])
    made.end()
    return made, driver


def sent(made: Pump) -> bytes:
    return made.take()


def name(driver: FakeDriver) -> str:
    assert driver.outcome is not None
    return driver.outcome.name


# Streams --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 80), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_cut_of_a_stream_gives_the_same_bytes(size: int, line_end: bytes) -> None:
    body = STREAM.replace(b"\n", line_end)
    made, driver = play(body, size=size)
    assert sent(made) == body
    assert (driver.told, name(driver)) == (["opened", "content"], "ok")
    assert made.in_pieces


@pytest.mark.parametrize("preamble", [b"", b": ping\n\n", ROLE, b'data: {"choices":[]}\n\n', b"event: x\n\n"])
def test_L38_a_harmless_event_is_no_commit(preamble: bytes) -> None:
    made, driver = pump("stream")
    made.head(200, (SSE,))
    made.data(preamble)
    assert driver.told == ["opened"]
    made.data(HI)
    assert driver.told == ["opened", "content"]
    assert sent(made) == preamble + HI, "held events are sent in order once content comes"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_L36_an_error_before_content_is_a_failure_nobody_saw(size: int) -> None:
    made, driver = play(ROLE + ERROR + DONE, size=size)
    assert (driver.told, name(driver)) == (["opened"], "model_overloaded")
    assert made.out == []


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_L36_an_error_after_content_ends_the_stream_behind_whole_events(size: int) -> None:
    made, driver = play(ROLE + HI + ERROR + HI + DONE, size=size)
    assert (driver.told, name(driver)) == (["opened", "content"], "model_overloaded")
    assert sent(made) == ROLE + HI


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_L39_a_stream_without_its_end_is_interrupted_and_half_an_event_is_not_sent(size: int) -> None:
    made, driver = play(ROLE + HI + HI[:-9], size=size)
    assert name(driver) == "stream_interrupted"
    assert sent(made) == ROLE + HI


@pytest.mark.parametrize("end", [STOP, DONE, STOP + DONE, STOP + DONE[:-1], STOP + DONE[:-2]])
def test_a_finish_reason_or_the_end_mark_is_a_proper_end(end: bytes) -> None:
    made, driver = play(HI + end)
    assert name(driver) == "ok"
    assert sent(made).rstrip() == (HI + end).rstrip()


@pytest.mark.parametrize("body", [b"", b"\n\n", ROLE, ROLE + STOP + DONE, DONE, b": ping\n\n", b"data: {bad\n\n"])
def test_a_stream_that_says_nothing_failed(body: bytes) -> None:
    made, driver = play(body)
    assert (driver.told, name(driver), made.out) == (["opened"], "server_error", [])


def test_an_event_that_is_not_json_never_opens_the_answer() -> None:
    made, driver = play(b"data: {bad\n\n" + HI + STOP + DONE)
    assert (name(driver), made.dropped) == ("ok", 1)
    assert sent(made) == HI + STOP + DONE


def test_an_error_as_the_left_over_of_a_stream_is_an_error() -> None:
    _, driver = play(HI + b'{"error":{"message":"late","code":500}}')
    assert name(driver) == "server_error"


def test_L47_a_stream_without_content_beyond_the_limit_commits_and_is_not_held() -> None:
    made, driver = pump("stream", hold=1_000)
    made.head(200, (SSE,))
    for _ in range(100):
        made.data(b": ping %b\n\n" % (b"x" * 20))
        if "full" in driver.told:
            break
    assert "full" in driver.told
    assert made.out_size <= 1_100


def test_a_stream_asked_for_and_a_body_given_is_a_body() -> None:
    made, driver = play(ANSWER, headers=[JSON])
    assert (sent(made), made.in_pieces, name(driver)) == (ANSWER, False, "ok")


# Bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_body_is_sent_untouched(size: int) -> None:
    made, driver = play(b" \n" + ANSWER + b"\n", mode="unary", size=size)
    assert sent(made) == b" \n" + ANSWER + b"\n"
    assert (driver.told, name(driver)) == (["opened", "content"], "ok")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   \n",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}',
        b"<html></html>",
        ANSWER[:-1],
        b"\xff",
        b"[" * 50_000,
    ],
)
def test_200_is_not_success(body: bytes) -> None:
    made, driver = play(body, mode="unary")
    assert (driver.told, name(driver), made.out) == (["opened"], "server_error", [])


def test_an_empty_204_is_no_answer_to_a_chat() -> None:
    _, driver = play(b"", mode="unary", status=204, headers=[])
    assert name(driver) == "server_error"


def test_an_error_inside_a_200_body() -> None:
    made, driver = play(b'{"error":{"message":"m","code":429}}', mode="unary")
    assert driver.outcome is not None
    assert driver.outcome.cls is Class.RATE_LIMIT
    assert made.error_body


def test_L47_a_body_beyond_the_limit_is_sent_in_pieces() -> None:
    body = b'{"choices":[{"message":{"content":"' + b"x" * 5_000 + b'"}}]}'
    made, driver = play(body, mode="unary", hold=1_000, size=100)
    assert (made.in_pieces, name(driver), sent(made)) == (True, "ok", body)


@pytest.mark.parametrize("status", [301, 302, 304, 307])
def test_a_redirect_is_no_answer(status: int) -> None:
    _, driver = play(b"", mode="unary", status=status, headers=[(b"Location", b"http://elsewhere")])
    assert name(driver) == "server_error"


def test_a_page_is_no_answer() -> None:
    _, driver = play(b"<html>" + b"x" * 200_000, mode="unary", headers=[(b"Content-Type", b"Text/HTML")])
    assert name(driver) == "server_error"


def test_an_error_is_read_up_to_a_limit() -> None:
    made, driver = pump("unary")
    made.head(503, (JSON,))
    for _ in range(100):
        made.data(b"x" * 10_000)
        if made.over:
            break
    assert name(driver) == "model_overloaded"
    assert len(made.error_body) <= ERROR_BODY_MAX


def test_a_cut_error_is_still_told_by_its_status() -> None:
    made, driver = pump("unary")
    made.head(429, (JSON,))
    made.data(b'{"error":{"mess')
    made.cut(Outcome(cls=Class.STREAM_INTERRUPTED))
    assert name(driver) == "rate_limit"


def test_what_comes_after_the_end_changes_nothing() -> None:
    made, driver = play(ANSWER, mode="unary")
    made.cut(Outcome(cls=Class.TIMEOUT))
    made.end()
    assert name(driver) == "ok"


# Passthrough ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\x00\xff binary", gzip.compress(b"packed", mtime=0)])
def test_passthrough_touches_nothing(body: bytes) -> None:
    headers = [(b"Content-Length", b"%d" % len(body)), (b"Content-Encoding", b"gzip")]
    made, driver = play(body, mode="raw", endpoint="raw", headers=headers)
    assert (sent(made) if made.out else b"", name(driver)) == (body, "ok")


def test_passthrough_of_unknown_length_is_a_stream() -> None:
    made, driver = play(b"abc", mode="raw", endpoint="raw", headers=[])
    assert (made.in_pieces, driver.told, sent(made)) == (True, ["opened", "content"], b"abc")


# Compression ----------------------------------------------------------------------------------------------------------

PACKED = (b"Content-Encoding", b"gzip")


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_compressed_answers_are_unpacked(size: int) -> None:
    made, driver = play(gzip.compress(ANSWER, mtime=0), mode="unary", headers=[JSON, PACKED], size=size)
    assert (sent(made), name(driver)) == (ANSWER, "ok")
    made, driver = play(gzip.compress(STREAM, mtime=0), headers=[SSE, PACKED], size=size)
    assert (sent(made), name(driver)) == (STREAM, "ok")


def test_compressed_answers_that_are_cut_are_interrupted() -> None:
    _, driver = play(gzip.compress(ANSWER, mtime=0)[:-3], mode="unary", headers=[JSON, PACKED])
    assert name(driver) == "stream_interrupted"


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip"])
def test_an_unreadable_coding_fails_before_content(encoding: bytes) -> None:
    _, driver = play(b"abc", mode="unary", headers=[JSON, (b"Content-Encoding", encoding)])
    assert name(driver) == "server_error"


def test_a_lie_about_compression_fails() -> None:
    _, driver = play(ANSWER, mode="unary", headers=[JSON, PACKED])
    assert name(driver) == "server_error"


@pytest.mark.parametrize("mode", ["unary", "raw"])
def test_a_compressed_error_is_read(mode: str) -> None:
    body = gzip.compress(b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', mtime=0)
    endpoint = "raw" if mode == "raw" else "chat"
    made, driver = play(body, mode=mode, endpoint=endpoint, status=429, headers=[JSON, PACKED])
    assert driver.outcome is not None
    assert (driver.outcome.name, driver.outcome.message) == ("rate_limit", "slow down")
    assert made.error_body.startswith(b"{")


@pytest.mark.parametrize("encoding", [b"br", b"gzip"])
def test_an_error_that_cannot_be_unpacked_keeps_its_status(encoding: bytes) -> None:
    _, driver = play(b"rubbish", mode="unary", status=429, headers=[JSON, (b"Content-Encoding", encoding)])
    assert driver.outcome is not None
    assert (driver.outcome.cls, driver.outcome.status) == (Class.RATE_LIMIT, 429)


def test_a_bomb_is_stopped() -> None:
    _, driver = play(gzip.compress(bytes(64 << 20)), mode="unary", headers=[JSON, PACKED], size=1_024)
    assert name(driver) in ("server_error", "stream_interrupted")
