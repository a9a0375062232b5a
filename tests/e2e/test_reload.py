"""A new file under load, good and bad; a rotated key; what a reload keeps and what it forgets."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Attempt, Fault
from tests.e2e.harness import Answer, Sidecar, config
from tests.e2e.mount import Mount

WITHIN_S = 6.0
"""A change must be noticed within this on a machine that others use too; alone it takes one to two seconds."""


async def until(what: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """Ask again until the answer is true; that answer."""
    async with asyncio.timeout(within_s):
        while not (found := await what()):
            await asyncio.sleep(0.02)
    return found


async def reload(sidecar: Sidecar) -> tuple[int, dict[str, Any]]:
    async with sidecar.session.post(f"{sidecar.admin}/reload") as response:
        return response.status, await response.json(content_type=None)


async def in_force(sidecar: Sidecar, text: str) -> dict[str, Any]:
    """The part of ``/status`` about the file, once this one is in force."""
    digest = hashlib.sha256(text.encode()).hexdigest()

    async def look() -> dict[str, Any] | None:
        found = (await sidecar.status())["config"]
        return found if found["sha256"] == digest and found["last_error"] is None else None

    return dict(await until(look))


async def refused(sidecar: Sidecar, count: int) -> dict[str, Any]:
    """The same once so many readings have failed."""

    async def look() -> dict[str, Any] | None:
        found = (await sidecar.status())["config"]
        return found if found["refused"] >= count else None

    return dict(await until(look))


@asynccontextmanager
async def load(sidecar: Sidecar, callers: int = 6) -> AsyncIterator[list[Answer]]:
    """Callers who call again and again, every other one for a stream; every answer so far."""
    answers: list[Answer] = []
    over = asyncio.Event()

    async def caller(number: int) -> None:
        while not over.is_set():
            answers.append(await sidecar.chat(stream=bool(number % 2)))

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
        yield answers
        over.set()


def whole(answer: Answer) -> bool:
    return answer.status == 200 and not answer.broken and len(answer.words) == 60


def serving(tree: dict[str, Any], version: int) -> dict[str, Any]:
    """A file by which ``gpt-4o`` is called `version`'s name."""
    made = copy.deepcopy(tree)
    for provider in made["providers"].values():
        provider["models"] = {"gpt-4o": f"model-{version}", "*": "passthrough"}
    return made


BAD = (
    "providers: {p: {dialect: openai",  # torn
    "",
    "version: 1\nproviders: {p: {dialekt: openai, base_url: http://127.0.0.1:1}}\n",
    "version: 1\nproviders: {p: {dialect: openai, base_url: http://127.0.0.1:1, api_key: '${NOT_SET_ANYWHERE}'}}\n",
)
PLACES = ("1:", "1:1:", "2:17:", "no provider has its key")


@pytest.mark.parametrize("rounds", [12, pytest.param(50, marks=pytest.mark.torture)])
async def test_reloads_under_load_fail_no_request(tmp_path: Path, rounds: int) -> None:
    mount = Mount(tmp_path / "etc")
    async with FakeProvider(name="p", pause_s=0.001) as p:
        tree = config({"p": p.url}, telemetry={"log": {"level": "info"}})
        mount.config(serving(tree, 0))
        async with Sidecar({}, tmp_path, path=mount.path("config.yaml")) as sidecar, load(sidecar) as answers:
            good, bad = 0, 0
            for number in range(1, rounds + 1):
                asks = number % 3 != 1  # the others are noticed by themselves
                if number % 4 == 2:
                    wrong, place = BAD[bad % len(BAD)], PLACES[bad % len(BAD)]
                    mount.write({"config.yaml": wrong})
                    bad += 1
                    if asks:
                        status, said = await reload(sidecar)
                        assert (status, said["code"]) == (400, "configuration_refused")
                        assert any(place in line for line in said["errors"])
                    found = await refused(sidecar, bad)
                    assert any(place in line for line in found["last_error"])
                    assert (await sidecar.metrics())["outrider_config_last_reload_successful"] == 0.0
                else:
                    good = number
                    text = mount.config(serving(tree, number))
                    if asks:
                        status, said = await reload(sidecar)
                        assert (status, said["status"]) == (200, "reloaded")
                        assert "providers.p.models.gpt-4o.name" in str(said["changed"])
                    await in_force(sidecar, text)
                    assert (await sidecar.metrics())["outrider_config_last_reload_successful"] == 1.0
                answer = await sidecar.chat()
                assert answer.headers["X-Served-Model"] == f"model-{good}"

        assert len(answers) > rounds
        assert [answer.status for answer in answers if not whole(answer)] == []
    lines = [line["msg"] for line in sidecar.lines]
    assert lines.count("configuration reloaded") == rounds - bad
    assert lines.count("configuration refused") == bad


async def test_requests_keep_the_plan_and_the_connection_they_began_with(tmp_path: Path) -> None:
    """A stream that runs while its provider is taken out of the file ends whole; who comes later goes elsewhere."""
    mount = Mount(tmp_path / "etc")
    async with FakeProvider(name="p", pause_s=0.02) as p, FakeProvider(name="q", pause_s=0) as q:
        mount.config(config({"p": p.url}))
        async with Sidecar({}, tmp_path, path=mount.path("config.yaml")) as sidecar:
            running = asyncio.create_task(sidecar.chat(stream=True))
            await p.wait_attempts(1)
            mount.config(config({"q": q.url}))
            assert (await reload(sidecar))[0] == 200
            assert (await sidecar.chat()).headers["X-Served-By"] == "q"
            assert not running.done()
            answer = await running
            assert whole(answer)
            assert answer.headers["X-Served-By"] == "p"

            async def parted() -> bool:
                return p.connections_open == 0

            await until(parted)
            assert {each["target"] for each in (await sidecar.status())["targets"]} == {"q/gpt-4o"}
            assert set((await sidecar.status())["connections"]) == {"q"}


async def test_what_is_known_of_unchanged_targets_stays(tmp_path: Path) -> None:
    """An open circuit and the pool survive a reload of something else; a new address is a new beginning."""
    mount = Mount(tmp_path / "etc")
    async with (
        FakeProvider(name="p", pause_s=0) as p,
        FakeProvider(name="q", pause_s=0) as q,
        FakeProvider(name="r", pause_s=0) as r,
    ):
        tree = config({"p": p.url, "q": q.url}, defaults={"circuit_breaker": {"error_threshold": 2}})
        mount.config(tree)
        async with Sidecar({}, tmp_path, path=mount.path("config.yaml")) as sidecar:
            p.default = Fault(status=500)
            for _ in range(3):
                assert (await sidecar.chat(headers={"X-Max-Retries": "0"})).headers["X-Served-By"] == "q"
            before = {each["target"]: each for each in (await sidecar.status())["targets"]}
            assert before["p/gpt-4o"]["circuit"]["state"] == "open"
            tree["providers"]["q"]["max_concurrency"] = 7
            tree["limits"] = {"max_retries": 3}
            mount.config(tree)
            status, said = await reload(sidecar)
            assert (status, set(said["changed"])) == (200, {"providers.q.max_concurrency", "limits.max_retries"})
            assert (await sidecar.chat()).headers["X-Served-By"] == "q"
            after = {each["target"]: each for each in (await sidecar.status())["targets"]}
            assert after["p/gpt-4o"]["circuit"]["state"] == "open"
            assert after["p/gpt-4o"]["circuit"]["generation"] == before["p/gpt-4o"]["circuit"]["generation"]
            assert after["q/gpt-4o"]["concurrency"]["limit"] == 7.0
            assert (await sidecar.status())["connections"]["q"]["opened"] == 1
            tree["providers"]["p"]["base_url"] = f"{r.url}/v1"
            mount.config(tree)
            assert (await reload(sidecar))[1]["changed"] == ["providers.p.base_url"]
            assert (await sidecar.chat()).headers["X-Served-By"] == "p"
            assert r.attempts_total == 1


async def test_an_edit_in_place_a_gap_and_signals(tmp_path: Path) -> None:
    """A plain file: half a file is waited for, a missing one is told and serves on, SIGHUP reads at once."""
    path = tmp_path / "outrider.yaml"
    async with FakeProvider(name="p", pause_s=0) as p:
        tree = config({"p": p.url})
        async with Sidecar(serving(tree, 0), tmp_path) as sidecar:
            text = yaml.safe_dump(serving(tree, 1), sort_keys=False)
            with path.open("w") as file:
                file.write(text[: len(text) // 2])
                file.flush()
                await asyncio.sleep(0)
                file.write(text[len(text) // 2 :])
            assert (await in_force(sidecar, text))["refused"] == 0
            path.unlink()
            found = await refused(sidecar, 1)
            assert found["last_error"] == [f"{path}: cannot be read"]
            assert (await sidecar.chat()).headers["X-Served-Model"] == "model-1"
            path.write_text(text)
            assert (await reload(sidecar))[1]["status"] == "unchanged"
            assert (await sidecar.status())["config"]["last_error"] is None
            text = yaml.safe_dump(serving(tree, 2), sort_keys=False)
            path.write_text(text)
            sidecar.process.send_signal(signal.SIGHUP)
            await in_force(sidecar, text)
            assert (await sidecar.chat()).headers["X-Served-Model"] == "model-2"
            os.replace(path, tmp_path / "elsewhere.yaml")
            assert (await reload(sidecar))[1]["code"] == "configuration_missing"


async def test_what_needs_a_restart_is_told_and_tokens_are_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "outrider.yaml"
    async with FakeProvider(name="p", pause_s=0) as p:
        tree = config({"p": p.url})
        tree["listen"] |= {"data": {"host": "0.0.0.0", "port": 0}, "auth_tokens": ["token-one"]}
        async with Sidecar(tree, tmp_path) as sidecar:
            shown = {"Authorization": "Bearer token-one"}
            assert (await sidecar.chat(headers=shown)).status == 200
            tree["listen"] |= {"data": {"host": "127.0.0.1", "port": 0}, "auth_tokens": []}
            path.write_text(yaml.safe_dump(tree, sort_keys=False))
            _, said = await reload(sidecar)
            assert said["waits_for_restart"] == ["listen.data.host", "listen.auth_tokens"]
            assert (await sidecar.status())["config"]["waits_for_restart"] == said["waits_for_restart"]
            assert (await sidecar.chat()).status == 401
            assert (await sidecar.chat(headers=shown)).status == 200
            tree["listen"]["auth_tokens"] = ["token-two"]
            path.write_text(yaml.safe_dump(tree, sort_keys=False))
            assert (await reload(sidecar))[0] == 200
            assert (await sidecar.chat(headers=shown)).status == 401
            assert (await sidecar.chat(headers={"Authorization": "Bearer token-two"})).status == 200
        await sidecar.line(lambda line: line["msg"] == "configuration waits for a restart")


async def test_reload_is_dangerous(tmp_path: Path) -> None:
    async with Sidecar(config({"p": "http://127.0.0.1:1"}), tmp_path) as sidecar:
        url = f"{sidecar.admin}/reload"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                assert response.status == 405
            async with session.post(url, headers={"Origin": "http://evil.example"}) as response:
                assert response.status == 403


# Keys -----------------------------------------------------------------------------------------------------------------


class Lock:
    """Who may come in: the holders of one key, which changes."""

    def __init__(self, provider: FakeProvider, key: str) -> None:
        self.key = key
        self.refused = 0
        provider.hook = self._judge

    def _judge(self, attempt: Attempt) -> Fault | None:
        if attempt.header("Authorization") == f"Bearer {self.key}":
            return None
        self.refused += 1
        return Fault(error="auth")


async def test_a_key_rotated_under_load_reaches_nobody_as_401(tmp_path: Path) -> None:
    """The file changes, and in the same moment the old key is void: callers in flight, pools, caches and all."""
    mount = Mount(tmp_path / "keys")
    async with FakeProvider(name="p", pause_s=0.001) as p:
        keys = (f"sk-{number}-0123456789" for number in itertools.count())
        lock = Lock(p, next(keys))
        mount.write({"p": lock.key + "\n"})
        tree = config({"p": p.url})
        tree["providers"]["p"]["api_key"] = {"file": str(mount.path("p"))}
        async with Sidecar(tree, tmp_path) as sidecar, load(sidecar, callers=8) as answers:
            for _ in range(8):
                seen = len(answers)
                key = next(keys)
                mount.write({"p": key + "\n"})
                lock.key = key

                async def many(seen: int = seen) -> bool:
                    return len(answers) > seen + 16

                await until(many)
            assert lock.refused  # the provider did refuse, and nobody heard of it
            assert [answer.status for answer in answers if not whole(answer)] == []

            async def told() -> bool:
                return any(line["msg"] == "credential changed" for line in sidecar.lines)

            await until(told)


async def test_the_cool_down_of_a_key_does_not_outlive_it(tmp_path: Path) -> None:
    """The old key was void before the new one came: the first call with the new one is within seconds, not minutes."""
    mount = Mount(tmp_path / "keys")
    async with FakeProvider(name="p", pause_s=0) as p:
        lock = Lock(p, "sk-old-0123456789")
        mount.write({"p": lock.key})
        tree = config({"p": p.url})
        tree["providers"]["p"]["api_key"] = {"file": str(mount.path("p"))}
        async with Sidecar(tree, tmp_path) as sidecar:
            assert (await sidecar.chat()).status == 200
            lock.key = "sk-new-0123456789"
            assert (await sidecar.chat(headers={"X-Max-Retries": "0"})).status == 401
            (target,) = (await sidecar.status())["targets"]
            assert target["cooldown_s"] > 200
            mount.write({"p": lock.key})

            async def answered() -> bool:
                return (await sidecar.chat()).status == 200

            await until(answered)
            (target,) = (await sidecar.status())["targets"]
            assert target["cooldown_s"] == 0
