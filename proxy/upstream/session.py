"""The providers as dispatch sees them: where they live and how a request to one is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.upstream.connector import Connector, Origin, Resolver, tls_context
from proxy.upstream.request import credential_lines


class Key(Protocol):
    """A secret that may change while we run."""

    def read(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What upstream must know of a provider entry."""

    name: str
    dialect: str
    base_url: str
    key: Key | None
    tls_verify: bool = True
    ca_file: str = ""


class Upstream:
    """One provider: its origin, its pool, its own credential as a header line."""

    __slots__ = ("_cached_key", "_cached_line", "account", "connector", "origin")

    def __init__(self, account: Account, resolver: Resolver, clock: Callable[[], float]) -> None:
        self.account = account
        self.origin = Origin.parse(account.base_url)
        tls = tls_context(account.tls_verify, account.ca_file) if self.origin.scheme == "https" else None
        self.connector = Connector(self.origin, resolver, clock, tls)
        self._cached_key = ""
        self._cached_line = b""

    def own_key(self) -> str:
        """The sidecar's credential; empty when it has none."""
        return (self.account.key.read() if self.account.key is not None else None) or ""

    def own_line(self) -> bytes:
        """Header line of the sidecar's credential; empty when it has none."""
        key = self.own_key()
        if key != self._cached_key:
            self._cached_key, self._cached_line = key, credential_lines(self.account.dialect, key)
        return self._cached_line

    def line(self, key: str) -> bytes:
        """Header line of a caller's own key."""
        return credential_lines(self.account.dialect, key)


class Upstreams:
    """All providers of a configuration. Loading TLS certificates costs milliseconds, so each is built on first use."""

    def __init__(self, accounts: Mapping[str, Account], clock: Callable[[], float]) -> None:
        self._accounts = dict(accounts)
        self._clock = clock
        self._resolver = Resolver(clock)
        self._built: dict[str, Upstream] = {}

    def __getitem__(self, name: str) -> Upstream:
        built = self._built.get(name)
        if built is None:
            built = self._built[name] = Upstream(self._accounts[name], self._resolver, self._clock)
        return built

    def built(self) -> list[Upstream]:
        return list(self._built.values())

    def sweep(self) -> None:
        """Close connections that have been idle too long."""
        for upstream in self._built.values():
            upstream.connector.sweep()

    def close(self) -> None:
        for upstream in self._built.values():
            upstream.connector.close()
        self._resolver.close()
