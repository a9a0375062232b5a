"""The cancellation sweep: one world again and again, and each time its caller leaves one turn of the loop later.

Between two turns every await of the request is passed once, so that whatever a request holds at any of them must be
given back there (I5, Q5, I8).
"""

from __future__ import annotations

import pytest

from proxy.sim.checks import judge
from proxy.sim.scenario import Act, Ask, Endpoint, Keys, Scenario, Trouble, draw
from proxy.sim.seeds import stories
from proxy.sim.world import run

STEADY = 4
"""The seed whose configuration and network the sweep uses."""


def scenario(endpoint: Endpoint, stream: bool, headers: tuple[tuple[str, str], ...], *acts: Keys) -> Scenario:
    """One request whose attempts go as told, and one before and behind it on the same connection."""
    asks = tuple(
        Ask(n=n, at=at, caller=0, endpoint=endpoint, stream=stream, headers=headers if n == 1 else ())
        for n, at in enumerate((0.0, 3.0, 30.0))
    )
    faults: tuple[Trouble, ...] = tuple(Act(n=1, k=k, keys=keys) for k, keys in enumerate(acts))
    drawn = draw(STEADY)
    return Scenario(seed=STEADY, config=drawn.config, asks=asks, faults=faults, speed=drawn.speed)


HEDGE = (("X-Hedge-Config", '{"strategy": "latency", "delay_ms": 50}'),)
SPARES = (("X-Hedge-Config", '{"strategy": "first-success", "delay_ms": 0}'),)
LET_RUN = (("X-Hedge-Config", '{"strategy": "latency", "delay_ms": 0, "cancel_slower": false}'),)
RETRY = (("X-Retry-Config", '{"initial_delay_ms": 50, "max_retries": 2, "jitter": false}'),)

WORLDS = {
    "healthy stream": scenario("chat", True, ()),
    "unary": scenario("responses", False, ()),
    "retry": scenario("chat", True, RETRY, (("status", 503),)),
    "failover, translated": scenario("chat", False, (), (("reset", True),), (("status", 500),), (("status", 500),)),
    "hedge": scenario("messages", True, HEDGE, (("first_word_s", 1.0),)),
    "spares": scenario("chat", True, SPARES, (("cut_after_words", 2), ("cut", "reset"))),
    "losers that are let run": scenario("chat", True, LET_RUN, (("cut_after_words", 2), ("cut", "close"))),
    "continued": scenario("chat", True, (), (("cut_after_words", 2), ("cut", "reset"))),
}


def sweep(world: Scenario, n: int, steps: range) -> None:
    """Have the caller of request `n` leave at each of these steps."""
    for step, story in stories((step, world, (n, step)) for step in steps):
        found = [str(violation) for violation in judge(story)]
        assert not found, f"seed {world.seed}, request {n} leaving at step {step}: {found}"


@pytest.mark.parametrize("name", WORLDS)
def test_a_caller_may_leave_at_any_step(name: str) -> None:
    world = WORLDS[name]
    whole = run(world)
    assert judge(whole) == []
    begin, end = whole.turns[1]
    assert end - begin >= 8
    sweep(world, 1, range(1, end - begin + 2))


def test_who_leaves_spoils_nobody_elses_answer() -> None:
    for step in (1, 5, 12):
        story = run(WORLDS["hedge"], leave=(1, step))
        answers = {seen.n: seen.answer for seen in story.seen}
        assert [seen.n for seen in story.seen if seen.has_left] == [1]
        assert all(answer is not None and answer.is_whole for n, answer in answers.items() if n != 1)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(40))
def test_a_caller_may_leave_at_any_step_of_a_crowded_world(seed: int) -> None:
    """The request in the middle of those that reached the proxy leaves at every third step."""
    world = draw(seed)
    turns = run(world).turns
    n = sorted(turns)[len(turns) // 2]
    begin, end = turns[n]
    sweep(world, n, range(1, min(end - begin, 300) + 2, 3))
