"""Through which wire API a target is called: the caller's own where the provider has it, else the nearest to it.

A provider may offer several (`apis`); a model may be bound to one (`api`: some models exist behind Responses only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from proxy.config.compiled import Config, Model, Provider
from proxy.engine.plan import Endpoint

OWN: Final[Mapping[Endpoint, str]] = {
    Endpoint.CHAT: "chat",
    Endpoint.RESPONSES: "responses",
    Endpoint.MESSAGES: "messages",
    Endpoint.COUNT: "messages",
    Endpoint.EMBEDDINGS: "embeddings",
}
"""The API that each endpoint of ours is, word for word."""

CLIENTS: Final[Mapping[Endpoint, tuple[str, ...]]] = dict.fromkeys(
    (Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.EMBEDDINGS), ("openai", "azure")
)
"""Dialects of the providers for which a client that calls this endpoint carries a key."""

_CONVERSATION: Final = ("chat", "responses", "messages", "generate", "converse", "invoke")
FOREIGN: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.CHAT: _CONVERSATION,
    Endpoint.RESPONSES: _CONVERSATION,
    Endpoint.MESSAGES: ("invoke", *_CONVERSATION),
    Endpoint.COUNT: ("generate", "converse"),
    Endpoint.EMBEDDINGS: ("generate",),
}
"""What an endpoint can be translated into, the nearest first. Vectors come from the same model or from nobody."""


ANY_MODEL: Final = Model(asked="*", name="")


def can_take(endpoint: Endpoint, provider: Provider) -> bool:
    """Whether any model of the provider can be asked, by the endpoint's own API or through translation."""
    return any(choose(endpoint, provider, entry) is not None for entry in (ANY_MODEL, *provider.models))


def choose(endpoint: Endpoint, provider: Provider, entry: Model) -> tuple[str, bool] | None:
    """(API, whether it is foreign to the caller); None: this provider has no API that could answer."""
    own = OWN.get(endpoint)
    if own is None:
        return "", False
    offered = _offered(provider, entry)
    if own in offered:
        return own, False
    found = next((api for api in FOREIGN[endpoint] if api in offered), None)
    return None if found is None else (found, True)


def _offered(provider: Provider, entry: Model) -> tuple[str, ...]:
    if entry.api:
        return (entry.api,)
    return provider.apis or native(provider.dialect, provider.vendor, provider.base_url)


WITHOUT_RESPONSES: Final = frozenset(
    {"cerebras", "deepinfra", "deepseek", "gemini", "mistral", "perplexity", "sambanova", "together", "vertex"}
)
"""Vendors of OpenAI's dialect who have no Responses API; to them it is translated."""
SPOKEN: Final[Mapping[str, frozenset[str]]] = {
    "openai": frozenset({"chat", "responses", "embeddings", "messages"}),
    "azure": frozenset({"chat", "responses", "embeddings"}),
    "anthropic": frozenset({"messages"}),
    "gemini": frozenset({"generate"}),
    "bedrock": frozenset({"converse", "invoke", "messages", "chat", "responses"}),
}
"""What a provider of each dialect may be said to speak: several open servers have Anthropic's API beside OpenAI's, and
Bedrock has both beside its own."""


def native(dialect: str, vendor: str, base_url: str) -> tuple[str, ...]:
    """What a provider speaks when its entry does not say so."""
    if dialect == "anthropic":
        return ("messages",)
    if dialect == "gemini":
        return ("generate",)
    if dialect == "bedrock":
        path = urlsplit(base_url).path.rstrip("/")
        if path.endswith(("/anthropic", "/anthropic/v1")):
            return ("messages",)
        if not path.endswith(("/openai", "/openai/v1")):
            return ("converse",)  # InvokeModel speaks the model's own language: only its entry can tell
        return ("chat", "responses") if vendor == "mantle" else ("chat",)
    return ("chat", "embeddings") if vendor in WITHOUT_RESPONSES else ("chat", "responses", "embeddings")


def spoken(config: Config) -> list[str]:
    """Every API that a request of this configuration may be read from or written in, those of the callers first."""
    found = dict.fromkeys(("chat", "messages", "responses"))
    for provider in config.providers.values():
        if not provider.disabled:
            for entry in (ANY_MODEL, *provider.models):
                found |= dict.fromkeys(_offered(provider, entry))
    return list(found)
