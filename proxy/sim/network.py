"""The network between callers, the proxy and the providers, and its weather.

A `Spell` is bad weather for one host over a time: longer ways, loss, a partition, refused or unanswered connects, a
name that does not resolve, resets. TCP hides loss and partitions as delay, so that is what they are here. Delays are
whole milliseconds: many things then happen at the same moment, which is where races live.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from proxy.sim.loop import VirtualLoop
from proxy.sim.sockets import VirtualSocket
from proxy.sim.transport import End

RETRANSMIT_S: Final = 0.2
"""What a lost segment costs: the least retransmission timeout of Linux."""
SLICE_BYTES: Final = 7
EPHEMERAL: Final = 40_000
LOST_MAX: Final = 16
"""Losses in a row after which a segment passes all the same."""

Kind = Literal["slow", "loss", "partition", "refuse", "blackhole", "dns_fail", "dns_hang", "reset", "slice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """Bad weather on the way to and from `host`, from `begin` to `end` (virtual seconds since the start)."""

    kind: Kind
    host: str
    begin: float
    end: float
    amount: float = 0.0
    """`slow`: seconds added to each way; `loss`: share of segments lost. Else unused."""


class Server:
    """A listening socket, as far as those who listen know `asyncio.Server`."""

    def __init__(self, network: Network, factory: Callable[[], Any], sock: VirtualSocket) -> None:
        self._network = network
        self.factory = factory
        self.sockets = (sock,)

    def close(self) -> None:
        self._network.unlisten(self)

    async def wait_closed(self) -> None:
        """Closed is closed."""


class Network:
    """All hosts, all connections. `ways` are one-way delays in seconds (least, most) by host name."""

    def __init__(
        self,
        loop: VirtualLoop,
        dice: Random,
        ways: dict[str, tuple[float, float]],
        note: Callable[[str, str], None],
        spells: Iterable[Spell] = (),
    ) -> None:
        self.loop = loop
        self.note = note
        self.socket: type[VirtualSocket] = type("socket", (VirtualSocket,), {"network": self})
        """What `socket.socket` means in this world."""
        loop.network = self
        self._dice = dice
        self._ways = ways
        self._began = loop.time()
        self._hosts = {name: f"10.0.0.{n}" for n, name in enumerate(ways, 1)}
        self._names = {address: name for name, address in self._hosts.items()}
        self._servers: dict[tuple[str, int], Server] = {}
        self._ports = EPHEMERAL
        self._open: dict[End, str] = {}
        self._weather: dict[str, list[Spell]] = {}
        self._resets: list[asyncio.TimerHandle] = []
        for spell in spells:
            self._weather.setdefault(spell.host, []).append(spell)
            if spell.kind == "reset":
                self._resets.append(loop.call_at(self._began + spell.begin, self._reset_all, spell.host))

    # Weather ----------------------------------------------------------------------------------------------------------

    def _spells(self, host: str, *kinds: str) -> Iterator[Spell]:
        spells = self._weather.get(host)
        if spells:
            age = self.loop.time() - self._began
            for spell in spells:
                if spell.begin <= age < spell.end and spell.kind in kinds:
                    yield spell

    def _way_s(self, host: str) -> float:
        """One way, in whole milliseconds."""
        least, most = self._ways[host]
        way = least + (most - least) * self._dice.random()
        for spell in self._spells(host, "slow", "loss"):
            if spell.kind == "slow":
                way += spell.amount
            else:
                lost = 0
                while self._dice.random() < spell.amount and lost < LOST_MAX:
                    lost += 1
                way += RETRANSMIT_S * lost
        return round(way, 3)

    def arrival(self, host: str) -> float:
        """When what is sent now is there."""
        at = self.loop.time() + self._way_s(host)
        for spell in self._spells(host, "partition"):
            at = max(at, self._began + spell.end + RETRANSMIT_S)
        return at

    def sliced(self, host: str, data: bytes) -> list[bytes]:
        """The segments in which `data` travels."""
        if len(data) > SLICE_BYTES and len(data) < 4096 and any(self._spells(host, "slice")):
            return [data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES)]
        return [data]

    def clear_up(self) -> None:
        """No reset that is still to come will come."""
        for timer in self._resets:
            timer.cancel()

    def _reset_all(self, host: str) -> None:
        for end in [end for end, name in self._open.items() if name == host]:
            end.reset()

    # Names ------------------------------------------------------------------------------------------------------------

    def look_up_later(self, work: Callable[[], None], host: str) -> None:
        """Run a look-up of `host` when the resolver gets to it."""
        delay = 0.002
        for spell in self._spells(host, "dns_hang"):
            delay = max(delay, self._began + spell.end - self.loop.time())
        self.loop.call_later(delay, work)

    def lookup(self, host: str, port: int) -> list[Any]:
        """Address infos, as the system's resolver gives them."""
        if host not in self._hosts or any(self._spells(host, "dns_fail")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (self._hosts[host], port))]

    # Listening --------------------------------------------------------------------------------------------------------

    def bound(self, address: Any) -> tuple[str, int]:
        """The name of a socket that is bound to `address`; port 0 takes a free one."""
        host, port = address[0], address[1]
        if not port:
            self._ports += 1
            port = self._ports
        if (host, port) in self._servers:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return host, port

    def listen(self, factory: Callable[[], Any], sock: VirtualSocket) -> Server:
        server = self._servers[sock.getsockname()] = Server(self, factory, sock)
        return server

    def unlisten(self, server: Server) -> None:
        if self.is_listening(server):
            del self._servers[server.sockets[0].getsockname()]

    def is_listening(self, server: Server) -> bool:
        return self._servers.get(server.sockets[0].getsockname()) is server

    def serve(self, host: str, port: int, factory: Callable[[], Any]) -> Server:
        """Listen at a named host of this network."""
        sock = self.socket()
        sock.bind((self._hosts[host], port))
        return self.listen(factory, sock)

    # Connecting -------------------------------------------------------------------------------------------------------

    async def connect(self, sock: VirtualSocket, address: Any, via: str = "") -> None:
        """Connect `sock`. `via`: the host whose weather rules the way where it is not the listener's (a caller)."""
        host = via or self._names.get(address[0], "")
        began = self.loop.time()
        await asyncio.sleep(2 * self._way_s(host))
        while any(self._spells(host, "blackhole", "partition")):
            ends = max(spell.end for spell in self._spells(host, "blackhole", "partition"))
            await asyncio.sleep(self._began + ends - self.loop.time() + RETRANSMIT_S)
        server = self._servers.get((address[0], address[1]))
        if server is None or any(self._spells(host, "refuse")):
            self.note(f"{host} refused", f"{began:.3f}")
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        self._ports += 1
        mine, theirs = self._pair(host, f"{host}#{self._ports}")
        name = ("10.0.1.1", self._ports)
        sock.connected(mine, name, address)
        accepted = type(sock)()
        accepted.connected(theirs, address, name)
        theirs.begin(server.factory())

    def _pair(self, host: str, name: str) -> tuple[End, End]:
        mine, theirs = End(self, host, f"{name}<"), End(self, host, f"{name}>")
        mine.peer, theirs.peer = theirs, mine
        self._open[mine] = self._open[theirs] = host
        return mine, theirs

    def lost(self, end: End) -> None:
        """An end is closed."""
        self._open.pop(end, None)

    @property
    def open_ends(self) -> list[str]:
        """Hosts of the ends that are open."""
        return sorted(self._open.values())
