"""Virtual time: an event loop that never waits, because its clock jumps to whatever comes next.

The real `asyncio.BaseEventLoop` runs, with a selector that has no file descriptors: to wait means to move the clock to
the next timer. Two things follow. A run costs only the processor time of what happens in it, and the same events at the
same times come in the same order each time.

asyncio promises the order of `call_soon` and promises nothing about timers that fall due at the same moment, so these,
and only these, are shuffled with the seed's dice (`resilience.md` 5.1, 5.2): code that relies on the order of the heap
shows itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from heapq import heappop
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.sim.network import Network

TURNS_MAX: Final = 20_000
"""Turns of the loop at one moment of time above which nothing moves any more: a livelock (I7)."""
START_S: Final = 1000.0
"""Where the clock begins; not 0, since a time of 0 could pass for "never"."""


class Stuck(RuntimeError):
    """Nothing can ever happen again (deadlock), or the clock no longer moves (livelock)."""


class Escape(RuntimeError):
    """The code under test reached for the real world."""


class _Selector:
    """What `BaseEventLoop` waits with: it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.turn(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` is seconds of virtual time. `network` serves connects and listeners; it is set by the network itself."""

    _scheduled: list[Any]
    _timer_cancelled_count: int
    _ready: Any

    def __init__(self, dice: Random) -> None:
        super().__init__()
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self._now = START_S
        self._dice = dice
        self._idle_turns = 0
        self._at_turn: dict[int, Callable[[], None]] = {}
        self.network: Network | None = None
        self.turns = 0
        """Turns of the loop so far: the steps of the cancellation sweep."""
        self.faults: list[str] = []
        """What reached the loop's exception handler: in a sound program nothing does."""
        self.set_exception_handler(self._note_fault)

    # Time -------------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def on_turn(self, turn: int, act: Callable[[], None]) -> None:
        """Call `act` at this turn of the loop, between two callbacks."""
        self._at_turn[turn] = act

    def turn(self, timeout: float | None) -> None:
        """Before each turn: jump to the next timer if nothing is ready, and take out what is due then."""
        self.turns += 1
        act = self._at_turn.pop(self.turns, None)
        if act is not None:
            self.call_soon(act)
            return
        if timeout is None:
            raise Stuck(f"deadlock: nothing is scheduled at {self._now:.6f}")
        if self._ready:
            self._idle_turns += 1
            if self._idle_turns > TURNS_MAX:
                raise Stuck(f"livelock: the clock stands at {self._now:.6f}")
            return
        self._idle_turns = 0
        scheduled = self._scheduled
        if scheduled and scheduled[0]._when > self._now:
            self._now = scheduled[0]._when
        due = []
        while scheduled and scheduled[0]._when <= self._now:
            handle = heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                due.append(handle)
        if len(due) > 1:
            self._dice.shuffle(due)
        self._ready.extend(due)

    @property
    def timers(self) -> list[tuple[float, str]]:
        """(time, callback) of every timer that is set."""
        return sorted((h._when, getattr(h._callback, "__qualname__", "")) for h in self._scheduled if not h._cancelled)

    # What the base class leaves to its kind ---------------------------------------------------------------------------

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    def _note_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.faults.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    # The network ------------------------------------------------------------------------------------------------------

    def _net(self) -> Network:
        if self.network is None:
            raise Escape("this loop has no network")
        return self.network

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """Addresses to listen on; providers' names are looked up by `Network.lookup`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self._net().connect(sock, address)

    async def create_connection(self, protocol_factory: Callable[[], Any], *_: Any, **given: Any) -> Any:
        """Only over a connected `sock`, and without TLS."""
        if given.get("ssl"):
            raise Escape("there is no TLS in the simulation")
        protocol = protocol_factory()
        transport = given["sock"].adopt(protocol)
        await asyncio.sleep(0)  # until `connection_made` was called
        return transport, protocol

    async def create_server(self, protocol_factory: Callable[[], Any], *_: Any, **given: Any) -> Any:
        return self._net().listen(protocol_factory, given["sock"])

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise Escape(f"a thread was asked for: {func}")
