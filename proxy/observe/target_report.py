"""Every target as ``/status`` tells it, and its gauges. There may be tens of thousands: it is told in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from proxy.engine.cluster import TargetState
from proxy.observe.turns import Turns
from proxy.policy.breaker import State

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TARGETS_MAX: Final = 1024
"""Targets that ``/status`` tells: those that were used last, where there are more."""
STEP: Final = 64
"""Targets looked at between two moments in which other work may be done; about 0.2 ms."""
_STATE_NUMBER: Final = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}


async def report(states: list[TargetState], clock: Callable[[], float]) -> dict[str, Any]:
    """The part of ``/status`` that is about targets."""
    turns = Turns()
    told = states if len(states) <= TARGETS_MAX else nlargest(TARGETS_MAX, states, key=attrgetter("used_at"))
    targets = []
    for state in told:
        targets.append(_target(state, clock()))
        await turns.pause()
    return {"targets": targets, "targets_left_out": len(states) - len(targets)}


def _target(state: TargetState, now: float) -> dict[str, Any]:
    key = (True, 0)
    cooling = state.cooling_s(now)
    return {
        "target": state.target.name,
        "credential": state.target.credential or None,
        "circuit": state.breaker.view(now),
        "retry_after_s": round(state.unavailable_s(now), 3),
        "cooldown_s": round(cooling, 3),
        "cooldown_reason": state.cooling_reason(now).value if cooling > 0 else None,
        "retry_tokens": round(state.budget.tokens(now), 2),
        "concurrency": {"running": state.limiter.inflight, "limit": state.limiter.limit},
        "first_content_s": {q: state.latency.p(p, key, now) for q, p in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
    }


def gauges(
    states: list[TargetState], model: Callable[[str], str], clock: Callable[[], float]
) -> Iterable[Metric | None]:
    """The gauges of all targets, by provider and model. `model`: a model's name as a label."""
    from prometheus_client.core import GaugeMetricFamily

    worst: dict[tuple[str, str], list[float]] = {}
    for place, state in enumerate(states):
        if place % STEP == STEP - 1:
            yield None
        now = clock()
        labels = (state.target.provider, model(state.target.model))
        kept = worst.setdefault(labels, [0.0, 0.0, 0.0, float("inf")])
        kept[0] = max(kept[0], _STATE_NUMBER[state.breaker.peek(now)])
        kept[1] = max(kept[1], state.cooling_s(now))
        kept[2] += state.inflight
        kept[3] = min(kept[3], state.budget.tokens(now))
    for column, (name, text) in enumerate(
        (
            ("outrider_circuit_state", "0 closed, 1 half open, 2 open."),
            ("outrider_cooldown_seconds", "Time for which a target is left alone."),
            ("outrider_attempts_running", "Upstream calls running."),
            ("outrider_retry_tokens", "Retry budget left, least of the target's credentials."),
        )
    ):
        family = GaugeMetricFamily(name, text, labels=["provider", "model"])
        for labels, kept in worst.items():
            family.add_metric(labels, kept[column])
        yield family
