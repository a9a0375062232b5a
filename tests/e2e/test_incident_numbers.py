"""The numbers of incidents, held against what the callers of the real process have seen."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import POLICY_T, Sidecar, config
from tests.e2e.receivers import Receiver, verified
from tests.e2e.test_incidents import get, incidents, soon, subscribe


async def test_many_errors_of_one_cause_are_one_incident_with_the_callers_numbers(tmp_path: Path) -> None:
    """A fails in five ways; B stands in, then fails too for some; another provider's limits are another cause."""
    async with AsyncExitStack() as stack:
        a, b, c = [await stack.enter_async_context(FakeProvider(name=name)) for name in "abc"]
        receiver = await stack.enter_async_context(Receiver())
        notify = {"allow_private": True, "signing_key": "whsec-0123456789", "digest_after": 0}
        tree = config({"a": a.url, "b": b.url, "c": c.url}, notify=notify)
        sidecar = await stack.enter_async_context(Sidecar(tree, tmp_path))
        await subscribe(sidecar, receiver)
        headers = {**POLICY_T, "X-Failover-Providers": "a,b", "X-Max-Retries": "0"}
        ways = [
            Fault(status=500), Fault(status=503), Fault(reset=True), Fault(close=True), Fault(empty="done"),
            Fault(status=529),
        ]  # fmt: skip
        met = 0
        for way in ways:
            a.default = way
            assert (await sidecar.chat(headers=headers)).status == 200
            met += 1
        (found,) = await soon(lambda: incidents(sidecar, "?provider=a"))

        async def is_outage() -> Any:
            nonlocal met
            assert (await sidecar.chat(headers=headers)).status == 200
            met += 1
            return await incidents(sidecar, "?provider=a&type=outage")

        await soon(is_outage)
        b.default = Fault(status=500)
        lost = [await sidecar.chat(headers=headers) for _ in range(4)]
        assert all(answer.status >= 500 for answer in lost)
        b.heal()
        c.default = Fault(status=401)
        for _ in range(6):
            assert (await sidecar.chat(headers={**POLICY_T, "X-Failover-Providers": "c,b"})).status == 200
        for _ in range(5):
            await sidecar.chat(headers={**POLICY_T, "X-Failover-Providers": "a,b"})
            met += 1

        async def all_told() -> Any:
            by_provider = {each["provider"]: each for each in await incidents(sidecar)}
            return by_provider if by_provider["a"]["affected_requests"] >= met + 4 else None

        told = await soon(all_told)
        ours = told["a"]
        assert ours["id"] == found["id"]
        numbers = (ours["affected_requests"], ours["failed_over"], ours["user_visible_errors"])
        assert numbers == (met + 4, met, 4)
        assert (ours["type"], ours["severity"]) == ("outage", "critical"), "from the third lost one on"
        assert len(ours["evidence"]["errors"]) >= 3, ours["evidence"]
        assert ours["impact"] == (
            f"{met + 4} requests affected: {met} answered by another target, 4 failed for their callers"
        )
        moments = [each["what"] for each in ours["timeline"]]
        assert moments[0] == "opened"
        assert moments.count("escalated") >= 2
        assert [each["at"] for each in ours["timeline"]] == sorted(each["at"] for each in ours["timeline"])
        assert (told["c"]["type"], told["c"]["affected_requests"], told["c"]["failed_over"]) == ("credential", 6, 6)
        assert len(await incidents(sidecar, "?provider=a,c")) == 2
        severities = [hook.json["severity"] for hook in receiver.hooks if hook.json["incident"]["id"] == ours["id"]]
        assert severities == sorted(severities, key=["low", "medium", "high", "critical"].index)
        assert severities[-1] == "critical"
        assert all(verified(hook, "whsec-0123456789") for hook in receiver.hooks)
        opened = {each["id"] for each in await incidents(sidecar)}

        async def recorded() -> Any:
            found = (await get(sidecar, "/v1/events?since=0&limit=1000&kind=incident_opened"))["events"]
            return found if len(found) >= len(opened) else None

        assert sorted(each["detail"]["incident"] for each in await soon(recorded)) == sorted(opened)


async def test_what_became_of_requests_that_an_open_circuit_kept_away(tmp_path: Path) -> None:
    """They count although their errors are another target's: B's own limits, the caller's own mistake or leaving."""
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(FakeProvider(name=name)) for name in "ab"]
        sidecar = await stack.enter_async_context(Sidecar(config({"a": a.url, "b": b.url}), tmp_path))
        headers = {**POLICY_T, "X-Circuit-Breaker": '{"error_threshold": 5, "timeout": 120}'}
        a.default = Fault(status=503)
        for _ in range(8):
            assert (await sidecar.chat(headers=headers)).status == 200
        asked = a.attempts_total
        await soon(lambda: incidents(sidecar))
        b.default = Fault(error="invalid_request")
        assert (await sidecar.chat(headers=headers)).status == 400
        b.default = Fault(silence_s=30)
        call = asyncio.create_task(sidecar.chat(headers=headers))
        before = b.attempts_total
        async with asyncio.timeout(10):
            while b.attempts_total == before:
                await asyncio.sleep(0.02)
        call.cancel()
        b.default = Fault(status=429, retry_hint_s=20)
        assert (await sidecar.chat(headers=headers)).status in (429, 503)
        assert a.attempts_total == asked, "nobody asked A"

        async def all_counted() -> Any:
            found = await incidents(sidecar, "?provider=a")
            return found if found[0]["affected_requests"] >= 11 else None

        (found,) = await soon(all_counted)
        assert (found["affected_requests"], found["failed_over"], found["user_visible_errors"]) == (11, 8, 1)
