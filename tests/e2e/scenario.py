"""The stage of the black-box checklist: pairs of scripted providers behind one real process, and the after-checks.

A `Pair` is a primary P and a first fallback F with a route of their own, so that the variants of a scenario run at the
same time in one process without sharing breakers, budgets or cool-downs. What a pair is asked and what its providers
logged is kept, and `Scene.after` compares all of it with the trace and the counters when the scenario is over.

Policy T is written out here in full, so that a changed default cannot hide a regression. A scenario is run "short",
with its times and limits divided by ten, and "full" under the marker `torture`; a tolerance is never divided.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Attempt
from proxy.demo.shapes import WORDS, Dialect
from tests.e2e.harness import Answer, Sidecar, config

TIMES = pytest.mark.parametrize(
    "x", [pytest.param(0.1, id="short"), pytest.param(1.0, id="full", marks=pytest.mark.torture)]
)
"""The factor of all times and limits of a scenario that is longer than about 2 s."""

LATE_S = 0.5
"""A limit of x s fires between x and x + 0.5 s."""
EARLY_S = 0.02

ALL = list(WORDS)
NO_RESCUE = {"X-Request-Hedging": "false"}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def breaker(x: float = 1.0) -> dict[str, str]:
    """Policy T's circuit breaker, as the header that states it."""
    rule = {
        "error_threshold": 5,
        "error_threshold_window": 30 * x,
        "timeout": 5 * x,
        "half_open_requests": 1,
        "success_threshold": 2,
    }
    return {"X-Circuit-Breaker": json.dumps(rule)}


def policy_t(x: float = 1.0) -> dict[str, Any]:
    """Policy T, its limits times `x`. Waits between retries are not scaled: no scenario is long because of them."""
    return {
        "timeout_s": 600,
        "connect_timeout_s": 2,
        "first_byte_timeout_s": 15 * x,
        "first_content_timeout_s": 120 * x,
        "stream_idle_timeout_s": 30 * x,
        "stream_recovery": "error",
        "failover": {"enabled": True, "max_attempts": 8, "on": ["any_error"]},
        "retry": {
            "max_retries": 2,
            "strategy": "exponential",
            "initial_delay_ms": 250,
            "multiplier": 2,
            "jitter": "full",
            "max_told_wait_ms": 3000,
        },
        "hedging": {"enabled": False, "rescue_after_s": 10 * x},
        "degraded_mode": {"enabled": False},
        "cache": {"mode": "off"},
    }


class Reply(Answer):
    """An answer with its times on the event loop's clock, the clock of the providers' logs."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        pieces: list[tuple[float, bytes]],
        broken: str,
        began_at: float,
        ended_at: float,
    ) -> None:
        super().__init__(response, pieces, broken, ended_at - began_at)
        self.began_at = began_at
        self.ended_at = ended_at
        self.fate = "ok"
        """What became of the attempt that was committed, which the trace of a stream cannot know yet."""

    @property
    def text(self) -> str:
        """The words said, in whichever dialect."""
        if self.body[:1] == b"{":
            return "".join(_texts(self.json))
        return "".join(piece for event in self.events if isinstance(event, dict) for piece in _deltas(event))

    @property
    def dials(self) -> list[dict[str, Any]]:
        """The trace without its remarks."""
        return [entry for entry in self.trace if "target" in entry]

    @property
    def path_of_targets(self) -> list[str]:
        """Provider of every attempt, in order."""
        return [entry["target"].partition("/")[0] for entry in self.dials]

    @property
    def classes(self) -> list[str]:
        """Outcome of every attempt, in order, as far as it was known when the head was sent."""
        return [entry["class"] for entry in self.dials]

    def assert_whole(self, *, by: str = "") -> None:
        """The 60 words, each once and in order, with a proper end; `by` names the provider whose answer it is."""
        assert self.status == 200, (self.status, self.body[:500])
        assert self.broken == ""
        assert self.words == ALL
        if self.body[:1] != b"{":
            assert not [e for e in self.events if isinstance(e, dict) and "error" in e]
        if by:
            assert self.headers["X-Served-By"] == by
            assert by.encode() in self.body

    def assert_broken(self, words: int) -> dict[str, Any]:
        """The first `words` words, complete events only, one error event, no success marker; returns the error."""
        assert self.status == 200
        assert self.words == ALL[:words]
        assert self.body.endswith(b"\n\n")
        events = self.events
        assert [i for i, e in enumerate(events) if "error" in e] == [len(events) - 1]
        assert "[DONE]" not in events
        assert not [c for e in events for c in e.get("choices", []) if c.get("finish_reason")]
        assert self.broken, "the connection must not end as if all had come"
        return dict(events[-1]["error"])


def _texts(body: dict[str, Any]) -> Iterator[str]:
    for choice in body.get("choices", []):
        yield choice["message"]["content"] or ""
    for item in body.get("output", []):
        yield from (part.get("text", "") for part in item.get("content", []))
    if isinstance(body.get("content"), list):
        yield from (part.get("text", "") for part in body["content"])


def _deltas(event: dict[str, Any]) -> Iterator[str]:
    for choice in event.get("choices", []):
        yield choice["delta"].get("content") or ""
    if event.get("type") == "response.output_text.delta":
        yield event["delta"]
    if event.get("type") == "content_block_delta":
        yield event["delta"].get("text", "")


class Pair:
    """P and F on a route of their own. `lone`: there is no F."""

    def __init__(
        self,
        name: str,
        *,
        lone: bool = False,
        dialect: Dialect = "openai",
        f_dialect: Dialect | None = None,
        policy: dict[str, Any] | None = None,
        p_models: dict[str, Any] | None = None,
        f_models: dict[str, Any] | None = None,
        pause_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.dialect: Dialect = dialect
        self.policy = policy
        self.models = {"p": p_models, "f": f_models}
        self.pause_s = pause_s
        self.headers = headers or {}
        """Sent with every call of this pair."""
        self.p = FakeProvider(name=f"p-{name}", dialect=dialect)
        self.dialects: dict[str, Dialect] = {"p": dialect, "f": f_dialect or dialect}
        self.f = FakeProvider(name=f"f-{name}", dialect=self.dialects["f"])
        self.lone = lone
        self.calls: list[tuple[Reply, tuple[int, int], bool]] = []
        """Every reply, how many attempts P and F had in their logs before, and whether other calls ran meanwhile."""
        self._running = self._begun = 0
        self.scene: Scene

    @property
    def providers(self) -> list[FakeProvider]:
        return [self.p] if self.lone else [self.p, self.f]

    def body(self, path: str = CHAT, *, stream: bool = True) -> dict[str, Any]:
        """A request in the path's dialect."""
        made: dict[str, Any] = {"model": "gpt-4o"} | ({"stream": True} if stream else {})
        if path == RESPONSES:
            return {**made, "input": "Say the words.", "store": False}
        made["messages"] = [{"role": "user", "content": "Say the words."}]
        if path == MESSAGES:
            made["max_tokens"] = 1000
        elif stream:
            made["stream_options"] = {"include_usage": True}
        return made

    async def ask(
        self,
        *,
        stream: bool = True,
        path: str = CHAT,
        headers: dict[str, str] | None = None,
        plain: bool = False,
        **more: Any,
    ) -> Reply:
        """One call, read to its end. `plain`: with no header of ours but the route."""
        before = (self.p.attempts_total, self.f.attempts_total)
        is_first = self._running == 0
        self._running += 1
        self._begun += 1
        mine = self._begun
        asked = {"X-Route": self.name}
        if not plain:
            asked |= {"X-Explain": "true", **self.scene.headers, **self.headers, **(headers or {})}
        reply = await self.scene.post(path, {**self.body(path, stream=stream), **more}, asked)
        self._running -= 1
        # The first of many may also be the last to end, with nobody beside it at either moment.
        self.calls.append((reply, before, not is_first or self._begun != mine))
        return reply

    def assert_called_f(self, reply: Reply, limit_s: float) -> None:
        """F was called when `limit_s` had passed since P's attempt began: not earlier, at most 0.5 s later.

        The attempt began between the call and its arrival at P, which a busy test may be late to notice.
        """
        called = self.f.attempts[0].at
        assert called - reply.began_at >= limit_s - EARLY_S, self.name
        assert called - self.p.attempts[0].at <= limit_s + LATE_S, self.name

    def leave_s(self, attempt: int = 0) -> float:
        """Seconds from F's first content (its first attempt when it said nothing) until P's connection was closed."""
        left = self.p.attempts[attempt]
        assert left.peer_closed_at is not None, left
        return left.peer_closed_at - (self.f.attempts[0].first_word_at or self.f.attempts[0].at)


class Scene:
    """The running process and its pairs."""

    def __init__(self, sidecar: Sidecar, pairs: dict[str, Pair], headers: dict[str, str]) -> None:
        self.sidecar = sidecar
        self.pairs = pairs
        self.headers = headers
        self.pid = sidecar.process.pid

    def __getitem__(self, name: str) -> Pair:
        return self.pairs[name]

    async def post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        """One request, read to its end, however it ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        pieces: list[tuple[float, bytes]] = []
        broken = ""
        async with self.sidecar.session.post(f"{self.sidecar.url}{path}", json=body, headers=headers) as response:
            try:
                async for piece in response.content.iter_any():
                    pieces.append((loop.time() - began, piece))  # noqa: PERF401 - what came before a break counts
            except (aiohttp.ClientPayloadError, ConnectionError) as error:
                broken = type(error).__name__
            return Reply(response, pieces, broken, began, loop.time())

    def rss(self) -> int:
        """Resident bytes of the process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def cpu_s(self) -> float:
        """Seconds that the event loop's thread has run; -1 where the kernel does not tell."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9
        except OSError:
            return -1.0

    # The after-checks -------------------------------------------------------------------------------------------------

    async def after(self, *, healthy: bool = True) -> None:
        """All four checks after every test, for every pair. `healthy` False: a refused lone target is expected."""
        await self._check_idle()
        metrics = await self.sidecar.metrics()
        for pair in self.pairs.values():
            for reply, before, crowded in pair.calls:
                if not crowded:
                    self._check_trace(pair, reply, before)
            self._check_counters(pair, metrics)
        assert self.sidecar.process.returncode is None
        assert self.sidecar.process.pid == self.pid
        if healthy:
            await asyncio.gather(*(self._check_healthy(pair) for pair in self.pairs.values() if not pair.lone))

    async def _check_healthy(self, pair: Pair) -> None:
        for provider in pair.providers:
            provider.heal()
        path = MESSAGES if pair.dialect == "anthropic" else CHAT
        reply = await pair.ask(stream=True, path=path, plain=True)
        assert reply.words == ALL
        assert reply.took_s <= 60 * pair.p.pause_s + 1.0

    async def _check_idle(self) -> None:
        """Within 2 s no upstream connection in use, gauges 0 and hardly any CPU."""
        names = ("outrider_attempts_running", "outrider_requests_active", "outrider_upstream_connections{")
        busy: dict[str, float] = {}
        async with asyncio.timeout(2.0):
            for pair in self.pairs.values():
                for provider in pair.providers:
                    await provider.wait_idle()
        for _ in range(40):
            metrics = await self.sidecar.metrics()
            busy = {k: v for k, v in metrics.items() if k.startswith(names) and 'state="idle"' not in k and v}
            if not busy:
                break
            await asyncio.sleep(0.05)
        assert not busy
        share = 1.0
        for _ in range(8):
            cpu = self.cpu_s()
            await asyncio.sleep(0.2)  # the length of the measurement
            share = (self.cpu_s() - cpu) / 0.2
            if share < 0.05:
                break
        assert share < 0.05

    def _check_trace(self, pair: Pair, reply: Reply, before: tuple[int, int]) -> None:
        """As many entries as the logs hold, in the same order, with the right targets."""
        logged = [
            (attempt.at, provider.name)
            for provider, known in zip(pair.providers, before, strict=False)
            for attempt in provider.attempts
            if attempt.n > known and attempt.at <= reply.ended_at
        ]
        assert reply.path_of_targets == [name for _, name in sorted(logged)]
        assert int(reply.headers["X-Attempts"]) == len(logged)

    def _check_counters(self, pair: Pair, metrics: dict[str, float]) -> None:
        """Counters moved by exactly the attempts in the logs, and by their outcomes."""
        expected: Counter[tuple[str, str]] = Counter()
        for reply, _, _ in pair.calls:
            for entry in reply.dials:
                name, cls = entry["target"].partition("/")[0], entry["class"].partition(".")[0]
                is_winner = cls in ("ok", "running")
                expected[name, reply.fate if is_winner else cls] += 1
        counted: Counter[tuple[str, str]] = Counter()
        for key, value in metrics.items():
            if key.startswith("outrider_attempts_total{"):
                labels = labels_of(key)
                if labels["provider"] in {p.name for p in pair.providers}:
                    counted[labels["provider"], labels["outcome"]] += int(value)
        assert counted == expected
        for provider in pair.providers:
            told = sum(n for (name, _), n in counted.items() if name == provider.name)
            assert told == provider.attempts_total
        assert total(metrics, "outrider_requests_total", route=pair.name) == len(pair.calls)


def labels_of(sample: str) -> dict[str, str]:
    """The labels of a metric sample's name."""
    inside = sample.partition("{")[2].rstrip("}")
    return dict(pair.split("=", 1) for pair in inside.replace('"', "").split(",")) if inside else {}


def total(metrics: dict[str, float], family: str, **labels: str) -> float:
    """Sum of a family's samples with these labels."""
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith(family + "{") and labels.items() <= labels_of(name).items()
    )


def gap_s(earlier: Attempt, later: Attempt) -> float:
    """From the answer of one attempt to the arrival of the next."""
    assert earlier.first_byte_at is not None
    return later.at - earlier.first_byte_at


@asynccontextmanager
async def scene(
    folder: Path, *pairs: Pair, x: float | None = None, headers: dict[str, str] | None = None, **over: Any
) -> AsyncIterator[Scene]:
    """Start the providers of all pairs and one process in front of them under policy T times `x` (None: 1).

    `headers` go with every call (default: policy T's breaker). Words come 15 ms apart where `x` is 1, else 2 ms.
    """
    pause_s, x = (0.015, x) if x == 1.0 else (0.002, x or 1.0)
    async with AsyncExitStack() as stack:
        urls, models = {}, {}
        for pair in pairs:
            for key, provider in zip("pf", pair.providers, strict=False):
                provider.pause_s = pause_s if pair.pause_s is None else pair.pause_s
                await stack.enter_async_context(provider)
                urls[provider.name] = provider.url
                models[provider.name] = (pair.dialects[key], pair.models[key])
        routes = [
            {
                "name": pair.name,
                "targets": [{"provider": provider.name} for provider in pair.providers],
                **({"policy": pair.policy} if pair.policy else {}),
            }
            for pair in pairs
        ]
        tree = config(urls, defaults=policy_t(x), routes=routes, **over)
        for name, (dialect, known) in models.items():
            entry = tree["providers"][name]
            entry["dialect"] = dialect
            if dialect != "openai":
                entry["base_url"] = urls[name]
            if known:
                entry["models"] = known
        tree = json.loads(json.dumps(tree))  # a mapping that stands in two places would become a YAML alias
        sidecar = await stack.enter_async_context(Sidecar(tree, folder))
        made = Scene(sidecar, {pair.name: pair for pair in pairs}, breaker(x) if headers is None else headers)
        for pair in pairs:
            pair.scene = made
        yield made
