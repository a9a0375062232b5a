"""The providers of a world: the fakes of `outrider demo`, told what to do by a scenario.

Every answer says words that nobody else says (``alpha12w0 alpha12w1 …``: provider, number of the attempt, number of the
word), so that whoever reads an answer knows whose bytes it is made of, and whether one is missing, doubled or out of
place. Which request an attempt belongs to is read from its body, where the caller has put a mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from proxy.demo.connection import Connection
from proxy.demo.provider import FakeProvider
from proxy.demo.script import Attempt, Fault
from proxy.sim.network import Network
from proxy.sim.scenario import PROVIDERS, Act, Keys, Outage, Scenario, Trouble, dice

PAUSE_S: Final = 0.02
MARK: Final = re.compile(rb"ask-(\d+)-")
WORDS: Final = (4, 12)
BIG_WORDS: Final = 12
"""The fault `big_event_bytes` acts on the tenth word."""


@dataclass(slots=True)
class Served:
    """One request as a provider saw it, whole or in part."""

    n: int
    """The caller's request; -1: the body never came."""
    k: int
    """How many attempts for the same request came before it."""
    provider: str
    attempt: int
    """Its number at the provider."""
    at: float
    words: tuple[str, ...]
    keys: Keys
    record: Attempt
    """The provider's own record; the newest one once the world is over."""


class Providers:
    """All providers, and what they were asked."""

    def __init__(self, scenario: Scenario, faults: Iterable[Trouble], network: Network) -> None:
        self._dice = dice(scenario.seed, "providers")
        self._speed = scenario.speed
        self._network = network
        self._began = network.loop.time()
        self._acts: dict[tuple[int, int], Keys] = {}
        self._outages: list[Outage] = []
        for fault in faults:
            if isinstance(fault, Act):
                self._acts[fault.n, fault.k] = fault.keys
            elif isinstance(fault, Outage):
                self._outages.append(fault)
        self._counts: dict[int, int] = {}
        self.served: list[Served] = []
        self.fakes = {name: self._made(name) for name in PROVIDERS}

    def _made(self, name: str) -> FakeProvider:
        fake = FakeProvider(
            name=name,
            dialect="anthropic" if name == "gamma" else "openai",
            pause_s=PAUSE_S,
            hook=partial(self._decide, name),
        )
        make: Callable[[], Connection] = partial(Connection, fake)
        self._network.serve(f"{name}.sim", 80, make)
        return fake

    def _decide(self, name: str, attempt: Attempt) -> Fault:
        """The hook of every provider: what happens to this attempt."""
        mark = MARK.search(attempt.body)
        n = int(mark[1]) if mark is not None else -1
        k = self._counts.get(n, 0)
        self._counts[n] = k + 1
        keys = self._keys(name, n, k)
        # One die per attempt that depends on nothing but the attempt: a fault that is left out moves no other.
        rng = Random(f"{name}/{n}/{k}/{self._speed[name]}")
        count = BIG_WORDS if any(key == "big_event_bytes" for key, _ in keys) else rng.randint(*WORDS)
        words = tuple(f"{name}{attempt.n}w{i}" for i in range(count))
        self.served.append(
            Served(n, k, name, attempt.n, self._network.loop.time(), words=words, keys=keys, record=attempt)
        )
        given = {"text": " ".join(words), "first_word_s": self._first_word_s(name, rng)}
        return Fault(**(given | dict(keys)))  # type: ignore[arg-type]

    def _first_word_s(self, name: str, rng: Random) -> float:
        """Lognormal, with one call in fifty slower by far."""
        tail = 8.0 if rng.random() < 0.02 else 1.0
        return round(min(30.0, self._speed[name] * rng.lognormvariate(0.0, 0.4) * tail), 3)

    def _keys(self, name: str, n: int, k: int) -> Keys:
        act = self._acts.get((n, k))
        if act is not None:
            return act
        age = self._network.loop.time() - self._began
        outage = next((o for o in self._outages if o.provider == name and o.is_on(age)), None)
        return () if outage is None else outage.turns[(n + k) % len(outage.turns)]

    def settle(self) -> list[Served]:
        """Everything that was served, with the newest records."""
        logs = {name: {a.n: a for a in fake.attempts} for name, fake in self.fakes.items()}
        for served in self.served:
            served.record = logs[served.provider].get(served.attempt, served.record)
        return self.served

    @property
    def crashes(self) -> list[str]:
        """What answers of the fakes died of."""
        return [f"{name}: {type(e).__name__}: {e}" for name, fake in self.fakes.items() for e in fake.crashes]
