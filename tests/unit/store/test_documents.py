"""Documents outlive the process, whatever becomes of the file meanwhile."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.store.documents import STEP, Documents, Key
from proxy.store.sqlite import MEMORY, Store


class Owner:
    """Keeps documents in memory, as incidents and letters are kept."""

    def __init__(self, documents: Documents) -> None:
        self.own: dict[Key, Any] = {}
        self.found: Mapping[Key, Any] | None = None
        self._documents = documents
        documents.follow(self._everything, self._loaded)

    def put(self, id: str, document: Any) -> None:
        self.own["k", id] = document
        self._documents.put("k", id, document)

    def delete(self, id: str) -> None:
        del self.own["k", id]
        self._documents.put("k", id, None)

    def _everything(self) -> Iterator[tuple[Key, Any]]:
        return iter(self.own.items())

    def _loaded(self, found: Mapping[Key, Any]) -> None:
        self.found = {**(self.found or {}), **found}
        self.own = {**found, **self.own}


@asynccontextmanager
async def run(path: Path | str, name: str) -> AsyncIterator[tuple[Store, Documents, Owner]]:
    """One run of the process; its end is a kill: nothing is written in leaving but what was flushed."""
    store = Store(str(path))
    documents = Documents(store, name)
    owner = Owner(documents)
    store.start()
    documents.start()
    try:
        await until(lambda: documents.is_loaded)
        yield store, documents, owner
    finally:
        await documents.close()
        await store.close()


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def on_disk(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT id FROM documents WHERE kind = 'k'")}
    finally:
        connection.close()


async def test_what_was_flushed_is_found_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (_, documents, owner):
        assert owner.found == {}
        owner.put("a", {"n": 1})
        owner.put("b", {"n": 2})
        owner.put("a", {"n": 3})
        owner.delete("b")
        assert await documents.flush()
        assert documents.pending == 0
        assert on_disk(path) == {"a"}
    async with run(path, "r2") as (_, documents, owner):
        assert owner.found == {("k", "a"): {"n": 3}}
        owner.delete("a")
        assert await documents.flush()
    async with run(path, "r3") as (_, _, owner):
        assert owner.found == {}


async def test_changes_of_one_moment_are_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (store, documents, owner):
        owner.put("first", {})
        await documents.flush()
        before = store.written
        for n in range(50):
            owner.put(str(n), {"n": n})
        await documents.flush()
        assert store.written == before + 1


async def test_a_change_is_written_without_anybody_asking(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (_, documents, owner):
        owner.put("a", {})
        await until(lambda: documents.pending == 0)
        assert on_disk(path) == {"a"}


async def test_a_locked_file_keeps_the_changes_in_memory_and_takes_them_later(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (store, documents, owner):
        owner.put("a", {})
        await documents.flush()
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        owner.put("b", {"n": 1})
        assert await documents.flush() is False
        owner.put("b", {"n": 2})
        owner.put("c", {})
        assert documents.pending == 2
        lock.execute("ROLLBACK")
        lock.close()
        await until(lambda: documents.pending == 0)
        assert on_disk(path) == {"a", "b", "c"}
        assert store.trouble == ""
    async with run(path, "r2") as (_, _, owner):
        assert owner.found is not None
        assert owner.found["k", "b"] == {"n": 2}, "the last word is kept, not the one that was tried first"


async def test_a_file_that_was_replaced_gets_everything_again(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (_, documents, owner):
        for id in ("a", "b", "c"):
            owner.put(id, {})
        await documents.flush()
        for end in ("", "-wal", "-shm"):
            (path.parent / (path.name + end)).unlink(missing_ok=True)
        owner.delete("c")
        await until(lambda: documents.pending == 0)
        assert on_disk(path) == {"a", "b"}


async def test_a_broken_file_gets_everything_again(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    async with run(path, "r1") as (store, documents, owner):
        owner.put("a", {})
        await documents.flush()
        for end in ("-wal", "-shm"):
            (path.parent / (path.name + end)).unlink(missing_ok=True)
        new = tmp_path / "rubbish"
        new.write_bytes(b"no database at all" * 1000)
        os.replace(new, path)
        owner.put("b", {})
        await until(lambda: documents.pending == 0)
        assert on_disk(path) == {"a", "b"}
        assert store.set_aside == 1


async def test_without_a_file_it_is_the_same(tmp_path: Path) -> None:
    async with run(MEMORY, "r1") as (_, documents, owner):
        owner.put("a", {})
        assert await documents.flush()
        assert owner.found == {}


async def test_documents_become_json_in_the_thread_that_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only their last state does, however often they have changed since the last commit."""
    made: list[tuple[str, Any]] = []
    dumps = orjson.dumps

    def watched(document: Any) -> bytes:
        made.append((threading.current_thread().name, document))
        return dumps(document)

    async with run(tmp_path / "h.db", "one") as (_, documents, owner):
        monkeypatch.setattr(orjson, "dumps", watched)
        for n in range(100):
            owner.put("a", {"n": n})
        assert made == []
        assert await documents.flush()
        monkeypatch.undo()
    assert ("store", {"n": 99}) in made
    assert {thread for thread, _ in made} == {"store"}
    assert {document["n"] for _, document in made} == {99}


async def test_who_asks_in_the_first_moment_gets_what_was_there_before(tmp_path: Path) -> None:
    async with run(tmp_path / "o.db", "1") as (_, documents, owner):
        owner.put("a", {"n": 1})
        assert await documents.flush()
    store = Store(str(tmp_path / "o.db"))
    documents = Documents(store, "2")
    owner = Owner(documents)
    await documents.recall()  # nothing was begun that could be waited for
    assert not documents.is_loaded
    store.start()
    documents.start()
    try:
        await documents.recall(10.0)
        assert owner.found == {("k", "a"): {"n": 1}}
    finally:
        await documents.close()
        await store.close()


async def test_who_asks_does_not_wait_for_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "o.db"))  # it is not started, and answers nothing
    documents = Documents(store, "1")
    documents.start()
    try:
        await documents.recall(0.01)
        assert not documents.is_loaded
    finally:
        await documents.close(0.01)


async def test_thousands_are_told_a_few_at_a_time_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with run(path, "one") as (_, documents, owner):
        for n in range(3 * STEP):
            documents.put("later", f"l{n}", {"n": n})
            owner.put(f"k{n}", {"n": n})
        await documents.flush()
    store = Store(str(path))
    documents = Documents(store, "two")
    told: list[list[str]] = []
    turns: list[int] = []
    beside = 0

    async def count() -> None:
        nonlocal beside
        while True:
            beside += 1
            await asyncio.sleep(0)

    def loaded(found: Mapping[Key, Any]) -> None:
        told.append([kind for kind, _ in found])
        turns.append(beside)
        documents.put("k", f"k{3 * STEP - 1}", None)  # newer than what is still to be told

    documents.follow(lambda: (), loaded, ("k", "later"))
    store.start()
    documents.start()
    task = asyncio.create_task(count())
    await until(lambda: documents.is_loaded)
    task.cancel()
    await documents.close()
    await store.close()
    kinds = [kind for part in told for kind in part]
    assert kinds == ["k"] * (3 * STEP - 1) + ["later"] * (3 * STEP)
    assert max(map(len, told)) == STEP
    assert all(later > before for before, later in pairwise(turns))
