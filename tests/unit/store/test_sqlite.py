"""The store on real files: what is committed stays, what cannot be written is counted, and everything heals."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from proxy.observe.entry import FIELDS, Entry
from proxy.store import events, upkeep
from proxy.store.faults import StoreError
from proxy.store.sqlite import MEMORY, Store

HEAL_S = 60.0
"""The longest pause between two tries is 2 s; the rest is for a busy machine."""


NOW = 1_100_000.0
"""Unix seconds, in tests: a day after the entries."""


def entry(number: int, **over: object) -> Entry:
    return Entry(**{"id": number, "at": 1_000_000.0 + number, "kind": "circuit", "provider": "openai", **over})  # type: ignore[arg-type]


@asynccontextmanager
async def opened(path: Path | str, **over: object) -> AsyncIterator[Store]:
    store = Store(str(path), **{"wall": lambda: NOW, **over})  # type: ignore[arg-type]
    store.start()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], bool], within_s: float = HEAL_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ids(store: Store) -> list[int]:
    return [row["id"] for row in await store.read(lambda c: events.select(c, events.Filter(oldest_first=True)))]


def on_disk(path: Path) -> list[int]:
    """What another process would find."""
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM entries ORDER BY id")]
    connection.close()
    return found


@pytest.mark.parametrize("path", [MEMORY, "history.db"])
async def test_entries_come_back_as_they_were(path: str, tmp_path: Path) -> None:
    told = Entry(
        id=7,
        at=1_000_000.5,
        kind="request",
        route="chat",
        provider="openai",
        model="gpt-4o",
        region="eu",
        request_id="req_1",
        attempt=2,
        attempt_kind="retry",
        error="timeout.first_byte",
        status=504,
        message="slow",
        latency_ms=1.25,
        first_content_ms=0.5,
        retries=1,
        fallback="azure/gpt-4o",
        completed=False,
        input_tokens=3,
        output_tokens=4,
        cost_usd=0.25,
        detail={"a": [1, None]},
    )
    async with opened(path if path == MEMORY else tmp_path / path) as store:
        store.submit(events.insert, told)
        assert await store.flush()
        rows = await store.read(lambda c: events.select(c, events.Filter()))
    assert [Entry(**row) for row in rows] == [told]
    assert events.COLUMNS == FIELDS


async def test_an_empty_entry_comes_back_with_none_in_the_place_of_numbers(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        store.submit(events.insert, entry(1))
        assert await store.flush()
        rows = await store.read(lambda c: events.select(c, events.Filter()))
    assert [Entry(**row) for row in rows] == [entry(1)]


async def test_filters_narrow_and_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        for number in range(1, 10):
            kind = "retry" if number % 2 else "failover"
            store.submit(
                events.insert,
                entry(number, kind=kind, provider="a" if number < 6 else "b", request_id=f"r{number % 3}"),
            )
        assert await store.flush()

        async def found(**wanted: object) -> list[int]:
            asked = events.Filter(**wanted)  # type: ignore[arg-type]
            return [row["id"] for row in await store.read(lambda c: events.select(c, asked))]

        assert await found() == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        assert await found(oldest_first=True, limit=2) == [1, 2]
        assert await found(since_id=7) == [9, 8]
        assert await found(before_id=3) == [2, 1]
        assert await found(since=1_000_004.0, until=1_000_006.0) == [5, 4]
        assert await found(provider="b", kinds=("retry",)) == [9, 7]
        assert await found(kinds=("retry", "failover"), limit=1) == [9]
        assert await found(request_id="r0") == [9, 6, 3]
        assert await store.read(events.last_id) == 9


async def test_a_committed_write_is_there_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path) as store:
        await store.write(lambda c: events.insert(c, entry(1)))
        assert on_disk(path) == [1]


async def test_jobs_are_committed_together(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    store = Store(str(path), wall=lambda: NOW)
    for number in range(1, 501):
        store.submit(events.insert, entry(number))
    begun: list[int] = []
    store.submit(lambda c: begun.append(c.total_changes))
    store.start()
    assert await store.flush()
    assert begun == [500]  # one connection, and no commit between
    assert on_disk(path) == list(range(1, 501))
    await store.close()


async def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "h.db"), queue_max=3, wall=lambda: NOW)
    told = [store.submit(events.insert, entry(number)) for number in range(1, 6)]
    assert told == [True, True, True, False, False]
    assert store.dropped == {"full": 2, "faulty": 0, "closed": 0}
    waiting = [asyncio.ensure_future(store.write(lambda c: None)) for _ in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="too much"):
        await store.write(lambda c: None)
    store.start()
    await asyncio.gather(*waiting)
    assert await ids(store) == [1, 2, 3]
    await store.close()


async def test_what_is_queued_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    store = Store(str(path), wall=lambda: NOW)
    store.start()
    for number in range(1, 3001):  # three batches
        store.submit(events.insert, entry(number))
    await store.close()
    assert len(on_disk(path)) == 3000
    assert not store.submit(events.insert, entry(9000))
    assert store.dropped["closed"] == 1


async def test_a_faulty_job_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path) as store:
        store.submit(events.insert, entry(1))
        store.submit(lambda c: c.execute("INSERT INTO nowhere VALUES (1)"))
        store.submit(lambda c: 1 // 0)
        with pytest.raises(StoreError, match="KeyError"):
            await store.write(lambda c: {}["x"])
        store.submit(events.insert, entry(2))
        assert await store.flush()
        assert on_disk(path) == [1, 2]
        assert store.dropped == {"full": 0, "faulty": 3, "closed": 0}
        assert store.trouble == ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process has the write lock."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_a_locked_file_keeps_the_batch_and_heals(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path, queue_max=20) as store:
        assert await store.flush()
        with locked(path):
            store.submit(events.insert, entry(1))
            await until(lambda: store.trouble == "locked")
            with pytest.raises(StoreError, match="locked"):
                await store.write(lambda c: None)
            assert not await store.flush()
            assert await ids(store) == []  # a reader needs no lock
            for number in range(2, 32):
                store.submit(events.insert, entry(number))
            assert store.dropped["full"] == 10
        await until(lambda: store.trouble == "")
        assert await store.flush()
        assert await ids(store) == list(range(1, 22))


async def test_who_waits_for_a_write_is_told_at_once_when_the_file_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path) as store:
        assert await store.flush()
        with locked(path), pytest.raises(StoreError, match="locked"):
            await store.write(lambda c: events.insert(c, entry(1)))
        await until(lambda: store.trouble == "")
        assert await ids(store) == []  # it was told that the write failed, so it must not happen later


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk looks like to a process: the kernel refuses bytes beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)


async def test_a_full_disk_keeps_the_batch_and_heals(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path, queue_max=50) as store:
        store.submit(events.insert, entry(1))
        assert await store.flush()
        with no_file_larger_than(1024):
            store.submit(events.insert, entry(2))
            await until(lambda: store.trouble != "")
            assert store.trouble in ("full", "io")
            assert not await store.flush()
            for number in range(3, 103):
                store.submit(events.insert, entry(number))
            assert store.dropped["full"] == 50
        await until(lambda: store.trouble == "")
        assert await store.flush()
        assert await ids(store) == list(range(1, 53))


async def test_sqlite_full_is_told_as_full(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        pages = await store.write(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await store.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())
        store.submit(events.insert, entry(1, message="x" * 50_000))
        await until(lambda: store.trouble == "full")
        assert await ids(store) == []
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count = 100000")  # somebody makes room
        await until(lambda: store.trouble == "")
        assert await ids(store) == [1]


async def test_a_broken_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(b"This is no database." * 500)
    async with opened(path) as store:
        store.submit(events.insert, entry(1))
        await until(lambda: store.written >= 1)
        assert await ids(store) == [1]
        assert store.set_aside == 1
        aside = [name for name in os.listdir(tmp_path) if ".broken-" in name]
        assert [(tmp_path / name).read_bytes()[:20] for name in aside] == [b"This is no database."]


async def test_a_file_that_breaks_while_it_is_open_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path) as store:
        store.submit(events.insert, entry(1))
        assert await store.flush()
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
        with pytest.raises(StoreError):
            await ids(store)
        await until(lambda: store.set_aside == 1)
        store.submit(events.insert, entry(2))
        assert await store.flush(), store.status()
        assert on_disk(path) == [2]


async def test_a_file_of_a_later_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    async with opened(path) as store:
        await until(lambda: store.set_aside == 1 and not store.trouble)
        store.submit(events.insert, entry(1))
        assert await store.flush()
    assert on_disk(path) == [1]


def test_few_broken_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    for second in range(5):
        path.write_bytes(b"x")
        Path(f"{path}-wal").write_bytes(b"y")
        upkeep.set_aside(str(path), 1_000_000.0 + second)
    left = sorted(each.name for each in tmp_path.iterdir())
    assert left == [
        *("h.db.broken-19700112T134643Z", "h.db.broken-19700112T134643Z-wal"),
        *("h.db.broken-19700112T134644Z", "h.db.broken-19700112T134644Z-wal"),
    ]


async def test_a_deleted_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    async with opened(path) as store:
        store.submit(events.insert, entry(1))
        assert await store.flush()
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        with pytest.raises(StoreError, match="no file"):
            await ids(store)
        store.submit(events.insert, entry(2))
        assert await store.flush()
        assert await ids(store) == [2]
        assert store.dropped == {"full": 0, "faulty": 0, "closed": 0}


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        store.submit(events.insert, entry(1))
        assert await store.flush()
        rights = {name: oct(os.stat(tmp_path / name).st_mode & 0o777) for name in os.listdir(tmp_path)}
    assert rights == dict.fromkeys(("h.db", "h.db-wal", "h.db-shm"), "0o600")


async def test_a_directory_that_comes_later_heals(tmp_path: Path) -> None:
    path = tmp_path / "later" / "h.db"
    async with opened(path) as store:
        store.submit(events.insert, entry(1))
        await until(lambda: store.trouble == "gone")
        path.parent.mkdir()
        await until(lambda: store.trouble == "")
        assert await store.flush()
        assert await ids(store) == [1]


async def test_a_directory_that_may_not_be_written_costs_drops_only(tmp_path: Path) -> None:
    path = tmp_path / "closed" / "h.db"
    path.parent.mkdir()
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        # Whoever runs this may write everywhere, as root does: a file in the way of the directory refuses him, too.
        path.parent.rmdir()
        path.parent.write_bytes(b"")
    async with opened(path, queue_max=5) as store:
        for number in range(1, 8):
            store.submit(events.insert, entry(number))
        await until(lambda: store.trouble != "")
        assert store.trouble in ("gone", "read_only", "io")
        assert not await store.flush()
        with pytest.raises(StoreError):
            await ids(store)
        assert store.status()["state"] == "failing"
    assert store.dropped["full"] + store.dropped["closed"] == 7


async def test_old_entries_are_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        for number in range(2500):  # more than go in one pass
            store.submit(events.insert, entry(number + 1, at=NOW - 7200))
        store.submit(events.insert, entry(9000, at=NOW))
        await until(lambda: store.written >= 2501)
        await store.write(lambda c: upkeep.forget(c, NOW - 3600, 1 << 30))
        assert await ids(store) == [9000]


async def test_the_oldest_go_when_there_is_too_much(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        for number in range(1, 3001):
            store.submit(events.insert, entry(number, message="x" * 400))
        await until(lambda: store.written >= 3000)
        used = await store.write(lambda c: upkeep.forget(c, 0.0, 1 << 20))
        assert used <= 1 << 20
        left = await store.read(lambda c: c.execute("SELECT min(id), max(id) FROM entries").fetchone())
        assert left[0] > 1
        assert left[1] == 3000


async def test_the_memory_is_bounded() -> None:
    async with opened(MEMORY) as store:
        assert store.bytes_max == 8 << 20
        for number in range(1, 201):
            store.submit(events.insert, entry(number))
        assert await store.flush()
        assert len(await ids(store)) == 100  # the default limit of a filter


async def test_a_long_read_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.store.sqlite.READ_S", 0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    async with opened(tmp_path / "h.db") as store:
        assert await store.flush()
        with pytest.raises(StoreError):
            await store.read(lambda c: c.execute(endless).fetchone())


async def test_too_many_reads_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "h.db") as store:
        assert await store.flush()
        tasks = [asyncio.ensure_future(store.read(events.last_id)) for _ in range(200)]
        told = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [each for each in told if isinstance(each, StoreError)]
    assert refused
    assert all("too much to read" in str(each) for each in refused)
    assert 0 in told


def test_a_submit_costs_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    store, one = Store(MEMORY, queue_max=1_000_000), entry(1)
    best = min(_timed(store, one) for _ in range(10))
    with capsys.disabled():
        print(f"\nStore.submit: {best:.2f} us")
    assert best < 50.0  # 1 us on an idle machine; waiting for the thread or the disk would be far more


def _timed(store: Store, one: Entry) -> float:
    started = time.perf_counter()
    for _ in range(2000):
        store.submit(events.insert, one)
    return (time.perf_counter() - started) / 2000 * 1e6
