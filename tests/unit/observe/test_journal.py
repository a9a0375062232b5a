"""The journal: what becomes an entry, in which order, under which number."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxy.base.outcome import Class
from proxy.base.target import Target
from proxy.engine.cluster import Cooled, Moved
from proxy.engine.rollout import CanaryMoved
from proxy.observe.bus import Bus
from proxy.observe.entry import KINDS, Entry, to_json
from proxy.observe.journal import Journal
from proxy.observe.narration import Narration
from proxy.observe.rollup import Rollup
from proxy.policy import canary
from proxy.policy.verdict import Change, State
from tests.unit.observe.sample import attempt, record

WALL = 1_750_000_000.0


def price(provider: str, model: str) -> tuple[float, float] | None:
    return {"openai": (1e-6, 2e-6), "anthropic": (3e-6, 4e-6)}.get(provider)


def cost(provider: str, model: str, sent: int | None, got: int | None) -> float | None:
    found = price(provider, model)
    return None if found is None else (sent or 0) * found[0] + (got or 0) * found[1]


def journal(recent: int = 2000) -> Journal:
    return Journal(Narration(cost, lambda: 100.0), Rollup(price), lambda: WALL, recent)


def failed_over(**over: Any) -> Any:
    made: dict[str, Any] = {
        "primary": "openai/gpt-4o",
        "attempts": (
            attempt(
                outcome="server_error", detail="server_error", status=503, won=False, message="key sk-abcdef123456"
            ),
            attempt(kind="retry", outcome="timeout", detail="timeout.first_byte", status=0, won=False, start_ms=300.0),
            attempt(provider="anthropic", model="claude", kind="failover", start_ms=310.0, end_ms=600.0, region="eu"),
        ),
        "served_by": "anthropic",
        "served_model": "claude",
        "failover_reason": "timeout",
        "total_ms": 650.0,
    }
    return record(**{**made, **over})


def test_a_plain_success_has_no_entry_but_can_be_explained() -> None:
    book = journal()
    heard: list[Entry] = []
    book.listen(heard.append)
    book.take(record(primary="openai/gpt-4o"))
    assert heard == []
    assert book.recent() == []
    told = book.of_request("req_1")
    assert [entry.kind for entry in told] == ["request", "attempt"]
    assert told[0].completed is True
    assert told[0].error == ""
    assert told[0].cost_usd == pytest.approx(100e-6 + 40e-6)
    assert book.of_request("req_2") == []


def test_a_failover_is_told_with_every_dial() -> None:
    book = journal()
    book.take(failed_over())
    request, first, retry, failover = book.recent()
    assert (request.kind, request.provider, request.model) == ("request", "openai", "gpt-4o")
    assert (request.error, request.retries, request.fallback) == ("server_error", 1, "anthropic/claude")
    assert request.message == "key [redacted]"
    assert request.completed is True
    assert request.latency_ms == 650.0
    assert request.cost_usd == pytest.approx(300e-6 + 80e-6)
    assert request.detail["served_by"] == "anthropic/claude"
    assert request.detail["attempts"] == 3
    assert [entry.kind for entry in (first, retry, failover)] == ["attempt", "retry", "failover"]
    assert [entry.attempt for entry in (first, retry, failover)] == [1, 2, 3]
    assert (first.error, first.status, first.completed) == ("server_error", 503, False)
    assert (retry.error, retry.status) == ("timeout.first_byte", None)
    assert (failover.error, failover.region, failover.completed) == ("", "eu", True)
    assert failover.detail == {"start_ms": 310.0, "end_ms": 600.0, "won": True}
    assert failover.at == pytest.approx(WALL - 0.65 + 0.6)
    assert {entry.request_id for entry in book.recent()} == {"req_1"}


def test_a_primary_that_was_left_out_is_named_with_the_reason() -> None:
    book = journal()
    dials = (attempt(provider="anthropic", model="claude"),)
    left_out = (("openai/gpt-4o", "circuit_open"),)
    book.take(failed_over(attempts=dials, failover_reason="circuit_open", skipped=left_out))
    request, dial = book.recent()
    assert (request.provider, request.error, request.fallback) == ("openai", "circuit_open", "anthropic/claude")
    assert request.completed is True
    assert request.detail["skipped"] == ["openai/gpt-4o=circuit_open"]
    assert (dial.kind, dial.attempt_kind) == ("failover", "first")


def test_a_request_that_failed_says_so() -> None:
    book = journal()
    dials = (attempt(outcome="auth", detail="auth", status=401, won=False),)
    gone = {"served_by": "", "served_model": "", "input_tokens": None, "output_tokens": None}
    book.take(record(result="error", status=502, error="auth", attempts=dials, primary="openai/gpt-4o", **gone))
    request = book.recent()[0]
    assert (request.completed, request.error, request.status, request.cost_usd) == (False, "auth", 502, None)
    assert request.detail["result"] == "error"


def test_a_request_without_a_dial_says_why() -> None:
    book = journal()
    gone = {"served_by": "", "served_model": "", "attempts": ()}
    book.take(record(result="rejected", status=503, error="circuit_open", primary="openai/gpt-4o", **gone))
    assert [(entry.kind, entry.error) for entry in book.recent()] == [("request", "circuit_open")]


def test_clamps_and_degraded_answers_are_told() -> None:
    book = journal()
    book.take(record(clamped=("X-Max-Retries=5",), degraded=True, failover_reason="server_error"))
    kinds = {entry.kind: entry for entry in book.recent()}
    assert kinds["clamp"].detail == {"clamped": ["X-Max-Retries=5"]}
    assert kinds["degraded_answer"].provider == "openai"
    assert kinds["degraded_answer"].detail == {"reason": "server_error"}


def test_circuits_cooldowns_and_credentials_are_told() -> None:
    book = journal()
    target = Target("openai", "gpt-4o")
    book.take(Moved(target, Change(from_=State.CLOSED, to=State.OPEN, reason="5 of 5", at=99.0, open_until=130.0)))
    book.take(Cooled(target, 105.0, Class.RATE_LIMIT, False))
    book.take(Cooled(target, 400.0, Class.AUTH, True))
    circuit, cooldown, credential = book.recent()
    assert (circuit.kind, circuit.error, circuit.message) == ("circuit", "circuit_open", "5 of 5")
    assert circuit.detail == {"from": "closed", "to": "open", "retry_after_s": 30.0}
    assert (cooldown.kind, cooldown.model, cooldown.error, cooldown.detail) == (
        "cooldown",
        "gpt-4o",
        "rate_limit",
        {"for_s": 5.0},
    )
    assert (credential.kind, credential.model, credential.error) == ("credential", "", "auth")


def test_a_withdrawn_canary_is_told_and_a_resumed_one_is_not() -> None:
    book = journal()
    verdict = canary.Verdict(withdraw=True, reason="errors", why="9 of 10", canary_requests=10, canary_errors=9)
    book.take(CanaryMoved("chat", canary.State.WITHDRAWN, verdict))
    book.take(CanaryMoved("chat", canary.State.RUNNING, None))
    book.take(object())
    assert [(entry.kind, entry.route, entry.message) for entry in book.recent()] == [
        ("canary_withdrawn", "chat", "9 of 10")
    ]


def test_numbers_rise_over_restarts_and_have_no_gap() -> None:
    book = journal()
    book.take(failed_over())
    book.take(failed_over())
    numbers = [entry.id for entry in book.recent()]
    assert numbers == list(range(int(WALL * 1e6), int(WALL * 1e6) + 8))
    assert numbers[-1] == book.last_id < 2**53
    assert book.oldest_id == numbers[0]
    assert [entry.id for entry in book.recent(numbers[5])] == numbers[6:]
    book.start_after(numbers[-1] + 1000)  # the clock had gone back
    book.take(Entry(at=WALL, kind="reload"))
    assert book.last_id == numbers[-1] + 1001
    book.start_after(5)
    assert book.last_id == numbers[-1] + 1001


def test_the_ring_is_bounded() -> None:
    book = journal(recent=10)
    for _ in range(20):
        book.take(failed_over())
    assert len(book.recent()) == 10
    assert book.oldest_id == book.last_id - 9


def test_an_entry_published_by_a_listener_comes_after_those_before_it() -> None:
    bus, book = Bus(), journal()
    bus.subscribe(book.take)
    early: list[str] = []
    late: list[str] = []

    def answer(entry: Entry) -> None:
        early.append(entry.kind)
        if entry.kind == "attempt":
            bus.publish(Entry(at=WALL, kind="incident_opened"))

    book.listen(answer)
    book.listen(lambda entry: late.append(entry.kind))
    bus.publish(failed_over())
    assert early == late == ["request", "attempt", "retry", "failover", "incident_opened"]
    numbers = [entry.id for entry in book.recent()]
    assert numbers == sorted(numbers)


def test_a_listener_that_raises_hurts_nobody_else() -> None:
    book = journal()
    heard: list[str] = []
    book.listen(lambda entry: 1 // 0)
    book.listen(lambda entry: heard.append(entry.kind))
    book.take(Entry(at=WALL, kind="reload"))
    assert heard == ["reload"]
    assert book.told.failures == 1


def test_json_leaves_out_what_says_nothing() -> None:
    shown = to_json(Entry(id=5, at=WALL, kind="request", latency_ms=1.23456, completed=False, retries=0))
    assert shown == {
        "id": 5,
        "at": "2025-06-15T15:06:40.000Z",
        "kind": "request",
        "latency_ms": 1.235,
        "retries": 0,
        "completed": False,
    }
    assert len(KINDS) == len(set(KINDS))


def test_a_plain_success_costs_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    book, done = journal(), record(primary="openai/gpt-4o")
    best = min(_timed(book, done) for _ in range(5))
    with capsys.disabled():
        print(f"\nJournal.take of a plain success: {best:.2f} us")
    assert best < 30.0  # 2 us on an idle machine; one entry, let alone a write, would be far more


def _timed(book: Journal, done: Any) -> float:
    started = time.perf_counter()
    for _ in range(5000):
        book.take(done)
    return (time.perf_counter() - started) / 5000 * 1e6
