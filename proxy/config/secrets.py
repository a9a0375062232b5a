"""What comes from outside the file: variables, flags, and credentials that are read when they are needed.

``${NAME}`` and ``${NAME:-default}`` stand inside strings; ``$${`` is a literal ``${``. The value of a reference is
never printed: whatever has to be named is named as it was written. A key in a file is read again when the file changes,
as Kubernetes rotates a mounted Secret in place while the environment of a process never changes; the file may also
appear only after the start.

Variables and flags also override single settings, by one mechanical rule: `apply_overrides`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from proxy.config import names, notify, schema
from proxy.config.compiled import Secret
from proxy.config.names import Loc, Node, Problem

CHECK_EVERY_S: Final = 1.0
"""A key file is looked at no more often than this."""
MAX_FILE_BYTES: Final = 16 * 1024
"""A larger key file counts as unreadable; the longest keys in use, signed tokens, have some 4 KiB."""
MAX_REFERENCES: Final = 64
"""References in one value; variables may be large."""
LITERAL: Final = "(literal)"
"""The reference of a key that stands in the open."""

AWS_SECRETS: Final = ("access_key_id", "secret_access_key", "session_token")
"""Keys of a provider's ``aws`` section that hold secrets."""

_NOT_SETTINGS: Final = re.compile(r"OUTRIDER_(?:SERVICE_.*|PORT(?:_.*)?|CONFIG|DATA|BENCH_.*)")
"""What Kubernetes sets for a Service named outrider, and variables with another meaning."""
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:[^}$]|\$(?!\{))*+))?\}|\$\{")
_SENDABLE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """A string after its references were looked up."""

    text: str
    names: tuple[str, ...] = ()
    """Variables it refers to, in order; empty: it holds no reference."""
    missing: tuple[str, ...] = ()
    """Variables that are not set and have no default."""
    malformed: bool = False
    """It holds a ``${`` that is neither a reference nor written ``$${``."""


def expand(text: str, env: Mapping[str, str]) -> Expanded:
    """Replace the references in `text`. As in a shell, ``:-default`` serves for an empty variable too."""
    if "${" not in text:
        return Expanded(text=text)
    names: list[str] = []
    missing: list[str] = []
    malformed = False

    def value(match: re.Match[str]) -> str:
        nonlocal malformed
        name, default = match.group(1), match.group(2)
        if match.group() == "$${":
            return "${"
        if name is None:
            malformed = True
            return ""
        names.append(name)
        if default is not None:
            return env.get(name) or default
        if name not in env:
            missing.append(name)
        return env.get(name, "")

    out = _REFERENCE.sub(value, text)
    return Expanded(text=out, names=tuple(names), missing=tuple(missing), malformed=malformed)


def is_sendable(value: str) -> bool:
    """Whether a header can carry it: visible ASCII, no space, not empty."""
    return _SENDABLE.fullmatch(value) is not None


def fixed(value: str | None, names: tuple[str, ...] = ()) -> Secret:
    """A secret that never changes. `names`: the variables it came from, empty for one in the open; None: missing.

    Only the variables' names go into the reference: a default may be a key too.
    """
    reference = "".join(f"${{{name}}}" for name in names) or LITERAL
    return Secret(reference, lambda: value)


def from_file(path: str, clock: Callable[[], float]) -> Secret:
    """A secret in a file, read now and again when the file changes. `clock`: seconds, monotonic."""
    file = _KeyFile(path, clock)
    return Secret(f"file:{path}", file.read, file.reread)


class _KeyFile:
    """The latest readable content of a file, None while there is none."""

    __slots__ = ("_checked_at", "_clock", "_path", "_seen", "_value")

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._checked_at: float | None = None
        self._seen: tuple[int, ...] | None = None
        self._value: str | None = None

    def read(self) -> str | None:
        now = self._clock()
        # A clock that jumped back, or shows no number, must not keep a key for ever: anything odd means looking again.
        if self._checked_at is None or not 0.0 <= now - self._checked_at < CHECK_EVERY_S:
            self._checked_at = now
            self._look()
        return self._value

    def reread(self) -> str | None:
        """As `read`, whenever the file was looked at last."""
        self._checked_at = None
        return self.read()

    def _look(self) -> None:
        try:
            with open(self._path, "rb", opener=_open_at_once) as file:
                stat = os.fstat(file.fileno())
                # Inode and change time see both an edit in place and the kubelet's swap of a symbolic link, even
                # where the modification time stays the same.
                seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                if seen == self._seen:
                    return
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError:
            self._seen, self._value = None, None
            return
        self._seen, self._value = seen, _key(content)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a named pipe put in a key's place must not stop the event loop."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _key(content: bytes) -> str | None:
    """The key in a file's content; None when empty, too large, or when no header could carry it."""
    text = content.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
    return text if len(content) <= MAX_FILE_BYTES and is_sendable(text) else None


@cache
def _settings() -> dict[str, tuple[tuple[str, ...], bool]]:
    """Every overridable path by the name of its variable."""
    return {"OUTRIDER_" + "_".join(path).upper(): (path, is_text) for path, is_text in schema.scalars()}


def variables() -> dict[str, str]:
    """Variable name -> dotted path of every setting that a variable or flag may override."""
    return {name: ".".join(path) for name, (path, _) in _settings().items()}


def flag_of(variable: str) -> str:
    """``OUTRIDER_LISTEN_DATA_PORT`` -> ``--listen-data-port``."""
    return "--" + variable.removeprefix("OUTRIDER_").lower().replace("_", "-")


def apply_overrides(tree: Node, env: Mapping[str, str], flags: Mapping[str, str]) -> list[Problem]:
    """Put variables, then flags, over the scalars of `tree`; the problems name the flags that do not exist.

    One mechanical rule: the dotted path with ``_`` for ``.``, in capitals behind ``OUTRIDER_``, or with ``-`` as a
    flag. An empty variable counts as not set, an empty flag as stated. Values are taken as they are: no ``${...}``.
    """
    problems = []
    settings = _settings()
    for variable, (path, is_text) in settings.items():
        if env.get(variable):
            _set(tree, path, Node(0, 0, text=env[variable], plain=not is_text, source=variable))
    for given, value in flags.items():
        variable = "OUTRIDER_" + given.lstrip("-").replace("-", "_").upper()
        if variable in settings:
            path, is_text = settings[variable]
            _set(tree, path, Node(0, 0, text=value, plain=not is_text, source=flag_of(variable)))
        else:
            hint = names.did_you_mean("--" + given.lstrip("-"), [flag_of(name) for name in settings])
            problems.append(Problem(file="--" + given.lstrip("-"), message=f"unknown flag{hint}"))
    return problems


def _set(tree: Node, path: tuple[str, ...], leaf: Node) -> None:
    node = tree
    for part in path[:-1]:
        if node.keys is None:
            if node.text is None or node.text:
                return  # not a section at all, which the schema is about to say
            node.text, node.keys = None, {}
        node = node.keys.setdefault(part, Node(tree.line, tree.column, label=part, keys={}))
    if node.keys is None and node.text == "":
        node.text, node.keys = None, {}
    if node.keys is not None:
        leaf.label = path[-1]
        node.keys[path[-1]] = leaf


def odd_variables(env: Mapping[str, str]) -> list[Problem]:
    """Variables that look like ours, misspelt. Others may be anything: Kubernetes sets some with our prefix itself."""
    found = []
    for name in env:
        if name.startswith("OUTRIDER_") and name not in _settings() and not _NOT_SETTINGS.fullmatch(name):
            # Without the prefix, which would make everything alike. What is like nothing may serve a ${...}.
            near = names.nearest(name[9:], [setting[9:] for setting in _settings()])
            if near:
                found.append(Problem(file=name, message=f'sets nothing; did you mean "OUTRIDER_{near}"?'))
    return found


def expand_node(node: Node, loc: Loc, env: Mapping[str, str]) -> str:
    """Replace ``${...}`` in one scalar; the error message, or nothing.

    Only a provider's key may be missing: the reason is then in `Node.missing`.
    """
    if node.source or node.text is None:
        return ""
    if is_secret(loc) and node.text:
        node.plain = False  # a key of digits is a key, not a number
    count = node.text.count("${")
    if not count:
        return ""
    if count > MAX_REFERENCES:
        return f"holds more than {MAX_REFERENCES} references"
    got = expand(node.text, env)
    node.written, node.variables, node.text = node.text, got.names, got.text
    if got.malformed:
        return 'write ${NAME} or ${NAME:-default}, and "$${" for a literal "${"'
    if loc[:1] == ("providers",) and is_secret(loc) and (got.missing or not got.text.strip()):
        name = (got.missing or got.names or ("",))[0]
        node.missing = f"${{{name}}} is {'not set' if got.missing else 'empty'}"
        node.text = "/missing"  # a value that the schema takes, as a key and as a path; it is never used
    elif got.missing:
        listed = " and ".join(f"${{{name}}}" for name in dict.fromkeys(got.missing))
        return f"{listed} is not set; a default is written ${{NAME:-default}}"
    return ""


def is_secret(loc: Loc) -> bool:
    """Whether what stands at `loc` is never printed."""
    if loc[:1] == ("providers",):
        return loc[2:3] == ("api_key",) or (loc[2:3] == ("aws",) and len(loc) > 3 and loc[3] in AWS_SECRETS)
    return loc[:2] in (("listen", "auth_tokens"), ("listen", "admin_tokens")) or loc[:3] in notify.SECRETS
