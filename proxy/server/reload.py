"""Reading the file again: noticing that it has changed, judging it whole, and handing it over, or refusing it.

The kubelet changes a mounted ConfigMap by renaming a symbolic link over ``..data``, sometimes with the same time of
modification, never with an event that every watcher sees. So the file is looked at once a second: a few microseconds
for its identity and for the link. Only when something differs is it read, hashed, and, when the hash is new, parsed,
checked and built in a thread. What comes back is swapped in by one synchronous call between two requests.

A rename behind ``..data`` is a complete change and is taken at once. Anywhere else somebody may be half way through
writing, and half a file can be a valid one with fewer providers: there a change is taken when two looks in a row have
found it the same. A file that is missing for a look is nothing; missing for longer, it is told, and what is in force
goes on. So it does when the file is wrong: its errors are told once per content, and every later content is judged
afresh.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from proxy.config.building import digest_of
from proxy.config.changes import Changes
from proxy.config.compiled import Config
from proxy.config.load import MAX_BYTES, load_bytes
from proxy.config.names import Problem
from proxy.config.planner import Planner
from proxy.observe.logs import Log
from proxy.observe.metrics import Counts

LINK: Final = "..data"
"""The kubelet's link to the directory that holds the present content of a mounted volume."""
READ_EVERY: Final = 30
"""After so many looks the content is hashed whatever the file's identity says: not every file system keeps that."""
ERRORS_MAX: Final = 20
"""Errors of a refused file that are told; the number of the others is."""
QUEUED_MAX: Final = 2
"""Readings that wait or run; a signal or a request beyond them would read what they are about to read."""
MOUNTS: Final = "/proc/self/mountinfo"

NEVER_RELOADED: Final[Mapping[str, Any]] = {
    "reloads": 0,
    "refused": 0,
    "last_error": None,
    "last_error_s_ago": None,
    "waits_for_restart": [],
}
"""`Reloader.status` of a configuration that came from no file."""

Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a configuration comes from: what `load_file` was given."""

    path: str
    env: Mapping[str, str]
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one reading."""

    result: Literal["reloaded", "unchanged", "refused", "missing"]
    digest: str = ""
    """SHA-256 of what was read, hex; empty when nothing could be."""
    errors: tuple[str, ...] = ()
    """``file:line:column: message`` of a refused file, at most `ERRORS_MAX` and a line that counts the rest."""
    keys: tuple[str, ...] = ()
    """Keys whose value has changed."""
    waits: tuple[str, ...] = ()
    """Keys that take effect with the next start only."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What the thread brings back."""

    digest: str
    others: tuple[str, ...]
    """Hashes of the other files that the configuration in force names."""
    is_new: bool = False
    """The content has not been judged before; else there is nothing below."""
    config: Config | None = None
    planner: Planner | None = None
    errors: tuple[str, ...] = ()


Install = Callable[[Config, Planner], tuple[Changes, tuple[str, ...]]]
"""Puts a configuration in force, at once and without waiting; what it changed, and keys that wait for a restart."""


class Reloader:
    """Keeps one configuration up to date with its file. `look` is called once a second, on the event loop."""

    def __init__(
        self,
        source: Source,
        config: Config,
        *,
        plan: Callable[[Config], Planner],
        install: Install,
        log: Log,
        counts: Counts,
        clock: Callable[[], float],
        tell: Callable[[Report], None] = lambda report: None,
    ) -> None:
        """`config`: what was loaded from `source` at the start. `plan` is called in a thread. `tell`: is told of every
        reading that changed something or failed."""
        self._source = source
        self._config = config
        self._plan = plan
        self._install = install
        self.log = log
        self._counts = counts
        self._clock = clock
        self._tell = tell
        self._stamp: Stamp | None = None
        """None: the file may have changed between the start's reading and the first look, so that one reads it."""
        self._unsettled: Stamp | None = None
        self._looks = 0
        self._others: tuple[str, ...] | None = None
        self._refused = ""
        """Digest of the content that was refused last, while it is what the file holds."""
        self._tasks: set[asyncio.Task[Report]] = set()
        self._lock = asyncio.Lock()
        self.reloads = 0
        self.refusals = 0
        self.loaded_at = clock()
        self.errors: tuple[str, ...] = ()
        """Why the file as it stands is not in force; empty: it is."""
        self.failed_at = 0.0
        self.waits: tuple[str, ...] = ()

    # Noticing ---------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Start a reading when the file has changed. A few microseconds when it has not."""
        self._looks += 1
        stamp = stamp_of((self._source.path, *self._config.files))
        if stamp == self._stamp and self._looks % READ_EVERY:
            self._unsettled = None
            return
        is_torn = self._stamp is not None and stamp != self._stamp and not _is_swap(self._stamp, stamp)
        if is_torn and stamp != self._unsettled:
            self._unsettled = stamp
            return
        self._stamp, self._unsettled = stamp, None
        self._begin(is_asked=False)

    def poke(self) -> None:
        """Read the file now (SIGHUP)."""
        self._begin(is_asked=True)

    def _begin(self, *, is_asked: bool) -> None:
        if len(self._tasks) < QUEUED_MAX:
            task = asyncio.get_running_loop().create_task(self.read(is_asked=is_asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def status(self, now: float) -> dict[str, Any]:
        """Its part of ``/status``."""
        return {
            "loaded_s_ago": round(now - self.loaded_at, 1),
            "reloads": self.reloads,
            "refused": self.refusals,
            "last_error": list(self.errors) or None,
            "last_error_s_ago": round(now - self.failed_at, 1) if self.errors else None,
            "waits_for_restart": list(self.waits),
        }

    def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    # Judging ----------------------------------------------------------------------------------------------------------

    async def read(self, *, is_asked: bool) -> Report:
        """Read, judge, and put in force. `is_asked`: somebody wants it judged even if its content is an old one."""
        async with self._lock:
            judged = await asyncio.to_thread(self._judge, is_asked)
            return self._settle(judged)

    def _judge(self, is_asked: bool) -> _Judged | None:
        """Runs in a thread, one at a time. None: the file cannot be read."""
        try:
            with open(self._source.path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, ValueError):
            return None
        digest = hashlib.sha256(content).hexdigest()
        others = tuple(map(digest_of, self._config.files))
        known = digest == self._refused or digest == self._config.digest
        if known and not is_asked and others == (self._others if self._others is not None else others):
            return _Judged(digest=digest, others=others)
        loaded = load_bytes(content, self._source.path, self._source.env, flags=self._source.flags)
        config = loaded.config
        if config is None:
            return _Judged(digest=digest, others=others, is_new=True, errors=_told(loaded.errors))
        if all(provider.disabled for provider in config.providers.values()):
            problem = Problem(file=self._source.path, message="no provider has its key; nothing could be served")
            return _Judged(digest=digest, others=others, is_new=True, errors=(str(problem),))
        return _Judged(
            digest=digest,
            others=tuple(map(digest_of, config.files)),
            is_new=True,
            config=config,
            planner=self._plan(config),
        )

    def _settle(self, judged: _Judged | None) -> Report:
        """Everything from here on happens between two requests."""
        if judged is None:
            return self._missed()
        self._others = judged.others
        if judged.errors:
            return self._refuse(judged)
        if judged.config is not None and judged.planner is not None:
            return self._take(judged.config, judged.planner)
        if judged.digest == self._config.digest:
            self.errors, self._refused = (), ""
        return Report(result="unchanged", digest=judged.digest, waits=self.waits)

    def _take(self, config: Config, planner: Planner) -> Report:
        was = self._config.digest
        changes, waits = self._install(config, planner)
        self._config = config
        self.errors, self._refused, self.waits = (), "", waits
        self.loaded_at = self._clock()
        self.reloads += 1
        self._counts.add(("ok",))
        is_same = config.digest == was and not changes.keys
        if not is_same:
            self.log.write("info", "configuration reloaded", sha256=config.digest, was=was, changed=changes.keys)
        if waits:
            self.log.write("warning", "configuration waits for a restart", keys=waits)
        for warning in config.warnings:
            self.log.write("warning", warning)
        report = Report(
            result="unchanged" if is_same else "reloaded",
            digest=config.digest,
            keys=changes.keys,
            waits=waits,
            warnings=config.warnings,
        )
        self._tell(report)
        return report

    def _refuse(self, judged: _Judged) -> Report:
        self._failed("refused", judged.errors)
        self._refused = judged.digest
        self.log.write(
            "error",
            "configuration refused",
            sha256=judged.digest,
            in_force=self._config.digest,
            errors=judged.errors,
        )
        report = Report(result="refused", digest=judged.digest, errors=judged.errors)
        self._tell(report)
        return report

    def _missed(self) -> Report:
        errors = (f"{self._source.path}: cannot be read",)
        report = Report(result="missing", errors=errors)
        if self.errors != errors:
            self._failed("missing", errors)
            self._refused = ""
            self.log.write("error", "configuration missing", path=self._source.path, in_force=self._config.digest)
            self._tell(report)
        return report

    def _failed(self, result: str, errors: tuple[str, ...]) -> None:
        self.errors, self.failed_at = errors, self._clock()
        self.refusals += 1
        self._counts.add((result,))


def stamp_of(paths: tuple[str, ...]) -> Stamp:
    """What changes when a file changes: the kubelet's link beside each, and the identity of what it leads to."""
    stamp: list[object] = []
    for path in paths:
        try:
            link = os.readlink(os.path.join(os.path.dirname(path), LINK))
        except OSError:
            link = ""
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            stamp.append((link, None))
        else:
            # The time of the last change of the inode, too: whoever keeps the time of modification cannot set it.
            stamp.append((link, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))
    return tuple(stamp)


def _is_swap(old: Stamp, new: Stamp) -> bool:
    """Whether all that differs is behind a link that was renamed: nobody is half way through writing it."""
    if len(old) != len(new):
        return False
    pairs = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
    return all(now[0] and now[0] != was[0] and now[1] is not None for was, now in pairs)  # type: ignore[index]


def _told(problems: tuple[Problem, ...]) -> tuple[str, ...]:
    told = [str(problem) for problem in problems[:ERRORS_MAX]]
    rest = len(problems) - len(told)
    return (*told, f"and {rest} more; `outrider check` tells them all") if rest > 0 else tuple(told)


def never_changes(path: str, mounts: str = MOUNTS) -> bool:
    """Whether `path` is itself a mount, as a ``subPath`` makes it: the kubelet never changes such a file."""
    try:
        real = os.path.realpath(path)
        with open(mounts, encoding="utf-8", errors="replace") as file:
            return any(_unescaped(line.split(" ", 5)[4]) == real for line in file if line.count(" ") > 5)
    except (OSError, ValueError):
        return False


def _unescaped(text: str) -> str:
    """A mount point as the kernel writes it, with the octal escapes of spaces undone."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def answer(report: Report) -> Mapping[str, Any]:
    """A report as ``POST /reload`` tells it."""
    return {
        "status": report.result,
        "sha256": report.digest,
        "changed": report.keys,
        "waits_for_restart": report.waits,
        "warnings": report.warnings,
    }
