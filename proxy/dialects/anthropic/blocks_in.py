"""The content blocks of a Messages request as parts of turns.

What a block says beside what its part can hold is not lost: it is kept by its place (``Leftovers``), so that the same
dialect writes it again and others tell that they dropped it. A block that only Anthropic understands stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.anthropic.words import DIALECT, ORIGIN
from proxy.dialects.chat import (
    Document,
    Image,
    Json,
    Malformed,
    Need,
    Opaque,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from proxy.dialects.media import media_type
from proxy.dialects.members import cache_mark, dumped, mapping, string

_LACKS: Final[Mapping[str, str]] = {
    "container_upload": "file_id",
    "search_result": "documents",
    "document": "documents",
    "image": "vision",
    "tool_result": "server_tools",
}
"""Blocks of a user's turn that are not, or not in every form, known elsewhere -> the word for what a target lacks."""
_READ: Final[Mapping[str, frozenset[str]]] = {
    "text": frozenset({"type", "text", "cache_control"}),
    "image": frozenset({"type", "source", "cache_control"}),
    "document": frozenset({"type", "source", "title", "context", "cache_control"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
}
"""Members that have a place in the part of a block; others are left over."""
_SILENT: Final = ({"type": "direct"}, {"enabled": False})
"""Values that say only what holds anyway: the caller of a tool, citations that are off."""


class Leftovers:
    """Members without a place, and blocks that no other dialect can honour, of one request."""

    __slots__ = ("extra", "needs")

    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}
        self.needs: list[Need] = []

    def keep(self, holder: str, known: frozenset[str], block: Json, place: str) -> None:
        """Remember the members of `block` outside `known` under ``holder.member`` by `place`."""
        for member, value in block.items():
            if member not in known and value not in (None, [], {}) and value not in _SILENT:
                self.extra.setdefault(f"{holder}.{member}", {})[place] = value

    def need(self, reason: str, where: str) -> None:
        """The request can be honoured by Anthropic only."""
        self.needs.append(Need(reason=reason, where=where))


def content(value: Any, path: str, place: str, left: Leftovers) -> tuple[Part, ...]:
    """The parts of a string or of a list of blocks. `path` names it in errors, `place` is where it is left over."""
    if isinstance(value, str):
        return (Text(text=value),)
    if not isinstance(value, list):
        raise Malformed(path, "must be a string or a list of blocks")
    return tuple(_part(block, f"{path}.{i}", f"{place}.{i}", left) for i, block in enumerate(value))


def _part(block: Any, path: str, place: str, left: Leftovers) -> Part:
    if not isinstance(block, Mapping):
        raise Malformed(path, "must be an object")
    kind = string(block.get("type"))
    if not kind:
        raise Malformed(f"{path}.type", "must be a string")
    found = _read(kind, block, path, place, left)
    if found is not None:
        left.keep("messages", _READ[kind], block, place)
        return found
    if not _is_servers(kind):
        left.need(_LACKS.get(kind, "malformed"), f"{path}.type={kind}")
    return Opaque(dialect=DIALECT, kind=kind, raw=block)


def _is_servers(kind: str) -> bool:
    """Whether a block tells of a tool that ran at Anthropic, or of what Anthropic did to the conversation."""
    return kind.endswith(("_tool_use", "_tool_result")) or kind in ("compaction", "fallback")


def _read(kind: str, block: Json, path: str, place: str, left: Leftovers) -> Part | None:
    """The part that a block is; None: the canonical form has none for it."""
    cache = cache_mark(block)
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise Malformed(f"{path}.text", "must be a string")
        return Text(text=block["text"], cache=cache)
    if kind == "tool_use":
        return _call(block, path, cache)
    if kind == "tool_result":
        return _result(block, path, place, cache, left)
    if kind == "image":
        return _image(mapping(block.get("source")), f"{path}.source", cache, left)
    if kind == "document":
        return _document(block, f"{path}.source", cache, left)
    if kind == "thinking":
        signature = string(block.get("signature"))
        return Thinking(text=string(block.get("thinking")), signature=signature, origin=ORIGIN if signature else "")
    if kind == "redacted_thinking":
        return Thinking(redacted=string(block.get("data")), origin=ORIGIN)
    return None


def _call(block: Json, path: str, cache: str) -> ToolCall:
    name = string(block.get("name"))
    if not name:
        raise Malformed(f"{path}.name", "a call needs a name")
    given = block.get("input")
    arguments = given if isinstance(given, str) else dumped({} if given is None else given)
    return ToolCall(id=string(block.get("id")), name=name, arguments=arguments, cache=cache)


def _result(block: Json, path: str, place: str, cache: str, left: Leftovers) -> ToolResult | None:
    """A tool's result; None: it holds more than text, images and documents, as results of a tool search do."""
    given = block.get("content")
    parts: list[Text | Image | Document] = []
    if given is not None:
        within = Leftovers()
        for part in content(given, f"{path}.content", place, within):
            if not isinstance(part, Text | Image | Document):
                return None
            parts.append(part)
        left.needs += within.needs
        for member, places in within.extra.items():
            left.extra.setdefault(member, {}).update(places)
    return ToolResult(
        call_id=string(block.get("tool_use_id")),
        parts=tuple(parts),
        is_error=block.get("is_error") is True,
        cache=cache,
    )


def _image(source: Json, path: str, cache: str, left: Leftovers) -> Image | None:
    kind = source.get("type")
    if kind == "base64":
        wanted = string(source.get("media_type"))
        return Image(data=_data(source, path), media_type=media_type(wanted), cache=cache)
    if kind == "url" and string(source.get("url")):
        return Image(url=source["url"], cache=cache)
    if kind == "file" and string(source.get("file_id")):
        left.need("file_id", path)
        return Image(file_id=source["file_id"], cache=cache)
    return None


def _document(block: Json, path: str, cache: str, left: Leftovers) -> Document | None:
    source = mapping(block.get("source"))
    kind, name, context = source.get("type"), string(block.get("title")), string(block.get("context"))
    if kind == "base64":
        wanted = media_type(string(source.get("media_type")) or "application/pdf")
        return Document(data=_data(source, path), media_type=wanted, name=name, context=context, cache=cache)
    if kind == "text" and isinstance(source.get("data"), str):
        wanted = media_type(string(source.get("media_type")) or "text/plain")
        return Document(text=source["data"], media_type=wanted, name=name, context=context, cache=cache)
    if kind == "content" and isinstance(source.get("content"), str):
        return Document(text=source["content"], media_type="text/plain", name=name, context=context, cache=cache)
    if kind == "url" and string(source.get("url")):
        return Document(url=source["url"], name=name, context=context, cache=cache)
    if kind == "file" and string(source.get("file_id")):
        left.need("file_id", path)
        return Document(file_id=source["file_id"], name=name, context=context, cache=cache)
    return None


def _data(source: Json, path: str) -> str:
    if not isinstance(source.get("data"), str):
        raise Malformed(f"{path}.data", "must be base64")
    return str(source["data"])
