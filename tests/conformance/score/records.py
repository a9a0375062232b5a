"""All recorded conversations, in one form: what was asked, what came back, in which dialect."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests import data
from tests.conformance.score import wire

APIS = ("chat", "responses", "messages", "generate", "converse")
"""The wire APIs that can stand on either side."""
_API = {
    "openai.chat": "chat",
    "openai.responses": "responses",
    "anthropic.messages": "messages",
    "gemini.generateContent": "generate",
    "gemini.streamGenerateContent": "generate",
    "bedrock.converse": "converse",
    "bedrock.converse-stream": "converse",
    "bedrock.invoke": "invoke",
    "bedrock.invoke-stream": "invoke",
}
ERROR_DIALECT = {"chat": "openai", "responses": "openai", "messages": "anthropic", "generate": "gemini"}
"""Wire API -> the word of `classify` for who speaks it; Bedrock's two are ``bedrock``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    id: str
    api: str
    """One of `APIS`, or ``invoke``: Claude's own JSON at Bedrock."""
    stream: bool
    """Whether `body` is a stream of events (not: whether one was asked for)."""
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: Any = None
    """The request's parsed body; None: not recorded or not JSON."""
    model: str = ""
    provider: str = ""
    sizes: tuple[int, ...] = ()
    """Recorded read sizes."""


def recorded() -> Iterator[Record]:
    """Everything, in a fixed order."""
    yield from exchanges()
    yield from answers_only()
    yield from parallel_answers()
    yield from shapes()


@cache
def listed() -> tuple[dict[str, str], ...]:
    """The rows of the index of `exchanges` that are conversations."""
    data.need("exchanges")
    return tuple(row for row in data.rows("exchanges/index.csv") if row["api"] in _API)


def exchanges() -> Iterator[Record]:
    """Requests with their answers."""
    for name in sorted({row["file"] for row in listed()}):
        for raw in data.rows(f"exchanges/{name}"):
            yield _exchange(raw)


def chosen(ids: set[str]) -> list[Record]:
    """Some of the exchanges, by id."""
    names = sorted({row["file"] for row in listed() if row["id"] in ids})
    return [_exchange(raw) for name in names for raw in data.rows(f"exchanges/{name}") if raw["id"] in ids]


def _exchange(raw: dict[str, Any]) -> Record:
    response = raw["response"]
    api = _API[raw["api"]]
    if api == "invoke" and not re.search("claude-(?!instant|v)", raw["model"] + raw["request"]["url"]):
        api = "other"  # another family's own JSON, or the text completions of old
    return Record(
        id=raw["id"],
        api=api,
        stream=bool(raw["stream"]) and raw["wire"] in ("sse", "aws-eventstream"),
        body=data.body(response),
        status=response["status"],
        headers=response["headers"],
        asked=wire.load(raw["request"]["body"]),
        model=raw["model"],
        provider=raw["provider"],
        sizes=tuple(raw.get("chunk_sizes") or ()),
    )


def answers_only() -> Iterator[Record]:
    """Answers without their requests."""
    for raw in data.rows("responses_only/responses.jsonl.gz"):
        body, stream = raw["body"], raw["stream"]
        lines = [line for line in body.split("\n") if line.strip()]
        if raw["format"] == "one SSE data payload per line":
            parsed = [wire.load(line) for line in lines]
            api = _looks(next((each for each in parsed if isinstance(each, dict)), {}), True)
            made = _events(api, lines, parsed)
        else:
            stream = stream and not body.lstrip().startswith("{")
            first = next((each for _, each in wire.objects(body.encode())), None) if stream else wire.load(body)
            api = _looks(first if isinstance(first, dict) else {}, stream)
            made = body.encode()
        if api:
            yield Record(id=f"only/{raw['name']}", api=api, stream=stream, body=made, provider=raw["provider"])


def _looks(first: dict[str, Any], stream: bool) -> str:
    """The dialect of an answer, by its shape; empty: none of ours."""
    if "choices" in first and first.get("object") != "text_completion":
        return "chat"
    if (
        str(first.get("type", "")).startswith("response.")
        or first.get("object") == "response"
        or (stream and "response" in first and "output" in first["response"])
    ):
        return "responses"
    if first.get("type") in ("message_start", "message"):
        return "messages"
    if first.keys() & {"candidates", "promptFeedback", "usageMetadata"}:
        return "generate"
    if first.keys() & {"messageStart", "contentBlockStart", "contentBlockDelta"}:
        return "converse"
    if "stopReason" in first or ("output" in first and "metrics" in first):
        return "converse"
    return ""


def _events(api: str, lines: list[str], parsed: list[Any]) -> bytes:
    if api == "converse":
        return b"".join(
            wire.event(kind, value) for each in parsed if isinstance(each, dict) for kind, value in each.items()
        )
    out = []
    for line, each in zip(lines, parsed, strict=True):
        named = (
            f"event: {each['type']}\n"
            if api in ("responses", "messages") and isinstance(each, dict) and "type" in each
            else ""
        )
        out.append(f"{named}data: {line}\n\n")
    if api == "chat":
        out.append("data: [DONE]\n\n")
    return "".join(out).encode()


# The yardstick of translation -----------------------------------------------------------------------------------------

_PARALLEL = {
    "chat-completions": "chat",
    "responses": "responses",
    "anthropic": "messages",
    "google": "generate",
    "bedrock": "converse",
    "bedrock-anthropic": "messages",
    "vertex-anthropic": "messages",
    "vertex-google": "generate",
}


def parallel_requests() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """(case, dialect of the data -> its request), the first turn and the follow-up apart."""
    for raw in data.rows("parallel/snapshots.jsonl.gz"):
        for which in ("request", "followup-request"):
            found = {name: _plain(each[which]) for name, each in raw["dialects"].items() if which in each}
            if found:
                yield f"{raw['case']}/{which}", {name: _rest(name, each) for name, each in found.items()}


def parallel_api(name: str) -> str:
    return _PARALLEL[name]


def parallel_answers() -> Iterator[Record]:
    """Answers of the parallel cases, and those that translated requests were given."""
    for raw in data.rows("parallel/snapshots.jsonl.gz"):
        for name, each in raw["dialects"].items():
            for which in ("response", "followup-response", "response-streaming", "followup-response-streaming"):
                if which in each:
                    asked = each.get("followup-request" if which.startswith("followup") else "request")
                    case = f"parallel/{raw['case']}/{name}/{which}"
                    yield from _answer(
                        case, _PARALLEL[name], each[which], _rest(name, _plain(asked)) if asked else None
                    )
    for raw in data.rows("parallel/transforms.jsonl.gz"):
        captured = raw["captured"]
        if isinstance(captured, list) or (isinstance(captured, dict) and not isinstance(captured.get("error"), str)):
            yield from _answer(
                f"transform/{raw['pair']}/{raw['name']}", _PARALLEL[raw["pair"].split("_to_")[1]], captured, None
            )


def _answer(case: str, api: str, captured: Any, asked: Any) -> Iterator[Record]:
    captured = _plain(captured)
    if isinstance(captured, dict):
        yield Record(id=case, api=api, stream=False, body=json.dumps(captured).encode(), asked=asked)
    elif captured:
        lines = [json.dumps(each) for each in captured]
        yield Record(id=case, api=api, stream=True, body=_events(api, lines, captured), asked=asked)


def _plain(value: Any) -> Any:
    """The SDK's view as JSON: byte arrays, which it shows as objects of numbers, as base64."""
    if isinstance(value, dict):
        if value and all(isinstance(each, int) and key == str(at) for at, (key, each) in enumerate(value.items())):
            return base64.b64encode(bytes(value.values())).decode()
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _rest(name: str, asked: Any) -> Any:
    """The body as it goes over the wire: without the members that stand in the path."""
    if name == "bedrock":
        return {key: value for key, value in asked.items() if key != "modelId"}
    if name in ("google", "vertex-google"):
        return {key: value for key, value in asked.items() if key not in ("model", "stream")}
    return asked


def fuzzed() -> Iterator[Record]:
    """Odd but valid chat requests."""
    for raw in data.rows("parallel/fuzz_requests.jsonl.gz"):
        yield Record(id=f"fuzz/{raw['kind']}/{raw['id']}", api="chat", stream=False, body=b"", asked=raw["request"])


def shapes() -> Iterator[Record]:
    """Failures as users reported them."""
    for raw in data.rows("error_shapes/reported_error_shapes.jsonl"):
        body = raw["body"] if isinstance(raw["body"], str) else json.dumps(raw["body"])
        api = {"anthropic": "messages", "gemini": "generate", "bedrock": "converse"}.get(raw["provider"], "chat")
        yield Record(
            id=f"shape/{raw['id']}",
            api=api,
            stream=raw["how"] == "sse-after-start",
            body=body.encode(),
            status=raw["status"],
            headers=raw["headers"],
            provider=raw["provider"],
        )


__all__ = ["APIS", "ERROR_DIALECT", "Record", "csv", "recorded"]
