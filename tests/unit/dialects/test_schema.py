"""JSON Schema in the forms of the providers (`providers.md` 2.3, P38)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import schema

CASES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"type": "string"}, {"type": "string"}, False),
    ({"type": ["string", "null"]}, {"type": "string", "nullable": True}, False),
    ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, False),
    ({"const": "a"}, {"type": "string", "enum": ["a"]}, False),
    ({"enum": ["a", None]}, {"type": "string", "nullable": True, "enum": ["a"]}, False),
    ({"enum": [1, 2]}, {"description": "(one of: 1, 2)"}, True),
    ({"oneOf": [{"type": "string"}, {"type": "number"}]}, {"anyOf": [{"type": "string"}, {"type": "number"}]}, False),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}, False),
    (
        {"$schema": "x", "$id": "y", "type": "object", "properties": {"a": {"type": "string", "default": "b"}},
         "additionalProperties": False, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        False,
    ),
    (
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        False,
    ),
    (
        {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {}}}]},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]},
        False,
    ),
    (
        {"type": "number", "exclusiveMinimum": 0, "description": "d"},
        {"type": "number", "description": "d (exclusiveMinimum: 0)"},
        True,
    ),
    ({"type": "string", "format": "uuid"}, {"type": "string", "description": "(format: uuid)"}, False),
    ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}, False),
    ({"type": "array"}, {"type": "array", "items": {"type": "string"}}, True),
    (
        {"type": "object", "properties": {"format": {"type": "string"}, "$ref": {"type": "integer"}}},
        {"type": "object", "properties": {"format": {"type": "string"}, "$ref": {"type": "integer"}}},
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given_schema", "expected", "lossy"), CASES)
def test_openapi(given_schema: dict[str, Any], expected: dict[str, Any], lossy: bool) -> None:
    kept = copy.deepcopy(given_schema)
    assert schema.openapi(given_schema) == (expected, lossy)
    assert given_schema == kept


TREE = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"next": {"$ref": "#/$defs/T"}}}}}


def test_a_schema_that_refers_to_itself_is_cut() -> None:
    assert schema.refers_to_itself(TREE)
    assert schema.openapi(TREE) == ({"type": "object", "properties": {"next": {"type": "object"}}}, True)
    assert not schema.refers_to_itself({"type": "object"})


def test_references_that_lead_nowhere_are_cut() -> None:
    assert schema.inlined({"$ref": "#/$defs/none"}) == ({"type": "object"}, True)
    assert schema.inlined({"$ref": "https://a.example/x"}) == ({"type": "object"}, True)


def test_references_that_unfold_without_end_are_cut() -> None:
    levels = {f"L{i}": {"anyOf": [{"$ref": f"#/$defs/L{i + 1}"}] * 2} for i in range(40)}
    assert schema.inlined({"$ref": "#/$defs/L0", "$defs": levels})[1]


def test_beyond_looks_everywhere_but_at_names() -> None:
    deep = {"properties": {"pattern": {"anyOf": [{"items": {"minLength": 1}}]}}, "$defs": {"x": {"not": {}}}}
    assert schema.beyond(deep, frozenset({"properties", "anyOf", "items", "$defs"})) == {"minLength", "not"}


@pytest.mark.parametrize(
    ("found", "empty"),
    [
        (None, True),
        ({}, True),
        ({"type": "object", "properties": {}}, True),
        ({"type": "OBJECT", "additionalProperties": False, "$schema": "x"}, True),
        ({"type": "object", "properties": {"a": {}}}, False),
        ({"type": "object", "anyOf": []}, False),
        ({"type": "string"}, False),
    ],
)
def test_empty_objects(found: Any, empty: bool) -> None:
    assert schema.is_empty_object(found) is empty


def test_from_openapi() -> None:
    assert schema.from_openapi(
        {
            "type": "OBJECT",
            "property_ordering": ["a"],
            "properties": {
                "a": {"any_of": [{"type": "STRING"}], "nullable": True},
                "b": {"type": 3, "minItems": "2"},
                "c": {"type": "STRING", "enum": ["x"], "nullable": True},
                "d": {"type": "TYPE_UNSPECIFIED"},
            },
        }
    ) == {
        "type": "object",
        "propertyOrdering": ["a"],
        "properties": {
            "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "b": {"type": "integer", "minItems": 2},
            "c": {"type": ["string", "null"], "enum": ["x", None]},
            "d": {},
        },
    }


keywords = st.sampled_from(
    ["type", "properties", "items", "anyOf", "enum", "const", "required", "$ref", "allOf", "format", "x"]
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["string", "object", "array", "#", "#/items", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keywords, anything, max_size=4))
def test_nonsense_raises_nothing_and_stays_within_the_form(found: dict[str, Any]) -> None:
    kept = copy.deepcopy(found)
    written, _ = schema.openapi(found)
    schema.from_openapi(found)
    assert set(written) <= schema.OPENAPI
    assert found == kept
