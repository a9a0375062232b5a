"""Announced maintenance of the real process: what falls into a window is no downtime, no failure and no incident."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.observe.entry import Entry
from tests.e2e.harness import POLICY_T, Sidecar, config
from tests.e2e.past import leave
from tests.e2e.test_incidents import get, incidents, soon

ILL = Fault(status=503)
MINUTE = timedelta(minutes=1)


async def announce(sidecar: Sidecar, **window: Any) -> dict[str, Any]:
    async with sidecar.session.post(f"{sidecar.admin}/maintenance", json=window) as response:
        assert response.status == 200, await response.text()
        return dict(await response.json())


async def minutes(sidecar: Sidecar, provider: str = "") -> dict[str, float]:
    """Minutes of a provider today, or of the whole, by the end of their names."""
    told = await get(sidecar, "/v1/uptime?days=1")
    found = next((each for each in told["providers"] if each["name"] == provider), told["overall"])
    return {name.removesuffix("_minutes"): found[name] for name in found if name.endswith("_minutes")}


async def grown(sidecar: Sidecar, provider: str, name: str, beyond: float, *, calls: bool = False) -> dict[str, float]:
    """The minutes of a provider as soon as `name` is more than `beyond`."""

    async def is_grown() -> Any:
        if calls:
            await sidecar.chat(headers=POLICY_T)
        found = await minutes(sidecar, provider)
        return found if found[name] > beyond else None

    return dict(await soon(is_grown))


async def test_seconds_in_a_window_are_no_downtime_and_those_at_its_edges_are(tmp_path: Path) -> None:
    """P is ill before, in and after the window; only what is outside of it counts."""
    async with FakeProvider(name="p") as p, FakeProvider(name="f") as f:
        tree = config({"p": p.url, "f": f.url})
        async with Sidecar(tree, tmp_path) as sidecar:
            p.default = ILL
            before = await grown(sidecar, "p", "downtime", 0.0, calls=True)
            assert before["maintenance"] == 0.0
            window = await announce(sidecar, provider="p", for_s=600)
            opened = await minutes(sidecar, "p")
            asked = p.attempts_total
            within = await grown(sidecar, "p", "maintenance", 0.05, calls=True)
            assert within["downtime"] - opened["downtime"] <= 1.1 / 60, "the second in which it began"
            assert within["watched"] - opened["watched"] <= 1.1 / 60
            assert p.attempts_total == asked, "nobody is sent there"
            whole = await minutes(sidecar)
            assert (whole["downtime"], whole["maintenance"]) == (0.0, 0.0), "F stands in for it"
            await announce(sidecar, cancel=window["id"])
            closed = await minutes(sidecar, "p")
            after = await grown(sidecar, "p", "downtime", closed["downtime"] + 0.03, calls=True)
            assert after["maintenance"] - closed["maintenance"] <= 1.1 / 60, "the second in which it ended"


async def test_while_all_of_a_route_is_out_the_whole_is_not_down(tmp_path: Path) -> None:
    """Its callers are told 503, as was announced: neither seconds nor requests cost the error budget anything."""
    async with FakeProvider(name="p") as p, Sidecar(config({"p": p.url}), tmp_path) as sidecar:
        assert (await sidecar.chat()).status == 200
        window = await announce(sidecar, provider="p", for_s=600)
        for _ in range(3):
            answer = await sidecar.chat()
            assert (answer.status, answer.error["code"]) == (503, "no_target_available")
        within = await grown(sidecar, "", "maintenance", 0.03)
        assert within["downtime"] == 0.0
        async with sidecar.session.get(f"{sidecar.admin}/metrics") as response:
            scraped = (await response.text()).splitlines()
        for line in (
            'outrider_requests_total{outcome="maintenance",route="default"} 3.0',
            'outrider_requests_total{outcome="exhausted",route="default"} 0.0',
            'outrider_provider_out{provider="p"} 1.0',
            'outrider_route_out{route="default"} 1.0',
        ):
            assert line in scraped, line
        told = await get(sidecar, "/v1/uptime?days=1")
        assert (told["overall"]["requests"]["judged"], told["overall"]["requests"]["failed"]) == (1, 0)
        assert told["overall"]["error_budget"]["left_percent"] == 100.0
        assert await incidents(sidecar) == []
        await announce(sidecar, cancel=window["id"])
        p.default = ILL
        after = await grown(sidecar, "", "downtime", 0.0, calls=True)
        assert after["maintenance"] - within["maintenance"] <= 2.1 / 60

        async def failed() -> Any:
            return (await get(sidecar, "/v1/uptime?days=1"))["overall"]["requests"]["failed"]

        await soon(failed)


def _held(number: int, begins: datetime, ends: datetime) -> list[Entry]:
    """A window of an earlier run, as the history tells it."""
    moments = {name: at.isoformat()[:19] + "Z" for name, at in (("from", begins), ("until", ends))}
    return [
        Entry(id=number + n, at=at.timestamp(), kind=kind, message="earlier", detail={"id": f"m{number}", **moments})
        for n, (kind, at) in enumerate((("maintenance_started", begins), ("maintenance_ended", ends)))
    ]


async def test_windows_are_listed_with_the_times_at_which_they_held(tmp_path: Path) -> None:
    """One of the file, one that was cut short, one to come, one of an earlier run that reaches into the day; and none
    that ended before the days that are asked for."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    path = tmp_path / "o.db"
    leave(path, [*_held(1, today - timedelta(days=2), today), *_held(5, today - timedelta(days=2), today + MINUTE)])
    moments = {"from": (now - timedelta(days=40)).isoformat(), "until": (now + timedelta(days=1)).isoformat()}
    async with FakeProvider(name="p") as p, FakeProvider(name="f") as f:
        tree = config({"p": p.url, "f": f.url}, maintenance=[{"provider": "p", **moments}], store={"path": str(path)})
        async with Sidecar(tree, tmp_path) as sidecar:
            cut = await announce(sidecar, provider="f", for_s=7200, note="new disks")
            await announce(sidecar, cancel=cut["id"])
            to_come = (datetime.now(UTC) + timedelta(hours=5)).isoformat()
            await announce(sidecar, provider="f", **{"from": to_come}, for_s=60)

            def has_ended(window: dict[str, Any]) -> bool:
                """It was cut short, and that is recorded; it would have held for hours."""
                return datetime.fromisoformat(window["until"]) <= datetime.now(UTC)

            async def listed() -> Any:
                found = (await get(sidecar, "/v1/uptime?days=1"))["maintenance"]
                is_recorded = any(each["note"] == "new disks" and has_ended(each) for each in found)
                return found if len(found) == 4 and is_recorded else None

            found = await soon(listed)
            assert [each["active"] for each in found] == [True, False, False, False]
            assert [each["id"] for each in found if each["note"] == "earlier"] == ["m5"]
            (ended,) = (each for each in found if each["note"] == "new disks")
            assert ended["id"] == cut["id"]
            async with sidecar.session.post(f"{sidecar.admin}/maintenance", json={"cancel": "file1"}) as response:
                assert response.status == 200

            async def is_over() -> Any:
                found = (await get(sidecar, "/v1/uptime?days=1"))["maintenance"]
                return [each for each in found if each["id"] == "file1" and not each["active"] and has_ended(each)]

            assert len(await soon(is_over)) == 1


async def test_what_was_under_way_when_a_window_began_is_no_incident(tmp_path: Path) -> None:
    async with FakeProvider(name="p") as p, FakeProvider(name="f") as f:
        tree = config({"p": p.url, "f": f.url})
        async with Sidecar(tree, tmp_path) as sidecar:
            p.default = Fault(silence_s=0.3, status=401)
            call = asyncio.create_task(sidecar.chat())
            async with asyncio.timeout(10):
                while not p.attempts_total:
                    await asyncio.sleep(0.01)
            await announce(sidecar, provider="p", for_s=600)
            assert (await call).status == 200

            async def refused() -> Any:
                return (await get(sidecar, "/v1/events?kind=credential"))["events"]

            await soon(refused)
            assert await incidents(sidecar) == []
