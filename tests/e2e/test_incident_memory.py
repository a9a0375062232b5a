"""Incidents over kills, and asked for page by page."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.observe.incident_json import document
from proxy.policy.incident import Family, Incident, Moment, Severity, Type
from tests.e2e.harness import Sidecar, config
from tests.e2e.past import leave
from tests.e2e.test_incidents import QUICK, get, incidents, outage, resolved, soon


async def test_an_open_incident_is_resumed_after_a_kill_and_not_doubled(tmp_path: Path) -> None:
    """Also where the file is locked when the process starts, so that it is found ill before the past is known."""
    path = tmp_path / "o.db"
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        tree = config({"a": a.url, "b": b.url}, store={"path": str(path)}, defaults=QUICK)
        async with Sidecar(tree, tmp_path) as sidecar:
            await outage(sidecar, a)
            (first,) = await soon(lambda: incidents(sidecar))

            async def on_disk() -> Any:
                return _affected(path, first["id"]) == 8

            await soon(on_disk, 5.0)
            (first,) = await incidents(sidecar)
            assert first["affected_requests"] == 8
            sidecar.process.send_signal(signal.SIGKILL)
            await sidecar.process.wait()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            async with Sidecar(tree, tmp_path) as sidecar:
                await outage(sidecar, a)

                async def all_counted() -> Any:
                    found = await incidents(sidecar)
                    return found if found and found[0]["affected_requests"] == 8 else None

                (second,) = await soon(all_counted)
                assert second["id"] != first["id"], "nothing is known of the first one yet"
                other.execute("ROLLBACK")
                other.close()

                async def known() -> Any:
                    found = await incidents(sidecar)
                    return found if first["id"] in {each["id"] for each in found} else None

                found = {each["id"]: each for each in await soon(known)}
                assert [each["id"] for each in found.values() if each["status"] == "open"] == [first["id"]]
                assert first["id"] in found[second["id"]]["resolution"]
                resumed = found[first["id"]]
                assert resumed["timestamp"] == first["timestamp"]
                assert resumed["affected_requests"] == first["affected_requests"] + second["affected_requests"]
                assert {each["id"] for each in await resolved(sidecar, a)} == {first["id"], second["id"]}


def _affected(path: Path, id: str) -> int:
    """Affected requests of an incident as the file has it."""
    with closing(sqlite3.connect(path)) as connection:
        (body,) = connection.execute("SELECT body FROM documents WHERE id = ?", (id,)).fetchone()
    return int(json.loads(body)["affected_requests"])


def _past(number: int, provider: str, *, at: float, ended: bool = True) -> Incident:
    return Incident(
        id=f"inc_{number:04}",
        provider=provider,
        region="eu",
        family=Family.AVAILABILITY,
        type=Type.OUTAGE,
        types=(Type.OUTAGE,),
        severity=Severity.HIGH,
        started_at=at,
        opened_at=at,
        ended_at=at + 60 if ended else None,
        timeline=(Moment(at=at, what="opened", text="="),),
    )


async def test_pages_of_incidents_show_each_once_while_new_ones_come(tmp_path: Path) -> None:
    """Five hundred that began at the same moment, so that ids alone order them; and the memory is full, so that every
    new one pushes out the oldest, which is the one where the last page goes on."""
    path = tmp_path / "o.db"
    at = time.time() - 3600
    open_ones = [f"q{n}" for n in range(50)]
    past = [_past(500 + n, "a", at=at) for n in range(450)]
    past += [_past(n, name, at=at - 1, ended=False) for n, name in enumerate(open_ones)]
    leave(path, documents={("incident", each.id): document(each) for each in past})
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        urls = {"a": a.url, "b": b.url} | dict.fromkeys(open_ones, b.url)
        async with Sidecar(config(urls, store={"path": str(path)}), tmp_path) as sidecar:
            await soon(lambda: incidents(sidecar))
            seen: list[str] = []
            cursor = ""
            for page in range(10):
                told = await get(sidecar, f"/v1/incidents{cursor}")
                seen += [each["id"] for each in told["incidents"]]
                assert (told["next"] is None) is (page == 9)
                cursor = f"?cursor={told['next']}"
                if page == 8:
                    a.default = Fault(status=401)
                    await sidecar.chat(headers={"X-Failover-Providers": "a,b"})

                    async def has_come() -> Any:
                        return (await sidecar.metrics())["outrider_incidents_forgotten_total"] >= 1

                    await soon(has_come)
            assert len(seen) == len(set(seen)) == 500
            assert set(seen) == {each.id for each in past}


async def test_pages_of_events_show_each_once_while_new_ones_come(tmp_path: Path) -> None:
    """Newest first and oldest first, by pages that cut requests in two, under load."""
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        a.default = Fault(status=500)
        tree = config({"a": a.url, "b": b.url}, store={"path": str(tmp_path / "o.db")})
        async with Sidecar(tree, tmp_path) as sidecar:
            for _ in range(10):
                await sidecar.chat()
            load = asyncio.create_task(_calls_on(sidecar))
            backwards = await _pages(sidecar, "limit=7")
            newest = backwards[0]
            forwards = await _pages(sidecar, "limit=7&since=0", until=newest)
            load.cancel()
            assert forwards == backwards[::-1]
            assert forwards == list(range(forwards[0], newest + 1)), "a gap would be an entry that was lost"


async def _calls_on(sidecar: Sidecar) -> None:
    while True:
        await sidecar.chat()


async def _pages(sidecar: Sidecar, query: str, until: int = 0) -> list[int]:
    """Ids of all pages, as far as `until`."""
    found: list[int] = []
    cursor = ""
    while True:
        told = await get(sidecar, f"/v1/events?{query}{cursor}")
        found += [each["id"] for each in told["events"]]
        if until in found:
            return found[: found.index(until) + 1]
        if told["next"] is None:
            return found
        cursor = f"&cursor={told['next']}"
