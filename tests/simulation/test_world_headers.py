"""Nobody's headers change what others get: the same world with other headers on one caller's requests (B9, B12)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.policy.breaker import Breaker, Permit, Refused, Settings
from proxy.policy.overlay import resolve
from proxy.sim.checks import judge
from proxy.sim.scenario import Scenario, draw
from proxy.sim.world import Story, run

CALLER = 3
"""Whose headers change."""


def with_headers(scenario: Scenario, policies: int) -> Scenario:
    """The caller states a breaker of its own, with one of so many windows in turn (0: it states none). None of them
    ever refuses: only what it writes into the stores of the proxy differs, not what it asks of the providers."""
    asks = []
    for ask in scenario.asks:
        headers: tuple[tuple[str, str], ...] = ()
        if ask.caller == CALLER and policies:
            rule = {"error_threshold": 900, "error_threshold_window": 60 + ask.n % policies}
            headers = (("X-Circuit-Breaker", json.dumps(rule)),)
        asks.append(replace(ask, headers=headers))
    return replace(scenario, asks=tuple(asks))


def told(story: Story, asks: Scenario) -> dict[int, object]:
    """What every caller but this one was told, and when."""
    mine = {ask.n for ask in asks.asks if ask.caller == CALLER}
    return {
        seen.n: (
            seen.ended_at,
            seen.closed,
            seen.answer and (seen.answer.status, seen.answer.headers, seen.answer.body),
        )
        for seen in story.seen
        if seen.n not in mine
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_callers_policies_move_nobody_else(seed: int) -> None:
    scenario = draw(seed)
    one, many = run(with_headers(scenario, 1)), run(with_headers(scenario, 90))
    assert judge(one) == judge(many) == []
    assert told(one, scenario) == told(many, scenario)
    assert len(told(one, scenario)) > 25


def test_a_policy_that_leaks_into_the_base_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Breaker.admit

    def admit(self: Breaker, now: float, *, overlay: Settings | None = None, **more: Any) -> Permit | Refused:
        if overlay is not None:
            self._base.policy = resolve(self._settings, overlay)
        return real(self, now, overlay=overlay, **more)

    monkeypatch.setattr(Breaker, "admit", admit)
    scenarios = [draw(seed) for seed in range(12)]
    assert any(told(run(with_headers(s, 0)), s) != told(run(with_headers(s, 1)), s) for s in scenarios)
