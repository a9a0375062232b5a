"""Deliveries over real sockets: tried again, never led astray, and never to an address that is not public."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.upstream import deliver
from proxy.upstream.deliver import TRIES, Courier, later_s
from tests.e2e.harness import free_port
from tests.e2e.receivers import Receiver


def info(address: str, port: int) -> Any:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


class Names:
    """A name server that answers each question with the next of `answers`, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, host: str, port: int) -> list[Any]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [info(address, port) for address in answer]


@asynccontextmanager
async def courier(lookup: Callable[[str, int], list[Any]] | None = None) -> AsyncIterator[Courier]:
    made = Courier(lookup)
    try:
        yield made
    finally:
        await made.close()


async def test_a_letter_is_delivered() -> None:
    async with Receiver() as receiver, courier() as sender:
        sent = await sender.post(receiver.url, b"{}", {"X-A": "b"}, is_guarded=False)
        assert sent.result == "delivered"
        assert [(hook.body, hook.headers["X-A"]) for hook in receiver.hooks] == [(b"{}", "b")]


@pytest.mark.parametrize(
    ("status", "result", "calls"),
    [
        (200, "delivered", 1),
        (302, "refused", 1),
        (400, "refused", 1),
        (404, "refused", 1),
        (410, "never", 1),
        (429, "failed", TRIES),
        (503, "failed", TRIES),
    ],
)
async def test_what_an_answer_means(status: int, result: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "PAUSE_S", 0.001)
    async with Receiver(lambda hook: status) as receiver, courier() as sender:
        sent = await sender.post(receiver.url, b"{}", {}, is_guarded=False)
        assert sent.result == result
        assert len(receiver.hooks) == calls, "a redirect is an answer like any other"


async def test_a_busy_receiver_is_called_again_and_not_more_often_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "PAUSE_S", 0.001)
    async with Receiver() as receiver, courier() as sender:
        receiver.answer = lambda hook: 503 if len(receiver.hooks) == 0 else 204
        assert (await sender.post(receiver.url, b"{}", {}, is_guarded=False)).result == "delivered"
        assert [hook.status for hook in receiver.hooks] == [503, 204]


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "PAUSE_S", 0.001)
    async with courier() as sender:
        sent = await sender.post(f"http://127.0.0.1:{free_port()}/", b"{}", {}, is_guarded=False)
        assert sent.result == "failed"
        assert sent.reason


@pytest.mark.parametrize("url", ["", "http://", "no address", "http://[::1", "ftp://127.0.0.1/"])
async def test_what_is_no_address_never_raises(url: str) -> None:
    async with courier() as sender:
        assert (await sender.post(url, b"{}", {}, is_guarded=True)).result in ("failed", "never")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001", "0",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]",
    ],
)  # fmt: skip
async def test_no_spelling_of_this_host_is_called(host: str) -> None:
    async with Receiver() as receiver, courier() as sender:
        sent = await sender.post(f"http://{host}:{receiver.port}/", b"{}", {}, is_guarded=True)
        assert (sent.result, receiver.hooks) == ("never", [])


async def test_a_name_with_one_bad_address_is_not_called() -> None:
    names = Names(["8.8.8.8", "169.254.169.254"])
    async with courier(names) as sender:
        assert (await sender.post("http://hook.test/", b"{}", {}, is_guarded=True)).result == "never"


async def test_a_name_server_that_changes_its_mind_between_check_and_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "PAUSE_S", 0.001)
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    async with Receiver() as receiver, courier(names) as sender:
        sent = await sender.post(f"http://hook.test:{receiver.port}/", b"{}", {}, is_guarded=True)
        assert (sent.result, receiver.hooks) == ("never", [])
        assert len(names.asked) >= 2, "it was asked again for the call itself"


async def test_the_call_goes_to_the_addresses_that_were_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "is_public", lambda address: address == "127.0.0.1")
    names = Names(["127.0.0.1"])
    async with Receiver() as receiver, courier(names) as sender:
        for _ in range(2):
            sent = await sender.post(f"http://hook.test:{receiver.port}/", b"{}", {}, is_guarded=True)
            assert sent.result == "delivered"
        assert {hook.headers["Host"] for hook in receiver.hooks} == {f"hook.test:{receiver.port}"}
        assert set(names.asked) == {"hook.test"}
        assert len(names.asked) == 4, "nothing is remembered between two deliveries"


def test_pauses_grow_to_a_quarter_of_an_hour() -> None:
    assert [later_s(n) for n in range(1, 5)] == [2.0, 4.0, 8.0, 16.0]
    assert later_s(20) == later_s(10_000) == 900.0


@asynccontextmanager
async def speaking(head: bytes) -> AsyncIterator[int]:
    """The port of a receiver that says this to every request, and then waits until the caller leaves."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())  # type: ignore[arg-type]
        writer.write(head)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*talks)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"nonsense\r\n\r\n"])
async def test_a_receiver_that_does_not_end_its_answer_is_left(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all, a head without end, no HTTP: the call ends with its time, and no word of the address is told."""
    monkeypatch.setattr(deliver, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(deliver, "PAUSE_S", 0.0)
    async with speaking(head) as port, courier() as sender:
        sent = await sender.post(f"http://127.0.0.1:{port}/secret-path", b"{}", {}, is_guarded=False)
        assert sent.result == "failed"
        assert sent.reason
        assert "secret" not in sent.reason


async def test_the_body_of_an_answer_is_not_read() -> None:
    """It may be of any length, and here it never ends."""
    async with speaking(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") as port, courier() as sender:
        sent = await sender.post(f"http://127.0.0.1:{port}/", b"{}", {}, is_guarded=False)
        assert sent.result == "delivered"
