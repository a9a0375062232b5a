"""Translation as a property: whatever is said arrives, in every pair of dialects, in any pieces.

Conversations, answers and streams are generated in canonical form, written in one dialect, read, written in another
and read again. What must be the same at the end is the meaning: who said what, which tools there are, which were called
with what and what they answered, how long the answer may be, why it ended and what it cost.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import (
    Answer,
    Asked,
    Begin,
    Choice,
    Ended,
    Event,
    Finish,
    Request,
    Role,
    Stopped,
    Text,
    TextDelta,
    Tool,
    ToolBegin,
    ToolCall,
    ToolDelta,
    ToolResult,
    Turn,
    Usage,
    Used,
)
from proxy.dialects.models import facts
from proxy.dialects.registry import speaker
from proxy.dialects.translation import Assembler

APIS = ("chat", "responses", "messages", "generate", "converse")
PAIRS = [(one, other) for one in APIS for other in APIS if one != other]
FACTS = {
    "chat": facts("gpt-4o", "openai", "openai", {}, None),
    "responses": facts("gpt-4o", "openai", "openai", {}, None),
    "messages": facts("claude-sonnet-4-5", "anthropic", "", {}, None),
    "generate": facts("gemini-3-pro", "gemini", "", {}, None),
    "converse": facts("us.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock", "", {}, None),
}
ASKED = Asked(body={"model": "m", "messages": []}, created=1, seed="0123456789abcdef" * 2, model="m")

# Letters of several scripts, marks of JSON and SSE, half of what breaks naive parsers; never only white space.
WORDS = st.text(st.sampled_from("abcdeXYZ éß語🙂\u2028\"\\{}[]:,.<>&'\n"), min_size=1, max_size=40).map(
    lambda text: f"w{text.strip()}w"
)
NAMES = st.text(st.sampled_from("abcxyz_01"), min_size=1, max_size=12).map(lambda name: f"t{name}")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A conversation that every dialect can hold."""
    names = draw(st.lists(NAMES, min_size=0, max_size=3, unique=True))
    turns: list[Turn] = []
    if draw(st.booleans()):
        turns.append(Turn(role=Role.SYSTEM, parts=(Text(text=draw(WORDS)),)))
    turns.append(Turn(role=Role.USER, parts=(Text(text=draw(WORDS)),)))
    count = 0
    for _ in range(draw(st.integers(0, 3))):
        calls = []
        for _ in range(draw(st.integers(0, 3)) if names else 0):
            name, arguments = draw(st.sampled_from(names)), draw(ARGUMENTS)
            calls.append(ToolCall(id=f"call_{count}", name=name, arguments=orjson.dumps(arguments).decode()))
            count += 1
        said = (Text(text=draw(WORDS)),) if not calls or draw(st.booleans()) else ()
        turns.append(Turn(role=Role.ASSISTANT, parts=(*said, *calls)))
        if calls:
            results = tuple(ToolResult(call_id=call.id, parts=(Text(text=draw(WORDS)),)) for call in calls)
            turns.append(Turn(role=Role.USER, parts=results))
        if not calls or draw(st.booleans()):
            turns.append(Turn(role=Role.USER, parts=(Text(text=draw(WORDS)),)))
    tools = tuple(Tool(name=name, description=draw(WORDS), parameters=SCHEMA) for name in names)
    modes = st.sampled_from([None, "auto", "required"])
    mode = draw(modes) if tools else None
    return Request(
        dialect="canonical",
        model="m",
        turns=tuple(turns),
        tools=tools,
        choice=None if mode is None else Choice(mode=mode),
        limit=draw(st.none() | st.integers(16, 4000)),
        temperature=draw(st.none() | st.sampled_from([0, 0.5, 1])),
    )


def meaning(request: Request) -> dict[str, Any]:
    """What a request says, without how its dialect groups it."""
    told: list[tuple[str, str, Any]] = []
    for turn in request.turns:
        for part in turn.parts:
            if isinstance(part, Text):
                if part.text:
                    told.append((turn.role.value, "text", part.text))
            elif isinstance(part, ToolCall):
                told.append(("assistant", "call", (part.name, orjson.loads(part.arguments or "{}"))))
            elif isinstance(part, ToolResult):
                told.append(("user", "result", result_of(part)))
    return {
        "told": told,
        "tools": [(tool.name, tool.description) for tool in request.tools],
        "choice": None if request.choice is None or request.choice.mode == "auto" else request.choice.mode,
        "limit": request.limit,
        "temperature": request.temperature,
    }


def result_of(part: ToolResult) -> str:
    """The text of a result; Gemini's and Converse's stand in an object."""
    if part.value is not None:
        value = part.value.get("output", part.value) if isinstance(part.value, dict) else part.value
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    text = "".join(each.text for each in part.parts if isinstance(each, Text))
    if text.startswith('{"output":'):
        return str(orjson.loads(text)["output"])
    return text


def there(api: str, request: Request) -> Request:
    """Written in a dialect, sent as bytes, and read."""
    body = speaker(api).write_request(request, FACTS[api]).body
    return speaker(api).read_request(orjson.loads(orjson.dumps(body)))


@pytest.mark.parametrize(("one", "other"), PAIRS)
@given(request_=requests())
def test_what_is_asked_arrives_by_way_of_two_dialects(one: str, other: str, request_: Request) -> None:
    expected = meaning(request_)
    arrived = meaning(there(other, there(one, request_)))
    if request_.limit is None and {"messages"} & {one, other}:
        arrived["limit"] = None  # Anthropic demands a limit
    assert arrived == expected


# Answers and streams --------------------------------------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer of text, calls or both."""
    count = draw(st.integers(0, 3))
    calls = tuple(
        ToolCall(id=f"call_{i}", name=draw(NAMES), arguments=orjson.dumps(draw(ARGUMENTS)).decode())
        for i in range(count)
    )
    text = (Text(text=draw(WORDS)),) if not calls or draw(st.booleans()) else ()
    ends = [Finish.TOOL_CALLS] if calls else [Finish.STOP, Finish.LENGTH]
    reasoning = draw(st.integers(0, 40))
    return Answer(
        id="x_1",
        model="m",
        created=1,
        parts=(*text, *calls),
        finish=draw(st.sampled_from(ends)),
        usage=Usage(input=draw(st.integers(1, 99)), output=reasoning + draw(st.integers(1, 99)), reasoning=reasoning),
    )


def gist(answer: Answer) -> dict[str, Any]:
    """What an answer says."""
    return {
        "text": "".join(part.text for part in answer.parts if isinstance(part, Text)),
        "calls": [
            (part.name, orjson.loads(part.arguments or "{}")) for part in answer.parts if isinstance(part, ToolCall)
        ],
        "finish": answer.finish,
        "tokens": None if answer.usage is None else (answer.usage.prompt, answer.usage.output),
    }


@pytest.mark.parametrize(("one", "other"), PAIRS)
@given(answer=answers())
def test_what_is_answered_arrives_by_way_of_two_dialects(one: str, other: str, answer: Answer) -> None:
    first = speaker(one).read_answer(orjson.loads(orjson.dumps(speaker(one).write_answer(answer, ASKED))))
    second = speaker(other).read_answer(orjson.loads(orjson.dumps(speaker(other).write_answer(first, ASKED))))
    assert gist(second) == gist(answer)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """The events of an answer, its words and arguments in pieces."""
    answer = draw(answers())
    events: list[Event] = [Begin("x_1", "m", 1)]
    calls = 0
    for part in answer.parts:
        if isinstance(part, Text):
            events += [TextDelta(piece) for piece in pieces(draw, part.text)]
        elif isinstance(part, ToolCall):
            events.append(ToolBegin(calls, part.id, part.name))
            events += [ToolDelta(calls, piece) for piece in pieces(draw, part.arguments)]
            calls += 1
    events.append(Stopped(answer.finish))
    if answer.usage is not None:
        events.append(Used(answer.usage))
    return events


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """A text cut at a few places; no piece is empty."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
    return [piece for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if (piece := text[start:end])]


def sent(api: str, events: list[Event]) -> bytes:
    """The bytes of a stream in a dialect."""
    writer = speaker(api).stream_writer(ASKED)
    return b"".join(writer.feed(event) for event in events) + writer.end()


def heard(api: str, raw: bytes, sizes: list[int]) -> list[Event]:
    """What a reader makes of a stream that comes in pieces of these sizes, over and over."""
    reader, out, at, i = speaker(api).stream_reader(), [], 0, 0
    while at < len(raw):
        size = sizes[i % len(sizes)]
        out += reader.feed(raw[at : at + size])
        at, i = at + size, i + 1
    return out + reader.close()


def told(events: list[Event]) -> dict[str, Any]:
    """The gist of a stream."""
    assembler = Assembler()
    for event in events:
        if type(event) is not Ended:
            assembler.take(event)
    return gist(assembler.answer())


@pytest.mark.parametrize("api", APIS)
@given(events=streams(), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_any_pieces_of_a_stream_give_the_same_events(api: str, events: list[Event], sizes: list[int]) -> None:
    raw = sent(api, events)
    whole = heard(api, raw, [len(raw)])
    assert heard(api, raw, sizes) == whole
    assert heard(api, raw, [1]) == whole
    assert told(whole) == told(events)
    assert type(whole[-1]) is Ended


@pytest.mark.parametrize(("one", "other"), PAIRS)
@given(events=streams())
def test_a_stream_keeps_its_meaning_by_way_of_two_dialects(one: str, other: str, events: list[Event]) -> None:
    first = [event for event in heard(one, sent(one, events), [17]) if type(event) is not Ended]
    assert told(heard(other, sent(other, first), [23])) == told(events)


@pytest.mark.parametrize("api", APIS)
@given(events=streams(), at=st.integers(0, 10_000))
def test_a_cut_stream_never_looks_complete(api: str, events: list[Event], at: int) -> None:
    raw = sent(api, events)
    cut = heard(api, raw[: at % len(raw)], [29])
    kinds = {type(event) for event in cut}
    if Ended in kinds:
        assert Stopped in kinds
    if Stopped in kinds:
        assert told(cut)["text"] == told(events)["text"]
        assert told(cut)["calls"] == told(events)["calls"]
