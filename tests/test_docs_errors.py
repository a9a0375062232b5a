"""Codes and reason words against the pages that explain them, in both directions; see `test_docs`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import get_args, get_type_hints

from proxy.base.outcome import Class
from proxy.dialects.chat import Media
from proxy.dialects.errors import ERRORS
from proxy.policy.absence import Reason
from proxy.server.reload import Report
from tests.test_docs import ROOT, names, quoted, rows, section, text_of
from tests.test_house import sources

CALLERS_READERS = ("openai", "responses", "anthropic")
"""Packages of the dialects that callers speak: what other readers need, no caller can ask for."""
NEVER_TOLD = {"circuit_open", "cancelled"}
"""Codes of classes whose outcomes the engine gives a code of its own, or that end without an answer."""

REPORTS = set(get_args(get_type_hints(Report)["result"]))
"""What a reading of the file can come to."""


def literal(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def codes_of(node: ast.AST) -> Iterator[tuple[str, int]]:
    """(code, status or 0) of what `node` says of an error: a code stands behind its status, or is called so."""
    items: list[ast.expr] = []
    if isinstance(node, ast.Call):
        items = node.args
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        numbers = [a.value for a in (given.get("status"), *items) if isinstance(a, ast.Constant)]
        number = next((value for value in numbers if type(value) is int), 0)
        yield literal(given.get("code")), number
        if ast.unparse(node.func).endswith("HeaderError") and len(items) > 4:
            yield literal(items[4]), number
    elif isinstance(node, ast.Tuple):
        items = node.elts
    elif isinstance(node, ast.Dict):
        yield from (
            (literal(value), 0) for key, value in zip(node.keys, node.values, strict=True) if literal(key) == "code"
        )
    elif isinstance(node, ast.FunctionDef):
        named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        yield from ((literal(value), 0) for a, value in zip(named, node.args.defaults, strict=True) if a.arg == "code")
    for before, after in pairwise(items):
        if isinstance(before, ast.Constant) and type(before.value) is int and 400 <= before.value < 600:
            yield literal(after), before.value


@functools.cache
def codes() -> dict[str, set[int]]:
    """Every code that an error of ours can carry -> the statuses that stand beside it in the source."""
    # A reload reports what the file was; the answer's code is made of that.
    found: dict[str, set[int]] = {f"configuration_{result}": {400} for result in REPORTS - {"reloaded", "unchanged"}}
    for file in sources():
        if file.room in ("demo", "sim") or file.path.endswith("/errors.py"):
            continue
        for node in file.nodes:
            for code, status in codes_of(node):
                if re.fullmatch("[a-z_]+", code):
                    found.setdefault(code, set()).update({status} - {0})
    for table in ERRORS.values():
        for status, _, code in table.values():
            if code not in NEVER_TOLD:
                found.setdefault(code, set()).add(status)
    return found


def test_every_code_is_explained_and_every_explained_code_exists() -> None:
    assert set(names(text_of("troubleshoot.md"), "code")) == set(codes())


def test_statuses_of_codes_are_as_explained() -> None:
    exist, wrong = codes(), {}
    for names_, statuses, *_ in rows(text_of("troubleshoot.md"), "code"):
        told = {int(number) for number in re.findall(r"\d+", statuses)}
        for code in quoted(names_):
            if exist[code] - told or ((exist[code] and code not in ("no_target_available", "shutting_down")) and (
                told - exist[code]
            )):  # fmt: skip
                wrong[code] = (told, exist[code])
    assert wrong == {}


def test_codes_of_the_door_page_exist() -> None:
    told = {code for row in rows(text_of("http.md"), "status") for code in quoted(row[1])}
    assert told - set(codes()) == set()


def nodes(path: str) -> Sequence[ast.AST]:
    """Of one file of the product."""
    (file,) = [file for file in sources() if file.path == f"proxy/{path}"]
    return file.nodes


def words_of_refusals() -> set[str]:
    """What the engine and the chain say of targets that they leave out."""
    found = set()
    for node in nodes("engine/choice.py"):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._refused", "self.skipped.setdefault"):
            found.add(literal(node.args[1]))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("self.skipped["):
            found.add(literal(node.value))
    for node in nodes("config/chain.py"):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._skip":
            found.add(literal(node.args[1]))
    return found | set(get_args(Reason))


def cooling() -> set[str]:
    """Classes of failure after which a target is left alone."""
    (function,) = [
        node for node in nodes("engine/cluster.py") if isinstance(node, ast.FunctionDef) and node.name == "_cool"
    ]
    return {Class[name].value for name in re.findall(r"Class\.([A-Z_]+)", ast.unparse(function))}


def portability_words() -> set[str]:
    """What requests ask for that a target of another API cannot give."""
    found = set(get_args(get_type_hints(Media)["kind"]))
    for file in sources():
        if file.room != "dialects":
            continue
        package = file.path.split("/")[-2]
        for node in file.nodes:
            if isinstance(node, ast.Call):
                what = ast.unparse(node.func)
                if what == "NotPortable" or what.endswith("._may_fetch"):
                    found |= {literal(node.args[what != "NotPortable"])} | {
                        literal(part) for part in ast.walk(node.args[0]) if isinstance(node.args[0], ast.IfExp)
                    }
                elif package in CALLERS_READERS and (what == "Need" or what.endswith(".need")):
                    found |= {literal(keyword.value) for keyword in node.keywords if keyword.arg == "reason"}
                    found |= {literal(argument) for argument in node.args[:1]}
            elif (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.value, ast.Dict)
                and package in CALLERS_READERS
                and ast.unparse(node.target) == "_NEEDED"
            ):
                found |= {literal(value) for value in node.value.values}
    return found


def test_every_reason_to_leave_a_target_out_is_explained() -> None:
    told = set(names(section(text_of("troubleshoot.md"), "X-Failover-Skipped"), "word"))
    assert told == (words_of_refusals() | cooling()) - {""}


def test_every_obstacle_to_translation_is_explained() -> None:
    told = set(names(text_of("translation.md"), "word in `X-Failover-Skipped`"))
    assert told == (portability_words() - {"", "image"})


def test_every_reason_of_a_failover_is_explained() -> None:
    told = set(names(section(text_of("troubleshoot.md"), "X-Failover-Reason"), "reason"))
    classes = {cls.value for cls in Class} - {"ok", "cancelled", "local_reject"}
    source = (ROOT / "proxy/engine/choice.py").read_text() + (ROOT / "proxy/engine/attempts.py").read_text()
    of_primary = set(re.findall(r'primary_refusal = "([a-z_]+)"', source))
    of_primary |= set(re.findall(r'self\._refused\(index, "([a-z_]+)"', source)) | {"hedge"}
    assert 'return "hedge"' in source
    assert told == classes | of_primary


def test_the_walk_sees_codes_and_words() -> None:
    assert {"invalid_header", "override_forbidden", "invalid_parameter", "head_timeout", "too_many_headers"} <= set(
        codes()
    )
    assert {"injected_fault", "shutting_down", "not_portable", "timeout", "configuration_refused"} <= set(codes())
    assert {"no_key", "trigger", "slow", "deadline", "drained", "max_latency_increase"} <= words_of_refusals()
    assert {"n", "state", "audio", "url_images", "moderation", "server_tools", "file_id"} <= portability_words()
    assert cooling() == {
        "rate_limit", "model_overloaded", "quota_exceeded", "auth", "permission", "model_not_found"
    }  # fmt: skip
