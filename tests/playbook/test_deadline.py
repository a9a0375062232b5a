"""One deadline over everything: queueing, attempts, waits, hedges, the stream."""

from __future__ import annotations

import pytest

from proxy.base.outcome import OK
from proxy.engine.messages import Finished, FirstContent
from proxy.engine.plan import Retry
from proxy.policy import backoff, hedge
from tests.playbook.driver import SILENT, Stage, e429, e500, e503, ok, plan, streams, timeout

EXACT = Retry(backoff=backoff.Settings(jitter="none"))


def test_I4_a_silent_target_ends_at_the_deadline() -> None:
    stage = Stage()
    story = stage.play(plan("a", "b", timeout_s=5.0), {"a": SILENT})
    assert story.failed == (5.0, "timeout.total")
    assert story.cancels == [(5.0, 0, "deadline")]
    stage.assert_quiet()


def test_R6_no_wait_is_begun_that_the_deadline_would_cut() -> None:
    # 250 ms of waiting do not fit into 200 ms: the fallback is asked at once.
    story = Stage().play(plan("a", "b", timeout_s=0.2, retry=EXACT), {"a": e503(0.05), "b": ok(0.05)})
    assert story.dials == [(0.0, "a", "first"), (0.05, "b", "failover")]
    assert story.served == (0.1, "b")


def test_R6_with_nowhere_to_go_the_error_is_told_at_once() -> None:
    story = Stage().play(plan("a", timeout_s=0.2, retry=EXACT), {"a": e503(0.05)})
    assert story.failed == (0.05, "model_overloaded")


def test_R6_the_wait_must_leave_the_median_of_the_target() -> None:
    stage = Stage()
    stage.learn("a", 0.6)
    # 0.1 + 0.25 + 0.6 do not fit into 0.9.
    story = stage.play(plan("a", "b", timeout_s=0.9, retry=EXACT), {"a": e500(0.1), "b": ok()})
    assert story.path == "a b"
    assert stage.play(plan("a", "b", timeout_s=1.2, retry=EXACT), {"a": [e500(0.1), ok(0.1)]}).path == "a a"


def test_law_7_no_dial_at_the_deadline() -> None:
    story = Stage().play(plan("a", "b", timeout_s=1.0), {"a": timeout(1.0)})
    assert story.path == "a"
    assert story.failed is not None
    assert story.failed[0] == 1.0


def test_law_7_time_spent_before_the_start_counts() -> None:
    late = Stage().play(plan("a", timeout_s=1.0), {"a": ok()}, accepted_before=1.0)
    assert (late.dials, late.failed) == ([], (0.0, "timeout.total"))
    assert not late.gave_up.final
    story = Stage().play(plan("a", timeout_s=1.0), {"a": SILENT}, accepted_before=0.7)
    assert story.failed == (pytest.approx(0.3), "timeout.total")


def test_law_7_a_late_hedge_timer_dials_nothing() -> None:
    stage = Stage()
    settings = hedge.Settings(enabled=True, delay_s=1.0)
    story = stage.begin(plan("a", "b", timeout_s=1.0, hedge=settings), {"a": SILENT})
    stage.run()
    assert (story.path, story.failed) == ("a", (1.0, "timeout.total"))


def test_I4_a_hedge_that_is_running_is_cancelled_with_the_first() -> None:
    settings = hedge.Settings(enabled=True)
    story = Stage().play(plan("a", "b", timeout_s=3.0, hedge=settings), {"a": SILENT, "b": SILENT})
    assert story.cancels == [(3.0, 0, "deadline"), (3.0, 1, "deadline")]
    assert story.failed == (3.0, "timeout.total")


def test_I4_a_stream_is_cut_at_the_deadline() -> None:
    stage = Stage()
    story = stage.play(plan("a", timeout_s=2.0), {"a": streams(0.5, 9.0)}, stream=True)
    assert (story.served, story.failed) == ((0.5, "a"), None)
    assert story.cancels == [(2.0, 0, "deadline")]
    stage.assert_quiet()


def test_the_owner_exception_a_hanging_target_behind_short_deadlines_is_noticed() -> None:
    stage = Stage()
    stage.learn("a", 0.5)
    for _ in range(4):
        stage.play(plan("a", timeout_s=2.0), {"a": SILENT})
    counts = stage.state("a").breaker.view(stage.now)["counts"]
    assert counts == {"timeout.first_content": 4}
    assert stage.play(plan("a", "b"), {"b": ok()}).path == "b"


def test_a_told_wait_that_does_not_fit_is_failover_and_the_cool_down_stays() -> None:
    stage = Stage()
    story = stage.play(plan("a", "b", timeout_s=2.0), {"a": e429(2.0), "b": ok()})
    assert (story.path, story.waits) == ("a b", [0.0])
    assert stage.state("a").cooling_s(stage.now) > 1.5


@pytest.mark.parametrize("timeout_s", [1e-9, 1e12])
def test_absurd_deadlines(timeout_s: float) -> None:
    story = Stage().play(plan("a", timeout_s=timeout_s), {"a": ok()})
    assert (story.served is None) == (timeout_s < 1.0)


def test_a_clock_that_goes_backwards_harms_nobody() -> None:
    stage = Stage()
    story = stage.begin(plan("a", "b"), {"a": SILENT})
    stage.run(until=1.0)
    stage.now -= 500.0
    stage.feed(story, FirstContent(0))
    stage.feed(story, Finished(0, OK))
    assert story.machine.committed is story.machine.attempts[0]
    assert stage.play(plan("a", "b"), {"a": e503(), "b": ok()}).served is not None
    stage.assert_quiet()
