"""The official Anthropic client with a target of its own dialect and of every other one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic import Anthropic, omit
from pydantic import BaseModel

from proxy.demo.script import ERROR_KINDS
from proxy.demo.shapes import HIDDEN, WORDS
from tests.conformance.sdk_targets import (
    CALLER_KEY,
    CITY,
    CITY_ARGUMENTS,
    MODEL,
    PNG,
    TARGETS,
    Stage,
    broken,
    stage,
    steer,
    threaded,
    unknown_members,
    upstream_error,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID: list[Any] = [{"role": "user", "content": "Say the words."}]
TOOLS: list[Any] = [
    {"name": name, "description": f"Tells the {name}.", "input_schema": CITY} for name in ("weather", "local_time")
]
FOREIGN: dict[str, tuple[type[anthropic.APIStatusError], int, str]] = {
    "overloaded": (anthropic.OverloadedError, 529, "overloaded_error"),
    "internal": (anthropic.InternalServerError, 500, "api_error"),
    "rate_limit": (anthropic.RateLimitError, 429, "rate_limit_error"),
    "quota": (anthropic.PaymentRequiredError, 402, "billing_error"),
    "auth": (anthropic.AuthenticationError, 401, "authentication_error"),
    "permission": (anthropic.PermissionDeniedError, 403, "permission_error"),
    "model_not_found": (anthropic.NotFoundError, 404, "not_found_error"),
    "context_length": (anthropic.BadRequestError, 400, "invalid_request_error"),
    "content_policy": (anthropic.BadRequestError, 400, "invalid_request_error"),
    "invalid_request": (anthropic.BadRequestError, 400, "invalid_request_error"),
    "timeout": (anthropic.GatewayTimeoutError, 504, "timeout_error"),
}
"""What a failure of a target of another dialect is to the caller (`providers.md` 2.8)."""
OWN = {**FOREIGN, "quota": (anthropic.EnforcedSpendLimitReachedError, 429, "rate_limit_error")}


class Trip(BaseModel):
    city: str
    days: int
    stops: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("targets"), groups=["messages"]) as built:
        yield built


@cache
def _client(url: str) -> Anthropic:
    return Anthropic(base_url=url, api_key=CALLER_KEY, max_retries=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _closing(made: Stage) -> AsyncIterator[None]:
    yield
    _client(made.url).close()
    _client.cache_clear()


def client(made: Stage, *chain: str, **headers: str) -> Anthropic:
    """The caller's client; the chain is in its default headers."""
    return _client(made.url).with_options(default_headers=steer(*chain, **headers))


def ask(made: Stage, chain: str, *, model: str = MODEL, messages: Any = SAID, **over: Any) -> Any:
    return client(made, chain).messages.create(**{"model": model, "max_tokens": 500, "messages": messages, **over})


def streamed(made: Stage, chain: str, *, messages: Any = SAID, **over: Any) -> Any:
    """The message that the client's own helper puts together."""
    with client(made, chain).messages.stream(
        **{"model": MODEL, "max_tokens": 500, "messages": messages, **over}
    ) as events:
        return events.get_final_message()


def said(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls(message: Any) -> list[tuple[str, str, Any]]:
    return [(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"]


def check_asked(made: Stage, target: str) -> dict[str, Any]:
    """What reached the target: at its address, with its key and no other, with members it knows. Returns the body."""
    attempt, entry = made.last(target), TARGETS[target]
    assert entry.path in attempt.path
    assert f"sk-{target}-0123456789" in (attempt.header(entry.key) or "")
    assert not [value for _, value in attempt.headers if CALLER_KEY in value], "the caller's key leaked"
    body = made.body(target)
    assert not unknown_members(target, body)
    return body


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
async def test_unary(made: Stage, target: str) -> None:
    # Responses has no stop sequences, and version 2.14 of the client no `temperature` of its own any more.
    stop = {} if target == "openai-responses" else {"stop_sequences": ["never said"]}
    message = await threaded(lambda: ask(made, target, system="Be brief.", extra_body={"temperature": 0.25}, **stop))
    assert said(message).split() == list(WORDS)
    assert (message.type, message.role, message.stop_reason, message.stop_sequence) == (
        "message",
        "assistant",
        "end_turn",
        None,
    )
    assert message.model == TARGETS[target].model
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 60)
    assert message.id
    assert message._request_id
    body = check_asked(made, target)
    raw = json.dumps(body)
    assert "Be brief." in raw
    assert "500" in raw
    assert "0.25" in raw
    assert ("never said" in raw) == bool(stop)


@pytest.mark.parametrize("target", TARGETS)
async def test_stream(made: Stage, target: str) -> None:
    def read() -> tuple[list[str], Any]:
        with client(made, target).messages.stream(model=MODEL, max_tokens=500, messages=SAID) as events:
            pieces = list(events.text_stream)
            return pieces, events.get_final_message()

    pieces, message = await threaded(read)
    assert "".join(pieces).split() == list(WORDS)
    assert len(pieces) > 30, "word by word, not in one piece"
    assert said(message) == "".join(pieces)
    assert message.stop_reason == "end_turn"
    assert message.model == TARGETS[target].model
    assert message.usage.output_tokens == 60
    if target in ("anthropic", "vertex", "invoke", "gemini"):
        assert message.usage.input_tokens == 11
    check_asked(made, target)


@pytest.mark.parametrize("target", TARGETS)
async def test_raw_events_come_in_order(made: Stage, target: str) -> None:
    def read() -> list[Any]:
        with ask(made, target, messages=[{"role": "user", "content": "call both"}], tools=TOOLS, stream=True) as raw:
            return list(raw)

    events = [event for event in await threaded(read) if event.type != "ping"]
    assert [events[0].type, events[-2].type, events[-1].type] == ["message_start", "message_delta", "message_stop"]
    assert events[-2].delta.stop_reason == "tool_use"
    state: list[int] = []
    for event in events[1:-2]:
        if event.type == "content_block_start":
            state.append(event.index)
            assert event.index == len(state) - 1, "blocks are numbered through and never interleave"
        else:
            assert event.index == state[-1]
    assert [e.type for e in events if e.type == "content_block_stop"] == ["content_block_stop"] * len(state)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("prompt", "count"), [("call the tool", 1), ("call both", 2)])
async def test_tools_and_their_results(made: Stage, target: str, prompt: str, count: int) -> None:
    wanted = [("weather", CITY_ARGUMENTS), ("local_time", CITY_ARGUMENTS)][:count]
    told: list[Any] = [{"role": "user", "content": prompt}]
    message = await threaded(lambda: ask(made, target, messages=told, tools=TOOLS))
    found = calls(message)
    assert [(name, given) for _, name, given in found] == wanted
    assert len({call_id for call_id, _, _ in found if call_id}) == count
    assert message.stop_reason == "tool_use"
    check_asked(made, target)
    again = await threaded(lambda: streamed(made, target, messages=told, tools=TOOLS))
    assert [(name, given) for _, name, given in calls(again)] == wanted
    assert again.stop_reason == "tool_use"
    history = [
        *told,
        {"role": "assistant", "content": [block.to_dict() for block in message.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call_id, "content": f"{name} is fine"}
                for call_id, name, _ in found
            ],
        },
    ]
    last = await threaded(lambda: ask(made, target, messages=history, tools=TOOLS))
    assert said(last).split() == list(WORDS)
    check_asked(made, target)
    for _, name, _ in found:
        assert f"{name} is fine" in made.last(target).body.decode()


@pytest.mark.parametrize("target", TARGETS)
async def test_forced_forbidden_and_single_calls(made: Stage, target: str) -> None:
    def names(prompt: str, choice: Any) -> list[str]:
        told = [{"role": "user", "content": prompt}]
        return [name for _, name, _ in calls(ask(made, target, messages=told, tools=TOOLS, tool_choice=choice))]

    assert await threaded(lambda: names("hi", {"type": "tool", "name": "local_time"})) == ["local_time"]
    assert await threaded(lambda: names("hi", {"type": "any"})) == ["weather"]
    assert await threaded(lambda: names("call the tool", {"type": "none"})) == []
    single = await threaded(lambda: names("call both", {"type": "auto", "disable_parallel_tool_use": True}))
    assert single == (["weather", "local_time"] if target in ("gemini", "bedrock") else ["weather"])


@pytest.mark.parametrize("target", TARGETS)
async def test_images_and_documents(made: Stage, target: str) -> None:
    content: list[Any] = [
        {"type": "text", "text": "What?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {
            "type": "document",
            "title": "paper",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"},
        },
    ]
    message = await threaded(lambda: ask(made, target, messages=[{"role": "user", "content": content}]))
    assert said(message).split() == list(WORDS)
    raw = json.dumps(check_asked(made, target))
    assert PNG in raw
    assert "JVBERi0xLjQK" in raw


@pytest.mark.parametrize("target", TARGETS)
async def test_structured_output(made: Stage, target: str) -> None:
    wanted = Trip(city="example", days=1, stops=["example"])

    def unary() -> Any:
        return client(made, target).messages.parse(model=MODEL, max_tokens=500, messages=SAID, output_format=Trip)

    message = await threaded(unary)
    assert message.parsed_output == wanted
    assert message.stop_reason == "end_turn"
    check_asked(made, target)
    schema = {"type": "json_schema", "schema": {**Trip.model_json_schema(), "additionalProperties": False}}
    again = await threaded(lambda: streamed(made, target, output_config={"format": schema}))
    assert Trip.model_validate_json(said(again)) == wanted


@pytest.mark.parametrize("target", TARGETS)
async def test_reasoning_and_cached_tokens(made: Stage, target: str) -> None:
    cached = await threaded(lambda: ask(made, target, model="cached"))
    usage = cached.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 4, 60)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = await threaded(lambda: ask(made, target, max_tokens=2048, thinking=thinking))
    assert said(message).split() == list(WORDS)
    body = check_asked(made, target)
    if target in ("anthropic", "vertex", "invoke", "bedrock", "gemini"):
        assert message.usage.output_tokens == 67
    if target == "gemini":  # not signed, so it could not be sent back to any Claude: it is not shown
        assert [b.type for b in message.content] == ["text"]
    if target in ("anthropic", "vertex", "invoke", "bedrock"):
        assert "".join(b.thinking for b in message.content if b.type == "thinking") == HIDDEN
        again = await threaded(lambda: streamed(made, target, max_tokens=2048, thinking=thinking))
        assert "".join(b.thinking for b in again.content if b.type == "thinking") == HIDDEN
        assert [b.type for b in again.content] == ["thinking", "text"]
    if target in ("anthropic", "vertex", "invoke"):
        assert body["thinking"]["budget_tokens"] < body["max_tokens"]


@pytest.mark.parametrize("target", TARGETS)
async def test_an_answer_at_its_limit(made: Stage, target: str) -> None:
    assert (await threaded(lambda: ask(made, target, model="shortened"))).stop_reason == "max_tokens"


# Counting, credentials ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["anthropic", "gemini", "bedrock"])
async def test_count_tokens(made: Stage, target: str) -> None:
    def run() -> Any:
        return client(made, target).messages.count_tokens(model=MODEL, messages=SAID, system="Be brief.", tools=TOOLS)

    assert (await threaded(run)).input_tokens == 11
    path = {"anthropic": "/v1/messages/count_tokens", "gemini": ":countTokens", "bedrock": "/count-tokens"}[target]
    assert made.last(target).path.endswith(path)
    assert "Be brief." in made.last(target).body.decode()


async def test_count_tokens_by_a_target_that_cannot(made: Stage) -> None:
    def run(*chain: str) -> Any:
        return client(made, *chain).messages.count_tokens(model=MODEL, messages=SAID)

    assert (await threaded(lambda: run("openai-chat", "anthropic"))).input_tokens == 11
    with pytest.raises(anthropic.APIStatusError) as caught:
        await threaded(lambda: run("openai-chat"))
    assert caught.value.body["type"] == "error"  # type: ignore[index]
    assert caught.value.status_code == 400, "no later call would fare better"
    assert "openai-chat" in caught.value.body["error"]["message"]  # type: ignore[index]


@pytest.mark.parametrize("target", ["anthropic", "openai-chat"])
@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_both_credential_headers(made: Stage, target: str, header: str) -> None:
    def run() -> Any:
        own: dict[str, Any] = {"api_key": CALLER_KEY} if header == "x-api-key" else {"auth_token": CALLER_KEY}
        with Anthropic(base_url=made.url, max_retries=0, default_headers=steer(target), **own) as c:
            # A key in the environment of whoever runs the tests must not decide which header is sent.
            other = {"Authorization" if header == "x-api-key" else "X-Api-Key": omit}
            return c.messages.create(model=MODEL, max_tokens=9, messages=SAID, extra_headers=other)

    assert said(await threaded(run)).split() == list(WORDS)
    check_asked(made, target)


async def test_a_base_url_with_v1_and_the_beta_namespace(made: Stage) -> None:
    def run() -> tuple[Any, Any]:
        with Anthropic(
            base_url=f"{made.url}/v1", api_key=CALLER_KEY, max_retries=0, default_headers=steer("anthropic")
        ) as c:
            plain = c.messages.create(model=MODEL, max_tokens=9, messages=SAID)
            beta = c.beta.messages.create(
                model=MODEL,
                max_tokens=9,
                messages=SAID,
                betas=["context-1m-2025-08-07"],
                extra_query={"beta": "true"},
                extra_headers={"anthropic-version": "2023-06-01"},
            )
            return plain, beta

    plain, beta = await threaded(run)
    assert said(plain) == said(beta)
    assert made.last("anthropic").path == "/v1/messages?beta=true"
    assert made.last("anthropic").header("anthropic-beta") == "context-1m-2025-08-07"
    assert made.last("anthropic").header("anthropic-version") == "2023-06-01"


async def test_same_dialect_means_same_bytes(made: Stage) -> None:
    await threaded(lambda: ask(made, "anthropic", model="claude-haiku-5", metadata={"user_id": "abc"}))
    body = made.body("anthropic")
    assert body == {
        "model": "claude-haiku-5",
        "max_tokens": 500,
        "messages": SAID,
        "metadata": {"user_id": "abc"},
    }


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ERROR_KINDS)
async def test_every_error_is_the_right_exception(made: Stage, target: str, kind: str) -> None:
    account = broken(target, kind, "messages")
    streams = kind in ("overloaded", "rate_limit", "context_length")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await threaded(lambda: ask(made, account, model=f"broken-{kind}", stream=streams))
    error = caught.value
    expected, status, name = (OWN if "messages" in TARGETS[target].own else FOREIGN)[kind]
    assert (type(error), error.status_code, error.type) == (expected, status, name)
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert upstream_error(target, kind)[1] in error.body["error"]["message"], "the provider's own reason"
    assert error.request_id
    if kind == "rate_limit" and TARGETS[target].family != "bedrock":
        assert 30 <= int(error.response.headers["retry-after"]) <= 40
    if kind == "context_length":
        assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("target", TARGETS)
async def test_an_error_within_a_stream_raises_with_the_providers_reason(made: Stage, target: str) -> None:
    words: list[str] = []

    def read() -> None:
        with client(made, target).messages.stream(model="cut-error", max_tokens=500, messages=SAID) as events:
            words.extend(events.text_stream)

    with pytest.raises(anthropic.APIStatusError) as caught:
        await threaded(read)
    text = "".join(words).split()
    assert text == list(WORDS)[: len(text)]
    assert 0 < len(text) <= 20
    assert caught.value.type == "overloaded_error"
    assert upstream_error(target, "overloaded")[1] in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
async def test_an_error_as_first_event_is_a_status(made: Stage, target: str) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        await threaded(lambda: list(ask(made, target, model="first-error-messages", stream=True)))
    assert caught.value.status_code == 429
    assert upstream_error(target, "rate_limit")[1] in str(caught.value)


async def test_what_no_other_dialect_has_is_told_not_dropped(made: Stage) -> None:
    stopped = await threaded(
        lambda: client(made, "openai-responses").messages.with_raw_response.create(
            model=MODEL, max_tokens=500, messages=SAID, stop_sequences=["x"]
        )
    )
    assert stopped.headers["x-translation-warnings"] == "stop_sequences=dropped"
    search: list[Any] = [{"type": "web_search_20250305", "name": "web_search"}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        await threaded(lambda: ask(made, "openai-chat", tools=search))
    assert "server_tools" in caught.value.response.headers["x-failover-skipped"]
    answer = await threaded(
        lambda: client(made, "openai-chat", "anthropic").messages.with_raw_response.create(
            model=MODEL, max_tokens=9, messages=SAID, tools=search
        )
    )
    assert answer.headers["x-served-by"] == "anthropic"
    assert "server_tools" in answer.headers["x-failover-skipped"]
