"""Whether a request from this very host comes from a web page that has no business here.

Whoever may open a port of ours over loopback is trusted: containers of the pod, programs of a developer's machine. But
a browser on that machine runs the pages of strangers, and lends them its way in. A page of another site may send
without reading (a POST of plain text costs money), and reads what a provider's own CORS headers let it read. A page
whose name has come to mean this host (DNS rebinding) is of our own origin to its browser, and reads everything.

What tells them, each with what a page cannot leave out or invent:

* `Origin`, which every POST, WebSocket and cross-site read of a browser has, names a host that is not this one. That it
  equals `Host` proves nothing when it is a name of the public DNS; an address or a name without a dot does prove it,
  since nobody can let those mean something else.
* `Sec-Fetch-Site: cross-site` without `Origin`, unless somebody has followed a link. Neither counts for a body of JSON:
  a browser asks another site before it sends one, and we never allow it. It comes from a gateway that passes its
  callers' headers on.
* A read within one origin has neither, and over plain HTTP to a public name no `Sec-Fetch-*` at all. There a browser is
  known by `Accept-Language`, which a page can empty but not remove (Chromium, tried), or by `Mozilla/`, and it is
  refused when `Host` is a name that may have been rebound. Programs that are no browsers send neither; Node's `fetch`
  sends the first, and tells itself by `Sec-Fetch-Mode` without `Sec-Fetch-Site`.

A page whose name has come to mean this host has our port in its `Host`; a gateway that passes on the `Host` it was
called by has its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from aiohttp import hdrs
from multidict import istr

from proxy.config.validate import is_loopback

SITE: Final = istr("Sec-Fetch-Site")
MODE: Final = istr("Sec-Fetch-Mode")
_PRIVATE: Final = (".internal",)
"""Ends of names that nobody can have in the public DNS, and that are used for this host (``host.docker.internal``)."""

_SIMPLE: Final = frozenset({"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"})

FOREIGN: Final = "the pages of other sites may not call this port from its own host"
REBOUND: Final = (
    "from its own host a browser is answered under localhost, an address or a name without a dot only: any other name "
    "may have been made to lead here"
)


def is_loopback_peer(transport: asyncio.BaseTransport | None) -> bool:
    """Whether both ends of the connection are loopback addresses; False for anything that cannot be told."""
    return all(address is not None and address.is_loopback for address in _ends(transport))


def is_from_here(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the peer is on this host: both ends are loopback, or one and the same address."""
    peer, own = _ends(transport)
    return peer is not None and own is not None and (peer == own or (peer.is_loopback and own.is_loopback))


def _ends(
    transport: asyncio.BaseTransport | None,
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address | None, ...]:
    """The addresses of peer and own end; None: it cannot be told."""
    if transport is None:
        return None, None
    return _address(transport.get_extra_info("peername")), _address(transport.get_extra_info("sockname"))


def _address(name: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not isinstance(name, tuple) or not name:
        return None
    try:
        address = ipaddress.ip_address(str(name[0]).partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def page_fault(method: str, headers: Mapping[str, str]) -> str:
    """Why a request from this host is refused as that of a web page; empty: it is not. `REBOUND` holds only where
    `is_our_port` does too. Pure."""
    origin, host, site = headers.get(hdrs.ORIGIN), headers.get(hdrs.HOST, ""), headers.get(SITE)
    if origin is not None:
        if _is_ours(origin, host):
            return ""
        if authority_of(origin) == host.lower():
            return REBOUND
        return FOREIGN if _is_simple(method, headers) else ""
    if site is not None and site.lower() == "cross-site" and headers.get(MODE, "").lower() != "navigate":
        return FOREIGN if _is_simple(method, headers) else ""
    if is_fixed(host) or not _is_browser(headers):
        return ""
    return REBOUND


def is_our_port(host: str, transport: asyncio.BaseTransport | None) -> bool:
    """Whether a `Host` names the port that the connection came to; without one it names 80."""
    own = transport.get_extra_info("sockname") if transport is not None else None
    port = host.rpartition(":")[2] if ":" in host.rpartition("]")[2] else "80"
    return isinstance(own, tuple) and len(own) > 1 and port == str(own[1])


def _is_simple(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser sends it to another site without asking that first (Fetch standard, CORS-safelisted)."""
    if method in ("GET", "HEAD"):
        return True
    kind = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    return method == "POST" and kind in _SIMPLE


def _is_ours(origin: str, host: str) -> bool:
    """Whether a page of this origin is one of this host's own."""
    authority = authority_of(origin)
    return is_loopback(name_of(authority)) or (authority == host.lower() and is_fixed(host))


def authority_of(origin: str) -> str:
    """Host and port of an `Origin`, in small letters; empty for ``null``."""
    return origin.partition("://")[2].lower()


def name_of(authority: str) -> str:
    """A `Host` without its port and without a final dot, in small letters; an IPv6 address in its brackets."""
    name, bracket, _ = authority.lower().partition("]")
    return name + bracket if bracket else name.partition(":")[0].rstrip(".")


@lru_cache(maxsize=64)
def is_fixed(host: str) -> bool:
    """Whether nobody outside can let the `Host` mean another machine: an address, a name without a dot, none at all."""
    name = name_of(host)
    if "." not in name or name.startswith("[") or is_loopback(name) or name.endswith(_PRIVATE):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_browser(headers: Mapping[str, str]) -> bool:
    if MODE in headers and SITE not in headers:
        return False
    return hdrs.ACCEPT_LANGUAGE in headers or headers.get(hdrs.USER_AGENT, "").startswith("Mozilla/")
