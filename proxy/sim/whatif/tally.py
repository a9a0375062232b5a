"""What a run amounts to: availability, latency, attempts, cost, load per target, and the same without the policy.

Memory does not grow with the requests: latencies are counted in buckets one per cent wide, everything else per target
and per slice of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import floor, inf, log
from typing import Final

from proxy.base.outcome import Group
from proxy.engine.attempt import Attempt
from proxy.engine.plan import Candidate
from proxy.sim.whatif.episodes import Episodes
from proxy.sim.whatif.model import EPOCH_S, Call, Flow, Play, Request, World

GROWTH: Final = 1.01
"""Ratio of a latency bucket's edges, hence the relative error of a percentile."""
SLICES: Final = 240
"""Slices of time of the picture: about what fits a page."""
MINUTE_S: Final = 60.0
_PER_LN: Final = 1.0 / log(GROWTH)


class Latencies:
    """Durations in seconds."""

    __slots__ = ("_counts", "count", "total_s")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[floor(log(seconds) * _PER_LN) if seconds > 1e-6 else -1400] += 1
        self.count += 1
        self.total_s += seconds

    def quantile(self, q: float) -> float | None:
        """Upper edge of the bucket that holds it; None: nothing counted."""
        rank, seen = q * self.count, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return float(GROWTH ** (bucket + 1))
        return None

    def told(self) -> dict[str, float | None]:
        """The usual percentiles, in milliseconds."""
        names = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
        return {name: _ms(self.quantile(q)) for name, q in names.items()}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


class Load:
    """What one target had to do."""

    __slots__ = ("attempts", "first_content", "kinds", "outcomes", "served")

    def __init__(self) -> None:
        self.attempts = 0
        self.served = 0
        self.kinds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.first_content = Latencies()


class Slice:
    """A stretch of time."""

    __slots__ = ("alone_failed", "failed", "requests", "served_by")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.alone_failed = 0
        self.served_by: Counter[str] = Counter()


class Side:
    """Callers' view of all requests, on one of the two sides of the comparison."""

    __slots__ = ("cost", "errors", "failed", "first_content", "requests", "total")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()
        self.first_content = Latencies()
        """Of answered requests, as their callers saw it."""
        self.total = Latencies()
        """Until the end of the answer, of answered requests."""
        self.cost = 0.0

    def answered(self, first_s: float, total_s: float) -> None:
        self.requests += 1
        self.first_content.add(first_s)
        self.total.add(total_s)

    def failure(self, name: str) -> None:
        self.requests += 1
        self.failed += 1
        self.errors[name] += 1

    @property
    def availability(self) -> float:
        """Share of the requests that were answered whole; 1 when there were none."""
        return 1.0 if not self.requests else 1.0 - self.failed / self.requests


class Tally:
    """Counts a run (`model.Told`), and what each request would have met on its primary alone.

    *Without the policy* is the app as it was before: one call to the primary, no retry, no second target, and the same
    deadline.
    """

    def __init__(
        self,
        duration_s: float,
        world: World,
        episodes: Episodes | None = None,
        is_down: Callable[[float], bool] = lambda at: False,
    ) -> None:
        """`is_down(at)`: whether an outage of the primary covers this moment, for the share of bridged minutes."""
        self.duration_s = max(duration_s, 1e-9)
        self.episodes = episodes or Episodes(())
        self.sidecar = Side()
        self.alone = Side()
        self.loads: dict[str, Load] = {}
        self.attempts = 0
        self.kinds: Counter[str] = Counter()
        self.hedges_won = 0
        self.failed_over = 0
        """Requests answered by another target than the primary."""
        self.continued = 0
        self.slices = [Slice() for _ in range(SLICES)]
        self.down_minutes: dict[int, list[int]] = {}
        """Minute -> [requests, failed, failed alone], of minutes within an outage of the primary."""
        self.priced = True
        """Whether the price of every attempt was known."""
        self._world = world
        self._is_down = is_down
        self._per_slice = SLICES / self.duration_s

    # A call begins ----------------------------------------------------------------------------------------------------

    def begins(self, call: Call) -> Call:
        """`call`, once its fate without a policy is counted."""
        flow = call.flow
        primary = flow.planned.plan.candidates[0]
        play = self._world.play(primary.target, call, flow.stream, call.at, True)
        ending = _alone(play, flow)
        part = self.slices[min(SLICES - 1, int(call.at * self._per_slice))]
        if ending:
            self.alone.failure(ending)
            part.alone_failed += 1
        else:
            self.alone.answered(play.content_s, play.end_s)
            self._charge(self.alone, primary, call, 1.0)
        if self._is_down(call.at):
            self.down_minutes.setdefault(int(call.at / MINUTE_S), [0, 0, 0])[2] += bool(ending)
        return call

    # A request is over ------------------------------------------------------------------------------------------------

    def over(self, request: Request, now: float) -> None:
        """See `model.Told`."""
        call, failure = request.call, request.failure
        began = EPOCH_S + call.at
        part = self.slices[min(SLICES - 1, int(call.at * self._per_slice))]
        part.requests += 1
        winner = request.machine.committed
        if failure or winner is None or request.answered_at is None:
            self.sidecar.failure(failure or "unfinished")
            part.failed += 1
        else:
            ended = winner.ended_at or now
            self.sidecar.answered(request.answered_at - began, ended - began)
            target = winner.candidate.target.name
            part.served_by[target] += 1
            self._load(target).served += 1
            if winner.index or request.past:
                self.failed_over += 1
            self.hedges_won += winner.kind == "hedge"
        self.continued += bool(request.past)
        for attempt in request.attempts:
            load = self._load(attempt.candidate.target.name)
            load.attempts += 1
            load.kinds[attempt.kind] += 1
            self.kinds[attempt.kind] += 1
            outcome = attempt.outcome
            load.outcomes["ok" if outcome is None else outcome.name] += 1
            if attempt.content_at is not None:
                load.first_content.add(attempt.content_at - attempt.started)
            self._charge(self.sidecar, attempt.candidate, call, _output_share(attempt))
            self.attempts += 1
        self.episodes.over(call.flow.planned.plan.candidates[0].target, request.attempts)
        if self._is_down(call.at):
            counted = self.down_minutes.setdefault(int(call.at / MINUTE_S), [0, 0, 0])
            counted[0] += 1
            counted[1] += bool(failure)

    def _load(self, name: str) -> Load:
        found = self.loads.get(name)
        if found is None:
            found = self.loads[name] = Load()
        return found

    def _charge(self, side: Side, candidate: Candidate, call: Call, output_share: float) -> None:
        """Add the price of a call of which a share of the output was made; below 0: it failed and costs nothing."""
        if output_share < 0.0:
            return
        price = candidate.price
        if price is None:
            self.priced = False
            return
        side.cost += (call.prompt_tokens * price.input + output_share * call.output_tokens * price.output) / 1e6

    # What is asked afterwards -----------------------------------------------------------------------------------------

    @property
    def extra_calls(self) -> float:
        """Calls beyond one per request, as a share of the requests."""
        requests = self.sidecar.requests
        return 0.0 if not requests else (self.attempts - requests) / requests

    def bridged(self) -> tuple[int, int]:
        """(minutes of the primary's outages in which callers would have met an error and met none, such minutes)."""
        felt = [minute for minute in self.down_minutes.values() if minute[2]]
        return sum(1 for minute in felt if not minute[1]), len(felt)


def _alone(play: Play, flow: Flow) -> str:
    """How a call without a policy ends: an outcome's name, empty for a whole answer."""
    if play.end_s == inf or play.end_s > flow.planned.plan.timeout_s:
        return "timeout.total"
    return "" if play.outcome.group is Group.GOOD else play.outcome.name


def _output_share(attempt: Attempt) -> float:
    """Share of the output that an attempt has made and that is paid for; -1: it failed and costs nothing.

    Vendors bill what a cancelled call has produced until then. Before first content that is the prompt alone.
    """
    outcome = attempt.outcome
    if outcome is None or outcome.group is Group.GOOD:
        return 1.0
    if outcome.group is Group.CANCELLED:
        return 0.0
    return 0.0 if attempt.content_at is not None else -1.0
