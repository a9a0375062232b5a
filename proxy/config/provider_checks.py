"""What the keys of one provider may not be together: where its credential comes from, and what it is said to speak.

As in `validate`: what can never work is an error, what merely has no use a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.config import apis
from proxy.config.names import Loc
from proxy.config.validate import Finding, base_url_of, dialect_of, is_local
from proxy.dialects import sigv4

if TYPE_CHECKING:
    from proxy.config.schema import File, Provider

TAKERS: Final = {
    "aws": frozenset({"bedrock", "anthropic", "openai"}),
    "azure_workload": frozenset({"azure", "openai", "anthropic"}),
    "gcp_metadata": frozenset({"gemini", "anthropic", "openai"}),
}
"""Dialects that are spoken on each platform; beside its own that of the models it hosts."""


def vendor_of(name: str, provider: Provider) -> str:
    """The stated vendor, else whom the address tells; empty: unknown."""
    if provider.vendor:
        return provider.vendor
    from proxy.dialects.openai.quirks import vendor_of as told

    url = base_url_of(name, provider)
    if dialect_of(name, provider) in ("gemini", "anthropic") and "/locations/" in urlsplit(url).path:
        return "vertex"  # behind a gateway of one's own too: the path is Vertex's
    return told(url)


def identity_of(name: str, provider: Provider) -> str:
    """Where the credential is fetched from; Bedrock without any key takes the pod's identity; empty: nowhere."""
    if provider.identity or dialect_of(name, provider) != "bedrock":
        return provider.identity or ""
    has_key = provider.api_key is not None or provider.aws.access_key_id is not None
    return "" if has_key or provider.credentials == "caller" or is_local(base_url_of(name, provider)) else "aws"


def scope_of(name: str, provider: Provider) -> tuple[str, str]:
    """(region, service) that calls are signed for; both empty: calls are not signed, only the region: nobody tells."""
    if not _signs(name, provider):
        return "", ""
    told = sigv4.scope_of(urlsplit(base_url_of(name, provider)).netloc)
    service = "aws-external-anthropic" if dialect_of(name, provider) == "anthropic" else "bedrock"
    if told is not None:
        service = told.service
    return provider.aws.region or (told.region if told else provider.region), provider.aws.service or service


def _signs(name: str, provider: Provider) -> bool:
    if dialect_of(name, provider) not in TAKERS["aws"]:
        return False
    return provider.aws.access_key_id is not None or identity_of(name, provider) == "aws"


def errors(file: File) -> Iterator[Finding]:
    """What can never work."""
    for name, provider in file.providers.items():
        at: Loc = ("providers", name)
        dialect = dialect_of(name, provider)
        if dialect:
            yield from _spoken(at, provider, dialect)
            yield from _platform(at, provider, dialect)
        yield from _credentials(at, name, provider)


def _spoken(at: Loc, provider: Provider, dialect: str) -> Iterator[Finding]:
    spoken = apis.SPOKEN[dialect]
    message = f"is not spoken by dialect {dialect}, which has {', '.join(sorted(spoken))}"
    for index, api in enumerate(provider.apis or ()):
        if api not in spoken:
            yield Finding(loc=(*at, "apis", index), message=message, show=True)
    for asked, entry in (provider.models or {}).items():
        if entry.api is not None and entry.api not in spoken:
            yield Finding(loc=(*at, "models", asked, "api"), message=message, show=True)


def _platform(at: Loc, provider: Provider, dialect: str) -> Iterator[Finding]:
    takers = TAKERS.get(provider.identity or "")
    if takers is not None and dialect not in takers:
        yield Finding(loc=(*at, "identity"), message=f"is of no use for dialect {dialect}", show=True)
    if provider.aws.access_key_id is not None and dialect not in TAKERS["aws"]:
        yield Finding(loc=(*at, "aws"), message=f"is of no use for dialect {dialect}")


def _credentials(at: Loc, name: str, provider: Provider) -> Iterator[Finding]:
    aws = provider.aws
    if (aws.access_key_id is None) != (aws.secret_access_key is None):
        missing = "secret_access_key" if aws.secret_access_key is None else "access_key_id"
        yield Finding(loc=(*at, "aws", missing), message="is required: a key and its secret go together")
    if aws.session_token is not None and aws.access_key_id is None and aws.secret_access_key is None:
        yield Finding(loc=(*at, "aws", "session_token"), message="needs access_key_id and secret_access_key")
    sources = [
        (("api_key",), provider.api_key is not None),
        (("aws", "access_key_id"), aws.access_key_id is not None),
        (("identity",), provider.identity is not None),
    ]
    stated = [key for key, is_stated in sources if is_stated]
    for key in stated[1:]:
        message = f"is another credential than {'.'.join(stated[0])}; state one of them"
        yield Finding(loc=(*at, *key), message=message)
    if base_url_of(name, provider) and _signs(name, provider) and not scope_of(name, provider)[0]:
        message = "is required: neither region nor the host of base_url tells it"
        yield Finding(loc=(*at, "aws", "region"), message=message)


def warnings(file: File) -> Iterator[Finding]:
    """What has no use."""
    for name, provider in file.providers.items():
        at: Loc = ("providers", name)
        dialect = dialect_of(name, provider)
        if provider.credentials == "caller" and (provider.identity or provider.aws.access_key_id is not None):
            key: Loc = ("identity",) if provider.identity else ("aws", "access_key_id")
            yield Finding(loc=(*at, *key), message="is never used with credentials: caller")
        if provider.safety_settings and dialect != "gemini":
            yield Finding(loc=(*at, "safety_settings"), message="is of use for dialect gemini only")
        speaks_messages = dialect in ("anthropic", "bedrock") or "messages" in (provider.apis or ())
        if (provider.anthropic_version or provider.anthropic_betas is not None) and not speaks_messages:
            used = "anthropic_version" if provider.anthropic_version else "anthropic_betas"
            yield Finding(loc=(*at, used), message="is of use for Anthropic's API only")
        role = [key for key in ("role_arn", "web_identity_token_file") if getattr(provider.aws, key)]
        if role and identity_of(name, provider) != "aws":
            yield Finding(loc=(*at, "aws", role[0]), message="is used with identity: aws only")
