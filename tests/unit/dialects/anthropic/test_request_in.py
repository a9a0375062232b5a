"""What a Messages caller says, in canonical form."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.anthropic import read_request, write_request
from proxy.dialects.chat import (
    Choice,
    Document,
    Image,
    Malformed,
    ModelFacts,
    NotPortable,
    Opaque,
    Reasoning,
    Request,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

FACTS = ModelFacts(model="m", dialect="anthropic")
USER = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [USER], **more}


def read(*blocks: dict[str, Any], role: str = "user") -> Request:
    return read_request(asked(messages=[{"role": role, "content": list(blocks)}]))


def written(body: dict[str, Any], facts: ModelFacts = FACTS) -> dict[str, Any]:
    return write_request(read_request(body), facts).body


def test_a_plain_request() -> None:
    request = read_request(
        asked(
            system="be brief",
            temperature=0,
            top_p=0.5,
            top_k=4,
            stop_sequences=["END"],
            stream=True,
            metadata={"user_id": "u1"},
            service_tier="standard_only",
        )
    )
    assert [turn.role for turn in request.turns] == [Role.SYSTEM, Role.USER]
    assert request.turns[0].parts == (Text(text="be brief"),)
    assert read_request(asked(messages=[{"role": "user", "content": "a"}])).turns[0].parts == (Text(text="a"),)
    assert (request.limit, request.temperature, request.top_p, request.top_k) == (9, 0.0, 0.5, 4)
    assert request.stop == ("END",)
    assert (request.stream, request.user, request.service_tier) == (True, "u1", "standard_only")
    assert request.needs == ()
    assert request.extra == {}


def test_blocks() -> None:
    parts = read(
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpg", "data": "AA=="}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
            "title": "t",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        {"type": "tool_result", "tool_use_id": "c1", "content": "42", "is_error": True},
        {"type": "tool_result", "tool_use_id": "c2"},
    ).turns[0]
    assert parts.parts == (
        Text(text="a", cache="1h"),
        Image(data="AA==", media_type="image/jpeg"),
        Image(url="https://x/y.png"),
        Document(data="AA==", media_type="application/pdf", name="t"),
        Document(text="words", media_type="text/plain"),
        ToolResult(call_id="c1", parts=(Text(text="42"),), is_error=True),
        ToolResult(call_id="c2"),
    )


def test_an_assistants_blocks() -> None:
    parts = read(
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "r"},
        {"type": "thinking", "thinking": "unsigned"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        role="assistant",
    )
    assert parts.turns[0].parts[:4] == (
        Thinking(text="hm", signature="s", origin="anthropic"),
        Thinking(redacted="r", origin="anthropic"),
        Thinking(text="unsigned"),
        ToolCall(id="c1", name="f", arguments='{"a":1}'),
    )
    last = parts.turns[0].parts[4]
    assert isinstance(last, Opaque)
    assert (last.dialect, last.kind) == ("messages", "server_tool_use")
    assert parts.needs == ()
    assert parts.extra == {}


@pytest.mark.parametrize(
    ("more", "reason", "where"),
    [
        ({"tools": [{"type": "web_search_1", "name": "web"}]}, "server_tools", "tools.0.type=web_search_1"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "server_tools", "tools.0.type=bash_20250124"),
        ({"container": "c"}, "state", "container"),
        ({"mcp_servers": [{"url": "u"}]}, "server_tools", "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo", "inference_geo"),
        ({"max_tokens": 0}, "state", "max_tokens=0"),
    ],
)  # fmt: skip
def test_what_only_anthropic_can_honour(more: dict[str, Any], reason: str, where: str) -> None:
    request = read_request(asked(**more))
    assert [(need.reason, need.where) for need in request.needs] == [(reason, where)]
    for key, value in more.items():
        assert written(asked(**more))[key] == value


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "file_id"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, "file_id"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}}, "documents"),
        ({"type": "container_upload", "file_id": "f"}, "file_id"),
        ({"type": "search_result", "source": "s", "title": "t", "content": []}, "documents"),
        (
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "tool_reference", "tool_name": "f"}]},
            "server_tools",
        ),
        ({"type": "hologram", "data": "x"}, "malformed"),
    ],
)
def test_blocks_that_only_anthropic_understands(block: dict[str, Any], reason: str) -> None:
    request = read(block)
    assert [need.reason for need in request.needs] == [reason]
    assert write_request(request, FACTS).body["messages"][0]["content"] == [block]


def test_members_without_a_place_come_back_and_are_told() -> None:
    body = asked(
        system=[{"type": "text", "text": "s"}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "document", "source": {"type": "url", "url": "https://x"}, "citations": {"enabled": True}},
                ],
            }
        ],
        tools=[
            {"name": "f", "input_schema": {"type": "object"}, "defer_loading": True},
            {"type": "memory_20250818", "name": "memory"},
            {"name": "g", "input_schema": {"type": "object"}},
        ],
        context_management={"edits": []},
        speed="fast",
    )
    request = read_request(body)
    assert set(request.extra) == {"messages.citations", "tools.defer_loading", "tools", "context_management", "speed"}
    again = written(body)
    assert again == body


@pytest.mark.parametrize(
    ("more", "reasoning"),
    [
        ({"thinking": {"type": "disabled"}}, Reasoning(mode="disabled")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning(mode="enabled", budget=2000)),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "max"}},
            Reasoning(mode="adaptive", effort="max", shown=False),
        ),
        ({"output_config": {"effort": "low"}}, Reasoning(effort="low")),
        ({"thinking": {"type": "between_tools"}}, Reasoning()),
    ],
)
def test_reasoning(more: dict[str, Any], reasoning: Reasoning) -> None:
    body = asked(**{"max_tokens": 4000, **more})
    assert read_request(body).reasoning == reasoning
    assert written(body) == body


@pytest.mark.parametrize(
    ("choice", "read_as", "parallel"),
    [
        ({"type": "auto", "disable_parallel_tool_use": True}, Choice(mode="auto"), False),
        ({"type": "any"}, Choice(mode="required"), None),
        ({"type": "none"}, Choice(mode="none"), None),
        ({"type": "tool", "name": "f"}, Choice(mode="named", name="f"), None),
    ],
)
def test_choice(choice: dict[str, Any], read_as: Choice, parallel: bool | None) -> None:
    body = asked(tools=[{"name": "f", "input_schema": {"type": "object"}}], tool_choice=choice)
    request = read_request(body)
    assert (request.choice, request.parallel) == (read_as, parallel)
    assert written(body)["tool_choice"] == choice


def test_both_spellings_of_a_format() -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}
    for more in ({"output_config": {"format": wanted}}, {"output_format": wanted}):
        request = read_request(asked(**more))
        assert request.format is not None
        assert request.format.schema == wanted["schema"]
        assert written(asked(**more))["output_config"] == {"format": wanted}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]},
            "messages.0.content.0.source.data",
        ),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools.0"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools.0.input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"thinking": "yes"}, "thinking"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}, "system"),
    ],
)
def test_nonsense(body: dict[str, Any], path: str) -> None:
    with pytest.raises(Malformed) as raised:
        read_request({**asked(), **body})
    assert raised.value.path == path


# A Messages caller whose model is replaced by another generation ------------------------------------------------------


def facts(model: str, **known: Any) -> ModelFacts:
    return ModelFacts(model=model, dialect="anthropic", **known)


def test_a_new_model_gets_no_sampling() -> None:
    encoded = write_request(read_request(asked(temperature=0.2, top_k=3)), facts("claude-opus-4-8", sampling=False))
    assert not {"temperature", "top_k"} & set(encoded.body)
    assert encoded.warnings == ("temperature=dropped", "top_k=dropped")
    late = write_request(read_request(asked(temperature=1)), facts("m", api_version="2026-10-21"))
    assert "temperature" not in late.body


def test_a_budget_becomes_adaptive_and_the_other_way_round() -> None:
    budget = asked(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 5000})
    new = write_request(
        read_request(budget), facts("claude-opus-4-8", reasoning="adaptive", efforts=frozenset({"low", "medium"}))
    )
    assert new.body["thinking"] == {"type": "adaptive"}
    assert new.body["output_config"] == {"effort": "medium"}
    assert new.warnings == ("thinking=approximated",)
    adaptive = asked(max_tokens=9000, thinking={"type": "adaptive"}, output_config={"effort": "high"})
    old = write_request(read_request(adaptive), facts("claude-sonnet-4-5", reasoning="budget"))
    assert old.body["thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert "output_config" not in old.body
    kept = write_request(read_request(budget), facts("claude-opus-4-6", reasoning="adaptive"))
    assert kept.body["thinking"] == budget["thinking"]


def test_an_effort_alone_switches_nothing_on() -> None:
    body = asked(output_config={"effort": "high"})
    old = write_request(read_request(body), facts("claude-haiku-4-5", reasoning="budget"))
    assert not {"thinking", "output_config"} & set(old.body)
    assert old.warnings == ("thinking=dropped",)
    new = write_request(read_request(body), facts("claude-sonnet-4-6", reasoning="adaptive"))
    assert new.body["output_config"] == {"effort": "high"}


def test_a_beginning_for_a_model_that_refuses_it() -> None:
    body = asked(messages=[USER, {"role": "assistant", "content": "Once "}])
    assert written(body)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Once "}]},
    ]
    with pytest.raises(NotPortable) as raised:
        written(body, facts("claude-opus-4-8", prefill=False))
    assert raised.value.reason == "prefill"
    paused = {
        "role": "assistant",
        "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}],
    }
    written(asked(messages=[USER, paused]), facts("claude-opus-4-8", prefill=False))


def test_images_by_address_on_platforms_that_fetch_nothing() -> None:
    body = asked(
        messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]
    )
    with pytest.raises(NotPortable) as raised:
        written(body, facts("m", url_images=False))
    assert raised.value.reason == "url_images"


def test_a_system_message_in_mid_conversation_for_a_model_that_has_none() -> None:
    body = asked(messages=[USER, {"role": "system", "content": "careful"}])
    assert written(body)["messages"][1] == {"role": "system", "content": [{"type": "text", "text": "careful"}]}
    old = written(body, facts("m", mid_system=False))["messages"]
    assert old[1] == {"role": "user", "content": [{"type": "text", "text": "<system>careful</system>"}]}
