"""A fake upstream that replays recordings in any dialect, and the one process before it that callers ask.

A case is known to the upstream by the key that the caller names for the provider. The key also makes every case a
target of its own, so that one recorded 401 says nothing about the next recording.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from tests.conformance.score.records import Record
from tests.conformance.upstream import Upstream
from tests.e2e.harness import Sidecar, config

CALLERS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
HOP = {"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
CALLS_AT_ONCE = 24
HANGS_AFTER_S = 30.0

PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1", {"dialect": "openai", "apis": ["chat"]}),
    "openai-responses": ("/v1", {"dialect": "openai", "apis": ["responses"]}),
    "azure": ("", {"dialect": "azure", "apis": ["chat", "responses"]}),
    "azure-dated": ("", {"dialect": "azure", "api_version": "2024-10-21", "apis": ["chat"]}),
    "anthropic": ("", {"dialect": "anthropic"}),
    "gemini": ("", {"dialect": "gemini"}),
    "bedrock": ("", {"dialect": "bedrock"}),
    "bedrock-invoke": ("", {"dialect": "bedrock", "apis": ["invoke"]}),
}
"""Name -> (what follows the upstream's address, entry of the file)."""
SPEAKS = {
    "openai": "chat",
    "openai-responses": "responses",
    "azure-dated": "chat",
    "anthropic": "messages",
    "gemini": "generate",
    "bedrock": "converse",
    "bedrock-invoke": "invoke",
}
"""The wire API that a provider is asked in; Azure's first is asked in whichever of its two the caller speaks."""
_HOME = {"chat": "openai", "responses": "openai-responses", "messages": "anthropic", "generate": "gemini"}
_HOME |= {"converse": "bedrock", "invoke": "bedrock-invoke"}


def homes(record: Record, caller: str) -> list[str]:
    """Providers that could have given a recorded answer to this caller."""
    found = [_HOME[record.api]]
    if record.api == "chat" and record.provider == "azure":
        found += ["azure-dated", *(["azure"] if caller != "responses" else [])]
    if record.api == "responses" and caller == "responses" and record.provider == "azure":
        found.append("azure")
    return found


@dataclass(slots=True)
class Play:
    """What the upstream does for one case, and what it was asked."""

    pieces: Sequence[bytes]
    """Raw bytes of the answer, a write each."""
    closes: bool = False
    path: str = ""
    head: str = ""
    body: bytes = b""
    times: int = 0


class Replayer(Upstream):
    """Writes what a case says."""

    def __init__(self) -> None:
        super().__init__()
        self.plays: dict[str, Play] = {}

    def answer(self, head: str, body: bytes) -> tuple[Sequence[bytes], bool]:
        case = re.search(r"sk-case-(\d+)", head)
        assert case is not None, f"no key in {head}"
        play = self.plays[case[1]]
        play.path, play.head, play.body = head.split(" ")[1], head, body
        play.times += 1
        return play.pieces, play.closes


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """What a caller got."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes
    broken: str
    """Name of the client's error when the body was cut; empty for a clean end."""
    play: Play


@dataclass(slots=True)
class Tally:
    """Verdicts by (kind, pair)."""

    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    excluded: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, kind: str, pair: str, name: str, found: list[str] | str) -> None:
        """`found`: what differs; a word: why the case says nothing."""
        if isinstance(found, str):
            self.excluded[kind, pair] += 1
        elif found:
            self.wrong.setdefault((kind, pair), []).append(f"{name}: {found[0]}")
        else:
            self.right[kind, pair] += 1

    def rows(self) -> Iterable[str]:
        for kind, pair in sorted({*self.right, *self.wrong, *self.excluded}):
            key = (kind, pair)
            yield (
                f"{kind:15} {pair:34} {self.right[key]:6} right {len(self.wrong.get(key, ())):4} wrong"
                f" {self.excluded[key]:5} excluded"
            )

    def faults(self) -> list[str]:
        return [f"{kind} {pair} {each}" for (kind, pair), found in self.wrong.items() for each in found]


class Desk:
    """Sends cases through the process and keeps the tally."""

    def __init__(self, sidecar: Sidecar, upstream: Replayer) -> None:
        self.sidecar = sidecar
        self.upstream = upstream
        self.tally = Tally()
        self._count = 0
        self._gate = asyncio.Semaphore(CALLS_AT_ONCE)

    async def ask(self, caller: str, provider: str, sent: bytes, pieces: Sequence[bytes], closes: bool = False) -> Got:
        """One call at one target, without a second attempt. Raises TimeoutError where it hangs."""
        self._count += 1
        case = f"{self._count:08}"
        play = self.upstream.plays[case] = Play(pieces, closes)
        fields = {
            "Content-Type": "application/json",
            "X-Failover-Providers": provider,
            "X-Failover-Enabled": "false",
            "X-Max-Retries": "0",
            "X-Circuit-Breaker": '{"error_threshold":1000,"error_threshold_window":30,"timeout":1}',
            "X-Request-Hedging": "false",
            f"X-Provider-Key-{provider}": f"sk-case-{case}",
            **({"x-api-key": "sk-caller"} if caller == "messages" else {"Authorization": "Bearer sk-caller"}),
        }
        session, url = self.sidecar.session, self.sidecar.url + CALLERS[caller]
        out, broken = bytearray(), ""
        async with asyncio.timeout(HANGS_AFTER_S), session.post(url, data=sent, headers=fields) as response:
            try:
                async for piece in response.content.iter_any():
                    out += piece
            except (aiohttp.ClientPayloadError, ConnectionError) as error:
                broken = type(error).__name__
            headers = {name.lower(): value for name, value in response.headers.items()}
        del self.upstream.plays[case]
        return Got(status=response.status, headers=headers, body=bytes(out), broken=broken, play=play)

    async def run(self, work: Iterable[tuple[str, str, str, Coroutine[Any, Any, list[str] | str]]]) -> None:
        """(kind, pair, name, judge) each; a judge that raises has found a fault."""

        async def one(kind: str, pair: str, name: str, judge: Coroutine[Any, Any, list[str] | str]) -> None:
            try:
                found = await judge
            except TimeoutError:
                found = ["hangs"]
            except (AssertionError, OSError, aiohttp.ClientError, ValueError, KeyError, TypeError) as fault:
                found = [f"{type(fault).__name__} {fault}"]
            finally:
                self._gate.release()
            self.tally.add(kind, pair, name, found)

        async with asyncio.TaskGroup() as group:
            for each in work:
                await self._gate.acquire()
                group.create_task(one(*each))

    def assert_sound(self) -> None:
        """Nothing of ours failed while all of it ran."""
        lines = [line for line in self.sidecar.lines if line["msg"] == "raw" or "failed inside" in str(line)]
        assert not lines, f"{len(lines)} lines: {lines[:20]}"
        assert self.sidecar.process.returncode is None, "the process has ended"


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    upstream = Replayer()
    async with upstream.running():
        tree = config({}, defaults={"hedging": {"rescue_after_s": 0}, "stream_recovery": "error"})
        tree["providers"] = {
            name: {**entry, "base_url": upstream.url + base, "api_key": f"sk-{name}-0123456789"}
            for name, (base, entry) in PROVIDERS.items()
        }
        async with Sidecar(tree, folder) as sidecar:
            made = Desk(sidecar, upstream)
            yield made
            made.assert_sound()


# The wire -------------------------------------------------------------------------------------------------------------


def framed(record: Record, pieces: Sequence[bytes], *, ends: bool = True) -> list[bytes]:
    """The recorded answer on the wire: chunked, a chunk for each piece; in one piece with a length.

    `ends` False: without the last chunk, so that the end of the connection is a cut.
    """
    fields = {k.lower(): v for k, v in record.headers.items() if v.isascii() and v.isprintable()}
    fields = {k: v for k, v in fields.items() if k not in HOP}
    if "/" not in fields.get("content-type", ""):
        aws = "application/vnd.amazon.eventstream" if record.api in ("converse", "invoke") else "text/event-stream"
        fields["content-type"] = aws if record.stream else "application/json"
    head = f"HTTP/1.1 {record.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    if len(pieces) == 1 and ends:
        return [head.encode() + b"Content-Length: %d\r\n\r\n" % len(pieces[0]) + pieces[0]]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return [head.encode() + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, *([b"0\r\n\r\n"] if ends else [])]


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` in pieces of these sizes; the last size repeats."""
    out, at = [], 0
    while at < len(data):
        size = max(1, sizes[min(len(out), len(sizes) - 1)])
        out.append(data[at : at + size])
        at += size
    return out or [b""]


def event_ends(record: Record) -> list[int]:
    """Offsets behind each complete event of a stream."""
    if record.api in ("converse", "invoke"):
        out, at = [], 0
        while len(record.body) - at >= 16:
            at += int.from_bytes(record.body[at : at + 4], "big")
            out.append(at)
        return out
    return [found.end() for found in re.finditer(rb"\r\n\r\n|\n\n|\r\r", record.body)]


def ways(record: Record, everything: bool) -> dict[str, list[bytes]]:
    """The writes in which an answer is sent."""
    data, rng = record.body, random.Random(record.id)
    found = {"whole": [data]}
    if record.sizes:
        found["recorded"] = cut(data, record.sizes)
    if record.stream:
        edges = [0, *event_ends(record), len(data)]
        found["events"] = [data[a:b] for a, b in pairwise(edges) if b > a] or [data]
        found["random"] = cut(data, [rng.randint(1, 700) for _ in range(100)])
        if len(data) <= (8_000 if everything else 3_000):
            found["bytes"] = cut(data, [1])
    return found


def request(caller: str, model: str, stream: bool) -> bytes:
    """A simple request in a caller's dialect."""
    made: dict[str, Any] = {"model": model, **({"stream": True} if stream else {})}
    if caller == "responses":
        made |= {"input": "Say the words.", "store": False}
    else:
        made["messages"] = [{"role": "user", "content": "Say the words."}]
    if caller == "messages":
        made["max_tokens"] = 1000
    elif caller == "chat" and stream:
        made["stream_options"] = {"include_usage": True}
    return json.dumps(made).encode()
