"""All that looks on, built once and connected: journal, counts, store. Nothing of it steers a request.

Rooms of one level do not know each other, so what passes between the journal and the store passes here. On the way of
a request stands only the bus; everything else happens in the store's threads, or once a second in `tick`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy.config.compiled import Config
from proxy.engine.cluster import Cluster
from proxy.engine.plan import Price
from proxy.observe.bus import Bus
from proxy.observe.entry import Entry
from proxy.observe.journal import Journal
from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.observe.narration import Narration
from proxy.observe.rollup import HOUR_S, HOURS_MAX, Rollup, by_hour
from proxy.server.accounts import peers_of
from proxy.server.alarms import Alarms
from proxy.server.health import AVAILABLE, Ability
from proxy.server.history import History
from proxy.server.status import Live, Route
from proxy.server.vitals import Vitals
from proxy.store import events, hours
from proxy.store.faults import StoreError
from proxy.store.sqlite import Store
from proxy.upstream.session import Upstreams

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from proxy.observe.otel import Exports

MINUTE_S: Final = 60.0
ELAPSED_MAX_S: Final = 60.0
"""More than so much between two ticks was a sleeping machine, and says nothing about providers."""
CLOSE_S: Final = 2.0
"""Longest time in which the store writes what is left at the end."""
PRICES_MAX: Final = 1024
"""Remembered prices; models that callers make up must not fill the memory."""


class Eyes:
    """See the module. Every method returns at once, `close` excepted."""

    def __init__(
        self,
        config: Config,
        bus: Bus,
        cluster: Cluster,
        *,
        upstreams: Callable[[], Upstreams],
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Callable[[], float],
        log: Log,
        metrics: Metrics,
        run: str,
        store: Store | None = None,
    ) -> None:
        """`upstreams`: those of the configuration in force. `run`: a name that no other run of the process has.
        `store`: None for the one that `config` names."""
        self.config = config
        self._bus = bus
        self._clock = clock
        self._wall = wall
        self.log = log
        self._run = run
        self._prices: dict[tuple[str, str], tuple[float, float] | None] = {}
        self.rollup = Rollup(self._price)
        self.journal = Journal(Narration(self._cost, clock), self.rollup, wall, config.store.recent)
        self.store = store or Store(
            config.store.path,
            queue_max=config.store.queue,
            retention_s=config.store.retention_days * 86_400.0,
            bytes_max=config.store.max_mb << 20,
            wall=wall,
        )
        self.history = History(self.journal, self.rollup, self.store, wall, run, config)
        self.alarms = Alarms(
            config,
            cluster,
            self.store,
            clock=clock,
            wall=wall,
            publish=bus.publish,
            refused=lambda code: metrics.refused.add((code,)),
            run=run,
        )
        self.journal.listen(self._keep)
        self.journal.listen(self.alarms.take)
        # After the alarms, so that the stream can tell the incident that an event has just opened.
        self.vitals = Vitals(
            config,
            cluster,
            self.journal,
            self.rollup,
            upstreams=upstreams,
            incident_of=self.alarms.incidents.open_of,
            history=self._history,
            publish=bus.publish,
            clock=clock,
            wall=wall,
            rng=rng,
        )
        bus.subscribe(self.journal.take)
        self._metrics = metrics
        metrics.price, metrics.peers = self._price, peers_of(config)
        self._exports = self._exporting(config)
        self._ticked = clock()
        self._stored = self._ticked
        self._store_trouble = ""
        self._first: asyncio.Task[None] | None = None

    def _exporting(self, config: Config) -> Exports | None:
        """What OpenTelemetry sends; None: nothing, and its SDK is not imported."""
        telemetry = config.telemetry
        if not telemetry.is_on:
            return None
        from proxy.observe.otel import Exports

        exports = Exports(
            telemetry.endpoint,
            self.log,
            self._wall,
            self._metrics.peers,
            traces=telemetry.traces,
            metrics=self._metrics if telemetry.metrics else None,
        )
        self._bus.subscribe(exports.take)
        return exports

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: the store opens its file in its own thread, and what it knows of the last day is taken over."""
        self.store.start()
        self.alarms.start()
        self.vitals.start()
        if self._exports is not None:
            self._exports.start()
        self._first = asyncio.get_running_loop().create_task(self._recall())

    async def _recall(self) -> None:
        this = int(self._wall() // HOUR_S)
        try:
            last = await self.store.read(events.last_id)
            past = await self.store.read(
                lambda connection: by_hour(hours.between(connection, this - HOURS_MAX, this, self._run))
            )
        except StoreError:
            return  # a new file, or one that cannot be read: there is nothing to take over
        self.journal.start_after(last)
        self.rollup.remember(past)

    def tick(self) -> None:
        """Once a second."""
        now, wall = self._clock(), self._wall()
        self.vitals.tick()
        elapsed, self._ticked = now - self._ticked, now
        if 0.0 < elapsed <= ELAPSED_MAX_S:
            self.rollup.seconds(wall, elapsed, self.vitals.book.whole(), self.vitals.book.states())
        if now - self._stored >= MINUTE_S:
            self._stored = now
            self._keep_hours(wall)
        self._watch_store(wall)
        self.alarms.tick()

    def adopt(self, config: Config) -> None:
        """Follow another configuration."""
        self.config = self.history.config = config
        self._prices = {}
        self._metrics.peers = peers_of(config)
        if self._exports is not None:
            self._exports.follow(self._metrics.peers)
        self.store.keep(config.store.retention_days * 86_400.0, config.store.max_mb << 20)
        self.alarms.adopt(config)
        self.vitals.adopt(config)

    def leave(self) -> None:
        """The process begins to leave: nothing new is begun, and who only looks on is sent away."""
        self.vitals.leave()

    async def close(self) -> None:
        """Write what is left, within `CLOSE_S`."""
        if self._first is not None:
            self._first.cancel()
        self._keep_hours(self._wall())
        await self.alarms.close()
        if self._exports is not None:
            await self._exports.close()
        await self.store.close(CLOSE_S)

    # Between the rooms ------------------------------------------------------------------------------------------------

    def _keep(self, entry: Entry) -> None:
        """Every entry goes to the store; one that finds its queue full is counted there."""
        self.store.submit(events.insert, entry)

    def _keep_hours(self, wall: float) -> None:
        present = self.rollup.present(wall)
        if present:
            self.store.submit(hours.put, self._run, present)

    def _history(self) -> Ability:
        """Whether the history is kept, for the report of abilities."""
        if self.store.trouble:
            return "unavailable", f"the store cannot be written: {self.store.trouble}"
        if self.config.store.path == ":memory:":
            return "degraded", "it ends with the process (store.path is :memory:)"
        return AVAILABLE

    def _watch_store(self, wall: float) -> None:
        """Tell when the store begins and ceases to fail, once each."""
        trouble = self.store.trouble
        if trouble == self._store_trouble:
            return
        self._store_trouble = trouble
        if trouble:
            self.log.write("error", "the store cannot be written", trouble=trouble, reason=self.store.reason)
        else:
            self.log.write("info", "the store works again", dropped=sum(self.store.dropped.values()))
        self._bus.publish(Entry(at=wall, kind="store", error=trouble, message=self.store.reason))

    def tell(self, kind: str, **fields: Any) -> None:
        """Publish an entry of the present moment."""
        self._bus.publish(Entry(at=self._wall(), kind=kind, **fields))

    def _price(self, provider: str, model: str) -> tuple[float, float] | None:
        """USD per input and output token."""
        key = provider, model
        if key in self._prices:
            return self._prices[key]
        if len(self._prices) >= PRICES_MAX:
            self._prices.clear()
        found = price_of(self.config, provider, model)
        self._prices[key] = None if found is None else (found.input / 1e6, found.output / 1e6)
        return self._prices[key]

    def _cost(self, provider: str, model: str, sent: int | None, got: int | None) -> float | None:
        price = self._price(provider, model)
        if price is None or (sent is None and got is None):
            return None
        return round((sent or 0) * price[0] + (got or 0) * price[1], 9)

    # What is shown ----------------------------------------------------------------------------------------------------

    def read_routes(self) -> dict[str, Route]:
        """GET routes of both ports by path; one that ends in a slash stands for everything below it."""
        return {**self.history.routes(), **self.alarms.read_routes(), **self.vitals.routes()}

    def write_routes(self) -> dict[str, Route]:
        """POST routes, and below a path that ends in a slash DELETE routes."""
        return {**self.alarms.write_routes()}

    def live_routes(self) -> dict[str, Live]:
        """GET routes that write their answer themselves, for as long as it takes."""
        return self.vitals.live()

    def status(self) -> Mapping[str, Any]:
        """Its part of ``/status``."""
        return {
            "store": self.store.status(),
            "observer_failures": self._bus.failures + self.journal.told.failures,
            **self.alarms.status(),
        }

    def gauges(self) -> Iterable[Metric]:
        """Numbers that are read at a scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        store = self.store
        dropped = CounterMetricFamily(
            "outrider_store_dropped", "Events that never reached the history, by reason.", labels=["reason"]
        )
        for reason, count in store.dropped.items():
            dropped.add_metric([reason], float(count))
        yield dropped
        yield CounterMetricFamily("outrider_store_written", "Events written to the history.", value=store.written)
        yield CounterMetricFamily("outrider_store_set_aside", "Broken files set aside.", value=store.set_aside)
        spans = self._exports.counts() if self._exports is not None else {}
        sent = CounterMetricFamily("outrider_spans", "Spans by what became of them.", labels=["result"])
        for result in ("exported", "failed", "dropped"):
            sent.add_metric([result], float(spans.get(result, 0)))
        yield sent
        waiting = float(spans.get("waiting", 0))
        yield GaugeMetricFamily("outrider_spans_waiting", "Spans that wait or are being sent.", value=waiting)
        yield from self.alarms.gauges()
        yield from self.vitals.gauges()
        for name, text, value in (
            ("outrider_store_up", "1: the last write to the history worked.", not store.trouble),
            ("outrider_store_queue", "Events that wait for the history's file.", store.queued),
            ("outrider_store_bytes", "Size of the history, free pages left out.", store.bytes),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))


def price_of(config: Config, provider: str, model: str) -> Price | None:
    """The price of a called model; None: nobody has told it."""
    found = config.providers.get(provider)
    if found is None:
        return None
    entry = next((each for each in found.models if each.name == model), None) or found.model_for(model)
    return None if entry is None else found.completed(entry, model).price
