"""One dial: state while it runs, a line of the trace afterwards."""

from __future__ import annotations

from proxy.base.outcome import Outcome
from proxy.engine.cluster import TargetState
from proxy.engine.messages import Kind
from proxy.engine.plan import Candidate
from proxy.policy.breaker import Permit


class Attempt:
    """See the module; `outcome` None: it runs."""

    __slots__ = ("candidate", "content_at", "ended_at", "index", "kind", "n", "outcome", "permit", "started", "state")

    def __init__(
        self, n: int, index: int, candidate: Candidate, kind: Kind, state: TargetState, permit: Permit, now: float
    ) -> None:
        self.n = n
        self.index = index
        self.candidate = candidate
        self.kind = kind
        self.state = state
        self.permit = permit
        self.started = now
        self.content_at: float | None = None
        self.ended_at: float | None = None
        self.outcome: Outcome | None = None

    @property
    def running(self) -> bool:
        return self.outcome is None
