"""A provider in OpenTelemetry's words: the company's name by the GenAI conventions, and where it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_BY_VENDOR: Final = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "mantle": "aws.bedrock",
    "mistral": "mistral_ai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""Vendors whose name in the conventions is another one than ours."""
_BY_DIALECT: Final = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "gemini": "gcp.gemini"}
"""Dialects that one company speaks; for addresses that tell nothing, like a gateway of one's own."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What spans and numbers say of a provider."""

    name: str
    """``gen_ai.provider.name``; the provider's own name where the conventions have none."""
    address: str = ""
    """Host without port; empty: unknown."""
    port: int = 0


def peer_of(name: str, dialect: str, vendor: str, base_url: str) -> Peer:
    """The provider that is configured as `name`; `vendor` empty: nobody that we know."""
    parts = urlsplit(base_url)
    known = _BY_VENDOR.get(vendor) or vendor or _BY_DIALECT.get(dialect, "")
    return Peer(name=known or name, address=parts.hostname or "", port=parts.port or _PORTS.get(parts.scheme, 0))
