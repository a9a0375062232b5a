"""A shorter list of faults that still fails, by delta debugging (Zeller and Hildebrandt, 2002).

The list is cut into parts; whatever still fails without a part goes on without it, with ever smaller parts down to
single faults. It works because leaving out a fault moves no other choice of the seed (`scenario`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrunk(faults: Sequence[T], fails: Callable[[Sequence[T]], bool], most: int = 400) -> list[T]:
    """A sub-list that fails and from which no single fault can be left out, if `most` trials suffice to find it.

    `faults` itself must fail; it comes back as it is where nothing can be left out.
    """
    kept, parts, trials = list(faults), 2, 0
    while len(kept) > 1 and trials < most:
        size = -(-len(kept) // parts)
        for begin in range(0, len(kept), size):
            rest = kept[:begin] + kept[begin + size :]
            trials += 1
            if fails(rest):
                kept, parts = rest, max(2, parts - 1)
                break
            if trials >= most:
                return kept
        else:
            if size == 1:
                break
            parts = min(len(kept), 2 * parts)
    if len(kept) == 1 and trials < most and fails([]):
        return []
    return kept
