from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects import responses
from proxy.dialects.chat import (
    Choice,
    Document,
    Encoded,
    Format,
    Image,
    ModelFacts,
    Need,
    NotPortable,
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

FACTS = ModelFacts(model="gpt-5-pro", dialect="openai", vendor="openai")
STRICT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
LOOSE = {"type": "object", "properties": {"a": {"type": "string"}}}


def user(*parts: Part) -> Turn:
    return Turn(role=Role.USER, parts=parts or (Text(text="hi"),))


def model(*parts: Part) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=parts)


def write(*turns: Turn, facts: ModelFacts = FACTS, dialect: str = "chat", **more: Any) -> Encoded:
    return responses.write_request(Request(dialect=dialect, turns=turns or (user(),), **more), facts)


def items(*turns: Turn, **more: Any) -> list[Any]:
    found: list[Any] = write(*turns, **more).body["input"]
    return found


def again(**body: Any) -> dict[str, Any]:
    """What a body becomes in the same dialect."""
    return responses.write_request(responses.read_request({"model": "gpt-5-pro", **body}), FACTS).body


def test_a_small_request() -> None:
    system = Turn(role=Role.SYSTEM, parts=(Text(text="be brief"),))
    more = Turn(role=Role.SYSTEM, parts=(Text(text="be kind"),), developer=True)
    late = Turn(role=Role.SYSTEM, parts=(Text(text="now"),), developer=True)
    encoded = write(system, more, user(), late, user(), stream=True, limit=99, temperature=0)
    assert encoded.body == {
        "model": "gpt-5-pro",
        "input": [
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "now"},
            {"role": "user", "content": "hi"},
        ],
        "instructions": "be brief\n\nbe kind",
        "max_output_tokens": 99,
        "temperature": 0,
        "stream": True,
        "store": False,
    }
    assert encoded.warnings == ()


def test_history_with_tools() -> None:
    found = items(
        user(),
        model(
            Thinking(text="x", signature="s", origin="anthropic"),
            Text(text="a"),
            Refusal(text="no"),
            ToolCall(id="c1", name="my tool", arguments=""),
            ToolCall(id="c2" * 40, name="f", arguments="{bad"),
        ),
        user(
            ToolResult(call_id="c2" * 40, value={"ok": 1}),
            ToolResult(call_id="c1", parts=(Text(text="t"), Image(url="https://x")), is_error=True),
            Text(text="go on"),
        ),
    )
    long = found[3]["call_id"]
    assert len(long) <= 64
    assert found[1:] == [
        {"role": "assistant", "content": "ano"},
        {"type": "function_call", "call_id": "c1", "name": "my_tool", "arguments": "{}"},
        {"type": "function_call", "call_id": long, "name": "f", "arguments": "{bad"},
        {"type": "function_call_output", "call_id": long, "output": '{"ok":1}'},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [
                {"type": "input_text", "text": "Error:"},
                {"type": "input_text", "text": "t"},
                {"type": "input_image", "image_url": "https://x", "detail": "auto"},
            ],
        },
        {"role": "user", "content": "go on"},
    ]


def test_every_call_has_one_result() -> None:
    """P15."""
    encoded = write(
        user(),
        model(ToolCall(id="c1", name="f", arguments="{}"), ToolCall(id="c2", name="f", arguments="{}")),
        user(
            ToolResult(call_id="c1", parts=(Text(text="one"),)),
            ToolResult(call_id="c1", parts=(Text(text="two"),)),
            ToolResult(call_id="c9", parts=(Text(text="lost"),)),
        ),
        user(),
    )
    outputs = [item for item in encoded.body["input"] if item.get("type") == "function_call_output"]
    assert [(item["call_id"], item["output"]) for item in outputs] == [("c1", "one"), ("c2", "no result was provided")]
    assert any(item.get("content") == "lost" for item in encoded.body["input"])
    assert encoded.warnings == ("messages=approximated",)


def test_names_are_changed_and_known() -> None:
    tools = (Tool(name="my tool"), Tool(name="my_tool"))
    encoded = write(tools=tools, choice=Choice(mode="named", name="my tool"))
    assert encoded.names == {"my_tool_2": "my tool"}
    assert encoded.body["tool_choice"] == {"type": "function", "name": "my_tool_2"}


@pytest.mark.parametrize(
    ("strict", "schema", "expected", "warnings"),
    [
        (None, STRICT, False, ()),
        (False, STRICT, False, ()),
        (True, STRICT, True, ()),
        (True, LOOSE, False, ("tools.strict=approximated",)),
    ],
)
def test_a_function_is_not_strict_unless_it_was(strict: Any, schema: Any, expected: bool, warnings: Any) -> None:
    encoded = write(tools=(Tool(name="f", parameters=schema, strict=strict),))
    assert encoded.body["tools"] == [{"type": "function", "name": "f", "parameters": schema, "strict": expected}]
    assert encoded.warnings == warnings


def test_tools_and_choices() -> None:
    tools = (
        Tool(name="f", description="d"),
        Tool(name="sh", custom={"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}),
    )
    need = Need(reason="tools", where="tools.1")
    body = write(tools=tools, choice=Choice(mode="auto", allowed=("f", "sh")), parallel=False, needs=(need,)).body
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"type": "function", "name": "f", "description": "d", "parameters": empty, "strict": False},
        {"type": "custom", "name": "sh", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    ]
    assert body["parallel_tool_calls"] is False
    allowed = [{"type": "function", "name": "f"}, {"type": "custom", "name": "sh"}]
    assert body["tool_choice"] == {"type": "allowed_tools", "mode": "auto", "tools": allowed}
    assert write(tools=tools, choice=Choice(mode="none")).body["tool_choice"] == "none"
    assert write(tools=tools, choice=Choice(mode="none", allowed=("f",))).body["tool_choice"] == "none"


def test_no_options_of_tools_without_tools() -> None:
    """P35."""
    encoded = write(choice=Choice(mode="required"), parallel=False)
    assert "tool_choice" not in encoded.body
    assert "parallel_tool_calls" not in encoded.body
    assert encoded.warnings == ("tool_choice=dropped",)


def test_structured_output() -> None:
    text = write(format=Format(kind="json_schema", name="my schema", schema=STRICT, description="d")).body["text"]
    assert text == {
        "format": {"type": "json_schema", "name": "my_schema", "schema": STRICT, "description": "d", "strict": True}
    }
    encoded = write(format=Format(kind="json_schema", schema=LOOSE, strict=True), verbosity="low")
    assert encoded.body["text"]["format"]["strict"] is False
    assert encoded.body["text"]["verbosity"] == "low"
    assert encoded.warnings == ("response_format=approximated",)


def test_json_has_to_be_spoken_of_in_the_input() -> None:
    wish = Format(kind="json_object")
    assert len(items(user(Text(text="as JSON")), format=wish)) == 1
    system = Turn(role=Role.SYSTEM, parts=(Text(text="answer in json"),))
    found = items(system, user(), format=wish)
    assert "JSON" in found[0]["content"]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Reasoning(effort="high"), {"effort": "high"}),
        (Reasoning(mode="disabled"), {"effort": "none"}),
        (Reasoning(budget=0), {"effort": "none"}),
        (Reasoning(budget=1024), {"effort": "low"}),
        (Reasoning(budget=8192), {"effort": "medium"}),
        (Reasoning(budget=20000), {"effort": "high"}),
        (Reasoning(budget=60000, shown=True), {"effort": "xhigh", "summary": "auto"}),
        (Reasoning(mode="adaptive"), None),
    ],
)
def test_reasoning(wish: Reasoning, expected: Any) -> None:
    assert write(reasoning=wish).body.get("reasoning") == expected


def test_reasoning_that_the_model_has_not() -> None:
    facts = ModelFacts(model="gpt-4o", dialect="openai", reasoning="none")
    encoded = write(reasoning=Reasoning(effort="high"), facts=facts)
    assert "reasoning" not in encoded.body
    assert encoded.warnings == ("reasoning_effort=dropped",)


def test_sampling_and_hints() -> None:
    facts = ModelFacts(model="o3", dialect="openai", sampling=False, max_output_tokens=50)
    encoded = write(
        facts=facts,
        dialect="messages",
        temperature=0,
        top_k=3,
        stop=("x",),
        limit=100,
        metadata={"a": "b"},
        service_tier="standard_only",
        user="u",
        extra={"container": "c"},
        hints=("mcp",),
    )
    assert encoded.body["max_output_tokens"] == 50
    assert "temperature" not in encoded.body
    assert encoded.body["user"] == "u"
    assert set(encoded.warnings) == {
        "max_tokens=approximated",
        "temperature=dropped",
        "top_k=dropped",
        "stop_sequences=dropped",
        "metadata=dropped",
        "service_tier=dropped",
        "container=dropped",
        "mcp=dropped",
    }
    assert write(limit=5).body["max_output_tokens"] == 16


def test_cache_marks_are_told() -> None:
    """P41."""
    encoded = write(user(Text(text="a", cache="5m")))
    assert encoded.body["input"] == [{"role": "user", "content": "a"}]
    assert encoded.warnings == ("cache_control=dropped",)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            Image(data="AA==", media_type="image/png", detail="low"),
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        ),
        (
            Document(data="AA==", media_type="application/pdf"),
            {
                "type": "input_file",
                "file_data": "data:application/pdf;base64,AA==",
                "filename": "document.pdf",
            },
        ),
        (Document(url="https://x/a.pdf"), {"type": "input_file", "file_url": "https://x/a.pdf"}),
        (Document(text="t", name="n"), {"type": "input_text", "text": "n\nt"}),
        (Document(data="YQ==", media_type="text/plain"), {"type": "input_text", "text": "a"}),
    ],
)
def test_parts(part: Part, expected: Any) -> None:
    assert items(user(part)) == [{"role": "user", "content": [expected]}]


@pytest.mark.parametrize(
    ("turns", "more", "reason"),
    [
        ((user(), model(Text(text="The"))), {}, "prefill"),
        ((), {"needs": (Need(reason="n", where="n"),)}, "n"),
        ((user(Image(url="https://x")),), {"facts": ModelFacts(model="m", dialect="openai", vision=False)}, "vision"),
        ((), {"facts": ModelFacts(model="m", dialect="openai", tools=False), "tools": (Tool(name="f"),)}, "tools"),
        ((model(Text(text="")),), {}, "malformed"),
    ],
)
def test_what_is_refused(turns: Any, more: Any, reason: str) -> None:
    with pytest.raises(NotPortable) as caught:
        write(*turns, **more)
    assert caught.value.reason == reason


# The same dialect -----------------------------------------------------------------------------------------------------


def test_the_same_dialect_keeps_everything() -> None:
    body: dict[str, Any] = {
        "instructions": "short",
        "input": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_image", "file_id": "file_1", "detail": "high"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gA"},
            {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {
                "type": "message",
                "role": "assistant",
                "phase": "commentary",
                "content": [{"type": "output_text", "text": "b", "annotations": []}],
            },
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "function_call", "call_id": "c", "name": "my.tool", "arguments": "{}", "namespace": "n"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            {"type": "item_reference", "id": "msg_1"},
        ],
        "tools": [
            {"type": "web_search"},
            {"type": "function", "name": "my.tool", "parameters": LOOSE, "strict": False, "defer_loading": True},
        ],
        "tool_choice": {"type": "web_search"},
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "detailed", "context": "auto"},
        "safety_identifier": "s",
        "user": "u",
        "metadata": {"a": "b"},
        "include": ["reasoning.encrypted_content"],
        "previous_response_id": "resp_1",
        "truncation": "auto",
        "max_tool_calls": 3,
        "store": True,
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "top_logprobs": 2,
        "temperature": 0,
    }
    assert again(**body) == {"model": "gpt-5-pro", **body}


def test_a_stored_prompt_needs_no_input() -> None:
    assert again(prompt={"id": "p"}) == {"model": "gpt-5-pro", "prompt": {"id": "p"}}


def test_nothing_of_the_caller_is_changed() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "defer_loading": True}]
    body: dict[str, Any] = {"input": [{"role": "user", "content": "x"}], "tools": tools}
    before = repr(body)
    again(**body)["tools"][0]["name"] = "g"
    assert repr(body) == before
