"""Anthropic's answers: Messages (`providers.md` 1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.reading import JsonEvents, Verdict

_LEGITIMATE: Final = frozenset(
    {"max_tokens", "tool_use", "refusal", "pause_turn", "model_context_window_exceeded", "stop_sequence"}
)
"""Stop reasons that make an answer without content legitimate."""
_REASONS: Final = (b'"stop_reason":"', b'"stop_reason": "')
_SPOKEN: Final = ("text", "thinking", "partial_json", "citation", "signature")


class MessagesReader(JsonEvents):
    """Reads one Messages answer."""

    WORD = b'"text":"'
    DONES = (b"event: message_stop", b'data: {"type":"message_stop"', b'data: {"type": "message_stop"')

    __slots__ = ()

    def scan(self, piece: bytes) -> int:
        """See `Reader`. Events with a stop reason are parsed: a result of the advisor tool has one of its own."""
        clean = super().scan(piece)
        if clean == len(piece) and (_REASONS[0] in piece or _REASONS[1] in piece):
            for _, event in self._events_with(piece, _REASONS):
                delta = event.get("delta")
                if event.get("type") == "message_delta" and isinstance(delta, Mapping) and delta.get("stop_reason"):
                    self._finished += 1
        return clean

    def goes_on(self, event: Mapping[str, Any]) -> bool:
        """See `JsonEvents`."""
        return event.get("type") == "content_block_delta"

    def judge(self, event: Mapping[str, Any]) -> Verdict:
        """Content is a non-empty delta, or a block that is content by being there (a tool call)."""
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = event.get("delta")
            spoken = isinstance(delta, Mapping) and any(delta.get(key) for key in _SPOKEN)
            return Verdict.CONTENT if spoken else Verdict.HOLD
        if kind == "content_block_start":
            block = event.get("content_block")
            return Verdict.HOLD if _is_silent(block) else Verdict.CONTENT
        if kind == "message_delta":
            self._take(event)
            delta = event.get("delta")
            reason = delta.get("stop_reason") if isinstance(delta, Mapping) else None
            if isinstance(reason, str):
                self._finished += 1
            return Verdict.CONTENT if reason in _LEGITIMATE else Verdict.HOLD
        if kind == "message_start":
            message = event.get("message")
            if isinstance(message, Mapping):
                self._take(message)
        if kind == "message_stop":
            self._done = True
            return Verdict.DONE
        return Verdict.HOLD

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Content blocks, or a stop reason that excuses their absence; a token count is an answer too."""
        self._take(body)
        content = body.get("content")
        says = isinstance(content, list) and not all(map(_is_silent, content))
        return says or body.get("stop_reason") in _LEGITIMATE or "input_tokens" in body

    def _take(self, holder: Mapping[str, Any]) -> None:
        """Usage is cumulative: later numbers replace earlier ones, missing ones do not."""
        usage = holder.get("usage")
        if not isinstance(usage, Mapping):
            return
        before = self.usage or (0, 0)
        into, out = usage.get("input_tokens"), usage.get("output_tokens")
        self.usage = (into if isinstance(into, int) else before[0], out if isinstance(out, int) else before[1])


def _is_silent(block: Any) -> bool:
    """A block of text or of thought in which nothing stands."""
    if not isinstance(block, Mapping) or block.get("type") not in ("text", "thinking"):
        return False
    return not block.get("text") and not block.get("thinking")
