"""The speaker against everything that was recorded of the Responses API, with an oracle that reads the raw JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from proxy.dialects import responses
from proxy.dialects.chat import Asked, Ended, Event, Fault, Malformed, ModelFacts, Stopped
from tests import data
from tests.unit.dialects.responses import grammar, oracle

ASKED = Asked(body={}, created=1, seed="0" * 32, model="m")
NOT_JSON = {"8d63882951d077"}
RETOLD = {"9f158e4d87e340"}
"""The reasoning of the last event is worded otherwise than the deltas were."""


def read(pieces: Iterable[bytes]) -> list[Event]:
    reader = responses.stream_reader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    assert reader.dropped == 0
    return events + reader.close()


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes:
        out.append(body[at : at + size])
        at += size
    return [*out, body[at:]]


def test_streams_are_read_without_loss_whatever_the_pieces() -> None:
    seen = 0
    for record, body in oracle.records(streams=True):
        name, events = record["id"], read([body])
        said, recorded = oracle.heard(events), oracle.of_response(oracle.last_of(body))
        if name in RETOLD:
            said.thinking = recorded.thinking
        assert said == recorded, name
        assert isinstance(events[-1], Ended), name
        assert sum(isinstance(event, Stopped) for event in events) == 1, name
        if "chunk_sizes" in record:
            assert read(cut(body, record["chunk_sizes"])) == events, name
        if len(body) < 6000 or seen % 20 == 0:
            assert read(body[i : i + 1] for i in range(len(body))) == events, name
        seen += 1
    assert seen > 180


def test_a_stream_that_is_cut_never_looks_complete() -> None:
    for record, body in oracle.records(streams=True):
        at = max(body.rfind(b'"type":"response.completed"'), body.rfind(b'"type":"response.incomplete"'))
        if at < 0:
            continue
        events = read([body[: body.rfind(b"\n\n", 0, at) + 2]])
        assert not any(isinstance(event, Ended | Stopped) for event in events), record["id"]


def test_streams_written_again_say_the_same() -> None:
    for record, body in oracle.records(streams=True):
        events = read([body])
        writer = responses.stream_writer(ASKED)
        out = b"".join(writer.feed(event) for event in events if not isinstance(event, Ended)) + writer.end()
        grammar.check(out)
        again, first = oracle.heard(read([out])), oracle.heard(events)
        first.calls = [(call[0], call[1], call[2] or "{}") for call in first.calls]
        assert again == first, record["id"]


def test_answers_are_read_and_written_without_loss() -> None:
    seen = 0
    for record, body in oracle.records(streams=False):
        if record["id"] in NOT_JSON:
            continue
        parsed = json.loads(body)
        assert responses.fault_in(parsed) is None, record["id"]
        answer = responses.read_answer(parsed)
        said = oracle.heard_whole(answer)
        assert said == oracle.of_response(parsed), record["id"]
        written = responses.write_answer(answer, ASKED)
        assert set(grammar.MEMBERS) <= set(written)
        said.calls = [(call[0], call[1], call[2] or "{}") for call in said.calls]
        assert oracle.heard_whole(responses.read_answer(written)) == said, record["id"]
        seen += 1
    assert seen > 350


def test_errors_are_found_in_refused_answers() -> None:
    seen = 0
    for record in refused():
        try:
            parsed = json.loads(data.body(record["response"]))
        except ValueError:
            continue
        assert responses.fault_in(parsed) is not None, record["id"]
        seen += 1
    assert seen > 40


def refused() -> Iterator[dict[str, Any]]:
    for path in sorted(data.need("exchanges").glob("*__openai.responses.jsonl.gz")):
        yield from (each for each in data.rows(f"exchanges/{path.name}") if each["response"]["status"] >= 400)


# Requests -------------------------------------------------------------------------------------------------------------


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """The body in one spelling; what says nothing is left out."""
    out = {key: value for key, value in body.items() if value is not None and key not in ("input", "instructions")}
    out["input"] = _items(body)
    out["tools"] = [_tool(tool) for tool in out.get("tools") or []]
    if out.get("stream") is False:
        del out["stream"]
    out["text"] = {k: v for k, v in (out.get("text") or {}).items() if v != {"type": "text"}}
    out["reasoning"] = {k: v for k, v in (out.get("reasoning") or {}).items() if v is not None}
    choice = out.pop("tool_choice", None) or "auto"
    if isinstance(choice, dict) and "function" in choice:
        choice = {"type": "function", **choice["function"]}
    return {**out, "tool_choice": choice}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    tool = {**tool, **tool.get("function", {})}
    return {key: value for key, value in tool.items() if value not in (None, "") and key != "function"}


def _items(body: dict[str, Any]) -> list[Any]:
    given = body.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if body.get("instructions"):
        items = [{"role": "system", "content": body["instructions"]}, *items]
    return [said for item in items if (said := _item(item)) is not None]


def _item(item: dict[str, Any]) -> Any:
    out = {key: value for key, value in item.items() if value not in (None, []) and key not in ("status", "id")}
    kind = out.setdefault("type", "message")
    if kind == "reasoning":
        told = [*item.get("summary", []), *(item.get("content") or [])]
        out = {"sealed": item.get("encrypted_content"), "told": "\n\n".join(part["text"] for part in told)}
    elif kind == "message":
        content = out.pop("content", None)
        parts = [{"text": content}] if isinstance(content, str) else content or []
        out["parts"] = [_part(part) for part in parts if part.get("text") != ""]
        out["role"] = "system" if out["role"] == "developer" else out["role"]
        if not out["parts"]:
            return None
    return out


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = "" if part.get("text") is not None else part["type"]
    return {**{key: value for key, value in part.items() if key not in ("annotations", "logprobs")}, "type": kind}


def test_requests_of_the_same_dialect_keep_their_meaning() -> None:
    seen, otherwise = 0, []
    for path in sorted(data.need("exchanges").glob("*__openai.responses.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            try:
                asked = json.loads(record["request"]["body"])
                request = responses.read_request(asked)
            except (ValueError, Malformed):
                continue
            before = json.dumps(asked)
            facts = ModelFacts(model=asked.get("model", ""), dialect="openai")
            written = responses.write_request(request, facts).body
            assert json.dumps(asked) == before
            seen += 1
            if meaning(written) != meaning({"model": "", **asked}):
                otherwise.append(record["id"])
    assert seen > 600
    assert otherwise == []


def test_failed_streams_end_in_a_fault() -> None:
    streams = 0
    for record in data.rows("responses_only/responses.jsonl.gz"):
        if record["name"] != "openai-error.1.chunks.txt":
            continue
        raw = "".join(f"data: {line}\n\n" for line in record["body"].split("\n") if line).encode()
        events = read([raw])
        assert isinstance(events[-1], Fault)
        assert events[-1].error["code"] == "insufficient_quota"
        streams += 1
    assert streams == 1
