"""What is told of a model: by its name in every spelling, by an external list, by the operator."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.model_table import claude_generation, family_of
from proxy.dialects.models import KEPT, external_names, facts, price, tokens

ACCEPTS = [
    "claude-haiku-4-5",
    "claude-sonnet-4-5",
    "claude-opus-4-5",
    "claude-opus-4-1-20250805",
    "claude-sonnet-4-20250514",
    "claude-3-7-sonnet-20250219",
    "claude-3-5-haiku-latest",
    "claude-3-opus-20240229",
    "claude-2.1",
    "claude-instant-1.2",
]
REFUSES = [
    "claude-sonnet-4-6",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-haiku-5-5",
    "claude-fable-5",
    "claude-fable-5-1",
    "claude-mythos-preview",
]
NO_SAMPLING = [
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-fable-5",
    "claude-mythos-preview",
]


def spelled(name: str) -> list[tuple[str, str, str]]:
    """(model, dialect, vendor): one model on every platform."""
    dated = name if name[-8:].isdigit() else f"{name}-20251001"
    return [
        (name, "anthropic", ""),
        (f"us.anthropic.{dated}-v1:0", "bedrock", ""),
        (f"arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.{name}", "bedrock", ""),
        (name.replace("-2", "@2") if name[-8:].isdigit() else f"{name}@20251001", "anthropic", "vertex"),
        (f"anthropic/{name}", "openai", "openrouter"),
    ]


@pytest.mark.parametrize("name", ACCEPTS)
def test_prefill_is_taken_up_to_the_4_5_generation(name: str) -> None:
    for model, dialect, vendor in spelled(name):
        assert facts(model, dialect, vendor, {}, None).prefill is True, model


@pytest.mark.parametrize("name", REFUSES)
def test_prefill_is_refused_from_the_4_6_generation_on(name: str) -> None:
    for model, dialect, vendor in spelled(name):
        assert facts(model, dialect, vendor, {}, None).prefill is False, model


@pytest.mark.parametrize("name", [*ACCEPTS, *REFUSES])
def test_sampling_is_refused_by_the_list_of_0_3_and_nobody_else(name: str) -> None:
    expected = not any(name.startswith(refusing) for refusing in NO_SAMPLING)
    for model, dialect, vendor in spelled(name):
        assert facts(model, dialect, vendor, {}, None).sampling is expected, model


@pytest.mark.parametrize(
    ("model", "generation"),
    [
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", ("haiku", (4, 5))),
        ("claude-sonnet-4@20250514", ("sonnet", (4, 0))),
        ("anthropic/claude-sonnet-4.5", ("sonnet", (4, 5))),
        ("anthropic/claude-3.5-sonnet", ("sonnet", (3, 5))),
        ("claude-3-5-sonnet-v2@20241022", ("sonnet", (3, 5))),
        ("anthropic.claude-3-sonnet-20240229-v1:0", ("sonnet", (3, 0))),
        ("anthropic.claude-v2:1", ("", (2, 1))),
        ("anthropic.claude-v2", ("", (2, 0))),
        ("claude-opus-4-6-v1", ("opus", (4, 6))),
        ("claude-opus-5-5-20260901", ("opus", (5, 5))),
        ("anthropic.claude-instant-v1", ("instant", (1, 2))),
        ("claude-sonnet-latest", None),
    ],
)
def test_the_generation_of_a_claude(model: str, generation: object) -> None:
    assert claude_generation(model) == generation


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o", "gpt"),
        ("chatgpt-4o-latest", "gpt"),
        ("openai/o3-mini", "gpt"),
        ("o1", "gpt"),
        ("gpt-35-turbo", "gpt"),
        ("gpt-5.2", "gpt"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss"),
        ("gemini-2.5-flash", "gemini"),
        ("publishers/google/models/gemini-3-pro-preview", "gemini"),
        ("us.amazon.nova-lite-v1:0", "nova"),
        ("us.amazon.nova-2-lite-v1:0", "nova"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "llama"),
        ("accounts/fireworks/models/llama-v3p1-70b-instruct", "llama"),
        ("mistral-large-latest", "mistral"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("ministral-8b-latest", "mistral"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "deepseek"),
        ("Qwen/Qwen3-235B-A22B", "qwen"),
        ("grok-4", "grok"),
        ("cohere.command-r-plus-v1:0", "command"),
        ("text-embedding-3-small", ""),
        ("chat-prod", ""),
        ("groq-special", ""),
        ("", ""),
    ],
)
def test_the_family_of_a_name(model: str, family: str) -> None:
    assert family_of(model) == family
    assert facts(model, "openai", "", {}, None).family == family


TABLE: list[tuple[str, str, str, dict[str, Any]]] = [
    ("claude-sonnet-4-5", "anthropic", "", {"both_sampling": False, "reasoning": "budget", "structured": True,
     "vision": True, "documents": True, "audio": False, "url_images": True, "max_output_tokens": 64_000}),
    ("claude-sonnet-4-5@20250929", "anthropic", "vertex", {"url_images": False, "structured": False}),
    ("anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", "", {"url_images": False, "structured": True}),
    ("claude-opus-4-1", "anthropic", "", {"structured": False, "max_output_tokens": 32_000, "mid_system": False}),
    ("claude-3-7-sonnet-latest", "anthropic", "", {"both_sampling": True, "reasoning": "budget"}),
    ("claude-3-5-haiku-latest", "anthropic", "", {"reasoning": "none", "vision": None, "max_output_tokens": 8192}),
    ("claude-opus-4-6", "anthropic", "", {"reasoning": "adaptive", "sampling": True, "both_sampling": False,
     "efforts": frozenset({"low", "medium", "high", "max"})}),
    ("claude-opus-5-5", "anthropic", "", {"reasoning": "adaptive", "mid_system": None, "context_window": None,
     "efforts": frozenset({"low", "medium", "high", "xhigh", "max"})}),
    ("claude-fable-5", "anthropic", "", {"reasoning": "always"}),
    ("claude-2.1", "anthropic", "", {"tools": False, "vision": False, "context_window": 200_000}),
    ("claude-sonnet-latest", "anthropic", "", {"prefill": None, "sampling": None, "reasoning": None}),
    ("gpt-4o", "openai", "openai", {"vision": True, "documents": True, "audio": False, "structured": True,
     "prefill": False, "url_images": True, "reasoning": "none", "max_output_tokens": 16_384}),
    ("gpt-4o", "azure", "", {"documents": None, "url_images": True, "prefill": False}),
    ("gpt-4o-2024-05-13", "openai", "openai", {"structured": False, "max_output_tokens": 4096}),
    ("gpt-4o-audio-preview", "openai", "openai", {"audio": True, "vision": False}),
    ("gpt-4.1-mini", "openai", "openai", {"max_output_tokens": 32_768, "context_window": 1_047_576}),
    ("gpt-4", "openai", "openai", {"vision": False, "context_window": 8192, "structured": False}),
    ("gpt-4-turbo", "openai", "openai", {"vision": True, "context_window": 128_000}),
    ("gpt-4-1106-preview", "openai", "openai", {"vision": False, "context_window": 128_000}),
    ("gpt-3.5-turbo", "openai", "openai", {"vision": False, "documents": False, "structured": False}),
    ("gpt-35-turbo", "azure", "", {"vision": False, "reasoning": "none"}),
    ("o1-mini", "openai", "openai", {"reasoning": "always", "tools": False, "sampling": False}),
    ("o3-mini", "openai", "openai", {"reasoning": "effort", "vision": False, "stop": None, "parallel_tools": False}),
    ("o4-mini-2025-04-16", "openai", "openai", {"reasoning": "effort", "vision": True, "stop": False,
     "sampling": False, "efforts": frozenset({"low", "medium", "high"})}),
    ("gpt-5", "openai", "openai", {"sampling": False, "efforts": frozenset({"minimal", "low", "medium", "high"})}),
    ("gpt-5.1", "openai", "openai", {"sampling": None, "efforts": frozenset({"none", "low", "medium", "high"})}),
    ("gpt-5.2", "openai", "openai", {"efforts": frozenset({"none", "low", "medium", "high", "xhigh"})}),
    ("gpt-5-pro", "openai", "openai", {"efforts": frozenset({"high"})}),
    ("gpt-5.9", "openai", "openai", {"efforts": None, "reasoning": "effort", "context_window": None}),
    ("gpt-5-chat-latest", "openai", "openai", {"sampling": None, "reasoning": None}),
    ("openai/gpt-oss-20b", "openai", "groq", {"reasoning": "effort", "vision": False, "prefill": None}),
    ("gemini-1.5-pro", "gemini", "", {"reasoning": "none", "context_window": 2_097_152, "url_images": False}),
    ("gemini-2.0-flash", "gemini", "", {"reasoning": "none", "max_output_tokens": 8192}),
    ("gemini-2.5-pro", "gemini", "", {"reasoning": "budget", "audio": True, "video": True, "url_images": None}),
    ("gemini-3-pro-preview", "gemini", "", {"reasoning": "level", "efforts": frozenset({"low", "high"})}),
    ("gemini-3.5-flash", "gemini", "", {"reasoning": "level", "efforts": None, "prefill": None}),
    ("gemini-flash-latest", "gemini", "", {"reasoning": "level"}),
    ("us.amazon.nova-micro-v1:0", "bedrock", "", {"vision": False, "prefill": True, "reasoning": "none"}),
    ("us.amazon.nova-pro-v1:0", "bedrock", "", {"vision": True, "video": True, "forced_tools": True}),
    ("us.amazon.nova-2-lite-v1:0", "bedrock", "", {"reasoning": "effort", "prefill": None}),
    ("us.meta.llama3-2-90b-instruct-v1:0", "bedrock", "", {"vision": True, "forced_tools": False, "tools": None}),
    ("meta.llama3-8b-instruct-v1:0", "bedrock", "", {"vision": False, "tools": False}),
    ("meta-llama/Llama-3.3-70B-Instruct", "openai", "deepinfra", {"vision": False, "documents": False, "tools": None,
     "prefill": None}),
    ("meta-llama/Llama-3.3-70B-Instruct", "openai", "vllm", {"prefill": True}),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "openai", "groq", {"vision": True}),
    ("mistral-large-latest", "openai", "mistral", {"prefill": True, "reasoning": "none", "vision": None}),
    ("pixtral-12b", "openai", "mistral", {"vision": True}),
    ("deepseek-reasoner", "openai", "deepseek", {"reasoning": "always", "vision": False, "prefill": None}),
    ("deepseek-chat", "openai", "deepseek", {"reasoning": "none"}),
    ("deepseek-ai/DeepSeek-V3.1", "openai", "together", {"reasoning": None}),
    ("deepseek-ai/DeepSeek-V3-0324", "openai", "deepinfra", {"reasoning": "none"}),
    ("us.deepseek.r1-v1:0", "bedrock", "", {"reasoning": "always", "tools": False}),
    ("Qwen/Qwen2.5-72B-Instruct", "openai", "deepinfra", {"vision": False, "reasoning": "none"}),
    ("Qwen/Qwen2.5-VL-32B-Instruct", "openai", "deepinfra", {"vision": True}),
    ("Qwen/Qwen3-32B", "openai", "groq", {"reasoning": None}),
    ("grok-3-mini", "openai", "xai", {"reasoning": "effort", "efforts": frozenset({"low", "high"}), "stop": False}),
    ("grok-4", "openai", "xai", {"reasoning": "always", "vision": True}),
    ("grok-4-fast-non-reasoning", "openai", "xai", {"reasoning": "none"}),
    ("cohere.command-r-plus-v1:0", "bedrock", "", {"vision": False, "max_output_tokens": 4096}),
    ("chat-prod", "azure", "", {"vision": None, "sampling": None, "prefill": False, "url_images": True}),
    ("local", "openai", "", {"vision": None, "prefill": None, "url_images": None}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "dialect", "vendor", "expected"), TABLE)
def test_the_table(model: str, dialect: str, vendor: str, expected: dict[str, Any]) -> None:
    found = facts(model, dialect, vendor, {}, None)
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.model, found.dialect, found.vendor) == (model, dialect, vendor)


def test_stated_wins_over_the_list_and_the_list_over_the_table() -> None:
    external = {"supports_vision": False, "supports_assistant_prefill": False, "max_output_tokens": 100}
    found = facts("claude-sonnet-4-5", "anthropic", "", {"vision": True, "efforts": ["low"], "tools": None}, external)
    assert (found.vision, found.prefill, found.max_output_tokens) == (True, False, 100)
    assert found.efforts == frozenset({"low"})
    assert found.tools is True  # stated as None is not stated
    assert found.reasoning == "budget"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, {"vision": None, "structured": None, "reasoning": None, "tools": None}),
        ({"supports_sampling_params": False}, {"sampling": False}),
        ({"supports_assistant_prefill": True}, {"prefill": True}),
        ({"supports_forced_tool_use": False}, {"forced_tools": False}),
        ({"supports_tool_choice": False}, {"forced_tools": False}),
        ({"supports_tool_choice": True}, {"forced_tools": None}),
        ({"supports_tool_choice": False, "supports_forced_tool_use": True}, {"forced_tools": True}),
        ({"supports_mid_conversation_system": True}, {"mid_system": True}),
        ({"supports_native_structured_output": False, "supports_response_schema": True}, {"structured": False}),
        ({"supports_response_schema": True}, {"structured": True}),
        ({"supports_function_calling": False}, {"tools": False}),
        ({"supports_parallel_function_calling": False}, {"parallel_tools": False}),
        ({"supports_pdf_input": True, "supports_audio_input": False}, {"documents": True, "audio": False}),
        ({"supports_adaptive_thinking": True, "supports_legacy_thinking": True}, {"reasoning": "adaptive"}),
        ({"supports_legacy_thinking": True}, {"reasoning": "budget"}),
        ({"thinking_always_on": True, "supports_adaptive_thinking": True}, {"reasoning": "always"}),
        ({"supports_reasoning": False}, {"reasoning": "none"}),
        ({"supports_reasoning": True}, {"reasoning": "effort"}),
        ({"supports_xhigh_reasoning_effort": True, "supports_low_reasoning_effort": False},
         {"efforts": frozenset({"medium", "high", "xhigh"})}),
        ({"max_input_tokens": 1000, "max_tokens": 50}, {"context_window": 1000, "max_output_tokens": 50}),
        ({"max_input_tokens": "lots", "max_output_tokens": 0, "supports_vision": "yes", "supports_reasoning": 1},
         {"context_window": None, "max_output_tokens": None, "vision": None, "reasoning": None}),
    ],
)  # fmt: skip
def test_the_flags_of_the_list(entry: dict[str, Any], expected: dict[str, Any]) -> None:
    found = facts("somebody/unheard-of", "openai", "", {}, entry)
    assert {name: getattr(found, name) for name in expected} == expected
    assert set(entry) <= KEPT


def test_the_lists_response_schema_is_no_native_output_of_claude() -> None:
    assert facts("claude-3-5-sonnet", "anthropic", "", {}, {"supports_response_schema": True}).structured is False
    native = {"supports_native_structured_output": True}
    assert facts("claude-3-5-sonnet", "anthropic", "", {}, native).structured is True


def test_prices_are_per_million_and_only_whole() -> None:
    assert price({"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07}) == (0.15, 0.6)
    assert price({"input_cost_per_token": 0, "output_cost_per_token": 0.0}) == (0.0, 0.0)
    assert price({"input_cost_per_token": 1e-06}) is None
    assert price({"input_cost_per_token": "1e-6", "output_cost_per_token": 1e-6}) is None
    assert price({"input_cost_per_token": True, "output_cost_per_token": -1}) is None
    assert tokens({"max_output_tokens": 8192.0, "max_tokens": 5, "max_input_tokens": True}) == (8192, None)


def test_the_platforms_own_entry_comes_first() -> None:
    assert external_names("gpt-4o", "azure", "", "azure-east") == ["azure-east/gpt-4o", "azure/gpt-4o", "gpt-4o"]
    assert external_names("us.anthropic.claude-x", "bedrock", "", "aws") == [
        "aws/us.anthropic.claude-x",
        "bedrock/us.anthropic.claude-x",
        "us.anthropic.claude-x",
        "anthropic.claude-x",
    ]
    assert external_names("m/x", "openai", "together", "together")[:2] == ["together/m/x", "together_ai/m/x"]
    assert external_names("claude-x", "anthropic", "vertex", "v")[1] == "vertex_ai/claude-x"
