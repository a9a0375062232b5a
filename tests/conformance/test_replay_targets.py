"""The running proxy as an outsider would judge it: recordings of every dialect, for callers of each of the three APIs.

One real process stands before one fake upstream (`replaying`). Answers are read by an oracle that knows nothing of the
proxy (`score.oracle`) on both sides and compared by meaning; requests are judged by what reached the upstream.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.dialects import models, registry
from proxy.dialects.chat import NotPortable
from proxy.dialects.errors import ERRORS
from tests import data
from tests.conformance import replaying
from tests.conformance.replaying import CALLERS, PROVIDERS, SPEAKS, Desk, Got
from tests.conformance.score import answers, asked, meant, oracle, records, rendered, requests, sdk, wire
from tests.conformance.score.records import Record

Work = Iterator[tuple[str, str, str, Coroutine[Any, Any, list[str] | str]]]
MODEL = "asked-model"
EMPTY = {"chat": 502, "responses": 502, "messages": 500}
"""What an answer that says nothing is told by (`providers.md` 2.8)."""
OPENAI = ("chat", "responses")


# Answers --------------------------------------------------------------------------------------------------------------


async def in_one_piece(desk: Desk, record: Record, caller: str, provider: str) -> list[str] | str:
    """A body although a stream was asked for."""
    sent = replaying.request(caller, MODEL, True)
    got = await desk.ask(caller, provider, sent, replaying.framed(record, [record.body]))
    truth = oracle.said(record.api, record.body, False)
    if own := not_ours(got):
        return own
    if truth.error is not None:
        return faulty(truth.error, caller, got, False)
    if got.status >= 400:
        return refused(truth, caller, got)
    is_stream = got.headers["content-type"].startswith("text/event-stream")
    return answers.compare(truth, oracle.said(caller, got.body, is_stream), record.api, caller)


async def answered(desk: Desk, record: Record, caller: str, provider: str, pieces: list[bytes]) -> list[str] | str:
    """What a caller is told otherwise than the recorded 2xx says."""
    sent = replaying.request(caller, MODEL, record.stream)
    got = await desk.ask(caller, provider, sent, replaying.framed(record, pieces))
    truth = oracle.said(record.api, record.body, record.stream)
    if own := not_ours(got):
        return own
    if record.api == caller and same_bytes(got, record):
        return []
    if truth.error is not None:
        return faulty(truth.error, caller, got, record.stream)
    if got.status >= 400:
        return refused(truth, caller, got)
    if not truth.is_over:
        return broken_off(truth, caller, got)
    if got.broken:
        return [f"the connection broke: {got.body[-200:]!r}"]
    heard = oracle.said(caller, got.body, record.stream)
    found = answers.compare(truth, heard, record.api, caller)
    found += [f"call {n} has no id" for n, call in enumerate(heard.calls) if not call.id and record.api != caller]
    if (want := model_of(record.api, record.body, record.stream) or MODEL) != (
        told := model_of(caller, got.body, record.stream)
    ):
        found.append(f"model {want!r} became {told!r}")
    return ["the same dialect, but other bytes", *found] if record.api == caller else found


def same_bytes(got: Got, record: Record) -> bool:
    """A whole answer as it came, but for the blank line behind the last event, which the proxy completes."""
    is_told_as_error = record.stream and wire.bare(record.body) is not None
    return not (got.broken or is_told_as_error) and got.body.rstrip(b"\r\n") == record.body.rstrip(b"\r\n")


def not_ours(got: Got) -> list[str]:
    if b"proxy_internal_error" in got.body:
        return [f"the proxy failed: {got.body[-300:]!r}"]
    return [] if got.play.times == 1 else [f"{got.play.times} attempts: {got.status} {got.body[:300]!r}"]


def refused(truth: oracle.Said, caller: str, got: Got) -> list[str] | str:
    """A recorded success that the caller is told as an error: right only where the answer holds nothing for it."""
    has_words = truth.text or truth.refusal or truth.calls or truth.blocked
    if not truth.is_over and not has_words:
        return []
    if not has_words and truth.finish in answers.SILENT and got.status == EMPTY[caller]:
        return "reasoning_only" if truth.thinking and caller == "messages" else [] if not truth.thinking else ["empty"]
    return [f"an answer became {got.status} {got.body[:200]!r}"]


def faulty(message: str, caller: str, got: Got, stream: bool) -> list[str]:
    """An error inside a 200: the status of an error before the first content, an error event after it."""
    if got.status < 400 and not stream:
        return [f"an error {message[:80]!r} became {got.body[:200]!r}"]
    heard = oracle.said(caller, got.body, got.status < 400)
    if heard.error is None:
        return [f"the error {message[:80]!r} is not told: {got.body[-200:]!r}"]
    if " ".join(message.split())[:60] not in " ".join(heard.error.split()):
        return [f"error {message[:80]!r} became {heard.error[:120]!r}"]
    return ["an end although there was an error"] if has_end(caller, got) else []


def has_end(caller: str, got: Got) -> bool:
    """Whether a stream carries its dialect's mark of success."""
    if got.status >= 400:
        return False
    marks = {"chat": b"data: [DONE]", "responses": b'"response.completed"', "messages": b'"message_stop"'}
    return marks[caller] in got.body.replace(b'": "', b'":"') or oracle.said(caller, got.body, True).is_over


def broken_off(truth: oracle.Said, caller: str, got: Got) -> list[str]:
    """A stream that was cut: an error event behind what came, and no mark of success."""
    heard = oracle.said(caller, got.body, got.status < 400)
    if has_end(caller, got):
        return [f"a cut stream ends as if it were whole: {got.body[-200:]!r}"]
    if heard.error is None:
        return [f"no error is told: {got.status} {got.body[-200:]!r}"]
    if not (truth.text + truth.refusal).replace("\n", "").startswith(heard.text.replace("\n", "")):
        return [f"text {truth.text[-80:]!r} became {heard.text[-80:]!r}"]
    return []


async def cut_short(desk: Desk, record: Record, caller: str, provider: str, seed: int) -> list[str] | str:
    """A stream whose connection ends behind one of its events, with the last chunk or without."""
    rng = random.Random(f"{record.id}{caller}{seed}")
    ends = [0, *replaying.event_ends(record)[:-1]]
    early = replace(record, body=record.body[: rng.choice(ends)])
    truth = oracle.said(early.api, early.body, True)
    if truth.is_over or truth.error is not None:
        return "over before the cut"
    is_reset = rng.random() < 0.5
    pieces = replaying.framed(early, [early.body], ends=not is_reset)
    got = await desk.ask(caller, provider, replaying.request(caller, MODEL, True), pieces, closes=is_reset)
    return not_ours(got) or broken_off(truth, caller, got)


def model_of(api: str, body: bytes, stream: bool) -> str:
    """The model that an answer names; empty: none."""
    if api == "invoke":
        api, body = "messages", wire.unwrapped(body) if stream else body
    if api == "converse":
        return ""
    shown: Iterable[Any] = (each for _, each in wire.objects(body)) if stream else [wire.load(body)]
    for each in shown:
        for holder in (each, each.get("response"), each.get("message")) if isinstance(each, dict) else ():
            name = holder.get("model") or holder.get("modelVersion") if isinstance(holder, dict) else None
            if isinstance(name, str) and name:
                return name
    return ""


# Errors ---------------------------------------------------------------------------------------------------------------


async def failed(desk: Desk, record: Record, caller: str, provider: str, stream: bool) -> list[str] | str:
    """What a caller is told otherwise than a recorded error status says."""
    sent = replaying.request(caller, MODEL, stream)
    got = await desk.ask(caller, provider, sent, replaying.framed(replace(record, stream=False), [record.body]))
    if own := not_ours(got):
        return own
    body = wire.load(got.body)
    if got.status < 400 or got.broken:
        return [f"{record.status} became {got.status} {got.body[:200]!r}"]
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
        return [f"no error object: {got.body[:200]!r}"]
    dialect = "openai" if caller in OPENAI else "anthropic"
    if dialect == "anthropic" and body.get("type") != "error":
        return [f"no type: {got.body[:200]!r}"]
    parsed = wire.load(record.body)
    told = body["error"]
    found = []
    if not told.get("message"):
        found.append("no message")
    allowed = {rendered.MERGED[dialect].get(each, each) for each in rendered.meant(record)}
    own = parsed.get("error") if isinstance(parsed, dict) else None
    if not (isinstance(own, dict) and own.items() <= told.items() and got.status == record.status):
        cls = rendered.told_class(dialect, got.status, body)
        code = told.get("code")
        is_own_code = dialect == "openai" and record.api in OPENAI and isinstance(code, str) and code in str(parsed)
        if cls not in allowed and not is_own_code:
            found.append(f"{record.status} {sorted(allowed)} is told as {cls}: {got.body[:200]!r}")
        statuses = {line[0] for cls, line in ERRORS[dialect].items() if str(cls) in rendered.meant(record)}
        if got.status not in {record.status, *statuses}:
            found.append(f"{record.status} {sorted(allowed)} is told by {got.status}")
    want = " ".join(rendered.sentence(parsed).split()) if parsed is not None else ""
    if want and not rendered._is_kept(want, str(told.get("message"))):
        found.append(f"{want[:80]!r} is told as {str(told.get('message'))[:80]!r}")
    return found


# Requests -------------------------------------------------------------------------------------------------------------

TYPICAL = {
    "openai": "gpt-4o-mini", "openai-responses": "gpt-5.1", "azure": "gpt-4o-mini", "azure-dated": "gpt-4o-mini",
    "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash",
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "bedrock-invoke": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
}  # fmt: skip
CANNED: dict[str, dict[str, Any]] = {
    "chat": {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    },
    "responses": {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "ok", "annotations": []}]}],
    },
    "messages": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "ok"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "generate": {"candidates": [{"content": {"role": "model", "parts": [{"text": "ok"}]}, "finishReason": "STOP"}]},
    "converse": {
        "output": {"message": {"role": "assistant", "content": [{"text": "ok"}]}}, "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    },
}  # fmt: skip
"""The least that each API calls an answer, so that no request waits for more."""


async def carried(desk: Desk, record: Record, provider: str, raw: str) -> list[str] | str:
    """What a target is asked otherwise than a recorded request says."""
    caller = record.api
    speaks = SPEAKS.get(provider) or (caller if caller in OPENAI else "chat")
    is_own = speaks == caller
    sent = raw.encode() if is_own else json.dumps({**record.asked, "model": TYPICAL[provider]}).encode()
    canned = Record(id="", api="chat", stream=False, body=json.dumps(CANNED[_shape(speaks)]).encode())
    got = await desk.ask(caller, provider, sent, replaying.framed(canned, [canned.body]))
    body = wire.load(got.body)
    if not got.play.times:
        code = (body.get("error") or {}).get("code") if isinstance(body, dict) else None
        told = got.headers.get("x-failover-skipped", "")
        if got.status == 400 and (told or code == "not_portable" or "not_portable" in str(body)):
            return f"not_portable {told}"
        return [f"not asked: {got.status} {got.body[:200]!r}"]
    if own := not_ours(got):
        return own
    if is_own:
        if record.status >= 400 and got.play.body == _as_vendor_takes(record, provider, sent):
            return "a quirk of its vendor"  # who refused the request as it was
        return [] if got.play.body == sent else [f"other bytes: {_first_change(sent, got.play.body)}"]
    if record.status >= 300:
        return "its own provider refused it"
    return _as_meant(record, provider, got)


def _as_vendor_takes(record: Record, provider: str, sent: bytes) -> bytes:
    dialect = PROVIDERS[provider][1]["dialect"]
    facts = models.facts(record.asked["model"], dialect, "azure" if dialect == "azure" else "", {}, None)
    changes, _ = registry.adjusted(record.api, record.asked, facts)
    return registry.spliced(sent, changes) if changes else b""


def _shape(speaks: str) -> str:
    return "messages" if speaks == "invoke" else speaks


def _first_change(a: bytes, b: bytes) -> str:
    at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return f"{a[max(0, at - 20) : at + 60]!r} became {b[max(0, at - 20) : at + 60]!r}"


def _as_meant(record: Record, provider: str, got: Got) -> list[str] | str:
    speaks = SPEAKS.get(provider) or "chat"
    target = _shape(speaks)
    body = json.loads(got.play.body)
    if not isinstance(body, dict):
        return ["the upstream got no object"]
    if speaks == "invoke":
        body = {"model": "m", **{k: v for k, v in body.items() if k not in ("anthropic_version", "anthropic_beta")}}
    entry = PROVIDERS[provider][1]
    facts = models.facts(TYPICAL[provider], entry["dialect"], "", {}, None)
    if record.id in requests.NONSENSE:
        return "malformed"
    try:
        encoded = registry.written(target, registry.speaker(record.api).read_request(record.asked), facts)
    except NotPortable:
        return "not_portable"
    want, heard = asked.meaning(record.api, record.asked), asked.meaning(target, body)
    warnings = got.headers.get("x-translation-warnings", "")
    found = meant.differences(want, heard, encoded.names, encoded.format_tool, warnings)
    if record.api == "messages" and speaks == "invoke" and sdk.request_faults("messages", record.asked):
        return "beyond the SDK's types already"  # beta tools of its own language, which pass as they are
    if not sdk.missing():
        found += sdk.request_faults(target, requests._as_typed(target, body, facts))
    return found


# The sweep ------------------------------------------------------------------------------------------------------------


def chosen(name: str, share: int, seed: int = 0) -> bool:
    return share <= 1 or zlib.crc32(f"replay/{seed}/{name}".encode()) % share == 0


def answer_work(desk: Desk, share: int) -> Work:
    for record in records.recorded():
        if not answers.sources(record) or not chosen(record.id, share):
            continue
        for caller in CALLERS:
            for provider in replaying.homes(record, caller):
                pair = f"{provider} -> {caller}"
                for way, pieces in replaying.ways(record, share == 1).items():
                    if way == "bytes" and not chosen(f"{record.id}{caller}", 3):
                        continue
                    kind = "streams" if record.stream else "answers"
                    judge = answered(desk, record, caller, provider, pieces)
                    yield kind if way == "whole" else f"{kind} {way}", pair, record.id, judge
                if record.stream:
                    for seed in range(3 if share == 1 else 1):
                        yield "cut", pair, record.id, cut_short(desk, record, caller, provider, seed)
                elif record.api != caller and chosen(f"{record.id}{caller}", 3):
                    yield "in one piece", pair, record.id, in_one_piece(desk, record, caller, provider)


def error_work(desk: Desk, share: int) -> Work:
    for record in records.recorded():
        if record.status < 400 or record.api == "other" or not chosen(record.id, share):
            continue
        for caller in CALLERS:
            for provider in replaying.homes(record, caller):
                for stream in (False, True):
                    judge = failed(desk, record, caller, provider, stream)
                    yield "errors", f"{provider} -> {caller}", f"{record.id} {stream}", judge


def request_work(desk: Desk, share: int) -> Work:
    for name in sorted({row["file"] for row in records.listed()}):
        for raw in data.rows(f"exchanges/{name}"):
            record = records._exchange(raw)
            if record.api not in CALLERS or not isinstance(record.asked, dict):
                continue
            if not isinstance(record.asked.get("model"), str):
                continue
            for provider in PROVIDERS:
                if chosen(f"{record.id}{provider}", share):
                    judge = carried(desk, record, provider, raw["request"]["body"])
                    yield "requests", f"{record.api} -> {provider}", record.id, judge


async def sweep(folder: Path, share: int) -> replaying.Tally:
    """One answer in `share`, one error in a third of it, one request and target in twice as many."""
    data.need("exchanges/index.csv")
    async with replaying.desk(folder) as desk:
        await desk.run(answer_work(desk, share))
        await desk.run(error_work(desk, max(1, share // 3)))
        await desk.run(request_work(desk, share))
        print("\n".join([*desk.tally.rows(), *desk.tally.faults()]))
    return desk.tally


def told(tally: replaying.Tally) -> str:
    faults = tally.faults()
    return f"{len(faults)} wrong:\n" + "\n".join(each[:400] for each in faults[:40])


@pytest.mark.torture
async def test_every_recording_reaches_every_caller(tmp_path: Path) -> None:
    tally = await sweep(tmp_path, 1)
    assert not tally.faults(), told(tally)
    assert tally.right.total() > 20_000


async def test_recordings_of_every_dialect_reach_every_caller(tmp_path: Path) -> None:
    tally = await sweep(tmp_path, 60)
    assert not tally.faults(), told(tally)
    assert tally.right.total() > 500
