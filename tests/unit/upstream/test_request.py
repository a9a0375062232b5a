"""What a forwarded request looks like: built by us, never copied."""

from __future__ import annotations

import re

import pytest

from proxy.upstream import request
from proxy.upstream.connector import Origin


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://api.openai.com/v1", "api.openai.com", "/v1"),
        ("https://api.openai.com:443/v1/", "api.openai.com", "/v1"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", ""),
        ("http://host:80/", "host", ""),
        ("http://[::1]:9/a/b", "[::1]:9", "/a/b"),
        ("https://[2001:db8::1]", "[2001:db8::1]", ""),
        ("https://host:80", "host:80", ""),
    ],
)
def test_origin_of_a_base_url(url: str, authority: str, path: str) -> None:
    origin = Origin.parse(url)
    assert (origin.authority, origin.path) == (authority, path)


@pytest.mark.parametrize(
    ("dialect", "base", "path", "own", "joined"),
    [
        ("openai", "/v1", "/v1/chat/completions", False, "/v1/chat/completions"),
        ("openai", "", "/v1/chat/completions", False, "/chat/completions"),
        ("openai", "/v1/openai", "/v1/embeddings", False, "/v1/openai/embeddings"),
        ("anthropic", "", "/v1/messages", False, "/v1/messages"),
        ("anthropic", "/v1", "/v1/messages", False, "/v1/messages"),
        ("anthropic", "/proxy", "/v1/messages", False, "/proxy/v1/messages"),
        ("openai", "/v1", "/v1/files", True, "/v1/files"),
        ("openai", "/v1", "/files", True, "/v1/files"),
        ("openai", "/v1", "/v1", True, "/v1"),
        ("openai", "/v1", "/v10/files", True, "/v1/v10/files"),
        ("openai", "", "/files", True, "/files"),
    ],
)
def test_paths_are_joined(dialect: str, base: str, path: str, own: bool, joined: str) -> None:
    assert request.join_path(dialect, base, path, own) == joined


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("openai", b"Authorization: Bearer sk-1\r\n"),
        ("anthropic", b"x-api-key: sk-1\r\n"),
        ("azure", b"api-key: sk-1\r\n"),
        ("gemini", b"x-goog-api-key: sk-1\r\n"),
    ],
)
def test_one_credential_in_the_dialects_own_header(dialect: str, line: bytes) -> None:
    assert request.credential_lines(dialect, "sk-1") == line
    assert request.credential_lines(dialect, "") == b""


def build(method: str = "POST", body: int = 3, query: str = "") -> bytes:
    return request.head(
        method,
        Origin.parse("https://api.test:8443/v1"),
        "/v1/chat/completions",
        query,
        [b"Content-Type: application/json\r\n", b"X-A: 1\r\n"],
        b"Authorization: Bearer sk-1\r\n",
        body,
        b"Via: 1.1 outrider\r\n",
    )


def test_a_head_has_one_host_one_length_and_nothing_of_its_own() -> None:
    raw = build(query="api-version=1&x=%20")
    first, *lines, last, end = raw.split(b"\r\n")
    assert first == b"POST /v1/chat/completions?api-version=1&x=%20 HTTP/1.1"
    assert (last, end) == (b"", b"")
    names = [line.partition(b":")[0].lower() for line in lines]
    assert sorted(names) == [b"authorization", b"content-length", b"content-type", b"host", b"via", b"x-a"]
    assert b"Host: api.test:8443" in lines
    assert all(re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*", line) for line in lines)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_no_length_where_no_body_is_expected(method: str) -> None:
    assert b"Content-Length" not in build(method, 0)
    assert b"Content-Length: 3\r\n" in build(method, 3), "a body is always framed"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_an_empty_body_is_announced_where_one_is_expected(method: str) -> None:
    assert b"Content-Length: 0\r\n" in build(method, 0)
