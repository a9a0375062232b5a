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
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy import __version__
from proxy.base.ids import id_maker
from proxy.config.compiled import Config, Provider
from proxy.config.planner import Planner
from proxy.dispatch import Dispatcher
from proxy.dispatch.room import Room
from proxy.engine.cluster import Cluster, Cooled, Event, Moved
from proxy.observe.bus import Bus
from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.policy.breaker import State
from proxy.server.admin import AdminState, build_admin_server
from proxy.server.door import HeldBytes, build_data_server
from proxy.server.listeners import Listeners
from proxy.upstream.session import Account, Upstreams

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from proxy.upstream.credentials import Credential

SWEEP_S: Final = 15.0
LAG_DEAD_S: Final = 5.0
M_MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD_BYTES: Final = 1024 * 1024
AZURE_V1_SCOPE: Final = "https://ai.azure.com/.default"
"""What a token for Azure's v1 API is for; the dated APIs have a scope of their own (`providers.md` 1.8)."""
_STATE_NUMBER: Final = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}


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
    ) -> None:
        self.config = config
        self._clock = clock
        secret = os.urandom(16)
        prefix = secret[:4].hex()
        via = f"outrider-{prefix}"
        self.log = log or Log(config.log_format, config.log_level)
        self.bus = Bus()
        self.metrics = Metrics([route.name for route in config.routes], _model_names(config))
        self.bus.subscribe(self.metrics.take)
        self.bus.subscribe(self.log.take)
        self.bus.subscribe(self._note)
        self.cluster = Cluster(rng, self._tell, config.limits.max_targets)
        self.upstreams = Upstreams(_accounts(config, wall, self._identity_failed), clock, wall)
        self.planner = Planner(config, secret)
        self.room = Room(
            cluster=self.cluster,
            upstreams=self.upstreams,
            clock=clock,
            wall=wall,
            rng=rng,
            observe=self.bus.publish,
            via=f"Via: 1.1 {via}\r\n".encode(),
        )
        self.dispatcher = Dispatcher(config, self.planner, self.room, secret, via, self._refused)
        self._ids = id_maker(prefix)
        self.held = HeldBytes(config.limits.max_held_mb * 1024 * 1024)
        self.listeners: Listeners | None = None
        self.started_at = clock()
        self._stop = asyncio.Event()
        self._beat = clock()
        self._swept = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._data: Any = None
        self.metrics.add_gauges(self._gauges)

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
            quit=self.stop,
            drain=self.lame_duck,
        )
        listen = self.config.listen
        self._data = build_data_server(
            self.dispatcher.serve, listen, self._clock, self._ids, self._refused, held=self.held
        )
        admin = build_admin_server(state, listen, self._clock, self._ids, self._refused)
        self.listeners = await Listeners.open(self._data, admin, listen)
        self._tick()
        _give_memory_back()
        gc.enable()
        gc.set_threshold(20_000, 20, 50)  # requests leave no cycles: looking for them less often costs no memory
        gc.freeze()  # what is built now lives as long as the process: the collector need not look at it again

    def stop(self) -> None:
        """Begin to leave; a second call leaves at once."""
        if self._stop.is_set() and self.listeners is not None:
            self.listeners.hurry()
        self._stop.set()

    def lame_duck(self) -> None:
        """Turn readiness off, and go on serving."""
        if self.listeners is not None:
            self.listeners.draining = True

    async def until_stopped(self) -> None:
        await self._stop.wait()

    async def close(self) -> int:
        """Drain and close; the number of requests that had to be cancelled."""
        left = 0
        if self.listeners is not None:
            self.room.draining = True
            left = await self.listeners.drain(self.config.drain_timeout_s)
            await self.listeners.close()
        for timer in self._timers:
            timer.cancel()
        self.upstreams.close()
        self.log.close()
        return left

    def _tick(self) -> None:
        """Once a second: the heart beat of /livez; now and then: close idle upstream connections."""
        loop = asyncio.get_running_loop()
        self._beat = self._clock()
        if self._beat - self._swept > SWEEP_S:
            self._swept = self._beat
            self.upstreams.sweep()
            self.upstreams.poke()
        self._timers[:] = [loop.call_later(1.0, self._tick)]

    # What the admin port asks -----------------------------------------------------------------------------------------

    def _scrape(self, open_metrics: bool) -> bytes:
        """Runs in a thread."""
        from proxy.observe import exposition  # prometheus_client costs 12 ms, which nobody pays before the first scrape

        return exposition.render(self.metrics, open_metrics)[0]

    def _unready(self) -> str:
        if self.listeners is None:
            return "starting"
        return "draining" if self.listeners.draining else ""

    def _unlive(self) -> str:
        lag = self._clock() - self._beat - 1.0
        return f"event loop is {lag:.1f} s behind" if lag > LAG_DEAD_S else ""

    def status(self) -> dict[str, Any]:
        """Version, uptime, and every target with its circuit, cool-down, allowance and latency."""
        now = self._clock()
        listeners = self.listeners
        return {
            "version": __version__,
            "uptime_s": round(now - self.started_at, 1),
            "config": {
                "path": self.config.path,
                "sha256": self.config.digest,
                "loaded_s_ago": round(now - self.started_at, 1),
                "last_error": None,
            },
            "listen": {
                "data_port": listeners.data_port if listeners else None,
                "admin_port": listeners.admin_port if listeners else None,
                "draining": bool(listeners and listeners.draining),
            },
            "warnings": list(self.config.warnings),
            "requests_active": self._data.active if self._data is not None else 0,
            "held_bytes": self.held.held,
            "plans": self.planner.remembered,
            "observer_failures": self.bus.failures,
            "log_lines_dropped": self.log.dropped,
            "targets": [self._target(state, now) for state in self.cluster.states()],
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

    def _target(self, state: Any, now: float) -> dict[str, Any]:
        key = (True, 0)
        cooling = state.cooling_s(now)
        return {
            "target": state.target.name,
            "credential": state.target.credential or None,
            "circuit": state.breaker.view(now),
            "retry_after_s": round(state.unavailable_s(now), 3),
            "cooldown_s": round(cooling, 3),
            "cooldown_reason": state.cooling_reason(now).value if cooling > 0 else None,
            "retry_tokens": round(state.budget.tokens(now), 2),
            "concurrency": {"running": state.limiter.inflight, "limit": state.limiter.limit},
            "first_content_s": {
                q: state.latency.p(p, key, now) for q, p in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            },
        }

    def _gauges(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        now = self._clock()
        circuit = GaugeMetricFamily(
            "outrider_circuit_state", "0 closed, 1 half open, 2 open.", labels=["provider", "model"]
        )
        cooling = GaugeMetricFamily(
            "outrider_cooldown_seconds", "Time for which a target is left alone.", labels=["provider", "model"]
        )
        running = GaugeMetricFamily(
            "outrider_attempts_running", "Upstream calls running.", labels=["provider", "model"]
        )
        tokens = GaugeMetricFamily(
            "outrider_retry_tokens",
            "Retry budget left, least of the target's credentials.",
            labels=["provider", "model"],
        )
        worst: dict[tuple[str, str], list[float]] = {}
        for state in self.cluster.states():
            labels = (state.target.provider, self.metrics.model(state.target.model))
            values = (
                _STATE_NUMBER[state.breaker.peek(now)],
                state.cooling_s(now),
                float(state.inflight),
                -state.budget.tokens(now),
            )
            kept = worst.setdefault(labels, [0.0, 0.0, 0.0, -float("inf")])
            kept[:] = [max(kept[0], values[0]), max(kept[1], values[1]), kept[2] + values[2], max(kept[3], values[3])]
        for labels, (state_number, cooldown, inflight, negative) in worst.items():
            circuit.add_metric(labels, state_number)
            cooling.add_metric(labels, cooldown)
            running.add_metric(labels, inflight)
            tokens.add_metric(labels, -negative)
        yield from (circuit, cooling, running, tokens)
        yield from self._process_gauges()

    def _process_gauges(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

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
            ("outrider_uptime_seconds", "Since the start.", self._clock() - self.started_at),
            (
                "outrider_resident_bytes",
                "Peak resident memory.",
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ),
            ("outrider_config_last_reload_successful", "1: the file in force is the last one read.", 1),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))

    # Events -----------------------------------------------------------------------------------------------------------

    def _identity_failed(self, provider: str, reason: str) -> None:
        self.log.write("warning", "credential_failed", provider=provider, reason=reason)

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


def _give_memory_back() -> None:
    """Have glibc return large blocks to the system when they are freed.

    By itself it raises its threshold with the first freed image of a few MiB and keeps such blocks from then on: after
    a crowd of large bodies the process stayed at 197 MB, where 60 are in use. Other allocators have no such call.
    """
    import ctypes

    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    except (OSError, AttributeError):
        return


BEARER_VENDORS: Final = frozenset({"mantle", "vertex"})
"""Platforms that take a key as a bearer token, whatever the dialect (`providers.md` 1.5 to 1.7)."""


def _accounts(config: Config, wall: Callable[[], float], report: Callable[[str, str], None]) -> Mapping[str, Account]:
    return {
        name: Account(
            name=name,
            dialect=provider.dialect,
            base_url=provider.base_url,
            key=provider.api_key,
            tls_verify=provider.tls_verify,
            ca_file=provider.ca_file,
            api_version=provider.api_version,
            bearer=provider.vendor in BEARER_VENDORS,
            credential=_credential(provider, wall, report),
            betas=None if provider.anthropic_betas is None else frozenset(provider.anthropic_betas),
            sign_region=provider.aws.region,
            sign_service=provider.aws.service,
        )
        for name, provider in config.providers.items()
    }


def _credential(provider: Provider, wall: Callable[[], float], report: Callable[[str, str], None]) -> Credential | None:
    """What the platform hands out for a provider, or the keys it signs with; None: its key is all there is."""
    aws = provider.aws
    if not provider.identity and not aws.has_keys:
        return None
    from proxy.upstream.credentials import Wanted, credential

    keys = None
    if aws.access_key_id is not None and aws.secret_access_key is not None:
        keys = (aws.access_key_id, aws.secret_access_key, aws.session_token)
    wanted = Wanted(
        provider=provider.name,
        identity=provider.identity,
        keys=keys,
        region=aws.region,
        role_arn=aws.role_arn,
        token_file=aws.web_identity_token_file,
        scope=AZURE_V1_SCOPE if provider.dialect == "azure" and provider.api_version in ("", "v1", "preview") else "",
    )
    return credential(wanted, os.environ, wall, report)


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


async def serve(config: Config, on_ready: Callable[[App], Any] | None = None) -> int:
    """Run until a signal or `/quitquitquit`; 0 when everything ended in good order."""
    app = App(config)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, app.stop)
    await app.start()
    app.log.write("info", "ready", version=__version__, data_port=_port(app, "data"), admin_port=_port(app, "admin"))
    for warning in config.warnings:
        app.log.write("warning", warning)
    if on_ready is not None:
        on_ready(app)
    await app.until_stopped()
    app.log.write("info", "draining", timeout_s=config.drain_timeout_s)
    await app.close()
    return 0


def _port(app: App, which: str) -> int | None:
    if app.listeners is None:
        return None
    return app.listeners.data_port if which == "data" else app.listeners.admin_port
