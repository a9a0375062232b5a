"""One request on its way: sets its machine going (`running`) and answers the caller with what it brings.

One task per request, the server's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from proxy.base.exchange import Inbound, Sink, WriteTimeout
from proxy.base.outcome import Class, Group, Outcome
from proxy.config.planner import Planned
from proxy.dialects import effects, errors, openai
from proxy.dialects.joining import Joiner
from proxy.dialects.responses import ResponsesReader
from proxy.dispatch import recording, recovery, told
from proxy.dispatch.intake import Headers, Where
from proxy.dispatch.outgoing import Outgoing
from proxy.dispatch.room import Room
from proxy.dispatch.running import Running
from proxy.dispatch.translate import Translations, streams_upstream
from proxy.engine.attempts import DRAIN, Attempts, Facts
from proxy.engine.choice import NOBODY_BARRED
from proxy.engine.messages import (
    ClientGone,
)
from proxy.engine.plan import Endpoint
from proxy.observe.record import Traced
from proxy.policy.latency import size_bucket
from proxy.upstream.pump import Pump

STREAM_HEADERS: Final = [("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"), ("Incremental", "?1")]
UNSENT_SHARE: Final = 4
"""Share of `stream.buffer_kb` unsent in the socket at which the task waits; `running.HELD_SHARE` is the other. Either
may be overshot: by a read of 64 KiB, and by what was held when the last write began. With the default of 256 KiB that
is 32 + 64 held and 64 + 96 unsent, 256 KiB in all at the most (S37)."""
STREAM_NAMES: Final = frozenset({"cache-control", "x-accel-buffering", "incremental"})


class Drive(Running):
    """One request."""

    __slots__ = (
        "_begun",
        "_first_sent",
        "_flows",
        "_inbound",
        "_is_full",
        "_join",
        "_kept",
        "_left",
        "_original",
        "_parsed",
        "_past",
        "_planned_at",
        "_sink",
        "_status",
        "_trace",
        "_where",
    )

    def __init__(
        self,
        room: Room,
        inbound: Inbound,
        sink: Sink,
        where: Where,
        planned: Planned,
        headers: Headers,
        parsed: Mapping[str, Any],
    ) -> None:
        plan = planned.plan
        self._inbound = inbound
        self._sink = sink
        self._where = where
        self._parsed = parsed
        self._trace = headers.trace
        self._original = planned
        """What the request was planned with; a continuation has a plan of its own."""
        raw = where.endpoint is Endpoint.RAW
        stream = not raw and parsed.get("stream") is True
        size = len(inbound.body)
        upstream_streams = not raw and not stream and streams_upstream(plan, where.endpoint, parsed)
        translations = None
        if planned.foreign or upstream_streams:
            translations = Translations(
                where.endpoint,
                inbound.body,
                parsed,
                planned,
                room.signatures,
                int(room.wall()),
                inbound.request_id,
                upstream_streams,
            )
        outgoing = Outgoing(room.upstreams, room.via, inbound, where, planned, headers, parsed, translations)
        barred: Mapping[int, str] = NOBODY_BARRED
        if not raw:
            barred = outgoing.refused_by_vendors()
        if translations is not None or room.upstreams.fetched:
            barred = {
                **barred,
                **(translations.barred() if translations is not None else {}),
                **outgoing.without_credential(),
            }
        facts = Facts(
            stream=stream or upstream_streams,
            whole=upstream_streams,
            key=(stream or upstream_streams, size_bucket(size)),
            prompt_tokens=size // 4,
            output_limit=None if raw else openai.output_limit(parsed),
            may_hedge=not raw and effects.may_repeat(where.endpoint, parsed),
            barred=barred,
        )
        super().__init__(
            room,
            planned,
            Attempts(plan, room.cluster, room.rng, facts),
            outgoing,
            "raw" if raw else "stream" if stream else "unary",
            assembles=upstream_streams,
            is_head=inbound.method == "HEAD",
        )
        if planned.fault is not None or room.drills:
            self._faults = room.faults(planned)
        self._past: list[Attempts] = []
        """Machines whose committed stream broke and is being continued by the present one."""
        self._kept: recovery.Kept | None = None
        self._join: Joiner | None = None
        """Set while a spare goes on with a stream that broke."""
        self._flows = False
        """The relay waits for nothing but the next piece: see `readable`."""
        self._is_full = False
        """More than enough is held for the caller: the relay has to wait before anything else is sent."""
        self._begun = False
        self._left = False
        self._first_sent: float | None = None
        self._planned_at = 0.0
        self._status = 0

    # The way through --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer the request. Cancellation means that the caller has left or the process drains."""
        self._planned_at = self._room.clock()
        try:
            self._obey(self._machine.start(self._planned_at, self._inbound.accepted_at))
            self._arm()
            if self._plan.stream.keepalive_s > 0.0 and self._asked == "stream":
                await self._keep_alive(self._plan.stream.keepalive_s)
            committed = await self._settled()
            if committed is not None:
                await self._answer(committed)
            else:
                await self._refuse()
        except (ConnectionError, WriteTimeout):
            self._gone("downstream")
            self._sink.abort()
        except asyncio.CancelledError:
            self._gone("drain" if self._room.draining else "downstream")
            await self._say_goodbye()
            raise
        finally:
            self._close()

    async def _keep_alive(self, every_s: float) -> None:
        """Comments for a caller that waits, so that nothing on the way takes the connection for dead.

        The head that goes out with the first of them commits to a 200 and to nobody's answer: targets may still fail.
        """
        while self._committed is None and self._given_up is None:
            due = self._room.clock() + every_s
            handle = self._loop.call_later(every_s, self._wake)
            try:
                await self._wait()
            finally:
                handle.cancel()
            if self._committed is not None or self._given_up is not None or self._room.clock() < due:
                continue
            if not self._begun:
                await self._begin(200, [("X-Outrider-Request-Id", self._inbound.request_id)])
            await self._sink.write(b": waiting\n\n")

    async def _begin(self, status: int, headers: told.Headers) -> None:
        """Open the answer in pieces, once."""
        settings = self._plan.stream
        if self._asked == "stream":
            headers = [header for header in headers if header[0].lower() not in STREAM_NAMES]
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers.append(("Content-Type", "text/event-stream; charset=utf-8"))
            headers += STREAM_HEADERS
        self._sink.pace(write_timeout_s=settings.write_timeout_s, buffer_bytes=settings.buffer_bytes // UNSENT_SHARE)
        self._begun = True
        self._status = status
        await self._sink.begin(status, headers)

    async def _say_goodbye(self) -> None:
        """A drain has run out of time in the middle of a stream: an error event, as for one that broke."""
        if not (self._room.draining and self._begun and self._asked == "stream"):
            return
        error = {
            "message": "the proxy is shutting down; try again",
            "type": errors.type_for(self._dialect, 503),
            "param": None,
            "code": "shutting_down",
        }
        try:
            await self._sink.write(self._error_event(self._committed, DRAIN, error))
        except (ConnectionError, WriteTimeout, RuntimeError):
            return  # the caller left first, or had its whole answer already
        self._sink.abort()

    def _gone(self, reason: Literal["downstream", "drain"]) -> None:
        if not self._finished:
            self._left = True
            self._obey(self._machine.step(ClientGone(reason), self._room.clock()))

    def _close(self) -> None:
        """Whatever happened: nothing of this request runs on, except losers that were to be let run."""
        self._finished = True
        running = self._machine.running()
        record = recording.record(
            self._original.plan,
            self._machine,
            self._past,
            self._inbound,
            self._asked == "stream",
            self._end_facts(),
            self._trace,
            self._traced(),
        )
        if self._original.plan.lead or self._original.canary is not None:
            first = self._past[0] if self._past else self._machine
            self._room.rollout.ended(self._original.plan, first, self._room.clock())
        if self._committed is not None and self._committed.translator is not None:
            self._room.signatures.remember(self._committed.translator.signatures)
        if running and not self._left and not self._plan.hedge.cancel_slower and self._committed is not None:
            self._arm()
        else:
            for pump in self._pumps:
                pump.over = True
                if pump.call is not None:
                    pump.call.stop()
            if running:
                self._machine.step(ClientGone("downstream"), self._room.clock())
            self._release()
        self._past.clear()
        self._room.observe(record)

    @property
    def _dialect(self) -> errors.Dialect:
        """The dialect in which this caller is told errors."""
        return "anthropic" if self._where.endpoint in (Endpoint.MESSAGES, Endpoint.COUNT) else "openai"

    # Answers ----------------------------------------------------------------------------------------------------------

    def _without_keys(self, body: bytes) -> bytes:
        return self._outgoing.without_keys(body, {attempt.index for attempt in self._machine.attempts})

    def _answer_headers(self, pump: Pump) -> list[tuple[str, str]]:
        now = self._room.clock()
        machine = self._machine
        winner = machine.committed
        assert winner is not None
        if pump.translator is not None:
            headers = told.translated(pump, self._dialect, self._outgoing.warnings(winner.index))
        elif warnings := self._outgoing.warnings(winner.index):
            headers = [*told.passed(pump.headers), told.warned(warnings)]
        else:
            headers = told.passed(pump.headers)
        if self._asked == "raw" and (coding := pump.header("content-encoding")):
            headers.append(("Content-Encoding", coding))  # passed through unread, so the label still fits
        headers += told.policy_headers(self._plan, machine, self._inbound.request_id, now)
        headers += told.served_headers(machine, winner, now)
        accepted = self._inbound.accepted_at
        headers.append(
            told.timing(
                (self._planned_at - accepted) * 1000,
                ((winner.content_at or now) - winner.started) * 1000,
                (now - accepted) * 1000,
                self._trace,
            )
        )
        return headers

    async def _answer(self, pump: Pump) -> None:
        self._first_sent = self._room.clock()
        if not pump.in_pieces and not self._begun:
            headers = self._answer_headers(pump)
            self._status = pump.status
            await self._sink.whole(pump.status, headers, pump.take())
            return
        if not self._begun:
            await self._begin(pump.status, self._answer_headers(pump))
        if self._asked == "stream":
            self._kept = recovery.keeper(self._plan, self._where.endpoint, self._parsed)
        following: Pump | None = pump
        while following is not None:
            await self._relay(following)
            following = await self._end(following)

    async def _relay(self, pump: Pump) -> None:
        """Send on what comes, until nothing comes any more."""
        sink, call, kept = self._sink, pump.call, self._kept
        while True:
            if pump.out:
                piece = pump.take() if self._join is None else self._join.feed(pump.take())
                if kept is not None:
                    kept.add(piece)
                await sink.write(piece)
                if call is not None and call.held:
                    call.resume()
                    self._arm()
            elif pump.over:
                break
            else:
                self._flows = self._join is None
                try:
                    await self._wait()
                finally:
                    self._flows = False
                if self._is_full:
                    self._is_full = False
                    await sink.write(b"")
        if self._join is not None:
            await sink.write(self._join.close())

    def readable(self, n: int) -> None:
        """See `Running`. While the relay waits for the next piece, it is sent on at once: a future, a turn of the loop
        and a step of the task for each piece would cost as much as all that is done with it."""
        pump = self._pumps[n]
        if not self._flows or pump is not self._committed:
            super().readable(n)
            return
        if pump.is_complete():
            self._arm()  # from here on it has only seconds to end by itself
        piece = pump.take()
        if self._kept is not None:
            self._kept.add(piece)
        try:
            if not self._sink.push(piece):
                self._fill()
        except ConnectionError as error:
            self.crashed(error)  # the task ends as it does when it finds this itself

    def forwards(self, n: int, data: bytes, begin: int) -> bool:
        """See `upstream.pump.Driver`."""
        if not self._flows or self._pumps[n] is not self._committed:
            return False
        if self._kept is not None:
            self._kept.add(data[begin:-2])
        try:
            if not self._sink.forward(data, begin):
                self._fill()
        except ConnectionError as error:
            self.crashed(error)  # the task ends as it does when it finds this itself
        return True

    def _fill(self) -> None:
        """Have the relay wait before anything else is sent."""
        self._is_full = True
        self._wake()

    def _wake(self) -> None:
        self._flows = False
        super()._wake()

    async def _end(self, pump: Pump) -> Pump | None:
        """The proper end of a stream; else whoever goes on with it; else an honest error and no success marker."""
        attempt = self._machine.committed
        assert attempt is not None
        outcome = attempt.outcome
        if self._join is not None and self._join.error is not None:
            outcome = Outcome(cls=Class.STREAM_INTERRUPTED, message="the stream broke and could not be continued")
        if outcome is not None and outcome.cls is Class.OK:
            await self._sink.end()
            return None
        if outcome is None or outcome.group is Group.CANCELLED:
            outcome = Outcome(cls=Class.TIMEOUT, sub="total", message="the request's deadline passed mid-stream")
        if self._asked == "stream" and self._where.endpoint is not Endpoint.RAW:
            told_error = self._without_keys(self._error_event(pump, outcome))
            following = await self._continued(outcome)
            if following is not None:
                return following
            await self._sink.write(told_error)
        self._sink.abort()
        return None

    def _error_event(self, pump: Pump | None, outcome: Outcome, error: dict[str, Any] | None = None) -> bytes:
        """The error event that would end the stream now; `error`: what is told in the place of the pump's own."""
        speaks = self._join or (pump.translator if pump is not None else None)
        own = error or (pump.error if pump is not None else None)
        if speaks is not None:
            return speaks.fail(error or told.broken_error(self._dialect, outcome, own))
        if pump is not None and isinstance(pump.reader, ResponsesReader):
            return told.broken_response(pump.reader, error or told.broken_error(self._dialect, outcome, own))
        return told.broken(self._dialect, outcome, own, self._inbound.request_id)

    async def _continued(self, outcome: Outcome) -> Pump | None:
        """Ask the targets that are left to go on; None: nobody does, and the caller is told of the cut."""
        room, now = self._room, self._room.clock()
        if self._kept is None or outcome.cls in recovery.FINAL:
            return None
        sent = recovery.read_back(self._kept, self._past, self._plan, self._outgoing, self._inbound.request_id)
        if sent is None:
            return None
        # A loser that was let run for the sake of its time alone has thrown its answer away: it can take nothing over.
        spare = self._machine.take_over(lambda n: self._pumps[n].is_whole)
        if spare is not None:
            self._join = recovery.spare_joiner(sent, self._where.endpoint)
            self._committed = self._pumps[spare]
            return await self._marked(self._committed)
        step = recovery.prepare(sent, self._original, self._past, self._machine, outcome, self._outgoing)
        if step is None:
            return None
        self._obey(self._machine.dismiss(now))  # what they would tell later is nothing to the machine that follows
        facts = replace(self._machine.facts, may_hedge=False, barred=step.barred)
        self._past.append(self._machine)
        self._dialled_before += len(self._machine.attempts)
        self._planned, self._plan, self._outgoing = step.planned, step.planned.plan, step.outgoing
        for pump in self._pumps:
            pump.call = None  # see `_release`
        self._pumps, self._committed, self._given_up, self._join = [], None, None, None
        self._timers.clear()
        self._machine = Attempts(self._plan, room.cluster, room.rng, facts)
        self._obey(self._machine.start(now, self._inbound.accepted_at))
        self._arm()
        following = await self._settled()
        return None if following is None else await self._marked(following)

    async def _marked(self, following: Pump) -> Pump:
        """Tell the seam, as a comment: no client takes it for an event."""
        assert self._machine.committed is not None
        name = told.ascii_only(self._machine.committed.candidate.name)
        await self._sink.write(f": continued-by {name}\n\n".encode("ascii"))
        return following

    async def _refuse(self) -> None:
        given_up = self._given_up
        assert given_up is not None
        now = self._room.clock()
        upstream_error, foreign = None, False
        for pump, attempt in zip(self._pumps, self._machine.attempts, strict=True):
            if attempt.outcome is given_up.outcome and pump.error_body:
                upstream_error = (pump.status, pump.error_body, pump.headers)
                foreign = attempt.candidate.foreign
        status, headers, body = told.failure(
            self._plan,
            self._machine,
            given_up,
            self._dialect,
            self._inbound.request_id,
            upstream_error,
            now,
            foreign=foreign,
            untouched=self._where.endpoint is Endpoint.RAW,
            trace=self._trace,
        )
        accepted = self._inbound.accepted_at
        spent = sum((a.ended_at or now) - a.started for a in self._machine.attempts)
        planned_ms, total_ms = (self._planned_at - accepted) * 1000, (now - accepted) * 1000
        headers.append(told.timing(planned_ms, spent * 1000, total_ms, self._trace))
        if self._begun:
            # A 200 is on its way already: what would have been the status is told as the one event of the stream.
            event = told.broken(self._dialect, given_up.outcome, told.error_object(body), self._inbound.request_id)
            await self._sink.write(self._without_keys(event))
            self._sink.abort()
            return
        self._status = status
        await self._sink.whole(status, headers, self._without_keys(body))

    def _traced(self) -> Traced | None:
        if self._trace is None or not self._trace.first_span:
            return None
        return recording.traced(self._inbound, self._original.model, self._parsed, (*self._past, self._machine))

    def _end_facts(self) -> recording.Ending:
        return recording.Ending(
            now=self._room.clock(),
            status=self._status,
            left=self._left,
            draining=self._room.draining,
            first_sent=self._first_sent,
            usage=self._committed.usage if self._committed is not None else None,
            given_up=self._given_up,
            left_out=self._committed.left_out if self._committed is not None else 0,
        )
