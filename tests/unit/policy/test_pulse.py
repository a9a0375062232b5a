"""The pulse of a target: windows that forget, rows, and the two sums."""

from __future__ import annotations

import math
import random

import pytest

from proxy.base.outcome import OK, Class, Outcome
from proxy.policy.latency import Latency
from proxy.policy.pulse import BAR, SAMPLES, WINDOW_S, Base, Pulse

KEY = (False, 0)
BAD = Outcome(cls=Class.SERVER_ERROR, status=500)
LATE = Outcome(cls=Class.TIMEOUT, sub="first_byte")


def learned(median_s: float = 1.0, spread: float = 0.5) -> Latency:
    """A target with 200 answers around a median."""
    latency, rng = Latency(), random.Random(7)
    for _ in range(200):
        latency.observe(KEY, median_s * math.exp(rng.gauss(0.0, spread)), 0.0)
    return latency


def test_counts_are_about_five_minutes() -> None:
    pulse = Pulse()
    for second in range(400):
        pulse.ended(KEY, OK if second % 2 else BAD, 0.1, bool(second % 2), float(second))
    counts = pulse.counts(399.0)
    assert counts.total() == pytest.approx(WINDOW_S, abs=5)
    assert counts["server_error"] == pytest.approx(WINDOW_S / 2, abs=3)
    assert pulse.counts(399.0 + WINDOW_S + 5.0).total() == 0


def test_slots_do_not_grow() -> None:
    pulse = Pulse()
    for second in range(10_000):
        pulse.ended(KEY, BAD, 0.1, False, float(second))
    assert len(pulse._slots) <= WINDOW_S / 5.0 + 1


def test_first_content_times_are_the_latest_and_those_of_five_minutes() -> None:
    pulse, latency = Pulse(), Latency()
    for n in range(SAMPLES + 10):
        pulse.content(KEY, n / 1000, latency, n / 10)
    assert sorted(pulse.latencies_ms(30.0)) == pytest.approx([float(n) for n in range(10, SAMPLES + 10)])
    assert pulse.latencies_ms(30.0 + WINDOW_S) == []


def test_a_row_is_of_bad_outcomes_and_ends_with_content() -> None:
    pulse, latency = Pulse(), Latency()
    for now, outcome in ((1.0, BAD), (2.0, LATE), (3.0, Outcome(cls=Class.INVALID_REQUEST, status=400)), (4.0, BAD)):
        pulse.ended(KEY, outcome, 0.1, False, now)
    assert (pulse.row, pulse.row_since, pulse.last) == (3, 1.0, "server_error")
    pulse.content(KEY, 0.1, latency, 5.0)
    assert pulse.row == 0
    pulse.ended(KEY, BAD, 0.1, True, 6.0)
    assert (pulse.row, pulse.row_since) == (1, 6.0)


def test_a_rate_limit_is_an_error_and_no_row() -> None:
    pulse = Pulse()
    pulse.ended(KEY, Outcome(cls=Class.RATE_LIMIT, status=429), 0.1, False, 1.0)
    assert (pulse.row, pulse.errors > 0.0) == (0, True)


@pytest.mark.parametrize(("share", "is_ill"), [(0.01, False), (0.02, False), (0.3, True)])
def test_the_sum_over_errors_knows_ill_from_well(share: float, is_ill: bool) -> None:
    pulse, rng = Pulse(), random.Random(3)
    top = 0.0
    for n in range(2000):
        pulse.ended(KEY, BAD if rng.random() < share else OK, 0.1, True, n / 10)
        top = max(top, pulse.errors)
    assert (top >= BAR) is is_ill
    assert top <= BAR


def test_four_tripled_answers_reach_the_bar_and_three_do_not() -> None:
    pulse, latency = Pulse(), Latency()
    for _ in range(100):
        latency.observe(KEY, 1.0, 0.0)
    for n in range(3):
        pulse.content(KEY, 3.0, latency, float(n))
    assert pulse.slowness < BAR
    pulse.content(KEY, 3.0, latency, 4.0)
    assert pulse.slowness == BAR
    pulse.content(KEY, 1.0, latency, 5.0)
    assert pulse.slowness < BAR / 2


def test_nothing_is_slow_before_enough_is_known() -> None:
    pulse, latency = Pulse(), Latency()
    for n in range(40):
        latency.observe(KEY, 0.1, 0.0)
        pulse.content(KEY, 9.0, latency, float(n))
    assert pulse.slowness == 0.0


def test_nothing_is_slow_below_fifty_milliseconds() -> None:
    pulse, latency = Pulse(), learned(0.002)
    for n in range(50):
        pulse.content(KEY, 0.04, latency, float(n))
    assert pulse.slowness == 0.0


def test_what_is_usual_is_held_while_it_is_suspected() -> None:
    pulse, latency = Pulse(), learned()
    for n in range(300):
        pulse.content(KEY, 3.0, latency, float(n))
        latency.observe(KEY, 3.0, float(n))
    assert pulse.slowness == BAR  # the histogram has long learned that 3 s is usual
    for n in range(1000, 1100):
        pulse.content(KEY, 3.0, latency, float(n))
    assert pulse.slowness == 0.0  # after 15 minutes it is


def test_a_timeout_adds_by_its_length_and_a_caller_who_leaves_adds_nothing() -> None:
    pulse, latency = Pulse(), learned()
    pulse.content(KEY, 1.0, latency, 1.0)
    pulse.ended(KEY, Outcome(cls=Class.CANCELLED, sub="downstream"), 60.0, False, 2.0)
    assert pulse.slowness == 0.0
    pulse.ended(KEY, Outcome(cls=Class.CANCELLED, sub="superseded"), 60.0, False, 3.0)
    assert pulse.slowness > 3.0


def test_hanging_attempts_add_the_more_the_longer_they_hang() -> None:
    pulse, latency = Pulse(), Latency()
    for _ in range(400):
        latency.observe(KEY, 1.0, 0.0)
    pulse.content(KEY, 1.0, latency, 1.0)
    assert pulse.hung((0.5, 1.9)) == 0.0
    assert pulse.hung((2.0,)) == pytest.approx(math.log(20) + 1.5 * math.log(2))
    assert pulse.hung((2.0, 2.0, 2.0)) >= BAR
    assert pulse.hung((10.0,)) == pulse.hung((100.0,)) == pytest.approx(math.log(401))  # no more is known


def two_modes(share: float) -> Latency:
    """A target of which this share of the answers takes 5 to 20 s, the others about half a second."""
    latency, rng = Latency(), random.Random(5)
    for n in range(500):
        slow = n % round(1 / share) == 0
        latency.observe(KEY, rng.uniform(5.0, 20.0) if slow else 0.6 * math.exp(rng.gauss(0.0, 0.5)), 0.0)
    return latency


def test_what_is_known_to_be_slow_now_and_then_adds_little() -> None:
    pulse = Pulse()
    for n in range(10):
        pulse.content(KEY, 8.0 + n / 10, two_modes(0.04), float(n))
    assert 0.0 < pulse.slowness < BAR / 2
    assert pulse.hung((4.0, 4.0)) < BAR * 0.75
    pulse.content(KEY, 30.0, two_modes(0.04), 11.0)  # that has never been seen
    assert pulse.slowness > BAR * 0.1
    other = Pulse()
    for n in range(5):
        other.content(KEY, 8.0 + n / 10, learned(0.6), float(n))
    assert other.slowness == BAR


@pytest.mark.parametrize("spread", [0.2, 0.5, 0.8, 1.2])
def test_one_answer_is_bounded_and_the_keener_sum_is_never_below_the_other(spread: float) -> None:
    base = Base(1.0, math.exp(1.645 * spread), [], 0, 0.0)
    assert base.most == pytest.approx(min(3.0, (math.log(3) / spread) ** 2 / 2), abs=0.01)
    assert base.most <= base.keener <= 1.5 * base.most
    assert base.ratio(1e-3) == base.ratio(0.06) == -base.half
    pulse, latency, rng = Pulse(), learned(1.0, spread), random.Random(2)
    for n in range(300):
        pulse.content(KEY, rng.choice((1.0, 3.0)) * math.exp(rng.gauss(0.0, spread)), latency, n / 10)
        assert 0.0 <= pulse.slowness <= pulse.suspicion <= BAR


def test_a_trial_is_of_what_began_after_its_beginning() -> None:
    pulse, latency = Pulse(), learned()
    pulse.try_since(10.0)
    pulse.content(KEY, 3.0, latency, 12.9)  # began before
    assert pulse.trial == 0.0
    pulse.content(KEY, 3.0, latency, 13.1)
    slow = pulse.trial
    assert slow > 1.0
    pulse.content(KEY, 0.6, latency, 14.0)
    assert pulse.trial < slow
    pulse.try_since(math.inf)
    pulse.content(KEY, 3.0, latency, 20.0)
    assert pulse.trial == 0.0


def test_settled_forgets_the_outage_and_keeps_the_counts() -> None:
    pulse = Pulse()
    for n in range(10):
        pulse.ended(KEY, BAD, 0.1, False, float(n))
    pulse.settled()
    assert (pulse.errors, pulse.row) == (0.0, 0)
    assert pulse.counts(10.0)["server_error"] == 10
