"""What outlives a request: the evidence, allowances and limits of every target, reached by synchronous calls only.

A check and the effect that follows from it happen in one call, with nothing awaited between them, so that two requests
can never both take the last permit. Everything is keyed by `Target`; a reload that leaves a target unchanged therefore
keeps all that is known about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.base.outcome import Class, Group, Outcome
from proxy.base.target import Target
from proxy.engine.plan import Candidate
from proxy.policy import hedge
from proxy.policy.absence import Absence
from proxy.policy.balance import Load
from proxy.policy.breaker import Breaker, Change, Forced, Permit
from proxy.policy.budget import Budget
from proxy.policy.cooldown import Cooldown
from proxy.policy.latency import Latency, LatencyKey
from proxy.policy.limiter import Limiter
from proxy.policy.pulse import Pulse
from proxy.policy.slow_line import SlowLine
from proxy.policy.verdict import Mark

CENSORED = frozenset({"superseded", "deadline"})
"""Ends without content that say how slow a target is at least. A caller that leaves says nothing (S30)."""
SLOW_LINE_MIN_S = hedge.FLOOR_S
"""No attempt is slow before this. A target that answers in 2 ms is slowed more by our own host than by itself, and the
detector would send its callers away for it (`resilience.md` 3.6 names no floor; that of 3.8 serves)."""
OF_CREDENTIAL: Final = frozenset({Class.AUTH, Class.PERMISSION, Class.QUOTA_EXCEEDED})
"""Classes of failure that may end with the credential they were told about."""
FORCED_MAX: Final = 256
"""Names whose circuit an operator has forced at the same time."""
OUT_S = 300.0
"""A refused credential, missing right or unknown model takes its target out for this long (`resilience.md` 3.3)."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A breaker of `target` changed its state."""

    target: Target
    change: Change


@dataclass(frozen=True, slots=True)
class Cooled:
    """`target` (or its whole credential) is left alone until the monotonic time `until` because of `reason`."""

    target: Target
    until: float
    reason: Class
    credential: bool


Event = Moved | Cooled


class TargetState:
    """Everything recorded about one target."""

    __slots__ = (
        "breaker",
        "budget",
        "cooldown",
        "credential_cooldown",
        "inflight",
        "last_bad",
        "latency",
        "limiter",
        "load",
        "pulse",
        "slow_line",
        "target",
        "told",
        "used_at",
    )

    def __init__(
        self,
        candidate: Candidate,
        credential_cooldown: Cooldown,
        rng: Callable[[], float],
        now: float,
        tell: Callable[[Event], None],
    ) -> None:
        target = candidate.target
        self.target = target
        self.breaker = Breaker(candidate.breaker, rng, now, lambda change: tell(Moved(target, change)))
        self.budget = Budget(now)
        self.cooldown = Cooldown()
        self.credential_cooldown = credential_cooldown
        self.limiter = Limiter(candidate.max_concurrency)
        self.latency = Latency()
        self.slow_line = SlowLine()
        self.load = Load()
        self.pulse = Pulse()
        self.told: tuple[Iterable[tuple[bytes, bytes]], float] = (), now
        """Headers of its latest answer, and when they came: they may tell how much of its limits is used."""
        self.last_bad: Class = Class.SERVER_ERROR
        self.inflight = 0
        self.used_at = now

    def cooling_s(self, now: float) -> float:
        """Seconds until the told (or guessed) wait is over; 0 when there is none."""
        return max(self.cooldown.remaining_s(now), self.credential_cooldown.remaining_s(now))

    def cooling_reason(self, now: float) -> Class:
        """The class that set the longer of the two cool-downs."""
        longer = self.credential_cooldown
        if self.cooldown.remaining_s(now) >= longer.remaining_s(now):
            longer = self.cooldown
        try:
            return Class(longer.reason)
        except ValueError:
            return Class.RATE_LIMIT

    def unavailable_s(self, now: float) -> float:
        """Seconds until the target may be tried again, by breaker and cool-down together; 0 when it may be now."""
        return max(self.cooling_s(now), self.breaker.retry_after_s(now))


class Cluster:
    """All targets of the process, bounded by `max_targets`."""

    def __init__(
        self, rng: Callable[[], float], tell: Callable[[Event], None] = lambda event: None, max_targets: int = 1024
    ) -> None:
        self._rng = rng
        self._tell = tell
        self._max_targets = max_targets
        self._states: dict[Target, TargetState] = {}
        self._credentials: dict[tuple[str, str], Cooldown] = {}
        self._stale: set[Target] = set()
        """Targets whose settings have changed since their state was made."""
        self._forced: dict[str, tuple[Forced, float]] = {}
        self.absences: tuple[Absence, ...] = ()
        """What an operator has taken out at present."""
        self.hedges = hedge.HedgeBudget()
        self.evicted = 0

    def state(self, candidate: Candidate, now: float) -> TargetState:
        """The state of the candidate's target, made on first use."""
        found = self._states.get(candidate.target)
        if found is None:
            return self._make(candidate, now)
        if self._stale and candidate.target in self._stale:
            self._follow(found, candidate, now)
        return found

    @property
    def known(self) -> int:
        """How many targets there are at present."""
        return len(self._states)

    def states(self) -> list[TargetState]:
        """Every target known at present."""
        return list(self._states.values())

    def _make(self, candidate: Candidate, now: float) -> TargetState:
        target = candidate.target
        key = (target.provider, target.credential)
        shared = self._credentials.get(key)
        if shared is None:
            shared = self._credentials[key] = Cooldown()
        made = TargetState(candidate, shared, self._rng, now, self._tell)
        if len(self._states) >= self._max_targets:
            self._evict(now)
        self._states[target] = made
        self._credentials[key] = shared
        for name in (target.provider, target.name):
            if name in self._forced:
                mode, until = self._forced[name]
                made.breaker.force(mode, until, now)
        return made

    def _evict(self, now: float) -> None:
        """Forget the eighth that was idle longest. Callers make targets without bound by their keys and model names.

        A target in use, refused or cooling is kept as long as there are others: forgetting it would forgive it.
        """
        idle = [state for state in self._states.values() if state.inflight == 0]
        idle.sort(key=lambda state: (state.unavailable_s(now) > 0.0, state.used_at))
        for state in idle[: max(1, self._max_targets // 8)]:
            del self._states[state.target]
            self.evicted += 1
        self._drop_unused()

    def _drop_unused(self) -> None:
        self._stale &= self._states.keys()
        used = {(t.provider, t.credential) for t in self._states}
        for key in [k for k in self._credentials if k not in used]:
            del self._credentials[key]

    # A new configuration, a new credential.

    def resize(self, max_targets: int) -> None:
        """Hold at most so many targets from now on."""
        self._max_targets = max_targets

    def forget(self, is_gone: Callable[[Target], bool]) -> None:
        """Drop the targets that are not what they were. What runs on them keeps their state to its end, unseen."""
        for target in [target for target in self._states if is_gone(target)]:
            del self._states[target]
        self._drop_unused()

    def renew(self, is_changed: Callable[[Target], bool]) -> None:
        """These targets are judged by other settings from their next call on; what was learned of them stays."""
        self._stale |= {target for target in self._states if is_changed(target)}

    def _follow(self, state: TargetState, candidate: Candidate, now: float) -> None:
        """Take over a candidate's settings. One with those in force was planned before the change and changes nothing,
        or belongs to the one route whose settings have stayed."""
        if candidate.breaker == state.breaker.settings and candidate.max_concurrency == state.limiter.bound:
            return
        self._stale.discard(candidate.target)
        state.breaker.reconfigure(candidate.breaker, now)
        state.limiter.rebind(candidate.max_concurrency)

    def forgive(self, provider: str) -> None:
        """The sidecar's credential for `provider` is another one: what the old one was refused for says nothing."""
        for state in self._states.values():
            if state.target.provider == provider and not state.target.credential:
                for cooldown in (state.cooldown, state.credential_cooldown):
                    if cooldown.reason in OF_CREDENTIAL:
                        cooldown.clear()

    # What operators decide.

    def absence(self, target: Target, route: str, now: float) -> Absence | None:
        """Why requests of `route` may not go to `target`; None: they may."""
        return next((a for a in self.absences if a.until > now and a.covers(target, route)), None)

    def force(self, name: str, mode: Forced, until: float, now: float) -> bool:
        """Force the circuits of a target (provider/model) or of all targets of a provider, for callers' own keys too.

        `Forced.NONE` gives them back to their machines. Targets that are first used later are forced as well, until the
        monotonic time `until`. False: too many names are forced at the same time.
        """
        kept = {n: entry for n, entry in self._forced.items() if entry[1] > now and n != name}
        if "/" not in name:  # the latest word about a provider is about all its targets
            kept = {n: entry for n, entry in kept.items() if not n.startswith(f"{name}/")}
        if mode is not Forced.NONE:
            if len(kept) >= FORCED_MAX:
                return False
            kept[name] = mode, until
        self._forced = kept
        for state in self._states.values():
            if name in (state.target.provider, state.target.name):
                state.breaker.force(mode, until, now)
        return True

    def is_forced(self, target: Target, now: float) -> bool:
        """Whether an operator decides on the circuit of `target`."""
        forced = self._forced
        return bool(forced) and any(name in forced and forced[name][1] > now for name in (target.provider, target.name))

    def forced_open_s(self, target: Target, now: float) -> float:
        """Seconds for which an operator keeps the circuit of `target` open, be it called yet or not; 0: it is not."""
        found = [self._forced[name] for name in (target.provider, target.name) if name in self._forced]
        mode, until = found[-1] if found else (Forced.NONE, now)
        return max(0.0, until - now) if mode is Forced.OPEN else 0.0

    # What active probes find.

    def probed(self, provider: str, passed: bool, now: float) -> None:
        """A probe of `provider` has ended: a pass lets open circuits try again, a failure keeps exclusions in force."""
        for state in self._states.values():
            if state.target.provider == provider:
                if passed:
                    state.breaker.probe_passed(now)
                else:
                    state.breaker.probe_failed(now)

    # Effects of an attempt's life. Each is called exactly once per attempt by the engine.

    def dialled(self, state: TargetState, permit: Permit, key: LatencyKey, now: float) -> None:
        """The attempt goes out."""
        state.inflight += 1
        state.used_at = now
        breaker = state.breaker
        is_suspected = breaker.mark(now) is not Mark.NORMAL
        line_s = state.slow_line.at(key, state.latency.p(0.95, key, now), is_suspected, now)
        breaker.start(permit, now, None if line_s is None else max(line_s, SLOW_LINE_MIN_S))

    def content(self, state: TargetState, permit: Permit, key: LatencyKey, elapsed_s: float, now: float) -> None:
        """The attempt has shown its first content, `elapsed_s` after it began."""
        state.breaker.first_content(permit, now)
        state.pulse.content(key, elapsed_s, state.latency, now)
        state.latency.observe(key, elapsed_s, now)
        state.load.observe(elapsed_s, now)

    def ended(
        self,
        state: TargetState,
        permit: Permit,
        key: LatencyKey,
        outcome: Outcome,
        elapsed_s: float,
        had_content: bool,
        allowance_s: float,
        now: float,
    ) -> None:
        """Record the one outcome of an attempt with everybody who learns from it."""
        state.inflight -= 1
        state.limiter.release()
        state.breaker.end(permit, outcome, now, allowance_s=allowance_s)
        state.pulse.ended(key, outcome, elapsed_s, had_content, now)
        group = outcome.group
        if group is Group.GOOD:
            state.budget.earn(now)
            state.cooldown.reset_streak()
            state.limiter.on_ok(now, state.latency.p(0.5, key, now) or 0.0)
            return
        if not had_content and (outcome.cls is Class.TIMEOUT or outcome.sub in CENSORED):
            state.latency.censor(key, elapsed_s, now)
        if group is Group.BAD:
            state.last_bad = outcome.cls
        if group in (Group.BAD, Group.LIMITED, Group.TARGET_FAULT):
            state.load.penalise(outcome.told_wait_s, now)
        if outcome.cls in (Class.RATE_LIMIT, Class.MODEL_OVERLOADED, Class.TIMEOUT):
            state.limiter.on_loss(now, state.latency.p(0.5, key, now) or 0.0)
        self._cool(state, outcome, now)

    def _cool(self, state: TargetState, outcome: Outcome, now: float) -> None:
        """Set the cool-down that the outcome asks for; the later time always wins."""
        cls = outcome.cls
        if cls is Class.RATE_LIMIT and outcome.no_wait_helps:
            return  # larger than the target's allowance: other requests still fit
        if cls is Class.RATE_LIMIT or (cls is Class.MODEL_OVERLOADED and outcome.told_wait_s is not None):
            until = state.cooldown.extend(now, outcome.told_wait_s, self._rng, cls.value)
            self._tell(Cooled(state.target, until, cls, False))
        elif cls in (Class.QUOTA_EXCEEDED, Class.AUTH, Class.PERMISSION, Class.MODEL_NOT_FOUND):
            if cls is not Class.QUOTA_EXCEEDED and state.target.credential:
                return  # the caller's own key: the caller hears of it each time and may mend it at any moment
            whole = outcome.per_credential or cls is Class.AUTH
            cooldown = state.credential_cooldown if whole else state.cooldown
            before = cooldown.remaining_s(now)
            until = cooldown.out(now, OUT_S if outcome.told_wait_s is None else outcome.told_wait_s, cls.value)
            if before <= 0.0:
                self._tell(Cooled(state.target, until, cls, whole))
