"""The health book: how every provider is, and an event for each change of it.

It reads what the cluster has recorded (the pulse, circuit and cool-downs of every target) once a second, and whenever
somebody asks if that costs little, so that nothing of it stands on the way of a request. What a reading means is
decided in `policy.health`; here they are gathered, providers are held against routes, and changes are published.

A **route** is well while a target of its first tier is, degraded while only others (or an ill primary) are left to
answer, and down when nobody is. The whole is as its routes are (`resilience.md` 3.14): degraded when a route is,
and down when the callers of some route are answered by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from proxy.base.outcome import Class
from proxy.base.target import Target
from proxy.engine.cluster import Cluster, TargetState
from proxy.observe.entry import Entry
from proxy.policy.health import WELL, Health, Probed, Reading, Signs, Status, Step, Watch, combined, worst
from proxy.policy.pulse import WINDOW_S
from proxy.policy.verdict import Mark

T = TypeVar("T")

STEP: Final = 32
"""Targets, providers or routes looked at in one go: less than a millisecond of work."""
GLANCE_MAX: Final = 128
"""So many targets are looked at before a report of them is made."""
KEYLESS_S: Final = 5.0
"""A credential that is missing for so long makes its provider "down"."""
TOLD_STEP: Final = 4
"""Changes told in one go."""
MODELS_TOLD_MAX: Final = 32
"""Models that an event names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A provider as the configuration has it."""

    name: str
    region: str
    dialect: str
    disabled: str
    """Why it takes no calls; empty: it does."""
    models: tuple[str, ...]
    """Names it is called with, as far as they are spelled out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One target of a route."""

    provider: str
    model: str
    """Empty: as the caller asks."""
    leads: bool
    """It is of the first tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What of a configuration matters here."""

    providers: Mapping[str, Known]
    routes: Mapping[str, tuple[Link, ...]]
    failure_threshold: int = 3
    success_threshold: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHealth:
    """A route at one moment."""

    name: str
    status: Status
    serving: str
    """First provider of the chain that can answer; empty: none."""


class HealthBook:
    """Times inside are monotonic seconds."""

    def __init__(
        self,
        cluster: Cluster,
        layout: Layout,
        publish: Callable[[Entry], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        lacks_key: Callable[[str], bool] = lambda provider: False,
    ) -> None:
        """`publish`: tells entries to the bus. `lacks_key`: whether the credential of a provider is not there."""
        self.cluster = cluster
        self.layout = layout
        self._publish = publish
        self._clock = clock
        self._wall = wall
        self._lacks_key = lacks_key
        self._keyless: dict[str, float] = {}
        """Since when providers have been without their credential."""
        self._watches: dict[Target, Watch] = {}
        self._states: dict[str, list[TargetState]] = {}
        """Targets by provider, as they were at the last look."""
        self._answering: set[str] = set()
        """Providers that had answered something, at the last look."""
        self._unknown: set[str] = set()
        """Models that one of those does not know."""
        self._answers: dict[tuple[str, str], Status] = {}
        """Whether a provider's model could answer at the last look; an empty name stands for any."""
        self._healths: dict[str, Health] = {}
        self._probes: dict[str, Probed] = {}
        self.routes: tuple[RouteHealth, ...] = ()
        self.overall = Status.HEALTHY
        self._unwell_since: float | None = None
        """Since when the whole is not healthy; None: it is."""
        self.adopt(layout)

    def adopt(self, layout: Layout) -> None:
        """Follow a configuration, the first or another one."""
        self.layout = layout
        self._answers = {}
        for held in (self._healths, self._probes, self._keyless):
            for name in [name for name in held if name not in layout.providers]:
                del held[name]
        now = self._clock()
        self.routes = tuple(self._judge_route(name, links, now) for name, links in layout.routes.items())

    # Feeding ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at everything now, in one go, and tell what has changed."""
        for _ in self.look():
            pass

    def glance(self) -> None:
        """As `tick` where that costs little; where it does not, the last look, of a second ago, must do."""
        if self.cluster.known <= GLANCE_MAX:
            self.tick()

    def look(self) -> Iterator[None]:
        """As `tick`, with a pause after every `STEP` things. It ends early when another configuration is adopted: there
        is nothing to be told of the old one."""
        layout = self.layout
        for _ in self._look(layout):
            yield
            if self.layout is not layout:
                return

    def _look(self, layout: Layout) -> Iterator[None]:
        known, answering, unknown = self.cluster.states(), set[str](), list[TargetState]()
        yield from _steps(known, lambda state: self._sort(state, answering, unknown))
        self._answering = answering
        self._unknown = {state.target.model for state in unknown if state.target.provider in answering}
        readings: dict[str, list[tuple[TargetState, Reading]]] = {}
        watches: dict[Target, Watch] = {}
        states: dict[str, list[TargetState]] = {}
        yield from _steps(known, lambda state: self._read(state, readings, watches, states))
        self._watches, self._states = watches, states
        told = 0
        for place, name in enumerate(layout.providers, 1):
            # Each that is told may open an incident and be told to every reader: that is far more work than a look.
            told += self._judge(name, readings.get(name, []))
            if place % STEP == 0 or told == TOLD_STEP:
                told = 0
                yield
        self._answers = {}
        routes: list[RouteHealth] = []
        yield from _steps(layout.routes.items(), lambda route: routes.append(self._judge_route(*route, self._clock())))
        self.routes = tuple(routes)
        self._judge_all(self._clock())

    def probed(self, provider: str, passed: bool, deep: bool) -> None:
        """An active probe has ended."""
        if provider not in self.layout.providers:
            return
        now = self._clock()
        probed = self.probes(provider)
        was_down, cleared_at = probed.is_down, probed.cleared_at
        sees = deep and self.health(provider).status is Status.DOWN
        probed.took(passed, sees, self.layout.failure_threshold, self.layout.success_threshold, now)
        if not passed or deep or was_down:
            self.cluster.probed(provider, passed, now)
        if probed.cleared_at != cleared_at:
            for state in self.cluster.states():
                if state.target.provider == provider:
                    state.pulse.settled()
        self.glance()

    def targets(self, provider: str) -> list[TargetState]:
        """The known targets of a provider, as they were at the last look."""
        return self._states.get(provider, [])

    def health(self, provider: str) -> Health:
        """The machine of a provider."""
        found = self._healths.get(provider)
        if found is None:
            found = self._healths[provider] = Health(self._clock())
        return found

    def probes(self, provider: str) -> Probed:
        """What probes have found of a provider."""
        return self._probes.setdefault(provider, Probed())

    # Readings ---------------------------------------------------------------------------------------------------------

    def _sort(self, state: TargetState, answering: set[str], unknown: list[TargetState]) -> None:
        if state.pulse.good_at >= 0.0:
            answering.add(state.target.provider)
        elif _is_unknown(state, self._clock()):
            unknown.append(state)

    def _read(
        self,
        state: TargetState,
        readings: dict[str, list[tuple[TargetState, Reading]]],
        watches: dict[Target, Watch],
        states: dict[str, list[TargetState]],
    ) -> None:
        """The reading of one target, put where it belongs."""
        now, target = self._clock(), state.target
        states.setdefault(target.provider, []).append(state)
        if target.credential and now - state.pulse.seen_at > WINDOW_S:
            return  # a caller who has gone; there may be a thousand of them
        watch = self._watches.get(target) or Watch()
        watches[target] = watch
        cleared_at = self.probes(target.provider).cleared_at if target.provider in self._probes else -1e9
        reading = watch.read(state.pulse, self._signs(state, now), cleared_at, now)
        if not self.is_slip(state, now):
            readings.setdefault(target.provider, []).append((state, reading))

    def _judge(self, name: str, found: list[tuple[TargetState, Reading]]) -> bool:
        """Let the machine of a provider follow the readings of its targets; whether there was something to tell."""
        if self.layout.providers[name].disabled:
            return False
        step = self.health(name).judge(self._of_provider(name, found), self._clock())
        if step is not None:
            if step.to is Status.DOWN:
                self.probes(name).doubt()
            self._tell(name, step, found)
        return step is not None

    def is_slip(self, state: TargetState, now: float) -> bool:
        """Whether a provider does not know a model that only a caller ever named. Whoever mistypes a name must not wake
        anybody. But a provider that has never answered anything may have a wrong address, and every model is unknown
        there: then it must be one of which a provider that does answer knows nothing either."""
        if not _is_unknown(state, now):
            return False
        target = state.target
        known = self.layout.providers.get(target.provider)
        if known is not None and target.model in known.models:
            return False
        return target.provider in self._answering or target.model in self._unknown

    def _signs(self, state: TargetState, now: float) -> Signs:
        # What a caller's own credential is refused for says nothing about the provider.
        cooling_s = 0.0 if state.target.credential else state.cooling_s(now)
        return Signs(
            circuit=state.breaker.peek(now),
            forced=self.cluster.is_forced(state.target, now),
            slow=state.breaker.mark(now) is Mark.SLOW,
            overdue=state.breaker.evidence.overdue(state.pulse.good_began, now) if state.inflight else (),
            cooling_s=cooling_s,
            cooling_reason=state.cooling_reason(now),
            whole=cooling_s > 0.0 and state.credential_cooldown.remaining_s(now) >= cooling_s,
        )

    def _of_provider(self, name: str, found: list[tuple[TargetState, Reading]]) -> Reading:
        if self._is_keyless(name):
            return Reading(status=Status.DOWN, reason=str(Class.AUTH), whole=True)
        reading = combined((reading, state.pulse.good_at) for state, reading in found)
        probed = self._probes.get(name)
        if probed is not None and probed.is_down and reading.status is not Status.DOWN:
            return Reading(status=Status.DOWN, reason="probe", whole=True)
        return reading

    def _is_keyless(self, name: str) -> bool:
        """Whether a provider's own credential has been missing for so long that it is no matter of the start, or of a
        file that is being replaced. Every call of it is left out meanwhile."""
        if not self._lacks_key(name):
            self._keyless.pop(name, None)
            return False
        now = self._clock()
        return now - self._keyless.setdefault(name, now) >= KEYLESS_S

    def reading(self, target: Target) -> Reading:
        """The latest reading of a target."""
        watch = self._watches.get(target)
        return WELL if watch is None else watch.last

    # Routes -----------------------------------------------------------------------------------------------------------

    def _judge_route(self, name: str, links: tuple[Link, ...], now: float) -> RouteHealth:
        seen = [(link, self.of_link(name, link, now)) for link in links]
        serving = next((link.provider for link, status in seen if status is not Status.DOWN), "")
        if any(link.leads and status is Status.HEALTHY for link, status in seen):
            return RouteHealth(name=name, status=Status.HEALTHY, serving=serving)
        return RouteHealth(name=name, status=Status.DEGRADED if serving else Status.DOWN, serving=serving)

    def of_link(self, route: str, link: Link, now: float) -> Status:
        """Whether a target of a route could answer now: it is not down, not out, and its circuit does not refuse."""
        known = self.layout.providers.get(link.provider)
        if known is None or known.disabled:
            return Status.DOWN
        target = Target(link.provider, link.model)
        if self.cluster.absences and self.cluster.absence(target, route, now) is not None:
            return Status.DOWN
        key = link.provider, link.model
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self._answer(*key, now)
        return found

    def _answer(self, provider: str, model: str, now: float) -> Status:
        status = self.health(provider).status
        states = self._states.get(provider, [])
        if model:
            states = [state for state in states if state.target.model == model]
        else:
            states = [state for state in states if not self.is_slip(state, now)]
        if not states and self.cluster.forced_open_s(Target(provider, model), now) > 0.0:
            return Status.DOWN
        if status is Status.DOWN or not states:
            return status
        usable = (state for state in states if _wait_s(state, now) <= 0.0)
        first = next(usable, None)
        if first is None:
            return Status.DOWN
        if status is Status.DEGRADED and model:
            return worst(self.reading(state.target).status for state in (first, *usable))
        return status

    def _judge_all(self, now: float) -> None:
        before, self.overall = self.overall, worst(route.status for route in self.routes)
        if self.overall is before:
            return
        ill = [route for route in self.routes if route.status is not Status.HEALTHY]
        detail: dict[str, Any] = {
            "status": str(self.overall),
            "routes": [
                {"route": route.name, "status": str(route.status), "serving": route.serving or None}
                for route in ill[:32]
            ],
        }
        fallback = next((route.serving for route in ill if route.serving), "")
        if before is Status.HEALTHY:
            self._unwell_since = now
        elif self.overall is Status.HEALTHY:
            began, self._unwell_since = self._unwell_since, None
            self._entry("degraded_left", detail={"duration_s": None if began is None else round(now - began, 3)})
            return
        self._entry("degraded_entered", fallback=fallback, detail=detail)

    # Telling ----------------------------------------------------------------------------------------------------------

    def _tell(self, name: str, step: Step, found: list[tuple[TargetState, Reading]]) -> None:
        known = self.layout.providers[name]
        affected = sorted(
            {state.target.model for state, reading in found if reading.status is not Status.HEALTHY} - {""}
        )
        if step.reason == "probe":
            affected = sorted(known.models)
        detail: dict[str, Any] = {
            "status": str(step.to),
            "before": str(step.before),
            "affected_models": affected[:MODELS_TOLD_MAX],
        }
        if step.to is Status.HEALTHY:
            duration_s = None if step.duration_s is None else round(step.duration_s, 3)
            self._entry("provider_recovered", provider=name, region=known.region, detail={"duration_s": duration_s})
            return
        fallback = self.fallback_of(name)
        detail |= {"reason": step.reason, "fallback_provider": fallback or None}
        kind = "provider_down" if step.to is Status.DOWN else "provider_degraded"
        self._entry(kind, provider=name, region=known.region, error=step.reason, fallback=fallback, detail=detail)

    def fallback_of(self, provider: str) -> str:
        """Who answers at present where `provider` comes first; empty: nobody does, or it comes first nowhere."""
        now = self._clock()
        for route, links in self.layout.routes.items():
            if links and links[0].provider == provider:
                for link in links[1:]:
                    if link.provider != provider and self.of_link(route, link, now) is not Status.DOWN:
                        return link.provider
        return ""

    def _entry(self, kind: str, **fields: Any) -> None:
        self._publish(Entry(at=self._wall(), kind=kind, **fields))

    # Asking -----------------------------------------------------------------------------------------------------------

    def is_absent(self, provider: str) -> bool:
        """Whether an operator has taken all of a provider out."""
        return any(
            absence.provider == provider and not absence.model and not absence.route
            for absence in self.cluster.absences
        )

    def whole(self) -> str:
        """The status of the whole for counting seconds. A route whose targets an operator has all taken out counts no
        more than such a provider does; ``maintenance``: there is no other route."""
        if self.overall is not Status.DOWN or not self.cluster.absences:
            return str(self.overall)
        judged = [
            route.status for route in self.routes if route.status is not Status.DOWN or not self.is_out(route.name)
        ]
        return str(worst(judged)) if judged else "maintenance"

    def is_out(self, route: str) -> bool:
        """Whether an operator has taken out whatever could answer a route."""
        if not self.cluster.absences:
            return False
        known, now = self.layout.providers, self._clock()
        targets = [
            Target(link.provider, link.model)
            for link in self.layout.routes[route]
            if link.provider in known and not known[link.provider].disabled
        ]
        return bool(targets) and all(self.cluster.absence(each, route, now) is not None for each in targets)

    def states(self) -> dict[str, str]:
        """The status of every provider that takes calls, or ``maintenance``; for counting seconds."""
        return {
            name: "maintenance" if self.is_absent(name) else str(self.health(name).status)
            for name, known in self.layout.providers.items()
            if not known.disabled
        }


def _is_unknown(state: TargetState, now: float) -> bool:
    """Whether a target is out because its model is not known there, and never was."""
    cooldown = state.cooldown
    return cooldown.reason == Class.MODEL_NOT_FOUND and cooldown.remaining_s(now) > 0.0 and state.pulse.good_at < 0.0


def _wait_s(state: TargetState, now: float) -> float:
    """Seconds until a target can be called again; a caller's own credential that is refused is that caller's affair."""
    return state.breaker.retry_after_s(now) if state.target.credential else state.unavailable_s(now)


def _steps(each: Iterable[T], act: Callable[[T], None]) -> Iterator[None]:
    """Do something with each of many; hands back after every `STEP`."""
    for place, one in enumerate(each, 1):
        act(one)
        if place % STEP == 0:
            yield
