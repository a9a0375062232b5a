"""Any input in any state: several requests share one cluster, and everything that can be told is told, also twice, also
late, also about attempts that are long over.

The walk is a seeded random one, so that thousands of steps cost little; Hypothesis chooses and reports the seed. After
each step the laws of the engine are checked (`Watch`), the permits are counted, and the tokens are compared with a
second set of books kept from the commands alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.outcome import GROUP, OK, Class, Group, Outcome
from proxy.base.target import Target
from proxy.engine.attempts import Attempts, Facts
from proxy.engine.cluster import Cluster
from proxy.engine.messages import (
    Broke,
    Cancel,
    ClientGone,
    Command,
    Commit,
    Dial,
    Finished,
    Fired,
    FirstContent,
    HoldFull,
    Input,
    Opened,
    SetTimer,
    Timer,
)
from proxy.engine.plan import Candidate, Endpoint, Plan, Retry, RetryRule, Stream, Tier
from proxy.policy import backoff, breaker, hedge
from proxy.policy.breaker import Exclusion
from proxy.policy.budget import Budget
from tests.playbook.driver import Watch

START = 1000.0
NAMES = ("a", "b", "c", "d")
FAILURES = tuple(cls for cls in Class if GROUP[cls] not in (Group.GOOD, Group.LOCAL))
SUBS = {Class.TIMEOUT: "first_byte", Class.CANCELLED: "downstream", Class.CONNECT_ERROR: "refused"}


def any_outcome(rng: Random) -> Outcome:
    """Mostly what retries and fails over, sometimes anything."""
    if rng.random() < 0.3:
        return OK
    common = (Class.SERVER_ERROR, Class.MODEL_OVERLOADED, Class.RATE_LIMIT, Class.TIMEOUT, Class.CONNECT_ERROR)
    cls = rng.choice(common if rng.random() < 0.7 else FAILURES)
    told = rng.choice((None, None, 0.2, 2.0, 30.0, 1e5)) if cls in (Class.RATE_LIMIT, Class.MODEL_OVERLOADED) else None
    return Outcome(
        cls=cls,
        sub=SUBS.get(cls, ""),
        told_wait_s=told,
        should_retry=rng.choice((None, None, None, True, False)),
        no_wait_helps=rng.random() < 0.05,
        per_credential=rng.random() < 0.2,
    )


def any_plan(rng: Random) -> Plan:
    names = rng.sample(NAMES, rng.randint(1, 4))
    retries = rng.choice((0, 1, 2, 2, 5))
    candidates = tuple(
        Candidate(
            target=Target(name, "m"),
            tier=Tier(min(i, 3)) if rng.random() < 0.2 else Tier.PRIMARY,
            trigger=frozenset(Class) if rng.random() < 0.8 else frozenset(rng.sample(list(Class), 5)),
            retries=retries if i == 0 else rng.choice((0, 0, 1)),
            weight=rng.choice((0, 1, 5)),
            max_latency_increase_s=rng.choice((None, None, 0.1)),
            max_concurrency=rng.choice((1, 2, 1024)),
            breaker=breaker.Settings(panic=rng.random() < 0.1),
        )
        for i, name in enumerate(names)
    )
    rules: tuple[RetryRule, ...] = ()
    if rng.random() < 0.3:
        rules = (
            RetryRule(names=frozenset({"rate_limit"}), told=True, max_wait_s=rng.choice((None, 1.0, 60.0))),
            RetryRule(names=frozenset({"timeout"}), attempts_s=(0.1, 0.2, 0.5), switch_after=rng.choice((None, 1, 2))),
            RetryRule(names=frozenset({"server_error"}), immediate_failover=True),
        )
    strategy = rng.choice(("exponential", "linear", "constant", "decorrelated"))
    return Plan(
        route="chat",
        endpoint=Endpoint.CHAT,
        candidates=candidates,
        timeout_s=rng.choice((0.5, 5.0, 60.0, 600.0)),
        failover=rng.random() < 0.9,
        max_attempts=rng.choice((1, 2, 8, 8)),
        retry=Retry(max_retries=retries, rules=rules, backoff=backoff.Settings(strategy=strategy)),
        overlay=breaker.Settings(error_threshold=rng.choice((1, 3, 50))) if rng.random() < 0.3 else None,
        exclusion=Exclusion() if rng.random() < 0.2 else None,
        hedge=hedge.Settings(
            enabled=rng.random() < 0.5,
            strategy=rng.choice(("latency", "first-success")),
            delay_s=rng.choice((None, 0.0, 0.2)),
            cancel_slower=rng.random() < 0.7,
            max_hedges=rng.choice((1, 1, 3)),
            rescue=rng.random() < 0.8,
        ),
        balance=rng.choice(("priority", "weighted", "adaptive", "cheapest")),
        stream=Stream(recovery=rng.choice(("continue", "buffer"))),
    )


@dataclass
class Walker:
    """One request and what its driver knows."""

    plan: Plan
    machine: Attempts
    watch: Watch
    timers: dict[Timer, float] = field(default_factory=dict)
    held: tuple[str, float] | None = None
    """(target, tokens) that a wait has taken and that its end must dial or give back."""
    left_at: dict[int, float] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return not self.machine.done or bool(self.machine.running())


class World:
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = START
        self.cluster = Cluster(self.dice)
        self.books = {name: Budget(START) for name in NAMES}
        self.walkers: list[Walker] = []

    def dice(self) -> float:
        return 0.001 + 0.998 * self.rng.random()

    # Moves ------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        rng = self.rng
        plan = any_plan(rng)
        stream = rng.random() < 0.5
        machine = Attempts(plan, self.cluster, self.dice, Facts(stream=stream, key=(stream, 0)))
        walker = Walker(plan, machine, Watch(machine, plan))
        for candidate in plan.candidates:  # the first plan that names a target builds its state
            self.cluster.state(candidate, self.now)
        self.walkers.append(walker)
        accepted = self.now - rng.choice((0.0, 0.0, 0.0, 1.0))
        self.check(walker, machine.start(self.now, accepted), None)

    def any_input(self, walker: Walker) -> Input | None:
        """Whatever a driver could say now; about attempts that are over, too."""
        rng = self.rng
        pick = rng.random()
        if pick < 0.03:
            return ClientGone(rng.choice(("downstream", "drain")))
        if pick < 0.35:
            timer = rng.choice(tuple(Timer))
            at = walker.timers.get(timer)
            if (at is not None and at <= self.now) or (at is None and timer is not Timer.DEADLINE):
                walker.timers.pop(timer, None)
                return Fired(timer)
            return None
        if not walker.machine.attempts:
            return None
        n = rng.randrange(len(walker.machine.attempts))
        if pick < 0.5:
            return rng.choice((Opened(n), Opened(n), HoldFull(n)))
        if pick < 0.65:
            return FirstContent(n)
        outcome = any_outcome(rng)
        broke = walker.machine.committed is walker.machine.attempts[n] and outcome.group is not Group.GOOD
        return Broke(n, outcome) if broke else Finished(n, outcome)

    def step(self, walker: Walker, event: Input) -> None:
        self.check(walker, walker.machine.step(event, self.now), event)

    # Checks -----------------------------------------------------------------------------------------------------------

    def check(self, walker: Walker, commands: list[Command], event: Input | None) -> None:
        walker.watch.obey(commands, self.now)
        self.keep_books(walker, commands, event)
        for command in commands:
            if isinstance(command, SetTimer):
                if command.at is None:
                    walker.timers.pop(command.timer, None)
                else:
                    assert command.at >= self.now or command.timer is Timer.DEADLINE
                    walker.timers[command.timer] = command.at
            elif isinstance(command, Dial):
                self.check_dial(walker, command, event)
            elif isinstance(command, Commit):
                assert isinstance(event, FirstContent | HoldFull | Finished)
                assert event.attempt == command.attempt  # H4: what has come is what is sent
        self.check_shared()

    def check_dial(self, walker: Walker, dial: Dial, event: Input | None) -> None:
        attempts = walker.machine.attempts
        earlier = [a.index for a in attempts[: dial.attempt]]
        if dial.kind == "first":
            assert dial.attempt == 0
            assert event is None
        elif dial.kind == "retry":
            assert dial.candidate in earlier
            retries = [a for a in attempts if a.kind == "retry" and a.index == dial.candidate]
            assert walker.plan.retry.rules or len(retries) <= walker.plan.candidates[dial.candidate].retries  # R7
        else:
            assert dial.candidate not in earlier  # R7: distinct targets before repeats
        if dial.kind == "failover":
            assert isinstance(event, Finished | Fired)  # R4: in the very step that learns of the failure
        if dial.kind == "hedge":
            assert isinstance(event, Fired)
            assert event.timer is Timer.HEDGE
            assert all(a.content_at is None for a in walker.machine.running())  # H3
            most = walker.plan.hedge.max_hedges if walker.plan.hedge.enabled else 1
            assert walker.machine.hedges <= most
        if not walker.plan.failover:
            assert dial.candidate == 0

    def keep_books(self, walker: Walker, commands: list[Command], event: Input | None) -> None:
        """The second set of books: what each step may have done to the tokens, told by its commands alone."""
        dials = [c for c in commands if isinstance(c, Dial)]
        name = {c.attempt: walker.plan.candidates[c.candidate].target.provider for c in dials}
        if isinstance(event, Finished) and event.outcome.group is Group.GOOD and self.counted(walker, event.attempt):
            answered = walker.machine.attempts[event.attempt]
            if answered.kind == "hedge":
                self.books[answered.candidate.target.provider].refund(1.0, self.now)
            self.books[answered.candidate.target.provider].earn(self.now)
        for command in commands:
            if isinstance(command, Cancel) and command.reason == "superseded":
                loser = walker.machine.attempts[command.attempt]
                if loser.kind == "hedge":
                    self.books[loser.candidate.target.provider].refund(1.0, self.now)
        if walker.held is not None:
            owner, cost = walker.held
            if any(c.kind == "retry" for c in dials):
                walker.held = None
            elif dials or walker.machine.done:
                self.books[owner].refund(cost, self.now)  # U3
                walker.held = None
        for command in commands:
            if isinstance(command, SetTimer) and command.timer is Timer.BACKOFF and command.at is not None:
                assert isinstance(event, Finished)
                failed = walker.machine.attempts[event.attempt]
                cost = 2.0 if event.outcome.cls is Class.TIMEOUT else 1.0
                walker.held = (failed.candidate.target.provider, cost)
                assert self.books[walker.held[0]].withdraw(cost, self.now)
                assert command.at < walker.machine.deadline  # R6
            elif isinstance(command, Dial) and command.kind == "hedge":
                assert self.books[name[command.attempt]].withdraw(1.0, self.now)
            elif isinstance(command, Dial) and command.kind == "retry" and not isinstance(event, Fired):
                assert isinstance(event, Finished)
                cost = 2.0 if event.outcome.cls is Class.TIMEOUT else 1.0
                assert self.books[name[command.attempt]].withdraw(cost, self.now)

    def counted(self, walker: Walker, n: int) -> bool:
        """Whether the input just fed has ended attempt `n` (and not an input before it)."""
        attempt = walker.machine.attempts[n]
        return n not in walker.left_at and attempt.outcome is OK

    def check_shared(self) -> None:
        running: dict[str, int] = dict.fromkeys(NAMES, 0)
        for walker in self.walkers:
            for attempt in walker.machine.attempts:
                if attempt.outcome is None:
                    running[attempt.candidate.target.provider] += 1
                else:
                    walker.left_at.setdefault(attempt.n, self.now)
        for state in self.cluster.states():
            name = state.target.provider
            assert state.inflight == state.limiter.inflight == running[name]  # I8, R9
            tokens = state.budget.tokens(self.now)
            assert 0.0 <= tokens <= 10.0  # U1
            assert tokens == pytest.approx(self.books[name].tokens(self.now), abs=1e-6)  # U3, U5, R8
            view = state.breaker.view(self.now)
            assert view["in_flight"] == running[name]
            assert 0.0 <= view["S_err"] <= 8.0  # type: ignore[operator]

    # The end ----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        for walker in self.walkers:
            if not walker.alive:
                continue
            self.now = max(self.now, walker.machine.deadline)
            self.step(walker, Fired(Timer.DEADLINE))
            assert not walker.alive
            assert walker.watch.endings == 1  # law 1
        for state in self.cluster.states():
            assert state.inflight == state.limiter.inflight == 0
            view = state.breaker.view(self.now)
            assert (view["in_flight"], view["leases"], view["overlay_cap_used"]) == (0, 0, 0)


def walk(seed: int, steps: int) -> World:
    world = World(seed)
    rng = world.rng
    world.begin()
    for _ in range(steps):
        if rng.random() < 0.3:
            world.now += rng.choice((0.0, 0.01, 0.1, 0.5, 1.0, 5.0, 12.0))
        if rng.random() < 0.12:
            world.begin()
        walker = rng.choice(world.walkers[-6:])
        event = world.any_input(walker)
        if event is not None:
            world.step(walker, event)
            if rng.random() < 0.2:
                world.step(walker, event)  # told twice
    world.finish()
    return world


@given(seed=st.integers(0, 2**32))
def test_I1_I3_I8_R1_R7_U1_U3_U5_H3_the_laws_hold_for_any_input_sequence(seed: int) -> None:
    walk(seed, 150)


@pytest.mark.torture
@given(seed=st.integers(0, 2**32))
def test_the_laws_hold_for_long_input_sequences(seed: int) -> None:
    walk(seed, 400)


def test_I6_the_same_seed_walks_the_same_way() -> None:
    def trace(seed: int) -> list[tuple[int, str, float, str]]:
        return [
            (a.index, a.kind, a.started, a.outcome.name if a.outcome else "")
            for walker in walk(seed, 300).walkers
            for a in walker.machine.attempts
        ]

    assert trace(7) == trace(7)


def test_the_walk_reaches_what_it_is_meant_to_reach() -> None:
    kinds: set[str] = set()
    endings: set[str] = set()
    for seed in range(40):
        for walker in walk(seed, 150).walkers:
            kinds |= {a.kind for a in walker.machine.attempts}
            gave_up = walker.machine.gave_up
            endings.add("commit" if gave_up is None else gave_up.outcome.name)
    assert kinds == {"first", "retry", "failover", "hedge"}
    assert {"commit", "timeout.total", "cancelled.downstream", "cancelled.drain", "circuit_open"} <= endings
