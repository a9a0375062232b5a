"""Compressed answers that nobody asked for: decoded piece by piece, and refused when damaged or a bomb."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.decode import BOMB_FREE, Damaged, Decoder

MANY = 1 << 30


def decode(encoding: str, raw: bytes, size: int, most: int = MANY) -> tuple[bytes, bool]:
    decoder = Decoder(encoding)
    out = b"".join(decoder.feed(raw[at : at + size], most) for at in range(0, len(raw), size))
    return out, decoder.is_whole


@given(st.binary(max_size=2_000), st.integers(1, 500), st.sampled_from(["gzip", "x-gzip", "deflate"]))
def test_any_chunking_gives_the_same_bytes(data: bytes, size: int, encoding: str) -> None:
    raw = zlib.compress(data) if encoding == "deflate" else gzip.compress(data)
    assert decode(encoding, raw, size) == (data, True)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_body_of_several_gzip_members_is_one_body(size: int) -> None:
    raw = gzip.compress(b"first ") + gzip.compress(b"") + gzip.compress(b"second")
    assert decode("gzip", raw, size) == (b"first second", True)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_second_member_that_is_cut_is_not_whole(size: int) -> None:
    raw = gzip.compress(b"first ") + gzip.compress(b"second" * 100)[:-9]
    assert not decode("gzip", raw, size)[1]


def test_zero_padding_behind_the_end_is_no_damage() -> None:
    assert decode("gzip", gzip.compress(b"all") + b"\0" * 50, 7) == (b"all", True)


@pytest.mark.parametrize("cut", [1, 5, 12, -1])
def test_L39_a_body_that_is_cut_is_not_whole(cut: int) -> None:
    raw = gzip.compress(b"words " * 100)
    assert not decode("gzip", raw[:cut], 3)[1]


BROKEN = gzip.compress(b"words " * 100, mtime=0)[:20] + b"\xff" * 40


@pytest.mark.parametrize("raw", [b"this is not gzip at all", BROKEN])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_damage_is_told(raw: bytes, size: int) -> None:
    with pytest.raises(Damaged, match="damaged"):
        decode("gzip", raw, size)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", ""])
def test_a_coding_that_we_cannot_read_is_told(encoding: str) -> None:
    with pytest.raises(Damaged, match="unknown"):
        Decoder(encoding)


def test_a_bomb_is_stopped_by_the_limit_of_one_piece() -> None:
    with pytest.raises(Damaged, match="too large"):
        decode("gzip", gzip.compress(bytes(20 << 20)), MANY, 1 << 20)


def test_a_bomb_in_small_pieces_is_stopped_by_its_ratio() -> None:
    raw = gzip.compress(bytes(64 << 20))
    decoder, given_out = Decoder("gzip"), 0

    def unpack() -> None:
        nonlocal given_out
        for at in range(0, len(raw), 1_024):
            given_out += len(decoder.feed(raw[at : at + 1_024], MANY))

    with pytest.raises(Damaged, match="too large"):
        unpack()
    assert given_out <= BOMB_FREE + (2 << 20)


def test_a_large_ordinary_body_is_no_bomb() -> None:
    data = b"".join(b'{"n":%d}' % n for n in range(1_200_000))
    assert len(data) > BOMB_FREE
    assert decode("gzip", gzip.compress(data, 1), 65_536)[0] == data
