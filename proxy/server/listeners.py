"""Binding the two ports, and leaving them in good order.

Both families are bound as separate sockets, since a socket on ``::`` made by asyncio is IPv6 only. Either may be
missing altogether: then the other is enough. A port that is taken is never tolerated silently, and the error says what
changes it.

Leaving has two parts. `linger` serves on while readiness is already off: a plain container gets its SIGTERM together
with the app, which still needs it. Nobody tells when the app has gone, and other processes of the pod cannot be seen,
but their connections can: the kernel closes those of a process that ends, and an app that lives and calls models holds
some. Then `drain`: nothing new is accepted, idle connections are closed, every answer says ``Connection: close``, and
what runs has `timeout_s` to end before it is cancelled and told so. The admin port stays until the very end.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from proxy.server.protocol import DataServer

if TYPE_CHECKING:
    from proxy.config.compiled import Listen

BACKLOG: Final = 1024
"""Connections the kernel holds until we accept them; a burst of 1,000 callers must not meet a refused connect."""
ACCEPT_BATCH: Final = 16
"""Connections accepted in one turn of the loop: a burst must not keep `/livez` waiting."""
LINGER_LOOK_S: Final = 0.25
LINGER_LOOK_MIN_S: Final = 0.01
"""How often a lingering process looks whether anybody is connected."""
CANCEL_GRACE_S: Final = 0.5
"""How long cancelled requests have for their last words."""

_BOTH: Final = {"127.0.0.1": "::1", "0.0.0.0": "::"}
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


class BindError(OSError):
    """A port cannot be bound; the text names the flag, the variable and the key that change it."""


class Listeners:
    """The bound sockets of both ports. Made by `open`."""

    def __init__(self, data: DataServer, admin: DataServer) -> None:
        self._data = data
        self._admin = admin
        self._data_sockets: list[asyncio.Server] = []
        self._admin_sockets: list[asyncio.Server] = []
        self.draining = False
        """Readiness is off; set first of all by `drain`."""
        self._leave_now = asyncio.Event()

    @classmethod
    async def open(cls, data: DataServer, admin: DataServer, listen: Listen) -> Listeners:
        """Bind and accept. Raises `BindError`, with nothing left bound. Port 0 takes a free one."""
        self = cls(data, admin)
        try:
            self._admin_sockets = await _bind(admin, listen.admin_host, listen.admin_port, "admin")
            self._data_sockets = await _bind(data, listen.data_host, listen.data_port, "data")
        except BaseException:
            self._close_sockets(self._admin_sockets)
            raise
        return self

    @property
    def data_port(self) -> int:
        return _port(self._data_sockets)

    @property
    def admin_port(self) -> int:
        return _port(self._admin_sockets)

    def hurry(self) -> None:
        """End a running `drain` now (a second signal)."""
        self._leave_now.set()

    async def linger(self, most_s: float, idle_s: float, enough: asyncio.Event) -> None:
        """Serve on, unready, until nobody has been connected for `idle_s`, or `enough` is set; at most for `most_s`."""
        self.draining = True
        data = self._data
        began = now = data.clock()
        while now - began < most_s and not (enough.is_set() or self._leave_now.is_set()):
            quiet_s = 0.0 if data.connection_count else now - max(began, data.left_at)
            if not data.connection_count and quiet_s >= idle_s:
                return
            left_s = min(most_s - (now - began), idle_s - quiet_s, LINGER_LOOK_S)
            await _wait_any((enough, self._leave_now), max(left_s, LINGER_LOOK_MIN_S))
            now = data.clock()

    async def drain(self, timeout_s: float) -> int:
        """Stop the data port as the essay above says; the number of requests that had to be cancelled."""
        self.draining = True
        data = self._data
        data.draining = True
        self._close_sockets(self._data_sockets)
        data.close_idle()
        if data.active and not self._leave_now.is_set():
            data.idle.clear()
            await _wait_any((data.idle, self._leave_now), timeout_s)
        left = data.active
        if left:
            data.idle.clear()
            data.cancel_requests()
            await _wait(data.idle, CANCEL_GRACE_S)
        return left

    async def close(self) -> None:
        """Close what is left of both ports, requests included. Harmless when repeated."""
        self._close_sockets(self._data_sockets)
        self._close_sockets(self._admin_sockets)
        await self._data.shutdown(CANCEL_GRACE_S)
        await self._admin.shutdown(CANCEL_GRACE_S)

    @staticmethod
    def _close_sockets(servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()


def _port(servers: list[asyncio.Server]) -> int:
    return int(servers[0].sockets[0].getsockname()[1])


async def _bind(factory: DataServer, host: str, port: int, name: str) -> list[asyncio.Server]:
    servers: list[asyncio.Server] = []
    missing: OSError | None = None
    for each in (host, _BOTH[host]) if host in _BOTH else (host,):
        try:
            servers.append(await _listen(factory, each, port or (_port(servers) if servers else 0)))
        except OSError as exc:
            if host in _BOTH and exc.errno in _NO_SUCH_ADDRESS:
                missing = exc  # the machine lacks this family; the other one may do
                continue
            for server in servers:
                server.close()
            raise BindError(exc.errno or 0, _advice(exc, each, port, name)) from exc
    if not servers and missing is not None:
        raise BindError(missing.errno or 0, _advice(missing, host, port, name)) from missing
    return servers


async def _listen(factory: DataServer, host: str, port: int) -> asyncio.Server:
    """One listening socket. A name that resolves to several addresses gives the first."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # asyncio takes this number for the queue and also for how many it accepts in one turn of the loop.
        server = await loop.create_server(factory, sock=sock, backlog=ACCEPT_BATCH)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return server


def _advice(exc: OSError, host: str, port: int, name: str) -> str:
    why = "is taken by another process" if exc.errno == errno.EADDRINUSE else f"cannot be bound: {exc.strerror or exc}"
    key = "port" if exc.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
    return (
        f"the {name} port {port} on {host} {why}; change it with --listen-{name}-{key}, "
        f"OUTRIDER_LISTEN_{name.upper()}_{key.upper()} or listen.{name}.{key}"
    )


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    await _wait_any((event,), timeout_s)


async def _wait_any(events: tuple[asyncio.Event, ...], timeout_s: float) -> None:
    """Until one of the events is set or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
