"""How a provider is: healthy, degraded or down, with hysteresis.

Breakers decide for the next request and may be nervous. This decides what people and other programs are told, and must
be neither late nor noisy: every change of it is an event on the health stream and may open an incident.

**A target is read** (`Watch`) off its pulse, its circuit and its cool-downs:

* *down*: four bad outcomes in a row, over a second at least; or its circuit is not closed and it has shown no content
  for five seconds; or a credential, a right or the model is refused.
* *degraded*: its circuit is not closed; or the sum over errors has reached its bar; or the breaker has marked it slow
  (or attempts hang), and the sum over first-content times has reached its bar; or the mark has lasted half a minute,
  the sum is near its bar and what began after the mark speaks for slow as well; or a rate limit keeps it out for ten
  seconds.
* *suspected*: the breaker has marked it slow, or the keener sum over first-content times has reached the bar. With the
  mark traffic leaves at once, so the answers that would prove it come rarely from here on. It is shown, and told to
  nobody: a healthy target is marked every 10,000 to 20,000 answers or so.

What has led to the mark is the worst of thousands of answers, picked because it was bad; an answer that began after it
is not. So without one of those a sum that merely stands where it stood, since nobody calls, is told to nobody.

A second at least, because a burst of calls that fail together is one event. Nothing seen for five minutes is no
reading at all: whoever is not called is not ill.

**A provider** is down when none of its targets has shown content since the first that is down began to fail, and
degraded when some of them are not well. The verdict of active probes stands beside it: either may say "down".

**The machine** (`Health`) gets worse at once and better by evidence. Out of "down" the first good reading leads, since
the breaker has asked for several answers before it closed; whoever falls a third time within five minutes has to stay
well for a while before that is told, longer each time. Out of "degraded" lead ten seconds of good readings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from proxy.base.outcome import Class
from proxy.policy.pulse import BAR, WINDOW_S, Pulse
from proxy.policy.window import State

ROW: Final = 4
ROW_S: Final = 1.0
SILENT_S: Final = 5.0
COOLING_S: Final = 10.0
MARKED_S: Final = 30.0
"""`resilience.md` 3.6: a mark is told of when it has lasted so long."""
AGREES: Final = 0.6 * BAR
CALM_S: Final = 10.0
FALLS_S: Final = 300.0
UNSTEADY_S: Final = 15.0
"""Calm that each further fall within `FALLS_S` asks for."""
FALLS_FREE: Final = 2
UNSTEADY_MAX_S: Final = 60.0
UNSTEADY: Final = "unsteady"
FALLEN_S: Final = 5.0
"""How long a provider that keeps falling must lie before it is called down again."""
REFUSING: Final = frozenset({Class.AUTH, Class.PERMISSION, Class.QUOTA_EXCEEDED, Class.MODEL_NOT_FOUND})
"""Reasons of a cool-down for which nothing can be answered until somebody mends it."""


class Status(StrEnum):
    """How a target, a provider or the whole is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"


_RANK: Final = {Status.HEALTHY: 0, Status.DEGRADED: 1, Status.DOWN: 2}


def worst(found: Iterable[Status]) -> Status:
    """The worst of several; healthy for none."""
    return max(found, key=_RANK.__getitem__, default=Status.HEALTHY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a target shows beside its pulse."""

    circuit: State
    forced: bool = False
    """An operator has decided on the circuit, which then says nothing about the target."""
    slow: bool = False
    """The breaker has marked it slow."""
    overdue: Sequence[float] = ()
    """See `Evidence.overdue`; of the attempts that began after any that has shown content."""
    cooling_s: float = 0.0
    cooling_reason: Class = Class.RATE_LIMIT
    whole: bool = False
    """The cool-down is that of the whole credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A target or a provider at one moment."""

    status: Status = Status.HEALTHY
    reason: str = ""
    """Class of the failures, ``slow``, ``errors`` or ``probe``; empty when healthy."""
    since: float = 0.0
    """When the failures began, for DOWN."""
    whole: bool = False
    """It is so for every model of the provider."""
    suspected: bool = False
    """It may be slow."""


WELL: Final = Reading()
SUSPECTED: Final = Reading(suspected=True)


class Watch:
    """The reading of one target, with the memory that its two bars need."""

    __slots__ = ("_errors", "_marked_at", "_slow", "_suspects", "last")

    def __init__(self) -> None:
        self._errors = False
        self._slow = False
        self._suspects = False
        self._marked_at: float | None = None
        self.last = WELL

    def read(self, pulse: Pulse, signs: Signs, cleared_at: float, now: float) -> Reading:
        """`cleared_at`: a probe has shown at this time that what was seen before is over."""
        self.last = self._read(pulse, signs, cleared_at, now)
        return self.last

    def _read(self, pulse: Pulse, signs: Signs, cleared_at: float, now: float) -> Reading:
        if signs.cooling_s > 0.0 and signs.cooling_reason in REFUSING:
            return Reading(
                status=Status.DOWN, reason=str(signs.cooling_reason), since=now - WINDOW_S, whole=signs.whole
            )
        if now - pulse.seen_at > WINDOW_S or pulse.seen_at <= cleared_at:
            self._errors = self._slow = self._suspects = False
            return WELL
        is_closed = signs.forced or signs.circuit is State.CLOSED
        row_s = now - pulse.row_since if pulse.row else 0.0
        is_silent = not is_closed and now - pulse.good_at >= SILENT_S
        if pulse.row and row_s >= ROW_S and (pulse.row >= ROW or is_silent):
            return Reading(status=Status.DOWN, reason=pulse.last, since=pulse.row_since)
        if is_closed and not pulse.row and self.last.status is Status.DOWN:
            pulse.settled()
        if not is_closed:
            return Reading(status=Status.DEGRADED, reason=pulse.last or "errors")
        self._errors = pulse.errors >= (BAR / 2 if self._errors else BAR)
        if self._errors:
            return Reading(status=Status.DEGRADED, reason="errors")
        if self._is_slow(pulse, signs, now):
            return Reading(status=Status.DEGRADED, reason="slow", suspected=True)
        if signs.cooling_s >= COOLING_S or (signs.cooling_s > 0.0 and self.last.status is Status.DEGRADED):
            return Reading(status=Status.DEGRADED, reason=str(signs.cooling_reason))
        return SUSPECTED if signs.slow or self._suspects else WELL

    def _is_slow(self, pulse: Pulse, signs: Signs, now: float) -> bool:
        if not signs.slow:
            if self._marked_at is not None:
                self._marked_at = None
                pulse.try_since(inf)
        elif self._marked_at is None:
            self._marked_at = now
            pulse.try_since(now)
        self._suspects = pulse.suspicion >= (BAR / 2 if self._suspects else BAR)
        lasts = self._marked_at is not None and now - self._marked_at >= MARKED_S and pulse.trial > 0.0
        bar = BAR / 2 if self._slow else AGREES if lasts else BAR
        is_seen = self._slow or signs.slow or bool(signs.overdue)
        self._slow = is_seen and pulse.slowness + pulse.hung(signs.overdue) >= bar
        return self._slow


def combined(targets: Iterable[tuple[Reading, float]]) -> Reading:
    """The reading of a provider from those of its targets, each with the time of its latest content."""
    found = list(targets)
    down = [reading for reading, _ in found if reading.status is Status.DOWN]
    if down:
        first = min(down, key=lambda reading: (not reading.whole, reading.since))
        others = (good_at for reading, good_at in found if reading.status is not Status.DOWN)
        if first.whole or all(good_at <= first.since for good_at in others):
            return first
        return Reading(status=Status.DEGRADED, reason=first.reason)
    ill = next((reading for reading, _ in found if reading.status is Status.DEGRADED), None)
    return ill or next((reading for reading, _ in found if reading.suspected), WELL)


class Probed:
    """The verdict of active probes about a provider."""

    __slots__ = ("_row", "cleared_at", "is_down", "seen_at")

    def __init__(self) -> None:
        self._row = 0
        """Failures in a row, or passes as a negative number."""
        self.is_down = False
        self.cleared_at = -1e9
        """When probes have shown that an outage is over."""
        self.seen_at = -1e9

    def took(self, passed: bool, sees: bool, failure_threshold: int, success_threshold: int, now: float) -> None:
        """One probe has ended. `sees`: it would have seen the outage that there is, so that its pass says it is over.

        A deep probe sees every outage. That the address answers says little about completions, so a shallow one sees
        those only in which shallow ones have failed.
        """
        self.seen_at = now
        if passed:
            self._row = min(self._row, 0) - 1
            if -self._row >= success_threshold and (sees or self.is_down):
                self.is_down = False
                self.cleared_at = now
        else:
            self._row = max(self._row, 0) + 1
            self.is_down = self.is_down or self._row >= failure_threshold

    def doubt(self) -> None:
        """An outage has begun: what has passed before says nothing of its end."""
        self._row = max(self._row, 0)

    @property
    def is_settled(self) -> bool:
        """Whether the latest probe agrees with the verdict; if not, the next one should come soon."""
        return self._row == 0 or (self._row > 0) == self.is_down


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change of a provider's status."""

    before: Status
    to: Status
    reason: str
    duration_s: float | None
    """How long it was not healthy; None unless it is again."""


class Health:
    """The status of one provider."""

    __slots__ = ("_calm_since", "_fallen_since", "_falls", "reason", "since", "status", "unwell_since")

    def __init__(self, now: float) -> None:
        self.status = Status.HEALTHY
        self.reason = ""
        self.since = now
        """Since when the status is what it is."""
        self.unwell_since: float | None = None
        self._falls: deque[float] = deque(maxlen=8)
        self._calm_since: float | None = None
        self._fallen_since = now

    def judge(self, reading: Reading, now: float) -> Step | None:
        """Follow a reading; the change that it makes, None for none. One of equal rank only changes the reason."""
        if reading.status is not Status.HEALTHY:
            self._calm_since = None
        if reading.status is not Status.DOWN:
            self._fallen_since = now
        if _RANK[reading.status] > _RANK[self.status]:
            if reading.status is Status.DOWN:
                if self._calm_s(now) and now - self._fallen_since < FALLEN_S:
                    return None
                self._falls.append(now)
            return self._move(reading.status, reading.reason, now)
        if reading.status is self.status:
            if self.reason != UNSTEADY:
                self.reason = reading.reason
            return None
        if reading.status is Status.DEGRADED:
            return self._move(Status.DEGRADED, UNSTEADY if self._calm_s(now) else reading.reason, now)
        return self._better(now)

    def _calm_s(self, now: float) -> float:
        """How long it must be well before that is told; 0 until it falls the third time within five minutes."""
        falls = sum(now - at < FALLS_S for at in self._falls)
        return min(UNSTEADY_MAX_S, UNSTEADY_S * max(0, falls - FALLS_FREE))

    def _better(self, now: float) -> Step | None:
        if self._calm_since is None:
            self._calm_since = now
        calm_s = self._calm_s(now)
        if self.status is Status.DOWN:
            if calm_s:
                return self._move(Status.DEGRADED, UNSTEADY, now)
        else:
            calm_s = max(CALM_S, calm_s)
        return self._move(Status.HEALTHY, "", now) if now - self._calm_since >= calm_s else None

    def _move(self, to: Status, reason: str, now: float) -> Step:
        before, began = self.status, self.unwell_since
        self.status, self.reason, self.since = to, reason, now
        duration_s = None
        if to is Status.HEALTHY:
            duration_s = None if began is None else now - began
            self.unwell_since = self._calm_since = None
        elif began is None:
            self.unwell_since = now
        return Step(before=before, to=to, reason=reason, duration_s=duration_s)
