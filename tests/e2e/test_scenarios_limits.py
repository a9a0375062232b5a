"""Told waits, spent quotas, refused credentials and deadlines: S23-S25, S31, S34, S38 and S39 through the process.

Times are real where a scenario's own numbers are short; where they are long only the wait is shortened, so the bounds
of the checklist stay as they are. The full lengths run under `torture`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault, headers
from tests.e2e.harness import Answer, Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPENT = {
    "type": "invalid_request_error",
    "message": "You have reached your specified API usage limits: the spend limit of this month.",
}
QUOTA = {
    "quota_a": Fault(error="quota", only_key="sk-spent"),
    "quota_b": Fault(status=402, only_key="sk-spent"),
    "quota_c": Fault(status=400, only_key="sk-spent", body=json.dumps({"error": SPENT})),
}
"""Name of the first entry at an address whose key is spent: what the address answers to that key."""


def _entries(providers: list[FakeProvider]) -> dict[str, dict[str, Any]]:
    """Two entries for each address of S25, and fixed open times for S34; those providers are the stage's last."""
    entries: dict[str, dict[str, Any]] = {}
    for provider, name in zip(providers[-3:], QUOTA, strict=True):
        shared = {"dialect": "openai", "base_url": f"{provider.url}/v1"}
        entries[name] = {**shared, "api_key": "sk-spent"}
        entries[f"{name}_second"] = {**shared, "api_key": "sk-second"}
    for provider, open_s in zip(providers[-7:-3], (12, 7, 60, 1.2), strict=True):
        entries[provider.name] = {
            "circuit_breaker": {
                "error_threshold": 1,
                "error_threshold_window": 30,
                "timeout": open_s,
                "half_open_requests": 1,
                "success_threshold": 1,
            }
        }
    for provider in providers[:2]:
        entries[provider.name] = {"credentials": "caller"}
    return entries


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with Stage(tmp_path_factory.mktemp("limits"), 90, entries=_entries) as made:
        assert [p.name for p in made.take(2)] == ["p0", "p1"]
        made._free = made._free[:-7]
        yield made


def _gap(provider: FakeProvider) -> float:
    """Seconds between the end of the first attempt and the start of the second."""
    first, second = provider.attempts[:2]
    assert first.ended_at is not None
    return second.at - first.ended_at


async def _remaining(stage: Stage, provider: FakeProvider | str) -> float:
    return float((await stage.target(provider))["retry_after_s"])


# S23 ------------------------------------------------------------------------------------------------------------------

SPELLINGS: list[tuple[Fault, float, float]] = [
    (Fault(status=429, retry_after_date_s=2, date_skew_s=3600), 1.0, 3.0),
    (Fault(status=429, retry_after_date_s=2, date_skew_s=-3600), 1.0, 3.0),
    (Fault(status=429, headers=headers({"Retry-After": "0.5"})), 0.48, 1.0),
    (Fault(status=429, headers=headers({"retry-after-ms": "700"})), 0.68, 1.2),
    (Fault(status=429, headers=headers({"retry-after-ms": "700", "Retry-After": "3"})), 0.68, 1.2),
    # As if absent: the first cool-down of an untold refusal is 0.5 to 1 s, and this request's retry waits for it.
    (Fault(status=429, headers=headers({"Retry-After": "-1"})), 0.48, 1.3),
    (Fault(status=429, headers=headers({"Retry-After": "abc"})), 0.48, 1.3),
    (Fault(status=429, retry_after_date_s=-30), 0.48, 1.3),
    (Fault(status=429, headers=headers({"Retry-After": "0"})), 0.0, 0.5),
]


async def test_S23_R5_every_spelling_of_a_wait(stage: Stage) -> None:
    async def case(fault: Fault, low: float, high: float) -> None:
        p, f = stage.take(2)
        p.script([fault])
        answer = await stage.chat(p, f)
        assert (answer.status, len(answer.words), len(p.attempts), f.attempts) == (200, 60, 2, [])
        assert low <= _gap(p) <= high, fault
        await stage.after(p, f, answer=answer)

    await asyncio.gather(*(case(*each) for each in SPELLINGS))


async def test_S23_f_a_zero_that_never_ends_is_no_tight_loop(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(status=429, headers=headers({"Retry-After": "0"}))
    answer = await stage.chat(p, f)
    assert (answer.status, len(answer.words), len(f.attempts)) == (200, 60, 1)
    assert len(p.attempts) <= 4
    await stage.after(p, f, answer=answer)


# S24 ------------------------------------------------------------------------------------------------------------------


async def _long_wait(stage: Stage, told: str, shown_s: float) -> None:
    p, f = stage.take(2)
    p.default = Fault(status=429, headers=headers({"Retry-After": told}))
    first = await stage.chat(p, f)
    assert (first.status, len(first.words), len(p.attempts)) == (200, 60, 1)
    ended = p.attempts[0].ended_at
    assert ended is not None
    assert f.attempts[0].at - ended <= 0.05
    more = await asyncio.gather(*(stage.chat(p, f) for _ in range(20)))
    assert {(answer.status, len(answer.words)) for answer in more} == {(200, 60)}
    assert (len(p.attempts), len(f.attempts)) == (1, 21)
    for answer in more:
        assert abs(float(answer.headers["X-Retry-After"]) - shown_s) <= 1.0
        assert answer.headers["X-Failover-Reason"] == "rate_limit"
    assert abs(await _remaining(stage, p) - shown_s) <= 1.0
    await stage.after(p, f)


async def test_S24_R5_a_long_wait_is_left_alone(stage: Stage) -> None:
    await _long_wait(stage, "120", 120.0)


async def test_S24_R5_a_day_is_cut_to_the_ceiling(stage: Stage) -> None:
    await _long_wait(stage, "86400", 300.0)


async def test_S24_a_lone_target_passes_the_wait_on(stage: Stage) -> None:
    (p,) = stage.take(1)
    p.default = Fault(status=429, headers=headers({"Retry-After": "120"}))
    answer = await stage.chat(p)
    assert answer.status == 429
    assert answer.took_s <= 1.0
    assert answer.headers["Retry-After"] == "60"  # 120 s, or the downstream clamp where that is less
    assert answer.headers["x-should-retry"] == "false"
    again = await stage.chat(p)
    assert (again.status, again.headers["X-Attempts"], len(p.attempts)) == (429, "0", 1)
    assert again.headers["X-Retry-After"] in ("119", "120")
    await stage.after(p)


@pytest.mark.parametrize("wait_s", [pytest.param(120, marks=pytest.mark.torture), 3.2])
async def test_S24_the_target_is_used_again_when_the_wait_is_over(stage: Stage, wait_s: float) -> None:
    p, f = stage.take(2)
    p.script([Fault(status=429, headers=headers({"Retry-After": str(wait_s)}))])
    await stage.chat(p, f)
    ended = p.attempts[0].ended_at
    assert ended is not None
    while len(p.attempts) == 1:  # every call that is refused by the cool-down is answered by F at once
        answer = await stage.chat(p, f)
        assert answer.status == 200
        await asyncio.sleep(0.1)
    assert wait_s - 0.02 <= p.attempts[1].at - ended <= wait_s + 0.5
    await stage.after(p, f)


# S25 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUOTA)
async def test_S25_a_spent_quota_takes_out_that_key_only(stage: Stage, name: str) -> None:
    provider = stage.providers[-3:][list(QUOTA).index(name)]
    provider.default = QUOTA[name]
    first = await stage.chat(name, f"{name}_second")
    assert (first.status, len(first.words), first.headers["X-Served-By"]) == (200, 60, f"{name}_second")
    assert first.headers["X-Failover-Reason"] == "quota_exceeded"
    spent, second = provider.attempts
    assert (spent.header("Authorization"), second.header("Authorization")) == ("Bearer sk-spent", "Bearer sk-second")
    assert spent.ended_at is not None
    assert second.at - spent.ended_at <= 0.05
    more = await asyncio.gather(*(stage.chat(name, f"{name}_second") for _ in range(20)))
    assert all(answer.status == 200 for answer in more)
    assert [a.header("Authorization") for a in provider.attempts].count("Bearer sk-spent") == 1
    state = await stage.target(name)
    assert (state["cooldown_reason"], state["circuit"]["state"]) == ("quota_exceeded", "closed")
    assert (await stage.target(f"{name}_second"))["cooldown_s"] == 0
    other = await stage.chat(name, f"{name}_second", model="gpt-4o-mini")
    assert other.headers["X-Attempts"] == "1"  # the quota is the key's, so its other models are not tried either


# S31 ------------------------------------------------------------------------------------------------------------------


async def _watch(stage: Stage, provider: FakeProvider, until_s: float) -> None:
    """Ask again and again until `until_s` (of the loop): P is left alone and the time told never moves earlier."""
    loop = asyncio.get_running_loop()
    (f,) = stage.take(1)
    seen = len(provider.attempts)
    end = loop.time() + await _remaining(stage, provider)
    assert abs(end - until_s) <= 1.0
    while loop.time() < until_s - 0.2:
        answer = await stage.chat(provider, f)
        assert (answer.status, answer.headers["X-Served-By"]) == (200, f.name)
        told = loop.time() + await _remaining(stage, provider)
        assert told >= end - 0.1, "the end of the wait moved earlier"
        assert len(provider.attempts) == seen
        await asyncio.sleep(0.1)


async def _overlap(stage: Stage, first: Fault, second: Fault, until_s: float, **more: str) -> None:
    p, f = stage.take(2)
    p.script([first, second])
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked = {"X-Max-Retries": "0", **more}
    answers = await asyncio.gather(stage.chat(p, f, headers=asked), stage.chat(p, f, headers=asked))
    assert {answer.status for answer in answers} == {200}
    assert len(p.attempts) == 2
    await _watch(stage, p, began + until_s)
    await stage.after(p, f)


def _told(seconds: float, after_s: float) -> Fault:
    return Fault(status=429, silence_s=after_s, headers=headers({"Retry-After": str(seconds)}))


@pytest.mark.parametrize(
    ("long_s", "short_s", "apart_s"), [pytest.param(30, 2, 1.0, marks=pytest.mark.torture), (3, 1, 0.5)]
)
async def test_S31_R5_the_later_deadline_wins(stage: Stage, long_s: float, short_s: float, apart_s: float) -> None:
    opens = {
        "X-Circuit-Breaker": json.dumps({"error_threshold": 1, "error_threshold_window": 30, "timeout": short_s}),
    }
    await asyncio.gather(
        _overlap(stage, _told(long_s, 0.1), _told(short_s, 0.1 + apart_s), 0.1 + long_s),
        _overlap(stage, _told(short_s, 0.1), _told(long_s, 0.1 + apart_s), 0.1 + apart_s + long_s),
        _overlap(stage, _told(long_s, 0.1), Fault(status=500, silence_s=0.1 + apart_s), 0.1 + long_s, **opens),
    )


# S34 ------------------------------------------------------------------------------------------------------------------


def _own_policy() -> dict[str, str]:
    """No retries and the targets' own breaker rules, so that each opens for its own time."""
    return {"X-Max-Retries": "0", "X-Circuit-Breaker": "{}"}


async def _refused(stage: Stage, p: FakeProvider, f: FakeProvider, code: tuple[int, ...], soonest_s: float) -> Answer:
    before = (len(p.attempts), len(f.attempts))
    answer = await stage.chat(p, f, headers=_own_policy())
    assert answer.status in code
    assert answer.took_s <= 0.05
    assert abs(int(answer.headers["Retry-After"]) - soonest_s) <= 1
    assert answer.headers["X-Attempts"] == "0"
    assert (len(p.attempts), len(f.attempts)) == before
    for each in (p, f):
        assert f"{each.name}/gpt-4o" in answer.headers["X-Failover-Skipped"]
        assert f"{each.name}/gpt-4o" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "true"
    return answer


async def test_S34_B2_all_open_says_so_at_once_with_the_soonest_time(stage: Stage) -> None:
    p, f = stage.providers[-7:-5]
    p.default = f.default = Fault(status=503)
    assert (await stage.chat(p, f, headers=_own_policy())).status == 503
    await stage.chat(p, f, headers=_own_policy())  # the connections of the first measured call are warm
    answer = await _refused(stage, p, f, (503,), 7.0)
    assert answer.error["code"] in ("circuit_open", "no_target_available")
    assert answer.headers["X-Circuit-Status"] == "open"
    assert abs(int(answer.headers["X-Retry-After"]) - 12) <= 1
    await stage.after(p, f)


async def test_S34_all_cooling_says_so_at_once_with_the_soonest_time(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(status=429, headers=headers({"Retry-After": "12"}))
    f.default = Fault(status=429, headers=headers({"Retry-After": "7"}))
    assert (await stage.chat(p, f, headers=_own_policy())).status == 429
    await stage.chat(p, f, headers=_own_policy())
    answer = await _refused(stage, p, f, (429, 503), 7.0)
    assert answer.error["code"] == "no_target_available"
    assert answer.headers["X-Circuit-Status"] == "closed"
    await stage.after(p, f)


async def test_S34_B3_a_hundred_callers_cause_one_probe(stage: Stage) -> None:
    p, f = stage.providers[-5:-3]  # open for a minute, and for 1.2 s
    p.default = f.default = Fault(status=503)
    await stage.chat(p, f, headers=_own_policy())
    reopens = (await stage.target(f))["retry_after_s"]
    f.default = Fault(silence_s=0.5)
    await asyncio.sleep(reopens + 0.05)
    answers = await asyncio.gather(*(stage.chat(p, f, headers=_own_policy()) for _ in range(100)))
    assert sorted(answer.status for answer in answers) == [200] + [503] * 99
    assert (len(p.attempts), len(f.attempts)) == (1, 2)
    assert (await stage.chat(p, f, headers=_own_policy())).headers["X-Served-By"] == f.name
    await stage.after(p, f)


# S38 ------------------------------------------------------------------------------------------------------------------


async def _target_fault(stage: Stage, fault: Fault, reason: str) -> None:
    p, f = stage.take(2)
    p.default = fault
    first = await stage.chat(p, f)
    assert (first.status, len(first.words), first.headers["X-Failover-Reason"]) == (200, 60, reason)
    ended = p.attempts[0].ended_at
    assert ended is not None
    assert f.attempts[0].at - ended <= 0.05
    more = await asyncio.gather(*(stage.chat(p, f) for _ in range(20)))
    assert {(answer.status, answer.headers["X-Failover-Reason"]) for answer in more} == {(200, reason)}
    assert len(p.attempts) == 1
    if reason == "model_not_found":
        p.default = None
        other = await stage.chat(p, f, model="gpt-4o-mini")
        assert other.headers["X-Served-By"] == p.name
    else:

        def is_alert(line: dict[str, Any]) -> bool:
            return line["msg"].startswith("credential refused") and line["target"].partition("/")[0] == p.name

        await stage.sidecar.line(is_alert)
        assert [line["reason"] for line in stage.sidecar.lines if is_alert(line)] == [reason]
    await stage.after(p, f)


async def test_S38_a_refused_key_right_or_model_fails_over_once_and_for_all(stage: Stage) -> None:
    await asyncio.gather(
        _target_fault(stage, Fault(status=401), "auth"),
        _target_fault(stage, Fault(status=403), "permission"),
        _target_fault(stage, Fault(error="model_not_found"), "model_not_found"),
    )


async def test_S38_d_the_callers_own_refused_key_is_given_back(stage: Stage) -> None:
    p, f = stage.providers[:2]  # both want the caller's key, which belongs to P
    p.default = Fault(status=401)
    for n in (1, 2):
        answer = await stage.chat(p, f, headers={"Authorization": "Bearer sk-callers-own"})
        assert answer.status == 401
        assert answer.error["code"] == "invalid_api_key"
        assert (len(p.attempts), f.attempts) == (n, [])
        assert p.attempts[-1].header("Authorization") == "Bearer sk-callers-own"
    await stage.after(p, f)


# S39 ------------------------------------------------------------------------------------------------------------------

HEDGED = {"X-Hedge-Config": json.dumps({"delay_ms": 100})}


@pytest.mark.parametrize("deadline_s", [pytest.param(10.0, marks=pytest.mark.torture), 1.0])
@pytest.mark.parametrize("stream", [False, True])
async def test_S39_I4_one_deadline_over_everything(stage: Stage, deadline_s: float, stream: bool) -> None:
    p, f = stage.take(2)
    p.default = f.default = Fault(silence_s=60)
    limit = {"X-Request-Timeout-Ms": str(round(deadline_s * 1000)), **HEDGED}
    answer = await stage.chat(p, f, headers=limit, stream=stream)
    assert answer.status == 504
    assert deadline_s <= answer.took_s <= deadline_s + 0.5
    assert len(answer.error["attempts"]) == len(p.attempts) + len(f.attempts) == 2
    await p.wait_attempts(1, ended=True, timeout_s=1.0)
    await f.wait_attempts(1, ended=True, timeout_s=1.0)
    await stage.after(p, f, answer=answer)


async def test_S39_I4_a_deadline_shorter_than_everything(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = f.default = Fault(silence_s=60)
    answer = await stage.chat(p, f, headers={"X-Request-Timeout-Ms": "200"})
    assert (answer.status, len(p.attempts), f.attempts) == (504, 1, [])
    assert 0.2 <= answer.took_s <= 0.7
    await stage.after(p, f, answer=answer)


async def test_S39_no_wait_that_leaves_no_time_for_an_answer(stage: Stage) -> None:
    """P tells 8 s of the 10 s left and needs 5 s; so F is used at once."""
    p, f = stage.take(2)
    p.script([Fault(status=429, headers=headers({"Retry-After": "8"}))])
    plain = await stage.chat(p, f, headers={"X-Request-Timeout-Ms": "10000"})
    assert (plain.status, plain.headers["X-Served-By"]) == (200, f.name)
    assert plain.took_s <= 0.5
    # The same where the caller allows long waits: one beyond the deadline is not begun.
    p2, f2 = stage.take(2)
    p2.script([Fault(status=429, headers=headers({"Retry-After": "8"}))])
    rule = {"error_type": "rate_limit", "wait_ms": "parse_retry_after_header", "max_wait_ms": 60000}
    patient = {"X-Retry-Config": json.dumps({"strategy": "custom", "rules": [rule]})}
    waited = await stage.chat(p2, f2, headers={"X-Request-Timeout-Ms": "5000", **patient})
    assert (waited.status, waited.headers["X-Served-By"]) == (200, f2.name)
    assert waited.took_s <= 0.5
    await stage.after(p, f, answer=plain)
    await stage.after(p2, f2, answer=waited)
