"""What the fake providers say in every provider's words: tools, structured output, reasoning, usage, errors, frames."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.demo import script, shapes
from proxy.demo.error_shapes import error_headers
from proxy.demo.example import example
from proxy.demo.script import Fault
from proxy.demo.steps import Send, stream_steps
from proxy.dialects.eventstream import Frame, FrameParser, InvokeStream

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}},
        "size": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 3}]},
    },
    "required": ["name", "tags", "size"],
    "$defs": {"Tag": {"enum": ["red", "blue"]}},
}
FITTING = {"name": "example", "tags": ["red"], "size": 3}
NAMES = ("weather", "time")


def asked(api: str, *, says: str = "hi", tools: bool = False, schema: bool = False, thinks: bool = False) -> Any:
    """A request of each dialect for the same thing."""
    user: list[Any] = [{"role": "user", "content": says}]
    body: dict[str, Any] = {"model": "m", "messages": user}
    if api == "chat":
        path = "/v1/chat/completions"
        if tools:
            body["tools"] = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in NAMES]
        if schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        if thinks:
            body["reasoning_effort"] = "low"
    elif api == "responses":
        path, body = "/openai/responses", {"model": "m", "input": says}
        if tools:
            body["tools"] = [{"type": "function", "name": n, "parameters": SCHEMA} for n in NAMES]
        if schema:
            body["text"] = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
        if thinks:
            body["reasoning"] = {"effort": "low"}
    elif api in ("anthropic", "vertex", "invoke"):
        path = {
            "anthropic": "/v1/messages",
            "vertex": "/v1/projects/p/locations/l/publishers/anthropic/models/m@1:rawPredict",
            "invoke": "/model/m/invoke",
        }[api]
        if tools:
            body["tools"] = [{"name": n, "input_schema": SCHEMA} for n in NAMES]
        if schema:
            body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if thinks:
            body["thinking"] = {"type": "adaptive"}
    elif api == "gemini":
        path, body = "/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": says}]}]}
        config: dict[str, Any] = {}
        if tools:
            body["tools"] = [{"functionDeclarations": [{"name": n, "parametersJsonSchema": SCHEMA} for n in NAMES]}]
        if schema:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
        if thinks:
            config["thinkingConfig"] = {"includeThoughts": True}
        body["generationConfig"] = config
    else:
        path, body = "/model/arn%3Aaws%2Fm/converse", {"messages": [{"role": "user", "content": [{"text": says}]}]}
        if tools:
            specs = [{"toolSpec": {"name": n, "inputSchema": {"json": SCHEMA}}} for n in NAMES]
            body["toolConfig"] = {"tools": specs}
        if schema:
            form = {"jsonSchema": {"schema": orjson.dumps(SCHEMA).decode()}}
            body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": form}}
        if thinks:
            body["additionalModelRequestFields"] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    return shapes.read(path, orjson.dumps(body))


APIS = ("chat", "responses", "anthropic", "vertex", "invoke", "gemini", "converse")


def whole(api: str, fault: Fault | None = None, **over: Any) -> dict[str, Any]:
    return orjson.loads(shapes.unary(asked(api, **over), script.say_of(fault, "p", 11)))


def frames(data: bytes) -> list[Frame]:
    parser = FrameParser()
    parser.receive(data)
    found = []
    while (frame := parser.next_frame()) is not None:
        found.append(frame)
    assert parser.rest == 0
    return found


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("says", "count"), [("hi", 0), ("call the tool", 1), ("call the tools", 2), ("do both please", 2)]
)
def test_tools_are_called_as_the_prompt_says(api: str, says: str, count: int) -> None:
    found = asked(api, says=says, tools=True).tool_calls
    assert [call.name for call in found] == list(NAMES[:count])
    assert all(orjson.loads(call.arguments) == FITTING for call in found)
    text = orjson.dumps(whole(api, says=says, tools=True)).decode()
    assert all((f'"name":"{name}"' in text) == (i < count) for i, name in enumerate(NAMES))


@pytest.mark.parametrize("api", APIS)
def test_a_schema_is_answered_with_what_fits_it(api: str) -> None:
    found = asked(api, schema=True)
    assert orjson.loads(found.text) == FITTING
    assert orjson.dumps(found.text)[1:-1] in shapes.unary(found, script.say_of(None, "p", 11))


def test_usage_tells_cached_and_reasoning_tokens_in_each_dialects_way() -> None:
    cached = Fault(cached_tokens=4)
    assert whole("chat", cached, thinks=True)["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 67,
        "total_tokens": 78,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    usage = whole("responses", cached, thinks=True)["usage"]
    assert (usage["input_tokens"], usage["input_tokens_details"]) == (11, {"cached_tokens": 4})
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (67, {"reasoning_tokens": 7})
    usage = whole("anthropic", cached, thinks=True)["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (7, 4, 67)
    assert whole("gemini", cached, thinks=True)["usageMetadata"] == {
        "promptTokenCount": 11,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 60,
        "thoughtsTokenCount": 7,
        "totalTokenCount": 78,
    }
    usage = whole("converse", cached, thinks=True)["usage"]
    assert (usage["inputTokens"], usage["cacheReadInputTokens"], usage["outputTokens"]) == (7, 4, 67)


@pytest.mark.parametrize("api", APIS)
def test_reasoning_is_shown_where_the_dialect_shows_it(api: str) -> None:
    assert (shapes.HIDDEN in orjson.dumps(whole(api, thinks=True)).decode()) == (api != "chat")
    assert shapes.HIDDEN in orjson.dumps(whole(api, Fault(answer="reasoning"))).decode()
    assert len(orjson.dumps(whole(api, Fault(answer="tool_calls"))).decode().split('"search"')) == 2


def test_paths_of_clouds_are_read() -> None:
    deployed = shapes.read("/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21", b'{"model":"x"}')
    assert (deployed.api, deployed.model, deployed.is_azure) == ("chat", "my gpt", True)
    assert not shapes.read("/openai/v1/chat/completions", b"{}").is_azure
    assert asked("converse").model == "arn:aws/m"
    vertex = shapes.read("/v1/projects/p/locations/l/publishers/anthropic/models/c@1:streamRawPredict", b"{}")
    assert (vertex.api, vertex.model, vertex.stream) == ("anthropic", "c@1", True)
    google = shapes.read("/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse", b"{}")
    assert (google.api, google.model, google.stream) == ("gemini", "g", True)
    counts = ("/v1/messages/count_tokens", "/v1beta/models/g:countTokens", "/model/m/count-tokens")
    told = [orjson.loads(shapes.unary(shapes.read(path, b"{}"), script.say_of(None, "p", 11))) for path in counts]
    assert told == [{"input_tokens": 11}, {"totalTokens": 11}, {"inputTokens": 11}]


def streamed(path: str, fault: Fault, body: bytes = b"{}") -> bytes:
    read = shapes.read(path, body)
    steps = stream_steps(fault, read, script.say_of(fault, "p", 11), 0.0)
    return shapes.stamp(b"".join(step.data for step in steps if isinstance(step, Send)), 7)


def test_converse_streams_are_sound_frames_also_after_the_stamp() -> None:
    found = frames(streamed("/model/m/converse-stream", Fault()))
    kinds = [frame.headers[":event-type"] for frame in found]
    assert (kinds[0], kinds[-3:]) == ("messageStart", ["contentBlockStop", "messageStop", "metadata"])
    deltas = [orjson.loads(frame.payload)["delta"]["text"] for frame in found if b'"delta"' in frame.payload]
    assert "".join(deltas).split() == list(shapes.WORDS)


def test_invoke_streams_hold_anthropics_events() -> None:
    inner = InvokeStream().feed(streamed("/model/m/invoke-with-response-stream", Fault()))
    events = [orjson.loads(event[6:]) for event in inner.split(b"\n\n") if event]
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    said = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    assert said.split() == list(shapes.WORDS)


@pytest.mark.parametrize("method", ["converse-stream", "invoke-with-response-stream"])
def test_frames_can_carry_exceptions_and_odd_things(method: str) -> None:
    path = f"/model/m/{method}"
    *_, last = frames(streamed(path, Fault(error_after_words=3, error="rate_limit")))
    assert (last.headers[":message-type"], last.headers[":exception-type"]) == ("exception", "throttlingException")
    (only,) = frames(streamed(path, Fault(error_after_words=0, error="invalid_request", message="no")))
    assert (only.headers[":exception-type"], orjson.loads(only.payload)) == ("validationException", {"message": "no"})
    big = frames(streamed(path, Fault(big_body_bytes=100_000)))
    assert sum(len(frame.payload) for frame in big) > 100_000
    odd = frames(streamed(path, Fault(malformed_at_word=2, line_end="crlf", preamble=("comment", "ping"))))
    assert any(frame.payload.startswith(b'{"id": "broken"') for frame in odd)
    cut = streamed(path, Fault(cut_after_words=2, cut="mid_char"))
    assert cut.endswith(b"\xc3")


@pytest.mark.parametrize("kind", script.ERROR_KINDS)
def test_every_error_has_each_providers_shape(kind: str) -> None:
    for dialect in shapes.DIALECTS:
        status = shapes.error_status(dialect, kind)
        body = shapes.error(dialect, kind, status=status)
        assert 400 <= status < 600
        if dialect == "bedrock":
            ((name, value),) = error_headers(dialect, kind, code=None, wait_s=9.0, now=0.0)
            assert name == "x-amzn-errortype"
            assert value.partition(":")[0].isalpha()
            assert list(body) == ["message"]
        else:
            assert body["error"]["message"]
            assert error_headers(dialect, kind, code=None, wait_s=None, now=0.0) == []


def test_each_provider_tells_the_wait_in_its_own_way() -> None:
    def told(dialect: shapes.Dialect) -> dict[str, str]:
        return dict(error_headers(dialect, "rate_limit", code=None, wait_s=1.5, now=1_790_000_000))

    assert told("openai")["retry-after-ms"] == told("azure")["retry-after-ms"] == "1500"
    assert told("anthropic")["retry-after"] == "2"
    assert told("anthropic")["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert told("gemini") == {}
    details = shapes.error("gemini", "rate_limit", wait_s=1.5)["error"]["details"]
    assert details[-1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    assert "retry-after" not in told("bedrock")


def test_an_example_ends_although_the_schema_does_not() -> None:
    endless = {"$ref": "#/$defs/Node", "$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}}}}
    assert isinstance(example(endless), dict)
    assert example({"type": "STRING", "format": "date"}) == "2026-01-02"
    assert example({"const": 3}) == 3
    assert example({"$ref": "#/nowhere"}) is None
