"""What an answer consists of, before it is put into a dialect's words: text or calls, reasoning, tokens. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.demo.asked import Asked, ToolCall
from proxy.demo.say import HIDDEN, Say, pieces

_MADE_UP: Final = (
    ToolCall(name="lookup", arguments='{"key":"example"}'),
    ToolCall(name="search", arguments='{"query":"example"}'),
)
"""Calls for a request without tools, when a fault wants calls all the same."""
_JSON_PIECE: Final = 7
"""Characters of structured output per event, so that names and numbers are cut in two."""


def calls(asked: Asked, say: Say) -> tuple[ToolCall, ...]:
    """Return the calls the answer makes: those asked for, or made-up ones when the fault wants calls."""
    if say.answer == "tool_call":
        return asked.tool_calls or _MADE_UP[:1]
    if say.answer == "tool_calls":
        return asked.tool_calls if len(asked.tool_calls) > 1 else _MADE_UP
    return asked.tool_calls if say.answer in ("text", "reasoning") else ()


def text(asked: Asked, say: Say) -> str:
    """Return the text of the answer."""
    return asked.text or " ".join(say.words)


def text_pieces(asked: Asked, say: Say) -> Iterator[str]:
    """Give the text as a stream brings it: word by word, or JSON in short pieces."""
    if not asked.text:
        yield from pieces(say.words)
        return
    for at in range(0, len(asked.text), _JSON_PIECE):
        yield asked.text[at : at + _JSON_PIECE]


def hidden_pieces() -> Iterator[str]:
    """Give the reasoning word by word."""
    return pieces(tuple(HIDDEN.split()))


def thinks(asked: Asked, say: Say) -> bool:
    """Tell whether the answer begins with reasoning; an answer that ends at its limit is nothing but reasoning."""
    return say.empty is None and (say.answer == "reasoning" or (asked.thinks and say.answer in ("text", "tool_call")))


def reasoning_tokens(asked: Asked, say: Say) -> int:
    """Return how many of the `output_tokens` are reasoning."""
    if say.answer == "length" and say.empty is None:
        return len(say.words) * asked.choices
    return len(HIDDEN.split()) * asked.choices if thinks(asked, say) else 0


def output_tokens(asked: Asked, say: Say) -> int:
    """Return what the whole answer counts, reasoning included."""
    if say.empty is not None:
        return 0
    hidden = reasoning_tokens(asked, say) if say.answer != "length" else 0
    return len(say.words) * asked.choices + hidden


def cache_split(say: Say) -> tuple[int, int]:
    """Return the prompt's tokens as (not from the cache, from the cache)."""
    cached = min(say.cached_tokens, say.prompt_tokens)
    return say.prompt_tokens - cached, cached


def usage_if(say: Say, usage: dict[str, Any], name: str = "usage") -> dict[str, Any]:
    """Return the member that tells usage, or nothing where a fault keeps it back."""
    return {name: usage} if say.has_usage else {}
