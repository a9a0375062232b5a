from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import NAME_BAD, Names


def test_names_that_fit_keep_themselves_whatever_the_order() -> None:
    names = Names(["a.b", "a_b", ""])
    assert [names.sent(name) for name in ("a.b", "a_b", "")] == ["a_b_2", "a_b", "tool"]
    assert names.changed == {"a_b_2": "a.b", "tool": ""}
    assert names.fresh("a_b") == "a_b_3"
    assert names.changed == {"a_b_2": "a.b", "tool": ""}


@given(st.lists(st.text(max_size=80)), st.lists(st.text(max_size=80)))
def test_every_name_is_valid_its_own_and_stays(first: list[str], later: list[str]) -> None:
    names = Names(first)
    sent = {name: names.sent(name) for name in [*first, *later]}
    assert all(0 < len(one) <= 64 and not NAME_BAD.search(one) for one in sent.values())
    assert len(set(sent.values())) == len(sent)
    assert all(names.sent(name) == one for name, one in sent.items())
    assert {names.changed.get(one, one): one for one in sent.values()} == sent


def test_warnings_speak_the_callers_language_and_do_not_repeat() -> None:
    notes = Warnings("messages")
    notes.dropped("limit")
    notes.approximated("stop")
    notes.dropped("limit")
    notes.dropped("odd_field")
    assert notes.listed() == ("max_tokens=dropped", "stop_sequences=approximated", "odd_field=dropped")
    strange = Warnings("unheard")
    strange.dropped("stop")
    assert strange.listed() == ("stop=dropped",)
