"""One small configuration, built without a file, for the tests of headers and planner."""

from __future__ import annotations

from typing import Any

from proxy.base.outcome import Class
from proxy.config.compiled import Config, Limits, Listen, Model, Provider, Route, RouteTarget, Secret
from proxy.engine.plan import Tier


def key(value: str | None = "sk-sidecar") -> Secret:
    return Secret("${KEY}", lambda: value)


def openai(**changes: Any) -> Provider:
    settings: dict[str, Any] = {
        "name": "openai",
        "dialect": "openai",
        "base_url": "https://openai.test/v1",
        "api_key": key(),
        "region": "us-east",
        "models": (
            Model(asked="gpt-4o", name="gpt-4o", max_output_tokens=16_384),
            Model(asked="gpt-4o-mini", name="gpt-4o-mini", tier="economy", quality=7.0),
            Model(asked="*", name=""),
        ),
    }
    return Provider(**{**settings, **changes})


def deepinfra(**changes: Any) -> Provider:
    settings: dict[str, Any] = {
        "name": "deepinfra",
        "dialect": "openai",
        "base_url": "https://deepinfra.test/v1/openai",
        "api_key": key(),
        "models": (Model(asked="gpt-4o", name="meta/llama-70b"), Model(asked="small", name="meta/llama-8b")),
    }
    return Provider(**{**settings, **changes})


def anthropic(**changes: Any) -> Provider:
    settings: dict[str, Any] = {
        "name": "anthropic",
        "dialect": "anthropic",
        "base_url": "https://anthropic.test",
        "api_key": key(),
        "models": (Model(asked="gpt-4o", name="claude-sonnet-5"), Model(asked="claude-*", name="")),
    }
    return Provider(**{**settings, **changes})


def config(*providers: Provider, **changes: Any) -> Config:
    """Two openai providers and an anthropic one; route `chat` over all, route `claude` for its own path."""
    listed = providers or (openai(), deepinfra(), anthropic())
    settings: dict[str, Any] = {
        "path": "test.yaml",
        "digest": "0" * 64,
        "listen": Listen(),
        "providers": {provider.name: provider for provider in listed},
        "defaults": {"timeout_s": 300.0},
        "policies": {
            "critical": {"hedging.enabled": True, "timeout_s": 30.0},
            "batch": {"retry.max_retries": 5, "priority": "low", "circuit_breaker.error_threshold": 9},
        },
        "routes": (
            Route(
                name="chat",
                paths=("/v1/chat/completions", "/v1/embeddings", "/v1/files*"),
                targets=(
                    RouteTarget(provider="openai"),
                    RouteTarget(
                        provider="deepinfra", tier=Tier.SECONDARY, trigger=frozenset({Class.TIMEOUT}), max_retries=1
                    ),
                    RouteTarget(provider="anthropic", tier=Tier.SECONDARY),
                ),
                policy={"first_byte_timeout_s": 20.0},
            ),
            Route(
                name="claude",
                paths=("/v1/messages",),
                models=("claude-*",),
                targets=(RouteTarget(provider="anthropic"),),
            ),
        ),
        "limits": Limits(),
    }
    if providers and "routes" not in changes:
        chain = tuple(RouteTarget(provider=provider.name) for provider in listed)
        settings["routes"] = (Route(name="default", targets=chain),)
    return Config(**{**settings, **changes})
