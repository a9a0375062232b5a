"""What is known of a target's model, as far as a translation depends on it; part of the canonical form (`chat`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a target. None means unknown: absent is not false (`providers.md` 6), so a writer excludes only
    on False and uses a feature on True or None unless its section says otherwise."""

    model: str
    """Name that the target is called with."""
    dialect: str
    """``openai``, ``azure``, ``anthropic``, ``gemini``, ``bedrock``."""
    vendor: str = ""
    """Who is behind it, for quirks: ``openai``, ``deepinfra``, ``groq``, ``mistral``, ``deepseek``, ``together``,
    ``openrouter``, ``xai``, ``vllm``, ``ollama``, ``vertex``, ``mantle`` ...; empty: unknown, generic."""
    family: str = ""
    """Whose model it is, by its name: ``claude``, ``gpt``, ``gemini``, ``nova``, ``llama``, ``mistral``, ``gpt-oss``,
    ``deepseek`` ...; empty: unknown."""
    max_output_tokens: int | None = None
    context_window: int | None = None
    vision: bool | None = None
    documents: bool | None = None
    audio: bool | None = None
    video: bool | None = None
    url_images: bool | None = None
    """Whether the target fetches images by URL itself."""
    tools: bool | None = None
    parallel_tools: bool | None = None
    forced_tools: bool | None = None
    """Whether a call can be demanded (``required``, a named tool)."""
    structured: bool | None = None
    """Native structured output by JSON Schema."""
    sampling: bool | None = None
    """False: refuses temperature, top_p, top_k."""
    both_sampling: bool | None = None
    """False: takes temperature or top_p, not both."""
    prefill: bool | None = None
    """Whether a trailing assistant turn is continued."""
    stop: bool | None = None
    reasoning: Literal["none", "effort", "budget", "adaptive", "level", "always"] | None = None
    """How reasoning is asked for: not at all, by effort (OpenAI), by a token budget (Claude to 4.6, Gemini 2.5),
    adaptive with effort (Claude from 4.6), by level (Gemini 3), or always on and not to be switched."""
    efforts: frozenset[str] | None = None
    """Accepted values of effort; None: unknown."""
    mid_system: bool | None = None
    """Takes system messages in mid-conversation (Anthropic)."""
    completion_limit_name: Literal["max_tokens", "max_completion_tokens"] | None = None
    """OpenAI-shaped targets: the name of the output limit; None: decided by vendor and model."""
    api_version: str = ""
    """``anthropic-version`` that the target is called with; empty: 2023-06-01."""
    safety_settings: tuple[Json, ...] = ()
    default_max_tokens: int | None = None
    """What to ask for where the dialect demands a limit and the caller stated none; None: the writer's own rule."""
    signatures: Mapping[str, str] = field(default_factory=dict)
    """Gemini's thought signatures remembered by call id, for callers that cannot carry them."""
