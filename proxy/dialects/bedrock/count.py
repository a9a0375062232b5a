"""CountTokens: the number of tokens that a Converse request would have."""

from __future__ import annotations

from typing import Final

from proxy.dialects.bedrock.asking import write_request
from proxy.dialects.chat import Encoded, Json, ModelFacts, Request

COUNTED: Final = ("messages", "system", "toolConfig", "additionalModelRequestFields")
"""What of a request has tokens; CountTokens takes nothing else."""


def write_count(request: Request, facts: ModelFacts) -> Encoded:
    """The body of CountTokens for a request. Raises `NotPortable` where the request itself could not be sent."""
    encoded = write_request(request, facts)
    inner = {key: encoded.body[key] for key in COUNTED if key in encoded.body}
    return Encoded(body={"input": {"converse": inner}}, warnings=encoded.warnings, names=encoded.names)


def read_count(body: Json) -> int:
    """The number that CountTokens answered. Raises ValueError when it told none."""
    tokens = body.get("inputTokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise ValueError("the answer tells no number of tokens")
    return tokens
