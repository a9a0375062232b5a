"""An attempt to which something happens on purpose (`policy/chaos` says what).

It stands in the place of the `Call` and differs in three moments: before anything is sent, when the head has come, when
the first content has come. To the request it looks as the same fault of a provider would: the clocks run through a
silence and may end the attempt, an injected status is read like a real one, a broken connection is a broken connection.
Nothing of it happens inside the call that starts the attempt, for a real fault never does either.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from proxy.policy.chaos import Fault
from proxy.upstream.call import Call, fault_outcome
from proxy.upstream.wire import FAULT_INCOMPLETE, Headers

MESSAGE: Final = "injected by outrider for a drill"
_HEAD: Final[Headers] = ((b"content-type", b"application/json"), (b"x-should-retry", b"true"))


class FaultyCall(Call):
    """One dial, with a fault."""

    __slots__ = ("_came", "_done", "_ended_early", "_fault", "_handle", "_silent")

    def __init__(self, fault: Fault, *call: Any, **settings: Any) -> None:
        """What follows `fault` is that of `Call`."""
        super().__init__(*call, **settings)
        self._fault = fault
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._silent = False
        """What comes is kept back until the delay is over."""
        self._done = False
        self._came: list[bytes] = []
        self._ended_early = False
        """The answer's end came during the silence."""

    def start(self) -> None:
        if self._fault.after != "start":
            super().start()
            return
        # The silence is one after the request, not one while connecting.
        self.started = self.sent_at = self._clock()
        self._later(self._go)

    def _later(self, then: Any) -> None:
        self._done = True
        loop = asyncio.get_running_loop()
        if self._fault.delay_s > 0.0:
            self._handle = loop.call_later(self._fault.delay_s, then)
        else:
            self._handle = loop.call_soon(then)

    def _go(self) -> None:
        """The silence before the start is over: the real call, or an answer that nobody has given."""
        self._handle = None
        if not self._fault.error:
            began = self.started
            super().start()
            self.started = began
            self._answer.sent()  # the clocks that run now are others than those of the silence
            return
        body = {"error": {"message": MESSAGE, "type": "injected", "param": None, "code": "injected_fault"}}
        self.on_head(self._fault.error, _HEAD)
        if not self.ended:
            super().on_data(orjson.dumps(body))
        if not self.ended:
            super().on_end()

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._came = []
        super()._close()

    # Later on ---------------------------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        super().on_head(status, headers)
        if self._fault.after == "headers" and not self.ended:
            self._fall_silent()

    def on_data(self, data: bytes) -> None:
        if self._silent:
            self._came.append(data)
            return
        super().on_data(data)
        if self._fault.after == "content" and not self._done and self.content_at is not None and not self.ended:
            self._fall_silent()

    def on_chunk(self, data: bytes, begin: int) -> None:
        self.on_data(data[begin:-2])

    def on_end(self) -> None:
        if self._silent:
            self._ended_early = True
        else:
            super().on_end()

    def on_fault(self, fault: str, detail: str) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._silent = False
        super().on_fault(fault, detail)

    def _fall_silent(self) -> None:
        self._silent = True
        if self.wire is not None:
            self.wire.transport.pause_reading()
        self._later(self._speak)

    def resume(self) -> None:
        super().resume()
        if self._silent and self.wire is not None and not self.wire.transport.is_closing():
            self.wire.transport.pause_reading()

    def _speak(self) -> None:
        """The silence is over: the connection breaks, or what came meanwhile is handed on."""
        self._handle = None
        self._silent = False
        if self._fault.error:
            self.fail(fault_outcome(FAULT_INCOMPLETE, MESSAGE, True))
            return
        if self.wire is not None and not self.held and not self.wire.transport.is_closing():
            self.wire.transport.resume_reading()
        came, self._came = self._came, []
        for piece in came:
            if not self.ended:
                super().on_data(piece)
        if self._ended_early and not self.ended:
            super().on_end()
