"""What the figures share: rows of the table, plans without a file, runs of the model that count one thing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from proxy.base.target import Target
from proxy.config.planner import Planned
from proxy.engine.plan import Candidate, Endpoint, Plan, Retry
from proxy.sim.whatif.model import EPOCH_S, Call, Flow, Model, Request, World
from proxy.sim.whatif.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    figure: str
    """``C1`` or a word; lines of one figure stand together."""
    what: str
    expected: str
    got: str
    holds: bool
    """Whether what we got is within what was expected."""


def row(figure: str, what: str, expected: str, got: str, holds: bool) -> Row:
    return Row(figure=figure, what=what, expected=expected, got=got, holds=holds)


def flow(*names: str, stream: bool = True, retries: int | None = None, shared: Any = None, **settings: Any) -> Flow:
    """A flow over targets named ``provider/model`` (a bare provider: model m), as the planner would build it.

    `shared`: settings of every candidate; `settings`: of the plan.
    """
    retry: Retry = settings.pop("retry", Retry() if retries is None else Retry(max_retries=retries))
    candidates = []
    for n, name in enumerate(names):
        provider, _, model = name.partition("/")
        target = Target(provider, model or "m")
        candidates.append(Candidate(target=target, retries=retry.max_retries if n == 0 else 0, **(shared or {})))
    plan = Plan(route="chat", endpoint=Endpoint.CHAT, candidates=tuple(candidates), retry=retry, **settings)
    planned = Planned(
        plan=plan,
        keys=("none",) * len(candidates),
        facts=(None,) * len(candidates),
        foreign=False,
        settings={},
        targets_by="figure",
    )
    return Flow(planned, stream=stream)


def poisson(of: Flow, rate: float, until: float, rng: random.Random, since: float = 0.0) -> Iterator[Call]:
    """Calls of a flow."""
    at = since + rng.expovariate(rate)
    while at < until:
        yield Call(at, of, 500, 60, rng.random(), rng.random() or 1e-9)
        at += rng.expovariate(rate)


class Counted:
    """A run that tells every request to a function; see `model.Told`."""

    def __init__(self, tell: Callable[[Request, float], None] = lambda request, at: None) -> None:
        self._tell = tell
        self.requests = 0
        self.failed = 0
        self.attempts = 0
        self.by_target: dict[str, int] = {}

    def over(self, request: Request, now: float) -> None:
        self.requests += 1
        self.failed += bool(request.failure)
        for attempt in request.attempts:
            self.attempts += 1
            name = attempt.candidate.target.name
            self.by_target[name] = self.by_target.get(name, 0) + 1
        self._tell(request, now - EPOCH_S)

    @property
    def success(self) -> float:
        return 1.0 - self.failed / self.requests

    @property
    def load(self) -> float:
        """Attempts per request."""
        return self.attempts / self.requests


def model(world: World, told: Counted | Tally, seed: int, tell: Callable[[Any], None] = lambda event: None) -> Model:
    return Model(world, random.Random(seed).random, told, tell)


def median(values: Iterable[float]) -> float:
    """Of at least one value."""
    listed = sorted(values)
    return listed[len(listed) // 2]


def quantile(values: list[float], q: float) -> float:
    """Nearest rank."""
    listed = sorted(values)
    return listed[min(len(listed) - 1, int(q * len(listed)))]
