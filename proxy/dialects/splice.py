"""Change single top-level values of a JSON object and nothing else of its bytes.

Same dialect means the caller's bytes reach the provider untouched; where the model map asks for another name, only that
value changes. The value must be found with certainty: ``"model"`` also occurs in prompts and tool schemas. When the key
occurs once in the whole body it is the top-level one; otherwise a small scanner walks the object by its quotes and
brackets, jumping over strings with `bytes.find`, so that megabytes of base64 cost a memory scan.

A key that is repeated is replaced at every place. Parsers disagree on which one counts (most take the last, some the
first, some refuse), and none of them may read a value that we did not decide on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any, Final

import orjson

_STRUCTURE: Final = re.compile(rb'["{}\[\]:,]')
_SPACE: Final = b" \t\r\n"


def replace(body: bytes, values: Mapping[str, Any]) -> bytes:
    """`body` with the top-level `values` set; keys it lacks are added. `body` must be a valid JSON object."""
    spans = _spans(body, set(values))
    for key, start, end in reversed(spans):
        body = body[:start] + orjson.dumps(values[key]) + body[end:]
    found = {key for key, _, _ in spans}
    missing = {key: value for key, value in values.items() if key not in found}
    if missing:
        opening = body.index(b"{") + 1
        rest = body[opening:]
        comma = b"" if rest.lstrip(_SPACE).startswith(b"}") else b","
        body = body[:opening] + orjson.dumps(missing)[1:-1] + comma + rest
    return body


def without(body: bytes, keys: Set[str]) -> bytes:
    """`body` without the top-level `keys`, wherever they stand; the rest keeps its bytes. `body` as in `replace`."""
    for _, start, end in reversed(_walk(body, set(keys))):
        closing = body.rindex(b'"', 0, start)
        opening = body.rindex(b'"', 0, closing)
        before = opening
        while body[before - 1] in _SPACE:
            before -= 1
        if body[before - 1] == 0x2C:
            body = body[: before - 1] + body[end:]
            continue
        while body[end] in _SPACE:
            end += 1
        body = body[:opening] + body[end + (body[end] == 0x2C) :]
    return body


def members(body: bytes, keys: Set[str], most_bytes: int = 65536) -> dict[str, Any] | None:
    """The top-level `keys` of a JSON object, parsed; values above `most_bytes` are left out. None: not an object.

    Everything else is jumped over and not even checked: for bodies that are megabytes of few long strings.
    """
    if body[:64].lstrip(_SPACE)[:1] != b"{" or body[-64:].rstrip(_SPACE)[-1:] != b"}":
        return None
    out: dict[str, Any] = {}
    try:
        for key, start, end in _walk(body, set(keys)):
            if end - start <= most_bytes:
                out[key] = orjson.loads(body[start:end])
    except (ValueError, IndexError):
        return None
    return out


def _spans(body: bytes, keys: set[str]) -> list[tuple[str, int, int]]:
    """(key, start, end) of the value of every occurrence of the top-level keys, in order."""
    if len(keys) == 1:
        key = next(iter(keys))
        once = _only_string(body, key)
        if once is not None:
            return [(key, *once)]
    return _walk(body, keys)


def _only_string(body: bytes, key: str) -> tuple[int, int] | None:
    """The span of the key's string value when the key's name occurs exactly once and no escape could hide another."""
    name = orjson.dumps(key)
    at = body.find(name)
    if at < 0 or body.find(name, at + 1) >= 0 or b"\\u00" in body or body.lstrip(_SPACE)[:1] != b"{":
        return None
    depth = _depth(body, at)
    if depth != 1:
        return None
    colon = at + len(name)
    while body[colon : colon + 1] in (b" ", b"\t", b"\r", b"\n"):
        colon += 1
    start = colon + 1
    while body[start : start + 1] in (b" ", b"\t", b"\r", b"\n"):
        start += 1
    if body[colon : colon + 1] != b":" or body[start : start + 1] != b'"':
        return None
    return start, _string_end(body, start)


def _depth(body: bytes, at: int) -> int:
    """Nesting depth at an offset. Cheap for the usual place of ``model``, near the beginning."""
    depth, i = 0, 0
    while True:
        found = _STRUCTURE.search(body, i, at)
        if found is None:
            return depth
        mark = body[found.start()]
        if mark == 0x22:
            i = _string_end(body, found.start())
            if i > at:
                return -1  # inside a string
            continue
        depth += (mark in b"{[") - (mark in b"}]")
        i = found.end()


def _string_end(body: bytes, start: int) -> int:
    """Offset just behind the string that opens at `start`."""
    end = start
    while True:
        end = body.find(b'"', end + 1)
        if end < 0:
            return len(body)
        slashes = end - 1
        while body[slashes] == 0x5C:
            slashes -= 1
        if (end - slashes) % 2:
            return end + 1


def _walk(body: bytes, keys: set[str]) -> list[tuple[str, int, int]]:
    spans: list[tuple[str, int, int]] = []
    depth, i, key, value_at, expect_key = 0, 0, "", -1, False
    while True:
        found = _STRUCTURE.search(body, i)
        if found is None:
            return spans
        at, mark = found.start(), body[found.start()]
        i = found.end()
        if mark == 0x22:
            i = _string_end(body, at)
            if depth == 1 and expect_key:
                key, expect_key = _name(body[at:i]), False
        elif mark == 0x3A and depth == 1 and value_at < 0:
            value_at = i
        elif mark in b"{[":
            depth += 1
            expect_key = expect_key or (depth == 1)
        elif (mark == 0x2C and depth == 1) or (mark in b"}]" and depth == 1):
            if key in keys and value_at >= 0:
                spans.append((key, *_trim(body, value_at, at)))
            key, value_at, expect_key = "", -1, True
            if mark != 0x2C:
                return spans
        elif mark in b"}]":
            depth -= 1


def _name(quoted: bytes) -> str:
    """A key without quotes and escapes. A lone surrogate is kept: it is no reason to refuse the caller's body."""
    if b"\\" not in quoted:
        return quoted[1:-1].decode("utf-8", "replace")
    return str(json.loads(quoted.decode("utf-8", "replace")))


def _trim(body: bytes, start: int, end: int) -> tuple[int, int]:
    while body[start] in _SPACE:
        start += 1
    while body[end - 1] in _SPACE:
        end -= 1
    return start, end
