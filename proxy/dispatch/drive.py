"""One request on its way: runs the engine's commands, feeds it what happens, answers the caller.

One task per request, the server's own. Attempts are objects that call back, so a retry, a failover or a hedge starts
inside the callback that told of its cause, and a losing hedge is stopped by closing its connection. One timer per
request: the earliest of the engine's timers and the calls' clocks, looked at again when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.base.exchange import Inbound, Sink, WriteTimeout
from proxy.base.outcome import Class, Group, Outcome
from proxy.config.planner import Planned
from proxy.dialects import effects, errors, openai, registry, splice
from proxy.dispatch import told
from proxy.dispatch.intake import Headers, Where
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
    GiveUp,
    HoldFull,
    Input,
    Opened,
    SetTimer,
    Timer,
)
from proxy.engine.plan import Endpoint
from proxy.observe.record import AttemptRecord, RequestRecord, Result
from proxy.policy.latency import size_bucket
from proxy.upstream import request as outgoing
from proxy.upstream.call import NEVER, Call
from proxy.upstream.pump import Asked, Pump
from proxy.upstream.session import Upstream, Upstreams

STREAM_HEADERS: Final = [("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"), ("Incremental", "?1")]
HELD_SHARE: Final = 8
UNSENT_SHARE: Final = 4
"""Shares of `stream.buffer_kb` at which the upstream is paused (held by us) and the task waits (unsent in the socket).
Either may be overshot: by a read of 64 KiB, and by what was held when the last write began. With the default of 256 KiB
that is 32 + 64 held and 64 + 96 unsent, 256 KiB in all at the most (S37)."""
STREAM_NAMES: Final = frozenset({"cache-control", "x-accel-buffering", "incremental"})
IDENTITY: Final = b"Accept-Encoding: identity\r\n"


@dataclass(slots=True)
class Room:
    """What every drive shares."""

    cluster: Cluster
    upstreams: Upstreams
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: Callable[[], float]
    observe: Callable[[RequestRecord], None]
    via: bytes
    """The ``Via`` line of our requests."""
    draining: bool = False


class Drive:
    """One request."""

    __slots__ = (
        "_asked",
        "_bodies",
        "_committed",
        "_crash",
        "_finished",
        "_first_sent",
        "_given_up",
        "_handle",
        "_handle_at",
        "_headers",
        "_inbound",
        "_keys",
        "_left",
        "_loop",
        "_machine",
        "_parsed",
        "_plan",
        "_planned_at",
        "_pumps",
        "_room",
        "_sink",
        "_status",
        "_timers",
        "_waiter",
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
        self._room = room
        self._inbound = inbound
        self._sink = sink
        self._where = where
        self._plan = plan
        self._keys = planned.keys
        self._headers = headers
        self._parsed = parsed
        raw = where.endpoint is Endpoint.RAW
        stream = not raw and parsed.get("stream") is True
        size = len(inbound.body)
        facts = Facts(
            stream=stream,
            key=(stream, size_bucket(size)),
            prompt_tokens=size // 4,
            output_limit=None if raw else openai.output_limit(parsed),
            may_hedge=not raw and effects.may_repeat(where.endpoint, parsed),
        )
        mode: Literal["raw", "stream", "unary"] = "raw" if raw else "stream" if stream else "unary"
        self._asked = mode
        self._machine = Attempts(plan, room.cluster, room.rng, facts)
        self._pumps: list[Pump] = []
        self._bodies: dict[int, bytes] = {}
        self._timers: dict[Timer, float] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = NEVER
        self._waiter: asyncio.Future[None] | None = None
        self._committed: Pump | None = None
        self._given_up: GiveUp | None = None
        self._crash: Exception | None = None
        self._left = False
        self._finished = False
        self._first_sent: float | None = None
        self._planned_at = 0.0
        self._status = 0
        self._loop = asyncio.get_running_loop()

    # The way through --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer the request. Cancellation means that the caller has left or the process drains."""
        self._planned_at = self._room.clock()
        try:
            self._obey(self._machine.start(self._planned_at, self._inbound.accepted_at))
            self._arm()
            while self._committed is None and self._given_up is None:
                await self._wait()
            if self._committed is not None:
                await self._answer(self._committed)
            else:
                await self._refuse()
        except (ConnectionError, WriteTimeout):
            self._gone("downstream")
            self._sink.abort()
        except asyncio.CancelledError:
            self._gone("drain" if self._room.draining else "downstream")
            raise
        finally:
            self._close()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._crash is not None:
            raise self._crash

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _gone(self, reason: Literal["downstream", "drain"]) -> None:
        if not self._finished:
            self._left = True
            self._obey(self._machine.step(ClientGone(reason), self._room.clock()))

    def _close(self) -> None:
        """Whatever happened: nothing of this request runs on, except losers that were to be let run."""
        self._finished = True
        running = self._machine.running()
        record = self._record()
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
        self._room.observe(record)

    def _release(self) -> None:
        """Let go of everything that points back here: bodies of megabytes must not wait for the cycle collector."""
        self._disarm()
        for pump in self._pumps:
            pump.call = None
        self._pumps = []
        self._committed = None
        self._bodies.clear()

    # Commands ---------------------------------------------------------------------------------------------------------

    def _feed(self, event: Input) -> None:
        self._obey(self._machine.step(event, self._room.clock()))
        self._arm()

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
        plan = self._plan
        candidate = plan.candidates[command.candidate]
        upstream = self._room.upstreams[candidate.target.provider]
        timers = plan.timers
        asked = Asked(
            self._asked,
            candidate.dialect,
            plan.stream.hold_bytes,
            self._room.wall,
            self._keys[command.candidate] in ("caller", "header"),
        )
        reader = registry.reader(self._where.endpoint, self._parsed)
        pump = Pump(command.attempt, self, reader, asked)
        self._pumps.append(pump)
        body = self._body(command.candidate)
        unary = self._asked != "stream"
        pump.call = call = Call(
            upstream.connector,
            self._head(upstream, command.candidate, len(body)),
            body,
            pump,
            self._room.clock,
            connect_s=timers.connect_s,
            first_byte_s=command.first_byte_s,
            # The whole body is the first content of a unary answer: a limit meant for the first word would end every
            # long generation, so it holds there only when the request stated it.
            first_content_s=None if unary and not timers.first_byte_stated else timers.first_content_s,
            idle_s=timers.idle_s,
            with_body=self._inbound.method != "HEAD",
        )
        call.start()

    def _body(self, index: int) -> bytes:
        """The body for a candidate: the caller's own bytes unless its model map or conditions ask for a change."""
        if self._where.endpoint is Endpoint.RAW:
            return self._inbound.body
        body = self._bodies.get(index)
        if body is None:
            candidate = self._plan.candidates[index]
            changes: dict[str, Any] = {}
            if candidate.target.model and candidate.target.model != self._parsed.get("model"):
                changes["model"] = candidate.target.model
            if candidate.output_share is not None:
                changes |= self._reduced(candidate.output_share, candidate.max_output_tokens)
            body = splice.replace(self._inbound.body, changes) if changes else self._inbound.body
            self._bodies[index] = body
        return body

    def _reduced(self, share: float, limit: int | None) -> dict[str, int]:
        """The output limit cut to `share` of the request's own, else of the target's; none known: unchanged."""
        for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            own = self._parsed.get(key)
            if isinstance(own, int) and not isinstance(own, bool):
                return {key: max(1, int(own * share))}
        if limit is None:
            return {}
        key = "max_output_tokens" if self._where.endpoint is Endpoint.RESPONSES else "max_tokens"
        return {key: max(1, int(limit * share))}

    def _key(self, upstream: Upstream, index: int) -> str:
        """The credential that a candidate is called with; empty for none."""
        source = self._keys[index]
        if source == "sidecar":
            return upstream.own_key()
        if source == "caller":
            return self._headers.credential
        name = f"x-provider-key-{upstream.account.name.lower()}" if source == "header" else ""
        return next((value for key, value in self._headers.control if key == name), "")

    def _without_keys(self, body: bytes) -> bytes:
        """An error without the credentials that its attempts were sent with: some providers repeat them."""
        for index in {attempt.index for attempt in self._machine.attempts}:
            upstream = self._room.upstreams[self._plan.candidates[index].target.provider]
            key = self._key(upstream, index).encode("utf-8", "surrogateescape")
            if key and key in body:
                body = body.replace(key, b"(key)")
        return body

    def _head(self, upstream: Upstream, index: int, body_bytes: int) -> bytes:
        candidate = self._plan.candidates[index]
        source = self._keys[index]
        credential = upstream.own_line() if source == "sidecar" else upstream.line(self._key(upstream, index))
        raw = self._where.endpoint is Endpoint.RAW
        extra = self._room.via + (self._headers.accept_encoding if raw else IDENTITY)
        lines = self._headers.passed
        if index == 0 or source == "caller":
            lines = [*lines, *self._headers.account] if self._headers.account else lines
        path = outgoing.join_path(
            candidate.dialect, upstream.origin.path, self._where.path, self._where.provider is not None
        )
        return outgoing.head(
            self._inbound.method, upstream.origin, path, self._inbound.query, lines, credential, body_bytes, extra
        )

    # What the pumps tell ----------------------------------------------------------------------------------------------

    def sent(self, n: int) -> None:
        self._arm()  # the clock of the connection has stopped, one that runs out earlier may have begun

    def opened(self, n: int) -> None:
        self._machine.step(Opened(n), self._room.clock())

    def content(self, n: int) -> None:
        self._feed(FirstContent(n))

    def full(self, n: int) -> None:
        self._feed(HoldFull(n))

    def finished(self, n: int, outcome: Outcome) -> None:
        pump = self._pumps[n]
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
            pump.out.clear()  # a loser that was let run: only its time is wanted
            pump.out_size = 0
        elif pump.out_size > self._plan.stream.hold_bytes:
            self.full(n)

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

    @property
    def _dialect(self) -> errors.Dialect:
        """The dialect in which this caller is told errors."""
        return "anthropic" if self._where.endpoint is Endpoint.MESSAGES else "openai"

    # Answers ----------------------------------------------------------------------------------------------------------

    def _answer_headers(self, pump: Pump) -> list[tuple[str, str]]:
        now = self._room.clock()
        machine = self._machine
        winner = machine.committed
        assert winner is not None
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
            )
        )
        return headers

    async def _answer(self, pump: Pump) -> None:
        headers = self._answer_headers(pump)
        self._status = pump.status
        self._first_sent = self._room.clock()
        if not pump.in_pieces:
            await self._sink.whole(pump.status, headers, pump.take())
            return
        sink, settings = self._sink, self._plan.stream
        if self._asked == "stream":
            headers = [header for header in headers if header[0].lower() not in STREAM_NAMES]
            headers += STREAM_HEADERS
        sink.pace(write_timeout_s=settings.write_timeout_s, buffer_bytes=settings.buffer_bytes // UNSENT_SHARE)
        await sink.begin(pump.status, headers)
        call = pump.call
        while True:
            if pump.out:
                await sink.write(pump.take())
                if call is not None and call.held:
                    call.resume()
                    self._arm()
            elif pump.over:
                break
            else:
                await self._wait()
        await self._end(pump)

    async def _end(self, pump: Pump) -> None:
        """The proper end of a stream, or an honest error and no success marker."""
        attempt = self._machine.committed
        assert attempt is not None
        outcome = attempt.outcome
        if outcome is not None and outcome.cls is Class.OK:
            await self._sink.end()
            return
        if outcome is None or outcome.group is Group.CANCELLED:
            outcome = Outcome(cls=Class.TIMEOUT, sub="total", message="the request's deadline passed mid-stream")
        if self._asked == "stream" and self._where.endpoint is not Endpoint.RAW:
            error = pump.reader.error if pump.reader is not None else None
            told_error = told.broken(self._dialect, outcome, error, self._inbound.request_id)
            await self._sink.write(self._without_keys(told_error))
        self._sink.abort()

    async def _refuse(self) -> None:
        given_up = self._given_up
        assert given_up is not None
        now = self._room.clock()
        upstream_error = None
        for pump, attempt in zip(self._pumps, self._machine.attempts, strict=True):
            if attempt.outcome is given_up.outcome and pump.error_body:
                upstream_error = (pump.status, pump.error_body, pump.headers)
        status, headers, body = told.failure(
            self._plan, self._machine, given_up, self._dialect, self._inbound.request_id, upstream_error, now
        )
        accepted = self._inbound.accepted_at
        spent = sum((a.ended_at or now) - a.started for a in self._machine.attempts)
        headers.append(told.timing((self._planned_at - accepted) * 1000, spent * 1000, (now - accepted) * 1000))
        self._status = status
        await self._sink.whole(status, headers, self._without_keys(body))

    # The record -------------------------------------------------------------------------------------------------------

    def _record(self) -> RequestRecord:
        machine, now = self._machine, self._room.clock()
        started = machine.started
        winner = machine.committed
        served = winner.candidate.target if winner is not None else None
        reader = self._committed.reader if self._committed is not None else None
        usage = reader.usage if reader is not None else None
        attempts = tuple(
            AttemptRecord(
                provider=a.candidate.target.provider,
                model=a.candidate.target.model,
                region=a.candidate.region,
                kind=a.kind,
                outcome=a.outcome.cls.value if a.outcome is not None else "ok",
                detail=a.outcome.name if a.outcome is not None else "ok",
                status=a.outcome.status if a.outcome is not None else 0,
                start_ms=(a.started - started) * 1000,
                end_ms=((a.ended_at or now) - started) * 1000,
                first_content_ms=None if a.content_at is None else (a.content_at - a.started) * 1000,
                won=a is winner,
                message=a.outcome.message if a.outcome is not None else "",
            )
            for a in machine.attempts
        )
        return RequestRecord(
            request_id=self._inbound.request_id,
            route=self._plan.route,
            endpoint=self._plan.endpoint.value,
            stream=self._asked == "stream",
            result=self._result(),
            status=self._status,
            total_ms=(now - started) * 1000,
            first_content_ms=None
            if self._first_sent is None or winner is None
            else (self._first_sent - started) * 1000,
            attempts=attempts,
            served_by=served.provider if served is not None else "",
            served_model=served.model if served is not None else "",
            failover_reason=machine.failover_reason() if winner is not None and winner.index else "",
            hedges=machine.hedges,
            input_tokens=usage[0] if usage is not None else None,
            output_tokens=usage[1] if usage is not None else None,
            error=self._given_up.outcome.name if self._given_up is not None else "",
        )

    def _result(self) -> Result:
        if self._left:
            return "drained" if self._room.draining else "client_cancelled"
        winner = self._machine.committed
        if winner is not None:
            return "ok" if winner.outcome is not None and winner.outcome.cls is Class.OK else "truncated"
        outcome = self._given_up.outcome if self._given_up is not None else None
        if outcome is None or outcome.group is Group.CANCELLED:
            return "client_cancelled"
        if outcome.group is Group.CALLER_FAULT:
            return "client_error"
        if not self._machine.attempts:
            return "rejected"
        if outcome.cls is Class.TIMEOUT:
            return "timeout"
        return "exhausted" if len(self._machine.attempts) > 1 else "error"
