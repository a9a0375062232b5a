from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.dialects import splice
from proxy.dialects.chat import ModelFacts
from proxy.dialects.openai import quirks
from proxy.dialects.openai.quirks import REMOVED, adjust, vendor_of


def facts(vendor: str = "", model: str = "some-model", **more: Any) -> ModelFacts:
    return ModelFacts(model=model, dialect=more.pop("dialect", "openai"), vendor=vendor, **more)


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages) or [{"role": "user", "content": "hi"}], **more}


def with_changes(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in before.items() if key not in changes}
    return {**kept, **{key: value for key, value in changes.items() if value is not REMOVED}}


def changed(before: dict[str, Any], to: ModelFacts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The whole body as the vendor gets it, and the warnings."""
    copy = json.dumps(before)
    changes, warnings = adjust(before, to)
    assert json.dumps(before) == copy
    assert changes is not None
    return with_changes(before, changes), warnings


@pytest.mark.parametrize(
    ("url", "vendor"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://acme.openai.azure.com/openai/v1", "azure"),
        ("https://acme.services.ai.azure.com/openai/v1/", "azure"),
        ("https://API.Groq.com/openai/v1", "groq"),
        ("https://api.deepinfra.com/v1/openai", "deepinfra"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://codestral.mistral.ai/v1", "mistral"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.x.ai/v1", "xai"),
        ("https://bedrock-mantle.us-east-1.api.aws/openai/v1", "mantle"),
        ("https://us-central1-aiplatform.googleapis.com/v1", "vertex"),
        ("https://aiplatform.googleapis.com/v1", "vertex"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("http://127.0.0.1:8000/v1", ""),
        ("http://[::1]:8000/v1", ""),
        ("http://vllm:8000/v1", ""),
        ("https://notapi.openai.com.evil.example/v1", ""),
        ("https://fakeopenrouter.ai/v1", ""),
        ("api.groq.com/openai/v1", "groq"),
        ("", ""),
    ],
)
def test_vendor_of(url: str, vendor: str) -> None:
    assert vendor_of(url) == vendor


def test_unknown_vendors_get_the_callers_bytes() -> None:
    odd = body(
        {"role": "developer", "content": "d"},
        {"role": "assistant", "content": "a", "thinking_blocks": [{}], "tool_calls": [{"id": "x" * 90}]},
        max_tokens=5,
        top_k=1,
        tool_choice="auto",
        stream_options={},
        temperature=0.3,
    )
    assert adjust(odd, facts()) == (None, ())
    assert adjust(odd, facts("somebody")) == (None, ())
    assert adjust(odd, facts("", "gpt-5")) == (None, ())


def test_facts_count_for_unknown_vendors_too() -> None:
    named, warnings = changed(body(max_tokens=5), facts(completion_limit_name="max_completion_tokens"))
    assert named["max_completion_tokens"] == 5
    assert "max_tokens" not in named
    assert warnings == ()
    plain, warnings = changed(body(temperature=0, top_p=1), facts(sampling=False))
    assert not {"temperature", "top_p"} & set(plain)
    assert warnings == ("temperature=dropped", "top_p=dropped")


@pytest.mark.parametrize(
    ("vendor", "model", "given", "expected"),
    [
        ("openai", "gpt-4o", "max_tokens", "max_tokens"),
        ("openai", "o3-mini", "max_tokens", "max_completion_tokens"),
        ("openai", "gpt-5.2", "max_tokens", "max_completion_tokens"),
        ("openai", "gpt-5-chat-latest", "max_tokens", "max_tokens"),
        ("mistral", "m", "max_completion_tokens", "max_tokens"),
        ("deepseek", "m", "max_completion_tokens", "max_tokens"),
        ("groq", "m", "max_tokens", "max_tokens"),
    ],
)
def test_the_name_of_the_limit(vendor: str, model: str, given: str, expected: str) -> None:
    asked = body(**{given: 5})
    changes, _ = adjust(asked, facts(vendor, model))
    found = with_changes(asked, changes or {})
    assert {key: value for key, value in found.items() if key.startswith("max_")} == {expected: 5}
    assert (changes is None) == (given == expected)


def test_of_two_limits_the_accepted_one_stays() -> None:
    found, _ = changed(body(max_tokens=5, max_completion_tokens=7), facts("openai", "o3"))
    assert "max_tokens" not in found
    assert found["max_completion_tokens"] == 7


def test_reasoning_models_of_openai_refuse_sampling() -> None:
    found, warnings = changed(body(temperature=0.2, top_p=1), facts("openai", "o3"))
    assert "temperature" not in found
    assert found["top_p"] == 1
    assert warnings == ("temperature=dropped",)
    assert adjust(body(temperature=0.2), facts("openai", "gpt-5.1")) == (None, ())
    thinks = body(temperature=0.2, reasoning_effort="high")
    assert changed(thinks, facts("openai", "gpt-5.1"))[1] == ("temperature=dropped",)


def test_openai_is_spared_what_it_refuses() -> None:
    asked = body(
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": "a",
            "reasoning_content": "t",
            "thinking_blocks": [{"type": "thinking"}],
            "tool_calls": [
                {"id": "y" * 41, "function": {"name": "f"}, "extra_content": {"google": {"thought_signature": "s"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "y" * 41, "content": "r", "name": "f"},
        top_k=4,
        tools=[{"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}],
    )
    found, warnings = changed(asked, facts("openai"))
    assert "cache_control" not in json.dumps(found)
    assert "top_k" not in found
    first, second, third = found["messages"]
    assert first["content"] == [{"type": "text", "text": "a"}]
    assert set(second) == {"role", "content", "tool_calls"}
    assert set(second["tool_calls"][0]) == {"id", "function"}
    assert second["tool_calls"][0]["id"] == third["tool_call_id"]
    assert len(third["tool_call_id"]) <= 40
    assert set(warnings) == {
        "cache_control=dropped", "thinking_blocks=dropped", "reasoning_content=dropped", "top_k=dropped",
    }  # fmt: skip


def test_tool_options_without_tools_and_stream_options_without_a_stream() -> None:
    asked = body(tool_choice="auto", parallel_tool_calls=True, stream_options={"include_usage": True})
    changes, warnings = adjust(asked, facts("azure"))
    assert changes == {"tool_choice": REMOVED, "parallel_tool_calls": REMOVED, "stream_options": REMOVED}
    assert warnings == ()
    assert adjust(body(tools=[{}], tool_choice="auto"), facts("azure")) == (None, ())
    assert adjust(body(stream=True, stream_options={}), facts(dialect="azure")) == (None, ())


def test_mistral() -> None:
    asked = body(
        {"role": "developer", "content": "d"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_abc", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "r"},
        {"role": "assistant", "content": "So"},
        seed=3,
        user="u",
        stream=True,
        stream_options={"include_usage": True},
    )
    found, warnings = changed(asked, facts("mistral"))
    system, first, answer, last = found["messages"]
    assert system["role"] == "system"
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", first["tool_calls"][0]["id"])
    assert answer["tool_call_id"] == first["tool_calls"][0]["id"]
    assert last["prefix"] is True
    assert found["random_seed"] == 3
    assert not {"seed", "user", "stream_options"} & set(found)
    assert warnings == ("user=dropped",)
    kept = body({"role": "tool", "tool_call_id": "EscTeQY62", "content": "r"})
    assert adjust(kept, facts("mistral")) == (None, ())


def test_groq_takes_no_names_and_reasoning_under_its_own() -> None:
    asked = body(
        {"role": "user", "content": "a", "name": "n"},
        {"role": "assistant", "content": "b", "reasoning_content": "t"},
        {"role": "tool", "tool_call_id": "1", "content": "r", "name": "f"},
        logit_bias={"1": 1},
    )
    found, warnings = changed(asked, facts("groq"))
    assert found["messages"][0] == {"role": "user", "content": "a"}
    assert found["messages"][1] == {"role": "assistant", "content": "b", "reasoning": "t"}
    assert found["messages"][2] == asked["messages"][2]
    assert set(warnings) == {"name=dropped", "logit_bias=dropped"}


def test_what_would_change_the_meaning_is_an_obstacle_and_stays() -> None:
    for asked, reason in ((body(n=2), "n"), (body(logprobs=True), "logprobs")):
        assert quirks.obstacle(asked, facts("groq")) == reason
        assert quirks.obstacle(asked, facts("openai")) == ""
        assert adjust(asked, facts("groq")) == (None, ())
    many = body(stop=["a", "b", "c", "d", "e"])
    assert quirks.obstacle(many, facts("openai")) == "stop"
    assert quirks.obstacle(many, facts()) == ""


def test_changes_can_be_spliced() -> None:
    asked = body(max_completion_tokens=5, seed=3)
    changes, _ = adjust(asked, facts("mistral"))
    assert changes is not None
    kept = {key: value for key, value in asked.items() if changes.get(key) is not REMOVED}
    raw = splice.replace(
        json.dumps(kept).encode(), {key: value for key, value in changes.items() if value is not REMOVED}
    )
    assert json.loads(raw) == {**kept, "max_tokens": 5, "random_seed": 3}
    assert repr(REMOVED) == "REMOVED"


def test_ids_are_always_the_same() -> None:
    one, two = quirks.call_id("call_1", "9"), quirks.call_id("call_2", "9")
    assert one == quirks.call_id("call_1", "9") != two
    assert quirks.call_id("x" * 40, "40") == "x" * 40
    assert quirks.call_id("x" * 41, "40") == quirks.call_id("x" * 41, "40")
    assert quirks.call_id("x" * 99, "") == "x" * 99


def test_odd_bodies_do_no_harm() -> None:
    for messages in (None, "x", [None], [{"role": None, "content": [None], "tool_calls": [None]}], []):
        assert adjust({"messages": messages}, facts("mistral"))[0] is None
        assert adjust({"messages": messages, "tools": [None]}, facts("openai"))[0] is None
