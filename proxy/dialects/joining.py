"""The answer of a target that goes on with what another one began, joined to what the caller has been sent.

It stands where a `Translator` stands, whatever the target speaks: a continuation is never relayed as it comes, because
its beginning has to be looked at. Everything goes on in the caller's stream as if it had never stopped: no second role,
id or message start; one text; the usage of both.
"""

from __future__ import annotations

from typing import Any

from proxy.dialects.chat import (
    Asked,
    Begin,
    Ended,
    Event,
    Fault,
    Json,
    Stopped,
    StreamWriter,
    TextDelta,
    ToolBegin,
    Usage,
    Used,
    events_of,
)
from proxy.dialects.continuation import Partial, summed
from proxy.dialects.hearing import STUMBLES, Listener, Speaker, unreadable
from proxy.dialects.reading import loads
from proxy.dialects.seam import Seam

UNFIT = "unfit"
"""Type of the error of a continuation that does not fit."""


class Joiner(Listener):
    """See the module; the same calls as `translation.Translator`."""

    __slots__ = ("_partial", "_seam", "_usage", "_writer", "has_progress")

    def __init__(self, target: Speaker, writer: StreamWriter, partial: Partial, exact: bool) -> None:
        """`writer` stands where the broken stream stopped (`resumed`)."""
        super().__init__(target)
        self._writer = writer
        self._partial = partial
        self._seam = Seam(partial.text, exact)
        self._usage: Usage | None = None
        self.has_progress = False
        """Text has come, whether or not it can be sent yet; `has_content`: the join is found, and it can be."""

    def whole(self, body: bytes) -> tuple[str, bytes]:
        """One body where events were asked for: as `Translator.whole`."""
        parsed = loads(body)
        if not isinstance(parsed, dict):
            return ("not_json" if body.strip() else "empty"), b""
        try:
            self.error = self._target.fault_in(parsed)
            out = b"" if self.error is not None else self._take(list(events_of(self._target.read_answer(parsed))))
        except STUMBLES as stumble:
            self.error = unreadable(stumble)
        return ("error", b"") if self.error is not None else ("", out)

    def fail(self, error: Json) -> bytes:
        """As `Translator.fail`."""
        return self._writer.fail(error)

    def _take(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is Fault:
                self.error = event.error
                break
            out.append(self._one(event))
            if self.error is not None:
                break
        return b"".join(out)

    def _one(self, event: Any) -> bytes:
        kind = type(event)
        if kind is TextDelta:
            self.has_progress = True
            return self._text(self._seam.feed(event.text))
        if kind is Stopped:
            rest = self._text(self._seam.end())
            if self.error is not None:
                return b""
            self.finish = event.finish
            self.has_content = True
            return rest + self._writer.feed(event)
        if kind is ToolBegin:
            self._unfit()
        elif kind is Begin or kind is Used:
            self._usage = event.usage or self._usage
        elif kind is Ended:
            return self._finished()
        return b""  # reasoning about the continuation is no part of the answer

    def _text(self, text: str) -> bytes:
        if self._seam.unfit:
            self._unfit()
            return b""
        if not text:
            return b""
        self.has_content = True
        return self._writer.feed(TextDelta(text))

    def _unfit(self) -> None:
        self.error = {"type": UNFIT, "message": "the continuation does not fit what was sent"}

    def _finished(self) -> bytes:
        if self.is_over or self.finish is None or self.error is not None:
            return b""
        self.is_over = True
        usage = summed(self._partial, self._usage)
        self.usage = (usage.prompt, usage.output)
        return self._writer.feed(Used(usage)) + self._writer.end()


def resumed(caller: Speaker, asked: Asked, events: list[Event], sent: bytes) -> StreamWriter:
    """A writer of the caller's dialect that stands behind `events`, as if it had written them; `sent` are their bytes,
    for a dialect whose ids and counts have no place in the events."""
    writer = caller.stream_writer(asked)
    for event in events:
        if type(event) not in (Fault, Ended):
            writer.feed(event)
    resume = getattr(writer, "resume", None)
    if resume is not None:
        resume(sent)
    return writer
