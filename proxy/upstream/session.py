"""The providers as dispatch sees them: where they live and how a request to one is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.dialects import sigv4
from proxy.upstream.address import Place
from proxy.upstream.connector import Connector, Origin, Resolver, tls_context
from proxy.upstream.grants import AwsKeys
from proxy.upstream.request import credential_lines

if TYPE_CHECKING:
    from proxy.upstream.credentials import Credential

SIGNED = (b"content-type", b"accept")
"""Headers of ours that a signature covers beside its own: those that nothing on the way alters."""


class Key(Protocol):
    """A secret that may change while we run."""

    def read(self) -> str | None: ...
    def reread(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What upstream must know of a provider entry."""

    name: str
    dialect: str
    base_url: str
    key: Key | None
    tls_verify: bool = True
    ca_file: str = ""
    api_version: str = ""
    bearer: bool = False
    """The key goes into ``Authorization: Bearer`` whatever the dialect."""
    credential: Credential | None = None
    """Keys to sign with, or a token that is fetched; None: `key` is all there is."""
    betas: frozenset[str] | None = None
    """Values of ``anthropic-beta`` that are let through; None: all."""
    traceparent: bool = False
    """The trace context goes along with calls."""
    sign_region: str = ""
    sign_service: str = ""
    """For SigV4; empty: told by the host."""


class Upstream:
    """One provider: its origin, its pool, its own credential as a header line."""

    __slots__ = ("_cached_key", "_cached_line", "_seen", "_wall", "account", "connector", "origin", "place")

    def __init__(
        self, account: Account, resolver: Resolver, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self.account = account
        self.origin = Origin.parse(account.base_url)
        self.place = Place(dialect=account.dialect, base_path=self.origin.path, api_version=account.api_version)
        tls = tls_context(account.tls_verify, account.ca_file) if self.origin.scheme == "https" else None
        self.connector = Connector(self.origin, resolver, clock, tls)
        self._wall = wall
        self._cached_key = ""
        self._cached_line = b""
        self._seen = self.secret()

    def own_key(self) -> str:
        """The sidecar's credential as one word; empty when it has none."""
        key = self.account.key.read() if self.account.key is not None else None
        if not key and self.account.credential is not None:
            value = self.account.credential.value()
            key = value if isinstance(value, str) else None
        return key or ""

    def own_line(self) -> bytes:
        """Header line of the sidecar's credential; empty when it has none."""
        key = self.own_key()
        if key != self._cached_key:
            bearer = self.account.bearer or (self.account.key is None and self.account.credential is not None)
            self._cached_key, self._cached_line = key, credential_lines(self.account.dialect, key, bearer)
        return self._cached_line

    def secret(self) -> AwsKeys | str | None:
        """The sidecar's credential, whatever its kind; to be compared and never shown. None: there is none now."""
        key = self.account.key.read() if self.account.key is not None else None
        if not key and self.account.credential is not None:
            return self.account.credential.value()
        return key

    def is_renewed(self, sent: AwsKeys | str | None) -> bool:
        """Whether there is another credential than `sent`, which has just been refused. Looks at files at once."""
        if self.account.key is not None:
            self.account.key.reread()
        if self.account.credential is not None:
            self.account.credential.reread()
        present = self.secret()
        return bool(present) and present != sent

    def has_turned(self) -> bool:
        """Whether the credential is another one than at the last call."""
        before, self._seen = self._seen, self.secret()
        return self._seen != before

    @property
    def is_ready(self) -> bool:
        """Whether the sidecar's credential is there; a fetch is begun where it is not."""
        credential = self.account.credential
        if credential is None:
            return True
        credential.poke()
        return credential.ready()

    def refused(self) -> None:
        """The provider refused the sidecar's credential: fetch another where it was fetched."""
        if self.account.credential is not None:
            self.account.credential.distrust()

    def allowed(self, lines: list[bytes]) -> tuple[list[bytes], tuple[str, ...]]:
        """(header lines without the betas that this provider is not let have, those betas)."""
        kept, dropped = [], []
        betas = self.account.betas or frozenset()
        for line in lines:
            name, _, value = line.partition(b":")
            if name.strip().lower() != b"anthropic-beta":
                kept.append(line)
                continue
            asked = [beta.strip() for beta in value.decode("latin-1").split(",") if beta.strip()]
            passed = [beta for beta in asked if beta in betas]
            dropped += [beta for beta in asked if beta not in betas]
            if passed:
                kept.append(f"anthropic-beta: {','.join(passed)}\r\n".encode("latin-1"))
        return kept, tuple(dropped)

    def line(self, key: str) -> bytes:
        """Header line of a caller's own key."""
        return credential_lines(self.account.dialect, key, self.account.bearer)

    # Signatures -------------------------------------------------------------------------------------------------------

    @property
    def signs(self) -> bool:
        """Requests with the sidecar's credential are signed instead of carrying a key."""
        credential = self.account.credential
        return credential is not None and credential.signs and self.account.key is None

    def signature(self, method: str, path: str, query: str, lines: Sequence[bytes], body: bytes) -> bytes:
        """Header lines that sign a request, whose other headers are `lines`; empty: there are no keys yet, so that the
        provider refuses the call and failover answers it. Every attempt is signed anew."""
        value = self.account.credential.value() if self.account.credential is not None else None
        if not isinstance(value, AwsKeys):
            return b""
        covered = [
            (name.decode("latin-1").strip().lower(), held.decode("latin-1").strip())
            for name, _, held in (line.partition(b":") for line in lines)
            if name.strip().lower() in SIGNED
        ]
        scope = sigv4.scope_of(self.origin.host)
        added = sigv4.sign(
            method,
            self.origin.authority,
            path,
            query,
            covered,
            body,
            sigv4.Credentials(value.key_id, value.secret, value.token),
            self.account.sign_region or (scope.region if scope is not None else "us-east-1"),
            self.account.sign_service or (scope.service if scope is not None else "bedrock"),
            time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall())),
        )
        return b"".join(f"{name}: {held}\r\n".encode("latin-1") for name, held in added)


class Upstreams:
    """All providers of a configuration. Loading TLS certificates costs milliseconds, so each is built on first use."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        resolver: Resolver | None = None,
    ) -> None:
        self._accounts = dict(accounts)
        self._clock = clock
        self._wall = wall
        self._resolver = resolver or Resolver(clock)
        self._built: dict[str, Upstream] = {}
        self._retired = False
        self.fetched = frozenset(name for name, account in accounts.items() if account.credential is not None)
        """Providers whose credential the platform hands out, or that sign."""
        self.poke()

    def poke(self) -> None:
        """Fetch credentials that are due, also for providers that nobody asks at present."""
        for name in self.fetched:
            credential = self._accounts[name].credential
            if credential is not None:
                credential.poke()

    def __getitem__(self, name: str) -> Upstream:
        built = self._built.get(name)
        if built is None:
            built = self._built[name] = Upstream(self._accounts[name], self._resolver, self._clock, self._wall)
            if self._retired:
                built.connector.retire()
        return built

    def succeeded(self, accounts: Mapping[str, Account], kept: frozenset[str]) -> Upstreams:
        """The providers of another configuration, and the end of these ones.

        `kept` are called as before: their pools and credentials go over. The others serve the requests that began with
        them and close each connection behind its last exchange; nothing counts who still uses them.
        """
        kept &= self._accounts.keys()
        following = {name: self._accounts[name] if name in kept else account for name, account in accounts.items()}
        made = Upstreams(following, self._clock, self._wall, self._resolver)
        made._built = {name: upstream for name, upstream in self._built.items() if name in kept}
        self._retired = True
        for name, upstream in self._built.items():
            if name not in kept:
                upstream.connector.retire()
        for name, account in self._accounts.items():
            if name not in kept and account.credential is not None:
                account.credential.close()
        return made

    def lacks_credential(self, name: str) -> bool:
        """Whether a provider's own credential was stated and is not there: its file is missing, or nobody has handed it
        out. Looks at files at most once a second, and builds nothing."""
        account = self._accounts.get(name)
        if account is None or (account.key is not None and account.key.read()):
            return False
        if account.credential is not None:
            return not account.credential.ready()
        return account.key is not None

    def built(self) -> list[Upstream]:
        return list(self._built.values())

    def sweep(self) -> None:
        """Close connections that have been idle too long."""
        for upstream in self._built.values():
            upstream.connector.sweep()

    def close(self) -> None:
        for upstream in self._built.values():
            upstream.connector.close()
        for account in self._accounts.values():
            if account.credential is not None:
                account.credential.close()
        self._resolver.close()
