"""Active probes: every provider is asked now and then, whether or not anybody else asks it.

*Shallow* asks for the list of models, which costs nothing: it passes when the address answers with less than 500, be it
with a refusal. *Deep* asks a model for one token, so that it fails whenever a caller's request would: what is refused
for its credential, right or model fails, and so does what is overloaded. A rate limit passes: it answers.

A probe never waits for a request nor a request for a probe: probes have connections of their own, a new one each time,
so that name, address and TLS are tried as well. A failure is not believed at once. The probe is tried again, by
aiohttp-retry's schedule, until as many tries have failed as make a verdict; so an outage is known within one interval.
While a provider is down, or the last probe contradicts the verdict, probes come so often that its recovery is known
within one interval too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxy.base.outcome import Class, Group
from proxy.policy.classify import Reply, classify
from proxy.upstream.connector import tls_context
from proxy.upstream.credentials import Quiet
from proxy.upstream.session import Upstream

if TYPE_CHECKING:
    from aiohttp import ClientResponse

log = logging.getLogger("outrider.probe")

AT_ONCE: Final = 4
"""Probes that run at the same time."""
TRIES_MAX: Final = 5
"""Tries of one probe, whatever the threshold is."""
PAUSE_S: Final = 0.5
"""Wait before the second try; it doubles from try to try."""
PAUSE_MAX_S: Final = 4.0
BODY_MAX: Final = 64 * 1024
"""Bytes read of an answer."""
EARLY: Final = (0.8, 0.95)
"""A probe comes after so much of the interval, by chance between the two: sidecars must not ask in step, and the tries
that confirm a failure must fit into the rest."""
FIRST_S: Final = 5.0
"""The first probes come within so many seconds of the start."""
WAIT_MIN_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How often, and what counts."""

    interval_s: float
    timeout_s: float
    """Of one try."""
    failure_threshold: int
    success_threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One probe's request, without its credential."""

    deep: bool
    method: str
    path: str
    """Raw, as the query."""
    query: str = ""
    lines: tuple[bytes, ...] = ()
    """Whole header lines."""
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a probe has found."""

    provider: str
    deep: bool
    passed: bool
    failures: int
    """Tries that failed, before the pass if there was one."""
    status: int
    """0: no answer came."""
    reason: str
    """Class of the failure; empty: it passed."""
    took_s: float


Aim = Callable[[str], tuple[Upstream, Shot] | None]
"""What a provider is asked at present; None: it cannot be asked (disabled, no credential yet)."""
Report = Callable[[Found], bool]
"""Takes a finding; True: the verdict stands and the provider is up, so that the next probe may take its time."""


class Prober:
    """Owns one task per provider. `adopt` starts, replaces and ends them; `close` ends them all."""

    def __init__(
        self, aim: Aim, report: Report, clock: Callable[[], float], wall: Callable[[], float], rng: Callable[[], float]
    ) -> None:
        self._aim = aim
        self._report = report
        self._clock = clock
        self._wall = wall
        self._rng = rng
        self._settings: Settings | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._contexts: dict[str, tuple[Upstream, ssl.SSLContext]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self.results: Counter[tuple[str, str]] = Counter()
        """Probes by provider and result, ``passed`` or the class of the failure."""

    def adopt(self, settings: Settings | None, providers: Mapping[str, object]) -> None:
        """Probe these providers from now on. None: probes are off. Whoever was probed by the same settings goes on."""
        for name in [name for name in self._tasks if settings != self._settings or name not in providers]:
            self._tasks.pop(name).cancel()
            self._contexts.pop(name, None)
        self._settings = settings
        if settings is None:
            return
        for name in providers:
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(self._watch(name, settings))

    def close(self) -> None:
        """End every probe."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}

    async def _watch(self, provider: str, settings: Settings) -> None:
        await asyncio.sleep(self._rng() * min(FIRST_S, settings.interval_s))
        while True:
            is_up = True
            try:
                aimed = self._aim(provider)
                if aimed is not None:
                    async with self._room:
                        found = await self._probe(provider, *aimed, settings)
                    self.results[provider, "passed" if found.passed else found.reason] += 1
                    is_up = self._report(found)
            except Exception:  # the border of the probe loop: a broken probe must not end probing
                log.exception("the probe of %s failed inside the proxy", provider)
            wait_s = settings.interval_s if is_up else settings.interval_s / (settings.success_threshold + 1)
            least, most = EARLY
            await asyncio.sleep(max(WAIT_MIN_S, wait_s * (least + (most - least) * self._rng())))

    # One probe --------------------------------------------------------------------------------------------------------

    async def _probe(self, provider: str, upstream: Upstream, shot: Shot, settings: Settings) -> Found:
        import aiohttp
        from aiohttp_retry import RetryClient
        from yarl import URL

        account, origin = upstream.account, upstream.origin
        tls = await self._tls(provider, upstream) if origin.scheme == "https" else True
        target = f"{shot.path}?{shot.query}" if shot.query else shot.path
        url = URL(f"{origin.scheme}://{origin.authority}{target}", encoded=True)
        waited: list[float] = []
        schedule = _schedule(min(TRIES_MAX, settings.failure_threshold), waited)
        status, reason, began = 0, "", self._clock()
        try:
            connector = aiohttp.TCPConnector(ssl=tls, limit=1, force_close=True)
            timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
            async with aiohttp.ClientSession(
                connector=connector, timeout=timeout, skip_auto_headers=("User-Agent", "Accept-Encoding")
            ) as session:
                client = RetryClient(client_session=session, logger=Quiet(), retry_options=schedule)
                headers = _headers(upstream, shot)
                body = shot.body or None
                async with client.request(
                    shot.method, url, headers=headers, data=body, allow_redirects=False
                ) as response:
                    status = response.status
                    reason = self._judge(shot, account.dialect, response, await _read(response))
        except TimeoutError:
            reason = str(Class.TIMEOUT)
        except (aiohttp.ClientError, OSError):
            reason = str(Class.CONNECT_ERROR)
        return Found(
            provider=provider,
            deep=shot.deep,
            passed=not reason,
            failures=len(waited) + bool(reason),
            status=status,
            reason=reason,
            took_s=self._clock() - began,
        )

    async def _tls(self, provider: str, upstream: Upstream) -> ssl.SSLContext:
        """Reading the authorities takes 20 ms: once per upstream, and in a thread."""
        held = self._contexts.get(provider)
        if held is None or held[0] is not upstream:
            account = upstream.account
            made = await asyncio.to_thread(tls_context, account.tls_verify, account.ca_file)
            held = self._contexts[provider] = upstream, made
        return held[1]

    def _judge(self, shot: Shot, dialect: str, response: ClientResponse, body: bytes) -> str:
        """Class of the failure that an answer is; empty: it passes."""
        status = response.status
        if status < 300 or (status < 500 and not shot.deep):
            return ""
        outcome = classify(Reply(dialect, status, response.headers.get, body, self._wall()))
        return str(outcome.cls) if outcome.group in (Group.BAD, Group.TARGET_FAULT) else ""


def _headers(upstream: Upstream, shot: Shot) -> dict[str, str]:
    lines = list(shot.lines)
    if upstream.signs:
        lines.append(upstream.signature(shot.method, shot.path, shot.query, lines, shot.body))
    else:
        lines.append(upstream.own_line())
    pairs = (line.partition(":") for line in b"".join(lines).decode("latin-1").splitlines() if line)
    return {"Accept-Encoding": "identity", "User-Agent": "outrider-probe", **{n: v.strip() for n, _, v in pairs}}


async def _read(response: ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_chunked(16_384):
        body += piece
        if len(body) >= BODY_MAX:
            break
    return bytes(body)


def _schedule(tries: int, waited: list[float]) -> Any:
    """The tries of one probe, as aiohttp-retry takes them; `waited` gets the pause behind every try that failed."""
    import aiohttp
    from aiohttp_retry import ListRetry

    class Schedule(ListRetry):
        def get_timeout(self, attempt: int, response: ClientResponse | None = None) -> float:
            if response is not None:
                response.release()
            waited.append(super().get_timeout(attempt - 1))
            return waited[-1]

    pauses = [min(PAUSE_MAX_S, PAUSE_S * 2.0**n) for n in range(tries)]
    return Schedule(pauses, exceptions={aiohttp.ClientError, TimeoutError, OSError})
