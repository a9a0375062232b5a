"""What a circuit's policy says, the automaton that obeys it, and the policies that requests carry.

One automaton serves three masters: the target's base policy, the policy of an `X-Circuit-Breaker` header and the
exclusion of an `X-Failover-Config` header. It knows states, generations, open times and votes. Who feeds it differs.
The base is fed at every event (`breaker.py`). A header's circuit, an `Entry`, looks at the evidence only when a request
with that policy asks, and then folds in, in order of time, what has happened since it last looked. The result is the
same as if it had been looking all the while, because the history carries times and the open time runs from the outcome
that tripped; and requests without a header pay nothing for those that have one.

A probe's lease belongs to the circuits that were half-open for its request, each at the generation it then had. A vote
counts for a circuit only while that generation lasts. This is the one defence against late, ignored, cancelled and lost
probes, the source of every half-open fault found elsewhere (`resilience.md` 3.5.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Literal, TypeVar

from proxy.base.outcome import GROUP, Class, Group
from proxy.policy.window import (
    CUSUM_DEPTH,
    HISTORY,
    INF,
    ConsecutiveRule,
    CountRule,
    Cusum,
    Dice,
    Evidence,
    H,
    Key,
    Permit,
    Rule,
    State,
    Tally,
    is_slow,
    matches,
    tally,
)

T = TypeVar("T")

OPEN_FIRST_S: Final = 5.0
"""Adaptive open time before jitter; it doubles with every consecutive opening up to `OPEN_CEILING_S`."""
OPEN_CEILING_S: Final = 20.0
"""Below the promise to be back on a recovered primary within 30 s (`resilience.md` 3.5.4)."""
_STREAK_MAX: Final = 2
"""5 s * 2^2 is the ceiling; counting on would only make the way back longer."""
HEALTHY_S: Final = 60.0
"""Time closed that takes one consecutive opening off."""
CONNECTS_MAX: Final = 3
"""Consecutive failed connects that open under the default rule."""
STORE_MAX: Final = 64
"""Policies of requests remembered per target."""
STORE_FULL: Final = "circuit breaker policy not applied: 64 others of this target are open"
_FORGET_S: Final = 120.0
"""How long after its last close an entry without a window of its own is kept: as long as rates are (chosen)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What YAML, or a header, states about a circuit; None: not stated. Values are valid (`config` checks bounds)."""

    error_threshold: int | None = None
    """Failures within the window that open, 1 to 1024. It selects the count rule, as the window alone does."""
    error_threshold_window_s: float | None = None
    """0.1 to 3600."""
    timeout_s: float | None = None
    """Open time, 0.1 to 3600, exact. None: 30 under a stated rule, adaptive under the default one."""
    half_open_requests: int | None = None
    """Probes in flight at the same time, 1 to 10."""
    success_threshold: int | None = None
    """Successful probes that close, 1 to 100."""
    excluded_errors: frozenset[str] | None = None
    """Classes, sub-names and statuses that are no evidence for this policy."""
    monitor_latency: bool | None = None
    """Whether slowness may open."""
    latency_threshold_ms: int | None = None
    """Slow line, 1 to 600000. None: 5000 under the count rule, the learned baseline under the default one."""
    looser: Literal["capped", "never"] = "capped"
    """Base only: whether a request's own trip rule may let it through, two at a time, where the base refuses."""
    panic: bool = False
    """Base only: whether this target may be tried although open when no target of a chain is left."""
    rule: Rule | None = None
    """Base only: a further rule, in place of `error_threshold`."""

    def __post_init__(self) -> None:
        """Raises ValueError when two trip rules are stated."""
        if self.rule is not None and self.counts:
            raise ValueError("`rule` and `error_threshold` are two trip rules; state one")

    @property
    def counts(self) -> bool:
        """Whether the count rule is selected here."""
        return self.error_threshold is not None or self.error_threshold_window_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """The three keys of `X-Failover-Config` that leave a target out for requests that carry them."""

    failure_threshold: int = 3
    """Consecutive bad outcomes that exclude, 1 or more."""
    success_threshold: int = 2
    """Consecutive successful trials that end it, 1 or more."""
    health_check_interval_s: float = 30.0
    """The greatest age at which a verdict against the target still excludes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A circuit's policy with nothing left open. Equal policies are one policy, however they were written."""

    rule: Rule | None
    """None: the default rule, CUSUM and connect counter."""
    open_s: float | None
    """Exact open time; None: adaptive."""
    permits: int
    successes: int
    excluded: frozenset[str]
    monitor: bool
    line_s: float | None
    """Slow line; None: the baseline of each attempt."""
    trial: bool = False
    """An exclusion: a preference, and every bad outcome while it is open starts its time anew."""

    @property
    def memory_s(self) -> float:
        """How long after a close something from before it could still matter."""
        if isinstance(self.rule, CountRule):
            return self.rule.window_s
        return self.open_s if self.trial and self.open_s is not None else _FORGET_S


def _first(header: T | None, base: T | None, default: T) -> T:
    if header is not None:
        return header
    return default if base is None else base


def resolve(base: Settings, header: Settings | None = None) -> Policy:
    """The policy in force: each key from the header, else from YAML, else the documented default (3.5.6)."""
    top = base if header is None else header
    rule = base.rule
    if top.counts or base.counts:
        rule = CountRule(
            n=_first(top.error_threshold, base.error_threshold, 5),
            window_s=_first(top.error_threshold_window_s, base.error_threshold_window_s, 60.0),
        )
    line_ms = _first(top.latency_threshold_ms, base.latency_threshold_ms, 5000 if isinstance(rule, CountRule) else None)
    return Policy(
        rule=rule,
        open_s=_first(top.timeout_s, base.timeout_s, None if rule is None else 30.0),
        permits=_first(top.half_open_requests, base.half_open_requests, 3),
        successes=_first(top.success_threshold, base.success_threshold, 2),
        excluded=_first(top.excluded_errors, base.excluded_errors, frozenset()),
        monitor=_first(top.monitor_latency, base.monitor_latency, False),
        line_s=None if line_ms is None else line_ms / 1000.0,
    )


def exclusion_policy(exclusion: Exclusion) -> Policy:
    """The automaton of 3.5.8: one trial at a time, a fixed open time."""
    return Policy(
        rule=ConsecutiveRule(n=exclusion.failure_threshold),
        open_s=exclusion.health_check_interval_s,
        permits=1,
        successes=exclusion.success_threshold,
        excluded=frozenset(),
        monitor=False,
        line_s=None,
        trial=True,
    )


class Circuit:
    """The automaton. Every move makes a new generation; whatever belongs to an older one no longer counts."""

    __slots__ = (
        "closed_at",
        "closed_serial",
        "dice",
        "evidence",
        "generation",
        "open_until",
        "opened_at",
        "policy",
        "reason",
        "state",
        "streak",
        "successes",
    )

    def __init__(self, policy: Policy, evidence: Evidence, dice: Dice) -> None:
        """`dice`: uniform in [0, 1), asked once per adaptive opening."""
        self.policy = policy
        self.evidence = evidence
        self.dice = dice
        self.state = State.CLOSED
        self.generation = 0
        self.opened_at: float | None = None
        """When it last opened; None: never."""
        self.open_until = -INF
        self.reason = ""
        """Why it last opened."""
        self.closed_at = -INF
        """When it last closed; minus infinity: never."""
        self.closed_serial = 0
        """Attempts admitted up to the last close; they count no longer."""
        self.streak = 0
        """Consecutive openings, held at the one that reaches the ceiling."""
        self.successes = 0

    def ask(self, now: float) -> State:
        """What a request would meet: CLOSED admits, HALF_OPEN wants a lease, OPEN refuses."""
        if self.state is State.OPEN and now >= self.open_until:
            return State.HALF_OPEN
        return self.state

    def trip(self, at: float, reason: str) -> None:
        """Open at `at`, from CLOSED or after a failed probe."""
        if self.state is State.CLOSED and self.streak:
            self.streak = max(0, self.streak - int((at - self.closed_at) / HEALTHY_S))
        open_s = self.policy.open_s
        if open_s is None:
            v = min(OPEN_CEILING_S, OPEN_FIRST_S * 2.0**self.streak)
            open_s = v / 2 + self.dice() * v / 2
        self.streak = min(self.streak + 1, _STREAK_MAX)
        self.opened_at = at
        self.open_until = at + open_s
        self.reason = reason
        self._move(State.OPEN, reason, at)

    def probe(self, now: float) -> None:
        """Begin to probe, if that has not begun. Call it only when `ask` says HALF_OPEN."""
        if self.state is State.OPEN:
            self.successes = 0
            self._move(State.HALF_OPEN, "open_time_over", now)

    def vote(self, good: bool, at: float, reason: str) -> None:
        """Take a probe's vote. The caller has checked that the lease is of this generation."""
        if not good:
            self.trip(at, reason)
            return
        self.successes += 1
        if self.successes >= self.policy.successes:
            self.closed_at = at
            self.closed_serial = self.evidence.serial
            self._move(State.CLOSED, "probes_succeeded", at)

    def _move(self, to: State, reason: str, at: float) -> None:
        self.state = to
        self.generation += 1


class Lease:
    """Permission for one probe, for the circuits that were half-open for its request."""

    __slots__ = ("expires", "permit", "views")

    def __init__(self, permit: Permit, expires: float, circuits: list[Circuit]) -> None:
        self.permit = permit
        self.expires = expires
        self.views = [(circuit, circuit.generation) for circuit in circuits]
        """Each circuit with the generation the lease was given under."""

    def live(self) -> list[Circuit]:
        """The circuits for which it still counts."""
        return [circuit for circuit, generation in self.views if circuit.generation == generation]

    def slow_at(self, circuit: Circuit) -> float:
        """When the probe has failed a circuit by its age alone; infinite where slowness may not open."""
        return line_at(circuit.policy, self.permit) if circuit.policy.monitor else INF

    def due(self) -> float:
        """When it next wants attention without any event."""
        return min([self.expires, *(self.slow_at(circuit) for circuit in self.live())])

    def drop(self, circuit: Circuit) -> None:
        """Let it count no more for one circuit, whose vote it has given."""
        self.views = [view for view in self.views if view[0] is not circuit]


def line_at(policy: Policy, permit: Permit) -> float:
    """When the age of an attempt passes the slow line of a policy; infinite when there is no line."""
    return permit.slow_at if policy.line_s is None else permit.started_at + policy.line_s


class Detectors:
    """The default rule's three running sums."""

    __slots__ = ("connects", "err", "slow")

    def __init__(self) -> None:
        self.err = Cusum()
        self.slow = Cusum()
        self.connects = 0

    def clear(self) -> None:
        """Forget all three."""
        self.err.s = self.slow.s = 0.0
        self.connects = 0

    def ended(self, key: Key, bad: bool) -> None:
        """A good or a bad outcome, never another one."""
        if not bad:
            self.err.good()
            return
        self.err.bad()
        if key[0] is Class.CONNECT_ERROR or (key[0] is Class.TIMEOUT and key[1] == "connect"):
            self.connects += 1

    def reached(self, monitor: bool) -> str:
        """Why the default rule trips now; empty when it does not."""
        if self.err.s >= H:
            return "errors"
        if self.connects >= CONNECTS_MAX:
            return "connect"
        return "slow" if monitor and self.slow.s >= H else ""


def rule_name(rule: Rule | None) -> str:
    """The reason of a trip by a stated rule."""
    if isinstance(rule, CountRule):
        return "error_threshold"
    return "consecutive" if isinstance(rule, ConsecutiveRule) else "rate"


_CONTENT, _REPLIED, _SLOW, _ENDED = range(4)


class Entry(Circuit):
    """The circuit of a policy that requests carry."""

    __slots__ = ("_judged_at", "_own", "_seen", "_tally")

    def __init__(self, policy: Policy, evidence: Evidence, dice: Dice) -> None:
        super().__init__(policy, evidence, dice)
        self._seen = 0
        """Ended attempts that are folded in."""
        self._judged_at = -INF
        self._own = Detectors()
        self._tally: Tally | None = None
        self._clear()

    def judge(self, base: Circuit, shared: Detectors, now: float) -> None:
        """Fold in what has happened since the last look. `shared`: the detectors of the base."""
        fresh = self.evidence.total - self._seen
        if self.state is State.CLOSED:
            if self._shares(base):
                reason = shared.reached(self.policy.monitor)
                if reason:
                    at = now if base.state is State.CLOSED or base.opened_at is None else base.opened_at
                    self.trip(at, reason)
            elif fresh or self.policy.monitor:
                self._fold(fresh, now)
        if self.policy.trial and self.state is State.OPEN:
            self._renew(fresh)
        self._seen = self.evidence.total
        self._judged_at = now

    def _shares(self, base: Circuit) -> bool:
        """Whether the base's detectors see just what this policy would: same rule, same filter, nothing from before."""
        mine, theirs = self.policy, base.policy
        return (
            mine.rule is None
            and theirs.rule is None
            and mine.excluded == theirs.excluded
            and mine.line_s == theirs.line_s
            and base.closed_serial >= self.closed_serial
        )

    def _renew(self, fresh: int) -> None:
        """An exclusion counts from the latest verdict."""
        verdicts = [p.ended_at for p in self.evidence.newest(fresh) if GROUP[p.key[0]] is Group.BAD]
        if self.evidence.probe_failed_at >= self._judged_at:
            verdicts.append(self.evidence.probe_failed_at)
        if verdicts and self.policy.open_s is not None:
            self.open_until = max(self.open_until, max(verdicts) + self.policy.open_s)

    def _fold(self, fresh: int, now: float) -> None:
        """Weigh the new events in order of time, up to the one that trips."""
        if self._tally is not None and not self.policy.monitor:  # no event but the ends: they are in order already
            for permit in self.evidence.newest(min(fresh, HISTORY)):
                if permit.serial > self.closed_serial:
                    reason = self._end(permit)
                    if reason:
                        self.trip(permit.ended_at, reason)
                        return
            return
        for at, kind, permit in self._events(fresh, now):
            reason = self._weigh(kind, at, permit)
            if reason:
                self.trip(at, reason)
                return

    def _events(self, fresh: int, now: float) -> list[tuple[float, int, Permit]]:
        """What happened since the last look. An event counts once: at its own time, whether its attempt still runs."""
        events: list[tuple[float, int, Permit]] = []
        since, policy = self._judged_at, self.policy
        counting = isinstance(policy.rule, CountRule)  # then only failures matter
        depth = min(fresh, CUSUM_DEPTH if self._tally is None else HISTORY)
        for permit in (*self.evidence.newest(depth), *self.evidence.running):
            if permit.serial <= self.closed_serial:
                continue
            line = line_at(policy, permit)
            if permit.passed(line, now):
                if since < line:
                    events.append((line, _SLOW, permit))
            elif since < permit.content_at < INF and not counting:
                events.append((permit.content_at, _CONTENT, permit))
            if since < permit.replied_at < INF and not counting:
                events.append((permit.replied_at, _REPLIED, permit))
            if permit.ended_at < INF and not (counting and permit.key[0] is Class.OK):
                events.append((permit.ended_at, _ENDED, permit))
        events.sort(key=itemgetter(0))
        return events

    def _weigh(self, kind: int, at: float, permit: Permit) -> str:
        own = self._own
        if kind == _ENDED:
            return self._end(permit)
        if kind == _REPLIED:
            own.connects = 0
        elif kind == _CONTENT:
            own.slow.good()
        elif not self.policy.monitor:
            pass  # slowness only marks, and the mark is the target's, not this policy's
        elif self._tally is not None and isinstance(self.policy.rule, CountRule):
            return rule_name(self.policy.rule) if self._tally.weigh(at, True, True) else ""
        else:
            return "slow" if own.slow.bad() else ""
        return ""

    def _end(self, permit: Permit) -> str:
        """Weigh the outcome of an ended attempt; why it trips, or empty."""
        policy, key = self.policy, permit.key
        group = GROUP[key[0]]
        bad = group is Group.BAD
        if not (bad or group is Group.GOOD) or (bad and matches(policy.excluded, key)):
            return ""
        if self._tally is None:
            self._own.ended(key, bad)
            return self._own.reached(False)
        if policy.monitor and isinstance(policy.rule, CountRule) and permit.passed(line_at(policy, permit), INF):
            return ""  # was counted when it passed the line
        slow = is_slow(policy.rule, permit, permit.ended_at)
        return rule_name(policy.rule) if self._tally.weigh(permit.ended_at, bad, slow) else ""

    def _clear(self) -> None:
        self._own.clear()
        self._tally = None if self.policy.rule is None else tally(self.policy.rule)

    def _move(self, to: State, reason: str, at: float) -> None:
        super()._move(to, reason, at)
        if to is State.CLOSED:
            self._clear()
            self._seen = self.evidence.total
            self._judged_at = at


class Store:
    """At most 64 entries of one target, the least recently used first to go, and only if nothing is lost with it."""

    __slots__ = ("entries", "refused")

    def __init__(self) -> None:
        self.entries: dict[Policy, Entry] = {}
        self.refused = 0
        """Policies that were not applied because no entry could go."""

    def take(self, policy: Policy, base: Circuit, shared: Detectors, dice: Dice, now: float) -> Entry | None:
        """The entry of a policy, judged, made on first use; None when the store is full and none may go."""
        entry = self.entries.pop(policy, None)
        if entry is None:
            if len(self.entries) >= STORE_MAX and not self._evict(base, shared, now):
                self.refused += 1
                return None
            entry = Entry(policy, base.evidence, dice)
        self.entries[policy] = entry
        entry.judge(base, shared, now)
        return entry

    def _evict(self, base: Circuit, shared: Detectors, now: float) -> bool:
        for policy, entry in self.entries.items():
            entry.judge(base, shared, now)
            if entry.state is State.CLOSED and now - entry.closed_at > policy.memory_s:
                del self.entries[policy]
                return True
        return False
