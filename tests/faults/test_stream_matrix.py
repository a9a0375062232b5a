"""The fault matrix of streams: every fault at every position, for every caller, towards the same and another language,
under every kind of recovery.

What must hold is the same everywhere: an answer that looks complete is complete, nobody sees a word twice or out of
order or two beginnings, and where another target could answer it did. The short run takes a few positions, the torture
run all sixty.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.script import Fault
from tests.e2e.scenario import ALL, CHAT, MESSAGES, RESPONSES, Pair, Reply, scene

CALLERS = {CHAT: "openai", RESPONSES: "openai", MESSAGES: "anthropic"}
OTHERS = {CHAT: "anthropic", RESPONSES: "gemini", MESSAGES: "openai"}
RECOVERIES = ("error", "continue", "buffer")
POSITIONS = [
    pytest.param((0, 1, 33, 60), id="short"),
    pytest.param(tuple(range(61)), id="full", marks=pytest.mark.torture),
]
POLICY: dict[str, Any] = {
    "circuit_breaker": {"error_threshold": 1000, "error_threshold_window": 3600},
    "retry": {"max_retries": 0},
}
LIMITS = {"X-First-Token-Timeout-Ms": "400", "X-Stream-Idle-Timeout-Ms": "400", "X-Request-Hedging": "false"}

ONCE: dict[str, Fault] = {
    "refuse": Fault(reset=True),
    "close": Fault(close=True),
    "silence": Fault(silence_s=math.inf),
    "head-then-silence": Fault(body_after_s=math.inf),
    "html-502": Fault(status=502, html_bytes=2000),
    "html-200": Fault(html_bytes=2000),
    "empty-200": Fault(empty="zero_bytes"),
    "done-at-once": Fault(empty="done"),
    "damaged-gzip": Fault(encoding="gzip", damage_after_words=0),
}
"""Faults that have no position: nothing of the answer has come."""


def at(k: int) -> dict[str, Fault]:
    """Faults after `k` words."""
    return {
        "reset": Fault(cut_after_words=k, cut="reset"),
        "clean-eof": Fault(cut_after_words=k, cut="end"),
        "close": Fault(cut_after_words=k, cut="close"),
        "in-band-error": Fault(error_after_words=k),
        "stall": Fault(stall_after_words=k, stall_s=math.inf),
        "gzip": Fault(encoding="gzip", damage_after_words=k),
    }


HARMLESS: dict[str, Fault] = {
    "malformed": Fault(malformed_at_word=7),
    "gzip-whole": Fault(encoding="gzip"),
    "drip": Fault(split_bytes=23),
    "crlf": Fault(line_end="crlf"),
    "no-done": Fault(no_done=True),
}
"""Faults that must not be noticed at all."""


def ended(reply: Reply) -> bool:
    """Whether the answer claims to be complete."""
    events = reply.events
    kinds = {event.get("type") for event in events if isinstance(event, dict)}
    finished = any(c.get("finish_reason") for e in events if isinstance(e, dict) for c in e.get("choices", []))
    # Without its end mark a stream with a reason for its end is complete: the mark is not made up.
    finished |= any(
        e["delta"].get("stop_reason") for e in events if isinstance(e, dict) and e.get("type") == "message_delta"
    )
    return "[DONE]" in events or finished or bool(kinds & {"message_stop", "response.completed"})


def beginnings(reply: Reply) -> int:
    """How often the answer begins."""
    count = 0
    for event in reply.events:
        if isinstance(event, dict):
            count += event.get("type") in ("message_start", "response.created")
            count += sum(1 for choice in event.get("choices", []) if choice["delta"].get("role"))
    return count


def check(reply: Reply, what: str) -> None:
    """What holds whatever happened."""
    if reply.status != 200:
        assert not ended(reply), what
        return
    assert reply.words == ALL[: len(reply.words)], f"{what}: a word is missing, doubled or misplaced"
    assert beginnings(reply) <= 1, f"{what}: two beginnings"
    if ended(reply):
        assert reply.words == ALL, f"{what}: a truncated answer looks complete"
        assert not reply.broken, what
    else:
        assert reply.broken, f"{what}: an interrupted stream ends as if all had come"


def cases(positions: tuple[int, ...]) -> Iterator[tuple[str, int, Fault]]:
    """(name, words before the fault, fault); -1: harmless."""
    yield from ((name, 0, fault) for name, fault in ONCE.items())
    yield from ((name, -1, fault) for name, fault in HARMLESS.items())
    for k in positions:
        for name, fault in at(k).items():
            if k == 60 and name in ("gzip", "stall"):
                continue  # damage behind the last word may or may not reach the end mark: the other cuts cover it
            yield f"{name}@{k}", k, fault


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("recovery", RECOVERIES)
async def test_every_fault_at_every_position(tmp_path: Path, recovery: str, positions: tuple[int, ...]) -> None:
    pairs = {
        (path, other): Pair(
            f"{path.rpartition('/')[2]}-{'other' if other else 'same'}",
            dialect=CALLERS[path],  # type: ignore[arg-type]
            f_dialect=OTHERS[path] if other else None,  # type: ignore[arg-type]
            policy=POLICY,
            pause_s=0.0,
        )
        for path in CALLERS
        for other in (False, True)
    }
    sent = {**LIMITS, "X-Stream-Recovery": recovery}
    async with scene(tmp_path, *pairs.values(), x=0.1, headers=sent) as stage:

        async def walk(path: str, pair: Pair) -> None:
            for name, k, fault in cases(positions):
                if name == "no-done" and path == RESPONSES:
                    continue  # its end mark is what says why it ended
                shapes = [None, Fault(from_word=k + 1)] if recovery == "continue" and 0 < k < 60 else [None]
                for shape in shapes:
                    what = f"{pair.name} {name} {recovery} {'on' if shape else 'again'}"
                    pair.p.script([fault])
                    pair.f.script([shape])
                    reply = await pair.ask(path=path)
                    check(reply, what)
                    if recovery != "error" or k <= 0:
                        assert reply.status == 200, (what, reply.body[:300])
                        assert reply.words == ALL, what
                        assert ended(reply), what
                    elif k < 60:
                        assert len(reply.words) == k, what
                        assert reply.broken, what

        await asyncio.gather(*(walk(path, pair) for (path, _), pair in pairs.items()))
        assert stage.sidecar.process.returncode is None
        for pair in pairs.values():
            for provider in pair.providers:
                await provider.wait_idle()
