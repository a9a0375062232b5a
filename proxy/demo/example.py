"""A value that fits a JSON Schema, for arguments of tools and structured answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DEPTH_MAX: Final = 12
"""Deeper down, a schema that refers to itself is answered with null."""
_PLAIN: Final[Mapping[str, object]] = {"string": "example", "integer": 1, "number": 1.5, "boolean": True}
_FORMATS: Final[Mapping[str, str]] = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000001",
}


def example(schema: object, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """Return one value that `schema` allows, every property present; `root` is where its references point into.

    Knows what schemas of tools are made of, in JSON Schema's spelling and in Gemini's capitals. Bounds of length and
    patterns are not looked at.
    """
    if not isinstance(schema, Mapping) or depth > DEPTH_MAX:
        return None
    root = schema if root is None else root
    if isinstance(ref := schema.get("$ref"), str):
        return example(_pointed(root, ref), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(choices := schema.get("enum"), list) and choices:
        return choices[0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(key), list) and options:
            return example(next((o for o in options if not _is_null(o)), options[0]), root, depth + 1)
    kind = _kind(schema)
    if kind == "object":
        properties = schema.get("properties")
        named = properties if isinstance(properties, Mapping) else {}
        return {str(name): example(rule, root, depth + 1) for name, rule in named.items()}
    if kind == "array":
        return [example(schema["items"], root, depth + 1)] if isinstance(schema.get("items"), Mapping) else []
    if kind == "string" and schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if kind in ("integer", "number") and isinstance(least := schema.get("minimum"), int | float):
        return max(_PLAIN[kind], least)  # type: ignore[call-overload]
    return None if kind == "null" else _PLAIN.get(kind, "example")


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind is None and "properties" in schema:
        return "object"
    return str(kind or "").lower()


def _is_null(schema: object) -> bool:
    return isinstance(schema, Mapping) and str(schema.get("type", "")).lower() == "null"


def _pointed(root: Mapping[str, Any], ref: str) -> object:
    """What a reference of the form ``#/$defs/Name`` points to; None for any other."""
    found: object = root
    for step in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found
