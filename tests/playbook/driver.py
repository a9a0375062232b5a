"""Plays scripts on `Attempts` alone, in virtual time: what the providers do is written down, what the engine does about
it is recorded.

A `Stage` is one process: a cluster, a clock that jumps, dice that are known. A script says for each provider what its
first, second, ... attempt does (the last act repeats). Requests on the same stage share everything that outlives a
request. After every step the laws that hold for any input are checked (`Watch`), so every play is a test of them too.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.base.outcome import OK, Class, Group, Outcome
from proxy.base.target import Target
from proxy.engine.attempts import Attempts, Facts
from proxy.engine.cluster import Cluster, Event, TargetState
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
    GiveUp,
    Input,
    Opened,
    SetTimer,
    Timer,
)
from proxy.engine.plan import Candidate, Endpoint, Plan, Retry

START = 1000.0
"""Monotonic time at which every stage begins; scripts and reports count from it."""

PATIENCE = 10_000
"""Steps after which a play counts as a livelock (I7)."""

Dice = Callable[[], float]


@dataclass(frozen=True)
class Act:
    """What one attempt does: each entry is (seconds after the dial, what is told)."""

    moments: tuple[tuple[float, str | Outcome], ...] = ()


def fails(cls: Class, after: float = 0.1, **told: Any) -> Act:
    """An answer, or none, that ends as a failure of class `cls` after `after` seconds; a status means a head came."""
    outcome = Outcome(cls=cls, **told)
    head: tuple[tuple[float, str | Outcome], ...] = ((after, "opened"),) if outcome.status else ()
    return Act((*head, (after, outcome)))


def e503(after: float = 0.1) -> Act:
    """A plain 503 without Retry-After."""
    return fails(Class.MODEL_OVERLOADED, after, status=503)


def e500(after: float = 0.1) -> Act:
    return fails(Class.SERVER_ERROR, after, status=500)


def e429(told_s: float | None = None, after: float = 0.1) -> Act:
    return fails(Class.RATE_LIMIT, after, status=429, told_wait_s=told_s)


def refused(after: float = 0.0) -> Act:
    return fails(Class.CONNECT_ERROR, after, sub="refused")


def timeout(after: float = 15.0, sub: str = "first_byte") -> Act:
    return fails(Class.TIMEOUT, after, sub=sub)


def ok(after: float = 0.2) -> Act:
    """A whole answer at once."""
    return Act(((after, "opened"), (after, "content"), (after, OK)))


def streams(content: float = 0.2, end: float = 1.0) -> Act:
    return Act(((content, "opened"), (content, "content"), (end, OK)))


def breaks(content: float = 0.2, after: float = 0.5, cls: Class = Class.STREAM_INTERRUPTED) -> Act:
    """First content, then the stream ends badly."""
    return Act(((content, "opened"), (content, "content"), (after, Outcome(cls=cls))))


SILENT = Act()


def target(name: str) -> Target:
    """`a` stands for provider a with model m; `a/x` for its model x; `a/x/k` for the latter with credential k."""
    provider, _, rest = name.partition("/")
    model, _, credential = rest.partition("/")
    return Target(provider, model or "m", credential)


def chain(*names: str, retries: int = 2, **common: Any) -> tuple[Candidate, ...]:
    """Candidates in order; `retries` on the primary, 0 on the others, as the planner builds them."""
    return tuple(
        Candidate(target=target(name), retries=retries if i == 0 else 0, **common) for i, name in enumerate(names)
    )


def plan(*names: str, **settings: Any) -> Plan:
    """A plan over `names`, or over ready `candidates`; the primary's retries follow `retry`."""
    retry: Retry = settings.setdefault("retry", Retry())
    candidates = settings.pop("candidates", None) or chain(*names, retries=retry.max_retries)
    return Plan(route="chat", endpoint=Endpoint.CHAT, candidates=candidates, **settings)


def amend(base: Plan, index: int, **changes: Any) -> Plan:
    """`base` with one candidate changed."""
    candidates = list(base.candidates)
    candidates[index] = replace(candidates[index], **changes)
    return replace(base, candidates=tuple(candidates))


class Watch:
    """The laws that hold after every step, whatever the input was."""

    def __init__(self, machine: Attempts, the_plan: Plan) -> None:
        self.machine = machine
        self.plan = the_plan
        self.endings = 0
        self.alive: set[int] = set()
        self.dialled = 0

    def obey(self, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, Dial):
                assert self.endings == 0, "law 1: no dial after the ending"
                assert now < self.machine.deadline, "law 7: no deadline left, no dial"
                assert command.attempt == self.dialled, "attempts are numbered in order"
                self.dialled += 1
                assert self.dialled <= self.plan.max_attempts, "R1"
                self.alive.add(command.attempt)
            elif isinstance(command, Commit):
                self.endings += 1
                assert command.attempt < self.dialled
            elif isinstance(command, GiveUp):
                self.endings += 1
                assert not self.machine.running(), "law 3: nothing runs on after giving up"
            elif isinstance(command, Cancel):
                assert command.attempt in self.alive, "a cancel is for an attempt that runs"
                self.alive.discard(command.attempt)
        assert self.endings <= 1, "law 1: exactly one ending"
        assert (self.endings == 1) == self.machine.done
        self.alive = {n for n in self.alive if self.machine.attempts[n].outcome is None}
        assert len(self.machine.running()) == len(self.alive), "law 3: the machine and its driver agree on what runs"


@dataclass
class Request:
    """One request on a stage, and what became of it."""

    plan: Plan
    machine: Attempts
    watch: Watch
    script: Mapping[str, Sequence[Act]]
    began: float
    timers: dict[Timer, float] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    dials: list[tuple[float, str, str]] = field(default_factory=list)
    """(seconds, provider, kind)."""
    first_bytes: list[float | None] = field(default_factory=list)
    """The first-byte limit of each dial."""
    cancels: list[tuple[float, int, str]] = field(default_factory=list)
    """(seconds, attempt, reason)."""
    served: tuple[float, str] | None = None
    """(seconds, provider) of the commit."""
    failed: tuple[float, str] | None = None
    """(seconds, outcome's name) of giving up."""
    hedge_at: float | None = None
    """When the hedge timer was last set to fire, from the start."""
    hedge_sets: list[float | None] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return not self.machine.done or bool(self.machine.running())

    @property
    def path(self) -> str:
        """Targets dialled, in order: ``a a b``."""
        return " ".join(name for _, name, _ in self.dials)

    @property
    def kinds(self) -> str:
        return " ".join(kind for _, _, kind in self.dials)

    @property
    def waits(self) -> list[float]:
        """From the end of each attempt to the next dial, in seconds; meaningful without hedges."""
        ends = [a.ended_at for a in self.machine.attempts]
        return [
            round(start + self.began - end, 6)
            for end, (start, _, _) in zip(ends, self.dials[1:], strict=False)
            if end is not None
        ]

    @property
    def gave_up(self) -> GiveUp:
        assert self.machine.gave_up is not None
        return self.machine.gave_up


class Stage:
    """One process in virtual time."""

    def __init__(self, dice: Dice | float = 0.5) -> None:
        self.now = START
        self.dice: Dice = dice if callable(dice) else (lambda: dice)
        self.events: list[Event] = []
        self.cluster = Cluster(lambda: self.dice(), self.events.append)
        self._heap: list[tuple[float, int, Callable[[], bool], Callable[[], None]]] = []
        """(when, order of entry, whether it still matters, what happens); what no longer matters moves no clock."""
        self._order = itertools.count()

    # Playing ----------------------------------------------------------------------------------------------------------

    def play(self, the_plan: Plan, script: Mapping[str, Sequence[Act] | Act], **how: Any) -> Request:
        """One request from beginning to quiescence."""
        request = self.begin(the_plan, script, **how)
        self.run()
        return request

    def begin(
        self,
        the_plan: Plan,
        script: Mapping[str, Sequence[Act] | Act],
        *,
        at: float | None = None,
        stream: bool = False,
        gone_at: float | None = None,
        drain: bool = False,
        facts: Facts | None = None,
        accepted_before: float = 0.0,
    ) -> Request:
        """A request that comes at `at` (seconds from the stage's start; None: now); `run` then plays it."""
        facts = facts or Facts(stream=stream, key=(stream, 0))
        machine = Attempts(the_plan, self.cluster, lambda: self.dice(), facts)
        acts = {name: (act,) if isinstance(act, Act) else tuple(act) for name, act in script.items()}
        began = self.now if at is None else START + at
        request = Request(the_plan, machine, Watch(machine, the_plan), acts, began)
        accepted = None if not accepted_before else began - accepted_before
        self._at(began, lambda: True, lambda: self._obey(request, machine.start(self.now, accepted)))
        if gone_at is not None:
            gone = ClientGone("drain" if drain else "downstream")
            self._at(began + gone_at, lambda: request.alive, lambda: self.feed(request, gone))
        return request

    def run(self, until: float | None = None) -> None:
        """Play everything that is due, up to `until` seconds from the stage's start (None: until nothing is left)."""
        for steps in itertools.count():
            assert steps < PATIENCE, "I7: no livelock"
            if not self._heap or (until is not None and self._heap[0][0] > START + until):
                break
            when, _, matters, act = heapq.heappop(self._heap)
            if matters():
                self.now = max(self.now, when)
                act()
        if until is not None:
            self.now = max(self.now, START + until)

    def wait(self, seconds: float) -> None:
        self.run(self.now - START + seconds)

    def feed(self, request: Request, event: Input) -> None:
        self._obey(request, request.machine.step(event, self.now))

    def _at(self, when: float, matters: Callable[[], bool], act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), matters, act))

    def _obey(self, request: Request, commands: list[Command]) -> None:
        request.watch.obey(commands, self.now)
        since = round(self.now - request.began, 6)
        for command in commands:
            if isinstance(command, Dial):
                self._dial(request, command, since)
            elif isinstance(command, SetTimer):
                self._set(request, command)
            elif isinstance(command, Cancel):
                request.cancels.append((since, command.attempt, command.reason))
            elif isinstance(command, Commit):
                name = request.machine.attempts[command.attempt].candidate.target.provider
                request.served = (since, name)
            else:
                request.failed = (since, command.outcome.name)

    def _dial(self, request: Request, command: Dial, since: float) -> None:
        name = request.plan.candidates[command.candidate].target.provider
        request.dials.append((since, name, command.kind))
        request.first_bytes.append(command.first_byte_s)
        acts = request.script.get(name, (SILENT,))
        number = request.used.get(name, 0)
        request.used[name] = number + 1
        for after, told in acts[min(number, len(acts) - 1)].moments:
            self._hear(request, command.attempt, self.now + after, told)

    def _hear(self, request: Request, n: int, when: float, told: str | Outcome) -> None:
        attempt = request.machine.attempts[n]
        self._at(when, lambda: attempt.outcome is None, lambda: self._tell(request, n, told))

    def _tell(self, request: Request, n: int, told: str | Outcome) -> None:
        attempt = request.machine.attempts[n]
        if told == "opened":
            self.feed(request, Opened(n))
        elif told == "content":
            self.feed(request, FirstContent(n))
        else:
            assert isinstance(told, Outcome)
            broke = request.machine.committed is attempt and told.group is not Group.GOOD
            self.feed(request, Broke(n, told) if broke else Finished(n, told))

    def _set(self, request: Request, command: SetTimer) -> None:
        timer, at = command.timer, command.at
        if timer is Timer.HEDGE:
            request.hedge_at = None if at is None else round(at - request.began, 6)
            request.hedge_sets.append(request.hedge_at)
        if at is None:
            request.timers.pop(timer, None)
            return
        request.timers[timer] = at
        self._at(at, lambda: request.alive and request.timers.get(timer) == at, lambda: self._fire(request, timer))

    def _fire(self, request: Request, timer: Timer) -> None:
        del request.timers[timer]
        self.feed(request, Fired(timer))

    # Looking on -------------------------------------------------------------------------------------------------------

    def state(self, name: str) -> TargetState:
        return self.cluster.state(Candidate(target=target(name)), self.now)

    def tokens(self, name: str) -> float:
        return self.state(name).budget.tokens(self.now)

    def learn(self, name: str, seconds: float | Sequence[float], count: int = 100, stream: bool = False) -> None:
        """Give a target a history of good answers: first content after `seconds`, `count` times each."""
        for value in [seconds] if isinstance(seconds, float) else seconds:
            for _ in range(count):
                self.state(name).latency.observe((stream, 0), value, self.now)

    def fail_times(self, name: str, times: int, the_plan: Plan | None = None, act: Act | None = None) -> None:
        """`times` requests that end badly on `name` alone, one per second."""
        alone = plan(name, retry=Retry(max_retries=0)) if the_plan is None else the_plan
        for _ in range(times):
            self.play(alone, {name.partition("/")[0]: act or e500(0.0)})
            self.wait(1.0)

    def assert_quiet(self) -> None:
        """I3, I8: no permit, lease or attempt is out."""
        for state in self.cluster.states():
            assert state.inflight == 0
            assert state.limiter.inflight == 0
            view = state.breaker.view(self.now)
            assert (view["in_flight"], view["leases"], view["overlay_cap_used"]) == (0, 0, 0)
