"""The engine in virtual time without a wire: what `outrider simulate` and `outrider replay` run on.

Plans come from the real planner and everything is decided by the real `Attempts` and `Cluster`; only the targets are
made up. A `World` says how a target answers one dial (a `Play`), the limits of the attempt are laid over it as
`upstream/call` would apply them, and the result is told to the machine when it is due. Bytes do not exist here, so what
depends on them (translation, the text of a continued stream, slow callers) is not part of the model; the seeded world
beside this file has those.

One heap, one entry per request: the moment at which something is next due for it. A request that one attempt answers
costs one push and one pop, and that is what makes millions of them a matter of minutes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple, Protocol

from proxy.base.outcome import OK, Class, Group, Outcome
from proxy.base.target import Target
from proxy.config.planner import Planned
from proxy.dispatch import recovery
from proxy.engine.attempt import Attempt
from proxy.engine.attempts import Attempts, Facts
from proxy.engine.cluster import Cluster, Event
from proxy.engine.messages import (
    Broke,
    Cancel,
    Command,
    Dial,
    Finished,
    Fired,
    FirstContent,
    Opened,
    SetTimer,
    Timer,
)
from proxy.engine.plan import Plan
from proxy.policy.latency import size_bucket

EPOCH_S: Final = 1000.0
"""Monotonic time at which a run begins: not 0, so that "never" and "at the beginning" stay apart."""


class Flow:
    """Requests of one kind: they share a plan and all that is known beforehand."""

    __slots__ = ("may_continue", "planned", "prompt_tokens", "stream", "streams_upstream")

    def __init__(self, planned: Planned, *, stream: bool, streams_upstream: bool = False) -> None:
        """`streams_upstream`: a unary request whose targets are asked for streams."""
        self.planned = planned
        self.stream = stream
        self.streams_upstream = streams_upstream
        plan = planned.plan
        self.may_continue = stream and plan.failover and plan.stream.recovery == "continue" and len(plan.candidates) > 1


class Call(NamedTuple):
    """One request of a caller."""

    at: float
    """Seconds from the beginning of the run."""
    flow: Flow
    prompt_tokens: int
    output_tokens: int
    luck: float
    """0 to 1, drawn once per request: whether its first attempt on the primary fails and how fast it is depends on
    these two alone, so that the run without a policy meets the same fate as the run with it."""
    pace: float
    fate: str = ""
    """Of a replayed request: the name under which the world knows what it met. Empty: nothing is recorded of it."""


class Play(NamedTuple):
    """How a target answers one dial, in seconds from the dial."""

    head_s: float
    """The response head; `inf`: never."""
    content_s: float
    """The first content; `inf`: never."""
    end_s: float
    """The end; `inf`: the target stays silent and only a limit ends the attempt."""
    outcome: Outcome
    """Of the end."""
    connected: bool = True
    """False: not even a connection comes about."""


class World(Protocol):
    """The targets."""

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        """How `target` answers a dial at `now` (seconds from the beginning, never less than before).

        `streams`: a stream is asked for, so that content comes before the end. `is_own_fate`: draw from `call.luck` and
        `call.pace`, else from the world's own dice.
        """
        ...


def limited(play: Play, plan: Plan, first_byte_s: float | None, streams: bool) -> Play:
    """`play` with the limits of an attempt laid over it (`resilience.md` 3.10; `upstream/call` for the details)."""
    timers = plan.timers
    if not play.connected and play.end_s > timers.connect_s:
        return Play(inf, inf, timers.connect_s, Outcome(cls=Class.TIMEOUT, sub="connect"), False)
    if first_byte_s is not None and play.head_s > first_byte_s and play.end_s > first_byte_s:
        return Play(inf, inf, first_byte_s, Outcome(cls=Class.TIMEOUT, sub="first_byte"))
    most = timers.first_content_s if streams or timers.first_byte_stated else inf
    if play.content_s > most and play.end_s > most:
        return Play(play.head_s, inf, most, Outcome(cls=Class.TIMEOUT, sub="first_content"))
    return play


class Told(Protocol):
    """Whoever counts what happened."""

    def over(self, request: Request, now: float) -> None:
        """`request` has ended and nothing of it runs any more."""
        ...


class _Dialled:
    """An attempt on its way: what it will do, and how much of it has been told."""

    __slots__ = ("at", "attempt", "n", "play", "shown")

    def __init__(self, n: int, attempt: Attempt, play: Play, at: float) -> None:
        self.n = n
        self.attempt = attempt
        self.play = play
        self.at = at
        self.shown = False

    def due(self) -> float:
        return self.at + (self.play.end_s if self.shown else min(self.play.content_s, self.play.end_s))


class Request:
    """One request on its way through the engine."""

    __slots__ = ("answered_at", "call", "dialled", "due", "machine", "past", "planned", "timers")

    def __init__(self, call: Call, machine: Attempts) -> None:
        self.call = call
        self.planned = call.flow.planned
        self.machine = machine
        self.dialled: list[_Dialled] = []
        self.timers: dict[Timer, float] = {}
        self.past: list[Attempts] = []
        """Machines whose committed stream broke and was continued by the present one."""
        self.due = inf
        self.answered_at: float | None = None
        """When the caller saw the first content; None: it has not."""

    @property
    def attempts(self) -> list[Attempt]:
        """Every dial, in order."""
        if not self.past:
            return self.machine.attempts
        return [attempt for each in (*self.past, self.machine) for attempt in each.attempts]

    @property
    def failure(self) -> str:
        """Why the caller got no whole answer: an outcome's name; empty: it got one."""
        winner = self.machine.committed
        if winner is not None:
            outcome = winner.outcome
            return "" if outcome is None or outcome.group is Group.GOOD else "stream_interrupted"
        if self.past:
            return "stream_interrupted"
        given_up = self.machine.gave_up
        return given_up.outcome.name if given_up is not None else "unfinished"


class Model:
    """One process in virtual time. `rng`: the engine's dice; the world has its own."""

    def __init__(
        self,
        world: World,
        rng: Callable[[], float],
        told: Told,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.cluster = Cluster(rng, tell)
        self.now = EPOCH_S
        self._world = world
        self._rng = rng
        self._told = told
        self._heap: list[tuple[float, int, Request]] = []
        self._entries = 0

    def run(self, calls: Iterable[Call]) -> None:
        """Play `calls` (in order of time) to quiescence: what they began, deadlines included, is over afterwards."""
        heap = self._heap
        for call in calls:
            at = EPOCH_S + call.at
            while heap and heap[0][0] <= at:
                self._next()
            self.now = at
            self._begin(call)
        while heap:
            self._next()

    # The heap ---------------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        at, _, request = heapq.heappop(self._heap)
        if request.due != at:
            return  # it was set to an earlier moment since, or is over
        self.now = at
        request.due = inf
        self._look(request)

    def _arm(self, request: Request) -> None:
        due = inf
        for at in request.timers.values():
            if at < due:
                due = at
        for each in request.dialled:
            at = each.due()
            if at < due:
                due = at
        if due < request.due:
            request.due = due
            self._entries += 1
            heapq.heappush(self._heap, (due, self._entries, request))

    # A request --------------------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        flow = call.flow
        plan = flow.planned.plan
        streams = flow.stream or flow.streams_upstream
        facts = Facts(
            stream=streams,
            whole=flow.streams_upstream,
            key=(streams, size_bucket(4 * call.prompt_tokens)),
            prompt_tokens=call.prompt_tokens,
            output_limit=call.output_tokens,
        )
        machine = Attempts(plan, self.cluster, self._rng, facts)
        request = Request(call, machine)
        self._obey(request, machine.start(self.now))
        self._settle(request)

    def _obey(self, request: Request, commands: list[Command]) -> None:
        for command in commands:
            kind = type(command)
            if kind is SetTimer:
                if command.at is None:  # type: ignore[union-attr]
                    request.timers.pop(command.timer, None)  # type: ignore[union-attr]
                else:
                    request.timers[command.timer] = command.at  # type: ignore[union-attr]
            elif kind is Dial:
                self._dial(request, command)  # type: ignore[arg-type]
            elif kind is Cancel:
                n = command.attempt  # type: ignore[union-attr]
                request.dialled = [each for each in request.dialled if each.n != n]

    def _dial(self, request: Request, command: Dial) -> None:
        call, machine = request.call, request.machine
        attempt = machine.attempts[command.attempt]
        streams = machine.facts.stream
        is_own_fate = command.attempt == 0 and attempt.index == 0 and not request.past
        play = self._world.play(attempt.candidate.target, call, streams, self.now - EPOCH_S, is_own_fate)
        play = limited(play, request.planned.plan, command.first_byte_s, streams)
        request.dialled.append(_Dialled(command.attempt, attempt, play, self.now))

    def _look(self, request: Request) -> None:
        """Tell the machine what is due, in the order of the dispatcher: its timers, then its attempts."""
        now = self.now
        timers = request.timers
        if timers:
            for timer in [timer for timer, at in timers.items() if at <= now]:
                if timers.get(timer, inf) <= now:
                    del timers[timer]
                    self._obey(request, request.machine.step(Fired(timer), now))
        for each in tuple(request.dialled):
            if each.due() <= now and each.attempt.outcome is None:
                self._tell(request, each)
        self._settle(request)

    def _tell(self, request: Request, each: _Dialled) -> None:
        machine, now, play = request.machine, self.now, each.play
        if not each.shown:
            each.shown = True
            if play.head_s <= play.end_s:
                machine.step(Opened(each.n), now)
            if play.content_s <= play.end_s:
                self._obey(request, machine.step(FirstContent(each.n), now))
                if request.answered_at is None and machine.committed is not None:
                    request.answered_at = now
                if play.end_s > play.content_s:
                    return
        request.dialled.remove(each)
        committed = machine.committed is each.attempt
        outcome = play.outcome
        if outcome is OK or not committed:
            self._obey(request, machine.step(Finished(each.n, outcome), now))
            if request.answered_at is None and machine.committed is not None:
                request.answered_at = now
            return
        self._obey(request, machine.step(Broke(each.n, outcome), now))
        if request.call.flow.may_continue and machine is request.machine:
            self._go_on(request, outcome)

    def _go_on(self, request: Request, outcome: Outcome) -> None:
        """The committed stream broke: a spare takes over, or the targets that are left are asked to go on."""
        machine = request.machine
        # As in the proxy, losers that were let run for the sake of their time alone have thrown their answers away.
        keeps = request.planned.plan.hedge.strategy == "first-success"
        if len(request.past) >= recovery.CONTINUATIONS_MAX or machine.take_over(lambda n: keeps) is not None:
            return
        used = len(request.attempts)
        rest = recovery.remaining(request.planned, machine, outcome, used)
        if rest is None:
            return
        self._obey(request, machine.dismiss(self.now))
        request.past.append(machine)
        request.planned = rest
        request.timers.clear()
        request.dialled.clear()
        facts = replace(machine.facts, may_hedge=False)
        request.machine = Attempts(rest.plan, self.cluster, self._rng, facts)
        self._obey(request, request.machine.start(self.now, machine.started))

    def _settle(self, request: Request) -> None:
        if request.machine.done and not request.dialled:
            request.due = inf
            self._told.over(request, self.now)
        else:
            self._arm(request)
