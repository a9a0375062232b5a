"""What is measured: each candidate is a real process, pinned to its own core and read from outside.

CPU time is the kernel's process clock, which any process may read for any other: nanoseconds, with threads that have
ended included, where `/proc/<pid>/stat` counts in ticks of 10 ms. Children are added, so a master and its workers count
as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import envoy, foreign
from tests.bench.load import Callers, Job

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0
POLL_S = 0.001
CPUCLOCK_SCHED = 2
"""From linux/posix-timers_types.h; the clock of a process is ``~pid << 3 | CPUCLOCK_SCHED``."""


class NotStarted(Exception):
    """A candidate gave no right answer within `START_LIMIT_S`; the text has the end of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    name: str
    argv: Callable[[int, int, Path], list[str]]
    """(port to listen on, port of the mock, empty folder for files) to the command line; writes its config there."""
    must: bool = True
    """False: a peer that may be missing or fail to start without failing the bench."""


Config = Callable[[int, int, int, Path], str]
"""(port to listen on, port of the mock, port of the administration, empty folder) to the proxy's file."""


def relay(loop: str, *launcher: str) -> Candidate:
    """The bare relay on one kind of event loop; `launcher` replaces the command that starts it, for the sampler."""

    def argv(port: int, mock: int, folder: Path) -> list[str]:
        command = launcher or (sys.executable, "-m", "tests.bench.relay")
        return [*command, "--port", str(port), "--upstream", f"http://127.0.0.1:{mock}", "--loop", loop]

    return Candidate(name="relay" if loop == "uvloop" else f"relay/{loop}", argv=argv)


def outrider_config(port: int, mock: int, admin: int, folder: Path) -> str:
    """One provider, everything else as it is by default, but for the file and the probes: both would add noise."""
    return f"""\
version: 1
listen:
  data: {{host: 127.0.0.1, port: {port}}}
  admin: {{host: 127.0.0.1, port: {admin}}}
providers:
  mock:
    dialect: openai
    base_url: http://127.0.0.1:{mock}/v1
    api_key: sk-bench
    models: {{"*": passthrough}}
store: {{path: ":memory:"}}
health: {{probe: off}}
"""


def watching_config(port: int, mock: int, admin: int, folder: Path) -> str:
    """As `outrider_config`, with everything that watches: a history in a file, probes every second, traces sent out."""
    return f"""\
{outrider_config(port, mock, admin, folder).partition("store:")[0]}\
store: {{path: "{folder / "history.db"}"}}
health: {{probe: shallow, interval_s: 1}}
telemetry:
  traces: {{enabled: true}}
  otlp: {{endpoint: "http://127.0.0.1:{mock}"}}
"""


def translating_config(port: int, mock: int, admin: int, folder: Path) -> str:
    """A provider for each dialect, named like it, all of them the mock; what they are asked is told by a header.

    Converse is called with a bearer key: to sign a request is no translation.
    """
    providers = "".join(
        f"""\
  {dialect}:
    dialect: {dialect}
    base_url: http://127.0.0.1:{mock}{"/v1" if dialect == "openai" else ""}
    api_key: sk-bench
    max_concurrency: 100000
    models: {{"*": passthrough}}
"""
        for dialect in ("openai", *foreign.DIALECTS)
    )
    return f"""\
version: 1
listen:
  data: {{host: 127.0.0.1, port: {port}}}
  admin: {{host: 127.0.0.1, port: {admin}}}
providers:
{providers}\
store: {{path: ":memory:"}}
health: {{probe: off}}
"""


def outrider(*launcher: str, config: Config = outrider_config) -> Candidate:
    """The proxy as it is installed; `launcher` replaces the `outrider` command, for the sampler."""

    def argv(port: int, mock: int, folder: Path) -> list[str]:
        file = folder / "outrider.yaml"
        file.write_text(config(port, mock, free_port(), folder))
        command = launcher or (str(Path(sys.executable).with_name("outrider")),)
        return [*command, "run", "--config", str(file)]

    return Candidate(name="outrider", argv=argv)


def envoy_peer() -> Candidate | None:
    binary = envoy.find()
    if binary is None:
        return None

    def argv(port: int, mock: int, folder: Path) -> list[str]:
        file = folder / "envoy.json"
        file.write_text(envoy.config(port, mock))
        return envoy.argv(binary, file)

    return Candidate(name="envoy", argv=argv, must=False)


def nginx_peer() -> Candidate | None:
    """nginx from `OUTRIDER_BENCH_NGINX` or `PATH`: one worker, no log, no buffering, upstream kept alive."""
    binary = os.environ.get("OUTRIDER_BENCH_NGINX") or shutil.which("nginx")
    if not binary:
        return None

    def argv(port: int, mock: int, folder: Path) -> list[str]:
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = folder / "nginx.conf"
        file.write_text(f"""\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; {temporary}
  keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_body_buffer_size 64k;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
        return [binary, "-p", str(folder), "-e", "stderr", "-c", str(file)]

    return Candidate(name="nginx", argv=argv, must=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Where candidates run and where load and mock run; None and None when there is only one core to share."""

    candidate: int | None
    load: int | None

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(candidate=cores[0], load=cores[1]) if len(cores) > 1 else cls(candidate=None, load=None)

    @contextlib.contextmanager
    def spawning(self) -> Iterator[None]:
        """What is started inside inherits the candidate's core; this process is on its own again afterwards."""
        if self.candidate is None or self.load is None:
            yield
            return
        os.sched_setaffinity(0, {self.candidate})
        try:
            yield
        finally:
            os.sched_setaffinity(0, {self.load})


@dataclass(slots=True)
class Running:
    """A started candidate. Made by `start`, ended by `stop`."""

    candidate: Candidate
    process: subprocess.Popen[bytes]
    port: int
    output: Path
    start_s: float = 0.0
    """Seconds from exec to the end of the first right answer."""
    start_cpu_s: float = 0.0
    """CPU seconds spent until then."""

    def cpu_s(self) -> float:
        return sum(cpu_seconds(pid) for pid in family(self.process.pid))

    def rss_mb(self) -> float:
        return sum(map(resident_mb, family(self.process.pid)))

    def tail(self) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-2000:]

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to this one process when it has not left after `STOP_LIMIT_S`."""
        self.process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + STOP_LIMIT_S
        while self.process.poll() is None and time.monotonic() < give_up:
            await asyncio.sleep(0.005)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def environment(bytecode: Path) -> dict[str, str]:
    """Ours, with byte code kept in `bytecode`: images are compiled when they are built, so a start must not compile.

    The folder belongs to one run of the bench; its first start of each candidate fills it and is not counted.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}


async def start(candidate: Candidate, mock: int, folder: Path, cores: Cores) -> Running:
    """Start `candidate` and wait for its first right answer. Raises `NotStarted`, with nothing left running."""
    port = free_port()
    argv = candidate.argv(port, mock, folder)
    output = folder / "output"
    with output.open("wb") as sink, cores.spawning():
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=environment(folder.parent / "bytecode"),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise NotStarted(f"{candidate.name}: {error}") from error
    running = Running(candidate, process, port, output)
    why = "no answer"
    try:
        while time.perf_counter() - began < START_LIMIT_S:
            if process.poll() is not None:
                why = f"exited with {process.returncode}"
                break
            with contextlib.suppress(OSError):
                async with Callers(port, 1) as callers:
                    first = await callers.run(Job(model="unary-1024"), 1, START_LIMIT_S)
                if not first.wrong:
                    running.start_s = first.ended_s - began
                    running.start_cpu_s = running.cpu_s()
                    return running
                why = first.wrong[0]
            await asyncio.sleep(POLL_S)
    except BaseException:
        await running.stop()
        raise
    await running.stop()
    raise NotStarted(f"{candidate.name}: {why}\n{running.tail()}")


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime_ns(~pid << 3 | CPUCLOCK_SCHED) / 1e9


def resident_mb(pid: int) -> float:
    """Resident memory in units of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def family(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # A thread may end while we look.
                found += map(int, (task / "children").read_text().split())
    return found
