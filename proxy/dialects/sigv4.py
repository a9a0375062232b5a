"""AWS Signature Version 4 for Bedrock (`providers.md` 1.7), and what a Bedrock host says about region and service.

What is signed must be what is sent, byte for byte: the path is taken as it stands in the request line and encoded once
more, whatever is in it. A signature holds for five minutes around its time, so every attempt is signed anew.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-amzn-trace-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    }
)
"""Headers that somebody on the way may change, or that are ours to write anew."""
_OURS: Final = frozenset({"host", "x-amz-date", "x-amz-security-token"})
_SPACES: Final = re.compile(r"[ \t]+")
_BEDROCK: Final = re.compile(
    r"(?:^|\.)bedrock(?P<part>-[a-z]+(?:-[a-z]+)*?)?(?:-fips)?\.(?P<region>[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2})\."
)
"""``bedrock-runtime.eu-west-1.amazonaws.com``, with ``-fips``, behind ``vpce-...`` or in another partition's domain."""


class Credentials(NamedTuple):
    """What AWS calls a credential; `token` empty: a permanent key."""

    key_id: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(key_id={self.key_id!r})"


class Scope(NamedTuple):
    """Where a signature holds."""

    region: str
    service: str


def scope_of(host: str) -> Scope | None:
    """Region and service that a call to `host` is signed for; None: no host of Bedrock's, or it names no region.

    The service is ``bedrock`` at every host but those of ``bedrock-mantle``, which is a service of its own.
    """
    found = _BEDROCK.search(host.lower().rsplit(":", 1)[0] + ".")
    if found is None:
        return None
    return Scope(found["region"], "bedrock-mantle" if found["part"] == "-mantle" else "bedrock")


def sign(
    method: str,
    host: str,
    raw_path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    credentials: Credentials,
    region: str,
    service: str,
    amz_date: str,
) -> list[tuple[str, str]]:
    """The headers that a request must carry besides `host` and `headers`: date, session token, authorization.

    `raw_path` and `query` (without ``?``) as they stand in the request line; `host` as in the Host header, with a port
    that is not the default; `headers` those that are sent, of which all are signed but `UNSIGNED`; `amz_date` UTC as
    ``20260115T123045Z``.
    """
    added = [("x-amz-date", amz_date)]
    if credentials.token:
        added.append(("x-amz-security-token", credentials.token))
    canonical, signed = canonical_request(method, host, raw_path, query, [*headers, *added], body)
    date = amz_date[:8]
    scope = f"{date}/{region}/{service}/aws4_request"
    to_sign = f"{ALGORITHM}\n{amz_date}\n{scope}\n{_sha256(canonical.encode())}"
    key = ("AWS4" + credentials.secret).encode()
    for step in (date, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    value = f"{ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"
    return [*added, ("Authorization", value)]


def canonical_request(
    method: str, host: str, raw_path: str, query: str, headers: Iterable[tuple[str, str]], body: bytes
) -> tuple[str, str]:
    """(the text whose hash is signed, the names of the signed headers). Of our own headers the last one counts."""
    values: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key in UNSIGNED:
            continue
        plain = _SPACES.sub(" ", value.strip())
        values[key] = f"{values[key]},{plain}" if key in values and key not in _OURS else plain
    values["host"] = host
    names = sorted(values)
    lines = "".join(f"{name}:{values[name]}\n" for name in names)
    signed = ";".join(names)
    path = quote(raw_path or "/", safe="/")  # what quote leaves alone by itself is the unreserved set
    return f"{method}\n{path}\n{_canonical_query(query)}\n{lines}\n{signed}\n{_sha256(body)}", signed


def _canonical_query(query: str) -> str:
    pairs = []
    for item in query.split("&"):
        if item:
            name, _, value = item.partition("=")
            pairs.append((quote(unquote(name), safe=""), quote(unquote(value), safe="")))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
