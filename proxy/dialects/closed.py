"""JSON Schema in the part that Anthropic's and Bedrock's structured outputs take (`providers.md` 2.1).

Every object is closed and what cannot be enforced is left out; so that the model at least reads it, it moves into the
description. What would become another schema on the way (a map with free keys, one that refers to itself) is not
translated at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.dialects.schema import refers_to_itself

Json = Mapping[str, Any]

KNOWN: Final = frozenset(
    {
        "$defs", "$id", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const", "default", "definitions",
        "description", "enum", "examples", "format", "items", "minItems", "nullable", "pattern", "properties",
        "required", "title", "type",
    }
)  # fmt: skip
FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_LOOK_AROUND: Final = ("(?=", "(?!", "(?<=", "(?<!")


class _Open(Exception):
    """The schema allows what a closed one cannot."""


def closed(schema: Json) -> tuple[dict[str, Any], bool] | None:
    """(the schema in the part that is taken, whether it says less than before); None: it cannot be said there."""
    if refers_to_itself(schema):
        return None
    work = _Closing()
    try:
        return work.close(schema), work.lossy
    except _Open:
        return None


class _Closing:
    __slots__ = ("lossy",)

    def __init__(self) -> None:
        self.lossy = False

    def close(self, node: Json) -> dict[str, Any]:
        out: dict[str, Any] = {}
        said: list[str] = []
        for key, value in node.items():
            if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
                out[key] = {name: self._inner(each) for name, each in value.items()}
            elif key == "oneOf" and isinstance(value, list) and "anyOf" not in node:
                out["anyOf"] = [self._inner(each) for each in value]
            elif key in ("anyOf", "allOf") and isinstance(value, list):
                out[key] = [self._inner(each) for each in value]
            elif key == "items" and isinstance(value, Mapping):
                out[key] = self.close(value)
            elif self._is_taken(key, value):
                out[key] = value
            elif key != "additionalProperties":
                self.lossy = True
                said.append(f"{key}: {orjson.dumps(value).decode()}")
        if _is_object(node):
            self._shut(node, out)
        if said:
            text = node.get("description")
            out["description"] = (f"{text} " if isinstance(text, str) and text else "") + "(" + "; ".join(said) + ")"
        return out

    def _inner(self, node: Any) -> Any:
        if isinstance(node, Mapping):
            return self.close(node)
        raise _Open  # true and false, which stand for anything and nothing

    def _is_taken(self, key: str, value: Any) -> bool:
        if key == "format":
            return value in FORMATS
        if key == "pattern":
            return isinstance(value, str) and not any(mark in value for mark in _LOOK_AROUND)
        if key == "minItems":
            return value in (0, 1)
        return key in KNOWN and key != "additionalProperties"

    def _shut(self, node: Json, out: dict[str, Any]) -> None:
        allowed = node.get("additionalProperties", True)
        if isinstance(allowed, Mapping) or (allowed is not False and not node.get("properties")):
            raise _Open  # names are free here: closed, the object could only be empty
        self.lossy = self.lossy or allowed is not False
        out["additionalProperties"] = False
        out.setdefault("properties", {})


def _is_object(node: Json) -> bool:
    kind = node.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or (kind is None and "properties" in node)
