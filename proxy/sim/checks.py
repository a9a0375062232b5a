"""What must hold in every world: one checker per invariant, each a function from a story to complaints.

A checker knows nothing of how the proxy works inside; it compares what callers saw, what providers were asked and what
was noted on the way (`resilience.md` 4; the ids of its invariants stand in the docstrings). Those about the machines,
budgets and breakers are in `laws`. For each there is a mutant of the code that it catches
(`tests/simulation/test_world_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from proxy.engine.messages import Commit
from proxy.sim import laws
from proxy.sim.answers import Reading, read
from proxy.sim.callers import HOST, Seen
from proxy.sim.laws import EPSILON_S
from proxy.sim.network import Spell
from proxy.sim.providers import Served
from proxy.sim.scenario import Ask, Slow, Stop
from proxy.sim.watch import Run
from proxy.sim.world import Story

WAY_S: Final = 0.01
"""More than any way between callers and proxy in fair weather."""
BREAKS: Final = frozenset({"cut_after_words", "error_after_words", "damage_after_words"})
"""Faults after so many words, after which an answer has no proper end."""
CUTS_CALLERS: Final = frozenset({"reset", "refuse", "blackhole"})
"""Weather in which a caller may get nothing at all."""

OF_THE_PROCESS: Final = frozenset({"Documents._work"})
"""Tasks that live as long as the process."""

Check = Callable[[Story], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Violation:
    """A checker's complaint."""

    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


def judge(story: Story) -> list[Violation]:
    """Every complaint of every checker."""
    return [Violation(check.__name__, text) for check in CHECKS for text in check(story)]


# What the story is asked ----------------------------------------------------------------------------------------------


def _asks(story: Story) -> dict[int, Ask]:
    return {ask.n: ask for ask in story.scenario.asks}


def _served(story: Story) -> dict[tuple[str, int], Served]:
    return {(served.provider, served.attempt): served for served in story.served}


def _dawdles(story: Story) -> set[int]:
    """Requests whose caller reads slowly: their ends wait for it."""
    return {fault.n for fault in story.faults if isinstance(fault, Slow)}


def _callers_weather(story: Story, *kinds: str) -> bool:
    return any(isinstance(f, Spell) and f.host == HOST and (not kinds or f.kind in kinds) for f in story.faults)


def _slack_s(story: Story, n: int) -> float:
    """How much later than the proxy's own end a caller may see it."""
    slack = EPSILON_S + WAY_S
    if n in _dawdles(story):
        slack += 1e6  # the answer is there; how fast it is read is the caller's affair
    if _callers_weather(story):
        slack += 60.0
    return slack


def _readings(story: Story) -> Iterator[tuple[Seen, Reading]]:
    """Every answer that is not an error."""
    asks = _asks(story)
    for seen in story.seen:
        if seen.answer is not None and seen.answer.status == 200:
            yield seen, read(seen.answer, asks[seen.n].stream)


# Checkers -------------------------------------------------------------------------------------------------------------


def sound(story: Story) -> Iterator[str]:
    """I7 and the ground under everything else: nothing crashed, stood still, or failed out of sight."""
    yield from story.complaints
    for seen in story.seen:
        if seen.answer is not None and b"proxy_internal_error" in seen.answer.body:
            yield f"request {seen.n}: 500 from inside the proxy"


def one_response(story: Story) -> Iterator[str]:
    """I1: one answer or one honest cut for each request, and one record of it."""
    asks = _asks(story)
    may_vanish = _callers_weather(story, *CUTS_CALLERS) or any(isinstance(fault, Stop) for fault in story.faults)
    for seen in story.seen:
        if seen.fault:
            yield f"request {seen.n}: {seen.fault}"
        if seen.has_left:
            continue
        if seen.ended_at is None:
            yield f"request {seen.n}: neither an answer nor the end of the connection"
        elif seen.answer is None and not may_vanish:
            yield f"request {seen.n}: the connection ended ({seen.closed}) without an answer"
        elif seen.answer is not None and not seen.answer.is_whole and not may_vanish:
            is_open = seen.answer.status == 200 and asks[seen.n].stream
            if not is_open or not (read(seen.answer, True).admits or seen.n in _dawdles(story)):
                yield f"request {seen.n}: status {seen.answer.status}, cut without a word"
    told = [record.request_id for _, _, record in story.notes.records]
    for run in story.notes.runs:
        if told.count(run.request_id) != 1 or run.ended is None:
            yield f"request {run.n}: {told.count(run.request_id)} records"


def one_upstream(story: Story) -> Iterator[str]:
    """I2: every word is of one attempt made for this very request, in order, each once, or beyond a declared seam."""
    served = _served(story)
    for seen, reading in _readings(story):
        if reading.unreadable or reading.rest:
            yield f"request {seen.n}: {reading.unreadable or reading.rest!r} in the answer"
        groups = [(key, [w.index for w in words]) for key, words in groupby(reading.words, _whose)]
        for key, indexes in groups:
            mine = served.get(key)
            if mine is None or mine.n != seen.n:
                yield f"request {seen.n}: words of {key}, which was asked for {mine.n if mine else 'nobody'}"
            if indexes != list(range(len(indexes))):
                yield f"request {seen.n}: words {indexes} of {key}"
        if len(groups) > 1 + reading.seams:
            yield f"request {seen.n}: words of {[key for key, _ in groups]} with {reading.seams} seams"
        assert seen.answer is not None
        by = seen.answer.headers.get("x-served-by")
        if groups and by is not None and by != groups[0][0][0]:
            yield f"request {seen.n}: said to be served by {by}, was by {groups[0][0][0]}"


def _whose(word: object) -> tuple[str, int]:
    return word.provider, word.attempt  # type: ignore[attr-defined]


def no_truncated_success(story: Story) -> Iterator[str]:
    """I2: an answer that claims to be whole is whole; one that is cut does not claim it."""
    served = _served(story)
    asks = _asks(story)
    for seen, reading in _readings(story):
        assert seen.answer is not None
        if seen.answer.is_whole and not reading.claims_whole and not reading.admits:
            yield f"request {seen.n}: a proper end without an end mark"
        if seen.answer.is_whole and reading.admits and asks[seen.n].stream and reading.claims_whole:
            yield f"request {seen.n}: an error and an end mark"
        if not reading.claims_whole or reading.admits:
            continue
        if not reading.words:
            yield f"request {seen.n}: an empty answer passed for a whole one"
            continue
        last = reading.words[-1]
        mine = served.get(_whose(last))
        if mine is None:
            continue  # `one_upstream` says so
        if last.index + 1 != len(mine.words):
            yield f"request {seen.n}: {last.index + 1} of {len(mine.words)} words passed for all"
        if any(key in BREAKS and value <= len(mine.words) for key, value in mine.keys):
            yield f"request {seen.n}: {dict(mine.keys)} passed for a whole answer"


def deadline(story: Story) -> Iterator[str]:
    """I4, R6: over by the deadline: attempts always, the request when a slow caller has read what there is."""
    for run in story.notes.runs:
        slack = _slack_s(story, run.n)
        if run.ended is not None and run.ended > run.deadline + slack:
            yield f"request {run.n}: over {run.ended - run.deadline:.3f} s after its deadline"
        if abs(run.deadline - run.accepted_at - run.plan.timeout_s) > EPSILON_S:
            yield f"request {run.n}: its deadline is not what its plan says"
        for attempt in run.attempts:
            ended = attempt.ended if attempt.ended is not None else run.ended or 0.0
            if ended > run.deadline + EPSILON_S:
                yield f"request {run.n}: an attempt at {attempt.target} ran {ended - run.deadline:.3f} s over"
    runs = {run.n: run for run in story.notes.runs}
    for seen in story.seen:
        limit = runs[seen.n].deadline + _slack_s(story, seen.n) if seen.n in runs else seen.sent_at + 120.0
        if seen.ended_at is not None and not seen.has_left and seen.ended_at > limit:
            yield f"request {seen.n}: its caller waited {seen.ended_at - limit:.3f} s too long"


def losers_cancelled(story: Story) -> Iterator[str]:
    """H5, I5: whoever lost, and whatever a caller who left had asked for, is over at the providers too."""
    asked: dict[int, list[Served]] = {}
    for served in story.served:
        asked.setdefault(served.n, []).append(served)
    runs = {run.n: run for run in story.notes.runs}
    commits = {s.machine: (c.attempt, s.at) for s in story.notes.steps for c in s.commands if isinstance(c, Commit)}
    weather = any(isinstance(fault, Spell) for fault in story.faults)
    for n, run in runs.items():
        if run.ended is None:
            continue
        keeps = _keeps(run)
        limit = (run.deadline if keeps else run.ended) + 1.0 + (60.0 if weather else 0.0)
        cut = _cut_short(run)
        for served in asked.get(n, []):
            late = not served.record.ended or (served.record.ended_at or 0.0) > limit
            if served.provider in cut and late:
                yield f"request {n}: attempt {served.attempt} at {served.provider} was never ended"
        if not keeps:
            yield from _after_commit(run, commits)
    for seen in story.seen:
        left = runs.get(seen.n)
        if seen.left_at is None or left is None or left.ended is None or _callers_weather(story):
            continue
        if seen.n in _dawdles(story):
            continue  # a half-closed connection lives until what was written is read
        if left.ended > max(seen.left_at, left.began) + EPSILON_S + WAY_S:
            yield f"request {seen.n}: ran on for {left.ended - seen.left_at:.3f} s after its caller had left"


def _keeps(run: Run) -> bool:
    """Losers may run on: for their time, or as spares."""
    return not run.plan.hedge.cancel_slower or run.plan.hedge.strategy == "first-success"


def _cut_short(run: Run) -> set[str]:
    """Providers at which an attempt of the request was ended by us. Where a whole answer came, the provider may think
    itself busy for longer, and its connection is kept."""
    names = ("cancelled", "timeout")
    return {attempt.target.partition("/")[0] for attempt in run.attempts if attempt.outcome.startswith(names)}


def _after_commit(run: Run, commits: dict[int, tuple[int, float]]) -> Iterator[str]:
    """Attempts that ran on when another one had been committed. H5 gives them 1 s; ours go in the same step."""
    for attempt in run.attempts:
        winner, at = commits.get(attempt.machine, (attempt.n, 0.0))
        if attempt.n != winner and (attempt.ended is None or attempt.ended > at + EPSILON_S):
            yield f"request {run.n}: a loser at {attempt.target} ran on"


def nothing_held(story: Story) -> Iterator[str]:
    """I3, I8: at rest there is nothing, and when the proxy has closed there is not even a timer."""
    quiet, gone = story.quiet, story.gone
    if quiet is None or gone is None or story.calm is None:
        return
    if not any(map(_keeps, story.notes.runs)) and any("Running" in timer for timer in story.calm.timers):
        yield f"timers of requests that are over: {story.calm.timers}"
    at_rest = [task for task in quiet.tasks if task not in OF_THE_PROCESS]
    if at_rest or gone.tasks:
        yield f"tasks at rest: {at_rest}, after the end: {gone.tasks}"
    if gone.timers or [timer for timer in quiet.timers if not timer.endswith("App._tick")]:
        yield f"timers at rest: {quiet.timers}, after the end: {gone.timers}"
    if quiet.held or gone.held:
        yield f"held at rest: {quiet.held}, after the end: {gone.held}"
    if gone.ends:
        yield f"connections after the end: {gone.ends}"
    for host in sorted(set(quiet.ends)):
        pooled = quiet.pooled.get(host.removesuffix(".sim"), 0)
        if quiet.ends.count(host) > 2 * pooled:
            yield f"connections at rest to {host}: {quiet.ends.count(host)} ends, {pooled} in the pool"


def unaffected(story: Story) -> Iterator[str]:
    """B9 and rule 5 of `headers.md`: who sends no headers gets the route's policy, whatever others send."""
    for run in story.notes.runs:
        key = (run.plan.endpoint.value, run.is_stream)
        if not run.has_headers and run.plan not in [plans[key] for plans in story.plans]:
            yield f"request {run.n}: planned otherwise than a request without headers is"


CHECKS: Final[tuple[Check, ...]] = (
    sound,
    one_response,
    one_upstream,
    no_truncated_success,
    deadline,
    losers_cancelled,
    nothing_held,
    unaffected,
    laws.nothing_after_commit,
    laws.causality,
    laws.budgets,
    laws.allowances,
    laws.breaker_moves,
    laws.half_open_leases,
    laws.cool_downs,
)
