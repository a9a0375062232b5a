"""What an active probe asks a provider: its list of models, or one token of one of them."""

from __future__ import annotations

from typing import Final

import orjson

from proxy.config import apis
from proxy.config.compiled import Provider
from proxy.config.overrides import explicit_model
from proxy.dialects import registry
from proxy.dialects.chat import Malformed, NotPortable
from proxy.engine.plan import Endpoint
from proxy.upstream import address
from proxy.upstream.probe import Shot
from proxy.upstream.session import Upstream

ANTHROPIC_VERSION: Final = "2023-06-01"
JSON: Final = b"Content-Type: application/json\r\n"
SAID: Final = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
"""The whole of a deep probe."""
NOT_FOR_WORDS: Final = ("embed", "whisper", "tts", "dall-e", "image", "rerank", "moderation")
"""Parts of the names of models that answer no chat."""


def shallow(provider: Provider, upstream: Upstream) -> Shot:
    """Ask for the list of models; where a platform has none at this address, for its root."""
    place = upstream.place
    path, query = place.base_path or "/", ""
    lines: tuple[bytes, ...] = ()
    if place.dialect == "azure":
        path, query = address.azure(place, "/models", "", "")
    elif place.dialect == "openai":
        path = place.base_path + "/models"
    elif place.dialect == "anthropic" and not place.is_vertex:
        path = place.base_path + ("" if place.base_path.endswith("/v1") else "/v1") + "/models"
        lines = (_version(provider),)
    elif place.dialect == "gemini" and not place.is_vertex:
        version = "" if place.base_path.rsplit("/", 1)[-1].startswith("v1") else "/v1beta"
        path, query = f"{place.base_path}{version}/models", "pageSize=1"
    return Shot(deep=False, method="GET", path=path, query=query, lines=lines)


def deep(provider: Provider, upstream: Upstream, model: str) -> Shot | None:
    """Ask `model` (a name that the provider is called with) for one token; None: it cannot be asked in words."""
    entry = explicit_model(provider, model)
    chosen = None if entry is None else apis.choose(Endpoint.CHAT, provider, entry)
    if entry is None or chosen is None:
        return None
    api, facts = chosen[0], provider.facts_for(entry, model)
    request = registry.speaker("chat").read_request({"model": model, **SAID})
    try:
        encoded = registry.written(api, request, facts)
    except (NotPortable, Malformed):
        return None
    path, query = address.translated(upstream.place, api, entry.deployment or model, False)
    lines = [JSON]
    if api == "messages":
        lines.append(_version(provider))
    return Shot(deep=True, method="POST", path=path, query=query, lines=tuple(lines), body=orjson.dumps(encoded.body))


def talks(model: str) -> bool:
    """Whether a model's name does not say that it answers something else than words."""
    lower = model.lower()
    return bool(model) and not any(part in lower for part in NOT_FOR_WORDS)


def _version(provider: Provider) -> bytes:
    return f"anthropic-version: {provider.anthropic_version or ANTHROPIC_VERSION}\r\n".encode("ascii")
