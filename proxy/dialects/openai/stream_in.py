"""A streamed chat completion as events, whatever the sizes of the pieces and the habits of the vendor.

A call is told apart by its index, and where vendors send the same index for all of them, by its id, its name and
whether what came before it is complete. A finish reason ends everything that is open; usage may follow it. Streams end
with ``[DONE]``, and many that are complete end without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects import sse
from proxy.dialects.chat import (
    Annotated,
    Begin,
    Ended,
    Event,
    Fault,
    Finish,
    Json,
    OpaqueBlock,
    Ping,
    RefusalDelta,
    Stopped,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    ToolDelta,
    ToolEnd,
    Used,
)
from proxy.dialects.members import dumped, mapping, objects, string
from proxy.dialects.openai.answer_in import closed_parts, finish_of
from proxy.dialects.openai.messages_in import arguments_of, thinking_text
from proxy.dialects.openai.words import BROKEN, DIALECT, block_in, detail_in, error_of, failed, signature_in, usage_in
from proxy.dialects.reading import loads

_LAST: Final = (Fault, Ended)


class _Call:
    """A call that is under way."""

    __slots__ = ("begun", "custom", "id", "index", "name", "pieces", "signature")

    def __init__(self) -> None:
        self.index = -1
        """Its place among the calls of the stream; -1: not told yet."""
        self.id = ""
        self.name = ""
        self.custom = False
        self.signature = ""
        self.begun = False
        self.pieces: list[str] = []


class ChatStreamReader:
    """See `StreamReader`."""

    __slots__ = (
        "_begun",
        "_block",
        "_calls",
        "_finish",
        "_frames",
        "_is_over",
        "_open",
        "_slots",
        "_thinking",
        "_usage",
        "_was_said",
        "dropped",
    )

    def __init__(self) -> None:
        self.dropped = 0
        self._frames = sse.Frames()
        self._is_over = False
        self._begun = False
        self._was_said = False
        self._finish: Finish | None = None
        self._usage: Json | None = None
        self._block = 0
        """Number of the reasoning block."""
        self._thinking: ThinkingEnd | None = None
        """The end of the reasoning block that is open, as far as it is known; None: none is open."""
        self._calls = 0
        self._open: list[_Call] = []
        self._slots: dict[int, _Call] = {}
        """The latest call of each index."""

    # Framing ----------------------------------------------------------------------------------------------------------

    def feed(self, piece: bytes) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._is_over:
            return out
        for event in self._frames.take(piece):
            self._event(event, out)
            if out and type(out[-1]) in _LAST:
                break
        return out

    def close(self) -> list[Event]:
        """See `StreamReader`."""
        out: list[Event] = []
        if self._is_over:
            return out
        rest = self._frames.rest().strip()
        if rest:
            self._rest(rest, out)
        if not self._is_over and self._finish is not None:
            self._is_over = True
            out.append(Ended())
        return out

    def _rest(self, rest: bytes, out: list[Event]) -> None:
        """What stands behind the last blank line: a whole event, a bare error, or half of something."""
        data = sse.data_of(rest)
        if data is None:
            data = rest
        if data.strip() == b"[DONE]" or isinstance(loads(data), Mapping):
            self._data(data, out)
        else:
            self._line(rest, out)

    def _event(self, event: bytes, out: list[Event]) -> None:
        data = sse.data_of(event)
        if data is not None:
            self._data(data, out, event)
        elif event.startswith(b":"):
            out.append(Ping())
        else:
            self._line(event, out)

    def _line(self, event: bytes, out: list[Event]) -> None:
        """Lines that are no fields of an event stream may still hold an error: ``error: {...}`` (GPUStack) or a bare
        object."""
        for line in event.replace(b"\r", b"\n").split(b"\n"):
            named = line.startswith(b"error:")
            parsed = loads(line[6:] if named else line) if named or line.startswith(b"{") else None
            error = error_of(parsed) if isinstance(parsed, Mapping) else None
            if named and error is None and isinstance(parsed, Mapping):
                error = parsed
            if error is not None:
                self._fail(error, out)
                return

    def _data(self, data: bytes, out: list[Event], event: bytes = b"") -> None:
        if data.startswith(b"[DONE]"):
            self._done(out)
            return
        parsed = loads(data)
        if not isinstance(parsed, Mapping):
            if data.strip():
                self.dropped += 1
            return
        choices = parsed.get("choices")
        if "error" in parsed or "x_groq" in parsed or choices is None:
            error = error_of(parsed)
            if error is None and choices is None and event.startswith((b"event: error", b"event:error")):
                error = parsed
            if error is not None:
                self._fail(error, out)
                return
        self._chunk(parsed, choices, out)

    def _fail(self, error: Json, out: list[Event]) -> None:
        self._is_over = True
        out.append(Fault(error))

    def _done(self, out: list[Event]) -> None:
        if self._finish is None:
            self._begin({}, out)
            self._stop("", out)
        self._is_over = True
        out.append(Ended())

    # Chunks -----------------------------------------------------------------------------------------------------------

    def _chunk(self, chunk: Json, choices: Any, out: list[Event]) -> None:
        if choices and isinstance(choices, list):
            if not self._begun:
                self._begin(chunk, out)
            for choice in choices:
                if isinstance(choice, Mapping) and not choice.get("index"):
                    self._choice(choice, out)
                    if self._is_over:
                        return
        usage = chunk.get("usage")
        if usage is None and "x_groq" in chunk:
            usage = mapping(chunk["x_groq"]).get("usage")
        if usage and usage != self._usage and (read := usage_in(usage)) is not None:
            self._usage = usage
            self._begin(chunk, out)
            out.append(Used(read))

    def _begin(self, chunk: Json, out: list[Event]) -> None:
        if self._begun:
            return
        self._begun = True
        created = chunk.get("created")
        out.append(
            Begin(
                string(chunk.get("id")),
                string(chunk.get("model")),
                created if isinstance(created, int) else None,
                None,
                string(chunk.get("service_tier")),
            )
        )

    def _choice(self, choice: Json, out: list[Event]) -> None:
        delta = choice.get("delta")
        if not delta and "delta" not in choice:
            delta = choice.get("message")
            if not delta and choice.get("text"):
                delta = {"content": choice["text"]}
        if isinstance(delta, Mapping):
            self._delta(delta, out)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str) and self._finish is None:
            if reason in BROKEN:
                self._fail(failed(choice, reason), out)
            else:
                self._stop(reason, out)

    def _delta(self, delta: Json, out: list[Event]) -> None:
        get = delta.get
        details, blocks = get("reasoning_details"), get("thinking_blocks")
        if text := get("reasoning_content") or get("reasoning"):
            if isinstance(text, str):
                self._think(text, details, out)
        elif details:
            self._details(details, out)
        if blocks:
            self._blocks(blocks, out)
        content = get("content")
        if content:
            if isinstance(content, str):
                self._text(content, out)
            else:
                self._content(content, out)
        refusal = get("refusal")
        if refusal and isinstance(refusal, str):
            self._end_thinking(out)
            self._was_said = True
            out.append(RefusalDelta(refusal))
        calls, old = get("tool_calls"), get("function_call")
        if calls:
            signature = signature_in(delta)
            fresh: set[int] = set()
            for call in objects(calls):
                self._call(call, signature, fresh, out)
                signature = ""
        elif isinstance(old, Mapping) and any(old.values()):
            self._call({"index": 0, "function": old}, "", set(), out)
        if annotations := get("annotations"):
            out.extend(Annotated(each) for each in objects(annotations))
        if "audio" in delta or "images" in delta:
            for part in closed_parts(delta):
                self._was_said = True
                out.append(OpaqueBlock(part.dialect, part.kind, part.raw))

    # Text and reasoning -----------------------------------------------------------------------------------------------

    def _text(self, text: str, out: list[Event]) -> None:
        if self._thinking is not None:
            self._end_thinking(out)
        self._was_said = True
        out.append(TextDelta(text))

    def _content(self, content: Any, out: list[Event]) -> None:
        if isinstance(content, Mapping):
            self._text(dumped(content), out)
            return
        for part in objects(content):
            kind = string(part.get("type"))
            if kind == "thinking":
                if text := thinking_text(part):
                    self._think(text, None, out)
            elif text := string(part.get("text")):
                self._text(text, out)
            elif kind and kind != "text":
                out.append(OpaqueBlock(DIALECT, kind, part))

    def _think(self, text: str, details: Any, out: list[Event]) -> None:
        for detail in objects(details):
            if self._is_next(detail):
                self._end_thinking(out)
        if self._thinking is None:
            self._thinking = ThinkingEnd()
            self._block += 1
        self._was_said = True
        out.append(ThinkingDelta(text, self._block))
        for detail in objects(details):
            found = detail_in(detail)
            if found is not None and (found.signature or found.redacted):
                self._seal(found, out)

    def _is_next(self, detail: Json) -> bool:
        """Whether a detail belongs to another block than the one that is open: that one is signed already."""
        end = self._thinking
        return end is not None and bool(end.signature or end.redacted) and bool(detail.get("text"))

    def _details(self, details: Any, out: list[Event]) -> None:
        """Details without plain text beside them."""
        for detail in objects(details):
            found = detail_in(detail)
            if found is None:
                continue
            if found.text:
                self._think(found.text, [detail], out)
            else:
                self._seal(found, out)

    def _blocks(self, blocks: Any, out: list[Event]) -> None:
        for block in objects(blocks):
            found = block_in(block)
            if found is None:
                continue
            if found.text and self._thinking is None:
                self._think(found.text, None, out)
            if found.signature or found.redacted:
                self._seal(found, out)
                self._end_thinking(out)

    def _seal(self, found: Thinking, out: list[Event]) -> None:
        """Note what makes the open block replayable; a second mark needs a block of its own."""
        end = self._thinking
        if end is not None and (end.signature or end.redacted):
            self._end_thinking(out)
            end = None
        if end is None:
            end = self._thinking = ThinkingEnd()
            self._block += 1
        end.signature, end.redacted = found.signature, found.redacted
        end.origin, end.id = found.origin, found.id

    def _end_thinking(self, out: list[Event]) -> None:
        if self._thinking is not None:
            out.append(self._thinking)
            self._thinking = None

    # Calls ------------------------------------------------------------------------------------------------------------

    def _call(self, delta: Json, signature: str, fresh: set[int], out: list[Event]) -> None:
        """One entry of ``tool_calls``. `fresh`: indexes that this chunk has begun a call under."""
        function, custom = mapping(delta.get("function")), mapping(delta.get("custom"))
        is_custom = bool(custom) and not (function.get("name") or function.get("arguments"))
        held = custom if is_custom else function
        name, call_id = string(held.get("name")), string(delta.get("id"))
        text = string(custom.get("input")) if is_custom else arguments_of(function.get("arguments"))
        call = self._find(delta.get("index"), call_id, name, fresh)
        if name and not call.name:
            call.name = name
        if call_id and not call.id:
            call.id = call_id
        call.custom = call.custom or is_custom
        call.signature = call.signature or signature_in(delta) or signature
        self._end_thinking(out)
        if text:
            call.pieces.append(text)
        if call.name and (call.id or call.pieces):
            self._tell(call, text, out)

    def _tell(self, call: _Call, text: str, out: list[Event]) -> None:
        """Send what is known of a call: its head once, then its fragments."""
        if not call.begun:
            call.begun = True
            call.index = self._calls
            self._calls += 1
            self._was_said = True
            out.append(ToolBegin(call.index, call.id, call.name, call.custom, call.signature))
            text = "".join(call.pieces)
        if text:
            out.append(ToolDelta(call.index, text))

    def _find(self, index: Any, call_id: str, name: str, fresh: set[int]) -> _Call:
        if not isinstance(index, int):
            index = self._guessed(call_id, name)
        call = self._slots.get(index)
        if call is None or self._is_another(call, call_id, name, index in fresh):
            call = self._slots[index] = _Call()
            self._open.append(call)
            fresh.add(index)
        return call

    def _guessed(self, call_id: str, name: str) -> int:
        """The index of an entry without one: that of the call with its id, the next one when a call begins, else that
        of the last."""
        for index, call in self._slots.items():
            if call_id and call.id == call_id:
                return index
        last = max(self._slots, default=-1)
        return last + 1 if name or (call_id and self._slots) or last < 0 else last

    def _is_another(self, call: _Call, call_id: str, name: str, is_fresh: bool) -> bool:
        """Whether an entry under the index of a call begins another one, at vendors that number all of them alike."""
        if not name or not call.name:
            return False
        if call_id and call.id:
            return call_id != call.id
        return is_fresh or isinstance(loads("".join(call.pieces).encode("utf-8", "replace")), Mapping)

    # The end ----------------------------------------------------------------------------------------------------------

    def _stop(self, reason: str, out: list[Event]) -> None:
        self._end_thinking(out)
        for call in self._open:
            if not call.begun and call.name:
                self._tell(call, "", out)
            if call.begun:
                out.append(ToolEnd(call.index))
        self._open = []
        self._finish = finish_of(reason, self._calls > 0, self._was_said)
        out.append(Stopped(self._finish))


def stream_reader() -> ChatStreamReader:
    """A fresh reader for one stream."""
    return ChatStreamReader()
