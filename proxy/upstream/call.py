"""One attempt on the wire: connect, send, receive, five clocks, and an honest end.

A `Call` belongs to exactly one `Answer` (see `pump`), which reads what comes. The clocks (`resilience.md` 3.10) are
numbers, not timers: `due` tells when the next one runs out and dispatch keeps one timer for the whole request, so that
a chunk costs an assignment.

The transparent resend lives here: a *reused* connection that dies before any response byte says nothing about the
target, so the same bytes go out once more on a fresh connection, outside attempts, budget and breaker.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from proxy.base.outcome import Class, Outcome
from proxy.upstream.connector import Connector
from proxy.upstream.wire import FAULT_CLOSED, FAULT_INCOMPLETE, FAULT_RESET, Headers, Wire

NEVER: Final = float("inf")
LINGER_S: Final = 2.0
"""After a complete stream: how long its connection may take to say so itself before it is closed (S11)."""


class Answer(Protocol):
    """Who makes sense of the response. Each method may call back into the call (`fail`, `finish`)."""

    def sent(self) -> None:
        """The request has gone out on a new connection: `Call.due` may be earlier now than it was."""

    def head(self, status: int, headers: Headers) -> None: ...
    def data(self, piece: bytes) -> None: ...
    def chunk(self, data: bytes, begin: int) -> None:
        """See `Receiver.on_chunk`."""

    def end(self) -> None: ...
    def is_complete(self) -> bool:
        """All that matters has come, although the connection has not said so yet."""

    def cut(self, outcome: Outcome) -> None:
        """The attempt ended early with `outcome`."""

    def crashed(self, error: Exception) -> None:
        """A fault of ours while the answer was read."""


class Call:
    """One dial to one target."""

    __slots__ = (
        "_answer",
        "_body",
        "_clock",
        "_connect_s",
        "_connector",
        "_first_byte_s",
        "_first_content_s",
        "_head",
        "_idle_s",
        "_on_outcome",
        "_opening",
        "_resent",
        "_with_body",
        "content_at",
        "ended",
        "head_at",
        "held",
        "last_byte",
        "opening_at",
        "sent_at",
        "started",
        "wire",
    )

    def __init__(
        self,
        connector: Connector,
        head: bytes,
        body: bytes,
        answer: Answer,
        clock: Callable[[], float],
        *,
        connect_s: float,
        first_byte_s: float | None,
        first_content_s: float | None,
        idle_s: float,
        with_body: bool = True,
    ) -> None:
        self._connector = connector
        self._head = head
        self._body = body
        self._answer = answer
        self._clock = clock
        self._connect_s = connect_s
        self._first_byte_s = first_byte_s
        self._first_content_s = first_content_s
        self._idle_s = idle_s
        self._with_body = with_body
        self._resent = False
        self._opening: asyncio.Task[None] | None = None
        self.wire: Wire | None = None
        self.started = 0.0
        self.opening_at = 0.0
        self.sent_at: float | None = None
        self.head_at: float | None = None
        self.content_at: float | None = None
        """Time of the last content event; None before the first."""
        self.last_byte = 0.0
        self.held = False
        self.ended = False

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.started = self._clock()
        wire = self._connector.acquire()
        if wire is None:
            self._open()
        else:
            self._send(wire)

    def _open(self) -> None:
        self.sent_at = None
        self.opening_at = self._clock()
        self._opening = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """The only task an attempt may need; owned by the call, cancelled by `stop`."""
        try:
            wire = await self._connector.open()
        except asyncio.CancelledError:
            raise
        except (OSError, ssl.SSLError, UnicodeError) as error:
            self._opening = None
            self.fail(connect_outcome(error))
            return
        self._opening = None
        if self.ended:
            self._connector.discard(wire)
        else:
            self._send(wire)
            self._answer.sent()

    def _send(self, wire: Wire) -> None:
        self.wire = wire
        self.sent_at = self._clock()
        wire.send(self, self._head, self._body, self._with_body)

    def stop(self) -> None:
        """Leave: nothing more is told to anybody. A connection in use is closed, a complete one is let finish."""
        if not self.ended:
            self._close()

    def _close(self) -> None:
        self.ended = True
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        wire, self.wire = self.wire, None
        if wire is not None:
            self._connector.discard(wire)

    # Clocks -----------------------------------------------------------------------------------------------------------

    def due(self) -> tuple[float, str]:
        """(monotonic time, sub-name of the timeout) of the clock that runs out next."""
        if self.ended or self.held:
            return NEVER, ""
        content = self._first_content_s
        if self.sent_at is None:
            connect = self.opening_at + self._connect_s
            if content is not None and self.started + content < connect:
                return self.started + content, "first_content"
            return connect, "connect"
        if self.content_at is not None:
            if self._answer.is_complete():
                return self.last_byte + LINGER_S, "linger"
            idle = self.last_byte + self._idle_s
            if content is not None and self.content_at + content < idle:
                return self.content_at + content, "first_content"
            return idle, "idle"
        until = NEVER if content is None else self.started + content
        if self.head_at is None and self._first_byte_s is not None and self.sent_at + self._first_byte_s < until:
            return self.sent_at + self._first_byte_s, "first_byte"
        return until, "first_content"

    def expire(self, now: float) -> None:
        """Called when `due` has passed; does nothing when the clock has moved on meanwhile."""
        at, name = self.due()
        if at > now:
            return
        if name == "first_byte" and self.wire is not None and self.wire.transport.get_write_buffer_size() > 0:
            self.sent_at = now  # a large body is still on its way out: the clock starts when it has left
            return
        if name == "linger":
            self._answer.end()
            self._close()
            return
        self.fail(Outcome(cls=Class.TIMEOUT, sub=name, message=f"no {WAITED_FOR[name]} within the limit"))

    def hold(self) -> None:
        """The caller reads slowly: stop reading, and stop the clocks, which watch the upstream only."""
        if not self.held and self.wire is not None and not self.ended:
            self.held = True
            self.wire.transport.pause_reading()

    def resume(self) -> None:
        if self.held:
            self.held = False
            self.last_byte = self._clock()
            if self.content_at is not None:
                self.content_at = self.last_byte
            if self.wire is not None and not self.wire.transport.is_closing():
                self.wire.transport.resume_reading()

    # Ends -------------------------------------------------------------------------------------------------------------

    def fail(self, outcome: Outcome) -> None:
        """End the attempt with a failure and close its connection."""
        if not self.ended:
            self._close()
            self._answer.cut(outcome)

    # What the wire tells ----------------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        self.head_at = self.last_byte = self._clock()
        try:
            self._answer.head(status, headers)
        except Exception as error:  # the border between the transport and the request
            self._answer.crashed(error)

    def on_data(self, data: bytes) -> None:
        self.last_byte = self._clock()
        try:
            self._answer.data(data)
        except Exception as error:  # the border between the transport and the request
            self._answer.crashed(error)

    def on_chunk(self, data: bytes, begin: int) -> None:
        self.last_byte = self._clock()
        try:
            self._answer.chunk(data, begin)
        except Exception as error:  # the border between the transport and the request
            self._answer.crashed(error)

    def on_end(self) -> None:
        wire, self.wire = self.wire, None
        if self.ended:
            return
        self.ended = True
        if wire is not None:
            if self.held and not wire.transport.is_closing():
                wire.transport.resume_reading()  # its next exchange would wait for an answer that nobody reads
            self._connector.give_back(wire)
        try:
            self._answer.end()
        except Exception as error:  # the border between the transport and the request
            self._answer.crashed(error)

    def on_fault(self, fault: str, detail: str) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            self._connector.discard(wire)
        if self.ended:
            return
        if self._answer.is_complete():
            self.ended = True
            self._answer.end()
        elif (
            fault in (FAULT_CLOSED, FAULT_RESET)
            and wire is not None
            and wire.reused
            and not wire.answered
            and not self._resent
        ):
            self._resent = True
            self._open()
        else:
            self.fail(fault_outcome(fault, detail, self.head_at is not None))


WAITED_FOR: Final = {
    "connect": "connection",
    "first_byte": "response head",
    "first_content": "content",
    "idle": "further event",
}


def fault_outcome(fault: str, detail: str, head_seen: bool) -> Outcome:
    """The outcome of a broken exchange."""
    if fault in (FAULT_CLOSED, FAULT_RESET):
        return Outcome(
            cls=Class.CONNECT_ERROR, sub="reset", message="the upstream closed the connection before it answered"
        )
    if fault == FAULT_INCOMPLETE:
        return Outcome(cls=Class.STREAM_INTERRUPTED, message="the upstream's answer ended before its proper end")
    message = f"the upstream's answer is not valid HTTP ({detail})"
    return Outcome(cls=Class.STREAM_INTERRUPTED if head_seen else Class.SERVER_ERROR, message=message)


def connect_outcome(error: Exception) -> Outcome:
    """The outcome of a failed connect, by the error's type and never by its text."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return Outcome(cls=Class.CONNECT_ERROR, sub="dns", message="the provider's name cannot be resolved")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", "") or "certificate refused"
        # A bad certificate does not heal in a second: no second try on this target.
        return Outcome(cls=Class.CONNECT_ERROR, sub="tls", message=f"TLS: {reason}"[:200], should_retry=False)
    if isinstance(error, ssl.SSLError):
        tls_reason = getattr(error, "reason", "") or "handshake failed"  # missing when Python code raised it
        return Outcome(cls=Class.CONNECT_ERROR, sub="tls", message=f"TLS: {tls_reason}"[:200])
    if isinstance(error, ConnectionRefusedError):
        return Outcome(cls=Class.CONNECT_ERROR, sub="refused", message="the provider refused the connection")
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return Outcome(cls=Class.CONNECT_ERROR, sub="reset", message="the connection was reset while it was made")
    if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
        return Outcome(cls=Class.TIMEOUT, sub="connect", message="no connection within the limit")
    return Outcome(cls=Class.CONNECT_ERROR, sub="unreachable", message="the provider cannot be reached")
