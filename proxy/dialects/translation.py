"""An answer on its way back: from the words of the target's dialect to the caller's.

Readers and writers of the dialects do not know each other; what stands between them is here. Tools get the names back
that the caller gave them, calls without an id get one, a synthetic tool that stood for structured output becomes the
text it means, and what counts as content, as an error and as the end is told in the terms of `reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from proxy.dialects.chat import (
    Annotated,
    Answer,
    Asked,
    Begin,
    Encoded,
    Ended,
    Event,
    Fault,
    Finish,
    Json,
    Opaque,
    OpaqueBlock,
    Part,
    Refusal,
    RefusalDelta,
    Stopped,
    StreamWriter,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolEnd,
    Usage,
    Used,
    events_of,
)
from proxy.dialects.hearing import STUMBLES, Listener, Speaker, unreadable
from proxy.dialects.reading import loads

SILENT: Final = frozenset({Finish.STOP, Finish.TOOL_CALLS, Finish.UNKNOWN, Finish.MALFORMED, Finish.STOP_SEQUENCE})
"""Finish reasons that do not excuse an answer without content."""


class Translator(Listener):
    """The answer of one attempt. Feed it either pieces of a stream (`feed`, `close`) or one body (`whole`)."""

    __slots__ = (
        "_asked",
        "_assembler",
        "_caller",
        "_custom_calls",
        "_customs",
        "_encoded",
        "_ends",
        "_mute",
        "_names",
        "_tells_thinking",
        "_thinks",
        "_writer",
        "model",
    )

    def __init__(self, target: Speaker, caller: Speaker, encoded: Encoded, asked: Asked, stream: bool) -> None:
        """`stream`: the caller wants events; whether the target sends them is told by what is called."""
        super().__init__(target)
        self._caller = caller
        self._encoded = encoded
        self._names = encoded.names
        self._asked = asked
        self._writer: StreamWriter | None = caller.stream_writer(asked) if stream else None
        self._assembler = None if stream else Assembler()
        """Puts a stream together for a caller who wants one body."""
        self._mute: set[int] = set()
        """Indexes of calls that stand for structured output."""
        self._customs = custom_tools(asked.body)
        self._custom_calls: dict[int, list[str]] = {}
        """Arguments so far of calls of custom tools, which targets of other dialects know as functions."""
        self._ends: list[Event] = []
        """What has to follow the event that is being handed on."""
        self._tells_thinking = caller.api != "messages"
        """A Messages caller is told only what Claude has signed: anything else it could not send back."""
        self._thinks = False
        self.model = ""
        """The model as the provider named it."""

    @property
    def has_progress(self) -> bool:
        """See `Joiner`: reasoning that the caller is not told is no content, and no silence either."""
        return self.has_content or self._thinks

    # Streams ----------------------------------------------------------------------------------------------------------

    def _finished(self) -> bytes:
        if self.is_over or self.finish is None or self.error is not None:
            return b""
        self.is_over = True
        if self._writer is not None:
            return self._writer.end()
        assert self._assembler is not None
        answer = replace(self._assembler.answer(), finish=self.finish)
        return orjson.dumps(self._caller.write_answer(answer, self._asked))

    def _take(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            kind = type(event)
            if kind is Fault:
                self.error = event.error  # type: ignore[union-attr]
                break
            if kind is Ended:
                out.append(self._finished())
                continue
            changed = self._changed(event, kind)
            if self.error is not None:
                break
            if changed is None:
                continue
            self._hand_on(changed, out)
            while self._ends:
                self._hand_on(self._ends.pop(), out)
        return b"".join(out)

    def _hand_on(self, event: Event, out: list[bytes]) -> None:
        """To the writer of a stream, or to the answer that is put together."""
        if self._writer is not None:
            out.append(self._writer.feed(event))
        elif self._assembler is not None:
            self._assembler.take(event)

    def _changed(self, event: Any, kind: type) -> Event | None:
        """The event in the caller's terms; None: it means nothing to the caller. Takes note of what it says."""
        if kind is TextDelta or kind is RefusalDelta:
            self.has_content = True
        elif kind is ThinkingDelta:
            self._thinks = True
            self.has_content = self.has_content or self._tells_thinking
        elif kind is ThinkingEnd:
            self.has_content = self.has_content or self._tells_thinking or _is_claudes(event)
        elif kind is ToolDelta or kind is ToolEnd:
            if event.index in self._mute:
                return TextDelta(event.text) if kind is ToolDelta else None
            held = self._custom_calls.get(event.index)
            if held is not None:
                if kind is ToolDelta:
                    held.append(event.text)
                    return None
                self._custom_calls.pop(event.index)
                text = plain_input("".join(held))
                if not text:
                    return event  # type: ignore[no-any-return]
                self._ends.append(event)
                return ToolDelta(event.index, text)
        elif kind is ToolBegin:
            self.has_content = True
            return self._begun(event)
        elif kind is Begin:
            self.model = event.model
            if not event.model or not event.id:
                event = Begin(
                    event.id, event.model or self._asked.model, event.created, event.usage, event.service_tier
                )
            if event.usage is not None:
                self._count(event.usage)
        elif kind is Used:
            self._count(event.usage)
        elif kind is Stopped:
            if event.finish is Finish.MALFORMED and not self.has_content:
                self.error = {"type": "server_error", "message": "the model produced nothing usable"}
                return None
            self.has_content = self.has_content or event.finish not in SILENT
            self.finish = event.finish
            if self._mute and event.finish is Finish.TOOL_CALLS:
                self.finish = Finish.STOP
                return Stopped(Finish.STOP)
        elif kind is OpaqueBlock:
            self.has_content = True
        return event  # type: ignore[no-any-return]

    def _begun(self, event: ToolBegin) -> ToolBegin | None:
        if event.name and event.name == self._encoded.format_tool:
            self._mute.add(event.index)
            return None
        call_id = event.id or self._call_id(event.index)
        if event.signature:
            self.signatures[call_id] = event.signature
        name = self._names.get(event.name, event.name)
        custom = event.custom
        if not custom and name in self._customs:
            custom = True
            self._custom_calls[event.index] = []
        if call_id == event.id and name == event.name and custom is event.custom:
            return event
        return ToolBegin(event.index, call_id, name, custom, event.signature)

    def _count(self, usage: Usage) -> None:
        self.usage = (usage.prompt, usage.output)

    def _call_id(self, index: int) -> str:
        return f"call_{self._asked.seed[:20]}{index:04d}"

    # Bodies -----------------------------------------------------------------------------------------------------------

    def whole(self, body: bytes) -> tuple[str, bytes]:
        """Judge and translate a whole body: (empty, the caller's body or its whole stream) or (why not, empty).

        Why not: ``empty``, ``not_json``, ``error`` (then in `error`).
        """
        parsed = loads(body)
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, Mapping):
            return ("not_json" if body.strip() else "empty"), b""
        try:
            self.error = self._target.fault_in(parsed)
            if self.error is not None:
                return "error", b""
            answer = self._target.read_answer(parsed)
            if not any(self._says(part) for part in answer.parts) and answer.finish in SILENT:
                return "empty", b""
            if self._target is self._caller and not self._names and self._writer is None:
                self._restored(answer)
                return "", body  # its own words, in one piece although a stream was asked for
            answer = self._restored(answer)
            if self._writer is None:
                return "", orjson.dumps(self._caller.write_answer(answer, self._asked))
            return "", self._take(list(events_of(answer)))
        except STUMBLES as stumble:
            self.error = unreadable(stumble)
            return "error", b""

    def _says(self, part: Part) -> bool:
        """Whether a part carries anything that the caller can be told."""
        if isinstance(part, Text | Refusal):
            return bool(part.text)
        if isinstance(part, Thinking):
            told = self._tells_thinking and bool(part.text or part.redacted or part.signature)
            return told or _is_claudes(part)
        return True

    def _restored(self, answer: Answer) -> Answer:
        """The answer with the caller's names for tools, ids for all calls, and structured output as text."""
        self.model = answer.model
        self.finish = answer.finish
        self.has_content = True
        if answer.usage is not None:
            self._count(answer.usage)
        parts: list[Part] = []
        finish, calls = answer.finish, 0
        for part in answer.parts:
            if not isinstance(part, ToolCall):
                parts.append(part)
                continue
            if part.name and part.name == self._encoded.format_tool:
                parts.append(Text(text=part.arguments))
                finish = Finish.STOP if finish is Finish.TOOL_CALLS else finish
                continue
            call_id = part.id or self._call_id(calls)
            if part.signature:
                self.signatures[call_id] = part.signature
            calls += 1
            name = self._names.get(part.name, part.name)
            if not part.custom and name in self._customs:
                part = replace(part, custom=True, arguments=plain_input(part.arguments))
            parts.append(replace(part, id=call_id, name=name))
        if calls and finish is Finish.STOP:
            finish = Finish.TOOL_CALLS
        return replace(answer, parts=tuple(parts), finish=finish, model=answer.model or self._asked.model)

    def fail(self, error: Json) -> bytes:
        """The honest end of an interrupted stream; `error` is in the caller's words."""
        return self._writer.fail(error) if self._writer is not None else b""


def custom_tools(body: Json) -> frozenset[str]:
    """Names of the tools that the caller declared as custom (free text in), in OpenAI's two spellings."""
    tools = body.get("tools")
    if not isinstance(tools, list) or not any(isinstance(t, Mapping) and t.get("type") == "custom" for t in tools):
        return frozenset()
    found = []
    for tool in tools:
        if isinstance(tool, Mapping) and tool.get("type") == "custom" and "input_schema" not in tool:
            inner = tool.get("custom")
            found.append(inner.get("name") if isinstance(inner, Mapping) else tool.get("name"))
    return frozenset(name for name in found if isinstance(name, str))


def plain_input(arguments: str) -> str:
    """The text of a custom call that a target made as a call of a function with the one parameter ``input``."""
    parsed = loads(arguments.encode())
    text = parsed.get("input") if isinstance(parsed, Mapping) else None
    return text if isinstance(text, str) else arguments


def _is_claudes(thinking: Thinking | ThinkingEnd) -> bool:
    """Whether reasoning is signed by Anthropic, so that its own callers can be shown it and send it back."""
    return thinking.origin == "anthropic" and bool(thinking.signature or thinking.redacted)


class Converter:
    """The way back of an answer that is no conversation: a count of tokens, vectors. Never a stream."""

    __slots__ = ("_convert", "_fault_in", "error", "signatures", "usage")

    dropped = 0
    has_content = False
    has_progress = False
    is_finished = False

    def __init__(self, fault_in: Callable[[Json], Json | None], convert: Callable[[Json], dict[str, Any]]) -> None:
        self._fault_in = fault_in
        self._convert = convert
        self.error: Json | None = None
        self.usage: tuple[int, int] | None = None
        self.signatures: dict[str, str] = {}

    def whole(self, body: bytes) -> tuple[str, bytes]:
        """As `Translator.whole`."""
        parsed = loads(body)
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, Mapping):
            return ("not_json" if body.strip() else "empty"), b""
        try:
            self.error = self._fault_in(parsed)
            return ("error", b"") if self.error is not None else ("", orjson.dumps(self._convert(parsed)))
        except STUMBLES as stumble:
            self.error = unreadable(stumble)
            return "error", b""

    def feed(self, piece: bytes) -> bytes:
        """A stream where a body was asked for."""
        self.error = {"type": "server_error", "message": "the answer is a stream where a body was asked for"}
        return b""

    def close(self) -> bytes:
        """See `feed`."""
        return b""

    def fail(self, error: Json) -> bytes:
        """Nothing has been sent that could be ended."""
        return b""


class Assembler:
    """Puts the events of a stream together again: the same answer as if it had come in one piece."""

    __slots__ = ("_begin", "_calls", "_finish", "_parts", "_refusal", "_text", "_thinking", "_usage")

    def __init__(self) -> None:
        self._begin = Begin()
        self._parts: list[Part | int] = []
        """In order; an integer stands for the call of that index, which may still be growing."""
        self._text: tuple[int, list[str], list[Json]] | None = None
        self._thinking: tuple[int, list[str]] | None = None
        self._refusal: list[str] = []
        self._calls: dict[int, tuple[ToolBegin, list[str]]] = {}
        self._finish = Stopped(Finish.UNKNOWN)
        self._usage: Usage | None = None

    def take(self, event: Any) -> None:
        """Add one event; Fault and Ended are the caller's matter."""
        kind = type(event)
        if kind is TextDelta:
            if self._text is None or self._text[0] != event.block:
                self._settle()
                self._text = (event.block, [], [])
            self._text[1].append(event.text)
        elif kind is ThinkingDelta:
            if self._thinking is None or self._thinking[0] != event.block:
                self._settle()
                self._thinking = (event.block, [])
            self._thinking[1].append(event.text)
        elif kind is ThinkingEnd:
            texts = self._thinking[1] if self._thinking is not None else []
            self._thinking = None
            self._settle()
            self._parts.append(
                Thinking(
                    text="".join(texts),
                    signature=event.signature,
                    redacted=event.redacted,
                    origin=event.origin,
                    id=event.id,
                )
            )
        elif kind is ToolBegin:
            self._settle()
            self._calls[event.index] = (event, [])
            self._parts.append(event.index)
        elif kind is ToolDelta:
            self._calls[event.index][1].append(event.text)
        elif kind is RefusalDelta:
            self._refusal.append(event.text)
        elif kind is Annotated:
            if self._text is None:
                self._text = (0, [], [])
            self._text[2].append(event.annotation)
        elif kind is OpaqueBlock:
            self._settle()
            self._parts.append(Opaque(dialect=event.dialect, kind=event.kind, raw=event.raw))
        elif kind is Begin:
            self._begin = event
            self._usage = event.usage
        elif kind is Used:
            self._usage = event.usage
        elif kind is Stopped:
            self._finish = event

    def _settle(self) -> None:
        """Close the block that is open: another kind begins."""
        if self._thinking is not None:
            self._parts.append(Thinking(text="".join(self._thinking[1])))
            self._thinking = None
        if self._text is not None:
            self._parts.append(Text(text="".join(self._text[1]), annotations=tuple(self._text[2])))
            self._text = None

    def answer(self) -> Answer:
        """The answer so far."""
        self._settle()
        if not self._refusal and self._finish.finish is Finish.CONTENT_FILTER and self._finish.explanation:
            self._refusal.append(self._finish.explanation)
        if self._refusal:
            self._parts.append(Refusal(text="".join(self._refusal)))
            self._refusal = []
        parts = tuple(self._call(part) if isinstance(part, int) else part for part in self._parts)
        return Answer(
            id=self._begin.id,
            model=self._begin.model,
            created=self._begin.created,
            parts=parts,
            finish=self._finish.finish,
            stop_sequence=self._finish.stop_sequence,
            usage=self._usage,
            service_tier=self._begin.service_tier,
        )

    def _call(self, index: int) -> ToolCall:
        begin, fragments = self._calls[index]
        return ToolCall(
            id=begin.id,
            name=begin.name,
            arguments="".join(fragments),
            custom=begin.custom,
            signature=begin.signature,
        )


__all__ = ["Assembler", "Converter", "Speaker", "Translator"]
