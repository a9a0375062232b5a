"""How each platform hands out a credential: what is asked, and what the answer says (`providers.md` 1.7, 1.8).

AWS: a role assumed with the pod's token at STS (IRSA), or the agent of EKS Pod Identity. Azure: the token of a
workload identity, exchanged at the tenant's authority. Google: the metadata server. Tokens in files are read for every
fetch, because the kubelet replaces them. A token is sent over TLS, or to this machine and the node's own agents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

FILE_BYTES_MAX: Final = 64 * 1024
AGENTS: Final = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
"""Addresses of ECS's and EKS's agents on the node, which speak plain HTTP."""
AZURE_CLASSIC: Final = "https://cognitiveservices.azure.com/.default"
AZURE_V1: Final = "https://ai.azure.com/.default"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_GCP_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"


class Refused(Exception):
    """No credential was got. `reason` is a class of failure without anything that was sent or answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AwsKeys(NamedTuple):
    """Keys to sign with; `token` empty: permanent ones."""

    key_id: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        return "AwsKeys(...)"


@dataclass(frozen=True, slots=True)
class Grant:
    """A credential with its times, unix seconds."""

    value: AwsKeys | str = field(repr=False)
    fetched_at: float
    expires_at: float

    BYTES_MAX: ClassVar[int] = 64 * 1024
    """Longest answer of a platform that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the platforms are asked; empty: where the environment says, else the vendor's own address."""

    sts: str = ""
    azure: str = ""
    gcp: str = ""


Ask = Callable[..., Awaitable[bytes]]
"""``ask(method, url, headers=..., data=...)``: the body of a 200; anything else raises."""
Fetch = Callable[[Ask, float], Awaitable[Grant]]
"""Asks a platform; the number is now, unix seconds. Raises `Refused`, or ValueError for an answer it cannot read."""


# AWS ------------------------------------------------------------------------------------------------------------------


def aws_fetch(env: Mapping[str, str], endpoints: Endpoints, region: str, role_arn: str, token_file: str) -> Fetch:
    """The pod's AWS identity: a web identity where a role and a token are told, else the node's agent."""
    role = role_arn or env.get("AWS_ROLE_ARN", "")
    token = token_file or env.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")
    if role and token:
        # The role's own partition: a role of China's is unknown elsewhere.
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        url = endpoints.sts or env.get("AWS_ENDPOINT_URL_STS", "") or f"https://sts.{region}.{suffix}/"
        return _web_identity(url, role, token, env.get("AWS_ROLE_SESSION_NAME", "") or "outrider")
    url = env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "")
    if not url and relative:
        url = f"http://169.254.170.2{relative}"
    if url:
        bearer = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        return _container(url, env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""), bearer)
    return _nothing("no AWS identity in the environment")


def _web_identity(url: str, role: str, token_file: str, session: str) -> Fetch:
    async def fetch(ask: Ask, now: float) -> Grant:
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": session,
            "WebIdentityToken": _token(token_file),
        }
        return _assumed(await ask("POST", _checked(url), data=form), now)

    return fetch


def _assumed(body: bytes, now: float) -> Grant:
    """The keys in an answer of STS. Its elements stand in a namespace, which is not looked at."""
    from xml.etree import ElementTree  # of use to one kind of identity only

    if b"<!" in body:
        raise Refused("malformed")  # STS declares no entities, and what does could grow without end
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise Refused("malformed") from None
    told = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
    return _aws_grant(told, "SessionToken", now)


def _container(url: str, token_file: str, bearer: str) -> Fetch:
    async def fetch(ask: Ask, now: float) -> Grant:
        token = _token(token_file) if token_file else _sendable(bearer)
        headers = {"Authorization": token} if token else {}
        body = await ask("GET", _checked(url), headers=headers)
        return _aws_grant(_object(body), "Token", now)

    return fetch


def _aws_grant(told: Mapping[str, Any], token: str, now: float) -> Grant:
    found = [told.get(key) for key in ("AccessKeyId", "SecretAccessKey", token, "Expiration")]
    words = [word for word in found if isinstance(word, str) and word]
    if len(words) != 4:
        raise Refused("malformed")
    ends = datetime.fromisoformat(words[3])
    if ends.tzinfo is None:
        raise Refused("malformed")
    return Grant(AwsKeys(*map(_sendable, words[:3])), now, ends.timestamp())


# Azure and Google -----------------------------------------------------------------------------------------------------


def azure_fetch(env: Mapping[str, str], endpoints: Endpoints, scope: str) -> Fetch:
    """The workload identity of AKS. `scope`: what the token is for; empty: `AZURE_CLASSIC`."""
    names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE")
    tenant, client, token_file = (env.get(name, "") for name in names)
    if not (tenant and client and token_file):
        return _nothing("no Azure workload identity in the environment")
    authority = endpoints.azure or env.get("AZURE_AUTHORITY_HOST", "") or "https://login.microsoftonline.com"
    url = f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token"

    async def fetch(ask: Ask, now: float) -> Grant:
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "scope": scope or AZURE_CLASSIC,
            "client_assertion_type": _ASSERTION,
            "client_assertion": _token(token_file),
        }
        return _bearer(await ask("POST", _checked(url), data=form), now)

    return fetch


def gcp_fetch(env: Mapping[str, str], endpoints: Endpoints) -> Fetch:
    """The metadata server's token of the service account; it speaks plain HTTP on the node."""
    host = env.get("GCE_METADATA_HOST", "") or "metadata.google.internal"
    url = (endpoints.gcp or f"http://{host}").rstrip("/") + _GCP_PATH

    async def fetch(ask: Ask, now: float) -> Grant:
        return _bearer(await ask("GET", url, headers={"Metadata-Flavor": "Google"}), now)

    return fetch


def _bearer(body: bytes, now: float) -> Grant:
    told = _object(body)
    token, life = told.get("access_token"), told.get("expires_in")
    if not isinstance(token, str) or not token or isinstance(life, bool) or not isinstance(life, int | float | str):
        raise Refused("malformed")
    seconds = float(life)  # some authorities write it as text
    if not 0 < seconds < 10_000_000:
        raise Refused("malformed")
    return Grant(_sendable(token), now, now + seconds)


# Shared ---------------------------------------------------------------------------------------------------------------


def _nothing(reason: str) -> Fetch:
    """Where the environment tells of no identity."""

    async def fetch(ask: Ask, now: float) -> Grant:
        raise Refused(reason)

    return fetch


def _object(body: bytes) -> Mapping[str, Any]:
    told = orjson.loads(body)
    if not isinstance(told, dict):
        raise Refused("malformed")
    return told


def _token(path: str) -> str:
    """The token in a file. Raises `Refused`."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError):
        raise Refused("no token file") from None
    token = content.decode("latin-1").strip()
    if not token or len(content) > FILE_BYTES_MAX:
        raise Refused("no token in its file")
    return _sendable(token)


def _sendable(text: str) -> str:
    """Printable ASCII, as a header can carry it: a line break would write headers of its own."""
    if not text.isascii() or not text.isprintable():
        raise Refused("malformed")
    return text


def _checked(url: str) -> str:
    """The address, when a token may be sent there. Raises `Refused`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise Refused("address not allowed") from None
    if parts.scheme == "https" and host:
        return url
    if parts.scheme == "http" and (host in AGENTS or host == "localhost" or _is_loopback(host)):
        return url
    raise Refused("address not allowed")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
