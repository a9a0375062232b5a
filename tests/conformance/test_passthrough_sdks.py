"""Clients whose dialect no endpoint of ours speaks go to their own provider below ``/{provider}/``: google-genai and
boto3's bedrock-runtime. They see their provider as if nobody stood between, and its errors as their own exceptions."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel

from proxy.demo.script import ERROR_KINDS
from proxy.demo.shapes import HIDDEN, WORDS
from tests.conformance.sdk_targets import (
    CALLER_KEY,
    CITY,
    CITY_ARGUMENTS,
    PNG,
    Stage,
    broken,
    picture,
    stage,
    threaded,
    upstream_error,
)

# google-genai and botocore are imported where they are used: each costs a second that other tests need not pay.
pytestmark = pytest.mark.asyncio(loop_scope="module")
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
AWS_ERRORS = {
    "overloaded": ("ServiceUnavailableException", 503),
    "internal": ("InternalServerException", 500),
    "rate_limit": ("ThrottlingException", 429),
    "quota": ("ServiceQuotaExceededException", 400),
    "auth": ("UnrecognizedClientException", 403),
    "permission": ("AccessDeniedException", 403),
    "model_not_found": ("ResourceNotFoundException", 404),
    "context_length": ("ValidationException", 400),
    "content_policy": ("ValidationException", 400),
    "invalid_request": ("ValidationException", 400),
    "timeout": ("ModelTimeoutException", 408),
}


class Trip(BaseModel):
    city: str
    days: int
    stops: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(
        tmp_path_factory.mktemp("targets"), groups=["own", "streamed"], targets=["gemini", "bedrock", "invoke"]
    ) as built:
        yield built


# Gemini ---------------------------------------------------------------------------------------------------------------


def gemini(made: Stage, account: str = "gemini") -> Any:
    from google import genai

    return genai.Client(api_key=CALLER_KEY, http_options={"base_url": f"{made.url}/{account}"})


def check_key(made: Stage, target: str, header: str) -> None:
    attempt = made.last(target)
    assert f"sk-{target}-0123456789" in (attempt.header(header) or "")
    assert not [value for _, value in attempt.headers if CALLER_KEY in value], "the caller's key leaked"
    assert CALLER_KEY not in attempt.path


async def test_gemini_unary_and_streamed(made: Stage) -> None:
    def run() -> tuple[Any, list[Any]]:
        with gemini(made) as c:
            whole = c.models.generate_content(model="gemini-2.5-pro", contents="Say the words.")
            return whole, list(c.models.generate_content_stream(model="gemini-2.5-pro", contents="Say the words."))

    whole, chunks = await threaded(run)
    assert whole.text.split() == list(WORDS)
    assert whole.candidates[0].finish_reason.name == "STOP"
    assert whole.usage_metadata.total_token_count == 71
    assert "".join(chunk.text or "" for chunk in chunks).split() == list(WORDS)
    assert len(chunks) > 30
    assert chunks[-1].candidates[0].finish_reason.name == "STOP"
    assert made.last("gemini").path.removeprefix("/v1").removeprefix("beta") == (
        "/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    )
    check_key(made, "gemini", "x-goog-api-key")


async def test_gemini_tools_images_and_results(made: Stage) -> None:
    def run() -> tuple[Any, list[Any], Any]:
        from google.genai import types

        functions = [
            types.FunctionDeclaration(name=name, description="Tells it.", parameters_json_schema=CITY)
            for name in ("weather", "local_time")
        ]
        with gemini(made) as c:
            config = types.GenerateContentConfig(
                tools=[types.Tool(function_declarations=functions)],
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            )
            parts: list[Any] = ["call both", types.Part.from_bytes(data=picture(), mime_type="image/png")]
            whole = c.models.generate_content(model="g", contents=parts, config=config)
            chunks = list(c.models.generate_content_stream(model="g", contents=parts, config=config))
            results = [
                types.Part.from_function_response(name=call.name, response={"output": "fine"})
                for call in whole.function_calls
            ]
            history = [
                types.UserContent(parts=["call both"]),
                whole.candidates[0].content,
                types.UserContent(parts=results),
            ]
            return whole, chunks, c.models.generate_content(model="g", contents=history, config=config)

    whole, chunks, last = await threaded(run)
    wanted = [("weather", CITY_ARGUMENTS), ("local_time", CITY_ARGUMENTS)]
    assert [(call.name, call.args) for call in whole.function_calls] == wanted
    assert [(call.name, call.args) for chunk in chunks for call in chunk.function_calls or []] == wanted
    assert last.text.split() == list(WORDS)
    sent = made.body("gemini")["contents"]
    assert "signature" in json.dumps(sent[1]["parts"][0]).lower(), (
        "what makes the call replayable came and went unharmed"
    )
    assert PNG in made.fakes["gemini"].attempts[-2].body.decode()


async def test_gemini_structured_output_reasoning_and_counting(made: Stage) -> None:
    def run() -> tuple[Any, Any, Any]:
        from google.genai import types

        with gemini(made) as c:
            config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Trip)
            whole = c.models.generate_content(model="g", contents="Plan.", config=config)
            thinking = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
            thought = c.models.generate_content(model="cached", contents="Plan.", config=thinking)
            return whole, thought, c.models.count_tokens(model="g", contents="Plan.")

    whole, thought, count = await threaded(run)
    assert whole.parsed == Trip(city="example", days=1, stops=["example"])
    assert [part.text for part in thought.candidates[0].content.parts if part.thought] == [HIDDEN]
    usage = thought.usage_metadata
    assert (usage.cached_content_token_count, usage.thoughts_token_count, usage.candidates_token_count) == (4, 7, 60)
    assert count.total_tokens == 11


@pytest.mark.parametrize("kind", ERROR_KINDS)
async def test_gemini_errors(made: Stage, kind: str) -> None:
    def run() -> list[Any]:
        from google.genai import errors

        found = []
        for account, method in (("own", "generate_content"), ("streamed", "generate_content_stream")):
            with gemini(made, broken("gemini", kind, account)) as c, pytest.raises(errors.APIError) as caught:
                list(getattr(c.models, method)(model=f"broken-{kind}", contents="hi"))
            found.append(caught.value)
        assert all(isinstance(e, errors.ServerError if e.code >= 500 else errors.ClientError) for e in found)
        return found

    status, message = upstream_error("gemini", kind)
    for error in await threaded(run):
        assert error.code == status
        assert message in str(error)
        assert error.status, "Google's own word for it"


async def test_gemini_error_within_a_stream(made: Stage) -> None:
    texts: list[str] = []

    def run() -> None:
        with gemini(made) as c:
            for chunk in c.models.generate_content_stream(model="cut-error", contents="hi"):
                texts.append(chunk.text or "")  # noqa: PERF401 - a cut must leave what came

    with pytest.raises(Exception) as caught:  # whatever the client makes of it, it must not look complete
        await threaded(run)
    assert "overloaded" in str(caught.value)
    assert "".join(texts).split() == list(WORDS)[:20]


# Bedrock --------------------------------------------------------------------------------------------------------------


Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Opener]:
    """Opens clients for an account; they are closed at the end, since an open socket is a warning."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(
        aws_access_key_id="AKIDCALLER", aws_secret_access_key="caller-secret", region_name="us-east-1"
    )
    quiet = Config(retries={"total_max_attempts": 1}, proxies={}, read_timeout=20)
    opened: dict[str, Any] = {}

    def open_one(made: Stage, account: str = "bedrock") -> Any:
        if account not in opened:
            url = f"{made.url}/{account}"
            opened[account] = session.client("bedrock-runtime", endpoint_url=url, config=quiet)
        return opened[account]

    yield open_one
    for client in opened.values():
        client.close()


def user(*blocks: Any) -> list[Any]:
    return [{"role": "user", "content": list(blocks)}]


def _closed_after(events: Any) -> Iterator[Any]:
    with closing(events):
        yield from events


def collected(events: Any) -> tuple[list[Any], str, list[tuple[str, Any]]]:
    """Events, text and calls of a ConverseStream."""
    seen, text, calls = [], [], []
    for event in _closed_after(events):
        seen.append(event)
        if use := event.get("contentBlockStart", {}).get("start", {}).get("toolUse"):
            calls.append((use["name"], ""))
        delta = event.get("contentBlockDelta", {}).get("delta", {})
        text.append(delta.get("text", ""))
        if use := delta.get("toolUse"):
            calls[-1] = (calls[-1][0], calls[-1][1] + use["input"])
    return seen, "".join(text), [(name, json.loads(given)) for name, given in calls]


async def test_bedrock_unary_and_streamed(bedrock: Opener, made: Stage) -> None:
    def run() -> tuple[Any, Any]:
        c = bedrock(made)
        whole = c.converse(modelId=CLAUDE, messages=user({"text": "hi"}), inferenceConfig={"maxTokens": 9})
        return whole, collected(c.converse_stream(modelId=CLAUDE, messages=user({"text": "hi"}))["stream"])

    whole, (events, text, _) = await threaded(run)
    assert whole["output"]["message"]["content"][0]["text"].split() == list(WORDS)
    assert (whole["stopReason"], whole["usage"]["totalTokens"]) == ("end_turn", 71)
    assert whole["ResponseMetadata"]["RequestId"].startswith("req_bedrock_")
    assert text.split() == list(WORDS)
    assert [next(iter(event)) for event in events[-2:]] == ["messageStop", "metadata"]
    assert made.last("bedrock").path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"
    assert made.last("bedrock").header("authorization") == "Bearer sk-bedrock-0123456789"
    assert "AKIDCALLER" not in str(made.last("bedrock").headers), "the caller's signature ends with us"
    assert made.last("bedrock").header("x-amz-security-token") is None


async def test_bedrock_tools_images_structured_output_and_counting(bedrock: Opener, made: Stage) -> None:
    specs = [
        {"toolSpec": {"name": name, "description": "Tells it.", "inputSchema": {"json": CITY}}}
        for name in ("weather", "local_time")
    ]
    picture_block = {"image": {"format": "png", "source": {"bytes": picture()}}}

    def run() -> tuple[Any, Any, Any, Any, Any]:
        c = bedrock(made)
        asked: Any = {
            "modelId": CLAUDE,
            "messages": user({"text": "call both"}, picture_block),
            "toolConfig": {"tools": specs},
        }
        whole = c.converse(**asked)
        streamed = collected(c.converse_stream(**asked)["stream"])
        message = whole["output"]["message"]
        results = [
            {"toolResult": {"toolUseId": b["toolUse"]["toolUseId"], "content": [{"text": "fine"}]}}
            for b in message["content"]
        ]
        history = [*asked["messages"], message, {"role": "user", "content": results}]
        last = c.converse(**{**asked, "messages": history})
        form = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(Trip.model_json_schema())}}}
        made_up = c.converse(modelId=CLAUDE, messages=user({"text": "Plan."}), outputConfig={"textFormat": form})
        counted = c.count_tokens(modelId=CLAUDE, input={"converse": {"messages": user({"text": "hi"})}})
        return whole, streamed, last, made_up, counted

    whole, (_, _, streamed), last, made_up, counted = await threaded(run)
    wanted = [("weather", CITY_ARGUMENTS), ("local_time", CITY_ARGUMENTS)]
    uses = [block["toolUse"] for block in whole["output"]["message"]["content"]]
    assert [(use["name"], use["input"]) for use in uses] == wanted
    assert whole["stopReason"] == "tool_use"
    assert streamed == wanted
    assert last["output"]["message"]["content"][0]["text"].split() == list(WORDS)
    text = made_up["output"]["message"]["content"][0]["text"]
    assert Trip.model_validate_json(text) == Trip(city="example", days=1, stops=["example"])
    assert counted["inputTokens"] == 11
    assert any(PNG in attempt.body.decode() for attempt in made.fakes["bedrock"].attempts)


async def test_bedrock_invoke_model_with_claudes_own_body(bedrock: Opener, made: Stage) -> None:
    body = json.dumps(
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    )

    def run() -> tuple[Any, list[Any]]:
        c = bedrock(made, "invoke")
        whole = json.loads(c.invoke_model(modelId=CLAUDE, body=body)["body"].read())
        stream = c.invoke_model_with_response_stream(modelId=CLAUDE, body=body)["body"]
        return whole, [json.loads(event["chunk"]["bytes"]) for event in _closed_after(stream)]

    whole, events = await threaded(run)
    assert whole["content"][0]["text"].split() == list(WORDS)
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    assert made.last("invoke").body.decode() == body


async def test_an_arn_is_one_segment_of_the_path(bedrock: Opener, made: Stage) -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-v1:0"
    await threaded(lambda: bedrock(made).converse(modelId=arn, messages=user({"text": "hi"})))
    assert made.last("bedrock").model == arn
    assert made.last("bedrock").path.count("/") == 3


@pytest.mark.parametrize("kind", ERROR_KINDS)
async def test_bedrock_errors(bedrock: Opener, made: Stage, kind: str) -> None:
    name, status = AWS_ERRORS[kind]

    def run() -> list[Any]:
        from botocore.exceptions import ClientError

        found = []
        for account, method in (("own", "converse"), ("streamed", "converse_stream")):
            c = bedrock(made, broken("bedrock", kind, account))
            with pytest.raises(ClientError) as caught:
                getattr(c, method)(modelId=f"broken-{kind}", messages=user({"text": "hi"}))
            found.append(caught.value)
            modelled = getattr(c.exceptions, name, ClientError)
            assert isinstance(caught.value, modelled)
        return found

    for error in await threaded(run):
        assert error.response["Error"]["Code"] == name
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert upstream_error("bedrock", kind)[1] in error.response["Error"]["Message"]


@pytest.mark.parametrize(("model", "words"), [("cut-error", 20), ("first-error-chat", 0)])
async def test_bedrock_exception_within_a_stream(bedrock: Opener, made: Stage, model: str, words: int) -> None:
    texts: list[str] = []

    def run() -> None:
        c = bedrock(made)
        stream = c.converse_stream(modelId=model, messages=user({"text": "hi"}))["stream"]
        with closing(stream):
            for event in stream:
                texts.append(event.get("contentBlockDelta", {}).get("delta", {}).get("text", ""))  # noqa: PERF401

    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        await threaded(run)
    wanted = "serviceUnavailableException" if words else "throttlingException"
    assert caught.value.response["Error"]["Code"].lower() == wanted.lower()
    assert len("".join(texts).split()) == words


async def test_a_picture_is_what_it_says() -> None:
    assert base64.b64decode(PNG)[:8] == b"\x89PNG\r\n\x1a\n"
