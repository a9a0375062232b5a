"""What other callers ask, in Anthropic's words: every pitfall of `providers.md` 2.9 that concerns a request."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from proxy.dialects.anthropic import read_count, write_count, write_request
from proxy.dialects.chat import (
    Choice,
    Document,
    Encoded,
    Format,
    Image,
    Media,
    ModelFacts,
    Need,
    NotPortable,
    Opaque,
    Part,
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

OLD = ModelFacts(model="claude-sonnet-4-5", dialect="anthropic", reasoning="budget", prefill=True)
NEW = ModelFacts(
    model="claude-opus-4-8", dialect="anthropic", reasoning="adaptive", prefill=False, sampling=False, structured=True,
    efforts=frozenset({"low", "medium", "high", "xhigh", "max"}),
)  # fmt: skip
BARE = ModelFacts(model="m", dialect="anthropic")
HI = Turn(role=Role.USER, parts=(Text(text="hi"),))
F = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


def user(*parts: Part | str) -> Turn:
    return Turn(role=Role.USER, parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def system(text: str) -> Turn:
    return Turn(role=Role.SYSTEM, parts=(Text(text=text),))


def call(call_id: str, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)


def result(call_id: str, text: str = "ok", **more: Any) -> ToolResult:
    return ToolResult(call_id=call_id, parts=(Text(text=text),), **more)


def write(*turns: Turn, facts: ModelFacts = BARE, **more: Any) -> Encoded:
    return write_request(Request(dialect="chat", turns=turns or (HI,), **more), facts)


def messages(*turns: Turn, **more: Any) -> list[Any]:
    """(role, block, block ...) of each message; a block of text is its text."""
    found = write(*turns, **more).body["messages"]
    return [
        (message["role"], *(b["text"] if set(b) == {"type", "text"} else b for b in message["content"]))
        for message in found
    ]


def refused(*turns: Turn, facts: ModelFacts = BARE, **more: Any) -> str:
    with pytest.raises(NotPortable) as raised:
        write(*turns, facts=facts, **more)
    assert raised.value.detail.isascii()
    return raised.value.reason


def use(call_id: str, name: str = "f", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def answered(call_id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


# History --------------------------------------------------------------------------------------------------------------


def test_p21_leading_system_turns_go_up_and_later_ones_stay() -> None:
    turns = (system("a"), system(" "), system("b"), HI, assistant("x"), system("mind"), user("go on"))
    encoded = write(*turns)
    assert encoded.body["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages(*turns)[-1] == ("user", "<system>mind</system>", "go on")
    assert encoded.warnings == ("messages=approximated",)


def test_p21_a_model_with_system_messages_keeps_them_behind_the_user() -> None:
    facts = ModelFacts(model="m", dialect="anthropic", mid_system=True)
    assert messages(HI, system("mind"), assistant("x"), system("again"), user("go"), facts=facts) == [
        ("user", "hi"),
        ("system", "mind"),
        ("assistant", "x"),
        ("user", "<system>again</system>", "go"),
    ]
    between = (HI, assistant(call("1"), call("2")), user(result("1")), system("mind"), user(result("2")))
    assert messages(*between, facts=facts)[2] == (
        "user", answered("1"), answered("2"), "<system>mind</system>"
    )  # fmt: skip


def test_p12_p13_p14_results_stand_first_and_together() -> None:
    turns = (
        HI,
        assistant("let me", call("1"), call("2", arguments='{"a":1}')),
        user("before", result("2", "two")),
        user(result("1", "one")),
        user("after"),
    )
    assert messages(*turns, tools=(F,)) == [
        ("user", "hi"),
        ("assistant", "let me", use("1"), use("2", a=1)),
        ("user", answered("1", "one"), answered("2", "two"), "before", "after"),
    ]


def test_p15_missing_duplicate_and_orphan_results() -> None:
    turns = (HI, assistant(call("1"), call("2")), user(result("2", "old"), result("2", "new"), result("9", "lost")))
    found = messages(*turns, tools=(F,))
    assert found[2] == (
        "user",
        answered("1", "no result was provided", is_error=True),
        answered("2", "new"),
        "Result of a tool:",
        "lost",
    )
    assert "messages=approximated" in write(*turns, tools=(F,)).warnings
    assert messages(HI, assistant(call("1")), tools=(F,))[2] == (
        "user", answered("1", "no result was provided", is_error=True)
    )  # fmt: skip


def test_ids_that_come_again_are_made_different() -> None:
    turns = (HI, assistant(call("x")), user(result("x", "1")), assistant(call("x")), user(result("x", "2")))
    assert messages(*turns, tools=(F,))[1:] == [
        ("assistant", use("x")),
        ("user", answered("x", "1")),
        ("assistant", use("x_2")),
        ("user", answered("x_2", "2")),
    ]
    same = (HI, assistant(call("x"), call("x")), user(result("x", "1"), result("x", "2")))
    assert messages(*same, tools=(F,))[2] == ("user", answered("x", "1"), answered("x_2", "2"))


def test_p26_ids_in_an_alphabet_that_is_taken() -> None:
    turns = (HI, assistant(call("functions.f:0")), user(result("functions.f:0")))
    assert messages(*turns, tools=(F,))[1:] == [
        ("assistant", use("functions_f_0")),
        ("user", answered("functions_f_0")),
    ]


def test_calls_without_ids_are_answered_by_name() -> None:
    g = Tool(name="g")
    turns = (
        HI,
        assistant(call("", "f"), call("", "g")),
        user(ToolResult(call_id="", name="g", value={"n": 1}), ToolResult(call_id="", name="f", value="one")),
    )
    assert messages(*turns, tools=(F, g))[1:] == [
        ("assistant", use("call"), use("call_2", "g")),
        ("user", answered("call", "one"), answered("call_2", '{"n":1}')),
    ]


def test_p16_nothing_is_empty() -> None:
    assert messages(user("", " \n"), assistant(""), user("x")) == [("user", "x")]
    assert messages(user("")) == [("user", ".")]
    assert messages(HI, assistant("a", " "), user("b")) == [("user", "hi"), ("assistant", "a"), ("user", "b")]
    turns = (HI, assistant(call("1")), user(ToolResult(call_id="1", parts=(Text(text=""),))))
    assert messages(*turns, tools=(F,))[2] == ("user", {"type": "tool_result", "tool_use_id": "1"})
    failed = (HI, assistant(call("1")), user(ToolResult(call_id="1", is_error=True)))
    assert messages(*failed, tools=(F,))[2] == ("user", answered("1", "the tool failed", is_error=True))


def test_p16_a_beginning_ends_without_white_space() -> None:
    assert messages(HI, assistant("Once \n"), facts=OLD)[-1] == ("assistant", "Once")
    assert messages(HI, assistant("  "), facts=NEW) == [("user", "hi")]


def test_a_beginning_only_where_it_is_taken_and_alone() -> None:
    assert refused(HI, assistant("Once"), facts=NEW) == "prefill"
    assert refused(HI, assistant("Once"), facts=OLD, tools=(F,), choice=Choice(mode="required")) == "prefill"
    encoded = write(HI, assistant("Once"), facts=OLD, limit=9000, reasoning=Reasoning(effort="high"))
    assert "thinking" not in encoded.body
    assert encoded.warnings == ("reasoning_effort=dropped",)


def test_p17_p18_the_user_begins_and_roles_alternate() -> None:
    assert messages(assistant("a"), assistant("b"), user("c"), user("d")) == [
        ("user", "."),
        ("assistant", "a", "b"),
        ("user", "c", "d"),
    ]
    encoded = write(system("only"))
    assert encoded.body["system"] == [{"type": "text", "text": "only"}]
    assert encoded.body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "."}]}]


def test_p19_tools_that_only_the_history_knows() -> None:
    encoded = write(HI, assistant(call("1", "my.tool")), user(result("1")))
    assert encoded.body["tools"] == [
        {"name": "my_tool", "input_schema": {"type": "object", "properties": {}, "additionalProperties": True}}
    ]
    assert encoded.body["tool_choice"] == {"type": "none"}


def test_p20_only_reasoning_that_anthropic_signed_is_replayed() -> None:
    turns = (
        HI,
        assistant(
            Thinking(text="mine", signature="s", origin="anthropic"),
            Thinking(redacted="r", origin="anthropic"),
            Thinking(text="plain"),
            Thinking(text="other", signature="g", origin="gemini"),
            "said",
        ),
        HI,
    )
    assert messages(*turns)[1] == (
        "assistant",
        {"type": "thinking", "thinking": "mine", "signature": "s"},
        {"type": "redacted_thinking", "data": "r"},
        "said",
    )
    assert write(*turns).warnings == ("reasoning_content=dropped",)
    alone = assistant(Thinking(text="mine", signature="s", origin="anthropic"))
    assert messages(HI, alone, HI) == [("user", "hi"), ("user", "hi")]


def test_p27_arguments_that_are_no_object() -> None:
    turns = (HI, assistant(call("1", arguments=""), call("2", arguments='{"a":')), user(result("1"), result("2")))
    assert messages(*turns, tools=(F,))[1] == ("assistant", use("1"), use("2", _raw='{"a":'))
    assert "tool_calls=approximated" in write(*turns, tools=(F,)).warnings


def test_names_refusals_and_custom_calls() -> None:
    named = Turn(role=Role.USER, parts=(Text(text="a"), Text(text="b")), name="Ann")
    bot = Turn(role=Role.ASSISTANT, parts=(Refusal(text="no"),), name="Bot")
    assert messages(named, bot, HI) == [("user", "Ann: a", "b"), ("assistant", "no"), ("user", "hi")]
    assert write(named, bot, HI).warnings == ("name=dropped",)
    custom = ToolCall(id="1", name="sh", arguments="ls -l", custom=True)
    tools = (Tool(name="sh", custom={}),)
    encoded = write(HI, assistant(custom), user(result("1")), tools=tools)
    assert encoded.body["messages"][1]["content"] == [use("1", "sh", input="ls -l")]
    assert encoded.body["tools"][0]["input_schema"]["required"] == ["input"]
    assert encoded.warnings == ("tools=approximated",)


# Media ----------------------------------------------------------------------------------------------------------------


def test_images() -> None:
    assert messages(user(Image(data="AA==", media_type="image/png"), Image(url="https://x/y")))[0][1:] == (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y"}},
    )
    no = ModelFacts(model="m", dialect="anthropic", url_images=False, vision=None)
    assert refused(user(Image(url="https://x/y")), facts=no) == "url_images"
    assert refused(user(Image(url="http://x/y"))) == "url_images"
    assert refused(user(Image(data="AA==", media_type="image/tiff"))) == "vision"
    assert refused(user(Image(file_id="f"))) == "file_id"
    blind = ModelFacts(model="m", dialect="anthropic", vision=False)
    assert refused(user(Image(data="AA==", media_type="image/png")), facts=blind) == "vision"
    assert write(user(Image(url="https://x/y", detail="high"))).warnings == ("image_url.detail=dropped",)


def test_documents() -> None:
    words = b64encode("söme".encode()).decode()
    found = messages(
        user(
            Document(data="AA==", media_type="application/pdf", name="a.pdf", context="c"),
            Document(data=words, media_type="text/markdown"),
            Document(text="plain"),
            Document(url="https://x/y.pdf"),
        )
    )[0]
    assert found[1:] == (
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
            "title": "a.pdf",
            "context": "c",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "söme"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
    )
    assert refused(user(Document(data="AA==", media_type="application/msword"))) == "documents"
    assert refused(user(Document(data="/w==", media_type="text/plain"))) == "documents"
    assert refused(user(Document(file_id="f"))) == "file_id"
    none = ModelFacts(model="m", dialect="anthropic", documents=False)
    assert refused(user(Document(text="a")), facts=none) == "documents"


def test_what_has_no_counterpart() -> None:
    assert refused(user(Media(kind="audio", data="AA==", media_type="audio/wav"))) == "audio"
    assert refused(needs=(Need(reason="logprobs", where="logprobs"),)) == "logprobs"
    foreign = Opaque(dialect="responses", kind="web_search_call", raw={})
    assert refused(HI, assistant(foreign), HI) == "server_tools"
    assert refused(Turn(role=Role.SYSTEM, parts=(Image(url="https://x"),)), HI) == "system"


def test_p41_at_most_four_cache_marks_and_long_ones_first() -> None:
    marked = Text(text="a", cache="5m")
    encoded = write(Turn(role=Role.SYSTEM, parts=(marked,)), user(*[marked] * 4), tools=(Tool(name="f", cache="1h"),))
    assert encoded.body["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    marks = ["cache_control" in block for block in encoded.body["messages"][0]["content"]]
    assert marks == [True, True, False, False]
    assert encoded.warnings == ("cache_control=dropped",)
    late = write(user(marked, Text(text="b", cache="1h")))
    assert late.body["messages"][0]["content"][1]["cache_control"] == {"type": "ephemeral"}
    assert late.warnings == ("cache_control=approximated",)


# Parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "more", "limit"),
    [
        ({}, {"limit": 77}, 77),
        ({}, {}, 4096),
        ({"max_output_tokens": 64_000}, {}, 16_000),
        ({"max_output_tokens": 64_000}, {"stream": True}, 32_000),
        ({"max_output_tokens": 8192}, {"stream": True}, 8192),
        ({"default_max_tokens": 1000, "max_output_tokens": 64_000}, {}, 1000),
        ({"default_max_tokens": 9000, "max_output_tokens": 8192}, {}, 8192),
        ({"max_output_tokens": 8192}, {"limit": 9999}, 8192),
        ({}, {"limit": 0}, 1),
    ],
)
def test_p28_there_is_always_a_limit(known: dict[str, Any], more: dict[str, Any], limit: int) -> None:
    encoded = write(facts=ModelFacts(model="m", dialect="anthropic", **known), **more)
    assert encoded.body["max_tokens"] == limit
    assert encoded.warnings == (("max_completion_tokens=approximated",) if more.get("limit") == 9999 else ())


def test_p30_p31_p32_sampling() -> None:
    encoded = write(temperature=1.7, top_p=0.5, top_k=3)
    assert (encoded.body["temperature"], encoded.body["top_p"], encoded.body["top_k"]) == (1.0, 0.5, 3)
    assert encoded.warnings == ("temperature=approximated",)
    assert write(temperature=0.0).body["temperature"] == 0.0
    single = write(temperature=0.5, top_p=0.5, facts=ModelFacts(model="m", dialect="anthropic", both_sampling=False))
    assert "top_p" not in single.body
    assert single.warnings == ("top_p=dropped",)
    only = write(top_p=0.5, facts=ModelFacts(model="m", dialect="anthropic", both_sampling=False))
    assert only.body["top_p"] == 0.5
    for facts in (NEW, ModelFacts(model="m", dialect="anthropic", api_version="2026-10-21")):
        none = write(temperature=1.0, top_p=0.5, top_k=3, facts=facts)
        assert not {"temperature", "top_p", "top_k"} & set(none.body)
        assert none.warnings == ("temperature=dropped", "top_p=dropped", "top_k=dropped")


def test_p36_p37_stops_and_user() -> None:
    encoded = write(stop=("END", " \n", ""), user="user-17", service_tier="default")
    assert encoded.body["stop_sequences"] == ["END"]
    assert encoded.body["metadata"] == {"user_id": "user-17"}
    assert encoded.body["service_tier"] == "standard_only"
    for address in ("ann@example.com", "+49 170 1234567", "(555) 010-9999"):
        assert "metadata" not in write(user=address).body
        assert write(user=address).warnings == ("user=dropped",)
    assert write(service_tier="flex").warnings == ("service_tier=dropped",)
    assert refused(stop=("END",), facts=ModelFacts(model="m", dialect="anthropic", stop=False)) == "stop"


def test_hints_are_dropped_and_told() -> None:
    encoded = write(
        seed=0, presence_penalty=0.5, frequency_penalty=0.0, verbosity="low", cache_key="k", metadata={"a": "b"},
        hints=("store",), extra={"logit_bias": {}},
    )  # fmt: skip
    assert set(encoded.body) == {"model", "max_tokens", "messages"}
    assert set(encoded.warnings) == {
        "seed=dropped", "presence_penalty=dropped", "frequency_penalty=dropped", "verbosity=dropped",
        "prompt_cache_key=dropped", "metadata=dropped", "store=dropped", "logit_bias=dropped",
    }  # fmt: skip


# Reasoning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effort", "limit", "budget"),
    [
        ("minimal", 9000, 1024),
        ("medium", 9000, 2048),
        ("max", 64_000, 16_384),
        ("max", 5000, 4000),
        ("high", 1100, 1024),
    ],
)
def test_p33_budgets_stay_below_the_limit(effort: str, limit: int, budget: int) -> None:
    encoded = write(facts=OLD, reasoning=Reasoning(effort=effort), limit=limit, temperature=0.3)
    assert encoded.body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert "temperature" not in encoded.body
    assert set(encoded.warnings) == {"reasoning_effort=approximated", "temperature=dropped"}


def test_no_room_for_a_budget() -> None:
    encoded = write(facts=OLD, reasoning=Reasoning(effort="high"), limit=1024, temperature=0.3)
    assert "thinking" not in encoded.body
    assert encoded.body["temperature"] == 0.3
    assert encoded.warnings == ("reasoning_effort=dropped",)


def test_p39_a_demanded_call_and_a_budget_exclude_each_other() -> None:
    encoded = write(
        facts=OLD, reasoning=Reasoning(effort="low"), limit=9000, tools=(F,), choice=Choice(mode="named", name="f")
    )
    assert encoded.body["tool_choice"] == {"type": "tool", "name": "f"}
    assert "thinking" not in encoded.body
    assert encoded.warnings == ("reasoning_effort=dropped",)


def test_a_tool_loop_that_began_without_reasoning() -> None:
    loop = (HI, assistant(call("1")), user(result("1")))
    without = write(*loop, facts=OLD, reasoning=Reasoning(effort="low"), limit=9000, tools=(F,))
    assert "thinking" not in without.body
    signed = Thinking(text="t", signature="s", origin="anthropic")
    thought = (HI, assistant(signed, call("1")), user(result("1")))
    assert "thinking" in write(*thought, facts=OLD, reasoning=Reasoning(effort="low"), limit=9000, tools=(F,)).body


def test_adaptive_reasoning() -> None:
    encoded = write(facts=NEW, reasoning=Reasoning(effort="minimal"))
    assert encoded.body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert encoded.body["output_config"] == {"effort": "low"}
    assert encoded.warnings == ("reasoning_effort=approximated",)
    exact = write(facts=NEW, reasoning=Reasoning(effort="max", shown=False))
    assert exact.body["thinking"] == {"type": "adaptive", "display": "omitted"}
    assert exact.warnings == ()
    basic = ModelFacts(model="claude-sonnet-4-6", dialect="anthropic", reasoning="adaptive")
    assert write(facts=basic, reasoning=Reasoning(effort="max")).body["output_config"] == {"effort": "high"}
    assert write(facts=NEW, reasoning=Reasoning(effort="none")).body["thinking"] == {"type": "disabled"}
    assert write(facts=NEW, reasoning=Reasoning(budget=30_000)).body["output_config"] == {"effort": "xhigh"}
    assert "output_config" not in write(facts=NEW, reasoning=Reasoning(budget=-1)).body


def test_a_model_that_reasons_by_itself_and_a_demanded_call() -> None:
    five = ModelFacts(model="claude-sonnet-5", dialect="anthropic", reasoning="adaptive")
    for reasoning in (None, Reasoning(effort="high"), Reasoning()):
        encoded = write(facts=five, reasoning=reasoning, tools=(F,), choice=Choice(mode="required"))
        assert encoded.body["thinking"] == {"type": "disabled"}
        assert encoded.body["tool_choice"] == {"type": "any"}


def test_models_that_cannot_be_asked_to_reason() -> None:
    always = ModelFacts(
        model="claude-fable-5", dialect="anthropic", reasoning="always", efforts=frozenset({"low", "high"})
    )
    assert write(facts=always, reasoning=Reasoning(effort="high")).body["output_config"] == {"effort": "high"}
    off = write(facts=always, reasoning=Reasoning(effort="none"))
    assert "thinking" not in off.body
    assert off.warnings == ("reasoning_effort=dropped",)
    for facts in (BARE, ModelFacts(model="claude-3-haiku", dialect="anthropic", reasoning="none")):
        encoded = write(facts=facts, reasoning=Reasoning(effort="high"))
        assert not {"thinking", "output_config"} & set(encoded.body)
        assert encoded.warnings == ("reasoning_effort=dropped",)
    assert "thinking" in write(facts=ModelFacts(model="claude-opus-4-8", dialect="anthropic"),
                               reasoning=Reasoning(effort="high")).body  # fmt: skip


# Tools ----------------------------------------------------------------------------------------------------------------


def test_tools() -> None:
    encoded = write(tools=(Tool(name="get.weather", description=" "), Tool(name="get_weather", description="d"), F))
    assert [tool["name"] for tool in encoded.body["tools"]] == ["get_weather_2", "get_weather", "f"]
    assert encoded.names == {"get_weather_2": "get.weather"}
    assert encoded.body["tools"][0] == {
        "name": "get_weather_2", "input_schema": {"type": "object", "properties": {}}
    }  # fmt: skip
    assert encoded.body["tools"][1]["description"] == "d"
    assert "tool_choice" not in encoded.body
    assert refused(tools=(F,), facts=ModelFacts(model="m", dialect="anthropic", tools=False)) == "tools"


def test_a_changed_name_is_changed_everywhere() -> None:
    tools = (Tool(name="a.b"),)
    encoded = write(
        HI, assistant(call("1", "a.b")), user(result("1")), tools=tools, choice=Choice(mode="named", name="a.b")
    )
    assert encoded.body["messages"][1]["content"][0]["name"] == "a_b"
    assert encoded.body["tool_choice"]["name"] == "a_b"


def test_alternatives_at_the_top_of_parameters_are_laid_together() -> None:
    schema = {
        "anyOf": [
            {"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    }
    encoded = write(tools=(Tool(name="f", parameters=schema),))
    assert encoded.body["tools"][0]["input_schema"] == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {}},
        "required": ["b"],
    }
    assert encoded.warnings == ("tools=approximated",)


def test_strict_tools() -> None:
    fits = Tool(
        name="f",
        strict=True,
        parameters={"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    )
    assert write(tools=(fits,), facts=NEW).body["tools"][0]["strict"] is True
    unknown = write(tools=(fits,))
    assert "strict" not in unknown.body["tools"][0]
    assert unknown.warnings == ("strict=dropped",)
    beyond = Tool(name="f", strict=True, parameters={"type": "object", "properties": {"a": {"maximum": 3}}})
    encoded = write(tools=(beyond,), facts=NEW)
    assert encoded.body["tools"][0]["input_schema"]["properties"] == {"a": {"maximum": 3}}
    assert encoded.warnings == ("strict=dropped",)


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (Choice(mode="auto"), False, {"type": "auto", "disable_parallel_tool_use": True}),
        (Choice(mode="required"), None, {"type": "any"}),
        (Choice(mode="named", name="f"), False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
        (Choice(mode="none"), False, {"type": "none"}),
    ],
)
def test_choice(choice: Choice | None, parallel: bool | None, written: dict[str, Any] | None) -> None:
    assert write(tools=(F,), choice=choice, parallel=parallel).body.get("tool_choice") == written


def test_choices_that_leave_tools_out_or_cannot_be_had() -> None:
    g = Tool(name="g")
    encoded = write(tools=(F, g), choice=Choice(mode="required", allowed=("g",)))
    assert [tool["name"] for tool in encoded.body["tools"]] == ["g"]
    assert encoded.body["tool_choice"] == {"type": "any"}
    assert refused(tools=(F,), choice=Choice(mode="named", name="x")) == "tools"
    assert refused(choice=Choice(mode="required")) == "tools"
    assert "tool_choice" not in write(choice=Choice(mode="auto"), parallel=False).body
    weak = ModelFacts(model="m", dialect="anthropic", forced_tools=False)
    assert refused(tools=(F,), choice=Choice(mode="required"), facts=weak) == "forced_tools"


# The form of the answer -----------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
FORMAT = Format(kind="json_schema", name="out", schema=SCHEMA, strict=True)


def test_p38_native_structured_output_in_the_part_that_is_taken() -> None:
    encoded = write(format=FORMAT, facts=NEW, tools=(F,))
    assert encoded.body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer", "description": "(minimum: 1)"}},
            "required": ["n"],
            "additionalProperties": False,
        },
    }
    assert encoded.format_tool == ""
    assert encoded.warnings == ("response_format=approximated",)
    assert "minimum" in SCHEMA["properties"]["n"]  # type: ignore[index]


def test_p40_structured_output_by_a_tool() -> None:
    encoded = write(format=FORMAT)
    assert encoded.format_tool == "json_response"
    assert encoded.body["tools"][0]["input_schema"] == SCHEMA
    assert encoded.body["tool_choice"] == {
        "type": "tool", "name": "json_response", "disable_parallel_tool_use": True
    }  # fmt: skip
    assert refused(format=FORMAT, tools=(F,)) == "schema"
    assert refused(format=FORMAT, facts=OLD, reasoning=Reasoning(effort="low"), limit=9000) == "schema"
    assert refused(format=Format(kind="json_schema", schema={"type": "array"})) == "schema"
    mute = write(format=FORMAT, tools=(F,), choice=Choice(mode="none"))
    assert mute.format_tool == "json_response"
    history = (HI, assistant(call("1", "json_response")), user(result("1")))
    assert write(*history, format=FORMAT).format_tool == "json_response_2"


def test_a_schema_that_cannot_be_closed_goes_by_the_tool() -> None:
    free = Format(kind="json_schema", schema={"type": "object", "additionalProperties": {"type": "string"}})
    encoded = write(format=free, facts=NEW)
    assert encoded.format_tool == "json_response"
    assert refused(format=free, facts=NEW, tools=(F,)) == "schema"


def test_a_json_object_is_asked_for_in_words() -> None:
    encoded = write(system("s"), HI, format=Format(kind="json_object"))
    assert [block["text"] for block in encoded.body["system"]] == ["s", "Respond with a single JSON object only."]
    assert encoded.warnings == ("response_format=approximated",)


# Counting -------------------------------------------------------------------------------------------------------------


def test_counting_tokens() -> None:
    request = Request(
        dialect="chat",
        turns=(system("s"), HI),
        tools=(F,),
        limit=5,
        temperature=0.5,
        stop=("x",),
        stream=True,
        user="u",
    )
    encoded = write_count(request, BARE)
    assert set(encoded.body) == {"model", "messages", "system", "tools"}
    assert read_count({"input_tokens": 12}) == 12
    with pytest.raises(ValueError, match="no number"):
        read_count({"input_tokens": None})
