"""JSON Schema in the dialects of the providers: what they take, and what must be said in another way.

Two forms matter. JSON Schema itself, of which each provider takes a part (`beyond` tells what is outside it), and
Gemini's older form after OpenAPI 3.0 (`openapi`, `from_openapi`; `providers.md` 2.3). Schemas belong to the caller's
body: everything here builds anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

Json = Mapping[str, Any]

_ONE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_MORE: Final = (*_ONE, "unevaluatedItems", "unevaluatedProperties", "additionalItems")
_MANY: Final = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

NOTES: Final = frozenset({"$schema", "$id", "$comment", "$anchor", "examples", "example", "default", "strict", "title"})
"""Keywords that allow and forbid nothing: they can be left out without making a schema another one."""
OPENAPI: Final = frozenset(
    {
        "type", "format", "title", "description", "nullable", "enum", "properties", "required", "items", "minItems",
        "maxItems", "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "minimum", "maximum",
        "anyOf", "propertyOrdering",
    }
)  # fmt: skip
"""Keywords of Gemini's ``parameters`` and ``responseSchema``."""
_FORMATS: Final = frozenset({"date-time", "enum", "float", "double", "int32", "int64"})
_SPELT: Final = {
    "any_of": "anyOf", "min_items": "minItems", "max_items": "maxItems", "min_length": "minLength",
    "max_length": "maxLength", "min_properties": "minProperties", "max_properties": "maxProperties",
    "property_ordering": "propertyOrdering", "additional_properties": "additionalProperties", "one_of": "oneOf",
    "prefix_items": "prefixItems", "defs": "$defs", "ref": "$ref",
}  # fmt: skip
_NUMBERED: Final = ("", "string", "number", "integer", "boolean", "array", "object", "null")
"""Types by their number in Google's enumeration."""
_DEPTH_MAX: Final = 64
"""Deeper than any model's own limit; below it a schema that refers to itself is cut."""
_NODES_MAX: Final = 20_000
"""References to references can unfold to any size; from here on they are cut."""


def subschemas(schema: Json) -> Iterator[Json]:
    """The schemas directly inside one."""
    for keyword in _MORE:
        if isinstance(inner := schema.get(keyword), Mapping):
            yield inner
    for keyword in _MANY:
        if isinstance(inner := schema.get(keyword), list):
            yield from (each for each in inner if isinstance(each, Mapping))
    for keyword in _NAMED:
        if isinstance(inner := schema.get(keyword), Mapping):
            yield from (each for each in inner.values() if isinstance(each, Mapping))


def beyond(schema: Json, known: frozenset[str]) -> frozenset[str]:
    """Keywords anywhere in a schema that are neither `known` nor mere `NOTES`."""
    found: set[str] = set()
    stack: list[Json] = [schema]
    while stack:
        one = stack.pop()
        found.update(keyword for keyword in one if keyword not in known and keyword not in NOTES)
        stack.extend(subschemas(one))
    return frozenset(found)


def refers_to_itself(schema: Json) -> bool:
    """Whether following the references of a schema never ends."""
    return _Inlining(schema).cuts(schema)


def is_empty_object(schema: Json | None) -> bool:
    """Whether a tool's parameters say nothing: none, or an object without properties that forbids nothing."""
    if not schema:
        return True
    if schema.get("type", "object") not in ("object", "OBJECT") or schema.get("properties"):
        return False
    return beyond(schema, frozenset({"type", "properties", "required", "description", "additionalProperties"})) == set()


def inlined(schema: Json) -> tuple[dict[str, Any], bool]:
    """(the schema with its local references put in place, whether one had to be cut because it refers to itself)."""
    work = _Inlining(schema)
    out = work.inline(schema, ())
    return (out if isinstance(out, dict) else {}), work.cut


class _Inlining:
    """References of one schema, resolved against it."""

    __slots__ = ("_left", "_root", "cut")

    def __init__(self, root: Json) -> None:
        self._root = root
        self._left = _NODES_MAX
        self.cut = False

    def cuts(self, schema: Json) -> bool:
        self.inline(schema, ())
        return self.cut

    def inline(self, node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self.inline(each, path) for each in node]
        if not isinstance(node, Mapping):
            return node
        self._left -= 1
        ref = node.get("$ref")
        if isinstance(ref, str):
            rest = {key: value for key, value in node.items() if key not in ("$ref", "$defs", "definitions")}
            target = self._target(ref)
            if ref in path or len(path) >= _DEPTH_MAX or self._left <= 0 or not isinstance(target, Mapping):
                self.cut = True
                return {"type": "object", **rest}
            return {**self.inline(target, (*path, ref)), **{key: self.inline(each, path) for key, each in rest.items()}}
        return {
            key: self._member(key, value, path) for key, value in node.items() if key not in ("$defs", "definitions")
        }

    def _member(self, key: str, value: Any, path: tuple[str, ...]) -> Any:
        # Below ``properties`` the keys are names, so one that is called ``$ref`` or ``$defs`` is no reference.
        if key in _NAMED and isinstance(value, Mapping):
            return {name: self.inline(each, path) for name, each in value.items()}
        if key in ("enum", "const", "default", "examples", "example", "required"):
            return value
        return self.inline(value, path)

    def _target(self, ref: str) -> Any:
        if ref == "#":
            return self._root
        if not ref.startswith("#/"):
            return None
        node: Any = self._root
        for step in ref[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = node[int(step)] if step.isdigit() and int(step) < len(node) else None
            else:
                node = node.get(step) if isinstance(node, Mapping) else None
        return node


# Towards Gemini's older form ------------------------------------------------------------------------------------------


def openapi(schema: Json) -> tuple[dict[str, Any], bool]:
    """(the schema in Gemini's form after OpenAPI, whether it says less than before).

    What has no keyword there is moved into the description, so that the model at least reads it.
    """
    whole, cut = inlined(schema)
    work = _Cleaning()
    work.lossy = cut
    return work.clean(whole), work.lossy


class _Cleaning:
    __slots__ = ("lossy",)

    def __init__(self) -> None:
        self.lossy = False

    def clean(self, node: Any) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            self.lossy = self.lossy or node is False
            return {}
        source = self._merged(node)
        out: dict[str, Any] = {}
        said: list[str] = []
        branches = self._typed(source, out)
        for key, value in source.items():
            if key == "properties" and isinstance(value, Mapping):
                out[key] = {name: self.clean(each) for name, each in value.items()}
            elif key == "items" and isinstance(value, Mapping):
                out[key] = self.clean(value)
            elif key == "const":
                self._choices([value], out, said)
            elif key == "enum" and isinstance(value, list):
                self._choices(value, out, said)
            elif key == "format" and not (isinstance(value, str) and value in _FORMATS):
                said.append(f"format: {value}")
            elif key in ("anyOf", "oneOf") and isinstance(value, list):
                branches.extend(value)
            elif key in OPENAPI and key not in ("type", "enum", "anyOf", "items"):
                out[key] = value
            elif key not in NOTES and key not in ("type", "additionalProperties", "items", "nullable"):
                self.lossy = True
                said.append(f"{key}: {orjson.dumps(value).decode()}")
        return self._finished(out, said, branches)

    def _merged(self, node: Json) -> Json:
        """``allOf`` has no place: its members are laid over each other."""
        members = node.get("allOf")
        if not isinstance(members, list):
            return node
        out: dict[str, Any] = {key: value for key, value in node.items() if key != "allOf"}
        for member in members:
            for key, value in (self._merged(member) if isinstance(member, Mapping) else {}).items():
                have = out.get(key)
                if isinstance(have, Mapping) and isinstance(value, Mapping):
                    out[key] = {**have, **value}
                elif key == "required" and isinstance(have, list) and isinstance(value, list):
                    out[key] = have + [name for name in value if name not in have]
                else:
                    self.lossy = self.lossy or (have is not None and have != value)
                    out.setdefault(key, value)
        return out

    def _typed(self, source: Json, out: dict[str, Any]) -> list[Any]:
        """Write the type; several types become branches."""
        kinds = source.get("type")
        if isinstance(kinds, list):
            rest = [kind for kind in kinds if kind != "null"]
            if len(rest) < len(kinds):
                out["nullable"] = True
            if len(rest) > 1:
                return [{"type": kind} for kind in rest]
            kinds = rest[0] if rest else None
        if isinstance(kinds, str):
            out["type"] = kinds
        elif "properties" in source:
            out["type"] = "object"
        elif "items" in source:
            out["type"] = "array"
        if source.get("nullable") is True:
            out["nullable"] = True
        return []

    def _choices(self, values: list[Any], out: dict[str, Any], said: list[str]) -> None:
        if None in values:
            out["nullable"] = True
        plain = [value for value in values if value is not None]
        if all(isinstance(value, str) for value in plain):
            if plain:
                out["type"], out["enum"] = "string", plain
        else:
            self.lossy = True
            said.append("one of: " + ", ".join(orjson.dumps(value).decode() for value in plain))

    def _finished(self, out: dict[str, Any], said: list[str], branches: list[Any]) -> dict[str, Any]:
        if out.get("type") == "array" and "items" not in out:
            out["items"] = {"type": "string"}  # a list of anything cannot be said, and without items it is refused
            self.lossy = True
        if isinstance(required := out.get("required"), list):
            found = out.get("properties")
            names = found if isinstance(found, Mapping) else {}
            out["required"] = [name for name in required if isinstance(name, str) and name in names]
            if not out["required"]:
                del out["required"]
        if out.get("type") == "object" and not out.get("properties"):
            out.pop("properties", None)
        if said:
            text = out.get("description")
            out["description"] = (f"{text} " if text else "") + "(" + "; ".join(said) + ")"
        return self._branched(out, branches) if branches else out

    def _branched(self, out: dict[str, Any], branches: list[Any]) -> dict[str, Any]:
        """``anyOf`` stands alone but for the description: what stood beside it goes into every branch."""
        rest = [each for each in branches if not (isinstance(each, Mapping) and each.get("type") == "null")]
        top: dict[str, Any] = {}
        if "description" in out:
            top["description"] = out.pop("description")
        if len(rest) < len(branches) or out.get("nullable"):
            out.pop("nullable", None)
            top["nullable"] = True
        cleaned = [{**out, **self.clean(each)} for each in rest]
        if len(cleaned) == 1:
            return {**cleaned[0], **top}
        return {**top, "anyOf": cleaned} if cleaned else {**out, **top}


# From Gemini's older form ---------------------------------------------------------------------------------------------


def from_openapi(schema: Json) -> dict[str, Any]:
    """JSON Schema for a schema in Gemini's form after OpenAPI; one that is JSON Schema already stays what it is."""
    out: dict[str, Any] = {}
    for written, value in schema.items():
        key = _SPELT.get(written, written)
        if key == "nullable" or (key == "type" and (value in (0, None, "TYPE_UNSPECIFIED"))):
            continue
        if key == "type":
            out[key] = [_type(each) for each in value] if isinstance(value, list) else _type(value)
        elif key in _NAMED and isinstance(value, Mapping):
            out[key] = {name: _inner(each) for name, each in value.items()}
        elif key in _MORE or key in _MANY:
            out[key] = [_inner(each) for each in value] if isinstance(value, list) else _inner(value)
        elif key in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"):
            out[key] = int(value) if isinstance(value, str) and value.isdigit() else value  # int64 travels as text
        else:
            out[key] = value
    if schema.get("nullable") is True:
        _allow_null(out)
    return out


def _inner(value: Any) -> Any:
    return from_openapi(value) if isinstance(value, Mapping) else value


def _type(value: Any) -> Any:
    if isinstance(value, int):
        return _NUMBERED[value] if 0 < value < len(_NUMBERED) else None
    return value.lower() if isinstance(value, str) else value


def _allow_null(out: dict[str, Any]) -> None:
    kind = out.get("type")
    if isinstance(kind, str):
        out["type"] = [kind, "null"]
        if isinstance(out.get("enum"), list) and None not in out["enum"]:
            out["enum"] = [*out["enum"], None]
    elif isinstance(out.get("anyOf"), list):
        out["anyOf"] = [*out["anyOf"], {"type": "null"}]
