"""Work that blocks, in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

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


def on_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T | None:
    """What `work` returns on `loop`, for a caller in another thread; None: it took longer, or the loop has ended."""
    task = work()
    try:
        answer = asyncio.run_coroutine_threadsafe(task, loop)
    except RuntimeError:  # the loop is closed
        task.close()
        return None
    try:
        return answer.result(timeout_s)
    except (TimeoutError, CancelledError):
        answer.cancel()
        return None
