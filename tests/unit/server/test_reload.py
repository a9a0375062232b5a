"""When a file counts as changed, what is judged again, what a reading brings; the limit of the control group."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.config.changes import Changes, changes
from proxy.config.compiled import Config
from proxy.config.load import load_file
from proxy.config.planner import Planner
from proxy.observe.logs import Log
from proxy.observe.metrics import Counts
from proxy.server import memory
from proxy.server.reload import QUEUED_MAX, Reloader, Source, never_changes, stamp_of
from tests.e2e.mount import Mount

GOOD = "version: 1\nproviders: {a: {dialect: openai, base_url: http://127.0.0.1:1, models: {m: %s}}}\n"


class Desk:
    """A reloader over a file, with everything it did written down."""

    def __init__(self, path: Path) -> None:
        loaded = load_file(str(path), {})
        assert loaded.config is not None, loaded.errors
        self.config = loaded.config
        self.installed: list[Config] = []
        self.counts = Counts()
        self.now = 100.0
        self.reloader = Reloader(
            Source(path=str(path), env={}),
            loaded.config,
            plan=lambda config: Planner(config, b"secret"),
            install=self._install,
            log=Log("json", "error"),
            counts=self.counts,
            clock=lambda: self.now,
        )
        self.lines: list[str] = []
        self.reloader.log = Lines(self.lines)  # type: ignore[assignment]

    def _install(self, config: Config, planner: Planner) -> tuple[Changes, tuple[str, ...]]:
        found, self.config = changes(self.config, config), config
        self.installed.append(config)
        return found, ()

    async def look(self) -> None:
        """One look, and the reading that it may have begun."""
        self.reloader.look()
        while self.reloader._tasks:
            await asyncio.gather(*self.reloader._tasks)

    @property
    def models(self) -> list[str]:
        return [config.providers["a"].models[0].name for config in self.installed]

    def told(self, result: str) -> float:
        return dict(self.counts.items()).get((result,), 0.0)


class Lines:
    """A log whose lines are kept, without their fields."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, level: str, msg: str, **fields: Any) -> None:
        self._lines.append(msg)


async def test_a_swap_is_taken_at_the_next_look(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "etc")
    mount.write({"config.yaml": GOOD % "one"})
    desk = Desk(mount.path("config.yaml"))
    await desk.look()
    assert desk.installed == []  # what the start has read
    mount.write({"config.yaml": GOOD % "two"})
    await desk.look()
    assert desk.models == ["two"]
    for _ in range(3):
        await desk.look()
    assert (desk.models, desk.told("ok")) == (["two"], 1.0)


async def test_a_change_between_the_start_and_the_first_look_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD % "one")
    desk = Desk(path)
    path.write_text(GOOD % "two")
    await desk.look()
    assert desk.models == ["two"]


async def test_a_file_in_the_making_is_waited_for(tmp_path: Path) -> None:
    """Without the kubelet's link, a change must hold still for two looks: half a file may be a valid one."""
    path = tmp_path / "f.yaml"
    path.write_text(GOOD % "one")
    desk = Desk(path)
    await desk.look()
    path.write_text(GOOD % "tw")
    await desk.look()
    path.write_text(GOOD % "two")
    await desk.look()
    assert desk.models == []
    await desk.look()
    assert (desk.models, desk.told("refused")) == (["two"], 0.0)


async def test_one_content_is_refused_once_and_every_later_one_judged(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "etc")
    mount.write({"config.yaml": GOOD % "one"})
    desk = Desk(mount.path("config.yaml"))
    await desk.look()
    for wrong in ("providers: {", "providers: {", "providers: []", ""):
        mount.write({"config.yaml": wrong})
        await desk.look()
    assert (desk.told("refused"), desk.models) == (3.0, [])
    assert desk.reloader.errors == (f"{mount.path('config.yaml')}:1:1: the file is empty; it needs at least providers",)
    desk.now = 130.0
    assert desk.reloader.status(desk.now)["last_error_s_ago"] == 30.0
    mount.write({"config.yaml": GOOD % "one"})  # back to what is in force
    await desk.look()
    assert (desk.reloader.errors, desk.models) == ((), [])
    mount.write({"config.yaml": GOOD % "two"})
    await desk.look()
    assert (desk.models, desk.told("ok")) == (["two"], 1.0)


async def test_a_gap_of_one_look_is_nothing_and_a_longer_one_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD % "one")
    desk = Desk(path)
    await desk.look()
    path.unlink()
    await desk.look()
    path.write_text(GOOD % "two")
    await desk.look()
    await desk.look()
    assert (desk.models, desk.told("missing")) == (["two"], 0.0)
    path.unlink()
    for _ in range(5):
        await desk.look()
    assert (desk.told("missing"), desk.reloader.errors) == (1.0, (f"{path}: cannot be read",))
    path.write_text(GOOD % "two")
    await desk.look()
    await desk.look()
    assert (desk.reloader.errors, desk.told("ok")) == ((), 1.0)


async def test_other_files_are_watched_too(tmp_path: Path) -> None:
    """Model data that changes is a change of the configuration, although the file itself stays."""
    data, path = tmp_path / "models.json", tmp_path / "f.yaml"
    data.write_text('{"m": {"max_input_tokens": 1000}}')
    path.write_text(GOOD % "m" + f"model_data: {{path: {data}}}\n")
    desk = Desk(path)
    assert desk.config.files == (str(data),)
    await desk.look()
    data.write_text('{"m": {"max_input_tokens": 2000}}')
    await desk.look()
    await desk.look()
    assert [config.providers["a"].models[0].context_window for config in desk.installed] == [2000]


async def test_who_asks_gets_an_answer_and_signals_do_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD % "one")
    desk = Desk(path)
    assert (await desk.reloader.read(is_asked=True)).result == "unchanged"
    assert desk.lines == [], "nothing has been reloaded"
    path.write_text(GOOD % "two")
    report = await desk.reloader.read(is_asked=True)
    assert (report.result, report.keys) == ("reloaded", ("providers.a.models.m.name",))
    assert desk.lines == ["configuration reloaded"]
    path.write_text("speed: 9\n" * 2 + "".join(f"x{n}: 1\n" for n in range(40)))
    report = await desk.reloader.read(is_asked=True)
    assert (report.result, len(report.errors)) == ("refused", 21)
    assert report.errors[-1].startswith("and ")
    for _ in range(10):
        desk.reloader.poke()
    assert len(desk.reloader._tasks) == QUEUED_MAX
    desk.reloader.close()
    await asyncio.gather(*desk.reloader._tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("other"),
        lambda path: (path.with_name("new").write_text("a"), os.replace(path.with_name("new"), path)),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.unlink(),
    ],
)
def test_the_stamp_sees_a_change_whatever_the_times_say(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    path = tmp_path / "f"
    path.write_text("a")
    os.utime(path, ns=(1, 1))
    before = stamp_of((str(path),))
    assert stamp_of((str(path),)) == before
    change(path)
    if path.exists():
        os.utime(path, ns=(1, 1))
    assert stamp_of((str(path),)) != before


def test_a_sub_path_mount_is_known(tmp_path: Path) -> None:
    path, mounts = tmp_path / "a file.yaml", tmp_path / "mountinfo"
    path.write_text("x")
    escaped = str(path).replace(" ", "\\040")
    line = "36 35 8:1 /volume-subpaths/x {} ro,relatime - ext4 /dev/sda1 rw\n"
    mounts.write_text(line.format("/") + line.format(tmp_path))
    assert not never_changes(str(path), str(mounts))
    mounts.write_text(line.format("/") + line.format(escaped))
    assert never_changes(str(path), str(mounts))
    assert not never_changes(str(path), str(tmp_path / "none"))


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "own", "limit"),
    [
        ({"memory.max": "268435456\n"}, "0::/\n", 268435456),
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"kubepods/x/memory.max": "1000\n", "memory.max": "2000"}, "0::/kubepods/x\n", 1000),
        ({"memory.max": "2000"}, "0::/kubepods/x\n", 2000),
        ({"memory/memory.limit_in_bytes": "4096\n"}, "4:memory:/pod\n", 4096),
        ({"memory/pod/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/pod\n", None),
        ({}, "", None),
    ],
)
def test_the_memory_limit_is_read(tmp_path: Path, files: dict[str, str], own: str, limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert memory.limit_bytes(str(tmp_path), str(tmp_path / "own")) == limit


@pytest.mark.parametrize(("limit_mib", "held_mib"), [(None, 256), (4096, 256), (256, 80), (128, 16), (64, 16)])
def test_bodies_get_what_the_limit_leaves(limit_mib: int | None, held_mib: int) -> None:
    limit = None if limit_mib is None else limit_mib * memory.MIB
    assert memory.held_bytes(256, limit) == held_mib * memory.MIB
