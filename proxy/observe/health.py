"""The health book: how every provider is, and an event for each change of it.

It reads what the cluster has recorded (the pulse, circuit and cool-downs of every target) once a second and whenever
somebody asks, so that nothing of it stands on the way of a request. What a reading means is decided in `policy.health`;
here the readings are gathered, providers are held against routes, and changes are published.

A **route** is well while a target of its first tier is, degraded while only others (or an ill primary) are left to
answer, and down when nobody is. The whole is as its routes are (`resilience.md` 3.14): degraded when a route is,
and down when the callers of some route are answered by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.target import Target
from proxy.engine.cluster import Cluster, TargetState
from proxy.observe.entry import Entry
from proxy.policy.health import WELL, Health, Probed, Reading, Signs, Status, Step, Watch, combined, worst
from proxy.policy.pulse import WINDOW_S
from proxy.policy.verdict import Mark

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
    ) -> None:
        """`publish`: tells entries to the bus."""
        self.cluster = cluster
        self.layout = layout
        self._publish = publish
        self._clock = clock
        self._wall = wall
        self._watches: dict[Target, Watch] = {}
        self._states: dict[str, list[TargetState]] = {}
        """Targets by provider, as they were at the last look."""
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
        for held in (self._healths, self._probes):
            for name in [name for name in held if name not in layout.providers]:
                del held[name]
        self.routes = self._judge_routes(self._clock())

    # Feeding ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at everything now, and tell what has changed. Once a second, and before anybody is answered."""
        now = self._clock()
        readings = self._read(now)
        for name, known in self.layout.providers.items():
            if known.disabled:
                continue
            reading = self._of_provider(name, readings.get(name, []))
            step = self.health(name).judge(reading, now)
            if step is not None:
                if step.to is Status.DOWN:
                    self.probes(name).doubt()
                self._tell(name, step, readings.get(name, []))
        self._answers = {}
        self.routes = self._judge_routes(now)
        self._judge_all(now)

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
        self.tick()

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

    def _read(self, now: float) -> dict[str, list[tuple[TargetState, Reading]]]:
        """The reading of every target that is known, by provider."""
        found: dict[str, list[tuple[TargetState, Reading]]] = {}
        watches = {}
        self._states = {}
        for state in self.cluster.states():
            target = state.target
            self._states.setdefault(target.provider, []).append(state)
            if target.credential and now - state.pulse.seen_at > WINDOW_S:
                continue  # a caller who has gone; there may be a thousand of them
            watch = self._watches.get(target) or Watch()
            watches[target] = watch
            cleared_at = self.probes(target.provider).cleared_at if target.provider in self._probes else -1e9
            reading = watch.read(state.pulse, self._signs(state, now), cleared_at, now)
            found.setdefault(target.provider, []).append((state, reading))
        self._watches = watches
        return found

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
        reading = combined((reading, state.pulse.good_at) for state, reading in found)
        probed = self._probes.get(name)
        if probed is not None and probed.is_down and reading.status is not Status.DOWN:
            return Reading(status=Status.DOWN, reason="probe", whole=True)
        return reading

    def reading(self, target: Target) -> Reading:
        """The latest reading of a target."""
        watch = self._watches.get(target)
        return WELL if watch is None else watch.last

    # Routes -----------------------------------------------------------------------------------------------------------

    def _judge_routes(self, now: float) -> tuple[RouteHealth, ...]:
        return tuple(self._judge_route(name, links, now) for name, links in self.layout.routes.items())

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
        states = [state for state in self._states.get(provider, ()) if model in ("", state.target.model)]
        if status is Status.DOWN or not states:
            return status
        usable = [state for state in states if _wait_s(state, now) <= 0.0]
        if not usable:
            return Status.DOWN
        if status is Status.DEGRADED and model:
            return worst(self.reading(state.target).status for state in usable)
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
        now = self._clock()
        judged = [
            route.status
            for route in self.routes
            if route.status is not Status.DOWN or not self._is_out(route.name, now)
        ]
        return str(worst(judged)) if judged else "maintenance"

    def _is_out(self, route: str, now: float) -> bool:
        """Whether an operator has taken out whatever could answer a route."""
        known = self.layout.providers
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


def _wait_s(state: TargetState, now: float) -> float:
    """Seconds until a target can be called again; a caller's own credential that is refused is that caller's affair."""
    return state.breaker.retry_after_s(now) if state.target.credential else state.unavailable_s(now)
