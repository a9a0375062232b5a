"""The official SDKs as judges: do their types take what we write? Without a package its verdict is left out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import pytest

from tests.conformance.score import wire

PACKAGES = {
    "chat": "openai",
    "responses": "openai",
    "messages": "anthropic",
    "generate": "google.genai",
    "converse": "botocore",
}


def missing() -> list[str]:
    """SDKs that are not installed."""
    found = []
    for name in sorted(set(PACKAGES.values())):
        try:
            importlib.import_module(name)
        except ImportError:
            found.append(name)
    return found


def need() -> None:
    """Skip the test that needs the SDKs when one is absent."""
    if absent := missing():
        pytest.skip(f"needs {', '.join(absent)} (make install)")


def request_faults(api: str, body: dict[str, Any]) -> list[str]:
    """What the SDK of a dialect would not let a caller write; empty: nothing."""
    return _first_lines(_request_judge(api), body)


def answer_faults(api: str, body: bytes, stream: bool) -> list[str]:
    """What the SDK of a dialect cannot parse of an answer; empty: nothing."""
    judge = _answer_judge(api, stream)
    if judge is None:
        return []
    if not stream:
        return _first_lines(judge, wire.load(body))
    if api == "converse":
        return _first_lines(judge, [(headers.get(":event-type"), payload) for headers, payload in wire.frames(body)])
    for _, data in wire.sse(body):
        if data != "[DONE]" and (found := _first_lines(judge, wire.load(data))):
            return found
    return []


def _first_lines(judge: Callable[[Any], None], value: Any) -> list[str]:
    try:
        judge(value)
    except Exception as fault:  # whatever an SDK raises is its verdict
        return [f"SDK: {_telling(fault)[:400]}"]
    return []


def _telling(fault: Exception) -> str:
    """Of a union's errors, those of the member that was meant: its ``type`` and ``role`` fit."""
    list_errors = getattr(fault, "errors", None)
    if list_errors is None:
        return " | ".join(str(fault).splitlines()[:4])
    errors = list_errors()
    strangers = {each["loc"][:-1] for each in errors if each["loc"][-1:] in (("type",), ("role",))}
    meant = [each for each in errors if not any(each["loc"][: len(prefix)] == prefix for prefix in strangers)] or errors
    return " | ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in meant[:4])


@cache
def _request_judge(api: str) -> Callable[[Any], None]:
    if api == "converse":
        return _bedrock_request()
    if api == "generate":
        return _gemini_request()
    from pydantic import ConfigDict, TypeAdapter

    if api == "messages":
        from anthropic.types import message_create_params as params

        kinds = (params.MessageCreateParamsNonStreaming, params.MessageCreateParamsStreaming)
    elif api == "chat":
        from openai.types.chat import completion_create_params as params  # type: ignore[no-redef]

        kinds = (params.CompletionCreateParamsNonStreaming, params.CompletionCreateParamsStreaming)
    else:
        from openai.types.responses import response_create_params as params  # type: ignore[no-redef]

        kinds = (params.ResponseCreateParamsNonStreaming, params.ResponseCreateParamsStreaming)
    strict = ConfigDict(extra="forbid")
    adapters = [TypeAdapter(tuple[kind], config=strict) for kind in kinds]

    def judge(body: Any) -> None:
        left_out = SAMPLING if api == "messages" else ()
        shown = {key: value for key, value in body.items() if key not in left_out}
        _consume(adapters[body.get("stream") is True].validate_python((shown,)))

    return judge


SAMPLING = ("temperature", "top_p", "top_k")
"""Members of Anthropic's older version (2023-06-01), which the newest SDK has forgotten."""


def _consume(value: Any) -> None:
    """Walk through everything: pydantic judges an Iterable's items only when they are asked for."""
    if isinstance(value, dict):
        for each in value.values():
            _consume(each)
    elif hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        for each in value:
            _consume(each)


def _gemini_request() -> Callable[[Any], None]:
    from google.genai import types

    def judge(body: Any) -> None:
        for content in body["contents"]:
            types.Content.model_validate(content)
        if "systemInstruction" in body:
            types.Content.model_validate(body["systemInstruction"])
        for tool in body.get("tools") or []:
            types.Tool.model_validate(tool)
        if "toolConfig" in body:
            types.ToolConfig.model_validate(body["toolConfig"])
        if "generationConfig" in body:
            types.GenerationConfig.model_validate(body["generationConfig"])
        for each in body.get("safetySettings") or []:
            types.SafetySetting.model_validate(each)
        known = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings",
                 "cachedContent", "serviceTier", "labels", "store", "continuationToken"}  # fmt: skip
        if unknown := set(body) - known:
            raise ValueError(f"unknown members {sorted(unknown)}")

    return judge


@cache
def _bedrock() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))


def _bedrock_request() -> Callable[[Any], None]:
    from botocore.validate import ParamValidator

    shape = _bedrock().operation_model("Converse").input_shape

    def judge(body: Any) -> None:
        report = ParamValidator().validate({"modelId": "m", **body}, shape)
        if report.has_errors():
            raise ValueError(report.generate_report())

    return judge


@cache
def _answer_judge(api: str, stream: bool) -> Callable[[Any], None] | None:
    try:
        if api == "chat":
            from openai.types.chat import ChatCompletion, ChatCompletionChunk

            return (ChatCompletionChunk if stream else ChatCompletion).model_validate
        if api == "responses":
            from openai.types.responses import Response, ResponseStreamEvent

            return _by_type(ResponseStreamEvent) if stream else Response.model_validate
        if api == "messages":
            from anthropic.types import Message, RawMessageStreamEvent

            return _by_type(RawMessageStreamEvent) if stream else Message.model_validate
        if api == "generate":
            from google.genai.types import GenerateContentResponse

            return GenerateContentResponse.model_validate
        return _bedrock_answer(stream)
    except ImportError:
        return None


def _by_type(union: Any) -> Callable[[Any], None]:
    """Events judged by the class of their own type; a type that the SDK does not list is skipped by it too."""
    members = get_args(get_args(union)[0] if get_origin(union) is Annotated else union)
    kinds = {word: each for each in members for word in get_args(each.model_fields["type"].annotation)}

    def judge(event: Any) -> None:
        if event["type"] in kinds:
            kinds[event["type"]].model_validate(event)

    return judge


def _bedrock_answer(stream: bool) -> Callable[[Any], None]:
    from botocore.validate import ParamValidator

    model = _bedrock()

    def whole(body: Any) -> None:
        shape = model.operation_model("Converse").output_shape
        known = {key: value for key, value in body.items() if key in shape.members}
        report = ParamValidator().validate(known, shape)
        if report.has_errors():
            raise ValueError(report.generate_report())

    def events(found: Any) -> None:
        members = model.shape_for("ConverseStreamOutput").members
        for kind, payload in found:
            report = ParamValidator().validate(payload, members[kind])
            if report.has_errors():
                raise ValueError(f"{kind}: {report.generate_report()}")

    return events if stream else whole
