"""From the bytes of a YAML file to a `Config`, with every error and its place at once.

The file is read as *events*, not with a YAML constructor: that keeps the line and column of every key, refuses
aliases, tags, duplicate keys and second documents where they stand, and cannot be driven into deep recursion, since
nesting and size are counted while reading. Plain scalars then get the types of the YAML 1.2 core schema; ``on``,
``1:30``, ``3_000`` and dates stay strings, and where another type belongs the message says what to write instead.

Order: read -> overrides from variables and flags -> ``${...}`` -> schema -> checks between fields -> build. A file with
errors is judged to the end: broken parts are cut out, so that a typo on line 3 does not hide the wrong name on line 80.

Nothing here prints a value that is a secret or that came out of ``${...}``; such a place is shown as it was written.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from proxy.config import model_data, notify, provider_checks, rollout_checks, schema, telemetry, validate
from proxy.config.building import Builder
from proxy.config.compiled import Config
from proxy.config.model_data import ModelData
from proxy.config.names import Node, Problem, quoted, typed, walk
from proxy.config.reading import Reading, ordered, way_to
from proxy.config.schema import S
from proxy.config.secrets import apply_overrides, expand_node, odd_variables
from proxy.config.validate import Finding

MAX_BYTES: Final = 1024 * 1024
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 64

_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a file gave: a configuration, or errors."""

    config: Config | None
    """None exactly when there are errors."""
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    """Empty while there are errors."""


def load_file(
    path: str,
    env: Mapping[str, str],
    *,
    flags: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """Read, check and build the file at `path`; never raises for what the file contains or for its absence.

    `env`: the process's variables. `flags`: values by flag name (``listen-data-port``). `clock`: monotonic seconds, for
    secrets in files.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a usable path"
        return Loaded(config=None, errors=(Problem(file=path, message=f"cannot be read: {reason}"),))
    return _load(content, path, env, flags or {}, clock)


def load_bytes(
    content: bytes,
    name: str,
    env: Mapping[str, str],
    *,
    flags: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """As `load_file` for what was read already; `name` stands in the messages in place of the path."""
    return _load(content, name, env, flags or {}, clock)


def load_text(
    text: str,
    name: str,
    env: Mapping[str, str],
    *,
    flags: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """As `load_file` for text; `name` stands in the messages in place of the file's."""
    return _load(text.encode("utf-8", "surrogatepass"), name, env, flags or {}, clock)


def load_section(content: bytes, name: str, kind: type[S]) -> tuple[S | None, tuple[Problem, ...]]:
    """Another file in the manner of ours, without ``${...}``: its one section, or every error with its place."""
    reading = Reading(name=name)
    try:
        reading.root = _tree(_decode(content, reading), reading, "")
    except _Stop:
        return None, tuple(ordered(reading.errors))
    section, findings = schema.checked(_data(reading.root), kind)
    for finding in findings:
        reading.tell(finding, reading.errors)
    return (None if reading.errors else section), tuple(ordered(reading.errors))


def render_effective(config: Config) -> dict[str, Any]:
    """The effective configuration for ``GET /config``: JSON-able, defaults filled in, secrets as references."""
    return {
        "path": config.path,
        "sha256": config.digest,
        "warnings": list(config.warnings),
        "disabled": {name: p.disabled for name, p in config.providers.items() if p.disabled},
        "config": dict(config.redacted),
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file, for editors and ``outrider schema``."""
    return schema.json_schema()


class _Stop(Exception):
    """The file cannot be read further; the problem is in the list."""


def _load(
    content: bytes, name: str, env: Mapping[str, str], flags: Mapping[str, str], clock: Callable[[], float]
) -> Loaded:
    reading = Reading(name=name)
    try:
        reading.root = root = _tree(_decode(content, reading), reading)
        reading.errors += apply_overrides(root, env, flags)
        for node, loc in walk(root, ()):
            if message := expand_node(node, loc, env):
                reading.error(node.line, node.column, message, loc)
                node.broken = True
        file, data = _check(reading)
    except _Stop:
        return Loaded(config=None, errors=tuple(ordered(reading.errors)))
    config = Builder(file, reading, data, clock).config(hashlib.sha256(content).hexdigest())
    config = replace(config, telemetry=telemetry.telemetry_of(file.telemetry, env))
    more = (*rollout_checks.warnings(file), *telemetry.warnings(file.telemetry, env), *notify.warnings(file.notify))
    for finding in (*validate.warnings(file), *provider_checks.warnings(file), *more):
        reading.tell(finding, reading.warnings)
    reading.warnings += odd_variables(env)
    told = tuple(ordered(reading.warnings))
    return Loaded(config=replace(config, warnings=tuple(str(problem) for problem in told)), warnings=told)


# --- text to tree ----------------------------------------------------------------------------------------------------


def _decode(content: bytes, reading: Reading) -> str:
    """The text, when it is UTF-8 of a bearable size without control characters."""
    if len(content) > MAX_BYTES:
        reading.error(1, 1, f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
        raise _Stop
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        reading.error(1, 1, "the file is UTF-16; save it as UTF-8")
        raise _Stop
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line, column = _place(content[: exc.start].decode("utf-8", "replace"))
        reading.error(line, column, "the file is not UTF-8")
        raise _Stop from None
    if bad := _UNPRINTABLE.search(text):
        line, column = _place(text[: bad.start()])
        reading.error(line, column, f"the character U+{ord(bad.group()):04X} is not allowed")
        raise _Stop
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _tree(text: str, reading: Reading, least: str = "providers") -> Node:
    """The tree of the only document. `least`: the section that no file can do without; empty: there is none."""
    grower = _Grower(reading)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            grower.take(event)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = text.splitlines()
        reading.error(
            line + 1, column + 1, _syntax(exc.problem or "", lines[line] if line < len(lines) else "", column)
        )
        raise _Stop from None
    root = grower.root
    if root is None or (root.text is not None and root.plain and typed(root.text) is None):
        reading.error(1, 1, "the file is empty" + f"; it needs at least {least}" * bool(least))
        raise _Stop
    if root.keys is None:
        begin = f"; its sections begin with '{least}:'" * bool(least)
        reading.error(root.line, root.column, f"the file must be a mapping{begin}")
        raise _Stop
    root.line, root.column = 1, 1
    return root


def _syntax(problem: str, line: str, column: int) -> str:
    """The parser's complaint, and what people usually meant."""
    if line[column : column + 1] == "\t":
        return "a tab where indentation or a value is expected; use spaces"
    if "${" in line and "did not find expected" in problem:
        return f'{problem}; inside {{ }} and [ ] write "${{NAME}}" in quotes'
    if "cannot start any token" in problem:
        return f"{problem}; put the value in quotes"
    if "mapping values are not allowed" in problem:
        return f"{problem}; check the indentation, or put a value that holds ': ' in quotes"
    return problem


class _Grower:
    """Grows the tree from events on an explicit stack."""

    def __init__(self, reading: Reading) -> None:
        self.root: Node | None = None
        self._reading = reading
        self._stack: list[Node] = []
        """Open mappings and lists."""
        self._keys: list[Node | None] = []
        """For each of them the key whose value comes next; None: a key comes next."""
        self._count = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._stop(line, column, "only one document is allowed; remove this ---")
            case yaml.AliasEvent():
                self._reading.error(line, column, "aliases (*name) are not supported; write the value out")
                self._put(Node(line, column, broken=True))
            case yaml.ScalarEvent():
                tagged = self._tagged(event, line, column)
                self._put(Node(line, column, text=event.value, plain=not event.style, broken=tagged))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                node = Node(line, column, keys={} if is_mapping else None, items=None if is_mapping else [])
                node.broken = self._tagged(event, line, column)
                if len(self._stack) >= MAX_DEPTH:
                    self._stop(line, column, f"nested more than {MAX_DEPTH} levels deep")
                self._put(node)
                self._stack.append(node)
                self._keys.append(None)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._stack.pop()
                self._keys.pop()

    def _tagged(self, event: Any, line: int, column: int) -> bool:
        if event.tag is not None:
            self._reading.error(line, column, "tags (!name) are not supported; remove it")
        return event.tag is not None

    def _stop(self, line: int, column: int, message: str) -> None:
        self._reading.error(line, column, message)
        raise _Stop

    def _put(self, node: Node) -> None:
        """Hang a node into the innermost open mapping or list, or make it the root."""
        self._count += 1
        if self._count > MAX_NODES:
            self._stop(node.line, node.column, f"the file has more than {MAX_NODES} values and keys")
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        if parent.items is not None:
            node.label = len(parent.items)
            parent.items.append(node)
            return
        key, self._keys[-1] = self._keys[-1], None
        if key is None:
            if node.text is None and not node.broken:
                self._reading.error(node.line, node.column, "a key must be text")
            self._keys[-1] = node
        elif key.text is not None and parent.keys is not None:  # what hangs on any other key is lost with it
            self._enter(parent.keys, key.text, key, node)

    def _enter(self, keys: dict[str, Node], name: str, key: Node, node: Node) -> None:
        node.label, node.line, node.column = name, key.line, key.column
        if name in keys:
            self._reading.error(key.line, key.column, f"duplicate key {quoted(name)}")
        else:
            keys[name] = node


class _Unknown:
    """Stands for a value that an error was told about; no rule takes it."""


def _data(node: Node) -> Any:
    """The plain values of a tree."""
    if node.broken:
        return _Unknown()
    if node.keys is not None:
        return {key: _data(child) for key, child in node.keys.items()}
    if node.items is not None:
        return [_data(child) for child in node.items]
    return typed(node.text or "") if node.plain else node.text


# --- checks and building ---------------------------------------------------------------------------------------------


def _check(reading: Reading) -> tuple[schema.File, ModelData]:
    """The checked file and the model data it names; stops when there are errors, after looking for all of them."""
    root = reading.root
    providers = root.keys.get("providers") if root.keys else None
    known = tuple(providers.keys or ()) if providers else ()
    data: ModelData = {}
    file, findings = schema.check(_data(root))
    complete = not findings and not reading.errors
    for finding in findings:
        reading.tell(finding, reading.errors)
    while file is None and _cut(root, findings):
        file, findings = schema.check(_data(root))
    if file is not None:
        data, faults = _model_data(file)
        own = (*provider_checks.errors(file), *rollout_checks.errors(file, known, complete))
        own += (*telemetry.errors(file.telemetry), *notify.errors(file.notify))
        for finding in (*validate.errors(file, known, complete), *own, *_file_errors(file), *faults):
            reading.tell(finding, reading.errors)
    if reading.errors or file is None:
        raise _Stop
    return file, data


def _file_errors(file: schema.File) -> Iterator[Finding]:
    """Files that must be there before the first call."""
    for name, provider in file.providers.items():
        if provider.ca_file and not os.access(provider.ca_file, os.R_OK):
            yield Finding(loc=("providers", name, "ca_file"), message="is no readable file", show=True)
        elif provider.ca_file and not _holds_authorities(provider.ca_file):
            yield Finding(loc=("providers", name, "ca_file"), message="holds no certificates in PEM form", show=True)


def _holds_authorities(path: str) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
    return True


def _model_data(file: schema.File) -> tuple[ModelData, list[Finding]]:
    """The external model data, none without a path; a file that cannot be used is one error at its path."""
    if not file.model_data.path:
        return {}, []
    try:
        return model_data.read(file.model_data.path), []
    except model_data.Unusable as fault:
        return {}, [Finding(loc=("model_data", "path"), message=str(fault), show=True)]


def _cut(root: Node, findings: list[Finding]) -> bool:
    """Cut the places of the findings out of the tree; False when the root itself is at fault.

    Every round cuts at least one node, so the rounds end.
    """
    ways = [way_to(root, finding.loc) for finding in findings]
    for way in ways:
        if len(way) < 2:
            return False
        parent, node = way[-2], way[-1]
        if parent.keys is not None:
            parent.keys.pop(str(node.label), None)
        elif parent.items is not None:
            parent.items = [item for item in parent.items if item is not node]
    return True
