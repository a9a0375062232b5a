"""Second attempts: hedges that were asked for, the rescue that was not, and the caller who never waits for a dead
primary. S40 and the hedging headers through the process.

Delays are stated or shortened so that a test takes tenths of a second; the statistics of S40 run at a tenth of their
time scale, and at their own length under `torture`. Providers wait, never the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Attempt, Fault
from tests.e2e.harness import Answer, Stage, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESCUE_S = 0.4
SLACK_S = 0.5
"""A limit fires within this time after it is due (`lessons.md`, Tolerances)."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Rescue after 0.4 s, and a hedge budget that no test of single calls can spend."""

    def entries(providers: list[FakeProvider]) -> dict[str, dict[str, Any]]:
        dead = {"dialect": "openai", "base_url": f"http://127.0.0.1:{free_port()}/v1", "api_key": "sk-dead"}
        price = {"price": {"input": 1.0, "output": 10.0}, "max_output_tokens": 1000}
        return {"dead": dead, providers[0].name: {"models": {"gpt-4o": {"name": "gpt-4o", **price}}}}

    made = Stage(
        tmp_path_factory.mktemp("hedging"),
        70,
        entries=entries,
        defaults={"hedging": {"rescue_after_s": RESCUE_S, "budget_percent": 100}},
    )
    async with made:
        made.take(1)  # p0 is the one whose price is known
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def thrifty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """The built-in hedge budget of 5 %."""
    async with Stage(tmp_path_factory.mktemp("thrifty"), 8) as made:
        yield made


def hedged(**content: Any) -> dict[str, str]:
    return {"X-Hedge-Config": json.dumps(content)}


def _launched(answer: Answer) -> tuple[str | None, str | None]:
    return answer.headers.get("X-Hedge-Winner"), answer.headers.get("X-Hedge-Launched")


def _second_after_s(answer: Answer) -> float:
    """Seconds between the dials of the first two attempts. A provider hears of the first only when it is connected."""
    first, second = answer.trace[:2]
    return (float(second["start_ms"]) - float(first["start_ms"])) / 1000


async def _closed_after(loser: FakeProvider, winner: FakeProvider) -> float:
    """Seconds from the winner's first content to the moment its loser saw us leave."""
    await loser.wait(lambda: loser.attempts[-1].peer_closed_at is not None, timeout_s=2.0)
    closed, first = loser.attempts[-1].peer_closed_at, winner.attempts[-1].first_word_at
    assert closed is not None
    assert first is not None
    return closed - first


async def _blameless(stage: Stage, provider: FakeProvider) -> None:
    """A cancelled loser is no failure."""
    circuit = (await stage.target(provider))["circuit"]
    assert (circuit["state"], circuit["S_err"]) == ("closed", 0.0)
    assert set(circuit["counts"]) <= {"ok", "cancelled.superseded", "invalid_request"}


# Rescue ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [Fault(silence_s=30), Fault(first_word_s=30)], ids=["silent", "no_word"])
async def test_H2_rescue_brings_in_the_next_target(stage: Stage, fault: Fault, stream: bool) -> None:
    p, f = stage.take(2)
    p.default = fault
    answer = await stage.chat(p, f, stream=stream)
    assert (answer.status, len(answer.words), answer.headers["X-Served-By"]) == (200, 60, f.name)
    assert RESCUE_S <= _second_after_s(answer) <= RESCUE_S + SLACK_S
    assert _launched(answer) == (f.name, "1")
    assert (answer.headers["X-Failover"], answer.headers["X-Failover-Reason"]) == ("true", "hedge")
    assert (answer.headers["X-Attempts"], answer.headers["X-Retry-Count"]) == ("2", "0")
    assert [(entry["kind"], entry["class"]) for entry in answer.trace][1] == ("hedge", "ok")
    assert await _closed_after(p, f) <= 1.0
    await _blameless(stage, p)
    await stage.after(p, f, answer=answer)


async def test_H5_rescue_keeps_the_first_running_and_the_faster_wins(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default, f.default = Fault(first_word_s=RESCUE_S + 0.2), Fault(first_word_s=30)
    answer = await stage.chat(p, f, stream=True)
    assert (len(answer.words), answer.headers["X-Served-By"]) == (60, p.name)
    assert _launched(answer) == (p.name, "1")
    assert "X-Failover" not in answer.headers
    assert await _closed_after(f, p) <= 1.0
    await _blameless(stage, f)
    await stage.after(p, f, answer=answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_S07_d_rescue_is_switched_off_by_the_caller(stage: Stage, stream: bool) -> None:
    p, f = stage.take(2)
    p.default = Fault(first_word_s=RESCUE_S + 0.3)
    answer = await stage.chat(p, f, stream=stream, headers={"X-Request-Hedging": "false"})
    assert (len(answer.words), answer.headers["X-Served-By"], f.attempts) == (60, p.name, [])
    assert _launched(answer) == (None, None)
    await stage.after(p, f, answer=answer)


async def test_S07_e_a_lone_target_is_left_alone(stage: Stage) -> None:
    (p,) = stage.take(1)
    p.default = Fault(first_word_s=RESCUE_S + 0.3)
    answer = await stage.chat(p, stream=True)
    assert (len(answer.words), len(p.attempts)) == (60, 1)
    await stage.after(p, answer=answer)


async def test_H3_rescue_is_one_attempt_and_waits_for_both(stage: Stage) -> None:
    """Both silent, then the first fails: no third attempt beside the running one, and nobody waits without limit."""
    p, f, g = stage.take(3)
    p.default, f.default = Fault(silence_s=RESCUE_S + 0.2, status=500), Fault(silence_s=RESCUE_S)
    answer = await stage.chat(p, f, g)
    assert (answer.headers["X-Served-By"], len(p.attempts), len(f.attempts), g.attempts) == (f.name, 1, 1, [])
    await stage.after(p, f, g, answer=answer)


# X-Request-Hedging and X-Hedge-Config ---------------------------------------------------------------------------------


async def test_hedging_without_samples_waits_a_second(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(silence_s=30)
    answer = await stage.chat(p, f, headers={"X-Request-Hedging": "true"})
    assert answer.headers["X-Served-By"] == f.name
    assert 1.0 <= _second_after_s(answer) <= 1.0 + SLACK_S
    await stage.after(p, f, answer=answer)


@pytest.mark.parametrize("strategy", ["latency", "first-success"])
async def test_H5_the_hedge_wins(stage: Stage, strategy: str) -> None:
    p, f = stage.take(2)
    p.default = Fault(silence_s=30)
    answer = await stage.chat(p, f, headers=hedged(strategy=strategy, delay_ms=100))
    assert (answer.status, len(answer.words)) == (200, 60)
    assert 0.1 <= _second_after_s(answer) <= 0.1 + SLACK_S
    assert _launched(answer) == (f.name, "1")
    assert int(answer.headers["X-Hedge-Latency-Saved"]) >= 0
    assert await _closed_after(p, f) <= 1.0
    await _blameless(stage, p)
    await stage.after(p, f, answer=answer)


async def test_a_hedge_that_was_not_needed_is_not_sent(stage: Stage) -> None:
    p, f = stage.take(2)
    answer = await stage.chat(p, f, headers=hedged(delay_ms=500))
    assert _launched(answer) == (p.name, "0")
    assert "X-Hedge-Latency-Saved" not in answer.headers
    assert f.attempts == []
    await stage.after(p, f, answer=answer)


async def test_the_hedge_order_is_the_headers(stage: Stage) -> None:
    p, f, g = stage.take(3)
    p.default = Fault(silence_s=30)
    order = {"providers": [p.name, g.name], "delay_ms": 50}
    answer = await stage.chat(p, f, headers=hedged(**order))
    assert (answer.headers["X-Served-By"], f.attempts) == (g.name, [])
    lead = await stage.chat(f, headers=hedged(providers=[g.name, f.name], delay_ms=500))
    assert lead.headers["X-Served-By"] == g.name  # the first of the hedge order is the primary
    await stage.after(p, f, g)


async def test_several_hedges_one_after_the_other(stage: Stage) -> None:
    p, f, g = stage.take(3)
    p.default = f.default = Fault(silence_s=30)
    answer = await stage.chat(p, headers=hedged(providers=[p.name, f.name, g.name], delay_ms=60))
    assert _launched(answer) == (g.name, "2")
    assert g.attempts[0].at - f.attempts[0].at >= 0.05
    await stage.after(p, f, g, answer=answer)


async def test_losers_run_to_their_end_when_asked_to(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(first_word_s=0.4)
    answer = await stage.chat(p, f, headers=hedged(delay_ms=50, cancel_slower=False))
    assert answer.headers["X-Served-By"] == f.name
    assert answer.took_s < 0.4
    await p.wait_attempts(1, ended=True)
    assert p.attempts[0].ended == "complete"
    await stage.after(p, f)


async def test_first_success_takes_the_whole_answer_not_the_first_head(stage: Stage) -> None:
    """P's head comes at once and its body dies; F's whole answer wins."""
    p, f = stage.take(2)
    p.default = Fault(body_after_s=0.3, cut_after_bytes=40)
    answer = await stage.chat(p, f, headers=hedged(strategy="first-success", delay_ms=50))
    assert (answer.status, len(answer.words), answer.headers["X-Served-By"]) == (200, 60, f.name)
    await stage.after(p, f, answer=answer)


async def test_the_price_of_a_hedge(stage: Stage) -> None:
    (p, f), priced = stage.take(2), stage.providers[0]
    p.default = Fault(silence_s=0.3)
    unknown = await stage.chat(p, f, headers=hedged(delay_ms=50, max_additional_cost=1))
    assert (unknown.headers["X-Served-By"], _launched(unknown)) == (p.name, (p.name, "0"))
    assert {"hedge": "price_unknown"} in unknown.trace
    dear = await stage.chat(p, priced, headers=hedged(delay_ms=50, max_additional_cost=0.001))
    assert dear.headers["X-Served-By"] == p.name
    assert {"hedge": "max_additional_cost"} in dear.trace
    # 1,000 tokens of output at 10 USD per million are one cent.
    fair = await stage.chat(p, priced, headers=hedged(delay_ms=50, max_additional_cost=0.02))
    assert _launched(fair) == (priced.name, "1")
    assert f.attempts == []
    await stage.after(p, f, priced)


# S40 (c), (d): never a reflex -----------------------------------------------------------------------------------------


async def test_S40_c_H2_a_definite_failure_is_not_hedged(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(status=400, silence_s=0.02)
    answer = await stage.chat(p, f, headers=hedged(delay_ms=10))
    # The hedge was due before the failure; what matters is that the failure itself starts nothing.
    late = await stage.chat(p, f, headers=hedged(delay_ms=100))
    assert (late.status, _launched(late)[1], late.headers["X-Attempts"]) == (400, None, "1")
    assert answer.status in (200, 400)
    assert len(f.attempts) <= 1
    await stage.after(p, f)


async def test_S40_d_no_hedge_to_an_open_target(stage: Stage) -> None:
    p, f = stage.take(2)
    f.default = Fault(status=500)
    for _ in range(5):
        await stage.chat(f, headers={"X-Max-Retries": "0"})
    p.default = Fault(silence_s=0.3)
    seen = f.attempts_total
    answer = await stage.chat(p, f, headers=hedged(delay_ms=50))
    assert (answer.headers["X-Served-By"], _launched(answer)) == (p.name, (p.name, "0"))
    assert f.attempts_total == seen
    await stage.after(p, f)


async def test_S40_d_no_hedge_to_a_cooling_target(stage: Stage) -> None:
    p, f = stage.take(2)
    f.script([Fault(status=429, headers=(("Retry-After", ("60",)),))])
    await stage.chat(f, headers={"X-Max-Retries": "0"})
    p.default = Fault(silence_s=0.3)
    answer = await stage.chat(p, f, headers=hedged(delay_ms=50))
    assert (answer.headers["X-Served-By"], len(f.attempts)) == (p.name, 1)
    await stage.after(p, f)


# S40 (a), (b): the statistics -----------------------------------------------------------------------------------------


class Slowness:
    """First words after a draw of up to `top_s` with a heavy end; `hang` of every hundred never come."""

    def __init__(self, seed: int, top_s: float) -> None:
        self._rng = random.Random(seed)
        self.top_s = top_s
        self.factor = 1.0
        self.every_nth_hangs = 0

    def __call__(self, attempt: Attempt) -> Fault:
        if self.every_nth_hangs and attempt.n % self.every_nth_hangs == 0:
            return Fault(silence_s=30)
        return Fault(first_word_s=self.factor * self.top_s * (0.3 + 0.7 * self._rng.random() ** 2))


async def _load(
    stage: Stage, p: FakeProvider, f: FakeProvider, count: int, every_s: float, *, go_on: bool = False
) -> list[Answer]:
    """The answers to `count` streamed calls, one every `every_s`, hedged at the learned delay.

    `go_on`: calls follow at the same pace until these are answered. The guard of 5 % is earned by traffic, and a hung
    call that waits for its share must not be the last one ever made.
    """
    headers = {"X-Request-Hedging": "true"}
    tasks: list[asyncio.Task[Answer]] = []
    while len(tasks) < count or (go_on and not all(task.done() for task in tasks[:count])):
        tasks.append(asyncio.create_task(stage.chat(p, f, stream=True, headers=headers)))
        await asyncio.sleep(every_s)
    answers = await asyncio.gather(*tasks)
    assert {(answer.status, len(answer.words)) for answer in answers} == {(200, 60)}
    return answers[:count]


def _hedges(answers: list[Answer]) -> int:
    return sum(int(answer.headers.get("X-Hedge-Launched", "0")) for answer in answers)


async def _general_slowness(stage: Stage, scale: float, count: int) -> None:
    p, f = stage.take(2)
    p.hook, f.hook = slow = Slowness(1, scale), Slowness(2, scale)
    normal = await _load(stage, p, f, 200, scale / 10)
    for each in slow:
        each.factor = 3.0
    after = await _load(stage, p, f, count, scale / 10)
    assert _hedges(after) <= 0.05 * count + 5
    # A hedge may be called back while it still connects, so not the logs but what the callers were told is counted.
    attempts = sum(int(answer.headers["X-Attempts"]) for answer in (*normal, *after))
    assert p.attempts_total + f.attempts_total <= attempts <= 1.1 * (len(normal) + count)
    await asyncio.gather(p.wait_idle(timeout_s=2.0), f.wait_idle(timeout_s=2.0))


async def test_S40_a_H1_general_slowness_is_not_answered_with_hedges(thrifty: Stage) -> None:
    await _general_slowness(thrifty, 0.06, 100)


@pytest.mark.torture
async def test_S40_a_H1_general_slowness_at_full_length(thrifty: Stage) -> None:
    await _general_slowness(thrifty, 1.0, 600)


async def _one_in_twenty_hangs(stage: Stage, scale: float, count: int) -> None:
    """P always leads and F answers nothing but hedges, which cost it no token unless they fail (decision 0011)."""
    p, f = stage.take(2)
    p.hook, f.hook = slow, _ = Slowness(3, scale), Slowness(4, scale)
    normal = await _load(stage, p, f, 200, scale / 20)
    slow.every_nth_hangs = 20
    answers = await _load(stage, p, f, count, scale / 20, go_on=True)
    took = sorted(answer.took_s for answer in answers)
    usual = sorted(answer.took_s for answer in normal)
    p99, normal_p99 = took[int(len(took) * 0.99)], usual[int(len(usual) * 0.99)]
    assert _hedges(answers) <= 0.07 * len(answers)
    assert p99 <= scale + normal_p99 + 0.5  # no hedge delay learned from these draws exceeds their top
    await asyncio.gather(p.wait_idle(timeout_s=2.0), f.wait_idle(timeout_s=2.0))


async def test_S40_b_one_in_twenty_hangs(thrifty: Stage) -> None:
    await _one_in_twenty_hangs(thrifty, 0.1, 300)


@pytest.mark.torture
async def test_S40_b_one_in_twenty_hangs_at_full_length(thrifty: Stage) -> None:
    await _one_in_twenty_hangs(thrifty, 1.0, 600)


# A dead primary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["refused", "503", "reset", "silent"])
async def test_two_hundred_callers_and_a_dead_primary(stage: Stage, death: str) -> None:
    p, f = stage.take(2)
    faults = {"503": Fault(status=503), "reset": Fault(reset=True), "silent": Fault(silence_s=30)}
    p.default = faults.get(death)
    limit = {"X-First-Token-Timeout-Ms": "1500"} if death == "silent" else {}
    first: FakeProvider | str = "dead" if death == "refused" else p
    calls = (stage.chat(first, f, stream=bool(n % 2), headers=limit) for n in range(200))
    answers = await asyncio.gather(*calls)
    assert {(answer.status, len(answer.words)) for answer in answers} == {(200, 60)}
    assert {answer.headers["X-Served-By"] for answer in answers} == {f.name}
    await stage.after(p, f)


@pytest.mark.parametrize("bound_ms", [pytest.param(1.0, marks=pytest.mark.torture), 3.0])
async def test_failover_costs_next_to_nothing(stage: Stage, bound_ms: float) -> None:
    """Median time from the last byte of P's failure to F's head, at the providers' own clocks, retries off.

    The failure is one that no breaker counts, so that P is asked every time. Measured on a quiet machine: 0.4 ms.
    """
    p, f = stage.take(2)
    p.default = Fault(error="context_length")
    gaps = []
    for _ in range(100):
        answer = await stage.chat(p, f, headers={"X-Max-Retries": "0"})
        assert (answer.status, answer.headers["X-Attempts"]) == (200, "2")
        ended = p.attempts[-1].ended_at
        assert ended is not None
        gaps.append((f.attempts[-1].at - ended) * 1000)
    median = statistics.median(gaps)
    if os.environ.get("OUTRIDER_TEST_SHOW"):
        print(f"failover: median {median:.2f} ms, p95 {sorted(gaps)[95]:.2f} ms")
    assert median <= bound_ms
    await stage.after(p, f)
