"""`GET /v1/health` and `GET /v1/capabilities`, and what the health book must know of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

from proxy.base.exchange import Inbound
from proxy.config import apis
from proxy.config.compiled import Config, Provider, Route
from proxy.engine.plan import Endpoint, Tier
from proxy.observe.health import HealthBook, Known, Layout, Link
from proxy.observe.health_report import HealthReport
from proxy.observe.turns import Turns
from proxy.policy.health import Status
from proxy.server import status
from proxy.server.status import Answer, Query

Ability = tuple[Literal["available", "degraded", "unavailable"], str]
"""How something works now, and why not better; empty: it works."""

PATHS: Final = {
    Endpoint.CHAT: "/v1/chat/completions",
    Endpoint.RESPONSES: "/v1/responses",
    Endpoint.MESSAGES: "/v1/messages",
    Endpoint.EMBEDDINGS: "/v1/embeddings",
}
CONVERSATIONS: Final = (Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES)
AVAILABLE: Final[Ability] = ("available", "")


def layout_of(config: Config) -> Layout:
    """What the health book must know of a configuration."""
    routed: dict[str, list[str]] = {}
    for route in config.routes:
        for target in route.targets:
            routed.setdefault(target.provider, []).append(target.model)
    return Layout(
        providers={
            name: Known(
                name=name,
                region=provider.region,
                dialect=provider.dialect,
                disabled=provider.disabled,
                models=_models(provider, routed.get(name, ())),
            )
            for name, provider in config.providers.items()
        },
        routes={route.name: _links(route) for route in config.routes},
        failure_threshold=config.health.failure_threshold,
        success_threshold=config.health.success_threshold,
    )


def _models(provider: Provider, routed: Iterable[str]) -> tuple[str, ...]:
    """The names that a provider is called with, as far as the file spells them out. `routed`: those of routes."""
    names = [model.called(model.asked) for model in provider.models if model.name or "*" not in model.asked]
    return tuple(dict.fromkeys(name for name in (*names, *routed) if name and "*" not in name))


def _links(route: Route) -> tuple[Link, ...]:
    first = min((target.tier for target in route.targets), default=Tier.PRIMARY)
    return tuple(
        Link(provider=target.provider, model=target.model, leads=target.tier is first) for target in route.targets
    )


class HealthRoutes:
    """The routes that tell how everything is now."""

    def __init__(
        self,
        report: HealthReport,
        book: HealthBook,
        config: Config,
        history: Callable[[], Ability],
        clock: Callable[[], float],
    ) -> None:
        """`history`: whether what happens is kept."""
        self.config = config
        self._report = report
        self._book = book
        self._history = history
        self._clock = clock

    def routes(self) -> dict[str, status.Route]:
        """By path."""
        return {"/v1/health": self._health, "/v1/capabilities": self._capabilities}

    async def _health(self, inbound: Inbound) -> Answer:
        Query(inbound).finish()
        return status.sent(b"{" + (await self._report.recent())[0])

    async def _capabilities(self, inbound: Inbound) -> Answer:
        Query(inbound).finish()
        self._book.glance()
        abilities = await self._all()
        return status.told({name: {"status": word, "reason": why or None} for name, (word, why) in abilities.items()})

    # Abilities --------------------------------------------------------------------------------------------------------

    async def _all(self) -> dict[str, Ability]:
        turns = Turns()
        chat = await self._of(CONVERSATIONS, "", turns)
        history = self._history()
        return {
            "chat": chat,
            "streaming": chat,
            "tools": await self._of(CONVERSATIONS, "tools", turns),
            "vision": await self._of(CONVERSATIONS, "vision", turns),
            "embeddings": await self._of((Endpoint.EMBEDDINGS,), "", turns),
            "caching": ("unavailable", "this version keeps no answers"),
            "history": history,
            "analytics": history,
        }

    async def _of(self, endpoints: Iterable[Endpoint], fact: str, turns: Turns) -> Ability:
        """An ability over the routes that serve one of `endpoints`; `fact`: what a model must not be known to lack."""
        found: list[Ability] = []
        config = self.config
        for route in config.routes:
            await turns.pause()
            if self.config is not config:
                break  # another one was adopted: what is left of this one's routes says nothing
            wanted = [each for each in endpoints if _serves(route, each)]
            if wanted:
                found.append(self._of_route(route, wanted, fact))
        if not found:
            return "unavailable", "no route serves it"
        words = [word for word, _ in found]
        if "available" in words and len(set(words)) == 1:
            return AVAILABLE
        why = next(why for word, why in found if word != "available")
        return ("unavailable" if set(words) == {"unavailable"} else "degraded"), why

    def _of_route(self, route: Route, endpoints: Iterable[Endpoint], fact: str) -> Ability:
        now = self._clock()
        links = _links(route)
        able = [
            link
            for link in links
            if any(apis.can_take(endpoint, self.config.providers[link.provider]) for endpoint in endpoints)
            and self._has(link, fact)
        ]
        if not able:
            return "unavailable", f"no target of the route {route.name} can do it"
        states = [(link, self._book.of_link(route.name, link, now)) for link in able]
        usable = [(link, state) for link, state in states if state is not Status.DOWN]
        if not usable:
            return "unavailable", f"no target of the route {route.name} answers at present"
        if any(state is Status.HEALTHY and link.leads for link, state in usable):
            return AVAILABLE
        lead = links[0].provider
        return "degraded", f"{lead} is not well: {usable[0][0].provider} answers for the route {route.name}"

    def _has(self, link: Link, fact: str) -> bool:
        """Whether a target is not known to lack something. What is unknown is not missing."""
        if not fact or not link.model:
            return True
        provider = self.config.providers[link.provider]
        entry = provider.model_for(link.model) or apis.ANY_MODEL
        return getattr(provider.facts_for(entry, link.model), fact) is not False


def _serves(route: Route, endpoint: Endpoint) -> bool:
    """Whether the requests of an endpoint may take a route."""
    return not route.paths or any(fnmatchcase(PATHS[endpoint], pattern) for pattern in route.paths)
