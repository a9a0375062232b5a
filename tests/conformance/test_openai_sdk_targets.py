"""The official OpenAI client, chat and Responses, with a target of its own dialect and of every other one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from proxy.demo.script import ERROR_KINDS
from proxy.demo.shapes import HIDDEN, WORDS
from tests.conformance.sdk_targets import (
    CALLER_KEY,
    CITY,
    CITY_ARGUMENTS,
    ELSEWHERE,
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

CALLERS = ("chat", "responses")
PAIRS = [(caller, target) for caller in CALLERS for target in TARGETS]
ERRORS: dict[str, tuple[type[openai.APIError], int, str | None]] = {
    "overloaded": (openai.InternalServerError, 503, "server_is_overloaded"),
    "internal": (openai.InternalServerError, 502, "upstream_error"),
    "rate_limit": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "quota": (openai.RateLimitError, 429, "insufficient_quota"),
    "auth": (openai.AuthenticationError, 401, "invalid_api_key"),
    "permission": (openai.PermissionDeniedError, 403, "permission_denied"),
    "model_not_found": (openai.NotFoundError, 404, "model_not_found"),
    "context_length": (openai.BadRequestError, 400, "context_length_exceeded"),
    "content_policy": (openai.BadRequestError, 400, "content_filter"),
    "invalid_request": (openai.BadRequestError, 400, "invalid_request"),
    "timeout": (openai.InternalServerError, 504, "timeout"),
}
"""What a failure of a target of another dialect is to the caller (`providers.md` 2.8)."""
BY_STATUS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    408: openai.APIStatusError,
    429: openai.RateLimitError,
}


class Trip(BaseModel):
    city: str
    days: int
    stops: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("targets"), groups=CALLERS) as built:
        yield built


@cache
def _client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=CALLER_KEY, max_retries=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _closing(made: Stage) -> AsyncIterator[None]:
    yield
    _client(made.url).close()
    _client.cache_clear()


def client(made: Stage, *chain: str, **headers: str) -> openai.OpenAI:
    """The caller's client; the chain is in its default headers."""
    return _client(made.url).with_options(default_headers=steer(*chain, **headers))


def ask(caller: str, made: Stage, chain: str, content: Any, /, *, model: str = MODEL, **over: Any) -> Any:
    """One unary call; `content` is that of the user's message."""
    c = client(made, chain)
    if caller == "chat":
        return c.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **over)
    told = content if isinstance(content, str) else [{"role": "user", "content": content}]
    return c.responses.create(model=model, input=told, **over)


def tools(caller: str) -> list[dict[str, Any]]:
    named = [
        {"name": name, "description": f"Tells the {name}.", "parameters": CITY, "strict": True}
        for name in ("weather", "local_time")
    ]
    if caller == "chat":
        return [{"type": "function", "function": each} for each in named]
    return [{"type": "function", **each} for each in named]


def said(answer: Any) -> str:
    return (answer.choices[0].message.content or "") if hasattr(answer, "choices") else answer.output_text


def calls(answer: Any) -> list[tuple[str, str, Any]]:
    """(id, name, arguments) of the calls in an answer."""
    if hasattr(answer, "choices"):
        found = answer.choices[0].message.tool_calls or []
        return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in found]
    found = [item for item in answer.output if item.type == "function_call"]
    return [(item.call_id, item.name, json.loads(item.arguments)) for item in found]


def tokens(answer: Any) -> tuple[int, int, int, int]:
    """Prompt, cached, output, reasoning."""
    usage = answer.usage
    if hasattr(answer, "choices"):
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        details = usage.completion_tokens_details
        hidden = (details.reasoning_tokens or 0) if details else 0
        return usage.prompt_tokens, cached or 0, usage.completion_tokens, hidden
    details = usage.output_tokens_details
    return usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens, details.reasoning_tokens


def check_asked(made: Stage, target: str) -> dict[str, Any]:
    """What reached the target: at its address, with its key and no other, with members it knows. Returns the body."""
    attempt, entry = made.last(target), TARGETS[target]
    assert entry.path in attempt.path
    key = attempt.header(entry.key)
    assert key is not None
    assert f"sk-{target}-0123456789" in key
    assert not [value for _, value in attempt.headers if CALLER_KEY in value], "the caller's key leaked"
    body = made.body(target)
    assert not unknown_members(target, body)
    return body


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_unary(made: Stage, caller: str, target: str) -> None:
    over = {"max_tokens": 500} if caller == "chat" else {"max_output_tokens": 500}
    answer = await threaded(lambda: ask(caller, made, target, "Say the words.", temperature=0, **over))
    assert said(answer).split() == list(WORDS)
    assert answer.model == TARGETS[target].model
    assert tokens(answer) == (11, 0, 60, 0)
    if caller == "chat":
        assert (answer.choices[0].finish_reason, answer.choices[0].message.role) == ("stop", "assistant")
        assert answer.usage.total_tokens == 71
    else:
        assert (answer.status, answer.incomplete_details, answer.output[-1].role) == ("completed", None, "assistant")
    assert answer.id
    assert answer._request_id, "an id the provider can be asked about"
    body = check_asked(made, target)
    assert b"500" in made.last(target).body
    temperatures = [
        body.get("temperature"),
        body.get("inferenceConfig", {}).get("temperature"),
        body.get("generationConfig", {}).get("temperature"),
    ]
    assert 0 in temperatures, "a temperature of 0 is a wish, not an absent one"


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_stream(made: Stage, caller: str, target: str) -> None:
    def chat() -> tuple[str, Any, Any]:
        with client(made, target).chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream_options={"include_usage": True}
        ) as events:
            pieces = [event.delta for event in events if event.type == "content.delta"]
            return "".join(pieces), events.get_final_completion(), len(pieces)

    def responses() -> tuple[str, Any, Any]:
        with client(made, target).responses.stream(model=MODEL, input="hi") as events:
            seen = list(events)
            numbers = [event.sequence_number for event in seen]
            assert numbers == sorted(set(numbers))
            pieces = [event.delta for event in seen if event.type == "response.output_text.delta"]
            return "".join(pieces), events.get_final_response(), len(pieces)

    text, final, count = await threaded(chat if caller == "chat" else responses)
    assert text.split() == list(WORDS)
    assert said(final) == text
    assert count > 30, "word by word, not in one piece"
    assert tokens(final) == (11, 0, 60, 0)
    if target != "azure" or caller not in TARGETS[target].own:  # Azure's first chunk has no model, and bytes are bytes
        assert final.model == TARGETS[target].model
    if caller == "chat":
        assert final.choices[0].finish_reason == "stop"
    else:
        assert final.status == "completed"
    check_asked(made, target)


@pytest.mark.parametrize(("caller", "target"), PAIRS)
@pytest.mark.parametrize(("prompt", "names"), [("call the tool", 1), ("call both", 2)])
async def test_tools_and_their_results(made: Stage, caller: str, target: str, prompt: str, names: int) -> None:
    wanted = [("weather", CITY_ARGUMENTS), ("local_time", CITY_ARGUMENTS)][:names]
    answer = await threaded(lambda: ask(caller, made, target, prompt, tools=tools(caller)))
    found = calls(answer)
    assert [(name, arguments) for _, name, arguments in found] == wanted
    assert len({call_id for call_id, _, _ in found if call_id}) == names
    if caller == "chat":
        assert answer.choices[0].finish_reason == "tool_calls"
    check_asked(made, target)
    streamed = await threaded(lambda: _streamed_calls(caller, made, target, prompt))
    assert [(name, arguments) for _, name, arguments in streamed] == wanted
    assert len({call_id for call_id, _, _ in streamed if call_id}) == names

    def go_on() -> Any:
        results = [(call_id, f"{name} is fine") for call_id, name, _ in found]
        c = client(made, target)
        if caller == "chat":
            history: list[Any] = [{"role": "user", "content": prompt}, answer.choices[0].message.to_dict()]
            history += [{"role": "tool", "tool_call_id": i, "content": text} for i, text in results]
            return c.chat.completions.create(model=MODEL, messages=history, tools=tools(caller))  # type: ignore[arg-type]
        history = [{"role": "user", "content": prompt}, *(item.to_dict() for item in answer.output)]
        history += [{"type": "function_call_output", "call_id": i, "output": text} for i, text in results]
        return c.responses.create(model=MODEL, input=history, tools=tools(caller))  # type: ignore[arg-type]

    last = await threaded(go_on)
    assert said(last).split() == list(WORDS)
    check_asked(made, target)
    sent = made.last(target).body.decode()
    for _, name, _ in found:
        assert f"{name} is fine" in sent


def _streamed_calls(caller: str, made: Stage, target: str, prompt: str) -> list[tuple[str, str, Any]]:
    c = client(made, target)
    if caller == "chat":
        with c.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            tools=tools(caller),  # type: ignore[arg-type]
            stream=True,
        ) as chunks:
            parts: dict[int, list[str]] = {}
            reasons = []
            for chunk in chunks:
                for choice in chunk.choices:
                    reasons.append(choice.finish_reason)
                    for call in choice.delta.tool_calls or []:
                        kept = parts.setdefault(call.index, ["", "", ""])
                        kept[0] += call.id or ""
                        kept[1] += (call.function.name or "") if call.function else ""
                        kept[2] += (call.function.arguments or "") if call.function else ""
        assert [reason for reason in reasons if reason] == ["tool_calls"]
        assert list(parts) == list(range(len(parts))), "calls are numbered through"
        return [(i, name, json.loads(arguments)) for i, name, arguments in parts.values()]
    with c.responses.stream(model=MODEL, input=prompt, tools=tools(caller)) as events:  # type: ignore[arg-type]
        for _ in events:
            pass
        return calls(events.get_final_response())


@pytest.mark.parametrize(("caller", "target"), PAIRS)
@pytest.mark.parametrize("streams", [False, True])
async def test_forced_forbidden_and_single_calls(made: Stage, caller: str, target: str, streams: bool) -> None:
    named: dict[str, Any] = {"type": "function", "name": "local_time"}
    if caller == "chat":
        named = {"type": "function", "function": {"name": "local_time"}}

    def names(prompt: str, **over: Any) -> list[str]:
        answer = ask(caller, made, target, prompt, tools=tools(caller), stream=streams, **over)
        if not streams:
            return [name for _, name, _ in calls(answer)]
        with answer as events:
            if caller == "chat":
                deltas = [call for e in events for ch in e.choices for call in ch.delta.tool_calls or []]
                return [call.function.name for call in deltas if call.function and call.function.name]
            done = [e.item for e in events if e.type == "response.output_item.done"]
            return [item.name for item in done if item.type == "function_call"]

    assert await threaded(lambda: names("hi", tool_choice=named)) == ["local_time"]
    assert await threaded(lambda: names("hi", tool_choice="required")) == ["weather"]
    assert await threaded(lambda: names("call the tool", tool_choice="none")) == []


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_one_call_at_a_time_or_a_warning(made: Stage, caller: str, target: str) -> None:
    def run() -> Any:
        c = client(made, target)
        told: Any = [{"role": "user", "content": "call both"}]
        over: dict[str, Any] = {"model": MODEL, "tools": tools(caller), "parallel_tool_calls": False}
        if caller == "chat":
            return c.chat.completions.with_raw_response.create(messages=told, **over)
        return c.responses.with_raw_response.create(input=told, **over)

    raw = await threaded(run)
    names = [name for _, name, _ in calls(raw.parse())]
    if target in ("gemini", "bedrock"):  # neither can be told; both of the calls are there, and the caller is told
        assert raw.headers["x-translation-warnings"].startswith("parallel_tool_calls=")
        assert names == ["weather", "local_time"]
    else:
        assert names == ["weather"]
        assert "parallel" not in raw.headers.get("x-translation-warnings", "")


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_images(made: Stage, caller: str, target: str) -> None:
    url = f"data:image/png;base64,{PNG}"
    content: list[dict[str, Any]] = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": url}]
    if caller == "chat":
        content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = await threaded(lambda: ask(caller, made, target, content))
    assert said(answer).split() == list(WORDS)
    body = check_asked(made, target)
    user = body.get("messages") or body.get("contents") or body.get("input")
    part = next(p for p in (user[-1].get("content") or user[-1].get("parts")) if PNG in json.dumps(p))
    assert {
        "openai-chat": lambda: part["image_url"]["url"] == url,
        "azure": lambda: part["image_url"]["url"] == url,
        "openai-responses": lambda: part["image_url"] == url,
        "anthropic": lambda: part["source"] == {"type": "base64", "media_type": "image/png", "data": PNG},
        "vertex": lambda: part["source"]["data"] == PNG,
        "invoke": lambda: part["source"]["data"] == PNG,
        "gemini": lambda: part["inlineData"] == {"mimeType": "image/png", "data": PNG},
        "bedrock": lambda: part["image"] == {"format": "png", "source": {"bytes": PNG}},
    }[target]()


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_structured_output(made: Stage, caller: str, target: str) -> None:
    def unary() -> Any:
        c = client(made, target)
        if caller == "chat":
            answer = c.chat.completions.parse(
                model=MODEL, messages=[{"role": "user", "content": "Plan."}], response_format=Trip
            )
            assert answer.choices[0].finish_reason == "stop"
            return answer.choices[0].message.parsed
        return c.responses.parse(model=MODEL, input="Plan.", text_format=Trip).output_parsed

    def streamed() -> Any:
        c = client(made, target)
        if caller == "chat":
            with c.chat.completions.stream(
                model=MODEL, messages=[{"role": "user", "content": "Plan."}], response_format=Trip
            ) as events:
                return events.get_final_completion().choices[0].message.parsed
        with c.responses.stream(model=MODEL, input="Plan.", text_format=Trip) as events:
            for _ in events:
                pass
            return events.get_final_response().output_parsed

    wanted = Trip(city="example", days=1, stops=["example"])
    assert await threaded(unary) == wanted
    check_asked(made, target)
    assert await threaded(streamed) == wanted


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_reasoning_and_cached_tokens(made: Stage, caller: str, target: str) -> None:
    over: dict[str, Any] = {"reasoning": {"effort": "low", "summary": "auto"}}
    if caller == "chat":
        over = {"reasoning_effort": "low"}
    cached = await threaded(lambda: ask(caller, made, target, "hi", model="cached"))
    assert tokens(cached) == (11, 4, 60, 0)
    answer = await threaded(lambda: ask(caller, made, target, "hi", model=MODEL, **over))
    prompt, _, output, hidden = tokens(answer)
    assert prompt == 11
    assert said(answer).split() == list(WORDS)
    if target in ("anthropic", "vertex", "invoke", "bedrock", "gemini"):
        assert output == 67
        assert hidden == (0 if target == "bedrock" else 7), "Converse does not count reasoning apart"
    shown = HIDDEN in json.dumps(answer.to_dict())
    if target in ("anthropic", "vertex", "invoke", "bedrock"):
        assert shown


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_an_answer_at_its_limit(made: Stage, caller: str, target: str) -> None:
    answer = await threaded(lambda: ask(caller, made, target, "hi", model="shortened"))
    if caller == "chat":
        assert answer.choices[0].finish_reason == "length"
    else:
        assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("target", ELSEWHERE)
async def test_the_same_apis_at_other_addresses(made: Stage, caller: str, target: str) -> None:
    entry = ELSEWHERE[target]
    for streams in (False, True):
        answer = await threaded(lambda s=streams: _text(ask(caller, made, target, "hi", stream=s), streams=s))
        assert answer.split() == list(WORDS)
        attempt = made.last(target)
        assert attempt.path.startswith(entry.path) or entry.path in attempt.path
        assert f"sk-{target}-0123456789" in (attempt.header(entry.key) or "")
        if entry.dialect == "azure":
            assert attempt.path.startswith(f"/openai/v1/{'chat/completions' if caller == 'chat' else 'responses'}")
    found = await threaded(lambda: calls(ask(caller, made, target, "call both", tools=tools(caller))))
    assert [name for _, name, _ in found] == ["weather", "local_time"]


def _text(answer: Any, *, streams: bool) -> str:
    if not streams:
        return said(answer)
    with answer as events:
        pieces = [
            "".join(choice.delta.content or "" for choice in event.choices)
            if hasattr(event, "choices")
            else (event.delta if event.type == "response.output_text.delta" else "")
            for event in events
        ]
    return "".join(pieces)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caller", "target"), PAIRS)
@pytest.mark.parametrize("kind", ERROR_KINDS)
async def test_every_error_is_the_right_exception(made: Stage, caller: str, target: str, kind: str) -> None:
    account = broken(target, kind, caller)
    streams = kind in ("overloaded", "rate_limit", "context_length")
    with pytest.raises(openai.APIError) as caught:
        await threaded(lambda: ask(caller, made, account, "hi", model=f"broken-{kind}", stream=streams))
    error = caught.value
    assert isinstance(error, openai.APIStatusError), error
    status, message = upstream_error(target, kind)
    if caller in TARGETS[target].own:
        assert error.status_code == status
        assert type(error) is BY_STATUS.get(status, openai.InternalServerError)
    else:
        expected, status, code = ERRORS[kind]
        assert (type(error), error.status_code) == (expected, status)
        if kind == "content_policy" and TARGETS[target].family in ("gemini", "bedrock"):
            code = error.code  # neither has a code for it: told by the text, or a plain refusal of the request
        assert error.code == code
    assert message in error.message, "the provider's own reason"
    assert error.request_id
    told = error.response.headers
    if kind == "rate_limit":
        if TARGETS[target].family == "bedrock":
            assert "retry-after" not in told or int(told["retry-after"]) < 40, "Bedrock did not tell how long"
        else:
            assert 30 <= int(told["retry-after"]) <= 40


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_an_error_within_a_stream_raises_with_the_providers_reason(made: Stage, caller: str, target: str) -> None:
    words: list[str] = []

    def read() -> None:
        with ask(caller, made, target, "hi", model="cut-error", stream=True) as events:
            for event in events:
                if caller == "chat":
                    words.extend(choice.delta.content or "" for choice in event.choices)
                elif event.type == "response.output_text.delta":
                    words.append(event.delta)
                elif event.type == "response.failed":
                    raise openai.APIError(event.response.error.message, request=None, body=None)  # type: ignore[arg-type]

    with pytest.raises(openai.APIError) as caught:
        await threaded(read)
    text = "".join(words).split()
    assert text == list(WORDS)[: len(text)]
    assert 0 < len(text) <= 20
    assert upstream_error(target, "overloaded")[1] in str(caught.value)


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_an_error_as_first_event_is_a_status(made: Stage, caller: str, target: str) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await threaded(lambda: list(ask(caller, made, target, "hi", model=f"first-error-{caller}", stream=True)))
    assert upstream_error(target, "rate_limit")[1] in caught.value.message


async def test_what_no_other_dialect_has_is_told_not_dropped(made: Stage) -> None:
    def two() -> Any:
        c = client(made, "anthropic", "gemini", "bedrock")
        return c.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], n=2)

    before = {name: fake.attempts_total for name, fake in made.fakes.items()}
    with pytest.raises(openai.BadRequestError) as caught:
        await threaded(two)
    assert caught.value.code == "not_portable"
    assert "anthropic/claude-sonnet-4-5=n" in caught.value.response.headers["x-failover-skipped"]
    assert {name: fake.attempts_total for name, fake in made.fakes.items()} == before


async def test_a_failover_across_dialects_is_told_and_nothing_else_differs(made: Stage) -> None:
    def run() -> Any:
        c = client(made, "openai-chat", "anthropic")
        return c.chat.completions.with_raw_response.create(
            model="broken-internal", messages=[{"role": "user", "content": "hi"}]
        )

    with pytest.raises(openai.InternalServerError) as caught:
        await threaded(run)
    assert [a["target"].partition("/")[0] for a in caught.value.body["attempts"]] == ["openai-chat", "anthropic"]  # type: ignore[index]
