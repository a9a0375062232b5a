"""What one configuration changes about another: the judgement behind a reload, without its acts.

Everything that outlives a request is keyed by provider, model and credential, so the question is which of those names
still mean the same thing:

* A provider that **moved** (address, dialect, version of the API) is another service: its targets are forgotten,
  callers' keys included, and its connections are not used again. With other **authorities** only the latter holds.
* One with **another key** (another reference, or another text in the open) keeps what callers' own keys have shown and
  forgets what the sidecar's has. A file that is rotated in place is no change of the configuration.
* A **model** that is called under another deployment, or by no name of this file any more, is forgotten.
* Other **limits** (breaker, concurrency) judge the evidence that is there.

All else changes plans only, and plans are made anew anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.target import Target
from proxy.config.compiled import Config, Layer, Listen, Provider, Secret
from proxy.config.validate import is_loopback

ADDRESS: Final = ("dialect", "base_url", "api_version", "vendor")
"""Fields of a provider that say which service it is."""
CONNECTION: Final = ("tls_verify", "ca_file", "ca_digest", "anthropic_betas", "traceparent")
"""Fields that belong to its connections and calls, and say nothing about the service."""
TOLD_MAX: Final = 50
"""Changed keys that are told of one reload."""
_LIVE_LISTEN: Final = frozenset({"auth_tokens", "admin_tokens", "insecure"})
"""What of the section `listen` takes effect without a restart."""
_KEY_OF: Final = {
    "data_host": "listen.data.host",
    "data_port": "listen.data.port",
    "admin_host": "listen.admin.host",
    "admin_port": "listen.admin.port",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """See the module."""

    keys: tuple[str, ...]
    """Dotted keys whose value differs, at most `TOLD_MAX`; values are not told."""
    kept: frozenset[str]
    """Providers that are called as before: connections and fetched credentials stay."""
    moved: frozenset[str]
    """Providers that are gone or another service."""
    rekeyed: frozenset[str]
    """Providers with another credential of the sidecar's."""
    models: frozenset[tuple[str, str]]
    """(provider, model) pairs that mean nothing or something else now."""
    rejudged: frozenset[str]
    """Providers whose targets have other breakers or limits."""

    def forgets(self, target: Target) -> bool:
        """Whether what is known of `target` was learned from something else."""
        return (
            target.provider in self.moved
            or (target.provider in self.rekeyed and not target.credential)
            or (target.provider, target.model) in self.models
        )

    def rejudges(self, target: Target) -> bool:
        """Whether `target` may have other settings."""
        return target.provider in self.rejudged


def changes(old: Config, new: Config) -> Changes:
    """What `new` changes about `old`. Reads secrets, to compare those that stand in the open."""
    both = [(provider, new.providers[name]) for name, provider in old.providers.items() if name in new.providers]
    moved = {name for name in old.providers if name not in new.providers}
    moved |= {was.name for was, now in both if not _alike(was, now, ADDRESS)}
    rekeyed = {was.name for was, now in both if not _same_credential(was, now)} - moved
    kept = {was.name for was, now in both if _alike(was, now, CONNECTION)} - moved - rekeyed
    breakers = _breaker_layers(old) != _breaker_layers(new)
    secrets = [f"providers.{name}.api_key" for name in sorted(rekeyed)]
    told = dict.fromkeys([*secrets, *differing(old.redacted, new.redacted)])
    return Changes(
        keys=tuple(told)[:TOLD_MAX],
        kept=frozenset(kept),
        moved=frozenset(moved),
        rekeyed=frozenset(rekeyed),
        models=frozenset(_models(both)),
        rejudged=frozenset(
            was.name
            for was, now in both
            if breakers or was.breaker != now.breaker or was.max_concurrency != now.max_concurrency
        ),
    )


def same_secret(old: Secret | None, new: Secret | None) -> bool:
    """Whether both are read from one place, or hold one text in the open."""
    if old is None or new is None:
        return old is new
    if old.reference != new.reference:
        return False
    return old.reference.startswith("file:") or old.read() == new.read()


def _same_credential(old: Provider, new: Provider) -> bool:
    was, now = old.aws, new.aws
    pairs = (
        (old.api_key, new.api_key),
        (was.access_key_id, now.access_key_id),
        (was.secret_access_key, now.secret_access_key),
        (was.session_token, now.session_token),
    )
    plain = ("region", "service", "role_arn", "web_identity_token_file")
    return old.identity == new.identity and _alike(was, now, plain) and all(same_secret(a, b) for a, b in pairs)


def _alike(old: object, new: object, fields: tuple[str, ...]) -> bool:
    return all(getattr(old, field) == getattr(new, field) for field in fields)


def _models(both: list[tuple[Provider, Provider]]) -> Iterator[tuple[str, str]]:
    for was, now in both:
        before, after = _called(was), _called(now)
        yield from ((was.name, model) for model, how in before.items() if after.get(model) != how)


def _called(provider: Provider) -> Mapping[str, tuple[str, str]]:
    """Called model -> deployment and API, of the names that the file spells out."""
    named = ((entry.called(entry.asked), entry) for entry in provider.models)
    return {model: (entry.deployment, entry.api) for model, entry in named if "*" not in model}


def _breaker_layers(config: Config) -> tuple[list[tuple[str, Layer]], Layer]:
    """What every route's targets have for a breaker, before their provider's own section."""
    stated = [(route.name, _breaker(route.policy)) for route in config.routes]
    return [each for each in stated if each[1]], _breaker(config.defaults)


def _breaker(layer: Layer) -> Layer:
    return {key: value for key, value in layer.items() if key.startswith("circuit_breaker.")}


def differing(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Dotted paths at which two trees of plain values differ; a list counts as one value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in (*old, *(key for key in new if key not in old)):
            path = f"{at}.{key}" if at else str(key)
            if key not in old or key not in new:
                yield path
            else:
                yield from differing(old[key], new[key], path)
    elif old != new:
        yield at


# What is bound at the start ------------------------------------------------------------------------------------------


def waiting(bound: Config, new: Config) -> tuple[str, ...]:
    """Keys of `new` that take effect with the next start only, `bound` being what this process started with."""
    fields = (field for field in Listen.__dataclass_fields__ if field not in _LIVE_LISTEN)
    found = [
        _KEY_OF.get(field, f"listen.{field}")
        for field in fields
        if getattr(bound.listen, field) != getattr(new.listen, field)
    ]
    found += ["telemetry.metrics"] if bound.metrics != new.metrics else []
    was, now = bound.telemetry, new.telemetry
    found += ["telemetry.traces.enabled"] if was.traces != now.traces else []
    found += ["telemetry.otlp"] if (was.metrics, was.endpoint) != (now.metrics, now.endpoint) else []
    kept = ("path", "recent", "queue")
    found += [f"store.{key}" for key in kept if getattr(bound.store, key) != getattr(new.store, key)]
    return tuple(found)


def tokens_in_force(bound: Listen, old: Listen, new: Listen) -> tuple[Secret, ...]:
    """Tokens that callers must show, `bound` being what the ports were bound with.

    A file that moves the data port to loopback needs no tokens, but the port moves with the next start only: until
    then the old tokens stay, or the port would lie open to the network.
    """
    if new.auth_tokens or is_loopback(bound.data_host) or new.insecure:
        return new.auth_tokens
    return old.auth_tokens
