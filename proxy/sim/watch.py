"""What is noted of the proxy while it runs: its machines' steps, what is done with what requests share, its events.

The code under test is not changed and knows nothing of this: methods are wrapped for the time of a run, each wrapper
notes and passes on. Notes are values; what they mean is for `checks` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from proxy.dispatch.drive import Drive
from proxy.engine.attempts import Attempts
from proxy.engine.cluster import Cluster, Cooled, Moved, TargetState
from proxy.engine.messages import Command, Input
from proxy.engine.plan import Plan
from proxy.observe.record import RequestRecord
from proxy.policy.breaker import Permit
from proxy.policy.budget import Budget
from proxy.sim.providers import MARK


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one machine. `event` None: its start."""

    seq: int
    at: float
    machine: int
    event: Input | None
    commands: tuple[Command, ...]
    running: int
    """Attempts that ran before the step."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something was done with what a target's requests share; the state is that just after it."""

    seq: int
    at: float
    what: str
    """``dialled``, ``content``, ``ended``; ``withdraw``, ``refused``, ``refund``, ``earn`` of the retry budget."""
    target: str
    amount: float
    tokens: float
    permits_out: int
    """Of the concurrency limit."""
    limit: float
    leases: int
    permits: int
    """Leases that the target's own circuit may have out."""
    circuit: str
    serial: int
    """Of the permit; 0 for the budget's."""
    probes: bool
    """The permit is a probe's, or was let through by a request's own policy: OPEN may admit it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt, when its request is over; `ended` None: it was let run."""

    machine: int
    n: int
    kind: str
    index: int
    """In the plan of its machine."""
    target: str
    started: float
    content_at: float | None
    ended: float | None
    outcome: str


@dataclass(slots=True)
class Run:
    """One request inside the proxy, from its plan to its end."""

    request_id: str
    n: int
    """The caller's number, read from the body's mark; -1: it has none."""
    began: float
    accepted_at: float
    plan: Plan
    is_stream: bool
    has_headers: bool
    """Control headers came with it."""
    machines: list[int] = field(default_factory=list)
    """Its machines in order; the first is the request's, others are continuations of broken streams."""
    attempts: list[Tried] = field(default_factory=list)
    ended: float | None = None
    deadline: float = 0.0


@dataclass(slots=True)
class Notes:
    """Everything noted in one run, in order (`seq`)."""

    clock: Callable[[], float]
    steps: list[Step] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    moves: list[tuple[int, Moved]] = field(default_factory=list)
    cooled: list[tuple[int, float, Cooled]] = field(default_factory=list)
    records: list[tuple[int, float, RequestRecord]] = field(default_factory=list)
    seq: int = 0
    _machines: dict[int, int] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)
    """Machines and budgets, so that no id is given twice."""
    _budgets: dict[int, TargetState] = field(default_factory=dict)
    _runs: dict[int, Run] = field(default_factory=dict)

    def next(self) -> int:
        """The number of the next note."""
        self.seq += 1
        return self.seq

    def machine(self, machine: Attempts) -> int:
        """The number of a machine."""
        found = self._machines.get(id(machine))
        if found is None:
            found = self._machines[id(machine)] = len(self._machines)
            self._kept.append(machine)
        return found

    def take(self, event: object) -> None:
        """The observer of the proxy's own events."""
        if isinstance(event, Moved):
            self.moves.append((self.next(), event))
        elif isinstance(event, Cooled):
            self.cooled.append((self.next(), self.clock(), event))
        elif isinstance(event, RequestRecord):
            self.records.append((self.next(), self.clock(), event))

    def deed(self, what: str, state: TargetState, amount: float = 0.0, permit: Permit | None = None) -> None:
        """Note something done with a target, and how it stands now."""
        breaker = state.breaker
        base = breaker._base
        self.deeds.append(
            Deed(
                self.next(),
                self.clock(),
                what,
                state.target.name,
                amount,
                state.budget._tenths / 10.0,
                state.limiter.inflight,
                state.limiter.limit,
                sum(base in lease.live() for lease in breaker._leases._leases.values()),
                base.policy.permits,
                base.state.value,
                permit.serial if permit is not None else 0,
                permit is not None and permit.grant is not None,
            )
        )


@contextmanager
def noting(notes: Notes) -> Iterator[None]:
    """Wrap the methods that tell, for the time of a run."""
    wraps_of = (*_of_machines(notes), *_of_targets(notes), *_of_budgets(notes), *_of_requests(notes))
    real = [(owner, name, owner.__dict__[name]) for owner, name, _ in wraps_of]
    for owner, name, wrapper in wraps_of:
        setattr(owner, name, wrapper)
    try:
        yield
    finally:
        for owner, name, method in real:
            setattr(owner, name, method)


Wrap = tuple[Any, str, Callable[..., Any]]


def _of_machines(notes: Notes) -> list[Wrap]:
    start, step = Attempts.start, Attempts.step

    @wraps(start)
    def started(self: Attempts, now: float, accepted_at: float | None = None) -> list[Command]:
        seq = notes.next()
        commands = start(self, now, accepted_at)
        notes.steps.append(Step(seq, now, notes.machine(self), None, tuple(commands), 0))
        return commands

    @wraps(step)
    def stepped(self: Attempts, event: Input, now: float) -> list[Command]:
        running, seq = len(self.running()), notes.next()
        commands = step(self, event, now)
        notes.steps.append(Step(seq, now, notes.machine(self), event, tuple(commands), running))
        return commands

    return [(Attempts, "start", started), (Attempts, "step", stepped)]


def _of_targets(notes: Notes) -> list[Wrap]:
    dialled, content, ended, make = Cluster.dialled, Cluster.content, Cluster.ended, Cluster._make

    @wraps(make)
    def made(self: Cluster, *args: Any) -> TargetState:
        state = make(self, *args)
        notes._budgets[id(state.budget)] = state
        notes._kept.append(state)
        return state

    @wraps(dialled)
    def has_dialled(self: Cluster, state: TargetState, permit: Permit, *args: Any) -> None:
        dialled(self, state, permit, *args)
        notes.deed("dialled", state, permit=permit)

    @wraps(content)
    def has_content(self: Cluster, state: TargetState, permit: Permit, *args: Any) -> None:
        content(self, state, permit, *args)
        notes.deed("content", state, permit=permit)

    @wraps(ended)
    def has_ended(self: Cluster, state: TargetState, permit: Permit, *args: Any) -> None:
        ended(self, state, permit, *args)
        notes.deed("ended", state, permit=permit)

    return [
        (Cluster, "_make", made),
        (Cluster, "dialled", has_dialled),
        (Cluster, "content", has_content),
        (Cluster, "ended", has_ended),
    ]


def _of_budgets(notes: Notes) -> list[Wrap]:
    withdraw, refund, earn = Budget.withdraw, Budget.refund, Budget.earn

    @wraps(withdraw)
    def withdrawn(self: Budget, cost: float, now: float) -> bool:
        granted = withdraw(self, cost, now)
        notes.deed("withdraw" if granted else "refused", notes._budgets[id(self)], cost)
        return granted

    @wraps(refund)
    def refunded(self: Budget, cost: float, now: float) -> None:
        refund(self, cost, now)
        notes.deed("refund", notes._budgets[id(self)], cost)

    @wraps(earn)
    def earned(self: Budget, now: float) -> None:
        earn(self, now)
        notes.deed("earn", notes._budgets[id(self)], 0.1)

    return [(Budget, "withdraw", withdrawn), (Budget, "refund", refunded), (Budget, "earn", earned)]


def _of_requests(notes: Notes) -> list[Wrap]:
    run, close = Drive.run, Drive._close

    @wraps(run)
    async def ran(self: Drive) -> None:
        mark = MARK.search(self._inbound.body)
        noted = Run(
            request_id=self._inbound.request_id,
            n=int(mark[1]) if mark is not None else -1,
            began=notes.clock(),
            accepted_at=self._inbound.accepted_at,
            plan=self._original.plan,
            is_stream=self._asked == "stream",
            has_headers=any(name.lower().startswith(b"x-") for name, _ in self._inbound.headers),
        )
        notes.runs.append(noted)
        notes._runs[id(self)] = noted
        notes._kept.append(self)
        await run(self)

    @wraps(close)
    def closed(self: Drive) -> None:
        noted = notes._runs[id(self)]
        machines = [*self._past, self._machine]
        noted.deadline = machines[0].deadline
        close(self)
        noted.ended = notes.clock()
        noted.machines = [notes.machine(machine) for machine in machines]
        for machine in machines:
            for a in machine.attempts:
                outcome = a.outcome.name if a.outcome is not None else ""
                number, name = notes.machine(machine), a.candidate.name
                noted.attempts.append(
                    Tried(number, a.n, a.kind, a.index, name, a.started, a.content_at, a.ended_at, outcome)
                )

    return [(Drive, "run", ran), (Drive, "_close", closed)]
