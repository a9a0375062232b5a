"""The conversation as Converse takes it: roles alternate, results follow their calls, nothing is empty.

Converse refuses what other dialects allow, so the history is repaired on its way: neighbours of one role are joined,
calls without a result get one, results without a call become plain words, and the first word is the user's. A history
that came from Converse itself is left as it is: its caller knows the rules, and a repair would be a change.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.dialects.bedrock import words
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
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names

FILLER: Final = "."
"""Stands where Converse wants a text and nothing is to be said."""
NO_RESULT: Final = "no result was provided"
NO_OUTPUT: Final = "(no output)"
CACHE_POINTS_MAX: Final = 4
CACHING: Final = frozenset({"claude", "nova"})
"""Families that take cache points; others refuse the request."""
STATUS: Final = frozenset({"claude", "nova"})
"""Families that take a tool result's status."""
LONELY_RESULTS: Final = frozenset({"llama", "mistral"})
"""Families that take nothing beside tool results in a message."""

_FILLING: Final = Text(text=FILLER)

Block = dict[str, Any]


@dataclass(slots=True)
class _Message:
    """A message while it is put together."""

    role: Role
    parts: list[Part]


class Writer:
    """Writes the parts of one request; remembers what has to be unique in it."""

    __slots__ = (
        "_cache_points",
        "_documents",
        "_facts",
        "_ids",
        "_own",
        "_request",
        "has_tool_blocks",
        "names",
        "notes",
    )

    def __init__(self, request: Request, facts: ModelFacts, names: Names, notes: Warnings) -> None:
        self._request = request
        self._facts = facts
        self._own = request.dialect == words.DIALECT
        self._ids = Names(bad=words.ID_BAD, placeholder="call")
        self._documents: set[str] = set()
        self._cache_points = 0
        self.names = names
        self.notes = notes
        self.has_tool_blocks = any(isinstance(p, ToolCall | ToolResult) for t in request.turns for p in t.parts)

    # The whole --------------------------------------------------------------------------------------------------------

    def system(self) -> list[Block]:
        """The leading system turns."""
        out: list[Block] = []
        for turn in self._request.turns[: self._leading()]:
            for part in turn.parts:
                if not isinstance(part, Text | Opaque):
                    raise NotPortable("system", "a system message holds something else than text")
                out += self._blocks(part)
        return out

    def messages(self) -> list[Block]:
        """The rest of the turns. Call `system` and `tools` first: their cache points come first."""
        turns = self._request.turns[self._leading() :]
        if self._own:
            return [{"role": turn.role.value, "content": self._content(turn.parts)} for turn in turns]
        return self._repaired(self._joined(turns))

    def cache_point(self, mark: str) -> list[Block]:
        """The block behind something that is to be cached; none for a model that would refuse it."""
        if not mark:
            return []
        if not self._own and (self._facts.family not in CACHING or self._cache_points >= CACHE_POINTS_MAX):
            self.notes.dropped("cache")
            return []
        self._cache_points += 1
        point = {"type": "default"}
        if mark != "5m" and (self._own or self._facts.family == "claude"):
            point["ttl"] = mark
        return [{"cachePoint": point}]

    def _leading(self) -> int:
        turns = self._request.turns
        return next((i for i, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))

    # Joining ----------------------------------------------------------------------------------------------------------

    def _joined(self, turns: Sequence[Turn]) -> list[_Message]:
        """The turns without what is empty, neighbours of one role as one; the user begins."""
        out: list[_Message] = []
        for turn in turns:
            role = Role.ASSISTANT if turn.role is Role.ASSISTANT else Role.USER
            parts = [part for part in self._worded(turn) if not _is_void(part)]
            if not parts and role is Role.ASSISTANT:
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

    def _worded(self, turn: Turn) -> Iterator[Part]:
        """The parts of a turn with what the role cannot say put into words."""
        name = turn.name
        for part in turn.parts:
            if isinstance(part, Thinking) and not self._keeps(part):
                self.notes.dropped("thinking")
            elif turn.role is Role.SYSTEM and isinstance(part, Text):
                # In its place in the conversation: hoisted to the top it would say something else.
                if part.text.strip():
                    self.notes.approximated("history")
                    yield Text(text=f"<system>{part.text}</system>", cache=part.cache)
            elif name and turn.role is Role.USER and isinstance(part, Text):
                yield Text(text=f"{name}: {part.text}", cache=part.cache)
                name = ""
            else:
                yield part
        if name and turn.role is Role.ASSISTANT:
            self.notes.dropped("name")

    def _keeps(self, part: Thinking) -> bool:
        """Whether reasoning can be replayed here: only Claude's own, with its signature, to Claude."""
        return part.origin == "anthropic" and self._facts.family == "claude" and bool(part.signature or part.redacted)

    # Calls and results ------------------------------------------------------------------------------------------------

    def _repaired(self, messages: list[_Message]) -> list[Block]:
        out: list[Block] = []
        pending: list[tuple[ToolCall, str]] = []
        for at, message in enumerate(messages):
            if message.role is Role.USER:
                out += self._user(message.parts, pending)
                pending = []
                continue
            content, pending = self._assistant(message.parts)
            is_last = at == len(messages) - 1
            if is_last and not pending:
                content = self._prefill(content)
            if content:
                out.append({"role": "assistant", "content": content})
        if pending:
            out += self._user([], pending)
        return out

    def _assistant(self, parts: Sequence[Part]) -> tuple[list[Block], list[tuple[ToolCall, str]]]:
        """The content of an assistant's message and its calls, each with the id it is sent with."""
        content: list[Block] = []
        calls: list[tuple[ToolCall, str]] = []
        for part in parts:
            if isinstance(part, ToolCall):
                # An id may come again in a later turn, where Bedrock would not know which call is meant.
                sent = self._ids.fresh(part.id)
                calls.append((part, sent))
                content.append(self._tool_use(part, sent))
                content += self.cache_point(part.cache)
            else:
                content += self._blocks(part)
        return content, calls

    def _prefill(self, content: list[Block]) -> list[Block]:
        """The last message, if it is the assistant's, as a beginning that the model goes on with."""
        if not words.takes_prefill(self._facts):
            raise NotPortable("prefill", "the last message is the assistant's, and the model does not continue it")
        if content and "text" in content[-1]:
            text = content[-1]["text"].rstrip()
            return [*content[:-1], {"text": text}] if text else content[:-1]
        return content

    def _user(self, parts: Sequence[Part], pending: list[tuple[ToolCall, str]]) -> list[Block]:
        """A user's message: first what answers the calls before it, in their order, then the rest."""
        results: dict[str, list[ToolResult]] = {}
        rest: list[Part] = []
        asked = {call.id for call, _ in pending}
        for part in parts:
            if isinstance(part, ToolResult) and part.call_id in asked:
                results.setdefault(part.call_id, []).append(part)
            elif isinstance(part, ToolResult):
                self.notes.approximated("history")
                rest += _as_words(part)
            else:
                rest.append(part)
        answers: list[Block] = []
        for call, sent in pending:
            answers += self._answer(call, sent, results.get(call.id, []), sum(c.id == call.id for c, _ in pending))
        others = self._with_text([block for part in rest for block in self._blocks(part)])
        if answers and others and self._must_part(others):
            return [
                {"role": "user", "content": answers},
                {"role": "assistant", "content": [{"text": FILLER}]},
                {"role": "user", "content": others},
            ]
        return [{"role": "user", "content": answers + others or [{"text": FILLER}]}]

    def _answer(self, call: ToolCall, sent: str, found: list[ToolResult], twins: int) -> list[Block]:
        if not found:
            self.notes.approximated("history")
            return [self._tool_result(ToolResult(call_id=call.id, parts=(Text(text=NO_RESULT),), is_error=True), sent)]
        # Of several results for one call the last one counts; calls that share an id take theirs in order.
        result = found.pop(0) if twins > 1 and len(found) > 1 else found[-1]
        return [self._tool_result(result, sent), *self.cache_point(result.cache)]

    def _must_part(self, others: list[Block]) -> bool:
        """Whether the model refuses `others` in one message with tool results."""
        family = self._facts.family
        return family in LONELY_RESULTS or (
            family == "claude" and any("document" in block or "video" in block for block in others)
        )

    def _with_text(self, blocks: list[Block]) -> list[Block]:
        """A document is taken only beside a text."""
        if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
            return [*blocks, {"text": FILLER}]
        return blocks

    # Blocks -----------------------------------------------------------------------------------------------------------

    def _content(self, parts: Sequence[Part]) -> list[Block]:
        """A message that came from Converse, block by block."""
        out: list[Block] = []
        for part in parts:
            if isinstance(part, ToolCall):
                out.append(self._tool_use(part, self._ids.sent(part.id)))
                out += self.cache_point(part.cache)
            elif isinstance(part, ToolResult):
                out.append(self._tool_result(part, self._ids.sent(part.call_id)))
                out += self.cache_point(part.cache)
            else:
                out += self._blocks(part)
        return out

    def _blocks(self, part: Part) -> list[Block]:
        """A part that is neither a call nor a result."""
        if isinstance(part, Text | Refusal):
            if not part.text.strip() and not self._own:
                return []
            return [{"text": part.text}, *self.cache_point(part.cache if isinstance(part, Text) else "")]
        if isinstance(part, Image):
            return [self._image(part), *self.cache_point(part.cache)]
        if isinstance(part, Document):
            return [*self._document(part), *self.cache_point(part.cache)]
        if isinstance(part, Media):
            return [self._media(part)]
        if isinstance(part, Thinking):
            return [_reasoning(part)]
        if isinstance(part, Opaque):
            if part.dialect != words.DIALECT:
                raise NotPortable("server_tools", f"{part.kind} is understood by its own provider only")
            return [dict(part.raw)]
        return []

    def _tool_use(self, call: ToolCall, sent: str) -> Block:
        return {
            "toolUse": {"toolUseId": sent, "name": self.names.sent(call.name), "input": self._arguments(call)},
        }

    def _arguments(self, call: ToolCall) -> Any:
        if call.custom:
            return {"input": call.arguments}
        if not call.arguments.strip():
            return {}
        try:
            parsed = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict) or (self._own and parsed is not None):
            return parsed
        self.notes.approximated("tool_calls")
        return {"_raw": call.arguments}

    def _tool_result(self, result: ToolResult, sent: str) -> Block:
        content: list[Block] = []
        if isinstance(result.value, dict) or (self._own and result.value is not None):
            content.append({"json": result.value})
        elif result.value is not None:
            text = result.value if isinstance(result.value, str) else orjson.dumps(result.value).decode()
            content += [{"text": text}] if text.strip() else []
        for part in result.parts:
            content += [block for block in self._blocks(part) if "cachePoint" not in block]
        if not content and not self._own:
            content.append({"text": NO_OUTPUT})
        inner: Block = {"toolUseId": sent, "content": content}
        if result.is_error:
            if self._own or self._facts.family in STATUS or not self._facts.family:
                inner["status"] = "error"
            else:
                inner["content"] = [{"text": "The tool failed:"}, *content]
        return {"toolResult": inner}

    def _image(self, image: Image) -> Block:
        if self._facts.vision is False:
            raise NotPortable("vision", "the model takes no images")
        if image.file_id:
            raise NotPortable("file_id", "an image is a file that lives at another provider")
        if image.detail not in ("", "auto"):
            self.notes.dropped("detail")
        if image.url.startswith("s3://"):
            kind = words.IMAGES.get(image.media_type) or image.url.rsplit(".", 1)[-1].lower().replace("jpg", "jpeg")
            return {"image": {"format": kind, "source": {"s3Location": {"uri": image.url}}}}
        if image.url:
            raise NotPortable("url_images", "Converse takes images as bytes only")
        found = words.IMAGES.get(image.media_type.lower())
        if found is None:
            raise NotPortable("vision", f"Converse takes no images of type {image.media_type or 'unknown'}")
        return {"image": {"format": found, "source": {"bytes": image.data}}}

    def _document(self, document: Document) -> list[Block]:
        if self._facts.documents is False:
            raise NotPortable("documents", "the model takes no documents")
        if document.file_id:
            raise NotPortable("file_id", "a document is a file that lives at another provider")
        if document.url and not document.url.startswith("s3://"):
            raise NotPortable("documents", "Converse takes documents as bytes only")
        kind = words.DOCUMENTS.get(document.media_type.split(";")[0].strip().lower())
        if kind is None and not document.text:
            raise NotPortable("documents", f"Converse takes no documents of type {document.media_type or 'unknown'}")
        source: Block = {"bytes": document.data}
        if document.text:
            kind, source = kind or "txt", {"bytes": b64encode(document.text.encode("utf-8", "replace")).decode()}
        elif document.url:
            source = {"s3Location": {"uri": document.url}}
        inner: Block = {"format": kind, "name": self._document_name(document.name), "source": source}
        if document.context and (self._own or self._facts.family == "claude"):
            inner["context"] = document.context
        elif document.context.strip():
            return [{"text": document.context}, {"document": inner}]
        return [{"document": inner}]

    def _document_name(self, name: str) -> str:
        """The name in allowed letters; one that another document has already gets a number."""
        plain = name if self._own and name else words.document_name(name)
        chosen, number = plain, 2
        while chosen in self._documents:
            chosen, number = f"{plain} {number}", number + 1
        self._documents.add(chosen)
        return chosen

    def _media(self, media: Media) -> Block:
        """Audio and video go only where it is known that they are taken: most models on Bedrock refuse them."""
        taken = self._facts.audio if media.kind == "audio" else self._facts.video
        if not self._own and taken is not True:
            raise NotPortable(media.kind, f"the model takes no {media.kind}")
        kinds = words.AUDIOS if media.kind == "audio" else words.VIDEOS
        kind = kinds.get(media.media_type)
        if kind is None or (media.url and not media.url.startswith("s3://")):
            raise NotPortable(media.kind, f"Converse takes no {media.kind} of this type or by this address")
        source = {"s3Location": {"uri": media.url}} if media.url else {"bytes": media.data}
        return {media.kind: {"format": kind, "source": source}}


def _is_void(part: Part) -> bool:
    return isinstance(part, Text | Refusal) and not part.text.strip()


def _reasoning(part: Thinking) -> Block:
    if part.redacted:
        return {"reasoningContent": {"redactedContent": words.redacted_out(part.redacted)}}
    inner = {"text": part.text}
    if part.signature:
        inner["signature"] = part.signature
    return {"reasoningContent": {"reasoningText": inner}}


def _as_words(result: ToolResult) -> list[Part]:
    """A result that answers no call of the turn before it, as the user's words."""
    head = f"Result of the tool {result.name}:" if result.name else "Result of a tool:"
    parts: list[Part] = [Text(text=head)]
    if result.value is not None:
        text = result.value if isinstance(result.value, str) else orjson.dumps(result.value).decode()
        parts.append(Text(text=text))
    return [*parts, *(part for part in result.parts if not _is_void(part))]


def thinks_before_calls(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tool loop at the end of a history, if there is one, begins with reasoning.

    Claude with a thinking budget refuses to go on with calls that it did not think about.
    """
    if len(messages) < 2 or not any("toolResult" in block for block in messages[-1]["content"]):
        return True
    before = messages[-2]["content"]
    return bool(before) and "reasoningContent" in before[0]
