"""Counting tokens and making vectors at Gemini (`providers.md` 1.4, 1.6)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.chat import Encoded, Json, ModelFacts, NotPortable, Request
from proxy.dialects.gemini.request_out import write_request

_ASKED: Final = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


def write_count(request: Request, facts: ModelFacts) -> Encoded:
    """The body for ``:countTokens``. Vertex takes the members themselves, the developers' API takes them wrapped, since
    beside bare ``contents`` it would count neither the system instruction nor the tools."""
    encoded = write_request(request, facts)
    if facts.vendor == "vertex":
        members = ("contents", "systemInstruction", "tools", "generationConfig")
        body = {key: encoded.body[key] for key in members if key in encoded.body}
    else:
        body = {"generateContentRequest": {"model": _named(facts.model), **encoded.body}}
    return Encoded(body=body, warnings=encoded.warnings, names=encoded.names)


def read_count(body: Json) -> int:
    """The number of tokens that the provider counted. Raises `ValueError` when it told none."""
    total = body.get("totalTokens")
    if not isinstance(total, int) or isinstance(total, bool):
        raise ValueError("the answer has no totalTokens")
    return total


def write_embeddings(body: Json, facts: ModelFacts) -> Encoded:
    """An OpenAI body for embeddings as ``:batchEmbedContents``. Raises `NotPortable`."""
    if facts.vendor == "vertex":
        raise NotPortable("embeddings", "Vertex has no batchEmbedContents")
    asked = body.get("input")
    texts = [asked] if isinstance(asked, str) else asked
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise NotPortable("input", "input must be text: tokens of another model mean nothing here")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise NotPortable("encoding_format", "encoding_format must be float or base64")
    if unknown := [key for key in body if key not in _ASKED]:
        raise NotPortable("embeddings", f"{unknown[0]} has no equivalent")
    one: dict[str, Any] = {}
    dimensions = body.get("dimensions")
    if dimensions is not None:
        one["outputDimensionality"] = dimensions
    model = _named(facts.model)
    requests = [{"model": model, "content": {"parts": [{"text": text}]}, **one} for text in texts]
    return Encoded(body={"requests": requests}, warnings=("user=dropped",) if body.get("user") else ())


def read_embeddings(body: Json, asked: Json, model: str) -> dict[str, Any]:
    """The vectors in OpenAI's form; `asked` is the caller's body. Raises `ValueError` when there are none, or not one
    for each input."""
    found = body.get("embeddings")
    if not isinstance(found, list):
        raise ValueError("the answer has no embeddings")
    texts = asked.get("input")
    if len(found) != (len(texts) if isinstance(texts, list) else 1):
        raise ValueError("the answer has not one embedding for each input")
    packed = asked.get("encoding_format") == "base64"
    data = [{"object": "embedding", "index": i, "embedding": _vector(each, packed)} for i, each in enumerate(found)]
    told = body.get("usageMetadata")
    tokens = told.get("promptTokenCount", 0) if isinstance(told, Mapping) else 0
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(embedding: Any, packed: bool) -> list[float] | str:
    values = embedding.get("values") if isinstance(embedding, Mapping) else None
    if not isinstance(values, list) or not values:
        raise ValueError("an embedding has no values")
    if not packed:
        return values
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _named(model: str) -> str:
    return model if model.startswith("models/") else f"models/{model}"
