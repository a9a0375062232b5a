"""Where the microseconds go: the samples of `sampler.py`, added up by room of the house and scaled to CPU time.

Two sums answer two questions. *Self* is where the interpreter was: a room's own lines, aiohttp, the loop. *With what it
calls* gives a library's time to the room of ours that asked for it, and what none of ours asked for to the loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench import sampler
from tests.bench.candidates import ROOT, Candidate, Cores, NotStarted, Running, outrider, relay, start
from tests.bench.load import Callers, Job, Run

UNARY = 40_000
"""Enough for a thousand samples: a kernel of 250 Hz gives no more than 250 in a second of CPU time."""
WARM = 1500
STREAMS, STREAMED = 64, 768
"""Callers and streams of the streaming window."""
EVENTS = 200
TOP = 30
DUMP_LIMIT_S = 20.0

CLIENT = ("client", "connector", "resolver", "tracing", "cookiejar", "abc")
LOOPS = ("asyncio", "uvloop", "selectors.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One profiled stretch of load."""

    title: str
    unit: str
    job: Job
    callers: int
    requests: int
    units_each: int
    """How many units (requests, chunks) one request counts for."""


WINDOWS = (
    Window(
        title="unary, 1 KiB answer",
        unit="request",
        job=Job(model="unary-1024"),
        callers=16,
        requests=UNARY,
        units_each=1,
    ),
    Window(
        title=f"paced streams of {EVENTS} events",
        unit="chunk",
        job=Job(model=f"stream-{EVENTS}"),
        callers=STREAMS,
        requests=STREAMED,
        units_each=EVENTS + 4,
    ),
)


def room(file: str, text: str = "") -> str:
    """The room of a source file; `text`, the call that was running, may name a library that has no Python frames."""
    if text.startswith("orjson."):
        return "orjson"
    if ".write(" in text or ".writelines(" in text:
        return "socket write" if "transport" in text else _room_of_path(file)
    return _room_of_path(file)


def _room_of_path(file: str) -> str:
    path = Path(file)
    parts = path.parts
    if path.is_relative_to(ROOT / "proxy"):
        inner = path.relative_to(ROOT / "proxy").parts
        if inner[0] == "config" and path.stem in ("planner", "overrides", "chain"):
            return f"config/{path.stem}"
        return inner[0].removesuffix(".py")
    if path.is_relative_to(ROOT / "tests"):
        return path.stem
    if "aiohttp" in parts:
        name = path.stem
        return (
            "aiohttp server"
            if name.startswith("web")
            else "aiohttp client"
            if name.startswith(CLIENT)
            else "aiohttp shared"
        )
    if any(part in LOOPS for part in parts):
        return "event loop, kernel"
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return "standard library"


def wrapped(name: str, out: Path) -> Candidate:
    sampled = (sys.executable, "-m", "tests.bench.sampler", "--out", str(out))
    if name == "outrider":
        return outrider(*sampled, "proxy.cli:main")
    return relay("uvloop", *sampled, "tests.bench.relay:main")


def system_seconds(pid: int) -> float:
    """CPU seconds spent in the kernel, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[12]) / os.sysconf("SC_CLK_TCK")


async def profile(name: str, mock: int, folder: Path, cores: Cores, wrong: list[str], share: float = 1.0) -> None:
    """Start `name` under the sampler, drive it, print one table per window. What goes wrong is added to `wrong`.

    `share`, in (0, 1], of the usual number of requests is sent; the fewer, the coarser.
    """
    for whole in WINDOWS:
        window = replace(whole, requests=int(whole.requests * share))
        out = folder / f"{window.unit}.json"
        own = folder / window.unit
        own.mkdir()
        try:
            running = await start(wrapped(name, out), mock, own, cores)
        except NotStarted as error:
            wrong.append(f"did not start: {error}")
            print("WRONG:", wrong[-1])
            return
        try:
            run, cpu_s, system_s = await sampled_run(running, window, out)
        finally:
            await running.stop()
        if run.wrong:
            wrong += run.wrong
            print("WRONG:", *run.wrong)
            return
        print("\n".join(report(name, window, run, cpu_s, system_s, json.loads(out.read_text()))), end="\n\n")


async def sampled_run(running: Running, window: Window, out: Path) -> tuple[Run, float, float]:
    """The run, and its CPU seconds in all and in the kernel; the samples are in `out` afterwards."""
    pid = running.process.pid
    async with Callers(running.port, window.callers) as callers:
        await callers.run(Job(model="unary-1024"), WARM)
        await callers.run(Job(model="burst-8"), WARM // 4)
        running.process.send_signal(sampler.BEGIN)
        before, system_before = running.cpu_s(), system_seconds(pid)
        run = await callers.run(window.job, window.requests)
        cpu_s, system_s = running.cpu_s() - before, system_seconds(pid) - system_before
        running.process.send_signal(sampler.DUMP)
        async with asyncio.timeout(DUMP_LIMIT_S):
            while not os.path.exists(out):  # noqa: ASYNC240, a stat of a local file
                await asyncio.sleep(0.01)
    return run, cpu_s, system_s


def report(
    name: str, window: Window, run: Run, cpu_s: float, system_s: float, spots: list[dict[str, Any]]
) -> Iterator[str]:
    samples = sum(spot["count"] for spot in spots)
    units = run.answered * window.units_each
    us = cpu_s / units * 1e6
    yield (
        f"{name}, {window.title}: {us:.1f} us of CPU per {window.unit} while sampled, {system_s / cpu_s:.0%} of it in "
        f"the kernel; {samples} samples, {units} {window.unit}s"
    )
    if not samples:
        yield "no samples: the timer does not work here"
        return
    scale = us / samples
    own, asked = Counter[str](), Counter[str]()
    for spot in spots:
        own[room(spot["file"], spot["text"])] += spot["count"]
        asked[room(spot["ours"]) if spot["ours"] else "(none of ours)"] += spot["count"]
    yield f"{'room':<24}{'self, us':>10}{'share':>8}   with what it calls, us"
    for key, count in own.most_common():
        inner = f"{asked[key] * scale:>10.2f}" if key in asked else ""
        yield f"{key:<24}{count * scale:>10.2f}{count / samples:>8.1%}   {inner}".rstrip()
    if "(none of ours)" in asked and name == "outrider":
        yield f"{'(asked by none of ours)':<42}   {asked['(none of ours)'] * scale:>10.2f}"
    yield f"the {TOP} dearest spots:"
    by_spot = Counter[tuple[str, int, str, str]]()
    for spot in spots:
        by_spot[short(spot["file"]), spot["line"], spot["function"], spot["text"][:60]] += spot["count"]
    for (file, line, function, text), count in by_spot.most_common(TOP):
        yield f"{count * scale:>8.2f}  {file}:{line} {function}  {text}"


def short(file: str) -> str:
    """A path as a reader wants it: without the way to the repository or to the packages."""
    path = Path(file)
    if path.is_relative_to(ROOT / "proxy") or path.is_relative_to(ROOT / "tests"):
        return str(path.relative_to(ROOT))
    return "/".join(path.parts[-2:])
