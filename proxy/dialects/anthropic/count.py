"""The number of tokens that a request would have (``/v1/messages/count_tokens``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from proxy.dialects.anthropic.request_out import write_request
from proxy.dialects.chat import Encoded, Json, ModelFacts, Request

COUNTED: Final = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control",
     "mcp_servers", "context_management", "user_profile_id"}
)  # fmt: skip
"""What of a request is taken; anything else is refused, the limit and the sampling included."""


def write_count(request: Request, facts: ModelFacts) -> Encoded:
    """The body for a request. Raises `NotPortable` where the request itself could not be sent."""
    encoded = write_request(request, facts)
    return replace(encoded, body={key: value for key, value in encoded.body.items() if key in COUNTED})


def read_count(body: Json) -> int:
    """The number that was answered. Raises ValueError when there is none."""
    tokens = body.get("input_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise ValueError("the answer tells no number of tokens")
    return tokens
