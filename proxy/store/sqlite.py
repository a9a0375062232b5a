"""One SQLite file, one thread that writes it, one that reads it; whoever calls never waits for the disk.

Jobs are functions of a connection. `submit` puts one into a bounded queue and forgets it; the writer takes what has
gathered and runs it as one transaction. A job that finds the queue full is dropped and counted. `write` waits for the
commit, for what must not be lost.

The file may be full, locked, read-only, broken or gone at any time. Then the batch stays in hand, the queue fills, the
rest is dropped and counted, and the writer tries again with growing pauses until it works: nobody has to mend anything
here. A broken file is set aside and a new one begun, since history that cannot be read is worth less than history to
come. In WAL mode with ``synchronous = NORMAL`` a commit survives the death of the process at any point; the last ones
may be lost with the machine's power.

``:memory:`` is the same on a database without a file: its one connection belongs to the writer, which then reads, too.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from proxy.store import upkeep
from proxy.store.faults import StoreError, is_of_job, trouble_of
from proxy.store.schema import prepare

T = TypeVar("T")

MEMORY: Final = ":memory:"
QUEUE_MAX: Final = 10_000
WRITES_MAX: Final = 64
"""Writes that somebody waits for may still join a queue that is full."""
READS_MAX: Final = 64
"""Reads that may wait at the same time; the next one is refused."""
BATCH_MAX: Final = 1000
LINGER_S: Final = 0.02
"""How long the writer waits for more after the first job: a transaction costs more than a row."""
BUSY_MS: Final = 250
"""How long SQLite itself waits for another process's lock."""
PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0
"""Between two tries on a file that does not work. Healing is noticed within the second."""
READ_S: Final = 5.0
"""Longest time of one read; then it is interrupted."""
MEMORY_BYTES: Final = 8 << 20
"""Most that a database without a file may hold."""


class _Job:
    """A function of a connection, and who waits for its end."""

    __slots__ = ("act", "future", "loop", "result", "value")

    def __init__(self, act: Callable[..., Any], value: tuple[Any, ...], future: asyncio.Future[Any] | None) -> None:
        self.act = act
        self.value = value
        self.future = future
        self.loop = None if future is None else future.get_loop()
        self.result: Any = None

    def end(self, error: Exception | None = None) -> None:
        """Tell whoever waits; called in any thread."""
        if self.loop is None:
            return
        try:
            self.loop.call_soon_threadsafe(self._settle, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _settle(self, error: Exception | None) -> None:
        if self.future is None or self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.result)


class Store:
    """The file at `path`, or ``:memory:``. Its methods are called on the event loop."""

    def __init__(
        self,
        path: str,
        *,
        queue_max: int = QUEUE_MAX,
        retention_s: float = 35 * 86_400.0,
        bytes_max: int = 512 << 20,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.queue_max = queue_max
        self.retention_s = retention_s
        self.bytes_max = bytes_max
        self.keep(retention_s, bytes_max)
        self.trouble = ""
        """Why nothing can be written at present, one of `faults.TROUBLES`; empty: it can, or was not tried yet."""
        self.reason = ""
        """The same in the words of SQLite or of the system."""
        self.dropped = {"full": 0, "faulty": 0, "closed": 0}
        """Jobs lost: the queue was full; the job itself failed; the process ended first."""
        self.written = 0
        """Jobs committed."""
        self.set_aside = 0
        """Broken files renamed."""
        self.bytes = 0
        """Size of the database, free pages left out, as of the last look."""
        self._wall = wall
        self._jobs: deque[_Job] = deque()
        self._in_hand = 0
        """Jobs taken from the queue and not committed yet."""
        self._reads: deque[_Job] = deque()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._read_wake = threading.Event()
        self._is_closing = False
        self._is_broken = False
        """A reader has found the file broken; the writer sets it aside."""
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of the open file: a file that was deleted or replaced is written to no more."""
        self._looked_at = 0.0
        self._writer: threading.Thread | None = None
        self._reader: threading.Thread | None = None

    # What callers do --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work. Whether the file can be used is found out in the thread."""
        self._writer = threading.Thread(target=self._write_on, name="store", daemon=True)
        self._writer.start()
        self._wake.set()

    def keep(self, retention_s: float, bytes_max: int) -> None:
        """How long, and how much at most, is kept from the next look on."""
        self.retention_s = retention_s
        self.bytes_max = MEMORY_BYTES if self.path == MEMORY else bytes_max

    @property
    def queued(self) -> int:
        """Jobs that are not committed."""
        return len(self._jobs) + self._in_hand

    def submit(self, act: Callable[..., Any], *value: Any) -> bool:
        """Run ``act(connection, *value)`` in one of the next transactions; False: dropped, the queue is full."""
        if len(self._jobs) >= self.queue_max or self._is_closing:
            self.dropped["closed" if self._is_closing else "full"] += 1
            return False
        self._jobs.append(_Job(act, value, None))
        if not self._wake.is_set():
            self._wake.set()
        return True

    async def write(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """What `act` returns, once it is committed. Raises `StoreError` when that cannot be done now."""
        if self.trouble:
            raise StoreError(f"the store cannot be written: {self.trouble}")
        if len(self._jobs) >= self.queue_max + WRITES_MAX or self._is_closing:
            raise StoreError("the store has too much to write")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(act, (), future))
        self._urgent.set()
        self._wake.set()
        return await self._ended(future)

    async def read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """What `act` finds in all that has been committed. Raises `StoreError` when the store cannot be read now."""
        if self.path == MEMORY:
            return await self.write(act)
        if len(self._reads) >= READS_MAX or self._is_closing:
            raise StoreError("the store has too much to read")
        if self._reader is None:
            self._reader = threading.Thread(target=self._read_on, name="store reader", daemon=True)
            self._reader.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._reads.append(_Job(act, (), future))
        self._read_wake.set()
        return await self._ended(future)

    async def flush(self) -> bool:
        """Wait until everything submitted so far is committed; False: it cannot be now."""
        try:
            await self.write(lambda connection: None)
        except StoreError:
            return False
        return True

    @staticmethod
    async def _ended(future: asyncio.Future[T]) -> T:
        try:
            async with asyncio.timeout(2 * READ_S):
                return await future
        except TimeoutError:
            raise StoreError("the store does not answer") from None

    async def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, within the timeout, and let go of the file."""
        self._is_closing = True
        for event in (self._urgent, self._wake, self._read_wake):
            event.set()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.join, timeout_s)
        left = len(self._jobs)
        self._jobs.clear()
        self.dropped["closed"] += left

    def status(self) -> dict[str, Any]:
        """Its part of ``/status``."""
        return {
            "path": self.path,
            "state": "failing" if self.trouble else "ok",
            "trouble": self.trouble or None,
            "reason": self.reason or None,
            "queued": self.queued,
            "queue_max": self.queue_max,
            "written": self.written,
            "dropped": dict(self.dropped),
            "set_aside": self.set_aside,
            "bytes": self.bytes,
        }

    # The writer -------------------------------------------------------------------------------------------------------

    def _write_on(self) -> None:
        """The life of the writing thread."""
        pause_s = PAUSE_MIN_S
        batch: list[_Job] = []
        while True:
            if not batch and not self.trouble and self._connection is not None:
                batch = self._gathered()
                if not batch and self._is_closing:
                    break
            try:
                batch = self._committed(batch)
                self._in_hand = len(batch)
                self._look_after()
            except (sqlite3.Error, OSError) as error:
                batch = self._failed(error, batch)
                self._in_hand = len(batch)
                if self._is_closing:
                    self.dropped["closed"] += len(batch)
                    break
                self._urgent.clear()
                self._urgent.wait(pause_s)  # only a close is urgent now: `write` refuses while there is trouble
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)
            else:
                self.trouble = self.reason = ""
                pause_s = PAUSE_MIN_S
        self._let_go()

    def _gathered(self) -> list[_Job]:
        """Wait for a job, then a moment for more of them; empty: it is time to look at the file, or to end."""
        while not (self._jobs or self._is_closing or self._is_broken):
            if not self._wake.wait(upkeep.EVERY_S):
                return []
            self._wake.clear()  # before the jobs are looked at: one that comes after this look sets it again
        if not self._is_closing:
            self._urgent.wait(LINGER_S)
        self._urgent.clear()
        batch: list[_Job] = []
        while self._jobs and len(batch) < BATCH_MAX:
            self._in_hand += 1  # before it leaves the queue, so that nobody who counts misses it
            batch.append(self._jobs.popleft())
        return batch

    def _committed(self, batch: list[_Job]) -> list[_Job]:
        """Run the batch as one transaction; what is left to do of it, which is nothing, or all but a faulty job."""
        connection = self._usable()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                try:
                    job.result = job.act(connection, *job.value)
                except Exception as error:  # a fault in one job costs that job, not the thread
                    if not is_of_job(error):
                        raise
                    connection.execute("ROLLBACK")
                    self.dropped["faulty"] += 1
                    job.end(StoreError(f"{type(error).__name__}: {error}"))
                    return [other for other in batch if other is not job]
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                _rolled_back(connection)
            raise
        self.written += len(batch)
        for job in batch:
            job.end()
        return []

    def _look_after(self) -> None:
        """Now and then: forget what is too old, or too much."""
        now = time.monotonic()
        if self._connection is not None and now - self._looked_at >= upkeep.EVERY_S:
            self._looked_at = now
            self.bytes = upkeep.forget(self._connection, self._wall() - self.retention_s, self.bytes_max)

    def _failed(self, error: sqlite3.Error | OSError, batch: list[_Job]) -> list[_Job]:
        """Note the trouble, tell those who wait, and what is to be tried again."""
        self.trouble, self.reason = trouble_of(error), f"{type(error).__name__}: {error}"[:200]
        if self.trouble == "broken":
            self._is_broken = True
        if self.trouble not in ("locked", "full") and self.path != MEMORY:
            self._let_go()
        waiting = [job for job in (*batch, *self._jobs) if job.future is not None]
        for job in waiting:
            job.end(StoreError(f"the store cannot be written: {self.trouble}"))
        ended = set(map(id, waiting))
        for _ in range(len(self._jobs)):  # jobs may be added meanwhile, at the end
            job = self._jobs.popleft()
            if id(job) not in ended:
                self._jobs.append(job)
        return [job for job in batch if job.future is None]

    # The file ---------------------------------------------------------------------------------------------------------

    def _usable(self) -> sqlite3.Connection:
        """A connection to the file as it is now. Raises when there is none to be had."""
        if self._is_broken:
            self._let_go()
            self._is_broken = False
            upkeep.set_aside(self.path, self._wall())
            self.set_aside += 1
        if self._connection is not None and self._identity != self._identity_now():
            self._let_go()
        if self._connection is None:
            self._connection = connected(self.path)
            try:
                prepare(self._connection)
            except sqlite3.Error:
                self._let_go()
                raise
            self._identity = self._identity_now()
        return self._connection

    def _identity_now(self) -> tuple[int, int] | None:
        """None: there is no file, or an empty one. Emptied under us it would not be missed: SQLite goes on writing by
        what it remembers of it, and nobody can read that."""
        if self.path == MEMORY:
            return None
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found.st_size else None

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _closed(connection)

    # The reader -------------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        """The life of the reading thread. Every read has a connection of its own: it is cheap, and never stale."""
        while not self._is_closing:
            self._read_wake.wait()
            self._read_wake.clear()
            while self._reads:
                self._answer(self._reads.popleft())
        for job in self._reads:
            job.end(StoreError("the store is closed"))

    def _answer(self, job: _Job) -> None:
        until = time.monotonic() + READ_S
        try:
            if self._identity_now() is None:
                raise StoreError("the store cannot be read: there is no file")
            connection = connected(self.path, for_reading=True)
            try:
                connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
                job.result = job.act(connection)
            finally:
                _closed(connection)
        except StoreError as error:
            job.end(error)
        except Exception as error:  # the border of the thread: a faulty read fails for who asked it, nobody else
            if isinstance(error, sqlite3.Error) and trouble_of(error) == "broken":
                self._is_broken = True
                self._wake.set()
            job.end(StoreError(f"the store cannot be read: {type(error).__name__}: {error}"))
        else:
            job.end()


def connected(path: str, *, for_reading: bool = False) -> sqlite3.Connection:
    """A new connection without transactions of its own making. Raises sqlite3's errors."""
    if not for_reading and path != MEMORY:
        _create(path)
    connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        if for_reading:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {8 << 20}")
    except sqlite3.Error:
        _closed(connection)
        raise
    return connection


def _create(path: str) -> None:
    """Make a new file that only its owner may read: it holds who is told of incidents. SQLite gives its other files the
    same rights. A file that is there is not opened, since closing it would release the locks of our other thread."""
    with suppress(OSError):  # SQLite says it better
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _closed(connection: sqlite3.Connection) -> None:
    try:
        connection.close()
    except sqlite3.Error:
        return  # nothing more can be done for it


def _rolled_back(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error:
        return  # SQLite has done it already
