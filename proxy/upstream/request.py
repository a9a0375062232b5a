"""What a forwarded request looks like: built by us, never copied (`http.md`).

Method and path as decided, one Host, one framing, header names that are tokens, values without control characters, no
hop-by-hop header, none named by Connection, no control header of ours, exactly one credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proxy.upstream.connector import Origin

_BEARER: Final = "Authorization: Bearer "
BODYLESS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def credential_lines(dialect: str, key: str, bearer: bool = False) -> bytes:
    """The one credential header of a dialect; empty without a key.

    `bearer`: a token, or a platform that takes the key as one (Vertex, Bedrock's compatible endpoints).
    """
    if not key:
        return b""
    name = _BEARER
    if not bearer:
        name = {"azure": "api-key: ", "anthropic": "x-api-key: ", "gemini": "x-goog-api-key: "}.get(dialect, _BEARER)
    return f"{name}{key}\r\n".encode("latin-1")


def join_path(dialect: str, base_path: str, path: str, own: bool) -> str:
    """Path at the provider for the caller's raw `path`.

    `own`: the caller speaks of the provider's own tree (``/{provider}/…``), with or without the base URL's path in it.
    Otherwise the caller's ``/v1`` stands for the base URL of an OpenAI-shaped provider (``…/v1/openai``), and is kept
    for Anthropic's, whose base URL carries none.
    """
    if own:
        return path if base_path and (path + "/").startswith(base_path + "/") else base_path + path
    if path.startswith("/v1/"):
        if dialect == "openai" or base_path.endswith("/v1"):
            return base_path + path[3:]
        return base_path + path
    return base_path + path


def head(
    method: str,
    origin: Origin,
    path: str,
    query: str,
    passed: Sequence[bytes],
    credential: bytes,
    body_bytes: int,
    extra: bytes,
) -> bytes:
    """The request head, ready to be sent. `passed` are whole header lines with their line ends."""
    target = f"{path}?{query}" if query else path
    length = b"" if body_bytes == 0 and method in BODYLESS else b"Content-Length: %d\r\n" % body_bytes
    return b"".join(
        (
            f"{method} {target} HTTP/1.1\r\nHost: {origin.authority}\r\n".encode("latin-1"),
            *passed,
            credential,
            extra,
            length,
            b"\r\n",
        )
    )
