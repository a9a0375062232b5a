"""Calls to where a subscriber, or the operator's file, wants to be told: one POST, tried again a few times.

A subscriber's address is guarded: the name is looked up, every address it has is judged, and the connection goes to
exactly those addresses, so that a name server cannot answer the check with one address and the call with another.
Nothing is cached between two calls, and redirects are answers like any other: they would lead past the check.

These are aiohttp's and aiohttp-retry's clients, made for the first delivery and not for the start: most sidecars never
deliver anything.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy.policy.addresses import is_public
from proxy.policy.notice import Sent
from proxy.upstream.connector import Lookup, Resolver

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

TRIES: Final = 3
"""Calls of one delivery; after that the outbox waits longer."""
PAUSE_S: Final = 0.5
"""Doubled before each further call of a delivery."""
TIMEOUT_S: Final = 10.0
"""Of one call, look-up and connection included."""
BUSY: Final = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses of a receiver that cannot take anything at present."""


class Forbidden(OSError):
    """The address is not one that a subscriber may make us call."""


def later_s(attempts: int) -> float:
    """Seconds until the next delivery after so many that failed: 2, 4, 8 and so on, 15 minutes at most."""
    from aiohttp_retry import ExponentialRetry

    return ExponentialRetry(start_timeout=1.0, factor=2.0, max_timeout=900.0).get_timeout(min(attempts, 32))


class Courier:
    """Posts letters. One per process; `close` ends its connections."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        """`lookup`: None for the system's."""
        self._resolver = Resolver(time.monotonic, lookup)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def addresses(self, host: str, port: int) -> list[Any]:
        """Address infos of `host`, every one of them public; raises `Forbidden`, or OSError when it has none."""
        infos = await self._resolver.resolve(host, port)
        self._resolver.forget(host, port)
        for info in infos:
            if not is_public(str(info[4][0])):
                raise Forbidden("it leads to an address that is not on the public internet")
        return infos

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, is_guarded: bool) -> Sent:
        """Deliver `body`. `is_guarded`: the address is a subscriber's, and must be a public one."""
        import aiohttp
        from aiohttp_retry import ExponentialRetry, RetryClient
        from yarl import URL

        try:
            target = URL(url)  # parsed once: two readers might see two hosts in it
            if is_guarded:
                # A literal address never comes to the resolver, so it is looked at here; a name is looked at there too.
                await self.addresses(target.host or "", target.port or 443)
            tries = ExponentialRetry(
                attempts=TRIES,
                start_timeout=PAUSE_S,
                max_timeout=5.0,
                exceptions={aiohttp.ClientConnectionError, TimeoutError},
                retry_all_server_errors=False,
                evaluate_response_callback=_is_answered,
            )
            client = RetryClient(client_session=self._session(is_guarded), retry_options=tries)
            async with client.post(target, data=body, headers=dict(headers), allow_redirects=False) as response:
                return _judged(response.status)
        except Forbidden as error:
            return Sent(result="never", reason=str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, Forbidden) or isinstance(error.__context__, Forbidden):
                return Sent(result="never", reason=str(error.__cause__ or error.__context__))
            return Sent(result="failed", reason=_reason(error))

    def _session(self, is_guarded: bool) -> aiohttp.ClientSession:
        import aiohttp

        if is_guarded not in self._sessions:
            connector = aiohttp.TCPConnector(
                resolver=_resolver(self.addresses) if is_guarded else None,
                use_dns_cache=False,
                force_close=True,
                limit=32,
                limit_per_host=4,
            )
            self._sessions[is_guarded] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # a proxy would do the look-up itself
                auto_decompress=False,
            )
        return self._sessions[is_guarded]

    async def close(self) -> None:
        """End all connections."""
        self._resolver.close()
        sessions = tuple(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()


def _judged(status: int) -> Sent:
    if 200 <= status < 300:
        return Sent(result="delivered")
    if status == 410:
        return Sent(result="never", reason="410: nobody wants it there any more")
    if status in BUSY:
        return Sent(result="failed", reason=f"status {status}")
    return Sent(result="refused", reason=f"status {status}")


def _reason(error: Exception) -> str:
    """Why a call failed. The address beyond its host may be all that protects it, and what a receiver sends instead of
    an answer may repeat it; so only errors that tell no more than the host are told in their own words."""
    import aiohttp

    words = ""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)):
        words = str(error)
    elif isinstance(error, OSError):
        words = error.strerror or ""
    return f"{type(error).__name__}: {words}"[:200].removesuffix(": ")


async def _is_answered(response: aiohttp.ClientResponse) -> bool:
    """False: call again. That answer is closed unread, for it may be of any length."""
    if response.status not in BUSY:
        return True
    response.close()
    return False


def _resolver(addresses: Callable[[str, int], Awaitable[list[Any]]]) -> Any:
    """aiohttp's seam to look-ups, over ours."""
    from aiohttp.abc import AbstractResolver

    class Guarded(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                {
                    "hostname": host,
                    "host": str(info[4][0]),
                    "port": port,
                    "family": int(info[0]),
                    "proto": 0,
                    "flags": int(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV),
                }
                for info in await addresses(host, port)
            ]

        async def close(self) -> None:
            return

    return Guarded()
