"""The pool of one provider over real loopback sockets: reuse, age, close, cancellation without a leak; and look-ups."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.upstream import connector as module
from proxy.upstream.connector import (
    DNS_TTL_S,
    IDLE_MAX,
    KEEPALIVE_S,
    AddrInfo,
    Connector,
    Origin,
    Resolver,
    tls_context,
)
from proxy.upstream.wire import Wire
from tests.unit.upstream.faketransport import Told


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeResolver(Resolver):
    """Knows one port of the loopback interface; `gate` holds the look-up back."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.gate: asyncio.Event | None = None
        self.forgotten = 0
        self.waiting = asyncio.Event()

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        self.waiting.set()
        if self.gate is not None:
            await self.gate.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", self.port))]

    def forget(self, host: str, port: int) -> None:
        self.forgotten += 1


class Server:
    """Counts connections and answers every byte that comes with `answer`."""

    def __init__(self) -> None:
        self.open: set[asyncio.StreamWriter] = set()
        self.total = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self._changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        self.total += 1
        await self._tell()
        try:
            while await reader.read(65_536):
                writer.write(self.answer)
        except ConnectionError:
            pass
        finally:
            self.open.discard(writer)
            writer.close()
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(condition)


class Stage:
    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.clock = Clock()
        self.resolver = FakeResolver(port)
        self.connector = self.make("http")

    def make(self, scheme: str, tls: ssl.SSLContext | None = None) -> Connector:
        origin = Origin.parse(f"{scheme}://provider.test:{self.resolver.port}")
        return Connector(origin, self.resolver, self.clock, tls)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    server = Server()
    bound = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    made = Stage(server, bound.sockets[0].getsockname()[1])
    yield made
    made.connector.close()
    await server.until(lambda: not server.open)
    bound.close()


class Waiter(Told):
    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    def on_end(self) -> None:
        super().on_end()
        self.over.set()

    def on_fault(self, fault: str, detail: str) -> None:
        super().on_fault(fault, detail)
        self.over.set()


async def exchange(wire: Wire) -> Waiter:
    told = Waiter()
    wire.send(told, b"GET / HTTP/1.1\r\n\r\n", b"")
    async with asyncio.timeout(5):
        await told.over.wait()
    return told


async def test_a_connection_is_reused_and_counted(stage: Stage) -> None:
    connector = stage.connector
    assert connector.acquire() is None
    wire = await connector.open()
    assert (connector.busy, connector.idle, wire.reused) == (1, 0, False)
    assert (await exchange(wire)).body == b"ok"
    connector.give_back(wire)
    assert (connector.busy, connector.idle) == (0, 1)
    again = connector.acquire()
    assert again is wire
    assert again.reused
    assert (await exchange(again)).body == b"ok"
    assert (connector.opened, connector.reused, stage.server.total) == (1, 1, 1)
    connector.give_back(again)


async def test_the_most_recently_used_connection_comes_first(stage: Stage) -> None:
    wires = [await stage.connector.open() for _ in range(3)]
    for wire in wires:
        stage.connector.give_back(wire)
    assert stage.connector.acquire() is wires[-1]
    stage.connector.give_back(wires[-1])


async def test_a_connection_that_was_idle_too_long_is_closed_and_not_used(stage: Stage) -> None:
    stage.connector.give_back(await stage.connector.open())
    stage.clock.now += KEEPALIVE_S
    assert stage.connector.acquire() is None
    assert stage.connector.idle == 0
    await stage.server.until(lambda: stage.server.total == 1 and not stage.server.open)


async def test_sweep_closes_the_old_and_keeps_the_young(stage: Stage) -> None:
    old, young = await stage.connector.open(), await stage.connector.open()
    stage.connector.give_back(old)
    stage.clock.now += KEEPALIVE_S - 1
    stage.connector.give_back(young)
    stage.clock.now += 1
    stage.connector.sweep()
    assert stage.connector.idle == 1
    assert stage.connector.acquire() is young
    stage.connector.give_back(young)


async def test_a_clock_that_jumps_back_breaks_nothing(stage: Stage) -> None:
    stage.connector.give_back(await stage.connector.open())
    stage.clock.now -= 1_000
    stage.connector.sweep()
    wire = stage.connector.acquire()
    assert wire is not None
    stage.connector.give_back(wire)


async def test_a_connection_closed_by_the_provider_while_idle_is_forgotten(stage: Stage) -> None:
    wire = await stage.connector.open()
    await stage.server.until(lambda: len(stage.server.open) == 1)
    gone = asyncio.Event()
    stage.connector.give_back(wire)
    forget = wire.on_gone
    wire.on_gone = lambda w: (forget(w), gone.set())
    next(iter(stage.server.open)).close()
    async with asyncio.timeout(5):
        await gone.wait()
    assert stage.connector.idle == 0
    assert stage.connector.acquire() is None


async def test_unexpected_bytes_while_idle_cost_the_connection(stage: Stage) -> None:
    wire = await stage.connector.open()
    await stage.server.until(lambda: len(stage.server.open) == 1)
    gone = asyncio.Event()
    stage.connector.give_back(wire)
    forget = wire.on_gone
    wire.on_gone = lambda w: (forget(w), gone.set())
    next(iter(stage.server.open)).write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with asyncio.timeout(5):
        await gone.wait()
    assert stage.connector.idle == 0
    assert not wire.usable


async def test_the_pool_is_bounded(stage: Stage) -> None:
    wires = [await stage.connector.open() for _ in range(IDLE_MAX + 3)]
    for wire in wires:
        stage.connector.give_back(wire)
    assert (stage.connector.idle, stage.connector.busy) == (IDLE_MAX, 0)
    await stage.server.until(lambda: len(stage.server.open) == IDLE_MAX)


async def test_a_cut_exchange_costs_the_connection(stage: Stage) -> None:
    wire = await stage.connector.open()
    stage.connector.discard(wire)
    assert (stage.connector.idle, stage.connector.busy) == (0, 0)
    await stage.server.until(lambda: stage.server.total == 1 and not stage.server.open)


async def test_close_ends_idle_and_busy_connections_and_takes_none_back(stage: Stage) -> None:
    idle, busy = await stage.connector.open(), await stage.connector.open()
    stage.connector.give_back(idle)
    stage.connector.close()
    stage.connector.give_back(busy)
    assert stage.connector.idle == 0
    await stage.server.until(lambda: stage.server.total == 2 and not stage.server.open)


async def test_a_refused_connection_forgets_the_address(stage: Stage) -> None:
    stage.resolver.port = 1
    with pytest.raises(ConnectionRefusedError):
        await stage.connector.open()
    assert stage.resolver.forgotten == 1
    assert stage.connector.busy == 0


async def test_cancelled_during_the_look_up_leaves_nothing(stage: Stage) -> None:
    stage.resolver.gate = asyncio.Event()
    opening = asyncio.create_task(stage.connector.open())
    await stage.resolver.waiting.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (stage.connector.busy, stage.connector.opened, stage.server.total) == (0, 0, 0)


async def test_cancelled_during_the_handshake_leaves_nothing(stage: Stage) -> None:
    stage.server.answer = b""  # takes the TLS hello and stays silent
    connector = stage.make("https", tls_context(verify=False))
    opening = asyncio.create_task(connector.open())
    await stage.server.until(lambda: stage.server.total == 1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (connector.busy, connector.opened) == (0, 0)
    await stage.server.until(lambda: not stage.server.open)


async def test_cancelled_at_every_step_leaves_nothing(stage: Stage) -> None:
    for steps in range(12):
        opening = asyncio.create_task(stage.connector.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        if opening.cancel():
            with pytest.raises(asyncio.CancelledError):
                await opening
        else:
            stage.connector.discard(await opening)
        assert stage.connector.busy == 0
    await stage.server.until(lambda: not stage.server.open)


async def test_a_server_that_speaks_no_tls_is_a_tls_error(stage: Stage) -> None:
    connector = stage.make("https", tls_context(verify=False))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connector.open()
    assert connector.busy == 0


# Look-ups -------------------------------------------------------------------------------------------------------------


class Lookups:
    """Stands for the system's resolver: counts, waits for `go`, fails when told."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = threading.Event()
        self.go.set()
        self.fail = False

    def __call__(self, host: str, port: int) -> list[AddrInfo]:
        self.calls += 1
        assert self.go.wait(5)
        if self.fail:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    made = Lookups()
    monkeypatch.setattr(module, "_lookup", made)
    return made


async def test_addresses_are_kept_for_a_while(lookups: Lookups) -> None:
    clock = Clock()
    resolver = Resolver(clock)
    await resolver.resolve("a.test", 1)
    clock.now += DNS_TTL_S - 1
    await resolver.resolve("a.test", 1)
    assert lookups.calls == 1
    clock.now += 2
    await resolver.resolve("a.test", 1)
    assert lookups.calls == 2
    resolver.forget("a.test", 1)
    await resolver.resolve("a.test", 1)
    assert lookups.calls == 3
    resolver.close()


async def test_failures_are_not_kept(lookups: Lookups) -> None:
    resolver = Resolver(Clock())
    lookups.fail = True
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a.test", 1)
    lookups.fail = False
    assert await resolver.resolve("a.test", 1)
    resolver.close()


async def test_one_look_up_serves_all_who_wait_and_survives_one_who_leaves(lookups: Lookups) -> None:
    resolver = Resolver(Clock())
    lookups.go.clear()
    waiting = [asyncio.create_task(resolver.resolve("a.test", 1)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    lookups.go.set()
    async with asyncio.timeout(5):
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(isinstance(infos, list) for infos in done[1:])
    assert lookups.calls == 1
    resolver.close()


async def test_a_name_that_hangs_holds_up_no_other(lookups: Lookups, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()

    def lookup(host: str, port: int) -> list[AddrInfo]:
        if host == "slow.test":
            assert hold.wait(5)
        return lookups(host, port)

    monkeypatch.setattr(module, "_lookup", lookup)
    resolver = Resolver(Clock())
    slow = [asyncio.create_task(resolver.resolve("slow.test", 1)) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        assert await resolver.resolve("quick.test", 1)
    assert not any(task.done() for task in slow)
    hold.set()
    await asyncio.gather(*slow)
    resolver.close()
