"""The breaker under random traffic with headers, exclusions, probes, operators and reloads: B1-B6, B11, B12, S1, S2."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.base.outcome import OK, Class, Group, Outcome
from proxy.policy.breaker import (
    LEASE_MAX_S,
    LEASES_MAX,
    OVERLAY_CAP,
    Breaker,
    Change,
    Exclusion,
    Forced,
    Mark,
    Permit,
    RateRule,
    Refused,
    Settings,
    State,
)

EDGES = {
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.CLOSED),
    (State.HALF_OPEN, State.OPEN),
}
OUTCOMES = [
    OK,
    Outcome(cls=Class.SERVER_ERROR, status=500),
    Outcome(cls=Class.SERVER_ERROR, status=500),
    Outcome(cls=Class.MODEL_OVERLOADED, status=503),
    Outcome(cls=Class.CONNECT_ERROR, sub="refused"),
    Outcome(cls=Class.TIMEOUT, sub="first_content"),
    Outcome(cls=Class.STREAM_INTERRUPTED),
    Outcome(cls=Class.RATE_LIMIT, status=429),
    Outcome(cls=Class.CANCELLED, sub="downstream"),
    Outcome(cls=Class.CANCELLED, sub="deadline"),
    Outcome(cls=Class.INVALID_REQUEST, status=400),
    Outcome(cls=Class.AUTH, status=401),
    Outcome(cls=Class.LOCAL_REJECT),
]
bases = st.sampled_from(
    [
        Settings(),
        Settings(half_open_requests=1, success_threshold=4),
        Settings(monitor_latency=True),
        Settings(error_threshold=2, error_threshold_window_s=20.0, timeout_s=2.0),
        Settings(error_threshold=3, monitor_latency=True, latency_threshold_ms=1500, half_open_requests=10),
        Settings(error_threshold=2, looser="never", panic=True),
        Settings(rule=RateRule(size=6, minimum_calls=3), excluded_errors=frozenset({"503"})),
    ]
)
headers = st.one_of(
    st.none(),
    st.none(),
    st.builds(
        Settings,
        error_threshold=st.sampled_from([None, 1, 2, 40]),
        timeout_s=st.sampled_from([None, 1.0, 30.0]),
        half_open_requests=st.sampled_from([None, 1, 10]),
        success_threshold=st.sampled_from([None, 1, 3]),
        excluded_errors=st.sampled_from([None, frozenset({"connect_error"}), frozenset({"500", "rate_limit"})]),
        monitor_latency=st.sampled_from([None, True]),
        latency_threshold_ms=st.sampled_from([None, 700]),
    ),
)
exclusions = st.one_of(
    st.none(), st.none(), st.builds(Exclusion, failure_threshold=st.integers(1, 3), success_threshold=st.integers(1, 3))
)


class BreakerMachine(RuleBasedStateMachine):
    @initialize(base=bases, u=st.sampled_from([0.0, 0.4, 0.99]))
    def begin(self, base: Settings, u: float) -> None:
        self.now = 100.0
        self.changes: list[Change] = []
        self.breaker = Breaker(base, lambda: u, self.now, self.changes.append)
        self.idle: list[Permit] = []
        self.live: list[Permit] = []
        self.forced = Forced.NONE
        self.granted = 0

    def view(self) -> dict[str, Any]:
        return self.breaker.view(self.now)

    # Moves

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 1.0, 3.0, 8.0, 40.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        header=headers,
        exclusion=exclusions,
        panic=st.booleans(),
        p99_s=st.sampled_from([None, 1.0, 4.0, math.nan, math.inf]),
        start=st.booleans(),
        line_s=st.sampled_from([None, 0.5, 2.0, math.nan]),
        many=st.integers(1, 6),
    )
    def ask(
        self,
        header: Settings | None,
        exclusion: Exclusion | None,
        panic: bool,
        p99_s: float | None,
        start: bool,
        line_s: float | None,
        many: int,
    ) -> None:
        for _ in range(many):
            before = self.view()
            answer = self.breaker.admit(self.now, overlay=header, exclusion=exclusion, panic=panic, p99_s=p99_s)
            after = self.view()
            if isinstance(answer, Refused):
                assert answer.retry_after_s >= 0.0
                assert (after["leases"], after["overlay_cap_used"]) == (before["leases"], before["overlay_cap_used"])
                assert self.forced in (Forced.NONE, Forced.OPEN)
                continue
            self.granted += 1
            if after["state"] is State.OPEN and self.forced is Forced.NONE:
                capped = after["overlay_cap_used"] == before["overlay_cap_used"] + 1
                assert capped or (panic and self.breaker.settings.panic), "B2"
                assert panic or (header is not None and header.error_threshold is not None)
            if start:
                self.breaker.start(answer, self.now, line_s)
                self.live.append(answer)
            else:
                self.idle.append(answer)

    @precondition(lambda self: self.idle)
    @rule(n=st.integers(0, 99), start=st.booleans(), line_s=st.sampled_from([None, 0.5, 2.0]))
    def use_or_release(self, n: int, start: bool, line_s: float | None) -> None:
        permit = self.idle.pop(n % len(self.idle))
        if start:
            self.breaker.start(permit, self.now, line_s)
            self.live.append(permit)
        else:
            self.breaker.release(permit, self.now)

    @precondition(lambda self: self.live)
    @rule(n=st.integers(0, 99), byte_only=st.booleans())
    def answer(self, n: int, byte_only: bool) -> None:
        permit = self.live[n % len(self.live)]
        (self.breaker.response_byte if byte_only else self.breaker.first_content)(permit, self.now)

    @precondition(lambda self: self.live)
    @rule(n=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES), allowance_s=st.sampled_from([None, 1.0, 600.0]))
    def end(self, n: int, outcome: Outcome, allowance_s: float | None) -> None:
        permit = self.live.pop(n % len(self.live))
        before = self.view()
        stale = permit.generation != before["generation"]
        probes = permit.state is State.HALF_OPEN
        self.breaker.end(permit, outcome, self.now, allowance_s=allowance_s)
        after = self.view()
        if stale:  # B4: a lease given under an older base generation means nothing to the base
            lease_moved_it = probes and permit.generation == before["generation"]
            assert lease_moved_it or after["generation"] == before["generation"]
            assert (after["S_err"], after["S_slow"]) == (before["S_err"], before["S_slow"])
        if outcome.group is Group.LOCAL:  # B6
            assert (after["counts"], after["S_err"]) == (before["counts"], before["S_err"])
        else:
            assert sum(after["counts"].values()) == sum(before["counts"].values()) + 1

    @rule(passed=st.booleans())
    def active_probe(self, passed: bool) -> None:
        before = self.view()
        (self.breaker.probe_passed if passed else self.breaker.probe_failed)(self.now)
        assert self.view()["generation"] == before["generation"]

    @rule(mode=st.sampled_from(list(Forced)), seconds=st.sampled_from([None, 0.0, 5.0]))
    def force(self, mode: Forced, seconds: float | None) -> None:
        self.breaker.force(mode, None if seconds is None else self.now + seconds, self.now)

    @rule(base=bases)
    def reload(self, base: Settings) -> None:
        before = self.view()
        self.breaker.reconfigure(base, self.now)
        after = self.view()
        assert (after["state"], after["counts"], after["S_err"]) == (before["state"], before["counts"], before["S_err"])

    @rule(back_s=st.sampled_from([0.1, 50.0, 1e9, math.inf, math.nan]))
    def clock_goes_back(self, back_s: float) -> None:
        before = self.view()
        assert self.breaker.view(self.now - back_s) == before  # B11
        assert self.breaker.peek(self.now - back_s) is self.breaker.peek(self.now)

    @rule(n=st.integers(1, 80))
    def flood_of_headers(self, n: int) -> None:
        for i in range(n):
            answer = self.breaker.admit(self.now, overlay=Settings(error_threshold=1, timeout_s=60.0 + i))
            if isinstance(answer, Permit):
                self.breaker.release(answer, self.now)

    # What always holds

    @invariant()
    def bounds(self) -> None:
        if not hasattr(self, "breaker"):
            return
        view = self.view()
        self.forced = view["forced"]
        assert 0.0 <= view["S_err"] <= 8.0  # S1
        assert 0.0 <= view["S_slow"] <= 8.0
        assert view["leases"] <= LEASES_MAX
        assert view["overlays"] <= 64  # B12
        assert 0 <= view["overlay_cap_used"] <= OVERLAY_CAP
        assert view["in_flight"] == len(self.live)
        assert view["retry_after_s"] >= 0.0
        assert (self.breaker.peek(self.now) is State.OPEN) <= (view["retry_after_s"] > 0.0)

    @invariant()
    def no_more_probes_than_permits(self) -> None:
        if not hasattr(self, "breaker"):
            return
        settings_, view = self.breaker.settings, self.view()
        if view["forced"] is Forced.NONE and view["state"] is State.HALF_OPEN:
            more = 0  # B3: whatever the past, at most so many more probes are given
            taken = []
            while isinstance(permit := self.breaker.admit(self.now), Permit):
                taken.append(permit)
                more += 1
                assert permit.state is State.HALF_OPEN
                assert more <= (settings_.half_open_requests or 3)
            assert self.view()["leases"] <= LEASES_MAX
            for permit in taken:
                self.breaker.release(permit, self.now)

    @invariant()
    def only_the_edges_of_the_automaton(self) -> None:
        for change in getattr(self, "changes", []):
            operator = change.reason in ("forced", "unforced")
            assert operator or (change.from_, change.to) in EDGES  # B1
            assert change.at <= self.now
            if change.to is State.OPEN and change.open_until is not None and not operator:
                assert change.open_until > change.at

    def teardown(self) -> None:
        """B5: left alone every lease ends, and with healthy traffic every circuit closes. S2: good events empty it."""
        if not hasattr(self, "breaker"):
            return
        breaker = self.breaker
        breaker.force(Forced.NONE, None, self.now)
        for permit in self.idle[::2]:
            breaker.release(permit, self.now)
        for permit in self.live:
            breaker.end(permit, Outcome(cls=Class.CANCELLED, sub="drain"), self.now)
        self.now += LEASE_MAX_S
        assert breaker.view(self.now)["leases"] == 0
        self.now += LEASE_MAX_S
        for _ in range(40):
            healthy = breaker.admit(self.now)
            assert isinstance(healthy, Permit)
            breaker.start(healthy, self.now, 1.0)
            breaker.first_content(healthy, self.now)
            breaker.end(healthy, OK, self.now)
        view = breaker.view(self.now)
        assert (view["state"], view["S_err"], view["S_slow"]) == (State.CLOSED, 0.0, 0.0)
        assert (view["mark"], view["in_flight"], view["leases"]) == (Mark.NORMAL, 0, 0)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
