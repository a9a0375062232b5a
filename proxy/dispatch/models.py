"""``GET /v1/models``: the models that the routes can reach, in the dialect of the listener."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from proxy.config.compiled import Config, Model, Provider, Route


def listing(config: Config, path: str, anthropic: bool) -> dict[str, Any] | None:
    """The answer for ``/v1/models`` or ``/v1/models/{id}``; None for an id that no route serves.

    Names that the configuration spells out are listed; a model that only a glob covers can be asked for by id.
    """
    entries = dict(_names(config))
    wanted = unquote(path[len("/v1/models") :].lstrip("/"))
    if not wanted:
        data = [_entry(name, owner, anthropic) for name, owner in entries.items()]
        if anthropic:
            ids = [entry["id"] for entry in data]
            return {
                "data": data,
                "has_more": False,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
            }
        return {"object": "list", "data": data}
    owner = entries.get(wanted) or _owner(config, wanted)
    return _entry(wanted, owner, anthropic) if owner else None


def _entry(name: str, owner: str, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _names(config: Config) -> Iterator[tuple[str, str]]:
    """(asked name, first provider that serves it) of every spelt-out model that a route reaches."""
    seen: set[str] = set()
    for route in config.routes:
        for provider, models in _reach(config, route):
            for model in models:
                if not _is_glob(model.asked) and model.asked not in seen and _covers(route, model.asked):
                    seen.add(model.asked)
                    yield model.asked, provider.name
        for pattern in route.models:
            if not _is_glob(pattern) and pattern not in seen:
                owner = _owner(config, pattern)
                if owner:
                    seen.add(pattern)
                    yield pattern, owner


def _owner(config: Config, name: str) -> str:
    """The provider that would be asked first for a model; empty for none."""
    for route in config.routes:
        if _covers(route, name):
            for provider, _ in _reach(config, route):
                if provider.model_for(name) is not None:
                    return provider.name
    return ""


def _reach(config: Config, route: Route) -> Iterator[tuple[Provider, tuple[Model, ...]]]:
    for target in route.targets:
        provider = config.providers[target.provider]
        if not provider.disabled:
            yield provider, provider.models


def _covers(route: Route, name: str) -> bool:
    return not route.models or any(fnmatchcase(name, pattern) for pattern in route.models)


def _is_glob(name: str) -> bool:
    return any(char in name for char in "*?[")
