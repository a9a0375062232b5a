"""What the requests of one process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.dispatch.translate import Signatures
from proxy.engine.cluster import Cluster
from proxy.observe.record import RequestRecord
from proxy.upstream.session import Upstreams


@dataclass(slots=True)
class Room:
    """What every drive shares."""

    cluster: Cluster
    upstreams: Upstreams
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: Callable[[], float]
    observe: Callable[[RequestRecord], None]
    via: bytes
    """The ``Via`` line of our requests."""
    signatures: Signatures = field(default_factory=Signatures)
    draining: bool = False
