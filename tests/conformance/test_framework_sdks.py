"""Frameworks that stand on the official clients: LangChain's chat models and pydantic-ai, with every kind of target.

They are imported where they are used: together they cost several seconds that a run of other tests need not pay.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from proxy.demo.shapes import WORDS
from tests.conformance.sdk_targets import (
    CALLER_KEY,
    CITY_ARGUMENTS,
    MODEL,
    PNG,
    Stage,
    broken,
    picture,
    stage,
    steer,
    threaded,
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # Not ours to mend: what the frameworks call of each other and of their clients.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CALLERS = ("chat", "responses", "messages")
APIS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
"""One target of each API; the others differ in address and key, which the official clients' own tests look at."""
PAIRS = [(caller, target) for caller in CALLERS for target in APIS]
ERRORS: dict[str, tuple[type[Exception], type[Exception], int, int]] = {
    "rate_limit": (openai.RateLimitError, anthropic.RateLimitError, 429, 429),
    "context_length": (openai.BadRequestError, anthropic.BadRequestError, 400, 400),
    "auth": (openai.AuthenticationError, anthropic.AuthenticationError, 401, 401),
    "overloaded": (openai.InternalServerError, anthropic.OverloadedError, 503, 529),
}
"""Kind of error: what the client of each dialect raises, and the status."""


class Trip(BaseModel):
    """A journey."""

    city: str
    days: int
    stops: list[str]


WANTED = Trip(city="example", days=1, stops=["example"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    groups = [f"{framework}-{caller}" for framework in ("chain", "agent") for caller in CALLERS]
    async with stage(tmp_path_factory.mktemp("targets"), groups=groups, targets=APIS) as built:
        yield built


# LangChain ------------------------------------------------------------------------------------------------------------


def chain(made: Stage, caller: str, target: str, model: str = MODEL) -> Any:
    """LangChain's chat model of a caller's dialect."""
    if caller == "messages":
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(
            model_name=model,
            base_url=made.url,
            api_key=CALLER_KEY,  # type: ignore[arg-type]
            max_retries=0,
            max_tokens_to_sample=500,
            timeout=20,
            stop=None,
            default_headers=steer(target),
        )
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=model,
        base_url=f"{made.url}/v1",
        api_key=CALLER_KEY,  # type: ignore[arg-type]
        max_retries=0,
        stream_usage=True,
        use_responses_api=caller == "responses",
        default_headers=steer(target),
    )


def weather(city: str, days: int) -> str:
    """Tells the weather."""
    return f"fine in {city} for {days}"


def local_time(city: str, days: int) -> str:
    """Tells the local time."""
    return f"noon in {city} for {days}"


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_langchain(made: Stage, caller: str, target: str) -> None:
    def run() -> tuple[Any, list[Any]]:
        model = chain(made, caller, target)
        return model.invoke("Say the words."), list(model.stream("Say the words."))

    whole, chunks = await threaded(run)
    assert whole.text.split() == list(WORDS)
    assert (whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]) == (11, 60)
    assert "".join(chunk.text for chunk in chunks).split() == list(WORDS)
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata["output_tokens"] == 60


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_langchain_tools(made: Stage, caller: str, target: str) -> None:
    def run() -> tuple[Any, Any, Any]:
        from langchain_core.messages import HumanMessage, ToolMessage

        model = chain(made, caller, target).bind_tools([weather, local_time])
        question = HumanMessage("call both")
        whole = model.invoke([question])
        total: Any = None
        for chunk in model.stream([question]):
            total = chunk if total is None else total + chunk
        results = [ToolMessage(f"{call['name']} is fine", tool_call_id=call["id"]) for call in whole.tool_calls]
        return whole, total, model.invoke([question, whole, *results])

    whole, total, last = await threaded(run)
    for message in (whole, total):
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [
            ("weather", CITY_ARGUMENTS),
            ("local_time", CITY_ARGUMENTS),
        ]
    assert last.text.split() == list(WORDS)
    sent = made.last(target).body.decode()
    assert "weather is fine" in sent
    assert "local_time is fine" in sent


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_langchain_images_and_structured_output(made: Stage, caller: str, target: str) -> None:
    def run() -> list[Any]:
        from langchain_core.messages import HumanMessage

        model = chain(made, caller, target)
        block: dict[str, Any] = {"type": "image", "base64": PNG, "mime_type": "image/png"}
        model.invoke([HumanMessage(content=[{"type": "text", "text": "What?"}, block])])
        assert PNG in made.last(target).body.decode()
        methods = ("json_schema", "function_calling")
        return [model.with_structured_output(Trip, method=method).invoke("Plan.") for method in methods]

    assert await threaded(run) == [WANTED, WANTED]


@pytest.mark.parametrize(("caller", "target"), PAIRS)
@pytest.mark.parametrize("kind", ERRORS)
async def test_langchain_errors(made: Stage, caller: str, target: str, kind: str) -> None:
    of_openai, of_anthropic, *_ = ERRORS[kind]
    account = broken(target, kind, f"chain-{caller}")
    with pytest.raises(of_anthropic if caller == "messages" else of_openai):
        await threaded(lambda: chain(made, caller, account, f"broken-{kind}").invoke("hi"))


# pydantic-ai ----------------------------------------------------------------------------------------------------------


Build = Callable[..., Any]


@asynccontextmanager
async def agents(made: Stage, caller: str, target: str, model: str = MODEL) -> AsyncIterator[Build]:
    """What builds pydantic-ai's agents on a client of a caller's dialect; the client is closed at the end."""
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    own: dict[str, Any] = {"api_key": CALLER_KEY, "max_retries": 0, "default_headers": steer(target)}
    if caller == "messages":
        async with anthropic.AsyncAnthropic(base_url=made.url, **own) as client:
            spoken = AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))
            yield lambda **over: Agent(spoken, **over)
        return
    async with openai.AsyncOpenAI(base_url=f"{made.url}/v1", **own) as client:
        kind = OpenAIChatModel if caller == "chat" else OpenAIResponsesModel
        spoken = kind(model, provider=OpenAIProvider(openai_client=client))
        yield lambda **over: Agent(spoken, **over)


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_pydantic_ai(made: Stage, caller: str, target: str) -> None:
    from pydantic_ai import BinaryContent

    image = BinaryContent(data=picture(), media_type="image/png")
    async with agents(made, caller, target) as build:
        speaker = build()
        answer = await speaker.run(["Say the words.", image])
        assert PNG in made.last(target).body.decode()
        assert answer.output.split() == list(WORDS)
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 60)
        async with speaker.run_stream("Say the words.") as stream:
            text = "".join([piece async for piece in stream.stream_text(delta=True)])
        assert text.split() == list(WORDS)


@pytest.mark.parametrize(("caller", "target"), PAIRS)
async def test_pydantic_ai_tools_and_structured_output(made: Stage, caller: str, target: str) -> None:
    from pydantic_ai import NativeOutput

    asked: list[tuple[str, int]] = []

    def look(city: str, days: int) -> str:
        """Looks outside."""
        asked.append((city, days))
        return "fine"

    def clock(city: str, days: int) -> str:
        """Tells the time."""
        asked.append((city, days))
        return "noon"

    async with agents(made, caller, target) as build:
        answer = await build(tools=[look, clock]).run("call both")
        assert answer.output.split() == list(WORDS)
        assert asked == [("example", 1)] * 2
        assert "noon" in made.last(target).body.decode()
        assert (await build(output_type=Trip).run("Plan.")).output == WANTED
        if caller != "messages":  # of Anthropic's models it believes this only of names that it knows
            assert (await build(output_type=NativeOutput(Trip)).run("Plan.")).output == WANTED


@pytest.mark.parametrize(("caller", "target"), PAIRS)
@pytest.mark.parametrize("kind", ERRORS)
async def test_pydantic_ai_errors(made: Stage, caller: str, target: str, kind: str) -> None:
    from pydantic_ai.exceptions import ModelHTTPError

    *_, of_openai, of_anthropic = ERRORS[kind]
    account = broken(target, kind, f"agent-{caller}")
    async with agents(made, caller, account, f"broken-{kind}") as build:
        with pytest.raises(ModelHTTPError) as caught:
            await build().run("hi")
    assert caught.value.status_code == (of_anthropic if caller == "messages" else of_openai)
    assert "message" in json.dumps(caught.value.body)
