"""Health of one process, built and connected: the book, its report, the stream of events, the active probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from proxy.config.compiled import Config
from proxy.dispatch import probing
from proxy.engine.cluster import Cluster
from proxy.observe.entry import Entry
from proxy.observe.health import HealthBook, Layout
from proxy.observe.health_report import HealthReport
from proxy.observe.journal import Journal
from proxy.observe.rollup import Rollup
from proxy.observe.turns import Round
from proxy.policy.health import Status
from proxy.server.health import Ability, HealthRoutes, layout_of
from proxy.server.health_stream import HealthStream
from proxy.server.status import Live, Route
from proxy.upstream.probe import Found, Prober, Settings, Shot
from proxy.upstream.session import Upstream, Upstreams

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_NUMBER: Final = {Status.HEALTHY: 0.0, Status.DEGRADED: 1.0, Status.DOWN: 2.0}


class Vitals:
    """Every method returns at once."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        journal: Journal,
        rollup: Rollup,
        *,
        upstreams: Callable[[], Upstreams],
        incident_of: Callable[[str], str],
        history: Callable[[], Ability],
        publish: Callable[[Entry], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        """`upstreams`: those of the configuration in force. `incident_of`: the open incident of a provider, empty for
        none. `history`: whether what happens is kept."""
        self._config = config
        self._upstreams = upstreams
        self.book = HealthBook(cluster, layout_of(config), publish, clock, wall, self._lacks_key)
        report = HealthReport(
            self.book, lambda provider: rollup.uptime_24h(provider, wall()), clock, wall, lambda: journal.last_id
        )
        self._routes = HealthRoutes(report, self.book, config, history, clock)
        self._stream = HealthStream(journal, report.recent, incident_of, wall, config.health.max_subscribers)
        self._round = Round()
        self._prepared: tuple[object, object, Layout] | None = None
        """Providers and routes of a configuration to come, and their layout."""
        self._prober = Prober(self._aim, self._probed, clock, wall, rng)
        self.snapshot = report.snapshot

    def start(self) -> None:
        """Begin to probe."""
        health = self._config.health
        settings = None
        if health.probe != "off":
            settings = Settings(
                interval_s=health.interval_s,
                timeout_s=health.timeout_s,
                failure_threshold=health.failure_threshold,
                success_threshold=health.success_threshold,
            )
        self._prober.adopt(settings, self._config.providers)

    def tick(self) -> None:
        """Once a second. Many targets are looked at in turns, with whatever else is ready between them."""
        self._round.begin(self.book.look)

    def adopt(self, config: Config) -> None:
        """Follow another configuration."""
        self._config = self._routes.config = config
        self._stream.max_subscribers = config.health.max_subscribers
        prepared, self._prepared = self._prepared, None
        is_ready = prepared is not None and prepared[0] is config.providers and prepared[1] is config.routes
        self.book.adopt(prepared[2] if prepared is not None and is_ready else layout_of(config))
        self.start()

    def prepare(self, config: Config) -> None:
        """In a thread: make what `adopt` will need, some milliseconds of work with hundreds of providers."""
        self._prepared = config.providers, config.routes, layout_of(config)

    def leave(self) -> None:
        """The process leaves: no probe more, and readers of the stream are sent away."""
        self._prober.close()
        self._stream.close()

    def _lacks_key(self, name: str) -> bool:
        """Whether a provider that is called with the sidecar's own credential has none now."""
        return self._config.providers[name].credentials == "sidecar" and self._upstreams().lacks_credential(name)

    # Probes -----------------------------------------------------------------------------------------------------------

    def _aim(self, name: str) -> tuple[Upstream, Shot] | None:
        provider = self._config.providers[name]
        if provider.disabled or self.book.is_absent(name):
            return None
        upstream = self._upstreams()[name]
        shot = None
        # Without a credential of ours a model would refuse every probe; that there is somebody can still be seen.
        if self._config.health.probe == "deep" and provider.credentials != "caller" and upstream.is_ready:
            model = self._model(name)
            shot = probing.deep(provider, upstream, model) if model else None
        return upstream, shot or probing.shallow(provider, upstream)

    def _model(self, name: str) -> str:
        """The model of a provider that callers used last of those that have answered, else the first that the file
        spells out; empty: none. A name that never answered may be a caller's slip, and refused for ever."""
        used = sorted(self.book.targets(name), key=lambda state: -state.used_at)
        names = [state.target.model for state in used if not state.target.credential and state.pulse.good_at >= 0.0]
        return next((model for model in (*names, *self.book.layout.providers[name].models) if probing.talks(model)), "")

    def _probed(self, found: Found) -> bool:
        for _ in range(found.failures):
            self.book.probed(found.provider, False, found.deep)
        if found.passed:
            self.book.probed(found.provider, True, found.deep)
        probes = self.book.probes(found.provider)
        return probes.is_settled and self.book.health(found.provider).status is not Status.DOWN

    # What is shown ----------------------------------------------------------------------------------------------------

    def routes(self) -> dict[str, Route]:
        """By path."""
        return self._routes.routes()

    def live(self) -> dict[str, Live]:
        """By path."""
        return {"/v1/health/stream": self._stream.serve}

    def gauges(self) -> Iterable[Metric]:
        """Numbers that are read at a scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        providers = GaugeMetricFamily(
            "outrider_provider_health", "0 healthy, 1 degraded, 2 down.", labels=["provider", "region"]
        )
        text = "1: an operator has taken all of it out (announced maintenance, a drain)."
        out = GaugeMetricFamily("outrider_provider_out", text, labels=["provider"])
        for name, known in self.book.layout.providers.items():
            if not known.disabled:
                providers.add_metric([name, known.region], _NUMBER[self.book.health(name).status])
                out.add_metric([name], float(self.book.is_absent(name)))
        yield providers
        yield out
        routes = GaugeMetricFamily("outrider_route_health", "0 healthy, 1 degraded, 2 down.", labels=["route"])
        routes_out = GaugeMetricFamily("outrider_route_out", text, labels=["route"])
        for route in self.book.routes:
            routes.add_metric([route.name], _NUMBER[route.status])
            routes_out.add_metric([route.name], float(self.book.is_out(route.name)))
        yield routes
        yield routes_out
        probes = CounterMetricFamily(
            "outrider_probes", "Active probes by what they found.", labels=["provider", "result"]
        )
        for labels, count in self._prober.results.items():
            probes.add_metric(labels, float(count))
        yield probes
        stream = self._stream
        yield GaugeMetricFamily("outrider_stream_readers", "Readers of the health stream.", value=float(stream.readers))
        lost = CounterMetricFamily(
            "outrider_stream_readers_lost", "Readers that were slow, or too many.", labels=["reason"]
        )
        for reason, times in stream.dropped.items():
            lost.add_metric([reason], float(times))
        yield lost
