"""W3C trace context: what is taken, what is ignored, and what ours looks like."""

from __future__ import annotations

import pytest

from proxy.base.trace import STATE_MAX, Trace, read

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (f"00-{ID}-{SPAN}-01", True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-03", True),  # the flag of level 2 is nothing to version 00
        (f"01-{ID}-{SPAN}-01", True),
        (f"cc-{ID}-{SPAN}-01-what the future will be like", True),
    ],
)
def test_a_context_is_read(parent: str, sampled: bool) -> None:
    found = read(parent, "a=1,b=2")
    assert found is not None
    assert (found.id, f"{found.caller_span:016x}", found.sampled, found.state) == (ID, SPAN, sampled, "a=1,b=2")
    assert found.parent_of_call(3) == found.told() == f"00-{ID}-{SPAN}-{'01' if sampled else '00'}"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-01-more",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID.upper()}-{SPAN}-01",
        f"ff-{ID}-{SPAN}-01",
        f"cc-{ID}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID}-{SPAN}-01\n",
        f"00-{ID[:-1]}\u0663-{SPAN}-01",
    ],
)
def test_a_context_that_breaks_the_rules_is_none(parent: str) -> None:
    assert read(parent, "a=1") is None


def test_a_long_state_is_dropped_whole() -> None:
    parent = f"00-{ID}-{SPAN}-01"
    kept, dropped = read(parent, "a" * STATE_MAX), read(parent, "a" * (STATE_MAX + 1))
    assert kept is not None
    assert dropped is not None
    assert (len(kept.state), dropped.state) == (STATE_MAX, "")


def test_each_attempt_has_a_span_of_its_own() -> None:
    trace = Trace(int(ID, 16), int(SPAN, 16), False, first_span=5)
    assert trace.told() == f"00-{ID}-{5:016x}-01"
    assert [trace.parent_of_call(n) for n in range(2)] == [f"00-{ID}-{span:016x}-01" for span in (7, 8)]
