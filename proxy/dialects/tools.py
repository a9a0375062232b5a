"""Names and ids of tools in an alphabet that the target accepts, and the way back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from proxy.dialects.chat import Request, ToolCall

NAME_BAD: Final = re.compile(r"[^a-zA-Z0-9_-]")
"""What a tool's name may not contain at OpenAI, Anthropic and Bedrock."""


def named_in(request: Request) -> list[str]:
    """Every tool's name in the request, the declared ones first."""
    called = [part.name for turn in request.turns for part in turn.parts if isinstance(part, ToolCall)]
    chosen = [request.choice.name] if request.choice is not None and request.choice.name else []
    return [*(tool.name for tool in request.tools), *chosen, *called]


class Names:
    """Turns every name into one the target accepts: always the same for the same name, never one for two.

    `first` are names to be taken up before others, so that a name that needs no change keeps itself whatever the order
    of the rest.
    """

    __slots__ = ("_bad", "_max", "_placeholder", "_sent", "_used")

    def __init__(
        self,
        first: Iterable[str] = (),
        *,
        bad: re.Pattern[str] = NAME_BAD,
        longest: int = 64,
        placeholder: str = "tool",
    ) -> None:
        self._bad = bad
        self._max = longest
        self._placeholder = placeholder
        self._sent: dict[str, str] = {}
        self._used: set[str] = set()
        names = list(first)
        for name in names:
            if self._fits(name):
                self._take(name, name)
        for name in names:
            self.sent(name)

    def sent(self, name: str) -> str:
        """The name as it is sent."""
        found = self._sent.get(name)
        if found is None:
            plain = self._bad.sub("_", name)[: self._max] or self._placeholder
            found = self._take(name, self._free(plain))
        return found

    def fresh(self, name: str) -> str:
        """A name that nobody has yet, made of this one; for ids that come twice and for tools of our own."""
        return self._take(None, self._free(self._bad.sub("_", name)[: self._max] or self._placeholder))

    @property
    def changed(self) -> dict[str, str]:
        """Name as sent -> as it was; only those that differ."""
        return {sent: name for name, sent in self._sent.items() if sent != name}

    def _fits(self, name: str) -> bool:
        return 0 < len(name) <= self._max and self._bad.search(name) is None

    def _free(self, plain: str) -> str:
        candidate, number = plain, 2
        while candidate in self._used:
            ending = f"_{number}"
            candidate = plain[: self._max - len(ending)] + ending
            number += 1
        return candidate

    def _take(self, name: str | None, sent: str) -> str:
        self._used.add(sent)
        if name is not None:
            self._sent[name] = sent
        return sent
