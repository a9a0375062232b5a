"""The fake provider, judged by the bytes that come out of it.

A raw client reads whatever comes until the connection ends; two client libraries that are not ours say whether the
healthy answers are what they claim to be.
"""

# ruff: noqa: E501  (one row of a table is one fault)
from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo import script, shapes
from proxy.demo.provider import FakeProvider, clogged_port, dead_port, mute_port
from proxy.demo.script import KEYS, Attempt, Fault, FaultError
from proxy.demo.shapes import TEXT, WORDS

CHAT = "/v1/chat/completions"
PATHS = {
    "chat": CHAT,
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse",
}


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(pause_s=0) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a raw client got before the connection ended."""

    raw: bytes
    is_reset: bool = False

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1]) if self.raw else 0

    def header(self, name: str) -> list[str]:
        lines = [line.partition(":") for line in self.head.split("\r\n")[1:]]
        return [value.strip() for key, _, value in lines if key.lower() == name]

    @property
    def rest(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        """Without chunk framing; what is left of a chunk that was cut off belongs to it."""
        return self.chunks[0] if self.header("transfer-encoding") else self.rest

    @property
    def has_last_chunk(self) -> bool:
        return self.chunks[1]

    @property
    def chunks(self) -> tuple[bytes, bool]:
        body, rest = b"", self.rest
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if int(size, 16) == 0:
                return body, True
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body, False

    @property
    def events(self) -> list[str]:
        return [event for event in self.body.decode("utf-8", "replace").split("\n\n") if event]

    @property
    def text(self) -> str:
        """The words of a chat stream; events that are no JSON say nothing."""
        said = []
        for event in self.events:
            try:
                choices = json.loads(event.removeprefix("data: ")).get("choices")
            except ValueError:
                continue
            said += [choice["delta"].get("content") or "" for choice in choices or []]
        return "".join(said)


def request(
    body: object = None, *, path: str = CHAT, method: str = "POST", headers: str = "Connection: close\r\n"
) -> bytes:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: p\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **more}


STREAM = chat(stream=True, stream_options={"include_usage": True})


async def send(provider: FakeProvider, data: bytes) -> Reply:
    """Send bytes and read until the connection ends, one way or the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    raw = bytearray()
    is_reset = False
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            while part := await reader.read(1 << 16):
                raw += part
    except ConnectionResetError:
        is_reset = True
    finally:
        writer.transport.abort()
    return Reply(raw=bytes(raw), is_reset=is_reset)


async def stream(provider: FakeProvider, **fault: Any) -> Reply:
    provider.script([Fault.from_json(fault)])
    return await send(provider, request(STREAM))


async def unary(provider: FakeProvider, **fault: Any) -> Reply:
    provider.script([Fault.from_json(fault)])
    return await send(provider, request(chat()))


# --- healthy -------------------------------------------------------------------------------------------------------


def test_the_healthy_answer_is_sixty_different_words() -> None:
    assert len(WORDS) == len(set(WORDS)) == 60
    assert any(len(word.encode()) > len(word) for word in WORDS)


@pytest.mark.parametrize("burst", [False, True])
async def test_a_healthy_chat_stream(burst: bool) -> None:
    async with FakeProvider(name="p", pause_s=0, burst=burst) as provider:
        reply = await send(provider, request(STREAM))
        two = await asyncio.gather(
            *(send(provider, request(STREAM, headers="")[:-1] + b"}" + request(STREAM)) for _ in "12")
        )
    assert (reply.status, reply.header("content-type")) == (200, ["text/event-stream; charset=utf-8"])
    assert reply.text == TEXT
    assert reply.has_last_chunk
    events = reply.events
    assert len(events) == 1 + 60 + 1 + 1 + 1
    assert json.loads(events[0][6:])["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(events[61][6:])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(events[62][6:])["usage"]["completion_tokens"] == 60
    assert events[63] == "data: [DONE]"
    assert {json.loads(e[6:])["id"] for e in events[:63]} == {"chatcmpl-p-0000000001"}
    assert {json.loads(e[6:])["model"] for e in events[:63]} == {"gpt-4o"}
    assert all(two_replies.raw.count(b"[DONE]") == 2 for two_replies in two), "two requests on one connection"


async def test_the_last_bytes_of_a_keep_alive_answer_end_where_the_next_begin(provider: FakeProvider) -> None:
    async with aiohttp.ClientSession() as session:
        for body in (chat(), STREAM, chat(), STREAM):
            async with session.post(provider.url + CHAT, json=body) as response:
                assert response.status == 200
                assert response.headers["x-provider"] == "openai"
                await response.read()
    assert [(a.connection, a.reused) for a in provider.attempts] == [(1, False), (1, True), (1, True), (1, True)]
    assert len({a.n for a in provider.attempts}) == 4


async def test_embeddings_in_both_encodings_agree(provider: FakeProvider) -> None:
    async with aiohttp.ClientSession() as session:
        asked = {"model": "e", "input": ["a", "b"], "dimensions": 16}
        plain = await (await session.post(provider.url + "/v1/embeddings", json=asked)).json()
        coded = await (
            await session.post(provider.url + "/v1/embeddings", json=asked | {"encoding_format": "base64"})
        ).json()
    vectors = [item["embedding"] for item in plain["data"]]
    assert len(vectors) == 2
    assert vectors[0] != vectors[1]
    assert [list(struct.unpack("<16f", base64.b64decode(item["embedding"]))) for item in coded["data"]] == vectors


async def test_an_official_client_reads_every_openai_answer(provider: FakeProvider) -> None:
    openai = pytest.importorskip("openai")
    client = openai.AsyncOpenAI(base_url=provider.url + "/v1", api_key="k", max_retries=0)
    tools: Any = [
        {
            "type": "function",
            "function": {"name": name, "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        }
        for name in ("one", "two")
    ]
    ask: Any = {"model": "m", "messages": [{"role": "user", "content": "Call the tools, please"}]}
    async with client:
        whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert whole.choices[0].message.content == TEXT
        called = await client.chat.completions.create(**ask, tools=tools)
        assert called.choices[0].finish_reason == "tool_calls"
        assert [c.function.name for c in called.choices[0].message.tool_calls] == ["one", "two"]
        single = await client.chat.completions.create(**ask, tools=tools, parallel_tool_calls=False)
        assert len(single.choices[0].message.tool_calls) == 1
        arguments: dict[int, str] = {}
        async for chunk in await client.chat.completions.create(**ask, tools=tools, stream=True):
            for call in chunk.choices[0].delta.tool_calls or []:
                arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        assert arguments == {0: '{"n":1}', 1: '{"n":1}'}
        response = await client.responses.create(model="m", input="hi")
        assert response.output_text == TEXT
        said = ""
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            said += event.delta if event.type == "response.output_text.delta" else ""
        assert said == TEXT
        vectors = await client.embeddings.create(model="e", input=["a", "b"])
        assert vectors.data[0].embedding == shapes._vector(0, shapes.EMBEDDING_SIZE)
        assert [model.id for model in (await client.models.list()).data] == list(shapes.MODELS["openai"])
    await provider.wait_idle()


async def test_anthropic_speaks_its_events_in_order(provider: FakeProvider) -> None:
    asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    whole = json.loads((await send(provider, request(asked, path=PATHS["anthropic"]))).body)
    assert (whole["content"][0]["text"], whole["stop_reason"]) == (TEXT, "end_turn")
    reply = await send(provider, request(asked | {"stream": True}, path=PATHS["anthropic"]))
    named = [event.split("\n") for event in reply.events]
    names = [lines[0].removeprefix("event: ") for lines in named]
    values = [json.loads(lines[1].removeprefix("data: ")) for lines in named]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[3:63] == ["content_block_delta"] * 60
    assert names[63:] == ["content_block_stop", "message_delta", "message_stop"]
    assert [value["type"] for value in values] == names
    assert "".join(value["delta"]["text"] for value in values[3:63]) == TEXT
    tool = {"name": "f", "input_schema": {"properties": {"c": {"enum": ["x", "y"]}}}}
    forced = asked | {"tools": [tool], "tool_choice": {"type": "any"}}
    called = json.loads((await send(provider, request(forced, path=PATHS["anthropic"]))).body)
    assert (called["stop_reason"], called["content"][0]["input"]) == ("tool_use", {"c": "x"})


async def test_gemini_ends_with_a_finish_reason_and_no_mark(provider: FakeProvider) -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    reply = await send(provider, request(asked, path=PATHS["gemini"]))
    values = [json.loads(event.removeprefix("data: ")) for event in reply.events]
    assert "".join(v["candidates"][0]["content"]["parts"][0]["text"] for v in values[:60]) == TEXT
    assert values[60]["candidates"][0]["finishReason"] == "STOP"
    assert values[60]["usageMetadata"]["totalTokenCount"] == shapes.PROMPT_TOKENS + 60
    assert len(values) == 61
    assert provider.attempts[0].model == "gemini-3-pro"
    whole = json.loads((await send(provider, request(asked, path="/v1beta/models/g:generateContent"))).body)
    assert whole["candidates"][0]["content"]["parts"] == [{"text": TEXT}]


async def test_any_other_path_is_told_back(provider: FakeProvider) -> None:
    told = json.loads((await send(provider, request(b"abc", path="/v1/files?x=1", method="PUT"))).body)
    assert (told["method"], told["path"], told["body_bytes"]) == ("PUT", "/v1/files?x=1", 3)
    assert told["sha256"] == shapes.sha256(b"abc")
    assert ["Host", "p"] in told["headers"]


# --- faults on the wire --------------------------------------------------------------------------------------------

Check = Callable[[Reply], object]


def words(count: int) -> str:
    return " ".join(WORDS[:count])


def ends_early(count: int) -> Check:
    return lambda r: r.text == words(count) and not r.has_last_chunk and b"[DONE]" not in r.raw and not r.is_reset


STREAMS: dict[str, tuple[dict[str, Any], Check]] = {
    "S08 cut by close": ({"cut_after_words": 40}, ends_early(40)),
    "S08 cut by reset": (
        {"cut_after_words": 40, "cut": "reset"},
        lambda r: r.text == words(40) and r.is_reset,
    ),
    "S08 cut inside a character": (
        {"cut_after_words": 40, "cut": "mid_char"},
        lambda r: r.body.endswith(b'"content":"\xc3') and r.text == words(40) and not r.has_last_chunk,
    ),
    "S08 orderly end without an end mark": (
        {"cut_after_words": 40, "cut": "end"},
        lambda r: r.text == words(40) and r.has_last_chunk and b"[DONE]" not in r.raw and b'"stop"' not in r.raw,
    ),
    "S08 going on from word 41": ({"from_word": 41}, lambda r: r.text == " ".join(WORDS[40:])),
    "S08 another text": ({"text": "quite another"}, lambda r: r.text == "quite another"),
    "S08 cut before the first word": ({"cut_after_words": 0}, lambda r: len(r.events) == 1 and not r.has_last_chunk),
    "S09 stall, then close": ({"stall_after_words": 20, "stall_s": 0.01, "cut_after_words": 20}, ends_early(20)),
    "S09 pings in the stall": (
        {"stall_after_words": 20, "stall_s": 0.1, "stall_ping_s": 0.01},
        lambda r: r.body.count(b": ping\n\n") >= 2 and r.text == TEXT,
    ),
    "S10 malformed": (
        {"malformed_at_word": 10},
        lambda r: r.text == TEXT and r.events[10].startswith('data: {"id": "broken') and b"[DONE]" in r.raw,
    ),
    "S10 split": ({"split_bytes": 1}, lambda r: r.text == TEXT and r.rest.startswith(b"1\r\nd\r\n1\r\na\r\n")),
    "S10 CR LF": (
        {"line_end": "crlf"},
        lambda r: r.body.endswith(b"data: [DONE]\r\n\r\n") and r.body.count(b"\r\n\r\n") == 64 and b"\n\n" not in r.body,
    ),
    "S10 large event": (
        {"big_event_bytes": 1 << 20},
        lambda r: len(r.events[10]) > 1 << 20 and r.text == TEXT and json.loads(r.events[10][6:]),
    ),
    "S10 U+2028": (
        {"u2028": True},
        lambda r: r.body.count("\u2028".encode()) == 6 and r.text.split() == list(WORDS),
    ),
    "S11 no mark": ({"no_done": True}, lambda r: b"[DONE]" not in r.raw and b'"stop"' in r.raw and r.has_last_chunk),
    "S11 neither mark nor reason": (
        {"no_done": True, "no_finish": True},
        lambda r: b"[DONE]" not in r.raw and b'"stop"' not in r.raw and r.text == TEXT and r.has_last_chunk,
    ),
    "usage missing": ({"no_usage": True}, lambda r: b"usage" not in r.raw and b"[DONE]" in r.raw),
    "S17 error first": (
        {"error_after_words": 0, "error": "rate_limit"},
        lambda r: r.status == 200 and len(r.events) == 1 and '"rate_limit_exceeded"' in r.events[0],
    ),
    "S35 error after 20 words": (
        {"error_after_words": 20, "error": "rate_limit"},
        lambda r: r.text == words(20) and '"error"' in r.events[-1] and b"[DONE]" not in r.raw and r.has_last_chunk,
    ),
    "error that is no event": (
        {"error_after_words": 3, "bare_error": True},
        lambda r: r.events[-1].startswith('{"error"') and r.text == words(3),
    ),
    "S18 preamble": (
        {"preamble": ["comment", "ping", "role", "empty"], "preamble_count": 8},
        lambda r: r.text == TEXT and r.body.count(b'"choices":[]}') == 3 and r.body.count(b'"role"') == 3,
    ),
    "S18 preamble while waiting, then an error": (
        {"preamble": ["ping"], "preamble_every_s": 0.01, "first_word_s": 0.1, "error_after_words": 0},
        lambda r: r.body.startswith(b": ping\n\n: ping\n\n") and r.events[-1].startswith('data: {"error"') and not r.text,
    ),
    "S18 much of nothing": (
        {"preamble": ["comment"], "preamble_count": 100, "preamble_pad_bytes": 10_000},
        lambda r: len(r.body) > 1_000_000 and r.text == TEXT,
    ),
    "S19 login page": (
        {"html_bytes": 2048},
        lambda r: r.status == 200 and len(r.body) == 2048 and b"<html" in r.body and "text/html" in r.head,
    ),
    "S20 no choices": ({"empty": "no_choices"}, lambda r: r.text == "" and b"[DONE]" in r.raw and len(r.events) == 2),
    "S20 null content": ({"empty": "null_content"}, lambda r: r.text == "" and b'"stop"' in r.raw),
    "S20 straight to the mark": ({"empty": "done"}, lambda r: r.body == b"data: [DONE]\n\n"),
    "S20 zero bytes": ({"empty": "zero_bytes"}, lambda r: r.body == b"" and r.has_last_chunk and r.status == 200),
    "S20 white space": ({"empty": "whitespace"}, lambda r: r.body and not r.body.strip()),
    "S20 refusal": ({"answer": "refusal"}, lambda r: b'"refusal":"I"' in r.raw and r.text == ""),
    "S20 only reasoning": ({"answer": "length"}, lambda r: b'"finish_reason":"length"' in r.raw and r.text == ""),
    "S20 tool call": ({"answer": "tool_call"}, lambda r: b'"tool_calls"' in r.raw and b'"name":"lookup"' in r.raw),
    "S22 gzip per word": (
        {"encoding": "gzip"},
        lambda r: Reply(raw=b"X\r\n\r\n" + zlib.decompress(r.body, 31)).text == TEXT and r.header("content-encoding") == ["gzip"],
    ),
    "S22 damaged gzip": (
        {"encoding": "gzip", "damage_after_words": 40},
        lambda r: damaged(r.body, words(40)) and r.has_last_chunk,
    ),
    "S22 unknown encoding": ({"encoding": "br"}, lambda r: b"data" not in r.body and r.header("content-encoding") == ["br"]),
    "S22 a lie": ({"encoding": "lie"}, lambda r: r.text == TEXT and r.header("content-encoding") == ["gzip"]),
    "S36 large stream": ({"big_body_bytes": 3 << 20}, lambda r: r.text == "x" * (3 << 20) and b"[DONE]" in r.raw),
    "length of a stream": ({"framing": "length"}, lambda r: r.header("content-length") == [str(len(r.rest))] and r.text == TEXT),
    "until the end": ({"framing": "close"}, lambda r: not r.header("content-length") and r.text == TEXT and r.header("connection")),
    "cut after bytes": ({"cut_after_bytes": 100}, lambda r: len(r.body) == 100 and not r.has_last_chunk),
    "S29 reset after the head": ({"cut_after_bytes": 0, "cut": "reset"}, lambda r: r.status == 200 and not r.body and r.is_reset),
}  # fmt: skip


def damaged(body: bytes, text: str) -> bool:
    inflate = zlib.decompressobj(31)
    said = b""
    try:
        for at in range(len(body)):
            said += inflate.decompress(body[at : at + 1])
    except zlib.error:
        return Reply(raw=b"X\r\n\r\n" + said).text == text
    return False


@pytest.mark.parametrize(("fault", "check"), STREAMS.values(), ids=STREAMS.keys())
async def test_fault_in_a_stream(provider: FakeProvider, fault: dict[str, Any], check: Check) -> None:
    reply = await stream(provider, **fault)
    assert check(reply), reply
    healthy = await send(provider, request(STREAM))
    assert healthy.text == TEXT, "one fault is one attempt"
    assert [a.ended for a in provider.attempts][1] == "complete"


UNARY: dict[str, tuple[dict[str, Any], Check]] = {
    "S01 told to wait": (
        {"status": 429, "headers": {"Retry-After": "2"}},
        lambda r: (r.status, r.header("retry-after")) == (429, ["2"]) and b"rate_limit_exceeded" in r.body,
    ),
    "S04 status": ({"status": 503}, lambda r: r.status == 503 and b"server_is_overloaded" in r.body),
    "L06 odd status": ({"status": 418}, lambda r: r.status == 418 and b"invalid_request_error" in r.body),
    "S05 reset": ({"reset": True}, lambda r: r.is_reset and not r.raw),
    "close without an answer": ({"close": True}, lambda r: not r.is_reset and not r.raw),
    "silence ends": ({"silence_s": 0.01}, lambda r: json.loads(r.body)),
    "head, then the body": ({"body_after_s": 0.01}, lambda r: json.loads(r.body)),
    "S12 context": ({"error": "context_length"}, lambda r: r.status == 400 and b"context_length_exceeded" in r.body),
    "S13 policy": ({"error": "content_policy"}, lambda r: r.status == 400 and b"content_policy_violation" in r.body),
    "S17 error in a 200": ({"error": "internal", "status": 200}, lambda r: r.status == 200 and b'"server_error"' in r.body),
    "S19 error page": ({"status": 502, "html_bytes": 5000}, lambda r: r.status == 502 and len(r.body) == 5000),
    "S20 null content": ({"empty": "null_content"}, lambda r: json.loads(r.body)["choices"][0]["message"]["content"] is None),
    "S20 zero bytes": ({"empty": "zero_bytes"}, lambda r: r.header("content-length") == ["0"] and not r.body),
    "S21 short": ({"body": "x" * 400, "length_off": 600}, lambda r: r.header("content-length") == ["1000"] and len(r.rest) == 400),
    "S21 long": ({"body": "x" * 1000, "length_off": -600}, lambda r: r.header("content-length") == ["400"] and len(r.rest) == 1000),
    "S21 no last chunk": ({"no_last_chunk": True}, lambda r: json.loads(r.body) and not r.has_last_chunk and not r.is_reset),
    "S21 two lengths": ({"two_lengths": True}, lambda r: len(set(r.header("content-length"))) == 2),
    "both framings": ({"framing": "both"}, lambda r: r.header("content-length") and r.has_last_chunk and json.loads(r.body)),
    "cut body": ({"cut_after_words": 40}, lambda r: r.rest.endswith(WORDS[39].encode()) and len(r.rest) < int(r.header("content-length")[0])),
    "stalled and cut body": (
        {"stall_after_words": 40, "stall_s": 0.01, "cut_after_words": 40},
        lambda r: r.rest.endswith(WORDS[39].encode()),
    ),
    "S22 gzip": ({"encoding": "gzip"}, lambda r: json.loads(zlib.decompress(r.rest, 31)) and r.header("content-length") == [str(len(r.rest))]),
    "S22 bomb": (
        {"encoding": "gzip", "bomb_bytes": 16 << 20},
        lambda r: len(r.raw) < 1 << 18 and len(zlib.decompress(r.body, 31)) > 16 << 20 and json.loads(zlib.decompress(r.body, 31)),
    ),
    "S22 damage": ({"encoding": "gzip", "damage_after_words": 40}, lambda r: b"\xff" * 16 in r.rest and r.header("content-length") == [str(len(r.rest))]),
    "S23 date": (
        {"status": 429, "retry_after_date_s": 2, "date_skew_s": 3600},
        lambda r: date(r.header("retry-after")[0]) - date(r.header("date")[0]) == 2,
    ),
    "S24 spoof": ({"spoof": True}, lambda r: all(r.header(name.lower()) == [value] for name, value in script.SPOOFED)),
    "headers repeated": ({"headers": {"Set-Cookie": ["a", "b"], "x-provider": []}}, lambda r: r.header("set-cookie") == ["a", "b"] and not r.header("x-provider")),
    "early hints": ({"early_hints": 2}, lambda r: r.raw.count(b"HTTP/1.1 103 ") == 2 and b"\r\n\r\nHTTP/1.1 200 OK" in r.raw),
    "status line": ({"status_line": "HTTP/9.9 abc"}, lambda r: r.raw.startswith(b"HTTP/9.9 abc\r\n")),
    "junk in the head": ({"raw_head": "no colon here\r\n"}, lambda r: b"\r\nno colon here\r\n\r\n" in r.raw),
    "raw": ({"raw": "220 smtp ready\r\n"}, lambda r: r.raw == b"220 smtp ready\r\n"),
    "bytes after the end": ({"after_end": "HTTP/1.1 500 Evil\r\n\r\n"}, lambda r: r.rest.endswith(b"}HTTP/1.1 500 Evil\r\n\r\n")),
    "204 with a body": ({"status": 204, "body": "surprise"}, lambda r: r.status == 204 and r.rest == b"surprise"),
    "204 without": ({"status": 204}, lambda r: r.status == 204 and not r.rest and not r.header("content-length")),
    "101": ({"status": 101}, lambda r: r.status == 101 and not r.rest),
}  # fmt: skip


def date(text: str) -> float:
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text).timestamp()


@pytest.mark.parametrize(("fault", "check"), UNARY.values(), ids=UNARY.keys())
async def test_fault_in_one_piece(provider: FakeProvider, fault: dict[str, Any], check: Check) -> None:
    reply = await unary(provider, **fault)
    assert check(reply), reply


@pytest.mark.parametrize("api", PATHS)
async def test_an_error_inside_a_stream_speaks_the_dialect(provider: FakeProvider, api: str) -> None:
    asked = {**STREAM, "input": "hi"}
    provider.script([Fault(error_after_words=5, error="overloaded"), Fault(error="overloaded")])
    inside = await send(provider, request(asked, path=PATHS[api]))
    whole = await send(provider, request(asked, path=PATHS[api]))
    expected = {
        "chat": ("server_is_overloaded", 503),
        "responses": ("server_is_overloaded", 503),
        "anthropic": ("overloaded_error", 529),
        "gemini": ("UNAVAILABLE", 503),
    }[api]
    tail = "\n".join(inside.events[-2:])
    assert inside.status == 200
    assert expected[0] in tail
    assert ("event: error\n" in tail) == (api in ("anthropic", "responses"))
    assert ("event: response.failed\n" in tail) == (api == "responses")
    assert (expected[0] in whole.body.decode(), whole.status) == (True, expected[1])


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("kind", script.ANSWERS + script.EMPTIES + ("cut",))
async def test_every_dialect_can_say_every_odd_answer(provider: FakeProvider, api: str, kind: str) -> None:
    fault = (
        {"cut_after_words": 3, "cut": "mid_char"}
        if kind == "cut"
        else {"answer" if kind in script.ANSWERS else "empty": kind}
    )
    provider.default = Fault.from_json(fault)
    streamed = await send(provider, request({**STREAM, "input": "hi"}, path=PATHS[api]))
    path = PATHS[api].replace("streamGenerateContent?alt=sse", "generateContent")
    whole = await send(provider, request({**chat(), "input": "hi"}, path=path))
    assert (streamed.status, whole.status) == (200, 200)
    assert (WORDS[1].encode() in streamed.body) == (kind in ("text", "cut", "reasoning"))
    assert (WORDS[1].encode() in whole.body) == (kind in ("text", "cut", "reasoning"))
    if kind == "cut":
        assert streamed.body.endswith(b"\xc3")
    elif kind not in ("zero_bytes", "whitespace"):
        json.loads(whole.body)
        lines = [line[6:] for line in streamed.body.decode().split("\n") if line.startswith("data: {")]
        assert all(json.loads(line) for line in lines)


# --- what a raw table cannot show ----------------------------------------------------------------------------------


async def test_silence_lasts_until_the_caller_leaves_and_the_log_says_when(provider: FakeProvider) -> None:
    provider.default = Fault.from_json({"silence_s": "forever"})
    _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(request(chat()))
    (attempt,) = await provider.wait_attempts(1)
    assert (attempt.ended, attempt.first_byte_at, provider.connections_in_use) == ("", None, 1)
    writer.close()
    (attempt,) = await provider.wait_attempts(1, ended=True)
    assert (attempt.ended, attempt.status, provider.connections_in_use) == ("peer_closed", 0, 0)
    assert attempt.peer_closed_at is not None
    assert attempt.body_at is not None
    assert attempt.at <= attempt.body_at <= attempt.peer_closed_at == attempt.ended_at
    await provider.wait(lambda: provider.connections_open == 0)


@pytest.mark.parametrize(
    "fault",
    [{"body_after_s": "forever"}, {"first_word_s": "forever"}, {"stall_after_words": 7}, {"hold_open_s": "forever"}],
)
async def test_a_caller_that_resets_in_the_middle_is_seen_at_once(
    provider: FakeProvider, fault: dict[str, Any]
) -> None:
    provider.default = Fault.from_json(fault)
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(request(STREAM))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    if "stall_after_words" in fault:
        await reader.readuntil(WORDS[6].encode())
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    (attempt,) = await provider.wait_attempts(1, ended=True)
    assert attempt.ended in ("peer_reset", "peer_closed")
    assert attempt.words == {"stall_after_words": 7, "hold_open_s": 60}.get(next(iter(fault)), 0)


async def test_S29_a_reused_connection_is_dropped_and_a_fresh_one_is_served(provider: FakeProvider) -> None:
    for how in ("close", "reset"):
        provider.default = Fault.from_json({"drop_reused": how})
        twice = request(chat(), headers="") + request(chat())
        reply = await send(provider, twice)
        assert reply.raw.count(b"HTTP/1.1 200 OK") <= 1
        assert reply.is_reset == (how == "reset")
    ends = [(a.reused, a.ended) for a in provider.attempts]
    assert ends == [(False, "complete"), (True, "closed"), (False, "complete"), (True, "reset")]


async def test_S29_an_idle_connection_is_closed_without_notice(provider: FakeProvider) -> None:
    provider.default = Fault(close_idle_s=0)
    reply = await send(provider, request(chat(), headers=""))
    assert reply.status == 200
    assert not reply.header("connection")
    await provider.wait(lambda: provider.connections_open == 0)
    assert provider.attempts[0].peer_closed_at is None, "it was we who closed"


async def test_an_answer_comes_before_the_request_is_over(provider: FakeProvider) -> None:
    provider.script([Fault(early_answer=True, status=413)])
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: p\r\nContent-Length: 100000\r\n\r\nonly this")
    assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    writer.write(b"x" * 50_000)
    writer.close()
    await provider.wait(lambda: provider.connections_open == 0)


async def test_a_slow_reader_takes_its_time(provider: FakeProvider) -> None:
    provider.script([Fault(read_bytes_per_s=1_000_000)])
    body = json.dumps(chat(user="x" * 100_000)).encode()
    reply = await send(provider, request(body))
    (attempt,) = provider.attempts
    assert reply.status == 200
    assert attempt.sha256 == shapes.sha256(body)
    assert attempt.body_at is not None
    assert attempt.body_at - attempt.at > 0.02, "100 kB at 1 MB/s, less what came with the head"


async def test_a_slow_caller_slows_us_down_and_a_large_answer_is_not_held_in_memory() -> None:
    async with FakeProvider(pause_s=0) as provider:
        provider.default = Fault(big_body_bytes=64 << 20)
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port, limit=1 << 16)
        writer.write(request(STREAM))
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(50):
            await asyncio.sleep(0)
        (attempt,) = provider.attempts
        assert not attempt.ended
        (connection,) = provider._connections
        assert connection.words * (16 << 10) < 32 << 20, "most of the 64 MiB waits for the caller"
        assert connection.transport.get_write_buffer_size() < 1 << 18
        writer.transport.abort()
        await provider.wait_idle()


@pytest.mark.parametrize("at", range(1, 60, 7))
async def test_a_request_may_come_in_any_pieces(provider: FakeProvider, at: int) -> None:
    chunked = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    for part in (chunked[:at], chunked[at : 2 * at], chunked[2 * at :]):
        writer.write(part)
        await asyncio.sleep(0.001)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK")
    (attempt,) = await provider.wait_attempts(1, ended=True)
    assert (attempt.body, attempt.sha256) == (b"abcde", shapes.sha256(b"abcde"))


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/2.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"POST / HTTP/1.1\r\nA : b\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    ],
)
async def test_what_two_parsers_could_read_differently_is_refused_and_logged(
    provider: FakeProvider, bad: bytes
) -> None:
    reply = await send(provider, bad)
    assert reply.status == 400
    assert [a.ended for a in provider.attempts] == ["bad_request"]
    assert provider.connections_in_use == 0


async def test_continue_is_said_when_it_is_expected(provider: FakeProvider) -> None:
    head = b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_large_bodies_leave_length_and_digest(provider: FakeProvider) -> None:
    body = json.dumps(chat(pad="x" * (2 << 20))).encode()
    await send(provider, request(body))
    (attempt,) = provider.attempts
    assert (attempt.body, attempt.body_bytes, attempt.sha256) == (b"", len(body), shapes.sha256(body))
    assert attempt.model == "gpt-4o"


# --- who is meant, and for how long ---------------------------------------------------------------------------------


async def statuses(provider: FakeProvider, count: int, body: Any = None, headers: str = "") -> list[int]:
    one = request(body or chat(), headers=headers + "Connection: close\r\n")
    return [(await send(provider, one)).status for _ in range(count)]


async def test_a_script_is_one_fault_per_attempt_and_its_last_may_stay(provider: FakeProvider) -> None:
    provider.script([Fault(status=500), None, Fault(status=503, times=2)])
    assert await statuses(provider, 5) == [500, 200, 503, 503, 200]
    provider.script([None, Fault(status=429)], repeat_last=True)
    assert await statuses(provider, 4) == [200, 429, 429, 429]
    provider.heal()
    provider.default = Fault(status=500)
    provider.script([None])
    assert await statuses(provider, 2) == [200, 500]


async def test_conditions_choose_the_attempts(provider: FakeProvider) -> None:
    provider.default = Fault(status=404, only_model="gone")
    assert await statuses(provider, 1, chat(model="gone")) == [404]
    assert await statuses(provider, 1) == [200]
    provider.default = Fault(error="quota", only_key="key-1")
    assert await statuses(provider, 1, headers="Authorization: Bearer key-1\r\n") == [429]
    assert await statuses(provider, 1, headers="X-Api-Key: key-2\r\n") == [200]
    provider.default = Fault(error="invalid_request", only_prefill=True)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "harbour"}]
    assert await statuses(provider, 1, chat(messages=turns)) == [400]
    assert await statuses(provider, 1) == [200]
    provider.default = Fault(status=413, only_body_over=1000)
    assert await statuses(provider, 1, chat(user="x" * 1000)) == [413]
    assert await statuses(provider, 1) == [200]
    provider.default = Fault(status=500, one_in=3)
    assert sorted(await statuses(provider, 6)) == [200] * 4 + [500] * 2
    provider.script([Fault(status=500, only_model="gone")])
    provider.default = None
    assert await statuses(provider, 1) == [200], "not meant, not used up"
    assert await statuses(provider, 1, chat(model="gone")) == [500]


async def test_a_hook_sees_the_body_and_goes_before_the_script(provider: FakeProvider) -> None:
    seen: list[Attempt] = []

    def hook(attempt: Attempt) -> Fault | None:
        seen.append(attempt)
        return Fault(status=402) if b"hi" in attempt.body else None

    provider.hook = hook
    provider.default = Fault(status=503)
    assert await statuses(provider, 1) == [402]
    assert await statuses(provider, 1, chat(messages=[])) == [503]
    assert [a.model for a in seen] == ["gpt-4o", "gpt-4o"]


@pytest.mark.parametrize(
    ("fault", "on"),
    [
        (Fault(), [True, True, True, True]),
        (Fault(for_s=60), [True, True, False, False]),
        (Fault(flap_s=3, for_s=60), [True, False, False, False]),
        (Fault(flap_s=3), [True, False, True, False]),
    ],
)
def test_plans_over_time(fault: Fault, on: list[bool]) -> None:
    assert [fault.is_on(age) for age in (2.9, 3.0 if fault.flap_s else 59.9, 60.0, 63.0)] == on


async def test_S15_an_outage_ends_by_itself(provider: FakeProvider) -> None:
    provider.outage(0.3)
    assert await statuses(provider, 1) == [503]
    until = asyncio.get_running_loop().time() + 0.31
    while (left := until - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(left)
    assert await statuses(provider, 1) == [200]


# --- the vocabulary ------------------------------------------------------------------------------------------------


def test_every_key_is_a_field_and_is_documented() -> None:
    assert [f.name for f in fields(Fault)] == list(KEYS)
    text = script.__doc__ or ""
    rows = {line.split("  ")[0].strip() for line in text.splitlines() if line and line[0].islower()}
    documented = {name.strip() for row in rows for name in row.split(",")}
    assert set(KEYS) <= documented, set(KEYS) - documented


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], ["must be a JSON object, not a list"]),
        ({"staus": 503}, ["no key 'staus', did you mean status?"]),
        (
            {"status": "503", "pause_s": -1},
            ["status must be a whole number from 100 to 999", "pause_s must be seconds"],
        ),
        ({"silence_s": float("nan")}, ["silence_s must be seconds"]),
        ({"silence_s": 10**400}, ["silence_s must be seconds"]),
        ({"reset": 1}, ["reset must be true or false"]),
        ({"status": True}, ["status must be a whole number"]),
        ({"cut": "reset"}, ["cut needs cut_after_words"]),
        ({"headers": {"a": 1}}, ["headers must be an object"]),
        ({"preamble": ["nonsense"]}, ["preamble must be a list out of comment"]),
        ({"early_answer": True, "only_model": "m"}, ["act before the body"]),
        ({"length_off": 0.5}, ["length_off must be a whole number"]),
    ],
)
def test_a_fault_that_cannot_be_meant_is_named(value: object, words: list[str]) -> None:
    with pytest.raises(FaultError) as caught:
        Fault.from_json(value)
    assert all(part in str(caught.value) for part in words), caught.value


def test_the_constructor_checks_the_same() -> None:
    with pytest.raises(FaultError, match="status must be"):
        Fault(status=7)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), json_values, max_size=4))
def test_from_json_refuses_or_gives_back_what_it_took(value: dict[str, Any]) -> None:
    try:
        fault = Fault.from_json(value)
    except FaultError:
        return
    assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault


@given(
    st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()), st.sampled_from(sorted(PATHS))
)
def test_no_body_confuses_the_reading_of_a_request(body: bytes, api: str) -> None:
    asked = shapes.read(PATHS[api], body)
    say = script.say_of(None, "p", 11)
    json.loads(shapes.unary(asked, say))
    assert shapes.stream(asked, say)[-1].kind in ("done", "finish")


# --- control, life, ports ------------------------------------------------------------------------------------------


async def test_control_over_http(provider: FakeProvider) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:

        async def fault(value: object) -> tuple[int, dict[str, Any]]:
            async with session.post(provider.url + "/_demo/fault", json=value) as response:
                return response.status, await response.json()

        async def ask() -> int:
            async with session.post(provider.url + CHAT, json=chat()) as response:
                return response.status

        async def log(query: str = "") -> dict[str, Any]:
            async with session.get(provider.url + "/_demo/log" + query) as response:
                value: dict[str, Any] = await response.json()
                return value

        assert (await fault({"status": 429, "headers": {"Retry-After": "2"}, "times": 1}))[0] == 200
        assert [await ask(), await ask()] == [429, 200]
        assert (await fault({"status": 503}))[1]["fault"] == {"status": 503}
        assert [await ask(), await ask()] == [503, 503]
        assert (await fault({}))[1]["fault"] == {}
        assert await ask() == 200
        assert (await fault([{"status": 500}, None]))[0] == 200
        assert [await ask(), await ask()] == [500, 200]
        status, answer = await fault({"stats": 1})
        assert (status, "did you mean status" in answer["error"]["message"]) == (400, True)
        hidden, plain = await log(), await log("?raw=1")
        assert len(hidden["attempts"]) == hidden["attempts_total"] == 7, "control requests are no attempts"
        assert "secret" not in json.dumps(hidden)
        assert "Bearer secret" in json.dumps(plain)
        assert hidden["attempts"][0]["fault"]["headers"] == {"Retry-After": ["2"]}


async def test_S26_a_stopped_provider_refuses_and_comes_back_on_its_port() -> None:
    provider = FakeProvider(pause_s=0)
    await provider.start()
    port = provider.port
    provider.default = Fault.from_json({"silence_s": "forever"})
    waiting = asyncio.create_task(send(provider, request(chat())))
    await provider.wait_attempts(1)
    await provider.stop()
    assert not (await waiting).raw
    assert [a.ended for a in provider.attempts] == ["stopped"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    provider.heal()
    async with provider:
        assert provider.port == port
        assert await statuses(provider, 1) == [200]
    assert provider.connections_open == provider.connections_in_use == 0


async def test_ports_where_nothing_answers() -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", dead_port())
    assert dead_port() != dead_port()
    with mute_port() as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
    with clogged_port() as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.open_connection("127.0.0.1", port)


async def test_without_a_log_it_counts_all_the_same() -> None:
    async with FakeProvider(pause_s=0, keep_log=False, burst=True) as provider:
        assert await statuses(provider, 3) == [200, 200, 200]
        provider.default = Fault(status=503, only_model="gpt-4o")
        assert await statuses(provider, 1) == [503]
        assert (provider.attempts, provider.attempts_total, provider.connections_in_use) == ([], 4, 0)
        assert (await send(provider, b"nonsense\r\n\r\n")).status == 400
        assert provider.connections_in_use == 0


async def test_it_runs_in_a_process_of_its_own() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.demo.provider", "--dialect", "anthropic", "--pause-ms", "0",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    asked = {"model": "claude", "max_tokens": 9, "messages": []}
    async with aiohttp.ClientSession() as session, session.post(url + "/v1/messages", json=asked) as response:
        assert response.headers["x-provider"] == "anthropic"
        assert (await response.json())["content"][0]["text"] == TEXT
    process.terminate()
    assert await process.wait() == 0


async def test_words_are_not_held_back_by_the_kernel(provider: FakeProvider) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    await provider.wait(lambda: provider.connections_open == 1)
    (connection,) = provider._connections
    assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()


async def test_a_hook_that_fails_is_heard_at_the_stop() -> None:
    def hook(attempt: Attempt) -> Fault | None:
        raise LookupError(attempt.path)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with pytest.raises(LookupError, match="chat"):
        async with FakeProvider(hook=hook) as provider:
            assert not (await send(provider, request(chat()))).raw


async def test_a_flood_behind_an_unanswered_request_is_cut_off(provider: FakeProvider) -> None:
    provider.default = Fault.from_json({"silence_s": "forever"})
    await send(provider, request(chat(), headers="") + b"x" * (1 << 20))
    assert [a.ended for a in provider.attempts] == ["closed"]
    assert provider.connections_in_use == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
@pytest.mark.parametrize("cut", ["close", "reset"])
async def test_S28_a_cut_under_tls_comes_after_its_words(tmp_path: Path, cut: str) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    making = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    making += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=p", "-addext"]
    subprocess.run([*making, "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(cert))
    async with FakeProvider(ssl=server, pause_s=0) as provider:
        provider.default = Fault.from_json({"cut_after_words": 40, "cut": cut})
        raw = b""
        session = aiohttp.ClientSession()
        async with session, session.post(provider.url + CHAT, json=STREAM, ssl=client) as response:
            parts = response.content.iter_any()
            for _ in range(1000):
                try:
                    raw += await anext(parts)
                except aiohttp.ClientError:
                    break
            else:
                pytest.fail("the cut was not noticed")
        assert Reply(raw=b"X\r\n\r\n" + raw).text == words(40)
        assert [a.ended for a in provider.attempts] == ["reset" if cut == "reset" else "closed"]
