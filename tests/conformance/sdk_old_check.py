"""An older OpenAI client against a running proxy; a script, since pytest's environment has the newest.

``PYTHONPATH=.venv-sdk-old .venv/bin/python tests/conformance/sdk_old_check.py http://127.0.0.1:8711 old``
with the providers of `sdk_world` behind it. Prints ``{"version", "done"}`` and exits with 0, or fails with a traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import openai

SAID: Any = [{"role": "user", "content": "Say the words."}]
WORD_COUNT = 60
PREFIX = sys.argv[2]
"""Of the models that fail for this client: what fails is remembered, and must not meet another."""


def check_unary(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAID)
    answer = raw.parse()
    assert len(answer.choices[0].message.content.split()) == WORD_COUNT
    assert raw.headers["x-served-by"] == "primary"
    assert raw.headers["x-request-id"] != raw.headers["x-outrider-request-id"]


def check_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=SAID, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == WORD_COUNT
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def check_parallel_tools(client: openai.OpenAI) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
        for name in ("weather", "time")
    ]
    told: Any = [{"role": "user", "content": "call the tools"}]
    answer = client.chat.completions.create(model="gpt-4o", messages=told, tools=tools)
    assert [call.function.name for call in answer.choices[0].message.tool_calls or []] == ["weather", "time"]


def check_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input="a")
    assert all(isinstance(number, float) for number in answer.data[0].embedding)


def check_models(client: openai.OpenAI) -> None:
    assert "gpt-4o" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").owned_by == "primary"


def check_asynchronous(client: openai.OpenAI) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="sk-caller", max_retries=0) as made:
            stream = await made.chat.completions.create(model="gpt-4o", messages=SAID, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert len(text.split()) == WORD_COUNT

    asyncio.run(run())


def check_error_classes(client: openai.OpenAI) -> None:
    for model, kind in (
        (f"{PREFIX}-status-400", openai.BadRequestError),
        (f"{PREFIX}-status-404", openai.NotFoundError),
        (f"{PREFIX}-status-409", openai.ConflictError),
        (f"{PREFIX}-status-422", openai.UnprocessableEntityError),
        ("refused", openai.InternalServerError),
    ):
        error = failure(client, model)
        assert type(error) is kind, (model, error)


def check_our_refusal(client: openai.OpenAI) -> None:
    error = failure(client.with_options(default_headers={"X-Max-Retries": "many"}), "gpt-4o")
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "invalid_header"
    assert (error.param or "").lower() == "x-max-retries"


def check_no_retries_on_retries(client: openai.OpenAI) -> None:
    error = failure(client.with_options(max_retries=2), f"{PREFIX}-dead")
    assert isinstance(error, openai.InternalServerError)
    assert error.response.headers["x-should-retry"] == "false"


def check_cut_stream(client: openai.OpenAI) -> None:
    try:
        list(client.chat.completions.create(model=f"{PREFIX}-cut", messages=SAID, stream=True))
    except (openai.APIError, httpx.TransportError):
        return
    raise AssertionError("a cut stream was taken for a whole one")


def failure(client: openai.OpenAI, model: str) -> openai.APIStatusError:
    try:
        client.chat.completions.create(model=model, messages=SAID)
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"{model} was answered")


def main(url: str) -> None:
    checks = [check for name, check in globals().items() if name.startswith("check_")]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-caller-0123456789", max_retries=0) as client:
        for check in checks:
            check(client)
    print(json.dumps({"version": openai.__version__, "done": len(checks)}))


if __name__ == "__main__":
    main(sys.argv[1])
