"""The parts of a turn as content blocks (`providers.md` 1.5).

Everything that Anthropic would refuse in a block is dealt with here: media it does not take, marks for the cache beyond
the fourth, reasoning that it has not signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from proxy.dialects.anthropic.words import DIALECT, IMAGES, ORIGIN, call_input
from proxy.dialects.chat import (
    Document,
    Image,
    Media,
    ModelFacts,
    NotPortable,
    Part,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from proxy.dialects.media import text_of
from proxy.dialects.members import dumped
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import NAME_BAD, Names, named_in

CACHE_MARKS_MAX: Final = 4
NAME_MAX: Final = 128
FAILED: Final = "the tool failed"
"""Stands where a failed tool said nothing: a result that is an error must not be empty."""
_TEXTS: Final = ("application/json", "application/xml", "application/x-yaml", "application/javascript")
"""Media types outside ``text/`` that are text none the less."""

Block = dict[str, Any]


class Blocks:
    """Writes the blocks of one request; remembers what has to be unique or is counted in it.

    The order of the calls is the order of the body as Anthropic reads it: tools, system, messages.
    """

    __slots__ = ("_facts", "_has_short_mark", "_left", "_marks", "_own", "ids", "names", "notes")

    def __init__(self, request: Request, facts: ModelFacts, notes: Warnings) -> None:
        self._facts = facts
        self._own = request.dialect == DIALECT
        self._left = _by_place(request.extra) if self._own else {}
        self._marks = 0
        self._has_short_mark = False
        self.ids = Names(bad=NAME_BAD, longest=NAME_MAX, placeholder="call")
        self.names = Names(named_in(request), longest=NAME_MAX)
        self.notes = notes

    # Marks ------------------------------------------------------------------------------------------------------------

    def marked(self, block: Block, mark: str) -> Block:
        """The block with its mark for the cache, where one more is allowed; changes `block`."""
        if not mark:
            return block
        if self._marks >= CACHE_MARKS_MAX and not self._own:
            self.notes.dropped("cache")
            return block
        self._marks += 1
        block["cache_control"] = {"type": "ephemeral"}
        if mark == "1h" and (self._own or not self._has_short_mark):
            block["cache_control"]["ttl"] = mark
        elif mark == "1h":
            self.notes.approximated("cache")  # a long one behind a short one is refused
        else:
            self._has_short_mark = True
        return block

    # Turns that came from this dialect --------------------------------------------------------------------------------

    def verbatim(self, parts: Iterable[Part], place: str) -> list[Block]:
        """A turn of a Messages caller, block by block, with what was left over when it was read."""
        return [self._with_leftovers(self.block(part, f"{place}.{i}"), f"{place}.{i}") for i, part in enumerate(parts)]

    def _with_leftovers(self, block: Block, place: str) -> Block:
        left = self._left.get(place)
        return block if left is None else {**block, **left}

    # Blocks -----------------------------------------------------------------------------------------------------------

    def block(self, part: Part, place: str = "") -> Block:
        """One part. `place`: where it stands in a request of the same dialect, for what was left over inside it."""
        if isinstance(part, Text):
            return self.marked({"type": "text", "text": part.text}, part.cache)
        if isinstance(part, Refusal):
            return {"type": "text", "text": part.text}
        if isinstance(part, ToolCall):
            return self.call(part, part.id)
        if isinstance(part, ToolResult):
            return self.result(part, part.call_id, place)
        if isinstance(part, Image):
            return self.marked({"type": "image", "source": self._image(part)}, part.cache)
        if isinstance(part, Document):
            return self._document(part)
        if isinstance(part, Thinking):
            return _thinking(part)
        if isinstance(part, Media):
            raise NotPortable(part.kind, f"the Messages API takes no {part.kind}")
        if part.dialect != DIALECT:
            raise NotPortable("server_tools", f"{part.kind} is understood by its own provider only")
        return dict(part.raw)

    def call(self, call: ToolCall, sent: str) -> Block:
        """A call, under the id that is sent for it."""
        arguments = call_input(call)
        if "_raw" in arguments and arguments["_raw"] == call.arguments:
            self.notes.approximated("tool_calls")
        block = {"type": "tool_use", "id": sent, "name": self.names.sent(call.name), "input": arguments}
        return self.marked(block, call.cache)

    def result(self, result: ToolResult, sent: str, place: str = "") -> Block:
        """A result, under the id that is sent for its call."""
        block: Block = {"type": "tool_result", "tool_use_id": sent}
        content = self._result_content(result, place)
        if content:
            is_plain = len(content) == 1 and set(content[0]) == {"type", "text"}
            block["content"] = content[0]["text"] if is_plain else content
        elif result.is_error:
            block["content"] = FAILED
        if result.is_error:
            block["is_error"] = True
        return self.marked(block, result.cache)

    def _result_content(self, result: ToolResult, place: str) -> list[Block]:
        if result.value is not None:
            text = result.value if isinstance(result.value, str) else dumped(result.value)
            return [{"type": "text", "text": text}] if text.strip() else []
        if self._own:
            return self.verbatim(result.parts, place)
        return [self.block(part) for part in result.parts if not (isinstance(part, Text) and not part.text.strip())]

    # Media ------------------------------------------------------------------------------------------------------------

    def _image(self, image: Image) -> Block:
        if self._facts.vision is False:
            raise NotPortable("vision", "the model takes no images")
        if image.detail not in ("", "auto"):
            self.notes.dropped("detail")
        if image.file_id:
            return self._file(image.file_id)
        if image.url:
            self._may_fetch(image.url, "url_images")
            return {"type": "url", "url": image.url}
        if image.media_type not in IMAGES and not self._own:
            raise NotPortable("vision", "only jpeg, png, gif and webp images are taken")
        return {"type": "base64", "media_type": image.media_type, "data": image.data}

    def _file(self, file_id: str) -> Block:
        if not self._own:
            raise NotPortable("file_id", "a file that lives at another provider")
        return {"type": "file", "file_id": file_id}

    def _may_fetch(self, url: str, reason: str) -> None:
        if self._facts.url_images is False:
            raise NotPortable(reason, "the target fetches nothing by its address")
        if not self._own and url[:8].lower() != "https://":
            raise NotPortable(reason, "only https addresses are fetched")

    def _document(self, document: Document) -> Block:
        if self._facts.documents is False:
            raise NotPortable("documents", "the model takes no documents")
        block: Block = {"type": "document", "source": self._source(document)}
        if document.name:
            block["title"] = document.name
        if document.context:
            block["context"] = document.context
        return self.marked(block, document.cache)

    def _source(self, document: Document) -> Block:
        if document.file_id:
            return self._file(document.file_id)
        if document.url:
            self._may_fetch(document.url, "documents")
            return {"type": "url", "url": document.url}
        kind = document.media_type
        if not document.data:
            return {"type": "text", "media_type": "text/plain", "data": document.text}
        if kind == "application/pdf" or self._own:
            return {"type": "base64", "media_type": kind, "data": document.data}
        if kind.startswith("text/") or kind in _TEXTS:
            text = text_of(document.data)
            if text is not None:
                return {"type": "text", "media_type": "text/plain", "data": text}
        raise NotPortable("documents", "only PDF and text documents are taken")


def keeps(part: Thinking) -> bool:
    """Whether reasoning can be replayed: only what Anthropic has signed, whatever platform it came over."""
    return part.origin == ORIGIN and bool(part.signature or part.redacted)


def _thinking(part: Thinking) -> Block:
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _by_place(extra: Mapping[str, Any]) -> dict[str, Block]:
    """What blocks say beside their parts: place -> members."""
    found: dict[str, Block] = {}
    for name, places in extra.items():
        holder, _, member = name.partition(".")
        if holder == "messages" and member:
            for place, value in places.items():
                found.setdefault(place, {})[member] = value
    return found
