"""Who reads and who speaks which wire API. The only place that knows all speakers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from proxy.dialects import splice
from proxy.dialects.anthropic import MessagesReader
from proxy.dialects.chat import Asked, Encoded, ModelFacts, Request, StreamReader
from proxy.dialects.hearing import Speaker
from proxy.dialects.openai import ChatReader, EmbeddingsReader, choices_asked
from proxy.dialects.reading import Reader
from proxy.dialects.responses import ResponsesReader
from proxy.dialects.translation import Converter, Translator

CALLERS: Final[Mapping[str, str]] = {"chat": "chat", "messages": "messages", "responses": "responses"}
"""Endpoint -> the API its callers speak, for endpoints whose answers can be translated as conversations."""

APIS: Final = frozenset({"chat", "responses", "messages", "generate", "converse", "invoke"})
"""Wire APIs of conversations."""
_SPEAKERS: dict[str, Speaker] = {}


def reader(endpoint: str, body: Mapping[str, Any]) -> Reader | None:
    """A fresh reader for one answer; None: the answer is passed through unread.

    `endpoint` is the value of the engine's Endpoint: ``chat``, ``embeddings``, ``messages``, ``responses``, ``count``,
    ``raw``.
    """
    if endpoint == "chat":
        return ChatReader(choices_asked(body))
    if endpoint in ("messages", "count"):
        return MessagesReader()
    if endpoint == "responses":
        return ResponsesReader()
    if endpoint == "embeddings":
        return EmbeddingsReader()
    return None


def speaker(api: str) -> Speaker:
    """The speaker of a wire API: ``chat``, ``responses``, ``messages``, ``generate``, ``converse``, ``invoke``.

    Imported on first use: a sidecar whose targets all speak their callers' language needs none of them.
    """
    found = _SPEAKERS.get(api)
    if found is None:
        found = _SPEAKERS[api] = _made(api)
    return found


def warm(apis: Iterable[str]) -> None:
    """Import the speakers of these APIs, so that the first failover does not wait for it; for a thread."""
    for api in apis:
        if api in APIS:
            speaker(api)


def translator(target: str, caller: str, encoded: Encoded, asked: Asked, stream: bool) -> Translator:
    """The way back of one answer: from the target's API to the caller's (`CALLERS`)."""
    return Translator(speaker(target), speaker(caller), encoded, asked, stream)


def has_quirks(facts: ModelFacts) -> bool:
    """Whether anything is known of a target that could ask for a change in a chat body of its own dialect."""
    return bool(facts.vendor or facts.completion_limit_name or facts.sampling is False)


def adjusted(api: str, body: Mapping[str, Any], facts: ModelFacts) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """What a known vendor needs changed in a body of its own dialect: (members to set, warnings); None: nothing."""
    if api != "chat" or not has_quirks(facts):
        return None, ()
    from proxy.dialects.openai import quirks

    return quirks.adjust(body, facts)


def obstacle(body: Mapping[str, Any], facts: ModelFacts) -> str:
    """Why a known vendor cannot take a chat body of its own dialect; empty: it can."""
    from proxy.dialects.openai import quirks

    return quirks.obstacle(body, facts)


def with_changes(body: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed body with the members of `adjusted` set or taken out."""
    from proxy.dialects.openai import quirks

    kept = {key: value for key, value in body.items() if key not in changes}
    return {**kept, **{key: value for key, value in changes.items() if value is not quirks.REMOVED}}


def spliced(body: bytes, changes: Mapping[str, Any]) -> bytes:
    """As `with_changes`, for the bytes of a body: what is not named keeps them."""
    from proxy.dialects.openai import quirks

    gone = {key for key, value in changes.items() if value is quirks.REMOVED}
    kept = {key: value for key, value in changes.items() if key not in gone}
    body = splice.without(body, gone) if gone else body
    return splice.replace(body, kept) if kept else body


def written(api: str, request: Request, facts: ModelFacts) -> Encoded:
    """The request written for an API, in the form of the platform that the target runs on. Raises `NotPortable`."""
    encoded = speaker(api).write_request(request, facts)
    if api == "invoke" or (api == "messages" and facts.vendor == "vertex"):
        from proxy.dialects.anthropic import platform

        if api == "messages":
            return replace(encoded, body=platform.adapt(encoded.body, "vertex"))
        return replace(encoded, body=platform.adapt(encoded.body, "bedrock-invoke", encoded.betas), betas=())
    return encoded


def placed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A Messages body of the caller's own as Vertex takes it: the model stands in the path there."""
    from proxy.dialects.anthropic import platform

    return platform.adapt(body, "vertex")


def counted(api: str, request: Request, facts: ModelFacts) -> Encoded:
    """The request as a question for the number of its tokens. Raises `NotPortable`."""
    if api == "generate":
        from proxy.dialects import gemini

        return gemini.write_count(request, facts)
    from proxy.dialects import bedrock

    return bedrock.write_count(request, facts)


def count_converter(api: str) -> Converter:
    """The way back of a number of tokens, in Anthropic's form."""
    read = _module(api).read_count
    return Converter(speaker(api).fault_in, lambda body: {"input_tokens": read(body)})


def embeddings_converter(asked: Mapping[str, Any], model: str) -> Converter:
    """The way back of Gemini's vectors, in OpenAI's form."""
    from proxy.dialects import gemini

    return Converter(gemini.fault_in, lambda body: gemini.read_embeddings(body, asked, model))


def _made(api: str) -> Speaker:
    module = _module(api)
    return Speaker(
        api=api,
        read_request=module.read_request,
        write_request=module.write_request,
        fault_in=module.fault_in,
        read_answer=module.read_answer,
        write_answer=module.write_answer,
        stream_reader=_unwrapping if api == "invoke" else module.stream_reader,
        stream_writer=module.stream_writer,
    )


def _unwrapping() -> StreamReader:
    """Claude over Bedrock's InvokeModel: Anthropic's events inside AWS frames."""
    from proxy.dialects import anthropic, eventstream

    return eventstream.Unwrapping(anthropic.stream_reader())


def _module(api: str) -> ModuleType:
    if api == "chat":
        from proxy.dialects import openai

        return openai
    if api == "responses":
        from proxy.dialects import responses

        return responses
    if api in ("messages", "invoke"):
        from proxy.dialects import anthropic

        return anthropic
    if api == "generate":
        from proxy.dialects import gemini

        return gemini
    if api == "converse":
        from proxy.dialects import bedrock

        return bedrock
    raise ValueError(f"no speaker of {api}")
