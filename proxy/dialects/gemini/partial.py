"""Arguments of a call that arrive piece by piece, as Vertex sends them when asked to stream function calls.

Each piece names the place of one value by a path (``$.orders[0].city``); a string may come in several pieces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]")
_ITEMS_MAX: Final = 100_000
"""An index above is no argument but a mistake, and filling up to it would cost memory."""


class Arguments:
    """One call's arguments, growing."""

    __slots__ = ("_growing", "value")

    def __init__(self, given: Any) -> None:
        """`given`: the ``args`` that came with the name; mostly none."""
        self.value: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
        self._growing = ""
        """Path of the string that goes on."""

    def take(self, pieces: Any) -> None:
        """Add the ``partialArgs`` of one event."""
        for piece in pieces if isinstance(pieces, list) else ():
            if not isinstance(piece, Mapping) or not isinstance(path := piece.get("jsonPath"), str):
                continue
            steps = _steps(path)
            if not steps:
                continue
            value = _value(piece)
            if isinstance(value, str) and path == self._growing:
                value = _get(self.value, steps, "") + value
            _put(self.value, steps, value)
            self._growing = path if piece.get("willContinue") is True else ""


def _steps(path: str) -> list[str | int]:
    out: list[str | int] = []
    at = 1 if path.startswith("$") else 0
    for found in _STEP.finditer(path, at):
        name, index, single, double = found.groups()
        out.append(int(index) if index is not None else next(x for x in (name, single, double) if x is not None))
    return [] if out and isinstance(out[0], int) else out


def _value(piece: Mapping[str, Any]) -> Any:
    for key in ("stringValue", "numberValue", "boolValue"):
        if key in piece:
            return piece[key]
    return None


def _get(node: Any, steps: list[str | int], default: Any) -> Any:
    for step in steps:
        inside = isinstance(step, int) and step < len(node) if isinstance(node, list) else False
        if not inside and not (isinstance(node, dict) and step in node):
            return default
        node = node[step]
    return node if isinstance(node, str) else default


def _put(root: dict[str, Any], steps: list[str | int], value: Any) -> None:
    node: Any = root
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(step, int):
            if not isinstance(node, list) or step >= _ITEMS_MAX:
                return
            node.extend([None] * (step + 1 - len(node)))
        elif not isinstance(node, dict):
            return
        if last:
            node[step] = value
            return
        inner = node[step] if isinstance(step, int) else node.get(step)
        if not isinstance(inner, dict | list):
            inner = node[step] = [] if isinstance(steps[i + 1], int) else {}
        node = inner
