"""The health book as `GET /v1/health` tells it (`api.md`).

Rates and times are about the last five minutes and about attempts: what the provider did, whether or not another one
made up for it. An attempt that its caller broke off, or that was the caller's own fault, counts for nobody. A time is
that of the first content, which for an answer in one piece is the whole of it. What was not seen is null, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Final

from proxy.base.outcome import GROUP, Class, Group
from proxy.base.target import Target
from proxy.engine.cluster import TargetState
from proxy.observe.entry import iso
from proxy.observe.health import HealthBook, Known
from proxy.policy import rate_limits
from proxy.policy.health import Reading, Status, worst
from proxy.policy.pulse import WINDOW_S
from proxy.policy.window import State

MODELS_MAX: Final = 100
"""Models told of one provider: those that were called last come first."""
_JUDGED: Final = frozenset({Group.GOOD, Group.BAD, Group.LIMITED, Group.TARGET_FAULT})
_RANK: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class HealthReport:
    """Makes the JSON; everything is read from memory."""

    def __init__(
        self,
        book: HealthBook,
        uptime: Callable[[str], float | None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`uptime`: percent of the last 24 hours by provider; an empty name stands for the whole."""
        self._book = book
        self._uptime = uptime
        self._clock = clock
        self._wall = wall

    def snapshot(self) -> dict[str, Any]:
        """How everything is now."""
        book = self._book
        book.tick()
        return {
            "status": str(book.overall),
            "uptime_percentage": self._uptime(""),
            "timestamp": iso(self._wall()),
            "window_s": int(WINDOW_S),
            "routes": [
                {"name": route.name, "status": str(route.status), "serving": route.serving or None}
                for route in book.routes
            ],
            "providers": [self._provider(known) for known in book.layout.providers.values()],
        }

    def _provider(self, known: Known) -> dict[str, Any]:
        book, now = self._book, self._clock()
        called = book.targets(known.name)
        states = [state for state in called if not book.is_slip(state, now)]
        health = book.health(known.name)
        probed = book.probes(known.name)
        models, left_out = self._models(known, called, now)
        status, reason = health.status, health.reason
        if status is Status.HEALTHY and any(book.reading(state.target).suspected for state in states):
            status, reason = Status.DEGRADED, "slow"
        worst_state = max(
            states, key=lambda state: (_RANK[state.breaker.peek(now)], state.unavailable_s(now)), default=None
        )
        return {
            "name": known.name,
            "status": "down" if known.disabled else str(status),
            "reason": f"disabled: {known.disabled}" if known.disabled else reason or None,
            "since": self._iso(health.since),
            "uptime_24h": self._uptime(known.name),
            **_numbers(states, now),
            "region": known.region or None,
            "circuit": self._circuit(worst_state, worst_state.breaker.view(now), now)
            if worst_state
            else self._uncalled(known.name, now),
            "rate_limit": self._rate_limit(states),
            "last_success_at": self._iso(max((state.pulse.good_at for state in states), default=-1e9)),
            "maintenance": book.is_absent(known.name),
            "probe": {
                "status": None if probed.seen_at < 0 else "failed" if probed.is_down else "passed",
                "at": self._iso(probed.seen_at),
            },
            "models": models,
            "models_left_out": left_out,
        }

    # Models -----------------------------------------------------------------------------------------------------------

    def _models(self, known: Known, states: Sequence[TargetState], now: float) -> tuple[list[dict[str, Any]], int]:
        """Models that were called or are spelled out, the latest called first; and how many are left out."""
        called: dict[str, list[TargetState]] = {}
        for state in sorted(states, key=lambda state: -state.used_at):
            called.setdefault(state.target.model, []).append(state)
        names = [name for name in called if name]
        rows = [self._model(known, name, called[name], now) for name in names[:MODELS_MAX]]
        idle = "down" if known.disabled or self._book.probes(known.name).is_down else "healthy"
        spelled = [name for name in known.models if name not in called]
        rows += [
            {"name": name, "status": idle, "healthy": idle == "healthy"} for name in spelled[: MODELS_MAX - len(rows)]
        ]
        return rows, len(names) + len(spelled) - len(rows)

    def _model(self, known: Known, name: str, states: Sequence[TargetState], now: float) -> dict[str, Any]:
        book = self._book
        readings = [book.reading(state.target) for state in states]
        status = worst(Status.DEGRADED if reading.suspected else reading.status for reading in readings)
        if known.disabled or book.probes(known.name).is_down:
            status = Status.DOWN
        worst_state = max(states, key=lambda state: (_RANK[state.breaker.peek(now)], state.unavailable_s(now)))
        view = worst_state.breaker.view(now)
        cooling_s = worst_state.cooling_s(now)
        return {
            "name": name,
            "status": str(status),
            "healthy": status is Status.HEALTHY,
            "reason": _reason(readings) or None,
            "circuit": self._circuit(worst_state, view, now),
            **_numbers(states, now),
            "cooldown_s": round(cooling_s, 3),
            "cooldown_reason": str(worst_state.cooling_reason(now)) if cooling_s > 0 else None,
            "mark": str(view["mark"]),
            "S_err": _rounded(view["S_err"]),
            "S_slow": _rounded(view["S_slow"]),
            "concurrency": {
                "running": sum(state.inflight for state in states),
                "limit": min(state.limiter.limit for state in states),
            },
            "retry_tokens": round(min(state.budget.tokens(now) for state in states), 2),
        }

    # Parts ------------------------------------------------------------------------------------------------------------

    def _uncalled(self, provider: str, now: float) -> dict[str, Any]:
        """The circuit of a provider that nobody has called: closed, unless an operator has opened it."""
        forced_s = self._book.cluster.forced_open_s(Target(provider, ""), now)
        state, reason = (State.OPEN, "forced") if forced_s > 0.0 else (State.CLOSED, None)
        return {"state": str(state), "reason": reason, "opened_at": None, "retry_after_s": round(forced_s, 3)}

    def _circuit(self, state: TargetState, view: Mapping[str, Any], now: float) -> dict[str, Any]:
        """The circuit of the target that is worst off; `retry_after_s` counts its cool-down too."""
        opened_at = view["opened_at"]
        return {
            "state": str(view["state"]),
            "reason": view["reason"] or None,
            "opened_at": self._iso(opened_at) if isinstance(opened_at, float) else None,
            "retry_after_s": round(state.unavailable_s(now), 3),
        }

    def _rate_limit(self, states: Iterable[TargetState]) -> dict[str, Any] | None:
        """What the latest answer with such headers said; None: none has. A window that is over is not used at
        all, and what was left of it says nothing: the whole of it is there again."""
        now, wall = self._clock(), self._wall()
        for state in sorted((s for s in states if not s.target.credential), key=lambda state: -state.told[1]):
            headers, at = state.told
            age_s = now - at
            found = rate_limits.read(headers, wall - age_s)
            if not found:
                continue
            told: dict[str, Any] = {}
            used: list[float] = []
            for unit, one in sorted(found.items()):
                is_over = one.reset_s is not None and one.reset_s < age_s
                reset_s = None if one.reset_s is None else round(max(0.0, one.reset_s - age_s), 3)
                left = one.limit if is_over and one.limit is not None else one.remaining
                told[unit] = {"limit": _whole(one.limit), "remaining": _whole(left), "reset_s": reset_s}
                if one.used is not None:
                    used.append(0.0 if is_over else one.used)
            return {**told, "utilization": round(max(used), 4) if used else None, "age_s": round(age_s, 1)}
        return None

    def _iso(self, at: float) -> str | None:
        """A monotonic time on the wall clock; None for a time that never was."""
        return None if at < 0 else iso(self._wall() - (self._clock() - at))


def _numbers(states: Iterable[TargetState], now: float) -> dict[str, Any]:
    """Rates, times and errors of some targets together."""
    counts: Counter[str] = Counter()
    times: list[float] = []
    for state in states:
        counts.update(state.pulse.counts(now))
        times += state.pulse.latencies_ms(now)
    classes: Counter[Class] = Counter()
    for name, count in counts.items():
        classes[Class(name.partition(".")[0])] += count
    judged = sum(count for cls, count in classes.items() if GROUP[cls] in _JUDGED)
    good = classes[Class.OK]
    times.sort()
    return {
        "requests": judged,
        "success_rate": round(good / judged, 4) if judged else None,
        "error_rate": round(1 - good / judged, 4) if judged else None,
        "avg_response_time_ms": round(sum(times) / len(times), 1) if times else None,
        "latency_ms": {f"p{q}": _quantile(times, q) for q in (50, 95, 99)},
        "errors": {str(cls): count for cls, count in classes.most_common() if cls is not Class.OK},
    }


def _quantile(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest rank; None for nothing."""
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)], 1) if ordered else None


def _reason(readings: Iterable[Reading]) -> str:
    return next((reading.reason for reading in readings if reading.reason), "")


def _whole(value: float | None) -> float | int | None:
    """A count as one: many readers take 500.0 for no whole number."""
    return int(value) if value is not None and value.is_integer() else value


def _rounded(value: object) -> float:
    return round(value, 3) if isinstance(value, float) else 0.0
