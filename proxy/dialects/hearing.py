"""What hears the answer of one attempt, in whatever dialect its target speaks.

Whatever a provider sends, it is at worst a failed attempt: a reader that stumbles over it must not take the request
down, so its exceptions end here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from proxy.dialects.chat import (
    Answer,
    Asked,
    Encoded,
    Event,
    Finish,
    Json,
    ModelFacts,
    Request,
    StreamReader,
    StreamWriter,
)

STUMBLES: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What a reader may raise over JSON of an unexpected shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """What one wire API offers; see `chat` for the terms."""

    api: str
    read_request: Callable[[Json], Request]
    write_request: Callable[[Request, ModelFacts], Encoded]
    fault_in: Callable[[Json], Json | None]
    read_answer: Callable[[Json], Answer]
    write_answer: Callable[[Answer, Asked], dict[str, Any]]
    stream_reader: Callable[[], StreamReader]
    stream_writer: Callable[[Asked], StreamWriter]


def unreadable(stumble: Exception) -> Json:
    """The error of an answer whose shape nobody expected. The exception's text may quote the answer: it is left out."""
    return {"type": "server_error", "message": f"the answer cannot be read ({type(stumble).__name__})"}


class Listener(ABC):
    """The stream of one attempt, fed in pieces: what its caller may be sent, and what became of it."""

    __slots__ = ("_reader", "_target", "error", "finish", "has_content", "is_over", "signatures", "usage")

    def __init__(self, target: Speaker) -> None:
        self._target = target
        self._reader: StreamReader | None = None
        self.error: Json | None = None
        """The provider's error object, once one has come."""
        self.usage: tuple[int, int] | None = None
        """(prompt, output) tokens; None: not reported."""
        self.finish: Finish | None = None
        self.has_content = False
        self.is_over = False
        """The proper end has been written; nothing more will be."""
        self.signatures: dict[str, str] = {}
        """Gemini's thought signatures of this answer by call id."""

    @property
    def dropped(self) -> int:
        """Events that were not JSON."""
        return self._reader.dropped if self._reader is not None else 0

    @property
    def is_finished(self) -> bool:
        """A proper reason for the end has come: a stream that stops now is complete."""
        return self.finish is not None

    def feed(self, piece: bytes) -> bytes:
        """What the caller may be sent because of `piece`; an error is then in `error` and nothing follows."""
        if self._reader is None:
            self._reader = self._target.stream_reader()
        try:
            return self._take(self._reader.feed(piece))
        except STUMBLES as stumble:
            self.error = unreadable(stumble)
            return b""

    def close(self) -> bytes:
        """The connection has ended: the rest, and the proper end where the answer is complete."""
        out = b""
        if self._reader is not None and self.error is None and not self.is_over:
            try:
                out = self._take(self._reader.close())
            except STUMBLES as stumble:
                self.error = unreadable(stumble)
        return out + self._finished()

    @abstractmethod
    def _take(self, events: list[Event]) -> bytes:
        """What the caller may be sent because of these events."""

    @abstractmethod
    def _finished(self) -> bytes:
        """The end marker and what was held for it, once; empty while no reason for the end has come."""
