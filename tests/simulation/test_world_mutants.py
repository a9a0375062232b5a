"""Each checker of the seeded world catches a mutant of the code that was made for it.

A mutant is a small, plausible mistake. It is put in place, seeds are run one after the other, and within a few of them
the checker that stands for the broken invariant has to complain. Without a mutant the same seeds are clean, which
`test_world` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.base.outcome import Outcome
from proxy.config.planner import Planner
from proxy.dispatch.drive import Drive
from proxy.dispatch.running import Running
from proxy.engine.attempts import Attempts
from proxy.engine.cluster import Cluster
from proxy.engine.messages import FirstContent, Opened
from proxy.policy.budget import Budget
from proxy.policy.cooldown import Cooldown
from proxy.policy.leases import Leases
from proxy.policy.limiter import Limiter
from proxy.policy.overlay import Circuit
from proxy.policy.window import State
from proxy.server.door import HeldBytes
from proxy.server.reply import Reply
from proxy.sim.checks import CHECKS
from proxy.sim.scenario import draw
from proxy.sim.world import run
from proxy.upstream.call import Call
from proxy.upstream.pump import Pump

SEEDS = 60
"""Most seeds that a checker gets; most need one or two."""

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
MUTANTS: list[tuple[str, int, Mutant]] = []


def mutant(check: str, first: int = 0) -> Callable[[Mutant], Mutant]:
    """`first`: the seed to begin with, for a mistake that needs a rare meeting to show."""

    def add(made: Mutant) -> Mutant:
        MUTANTS.append((check, first, made))
        return made

    return add


def after(patch: Patch, owner: Any, name: str, more: Callable[..., None]) -> None:
    """Do `more` (with the same arguments) after the real method."""
    real = getattr(owner, name)

    def both(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        more(self, *args, **kwargs)
        return result

    patch.setattr(owner, name, both)


@mutant("sound")
def a_crash_in_a_request(patch: Patch) -> None:
    def broken(self: Attempts) -> str:
        raise KeyError("reason")

    patch.setattr(Attempts, "failover_reason", broken)


@mutant("one_response")
def a_second_answer(patch: Patch) -> None:
    after(patch, Reply, "send", lambda self, *_: self._put(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))


@mutant("one_response")
def a_break_that_is_not_told(patch: Patch) -> None:
    patch.setattr(Drive, "_error_event", lambda self, *_: b"")


@mutant("one_upstream")
def a_piece_sent_twice(patch: Patch) -> None:
    real = Pump.take
    patch.setattr(Pump, "take", lambda self: 2 * real(self))


@mutant("one_upstream")
def a_seam_that_is_not_told(patch: Patch) -> None:
    async def unmarked(self: Drive, following: Pump) -> Pump:
        return following

    patch.setattr(Drive, "_marked", unmarked)


@mutant("no_truncated_success")
def a_cut_that_ends_properly(patch: Patch) -> None:
    async def ended(self: Drive, pump: Pump) -> None:
        await self._sink.write(b"data: [DONE]\n\n")
        await self._sink.end()

    patch.setattr(Drive, "_end", ended)


@mutant("deadline")
def a_deadline_that_does_not_count(patch: Patch) -> None:
    patch.setattr(Attempts, "_expire", lambda self, now, out: None)


@mutant("losers_cancelled")
def losers_that_run_on(patch: Patch) -> None:
    patch.setattr(Attempts, "_cancel_others", lambda self, winner, now, out: None)


@mutant("losers_cancelled")
def callers_that_leave_unnoticed(patch: Patch) -> None:
    patch.setattr(Call, "stop", lambda self: setattr(self, "ended", True))


@mutant("nothing_held")
def a_permit_that_is_kept(patch: Patch) -> None:
    real = Cluster.ended

    def ended(self: Cluster, state: Any, permit: Any, key: Any, outcome: Outcome, *rest: Any) -> None:
        real(self, state, permit, key, outcome, *rest)
        if outcome.sub == "superseded":
            state.limiter.inflight += 1

    patch.setattr(Cluster, "ended", ended)


@mutant("nothing_held")
def bodies_that_are_kept(patch: Patch) -> None:
    patch.setattr(HeldBytes, "give", lambda self, size: None)


@mutant("nothing_held")
def a_timer_that_is_kept(patch: Patch) -> None:
    def disarmed(self: Running) -> None:
        self._handle = None
        self._timers.clear()

    patch.setattr(Running, "_disarm", disarmed)


@mutant("unaffected")
def a_plan_for_everybody(patch: Patch) -> None:
    real = Planner.plan
    first: dict[Any, Any] = {}

    def plan(self: Planner, **asked: Any) -> Any:
        key = (id(self), asked["endpoint"], asked["stream"])
        return first.setdefault(key, real(self, **asked))

    patch.setattr(Planner, "plan", plan)


@mutant("nothing_after_commit")
def a_hedge_after_commit(patch: Patch) -> None:
    real = Attempts.step

    def step(self: Attempts, event: Any, now: float) -> Any:
        out = real(self, event, now)
        if isinstance(event, FirstContent) and self.committed is not None and len(self.attempts) == 1:
            chosen = self._chooser.next(None, self._deadline, now)
            if chosen is not None:
                self._dial(chosen, "hedge", now, out)
        return out

    patch.setattr(Attempts, "step", step)


@mutant("causality")
def a_failover_before_the_failure(patch: Patch) -> None:
    real = Attempts.step

    def step(self: Attempts, event: Any, now: float) -> Any:
        out = real(self, event, now)
        if isinstance(event, Opened) and not self.done and len(self.attempts) == 1:
            self._move_on(None, now, out)
        return out

    patch.setattr(Attempts, "step", step)


@mutant("budgets", first=34)
def a_budget_without_a_floor(patch: Patch) -> None:
    def withdraw(self: Budget, cost: float, now: float) -> bool:
        self._tenths -= cost * 10.0
        return True

    patch.setattr(Budget, "withdraw", withdraw)


@mutant("budgets")
def hedges_that_are_not_paid(patch: Patch) -> None:
    patch.setattr(Attempts, "_unaffordable", lambda self, chosen, now: "")


@mutant("allowances")
def a_target_beyond_its_limit(patch: Patch) -> None:
    def acquire(self: Limiter, now: float | None = None) -> bool:
        self.inflight += 1
        return True

    patch.setattr(Limiter, "try_acquire", acquire)


@mutant("breaker_moves")
def a_circuit_that_closes_without_a_probe(patch: Patch) -> None:
    real = Circuit.ask

    def ask(self: Circuit, now: float) -> State:
        state = real(self, now)
        if state is State.HALF_OPEN and self.state is State.OPEN:
            self._move(State.CLOSED, "waited", now)
            return State.CLOSED
        return state

    patch.setattr(Circuit, "ask", ask)


@mutant("half_open_leases")
def leases_without_number(patch: Patch) -> None:
    patch.setattr(Leases, "has_room", lambda self, circuit: True)


@mutant("cool_downs")
def a_told_wait_that_is_cut_short(patch: Patch) -> None:
    patch.setattr(Cooldown, "remaining_s", lambda self, now: max(0.0, self.until_s - now - 2.0))


@mutant("cool_downs", first=72)
def a_cool_down_that_moves_back(patch: Patch) -> None:
    def later(self: Cooldown, now: float, wait_s: float, reason: str) -> float:
        self.until_s, self.reason = now + wait_s, reason
        return self.until_s

    patch.setattr(Cooldown, "_later", later)


@pytest.mark.parametrize(("check", "first", "made"), MUTANTS, ids=[made.__name__ for _, _, made in MUTANTS])
def test_a_checker_catches_its_mutant(check: str, first: int, made: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    judges = {each.__name__: each for each in CHECKS}
    made(monkeypatch)
    assert any(list(judges[check](run(draw(seed)))) for seed in range(first, first + SEEDS))


def test_every_checker_has_a_mutant() -> None:
    assert {check for check, _, _ in MUTANTS} == {each.__name__ for each in CHECKS}
