"""A file while it is read: its tree, and what has been found wrong with it so far.

A finding names a place by keys and indexes; here it gets line and column, and the value that stands there unless that
is a secret. Of one place only the first error is told, for what was wrong is cut out and would be missed next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from proxy.config.names import Loc, Node, Problem, advice, dotted, quoted, shown
from proxy.config.secrets import is_secret
from proxy.config.validate import Finding

MAX_PROBLEMS: Final = 500
"""Problems told of one file; the rest is only counted."""


@dataclass(slots=True)
class Reading:
    """What is known about the file while it is read."""

    name: str
    root: Node = field(default_factory=lambda: Node(1, 1, keys={}))
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, line: int, column: int, message: str, loc: Loc = ()) -> None:
        self.errors.append(Problem(file=self.name, line=line, column=column, path=dotted(loc), message=message))

    def tell(self, finding: Finding, problems: list[Problem]) -> None:
        """Add a finding with its place and perhaps its value, unless an error was told about the place before."""
        way = way_to(self.root, finding.loc)
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


def ordered(problems: list[Problem]) -> list[Problem]:
    """In file order, without repetition, at most `MAX_PROBLEMS`."""
    told = list(dict.fromkeys(sorted(problems, key=lambda p: (p.line, p.column))))
    if len(told) > MAX_PROBLEMS:
        rest = replace(told[-1], path="", message=f"{len(told) - MAX_PROBLEMS} more problems follow")
        told[MAX_PROBLEMS:] = [rest]
    return told


def way_to(root: Node, loc: Loc) -> list[Node]:
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
