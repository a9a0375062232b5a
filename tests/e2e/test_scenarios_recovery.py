"""S08 to S10 and S14 of the black-box checklist where a broken stream goes on: `X-Stream-Recovery: continue`.

Every fallback here says the same 60 words as its primary, from the beginning, from the cut or with a repetition, so a
missing, doubled or misplaced word at the seam is always visible.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.script import Fault
from tests.e2e.scenario import ALL, CHAT, MESSAGES, RESPONSES, Pair, Reply, scene

CONTINUE = {"X-Stream-Recovery": "continue"}
SHAPES = {"on": Fault(from_word=41), "tail": Fault(from_word=31), "again": None}
CALLERS = {CHAT: "openai", RESPONSES: "openai", MESSAGES: "anthropic"}
DIALECTS = ("openai", "anthropic", "gemini")
ENDS = {
    CHAT: lambda events: events[-1] == "[DONE]" and _finishes(events) == ["stop"],
    RESPONSES: lambda events: events[-1]["type"] == "response.completed",
    MESSAGES: lambda events: events[-1]["type"] == "message_stop",
}


def _finishes(events: list[Any]) -> list[str]:
    chunks = (event for event in events if isinstance(event, dict))
    return [c["finish_reason"] for chunk in chunks for c in chunk.get("choices", []) if c.get("finish_reason")]


def assert_rescued(reply: Reply, path: str, pair: Pair) -> None:
    """All words once and in order, one beginning, one end, the seam marked, nothing that shows two answers."""
    assert reply.status == 200, reply.body[:300]
    assert reply.broken == "", reply.body[-500:]
    assert reply.words == ALL, (pair.name, path)
    assert ENDS[path](reply.events), reply.body[-600:]
    assert f": continued-by {pair.f.name}".encode() in reply.body
    dicts = [event for event in reply.events if isinstance(event, dict)]
    if path == CHAT:
        assert len({event["id"] for event in dicts}) == 1
        assert len([1 for e in dicts for c in e["choices"] if c["delta"].get("role")]) == 1
        assert dicts[-1]["usage"]["completion_tokens"] > 0
    elif path == MESSAGES:
        kinds = [event["type"] for event in dicts]
        assert (kinds.count("message_start"), kinds.count("content_block_start")) == (1, 1)
        assert kinds.count("message_delta") == 1
    else:
        kinds = [event["type"] for event in dicts]
        assert (kinds.count("response.created"), kinds.count("response.output_item.added")) == (1, 1)
        numbers = [event["sequence_number"] for event in dicts]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert dicts[-1]["response"]["output"][0]["content"][0]["text"].split() == ALL
        assert len({event["response"]["id"] for event in dicts if "response" in event}) == 1
        assert len({event["item_id"] for event in dicts if "item_id" in event}) == 1


@pytest.mark.parametrize("path", CALLERS)
async def test_S08_a_cut_stream_is_finished_by_another_target(tmp_path: Path, path: str) -> None:
    cases = list(itertools.product(DIALECTS, SHAPES, ("close", "reset", "mid_char", "end")))
    pairs = [
        Pair("-".join(case), dialect=CALLERS[path], f_dialect=case[0], headers=CONTINUE)  # type: ignore[arg-type]
        for case in cases
    ]
    async with scene(tmp_path, *pairs, x=0.1):
        for pair, (_, shape, cut) in zip(pairs, cases, strict=True):
            pair.p.default = Fault(cut_after_words=40, cut=cut)
            pair.f.default = SHAPES[shape]
        for some in (pairs[:12], pairs[12:24], pairs[24:]):  # all at once would wait for the machine
            replies = await asyncio.gather(*(pair.ask(path=path) for pair in some))
            for pair, reply in zip(some, replies, strict=True):
                assert_rescued(reply, path, pair)
                assert len(pair.f.attempts) == 1
                assert reply.took_s <= 6.0


async def test_S08_a_text_that_fits_nowhere_ends_in_a_clean_error(tmp_path: Path) -> None:
    texts = {
        "other": "Certainly! What follows is quite another answer, of which not one word is known.",
        "turns": " ".join([*ALL[:10], *ALL[45:]]),
    }
    pairs = [Pair(name, headers=CONTINUE) for name in texts]
    async with scene(tmp_path, *pairs, x=0.1) as stage:
        for pair in pairs:
            pair.p.default = Fault(cut_after_words=40)
            pair.f.default = Fault(text=texts[pair.name])
        for pair in pairs:
            error = (await pair.ask()).assert_broken(40)
            assert error["code"] == "stream_interrupted", "the error names the cut, not the continuation"
        assert stage.sidecar.process.returncode is None


async def test_S09_a_stalled_stream_is_finished_by_another_target(tmp_path: Path) -> None:
    pair = Pair("stall", headers={**CONTINUE, "X-Stream-Idle-Timeout-Ms": "500"})
    async with scene(tmp_path, pair, x=0.1):
        pair.p.default = Fault(stall_after_words=20, stall_s=math.inf)
        reply = await pair.ask()
        assert_rescued(reply, CHAT, pair)


async def test_S10_a_malformed_event_never_reaches_the_caller(tmp_path: Path) -> None:
    broken = ('{"id": "cut', "not json at all", "{not json}", '{"a": 1}}')
    cases = list(itertools.product(CALLERS, broken))
    pairs = [Pair(f"bad{n}", dialect=CALLERS[path]) for n, (path, _) in enumerate(cases)]  # type: ignore[arg-type]
    async with scene(tmp_path, *pairs, x=0.1):
        for pair, (path, text) in zip(pairs, cases, strict=True):
            pair.p.default = Fault(malformed_at_word=10, malformed=text)
            reply = await pair.ask(path=path)
            assert reply.words == ALL, (path, text)
            assert ENDS[path](reply.events)
            assert text.encode() not in reply.body
            assert b": an event that was not JSON was left out" in reply.body
            for line in reply.body.split(b"\n"):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    json.loads(line[6:])


async def test_S14_a_fallback_that_refuses_a_prefill_is_never_sent_one(tmp_path: Path) -> None:
    refused = Fault(only_prefill=True, status=400, message="This model does not support assistant message prefill.")
    pairs = [
        Pair(f"{recovery}-{f_dialect}", f_dialect=f_dialect, headers={"X-Stream-Recovery": recovery})  # type: ignore[arg-type]
        for recovery in ("continue", "error")
        for f_dialect in ("openai", "anthropic")
    ]
    async with scene(tmp_path, *pairs, x=0.1):
        for pair in pairs:
            pair.p.default = Fault(cut_after_words=40)
            pair.f.default = refused
            reply = await pair.ask()
            if pair.headers == CONTINUE:
                assert_rescued(reply, CHAT, pair)
                assert [attempt.status for attempt in pair.f.attempts] == [200]
            else:
                assert "prefill" not in reply.assert_broken(40)["message"]
                assert pair.f.attempts == []


async def test_two_continuations_and_then_the_truth(tmp_path: Path) -> None:
    """P, F and P again: after the second continuation breaks the caller is told."""
    pair = Pair("twice", headers=CONTINUE)
    async with scene(tmp_path, pair, x=0.1):
        pair.p.script([Fault(cut_after_words=20), Fault(from_word=31, cut_after_words=10)])
        pair.f.script([Fault(from_word=21, cut_after_words=10)])
        (await pair.ask()).assert_broken(40)
        assert (len(pair.p.attempts), len(pair.f.attempts)) == (2, 1)


MAY_NOT: dict[str, dict[str, Any]] = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    "n": {"n": 2},
    "structured": {"response_format": {"type": "json_object"}},
    "limit": {"max_tokens": 5},
}


async def test_what_may_not_be_continued_ends_in_an_honest_error(tmp_path: Path) -> None:
    pairs = [Pair(name, headers=CONTINUE) for name in MAY_NOT]
    async with scene(tmp_path, *pairs, x=0.1):
        for pair in pairs:
            structured = pair.name == "structured"  # such an answer has no words that could be counted
            pair.p.default = Fault(cut_after_bytes=700) if structured else Fault(cut_after_words=20)
            reply = await pair.ask(**MAY_NOT[pair.name])
            assert reply.broken, pair.name
            assert b"[DONE]" not in reply.body
            assert pair.f.attempts == []


async def test_comments_keep_a_waiting_caller_alive_and_commit_to_nobody(tmp_path: Path) -> None:
    pairs = [
        Pair("wait", policy={"stream": {"keepalive_s": 0.1}}),
        Pair("fail", policy={"stream": {"keepalive_s": 0.1}}),
    ]
    async with scene(tmp_path, *pairs, x=0.1):
        wait, fail = pairs
        wait.p.default = Fault(silence_s=0.5, status=503)
        reply = await wait.ask()
        assert reply.words == ALL
        assert reply.body.startswith(b": waiting\n\n")
        assert reply.events[-1] == "[DONE]"
        fail.p.default = fail.f.default = Fault(silence_s=0.3, status=503)
        reply = await fail.ask()
        assert reply.status == 200
        assert reply.broken
        errors = [event for event in reply.events if isinstance(event, dict) and "error" in event]
        assert len(errors) == 1
        assert "[DONE]" not in reply.events


async def test_a_unary_answer_is_put_together_from_a_stream(tmp_path: Path) -> None:
    policy = {"stream": {"upstream_stream": "always"}}
    cases = list(itertools.product(CALLERS, DIALECTS))
    pairs = [
        Pair(f"{path.rpartition('/')[2]}-{other}", dialect=CALLERS[path], f_dialect=other, policy=policy)  # type: ignore[arg-type]
        for path, other in cases
    ]
    async with scene(tmp_path, *pairs, x=0.1):
        for pair, (path, _) in zip(pairs, cases, strict=True):
            whole = await pair.ask(path=path, stream=False)
            whole.assert_whole(by=pair.p.name)
            assert whole.headers["Content-Type"].startswith("application/json")
            pair.p.default = Fault(cut_after_words=40)
            reply = await pair.ask(path=path, stream=False)
            assert reply.status == 200
            assert reply.words == ALL, pair.name
            assert reply.headers["X-Served-By"] == pair.f.name
