"""The laws of the machines, budgets, breakers and leases, read off the notes of a run (see `checks`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from proxy.engine.messages import (
    Cancel,
    Commit,
    Dial,
    Finished,
    Fired,
    FirstContent,
    GiveUp,
    Opened,
)
from proxy.policy.breaker import State
from proxy.policy.budget import CAP
from proxy.sim.watch import Deed, Step

if TYPE_CHECKING:
    from proxy.sim.world import Story

EPSILON_S: Final = 0.05
"""`resilience.md` 4."""
ROUNDING: Final = 1e-6
EDGES: Final = {
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.CLOSED),
    (State.HALF_OPEN, State.OPEN),
}


def _by_machine(story: Story) -> dict[int, list[Step]]:
    found: dict[int, list[Step]] = {}
    for step in sorted(story.notes.steps, key=lambda step: step.seq):
        found.setdefault(step.machine, []).append(step)
    return found


def _by_target(story: Story) -> dict[str, list[Deed]]:
    found: dict[str, list[Deed]] = {}
    for deed in story.notes.deeds:
        found.setdefault(deed.target, []).append(deed)
    return found


def nothing_after_commit(story: Story) -> Iterator[str]:
    """R2, H3 and the engine's first law: one ending per machine, and no dial after it."""
    for machine, steps in _by_machine(story).items():
        endings = 0
        for command in (command for step in steps for command in step.commands):
            if isinstance(command, Commit | GiveUp):
                endings += 1
                if endings > 1:
                    yield f"machine {machine}: a second ending, {command}"
            elif isinstance(command, Dial) and endings:
                yield f"machine {machine}: {command.kind} dialled after the ending"


def causality(story: Story) -> Iterator[str]:
    """I9: nothing is told of an attempt that was not dialled or is over; what follows a failure follows it."""
    for machine, steps in _by_machine(story).items():
        dialled: set[int] = set()
        over: set[int] = set()
        failures = 0
        latest = 0.0
        for step in steps:
            if step.at < latest:
                yield f"machine {machine}: time went back to {step.at:.6f}"
            latest = step.at
            event = step.event
            n = getattr(event, "attempt", None)
            if n is not None and n not in dialled:
                yield f"machine {machine}: {event} before its dial"
            if isinstance(event, Opened | FirstContent) and n in over:
                yield f"machine {machine}: {event} after its end"
            if isinstance(event, Finished):
                over.add(event.attempt)
                failures += 1
            for command in step.commands:
                if isinstance(command, Cancel):
                    over.add(command.attempt)
                elif isinstance(command, Dial):
                    yield from _dial(machine, step, command, dialled, over, failures)
                    dialled.add(command.attempt)
    for run in story.notes.runs:
        for a in run.attempts:
            times = [a.started, *([a.content_at] if a.content_at is not None else []), a.ended or a.started]
            if times != sorted(times) and a.ended is not None:
                yield f"request {run.n}: an attempt at {a.target} with times {times}"


def _dial(machine: int, step: Step, dial: Dial, dialled: set[int], over: set[int], failures: int) -> Iterator[str]:
    running = dialled - over
    if dial.kind == "first" and dialled:
        yield f"machine {machine}: a second first attempt"
    if dial.kind in ("retry", "failover") and (running or not failures):
        yield f"machine {machine}: {dial.kind} before any failure, or beside {sorted(running)}"
    if dial.kind == "hedge" and not (running and isinstance(step.event, Fired)):
        yield f"machine {machine}: a hedge beside nobody"


def budgets(story: Story) -> Iterator[str]:
    """U1-U3, U5, R8: tokens stay in their bounds, every launch is paid, failover is free."""
    for target, deeds in _by_target(story).items():
        paid = earned = 0.0
        for deed in deeds:
            if not -ROUNDING <= deed.tokens <= CAP + ROUNDING:
                yield f"{target}: {deed.tokens} tokens"
            if deed.what == "withdraw":
                paid += deed.amount
            elif deed.what == "refund":
                paid -= deed.amount
            elif deed.what == "earn":
                earned += deed.amount
            trickle = (deed.at - story.began) / 10.0
            if paid > CAP + earned + trickle + ROUNDING:
                yield f"{target}: {paid:.1f} tokens spent, {CAP + earned + trickle:.1f} were there"
            if paid < -ROUNDING:
                yield f"{target}: more given back than was taken"
    yield from _launches(story)


def _launches(story: Story) -> Iterator[str]:
    """Retries and hedges against what was paid for them, by target and over any prefix."""
    kinds = {(a.target, round(a.started, 6)): 0 for run in story.notes.runs for a in run.attempts}
    for run in story.notes.runs:
        for a in run.attempts:
            if a.kind in ("retry", "hedge"):
                kinds[a.target, round(a.started, 6)] += 1
    launches: dict[str, list[float]] = {}
    for (target, at), count in sorted(kinds.items(), key=lambda item: item[0][1]):
        launches.setdefault(target, []).extend([at] * count)
    for target, deeds in _by_target(story).items():
        bought = [deed.at for deed in deeds if deed.what == "withdraw"]
        for count, at in enumerate(launches.get(target, []), 1):
            if sum(time <= at + ROUNDING for time in bought) < count:
                yield f"{target}: {count} retries and hedges by {at:.3f}, and fewer were paid"
                break


def allowances(story: Story) -> Iterator[str]:
    """R1, R7, R9, H3: attempts, retries and hedges as the plan allows, running ones as the target does."""
    for run in story.notes.runs:
        plan = run.plan
        if len(run.attempts) > plan.max_attempts:
            yield f"request {run.n}: {len(run.attempts)} attempts, {plan.max_attempts} are allowed"
        hedges = sum(a.kind == "hedge" for a in run.attempts)
        if hedges > max(plan.hedge.max_hedges, 1):
            yield f"request {run.n}: {hedges} hedges"
        for index, candidate in enumerate(plan.candidates):
            mine = [a for a in run.attempts if a.machine == run.machines[0] and a.index == index]
            retries = sum(a.kind == "retry" for a in mine)
            if retries > candidate.retries:
                yield f"request {run.n}: {retries} retries on {candidate.name}, {candidate.retries} are allowed"
            if len(mine) - retries > 1:
                yield f"request {run.n}: {candidate.name} was dialled anew after it had been left"
        if not plan.failover and any(a.kind == "failover" for a in run.attempts):
            yield f"request {run.n}: failed over although it may not"
    for deed in story.notes.deeds:
        if deed.what == "dialled" and deed.permits_out > deed.limit + ROUNDING:
            yield f"{deed.target}: {deed.permits_out} attempts at once, {deed.limit:.2f} are allowed"


def breaker_moves(story: Story) -> Iterator[str]:
    """B1, B2: legal moves only, each from where the last one led; an open circuit admits nobody."""
    states: dict[str, State] = {}
    times: dict[str, float] = {}
    for _, moved in story.notes.moves:
        name, change = moved.target.name, moved.change
        if (change.from_, change.to) not in EDGES:
            yield f"{name}: {change.from_} -> {change.to} ({change.reason})"
        if states.get(name, State.CLOSED) is not change.from_:
            yield f"{name}: moved from {change.from_}, was {states.get(name, State.CLOSED)}"
        if change.at < times.get(name, change.at) - ROUNDING:
            yield f"{name}: moved at {change.at:.3f}, before its last move"
        states[name], times[name] = change.to, change.at
    for deed in story.notes.deeds:
        if deed.what == "dialled" and deed.circuit == "open" and not deed.probes:
            yield f"{deed.target}: dialled at {deed.at:.3f} although it is open"


def half_open_leases(story: Story) -> Iterator[str]:
    """B3: never more live leases than probes are permitted; who probes a half-open circuit holds one."""
    for deed in story.notes.deeds:
        if deed.leases > deed.permits:
            yield f"{deed.target}: {deed.leases} leases at {deed.at:.3f}, {deed.permits} are permitted"
        if deed.what == "dialled" and deed.circuit == "half_open" and not deed.probes:
            yield f"{deed.target}: dialled at {deed.at:.3f} without a lease although it is half open"


def cool_downs(story: Story) -> Iterator[str]:
    """R5: nobody is sent to a target before the time it asked for, and that time is never moved to an earlier one."""
    until: dict[tuple[str, bool], float] = {}
    told = {seq: (at, cooled) for seq, at, cooled in story.notes.cooled}
    deeds = {deed.seq: deed for deed in story.notes.deeds if deed.what == "dialled"}
    for seq in sorted((*told, *deeds)):
        if seq in told:
            at, cooled = told[seq]
            # A refused credential takes out everything that is called with it; here that is the provider.
            key = cooled.target.provider if cooled.credential else cooled.target.name, cooled.credential
            before = until.get(key, 0.0)
            if at < before and cooled.until < before - ROUNDING:
                yield f"{key[0]}: its cool-down was shortened by {before - cooled.until:.3f} s"
            until[key] = cooled.until
            continue
        deed = deeds[seq]
        provider = deed.target.partition("/")[0]
        if deed.at < max(until.get((deed.target, False), 0.0), until.get((provider, True), 0.0)) - ROUNDING:
            yield f"{deed.target}: dialled at {deed.at:.3f} while it cools down"
