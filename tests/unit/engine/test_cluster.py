from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.base.outcome import OK, Class, Outcome
from proxy.base.target import Target
from proxy.engine.cluster import Cluster, Cooled, Event, Moved, TargetState
from proxy.engine.plan import Candidate
from proxy.policy.breaker import Permit, Settings, State

NOW = 50.0
KEY = (False, 0)


def dice() -> float:
    return 0.5


def candidate(provider: str = "a", model: str = "m", credential: str = "") -> Candidate:
    return Candidate(target=Target(provider, model, credential))


def attempt(cluster: Cluster, which: Candidate, now: float = NOW) -> tuple[TargetState, Callable[..., None]]:
    """Dial once; the second value ends the attempt."""
    state = cluster.state(which, now)
    assert state.limiter.try_acquire(now)
    permit = state.breaker.admit(now)
    assert isinstance(permit, Permit)
    cluster.dialled(state, permit, KEY, now)

    def end(outcome: Outcome, after: float = 0.1, content: bool = False) -> None:
        if content:
            cluster.content(state, permit, KEY, after, now + after)
        cluster.ended(state, permit, KEY, outcome, after, content, 600.0, now + after)

    return state, end


def hit(cluster: Cluster, which: Candidate, cls: Class, now: float = NOW, **told: object) -> TargetState:
    state, end = attempt(cluster, which, now)
    end(Outcome(cls=cls, **told), 0.0)  # type: ignore[arg-type]
    return state


def test_a_target_has_one_state_for_all_candidates_that_name_it() -> None:
    cluster = Cluster(dice)
    first = cluster.state(candidate(), NOW)
    assert cluster.state(Candidate(target=Target("a", "m"), retries=5, weight=7), NOW) is first
    assert cluster.state(candidate(model="other"), NOW) is not first
    assert cluster.state(candidate(credential="k"), NOW) is not first


def test_U1_R9_an_attempt_takes_and_returns() -> None:
    cluster = Cluster(dice)
    state, end = attempt(cluster, candidate())
    assert (state.inflight, state.limiter.inflight) == (1, 1)
    end(OK, 0.5, content=True)
    assert (state.inflight, state.limiter.inflight) == (0, 0)
    assert state.latency.count == 1
    assert state.load.cost_s(NOW + 0.5) == 0.5


@pytest.mark.parametrize(
    ("outcome", "content", "samples"),
    [
        (OK, True, 1),
        (Outcome(cls=Class.CANCELLED, sub="superseded"), False, 1),
        (Outcome(cls=Class.TIMEOUT, sub="first_byte"), False, 1),
        (Outcome(cls=Class.STREAM_INTERRUPTED), True, 1),
        (Outcome(cls=Class.CANCELLED, sub="downstream"), True, 1),
        (Outcome(cls=Class.SERVER_ERROR), False, 0),
        (Outcome(cls=Class.RATE_LIMIT), False, 0),
        (Outcome(cls=Class.CONNECT_ERROR), False, 0),
    ],
)
def test_what_is_recorded_as_latency(outcome: Outcome, content: bool, samples: int) -> None:
    cluster = Cluster(dice)
    state, end = attempt(cluster, candidate())
    end(outcome, 0.4, content)
    assert state.latency.count == samples


@pytest.mark.parametrize(
    ("cls", "told", "cooling"),
    [
        (Class.RATE_LIMIT, {}, 0.75),
        (Class.RATE_LIMIT, {"told_wait_s": 7.0}, 7.0),
        (Class.RATE_LIMIT, {"told_wait_s": 7.0, "no_wait_helps": True}, 0.0),
        (Class.RATE_LIMIT, {"told_wait_s": 1e6}, 300.0),
        (Class.MODEL_OVERLOADED, {}, 0.0),
        (Class.MODEL_OVERLOADED, {"told_wait_s": 7.0}, 7.0),
        (Class.QUOTA_EXCEEDED, {}, 300.0),
        (Class.QUOTA_EXCEEDED, {"told_wait_s": 60.0}, 60.0),
        (Class.AUTH, {}, 300.0),
        (Class.PERMISSION, {}, 300.0),
        (Class.MODEL_NOT_FOUND, {}, 300.0),
        (Class.SERVER_ERROR, {}, 0.0),
        (Class.SERVER_ERROR, {"told_wait_s": 7.0}, 0.0),
        (Class.TIMEOUT, {}, 0.0),
        (Class.INVALID_REQUEST, {}, 0.0),
        (Class.CANCELLED, {}, 0.0),
    ],
)
def test_which_outcomes_cool_a_target_down(cls: Class, told: dict[str, object], cooling: float) -> None:
    state = hit(Cluster(dice), candidate(), cls, **told)
    assert state.cooling_s(NOW) == pytest.approx(cooling)
    assert state.unavailable_s(NOW) == pytest.approx(cooling)
    if cooling:
        assert state.cooling_reason(NOW) is cls


@pytest.mark.parametrize(
    ("cls", "per_credential", "shared"),
    [
        (Class.AUTH, False, True),
        (Class.QUOTA_EXCEEDED, True, True),
        (Class.QUOTA_EXCEEDED, False, False),
        (Class.PERMISSION, True, True),
        (Class.PERMISSION, False, False),
        (Class.MODEL_NOT_FOUND, False, False),
        (Class.RATE_LIMIT, False, False),
    ],
)
def test_whom_a_refusal_concerns(cls: Class, per_credential: bool, shared: bool) -> None:
    cluster = Cluster(dice)
    hit(cluster, candidate("a", "m"), cls, per_credential=per_credential)
    assert (cluster.state(candidate("a", "other"), NOW).cooling_s(NOW) > 0.0) is shared
    assert cluster.state(candidate("a", "m", "another key"), NOW).cooling_s(NOW) == 0.0
    assert cluster.state(candidate("b", "m"), NOW).cooling_s(NOW) == 0.0


def test_a_callers_own_key_cools_nobody_for_auth_but_keeps_its_quota() -> None:
    cluster = Cluster(dice)
    own = candidate("a", "m", "key")
    assert hit(cluster, own, Class.AUTH).cooling_s(NOW) == 0.0
    assert hit(cluster, own, Class.MODEL_NOT_FOUND).cooling_s(NOW) == 0.0
    assert hit(cluster, own, Class.QUOTA_EXCEEDED, per_credential=True).cooling_s(NOW) == 300.0


def test_R5_the_later_cool_down_wins_in_both_orders() -> None:
    for first, second in ((60.0, 1.0), (1.0, 60.0)):
        cluster = Cluster(dice)
        running = [attempt(cluster, candidate())[1] for _ in range(2)]
        running[0](Outcome(cls=Class.RATE_LIMIT, told_wait_s=first), 0.0)
        running[1](Outcome(cls=Class.RATE_LIMIT, told_wait_s=second), 0.0)
        assert cluster.state(candidate(), NOW).cooling_s(NOW) == 60.0


def test_one_alert_and_not_one_per_request() -> None:
    heard: list[Event] = []
    cluster = Cluster(dice, heard.append)
    ends = [attempt(cluster, candidate())[1] for _ in range(10)]
    for end in ends:
        end(Outcome(cls=Class.AUTH), 0.0)
    assert heard == [Cooled(Target("a", "m"), NOW + 300.0, Class.AUTH, True)]


def test_B1_moves_of_the_breaker_are_told_with_their_target() -> None:
    heard: list[Event] = []
    cluster = Cluster(dice, heard.append)
    for _ in range(4):
        hit(cluster, candidate(), Class.SERVER_ERROR)
    assert [(e.target, e.change.to) for e in heard if isinstance(e, Moved)] == [(Target("a", "m"), State.OPEN)]


def test_the_latest_bad_class_is_remembered_and_no_other() -> None:
    cluster = Cluster(dice)
    for cls in (Class.MODEL_OVERLOADED, Class.TIMEOUT, Class.CONNECT_ERROR):
        assert hit(cluster, candidate(), cls).last_bad is cls
        for other in (Class.RATE_LIMIT, Class.CANCELLED, Class.INVALID_REQUEST):
            assert hit(Cluster(dice), candidate("b"), other).last_bad is Class.SERVER_ERROR


def test_guessed_cool_downs_double_until_an_answer_is_good() -> None:
    cluster = Cluster(dice)
    now, guesses = NOW, []
    for answer in (Class.RATE_LIMIT, Class.RATE_LIMIT, Class.OK, Class.RATE_LIMIT):
        now += 100.0
        state = hit(cluster, candidate(), answer, now)
        guesses.append(state.cooling_s(now))
    assert guesses == pytest.approx([0.75, 1.5, 0.0, 0.75])


def test_loss_lowers_the_limit_and_other_failures_do_not() -> None:
    bound = Candidate(target=Target("a", "m"), max_concurrency=100)
    for cls, limit in ((Class.RATE_LIMIT, 80.0), (Class.TIMEOUT, 80.0), (Class.SERVER_ERROR, 100.0)):
        cluster = Cluster(dice)
        assert hit(cluster, bound, cls).limiter.limit == limit


def test_L2_a_target_that_fails_fast_looks_expensive() -> None:
    for cls in (Class.CONNECT_ERROR, Class.SERVER_ERROR, Class.AUTH):
        assert hit(Cluster(dice), candidate(), cls).load.cost_s(NOW) >= 5.0
    assert hit(Cluster(dice), candidate(), Class.INVALID_REQUEST).load.cost_s(NOW) == 1.0


def test_keys_and_models_without_bound_make_states_within_bounds() -> None:
    cluster = Cluster(dice, max_targets=16)
    for i in range(1000):
        cluster.state(candidate("a", "m", f"key-{i}"), NOW + i)
        assert len(cluster.states()) <= 16
        assert len(cluster._credentials) <= 17
    assert cluster.evicted == 1000 - len(cluster.states())


def test_what_is_in_use_refused_or_cooling_is_kept_as_long_as_there_are_others() -> None:
    cluster = Cluster(dice, max_targets=16)
    busy, end = attempt(cluster, candidate("busy"))
    cold = hit(cluster, candidate("cold"), Class.RATE_LIMIT, told_wait_s=200.0)
    for _ in range(4):
        opened = hit(cluster, candidate("open"), Class.SERVER_ERROR)
    for i in range(100):
        cluster.state(candidate("a", f"m{i}"), NOW + 0.001 * i)
    kept = {id(state) for state in cluster.states()}
    assert {id(busy), id(cold), id(opened)} <= kept
    end(OK)


def test_a_credential_that_is_out_stays_out_for_models_that_come_later() -> None:
    cluster = Cluster(dice, max_targets=16)
    hit(cluster, candidate("a", "m"), Class.AUTH)
    for i in range(100):
        cluster.state(candidate("b", f"m{i}"), NOW + 0.001 * i)
    assert cluster.state(candidate("a", "new"), NOW + 1.0).cooling_s(NOW + 1.0) > 290.0


# Another configuration, another credential ----------------------------------------------------------------------------


def test_what_is_forgotten_begins_anew_and_what_runs_on_it_ends_unseen() -> None:
    cluster = Cluster(dice)
    old, end = attempt(cluster, candidate())
    kept = cluster.state(candidate("b"), NOW)
    cluster.forget(lambda target: target.provider == "a")
    assert cluster.states() == [kept]
    end(Outcome(cls=Class.AUTH))
    fresh = cluster.state(candidate(), NOW)
    assert fresh is not old
    assert fresh.cooling_s(NOW + 1) == 0
    assert old.inflight == 0


def test_other_settings_judge_the_evidence_that_is_there() -> None:
    cluster = Cluster(dice)
    hit(cluster, candidate(), Class.SERVER_ERROR)
    state = cluster.state(candidate(), NOW)
    stricter = Candidate(target=Target("a", "m"), breaker=Settings(error_threshold=2), max_concurrency=3)
    cluster.state(stricter, NOW)
    assert state.limiter.bound == 1024  # nobody has said that the settings changed
    cluster.renew(lambda target: target.provider == "a")
    cluster.state(candidate(), NOW)  # planned before the change
    assert cluster.state(stricter, NOW) is state
    assert (state.limiter.bound, state.limiter.limit, state.breaker.settings) == (3, 3, stricter.breaker)
    cluster.state(candidate(), NOW)
    assert state.limiter.bound == 3
    assert hit(cluster, stricter, Class.SERVER_ERROR).breaker.peek(NOW) is State.OPEN  # the first failure counts


@pytest.mark.parametrize(
    ("cls", "ends"),
    [(Class.AUTH, True), (Class.PERMISSION, True), (Class.QUOTA_EXCEEDED, True), (Class.RATE_LIMIT, False)],
)
def test_a_cool_down_ends_with_the_credential_it_was_about(cls: Class, ends: bool) -> None:
    cluster = Cluster(dice)
    state = hit(cluster, candidate(), cls, told_wait_s=60.0)
    callers = hit(cluster, candidate(credential="fp"), Class.RATE_LIMIT, told_wait_s=60.0)
    other = hit(cluster, candidate("b"), cls, told_wait_s=60.0)
    cluster.forgive("a")
    assert (state.cooling_s(NOW + 1) == 0.0) is ends
    assert callers.cooling_s(NOW + 1) > 0.0
    assert other.cooling_s(NOW + 1) > 0.0
