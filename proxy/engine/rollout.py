"""The canaries of all routes: who takes part, what is observed of a finished request, what is told.

A request takes part when its plan has two arms: the ordinary chain, and the same chain with the canary's targets before
it (`Plan.lead`). Which of them it gets is decided once, before the first attempt. So a canary that fails is an ordinary
failure of a first target: others answer, and the caller learns of it from ``X-Failover`` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.outcome import Class, Group, Outcome
from proxy.engine.attempt import Attempt
from proxy.engine.attempts import Attempts
from proxy.engine.plan import Plan
from proxy.policy.canary import Arm, Canary, Settings, State, Verdict

REFUSALS: Final = frozenset(
    cls.value
    for cls in (
        Class.CIRCUIT_OPEN,
        Class.RATE_LIMIT,
        Class.MODEL_OVERLOADED,
        Class.QUOTA_EXCEEDED,
        Class.AUTH,
        Class.PERMISSION,
        Class.MODEL_NOT_FOUND,
    )
)
"""Reasons for which a target was left out that speak against it."""
SILENT: Final = frozenset({"superseded", "downstream", "deadline"})
"""Ends without content that say how long a target took at least. One that was drained says nothing."""


@dataclass(frozen=True, slots=True)
class CanaryMoved:
    """The canary of `route` was withdrawn (with the verdict) or resumed (without one)."""

    route: str
    state: State
    verdict: Verdict | None


class Rollout:
    """The canaries of the process, by route."""

    def __init__(self, tell: Callable[[CanaryMoved], None] = lambda event: None) -> None:
        self._tell = tell
        self._canaries: dict[str, Canary] = {}

    def adopt(self, settings: Mapping[str, Settings], now: float) -> None:
        """Follow a configuration. A canary whose settings have not changed stays as it is, withdrawn or not."""
        kept = {
            route: found
            for route, wanted in settings.items()
            if (found := self._canaries.get(route)) is not None and found.settings == wanted
        }
        made = {route: Canary(route, wanted, now) for route, wanted in settings.items() if route not in kept}
        self._canaries = kept | made

    def of_route(self, route: str) -> Canary | None:
        """The canary of a route; None: it has none."""
        return self._canaries.get(route)

    def takes(self, route: str, key: str | None, rng: Callable[[], float]) -> bool:
        """Whether a request of `route` is begun at the canary. `key`: what it sticks by; None: the dice decide."""
        canary = self._canaries.get(route)
        return canary is not None and canary.takes(key, rng)

    def withdraw(self, route: str, why: str, now: float) -> bool:
        """An operator takes a canary out; False: the route has none."""
        canary = self._canaries.get(route)
        if canary is not None:
            self._tell(CanaryMoved(route, State.WITHDRAWN, canary.withdraw(why, now)))
        return canary is not None

    def resume(self, route: str, now: float) -> bool:
        """Give a canary its share back; False: the route has none."""
        canary = self._canaries.get(route)
        if canary is not None:
            canary.resume(now)
            self._tell(CanaryMoved(route, State.RUNNING, None))
        return canary is not None

    # What a request has shown -----------------------------------------------------------------------------------------

    def ended(self, plan: Plan, machine: Attempts, now: float) -> None:
        """A request that took part is over. `machine`: the one it began with."""
        canary = self._canaries.get(plan.route)
        if canary is None or canary.state is State.WITHDRAWN:
            return
        lead = plan.lead
        ours = next((a for a in machine.attempts if a.index < lead), None)
        theirs = next((a for a in machine.attempts if a.index >= lead and _compared(canary.settings, a)), None)
        if lead and ours is None:
            self._refused(canary, True, plan.candidates[0].name, machine, now)
        elif not lead and theirs is None and not machine.attempts:
            self._refused(canary, False, plan.candidates[0].name, machine, now)
        for attempt in (ours, theirs):
            if attempt is not None:
                self._observed(canary, attempt, attempt is ours, now)

    def _refused(self, canary: Canary, of_canary: bool, name: str, machine: Attempts, now: float) -> None:
        """Nobody of an arm was called: it counts unless an operator or our own limits are the reason."""
        if dict(machine.skipped).get(name) not in REFUSALS or machine.is_forced(name, now):
            return
        self._settle(canary, canary.observe(of_canary, True, None, False, now))

    def _observed(self, canary: Canary, attempt: Attempt, of_canary: bool, now: float) -> None:
        outcome = attempt.outcome
        if outcome is None:
            return  # a loser that is let run
        seconds, known = _first_content(attempt, outcome)
        failed = outcome.group not in (Group.GOOD, Group.CANCELLED, Group.LOCAL)
        if not failed and seconds is None:
            return
        self._settle(canary, canary.observe(of_canary, failed, seconds, known, now))

    def _settle(self, canary: Canary, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._tell(CanaryMoved(canary.route, State.WITHDRAWN, verdict))

    # Reports ----------------------------------------------------------------------------------------------------------

    def states(self) -> list[tuple[str, State]]:
        """(route, state) of every canary."""
        return [(route, canary.state) for route, canary in self._canaries.items()]

    def view(self, now: float) -> list[dict[str, Any]]:
        """Every canary for reports."""
        return [_view(route, canary, now) for route, canary in self._canaries.items()]


def _compared(settings: Settings, attempt: Attempt) -> bool:
    target = attempt.candidate.target
    return not settings.compare_with or any(
        provider == target.provider and model in ("", target.model) for provider, model in settings.compare_with
    )


def _first_content(attempt: Attempt, outcome: Outcome) -> tuple[float | None, bool]:
    """(seconds until the first content, whether it came); None: there is nothing to say."""
    if attempt.content_at is not None:
        return attempt.content_at - attempt.started, True
    if attempt.ended_at is not None and (outcome.cls is Class.TIMEOUT or outcome.sub in SILENT):
        return attempt.ended_at - attempt.started, False
    return None, False


def _view(route: str, canary: Canary, now: float) -> dict[str, Any]:
    verdict, settings = canary.verdict, canary.settings
    return {
        "route": route,
        "targets": [f"{provider}/{model}" if model else provider for provider, model in settings.targets],
        "percent": round(settings.share * 100, 3),
        "sticky": settings.sticky or "none",
        "state": canary.state.value,
        "since_s": round(now - canary.since, 1),
        "reason": verdict.reason if verdict is not None else None,
        "why": verdict.why if verdict is not None else None,
        "canary": _arm(canary.canary),
        "baseline": _arm(canary.baseline),
    }


def _arm(arm: Arm) -> dict[str, Any]:
    median = arm.median_s()
    return {
        "requests": arm.requests,
        "errors": arm.errors,
        "first_content_ms": None if median is None else round(median * 1000, 1),
    }
