"""The optional file of prices and abilities of models, in the shape of LiteLLM's public list (`providers.md` 6).

Read once, when the configuration is; of the three megabytes that the whole list has, what nobody asks for is not held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects.models import KEPT

ModelData = Mapping[str, Mapping[str, Any]]
"""Name in the list -> what is kept of its entry."""

MAX_BYTES: Final = 64 * 1024 * 1024
SAMPLE: Final = "sample_spec"
"""An entry that only describes the others."""


class Unusable(Exception):
    """The file cannot be used; the message goes behind the name of its key."""


def read(path: str) -> ModelData:
    """The entries of the file at `path`. Raises `Unusable`."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        raise Unusable("is no readable file") from None
    if len(content) > MAX_BYTES:
        raise Unusable(f"is a file larger than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Unusable("is a file that holds no JSON") from None
    if not isinstance(data, dict):
        raise Unusable("is a file whose JSON is no object of models")
    odd = next((name for name, entry in data.items() if not isinstance(entry, dict)), None)
    if odd is not None:
        raise Unusable(f'is a file whose entry "{odd[:64]}" is no object')
    kept = KEPT
    return {
        name: {key: value for key, value in entry.items() if key in kept and value is not None}
        for name, entry in data.items()
        if name != SAMPLE
    }
