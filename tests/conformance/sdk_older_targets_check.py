"""Older OpenAI and Anthropic clients, with a target of every dialect; a script: pytest's environment has the newest.

``PYTHONPATH=.venv-sdk-old .venv/bin/python tests/conformance/sdk_older_targets_check.py URL PICTURE GROUP TARGET ...``
with the providers of `sdk_targets` behind it; PICTURE is a PNG in base64, GROUP the caller whose accounts meet errors.
Prints ``{"openai", "anthropic", "done"}`` (two versions, how many checks) and exits with 0, or fails with a traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic
import openai

MODEL = "assistant"
WORD_COUNT = 60
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CALLS = [("weather", {"city": "example", "days": 1}), ("local_time", {"city": "example", "days": 1})]
ERRORS = {
    "rate-limit": ("RateLimitError", 429, 429),
    "auth": ("AuthenticationError", 401, 401),
    "permission": ("PermissionDeniedError", 403, 403),
    "model-not-found": ("NotFoundError", 404, 404),
    "context-length": ("BadRequestError", 400, 400),
    "invalid-request": ("BadRequestError", 400, 400),
    "overloaded": ("InternalServerError", 503, 529),
}
"""Kind of error: the exception, whose name is almost always the same in both clients, and the status of each."""

Client = Any


def told(text: str) -> Any:
    return [{"role": "user", "content": text}]


# OpenAI: chat


def chat_words(client: Client, picture: str) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=told("Say the words."))
    assert len((answer.choices[0].message.content or "").split()) == WORD_COUNT
    assert (answer.choices[0].finish_reason, answer.usage.total_tokens) == ("stop", 71)
    chunks = list(client.chat.completions.create(model=MODEL, messages=told("Say the words."), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == WORD_COUNT
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def chat_tools(client: Client, picture: str) -> None:
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name, _ in CALLS]
    answer = client.chat.completions.create(model=MODEL, messages=told("call both"), tools=tools)
    message = answer.choices[0].message
    found = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert found == CALLS, found
    assert answer.choices[0].finish_reason == "tool_calls"
    parts: dict[int, list[str]] = {}
    for chunk in client.chat.completions.create(model=MODEL, messages=told("call both"), tools=tools, stream=True):
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            kept = parts.setdefault(call.index, ["", ""])
            kept[0] += call.function.name or ""
            kept[1] += call.function.arguments or ""
    assert [(name, json.loads(given)) for name, given in parts.values()] == CALLS, parts
    history = [*told("call both"), message.model_dump(exclude_none=True)]
    history += [{"role": "tool", "tool_call_id": call.id, "content": "fine"} for call in message.tool_calls]
    last = client.chat.completions.create(model=MODEL, messages=history, tools=tools)
    assert len(last.choices[0].message.content.split()) == WORD_COUNT


def chat_picture_and_json(client: Client, picture: str) -> None:
    url = {"url": f"data:image/png;base64,{picture}"}
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": False}}
    answer = client.chat.completions.create(model=MODEL, messages=told("Plan."), response_format=form)
    assert json.loads(answer.choices[0].message.content) == CALLS[0][1]


# Anthropic: messages


def messages_words(client: Client, picture: str) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 500, "messages": told("Say the words.")}
    message = client.messages.create(**asked)
    assert len(message.content[0].text.split()) == WORD_COUNT
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", WORD_COUNT)
    with client.messages.stream(**asked) as events:
        assert len("".join(events.text_stream).split()) == WORD_COUNT
        assert events.get_final_message().stop_reason == "end_turn"


def messages_tools(client: Client, picture: str) -> None:
    tools: Any = [{"name": name, "input_schema": SCHEMA} for name, _ in CALLS]
    asked: Any = {"model": MODEL, "max_tokens": 500, "messages": told("call both"), "tools": tools}
    message = client.messages.create(**asked)
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == CALLS, uses
    with client.messages.stream(**asked) as events:
        again = [block for block in events.get_final_message().content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in again] == CALLS, again
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "fine"} for use in uses]
    history = [
        *told("call both"),
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
        {"role": "user", "content": results},
    ]
    last = client.messages.create(**{**asked, "messages": history})
    assert len(last.content[0].text.split()) == WORD_COUNT


def messages_picture(client: Client, picture: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": picture}
    content: Any = [{"type": "text", "text": "What?"}, {"type": "image", "source": source}]
    client.messages.create(model=MODEL, max_tokens=500, messages=[{"role": "user", "content": content}])


# Both


CHAT: tuple[Callable[[Client, str], None], ...] = (chat_words, chat_tools, chat_picture_and_json)
MESSAGES: tuple[Callable[[Client, str], None], ...] = (messages_words, messages_tools, messages_picture)


def check_errors(package: Any, client: Client, target: str, group: str) -> None:
    is_openai = package is openai
    for kind, (name, of_openai, of_anthropic) in ERRORS.items():
        asking = client.with_options(default_headers={"X-Failover-Providers": f"{target}-{kind}-{group}"})
        error = failure(package, asking, f"broken-{kind.replace('-', '_')}")
        if kind == "overloaded" and not is_openai:
            name = "OverloadedError"  # not exported by every major
        assert type(error).__name__ == name, (target, kind, error)
        assert error.status_code == (of_openai if is_openai else of_anthropic), (target, kind, error)


def failure(package: Any, client: Client, model: str) -> Any:
    try:
        if package is openai:
            client.chat.completions.create(model=model, messages=told("hi"))
        else:
            client.messages.create(model=model, max_tokens=9, messages=told("hi"))
    except package.APIStatusError as error:
        return error
    raise AssertionError(f"{model} was answered")


def check_cut(package: Any, client: Client, target: str) -> None:
    """An error within the stream is no complete answer."""
    try:
        if package is openai:
            list(client.chat.completions.create(model="cut-error", messages=told("hi"), stream=True))
        else:
            list(client.messages.create(model="cut-error", max_tokens=9, messages=told("hi"), stream=True))
    except package.APIError:
        return
    raise AssertionError(f"{target}: a stream that ended with an error was taken for a whole one")


def main(url: str, picture: str, group: str, *targets: str) -> None:
    done = 0
    shared: Any = {"api_key": "sk-caller-0123456789", "max_retries": 0}
    with (
        openai.OpenAI(base_url=f"{url}/v1", **shared) as of_openai,
        anthropic.Anthropic(base_url=url, **shared) as of_anthropic,
    ):
        sides: Any = ((openai, of_openai, CHAT, "chat"), (anthropic, of_anthropic, MESSAGES, "messages"))
        for package, base, checks, caller in sides:
            for target in targets:
                client = base.with_options(default_headers={"X-Failover-Providers": target})
                for check in checks:
                    check(client, picture)
                check_errors(package, base, target, f"{group}-{caller}")
                check_cut(package, client, target)
                done += len(checks) + len(ERRORS) + 1
    print(json.dumps({"openai": openai.__version__, "anthropic": anthropic.__version__, "done": done}))


if __name__ == "__main__":
    main(*sys.argv[1:])
