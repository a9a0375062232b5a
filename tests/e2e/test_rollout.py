"""Rollout of a target: two versions side by side, a bad one is withdrawn by itself, and nobody's request suffers."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import Answer, Sidecar, config

PATIENT = {"circuit_breaker": {"error_threshold": 1000, "error_threshold_window": 60}}
"""A breaker that does not take the bad canary out before the comparison does."""


def rollout(old: FakeProvider, new: FakeProvider, canary: dict[str, Any], **over: Any) -> dict[str, Any]:
    """Route r over `old`, with `new` as its canary."""
    route: dict[str, Any] = {"name": "r", "targets": [{"provider": "old"}], **over.pop("route", {})}
    stated = {"targets": "new", "min_requests": 10, **canary}
    return config({"old": old.url, "new": new.url}, routes=[route], canary={"r": stated}, **over)


async def many(sidecar: Sidecar, count: int, **headers: str) -> list[Answer]:
    """`count` streams, eight at a time."""
    gate = asyncio.Semaphore(8)

    async def one() -> Answer:
        async with gate:
            return await sidecar.chat(stream=True, headers=headers)

    return await asyncio.gather(*(one() for _ in range(count)))


def assert_unharmed(answers: list[Answer]) -> None:
    assert {answer.status for answer in answers} == {200}
    assert not [answer for answer in answers if answer.broken or len(answer.words) != 60]


async def canary_of(sidecar: Sidecar) -> dict[str, Any]:
    return dict((await sidecar.status())["canaries"][0])


async def post(sidecar: Sidecar, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with sidecar.session.post(f"{sidecar.admin}{path}", json=body or None) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("fault", "breaker"),
    [
        pytest.param(Fault(status=503), PATIENT, id="refuses"),
        pytest.param(Fault(status=400), {}, id="calls-good-requests-bad"),
        pytest.param(Fault(status=503), {}, id="its-breaker-opens-first"),
    ],
)
async def test_a_bad_canary_is_withdrawn_by_itself(tmp_path: Path, fault: Fault, breaker: dict[str, Any]) -> None:
    async with FakeProvider(name="old", pause_s=0.0) as old, FakeProvider(name="new", pause_s=0.0) as new:
        new.default = fault
        tree = rollout(old, new, {"percent": 50, "window_s": 60}, defaults=breaker)
        async with Sidecar(tree, tmp_path) as sidecar:
            answers = []
            for _ in range(30):
                answers += await many(sidecar, 16)
                if (await canary_of(sidecar))["state"] == "withdrawn":
                    break
            assert_unharmed(answers)
            told = await canary_of(sidecar)
            assert (told["state"], told["reason"]) == ("withdrawn", "errors")
            assert "first calls failed" in told["why"]
            assert told["canary"]["errors"] == told["canary"]["requests"]
            line = await sidecar.line(lambda line: line["msg"] == "canary withdrawn")
            assert (line["route"], line["level"], line["why"]) == ("r", "warning", told["why"])
            assert line["canary_errors"] == told["canary"]["errors"]
            metrics = await sidecar.metrics()
            assert metrics['outrider_canary_state{route="r"}'] == 0.0
            assert metrics['outrider_canary_withdrawn_total{reason="errors",route="r"}'] == 1.0
            # From now on nobody goes there.
            before = new.attempts_total
            assert_unharmed(await many(sidecar, 20))
            assert new.attempts_total == before
            # Until an operator says so.
            new.heal()
            status, told = await post(sidecar, "/canary/r/resume")
            assert (status, told["state"], told["canary"]["requests"]) == (200, "running", 0)
            assert (await sidecar.metrics())['outrider_canary_state{route="r"}'] == 1.0


async def test_a_slow_canary_is_withdrawn(tmp_path: Path) -> None:
    async with FakeProvider(name="old", pause_s=0.0) as old, FakeProvider(name="new", pause_s=0.0) as new:
        new.default = Fault(first_word_s=0.3)
        tree = rollout(old, new, {"percent": 50, "min_requests": 40}, defaults={"hedging": {"rescue_after_s": 0}})
        async with Sidecar(tree, tmp_path) as sidecar:
            answers = []
            for _ in range(20):
                answers += await many(sidecar, 16)
                if (told := await canary_of(sidecar))["state"] == "withdrawn":
                    break
            assert_unharmed(answers)
            assert told["reason"] == "latency"
            assert "the baseline's p50 is at most" in told["why"]


async def test_a_good_canary_keeps_its_share_and_its_callers(tmp_path: Path) -> None:
    async with FakeProvider(name="old", pause_s=0.0) as old, FakeProvider(name="new", pause_s=0.0) as new:
        tree = rollout(old, new, {"percent": 30, "sticky": "X-User"}, limits={"max_plans": 16})
        async with Sidecar(tree, tmp_path) as sidecar:
            served: dict[str, set[str]] = {}
            for _ in range(2):
                for user in range(60):
                    answer = await sidecar.chat(headers={"X-User": f"user-{user}"})
                    served.setdefault(f"user-{user}", set()).add(answer.headers["X-Served-By"])
                    assert "X-Failover" not in answer.headers
            assert all(len(by) == 1 for by in served.values())
            share = Counter(next(iter(by)) for by in served.values())
            assert 8 <= share["new"] <= 28
            told = await canary_of(sidecar)
            assert told["state"] == "running"
            assert told["canary"]["requests"] + told["baseline"]["requests"] == 120


async def test_weights_give_the_share_and_others_never_see_the_canary(tmp_path: Path) -> None:
    async with FakeProvider(name="old", pause_s=0.0) as old, FakeProvider(name="new", pause_s=0.0) as new:
        targets = [{"provider": "old", "weight": 3}, {"provider": "new", "weight": 1}]
        tree = rollout(old, new, {}, route={"balance": "weighted", "targets": targets})
        async with Sidecar(tree, tmp_path) as sidecar:
            assert (await canary_of(sidecar))["percent"] == 25.0
            await many(sidecar, 80)
            assert 5 <= new.attempts_total <= 40
            assert new.attempts_total + old.attempts_total == 80
            # The old one fails: its callers are told so, for the canary has its share and no more.
            old.default = Fault(status=500)
            answers = [await sidecar.chat(headers={"X-Max-Retries": "0"}) for _ in range(30)]
            assert {(answer.status == 200, answer.headers.get("X-Served-By")) for answer in answers} == {
                (True, "new"),
                (False, None),
            }


async def test_who_forbids_failover_stays_with_the_baseline(tmp_path: Path) -> None:
    async with FakeProvider(name="old", pause_s=0.0) as old, FakeProvider(name="new", pause_s=0.0) as new:
        new.default = Fault(status=500)
        async with Sidecar(rollout(old, new, {"percent": 100}), tmp_path) as sidecar:
            for headers in ({"X-Failover-Enabled": "false"}, {"X-Failover-Providers": "old"}):
                answer = await sidecar.chat(headers=headers)
                assert (answer.status, answer.headers["X-Served-By"]) == (200, "old")
            assert new.attempts_total == 0
            answer = await sidecar.chat(headers={"X-Explain": "true"})
            assert [entry["class"] for entry in answer.trace] == ["server_error", "ok"]
            assert (answer.headers["X-Failover"], answer.headers["X-Failover-Reason"]) == ("true", "server_error")
