"""How well recorded traffic is translated, held to floors: a sample in the ordinary run, all of it in `torture`.

`make score` prints the table and, with ``ARGS=--list``, every record that goes wrong. Floors only grow:
``python -m tests.conformance.score --raise-floors`` writes what was reached where it is more than before.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.dialects.chat import Answer, Finish, Text, ToolCall
from proxy.dialects.hearing import Speaker
from tests import data
from tests.conformance.score import answers, meant, requests, sdk, sweep
from tests.conformance.score.records import Record

SHARE = 40
"""The sample takes one record in so many."""
SEED = 20_261
"""Of the sample; any other draws other records: ``ARGS='--sample 40 --seed 7'``."""
SLACK = 1
"""Records that a pair of the sample may have wrong beyond its share: which of them are drawn is chance."""


def need() -> None:
    for name in ("exchanges", "responses_only", "parallel", "error_shapes"):
        data.need(name)
    sdk.need()


def test_a_sample_reaches_the_floors() -> None:
    need()
    found = sweep.table(sweep.judged(SEED, SHARE))
    assert sum(row.judged for row in found.rows.values()) > 1000
    assert sweep.below(found, sweep.floors(), SLACK) == []


@pytest.mark.torture
def test_everything_reaches_the_floors() -> None:
    need()
    found = sweep.table(sweep.judged())
    assert sweep.below(found, sweep.floors()) == []
    assert set(found.rows) >= {(kind, pair) for kind, held in sweep.floors().items() for pair in held}, "a pair is gone"


# The judges themselves: what they must not let pass -------------------------------------------------------------------

BODY = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"tool_calls",'
    b'"message":{"role":"assistant","content":"I look it up.","tool_calls":[{"id":"call_1","type":"function",'
    b'"function":{"name":"look","arguments":"{\\"at\\":\\"Rome\\"}"}}]}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}'
)


def damaged(answer: Answer, fault: str) -> Answer:
    text, call = answer.parts
    assert isinstance(text, Text)
    assert isinstance(call, ToolCall)
    assert answer.usage is not None
    return {
        "text": replace(answer, parts=(replace(text, text=text.text[1:]), call)),
        "call": replace(answer, parts=(text,)),
        "arguments": replace(answer, parts=(text, replace(call, arguments='{"at":"Ulm"}'))),
        "id": replace(answer, parts=(text, replace(call, id="call_2"))),
        "finish": replace(answer, finish=Finish.LENGTH),
        "usage": replace(answer, usage=replace(answer.usage, output=6)),
    }[fault]


@pytest.mark.parametrize("caller", ["responses", "messages", "generate", "converse"])
@pytest.mark.parametrize("fault", ["text", "call", "arguments", "id", "finish", "usage"])
def test_a_fault_in_an_answer_is_seen(monkeypatch: pytest.MonkeyPatch, caller: str, fault: str) -> None:
    record = Record(id="own", api="chat", stream=False, body=BODY)
    assert answers.differences(record, caller) == []

    def broken(speaker: Speaker) -> Speaker:
        return replace(speaker, write_answer=lambda told, asked: speaker.write_answer(damaged(told, fault), asked))

    monkeypatch.setattr(answers, "_other", broken)
    assert answers.differences(record, caller) != []


ASKED = {
    "model": "m",
    "max_tokens": 99,
    "stop": ["END"],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where is this?"},
                                     {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"Rome"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "found it"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {
        "type": "object", "properties": {"at": {"type": "string"}}}}}],
}  # fmt: skip


def lost(got: meant.Meant, fault: str) -> None:
    if fault in got.words:
        got.words[fault] = []
    elif fault in ("calls", "results", "images", "tools", "stop"):
        getattr(got, fault).clear()
    elif fault == "arguments":
        got.calls = [(call_id, name, {}) for call_id, name, _ in got.calls]
    elif fault == "parameters":
        got.tools = {name: (told, set()) for name, (told, _) in got.tools.items()}
    elif fault == "choice":
        got.choice = "required"
    else:
        got.limit = None


@pytest.mark.parametrize(
    "fault",
    ["system", "user", "calls", "arguments", "results", "images", "tools", "parameters", "choice", "stop", "limit"],
)
def test_a_fault_in_a_request_is_seen(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    sdk.need()
    record = Record(id="own", api="chat", stream=False, body=b"", asked=ASKED)
    (facts,) = requests.targets("converse")
    assert requests.differences(record, "converse", facts) == []
    read = requests.asked.meaning

    def broken(api: str, body: meant.Json) -> meant.Meant:
        out = read(api, body)
        if api == "converse":
            lost(out, fault)
        return out

    monkeypatch.setattr(requests.asked, "meaning", broken)
    assert requests.differences(record, "converse", facts) != []
