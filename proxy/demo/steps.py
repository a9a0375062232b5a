"""From a fault to the steps of an answer: what is sent, where it is silent, where it breaks.

Everything is decided here, before the first byte is written, so that an answer is a plain list which can be read,
compared and kept; whoever walks it (`proxy.demo.answer`) decides nothing more. Pure: no clock, no socket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.demo import shapes
from proxy.demo.asked import FRAMED_APIS, Asked
from proxy.demo.error_shapes import error_event
from proxy.demo.say import WORDS, Event, Say
from proxy.dialects.eventstream import encode

if TYPE_CHECKING:
    from proxy.demo.script import Fault  # which takes these steps into its own names


@dataclass(frozen=True, slots=True)
class Send:
    """Write bytes of the body."""

    data: bytes
    is_word: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Be silent for `for_s` seconds (inf: for ever), or say the next of `pieces`, in turn, every `every_s`."""

    for_s: float
    pieces: tuple[bytes, ...] = ()
    every_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Damage:
    """From here on the compressed body is rubbish."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection here; nothing follows."""

    is_reset: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """End the body here, in order; nothing follows."""


Step = Send | Wait | Damage | Cut | End

_BROKEN: Final = '{"id": "broken", "choices": [{"index": 0, "delta": {"content": "lost'
_BIG_PIECE: Final = 16 << 10
_BOMB_PIECE: Final = 1 << 20
_BIG_EVENT_AT: Final = 10


def say_of(fault: Fault | None, provider: str, prompt_tokens: int) -> Say:
    """Return what the provider says under a fault: the words, or what stands in their place."""
    if fault is None:
        return Say(provider=provider, prompt_tokens=prompt_tokens)
    words = WORDS if fault.text is None else tuple(fault.text.split(" "))
    words = words[(fault.from_word or 1) - 1 :]
    if fault.u2028:
        words = tuple(f"{word}\u2028" if i % 10 == 0 else word for i, word in enumerate(words, 1))
    return Say(
        provider=provider,
        words=words,
        answer=fault.answer or "text",
        empty=fault.empty if fault.empty in ("no_choices", "null_content", "done") else None,
        has_usage=not fault.no_usage,
        has_finish=not fault.no_finish,
        prompt_tokens=prompt_tokens,
        cached_tokens=fault.cached_tokens or 0,
    )


def stream_steps(fault: Fault, asked: Asked, say: Say, pause_s: float) -> list[Step]:
    """Return the steps of a streamed answer; nothing follows a `Cut` or an `End`."""
    is_framed = asked.api in FRAMED_APIS
    if is_framed and fault.big_body_bytes:
        say = replace(say, words=_big_words(fault.big_body_bytes))
    events = list(shapes.stream(asked, say))
    if fault.no_done:
        events = [event for event in events if event.kind != "done"]
    if fault.big_body_bytes:
        pause_s = 0.0
    if fault.big_body_bytes and not is_framed:
        events = _big_events(events, say.words[0], fault.big_body_bytes)
    if fault.error_after_words == 0:
        events = [event for event in events if event.kind != "open"]
    steps = [*_waiting(fault.body_after_s), *_bomb(fault, b"\n")]
    while events and events[0].kind == "open":
        steps.append(Send(events.pop(0).data))
    steps += _preamble(fault, asked, say)
    steps += _words(fault, asked, events, fault.pause_s if fault.pause_s is not None else pause_s)
    if not isinstance(steps[-1] if steps else None, Cut | End):
        steps += _waiting(fault.hold_open_s)
    return _cut_bytes(fault, steps if is_framed else _line_ends(fault, steps))


def unary_steps(fault: Fault, body: bytes, say: Say, *, is_content: bool = True) -> list[Step]:
    """Return the steps of an answer in one piece, whose body is `body`; `is_content`: it counts as a word."""
    steps: list[Step] = [*_waiting(fault.body_after_s), *_waiting(fault.first_word_s), *_bomb(fault, b" ")]
    stall_s = fault.stall_s if fault.stall_s is not None else math.inf
    befall: list[tuple[int | None, Step]] = [(fault.stall_after_words, Wait(stall_s))]
    befall.append((fault.damage_after_words, Damage()))
    marks = [(_end_of_word(body, say, words), step) for words, step in befall if words is not None]
    begin = 0
    for at, step in sorted(marks, key=lambda mark: mark[0]):
        steps += [Send(body[begin:at], is_content and begin == 0), step]
        begin = at
    steps.append(Send(body[begin:], is_content and begin == 0))
    if fault.cut_after_words is not None:
        return _cut_bytes(fault, steps, _end_of_word(body, say, fault.cut_after_words))
    return _cut_bytes(fault, steps)


def _words(fault: Fault, asked: Asked, events: list[Event], pause_s: float) -> list[Step]:
    """The events from the first word on. What befalls after k words does so once, before the event that follows."""
    steps: list[Step] = []
    said, judged = 0, -1
    for event in [*events, None]:
        if (event is None or event.kind != "open") and said > judged:
            judged = said
            steps += _befall(fault, asked, said, event)
            if steps and isinstance(steps[-1], Cut | End):
                return steps
        if event is None:
            break
        if event.kind != "word":
            steps.append(Send(event.data))
            continue
        if said and pause_s:
            steps.append(Wait(pause_s))
        said += 1
        pad = fault.big_event_bytes if fault.big_event_bytes and said == _BIG_EVENT_AT else 0
        steps.append(Send(shapes.padded(event.data, pad), is_word=True))
    return steps


def _befall(fault: Fault, asked: Asked, said: int, following: Event | None) -> list[Step]:
    """What happens after `said` words; a `Cut` or an `End` as the last step when it is the end."""
    steps: list[Step] = []
    if fault.stall_after_words == said:
        every_s = max(0.001, fault.stall_ping_s) if fault.stall_ping_s is not None else math.inf
        ping = shapes.preamble(asked.api, "ping", asked, Say(provider="")) if every_s < math.inf else b""
        for_s = fault.stall_s if fault.stall_s is not None else math.inf
        steps.append(Wait(for_s, (ping,) if ping else (), every_s))
    if fault.damage_after_words == said:
        steps.append(Damage())
    if fault.error_after_words == said:
        kind = fault.error or "overloaded"
        event = error_event(asked, kind, code=fault.code, message=fault.message, is_bare=fault.bare_error)
        steps.append(Send(event))
        return [*steps, End()]
    if fault.cut_after_words == said:
        return [*steps, *_cut(fault, following)]
    if fault.malformed_at_word == said + 1:
        text = (_BROKEN if fault.malformed is None else fault.malformed).encode()
        is_framed = asked.api in FRAMED_APIS
        steps.append(Send(_frame_of(text) if is_framed else b"data: " + text + b"\n\n"))
    return steps


def _cut(fault: Fault, following: Event | None) -> list[Step]:
    if fault.cut == "end":
        return [End()]
    if fault.cut == "mid_char":
        return [Send(_half_event(following)), Cut()]
    return [Cut(is_reset=fault.cut == "reset")]


def _half_event(following: Event | None) -> bytes:
    """The next event up to its text and one of the two bytes of an \u00e9."""
    data = following.data if following is not None and following.kind == "word" else b'data: {"x":"'
    for mark in (b'"content":"', b'"text":"', b'"delta":"', b'"x":"'):
        if (at := data.rfind(mark)) >= 0:
            return data[: at + len(mark)] + b"\xc3"
    return data[: len(data) // 2] + b"\xc3"


def _cut_bytes(fault: Fault, steps: list[Step], limit: int | None = None) -> list[Step]:
    """Cut the body after `limit` bytes (None: those of `cut_after_bytes`, if any)."""
    limit = fault.cut_after_bytes if limit is None else limit
    if limit is None:
        return steps
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, Send):
            if len(step.data) > limit:
                kept.append(Send(step.data[:limit], step.is_word))
                break
            limit -= len(step.data)
        kept.append(step)
    if kept and isinstance(kept[-1], Cut | End):
        return kept
    if fault.cut == "end":
        return [*kept, End()]
    tail = [Send(b"\xc3")] if fault.cut == "mid_char" else []
    return [*kept, *tail, Cut(is_reset=fault.cut == "reset")]


def _waiting(for_s: float | None) -> list[Step]:
    return [Wait(for_s)] if for_s else []


def _preamble(fault: Fault, asked: Asked, say: Say) -> list[Step]:
    """What comes between the opening events and the first word: nothing, silence, or events without content."""
    pad = fault.preamble_pad_bytes or 0
    pieces = tuple(shapes.preamble(asked.api, kind, asked, say, pad) for kind in fault.preamble)
    every_s = fault.preamble_every_s
    if not pieces:
        return _waiting(fault.first_word_s)
    if fault.preamble_count is None and fault.first_word_s:
        return [Wait(fault.first_word_s, pieces, every_s if every_s else 1.0)]
    steps: list[Step] = []
    for i in range(fault.preamble_count if fault.preamble_count is not None else len(pieces)):
        steps += [*_waiting(every_s if i else None), Send(pieces[i % len(pieces)])]
    return steps + _waiting(fault.first_word_s)


def _bomb(fault: Fault, blank: bytes) -> list[Step]:
    """White space that compresses to almost nothing; the same bytes again and again, so that it costs no memory."""
    full, rest = divmod(fault.bomb_bytes or 0, _BOMB_PIECE)
    steps: list[Step] = [Send(blank * _BOMB_PIECE)] * full if full else []
    return steps + ([Send(blank * rest)] if rest else [])


def _frame_of(payload: bytes) -> bytes:
    """A sound frame around a payload that may be no JSON."""
    return encode({":event-type": "contentBlockDelta", ":message-type": "event"}, payload)


def _big_words(size: int) -> tuple[str, ...]:
    """Words that make `size` bytes of text with the spaces between them."""
    full, rest = divmod(size, _BIG_PIECE)
    last = ("x" * max(1, rest - 1),) if rest else ()
    return ("x" * (_BIG_PIECE - 1),) * full + last


def _big_events(events: list[Event], text: str, size: int) -> list[Event]:
    """The first word's event with more text in it, as often as it takes; the last one is shorter."""
    at = next((i for i, event in enumerate(events) if event.kind == "word"), None)
    if at is None:
        return events
    first = events[at].data
    word = text.encode()
    full, rest = divmod(size, _BIG_PIECE)
    big = Event("word", first.replace(word, b"x" * _BIG_PIECE))
    last = [Event("word", first.replace(word, b"x" * rest))] if rest else []
    return [*events[:at], *[big] * full, *last, *(event for event in events[at:] if event.kind != "word")]


def _line_ends(fault: Fault, steps: list[Step]) -> list[Step]:
    """The same steps with the line ends that were asked for; JSON holds no raw line end, so every LF is one."""
    if fault.line_end in (None, "lf"):
        return steps
    mark = b"\r\n" if fault.line_end == "crlf" else b"\r"

    def turned(step: Step) -> Step:
        if isinstance(step, Send):
            return replace(step, data=step.data.replace(b"\n", mark))
        if isinstance(step, Wait):
            return replace(step, pieces=tuple(piece.replace(b"\n", mark) for piece in step.pieces))
        return step

    return [turned(step) for step in steps]


def _end_of_word(body: bytes, say: Say, count: int) -> int:
    """Where the first `count` words end in a body; in one that does not hold them, that share of its length."""
    text = " ".join(say.words[:count]).encode()
    at = body.find(text) if text else -1
    return at + len(text) if at >= 0 else len(body) * min(count, len(WORDS)) // len(WORDS)
