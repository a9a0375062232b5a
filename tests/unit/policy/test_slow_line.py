"""The time that first content is held against."""

from __future__ import annotations

from proxy.policy.slow_line import HELD_S, SlowLine

KEY, OTHER = (False, 0), (True, 0)


def test_the_line_follows_what_is_learned_until_the_target_is_suspected() -> None:
    line = SlowLine()
    assert line.at(KEY, None, False, 0.0) is None
    assert line.at(KEY, 1.0, False, 1.0) == 1.0
    assert line.at(KEY, 1.2, False, 2.0) == 1.2
    assert line.at(KEY, 5.0, True, 3.0) == 1.2
    assert line.at(KEY, None, True, 4.0) == 1.2
    assert line.at(KEY, 5.0, False, 5.0) == 5.0


def test_a_kind_that_was_not_called_before_has_no_line_that_could_be_held() -> None:
    line = SlowLine()
    line.at(KEY, 1.0, False, 0.0)
    assert line.at(OTHER, 3.0, True, 1.0) == 3.0
    assert line.at(OTHER, None, True, 1.0) is None


def test_after_a_quarter_of_an_hour_it_follows_again() -> None:
    line = SlowLine()
    line.at(KEY, 1.0, False, 0.0)
    assert line.at(KEY, 3.0, True, 10.0) == 1.0
    assert line.at(KEY, 3.0, True, 10.0 + HELD_S - 0.1) == 1.0
    assert line.at(KEY, 3.0, True, 10.0 + HELD_S) == 3.0
    assert line.at(KEY, None, True, 11.0 + HELD_S) == 3.0  # too few samples: the last one serves
    assert line.at(KEY, 3.0, False, 1000.0) == 3.0
    assert line.at(KEY, 9.0, True, 1001.0) == 3.0  # a new suspicion holds it anew
