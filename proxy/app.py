"""The composition root: builds every room once and connects them. Read it to see what the program is made of."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from proxy import __version__
from proxy.base.ids import id_maker
from proxy.config.changes import Changes, changes, tokens_in_force, waiting
from proxy.config.compiled import Config
from proxy.config.planner import Planner
from proxy.config.telemetry import Telemetry
from proxy.dispatch import Dispatcher
from proxy.dispatch.room import Room
from proxy.engine.cluster import Cluster, Cooled, Event, Moved
from proxy.eyes import Eyes
from proxy.observe import target_report
from proxy.observe.bus import Bus
from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.observe.redact import redact
from proxy.policy.breaker import State
from proxy.policy.sampler import NeverSampler, Sampler
from proxy.policy.sampler import Settings as Share
from proxy.server import memory
from proxy.server.accounts import accounts_of
from proxy.server.admin import AdminState, build_admin_server
from proxy.server.dashboard import dashboard
from proxy.server.door import HeldBytes, build_data_server
from proxy.server.incident_routes import guard
from proxy.server.listeners import Listeners
from proxy.server.operations import Operations
from proxy.server.reload import NEVER_RELOADED, Reloader, Report, Source, never_changes
from proxy.server.status import PAGES, Front, Status, dialect_of
from proxy.store.sqlite import Store
from proxy.upstream.connector import Resolver
from proxy.upstream.session import Upstreams

if TYPE_CHECKING:
    from prometheus_client.core import Metric


SWEEP_S: Final = 15.0
LAG_DEAD_S: Final = 5.0
LAGS: Final = 60
"""Ticks whose delay is remembered: a minute, longer than any usual scrape interval."""


class App:
    """One running sidecar."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        log: Log | None = None,
        source: Source | None = None,
        resolver: Resolver | None = None,
        store: Store | None = None,
    ) -> None:
        """`source`: where `config` was read from and may be read again; None: it came from no file. `resolver`: who
        looks up the providers' names; None: the system. `store`: of the history; None: as `config` says."""
        self.config = config
        self._bound = config
        self._compared: tuple[Config, Config, Changes] | None = None
        """What the second configuration changes of the first."""
        self._clock = clock
        self._wall = wall
        self._secret = secret = os.urandom(16)
        prefix = secret[:4].hex()
        via = f"outrider-{prefix}"
        self.log = log or Log(config.log_format, config.log_level)
        self.bus = Bus()
        self.metrics = Metrics([route.name for route in config.routes], _model_names(config))
        self.bus.subscribe(self.metrics.take)
        self.bus.subscribe(self.log.take)
        self.bus.subscribe(self._note)
        self.cluster = Cluster(rng, self._tell, config.limits.max_targets)
        self.eyes = Eyes(
            config,
            self.bus,
            self.cluster,
            upstreams=lambda: self.upstreams,
            clock=clock,
            wall=wall,
            rng=rng,
            log=self.log,
            metrics=self.metrics,
            run=prefix,
            store=store,
        )
        self.upstreams = Upstreams(accounts_of(config, wall, self._identity_failed), clock, wall, resolver)
        self.planner = Planner(config, secret)
        self.operations = Operations(
            config,
            self.cluster,
            clock=clock,
            wall=wall,
            log=self.log,
            metrics=self.metrics,
            publish=self.bus.publish,
        )
        self.eyes.history.windows = self.operations.windows
        self.room = Room(
            cluster=self.cluster,
            upstreams=self.upstreams,
            clock=clock,
            wall=wall,
            rng=rng,
            observe=self.bus.publish,
            via=f"Via: 1.1 {via}\r\n".encode(),
            rollout=self.operations.rollout,
            drills=self.operations.drills,
            injected=self.operations.injected,
            sampler=_sampler(config.telemetry, config.telemetry.sample),
        )
        self.dispatcher = Dispatcher(config, self.planner, self.room, secret, via, self._refused)
        self._ids = id_maker(prefix)
        self._memory_limit = memory.limit_bytes()
        self.held = HeldBytes(memory.held_bytes(config.limits.max_held_mb, self._memory_limit))
        self.listeners: Listeners | None = None
        self.reloader = self._reloader(source) if source is not None else None
        self.started_at = clock()
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        """The stop needs no lingering: it came from the app itself, or from a keyboard."""
        self._beat = clock()
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._cold = True
        self._swept = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._data: Any = None
        self.metrics.add_gauges(self._gauges)
        self.metrics.add_gauges(self.operations.gauges)
        self.metrics.add_gauges(self.eyes.gauges)

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind both ports. Raises `BindError`."""
        state = AdminState(
            started=lambda: self.listeners is not None,
            unready=self._unready,
            unlive=self._unlive,
            metrics=self._scrape if self.config.metrics else None,
            config=lambda: {"path": self.config.path, "sha256": self.config.digest, **self.config.redacted},
            status=self.status,
            quit=self.leave,
            drain=self.lame_duck,
            reload=partial(self.reloader.read, is_asked=True) if self.reloader is not None else None,
        )
        listen = self.config.listen
        front = Front(self._status_routes(listen.data_host), self.dispatcher.serve, self.dispatcher.unwelcome)
        self._data = build_data_server(
            front,
            listen,
            self._clock,
            self._ids,
            self._refused,
            held=self.held,
            dialect_of=dialect_of,
            is_open=lambda: not self.config.listen.auth_tokens,
        )
        acts = self.operations.routes()
        admin = build_admin_server(
            state,
            listen,
            self._clock,
            self._ids,
            self._refused,
            dangerous=acts,
            shown=self._status_routes(listen.admin_host).serve,
        )
        self.listeners = await Listeners.open(self._data, admin, listen)
        self.eyes.start()
        self._tick()
        memory.give_back()
        gc.enable()
        gc.set_threshold(20_000, 20, 50)  # requests leave no cycles: looking for them less often costs no memory
        gc.freeze()  # what is built now lives as long as the process: the collector need not look at it again

    def stop(self) -> None:
        """Begin to leave (SIGTERM); a second call leaves at once."""
        if self._stop.is_set() and self.listeners is not None:
            self.listeners.hurry()
        self._stop.set()

    def leave(self) -> None:
        """Drain without lingering: the word of whoever knows that nobody needs us any more. Again: at once."""
        if self._leave.is_set():
            self.stop()
        self._leave.set()
        self._stop.set()

    def interrupt(self) -> None:
        """SIGINT: from a keyboard the first means `leave`; after a SIGTERM it is the second signal."""
        if self._stop.is_set():
            self.stop()
        self.leave()

    def lame_duck(self) -> None:
        """Turn readiness off, and go on serving."""
        if self.listeners is not None:
            self.listeners.draining = True

    async def until_stopped(self) -> None:
        await self._stop.wait()

    async def close(self) -> int:
        """Drain and close; the number of requests that had to be cancelled."""
        left = 0
        if self.reloader is not None:
            self.reloader.close()
        self.eyes.leave()
        if self.listeners is not None:
            if self.config.shutdown_mode == "plain" and not self._leave.is_set():
                self.log.write("info", "lingering", at_most_s=self.config.linger_s, idle_s=self.config.linger_idle_s)
                await self.listeners.linger(self.config.linger_s, self.config.linger_idle_s, self._leave)
            self.log.write("info", "draining", timeout_s=self.config.drain_timeout_s)
            self.room.draining = True
            left = await self.listeners.drain(self.config.drain_timeout_s)
            await self.listeners.close()
        for timer in self._timers:
            timer.cancel()
        self.upstreams.close()
        await self.eyes.close()
        self.log.close()
        return left

    def _tick(self) -> None:
        """Once a second: the heart beat of /livez, looks at files; now and then: close idle upstream connections."""
        # First, so that a fault in what follows is a line in the log, and not the end of the heart beat.
        self._timers[:] = [asyncio.get_running_loop().call_later(1.0, self._tick)]
        before, self._beat = self._beat, self._clock()
        self._lags.append(max(0.0, self._beat - before - 1.0))
        if self.reloader is not None:
            self.reloader.look()
        self.operations.tick()
        self.eyes.tick()
        for upstream in self.upstreams.built():
            if upstream.has_turned():
                self.cluster.forgive(upstream.account.name)
                self.log.write("info", "credential changed", provider=upstream.account.name)
                self.eyes.tell("credential", provider=upstream.account.name, message="changed")
        if self._beat - self._swept > SWEEP_S:
            self._swept = self._beat
            self.upstreams.sweep()
            self.upstreams.poke()
            # What still ran on a provider that a reload removed may have left something behind.
            self.cluster.forget(lambda target: target.provider not in self.config.providers)

    # Another configuration --------------------------------------------------------------------------------------------

    def _reloader(self, source: Source) -> Reloader:
        return Reloader(
            source,
            self.config,
            plan=self._plan,
            install=self.install,
            log=self.log,
            counts=self.metrics.reloads,
            clock=self._clock,
            tell=self._reloaded,
        )

    def _plan(self, config: Config) -> Planner:
        """In a thread: the planner of another configuration. What it changes is found there too: to compare hundreds
        of providers takes tens of milliseconds."""
        old = self.config
        self._compared = old, config, changes(old, config)
        self.eyes.vitals.prepare(config)
        return Planner(config, self._secret)

    def install(self, config: Config, planner: Planner) -> tuple[Changes, tuple[str, ...]]:
        """Serve by `config` from the next request on; what it changes, and keys that wait for a restart.

        Nothing here waits, so every request has one configuration from its first step to its last.
        """
        old, waits = self.config, waiting(self._bound, config)
        compared, self._compared = self._compared, None
        is_ready = compared is not None and compared[0] is old and compared[1] is config
        found = compared[2] if compared is not None and is_ready else changes(old, config)
        tokens = tokens_in_force(self._bound.listen, old.listen, config.listen)
        if tokens is not config.listen.auth_tokens:
            waits = (*waits, "listen.auth_tokens")
            config = replace(config, listen=replace(config.listen, auth_tokens=tokens))
        for provider in sorted(found.rekeyed):
            self.eyes.tell("credential", provider=provider, message="changed")
        accounts = accounts_of(config, self._wall, self._identity_failed)
        self.upstreams = self.room.upstreams = self.upstreams.succeeded(accounts, found.kept)
        self.cluster.resize(config.limits.max_targets)
        self.cluster.forget(found.forgets)
        self.cluster.renew(found.rejudges)
        self.config = self.dispatcher.config = config
        self.planner = self.dispatcher.planner = planner
        self.operations.adopt(config)
        self.eyes.adopt(config)
        self.room.sampler = _sampler(self._bound.telemetry, config.telemetry.sample)
        self.metrics.follow([route.name for route in config.routes], _model_names(config))
        self.held.cap = memory.held_bytes(config.limits.max_held_mb, self._memory_limit)
        if config.log_level != old.log_level:
            self.log.set_level(config.log_level)
        self.log.set_form(config.log_format)
        return found, waits

    def warn(self) -> None:
        """Log what deserves a look at the start."""
        for warning in self.config.warnings:
            self.log.write("warning", warning)
        if self._memory_limit is not None and self.held.cap < self.config.limits.max_held_mb * memory.MIB:
            self.log.write(
                "warning",
                "memory limit leaves less room for bodies than limits.max_held_mb",
                limit_mb=self._memory_limit // memory.MIB,
                held_mb=self.held.cap // memory.MIB,
            )
        if self.reloader is not None and never_changes(self.config.path):
            self.log.write("warning", "the file is a subPath mount and will never change", path=self.config.path)

    def _status_routes(self, host: str) -> Status:
        """The routes of the port that is bound to `host`."""
        eyes = self.eyes
        return Status(
            read={**dict.fromkeys(PAGES, dashboard), **eyes.read_routes()},
            write=eyes.write_routes(),
            live=eyes.live_routes(),
            may_write=guard(lambda: self.config, host),
        )

    # What the admin port asks -----------------------------------------------------------------------------------------

    async def _scrape(self, open_metrics: bool) -> bytes:
        # prometheus_client costs 12 ms, which nobody pays before the first scrape, and then no request either.
        await asyncio.to_thread(import_module, "proxy.observe.exposition")
        from proxy.observe import exposition

        gauges = await self.metrics.gauges()
        return (await asyncio.to_thread(exposition.render, self.metrics, gauges, open_metrics))[0]

    def _unready(self) -> str:
        if self.listeners is None:
            return "starting"
        return "draining" if self.listeners.draining else ""

    def _unlive(self) -> str:
        lag = self._clock() - self._beat - 1.0
        return f"event loop is {lag:.1f} s behind" if lag > LAG_DEAD_S else ""

    async def status(self) -> dict[str, Any]:
        """Version, uptime, and every target with its circuit, cool-down, allowance and latency."""
        targets = await target_report.report(self.cluster.states(), self._clock)
        now = self._clock()
        listeners = self.listeners
        return {
            "version": __version__,
            "uptime_s": round(now - self.started_at, 1),
            "config": {
                "path": self.config.path,
                "sha256": self.config.digest,
                "loaded_s_ago": round(now - self.started_at, 1),
                **(self.reloader.status(now) if self.reloader is not None else NEVER_RELOADED),
            },
            "listen": {
                "data_port": listeners.data_port if listeners else None,
                "admin_port": listeners.admin_port if listeners else None,
                "draining": bool(listeners and listeners.draining),
            },
            "warnings": list(self.config.warnings),
            "requests_active": self._data.active if self._data is not None else 0,
            "held_bytes": self.held.held,
            "held_bytes_max": self.held.cap,
            "memory_limit_bytes": self._memory_limit,
            "plans": self.planner.remembered,
            "log_lines_dropped": self.log.dropped,
            **self.operations.status(now),
            **self.eyes.status(),
            **targets,
            "connections": {
                upstream.account.name: {
                    "idle": upstream.connector.idle,
                    "busy": upstream.connector.busy,
                    "opened": upstream.connector.opened,
                    "reused": upstream.connector.reused,
                }
                for upstream in self.upstreams.built()
            },
        }

    def _gauges(self) -> Iterable[Metric | None]:
        from prometheus_client.core import GaugeMetricFamily

        yield from target_report.gauges(self.cluster.states(), self.metrics.model, self._clock)
        connections = GaugeMetricFamily(
            "outrider_upstream_connections", "Connections to providers.", labels=["provider", "state"]
        )
        for upstream in self.upstreams.built():
            connections.add_metric([upstream.account.name, "idle"], upstream.connector.idle)
            connections.add_metric([upstream.account.name, "busy"], upstream.connector.busy)
        yield connections
        info = GaugeMetricFamily("outrider_config_info", "The configuration in force.", labels=["hash"])
        info.add_metric([self.config.digest[:12]], 1.0)
        yield info
        active = self._data.active if self._data is not None else 0
        for name, text, value in (
            ("outrider_requests_active", "Requests being served.", active),
            ("outrider_held_bytes", "Request bodies held.", self.held.held),
            ("outrider_plans", "Plans remembered.", self.planner.remembered),
            ("outrider_targets_evicted", "Targets forgotten to stay within the limit.", self.cluster.evicted),
            ("outrider_log_lines_dropped", "Log lines lost to a full queue.", self.log.dropped),
            ("outrider_observer_failures", "Faults of observers.", self.bus.failures),
            ("outrider_event_loop_lag_seconds", "Worst of the last minute.", max(self._lags, default=0.0)),
            ("outrider_uptime_seconds", "Since the start.", self._clock() - self.started_at),
            (
                "outrider_resident_bytes",
                "Peak resident memory.",
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ),
            (
                "outrider_config_last_reload_successful",
                "1: the file in force is the last one read.",
                self.reloader is None or not self.reloader.errors,
            ),
            (
                "outrider_config_age_seconds",
                "Since the configuration in force was read.",
                self._clock() - (self.reloader.loaded_at if self.reloader is not None else self.started_at),
            ),
            ("outrider_config_waits_for_restart", "Changed keys without effect so far.", self._waiting()),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))

    def _waiting(self) -> int:
        return len(self.reloader.waits) if self.reloader is not None else 0

    # Events -----------------------------------------------------------------------------------------------------------

    def _identity_failed(self, provider: str, reason: str) -> None:
        self.log.write("warning", "credential_failed", provider=provider, reason=reason)
        self.eyes.tell("credential", provider=provider, error="auth", message=redact(reason))

    def _reloaded(self, report: Report) -> None:
        """What became of a changed file, for the history."""
        is_taken = report.result in ("reloaded", "unchanged")
        self.eyes.tell(
            "reload",
            error="" if is_taken else report.result,
            message=redact("; ".join(report.errors)),
            detail={"sha256": report.digest, "changed": list(report.keys), "waits_for_restart": list(report.waits)},
        )

    def _tell(self, event: Event) -> None:
        self.bus.publish(event)

    def _refused(self, code: str) -> None:
        self.metrics.refused.add((code,))

    def _note(self, event: object) -> None:
        """Breaker moves and refused credentials: counted, and a line each."""
        if isinstance(event, Moved):
            target, change = event.target, event.change
            self.metrics.circuit_changes.add((target.provider, self.metrics.model(target.model), change.to.value))
            level = "warning" if change.to is State.OPEN else "info"
            self.log.write(level, "circuit", target=target.name, state=change.to.value, reason=str(change.reason))
        elif isinstance(event, Cooled) and event.reason.value in ("auth", "permission", "quota_exceeded"):
            self.log.write(
                "error",
                "credential refused: no calls until it is mended or the time is over",
                target=event.target.provider if event.credential else event.target.name,
                reason=event.reason.value,
                for_s=round(event.until - self._clock(), 1),
            )


def _sampler(bound: Telemetry, share: float) -> Sampler | NeverSampler:
    """Who decides what is traced, in a process that was started with `bound`."""
    if not bound.traces:
        return NeverSampler()
    return Sampler(Share(share=share, obeys_caller=bound.obeys_caller), random.getrandbits)


def _model_names(config: Config) -> set[str]:
    """Every model name that the configuration spells out: the only values of the label ``model``."""
    names = {m.name for p in config.providers.values() for m in p.models if m.name}
    names |= {m.asked for p in config.providers.values() for m in p.models}
    names |= {t.model for r in config.routes for t in r.targets if t.model}
    return {name for name in names if "*" not in name}


def run(main: Callable[[], Any], loop: str = "uvloop") -> Any:
    """Run a coroutine function to its end on the chosen event loop (``uvloop`` or ``asyncio``)."""
    factory = None
    if loop == "uvloop" and sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def serve(config: Config, on_ready: Callable[[App], Any] | None = None, source: Source | None = None) -> int:
    """Run until a signal or `/quitquitquit`; 0 when everything ended in good order. `source`: see `App`."""
    app = App(config, source=source)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, app.stop)
    loop.add_signal_handler(signal.SIGINT, app.interrupt)
    # Without a file a hang-up means nothing; its default would end the process.
    loop.add_signal_handler(signal.SIGHUP, app.reloader.poke if app.reloader is not None else lambda: None)
    await app.start()
    app.log.write("info", "ready", version=__version__, data_port=_port(app, "data"), admin_port=_port(app, "admin"))
    app.warn()
    if on_ready is not None:
        on_ready(app)
    await app.until_stopped()
    await app.close()
    return 0


def _port(app: App, which: str) -> int | None:
    if app.listeners is None:
        return None
    return app.listeners.data_port if which == "data" else app.listeners.admin_port
