"""Whatever becomes of the file of the history, under load and at the start: no request fails, drops are counted, and it
heals by itself. `test_history` has the lock, the full disk and the deleted file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.observe.entry import Entry
from tests.e2e.harness import Sidecar, config
from tests.e2e.past import leave
from tests.e2e.test_history import BROKEN, events_of, get, small_disk, store_of, until

QUEUE = 100


async def serves(sidecar: Sidecar, count: int) -> None:
    """`count` calls at eight at a time, of which each leaves entries, and none may fail."""
    for _ in range(count // 8):
        answers = await asyncio.gather(*(sidecar.chat() for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8


async def met(sidecar: Sidecar, trouble: str) -> None:
    """Call until the process has met the trouble, and then until its queue has overflowed."""
    before = sum((await store_of(sidecar))["dropped"].values())

    async def is_met() -> Any:
        await serves(sidecar, 8)
        told = await store_of(sidecar)
        return told if told["state"] == "failing" and sum(told["dropped"].values()) > before else None

    told = await until(is_met)
    assert told["trouble"] == trouble, told
    assert told["queued"] < 2 * QUEUE, "what waits, and what was in hand when it began"
    shown = await get(sidecar, "/v1/events?limit=5")
    assert (shown["complete"], len(shown["events"])) == (False, 5), "the last ones are told from memory"
    for path in ("/v1/analytics", "/v1/uptime", "/v1/incidents", "/v1/health", "/v1/capabilities"):
        await get(sidecar, path)
    able = (await get(sidecar, "/v1/capabilities"))["history"]
    assert (able.get("status"), trouble in able.get("reason", "")) == ("unavailable", True), able


async def healed(sidecar: Sidecar) -> None:
    """It works again without anybody's help, and what comes then is kept."""

    async def works() -> Any:
        return (await store_of(sidecar))["state"] == "ok"

    await until(works)

    async def kept() -> Any:
        # At first the queue may still be full of what has waited.
        request_id = (await sidecar.chat()).headers["X-Outrider-Request-Id"]
        told = await get(sidecar, f"/v1/events?request_id={request_id}")
        return told["complete"] and told["events"]

    await until(kept)


def _directory(path: Path) -> Callable[[], None]:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    path.mkdir()
    return path.rmdir


def _folder_gone(path: Path) -> Callable[[], None]:
    away = path.parent.with_name("away")
    path.parent.rename(away)
    return lambda: away.rename(path.parent) and None


def _locked(path: Path) -> Callable[[], None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


@pytest.mark.parametrize(("happens", "trouble"), [(_directory, "gone"), (_folder_gone, "gone"), (_locked, "locked")])
async def test_under_load_and_at_the_start(
    happens: Callable[[Path], Callable[[], None]], trouble: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "history.db"
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path), "queue": QUEUE})
        async with Sidecar(tree, tmp_path) as sidecar:
            await healed(sidecar)
            mend = happens(path)
            await met(sidecar, trouble)
            mend()
            await healed(sidecar)
            assert await sidecar.terminate() == 0
        mend = happens(path)
        async with Sidecar(tree, tmp_path) as sidecar:
            await met(sidecar, trouble)
            mend()
            await healed(sidecar)
            assert await sidecar.terminate() == 0


async def test_a_file_system_that_becomes_read_only(tmp_path: Path) -> None:
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        with small_disk(tmp_path / "disk") as disk:
            store = {"path": str(disk / "history.db"), "queue": QUEUE}
            async with Sidecar(config({"p0": ill.url, "p1": well.url}, store=store), tmp_path) as sidecar:
                await healed(sidecar)
                # Open files would keep it from becoming read-only; a mount over it asks nobody.
                with small_disk(disk, options="ro,size=4k"):
                    await met(sidecar, "gone")
                await healed(sidecar)
                assert await sidecar.terminate() == 0


@pytest.mark.parametrize("content", [b"", b"this was never a database " * 1000, b"SQLite format 3\0" + bytes(8192)])
async def test_a_file_that_is_overwritten_where_it_stands(content: bytes, tmp_path: Path) -> None:
    """As a torn disk or a careless copy does it: the same file with other bytes, its log cut off."""
    path = tmp_path / "history.db"
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path), "queue": QUEUE})
        async with Sidecar(tree, tmp_path) as sidecar:
            await healed(sidecar)
            for name in (path, path.with_name("history.db-wal")):
                os.truncate(name, 0)
            path.write_bytes(content)
            await serves(sidecar, 40)
            await healed(sidecar)
            assert await sidecar.terminate() == 0
        path.write_bytes(content)
        async with Sidecar(tree, tmp_path) as sidecar:
            await healed(sidecar)


async def test_a_slow_file_costs_no_request(tmp_path: Path) -> None:
    """Somebody holds the lock most of the time: every commit waits, some fail, and all is there in the end."""
    path = tmp_path / "history.db"
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path)})
        async with Sidecar(tree, tmp_path) as sidecar:
            await healed(sidecar)
            before = (await get(sidecar, "/v1/events?limit=1"))["events"][0]["id"]
            load = asyncio.create_task(serves(sidecar, 400))
            while not load.done():
                await asyncio.to_thread(_held, path, 0.4)
            await load
            await healed(sidecar)
            assert sum((await store_of(sidecar))["dropped"].values()) == 0
            events = await events_of(sidecar, f"since={before}&kind=request&limit=300")
            found = {each["request_id"] for each in events}
            assert len(found) >= 401


def _held(path: Path, hold_s: float) -> None:
    """Hold the lock for a while, as soon as it can be had."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5.0)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(hold_s)
        other.execute("ROLLBACK")


async def test_one_row_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """A flipped bit that SQLite does not see: in the detail of an event, in an hour, in a document."""
    path = tmp_path / "history.db"
    now = time.time()
    leave(path, [Entry(id=n, at=now - 60, kind="reload", detail={"n": n}) for n in (1, 2, 3)])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET detail = '{\"n\": 2' WHERE id = 2")
        connection.execute("INSERT INTO hours VALUES (?, 'earlier', '{\"requests\": 7}')", (int(now // 3600),))
        connection.execute("INSERT INTO hours VALUES (?, 'broken', '{\"requests\": ')", (int(now // 3600),))
        connection.execute("INSERT INTO documents VALUES ('letter', 'ntf_1', 'nonsense')")
    async with FakeProvider(name="p0") as provider:
        tree = config({"p0": provider.url}, store={"path": str(path)})
        for _ in range(2):
            async with Sidecar(tree, tmp_path) as sidecar:
                told = await get(sidecar, "/v1/events?kind=reload&since=0")
                assert told["complete"]
                assert [each["id"] for each in told["events"]] == [1, 2, 3]
                told = await get(sidecar, "/v1/analytics?days=2")
                assert (told["complete"], told["requests"]) == (True, 7)
                wish = {"channels": ["webhook"], "webhook_url": "https://203.0.114.1/"}
                async with sidecar.session.post(f"{sidecar.url}/v1/incidents/subscribe", json=wish) as response:
                    assert (response.status, (await response.json())["saved"]) == (201, True)
                assert await sidecar.terminate() == 0
        async with Sidecar(tree, tmp_path) as sidecar:

            async def listed() -> Any:
                return (await get(sidecar, "/v1/incidents/subscriptions"))["subscriptions"]

            assert len(await until(listed)) == 2


async def test_what_is_too_old_or_too_much_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    now = time.time()
    day = 86_400.0
    text = "x" * 4000
    old = (Entry(id=n, at=now - 8 * day, kind="reload") for n in range(1, 5001))
    many = (Entry(id=10_000 + n, at=now - day, kind="reload", detail={"text": text}) for n in range(5000))
    leave(path, [*old, *many])
    assert path.stat().st_size > 20 << 20
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = Fault(status=500)
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path), "retention_days": 7, "max_mb": 8})
        async with Sidecar(tree, tmp_path) as sidecar:
            await sidecar.chat()

            async def is_small() -> Any:
                return 0 < (await store_of(sidecar))["bytes"] <= 8 << 20

            await until(is_small)
            told = await get(sidecar, "/v1/events?since=0&limit=1000&kind=reload")
            assert told["complete"]
            assert told["events"][0]["id"] > 10_000, "the old ones went first, then the oldest of the others"
            assert (await get(sidecar, "/v1/events?kind=request"))["events"], "the newest stay"
            await healed(sidecar)
