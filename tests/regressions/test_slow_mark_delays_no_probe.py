"""A target that hung is marked slow and then opens. When its open time was over, the mark still kept requests away from
it for up to 30 s more, and requests that it refused used up the few that a slow target is meant to get."""

from __future__ import annotations

import pytest

from proxy.policy.breaker import State
from tests.playbook.driver import SILENT, Stage, ok, plan, streams, timeout


@pytest.mark.parametrize("dice", [0.0, 0.5, 0.99])
def test_the_first_request_after_the_open_time_probes(dice: float) -> None:
    stage = Stage(dice)
    chain = plan("p", "f")
    stage.learn("p", 0.3, stream=True)
    stage.learn("f", 0.3, stream=True)
    for n in range(8):  # silent: marked slow by age, then opened by their timeouts
        stage.begin(chain, {"p": timeout(5.0), "f": streams()}, at=0.1 * n, stream=True)
    stage.run()
    breaker = stage.state("p").breaker
    assert breaker.peek(stage.now) is State.OPEN
    stage.play(chain, {"p": SILENT, "f": ok()}, stream=True)  # refused: must use up nothing
    stage.wait(breaker.retry_after_s(stage.now) + 0.01)
    request = stage.play(chain, {"p": streams(), "f": streams()}, stream=True)
    assert request.path == "p"
