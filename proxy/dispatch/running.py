"""A machine at work: runs the engine's commands, feeds it what happens, keeps its one timer.

Attempts are objects that call back, so a retry, a failover or a hedge starts inside the callback that told of its
cause, and a losing hedge is stopped by closing its connection. One timer per request: the earliest of the engine's
timers and the calls' clocks, looked at again when it fires.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, Literal

from proxy.base.outcome import Class, Group, Outcome
from proxy.config.planner import Planned
from proxy.dispatch.outgoing import Outgoing
from proxy.dispatch.room import Room
from proxy.engine.attempts import Attempts
from proxy.engine.cluster import OF_CREDENTIAL
from proxy.engine.messages import (
    Broke,
    Cancel,
    Command,
    Commit,
    Dial,
    Finished,
    Fired,
    FirstContent,
    GiveUp,
    HoldFull,
    Input,
    Opened,
    SetTimer,
    Timer,
)
from proxy.policy.chaos import Fault
from proxy.upstream.call import NEVER, Call
from proxy.upstream.chaos import FaultyCall
from proxy.upstream.grants import AwsKeys
from proxy.upstream.pump import Asked, Pump

HELD_SHARE: Final = 8
"""Share of `stream.buffer_kb` held by us at which the upstream is paused; see `drive.UNSENT_SHARE`."""
LATE_S: Final = 0.01
"""A timer that rings so late tells that the event loop was busy: timers of uvloop count in milliseconds."""
LOOKS_MAX: Final = 3
"""So often a late timer lets the sockets speak first. Opening a connection takes an event loop that many rounds."""


class Running:
    """One machine with its attempts on the wire; `drive.Drive` answers the caller with what they bring."""

    __slots__ = (
        "_asked",
        "_assembles",
        "_committed",
        "_crash",
        "_dialled_before",
        "_dials",
        "_faults",
        "_finished",
        "_given_up",
        "_handle",
        "_handle_at",
        "_is_head",
        "_looks",
        "_loop",
        "_machine",
        "_outgoing",
        "_plan",
        "_planned",
        "_pumps",
        "_room",
        "_sent",
        "_timers",
        "_waiter",
    )

    def __init__(
        self,
        room: Room,
        planned: Planned,
        machine: Attempts,
        outgoing: Outgoing,
        asked: Literal["raw", "stream", "unary"],
        *,
        assembles: bool,
        is_head: bool,
    ) -> None:
        """`assembles`: targets are asked for streams and the caller for nothing but one body. `is_head`: HEAD."""
        self._room = room
        self._planned = planned
        self._plan = planned.plan
        self._machine = machine
        self._outgoing = outgoing
        self._asked: Literal["raw", "stream", "unary"] = asked
        self._assembles = assembles
        self._is_head = is_head
        self._pumps: list[Pump] = []
        self._dials: dict[int, Dial] = {}
        self._dialled_before = 0
        """Attempts of earlier machines of this request."""
        self._sent: dict[int, AwsKeys | str | None] = {}
        """The sidecar's credential as the attempt was sent with it, by number; gone once it was sent again."""
        self._timers: dict[Timer, float] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = NEVER
        self._looks = 0
        """How often a late timer has let the sockets speak first."""
        self._waiter: asyncio.Future[None] | None = None
        self._committed: Pump | None = None
        self._given_up: GiveUp | None = None
        self._crash: Exception | None = None
        self._faults: tuple[Fault, ...] = ()
        """What happens to attempts on purpose."""
        self._finished = False
        self._loop = asyncio.get_running_loop()

    # Waiting ----------------------------------------------------------------------------------------------------------

    async def _settled(self) -> Pump | None:
        """Wait for the machine's one ending: the committed attempt, or None when it gave up."""
        while self._committed is None and self._given_up is None:
            await self._wait()
        return self._committed

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        crash, self._crash = self._crash, None
        if crash is not None:
            try:
                raise crash
            finally:
                del crash  # its traceback holds this frame, and so the whole request

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _release(self) -> None:
        """Let go of everything that points back here: bodies of megabytes must not wait for the cycle collector."""
        self._disarm()
        for pump in self._pumps:
            pump.call = None
        self._pumps = []
        self._committed = None
        self._crash = None
        self._outgoing.release()

    # Commands ---------------------------------------------------------------------------------------------------------

    def _feed(self, event: Input) -> None:
        try:
            self._obey(self._machine.step(event, self._room.clock()))
            self._arm()
        except Exception as error:  # the border of a request: not every callback has somebody above it who would tell
            self.crashed(error)

    def crashed(self, error: Exception) -> None:
        """A fault of ours inside a callback: the request's task must learn of it, or its caller would wait for ever."""
        self._crash = error
        self._wake()

    def _obey(self, commands: list[Command]) -> None:
        for command in commands:
            kind = type(command)
            if kind is SetTimer:
                if command.at is None:  # type: ignore[union-attr]
                    self._timers.pop(command.timer, None)  # type: ignore[union-attr]
                else:
                    self._timers[command.timer] = command.at  # type: ignore[union-attr]
            elif kind is Dial:
                self._dial(command)  # type: ignore[arg-type]
            elif kind is Commit:
                pump = self._pumps[command.attempt]  # type: ignore[union-attr]
                pump.committed = True
                self._committed = pump
                self._wake()
            elif kind is Cancel:
                self._stop(self._pumps[command.attempt])  # type: ignore[union-attr]
            else:
                self._given_up = command  # type: ignore[assignment]
                self._wake()

    def _stop(self, pump: Pump) -> None:
        pump.over = True
        if pump.call is not None:
            pump.call.stop()
        if pump is self._committed:
            self._wake()

    def _dial(self, command: Dial) -> None:
        self._dials[command.attempt] = command
        if self._planned.keys[command.candidate] == "sidecar":
            self._sent[command.attempt] = self._outgoing.upstream(command.candidate).secret()
        else:
            self._sent.pop(command.attempt, None)  # of an earlier machine's attempt with this number
        self._send(command)

    def _sent_again(self, n: int) -> bool:
        """Send a refused attempt once more when the sidecar's credential has been rotated since it was sent.

        Like the resend on a connection that died while it was idle, this says nothing about the target: it is no
        attempt of its own, costs no budget, and no breaker or cool-down hears of the refusal.
        """
        if n not in self._sent or self._finished or self._committed is not None:
            return False
        sent, dial = self._sent.pop(n), self._dials[n]
        if not self._outgoing.upstream(dial.candidate).is_renewed(sent):
            return False
        self._room.cluster.forgive(self._plan.candidates[dial.candidate].target.provider)
        self._send(dial)
        self._arm()
        return True

    def _send(self, command: Dial) -> None:
        """One call on its way, in the place of the attempt's earlier one if there was one."""
        plan = self._plan
        candidate = plan.candidates[command.candidate]
        timers = plan.timers
        asked = Asked(
            self._asked,
            candidate.dialect,
            plan.stream.hold_bytes,
            self._room.wall,
            self._planned.keys[command.candidate] in ("caller", "header"),
            self._assembles,
        )
        index, outgoing = command.candidate, self._outgoing
        body = outgoing.body(index)
        pump = Pump(command.attempt, self, outgoing.reader(index), asked, outgoing.translator(index))
        if command.attempt < len(self._pumps):
            self._pumps[command.attempt] = pump
        else:
            self._pumps.append(pump)
        unary = self._asked != "stream" and not self._assembles
        make: type[Call] | partial[FaultyCall] = Call
        if self._faults and (fault := self._fault(index)) is not None:
            make = partial(FaultyCall, fault)
        pump.call = call = make(
            outgoing.upstream(index).connector,
            outgoing.head(index, body, self._dialled_before + command.attempt),
            body,
            pump,
            self._room.clock,
            connect_s=timers.connect_s,
            first_byte_s=command.first_byte_s,
            # The whole body is the first content of a unary answer: a limit meant for the first word would end every
            # long generation, so it holds there only when the request stated it.
            first_content_s=None if unary and not timers.first_byte_stated else timers.first_content_s,
            idle_s=timers.idle_s,
            with_body=not self._is_head,
        )
        call.start()

    def _fault(self, index: int) -> Fault | None:
        """What this attempt meets on purpose: the first fault that means its target."""
        target = self._plan.candidates[index].target
        found = next((fault for fault in self._faults if fault.hits(target)), None)
        if found is not None:
            self._room.injected(self._plan.route, target.provider)
        return found

    # What the pumps tell ----------------------------------------------------------------------------------------------

    def sent(self, n: int) -> None:
        self._arm()  # the clock of the connection has stopped, one that runs out earlier may have begun

    def opened(self, n: int) -> None:
        now, pump = self._room.clock(), self._pumps[n]
        self._machine.step(Opened(n), now)
        if pump.status < 500:  # what stands before a provider and fails does not know its limits
            self._machine.attempts[n].state.told = pump.headers, now

    def content(self, n: int) -> None:
        self._feed(FirstContent(n))

    def full(self, n: int) -> None:
        self._feed(HoldFull(n))

    def finished(self, n: int, outcome: Outcome) -> None:
        pump = self._pumps[n]
        if outcome.cls in OF_CREDENTIAL and not pump.caller_key and self._sent_again(n):
            return
        if outcome.cls is Class.AUTH and not pump.caller_key:
            self._outgoing.upstream(self._machine.attempts[n].index).refused()
        if outcome.group is Group.GOOD or pump is not self._committed:
            self._feed(Finished(n, outcome))
        else:
            self._feed(Broke(n, outcome))
        if self._finished:
            if not self._machine.running():
                self._release()  # the last loser that was let run
        elif pump is self._committed:
            self._wake()

    def readable(self, n: int) -> None:
        pump = self._pumps[n]
        if pump is self._committed:
            if pump.out_size > self._plan.stream.buffer_bytes // HELD_SHARE and pump.call is not None:
                pump.call.hold()
            if pump.is_complete():
                self._arm()  # from here on it has only seconds to end by itself
            self._wake()
        elif self._committed is not None:
            if self._plan.hedge.strategy == "latency" or pump.out_size > self._plan.stream.hold_bytes:
                pump.forget()  # a loser that was let run: only its time is wanted
        elif pump.out_size > self._plan.stream.hold_bytes:
            self.full(n)

    def forwards(self, n: int, data: bytes, begin: int) -> bool:
        """See `upstream.pump.Driver`."""
        return False

    # The one timer ----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Keep the timer at or before the earliest due time; one that is early costs a look, one that is late is a
        bug."""
        at = NEVER
        for timer_at in self._timers.values():
            if timer_at < at:
                at = timer_at
        for pump in self._pumps:
            if not pump.over and pump.call is not None:
                due = pump.call.due()[0]
                if due < at:
                    at = due
        if at >= self._handle_at or at == NEVER:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle_at = at
        self._handle = self._loop.call_later(max(0.0, at - self._room.clock()), self._ring)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._handle_at = NEVER
        self._timers.clear()

    def _ring(self) -> None:
        """The timer has rung. When it is late, the answer may lie in a socket that nobody has had the time to read:
        our own slowness must not count as a timeout of the target, so the loop reads its sockets once more before."""
        now = self._room.clock()
        if now - self._handle_at > LATE_S and self._looks < LOOKS_MAX:
            self._looks += 1
            self._handle_at = now
            self._handle = self._loop.call_later(0.001, self._ring)
            return
        self._looks = 0
        self._handle = None
        self._handle_at = NEVER
        try:
            self._look()
        except Exception as error:  # the border of a request: see `crashed`
            self.crashed(error)

    def _look(self) -> None:
        now = self._room.clock()
        for timer, at in list(self._timers.items()):
            if at <= now and self._timers.get(timer) == at:
                del self._timers[timer]
                self._obey(self._machine.step(Fired(timer), now))
        for pump in tuple(self._pumps):
            if not pump.over and pump.call is not None and pump.call.due()[0] <= now:
                pump.call.expire(now)
        if self._finished and not self._machine.running():
            self._release()
        else:
            self._arm()
