"""The incidents of this process and of those before it: fed by the journal, told on the bus, kept in the store.

What is asked is answered from memory, which holds the last `KEPT_MAX` incidents; the file is for the next run. So the
status page of an outage does not depend on a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any, Final

from proxy.observe.entry import Entry
from proxy.observe.incident_json import document, impact, restored
from proxy.policy.correlation import Machine
from proxy.policy.incident import Change, Failed, Family, Incident, Met, Over, Sign, Signal, Trouble, family_of

KIND: Final = "incident"
"""Of the documents."""
KEPT_MAX: Final = 500
"""Incidents in memory and in the file; the oldest go first."""
SAVED_MAX: Final = 32
"""Incidents of which new numbers are written within a second; those of the others wait for their next update."""
STEP: Final = 4
"""Causes looked at in one go: half a millisecond when each of them has something to tell."""
VISIBLE: Final = frozenset({"error", "timeout", "exhausted", "truncated", "rejected"})
"""Results of a request that its caller sees as a failure and has not caused."""
_ENTRY_OF: Final = {"opened": "incident_opened", "resolved": "incident_resolved"}
"""Every other change is told as ``incident_updated``."""
_OF_HEALTH: Final = (Signal.DOWN, Signal.DEGRADED, Signal.COOLING)
_DIALS: Final = frozenset({"attempt", "retry", "failover", "hedge"})

Put = Callable[[str, str, Mapping[str, Any] | None], None]
"""Keep a document by kind and id; None deletes it."""


class Incidents:
    """`take` listens to the journal and returns at once."""

    def __init__(
        self,
        *,
        ids: Callable[[], str],
        wall: Callable[[], float],
        publish: Callable[[Entry], None],
        put: Put,
        told: Callable[[Change], None] = lambda change: None,
        region_of: Callable[[str], str] = lambda provider: "",
        remind_s: float = 900.0,
    ) -> None:
        """`ids` makes an id; `told` hears of every change, before it is published; `region_of` is asked where an entry
        names a provider only."""
        self._machine = Machine(ids, remind_s)
        self._wall = wall
        self._publish = publish
        self._put = put
        self._told = told
        self._region_of = region_of
        self._known: dict[str, Incident] = {}
        self._ending: Entry | None = None
        """The request whose dials come next."""
        self.opened = 0
        self.forgotten = 0
        """Incidents dropped from memory for their number."""

    @property
    def overlooked(self) -> int:
        """Signs that nothing came of, because too many causes are watched."""
        return self._machine.refused

    # What comes in ----------------------------------------------------------------------------------------------------

    def take(self, entry: Entry) -> None:
        """The listener of the journal."""
        for sign in self._signs(entry):
            self._apply(self._machine.step(sign))

    def tick(
        self,
        out: frozenset[tuple[str, str]] = frozenset(),
        open_circuits: Callable[[], Set[tuple[str, str]]] | None = None,
    ) -> None:
        """As `look`, in one go."""
        for _ in self.look(out, open_circuits):
            pass

    def look(
        self,
        out: frozenset[tuple[str, str]] = frozenset(),
        open_circuits: Callable[[], Set[tuple[str, str]]] | None = None,
    ) -> Iterator[None]:
        """Once a second, with a pause after every `STEP` causes. `out`: what is in announced maintenance, as (provider,
        model or empty for all of them); `open_circuits`: whose circuit is open or half open, since one that a reload
        has forgotten never tells; None: whoever was told to be open still is."""
        yield
        now = self._wall()
        known = self._machine.circuits()
        if known and open_circuits is not None:
            still = open_circuits()
            for provider, model in known:
                if (provider, model) not in still:
                    over = Over(at=now, provider=provider, signal=Signal.CIRCUIT, model=model)
                    self._apply(self._machine.step(over))
        yield
        for place, changes in enumerate(self._machine.ticks(now, out), 1):
            self._apply(changes)
            if place % STEP == 0:
                yield
        for _ in range(SAVED_MAX // STEP):
            yield
            for incident in self._machine.changed(STEP):
                self._known[incident.id] = incident
                self._put(KIND, incident.id, document(incident))

    def adopt(self, providers: Iterable[str], remind_s: float) -> None:
        """Follow a configuration that has these providers."""
        self._machine.remind_s = remind_s
        known = frozenset(providers)
        self._apply(self._machine.forget(lambda provider: provider not in known, self._wall()))

    def acknowledge(self, id: str, by: str) -> Incident | None:
        """Somebody looks after an open incident; None: there is none of this id."""
        before = self._known.get(id)
        incident = self._machine.acknowledge(id, by, self._wall())
        if incident is not None and (before is None or before.acknowledged_at is None):
            self._apply([Change(kind="acknowledged", at=self._wall(), incident=incident)])
        return incident

    def _signs(self, entry: Entry) -> Iterator[Sign]:
        """What an entry means for incidents; most mean nothing."""
        if entry.kind == "request":
            self._ending = entry
            yield from self._request(entry)
        elif entry.kind in _DIALS:
            yield from self._dial(entry)
        elif entry.kind in _SIGNS:
            for sign in _SIGNS[entry.kind](entry):
                if isinstance(sign, Trouble) and not sign.region:
                    sign = replace(sign, region=self._region_of(sign.provider))
                yield sign

    def _request(self, entry: Entry) -> Iterator[Met]:
        reason = str(entry.detail.get("failover_reason") or _left_out(entry) or entry.error)
        if reason:
            yield Met(
                at=entry.at,
                provider=entry.provider,
                model=entry.model,
                region=entry.region,
                error=reason,
                request_id=entry.request_id,
                is_visible=entry.detail.get("result") in VISIBLE,
                failed_over=bool(entry.completed and entry.fallback),
            )

    def _dial(self, entry: Entry) -> Iterator[Failed]:
        if not entry.error:
            return
        ending = self._ending if self._ending is not None and self._ending.request_id == entry.request_id else None
        yield Failed(
            at=entry.at,
            provider=entry.provider,
            model=entry.model,
            region=entry.region,
            error=entry.error,
            request_id=entry.request_id,
            is_visible=ending is not None and ending.detail.get("result") in VISIBLE,
            failed_over=ending is not None and bool(ending.completed and ending.fallback),
            status=entry.status,
            message=entry.message,
        )

    # What goes out ----------------------------------------------------------------------------------------------------

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            incident = change.incident
            self.opened += change.kind == "opened"
            self._known[incident.id] = incident
            self._put(KIND, incident.id, document(incident))
            self._forget_oldest()
            self._told(change)
            self._publish(_entry(change))

    def _forget_oldest(self) -> None:
        while len(self._known) > KEPT_MAX:
            closed = (each for each in self._known.values() if each.ended_at is not None)
            oldest = min(closed, key=lambda each: each.started_at, default=None)
            if oldest is None:
                return  # all are open, and there are fewer causes than that would take for long
            self._drop(oldest.id)
            self.forgotten += 1

    def _drop(self, id: str) -> None:
        del self._known[id]
        self._put(KIND, id, None)

    # What is kept -----------------------------------------------------------------------------------------------------

    def everything(self) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
        """All documents."""
        return (((KIND, id), document(incident)) for id, incident in self._known.items())

    def loaded(
        self, documents: Mapping[tuple[str, str], Mapping[str, Any]], since: float, known: Iterable[str]
    ) -> None:
        """What earlier runs have left; what ended before `since` (Unix seconds) is deleted. `known`: the providers."""
        now = self._wall()
        configured = frozenset(known)
        for (kind, id), kept in documents.items():
            if kind != KIND or id in self._known:
                continue
            incident = restored(kept)
            if incident is None or (incident.ended_at or now) < since:
                self._put(KIND, id, None)
                continue
            if incident.ended_at is None and incident.provider not in configured:
                incident = replace(incident, ended_at=now, resolution="the provider is not configured any more")
                self._put(KIND, id, document(incident))
            self._known[id] = incident
            if incident.ended_at is None:
                self._apply(self._machine.restore(incident, now))
        self._forget_oldest()

    def expire(self, since: float) -> None:
        """Forget what ended before `since`."""
        for incident in [each for each in self._known.values() if each.ended_at is not None and each.ended_at < since]:
            self._drop(incident.id)

    # What is asked ----------------------------------------------------------------------------------------------------

    def listed(self) -> list[Incident]:
        """Every known incident, the latest first, with the numbers that were told last; see `present`."""
        known = self._known | {each.id: each for each in self._machine.open()}
        return sorted(known.values(), key=lambda each: (each.started_at, each.id), reverse=True)

    def get(self, id: str) -> Incident | None:
        """One incident; None: it is unknown or forgotten."""
        found = self._known.get(id)
        return None if found is None else self._machine.present(found)

    def present(self, incident: Incident) -> Incident:
        """An incident with its numbers of now."""
        return self._machine.present(incident)

    @property
    def known(self) -> Iterable[Incident]:
        """Every known incident, in no order."""
        return self._known.values()

    def open_of(self, provider: str) -> str:
        """Id of the provider's open incident, the latest if there are several; empty: there is none."""
        found = [each for each in self._known.values() if each.provider == provider and each.ended_at is None]
        return max(found, key=lambda each: each.started_at).id if found else ""

    @property
    def open(self) -> int:
        """How many are open."""
        return sum(each.ended_at is None for each in self._known.values())


def _left_out(entry: Entry) -> str:
    """Why a request's primary was not asked; empty: it was. Where nobody answered in its place this alone says so, for
    the error is then that of another target."""
    start = f"{entry.provider}/{entry.model}".rstrip("/") + "="
    skipped = map(str, entry.detail.get("skipped") or ())
    return next((each.removeprefix(start) for each in skipped if each.startswith(start)), "")


def _entry(change: Change) -> Entry:
    incident = change.incident
    return Entry(
        at=change.at,
        kind=_ENTRY_OF.get(change.kind, "incident_updated"),
        provider=incident.provider,
        region=incident.region,
        message=incident.resolution if change.kind == "resolved" else incident.cause,
        detail={
            "incident": incident.id,
            "change": change.kind,
            "type": incident.type.value,
            "severity": incident.severity.word,
            "affected_models": list(incident.models),
            "affected_requests": incident.affected_requests,
            "failed_over": incident.failed_over,
            "user_visible_errors": incident.user_visible_errors,
            "impact": impact(incident),
        },
    )


# Entries as signs -----------------------------------------------------------------------------------------------------


def _trouble(entry: Entry, signal: Signal, model: str = "") -> Trouble:
    affected = entry.detail.get("affected_models") or ()
    return Trouble(
        at=entry.at,
        provider=entry.provider,
        signal=signal,
        region=entry.region,
        model=model,
        models=tuple(map(str, affected)),
        reason=entry.message or entry.error,
    )


def _over(entry: Entry, signal: Signal, model: str = "", reason: str = "") -> Over:
    return Over(at=entry.at, provider=entry.provider, signal=signal, model=model, reason=reason)


def _health(entry: Entry, signal: Signal) -> Iterator[Sign]:
    """A provider is worse than it was. Why says to which cause that belongs: a refused key is not another outage."""
    family = family_of(entry.error)
    if family is Family.CREDENTIAL:
        signal = Signal.CREDENTIAL
    elif family is Family.RATE_LIMITING:
        signal = Signal.COOLING
    yield _trouble(entry, signal)
    yield from (_over(entry, other) for other in _OF_HEALTH if other is not signal)


def _recovered(entry: Entry) -> Iterator[Sign]:
    """A refused key is not mended by a provider that is well; that incident ends when nobody is refused any more."""
    yield from (_over(entry, signal, reason="the provider is healthy again") for signal in _OF_HEALTH)


def _circuit(entry: Entry) -> Iterator[Sign]:
    """An operator's own doing is no incident."""
    to = entry.detail.get("to")
    if to == "open" and entry.message != "forced":
        yield _trouble(entry, Signal.CIRCUIT, entry.model)
    elif to == "closed":
        yield _over(entry, Signal.CIRCUIT, entry.model, f"circuit of {entry.model or entry.provider} closed")


def _credential(entry: Entry) -> Iterator[Sign]:
    """A caller's own key is the caller's affair; a key that has changed is worth a new try."""
    if not entry.error:
        yield _over(entry, Signal.CREDENTIAL, reason="the credential has changed")
        yield _over(entry, Signal.QUOTA, reason="the credential has changed")
    elif not entry.detail.get("callers_key"):
        signal = Signal.QUOTA if entry.error == "quota_exceeded" else Signal.CREDENTIAL
        yield _trouble(entry, signal, entry.model)


_SIGNS: Final[Mapping[str, Callable[[Entry], Iterator[Sign]]]] = {
    "provider_down": lambda entry: _health(entry, Signal.DOWN),
    "provider_degraded": lambda entry: _health(entry, Signal.DEGRADED),
    "provider_recovered": _recovered,
    "circuit": _circuit,
    "credential": _credential,
}
