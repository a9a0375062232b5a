"""Whole responses, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.chat import (
    Answer,
    Asked,
    Json,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from proxy.dialects.members import mapping, objects, string
from proxy.dialects.reading import error_in
from proxy.dialects.responses.words import (
    CALLS,
    DIALECT,
    TIERS,
    annotation_in,
    annotation_out,
    finish_in,
    status_out,
    usage_in,
    usage_out,
)


def fault_in(body: Json) -> Json | None:
    """The error of a whole body, or of an event; None: it carries none."""
    response = body.get("response")
    whole = response if isinstance(response, Mapping) else body
    if whole.get("status") == "failed" or body.get("type") == "response.failed":
        return error_in(whole) or {"message": "the response failed", "type": "server_error"}
    if body.get("type") == "error":
        return error_in(body) or body
    return None if "output" in body else error_in(body)


# Reading --------------------------------------------------------------------------------------------------------------


def read_answer(body: Json) -> Answer:
    """A response object in canonical form."""
    parts = tuple(part for item in objects(body.get("output")) for part in parts_of(item))
    created = body.get("created_at")
    return Answer(
        id=string(body.get("id")),
        model=string(body.get("model")),
        created=int(created) if isinstance(created, int | float) else None,
        parts=parts,
        finish=finish_in(body, any(isinstance(part, ToolCall) for part in parts)),
        usage=usage_in(body.get("usage")),
        service_tier=string(body.get("service_tier")),
    )


def parts_of(item: Json) -> list[Part]:
    """The parts of one output item."""
    kind = string(item.get("type"))
    if kind == "message":
        return [part for each in objects(item.get("content")) if (part := _content(each)) is not None]
    if kind in CALLS:
        return [call_of(item)]
    if kind == "reasoning":
        return [thinking_of(item)]
    return [Opaque(dialect=DIALECT, kind=kind, raw=item)] if kind else []


def _content(part: Json) -> Part | None:
    kind = string(part.get("type"))
    if kind == "refusal":
        return Refusal(text=string(part.get("refusal")))
    if kind in ("output_text", "text"):
        annotations = tuple(annotation_in(each) for each in objects(part.get("annotations")))
        return Text(text=string(part.get("text")), annotations=annotations)
    return Opaque(dialect=DIALECT, kind=kind, raw=part) if kind else None


def call_of(item: Json) -> ToolCall:
    """The call that an item of one of `CALLS` makes."""
    custom = CALLS[string(item.get("type"))]
    return ToolCall(
        id=string(item.get("call_id")) or string(item.get("id")),
        name=string(item.get("name")),
        arguments=string(item.get("input" if custom else "arguments")),
        custom=custom,
    )


def thinking_of(item: Json) -> Thinking:
    """What a reasoning item shows and seals."""
    sealed = string(item.get("encrypted_content"))
    return Thinking(
        text=thinking_text(item), redacted=sealed, origin="openai" if sealed else "", id=string(item.get("id"))
    )


def thinking_text(item: Json) -> str:
    """What a reasoning item says; its summary, else what was thought."""
    told = list(objects(item.get("summary"))) or list(objects(item.get("content")))
    return "\n\n".join(text for part in told if (text := string(part.get("text"))))


# Writing --------------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer, asked: Asked) -> dict[str, Any]:
    """The response object of a whole answer."""
    output: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []

    def flush() -> None:
        if content:
            output.append(message_item(item_id("msg", asked, len(output)), list(content), "completed"))
            content.clear()

    for part in answer.parts:
        if isinstance(part, Thinking) and not asked.shows_thinking:
            continue
        if isinstance(part, Text):
            if part.text or part.annotations:
                told = [out for each in part.annotations if (out := annotation_out(each)) is not None]
                content.append(text_part(part.text, told))
        elif isinstance(part, Refusal):
            content.append({"type": "refusal", "refusal": part.text})
        else:
            flush()
            item = _item(part, asked, len(output))
            if item is not None:
                output.append(item)
    flush()
    body = skeleton(asked, answer.id, answer.created, answer.model)
    status, details = status_out(answer.finish)
    if status == "incomplete" and output and output[-1]["type"] in ("message", *CALLS):
        output[-1]["status"] = status
    body |= {"status": status, "incomplete_details": details, "output": output}
    if answer.service_tier in TIERS:
        body["service_tier"] = answer.service_tier
    if answer.usage is not None:
        body["usage"] = usage_out(answer.usage)
    return body


def _item(part: Part, asked: Asked, at: int) -> dict[str, Any] | None:
    if isinstance(part, ToolCall):
        return call_item(part, item_id("fc", asked, at), part.id or call_id(asked, at), "completed")
    if isinstance(part, Thinking):
        return reasoning_item(part, item_id("rs", asked, at))
    if isinstance(part, Opaque) and part.dialect == DIALECT:
        return dict(part.raw)
    return None


def item_id(kind: str, asked: Asked, at: int) -> str:
    """An id that is the same for the same place of the same answer."""
    return f"{kind}_{asked.seed}{at:04d}"


def call_id(asked: Asked, at: int) -> str:
    """An id for a call that has none."""
    return f"call_{asked.seed[:22]}{at}"


def text_part(text: str, annotations: list[Json]) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def message_item(name: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    """A message of the model's."""
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(call: ToolCall, name: str, call_name: str, status: str) -> dict[str, Any]:
    """A call of a function or of a tool that takes free text; `name` is the item's id, `call_name` the call's."""
    if call.custom:
        return {
            "id": name.replace("fc_", "ctc_", 1),
            "type": "custom_tool_call",
            "status": status,
            "call_id": call_name,
            "name": call.name,
            "input": call.arguments,
        }
    return {
        "id": name,
        "type": "function_call",
        "status": status,
        "call_id": call_name,
        "name": call.name,
        "arguments": call.arguments or ("{}" if status == "completed" else ""),
    }


def reasoning_item(part: Thinking, name: str) -> dict[str, Any] | None:
    """A reasoning item; what others than OpenAI have signed stays out, only its text is told."""
    own = part.origin == "openai"
    if not part.text and not (own and part.redacted):
        return None
    item: dict[str, Any] = {
        "id": part.id if own and part.id else name,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text}] if part.text else [],
    }
    if own and part.redacted:
        item["encrypted_content"] = part.redacted
    return item


def skeleton(asked: Asked, response_id: str, created: int | None, model: str) -> dict[str, Any]:
    """A response object without its answer: the request's settings as the caller made them."""
    body = asked.body
    reasoning = mapping(body.get("reasoning"))
    parallel = body.get("parallel_tool_calls")
    return {
        "id": response_id if response_id.startswith("resp_") else f"resp_{asked.seed}",
        "object": "response",
        "created_at": created if created is not None else asked.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": model or asked.model,
        "output": [],
        "parallel_tool_calls": parallel if isinstance(parallel, bool) else True,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": False,
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }
