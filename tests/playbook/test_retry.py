"""The same target again: how long is waited, when not, and what it costs."""

from __future__ import annotations

import pytest

from proxy.base.outcome import Class
from proxy.engine.plan import Plan, Retry, RetryRule
from proxy.policy import backoff
from proxy.policy.backoff import Jitter, Strategy
from tests.playbook.driver import Act, Stage, amend, chain, e429, e500, e503, fails, ok, plan, refused, timeout

RATE = frozenset({"rate_limit"})


def retrying(
    *names: str, strategy: Strategy = "exponential", jitter: Jitter = "full", n: int = 3, **over: object
) -> Plan:
    shape = backoff.Settings(strategy=strategy, jitter=jitter, **over)  # type: ignore[arg-type]
    return plan(*names, retry=Retry(max_retries=n, backoff=shape))


def ruled(*rules: RetryRule, names: tuple[str, ...] = ("a", "b"), n: int = 2, **over: object) -> Plan:
    return plan(*names, retry=Retry(max_retries=n, rules=rules), **over)


# Schedules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "jitter", "waits"),
    [
        ("exponential", "none", [0.25, 0.5, 1.0]),
        ("exponential", "full", [0.2, 0.4, 0.8]),
        ("exponential", "equal", [0.225, 0.45, 0.9]),
        ("linear", "none", [0.25, 0.5, 0.75]),
        ("linear", "full", [0.2, 0.4, 0.6]),
        ("linear", "equal", [0.225, 0.45, 0.675]),
        ("constant", "none", [0.25, 0.25, 0.25]),
        ("constant", "full", [0.2, 0.2, 0.2]),
        ("constant", "equal", [0.225, 0.225, 0.225]),
        ("immediate", "none", [0.0, 0.0, 0.0]),
        ("immediate", "full", [0.0, 0.0, 0.0]),
        # min(cap, base + (3 * previous - base) * u), previous = base at first
        ("decorrelated", "full", [0.65, 1.61, 3.914]),
        ("exponential", "decorrelated", [0.65, 1.61, 3.914]),
    ],
)
def test_R4_every_strategy_and_jitter_waits_exactly_so_long(
    strategy: Strategy, jitter: Jitter, waits: list[float]
) -> None:
    story = Stage(dice=0.8).play(retrying("a", strategy=strategy, jitter=jitter), {"a": [e500()] * 3 + [ok()]})
    assert story.waits == pytest.approx(waits)
    assert story.kinds == "first retry retry retry"
    assert story.served is not None


def test_R4_the_cap_bounds_every_wait() -> None:
    story = Stage().play(retrying("a", jitter="none", max_s=0.4), {"a": [e500()] * 3 + [ok()]})
    assert story.waits == pytest.approx([0.25, 0.4, 0.4])


def test_delays_ms_are_the_schedule_outright_and_the_last_repeats() -> None:
    story = Stage().play(retrying("a", delays_s=(0.0, 1.0)), {"a": [e500()] * 3 + [ok()]})
    assert story.waits == pytest.approx([0.0, 1.0, 1.0])


def test_R7_retries_on_one_target_stay_within_its_allowance() -> None:
    for n in range(4):
        story = Stage().play(retrying("a", n=n), {"a": refused(0.0)} if n < 3 else {"a": e429()})
        assert story.path == " ".join("a" * (len(story.dials)))
        assert len(story.dials) <= n + 1
    assert Stage().play(retrying("a", n=0), {"a": e500()}).path == "a"


def test_X_Max_Retries_on_the_fallbacks_too() -> None:
    the_plan = plan(candidates=chain("a", "b", retries=1))
    the_plan = amend(the_plan, 1, retries=1)
    assert Stage().play(the_plan, {"a": e500(), "b": e500()}).path == "a a b b"


@pytest.mark.parametrize(
    ("act", "again"),
    [
        (e500(), True),
        (e503(), True),
        (refused(), True),
        (timeout(2.0, "connect"), True),
        (timeout(2.0, "first_byte"), False),
        (timeout(2.0, "first_content"), False),
        (fails(Class.STREAM_INTERRUPTED), False),
        (fails(Class.QUOTA_EXCEEDED, status=429), False),
        (fails(Class.AUTH, status=401), False),
        (fails(Class.INVALID_REQUEST, status=400), False),
    ],
)
def test_what_is_retried_by_default(act: Act, again: bool) -> None:
    story = Stage().play(plan("a"), {"a": [act, ok()]})
    assert story.path == ("a a" if again else "a")


def test_retry_on_replaces_the_default_set() -> None:
    only = plan("a", retry=Retry(retry_on=frozenset({"timeout"})))
    assert Stage().play(only, {"a": [timeout(2.0), ok()]}).path == "a a"
    assert Stage().play(only, {"a": [e500(), ok()]}).path == "a"


def test_x_should_retry_overrides_both_ways_and_never_failover() -> None:
    no = fails(Class.SERVER_ERROR, status=500, should_retry=False)
    yes = fails(Class.TIMEOUT, sub="first_byte", should_retry=True)
    assert Stage().play(plan("a", "b"), {"a": no, "b": ok()}).path == "a b"
    assert Stage().play(plan("a", "b"), {"a": [yes, ok()]}).path == "a a"
    # It cannot make the caller's fault, or the target's, retryable.
    for cls in (Class.INVALID_REQUEST, Class.AUTH):
        assert Stage().play(plan("a"), {"a": fails(cls, should_retry=True)}).path == "a"


# Told waits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("u", "wait"), [(0.0, 2.0), (0.5, 2.275), (0.999, 2.54945)])
def test_R5_a_told_wait_is_slept_out_and_a_little_more(u: float, wait: float) -> None:
    # U(RA, 1.25 RA + 50 ms)
    story = Stage(dice=u).play(plan("a", "b"), {"a": [e429(2.0), ok()]})
    assert story.path == "a a"
    assert story.waits == pytest.approx([wait])


def test_a_told_wait_of_zero_means_at_once() -> None:
    assert Stage().play(plan("a", "b"), {"a": [e429(0.0), ok()]}).waits == [0.0]


def test_a_told_wait_above_three_seconds_means_failover_now() -> None:
    stage = Stage()
    story = stage.play(plan("a", "b"), {"a": e429(3.1), "b": ok()})
    assert (story.path, story.waits) == ("a b", [0.0])
    assert stage.tokens("a") == 10.0


def test_a_cool_down_is_shared_by_all_requests_and_ends_by_time_alone() -> None:
    stage = Stage()
    stage.play(plan("a", "b"), {"a": e429(20.0), "b": ok()})
    for _ in range(50):
        story = stage.play(plan("a", "b"), {"b": ok()})
        assert story.path == "b"
        assert story.machine.failover_reason() == "rate_limit"
        assert story.machine.primary_wait_s(stage.now) > 0.0
    assert stage.state("a").breaker.view(stage.now)["state"] == "closed"
    stage.wait(20.0)
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


def test_R5_a_cool_down_never_moves_to_an_earlier_time() -> None:
    stage = Stage()
    long = stage.begin(plan("a"), {"a": e429(60.0, after=0.1)})
    short = stage.begin(plan("a", "b"), {"a": e429(1.0, after=0.2), "b": ok()})
    stage.run()
    assert long.failed == (0.1, "rate_limit")
    # The wait it was told would be over, the other request's is not: to b at once, without waiting for nothing.
    assert (short.path, short.waits) == ("a b", [0.0])
    assert stage.state("a").cooling_s(stage.now) > 59.0


def test_an_untold_429_is_retried_after_the_later_of_backoff_and_cool_down() -> None:
    # Cool-down 0.5 + 0.5 * 0.5 s, backoff 0.125 s.
    story = Stage(dice=0.5).play(plan("a", "b"), {"a": [e429(), ok()]})
    assert story.path == "a a"
    assert story.waits == pytest.approx([0.751])


def test_after_a_told_wait_the_exponent_starts_again() -> None:
    the_plan = retrying("a", jitter="none", n=5)
    story = Stage(dice=0.0).play(the_plan, {"a": [e500(), e500(), e429(1.0), e500(), ok()]})
    assert story.waits == pytest.approx([0.25, 0.5, 1.0, 0.25])


def test_a_429_that_no_wait_can_cure_goes_on_and_cools_nobody() -> None:
    stage = Stage()
    too_large = fails(Class.RATE_LIMIT, status=429, told_wait_s=0.5, no_wait_helps=True)
    assert stage.play(plan("a", "b"), {"a": too_large, "b": ok()}).path == "a b"
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


def test_a_503_that_tells_a_wait_cools_the_target_down() -> None:
    stage = Stage()
    told = fails(Class.MODEL_OVERLOADED, status=503, told_wait_s=10.0)
    assert stage.play(plan("a", "b"), {"a": told, "b": ok()}).path == "a b"
    assert stage.state("a").cooling_s(stage.now) == pytest.approx(9.8, abs=0.1)


def test_one_absurd_header_takes_a_target_out_for_five_minutes_at_most() -> None:
    stage = Stage()
    stage.play(plan("a", "b"), {"a": e429(86_400.0), "b": ok()})
    stage.wait(301.0)
    assert stage.play(plan("a", "b"), {"a": ok()}).path == "a"


# X-Retry-Config rules -------------------------------------------------------------------------------------------------


def test_parse_retry_after_header_up_to_max_wait() -> None:
    rule = RetryRule(names=RATE, told=True, max_wait_s=60.0)
    story = Stage(dice=0.0).play(ruled(rule), {"a": [e429(30.0), ok()]})
    assert (story.path, story.waits) == ("a a", [30.0])
    assert Stage().play(ruled(rule), {"a": e429(60.1), "b": ok()}).path == "a b"


def test_parse_retry_after_header_without_the_header_is_the_plain_backoff() -> None:
    rule = RetryRule(names=frozenset({"model_overloaded"}), told=True, max_wait_s=60.0)
    story = Stage(dice=0.8).play(ruled(rule), {"a": [e503(), ok()]})
    assert story.waits == pytest.approx([0.2])


def test_a_wait_beyond_what_the_deadline_leaves_is_failover_now() -> None:
    rule = RetryRule(names=RATE, told=True, max_wait_s=60.0)
    story = Stage().play(ruled(rule, timeout_s=20.0), {"a": e429(30.0), "b": ok()})
    assert (story.path, story.waits) == ("a b", [0.0])


def test_a_fixed_wait_and_its_bound() -> None:
    rule = RetryRule(names=frozenset({"server_error"}), wait_s=0.7)
    assert Stage().play(ruled(rule), {"a": [e500(), e500(), ok()]}).waits == [0.7, 0.7]
    bounded = RetryRule(names=frozenset({"server_error"}), wait_s=0.7, max_wait_s=0.5)
    assert Stage().play(ruled(bounded), {"a": e500(), "b": ok()}).path == "a b"


def test_a_fixed_wait_that_is_shorter_than_the_cool_down_waits_for_it() -> None:
    rule = RetryRule(names=RATE, wait_s=0.1)
    story = Stage(dice=0.5).play(ruled(rule), {"a": [e429(), ok()]})
    assert story.path == "a a"
    assert story.waits == pytest.approx([0.751])


def test_immediate_failover() -> None:
    rule = RetryRule(names=frozenset({"server_error"}), immediate_failover=True)
    assert Stage().play(ruled(rule), {"a": e500(), "b": ok()}).path == "a b"
    assert Stage().play(ruled(rule), {"a": [e503(), ok()]}).path == "a a"  # no rule: the plain config


def test_the_first_rule_that_covers_the_failure_decides() -> None:
    first = RetryRule(names=frozenset({"timeout.first_byte"}), wait_s=0.3)
    second = RetryRule(names=frozenset({"timeout"}), immediate_failover=True)
    assert Stage().play(ruled(first, second), {"a": [timeout(2.0), ok()]}).waits == [0.3]
    assert Stage().play(ruled(first, second), {"a": timeout(2.0, "connect"), "b": ok()}).path == "a b"


def test_attempts_with_switch_provider_after() -> None:
    rule = RetryRule(names=frozenset({"timeout"}), attempts_s=(0.1, 0.2, 0.5, 1.0, 2.0), switch_after=2)
    story = Stage().play(ruled(rule, names=("a", "b", "c")), dict.fromkeys("abc", timeout(1.0)))
    # Two on each; before another target there is no wait, and the list of delays runs on.
    assert story.path == "a a b b c c"
    assert story.waits == pytest.approx([0.1, 0.0, 0.5, 0.0, 2.0])
    assert story.failed is not None


def test_attempts_without_switch_use_the_list_up_then_move_on() -> None:
    rule = RetryRule(names=frozenset({"server_error"}), attempts_s=(0.1, 0.2))
    story = Stage().play(ruled(rule, n=0), {"a": e500(), "b": ok()})
    assert story.path == "a a a b"
    assert story.waits == pytest.approx([0.1, 0.2, 0.0])


def test_switch_provider_after_asks_for_a_fallback_of_this_very_class() -> None:
    rule = RetryRule(names=frozenset({"server_error"}), attempts_s=(0.1, 0.2, 0.3), switch_after=1)
    the_plan = amend(ruled(rule), 1, trigger=frozenset({Class.SERVER_ERROR}))
    assert Stage().play(the_plan, {"a": e500(), "b": ok()}).path == "a b"
    elsewhere = amend(ruled(rule), 1, trigger=frozenset({Class.TIMEOUT}))
    assert Stage().play(elsewhere, {"a": e500(), "b": ok()}).path == "a a a a"


# Budget ---------------------------------------------------------------------------------------------------------------


def test_U2_a_retry_costs_one_token_and_two_after_a_timeout() -> None:
    stage = Stage()
    stage.play(plan("a"), {"a": [e500(), ok()]})
    assert stage.tokens("a") == pytest.approx(9.1)
    stage.play(plan("a"), {"a": [timeout(1.0, "connect"), ok()]})
    assert stage.tokens("a") == pytest.approx(7.2)


def test_U5_only_the_targets_own_events_move_its_tokens() -> None:
    stage = Stage()
    stage.play(plan("a", "b"), {"a": e503(), "b": ok()})
    assert stage.tokens("a") == 8.0
    assert stage.tokens("b") == 10.0  # at its cap
    assert stage.tokens("c") == 10.0


def test_U4_without_tokens_there_is_no_retry_and_with_one_no_retry_after_a_timeout() -> None:
    stage = Stage()
    for _ in range(9):
        stage.state("a").budget.withdraw(1.0, stage.now)
    assert stage.play(plan("a", "b"), {"a": timeout(1.0, "connect"), "b": ok()}).path == "a b"
    assert stage.play(plan("a", "b"), {"a": [e500(), ok()]}).path == "a a"
    assert stage.play(plan("a", "b"), {"a": e500(), "b": ok()}).path == "a b"
    assert stage.state("a").budget.refused == 2


def test_U3_a_retry_that_is_not_dialled_after_its_wait_is_refunded() -> None:
    stage = Stage()
    waiting = stage.begin(retrying("a", "b", jitter="none"), {"a": e500(), "b": ok()})
    stage.run(until=0.2)
    assert stage.tokens("a") == 9.0
    stage.play(plan("a"), {"a": e429(10.0, after=0.01)})  # somebody else cools the target down meanwhile
    stage.run()
    assert waiting.path == "a b"
    assert stage.tokens("a") == 10.0


def test_U2_load_on_a_target_that_only_fails_is_bounded_over_any_prefix() -> None:
    stage = Stage()
    extra = 0
    for second in range(600):
        story = stage.play(plan(candidates=chain("a", retries=2)), {"a": e429(0.0, after=0.01)})
        extra += len(story.dials) - 1
        assert extra <= 10 + (second + 11) // 10
        stage.run(until=float(second + 1))
    assert extra <= 70
