"""Faults in words, and drills that end."""

from __future__ import annotations

import pytest

from proxy.base.target import Target
from proxy.policy.chaos import DRILLS_MAX, Drill, Drills, Fault, Unclear, parse


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("primary:error=503", Fault(who="primary", error=503)),
        ("anthropic:delay_ms=2000,after=content", Fault(who="anthropic", delay_s=2.0, after="content")),
        (" p/a/b : error=429 , delay_ms=5 ", Fault(who="p/a/b", error=429, delay_s=0.005)),
    ],
)
def test_what_is_read_is_what_is_shown(text: str, fault: Fault) -> None:
    assert parse(text) == fault
    assert parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "key", "must"),
    [
        ("primary", "", "must look like"),
        (":error=503", "", "must look like"),
        ("primary:", "", "unknown key"),
        ("primary:eror=503", "eror", "unknown key"),
        ("primary:error=399", "error", "from 400 to 599"),
        ("primary:error=٥٠٣", "error", "from 400 to 599"),
        ("primary:error=-503", "error", "from 400 to 599"),
        ("primary:delay_ms=600001", "delay_ms", "from 0 to 600000"),
        ("primary:after=content", "", "must state error or delay_ms"),
        ("primary:delay_ms=0", "", "must state error or delay_ms"),
        ("primary:error=503,after=end", "after", "must be one of start, headers, content"),
        ("primary:error=503,error=500", "error", "is stated twice"),
    ],
)
def test_what_is_unclear_is_refused(text: str, key: str, must: str) -> None:
    with pytest.raises(Unclear) as refused:
        parse(text)
    assert refused.value.key == key
    assert must in str(refused.value)


def test_a_fault_is_aimed_at_the_first_of_the_chain() -> None:
    fault = Fault(who="primary", error=500)
    aimed = fault.aimed(Target("p", "m", "their-key"))
    assert aimed.hits(Target("p", "m"))
    assert not aimed.hits(Target("p", "other"))
    assert not fault.hits(Target("p", "m"))
    assert Fault(who="p", error=500).aimed(Target("q", "m")).hits(Target("p", "x"))


def test_drills_end_by_time_by_name_and_all_at_once() -> None:
    ended: list[str] = []
    drills = Drills(lambda drill: ended.append(drill.id))
    fault = Fault(who="p", error=500)
    assert not drills
    for n in range(DRILLS_MAX):
        routes = frozenset({"r"}) if n else frozenset()
        assert drills.start(Drill(id=f"d{n}", routes=routes, fault=fault, until=10.0 + n))
    assert drills
    assert not drills.start(Drill(id="more", routes=frozenset(), fault=fault, until=99.0))
    assert len(drills.of_route("r", 0.0)) == DRILLS_MAX
    assert drills.of_route("s", 0.0) == (fault,)
    assert drills.of_route("s", 10.0) == ()  # over by time, whether anybody has noticed or not
    drills.expire(11.0)
    assert ended == ["d0", "d1"]
    assert [drill.id for drill in drills.stop("d5")] == ["d5"]
    assert drills.stop("d5") == []
    assert len(drills.stop()) == DRILLS_MAX - 3
    assert not drills
