"""What the seeded world has found in the proxy: each as the smallest world that showed it."""

from __future__ import annotations

import json

import pytest

from proxy.sim.answers import read
from proxy.sim.checks import judge
from proxy.sim.scenario import TIMEOUT_S, Act, Ask, Endpoint, Keys, Scenario, draw
from proxy.sim.world import Story, run


def world(endpoint: Endpoint, stream: bool, headers: dict[str, str], *acts: Keys) -> Story:
    """One request whose attempts go as told, in fair weather, by the built-in policy."""
    drawn = draw(4)
    config = json.loads(drawn.config)
    config["defaults"] = {"timeout_s": TIMEOUT_S, "retry": {"max_retries": 0}}
    config["routes"][0]["balance"] = "priority"
    ask = Ask(n=0, at=0.0, caller=0, endpoint=endpoint, stream=stream, headers=tuple(headers.items()))
    faults = tuple(Act(n=0, k=k, keys=keys) for k, keys in enumerate(acts))
    return run(Scenario(seed=4, config=json.dumps(config), asks=(ask,), faults=faults, speed=drawn.speed))


LET_RUN = {"X-Hedge-Config": '{"strategy": "latency", "delay_ms": 0, "cancel_slower": false}'}


def test_seed_29_a_loser_that_is_let_run_gives_its_permit_back_when_the_winner_breaks() -> None:
    """It had thrown its answer away and was made the heir all the same, so that nobody ended it: its target was one
    permit short for ever."""
    breaks = (("first_word_s", 0.1), ("pause_s", 0.3), ("cut_after_words", 3), ("cut", "reset"))
    story = world("chat", True, LET_RUN, breaks, (("first_word_s", 0.3), ("pause_s", 0.1)))
    assert [attempt.kind for attempt in story.notes.runs[0].attempts][:2] == ["first", "hedge"]
    assert len(story.notes.runs[0].machines) == 2, "the stream was not continued"
    assert judge(story) == []


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stream", [True, False])
def test_seeds_1_and_308_an_answer_in_which_nothing_is_said_is_no_answer(endpoint: Endpoint, stream: bool) -> None:
    """An empty message inside a response that is called completed, and an empty block of text, passed for answers."""
    chain = "gamma,alpha" if endpoint == "messages" else "alpha,beta"
    story = world(endpoint, stream, {"X-Failover-Providers": chain}, (("empty", "null_content"),))
    assert len(story.served) == 2
    assert story.seen[0].answer is not None
    assert story.seen[0].answer.status == 200
    assert read(story.seen[0].answer, stream).words
    assert judge(story) == []


def test_seed_431_a_torso_does_not_become_whole_by_silence() -> None:
    """The target that was asked to go on said nothing, and the half answer got a proper end."""
    story = world("chat", True, {}, (("cut_after_words", 2), ("cut", "reset")), (("empty", "done"),))
    assert len(story.served) >= 2
    assert judge(story) == []
