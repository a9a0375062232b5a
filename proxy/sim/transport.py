"""A connection in memory: two ends, and between them one queue of arrivals per direction.

asyncio's timers are in no order when they are due at the same moment, so a timer only says "something has arrived";
what arrives, and in which order, the queue knows (`resilience.md` 5.2). Bytes wait in three places, as in a kernel: in
the sender's buffer while the window is full, on the way, and at the receiver while its protocol has paused reading.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.sim.network import Network
    from proxy.sim.sockets import VirtualSocket

WINDOW_BYTES: Final = 64 * 1024
"""Bytes on the way and unread at the receiver, in one direction: both kernels' buffers."""
READ_BYTES: Final = 64 * 1024
"""Most that one read hands over."""
HIGH_WATER: Final = 64 * 1024
"""asyncio's own default."""
FIN: Final = "fin"
RST: Final = "rst"


class End(asyncio.Transport):
    """One end of a connection, and the transport of its protocol."""

    def __init__(self, network: Network, host: str, name: str) -> None:
        """`host`: whose weather rules the way of what is sent; `name`: of the connection and this direction of it."""
        super().__init__()
        self._network = network
        self._loop = network.loop
        self._host = host
        self._name = name
        self.peer: End = self
        self.socket: VirtualSocket | None = None
        self._protocol: Any = None
        self._is_buffered = False
        # Sending.
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._is_stopped = False
        self._ends_after = False
        self._has_ended = False
        self._under_way = 0
        self._last_arrival = 0.0
        # Receiving.
        self._arrivals: deque[tuple[float, bytes | str]] = deque()
        self._inbox: deque[bytes | str] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_reading = True
        # Life.
        self._is_closing = False
        self.is_gone = False
        """`connection_lost` was told, or is about to be."""

    # Beginning --------------------------------------------------------------------------------------------------------

    def begin(self, protocol: Any) -> None:
        self.set_protocol(protocol)
        self._loop.call_soon(protocol.connection_made, self)
        if self._inbox:
            self._loop.call_soon(self._hand_over)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        sock = self.socket
        if sock is None:
            return default
        if name == "socket":
            return sock
        if name == "peername":
            return sock.getpeername()
        return sock.getsockname() if name == "sockname" else default

    # Sending ----------------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._ends_after or self._is_closing or self.is_gone or not data:
            return
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        self._send()
        if self._unsent_bytes > self._high and not self._is_stopped:
            self._is_stopped = True
            self._protocol.pause_writing()

    def _send(self) -> None:
        """Put on the way what the window lets pass."""
        room = WINDOW_BYTES - self._under_way
        unsent = self._unsent
        while unsent and room > 0:
            piece = unsent.pop(0)
            if len(piece) > room:
                unsent.insert(0, piece[room:])
                piece = piece[:room]
            self._unsent_bytes -= len(piece)
            room -= len(piece)
            self._under_way += len(piece)
            for part in self._network.sliced(self._host, piece):
                self._post(part)
        if unsent:
            return
        if self._is_stopped and self._unsent_bytes <= self._low:
            self._is_stopped = False
            self._protocol.resume_writing()
        if (self._ends_after or self._is_closing) and not self._has_ended:
            self._has_ended = True
            self._post(RST if self._is_closing and self._has_unread else FIN)
            if self._is_closing:
                self._lose(None)

    @property
    def _has_unread(self) -> bool:
        """A kernel that closes with unread bytes says so with a reset."""
        return any(isinstance(what, bytes) for what in self._inbox)

    def _post(self, what: bytes | str) -> None:
        at = max(self._network.arrival(self._host), self._last_arrival)
        self._last_arrival = at
        self.peer.expect(at, what)

    def expect(self, at: float, what: bytes | str) -> None:
        """`what` will be here at `at`, which is not before anything that came earlier."""
        self._arrivals.append((at, what))
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._arrived)

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        if self._unsent_bytes > self._high and not self._is_stopped and not self.is_gone:
            self._is_stopped = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ends_after and not self._is_closing:
            self._ends_after = True
            self._send()

    # Receiving --------------------------------------------------------------------------------------------------------

    def _arrived(self) -> None:
        self._timer = None
        now, arrivals = self._loop.time(), self._arrivals
        while arrivals and arrivals[0][0] <= now:
            what = arrivals.popleft()[1]
            self._network.note(self._name, what if isinstance(what, str) else f"{len(what)}:{zlib.crc32(what):08x}")
            self._take_in(what)
        if arrivals and self._timer is None:
            self._timer = self._loop.call_at(arrivals[0][0], self._arrived)

    def _take_in(self, what: bytes | str) -> None:
        if self.is_gone:
            # A closed socket answers whatever still comes with a reset.
            if isinstance(what, bytes) and not self.peer.is_gone:
                self._post(RST)
            return
        if what is RST:
            self._inbox.clear()
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
            return
        self._inbox.append(what)
        if self._is_reading and self._protocol is not None and len(self._inbox) == 1:
            self._hand_over()

    def _hand_over(self) -> None:
        inbox = self._inbox
        while inbox and self._is_reading and not self.is_gone and not self._is_closing:
            what = inbox.popleft()
            if isinstance(what, str):
                if not self._protocol.eof_received():
                    self.close()
                return
            while inbox and len(what) < READ_BYTES and isinstance(more := inbox[0], bytes):
                what += more  # a read takes all that has come meanwhile
                inbox.popleft()
            self._deliver(what)

    def _deliver(self, data: bytes) -> None:
        if self._is_buffered:
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
        else:
            size = min(READ_BYTES, len(data))
        if size < len(data):
            self._inbox.appendleft(data[size:])
        self.peer.taken(size)
        if self._is_buffered:
            self._protocol.buffer_updated(size)
        else:
            self._protocol.data_received(data[:size])

    def taken(self, size: int) -> None:
        """The other end has read so many bytes of ours: there is room again."""
        self._under_way -= size
        if self._unsent and not self.is_gone:
            self._send()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            if self._inbox:
                self._loop.call_soon(self._hand_over)

    # Ending -----------------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._is_closing or self.is_gone

    def close(self) -> None:
        """Close after what was written."""
        if not self._is_closing and not self.is_gone:
            self._is_closing = True
            self._send()
            if self._has_ended and not self.is_gone:
                self._lose(None)  # our half was closed before

    def abort(self) -> None:
        """Close now: what was not sent is lost. What was not read makes it a reset, as in every kernel."""
        if self.is_gone:
            return
        if self._has_unread or (self.socket is not None and self.socket.is_cutting):
            self._post(RST)
        elif not self._has_ended:
            self._has_ended = True
            self._post(FIN)
        self._lose(None)

    def reset(self) -> None:
        """The network ends the connection: both ends see a reset."""
        if not self.is_gone:
            self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        self.is_gone = self._is_closing = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._inbox.clear()
        self._network.lost(self)
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
