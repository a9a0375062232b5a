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
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from proxy.base.outcome import ANY_ERROR, Class
from proxy.config import compiled, schema, validate
from proxy.config.compiled import Config
from proxy.config.names import Loc, Node, Problem, advice, dotted, quoted, shown, typed, walk
from proxy.config.secrets import (
    apply_overrides,
    expand_node,
    fixed,
    from_file,
    is_secret,
    odd_variables,
)
from proxy.config.validate import Finding
from proxy.engine.plan import Price, Tier

MAX_BYTES: Final = 1024 * 1024
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 64
MAX_PROBLEMS: Final = 500
"""Problems told of one file; the rest is only counted."""

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
    reading = _Reading(name=name)
    try:
        reading.root = root = _tree(_decode(content, reading), reading)
        reading.errors += apply_overrides(root, env, flags)
        for node, loc in walk(root, ()):
            if message := expand_node(node, loc, env):
                reading.error(node.line, node.column, message, loc)
                node.broken = True
        file = _check(reading)
    except _Stop:
        return reading.failed()
    config = _Builder(file, reading, clock).config(hashlib.sha256(content).hexdigest())
    for finding in validate.warnings(file):
        reading.tell(finding, reading.warnings)
    reading.warnings += odd_variables(env)
    told = tuple(_ordered(reading.warnings))
    return Loaded(config=replace(config, warnings=tuple(str(problem) for problem in told)), warnings=told)


@dataclass(slots=True)
class _Reading:
    """What is known about the file while it is read."""

    name: str
    root: Node = field(default_factory=lambda: Node(1, 1, keys={}))
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def failed(self) -> Loaded:
        return Loaded(config=None, errors=tuple(_ordered(self.errors)))

    def error(self, line: int, column: int, message: str, loc: Loc = ()) -> None:
        self.errors.append(Problem(file=self.name, line=line, column=column, path=dotted(loc), message=message))

    def tell(self, finding: Finding, problems: list[Problem]) -> None:
        """Add a finding with its place and perhaps its value, unless an error was told about the place before."""
        way = _way(self.root, finding.loc)
        node = way[-1]
        if node.broken and finding.show:
            return
        labels = [step.label for step in way[1:]]
        rest = [part for part in finding.loc[len(labels) :] if part != "[key]"]
        if node.text is not None and rest == [0]:
            rest = []  # a word alone where a list of words may stand
        path = dotted((*labels, *rest))
        if any(problem.path == path for problem in problems):
            return  # what was wrong there is cut out by now, and would be told as missing
        got, hint = "", finding.hint
        if finding.show and not rest and not is_secret(finding.loc):
            is_key = finding.loc[-1] == "[key]"
            got = f", got {quoted(str(node.label)) if is_key else shown(node)}"
            hint = "" if node.written and not is_key else hint or advice(node, finding.message)
        problems.append(
            Problem(
                file=node.source or self.name,
                line=0 if node.source else node.line,
                column=node.column,
                path=path,
                message=finding.message + got + hint,
            )
        )


def _ordered(problems: list[Problem]) -> list[Problem]:
    """In file order, without repetition, at most `MAX_PROBLEMS`."""
    told = list(dict.fromkeys(sorted(problems, key=lambda p: (p.line, p.column))))
    if len(told) > MAX_PROBLEMS:
        rest = replace(told[-1], path="", message=f"{len(told) - MAX_PROBLEMS} more problems follow")
        told[MAX_PROBLEMS:] = [rest]
    return told


# --- text to tree ----------------------------------------------------------------------------------------------------


def _decode(content: bytes, reading: _Reading) -> str:
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


def _tree(text: str, reading: _Reading) -> Node:
    """The tree of the only document."""
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
        reading.error(1, 1, "the file is empty; it needs at least providers")
        raise _Stop
    if root.keys is None:
        reading.error(root.line, root.column, "the file must be a mapping; its sections begin with 'providers:'")
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

    def __init__(self, reading: _Reading) -> None:
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


def _way(root: Node, loc: Loc) -> list[Node]:
    """The nodes from the root towards `loc`, as far as they exist."""
    way = [root]
    for part in loc:
        node = way[-1]
        if node.keys is not None and isinstance(part, str) and part in node.keys:
            way.append(node.keys[part])
        elif node.items is not None and isinstance(part, int) and part < len(node.items):
            way.append(node.items[part])
        else:
            break
    return way


# --- checks and building ---------------------------------------------------------------------------------------------


def _check(reading: _Reading) -> schema.File:
    """The checked file; stops when there are errors, after looking for all of them."""
    root = reading.root
    providers = root.keys.get("providers") if root.keys else None
    known = tuple(providers.keys or ()) if providers else ()
    file, findings = schema.check(_data(root))
    complete = not findings and not reading.errors
    for finding in findings:
        reading.tell(finding, reading.errors)
    while file is None and _cut(root, findings):
        file, findings = schema.check(_data(root))
    if file is not None:
        for finding in (*validate.errors(file, known, complete), *_file_errors(file)):
            reading.tell(finding, reading.errors)
    if reading.errors or file is None:
        raise _Stop
    return file


def _file_errors(file: schema.File) -> Iterator[Finding]:
    """Files that must be there before the first call."""
    for name, provider in file.providers.items():
        if provider.ca_file and not os.access(provider.ca_file, os.R_OK):
            yield Finding(loc=("providers", name, "ca_file"), message="is no readable file", show=True)


def _cut(root: Node, findings: list[Finding]) -> bool:
    """Cut the places of the findings out of the tree; False when the root itself is at fault.

    Every round cuts at least one node, so the rounds end.
    """
    ways = [_way(root, finding.loc) for finding in findings]
    for way in ways:
        if len(way) < 2:
            return False
        parent, node = way[-2], way[-1]
        if parent.keys is not None:
            parent.keys.pop(str(node.label), None)
        elif parent.items is not None:
            parent.items = [item for item in parent.items if item is not node]
    return True


class _Builder:
    """Turns a checked file into frozen values, and tells which keys are missing."""

    def __init__(self, file: schema.File, reading: _Reading, clock: Callable[[], float]) -> None:
        self._file = file
        self._reading = reading
        self._clock = clock

    def config(self, digest: str) -> Config:
        file = self._file
        providers = {name: self._provider(name, provider) for name, provider in file.providers.items()}
        listen, limits, log = file.listen, file.limits, file.telemetry.log
        sizes = {
            key: getattr(listen, key)
            for key in type(listen).model_fields
            if key not in ("data", "admin", "auth_tokens")
        }
        bounds = {key: getattr(limits, key) for key in type(limits).model_fields if key != "allow_overrides"}
        config = Config(
            path=self._reading.name,
            digest=digest,
            listen=compiled.Listen(
                data_host=listen.data.host,
                data_port=listen.data.port,
                admin_host=listen.admin.host,
                admin_port=listen.admin.port,
                auth_tokens=self._tokens(),
                **sizes,
            ),
            providers=providers,
            defaults=schema.flat(file.defaults, stated_only=True),
            policies={name: schema.flat(policy, stated_only=True) for name, policy in file.policies.items()},
            routes=tuple(self._routes(providers)),
            limits=compiled.Limits(allow_overrides=frozenset(limits.allow_overrides), **bounds),
            drain_timeout_s=file.shutdown.drain_timeout_s,
            log_format=log.format,  # type: ignore[arg-type]  # the schema's words are those of the type
            log_level=log.level,  # type: ignore[arg-type]
            metrics=file.telemetry.metrics,
            chaos=file.chaos.enabled,
            store_path=file.store.path,
        )
        return replace(config, redacted=_effective(file, config, self._reading.root))

    def _provider(self, name: str, given: schema.Provider) -> compiled.Provider:
        key, disabled = self._key(name, given)
        return compiled.Provider(
            name=name,
            dialect=validate.dialect_of(name, given),  # type: ignore[arg-type]
            base_url=validate.base_url_of(name, given),
            api_key=key,
            credentials=given.credentials,  # type: ignore[arg-type]
            region=given.region,
            max_concurrency=given.max_concurrency,
            api_version=given.api_version or "",
            models=_models(given),
            breaker=schema.flat(given.circuit_breaker, stated_only=True),
            disabled=disabled,
            tls_verify=given.tls_verify,
            ca_file=given.ca_file,
        )

    def _key(self, name: str, given: schema.Provider) -> tuple[compiled.Secret | None, str]:
        """The credential, and why the provider takes no calls without it."""
        loc: Loc = ("providers", name, "api_key")
        nodes = [node for node, _ in walk(_way(self._reading.root, loc)[-1], loc)]
        missing = next((node for node in nodes if node.missing), None)
        if given.api_key is None or given.credentials == "caller":
            return None, ""
        if missing:
            reason = f"no key: {missing.missing}"
            tail = "the provider is disabled" if given.credentials == "sidecar" else "only callers' own keys are used"
            self._reading.tell(Finding(loc=loc, message=f"{reason}; {tail}"), self._reading.warnings)
            return fixed(None, missing.variables), reason if given.credentials == "sidecar" else ""
        return self._secret(loc, given.api_key), ""

    def _secret(self, loc: Loc, given: Any) -> compiled.Secret:
        """A secret that is there, or one in a file, which may still come."""
        node = _way(self._reading.root, loc)[-1]
        if not isinstance(given, str):
            secret = from_file(given["file"], self._clock)
            if secret.read() is None:
                message = "no key yet: the file cannot be read or holds no key; it is looked for again at every call"
                self._reading.tell(Finding(loc=loc, message=message), self._reading.warnings)
            return secret
        key = given.strip()  # a variable made from a file often ends in a line feed
        return fixed(key, node.variables)

    def _tokens(self) -> tuple[compiled.Secret, ...]:
        tokens = self._file.listen.auth_tokens
        return tuple(self._secret(("listen", "auth_tokens", index), token) for index, token in enumerate(tokens))

    def _routes(self, providers: Mapping[str, compiled.Provider]) -> list[compiled.Route]:
        everything = [schema.Target(provider=name) for name in providers]
        given = self._file.routes or [schema.Route(name="default")]
        return [
            compiled.Route(
                name=route.name or f"route{index + 1}",
                paths=tuple(route.match.paths),
                models=tuple(route.match.models),
                targets=tuple(
                    _target(target, place, route.balance)
                    for place, target in enumerate(everything if route.targets is None else route.targets)
                ),
                balance=route.balance,  # type: ignore[arg-type]
                policy=schema.flat(route.policy, stated_only=True),
            )
            for index, route in enumerate(given)
        ]


def _models(given: schema.Provider) -> tuple[compiled.Model, ...]:
    """The model map in file order, exact names before globs."""
    if given.models is None:
        return (compiled.Model(asked="*", name=""),)
    models = [
        compiled.Model(
            asked=asked,
            name="" if entry.name == "passthrough" else entry.name,
            deployment=entry.deployment,
            tier="economy" if entry.tier == "economy" else "",
            quality=entry.quality,
            max_output_tokens=entry.max_output_tokens,
            context_window=entry.context_window,
            price=Price(input=entry.price.input, output=entry.price.output) if entry.price else None,
        )
        for asked, entry in given.models.items()
    ]
    return tuple(sorted(models, key=lambda model: "*" in model.asked))


def _target(given: schema.Target, place: int, balance: str) -> compiled.RouteTarget:
    """One entry of a chain. Only with balance priority does the place in the file make a rank."""
    default = Tier.SECONDARY if place and balance == "priority" else Tier.PRIMARY
    increase = given.max_latency_increase_ms
    return compiled.RouteTarget(
        provider=given.provider,
        model=given.model,
        tier=Tier[given.tier.upper()] if given.tier else default,
        weight=given.weight,
        trigger=None if given.trigger is None else classes(given.trigger),
        max_retries=given.max_retries,
        max_latency_increase_s=None if increase is None else increase / 1000,
    )


def classes(words: list[str]) -> frozenset[Class]:
    """What trigger words cover; ``any_error`` is all but content policy and invalid request."""
    return frozenset().union(*(ANY_ERROR if word == "any_error" else {Class(word)} for word in words))


def _effective(file: schema.File, config: Config, root: Node) -> dict[str, Any]:
    """The file with its defaults as a JSON-able tree. Secrets and ``${...}`` stand as references, foreign sections not
    at all: what may be shown is listed by the schema, what must not be shown is not guessed by name."""
    tree = file.model_dump(exclude=set(validate.TAKEN))
    for key in ("policies", "routes"):  # only what they state: the rest comes from `defaults`
        tree[key] = file.model_dump(include={key}, exclude_unset=True).get(key, tree[key])
    for name, provider in config.providers.items():
        shown_key = provider.api_key.reference if provider.api_key else None
        tree["providers"][name].update(dialect=provider.dialect, base_url=provider.base_url, api_key=shown_key)
    tree["listen"]["auth_tokens"] = [token.reference for token in config.listen.auth_tokens]
    for node, loc in walk(root, ()):
        if node.written and not is_secret(loc):
            _replace(tree, loc, node.written)
    return tree


def _replace(tree: Any, loc: Loc, written: str) -> None:
    """Put the text as written in the place of a value that came out of ``${...}``."""
    at: Any = tree
    steps: tuple[Any, ...] = loc
    for step in steps[:-1]:
        at = at[step] if isinstance(at, list) or step in at else {}
    last = steps[-1]
    if isinstance(at, dict) and isinstance(at.get(last), dict):
        at[last]["name"] = written  # a model's name alone stands for {name: ...}
    elif isinstance(at, list) or last in at:
        at[last] = written
