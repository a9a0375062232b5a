"""One run of one scenario: the real `App` between the callers and the providers, in virtual time.

What comes out is a `Story`: what each caller saw, what each provider was asked, what was noted of the proxy, what was
left when everything was over, and a trace of it all whose bytes are the seed's alone. Nothing is judged here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from proxy.app import App
from proxy.config.compiled import Config
from proxy.config.load import load_text
from proxy.config.planner import Planner
from proxy.engine.plan import Endpoint, Plan
from proxy.observe.logs import Log
from proxy.sim.callers import HOST, MODEL, PATHS, Callers, Seen
from proxy.sim.loop import Stuck, VirtualLoop
from proxy.sim.network import Network, Spell
from proxy.sim.providers import Providers, Served
from proxy.sim.scenario import PROVIDERS, TIMEOUT_S, Reload, Scenario, Stop, Trouble, dice
from proxy.sim.sockets import WALL_START_S, sealed
from proxy.sim.watch import Notes, noting
from proxy.store.schema import prepare
from proxy.store.sqlite import MEMORY, Store, connected
from proxy.upstream.connector import Resolver

CALM_S: Final = 1.0
SETTLE_S: Final = TIMEOUT_S + 15.0
"""After the last answer: every loser that was let run has met its deadline."""
WAYS: Final = {
    HOST: (0.0, 0.001),
    **{f"{name}.sim": (0.001 + 0.004 * n, 0.004 + 0.01 * n) for n, name in enumerate(PROVIDERS)},
}
"""One-way delays in seconds, least and most."""


class Quiet(Log):
    """The log of a world: kept, and written nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, level: str, msg: str, **fields: Any) -> None:
        self.lines.append(f"{level} {msg} {fields}")


class InPlace(Store):
    """The history of a world: the same database in memory, written by whoever asks, since threads are of the real
    world."""

    def __init__(self) -> None:
        super().__init__(MEMORY)
        self._database = connected(MEMORY)
        prepare(self._database)

    def start(self) -> None:
        """There is no thread."""

    def submit(self, act: Callable[..., Any], *value: Any) -> bool:
        """See `Store`."""
        act(self._database, *value)
        return True

    async def write(self, act: Callable[..., Any]) -> Any:
        """See `Store`."""
        return act(self._database)

    async def close(self, timeout_s: float = 2.0) -> None:
        """See `Store`."""
        self._database.close()


@dataclass(slots=True)
class Left:
    """What there is at a moment when nothing should be."""

    tasks: list[str]
    timers: list[str]
    ends: list[str]
    """Hosts of the ends of connections that are open."""
    held: dict[str, float]
    """Whatever is counted and is not 0."""
    pooled: dict[str, int]
    """Idle connections by provider."""


@dataclass(slots=True)
class Story:
    """What happened."""

    scenario: Scenario
    faults: tuple[Trouble, ...]
    began: float
    notes: Notes
    seen: list[Seen] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    turns: dict[int, tuple[int, int]] = field(default_factory=dict)
    calm: Left | None = None
    """When the last caller has its answer."""
    quiet: Left | None = None
    """When all callers have hung up and every deadline is past."""
    gone: Left | None = None
    """When the proxy has closed."""
    complaints: list[str] = field(default_factory=list)
    """Faults that somebody inside reported: the loop, the bus, the fakes, a deadlock."""
    network: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, end, what): every arrival."""
    log: list[str] = field(default_factory=list)
    plans: list[dict[tuple[str, bool], Plan]] = field(default_factory=list)
    """See `_plans`; one for each configuration."""

    def trace(self) -> list[str]:
        """The run as lines, byte for byte the same for the same seed."""
        began = self.began
        lines = [(at, f"{at - began:.6f} {end} {what}") for at, end, what in self.network]
        for step in self.notes.steps:
            told = f"{step.event!r} -> {', '.join(map(repr, step.commands))}"
            lines.append((step.at, f"{step.at - began:.6f} machine {step.machine} {told}"))
        for deed in self.notes.deeds:
            told = f"{deed.what} {deed.amount:g} tokens={deed.tokens:g} running={deed.permits_out} {deed.circuit}"
            lines.append((deed.at, f"{deed.at - began:.6f} {deed.target} {told}"))
        lines += [(at, f"{at - began:.6f} record {record!r}") for _, at, record in self.notes.records]
        return [text for _, text in sorted(lines, key=lambda line: line[0])]

    def digest(self) -> str:
        """Of the trace."""
        return hashlib.sha256("\n".join(self.trace()).encode()).hexdigest()


def run(scenario: Scenario, faults: Iterable[Trouble] | None = None, leave: tuple[int, int] | None = None) -> Story:
    """Run a scenario. `faults`: in the place of its own. `leave`: see `Callers.leave_at_turn`."""
    chosen = scenario.faults if faults is None else tuple(faults)
    loop = VirtualLoop(dice(scenario.seed, "schedule"))
    story = Story(scenario, chosen, loop.time(), Notes(loop.time))

    def note(end: str, what: str) -> None:
        story.network.append((loop.time(), end, what))

    network = Network(loop, dice(scenario.seed, "network"), WAYS, note, _weather(chosen))
    try:
        secret = dice(scenario.seed, "secret")
        with sealed(loop, network, secret), noting(story.notes), _hearing(story.complaints):
            loop.run_until_complete(_live(story, loop, network, leave))
            story.complaints += loop.faults
    except Stuck as stuck:
        story.complaints.append(str(stuck))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return story


class _Ear(logging.Handler):
    """Hears what the door logs of requests that failed inside the proxy."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._heard.append(f"{record.getMessage()}: {type(error).__name__}: {error}")


@contextmanager
def _hearing(heard: list[str]) -> Iterator[None]:
    logger, ear = logging.getLogger("outrider.server"), _Ear(heard)
    propagates = logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.propagate = propagates


def _weather(faults: Iterable[Trouble]) -> list[Spell]:
    """Spells name providers; hosts have a domain."""
    return [
        Spell(
            kind=f.kind, host=f.host if f.host == HOST else f"{f.host}.sim", begin=f.begin, end=f.end, amount=f.amount
        )
        for f in faults
        if isinstance(f, Spell)
    ]


@lru_cache(maxsize=64)
def _config(text: str) -> Config:
    loaded = load_text(text, "scenario", {})
    if loaded.config is None:
        raise ValueError("; ".join(map(str, loaded.errors)))
    return loaded.config


async def _live(story: Story, loop: VirtualLoop, network: Network, leave: tuple[int, int] | None) -> None:
    """The whole life of the proxy, from its start to its last connection."""
    scenario = story.scenario
    log = Quiet()
    app = App(
        _config(scenario.config),
        clock=loop.time,
        wall=lambda: WALL_START_S + loop.time(),
        rng=dice(scenario.seed, "policy").random,
        log=log,
        resolver=Resolver(loop.time, network.lookup, network.look_up_later),
        store=InPlace(),
    )
    story.plans.append(_plans(app.config))
    app.bus.subscribe(story.notes.take)
    await app.start()
    assert app.listeners is not None
    providers = Providers(scenario, story.faults, network)
    callers = Callers(scenario, story.faults, network, ("127.0.0.1", app.listeners.data_port))
    callers.leave_at_turn = leave
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(callers.run())
        for fault in story.faults:
            if isinstance(fault, Stop):
                tasks.create_task(_stop(app, fault.at))
            elif isinstance(fault, Reload):
                tasks.create_task(_reload(app, fault))
                story.plans.append(_plans(_config(fault.config)))
    callers.hang_up()
    network.clear_up()
    await asyncio.sleep(CALM_S)
    story.calm = _left(app, loop, network)
    # Between two ticks of the proxy, which sweep idle connections.
    await asyncio.sleep(SETTLE_S - (loop.time() + SETTLE_S) % 1.0 + 0.5)
    story.quiet = _left(app, loop, network)
    if not app.room.draining:
        await _stop(app, 0.0)
    await asyncio.sleep(1.0)
    story.gone = _left(app, loop, network)
    story.seen, story.turns, story.log = callers.seen, callers.turns, log.lines
    story.served = providers.settle()
    story.complaints += callers.unasked + providers.crashes
    if app.bus.failures:
        story.complaints.append(f"observers failed {app.bus.failures} times: {app.bus.last_failure}")


async def _reload(app: App, fault: Reload) -> None:
    await asyncio.sleep(fault.at)
    config = _config(fault.config)
    app.install(config, Planner(config, b"after the reload"))


async def _stop(app: App, after_s: float) -> None:
    await asyncio.sleep(after_s)
    app.leave()
    await app.close()


def _left(app: App, loop: VirtualLoop, network: Network) -> Left:
    now, me = loop.time(), asyncio.current_task(loop)
    held: dict[str, float] = {"bodies": app.held.held, "requests": app._data.active}
    for state in app.cluster.states():
        view = state.breaker.view(now)
        name = state.target.name
        held |= {
            f"{name} inflight": state.inflight,
            f"{name} permits": state.limiter.inflight,
            f"{name} leases": float(str(view["leases"])),
            f"{name} attempts": float(str(view["in_flight"])),
            f"{name} loosened": float(str(view["overlay_cap_used"])),
        }
    for upstream in app.upstreams.built():
        held[f"{upstream.account.name} busy"] = upstream.connector.busy
    return Left(
        tasks=sorted(getattr(t.get_coro(), "__qualname__", "?") for t in asyncio.all_tasks(loop) if t is not me),
        timers=[f"{at - now:.3f} {name}" for at, name in loop.timers],
        ends=network.open_ends,
        held={name: count for name, count in held.items() if count},
        pooled={upstream.account.name: upstream.connector.idle for upstream in app.upstreams.built()},
    )


def _plans(config: Config) -> dict[tuple[str, bool], Plan]:
    """What requests without headers are planned as, by a planner that has never seen any other: (endpoint, streams)."""
    planner = Planner(config, b"reference")
    return {
        (endpoint.value, stream): planner.plan(
            endpoint=endpoint, path=path, model=MODEL, control=(), stream=stream
        ).plan
        for endpoint, path in ((Endpoint(name), path) for name, path in PATHS.items())
        for stream in (False, True)
    }
