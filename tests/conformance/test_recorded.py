"""Recorded provider traffic, hostile HTTP and hostile JSON as upstream answers, through the real process.

The proxy promises that bytes pass through unchanged within one dialect, so what the caller gets is compared by hash
with what the upstream really sent, however the answer was cut on its way. Every case calls with a key of its own: a
target is a provider, a model and a credential, so that one recorded 401 says nothing about the next recording.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import random
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conformance.upstream import Upstream
from tests.data import body, need, rows
from tests.e2e.harness import Answer, Sidecar, config

HOP = {"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"}
APIS = {"openai.chat": "/v1/chat/completions", "openai.embeddings": "/v1/embeddings"}
TYPES = {"json": "application/json", "sse": "text/event-stream"}
SAMPLE = 150
EVERY_BYTE = 6
"""So many of the sample are also sent byte by byte; a byte costs a write, a wake-up and a read in three processes."""
FAULTY = {"error", "midstream_error", "error_in_200"}
ORDINARY = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}'
)

Pieces = Sequence[bytes]


class Cases(Upstream):
    """Answers a request with the bytes that its ``X-Case`` header names."""

    def __init__(self) -> None:
        super().__init__()
        self.cases: dict[str, tuple[Pieces, bool]] = {}
        """Raw pieces to write, one at a time, and whether to close the connection behind them."""
        self.asked = 0

    def answer(self, head: str, body: bytes) -> tuple[Pieces, bool]:
        case = re.search(r"(?i)\r\nx-case: ([^\r]+)", head)
        assert case is not None
        self.asked += 1
        return self.cases.get(case[1], ([ordinary(case[1])], False))


def ordinary(nonce: str) -> bytes:
    said = ORDINARY % nonce.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` in pieces of these sizes; the last size repeats."""
    out, at = [], 0
    while at < len(data):
        size = max(1, sizes[min(len(out), len(sizes) - 1)])
        out.append(data[at : at + size])
        at += size
    return out


def cut_inside(data: bytes) -> list[bytes]:
    """`data` cut inside every multibyte character, every CRLF and between the two line ends that close an event."""
    marks = [i for i in range(1, len(data)) if data[i] & 0xC0 == 0x80 or (data[i] == 0x0A and data[i - 1] in b"\r\n")]
    edges = [0, *marks[:2_000], len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


def framed(record: dict[str, Any], pieces: Pieces) -> list[bytes]:
    """The recorded answer on the wire: chunked, a chunk for each piece; in one piece with a length."""
    response = record["response"]
    fields = {k: v for k, v in response["headers"].items() if k not in HOP and v.isascii() and v.isprintable()}
    if "/" not in fields.get("content-type", ""):
        fields["content-type"] = TYPES.get(record["wire"], "application/octet-stream")
    head = f"HTTP/1.1 {response['status']} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    if len(pieces) == 1:
        return [head.encode() + b"Content-Length: %d\r\n\r\n" % len(pieces[0]) + pieces[0]]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return [head.encode() + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[tuple[Sidecar, Cases]]:
    upstream = Cases()
    async with upstream.running():
        tree = config(
            {"p": upstream.url},
            defaults={"retry": {"max_retries": 0}, "hedging": {"rescue_after_s": 0}, "stream_recovery": "error"},
        )
        tree["providers"]["p"] |= {"credentials": "caller"}
        async with Sidecar(tree, tmp_path) as sidecar:
            yield sidecar, upstream
            status = await sidecar.status()
            assert status["observer_failures"] == 0
            assert status["requests_active"] == 0
            assert [line for line in sidecar.lines if line["msg"] == "raw"] == [], "a traceback on stderr"


@asynccontextmanager
async def within(seconds: float, case: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"{case} hangs") from None


async def ask(sidecar: Sidecar, case: str, path: str, sent: bytes, **more: str) -> Answer:
    fields = {"X-Case": case, "Authorization": f"Bearer sk-{case}", "Content-Type": "application/json", **more}
    pieces: list[tuple[float, bytes]] = []
    broken = ""
    async with within(20, case), sidecar.session.post(sidecar.url + path, data=sent, headers=fields) as response:
        try:
            async for piece in response.content.iter_any():
                pieces += [(0.0, piece)]
        except (aiohttp.ClientPayloadError, ConnectionError) as error:
            broken = type(error).__name__
        return Answer(response, pieces, broken, 0.0)


async def together(work: Sequence[Coroutine[Any, Any, None]], most: int = 24) -> None:
    """Run all of it, `most` at a time; every failure is told, not only the first."""
    gate = asyncio.Semaphore(most)

    async def one(task: Coroutine[Any, Any, None]) -> BaseException | None:
        async with gate:
            try:
                await task
            except (AssertionError, TimeoutError, OSError, aiohttp.ClientError, ValueError, KeyError) as error:
                return error
        return None

    failed = [error for error in await asyncio.gather(*map(one, work)) if error is not None]
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(f"{type(e).__name__} {e}"[:500] for e in failed[:30])


# Recordings -----------------------------------------------------------------------------------------------------------


def chosen(everything: bool) -> set[str]:
    """Ids of the recordings to replay: a fixed sample over providers, modes and errors, or all of them."""
    with need("exchanges/index.csv").open(encoding="utf-8", newline="") as file:
        listed = [row for row in csv.DictReader(file) if row["api"] in APIS]
    if everything:
        return {row["id"] for row in listed}
    listed.sort(key=lambda row: sha256(row["id"].encode()).digest())
    kinds: dict[tuple[str, str, bool], list[str]] = {}
    for row in listed:
        kinds.setdefault((row["file"], row["stream"], int(row["status"]) >= 400), []).append(row["id"])
    out: list[str] = []
    while len(out) < SAMPLE:
        out += [ids.pop() for ids in kinds.values() if ids]
    return {*out[:SAMPLE], *WORTH_A_TEST, *EMPTY}


WORTH_A_TEST = {
    "b75f859efbbd04", "564fca61451419", "240b6bcfc7fae2", "ca157d07fdd139", "19ec71a1c570ce", "63c821da257151",
    "00d3d9762865bd", "d7397188fbb371", "d27b6d0c05753d", "7d3eb3f07b8dc7", "0018c1e717c02c", "4d07f859e9f860",
    "e84f6342816092", "bd16934d596f52",
}  # fmt: skip
"""Recordings that failed in an unusual way: errors after content, as the first event, inside a 200."""

EMPTY = {
    "3905122a957e7a", "703aef40097637", "f1e811989fd124", "1ebe0fe7308b00", "06d4bc0e06fdb5", "2ffe6cfa59efcd",
    "cf8154c12bfa33", "c62eb85b4fd5bb", "d2599c7e227326",
}  # fmt: skip
"""Recorded 200s that say nothing (no text, tool call, refusal or reasoning, and "stop"), or are no JSON: failures."""


def records(ids: set[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(need("exchanges").glob("*openai.*.jsonl.gz")):
        if any(f"__{api}." in path.name for api in APIS):
            yield from (row for row in rows(f"exchanges/{path.name}") if row["id"] in ids)


def request_of(record: dict[str, Any]) -> bytes | None:
    """The recorded request, with a model where the URL named it; None: it is not one of ours (no JSON object)."""
    try:
        parsed = json.loads(record["request"]["body"])
    except ValueError:
        return None
    if not isinstance(parsed, dict):
        return None
    if isinstance(parsed.get("model"), str) and parsed["model"]:
        return str(record["request"]["body"]).encode()
    return json.dumps({**parsed, "model": record["model"] or "deployed"}).encode()


def cuts(record: dict[str, Any], n: int, everything: bool) -> dict[str, Pieces]:
    data = body(record["response"])
    rng = random.Random(record["id"])
    ways: dict[str, Pieces] = {"whole": [data], "random": cut(data, [rng.randint(1, 900) for _ in range(200)])}
    if "chunk_sizes" in record:
        ways["recorded"] = cut(data, record["chunk_sizes"])
    if everything or n % 3 == 0:
        ways["inside"] = cut_inside(data)
    if len(data) < 6_000 and (everything or n % (SAMPLE // EVERY_BYTE) == 0):
        ways["bytes"] = cut(data, [1])
    return ways


async def replay(everything: bool, sidecar: Sidecar, upstream: Cases) -> dict[str, int]:
    done = {"unary": 0, "stream": 0, "error": 0, "faulty": 0, "ways": 0}
    work: list[Coroutine[Any, Any, None]] = []
    for n, record in enumerate(records(chosen(everything))):
        sent = request_of(record)
        if sent is None or not record["response"].get("body", record["response"].get("body_b64")):
            continue
        kind = "faulty" if FAULTY & set(record["flags"]) else "stream" if record["wire"] == "sse" else "unary"
        done["error" if record["response"]["status"] >= 400 else kind] += 1
        for way, pieces in cuts(record, n, everything).items():
            case = f"{record['id']}-{way}"
            upstream.cases[case] = (framed(record, pieces), False)
            done["ways"] += 1
            work.append(check(sidecar, case, record, sent))
    await together(work)
    return done


async def check(sidecar: Sidecar, case: str, record: dict[str, Any], sent: bytes) -> None:
    got = await ask(sidecar, case, APIS[record["api"]], sent)
    really = body(record["response"])
    status = record["response"]["status"]
    assert "X-Outrider-Request-Id" in got.headers, case
    if status >= 400:
        check_error(case, status, really, got)
    elif record["id"] in EMPTY:
        assert (got.status, got.error["code"]) == (502, "upstream_error"), case
    elif FAULTY & set(record["flags"]):
        check_faulty(case, really, got)
    else:
        assert (got.status, got.broken) == (status, ""), (case, got.status, got.body[:300])
        assert sha256(got.body).hexdigest() == sha256(really).hexdigest(), case
        assert got.headers["X-Attempts"] == "1", case


def check_error(case: str, status: int, really: bytes, got: Answer) -> None:
    """Status, code and message are the provider's; the answer is always the dialect's JSON."""
    assert got.status == status, case
    told = got.error
    assert got.headers["x-should-retry"] in ("true", "false"), case
    try:
        error = json.loads(really)["error"]
    except (ValueError, TypeError, KeyError, IndexError):
        error = None
    if isinstance(error, dict):
        assert {**told, "attempts": None} == {**error, "attempts": None}, case
    else:
        assert told["message"], case


def check_faulty(case: str, really: bytes, got: Answer) -> None:
    """An error inside a 200 is an error: a status before the first content, a broken stream after it."""
    if got.status >= 400:
        assert got.error["message"], case
        return
    assert got.broken, f"{case}: a broken answer was presented as a whole one"
    assert isinstance(got.events[-1], dict), case
    assert "error" in got.events[-1], case
    kept, _, _ = got.body.rpartition(b"data: ")
    assert really.startswith(kept), f"{case}: what was sent before the error is the upstream's"
    assert b"[DONE]" not in got.body, case


async def test_recorded_answers_pass_unchanged(stage: tuple[Sidecar, Cases]) -> None:
    done = await replay(False, *stage)
    assert done["unary"] >= 40, done
    assert done["stream"] >= 30, done
    assert done["error"] >= 30, done
    assert done["faulty"] >= 10, done


@pytest.mark.torture
async def test_all_recorded_answers_pass_unchanged(stage: tuple[Sidecar, Cases]) -> None:
    done = await replay(True, *stage)
    assert sum(done.values()) - done["ways"] > 2_000, done


# Hostile answers ------------------------------------------------------------------------------------------------------

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
QUICK = {"X-First-Token-Timeout-Ms": "250", "X-Stream-Idle-Timeout-Ms": "250"}


async def check_next(sidecar: Sidecar, nonce: str) -> None:
    """The next ordinary request gets its own answer, whatever happened to the connection."""
    got = await ask(sidecar, nonce, APIS["openai.chat"], json.dumps(CHAT).encode())
    assert got.status == 200, (nonce, got.body)
    assert got.json["choices"][0]["message"]["content"] == nonce


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("stream", [False, True])
async def test_llhttp_answers_never_leak_or_hang(stage: tuple[Sidecar, Cases], stream: bool, closes: bool) -> None:
    """Misbehaving HTTP as the upstream's answer: some end for every one, and the next answer is clean."""
    sidecar, upstream = stage
    cases = [row for row in rows("http/llhttp_cases.jsonl") if "response" in row["meta"].get("type", "")]
    assert len(cases) >= 40
    sent = json.dumps({**CHAT, "stream": stream}).encode()

    async def one(n: int, row: dict[str, Any]) -> None:
        case = f"llhttp-{n}"
        upstream.cases[case] = ([base64.b64decode(row["raw_b64"])], closes)
        got = await ask(sidecar, case, APIS["openai.chat"], sent, **QUICK)
        upstreams_own = b" 500 " in upstream.cases[case][0][0]
        assert got.status != 500 or upstreams_own, (row["title"], got.body)
        assert got.status == 200 or got.json["error"]["message"], row["title"]
        await check_next(sidecar, f"next-{n}")

    await together([one(n, row) for n, row in enumerate(cases)], most=8)


def as_event(data: bytes) -> bytes:
    good = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    return good + b"data: " + data + b"\n\n" + last


async def test_json_corpus_as_answers(stage: tuple[Sidecar, Cases]) -> None:
    """Odd JSON as a whole body, as the first event and as a later one: an answer or a clear 502, and never a hang."""
    sidecar, upstream = stage
    cases = [(row["name"], base64.b64decode(row["b64"])) for row in rows("http/json_parsing.jsonl")]
    assert len(cases) >= 150

    async def one(name: str, answer: bytes, kind: str, stream: bool) -> None:
        case = re.sub(r"[^\w.-]", "_", f"{kind}-{name}")
        record = {"response": {"status": 200, "headers": {"content-type": TYPES[kind]}}, "wire": kind}
        upstream.cases[case] = (framed(record, [answer]), False)
        got = await ask(sidecar, case, APIS["openai.chat"], json.dumps({**CHAT, "stream": stream}).encode(), **QUICK)
        if got.status == 200:
            assert got.broken or got.body == answer or name.startswith(("later-n_", "later-i_")), name
            for line in got.body.split(b"\n") if name.startswith("later-n_") else ():
                if line.startswith(b"data:") and line[5:].strip() not in (b"", b"[DONE]"):
                    json.loads(line[5:])  # what is no JSON is left out
        else:
            assert got.status == 502, (name, got.status, got.body[:200])
            assert got.error["code"] == "upstream_error", name

    work = [one(name, data, "json", False) for name, data in cases]
    work += [one(f"only-{name}", b"data: " + data + b"\n\n", "sse", True) for name, data in cases]
    work += [one(f"later-{name}", as_event(data), "sse", True) for name, data in cases]
    await together(work)
    await check_next(sidecar, "after-json")
