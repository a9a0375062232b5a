"""Health seen from outside: the real process, fake providers, callers that watch while others call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault, headers
from tests.e2e.harness import Sidecar, config

NO_RETRY = {"X-Max-Retries": "0"}


class Watcher:
    """A WebSocket on the stream, and what came over it with the time it came at."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[tuple[float, dict[str, Any]]] = []

    async def until(self, event: str, timeout_s: float = 20.0, **fields: Any) -> tuple[float, dict[str, Any]]:
        """The first event of this name with these fields; what came before it is kept in `heard`."""
        async with asyncio.timeout(timeout_s):
            while True:
                told = await self.socket.receive_json()
                self.heard.append((time.monotonic(), told))
                if told["event"] == event and all(told.get(name) == value for name, value in fields.items()):
                    return self.heard[-1]


NOTHING: dict[str, Any] = {
    "requests": 0,
    "success_rate": None,
    "error_rate": None,
    "avg_response_time_ms": None,
    "latency_ms": {"p50": None, "p95": None, "p99": None},
    "errors": {},
}
CLOSED = {"state": "closed", "reason": None, "opened_at": None, "retry_after_s": 0.0}


@asynccontextmanager
async def watched(sidecar: Sidecar, query: str = "") -> AsyncIterator[Watcher]:
    async with sidecar.session.ws_connect(f"{sidecar.url}/v1/health/stream{query}") as socket:
        yield Watcher(socket)


async def health(sidecar: Sidecar, base: str = "") -> dict[str, Any]:
    async with sidecar.session.get(f"{base or sidecar.url}/v1/health") as response:
        assert response.status == 200
        return dict(await response.json())


def of(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in told["providers"] if each["name"] == name)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[FakeProvider, FakeProvider]]:
    async with FakeProvider(name="p", ratelimit_headers=True) as p, FakeProvider(name="f") as f:
        yield p, f


def moment(value: Any) -> bool:
    """Whether a value is a time of today's, in UTC."""
    return isinstance(value, str) and value.endswith("Z") and datetime.fromisoformat(value).year > 2000


async def test_every_field_of_health_before_and_after_the_first_calls(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    """What was not seen is null and what was counted is 0; integers are told as such, and both ports tell the same."""
    p, f = pair
    tree = config({"p": p.url, "f": f.url, "off": "http://127.0.0.1:9"})
    tree["providers"]["p"] |= {"region": "eu-west", "models": {"gpt-4o": "gpt-4o"}}
    tree["providers"]["off"]["api_key"] = "${OUTRIDER_TEST_UNSET}"
    async with Sidecar(tree, tmp_path) as sidecar:
        first = await health(sidecar)
        assert set(first) == {"status", "uptime_percentage", "timestamp", "window_s", "routes", "providers"}
        assert (first["status"], first["uptime_percentage"], first["window_s"]) == ("healthy", 100.0, 300)
        assert moment(first["timestamp"])
        assert first["routes"] == [{"name": "default", "status": "healthy", "serving": "p"}]
        one, _, off = first["providers"]
        names = set(one)
        assert moment(one.pop("since"))
        assert one == {
            "name": "p", "status": "healthy", "reason": None, "uptime_24h": 100.0, **NOTHING, "region": "eu-west",
            "circuit": CLOSED, "rate_limit": None, "last_success_at": None, "maintenance": False,
            "probe": {"status": None, "at": None}, "models_left_out": 0,
            "models": [{"name": "gpt-4o", "status": "healthy", "healthy": True}],
        }  # fmt: skip
        assert (off["status"], off["uptime_24h"], off["region"]) == ("down", None, None)
        assert off["reason"] == "disabled: no key: ${OUTRIDER_TEST_UNSET} is not set"

        p.script([None, Fault(status=429, headers=headers({"Retry-After": "30"})), Fault(status=400)])
        assert [(await sidecar.chat(headers=NO_RETRY)).status for _ in range(2)] == [200, 200]
        for base in (sidecar.url, sidecar.admin):
            told = await health(sidecar, base)
            assert set(told) == set(first)
            one = of(told, "p")
            assert set(one) == names
            assert (one["requests"], one["success_rate"], one["error_rate"]) == (2, 0.5, 0.5)
            assert one["errors"] == {"rate_limit": 1}
            assert 0.0 < one["latency_ms"]["p50"] == one["latency_ms"]["p99"] == one["avg_response_time_ms"]
            assert moment(one["last_success_at"])
            assert one["circuit"]["state"] == "closed"
            assert 25.0 < one["circuit"]["retry_after_s"] <= 30.0
            limits = one["rate_limit"]
            assert set(limits) == {"requests", "tokens", "utilization", "age_s"}
            for unit in ("requests", "tokens"):
                assert set(limits[unit]) == {"limit", "remaining", "reset_s"}
                assert type(limits[unit]["limit"]) is type(limits[unit]["remaining"]) is int
            assert 0.0 <= limits["utilization"] <= 1.0
            [model] = one["models"]
            assert set(model) == {
                *("name", "status", "healthy", "reason", "circuit", *NOTHING, "cooldown_s", "cooldown_reason", "mark"),
                *("S_err", "S_slow", "concurrency", "retry_tokens"),
            }
            assert (model["name"], model["cooldown_reason"], model["errors"]) == ("gpt-4o", "rate_limit", one["errors"])
            assert set(model["concurrency"]) == {"running", "limit"}
            # The fallback answered, and nothing of the other's failure stands in its book.
            assert (of(told, "f")["requests"], of(told, "f")["errors"]) == (1, {})
            assert told["routes"] == [{"name": "default", "status": "degraded", "serving": "f"}]


async def test_every_ability_is_told_with_its_reason(pair: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    p, f = pair
    tree = config({"p": p.url, "f": f.url}, store={"path": str(tmp_path / "history.db")})
    tree["providers"]["f"] |= {"dialect": "anthropic", "base_url": f.url, "models": {"gpt-4o": "claude-x"}}
    async with Sidecar(tree, tmp_path) as sidecar:

        async def abilities() -> dict[str, Any]:
            async with sidecar.session.get(f"{sidecar.admin}/v1/capabilities") as response:
                assert response.status == 200
                return dict(await response.json())

        told = await abilities()
        works = ["chat", "streaming", "tools", "vision", "embeddings", "history", "analytics"]
        assert told == {
            **{name: {"status": "available", "reason": None} for name in works},
            "caching": {"status": "unavailable", "reason": "this version keeps no answers"},
        }
        async with sidecar.session.post(f"{sidecar.admin}/targets/p/open", json={"for_s": 60}) as response:
            assert response.status == 200
        told = await abilities()
        assert told["chat"] == {
            "status": "degraded",
            "reason": "p is not well: f answers for the route default",
        }
        assert told["embeddings"] == {
            "status": "unavailable",
            "reason": "no target of the route default answers at present",
        }
        assert told["history"]["status"] == "available"
        # Nobody has called it yet; what the operator decided is told all the same.
        told = await health(sidecar)
        assert told["routes"] == [{"name": "default", "status": "degraded", "serving": "f"}]
        circuit = of(told, "p")["circuit"]
        assert (circuit["state"], circuit["reason"], circuit["opened_at"]) == ("open", "forced", None)
        assert 50.0 < circuit["retry_after_s"] <= 60.0


async def test_an_outage_and_its_end_with_traffic(pair: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    """A call a second; the outage is told within 5 s and 20 calls of the first failed one, the end as soon as calls
    succeed again."""
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}), tmp_path) as sidecar, watched(sidecar) as watcher:
        _, snapshot = await watcher.until("snapshot")
        assert snapshot["status"] == "healthy"
        assert (await sidecar.chat()).status == 200
        p.default = Fault(status=503)
        calls, every_s = 0, 1.0
        stop = asyncio.Event()

        async def call() -> None:
            nonlocal calls
            while not stop.is_set():
                assert (await sidecar.chat(headers=NO_RETRY)).status == 200
                calls += 1
                try:
                    async with asyncio.timeout(every_s):
                        await stop.wait()
                except TimeoutError:
                    continue

        began = time.monotonic()
        calling = asyncio.create_task(call())
        at, down = await watcher.until("provider_down", provider="p")
        assert at - began <= 5.0
        assert calls <= 20
        assert down["affected_models"] == ["gpt-4o"]
        assert down["fallback_provider"] == "f"
        assert down["reason"] == "model_overloaded"
        told = await health(sidecar)
        assert told["status"] == "degraded"
        assert told["routes"] == [{"name": "default", "status": "degraded", "serving": "f"}]
        one = of(told, "p")
        assert (one["status"], one["circuit"]["state"]) == ("down", "open")
        assert one["circuit"]["reason"]
        assert one["circuit"]["opened_at"]
        assert one["circuit"]["retry_after_s"] > 0
        assert one["errors"] == {"model_overloaded": one["requests"] - 1}
        assert one["models"][0]["healthy"] is False
        p.default = None
        # Both trials between two looks at the provider, a second apart: out of "down" it is well at once. With the
        # circuit half open at such a look it is "degraded" first, and out of that lead only ten calm seconds.
        every_s = 0.05
        _, up = await watcher.until("provider_recovered", provider="p")
        assert up["duration_s"] == pytest.approx(time.monotonic() - at, abs=2.0)
        stop.set()
        await calling
        assert of(await health(sidecar, sidecar.admin), "p")["status"] == "healthy"
        names = [told["event"] for _, told in watcher.heard]
        assert names.count("provider_down") == names.count("provider_recovered") == 1
        assert "circuit_changed" in names
        assert names.index("degraded_entered") < names.index("provider_recovered")


async def test_an_outage_without_traffic_is_found_by_probes(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    """Within one interval both ways. The fake provider's list of models fails with the rest."""
    p, f = pair
    tree = config({"p": p.url, "f": f.url}, health={"probe": "deep", "interval_s": 6, "timeout_s": 1})
    tree["providers"]["p"]["models"] = {"gpt-4o": "gpt-4o"}
    async with Sidecar(tree, tmp_path) as sidecar, watched(sidecar) as watcher:
        await watcher.until("snapshot")
        p.default = Fault(status=503)
        began = time.monotonic()
        at, down = await watcher.until("provider_down", provider="p")
        assert at - began <= 6.0 + 1.5  # the probe's own two further tries
        assert down["reason"] == "probe"
        assert (await health(sidecar))["routes"][0]["serving"] == "f"
        p.default = None
        began = time.monotonic()
        at, _ = await watcher.until("provider_recovered", provider="p")
        assert at - began <= 6.0
        asked = [json.loads(seen.body) for seen in p.attempts if seen.path.endswith("/chat/completions")]
        assert asked
        assert all(body.get("max_tokens", body.get("max_completion_tokens")) == 1 for body in asked)
        async with sidecar.session.get(f"{sidecar.admin}/metrics") as response:
            text = await response.text()
        assert 'outrider_probes_total{provider="p",result="passed"}' in text
        assert 'outrider_probes_total{provider="p",result="model_overloaded"}' in text
        assert 'outrider_provider_health{provider="p",region=""} 0.0' in text


async def test_a_callers_mistyped_model_wakes_nobody(pair: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    """Neither by the refusal itself nor by deep probes, which ask for a name that somebody has used."""
    p, f = pair
    p.default = f.default = Fault(status=404, only_model="gpt-typo")
    tree = config({"p": p.url, "f": f.url}, health={"probe": "deep", "interval_s": 1, "timeout_s": 1})
    async with Sidecar(tree, tmp_path) as sidecar, watched(sidecar) as watcher:
        assert (await sidecar.chat(model="gpt-typo")).status == 404
        assert (await sidecar.chat()).status == 200
        assert (await sidecar.chat(model="gpt-typo", headers={"X-Failover-Providers": "f"})).status == 502
        probed = [provider.attempts_total for provider in pair]
        async with asyncio.timeout(20):
            while min(p.attempts_total - probed[0], f.attempts_total - probed[1]) < 3:
                await asyncio.sleep(0.05)
        told = await health(sidecar)
        assert told["status"] == "healthy"
        one, other = of(told, "p"), of(told, "f")
        assert (one["status"], one["error_rate"], one["circuit"]["retry_after_s"]) == ("healthy", 0.0, 0.0)
        assert (other["status"], other["error_rate"]) == ("healthy", None)
        typo = next(each for each in one["models"] if each["name"] == "gpt-typo")
        assert (typo["status"], typo["cooldown_reason"]) == ("down", "model_not_found")
        async with sidecar.session.get(f"{sidecar.url}/v1/incidents") as response:
            assert (await response.json())["incidents"] == []
        await sidecar.terminate()
        with pytest.raises((TypeError, TimeoutError)):  # the good-bye, which is no event
            await watcher.until("incident_opened", timeout_s=5.0)
        assert [event["event"] for _, event in watcher.heard] == ["snapshot"]


async def test_a_slower_provider_is_seen_and_left(pair: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}), tmp_path) as sidecar:
        p.default = Fault(body_after_s=0.06)
        for _ in range(12):  # few at a time: on a busy machine our own slowness would become what is usual
            await asyncio.gather(*(sidecar.chat() for _ in range(5)))
        assert of(await health(sidecar), "p")["status"] == "healthy"
        p.default = Fault(body_after_s=0.4)
        for _ in range(15):
            assert (await sidecar.chat()).status == 200
        told = of(await health(sidecar), "p")
        assert (told["status"], told["reason"]) == ("degraded", "slow")
        assert told["success_rate"] == 1.0
        assert told["latency_ms"]["p99"] >= 300.0
        left = [(await sidecar.chat()).headers["X-Served-By"] for _ in range(30)]
        assert left.count("f") >= 21  # one in twenty is a probe: fewer than this come by chance once in a million runs


async def events(response: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    """The next `count` events of an SSE answer."""
    found: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while len(found) < count:
            line = (await response.content.readline()).decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                found.append({**fields, "data": json.loads(fields["data"])})
                fields = {}
    return found


async def test_the_stream_over_sse_resumes_where_it_was_left(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}, health={"max_subscribers": 2}), tmp_path) as sidecar:
        url = f"{sidecar.url}/v1/health/stream"
        accept = {"Accept": "text/event-stream"}
        async with sidecar.session.get(url, headers=accept) as first:
            assert first.headers["Content-Type"].startswith("text/event-stream")
            assert first.headers["Cache-Control"] == "no-store"
            assert (first.headers["X-Accel-Buffering"], first.headers["Incremental"]) == ("no", "?1")
            (snapshot,) = await events(first, 1)
            assert snapshot["event"] == "snapshot"
            assert [each["name"] for each in snapshot["data"]["providers"]] == ["p", "f"]
            p.default = Fault(status=503)
            for _ in range(4):
                await sidecar.chat(headers=NO_RETRY)
            (changed,) = await events(first, 1)
            assert changed["event"] == "circuit_changed"
            assert (changed["data"]["provider"], changed["data"]["to"]) == ("p", "open")
        async with sidecar.session.get(url, headers={**accept, "Last-Event-ID": snapshot["id"]}) as second:
            again = await events(second, 2)
            assert again[0]["event"] == "snapshot"
            assert again[0]["data"]["missed"] is False
            assert again[1] == changed
            async with sidecar.session.get(url, params={"since": changed["id"]}, headers=accept) as third:
                (now,) = await events(third, 1)
                assert of(now["data"], "p")["circuit"]["state"] == "open"
                async with sidecar.session.get(url) as fourth:
                    assert fourth.status == 503
                    assert (await fourth.json())["code"] == "too_many_subscribers"
        async with sidecar.session.get(url, params={"sinse": "1"}) as wrong:
            assert wrong.status == 400
            assert 'did you mean "since"' in (await wrong.json())["detail"]


async def test_the_process_leaves_at_once_although_it_is_watched(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}), tmp_path) as sidecar, watched(sidecar) as watcher:
        await watcher.until("snapshot")
        async with sidecar.session.get(f"{sidecar.admin}/v1/health/stream") as response:
            await events(response, 1)
            began = time.monotonic()
            assert await sidecar.terminate() == 0
            assert time.monotonic() - began < 3.0  # shutdown.drain_timeout_s is 5
            assert await response.content.read() == b""
            bye = await watcher.socket.receive(timeout=5)
            assert (bye.type, bye.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)


async def test_with_everything_dead_health_still_answers(tmp_path: Path) -> None:
    """L75: readiness and health do not depend on any provider."""
    tree = config({"p": "http://127.0.0.1:1", "f": "http://127.0.0.1:1"}, health={"probe": "shallow", "interval_s": 1})
    async with Sidecar(tree, tmp_path) as sidecar, watched(sidecar) as watcher:
        await watcher.until("degraded_entered", status="down")
        took = []
        for path in ("/v1/health", "/readyz", "/livez"):
            began = time.monotonic()
            async with sidecar.session.get(f"{sidecar.admin}{path}") as response:
                assert response.status == 200
            took.append(time.monotonic() - began)
        assert min(took) < 0.05
        told = await health(sidecar)
        assert told["status"] == "down"
        async with sidecar.session.get(f"{sidecar.url}/v1/capabilities") as response:
            abilities = await response.json()
        assert abilities["chat"]["status"] == "unavailable"
        assert abilities["caching"]["status"] == "unavailable"


async def test_our_paths_want_a_token_where_one_is_needed_and_reach_no_provider(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}, listen={"auth_tokens": ["hunter2"]}), tmp_path) as sidecar:
        for headers, status in (({}, 401), ({"Authorization": "Bearer hunter2"}, 200)):
            async with sidecar.session.get(f"{sidecar.url}/v1/health", headers=headers) as response:
                assert response.status == status
        async with sidecar.session.get(f"{sidecar.admin}/v1/health") as response:
            assert response.status == 200
        async with sidecar.session.post(
            f"{sidecar.url}/v1/health", headers={"Authorization": "Bearer hunter2"}
        ) as response:
            assert response.status == 405
        assert p.attempts == []


async def test_rate_limits_are_told_and_pages_of_other_origins_told_nothing(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    p, f = pair
    async with Sidecar(config({"p": p.url, "f": f.url}), tmp_path) as sidecar:
        assert of(await health(sidecar), "p")["rate_limit"] is None
        p.script([Fault(headers=headers({"x-ratelimit-reset-requests": "60s"}))])
        await sidecar.chat()
        told = of(await health(sidecar), "p")["rate_limit"]
        assert told["requests"]["limit"] == 10_000
        assert told["requests"]["remaining"] == 9_999
        assert told["tokens"]["limit"] == 2_000_000
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await sidecar.session.ws_connect(f"{sidecar.url}/v1/health/stream", origin="https://evil.example")
        assert refused.value.status == 403
        async with sidecar.session.ws_connect(f"{sidecar.url}/v1/health/stream", origin=sidecar.url) as socket:
            assert socket._response.headers["Server"] == "outrider"
            assert (await socket.receive_json())["event"] == "snapshot"


async def test_a_provider_whose_key_is_missing_is_down_until_the_key_comes(
    pair: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    p, f = pair
    key = tmp_path / "key"
    tree = config({"p": p.url, "f": f.url})
    tree["providers"]["p"]["api_key"] = {"file": str(key)}
    async with Sidecar(tree, tmp_path) as sidecar, watched(sidecar) as watcher:
        assert (await sidecar.chat()).headers["X-Served-By"] == "f"
        assert of(await health(sidecar), "p")["status"] == "healthy"  # it may come in a moment
        _, down = await watcher.until("provider_down", provider="p")
        assert (down["reason"], down["fallback_provider"]) == ("auth", "f")
        told = await health(sidecar)
        assert (told["status"], told["routes"][0]["serving"]) == ("degraded", "f")
        assert (of(told, "p")["status"], of(told, "p")["reason"]) == ("down", "auth")
        key.write_text("sk-p-0123456789")
        await watcher.until("provider_recovered", provider="p")
        assert (await sidecar.chat()).headers["X-Served-By"] == "p"
