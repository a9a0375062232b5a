"""Which target next: order of the chain, conditions, admission, and the most telling error when none is left.

The order is fixed when the request begins (tiers, balance, slow marks); whether a candidate is admissible is asked anew
each time, because other requests move breakers and cool-downs meanwhile. What a check acquires is given back if a later
one refuses; the check that takes something for good (budget tokens) is the engine's last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy.base.outcome import TRIGGER_CLASSES, Class, Outcome
from proxy.engine.cluster import Cluster, TargetState
from proxy.engine.plan import Candidate, Plan, Tier
from proxy.policy import balance
from proxy.policy.breaker import Mark, Permit, Refused, State
from proxy.policy.latency import LatencyKey

TELLING: Final = (
    (Class.INVALID_REQUEST, Class.CONTEXT_LENGTH, Class.CONTENT_POLICY),
    (Class.RATE_LIMIT,),
    (Class.QUOTA_EXCEEDED,),
    (Class.MODEL_OVERLOADED,),
    (Class.SERVER_ERROR,),
    (Class.TIMEOUT,),
    (Class.STREAM_INTERRUPTED,),
    (Class.CONNECT_ERROR,),
    (Class.AUTH, Class.PERMISSION, Class.MODEL_NOT_FOUND),
    (Class.CIRCUIT_OPEN, Class.LOCAL_REJECT),
)
"""Order of the error shown when all targets failed, most telling first (`resilience.md` 3.1)."""

_BY_NAME: Final = {cls.value: cls for cls in Class}
_RANK: Final = {cls: rank for rank, classes in enumerate(TELLING) for cls in classes}

FULL: Final = frozenset({Class.CIRCUIT_OPEN, Class.MODEL_OVERLOADED, Class.RATE_LIMIT})
"""Causes a full concurrency limit stands for when triggers are asked."""

ABSENT: Final = TRIGGER_CLASSES - {Class.CONTEXT_LENGTH}
"""Causes that a target stands for which an operator has taken out: whoever comes next may go on, whatever it is meant
for, but for targets that are there for long prompts only."""

LEAD: Final = -1
"""Rank of a canary: before every tier."""

NOBODY_BARRED: Final[Mapping[int, str]] = {}

MIN_SAMPLES: Final = 20
"""Below it on either side `max_latency_increase` allows the fallback (`headers.md`)."""


def best_failure(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The most telling outcome; among equals the earliest, which is the primary's. None for no outcome at all."""
    return min(outcomes, key=lambda outcome: _RANK.get(outcome.cls, len(TELLING)), default=None)


class Chosen:
    """An admitted candidate: permit and concurrency slot are taken and must be used or given back."""

    __slots__ = ("index", "permit", "state")

    def __init__(self, index: int, state: TargetState, permit: Permit) -> None:
        self.index = index
        self.state = state
        self.permit = permit


class Chooser:
    """The chain of one request."""

    __slots__ = (
        "_barred",
        "_causes",
        "_cluster",
        "_deadline",
        "_excluded",
        "_key",
        "_order",
        "_plan",
        "_rng",
        "_taken",
        "hedge_refusal",
        "primary",
        "primary_refusal",
        "primary_state",
        "skipped",
        "warning",
    )

    def __init__(
        self,
        plan: Plan,
        cluster: Cluster,
        rng: Callable[[], float],
        key: LatencyKey,
        barred: Mapping[int, str] = NOBODY_BARRED,
    ) -> None:
        """`barred`: candidates that cannot take this very request (index -> why); they count as not in the chain."""
        self._plan = plan
        self._barred = barred
        self._cluster = cluster
        self._rng = rng
        self._key = key
        self._order: Sequence[int] = ()
        self._taken: set[int] = set()
        self._excluded: list[int] = []
        self._causes: frozenset[Class] = frozenset()
        self._deadline = 0.0
        self.skipped: dict[str, str] = {}
        self.primary = 0
        """Whom this request is meant for: the chain's first, or whom the balance has chosen among its equals."""
        self.primary_state = State.CLOSED
        self.primary_refusal = ""
        self.hedge_refusal = ""
        self.warning = ""

    # Order ------------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Fix the order for this request."""
        candidates = self._plan.candidates
        order: Sequence[int] = range(len(candidates))
        if self._barred:
            order = self._without_barred()
            if not order:
                self._order = ()
                return
        if len(order) == 1 or not self._plan.failover:
            self._order = order[:1]
            return
        if self._plan.balance != "priority":
            order = self._balanced(order, now)
        if candidates[-1].tier is not Tier.PRIMARY:
            order = sorted(order, key=lambda i: self._rank(i, now))
        if self._plan.balance != "priority":
            self.primary, self.primary_refusal = order[0], ""
        lead = self._cluster.state(candidates[order[0]], now).breaker
        if lead.mark(now) is Mark.SLOW and not lead.may_lead(now, self._rng):
            order = self._without_slow(order, now)
        self._order = order

    def _without_barred(self) -> list[int]:
        """The candidates that can take the request; why the others cannot is told."""
        candidates = self._plan.candidates
        for index, reason in self._barred.items():
            self.skipped[candidates[index].name] = reason
        if 0 in self._barred:
            # What the primary would have called it.
            self.primary_refusal = str(Class.AUTH if self._barred[0] == "no_key" else Class.INVALID_REQUEST)
        return [index for index in range(len(candidates)) if index not in self._barred]

    def _rank(self, index: int, now: float) -> tuple[int, float]:
        """Tier, and within the emergency tier the fastest first."""
        candidate = self._plan.candidates[index]
        if index < self._plan.lead:
            return LEAD, 0.0
        if candidate.tier is not Tier.EMERGENCY:
            return candidate.tier, 0.0
        return candidate.tier, self._cluster.state(candidate, now).latency.p(0.5, self._key, now) or 1.0

    def _balanced(self, order: Sequence[int], now: float) -> list[int]:
        entries = []
        for index in order:
            candidate = self._plan.candidates[index]
            state = self._cluster.state(candidate, now)
            price = None if candidate.price is None else candidate.price.input + candidate.price.output
            tier = candidate.tier if index >= self._plan.lead else LEAD - self._plan.lead + index
            weight = candidate.weight if state.breaker.mark(now) is Mark.NORMAL else candidate.weight / 2
            entries.append(balance.Entry(index, tier, weight, price, state.load, state.limiter.inflight))
        return balance.arrange(self._plan.balance, entries, self._rng, now)

    def _without_slow(self, order: Sequence[int], now: float) -> Sequence[int]:
        """Predictive failover: a slow lead goes behind the others; if all are slow the mark is ignored."""
        candidates = self._plan.candidates

        def behind(i: int) -> int:
            if candidates[i].tier is Tier.EMERGENCY:
                return 2
            return int(self._cluster.state(candidates[i], now).breaker.mark(now) is Mark.SLOW)

        if all(behind(i) or (i and Class.TIMEOUT not in candidates[i].trigger) for i in order):
            return order
        moved = sorted(order, key=behind)
        primary = self.primary
        if order[0] == primary and moved[0] != primary:
            self.primary_refusal = "predicted"
            self.skipped[candidates[primary].name] = "slow"
            self.primary_state = self._cluster.state(candidates[primary], now).breaker.peek(now, self._plan.overlay)
        return moved

    # Admission --------------------------------------------------------------------------------------------------------

    @property
    def alone(self) -> bool:
        """There is no second target to hedge with or to fail over to."""
        return len(self._order) <= 1

    def has_next(self, index: int, cls: Class = Class.TIMEOUT) -> bool:
        """Whether a target other than `index` is untried and open to a failure of class `cls` of this one."""
        candidates, is_open = self._plan.candidates, index < self._plan.lead
        return any(
            i not in self._taken and i != index and (is_open or cls in candidates[i].trigger) for i in self._order
        )

    def next(self, failure: Outcome | None, deadline: float, now: float) -> Chosen | None:
        """The first untried candidate that the latest failure may go to and that admits the request."""
        self._deadline = deadline
        causes = None if failure is None else frozenset((failure.cls,))
        late: list[int] = []
        self._excluded = []
        for index in self._order:
            if index in self._taken:
                continue
            candidate = self._plan.candidates[index]
            if causes is not None and not self._may_follow(candidate, causes):
                self.skipped.setdefault(candidate.name, "trigger")
                continue
            if candidate.max_latency_increase_s is not None and self._too_slow(candidate, now):
                self.skipped[candidate.name] = "max_latency_increase"
                late.append(index)
                continue
            chosen = self._admit(index, now)
            if chosen is not None:
                return chosen
            if failure is None:
                causes = self._causes if causes is None else causes | self._causes
        return self._last_resort(late, now)

    def _last_resort(self, late: list[int], now: float) -> Chosen | None:
        """Targets left out by mere preference, before the request gives up (`resilience.md` 3.5.8, 3.5.9)."""
        for index in late:
            chosen = self._admit(index, now)
            if chosen is not None:
                return chosen
        for index in tuple(self._excluded):
            chosen = self._admit(index, now, ignore_exclusion=True)
            if chosen is not None:
                return chosen
        panicking = [i for i in self._order if i not in self._taken and self._plan.candidates[i].breaker.panic]
        if panicking and not self._taken:
            states = {i: self._cluster.state(self._plan.candidates[i], now) for i in panicking}
            for index in sorted(panicking, key=lambda i: states[i].breaker.retry_after_s(now)):
                chosen = self._admit(index, now, panic=True)
                if chosen is not None:
                    return chosen
        return None

    def _may_follow(self, candidate: Candidate, causes: frozenset[Class]) -> bool:
        if not candidate.trigger & causes:
            return False
        if Class.CONTEXT_LENGTH in causes:
            primary = self._plan.candidates[0].context_window
            mine = candidate.context_window
            return primary is None or mine is None or mine > primary
        return True

    def _too_slow(self, candidate: Candidate, now: float) -> bool:
        primary = self._cluster.state(self._plan.candidates[self.primary], now).latency
        mine = self._cluster.state(candidate, now).latency
        theirs, ours = primary.median(self._key, now, MIN_SAMPLES), mine.median(self._key, now, MIN_SAMPLES)
        if theirs is None or ours is None or candidate.max_latency_increase_s is None:
            return False
        return ours - theirs > candidate.max_latency_increase_s

    def again(self, index: int, now: float) -> Chosen | None:
        """The same target once more, if breaker, cool-down and limit still let it."""
        return self._admit(index, now)

    def _admit(self, index: int, now: float, ignore_exclusion: bool = False, panic: bool = False) -> Chosen | None:
        candidate = self._plan.candidates[index]
        state = self._cluster.state(candidate, now)
        if self._cluster.absences and self._is_absent(index, state, now):
            return None
        if state.cooling_s(now) > 0.0:
            reason = state.cooling_reason(now)
            if index == self.primary and not self.primary_refusal:
                self.primary_state = state.breaker.peek(now, self._plan.overlay)
            self._refused(index, str(reason), frozenset((reason,)))
            return None
        fastest = state.latency.p(0.1, self._key, now)
        if fastest is not None and self._deadline - now < fastest:
            self._refused(index, "deadline", frozenset((Class.TIMEOUT,)))
            return None
        if not state.limiter.try_acquire(now):
            self._refused(index, "max_concurrency", FULL)
            return None
        answer = state.breaker.admit(
            now,
            overlay=self._plan.overlay,
            exclusion=None if panic else self._plan.exclusion,
            probe_after_s=self._plan.timers.first_byte_s,
            p99_s=state.latency.p(0.99, self._key, now),
            ignore_exclusion=ignore_exclusion,
            panic=panic,
        )
        if index == self.primary and not self.primary_refusal:
            self.primary_state = answer.state
        if isinstance(answer, Refused):
            state.limiter.release()
            if answer.reason == "excluded":
                self._excluded.append(index)
            # A breaker's refusal stands for the class that opened it as well: a fallback that is meant for server
            # errors must not be cut off because there were so many of them that nobody asks any more.
            self._refused(index, "circuit_open", frozenset((Class.CIRCUIT_OPEN, state.last_bad)))
            return None
        if answer.warning:
            self.warning = answer.warning
        self._taken.add(index)
        self.skipped.pop(candidate.name, None)
        return Chosen(index, state, answer)

    def _is_absent(self, index: int, state: TargetState, now: float) -> bool:
        """Whether an operator has taken the target out; if so it is told."""
        found = self._cluster.absence(state.target, self._plan.route, now)
        if found is None:
            return False
        if index == self.primary and not self.primary_refusal:
            self.primary_state = state.breaker.peek(now, self._plan.overlay)
            self.primary_refusal = "maintenance"
        self._refused(index, found.reason, ABSENT)
        return True

    def _refused(self, index: int, reason: str, causes: frozenset[Class]) -> None:
        self.skipped[self._plan.candidates[index].name] = reason
        self._causes = causes
        if index == self.primary and not self.primary_refusal:
            self.primary_refusal = reason

    def give_back(self, chosen: Chosen, now: float) -> None:
        """An admitted candidate that is not dialled after all."""
        chosen.state.breaker.release(chosen.permit, now)
        chosen.state.limiter.release()
        self._taken.discard(chosen.index)

    def for_hedge(self, running: set[int], deadline: float, now: float) -> Chosen | None:
        """The target of a second attempt beside those running: closed, not cooling, with room now."""
        self._deadline = deadline
        self.hedge_refusal = "no_target"
        states = [self._cluster.state(self._plan.candidates[i], now) for i in self._order]
        if all(state.breaker.mark(now) is not Mark.NORMAL for state in states):
            self.hedge_refusal = "overload"
            return None
        for index in self._plan.hedge_order or self._others_first(running):
            candidate = self._plan.candidates[index]
            if (
                index in running
                or index in self._taken
                or index in self._barred
                or Class.TIMEOUT not in candidate.trigger
            ):
                continue
            state = self._cluster.state(candidate, now)
            if state.breaker.peek(now, self._plan.overlay) is not State.CLOSED or state.cooling_s(now) > 0.0:
                continue
            chosen = self._admit(index, now)
            if chosen is not None:
                self.hedge_refusal = ""
                return chosen
        return None

    def _others_first(self, running: set[int]) -> list[int]:
        """The chain with other providers than those at work in front: what slows one model may slow its neighbour."""
        candidates = self._plan.candidates
        busy = {candidates[i].target.provider for i in running}
        return sorted(self._order, key=lambda i: candidates[i].target.provider in busy)

    # The end ----------------------------------------------------------------------------------------------------------

    def soonest_s(self, now: float) -> float | None:
        """Seconds until the first target of the chain may be tried again; None when one may be tried now."""
        waits = []
        for index in self._order:
            state = self._cluster.state(self._plan.candidates[index], now)
            wait = max(state.cooling_s(now), state.breaker.retry_after_s(now, self._plan.overlay))
            if self._cluster.absences and (found := self._cluster.absence(state.target, self._plan.route, now)):
                wait = max(wait, found.until - now)
            if wait <= 0.0:
                return 1.0 if self.skipped.get(self._plan.candidates[index].name) == "max_concurrency" else None
            waits.append(wait)
        return min(waits, default=None)

    def refusal(self, now: float) -> Outcome:
        """The outcome of a request that no target admitted."""
        left_out = {name: reason for name, reason in self.skipped.items() if reason != "trigger"}
        if self._barred and not self._order and "no_key" not in self._barred.values():
            listed = ", ".join(f"{name}={reason}" for name, reason in left_out.items())
            message = f"no target can take this request without changing what it means: {listed}"[:200]
            return Outcome(cls=Class.INVALID_REQUEST, code="not_portable", message=message)
        known = [_BY_NAME[reason] for reason in left_out.values() if reason in _BY_NAME]
        cls = Class.LOCAL_REJECT
        if Class.CIRCUIT_OPEN in known:
            cls = Class.CIRCUIT_OPEN
        elif known:
            cls = min(known, key=lambda c: _RANK.get(c, len(TELLING)))
        listed = ", ".join(f"{name}={reason}" for name, reason in left_out.items()) or "the chain is empty"
        return Outcome(cls=cls, code="no_target_available", message=f"no target takes the request now: {listed}"[:200])
