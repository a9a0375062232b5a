"""The speaker against recorded traffic: a sample in the ordinary run, all of it in `torture`."""

from __future__ import annotations

import copy
import json
from typing import Any

import orjson
import pytest

from proxy.dialects import gemini
from proxy.dialects.chat import Ended, Fault, Malformed, ModelFacts
from proxy.dialects.gemini.history import PLACEHOLDER
from proxy.dialects.gemini.models import generation
from tests import data
from tests.unit.dialects.gemini import recorded
from tests.unit.dialects.gemini.heard import ASKED, heard, heard_answer, read, rewritten

REPAIRED = {
    # Histories that are put right; checked one by one.
    "2c390e312a8544": "one signature on every parallel call",
    "69fd443d1175c1": "one signature on every parallel call",
    "07ddbc0577d12c": "one signature on every parallel call",
    "52e0344ba07ec0": "one signature in two steps",
    "44b8677aa246b2": "one signature in two steps",
    "31244b7f9e9f55": "no turn that says anything",
    "70316b37fab96f": "begins with the model",
    "cd0e6572a5e439": "begins with the model",
    "5368112d905913": "a call without result",
    "e66ea57797d766": "a call without result",
    "349f32ba7302ce": "a call without result",
    "toolCallRequest.followup-request": "a result without the id that its call has",
}
MALFORMED = {"476af0c248ad28": "a role that Google refuses as well"}


def check_answer(name: str, body: bytes) -> None:
    """A whole body is read without loss, and so is what is written of it."""
    raw = recorded.bodies(body)[0]
    if "error" in raw:
        assert gemini.fault_in(raw) is not None, name
        return
    assert gemini.fault_in(raw) is None, name
    answer, expected = gemini.read_answer(raw), recorded.said(body)
    expected.finish = expected.finish or "stop"
    assert heard_answer(answer) == expected, name
    again = gemini.read_answer(orjson.loads(orjson.dumps(gemini.write_answer(answer, ASKED))))
    assert heard_answer(again) == expected, name


def check_stream(name: str, body: bytes, sizes: list[int]) -> None:
    """A stream is read without loss, however it is cut, and so is what is written of it."""
    events, expected = read(body, sizes), recorded.said(body)
    assert read(body, []) == events, name
    assert read(body, [1]) == events, name
    if any("error" in each for each in recorded.bodies(body)):
        assert isinstance(events[-1], Fault), name
        return
    assert heard(events) == expected, name
    assert isinstance(events[-1], Ended) == bool(expected.finish), name
    if expected.finish:
        assert heard(read(rewritten(events), [11])) == expected, name


def requests() -> list[tuple[str, str, dict[str, Any]]]:
    """(name, model, body) of every recorded request."""
    out = [(each["id"], each["model"], json.loads(each["request"]["body"])) for each in recorded.exchanges()]
    for case in data.rows("parallel/snapshots.jsonl.gz"):
        for key, body in case["dialects"].get("google", {}).items():
            if key.endswith("request"):
                out.append((f"{case['case']}.{key}", body.get("model", "gemini-2.5-flash"), body))
    return out


def check_request(name: str, model: str, body: dict[str, Any]) -> None:
    """Read and written again, a request means the same."""
    kept = copy.deepcopy(body)
    facts = ModelFacts(model=model, dialect="gemini")
    if name in MALFORMED:
        with pytest.raises(Malformed):
            gemini.read_request(body)
        return
    written = gemini.write_request(gemini.read_request(body), facts).body
    assert body == kept, name
    with_ids = generation(facts) >= (3, 0)
    before, after = recorded.meaning(body, with_ids), recorded.meaning(written, with_ids)
    for meant in (before, after):
        for _, parts in meant["turns"]:
            for part in parts:
                if part.get("thoughtSignature") == PLACEHOLDER:
                    del part["thoughtSignature"]
    if name in REPAIRED:
        assert before.pop("turns") != after.pop("turns"), name
    assert after == before, name


def sample(step: int) -> list[tuple[str, bytes, bool, list[int]]]:
    """Every `step`-th answer."""
    return [each for i, each in enumerate(recorded.answers()) if i % step == 0]


def check_answers(step: int) -> tuple[int, int]:
    """Returns how many (streams, whole answers) there were."""
    streams = whole = 0
    for name, body, is_stream, sizes in sample(step):
        if is_stream:
            streams += 1
            check_stream(name, body, sizes)
        else:
            whole += 1
            check_answer(name, body)
    return streams, whole


def test_sample_of_answers() -> None:
    streams, whole = check_answers(9)
    assert streams > 10
    assert whole > 30


def test_sample_of_requests() -> None:
    for name, model, body in requests()[::7]:
        check_request(name, model, body)


@pytest.mark.torture
def test_all_answers() -> None:
    assert check_answers(1) >= (200, 500)


@pytest.mark.torture
def test_all_requests() -> None:
    for name, model, body in requests():
        check_request(name, model, body)


def test_array_without_events_is_recorded_and_read() -> None:
    seen = 0
    for record in recorded.exchanges():
        if "stream_req_json_resp" in record["flags"]:
            seen += 1
            check_stream(record["id"], data.body(record["response"]), [3])
    assert seen >= 15
