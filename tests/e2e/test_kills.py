"""Killed again and again with requests running: nothing that was acknowledged is missing afterwards.

Acknowledged is what was read back from the API, and what stands in the file of the store at the moment of the kill.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import aiohttp

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import Sidecar, config
from tests.e2e.receivers import Receiver, verified
from tests.e2e.test_history import events_of, get

LIVES = 4
SHOWN = 60
"""Events that each life shows before it is killed."""


class Ledger:
    """What was acknowledged in all lives of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: set[int] = set()
        self.incidents: set[str] = set()
        self.letters: set[str] = set()
        self.answered = 0
        """Requests that were answered, each with success."""

    async def look(self, sidecar: Sidecar) -> None:
        """Note the events that are shown, and the documents that are on disk."""
        told = await get(sidecar, "/v1/events?limit=200", admin=False)
        assert told["complete"]
        self.events |= {entry["id"] for entry in told["events"]}
        self.incidents |= self.stored("incident")
        self.letters |= self.stored("letter")

    def stored(self, kind: str) -> set[str]:
        """Ids of the documents of this kind that are on disk."""
        with closing(sqlite3.connect(self._path)) as connection:
            return {id for (id,) in connection.execute("SELECT id FROM documents WHERE kind = ?", (kind,))}

    async def call_on(self, sidecar: Sidecar) -> None:
        """Calls until the process is gone. What it answers is a success, also at its last moment."""
        while True:
            try:
                answer = await sidecar.chat()
            except (OSError, aiohttp.ClientError):
                return
            if answer.broken:
                return
            assert answer.status == 200
            self.answered += 1


async def killed(sidecar: Sidecar, ledger: Ledger, enough: Callable[[], bool], within_s: float = 60.0) -> None:
    """Let four callers call until `enough`, then kill the process while they go on."""
    load = [asyncio.create_task(ledger.call_on(sidecar)) for _ in range(4)]
    async with asyncio.timeout(within_s):
        while not enough():
            await ledger.look(sidecar)
    assert not any(task.done() for task in load), "it is killed under load"
    sidecar.process.send_signal(signal.SIGKILL)
    await sidecar.process.wait()
    await asyncio.gather(*load)


async def all_events(sidecar: Sidecar) -> set[int]:
    """Ids of the whole history."""
    return {entry["id"] for entry in await events_of(sidecar, "since=0&limit=1000", admin=False)}


async def test_kills_under_load_lose_no_acknowledged_event_and_no_notification(tmp_path: Path) -> None:
    """Every life finds another key refused, which is one incident and one letter, while the receiver is away.

    Then it is back, the process is killed at the first letter that arrives, and the life after that delivers the rest.
    """
    path = tmp_path / "history.db"
    ledger = Ledger(path)
    async with AsyncExitStack() as stack:
        noisy, *keyed, well = [
            await stack.enter_async_context(FakeProvider(name=name))
            for name in ("noisy", *(f"k{n}" for n in range(LIVES)), "well")
        ]
        noisy.default = Fault(status=500)
        receiver = await stack.enter_async_context(Receiver())
        tree = config(
            {each.name: each.url for each in (noisy, *keyed, well)},
            store={"path": str(path)},
            notify={
                "allow_private": True,
                "signing_key": "whsec-0123456789",
                # A digest may take a notice in after it was looked at; one letter for one notice can be counted.
                "digest_after": 0,
                "subscriptions": [
                    {"channels": ["webhook"], "webhook_url": receiver.url, "severity_threshold": "low"}
                ],
            },
        )  # fmt: skip
        await receiver.stop()
        for life in range(LIVES):
            async with Sidecar(tree, tmp_path) as sidecar:
                assert ledger.events <= await all_events(sidecar)
                keyed[life].default = Fault(status=401)
                letters, events = len(ledger.letters), len(ledger.events)
                await killed(
                    sidecar,
                    ledger,
                    lambda letters=letters, events=events: (  # type: ignore[misc]
                        len(ledger.letters) > letters and len(ledger.events) >= events + SHOWN
                    ),
                )
        assert len(ledger.letters) >= LIVES
        assert receiver.hooks == []

        await receiver.start()
        async with Sidecar(tree, tmp_path) as sidecar:
            await killed(sidecar, ledger, lambda: bool(receiver.hooks))
        async with Sidecar(tree, tmp_path) as sidecar:
            hooks = await receiver.wait(lambda hooks: ledger.letters <= {hook.json["id"] for hook in hooks}, 60.0)
            assert ledger.events <= await all_events(sidecar)
            told = await get(sidecar, "/v1/incidents", admin=False)
            assert ledger.incidents <= {each["id"] for each in told["incidents"]}
            assert {each["provider"] for each in told["incidents"] if each["type"] == "credential"} == {
                provider.name for provider in keyed
            }
            assert all(verified(hook, "whsec-0123456789") for hook in hooks)
            bodies: dict[str, set[bytes]] = {}
            for hook in hooks:
                bodies.setdefault(hook.json["id"], set()).add(hook.body)
            assert all(len(each) == 1 for each in bodies.values()), "what comes twice is the same"
    assert ledger.answered > LIVES * 10
