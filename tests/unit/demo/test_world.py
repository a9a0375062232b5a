"""The demo's world: its file loads and routes as told, and what is printed works when it is pasted."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from proxy.app import App
from proxy.config.load import load_text
from proxy.demo.provider import FakeProvider
from proxy.demo.world import World
from proxy.observe.logs import Log

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Curl:
    """A printed command line, as curl would read it."""

    method: str
    url: str
    headers: dict[str, str]
    data: str | None


def curl(command: str) -> Curl:
    """Read the options that the demo prints; any other one fails the test."""
    first, *words = shlex.split(command)
    assert first == "curl"
    method, url, data = "", "", None
    headers: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = words.pop(0)
        elif word != "-i":
            assert not word.startswith("-"), word
            assert not url, word
            url = word
    return Curl(method or ("GET" if data is None else "POST"), url, headers, data)


def commands(said: str) -> list[Curl]:
    """Every curl line, with its continuation."""
    return [curl(line) for line in re.findall(r"curl .*", said.replace("\\\n", " "))]


class Stage:
    """The demo as `outrider demo` runs it, in this process, with its words."""

    def __init__(self, world: World, app: App, said: str, session: aiohttp.ClientSession) -> None:
        self.world = world
        self.app = app
        self.said = said
        self.session = session
        self.commands = commands(said)

    async def run(self, command: Curl, **headers: str) -> tuple[int, dict[str, str], str]:
        async with self.session.request(
            command.method, command.url, headers={**command.headers, **headers}, data=command.data
        ) as answer:
            return answer.status, dict(answer.headers), await answer.text()

    async def _read(self, command: Curl, into: bytearray) -> None:
        async with self.session.post(command.url, headers=command.headers, data=command.data) as answer:
            async for piece in answer.content.iter_any():
                into += piece

    def printed(self, label: str) -> Curl:
        """The command behind a label of the list."""
        found = re.search(rf"^ +{label}: +(curl .*)$", self.said, re.MULTILINE)
        assert found is not None, label
        return curl(found[1])


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with World() as world:
        loaded = load_text(world.config(0, 0), "demo", {})
        assert loaded.config is not None
        app = App(loaded.config, log=Log("text", "error"))
        await app.start()
        assert app.listeners is not None
        said = world.said("0.1.0", app.listeners.data_port, app.listeners.admin_port)
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
                yield Stage(world, app, said, session)
        finally:
            await app.close()


async def test_the_file_loads_without_a_word_of_complaint() -> None:
    async with World() as world:
        loaded = load_text(world.config(8711, 8712), "demo", {})
    assert (loaded.errors, loaded.warnings) == ((), ())
    assert loaded.config is not None
    assert (loaded.config.listen.data_port, loaded.config.listen.admin_port) == (8711, 8712)
    assert [provider.disabled for provider in loaded.config.providers.values()] == [""] * 4


async def test_providers_end_with_the_world() -> None:
    async with World() as world:
        config = load_text(world.config(0, 0), "demo", {}).config
    assert config is not None
    for provider in config.providers.values():
        port = int(re.findall(r":(\d+)", provider.base_url)[0])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_world_that_cannot_begin_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[FakeProvider] = []
    start = FakeProvider.start

    async def failing(provider: FakeProvider) -> None:
        if len(started) == 2:
            raise OSError("no port left")
        await start(provider)
        started.append(provider)

    monkeypatch.setattr(FakeProvider, "start", failing)
    with pytest.raises(OSError, match="no port left"):
        async with World():
            pytest.fail("it began")
    for provider in started:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", provider.port)


async def test_what_is_printed_has_no_hole(stage: Stage) -> None:
    assert not re.search(r"\{\w*\}(?!')", stage.said)  # `{}` stands in one command, before a quote
    assert stage.app.listeners is not None
    assert f"http://127.0.0.1:{stage.app.listeners.data_port}" in stage.said
    assert len(stage.commands) == 6
    assert max(map(len, stage.said.splitlines())) <= 120


async def test_the_first_call_shows_the_promised_failover(stage: Stage) -> None:
    status, headers, text = await stage.run(stage.commands[0])
    assert status == 200
    assert len(json.loads(text)["choices"][0]["message"]["content"].split()) == 60
    promised = re.search(r"says so: (.*)\.$", stage.said, re.MULTILINE)
    assert promised is not None
    told = dict(item.split(": ") for item in promised[1].split(", "))
    assert told
    assert {name: headers[name] for name in told} == told


async def test_the_two_printed_headers_do_what_they_say(stage: Stage) -> None:
    ask = stage.commands[0]
    options = dict(re.findall(r"-H '([\w-]+): (\w+)'", stage.said.split("Add ")[1]))
    assert options == {"X-Explain": "true", "X-Max-Retries": "0"}
    _, headers, _ = await stage.run(ask, **{"X-Max-Retries": "0"})
    assert headers["X-Attempts"] == "2"
    _, headers, _ = await stage.run(ask, **{"X-Explain": "true"})
    kinds = [entry["kind"] for entry in json.loads(headers["X-Failover-Trace"])]
    assert kinds[0] == "first"
    assert kinds[-1] == "failover"


async def test_the_printed_lines_heal_and_break(stage: Stage) -> None:
    ask = stage.commands[0]
    assert (await stage.run(stage.printed("heal openai")))[0] == 200
    assert (await stage.run(ask))[1]["X-Served-By"] == "openai"

    assert (await stage.run(stage.printed("cut its stream")))[0] == 200
    assert ask.data is not None
    streamed = Curl(ask.method, ask.url, ask.headers, json.dumps({**json.loads(ask.data), "stream": True}))
    status, _, text = await stage.run(streamed)
    assert status == 200
    assert ": continued-by backup/demo-large" in text
    assert text.count('"content":" ') == 59  # all sixty words, the first without a space before it
    assert text.rstrip().endswith("data: [DONE]")

    assert (await stage.run(stage.printed("break it again")))[0] == 200
    assert (await stage.run(ask))[1]["X-Served-By"] == "backup"

    status, _, text = await stage.run(stage.printed("break backup"))
    assert status == 200
    assert json.loads(text)["fault"] == {"status": 503}
    headers = (await stage.run(ask))[1]
    assert headers["X-Served-By"] == "anthropic"
    assert "X-Translation-Warnings" not in headers

    status, _, text = await stage.run(stage.printed("what it knows"))
    assert status == 200
    assert [target["target"] for target in json.loads(text)["targets"]] == [
        "openai/gpt-4o",
        "backup/demo-large",
        "anthropic/claude-sonnet-5",
    ]


async def test_every_provider_of_the_file_can_be_reached(stage: Stage) -> None:
    base = stage.commands[0].url.removesuffix("/v1/chat/completions")
    message = {"model": "claude-sonnet-5", "max_tokens": 9, "messages": CHAT["messages"]}
    served = {}
    for path, body in (
        ("/v1/messages", message),
        ("/backup/v1/chat/completions", CHAT),
        ("/google/v1beta/models/gemini-3-pro:generateContent", {"contents": []}),
    ):
        command = Curl("POST", base + path, {"Content-Type": "application/json"}, json.dumps(body))
        status, headers, _ = await stage.run(command)
        served[path] = (status, headers["X-Served-By"])
    assert [*served.values()] == [(200, "anthropic"), (200, "backup"), (200, "google")]


@pytest.mark.parametrize("line", ["curl --data x http://a", "curl http://a http://b"])
def test_a_line_that_this_reader_does_not_understand_is_a_failure(line: str) -> None:
    with pytest.raises(AssertionError):
        curl(line)
