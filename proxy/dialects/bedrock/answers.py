"""Converse's whole answers, read and written (`providers.md` 1.7, 2.6, 2.7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from proxy.dialects.bedrock import words
from proxy.dialects.bedrock.asked import thinking, tool_call
from proxy.dialects.chat import Answer, Asked, Json, Opaque, Part, Refusal, Text, Thinking, ToolCall
from proxy.dialects.members import finish_in


def fault_in(body: Json) -> Json | None:
    """The error in a body: a 200 without an answer is one, whatever it says (a framework's own complaint).

    A number of tokens is an answer as well: that of CountTokens.
    """
    if isinstance(body.get("output"), Mapping):
        return None
    if isinstance(body.get("inputTokens"), int):
        return None
    inner = body.get("Output")  # coral's own errors come as Output and Version
    source = inner if isinstance(inner, Mapping) else body
    name = source.get("__type") or source.get("code") or "UnknownError"
    message = source.get("message") or source.get("Message") or "the answer has no output"
    return {**source, "__type": str(name), "message": str(message)}


def read_answer(body: Json) -> Answer:
    """See `chat`."""
    output = body.get("output")
    message = output.get("message") if isinstance(output, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    parts = tuple(_parts(content)) if isinstance(content, list) else ()
    calls = sum(isinstance(part, ToolCall) for part in parts)
    tier = body.get("serviceTier")
    return Answer(
        parts=parts,
        finish=finish_in(words.FINISH, body.get("stopReason"), calls),
        stop_sequence=words.stop_sequence_in(body.get("additionalModelResponseFields")),
        usage=words.usage_in(body.get("usage")),
        service_tier=str(tier.get("type") or "") if isinstance(tier, Mapping) else "",
    )


def _parts(content: list[Any]) -> Iterator[Part]:
    length = 0
    for block in content:
        if not isinstance(block, Mapping):
            continue
        for part in _block(block, length):
            if isinstance(part, Text):
                length += len(part.text)
            yield part


def _block(block: Json, start: int) -> Iterator[Part]:
    """The parts of one block; `start`: characters of text before it."""
    if isinstance(text := block.get("text"), str):
        yield Text(text=text)
    elif isinstance(use := block.get("toolUse"), Mapping):
        yield tool_call(use) or Opaque(dialect=words.DIALECT, kind=str(use.get("type")), raw=block)
    elif isinstance(inner := block.get("reasoningContent"), Mapping):
        part = thinking(inner)
        if part is not None:
            yield part
    elif isinstance(inner := block.get("citationsContent"), Mapping):
        yield _cited(inner, start)
    elif isinstance(inner := block.get("toolResult"), Mapping):
        yield Opaque(dialect=words.DIALECT, kind=str(inner.get("type") or "toolResult"), raw=block)
    elif block:
        yield Opaque(dialect=words.DIALECT, kind=next(iter(block)), raw=block)


def _cited(inner: Json, start: int) -> Part:
    """Generated text with its sources; those on the web become annotations, a document of the caller's has no place
    in one."""
    content = inner.get("content")
    texts = [block.get("text") for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    text = "".join(each for each in texts if isinstance(each, str))
    citations = inner.get("citations")
    found = [annotation(each, start, start + len(text)) for each in citations] if isinstance(citations, list) else []
    return Text(text=text, annotations=tuple(each for each in found if each is not None))


def annotation(citation: Any, start: int, end: int) -> Json | None:
    """A citation of the web in OpenAI's chat form; None: it cites something else."""
    location = citation.get("location") if isinstance(citation, Mapping) else None
    web = location.get("web") if isinstance(location, Mapping) else None
    if not isinstance(web, Mapping) or not isinstance(web.get("url"), str):
        return None
    title = citation.get("title") or web.get("domain") or ""
    return {
        "type": "url_citation",
        "url_citation": {"url": web["url"], "title": str(title), "start_index": start, "end_index": end},
    }


# Writing --------------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> dict[str, Any]:
    """See `chat`. Converse's answers name neither an id nor a model."""
    content: list[dict[str, Any]] = []
    for at, part in enumerate(answer.parts):
        content += _written(part, asked, at)
    body: dict[str, Any] = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": words.STOP_REASON[answer.finish],
        "usage": words.usage_out(answer.usage),
        "metrics": {"latencyMs": 0},
    }
    if answer.stop_sequence is not None:
        body["additionalModelResponseFields"] = {"stop_sequence": answer.stop_sequence}
    if answer.service_tier in ("priority", "default", "flex", "reserved"):
        body["serviceTier"] = {"type": answer.service_tier}
    return body


def _written(part: Part, asked: Asked, at: int) -> list[dict[str, Any]]:
    if isinstance(part, Text):
        citations = [written for each in part.annotations if (written := citation(each)) is not None]
        if citations:
            return [{"citationsContent": {"content": [{"text": part.text}], "citations": citations}}]
        return [{"text": part.text}] if part.text else []
    if isinstance(part, Refusal):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, ToolCall):
        name = {"toolUseId": part.id or f"tooluse_{asked.seed[:20]}{at}", "name": part.name}
        return [{"toolUse": {**name, "input": arguments(part)}}]
    if isinstance(part, Thinking):
        if part.redacted and part.origin == "anthropic":
            return [{"reasoningContent": {"redactedContent": words.redacted_out(part.redacted)}}]
        if not part.text and not part.signature:
            return []
        inner = {"text": part.text}
        if part.signature and part.origin == "anthropic":
            inner["signature"] = part.signature
        return [{"reasoningContent": {"reasoningText": inner}}]
    if isinstance(part, Opaque) and part.dialect == words.DIALECT:
        return [dict(part.raw)]
    return []


def arguments(call: ToolCall) -> Any:
    """A call's arguments as Converse's JSON; what cannot be parsed stays there to be read."""
    if call.custom:
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    try:
        return orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        return {"_raw": call.arguments}


def citation(note: Json) -> dict[str, Any] | None:
    """An annotation in OpenAI's chat form as Converse's citation; None: it cites no address."""
    inner = note.get("url_citation")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("url"), str):
        return None
    return {"title": str(inner.get("title") or ""), "location": {"web": {"url": inner["url"]}}}
