"""The fault vocabulary: what a fake provider does to one attempt, and what it remembers of it.

A `Fault` is a flat bag of independent keys that combine: ``{"stall_after_words": 20, "stall_s": 30,
"cut_after_words": 20}`` is a stream that says 20 words, is silent for 30 s and then dies. They act in the order of the
wire: who is meant, the request, the head, the body, the end. A key that is absent does nothing. The same names serve
the constructor and the JSON of ``POST /_demo/fault``; both are checked by the same table, so a typing mistake is an
error and never a healthy answer. ``_s`` is seconds, a number >= 0 or ``"forever"`` (in Python ``math.inf``).

Who is meant (a fault that does not match an attempt leaves it healthy and is not used up):

=================== ============ =======================================================================================
key                 value        meaning
=================== ============ =======================================================================================
times               1 ...        so many attempts; absent: one in a script, all as the standing fault
for_s               seconds      only for this long after it was set (an outage)
flap_s              seconds      on for so long, off for so long, and so on
one_in              1 ...        only every n-th attempt of this provider
only_model          text         only requests for this model
only_key            text         only requests whose credential header contains this
only_body_over      bytes        only requests with a larger body
only_prefill        true         only requests whose last message is the assistant's
=================== ============ =======================================================================================

The request:

=================== ============ =======================================================================================
read_bytes_per_s    1 ...        read the body no faster
drop_reused         close, reset end the connection, unanswered, when a request comes on a kept-alive one
early_answer        true         answer as soon as the head is read, close our half, read and ignore the rest
silence_s           seconds      not a byte for so long after the request, then go on
reset               true         TCP reset without an answer
close               true         orderly close without an answer
=================== ============ =======================================================================================

The head:

=================== ============ =======================================================================================
status              100 ... 999  answer with this status and a fitting error body of the dialect
error               a name       error of this kind: `ERROR_KINDS`; its own status unless `status` says otherwise
code, message       text         instead of the error's own code (in Gemini: its status word) and message
headers             object       response headers added, or put in the place of the standard ones; a list of texts
                                 sends the name so many times, an empty list leaves it out
retry_hint_s        seconds      the error tells how long to wait, in the provider's own way: headers at OpenAI, Azure
                                 and Anthropic, RetryInfo at Gemini; Bedrock does not tell
retry_after_date_s  number       Retry-After as an HTTP date so far ahead (< 0: behind) of our own Date header
date_skew_s         number       our Date header runs so far ahead (< 0: behind)
spoof               true         headers of outrider's own namespace, with false values
early_hints         1 ... 100    so many 103 answers first
status_line         text         in the place of ``HTTP/1.1 200 OK``
raw_head            text         put into the head as it is (Latin-1; no line end is added)
raw                 text         the whole answer, head and all, as it is (Latin-1); the connection is closed after it
=================== ============ =======================================================================================

The body:

=================== ============ =======================================================================================
body                text         this body; JSON is labelled as JSON, anything else as plain text
html_bytes          1 ...        an HTML page of this size
answer              a name       text, refusal, tool_call, tool_calls (two at least), reasoning (shown, then text),
                                 length (only reasoning, then the limit): all legitimate
empty               a name       no_choices, null_content, done (straight to the end mark), zero_bytes, whitespace
text                text         say this in the place of the 60 words
from_word           1 ... 60     begin at this word
big_body_bytes      1 ...        so many bytes of text in large events (or one large answer), at full speed
pause_s             seconds      between words, in the place of the provider's own pause
body_after_s        seconds      head at once, then nothing for so long
first_word_s        seconds      head and opening events at once, the first word so much later
preamble            names        events without content before the first word: comment, ping, role, empty, created
preamble_count      0 ...        so many of them; absent: as many as fit into first_word_s
preamble_every_s    seconds      between them
preamble_pad_bytes  0 ...        each is so much larger
error_after_words   0 ... 60     an error event inside the 200 (kind: `error`, else overloaded); 0: the first event;
                                 an answer in one piece is a 200 with that error as its body
bare_error          true         that error as bare JSON, not as an event
stall_after_words   0 ... 60     silence after so many words, then go on
stall_s             seconds      for so long; absent: forever
stall_ping_s        seconds      a ping so often while stalled
cut_after_words     0 ... 60     the body ends after so many words, in the way of `cut`
cut_after_bytes     0 ...        the same, counted in bytes of the body before compression and framing
cut                 a name       close (FIN, no last chunk; default), reset, mid_char (close inside a multibyte
                                 character of the next word), end (a correct HTTP end, no finish reason, no end mark)
malformed_at_word   1 ... 60     a broken event before this word
malformed           text         its data; absent: cut-off JSON
big_event_bytes     1 ...        the tenth word's event carries so much padding
u2028               true         a raw U+2028 after every tenth word
cached_tokens       1 ...        so many tokens of the prompt came from a cache
no_usage            true         no usage
no_finish           true         no finish reason
no_done             true         no end mark ([DONE], message_stop, response.completed)
hold_open_s         seconds      connection left open so long after the last event, before the end of the body
split_bytes         1 ...        written in pieces of so many bytes, each a chunk of its own
split_pause_s       seconds      between those pieces
line_end            a name       lf, crlf, cr: line ends of events
=================== ============ =======================================================================================

Framing and the end:

=================== ============ =======================================================================================
framing             a name       length, chunked, close (until the connection ends), both (length and chunked)
length_off          number       Content-Length is so much too large (then the connection is closed) or too small (< 0)
two_lengths         true         two Content-Length headers that differ
no_last_chunk       true         chunked without the last chunk, then closed
encoding            a name       gzip (streams: flushed per word), br (nobody asked for it, not decodable),
                                 lie (labelled gzip, is not)
damage_after_words  0 ... 60     gzip that turns to rubbish after so many words
bomb_bytes          1 ...        a small gzip that expands to so many bytes of JSON white space and then the answer
after_end           text         bytes after the end of the answer (Latin-1)
connection_close    true         announce ``Connection: close`` and do it
close_idle_s        seconds      close the kept-alive connection unannounced so long after the answer
=================== ============ =======================================================================================
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal

from proxy.demo.attempt import BODY_KEPT_MAX, Attempt
from proxy.demo.steps import Cut, Damage, End, Send, Step, Wait, say_of, stream_steps, unary_steps

__all__ = [
    "ANSWERS",
    "BODY_KEPT_MAX",
    "BYTES_MAX",
    "CUTS",
    "EMPTIES",
    "ENCODINGS",
    "ERROR_KINDS",
    "FRAMINGS",
    "KEYS",
    "LINE_ENDS",
    "PREAMBLES",
    "SECONDS_MAX",
    "SPOOFED",
    "WORD_MAX",
    "Attempt",
    "Cut",
    "Damage",
    "End",
    "Fault",
    "FaultError",
    "Send",
    "Step",
    "Wait",
    "headers",
    "say_of",
    "script_from_json",
    "stream_steps",
    "type_of_key",
    "unary_steps",
]

ERROR_KINDS: Final = (
    "overloaded",
    "internal",
    "rate_limit",
    "quota",
    "auth",
    "permission",
    "model_not_found",
    "context_length",
    "content_policy",
    "invalid_request",
    "timeout",
)
ANSWERS: Final = ("text", "refusal", "tool_call", "tool_calls", "reasoning", "length")
EMPTIES: Final = ("no_choices", "null_content", "done", "zero_bytes", "whitespace")
PREAMBLES: Final = ("comment", "ping", "role", "empty", "created")
CUTS: Final = ("close", "reset", "mid_char", "end")
FRAMINGS: Final = ("length", "chunked", "close", "both")
ENCODINGS: Final = ("gzip", "br", "lie")
LINE_ENDS: Final = ("lf", "crlf", "cr")

SPOOFED: Final = (
    ("X-Served-By", "spoof/spoof"),
    ("X-Served-Model", "spoof"),
    ("X-Served-Region", "spoof"),
    ("X-Attempts", "99"),
    ("X-Retry-Count", "99"),
    ("X-Retry-After", "99999"),
    ("X-Route", "spoof"),
    ("X-Cache", "HIT"),
    ("X-Circuit-Status", "spoof"),
    ("X-Failover", "spoof"),
    ("X-Failover-Reason", "spoof"),
    ("X-Failover-Trace", "[]"),
    ("X-Failover-Skipped", "spoof"),
    ("X-Hedge-Launched", "spoof"),
    ("X-Hedge-Winner", "spoof"),
    ("X-Hedge-Latency-Saved", "99999"),
    ("X-Degraded-Mode", "spoof"),
    ("X-Degradation-Reason", "spoof"),
    ("X-Quality-Score", "0"),
    ("X-User-Notification", "spoof"),
    ("X-Policy-Clamped", "spoof"),
    ("X-Translation-Warnings", "spoof"),
    ("X-Outrider-Request-Id", "spoof"),
)
"""Response headers that belong to the proxy (`lessons.md` L24); an upstream that sends them lies."""

WORD_MAX: Final = 60
BYTES_MAX: Final = 4 << 30
SECONDS_MAX: Final = 86_400.0

type_of_key = Literal["flag", "int", "number", "seconds", "text", "name", "names", "headers"]


class FaultError(ValueError):
    """A fault that cannot be meant; the text names every problem, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What one key takes."""

    kind: type_of_key
    low: int = 0
    high: int = BYTES_MAX
    names: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """Return what is wrong with `value`, in words that follow the key's name; None when it is fine."""
        match self.kind:
            case "flag":
                return None if isinstance(value, bool) else "must be true or false"
            case "int":
                good = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
                return None if good else f"must be a whole number from {self.low} to {self.high}"
            case "number":
                good = _is_number(value) and abs(float(value)) <= BYTES_MAX  # type: ignore[arg-type]
                return None if good else "must be a finite number"
            case "seconds":
                good = _is_number(value) and (float(value) == math.inf or 0 <= float(value) <= SECONDS_MAX)  # type: ignore[arg-type]
                return None if good else f'must be seconds from 0 to {SECONDS_MAX:.0f}, or "forever"'
            case "text":
                return None if isinstance(value, str) else "must be a text"
            case "name":
                return None if value in self.names else f"must be one of {', '.join(self.names)}"
            case "names":
                good = isinstance(value, tuple) and all(name in self.names for name in value)
                return None if good else f"must be a list out of {', '.join(self.names)}"
            case "headers":
                return None if _are_pairs(value) else "must be an object of header names and texts (or lists of texts)"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= BYTES_MAX or value == math.inf  # false for NaN, and no overflow for a huge integer


def _are_pairs(value: object) -> bool:
    if not isinstance(value, tuple):
        return False
    return all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], tuple)
        and all(isinstance(text, str) for text in pair[1])
        for pair in value
    )  # fmt: skip


_FLAG: Final = _Key(kind="flag")
_SECONDS: Final = _Key(kind="seconds")
_NUMBER: Final = _Key(kind="number")
_TEXT: Final = _Key(kind="text")
_WORDS: Final = _Key(kind="int", high=WORD_MAX)
_WORD: Final = _Key(kind="int", low=1, high=WORD_MAX)
_BYTES: Final = _Key(kind="int", low=1)
_COUNT: Final = _Key(kind="int", low=1)
_FROM_0: Final = _Key(kind="int")

KEYS: Final[dict[str, _Key]] = {
    "times": _COUNT,
    "for_s": _SECONDS,
    "flap_s": _SECONDS,
    "one_in": _COUNT,
    "only_model": _TEXT,
    "only_key": _TEXT,
    "only_body_over": _FROM_0,
    "only_prefill": _FLAG,
    "read_bytes_per_s": _BYTES,
    "drop_reused": _Key(kind="name", names=("close", "reset")),
    "early_answer": _FLAG,
    "silence_s": _SECONDS,
    "reset": _FLAG,
    "close": _FLAG,
    "status": _Key(kind="int", low=100, high=999),
    "error": _Key(kind="name", names=ERROR_KINDS),
    "code": _TEXT,
    "message": _TEXT,
    "headers": _Key(kind="headers"),
    "retry_hint_s": _SECONDS,
    "retry_after_date_s": _NUMBER,
    "date_skew_s": _NUMBER,
    "spoof": _FLAG,
    "early_hints": _Key(kind="int", low=1, high=100),
    "status_line": _TEXT,
    "raw_head": _TEXT,
    "raw": _TEXT,
    "body": _TEXT,
    "html_bytes": _BYTES,
    "answer": _Key(kind="name", names=ANSWERS),
    "empty": _Key(kind="name", names=EMPTIES),
    "text": _TEXT,
    "from_word": _WORD,
    "big_body_bytes": _BYTES,
    "pause_s": _SECONDS,
    "body_after_s": _SECONDS,
    "first_word_s": _SECONDS,
    "preamble": _Key(kind="names", names=PREAMBLES),
    "preamble_count": _FROM_0,
    "preamble_every_s": _SECONDS,
    "preamble_pad_bytes": _FROM_0,
    "error_after_words": _WORDS,
    "bare_error": _FLAG,
    "stall_after_words": _WORDS,
    "stall_s": _SECONDS,
    "stall_ping_s": _SECONDS,
    "cut_after_words": _WORDS,
    "cut_after_bytes": _FROM_0,
    "cut": _Key(kind="name", names=CUTS),
    "malformed_at_word": _WORD,
    "malformed": _TEXT,
    "big_event_bytes": _BYTES,
    "u2028": _FLAG,
    "cached_tokens": _COUNT,
    "no_usage": _FLAG,
    "no_finish": _FLAG,
    "no_done": _FLAG,
    "hold_open_s": _SECONDS,
    "split_bytes": _BYTES,
    "split_pause_s": _SECONDS,
    "line_end": _Key(kind="name", names=LINE_ENDS),
    "framing": _Key(kind="name", names=FRAMINGS),
    "length_off": _NUMBER,
    "two_lengths": _FLAG,
    "no_last_chunk": _FLAG,
    "encoding": _Key(kind="name", names=ENCODINGS),
    "damage_after_words": _WORDS,
    "bomb_bytes": _BYTES,
    "after_end": _TEXT,
    "connection_close": _FLAG,
    "close_idle_s": _SECONDS,
}
"""Every key and what it takes; the table in this module's docstring says what it does."""

_NEEDS: Final = (
    ("stall_s", "stall_after_words"),
    ("stall_ping_s", "stall_after_words"),
    ("preamble_count", "preamble"),
    ("preamble_every_s", "preamble"),
    ("preamble_pad_bytes", "preamble"),
    ("bare_error", "error_after_words"),
    ("malformed", "malformed_at_word"),
    ("split_pause_s", "split_bytes"),
    ("damage_after_words", "encoding"),
    ("cut", "cut_after_words"),
)
"""A key that means nothing without its partner; `cut` is content with `cut_after_bytes` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to an attempt; every field is a row of the tables in this module's docstring.

    None or False: that fault is absent. ``Fault()`` is a healthy answer. Raises `FaultError` naming every problem.
    """

    times: int | None = None
    for_s: float | None = None
    flap_s: float | None = None
    one_in: int | None = None
    only_model: str | None = None
    only_key: str | None = None
    only_body_over: int | None = None
    only_prefill: bool = False
    read_bytes_per_s: int | None = None
    drop_reused: Literal["close", "reset"] | None = None
    early_answer: bool = False
    silence_s: float | None = None
    reset: bool = False
    close: bool = False
    status: int | None = None
    error: str | None = None
    code: str | None = None
    message: str | None = None
    headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    retry_hint_s: float | None = None
    retry_after_date_s: float | None = None
    date_skew_s: float | None = None
    spoof: bool = False
    early_hints: int | None = None
    status_line: str | None = None
    raw_head: str | None = None
    raw: str | None = None
    body: str | None = None
    html_bytes: int | None = None
    answer: Literal["text", "refusal", "tool_call", "tool_calls", "reasoning", "length"] | None = None
    empty: Literal["no_choices", "null_content", "done", "zero_bytes", "whitespace"] | None = None
    text: str | None = None
    from_word: int | None = None
    big_body_bytes: int | None = None
    pause_s: float | None = None
    body_after_s: float | None = None
    first_word_s: float | None = None
    preamble: tuple[str, ...] = ()
    preamble_count: int | None = None
    preamble_every_s: float | None = None
    preamble_pad_bytes: int | None = None
    error_after_words: int | None = None
    bare_error: bool = False
    stall_after_words: int | None = None
    stall_s: float | None = None
    stall_ping_s: float | None = None
    cut_after_words: int | None = None
    cut_after_bytes: int | None = None
    cut: Literal["close", "reset", "mid_char", "end"] | None = None
    malformed_at_word: int | None = None
    malformed: str | None = None
    big_event_bytes: int | None = None
    u2028: bool = False
    cached_tokens: int | None = None
    no_usage: bool = False
    no_finish: bool = False
    no_done: bool = False
    hold_open_s: float | None = None
    split_bytes: int | None = None
    split_pause_s: float | None = None
    line_end: Literal["lf", "crlf", "cr"] | None = None
    framing: Literal["length", "chunked", "close", "both"] | None = None
    length_off: float | None = None
    two_lengths: bool = False
    no_last_chunk: bool = False
    encoding: Literal["gzip", "br", "lie"] | None = None
    damage_after_words: int | None = None
    bomb_bytes: int | None = None
    after_end: str | None = None
    connection_close: bool = False
    close_idle_s: float | None = None

    def __post_init__(self) -> None:
        problems = [f"{key} {why}" for key, value in self._given() if (why := KEYS[key].problem(value))]
        given = {key for key, _ in self._given()}
        missing = [(key, other) for key, other in _NEEDS if key in given and other not in given]
        problems += [
            f"{key} needs {other}" for key, other in missing if not (key == "cut" and "cut_after_bytes" in given)
        ]
        if self.is_before_body and self.is_about_body:
            problems.append("read_bytes_per_s, drop_reused and early_answer act before the body that decides is known")
        if self.length_off is not None and self.length_off != int(self.length_off):
            problems.append("length_off must be a whole number of bytes")
        if problems:
            raise FaultError("; ".join(problems))

    def _given(self) -> list[tuple[str, object]]:
        pairs = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, value) for name, value in pairs if value is not None and value is not False and value != ()]

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """Build a fault from parsed JSON; raises `FaultError` naming every problem at once."""
        if not isinstance(value, Mapping):
            raise FaultError(f"a fault must be a JSON object, not {_json_name(value)}")
        problems = [_unknown(str(key)) for key in value if key not in KEYS]
        known = {str(key): _from_json(KEYS[key], item) for key, item in value.items() if key in KEYS}
        known = {key: item for key, item in known.items() if item is not None}
        problems += [f"{key} {why}" for key, item in known.items() if (why := KEYS[key].problem(item))]
        if problems:
            raise FaultError("; ".join(problems))
        return cls(**known)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """Return the keys that are set, as `from_json` takes them."""
        return {key: _to_json(value) for key, value in self._given()}

    @property
    def is_error(self) -> bool:
        """True when the whole answer is an error in the dialect's words."""
        if self.body is not None or self.html_bytes is not None or self.empty is not None:
            return False
        has_body = self.status is None or (self.status >= 200 and self.status not in (204, 304))
        is_kind = self.error is not None and self.error_after_words is None
        return has_body and (is_kind or (self.status is not None and not 200 <= self.status < 300))

    def is_on(self, age_s: float) -> bool:
        """True while the fault is due, `age_s` seconds after it was set; `flap_s` starts with "on"."""
        if self.for_s is not None and age_s >= self.for_s:
            return False
        return not self.flap_s or math.isinf(self.flap_s) or int(age_s // self.flap_s) % 2 == 0

    @property
    def is_before_body(self) -> bool:
        """True for a fault that must be known when only the head of the request has come."""
        return bool(self.early_answer or self.read_bytes_per_s or self.drop_reused)

    @property
    def is_about_body(self) -> bool:
        """True for a fault whose condition can only be judged when the body is known."""
        return self.only_model is not None or self.only_body_over is not None or self.only_prefill


def headers(values: Mapping[str, str | Iterable[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return a mapping in the form that `Fault.headers` takes: ``headers({"Retry-After": "2"})``."""
    return tuple((name, (v,) if isinstance(v, str) else tuple(v)) for name, v in values.items())


def script_from_json(value: object) -> list[Fault | None]:
    """Read a JSON list of faults, one per attempt; null and ``{}`` are healthy attempts. Raises `FaultError`."""
    if not isinstance(value, list):
        raise FaultError("a script must be a JSON list of faults")
    return [None if item is None else Fault.from_json(item) for item in value]


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, n=1)
    hint = f", did you mean {near[0]}?" if near else f"; the keys are {', '.join(KEYS)}"
    return f"there is no key {key!r}{hint}"


def _from_json(key: _Key, value: object) -> object:
    """Turn JSON's forms into ours; a value of the wrong type goes through and is refused by the check."""
    match key.kind:
        case "seconds" if value == "forever":
            return math.inf
        case "names" if isinstance(value, list):
            return tuple(value)
        case "names" if isinstance(value, str):
            return (value,)
        case "headers" if isinstance(value, dict):
            return tuple((k, tuple(v) if isinstance(v, list) else (v,)) for k, v in value.items())
        case _:
            return value


def _to_json(value: object) -> object:
    if value == math.inf:
        return "forever"
    if isinstance(value, tuple):
        return dict(value) if value and isinstance(value[0], tuple) else list(value)
    return value


def _json_name(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
