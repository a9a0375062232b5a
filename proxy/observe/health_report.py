"""The health book as `GET /v1/health` tells it (`api.md`).

Rates and times are about the last five minutes and about attempts: what the provider did, whether or not another one
made up for it. An attempt that its caller broke off, or that was the caller's own fault, counts for nobody. A time is
that of the first content, which for an answer in one piece is the whole of it. What was not seen is null, never 0.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from math import ceil
from typing import Any, Final

import orjson

from proxy.base.outcome import GROUP, Class, Group
from proxy.base.target import Target
from proxy.engine.cluster import TargetState
from proxy.observe.entry import iso
from proxy.observe.health import GLANCE_MAX, HealthBook, Known
from proxy.observe.turns import Turns
from proxy.policy import rate_limits
from proxy.policy.health import Reading, Status, worst
from proxy.policy.pulse import WINDOW_S
from proxy.policy.window import State

KEPT_S: Final = 1.0
"""Age of a report that is told again, with many targets: as old as the last look at them may be anyway."""
MODELS_MAX: Final = 100
"""Models told of one provider: those that were called last come first."""
RANKED_MAX: Final = 16_384
"""Times that percentiles are read from; fewer are all looked at."""
TOLD_MAX: Final = 32
"""Targets whose latest answers are searched for rate limits."""
_JUDGED: Final = frozenset({Group.GOOD, Group.BAD, Group.LIMITED, Group.TARGET_FAULT})
_RANK: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class _Seen:
    """What a target has shown in the last five minutes, and how badly off it is."""

    __slots__ = ("classes", "illness", "state", "times")

    def __init__(self, state: TargetState, now: float) -> None:
        self.state = state
        self.illness = (_RANK[state.breaker.peek(now)], state.unavailable_s(now))
        self.classes: Counter[Class] = Counter()
        for name, count in state.pulse.counts(now).items():
            self.classes[Class(name.partition(".")[0])] += count
        self.times = sorted(state.pulse.latencies_ms(now))


class HealthReport:
    """Makes the JSON; everything is read from memory."""

    def __init__(
        self,
        book: HealthBook,
        uptime: Callable[[str], float | None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        last_id: Callable[[], int] = lambda: 0,
    ) -> None:
        """`uptime`: percent of the last 24 hours by provider; an empty name stands for the whole. `last_id`: the number
        of the latest event."""
        self._book = book
        self._uptime = uptime
        self._clock = clock
        self._wall = wall
        self._last_id = last_id
        self._kept = b"}", 0
        self._kept_until = clock()
        self._making = asyncio.Lock()

    async def recent(self) -> tuple[bytes, int]:
        """`snapshot` as JSON without the bracket at its beginning, and the number of the last event before it was
        begun. Where there are many targets it is up to `KEPT_S` old, and the same for all who ask."""
        if self._book.cluster.known <= GLANCE_MAX:
            return await self._made()
        async with self._making:
            now = self._clock()
            if now >= self._kept_until:
                self._kept = await self._made()
                self._kept_until = now + KEPT_S
            # One who asks after the other: to send half a megabyte takes a millisecond.
            await asyncio.sleep(0)
            return self._kept

    async def _made(self) -> tuple[bytes, int]:
        number = self._last_id()
        snapshot, turns = await self.snapshot(), Turns()
        providers = snapshot["providers"]
        for place, provider in enumerate(providers):  # in its place: to free them all together takes milliseconds, too
            providers[place] = orjson.Fragment(orjson.dumps(provider, default=str))
            await turns.pause()
        return orjson.dumps(snapshot, default=str)[1:], number

    async def snapshot(self) -> dict[str, Any]:
        """How everything is now. Every model is told of one moment; where there are many, of one after the other."""
        book, turns = self._book, Turns()
        book.glance()
        await turns.pause()
        return {
            "status": str(book.overall),
            "uptime_percentage": self._uptime(""),
            "timestamp": iso(self._wall()),
            "window_s": int(WINDOW_S),
            "routes": [
                {"name": route.name, "status": str(route.status), "serving": route.serving or None}
                for route in book.routes
            ],
            "providers": [await self._provider(known, turns) for known in book.layout.providers.values()],
        }

    async def _provider(self, known: Known, turns: Turns) -> dict[str, Any]:
        book = self._book
        called, seen = [], []
        for state in book.targets(known.name):
            one = _Seen(state, self._clock())
            called.append(one)
            if not book.is_slip(state, self._clock()):
                seen.append(one)
            await turns.pause()
        states = [one.state for one in seen]
        models, left_out = await self._models(known, called, turns)
        numbers = _numbers(seen)
        await turns.pause()
        now = self._clock()
        health = book.health(known.name)
        probed = book.probes(known.name)
        status, reason = health.status, health.reason
        if status is Status.HEALTHY and any(book.reading(state.target).suspected for state in states):
            status, reason = Status.DEGRADED, "slow"
        worst_state = _worst_off(seen)
        return {
            "name": known.name,
            "status": "down" if known.disabled else str(status),
            "reason": f"disabled: {known.disabled}" if known.disabled else reason or None,
            "since": self._iso(health.since),
            "uptime_24h": self._uptime(known.name),
            **numbers,
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

    async def _models(self, known: Known, seen: Iterable[_Seen], turns: Turns) -> tuple[list[dict[str, Any]], int]:
        """Models that were called or are spelled out, the latest called first; and how many are left out."""
        called: dict[str, list[_Seen]] = {}
        for one in sorted(seen, key=lambda one: -one.state.used_at):
            called.setdefault(one.state.target.model, []).append(one)
        names = [name for name in called if name]
        rows = []
        for name in names[:MODELS_MAX]:
            rows.append(self._model(known, name, called[name], self._clock()))
            await turns.pause()
        idle = "down" if known.disabled or self._book.probes(known.name).is_down else "healthy"
        spelled = [name for name in known.models if name not in called]
        rows += [
            {"name": name, "status": idle, "healthy": idle == "healthy"} for name in spelled[: MODELS_MAX - len(rows)]
        ]
        return rows, len(names) + len(spelled) - len(rows)

    def _model(self, known: Known, name: str, seen: Sequence[_Seen], now: float) -> dict[str, Any]:
        book = self._book
        states = [one.state for one in seen]
        readings = [book.reading(state.target) for state in states]
        status = worst(Status.DEGRADED if reading.suspected else reading.status for reading in readings)
        if known.disabled or book.probes(known.name).is_down:
            status = Status.DOWN
        worst_state = _worst_off(seen) or states[0]
        view = worst_state.breaker.view(now)
        cooling_s = worst_state.cooling_s(now)
        return {
            "name": name,
            "status": str(status),
            "healthy": status is Status.HEALTHY,
            "reason": _reason(readings) or None,
            "circuit": self._circuit(worst_state, view, now),
            **_numbers(seen),
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
        """What the latest answer with such headers said; None: none of the last `TOLD_MAX` targets' answers had any. A
        window that is over is not used at all, and what was left of it says nothing: the whole of it is there again."""
        now, wall = self._clock(), self._wall()
        for state in nlargest(
            TOLD_MAX, (s for s in states if not s.target.credential), key=lambda state: state.told[1]
        ):
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


def _numbers(seen: Iterable[_Seen]) -> dict[str, Any]:
    """Rates, times and errors of some targets together."""
    classes: Counter[Class] = Counter()
    times: list[float] = []
    for one in seen:
        classes.update(one.classes)
        times += one.times
    judged = sum(count for cls, count in classes.items() if GROUP[cls] in _JUDGED)
    good = classes[Class.OK]
    # All targets of a provider together may have a quarter of a million times, one after the other's: an even choice of
    # them says the same of the ranks, and is sorted in two milliseconds.
    some = sorted(times[:: len(times) // RANKED_MAX + 1])
    return {
        "requests": judged,
        "success_rate": round(good / judged, 4) if judged else None,
        "error_rate": round(1 - good / judged, 4) if judged else None,
        "avg_response_time_ms": round(sum(times) / len(times), 1) if times else None,
        "latency_ms": {f"p{q}": _quantile(some, q) for q in (50, 95, 99)},
        "errors": {str(cls): count for cls, count in classes.most_common() if cls is not Class.OK},
    }


def _worst_off(seen: Iterable[_Seen]) -> TargetState | None:
    found = max(seen, key=lambda one: one.illness, default=None)
    return None if found is None else found.state


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
