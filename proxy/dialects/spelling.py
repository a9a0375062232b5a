"""How each dialect's callers spell the fields of the canonical request, for the warnings of a translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "chat": {
        "limit": "max_completion_tokens",
        "stop": "stop",
        "format": "response_format",
        "reasoning": "reasoning_effort",
        "choice": "tool_choice",
        "parallel": "parallel_tool_calls",
        "history": "messages",
        "thinking": "reasoning_content",
        "cache": "cache_control",
        "cache_key": "prompt_cache_key",
        "detail": "image_url.detail",
    },
    "responses": {
        "limit": "max_output_tokens",
        "format": "text.format",
        "verbosity": "text.verbosity",
        "reasoning": "reasoning",
        "choice": "tool_choice",
        "parallel": "parallel_tool_calls",
        "history": "input",
        "thinking": "reasoning",
        "cache_key": "prompt_cache_key",
        "detail": "input_image.detail",
    },
    "messages": {
        "limit": "max_tokens",
        "stop": "stop_sequences",
        "format": "output_config.format",
        "reasoning": "thinking",
        "choice": "tool_choice",
        "parallel": "tool_choice.disable_parallel_tool_use",
        "history": "messages",
        "thinking": "thinking",
        "cache": "cache_control",
        "user": "metadata.user_id",
    },
    "gemini": {
        "limit": "generationConfig.maxOutputTokens",
        "temperature": "generationConfig.temperature",
        "top_p": "generationConfig.topP",
        "top_k": "generationConfig.topK",
        "presence_penalty": "generationConfig.presencePenalty",
        "frequency_penalty": "generationConfig.frequencyPenalty",
        "seed": "generationConfig.seed",
        "stop": "generationConfig.stopSequences",
        "format": "generationConfig.responseSchema",
        "reasoning": "generationConfig.thinkingConfig",
        "choice": "toolConfig",
        "history": "contents",
        "thinking": "thought",
    },
    "converse": {
        "limit": "inferenceConfig.maxTokens",
        "temperature": "inferenceConfig.temperature",
        "top_p": "inferenceConfig.topP",
        "top_k": "additionalModelRequestFields.top_k",
        "stop": "inferenceConfig.stopSequences",
        "format": "outputConfig.textFormat",
        "reasoning": "additionalModelRequestFields.thinking",
        "tools": "toolConfig.tools",
        "choice": "toolConfig.toolChoice",
        "history": "messages",
        "thinking": "reasoningContent",
        "cache": "cachePoint",
        "metadata": "requestMetadata",
        "service_tier": "serviceTier",
    },
}
"""Dialect of the caller (`Request.dialect`) -> canonical field -> the caller's; a field that is missing is spelt the
same."""


class Warnings:
    """What a writer approximates and drops, in the caller's words, each once."""

    __slots__ = ("_seen", "_spelt")

    def __init__(self, dialect: str) -> None:
        self._spelt = FIELDS.get(dialect, {})
        self._seen: dict[str, None] = {}

    def dropped(self, name: str) -> None:
        """`name` (canonical, or already the caller's) was left out."""
        self._seen[f"{self._spelt.get(name, name)}=dropped"] = None

    def approximated(self, name: str) -> None:
        """`name` (canonical, or already the caller's) is said in another way that is close."""
        self._seen[f"{self._spelt.get(name, name)}=approximated"] = None

    def listed(self) -> tuple[str, ...]:
        """In the order in which they came up."""
        return tuple(self._seen)
