"""What the network does: nobody listens, names fail, TLS fails, connections die, callers leave, bodies are huge.

S26-S30, S32, S33 and S36 through the process. Packets that vanish are made with a full listen queue, whose SYNs the
kernel drops; certificates are made with ``openssl`` where it exists. Connect limits are shortened; `torture` runs them
at their full length.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault, headers
from proxy.upstream.connector import DNS_TTL_S, AddrInfo, Connector, Origin, Resolver
from tests.e2e.harness import ROOT, Answer, Stage, config, free_port, full_queue

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECT_S = 0.3
"""Connect limit of the stage; 2 s under `torture`, as built in."""


# Certificates ---------------------------------------------------------------------------------------------------------


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)


def _authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        folder, "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", "/CN=a"
    )


def _leaf(folder: Path, name: str, authority: str, *, host: str = "localhost", days: int = 2) -> ssl.SSLContext:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{host}\n")
    _openssl(folder, "req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=leaf")
    signed = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-set_serial", str(1 + len(name)))
    ends = ("-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, *ends)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ssl.SSLContext]:
    """Server contexts by fault, and the authority in ``ca.pem`` of the folder under the key that is its path."""
    if shutil.which("openssl") is None:
        return {}
    folder = tmp_path_factory.mktemp("tls")
    _authority(folder, "ca")
    _authority(folder, "stranger")
    return {
        str(folder / "ca.pem"): ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        "good": _leaf(folder, "good", "ca"),
        "expired": _leaf(folder, "expired", "ca", days=-1),
        "wrong_name": _leaf(folder, "wrong", "ca", host="elsewhere.test"),
        "unknown_issuer": _leaf(folder, "unknown", "stranger"),
    }


# The stage ------------------------------------------------------------------------------------------------------------


class Scene:
    """A stage and the addresses beside it that are no well-behaved providers."""

    def __init__(self, stage: Stage, tls: dict[str, FakeProvider], plain: Listener) -> None:
        self.stage = stage
        self.tls = tls
        """Providers behind TLS by their fault."""
        self.plain = plain
        """Plain HTTP behind an https address."""


class Listener:
    """Takes connections and says `answer` to the first bytes of each; nothing when that is empty, so that a TLS
    handshake with it stalls."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server
        self.heard = b""
        self.port = 0

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with suppress(ConnectionError):
            self.heard += await reader.read(4096)
            if self._answer:
                writer.write(self._answer)
                writer.close()


def _breaker(**settings: Any) -> dict[str, Any]:
    rule = {"error_threshold": 5, "error_threshold_window": 30, "timeout": 0.6, "half_open_requests": 1}
    return {"circuit_breaker": {**rule, "success_threshold": 2, **settings}}


async def _set(stack: AsyncExitStack, folder: Path, certificates: dict[str, ssl.SSLContext], connect_s: float) -> Scene:
    tls = {
        fault: await stack.enter_async_context(FakeProvider(name=fault, ssl=context, pause_s=0))
        for fault, context in certificates.items()
        if "/" not in fault
    }
    hole = await stack.enter_async_context(full_queue())
    mute, plain = Listener(b""), Listener(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    for listener in (mute, plain):
        await stack.enter_async_context(listener)
    ca = next((name for name in certificates if "/" in name), "")

    def entry(url: str, **more: Any) -> dict[str, Any]:
        return {"dialect": "openai", "base_url": f"{url}/v1", "api_key": "sk-secret-0123456789", **more}

    def entries(providers: list[FakeProvider]) -> dict[str, dict[str, Any]]:
        made = {
            "refused": entry(f"http://127.0.0.1:{free_port()}"),
            "dropped": entry(f"http://127.0.0.1:{hole}"),
            "left": entry(f"http://127.0.0.1:{hole}"),
            "nameless": entry("http://no-such-host.invalid"),
            "stalled_tls": entry(f"https://localhost:{mute.port}"),
            "plain_tls": entry(f"https://localhost:{plain.port}"),
        }
        made |= {fault: entry(f"https://localhost:{each.port}", ca_file=ca) for fault, each in tls.items()}
        return made | {each.name: _breaker() for each in providers[:5]}

    stage = Stage(
        folder,
        56,
        entries=entries,
        defaults={"connect_timeout_s": connect_s, "hedging": {"budget_percent": 100}},
    )
    await stack.enter_async_context(stage)
    stage.take(10)  # five pairs of S33: the first of each has a breaker that opens for 0.6 s
    return Scene(stage, tls, plain)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(
    tmp_path_factory: pytest.TempPathFactory, certificates: dict[str, ssl.SSLContext]
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        yield await _set(stack, tmp_path_factory.mktemp("network"), certificates, CONNECT_S)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def slow_scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The same with the built-in connect limit of 2 s."""
    async with AsyncExitStack() as stack:
        yield await _set(stack, tmp_path_factory.mktemp("full"), {}, 2.0)


# S26, S27 (a) ---------------------------------------------------------------------------------------------------------


def _served_by(answer: Answer, f: FakeProvider) -> None:
    assert (answer.status, len(answer.words), answer.headers["X-Served-By"]) == (200, 60, f.name)


@pytest.mark.parametrize(("name", "cls"), [("refused", "connect_error.refused"), ("nameless", "connect_error.dns")])
async def test_S26_S27_a_nobody_there(scene: Scene, name: str, cls: str) -> None:
    (f,) = scene.stage.take(1)
    answer = await scene.stage.chat(name, f)
    _served_by(answer, f)
    tried = [entry for entry in answer.trace if entry["target"].startswith(name)]
    assert len(tried) <= 3
    assert {entry["class"] for entry in tried} == {cls}
    # Two backoffs of at most 250 and 500 ms are all that lies between the first refusal and F.
    assert answer.trace[-1]["start_ms"] - tried[0]["end_ms"] <= 1000
    for _ in range(5 - len(tried)):
        await scene.stage.chat(name, f, headers={"X-Max-Retries": "0"})
    opened = await scene.stage.chat(name, f)
    assert opened.headers["X-Circuit-Status"] == "open"
    assert 1 <= int(opened.headers["X-Retry-After"]) <= 5
    assert opened.headers["X-Attempts"] == "1"
    assert opened.took_s <= 0.05
    await scene.stage.after(f)


async def _dropped(scene: Scene, connect_s: float) -> None:
    stage = scene.stage
    f, g = stage.take(2)
    patient, hasty = await asyncio.gather(
        stage.chat("dropped", f), stage.chat("dropped", g, headers={"X-Max-Retries": "0"})
    )
    _served_by(patient, f)
    _served_by(hasty, g)
    assert {entry["class"] for entry in (*patient.trace[:-1], *hasty.trace[:-1])} == {"timeout.connect"}
    assert len(patient.trace) <= 4
    assert patient.trace[-1]["start_ms"] <= 3 * connect_s * 1000 + 1000
    assert connect_s * 1000 <= hasty.trace[-1]["start_ms"] <= connect_s * 1000 + 500
    for _ in range(2):
        await stage.chat("dropped", f, headers={"X-Max-Retries": "0"})
    opened = await stage.chat("dropped", f)
    assert (opened.headers["X-Circuit-Status"], opened.headers["X-Attempts"]) == ("open", "1")
    assert opened.took_s <= 0.05
    await stage.after(f, g)


async def test_S26_b_c_dropped_packets(scene: Scene) -> None:
    await _dropped(scene, CONNECT_S)


@pytest.mark.torture
async def test_S26_b_c_dropped_packets_at_full_length(slow_scene: Scene) -> None:
    await _dropped(slow_scene, 2.0)


# S27 (b)-(d): the resolver --------------------------------------------------------------------------------------------


class Names:
    """A resolver under our hand: names to addresses, names that fail, names that hang until they are let go."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, int]] = {}
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self.go = threading.Event()

    def __call__(self, host: str, port: int) -> list[AddrInfo]:
        self.asked.append(host)
        if host in self.hanging:
            assert self.go.wait(10)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", self.known[host])]


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.go.set()


async def test_S27_b_a_name_that_hangs_holds_one_thread_and_nobody_else(names: Names) -> None:
    names.hanging = {"hangs"}
    names.known = {"works": ("127.0.0.1", 80), "hangs": ("127.0.0.1", 80)}
    resolver = Resolver(time.monotonic, names)
    before = threading.active_count()
    stuck = [asyncio.create_task(resolver.resolve("hangs", 80)) for _ in range(100)]
    took = []
    for port in range(100):  # the port is part of the key: no answer comes from the cache
        began = time.monotonic()
        await resolver.resolve("works", port + 1)
        took.append(time.monotonic() - began)
    assert max(took) <= 0.1
    assert threading.active_count() - before <= 2
    for task in stuck[1:]:
        task.cancel()
    await asyncio.gather(*stuck[1:], return_exceptions=True)
    names.go.set()
    assert (await stuck[0])[0][4] == ("127.0.0.1", 80)
    assert names.asked.count("hangs") == 1


async def test_S27_c_a_failure_is_not_remembered(names: Names) -> None:
    resolver = Resolver(time.monotonic, names)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("late", 80)
    names.known["late"] = ("127.0.0.1", 80)
    assert (await resolver.resolve("late", 80))[0][4] == ("127.0.0.1", 80)


async def test_S27_d_a_new_address_is_used_within_a_minute(names: Names) -> None:
    now = 1000.0
    resolver = Resolver(lambda: now, names)
    names.known["moves"] = ("127.0.0.1", 80)
    await resolver.resolve("moves", 80)
    names.known["moves"] = ("127.0.0.2", 80)
    now += DNS_TTL_S - 0.1
    assert (await resolver.resolve("moves", 80))[0][4] == ("127.0.0.1", 80)
    now += 0.2
    assert DNS_TTL_S <= 60.0
    assert (await resolver.resolve("moves", 80))[0][4] == ("127.0.0.2", 80)


async def test_S27_d_a_failed_connect_forgets_the_address(names: Names) -> None:
    async with FakeProvider() as provider:
        names.known["moves"] = ("127.0.0.1", free_port())
        connector = Connector(Origin("http", "moves", 80, ""), Resolver(time.monotonic, names), time.monotonic)
        with pytest.raises(ConnectionRefusedError):
            await connector.open()
        names.known["moves"] = ("127.0.0.1", provider.port)
        await connector.open()
        assert connector.opened == 1
        connector.close()


HANGING = """
import socket, sys, threading
real = socket.getaddrinfo
def hang(host, *args, **kwargs):
    if host == "hangs.test":
        threading.Event().wait()
    return real(host, *args, **kwargs)
socket.getaddrinfo = hang
from proxy.cli import main
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


async def test_S27_b_a_resolver_that_hangs_does_not_keep_the_process_from_leaving(tmp_path: Path) -> None:
    tree = config({"hangs": "http://hangs.test"}, defaults={"connect_timeout_s": 0.2, "retry": {"max_retries": 0}})
    path = tmp_path / "outrider.yaml"
    path.write_text(yaml.safe_dump(tree))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANGING, str(path), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    ready = json.loads(await process.stderr.readline())
    reader, writer = await asyncio.open_connection("127.0.0.1", ready["data_port"])
    body = b'{"model": "m"}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
    writer.close()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(3):
        _, code = await asyncio.gather(process.stderr.read(), process.wait())
    assert code == 0


# S28 ------------------------------------------------------------------------------------------------------------------

TLS_FAULTS = {
    "expired": "expired",
    "wrong_name": "Hostname mismatch",
    "unknown_issuer": "unable to get local issuer certificate",
    "plain_tls": "WRONG_VERSION_NUMBER",
}


@pytest.mark.parametrize("name", TLS_FAULTS)
async def test_S28_never_unverified(scene: Scene, name: str) -> None:
    if name not in scene.tls and name != "plain_tls":
        pytest.skip("there is no openssl here to make certificates with")
    provider, (f,) = scene.tls.get(name), scene.stage.take(1)
    answer = await scene.stage.chat(name, f)
    _served_by(answer, f)
    tried = answer.trace[:-1]
    assert {entry["class"] for entry in tried} == {"connect_error.tls"}
    assert len(tried) <= (3 if name == "plain_tls" else 1)  # a bad certificate does not heal in a second
    assert answer.trace[-1]["start_ms"] - tried[0]["end_ms"] <= 1000
    assert "error=tls_certificate_error" in answer.headers["Proxy-Status"]
    alone = await scene.stage.chat(name, headers={"X-Max-Retries": "0"})
    assert alone.status == 502
    assert TLS_FAULTS[name].lower() in alone.error["message"].lower()
    assert b"sk-secret" not in alone.body
    assert provider is None or provider.attempts == []
    assert b"sk-secret" not in scene.plain.heard
    assert b"messages" not in scene.plain.heard
    await scene.stage.after(f)


async def test_S28_a_certificate_of_the_named_authority_is_taken(scene: Scene) -> None:
    if "good" not in scene.tls:
        pytest.skip("there is no openssl here to make certificates with")
    answer = await scene.stage.chat("good")
    assert (answer.status, len(answer.words)) == (200, 60)
    assert scene.tls["good"].attempts[0].header("Host") == f"localhost:{scene.tls['good'].port}"


async def test_S28_d_a_handshake_that_stalls(scene: Scene) -> None:
    (f,) = scene.stage.take(1)
    answer = await scene.stage.chat("stalled_tls", f, headers={"X-Max-Retries": "0"})
    _served_by(answer, f)
    assert answer.trace[0]["class"] == "timeout.connect"
    assert CONNECT_S * 1000 <= answer.trace[1]["start_ms"] <= CONNECT_S * 1000 + 500


# S29 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [pytest.param(1000, marks=pytest.mark.torture), 150])
@pytest.mark.parametrize(
    "fault",
    [Fault(close_idle_s=0.0), Fault(drop_reused="close"), Fault(drop_reused="reset")],
    ids=["idle", "fin", "rst"],
)
async def test_S29_a_dead_kept_alive_connection_costs_one_resend(scene: Scene, fault: Fault, rounds: int) -> None:
    p, f = scene.stage.take(2)
    p.default = fault
    for _ in range(rounds):
        answer = await scene.stage.chat(p, f)
        assert (answer.status, answer.headers["X-Attempts"], answer.headers["X-Served-By"]) == (200, "1", p.name), dict(
            answer.headers
        )
    assert rounds <= len(p.attempts) <= 2 * rounds
    assert f.attempts == []
    circuit = (await scene.stage.target(p))["circuit"]
    assert (circuit["state"], set(circuit["counts"])) == ("closed", {"ok"})


async def test_S29_no_silent_resend_once_a_response_has_begun(scene: Scene) -> None:
    p, f = scene.stage.take(2)
    await scene.stage.chat(p, f)
    p.script([Fault(cut_after_bytes=20, cut="reset")])
    answer = await scene.stage.chat(p, f)
    _served_by(answer, f)
    assert [entry["class"] for entry in answer.trace] == ["stream_interrupted", "ok"]
    assert len(p.attempts) == 2
    await scene.stage.after(p, f)


# S30 ------------------------------------------------------------------------------------------------------------------

QUIET_S = 1.2
"""No attempt may start for so long after a caller left: longer than any wait that could still be running."""


class Phase:
    """A moment at which the caller leaves: what P does, what is asked for, how many attempts are then under way."""

    def __init__(self, fault: Fault, running: int = 1, words: int = 0, stream: bool = False, **asked: str) -> None:
        self.fault = fault
        self.running = running
        self.words = words
        self.stream = stream
        self.headers = asked


PHASES = {
    "before_headers": Phase(Fault(silence_s=30)),
    "before_content": Phase(Fault(first_word_s=30), stream=True),
    "preamble": Phase(Fault(first_word_s=30, preamble=("ping",), preamble_every_s=0.05), stream=True),
    "mid_stream": Phase(Fault(stall_after_words=20), words=20, stream=True),
    "backoff": Phase(Fault(status=429, headers=headers({"Retry-After": "0.8"}))),
    "hedge": Phase(Fault(silence_s=30), running=2, **{"X-Hedge-Config": '{"delay_ms": 20}'}),
}


async def _leave(stage: Stage, p: FakeProvider, f: FakeProvider, phase: Phase) -> None:
    """Call, wait until the phase is reached, and hang up."""
    began = p.attempts_total + f.attempts_total
    asked = {"X-Request-Hedging": "false"} if phase.running == 1 else phase.headers
    read = asyncio.Event()
    call = (
        _read_words(stage, p, phase.words, read)
        if phase.words
        else stage.chat(p, f, headers=asked, stream=phase.stream)
    )
    task: asyncio.Task[Any] = asyncio.create_task(call)

    def reached() -> bool:
        last = p.attempts[-1] if p.attempts else None
        if last is None or p.attempts_total + f.attempts_total - began < phase.running:
            return False
        return phase.fault.status is None or bool(last.ended)

    if phase.words:
        await read.wait()
    await (p if phase.running == 1 else f).wait(reached)
    await _hang_up(task)
    for each in (p, f):
        await each.wait_idle(timeout_s=1.0)


async def _read_words(stage: Stage, p: FakeProvider, words: int, read: asyncio.Event) -> None:
    """Stream and say so when so many words have come; goes on reading."""
    body = {"model": "gpt-4o", "stream": True, "messages": []}
    url, asked = f"{stage.sidecar.url}/v1/chat/completions", {"X-Failover-Providers": p.name}
    text = b""
    async with stage.sidecar.session.post(url, json=body, headers=asked) as response:
        async for piece in response.content.iter_any():
            text += piece
            if text.count(b'"content":"') >= words:
                read.set()


async def _hang_up(task: asyncio.Task[Any]) -> None:
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _phase(stage: Stage, name: str, rounds: int) -> None:
    phase = PHASES[name]
    p, f = stage.take(2)
    await stage.chat(p, f)
    before = (await stage.target(p))["first_content_s"]
    p.default = f.default = phase.fault
    for _ in range(rounds):
        await _leave(stage, p, f, phase)
        if phase.fault.status is not None:
            await asyncio.sleep(0.85)  # the cool-down that the refusal itself set must be over for the next round
    began = [p.attempts_total, f.attempts_total]
    await asyncio.sleep(QUIET_S)
    assert [p.attempts_total, f.attempts_total] == began
    after = await stage.target(p)
    assert after["circuit"]["state"] == "closed"
    assert set(after["circuit"]["counts"]) <= {"ok", "cancelled.downstream", "rate_limit"}
    assert after["circuit"]["S_err"] == 0.0
    assert phase.words or after["first_content_s"] == before  # content that came is a sample, whoever left after it
    assert after["concurrency"]["running"] == 0
    await stage.after(p, f)


async def _left(stage: Stage) -> float:
    samples = await stage.sidecar.metrics()
    return sum(v for k, v in samples.items() if k.startswith("outrider_requests_total{") and "client_cancelled" in k)


async def _leaves_while_sending(stage: Stage, rounds: int) -> None:
    """(a): nothing is dialled for a body that never became whole."""
    (p,) = stage.take(1)
    for _ in range(rounds):
        _, writer = await asyncio.open_connection("127.0.0.1", stage.sidecar.data_port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"X-Failover-Providers: " + p.name.encode() + b'\r\n\r\n{"model": "gpt-4o", "messa'
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(QUIET_S)
    assert p.attempts == []


async def _leaves_during_connect(stage: Stage, rounds: int) -> None:
    """(b): the connect ends with the caller, F is not tried."""
    (f,) = stage.take(1)
    for _ in range(rounds):
        before = await _running(stage, "left")
        task = asyncio.create_task(stage.chat("left", f))
        async with asyncio.timeout(5):
            while await _running(stage, "left") == before:
                await asyncio.sleep(0)
        await _hang_up(task)
        async with asyncio.timeout(1):
            while await _running(stage, "left") != before:
                await asyncio.sleep(0.01)
    await asyncio.sleep(QUIET_S)
    assert f.attempts == []


async def _running(stage: Stage, name: str) -> int:
    targets = (await stage.sidecar.status())["targets"]
    return sum(each["concurrency"]["running"] for each in targets if each["target"] == f"{name}/gpt-4o")


async def test_S30_I5_the_caller_leaves(scene: Scene) -> None:
    stage = scene.stage
    before = await _left(stage)
    await asyncio.gather(
        *(_phase(stage, name, 3) for name in PHASES), _leaves_while_sending(stage, 3), _leaves_during_connect(stage, 3)
    )
    assert await _left(stage) - before == 3 * (len(PHASES) + 1)
    assert (await stage.sidecar.status())["requests_active"] == 0


@pytest.mark.torture
async def test_S30_I5_two_hundred_callers_leave_nothing_behind(scene: Scene) -> None:
    stage = scene.stage
    for name in ("before_headers", "before_content", "mid_stream"):
        await _phase(stage, name, 20)
    before = (_descriptors(stage), _rss_mb(stage))
    for name in ("before_headers", "before_content", "preamble", "mid_stream"):
        await _phase(stage, name, 200)
    await _leaves_while_sending(stage, 200)
    await _leaves_during_connect(stage, 200)
    assert _descriptors(stage) <= before[0] + 10
    assert _rss_mb(stage) <= before[1] + 20


def _descriptors(stage: Stage) -> int:
    return len(os.listdir(f"/proc/{stage.sidecar.process.pid}/fd"))


def _rss_mb(stage: Stage) -> float:
    pages = int(Path(f"/proc/{stage.sidecar.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# S32, S33 -------------------------------------------------------------------------------------------------------------

BUILT_IN = {"X-Circuit-Breaker": "{}"}


async def _flapping(
    stage: Stage, every_s: float, for_s: float, pause_s: float
) -> tuple[int, FakeProvider, FakeProvider]:
    """Flap P and call all the while; the number of calls, all of them answered."""
    p, f = stage.take(2)
    loop = asyncio.get_running_loop()
    p.flap(every_s, for_s)
    began, tasks = loop.time(), []
    while loop.time() - began < for_s:
        tasks.append(asyncio.create_task(stage.chat(p, f, headers=BUILT_IN)))
        await asyncio.sleep(pause_s)
    answers = await asyncio.gather(*tasks)
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert p.attempts_total + f.attempts_total <= 1.3 * len(answers)
    samples = await stage.sidecar.metrics()
    opened = sum(
        v
        for k, v in samples.items()
        if k.startswith("outrider_circuit_changes_total{") and f'"{p.name}"' in k and '"open"' in k
    )
    assert opened <= 8
    return len(answers), p, f


async def test_S32_flapping_loses_nothing_and_does_not_oscillate(scene: Scene) -> None:
    count, p, f = await _flapping(scene.stage, 1.0, 4.0, 0.04)
    assert count >= 60
    await scene.stage.after(p, f)


@pytest.mark.torture
async def test_S32_flapping_at_full_length_and_the_return(scene: Scene) -> None:
    _, p, f = await _flapping(scene.stage, 3.0, 60.0, 0.2)
    loop = asyncio.get_running_loop()
    healed, seen = loop.time(), p.attempts_total
    while (await scene.stage.chat(p, f, headers=BUILT_IN)).headers["X-Served-By"] != p.name:
        assert loop.time() - healed <= 30.0
        await asyncio.sleep(0.2)
    assert p.attempts_total > seen
    await scene.stage.after(p, f)


OWN = {"X-Circuit-Breaker": "{}", "X-Max-Retries": "0"}
"""The breaker rule that the file gives these targets, and no retries."""


async def _opened(stage: Stage, pair: int) -> tuple[FakeProvider, FakeProvider]:
    """A pair whose first has just been opened by five failures."""
    p, f = stage.providers[pair], stage.providers[5 + pair]
    p.default = Fault(status=503)
    for _ in range(5):
        await stage.chat(p, f, headers=OWN)
    circuit = (await stage.target(p))["circuit"]
    assert (circuit["state"], p.attempts_total) == ("open", 5)
    return p, f


async def _reopens(stage: Stage, p: FakeProvider) -> None:
    wait_s = (await stage.target(p))["retry_after_s"]
    assert wait_s > 0
    await asyncio.sleep(wait_s + 0.02)


async def _storm(stage: Stage, p: FakeProvider, f: FakeProvider, asked: dict[str, str]) -> list[Answer]:
    """A hundred callers at the moment of reopening: one probe, the rest at once to F."""
    await _reopens(stage, p)
    before = p.attempts_total
    answers = await asyncio.gather(*(stage.chat(p, f, headers=asked) for _ in range(100)))
    assert {(answer.status, len(answer.words)) for answer in answers} == {(200, 60)}
    assert p.attempts_total == before + 1
    probing = [answer for answer in answers if len(answer.trace) > 1 or answer.headers["X-Served-By"] == p.name]
    assert len(probing) == 1
    assert {answer.headers["X-Attempts"] for answer in answers if answer not in probing} == {"1"}
    assert max(answer.trace[0]["start_ms"] for answer in answers if answer not in probing) <= 300
    return probing


async def _probe_passes(stage: Stage) -> None:
    p, f = await _opened(stage, 0)
    p.default = Fault(silence_s=0.5)
    (probe,) = await _storm(stage, p, f, OWN)
    assert (probe.headers["X-Served-By"], probe.headers["X-Circuit-Status"]) == (p.name, "half_open")
    p.default = None
    await stage.chat(p, f, headers=OWN)  # the second success closes
    assert (await stage.target(p))["circuit"]["state"] == "closed"


async def _probe_fails(stage: Stage) -> None:
    p, f = await _opened(stage, 1)
    p.default = Fault(status=503, silence_s=0.5)
    (probe,) = await _storm(stage, p, f, OWN)
    assert (probe.headers["X-Served-By"], probe.headers["X-Failover-Reason"]) == (f.name, "model_overloaded")
    assert (await stage.target(p))["circuit"]["state"] == "open"


async def _probe_hangs(stage: Stage) -> None:
    p, f = await _opened(stage, 2)
    p.default = Fault(silence_s=30)
    limit = {"X-First-Token-Timeout-Ms": "500", **OWN}
    (probe,) = await _storm(stage, p, f, limit)
    assert probe.headers["X-Failover-Reason"] == "timeout"
    assert (await stage.target(p))["circuit"]["state"] == "open"
    await _reopens(stage, p)
    p.default = None
    assert (await stage.chat(p, f, headers=limit)).headers["X-Served-By"] == p.name  # the next probe


async def _probe_is_left(stage: Stage) -> None:
    p, f = await _opened(stage, 3)
    p.default = Fault(silence_s=30)
    await _reopens(stage, p)
    counts = (await stage.target(p))["circuit"]["counts"]
    task = asyncio.create_task(stage.chat(p, f, headers=OWN))
    await p.wait_attempts(6)
    await _hang_up(task)
    await p.wait_idle(timeout_s=1.0)
    p.default = None
    assert (await stage.chat(p, f, headers=OWN)).headers["X-Served-By"] == p.name
    told = (await stage.target(p))["circuit"]["counts"]
    assert {k: v for k, v in told.items() if k not in ("ok", "cancelled.downstream")} == counts


async def _old_news(stage: Stage) -> None:
    """Attempts begun before the opening change nothing, whether they end well or badly."""
    p, f = stage.providers[4], stage.providers[9]
    p.script([Fault(silence_s=0.4), Fault(status=503, silence_s=0.5)])
    early = [asyncio.create_task(stage.chat(p, f, headers=OWN)) for _ in range(2)]
    await p.wait_attempts(2)
    p.default = Fault(status=503)
    for _ in range(5):
        await stage.chat(p, f, headers=OWN)
    opened = (await stage.target(p))["circuit"]
    await asyncio.gather(*early)
    later = (await stage.target(p))["circuit"]
    assert (later["state"], later["opened_at"], later["generation"]) == (
        "open",
        opened["opened_at"],
        opened["generation"],
    )


async def test_S33_B3_B5_half_open_storm(scene: Scene) -> None:
    stage = scene.stage
    await asyncio.gather(_probe_is_left(stage), _old_news(stage))
    for case in (_probe_passes, _probe_fails, _probe_hangs):
        await case(stage)
    await stage.after(*stage.providers[:10])


# S36 ------------------------------------------------------------------------------------------------------------------

MIB = 1 << 20


def _large(size: int) -> bytes:
    """A chat request with an image of about `size` bytes in base64."""
    image = b"data:image/png;base64," + (b"iVBORw0KGgoAAAANSUhEUgAA" * (size // 24 + 1))[:size]
    start = b'{"model":"gpt-4o", "messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"'
    return start + image + b'"}}]}]}'


async def _post(stage: Stage, body: bytes, *chain: FakeProvider) -> Answer:
    asked = {"X-Failover-Providers": ",".join(p.name for p in chain), "Content-Type": "application/json"}
    url = f"{stage.sidecar.url}/v1/chat/completions"
    began = time.monotonic()
    async with stage.sidecar.session.post(
        url, data=io.BytesIO(body), headers={"X-Explain": "true", **asked}
    ) as response:
        pieces = [(0.0, await response.read())]
        return Answer(response, pieces, "", time.monotonic() - began)


async def test_S36_large_bodies_arrive_byte_for_byte(scene: Scene) -> None:
    stage = scene.stage
    p, f = stage.take(2)
    for size in (1, 8, 31):
        body = _large(size * MIB)
        answer = await _post(stage, body, p, f)
        assert (answer.status, answer.headers["X-Attempts"]) == (200, "1")
        assert p.attempts[-1].sha256 == hashlib.sha256(body).hexdigest()
        assert p.attempts[-1].header("Content-Length") == str(len(body))
    p.default = Fault(error="auth")  # fails after it has taken all of it
    answer = await _post(stage, body, p, f)
    _served_by(answer, f)
    assert f.attempts[-1].sha256 == hashlib.sha256(body).hexdigest()
    await stage.after(p, f)


async def test_S36_a_body_above_the_limit_is_refused_unread(scene: Scene) -> None:
    stage = scene.stage
    (p,) = stage.take(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.sidecar.data_port)
    began = time.monotonic()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (200 * MIB)
        + b"X-Failover-Providers: %s\r\n\r\n" % p.name.encode()
        + _large(MIB)
    )
    async with asyncio.timeout(1):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        told = await reader.readuntil(b"\r\n\r\n")
        error = json.loads(await reader.readexactly(int(told.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
    assert error["error"]["code"] == "body_too_large"
    assert time.monotonic() - began <= 1.0
    writer.close()
    assert p.attempts == []


async def _crowd(stage: Stage, p: FakeProvider) -> list[Answer]:
    """20 x 8 MiB at once."""
    body = _large(8 * MIB)
    answers = await asyncio.gather(*(_post(stage, body, p) for _ in range(20)))
    assert {answer.status for answer in answers} <= {200, 503}
    return answers


@pytest.mark.torture
async def test_S36_memory_of_many_large_bodies(slow_scene: Scene) -> None:
    """At most three times the bytes in flight, and 24 MiB of them at most stay: the allocator keeps nothing
    large. What stays are buffers of the loop and of the connections, reached with the first crowd."""
    stage = slow_scene.stage
    (p,) = stage.take(1)
    await asyncio.gather(*(_post(stage, _large(100), p) for _ in range(20)))
    before = _rss_mb(stage)
    await _crowd(stage, p)
    assert _peak_mb(stage) - before <= 3 * 160
    assert (await stage.sidecar.status())["held_bytes"] == 0
    until = time.monotonic() + 30
    while _rss_mb(stage) > before + 24:
        assert time.monotonic() < until
        await asyncio.sleep(0.5)


@pytest.mark.torture
async def test_S36_small_requests_beside_many_large_ones(slow_scene: Scene) -> None:
    stage = slow_scene.stage
    p, f = stage.take(2)
    normal = await _small(stage, f, 100)
    worst = []
    for _ in range(3):  # the neighbours of this machine disturb one round or another: the best tells about us
        crowd = asyncio.create_task(_crowd(stage, p))
        worst.append(statistics.quantiles(await _small(stage, f, 100), n=100)[98])
        await crowd
    assert min(worst) <= statistics.quantiles(normal, n=100)[98] + 50.0


def _peak_mb(stage: Stage) -> float:
    """Peak resident memory of the process."""
    for line in Path(f"/proc/{stage.sidecar.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


async def _small(stage: Stage, f: FakeProvider, count: int) -> list[float]:
    """Our own share of small calls in ms. Caller and provider live in the test's loop, which the crowd keeps busy, so
    their time tells nothing about us."""
    shares = []
    for _ in range(count):
        told = (await _post(stage, _large(100), f)).headers["Server-Timing"]
        spent = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([0-9.]+)", told)}
        shares.append(spent["total"] - spent["upstream"])
    return shares
