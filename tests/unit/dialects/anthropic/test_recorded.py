"""Anthropic's recorded traffic through the speaker, against an oracle that reads the raw JSON by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from proxy.dialects import anthropic
from proxy.dialects.chat import Ended, Malformed, ModelFacts
from tests import data
from tests.unit.dialects.anthropic import heard
from tests.unit.dialects.anthropic.heard import ASKED

FILES = ("anthropic__anthropic.messages", "other-compatible__anthropic.messages")
SHORT_BYTES = 6000
"""Streams up to here are also fed byte by byte."""
PROGRAMMATIC = "anthropic-programmatic-tool-calling.1.json"
"""Ends with ``end_turn`` although tools of the caller's were called, by code that ran at the provider."""
SPLICED = "spliced-message-start.chunks.txt"


def recorded(wire: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    for name in FILES:
        for record in data.rows(f"exchanges/{name}.jsonl.gz"):
            if record["response"]["status"] == 200 and record["wire"] == wire:
                yield record, data.body(record["response"])


def test_every_whole_answer_is_read_and_written_again() -> None:
    n = 0
    for record, raw in recorded("json"):
        body = json.loads(raw)
        assert anthropic.fault_in(body) is None
        told = heard.of_body(body)
        answer = anthropic.read_answer(body)
        assert heard.of_answer(answer) == told, record["id"]
        assert heard.of_body(anthropic.write_answer(answer, ASKED)) == told, record["id"]
        n += 1
    assert n > 300


def test_every_stream_is_read_whatever_the_pieces_and_written_again() -> None:
    n = 0
    for record, raw in recorded("sse"):
        events = heard.hear(anthropic.stream_reader(), [raw])
        said, how = heard.of_events(events)
        assert how == "ended", record["id"]
        assert said == heard.of_stream(raw.decode()), record["id"]
        sizes = [[7], *([[1]] if len(raw) < SHORT_BYTES else []), *([s] if (s := record.get("chunk_sizes")) else [])]
        for size in sizes:
            assert heard.hear(anthropic.stream_reader(), heard.cut(raw, size)) == events, record["id"]
        writer = anthropic.stream_writer(ASKED)
        written = b"".join(writer.end() if type(event) is Ended else writer.feed(event) for event in events)
        assert heard.of_stream(written.decode()) == heard.of_stream(raw.decode()), record["id"]
        n += 1
    assert n > 150


def test_answers_without_their_requests() -> None:
    n = 0
    for record in data.rows("responses_only/responses.jsonl.gz"):
        name = record["name"]
        if record["provider"] != "anthropic":
            continue
        if record["format"] == "json":
            body = json.loads(record["body"])
            answer = anthropic.read_answer(body)
            if body.get("type") == "message" and name != PROGRAMMATIC:
                assert heard.of_answer(answer) == heard.of_body(body), name
            n += 1
            continue
        raw = record["body"]
        if record["format"] != "raw SSE":
            raw = "".join(f"data: {line}\n\n" for line in raw.split("\n") if line.strip())
        events = heard.hear(anthropic.stream_reader(), [raw.encode()])
        said, how = heard.of_events(events)
        assert how == ("fault" if name == SPLICED else "ended"), name
        assert name == SPLICED or said == heard.of_stream(raw), name
        n += 1
    assert n > 60


def test_claude_over_invoke() -> None:
    n = 0
    for record in data.rows("exchanges/bedrock__bedrock.invoke-stream.jsonl.gz"):
        if record["response"]["status"] == 200 and '"anthropic_version"' in record["request"]["body"]:
            raw = data.body(record["response"])
            events = heard.hear(anthropic.invoke_stream_reader(), [raw])
            assert heard.of_events(events)[1] == "ended", record["id"]
            assert heard.hear(anthropic.invoke_stream_reader(), heard.cut(raw, [11])) == events
            n += 1
    assert n > 20


def test_an_overload_in_mid_stream() -> None:
    found = [row for row in data.rows("error_shapes/reported_error_shapes.jsonl") if row["how"].startswith("sse")]
    mine = [row for row in found if row["provider"] == "anthropic"]
    assert mine
    for row in mine:
        events = heard.hear(anthropic.stream_reader(), [row["body"].encode()])
        assert [type(event).__name__ for event in events] == ["Fault"]
        assert events[0].error["type"] == "overloaded_error"  # type: ignore[union-attr]


# Requests -------------------------------------------------------------------------------------------------------------


def plain_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block without the spellings that mean the same."""
    out = {key: value for key, value in block.items() if value not in (None, {"enabled": False})}
    if out.get("cache_control", {}).get("ttl") == "5m":
        out["cache_control"] = {"type": "ephemeral"}
    if out.get("type") == "tool_result":
        content = out.pop("content", "")
        if isinstance(content, list):
            content = [plain_block(each) for each in content]
            content = content[0]["text"] if len(content) == 1 and set(content[0]) == {"type", "text"} else content
        out.update({"content": content} if content else {})
        if not out.get("is_error"):
            out.pop("is_error", None)
    return out


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """A request without the spellings that mean the same, and without the limit that is always written."""
    out = {key: value for key, value in body.items() if value not in (None, [], "", False)}
    out.pop("max_tokens", None)
    out.setdefault("model", "")
    if isinstance(out.get("system"), str):
        out["system"] = [{"type": "text", "text": out["system"]}]
    for holder in [*out["messages"], {"content": out.get("system", [])}]:
        assert isinstance(holder["content"], list | str)
    out["messages"] = [
        {
            "role": message["role"],
            "content": [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else [plain_block(block) for block in message["content"]],
        }
        for message in out["messages"]
    ]
    if "system" in out:
        out["system"] = [plain_block(block) for block in out["system"]]
    if "tools" in out:
        out["tools"] = [
            {
                key: value
                for key, value in plain_block(tool).items()
                if (key, value) != ("type", "custom") and value != ""
            }
            for tool in out["tools"]
        ]
    if "output_format" in out:
        out["output_config"] = {**out.get("output_config", {}), "format": out.pop("output_format")}
    return out


def test_every_request_keeps_its_meaning_in_its_own_dialect() -> None:
    n = refused = 0
    names = (*FILES, "anthropic__anthropic.count_tokens", "bedrock__bedrock.invoke", "bedrock__bedrock.invoke-stream")
    for name in names:
        for record in data.rows(f"exchanges/{name}.jsonl.gz"):
            body = json.loads(record["request"]["body"])
            if "messages" not in body or ("invoke" in name and "anthropic_version" not in body):
                continue
            try:
                request = anthropic.read_request(body)
            except Malformed:
                assert record["response"]["status"] == 400, record["id"]
                refused += 1
                continue
            facts = ModelFacts(model=body.get("model", ""), dialect="anthropic")
            encoded = anthropic.write_request(request, facts)
            assert plain(encoded.body) == plain(body), record["id"]
            assert encoded.warnings == ()
            assert body == json.loads(record["request"]["body"]), "the caller's body was changed"
            if body.get("max_tokens") is not None:
                assert encoded.body["max_tokens"] == body["max_tokens"]
            n += 1
    assert n > 500
    assert refused <= 2
