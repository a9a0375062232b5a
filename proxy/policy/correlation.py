"""From signs to incidents: what went wrong with a provider, from when to when, whom it met, and is it over? (G4)

One incident per cause, not one per error. Within a family the signals are stages of one story: a breaker opens, then
the whole provider is found down, and both are the same incident, which escalates. A case, the state of one cause, is
opened by signals and fed by failed attempts:

* A **signal** holds from its trouble until its end: a circuit is open, the provider is down. Signals that nobody ends
  (a refused key, a rate limit) lapse when they have not been renewed for a while.
* **Failures** alone open nothing but rate limits, of which the fifth in a minute does. They give the beginning, the
  evidence and the numbers: an incident begins with the first failure of the run that led to the signal.
* **Refusals** of callers by a cool-down are no failures of the provider, who was not asked. But callers that have been
  turned away for half a minute are as many rate limits to them: a told wait of 20 s, renewed again and again, is never
  the fifth in a minute, and the provider looks well in between.

When the last signal has ended the case is quiet for `HOLD_S`, so that a provider that comes and goes makes one incident
and not ten; after that the incident is resolved, and it ended when the last signal did. What is in announced
maintenance neither opens nor feeds an incident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from proxy.policy.cause import LIMITED_ERRORS, MODELS_MAX, Active, Case, Run
from proxy.policy.incident import (
    Change,
    Failed,
    Family,
    Incident,
    Met,
    Moment,
    Over,
    Severity,
    Sign,
    Signal,
    Trouble,
    Type,
    family_of,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    type: Type | None
    family: Family
    ripe_s: float = 0.0
    """How long the signal must hold before it opens an incident."""
    lapse_s: float = float("inf")
    """After so long without being renewed it is over."""


SLOW_RIPE_S: Final = 30.0
"""A provider that is merely slow is no incident before this (`resilience.md` 3.6)."""
HOLD_S: Final = 15.0
"""Quiet time before an incident is resolved: longer than a breaker needs to open again after it closed too early."""
_RULES: Final[Mapping[Signal, _Rule]] = {
    Signal.DOWN: _Rule(Type.OUTAGE, Family.AVAILABILITY),
    Signal.CIRCUIT: _Rule(Type.PARTIAL_OUTAGE, Family.AVAILABILITY),
    Signal.DEGRADED: _Rule(Type.DEGRADED_PERFORMANCE, Family.AVAILABILITY, ripe_s=SLOW_RIPE_S),
    Signal.LIMITED: _Rule(Type.RATE_LIMITING, Family.RATE_LIMITING, lapse_s=60.0),
    Signal.COOLING: _Rule(Type.RATE_LIMITING, Family.RATE_LIMITING, ripe_s=SLOW_RIPE_S),
    # A refused key or an empty account takes the target out for 300 s at a time (`resilience.md` 3.3): not being
    # refused again after that, and as long once more, is the sign that somebody has mended it.
    Signal.QUOTA: _Rule(Type.RATE_LIMITING, Family.RATE_LIMITING, lapse_s=600.0),
    Signal.CREDENTIAL: _Rule(Type.CREDENTIAL, Family.CREDENTIAL, lapse_s=600.0),
    Signal.UNKNOWN: _Rule(None, Family.AVAILABILITY, lapse_s=300.0),
}
_RANK: Final = {Type.DEGRADED_PERFORMANCE: 0, Type.PARTIAL_OUTAGE: 1, Type.OUTAGE: 2}
"""Types of one family, the later the worse. An incident keeps the worst it has had."""
BASE: Final[Mapping[Type, Severity]] = {
    Type.OUTAGE: Severity.HIGH,
    Type.PARTIAL_OUTAGE: Severity.MEDIUM,
    Type.DEGRADED_PERFORMANCE: Severity.LOW,
    Type.RATE_LIMITING: Severity.LOW,
    Type.CREDENTIAL: Severity.HIGH,
}
"""Severity while fallbacks answer everything."""
VISIBLE_ERRORS: Final = 3
"""From so many requests that failed for their callers an incident is one step more severe."""
LIMITED_WINDOW_S: Final = 60.0
"""So many rate limits within this time are an incident; fewer are the day's business."""
GAP_S: Final = 15.0
"""A pause of this length between two failures ends a run of them, while there is no incident."""
RUN_S_MAX: Final = 300.0
"""An incident begins at most this long before the signal that opened it."""
UPDATE_S: Final = 10.0
"""Least time between two updates that tell nothing but other numbers."""
REMINDERS_MAX: Final = 3
"""How often nobody's acknowledgement is told."""
CASES_MAX: Final = 1024
TIMELINE_MAX: Final = 50
"""Entries of a timeline: the first ten and the last forty are kept."""


class Machine:
    """All causes. `step` and `tick` return what has changed, in order."""

    def __init__(self, ids: Callable[[], str], remind_s: float = 900.0) -> None:
        """`ids` makes the id of an incident; `remind_s`: time without acknowledgement before it is told, 0: never."""
        self._ids = ids
        self.remind_s = remind_s
        self._cases: dict[tuple[str, Family], Case] = {}
        self._out: frozenset[tuple[str, str]] = frozenset()
        self.refused = 0
        """Signs of causes that found no room."""

    def open(self) -> list[Incident]:
        """The incidents that are open, with the numbers that were told last."""
        return [case.incident for case in self._cases.values() if case.incident is not None]

    def present(self, incident: Incident) -> Incident:
        """`incident` with its numbers of now, while it is open."""
        case = self._cases.get((incident.provider, incident.family))
        if case is None or case.incident is None or case.incident.id != incident.id:
            return incident
        return _fresh(case, case.incident)

    def changed(self, most: int) -> list[Incident]:
        """At most so many incidents whose numbers have changed since they were told or asked for here."""
        found: list[Incident] = []
        for case in self._cases.values():
            if case.is_unsaved and case.incident is not None and len(found) < most:
                case.is_unsaved = False
                found.append(_fresh(case, case.incident))
        return found

    def circuits(self) -> list[tuple[str, str]]:
        """(provider, model) of the circuits that are said to be open."""
        return [
            (case.provider, model)
            for case in self._cases.values()
            for signal, model in case.signals
            if signal is Signal.CIRCUIT
        ]

    def restore(self, incident: Incident, now: float) -> list[Change]:
        """Go on with an incident that was open when the process ended. What does not come back ends by itself.

        The file may have been readable late, when the same cause had opened another one: that one is ended as what it
        is, and its numbers are those of the older one from here on.
        """
        case = self._cases.setdefault((incident.provider, incident.family), Case(incident.provider))
        newer = _fresh(case, case.incident) if case.incident is not None else None
        case.run.follow(incident)
        case.region = case.region or incident.region
        case.models = dict.fromkeys((*incident.models, *case.models)[:MODELS_MAX])
        case.incident = incident
        if newer is None:
            if not case.signals:
                case.signals[Signal.UNKNOWN, ""] = Active(now, now, "not seen again after a restart")
            return []
        if incident.acknowledged_at is None:
            incident = replace(incident, acknowledged_at=newer.acknowledged_at, acknowledged_by=newer.acknowledged_by)
        case.incident = _noted(incident, now, "signal", f"seen again after a restart, as {newer.id}")
        why = f"it is incident {incident.id}, which an earlier run of the process has opened"
        ended = _noted(replace(newer, ended_at=now, resolution=why), now, "resolved", why)
        return [
            Change(kind="resolved", at=now, incident=ended),
            _change(case, "updated", now),
            *_escalated(case, newer.type, now),
        ]

    def forget(self, is_gone: Callable[[str], bool], now: float) -> list[Change]:
        """Providers that are configured no more have no incidents."""
        changes = []
        for key in [key for key in self._cases if is_gone(key[0])]:
            case = self._cases.pop(key)
            if case.incident is not None:
                changes.append(_resolved(case, now, now, "the provider is not configured any more"))
        return changes

    def step(self, sign: Sign) -> list[Change]:
        """Take in one sign."""
        if isinstance(sign, Trouble):
            return self._troubled(sign)
        if isinstance(sign, Over):
            return self._over(sign)
        family = family_of(sign.error)
        if family is None or self._is_out(sign.provider, sign.model):
            return []
        return self._failed(sign, family) if isinstance(sign, Failed) else self._met(sign, family)

    def tick(self, now: float, out: frozenset[tuple[str, str]] = frozenset()) -> list[Change]:
        """What time alone brings; once a second. `out`: what is in announced maintenance, as (provider, model) with an
        empty model for all of them."""
        return [change for changes in self.ticks(now, out) for change in changes]

    def ticks(self, now: float, out: frozenset[tuple[str, str]] = frozenset()) -> Iterator[list[Change]]:
        """As `tick`, cause by cause: signs may come in between."""
        self._out = out
        for key, case in list(self._cases.items()):
            if self._cases.get(key) is not case:
                continue  # it was forgotten meanwhile
            _lapse(case, now)
            changes = self._judge(case, now)
            if case.incident is not None:
                changes += _numbers(case, now)
                changes += self._remind(case, now)
            elif not case.signals and now - case.run.last_at > RUN_S_MAX:
                del self._cases[key]
            yield changes

    def acknowledge(self, id: str, by: str, now: float) -> Incident | None:
        """Somebody looks after it; None: there is no open incident of this id. The first word counts."""
        case = next((c for c in self._cases.values() if c.incident is not None and c.incident.id == id), None)
        if case is None or case.incident is None:
            return None
        if case.incident.acknowledged_at is None:
            case.incident = _noted(
                replace(case.incident, acknowledged_at=now, acknowledged_by=by), now, "acknowledged", by
            )
        return case.incident

    # Signs ------------------------------------------------------------------------------------------------------------

    def _case(self, provider: str, family: Family) -> Case | None:
        found = self._cases.get((provider, family))
        if found is None:
            if len(self._cases) >= CASES_MAX:
                self.refused += 1
                return None
            found = self._cases[provider, family] = Case(provider)
        return found

    def _is_out(self, provider: str, model: str) -> bool:
        return (provider, "") in self._out or (provider, model) in self._out

    def _met(self, sign: Met, family: Family) -> list[Change]:
        """A request that was kept away from the provider counts while an incident is open, and says nothing else but
        that callers are turned away."""
        case = self._cases.get((sign.provider, family))
        if case is None:
            return []
        if family is Family.RATE_LIMITING and sign.is_visible:
            return self._turned_away(case, sign)
        if case.incident is None:
            return []
        case.run.meet(sign)
        return _counted(case, sign.at)

    def _turned_away(self, case: Case, sign: Met) -> list[Change]:
        """A caller got the rate limit. A row of them is a sign, as long as nothing else says the same."""
        _go_on(case, sign.at)
        run = case.run
        run.started_at, run.last_at = run.started_at or sign.at, sign.at
        run.meet(sign)
        lasts_s = sign.at - run.started_at
        has_other = any(signal is not Signal.LIMITED for signal, _ in case.signals)
        if has_other or run.visible < LIMITED_ERRORS or lasts_s < SLOW_RIPE_S:
            return _counted(case, sign.at)
        reason = f"{run.visible} callers turned away within {lasts_s:.0f} s"
        return self._troubled(
            Trouble(at=sign.at, provider=sign.provider, signal=Signal.LIMITED, region=sign.region, reason=reason)
        )

    def _failed(self, sign: Failed, family: Family) -> list[Change]:
        case = self._case(sign.provider, family)
        if case is None:
            return []
        _go_on(case, sign.at)
        case.run.fail(sign)
        case.region = sign.region or case.region
        case.meets(sign.model)
        recent = case.run.recent
        if family is Family.RATE_LIMITING and len(recent) == LIMITED_ERRORS and sign.at - recent[0] <= LIMITED_WINDOW_S:
            reason = f"{LIMITED_ERRORS} rate limits within {sign.at - recent[0]:.0f} s"
            return self._troubled(
                Trouble(at=sign.at, provider=sign.provider, signal=Signal.LIMITED, region=sign.region, reason=reason)
            )
        return _counted(case, sign.at)

    def _troubled(self, sign: Trouble) -> list[Change]:
        case = self._case(sign.provider, _RULES[sign.signal].family)
        if case is None:
            return []
        case.region = sign.region or case.region
        for model in (sign.model, *sign.models):
            case.meets(model)
        known = case.signals.get((sign.signal, sign.model))
        if known is not None:
            known.seen = sign.at
            return _counted(case, sign.at)
        case.signals[sign.signal, sign.model] = Active(sign.at, sign.at, sign.reason)
        case.signals.pop((Signal.UNKNOWN, ""), None)
        if case.incident is not None:
            case.incident = _noted(case.incident, sign.at, "signal", _told(sign.signal, sign.model, sign.reason))
        return self._judge(case, sign.at)

    def _over(self, sign: Over) -> list[Change]:
        case = self._cases.get((sign.provider, _RULES[sign.signal].family))
        if case is None:
            return []
        ended = [key for key in case.signals if key[0] is sign.signal and sign.model in ("", key[1])]
        for key in ended:
            del case.signals[key]
            if case.incident is not None:
                text = sign.reason or f"{_told(*key, '')} no more"
                case.incident = _noted(case.incident, sign.at, "signal_over", text)
        return self._judge(case, sign.at) if ended else []

    # Judgement --------------------------------------------------------------------------------------------------------

    def _judge(self, case: Case, now: float) -> list[Change]:
        """Open, escalate, quieten or resolve by the signals that hold."""
        holding = {key: active for key, active in case.signals.items() if not self._is_out(case.provider, key[1])}
        if not holding:
            return self._quiet(case, now)
        types = [
            rule.type
            for (signal, _), active in holding.items()
            if (rule := _RULES[signal]).type is not None and now - active.since >= rule.ripe_s
        ]
        worst = max(types, key=lambda each: _RANK.get(each, 0), default=None)
        if case.incident is None:
            return [self._opened(case, worst, holding, now)] if worst is not None else []
        if case.quiet_at is not None:
            case.quiet_at = None
            case.incident = _noted(case.incident, now, "returned", "it is back")
        return _escalated(case, worst, now)

    def _quiet(self, case: Case, now: float) -> list[Change]:
        if case.incident is None:
            return []
        if case.quiet_at is None:
            case.quiet_at = now
            case.incident = _noted(case.incident, now, "quiet", "no sign of it is left")
        if now - case.quiet_at < HOLD_S:
            return []
        last = next((each for each in reversed(case.incident.timeline) if each.what == "signal_over"), None)
        if self._is_out(case.provider, ""):
            why = "announced maintenance began"
        else:
            why = last.text if last is not None else "no sign of it is left"
        return [_resolved(case, case.quiet_at, now, why)]

    def _opened(self, case: Case, type: Type, holding: Mapping[tuple[Signal, str], Active], now: float) -> Change:
        run = case.run
        began = min(active.since for active in holding.values())
        if run.errors and run.last_at >= began - GAP_S:
            began = max(min(began, run.started_at), now - RUN_S_MAX)
        incident = Incident(
            id=self._ids(),
            provider=case.provider,
            region=case.region,
            family=next(_RULES[signal].family for signal, _ in holding),
            type=type,
            types=(type,),
            severity=_severity(type, run),
            started_at=began,
            opened_at=now,
            peers=tuple(sorted({each.provider for each in self.open()} - {case.provider})),
        )
        signals = "; ".join(_told(*key, active.reason) for key, active in holding.items())
        case.incident = _noted(incident, now, "opened", signals)
        case.quiet_at = None
        return _change(case, "opened", now)

    def _remind(self, case: Case, now: float) -> Iterable[Change]:
        """Tell that nobody looks after it. A low one may wait till the morning."""
        incident = case.incident
        if (
            incident is None
            or self.remind_s <= 0
            or incident.acknowledged_at is not None
            or incident.severity is Severity.LOW
            or incident.reminders >= REMINDERS_MAX
            or now - incident.opened_at < self.remind_s * (incident.reminders + 1)
        ):
            return ()
        text = f"nobody has acknowledged it for {(now - incident.opened_at) / 60:.0f} min"
        case.incident = _noted(replace(incident, reminders=incident.reminders + 1), now, "unacknowledged", text)
        return (_change(case, "unacknowledged", now),)


def _go_on(case: Case, now: float) -> None:
    """Begin another run after a pause, while nothing is known to be wrong."""
    if case.incident is None and not case.signals and now - case.run.last_at > GAP_S:
        case.run = Run()


def _lapse(case: Case, now: float) -> None:
    """End the signals that were not renewed."""
    for key, active in list(case.signals.items()):
        if now - active.seen > _RULES[key[0]].lapse_s:
            del case.signals[key]
            if case.incident is None:
                continue
            text = active.reason if key[0] is Signal.UNKNOWN else f"{_told(*key, '')} no more"
            case.incident = _noted(case.incident, now, "signal_over", text)
            if not case.signals and case.quiet_at is None:
                case.quiet_at = active.seen


def _severity(type: Type, run: Run) -> Severity:
    return Severity(min(Severity.CRITICAL, BASE[type] + (run.visible >= VISIBLE_ERRORS)))


def _escalated(case: Case, worst: Type | None, now: float) -> list[Change]:
    """Follow a worse type or a greater severity; an incident never gets milder."""
    incident = case.incident
    if incident is None:
        return []
    type = incident.type if worst is None else max(incident.type, worst, key=lambda each: _RANK.get(each, 0))
    severity = max(incident.severity, _severity(type, case.run))
    if (type, severity) == (incident.type, incident.severity):
        return []
    text = f"{type.value.replace('_', ' ')}, {severity.word}"
    types = incident.types if type in incident.types else (*incident.types, type)
    case.incident = _noted(replace(incident, type=type, types=types, severity=severity), now, "escalated", text)
    return [_change(case, "escalated", now)]


def _counted(case: Case, now: float) -> list[Change]:
    """The numbers have changed: tell it now if that makes it worse, else with the next update."""
    if case.incident is None:
        return []
    case.is_stale = case.is_unsaved = True
    return _escalated(case, None, now)


def _numbers(case: Case, now: float) -> list[Change]:
    if not case.is_stale or now - case.told_at < UPDATE_S:
        return []
    return [_change(case, "updated", now)]


def _resolved(case: Case, ended_at: float, now: float, why: str) -> Change:
    """End the incident of `case`, and begin with empty hands."""
    assert case.incident is not None
    ended_at = max(ended_at, case.incident.started_at)
    case.incident = _noted(replace(case.incident, ended_at=ended_at, resolution=why), now, "resolved", why)
    change = _change(case, "resolved", now)
    case.incident, case.quiet_at, case.run, case.models = None, None, Run(), {}
    return change


def _change(case: Case, kind: str, now: float) -> Change:
    """The incident with the numbers of its case, as `kind` tells it."""
    assert case.incident is not None
    case.is_stale, case.is_unsaved, case.told_at = False, False, now
    case.incident = _fresh(case, case.incident)
    return Change(kind=kind, at=now, incident=case.incident)


def _fresh(case: Case, incident: Incident) -> Incident:
    run = case.run
    return replace(
        incident,
        region=case.region,
        models=tuple(case.models),
        cause=_cause(case, incident.type),
        errors=dict(run.errors),
        samples=tuple(run.samples),
        affected_requests=run.affected,
        failed_over=run.failed_over,
        user_visible_errors=run.visible,
    )


def _cause(case: Case, type: Type) -> str:
    """A sentence: what the provider does, and with which failures."""
    does = {
        Type.OUTAGE: "does not answer",
        Type.PARTIAL_OUTAGE: "fails for some models",
        Type.DEGRADED_PERFORMANCE: "answers late or not always",
        Type.RATE_LIMITING: "refuses calls for their number",
        Type.CREDENTIAL: "refuses the sidecar's credential",
    }[type]
    most = sorted(case.run.errors.items(), key=lambda item: -item[1])[:3]
    errors = ", ".join(f"{count} x {name}" for name, count in most)
    return f"{case.provider} {does}{f': {errors}' if errors else ''}"


def _told(signal: Signal, model: str, reason: str) -> str:
    words = {
        Signal.DOWN: "provider down",
        Signal.CIRCUIT: "circuit open",
        Signal.DEGRADED: "provider degraded",
        Signal.LIMITED: "rate limited",
        Signal.COOLING: "told to wait",
        Signal.QUOTA: "quota exceeded",
        Signal.CREDENTIAL: "credential refused",
        Signal.UNKNOWN: "restarted",
    }[signal]
    return f"{words}{f' ({model})' if model else ''}{f': {reason}' if reason else ''}"


def _noted(incident: Incident, at: float, what: str, text: str) -> Incident:
    """`incident` with one more entry in its timeline."""
    timeline = (*incident.timeline, Moment(at=at, what=what, text=text))
    if len(timeline) > TIMELINE_MAX:
        timeline = (*timeline[:10], *timeline[10 - TIMELINE_MAX :])
    return replace(incident, timeline=timeline)
