"""OpenAI's answers: chat completions, legacy completions, embeddings (`providers.md` 1.2, 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.reading import JsonEvents, Verdict, loads

_SPEAKING: Final = (
    "content",
    "refusal",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "audio",
    "reasoning_details",
)
_LEGITIMATE: Final = frozenset({"length", "tool_calls", "function_call", "content_filter"})
"""Finish reasons that make an answer without content legitimate."""


def speaks(message: Any) -> bool:
    """Whether a message or delta carries something for the caller."""
    return isinstance(message, Mapping) and any(message.get(key) for key in _SPEAKING)


def tokens(usage: Any) -> tuple[int, int] | None:
    """(prompt, completion) tokens of a usage object; None when it is not one."""
    if not isinstance(usage, Mapping):
        return None
    into, out = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    return (into, out) if isinstance(into, int) and isinstance(out, int) else None


class ChatReader(JsonEvents):
    """Reads one chat completion; `needed` is the number of choices asked for (``n``)."""

    FINISHES = (b'"finish_reason":"', b'"finish_reason": "')
    WORD = b'"content":"'
    DONES = (b"data: [DONE]", b"data:[DONE]")

    __slots__ = ()

    def judge(self, event: Mapping[str, Any]) -> Verdict:
        """Content is text, refusal, reasoning or a tool call; a finish reason only where it excuses emptiness."""
        self.usage = tokens(event.get("usage")) or self.usage
        verdict = Verdict.HOLD
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, Mapping):
                continue
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and reason:
                self._finished += 1
            if speaks(choice.get("delta")) or choice.get("text") or reason in _LEGITIMATE:
                verdict = Verdict.CONTENT
        return verdict

    def goes_on(self, event: Mapping[str, Any]) -> bool:
        """See `JsonEvents`."""
        choices = event.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or event.get("usage"):
            return False
        choice = choices[0]
        return isinstance(choice, dict) and not choice.get("finish_reason")

    def fault_in(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """An error beside choices is one only in streams (OpenRouter); a unary answer with choices answers."""
        found = super().fault_in(event)
        choices = event.get("choices")
        if (
            found is not None
            and isinstance(choices, list)
            and any(isinstance(c, Mapping) and speaks(c.get("message")) for c in choices)
        ):
            return None
        return found

    def answers(self, body: Mapping[str, Any]) -> bool:
        """At least one choice that speaks, or whose finish reason excuses its silence."""
        self.usage = tokens(body.get("usage"))
        choices = body.get("choices")
        return isinstance(choices, list) and any(
            isinstance(choice, Mapping)
            and (speaks(choice.get("message")) or choice.get("text") or choice.get("finish_reason") in _LEGITIMATE)
            for choice in choices
        )


class EmbeddingsReader(ChatReader):
    """Reads one embeddings answer: large arrays are recognised, not parsed."""

    __slots__ = ()

    def whole(self, body: bytes) -> str:
        """See `Reader`."""
        stripped = body.strip()
        if b'"embedding"' in body and b'"error"' not in body and stripped[:1] == b"{" and stripped[-1:] == b"}":
            self._done = True
            return ""
        return super().whole(body)

    def answers(self, body: Mapping[str, Any]) -> bool:
        """A non-empty ``data`` list."""
        return bool(body.get("data"))


def choices_asked(body: Mapping[str, Any]) -> int:
    """``n``, at least 1; nonsense counts as 1, the provider will say so."""
    n = body.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 128 else 1


def output_limit(body: Mapping[str, Any]) -> int | None:
    """The request's own output limit in tokens; None when it states none."""
    for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


__all__ = ["ChatReader", "EmbeddingsReader", "choices_asked", "loads", "output_limit", "speaks", "tokens"]
