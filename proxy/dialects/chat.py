"""The canonical form of a conversation: what every dialect is read into and written from.

One request is read once, from the caller's original body, and written once for each target that speaks another
dialect; so N dialects need N readers and N writers, not N x N, and no translation ever starts from a translation. The
form is the union of what the dialects can say, not what they share: what one of them alone can say is kept as `Opaque`
or stated as a `Need`, so that a writer can map it, approximate it, drop it with a warning, or refuse (`providers.md`
2.0).

Everything here is a value. JSON inside values (schemas, opaque blocks) belongs to the caller's parsed body: read it,
never change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from proxy.dialects.facts import Json as Json
from proxy.dialects.facts import ModelFacts as ModelFacts


class NotPortable(Exception):
    """The target cannot take this request without changing what it means; the target is left out.

    `reason` is one short word for ``X-Failover-Skipped`` (``n``, ``logprobs``, ``state``, ``server_tools``, ``vision``,
    ``documents``, ``audio``, ``prefill``, ``stop``, ``schema``, ``tools``, ``file_id`` ...); `detail` a sentence that
    names the field, ASCII, without anything of the prompt in it.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


class Malformed(Exception):
    """The caller's body cannot be read as a request of its dialect. `path` names the field (``messages.3.content``)."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


# Parts of a turn ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    text: str
    cache: str = ""
    """Prompt-cache mark behind this part: ``5m`` or ``1h`` (Anthropic's and Bedrock's); empty: none."""
    annotations: tuple[Json, ...] = ()
    """Citations in OpenAI's chat form (``{"type": "url_citation", ...}``); only in answers."""
    signature: str = ""
    """Gemini's thought signature on a text part, base64; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Exactly one of `data` (base64), `url`, `file_id` is not empty."""

    data: str = ""
    media_type: str = ""
    """``image/png``; always there with `data`, already normalised (``image/jpg`` is ``image/jpeg``)."""
    url: str = ""
    """http(s) or gs:// address; a data: URL is taken apart into `data` and `media_type` by the reader."""
    file_id: str = ""
    """A file that lives at the caller's provider."""
    detail: str = ""
    cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A PDF or other file. Exactly one of `data` (base64), `url`, `file_id`, `text` is not empty."""

    data: str = ""
    media_type: str = ""
    url: str = ""
    file_id: str = ""
    text: str = ""
    name: str = ""
    context: str = ""
    cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Audio or video. Exactly one of `data` (base64) and `url` is not empty."""

    kind: Literal["audio", "video"]
    data: str = ""
    url: str = ""
    media_type: str = ""
    """``audio/wav``, ``audio/mp3``, ``video/mp4``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for a tool of the caller's."""

    id: str
    """Empty where the dialect gives none (Gemini before 3): the reader of an answer leaves it empty and
    `translation` gives one."""
    name: str
    arguments: str
    """JSON text exactly as sent, or compact JSON where the dialect sends an object; empty counts as ``{}``. For a
    `custom` call: plain text."""
    custom: bool = False
    signature: str = ""
    """Gemini's thought signature for this call, base64; empty: none."""
    cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What the caller's tool answered."""

    call_id: str
    name: str = ""
    """Name of the tool where the dialect tells it (Gemini); empty: look it up from the call."""
    parts: tuple[Text | Image | Document, ...] = ()
    value: Any = None
    """The result as a JSON value where the dialect carries one (Gemini's ``response``, Converse's ``json``); then
    `parts` is empty. None: in `parts`."""
    is_error: bool = False
    custom: bool = False
    cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Reasoning that the model has shown. `signature` or `redacted` make it replayable at `origin` and nowhere else."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    """Encrypted reasoning without text (Anthropic ``redacted_thinking.data``, Converse ``redactedContent``, Responses
    ``encrypted_content``)."""
    origin: str = ""
    """Who signed it: ``anthropic``, ``gemini``, ``openai``; empty: nobody (plain text)."""
    id: str = ""
    """Item id (Responses); empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The model declines, in words of its own; in an answer or in the history."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A block that only its own dialect understands (server tools, their results, containers ...)."""

    dialect: str
    kind: str
    """Its type in that dialect: ``server_tool_use``, ``web_search_call``."""
    raw: Json


Part = Text | Image | Document | Media | ToolCall | ToolResult | Thinking | Refusal | Opaque


class Role(StrEnum):
    SYSTEM = "system"
    """Also OpenAI's ``developer``."""
    USER = "user"
    """Also what tools answered: a `ToolResult` stands in a user turn."""
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message, in the caller's order. Readers keep turns as they came (neighbours of one role are not merged,
    empty parts are not dropped): each writer applies the rules of its own dialect."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""
    """OpenAI's participant name; empty: none."""
    developer: bool = False
    """A system turn that was called ``developer``."""


# The request ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool of the caller's own."""

    name: str
    description: str = ""
    parameters: Json | None = None
    """JSON Schema; None: not given (no parameters)."""
    strict: bool | None = None
    custom: Json | None = None
    """Set for OpenAI's custom tool (free text in): its ``format`` object, empty for plain text; a grammar is a `Need`
    as well."""
    cache: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which tools the model may or must call."""

    mode: Literal["auto", "required", "none", "named"]
    name: str = ""
    """The tool of mode `named`."""
    allowed: tuple[str, ...] = ()
    """Only these tools may be called (``allowed_tools``); empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Structured output."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    schema: Json | None = None
    strict: bool | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """What was asked of the model's reasoning; all None: only that it was mentioned."""

    effort: str | None = None
    """``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh``, ``max``."""
    budget: int | None = None
    """Tokens; 0: off, -1: as the model likes (Gemini)."""
    mode: Literal["enabled", "disabled", "adaptive"] | None = None
    shown: bool | None = None
    """Whether the caller wants to see it (summary, includeThoughts, display)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something in the request that no other dialect can honour; a writer refuses (`NotPortable`) unless it can."""

    reason: str
    """The word for `NotPortable.reason`."""
    where: str
    """The field, as the caller wrote it: ``logprobs``, ``tools.0.type=web_search``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request in canonical form. None means: not stated; the target's own default holds."""

    dialect: str
    """Where it was read from: ``chat``, ``responses``, ``messages``, ``gemini``, ``converse``."""
    model: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    parallel: bool | None = None
    """False: at most one tool call in the answer."""
    limit: int | None = None
    """Most tokens of the answer."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    format: Format | None = None
    reasoning: Reasoning | None = None
    verbosity: str = ""
    user: str = ""
    """Opaque id of the end user (``safety_identifier``, ``user``, ``metadata.user_id``)."""
    metadata: Json | None = None
    service_tier: str = ""
    cache_key: str = ""
    stream: bool = False
    include_usage: bool = False
    """A streaming chat caller wants the usage chunk; other dialects always tell usage."""
    needs: tuple[Need, ...] = ()
    hints: tuple[str, ...] = ()
    """Fields of the caller's dialect that have no place in this form and may be left out without making the answer
    wrong (``store``, ``logit_bias``, ``safety_settings``): every writer of another dialect warns ``field=dropped``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Top-level members that the reader did not know, as they came; a writer of the same dialect keeps them, others
    warn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request written for a target."""

    body: dict[str, Any]
    """The JSON body, built anew; shares nothing mutable that the writer changed."""
    warnings: tuple[str, ...] = ()
    """``field=what``: ``temperature=dropped``, ``reasoning_effort=approximated``; field as the *caller* wrote it."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Tool name as sent -> as the caller wrote it; only those that differ."""
    format_tool: str = ""
    """Name of a synthetic tool whose call is the JSON answer (structured output without native support)."""
    betas: tuple[str, ...] = ()
    """``anthropic-beta`` values that the body needs."""


# The answer -----------------------------------------------------------------------------------------------------------


class Finish(StrEnum):
    """Why the model stopped (`providers.md` 2.6)."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    CONTEXT = "context"
    """The context window is full; chat: ``length``."""
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    """Refusal, safety block, guardrail."""
    PAUSE = "pause"
    """Anthropic's ``pause_turn``; Gemini's ``CONTINUATION``."""
    MALFORMED = "malformed"
    """The model produced something unusable (Gemini ``MALFORMED_FUNCTION_CALL``, Bedrock ``malformed_*``): before any
    output a failure of the target."""
    UNKNOWN = "unknown"
    """A word nobody knows; told as a plain stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens in the normal form of `providers.md` 2.7; prompt = `input` + `cache_read` + `cache_write`."""

    input: int = 0
    """Prompt tokens outside any cache."""
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    """All output tokens, reasoning included."""
    reasoning: int | None = None
    """None: not reported."""
    raw: Json | None = None
    """The provider's usage object as it came, for details that have no place here."""

    @property
    def prompt(self) -> int:
        return self.input + self.cache_read + self.cache_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    id: str = ""
    model: str = ""
    """As the provider named it; empty: it did not (Bedrock)."""
    created: int | None = None
    """Unix seconds; None: not told."""
    parts: tuple[Part, ...] = ()
    """Text, Thinking, ToolCall, Refusal, Opaque, in the order of the answer. Text keeps its blocks apart."""
    finish: Finish = Finish.STOP
    """TOOL_CALLS whenever a tool of the caller's is called and nothing worse ended the answer."""
    stop_sequence: str | None = None
    usage: Usage | None = None
    service_tier: str = ""


# Events of a streamed answer ------------------------------------------------------------------------------------------
# Made per event on a warm path, so plain slots and no `frozen` (its __init__ costs three times as much). Nobody changes
# them.


@dataclass(slots=True)
class Begin:
    """The first event (but for Ping and Fault); exactly one."""

    id: str = ""
    model: str = ""
    created: int | None = None
    usage: Usage | None = None
    service_tier: str = ""


@dataclass(slots=True)
class TextDelta:
    text: str
    """Never empty."""
    block: int = 0
    """Changes when the provider begins another text block."""


@dataclass(slots=True)
class RefusalDelta:
    text: str


@dataclass(slots=True)
class ThinkingDelta:
    text: str
    block: int = 0


@dataclass(slots=True)
class ThinkingEnd:
    """A reasoning block is over; what makes it replayable, where the dialect tells (as in `Thinking`)."""

    signature: str = ""
    redacted: str = ""
    origin: str = ""
    id: str = ""


@dataclass(slots=True)
class ToolBegin:
    """A call of the caller's tool begins. `index` counts such calls over the whole stream: 0, 1, 2 ... Emitted once per
    call, when its name is known; calls may be open side by side (OpenAI)."""

    index: int
    id: str
    name: str
    custom: bool = False
    signature: str = ""


@dataclass(slots=True)
class ToolDelta:
    """A fragment of the arguments of call `index`; never empty. All fragments joined are the arguments' JSON text."""

    index: int
    text: str


@dataclass(slots=True)
class ToolEnd:
    """Call `index` is complete. A reader that is not told emits it for each open call before `Stopped`."""

    index: int


@dataclass(slots=True)
class Annotated:
    """A citation of the text so far, in OpenAI's chat form."""

    annotation: Json


@dataclass(slots=True)
class OpaqueBlock:
    """A whole block that only its own dialect understands."""

    dialect: str
    kind: str
    raw: Json


@dataclass(slots=True)
class Stopped:
    """Why the model stopped; at most one. Usage may still follow. Its absence at the end means: interrupted."""

    finish: Finish
    stop_sequence: str | None = None
    explanation: str = ""
    """Words of the provider about a refusal; empty: none."""


@dataclass(slots=True)
class Used:
    """Usage so far; the latest one counts (readers merge partial reports)."""

    usage: Usage


@dataclass(slots=True)
class Ping:
    """A sign of life without content."""


@dataclass(slots=True)
class Fault:
    """An error inside the stream; nothing follows. `error` is the provider's error object (for Bedrock
    ``{"__type": exception name, "message": ...}``), as `classify_error_object` takes it."""

    error: Json


@dataclass(slots=True)
class Ended:
    """The stream's own end marker (``[DONE]``, ``message_stop``, ``response.completed`` ...); nothing follows."""


Event = (
    Begin
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ThinkingEnd
    | ToolBegin
    | ToolDelta
    | ToolEnd
    | Annotated
    | OpaqueBlock
    | Stopped
    | Used
    | Ping
    | Fault
    | Ended
)


# What each dialect offers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the writer of an answer must know of the request it answers."""

    body: Json
    """The caller's own body, for echoes (Responses repeats the request's settings)."""
    created: int
    """Unix seconds for answers that carry a time and whose provider told none."""
    seed: str
    """At least 24 hex digits, different for every request: ids that the dialect demands and the provider did not give
    are made of it (``msg_<seed>``, ``call_<seed[:22]><n>``)."""
    model: str = ""
    """The target's model, where the answer names none."""
    include_usage: bool = True
    shows_thinking: bool = True
    """False: leave reasoning out where the caller's dialect would have to replay it and could not."""


class StreamReader(Protocol):
    """Turns the bytes of one streamed answer into events, whatever the sizes of the pieces."""

    dropped: int
    """Events left out because they were no events of the dialect (not JSON, not an object)."""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes, in order. After a `Fault` or `Ended` it returns nothing more."""

    def close(self) -> list[Event]:
        """The connection has ended by its framing: what the rest of the buffer says (a bare error, a last event without
        its blank line), and `Ended` when the dialect's end is the end of the connection and a `Stopped` has come."""


class StreamWriter(Protocol):
    """Turns events into bytes of the caller's dialect: whole events only."""

    def feed(self, event: Event) -> bytes:
        """Bytes for one event; may be empty (held back: a finish reason waits for the usage). Not for Ended, Fault."""

    def end(self) -> bytes:
        """The proper end: what was held back, the usage, the end marker. Only after a `Stopped`."""

    def fail(self, error: Json) -> bytes:
        """The honest end of an interrupted stream: one error event, no success marker (`providers.md` 8.3). `error` has
        ``message``, ``type`` and ``code``, already in the words of the caller's dialect."""


def events_of(answer: Answer) -> Iterator[Event]:
    """A whole answer as the events of a stream, `Ended` included."""
    yield Begin(answer.id, answer.model, answer.created, answer.usage, answer.service_tier)
    calls = 0
    for block, part in enumerate(answer.parts):
        if isinstance(part, Text):
            if part.text:
                yield TextDelta(part.text, block)
            for annotation in part.annotations:
                yield Annotated(annotation)
        elif isinstance(part, Thinking):
            if part.text:
                yield ThinkingDelta(part.text, block)
            yield ThinkingEnd(part.signature, part.redacted, part.origin, part.id)
        elif isinstance(part, Refusal):
            if part.text:
                yield RefusalDelta(part.text)
        elif isinstance(part, ToolCall):
            yield ToolBegin(calls, part.id, part.name, part.custom, part.signature)
            if part.arguments:
                yield ToolDelta(calls, part.arguments)
            yield ToolEnd(calls)
            calls += 1
        elif isinstance(part, Opaque):
            yield OpaqueBlock(part.dialect, part.kind, part.raw)
    yield Stopped(answer.finish, answer.stop_sequence)
    if answer.usage is not None:
        yield Used(answer.usage)
    yield Ended()
