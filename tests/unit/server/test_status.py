"""The router of the status routes, the reading of their queries, and the readers of the health stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.base.exchange import Inbound
from proxy.config.compiled import Listen
from proxy.observe.entry import Entry
from proxy.observe.journal import Journal
from proxy.observe.narration import Narration
from proxy.observe.rollup import Rollup
from proxy.server import health_stream
from proxy.server.door import build_data_server
from proxy.server.health_stream import QUEUE_MAX, HealthStream
from proxy.server.reply import Reply
from proxy.server.status import Answer, Front, Query, Status, Wrong, is_ours, told


def inbound(path: str = "/v1/x", query: str = "", method: str = "GET") -> Inbound:
    return Inbound("req_1", method, path, query, (), b"", 0.0)


# Queries --------------------------------------------------------------------------------------------------------------


def test_a_query_is_read_once_and_to_its_end() -> None:
    query = Query(inbound(query="days=7&provider=a%20b&kind=x,y&since=2026-03-01T02:00:00%2B01:00&empty="))
    assert query.whole("days", 30, 1, 90) == 7
    assert query.text("provider") == "a b"
    assert query.words("kind", ("x", "y", "z")) == ("x", "y")
    assert query.moment("since", 0.0) == 1_772_326_800.0
    assert query.text("empty", "default") == "default"
    query.finish()
    query = Query(inbound())
    assert (query.whole("days", 30, 1, 90), query.words("kind", ()), query.moment("since", 5.0)) == (30, (), 5.0)


@pytest.mark.parametrize("text", ["1772326800", "1772326800.5", "2026-03-01T01:00:00Z", "2026-03-01T02:00:00+01:00"])
def test_a_moment_is_a_date_or_unix_seconds(text: str) -> None:
    assert Query(inbound(query=f"since={text}")).moment("since", 0.0) == pytest.approx(1_772_326_800, abs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("days=0", "days must be a whole number from 1 to 90"),
        ("days=1e3", "days must be a whole number from 1 to 90"),
        ("days=٣", "days must be a whole number from 1 to 90"),
        ("format=cvs", 'format must be one of json, csv; did you mean "csv"?'),
        ("kind=x,circut", "kind: 'circut' is none of x, circuit; did you mean \"circuit\"?"),
        ("since=yesterday", "since must be a date and time with its offset, such as 2026-03-01T02:00:00Z"),
        ("since=2026-03-01", "since must be a date and time with its offset, such as 2026-03-01T02:00:00Z"),
        ("dayz=3", "unknown parameter 'dayz'; did you mean \"days\"?"),
        ("zzzzzz=3", "unknown parameter 'zzzzzz'; allowed: days, format, kind, since"),
        ("&".join(f"p{n}=1" for n in range(65)), "a query has at most 64 parameters"),
    ],
)
def test_a_wrong_query_is_told_by_name(given: str, message: str) -> None:
    with pytest.raises(Wrong) as wrong:
        read(given)
    status, _, body = wrong.value.answer
    assert status == 400
    assert orjson.loads(body)["detail"] == message


def read(given: str) -> None:
    query = Query(inbound(query=given))
    query.whole("days", 30, 1, 90)
    query.text("format", "json", ("json", "csv"))
    query.words("kind", ("x", "circuit"))
    query.moment("since", 0.0)
    query.finish()


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/", True), ("/dashboard", True), ("/v1/health", True), ("/v1/health/stream", True), ("/v1/events", True),
        ("/v1/healthcheck", False), ("/v1/eventstream", False), ("/dashboards/x", False),
        ("/v1/chat/completions", False),
    ],
)  # fmt: skip
def test_our_paths_hide_no_provider(path: str, ours: bool) -> None:
    assert is_ours(path) is ours


# Routing over a real connection ---------------------------------------------------------------------------------------


async def shown(asked: Inbound) -> Answer:
    return told({"path": asked.path, "method": asked.method})


async def passed(asked: Inbound, reply: Reply) -> None:
    await reply.whole(200, [], b"the dispatcher")


@asynccontextmanager
async def served(status: Status, unwelcome: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    front = Front(status, passed, lambda asked: (401, [], b"a token is needed") if unwelcome else None)
    server = build_data_server(front, Listen(), time.monotonic, lambda: "req_1", lambda code: None)  # type: ignore[arg-type]
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = bound.sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        bound.close()
        await server.shutdown(0.1)


ROUTES = Status(
    read={"/v1/health": shown, "/v1/explain/": shown, "/": shown},
    write={"/v1/incidents/subscribe": shown, "/v1/incidents/subscriptions/": shown},
    may_write=lambda asked, reply: "" if asked.query == "token" else "an admin token is needed",
)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/health", 200),
        ("HEAD", "/v1/health", 200),
        ("POST", "/v1/health", 405),
        ("GET", "/v1/explain/req_1", 200),
        ("GET", "/v1/explain/req_1/more", 404),
        ("GET", "/v1/explain", 404),
        ("POST", "/v1/incidents/subscribe", 403),
        ("POST", "/v1/incidents/subscribe?token", 200),
        ("GET", "/v1/incidents/subscribe", 405),
        ("DELETE", "/v1/incidents/subscriptions/s1?token", 200),
        ("POST", "/v1/incidents/subscriptions/s1?token", 405),
        ("GET", "/v1/incidents", 404),
        ("POST", "/v1/chat/completions", 200),
    ],
)
async def test_every_method_and_path(method: str, path: str, status: int) -> None:
    async with served(ROUTES) as session, session.request(method, path) as response:
        assert response.status == status
        if status == 405:
            assert response.headers["Allow"]
        if path == "/v1/chat/completions":
            assert await response.read() == b"the dispatcher"


async def test_without_a_token_only_the_page_is_shown() -> None:
    async with served(ROUTES, unwelcome=True) as session:
        for path, status in (("/", 200), ("/v1/health", 401), ("/v1/chat/completions", 200)):
            async with session.get(path) as response:
                assert response.status == status


def test_routes_are_listed_with_their_methods() -> None:
    assert "DELETE /v1/incidents/subscriptions/" in ROUTES.paths
    assert "POST /v1/incidents/subscribe" in ROUTES.paths


# The stream's readers -------------------------------------------------------------------------------------------------


def journal() -> Journal:
    return Journal(Narration(lambda *of: None, time.monotonic), Rollup(lambda *of: None), time.time)


def stream(of: Journal, most: int = 10, size: int = 0) -> HealthStream:
    async def snapshot() -> tuple[bytes, int]:
        return b'"status":"healthy","pad":"%b"}' % (b"x" * size), of.last_id

    return HealthStream(of, snapshot, lambda provider: "inc_1" if provider == "a" else "", time.time, most)


def down(provider: str = "a", size: int = 0) -> Entry:
    return Entry(at=1.0, kind="provider_down", provider=provider, message="x" * size, detail={"reason": "timeout"})


async def test_a_websocket_gets_the_snapshot_what_it_missed_and_what_comes() -> None:
    book = journal()
    live = stream(book)
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        before = book.last_id
        book.take(down())
        book.take(Entry(at=2.0, kind="retry", provider="a"))
        async with session.ws_connect(f"/v1/health/stream?since={before}") as socket:
            snapshot = await socket.receive_json(timeout=5)
            assert (snapshot["event"], snapshot["id"], snapshot["missed"]) == ("snapshot", before, False)
            event = await socket.receive_json(timeout=5)
            assert event == {
                "event": "provider_down", "id": before + 1, "at": "1970-01-01T00:00:01.000Z", "kind": "provider_down",
                "provider": "a", "reason": "timeout", "incident": "inc_1",
            }  # fmt: skip
            book.take(down("b"))
            event = await socket.receive_json(timeout=5)
            assert (event["provider"], event["incident"]) == ("b", None)
            assert live.readers == 1
        async with asyncio.timeout(5):
            while live.readers:
                await asyncio.sleep(0)


async def test_a_reader_that_knows_more_than_the_snapshot_is_told_again() -> None:
    """A snapshot may have been made a moment ago for somebody else, and must not have the last word."""
    book = journal()
    before = book.last_id

    async def snapshot() -> tuple[bytes, int]:
        return b'"status":"healthy"}', before

    live = HealthStream(book, snapshot, lambda provider: "", time.time, 10)
    book.take(down())
    async with (
        served(Status(read={}, live={"/v1/health/stream": live.serve})) as session,
        session.ws_connect(f"/v1/health/stream?since={book.last_id}") as socket,
    ):
        first, second = [await socket.receive_json(timeout=5) for _ in range(2)]
    assert (first["id"], first["missed"]) == (before, False)
    assert (second["event"], second["id"]) == ("provider_down", before + 1)


async def test_a_number_that_was_never_given_here_is_told_and_not_repeated() -> None:
    """That of another replica behind the same address: what came after it is not known here."""
    book = journal()
    live = stream(book)
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        book.take(down())
        for since, missed in ((book.last_id, False), (book.last_id + 1, True), (2**53, True)):
            async with session.ws_connect(f"/v1/health/stream?since={since}") as socket:
                snapshot = await socket.receive_json(timeout=5)
                assert (snapshot["id"], snapshot["missed"]) == (book.last_id, missed)


@pytest.mark.parametrize("kind", ["sse", "websocket"])
async def test_a_reader_that_does_not_read_is_dropped_and_holds_nobody_up(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_stream, "HEARTBEAT_S", 5.0)
    book = journal()
    live = stream(book)
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        url = session._base_url
        assert url is not None
        lazy_reader, lazy_writer = await asyncio.open_connection("127.0.0.1", url.port, limit=1)
        upgrade = (
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        more = upgrade if kind == "websocket" else b""
        lazy_writer.write(b"GET /v1/health/stream HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
        async with session.ws_connect("/v1/health/stream") as socket:
            await socket.receive_json(timeout=5)
            async with asyncio.timeout(20):
                while live.readers < 2:
                    await asyncio.sleep(0)
                sent = 0
                while live.dropped["slow"] == 0:
                    book.take(down(size=400_000))
                    sent += 1
                    assert (await socket.receive_json())["event"] == "provider_down"
                assert sent < QUEUE_MAX + 100
                assert live.readers == 1
        assert lazy_reader is not None
        lazy_writer.close()
        with suppress(ConnectionError):
            await lazy_writer.wait_closed()


async def test_too_many_readers_are_told_so() -> None:
    live = stream(journal(), most=1)
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        async with session.ws_connect("/v1/health/stream") as socket:
            await socket.receive_json(timeout=5)
            async with session.get("/v1/health/stream") as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "15"
        assert live.dropped["refused"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "1", "Sec-WebSocket-Key": "x"},
        {"Upgrade": "websocket", "Connection": "close", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"},
    ],
)
async def test_a_handshake_that_is_none_is_refused(headers: dict[str, Any]) -> None:
    live = stream(journal())
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        async with session.get("/v1/health/stream", headers=headers) as response:
            assert response.status == 400
            assert (await response.json(content_type=None))["code"] == "invalid_handshake"
        assert live.readers == 0


async def test_silence_is_filled_with_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_stream, "HEARTBEAT_S", 0.05)
    live = stream(journal())
    async with served(Status(read={}, live={"/v1/health/stream": live.serve})) as session:
        async with session.ws_connect("/v1/health/stream") as socket:
            await socket.receive_json(timeout=5)
            assert (await socket.receive_json(timeout=5))["event"] == "heartbeat"
        async with session.get("/v1/health/stream") as response:
            text = b""
            async with asyncio.timeout(5):
                while b"event: heartbeat" not in text:
                    text += await response.content.readany()
