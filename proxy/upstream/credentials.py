"""Credentials that the platform hands out: AWS keys to sign with, bearer tokens of Azure and Google.

They are fetched beside the requests, never inside one: a call that finds none yet fails over as one with a refused
credential would, while the fetch runs. What is held is used until it ends; the next one is fetched well before. A
platform that does not answer is asked again ever more rarely, by one fetch at a time.

Nothing here prints a secret. Of a failure only its class is told, since the text of an error may hold an address, and
an answer whatever the platform put into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.upstream.grants import AwsKeys, Endpoints, Fetch, Grant, Refused, aws_fetch, azure_fetch, gcp_fetch

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from aiohttp_retry import RetryClient

REFRESH_BEFORE_S: Final = 300.0
"""A credential is fetched anew so long before it ends (`providers.md` 1.7); one that lives less than twice as long, at
half its life."""
MARGIN_S: Final = 10.0
"""Nothing is sent with a credential that ends so soon: it must still hold when the call arrives."""
FETCH_TIMEOUT_S: Final = 15.0
"""One fetch with its retries."""
TRY_TIMEOUT_S: Final = 4.0
RETRY_DELAYS_S: Final = (0.2, 1.0)
"""Waits before the second and the third try of one fetch."""
PAUSES_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Waits before the next fetch after so many failed ones in a row; the last holds for all later ones."""
DISTRUST_PAUSE_S: Final = 30.0
"""A credential that a provider refused is fetched anew no more often than this."""
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})

Report = Callable[[str, str], None]
"""(provider, class of the failure): ``timeout``, ``connect``, ``status 403``, ``malformed``, ``no token file`` ..."""


class Key(Protocol):
    """A secret of the configuration, which may change while we run."""

    def read(self) -> str | None: ...
    def reread(self) -> str | None: ...


class Credential(Protocol):
    """What an upstream asks for its credential. Of all methods only `refresh` waits."""

    @property
    def signs(self) -> bool:
        """Whether `value` gives keys to sign with; else it gives a bearer token."""

    def ready(self) -> bool:
        """Whether a call could be sent now."""

    def value(self) -> AwsKeys | str | None:
        """The credential; None: there is none now. Starts a fetch where one is due."""

    def poke(self) -> None:
        """Start a fetch where one is due and none runs."""

    def reread(self) -> None:
        """Look at files at once that `value` may remember for a second."""

    async def refresh(self) -> None:
        """Fetch now, or wait for the fetch that runs. Does not raise when it fails."""

    def distrust(self) -> None:
        """The provider refused it: fetch another soon, and use this one until then."""

    def close(self) -> None:
        """Stop fetching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the configuration says of one provider's credential."""

    provider: str
    identity: str = ""
    """``aws``, ``azure_workload``, ``gcp_metadata``; empty: `keys` are stated."""
    keys: tuple[Key, Key, Key | None] | None = None
    """Access key, its secret and the session token."""
    region: str = ""
    role_arn: str = ""
    token_file: str = ""
    """With `role_arn`, over the environment's."""
    scope: str = ""
    """Azure: what the token is for; empty: Azure OpenAI's classic API."""


def credential(
    wanted: Wanted,
    env: Mapping[str, str],
    wall: Callable[[], float],
    report: Report,
    endpoints: Endpoints | None = None,
    delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> Credential:
    """The credential of a provider. `env`: the process's variables; `wall`: unix seconds; `endpoints`: the real ones
    unless a test says otherwise."""
    if wanted.keys is not None:
        return Stated(*wanted.keys)
    places = endpoints or Endpoints()
    if wanted.identity == "aws":
        key_id, secret = env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", "")
        if key_id and secret and not wanted.role_arn:
            return Fixed(AwsKeys(key_id, secret, env.get("AWS_SESSION_TOKEN", "")))
        fetch = aws_fetch(env, places, wanted.region, wanted.role_arn, wanted.token_file)
    elif wanted.identity == "azure_workload":
        fetch = azure_fetch(env, places, wanted.scope)
    else:
        fetch = gcp_fetch(env, places)
    return Fetched(wanted.provider, fetch, wanted.identity == "aws", wall, report, delays_s)


class _Held:
    """A credential that is never fetched."""

    __slots__ = ()
    signs = True

    def poke(self) -> None:
        return

    def reread(self) -> None:
        return

    async def refresh(self) -> None:
        return

    def distrust(self) -> None:
        return

    def close(self) -> None:
        return


class Fixed(_Held):
    """Keys of the environment, which does not change."""

    __slots__ = ("_keys",)

    def __init__(self, keys: AwsKeys) -> None:
        self._keys = keys

    def ready(self) -> bool:
        return True

    def value(self) -> AwsKeys | str | None:
        return self._keys


class Stated(_Held):
    """Keys of the configuration; those in files may change, or come later."""

    __slots__ = ("_key_id", "_secret", "_token")

    def __init__(self, key_id: Key, secret: Key, token: Key | None) -> None:
        self._key_id = key_id
        self._secret = secret
        self._token = token

    def ready(self) -> bool:
        return self.value() is not None

    def value(self) -> AwsKeys | str | None:
        key_id, secret = self._key_id.read(), self._secret.read()
        token = "" if self._token is None else self._token.read()
        return None if not key_id or not secret or token is None else AwsKeys(key_id, secret, token)

    def reread(self) -> None:
        for key in (self._key_id, self._secret, self._token):
            if key is not None:
                key.reread()


class Fetched:
    """A credential that is fetched and ends."""

    __slots__ = (
        "_delays_s",
        "_fetch",
        "_grant",
        "_not_before",
        "_refresh_at",
        "_report",
        "_row",
        "_task",
        "_wall",
        "failures",
        "fetches",
        "last_failure",
        "provider",
        "signs",
    )

    def __init__(
        self,
        provider: str,
        fetch: Fetch,
        signs: bool,
        wall: Callable[[], float],
        report: Report,
        delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self.provider = provider
        self.signs = signs
        self._fetch = fetch
        self._wall = wall
        self._report = report
        self._delays_s = tuple(delays_s)
        self._grant: Grant | None = None
        self._refresh_at = 0.0
        self._not_before = 0.0
        self._row = 0
        """Failed fetches since the last good one."""
        self._task: asyncio.Task[None] | None = None
        self.fetches = 0
        """Fetches that brought a credential."""
        self.failures = 0
        self.last_failure = ""
        """Class of the last failure; empty: the last fetch was good."""

    def ready(self) -> bool:
        grant = self._grant
        return grant is not None and self._wall() < grant.expires_at - MARGIN_S

    def value(self) -> AwsKeys | str | None:
        self.poke()
        return self._grant.value if self._grant is not None and self.ready() else None

    def poke(self) -> None:
        now = self._wall()
        if self._task is None and now >= self._refresh_at and now >= self._not_before:
            self._begin()

    def reread(self) -> None:
        return

    async def refresh(self) -> None:
        await asyncio.wait([self._task or self._begin()])

    def distrust(self) -> None:
        if self._grant is not None and self._wall() >= self._grant.fetched_at + DISTRUST_PAUSE_S:
            self._refresh_at = 0.0
            self.poke()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._refresh_at = self._not_before = float("inf")

    def _begin(self) -> asyncio.Task[None]:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    async def _run(self) -> None:
        try:
            grant = await self._fetched()
        except Refused as refusal:
            self._failed(refusal.reason)
        else:
            self._took(grant)
        finally:
            self._task = None

    def _took(self, grant: Grant) -> None:
        life = grant.expires_at - grant.fetched_at
        self._grant = grant
        self._refresh_at = grant.expires_at - min(REFRESH_BEFORE_S, life / 2)
        self._not_before, self._row, self.last_failure = 0.0, 0, ""
        self.fetches += 1

    def _failed(self, reason: str) -> None:
        self._not_before = self._wall() + PAUSES_S[min(self._row, len(PAUSES_S) - 1)]
        self._row += 1
        self.failures += 1
        self.last_failure = reason
        self._report(self.provider, reason)

    async def _fetched(self) -> Grant:
        """Raises `Refused` for whatever goes wrong between here and the platform."""
        import aiohttp
        from aiohttp_retry import RetryClient

        try:
            timeout = aiohttp.ClientTimeout(total=TRY_TIMEOUT_S)
            async with asyncio.timeout(FETCH_TIMEOUT_S), aiohttp.ClientSession(timeout=timeout) as session:
                options = _schedule(self._delays_s)
                client = RetryClient(client_session=session, logger=Quiet(), retry_options=options)
                grant = await self._fetch(_asker(client), self._wall())
        except TimeoutError:
            raise Refused("timeout") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise Refused("connect") from None
        except (aiohttp.ClientError, ValueError):
            raise Refused("malformed") from None
        if grant.expires_at - MARGIN_S <= self._wall():
            raise Refused("expired")
        return grant


def _asker(client: RetryClient) -> Callable[..., Awaitable[bytes]]:
    """Sends one request and gives the body of a 200."""

    async def ask(method: str, url: str, **options: Any) -> bytes:
        async with client.request(method, url, allow_redirects=False, **options) as response:
            if response.status != 200:
                raise Refused(f"status {response.status}")
            body = bytearray()
            async for piece in response.content.iter_chunked(16_384):
                body += piece
                if len(body) > Grant.BYTES_MAX:
                    raise Refused("malformed")
            return bytes(body)

    return ask


def _schedule(delays_s: tuple[float, ...]) -> Any:
    """The retries of one fetch, as aiohttp-retry takes them."""
    import aiohttp
    from aiohttp_retry import RetryOptionsBase

    class Schedule(RetryOptionsBase):
        def get_timeout(self, attempt: int, response: ClientResponse | None = None) -> float:
            if response is not None:
                response.release()
            return delays_s[min(attempt, len(delays_s)) - 1]

    return Schedule(
        attempts=len(delays_s) + 1,
        statuses=_AGAIN,
        exceptions={aiohttp.ClientConnectionError, TimeoutError},
        retry_all_server_errors=False,
    )


class Quiet:
    """aiohttp-retry logs exceptions with what is in them."""

    __slots__ = ()

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        return

    warning = exception = debug
