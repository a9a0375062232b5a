"""The speaker against everything that was recorded of chat completions, with an oracle that reads the raw JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from proxy.dialects import openai
from proxy.dialects.chat import Asked, Ended, Event, Fault, Malformed, ModelFacts, Stopped
from proxy.dialects.openai import quirks
from tests import data
from tests.unit.dialects.openai import meaning, oracle

ASKED = Asked(body={}, created=1, seed="0" * 32, model="m")


def read(pieces: Iterable[bytes]) -> list[Event]:
    reader = openai.stream_reader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.close()


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes:
        out.append(body[at : at + size])
        at += size
    return [*out, body[at:]]


def test_streams_are_read_without_loss_whatever_the_pieces() -> None:
    complete = broken = 0
    for record, _, body in oracle.records(streams=True):
        if record["wire"] != "sse":
            continue
        events = read([body])
        assert oracle.differences(oracle.of_stream(body), oracle.heard(events)) == [], record["id"]
        if "midstream_error" in record["flags"]:
            broken += 1
            assert isinstance(events[-1], Fault), record["id"]
            assert not any(isinstance(event, Ended) for event in events)
        else:
            complete += 1
            assert isinstance(events[-1], Ended), record["id"]
            assert sum(isinstance(event, Stopped) for event in events) == 1, record["id"]
        if "chunk_sizes" in record:
            assert read(cut(body, record["chunk_sizes"])) == events, record["id"]
        if len(body) < 4096:
            assert read(body[i : i + 1] for i in range(len(body))) == events, record["id"]
    assert complete > 600
    assert broken == 10


def test_streams_written_again_say_the_same() -> None:
    for n, (record, _, body) in enumerate(oracle.records(streams=True)):
        if record["wire"] != "sse" or "midstream_error" in record["flags"] or n % 3:
            continue
        writer = openai.stream_writer(ASKED)
        events = read([body])
        out = b"".join(writer.feed(event) for event in events if not isinstance(event, Ended)) + writer.end()
        assert out.endswith(b"data: [DONE]\n\n")
        again = oracle.heard(read([out]))
        first = oracle.heard(events)
        first.calls = [(call[0], call[1], call[2] or "{}") for call in first.calls]
        first.usage = first.usage or (0, 0, 0)
        if first.finish == "unknown":
            first.finish = "stop"
        assert again == first, record["id"]


def test_answers_are_read_and_written_without_loss() -> None:
    read_ones = faults = 0
    for record, _, body in oracle.records(streams=False):
        try:
            parsed = json.loads(body)
        except ValueError:
            continue
        if openai.fault_in(parsed) is not None:
            faults += 1
            assert "error_in_200" in record["flags"], record["id"]
            continue
        read_ones += 1
        said = oracle.of_answer(parsed)
        answer = openai.read_answer(parsed)
        assert oracle.differences(said, oracle.heard_whole(answer)) == [], record["id"]
        again = oracle.heard_whole(openai.read_answer(openai.write_answer(answer, ASKED)))
        first = oracle.heard_whole(answer)
        first.calls = [(call[0], call[1], call[2] or "{}") for call in first.calls]
        if first.finish == "unknown":
            first.finish = again.finish
        assert again == first, record["id"]
    assert read_ones > 1200
    assert faults == 4


def requests() -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    for streams in (True, False):
        for record, asked, _ in oracle.records(streams):
            if "messages" in asked:
                yield record, asked


def test_requests_of_the_same_dialect_keep_their_meaning() -> None:
    seen, otherwise = 0, []
    for record, asked in requests():
        before = json.dumps(asked)
        model = asked.get("model") or "m"
        written = openai.write_request(openai.read_request(asked), ModelFacts(model=model, dialect="openai")).body
        assert json.dumps(asked) == before
        seen += 1
        if meaning.meaning(written) != meaning.meaning(asked):
            otherwise.append(record["id"])
    assert seen > 1900
    assert len(otherwise) <= 5, otherwise


def test_no_vendor_is_sent_something_else_than_what_he_has_accepted() -> None:
    known = 0
    for record, asked in requests():
        vendor = quirks.vendor_of(record["request"]["url"])
        known += bool(vendor)
        facts = ModelFacts(model=asked.get("model") or "m", dialect="openai", vendor=vendor)
        assert quirks.adjust(asked, facts) == (None, ()), record["id"]
        assert quirks.obstacle(asked, facts) == "", record["id"]
    assert known > 1000


def test_parallel_and_odd_requests_are_read_or_refused_in_words() -> None:
    for row in data.rows("parallel/snapshots.jsonl.gz"):
        asked = row["dialects"].get("chat-completions", {}).get("request")
        if asked:
            assert openai.read_request(asked).turns
    refused = [refusal(row["request"]) for row in data.rows("parallel/fuzz_requests.jsonl.gz")]
    assert len(refused) == 21
    assert sorted(filter(None, refused)) == ["messages.0.tool_calls.0.function.name", "messages.1.content"]


def refusal(asked: dict[str, Any]) -> str:
    """Where a request is nonsense; empty: it is none, and can be written again."""
    try:
        openai.write_request(openai.read_request(asked), ModelFacts(model="m", dialect="openai"))
    except Malformed as error:
        return error.path
    return ""
