"""The seeded world: what holds in it for every seed, and what makes it a world that can be believed."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxy.sim.loop import Escape, Stuck, VirtualLoop
from proxy.sim.network import Network, Spell
from proxy.sim.scenario import Act, dice, draw
from proxy.sim.seeds import failures, shrink
from proxy.sim.shrink import shrunk
from proxy.sim.sockets import VirtualSocket, sealed
from proxy.sim.world import run

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 30
"""Seeds of one test, so that two workers share them evenly."""


def clean(first: int, count: int) -> None:
    found = [str(failure) for failure in failures(range(first, first + count))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("first", range(0, 300, CHUNK))
def test_nothing_is_violated(first: int) -> None:
    """300 seeds of 40 faulted requests; those of the torture are others."""
    clean(first, CHUNK)


@pytest.mark.torture
@pytest.mark.parametrize("first", range(1000, 11_000, 100))
def test_nothing_is_violated_in_ten_thousand_worlds(first: int) -> None:
    """10,000 seeds x 40 faulted requests (0.3 s of processor time a seed)."""
    clean(first, 100)


# Same seed, same world -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_trace_to_the_byte() -> None:
    first, second = run(draw(11)), run(draw(11))
    assert first.trace() == second.trace()
    assert len(first.trace()) > 500
    assert first.digest() != run(draw(12)).digest()


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    code = "from proxy.sim.scenario import draw\nfrom proxy.sim.world import run\n"
    code += "print([run(draw(seed)).digest() for seed in (3, 29, 46)])"
    found = set()
    for seed in ("0", "1", "12345"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True).stdout
        )
    assert len(found) == 1


def test_leaving_out_a_fault_moves_no_other_choice() -> None:
    """What attempts go like and how much they say stay as they were, whoever else is left in peace."""
    scenario = draw(6)
    kept_faults = [fault for i, fault in enumerate(scenario.faults) if i % 5]
    whole, half = run(scenario), run(scenario, kept_faults)
    kept = {(act.n, act.k): act.keys for act in kept_faults if isinstance(act, Act)}
    first = {(each.n, each.k, each.provider, each.keys): len(each.words) for each in whole.served}
    second = {(each.n, each.k, each.provider, each.keys): len(each.words) for each in half.served}
    both = first.keys() & second.keys()
    assert len(both) > 10
    assert [first[key] for key in both] == [second[key] for key in both]
    assert all(each.keys == kept[each.n, each.k] for each in half.served if (each.n, each.k) in kept)


# A failing seed -------------------------------------------------------------------------------------------------------


def test_faults_shrink_to_those_that_are_needed() -> None:
    assert shrunk(range(40), lambda kept: {7, 31} <= set(kept)) == [7, 31]
    assert shrunk(range(40), lambda kept: 39 in kept) == [39]
    assert shrunk(range(40), lambda kept: True) == []
    assert shrunk([1, 2], lambda kept: len(kept) == 2) == [1, 2]


def test_a_failing_world_shrinks_and_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.dispatch.drive import Drive

    monkeypatch.setattr(Drive, "_error_event", lambda self, *_: b"")
    failure = next(failures(range(100)))
    assert f"make sim SEED={failure.seed}" in str(failure)
    story = run(draw(failure.seed))
    needed = shrink(story, failure.violations)
    assert 0 < len(needed) <= 3 < len(story.faults)


def test_a_seed_is_replayed_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.simulation.replay_seed", "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run(draw(11)).digest() in done.stdout
    assert "nothing is violated" in done.stdout
    assert "Dial(attempt=0" in done.stdout


# Time and network -----------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> VirtualLoop:
    made = VirtualLoop(random.Random(1))
    yield made
    made.close()


def network(loop: VirtualLoop, *spells: Spell, ways: tuple[float, float] = (0.01, 0.05)) -> Network:
    return Network(loop, random.Random(2), {"host": ways}, lambda end, what: None, spells)


async def connected(net: Network, client: asyncio.Protocol, server: asyncio.Protocol) -> asyncio.Transport:
    net.serve("host", 80, lambda: server)
    sock = net.socket()
    await net.loop.sock_connect(sock, ("10.0.0.1", 80))
    transport, _ = await net.loop.create_connection(lambda: client, sock=sock)
    return transport


class Keeper(asyncio.Protocol):
    """Keeps what comes, and how it ended."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.ended: object = "open"
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended = exc


def test_an_hour_costs_nothing(loop: VirtualLoop) -> None:
    began, at = time.monotonic(), loop.time()
    loop.run_until_complete(asyncio.sleep(3600.0))
    assert loop.time() - at == pytest.approx(3600.0)
    assert time.monotonic() - began < 1.0


def test_waiting_for_nothing_is_told_as_a_deadlock(loop: VirtualLoop) -> None:
    with pytest.raises(Stuck, match="deadlock"):
        loop.run_until_complete(loop.create_future())


def test_going_round_in_circles_is_told_as_a_livelock(loop: VirtualLoop) -> None:
    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    with pytest.raises(Stuck, match="livelock"):
        loop.run_until_complete(asyncio.sleep(1.0))


@pytest.mark.parametrize("kind", ["slow", "loss", "slice"])
def test_bytes_arrive_in_order_whatever_the_weather(loop: VirtualLoop, kind: str) -> None:
    spell = Spell(kind=kind, host="host", begin=0.0, end=5.0, amount=0.4)  # type: ignore[arg-type]
    net, client, server = network(loop, spell), Keeper(), Keeper()

    async def talk() -> None:
        transport = await connected(net, client, server)
        for i in range(500):
            transport.write(b"%04d " % i)
            if i % 50 == 0:
                await asyncio.sleep(0.01)
        transport.close()
        await asyncio.sleep(60.0)

    loop.run_until_complete(talk())
    assert b"".join(server.data) == b"".join(b"%04d " % i for i in range(500))
    assert server.ended is None
    assert net.open_ends == []


def test_a_reader_that_pauses_holds_up_the_writer(loop: VirtualLoop) -> None:
    net, client, server = network(loop), Keeper(), Keeper()

    async def talk() -> int:
        transport = await connected(net, client, server)
        await asyncio.sleep(1.0)
        assert server.transport is not None
        server.transport.pause_reading()
        transport.write(b"x" * 300_000)
        await asyncio.sleep(1.0)
        held = transport.get_write_buffer_size()
        assert server.data == []
        server.transport.resume_reading()
        await asyncio.sleep(10.0)
        return held

    assert loop.run_until_complete(talk()) == 300_000 - 64 * 1024
    assert sum(map(len, server.data)) == 300_000


def test_a_close_with_unread_bytes_is_a_reset(loop: VirtualLoop) -> None:
    net, client, server = network(loop), Keeper(), Keeper()

    async def talk() -> None:
        transport = await connected(net, client, server)
        await asyncio.sleep(1.0)
        assert server.transport is not None
        server.transport.pause_reading()
        transport.write(b"question")
        await asyncio.sleep(1.0)
        server.transport.abort()
        await asyncio.sleep(1.0)

    loop.run_until_complete(talk())
    assert isinstance(client.ended, ConnectionResetError)


def test_a_partition_delays_and_loses_nothing(loop: VirtualLoop) -> None:
    net = network(loop, Spell(kind="partition", host="host", begin=1.0, end=4.0))
    client, server = Keeper(), Keeper()

    async def talk() -> float:
        began = loop.time()
        transport = await connected(net, client, server)
        await asyncio.sleep(2.0 - (loop.time() - began))
        transport.write(b"late")
        while not server.data:
            await asyncio.sleep(0.001)
        return loop.time() - began

    assert 4.0 < loop.run_until_complete(talk()) < 4.5


def test_refused_and_unknown_hosts(loop: VirtualLoop) -> None:
    net = network(loop, Spell(kind="dns_fail", host="host", begin=0.0, end=9.0))
    sock = net.socket()
    with pytest.raises(ConnectionRefusedError):
        loop.run_until_complete(net.connect(sock, ("10.0.0.1", 80)))
    with pytest.raises(socket.gaierror):
        net.lookup("host", 80)


def test_the_doors_to_the_real_world_are_shut(loop: VirtualLoop) -> None:
    net = network(loop)
    with sealed(loop, net, dice(1, "secret")):
        secret = os.urandom(8)
        with pytest.raises(Escape):
            threading.Thread(target=print).start()
        with pytest.raises(Escape):
            random.random()
        with pytest.raises(Escape):
            loop.run_in_executor(None, print)
        assert isinstance(socket.socket(), VirtualSocket)
        assert time.time() == time.time()
    with sealed(loop, net, dice(1, "secret")):
        assert os.urandom(8) == secret
    assert not issubclass(socket.socket, VirtualSocket)
