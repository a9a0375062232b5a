"""Incidents and notifications of one process, built and connected: the machine, its memory on disk, the ways out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from proxy.config.compiled import Config, Secret
from proxy.engine.cluster import Cluster
from proxy.observe.entry import Entry
from proxy.observe.incidents import Incidents
from proxy.observe.mail import Mailer, Smtp
from proxy.observe.notify import LETTER, Notifier
from proxy.observe.senders import Gateway, Senders, Ways
from proxy.observe.subscriptions import SUBSCRIPTION
from proxy.observe.turns import Round
from proxy.policy.breaker import State
from proxy.server.incident_routes import IncidentRoutes
from proxy.server.status import Route
from proxy.store.documents import Document, Documents, Key
from proxy.store.sqlite import Store
from proxy.upstream.deliver import Courier, Forbidden, later_s

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOK_UP_S: Final = 2.0
"""How long a caller who subscribes waits for the look-up of its address."""
EXPIRE_S: Final = 600.0
"""Between two looks at incidents that are too old."""


class Alarms:
    """Every method returns at once, `close` excepted. `take` listens to the journal."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        store: Store,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        publish: Callable[[Entry], None],
        refused: Callable[[str], None],
        run: str,
    ) -> None:
        """`refused` counts what met a limit, by code; `run`: a name that no other run of the process has."""
        self._config = config
        self._cluster = cluster
        self._clock = clock
        self._wall = wall
        self._refused = refused
        self._courier = Courier()
        self._documents = Documents(store, run)
        senders = Senders(self._courier.post, self._ways)
        self.notifier = Notifier(
            senders={
                "webhook": senders.webhook,
                "sms": senders.sms,
                "slack": senders.slack,
                "email": Mailer(self._smtp).send,
            },
            later_s=later_s,
            ids=lambda: f"ntf_{secrets.token_hex(8)}",
            wall=wall,
            publish=publish,
            put=self._documents.put,
            saved=self._documents.flush,
        )
        self.incidents = Incidents(
            ids=lambda: f"inc_{secrets.token_hex(6)}",
            wall=wall,
            publish=publish,
            put=self._documents.put,
            told=self.notifier.told,
            region_of=self._region_of,
            remind_s=config.notify.escalate_after_s,
        )
        self._documents.follow(self.incidents.everything, self._loaded)
        self._documents.follow(self.notifier.everything, self.notifier.loaded, (SUBSCRIPTION, LETTER))
        self._expired_at = clock()
        self._round = Round()
        self.adopt(config)

    def start(self) -> None:
        """Read what earlier runs have left, and write from now on."""
        self._documents.start()

    def tick(self) -> None:
        """Once a second."""
        now = self._clock()
        self._round.begin(lambda: self.incidents.look(self._in_maintenance(now), self._open_circuits))
        self.notifier.tick()
        if now - self._expired_at >= EXPIRE_S:
            self._expired_at = now
            self.incidents.expire(self._oldest())

    def take(self, entry: Entry) -> None:
        """The listener of the journal. What a window covers is known at its first moment, and not a second later: a
        call that was under way may fail in between."""
        if entry.kind in ("maintenance_started", "maintenance_ended"):
            self.incidents.tick(self._in_maintenance(self._clock()), self._open_circuits)
        self.incidents.take(entry)

    def adopt(self, config: Config) -> None:
        """Follow a configuration, the first or another one."""
        self._config = config
        notify = config.notify
        self.incidents.adopt(config.providers, notify.escalate_after_s)
        self.notifier.adopt(notify.subscriptions, notify.digest_after, notify.digest_s)

    async def close(self) -> None:
        """Stop sending, and write what has changed."""
        await self.notifier.close()
        await self._courier.close()
        await self._documents.close()

    # Between the rooms ------------------------------------------------------------------------------------------------

    def _region_of(self, provider: str) -> str:
        found = self._config.providers.get(provider)
        return found.region if found is not None else ""

    def _loaded(self, documents: Mapping[Key, Document]) -> None:
        self.incidents.loaded(documents, self._oldest(), self._config.providers)

    def _oldest(self) -> float:
        return self._wall() - self._config.store.retention_days * 86_400.0

    def _in_maintenance(self, now: float) -> frozenset[tuple[str, str]]:
        """What is out everywhere; a provider that is out of one route only still answers in others."""
        return frozenset(
            (absence.provider, absence.model)
            for absence in self._cluster.absences
            if absence.reason == "maintenance" and absence.provider and not absence.route and absence.until > now
        )

    def _open_circuits(self) -> set[tuple[str, str]]:
        now = self._clock()
        return {
            (state.target.provider, state.target.model)
            for state in self._cluster.states()
            if state.breaker.peek(now) is not State.CLOSED
        }

    def _ways(self) -> Ways:
        notify = self._config.notify
        return Ways(
            signing_key=_reader(notify.signing_key),
            allow_private=notify.allow_private,
            gateways={
                "sms": Gateway(url=_reader(notify.sms_url), token=_reader(notify.sms_token)),
                "slack": Gateway(url=_reader(notify.slack_url), token=_reader(notify.slack_token)),
            },
        )

    def _smtp(self) -> Smtp | None:
        notify = self._config.notify
        if not notify.smtp_host:
            return None
        return Smtp(
            host=notify.smtp_host,
            port=notify.smtp_port,
            tls=notify.smtp_tls,
            sender=notify.smtp_sender,
            username=notify.smtp_username,
            password=_reader(notify.smtp_password),
        )

    async def _is_private(self, url: str) -> bool:
        """False also for a name that has no address at present: every delivery looks again."""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(LOOK_UP_S):
                await self._courier.addresses(parts.hostname or "", parts.port or 443)
        except Forbidden:
            return True
        except OSError:  # a TimeoutError is one
            return False
        return False

    # What is shown ----------------------------------------------------------------------------------------------------

    @property
    def routes(self) -> IncidentRoutes:
        """What callers may ask and change."""
        return IncidentRoutes(
            incidents=self.incidents,
            notifier=self.notifier,
            config=lambda: self._config,
            wall=self._wall,
            ids=lambda: f"sub_{secrets.token_hex(6)}",
            is_private=self._is_private,
            recalled=self._documents.recall,
            saved=self._documents.flush,
            refused=self._refused,
        )

    def read_routes(self) -> dict[str, Route]:
        """GET routes."""
        return self.routes.read()

    def write_routes(self) -> dict[str, Route]:
        """POST and DELETE routes."""
        return self.routes.write()

    def status(self) -> dict[str, Any]:
        """Its part of ``/status``."""
        return {
            "incidents_open": self.incidents.open,
            "subscriptions": len(self.notifier.subscriptions()),
            "notifications_waiting": self.notifier.waiting,
            "documents_unsaved": self._documents.pending,
        }

    def gauges(self) -> Iterable[Metric]:
        """Numbers that are read at a scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sent = CounterMetricFamily(
            "outrider_notifications", "Attempts to deliver notifications, by result.", labels=["channel", "result"]
        )
        for (channel, result), count in self.notifier.counts.items():
            sent.add_metric([channel, result], float(count))
        yield sent
        yield CounterMetricFamily("outrider_incidents", "Incidents opened.", value=float(self.incidents.opened))
        for name, text, count in (
            ("outrider_incidents_forgotten", "Incidents dropped for their number.", self.incidents.forgotten),
            ("outrider_incidents_overlooked", "Signs of causes beyond the limit.", self.incidents.overlooked),
        ):
            yield CounterMetricFamily(name, text, value=float(count))
        for name, text, value in (
            ("outrider_incidents_open", "Incidents that are not over.", self.incidents.open),
            ("outrider_notifications_waiting", "Notifications not delivered yet.", self.notifier.waiting),
            ("outrider_documents_unsaved", "Changes that are not on disk yet.", self._documents.pending),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))


def _reader(secret: Secret | None) -> Callable[[], str | None]:
    return secret.read if secret is not None else lambda: None
