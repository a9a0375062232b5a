"""The circuit breaker of one target.

It learns from completions *and* from the age of attempts still in flight, because calls to a language model end late: a
target that begins to hang is noticed at the learned p95 of its first content and not at the first timeout
(`resilience.md` 3.5.2). Slowness alone only marks the target, so that other targets are preferred; it refuses only
where `monitor_latency` says so, because it must not take away an application's only target.

There are no timers. Everything that falls due by time alone (an attempt passes its slow line, a lease expires, a forced
state ends) is done at the start of the next call, in order of the moments it fell due and with those moments as its
times. `_due` holds a time before which nothing can be due, so that the ordinary call pays one comparison for all this.
The moments at which attempts pass their lines lie in a heap, because prompts differ and with them the lines. Attempts
that got their content in time are dropped when their moment comes, or all at once when the heap has doubled.

The parts: the target's own circuit, fed at every event (`target_circuit.py`); the policies of requests, circuits of
their own over the same evidence (`overlay.py`); one pool of leases for the probes of them all (`leases.py`). Here they
are asked in turn, and what an operator forces stands above them. What is told is said in the words of `verdict.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import Final

from proxy.base.outcome import GROUP, Class, Group, Outcome
from proxy.policy.leases import BUSY_WAIT_S, LEASE_MAX_S, LEASE_MIN_S, LEASES_MAX, Leases
from proxy.policy.overlay import (
    STORE_FULL,
    Circuit,
    Entry,
    Exclusion,
    Policy,
    Settings,
    Store,
    exclusion_policy,
    resolve,
)
from proxy.policy.target_circuit import TargetCircuit
from proxy.policy.verdict import Change, Forced, Mark, Refused
from proxy.policy.window import (
    INF,
    ConsecutiveRule,
    CountRule,
    Evidence,
    Grant,
    H,
    Key,
    Permit,
    RateRule,
    State,
)

__all__ = [
    "FORCED_WAIT_S",
    "LEASES_MAX",
    "LEASE_MAX_S",
    "LEASE_MIN_S",
    "OVERLAY_CAP",
    "SLOW_PROBE_S",
    "SLOW_PROBE_SHARE",
    "Breaker",
    "Change",
    "ConsecutiveRule",
    "CountRule",
    "Exclusion",
    "Forced",
    "Mark",
    "Permit",
    "RateRule",
    "Refused",
    "Settings",
    "State",
]

OVERLAY_CAP: Final = 2
"""Attempts at the same time which the base refuses and a request's own rule admits."""
SLOW_PROBE_SHARE: Final = 0.05
SLOW_PROBE_S: Final = 30.0
"""A slow target is led with by 5 % of the requests, and by one per 30 s at least."""
FORCED_WAIT_S: Final = 60.0
"""What callers are told to wait when a target is forced open without an end (chosen)."""
_LINES_MIN: Final = 128
_SLOW, _FAIL, _LATE, _EXPIRED, _UNFORCED = range(5)
_OWNED: Final[Key] = (Class.TIMEOUT, "first_content", 0)


class Breaker:
    """Admission to one target. All times are monotonic seconds; a time before an earlier one counts as that one."""

    __slots__ = (
        "_base",
        "_capped",
        "_detectors",
        "_due",
        "_fail_line_s",
        "_forced",
        "_forced_until",
        "_last_probe_at",
        "_leases",
        "_lines",
        "_lines_max",
        "_now",
        "_on_change",
        "_plain",
        "_rng",
        "_settings",
        "_slow",
        "_slow_line_s",
        "_store",
        "_u",
        "evidence",
    )

    def __init__(
        self,
        settings: Settings,
        rng: Callable[[], float],
        now: float,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        """`rng`: uniform in [0, 1), for the adaptive open time. `on_change` is called within the call that noticed."""
        self._settings = settings
        self._rng = rng
        self._u = rng()
        self._now = now if math.isfinite(now) else -INF
        self._on_change = on_change
        self.evidence = Evidence()
        self._store = Store()
        self._lines: list[tuple[float, int, int, Permit]] = []
        self._lines_max = _LINES_MIN
        self._due = INF
        self._capped = 0
        self._forced = Forced.NONE
        self._forced_until = INF
        self._plain = True
        self._slow = False
        self._last_probe_at = -INF
        self._slow_line_s: float | None = None
        self._fail_line_s: float | None = None
        self._base = TargetCircuit(resolve(settings), self.evidence, self._draw, self._moved)
        self._detectors = self._base.detectors
        self._leases = Leases(self._base)
        self._adopt()

    # Admission --------------------------------------------------------------------------------------------------------

    def admit(
        self,
        now: float,
        *,
        overlay: Settings | None = None,
        exclusion: Exclusion | None = None,
        probe_after_s: float = 15.0,
        p99_s: float | None = None,
        ignore_exclusion: bool = False,
        panic: bool = False,
    ) -> Permit | Refused:
        """Ask for one attempt and take what it needs. A permit must be started and ended, or released.

        `overlay`: the request's own policy, None without one. `exclusion`: the request's failover thresholds, left
        aside with `ignore_exclusion`. A probe's lease lasts 2 * `p99_s`, or `probe_after_s` while the p99 is unknown,
        and 5 s at least. `panic`: nothing else is left; an open base lets it through if its policy says `panic`.
        """
        now = self._tick(now)
        if self._plain and overlay is None and exclusion is None:
            return self._permit(None)
        if self._forced is Forced.OPEN:
            return Refused(reason="forced", retry_after_s=self._forced_wait_s(now))
        if self._forced is Forced.CLOSED:
            return self._permit(None)
        twice = probe_after_s if p99_s is None else 2 * p99_s
        expires = now + min(LEASE_MAX_S, max(LEASE_MIN_S, twice))  # the constant first: max and min then drop a NaN
        answer = self._decide(now, overlay, None if ignore_exclusion else exclusion, expires, panic)
        if self._forced is Forced.METRICS_ONLY and isinstance(answer, Refused):
            return self._permit(Grant(None, False, answer.warning) if answer.warning else None)
        return answer

    def _decide(
        self, now: float, overlay: Settings | None, exclusion: Exclusion | None, expires: float, panic: bool
    ) -> Permit | Refused:
        """The verdict of 3.5.7. All checks come before the first effect."""
        base = self._base
        entry, warning = self._entry(None if overlay is None else resolve(self._settings, overlay), now)
        trial, full = self._entry(None if exclusion is None else exclusion_policy(exclusion), now)
        warning = warning or full
        theirs = State.CLOSED if entry is None else entry.ask(now)
        if entry is not None and theirs is State.OPEN:
            return Refused(reason="overlay", retry_after_s=entry.open_until - now, warning=warning)
        mine = base.ask(now)
        capped = False
        if panic and self._settings.panic and (mine is State.OPEN or not self._leases.has_room(base)):
            mine = State.CLOSED
        elif mine is State.OPEN:
            if not self._may_loosen(overlay, entry):
                return Refused(reason="open", retry_after_s=base.open_until - now, warning=warning)
            capped = True
        probing: list[Circuit] = []
        for circuit, state in ((base, mine), (entry, theirs)):
            if circuit is not None and state is State.HALF_OPEN:
                if not self._leases.has_room(circuit):
                    return Refused(reason="half_open", retry_after_s=self._leases.busy_s(circuit, now), warning=warning)
                probing.append(circuit)
        if trial is not None and trial.ask(now) is not State.CLOSED:
            if trial.ask(now) is State.OPEN or not self._leases.has_room(trial):
                wait_s = max(self._leases.busy_s(trial, now), trial.open_until - now)
                return Refused(reason="excluded", retry_after_s=wait_s, warning=warning)
            probing.append(trial)
        if probing and not self._leases.make_room(base in probing):
            return Refused(reason="half_open", retry_after_s=BUSY_WAIT_S, warning=warning)
        return self._grant(now, probing, expires, capped, warning)

    def _grant(self, now: float, probing: list[Circuit], expires: float, capped: bool, warning: str) -> Permit:
        for circuit in probing:
            circuit.probe(now)
        permit = self._permit(None)
        if probing or capped or warning:
            permit.grant = Grant(permit.serial if probing else None, capped, warning)
        if probing:
            self._leases.give(permit, expires, probing)
            self._due = min(self._due, expires)
        self._capped += capped
        return permit

    def _permit(self, grant: Grant | None) -> Permit:
        evidence = self.evidence
        evidence.serial += 1
        return Permit(evidence.serial, self._base.generation, grant)

    def _entry(self, policy: Policy | None, now: float) -> tuple[Entry | None, str]:
        """The circuit of a request's policy, and a warning when there is no place for it."""
        if policy is None or policy == self._base.policy:
            return None, ""
        entry = self._store.take(policy, self._base, self._detectors, self._same, now)
        return entry, "" if entry is not None else STORE_FULL

    def _may_loosen(self, overlay: Settings | None, entry: Entry | None) -> bool:
        """Whether a request's own trip rule may set aside the base's refusal now."""
        if overlay is None or entry is None or not overlay.counts:
            return False
        return self._settings.looser == "capped" and self._capped < OVERLAY_CAP

    # Asking without taking --------------------------------------------------------------------------------------------

    def peek(self, now: float, overlay: Settings | None = None) -> State:
        """The state a request would be decided on: OPEN refuses, HALF_OPEN wants a lease. Takes nothing."""
        now = self._tick(now)
        if self._forced is not Forced.NONE:
            return State.OPEN if self._forced is Forced.OPEN else State.CLOSED
        mine, entry = self._base.ask(now), self._look(overlay, now)
        if entry is None:
            return mine
        theirs = entry.ask(now)
        if mine is State.OPEN and self._may_loosen(overlay, entry):
            return theirs
        both = (mine, theirs)
        return State.OPEN if State.OPEN in both else State.HALF_OPEN if State.HALF_OPEN in both else State.CLOSED

    def retry_after_s(self, now: float, overlay: Settings | None = None) -> float:
        """Seconds until the target may be tried again (by a request with this policy); 0 when it may be now."""
        now = self._tick(now)
        if self._forced is not Forced.NONE:
            return self._forced_wait_s(now) if self._forced is Forced.OPEN else 0.0
        mine, entry = self._wait_s(self._base, now), self._look(overlay, now)
        if entry is None:
            return mine
        theirs = self._wait_s(entry, now)
        if self._base.ask(now) is State.OPEN and self._may_loosen(overlay, entry):
            return theirs
        return max(mine, theirs)

    def _look(self, overlay: Settings | None, now: float) -> Entry | None:
        """The circuit a request's policy has, or would have; none is stored."""
        if overlay is None:
            return None
        policy = resolve(self._settings, overlay)
        if policy == self._base.policy:
            return None
        entry = self._store.entries.get(policy) or Entry(policy, self.evidence, self._same)
        entry.judge(self._base, self._detectors, now)
        return entry

    def _wait_s(self, circuit: Circuit, now: float) -> float:
        state = circuit.ask(now)
        if state is State.CLOSED:
            return 0.0
        return circuit.open_until - now if state is State.OPEN else self._leases.busy_s(circuit, now)

    def _forced_wait_s(self, now: float) -> float:
        return FORCED_WAIT_S if self._forced_until == INF else max(0.0, self._forced_until - now)

    def mark(self, now: float) -> Mark:
        """How slow the target is. SLOW lasts until its detector is below half again."""
        self._tick(now)
        if self._forced is Forced.CLOSED:
            return Mark.NORMAL
        if self._slow:
            return Mark.SLOW
        return Mark.WATCHED if self._detectors.slow.s >= H / 2 else Mark.NORMAL

    def may_lead(self, now: float, rng: Callable[[], float]) -> bool:
        """Whether a request that prefers this target shall begin with it. A slow one gets a few, to find back; while
        the circuit is open or half open its own time and leases say who may, and the mark must not delay them."""
        if self.mark(now) is not Mark.SLOW or self._base.state is not State.CLOSED:
            return True
        if self._now - self._last_probe_at < SLOW_PROBE_S and rng() >= SLOW_PROBE_SHARE:
            return False
        self._last_probe_at = self._now
        return True

    # The life of an attempt -------------------------------------------------------------------------------------------

    def release(self, permit: Permit, now: float) -> None:
        """Admitted but never dialled: all goes back. Raises RuntimeError if it was started or released before."""
        self._tick(now)
        if permit.released or permit.started_at < INF:
            raise RuntimeError("a permit is released once, and only if it was not started")
        permit.released = True
        self._give_back(permit)

    def start(self, permit: Permit, now: float, slow_line_s: float | None) -> None:
        """The attempt is dialled. `slow_line_s`: p95 of its bucket; None: too few samples, the detector is off.

        Raises RuntimeError if it was started or released before.
        """
        now = self._tick(now)
        if permit.released or permit.started_at < INF:
            raise RuntimeError("a permit is started once, and only if it was not released")
        permit.started_at = now
        self.evidence.running[permit] = None
        line_s = slow_line_s if self._slow_line_s is None else self._slow_line_s
        if line_s is not None and 0.0 < line_s < INF:
            permit.slow_at = at = now + line_s
            heappush(self._lines, (at, _SLOW, permit.serial, permit))
            if at < self._due:
                self._due = at
        if self._fail_line_s is not None:
            at = now + self._fail_line_s
            heappush(self._lines, (at, _FAIL, permit.serial, permit))
            self._due = min(self._due, at)
        if len(self._lines) > self._lines_max:
            self._sweep()
        if permit.grant is not None:
            self._due = min(self._due, self._leases.due_of(permit))

    def response_byte(self, permit: Permit, now: float) -> None:
        """The target answered something. It ends a row of failed connects."""
        now = self._tick(now)
        if now < permit.replied_at:
            permit.replied_at = now
            self._detectors.connects = 0

    def first_content(self, permit: Permit, now: float) -> None:
        """First content, the probe's success. After it, or after the end, it changes nothing."""
        now = self._tick(now)
        if permit.content_at < INF or permit.ended_at < INF or permit.started_at == INF:
            return
        permit.content_at = now
        if now < permit.replied_at:
            permit.replied_at = now
            self._detectors.connects = 0
        if permit.slow_at < INF and not permit.slow and self._base.counts(permit):
            slow = self._detectors.slow
            slow.good()
            if self._slow and slow.s < H / 2:
                self._slow = False
        if permit.grant is not None:
            self._leases.vote(permit, None, now)

    def end(self, permit: Permit, outcome: Outcome, now: float, allowance_s: float | None = None) -> None:
        """The attempt's one outcome. `allowance_s`: the request's whole time allowance, for the owner exception.

        Raises RuntimeError if it was not started or has ended before.
        """
        now = self._tick(now)
        if permit.started_at == INF or permit.ended_at < INF:
            raise RuntimeError("an attempt ends once, and only if it was started")
        permit.ended_at = now
        self.evidence.running.pop(permit, None)
        cls = outcome.cls
        key = (cls, outcome.sub, outcome.status)
        if cls is Class.CANCELLED and self._owned(permit, outcome, now, allowance_s):
            key = _OWNED
        if permit.grant is not None:
            self._leases.vote(permit, key, now)
            self._give_back(permit)
        group = GROUP[key[0]]
        if group is Group.LOCAL:
            return
        self.evidence.ended(permit, key, now)
        if (group is Group.GOOD or group is Group.BAD) and self._base.counts(permit):
            self._base.weigh(permit, key, group is Group.BAD, now)

    @staticmethod
    def _owned(permit: Permit, outcome: Outcome, now: float, allowance_s: float | None) -> bool:
        """Whether a cancelled attempt is the target's fault: silent past its line, for half the time there was."""
        if outcome.sub != "deadline" or allowance_s is None or permit.content_at < INF:
            return False
        return permit.slow_at <= now and 2 * (now - permit.started_at) >= allowance_s

    def _give_back(self, permit: Permit) -> None:
        self._leases.take_back(permit)
        if permit.grant is not None and permit.grant.capped:
            permit.grant.capped = False
            self._capped -= 1

    # What falls due by time alone -------------------------------------------------------------------------------------

    def _tick(self, now: float) -> float:
        """The time to use: `now`, or the latest seen if that is later or `now` is no number."""
        if self._now < now < INF:
            self._now = now
            if now >= self._due:
                self._advance(now)
            return now
        return self._now

    def _advance(self, now: float) -> None:
        """Do what has fallen due, in order of time."""
        due: list[tuple[float, int, Callable[[float], None]]] = []
        lines = self._lines
        while lines and lines[0][0] <= now:
            at, kind, _, permit = heappop(lines)
            if permit.content_at == INF and permit.ended_at == INF:
                due.append((at, kind, partial(self._passed_slow if kind == _SLOW else self._base.weigh_late, permit)))
        for at, is_end, act in self._leases.moments():
            due.append((at, _EXPIRED if is_end else _LATE, act))
        due.append((self._forced_until, _UNFORCED, partial(self._set_forced, Forced.NONE, INF)))
        for at, _, act in sorted((entry for entry in due if entry[0] <= now), key=itemgetter(0, 1)):
            act(at)
        self._settle()

    def _settle(self) -> None:
        """Find the next time at which something may fall due."""
        next_line = self._lines[0][0] if self._lines else INF
        self._due = min(self._forced_until, next_line, self._leases.due())

    def _sweep(self) -> None:
        """Drop the lines of attempts that have had their content or their end."""
        lines = [line for line in self._lines if line[3].content_at == INF and line[3].ended_at == INF]
        heapify(lines)
        self._lines = lines
        self._lines_max = max(_LINES_MIN, 2 * len(lines))

    def _passed_slow(self, permit: Permit, at: float) -> None:
        permit.slow = True
        if not self._base.counts(permit) or not self._detectors.slow.bad():
            return
        if not self._slow:
            self._slow = True
            self._last_probe_at = at
        policy = self._base.policy
        if policy.monitor and not isinstance(policy.rule, CountRule):
            self._base.trip(at, "slow")
        else:
            self._sync(at)

    # Moves ------------------------------------------------------------------------------------------------------------

    def _draw(self) -> float:
        self._u = self._rng()
        return self._u

    def _same(self) -> float:
        """The latest draw of the base. Requests' circuits draw none: they would change the base's next one."""
        return self._u

    def _sync(self, at: float) -> None:
        """Let the requests' circuits see the base's detectors at their peak."""
        for entry in self._store.entries.values():
            entry.judge(self._base, self._detectors, at)

    def _moved(self, before: State, to: State, reason: str, at: float) -> None:
        if to is State.CLOSED:
            self._slow = False
        elif to is State.OPEN:
            self._sync(at)
        self._plain = to is State.CLOSED and self._forced is not Forced.OPEN
        self._tell(before, to, reason, at, self._base.open_until)

    def _tell(self, before: State, to: State, reason: str, at: float, until: float) -> None:
        if self._on_change is not None:
            open_until = until if to is State.OPEN and until < INF else None
            self._on_change(Change(from_=before, to=to, reason=reason, at=at, open_until=open_until))

    # Operators and probes ---------------------------------------------------------------------------------------------

    def force(self, mode: Forced, until: float | None, now: float) -> None:
        """Set a state until a monotonic time (None: until further notice); `Forced.NONE` gives it back to the machine.

        What is in flight at that moment is judged no more.
        """
        now = self._tick(now)
        end = INF if until is None or math.isnan(until) else until
        self._set_forced(mode if end > now else Forced.NONE, end if mode is not Forced.NONE and end > now else INF, now)
        self._settle()

    def _set_forced(self, mode: Forced, until: float, at: float) -> None:
        before = self._visible()
        self._forced = mode
        self._forced_until = until
        self._base.judging = mode in (Forced.NONE, Forced.METRICS_ONLY)
        if not self._base.judging:
            self._leases.clear()
            self._base.generation += 1
        self._plain = self._base.state is State.CLOSED and mode is not Forced.OPEN
        to = self._visible()
        if before is not to:
            end = until if mode is Forced.OPEN else self._base.open_until
            self._tell(before, to, "unforced" if mode is Forced.NONE else "forced", at, end)

    def _visible(self) -> State:
        if self._forced is Forced.OPEN:
            return State.OPEN
        return State.CLOSED if self._forced is Forced.CLOSED else self._base.state

    def probe_passed(self, now: float) -> None:
        """An active probe succeeded: an adaptive open time ends and trials are permitted; nothing closes by it."""
        now = self._tick(now)
        self.evidence.probe_failed_at = -INF
        self._sync(now)
        for circuit in (self._base, *self._store.entries.values()):
            adaptive = circuit.policy.open_s is None or circuit.policy.trial
            if adaptive and circuit.state is State.OPEN:
                circuit.open_until = min(circuit.open_until, now)

    def probe_failed(self, now: float) -> None:
        """An active probe failed: a verdict for exclusions that are in force, nothing else."""
        now = self._tick(now)
        self.evidence.probe_failed_at = now
        self._sync(now)

    # Settings and reports ---------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self._settings

    def reconfigure(self, settings: Settings, now: float) -> None:
        """Judge by other settings from now on. State and evidence stay; a new rule trips with the next outcome."""
        self._tick(now)
        self._settings = settings
        policy = resolve(settings)
        if policy == self._base.policy:
            return
        self._base.policy = policy
        if self._base.state is State.HALF_OPEN:  # leases given by the old numbers count no more
            self._base.generation += 1
            self._base.successes = 0
        self._adopt()

    def _adopt(self) -> None:
        """Follow the base policy: lines, tally, and what is already known weighed by it."""
        policy = self._base.policy
        counting = isinstance(policy.rule, CountRule)
        self._slow_line_s = None if counting else policy.line_s
        self._fail_line_s = policy.line_s if counting and policy.monitor else None
        running = self.evidence.running
        self._lines = [(p.slow_at, _SLOW, p.serial, p) for p in running if not p.slow and p.slow_at < INF]
        for permit in (*self.evidence.history, *running):
            line = INF if self._fail_line_s is None else permit.started_at + self._fail_line_s
            permit.counted = permit.passed(line, self._now)
            if not permit.counted and line < INF and permit.ended_at == INF:
                self._lines.append((line, _FAIL, permit.serial, permit))
        self._sweep()
        self._base.renew_tally()
        self._settle()

    def view(self, now: float) -> dict[str, object]:
        """The target's circuit for reports. `counts`: outcomes by name over the last 120 s, local rejects left out."""
        now = self._tick(now)
        base, detectors = self._base, self._detectors
        counts: dict[str, int] = {}
        for (cls, sub, _), count in self.evidence.ring.counts(now).items():
            name = f"{cls}.{sub}" if sub else str(cls)
            counts[name] = counts.get(name, 0) + count
        state = self._visible()
        forced = self._forced in (Forced.OPEN, Forced.CLOSED)
        return {
            "state": state,
            "reason": "forced" if forced else "" if state is State.CLOSED else base.reason,
            "opened_at": None if forced or state is State.CLOSED else base.opened_at,
            "retry_after_s": self.retry_after_s(now),
            "generation": base.generation,
            "forced": self._forced,
            "mark": self.mark(now),
            "S_err": detectors.err.s,
            "S_slow": detectors.slow.s,
            "in_flight": len(self.evidence.running),
            "leases": len(self._leases),
            "overlays": len(self._store.entries),
            "overlays_refused": self._store.refused,
            "overlay_cap_used": self._capped,
            "counts": counts,
        }
