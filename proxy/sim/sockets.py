"""Sockets that lead into the virtual network, and the doors to the real world, which are shut while it runs.

The proxy makes sockets itself (`server.listeners` binds them, happy eyeballs connects them), so the name
`socket.socket` has to mean the virtual kind during a run. The same goes for the wall clock (`Date` headers, ids of the
fake providers) and for the process's secret. Threads and the shared dice are refused: whoever asks for one has left the
simulation, and the run would no longer be the seed's alone.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final

from proxy.sim.loop import Escape, VirtualLoop

if TYPE_CHECKING:
    from proxy.sim.network import Network
    from proxy.sim.transport import End

WALL_START_S: Final = 1_790_000_000.0
"""Unix time at which every world begins."""


class VirtualSocket:
    """As much of a socket as the proxy and aiohttp touch. `network` is set on a subclass made for each run."""

    network: Network

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
        self.family = socket.AF_INET if family == -1 else family
        self.type = type
        self.proto = proto
        self.is_cutting = False
        """SO_LINGER with no time: the close is a reset."""
        self._name: Any = ("0.0.0.0", 0)
        self._peer: Any = None
        self.end: End | None = None
        """Our end of a connection; None while there is none."""

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            on, seconds = struct.unpack("ii", value)
            self.is_cutting = bool(on) and not seconds

    def setblocking(self, flag: bool) -> None:
        """Nothing here blocks."""

    def fileno(self) -> int:
        return -1

    def bind(self, address: Any) -> None:
        self._name = self.network.bound(address)

    def listen(self, backlog: int = 0) -> None:
        """The listener was made by `create_server`; the backlog has no end."""

    def getsockname(self) -> Any:
        return self._name

    def getpeername(self) -> Any:
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self._peer

    def connected(self, end: End, name: Any, peer: Any) -> None:
        """The connection is made."""
        self.end, self._name, self._peer = end, name, peer
        end.socket = self

    def adopt(self, protocol: Any) -> End:
        """Give the connection to `protocol`; its end is the transport."""
        if self.end is None:
            raise OSError(errno.ENOTCONN, "not connected")
        self.end.begin(protocol)
        return self.end

    def close(self) -> None:
        if self.end is not None:
            self.end.abort()


@contextmanager
def sealed(loop: VirtualLoop, network: Network, dice: Random) -> Iterator[None]:
    """Shut the doors for the time of a run."""

    def no_thread(thread: threading.Thread) -> None:
        raise Escape(f"a thread was started: {thread.name}")

    def no_dice() -> float:
        raise Escape("the process's dice were thrown")

    def wall() -> float:
        return WALL_START_S + loop.time()

    def nothing(*_: object) -> None:
        """The collector is the run's own business: what `App` sets is meant for a process."""

    doors: list[tuple[Any, str, Any]] = [
        (socket, "socket", network.socket),
        (time, "time", wall),
        (time, "monotonic", loop.time),
        (os, "urandom", dice.randbytes),
        (random, "random", no_dice),
        (threading.Thread, "start", no_thread),
        (gc, "freeze", nothing),
        (gc, "enable", nothing),
        (gc, "set_threshold", nothing),
    ]
    real = [(owner, name, getattr(owner, name)) for owner, name, _ in doors]
    collecting = gc.isenabled()
    gc.disable()
    for owner, name, door in doors:
        setattr(owner, name, door)
    try:
        yield
    finally:
        for owner, name, door in real:
            setattr(owner, name, door)
        if collecting:
            gc.enable()
