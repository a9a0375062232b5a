"""What the requests of one process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.config.planner import Planned
from proxy.dispatch.translate import Signatures
from proxy.engine.cluster import Cluster
from proxy.engine.rollout import Rollout
from proxy.observe.record import RequestRecord
from proxy.policy.chaos import Drills, Fault
from proxy.policy.sampler import NeverSampler, Sampler
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
    rollout: Rollout = field(default_factory=Rollout)
    drills: Drills = field(default_factory=Drills)
    injected: Callable[[str, str], None] = lambda route, provider: None
    """Told of every fault that an attempt meets on purpose."""
    sampler: Sampler | NeverSampler = field(default_factory=NeverSampler)
    """Decides which requests are traced."""
    draining: bool = False

    def faults(self, planned: Planned) -> tuple[Fault, ...]:
        """What the attempts of a request meet on purpose; ordinarily nothing."""
        found: tuple[Fault, ...] = (planned.fault,) if planned.fault is not None else ()
        if self.drills:
            found += self.drills.of_route(planned.plan.route, self.clock())
        # Aimed now: a stream that breaks is continued by a chain with another first target.
        return tuple(fault.aimed(planned.plan.candidates[0].target) for fault in found)
