"""One connection to a fake provider: requests are read one after the other, and each is handed to an answer.

It takes its bytes into a buffer of our size, so that a slow reader of requests is slow in small bites and still notices
who leaves, and hears at once when the other side closes, even in the middle of a silence. That moment, and every other,
goes into the attempt log.

A healthy answer that needs no pause is written in the callback that completed the request; every other one is a task.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from proxy.demo import shapes
from proxy.demo.answer import DATE, HEALTHY, JSON, Answer, phrase, response_head
from proxy.demo.asked import Asked
from proxy.demo.request import HEAD_BYTES_MAX, BadRequest, Request, read_head
from proxy.demo.script import BODY_KEPT_MAX, Attempt, Fault

if TYPE_CHECKING:
    from proxy.demo.provider import FakeProvider

READ_BYTES: Final = 1 << 18
"""Bytes taken at once."""
_FIRST_BYTES: Final = 1 << 14
"""The same while no head is known, so that little of a body comes before we know how slowly to read it."""


class Connection(asyncio.BufferedProtocol):
    """Reads requests, one after the other, and hands each to an answer. Every callback is short and synchronous."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.transport: asyncio.Transport
        self.attempt: Attempt | None = None
        self.is_gone = False
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._buffer = bytearray()
        self._request: Request | None = None
        self._requests = 0
        self._is_answering = False
        self._is_deaf = False
        self._peer_left_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._may_write: asyncio.Future[None] | None = None
        self.words = 0
        """Content events written for the running attempt."""

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are transports by shape, not by class
        self._number = self.provider.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        request = self._request
        if request is not None and request.bytes_per_s:
            return self.provider.read_buffer[: max(1, min(READ_BYTES, request.bytes_per_s // 20))]
        return self.provider.read_buffer if request is not None else self.provider.read_buffer[:_FIRST_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_deaf:
            return
        self._buffer += self.provider.read_buffer[:nbytes]
        if self._request is not None and self._request.bytes_per_s and not self._is_answering:
            self.transport.pause_reading()
            self._timer = self._loop.call_later(nbytes / self._request.bytes_per_s, self._read_on)
        if self._is_answering and len(self._buffer) > HEAD_BYTES_MAX:
            self.close()  # nobody pipelines that much
        self._advance()

    def eof_received(self) -> None:
        self._peer_left("peer_closed")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._peer_left("peer_reset")
        self.is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self.end("closed")
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        self.provider.closed(self)

    def pause_writing(self) -> None:
        self._may_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._may_write is not None and not self._may_write.done():
            self._may_write.set_result(None)
        self._may_write = None

    # reading

    def _read_on(self) -> None:
        if not self.is_gone:
            self.transport.resume_reading()

    def _advance(self) -> None:
        """Go on with what the buffer holds: a head, a body, the next request; stops while an answer is under way."""
        try:
            while not self._is_answering and not self._is_deaf and not self.is_gone:
                if self._request is None:
                    end = self._buffer.find(b"\r\n\r\n")
                    if end < 0:
                        if len(self._buffer) > HEAD_BYTES_MAX:
                            self.attempt = None
                            raise BadRequest(431, "head too large")
                        return
                    head = bytes(self._buffer[:end])
                    del self._buffer[: end + 4]
                    self._on_head(head)
                elif self._request.take(self._buffer, self.provider.body_bytes_max):
                    self._on_body(self._request)
                else:
                    return
        except BadRequest as error:
            self._refuse(error)

    def _on_head(self, head: bytes) -> None:
        self.attempt = None
        self.words = 0
        self._request = request = read_head(head)
        if request.path.startswith("/_demo/"):
            return
        provider = self.provider
        attempt = self._begin(request.method, request.path, request.headers)
        request.early = fault = provider.take_early(attempt)
        if fault is not None and fault.drop_reused:
            self.note(fault=fault)
            self.close(is_reset=fault.drop_reused == "reset")
        elif fault is not None and fault.early_answer:
            self._answer(request, shapes.read(request.path, b"", request.method), fault)
        elif fault is not None:
            request.bytes_per_s = fault.read_bytes_per_s or 0
        if request.expects_100 and not self._is_answering and not self.is_gone:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _on_body(self, request: Request) -> None:
        body = bytes(request.body)
        request.body = bytearray()
        if self.attempt is None:
            self._request = None
            status, answer = self.provider.control(request.method, request.path, body)
            fields = [("content-type", JSON), ("content-length", str(len(answer)))]
            self.transport.write(response_head(f"HTTP/1.1 {status} {phrase(status)}", fields) + answer)
            return
        asked = shapes.read(request.path, body, request.method)
        provider = self.provider
        if provider.keep_log or not provider.is_healthy:
            self.note(
                body=body if len(body) <= BODY_KEPT_MAX else b"",
                body_bytes=len(body),
                body_at=self._loop.time(),
                sha256=shapes.sha256(body) if provider.keep_log else "",
                model=asked.model,
            )
        fault = request.early or provider.take(self.attempt, asked, len(body))
        if asked.api == "echo":
            request.echo = shapes.echo(request.method, request.path, request.headers, body)
        self._answer(request, asked, fault)

    def _refuse(self, error: BadRequest) -> None:
        """Answer what cannot be read, and close."""
        if self.attempt is None:
            self._begin("", "", ())
        body = orjson.dumps({"error": {"message": str(error), "type": "bad_request"}})
        fields = [("content-type", JSON), ("content-length", str(len(body))), ("connection", "close")]
        self.note(status=error.status)
        self.write(response_head(f"HTTP/1.1 {error.status} {phrase(error.status)}", fields) + body)
        self.end("bad_request")
        self.hang_up()

    def _begin(self, method: str, path: str, headers: tuple[tuple[str, str], ...]) -> Attempt:
        """Open the record of an attempt whose head has come."""
        provider = self.provider
        provider.attempts_total += 1
        provider.connections_in_use += 1
        self.attempt = attempt = Attempt(
            n=provider.attempts_total,
            at=self._loop.time(),
            method=method,
            path=path,
            headers=headers,
            connection=self._number,
            reused=self._requests > 0,
        )
        self._requests += 1
        provider.note(attempt)
        return attempt

    # answering

    def _answer(self, request: Request, asked: Asked, fault: Fault | None) -> None:
        provider = self.provider
        is_stream = asked.stream and asked.api in shapes.STREAM_APIS
        is_plain = fault is None and request.echo is None and not request.wants_close and request.method != "HEAD"
        if is_plain and (not is_stream or (provider.burst and not provider.pause_s)):
            self._answer_at_once(provider.healthy(asked, is_stream=is_stream), words=60 if is_stream else 1)
            return
        self._is_answering = True
        answer = Answer(self, request, asked, fault or HEALTHY)
        if fault is not None:
            self.note(fault=fault)
        self._task = provider.begin(answer)
        self._task.add_done_callback(self._answered)

    def _answer_at_once(self, template: bytes, words: int) -> None:
        assert self.attempt is not None
        if self.provider.keep_log:
            self.words = words
            now = self._loop.time()
            self.note(status=200, first_byte_at=now, first_word_at=now)
        self.transport.write(shapes.stamp(template, self.attempt.n).replace(DATE, self.provider.date_line(), 1))
        self._request = None
        self.end("complete")

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._is_answering = False
        self._request = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.provider.crashed(error)
            self.close(is_reset=True)
        if not self.is_gone:
            self._advance()

    def note(self, **changes: Any) -> None:
        """Change the record of the running attempt."""
        if self.attempt is not None:
            self.attempt = replace(self.attempt, **changes)
            self.provider.note(self.attempt)

    def end(self, how: str) -> None:
        """End the running attempt, once; later calls do nothing."""
        attempt = self.attempt
        if attempt is None or attempt.ended:
            return
        self.provider.connections_in_use -= 1
        if self.provider.keep_log:
            left_at = self._peer_left_at
            self.note(ended=how, ended_at=left_at or self._loop.time(), peer_closed_at=left_at, words=self.words)
        else:
            self.attempt = None
            self.provider.changed()

    def _peer_left(self, how: str) -> None:
        """The other side closed or reset: note when, and stop whatever was going on."""
        if self._peer_left_at is None:
            self._peer_left_at = self._loop.time()
            if self.attempt is not None and self.attempt.ended:
                self.note(peer_closed_at=self._peer_left_at)
        self.end(how)
        if self._task is not None:
            self._task.cancel()

    # writing

    @property
    def peer_left_at(self) -> float | None:
        return self._peer_left_at

    def write(self, data: bytes) -> None:
        """Write if there is still somebody; never waits."""
        if not self.is_gone:
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the other side has taken enough of what was written."""
        while self._may_write is not None:
            await self._may_write

    async def flushed(self) -> None:
        """Wait until everything written is with the kernel."""
        self.transport.set_write_buffer_limits(high=1, low=0)  # with 0, TLS counts an empty buffer as too full
        await self.drained()

    def close(self, *, is_reset: bool = False) -> None:
        """End the connection as a fault: orderly (FIN), or with a reset, which discards what was not read yet."""
        self.end("reset" if is_reset else "closed")
        self._is_deaf = True
        self._buffer.clear()
        if is_reset and not self.is_gone:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.is_gone = True
            self.transport.abort()
        else:
            self.hang_up()

    def hang_up(self) -> None:
        """Close after what was written, and listen to nothing more."""
        self._is_deaf = True
        if not self.is_gone:
            self.transport.close()

    def half_close(self) -> None:
        """Send our end and go on reading, to throw it away, until the other side has ended too."""
        self._is_deaf = True
        self._buffer.clear()
        if self.is_gone:
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS cannot half-close

    def close_later(self, after_s: float) -> None:
        """Close the idle connection unannounced after `after_s` seconds, unless a request comes before."""
        requests = self._requests

        def close() -> None:
            if not self.is_gone and self._requests == requests:
                self.transport.close()

        self._timer = self._loop.call_later(after_s, close)

    def stop(self) -> asyncio.Task[None] | None:
        """The provider stops: abort; returns the task to wait for."""
        self.end("stopped")
        if not self.is_gone:
            self.is_gone = True
            self.transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task
