"""From a checked file to the frozen values that the program runs on; the one place that reads keys at the start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from proxy.base.outcome import ANY_ERROR, Class
from proxy.config import apis, compiled, notify, provider_checks, rollout_checks, schema, validate
from proxy.config.compiled import Config
from proxy.config.model_data import ModelData
from proxy.config.names import Loc, Node, walk
from proxy.config.reading import Reading, way_to
from proxy.config.secrets import AWS_SECRETS, fixed, from_file, is_secret
from proxy.config.validate import Finding
from proxy.engine.plan import Price, Tier


class Builder:
    """Turns a checked file into frozen values, and tells which keys are missing."""

    def __init__(self, file: schema.File, reading: Reading, data: ModelData, clock: Callable[[], float]) -> None:
        self._file = file
        self._reading = reading
        self._data = data
        self._clock = clock

    def config(self, digest: str) -> Config:
        file = self._file
        providers = {name: self._provider(name, provider) for name, provider in file.providers.items()}
        listen, limits, log = file.listen, file.limits, file.telemetry.log
        sizes = {
            key: getattr(listen, key)
            for key in type(listen).model_fields
            if key not in ("data", "admin", "auth_tokens", "admin_tokens")
        }
        bounds = {key: getattr(limits, key) for key in type(limits).model_fields if key != "allow_overrides"}
        config = Config(
            path=self._reading.name,
            digest=digest,
            listen=compiled.Listen(
                data_host=listen.data.host,
                data_port=listen.data.port,
                admin_host=listen.admin.host,
                admin_port=listen.admin.port,
                auth_tokens=self._tokens("auth_tokens"),
                admin_tokens=self._tokens("admin_tokens"),
                **sizes,
            ),
            providers=providers,
            defaults=schema.flat(file.defaults, stated_only=True),
            policies={name: schema.flat(policy, stated_only=True) for name, policy in file.policies.items()},
            routes=tuple(self._routes(providers)),
            limits=compiled.Limits(allow_overrides=frozenset(limits.allow_overrides), **bounds),
            drain_timeout_s=file.shutdown.drain_timeout_s,
            shutdown_mode=file.shutdown.mode,  # type: ignore[arg-type]
            linger_s=file.shutdown.linger_s,
            linger_idle_s=file.shutdown.idle_s,
            log_format=log.format,  # type: ignore[arg-type]  # the schema's words are those of the type
            log_level=log.level,  # type: ignore[arg-type]
            metrics=file.telemetry.metrics,
            chaos=file.chaos.enabled,
            maintenance=rollout_checks.windows(file),
            health=compiled.Health(**{key: getattr(file.health, key) for key in type(file.health).model_fields}),
            store=compiled.Store(**{key: getattr(file.store, key) for key in type(file.store).model_fields}),
            notify=notify.notify_of(file.notify, self._secret),
            slo_availability=file.slo.availability,
            files=tuple(dict.fromkeys(path for path in (*_ca_files(file), file.model_data.path) if path)),
        )
        return replace(config, redacted=_effective(file, config, self._reading.root))

    def _provider(self, name: str, given: schema.Provider) -> compiled.Provider:
        key, disabled = self._key(name, given)
        aws, missing = self._aws(name, given)
        dialect, base_url = validate.dialect_of(name, given), validate.base_url_of(name, given)
        vendor = provider_checks.vendor_of(name, given)
        betas = given.anthropic_betas
        provider = compiled.Provider(
            name=name,
            dialect=dialect,  # type: ignore[arg-type]  # the schema's words are those of the type
            base_url=base_url,
            api_key=key,
            credentials=given.credentials,  # type: ignore[arg-type]
            region=given.region,
            max_concurrency=given.max_concurrency,
            api_version=given.api_version or "",
            breaker=schema.flat(given.circuit_breaker, stated_only=True),
            disabled=disabled or missing,
            tls_verify=given.tls_verify,
            ca_file=given.ca_file,
            ca_digest=digest_of(given.ca_file),
            vendor=vendor,
            apis=tuple(dict.fromkeys(given.apis or apis.native(dialect, vendor, base_url))),
            identity=provider_checks.identity_of(name, given),  # type: ignore[arg-type]
            aws=aws,
            anthropic_version=given.anthropic_version,
            anthropic_betas=None if betas is None else tuple(betas),
            safety_settings=tuple(
                {"category": setting.category, "threshold": setting.threshold} for setting in given.safety_settings
            ),
            traceparent=given.traceparent,
            external=self._data,
        )
        return replace(provider, models=_models(given, provider))

    def _aws(self, name: str, given: schema.Provider) -> tuple[compiled.Aws, str]:
        """The section, and why the provider takes no calls with it: a key that is not there."""
        section, disabled = given.aws, ""
        keys: dict[str, compiled.Secret | None] = {}
        for key in AWS_SECRETS:
            loc: Loc = ("providers", name, "aws", key)
            stated = getattr(section, key)
            if stated is None:
                continue
            nodes = [node for node, _ in walk(way_to(self._reading.root, loc)[-1], loc)]
            gone = next((node for node in nodes if node.missing), None)
            if gone is None:
                keys[key] = self._secret(loc, stated)
            elif key != "session_token":  # permanent keys have none, and a file may serve for both kinds
                keys[key] = fixed(None, gone.variables)
                reason = f"no key: {gone.missing}"
                disabled = disabled or (reason if given.credentials == "sidecar" else "")
                self._reading.tell(Finding(loc=loc, message=f"{reason}; {_tail(given)}"), self._reading.warnings)
        region, service = provider_checks.scope_of(name, given)
        aws = compiled.Aws(
            **keys,
            region=region,
            service=service,
            role_arn=section.role_arn,
            web_identity_token_file=section.web_identity_token_file,
        )
        return aws, disabled

    def _key(self, name: str, given: schema.Provider) -> tuple[compiled.Secret | None, str]:
        """The credential, and why the provider takes no calls without it."""
        loc: Loc = ("providers", name, "api_key")
        nodes = [node for node, _ in walk(way_to(self._reading.root, loc)[-1], loc)]
        missing = next((node for node in nodes if node.missing), None)
        if given.api_key is None or given.credentials == "caller":
            return None, ""
        if missing:
            reason = f"no key: {missing.missing}"
            self._reading.tell(Finding(loc=loc, message=f"{reason}; {_tail(given)}"), self._reading.warnings)
            return fixed(None, missing.variables), reason if given.credentials == "sidecar" else ""
        return self._secret(loc, given.api_key), ""

    def _secret(self, loc: Loc, given: Any) -> compiled.Secret:
        """A secret that is there, or one in a file, which may still come."""
        node = way_to(self._reading.root, loc)[-1]
        if not isinstance(given, str):
            secret = from_file(given["file"], self._clock)
            if secret.read() is None:
                message = "no key yet: the file cannot be read or holds no key; it is looked for again at every call"
                self._reading.tell(Finding(loc=loc, message=message), self._reading.warnings)
            return secret
        key = given.strip()  # a variable made from a file often ends in a line feed
        return fixed(key, node.variables)

    def _tokens(self, key: str) -> tuple[compiled.Secret, ...]:
        tokens = getattr(self._file.listen, key)
        return tuple(self._secret(("listen", key, index), token) for index, token in enumerate(tokens))

    def _routes(self, providers: Mapping[str, compiled.Provider]) -> list[compiled.Route]:
        everything = [schema.Target(provider=name) for name in providers]
        given = self._file.routes or [schema.Route(name="default")]
        canaries = {
            name: rollout_checks.settings(canary, rollout_checks.routes_by_name(self._file).get(name))
            for name, canary in self._file.canary.items()
        }
        return [
            compiled.Route(
                name=route.name or f"route{index + 1}",
                paths=tuple(route.match.paths),
                models=tuple(route.match.models),
                targets=tuple(
                    _target(target, place, route.balance)
                    for place, target in enumerate(everything if route.targets is None else route.targets)
                ),
                balance=route.balance,  # type: ignore[arg-type]
                policy=schema.flat(route.policy, stated_only=True),
                canary=canaries.get(route.name or f"route{index + 1}"),
            )
            for index, route in enumerate(given)
        ]


def _ca_files(file: schema.File) -> list[str]:
    return [provider.ca_file for provider in file.providers.values()]


def digest_of(path: str) -> str:
    """SHA-256 of a file's content, hex; empty for no path and for a file that cannot be read."""
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _tail(given: schema.Provider) -> str:
    return "the provider is disabled" if given.credentials == "sidecar" else "only callers' own keys are used"


def _models(given: schema.Provider, provider: compiled.Provider) -> tuple[compiled.Model, ...]:
    """The model map in file order, exact names before globs; limits and prices of known names filled in."""
    if given.models is None:
        return (compiled.Model(asked="*", name=""),)
    models = []
    for asked, entry in given.models.items():
        model = compiled.Model(
            asked=asked,
            name="" if entry.name == "passthrough" else entry.name,
            deployment=entry.deployment,
            tier="economy" if entry.tier == "economy" else "",
            quality=entry.quality,
            max_output_tokens=entry.max_output_tokens,
            context_window=entry.context_window,
            price=Price(input=entry.price.input, output=entry.price.output) if entry.price else None,
            api=entry.api or "",
            capabilities=_capabilities(entry.capabilities),
        )
        called = model.called(asked)
        models.append(model if "*" in called else provider.completed(model, called))
    return tuple(sorted(models, key=lambda model: "*" in model.asked))


def _capabilities(given: schema.Capabilities) -> dict[str, Any]:
    stated = {key: getattr(given, key) for key in type(given).model_fields if key in given.model_fields_set}
    if stated.get("efforts") is not None:
        stated["efforts"] = frozenset(stated["efforts"])
    return {key: value for key, value in stated.items() if value is not None}


def _target(given: schema.Target, place: int, balance: str) -> compiled.RouteTarget:
    """One entry of a chain. Only with balance priority does the place in the file make a rank."""
    default = Tier.SECONDARY if place and balance == "priority" else Tier.PRIMARY
    increase = given.max_latency_increase_ms
    return compiled.RouteTarget(
        provider=given.provider,
        model=given.model,
        tier=Tier[given.tier.upper()] if given.tier else default,
        weight=given.weight,
        trigger=None if given.trigger is None else classes(given.trigger),
        max_retries=given.max_retries,
        max_latency_increase_s=None if increase is None else increase / 1000,
    )


def classes(words: list[str]) -> frozenset[Class]:
    """What trigger words cover; ``any_error`` is all but content policy and invalid request."""
    return frozenset().union(*(ANY_ERROR if word == "any_error" else {Class(word)} for word in words))


def _effective(file: schema.File, config: Config, root: Node) -> dict[str, Any]:
    """The file with its defaults as a JSON-able tree. Secrets and ``${...}`` stand as references, foreign sections not
    at all: what may be shown is listed by the schema, what must not be shown is not guessed by name."""
    tree = file.model_dump(exclude=set(validate.TAKEN))
    for key in ("policies", "routes"):  # only what they state: the rest comes from `defaults`
        tree[key] = file.model_dump(include={key}, exclude_unset=True).get(key, tree[key])
    for name, provider in config.providers.items():
        tree["providers"][name].update(
            dialect=provider.dialect,
            base_url=provider.base_url,
            api_key=_reference(provider.api_key),
            vendor=provider.vendor,
            apis=list(provider.apis),
            identity=provider.identity or None,
        )
        for key in AWS_SECRETS:
            tree["providers"][name]["aws"][key] = _reference(getattr(provider.aws, key))
    for key in ("auth_tokens", "admin_tokens"):
        tree["listen"][key] = [token.reference for token in getattr(config.listen, key)]
    for _, *above, last in notify.SECRETS:
        section = tree["notify"][above[0]] if above else tree["notify"]
        section[last] = _reference(getattr(config.notify, "_".join(map(str, (*above, last)))))
    for node, loc in walk(root, ()):
        if node.written and not is_secret(loc):
            _replace(tree, loc, node.written)
    return tree


def _reference(secret: compiled.Secret | None) -> str | None:
    return secret.reference if secret else None


def _replace(tree: Any, loc: Loc, written: str) -> None:
    """Put the text as written in the place of a value that came out of ``${...}``."""
    at: Any = tree
    steps: tuple[Any, ...] = loc
    for step in steps[:-1]:
        at = at[step] if isinstance(at, list) or step in at else {}
    last = steps[-1]
    if isinstance(at, dict) and isinstance(at.get(last), dict):
        at[last]["name"] = written  # a model's name alone stands for {name: ...}
    elif isinstance(at, list) or last in at:
        at[last] = written
