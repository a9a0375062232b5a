"""Work that blocks, in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What `work` returns; it must raise nothing.

    A daemon thread and no pool: the interpreter waits for a pool's threads when it ends, and what blocks may hang.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        value = work()
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(value))

    Thread(target=run, name=name, daemon=True).start()
    return answer
