from __future__ import annotations

import math
import random

import pytest

from proxy.policy.limiter import Limiter


def test_Q1_admits_up_to_the_bound_and_no_further() -> None:
    limiter = Limiter(3)
    assert [limiter.try_acquire() for _ in range(4)] == [True, True, True, False]
    limiter.release()
    assert limiter.try_acquire()
    assert (limiter.inflight, limiter.refused) == (3, 1)


def test_Q5_a_permit_cannot_be_released_twice() -> None:
    limiter = Limiter(1)
    limiter.try_acquire()
    limiter.release()
    with pytest.raises(RuntimeError):
        limiter.release()
    assert limiter.inflight == 0


@pytest.mark.parametrize("bound", [0, -1, math.nan])
def test_a_bound_below_one_is_refused(bound: float) -> None:
    with pytest.raises(ValueError):
        Limiter(bound)


def test_loss_cuts_by_a_fifth_once_per_first_content_time() -> None:
    limiter = Limiter(10)
    limiter.on_loss(100.0, 2.0)
    assert limiter.limit == 8.0
    limiter.on_loss(100.9, 2.0)
    assert limiter.limit == 8.0, "the same round trip"
    limiter.on_loss(101.5, 1.5)
    assert limiter.limit == pytest.approx(6.4)


def test_a_burst_of_losses_is_one_piece_of_news_even_without_a_median() -> None:
    limiter = Limiter(100)
    for _ in range(50):
        limiter.on_loss(5.0, 0.0)
    assert limiter.limit == 80.0


def test_admission_is_by_the_whole_part_of_the_limit() -> None:
    limiter = Limiter(3)
    limiter.on_loss(0.0, 1.0)
    assert limiter.limit == pytest.approx(2.4)
    assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]


def test_Q1_after_a_cut_nothing_is_admitted_until_enough_have_ended() -> None:
    limiter = Limiter(5)
    for _ in range(5):
        limiter.try_acquire()
    limiter.on_loss(0.0, 1.0)
    limiter.release()
    assert not limiter.try_acquire()
    limiter.release()
    assert limiter.try_acquire()


def test_success_raises_by_one_over_the_limit_while_half_used() -> None:
    limiter = Limiter(10)
    limiter.on_loss(0.0, 1.0)
    for _ in range(4):
        limiter.try_acquire()
    limiter.release()
    limiter.on_ok(0.5, 1.0)
    assert limiter.limit == pytest.approx(8.0 + 1 / 8.0)
    limiter.release()
    limiter.on_ok(0.6, 1.0)
    assert limiter.limit == pytest.approx(8.125), "three of eight in use: no sign that more would fit"


def test_each_second_without_loss_gives_one_back_up_to_the_bound() -> None:
    limiter = Limiter(100)
    for at in range(0, 10, 2):
        limiter.on_loss(float(at), 1.0)
    cut = limiter.limit
    assert limiter.try_acquire(8.9)
    assert limiter.limit == pytest.approx(cut)
    assert limiter.try_acquire(9.0)
    assert limiter.limit == pytest.approx(cut + 1)
    limiter.try_acquire(11.5)
    assert limiter.limit == pytest.approx(cut + 3)
    limiter.try_acquire(1e300)
    assert limiter.limit == 100.0


def test_a_target_from_which_nothing_comes_back_is_not_frozen_at_one() -> None:
    limiter = Limiter(4)
    for at in range(20):
        limiter.on_loss(at * 1.0, 1.0)
    assert limiter.limit >= 1.0
    assert [limiter.try_acquire(60.0) for _ in range(5)] == [True] * 4 + [False]


def test_wrong_clocks_neither_cut_nor_raise() -> None:
    limiter = Limiter(10)
    limiter.on_loss(100.0, 1.0)
    limiter.try_acquire(-1e9)
    limiter.try_acquire(math.nan)
    limiter.on_loss(50.0, 1.0)
    assert limiter.limit == 8.0


def test_an_unbounded_limiter_never_refuses() -> None:
    limiter = Limiter(math.inf)
    limiter.on_loss(0.0, 1.0)
    assert all(limiter.try_acquire(float(n)) for n in range(1000))
    limiter.on_ok(1.0, 1.0)
    assert limiter.limit == math.inf


def test_Q6_the_limit_stays_between_one_and_the_bound_in_any_order() -> None:
    dice = random.Random(7)
    for bound in (1, 2, 7, 256):
        limiter, now = Limiter(bound), 0.0
        for _ in range(3000):
            now += dice.random() * dice.choice([0.01, 1.0, 5.0])
            if dice.random() < 0.5:
                limiter.try_acquire(now if dice.random() < 0.8 else None)
            elif limiter.inflight:
                limiter.release()
                if dice.random() < 0.5:
                    limiter.on_ok(now, 0.5)
                else:
                    limiter.on_loss(now, dice.choice([0.0, 0.5]))
            assert 1.0 <= limiter.limit <= bound
            assert 0 <= limiter.inflight <= bound


@pytest.mark.parametrize(
    ("bound", "losses", "other", "limit"), [(10, 0, 20, 20), (10, 0, 4, 4), (10, 1, 20, 8), (10, 1, 5, 5)]
)
def test_another_bound_frees_what_was_free_and_keeps_what_had_yielded(
    bound: int, losses: int, other: int, limit: float
) -> None:
    limiter = Limiter(bound)
    for _ in range(losses):
        assert limiter.try_acquire(0.0)
        limiter.release()
        limiter.on_loss(0.0, 1.0)
    limiter.rebind(other)
    assert (limiter.bound, limiter.limit) == (other, limit)
    limiter.try_acquire(100.0)
    assert limiter.limit == other  # seconds without a loss raise it to the bound, not further
