"""Retry, failover and hedging as ONE machine per request.

The law (`house.md`):

1. Exactly one ending: one Commit or one GiveUp, and no Dial after it.
2. Commit point: the first content event of a stream, or the whole body of a unary answer. Before it, another target may
   answer unseen; after it, no second answer.
3. Every attempt dialled is finished, cancelled or committed; every permit taken is recorded or released.
4. Retries on the same target and hedges cost budget; failover to another target does not, it is bounded by attempts,
   deadline, breaker and the receiver's concurrency.
5. Backoff waits only before returning to the same target; moving on is immediate.
6. Every dial translates the caller's original request; translations never chain.
7. No deadline left, no dial.

The machine does no I/O, reads no clock and throws no dice: `start` and `step` take `now`, dice come in as `rng`. What
outlives the request (breaker, budget, cool-down, latency of each target) is reached through `Cluster`.

Why one machine and not an onion of three: they share deadline, budget, candidates and commit point. Nested layers leak
that context into each other, back off before failing over, and multiply attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.base.outcome import OK, Class, Group, Outcome
from proxy.engine.attempt import Attempt
from proxy.engine.choice import NOBODY_BARRED, Chooser, Chosen, best_failure
from proxy.engine.cluster import Cluster
from proxy.engine.messages import (
    Broke,
    Cancel,
    ClientGone,
    Command,
    Commit,
    Dial,
    Finished,
    Fired,
    FirstContent,
    GiveUp,
    HoldFull,
    Input,
    Kind,
    Opened,
    SetTimer,
    Timer,
)
from proxy.engine.plan import Candidate, Plan
from proxy.engine.schedule import MARGIN_S, Schedule
from proxy.policy import hedge
from proxy.policy.breaker import Mark, State
from proxy.policy.budget import HEDGE_COST, RETRY_AFTER_TIMEOUT_COST, RETRY_COST
from proxy.policy.latency import LatencyKey

SUPERSEDED: Final = Outcome(cls=Class.CANCELLED, sub="superseded")
DOWNSTREAM: Final = Outcome(cls=Class.CANCELLED, sub="downstream")
DRAIN: Final = Outcome(cls=Class.CANCELLED, sub="drain")
DEADLINE: Final = Outcome(cls=Class.CANCELLED, sub="deadline")
EXPIRED: Final = Outcome(cls=Class.TIMEOUT, sub="total", message="the request's deadline passed before an answer")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engine must know about the request beside its plan."""

    stream: bool = False
    whole: bool = False
    """The answer is handed over in one piece although it comes as a stream: it commits when it is complete."""
    key: LatencyKey = (False, 0)
    """Which latency histogram the request belongs to."""
    prompt_tokens: int = 0
    """Estimate, for the price of a hedge."""
    output_limit: int | None = None
    """The request's own output limit in tokens; None: not stated."""
    may_hedge: bool = True
    """False: a second call at the same time has effects of its own (state at the provider, server-side tools)."""
    barred: Mapping[int, str] = field(default_factory=lambda: NOBODY_BARRED)
    """Candidates that cannot take this request (index in the plan's chain -> the word told in X-Failover-Skipped)."""


class Attempts:
    """The machine of one request. Drive it with `start` once and `step` for every input; run what it returns."""

    __slots__ = (
        "_backing_off",
        "_chooser",
        "_cluster",
        "_deadline",
        "_failures",
        "_hedge_timer",
        "_paid",
        "_plan",
        "_rng",
        "_schedule",
        "_started",
        "attempts",
        "committed",
        "done",
        "facts",
        "gave_up",
        "hedge_armed",
        "hedge_note",
        "hedges",
    )

    def __init__(self, plan: Plan, cluster: Cluster, rng: Callable[[], float], facts: Facts) -> None:
        self._plan = plan
        self._cluster = cluster
        self._rng = rng
        self.facts = facts
        self._chooser = Chooser(plan, cluster, rng, facts.key, facts.barred)
        self._started = 0.0
        self._deadline = 0.0
        self._failures: list[Attempt] = []
        self._backing_off: Attempt | None = None
        self._paid = 0.0
        self._schedule: Schedule | None = None
        self._hedge_timer = False
        self.attempts: list[Attempt] = []
        self.committed: Attempt | None = None
        self.gave_up: GiveUp | None = None
        self.done = False
        self.hedges = 0
        self.hedge_armed = False
        self.hedge_note = ""
        """Why a hedge was not sent, for the trace."""

    # The two entrances ------------------------------------------------------------------------------------------------

    def start(self, now: float, accepted_at: float | None = None) -> list[Command]:
        """Begin; the deadline counts from `accepted_at`, the moment the request reached us (None: from `now`)."""
        self._started = now if accepted_at is None else accepted_at
        self._deadline = self._started + self._plan.timeout_s
        self._cluster.hedges.on_request(self._plan.hedge.budget_percent)
        out: list[Command] = [SetTimer(Timer.DEADLINE, self._deadline)]
        if now >= self._deadline:
            return self._give_up(EXPIRED, now, out)
        self._chooser.begin(now)
        self._move_on(None, now, out)
        return out

    def step(self, event: Input, now: float) -> list[Command]:
        """Take one input and return what to do. Inputs about attempts that have ended change nothing."""
        out: list[Command] = []
        kind = type(event)
        if kind is Fired:
            self._fired(event.timer, now, out)  # type: ignore[union-attr]
        elif kind is ClientGone:
            self._client_gone(event, now, out)  # type: ignore[arg-type]
        else:
            attempt = self.attempts[event.attempt]  # type: ignore[union-attr]
            if attempt.outcome is not None:
                return out
            if kind is Opened:
                attempt.state.breaker.response_byte(attempt.permit, now)
            elif kind is FirstContent:
                self._first_content(attempt, now, out)
            elif kind is HoldFull:
                self._commit(attempt, now, out)
            elif kind is Finished or kind is Broke:
                self._ended(attempt, event.outcome, now, out)  # type: ignore[union-attr]
        return out

    # What is asked of the machine afterwards --------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def started(self) -> float:
        """Monotonic time from which the request counts."""
        return self._started

    @property
    def circuit_status(self) -> State:
        """State of the primary's circuit as it was decided on for this request."""
        return self._chooser.primary_state

    def primary_wait_s(self, now: float) -> float:
        """Seconds until the primary may be tried again by breaker and cool-down; 0 when it may be now."""
        state = self._cluster.state(self.meant_for, now)
        return max(state.cooling_s(now), state.breaker.retry_after_s(now, self._plan.overlay))

    def is_forced(self, name: str, now: float) -> bool:
        """Whether an operator has decided about the circuit of this candidate of the chain."""
        found = (c for c in self._plan.candidates if c.name == name)
        return any(self._cluster.state(c, now).breaker.view(now)["forced"] != "none" for c in found)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(target, reason) of every candidate that was left out, in the order of the decisions."""
        return [*self._plan.skipped, *self._chooser.skipped.items()]

    @property
    def warning(self) -> str:
        """What could not be obeyed (the store of breaker overlays was full); empty: nothing."""
        return self._chooser.warning

    @property
    def primary(self) -> int:
        """Index of the candidate that this request is meant for; another one that answers is a failover."""
        return self._chooser.primary

    @property
    def meant_for(self) -> Candidate:
        """The candidate of `primary`."""
        return self._plan.candidates[self.primary]

    def failover_reason(self) -> str:
        """Why another target than the primary answered."""
        primary = self.primary
        last = next((a for a in reversed(self._failures) if a.index == primary and a.outcome), None)
        if last is not None and last.outcome is not None:
            return str(last.outcome.cls)
        if any(a.index == primary for a in self.attempts):
            return "hedge"
        return self._chooser.primary_refusal or "circuit_open"

    def running(self) -> list[Attempt]:
        """The attempts that have not ended."""
        return [a for a in self.attempts if a.outcome is None]

    # Content, commit, ends --------------------------------------------------------------------------------------------

    def _first_content(self, attempt: Attempt, now: float, out: list[Command]) -> None:
        if attempt.content_at is not None:
            return
        attempt.content_at = now
        self._cluster.content(attempt.state, attempt.permit, self.facts.key, now - attempt.started, now)
        if self.committed is not None or self.done:
            return
        if self.facts.whole or (self.facts.stream and self._plan.stream.recovery == "buffer"):
            self._lead(attempt, now, out)  # held until it is complete: failover stays invisible
        else:
            self._commit(attempt, now, out)

    def _commit(self, attempt: Attempt, now: float, out: list[Command]) -> None:
        if self.committed is not None or self.done:
            return
        self.committed = attempt
        self.done = True
        out.append(Commit(attempt.n))
        self._lead(attempt, now, out)

    def _lead(self, attempt: Attempt, now: float, out: list[Command]) -> None:
        """`attempt` has shown content: nothing more is launched beside it, and losers are sent home."""
        if self._hedge_timer:
            self._hedge_timer = False
            out.append(SetTimer(Timer.HEDGE, None))
        if self._backing_off is not None:
            self._stop_waiting(now, out)
        keep = not self._plan.hedge.cancel_slower or self._keeps_spares()
        if len(self.attempts) > 1 and not keep:
            self._cancel_others(attempt, now, out)

    def _keeps_spares(self) -> bool:
        """Losers of `first-success` are kept until the winner has ended, and take over when it breaks."""
        return self._plan.hedge.strategy == "first-success" and self.facts.stream

    def take_over(self, is_whole: Callable[[int], bool] = lambda n: True) -> int | None:
        """The committed attempt broke: the attempt that goes on in its place, if a spare has shown content.

        `is_whole`: whether an attempt's answer is still there from its beginning.
        """
        for attempt in self.attempts:
            fine = attempt.outcome is None or attempt.outcome.group is Group.GOOD
            if attempt is not self.committed and attempt.content_at is not None and fine and is_whole(attempt.n):
                self.committed = attempt
                return attempt.n
        return None

    def dismiss(self, now: float) -> list[Command]:
        """The committed attempt broke and another plan goes on in its place: spares that have not spoken go home."""
        out: list[Command] = []
        self._cancel_others(self.committed, now, out)
        return out

    def _cancel_others(self, winner: Attempt | None, now: float, out: list[Command]) -> None:
        for other in self.attempts:
            if other is not winner and other.outcome is None:
                self._record(other, SUPERSEDED, now)
                out.append(Cancel(other.n, "superseded"))

    def _ended(self, attempt: Attempt, outcome: Outcome, now: float, out: list[Command]) -> None:
        self._record(attempt, outcome, now)
        if outcome.group is Group.GOOD and not self.done:
            self._commit(attempt, now, out)
        if self.done:
            spared = self._keeps_spares() and outcome.group is not Group.GOOD
            if attempt is self.committed and self._plan.hedge.cancel_slower and len(self.attempts) > 1 and not spared:
                self._cancel_others(attempt, now, out)
            return
        self._failures.append(attempt)
        if self.running():
            return  # a sibling may still answer; a failure is not a second reason to start one
        self._after_failure(attempt, outcome, now, out)

    def _record(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        attempt.outcome = outcome
        attempt.ended_at = now
        if attempt.kind == "hedge" and (outcome.group is Group.GOOD or outcome is SUPERSEDED):
            attempt.state.budget.refund(HEDGE_COST, now)  # its target is well; see docs/decisions/0011
        self._cluster.ended(
            attempt.state,
            attempt.permit,
            self.facts.key,
            outcome,
            now - attempt.started,
            attempt.content_at is not None,
            self._plan.timeout_s,
            now,
        )

    # After a failure --------------------------------------------------------------------------------------------------

    def _after_failure(self, attempt: Attempt, outcome: Outcome, now: float, out: list[Command]) -> None:
        if self._hedge_timer:
            self._hedge_timer = False
            out.append(SetTimer(Timer.HEDGE, None))
        wait = self._retry_wait(attempt, outcome, now)
        if wait is None:
            self._move_on(self._cause(attempt), now, out)
        elif wait <= 0.0:
            self._backing_off = attempt
            self._retry(now, out)
        else:
            self._backing_off = attempt
            out.append(SetTimer(Timer.BACKOFF, now + wait))

    def _retry_wait(self, attempt: Attempt, outcome: Outcome, now: float) -> float | None:
        """Seconds to wait before the same target is tried again; None: not again."""
        if len(self.attempts) >= self._plan.max_attempts or outcome.no_wait_helps:
            return None
        if self._schedule is None:  # most requests never need one
            self._schedule = Schedule(self._plan.retry, self._rng, self._chooser.has_next)
        wait = self._schedule.wait_s(attempt, self.attempts, self._failures, now)
        if wait is None:
            return None
        state = attempt.state
        if now + wait + (state.latency.p(0.5, self.facts.key, now) or 0.0) >= self._deadline:
            return None
        if max(state.cooling_s(now), state.breaker.retry_after_s(now, self._plan.overlay)) > wait + MARGIN_S:
            return None  # it would be refused after the wait: no reason to begin it
        cost = RETRY_AFTER_TIMEOUT_COST if outcome.cls is Class.TIMEOUT else RETRY_COST
        if not state.budget.withdraw(cost, now):
            return None
        self._paid = cost
        return wait

    def _retry(self, now: float, out: list[Command]) -> None:
        """The wait is over: the same target again, if it still takes us."""
        attempt = self._backing_off
        if attempt is None:
            return
        self._backing_off = None
        paid, self._paid = self._paid, 0.0
        chosen = self._chooser.again(attempt.index, now)
        if chosen is None or now >= self._deadline:
            attempt.state.budget.refund(paid, now)
            if chosen is not None:
                self._chooser.give_back(chosen, now)
            self._move_on(self._cause(attempt), now, out)
            return
        self._dial(chosen, "retry", now, out)

    def _cause(self, attempt: Attempt) -> Outcome | None:
        """What the next target's trigger is asked about. A canary's failure opens the way to all that the request would
        have had without it: the first of them takes it as if nothing had been tried."""
        return None if attempt.index < self._plan.lead else attempt.outcome

    def _stop_waiting(self, now: float, out: list[Command]) -> None:
        attempt = self._backing_off
        if attempt is not None:
            attempt.state.budget.refund(self._paid, now)
            self._backing_off, self._paid = None, 0.0
            out.append(SetTimer(Timer.BACKOFF, None))

    def _move_on(self, failure: Outcome | None, now: float, out: list[Command]) -> None:
        """To the next admissible target at once, or the end."""
        chosen = None
        if now < self._deadline and len(self.attempts) < self._plan.max_attempts:
            chosen = self._chooser.next(failure, self._deadline, now)
        if chosen is None:
            self._give_up(None, now, out)
        else:
            self._dial(chosen, "failover" if self.attempts else "first", now, out)

    # Dialling ---------------------------------------------------------------------------------------------------------

    def _dial(self, chosen: Chosen, kind: Kind, now: float, out: list[Command]) -> None:
        candidate = self._plan.candidates[chosen.index]
        attempt = Attempt(len(self.attempts), chosen.index, candidate, kind, chosen.state, chosen.permit, now)
        self.attempts.append(attempt)
        self._cluster.dialled(chosen.state, chosen.permit, self.facts.key, now)
        timers = self._plan.timers
        first_byte: float | None = timers.first_byte_s
        if not timers.first_byte_stated and self._is_last(attempt):
            first_byte = None  # nothing better is left to do with the time
        out.append(Dial(attempt.n, chosen.index, kind, first_byte))
        if kind != "hedge":
            self._arm_hedge(attempt, now, out)

    def _is_last(self, attempt: Attempt) -> bool:
        """No attempt could follow if this one stayed silent."""
        if len(self.attempts) >= self._plan.max_attempts:
            return True
        if self._chooser.has_next(attempt.index):
            return False
        retry = self._plan.retry
        names = ("timeout", "timeout.first_byte")
        again = any(r.covers(Class.TIMEOUT, names[1]) and not r.immediate_failover for r in retry.rules)
        used = sum(1 for a in self.attempts if a.index == attempt.index and a.kind == "retry")
        covered = again or retry.covers(Class.TIMEOUT, names[1])
        return not (covered and (used < attempt.candidate.retries or again))

    # Hedge and rescue -------------------------------------------------------------------------------------------------

    def _arm_hedge(self, attempt: Attempt, now: float, out: list[Command]) -> None:
        settings = self._plan.hedge
        if self._chooser.alone or not self.facts.may_hedge or self.hedges >= self._most_hedges():
            return
        latency, key = attempt.state.latency, self.facts.key
        if settings.enabled:
            watched = attempt.state.breaker.mark(now) is not Mark.NORMAL
            delay: float | None = hedge.delay_s(settings, latency.p(0.5, key, now), latency.p(0.95, key, now), watched)
        else:
            delay = hedge.rescue_s(settings, latency.p(0.99, key, now))
        if delay is not None:
            self._hedge_timer = True
            self.hedge_armed = self.hedge_armed or settings.enabled
            out.append(SetTimer(Timer.HEDGE, now + delay))

    def _most_hedges(self) -> int:
        settings = self._plan.hedge
        if settings.enabled:
            return settings.max_hedges
        return 1 if settings.rescue and settings.rescue_after_s > 0.0 else 0

    def _hedge(self, now: float, out: list[Command]) -> None:
        if not self._hedge_timer or now >= self._deadline:
            return
        self._hedge_timer = False
        running = self.running()
        if not running or any(a.content_at is not None for a in running):
            return
        if self.hedges >= self._most_hedges() or len(self.attempts) >= self._plan.max_attempts:
            return
        chosen = self._chooser.for_hedge({a.index for a in running}, self._deadline, now)
        self.hedge_note = self._chooser.hedge_refusal
        if chosen is None:
            return
        refused = self._unaffordable(chosen, now)
        if refused:
            self.hedge_note = refused
            self._chooser.give_back(chosen, now)
            if refused.endswith("budget"):
                self._ask_again(running[0], now, out)
            return
        self.hedges += 1
        self._dial(chosen, "hedge", now, out)
        if self._plan.hedge.enabled and self.hedges < self._most_hedges():
            self._arm_hedge(running[0], now, out)

    def _ask_again(self, attempt: Attempt, now: float, out: list[Command]) -> None:
        """No token just now: look again when the attempt has waited half as long again.

        What is merely slow answers meanwhile, so the tokens that come back go to the attempts that really hang.
        """
        self._hedge_timer = True
        out.append(SetTimer(Timer.HEDGE, now + max(hedge.FLOOR_S, 0.5 * (now - attempt.started))))

    def _unaffordable(self, chosen: Chosen, now: float) -> str:
        """Why the hedge may not be paid for; empty when it may, and then it is paid."""
        most = self._plan.hedge.max_additional_cost
        if self._plan.hedge.enabled and most is not None:
            cost = self._price(self._plan.candidates[chosen.index])
            if cost is None:
                return "price_unknown"
            spent = [self._price(a.candidate) or 0.0 for a in self.attempts if a.kind == "hedge"]
            if sum(spent) + cost > most:
                return "max_additional_cost"
        if not self._cluster.hedges.try_spend():
            return "hedge_budget"
        if not chosen.state.budget.withdraw(HEDGE_COST, now):
            self._cluster.hedges.refund()
            return "target_budget"
        return ""

    def _price(self, candidate: Candidate) -> float | None:
        """Estimated USD of one attempt: prompt at the input rate, the whole output limit at the output rate."""
        limit = self.facts.output_limit or candidate.max_output_tokens
        if candidate.price is None or limit is None:
            return None
        return (self.facts.prompt_tokens * candidate.price.input + limit * candidate.price.output) / 1e6

    def hedge_saved_s(self, now: float) -> float:
        """Latency a winning hedge saved: measured when the loser was let run, else the loser's expected remainder."""
        winner = self.committed
        if winner is None or winner.kind != "hedge" or winner.content_at is None:
            return 0.0
        loser = next((a for a in self.attempts if a.n < winner.n and a.kind != "hedge"), None)
        if loser is None:
            return 0.0
        if loser.content_at is not None:
            return max(0.0, loser.content_at - winner.content_at)
        waited = winner.content_at - loser.started
        return loser.state.latency.expected_remaining_s(self.facts.key, waited, now) or 0.0

    # Timers, the caller, the end --------------------------------------------------------------------------------------

    def _fired(self, timer: Timer, now: float, out: list[Command]) -> None:
        if timer is Timer.DEADLINE:
            self._expire(now, out)
        elif self.done:
            return
        elif timer is Timer.BACKOFF:
            self._retry(now, out)
        else:
            self._hedge(now, out)

    def _expire(self, now: float, out: list[Command]) -> None:
        for attempt in self.running():
            self._record(attempt, DEADLINE, now)
            out.append(Cancel(attempt.n, "deadline"))
        if not self.done:
            self._give_up(EXPIRED, now, out)

    def _client_gone(self, event: ClientGone, now: float, out: list[Command]) -> None:
        outcome = DRAIN if event.reason == "drain" else DOWNSTREAM
        for attempt in self.running():
            self._record(attempt, outcome, now)
            out.append(Cancel(attempt.n, event.reason))
        if not self.done:
            self._give_up(outcome, now, out)

    def _give_up(self, outcome: Outcome | None, now: float, out: list[Command]) -> list[Command]:
        self._stop_waiting(now, out)
        told: float | None = None
        if outcome is None:
            # By place in the chain, not by time: which of two hedged attempts failed first is chance.
            # A canary's failure is told only where there is no other.
            own = [a for a in self._failures if a.index >= self._plan.lead]
            failed = sorted(own or self._failures, key=lambda a: (a.index, a.n))
            outcome = best_failure([a.outcome for a in failed if a.outcome is not None])
            told = self._chooser.soonest_s(now)
            if outcome is None:
                outcome = self._chooser.refusal(now)
        self.done = True
        self.gave_up = GiveUp(outcome, told, final=bool(self.attempts))
        out.append(self.gave_up)
        return out


__all__ = ["OK", "Attempt", "Attempts", "Facts"]
