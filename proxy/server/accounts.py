"""The providers of a configuration as `upstream` takes them (where each is called, and with which credential), and as
`observe` names them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from proxy.config.compiled import Config, Provider
from proxy.observe.peer import Peer, peer_of
from proxy.upstream.session import Account

if TYPE_CHECKING:
    from proxy.upstream.credentials import Credential

AZURE_V1_SCOPE: Final = "https://ai.azure.com/.default"
"""What a token for Azure's v1 API is for; the dated APIs have a scope of their own (`providers.md` 1.8)."""
BEARER_VENDORS: Final = frozenset({"mantle", "vertex"})
"""Platforms that take a key as a bearer token, whatever the dialect (`providers.md` 1.5 to 1.7)."""


def accounts_of(config: Config, wall: Callable[[], float], report: Callable[[str, str], None]) -> Mapping[str, Account]:
    """The accounts by provider's name. `report` is told (provider, class) of a fetch that failed."""
    return {
        name: Account(
            name=name,
            dialect=provider.dialect,
            base_url=provider.base_url,
            key=provider.api_key,
            tls_verify=provider.tls_verify,
            ca_file=provider.ca_file,
            api_version=provider.api_version,
            bearer=provider.vendor in BEARER_VENDORS,
            credential=_credential(provider, wall, report),
            betas=None if provider.anthropic_betas is None else frozenset(provider.anthropic_betas),
            traceparent=provider.traceparent,
            sign_region=provider.aws.region,
            sign_service=provider.aws.service,
        )
        for name, provider in config.providers.items()
    }


def peers_of(config: Config) -> Mapping[str, Peer]:
    """The providers by name, in OpenTelemetry's words."""
    return {
        name: peer_of(name, provider.dialect, provider.vendor, provider.base_url)
        for name, provider in config.providers.items()
    }


def _credential(provider: Provider, wall: Callable[[], float], report: Callable[[str, str], None]) -> Credential | None:
    """What the platform hands out for a provider, or the keys it signs with; None: its key is all there is."""
    aws = provider.aws
    if not provider.identity and not aws.has_keys:
        return None
    from proxy.upstream.credentials import Wanted, credential

    keys = None
    if aws.access_key_id is not None and aws.secret_access_key is not None:
        keys = (aws.access_key_id, aws.secret_access_key, aws.session_token)
    wanted = Wanted(
        provider=provider.name,
        identity=provider.identity,
        keys=keys,
        region=aws.region,
        role_arn=aws.role_arn,
        token_file=aws.web_identity_token_file,
        scope=AZURE_V1_SCOPE if provider.dialect == "azure" and provider.api_version in ("", "v1", "preview") else "",
    )
    return credential(wanted, os.environ, wall, report)
