"""One connection, no network: what arrives is told exactly once, and what cannot be trusted ends the connection."""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.wire import FAULT_CLOSED, FAULT_INCOMPLETE, FAULT_MALFORMED, FAULT_RESET, Wire, chunk_at
from tests.unit.upstream.faketransport import FakeTransport, Told, connected, feed

HEAD = b"POST / HTTP/1.1\r\n\r\n"


@pytest.fixture
async def wired() -> tuple[Wire, FakeTransport, Told]:
    wire, transport = connected(asyncio.get_running_loop())
    told = Told()
    wire.send(told, HEAD, b"body")
    return wire, transport, told


Wired = tuple[Wire, FakeTransport, Told]
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
TRAILERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, TRAILERS], ids=["length", "chunked", "trailers"])
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
async def test_an_answer_is_told_once_however_it_is_cut(wired: Wired, answer: bytes, size: int) -> None:
    wire, transport, told = wired
    assert transport.written == HEAD + b"body"
    feed(wire, answer, size)
    assert (told.status, told.body, told.ended, told.fault) == (200, b"hello", 1, "")
    assert wire.usable
    assert not wire.busy
    assert not transport.closed


async def test_a_connection_serves_one_exchange_after_another(wired: Wired) -> None:
    wire, _, first = wired
    feed(wire, LENGTH)
    for answer in (CHUNKED, LENGTH, TRAILERS):
        told = Told()
        wire.send(told, HEAD, b"")
        feed(wire, answer, 3)
        assert (told.body, told.ended) == (b"hello", 1)
    assert first.ended == 1


async def test_until_the_connection_ends_is_a_body(wired: Wired) -> None:
    wire, _, told = wired
    feed(wire, b"HTTP/1.1 200 OK\r\n\r\nhel", 1)
    feed(wire, b"lo")
    assert told.ended == 0
    wire.connection_lost(None)
    assert (told.body, told.ended, told.fault) == (b"hello", 1, "")
    assert not wire.usable


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_interim_answers_are_swallowed(wired: Wired, interim: bytes) -> None:
    wire, _, told = wired
    feed(wire, (b"HTTP/1.1 " + interim + b"\r\nLink: <a>\r\n\r\n") * 3 + LENGTH, 5)
    assert (told.status, told.body, told.ended) == (200, b"hello", 1)
    assert wire.usable


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_end_with_their_head(wired: Wired, status: bytes) -> None:
    wire, transport, told = wired
    feed(wire, b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    assert (told.body, told.ended) == (b"", 1)
    feed(wire, b"hello")
    assert (told.body, told.ended, told.fault) == (b"", 1, "")
    assert transport.closed, "a body where none may be is no next answer"


async def test_head_requests_have_no_body_and_the_next_request_has_one() -> None:
    wire, transport = connected(asyncio.get_running_loop())
    told = Told()
    wire.send(told, b"HEAD / HTTP/1.1\r\n\r\n", b"", with_body=False)
    feed(wire, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    assert (told.status, told.ended) == (200, 1)
    again = Told()
    wire.send(again, HEAD, b"", with_body=True)
    feed(wire, LENGTH)
    assert (again.body, again.ended) == (b"hello", 1)
    assert not transport.closed


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n",
    ],
    ids=lambda raw: raw[9:60].decode("latin-1").replace("\r\n", "|"),
)
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_what_is_ambiguous_or_no_http_is_malformed(wired: Wired, answer: bytes, size: int) -> None:
    wire, transport, told = wired
    feed(wire, answer, size)
    assert told.fault == FAULT_MALFORMED
    assert (told.status, told.ended) == (0, 0)
    assert not wire.usable
    assert transport.closed


@pytest.mark.parametrize("damage", [b"zz\r\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n", b"-5\r\nhello\r\n"])
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_damaged_chunks_after_the_head_are_malformed(wired: Wired, damage: bytes, size: int) -> None:
    wire, _, told = wired
    feed(wire, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert told.status == 200
    feed(wire, damage, size)
    assert (told.fault, told.ended, wire.usable) == (FAULT_MALFORMED, 0, False)


@pytest.mark.parametrize(
    "answer", [LENGTH[:-1], CHUNKED[:-5], CHUNKED[:-2], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
@pytest.mark.parametrize("reset", [True, False])
async def test_L39_a_body_without_its_end_is_incomplete(wired: Wired, answer: bytes, reset: bool) -> None:
    wire, _, told = wired
    feed(wire, answer)
    wire.connection_lost(ConnectionResetError() if reset else None)
    assert (told.fault, told.ended, wire.busy) == (FAULT_INCOMPLETE, 0, False)


async def test_a_reset_in_a_body_that_ends_with_the_connection_is_no_proper_end(wired: Wired) -> None:
    wire, _, told = wired
    feed(wire, b"HTTP/1.1 200 OK\r\n\r\nhel")
    wire.connection_lost(ConnectionResetError())
    assert (told.fault, told.ended) == (FAULT_INCOMPLETE, 0)


@pytest.mark.parametrize(("error", "fault"), [(None, FAULT_CLOSED), (ConnectionResetError(), FAULT_RESET)])
async def test_a_connection_that_dies_unanswered(wired: Wired, error: Exception | None, fault: str) -> None:
    wire, _, told = wired
    wire.connection_lost(error)
    assert (told.fault, told.status) == (fault, 0)


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_one_byte_of_an_answer_is_remembered_until_the_next_request(wired: Wired, start: bytes) -> None:
    """ "Before any response byte" is what makes a resend harmless."""
    wire, _, _ = wired
    assert not wire.answered
    feed(wire, start)
    assert wire.answered
    wire.send(Told(), HEAD, b"")
    assert not wire.answered


async def test_bytes_on_an_idle_connection_end_it_and_reach_nobody(wired: Wired) -> None:
    wire, transport, told = wired
    gone: list[Wire] = []
    feed(wire, LENGTH)
    wire.on_gone = gone.append
    feed(wire, LENGTH)
    assert (told.body, told.ended) == (b"hello", 1)
    assert (gone, transport.closed, wire.usable) == ([wire], "abort", False)


async def test_bytes_behind_the_answer_in_the_same_read_reach_nobody(wired: Wired) -> None:
    wire, transport, told = wired
    feed(wire, LENGTH + LENGTH)
    assert (told.body, told.ended) == (b"hello", 1)
    assert not wire.usable
    assert transport.closed


async def test_an_early_answer_is_told_and_the_connection_not_used_again(wired: Wired) -> None:
    wire, transport, told = wired
    transport.unsent = 10
    feed(wire, LENGTH)
    assert (told.body, told.ended) == (b"hello", 1)
    assert (wire.usable, transport.closed) == (False, "abort")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_an_announced_close_is_heeded(wired: Wired, answer: bytes) -> None:
    wire, transport, told = wired
    feed(wire, answer)
    assert (told.body, told.ended, wire.usable) == (b"hello", 1, False)
    assert transport.closed


async def test_a_receiver_that_leaves_at_the_head_hears_no_more() -> None:
    wire, transport = connected(asyncio.get_running_loop())

    class Leaves(Told):
        def on_head(self, status: int, headers: object) -> None:
            wire.drop()

    told = Leaves()
    wire.send(told, HEAD, b"")
    feed(wire, LENGTH)
    wire.connection_lost(None)
    assert (told.body, told.ended, told.fault) == (b"", 0, "")
    assert transport.closed == "abort"


async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    wire, transport = connected(asyncio.get_running_loop())
    wire.send(Told(), HEAD, b"x" * 100_000)
    assert transport.written == HEAD + b"x" * 100_000


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.binary(min_size=1, max_size=200))
def test_any_chunking_gives_the_same_bytes(sizes: list[int], body: bytes) -> None:
    loop = asyncio.new_event_loop()
    try:
        wire, _ = connected(loop)
        told = Told()
        wire.send(told, HEAD, b"")
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        at = 0
        for n in range(len(raw)):
            size = sizes[n % len(sizes)]
            feed(wire, raw[at : at + size])
            at += size
        assert (told.body, told.ended, told.fault) == (body, 1, "")
    finally:
        loop.close()


# Past the parser ------------------------------------------------------------------------------------------------------

OPEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


async def test_whole_chunks_go_past_the_parser_and_everything_else_through_it(wired: Wired) -> None:
    wire, _, told = wired
    feed(wire, OPEN)
    for content in (b"first content", b"second content", b"third content"):
        feed(wire, chunk(content))
    assert told.chunks == 2, "the first one proves where the parser stands"
    feed(wire, chunk(b"two of them") + chunk(b"in one read"))
    feed(wire, chunk(b"again alone"))
    feed(wire, chunk(b"and once more"))
    assert told.chunks == 3
    feed(wire, b"0\r\n\r\n")
    assert (told.ended, wire.usable) == (1, True)
    assert told.body == b"first contentsecond contentthird contenttwo of themin one readagain aloneand once more"


@pytest.mark.parametrize(
    "damage",
    [
        b"0x5\r\nhello\r\n", b"+d\r\nhello, friends\r\n", b" d\r\nhello, friends\r\n", b"1_3\r\nhello, friends\r\n",
        b"d\r\nhello, friendsXX", b"d\nhello, friends\r\n", b"zz\r\nhello\r\n",
    ],
)  # fmt: skip
async def test_damage_behind_whole_chunks_is_malformed(wired: Wired, damage: bytes) -> None:
    wire, _, told = wired
    feed(wire, OPEN)
    for content in (b"first content", b"second content"):
        feed(wire, chunk(content))
    assert told.chunks == 1
    feed(wire, damage + b"0\r\n\r\n")
    assert (told.fault, told.ended, wire.usable) == (FAULT_MALFORMED, 0, False)


async def test_a_cut_behind_whole_chunks_is_incomplete(wired: Wired) -> None:
    wire, _, told = wired
    feed(wire, OPEN)
    for content in (b"first content", b"second content"):
        feed(wire, chunk(content))
    assert told.chunks == 1
    wire.connection_lost(None)
    assert (told.fault, told.ended) == (FAULT_INCOMPLETE, 0)


async def test_a_receiver_that_leaves_at_a_chunk_hears_no_more() -> None:
    wire, transport = connected(asyncio.get_running_loop())
    told = Told()

    def leave(data: bytes, begin: int) -> None:
        told.chunks += 1
        wire.drop()

    told.on_chunk = leave  # type: ignore[method-assign]
    wire.send(told, HEAD, b"")
    feed(wire, OPEN)
    for content in (b"first content", b"second content", b"third content"):
        feed(wire, chunk(content))
    assert (told.chunks, told.body, told.ended, told.fault) == (1, b"first content", 0, "")
    assert transport.closed


@given(st.binary(max_size=40))
def test_a_chunk_is_only_what_is_one(data: bytes) -> None:
    for raw in (data, chunk(data), chunk(data) + data, data + chunk(data)):
        if begin := chunk_at(raw):
            assert raw == chunk(raw[begin:-2])
            assert b"\r\n" not in raw[begin:-2]


contents = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.sampled_from([b"0\r\n\r\n", b"9\r\n123456789\r\n", b"9\r\n123456789", b"13\r\n9\r\n123456789\r\n-----\r\n"]),
    st.integers(9, 300).map(lambda size: b"x" * size),
)
"""Among them chunks within chunks: what looks like framing and is none."""


@given(st.lists(contents, min_size=1, max_size=12), st.data())
def test_chunks_however_they_are_cut_give_the_same_bytes(parts: list[bytes], data: st.DataObject) -> None:
    loop = asyncio.new_event_loop()
    try:
        wire, _ = connected(loop)
        told = Told()
        wire.send(told, HEAD, b"")
        raw = b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"
        edges = {at for at in _edges(parts) if data.draw(st.booleans())}
        edges |= data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=4))
        feed(wire, OPEN)
        for begin, end in pairwise([0, *sorted(edges), len(raw)]):
            feed(wire, raw[begin:end])
        assert (told.body, told.ended, told.fault) == (b"".join(parts), 1, "")
    finally:
        loop.close()


def _edges(parts: list[bytes]) -> list[int]:
    """Where one chunk ends and the next begins."""
    return list(accumulate(len(chunk(part)) for part in parts))
