"""Bodies of Gemini's callers in canonical form."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.chat import (
    Choice,
    Document,
    Format,
    Image,
    Malformed,
    Media,
    ModelFacts,
    Need,
    Opaque,
    Reasoning,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from proxy.dialects.gemini import read_request, write_request

HI = [{"role": "user", "parts": [{"text": "hi"}]}]


def read(**members: Any) -> Request:
    return read_request({"contents": HI, **members})


def parts(*written: Any) -> tuple[Any, ...]:
    return read_request({"contents": [{"role": "model", "parts": list(written)}]}).turns[0].parts


def test_both_spellings() -> None:
    camel = read(
        systemInstruction={"parts": [{"text": "s"}]},
        generationConfig={"maxOutputTokens": 5, "topP": 0.5, "stopSequences": ["x"], "temperature": 0},
        toolConfig={"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        tools=[{"functionDeclarations": [{"name": "f"}]}],
    )
    snake = read(
        system_instruction={"parts": [{"text": "s"}]},
        generation_config={"max_output_tokens": 5, "top_p": 0.5, "stop_sequences": ["x"], "temperature": 0},
        tool_config={"function_calling_config": {"mode": "any", "allowed_function_names": ["f"]}},
        tools=[{"function_declarations": [{"name": "f"}]}],
    )
    assert camel == snake
    assert (camel.limit, camel.top_p, camel.stop, camel.temperature) == (5, 0.5, ("x",), 0)
    assert camel.choice == Choice(mode="named", name="f")
    assert [turn.role for turn in camel.turns] == [Role.SYSTEM, Role.USER]


def test_parts() -> None:
    assert parts(
        {"text": "a", "thoughtSignature": "s"},
        {"text": "hm", "thought": True, "thought_signature": "t"},
        {"function_call": {"name": "f", "args": {"x_y": 1}}, "thoughtSignature": "u"},
        {"inline_data": {"mime_type": "image/jpg", "data": "-_8"}},
        {"fileData": {"mimeType": "audio/mpeg", "fileUri": "https://a.example/b.mp3"}},
        {
            "fileData": {
                "mimeType": "application/pdf",
                "fileUri": "https://generativelanguage.googleapis.com/v1/files/x",
            }
        },
        {"executableCode": {"code": "1"}},
    ) == (
        Text(text="a", signature="s"),
        Thinking(text="hm", signature="t", origin="gemini"),
        ToolCall(id="", name="f", arguments='{"x_y":1}', signature="u"),
        Image(data="+/8=", media_type="image/jpeg"),
        Media(kind="audio", url="https://a.example/b.mp3", media_type="audio/mpeg"),
        Document(file_id="https://generativelanguage.googleapis.com/v1/files/x", media_type="application/pdf"),
        Opaque(dialect="gemini", kind="executableCode", raw={"executableCode": {"code": "1"}}),
    )


def test_results() -> None:
    assert parts(
        {"functionResponse": {"id": "1", "name": "f", "response": {"a": 1}}},
        {"functionResponse": {"name": "f", "response": {"error": "bad"}}},
        {
            "functionResponse": {
                "name": "f",
                "response": {"a": 1},
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
            }
        },
    ) == (
        ToolResult(call_id="1", name="f", value={"a": 1}),
        ToolResult(call_id="", name="f", value={"error": "bad"}, is_error=True),
        ToolResult(call_id="", name="f", parts=(Text(text='{"a":1}'), Image(data="AAAA", media_type="image/png"))),
    )


def test_schemas_become_json_schema() -> None:
    schema = {"type": "OBJECT", "properties": {"type": {"type": "STRING", "nullable": True}}}
    read_schema = {"type": "object", "properties": {"type": {"type": ["string", "null"]}}}
    got = read(
        tools=[{"functionDeclarations": [{"name": "f", "parameters": schema}]}],
        generationConfig={"responseSchema": schema, "responseMimeType": "application/json"},
    )
    assert got.tools == (Tool(name="f", parameters=read_schema),)
    assert got.format == Format(kind="json_schema", schema=read_schema, strict=True)
    assert read(generationConfig={"responseMimeType": "application/json"}).format == Format(kind="json_object")


def test_reasoning() -> None:
    level = read(generationConfig={"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}})
    assert level.reasoning == Reasoning(effort="low", shown=True)
    budget = read(generationConfig={"thinking_config": {"thinking_budget": -1}})
    assert budget.reasoning == Reasoning(budget=-1)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"generationConfig": {"candidateCount": 2}}, "n"),
        ({"generationConfig": {"responseLogprobs": True}}, "logprobs"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "modalities"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "schema"),
        ({"cachedContent": "cachedContents/1"}, "state"),
        ({"tools": [{"googleSearch": {}}]}, "server_tools"),
    ],
)
def test_what_only_gemini_can_do(members: dict[str, Any], reason: str) -> None:
    got = read(**members)
    assert [need.reason for need in got.needs] == [reason]
    body = write_request(got, ModelFacts(model="gemini-2.5-flash", dialect="gemini")).body
    assert {key: body[key] for key in members} == members


def test_what_other_dialects_may_drop_is_kept_for_this_one() -> None:
    members = {
        "labels": {"a": "b"},
        "safetySettings": [{"category": "c", "threshold": "d"}],
        "generationConfig": {"candidateCount": 1, "mediaResolution": "MEDIA_RESOLUTION_LOW"},
        "tools": [{"functionDeclarations": [{"name": "f", "response": {"type": "STRING"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}, "retrievalConfig": {"languageCode": "en"}},
    }
    got = read(**members)
    assert got.needs == ()
    body = write_request(got, ModelFacts(model="gemini-2.5-flash", dialect="gemini")).body
    assert body == {"contents": HI, **members}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": 3}, "contents"),
        ({"contents": ["x"]}, "contents.0"),
        ({"contents": [{"role": "robot", "parts": []}]}, "contents.0.role"),
        ({"contents": [{"parts": 3}]}, "contents.0.parts"),
        ({"contents": [{"parts": [3]}]}, "contents.0.parts.0"),
        ({"contents": HI, "tools": [{"functionDeclarations": [{}]}]}, "tools.0.functionDeclarations"),
    ],
)
def test_nonsense(body: dict[str, Any], path: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_request(body)
    assert caught.value.path == path


def test_need_names_the_field() -> None:
    assert read(tools=[{"code_execution": {}}]).needs == (Need(reason="server_tools", where="tools.0.codeExecution"),)
