from __future__ import annotations

import itertools
import math

import pytest

from proxy.policy.cooldown import Cooldown


def high() -> float:
    return 1.0


def low() -> float:
    return 0.0


def never() -> float:
    raise AssertionError("a told wait draws no random number")


def test_a_fresh_target_is_free() -> None:
    cooldown = Cooldown()
    assert cooldown.remaining_s(0.0) == 0.0
    assert cooldown.reason == ""


def test_S24_a_told_wait_is_kept_up_to_five_minutes_and_uncapped_beside_it() -> None:
    cooldown = Cooldown()
    assert cooldown.extend(100.0, 120.0, never, "rate_limit") == 220.0
    assert cooldown.remaining_s(150.0) == 70.0
    assert cooldown.reason == "rate_limit"
    assert cooldown.extend(150.0, 86_400.0, never, "rate_limit") == 450.0
    assert cooldown.told_remaining_s(150.0) == 86_400.0
    assert cooldown.remaining_s(450.0) == 0.0


@pytest.mark.parametrize("order", list(itertools.permutations([(0.0, 10.0), (2.0, 3.0), (4.0, 1.0), (1.0, 30.0)])))
def test_R5_the_later_time_wins_in_every_order(order: tuple[tuple[float, float], ...]) -> None:
    cooldown = Cooldown()
    last = -math.inf
    for now, wait in order:
        until = cooldown.extend(now, wait, never, "rate_limit")
        assert until >= last
        last = until
    assert last == 31.0


def test_S23_a_told_wait_of_zero_is_at_once() -> None:
    cooldown = Cooldown()
    cooldown.extend(5.0, 0.0, never, "rate_limit")
    assert cooldown.remaining_s(5.0) == 0.0


def test_untold_waits_double_up_to_thirty_seconds_with_equal_jitter() -> None:
    cooldown, now = Cooldown(), 0.0
    waits = []
    for _ in range(8):
        now = cooldown.extend(now, None, high, "rate_limit")
        waits.append(now - sum(waits))
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
    assert Cooldown().extend(0.0, None, low, "rate_limit") == 0.5


def test_a_success_begins_the_guesses_anew_but_ends_no_cooldown() -> None:
    cooldown = Cooldown()
    for now in (0.0, 10.0, 20.0):
        cooldown.extend(now, None, high, "rate_limit")
    cooldown.reset_streak()
    assert cooldown.remaining_s(20.0) == 4.0
    assert cooldown.extend(100.0, None, high, "rate_limit") == 101.0


def test_refusals_of_one_episode_are_one_step() -> None:
    cooldown = Cooldown()
    for _ in range(50):
        until = cooldown.extend(10.0, None, high, "rate_limit")
    assert until == 11.0
    assert cooldown.extend(11.0, None, high, "rate_limit") == 13.0


@pytest.mark.parametrize("told", [-1.0, math.nan])
def test_what_is_no_wait_is_guessed(told: float) -> None:
    assert Cooldown().extend(0.0, told, high, "rate_limit") == 1.0


def test_endless_waits_are_capped() -> None:
    cooldown = Cooldown()
    assert cooldown.extend(0.0, math.inf, never, "rate_limit") == 300.0
    assert cooldown.told_remaining_s(0.0) == math.inf


def test_a_refused_credential_is_out_for_five_minutes_or_as_told() -> None:
    cooldown = Cooldown()
    assert cooldown.out(0.0, reason="auth") == 300.0
    assert cooldown.reason == "auth"
    assert cooldown.out(10.0, 20.0, reason="quota_exceeded") == 300.0, "never earlier"
    assert cooldown.reason == "auth", "the reason is that of the time that counts"
    assert Cooldown().out(0.0, 20.0, "quota_exceeded") == 20.0


def test_a_new_reason_replaces_one_that_is_over() -> None:
    cooldown = Cooldown()
    cooldown.extend(0.0, 5.0, never, "rate_limit")
    cooldown.out(100.0, 10.0, "permission")
    assert cooldown.reason == "permission"


def test_wrong_clocks_never_shorten_it() -> None:
    cooldown = Cooldown()
    cooldown.extend(100.0, 50.0, never, "rate_limit")
    cooldown.extend(-1e9, 50.0, never, "rate_limit")
    cooldown.extend(math.nan, 50.0, never, "rate_limit")
    assert cooldown.remaining_s(100.0) == 50.0


def test_clear_is_the_operators_word() -> None:
    cooldown = Cooldown()
    cooldown.out(0.0, reason="auth")
    cooldown.clear()
    assert (cooldown.remaining_s(0.0), cooldown.told_remaining_s(0.0), cooldown.reason) == (0.0, 0.0, "")
