"""OpenAI's Responses answers (`providers.md` 1.3): named events, ended by an event that carries the whole response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.reading import JsonEvents, Verdict

_SPEAKING: Final = (
    "response.output_text.delta",
    "response.refusal.delta",
    "response.function_call_arguments.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.custom_tool_call_input.delta",
    "response.audio.delta",
)
_ENDED: Final = frozenset({"response.completed", "response.incomplete"})


_NUMBER: Final = re.compile(rb'"sequence_number":\s*([0-9]{1,9})')


class ResponsesReader(JsonEvents):
    """Reads one Responses answer."""

    FINISHES = (
        b'"type":"response.completed"',
        b'"type": "response.completed"',
        b'"type":"response.incomplete"',
        b'"type": "response.incomplete"',
    )
    DONES = (b"event: response.completed", b"event: response.incomplete")

    __slots__ = ("_latest", "opened")

    def __init__(self, needed: int = 1) -> None:
        super().__init__(needed)
        self._latest = b""
        self.opened: Mapping[str, Any] = {}
        """The response object as the stream began with it; empty before."""

    @property
    def following(self) -> int:
        """The sequence number that an event of ours would have now."""
        found = _NUMBER.findall(self._latest)
        return int(found[-1]) + 1 if found else 0

    def event(self, data: bytes | None) -> Verdict:
        """See `Reader`."""
        self._latest = data or self._latest
        return super().event(data)

    def is_plain(self, piece: bytes) -> bool:
        """See `Reader`."""
        self._latest = piece
        return super().is_plain(piece)

    def goes_on(self, event: Mapping[str, Any]) -> bool:
        """See `JsonEvents`."""
        return event.get("type") in _SPEAKING

    def scan(self, piece: bytes) -> int:
        """See `Reader`."""
        self._latest = piece
        return super().scan(piece)

    def judge(self, event: Mapping[str, Any]) -> Verdict:
        """Content is a delta, or an output item other than an empty message."""
        kind = event.get("type")
        if kind in _SPEAKING:
            return Verdict.CONTENT
        if kind == "response.created" and isinstance(event.get("response"), Mapping):
            self.opened = event["response"]
        item = event.get("item")
        if kind in ("response.output_item.added", "response.output_item.done") and isinstance(item, Mapping):
            return Verdict.HOLD if _is_silent(item) else Verdict.CONTENT
        response = event.get("response")
        if kind in _ENDED and isinstance(response, Mapping):
            self._done = True
            self._take(response)
            return Verdict.CONTENT if _says(response) or kind == "response.incomplete" else Verdict.DONE
        return Verdict.HOLD

    def fault_in(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """``error`` events (flat or nested), ``response.failed``, and a unary response whose status is failed."""
        kind = event.get("type")
        if kind == "error":
            nested = event.get("error")
            return nested if isinstance(nested, Mapping) else event
        whole = event.get("response") if kind == "response.failed" else event
        if isinstance(whole, Mapping) and (kind == "response.failed" or whole.get("status") == "failed"):
            error = whole.get("error")
            return error if isinstance(error, Mapping) else {"message": "the response failed"}
        return super().fault_in(event) if kind is None and event.get("object") != "response" else None

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Some output, or a status that excuses its absence."""
        self._take(body)
        return _says(body) or body.get("status") in ("incomplete", "queued", "in_progress", "cancelled")

    def _take(self, response: Mapping[str, Any]) -> None:
        usage = response.get("usage")
        if isinstance(usage, Mapping):
            into, out = usage.get("input_tokens"), usage.get("output_tokens")
            if isinstance(into, int) and isinstance(out, int):
                self.usage = (into, out)


def _is_silent(item: Any) -> bool:
    """A message or a thought in which nothing is said."""
    if not isinstance(item, Mapping) or item.get("type") not in ("message", "reasoning") or item.get("summary"):
        return False
    content = item.get("content")
    return not content or (isinstance(content, list) and all(map(_is_blank, content)))


def _is_blank(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "output_text" and not part.get("text")


def _says(response: Mapping[str, Any]) -> bool:
    """Some output that is more than empty messages."""
    output = response.get("output")
    return isinstance(output, list) and not all(map(_is_silent, output))
