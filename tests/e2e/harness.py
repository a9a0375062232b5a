"""The real process over real sockets: starts `outrider run` on a generated file and speaks HTTP with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from proxy.demo.provider import FakeProvider

ROOT = Path(__file__).resolve().parents[2]


def config(providers: dict[str, str], **over: Any) -> dict[str, Any]:
    """A file over OpenAI-shaped providers, name to base URL, in chain order; `over` adds or replaces sections.

    Policy T of the black-box checklist is the built-in default, so nothing else is stated.
    """
    made: dict[str, Any] = {
        "version": 1,
        "listen": {"data": {"host": "127.0.0.1", "port": 0}, "admin": {"host": "127.0.0.1", "port": 0}},
        "providers": {
            name: {"dialect": "openai", "base_url": f"{url}/v1", "api_key": f"sk-{name}-0123456789"}
            for name, url in providers.items()
        },
        "store": {"path": ":memory:"},
        "health": {"probe": "off"},
    }
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = {**made[key], **value}
        else:
            made[key] = value
    return made


class Sidecar:
    """One running process; ``async with Sidecar(config({...}), tmp_path) as sidecar``."""

    def __init__(
        self, tree: dict[str, Any], folder: Path, env: dict[str, str] | None = None, path: Path | None = None
    ) -> None:
        """`path`: a file that is there already; `tree` and `folder` are then not looked at."""
        self._tree = tree
        self._folder = folder
        self._path = path
        self._env = env or {}
        self.process: asyncio.subprocess.Process
        self.data_port = 0
        self.admin_port = 0
        self.lines: list[dict[str, Any]] = []
        """Every log line so far."""
        self._heard = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.ready_s = 0.0
        """Seconds from exec to the ready line."""

    async def __aenter__(self) -> Self:
        path = self._path
        if path is None:
            path = self._folder / "outrider.yaml"
            path.write_text(yaml.safe_dump(self._tree, sort_keys=False))
        started = time.monotonic()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy",
            "run",
            "--config",
            str(path),
            cwd=ROOT,
            env={**os.environ, **self._env},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(ready))
        try:
            async with asyncio.timeout(20):
                line = await ready
        except BaseException:
            await self.__aexit__(None, None, None)  # nobody else ends a process that was never handed over
            raise
        self.ready_s = time.monotonic() - started
        self.data_port, self.admin_port = line["data_port"], line["admin_port"]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
        )
        return self

    async def line(self, is_it: Callable[[dict[str, Any]], object], timeout_s: float = 10.0) -> dict[str, Any]:
        """The first log line of which this holds; it may still be on its way when what it tells of has been seen."""
        async with asyncio.timeout(timeout_s):
            while True:
                self._heard.clear()
                found = next((line for line in self.lines if is_it(line)), None)
                if found is not None:
                    return found
                await self._heard.wait()

    async def _read(self, ready: asyncio.Future[dict[str, Any]]) -> None:
        assert self.process.stderr is not None
        raw: list[str] = []
        async for line in self.process.stderr:
            try:
                parsed = json.loads(line)
            except ValueError:
                raw.append(line.decode(errors="replace"))
                parsed = {"msg": "raw", "text": raw[-1]}
            self.lines.append(parsed)
            self._heard.set()
            if parsed.get("msg") == "ready" and not ready.done():
                ready.set_result(parsed)
        if not ready.done():
            ready.set_exception(AssertionError("the process ended before it was ready:\n" + "".join(raw)))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        if self._reader is not None:
            await self._reader

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.data_port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def chat(self, *, stream: bool = False, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        """One chat call, read to its end."""
        sent = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say the words."}], **body}
        if stream:
            sent["stream"] = True
            sent.setdefault("stream_options", {"include_usage": True})
        started = time.monotonic()
        pieces: list[tuple[float, bytes]] = []
        broken = ""
        async with self.session.post(f"{self.url}/v1/chat/completions", json=sent, headers=headers) as response:
            try:
                async for piece in response.content.iter_any():
                    pieces.append((time.monotonic() - started, piece))  # noqa: PERF401 - a cut must leave what came
            except (aiohttp.ClientPayloadError, ConnectionError) as error:
                broken = type(error).__name__
            return Answer(response, pieces, broken, time.monotonic() - started)

    async def status(self) -> dict[str, Any]:
        async with self.session.get(f"{self.admin}/status") as response:
            return await response.json()

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels."""
        async with self.session.get(f"{self.admin}/metrics") as response:
            text = await response.text()
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}


class Answer:
    """What a caller got."""

    def __init__(
        self, response: aiohttp.ClientResponse, pieces: list[tuple[float, bytes]], broken: str, took_s: float
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.pieces = pieces
        self.broken = broken
        """Name of the client error when the body was cut; empty for a clean end."""
        self.took_s = took_s
        self.body = b"".join(piece for _, piece in pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Parsed data of every event; ``"[DONE]"`` stays a text. A data line that does not parse raises."""
        out: list[Any] = []
        for event in self.body.decode().split("\n\n"):
            for line in event.split("\n"):
                if line.startswith("data:"):
                    data = line[5:].strip()
                    out.append(data if data == "[DONE]" else json.loads(data))
        return out

    @property
    def text(self) -> str:
        """The words said, of a unary or a streamed answer."""
        if self.body[:1] == b"{":
            return str(self.json["choices"][0]["message"]["content"] or "")
        chunks = [e for e in self.events if isinstance(e, dict)]
        return "".join(c["delta"].get("content") or "" for e in chunks for c in e.get("choices", []))

    @property
    def words(self) -> list[str]:
        return self.text.split()

    @property
    def trace(self) -> list[dict[str, Any]]:
        return list(json.loads(self.headers["X-Failover-Trace"]))

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json["error"])


POLICY_T = {
    "X-Circuit-Breaker": json.dumps(
        {
            "error_threshold": 5,
            "error_threshold_window": 30,
            "timeout": 5,
            "half_open_requests": 1,
            "success_threshold": 2,
        }
    ),
    "X-Stream-Recovery": "error",
}
"""What the black-box policy states beyond the built-in defaults (`lessons.md`, part 0)."""


class Stage:
    """One process over many fake providers ``p0``, ``p1`` ..., so that scenarios that must wait can wait together.

    Every scenario takes providers of its own and names them as its chain, so what one does to its targets is nothing to
    the others, and counters by provider can be held against that provider's log.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        entries: Callable[[list[FakeProvider]], dict[str, dict[str, Any]]] = lambda providers: {},
        pause_s: float = 0.0,
        env: dict[str, str] | None = None,
        **over: Any,
    ) -> None:
        """`entries` replaces or adds provider entries of the file once ports are known; `over` is that of `config`."""
        self._folder = folder
        self._entries = entries
        self._env = env
        self._over = over
        self._free = [FakeProvider(name=f"p{n}", pause_s=pause_s) for n in range(count)]
        self.providers = list(self._free)
        self.sidecar: Sidecar
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for provider in self.providers:
                await stack.enter_async_context(provider)
            tree = config({provider.name: provider.url for provider in self.providers}, **self._over)
            for name, entry in self._entries(self.providers).items():
                tree["providers"][name] = {**tree["providers"].get(name, {}), **entry}
            self.sidecar = await stack.enter_async_context(Sidecar(tree, self._folder, self._env))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def take(self, count: int) -> list[FakeProvider]:
        """Providers that no other scenario has."""
        assert len(self._free) >= count, "the stage has too few providers"
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    async def chat(
        self, *chain: FakeProvider | str, stream: bool = False, headers: dict[str, str] | None = None, **body: Any
    ) -> Answer:
        """One call under policy T with `chain` as its targets, told with every attempt; `headers` has the last word."""
        names = [each if isinstance(each, str) else each.name for each in chain]
        sent = {"X-Failover-Providers": ",".join(names), "X-Explain": "true", **POLICY_T, **(headers or {})}
        return await self.sidecar.chat(stream=stream, headers=sent, **body)

    async def target(self, provider: FakeProvider | str, model: str = "gpt-4o") -> dict[str, Any]:
        """The target's entry in ``/status``."""
        name = provider if isinstance(provider, str) else provider.name
        status = await self.sidecar.status()
        return next(each for each in status["targets"] if each["target"] == f"{name}/{model}")

    async def after(self, *chain: FakeProvider, answer: Answer | None = None) -> None:
        """The checks after every test of `lessons.md` part 0, as far as they can be told apart by provider.

        `answer`, when given, is that of the only request these providers have seen: its trace must be their logs.
        """
        assert self.sidecar.process.returncode is None
        for provider in chain:
            await provider.wait_idle(timeout_s=2.0)
        if answer is not None:
            told = answer.trace if "X-Failover-Trace" in answer.headers else answer.error["attempts"]
            logged = sorted((attempt.at, provider.name) for provider in chain for attempt in provider.attempts)
            assert [entry["target"].partition("/")[0] for entry in told] == [name for _, name in logged]
        await self.counted(*chain)

    async def counted(self, *chain: FakeProvider) -> None:
        """Counters moved by exactly the attempts in the logs, and nothing of theirs is in flight.

        A request is counted when its last task has ended, which the caller's last byte does not wait for.
        """
        wanted = {provider.name: float(provider.attempts_total) for provider in chain}
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.0
        while True:
            samples = await self.sidecar.metrics()
            found = {name: _sum(samples, "outrider_attempts_total", name) for name in wanted}
            running = sum(_sum(samples, "outrider_attempts_running", name) for name in wanted)
            if (found == wanted and running == 0.0) or loop.time() > until:
                break
        assert (found, running) == (wanted, 0.0)


def _sum(samples: dict[str, float], family: str, provider: str) -> float:
    """All samples of a family with this provider's label."""
    mark = f'provider="{provider}"'
    return sum(value for name, value in samples.items() if name.startswith(family + "{") and mark in name)


@asynccontextmanager
async def full_queue() -> AsyncIterator[int]:
    """A port of the loopback interface whose listen queue is full, so that the kernel drops every further SYN.

    To a client this is what a firewall that drops packets looks like.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                waiting.append(filler)
            yield listener.getsockname()[1]
        finally:
            for filler in waiting:
                filler.close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
