"""Many seeds, or one seed closely: what the tests, `make torture` and `make sim` run."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.sim.checks import Violation, judge
from proxy.sim.scenario import Scenario, Trouble, draw
from proxy.sim.shrink import shrunk
from proxy.sim.world import Story, run

COLLECT_EVERY: Final = 25
"""Worlds between two collections of garbage: inside a world there is none, so that it falls at no moment of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A seed in which something did not hold."""

    seed: int
    violations: tuple[Violation, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed} (again, with its trace: make sim SEED={self.seed})"]
        return "\n  ".join([*lines, *map(str, self.violations[:10])])


def failures(seeds: Iterable[int]) -> Iterator[Failure]:
    """Run every seed; what fails comes out at once."""
    for seed, story in stories((seed, draw(seed), None) for seed in seeds):
        violations = judge(story)
        if violations:
            yield Failure(seed=seed, violations=tuple(violations))


def stories(worlds: Iterable[tuple[int, Scenario, tuple[int, int] | None]]) -> Iterator[tuple[int, Story]]:
    """Run (number, scenario, who leaves when) one after the other, without the collector, which would cost a third."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        for count, (number, scenario, leave) in enumerate(worlds, 1):
            yield number, run(scenario, leave=leave)
            if count % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        if collecting:
            gc.enable()


def shrink(story: Story, violations: Sequence[Violation]) -> list[Trouble]:
    """The faults of a failing world that are needed to make one of its checkers complain again."""
    wanted = {violation.check for violation in violations}

    def fails(faults: Sequence[Trouble]) -> bool:
        return any(found.check in wanted for found in judge(run(story.scenario, faults)))

    return shrunk(story.faults, fails)
