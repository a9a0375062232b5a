"""From the targets asked for to the candidates that can take the request, and whose key each of them is called with.

A step (a route's target, an entry of a header) becomes a candidate unless its provider refuses the model, does not
speak the caller's dialect, or has no credential; why it was left out is kept. Nothing here knows about health: a target
that is down is still a candidate.

Whose key goes where (F7) is decided before any of that depends on the request's body: the caller's standard credential
belongs to the first provider of the chain that takes callers' keys and speaks the caller's dialect, and to entries with
the same origin. It is never sent to another one because the first happened to refuse a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from proxy.base.outcome import Class
from proxy.base.target import Target
from proxy.config import apis
from proxy.config.compiled import Config, Layer, Model, Provider, Secret, base_breaker
from proxy.config.overrides import Step, explicit_model
from proxy.dialects.chat import ModelFacts
from proxy.engine.plan import Candidate, Endpoint, Tier

KeySource = Literal["sidecar", "caller", "header", "none"]
"""Where a candidate's credential comes from: the file, the caller's own Authorization or x-api-key, the caller's
``X-Provider-Key-<provider>``, or nowhere (a local server without authentication)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the chain is built for."""

    endpoint: Endpoint
    model: str
    """As the caller named it; empty: the call names none."""
    trigger: frozenset[Class]
    """Opens a candidate that has no trigger of its own."""
    retries: int
    """Same-target retries of the primary."""
    retries_stated: bool
    """The request itself says how often; it wins over what the route says of its first target."""
    base: Layer
    """Sum of built-in, `defaults` and route: where the targets' base breaker policy comes from."""
    keys: Mapping[str, str]
    """Provider -> fingerprint of the key that the caller brought for it."""
    caller_key: str | None
    """Fingerprint of the caller's standard credential; None: it sent none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Candidates in order, and as many sources of their credentials."""

    candidates: tuple[Candidate, ...]
    keys: tuple[KeySource, ...]
    facts: tuple[ModelFacts | None, ...]
    """What is known of each target; None for passthrough, where nothing of ours reads the request."""
    hedge_order: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...]
    """(name, reason): `no_key`, `dialect`, `model`, `other_model`."""
    waiting: tuple[Secret, ...]
    """Keys that were missing just now and may appear: what was built is stale when one does."""


def build_canary(steps: Sequence[Step], route: Sequence[Step], config: Config, asked: Asked, base: Chain) -> Chain:
    """What stands before `base` in the canary's arm; empty: nobody of `steps` can take the request as `base` could.

    The caller's key belongs to whom it belongs to without the canary, that is to the first of `route` that takes it.
    """
    builder = _Builder(config, replace(asked, retries=0 if not asked.retries_stated else asked.retries), route)
    if asked.endpoint is Endpoint.EMBEDDINGS:
        builder.only_model(base.candidates[0].target.model)
    for step in steps:
        builder.add(step)
    made = builder.finish([])
    taken = {candidate.target for candidate in base.candidates}
    return made if not taken & {candidate.target for candidate in made.candidates} else replace(made, candidates=())


def build(steps: Sequence[Step], hedges: Sequence[Step], config: Config, asked: Asked, *, failover: bool) -> Chain:
    """The chain for `steps` in their order. Targets of `hedges` that are not among them are appended, and the first one
    that can take the request becomes the primary. Empty candidates: nobody can take it; `skipped` says why.

    `failover` False: only the primary and what `hedges` names, so that no later room can overlook the switch. A primary
    without credential is then not replaced by the next target.
    """
    builder = _Builder(config, asked, steps)
    for step in steps:
        builder.add(step)
        if not failover and builder.primary_known:
            break
    return builder.finish(builder.hedge_order(hedges))


class _Builder:
    """The chain as far as it has come."""

    def __init__(self, config: Config, asked: Asked, steps: Sequence[Step]) -> None:
        self._config = config
        self._asked = asked
        self._owner = self._owner_of_caller_key(steps)
        self._links: list[tuple[Candidate, KeySource, Step, ModelFacts | None]] = []
        self._skipped: dict[str, str] = {}
        self._waiting: list[Secret] = []
        self._first_model: str | None = None

    @property
    def primary_known(self) -> bool:
        """A step has come that speaks the caller's dialect and has the model, with or without a credential."""
        return self._first_model is not None

    def only_model(self, model: str) -> None:
        """Nobody with another model may be added, where answers of two models do not compare."""
        self._first_model = model

    def add(self, step: Step) -> int | None:
        """Index of the candidate that `step` became or was already; None: it cannot take the request."""
        provider = self._config.providers[step.provider]
        if not self._speaks(provider):
            self._skip(step.name, "dialect")
            return None
        entry = self._entry(provider, step)
        if entry is None:
            self._skip(step.name, "model")
            return None
        called_by = apis.choose(self._asked.endpoint, provider, entry)
        if called_by is None:
            self._skip(step.name, "dialect")
            return None
        model = self._called(entry, step)
        if self._first_model is None:
            self._first_model = model
        name = f"{provider.name}/{model}" if model else provider.name
        if self._asked.endpoint is Endpoint.EMBEDDINGS and model != self._first_model:
            # Vectors of two models do not compare; a wrong answer would look like a right one.
            self._skip(name, "other_model")
            return None
        source, credential = self._credential(provider)
        if source is None:
            self._skip(name, "no_key")
            return None
        target = Target(provider.name, model, credential)
        facts = None if self._asked.endpoint is Endpoint.RAW else provider.facts_for(entry, model)
        entry = provider.completed(entry, model)
        return self._append(self._candidate(provider, entry, target, step, called_by), source, step, facts)

    def hedge_order(self, hedges: Sequence[Step]) -> list[int]:
        """Indexes of the targets of `hedges`, in their order; those the chain lacks are appended."""
        order: list[int] = []
        for step in hedges:
            index = self._find(step)
            if index is None:
                # Named for hedging: a slow target has to open it, whatever the policy's trigger says.
                named = replace(step, trigger=self._asked.trigger | {Class.TIMEOUT}, tier=Tier.SECONDARY)
                index = self.add(named)
            if index is not None and index not in order:
                order.append(index)
        return order

    def finish(self, order: list[int]) -> Chain:
        """The finished chain; the first of `order`, if any, leads it."""
        links = self._links
        moved = bool(order) and order[0] != 0
        if moved:
            lead = order[0]
            links = [links[lead], *links[:lead], *links[lead + 1 :]]
            order = [0 if i == lead else i + 1 if i < lead else i for i in order]
        if self._asked.endpoint is Endpoint.RAW:
            links, order = links[:1], []
        candidates = tuple(
            replace(c, retries=self._retries(i, step), tier=_tier(i, step, moved))
            for i, (c, _, step, _) in enumerate(links)
        )
        return Chain(
            candidates=candidates,
            keys=tuple(source for _, source, _, _ in links),
            facts=tuple(facts for _, _, _, facts in links),
            hedge_order=tuple(order),
            skipped=tuple(self._skipped.items()),
            waiting=tuple(self._waiting),
        )

    # One step.

    def _skip(self, name: str, reason: str) -> None:
        self._skipped.setdefault(name, reason)

    def _speaks(self, provider: Provider) -> bool:
        return apis.can_take(self._asked.endpoint, provider)

    def _speaks_natively(self, provider: Provider) -> bool:
        called_by = apis.choose(self._asked.endpoint, provider, apis.ANY_MODEL)
        return called_by is not None and not called_by[1]

    def _shares_clients(self, provider: Provider) -> bool:
        return provider.dialect in apis.CLIENTS.get(self._asked.endpoint, ()) and self._speaks(provider)

    def _entry(self, provider: Provider, step: Step) -> Model | None:
        """The entry of the model map that applies; None: the provider refuses the model."""
        if self._asked.endpoint is Endpoint.RAW:
            # Bytes pass untouched, so the name in them is the one that is called.
            return explicit_model(provider, self._asked.model) or apis.ANY_MODEL
        if step.model:
            found = explicit_model(provider, step.model)
            return found or (apis.ANY_MODEL if step.called else None)
        if step.reduce_quality:
            smaller = next((m for m in provider.models if m.tier == "economy" and (m.name or "*" not in m.asked)), None)
            if smaller is not None:
                return smaller
        return provider.model_for(self._asked.model)

    def _called(self, entry: Model, step: Step) -> str:
        if self._asked.endpoint is Endpoint.RAW:
            return self._asked.model
        if step.model:
            return step.model if step.called else entry.called(step.model)
        if step.reduce_quality and entry.tier == "economy" and "*" not in entry.asked:
            return entry.called(entry.asked)
        return entry.called(self._asked.model)

    def _candidate(
        self, provider: Provider, entry: Model, target: Target, step: Step, called_by: tuple[str, bool]
    ) -> Candidate:
        return Candidate(
            target=target,
            dialect=provider.dialect,
            api=called_by[0],
            deployment=entry.deployment,
            foreign=called_by[1],
            region=provider.region,
            trigger=self._asked.trigger if step.trigger is None else step.trigger,
            weight=step.weight,
            max_latency_increase_s=step.max_latency_increase_s,
            degraded=step.reduce_quality or step.reduce_max_tokens > 0.0,
            # Rounded, or 1 - 0.7 would be 0.30000000000000004 in every explanation.
            output_share=round(1.0 - step.reduce_max_tokens, 9) if step.reduce_max_tokens > 0.0 else None,
            quality=entry.quality,
            max_output_tokens=entry.max_output_tokens,
            context_window=entry.context_window,
            price=entry.price,
            max_concurrency=provider.max_concurrency,
            breaker=base_breaker(provider, self._asked.base),
        )

    def _append(self, candidate: Candidate, source: KeySource, step: Step, facts: ModelFacts | None) -> int:
        """A target that is in the chain already is not added again, but opened by either trigger."""
        for index, (other, key, first, known) in enumerate(self._links):
            if other.target == candidate.target and other.output_share == candidate.output_share:
                merged = replace(other, trigger=other.trigger | candidate.trigger)
                self._links[index] = (merged, key, first, known)
                return index
        self._links.append((candidate, source, step, facts))
        return len(self._links) - 1

    def _find(self, step: Step) -> int | None:
        for index, (candidate, _, _, _) in enumerate(self._links):
            if candidate.target.provider != step.provider:
                continue
            provider = self._config.providers[step.provider]
            entry = explicit_model(provider, step.model) if step.model else None
            if not step.model or (entry is not None and entry.called(step.model) == candidate.target.model):
                return index
        return None

    def _retries(self, index: int, step: Step) -> int:
        if index == 0 and (step.retries is None or self._asked.retries_stated):
            return self._asked.retries
        return step.retries or 0

    # Credentials.

    def _owner_of_caller_key(self, steps: Sequence[Step]) -> tuple[str, str, int | None] | None:
        """Whose key the caller brought: of the first provider that takes callers' keys and has the very API the caller
        uses; where none has, of the first whose clients are the same (chat and Responses share theirs)."""
        found = [self._config.providers[step.provider] for step in steps]
        takers = [provider for provider in found if provider.credentials != "sidecar"]
        for is_owner in (self._speaks_natively, self._shares_clients):
            for provider in takers:
                if is_owner(provider):
                    return _origin(provider)
        return None

    def _credential(self, provider: Provider) -> tuple[KeySource | None, str]:
        """(source, fingerprint or empty); source None: there is no credential."""
        brought = self._asked.keys.get(provider.name)
        if brought is not None:
            return "header", brought
        caller = self._asked.caller_key
        if caller is not None and provider.credentials != "sidecar" and _origin(provider) == self._owner:
            return "caller", caller
        if provider.credentials == "caller" or provider.disabled:
            return None, ""
        if provider.api_key is None:
            return ("sidecar" if provider.identity or provider.aws.has_keys else "none"), ""
        if provider.api_key.read() is None:
            self._waiting.append(provider.api_key)
            return None, ""
        return "sidecar", ""


def _tier(index: int, step: Step, moved: bool) -> Tier:
    """The tier that `step` states. The lead is PRIMARY otherwise, and always where the hedge order `moved` it there."""
    if index == 0 and (moved or step.tier is None):
        return Tier.PRIMARY
    return Tier.SECONDARY if step.tier is None else step.tier


def _origin(provider: Provider) -> tuple[str, str, int | None]:
    """Scheme, host and port: who receives what is sent to this entry."""
    parts = urlsplit(provider.base_url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default
