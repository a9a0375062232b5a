"""Which control headers there are, and whose.

Control headers are ours alone: no provider ever sees one. A header that begins like one of ours and is none is a typo,
and a typo must not silently weaken a policy, so it is an error; names that only answers carry are dropped, for clients
copy them.

A caller's own key is replaced by a keyed fingerprint before anything is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from proxy.base.http import OUR_PREFIXES
from proxy.config.checks import HeaderError, Place, nearest, plain

KEY_PREFIX: Final = "x-provider-key-"

KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    name.lower(): (name, family)
    for family, listed in {
        "failover": "X-Route X-Policy X-Failover-Enabled X-Failover-Providers X-Failover-Config X-Stream-Recovery",
        "timeout": "X-Request-Timeout-Ms X-First-Token-Timeout-Ms X-Stream-Idle-Timeout-Ms",
        "retry": "X-Max-Retries X-Retry-Delay-Ms X-Retry-Strategy X-Retry-Config",
        "circuit_breaker": "X-Circuit-Breaker X-Circuit-Breaker-Fallback",
        "hedging": "X-Request-Hedging X-Hedge-Config",
        "degraded": "X-Degraded-Mode-Config X-User-Priority",
        "cache": "X-Cache",
        "explain": "X-Explain",
        "chaos": "X-Chaos",
    }.items()
    for name in listed.split()
}
"""Lower-case name -> (name as written, family of `limits.allow_overrides`). Beside them: ``X-Provider-Key-<provider>``,
family `failover`. `chaos` is no family of `allow_overrides`; `chaos.enabled` decides."""

FOREIGN: Final = ("x-stainless-read-timeout", "grpc-timeout")
"""Headers of others that we read as upper bounds of the deadline; malformed ones are ignored."""

ANSWER_ONLY: Final = frozenset(
    {
        "x-attempts",
        "x-circuit-status",
        "x-degradation-reason",
        "x-degraded-mode",
        "x-failover",
        "x-failover-reason",
        "x-failover-skipped",
        "x-failover-trace",
        "x-hedge-latency-saved",
        "x-hedge-launched",
        "x-hedge-winner",
        "x-outrider-request-id",
        "x-policy-clamped",
        "x-quality-score",
        "x-retry-after",
        "x-retry-count",
        "x-served-by",
        "x-served-model",
        "x-served-region",
        "x-translation-warnings",
        "x-user-notification",
    }
)
"""Names that only answers carry. They are dropped from a request, and from an upstream's answer lest it spoofs ours."""


def is_control(name: str) -> bool:
    """Whether lower-case header `name` belongs to this contract: to be given to `parse` and kept from upstreams.

    The two of `FOREIGN` are not among them; they are read too, but they are not ours to remove.
    """
    return name in KNOWN or name in ANSWER_ONLY or name.startswith(OUR_PREFIXES)


class Fingerprint(str):
    """A fingerprint made by `fingerprint`; the type tells it from a credential in the open."""

    __slots__ = ()


def fingerprint(credential: str, secret: bytes) -> Fingerprint:
    """24 hex digits that stand for `credential` within this process. `secret`: random bytes, 1 to 64, never stored.

    Keyed, so that a leaked fingerprint cannot be tested against guesses.
    """
    data = credential.encode("utf-8", "surrogatepass")
    return Fingerprint(blake2b(data, key=secret[:64], digest_size=12).hexdigest())


def seal(pairs: Sequence[tuple[str, str]], secret: bytes) -> tuple[tuple[str, str], ...]:
    """`pairs` with every ``X-Provider-Key-...`` value replaced by its fingerprint.

    Raises `HeaderError` (400) for a value that cannot be a key: 8 to 4096 printable ASCII characters without spaces.
    """
    sealed = []
    for name, value in pairs:
        if name.startswith(KEY_PREFIX) and not isinstance(value, Fingerprint):
            if not re.fullmatch(r"[!-~]{8,4096}", value):
                at = Place(titled(name))
                raise at.wrong("must be 8 to 4096 printable characters without spaces")
            value = fingerprint(value, secret)
        sealed.append((name, value))
    return tuple(sealed)


def titled(name: str) -> str:
    """A lower-case header name as people write it, fit for a message; a provider's name stays as it came."""
    if name.startswith(KEY_PREFIX):
        return "X-Provider-Key-" + plain(name[len(KEY_PREFIX) :])
    return "-".join(part[:1].upper() + part[1:] for part in plain(name).split("-"))


def by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One value per name. Unknown names of ours and contradicting repetitions are errors, foreign names are dropped."""
    given: dict[str, str] = {}
    for name, value in sorted(pairs):
        if name in ANSWER_ONLY:
            continue
        is_key = name.startswith(KEY_PREFIX) and len(name) > len(KEY_PREFIX)
        if name not in KNOWN and not is_key and name not in FOREIGN:
            if name.startswith(OUR_PREFIXES):
                raise _unknown(name)
            continue
        if given.setdefault(name, value) != value:
            if name in FOREIGN:
                given[name] = ""
                continue
            raise Place(titled(name) if is_key else KNOWN[name][0]).wrong("was sent twice with different values")
    return given


def _unknown(name: str) -> HeaderError:
    listed = [shown for shown, _ in KNOWN.values()]
    return Place(titled(name)).wrong(f"unknown header{nearest(name, [*listed, 'X-Provider-Key-<provider>'])}")
