"""The house rules, read off the source: who may import whom, what the judging rooms may not touch, which calls nobody
makes.

Every rule is a function from one parsed file to complaints, and every rule is also shown a file that breaks it, so a
rule that has gone blind fails. The rules judge whatever rooms exist. `lint-imports` checks the levels a second time
with another parser, through chains of imports; this file needs nothing but `ast` and names the line.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import cast

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEVEL = {
    "cli": 10,
    "sim": 9,  # a whole world: the app between the fakes of `demo`
    "app": 8, "demo": 8, "drill": 8,
    "eyes": 7,
    "server": 6,
    "dispatch": 5,
    "config": 4, "upstream": 4, "store": 4, "observe": 4,
    "engine": 3,
    "policy": 2, "dialects": 2,
    "base": 1,
}  # fmt: skip
PURE = {"policy", "dialects", "engine"}
"""The rooms that judge: they take `now` and `rng` as arguments and do no I/O."""

IMPURE = {
    "asyncio", "aiohttp", "time", "random", "socket", "logging",
    # The same by other doors: dice, the environment, threads, processes, files, imports that this test cannot see.
    "secrets", "uuid", "os", "threading", "subprocess", "ssl", "select", "selectors", "concurrent", "multiprocessing",
    "pathlib", "tempfile", "shutil", "sqlite3", "importlib", "aiohttp_retry", "uvloop",
}  # fmt: skip
WALL_CLOCK = {"now", "utcnow", "today"}

AIOHTTP_ROOMS = {"upstream", "server", "app", "demo", "sim", "cli"}
PRINTING_ROOMS = {"cli", "demo"}
LINES_MAX = 600

BROAD_EXCEPT = {
    "proxy/server/door.py": "the border to the caller: whatever went wrong becomes an answer",
    "proxy/server/protocol.py": "the border to aiohttp's parser: whatever it raises becomes a refusal",
    "proxy/dispatch/running.py": "the border of a request: a fault in a callback ends this request, not the process",
    "proxy/upstream/call.py": "the border between a transport's callbacks and a request, for the same reason",
    "proxy/observe/bus.py": "the border to observers: they cannot raise into the request's way",
    "proxy/store/sqlite.py": "the border of the store's threads: a fault in one job costs that job, not the history",
    "proxy/upstream/probe.py": "the border of the probe loop: one broken probe does not end probing",
}
TASK_OWNERS = {
    "proxy/app.py": "the composition root owns what lives as long as the process, and cancels it at the end",
    "proxy/store/documents.py": "owns the task that writes changes, and cancels it when it closes",
    "proxy/observe/notify.py": "the notifier owns one sending per place, and cancels them when it closes",
    "proxy/eyes.py": "owns the first reading of the history, and cancels it when it closes",
    "proxy/server/listeners.py": "owns the drain, and awaits what it starts",
    "proxy/server/reload.py": "owns the readings of the file, and cancels them when it closes",
    "proxy/demo/provider.py": "a connection owns the answer it is writing, and cancels it when it closes",
    "proxy/upstream/call.py": "a call owns the opening of its connection, and cancels it when it stops",
    "proxy/upstream/credentials.py": "a credential owns its fetch, and cancels it when it closes",
    "proxy/upstream/probe.py": "the prober owns one probe per provider, and cancels them when it closes",
    "proxy/server/health_stream.py": "a reader's WebSocket owns the reading of it, and cancels it when it ends",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A source file: its path from the root of the repository, its text and all nodes of its tree."""

    path: str
    text: str
    nodes: tuple[ast.AST, ...]

    @property
    def room(self) -> str:
        """First name under `proxy/`; empty for `proxy/__init__.py` and `proxy/__main__.py`, which are the doors."""
        first = self.path.split("/")[1].removesuffix(".py")
        return "" if first.startswith("__") else first


Rule = Callable[[File], Iterator[str]]


def parsed(path: str, text: str) -> File:
    return File(path=path, text=text, nodes=tuple(ast.walk(ast.parse(text, path))))


@functools.cache
def sources() -> list[File]:
    """Every file of the product, parsed once for all rules."""
    return [parsed(path.relative_to(ROOT).as_posix(), path.read_text()) for path in sorted(ROOT.glob("proxy/**/*.py"))]


def imports(file: File) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported anywhere in the file, `from a import b` as ``a.b``."""
    package = file.path.removesuffix(".py").split("/")[:-1]
    for node in file.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(file: File) -> Iterator[ast.Call]:
    return (node for node in file.nodes if isinstance(node, ast.Call))


def last_name(node: ast.expr) -> str:
    """`c` of ``a.b.c`` and of ``c``; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def imports_run_strictly_downward(file: File) -> Iterator[str]:
    if not file.room:
        return
    if file.room not in LEVEL:
        yield f"1: room {file.room} has no level; give it one in LEVEL and in pyproject.toml"
        return
    for line, name in imports(file):
        first, *rest = name.split(".")
        if first != "proxy" or not rest or rest[0] == file.room or rest[0].startswith("__"):
            continue
        if LEVEL.get(rest[0], 99) >= LEVEL[file.room]:
            yield f"{line}: {file.room} imports {name}, which is not below it"


def judging_rooms_do_no_io(file: File) -> Iterator[str]:
    if file.room not in PURE:
        return
    yield from (f"{line}: imports {name}" for line, name in imports(file) if name.split(".")[0] in IMPURE)
    for call in calls(file):
        name = last_name(call.func)
        if isinstance(call.func, ast.Name) and name in {"open", "input", "__import__", "exec", "eval"}:
            yield f"{call.lineno}: calls {name}"
        if (
            isinstance(call.func, ast.Attribute)
            and name in WALL_CLOCK
            and last_name(call.func.value) in {"datetime", "date"}
        ):
            yield f"{call.lineno}: reads the wall clock"
    for node in file.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{node.lineno}: is asynchronous"


def aiohttp_stays_in_its_rooms(file: File) -> Iterator[str]:
    if file.room and file.room not in AIOHTTP_ROOMS:
        libraries = {"aiohttp", "aiohttp_retry"}
        yield from (f"{line}: imports {name}" for line, name in imports(file) if name.split(".")[0] in libraries)


def names_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(names_everything, caught.elts))
    return caught is None or last_name(caught) in {"Exception", "BaseException"}


def broad_excepts_stand_at_borders(file: File) -> Iterator[str]:
    if file.path in BROAD_EXCEPT:
        return
    for node in file.nodes:
        # Clean up and raise again swallows nothing.
        raises = (
            isinstance(node, ast.ExceptHandler) and isinstance(last := node.body[-1], ast.Raise) and last.exc is None
        )
        if isinstance(node, ast.ExceptHandler) and names_everything(node.type) and not raises:
            yield f"{node.lineno}: broad except away from the four borders"
    for call in calls(file):
        if last_name(call.func) == "suppress" and any(map(names_everything, call.args)):
            yield f"{call.lineno}: broad suppress away from the four borders"


def nobody_calls_wait_for(file: File) -> Iterator[str]:
    """`asyncio.wait_for` can lose what it waited for when it is cancelled; `asyncio.timeout` cannot."""
    yield from (f"{line}: imports asyncio.wait_for" for line, name in imports(file) if name == "asyncio.wait_for")
    for call in calls(file):
        if (
            isinstance(call.func, ast.Attribute)
            and call.func.attr == "wait_for"
            and last_name(call.func.value) == "asyncio"
        ):
            yield f"{call.lineno}: calls asyncio.wait_for"


def task_groups(file: File) -> set[str]:
    """Names bound by ``async with asyncio.TaskGroup() as name``: a group is an owner by itself."""
    return {
        item.optional_vars.id
        for node in file.nodes
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
        and last_name(item.context_expr.func) == "TaskGroup"
        and isinstance(item.optional_vars, ast.Name)
    }


def tasks_have_owners(file: File) -> Iterator[str]:
    groups = task_groups(file)
    dropped = {id(node.value) for node in file.nodes if isinstance(node, ast.Expr)}
    for call in calls(file):
        if last_name(call.func) not in {"create_task", "ensure_future"}:
            continue
        if isinstance(call.func, ast.Attribute) and last_name(call.func.value) in groups:
            continue
        if file.path not in TASK_OWNERS:
            yield f"{call.lineno}: makes a task in a file that owns none; name the owner in TASK_OWNERS"
        elif id(call) in dropped:
            yield f"{call.lineno}: makes a task and keeps no hold of it"


def only_the_command_line_prints(file: File) -> Iterator[str]:
    if file.room not in PRINTING_ROOMS:
        named = (call for call in calls(file) if isinstance(call.func, ast.Name))
        yield from (f"{call.lineno}: prints" for call in named if last_name(call.func) == "print")


def nothing_is_left_for_later(file: File) -> Iterator[str]:
    for token in tokenize.generate_tokens(StringIO(file.text).readline):
        words = {"TODO", "FIXME", "XXX", "HACK", "NotImplementedError"}
        if token.type in {tokenize.COMMENT, tokenize.NAME} and words & set(re.findall(r"\w+", token.string)):
            yield f"{token.start[0]}: {token.string}"


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Functions without a leading underscore, and those of public classes; a property speaks through its name."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            marks = {last_name(mark) for mark in node.decorator_list}
            if not marks & {"property", "cached_property", "overload", "override", "setter"}:
                yield node


def judgement_is_documented(file: File) -> Iterator[str]:
    if file.room in PURE:
        found = (node for node in public_functions(cast(ast.Module, file.nodes[0]).body) if not ast.get_docstring(node))
        yield from (f"{node.lineno}: {node.name} has no docstring" for node in found)


def files_stay_small(file: File) -> Iterator[str]:
    lines = len(file.text.splitlines())
    if lines > LINES_MAX:
        yield f"{lines}: more than {LINES_MAX} lines"


RULES: list[Rule] = [
    imports_run_strictly_downward,
    judging_rooms_do_no_io,
    aiohttp_stays_in_its_rooms,
    broad_excepts_stand_at_borders,
    nobody_calls_wait_for,
    tasks_have_owners,
    only_the_command_line_prints,
    nothing_is_left_for_later,
    judgement_is_documented,
    files_stay_small,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house(rule: Rule) -> None:
    found = [f"{file.path}:{complaint}" for file in sources() for complaint in rule(file)]
    assert not found, "\n" + "\n".join(found)


BREACHES: list[tuple[Rule, str, str]] = [
    (imports_run_strictly_downward, "proxy/policy/a.py", "from proxy.engine import plan"),
    (imports_run_strictly_downward, "proxy/policy/a.py", "import proxy.dialects.sse"),
    (imports_run_strictly_downward, "proxy/policy/a.py", "from proxy import dispatch"),
    (imports_run_strictly_downward, "proxy/policy/a.py", "from ..engine.plan import Plan"),
    (imports_run_strictly_downward, "proxy/policy/__init__.py", "from .. import engine"),
    (imports_run_strictly_downward, "proxy/config/a.py", "def late():\n    import proxy.upstream.call"),
    (imports_run_strictly_downward, "proxy/dispatch.py", "if TYPE_CHECKING:\n    from proxy.server.reply import Reply"),
    (imports_run_strictly_downward, "proxy/attic/a.py", ""),
    (imports_run_strictly_downward, "proxy/cli.py", "from proxy.attic import a"),
    (judging_rooms_do_no_io, "proxy/policy/a.py", "import asyncio"),
    (judging_rooms_do_no_io, "proxy/dialects/a.py", "from time import monotonic"),
    (judging_rooms_do_no_io, "proxy/engine/a.py", "import logging.handlers as handlers"),
    (judging_rooms_do_no_io, "proxy/engine/a.py", "open('f')"),
    (judging_rooms_do_no_io, "proxy/policy/a.py", "datetime.datetime.now(UTC)"),
    (judging_rooms_do_no_io, "proxy/policy/a.py", "async def f(): ..."),
    (aiohttp_stays_in_its_rooms, "proxy/dispatch.py", "from aiohttp import web"),
    (aiohttp_stays_in_its_rooms, "proxy/observe/notify.py", "import aiohttp_retry"),
    (broad_excepts_stand_at_borders, "proxy/app.py", "try:\n    f()\nexcept:\n    pass"),
    (
        broad_excepts_stand_at_borders,
        "proxy/app.py",
        "try:\n    f()\nexcept (OSError, Exception) as e:\n    raise X from e",
    ),
    (broad_excepts_stand_at_borders, "proxy/app.py", "try:\n    f()\nexcept BaseException:\n    return 1"),
    (broad_excepts_stand_at_borders, "proxy/app.py", "with contextlib.suppress(Exception):\n    f()"),
    (nobody_calls_wait_for, "proxy/app.py", "asyncio.wait_for(f(), 1)"),
    (nobody_calls_wait_for, "proxy/app.py", "from asyncio import wait_for"),
    (tasks_have_owners, "proxy/server/a.py", "task = asyncio.create_task(f())"),
    (tasks_have_owners, "proxy/server/a.py", "tasks.add(asyncio.ensure_future(f()))"),
    (tasks_have_owners, "proxy/app.py", "asyncio.create_task(f())"),
    (only_the_command_line_prints, "proxy/app.py", "print('x')"),
    (nothing_is_left_for_later, "proxy/app.py", "a = 1  # TODO later"),
    (nothing_is_left_for_later, "proxy/app.py", "raise NotImplementedError"),
    (judgement_is_documented, "proxy/policy/a.py", "def f(): ..."),
    (judgement_is_documented, "proxy/engine/a.py", "class C:\n    def f(self): ..."),
    (files_stay_small, "proxy/app.py", "a = 1\n" * (LINES_MAX + 1)),
]


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_rule_sees_a_breach(rule: Rule, path: str, text: str) -> None:
    assert len(list(rule(parsed(path, text)))) == 1


ALLOWED: list[tuple[str, str]] = [
    ("proxy/cli.py", "from proxy.app import build\nfrom proxy import __version__\nprint('x')"),
    ("proxy/__main__.py", "from proxy.cli import main"),
    (
        "proxy/policy/a.py",
        "from .window import Window\nfrom proxy.base.outcome import OK\nfrom datetime import datetime",
    ),
    (
        "proxy/policy/a.py",
        "class C:\n    @property\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    '''Doc.'''",
    ),
    ("proxy/app.py", "task = asyncio.create_task(f())\nasync def g():\n    await condition.wait_for(ready)"),
    (
        "proxy/server/a.py",
        "async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(g())",
    ),
    ("proxy/server/a.py", "try:\n    f()\nexcept BaseException:\n    clean()\n    raise"),
    ("proxy/server/door.py", "try:\n    f()\nexcept Exception as e:\n    answer(e)"),
    ("proxy/server/a.py", "'''A text that says TODO and print() is no breach.'''"),
]


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_rules_let_good_code_pass(path: str, text: str) -> None:
    assert [complaint for rule in RULES for complaint in rule(parsed(path, text))] == []


def kept_files() -> list[Path]:
    """Every file that is tracked or would be; without git, or an unwilling one, every file but the hidden."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = [name.decode() for name in listing.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        everything = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in everything if not any(part.startswith((".", "__")) for part in path.parts)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def whole(text: str) -> str:
    """The text without its tildes, which keep this file from naming what it looks for."""
    return text.replace("~", "")


HOST_WORDS = whole(
    "py~pi|python~hosted|npm~js|index|registry|mirrors?|arti~factory|nexus|dev~pi|j~frog|gh~cr|gcr|quay|ecr|packages?|simple"
)
HOST_END = r"\.(?:com|org|net|io|dev|cloud|internal|local|corp|lan|ai)\b"
INDEX_HOST = re.compile(rf"(?i)\b(?:[a-z0-9-]+[.-])*(?:{HOST_WORDS})[0-9]*(?:[.-][a-z0-9-]+)*{HOST_END}")
INDEX_OPTION = re.compile(
    r"(?i)(?:index[-_]url|default[-_]index|find[-_]links|trusted[-_]host)[\"']?[\s=:]+[\"']?\S*(?:://|\.[a-z])"
)
INDEX_PATH = re.compile(r"://\S+/sim[p]le\b")


def index_names(text: str) -> list[str]:
    """What in the text looks like the address of a package index or of an image registry."""
    return [found.group() for pattern in (INDEX_HOST, INDEX_OPTION, INDEX_PATH) for found in pattern.finditer(text)]


def test_locks_hold_hashes_and_no_address() -> None:
    locks = sorted(ROOT.glob("*.lock"))
    assert {"requirements.lock", "requirements-dev.lock"} <= {lock.name for lock in locks}
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text, lock.name
        pinned = re.findall(r"(?m)^[a-z0-9][^\s=]*==\S+(?: ;.*)? \\\n {4}--hash=sha256:[0-9a-f]{64}", text)
        assert pinned, lock.name
        assert len(pinned) == len(re.findall(r"(?m)^[^\s#-]", text)), lock.name


def test_no_file_names_a_package_index() -> None:
    found = []
    for path in kept_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {name}" for name in index_names(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "py~pi.org",
        "https://files.python~hosted.org/packages/a",
        "image: regi~stry.example.com/outrider:1",
        "host: py~pi-mir~ror.corp",
        "https://ne~xus.acme.internal/a",
        "FROM gh~cr.io/acme/outrider",
        "--index~-url=https://10.0.0.1/a",
        "extra-index~-url = https://user:pw@host/a",
        "PIP_TRUSTED~_HOST=a.b",
        "https://10.0.0.1/root/sim~ple/",
    ],
)
def test_index_names_are_seen(text: str) -> None:
    assert index_names(whole(text))


@pytest.mark.parametrize(
    "text",
    [
        "base_url: https://api.openai.com/v1",
        "https://acme-eastus.openai.azure.com",
        "from proxy.dialects import registry",
        "uv pip compile --no-emit-index-url -o requirements.lock",
        "docs/index.md and index.html",
        "annotations: cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        "a simple.example of the registry.",
    ],
)
def test_other_names_are_not(text: str) -> None:
    assert index_names(text) == []


def test_forbidden_lock_files_are_absent() -> None:
    # They embed the address of the index they came from.
    assert {path.name for path in kept_files()} & {
        "uv.lock",
        "pylock.toml",
        "package-lock.json",
        "poetry.lock",
    } == set()


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem[:4])
def test_decision_has_the_shape_of_the_first(path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"# {path.stem[:4]} \S", text)
    assert re.search(r"(?m)^Status: (accepted|superseded by \d{4}), \d{4}-\d\d-\d\d$", text)
    assert re.findall(r"(?m)^## (.+)$", text) == ["Context", "Decision", "Consequences"]
    assert f"decisions/{path.name}" in (ROOT / "docs" / "index.md").read_text()


def test_decisions_are_numbered_in_order() -> None:
    assert [path.name[:5] for path in DECISIONS] == [f"{n:04d}-" for n in range(1, len(DECISIONS) + 1)]


def test_links_between_pages_lead_somewhere() -> None:
    pages = [path for path in kept_files() if path.suffix == ".md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())]
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page, link in links
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not dead, "\n" + "\n".join(dead)
