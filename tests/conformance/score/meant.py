"""What a request means, whatever its dialect, and what of it another request lacks."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.score import wire

Json = dict[str, Any]
FILLERS_MAX = 400
"""Characters that a writer may add to a role's words: placeholders, markers, names, instructions."""


@dataclass(slots=True)
class Meant:
    words: dict[str, list[str]] = field(default_factory=lambda: {"system": [], "user": [], "assistant": []})
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """(id, tool, parsed arguments), in order."""
    results: list[tuple[str, Any]] = field(default_factory=list)
    """(id of the call, text or JSON value)."""
    images: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    """Base64, address, or text of documents and sounds."""
    tools: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    """Name -> (description, every property that its schema names)."""
    hosted: list[str] = field(default_factory=list)
    """What only the dialect's own provider can do."""
    choice: str = "auto"
    """auto, none, required, or ``=`` and a tool's name."""
    allowed: frozenset[str] = frozenset()
    """The only tools that may be called; empty: all."""
    limit: int | None = None
    stop: list[str] = field(default_factory=list)
    schema: set[str] | None = None
    """Properties of the structured output's schema; None: none was asked for, or one that says nothing."""

    def say(self, role: str, text: Any) -> None:
        if isinstance(text, str) and text.strip():
            self.words[role].append(text)


def properties(schema: Any) -> set[str]:
    """Every property that a JSON Schema names, at any depth."""
    if isinstance(schema, str):
        schema = wire.load(schema)
    found: set[str] = set()
    if isinstance(schema, list):
        for each in schema:
            found |= properties(each)
    elif isinstance(schema, dict):
        for key, each in schema.items():
            if key == "properties" and isinstance(each, dict):
                found |= set(each)
                for inner in each.values():
                    found |= properties(inner)
            elif key not in ("default", "enum", "const", "examples", "example", "required"):
                found |= properties(each)
    return found


def squash(text: str) -> str:
    """Words without white space, which writers may trim and join by."""
    return "".join(text.split())


def plain(data: str) -> str:
    """Base64 in its usual alphabet, without line breaks and padding."""
    return re.sub(r"\s", "", data).replace("-", "+").replace("_", "/").rstrip("=")


def url(address: str) -> str:
    """A picture's address, or its base64 where it stands in a ``data:`` URL."""
    if address[:5].lower() == "data:":
        head, _, data = address.partition(",")
        return plain(data) if head.lower().endswith(";base64") else f"text:{data}"
    return address


# Comparing ------------------------------------------------------------------------------------------------------------


def differences(want: Meant, got: Meant, names: Mapping[str, str], format_tool: str, warnings: str) -> list[str]:
    """What `got` lacks of `want`, or has beyond it. `names`: tool as sent -> as it was; `warnings`: what was told."""
    out = _words(want, got)
    got_calls = [(call_id, names.get(name, name), value) for call_id, name, value in got.calls]
    if [name for _, name, _ in want.calls] != [name for _, name, _ in got_calls]:
        return [*out, f"calls {[c[1] for c in want.calls]} became {[c[1] for c in got_calls]}"]
    for before, after in zip(want.calls, got_calls, strict=True):
        if not _same_arguments(before[2], after[2]):
            out.append(f"arguments {_short(before[2])} became {_short(after[2])}")
    out += _results(want, got)
    if want.images != got.images:
        out.append(f"{sum(want.images.values())} images became {sum(got.images.values())}")
    everything = squash("".join(text for texts in got.words.values() for text in texts))
    everything += squash("".join(_flat(value) for _, value in got.results))
    kept = {squash(_decoded(each)) for each in got.files}
    for each in want.files:
        if squash(_decoded(each)) not in kept and squash(_decoded(each)) not in everything:
            out.append(f"file {each[:40]!r} is gone")
    out += _tools(want, got, names, format_tool)
    out += _settings(want, got, names, format_tool, warnings)
    return out


def _words(want: Meant, got: Meant) -> list[str]:
    out = []
    orphans = _orphans(want)
    for role, texts in want.words.items():
        there = squash("".join(got.words[role]))
        if role == "system":
            there += squash("".join(got.words["user"]))  # in mid-conversation where the dialect has no such turn
        at = 0
        for text in texts:
            said = squash(text)
            found = there.find(said, at)
            if found < 0:
                found = there.find(said)
                kind = "is out of order" if found >= 0 else "is gone"
                out.append(f"{role} text {_short(text)} {kind}")
                continue
            at = found + len(said)
    told = sum(len(squash(text)) for text in [*want.words["user"], *want.words["system"], *want.words["assistant"]])
    told += sum(len(squash(_decoded(each))) for each in want.files if each not in got.files)
    told += sum(len(squash(_flat(value))) + 200 for _, value in orphans)
    said_now = sum(len(squash(text)) for texts in got.words.values() for text in texts)
    allowance = FILLERS_MAX + 40 * (len(want.words["user"]) + len(want.words["system"]) + len(want.results))
    if want.schema is None and said_now > told + allowance:
        out.append(f"{said_now - told} characters were added")
    return out


def _orphans(want: Meant) -> list[tuple[str, Any]]:
    known = {call_id for call_id, _, _ in want.calls}
    return [result for result in want.results if result[0] not in known]


def _by_call(meant: Meant) -> dict[int, list[Any]]:
    """Results by the number of their call: ids may change on the way, the order of calls may not."""
    index: dict[str, list[int]] = {}
    for at, (call_id, _, _) in enumerate(meant.calls):
        index.setdefault(call_id, []).append(at)
    out: dict[int, list[Any]] = {}
    used: Counter[str] = Counter()
    for call_id, value in meant.results:
        places = index.get(call_id)
        if places:
            out.setdefault(places[min(used[call_id], len(places) - 1)], []).append(value)
            used[call_id] += 1
    return out


def _results(want: Meant, got: Meant) -> list[str]:
    out = []
    before, after = _by_call(want), _by_call(got)
    for at, values in before.items():
        there = after.get(at, [])
        if not any(_same_result(value, each) for value in values for each in there):
            out.append(f"result {_short(values[-1])} became {_short(there)}")
    everything = squash("".join(text for texts in got.words.values() for text in texts))
    for _, value in _orphans(want):
        if squash(_flat(value)) not in everything and not any(_same_result(value, each) for _, each in got.results):
            out.append(f"result of an unknown call {_short(value)} is gone")
    return out


def _same_result(want: Any, got: Any) -> bool:
    return _value(want) == _value(got) or squash(_flat(want)) == squash(_flat(got))


_MARK = re.compile(r"\((?:image|file|document): see the next message\)")
"""What stands in a tool's text for a picture that the dialect cannot hold there (2.2)."""


def _value(value: Any) -> Any:
    """A result without the envelopes that dialects put around it."""
    if isinstance(value, str):
        text = _MARK.sub("", value).strip().removeprefix("Error:").strip()
        parsed = wire.load(text)
        return text if parsed is None or isinstance(parsed, str) else _value(parsed)
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("output", "result", "error"):
        return _value(next(iter(value.values())))
    return "" if value in ({}, [], None) else value


def _flat(value: Any) -> str:
    value = _value(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _same_arguments(want: Any, got: Any) -> bool:
    if want == got or (isinstance(got, dict) and list(got.values()) == [want]):
        return True
    return isinstance(want, dict) and list(want.values()) == [got]  # a free text's one parameter, and back


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return data


def _tools(want: Meant, got: Meant, names: Mapping[str, str], format_tool: str) -> list[str]:
    there = {names.get(name, name): each for name, each in got.tools.items() if name != format_tool}
    stubs = {name for _, name, _ in want.calls}
    if want.choice == "none" and not there:
        return []
    out = []
    asked_for = [name for name in want.tools if not want.allowed or name in want.allowed]
    if missing := [name for name in asked_for if name not in there]:
        out.append(f"tools {missing} are gone")
    if added := [name for name in there if name not in want.tools and name not in stubs]:
        out.append(f"tools {added} were added")
    for name, (description, fields) in want.tools.items():
        if name in there:
            now, kept = there[name]
            if squash(description) not in squash(now):
                out.append(f"description of {name} is gone")
            if fields - kept:
                out.append(f"parameters {sorted(fields - kept)} of {name} are gone")
            if kept - fields - {"input"}:
                out.append(f"parameters {sorted(kept - fields)} of {name} were added")
    return out


def _settings(want: Meant, got: Meant, names: Mapping[str, str], format_tool: str, warnings: str) -> list[str]:
    out = []
    choice = got.choice if got.choice[:1] != "=" else "=" + names.get(got.choice[1:], got.choice[1:])
    if want.tools and choice != want.choice and not format_tool:
        only = want.choice[:1] == "=" and choice == "required" and len(want.tools) == 1
        gone = want.choice == "none" and not got.tools
        if not only and not gone and "tool_choice" not in warnings and "toolConfig" not in warnings:
            out.append(f"choice {want.choice} became {choice}")
    if want.limit is not None and want.limit != got.limit and not re.search("max|limit", warnings):
        out.append(f"limit {want.limit} became {got.limit}")
    stops = [each for each in want.stop if each.strip()]
    if stops != [each for each in got.stop if each.strip()] and "stop" not in warnings:
        out.append(f"stop {want.stop} became {got.stop}")
    if want.schema is not None:
        there = got.tools.get(format_tool, ("", got.schema))[1] if format_tool else got.schema
        if there is None or want.schema - there:
            out.append(f"schema {sorted(want.schema)} became {there}")
    elif got.schema and format_tool not in got.tools:
        out.append("a schema out of nothing")
    return out


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:60]} ... {text[-40:]}"
