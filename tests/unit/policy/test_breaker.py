"""The circuit breaker: vectors V1-V14 and F1-F5 of the specification, every move, every half-open result, M2-M5."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from proxy.base.outcome import OK, Class, Outcome
from proxy.policy.breaker import (
    Breaker,
    Change,
    ConsecutiveRule,
    Exclusion,
    Forced,
    Mark,
    Permit,
    RateRule,
    Refused,
    Settings,
    State,
)

BAD = Outcome(cls=Class.SERVER_ERROR, status=500)
BUSY = Outcome(cls=Class.MODEL_OVERLOADED, status=503)
LIMITED = Outcome(cls=Class.RATE_LIMIT, status=429)
REFUSED_CONNECT = Outcome(cls=Class.CONNECT_ERROR, sub="refused")
SLOW_CONNECT = Outcome(cls=Class.TIMEOUT, sub="connect")
CUT = Outcome(cls=Class.STREAM_INTERRUPTED)
GONE = Outcome(cls=Class.CANCELLED, sub="downstream")
LATE = Outcome(cls=Class.CANCELLED, sub="deadline")
LOST = Outcome(cls=Class.CANCELLED, sub="superseded")
LOCAL = Outcome(cls=Class.LOCAL_REJECT)
FAULTY_CALL = Outcome(cls=Class.INVALID_REQUEST, status=400)
BAD_KEY = Outcome(cls=Class.AUTH, status=401)

FIVE = Settings(error_threshold=5)
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Rig:
    """A breaker and what it told, with short words for the life of an attempt."""

    def __init__(self, settings: Settings | None = None, u: float = 0.5) -> None:
        self.changes: list[Change] = []
        self.breaker = Breaker(settings or Settings(), lambda: u, 0.0, self.changes.append)

    def ask(
        self,
        now: float,
        overlay: Settings | None = None,
        exclusion: Exclusion | None = None,
        panic: bool = False,
        ignore_exclusion: bool = False,
    ) -> Permit | Refused:
        return self.breaker.admit(
            now, overlay=overlay, exclusion=exclusion, panic=panic, ignore_exclusion=ignore_exclusion
        )

    def dial(
        self,
        now: float,
        overlay: Settings | None = None,
        line_s: float | None = None,
        exclusion: Exclusion | None = None,
    ) -> Permit:
        permit = self.ask(now, overlay, exclusion)
        assert isinstance(permit, Permit), permit
        self.breaker.start(permit, now, line_s)
        return permit

    def call(
        self, now: float, outcome: Outcome, overlay: Settings | None = None, exclusion: Exclusion | None = None
    ) -> Permit:
        """One attempt that ends at once."""
        permit = self.dial(now, overlay, exclusion=exclusion)
        if outcome.status:
            self.breaker.response_byte(permit, now)
        if outcome is OK:
            self.breaker.first_content(permit, now)
        self.breaker.end(permit, outcome, now)
        return permit

    def refused(self, now: float, overlay: Settings | None = None, exclusion: Exclusion | None = None) -> str:
        answer = self.ask(now, overlay, exclusion)
        assert isinstance(answer, Refused), answer
        return answer.reason

    def state(self, now: float, overlay: Settings | None = None) -> State:
        return self.breaker.peek(now, overlay)

    def s_err(self, now: float) -> float:
        value = self.breaker.view(now)["S_err"]
        assert isinstance(value, float)
        return value

    def s_slow(self, now: float) -> float:
        value = self.breaker.view(now)["S_slow"]
        assert isinstance(value, float)
        return value


# Vectors of 3.5.6 -----------------------------------------------------------------------------------------------------


def test_V1_five_bad_open_and_three_probes_at_once_close_again() -> None:
    rig = Rig(FIVE)
    for t in range(5):
        assert rig.state(t) is CLOSED
        rig.call(t, BAD)
    assert rig.state(4) is OPEN
    assert rig.breaker.retry_after_s(20.0) == 14.0
    assert rig.refused(33.9) == "open"
    probes = [rig.dial(34.0) for _ in range(3)]
    assert all(p.state is HALF_OPEN for p in probes)
    assert rig.refused(34.0) == "half_open"
    rig.breaker.first_content(probes[0], 34.5)
    assert rig.state(34.5) is HALF_OPEN
    rig.breaker.first_content(probes[1], 34.6)
    assert rig.state(34.6) is CLOSED
    assert [(c.from_, c.to) for c in rig.changes] == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
    assert rig.changes[0].open_until == 34.0


@pytest.mark.parametrize(("last", "state"), [(59.9, OPEN), (60.0, CLOSED)])
def test_V2_the_window_is_exact(last: float, state: State) -> None:
    rig = Rig(FIVE)
    for t in (0.0, 15.0, 30.0, 45.0, last):
        rig.call(t, BAD)
    assert rig.state(last) is state


def test_V3_success_between_failures_does_not_reset_the_count() -> None:
    rig = Rig(FIVE)
    for t in range(9):
        assert rig.state(t) is CLOSED
        rig.call(t, OK if t % 2 else BAD)
    assert rig.state(8) is OPEN


def test_V4_excluded_errors_are_no_evidence_and_no_vote() -> None:
    rig = Rig(Settings(error_threshold=5, excluded_errors=frozenset({"503"})))
    for t in range(10):
        rig.call(t, BUSY)
    assert rig.state(10) is CLOSED
    for t in range(5):
        rig.call(10 + t, BAD)
    probe = rig.dial(50.0)
    rig.breaker.end(probe, BUSY, 51.0)
    assert rig.state(51.0) is HALF_OPEN
    assert rig.breaker.view(51.0)["leases"] == 0


def test_V5_silent_attempts_count_when_they_pass_the_line() -> None:
    rig = Rig(Settings(error_threshold=5, monitor_latency=True))
    permits = [rig.dial(float(t)) for t in range(5)]
    assert rig.state(8.9) is CLOSED
    assert rig.state(9.0) is OPEN
    assert rig.changes[0].at == 9.0
    assert rig.breaker.retry_after_s(9.0) == 30.0
    for permit in permits:
        rig.breaker.end(permit, BAD, 15.0)
    assert len(rig.changes) == 1


def test_V5_the_open_time_runs_from_the_line_even_if_nobody_looked() -> None:
    rig = Rig(Settings(error_threshold=5, monitor_latency=True))
    for t in range(5):
        rig.dial(float(t))
    assert rig.breaker.retry_after_s(20.0) == 19.0


def test_V6_the_open_time_does_not_grow() -> None:
    rig = Rig(Settings(error_threshold=1))
    rig.call(0.0, BAD)
    for turn in range(1, 12):
        assert rig.refused(turn * 30.0 - 0.001) == "open"
        rig.call(turn * 30.0, BAD)
    assert rig.breaker.retry_after_s(330.0) == 30.0


def test_V7_a_cancelled_probe_gives_its_lease_back_at_once() -> None:
    rig = Rig(Settings(error_threshold=1, half_open_requests=1))
    rig.call(0.0, BAD)
    for outcome in (GONE, LATE, LOST, FAULTY_CALL, BAD_KEY, LOCAL):
        probe = rig.dial(30.0)
        assert rig.refused(30.0) == "half_open"
        rig.breaker.end(probe, outcome, 30.0)
        assert rig.state(30.0) is HALF_OPEN
    assert len(rig.changes) == 2


def test_V8_a_hanging_probe_fails_when_its_lease_expires() -> None:
    rig = Rig(Settings(error_threshold=1))
    rig.call(0.0, BAD)
    probe = rig.breaker.admit(30.0, p99_s=4.0)
    assert isinstance(probe, Permit)
    rig.breaker.start(probe, 30.0, None)
    assert rig.state(37.9) is HALF_OPEN
    assert rig.state(40.0) is OPEN
    assert rig.changes[-1].at == 38.0
    assert rig.changes[-1].reason == "probe_expired"
    assert rig.breaker.retry_after_s(40.0) == 28.0
    rig.breaker.first_content(probe, 41.0)  # the answer comes after all: too late to vote
    rig.breaker.end(probe, OK, 42.0)
    assert rig.state(42.0) is OPEN


@pytest.mark.parametrize(
    ("p99_s", "probe_after_s", "lease_s"),
    [
        (1.0, 15.0, 5.0),
        (10.0, 15.0, 20.0),
        (None, 15.0, 15.0),
        (None, 1.0, 5.0),
        (math.nan, 15.0, 5.0),
        (math.inf, 15.0, 600.0),
    ],
)
def test_B5_a_lease_lasts_twice_the_p99_within_bounds(
    p99_s: float | None, probe_after_s: float, lease_s: float
) -> None:
    rig = Rig(Settings(error_threshold=1))
    rig.call(0.0, BAD)
    rig.breaker.admit(100.0, p99_s=p99_s, probe_after_s=probe_after_s)  # and never started
    assert rig.state(100.0 + lease_s - 0.01) is HALF_OPEN
    assert rig.state(100.0 + lease_s) is OPEN


def test_V9_rate_limits_never_count_but_fail_a_probe_unless_excluded() -> None:
    for excluded, after in ((None, OPEN), (frozenset({"rate_limit"}), HALF_OPEN)):
        rig = Rig(Settings(error_threshold=5, excluded_errors=excluded))
        for t in range(50):
            rig.call(t / 10, LIMITED)
        assert rig.state(5.0) is CLOSED
        for t in range(5):
            rig.call(5.0 + t, BAD)
        rig.call(60.0, LIMITED)
        assert rig.state(60.0) is after


@pytest.mark.parametrize(("u", "open_s"), [(0.0, 2.5), (0.5, 3.75), (1.0, 5.0)])
def test_V10_other_keys_keep_the_default_rule(u: float, open_s: float) -> None:
    rig, header = Rig(u=u), Settings(half_open_requests=1)
    for t in range(4):
        assert rig.state(t, header) is CLOSED
        rig.call(t, BAD, header)
    assert rig.state(3, header) is OPEN
    assert rig.breaker.retry_after_s(3.0, header) == open_s
    rig.dial(3 + open_s, header)
    assert rig.refused(3 + open_s, header) == "half_open"
    assert isinstance(rig.ask(3 + open_s), Permit)  # the base has two probes left


def test_V11_a_looser_header_is_let_through_two_at_a_time() -> None:
    rig, header = Rig(FIVE), Settings(error_threshold=50)
    for _ in range(5):
        rig.call(1.0, BAD)
    assert rig.refused(1.0) == "open"
    first, second = rig.dial(1.0, header), rig.dial(1.0, header)
    assert first.state is CLOSED
    assert rig.refused(1.0, header) == "open"
    rig.breaker.end(first, BAD, 1.0)
    rig.breaker.end(second, BAD, 1.0)
    for _ in range(42):
        assert rig.state(1.0, header) is CLOSED
        rig.call(1.0, BAD, header)
    rig.dial(1.0, header)  # keeps its place under the cap
    rig.call(1.0, BAD, header)
    assert rig.refused(1.0, header) == "overlay"
    assert rig.breaker.view(1.0)["overlay_cap_used"] == 1


def test_V11_looser_never_refuses_too() -> None:
    rig = Rig(Settings(error_threshold=5, looser="never"))
    for _ in range(5):
        rig.call(1.0, BAD)
    assert rig.refused(1.0, Settings(error_threshold=50)) == "open"


def test_V12_the_headers_own_rule_takes_the_place_of_the_default_rule() -> None:
    rig, header = Rig(), FIVE
    for _ in range(4):
        rig.call(0.0, BAD)
    assert rig.refused(0.0) == "open"
    rig.call(1.0, BAD, header)
    assert rig.refused(1.0, header) == "overlay"
    assert rig.breaker.retry_after_s(1.0, header) == 30.0


def test_V13_more_successes_than_leases_close_as_leases_return() -> None:
    rig = Rig(Settings(error_threshold=5, success_threshold=4))
    for _ in range(5):
        rig.call(0.0, BAD)
    probes = [rig.dial(30.0) for _ in range(3)]
    for n in range(4):
        assert rig.state(31.0) is HALF_OPEN
        if n:
            probes.append(rig.dial(31.0))
            assert rig.refused(31.0) == "half_open"
        rig.breaker.first_content(probes.pop(0), 31.0)
    assert rig.state(31.0) is CLOSED


@pytest.mark.parametrize(("times", "state"), [((0.9, 1.3, 1.7, 2.1, 2.5), OPEN), ((0.0, 2.5, 5.0, 7.5, 10.0), CLOSED)])
def test_V14_five_in_two_seconds(times: tuple[float, ...], state: State) -> None:
    rig = Rig(Settings(error_threshold=5, error_threshold_window_s=2.0))
    for t in times:
        rig.call(t, BAD)
    assert rig.state(times[-1]) is state


# Vectors of 3.5.8 -----------------------------------------------------------------------------------------------------

X = Exclusion()


def excluded_at(t: float, exclusion: Exclusion = X) -> Rig:
    """A target whose breaker stays closed and which failed three times at `t`."""
    rig = Rig(Settings(error_threshold=1000))
    for _ in range(3):
        rig.call(t, BAD)
    assert rig.refused(t, exclusion=exclusion) == "excluded"
    return rig


def test_F1_only_success_breaks_the_row() -> None:
    rig = Rig(Settings(error_threshold=1000))
    for outcome in (BAD, BAD, OK, BAD, LIMITED, GONE, BAD, FAULTY_CALL):
        rig.call(0.0, outcome)
        assert isinstance(rig.ask(0.0, exclusion=X), Permit)
    rig.call(0.0, BAD)
    assert rig.refused(0.0, exclusion=X) == "excluded"
    assert isinstance(rig.ask(0.0), Permit)  # nobody else is affected


def test_F2_after_the_interval_exactly_one_request_leads_with_it() -> None:
    rig = excluded_at(5.0)
    assert rig.refused(34.9, exclusion=X) == "excluded"
    trial = rig.dial(35.0, exclusion=X)
    assert trial.state is HALF_OPEN
    assert [rig.refused(35.0, exclusion=X) for _ in range(100)] == ["excluded"] * 100


def test_F2_the_interval_counts_from_the_latest_verdict() -> None:
    rig = excluded_at(5.0)
    rig.call(20.0, BAD)
    assert rig.refused(49.9, exclusion=X) == "excluded"
    rig.breaker.probe_failed(49.9)
    assert rig.refused(79.8, exclusion=X) == "excluded"
    rig.breaker.probe_passed(79.8)
    assert isinstance(rig.ask(79.8, exclusion=X), Permit)


def test_F2_a_failed_probe_counts_for_an_exclusion_first_asked_for_later() -> None:
    rig = Rig(Settings(error_threshold=1000))
    for _ in range(3):
        rig.call(0.0, BAD)
    rig.breaker.probe_failed(20.0)
    assert rig.refused(49.9, exclusion=X) == "excluded"
    assert isinstance(rig.ask(50.0, exclusion=X), Permit)


def test_F3_two_good_trials_restore_it_and_may_follow_at_once() -> None:
    rig = excluded_at(5.0)
    rig.call(35.0, OK, exclusion=X)
    rig.call(35.0, OK, exclusion=X)
    assert [rig.dial(35.0, exclusion=X).state for _ in range(3)] == [CLOSED] * 3


def test_F4_a_failed_trial_excludes_again() -> None:
    rig = excluded_at(5.0)
    rig.call(35.0, OK, exclusion=X)
    rig.call(36.0, BAD, exclusion=X)
    assert rig.refused(65.9, exclusion=X) == "excluded"
    assert rig.dial(66.0, exclusion=X).state is HALF_OPEN


def test_F5_the_exclusion_can_be_left_aside() -> None:
    rig = excluded_at(5.0)
    assert isinstance(rig.ask(5.0, exclusion=X, ignore_exclusion=True), Permit)


def test_M5_the_exclusion_never_admits_what_the_breaker_refuses() -> None:
    rig = Rig(Settings(error_threshold=2))
    rig.call(0.0, BAD)
    rig.call(0.0, BAD)
    never = Exclusion(failure_threshold=100)
    for exclusion in (X, never):
        for ignore in (True, False):
            answer = rig.ask(1.0, exclusion=exclusion, ignore_exclusion=ignore)
            assert isinstance(answer, Refused)
            assert answer.reason == "open"


def test_M5_a_trial_votes_in_the_breaker_too_and_takes_one_lease() -> None:
    rig = Rig(Settings(error_threshold=3, half_open_requests=1))
    for _ in range(3):
        rig.call(0.0, BAD, exclusion=X)
    rig.call(30.0, OK, exclusion=X)
    rig.call(30.0, OK, exclusion=X)
    assert rig.state(30.0) is CLOSED
    assert rig.dial(30.0, exclusion=X).state is CLOSED


# The default rule -----------------------------------------------------------------------------------------------------


def test_C6_errors_only_open_at_the_fourth() -> None:
    rig = Rig()
    for t in range(4):
        assert rig.state(t) is CLOSED
        rig.call(t, BAD)
    assert rig.state(3) is OPEN
    assert rig.changes[0].reason == "errors"


@pytest.mark.parametrize("outcome", [REFUSED_CONNECT, SLOW_CONNECT])
def test_three_failed_connects_open_and_any_byte_resets(outcome: Outcome) -> None:
    rig = Rig()
    rig.call(0.0, outcome)
    rig.call(0.0, outcome)
    other = rig.dial(0.0)
    rig.breaker.response_byte(other, 0.0)
    rig.call(0.0, outcome)
    assert rig.state(0.0) is CLOSED
    rig = Rig()
    for _ in range(3):
        rig.call(0.0, outcome)
    assert rig.changes[0].reason == "connect"


def test_M4_under_a_count_rule_neither_the_detector_nor_the_connect_counter_opens() -> None:
    rig = Rig(FIVE)
    for _ in range(4):
        rig.call(0.0, REFUSED_CONNECT)
    assert rig.s_err(0.0) == 8.0
    assert rig.state(0.0) is CLOSED


def test_a_hang_marks_the_target_before_any_attempt_has_ended() -> None:
    rig = Rig()
    marks = []
    for t in range(4):
        rig.dial(float(t), line_s=1.8)
        marks.append(rig.breaker.mark(t + 0.9))
    assert marks == [Mark.NORMAL, Mark.NORMAL, Mark.WATCHED, Mark.WATCHED]
    assert rig.breaker.mark(4.7) is Mark.WATCHED
    assert rig.breaker.mark(4.8) is Mark.SLOW
    assert rig.state(100.0) is CLOSED  # slowness alone refuses nobody


def test_monitor_latency_opens_at_the_moment_the_detector_reaches_h() -> None:
    rig = Rig(Settings(monitor_latency=True))
    for t in range(4):
        rig.dial(float(t), line_s=1.5)
    assert rig.state(4.49) is CLOSED
    assert rig.state(10.0) is HALF_OPEN
    assert (rig.changes[0].at, rig.changes[0].reason) == (4.5, "slow")


def test_the_default_rule_takes_a_stated_slow_line_instead_of_the_baseline() -> None:
    rig = Rig(Settings(latency_threshold_ms=500))
    for _ in range(4):
        rig.dial(0.0, line_s=1.5)
    assert rig.breaker.mark(0.5) is Mark.SLOW


def test_lines_of_different_length_fall_due_in_their_own_order() -> None:
    rig = Rig(Settings(monitor_latency=True))
    for line_s in (9.0, 4.0, 3.0, 2.0, 1.0):
        rig.dial(0.0, line_s=line_s)
    rig.state(100.0)
    assert rig.changes[0].at == 4.0


@pytest.mark.parametrize("line_s", [None, math.nan, math.inf, 0.0, -1.0])
def test_without_a_usable_line_the_slow_detector_is_off(line_s: float | None) -> None:
    rig = Rig(Settings(monitor_latency=True))
    for _ in range(10):
        rig.dial(0.0, line_s=line_s)
    assert rig.breaker.mark(1e6) is Mark.NORMAL
    assert rig.state(1e6) is CLOSED


def test_S4_an_attempt_counts_once_as_slow_and_once_by_its_outcome() -> None:
    rig = Rig()
    permit = rig.dial(0.0, line_s=1.0)
    assert rig.s_slow(1.0) == rig.s_slow(50.0) > 2.0
    rig.breaker.first_content(permit, 51.0)
    rig.breaker.first_content(permit, 52.0)
    assert rig.s_slow(52.0) > 2.0  # late content is not good
    rig.breaker.end(permit, CUT, 53.0)
    assert rig.s_err(53.0) > 2.0
    assert rig.breaker.view(53.0)["counts"] == {"stream_interrupted": 1}


def test_S4_an_attempt_that_fails_fast_is_not_slow() -> None:
    rig = Rig()
    permit = rig.dial(0.0, line_s=1.0)
    rig.breaker.end(permit, BAD, 0.5)
    assert rig.s_slow(10.0) == 0.0


@pytest.mark.parametrize("settings", [Settings(), Settings(error_threshold=4, monitor_latency=True)])
def test_lines_of_attempts_that_are_done_do_not_pile_up_and_none_of_the_others_is_lost(settings: Settings) -> None:
    rig = Rig(settings)
    silent = [rig.dial(0.0, line_s=5.0) for _ in range(4)]
    for n in range(5_000):
        rig.breaker.first_content(done := rig.dial(n / 10_000, line_s=500.0), n / 10_000)
        rig.breaker.end(done, OK, n / 10_000)
    assert len(rig.breaker._lines) <= 300
    assert rig.breaker.mark(4.9) is Mark.NORMAL
    assert rig.breaker.mark(5.0) is Mark.SLOW
    assert rig.state(5.0) is (OPEN if settings.counts else CLOSED)
    assert silent[0].content_at == math.inf


def test_the_mark_slow_lasts_until_half_and_keeps_its_probes() -> None:
    rig = Rig()
    for _ in range(4):
        rig.dial(0.0, line_s=1.0)
    assert rig.breaker.mark(1.0) is Mark.SLOW
    never, always = (lambda: 0.99), (lambda: 0.049)
    assert not rig.breaker.may_lead(2.0, never)
    assert rig.breaker.may_lead(2.0, always)
    assert not rig.breaker.may_lead(31.9, never)
    assert rig.breaker.may_lead(32.0, never)  # one per 30 s
    assert not rig.breaker.may_lead(32.0, never)
    for n in range(9):
        assert rig.breaker.mark(33.0) is Mark.SLOW, n
        rig.breaker.first_content(rig.dial(33.0, line_s=1.0), 33.5)
    assert rig.breaker.mark(33.5) is Mark.NORMAL
    assert rig.breaker.may_lead(33.5, never)


def test_the_share_of_live_probes_of_a_slow_target_is_five_percent() -> None:
    rig = Rig()
    for _ in range(4):
        rig.dial(0.0, line_s=1.0)
    rng = random.Random(7).random
    assert sum(rig.breaker.may_lead(2.0, rng) for _ in range(20_000)) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("line_s", "age_s", "allowance_s", "content", "sub", "counted"),
    [
        (1.0, 5.0, 10.0, False, "deadline", True),
        (1.0, 4.9, 10.0, False, "deadline", False),  # less than half of the time there was
        (6.0, 5.0, 10.0, False, "deadline", False),  # not past the line
        (None, 5.0, 10.0, False, "deadline", False),
        (1.0, 5.0, 10.0, True, "deadline", False),
        (1.0, 5.0, None, False, "deadline", False),
        (1.0, 5.0, 10.0, False, "superseded", False),
        (1.0, 5.0, 10.0, False, "downstream", False),
    ],
)
def test_the_owner_exception(
    line_s: float | None, age_s: float, allowance_s: float | None, content: bool, sub: str, counted: bool
) -> None:
    rig = Rig()
    permit = rig.dial(0.0, line_s=line_s)
    if content:
        rig.breaker.first_content(permit, age_s)
    rig.breaker.end(permit, Outcome(cls=Class.CANCELLED, sub=sub), age_s, allowance_s=allowance_s)
    assert (rig.s_err(age_s) > 0.0) is counted
    assert rig.breaker.view(age_s)["counts"] == {("timeout.first_content" if counted else f"cancelled.{sub}"): 1}


# States and open times ------------------------------------------------------------------------------------------------


def test_the_adaptive_open_time_doubles_to_20_s_and_decays_by_healthy_minutes() -> None:
    rig = Rig(u=0.5)
    t = 0.0
    for _ in range(4):
        rig.call(t, BAD)
    waits = []
    for _ in range(5):
        wait = rig.breaker.retry_after_s(t)
        waits.append(wait)
        t += wait
        rig.call(t, BAD)
    assert waits == [3.75, 7.5, 15.0, 15.0, 15.0]
    for minutes, wait in ((0.5, 15.0), (1.5, 7.5), (30.0, 3.75)):
        t += rig.breaker.retry_after_s(t)
        rig.call(t, OK)
        rig.call(t, OK)
        assert rig.state(t) is CLOSED
        assert rig.s_err(t) == 0.0
        t += minutes * 60
        for _ in range(4):
            rig.call(t, BAD)
        assert rig.breaker.retry_after_s(t) == wait


def test_M3_a_stated_timeout_is_exact_also_under_the_default_rule() -> None:
    rig = Rig(Settings(timeout_s=0.1))
    for _ in range(4):
        rig.call(1.0, BAD)
    for _ in range(4):
        until = rig.changes[-1].open_until
        assert until is not None
        assert rig.refused(math.nextafter(until, 0.0)) == "open"
        rig.call(until, BAD)
        assert rig.changes[-1].open_until == until + 0.1


def test_an_active_probe_may_end_the_adaptive_time_early_but_never_closes() -> None:
    rig = Rig()
    for _ in range(4):
        rig.call(0.0, BAD)
    rig.breaker.probe_passed(1.0)
    assert rig.state(1.0) is HALF_OPEN
    assert rig.dial(1.0).state is HALF_OPEN
    rig = Rig(Settings(error_threshold=1))
    rig.call(0.0, BAD)
    rig.breaker.probe_passed(1.0)
    assert rig.state(1.0) is OPEN


def _stale(rig: Rig) -> Permit:
    """An attempt from before the trip."""
    old = rig.dial(0.0)
    for _ in range(4):
        rig.call(0.0, BAD)
    return old


@pytest.mark.parametrize("outcome", [OK, BAD, LIMITED, GONE, FAULTY_CALL, REFUSED_CONNECT])
def test_B4_results_of_an_older_generation_change_no_state(outcome: Outcome) -> None:
    for stage in ("open", "half_open", "closed"):
        rig = Rig()
        old = _stale(rig)
        if stage != "open":
            rig.call(5.0, OK)
        if stage == "closed":
            rig.call(5.0, OK)
        now = 1.0 if stage == "open" else 5.0
        before = rig.state(now), rig.s_err(now), len(rig.changes)
        if outcome is OK:
            rig.breaker.first_content(old, now)
        rig.breaker.end(old, outcome, now)
        assert (rig.state(now), rig.s_err(now), len(rig.changes)) == before


def test_B4_a_probe_of_an_earlier_half_open_does_not_vote_in_a_later_one() -> None:
    rig = Rig(Settings(error_threshold=1, timeout_s=1.0, success_threshold=1))
    rig.call(0.0, BAD)
    late, failing = rig.dial(1.0), rig.dial(1.0)
    rig.breaker.end(failing, BAD, 1.0)
    rig.dial(2.0)
    assert rig.state(2.0) is HALF_OPEN
    rig.breaker.first_content(late, 2.0)
    rig.breaker.end(late, OK, 2.0)
    assert rig.state(2.0) is HALF_OPEN


def test_B3_a_hundred_requests_at_the_moment_of_reopening() -> None:
    rig = Rig(FIVE)
    for _ in range(5):
        rig.call(0.0, BAD)
    answers = [rig.ask(30.0) for _ in range(100)]
    assert sum(isinstance(a, Permit) for a in answers) == 3
    refusal = answers[-1]
    assert isinstance(refusal, Refused)
    assert (refusal.reason, refusal.state) == ("half_open", OPEN)
    assert 0.0 < refusal.retry_after_s <= 1.0


def test_B3_a_released_lease_is_free_again() -> None:
    rig = Rig(Settings(error_threshold=1, half_open_requests=1))
    rig.call(0.0, BAD)
    for _ in range(3):
        permit = rig.ask(30.0)
        assert isinstance(permit, Permit)
        rig.breaker.release(permit, 30.0)
    assert rig.breaker.view(30.0)["leases"] == 0


def test_a_probe_that_passes_the_line_fails_at_that_moment() -> None:
    for settings, line_s in (
        (Settings(error_threshold=1, monitor_latency=True, latency_threshold_ms=700), None),
        (Settings(monitor_latency=True, timeout_s=30.0), 0.7),
    ):
        rig = Rig(settings)
        for _ in range(1 if settings.counts else 4):
            rig.call(0.0, BAD)
        probe = rig.dial(30.0, line_s=line_s)
        rig.breaker.first_content(probe, 30.9)
        assert (rig.changes[-1].to, rig.changes[-1].reason, rig.changes[-1].at) == (OPEN, "probe_slow", 30.7)


def test_a_target_three_seconds_down_and_three_up_for_a_minute_is_neither_stuck_nor_hammered() -> None:
    rig = Rig()
    bad = served = 0
    for tick in range(600):
        now = tick / 10
        answer = rig.ask(now)
        if isinstance(answer, Permit):
            up = int(now // 3) % 2 == 1
            rig.breaker.start(answer, now, None)
            if up:
                rig.breaker.first_content(answer, now)
            rig.breaker.end(answer, OK if up else BAD, now)
            served += up
            bad += not up
    assert bad <= 25
    assert served >= 50
    assert all(c.from_ is not c.to for c in rig.changes)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_permits_are_used_once(n: int) -> None:
    rig = Rig()
    permit = rig.dial(0.0)
    if n == 1:
        with pytest.raises(RuntimeError):
            rig.breaker.start(permit, 0.0, None)
    elif n == 2:
        with pytest.raises(RuntimeError):
            rig.breaker.release(permit, 0.0)
    else:
        rig.breaker.end(permit, OK, 0.0)
        with pytest.raises(RuntimeError):
            rig.breaker.end(permit, OK, 0.0)
        rig.breaker.first_content(permit, 1.0)  # stragglers are no error
        rig.breaker.response_byte(permit, 1.0)
        assert rig.breaker.view(1.0)["counts"] == {"ok": 1}


def test_B6_local_rejects_leave_no_trace() -> None:
    rig = Rig()
    for _ in range(100):
        rig.call(0.0, LOCAL)
        rig.call(0.0, Outcome(cls=Class.CIRCUIT_OPEN))
    view = rig.breaker.view(0.0)
    assert (view["counts"], view["S_err"], view["in_flight"]) == ({}, 0.0, 0)


@pytest.mark.parametrize("odd", [-1e9, 0.0, math.nan, -math.inf, math.inf])
def test_B11_a_clock_that_jumps_back_or_is_no_number_does_nothing(odd: float) -> None:
    rig = Rig(FIVE)
    for _ in range(5):
        rig.call(100.0, BAD)
    assert rig.refused(odd) == "open"
    assert rig.breaker.retry_after_s(odd) == 30.0
    assert rig.dial(130.0).state is HALF_OPEN


def test_a_very_late_look_is_no_error() -> None:
    rig = Rig(Settings(monitor_latency=True))
    for _ in range(9):
        rig.dial(0.0, line_s=1.0)
    assert rig.state(1e300) is HALF_OPEN
    assert rig.dial(1e300).state is HALF_OPEN


# Forced states --------------------------------------------------------------------------------------------------------


def test_B1_forced_open_refuses_everybody_until_its_time_is_over() -> None:
    rig = Rig()
    rig.breaker.force(Forced.OPEN, 60.0, 0.0)
    assert rig.breaker.retry_after_s(50.0) == 10.0
    assert rig.breaker.view(50.0)["state"] is OPEN
    assert rig.refused(59.0, Settings(error_threshold=1000)) == "forced"
    assert rig.state(60.0) is CLOSED
    assert [(c.from_, c.to, c.at) for c in rig.changes] == [(CLOSED, OPEN, 0.0), (OPEN, CLOSED, 60.0)]
    rig.breaker.force(Forced.OPEN, None, 61.0)
    assert rig.breaker.retry_after_s(1e6) == 60.0
    rig.breaker.force(Forced.NONE, None, 1e6)
    assert rig.state(1e6) is CLOSED


def test_B1_forced_closed_admits_and_judges_nothing() -> None:
    rig = Rig()
    for _ in range(4):
        rig.call(0.0, BAD)
    rig.breaker.force(Forced.CLOSED, None, 0.0)
    for _ in range(20):
        rig.call(0.0, BAD, Settings(error_threshold=1))
    assert rig.state(0.0) is CLOSED
    rig.breaker.force(Forced.NONE, None, 1.0)
    assert rig.state(1.0) is OPEN  # as the machine left it


def test_B1_metrics_only_judges_and_reports_but_never_refuses() -> None:
    rig = Rig()
    rig.breaker.force(Forced.METRICS_ONLY, None, 0.0)
    for _ in range(20):
        rig.call(0.0, BAD)
    assert [c.to for c in rig.changes] == [OPEN]
    assert rig.breaker.view(0.0)["state"] is OPEN
    for _ in range(20):
        rig.call(10.0, OK)
    assert rig.breaker.view(10.0)["state"] is CLOSED


def test_forcing_voids_what_is_in_flight() -> None:
    rig = Rig(Settings(error_threshold=1, success_threshold=1))
    rig.call(0.0, BAD)
    probe = rig.dial(30.0)
    rig.breaker.force(Forced.OPEN, 31.0, 30.0)
    rig.breaker.first_content(probe, 32.0)
    assert rig.state(32.0) is HALF_OPEN
    rig.call(32.0, OK)
    assert rig.state(32.0) is CLOSED


def test_forcing_until_a_time_that_is_over_forces_nothing() -> None:
    rig = Rig()
    rig.breaker.force(Forced.OPEN, 5.0, 10.0)
    assert rig.state(10.0) is CLOSED
    assert rig.changes == []


# Requests' own policies -----------------------------------------------------------------------------------------------


def test_M2_no_statement_is_no_header_and_equal_policies_share_an_entry() -> None:
    rig = Rig()
    rig.call(0.0, OK, Settings())
    rig.call(0.0, OK, Settings(half_open_requests=3))  # the default: the base policy in other words
    assert rig.breaker.view(0.0)["overlays"] == 0
    rig.call(0.0, OK, Settings(error_threshold=5))
    rig.call(0.0, OK, Settings(error_threshold=5, timeout_s=30.0, excluded_errors=frozenset()))
    rig.call(0.0, OK, Settings(error_threshold_window_s=60.0))
    rig.call(0.0, OK, Settings(error_threshold=5, latency_threshold_ms=5000))
    assert rig.breaker.view(0.0)["overlays"] == 1


def test_each_key_comes_from_the_header_else_from_yaml_else_from_the_default() -> None:
    rig, header = Rig(Settings(timeout_s=7.0)), Settings(error_threshold=2)
    rig.call(0.0, BAD, header)
    rig.call(0.0, BAD, header)
    assert rig.breaker.retry_after_s(0.0, header) == 7.0
    rig, header = Rig(Settings(error_threshold=2, timeout_s=7.0)), Settings(timeout_s=3.0)
    rig.call(0.0, BAD)
    rig.call(0.0, BAD)
    assert rig.breaker.retry_after_s(0.0, Settings(error_threshold=2, timeout_s=3.0)) == 3.0
    assert rig.breaker.retry_after_s(0.0, header) == 7.0  # no rule of its own: the base refuses as well


def test_a_policy_without_a_rule_of_its_own_never_loosens() -> None:
    rig = Rig()
    for _ in range(4):
        rig.call(0.0, BAD)
    lenient = Settings(excluded_errors=frozenset({"server_error"}))
    assert rig.refused(0.0, lenient) == "open"


def test_a_policy_that_excludes_recomputes_its_detector() -> None:
    rig = Rig(Settings(excluded_errors=frozenset({"server_error"})))
    strict = Settings(excluded_errors=frozenset({"404"}))
    for _ in range(4):
        rig.call(0.0, BAD)
    assert rig.state(0.0) is CLOSED
    assert rig.refused(0.0, strict) == "overlay"


def test_a_policy_that_excludes_recomputes_the_connect_counter_with_its_resets() -> None:
    rig = Rig(Settings(excluded_errors=frozenset({"connect_error"})))
    strict = Settings(excluded_errors=frozenset({"404"}))
    rig.call(0.0, REFUSED_CONNECT)
    rig.call(1.0, REFUSED_CONNECT)
    rig.call(2.0, FAULTY_CALL)  # an answer: the row is broken
    rig.call(3.0, REFUSED_CONNECT)
    assert rig.state(3.0, strict) is CLOSED
    rig.call(4.0, REFUSED_CONNECT)
    rig.call(5.0, REFUSED_CONNECT)
    assert rig.state(5.0, strict) is OPEN
    assert rig.state(5.0) is CLOSED


def test_a_stored_policy_adds_up_what_it_sees_look_by_look() -> None:
    rig = Rig(Settings(excluded_errors=frozenset({"connect_error"})))
    strict = Settings(excluded_errors=frozenset({"404"}))
    for t in range(3):
        rig.call(float(t), REFUSED_CONNECT, strict)
    assert rig.refused(2.0, strict) == "overlay"
    assert rig.state(2.0) is CLOSED


def test_a_header_may_let_slowness_refuse_its_own_request() -> None:
    for stated in (Settings(monitor_latency=True), Settings(monitor_latency=True, latency_threshold_ms=1500)):
        for known_before in (True, False):
            rig = Rig(Settings(timeout_s=30.0))
            if known_before:
                rig.call(0.0, OK, stated)
            for t in range(4):
                rig.dial(float(t), line_s=1.5)
            assert rig.state(4.5, stated) is OPEN
            assert rig.state(4.5) is CLOSED
            if known_before:
                assert rig.breaker.retry_after_s(14.5, stated) == 20.0


def test_a_header_with_a_count_rule_sees_slow_attempts_once_while_and_after_they_run() -> None:
    stated = Settings(error_threshold=3, monitor_latency=True, latency_threshold_ms=1000)
    rig = Rig(Settings(error_threshold=1000))
    a, b, c = (rig.dial(float(t)) for t in range(3))
    assert rig.state(2.5, stated) is CLOSED  # two have passed: at 1 and at 2
    rig.ask(2.5, stated)
    rig.breaker.end(a, BAD, 2.6)  # counted already
    rig.breaker.first_content(b, 2.7)
    rig.breaker.end(b, OK, 2.8)
    assert rig.state(2.9, stated) is CLOSED
    rig.breaker.end(c, GONE, 2.9)  # left before the line
    assert rig.state(5.0, stated) is CLOSED
    rig.call(6.0, BAD)
    assert rig.refused(20.0, stated) == "overlay"
    assert rig.breaker.retry_after_s(20.0, stated) == 16.0  # open since the third, at 6


def test_an_overlay_judges_at_once_over_what_has_been() -> None:
    rig, header = Rig(Settings(error_threshold=1000)), Settings(error_threshold=3, timeout_s=10.0)
    for t in range(3):
        rig.call(float(t), BAD)
    assert rig.breaker.retry_after_s(5.0, header) == 7.0
    assert rig.breaker.view(5.0)["overlays"] == 0  # a look stores nothing


def test_an_overlays_probes_are_its_own_and_count_from_its_own_close() -> None:
    rig, header = Rig(Settings(error_threshold=1000)), Settings(error_threshold=2, timeout_s=10.0)
    old = rig.dial(0.0)
    rig.call(0.0, BAD, header)
    rig.call(0.0, BAD, header)
    assert rig.refused(9.9, header) == "overlay"
    rig.call(10.0, OK, header)
    rig.call(10.0, OK, header)
    rig.breaker.end(old, BAD, 11.0)  # from before the close
    rig.call(11.0, BAD)
    assert rig.state(11.0, header) is CLOSED
    rig.call(11.0, BAD)
    assert rig.state(11.0, header) is OPEN
    assert [c.to for c in rig.changes] == []


def test_one_lease_votes_for_base_and_overlay_each_with_its_own_filter() -> None:
    rig = Rig(Settings(error_threshold=2))
    header = Settings(error_threshold=2, excluded_errors=frozenset({"503"}))
    rig.call(0.0, BAD, header)
    rig.call(0.0, BAD, header)
    rig.call(30.0, BUSY, header)
    assert rig.state(30.0) is OPEN
    assert rig.state(30.0, header) is HALF_OPEN  # its own rule says so, and it may loosen


def test_B2_an_attempt_let_through_while_open_never_votes_in_the_bases_half_open() -> None:
    rig, header = Rig(Settings(error_threshold=2, success_threshold=1)), Settings(error_threshold=50)
    rig.call(0.0, BAD)
    rig.call(0.0, BAD)
    through = rig.dial(29.0, header)
    rig.dial(30.0)
    rig.breaker.first_content(through, 30.0)
    rig.breaker.end(through, OK, 30.0)
    assert rig.state(30.0) is HALF_OPEN


def test_a_trip_of_the_base_voids_its_view_of_an_overlays_probe() -> None:
    rig, header = Rig(Settings(error_threshold=3)), Settings(error_threshold=2, success_threshold=1, timeout_s=1.0)
    rig.call(0.0, BAD, header)
    rig.call(0.0, BAD, header)
    probe = rig.dial(1.0, header)  # the base is closed: the lease is the overlay's alone
    rig.call(1.0, BAD)
    rig.dial(31.0)  # the base probes
    rig.breaker.first_content(probe, 31.0)
    assert rig.state(31.0) is HALF_OPEN


def _policies() -> Callable[[int], Settings]:
    return lambda n: Settings(error_threshold=2, timeout_s=100.0 + n)


def test_B12_the_65th_policy_is_not_applied_and_says_so() -> None:
    rig, policy = Rig(Settings(error_threshold=1000)), _policies()
    rig.call(0.0, BAD)
    rig.call(0.0, BAD)
    for n in range(64):
        assert rig.refused(1.0, policy(n)) == "overlay"
    answer = rig.ask(1.0, policy(64))
    assert isinstance(answer, Permit)
    assert "not applied" in answer.warning
    assert rig.breaker.view(1.0)["overlays"] == 64
    assert rig.refused(1.0, policy(0)) == "overlay"


def test_B12_closed_entries_give_way_in_the_order_of_their_use() -> None:
    rig, policy = Rig(), _policies()
    for n in range(64):
        rig.call(0.0, OK, policy(n))
    rig.call(0.0, OK, policy(0))
    rig.call(0.0, OK, policy(64))
    rig.call(0.0, OK, policy(65))
    assert rig.breaker.view(0.0)["overlays"] == 64
    assert rig.ask(0.0, policy(1)).warning == ""


def test_B9_leases_of_headers_never_keep_a_probe_from_the_base() -> None:
    rig, policy = Rig(Settings(error_threshold=1000, half_open_requests=3)), _policies()
    rig.call(0.0, BAD)
    rig.call(0.0, BAD)
    for n in range(10):
        assert rig.refused(1.0, policy(n)) == "overlay"
    rig.breaker.reconfigure(Settings(error_threshold=3, half_open_requests=3, timeout_s=50.0), 2.0)
    held = []
    for n in range(10):
        answer = rig.ask(110.0, Settings(error_threshold=2, timeout_s=100.0 + n, half_open_requests=3))
        assert isinstance(answer, Permit)
        held.append(answer)
    for _ in range(3):
        rig.call(110.0, BAD)
    assert [rig.dial(160.0).state for _ in range(3)] == [HALF_OPEN] * 3
    assert rig.refused(160.0) == "half_open"
    leases = rig.breaker.view(160.0)["leases"]
    assert isinstance(leases, int)
    assert leases <= 10


def test_panic_admits_to_an_open_target_only_where_the_policy_says_so() -> None:
    for panic in (True, False):
        rig = Rig(Settings(error_threshold=1, success_threshold=1, panic=panic))
        rig.call(0.0, BAD)
        answer = rig.ask(1.0, panic=True)
        assert isinstance(answer, Permit) is panic
        if isinstance(answer, Permit):
            rig.breaker.start(answer, 1.0, None)
            rig.breaker.first_content(answer, 1.0)
            assert rig.state(1.0) is OPEN  # it has no vote
        rig.breaker.force(Forced.OPEN, None, 1.0)
        assert isinstance(rig.ask(1.0, panic=True), Refused)


# Further rules, reload, report ----------------------------------------------------------------------------------------


def test_a_rate_rule_opens_on_its_share_and_for_30_s() -> None:
    rig = Rig(Settings(rule=RateRule(size=10, minimum_calls=10, failure_rate_percent=50)))
    for n in range(9):
        rig.call(0.0, OK if n % 2 else BAD)
    assert rig.state(0.0) is CLOSED
    rig.call(0.0, OK)
    assert rig.changes[0].reason == "rate"
    assert rig.breaker.retry_after_s(0.0) == 30.0
    rig.call(30.0, OK)
    rig.call(30.0, OK)
    for _ in range(9):
        rig.call(30.0, BAD)
    assert rig.state(30.0) is CLOSED  # a fresh window after the close


def test_a_rate_rule_may_count_slow_answers() -> None:
    rig = Rig(Settings(rule=RateRule(window="time", size=60, minimum_calls=3, slow_call_s=2.0)))
    for t in (0.0, 3.0, 6.0):
        assert rig.state(t) is CLOSED
        permit = rig.dial(t)
        rig.breaker.first_content(permit, t + 2.0)
        rig.breaker.end(permit, OK, t + 2.0)
    assert rig.changes[0].reason == "rate"


def test_a_consecutive_rule_opens_and_a_header_with_filters_keeps_it() -> None:
    rig = Rig(Settings(rule=ConsecutiveRule(n=2)))
    header = Settings(excluded_errors=frozenset({"500"}))
    rig.call(0.0, BUSY, header)
    rig.call(0.0, BAD, header)
    assert rig.changes[0].reason == "consecutive"
    rig = Rig(Settings(rule=ConsecutiveRule(n=2), excluded_errors=frozenset({"503"})))
    rig.call(0.0, BUSY)
    rig.call(0.0, BUSY)
    assert rig.state(0.0) is CLOSED
    assert rig.state(0.0, header) is OPEN


def test_two_trip_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="two trip rules"):
        Settings(error_threshold=5, rule=ConsecutiveRule(n=2))


def test_a_reload_keeps_the_evidence_and_judges_with_the_next_outcome() -> None:
    rig = Rig(Settings(error_threshold=10))
    for t in range(4):
        rig.call(float(t), BAD)
    rig.breaker.reconfigure(Settings(error_threshold=5), 4.0)
    assert rig.state(4.0) is CLOSED
    assert rig.breaker.settings == Settings(error_threshold=5)
    rig.call(5.0, BAD)
    assert rig.state(5.0) is OPEN
    rig.breaker.reconfigure(Settings(error_threshold=500), 6.0)
    assert rig.state(6.0) is OPEN


def test_a_reload_that_watches_latency_finds_attempts_in_flight() -> None:
    rig = Rig(Settings(error_threshold=2))
    rig.dial(0.0)
    rig.dial(8.0)
    rig.breaker.reconfigure(Settings(error_threshold=2, monitor_latency=True), 9.0)
    assert rig.state(12.9) is CLOSED
    assert rig.state(13.0) is OPEN


def test_B3_a_reload_in_half_open_voids_the_leases_given_by_the_old_numbers() -> None:
    rig = Rig(Settings(error_threshold=1, half_open_requests=3))
    rig.call(0.0, BAD)
    probes = [rig.dial(30.0) for _ in range(3)]
    rig.breaker.reconfigure(Settings(error_threshold=1, half_open_requests=1), 30.0)
    rig.dial(30.0)
    assert rig.refused(30.0) == "half_open"
    for probe in probes:
        rig.breaker.end(probe, BAD, 31.0)
    assert rig.state(31.0) is HALF_OPEN


def test_the_report() -> None:
    rig = Rig(FIVE)
    for t in range(5):
        rig.call(float(t), REFUSED_CONNECT)
    rig.dial(34.0)
    view = rig.breaker.view(34.0)
    assert view["state"] is HALF_OPEN
    assert (view["reason"], view["opened_at"]) == ("error_threshold", 4.0)
    assert view["retry_after_s"] == 0.0  # two probes are free
    assert view["counts"] == {"connect_error.refused": 5}
    assert (view["in_flight"], view["leases"]) == (1, 1)
    assert view["mark"] is Mark.NORMAL


# What it must be like for others --------------------------------------------------------------------------------------


def _traffic(seed: int, headers: list[Settings | None], exclusion: Exclusion | None) -> tuple[list[object], object]:
    """Plain requests with headers merely looking in between; what the plain ones met, and the evidence after."""
    rng = random.Random(seed)
    rig = Rig(u=0.3)
    met: list[object] = []
    running: list[Permit] = []
    now = 0.0
    for _ in range(300):
        now += rng.choice((0.0, 0.1, 0.5, 2.0))
        for header in headers:
            answer = rig.ask(now, header, exclusion)
            rig.state(now, header)
            rig.breaker.retry_after_s(now, header)
            if isinstance(answer, Permit):
                rig.breaker.release(answer, now)
        plain = rig.ask(now)
        met.append((plain.state, isinstance(plain, Permit), rig.breaker.retry_after_s(now)))
        if isinstance(plain, Permit):
            rig.breaker.start(plain, now, rng.choice((None, 0.5, 1.0)))
            running.append(plain)
        if running and rng.random() < 0.8:
            permit = running.pop(rng.randrange(len(running)))
            outcome = rng.choice((OK, BAD, BAD, LIMITED, GONE, REFUSED_CONNECT, CUT))
            if outcome is OK:
                rig.breaker.first_content(permit, now)
            rig.breaker.end(permit, outcome, now)
    view = rig.breaker.view(now)
    for own in ("overlays", "overlays_refused", "generation"):
        del view[own]
    return [met, [(c.to, c.at, c.open_until) for c in rig.changes if c.to is OPEN]], view


@pytest.mark.parametrize("seed", range(12))
def test_B9_B10_headers_change_nothing_for_others_and_evidence_is_a_fold_of_outcomes(seed: int) -> None:
    rng = random.Random(seed)
    headers: list[Settings | None] = [
        Settings(
            error_threshold=rng.choice((None, 1, 3, 50)),
            timeout_s=rng.choice((None, 1.0, 100.0)),
            half_open_requests=rng.choice((None, 1, 10)),
            excluded_errors=rng.choice((None, frozenset({"connect_error"}))),
            monitor_latency=rng.choice((None, True)),
            latency_threshold_ms=rng.choice((None, 300)),
        )
        for _ in range(4)
    ]
    assert _traffic(seed, headers, Exclusion(failure_threshold=2)) == _traffic(seed, [], None)
