from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.policy.budget import Budget

COSTS = st.sampled_from([1.0, 2.0])


class BudgetMachine(RuleBasedStateMachine):
    """Any order of spending, refunding, earning and waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.budget = Budget(self.now)
        self.out: list[float] = []
        self.launched = 0.0
        self.earned = 0

    @rule(cost=COSTS)
    def spend(self, cost: float) -> None:
        before = self.budget.tokens(self.now)
        got = self.budget.withdraw(cost, self.now)
        assert got == (before >= cost), "allowed if and only if the tokens are there"
        if got:
            self.out.append(cost)
        assert self.budget.tokens(self.now) == pytest.approx(before - cost if got else before, abs=1e-12)

    @rule(launch=st.booleans())
    def settle(self, launch: bool) -> None:
        if self.out:
            cost = self.out.pop()
            if launch:
                self.launched += cost
            else:
                self.budget.refund(cost, self.now)

    @rule()
    def succeed(self) -> None:
        self.budget.earn(self.now)
        self.earned += 1

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(0.0, 1000.0))
    def look_with_an_older_clock(self, seconds: float) -> None:
        before = self.budget.tokens(self.now)
        self.budget.tokens(self.now - seconds)
        assert self.budget.tokens(self.now) == before

    @invariant()
    def test_U1_tokens_stay_in_their_bounds(self) -> None:
        assert 0.0 <= self.budget.tokens(self.now) <= 10.0

    @invariant()
    def test_U2_what_was_spent_was_there(self) -> None:
        trickle = (self.now - 1000.0) / 10.0
        assert self.launched + sum(self.out) <= 10.0 + 0.1 * self.earned + trickle + 1e-9


TestBudget = BudgetMachine.TestCase
