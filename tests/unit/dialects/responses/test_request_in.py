from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects import responses
from proxy.dialects.chat import (
    Choice,
    Document,
    Format,
    Image,
    Malformed,
    Need,
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


def read(**body: Any) -> Request:
    return responses.read_request({"model": "m", "input": "hi", **body})


def turns(*items: Any) -> tuple[Turn, ...]:
    return read(input=list(items)).turns


def part(raw: dict[str, Any]) -> Part:
    return turns({"role": "user", "content": [raw]})[0].parts[0]


def test_plain_input_and_instructions() -> None:
    request = read(instructions="be brief")
    assert request.dialect == "responses"
    assert request.turns == (
        Turn(role=Role.SYSTEM, parts=(Text(text="be brief"),)),
        Turn(role=Role.USER, parts=(Text(text="hi"),)),
    )
    assert request.include_usage


def test_items_of_the_model_make_one_turn_and_so_do_results() -> None:
    found = turns(
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "g",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    )
    assert found == (
        Turn(role=Role.SYSTEM, parts=(Text(text="d"),), developer=True),
        Turn(role=Role.USER, parts=(Text(text="q"),)),
        Turn(
            role=Role.ASSISTANT,
            parts=(
                Thinking(text="hm", redacted="g", origin="openai", id="rs_1"),
                Text(text="a"),
                ToolCall(id="c1", name="f", arguments='{"a":1}'),
                ToolCall(id="c2", name="sh", arguments="ls", custom=True),
            ),
        ),
        Turn(
            role=Role.USER,
            parts=(
                ToolResult(call_id="c1", parts=(Text(text="one"),)),
                ToolResult(call_id="c2", parts=(Text(text="two"),), custom=True),
            ),
        ),
        Turn(role=Role.ASSISTANT, parts=(Refusal(text="no"),)),
    )


def test_two_messages_of_the_model_stay_apart() -> None:
    found = turns({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})
    assert [turn.parts for turn in found] == [(Text(text="a"),), (Text(text="b"),)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"type": "input_image", "image_url": "https://x/y.png"}, Image(url="https://x/y.png")),
        (
            {"type": "input_image", "image_url": "data:image/jpg;base64,AA==", "detail": "low"},
            Image(data="AA==", media_type="image/jpeg", detail="low"),
        ),
        ({"type": "input_image", "file_id": "file_1"}, Image(file_id="file_1")),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
            Document(data="AA==", media_type="application/pdf", name="a.pdf"),
        ),
        (
            {"type": "input_file", "file_url": "https://x/a.pdf"},
            Document(url="https://x/a.pdf", media_type="application/pdf"),
        ),
        ({"type": "input_file", "file_id": "file_1"}, Document(file_id="file_1")),
    ],
)
def test_parts(raw: dict[str, Any], expected: Part) -> None:
    """P57."""
    assert part(raw) == expected


def test_results_carry_images() -> None:
    content = [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "https://x"}]
    result = turns({"type": "function_call_output", "call_id": "c", "output": content})[0].parts[0]
    assert isinstance(result, ToolResult)
    assert result.parts == (Text(text="t"), Image(url="https://x"))


@pytest.mark.parametrize(
    ("body", "need"),
    [
        ({"previous_response_id": "resp_1"}, Need(reason="state", where="previous_response_id")),
        ({"conversation": {"id": "c"}}, Need(reason="state", where="conversation")),
        ({"prompt": {"id": "p"}}, Need(reason="state", where="prompt")),
        ({"background": True}, Need(reason="background", where="background")),
        ({"top_logprobs": 2}, Need(reason="logprobs", where="top_logprobs")),
        ({"include": ["message.output_text.logprobs"]}, Need(reason="logprobs", where="include")),
        ({"tools": [{"type": "web_search"}]}, Need(reason="server_tools", where="tools.0.type=web_search")),
        ({"tool_choice": {"type": "mcp"}}, Need(reason="server_tools", where="tool_choice.type=mcp")),
        ({"input": [{"type": "item_reference", "id": "x"}]}, Need(reason="state", where="input.0.type=item_reference")),
        ({"input": [{"id": "x"}]}, Need(reason="state", where="input.0.type=item_reference")),
        (
            {"input": [{"type": "web_search_call", "id": "x"}]},
            Need(reason="server_tools", where="input.0.type=web_search_call"),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            Need(reason="file_id", where="input.0.content.0.file_id"),
        ),
        (
            {"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar", "syntax": "lark"}}]},
            Need(reason="tools", where="tools.0.format"),
        ),
    ],
)
def test_what_no_other_api_can_honour(body: dict[str, Any], need: Need) -> None:
    assert read(**body).needs == (need,)


@pytest.mark.parametrize(
    "body",
    [
        {"background": False, "top_logprobs": 0, "previous_response_id": None},
        {"store": True, "truncation": "auto", "max_tool_calls": 3, "stream_options": {"include_obfuscation": False}},
        {"include": ["reasoning.encrypted_content"], "prompt_cache_options": {"mode": "implicit"}},
    ],
)
def test_hints_are_no_needs(body: dict[str, Any]) -> None:
    request = read(**body)
    assert request.needs == ()
    assert set(request.extra) == {key for key, value in body.items() if value is not None}


def test_options() -> None:
    request = read(
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        parallel_tool_calls=False,
        text={"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        reasoning={"effort": "high", "summary": "auto"},
        metadata={"a": "b"},
        user="u",
        prompt_cache_key="k",
        service_tier="flex",
        stream=True,
    )
    assert (request.limit, request.temperature, request.top_p, request.parallel) == (9, 0, 0.5, False)
    assert request.format == Format(kind="json_schema", name="n", schema={"type": "object"})
    assert request.reasoning == Reasoning(effort="high", shown=True)
    assert (request.verbosity, request.user, request.cache_key, request.service_tier) == ("low", "u", "k", "flex")
    assert request.stream
    assert request.metadata == {"a": "b"}
    assert request.extra == {}
    assert read(text={"format": {"type": "text"}}).format is None
    assert read(text={"format": {"type": "json_object"}}).format == Format(kind="json_object")
    assert read(safety_identifier="s", user="u").user == "s"


def test_tools() -> None:
    schema = {"type": "object", "properties": {}}
    request = read(
        tools=[
            {"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True},
            {"type": "function", "name": "g"},
            {"type": "custom", "name": "sh"},
            {"type": "function", "function": {"name": "h", "parameters": schema}},
        ]
    )
    assert request.tools == (
        Tool(name="f", description="d", parameters=schema, strict=True),
        Tool(name="g"),
        Tool(name="sh", custom={}),
        Tool(name="h", parameters=schema),
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("none", Choice(mode="none")),
        ("auto", Choice(mode="auto")),
        ("required", Choice(mode="required")),
        ({"type": "function", "name": "f"}, Choice(mode="named", name="f")),
        ({"type": "function", "function": {"name": "f"}}, Choice(mode="named", name="f")),
        ({"type": "custom", "name": "f"}, Choice(mode="named", name="f")),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            Choice(mode="required", allowed=("f",)),
        ),
    ],
)
def test_choice(raw: Any, expected: Choice) -> None:
    assert read(tool_choice=raw).choice == expected


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 3}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input.0.content.0"),
        ({"tools": {}}, "tools"),
        ({"tools": [3]}, "tools.0"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools.0.parameters"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"temperature": "x"}, "temperature"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_nonsense_is_named(body: dict[str, Any], path: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(**body)
    assert caught.value.path == path


def test_blocks_of_the_api_are_kept_whole() -> None:
    raw = {"type": "web_search_call", "id": "ws_1"}
    assert turns(raw)[0].parts == (Opaque(dialect="responses", kind="web_search_call", raw=raw),)
