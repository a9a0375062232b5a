"""Documents in the store: JSON by kind and id, for what must outlive the process and is small enough for the memory.

The owner of a document keeps it in memory and is right about it; here it is written after every change. Changes of one
moment are committed together, and made into JSON by the thread that writes them: a digest for every subscriber is some
megabytes of it. While the store fails they are kept, the last one of each document, and tried again.

A file can be replaced under us, by the store itself when it was broken. Therefore every run of the process leaves its
mark in the file, in the transaction of its first change, and where the mark is missing everything is written anew.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from proxy.store.faults import StoreError
from proxy.store.schema import parsed
from proxy.store.sqlite import Store

Document = Mapping[str, Any]
Key = tuple[str, str]
"""Kind and id."""
MARK: Final = "run"
"""Kind of the document by which a run knows its file again."""
STEP: Final = 16
"""Documents told in one go: what an incident or a letter is made of takes some 0.05 ms."""
PAUSE_MIN_S: Final = 0.25
PAUSE_MAX_S: Final = 5.0
"""Between two tries while the store fails."""
RECALL_S: Final = 1.0
"""Longest wait of somebody who asks before the file has been read."""


class Documents:
    """All documents of one process. Owns the task that reads them at the start and writes them after."""

    def __init__(self, store: Store, run: str) -> None:
        """`run`: a name that no other run of the process has."""
        self._store = store
        self._run = run
        self._changes: dict[Key, Document | None] = {}
        self._flying: dict[Key, Document | None] = {}
        """What is being written."""
        self._everything: list[Callable[[], Iterable[tuple[Key, Document]]]] = []
        self._loaded: list[Callable[[Mapping[Key, Document]], None]] = []
        self._order: list[str] = []
        """Kinds, in the order in which they are told."""
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._is_read = asyncio.Event()

    @property
    def is_loaded(self) -> bool:
        """What is on disk is in memory."""
        return self._is_read.is_set()

    async def recall(self, timeout_s: float = RECALL_S) -> None:
        """Wait until `is_loaded`, within the timeout: whoever asks in the first moment asks for what was before it."""
        if not self.is_loaded and self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._is_read.wait()

    def follow(
        self,
        everything: Callable[[], Iterable[tuple[Key, Document]]],
        loaded: Callable[[Mapping[Key, Document]], None],
        kinds: Iterable[str] = (),
    ) -> None:
        """An owner: `everything` tells its documents, `loaded` is told those of all owners once they were read, a few
        at a time; first those of `kinds`, kind by kind."""
        self._everything.append(everything)
        self._loaded.append(loaded)
        self._order += kinds

    def put(self, kind: str, id: str, document: Document | None) -> None:
        """Write a document soon, which nobody changes any more; None deletes it."""
        self._changes[kind, id] = document
        self._dirty.set()

    @property
    def pending(self) -> int:
        """Changes that are not on disk."""
        return len(self._flying) + len(self._changes)

    def start(self) -> None:
        """Read what is there, as soon as the store can, and then write changes."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self, timeout_s: float = 1.0) -> None:
        """Write the last changes, within the timeout."""
        if self._task is not None:
            self._task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.flush()

    async def flush(self) -> bool:
        """Commit all changes made so far; False: the store does not take them now, and they are kept."""
        async with self._writing:
            self._flying, self._changes = self._changes, {}
            try:
                await self._commit(self._flying)
            except StoreError:
                return False
            else:
                self._flying = {}
                return True
            finally:  # whatever stopped it: what is not known to be written is written again
                self._flying, self._changes = {}, {**self._flying, **self._changes}

    async def _commit(self, changes: Mapping[Key, Document | None]) -> None:
        if not changes or await self._store.write(lambda c: _apply(c, self._run, changes, is_whole=False)):
            return
        whole: dict[Key, Document | None] = {key: document for tell in self._everything for key, document in tell()}
        whole.update(changes)
        await self._store.write(lambda c: _apply(c, self._run, whole, is_whole=True))

    async def _work(self) -> None:
        pause_s = PAUSE_MIN_S
        while True:
            if not self.is_loaded:
                done = await self._load()
            else:
                await self._dirty.wait()
                self._dirty.clear()
                done = await self.flush()
            if not done:
                self._dirty.set()
                await asyncio.sleep(pause_s)
            pause_s = PAUSE_MIN_S if done else min(PAUSE_MAX_S, 2 * pause_s)

    async def _load(self) -> bool:
        try:
            found = await self._store.read(_all)
        except StoreError:
            return False
        rank = {kind: place for place, kind in enumerate(self._order)}
        found.sort(key=lambda each: rank.get(each[0][0], len(rank)))
        for begin in range(0, max(1, len(found)), STEP):
            # What has changed in memory before it was told is newer. There may be thousands: requests go between.
            part = found[begin : begin + STEP]
            documents = await asyncio.to_thread(_parsed, part)
            for key in [key for key in documents if key in self._changes or key in self._flying]:
                del documents[key]
            for loaded in self._loaded:
                loaded(documents)
        self._is_read.set()
        return True


def _all(connection: sqlite3.Connection) -> list[tuple[Key, bytes]]:
    rows = connection.execute("SELECT kind, id, body FROM documents WHERE kind <> ?", (MARK,))
    return [((kind, id), body) for kind, id, body in rows]


def _parsed(part: Iterable[tuple[Key, bytes]]) -> dict[Key, Document]:
    """A few at a time, in a thread: all of them may be hundreds of megabytes of small objects."""
    return {key: parsed(body) for key, body in part}


def _apply(connection: sqlite3.Connection, run: str, changes: Mapping[Key, Document | None], *, is_whole: bool) -> bool:
    """Write `changes`; False: this file has no mark of ours, and nothing was written."""
    mark = connection.execute("SELECT 1 FROM documents WHERE kind = ? AND id = ?", (MARK, run)).fetchone()
    if mark is None and not is_whole:
        return False
    gone = [key for key, document in changes.items() if document is None]
    kept = [(*key, orjson.dumps(document)) for key, document in changes.items() if document is not None]
    if mark is None:
        connection.execute("DELETE FROM documents WHERE kind = ?", (MARK,))
        kept.append((MARK, run, b"{}"))
    connection.executemany("DELETE FROM documents WHERE kind = ? AND id = ?", gone)
    connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", kept)
    return True
