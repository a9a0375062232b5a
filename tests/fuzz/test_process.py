"""The running process under changed bytes from both sides: what callers send, and what upstreams answer.

Callers' bytes are judged as the corpora are (`verdict`). Of an upstream's answer must come, whatever it is, either a
whole answer that the upstream really gave, or an honest error: never a crash, a 500 of ours, half an answer that looks
whole, or silence.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import h11
import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.dialects import eventstream
from tests.fuzz import corpora, corpus, targets
from tests.fuzz.changes import changed
from tests.fuzz.stage import Heard, Lane, Stage, stage
from tests.fuzz.verdict import Case

LANES = 32
DIALECTS = {"openai": "chat", "anthropic": "messages", "gemini": "generate", "bedrock": "converse"}
SHORT = settings.get_profile("check")
LONG = settings.get_profile("torture")


# What callers send ----------------------------------------------------------------------------------------------------

SEEDS = [raw for raw in corpora.OWN.values() if 0 < len(raw) < 400]
WORDS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"0", b"\x00", b"\xff", b"\r\n\r\n", b"0\r\n\r\n", b"5\r\n",
    b"chunked",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Host: x\r\n",
    b"HTTP/1.0", b"HTTP/1.1",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"GET /u HTTP/1.1\r\nHost: x\r\n\r\n", b"/../", b"%2e%2e", b"_",
    b"X: y\r\n z\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("callers"), LANES) as made:
        yield made


def check_callers(running: Stage, raws: Sequence[bytes]) -> None:
    found = corpus.http(running, [Case(corpus="fuzz", name=repr(raw), raw=raw) for raw in raws])
    wrong = "\n".join(corpus.table(case for case in found if case.faults))
    assert not wrong, wrong


def callers_under(profile: settings, running: Stage, examples: int) -> None:
    """Lists of requests, since one that keeps its connection is over only when the idle limit says so. Each that fails
    is told, so that nothing need be shrunk."""
    raws = st.lists(changed(SEEDS, WORDS), min_size=1, max_size=2 * LANES)
    settings(profile, max_examples=examples, phases=[Phase.generate])(
        given(raws)(lambda each: check_callers(running, each))
    )()


def test_changed_requests(running: Stage) -> None:
    callers_under(SHORT, running, 4)


@pytest.mark.torture
def test_changed_requests_at_length(running: Stage) -> None:
    callers_under(LONG, running, 100)


# What upstreams answer ------------------------------------------------------------------------------------------------

ASK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"X-Failover-Providers: %b\r\nX-Provider-Key-%b: sk-%010d\r\n"
    b'X-Circuit-Breaker: {"error_threshold":1000,"error_threshold_window":30,"timeout":1}\r\nContent-Length: %d\r\n\r\n'
)
_COUNT = itertools.count()
"""Every call brings a key of its own, which makes it a target of its own: no answer is judged by another's breaker."""
TYPES = {"unary": b"application/json", "chat": b"text/event-stream", "converse": eventstream.CONTENT_TYPE.encode()}
HTTP_WORDS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n", b"HTTP/1.0",
    b" 204 ",
    b" 503 ", b" 000 ", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"Connection: close\r\n", b"\r\n", b"\n", b"0\r\n\r\n", b"\x00", b"data: [DONE]\n\n",
    b'{"error":{"message":"e"}}', b"}", b'"',
)  # fmt: skip


def answers(dialect: str, stream: bool) -> list[bytes]:
    """Correct answers of a provider: with a length, in chunks, until the connection ends."""
    api = DIALECTS[dialect]
    kind = TYPES["unary"] if not stream else TYPES.get(api, TYPES["chat"])
    out = []
    for said in (targets.SAID, targets.PLAIN):
        speaker = targets.registry.speaker(api)
        body = targets.stream_of(api, said) if stream else orjson.dumps(speaker.write_answer(said, targets.ASKED))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
        out += [
            head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
            head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
            head + b"\r\n\r\n" + body,
        ]
    return out


class Got:
    """An answer as h11 reads it from the bytes of a connection that has ended."""

    def __init__(self, raw: bytes) -> None:
        self.status = 0
        self.kind = b""
        """Of the content; empty: not said."""
        self.body = b""
        self.whole = False
        """Its end was where its framing says; False: cut, or no HTTP."""
        self.cut = False
        """Correct as far as it goes, and its connection ended within it."""
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        client.send(h11.EndOfMessage())
        try:
            for data in (raw, b""):
                client.receive_data(data)
                while not self.whole and self._take(client.next_event()):
                    pass
        except h11.RemoteProtocolError:
            self.cut = not data

    def _take(self, event: Any) -> bool:
        if isinstance(event, h11.Response):
            self.status = event.status_code
            self.kind = dict(event.headers).get(b"content-type", b"")
        elif isinstance(event, h11.Data):
            self.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self.whole = True
        return isinstance(event, h11.Response | h11.InformationalResponse | h11.Data)


def ask(running: Stage, lane: Lane, stream: bool, raw: bytes) -> Got:
    """What the caller gets when the upstream answers `raw` and closes. Fails when the caller waits for ever, with all
    that is needed to see it again."""
    name = lane.name.encode()
    sent = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()
    asked = ASK % (name, name, next(_COUNT), len(sent)) + sent
    lane.taken()
    heard = answered(running, lane, asked, raw)
    if not heard.closed:
        raise AssertionError(waiting(running, lane, heard, asked, raw))
    return Got(heard.raw)


def answered(running: Stage, lane: Lane, asked: bytes, raw: bytes) -> Heard:
    lane.answer = ([raw], True)
    heard = running.throw([asked])
    lane.answer = None
    return heard


def waiting(running: Stage, lane: Lane, heard: Heard, asked: bytes, raw: bytes) -> str:
    """All that is known of a call that does not end: what was said on both sides, and what the process says of itself.

    ``check_upstream(running, lane of the dialect, stream, what the upstream answered)`` does the same again.
    """
    got, status = lane.taken(), running.do(running.sidecar.status())
    again = answered(running, lane, asked, raw)
    told = {
        "dialect": list(DIALECTS)[running.lanes.index(lane) % len(DIALECTS)],
        "the upstream answered": raw,
        "the caller sent": asked,
        "the caller heard": heard.raw,
        "waited for seconds": round(heard.took_s, 3),
        "the upstream got": got,
        "open connections upstream": sum(not transport.is_closing() for transport in lane.transports),
        "active requests": status["requests_active"],
        "the last lines of the log": running.sidecar.lines[-20:],
        "load of the machine": os.getloadavg(),
        "asked once more it took seconds": round(again.took_s, 3),
        "and the caller heard": again.raw,
    }
    return "the caller waits for ever\n" + "\n".join(f"  {what}: {value!r}" for what, value in told.items())


def check_upstream(running: Stage, lane: Lane, stream: bool, raw: bytes) -> None:
    got, given_ = ask(running, lane, stream, raw), Got(raw)
    assert got.status, "no HTTP"
    if got.status >= 400:
        check_error(got, given_)
        return
    # Which success it was is the upstream's to say; of bytes that h11 refuses we do not know what it said.
    assert got.status < 300, got.status
    assert got.status == given_.status or not given_.status, (got.status, given_.status)
    # A first event that is no JSON may leave a line behind that begins as JSON does.
    if stream and (got.kind.startswith(b"text/event-stream") or got.body[:1] != b"{"):
        check_stream(got, raw)
    else:
        check_whole(got, given_, lane is running.lanes[0])


def check_error(got: Got, given_: Got) -> None:
    assert got.whole, "an error that is cut"
    error = json.loads(got.body)["error"]
    assert error["message"]
    assert error.get("code") != "proxy_internal_error"
    assert got.status in (502, 503, 504, given_.status) or not given_.status, (got.status, given_.status)


def check_whole(got: Got, given_: Got, own: bool) -> None:
    """A unary success is cut so that anyone sees it, or all that the upstream said.

    Where h11 refuses the upstream's bytes (a control character in a header, a chunk that ends in LF alone), aiohttp's
    reading of answers is milder: the body must then still be whole by itself.
    """
    if got.whole:
        assert not given_.cut, "the upstream's answer was cut and the caller's looks whole"
        assert got.body == given_.body or not own or not given_.whole, "not what the upstream said"
        assert isinstance(json.loads(got.body), dict)


def check_stream(got: Got, raw: bytes) -> None:
    """A stream has its end mark, or an error, or is cut so that anyone sees it."""
    last = [line for line in got.body.replace(b"\r", b"\n").split(b"\n") if line.startswith(b"data: {")][-1:]
    done = b"data: [DONE]" in got.body.replace(b"data:[", b"data: [").replace(b"\r", b"\n")
    failed = any("error" in json.loads(line[6:]) for line in last)
    finished = b'"finish_reason":"' in got.body.replace(b": ", b":")
    if got.whole:
        assert done or finished, f"a stream without its end looks whole: {got.body[-200:]!r} of {raw[-200:]!r}"
        assert not failed, "an error and a proper end"


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("upstreams"), len(DIALECTS), tuple(DIALECTS)) as made:
        yield made


CASES = [(dialect, stream) for dialect in DIALECTS for stream in (False, True)]


@pytest.mark.parametrize(("dialect", "stream"), CASES)
def test_right_answers_arrive(upstreams: Stage, dialect: str, stream: bool) -> None:
    lane = upstreams.lanes[list(DIALECTS).index(dialect)]
    for raw in answers(dialect, stream):
        check_upstream(upstreams, lane, stream, raw)
        got = ask(upstreams, lane, stream, raw)
        assert (got.status, got.whole) == (200, True), got.body


SUCCESSES = {200: 200, 201: 201, 202: 202, 206: 206, 299: 299, 204: 502, 302: 502, 304: 502}
"""An answer is an answer with any success; what has no body, or is elsewhere, is none."""


@pytest.mark.parametrize(("dialect", "stream"), CASES)
def test_which_success_it_was_is_the_upstreams_to_say(upstreams: Stage, dialect: str, stream: bool) -> None:
    lane = upstreams.lanes[list(DIALECTS).index(dialect)]
    for said, told in SUCCESSES.items():
        raw = answers(dialect, stream)[0].replace(b" 200 ", b" %d " % said)
        check_upstream(upstreams, lane, stream, raw)
        assert ask(upstreams, lane, stream, raw).status == told


def test_a_stream_that_begins_as_json_does_is_judged_as_a_stream(upstreams: Stage) -> None:
    """A blank line within the first event: the half before it is no JSON, the half behind it no event."""
    lane = upstreams.lanes[list(DIALECTS).index("openai")]
    raw = answers("openai", True)[2].replace(b'"delta":', b'"de0\r\n\r\n', 1)
    assert ask(upstreams, lane, True, raw).body.startswith(b"{")
    check_upstream(upstreams, lane, True, raw)


@pytest.mark.parametrize("told", [200, 202, 302])
def test_the_judge_sees_another_success_than_the_upstreams(upstreams: Stage, told: int) -> None:
    answer = answers("openai", False)[0]
    said = Heard(answer.replace(b" 200 ", b" %d " % told), 0.0, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstreams, "throw", lambda pieces: said)
        with pytest.raises(AssertionError):
            check_upstream(upstreams, upstreams.lanes[0], False, answer.replace(b" 200 ", b" 201 "))


def test_a_caller_that_waits_for_ever_is_told_with_all_that_repeats_it(upstreams: Stage) -> None:
    raw = answers("gemini", False)[0]
    lane = upstreams.lanes[list(DIALECTS).index("gemini")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstreams, "throw", lambda pieces: Heard(b"HTTP/1.1 200 O", 10.0, False))
        with pytest.raises(AssertionError) as told:
            check_upstream(upstreams, lane, True, raw)
    for known in (
        "dialect: 'gemini'",
        repr(raw),
        '"stream": true',
        "b'HTTP/1.1 200 O'",
        "active requests: 0",
        "once more",
    ):
        assert known in str(told.value)


def upstream_under(profile: settings, running: Stage, dialect: str, stream: bool, examples: int) -> None:
    lane = running.lanes[list(DIALECTS).index(dialect)]
    words = (*HTTP_WORDS, *targets.SSE_WORDS, *targets.JSON_WORDS, *targets.MEMBERS)
    raws = changed(answers(dialect, stream), words)
    check = given(raws)(lambda raw: check_upstream(running, lane, stream, raw))
    settings(profile, max_examples=examples)(check)()


@pytest.mark.parametrize(("dialect", "stream"), CASES)
def test_changed_answers(upstreams: Stage, dialect: str, stream: bool) -> None:
    upstream_under(SHORT, upstreams, dialect, stream, 30)


@pytest.mark.torture
@pytest.mark.parametrize(("dialect", "stream"), CASES)
def test_changed_answers_at_length(upstreams: Stage, dialect: str, stream: bool) -> None:
    upstream_under(LONG, upstreams, dialect, stream, 2_000)
