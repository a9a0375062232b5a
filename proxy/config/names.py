"""How a message names what it is about: the place, the value that stands there, and the nearest valid name.

A typo must be an error, since ignoring it would silently weaken a policy; but an error that only says "unknown" sends
people to the documentation for a missing letter. YAML and headers ask here, so that both answer alike.

Nothing here prints a value that came out of ``${...}``: such a place is shown as it was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

Loc = tuple[str | int, ...]
"""Keys and list indexes from the top of the file."""

LONGEST: Final = 64
"""Characters of a word that are compared: names are short, and what a caller sends may not be."""
SHOWN: Final = 60
"""Characters of a wrong value that a message repeats."""
SIMILARITY: Final = 0.6
"""Least ratio of matching characters, difflib's own default; below it a suggestion misleads more than it helps."""

_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The allowed name most like `word`, capitals and ``-`` for ``_`` forgiven; empty when none is similar.

    `word` itself is no suggestion: where it is allowed and still refused, something else is wrong with it.
    """
    from difflib import get_close_matches  # loaded by the first mistake, not by every start

    folded: dict[str, str] = {}
    for name in allowed:
        if name != word:
            folded.setdefault(_fold(name), name)
    found = get_close_matches(_fold(word), folded, n=1, cutoff=SIMILARITY)
    return folded[found[0]] if found else ""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean "weight"?`` to append to a message, or nothing when no name is similar."""
    name = nearest(word, allowed)
    return f'; did you mean "{name}"?' if name else ""


def _fold(name: str) -> str:
    return name[:LONGEST].casefold().replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error or warning; printed as ``file:line:column: dotted.path: message``."""

    file: str
    """The file, or the variable or flag that is to blame; then `line` is 0."""
    message: str
    line: int = 0
    """From 1; 0: the problem has no place in a file."""
    column: int = 0
    path: str = ""
    """Dotted, list indexes from 0; empty: the file as a whole or its YAML syntax."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


@dataclass(slots=True)
class Node:
    """A place of the file. The tree is made, changed and thrown away within one reading."""

    line: int
    column: int
    """Of the key for a value in a mapping, since that is where people look; from 1."""
    label: str | int = ""
    """Key or list index as written, kept when earlier parts are cut out."""
    text: str | None = None
    """Of a scalar; None for a mapping or list."""
    plain: bool = False
    """Without quotes: the text decides the type."""
    keys: dict[str, Node] | None = None
    items: list[Node] | None = None
    written: str = ""
    """The text before ``${...}`` was replaced; empty: it held none."""
    variables: tuple[str, ...] = ()
    missing: str = ""
    """Why a secret has no value: ``${NAME} is not set``."""
    source: str = ""
    """Variable or flag that gave the value; empty: the file."""
    broken: bool = False
    """An error was told here; a second one about the same place would only confuse."""


def typed(text: str) -> Any:
    """A plain scalar by the YAML 1.2 core schema; longer numbers than anyone can mean stay text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > 100:
        return text
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))  # never base 0: 012 is 12
    return float(text) if _FLOAT.fullmatch(text) else text


def dotted(loc: Loc) -> str:
    return ".".join(
        str(part) if re.fullmatch(r"[\w*/.:@-]+", str(part), re.ASCII) else quoted(str(part)) for part in loc
    )


def quoted(text: str) -> str:
    """Printable ASCII in quotes, shortened."""
    return json.dumps(text[:SHOWN] + "..." * (len(text) > SHOWN)).replace("\x7f", "\\u007f")


def shown(node: Node) -> str:
    if node.written:
        return quoted(node.written)
    if node.text is None:
        return "a mapping" if node.keys is not None else "a list"
    if node.plain and not isinstance(typed(node.text), str):
        return node.text[:SHOWN] or "nothing"
    return quoted(node.text)


def advice(node: Node, message: str) -> str:
    """What to write instead of the usual mistakes with YAML's types."""
    text = node.text or ""
    if node.written or node.text is None:
        return ""
    if "true or false" in message and text.lower() in ("on", "yes", "y", "off", "no", "n"):
        return f" (write {'true' if text.lower() in ('on', 'yes', 'y') else 'false'})"
    if "number" in message and isinstance(typed(text), int | float) and not node.plain:
        return " (remove the quotes)"
    if "number" in message and re.fullmatch(r"\d{1,3}(:[0-5]?\d){1,2}", text):
        parts = [int(part) for part in text.split(":")]
        return f" (write {sum(part * 60**power for power, part in enumerate(reversed(parts)))})"
    if "number" in message and re.fullmatch(r"\d{1,3}(_\d{3})+", text):
        return f" (write {text.replace('_', '')})"
    unit = "milliseconds" if text.endswith("ms") else "seconds"
    if re.fullmatch(r"\d{1,9}m?s", text) and message.endswith(unit) and (unit != "seconds" or " seconds" in message):
        return f" (write {text.rstrip('ms')})"
    return ""


def walk(node: Node, loc: Loc) -> Iterator[tuple[Node, Loc]]:
    """All scalars below `node` (which stands at `loc`) with their paths."""
    if node.text is not None:
        yield node, loc
    for child in (*(node.keys or {}).values(), *(node.items or ())):
        yield from walk(child, (*loc, child.label))
