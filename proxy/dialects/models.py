"""What is known of a target: stated in the file, else told by an external price list, else by the model's name.

The external entry has the shape of LiteLLM's public list (`providers.md` 6). Its flags are absent when nobody knows, so
an absent flag says nothing, and a value of another type than it should have is no value. Beside the same name with the
platform before it (``azure/gpt-4o``) the list may hold the plain one: `external_names` gives the order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.facts import ModelFacts
from proxy.dialects.model_table import Row, family_of, row

__all__ = ["KEPT", "external_names", "external_row", "facts", "family_of", "price", "tokens"]

_FLAGS: Final[Mapping[str, str]] = {
    "supports_sampling_params": "sampling",
    "supports_assistant_prefill": "prefill",
    "supports_forced_tool_use": "forced_tools",
    "supports_mid_conversation_system": "mid_system",
    "supports_native_structured_output": "structured",
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_vision": "vision",
    "supports_pdf_input": "documents",
    "supports_audio_input": "audio",
    "supports_video_input": "video",
}
"""Flag of the list -> the fact that it states outright."""
_EFFORTS: Final = tuple(
    (f"supports_{effort}_reasoning_effort", effort) for effort in ("none", "minimal", "low", "xhigh", "max")
)
_OTHER_FLAGS: Final = (
    "supports_response_schema",
    "supports_tool_choice",
    "supports_reasoning",
    "supports_adaptive_thinking",
    "supports_legacy_thinking",
    "thinking_always_on",
)
_TOKENS: Final = ("max_output_tokens", "max_input_tokens", "max_tokens")
_COSTS: Final = ("input_cost_per_token", "output_cost_per_token")
KEPT: Final = frozenset({*_FLAGS, *_OTHER_FLAGS, *(flag for flag, _ in _EFFORTS), *_TOKENS, *_COSTS})
"""Members of an entry that are looked at; the rest need not be held."""

_PLATFORMS: Final[Mapping[str, str]] = {"vertex": "vertex_ai", "together": "together_ai", "fireworks": "fireworks_ai"}
"""Our word for a vendor -> the list's, where they differ."""
_PROFILE: Final = re.compile(r"^(?:us|eu|apac|global|jp|au|ca|us-gov)\.(?=[a-z0-9]+\.)")
"""Prefix of a Bedrock cross-region profile; the list tells many models without it."""


def facts(
    model: str, dialect: str, vendor: str, stated: Mapping[str, Any], external: Mapping[str, Any] | None
) -> ModelFacts:
    """What is known of `model` as it is called.

    `stated`: fields of `ModelFacts` by name, as the operator states them; None counts as not stated. `external`: the
    entry of the price list, None without one.
    """
    known = row(model, dialect, vendor)
    if external is not None:
        known.update(external_row(external, known, dialect))
    known.update((key, value) for key, value in stated.items() if value is not None)
    if known.get("efforts") is not None:
        known["efforts"] = frozenset(known["efforts"])
    return ModelFacts(model=model, dialect=dialect, vendor=vendor, **known)


def external_names(model: str, dialect: str, vendor: str, provider: str) -> list[str]:
    """Keys under which the price list may tell of a model, the most telling first.

    `provider`: the operator's own word for the account, which people like to use as prefix in a file of their own.
    """
    prefixes = dict.fromkeys(word for word in (provider, _PLATFORMS.get(vendor, vendor), dialect) if word)
    plain = _PROFILE.sub("", model)
    names = [f"{prefix}/{model}" for prefix in prefixes]
    return [*names, model, *([plain] if plain != model else [])]


def external_row(entry: Mapping[str, Any], known: Row, dialect: str) -> Row:
    """The facts that an entry of the price list states. `known`: the table's, for what a flag tells only in part."""
    found: Row = {fact: entry[flag] for flag, fact in _FLAGS.items() if isinstance(entry.get(flag), bool)}
    schema = entry.get("supports_response_schema")
    if (
        isinstance(schema, bool)
        and "structured" not in found
        and known.get("family") != "claude"
        and dialect != "bedrock"
    ):
        found["structured"] = schema  # of Claude and on Bedrock the list says so where a tool call is the way
    if entry.get("supports_tool_choice") is False and "forced_tools" not in found:
        found["forced_tools"] = False
    reasoning = _reasoning(entry, known, dialect)
    if reasoning != known.get("reasoning"):
        found["reasoning"] = reasoning
    efforts = _efforts(entry, known)
    if efforts is not None:
        found["efforts"] = efforts
    most, window = tokens(entry)
    found.update({} if most is None else {"max_output_tokens": most})
    found.update({} if window is None else {"context_window": window})
    return found


def tokens(entry: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(most output tokens, context window) of an entry; None: not told.

    The list tells the longest prompt, which is the window or, for some models, the window less the output: taken as the
    window it never promises too much.
    """
    most = _whole(entry.get("max_output_tokens")) or _whole(entry.get("max_tokens"))
    return most, _whole(entry.get("max_input_tokens"))


def price(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """(prompt, output) in USD per million tokens; None: not told."""
    told = [_per_million(entry.get(key)) for key in _COSTS]
    return None if told[0] is None or told[1] is None else (told[0], told[1])


def _per_million(cost: object) -> float | None:
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < 1:
        return None
    return round(cost * 1e6, 9)  # 1.5e-07 is meant to be 0.15


def _reasoning(entry: Mapping[str, Any], known: Row, dialect: str) -> str | None:
    if entry.get("thinking_always_on") is True:
        return "always"
    if entry.get("supports_adaptive_thinking") is True:
        return "adaptive"
    if entry.get("supports_legacy_thinking") is True:
        return "budget"
    now: str | None = known.get("reasoning")
    reasons = entry.get("supports_reasoning")
    if reasons is False:
        return "none"
    if reasons is True and now in (None, "none"):
        return "effort" if dialect in ("openai", "azure") else None
    return now


def _efforts(entry: Mapping[str, Any], known: Row) -> frozenset[str] | None:
    """Accepted efforts with what the entry adds and takes away; None: it says nothing of them."""
    told = {effort: entry[flag] for flag, effort in _EFFORTS if isinstance(entry.get(flag), bool)}
    if not told:
        return None
    base: frozenset[str] = known.get("efforts") or frozenset({"low", "medium", "high"})
    return (base | {effort for effort, is_taken in told.items() if is_taken}) - {
        effort for effort, is_taken in told.items() if not is_taken
    }


def _whole(value: object) -> int | None:
    """A positive whole number; the list writes some as floats, and a few as text that is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1_000_000_000:
        return None
    return int(value)
