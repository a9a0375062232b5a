"""Active probes against a small server on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from proxy.config.load import load_text
from proxy.dispatch import probing
from proxy.server.accounts import accounts_of
from proxy.upstream import probe
from proxy.upstream.probe import Found, Prober, Settings, Shot
from proxy.upstream.session import Upstream, Upstreams

SETTINGS = Settings(interval_s=0.3, timeout_s=0.5, failure_threshold=3, success_threshold=2)


class Vendor:
    """Answers with a status, or not at all, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.hangs = False
        self.body = b"{}"
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        if self.hangs:
            await asyncio.sleep(60)
        return web.Response(status=self.status, body=self.body)


@pytest.fixture
async def vendor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vendor]:
    monkeypatch.setattr(probe, "PAUSE_S", 0.01)
    monkeypatch.setattr(probe, "FIRST_S", 0.0)
    made = Vendor()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def provider(vendor: Vendor, **entry: Any) -> tuple[Any, Upstream]:
    given = {"dialect": "openai", "base_url": f"{vendor.url}/v1", "api_key": "sk-hunter2", **entry}
    loaded = load_text(f"providers: {{a: {given!r}}}", "f", {})
    assert loaded.config is not None, loaded.errors
    upstreams = Upstreams(accounts_of(loaded.config, time.time, lambda name, reason: None), time.monotonic)
    return loaded.config.providers["a"], upstreams["a"]


class Desk:
    """Gives a prober its aim and takes what it finds."""

    def __init__(self, upstream: Upstream, shot: Shot) -> None:
        self._aimed = upstream, shot
        self.found: asyncio.Queue[Found] = asyncio.Queue()
        self.is_up = True
        self.breaks = False
        self.prober = Prober(self.aim, self.report, time.monotonic, time.time, lambda: 0.5)

    def aim(self, name: str) -> tuple[Upstream, Shot]:
        if self.breaks:
            self.breaks = False
            raise RuntimeError("broken on purpose")
        return self._aimed

    def report(self, found: Found) -> bool:
        self.found.put_nowait(found)
        return self.is_up

    async def one(self, settings: Settings = SETTINGS) -> Found:
        self.prober.adopt(settings, {"a": None})
        try:
            async with asyncio.timeout(10):
                return await self.found.get()
        finally:
            self.prober.close()


@pytest.mark.parametrize(("status", "passed"), [(200, True), (401, True), (404, True), (429, True), (500, False)])
async def test_shallow_passes_whatever_answers_below_500(vendor: Vendor, status: int, passed: bool) -> None:
    a, upstream = provider(vendor)
    vendor.status = status
    found = await Desk(upstream, probing.shallow(a, upstream)).one()
    assert (found.passed, found.status, found.deep) == (passed, status, False)
    assert len(vendor.asked) == (1 if passed else 3)
    assert found.failures == (0 if passed else 3)
    method, path, headers, _ = vendor.asked[0]
    assert (method, path, headers["Authorization"]) == ("GET", "/v1/models", "Bearer sk-hunter2")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"{}", ""),
        (400, b'{"error":{"code":"invalid_value"}}', ""),
        (429, b'{"error":{"code":"rate_limit_exceeded"}}', ""),
        (401, b'{"error":{"code":"invalid_api_key"}}', "auth"),
        (404, b'{"error":{"code":"model_not_found"}}', "model_not_found"),
        (503, b"", "model_overloaded"),
    ],
)
async def test_deep_fails_when_a_caller_would(vendor: Vendor, status: int, body: bytes, reason: str) -> None:
    a, upstream = provider(vendor)
    vendor.status, vendor.body = status, body
    shot = probing.deep(a, upstream, "gpt-4o")
    assert shot is not None
    found = await Desk(upstream, shot).one()
    assert (found.passed, found.reason, found.deep) == (not reason, reason, True)
    method, path, headers, sent = vendor.asked[0]
    assert (method, path, headers["Content-Type"]) == ("POST", "/v1/chat/completions", "application/json")
    assert b"gpt-4o" in sent
    assert b":1" in sent


async def test_what_does_not_answer_is_a_timeout_and_what_is_not_there_a_connect_error(vendor: Vendor) -> None:
    a, upstream = provider(vendor)
    vendor.hangs = True
    found = await Desk(upstream, probing.shallow(a, upstream)).one(
        Settings(interval_s=9.0, timeout_s=0.05, failure_threshold=2, success_threshold=2)
    )
    assert (found.passed, found.reason, found.failures) == (False, "timeout", 2)
    a, upstream = provider(vendor, base_url="http://127.0.0.1:1/v1")
    found = await Desk(upstream, probing.shallow(a, upstream)).one()
    assert (found.passed, found.reason, found.status) == (False, "connect_error", 0)


async def test_a_failure_that_passes_when_it_is_tried_again_is_told_as_both(vendor: Vendor) -> None:
    a, upstream = provider(vendor)
    vendor.status = 503
    desk = Desk(upstream, probing.shallow(a, upstream))

    async def heal() -> None:
        while not vendor.asked:
            await asyncio.sleep(0)
        vendor.status = 200

    found, _ = await asyncio.gather(desk.one(), heal())
    assert (found.passed, found.failures) == (True, 1)
    assert desk.prober.results == {("a", "passed"): 1}


async def test_a_broken_probe_does_not_end_probing(vendor: Vendor) -> None:
    a, upstream = provider(vendor)
    desk = Desk(upstream, probing.shallow(a, upstream))
    desk.breaks = True
    assert (await desk.one()).passed


async def test_probes_come_more_often_while_something_is_wrong(vendor: Vendor) -> None:
    a, upstream = provider(vendor)

    async def five(is_up: bool) -> float:
        desk = Desk(upstream, probing.shallow(a, upstream))
        desk.is_up = is_up
        desk.prober.adopt(
            Settings(interval_s=1.5, timeout_s=1.0, failure_threshold=3, success_threshold=2), {"a": None}
        )
        began = time.monotonic()
        async with asyncio.timeout(10):
            for _ in range(2):
                await desk.found.get()
        desk.prober.close()
        return time.monotonic() - began

    quick, slow = await asyncio.gather(five(False), five(True))
    assert quick < 1.2 < slow


async def test_adopting_the_same_settings_leaves_probes_alone_and_off_ends_them(vendor: Vendor) -> None:
    a, upstream = provider(vendor)
    prober = Desk(upstream, probing.shallow(a, upstream)).prober
    prober.adopt(SETTINGS, {"a": None, "b": None})
    before = dict(prober._tasks)
    prober.adopt(SETTINGS, {"a": None})
    assert prober._tasks == {"a": before["a"]}
    prober.adopt(None, {"a": None})
    assert prober._tasks == {}
    await asyncio.wait(before.values(), timeout=5)
    assert all(task.cancelled() for task in before.values())


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"dialect": "anthropic", "base_url": "http://127.0.0.1:1"}, "/v1/models"),
        ({"dialect": "gemini", "base_url": "http://127.0.0.1:1"}, "/v1beta/models"),
        ({"dialect": "azure", "base_url": "http://127.0.0.1:1"}, "/openai/v1/models"),
        ({"dialect": "bedrock", "base_url": "http://127.0.0.1:1", "region": "us-east-1"}, "/"),
    ],
)
async def test_every_dialect_is_asked_in_its_own_place(vendor: Vendor, entry: dict[str, Any], path: str) -> None:
    a, upstream = provider(vendor, **entry)
    assert probing.shallow(a, upstream).path == path


@pytest.mark.parametrize(
    ("entry", "model", "path"),
    [
        ({"dialect": "anthropic", "base_url": "http://127.0.0.1:1"}, "claude-sonnet-5", "/v1/messages"),
        (
            {"dialect": "gemini", "base_url": "http://127.0.0.1:1"},
            "gemini-3-pro",
            "/v1beta/models/gemini-3-pro:generateContent",
        ),
        (
            {"dialect": "bedrock", "base_url": "http://127.0.0.1:1", "region": "us-east-1"},
            "amazon.nova-lite-v1:0",
            "/model/amazon.nova-lite-v1%3A0/converse",
        ),
    ],
)
async def test_a_deep_probe_speaks_the_targets_language(
    vendor: Vendor, entry: dict[str, Any], model: str, path: str
) -> None:
    a, upstream = provider(vendor, **entry)
    shot = probing.deep(a, upstream, model)
    assert shot is not None
    assert shot.path == path


def test_models_that_answer_no_words_are_not_asked() -> None:
    assert [name for name in ("gpt-4o", "text-embedding-3-small", "", "whisper-1") if probing.talks(name)] == ["gpt-4o"]
