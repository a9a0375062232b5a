"""Changed seeds: what Hypothesis draws everywhere here, so that a failure shrinks to the fewest changes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A seed with some bytes taken out, doubled, replaced by words of the grammar or by anything, or cut short."""
    data = bytearray(draw(st.sampled_from(seeds)))
    some = st.sampled_from(words) | st.binary(min_size=1, max_size=3)
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        kind = draw(st.sampled_from(("out", "word", "insert", "double", "cut")))
        if kind == "out":
            del data[at : at + size]
        elif kind == "word":
            word = draw(some)
            data[at : at + len(word)] = word
        elif kind == "insert":
            data[at:at] = draw(some)
        elif kind == "double":
            data[at:at] = data[at : at + size]
        elif draw(st.booleans()):
            del data[at:]
    return bytes(data)
