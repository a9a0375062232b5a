"""Requests of other dialects written for Converse: every pitfall of `providers.md` 2.9 that concerns Bedrock."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import pytest

from proxy.dialects.bedrock import read_count, read_request, write_count, write_request
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

CLAUDE = ModelFacts(
    model="us.anthropic.claude-sonnet-4-5-20250929-v1:0", dialect="bedrock", family="claude", reasoning="budget"
)
NEWER = ModelFacts(model="us.anthropic.claude-sonnet-4-6", dialect="bedrock", family="claude", reasoning="adaptive")
NOVA = ModelFacts(model="us.amazon.nova-2-lite-v1:0", dialect="bedrock", family="nova")
LLAMA = ModelFacts(model="us.meta.llama4-maverick-17b-instruct-v1:0", dialect="bedrock", family="llama")
UNKNOWN = ModelFacts(model="zai.glm-4.7-flash", dialect="bedrock")
PNG = b64encode(b"png").decode()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def system(*texts: str) -> Turn:
    return Turn(role=Role.SYSTEM, parts=tuple(Text(text=text) for text in texts))


def user(*parts: Part | str) -> Turn:
    return Turn(role=Role.USER, parts=tuple(Text(text=p) if isinstance(p, str) else p for p in parts))


def model(*parts: Part | str) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=tuple(Text(text=p) if isinstance(p, str) else p for p in parts))


def call(call_id: str, name: str = "look", arguments: str = "{}") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)


def result(call_id: str, text: str = "found") -> ToolResult:
    return ToolResult(call_id=call_id, parts=(Text(text=text),))


def write(*turns: Turn, facts: ModelFacts = CLAUDE, **fields: Any) -> Encoded:
    return write_request(Request(dialect="chat", turns=turns, **fields), facts)


def messages(*turns: Turn, facts: ModelFacts = CLAUDE, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = write(*turns, facts=facts, **fields).body["messages"]
    return found


def refused(reason: str, *turns: Turn, facts: ModelFacts = CLAUDE, **fields: Any) -> str:
    with pytest.raises(NotPortable) as caught:
        write(*turns, facts=facts, **fields)
    assert caught.value.reason == reason
    assert caught.value.detail.isascii()
    return caught.value.detail


LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {"q": {"type": "string"}}})


# Messages -------------------------------------------------------------------------------------------------------------


def test_plain_words() -> None:
    encoded = write(system("Be kind."), user("Hi"), limit=9, temperature=0.0, top_p=0.5, facts=UNKNOWN)
    assert encoded == Encoded(
        body={
            "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
            "system": [{"text": "Be kind."}],
            "inferenceConfig": {"maxTokens": 9, "temperature": 0.0, "topP": 0.5},
        }
    )


def test_system_texts_keep_their_order_and_none_is_empty() -> None:
    body = write(system("a", "", " "), system("b"), user("Hi")).body
    assert body["system"] == [{"text": "a"}, {"text": "b"}]
    assert "system" not in write(system(""), user("Hi")).body


def test_a_later_system_message_stays_in_its_place() -> None:
    encoded = write(system("a"), user("x"), model("y"), system("z"), user("w"))
    assert encoded.body["system"] == [{"text": "a"}]
    assert encoded.body["messages"][2] == {"role": "user", "content": [{"text": "<system>z</system>"}, {"text": "w"}]}
    assert encoded.warnings == ("messages=approximated",)


def test_roles_alternate() -> None:
    assert messages(user("a"), user("b"), model("c"), model("d"), user("e")) == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}, {"text": "d"}]},
        {"role": "user", "content": [{"text": "e"}]},
    ]


def test_the_user_begins_also_where_there_is_none() -> None:
    filler = {"role": "user", "content": [{"text": "."}]}
    assert messages(model("a"), user("b"))[0] == filler
    assert messages(system("only")) == [filler]


def test_no_text_is_empty() -> None:
    assert messages(user("", "a", "  "), model("", " \n"), user("b")) == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]}
    ]
    assert messages(user(""), model("x"), user("")) == [
        {"role": "user", "content": [{"text": "."}]},
        {"role": "assistant", "content": [{"text": "x"}]},
        {"role": "user", "content": [{"text": "."}]},
    ]
    assert messages(user("a"), user("")) == [{"role": "user", "content": [{"text": "a"}]}]
    assert messages(user(".")) == [{"role": "user", "content": [{"text": "."}]}]


def test_names_of_participants() -> None:
    named = replace(user("Hi"), name="ann")
    encoded = write(named, replace(model("Ho"), name="bot"), user("x"))
    assert encoded.body["messages"][0]["content"] == [{"text": "ann: Hi"}]
    assert encoded.warnings == ("name=dropped",)


def test_prefill() -> None:
    assert messages(user("a"), model("The answer is \n"))[-1] == {
        "role": "assistant",
        "content": [{"text": "The answer is"}],
    }
    refused("prefill", user("a"), model("b"), facts=replace(CLAUDE, prefill=False))
    refused("prefill", user("a"), model("b"), facts=replace(NEWER, prefill=None))
    assert messages(user("a"), model("b"), facts=replace(NEWER, prefill=True))[-1]["role"] == "assistant"


def test_a_refusal_is_text() -> None:
    assert messages(user("a"), model(Refusal(text="No.")), user("b"))[1]["content"] == [{"text": "No."}]


# Tools in the history -------------------------------------------------------------------------------------------------


def test_results_stand_together_right_behind_their_calls_and_before_words() -> None:
    found = messages(
        user("a"),
        model("I look.", call("1"), call("2", arguments='{"q":1}')),
        user("by the way"),
        user(result("2", "two")),
        user(result("1", "one")),
        tools=(LOOK,),
    )
    assert found[1]["content"] == [
        {"text": "I look."},
        {"toolUse": {"toolUseId": "1", "name": "look", "input": {}}},
        {"toolUse": {"toolUseId": "2", "name": "look", "input": {"q": 1}}},
    ]
    assert found[2:] == [
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "1", "content": [{"text": "one"}]}},
                {"toolResult": {"toolUseId": "2", "content": [{"text": "two"}]}},
                {"text": "by the way"},
            ],
        }
    ]


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_families_that_take_results_alone(family: str) -> None:
    facts = replace(UNKNOWN, family=family)
    found = messages(user("a"), model(call("1")), user(result("1"), "and?"), tools=(LOOK,), facts=facts)
    assert [message["role"] for message in found] == ["user", "assistant", "user", "assistant", "user"]
    assert found[3]["content"] == [{"text": "."}]
    assert found[4]["content"] == [{"text": "and?"}]


def test_claude_takes_no_document_beside_results() -> None:
    pdf = Document(data=PNG, media_type="application/pdf", name="a.pdf")
    found = messages(user("a"), model(call("1")), user(result("1"), pdf), tools=(LOOK,))
    assert [list(block) for block in found[-1]["content"]] == [["document"], ["text"]]
    assert len(found) == 5


def test_missing_results_are_supplied_and_orphans_become_words() -> None:
    encoded = write(user("a"), model(call("1")), user("b", result("9", "stray")), tools=(LOOK,))
    assert encoded.body["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "1", "content": [{"text": "no result was provided"}], "status": "error"}},
        {"text": "b"},
        {"text": "Result of a tool:"},
        {"text": "stray"},
    ]
    assert encoded.warnings == ("messages=approximated",)
    last = messages(user("a"), model(call("1")), tools=(LOOK,))[-1]
    assert last["role"] == "user"
    assert last["content"][0]["toolResult"]["status"] == "error"


def test_the_last_of_two_results_counts() -> None:
    found = messages(user("a"), model(call("1")), user(result("1", "x"), result("1", "y")), tools=(LOOK,))
    assert found[2]["content"] == [{"toolResult": {"toolUseId": "1", "content": [{"text": "y"}]}}]


def test_ids_are_made_valid_and_unique() -> None:
    long = "call_" + "é" * 80
    found = messages(
        user("a"),
        model(call(long), call("x y"), call("x_y")),
        user(result(long, "1"), result("x y", "2"), result("x_y", "3")),
        model(call("x_y")),
        user(result("x_y", "4")),
        tools=(LOOK,),
    )
    sent = [b["toolUse"]["toolUseId"] for m in found for b in m["content"] if "toolUse" in b]
    assert len(set(sent)) == 4
    assert all(0 < len(one) <= 64 and one.isascii() for one in sent)
    answered = [
        (b["toolResult"]["toolUseId"], b["toolResult"]["content"][0]["text"])
        for m in found
        for b in m["content"]
        if "toolResult" in b
    ]
    assert answered == list(zip(sent, "1234", strict=True))


def test_calls_that_share_an_id_take_their_results_in_order() -> None:
    found = messages(user("a"), model(call(""), call("")), user(result("", "1"), result("", "2")), tools=(LOOK,))
    ids = [block["toolUse"]["toolUseId"] for block in found[1]["content"]]
    assert [(b["toolResult"]["toolUseId"], b["toolResult"]["content"][0]["text"]) for b in found[2]["content"]] == [
        (ids[0], "1"),
        (ids[1], "2"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sent", "warned"),
    [
        ("", {}, False),
        ("{}", {}, False),
        ('{"a":', {"_raw": '{"a":'}, True),
        ("[1]", {"_raw": "[1]"}, True),
        ('{"a":1}', {"a": 1}, False),
    ],
)
def test_arguments(arguments: str, sent: Any, warned: bool) -> None:
    encoded = write(user("a"), model(call("1", arguments=arguments)), user(result("1")), tools=(LOOK,))
    assert encoded.body["messages"][1]["content"][0]["toolUse"]["input"] == sent
    assert encoded.warnings == (("tool_calls=approximated",) if warned else ())


def test_contents_of_results() -> None:
    parts = (Text(text=""), Image(data=PNG, media_type="image/png"))
    found = messages(
        user("a"),
        model(call("1"), call("2"), call("3"), call("4")),
        user(
            ToolResult(call_id="1", parts=parts, is_error=True),
            ToolResult(call_id="2", value={"a": 1}),
            ToolResult(call_id="3", value=[1]),
            ToolResult(call_id="4", parts=()),
        ),
        tools=(LOOK,),
    )
    inner = [block["toolResult"] for block in found[2]["content"]]
    assert inner[0]["content"] == [{"image": {"format": "png", "source": {"bytes": PNG}}}]
    assert inner[0]["status"] == "error"
    assert inner[1]["content"] == [{"json": {"a": 1}}]
    assert inner[2]["content"] == [{"text": "[1]"}]
    assert inner[3]["content"] == [{"text": "(no output)"}]
    llama = messages(user("a"), model(call("1")), user(replace(result("1"), is_error=True)), tools=(LOOK,), facts=LLAMA)
    assert llama[2]["content"][0]["toolResult"] == {
        "toolUseId": "1",
        "content": [{"text": "The tool failed:"}, {"text": "found"}],
    }


def test_tools_of_the_history_are_declared() -> None:
    body = write(user("a"), model(call("1", "seen")), user(result("1"))).body
    assert body["toolConfig"] == {
        "tools": [{"toolSpec": {"name": "seen", "inputSchema": {"json": {"type": "object", "properties": {}}}}}]
    }


# Reasoning in the history ---------------------------------------------------------------------------------------------


def test_only_claudes_own_reasoning_is_replayed() -> None:
    signed = Thinking(text="hm", signature="sig", origin="anthropic")
    hidden = Thinking(redacted="EtkE", origin="anthropic")
    plain = Thinking(text="hm")
    foreign = Thinking(text="hm", signature="s", origin="gemini")
    encoded = write(user("a"), model(signed, hidden, plain, foreign, "b"), user("c"))
    assert encoded.body["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": b64encode(b"EtkE").decode()}},
        {"text": "b"},
    ]
    assert encoded.warnings == ("reasoning_content=dropped",)
    assert messages(user("a"), model(signed, "b"), user("c"), facts=NOVA)[1]["content"] == [{"text": "b"}]


def test_server_tools_of_others_are_not_carried_over() -> None:
    block = Opaque(dialect="messages", kind="server_tool_use", raw={"type": "server_tool_use"})
    assert "server_tool_use" in refused("server_tools", user("a"), model(block, "b"), user("c"))


# Media ----------------------------------------------------------------------------------------------------------------


def test_images_are_bytes() -> None:
    image = Image(data=PNG, media_type="image/jpeg", detail="high")
    encoded = write(user("a", image))
    assert encoded.body["messages"][0]["content"][1] == {"image": {"format": "jpeg", "source": {"bytes": PNG}}}
    assert encoded.warnings == ("image_url.detail=dropped",)
    refused("url_images", user(Image(url="https://x.test/a.png")))
    refused("file_id", user(Image(file_id="file-1")))
    refused("vision", user(Image(data=PNG, media_type="image/tiff")))
    refused("vision", user(image), facts=replace(CLAUDE, vision=False))
    place = {"format": "jpeg", "source": {"s3Location": {"uri": "s3://b/a.jpg"}}}
    assert messages(user(Image(url="s3://b/a.jpg")), facts=NOVA)[0]["content"] == [{"image": place}]


def test_documents_have_a_name_and_a_text_beside_them() -> None:
    pdf = Document(data=PNG, media_type="application/pdf", name="Q3  report_v1.pdf", cache="5m")
    text = Document(text="hello", name="Q3  report_v1.pdf", context="old")
    content = messages(user(pdf, text))[0]["content"]
    assert content == [
        {"document": {"format": "pdf", "name": "Q3 report-v1-pdf", "source": {"bytes": PNG}}},
        {"cachePoint": {"type": "default"}},
        {
            "document": {
                "format": "txt",
                "name": "Q3 report-v1-pdf 2",
                "source": {"bytes": b64encode(b"hello").decode()},
                "context": "old",
            }
        },
        {"text": "."},
    ]
    assert messages(user(replace(text, name="")), facts=NOVA)[0]["content"][0] == {"text": "old"}
    assert messages(user(Document(text="x", name="\u00e9")))[0]["content"][0]["document"]["name"] == "document"
    refused("documents", user(pdf), facts=replace(CLAUDE, documents=False))
    refused("documents", user(Document(url="https://x.test/a.pdf", media_type="application/pdf")))
    refused("documents", user(Document(data=PNG, media_type="application/zip")))
    refused("file_id", user(Document(file_id="file-1")))


def test_audio_and_video_only_where_they_are_known_to_be_taken() -> None:
    video = Media(kind="video", data=PNG, media_type="video/mp4")
    refused("video", user(video), facts=NOVA)
    taken = messages(user(video), facts=replace(NOVA, video=True))[0]["content"]
    assert taken == [{"video": {"format": "mp4", "source": {"bytes": PNG}}}]
    refused("audio", user(Media(kind="audio", data=PNG, media_type="audio/wav")))
    refused("audio", user(Media(kind="audio", url="https://x.test/a", media_type="audio/wav")), facts=NOVA)


# Tools ----------------------------------------------------------------------------------------------------------------


def config(*turns: Turn, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = write(*(turns or (user("a"),)), **fields).body.get("toolConfig", {})
    return found


def test_tools() -> None:
    found = config(tools=(LOOK, Tool(name="bare", description=" "), Tool(name="odd", parameters={"properties": {}})))
    assert found["tools"] == [
        {"toolSpec": {"name": "look", "description": "Looks.", "inputSchema": {"json": LOOK.parameters}}},
        {"toolSpec": {"name": "bare", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
        {"toolSpec": {"name": "odd", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
    ]
    assert "toolChoice" not in found
    refused("tools", user("a"), tools=(LOOK,), facts=replace(CLAUDE, tools=False))


def test_names_are_made_valid_everywhere_and_can_be_given_back() -> None:
    tools = (Tool(name="a.b"), Tool(name="a_b"), Tool(name="x" * 70))
    encoded = write(
        user("q"),
        model(call("1", "a.b")),
        user(result("1")),
        tools=tools,
        choice=Choice(mode="named", name="a.b"),
    )
    sent = [entry["toolSpec"]["name"] for entry in encoded.body["toolConfig"]["tools"]]
    assert sent == ["a_b_2", "a_b", "x" * 64]
    assert encoded.names == {"a_b_2": "a.b", "x" * 64: "x" * 70}
    assert encoded.body["messages"][1]["content"][0]["toolUse"]["name"] == "a_b_2"
    assert encoded.body["toolConfig"]["toolChoice"] == {"tool": {"name": "a_b_2"}}


def test_choice() -> None:
    assert "toolChoice" not in config(tools=(LOOK,), choice=Choice(mode="auto"))
    assert config(tools=(LOOK,), choice=Choice(mode="required"))["toolChoice"] == {"any": {}}
    assert config(tools=(LOOK,), choice=Choice(mode="none")) == {}
    two = (LOOK, Tool(name="other"))
    assert len(config(tools=two, choice=Choice(mode="required", allowed=("look",)))["tools"]) == 1
    refused(
        "tools", user("a"), tools=(LOOK,), choice=Choice(mode="required"), facts=replace(CLAUDE, forced_tools=False)
    )
    refused("tools", user("a"), tools=(LOOK,), choice=Choice(mode="named", name="gone"))


def test_a_certain_tool_of_a_model_that_can_only_be_told_to_call_some() -> None:
    two = (LOOK, Tool(name="other"))
    found = config(tools=two, choice=Choice(mode="named", name="other"), facts=UNKNOWN)
    assert found["toolChoice"] == {"any": {}}
    assert [entry["toolSpec"]["name"] for entry in found["tools"]] == ["other"]


def test_no_tools_although_the_history_has_some() -> None:
    encoded = write(user("a"), model(call("1")), user(result("1")), tools=(LOOK,), choice=Choice(mode="none"))
    assert len(encoded.body["toolConfig"]["tools"]) == 1
    assert "toolChoice" not in encoded.body["toolConfig"]
    assert encoded.body["system"] == [{"text": "Do not call any tool. Answer in words."}]
    assert encoded.warnings == ("tool_choice=approximated",)


def test_one_call_at_a_time_is_asked_for_in_words() -> None:
    encoded = write(user("a"), tools=(LOOK,), parallel=False)
    assert encoded.body["system"] == [{"text": "Call at most one tool at a time."}]
    assert encoded.warnings == ("parallel_tool_calls=approximated",)
    assert "system" not in write(user("a"), parallel=False).body


def test_custom_and_strict_tools() -> None:
    encoded = write(
        user("a"), model(replace(call("1", "free", "go"), custom=True)), tools=(Tool(name="free", custom={}),)
    )
    spec = encoded.body["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["inputSchema"]["json"]["required"] == ["input"]
    assert encoded.body["messages"][1]["content"][0]["toolUse"]["input"] == {"input": "go"}
    strict = Tool(name="s", parameters=SCHEMA, strict=True)
    assert "tools=approximated" in encoded.warnings
    assert config(tools=(strict,), facts=replace(CLAUDE, structured=True))["tools"][0]["toolSpec"]["strict"] is True
    encoded = write(user("a"), tools=(strict,))
    assert "strict" not in encoded.body["toolConfig"]["tools"][0]["toolSpec"]
    assert encoded.warnings == ("strict=dropped",)


# The form of the answer -----------------------------------------------------------------------------------------------


def test_a_schema_goes_as_text_where_the_model_knows_structured_output() -> None:
    wanted = Format(kind="json_schema", name="my answer", schema=SCHEMA, description="d")
    body = write(user("a"), format=wanted, facts=replace(CLAUDE, structured=True)).body
    inner = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert body["outputConfig"]["textFormat"]["type"] == "json_schema"
    assert isinstance(inner["schema"], str)
    assert json.loads(inner["schema"]) == SCHEMA
    assert inner["name"] == "my_answer"
    assert inner["description"] == "d"


def test_what_a_schema_cannot_say_there_goes_into_words() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "description": "A number."}}}
    encoded = write(user("a"), format=Format(kind="json_schema", schema=schema), facts=replace(CLAUDE, structured=True))
    inner = json.loads(encoded.body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    assert inner["additionalProperties"] is False
    assert inner["properties"]["n"] == {"type": "integer", "description": "A number. (minimum: 1)"}
    assert encoded.warnings == ("response_format=approximated",)


@pytest.mark.parametrize("facts", [CLAUDE, replace(CLAUDE, structured=False), UNKNOWN])
def test_elsewhere_a_tool_has_to_be_called_with_it(facts: ModelFacts) -> None:
    encoded = write(user("a"), format=Format(kind="json_schema", name="x", schema=SCHEMA), facts=facts)
    assert encoded.format_tool == "json_response"
    named = {"tool": {"name": "json_response"}} if facts is not UNKNOWN else {"any": {}}
    assert encoded.body["toolConfig"]["toolChoice"] == named
    assert encoded.body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": SCHEMA}
    assert encoded.warnings == ("response_format=approximated",)


def test_free_keys_cannot_be_closed_so_the_tool_takes_them() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    encoded = write(user("a"), format=Format(kind="json_schema", schema=schema), facts=replace(CLAUDE, structured=True))
    assert encoded.format_tool == "json_response"


def test_a_schema_is_never_lost() -> None:
    wanted = Format(kind="json_schema", schema=SCHEMA)
    refused("schema", user("a"), format=wanted, tools=(LOOK,))
    refused("schema", user("a"), format=wanted, reasoning=Reasoning(effort="low"))
    refused("schema", user("a"), format=wanted, facts=replace(CLAUDE, forced_tools=False))
    refused("schema", user("a"), format=replace(wanted, schema={"type": "array"}))


def test_any_json_is_asked_for_in_words() -> None:
    encoded = write(system("s"), user("a"), format=Format(kind="json_object"))
    assert encoded.body["system"] == [{"text": "s"}, {"text": "Respond with a single JSON object only."}]
    assert encoded.warnings == ("response_format=approximated",)


# Sampling -------------------------------------------------------------------------------------------------------------


def test_temperature() -> None:
    encoded = write(user("a"), temperature=1.7)
    assert encoded.body["inferenceConfig"] == {"temperature": 1.0}
    assert encoded.warnings == ("temperature=approximated",)
    assert write(user("a"), temperature=0.0).body["inferenceConfig"] == {"temperature": 0.0}


def test_one_of_temperature_and_top_p() -> None:
    encoded = write(user("a"), temperature=0.5, top_p=0.9)
    assert encoded.body["inferenceConfig"] == {"temperature": 0.5}
    assert encoded.warnings == ("top_p=dropped",)
    both = replace(CLAUDE, both_sampling=True)
    assert write(user("a"), temperature=0.5, top_p=0.9, facts=both).body["inferenceConfig"]["topP"] == 0.9


@pytest.mark.parametrize(
    "facts", [replace(CLAUDE, sampling=False), replace(CLAUDE, model="us.anthropic.claude-opus-4-8")]
)
def test_models_without_sampling(facts: ModelFacts) -> None:
    encoded = write(user("a"), temperature=0.0, top_p=0.5, top_k=3, facts=facts)
    assert list(encoded.body) == ["messages"]
    assert encoded.warnings == ("temperature=dropped", "top_p=dropped", "top_k=dropped")


def test_top_k() -> None:
    assert write(user("a"), top_k=5).body["additionalModelRequestFields"] == {"top_k": 5}
    assert write(user("a"), top_k=5, facts=NOVA).body["additionalModelRequestFields"] == {
        "inferenceConfig": {"topK": 5}
    }
    assert write(user("a"), top_k=5, facts=LLAMA).warnings == ("top_k=dropped",)


def test_stop_sequences() -> None:
    encoded = write(user("a"), stop=("END", "", "\n"))
    assert encoded.body["inferenceConfig"]["stopSequences"] == ["END"]
    assert encoded.body["additionalModelResponseFieldPaths"] == ["/stop_sequence"]
    assert encoded.warnings == ("stop=dropped",)
    assert write(user("a"), stop=("\n",), facts=LLAMA).body["inferenceConfig"]["stopSequences"] == ["\n"]
    refused("stop", user("a"), stop=tuple("abcde"), facts=NOVA)
    refused("stop", user("a"), stop=("a",), facts=replace(LLAMA, stop=False))


def test_the_limit_is_optional_and_never_above_the_models() -> None:
    assert "inferenceConfig" not in write(user("a")).body
    encoded = write(user("a"), limit=99_999, facts=replace(CLAUDE, max_output_tokens=8192))
    assert encoded.body["inferenceConfig"] == {"maxTokens": 8192}
    assert encoded.warnings == ("max_completion_tokens=approximated",)


def test_hints_are_dropped_aloud() -> None:
    encoded = write(
        user("a"), seed=0, user="u", presence_penalty=0.5, verbosity="low", hints=("store",), extra={"odd": 1}
    )
    assert list(encoded.body) == ["messages"]
    assert set(encoded.warnings) == {
        "seed=dropped",
        "user=dropped",
        "presence_penalty=dropped",
        "verbosity=dropped",
        "store=dropped",
        "odd=dropped",
    }


def test_needs_exclude() -> None:
    assert "logprobs" in refused("logprobs", user("a"), needs=(Need(reason="logprobs", where="logprobs"),))


@pytest.mark.parametrize(
    ("tier", "sent"), [("auto", "default"), ("flex", "flex"), ("priority", "priority"), ("standard_only", "default")]
)
def test_service_tier(tier: str, sent: str) -> None:
    assert write(user("a"), service_tier=tier).body["serviceTier"] == {"type": sent}
    assert write(user("a"), service_tier="scale").warnings == ("service_tier=dropped",)


# Reasoning ------------------------------------------------------------------------------------------------------------


def fields(facts: ModelFacts, *turns: Turn, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = write(*(turns or (user("a"),)), facts=facts, **more).body.get(
        "additionalModelRequestFields", {}
    )
    return found


@pytest.mark.parametrize(
    ("reasoning", "limit", "budget"),
    [
        (Reasoning(effort="low"), 8000, 1024),
        (Reasoning(effort="high"), 8000, 4096),
        (Reasoning(effort="max"), 8000, 6400),
        (Reasoning(effort="max"), None, 16384),
        (Reasoning(budget=5000, mode="enabled"), 8000, 5000),
        (Reasoning(budget=8000, mode="enabled"), 8000, 6400),
        (Reasoning(effort="high"), 1025, 1024),
        (Reasoning(mode="adaptive"), 8000, 2048),
        (Reasoning(effort="high"), 1024, None),
        (Reasoning(effort="none"), 8000, None),
        (Reasoning(), 8000, None),
    ],
)
def test_claude_with_a_budget_below_the_limit(reasoning: Reasoning, limit: int | None, budget: int | None) -> None:
    found = fields(CLAUDE, reasoning=reasoning, limit=limit)
    assert found == ({} if budget is None else {"thinking": {"type": "enabled", "budget_tokens": budget}})
    if limit is not None and budget is not None:
        assert 1024 <= budget < limit


def test_thinking_forbids_sampling_and_forced_calls() -> None:
    encoded = write(user("a"), reasoning=Reasoning(effort="low"), temperature=0.2, top_k=4, limit=9000)
    assert encoded.body["inferenceConfig"] == {"maxTokens": 9000}
    assert set(encoded.warnings) == {"reasoning_effort=approximated", "temperature=dropped", "top_k=dropped"}
    forced = write(user("a"), reasoning=Reasoning(effort="low"), tools=(LOOK,), choice=Choice(mode="required"))
    assert "additionalModelRequestFields" not in forced.body
    assert "reasoning_effort=dropped" in forced.warnings


def test_a_tool_loop_that_began_without_reasoning_goes_on_without() -> None:
    turns = (user("a"), model(call("1")), user(result("1")))
    encoded = write(*turns, reasoning=Reasoning(effort="low"), tools=(LOOK,))
    assert "additionalModelRequestFields" not in encoded.body
    assert "reasoning_effort=dropped" in encoded.warnings
    thought = model(Thinking(text="t", signature="s", origin="anthropic"), call("1"))
    assert "thinking" in fields(CLAUDE, turns[0], thought, turns[2], reasoning=Reasoning(effort="low"), tools=(LOOK,))


def test_adaptive_claude() -> None:
    shown = {"type": "adaptive", "display": "summarized"}
    assert fields(NEWER, reasoning=Reasoning(effort="high")) == {
        "output_config": {"effort": "high"},
        "thinking": shown,
    }
    assert fields(NEWER, reasoning=Reasoning(effort="minimal"))["output_config"] == {"effort": "low"}
    assert fields(NEWER, reasoning=Reasoning(effort="xhigh"))["output_config"] == {"effort": "high"}
    more = replace(NEWER, efforts=frozenset({"low", "medium", "high", "max"}))
    assert fields(more, reasoning=Reasoning(effort="max"))["output_config"] == {"effort": "max"}
    assert fields(NEWER, reasoning=Reasoning(budget=4000))["output_config"] == {"effort": "medium"}
    assert fields(NEWER, reasoning=Reasoning(mode="adaptive", shown=False)) == {"thinking": {"type": "adaptive"}}
    assert fields(NEWER, reasoning=Reasoning(effort="none")) == {}
    later = replace(NEWER, model="us.anthropic.claude-sonnet-5")
    assert fields(later, reasoning=Reasoning(effort="none")) == {"thinking": {"type": "disabled"}}
    forced = fields(NEWER, reasoning=Reasoning(effort="low"), tools=(LOOK,), choice=Choice(mode="required"))
    assert forced == {"output_config": {"effort": "low"}}
    forced = fields(more, reasoning=Reasoning(effort="max"), tools=(LOOK,), choice=Choice(mode="required"))
    assert forced == {"output_config": {"effort": "high"}}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("anthropic.claude-3-haiku-20240307-v1:0", None),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", None),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "enabled"),
        ("us.anthropic.claude-opus-4-20250514-v1:0", "enabled"),
        ("us.anthropic.claude-sonnet-4-6", "adaptive"),
        ("us.anthropic.claude-sonnet-5", "adaptive"),
    ],
)
def test_how_claude_reasons_is_told_by_its_name(name: str, kind: str | None) -> None:
    facts = replace(CLAUDE, model=name, reasoning=None)
    encoded = write(user("a"), reasoning=Reasoning(effort="low"), facts=facts)
    if kind is None:
        assert encoded.warnings == ("reasoning_effort=dropped",)
    else:
        assert encoded.body["additionalModelRequestFields"]["thinking"]["type"] == kind


def test_nova_and_gpt_oss() -> None:
    assert fields(NOVA, reasoning=Reasoning(effort="low")) == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}
    }
    high = write(user("a"), reasoning=Reasoning(effort="high"), temperature=0.1, facts=NOVA)
    assert high.body["additionalModelRequestFields"]["reasoningConfig"]["maxReasoningEffort"] == "high"
    assert high.warnings == ("temperature=dropped",)
    limited = fields(NOVA, reasoning=Reasoning(effort="high"), limit=100)
    assert limited["reasoningConfig"]["maxReasoningEffort"] == "medium"
    assert fields(NOVA, reasoning=Reasoning(effort="none")) == {}
    older = replace(NOVA, model="amazon.nova-micro-v1:0")
    assert write(user("a"), reasoning=Reasoning(effort="low"), facts=older).warnings == ("reasoning_effort=dropped",)
    oss = ModelFacts(model="openai.gpt-oss-120b-1:0", dialect="bedrock", family="gpt-oss")
    assert fields(oss, reasoning=Reasoning(effort="medium")) == {"reasoning_effort": "medium"}
    assert fields(oss, reasoning=Reasoning(effort="none")) == {"reasoning_effort": "low"}
    assert write(user("a"), reasoning=Reasoning(effort="low"), facts=LLAMA).warnings == ("reasoning_effort=dropped",)


# Caches ---------------------------------------------------------------------------------------------------------------


def test_cache_points() -> None:
    turns = (
        Turn(role=Role.SYSTEM, parts=(Text(text="s", cache="1h"),)),
        user(Text(text="a", cache="5m")),
    )
    body = write(*turns, tools=(replace(LOOK, cache="5m"),)).body
    assert body["system"] == [{"text": "s"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert body["messages"][0]["content"] == [{"text": "a"}, {"cachePoint": {"type": "default"}}]
    assert body["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}
    encoded = write(*turns, facts=LLAMA)
    assert "cachePoint" not in json.dumps(encoded.body)
    assert encoded.warnings == ("cache_control=dropped",)
    assert write(*turns, facts=NOVA).body["system"][1] == {"cachePoint": {"type": "default"}}


def test_no_more_than_four_cache_points() -> None:
    encoded = write(user(*(Text(text=f"{n}", cache="5m") for n in range(6))))
    assert json.dumps(encoded.body).count("cachePoint") == 4
    assert encoded.warnings == ("cache_control=dropped",)


# Counting, reading ----------------------------------------------------------------------------------------------------


def test_count() -> None:
    request = Request(dialect="messages", turns=(system("s"), user("a")), tools=(LOOK,), limit=5, temperature=0.1)
    assert list(write_count(request, CLAUDE).body["input"]["converse"]) == ["messages", "system", "toolConfig"]
    assert read_count({"inputTokens": 7}) == 7
    with pytest.raises(ValueError, match="tokens"):
        read_count({"message": "no"})


def test_nothing_that_was_given_is_changed() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"m": {"oneOf": [{"type": "string", "maxLength": 3}]}}}
    before = json.dumps(schema)
    request = Request(
        dialect="chat",
        turns=(user("a"),),
        tools=(Tool(name="t", parameters=schema, strict=True),),
        format=Format(kind="json_schema", schema=schema),
    )
    write_request(request, replace(CLAUDE, structured=True))
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [{"role": "tool", "content": []}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0"),
        ({"messages": [], "inferenceConfig": []}, "inferenceConfig"),
        ({"messages": [], "inferenceConfig": {"maxTokens": "9"}}, "maxTokens"),
        (
            {"messages": [], "outputConfig": {"textFormat": {"structure": {"jsonSchema": {"schema": "{"}}}}},
            "outputConfig.textFormat.structure.jsonSchema.schema",
        ),
    ],
)
def test_nonsense_is_malformed(body: Any, path: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_request(body)
    assert caught.value.path == path


def test_what_is_read_can_be_written_for_another_model() -> None:
    body = {
        "messages": [{"role": "user", "content": [{"text": "a"}, {"guardContent": {"text": {"text": "g"}}}]}],
        "toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 3},
    }
    request = read_request(body)
    assert request.reasoning == Reasoning(budget=2000, mode="enabled")
    assert request.top_k == 3
    assert request.needs[0].reason == "server_tools"
    assert write_request(request, UNKNOWN).body == body


def test_redacted_reasoning_is_wrapped_once_more() -> None:
    data = "EtkECkgIBxABGAIq"
    blob = b64encode(data.encode()).decode()
    body = {"messages": [{"role": "assistant", "content": [{"reasoningContent": {"redactedContent": blob}}]}]}
    (turn,) = read_request(body).turns
    assert turn.parts == (Thinking(redacted=data, origin="anthropic"),)
    written = write_request(read_request(body), UNKNOWN).body["messages"][0]["content"][0]
    assert b64decode(written["reasoningContent"]["redactedContent"]).decode() == data
