"""M1: the count machine against a direct reference model, for random values of all eight keys.

The model keeps every failure time in a sorted list and looks for what falls due by searching all attempts, one event
after the other. It is run against the base circuit, and against a header's circuit that is asked only now and then over
a base which never trips. Times are quarters of a second, so that no sum is rounded.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.base.outcome import Class, Group, Outcome
from proxy.policy.breaker import Breaker, Permit, Settings, State

OUTCOMES = [
    Outcome(cls=Class.OK, status=200),
    Outcome(cls=Class.SERVER_ERROR, status=500),
    Outcome(cls=Class.MODEL_OVERLOADED, status=503),
    Outcome(cls=Class.TIMEOUT, sub="first_byte"),
    Outcome(cls=Class.CONNECT_ERROR, sub="refused"),
    Outcome(cls=Class.STREAM_INTERRUPTED),
    Outcome(cls=Class.RATE_LIMIT, status=429),
    Outcome(cls=Class.CANCELLED, sub="superseded"),
    Outcome(cls=Class.INVALID_REQUEST, status=400),
    Outcome(cls=Class.AUTH, status=401),
]
EXCLUSIONS = ["503", "timeout", "timeout.first_byte", "connect_error", "rate_limit", "stream_interrupted", "500"]
LEASE_S = 5.0
PROBES_MAX = 10


@dataclass(eq=False)
class Call:
    started: float
    turn: int
    expires: float | None
    content: float | None = None
    ended: bool = False
    late: bool = False


@dataclass
class Model:
    """The machine of 3.5.3 and 3.5.4, written as directly as it can be."""

    n: int
    window: float
    timeout: float
    permits: int
    wanted: int
    excluded: frozenset[str]
    line: float | None
    state: State = State.CLOSED
    turn: int = 0
    until: float = 0.0
    successes: int = 0
    failures: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def move(self, state: State) -> None:
        self.state = state
        self.turn += 1

    def open(self, at: float) -> None:
        self.until = at + self.timeout
        self.move(State.OPEN)

    def fail(self, at: float) -> None:
        insort(self.failures, at)
        if sum(at - f < self.window for f in self.failures) >= self.n:
            self.open(at)

    def probing(self, call: Call) -> bool:
        return call.expires is not None and call.turn == self.turn and self.state is State.HALF_OPEN

    def next_due(self, now: float) -> tuple[float, int, Call] | None:
        found = []
        for i, call in enumerate(self.calls):
            silent = call.content is None and not call.ended
            if self.line is not None and silent and not call.late and call.started + self.line <= now:
                found.append((call.started + self.line, 0, i))
            if self.probing(call) and call.expires is not None and call.expires <= now:
                found.append((call.expires, 1, i))
        if not found:
            return None
        at, kind, i = min(found)
        return at, kind, self.calls[i]

    def pass_time(self, now: float) -> None:
        while (due := self.next_due(now)) is not None:
            at, kind, call = due
            if kind == 0:
                call.late = True
                if self.probing(call):
                    self.open(at)
                elif self.state is State.CLOSED and call.turn == self.turn:
                    self.fail(at)
            else:
                self.open(at)

    def look(self, now: float) -> State:
        self.pass_time(now)
        if self.state is State.OPEN and now >= self.until:
            return State.HALF_OPEN
        return self.state

    def admit(self, now: float) -> Call | None:
        state = self.look(now)
        if state is State.OPEN:
            return None
        expires = None
        if state is State.HALF_OPEN:
            if self.state is State.OPEN:
                self.move(State.HALF_OPEN)
                self.successes = 0
            if sum(self.probing(call) for call in self.calls) >= self.permits:
                return None
            expires = now + LEASE_S
        call = Call(now, self.turn, expires)
        self.calls.append(call)
        return call

    def succeed(self, call: Call) -> None:
        call.expires = None
        self.successes += 1
        if self.successes >= self.wanted:
            self.failures = []
            self.move(State.CLOSED)

    def content(self, call: Call, now: float) -> None:
        self.pass_time(now)
        if call.content is None:
            call.content = now
            if self.probing(call):
                self.succeed(call)

    def end(self, call: Call, outcome: Outcome, now: float) -> None:
        self.pass_time(now)
        call.ended = True
        counted = not self.excluded & {str(outcome.cls), outcome.name, str(outcome.status)}
        if self.probing(call):
            if outcome.group is Group.GOOD:
                self.succeed(call)
            elif counted and outcome.group in (Group.BAD, Group.LIMITED):
                call.expires = None
                self.open(now)
            call.expires = None
        elif self.state is State.CLOSED and call.turn == self.turn and outcome.group is Group.BAD and counted:
            if call.late:
                return
            self.fail(now)


policies = st.fixed_dictionaries(
    {
        "error_threshold": st.integers(1, 5),
        "error_threshold_window_s": st.integers(1, 40).map(lambda q: q / 4),
        "timeout_s": st.integers(1, 40).map(lambda q: q / 4),
        "half_open_requests": st.integers(1, PROBES_MAX),
        "success_threshold": st.integers(1, 4),
        "excluded_errors": st.frozensets(st.sampled_from(EXCLUSIONS), max_size=3),
        "monitor_latency": st.booleans(),
        "latency_threshold_ms": st.integers(1, 24).map(lambda q: q * 250),
    }
)
steps = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.sampled_from(["admit", "admit", "content", "end", "end", "release"]),
        st.integers(0, 50),
        st.sampled_from(OUTCOMES),
        st.booleans(),
    ),
    max_size=70,
)


def run(
    breaker: Breaker, policy: Settings, header: Settings | None, script: list[tuple[int, str, int, Outcome, bool]]
) -> None:
    assert policy.error_threshold is not None
    assert policy.error_threshold_window_s is not None
    assert policy.timeout_s is not None
    assert policy.latency_threshold_ms is not None
    model = Model(
        n=policy.error_threshold,
        window=policy.error_threshold_window_s,
        timeout=policy.timeout_s,
        permits=policy.half_open_requests or 0,
        wanted=policy.success_threshold or 0,
        excluded=policy.excluded_errors or frozenset(),
        line=policy.latency_threshold_ms / 1000 if policy.monitor_latency else None,
    )
    live: list[tuple[Permit, Call]] = []
    now = 0.0
    for quarters, what, pick, outcome, look in script:
        now += quarters / 4
        if what == "admit":
            answer, call = breaker.admit(now, overlay=header, p99_s=1.0), model.admit(now)
            assert isinstance(answer, Permit) == (call is not None)
            if isinstance(answer, Permit) and call is not None:
                assert (answer.state is State.HALF_OPEN) == (call.expires is not None)
                breaker.start(answer, now, None)
                live.append((answer, call))
        elif what == "release":
            answer, call = breaker.admit(now, overlay=header, p99_s=1.0), model.admit(now)
            assert isinstance(answer, Permit) == (call is not None)
            if isinstance(answer, Permit) and call is not None:
                breaker.release(answer, now)
                model.calls.remove(call)
        elif live:
            permit, call = live[pick % len(live)]
            if what == "content":
                breaker.first_content(permit, now)
                model.content(call, now)
            else:
                if outcome.group is Group.GOOD:
                    breaker.first_content(permit, now)
                    model.content(call, now)
                breaker.end(permit, outcome, now)
                model.end(call, outcome, now)
                live.remove((permit, call))
        if look:
            assert breaker.peek(now, header) is model.look(now)
            if model.look(now) is State.OPEN:
                assert breaker.retry_after_s(now, header) == model.until - now
    assert breaker.peek(now, header) is model.look(now)


@given(policies, steps)
@settings(max_examples=250, deadline=None)
def test_M1_M3_the_base_equals_the_reference_model(
    keys: dict[str, object], script: list[tuple[int, str, int, Outcome, bool]]
) -> None:
    policy = Settings(**keys)  # type: ignore[arg-type]
    run(Breaker(policy, lambda: 0.5, 0.0), policy, None, script)


@given(policies, steps)
@settings(max_examples=250, deadline=None)
def test_M1_M3_a_headers_circuit_asked_now_and_then_equals_the_reference_model(
    keys: dict[str, object], script: list[tuple[int, str, int, Outcome, bool]]
) -> None:
    policy = Settings(**keys)  # type: ignore[arg-type]
    run(Breaker(Settings(error_threshold=1024), lambda: 0.5, 0.0), policy, policy, script)
