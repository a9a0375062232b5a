"""The official OpenAI client against the running proxy: the newest here, older ones in `sdk_old_check.py`.

A client that is not told of us must see its own provider: the same objects, the same exception for every failure, and
never more upstream calls than our own policy makes, although it retries by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio

from proxy.demo.shapes import WORDS
from tests.conformance.sdk_world import World, world
from tests.e2e.harness import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = [{"role": "user", "content": "Say the words."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("sdk")) as made:
        yield made


def client(stage: World, **over: Any) -> openai.OpenAI:
    settings: dict[str, Any] = {"base_url": stage.base_url, "api_key": "sk-caller-0123456789", "max_retries": 0}
    return openai.OpenAI(**{**settings, **over})


async def use(stage: World, work: Callable[[openai.OpenAI], Any], **over: Any) -> Any:
    """Run `work` with a synchronous client in a thread: the providers answer on this loop."""

    def run() -> Any:
        with client(stage, **over) as made:
            return work(made)

    return await asyncio.to_thread(run)


async def failure(stage: World, model: str, **over: Any) -> openai.APIError:
    extra = over.pop("extra_headers", None)
    with pytest.raises(openai.APIError) as caught:
        await use(
            stage,
            lambda c: c.chat.completions.create(model=model, messages=SAID, extra_headers=extra),
            **over,
        )
    return caught.value


# Answers --------------------------------------------------------------------------------------------------------------


async def test_unary_answer_with_its_headers(stage: World) -> None:
    raw = await use(stage, lambda c: c.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAID))
    answer = raw.parse()
    assert answer.choices[0].message.content.split() == list(WORDS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens > 0
    upstream_id = stage.calls("gpt-4o")[-1]
    assert raw.headers["x-request-id"]
    assert raw.headers["x-request-id"] != raw.headers["x-outrider-request-id"], "the upstream's own id is kept"
    assert answer._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-served-by"] == "primary"
    assert raw.headers["x-served-model"] == "gpt-4o"
    assert raw.headers["x-attempts"] == "1"
    assert raw.headers["x-circuit-status"] == "closed"
    assert "x-failover" not in raw.headers
    assert upstream_id.header("authorization") == "Bearer sk-primary-0123456789", "the caller's key stays with us"


async def test_stream_says_all_words_once_and_ends(stage: World) -> None:
    def work(c: openai.OpenAI) -> tuple[str, list[Any], Any]:
        with c.chat.completions.create(
            model="gpt-4o", messages=SAID, stream=True, stream_options={"include_usage": True}
        ) as chunks:
            seen = list(chunks)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices)
        return text, [chunk.choices[0].finish_reason for chunk in seen if chunk.choices], seen[-1].usage

    text, reasons, usage = await use(stage, work)
    assert text.split() == list(WORDS)
    assert [reason for reason in reasons if reason] == ["stop"]
    assert usage.total_tokens > 0


@pytest.mark.parametrize(("prompt", "names"), [("call the tool", ["weather"]), ("call the tools", ["weather", "time"])])
async def test_tools_unary_and_streamed_alike(stage: World, prompt: str, names: list[str]) -> None:
    told = [{"role": "user", "content": prompt}]

    def unary(c: openai.OpenAI) -> list[tuple[str, str]]:
        answer = c.chat.completions.create(model="gpt-4o", messages=told, tools=TOOLS)
        assert answer.choices[0].finish_reason == "tool_calls"
        return [(call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls]

    def streamed(c: openai.OpenAI) -> list[tuple[str, str]]:
        with c.chat.completions.stream(model="gpt-4o", messages=told, tools=TOOLS) as events:
            answer = events.get_final_completion()
        return [(call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls or []]

    calls = await use(stage, unary)
    assert [name for name, _ in calls] == names
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)
    assert await use(stage, streamed) == calls


async def test_embeddings_come_as_base64_and_are_decoded(stage: World) -> None:
    answer = await use(stage, lambda c: c.embeddings.create(model="text-embedding-3-small", input=["a", "b"]))
    assert [entry.index for entry in answer.data] == [0, 1]
    assert all(isinstance(number, float) for number in answer.data[0].embedding)
    assert json.loads(stage.calls("text-embedding-3-small")[-1].body)["encoding_format"] == "base64"


async def test_models_are_listed_and_looked_up_without_an_upstream_call(stage: World) -> None:
    before = stage.primary.attempts_total + stage.second.attempts_total
    listed = await use(stage, lambda c: [model.id for model in c.models.list()])
    assert {"gpt-4o", "refused"} <= set(listed)
    found = await use(stage, lambda c: c.models.retrieve("gpt-4o"))
    assert (found.id, found.object, found.owned_by) == ("gpt-4o", "model", "primary")
    with pytest.raises(openai.NotFoundError) as caught:
        await use(stage, lambda c: c.models.retrieve("no/such model"))
    assert caught.value.code == "model_not_found"
    assert stage.primary.attempts_total + stage.second.attempts_total == before


async def test_asynchronous_client(stage: World) -> None:
    async with openai.AsyncOpenAI(base_url=stage.base_url, api_key="sk-caller", max_retries=0) as made:
        answer = await made.chat.completions.create(model="gpt-4o", messages=SAID)
        assert (answer.choices[0].message.content or "").split() == list(WORDS)
        stream = await made.chat.completions.create(model="gpt-4o", messages=SAID, stream=True)
        async with stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text.split() == list(WORDS)


async def test_base_url_without_v1(stage: World) -> None:
    answer = await use(
        stage,
        lambda c: c.chat.completions.create(model="gpt-4o", messages=SAID),
        base_url=stage.sidecar.url,
    )
    assert answer.choices[0].finish_reason == "stop"


async def test_default_headers_steer_the_request_and_reach_no_provider(stage: World) -> None:
    steering = {
        "X-Failover-Providers": "second,primary",
        "X-Max-Retries": "0",
        "X-Explain": "true",
        "X-Request-Hedging": "false",
    }
    raw = await use(
        stage,
        lambda c: c.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAID),
        default_headers=steering,
    )
    assert raw.headers["x-served-by"] == "second"
    assert [step["target"] for step in json.loads(raw.headers["x-failover-trace"])] == ["second/gpt-4o"]
    seen = {name.lower() for name, _ in stage.second.attempts[-1].headers}
    assert not {name.lower() for name in steering} & seen
    assert "x-stainless-lang" in seen, "what the client says of itself passes"


async def test_failover_is_invisible_but_told(stage: World) -> None:
    raw = await use(stage, lambda c: c.chat.completions.with_raw_response.create(model="primary-dead", messages=SAID))
    assert raw.parse().choices[0].message.content.split() == list(WORDS)
    assert raw.headers["x-served-by"] == "second"
    assert raw.headers["x-failover"] == "true"
    assert raw.headers["x-failover-reason"] == "server_error"
    assert raw.headers["proxy-status"] == 'outrider; next-hop="primary"; received-status=500'
    assert (raw.headers["x-attempts"], raw.headers["x-retry-count"]) == ("3", "1")


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "status", "code"),
    [
        ("status-400", openai.BadRequestError, 400, None),
        ("context", openai.BadRequestError, 400, "context_length_exceeded"),
        ("policy", openai.BadRequestError, 400, None),
        ("status-401", openai.AuthenticationError, 401, "invalid_api_key"),
        ("status-403", openai.PermissionDeniedError, 403, None),
        ("status-404", openai.NotFoundError, 404, "model_not_found"),
        ("status-409", openai.ConflictError, 409, None),
        ("status-422", openai.UnprocessableEntityError, 422, None),
        ("status-429", openai.RateLimitError, 429, None),
        ("status-429-quota", openai.RateLimitError, 429, "insufficient_quota"),
        ("status-500", openai.InternalServerError, 500, None),
        ("status-503", openai.InternalServerError, 503, None),
    ],
)
async def test_upstream_errors_keep_status_and_code(
    stage: World, model: str, kind: type[openai.APIStatusError], status: int, code: str | None
) -> None:
    error = await failure(stage, model)
    assert type(error) is kind
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status
    assert code is None or error.code == code
    assert error.request_id
    assert error.request_id != error.response.headers["x-outrider-request-id"], "the upstream's own id is kept"
    assert isinstance(error.body, dict)
    assert error.body["message"]
    assert len(stage.calls(model)) == 1


async def test_the_callers_own_fault_comes_back_byte_for_byte(stage: World) -> None:
    error = await failure(stage, "status-400")
    assert isinstance(error, openai.BadRequestError)
    assert "temperature: too hot" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    assert b'"attempts"' not in error.response.content


async def test_silence_is_a_504(stage: World) -> None:
    error = await failure(stage, "silent", extra_headers={"X-First-Token-Timeout-Ms": "100"})
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code, error.type) == (504, "timeout", "server_error")
    assert error.request_id == error.response.headers["x-outrider-request-id"], "no other id is known"


async def test_a_refused_connection_is_a_502(stage: World) -> None:
    error = await failure(stage, "refused", extra_headers={"X-Max-Retries": "0"})
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code, error.type) == (502, "upstream_error", "server_error")
    assert error.request_id == error.response.headers["x-outrider-request-id"]
    assert "error=connection_refused" in error.response.headers["proxy-status"]


async def test_our_own_refusals_name_the_header(stage: World) -> None:
    error = await failure(stage, "gpt-4o", default_headers={"X-Retry-Config": '{"multiplier":"two"}'})
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "invalid_header"
    assert error.param is not None
    assert error.param.lower() == "x-retry-config.multiplier"
    assert 'must be a number from 1 to 10, got "two"' in error.message
    assert error.request_id == error.response.headers["x-outrider-request-id"]


async def test_an_unknown_model_and_an_unknown_path_are_404(stage: World) -> None:
    error = await failure(stage, "nobody-has-it")
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        await use(stage, lambda c: c.get("/nothing/here", cast_to=object), base_url=f"{stage.sidecar.url}/elsewhere")
    assert caught.value.code == "unknown_path"


# Retries on retries ---------------------------------------------------------------------------------------------------


async def test_L16_the_clients_retries_never_multiply_ours(stage: World) -> None:
    error = await failure(stage, "both-dead", max_retries=2)
    assert isinstance(error, openai.InternalServerError)
    assert error.response.headers["x-should-retry"] == "false"
    calls = stage.calls("both-dead")
    assert len(calls) == 3, "primary, its retry, the fallback; and not three times that"
    assert {call.header("x-stainless-retry-count") for call in calls} == {"0"}
    assert len(error.body["attempts"]) == 3


async def test_L16_a_fast_local_refusal_lets_the_client_wait(stage: World) -> None:
    first = await failure(stage, "limited")
    assert isinstance(first, openai.RateLimitError)
    calls = len(stage.calls("limited"))
    second = await failure(stage, "limited")
    assert isinstance(second, openai.APIStatusError)
    assert second.status_code in (429, 503)
    assert len(stage.calls("limited")) == calls, "the target cools down: no upstream call"
    assert second.response.headers["x-should-retry"] == "true"
    assert 1 <= int(second.response.headers["retry-after"]) <= 15
    assert int(second.response.headers["retry-after-ms"]) <= 15_000
    assert second.response.headers["x-attempts"] == "0"


# Broken streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cut", "cut-plain", "cut-end", "cut-error"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_L39_a_cut_stream_raises(stage: World, model: str, asynchronous: bool) -> None:
    said: list[str] = []

    def work(c: openai.OpenAI) -> None:
        with c.chat.completions.create(model=model, messages=SAID, stream=True) as chunks:
            said.extend(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    async def work_async() -> None:
        async with openai.AsyncOpenAI(base_url=stage.base_url, api_key="sk-caller", max_retries=2) as made:
            stream = await made.chat.completions.create(model=model, messages=SAID, stream=True)
            async with stream:
                async for chunk in stream:
                    said.extend(choice.delta.content or "" for choice in chunk.choices)

    before = len(stage.calls(model))
    with pytest.raises(openai.APIError) as caught:
        await (work_async() if asynchronous else use(stage, work, max_retries=2))
    assert "".join(said).split() == list(WORDS)[: len("".join(said).split())]
    assert len("".join(said).split()) <= 20
    assert caught.value.code
    assert len(stage.calls(model)) == before + 1, "after content there is no second attempt"


# Older clients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "version"), [("old", "1.12.0"), ("mid", "2.")])
async def test_older_supported_clients(stage: World, folder: str, version: str) -> None:
    packages = ROOT / f".venv-sdk-{folder}"
    if not (packages / "openai").is_dir():
        pytest.skip("needs `make sdk`")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "conformance" / "sdk_old_check.py"),
        stage.sidecar.url,
        folder,
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    report = json.loads(out)
    assert report["version"].startswith(version)
    assert report["done"] >= 9
    assert len(stage.calls(f"{folder}-dead")) == 3, "the old client's retries do not multiply ours either"
