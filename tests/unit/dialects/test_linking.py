"""Results that come without the id of their call."""

from __future__ import annotations

from proxy.dialects.chat import Role, Text, ToolCall, ToolResult, Turn
from proxy.dialects.linking import linked


def calls(*pairs: tuple[str, str]) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=tuple(ToolCall(id=i, name=name, arguments="{}") for i, name in pairs))


def results(*pairs: tuple[str, str]) -> Turn:
    return Turn(role=Role.USER, parts=tuple(ToolResult(call_id=i, name=name) for i, name in pairs))


def ids(turns: tuple[Turn, ...]) -> list[str]:
    return [part.call_id for turn in turns for part in turn.parts if isinstance(part, ToolResult)]


def test_a_history_with_ids_is_the_same_object() -> None:
    turns = (calls(("a", "add")), results(("a", "")))
    assert linked(turns) is turns


def test_the_first_open_call_is_meant() -> None:
    assert ids(linked([calls(("a", "add"), ("b", "sub")), results(("", ""), ("", ""))])) == ["a", "b"]


def test_a_name_chooses_among_open_calls() -> None:
    assert ids(linked([calls(("a", "add"), ("b", "sub")), results(("", "sub"), ("", "add"))])) == ["b", "a"]


def test_what_an_id_has_answered_is_no_longer_open() -> None:
    turns = [calls(("a", "add")), results(("a", "")), calls(("b", "add")), results(("", "add"))]
    assert ids(linked(turns)) == ["a", "b"]


def test_a_call_without_an_id_gives_none() -> None:
    assert ids(linked([calls(("", "add"), ("b", "add")), results(("", "add"), ("", "add"))])) == ["", "b"]


def test_a_result_of_no_call_stays_as_it_is() -> None:
    turns = linked([Turn(role=Role.USER, parts=(Text(text="hi"),)), results(("", "add"))])
    assert ids(turns) == [""]


def test_calls_of_two_turns_stay_open_together() -> None:
    assert ids(linked([calls(("a", "add")), calls(("b", "sub")), results(("", "sub"), ("", "add"))])) == ["b", "a"]
