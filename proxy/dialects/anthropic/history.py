"""The conversation as Anthropic takes it (`providers.md` 2.1): the user begins, results follow their calls, nothing is
empty.

Other dialects allow what Anthropic refuses, so a history is repaired on its way: neighbours of one role are joined,
calls without a result get one, results without a call become plain words. A history that came from a Messages caller is
left as it is: its caller knows the rules, and a repair would be a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.dialects.anthropic.blocks_out import Block, Blocks, keeps
from proxy.dialects.anthropic.words import DIALECT
from proxy.dialects.chat import (
    ModelFacts,
    NotPortable,
    Part,
    Refusal,
    Request,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
)
from proxy.dialects.members import dumped
from proxy.dialects.spelling import Warnings

FILLER: Final = "."
"""Stands where Anthropic wants a text and nothing is to be said."""
NO_RESULT: Final = "no result was provided"
THINKING: Final = ("thinking", "redacted_thinking")
"""Types of the blocks that hold reasoning."""

_FILLING: Final = Text(text=FILLER)


@dataclass(slots=True)
class _Message:
    """A message while it is put together."""

    role: Role
    parts: list[Part]


@dataclass(slots=True)
class _Pending:
    """A call that waits for its result, and the id it is sent with."""

    call: ToolCall
    sent: str


class History:
    """Writes the turns of one request."""

    __slots__ = ("_blocks", "_facts", "_leading", "_notes", "_own", "_turns", "ends_with_assistant", "has_tool_blocks")

    def __init__(self, request: Request, facts: ModelFacts, blocks: Blocks, notes: Warnings) -> None:
        turns = request.turns
        self._turns = turns
        self._facts = facts
        self._blocks = blocks
        self._notes = notes
        self._own = request.dialect == DIALECT
        self._leading = next((i for i, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
        self.has_tool_blocks = any(isinstance(part, ToolCall | ToolResult) for turn in turns for part in turn.parts)
        self.ends_with_assistant = False
        """The last message is a beginning that the model goes on with; known once `messages` has run."""

    # The whole --------------------------------------------------------------------------------------------------------

    def system(self) -> list[Block]:
        """The leading system turns."""
        out: list[Block] = []
        for t, turn in enumerate(self._turns[: self._leading]):
            for part in turn.parts:
                if not isinstance(part, Text):
                    raise NotPortable("system", "a system message holds something else than text")
            if self._own:
                out += self._blocks.verbatim(turn.parts, str(t))
            else:
                out += [self._blocks.block(part) for part in turn.parts if not _is_void(part)]
        return out

    def messages(self) -> list[Block]:
        """The rest of the turns."""
        if self._own:
            return self._verbatim()
        return self._repaired(self._joined(self._turns[self._leading :]))

    def _verbatim(self) -> list[Block]:
        out: list[Block] = []
        for t, turn in enumerate(self._turns[self._leading :], self._leading):
            if turn.role is Role.SYSTEM and self._facts.mid_system is False:
                self._notes.approximated("history")
                parts: Sequence[Part] = [_as_system(part) for part in turn.parts]
                out.append({"role": "user", "content": self._blocks.verbatim(parts, str(t))})
            else:
                out.append({"role": turn.role.value, "content": self._blocks.verbatim(turn.parts, str(t))})
        last = self._turns[-1] if self._turns else None
        # A turn that ends in a block of Anthropic's own is sent back to be gone on with, by any model.
        if last is not None and last.role is Role.ASSISTANT and last.parts and isinstance(last.parts[-1], Text):
            self._may_prefill()
        return out or [{"role": "user", "content": [self._blocks.block(_FILLING)]}]

    def _may_prefill(self) -> None:
        if self._facts.prefill is False:
            raise NotPortable("prefill", "the last message is the assistant's, and the model does not continue it")
        self.ends_with_assistant = True

    # Joining ----------------------------------------------------------------------------------------------------------

    def _joined(self, turns: Sequence[Turn]) -> list[_Message]:
        """The turns without what is empty, neighbours of one role as one; the user begins."""
        out: list[_Message] = []
        for t, turn in enumerate(turns):
            role = turn.role
            if role is Role.SYSTEM and not (out and self._keeps_system(out[-1].role, turns[t + 1 : t + 2])):
                role = Role.USER
            parts = [part for part in self._worded(turn, role) if not _is_void(part)]
            if not parts and role is not Role.USER:
                continue
            parts = parts or [_FILLING]
            if out and out[-1].role is role:
                out[-1].parts += parts
            else:
                out.append(_Message(role, parts))
        if not out or out[0].role is Role.ASSISTANT:
            out.insert(0, _Message(Role.USER, [_FILLING]))
        for message in out:
            # What fills an empty message is not needed beside its neighbour's words.
            message.parts = [part for part in message.parts if part is not _FILLING] or [_FILLING]
        return out

    def _keeps_system(self, before: Role, behind: Sequence[Turn]) -> bool:
        """Whether a system message may stand where it is: behind one of the user, but not between results."""
        results = any(isinstance(part, ToolResult) for turn in behind for part in turn.parts)
        return self._facts.mid_system is True and before is not Role.ASSISTANT and not results

    def _worded(self, turn: Turn, role: Role) -> Iterator[Part]:
        """The parts of a turn with what the role cannot say put into words."""
        name = turn.name
        for part in turn.parts:
            if isinstance(part, Thinking) and not keeps(part):
                self._notes.dropped("thinking")
            elif turn.role is Role.SYSTEM and role is Role.USER:
                # In its place in the conversation: at the top it would say something else, and spoil the cache.
                if not _is_void(part):
                    self._notes.approximated("history")
                yield _as_system(part)
            elif name and turn.role is Role.USER and isinstance(part, Text) and not _is_void(part):
                yield Text(text=f"{name}: {part.text}", cache=part.cache)
                name = ""
            else:
                yield part
        if name and turn.role is not Role.USER:
            self._notes.dropped("name")

    # Calls and results ------------------------------------------------------------------------------------------------

    def _repaired(self, messages: list[_Message]) -> list[Block]:
        out: list[Block] = []
        pending: list[_Pending] = []
        for at, message in enumerate(messages):
            if message.role is Role.USER:
                out.append({"role": "user", "content": self._user(message.parts, pending)})
                pending = []
                continue
            content, pending = self._assistant(message.parts)
            if message.role is Role.ASSISTANT and not pending and at == len(messages) - 1:
                content = self._prefill(content)
            if content:
                out.append({"role": message.role.value, "content": content})
        if pending:
            out.append({"role": "user", "content": self._user([], pending)})
        return out

    def _assistant(self, parts: Sequence[Part]) -> tuple[list[Block], list[_Pending]]:
        """The content of an assistant's message, and the calls in it."""
        content: list[Block] = []
        calls: list[_Pending] = []
        for part in parts:
            if isinstance(part, ToolCall):
                # An id may come again in a later turn, where Anthropic would not know which call is meant.
                calls.append(_Pending(part, self._blocks.ids.fresh(part.id)))
                content.append(self._blocks.call(part, calls[-1].sent))
            else:
                content.append(self._blocks.block(part))
        while content and content[-1]["type"] in THINKING:
            content.pop()  # reasoning that led to nothing: a message must not end with it
            self._notes.dropped("thinking")
        return content, calls

    def _prefill(self, content: list[Block]) -> list[Block]:
        """The last message, which is the assistant's, as a beginning that the model goes on with."""
        if not content:
            return content
        self._may_prefill()
        last = content[-1]
        return [*content[:-1], {**last, "text": last["text"].rstrip()}] if last["type"] == "text" else content

    def _user(self, parts: Sequence[Part], pending: list[_Pending]) -> list[Block]:
        """A user's message: first what answers the calls before it, in their order, then the rest."""
        results, rest = self._sorted(parts, pending)
        content: list[Block] = []
        for wait, result in zip(pending, results, strict=True):
            if result is None:
                self._notes.approximated("history")
                result = ToolResult(call_id="", parts=(Text(text=NO_RESULT),), is_error=True)
            content.append(self._blocks.result(result, wait.sent))
        content += [self._blocks.block(part) for part in rest]
        return content or [self._blocks.block(_FILLING)]

    def _sorted(self, parts: Sequence[Part], pending: list[_Pending]) -> tuple[list[ToolResult | None], list[Part]]:
        """(the result of each pending call, the other parts); of several results of one call the last counts."""
        results: list[ToolResult | None] = [None] * len(pending)
        rest: list[Part] = []
        for part in parts:
            if not isinstance(part, ToolResult):
                if part is not _FILLING or not pending:
                    rest.append(part)
                continue
            fitting = [i for i, wait in enumerate(pending) if _answers(part, wait.call)]
            if not fitting:
                self._notes.approximated("history")
                rest += _as_words(part)
                continue
            free = [i for i in fitting if results[i] is None]
            if not free:
                self._notes.approximated("history")
            results[free[0] if free else fitting[-1]] = part
        return results, rest


def _answers(result: ToolResult, call: ToolCall) -> bool:
    """Whether a result belongs to a call: by id, or where the dialect has none by the name of the tool."""
    if result.call_id or call.id:
        return result.call_id == call.id
    return result.name in ("", call.name)


def _is_void(part: Part) -> bool:
    return isinstance(part, Text | Refusal) and not part.text.strip()


def _as_system(part: Part) -> Part:
    """The words of a system message in a user's mouth, marked as what they are."""
    if not isinstance(part, Text) or not part.text.strip():
        return part
    return Text(text=f"<system>{part.text}</system>", cache=part.cache)


def _as_words(result: ToolResult) -> list[Part]:
    """A result that answers no call of the turn before it, as the user's words."""
    head = f"Result of the tool {result.name}:" if result.name else "Result of a tool:"
    parts: list[Part] = [Text(text=head)]
    if result.value is not None:
        parts.append(Text(text=result.value if isinstance(result.value, str) else dumped(result.value)))
    return [part for part in (*parts, *result.parts) if not _is_void(part)]


def thinks_before_calls(messages: Sequence[Block]) -> bool:
    """Whether the tool loop at the end of a history, if there is one, begins with reasoning.

    Claude with a thinking budget refuses to go on with calls that it did not think about.
    """
    if len(messages) < 2 or not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return True
    before = messages[-2]["content"]
    return bool(before) and before[0]["type"] in THINKING
