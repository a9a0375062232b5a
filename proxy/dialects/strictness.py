"""Whether a JSON Schema can be enforced by OpenAI's strict mode (`providers.md` 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.dialects.chat import Json
from proxy.dialects.schema import beyond, subschemas

_KNOWN: Final = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "description",
        "$ref", "$defs", "definitions", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
    }
)  # fmt: skip
_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_NOTES: Final = frozenset({"$id", "$anchor", "default", "example", "examples", "strict"})
"""Keywords that say nothing about validity, and that strict mode refuses none the less."""


def is_strict(schema: Json) -> bool:
    """Whether every object of a schema is closed and demands all of its properties, and every keyword is known."""
    if schema.get("type") != "object" or "anyOf" in schema or beyond(schema, _KNOWN):
        return False
    stack = [schema]
    while stack:
        one = stack.pop()
        if not _NOTES.isdisjoint(one) or one.get("format", "date") not in _FORMATS:
            return False
        kind = one.get("type")
        if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in one:
            names = one.get("properties")
            required = one.get("required")
            if one.get("additionalProperties") is not False or not isinstance(names, Mapping):
                return False
            if set(names) != set(required if isinstance(required, list) else ()):
                return False
        stack.extend(subschemas(one))
    return True
