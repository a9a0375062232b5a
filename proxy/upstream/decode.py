"""Answers that come compressed although we asked for identity.

We send ``Accept-Encoding: identity`` wherever the answer is read, so this is the exception. A body is decoded piece by
piece and the label dropped; an encoding that nobody asked for and we cannot read is a failed attempt, and so is damage.
"""

from __future__ import annotations

import zlib
from typing import Final

BOMB_RATIO: Final = 200
"""A body that grows more than this over what came is a bomb once it passes `BOMB_FREE` (deflate's own limit is
1032)."""
BOMB_FREE: Final = 8 * 1024 * 1024
MEMBER: Final = b"\x1f"
"""First byte of a gzip member; a body may hold several, one behind the other (RFC 1952 section 2.2)."""


class Damaged(Exception):
    """The compressed body cannot be read; `str` says why in two words."""


class Decoder:
    """Incremental gzip or deflate."""

    __slots__ = ("_came", "_gave", "_inflate")

    def __init__(self, encoding: str) -> None:
        """`encoding`: ``gzip``, ``x-gzip`` or ``deflate``; anything else raises `Damaged`."""
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise Damaged("unknown encoding")
        self._inflate = zlib.decompressobj(47)  # 32 + 15: gzip or zlib header, told by the first bytes
        self._came = 0
        self._gave = 0

    def feed(self, piece: bytes, most: int) -> bytes:
        """Decode a piece into at most `most` bytes; more than that, damage or a bomb raises `Damaged`."""
        self._came += len(piece)
        inflate = self._inflate
        if inflate.eof and inflate.unused_data:
            return b""  # what stands behind the last member, padding mostly, belongs to nobody
        try:
            out = inflate.decompress(piece, most)
            while inflate.unused_data.startswith(MEMBER):
                rest = inflate.unused_data
                self._inflate = inflate = zlib.decompressobj(47)
                out += inflate.decompress(rest, max(1, most - len(out)))
        except zlib.error:
            raise Damaged("damaged body") from None
        self._gave += len(out)
        if self._inflate.unconsumed_tail or (self._gave > BOMB_FREE and self._gave > BOMB_RATIO * self._came):
            raise Damaged("too large when decoded")
        return out

    @property
    def is_whole(self) -> bool:
        """The compressed body has come to its own end."""
        return self._inflate.eof
