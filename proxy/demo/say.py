"""What the fake providers have to say, whoever asks, and the envelope of one event.

The healthy answer is always the same 60 different words (`WORDS`), one word per event, so that a missing, doubled or
misplaced word is always visible. Three words hold a character of two bytes, so that a cut through one can happen. The
one thing that differs between attempts, the id, is left as the placeholder `ID` of fixed width, which makes every
answer a template that can be kept and stamped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

Kind = Literal["open", "word", "finish", "usage", "done"]

ID: Final = b"@attempt@@"
"""Stands for the attempt's number; ten bytes, as is `stamp`'s number, so that lengths stay true."""

TEXT: Final = (
    "harbour lantern copper meadow thistle granite café pepper violin anchor "
    "saddle marble window orchard feather compass naïve bottle gravel ribbon "
    "cinnamon tunnel whistle garden puzzle kettle glacier button hammer island "
    "jacket kitchen ladder magnet needle ocean pencil quartz rocket señor "
    "timber umbrella valley walnut yellow zipper blanket candle dragon engine "
    "falcon goblet helmet insect jungle kernel lemon mirror nectar olive"
)
"""The healthy answer."""

WORDS: Final = tuple(TEXT.split())
"""Its 60 different words."""

HIDDEN: Final = "Thinking it over until the limit came."
"""The reasoning, where it is shown; each of its words counts as a token."""
SIGNATURE: Final = "c2lnbmVk"
"""What makes reasoning replayable, where that is a signature."""
REFUSAL: Final = "I am sorry, but I cannot help with that."
PROMPT_TOKENS: Final = 11
"""What every answer counts for its prompt, unless the provider is told another number."""
CREATED: Final = 1_790_000_000
"""Unix seconds put into `created`; a constant, so that answers are templates."""
NUMBER: Final = ID.decode()
"""The placeholder, for places that are text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """What the provider says, whoever asks."""

    provider: str
    words: tuple[str, ...] = WORDS
    answer: Literal["text", "refusal", "tool_call", "tool_calls", "reasoning", "length"] = "text"
    empty: Literal["no_choices", "null_content", "done"] | None = None
    has_usage: bool = True
    has_finish: bool = True
    prompt_tokens: int = PROMPT_TOKENS
    cached_tokens: int = 0
    """Those of the prompt that come from a cache."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, complete with its blank line, LF line ends. Only "word" is content."""

    kind: Kind
    data: bytes


def stamp(template: bytes, n: int) -> bytes:
    """Put attempt number `n` into an answer."""
    return template.replace(ID, b"%010d" % n)


def sse(value: object) -> bytes:
    """Return a value as one unnamed event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named(kind: Kind, name: str, value: dict[str, Any]) -> Event:
    """Return a value as an event that has its name on the `event` line and in the field `type`."""
    return Event(kind, b"event: " + name.encode() + b"\n" + sse({"type": name, **value}))


def pieces(words: tuple[str, ...]) -> Iterator[str]:
    """Give the words so that they join to a text: every one but the first with the space before it."""
    for i, word in enumerate(words):
        yield word if i == 0 else f" {word}"


def fragments(arguments: str) -> tuple[str, str]:
    """Cut arguments in two, as a stream brings them."""
    half = (len(arguments) + 1) // 2
    return arguments[:half], arguments[half:]
