from __future__ import annotations

import base64
from typing import Any

import pytest

from proxy.dialects import openai
from proxy.dialects.chat import (
    Choice,
    Document,
    Encoded,
    Format,
    Image,
    Malformed,
    Media,
    ModelFacts,
    Need,
    NotPortable,
    Opaque,
    Part,
    Reasoning,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)

PDF = base64.b64encode(b"%PDF-1.4").decode()
STRICT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def facts(vendor: str = "", model: str = "some-model", **more: Any) -> ModelFacts:
    return ModelFacts(model=model, dialect="openai", vendor=vendor, **more)


def user(*parts: Part | str) -> Turn:
    return Turn(role=Role.USER, parts=parts_of(parts))


def assistant(*parts: Part | str) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=parts_of(parts))


def parts_of(parts: tuple[Part | str, ...]) -> tuple[Part, ...]:
    return tuple(Text(text=part) if isinstance(part, str) else part for part in parts)


def called(call_id: str, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)


def result(call_id: str, *parts: Any, **more: Any) -> ToolResult:
    return ToolResult(call_id=call_id, parts=parts_of(parts), **more)


def write(*turns: Turn, to: ModelFacts | None = None, dialect: str = "messages", **more: Any) -> Encoded:
    return openai.write_request(Request(dialect=dialect, turns=turns or (user("hi"),), **more), to or facts())


def messages(*turns: Turn, **more: Any) -> list[dict[str, Any]]:
    return write(*turns, **more).body["messages"]  # type: ignore[no-any-return]


def refused(*turns: Turn, **more: Any) -> str:
    with pytest.raises(NotPortable) as error:
        write(*turns, **more)
    assert error.value.detail.isascii()
    return error.value.reason


# Messages -------------------------------------------------------------------------------------------------------------


def test_system_text_in_several_blocks_is_one_message() -> None:
    system = Turn(role=Role.SYSTEM, parts=(Text(text="a"), Text(text=""), Text(text="b")))
    assert messages(system, user("hi")) == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "hi"},
    ]


def test_a_system_message_stays_where_it_is() -> None:
    system = Turn(role=Role.SYSTEM, parts=(Text(text="now"),))
    assert [each["role"] for each in messages(user("a"), assistant("b"), system, user("c"))] == [
        "user", "assistant", "system", "user",
    ]  # fmt: skip


def test_results_come_first_and_the_rest_follows() -> None:
    found = messages(
        user("go"),
        assistant("text", called("a"), called("b", "g", "")),
        user("before", result("b", "two"), result("a", "one", is_error=True), "after"),
    )
    assert found[1]["content"] == "text"
    assert [call["function"]["arguments"] for call in found[1]["tool_calls"]] == ["{}", "{}"]
    assert found[2:] == [
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "tool", "tool_call_id": "a", "content": "Error: one"},
        {"role": "user", "content": "before\n\nafter"},
    ]


def test_results_in_several_turns_answer_one_step() -> None:
    picture = Image(data="aGk=", media_type="image/png")
    found = messages(
        user("go"), assistant(called("a"), called("b")), user(result("a", picture)), user(result("b", "two"))
    )
    assert [each["role"] for each in found] == ["user", "assistant", "tool", "tool", "user"]
    assert found[2]["content"] == "(image: see the next message)"
    assert found[4]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_images_in_results_are_told_to_be_moved() -> None:
    picture = Image(url="https://example.com/a.png")
    encoded = write(user("go"), assistant(called("a")), user(result("a", "see", picture), "and?"))
    assert encoded.warnings == ("messages=approximated",)
    assert encoded.body["messages"][2]["content"] == "see\n(image: see the next message)"
    assert [part["type"] for part in encoded.body["messages"][3]["content"]] == ["text", "image_url", "text"]


def test_every_call_has_one_answer() -> None:
    encoded = write(
        user("go"),
        assistant(called("a"), called("b")),
        user(result("a", "old"), result("a", "new"), result("x", "lost")),
        assistant("so"),
        user("next"),
    )
    assert encoded.body["messages"][2:5] == [
        {"role": "tool", "tool_call_id": "a", "content": "new"},
        {"role": "tool", "tool_call_id": "b", "content": "no result was provided"},
        {"role": "user", "content": "Result of a tool call: lost"},
    ]
    assert set(encoded.warnings) == {"messages=dropped", "messages=approximated"}


def test_calls_without_ids_get_them_and_results_find_them_by_name() -> None:
    found = messages(
        user("go"),
        assistant(called("", "f"), called("", "g")),
        user(result("", name="g", value={"x": 1}), result("", name="f", value="plain")),
    )
    first, second = (call["id"] for call in found[1]["tool_calls"])
    assert first != second
    assert found[2:] == [
        {"role": "tool", "tool_call_id": second, "content": '{"x":1}'},
        {"role": "tool", "tool_call_id": first, "content": "plain"},
    ]


def test_one_step_in_several_turns_is_one_message() -> None:
    found = messages(
        user("go"), assistant("a"), assistant(called("x")), assistant(called("y")),
        user(result("x", "1")), user(result("y", "2")),
    )  # fmt: skip
    assert [each["role"] for each in found] == ["user", "assistant", "tool", "tool"]
    assert found[1]["content"] == "a"
    assert len(found[1]["tool_calls"]) == 2


def test_text_behind_a_call_is_moved_before_it() -> None:
    found = messages(user("go"), assistant("a", "b", called("x"), "c"), user(result("x", "1")))
    assert found[1]["content"] == "ab\n\nc"
    assert found[2]["role"] == "tool"


def test_reasoning_and_server_blocks_of_others_are_left_out() -> None:
    closed = Opaque(dialect="messages", kind="server_tool_use", raw={})
    encoded = write(
        user("go"), assistant(Thinking(text="t", signature="s", origin="anthropic"), closed, "a"), user("on")
    )
    assert encoded.body["messages"][1] == {"role": "assistant", "content": "a"}
    assert encoded.warnings == ("server_tool_use=dropped", "thinking=dropped")
    kept = messages(user("go"), assistant(Thinking(text="t"), "a"), user("on"), to=facts("deepseek"))
    assert kept[1] == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_ids_are_shortened_the_same_everywhere() -> None:
    long = "toolu_" + "x" * 60
    for vendor, length in (("openai", 29), ("mistral", 9), ("", 29)):
        found = messages(user("go"), assistant(called(long)), user(result(long, "1")), to=facts(vendor))
        sent = found[1]["tool_calls"][0]["id"]
        assert len(sent) == length
        assert found[2]["tool_call_id"] == sent


def test_a_prefill_only_for_those_who_complete_it() -> None:
    turns = (user("go"), assistant("So"))
    assert refused(*turns, to=facts("openai")) == "prefill"
    assert refused(*turns, to=facts()) == "prefill"
    assert refused(*turns, to=facts("deepseek")) == "prefill"
    assert refused(*turns, to=facts("vllm", prefill=False)) == "prefill"
    assert messages(*turns, to=facts("mistral"))[-1]["prefix"] is True
    assert write(*turns, to=facts("vllm")).body["continue_final_message"] is True
    assert messages(*turns, to=facts(prefill=True))[-1] == {"role": "assistant", "content": "So"}


def test_mistral_gets_no_user_straight_after_a_tool() -> None:
    found = messages(user("go"), assistant(called("a")), user(result("a", "1"), "now"), to=facts("mistral"))
    assert [each["role"] for each in found] == ["user", "assistant", "tool", "assistant", "user"]


def test_media() -> None:
    png = Image(data="aGk=", media_type="image/png", detail="low")
    assert messages(user("a", png))[0]["content"][1]["image_url"] == {
        "url": "data:image/png;base64,aGk=",
        "detail": "low",
    }
    url = Image(url="https://example.com/a.png")
    assert messages(user(url))[0]["content"][0]["image_url"] == {"url": "https://example.com/a.png"}
    assert refused(user(png), to=facts(vision=False)) == "vision"
    assert refused(user(url), to=facts("ollama")) == "vision"
    assert refused(user(url), to=facts(url_images=False)) == "vision"
    assert refused(user(Image(url="gs://a/b"))) == "vision"
    assert refused(user(Image(file_id="f"))) == "file_id"
    wav = Media(kind="audio", data="aGk=", media_type="audio/wav")
    assert refused(user(wav)) == "audio"
    assert messages(user(wav), to=facts(audio=True))[0]["content"][0]["input_audio"]["format"] == "wav"
    assert refused(user(Media(kind="video", data="aGk="))) == "video"


def test_documents() -> None:
    pdf = Document(data=PDF, media_type="application/pdf", name="a.pdf")
    data = f"data:application/pdf;base64,{PDF}"
    assert messages(user(pdf), to=facts("openai"))[0]["content"] == [
        {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}
    ]
    assert messages(user(pdf), to=facts("mistral"))[0]["content"][0]["document_url"] == data
    assert refused(user(pdf)) == "documents"
    assert refused(user(pdf), to=facts("openai", documents=False)) == "documents"
    assert refused(user(Document(file_id="f")), to=facts("openai")) == "file_id"
    assert refused(user(Document(url="https://example.com/a.pdf")), to=facts("openai")) == "documents"
    text = Document(data=base64.b64encode(b"words").decode(), media_type="text/plain", name="a.txt")
    assert messages(user(text))[0]["content"] == [{"type": "text", "text": "a.txt\nwords"}]


# Parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "model", "name"),
    [
        ("", "llama-3", "max_tokens"),
        ("openai", "gpt-4o", "max_completion_tokens"),
        ("azure", "mine", "max_completion_tokens"),
        ("", "gpt-5-mini", "max_completion_tokens"),
        ("", "openai/o3", "max_completion_tokens"),
        ("", "gpt-oss-120b", "max_tokens"),
        ("", "foo3", "max_tokens"),
        ("mistral", "mistral-large", "max_tokens"),
        ("groq", "llama", "max_completion_tokens"),
    ],
)
def test_the_name_of_the_limit(vendor: str, model: str, name: str) -> None:
    body = write(to=facts(vendor, model), limit=9).body
    assert body[name] == 9
    assert len([key for key in body if key.startswith("max_")]) == 1
    other: Any = "max_tokens"
    assert write(to=facts(vendor, model, completion_limit_name=other), limit=9).body["max_tokens"] == 9


def test_zero_is_not_nothing_and_nothing_is_not_sent() -> None:
    body = write(temperature=0, top_p=0.0, seed=0).body
    assert (body["temperature"], body["top_p"], body["seed"]) == (0, 0.0, 0)
    assert set(write().body) == {"model", "messages"}


def test_sampling_that_is_refused_is_told() -> None:
    for to in (facts("openai", "o3"), facts("openai", "gpt-5"), facts(sampling=False)):
        encoded = write(to=to, temperature=0.5, top_p=0.9, dialect="gemini")
        assert "temperature" not in encoded.body
        assert encoded.warnings[:2] == (
            "generationConfig.temperature=dropped",
            "generationConfig.topP=dropped",
        )
    assert write(to=facts("openai", "gpt-5-chat-latest"), temperature=0.5).body["temperature"] == 0.5
    assert write(to=facts("openai", "gpt-5.1"), temperature=0.5).body["temperature"] == 0.5
    assert write(to=facts("openai", "o3", sampling=True), temperature=0.5).body["temperature"] == 0.5
    both = write(to=facts(both_sampling=False), temperature=0.5, top_p=0.9)
    assert "top_p" not in both.body


def test_top_k_only_where_it_is_known() -> None:
    assert write(to=facts("vllm"), top_k=5).body["top_k"] == 5
    for vendor in ("openai", "", "groq"):
        encoded = write(to=facts(vendor), top_k=5)
        assert "top_k" not in encoded.body
        assert encoded.warnings == ("top_k=dropped",)


def test_stop_sequences() -> None:
    assert write(stop=("a", "")).body["stop"] == ["a"]
    assert "stop" not in write(stop=("",)).body
    assert refused(stop=("a", "b", "c", "d", "e")) == "stop"
    assert len(write(stop=("a", "b", "c", "d", "e"), to=facts("together")).body["stop"]) == 5
    encoded = write(stop=("a",), to=facts("openai", "gpt-5"))
    assert encoded.warnings == ("stop_sequences=dropped",)


def test_the_seed_of_mistral_and_the_user_of_openai() -> None:
    body = write(to=facts("mistral"), seed=3, user="u").body
    assert body["random_seed"] == 3
    assert not {"seed", "user", "stream_options"} & set(body)
    assert write(to=facts("openai"), user="u").body["safety_identifier"] == "u"
    assert write(user="u").body["user"] == "u"


def test_a_stream_asks_for_its_usage() -> None:
    assert write(stream=True).body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in write(stream=True, to=facts("mistral")).body
    assert "stream_options" not in write().body


@pytest.mark.parametrize(
    ("wish", "to", "effort"),
    [
        (Reasoning(budget=1024, mode="enabled"), facts("openai", "gpt-5"), "low"),
        (Reasoning(budget=8000), facts("openai", "gpt-5"), "medium"),
        (Reasoning(budget=20000), facts("openai", "gpt-5"), "high"),
        (Reasoning(budget=60000), facts("openai", "gpt-5"), "high"),
        (Reasoning(budget=60000), facts("openai", "gpt-5.5", efforts=frozenset({"high", "xhigh"})), "xhigh"),
        (Reasoning(effort="max", mode="adaptive"), facts("openai", "o3"), "high"),
        (Reasoning(effort="minimal"), facts("openai", "o3"), "low"),
        (Reasoning(effort="minimal"), facts("openai", "gpt-5"), "minimal"),
        (Reasoning(mode="disabled"), facts("openai", "gpt-5.1"), "none"),
        (Reasoning(mode="disabled"), facts("openai", "o3"), None),
        (Reasoning(mode="adaptive"), facts("openai", "o3"), None),
        (Reasoning(budget=-1), facts("openai", "o3"), None),
        (Reasoning(budget=1024), facts("openai", "gpt-4o"), None),
        (Reasoning(budget=1024), facts("", "gpt-oss-20b", family="gpt-oss"), "low"),
        (Reasoning(budget=1024), facts("openai", "gpt-5", reasoning="none"), None),
    ],
)
def test_effort(wish: Reasoning, to: ModelFacts, effort: str | None) -> None:
    assert write(to=to, reasoning=wish).body.get("reasoning_effort") == effort


def test_reasoning_in_the_words_of_a_vendor() -> None:
    assert write(to=facts("openrouter"), reasoning=Reasoning(budget=900)).body["reasoning"] == {"max_tokens": 900}
    assert write(to=facts("openrouter"), reasoning=Reasoning(mode="disabled")).body["reasoning"] == {"enabled": False}
    assert write(to=facts("deepseek"), reasoning=Reasoning(budget=900)).body["thinking"] == {"type": "enabled"}


def test_what_cannot_be_honoured_is_refused_and_what_is_dropped_is_told() -> None:
    assert refused(needs=(Need(reason="server_tools", where="tools.0"),)) == "server_tools"
    encoded = write(hints=("store",), extra={"context_management": {}}, cache_key="k", metadata={"a": "b"})
    assert set(encoded.warnings) == {
        "store=dropped", "context_management=dropped", "cache_key=dropped", "metadata=dropped",
    }  # fmt: skip
    marked = write(user(Text(text="a", cache="5m")))
    assert marked.body["messages"] == [{"role": "user", "content": "a"}]
    assert marked.warnings == ("cache_control=dropped",)
    claude = facts("openrouter", "anthropic/claude-sonnet-4.5", family="claude")
    assert messages(user(Text(text="a", cache="1h")), to=claude)[0]["content"] == [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ]


# Tools ----------------------------------------------------------------------------------------------------------------


def test_tools_and_choice() -> None:
    tools = (Tool(name="f", description="d", parameters=STRICT, strict=True), Tool(name="g"))
    body = write(tools=tools, choice=Choice(mode="required"), parallel=False).body
    assert body["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": STRICT, "strict": True}},
        {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    named = Choice(mode="named", name="g")
    assert write(tools=tools, choice=named).body["tool_choice"] == {"type": "function", "function": {"name": "g"}}
    assert write(tools=tools, choice=Choice(mode="none")).body["tool_choice"] == "none"
    assert write(tools=tools, choice=Choice(mode="required"), to=facts("mistral")).body["tool_choice"] == "any"
    assert refused(tools=tools, to=facts(tools=False)) == "tools"
    assert refused(tools=tools, choice=named, to=facts(forced_tools=False)) == "tools"


def test_tool_options_without_tools_are_not_sent() -> None:
    body = write(choice=Choice(mode="auto"), parallel=True).body
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


def test_only_some_tools_may_be_called() -> None:
    tools = (Tool(name="f"), Tool(name="g"))
    choice = Choice(mode="required", allowed=("g",))
    whole = write(tools=tools, choice=choice, to=facts("openai")).body
    assert len(whole["tools"]) == 2
    assert whole["tool_choice"]["allowed_tools"] == {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "g"}}],
    }
    fewer = write(tools=tools, choice=choice).body
    assert [tool["function"]["name"] for tool in fewer["tools"]] == ["g"]
    assert fewer["tool_choice"] == "required"


def test_names_fit_everywhere_and_find_back() -> None:
    long = "x" * 70
    tools = (Tool(name="a.b"), Tool(name="a_b"), Tool(name=long))
    encoded = write(
        user("go"),
        assistant(called("1", "a.b")),
        user(result("1", "x")),
        tools=tools,
        choice=Choice(mode="named", name="a.b"),
    )
    sent = [tool["function"]["name"] for tool in encoded.body["tools"]]
    assert sent[1] == "a_b"
    assert len(set(sent)) == 3
    assert all(len(name) <= 64 for name in sent)
    assert encoded.names == {sent[0]: "a.b", sent[2]: long}
    assert encoded.body["messages"][1]["tool_calls"][0]["function"]["name"] == sent[0]
    assert encoded.body["tool_choice"]["function"]["name"] == sent[0]


def test_strict_only_for_schemas_that_qualify() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "string"}}}
    encoded = write(tools=(Tool(name="f", parameters=loose, strict=True),))
    assert "strict" not in encoded.body["tools"][0]["function"]
    assert encoded.warnings == ("tools.strict=approximated",)
    form = Format(kind="json_schema", schema=loose)
    assert write(format=form).body["response_format"]["json_schema"] == {
        "name": "output",
        "schema": loose,
        "strict": False,
    }
    good = Format(kind="json_schema", name="my answer", schema=STRICT)
    assert write(format=good).body["response_format"]["json_schema"] == {
        "name": "my_answer",
        "schema": STRICT,
        "strict": True,
    }


def test_custom_tools() -> None:
    tool = Tool(name="f", description="d", custom={})
    history = (user("go"), assistant(ToolCall(id="1", name="f", arguments="x y", custom=True)), user(result("1", "r")))
    own = write(*history, tools=(tool,), dialect="responses", to=facts("openai")).body
    assert own["tools"] == [{"type": "custom", "custom": {"name": "f", "description": "d"}}]
    assert own["messages"][1]["tool_calls"][0]["custom"] == {"name": "f", "input": "x y"}
    encoded = write(*history, tools=(tool,), dialect="responses")
    assert encoded.body["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert encoded.body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"input":"x y"}'
    assert encoded.warnings == ("tools.custom=approximated",)
    grammar = {"type": "grammar", "syntax": "lark", "definition": "x"}
    need = Need(reason="tools", where="tools.0.format")
    written = write(
        tools=(Tool(name="f", custom=grammar),), needs=(need,), dialect="responses", to=facts("openai")
    ).body["tools"][0]["custom"]
    assert written["format"] == {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}
    assert refused(tools=(Tool(name="f", custom=grammar),), needs=(need,), dialect="responses") == "tools"


def test_structured_output_without_native_support() -> None:
    form = Format(kind="json_schema", schema=STRICT, strict=True)
    encoded = write(format=form, to=facts("deepseek"))
    assert encoded.format_tool == "json_response"
    assert encoded.body["tool_choice"]["function"]["name"] == "json_response"
    assert "response_format" not in encoded.body
    assert refused(format=form, tools=(Tool(name="f"),), to=facts(structured=False)) == "schema"
    assert refused(format=form, to=facts(structured=False, tools=False)) == "schema"


def test_json_mode_needs_the_word() -> None:
    form = Format(kind="json_object")
    assert [each["role"] for each in messages(format=form)] == ["system", "user"]
    assert len(messages(user("as JSON please"), format=form)) == 1


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["a"]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools.0.function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_nonsense_is_named(body: dict[str, Any], path: str) -> None:
    full = body if "messages" in body or not body else {"messages": [{"role": "user", "content": "a"}], **body}
    with pytest.raises(Malformed) as error:
        openai.read_request(full)
    assert error.value.path == path


def ask(**more: Any) -> Request:
    return openai.read_request({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more})


@pytest.mark.parametrize(
    ("more", "reasons"),
    [
        ({"n": 1, "logprobs": False, "modalities": ["text"], "audio": None}, []),
        ({"n": 2}, ["n"]),
        ({"logprobs": True, "top_logprobs": 2}, ["logprobs", "logprobs"]),
        ({"modalities": ["text", "audio"], "audio": {}}, ["audio", "audio"]),
        ({"web_search_options": {}}, ["server_tools"]),
        ({"tools": [{"type": "web_search"}]}, ["server_tools"]),
        ({"tools": [{"type": "custom", "custom": {"name": "f", "format": {"type": "grammar"}}}]}, ["tools"]),
        ({"response_format": {"type": "grammar"}}, ["schema"]),
    ],
)
def test_needs(more: dict[str, Any], reasons: list[str]) -> None:
    assert [need.reason for need in ask(**more).needs] == reasons


def test_the_old_form_of_tools() -> None:
    request = openai.read_request(
        {
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "1"},
            ],
            "functions": [{"name": "f"}],
            "function_call": {"name": "f"},
        }
    )
    call, answer = request.turns[1].parts[0], request.turns[2].parts[0]
    assert isinstance(call, ToolCall)
    assert isinstance(answer, ToolResult)
    assert call.id == answer.call_id
    assert request.choice == Choice(mode="named", name="f")
    assert request.tools == (Tool(name="f"),)


def test_signatures_in_the_history_are_read_and_kept() -> None:
    message = {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "t",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "redacted_thinking", "data": "e", "origin": "openai", "id": "rs_1"},
        ],
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "g"}},
            }
        ],
    }
    body = {"messages": [message, {"role": "tool", "tool_call_id": "1", "content": "r"}]}
    request = openai.read_request(body)
    assert request.turns[0].parts == (
        Thinking(text="t", signature="s", origin="anthropic"),
        Thinking(redacted="d", origin="anthropic"),
        Thinking(redacted="e", origin="openai", id="rs_1"),
        Text(text="a"),
        ToolCall(id="1", name="f", arguments="{}", signature="g"),
    )
    assert openai.write_request(request, facts()).body["messages"] == body["messages"]
    to_openai = openai.write_request(request, facts("openai")).body["messages"][0]
    assert not {"thinking_blocks", "reasoning_content"} & set(to_openai)
    assert "extra_content" not in to_openai["tool_calls"][0]


def test_media_of_a_chat_caller() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,aGk=", "detail": "low"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "data:text/plain,h%20i"}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "strange", "x": 1},
    ]
    request = openai.read_request({"messages": [{"role": "user", "content": parts}]})
    assert request.turns[0].parts == (
        Image(data="aGk=", media_type="image/jpeg", detail="low"),
        Image(url="https://example.com/a.png"),
        Image(data="aCBp", media_type="text/plain"),
        Media(kind="audio", data="aGk=", media_type="audio/mp3"),
        Document(data=PDF, media_type="application/pdf", name="a.pdf"),
        Document(file_id="f"),
        Opaque(dialect="chat", kind="strange", raw=parts[-1]),
    )


def test_what_only_chat_knows_comes_back() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "d", "name": "n"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            },
            {"role": "assistant", "content": "b", "prefix": True, "annotations": [{"type": "x"}]},
        ],
        "n": 2,
        "logit_bias": {"1": 2},
        "store": True,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}],
        "temperature": 0,
        "reasoning": {"effort": "low"},
    }
    assert openai.write_request(openai.read_request(body), facts(model="m")).body == body
