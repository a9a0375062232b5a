"""What is fuzzed without a process: functions that take any bytes and raise where something of ours breaks.

Each target has seeds, inputs of our own that are right, and words that its grammar is made of; a driver changes the
seeds. Two drivers exist: Hypothesis in test_targets.py, and atheris, which is told what code a change has reached, in
guided.py. A target raises AssertionError for a broken promise; anything else that comes out of it is a crash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from proxy.config import overrides
from proxy.config.checks import HeaderError
from proxy.config.compiled import Config
from proxy.config.load import load_bytes
from proxy.dialects import eventstream, registry, sse
from proxy.dialects.chat import Answer, Asked, Encoded, Finish, Malformed, NotPortable, Text, ToolCall, Usage, events_of
from proxy.dialects.models import facts
from proxy.dialects.translation import STUMBLES, Translator
from proxy.dispatch.intake import Refusal, parse_body
from tests.fuzz.texts import misplaced

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to fuzz."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes]


# Control headers ------------------------------------------------------------------------------------------------------

KEY = "sk-very-secret-0123456789"
HEADERS = [
    'x-circuit-breaker: {"error_threshold":5,"error_threshold_window":30,"timeout":60,"half_open_requests":1}',
    'x-retry-config: {"max_retries":3,"strategy":"exponential","rules":[{"error_type":"timeout","wait_ms":100}]}',
    'x-failover-config: {"primary":{"provider":"openai"},"fallbacks":[{"provider":"deepinfra","model":"gpt-4o"}]}',
    'x-hedge-config: {"enabled":true,"delay_ms":500,"providers":["openai","deepinfra"]}',
    'x-degraded-mode-config: {"enabled":true,"reduce_max_tokens":0.5}',
    "x-failover-providers: openai,deepinfra/gpt-4o",
    "x-max-retries: 3\nx-retry-delay-ms: 250\nx-retry-strategy: linear\nx-request-timeout-ms: 30000",
    f"x-provider-key-openai: {KEY}\nx-explain: true\nx-stainless-read-timeout: 600",
    "x-stream-recovery: error\nx-first-token-timeout-ms: 1000\ngrpc-timeout: 5S\nx-chaos: status=503;rate=0.5",
    "x-user-priority: high\nx-cache: no-store\nx-request-hedging: true\nx-policy: p\nx-route: chat",
]


@cache
def config() -> Config:
    """The example file, which needs no variable."""
    loaded = load_bytes((ROOT / "config.example.yaml").read_bytes(), "config.example.yaml", {})
    assert loaded.config is not None, loaded.errors
    return loaded.config


def check_headers(data: bytes) -> None:
    """Control headers are understood, or refused by name; no message and no memory of them holds a credential."""
    lines = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    pairs = [(name.strip().lower(), value.strip()) for name, _, value in lines if name.strip()]
    refused: HeaderError | None = None
    told = ""
    try:
        told = repr(overrides.parse(pairs, config(), b"s" * 32))
    except HeaderError as error:
        refused, told = error, error.message
    assert KEY not in told
    assert refused is None or refused.status in (400, 403)
    assert refused is None or (told.startswith(refused.param) and told.isascii())


# Configuration --------------------------------------------------------------------------------------------------------


def check_yaml(data: bytes) -> None:
    """A text is a configuration, or every error of it has a place in it."""
    loaded = load_bytes(data, "f.yaml", {})
    assert (loaded.config is None) == bool(loaded.errors)
    assert list(misplaced(data, loaded)) == []


def yaml_seeds() -> list[bytes]:
    small = b"version: 1\nproviders:\n  a: {dialect: openai, base_url: 'https://a.test/v1', api_key: ${A_KEY:-x}}\n"
    more = b"defaults:\n  retry: {max_retries: 2, rules: [{error_type: [timeout, rate_limit], wait_ms: 100}]}\n"
    return [small, small + more, (ROOT / "config.example.yaml").read_bytes()]


# Streams --------------------------------------------------------------------------------------------------------------


def reference_events(data: bytes) -> list[bytes | None]:
    """The data of every whole event, by the letter of the standard: lines first, then blank lines."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    out: list[bytes | None] = []
    held: list[bytes] = []
    seen = False
    for line in lines:
        if not line:
            if seen:
                out.append(b"\n".join(held) if held else None)
            held, seen = [], False
            continue
        seen = True
        name, _, value = line.partition(b":")
        if name == b"data":
            held.append(value.removeprefix(b" "))
    return out


def check_sse(data: bytes) -> None:
    """Events are those of the standard, and nothing is lost between them."""
    found = sse.events(data)
    assert data.startswith(b"".join(found))
    told = [sse.data_of(event) for event in found if event.strip(b"\r\n")]
    expected = reference_events(data)
    # The last event may wait for the byte behind a CR, which could belong to its line end.
    assert told == expected[: len(told)], (told, expected)
    assert len(expected) - len(told) <= 1, (told, expected)
    piece = data[: sse.whole_events(data)]
    left = piece.removeprefix(b"".join(sse.events(piece)))
    assert not left.strip(b"\r\n"), "more than blank lines is lost"
    kept, dropped = sse.without_malformed(piece, b": left out\n\n")
    assert dropped or kept + left == piece


def check_frames(data: bytes) -> None:
    """Frames come out the same however the bytes are cut, or the stream is broken, both times at the same place."""

    def frames(pieces: Sequence[bytes]) -> tuple[list[Any], bool]:
        parser, out = eventstream.FrameParser(), []
        for piece in pieces:
            parser.receive(piece)
            try:
                while (frame := parser.next_frame()) is not None:
                    out.append((frame.headers, frame.payload))
            except eventstream.BrokenFrame:
                return out, True
        return out, False

    whole = frames([data])
    assert frames([data[n : n + 1] for n in range(len(data))]) == whole
    for headers, payload in whole[0]:
        if all(0 < len(name.encode()) < 256 for name in headers):
            with suppress(ValueError):  # a value that only a larger type of ours can hold
                again = eventstream.FrameParser()
                again.receive(eventstream.encode(headers, payload))
                frame = again.next_frame()
                assert frame is not None
                assert frame.payload == payload


def frame_seeds() -> list[bytes]:
    event = eventstream.event_frame("contentBlockDelta", {"delta": {"text": "a"}, "contentBlockIndex": 0})
    odd = eventstream.encode({"a": True, "b": 1, "c": 2**40, "d": b"x", "e": "y"}, b"{}")
    return [event, event + odd, eventstream.exception_frame("throttlingException", {"message": "slow down"})]


# Bodies ---------------------------------------------------------------------------------------------------------------

CALLERS = ("chat", "responses", "messages")
APIS = (*CALLERS, "generate", "converse")
FACTS = {
    "chat": facts("gpt-4o", "openai", "openai", {}, None),
    "responses": facts("gpt-4o", "openai", "openai", {}, None),
    "messages": facts("claude-sonnet-4-5", "anthropic", "", {}, None),
    "generate": facts("gemini-3-pro", "gemini", "", {}, None),
    "converse": facts("us.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock", "", {}, None),
}
TOOL = {
    "name": "weather",
    "description": "d",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]},
        {
            "model": "m",
            "stream": True,
            "max_completion_tokens": 9,
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "auto",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": "rain"},
            ],
        },
        {
            "model": "m",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
                }
            ],
        },
    ],
    "responses": [
        {"model": "m", "input": "hi", "instructions": "s", "store": False},
        {
            "model": "m",
            "stream": True,
            "tools": [{"type": "function", **TOOL}],
            "reasoning": {"effort": "low"},
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "rain"},
            ],
        },
    ],
    "messages": [
        {"model": "m", "max_tokens": 9, "system": "s", "messages": [{"role": "user", "content": "hi"}]},
        {
            "model": "m",
            "max_tokens": 9,
            "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "weather", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "rain"}]},
            ],
        },
    ],
}


def check_body(caller: str, data: bytes) -> None:
    """A body is refused as such, cannot be carried over, or is written in every other dialect as JSON."""
    try:
        parsed = parse_body(data)
        request = registry.speaker(caller).read_request(parsed)
    except (Refusal, Malformed, *STUMBLES):
        return
    for api in APIS:
        with suppress(Malformed, NotPortable, *STUMBLES):
            json.loads(orjson.dumps(registry.written(api, request, FACTS[api]).body))


# Answers --------------------------------------------------------------------------------------------------------------

ASKED = Asked(body={"model": "m", "messages": []}, created=1, seed="0123456789abcdef" * 2, model="m")
SAID = Answer(
    id="x1",
    model="m",
    created=1,
    parts=(Text(text="Hé \u2028 you"), ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}')),
    finish=Finish.TOOL_CALLS,
    usage=Usage(input=3, output=5),
)
PLAIN = replace(SAID, parts=(Text(text="Hello."),), finish=Finish.STOP)


def stream_of(api: str, answer: Answer) -> bytes:
    writer = registry.speaker(api).stream_writer(ASKED)
    return b"".join([*(writer.feed(event) for event in events_of(answer)), writer.end()])


def check_answer(target: str, data: bytes) -> None:
    """Whatever a target sends: a whole answer or an error to each caller, the same however the bytes are cut."""
    for caller in CALLERS:
        if caller != target:
            _check_stream(target, caller, data)
            _check_whole(target, caller, data)


def _translator(target: str, caller: str, stream: bool) -> Translator:
    return registry.translator(target, caller, Encoded(body={}), ASKED, stream)


def _check_stream(target: str, caller: str, data: bytes) -> None:
    once, cut = _translator(target, caller, True), _translator(target, caller, True)
    out = once.feed(data)
    ended = out + (once.close() if once.error is None else b"")
    pieces = b"".join(cut.feed(data[n : n + 7]) for n in range(0, len(data), 7) if cut.error is None)
    pieces += cut.close() if cut.error is None else b""
    assert (pieces, bool(cut.error), cut.is_over) == (ended, bool(once.error), once.is_over), "cuts change the answer"
    assert not (once.is_over and once.error), "an end and an error"
    for event in sse.events(ended):
        said = sse.data_of(event)
        assert said is None or said == b"[DONE]" or isinstance(json.loads(said), dict)
    assert sse.whole_events(ended) == len(ended), "half an event"
    reader = registry.reader(caller, {})
    assert reader is not None
    if once.error is None and ended:
        assert reader.scan(ended) == len(ended)
        assert reader.is_finished or not once.is_over, "the end is none to a reader of the caller's dialect"
        assert once.is_over or not reader.is_done, "an end marker without an end"


def _check_whole(target: str, caller: str, data: bytes) -> None:
    why, body = _translator(target, caller, False).whole(data)
    assert bool(why) != bool(body), "neither an answer nor a reason"
    assert why or isinstance(json.loads(body), dict)


def answer_seeds(api: str) -> list[bytes]:
    speaker = registry.speaker(api)
    bodies = [orjson.dumps(speaker.write_answer(answer, ASKED)) for answer in (SAID, PLAIN)]
    return [stream_of(api, SAID), stream_of(api, PLAIN), *bodies, b'{"error":{"message":"no","type":"server_error"}}']


JSON_WORDS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b'"\\ud800"',
    b"0.5",
    b"\\u0000",
)
MEMBERS = (
    b'"type":', b'"content":', b'"role":', b'"index":', b'"id":', b'"error":{"message":"e"}', b'"text":',
    b'"usage":null',
    b'"finish_reason":"stop"', b'"delta":{}', b'"choices":[]', b'"tool_calls":[{}]', b'"input":', b'"name":',
)  # fmt: skip
SSE_WORDS = (
    b"data: ",
    b"data:",
    b"event: ",
    b"id: ",
    b": c",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"[DONE]",
    "é\u2028".encode(),
)


def _body(caller: str) -> Target:
    return Target(
        check=lambda data: check_body(caller, data),
        seeds=lambda: [orjson.dumps(body) for body in REQUESTS[caller]],
        words=(*JSON_WORDS, *MEMBERS),
    )


def _answer(api: str) -> Target:
    return Target(
        check=lambda data: check_answer(api, data),
        seeds=lambda: answer_seeds(api),
        words=(*JSON_WORDS, *MEMBERS, *SSE_WORDS),
    )


TARGETS: dict[str, Target] = {
    "headers": Target(
        check=check_headers,
        seeds=lambda: [text.encode() for text in HEADERS],
        words=(*JSON_WORDS, b"\n", b"x-", b"-1", b"1e9", b"Infinity", b"openai", b"/", b";", b"any_error"),
    ),
    "yaml": Target(
        check=check_yaml,
        seeds=yaml_seeds,
        words=(b"\n", b"  ", b"\t", b": ", b"- ", b"&a ", b"*a", b"!!int ", b"? ", b"|\n", b">-\n", b"---\n", b"${A}",
               b"{", b"}", b"[", b"]", b"'", b'"', b"#", b"%YAML 1.2\n", b"\xef\xbb\xbf", "\u2028".encode(),
               b"providers:"),
    ),
    "sse": Target(
        check=check_sse,
        seeds=lambda: [b'data: {"a":1}\n\ndata: x\r\n\r\n: c\n\nevent: e\rdata: y\r\rdata: z\ndata\n\n',
        b"data: [DONE]\n\n"],
        words=SSE_WORDS,
    ),
    "frames": Target(check=check_frames, seeds=frame_seeds, words=(b"\x00" * 4, b"\xff", b"\x07", b"\x00\x00\x00\x10")),
    **{f"body-{caller}": _body(caller) for caller in CALLERS},
    **{f"answer-{api}": _answer(api) for api in APIS},
}  # fmt: skip
