"""Which requests are traced."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from proxy.base.trace import Trace
from proxy.policy.sampler import NeverSampler, Sampler, Settings

CALLER = Trace(0x4BF92F3577B34DA6A3CE929D0E0E4736, 7, True, "a=1")


def sampler(share: float, seed: int = 1, obeys: bool = True) -> Sampler:
    return Sampler(Settings(share=share, obeys_caller=obeys), Random(seed).getrandbits)


def test_nobody_asked_and_nothing_is_traced() -> None:
    assert NeverSampler().begin(None) is None
    assert NeverSampler().begin(CALLER) is CALLER
    assert sampler(0.0).begin(None) is None


def test_a_caller_decides_about_its_trace() -> None:
    for share in (0.0, 1.0):
        found = sampler(share).begin(CALLER)
        assert found is not None
        assert replace(found, first_span=0) == CALLER
        assert 0 < found.first_span < 1 << 63
        other = replace(CALLER, sampled=False)
        assert sampler(share).begin(other) is other


def test_a_sampler_may_be_told_not_to_obey() -> None:
    refused = sampler(0.0, obeys=False).begin(CALLER)
    assert refused is CALLER
    taken = sampler(1.0, obeys=False).begin(replace(CALLER, sampled=False))
    assert taken is not None
    assert taken.first_span


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999, 1.0])
def test_the_share_is_that_of_the_sdk_trace_by_trace(share: float) -> None:
    theirs, dice = TraceIdRatioBased(share), Random(3)
    for _ in range(2000):
        trace_id = dice.getrandbits(128) | 1
        ours = sampler(share, obeys=False).begin(Trace(trace_id, 7, True))
        assert ours is not None
        taken = theirs.should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE
        assert bool(ours.first_span) == taken


def test_about_the_share_of_new_traces_is_taken_and_ids_differ() -> None:
    made = sampler(0.05)
    found = [trace for trace in (made.begin(None) for _ in range(20_000)) if trace is not None]
    assert 850 <= len(found) <= 1150  # five standard deviations around 1,000
    assert all(trace.sampled and trace.caller_span == 0 and trace.first_span for trace in found)
    assert len({trace.trace_id for trace in found}) == len({trace.first_span for trace in found}) == len(found)
