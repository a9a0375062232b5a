"""C4 and C9: what retries cost a failing target. C5: the collapse that outlives its cause. C12: Retry-After."""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Iterator
from math import inf

from proxy.base.outcome import OK, Class, Outcome
from proxy.base.target import Target
from proxy.engine.plan import Retry, Timers
from proxy.policy import backoff
from proxy.policy.breaker import Forced
from proxy.policy.budget import Budget
from proxy.policy.limiter import Limiter
from proxy.sim.whatif.model import EPOCH_S, Call, Model, Play, Request
from proxy.sim.whatif.outages import Profile, Scripted, Spell
from tests.simulation.figures.stage import Counted, Row, flow, model, poisson, quantile, row

AT_ONCE = backoff.Settings(strategy="immediate", jitter="none")
FOREVER = 1e12
ERROR = Outcome(cls=Class.SERVER_ERROR, status=500)


class Coin:
    """Answers after Exp(10 ms), and fails with a fixed probability."""

    def __init__(self, share: float, rng: random.Random) -> None:
        self._share = share
        self._rng = rng

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        took = self._rng.expovariate(100.0)
        fails = self._rng.random() < self._share
        return Play(took, inf if fails else took, took, ERROR if fails else OK)


def without_breaker(made: Model, *providers: str) -> None:
    """The breaker admits everything and judges nothing, so that the budget is seen alone."""
    for name in providers:
        made.cluster.force(name, Forced.CLOSED, FOREVER, made.now)


def coin(share: float, clients: int, rate: float, seconds: float, *, breaker: bool) -> Counted:
    """Clients with a target each, so that each has a budget of its own."""
    rng = random.Random(4)
    told = Counted()
    made = model(Coin(share, rng), told, 4)
    if not breaker:
        without_breaker(made, "p")
    retry = Retry(max_retries=3, backoff=AT_ONCE)
    flows = [flow(f"p/c{n}", retry=retry) for n in range(clients)]
    made.run(heapq.merge(*(poisson(each, rate, seconds, rng) for each in flows), key=lambda call: call.at))
    return told


def load(requests: int) -> Iterator[Row]:
    """C4: 100 clients at 10 requests/s, three retries at most. Retries beyond the model's are the trickle's, which the
    model leaves out: 0.1/s per client."""
    expected = {0.01: (100.0, 1.011), 0.1: (99.17, 1.102), 0.5: (53.57, 1.069), 1.0: (0.0, 1.015)}
    seconds = requests / 1000.0
    trickle = 0.1 * seconds * 100 / requests
    for share, (success, factor) in expected.items():
        told = coin(share, 100, 10.0, seconds, breaker=False)
        # A short run spends the ten tokens that every bucket starts with over fewer requests.
        burst = 10 * 100 / requests if share >= 0.5 else 0.0
        most = factor + burst + trickle + 0.02
        got = f"{100 * told.success:.2f} % / {told.load:.3f}"
        said = f"{success:.2f} % / {factor:.3f}"
        yield row("C4", f"budget alone, {100 * share:g} % fail: success / load", said, got, told.load <= most)
    told = coin(1.0, 1, 10.0, seconds, breaker=True)
    got = f"{told.load:.3f}, {told.attempts} attempts for {told.requests} requests"
    yield row("R5", "one client, all fail, breaker on: load", "at most 1.1", got, told.load <= 1.1)


def rates(seconds: float) -> Iterator[Row]:
    """C9: one pod, ten minutes."""
    expected = {(1.0, 0.2): 1.55, (1.0, 2.0): 1.06, (1.0, 20.0): 1.01, (0.1, 0.2): 1.155, (0.1, 2.0): 1.108}
    for (share, rate), factor in expected.items():
        told = coin(share, 1, rate, seconds, breaker=False)
        # 10 tokens and 0.1/s, over so many requests; failures by chance move the rest.
        most = 1.0 + (10 + 0.1 * seconds) / told.requests if share == 1.0 else 1.25
        what = f"{100 * share:g} % fail at {rate:g} requests/s, budget alone: load"
        yield row("C9", what, f"{factor:g}", f"{told.load:.3f}", told.load <= most + 1e-9)


# C5 -------------------------------------------------------------------------------------------------------------------


class Server:
    """Answers after 1 s + 0.01 s for every request it works on, those included whose caller has given up."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ends: list[float] = []

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        there, back = self._rng.expovariate(10.0), self._rng.expovariate(10.0)
        took = 1.0 + 0.01 * self.working(now + there)
        bisect.insort(self._ends, now + there + took)
        total = there + took + back
        return Play(total, total, total, OK)

    def working(self, at: float) -> int:
        """Requests that it works on at a time; `at` may jump back by a way through the network."""
        over = bisect.bisect_right(self._ends, at)
        if over > 2000:
            del self._ends[:1000]
            over -= 1000
        return len(self._ends) - over


class Unmoved(Limiter):
    """A concurrency limit that nothing moves."""

    def on_loss(self, now: float, p50_s: float) -> None:
        """Nothing."""


def collapse_of(seed: int, policy: str) -> tuple[float, int]:
    """(answers per second over the last 20 s, requests that the server works on at the end) after a spike of 5 s.

    `policy`: ``naive``, ``budget`` (ours, the breaker and the limit set aside), or ``whole``.
    """
    rng = random.Random(seed)
    server = Server(rng)
    late = 0

    def tell(request: Request, at: float) -> None:
        nonlocal late
        late += not request.failure and 60.0 <= at < 80.0

    retry = Retry(max_retries=2, backoff=AT_ONCE, retry_on=frozenset({"timeout", "server_error"}))
    timers = Timers(first_byte_s=3.0, first_byte_stated=True)
    chain = flow("p", stream=False, retry=retry, timers=timers, shared={"max_concurrency": 100_000})
    made = model(server, Counted(tell), seed)
    state = made.cluster.state(chain.planned.plan.candidates[0], made.now)
    if policy != "whole":
        without_breaker(made, "p")
        state.limiter = Unmoved(inf)
    if policy == "naive":
        state.budget = Budget(made.now, math.inf)
    spike = poisson(chain, 40.0, 25.0, rng, since=20.0)
    made.run(heapq.merge(poisson(chain, 40.0, 80.0, random.Random(seed + 1000)), spike, key=lambda call: call.at))
    return late / 20.0, server.working(80.0)


def collapse(runs: int) -> Iterator[Row]:
    """C5."""
    for policy, said, least in (
        ("naive", "most runs collapse for good (32 of 50)", None),
        ("budget", "0 collapse, about 40/s", 0),
        ("whole", "0 collapse, about 40/s", 0),
    ):
        found = [collapse_of(seed, policy)[0] for seed in range(runs)]
        collapsed = sum(rate < 20.0 for rate in found)
        recovered = [rate for rate in found if rate >= 20.0]
        mean = sum(recovered) / len(recovered) if recovered else 0.0
        names = {"naive": "retry at once, no budget", "budget": "our budget alone", "whole": "budget, breaker, limit"}
        got = f"{collapsed} of {runs} collapse" + (f", others {mean:.1f}/s" if recovered else "")
        holds = collapsed * 3 >= runs if least is None else collapsed == least
        yield row("C5", f"collapse after a spike: {names[policy]}", said, got, holds)


# C12 ------------------------------------------------------------------------------------------------------------------


def retry_after(told_s: float) -> Iterator[Row]:
    """C12: the primary is limited for `told_s` and says so, the secondary is well; 2 requests/s."""
    hits: list[float] = []
    took: list[float] = []

    def tell(request: Request, at: float) -> None:
        hits.extend(
            a.started - EPOCH_S for a in request.attempts if a.outcome is not None and a.outcome.cls is Class.RATE_LIMIT
        )
        took.append((request.answered_at or inf) - request.machine.started)

    spell = Spell(who="a", start=60.0, end=60.0 + told_s, status=429, retry_after_s=told_s)
    profile = Profile(first_content_p50_s=0.1, first_content_p95_s=0.2)
    world = Scripted({"*": profile}, [spell], random.Random(12))
    rng = random.Random(12)
    told = Counted(tell)
    chain = flow("a", "b")
    model(world, told, 12).run(poisson(chain, 2.0, 120.0 + told_s, rng))
    most = 4 if told_s <= 300 else 8  # one hit per request in flight, and once more when the cap of 300 s has passed
    got = f"{len(hits)} hits, p99 {1000 * quantile(took, 0.99):.0f} ms, {told.failed} failed"
    said = "one hit per request in flight, then none" + (" until the cap of 300 s" if told_s > 300 else "")
    yield row("C12", f"429 with Retry-After {told_s:g} s", said, got, len(hits) <= most and not told.failed)
