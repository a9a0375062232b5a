"""What an answer says, whatever its language: text, whether it claims to be whole, whether it admits to be broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from proxy.sim.http import Answer

WORD: Final = re.compile(r"(alpha|beta|gamma)(\d+)w(\d+)")
SEAM: Final = b": continued-by "


@dataclass(frozen=True, slots=True)
class Word:
    """One word: whose it is (provider, attempt), and which."""

    provider: str
    attempt: int
    index: int


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, read."""

    words: tuple[Word, ...]
    rest: str
    """Text that is nobody's."""
    claims_whole: bool
    """It says that it is complete: an end mark, or a body in one piece."""
    admits: bool
    """It holds an error."""
    seams: int
    unreadable: str
    """What is no event or no JSON; empty: nothing."""


def read(answer: Answer, is_stream: bool) -> Reading:
    """Read the body as far as it has come. An event that has not come whole is left aside."""
    body = bytes(answer.body)
    if not is_stream or "event-stream" not in answer.headers.get("content-type", ""):
        return _whole(body, answer.is_whole)
    texts: list[str] = []
    whole = admits = False
    unreadable = ""
    for data in _events(body):
        if data == "[DONE]":
            whole = True
            continue
        try:
            event = json.loads(data)
        except ValueError:
            unreadable = unreadable or data[:80]
            continue
        kind = event.get("type", "")
        whole |= kind in ("message_stop", "response.completed", "response.incomplete")
        whole |= kind == "message_delta" and bool(event["delta"].get("stop_reason"))
        whole |= any(choice.get("finish_reason") for choice in event.get("choices") or ())
        admits |= bool(event.get("error")) or kind in ("error", "response.failed")
        texts += _deltas(event)
    return _reading("".join(texts), whole, admits, body.count(SEAM), unreadable)


def _whole(body: bytes, is_whole: bool) -> Reading:
    if not is_whole:
        return _reading("", False, False, 0, "")
    try:
        parsed = json.loads(body)
    except ValueError:
        return _reading("", True, False, 0, body[:80].decode("latin-1"))
    if not isinstance(parsed, dict):
        return _reading("", True, False, 0, "no object")
    admits = bool(parsed.get("error"))
    return _reading("".join(_texts(parsed)), not admits, admits, 0, "")


def _reading(text: str, whole: bool, admits: bool, seams: int, unreadable: str) -> Reading:
    words = tuple(Word(m[1], int(m[2]), int(m[3])) for m in WORD.finditer(text))
    return Reading(words, WORD.sub("", text).strip(), whole, admits, seams, unreadable)


def _events(body: bytes) -> Iterator[str]:
    """The data of every event that is there whole."""
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for block in text.split("\n\n")[:-1]:
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)


def _deltas(event: dict[str, Any]) -> list[str]:
    """Text that a streamed event adds."""
    if event.get("type") == "response.output_text.delta":
        return [event["delta"]]
    if event.get("type") == "content_block_delta":
        return [event["delta"].get("text", "")]
    return [choice.get("delta", {}).get("content") or "" for choice in event.get("choices") or []]


def _texts(body: dict[str, Any]) -> Iterator[str]:
    """The text of an answer in one piece."""
    for choice in body.get("choices") or []:
        yield choice["message"].get("content") or ""
    for item in body.get("output") or []:
        yield from (part.get("text", "") for part in item.get("content") or [])
    if isinstance(body.get("content"), list):
        yield from (part.get("text", "") for part in body["content"])
