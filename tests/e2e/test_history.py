"""The history of the real process: what it tells, and that no fault of its file ever reaches a request."""

from __future__ import annotations

import asyncio
import csv
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import Answer, Sidecar, Stage, config

BROKEN = Fault(status=500, message="the key sk-live-abcdef0123456789 of jane@example.com met a fault")


async def get(sidecar: Sidecar, path: str, *, admin: bool = True) -> Any:
    async with sidecar.session.get((sidecar.admin if admin else sidecar.url) + path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def events_of(sidecar: Sidecar, query: str, *, admin: bool = True) -> list[dict[str, Any]]:
    """All pages of `/v1/events?query`."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        told = await get(sidecar, f"/v1/events?{query}{cursor}", admin=admin)
        found += told["events"]
        if told["next"] is None:
            return found
        cursor = f"&cursor={told['next']}"


async def until(told: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Ask again until the answer is true; the process looks at its store once a second."""
    async with asyncio.timeout(within_s):
        while not (found := await told()):
            await asyncio.sleep(0.02)
        return found


async def store_of(sidecar: Sidecar) -> dict[str, Any]:
    return dict((await sidecar.status())["store"])


def priced() -> dict[str, Any]:
    """More of a provider's entry."""
    return {"region": "eu", "models": {"gpt-4o": {"name": "gpt-4o", "price": {"input": 1.0, "output": 2.0}}}}


async def test_a_failover_can_be_asked_for_in_every_form(tmp_path: Path) -> None:
    async with Stage(
        tmp_path,
        2,
        entries=lambda providers: {each.name: priced() for each in providers},
        store={"path": str(tmp_path / "history.db")},
    ) as stage:
        sidecar = stage.sidecar
        ill, well = stage.take(2)
        ill.default = BROKEN
        answer = await stage.chat(ill, well, headers={"X-Max-Retries": "1", "X-Retry-Delay-Ms": "0"})
        assert answer.status == 200
        request_id = answer.headers["X-Outrider-Request-Id"]

        async def recorded() -> Any:
            return (await get(sidecar, f"/v1/events?request_id={request_id}"))["events"]

        found = await until(recorded)
        by_kind = {entry["kind"]: entry for entry in found}
        assert sorted(entry["kind"] for entry in found) == ["attempt", "failover", "request", "retry"]
        request = by_kind["request"]
        assert (request["provider"], request["model"], request["fallback"]) == ("p0", "gpt-4o", "p1/gpt-4o")
        assert (request["error"], request["retries"], request["completed"]) == ("server_error", 1, True)
        assert request["cost_usd"] == (request["input_tokens"] + 2 * request["output_tokens"]) / 1e6
        assert "sk-live" not in request["message"]
        assert "jane" not in request["message"]
        assert request["message"].endswith("met a fault")
        assert (by_kind["failover"]["provider"], by_kind["failover"]["region"]) == ("p1", "eu")

        # The same, as the person on call would look for it.
        narrowed = await get(sidecar, "/v1/events?provider=p0&kind=attempt,retry&limit=1", admin=False)
        assert [entry["kind"] for entry in narrowed["events"]] == ["retry"]
        rest = await get(sidecar, f"/v1/events?provider=p0&kind=attempt,retry&limit=1&cursor={narrowed['next']}")
        assert [entry["kind"] for entry in rest["events"]] == ["attempt"]
        assert rest["next"] is None
        after = await get(sidecar, f"/v1/events?since={request['id']}&kind=retry,failover")
        assert [entry["kind"] for entry in after["events"]] == ["retry", "failover"]
        assert (await get(sidecar, "/v1/events?until=2020-01-01T00:00:00Z"))["events"] == []
        await _csv(sidecar, request_id)

        told = await get(sidecar, f"/v1/explain/{request_id}")
        assert [(dial["kind"], dial["outcome"], dial["won"]) for dial in told["attempts"]] == [
            ("first", "server_error", False),
            ("retry", "server_error", False),
            ("failover", "ok", True),
        ]
        assert all(dial["end_ms"] >= dial["start_ms"] >= 0 for dial in told["attempts"])
        plain = await stage.chat(well)

        async def explained() -> Any:
            path = f"/v1/explain/{plain.headers['X-Outrider-Request-Id']}"
            async with sidecar.session.get(sidecar.admin + path) as response:
                return await response.json() if response.status == 200 else None

        told = await until(explained)
        assert [dial["outcome"] for dial in told["attempts"]] == ["ok"]
        await _sums(sidecar)
        await _refusals(sidecar)


async def _csv(sidecar: Sidecar, request_id: str) -> None:
    async with sidecar.session.get(f"{sidecar.admin}/v1/events?format=csv&limit=2&request_id={request_id}") as response:
        assert response.headers["Content-Type"].startswith("text/csv")
        assert 'rel="next"' in response.headers["Link"]
        rows = list(csv.DictReader(StringIO(await response.text())))
    assert len(rows) == 2
    assert rows[0]["request_id"] == request_id
    assert rows[0]["at"].endswith("Z")


async def _sums(sidecar: Sidecar) -> None:
    told = await get(sidecar, "/v1/analytics?days=7")
    assert (told["requests"], told["completed"], told["complete"]) == (2, 2, True)
    assert told["failovers"]["reasons"] == {"outage": 1}
    assert (told["primary_success_rate"], told["mean_retries_before_success"]) == (0.5, 2.0)
    assert len(told["daily"]) == 7
    assert told["providers"]["p0"]["errors"] == {"server_error": 2}
    assert told["cost_usd"]["by_fallbacks"] > 0.0
    up = await get(sidecar, "/v1/uptime?days=7", admin=False)
    assert [each["name"] for each in up["providers"]] == ["p0", "p1"]
    assert up["overall"]["requests"]["judged"] == 2
    assert up["target"] == 0.999
    assert up["maintenance"] == []


async def _refusals(sidecar: Sidecar) -> None:
    for path, word in (
        ("/v1/events?providr=p0", "provider"),
        ("/v1/events?kind=failovr", "failover"),
        ("/v1/events?limit=0", "limit"),
        ("/v1/events?since=yesterday", "since"),
        ("/v1/analytics?days=9999", "days"),
        ("/v1/uptime?day=3", "days"),
    ):
        async with sidecar.session.get(sidecar.admin + path) as response:
            assert response.status == 400
            assert word in (await response.json())["detail"]
    async with sidecar.session.get(f"{sidecar.admin}/v1/explain/req_unknown") as response:
        assert response.status == 404


async def test_what_was_shown_survives_a_kill_during_load(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path)})
        shown: set[int] = set()
        async with Sidecar(tree, tmp_path) as sidecar:
            load = [asyncio.create_task(_calls_on(sidecar)) for _ in range(4)]
            while len(shown) < 300:
                told = await get(sidecar, "/v1/events?limit=1000")
                assert told["complete"]
                shown |= {entry["id"] for entry in told["events"]}
            sidecar.process.send_signal(signal.SIGKILL)
            await sidecar.process.wait()
            await asyncio.gather(*load)
        async with Sidecar(tree, tmp_path) as sidecar:
            found = {entry["id"] for entry in await events_of(sidecar, "since=0&limit=1000")}
            assert shown <= found
            before = max(found)
            await sidecar.chat()

            async def newer() -> Any:
                return (await get(sidecar, f"/v1/events?since={before}"))["events"]

            events = await until(newer)
            assert min(entry["id"] for entry in events) > before


async def _calls_on(sidecar: Sidecar) -> None:
    """Calls until the process is gone."""
    while True:
        try:
            await sidecar.chat()
        except (OSError, aiohttp.ClientError):
            return


async def test_counts_of_the_hours_survive_a_restart(tmp_path: Path) -> None:
    async with FakeProvider(name="p0") as provider:
        tree = config({"p0": provider.url}, store={"path": str(tmp_path / "history.db")})
        for run in (1, 2):
            async with Sidecar(tree, tmp_path) as sidecar:
                for _ in range(3):
                    assert (await sidecar.chat()).status == 200

                async def counted(sidecar: Sidecar = sidecar, run: int = run) -> bool:
                    return bool((await get(sidecar, "/v1/analytics?days=2"))["requests"] == 3 * run)

                await until(counted)
                assert await sidecar.terminate() == 0


@contextmanager
def small_disk(folder: Path, options: str = "size=1m") -> Iterator[Path]:
    """A file system of one MiB; skips the test where the environment mounts none."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _filled(disk: Path) -> Path:
    """A file that takes what space there is, to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


async def test_a_disk_without_space_costs_no_request_and_heals(tmp_path: Path) -> None:
    """No byte is free when the process starts; then space comes, goes under load, and comes again."""
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        with small_disk(tmp_path / "disk") as disk:
            path = disk / "history.db"
            tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path), "queue": 100})
            ballast = _filled(disk)
            async with Sidecar(tree, tmp_path) as sidecar:
                dropped = 0
                for _ in range(2):
                    while not await _failing(sidecar):
                        await _serves(sidecar, 40)
                    await _serves(sidecar, 160)
                    assert await until(lambda least=dropped + 1: _has(sidecar, dropped=least))  # type: ignore[misc]
                    store = await store_of(sidecar)
                    assert store["trouble"] == "full", store
                    ballast.unlink()
                    await until(lambda: _works(sidecar))
                    await _serves(sidecar, 16)
                    await until(lambda: _is_complete(sidecar))
                    dropped = (await store_of(sidecar))["dropped"]["full"]
                    ballast = _filled(disk)
                assert await sidecar.terminate() == 0
            ballast.unlink()
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def _is_complete(sidecar: Sidecar) -> bool:
    told = await get(sidecar, "/v1/events?limit=1")
    return bool(told["complete"] and told["events"])


async def _serves(sidecar: Sidecar, count: int) -> None:
    """`count` calls, of which each leaves entries, and none may fail."""
    answers: list[Answer] = []
    for _ in range(count // 8):
        answers += await asyncio.gather(*(sidecar.chat() for _ in range(8)))
    assert [answer.status for answer in answers] == [200] * (count // 8 * 8)


async def test_a_file_that_cannot_be_written_costs_no_request(tmp_path: Path) -> None:
    """Locked, then on a full disk, then deleted, all under load."""
    path = tmp_path / "history.db"
    async with FakeProvider(name="p0") as ill, FakeProvider(name="p1") as well:
        ill.default = BROKEN
        tree = config({"p0": ill.url, "p1": well.url}, store={"path": str(path), "queue": 100})
        async with Sidecar(tree, tmp_path) as sidecar:
            await _serves(sidecar, 16)
            await until(lambda: _has(sidecar, written=1))
            await _locked(sidecar, path)
            await _full(sidecar)
            _deleted(path)
            await _serves(sidecar, 16)

            async def begun_anew() -> bool:
                told = await get(sidecar, "/v1/events")
                return bool(told["complete"] and told["events"] and path.exists())

            await until(begun_anew)
            await sidecar.line(lambda _: sum("the store" in line["msg"] for line in sidecar.lines) >= 4)
            logged = [(line["msg"], line.get("trouble")) for line in sidecar.lines if "the store" in line["msg"]]
            assert logged[:2] == [("the store cannot be written", "locked"), ("the store works again", None)]
            assert [msg for msg, _ in logged[2:4]] == ["the store cannot be written", "the store works again"]
            assert await sidecar.terminate() == 0


def _deleted(path: Path) -> None:
    """With its log, as whoever empties a volume would do it."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


async def _has(sidecar: Sidecar, **least: int) -> bool:
    told = await store_of(sidecar)
    flat = {**told, "dropped": sum(told["dropped"].values())}
    return all(flat[name] >= value for name, value in least.items())


async def _locked(sidecar: Sidecar, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        await _serves(sidecar, 160)
        told = await until(lambda: _failing(sidecar))
        assert told["trouble"] == "locked"
        assert told["dropped"]["full"] > 0
        shown = await get(sidecar, "/v1/events?limit=5")
        assert not shown["complete"]
        assert len(shown["events"]) == 5  # from memory
        metrics = await sidecar.metrics()
        assert metrics["outrider_store_up"] == 0.0
        assert metrics['outrider_store_dropped_total{reason="full"}'] > 0.0
    finally:
        other.execute("ROLLBACK")
        other.close()
    await until(lambda: _works(sidecar))


async def _full(sidecar: Sidecar) -> None:
    """The kernel refuses the process any byte beyond the first KiB of a file, so that nothing can be committed."""
    pid = sidecar.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    dropped = (await store_of(sidecar))["dropped"]["full"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        while not await _failing(sidecar):
            await _serves(sidecar, 40)
        await _serves(sidecar, 80)
        assert await until(lambda: _has(sidecar, dropped=dropped + 1))
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await until(lambda: _works(sidecar))


def _logged(sidecar: Sidecar) -> str:
    """The last word of the process about its store; it looks once a second."""
    return next((line["msg"] for line in reversed(sidecar.lines) if "the store" in line["msg"]), "")


async def _failing(sidecar: Sidecar) -> dict[str, Any] | None:
    told = await store_of(sidecar)
    return told if told["state"] == "failing" and _logged(sidecar) == "the store cannot be written" else None


async def _works(sidecar: Sidecar) -> bool:
    return (await store_of(sidecar))["state"] == "ok" and _logged(sidecar) == "the store works again"


async def test_a_reload_and_a_window_of_maintenance_stand_in_the_history(tmp_path: Path) -> None:
    async with FakeProvider(name="p0") as provider, Sidecar(config({"p0": provider.url}), tmp_path) as sidecar:
        file = tmp_path / "outrider.yaml"
        good = file.read_text()
        file.write_text("version: 2\n")
        async with sidecar.session.post(f"{sidecar.admin}/reload") as response:
            assert response.status == 400
        file.write_text(good + "\n# another\n")
        async with sidecar.session.post(f"{sidecar.admin}/reload") as response:
            assert response.status == 200
        told = {"provider": "p0", "for_s": 600, "note": "moving house"}
        async with sidecar.session.post(f"{sidecar.admin}/maintenance", json=told) as response:
            assert response.status == 200
            window = await response.json()

        async def begun() -> Any:
            return (await get(sidecar, "/v1/events?kind=maintenance_started"))["events"]

        (started,) = await until(begun)
        assert (started["provider"], started["message"]) == ("p0", "moving house")
        reloads = (await get(sidecar, "/v1/events?kind=reload&since=0"))["events"]
        assert [entry.get("error") for entry in reloads][:1] == ["refused"]
        assert "error" not in reloads[-1]
        listed = (await get(sidecar, "/v1/uptime"))["maintenance"]
        assert [(each["id"], each["active"]) for each in listed] == [(window["id"], True)]
        async with sidecar.session.post(f"{sidecar.admin}/maintenance", json={"cancel": window["id"]}) as response:
            assert response.status == 200

        async def ended() -> Any:
            return (await get(sidecar, "/v1/events?kind=maintenance_ended"))["events"]

        await until(ended)
        listed = (await get(sidecar, "/v1/uptime"))["maintenance"]
        assert [(each["id"], each["active"], each["note"]) for each in listed] == [
            (window["id"], False, "moving house")
        ]
