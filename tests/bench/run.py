"""`make bench`: one table, one run, every candidate side by side on the same mock.

Absolute microseconds belong to a machine; the ratio to the bare relay (`relay.py`, same event loop, same library, same
core, same minute) belongs to us. So candidates take turns on every measurement, the order turns from round to round,
and what is reported is the median over rounds of the ratio *within* a round, with its smallest and largest value.
CPU time is used wherever it can be, because a noisy neighbour changes it less than he changes a clock on the wall.

    python -m tests.bench.run [--quick] [--json FILE] [--only NAME,NAME] [--profile [NAME]]

Ends with 0 unless a candidate answered wrongly or one of ours did not start; an aim that is missed is a finding for the
reader, not a failure, since a shared machine must not turn a build red. What each row means is in README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from tests.bench import pure, rooms
from tests.bench.candidates import (
    Candidate,
    Config,
    Cores,
    NotStarted,
    Running,
    envoy_peer,
    nginx_peer,
    outrider,
    relay,
    start,
    translating_config,
    watching_config,
)
from tests.bench.foreign import DIALECTS
from tests.bench.load import Callers, Job, Run
from tests.bench.rows import BURST, CONCURRENCY, HELD, LONG, ROWS, SHORT, Row
from tests.bench.upstream import serve

REFERENCE = "relay"
"""uvloop, the proxy's own default; `relay/asyncio` shows what the loop alone is worth."""
DIRECT = "direct"
BASELINE = Path(__file__).with_name("baseline.json")
FILES_WANTED = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Counts are per round and candidate."""

    rounds: int
    unary: int
    paced: int
    burst: int
    latency: int
    starts: int
    warm: int


FULL = Plan(rounds=9, unary=1500, paced=64, burst=160, latency=300, starts=7, warm=2000)
QUICK = Plan(rounds=3, unary=600, paced=48, burst=64, latency=150, starts=3, warm=500)


@dataclass(slots=True)
class Notes:
    """Everything measured: per row and candidate one value per round (or per start), and what went wrong."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    """Candidates that answered wrongly or went away; nothing more is asked of them."""
    remarks: list[str] = field(default_factory=list)
    together: dict[str, float] = field(default_factory=dict)
    """Events per read of paced streams as the callers saw them: above 1, the candidate could not keep up."""

    def add(self, row: str, name: str, value: float) -> None:
        self.values.setdefault(row, {}).setdefault(name, []).append(value)

    def check(self, name: str, run: Run) -> Run:
        for what in run.wrong:
            self.fail(name, what)
        return run

    def fail(self, name: str, what: str) -> None:
        self.wrong.append(f"{name}: {what}")
        self.failed.add(name)

    def median(self, row: str, name: str) -> float | None:
        values = self.values.get(row, {}).get(name)
        return statistics.median(values) if values else None

    def ratios(self, row: Row, name: str) -> list[float]:
        """Of every round, the value over the reference's value in the same round."""
        values = self.values.get(row.key, {}).get(name, ())
        bases = self.values.get(row.beside or row.key, {}).get(REFERENCE, ())
        return [value / base for value, base in zip(values, bases, strict=False) if base > 0]


def in_turn(names: Sequence[Running], number: int) -> list[Running]:
    """The candidates, beginning with another one in every round."""
    at = number % len(names)
    return [*names[at:], *names[:at]]


# One measurement each -------------------------------------------------------------------------------------------------


async def cost(running: Running, job: Job, requests: int, callers: int = CONCURRENCY) -> tuple[Run, float]:
    """The run, and the CPU seconds that the candidate spent on it; its connections were warm."""
    async with Callers(running.port, callers) as connected:
        await connected.run(replace(job, model="unary-1024", split=False), 2 * callers)
        await asyncio.sleep(0.01)
        before = running.cpu_s()
        run = await connected.run(job, requests)
        return run, running.cpu_s() - before


async def warm(running: Running, plan: Plan, notes: Notes) -> None:
    """What no user waits for twice: first-use imports, caches, the interpreter's own specialising."""
    for model in ("unary-1024", "burst-8"):
        notes.check(running.candidate.name, (await cost(running, Job(model=model), plan.warm // 2))[0])


async def measure_unary(running: Running, plan: Plan, notes: Notes) -> None:
    name = running.candidate.name
    for row, job in (
        ("unary_1k_us", Job(model="unary-1024")),
        ("unary_8k_us", Job(model="unary-8192")),
        ("unary_split_us", Job(model="unary-1024", split=True)),
    ):
        run, cpu_s = await cost(running, job, plan.unary)
        if notes.check(name, run).wrong:
            return
        notes.add(row, name, cpu_s / run.answered * 1e6)
        if row == "unary_1k_us":
            notes.add("unary_per_s", name, run.per_second)
            notes.add("unary_busy", name, cpu_s / (run.ended_s - run.began_s))


async def measure_streams(running: Running, plan: Plan, notes: Notes) -> None:
    """The price of a chunk is the slope between long and short streams: what a stream costs besides falls out."""
    name = running.candidate.name
    each = {}
    for events in (LONG, SHORT):
        run, cpu_s = await cost(running, Job(model=f"stream-{events}"), plan.paced, plan.paced)
        if notes.check(name, run).wrong:
            return
        each[events] = cpu_s / run.answered
        if events == LONG:
            notes.together[name] = run.answered * (events + 4) / run.reads
    chunk_s = (each[LONG] - each[SHORT]) / (LONG - SHORT)
    notes.add("chunk_us", name, chunk_s * 1e6)
    notes.add("chunk_whole_us", name, each[LONG] / (LONG + 4) * 1e6)
    notes.add("stream_base_us", name, (each[SHORT] - chunk_s * (SHORT + 4)) * 1e6)
    run, cpu_s = await cost(running, Job(model=f"burst-{BURST}"), plan.burst)
    if not notes.check(name, run).wrong:
        notes.add("burst_us", name, cpu_s / run.answered * 1e6)
        notes.add("burst_per_s", name, run.per_second)
        notes.add("burst_busy", name, cpu_s / (run.ended_s - run.began_s))


async def measure_translated(running: Running, plan: Plan, notes: Notes) -> None:
    """What a translated event costs in all, and what a unary answer costs more than one that is not translated.

    Both sizes of unary answers, of the same process in the same round: what grows with the size is told apart.
    """
    name = "outrider"
    plain: dict[int, float] = {}
    for dialect in ("openai", *DIALECTS):
        each: dict[int, float] = {}
        for size in (1024, 8192):
            run, cpu_s = await cost(running, Job(model=f"unary-{size}", target=dialect), plan.unary // 2)
            if notes.check(name, run).wrong:
                return
            each[size] = cpu_s / run.answered
        if dialect == "openai":
            plain = each
            continue
        added = {size: each[size] - plain[size] for size in each}
        notes.add(f"unary_{dialect}_us", name, added[1024] * 1e6)
        notes.add(f"unary_{dialect}_kib_us", name, (added[8192] - added[1024]) / 7 * 1e6)
        streams: dict[int, float] = {}
        for events in (LONG, SHORT):
            job = Job(model=f"stream-{events}", target=dialect)
            run, cpu_s = await cost(running, job, plan.paced // 2, plan.paced // 2)
            if notes.check(name, run).wrong:
                return
            streams[events] = cpu_s / run.answered
        notes.add(f"chunk_{dialect}_us", name, (streams[LONG] - streams[SHORT]) / (LONG - SHORT) * 1e6)


async def measure_watching(closed: Running, opened: Running, plan: Plan, notes: Notes) -> None:
    """What a unary request costs with all eyes open over what it costs with them closed, as A B B A."""
    spent = {closed.port: 0.0, opened.port: 0.0}
    for running in (closed, opened, opened, closed):
        run, cpu_s = await cost(running, Job(model="unary-1024"), plan.unary)
        if notes.check("outrider", run).wrong:
            return
        spent[running.port] += cpu_s
    notes.add("watching", "outrider", spent[opened.port] / spent[closed.port])


async def latencies(port: int, name: str, plan: Plan, notes: Notes) -> tuple[list[float], list[float]]:
    """Seconds to the whole of a unary answer, and to the first content of a stream, with one caller."""
    async with Callers(port, 1) as caller:
        await caller.run(Job(model="unary-1024"), 20)
        whole = notes.check(name, await caller.run(Job(model="unary-1024"), plan.latency))
        first = notes.check(name, await caller.run(Job(model="burst-4"), plan.latency // 2))
    return whole.latency_s, first.first_s


async def measure_memory(running: Running, _plan: Plan, notes: Notes) -> None:
    name = running.candidate.name
    await asyncio.sleep(0.5)
    notes.add("idle_mb", name, running.rss_mb())
    async with Callers(running.port, HELD) as callers:
        if notes.check(name, await callers.run(Job(model="hold"), HELD)).wrong:
            return
        await asyncio.sleep(0.2)
        notes.add("held_mb", name, running.rss_mb())
    await asyncio.sleep(0.5)
    notes.add("left_mb", name, running.rss_mb())


Measure = Callable[[Running, Plan, Notes], Awaitable[None]]


# The bench ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    candidates: list[Candidate]
    plan: Plan
    mock: int
    folder: Path
    cores: Cores
    notes: Notes

    async def run(self) -> None:
        await self.measure_starts()
        async with (
            self.all_running() as candidates,
            self.another(translating_config, 1) as translating,
            self.another(watching_config, 2) as watching,
        ):
            if not candidates:
                return
            for number in range(-1, self.plan.rounds):
                for measure in (measure_unary, measure_streams) if number >= 0 else (warm,):
                    for running in in_turn(candidates, number):
                        await self.guarded(running, measure)
                if translating is not None:
                    await self.guarded(translating, warm if number < 0 else measure_translated)
                    for row, us in pure.costs() if number >= 0 else ():
                        self.notes.add(row, "outrider", us)
                closed = next((it for it in candidates if it.candidate.name == "outrider"), None)
                if watching is not None and closed is not None:
                    await self.guarded(watching, warm if number < 0 else partial(measure_watching, closed))
            await self.measure_latency(candidates)

    async def guarded(self, running: Running, measure: Measure) -> None:
        """One measurement of a candidate that is still in the race; one that has gone away leaves it."""
        name = running.candidate.name
        if name in self.notes.failed:
            return
        try:
            await measure(running, self.plan, self.notes)
        except OSError as error:
            self.notes.fail(name, f"went away: {error}\n{running.tail()}")

    async def measure_starts(self) -> None:
        """Every candidate `plan.starts` times, in turn, after one start that only fills caches; the last stays for
        the memory rows. Candidates that do not start are dropped."""
        for number in range(-1, self.plan.starts):
            for candidate in list(self.candidates):
                running = await self.try_start(candidate, number)
                if running is None:
                    continue
                try:
                    if number >= 0:
                        self.notes.add("start_s", candidate.name, running.start_s)
                        self.notes.add("start_cpu_s", candidate.name, running.start_cpu_s)
                    if number == self.plan.starts - 1:
                        await self.guarded(running, measure_memory)
                finally:
                    await running.stop()

    async def try_start(self, candidate: Candidate, number: int) -> Running | None:
        folder = self.folder / f"{candidate.name.replace('/', '-')}{number}"
        folder.mkdir()
        try:
            return await start(candidate, self.mock, folder, self.cores)
        except NotStarted as error:
            with contextlib.suppress(ValueError):  # the translating one is none of those that are compared
                self.candidates.remove(candidate)
            (self.notes.wrong if candidate.must else self.notes.remarks).append(f"did not start: {error}")
            return None

    @contextlib.asynccontextmanager
    async def all_running(self) -> AsyncIterator[list[Running]]:
        started: list[Running] = []
        try:
            for candidate in list(self.candidates):
                running = await self.try_start(candidate, self.plan.starts)
                if running is not None:
                    started.append(running)
            yield started
        finally:
            for running in started:
                await running.stop()

    @contextlib.asynccontextmanager
    async def another(self, config: Config, number: int) -> AsyncIterator[Running | None]:
        """The proxy with another file: a process of its own, so that the rows of one provider stay what they were.

        None: outrider is not among the candidates, or this one did not start.
        """
        running = None
        if any(candidate.name == "outrider" for candidate in self.candidates):
            running = await self.try_start(outrider(config=config), self.plan.starts + number)
        try:
            yield running
        finally:
            if running is not None:
                await running.stop()

    async def measure_latency(self, candidates: list[Running]) -> None:
        """Added latency is a quantile through the candidate minus the same quantile without it, of all rounds together
        for p50 and p99 alike: a p99 of one round would be one request."""
        whole: dict[str, list[float]] = {}
        first: dict[str, list[float]] = {}
        for number in range(self.plan.rounds):
            ports = [(DIRECT, self.mock), *((it.candidate.name, it.port) for it in in_turn(candidates, number))]
            for name, port in ports:
                if name in self.notes.failed:
                    continue
                try:
                    one, other = await latencies(port, name, self.plan, self.notes)
                except OSError as error:
                    self.notes.fail(name, f"went away: {error}")
                    continue
                whole.setdefault(name, []).extend(one)
                first.setdefault(name, []).extend(other)
        for row, of in (("added", whole), ("first", first)):
            for percent in (50, 99):
                for name, values in of.items():
                    if name != DIRECT and values and of[DIRECT]:
                        added = quantile(values, percent) - quantile(of[DIRECT], percent)
                        self.notes.add(f"{row}_p{percent}_us", name, added * 1e6)


def quantile(values: Iterable[float], percent: int) -> float:
    """Nearest rank; `values` not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


# What is printed ------------------------------------------------------------------------------------------------------


def table(notes: Notes, names: list[str], baseline: dict[str, Any]) -> Iterable[str]:
    wide = max(len(row.label) for row in ROWS) + 1
    yield " " * wide + "".join(f"{name:>24}" for name in names) + f"{'aim for outrider':>26}"
    for row in ROWS:
        cells = "".join(f"{cell(notes, row, name):>24}" for name in names)
        yield f"{row.label:<{wide}}{cells}{verdict(notes, row, baseline):>26}".rstrip()


def cell(notes: Notes, row: Row, name: str) -> str:
    value = notes.median(row.key, name)
    if value is None:
        return "-"
    text = f"{value:.{row.digits}f}"
    ratios = notes.ratios(row, name) if row.ratio and name != REFERENCE else []
    if not ratios:
        return text
    return f"{text}  {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


def reached(notes: Notes, row: Row) -> float | None:
    """What outrider reached, in the unit of the aim."""
    if not row.ratio or row.aims_at_value:
        return notes.median(row.key, "outrider")
    ratios = notes.ratios(row, "outrider")
    return statistics.median(ratios) if ratios else None


def verdict(notes: Notes, row: Row, baseline: dict[str, Any]) -> str:
    before = baseline.get("reached", {}).get(row.key)
    was = f" (was {before:.2f})" if before is not None else ""
    if row.aim is None:
        return was.strip()
    value = reached(notes, row)
    unit = "x" if row.ratio and not row.aims_at_value else ""
    word = "" if value is None else " met" if value <= row.aim else " MISSED"
    return f"<= {row.aim:g}{unit}{word}{was}"


def machine(cores: Cores) -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ("aiohttp", "uvloop", "orjson", "yarl", "multidict")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "candidate_core": cores.candidate,
        "load_core": cores.load,
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def record(notes: Notes, cores: Cores, plan_name: str, seconds: float) -> dict[str, Any]:
    """The content of `--json`, which is also the form of baseline.json."""
    return {
        "machine": machine(cores),
        "mode": plan_name,
        "seconds": round(seconds, 1),
        "reached": {row.key: value for row in ROWS if (value := reached(notes, row)) is not None},
        "aims": {row.key: row.aim for row in ROWS if row.aim is not None},
        "median": {
            row.key: {name: notes.median(row.key, name) for name in notes.values.get(row.key, {})} for row in ROWS
        },
        "values": notes.values,
        "events_per_read": notes.together,
        "wrong": notes.wrong,
        "remarks": notes.remarks,
    }


def tell(notes: Notes, cores: Cores, seconds: float) -> None:
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    names = list(notes.values.get("start_s", {}))
    print("\n".join(table(notes, names, baseline)))
    print()
    print("  ".join(f"{key}={value}" for key, value in machine(cores).items()), f" took={seconds:.0f}s")
    print(f"Nx: median over rounds of the ratio to {REFERENCE} (uvloop) in the same round, (smallest-largest)")
    crowded = [f"{name} {value:.2f}" for name, value in notes.together.items() if value > 1.05]
    if crowded:
        print("events of paced streams arrived together, the price of a chunk is too low for:", ", ".join(crowded))
    for remark in notes.remarks:
        print(remark)
    for what in notes.wrong:
        print("WRONG:", what)


def chosen(only: str, quick: bool) -> tuple[list[Candidate], list[str]]:
    """The candidates, the reference always among them, and remarks on the missing ones."""
    every = [relay("uvloop"), *([] if quick else [relay("asyncio")]), outrider()]
    remarks = []
    for name, peer in (("envoy", envoy_peer()), ("nginx", nginx_peer())):
        if peer is None:
            remarks.append(f"{name}: not found, no row (see tests/bench/README.md)")
        else:
            every.append(peer)
    if not only:
        return every, remarks
    names = {REFERENCE, *only.split(",")}
    if "relay/asyncio" in names and quick:
        every.insert(1, relay("asyncio"))
    unknown = names - {candidate.name for candidate in every}
    if unknown:
        raise SystemExit(f"no such candidate here: {', '.join(sorted(unknown))}")
    return [candidate for candidate in every if candidate.name in names], remarks


def raise_file_limit() -> None:
    """Held streams take two descriptors each in this process, and the children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def bench(asked: argparse.Namespace, cores: Cores, folder: Path) -> Notes:
    """Everything between starting the mock and having the numbers."""
    candidates, remarks = chosen(asked.only, asked.quick)
    notes = Notes(remarks=remarks)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # The candidates are stopped then, too.
    async with await serve() as mock:
        port = mock.sockets[0].getsockname()[1]
        if asked.profile:
            await rooms.profile(asked.profile, port, folder, cores, notes.wrong, 0.25 if asked.quick else 1.0)
        else:
            await Bench(candidates, QUICK if asked.quick else FULL, port, folder, cores, notes).run()
    return notes


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.run", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="half a minute instead of two")
    parser.add_argument("--json", metavar="FILE", help="also write every value of every round")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="candidates, with commas; the relay is always there"
    )
    parser.add_argument(
        "--profile",
        nargs="?",
        const="outrider",
        choices=("outrider", "relay"),
        help="print where the microseconds go, by room, instead of the table",
    )
    asked = parser.parse_args()
    began = time.monotonic()
    raise_file_limit()
    cores = Cores.of_this_machine()
    with cores.spawning():
        pass  # Leaving it moves this process to its own core.
    with (
        tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            notes = runner.run(bench(asked, cores, Path(folder)))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
    if not asked.profile:
        seconds = time.monotonic() - began
        tell(notes, cores, seconds)
        if asked.json:
            whole = record(notes, cores, "quick" if asked.quick else "full", seconds)
            Path(asked.json).write_text(json.dumps(whole, indent=1))
    return 1 if notes.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
