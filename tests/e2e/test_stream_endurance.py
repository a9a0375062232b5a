"""Streams under strain: many at once, callers who leave in every phase of a recovery, slow readers of translated
streams, and hedged streams whose winner breaks. S30 and S37 where translation and recovery take part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.demo.script import Fault
from tests.bench import crowd
from tests.bench.candidates import Cores, outrider, start, translating_config
from tests.bench.run import raise_file_limit
from tests.e2e.scenario import CHAT, LATE_S, MESSAGES, RESPONSES, Pair, scene, total
from tests.e2e.test_scenarios_recovery import CALLERS, assert_rescued
from tests.e2e.test_scenarios_streams import MIB, SlowCaller, assert_blamed_nobody, latencies
from tests.faults.test_leaks import PHASES, Phase, leave_together, pair_of

# Many at once ---------------------------------------------------------------------------------------------------------

STALL_MS = 100.0
MEMORY_KB = 80.0
"""Resident memory of one open stream, in units of 1000 bytes."""


async def test_a_crowd_of_streams_is_served_whole(tmp_path: Path) -> None:
    """Three hundred at a time; the machine is shared, so that the delay is only held against a second."""
    folder = tmp_path / "crowd"
    folder.mkdir()
    async with crowd.stage() as (mock, said):
        running = await start(outrider(config=translating_config), mock, folder, Cores(candidate=None, load=None))
        try:
            for target in ("openai", "anthropic"):
                await crowd.measure(said, running.port, 20, 0.1, target, running)  # first-use imports, caches
                found = await crowd.measure(said, running.port, 300, 0.4, target, running, 100)
                assert (found.lost, found.unfinished) == (0, 0), target
                assert found.delays_ms["p99"] <= 1000.0, target
                assert found.per_stream_kb <= MEMORY_KB, target
        finally:
            await running.stop()


async def of_crowd(folder: Path, streams: int, target: str, cores: Cores) -> tuple[crowd.Found, crowd.Found]:
    """The crowd straight at the mock, and through the process."""
    async with crowd.stage() as (mock, said):
        straight = await crowd.measure(said, mock, streams, 10.0, "")
        running = await start(outrider(config=translating_config), mock, folder, cores)
        try:
            await crowd.measure(said, running.port, 50, 0.5, target, running)
            return straight, await crowd.measure(said, running.port, streams, 10.0, target, running)
        finally:
            await running.stop()


HELD = {"openai": 5000, "anthropic": 2500}
"""Streams of ten events a second that one core holds without a stall, by what the target speaks: the caller's dialect,
and one that is translated; see the README of the bench for what limits them."""
TRIES = 3
"""A neighbour on the core delays everybody: the best of so many measurements is what the process can do."""


@pytest.mark.torture
@pytest.mark.parametrize("target", HELD)
def test_a_crowd_of_streams_is_not_slowed_down(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    raise_file_limit()
    cores, mine, added = Cores.of_this_machine(), os.sched_getaffinity(0), math.inf
    try:
        for number in range(TRIES):
            folder = tmp_path / f"crowd{number}"
            folder.mkdir()
            with cores.spawning():
                pass  # Leaving it moves this process to its own core.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                straight, found = runner.run(of_crowd(folder, HELD[target], target, cores))
            with capsys.disabled():
                print("", straight.line("direct"), found.line(f"outrider, {target}"), sep="\n")
            assert (found.lost, found.unfinished) == (0, 0)
            assert found.per_stream_kb <= MEMORY_KB
            added = min(added, found.delays_ms["p99"] - straight.delays_ms["p99"])
            if added <= STALL_MS:
                break
    finally:
        os.sched_setaffinity(0, mine)
    assert added <= STALL_MS


# S30: the caller leaves ----------------------------------------------------------------------------------------------

NO_EVIDENCE = {"cancelled.downstream", "cancelled.superseded"}
QUIET_S = 1.0
"""No attempt may start for so long after a caller left."""


async def test_S30_the_caller_leaves_in_every_phase_of_a_recovery(tmp_path: Path) -> None:
    pairs = {name: pair_of(name, phase) for name, phase in PHASES.items()}
    async with scene(tmp_path, *pairs.values(), headers={}) as stage:

        async def walk(pair: Pair, phase: Phase) -> None:
            left = await leave_together(stage, pair, phase, 3, "gpt-4o", patience_s=9.0)
            for attempt in (each for provider in pair.providers for each in provider.attempts):
                if attempt.ended in ("complete", "closed"):
                    continue  # that one broke as it was told to, before its caller left
                assert attempt.ended in ("peer_closed", "peer_reset"), (pair.name, attempt.ended)
                assert attempt.peer_closed_at is not None
                assert attempt.peer_closed_at - left <= 1.0, pair.name
            began = pair.p.attempts_total, pair.f.attempts_total
            await asyncio.sleep(QUIET_S)
            assert (pair.p.attempts_total, pair.f.attempts_total) == began, pair.name

        await asyncio.gather(*(walk(pairs[name], phase) for name, phase in PHASES.items()))
        metrics, status = await stage.sidecar.metrics(), await stage.sidecar.status()
        assert status["requests_active"] == 0
        for name, pair in pairs.items():
            assert total(metrics, "outrider_requests_total", route=name, outcome="client_cancelled") == 3, name
            for provider, broke in ((pair.p, name.startswith("continuation")), (pair.f, False)):
                told = total(metrics, "outrider_attempts_total", provider=provider.name, outcome="cancelled")
                assert told == (0 if broke else provider.attempts_total), provider.name
            assert pair.p.attempts_total == 3, name
            assert pair.f.attempts_total >= (3 if PHASES[name].at_f else 0), name
            assert total(metrics, "outrider_stream_continuations_total", route=name) == 0, "neither whole nor broken"
        for target in status["targets"]:
            assert target["circuit"]["state"] == "closed"
            assert target["concurrency"]["running"] == 0
            assert set(target["circuit"]["counts"]) <= NO_EVIDENCE | {"stream_interrupted"}, target["target"]


# S37: the caller reads slowly ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
async def test_S37_a_slow_reader_of_a_translated_stream_slows_nobody_else(tmp_path: Path, dialect: str) -> None:
    callers, size = 8, 24 * MIB
    idle = {"stream_idle_timeout_s": 0.3, "first_content_timeout_s": 1.0, "hedging": {"rescue_after_s": 0}}
    pairs = [
        Pair("slow", dialect=dialect, policy=idle, lone=True),  # type: ignore[arg-type]
        Pair("well", dialect=dialect, pause_s=0.0),  # type: ignore[arg-type]
    ]
    async with scene(tmp_path, *pairs, x=0.1) as stage, contextlib.AsyncExitStack() as leaving:
        slow, well = pairs
        usual = await latencies(well, 60)
        assert (await well.ask()).words
        slow.p.default = Fault(big_body_bytes=size)
        before = stage.rss()
        readers = [await leaving.enter_async_context(SlowCaller.begin(stage, slow)) for _ in range(callers)]
        await slow.p.wait_attempts(callers)
        await latencies(well, 20)  # until the kernel's buffers are full; the provider's loop is ours
        meanwhile = await latencies(well, 60)
        streams = await asyncio.gather(*(well.ask() for _ in range(5)))
        assert all(len(reply.words) == 60 for reply in streams)
        assert meanwhile[54] <= usual[54] + 0.03
        # The text of an answer is kept where the places of its citations are counted in bytes of it.
        assert stage.rss() - before <= (5 + (6 if dialect == "gemini" else 0.6) * callers) * MIB
        assert [attempt.ended for attempt in slow.p.attempts] == [""] * callers, "the upstream waits, no clock runs out"
        body = await readers[0].read_to_the_end()
        assert body.count(b"x") >= size, "every byte arrives in the end"
        assert b"data: [DONE]" in body
        assert b'"error"' not in body
        for reader in readers:
            await reader.leave()
        await slow.p.wait_idle(timeout_s=1.0 + LATE_S)
        assert_blamed_nobody(await stage.sidecar.status(), "p-slow")


# Hedged streams ------------------------------------------------------------------------------------------------------


def hedged(strategy: str, **more: Any) -> dict[str, str]:
    return {
        "X-Stream-Recovery": "continue",
        "X-Request-Hedging": "true",
        "X-Hedge-Config": json.dumps({"delay_ms": 20, "strategy": strategy, **more}),
    }


P_LATE = 0.15
"""P's first word: late enough for the hedge to be under way, which then speaks a little later than P."""
BREAKS = {
    "close": {"cut_after_words": 30, "cut": "close"},
    "reset": {"cut_after_words": 30, "cut": "reset"},
    "error": {"error_after_words": 30},
    "silence": {"stall_after_words": 30, "stall_s": math.inf},
}


async def test_a_spare_that_has_spoken_takes_over_when_the_winner_breaks(tmp_path: Path) -> None:
    """The spare began at the beginning: what the caller has is cut off, and nobody is asked a third time."""
    others = {CHAT: "anthropic", RESPONSES: "gemini", MESSAGES: "openai"}
    sent = {**hedged("first-success"), "X-Stream-Idle-Timeout-Ms": "600"}
    pairs = {
        (path, kind, which): Pair(
            f"{path.rpartition('/')[2]}-{kind}-{which}",
            dialect=own,  # type: ignore[arg-type]
            f_dialect=own if which == "same" else others[path],  # type: ignore[arg-type]
            headers=sent,
            pause_s=0.02,
        )
        for path, own in CALLERS.items()
        for kind in BREAKS
        for which in ("same", "other")
    }
    async with scene(tmp_path, *pairs.values(), x=0.1) as stage:
        for (_, kind, _), pair in pairs.items():
            pair.p.default = Fault(first_word_s=P_LATE, **BREAKS[kind])  # type: ignore[arg-type]
            # Half way between P's first word and its end: on a busy machine it must neither overtake P nor be too late.
            pair.f.default = Fault(first_word_s=2 * P_LATE)
        replies = await asyncio.gather(*(pair.ask(path=path) for (path, _, _), pair in pairs.items()))
        for ((path, _, _), pair), reply in zip(pairs.items(), replies, strict=True):
            assert_rescued(reply, path, pair)
            assert (len(pair.p.attempts), len(pair.f.attempts)) == (1, 1), "the spare was there already"
        assert stage.sidecar.process.returncode is None


async def test_a_silent_spare_is_no_help_and_is_sent_home(tmp_path: Path) -> None:
    """A spare without a word cannot take over: its target is asked to go on instead, and nothing of it is left open."""
    pair = Pair("silent", headers=hedged("first-success"), pause_s=0.004)
    async with scene(tmp_path, pair, x=0.1) as stage:
        pair.p.default = Fault(first_word_s=P_LATE, cut_after_words=30)
        pair.f.script([Fault(silence_s=math.inf)])
        reply = await pair.ask()
        assert_rescued(reply, CHAT, pair)
        spare, following = await pair.f.wait_attempts(2, ended=True, timeout_s=1.0 + LATE_S)
        assert spare.peer_closed_at is not None
        assert following.ended == "complete"
        assert spare.peer_closed_at <= following.at + 1.0
        metrics = await stage.sidecar.metrics()
        assert total(metrics, "outrider_attempts_total", provider=pair.f.name, outcome="cancelled") == 1
        assert total(metrics, "outrider_attempts_running") == 0
        assert_blamed_nobody(await stage.sidecar.status(), pair.f.name)


async def test_a_spare_that_speaks_too_late_is_not_taken_for_the_continuation(tmp_path: Path) -> None:
    """What a spare says after another attempt on its target was asked to go on reaches nobody."""
    pair = Pair("late", headers=hedged("first-success"), pause_s=0.004)
    async with scene(tmp_path, pair, x=0.1):
        pair.p.default = Fault(first_word_s=P_LATE, cut_after_words=30)
        pair.f.script([Fault(silence_s=0.5), Fault(first_word_s=0.5, pause_s=0.01)])
        reply = await pair.ask()
        assert_rescued(reply, CHAT, pair)
        assert len(pair.f.attempts) == 2


async def test_losers_of_a_hedged_stream_are_closed_in_time(tmp_path: Path) -> None:
    """`latency`: within a second of the winner's first content. `first-success`: when the winner has ended."""
    pairs = {name: Pair(name, headers=hedged(name), pause_s=0.01) for name in ("latency", "first-success")}
    async with scene(tmp_path, *pairs.values(), x=0.1) as stage:
        for pair in pairs.values():
            pair.p.default = Fault(first_word_s=P_LATE)
            pair.f.default = Fault(first_word_s=P_LATE + 0.1, stall_after_words=5, stall_s=math.inf)
        for reply, pair in zip(await asyncio.gather(*(p.ask() for p in pairs.values())), pairs.values(), strict=True):
            reply.assert_whole(by=pair.p.name)
        for name, pair in pairs.items():
            (winner,), (loser,) = pair.p.attempts, await pair.f.wait_attempts(1, ended=True, timeout_s=1.0 + LATE_S)
            assert winner.first_word_at is not None
            assert winner.ended_at is not None
            assert loser.peer_closed_at is not None
            if name == "latency":
                assert loser.peer_closed_at - winner.first_word_at <= 1.0
                assert loser.peer_closed_at < winner.ended_at, "not kept until the winner has ended"
            else:
                assert winner.ended_at - 0.05 <= loser.peer_closed_at <= winner.ended_at + 1.0
            metrics = await stage.sidecar.metrics()
            assert total(metrics, "outrider_attempts_total", provider=pair.f.name, outcome="cancelled") == 1
            assert_blamed_nobody(await stage.sidecar.status(), pair.f.name, pair.p.name)


async def test_a_spare_that_says_something_else_ends_in_the_honest_error(tmp_path: Path) -> None:
    pair = Pair("unfit", headers=hedged("first-success"), pause_s=0.004)
    async with scene(tmp_path, pair, x=0.1):
        pair.p.default = Fault(first_word_s=P_LATE, cut_after_words=30)
        pair.f.default = Fault(
            first_word_s=P_LATE, text="Certainly! This is quite another answer, word by word by word."
        )
        reply = await pair.ask()
        assert len(reply.words) == 30
        reply.assert_broken(30)
