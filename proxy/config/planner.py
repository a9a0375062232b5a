"""Configuration and one request make a plan.

Two requests that look alike get the same plan object: it is built once per (endpoint, path, model, control headers,
streaming, caller's key) and remembered in a bounded map, so that on the hot path planning is one dictionary look-up.
What a header set says and what it makes of a route's settings is remembered apart, for they do not depend on the model.
A reload makes a new planner; nothing needs to be taken out of an old one.

Keys of callers never enter the maps: their values are replaced by keyed fingerprints before the look-up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Generic, TypeVar

from proxy.config import apis, chain, ladder
from proxy.config.chain import Chain, KeySource
from proxy.config.checks import nearest, plain
from proxy.config.compiled import Config, Route, Secret
from proxy.config.control import KEY_PREFIX, seal
from proxy.config.ladder import Effective
from proxy.config.overrides import HeaderError, Overrides, Step, parse
from proxy.dialects.chat import ModelFacts
from proxy.engine.plan import Endpoint, Plan
from proxy.policy.chaos import Fault

__all__ = ["HeaderError", "KeySource", "NoRoute", "Planned", "Planner"]

REMEMBERED_CHARS_MAX: Final = 16_384
"""A request whose names and headers are longer is planned anew each time, so that the maps stay small."""
MARGIN_S: Final = 0.5
"""We answer so much earlier than a client that would give up (`providers.md`, ``x-stainless-read-timeout``)."""

Control = tuple[tuple[str, str], ...]
"""Control headers of one request: (lower-case name, value) in the order received."""

Changes = Mapping[str, tuple[Any, str]]
"""Setting -> (value, origin)."""

K = TypeVar("K")
V = TypeVar("V")


class NoRoute(Exception):
    """No configured target can take the request. Nothing has been sent upstream.

    `status` 404: code ``model_not_found`` (`param` "model"), ``provider_not_found`` or ``no_route`` (`param` empty);
    400: code ``not_portable``, no target has an API that could answer; 503: code ``no_target_available``, all targets
    were left out for a missing key or another dialect. `skipped` lists
    (target, reason). `message` is ASCII.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str = "", skipped: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.skipped = skipped
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and what dispatch and `explain` need to know beside it."""

    plan: Plan
    keys: tuple[KeySource, ...]
    """Per candidate, where its credential comes from."""
    facts: tuple[ModelFacts | None, ...]
    """Per candidate, what is known of its model; None for passthrough."""
    foreign: bool
    """Some candidate is called through another API than the caller's."""
    settings: Mapping[str, Any]
    """Every effective setting by its dotted name; where each came from is in `plan.origins`."""
    targets_by: str
    """Where the chain came from: ``route chat``, a header's name, or ``path`` for ``/{provider}/...``."""
    model: str = ""
    """As the caller named it."""
    waiting: tuple[Secret, ...] = ()
    """Keys that were missing when the plan was made; when one appears the plan is made again."""
    canary: Planned | None = None
    """The other arm: the same with the canary's targets before it. Which of the two a request gets is decided for each
    anew, so no plan holds it. None: the request takes part in no rollout."""
    fault: Fault | None = None
    """``X-Chaos``."""


class Lru(Generic[K, V]):
    """A map of at most `most` entries; the least recently used one makes room."""

    __slots__ = ("_held", "_most")

    def __init__(self, most: int) -> None:
        self._held: OrderedDict[K, V] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > self._most:
            self._held.popitem(last=False)


class Planner:
    """Makes plans for one configuration. `secret`: 1 to 64 random bytes of this process, for fingerprints."""

    def __init__(self, config: Config, secret: bytes) -> None:
        most = max(1, config.limits.max_plans)
        self._config = config
        self._secret = secret
        self._bases = {
            None if route is None else route.name: ladder.base(config, route) for route in (None, *config.routes)
        }
        self._plans: Lru[tuple[object, ...], Planned] = Lru(most)
        self._overrides: Lru[Control, Overrides] = Lru(most)
        self._effective: Lru[tuple[str | None, Control], Effective] = Lru(most)

    @property
    def remembered(self) -> int:
        """Plans held at present, at most `limits.max_plans`."""
        return len(self._plans)

    def plan(
        self,
        *,
        endpoint: Endpoint,
        path: str,
        model: str,
        control: Control,
        stream: bool,
        caller_key: str | None = None,
        provider: str | None = None,
    ) -> Planned:
        """The plan of a request.

        `path` without query; `model` as the caller named it, empty when the call names none; `caller_key`: fingerprint
        of the caller's standard credential, None when it sent none; `provider`: the entry addressed by
        ``/{provider}/...``. Raises `HeaderError` (400, 403) or `NoRoute` (404, 503).
        """
        for name, _ in control:
            if name.startswith(KEY_PREFIX):
                control = seal(control, self._secret)
                break
        key = (endpoint, path, model, control, stream, caller_key, provider)
        found = self._plans.get(key)
        if found is not None and not (found.waiting and any(secret.read() is not None for secret in found.waiting)):
            return found
        made = self._make(endpoint, path, model, control, stream, caller_key, provider)
        if len(path) + len(model) + _size(control) <= REMEMBERED_CHARS_MAX:
            self._plans.put(key, made)
        return made

    # A plan anew.

    def _make(
        self,
        endpoint: Endpoint,
        path: str,
        model: str,
        control: Control,
        stream: bool,
        caller_key: str | None,
        provider: str | None,
    ) -> Planned:
        overrides = self._parsed(control)
        if provider is not None and provider not in self._config.providers:
            hint = nearest(provider, self._config.providers)
            raise NoRoute(404, "provider_not_found", f'there is no provider "{plain(provider)}"{hint}')
        route = self._route(endpoint, path, model, overrides, provider)
        effective = self._climbed(route, control, overrides)
        steps, by = self._steps(endpoint, path, model, route, overrides, provider)
        asked = chain.Asked(
            endpoint=endpoint,
            model=model,
            trigger=effective.trigger,
            retries=effective.values["retry.max_retries"],
            retries_stated=effective.retries_stated(),
            base=self._bases[None if route is None else route.name],
            keys=overrides.keys,
            caller_key=caller_key,
        )
        hedges = () if provider is not None else overrides.hedge or self._hedges(effective)
        failover: bool = effective.values["failover.enabled"]
        built = chain.build(steps, hedges, self._config, asked, failover=failover)
        if not built.candidates:
            raise self._nobody(model, route, built)
        planned = self._assemble(endpoint, model, stream, route, overrides, effective, built, by)
        if overrides.hedge:
            return planned
        if route is not None and route.canary is not None and failover and by == f"route {route.name}":
            return self._with_canary(planned, route, asked, built)
        return planned

    def _with_canary(self, planned: Planned, route: Route, asked: chain.Asked, base: Chain) -> Planned:
        """The plan with its other arm, unless none of the canary's targets can take the request.

        Whoever forbids failover or names targets stays with the route as it is, and so does passthrough: there a
        canary's failure would be the caller's.
        """
        if asked.endpoint is Endpoint.RAW or route.canary is None:
            return planned
        steps = [Step(provider=name, model=model, called=True, retries=0) for name, model in route.canary.targets]
        ahead = chain.build_canary(steps, _targets(route), self._config, asked, base)
        planned = replace(planned, waiting=(*planned.waiting, *ahead.waiting))
        if not ahead.candidates:
            return planned
        lead, plan = len(ahead.candidates), planned.plan
        arm = replace(
            planned,
            plan=replace(
                plan,
                candidates=(*ahead.candidates, *plan.candidates),
                lead=lead,
                max_attempts=plan.max_attempts + lead,
                hedge_order=tuple(index + lead for index in plan.hedge_order),
            ),
            keys=(*ahead.keys, *planned.keys),
            facts=(*ahead.facts, *planned.facts),
            foreign=planned.foreign or any(candidate.foreign for candidate in ahead.candidates),
        )
        return replace(planned, canary=arm)

    def _parsed(self, control: Control) -> Overrides:
        found = self._overrides.get(control)
        if found is None:
            found = parse(control, self._config, self._secret)
            if _size(control) <= REMEMBERED_CHARS_MAX:
                self._overrides.put(control, found)
        return found

    def _climbed(self, route: Route | None, control: Control, overrides: Overrides) -> Effective:
        key = (None if route is None else route.name, control)
        found = self._effective.get(key)
        if found is None:
            found = ladder.climb(self._config, route, overrides)
            if _size(control) <= REMEMBERED_CHARS_MAX:
                self._effective.put(key, found)
        return found

    # Route and chain.

    def _route(
        self, endpoint: Endpoint, path: str, model: str, overrides: Overrides, provider: str | None
    ) -> Route | None:
        """The route named, else the first that matches; None: the request is outside all of them.

        A passthrough call that names no provider goes to the first route of its model, whatever the routes' paths say.
        """
        if overrides.route:
            return next(route for route in self._config.routes if route.name == overrides.route)
        if provider is not None:
            return None
        for route in self._config.routes:
            if _matches(route.paths, path) and (not model or _matches(route.models, model)):
                return route
        if endpoint is Endpoint.RAW:
            return next((r for r in self._config.routes if not model or _matches(r.models, model)), None)
        return None

    def _steps(
        self,
        endpoint: Endpoint,
        path: str,
        model: str,
        route: Route | None,
        overrides: Overrides,
        provider: str | None,
    ) -> tuple[list[Step], str]:
        """(the chain asked for, its origin)."""
        if provider is not None:
            return [Step(provider=provider)], "path"
        steps: list[Step] = []
        by = ""
        if overrides.providers is not None:
            steps, by = list(overrides.providers), "X-Failover-Providers"
        elif route is not None:
            steps, by = _targets(route), f"route {route.name}"
        if overrides.fallbacks is not None:
            able = [s for s in steps if apis.can_take(endpoint, self._config.providers[s.provider])]
            own = [overrides.primary] if overrides.primary is not None else (able or steps)[:1]
            if own:
                return [*own, *overrides.fallbacks], "X-Failover-Config"
        elif overrides.primary is not None:
            return [overrides.primary, *steps], "X-Failover-Config"
        if not steps:
            raise self._no_route(path, model)
        return steps, by

    def _hedges(self, effective: Effective) -> tuple[Step, ...]:
        """The hedge order of the file. An entry whose provider is unknown has been refused when the file was read."""
        found = []
        for name in effective.values["hedging.providers"]:
            provider, _, model = name.partition("/")
            if provider in self._config.providers:
                found.append(Step(provider=provider, model=model))
        return tuple(found)

    def _no_route(self, path: str, model: str) -> NoRoute:
        if not any(_matches(route.paths, path) for route in self._config.routes):
            return NoRoute(404, "no_route", f"no route covers {plain(path)}")
        hint = nearest(model, self._models())
        return NoRoute(404, "model_not_found", f'no route covers the model "{plain(model)}"{hint}', "model")

    def _nobody(self, model: str, route: Route | None, built: Chain) -> NoRoute:
        """Why nobody can take the request: the model is unknown to all, or something else stands in the way."""
        if all(reason == "model" for _, reason in built.skipped):
            hint = nearest(model, self._models())
            text = f'the model "{plain(model)}" is served by no target{hint}'
            return NoRoute(404, "model_not_found", text, "model", built.skipped)
        if all(reason == "dialect" for _, reason in built.skipped):
            named = ", ".join(plain(name) for name, _ in built.skipped)
            text = f"no target has an API that could answer this call, by itself or through translation: {named}"
            return NoRoute(400, "not_portable", text, "", built.skipped)
        where = f'of route "{plain(route.name)}" ' if route is not None else ""
        reasons = ", ".join(f"{plain(name)}={reason}" for name, reason in built.skipped)
        return NoRoute(
            503, "no_target_available", f"no target {where}can take this request: {reasons}", "", built.skipped
        )

    def _models(self) -> list[str]:
        """Every model name that the configuration spells out."""
        asked = {m.asked for p in self._config.providers.values() for m in p.models}
        asked |= {pattern for route in self._config.routes for pattern in route.models}
        return sorted(name for name in asked if not any(c in name for c in "*?["))

    # The value.

    def _assemble(
        self,
        endpoint: Endpoint,
        model: str,
        stream: bool,
        route: Route | None,
        overrides: Overrides,
        effective: Effective,
        built: Chain,
        by: str,
    ) -> Planned:
        changes = {**_bounded_timeout(effective, overrides, stream), **self._more_attempts(effective, built, by)}
        values, listed = effective.values, effective.listed
        if changes:
            values = {**values, **{setting: value for setting, (value, _) in changes.items()}}
            origins = {**effective.origins, **{setting: origin for setting, (_, origin) in changes.items()}}
            listed = tuple(sorted(origins.items()))
        own_chain = by.startswith("X-") or bool(built.hedge_order)
        plan = Plan(
            route=_route_name(route, by),
            endpoint=endpoint,
            candidates=built.candidates,
            skipped=built.skipped,
            timeout_s=values["timeout_s"],
            timers=effective.timers,
            failover=values["failover.enabled"],
            max_attempts=values["failover.max_attempts"],
            retry=effective.retry,
            overlay=effective.overlay,
            exclusion=overrides.exclusion,
            hedge=effective.hedge,
            hedge_order=built.hedge_order,
            # An order that the caller gave is kept.
            balance="priority" if route is None or own_chain else route.balance,
            stream=effective.stream,
            breaker_fallback=values["circuit_breaker.fallback"],
            priority=values["priority"],
            explain=overrides.explain,
            dry_run=overrides.dry_run,
            clamped=overrides.clamped,
            origins=listed,
        )
        return Planned(
            plan=plan,
            keys=built.keys,
            facts=built.facts,
            foreign=any(candidate.foreign for candidate in built.candidates),
            settings=values,
            targets_by=by,
            model=model,
            waiting=built.waiting,
            fault=overrides.chaos,
        )

    def _more_attempts(self, effective: Effective, built: Chain, by: str) -> Changes:
        """Raise `failover.max_attempts` to what headers ask for, up to `limits.max_attempts`.

        Ten retries or twelve providers asked for and eight attempts made would be a header accepted and not obeyed.
        """
        values, origins = effective.values, effective.origins
        rules = values["retry.rules"] if origins["retry.rules"].startswith("X-") else ()
        listed = max((len(rule.get("attempts", ())) for rule in rules), default=0)
        needed = max(values["retry.max_retries"], listed) + len(built.candidates)
        most = min(self._config.limits.max_attempts, needed)
        asked_by = (each for each in (origins["retry.max_retries"], origins["retry.rules"], by) if each[:2] == "X-")
        header = next(asked_by, "")
        return {"failover.max_attempts": (most, header)} if header and most > values["failover.max_attempts"] else {}


def _bounded_timeout(effective: Effective, overrides: Overrides, stream: bool) -> Changes:
    """Lower `timeout_s` to what the caller's software states besides.

    A client that gives up after so long a silence gets a unary answer before that: half a second earlier, but with at
    least half of its time. A stream is not silent, so there the same number says nothing about the total.
    """
    bounds = [(effective.values["timeout_s"], "")]
    if overrides.grpc_timeout_s is not None:
        bounds.append((overrides.grpc_timeout_s, "grpc-timeout"))
    if overrides.read_timeout_s is not None and not stream:
        read_s = overrides.read_timeout_s
        bounds.append((max(read_s - MARGIN_S, read_s / 2), "x-stainless-read-timeout"))
    least, origin = min(bounds)
    return {"timeout_s": (least, origin)} if origin else {}


def _matches(patterns: tuple[str, ...], text: str) -> bool:
    """Whether one of `patterns` is `text` or a glob over it; no patterns match all."""
    return not patterns or any(text == each or fnmatchcase(text, each) for each in patterns)


def _targets(route: Route) -> list[Step]:
    steps = [
        Step(
            provider=target.provider,
            model=target.model,
            called=True,
            tier=target.tier,
            weight=target.weight,
            trigger=target.trigger,
            retries=target.max_retries,
            max_latency_increase_s=target.max_latency_increase_s,
        )
        for target in route.targets
        if route.canary is None or (target.provider, target.model) not in route.canary.targets
    ]
    # The primary is the first of the best tier, wherever the file lists it.
    return sorted(steps, key=lambda step: step.tier or 0)


def _route_name(route: Route | None, by: str) -> str:
    if route is not None:
        return route.name
    return "passthrough" if by == "path" else "headers"


def _size(control: Control) -> int:
    return sum(len(name) + len(value) for name, value in control)
