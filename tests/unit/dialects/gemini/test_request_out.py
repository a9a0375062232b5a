"""Canonical requests in Gemini's words: the pitfalls of `providers.md` 2.9, the rules of 1.6 and 2.3."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.chat import (
    Choice,
    Document,
    Format,
    Image,
    Media,
    ModelFacts,
    Need,
    NotPortable,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from proxy.dialects.gemini import write_request
from proxy.dialects.gemini.history import PLACEHOLDER
from proxy.dialects.gemini.models import generation

OLD = ModelFacts(model="gemini-2.5-flash", dialect="gemini", reasoning="budget")
NEW = ModelFacts(model="gemini-3-flash-preview", dialect="gemini", reasoning="level")
WEATHER = Tool(name="weather", description="d", parameters={"type": "object", "properties": {"at": {"type": "string"}}})


def user(*parts: Any) -> Turn:
    return Turn(role=Role.USER, parts=tuple(Text(text=each) if isinstance(each, str) else each for each in parts))


def model(*parts: Any) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=tuple(Text(text=each) if isinstance(each, str) else each for each in parts))


def system(text: str) -> Turn:
    return Turn(role=Role.SYSTEM, parts=(Text(text=text),))


def call(call_id: str, name: str = "weather", arguments: str = "{}", signature: str = "") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments, signature=signature)


def result(call_id: str, text: str = "ok", **more: Any) -> ToolResult:
    return ToolResult(call_id=call_id, parts=(Text(text=text),), **more)


def write(*turns: Turn, facts: ModelFacts = OLD, **fields: Any) -> dict[str, Any]:
    fields.setdefault("dialect", "chat")
    return write_request(Request(turns=turns, **fields), facts).body


def contents(*turns: Turn, facts: ModelFacts = OLD, **fields: Any) -> list[tuple[str, list[Any]]]:
    written = write(*turns, facts=facts, **fields)["contents"]
    assert all(content["parts"] for content in written)
    return [(content["role"], content["parts"]) for content in written]


def config(facts: ModelFacts = OLD, **fields: Any) -> dict[str, Any]:
    return write(user("hi"), facts=facts, **fields).get("generationConfig", {})


def warnings(facts: ModelFacts = OLD, **fields: Any) -> tuple[str, ...]:
    fields.setdefault("turns", (user("hi"),))
    fields.setdefault("dialect", "chat")
    return write_request(Request(**fields), facts).warnings


def refused(*turns: Turn, facts: ModelFacts = OLD, **fields: Any) -> str:
    with pytest.raises(NotPortable) as caught:
        write(*(turns or (user("hi"),)), facts=facts, **fields)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemini-2.5-pro", (2, 5)),
        ("gemini-2.0-flash-001", (2, 0)),
        ("gemini-3-flash-preview", (3, 0)),
        ("models/gemini-3.1-pro-preview", (3, 1)),
        ("publishers/google/models/gemini-2.5-flash-lite", (2, 5)),
        ("gemini-live-2.5-flash", (2, 5)),
        ("gemini-flash-latest", (3, 0)),
        ("gemini-exp-1206", (2, 0)),
        ("gemma-3-27b-it", (2, 0)),
    ],
)
def test_generation_is_told_by_the_name(name: str, expected: tuple[int, int]) -> None:
    assert generation(ModelFacts(model=name, dialect="gemini")) == expected


def test_generation_of_an_unknown_name_is_told_by_its_reasoning() -> None:
    assert generation(ModelFacts(model="endpoints/77", dialect="gemini", reasoning="level")) == (3, 0)
    assert generation(ModelFacts(model="endpoints/77", dialect="gemini", reasoning="budget")) == (2, 5)


# History --------------------------------------------------------------------------------------------------------------


def test_system_turns_lead_and_later_ones_are_not_hoisted() -> None:  # P21
    body = write(system("a"), system("b"), user("hi"), model("yes"), system("c"), user("go"))
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert body["contents"][-1] == {"role": "user", "parts": [{"text": "<system>c</system>"}, {"text": "go"}]}


def test_neighbours_merge_first_is_user_empty_is_left_out() -> None:  # P16, P17, P18
    assert contents(model("a"), model("", "b"), user(""), user("c"), user("d")) == [
        ("user", [{"text": "."}]),
        ("model", [{"text": "a"}, {"text": "b"}]),
        ("user", [{"text": "c"}, {"text": "d"}]),
    ]
    assert contents(system("only")) == [("user", [{"text": "."}])]


def test_results_of_a_batch_stand_together_and_alone() -> None:  # P12, P13, P14, P22
    assert contents(
        user("hi"),
        model("let me see", call("1"), call("2", "time")),
        user("and now?", result("2", "noon")),
        user(result("1", '{"t":1}')),
    ) == [
        ("user", [{"text": "hi"}]),
        (
            "model",
            [
                {"text": "let me see"},
                {"functionCall": {"name": "weather", "args": {}}},
                {"functionCall": {"name": "time", "args": {}}},
            ],
        ),
        (
            "user",
            [
                {"functionResponse": {"name": "weather", "response": {"t": 1}}},
                {"functionResponse": {"name": "time", "response": {"output": "noon"}}},
            ],
        ),
        ("user", [{"text": "and now?"}]),
    ]


def test_missing_orphaned_and_doubled_results() -> None:  # P15
    got = contents(
        user("hi"), model(call("1"), call("2")), user(result("1", "old"), result("1", "new"), result("9", "lost"))
    )
    assert got[2:] == [
        (
            "user",
            [
                {"functionResponse": {"name": "weather", "response": {"output": "new"}}},
                {"functionResponse": {"name": "weather", "response": {"error": "no result was provided"}}},
            ],
        ),
        ("user", [{"text": "Result of a tool: lost"}]),
    ]
    assert warnings(turns=(user("hi"), model(call("1")), user("go on"))) == ("messages=approximated",)


def test_results_without_ids_go_by_name_and_order() -> None:
    got = contents(
        user("hi"),
        model(call("", "a"), call("", "b"), call("", "a")),
        user(result("", "1", name="a"), result("", "2", name="a"), result("", "3", name="b")),
    )
    outputs = [part["functionResponse"]["response"]["output"] for part in got[2][1]]
    assert outputs == ["1", "3", "2"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (result("1", "plain"), {"output": "plain"}),
        (result("1", '{"a": [1]}'), {"a": [1]}),
        (result("1", "[1]"), {"output": "[1]"}),
        (result("1", "{broken"), {"output": "{broken"}),
        (result("1", "bad", is_error=True), {"error": "bad"}),
        (result("1", '{"a":1}', is_error=True), {"error": '{"a":1}'}),
        (ToolResult(call_id="1"), {"output": ""}),
        (ToolResult(call_id="1", value=[1]), {"output": [1]}),
        (ToolResult(call_id="1", value={"a": 0}), {"a": 0}),
        (ToolResult(call_id="1", value={"a": 0}, is_error=True), {"error": {"a": 0}}),
    ],
)
def test_a_result_is_an_object(made: ToolResult, expected: dict[str, Any]) -> None:
    got = contents(user("hi"), model(call("1")), user(made))
    assert got[2][1][0]["functionResponse"]["response"] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", {}), ("  ", {}), ('{"a":1}', {"a": 1}), ('{"a":', {"_raw": '{"a":'}), ("[1]", {"_raw": "[1]"})],
)
def test_arguments_are_an_object(text: str, expected: dict[str, Any]) -> None:  # P27
    got = contents(user("hi"), model(call("1", arguments=text)), user(result("1")))
    assert got[1][1][0]["functionCall"]["args"] == expected


def test_images_in_results() -> None:  # P60
    picture = Image(data="AAAA", media_type="image/png")
    turns = (user("hi"), model(call("1")), user(ToolResult(call_id="1", parts=(Text(text="see"), picture))))
    blob = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    new = contents(*turns, facts=NEW)
    assert new[2][1][0]["functionResponse"]["parts"] == [blob]
    old = contents(*turns)
    assert old[2][1] == [{"functionResponse": {"name": "weather", "response": {"output": "see"}}}]
    assert old[3] == ("user", [{"text": "From the result of weather:"}, blob])


def test_ids_only_from_gemini_3_on() -> None:  # P23
    turns = (user("hi"), model(call("c1")), user(result("c1")))
    assert "id" not in str(contents(*turns))
    new = contents(*turns, facts=NEW)
    assert new[1][1][0]["functionCall"]["id"] == new[2][1][0]["functionResponse"]["id"] == "c1"


def test_first_call_of_each_step_is_signed() -> None:  # P24
    turns = (
        user("hi"),
        model(call("1", signature="sig1"), call("2")),
        user(result("1"), result("2")),
        model(call("3")),
        user(result("3")),
        model(call("4"), call("5")),
        user(result("4"), result("5")),
    )
    facts = ModelFacts(model="gemini-3-pro", dialect="gemini", signatures={"3": "sig3"})
    signed = [
        part.get("thoughtSignature")
        for role, parts in contents(*turns, facts=facts)
        for part in parts
        if role == "model"
    ]
    assert signed == ["sig1", None, "sig3", PLACEHOLDER, None]
    assert "thoughtSignature" not in str(contents(*turns[:1], *turns[3:]))


def test_a_signature_is_sent_once_and_stays_at_its_part() -> None:  # P25
    turns = (
        user("hi"),
        model(call("1", signature="s"), call("2", signature="s")),
        user(result("1"), result("2")),
        model(Text(text="a", signature="t"), Text(text="b"), Text(text="c", signature="t")),
    )
    got = contents(*turns, facts=NEW)
    assert [part.get("thoughtSignature") for part in got[1][1]] == ["s", None]
    assert got[3][1] == [{"text": "a", "thoughtSignature": "t"}, {"text": "b"}, {"text": "c"}]


def test_foreign_reasoning_is_dropped_own_is_kept() -> None:  # P20
    foreign = Thinking(text="hm", signature="x", origin="anthropic")
    own = Thinking(text="hm", signature="y", origin="gemini")
    assert contents(user("q"), model(foreign, own, "a"), user("b"))[1] == (
        "model",
        [{"thought": True, "text": "hm", "thoughtSignature": "y"}, {"text": "a"}],
    )
    assert warnings(dialect="messages", turns=(user("q"), model(foreign, "a"), user("b"))) == ("thinking=dropped",)
    assert refused(user("q"), model(Thinking(redacted="zzz", origin="openai")), user("b")) == "reasoning"


def test_what_only_another_dialect_understands_is_refused() -> None:
    block = Opaque(dialect="messages", kind="server_tool_use", raw={})
    assert refused(user("q"), model(block, "a"), user("b")) == "server_tools"
    assert refused(needs=(Need(reason="n", where="n"),)) == "n"


def test_refusals_and_names() -> None:
    turns = (Turn(role=Role.USER, parts=(Text(text="hi"),), name="Ann"), model(Refusal(text="no")), user("ok"))
    assert contents(*turns)[:2] == [("user", [{"text": "Ann: hi"}]), ("model", [{"text": "no"}])]
    assert warnings(turns=turns) == ("name=approximated",)


def test_prefill() -> None:
    turns = (user("hi"), model("The"))
    assert contents(*turns)[-1] == ("model", [{"text": "The"}])
    assert refused(*turns, facts=ModelFacts(model="gemini-3-pro", dialect="gemini", prefill=False)) == "prefill"


# Media ----------------------------------------------------------------------------------------------------------------


def test_media_inline_and_by_address() -> None:
    parts = (
        Image(data="AA==", media_type="image/jpeg"),
        Image(url="https://a.example/b.png?c=1"),
        Image(url="https://a.example/b"),
        Document(data="BB==", media_type="application/pdf", name="n"),
        Document(text="words", name="n"),
        Document(url="https://a.example/d.pdf"),
        Media(kind="audio", data="CC==", media_type="audio/wav"),
        Media(kind="video", url="https://a.example/v", media_type="video/mp4"),
    )
    assert contents(user(*parts)) == [
        (
            "user",
            [
                {"inlineData": {"mimeType": "image/jpeg", "data": "AA=="}},
                {"fileData": {"fileUri": "https://a.example/b.png?c=1", "mimeType": "image/png"}},
                {"fileData": {"fileUri": "https://a.example/b", "mimeType": "image/jpeg"}},
                {"inlineData": {"mimeType": "application/pdf", "data": "BB=="}},
                {"text": "n"},
                {"text": "words"},
                {"fileData": {"fileUri": "https://a.example/d.pdf", "mimeType": "application/pdf"}},
                {"inlineData": {"mimeType": "audio/wav", "data": "CC=="}},
                {"fileData": {"fileUri": "https://a.example/v", "mimeType": "video/mp4"}},
            ],
        )
    ]


def test_media_alone_gets_a_text_beside_it() -> None:
    assert contents(user(Image(data="AA==", media_type="image/png")))[0][1][-1] == {"text": " "}


@pytest.mark.parametrize(
    ("part", "lacking", "reason"),
    [
        (Image(data="A", media_type="image/png"), {"vision": False}, "vision"),
        (Image(data="A", media_type="image/gif"), {}, "vision"),
        (Image(url="https://a.example/b.png"), {"url_images": False}, "vision"),  # P56
        (Image(file_id="file-1"), {}, "file_id"),
        (Image(url="gs://bucket/b.png"), {}, "file_id"),
        (Document(data="A", media_type="application/pdf"), {"documents": False}, "documents"),
        (Document(data="A", media_type="application/msword"), {}, "documents"),
        (Media(kind="audio", data="A", media_type="audio/wav"), {"audio": False}, "audio"),
        (Media(kind="video", data="A", media_type="video/mp4"), {"video": False}, "video"),
    ],
)
def test_media_that_the_target_does_not_take(part: Any, lacking: dict[str, Any], reason: str) -> None:
    assert refused(user("see", part), facts=ModelFacts(model="gemini-2.5-pro", dialect="gemini", **lacking)) == reason


def test_vertex_reads_buckets() -> None:
    facts = ModelFacts(model="gemini-2.5-pro", dialect="gemini", vendor="vertex")
    got = contents(user("see", Image(url="gs://b/c.webp")), facts=facts)
    assert got[0][1][1] == {"fileData": {"fileUri": "gs://b/c.webp", "mimeType": "image/webp"}}


# Tools ----------------------------------------------------------------------------------------------------------------


def test_tools_and_choices() -> None:
    body = write(user("hi"), tools=(WEATHER, Tool(name="now", parameters={"type": "object", "properties": {}})))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "d", "parametersJsonSchema": WEATHER.parameters},
                {"name": "now"},
            ]
        }
    ]
    assert "toolConfig" not in body


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(mode="auto"), {"mode": "AUTO"}),
        (Choice(mode="required"), {"mode": "ANY"}),
        (Choice(mode="none"), {"mode": "NONE"}),
        (Choice(mode="named", name="weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
        (Choice(mode="auto", allowed=("weather",)), {"mode": "VALIDATED", "allowedFunctionNames": ["weather"]}),
        (Choice(mode="required", allowed=("weather",)), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tool_choice(choice: Choice, expected: dict[str, Any]) -> None:
    assert write(user("hi"), tools=(WEATHER,), choice=choice)["toolConfig"] == {"functionCallingConfig": expected}
    assert "toolConfig" not in write(user("hi"), choice=choice)  # P35


def test_names_are_made_to_fit_everywhere() -> None:
    tool = Tool(name="1 bad/näme", parameters=WEATHER.parameters)
    request = Request(
        dialect="chat",
        turns=(user("hi"), model(call("1", tool.name)), user(result("1"))),
        tools=(tool,),
        choice=Choice(mode="named", name=tool.name),
    )
    encoded = write_request(request, OLD)
    (sent,) = encoded.names
    assert encoded.names[sent] == tool.name
    assert str(encoded.body).count(repr(sent)) == 4


def test_tools_that_the_target_does_not_take() -> None:
    none = ModelFacts(model="gemini-x", dialect="gemini", tools=False)
    assert refused(tools=(WEATHER,), facts=none) == "tools"
    free = ModelFacts(model="gemini-x", dialect="gemini", forced_tools=False)
    assert refused(tools=(WEATHER,), choice=Choice(mode="required"), facts=free) == "tools"
    assert refused(tools=(Tool(name="g", custom={"type": "grammar"}),)) == "tools"


def test_a_plain_custom_tool_becomes_a_function() -> None:
    body = write(
        user("hi"),
        model(ToolCall(id="1", name="shell", arguments="ls", custom=True)),
        user(result("1")),
        tools=(Tool(name="shell", custom={}),),
    )
    declared = body["tools"][0]["functionDeclarations"][0]
    assert declared["parametersJsonSchema"]["required"] == ["input"]
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"input": "ls"}


def test_parallel_calls_cannot_be_forbidden() -> None:
    assert warnings(tools=(WEATHER,), parallel=False) == ("parallel_tool_calls=dropped",)


def test_schemas_in_the_older_form_on_demand() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}, "additionalProperties": False}
    request = Request(dialect="chat", turns=(user("hi"),), tools=(Tool(name="f", parameters=schema),))
    body = write_request(request, OLD, openapi=True).body
    assert body["tools"][0]["functionDeclarations"][0]["parameters"] == {
        "type": "object",
        "properties": {"a": {"type": "integer", "nullable": True}},
    }


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_keep_zero() -> None:
    assert config(temperature=0, top_p=0.0, top_k=1, seed=0, limit=5, presence_penalty=0.5, stop=("a", "")) == {
        "temperature": 0,
        "topP": 0.0,
        "topK": 1,
        "seed": 0,
        "maxOutputTokens": 5,
        "presencePenalty": 0.5,
        "stopSequences": ["a"],
    }
    assert "generationConfig" not in write(user("hi"))


def test_settings_that_the_target_refuses() -> None:
    assert config(NEW, presence_penalty=0.5, frequency_penalty=0.1) == {}
    assert warnings(NEW, presence_penalty=0.5) == ("presence_penalty=dropped",)
    assert refused(stop=tuple("abcdef")) == "stop"  # P36
    assert config(stop=tuple("abcde"))["stopSequences"] == list("abcde")
    assert warnings(seed=2**40) == ("seed=dropped",)
    small = ModelFacts(model="gemini-2.5-flash", dialect="gemini", max_output_tokens=100, sampling=False)
    assert config(small, limit=500, temperature=0.1) == {"maxOutputTokens": 100}
    one = ModelFacts(model="gemini-2.5-flash", dialect="gemini", both_sampling=False)
    assert config(one, temperature=0.1, top_p=0.2) == {"temperature": 0.1}


def test_hints_are_dropped_with_a_warning_and_cache_marks_too() -> None:
    turns = (Turn(role=Role.USER, parts=(Text(text="hi", cache="5m"),)),)
    assert warnings(turns=turns, user="u", hints=("store",), extra={"x": 1}, dialect="messages") == (
        "metadata.user_id=dropped",
        "store=dropped",
        "x=dropped",
        "cache_control=dropped",
    )
    assert "cache" not in str(write(*turns))


def test_safety_settings_come_from_the_facts() -> None:
    setting = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
    facts = ModelFacts(model="gemini-2.5-flash", dialect="gemini", safety_settings=(setting,))
    assert write(user("hi"), facts=facts)["safetySettings"] == [setting]


def test_output_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}
    assert config(format=Format(kind="json_object")) == {"responseMimeType": "application/json"}
    assert config(format=Format(kind="json_schema", schema=schema, strict=True)) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }
    wanted = Format(kind="json_schema", schema=schema)
    assert refused(format=wanted, tools=(WEATHER,)) == "schema"
    assert config(NEW, format=wanted, tools=(WEATHER,))["responseJsonSchema"] == schema
    no = ModelFacts(model="gemini-2.5-flash", dialect="gemini", structured=False)
    assert refused(format=wanted, facts=no) == "schema"


def test_strict_schemas_that_say_more_than_the_target_heeds() -> None:
    narrow = {"type": "string", "pattern": "a+"}
    assert warnings(format=Format(kind="json_schema", schema=narrow, strict=True)) == ("response_format=approximated",)
    shape = {"not": {"type": "string"}}
    assert refused(format=Format(kind="json_schema", schema=shape, strict=True)) == "schema"
    assert config(format=Format(kind="json_schema", schema=shape))["responseJsonSchema"] == shape


# Reasoning ------------------------------------------------------------------------------------------------------------

PRO = ModelFacts(model="gemini-2.5-pro", dialect="gemini")
NEW_PRO = ModelFacts(model="gemini-3.1-pro", dialect="gemini")


@pytest.mark.parametrize(
    ("facts", "asked", "expected"),
    [
        (OLD, Reasoning(effort="none"), {"thinkingBudget": 0}),
        (OLD, Reasoning(effort="low"), {"thinkingBudget": 1024}),
        (OLD, Reasoning(effort="medium", shown=True), {"thinkingBudget": 8192, "includeThoughts": True}),
        (OLD, Reasoning(effort="max"), {"thinkingBudget": 24576}),
        (PRO, Reasoning(effort="none"), {"thinkingBudget": 128}),
        (PRO, Reasoning(effort="max"), {"thinkingBudget": 32768}),
        (OLD, Reasoning(budget=2000), {"thinkingBudget": 2000}),
        (OLD, Reasoning(mode="disabled"), {"thinkingBudget": 0}),
        (OLD, Reasoning(mode="adaptive"), {"thinkingBudget": -1}),
        (OLD, Reasoning(shown=True), {"includeThoughts": True}),
        (OLD, Reasoning(), None),
        (NEW, Reasoning(effort="none"), {"thinkingLevel": "MINIMAL"}),
        (NEW, Reasoning(effort="minimal"), {"thinkingLevel": "MINIMAL"}),
        (NEW_PRO, Reasoning(effort="minimal"), {"thinkingLevel": "LOW"}),
        (NEW, Reasoning(effort="high"), {"thinkingLevel": "HIGH"}),
        (NEW, Reasoning(effort="xhigh"), {"thinkingLevel": "HIGH"}),
        (NEW, Reasoning(budget=1024), {"thinkingLevel": "LOW"}),
        (NEW, Reasoning(budget=30000), {"thinkingLevel": "HIGH"}),
        (NEW, Reasoning(mode="disabled"), {"thinkingLevel": "MINIMAL"}),
        (NEW, Reasoning(mode="adaptive"), None),
        (ModelFacts(model="gemini-2.0-flash", dialect="gemini"), Reasoning(effort="high"), None),
        (ModelFacts(model="gemini-3-pro", dialect="gemini", reasoning="none"), Reasoning(effort="high"), None),
    ],
)
def test_reasoning(facts: ModelFacts, asked: Reasoning, expected: dict[str, Any] | None) -> None:
    got = config(facts, reasoning=asked).get("thinkingConfig")
    assert got == expected
    assert not ({"thinkingBudget", "thinkingLevel"} <= set(got or ()))


def test_levels_that_the_target_is_known_to_take() -> None:
    facts = ModelFacts(model="gemini-3.5-flash", dialect="gemini", efforts=frozenset({"low", "high", "xhigh"}))
    levels = {
        effort: config(facts, reasoning=Reasoning(effort=effort))["thinkingConfig"]["thinkingLevel"]
        for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    }
    assert list(levels.values()) == ["LOW", "LOW", "LOW", "LOW", "HIGH", "XHIGH", "XHIGH"]


def test_a_budget_leaves_room_for_the_answer() -> None:  # P33
    assert config(limit=1000, reasoning=Reasoning(effort="high"))["thinkingConfig"] == {"thinkingBudget": 500}
    assert warnings(dialect="messages", limit=1000, reasoning=Reasoning(budget=4000)) == ("thinking=approximated",)


def test_thoughts_are_shown_to_whoever_gave_them_a_budget() -> None:
    asked = Reasoning(mode="enabled", budget=2048)
    got = config(dialect="messages", reasoning=asked)["thinkingConfig"]
    assert got == {"thinkingBudget": 2048, "includeThoughts": True}
