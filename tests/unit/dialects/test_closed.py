from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.closed import closed

STRICT = {
    "type": "object",
    "properties": {"a": {"type": "string", "format": "date"}, "b": {"type": ["integer", "null"]}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_what_fits_stays_as_it_is() -> None:
    assert closed(STRICT) == (STRICT, False)
    nested = {**STRICT, "$defs": {"x": STRICT}, "properties": {"l": {"type": "array", "items": {"$ref": "#/$defs/x"}}}}
    assert closed(nested) == (nested, False)
    # A property may be called like a keyword.
    named = {"type": "object", "properties": {"oneOf": {"type": "string"}}, "additionalProperties": False}
    assert closed(named) == (named, False)


def test_objects_are_closed_and_constraints_become_words() -> None:
    found = closed(
        {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 1, "maximum": 5},
                "l": {"type": "array", "items": {"oneOf": [{"type": "string"}]}, "minItems": 2},
                "f": {"type": "string", "format": "phone", "pattern": "(?=a)b", "description": "Old."},
            },
        }
    )
    assert found == (
        {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "description": "(minimum: 1; maximum: 5)"},
                "l": {"type": "array", "items": {"anyOf": [{"type": "string"}]}, "description": "(minItems: 2)"},
                "f": {"type": "string", "description": 'Old. (format: "phone"; pattern: "(?=a)b")'},
            },
            "additionalProperties": False,
        },
        True,
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"free": {"type": "object", "properties": {}}}},
        {"type": "object", "properties": {"any": True}},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "additionalProperties": False},
    ],
)
def test_what_would_become_another_schema_is_not_closed(schema: dict[str, Any]) -> None:
    assert closed(schema) is None
