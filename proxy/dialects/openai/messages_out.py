"""The turns of a request as the messages of a chat completion (`providers.md` 2.2).

A request of this dialect keeps its messages one for one. From any other, what tools answered comes first, as messages
of their own; what those cannot hold (images, files) follows in the user's message, and every call has one answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.dialects.chat import (
    Document,
    Image,
    Media,
    ModelFacts,
    NotPortable,
    Opaque,
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
from proxy.dialects.openai import parts_out
from proxy.dialects.openai.quirks import Quirks, call_id, foreign, quirks_of, vendor
from proxy.dialects.openai.words import block_out, signature_out
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names

MISSING = "no result was provided"
_GAP = "\n\n"
_KEPT = "messages."


class MessagesWriter:
    """Writes the messages of one request."""

    __slots__ = (
        "_facts",
        "_generated",
        "_kept",
        "_later",
        "_names",
        "_open",
        "_own",
        "_quirks",
        "_request",
        "_warn",
        "messages",
    )

    def __init__(self, request: Request, facts: ModelFacts, names: Names, warn: Warnings) -> None:
        self._request = request
        self._facts = facts
        self._names = names
        self._warn = warn
        self._own = request.dialect == "chat"
        self._quirks: Quirks = quirks_of(facts)
        self._open: list[tuple[str, str, str]] = []
        """Calls without an answer: (the caller's id, the id as sent, the tool's name)."""
        self._later: list[Part] = []
        """What the user's next message begins with: it did not fit into the messages of tools."""
        self._generated = 0
        self._kept = {key.removeprefix(_KEPT): value for key, value in request.extra.items() if key.startswith(_KEPT)}
        self.messages: list[dict[str, Any]] = []

    def write(self) -> list[dict[str, Any]]:
        """The messages. Raises `NotPortable`."""
        for i, turn in enumerate(self._request.turns):
            if self._own:
                self.messages.append(self._own_message(turn, i))
            elif turn.role is Role.SYSTEM:
                self._system(turn)
            elif turn.role is Role.USER:
                self._user(turn)
            else:
                self._assistant(turn)
        self._settle()
        self._check_end()
        return self.messages

    def _check_end(self) -> None:
        """An assistant turn at the end is the beginning of the answer, which not everybody completes."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or last.get("tool_calls"):
            return
        prefill, known = self._quirks.prefill, self._facts.prefill
        if self._own and not (prefill == "prefix" and vendor(self._facts) == "mistral"):
            return  # the caller knows what his dialect makes of it
        if known is False or (not prefill and not known) or (vendor(self._facts) == "deepseek" and not known):
            raise NotPortable("prefill", "the target does not complete an answer that is begun")
        if prefill == "prefix":
            last.setdefault("prefix", True)

    # The same dialect -------------------------------------------------------------------------------------------------

    def _own_message(self, turn: Turn, i: int) -> dict[str, Any]:
        if turn.parts and isinstance(turn.parts[0], ToolResult):
            out = self._own_result(turn.parts[0])
        elif turn.role is Role.ASSISTANT:
            out = self._own_assistant(turn, i)
        else:
            role = "user"
            if turn.role is Role.SYSTEM:
                role = "developer" if turn.developer and self._may_be_developer() else "system"
            out = {"role": role, "content": self._content(turn.parts, own=True)}
        self._name(turn, out)
        refused = set(foreign(self._quirks, out["role"])) if vendor(self._facts) else set()
        for member, values in self._kept.items():
            if str(i) in values and member in refused:
                self._warn.dropped(member)
            elif str(i) in values:
                out[member] = values[str(i)]
            self._keep_part(out, member, values, i)
        return out

    def _keep_part(self, out: dict[str, Any], member: str, values: Any, i: int) -> None:
        """Put a part's unknown member back where it was."""
        content = out.get("content")
        for at, value in values.items():
            turn, dot, part = at.partition(".")
            if not dot or turn != str(i):
                continue
            if isinstance(content, str):
                content = out["content"] = [{"type": "text", "text": content}]
            if isinstance(content, list) and int(part) < len(content):
                content[int(part)][member] = value

    def _may_be_developer(self) -> bool:
        return self._quirks.developer or not vendor(self._facts)

    def _own_result(self, result: ToolResult) -> dict[str, Any]:
        out = {
            "role": "tool",
            "tool_call_id": self._id(result.call_id),
            "content": self._content(result.parts, own=True),
        }
        if result.name:
            out["name"] = result.name
        if result.cache:
            self._cache(out, result.cache)
        return out

    def _own_assistant(self, turn: Turn, i: int) -> dict[str, Any]:
        shown = [part for part in turn.parts if isinstance(part, Text | Image | Document | Media | Opaque)]
        audio = next((part.raw for part in shown if isinstance(part, Opaque) and part.kind == "audio"), None)
        content = [part for part in shown if not (isinstance(part, Opaque) and part.kind == "audio")]
        out: dict[str, Any] = {"role": "assistant", "content": self._content(content, own=True) if content else None}
        if refusals := [part.text for part in turn.parts if isinstance(part, Refusal)]:
            out["refusal"] = "".join(refusals)
        if audio is not None:
            out["audio"] = dict(audio)
        self._thoughts(turn, i, out)
        self._calls(turn, out)
        signature = next((part.signature for part in content if isinstance(part, Text) and part.signature), "")
        if signature and self._quirks.google is not False:
            out["extra_content"] = signature_out(signature)
        return out

    def _thoughts(self, turn: Turn, i: int, out: dict[str, Any]) -> None:
        """Reasoning in the history of a caller of this dialect, where the target takes it."""
        found = [part for part in turn.parts if isinstance(part, Thinking)]
        where = self._quirks.thinking
        kept = ("reasoning", "reasoning_content", "reasoning_details")
        if not found or any(str(i) in self._kept.get(name, {}) for name in kept):
            return
        if where == "part":
            self._thoughts_first(found, out)
            return
        if where == "refused":
            self._warn.dropped("thinking")
            return
        if text := "".join(part.text for part in found):
            out["reasoning" if where == "reasoning" else "reasoning_content"] = text
        if any(part.signature or part.redacted for part in found):
            if where == "keep":
                out["thinking_blocks"] = [
                    block_out(part.text, part.signature, part.redacted, part.origin, part.id) for part in found
                ]
            else:
                self._warn.dropped("thinking_blocks")

    def _thoughts_first(self, found: list[Thinking], out: dict[str, Any]) -> None:
        """Mistral takes reasoning as a part of the content."""
        content = out["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if content else []
        blocks = [
            {"type": "thinking", "thinking": [{"type": "text", "text": part.text}]} for part in found if part.text
        ]
        if blocks:
            out["content"] = [*blocks, *(content or ())]

    # Other dialects ---------------------------------------------------------------------------------------------------

    def _system(self, turn: Turn) -> None:
        self._settle()
        content = self._content(turn.parts)
        if content:
            role = "developer" if turn.developer and self._quirks.developer else "system"
            self.messages.append({"role": role, "content": content})

    def _user(self, turn: Turn) -> None:
        results = [part for part in turn.parts if isinstance(part, ToolResult)]
        last = {result.call_id: result for result in results if result.call_id}
        for result in results:
            if result.call_id and last[result.call_id] is not result:
                self._warn.dropped("history")  # two answers to one call: the later one counts
                continue
            self._result(result)
        rest = [part for part in turn.parts if not isinstance(part, ToolResult)]
        self._later += [part for part in rest if not (isinstance(part, Text) and not part.text)]
        if not results or len(rest) > 0:
            self._settle(turn)

    def _settle(self, turn: Turn | None = None) -> None:
        """Every call has its answer; then comes the user's message with what tool messages could not hold."""
        self._close_calls()
        shown, self._later = self._later, []
        content = self._content(shown)
        if not content:
            return
        if self.messages and self.messages[-1]["role"] == "tool" and vendor(self._facts) == "mistral":
            self.messages.append({"role": "assistant", "content": "OK"})  # its older models refuse a user's turn here
            self._warn.approximated("history")
        message = {"role": "user", "content": content}
        if turn is not None:
            self._name(turn, message)
        self.messages.append(message)

    def _result(self, result: ToolResult) -> None:
        """Write one tool message; what it cannot hold follows later, and an answer to no call becomes text."""
        texts: list[str] = []
        blobs: list[Part] = []
        if result.value is not None:
            texts.append(result.value if isinstance(result.value, str) else dumped(result.value))
        for part in result.parts:
            if isinstance(part, Text):
                texts.append(part.text)
            elif isinstance(part, Document) and (known := parts_out.document_text(part)):
                texts.append(known)
            else:
                blobs.append(part)
                texts.append(f"({'image' if isinstance(part, Image) else 'file'}: see the next message)")
        text = "\n".join(texts)
        if result.is_error:
            text = f"Error: {text}"
        if result.cache:
            self._cache({}, result.cache)
        sent, name = self._take(result)
        if sent is None:
            self._warn.approximated("history")
            self._later.append(Text(text=f"Result of a tool call: {text}"))
        else:
            self.messages.append({"role": "tool", "tool_call_id": sent, "content": text})
        if blobs:
            self._warn.approximated("history")
            self._later.append(Text(text=f"From the result of {name or 'the tool'}:"))
            self._later += blobs

    def _take(self, result: ToolResult) -> tuple[str | None, str]:
        """(id as sent, tool) of the open call that a result answers: by id, else by name, else the first one."""
        for at, (given, sent, name) in enumerate(self._open):
            if result.call_id == given if result.call_id and given else name == (result.name or name):
                del self._open[at]
                return sent, name
        return None, result.name

    def _close_calls(self) -> None:
        for _, sent, _ in self._open:
            self.messages.append({"role": "tool", "tool_call_id": sent, "content": MISSING})
            self._warn.approximated("history")
        self._open = []

    def _assistant(self, turn: Turn) -> None:
        before = self.messages[-1] if self.messages else None
        is_same = before is not None and before["role"] == "assistant"
        if not is_same or self._later:
            self._settle()
            is_same = False
        out: dict[str, Any] = {"role": "assistant", "content": self._said(turn.parts)}
        thoughts = [part for part in turn.parts if isinstance(part, Thinking)]
        text = "".join(part.text for part in thoughts)
        if text and self._quirks.thinking == "reasoning_content" and vendor(self._facts):
            out["reasoning_content"] = text
        elif thoughts:
            self._warn.dropped("thinking")
        self._calls(turn, out)
        if out["content"] is None and "tool_calls" not in out:
            return
        if before is not None and is_same:
            _join(before, out)
        else:
            self.messages.append(out)

    def _said(self, parts: Iterable[Part]) -> str | None:
        """The text of an assistant's turn: blocks that stand together are one text, others are apart."""
        texts: list[str] = []
        is_apart = False
        for part in parts:
            if isinstance(part, Text | Refusal):
                if part.text:
                    texts.append(_GAP + part.text if is_apart and texts else part.text)
                    is_apart = False
                    if isinstance(part, Text) and part.cache:
                        self._cache({}, part.cache)
                continue
            is_apart = True
            if isinstance(part, Opaque):
                if part.dialect == "responses":
                    raise NotPortable("server_tools", f"the history has an item of type {part.kind}")
                self._warn.dropped(part.kind)
            elif isinstance(part, Image | Document | Media):
                raise NotPortable("vision", "an assistant message of the target holds text only")
        return "".join(texts) or None

    # Both -------------------------------------------------------------------------------------------------------------

    def _calls(self, turn: Turn, out: dict[str, Any]) -> None:
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        if calls:
            out["tool_calls"] = [self._call(call) for call in calls]

    def _call(self, call: ToolCall) -> dict[str, Any]:
        sent, name = self._id(call.id), call.name if self._own else self._names.sent(call.name)
        if not self._own:
            if not call.id:
                self._generated += 1
                sent = self._id(f"call_{self._generated:06d}")
            self._open.append((call.id, sent, call.name))
        out: dict[str, Any]
        if call.custom and (self._quirks.custom_tools or (self._own and not vendor(self._facts))):
            out = {"id": sent, "type": "custom", "custom": {"name": name, "input": call.arguments}}
        else:
            text = dumped({"input": call.arguments}) if call.custom else call.arguments or "{}"
            out = {"id": sent, "type": "function", "function": {"name": name, "arguments": text}}
        google = self._quirks.google
        if call.signature and (google is True or (self._own and google is None)):
            out["extra_content"] = signature_out(call.signature)
        return out

    def _id(self, written: str) -> str:
        if self._own and not vendor(self._facts):
            return written
        return call_id(written, self._quirks.call_id)

    def _name(self, turn: Turn, message: dict[str, Any]) -> None:
        if not turn.name:
            return
        if self._quirks.names:
            message["name"] = turn.name
        else:
            self._warn.dropped("name")

    def _cache(self, holder: dict[str, Any], mark: str) -> None:
        parts_out.cache(holder, mark, self._own, self._quirks, self._facts, self._warn)

    def _content(self, parts: Iterable[Part], own: bool = False) -> str | list[dict[str, Any]]:
        """Text that stands alone as a string, which everybody takes; else a list of parts."""
        found = list(parts)
        plain = all(isinstance(part, Text) and not self._is_marked(part) for part in found)
        if plain and (not own or len(found) <= 1):
            return _GAP.join(part.text for part in found if isinstance(part, Text) and (part.text or own))
        out = []
        for part in found:
            out += parts_out.written(part, own, self._quirks, self._facts, self._warn)
        return out

    def _is_marked(self, part: Text) -> bool:
        """Whether a text has a cache mark that the target takes; one that it does not take is told."""
        if not part.cache:
            return False
        probe: dict[str, Any] = {}
        self._cache(probe, part.cache)
        return bool(probe)


def _join(message: dict[str, Any], more: dict[str, Any]) -> None:
    """Add to an assistant's message what the same turn of his goes on with (Responses has items, Gemini steps)."""
    texts = [text for text in (message["content"], more["content"]) if text]
    message["content"] = _GAP.join(texts) or None
    for name, glue in (("tool_calls", []), ("reasoning_content", "")):
        if name in more:
            message[name] = (message.get(name) or glue) + more[name]
