"""Long work on the event loop, done in turns, so that requests are served between them."""

from __future__ import annotations

import asyncio
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
