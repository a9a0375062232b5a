"""The strict judge of requests, and the judges of hand-made translations and of errors: what they must not let pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.base.outcome import Class
from proxy.dialects import registry
from proxy.dialects.chat import Encoded
from tests.conformance.score import parallels, pleas, rendered, sdk, wishes
from tests.conformance.score.records import Record

ASKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 99,
    "temperature": 0,
    "stop": ["END"],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where is this?"},
                                     {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"Rome"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": '{"at":"Ulm"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "found Rome"},
        {"role": "tool", "tool_call_id": "call_2", "content": "found Ulm"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {
        "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}  # fmt: skip
"""A request that every target can take whole."""


def encoded(target: str) -> Encoded:
    request = registry.speaker("chat").read_request(ASKED)
    return registry.speaker(target).write_request(request, wishes.TARGETS[target][0][1])


def faults(target: str, damage: Callable[[dict[str, Any]], object]) -> list[str]:
    whole = encoded(target)
    body = copy.deepcopy(whole.body)
    damage(body)
    told = replace(whole, body=body)
    return wishes.compare(pleas.of_chat(ASKED), pleas.plea(target, body), told, "chat", target)


def swapped(body: dict[str, Any]) -> None:
    """The results of the two calls under each other's ids."""
    one, two = body["messages"][2]["content"][:2]
    one["tool_use_id"], two["tool_use_id"] = two["tool_use_id"], one["tool_use_id"]


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "system": lambda body: body.pop("system"),
    "a turn": lambda body: body["messages"].pop(0),
    "words": lambda body: body["messages"][0]["content"].pop(0),
    "a picture": lambda body: body["messages"][0]["content"].pop(1),
    "a call": lambda body: body["messages"][1]["content"].pop(0),
    "arguments": lambda body: body["messages"][1]["content"][0].update(input={}),
    "a result": lambda body: body["messages"][2]["content"].pop(0),
    "results": swapped,
    "a tool": lambda body: body.pop("tools"),
    "a description": lambda body: body["tools"][0].pop("description"),
    "a type": lambda body: body["tools"][0]["input_schema"]["properties"]["at"].update(type="integer"),
    "what is required": lambda body: body["tools"][0]["input_schema"].pop("required"),
    "the choice": lambda body: body["tool_choice"].update(type="auto"),
    "one call at a time": lambda body: body["tool_choice"].pop("disable_parallel_tool_use"),
    "the limit": lambda body: body.update(max_tokens=98),
    "temperature 0": lambda body: body.pop("temperature"),
    "a temperature of nobody's": lambda body: body.update(top_p=0.5),
    "stop": lambda body: body.pop("stop_sequences"),
    "a form of nobody's": lambda body: body.update(output_config={"format": {"type": "json_schema", "schema": {}}}),
}


@pytest.mark.parametrize("target", ["messages", "converse", "responses", "generate", "chat"])
def test_what_is_whole_is_right(target: str) -> None:
    sdk.need()
    verdict = wishes.judge("chat", ASKED, target, wishes.TARGETS[target][0][1])
    assert (verdict.faults, verdict.excluded) == ([], "")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_loss_is_seen(name: str) -> None:
    assert faults("messages", lambda body: None) == []
    assert faults("messages", DAMAGES[name]) != []


def test_a_loss_that_is_told_is_right() -> None:
    whole = encoded("messages")
    body = {key: value for key, value in whole.body.items() if key != "temperature"}
    told = replace(whole, body=body, warnings=("temperature=dropped",))
    assert wishes.compare(pleas.of_chat(ASKED), pleas.of_messages(body), told, "chat", "messages") == []


def test_a_field_that_nobody_mentions_is_seen() -> None:
    whole = encoded("messages")
    asked = pleas.of_chat({**ASKED, "no_such_field": 1})
    found = wishes.compare(asked, pleas.of_messages(whole.body), whole, "chat", "messages")
    assert found == ["no_such_field is lost in silence"]


@pytest.mark.parametrize(
    ("target", "damage"),
    [
        ("chat", {"max_tokens": "many"}),
        ("responses", {"no_such_field": 1}),
        ("messages", {"no_such_field": 1}),
        ("generate", {"generationConfig": {"no_such_field": 1}}),
        ("converse", {"no_such_field": 1}),
    ],
)
def test_the_sdk_refuses_what_its_provider_would(target: str, damage: dict[str, Any]) -> None:
    sdk.need()
    body = encoded(target).body
    assert sdk.request_faults(target, body) == []
    assert sdk.request_faults(target, {**body, **damage}) != []


def test_a_translation_that_differs_from_theirs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = copy.deepcopy(encoded("messages").body)
    assert parallels.differences("chat-completions", "anthropic", ASKED, theirs) == []
    speaker = registry.speaker

    def broken(api: str) -> Any:
        def write(request: Any, facts: Any) -> Encoded:
            whole = speaker(api).write_request(request, facts)
            return replace(whole, body={key: value for key, value in whole.body.items() if key != "tools"})

        return replace(speaker(api), write_request=write)

    monkeypatch.setattr(parallels.registry, "speaker", broken)
    assert parallels.differences("chat-completions", "anthropic", ASKED, theirs) != []


def test_where_the_two_statements_differ_a_translation_is_not_to_blame() -> None:
    theirs = copy.deepcopy(encoded("messages").body)
    theirs["messages"][0]["content"][0]["text"] = "And where is this?"
    assert parallels.differences("chat-completions", "anthropic", ASKED, theirs) == []


@pytest.mark.parametrize("dialect", rendered.CALLERS)
def test_a_class_that_is_told_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    body = b'{"error":{"message":"slow down, please","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
    record = Record(id="own", api="chat", stream=False, body=body, status=429)
    assert rendered.differences(record, dialect) == []
    judged = rendered.classify
    with monkeypatch.context() as patch:
        patch.setattr(rendered, "classify", lambda reply: replace(judged(reply), cls=Class.AUTH))
        assert rendered.differences(record, dialect) != []
    monkeypatch.setattr(rendered, "reason", lambda body, status: "something went wrong")
    assert rendered.differences(record, dialect) != []
