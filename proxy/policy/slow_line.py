"""The time that first content is held against (`resilience.md` 3.6): a target's own p95, held while it is suspected.

Were it learned on, the slow answers would become what is usual after a few of them, and traffic would come back to a
target that is as slow as before.
"""

from __future__ import annotations

from typing import Final

from proxy.policy.latency import LatencyKey

HELD_S: Final = 900.0
"""Longest time for which a line is held. A target that is still slower then may be so for good, and what it has done
meanwhile is what is usual."""


class SlowLine:
    """One target's lines by kind of request. Times are monotonic seconds."""

    __slots__ = ("_held_since", "_lines")

    def __init__(self) -> None:
        self._lines: dict[LatencyKey, float] = {}
        self._held_since: float | None = None
        """Since when the target is suspected; None: it is not."""

    def at(self, key: LatencyKey, p95_s: float | None, is_suspected: bool, now: float) -> float | None:
        """The line of an attempt that is dialled now. `p95_s`: as learned up to now, None with too few samples.

        None: there is no line. A target that is left is called so rarely that it may have too few samples soon; then
        its last line serves, or it could never show that it is well again.
        """
        if not is_suspected:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        is_held = self._held_since is not None and now - self._held_since < HELD_S
        if p95_s is not None and not is_held:
            self._lines[key] = p95_s
        return self._lines.get(key, p95_s) if is_suspected else p95_s
