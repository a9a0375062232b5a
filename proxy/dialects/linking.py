"""Results that do not say which call they answer: some callers leave the id out where only one can be meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from proxy.dialects.chat import Part, Role, ToolCall, ToolResult, Turn


def linked(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns, in which a result without an id has that of the call it answers: the first open one of its tool's
    name, and where it names no tool the first open one at all. A call without an id stays without, and so does its
    result: these belong together by name and order.
    """
    held = tuple(turns)
    parts = [part for turn in held for part in turn.parts]
    if not any(isinstance(part, ToolResult) and not part.call_id for part in parts):
        return held
    out: list[Turn] = []
    pending: list[ToolCall] = []
    for turn in held:
        if turn.role is Role.ASSISTANT:
            pending += [part for part in turn.parts if isinstance(part, ToolCall)]
        out.append(replace(turn, parts=tuple(_linked(part, pending) for part in turn.parts)))
    return tuple(out)


def _linked(part: Part, pending: list[ToolCall]) -> Part:
    if not isinstance(part, ToolResult):
        return part
    for at, call in enumerate(pending):
        is_meant = call.id == part.call_id if part.call_id else part.name in ("", call.name)
        if is_meant:
            pending.pop(at)
            return part if part.call_id or not call.id else replace(part, call_id=call.id)
    return part
