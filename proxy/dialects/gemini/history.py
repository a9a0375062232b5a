"""The history of a conversation as Gemini's ``contents`` (`providers.md` 1.6 "History rules", 2.3).

A model turn that calls is followed by one user turn with one ``functionResponse`` per call and nothing else in it;
roles alternate; the first turn is the user's; no part is empty. What does not fit is put right, not refused, because
other dialects allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from proxy.dialects.gemini import blobs
from proxy.dialects.gemini.models import Generation
from proxy.dialects.spelling import Warnings

PLACEHOLDER: Final = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""base64 of ``skip_thought_signature_validator``: stands for the signature of a call that another model made."""
FILLER: Final = "."
"""What a user turn says that only has to be there."""

Content = dict[str, Any]


class History:
    """Writes the turns of one request. `name_of`: a tool's name as it is sent."""

    __slots__ = ("_calls", "_facts", "_made", "_name_of", "_own", "_request", "_used", "_warn", "contents", "system")

    def __init__(
        self,
        request: Request,
        facts: ModelFacts,
        made: Generation,
        name_of: Callable[[str], str],
        warn: Warnings,
    ) -> None:
        self._request = request
        self._facts = facts
        self._made = made
        self._name_of = name_of
        self._warn = warn
        self._own = request.dialect == "gemini"
        self._used: set[str] = set()
        """Signatures that have been sent: one that comes twice is billed twice."""
        self._calls: list[ToolCall] = []
        """Calls of the last model turn, which wait for their results."""
        self.system: list[Content] = []
        self.contents: list[Content] = []

    def write(self) -> None:
        """Fill `system` and `contents`."""
        turns = list(self._request.turns)
        lead = 0
        while lead < len(turns) and turns[lead].role is Role.SYSTEM:
            self.system.extend({"text": text} for text in _texts(turns[lead].parts))
            lead += 1
        for role, parts in _grouped(turns[lead:]):
            if role is Role.ASSISTANT:
                self._model(parts)
            else:
                self._user(parts)
        if self._calls:
            self._answer_calls([])
        if not self.contents or self.contents[0]["role"] != "user":
            self._warn.approximated("history")
            self.contents.insert(0, {"role": "user", "parts": [{"text": FILLER}]})
        elif self.contents[-1]["role"] == "model" and self._facts.prefill is False:
            raise NotPortable("prefill", "the last turn is the model's and the target does not go on with it")

    # The user's side --------------------------------------------------------------------------------------------------

    def _user(self, turns: list[Turn]) -> None:
        results: list[ToolResult] = []
        rest: list[tuple[Turn, Part]] = []
        for turn in turns:
            for part in turn.parts:
                if isinstance(part, ToolResult):
                    results.append(part)
                else:
                    rest.append((turn, part))
        written: list[Content] = self._answer_calls(results) if results or self._calls else []
        named: set[int] = set()
        for turn, part in rest:
            name = "" if id(turn) in named else turn.name
            if name and isinstance(part, Text):
                named.add(id(turn))
                self._warn.approximated("name")
                part = Text(text=f"{name}: {part.text}")
            written.extend(self._said(turn, part))
        if not written:
            return
        if not self._own and not any("text" in part for part in written):
            written.append({"text": " "})  # some backends refuse media alone
        if self.contents and self.contents[-1]["role"] == "user" and not _responds(self.contents[-1]):
            self.contents[-1]["parts"].extend(written)
        else:
            self.contents.append({"role": "user", "parts": written})

    def _said(self, turn: Turn, part: Part) -> list[Content]:
        if turn.role is Role.SYSTEM:
            self._warn.approximated("history")
            return [{"text": f"<system>{text}</system>"} for text in _texts((part,))]
        if isinstance(part, Text):
            return _text(part)
        if isinstance(part, Image | Document | Media):
            return blobs.written(part, self._facts, self._own, self._warn)
        if isinstance(part, Opaque):
            return [self._opaque(part)]
        if isinstance(part, Refusal):
            return [{"text": part.text}] if part.text else []
        self._warn.dropped("thinking")
        return []

    def _opaque(self, part: Opaque) -> Content:
        if part.dialect != "gemini":
            raise NotPortable("server_tools", f"the history has a block that only {part.dialect} understands")
        return dict(part.raw)

    # Results ----------------------------------------------------------------------------------------------------------

    def _answer_calls(self, results: Sequence[ToolResult]) -> list[Content]:
        """Write the turn that answers the calls of the last model turn; returns what belongs into the turn behind it:
        results of calls that nobody made, media that a result cannot hold."""
        calls, self._calls = self._calls, []
        matched, orphans = _matched(calls, results)
        behind: list[Content] = []
        responses = []
        for call, result in zip(calls, matched, strict=True):
            if result is None:
                self._warn.approximated("history")
                result = ToolResult(call_id=call.id, parts=(Text(text="no result was provided"),), is_error=True)
            responses.append(self._response(call, result, behind))
        if responses:
            self.contents.append({"role": "user", "parts": responses})
        for result in orphans:
            self._warn.approximated("history")
            text = "\n".join(_texts(result.parts)) if result.value is None else _json(result.value)
            label = f"Result of {result.name}: " if result.name else "Result of a tool: "
            behind.append({"text": label + text})
            behind.extend(self._media(result))
        return behind

    def _response(self, call: ToolCall, result: ToolResult, behind: list[Content]) -> Content:
        written: dict[str, Any] = {"name": self._name_of(call.name), "response": _value(result)}
        if call.id and self._made >= (3, 0):
            written["id"] = call.id
        media = self._media(result)
        if media and (self._made >= (3, 0) or self._own):
            written["parts"] = media
        elif media:
            self._warn.approximated("history")
            behind.append({"text": f"From the result of {call.name}:"})
            behind.extend(media)
        return {"functionResponse": written}

    def _media(self, result: ToolResult) -> list[Content]:
        parts = [part for part in result.parts if not isinstance(part, Text)]
        return [each for part in parts for each in blobs.written(part, self._facts, self._own, self._warn)]

    # The model's side -------------------------------------------------------------------------------------------------

    def _model(self, turns: list[Turn]) -> None:
        parts = [part for turn in turns for part in turn.parts]
        if not self._own and parts and all(isinstance(part, Thinking) and _is_sealed(part) for part in parts):
            raise NotPortable("reasoning", "a turn of the history is nothing but another provider's sealed reasoning")
        written: list[Content] = []
        for part in parts:
            if isinstance(part, ToolCall):
                written.append(self._call(part))
            elif isinstance(part, Text):
                written.extend(self._signed(_text(part), part.signature))
            elif isinstance(part, Thinking):
                written.extend(self._thought(part))
            elif isinstance(part, Refusal):
                written.extend([{"text": part.text}] if part.text else [])
            elif isinstance(part, Opaque):
                written.append(self._opaque(part))
            elif isinstance(part, Image | Document | Media):
                written.extend(blobs.written(part, self._facts, self._own, self._warn))
        if not written:
            return
        if self.contents and self.contents[-1]["role"] == "model":
            self.contents[-1]["parts"].extend(written)
        else:
            self.contents.append({"role": "model", "parts": written})

    def _call(self, call: ToolCall) -> Content:
        written: dict[str, Any] = {"name": self._name_of(call.name), "args": self._arguments(call)}
        if call.id and self._made >= (3, 0):
            written["id"] = call.id
        out: Content = {"functionCall": written}
        signature = call.signature or self._facts.signatures.get(call.id, "")
        if signature in self._used:
            signature = ""
        if not signature and self._made >= (3, 0) and not self._calls:
            signature = PLACEHOLDER  # only the first call of a step has to be signed
        elif signature:
            self._used.add(signature)
        if signature:
            out["thoughtSignature"] = signature
        self._calls.append(call)
        return out

    def _arguments(self, call: ToolCall) -> dict[str, Any]:
        if call.custom:
            return {"input": call.arguments}
        if not call.arguments.strip():
            return {}
        try:
            parsed = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            return parsed
        self._warn.approximated("history")  # arguments must be an object; the call is never lost
        return {"_raw": call.arguments}

    def _thought(self, part: Thinking) -> list[Content]:
        if not self._own and part.origin != "gemini":
            self._warn.dropped("thinking")
            return []
        out: Content = {"thought": True}
        if part.text:
            out["text"] = part.text
        if part.signature and part.signature not in self._used:
            self._used.add(part.signature)
            out["thoughtSignature"] = part.signature
        return [out] if len(out) > 1 else []

    def _signed(self, parts: list[Content], signature: str) -> list[Content]:
        if signature and signature not in self._used:
            self._used.add(signature)
            if not parts:
                return [{"text": "", "thoughtSignature": signature}]
            parts[-1]["thoughtSignature"] = signature
        return parts


def _grouped(turns: list[Turn]) -> list[tuple[Role, list[Turn]]]:
    """Neighbours of one side together; system turns in mid-conversation are the user's side."""
    out: list[tuple[Role, list[Turn]]] = []
    for turn in turns:
        if not turn.parts:
            continue
        role = Role.ASSISTANT if turn.role is Role.ASSISTANT else Role.USER
        if out and out[-1][0] is role:
            out[-1][1].append(turn)
        else:
            out.append((role, [turn]))
    return out


def _matched(
    calls: Sequence[ToolCall], results: Sequence[ToolResult]
) -> tuple[list[ToolResult | None], list[ToolResult]]:
    """(the result of each call, results of no call). By id, the last one counting; without ids by name, in order."""
    found: list[ToolResult | None] = [None] * len(calls)
    orphans: list[ToolResult] = []
    for result in results:
        at = -1
        if result.call_id:
            same = [i for i, call in enumerate(calls) if call.id == result.call_id]
            at = next((i for i in same if found[i] is None), same[-1] if same else -1)
        if at < 0:
            # One side may have lost its ids on the way (Gemini before 3 has none); those that have one must agree.
            free = [i for i, call in enumerate(calls) if found[i] is None and not (call.id and result.call_id)]
            at = next((i for i in free if result.name in ("", calls[i].name)), -1)
        if at < 0:
            orphans.append(result)
        else:
            found[at] = result
    return found, orphans


def _value(result: ToolResult) -> dict[str, Any]:
    """The result as the object that Gemini demands."""
    value = result.value
    if value is None:
        text = "\n".join(_texts(result.parts))
        parsed = _parsed(text) if not result.is_error and text.lstrip().startswith("{") else None
        value = parsed if isinstance(parsed, dict) else text
        if value == "" and result.parts and not any(isinstance(part, Text) for part in result.parts):
            return {}
    if isinstance(value, dict):
        return value if not result.is_error or "error" in value else {"error": value}
    return {"error" if result.is_error else "output": value}


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_sealed(part: Thinking) -> bool:
    return bool(part.redacted) and not part.text and part.origin != "gemini"


def _responds(content: Content) -> bool:
    return any("functionResponse" in part for part in content["parts"])


def _text(part: Text) -> list[Content]:
    return [{"text": part.text}] if part.text else []


def _texts(parts: Sequence[Part]) -> list[str]:
    return [part.text for part in parts if isinstance(part, Text | Refusal) and part.text]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
