"""Long work on the event loop, done in turns, so that requests are served between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

TURN_S: Final = 0.0005
"""How long one turn may take: about what one request costs (chosen). To give a turn away costs 0.03 ms."""


class Turns:
    """Work that is made of many short steps calls `pause` after each."""

    __slots__ = ("_began", "_time")

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    async def pause(self) -> None:
        """Let everything else that is ready go first, if this turn has taken `TURN_S`; else return at once."""
        if self._time() - self._began >= TURN_S:
            await asyncio.sleep(0)
            self._began = self._time()


class Round:
    """Work that is begun again and again, and hands back where others may go first. Its first part is done at once."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: Iterator[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether some of it is still to be done."""
        return self._steps is not None

    def begin(self, work: Callable[[], Iterator[None]]) -> None:
        """Begin, if the round before has ended."""
        if self._steps is None:
            self._steps = work()
            self._go_on()

    def _go_on(self) -> None:
        steps, self._steps = self._steps, None  # a fault ends the round, not all rounds to come
        if steps is not None and next(steps, self) is not self:
            self._steps = steps
            asyncio.get_running_loop().call_soon(self._go_on)

    def end(self) -> None:
        """Do the rest of it at once."""
        steps, self._steps = self._steps, None
        for _ in steps or ():
            pass
