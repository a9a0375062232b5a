"""Bedrock's recorded traffic through the speaker, against an oracle that reads the raw JSON by itself."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.dialects import bedrock
from proxy.dialects.chat import (
    Answer,
    Asked,
    Begin,
    Ended,
    Event,
    Fault,
    ModelFacts,
    Stopped,
    StreamReader,
    TextDelta,
    ThinkingDelta,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Used,
)
from proxy.dialects.eventstream import unwrap_stream
from proxy.dialects.translation import Assembler
from tests import data

ASKED = Asked(body={}, created=1, seed="0123456789abcdef01234567")
STOPS = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",  # only in what is written
}

Said = tuple[str, str, list[tuple[str, str, Any]], str, tuple[int, int, int, int]]
"""Text, reasoning, calls (id, name, parsed arguments), finish, usage."""


def recorded(api: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    folder = data.need("exchanges")
    for path in sorted(folder.glob(f"*__{api}.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            if record["response"]["status"] == 200:
                yield record, data.body(record["response"])


# The oracle -----------------------------------------------------------------------------------------------------------


def usage_in(raw: dict[str, Any]) -> tuple[int, int, int, int]:
    return (
        raw["inputTokens"],
        raw.get("cacheReadInputTokens", 0),
        raw.get("cacheWriteInputTokens", 0),
        raw["outputTokens"],
    )


def oracle_of_body(body: dict[str, Any]) -> Said:
    text, thought, calls = "", "", []
    for block in body["output"]["message"]["content"]:
        text += block.get("text", "")
        text += "".join(each["text"] for each in block.get("citationsContent", {}).get("content", []))
        thought += block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
        use = block.get("toolUse")
        if use and use.get("type", "tool_use") == "tool_use":
            calls.append((use["toolUseId"], use["name"], use["input"]))
    return text, thought, calls, STOPS[body["stopReason"]], usage_in(body["usage"])


def frames(raw: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """A reader of frames of its own: it believes every length and looks at no checksum."""
    while raw:
        total, length = struct.unpack(">II", raw[:8])
        head, payload = raw[12 : 12 + length], raw[12 + length : total - 4]
        kind = head.split(b"-type\x07", 1)[1]
        size = int.from_bytes(kind[:2], "big")
        yield kind[2 : 2 + size].decode(), json.loads(payload)
        raw = raw[total:]


def oracle_of_stream(raw: bytes) -> Said:
    text, thought, calls, finish, usage = "", "", {}, "", (0, 0, 0, 0)
    for kind, event in frames(raw):
        at, delta = event.get("contentBlockIndex"), event.get("delta", {})
        use = event.get("start", {}).get("toolUse")
        if use and use.get("type", "tool_use") == "tool_use":
            calls[at] = [use["toolUseId"], use["name"], ""]
        text += delta.get("text", "")
        thought += delta.get("reasoningContent", {}).get("text", "")
        if "toolUse" in delta and at in calls:
            calls[at][2] += delta["toolUse"]["input"]
        if kind == "messageStop":
            finish = STOPS[event["stopReason"]]
        if kind == "metadata":
            usage = usage_in(event["usage"])
    return text, thought, [(i, n, json.loads(a or "{}")) for i, n, a in calls.values()], finish, usage


def said_by(answer: Answer) -> Said:
    text, thought, calls = "", "", []
    for part in answer.parts:
        kind = type(part).__name__
        if kind == "Text":
            text += part.text  # type: ignore[union-attr]
        elif kind == "Thinking":
            thought += part.text  # type: ignore[union-attr]
        elif kind == "ToolCall":
            calls.append((part.id, part.name, json.loads(part.arguments or "{}")))  # type: ignore[union-attr]
    usage = answer.usage
    assert usage is not None
    tokens = (usage.input, usage.cache_read, usage.cache_write, usage.output)
    return text, thought, calls, answer.finish.value, tokens


def read_stream(raw: bytes, sizes: list[int]) -> list[Event]:
    reader: StreamReader = bedrock.stream_reader()
    events, at, n = [], 0, 0
    while at < len(raw):
        size = sizes[min(n, len(sizes) - 1)]
        events += reader.feed(raw[at : at + size])
        at, n = at + size, n + 1
    events += reader.close()
    assert reader.dropped == 0
    return events


def assembled(events: list[Event]) -> Answer:
    assembler = Assembler()
    for event in events:
        assembler.take(event)
    return assembler.answer()


# Answers --------------------------------------------------------------------------------------------------------------


def test_whole_answers() -> None:
    count = 0
    for record, raw in recorded("bedrock.converse"):
        body = json.loads(raw)
        assert bedrock.fault_in(body) is None, record["id"]
        answer = bedrock.read_answer(body)
        assert said_by(answer) == oracle_of_body(body), record["id"]
        again = bedrock.write_answer(answer, ASKED)
        json.dumps(again)
        assert said_by(bedrock.read_answer(again)) == oracle_of_body(body), record["id"]
        count += 1
    assert count == 227


def test_streams() -> None:
    count = 0
    for record, raw in recorded("bedrock.converse-stream"):
        events = read_stream(raw, [len(raw)])
        assert said_by(assembled(events)) == oracle_of_stream(raw), record["id"]
        assert isinstance(events[0], Begin)
        assert isinstance(events[-1], Ended)
        assert sum(isinstance(event, Stopped) for event in events) == 1
        assert sum(isinstance(event, Used) for event in events) == 1
        indexes = [event.index for event in events if isinstance(event, ToolBegin)]
        assert indexes == list(range(len(indexes))) == [e.index for e in events if isinstance(e, ToolEnd)]
        assert all(e.text for e in events if isinstance(e, TextDelta | ThinkingDelta | ToolDelta))
        if len(raw) < 8192:
            assert read_stream(raw, [1]) == events, record["id"]
        assert read_stream(raw, record.get("chunk_sizes") or [7]) == events, record["id"]
        count += 1
    assert count == 44


def test_streams_written_again() -> None:
    for record, raw in recorded("bedrock.converse-stream"):
        writer = bedrock.stream_writer(ASKED)
        events = read_stream(raw, [len(raw)])
        written = b"".join(writer.feed(event) for event in events if not isinstance(event, Ended)) + writer.end()
        assert oracle_of_stream(written) == oracle_of_stream(raw), record["id"]
        # What makes reasoning replayable, and the tools that ran at the provider, survive as well.
        assert assembled(read_stream(written, [len(written)])).parts == assembled(events).parts, record["id"]


def test_a_stream_that_is_cut_before_its_stop_has_no_end() -> None:
    checked = 0
    for record, raw in recorded("bedrock.converse-stream"):
        if len(raw) > 4096:
            continue
        checked += 1
        at, stop_ends = 0, 0
        for kind, _ in frames(raw):
            at += struct.unpack(">I", raw[at : at + 4])[0]
            stop_ends = at if kind == "messageStop" else stop_ends
        for cut in range(0, len(raw), 13):
            events = read_stream(raw[:cut], [len(raw)]) if cut else []
            ended = any(isinstance(event, Ended) for event in events)
            assert ended == (cut >= stop_ends), record["id"]
            assert any(isinstance(event, Stopped) for event in events) == (cut >= stop_ends)
    assert checked > 5


def test_flipped_bits_never_pass() -> None:
    checked = 0
    for record, raw in recorded("bedrock.converse-stream"):
        if len(raw) > 3000:
            continue
        good = read_stream(raw, [len(raw)])
        for at in range(0, len(raw), 3):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << (at % 8)
            events = read_stream(bytes(damaged), [len(raw)])
            faults = [event for event in events if isinstance(event, Fault)]
            assert faults, (record["id"], at)
            assert events[: len(events) - 1] == good[: len(events) - 1]
            assert not any(isinstance(event, Ended) for event in events)
            checked += 1
    assert checked > 500


def test_fixtures_of_others() -> None:
    """Answers that another project keeps as examples, some of them trimmed: no messageStart, no stops of blocks."""
    whole = streams = 0
    for record in data.rows("responses_only/responses.jsonl.gz"):
        if record["provider"] != "amazon-bedrock" or "rerank" in record["name"]:
            continue
        if not record["stream"]:
            body = json.loads(record["body"])
            answer = bedrock.read_answer(body)
            text, _, calls, finish, _ = oracle_of_body(body)
            assert said_by(answer)[:1] == (text,)
            assert said_by(answer)[2:4] == (calls, finish), record["name"]
            whole += 1
            continue
        lines = [json.loads(line) for line in record["body"].splitlines() if line.strip()]
        raw = b"".join(bedrock_frame(line) for line in lines)
        events = read_stream(raw, [len(raw)])
        text = "".join(e["contentBlockDelta"]["delta"].get("text", "") for e in lines if "contentBlockDelta" in e)
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
        assert isinstance(events[0], Begin)
        names = [
            start["toolUse"]["name"]
            for e in lines
            if "toolUse" in (start := e.get("contentBlockStart", {}).get("start", {}))
        ]
        assert [event.name for event in events if isinstance(event, ToolBegin)] == names, record["name"]
        assert any(isinstance(event, Ended) for event in events) == any("messageStop" in line for line in lines)
        streams += 1
    assert (whole, streams) == (11, 12)


def bedrock_frame(line: dict[str, Any]) -> bytes:
    from proxy.dialects.eventstream import event_frame

    ((kind, payload),) = line.items()
    return event_frame(kind, payload)


def test_parallel_streams_of_parsed_events() -> None:
    count = 0
    for record in data.rows("parallel/transforms.jsonl.gz"):
        captured = record["captured"]
        if record["pair"] != "chat-completions_to_bedrock":
            continue
        if isinstance(captured, dict):
            fault = bedrock.fault_in(captured)
            assert (fault is not None) == ("error" in captured), record["name"]
            if fault is None:
                assert said_by(bedrock.read_answer(captured)) == oracle_of_body(captured), record["name"]
        else:
            raw = b"".join(bedrock_frame(line) for line in captured)
            assert said_by(assembled(read_stream(raw, [len(raw)]))) == oracle_of_stream(raw), record["name"]
        count += 1
    assert count == 56


# Claude over InvokeModel ----------------------------------------------------------------------------------------------


def test_invoke_streams_are_unwrapped() -> None:
    count = 0
    for record, raw in recorded("bedrock.invoke-stream"):
        expected = b""
        for _, payload in frames(raw):
            expected += b"data: " + base64.b64decode(payload["bytes"]) + b"\n\n"
        whole = unwrap_stream()
        assert whole.feed(raw) == expected, record["id"]
        bytewise = unwrap_stream()
        assert b"".join(bytewise.feed(raw[i : i + 1]) for i in range(len(raw))) == expected
        assert whole.dropped == 0
        count += 1
    assert count == 41


# Requests -------------------------------------------------------------------------------------------------------------

DIFFERENT_ON_PURPOSE = {"bcdbaab00d1593": "a format written as a media type (video/mp4) becomes Converse's word (mp4)"}


def normal(body: dict[str, Any]) -> Any:
    """What is equal in meaning made equal: empty members left out, schemas in strings parsed."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            out = {key: clean(each) for key, each in value.items()}
            out = {key: each for key, each in out.items() if each not in ({}, [], None, "")}
            if out.get("status") == "success":
                del out["status"]
            if out.get("ttl") == "5m" and out.get("type") == "default":
                del out["ttl"]
            return out
        if isinstance(value, list):
            return [clean(each) for each in value]
        return value

    body = json.loads(json.dumps(body))
    body.pop("modelId", None)
    schema = body.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema", {})
    if "schema" in schema:
        schema["schema"] = json.loads(schema["schema"])
    return clean(body)


@pytest.mark.parametrize("api", ["bedrock.converse", "bedrock.converse-stream"])
def test_requests_survive(api: str) -> None:
    count = 0
    folder = data.need("exchanges")
    for path in sorted(folder.glob(f"*__{api}.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            body = json.loads(record["request"]["body"])
            before = json.dumps(body)
            request = bedrock.read_request(body)
            encoded = bedrock.write_request(request, ModelFacts(model=record["model"], dialect="bedrock"))
            if record["id"] not in DIFFERENT_ON_PURPOSE:
                assert normal(encoded.body) == normal(body), record["id"]
                assert encoded.warnings == ()
            assert json.dumps(body) == before
            count += 1
    assert count in (240, 46)
