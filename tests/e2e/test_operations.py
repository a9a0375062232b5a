"""What an operator does to a running sidecar: circuits, drains, maintenance, faults on purpose, log level, drills."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import Sidecar, config
from tests.e2e.test_process import outrider
from tests.e2e.test_rollout import post


@asynccontextmanager
async def pair(folder: Path, **over: Any) -> AsyncIterator[tuple[Sidecar, FakeProvider, FakeProvider]]:
    """P and F behind route r; a second route `lone` has P alone."""
    async with FakeProvider(name="p", pause_s=0.0) as p, FakeProvider(name="f", pause_s=0.0) as f:
        routes = [
            {"name": "r", "targets": [{"provider": "p"}, {"provider": "f", "trigger": ["rate_limit"]}]},
            {"name": "lone", "targets": [{"provider": "p"}]},
        ]
        quick = {
            "retry": {"max_retries": 0},
            "circuit_breaker": {"error_threshold": 1000, "error_threshold_window": 60},
        }
        tree = config({"p": p.url, "f": f.url}, routes=routes, **{"defaults": quick, **over})
        for provider in tree["providers"].values():
            provider["models"] = {"gpt-4o": "gpt-4o"}
        async with Sidecar(tree, folder) as sidecar:
            yield sidecar, p, f


def logged(sidecar: Sidecar, message: str) -> list[dict[str, Any]]:
    return [line for line in sidecar.lines if line["msg"] == message]


async def target(sidecar: Sidecar, name: str) -> dict[str, Any]:
    return next(each for each in (await sidecar.status())["targets"] if each["target"] == name)


# Circuits -------------------------------------------------------------------------------------------------------------


async def test_circuits_are_forced_for_a_time(tmp_path: Path) -> None:
    async with pair(tmp_path) as (sidecar, p, _):
        # Before the target was ever used: it is forced when it comes to be.
        assert await post(sidecar, "/targets/p/gpt-4o/open", for_s=600) == (
            200,
            {"target": "p/gpt-4o", "state": "open", "for_s": 600.0},
        )
        answer = await sidecar.chat(headers={"X-Failover-Providers": "p,f"})
        assert (answer.headers["X-Served-By"], answer.headers["X-Failover-Reason"]) == ("f", "circuit_open")
        assert answer.headers["X-Circuit-Status"] == "open"
        assert (await target(sidecar, "p/gpt-4o"))["circuit"]["forced"] == "open"
        # A caller's own key has a target of its own, which is no way around it.
        keyed = {"X-Failover-Providers": "p,f", "X-Provider-Key-p": "sk-own-0123456789"}
        assert (await sidecar.chat(headers=keyed)).headers["X-Served-By"] == "f"
        # The whole provider, and back.
        assert (await post(sidecar, "/targets/p/close"))[1]["for_s"] == 300.0
        p.default = Fault(status=500)
        for _ in range(12):
            await sidecar.chat(headers={"X-Failover-Providers": "p,f", "X-Max-Retries": "0"})
        assert (await target(sidecar, "p/gpt-4o"))["circuit"]["state"] == "closed"
        p.heal()
        assert (await post(sidecar, "/targets/p/auto"))[0] == 200
        assert (await target(sidecar, "p/gpt-4o"))["circuit"]["forced"] == "none"
        # A time is over by itself.
        await post(sidecar, "/targets/p/open", for_s=0.05)
        async with asyncio.timeout(5):
            while (await sidecar.chat(headers={"X-Route": "lone"})).status != 200:
                await asyncio.sleep(0.01)
        await sidecar.line(lambda _: len(logged(sidecar, "circuit forced")) >= 4)
        assert [line["state"] for line in logged(sidecar, "circuit forced")] == ["open", "close", "auto", "open"]


async def test_a_drained_target_finishes_what_it_has(tmp_path: Path) -> None:
    async with pair(tmp_path) as (sidecar, p, f):
        p.pause_s = 0.01
        stream = asyncio.create_task(sidecar.chat(stream=True))
        await p.wait_attempts(1)
        assert (await post(sidecar, "/targets/p/drain"))[1] == {"target": "p", "state": "drain", "for_s": None}
        answer = await sidecar.chat()
        assert (answer.headers["X-Served-By"], answer.headers["X-Failover-Reason"]) == ("f", "maintenance")
        assert answer.headers["X-Failover-Skipped"] == "p/gpt-4o=drained"
        assert answer.headers["X-Circuit-Status"] == "closed"
        assert len((await stream).words) == 60
        assert (p.attempts_total, f.attempts_total) == (1, 1)
        assert (await sidecar.status())["drained"] == [{"target": "p", "for_s": None}]
        assert (await sidecar.metrics())["outrider_absences"] == 1.0
        await post(sidecar, "/targets/p/auto")
        assert (await sidecar.chat()).headers["X-Served-By"] == "p"


# Maintenance ----------------------------------------------------------------------------------------------------------


async def test_maintenance_is_announced_holds_and_ends(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    moments = {"from": (now + timedelta(days=2)).isoformat(), "until": (now + timedelta(days=3)).isoformat()}
    stated = [{"provider": "f", **moments}]
    async with pair(tmp_path, maintenance=stated) as (sidecar, _, f):
        status, window = await post(sidecar, "/maintenance", provider="p", route="r", for_s=3600, note="new region")
        assert (status, window["active"], window["note"]) == (200, True, "new region")
        # F is meant for rate limits only; for a target that is out it stands in whatever it is meant for.
        answer = await sidecar.chat()
        assert (answer.headers["X-Served-By"], answer.headers["X-Failover-Reason"]) == ("f", "maintenance")
        assert answer.headers["X-Failover-Skipped"] == "p/gpt-4o=maintenance"
        assert (await sidecar.chat(headers={"X-Route": "lone"})).headers["X-Served-By"] == "p"
        listed = (await sidecar.status())["maintenance"]
        assert [(each["id"], each["active"]) for each in listed] == [("file1", False), (window["id"], True)]
        # The whole route: an honest refusal that says when to come again.
        status, whole = await post(sidecar, "/maintenance", route="lone", for_s=50)
        answer = await sidecar.chat(headers={"X-Route": "lone"})
        assert (answer.status, answer.error["code"]) == (503, "no_target_available")
        assert 40 <= int(answer.headers["Retry-After"]) <= 50
        assert await post(sidecar, "/maintenance", cancel=whole["id"]) == (200, {"cancelled": whole["id"]})
        assert (await sidecar.chat(headers={"X-Route": "lone"})).status == 200
        await post(sidecar, "/maintenance", cancel=window["id"])
        # One that begins and ends by itself.
        begins = datetime.now(UTC) + timedelta(seconds=0.2)
        soon = {"from": begins.isoformat(), "until": (begins + timedelta(seconds=1.5)).isoformat()}
        await post(sidecar, "/maintenance", provider="p", **soon)
        assert (await sidecar.chat()).headers["X-Served-By"] == "p"
        async with asyncio.timeout(10):
            while (await sidecar.chat()).headers["X-Served-By"] != "f":
                await asyncio.sleep(0.05)
            while (await sidecar.chat()).headers["X-Served-By"] != "p":
                await asyncio.sleep(0.05)
            await sidecar.line(lambda _: len(logged(sidecar, "maintenance ends")) >= 3)
        assert len(logged(sidecar, "maintenance announced")) == len(logged(sidecar, "maintenance begins")) == 3
        assert f.attempts_total >= 2


# Faults on purpose ----------------------------------------------------------------------------------------------------


async def test_x_chaos_does_what_it_says(tmp_path: Path) -> None:
    async with pair(tmp_path, chaos={"enabled": True}) as (sidecar, p, f):
        base = {"X-Failover-Providers": "p,f", "X-Explain": "true"}

        async def ask(fault: str, stream: bool = True, **more: str) -> Any:
            return await sidecar.chat(stream=stream, headers={**base, "X-Chaos": fault, **more})

        answer = await ask("primary:error=500", stream=False)
        assert [entry["class"] for entry in answer.trace] == ["server_error", "ok"]
        assert (p.attempts_total, len(answer.words)) == (0, 60)  # nothing was sent to the provider
        answer = await ask("f:error=500", stream=False)
        assert (answer.headers["X-Served-By"], answer.headers["X-Attempts"]) == ("p", "1")  # it was not f's turn
        answer = await ask("p:delay_ms=30000", stream=False, **{"X-First-Token-Timeout-Ms": "60"})
        assert [entry["class"] for entry in answer.trace] == ["timeout.first_content", "ok"]
        assert answer.took_s < 5
        answer = await ask("p/gpt-4o:delay_ms=150")
        assert answer.headers["X-Served-By"] == "p"
        assert answer.took_s >= 0.15
        assert len(answer.words) == 60
        answer = await ask("primary:delay_ms=150,after=headers", stream=False)
        assert (answer.headers["X-Served-By"], len(answer.words)) == ("p", 60)
        assert answer.took_s >= 0.15
        answer = await ask("primary:error=500,after=headers", stream=False)
        assert [entry["class"] for entry in answer.trace] == ["stream_interrupted", "ok"]
        p.pause_s = 0.002
        answer = await ask("primary:delay_ms=200,after=content")
        assert (answer.headers["X-Served-By"], len(answer.words)) == ("p", 60)
        assert answer.took_s >= 0.2
        answer = await ask("primary:error=500,after=content", **{"X-Stream-Recovery": "error"})
        assert answer.broken
        assert answer.events[-1]["error"]["code"]
        answer = await ask("primary:error=500,after=content")
        assert (answer.broken, len(answer.words)) == ("", 60)  # another target went on
        metrics = await sidecar.metrics()
        assert metrics['outrider_faults_injected_total{provider="p",route="r"}'] >= 7
        assert f.attempts_total >= 4


async def test_drills_are_bounded_and_bound_to_their_routes(tmp_path: Path) -> None:
    async with pair(tmp_path, chaos={"enabled": True}) as (sidecar, p, _):
        status, drill = await post(sidecar, "/chaos", routes=["r"], fault="primary:error=429", for_s=600)
        assert (status, drill["routes"], drill["fault"]) == (200, ["r"], "primary:error=429")
        assert (await sidecar.chat()).headers["X-Failover-Reason"] == "rate_limit"
        assert p.attempts_total == 0
        assert [each["id"] for each in (await sidecar.status())["drills"]] == [drill["id"]]
        assert await post(sidecar, "/chaos", stop=drill["id"]) == (200, {"stopped": [drill["id"]]})
        await post(sidecar, "/chaos", fault="primary:error=500", for_s=0.02)
        async with asyncio.timeout(5):
            while len(logged(sidecar, "drill ended")) < 2:
                await asyncio.sleep(0.02)
        assert (await sidecar.status())["drills"] == []


async def test_nobody_injects_where_it_is_not_allowed(tmp_path: Path) -> None:
    async with pair(tmp_path) as (sidecar, _, _f):
        answer = await sidecar.chat(headers={"X-Chaos": "primary:error=503"})
        assert (answer.status, answer.error["code"]) == (403, "override_forbidden")
        status, told = await post(sidecar, "/chaos", fault="primary:error=503")
        assert (status, told["code"]) == (403, "chaos_disabled")
        code, _, err = await outrider("drill", "--url", sidecar.admin, "--fault", "primary:error=503", "--for", "1s")
        assert (code, "chaos: {enabled: true}" in err) == (1, True)


# Who may -----------------------------------------------------------------------------------------


async def test_dangerous_routes_are_post_and_for_this_host(tmp_path: Path) -> None:
    listen = {"data": {"host": "127.0.0.1", "port": 0}, "admin": {"host": "0.0.0.0", "port": 0}}
    async with pair(tmp_path, listen=listen) as (sidecar, _, _f):
        for path in ("/targets/p/open", "/canary/r/resume", "/maintenance", "/chaos", "/loglevel"):
            async with sidecar.session.get(f"{sidecar.admin}{path}") as response:
                assert (response.status, response.headers["Allow"]) == (405, "POST")
            url = f"http://{_own_address()}:{sidecar.admin_port}{path}"
            async with sidecar.session.post(url, json={}) as response:
                assert (response.status, (await response.json())["code"]) == (403, "loopback_only")


def _own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


async def test_the_log_level_changes_for_a_time(tmp_path: Path) -> None:
    async with pair(tmp_path) as (sidecar, p, _):
        assert await post(sidecar, "/loglevel", level="error", for_s=0.5) == (200, {"level": "error", "for_s": 0.5})
        p.default = Fault(status=429)
        await sidecar.chat()
        async with asyncio.timeout(5):
            while not logged(sidecar, "log level"):
                await asyncio.sleep(0.02)
        assert [(line["to"], line.get("for_s")) for line in logged(sidecar, "log level")] == [("info", None)]
        assert logged(sidecar, "request") == []
        await sidecar.chat()
        async with asyncio.timeout(5):
            while not logged(sidecar, "request"):
                await asyncio.sleep(0.02)


# outrider drill -------------------------------------------------------------------------------------------------------


async def test_a_drill_tells_whether_callers_noticed(tmp_path: Path) -> None:
    async with pair(tmp_path, chaos={"enabled": True}) as (sidecar, p, f):
        asked = ("drill", "--url", sidecar.admin, "--fault", "primary:error=429", "--for", "700ms", "--json")
        code, out, err = await outrider(*asked, "--route", "r")
        report = json.loads(out)
        (route,) = report["routes"]
        assert (code, report["passed"], route["passed"], err) == (0, True, True, "")
        assert route["faults"] >= 1
        assert route["requests"] == route["probes"] >= 2
        assert (route["failed"], route["outcomes"]) == (0, {"ok": route["requests"]})
        assert (p.attempts_total, f.attempts_total) == (0, route["requests"])
        code, out, _ = await outrider(*asked[:-1], "--route", "lone")
        assert code == 1
        assert out.startswith("fail  lone: ")
        assert "failed for their callers" in out
        code, out, _ = await outrider(*asked, "--route", "r", "--watch")
        assert (code, json.loads(out)["routes"][0]["why"]) == (1, "no attempt met a fault, so nothing is proven")
        code, _, err = await outrider(*asked, "--route", "x")
        assert (code, "there are r, lone" in err) == (1, True)
        assert (await sidecar.status())["drills"] == []
