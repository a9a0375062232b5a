"""The public fault scenarios S01 to S09, S11 to S13, S15 and S16 of the black-box checklist, with our own bounds.

Each test is one scenario; its variants run at the same time, each on a pair of providers and a route of its own. The
expectations that hold for every scenario (process, connections, trace, counters) are `Scene.after`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.demo.script import Fault, headers
from tests.e2e.scenario import ALL, EARLY_S, LATE_S, NO_RESCUE, TIMES, Pair, Reply, gap_s, labels_of, scene, total

SILENT = Fault(silence_s=math.inf)


def first_token(ms: float) -> dict[str, str]:
    """A stated limit to the first content."""
    return {"X-First-Token-Timeout-Ms": str(round(ms))}


# S01 to S05: refusals and resets -------------------------------------------------------------------------------------


async def test_S01_a_told_wait_is_waited_out_on_the_same_target(tmp_path: Path) -> None:
    fault = Fault(status=429, headers=headers({"Retry-After": "2"}))
    async with scene(tmp_path, Pair("stream"), Pair("unary")) as stage:
        for pair in stage.pairs.values():
            pair.p.script([fault])
        replies = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False))
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            reply.assert_whole(by=pair.p.name)
            first, second = pair.p.attempts
            assert 2.0 - EARLY_S <= gap_s(first, second) <= 2.6
            assert pair.f.attempts == []
            assert reply.took_s <= 5.0
            assert reply.headers["X-Retry-Count"] == "1"
        await stage.after()


async def test_S02_429_for_ever_backs_off_and_then_fails_over(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("stream"), Pair("unary")) as stage:
        for pair in stage.pairs.values():
            pair.p.default = Fault(status=429)
        replies = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False))
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            reply.assert_whole(by=pair.f.name)
            assert 1 <= len(pair.p.attempts) <= 3
            assert len(pair.f.attempts) == 1
            assert reply.took_s <= 5.0
            assert reply.headers["X-Circuit-Status"] == "closed"
            assert int(reply.headers["X-Retry-After"]) >= 1, "the primary is in cool-down"
            assert reply.headers["X-Failover-Reason"] == "rate_limit"
        # The cool-down holds for the next request: it goes straight to F.
        pair = stage["stream"]
        asked = pair.p.attempts_total
        following = await pair.ask()
        following.assert_whole(by="f-stream")
        assert pair.p.attempts_total == asked
        assert "p-stream/gpt-4o=rate_limit" in following.headers["X-Failover-Skipped"]
        await stage.after()


async def test_S03_one_500_is_retried_on_the_same_target(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("stream"), Pair("unary")) as stage:
        for pair in stage.pairs.values():
            pair.p.script([Fault(status=500)])
        replies = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False))
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            reply.assert_whole(by=pair.p.name)
            assert (len(pair.p.attempts), len(pair.f.attempts)) == (2, 0)
            assert reply.took_s <= 3.0
            assert "X-Failover" not in reply.headers
        await stage.after()


async def test_S04_503_for_ever_fails_over_or_gives_the_original_error(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("stream"), Pair("unary"), Pair("lone", lone=True)) as stage:
        for pair in stage.pairs.values():
            pair.p.default = Fault(status=503, message="The crane is being greased.")
        stream, unary, lone = await asyncio.gather(
            stage["stream"].ask(), stage["unary"].ask(stream=False), stage["lone"].ask()
        )
        for name, reply in (("stream", stream), ("unary", unary)):
            reply.assert_whole(by=f"f-{name}")
            assert len(stage[name].p.attempts) <= 3
            assert len(stage[name].f.attempts) == 1
            assert reply.took_s <= 4.0
        assert lone.status == 503
        assert lone.json["error"]["message"] == "The crane is being greased."
        assert len(stage["lone"].p.attempts) == len(lone.json["error"]["attempts"]) == 3
        assert lone.headers["x-should-retry"] == "false"
        await stage.after()


async def test_S05_a_reset_before_the_head_is_answered_on_a_new_connection(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("stream"), Pair("unary"), Pair("closed")) as stage:
        for pair in stage.pairs.values():
            pair.p.script([Fault(close=True) if pair.name == "closed" else Fault(reset=True)])
        replies = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False), stage["closed"].ask())
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            reply.assert_whole(by=pair.p.name)
            first, second = pair.p.attempts
            assert first.ended_at is not None
            assert second.at - first.ended_at <= 0.3
            assert second.connection != first.connection
            assert reply.took_s <= 3.0
            assert reply.classes[0] == "connect_error.reset"
        await stage.after()


# S06 and S07: silence and slowness -----------------------------------------------------------------------------------


@TIMES
async def test_S06_a_silent_target_is_left_and_not_tried_again(tmp_path: Path, x: float) -> None:
    cases: dict[str, tuple[bool, dict[str, str], float]] = {  # stream, headers, when F is called
        "stream": (True, NO_RESCUE, 15 * x),
        "unary": (False, NO_RESCUE, 15 * x),
        "rescue": (True, {}, 10 * x),
        "rescue-unary": (False, {}, 10 * x),
        "stated": (True, {**NO_RESCUE, **first_token(30_000 * x)}, 30 * x),
    }
    async with scene(tmp_path, *(Pair(name) for name in cases), x=x) as stage:
        for pair in stage.pairs.values():
            pair.p.default = SILENT
        replies = await asyncio.gather(
            *(stage[name].ask(stream=stream, headers=sent) for name, (stream, sent, _) in cases.items())
        )
        for (name, (_, _, called_s)), reply in zip(cases.items(), replies, strict=True):
            pair = stage[name]
            reply.assert_whole(by=pair.f.name)
            assert (len(pair.p.attempts), len(pair.f.attempts)) == (1, 1), name
            pair.assert_called_f(reply, called_s)
            assert reply.took_s <= called_s + 3.0
            assert pair.leave_s() <= 1.0
            is_rescue = name.startswith("rescue")
            # A stated limit ends at the first content, whether or not a head has come.
            why = {"rescue": "cancelled.superseded", "stated": "timeout.first_content"}
            assert reply.classes[0] == why.get(name.removesuffix("-unary"), "timeout.first_byte")
            assert reply.headers["X-Failover-Reason"] == ("hedge" if is_rescue else "timeout")
        await stage.after()


@TIMES
async def test_S06_a_silent_lone_target_ends_in_a_504(tmp_path: Path, x: float) -> None:
    cases: dict[str, tuple[bool, dict[str, str], float]] = {
        "stated": (True, first_token(15_000 * x), 15 * x),
        "stated-unary": (False, first_token(15_000 * x), 15 * x),
        "deadline": (True, {"X-Request-Timeout-Ms": str(round(20_000 * x))}, 20 * x),
        "deadline-unary": (False, {"X-Request-Timeout-Ms": str(round(20_000 * x))}, 20 * x),
        "content": (True, {}, 25 * x),
    }
    pairs = [
        Pair(name, lone=True, policy={"first_content_timeout_s": 25 * x} if name == "content" else None)
        for name in cases
    ]
    async with scene(tmp_path, *pairs, x=x) as stage:
        for pair in pairs:
            pair.p.default = SILENT
        replies = await asyncio.gather(
            *(stage[name].ask(stream=stream, headers=sent) for name, (stream, sent, _) in cases.items())
        )
        for (name, (_, _, limit_s)), reply in zip(cases.items(), replies, strict=True):
            assert reply.status == 504, name
            assert reply.json["error"]["message"]
            assert len(reply.json["error"]["attempts"]) == len(stage[name].p.attempts) == 1
            assert limit_s - EARLY_S <= reply.took_s <= limit_s + LATE_S, name
            await stage[name].p.wait_idle(timeout_s=1.0)
        await stage.after()


@TIMES
async def test_S07_a_slow_first_token_brings_in_another_target(tmp_path: Path, x: float) -> None:
    hedge = {"X-Request-Hedging": "true", "X-Hedge-Config": json.dumps({"delay_ms": round(10_000 * x)})}
    cases: dict[str, tuple[bool, dict[str, str]]] = {
        "limit": (True, {**NO_RESCUE, **first_token(10_000 * x)}),
        "hedge": (True, hedge),
        "rescue": (True, {}),
        "rescue-unary": (False, {}),
    }
    async with scene(tmp_path, *(Pair(name) for name in cases), x=x) as stage:
        for pair in stage.pairs.values():
            pair.p.default = Fault(first_word_s=20 * x)
        replies = await asyncio.gather(
            *(stage[name].ask(stream=stream, headers=sent) for name, (stream, sent) in cases.items())
        )
        for name, reply in zip(cases, replies, strict=True):
            pair = stage[name]
            reply.assert_whole(by=pair.f.name)
            assert (len(pair.p.attempts), len(pair.f.attempts)) == (1, 1), name
            (slow,), (second,) = pair.p.attempts, pair.f.attempts
            pair.assert_called_f(reply, 10 * x)
            assert reply.took_s <= 10 * x + 3.0
            assert second.first_word_at is not None
            assert slow.peer_closed_at is not None
            if name == "limit":
                assert reply.classes[0] == "timeout.first_content"
                assert slow.peer_closed_at - second.at <= 1.0
            else:
                assert reply.classes[0] == "cancelled.superseded"
                assert 0.0 <= slow.peer_closed_at - second.first_word_at <= 1.0, "kept until F spoke"
                assert reply.headers["X-Hedge-Winner"] == pair.f.name
                assert reply.headers["X-Hedge-Launched"] == "1"
        await stage.after()


@TIMES
async def test_S07_with_nothing_to_bring_in_a_slow_first_token_is_waited_for(tmp_path: Path, x: float) -> None:
    pairs = [Pair("header"), Pair("setting", policy={"hedging": {"rescue_after_s": 0}}), Pair("lone", lone=True)]
    async with scene(tmp_path, *pairs, x=x) as stage:
        for pair in pairs:
            pair.p.default = Fault(first_word_s=20 * x)
        replies = await asyncio.gather(
            stage["header"].ask(headers=NO_RESCUE), stage["setting"].ask(), stage["lone"].ask()
        )
        for pair, reply in zip(pairs, replies, strict=True):
            reply.assert_whole(by=pair.p.name)
            assert len(pair.p.attempts) == 1
            assert pair.f.attempts == []
            assert 20 * x <= reply.took_s <= 20 * x + 2.0
        await stage.after()


# S08, S09 and S11: ends that are none --------------------------------------------------------------------------------

CUTS: Mapping[str, Fault] = {
    "close": Fault(cut_after_words=40, cut="close"),
    "reset": Fault(cut_after_words=40, cut="reset"),
    "mid-char": Fault(cut_after_words=40, cut="mid_char"),
    "end": Fault(cut_after_words=40, cut="end"),
}


async def test_S08_a_cut_stream_ends_in_a_clean_error(tmp_path: Path) -> None:
    async with scene(tmp_path, *(Pair(name) for name in CUTS), x=0.1) as stage:
        for name, fault in CUTS.items():
            stage[name].p.default = fault
        replies = await asyncio.gather(*(pair.ask() for pair in stage.pairs.values()))
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            error = reply.assert_broken(40)
            assert error["message"]
            reply.fate = "stream_interrupted"
            (cut,) = pair.p.attempts
            assert cut.ended_at is not None
            assert reply.ended_at - cut.ended_at <= 1.0
            assert pair.f.attempts == [], "with recovery `error` nobody else is asked"
        await stage.after()


async def test_S08_the_callers_own_library_reports_the_cut(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("sdk"), x=0.1) as stage:
        stage["sdk"].p.default = CUTS["close"]
        said: list[str] = []

        async def read() -> None:
            asked = [{"role": "user", "content": "Say the words."}]
            async for chunk in await client.chat.completions.create(model="gpt-4o", messages=asked, stream=True):
                said.extend(choice.delta.content or "" for choice in chunk.choices)

        async with openai.AsyncOpenAI(base_url=f"{stage.sidecar.url}/v1", api_key="unused", max_retries=0) as client:
            with pytest.raises(openai.APIError):
                await read()
        assert "".join(said).split() == ALL[:40]


async def test_S08_buffered_and_unary_answers_hide_the_cut(tmp_path: Path) -> None:
    buffer = {"X-Stream-Recovery": "buffer"}
    cases = {
        **{f"buffer-{name}": (True, buffer, fault) for name, fault in CUTS.items()},
        "unary-close": (False, {}, CUTS["close"]),
        "unary-reset": (False, {}, CUTS["reset"]),
    }
    async with scene(tmp_path, *(Pair(name) for name in cases), x=0.1) as stage:
        for name, (_, _, fault) in cases.items():
            stage[name].p.default = fault
        replies = await asyncio.gather(
            *(stage[name].ask(stream=stream, headers=sent) for name, (stream, sent, _) in cases.items())
        )
        for pair, reply in zip(stage.pairs.values(), replies, strict=True):
            reply.assert_whole(by=pair.f.name)
            assert pair.p.name.encode() not in reply.body, "no mixed text"
            assert (len(pair.p.attempts), len(pair.f.attempts)) == (1, 1)
            assert reply.classes[0] == "stream_interrupted", "the cut shows in the trace"
            assert reply.took_s <= 6.0
        await stage.after()


@TIMES
async def test_S09_a_stalled_stream_is_ended_in_bounded_time(tmp_path: Path, x: float) -> None:
    idle = {"X-Stream-Idle-Timeout-Ms": str(round(10_000 * x))}
    silent = Fault(stall_after_words=20, stall_s=30 * x, cut_after_words=20)
    pinging = Fault(stall_after_words=20, stall_s=math.inf, stall_ping_s=2 * x)
    # The default of the progress clock is 120 s; a shortened run must not last 12 s for it.
    progress_s = 120.0 if x == 1.0 else 2.5
    cases = {
        "idle": (silent, idle, 10 * x, 12 * x),
        "default": (Fault(stall_after_words=20, stall_s=math.inf), {}, 30 * x, 30 * x + LATE_S),
        "ping": (pinging, {}, progress_s, progress_s + 1.0),
        "ping-stated": (pinging, first_token(10_000 * x), 10 * x, 12 * x),
    }
    pairs = [
        Pair(name, policy={"first_content_timeout_s": progress_s} if name.startswith("ping") else None)
        for name in cases
    ]
    async with scene(tmp_path, *pairs, x=x) as stage:
        for name, (fault, *_) in cases.items():
            stage[name].p.default = fault
        replies = await asyncio.gather(*(stage[name].ask(headers=sent) for name, (_, sent, _, _) in cases.items()))
        for (name, (_, _, low_s, high_s)), reply in zip(cases.items(), replies, strict=True):
            reply.assert_broken(20)
            reply.fate = "timeout"
            last_word = reply.began_at + max(
                t for t, piece in reply.pieces if b'"content":"' in piece and b"error" not in piece
            )
            assert low_s - EARLY_S <= reply.ended_at - last_word <= max(high_s, low_s + LATE_S), name
            (stalled,) = stage[name].p.attempts
            assert stalled.peer_closed_at is not None
            assert stalled.peer_closed_at - reply.ended_at <= 1.0
            assert stage[name].f.attempts == []
        await stage.after()


async def test_S11_an_answer_without_an_end_mark_is_finished_promptly(tmp_path: Path) -> None:
    cases = {
        "unmarked": (Fault(no_done=True), 1.0),
        "held": (Fault(no_done=True, hold_open_s=math.inf), 5.0),
        "marked-held": (Fault(hold_open_s=math.inf), 5.0),
    }
    async with scene(tmp_path, *(Pair(name) for name in cases), Pair("cut"), x=0.1) as stage:
        for name, (fault, _) in cases.items():
            stage[name].p.default = fault
        stage["cut"].p.default = Fault(no_done=True, no_finish=True, no_usage=True)
        *replies, cut = await asyncio.gather(*(pair.ask() for pair in stage.pairs.values()))
        for (name, (_, limit_s)), reply in zip(cases.items(), replies, strict=True):
            reply.assert_whole(by=f"p-{name}")
            said = stage[name].p.attempts[0].first_word_at
            assert said is not None
            assert reply.ended_at - said <= 60 * stage[name].p.pause_s + limit_s
            chunks = [event for event in reply.events if event != "[DONE]"]
            assert [c["finish_reason"] for e in chunks for c in e["choices"] if c["finish_reason"]] == ["stop"]
            assert [e["usage"]["total_tokens"] for e in chunks if e.get("usage")] == [71]
            assert stage[name].f.attempts == []
        cut.assert_broken(60)
        cut.fate = "stream_interrupted"
        metrics = await stage.sidecar.metrics()
        for name in cases:
            assert total(metrics, "outrider_requests_total", route=name, outcome="ok") == 1
            assert total(metrics, "gen_ai_client_token_usage_sum", gen_ai_provider_name=f"p-{name}") == 71
        await stage.after()


# S12 and S13: the caller's own doing ---------------------------------------------------------------------------------


def window(tokens: int) -> dict[str, Any]:
    """A model map that states the context window."""
    return {"gpt-4o": {"name": "gpt-4o", "context_window": tokens}}


async def test_S12_a_prompt_too_long_goes_only_to_a_larger_window(tmp_path: Path) -> None:
    small, large = window(8_000), window(128_000)
    pairs = [
        Pair("larger", p_models=small, f_models=large),
        Pair("larger-unary", p_models=small, f_models=large),
        Pair("equal", p_models=small, f_models=small),
        Pair("smaller", p_models=large, f_models=small),
        Pair("lone", lone=True),
    ]
    async with scene(tmp_path, *pairs) as stage:
        for pair in pairs:
            pair.p.default = Fault(error="context_length", message="8192 tokens and not one more.")
        rounds = 7  # more than any rule of the breaker needs to open
        for _ in range(rounds):
            replies = await asyncio.gather(*(pair.ask(stream="unary" not in pair.name) for pair in pairs))
            for pair, reply in zip(pairs, replies, strict=True):
                assert reply.headers["X-Circuit-Status"] == "closed"
                if pair.name.startswith("larger"):
                    reply.assert_whole(by=pair.f.name)
                    continue
                assert reply.status == 400
                assert reply.json["error"]["code"] == "context_length_exceeded"
                assert reply.json["error"]["message"] == "8192 tokens and not one more."
                assert reply.took_s <= 1.0
        for pair in pairs:
            assert len(pair.p.attempts) == rounds, "one attempt each, never the same prompt again"
            assert len(pair.f.attempts) == (rounds if pair.name.startswith("larger") else 0)
        for target in (await stage.sidecar.status())["targets"]:
            assert target["circuit"]["S_err"] == 0.0
        await stage.after()


async def test_S13_a_refused_prompt_is_given_back_with_its_reason(tmp_path: Path) -> None:
    pairs = [Pair(name) for name in ("stream", "unary", "named", "refusal", "refusal-unary")]
    named = {"X-Failover-Config": json.dumps({"fallbacks": [{"trigger": ["content_policy"], "provider": "f-named"}]})}
    async with scene(tmp_path, *pairs) as stage:
        for pair in pairs:
            pair.p.default = Fault(error="content_policy", message="Not with this provider.")
            if pair.name.startswith("refusal"):
                pair.p.default = Fault(answer="refusal")
        stream, unary, through, refusal, refused = await asyncio.gather(
            stage["stream"].ask(),
            stage["unary"].ask(stream=False),
            stage["named"].ask(headers=named),
            stage["refusal"].ask(),
            stage["refusal-unary"].ask(stream=False),
        )
        for reply in (stream, unary):
            assert reply.status == 400
            assert reply.json["error"]["code"] == "content_policy_violation"
            assert reply.json["error"]["message"] == "Not with this provider."
        through.assert_whole(by="f-named")
        assert through.headers["X-Failover-Reason"] == "content_policy"
        said = "".join(c["delta"].get("refusal") or "" for e in refusal.events if e != "[DONE]" for c in e["choices"])
        assert said == refused.json["choices"][0]["message"]["refusal"] != ""
        for pair in pairs:
            assert len(pair.p.attempts) == 1
            assert len(pair.f.attempts) == (1 if pair.name == "named" else 0)
        await stage.after()


# S15 and S16: outages and who answered -------------------------------------------------------------------------------


async def outage(pair: Pair, x: float, for_s: float, requests: int) -> list[Reply]:
    """P is down for `for_s`; a request every 4 s times `x`, the first at once."""
    loop = asyncio.get_running_loop()
    pair.p.outage(for_s)
    began = loop.time()

    async def at(n: int) -> Reply:
        await asyncio.sleep(began + 4 * x * n - loop.time())  # the rhythm of the load
        return await pair.ask()

    return list(await asyncio.gather(*(at(n) for n in range(requests))))


def assert_rode_out(pair: Pair, x: float, down_s: float, replies: list[Reply]) -> float:
    """Everything about an outage that holds under every rule; returns the seconds from recovery to P's next answer."""
    began = replies[0].began_at
    for reply in replies:
        reply.assert_whole()
        assert reply.took_s <= 30 * x + LATE_S
    during = [a for a in pair.p.attempts if a.at < began + down_s]
    assert all(a.status == 503 for a in during)
    assert len(during) <= 12 * max(1.0, down_s / (60 * x))
    straight = [r for r in replies if r.path_of_targets == [pair.f.name]]
    assert straight, "once open, P is not asked"
    calls = {a.n: a.at for a in pair.f.attempts}
    waits = sorted(min(at - r.began_at for at in calls.values() if at >= r.began_at) for r in straight)
    assert waits[-1 if len(waits) < 3 else -2] <= 0.05, "a shared machine may spoil one"
    back = [r for r in replies if r.headers["X-Served-By"] == pair.p.name]
    assert back, "P answers again"
    return back[0].began_at - began - down_s


@TIMES
async def test_S15_an_outage_is_served_by_the_fallback_and_left_in_time(tmp_path: Path, x: float) -> None:
    quick = {"retry": {"initial_delay_ms": round(250 * x)}}
    async with scene(tmp_path, Pair("stated", policy=quick), x=x) as stage:
        pair = stage["stated"]
        replies = await outage(pair, x, 60 * x, 20)
        back_s = assert_rode_out(pair, x, 60 * x, replies)
        assert back_s <= 12 * x + LATE_S
        probes = [a for a in pair.p.attempts if a.status == 503][5:]
        gaps = [later.at - earlier.at for earlier, later in pairwise(probes)]
        assert all(gap >= 5 * x - EARLY_S for gap in gaps), "one attempt per half-open period"
        await stage.after()


@pytest.mark.torture
async def test_S15_the_built_in_rule_is_back_within_30_s(tmp_path: Path) -> None:
    async with scene(tmp_path, Pair("minute"), Pair("long"), headers={}) as stage:
        minute, long = await asyncio.gather(outage(stage["minute"], 1.0, 60, 25), outage(stage["long"], 1.0, 300, 85))
        assert assert_rode_out(stage["minute"], 1.0, 60, minute) <= 30
        assert assert_rode_out(stage["long"], 1.0, 300, long) <= 30
        await stage.after()


async def test_S16_the_caller_learns_who_answered(tmp_path: Path) -> None:
    pairs = [Pair(name, p_models={"gpt-4o": "p-large"}, f_models={"gpt-4o": "f-large"}) for name in ("stream", "unary")]
    async with scene(tmp_path, *pairs) as stage:
        for pair in pairs:
            pair.p.default = Fault(status=503)
            pair.f.prompt_tokens = 17
        stream, unary = await asyncio.gather(stage["stream"].ask(), stage["unary"].ask(stream=False))
        for pair, reply in zip(pairs, (stream, unary), strict=True):
            reply.assert_whole(by=pair.f.name)
            assert len(pair.p.attempts) <= 3
            assert (reply.headers["X-Served-Model"], reply.headers["X-Failover"]) == ("f-large", "true")
            assert pair.p.name.encode() not in reply.body
            told = [reply.json] if pair.name == "unary" else [e for e in reply.events if e != "[DONE]"]
            assert {event["model"] for event in told} == {"f-large"}
            assert [e["usage"]["prompt_tokens"] for e in told if e.get("usage")] == [17]
            assert json.loads(pair.p.attempts[0].body)["model"] == "p-large"
            assert json.loads(pair.f.attempts[0].body)["model"] == "f-large"
        metrics = await stage.sidecar.metrics()
        billed = {
            labels_of(k)["gen_ai_provider_name"] for k in metrics if k.startswith("gen_ai_client_token_usage_sum")
        }
        assert billed == {"f-stream", "f-unary"}
        await stage.after()
