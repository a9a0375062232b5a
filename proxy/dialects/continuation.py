"""Asking another target to go on with an answer that broke (`providers.md` 8.2).

What may be continued is told by two looks: at the request, before anything is kept for the case, and at what the caller
has been sent, once the stream has broken. The request for the continuation is the caller's own body with the partial
answer at its end: as a beginning that the model completes, where the target is known to do that, else as a turn of its
own with the demand to go on. A beginning is never sent to a target that is not known to take one: newer models refuse
it, and the refusal would hide what really happened (L49).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.dialects.chat import (
    Annotated,
    Begin,
    Event,
    ModelFacts,
    OpaqueBlock,
    RefusalDelta,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    ToolBegin,
    Usage,
    Used,
)

CHARS_PER_TOKEN: Final = 4
"""Estimate for text whose tokens nobody counted."""
TAIL_CHARS: Final = 200
"""How much of its end the demand to go on quotes."""
LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What the caller has been sent of an answer, as far as a continuation is concerned."""

    text: str
    begin: Begin
    usage: Usage | None
    """What the provider had told of it; None: nothing."""
    obstacle: str
    """Why it cannot be continued; empty: it can."""

    @property
    def tokens(self) -> int:
        """Tokens of the text, estimated."""
        return -(-len(self.text) // CHARS_PER_TOKEN)


def may_continue(body: Mapping[str, Any]) -> bool:
    """Whether an answer to this request could be continued at all, whatever comes."""
    n = body.get("n")
    if n is not None and n != 1:
        return False
    tools = body.get("tools") or body.get("functions")
    if tools and body.get("tool_choice") not in ("none", {"type": "none"}):
        return False  # the model may have been about to call one: prose in its place would look like an answer
    if any(body.get(key) for key in ("logprobs", "top_logprobs", "audio", "web_search_options", "prompt", "container")):
        return False
    modalities = body.get("modalities")
    if modalities and modalities != ["text"]:
        return False
    return not _is_structured(body)


def _is_structured(body: Mapping[str, Any]) -> bool:
    for holder, key in ((body, "response_format"), (body.get("text"), "format"), (body.get("output_config"), "format")):
        stated = holder.get(key) if isinstance(holder, Mapping) else None
        if isinstance(stated, Mapping) and stated.get("type") not in (None, "text"):
            return True
    return bool(body.get("output_format"))


def partial_of(events: Iterable[Event]) -> Partial:
    """Read what was sent; `events` in the order of the stream."""
    begin, usage, obstacle = Begin(), None, ""
    text: list[str] = []
    for event in events:
        kind = type(event)
        if kind is TextDelta:
            text.append(event.text)  # type: ignore[union-attr]
        elif kind is Begin:
            begin = event  # type: ignore[assignment]
            usage = begin.usage
        elif kind is Used:
            usage = event.usage  # type: ignore[union-attr]
        elif kind is ToolBegin:
            obstacle = "a tool call was sent"
        elif kind is RefusalDelta:
            obstacle = "a refusal was sent"
        elif kind is OpaqueBlock or kind is Annotated:
            obstacle = "a block that only its provider knows was sent"
        elif kind is Stopped:
            obstacle = "the answer had come to its end"
        elif kind in (ThinkingDelta, ThinkingEnd) and text:
            obstacle = "reasoning was sent after text"
    whole = "".join(text)
    if not obstacle:
        if not whole.strip():
            obstacle = "no text was sent"
        elif whole.count("```") % 2:
            obstacle = "the text ends inside a block of code"
    return Partial(text=whole, begin=begin, usage=usage, obstacle=obstacle)


def is_exact(facts: ModelFacts | None) -> bool:
    """Whether the target completes a beginning token by token."""
    return facts is not None and facts.prefill is True


def extended(api: str, body: Mapping[str, Any], partial: Partial, exact: bool) -> dict[str, Any] | None:
    """The caller's body with the partial answer at its end; None: its output limit is used up.

    `api`: ``chat``, ``messages`` or ``responses``. `exact`: as a beginning to be completed.
    """
    out = dict(body)
    for key in LIMITS:
        limit = out.get(key)
        if isinstance(limit, int) and not isinstance(limit, bool):
            if limit <= partial.tokens:
                return None
            out[key] = limit - partial.tokens
    said = partial.text.rstrip() if exact else partial.text
    if api == "responses":
        given = body.get("input")
        items = list(given) if isinstance(given, list) else [_message("user", given)]
        items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]})
        out["input"] = items if exact else [*items, _message("user", demand(partial.text))]
        return out
    given = body.get("messages")
    turns = [*(given if isinstance(given, list) else ()), {"role": "assistant", "content": said}]
    out["messages"] = turns if exact else [*turns, {"role": "user", "content": demand(partial.text)}]
    return out


def completing(body: dict[str, Any], vendor: str) -> dict[str, Any]:
    """A body whose last turn is a beginning, with the words by which its vendor is told to complete it."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return body
    if vendor in ("mistral", "deepseek"):
        return {**body, "messages": [*messages[:-1], {**messages[-1], "prefix": True}]}
    if vendor == "vllm":
        return {**body, "continue_final_message": True, "add_generation_prompt": False}
    return body


def demand(text: str) -> str:
    """The turn that asks for the rest."""
    return (
        "The message above was cut off by a technical fault before it was complete. Write only what is missing: go on "
        "at exactly the place where it stops, in the same language and style. Do not begin again, do not repeat what "
        f"is there, do not comment on the interruption. It stops after these words:\n{text[-TAIL_CHARS:]}"
    )


def _message(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text if isinstance(text, str) else ""}


def summed(first: Partial, second: Usage | None) -> Usage:
    """The usage of both attempts together; what the broken one did not tell is estimated from its text."""
    then = second or Usage()
    said = first.usage
    output = max(said.output if said is not None else 0, first.tokens)
    prompt = said.input if said is not None and said.prompt else max(0, then.input - first.tokens)
    return Usage(
        input=prompt + then.input,
        cache_read=then.cache_read + (said.cache_read if said is not None else 0),
        cache_write=then.cache_write + (said.cache_write if said is not None else 0),
        output=output + then.output,
        reasoning=then.reasoning,
    )
