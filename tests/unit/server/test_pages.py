"""Which requests are those of web pages that have no business here."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from proxy.server.pages import FOREIGN, REBOUND, is_fixed, is_from_here, is_loopback_peer, is_our_port, page_fault

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0", "Accept-Language": "en"}
NODE = {"User-Agent": "node", "Accept-Language": "*", "Sec-Fetch-Mode": "cors"}


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        # Programs that are no browsers, under whatever name they have for this host.
        ({"Host": "localhost:8711"}, ""),
        ({"Host": "llm.shop.example", "User-Agent": "OpenAI/Python 2.0"}, ""),
        ({"Host": "llm.shop.example", **NODE}, ""),
        ({}, ""),
        # Browsers at home: the page, kubectl port-forward, the SDK in an app that is served from another port.
        ({"Host": "localhost:8712", **BROWSER}, ""),
        ({"Host": "127.0.0.1:8712", **BROWSER, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, ""),
        ({"Host": "[::1]:8712", **BROWSER, "Origin": "http://[::1]:8712"}, ""),
        ({"Host": "localhost:8711", **BROWSER, "Origin": "http://localhost:3000"}, ""),
        ({"Host": "127.0.0.1:8711", **BROWSER, "Origin": "https://app.localhost"}, ""),
        ({"Host": "outrider:8711", **BROWSER, "Origin": "http://outrider:8711"}, ""),
        ({"Host": "192.168.1.2:8712", **BROWSER, "Origin": "http://192.168.1.2:8712"}, ""),
        ({"Host": "host.docker.internal:8711", **BROWSER}, ""),
        # Somebody has followed a link to the page.
        ({"Host": "localhost:8712", **BROWSER, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, ""),
        # Pages of other sites.
        ({"Host": "localhost:8711", "Origin": "https://evil.example"}, FOREIGN),
        ({"Host": "localhost:8711", "Origin": "http://localhost.evil.example"}, FOREIGN),
        ({"Host": "localhost:8711", "Origin": "null"}, FOREIGN),
        ({"Host": "localhost:8711", "Origin": ""}, FOREIGN),
        ({"Host": "localhost:8711", "Origin": "http://["}, FOREIGN),
        ({"Host": "localhost:8711", "Origin": "http://192.168.1.2:8711"}, FOREIGN),
        ({"Host": "localhost:8711", **BROWSER, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, FOREIGN),
        # Pages whose name has come to mean this host. The last three are what Chromium sent for a page that left out
        # whatever it may.
        ({"Host": "evil.example:8711", "Origin": "http://evil.example:8711"}, REBOUND),
        ({"Host": "EVIL.example:8711", "Origin": "http://evil.example:8711"}, REBOUND),
        ({"Host": "evil.example.:8711", **BROWSER}, REBOUND),
        ({"Host": "evil.example:8711", "User-Agent": "Mozilla/5.0 Chrome/156.0", "Accept-Language": ""}, REBOUND),
        ({"Host": "evil.example:8711", "User-Agent": "x", "Accept-Language": ""}, REBOUND),
        ({"Host": "evil.example:8711", "User-Agent": "Mozilla/5.0 Chrome/156.0"}, REBOUND),
    ],
)  # fmt: skip
def test_pages(headers: dict[str, str], fault: str) -> None:
    assert page_fault("GET", CIMultiDict(headers)) == fault
    assert page_fault("POST", CIMultiDict(headers)) == fault
    assert page_fault("POST", CIMultiDict({**headers, "Content-Type": "text/plain; charset=utf-8"})) == fault


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        # A gateway in front of the sidecar passes on what a browser has said to it.
        ({"Host": "127.0.0.1:8711", "Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, ""),
        ({"Host": "127.0.0.1:8711", **BROWSER, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, ""),
        # Within its own origin a page asks nobody.
        ({"Host": "evil.example:8711", "Origin": "http://evil.example:8711"}, REBOUND),
        ({"Host": "evil.example:8711", **BROWSER}, REBOUND),
    ],
)
def test_json_is_sent_to_another_site_by_leave_only(headers: dict[str, str], fault: str) -> None:
    asked = CIMultiDict({**headers, "Content-Type": "application/json"})
    assert page_fault("POST", asked) == fault
    assert page_fault("DELETE", asked) == fault


@pytest.mark.parametrize(
    ("host", "own", "ours"),
    [
        ("evil.example:8711", ("127.0.0.1", 8711), True),
        ("evil.example", ("127.0.0.1", 80), True),
        ("app.example", ("127.0.0.1", 8711), False),
        ("app.example:443", ("127.0.0.1", 8711), False),
        ("[::1]:8711", ("::1", 8711, 0, 0), True),
        ("[::1]", ("::1", 8711, 0, 0), False),
        ("evil.example:8711", None, False),
        ("evil.example:8711", "/run/socket", False),
    ],
)
def test_a_gateway_has_a_port_of_its_own(host: str, own: Any, ours: bool) -> None:
    assert is_our_port(host, cast(asyncio.BaseTransport, Ends(None, own))) is ours
    assert not is_our_port(host, None)


@pytest.mark.parametrize(
    ("host", "fixed"),
    [
        ("", True), ("localhost", True), ("LOCALHOST:1", True), ("localhost.:1", True), ("a.localhost:80", True),
        ("127.0.0.1:80", True), ("10.0.0.7", True), ("[::1]", True), ("[fe80::1%25eth0]:80", True), ("devbox:80", True),
        ("host.docker.internal", True), ("127.0.0.1.nip.io", False), ("a.example:80", False), ("1.2.3", False),
        ("xinternal.example", False),
    ],
)  # fmt: skip
def test_names_that_nobody_can_let_mean_something_else(host: str, fixed: bool) -> None:
    assert is_fixed(host) is fixed


class Ends:
    def __init__(self, peer: Any, own: Any) -> None:
        self._ends = {"peername": peer, "sockname": own}

    def get_extra_info(self, name: str) -> Any:
        return self._ends[name]


@pytest.mark.parametrize(
    ("peer", "own", "here", "loopback"),
    [
        ("127.0.0.1", "127.0.0.1", True, True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True, True),
        ("::1", "::1", True, True),
        ("192.168.1.2", "192.168.1.2", True, False),
        ("127.0.0.6", "10.0.0.7", False, False),
        ("10.0.0.1", "10.0.0.7", False, False),
        (None, "127.0.0.1", False, False),
        ("no address", "no address", False, False),
    ],
)
def test_who_calls_from_here(peer: str | None, own: str, here: bool, loopback: bool) -> None:
    ends = cast(asyncio.BaseTransport, Ends(None if peer is None else (peer, 5), (own, 80)))
    assert (is_from_here(ends), is_loopback_peer(ends)) == (here, loopback)


def test_of_nothing_nothing_can_be_told() -> None:
    assert not is_from_here(None)
    assert not is_loopback_peer(None)
