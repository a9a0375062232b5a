"""What the sections `canary` and `maintenance` may not say: nobody's names, and a canary without a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from proxy.config import names
from proxy.config.names import Loc
from proxy.config.validate import Finding
from proxy.policy.absence import Window
from proxy.policy.canary import Names, Settings

if TYPE_CHECKING:
    from proxy.config.schema import File, Route
    from proxy.config.schema_rollout import Canary


def routes_by_name(file: File) -> dict[str, Route]:
    """The routes by the names they have or get by position; with no routes only `default`, which has no entry."""
    return {route.name or f"route{index + 1}": route for index, route in enumerate(file.routes)}


def pairs(picks: Iterable[str]) -> Names:
    """``provider`` and ``provider/model`` as (provider, model)."""
    return tuple((provider, model) for provider, _, model in (pick.partition("/") for pick in picks))


def errors(file: File, known: tuple[str, ...], complete: bool) -> Iterator[Finding]:
    """Everything wrong with both sections. `known`: all providers' names, those with errors included."""
    routes = routes_by_name(file)
    for name, canary in file.canary.items():
        at: Loc = ("canary", name)
        yield from _unknown_picks((*at, "targets"), canary.targets, known)
        yield from _unknown_picks((*at, "compare_with"), canary.compare_with, known)
        if name not in (routes or {"default"}):
            yield _unknown(at, "route", name, routes or {"default"})
        elif complete:
            yield from _canary_errors(at, canary, routes.get(name), file)
    for index, window in enumerate(file.maintenance):
        yield from _window_errors(("maintenance", index), window, known, routes or {"default"}, complete)


def _canary_errors(at: Loc, canary: Canary, route: Route | None, file: File) -> Iterator[Finding]:
    listed = _listed(route, file)
    rolled_out = pairs(canary.targets)
    if not set(listed) - set(rolled_out):
        message = "are all targets of the route: nothing is left for the other requests"
        yield Finding(loc=(*at, "targets"), message=message)
    if canary.percent is None and _weight_share(canary, route) is None:
        message = "is required, unless the route has balance: weighted and lists the targets with their weights"
        yield Finding(loc=(*at, "percent"), message=message)


def _listed(route: Route | None, file: File) -> Names:
    if route is None or route.targets is None:
        return tuple((name, "") for name in file.providers)
    return tuple((target.provider, target.model) for target in route.targets)


def _weight_share(canary: Canary, route: Route | None) -> float | None:
    """The canary's share by weights; None: they do not tell."""
    if route is None or route.targets is None or route.balance != "weighted":
        return None
    weights = {(t.provider, t.model): t.weight for t in route.targets if t.tier in (None, "primary")}
    ours = [weights.get(pair) for pair in pairs(canary.targets)]
    if any(weight is None for weight in ours):
        return None
    return sum(weight for weight in ours if weight is not None) / sum(weights.values())


def _window_errors(
    at: Loc, window: Any, known: tuple[str, ...], routes: Iterable[str], complete: bool
) -> Iterator[Finding]:
    if window.provider is not None and window.provider not in known:
        yield _unknown((*at, "provider"), "provider", window.provider, known)
    if window.route is not None and window.route not in routes and complete:
        yield _unknown((*at, "route"), "route", window.route, routes)
    if window.provider is None and (window.route is None or window.model is not None):
        yield Finding(loc=at, message="needs provider, or route without a model")
    if complete and moment(getattr(window, "from")) >= moment(window.until):
        yield Finding(loc=(*at, "until"), message="must be later than from", show=True)


def _unknown_picks(at: Loc, picks: list[str], known: tuple[str, ...]) -> Iterator[Finding]:
    for index, (provider, _) in enumerate(pairs(picks)):
        if provider not in known:
            yield _unknown((*at, index), "provider", provider, known)


def _unknown(loc: Loc, kind: str, name: str, known: Iterable[str]) -> Finding:
    allowed = sorted(known)
    hint = names.did_you_mean(name, allowed) or f"; there are {', '.join(allowed[:20]) or 'none'}"
    return Finding(loc=loc, message=f"is no configured {kind}: {name}", hint=hint)


def warnings(file: File) -> Iterator[Finding]:
    """What works, but not as its author may think."""
    routes = routes_by_name(file)
    for name in file.canary:
        route = routes.get(name)
        stated = route is not None and "enabled" in route.policy.failover.model_fields_set
        policy = route.policy if route is not None and stated else file.defaults
        if not policy.failover.enabled:
            message = "gets no requests: failover is off, and a canary's failure would be the caller's"
            yield Finding(loc=("canary", name), message=message)


# Building -------------------------------------------------------------------------------------------------------------


def settings(canary: Canary, route: Route | None) -> Settings:
    """A checked section as the program runs on it."""
    share = _weight_share(canary, route) if canary.percent is None else canary.percent / 100
    sticky = canary.sticky.lower()
    return Settings(
        targets=pairs(canary.targets),
        share=share or 0.0,
        sticky="" if sticky == "none" else sticky,
        window_s=canary.window_s,
        min_requests=canary.min_requests,
        max_error_increase=canary.max_error_increase,
        max_latency_increase=canary.max_latency_increase,
        confidence=canary.confidence,
        compare_with=pairs(canary.compare_with),
    )


def moment(text: str) -> float:
    """Unix seconds of a checked date and time."""
    return datetime.fromisoformat(text).timestamp()


def windows(file: File) -> tuple[Window, ...]:
    """The announced windows of a checked file."""
    return tuple(
        Window(
            id=f"file{index + 1}",
            begins=moment(getattr(window, "from")),
            ends=moment(window.until),
            provider=window.provider or "",
            model=window.model or "",
            route=window.route or "",
            note=window.note,
            from_file=True,
        )
        for index, window in enumerate(file.maintenance)
    )
