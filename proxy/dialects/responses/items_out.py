"""The turns of a canonical request as input items."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson

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
from proxy.dialects.media import data_url, text_of
from proxy.dialects.responses.request_in import REASONING_TEXT
from proxy.dialects.responses.words import DIALECT
from proxy.dialects.spelling import Warnings
from proxy.dialects.tools import Names

ID_MAX: Final = 64
NO_RESULT: Final = "no result was provided"
Item = dict[str, Any]
_KEPT: Final = "input."
"""Beginning of the names in `Request.extra` of what items and their parts have no place for."""


class ItemsWriter:
    """Writes the items of one request; `instructions` is what the leading system turns say."""

    __slots__ = (
        "_answered",
        "_at",
        "_called",
        "_facts",
        "_items",
        "_kept",
        "_names",
        "_open",
        "_own",
        "_request",
        "_warn",
        "instructions",
    )

    def __init__(self, request: Request, facts: ModelFacts, names: Names, warn: Warnings) -> None:
        self._request = request
        self._facts = facts
        self._names = names
        self._warn = warn
        self._own = request.dialect == DIALECT
        self._items: list[Item] = []
        self._open: dict[str, bool] = {}
        """Calls that no result has come for yet -> whether they take free text."""
        self._called: dict[str, str] = {}
        """Id of every call so far -> its tool."""
        self._answered: set[str] = set()
        self._at = 0
        """Number of the turn that is being written."""
        extra = request.extra.items() if self._own else ()
        self._kept = {key.removeprefix(_KEPT): table for key, table in extra if key.startswith(_KEPT)}
        self.instructions = ""

    def write(self) -> list[Item]:
        """All items, in order; every call has a result."""
        turns = self._request.turns
        first = self._lead(turns)
        for self._at in range(first, len(turns)):
            turn = turns[self._at]
            if turn.role is Role.ASSISTANT:
                if self._at == first or turns[self._at - 1].role is not Role.ASSISTANT:
                    self._close()  # else the results of both turns may still come
                self._said(turn)
            elif turn.role is Role.SYSTEM:
                self._close()
                self._message("developer" if turn.developer else "system", turn.parts, turn.name)
            else:
                self._heard(turn)
        self._close()
        if not self._own:
            self._check_end()
        return self._items

    def _lead(self, turns: tuple[Turn, ...]) -> int:
        """Make the instructions of the system turns that come first; returns the number of the turn behind them."""
        leading: list[str] = []
        at = 0
        while at < len(turns) and turns[at].role is Role.SYSTEM and _is_text(turns[at]):
            if self._own and (
                leading or any(place.startswith("0.") for table in self._kept.values() for place in table)
            ):
                break
            leading.append("\n".join(p.text for p in turns[at].parts if isinstance(p, Text) and p.text))
            at += 1
        self.instructions = "\n\n".join(text for text in leading if text)
        return at

    def _check_end(self) -> None:
        if not self._items:
            if not self.instructions:
                raise NotPortable("malformed", "no message has anything to say")
            self._items.append({"role": "user", "content": "."})
        if self._items[-1].get("role") == "assistant" and not self._facts.prefill:
            raise NotPortable("prefill", "the Responses API does not complete an answer that is begun")

    def _restore(self, item: Item, part: int, end: str = "") -> Item:
        """Put back what was kept of an item by its first part, or of the part itself (`end` is a dot)."""
        if self._kept:
            place = f"{self._at}.{part}{end}"
            for member, table in self._kept.items():
                if place in table and member != "reasoning_text":
                    item[member] = table[place]
        return item

    def _close(self) -> None:
        """Calls without a result get one that says so: the API refuses a history with open calls."""
        if not self._own:
            for call_id, custom in self._open.items():
                self._items.append(_output(call_id, NO_RESULT, custom))
                self._warn.approximated("history")
        self._open.clear()

    # The model's turns ------------------------------------------------------------------------------------------------

    def _said(self, turn: Turn) -> None:
        content: list[Item] = []
        first = 0
        for at, part in enumerate(turn.parts):
            if isinstance(part, Text | Refusal):
                first = first if content else at
                if isinstance(part, Refusal):
                    content.append({"type": "refusal", "refusal": part.text})
                elif part.text:
                    out = {"type": "output_text", "text": part.text, "annotations": []}
                    content.append(self._restore(out, at, "."))
            else:
                content = self._flush(content, first)
                self._other(part, at)
        self._flush(content, first)

    def _flush(self, content: list[Item], first: int) -> list[Item]:
        if content and self._own:
            self._items.append(self._restore({"type": "message", "role": "assistant", "content": content}, first))
        elif content:
            # As a list the content would be the provider's own item, and one needs an id that we have not.
            text = "".join(part.get("text") or part.get("refusal") or "" for part in content)
            self._items.append({"role": "assistant", "content": text})
        return []

    def _other(self, part: Part, at: int) -> None:
        if isinstance(part, ToolCall):
            self._call(part)
            self._restore(self._items[-1], at)
        elif isinstance(part, Thinking):
            self._think(part, at)
        elif isinstance(part, Opaque):
            if part.dialect != DIALECT:
                self._warn.dropped(part.kind)
            else:
                self._items.append(dict(part.raw))
        else:
            self._warn.dropped("history")  # a picture that the model made

    def _call(self, part: ToolCall) -> None:
        call_id = _short(part.id) if part.id or self._own else self._fresh()
        self._called[call_id] = part.name
        self._open[call_id] = part.custom
        if part.custom:
            self._items.append(
                {
                    "type": "custom_tool_call",
                    "call_id": call_id,
                    "name": self._names.sent(part.name),
                    "input": part.arguments,
                }
            )
            return
        self._items.append(
            {
                "type": "function_call",
                "call_id": call_id,
                "name": self._names.sent(part.name),
                "arguments": part.arguments or "{}",
            }
        )

    def _fresh(self) -> str:
        """An id for a call that has none, other than every id so far."""
        number = len(self._called)
        while (made := f"call_{number:06d}") in self._called:
            number += 1
        return made

    def _think(self, part: Thinking, at: int) -> None:
        if not self._own and part.origin != "openai":
            if part.text or part.redacted or part.signature:
                self._warn.dropped("thinking")
            return
        if not part.redacted and not self._own:
            return
        item: Item = {"type": "reasoning", "summary": []}
        if part.text and f"{self._at}.{at}" in self._request.extra.get(REASONING_TEXT, ()):
            item["content"] = [{"type": "reasoning_text", "text": part.text}]
        elif part.text:
            item["summary"] = [{"type": "summary_text", "text": part.text}]
        if part.id:
            item["id"] = part.id
        if part.redacted:
            item["encrypted_content"] = part.redacted
        self._items.append(self._restore(item, at))

    # The caller's turns -----------------------------------------------------------------------------------------------

    def _heard(self, turn: Turn) -> None:
        rest: list[Part] = []
        for at, part in enumerate(turn.parts):
            if isinstance(part, ToolResult):
                self._result(part)
                self._restore(self._items[-1], at) if self._own else None
            else:
                rest.append(part)
        if rest:
            self._close()
            self._message("user", tuple(rest), turn.name)

    def _result(self, part: ToolResult) -> None:
        call_id = _short(part.call_id) if part.call_id or self._own else self._waiting(part.name)
        custom = self._open.pop(call_id, None)
        if custom is None and not self._own:
            self._warn.approximated("history")
            if call_id in self._answered:
                return  # one result for a call, the first
            self._message("user", part.parts or (Text(text=_told(part)),), "")
            return
        self._answered.add(call_id)
        self._items.append(_output(call_id, self._output(part), part.custom if self._own else bool(custom)))

    def _waiting(self, name: str) -> str:
        """The first open call of a tool, for a result without an id; empty: there is none."""
        return next((call_id for call_id in self._open if not name or self._called[call_id] == name), "")

    def _output(self, part: ToolResult) -> str | list[Item]:
        if any(not isinstance(each, Text) for each in part.parts):
            content = [self._part(each) for each in part.parts]
            if part.is_error:
                content.insert(0, {"type": "input_text", "text": "Error:"})
            return content
        told = _told(part)
        return f"Error: {told}" if part.is_error else told

    def _message(self, role: str, parts: tuple[Part, ...], name: str) -> None:
        texts = [part.text for part in parts if isinstance(part, Text)]
        if name and not self._own:
            self._warn.approximated("name")
            parts = (Text(text=f"{name}: "), *parts)
            texts = [f"{name}: ", *texts]
        if len(texts) == len(parts) and (not self._own or (len(parts) <= 1 and not self._is_kept())):
            text = "".join(texts) if name else "\n".join(texts)
            if text or self._own:
                self._items.append(self._restore({"role": role, "content": text}, 0))
            return
        content = [
            self._restore(self._part(part), at, ".")
            for at, part in enumerate(parts)
            if self._own or not (isinstance(part, Text) and not part.text)
        ]
        if content:
            self._items.append(self._restore({"role": role, "content": content}, 0))

    def _is_kept(self) -> bool:
        """Whether something is to be put back into the first part of the turn."""
        return any(f"{self._at}.0." in table for table in self._kept.values())

    def _part(self, part: Part) -> Item:
        if isinstance(part, Text):
            return {"type": "input_text", "text": part.text}
        if isinstance(part, Image):
            return self._image(part)
        if isinstance(part, Document):
            return self._file(part)
        if isinstance(part, Media):
            return self._media(part)
        if isinstance(part, Opaque) and part.dialect == DIALECT:
            return dict(part.raw)
        raise NotPortable("server_tools", "a block that only its own API understands")

    def _image(self, part: Image) -> Item:
        if self._facts.vision is False and not self._own:
            raise NotPortable("vision", "the model takes no images")
        out: Item = {"type": "input_image"}
        if part.file_id:
            self._check_home()
            out["file_id"] = part.file_id
        elif part.data:
            out["image_url"] = data_url(part.media_type or "image/png", part.data)
        elif part.url.startswith(("http://", "https://")):
            out["image_url"] = part.url
        else:
            raise NotPortable("url_images", "the address of an image is not one of the web")
        if part.detail:
            out["detail"] = part.detail
        elif not self._own:
            out["detail"] = "auto"
        return out

    def _file(self, part: Document) -> Item:
        if part.text:
            return {"type": "input_text", "text": f"{part.name}\n{part.text}" if part.name else part.text}
        if part.data and part.media_type.startswith("text/"):
            text = text_of(part.data)
            if text is not None and not self._own:
                return {"type": "input_text", "text": f"{part.name}\n{text}" if part.name else text}
        if self._facts.documents is False and not self._own:
            raise NotPortable("documents", "the model takes no documents")
        out: Item = {"type": "input_file"}
        if part.file_id:
            self._check_home()
            out["file_id"] = part.file_id
        elif part.url:
            if not self._own and not part.url.startswith(("http://", "https://")):
                raise NotPortable("documents", "the address of a document is not one of the web")
            out["file_url"] = part.url
        else:
            out["file_data"] = data_url(part.media_type or "application/pdf", part.data)
            if part.name or not self._own:
                out["filename"] = part.name or "document.pdf"
        return out

    def _check_home(self) -> None:
        if not self._own:
            raise NotPortable("file_id", "a file lives at the caller's provider")

    def _media(self, part: Media) -> Item:
        if not self._own or part.kind != "audio":
            raise NotPortable(part.kind, f"the Responses API takes no {part.kind}")
        form = part.media_type.rpartition("/")[2]
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": form}}


def _is_text(turn: Turn) -> bool:
    return all(isinstance(part, Text) for part in turn.parts)


def _told(part: ToolResult) -> str:
    if part.value is not None:
        return part.value if isinstance(part.value, str) else orjson.dumps(part.value).decode()
    return "\n".join(each.text for each in part.parts if isinstance(each, Text))


def _output(call_id: str, output: Any, custom: bool) -> Item:
    kind = "custom_tool_call_output" if custom else "function_call_output"
    return {"type": kind, "call_id": call_id, "output": output}


def _short(call_id: str) -> str:
    """An id within the API's limit: a long one becomes its hash, the same wherever it stands."""
    if len(call_id) <= ID_MAX:
        return call_id or "call_0"
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:32]
