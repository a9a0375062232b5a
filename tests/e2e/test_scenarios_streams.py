"""Scenarios S17 to S22, S35 and S37 of the black-box checklist: answers that only look like answers, and slow callers.

As in the public half, a test is a scenario and its variants run side by side on pairs of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.demo.shapes import WORDS, Dialect
from tests.e2e.scenario import (
    ALL,
    CHAT,
    EARLY_S,
    LATE_S,
    MESSAGES,
    NO_RESCUE,
    RESPONSES,
    TIMES,
    Pair,
    Reply,
    Scene,
    scene,
    total,
)

MIB = 1 << 20
IDENTITY = {"Accept-Encoding": "identity"}

DIALECTS: dict[str, tuple[str, Dialect]] = {
    "chat": (CHAT, "openai"),
    "responses": (RESPONSES, "openai"),
    "messages": (MESSAGES, "anthropic"),
}
OPENINGS = {
    "chat": b'"role":"assistant"',
    "responses": b'"type":"response.created"',
    "messages": b"event: message_start",
}


def assert_failed_over(pair: Pair, reply: Reply, *, limit_s: float, p_attempts: int = 3) -> None:
    """F's whole answer and nothing of P, after at most `p_attempts` on P and one on F."""
    reply.assert_whole(by=pair.f.name)
    assert pair.p.name.encode() not in reply.body
    assert 1 <= len(pair.p.attempts) <= p_attempts
    assert len(pair.f.attempts) == 1
    assert reply.took_s <= limit_s


# S17 and S18: what comes before the first content --------------------------------------------------------------------


async def test_S17_an_error_as_the_first_event_is_a_failed_attempt(tmp_path: Path) -> None:
    kinds = {"overloaded": "model_overloaded", "internal": "server_error", "rate_limit": "rate_limit"}
    pairs = {
        (api, kind): Pair(f"{api}-{kind}".replace("_", "-"), dialect=dialect)
        for api, (_, dialect) in DIALECTS.items()
        for kind in kinds
    }
    async with scene(tmp_path, *pairs.values()) as stage:
        for (_, kind), pair in pairs.items():
            pair.p.default = Fault(error_after_words=0, error=kind)
        replies = await asyncio.gather(*(pair.ask(path=DIALECTS[api][0]) for (api, _), pair in pairs.items()))
        circuits = {t["target"].partition("/")[0]: t for t in (await stage.sidecar.status())["targets"]}
        for ((api, kind), pair), reply in zip(pairs.items(), replies, strict=True):
            assert_failed_over(pair, reply, limit_s=4.0)
            assert reply.body.count(OPENINGS[api]) == 1
            assert set(reply.classes[:-1]) == {kinds[kind]}, (api, kind)
            # The breaker counts an overload or an internal error once each; a rate limit sets a cool-down instead.
            seen = circuits[pair.p.name]
            assert seen["circuit"]["counts"] == {kinds[kind]: len(pair.p.attempts)}
            assert (seen["cooldown_s"] > 0) == (kind == "rate_limit")
            assert (seen["circuit"]["S_err"] > 0) == (kind != "rate_limit")
        await stage.after()


@TIMES
async def test_S18_trouble_after_a_preamble_is_trouble_before_content(tmp_path: Path, x: float) -> None:
    kinds = ("comment", "ping", "role", "empty", "created")
    apis = list(DIALECTS)
    broken = {api: Pair(f"error-{api}", dialect=DIALECTS[api][1]) for api in apis}
    silent = {api: Pair(f"silent-{api}", dialect=DIALECTS[api][1]) for api in apis}
    limit = {**NO_RESCUE, "X-First-Token-Timeout-Ms": str(round(10_000 * x))}
    async with scene(tmp_path, *broken.values(), *silent.values(), x=x) as stage:
        for api in apis:
            broken[api].p.script(
                [Fault(preamble=kinds, first_word_s=2 * x, preamble_every_s=0.2 * x, error_after_words=0)]
            )
            broken[api].p.default = Fault(preamble=kinds, error_after_words=0)
            silent[api].p.default = Fault(preamble=kinds, first_word_s=math.inf, preamble_every_s=0.2 * x)
        replies = await asyncio.gather(
            *(broken[api].ask(path=DIALECTS[api][0]) for api in apis),
            *(silent[api].ask(path=DIALECTS[api][0], headers=limit) for api in apis),
        )
        for api, error, silence in zip(apis, replies[:3], replies[3:], strict=True):
            assert_failed_over(broken[api], error, limit_s=4.0 + 2 * x)
            assert error.body.count(OPENINGS[api]) == 1
            pair = silent[api]
            assert_failed_over(pair, silence, limit_s=10 * x + 3.0, p_attempts=1)
            assert silence.body.count(OPENINGS[api]) == 1
            pair.assert_called_f(silence, 10 * x)  # pings buy no time
            assert pair.leave_s() <= 1.0
        await stage.after()


async def test_S18_held_events_are_delivered_once_and_in_order(tmp_path: Path) -> None:
    fault = Fault(preamble=("comment", "ping", "role", "empty", "created"), preamble_count=100)
    pairs = {api: Pair(api, dialect=dialect) for api, (_, dialect) in DIALECTS.items()}
    async with scene(tmp_path, *pairs.values()) as stage:
        for api, pair in pairs.items():
            pair.p.default = fault
            path = DIALECTS[api][0]
            direct = await straight(stage, pair.p, path, pair.body(path))
            reply = await pair.ask(path=path)
            reply.assert_whole(by=pair.p.name)
            assert unnumbered(reply.body) == unnumbered(direct)
            assert pair.f.attempts == []
            # The provider's log knows one attempt that did not come through us.
            pair.p.attempts_total -= 1
        await stage.after()


async def test_S18_an_endless_preamble_does_not_fill_the_memory(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("huge")) as stage:
        pair = stage["huge"]
        await pair.ask()
        before = stage.rss()
        pair.p.default = Fault(preamble=("empty",), preamble_count=64, preamble_pad_bytes=MIB)
        asked = asyncio.create_task(pair.ask())
        most = before
        while not asked.done():
            await asyncio.wait([asked], timeout=0.02)
            most = max(most, stage.rss())
        reply = asked.result()
        reply.assert_whole(by="p-huge")
        assert len(reply.body) > 64 * MIB
        assert most - before <= 40 * MIB, "8 MiB are held, then it commits"
        await stage.after()


async def straight(stage: Scene, provider: FakeProvider, path: str, body: dict[str, object]) -> bytes:
    """The provider's own answer, asked without us."""
    async with stage.sidecar.session.post(f"{provider.url}{path}", json=body) as response:
        return await response.read()


def unnumbered(body: bytes) -> bytes:
    """An answer without the attempt's number in its ids."""
    return re.sub(rb"\d{10}", b"", body)


# S19 to S22: bodies that are no answers ------------------------------------------------------------------------------


async def test_S19_a_page_is_no_answer(tmp_path: Path) -> None:
    faults = {
        "small": Fault(html_bytes=2048),
        "large": Fault(html_bytes=5 * MIB),
        "gateway": Fault(html_bytes=2048, status=502),
        "gateway-large": Fault(html_bytes=5 * MIB, status=502),
    }
    cases = [(name, stream) for name in faults for stream in (True, False)]
    pairs = {case: Pair(f"{case[0]}-{'stream' if case[1] else 'unary'}") for case in cases}
    lone = {name: Pair(f"lone-{name}", lone=True) for name in faults}
    async with scene(tmp_path, *pairs.values(), *lone.values()) as stage:
        for (name, _), pair in pairs.items():
            pair.p.default = faults[name]
        for name, pair in lone.items():
            pair.p.default = faults[name]
        replies = await asyncio.gather(*(pair.ask(stream=stream) for (_, stream), pair in pairs.items()))
        for pair, reply in zip(pairs.values(), replies, strict=True):
            assert_failed_over(pair, reply, limit_s=6.0)
        errors = await asyncio.gather(*(pair.ask() for pair in lone.values()))
        for (name, pair), reply in zip(lone.items(), errors, strict=True):
            assert reply.status == 502, name
            assert reply.json["error"]["message"]
            assert reply.took_s <= 1.5, "full jitter on 250 and 500 ms, and the answers"
            assert b"<html" not in reply.body.lower()
            if "large" in name:
                assert all(a.ended in ("peer_closed", "peer_reset") for a in pair.p.attempts), "not read to its end"
        for line in stage.sidecar.lines:
            told = json.dumps(line)
            assert "x" * 201 not in told
            assert told.lower().count("<html") == 0 or len(told) < 2000
        await stage.after()


async def test_S20_an_empty_success_is_a_failure(tmp_path: Path) -> None:
    empties = ("no_choices", "null_content", "done", "zero_bytes", "whitespace")
    cases = [(empty, stream) for empty in empties for stream in (True, False)]
    pairs = {case: Pair(f"{case[0]}-{'stream' if case[1] else 'unary'}".replace("_", "-")) for case in cases}
    async with scene(tmp_path, *pairs.values()) as stage:
        for (empty, _), pair in pairs.items():
            pair.p.default = Fault(empty=empty)
        replies = await asyncio.gather(*(pair.ask(stream=stream) for (_, stream), pair in pairs.items()))
        for pair, reply in zip(pairs.values(), replies, strict=True):
            assert_failed_over(pair, reply, limit_s=4.0)
            assert set(reply.classes[:-1]) == {"server_error"}
        await stage.after()


async def test_S20_an_answer_without_text_can_be_whole(tmp_path: Path) -> None:
    answers = ("tool_call", "refusal", "length")
    pairs = {
        (answer, api): Pair(f"{answer}-{api}".replace("_", "-"), dialect=DIALECTS[api][1])
        for answer in answers
        for api in DIALECTS
    }
    async with scene(tmp_path, *pairs.values()) as stage:
        for (answer, api), pair in pairs.items():
            pair.p.default = Fault(answer=answer)
            path = DIALECTS[api][0]
            for stream in (True, False):
                direct = await straight(stage, pair.p, path, pair.body(path, stream=stream))
                reply = await pair.ask(path=path, stream=stream)
                assert reply.status == 200
                assert reply.headers["X-Attempts"] == "1", (answer, api, stream)
                assert unnumbered(reply.body) == unnumbered(direct)
            assert pair.f.attempts == []
            pair.p.attempts_total -= 2  # those that did not come through us
        await stage.after()


async def test_S21_a_body_of_the_wrong_length_is_not_believed(tmp_path: Path) -> None:
    faults = {
        "short": Fault(length_off=600),
        "long": Fault(length_off=-200),
        "unended": Fault(no_last_chunk=True),
        "two": Fault(two_lengths=True),
    }
    async with scene(tmp_path, *(Pair(name) for name in faults)) as stage:
        for name, fault in faults.items():
            stage[name].p.script([fault], repeat_last=name != "long")
        replies = await asyncio.gather(*(pair.ask(stream=False) for pair in stage.pairs.values()))
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            assert reply.status == 200
            assert int(reply.headers["Content-Length"]) == len(reply.body), "a length of its own"
            assert reply.words == ALL
            assert reply.took_s <= 6.0
            if pair.name != "long":
                assert_failed_over(pair, reply, limit_s=6.0)
        pair = stage["long"]
        following = await pair.ask(stream=False)
        following.assert_whole(by="p-long")
        numbers = [attempt.connection for attempt in pair.p.attempts]
        assert numbers[0] not in numbers[1:], "the connection with bytes left over is not used again"
        await stage.after()


async def test_S22_a_compressed_answer_reads_like_a_plain_one(tmp_path: Path) -> None:
    pairs = [Pair("unary"), Pair("stream", pause_s=0.015), Pair("foreign"), Pair("foreign-unary"), Pair("lie")]
    async with scene(tmp_path, *pairs) as stage:
        stage["unary"].p.default = stage["stream"].p.default = Fault(encoding="gzip")
        stage["foreign"].p.default = stage["foreign-unary"].p.default = Fault(encoding="br")
        stage["lie"].p.default = Fault(encoding="lie")
        unary, stream, *failed = await asyncio.gather(
            *(pair.ask(stream="unary" not in pair.name, headers=IDENTITY) for pair in pairs)
        )
        for name, reply in (("unary", unary), ("stream", stream)):
            reply.assert_whole(by=f"p-{name}")
            assert "Content-Encoding" not in reply.headers
        (sent,) = stage["stream"].p.attempts
        assert sent.first_word_at is not None
        assert sent.ended_at is not None
        said = [stream.began_at + t for t, piece in stream.pieces for _ in range(piece.count(b'"content":"') or 0)]
        said = said[-len(WORDS) :]
        assert said[0] - sent.first_word_at <= 0.1
        assert sent.ended_at - said[-1] <= 0.1
        assert stream.ended_at - sent.ended_at <= 0.1
        assert max(later - earlier for earlier, later in pairwise(said)) <= 0.015 + 0.1
        for pair, reply in zip(pairs[2:], failed, strict=True):
            assert_failed_over(pair, reply, limit_s=4.0)
        await stage.after()


async def test_S22_damage_is_a_cut_and_a_bomb_is_an_error(tmp_path: Path) -> None:
    damage = Fault(encoding="gzip", damage_after_words=40)
    bomb = Fault(encoding="gzip", bomb_bytes=1 << 30)
    pairs = [Pair("stream"), Pair("unary"), Pair("bomb", lone=True), Pair("bomb-unary", lone=True)]
    async with scene(tmp_path, *pairs) as stage:
        for pair in pairs:
            pair.p.default = bomb if "bomb" in pair.name else damage
        cut, whole = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False))
        cut.assert_broken(40)
        cut.fate = "stream_interrupted"
        whole.assert_whole(by="f-unary")
        for name in ("bomb", "bomb-unary"):
            before = most = stage.rss()
            asked = asyncio.create_task(stage[name].ask(stream=name == "bomb", headers={"X-Max-Retries": "0"}))
            while not asked.done():
                await asyncio.wait([asked], timeout=0.02)
                most = max(most, stage.rss())
            reply = asked.result()
            assert most - before <= 100 * MIB
            assert reply.took_s <= 2.0, name
            assert reply.status == 502 or reply.assert_broken(0)
        await stage.after()


# S35 and S37: no way out, and callers that do not read ---------------------------------------------------------------


async def test_S35_a_lone_target_breaks_mid_stream_cleanly(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("one", lone=True), Pair("fifty", lone=True)) as stage:
        for pair in stage.pairs.values():
            pair.p.default = Fault(error_after_words=20, error="rate_limit")
        one = await stage["one"].ask()
        fifty = await asyncio.gather(*(stage["fifty"].ask() for _ in range(50)))
        cpu = stage.cpu_s()
        for pair, replies in (("one", [one]), ("fifty", fifty)):
            assert len(stage[pair].p.attempts) == len(replies)
            for reply in replies:
                error = reply.assert_broken(20)
                assert "rate" in json.dumps(error)
                reply.fate = "rate_limit"
                assert reply.took_s <= 20 * stage[pair].p.pause_s + 1.0
        await stage.after()
        assert stage.cpu_s() - cpu <= 1.0


class SlowCaller:
    """A caller that sends one streamed request and reads only when told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def begin(cls, stage: Scene, pair: Pair) -> AsyncIterator[SlowCaller]:
        """Connect with a small receive buffer and send the request."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", stage.sidecar.data_port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        body = json.dumps(pair.body()).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: o\r\nX-Route: {pair.name}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        caller = cls(reader, writer)
        try:
            yield caller
        finally:
            await caller.leave()

    async def read_to_the_end(self) -> bytes:
        """Read on at full speed until the last chunk or the end of the connection, whatever kind of end."""
        pieces = [b""]
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(1 << 16):
                pieces.append(piece)
                if (pieces[-2][-5:] + piece).endswith(b"\r\n0\r\n\r\n"):
                    break
        return b"".join(pieces)

    async def leave(self) -> None:
        """Reset the connection; a second time does nothing."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def latencies(pair: Pair, n: int) -> list[float]:
    """Seconds of `n` small calls one after another, fastest first."""
    return sorted([(await pair.ask(stream=False, plain=True)).took_s for _ in range(n)])


@TIMES
async def test_S37_a_slow_caller_slows_its_upstream_and_nobody_else(tmp_path: Path, x: float) -> None:
    # A hundred callers with 10 MiB each would fill the kernel's memory for sockets, and new connections would wait.
    callers, each = (100, 4 * MIB) if x == 1.0 else (20, 10 * MIB)
    size = 24 * MIB  # more than the kernel's buffers of both connections hold
    idle = {"stream_idle_timeout_s": 3 * x, "first_content_timeout_s": 5 * x, "hedging": {"rescue_after_s": 0}}
    pairs = [Pair("one", policy=idle), Pair("many", policy=idle), Pair("well", pause_s=0.0)]
    async with scene(tmp_path, *pairs, x=x) as stage, contextlib.AsyncExitStack() as callers_left:

        async def slow(name: str) -> SlowCaller:
            return await callers_left.enter_async_context(SlowCaller.begin(stage, stage[name]))

        # The p99 of 100 calls is a single hiccup of a shared machine; the full run has enough of them to ask for it.
        calls, at = (600, 594) if x == 1.0 else (100, 90)
        usual = await latencies(stage["well"], calls)
        stage["one"].p.default = Fault(big_body_bytes=size)
        stage["many"].p.default = Fault(big_body_bytes=each)
        before = stage.rss()
        one = await slow("one")
        await stage["one"].p.wait_attempts(1)
        await asyncio.sleep(40.0 if x == 1.0 else 1.5)  # reads nothing for so long
        assert stage.rss() - before <= 5 * MIB
        (attempt,) = stage["one"].p.attempts
        assert attempt.ended == "", "the upstream waits for the caller, no clock of ours runs out"
        rest = [await slow("many") for _ in range(callers)]
        await stage["many"].p.wait_attempts(callers)
        await latencies(stage["well"], 30)  # until the kernel's buffers are full; the provider's loop is ours
        meanwhile = await latencies(stage["well"], calls)
        assert meanwhile[at] <= usual[at] + 0.02
        assert stage.rss() - before <= (5 + 0.6 * callers) * MIB
        body = await one.read_to_the_end()
        assert body.count(b"x") >= size, "every byte arrives in the end"
        assert b"data: [DONE]" in body
        assert b'"error"' not in body
        for caller in (one, *rest):
            await caller.leave()
        await stage["many"].p.wait_idle(timeout_s=1.0 + LATE_S)
        assert_blamed_nobody(await stage.sidecar.status(), "p-many", "p-one")
        metrics = await stage.sidecar.metrics()
        assert total(metrics, "outrider_attempts_total", provider="p-one", outcome="ok") == 1
        assert total(metrics, "outrider_attempts_total", provider="p-many", outcome="cancelled") == callers


def assert_blamed_nobody(status: dict[str, object], *providers: str) -> None:
    """The breakers of these providers have heard of no failure."""
    targets = status["targets"]
    assert isinstance(targets, list)
    seen = {t["target"].partition("/")[0]: t["circuit"] for t in targets}
    for provider in providers:
        assert seen[provider]["S_err"] == 0.0
        assert seen[provider]["state"] == "closed"


@TIMES
async def test_S37_a_caller_that_never_reads_is_dropped(tmp_path: Path, x: float) -> None:
    limit_s = 60.0 if x == 1.0 else 1.0
    async with scene(tmp_path, Pair("stuck", policy={"stream": {"write_timeout_s": limit_s}}), x=x) as stage:
        provider = stage["stuck"].p
        provider.default = Fault(big_body_bytes=24 * MIB)
        async with SlowCaller.begin(stage, stage["stuck"]) as caller:
            (attempt,) = await provider.wait_attempts(1, ended=True, timeout_s=limit_s + 5.0)
            assert attempt.peer_closed_at is not None
            assert limit_s - EARLY_S <= attempt.peer_closed_at - attempt.at <= limit_s + 1.0 + LATE_S
            assert b"[DONE]" not in await caller.read_to_the_end()
        assert stage["stuck"].f.attempts == []
        assert_blamed_nobody(await stage.sidecar.status(), "p-stuck")
        metrics = await stage.sidecar.metrics()
        assert total(metrics, "outrider_requests_total", route="stuck", outcome="client_cancelled") == 1
        assert total(metrics, "outrider_attempts_total", provider="p-stuck", outcome="cancelled") == 1
