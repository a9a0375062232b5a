"""What recorded Gemini traffic says, read straight from its JSON: the yardstick, which never uses the speaker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests import data

APIS = ("gemini.generateContent", "gemini.streamGenerateContent")
CONTENT_FILTER = {"SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR", "LANGUAGE"}
NUMBERED = ("", "string", "number", "integer", "boolean", "array", "object")
EMPTY = {"type", "properties", "required", "additionalProperties", "description", "title", "$schema"}
"""What may stand in the schema of a function without parameters."""
MALFORMED = {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "MALFORMED_RESPONSE"}


@dataclass
class Said:
    """The meaning of an answer."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str, Any, str]] = field(default_factory=list)
    """(id, name, arguments, signature)."""
    opaque: list[str] = field(default_factory=list)
    finish: str = ""
    """Canonical; empty: none came."""
    usage: tuple[int, int, int] | None = None
    """(prompt, cached, output)."""


def exchanges() -> Iterator[dict[str, Any]]:
    """All recorded exchanges of the two methods."""
    folder = data.need("exchanges")
    for api in APIS:
        for path in sorted(folder.glob(f"*__{api}.jsonl.gz")):
            yield from data.rows(f"exchanges/{path.name}")


def answers() -> Iterator[tuple[str, bytes, bool, list[int]]]:
    """(name, body, whether it is a stream, sizes of the recorded reads) of every recorded answer."""
    for record in exchanges():
        if record["response"]["status"] < 300:
            yield record["id"], data.body(record["response"]), bool(record["stream"]), record.get("chunk_sizes") or []
    for record in data.rows("responses_only/responses.jsonl.gz"):
        if record["provider"] not in ("gemini", "google", "google-vertex") or "embedding" in record["name"]:
            continue
        body = record["body"]
        if record["format"].startswith("one SSE"):
            body = "".join(f"data: {line}\n\n" for line in body.split("\n") if line.strip())
        # Google's Interactions API and its live API have other shapes under the same provider.
        if '"candidates"' in body or '"error"' in body or "promptFeedback" in body:
            yield record["name"], body.encode(), bool(record["stream"]), []
    for case in data.rows("parallel/snapshots.jsonl.gz"):
        for key, answer in case["dialects"].get("google", {}).items():
            if key.endswith("response"):
                yield f"{case['case']}.{key}", json.dumps(answer).encode(), False, []
            elif key.endswith("response-streaming"):
                body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in answer)
                yield f"{case['case']}.{key}", body.encode(), True, []
    for case in data.rows("parallel/transforms.jsonl.gz"):
        captured = case["captured"]
        if not case["pair"].endswith("_to_google") or "error" in captured:
            continue
        name = f"{case['pair']}.{case['name']}"
        if isinstance(captured, list):
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in captured)
            yield name, body.encode(), True, []
        else:
            yield name, json.dumps(captured).encode(), False, []


def bodies(body: bytes) -> list[Any]:
    """The partial answers of a stream, or the one of a whole body."""
    text = body.decode()
    if text.lstrip()[:1] in "[{":
        parsed = json.loads(text)
        return parsed if isinstance(parsed, list) else [parsed]
    lines = text.replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def said(body: bytes) -> Said:
    """The meaning of a recorded answer."""
    out = Said()
    pieces: list[tuple[list[Any], dict[str, Any]]] = []
    for part_answer in bodies(body):
        told = part_answer.get("usageMetadata") or {}
        counted = {key: value for key, value in told.items() if key.endswith("TokenCount")}
        if counted:
            out.usage = _usage(counted)
        if (part_answer.get("promptFeedback") or {}) and not part_answer.get("candidates"):
            out.finish = "content_filter"
        for candidate in (part_answer.get("candidates") or [])[:1]:
            for part in (candidate.get("content") or {}).get("parts") or []:
                _part(part, out, pieces)
            if candidate.get("finishReason") is not None:
                out.finish = _finish(candidate["finishReason"], bool(out.calls))
    return out


def _usage(told: dict[str, int]) -> tuple[int, int, int]:
    output = told.get("candidatesTokenCount", 0) + told.get("thoughtsTokenCount", 0)
    prompt = told.get("promptTokenCount", 0) + told.get("toolUsePromptTokenCount", 0)
    if "promptTokenCount" not in told and "totalTokenCount" in told:
        prompt = told["totalTokenCount"] - output
    return prompt, told.get("cachedContentTokenCount", 0), output


def _finish(reason: Any, called: bool) -> str:
    if reason in ("STOP", 1):
        return "tool_calls" if called else "stop"
    if reason == "MAX_TOKENS":
        return "length"
    if reason in CONTENT_FILTER:
        return "content_filter"
    assert reason in MALFORMED, reason
    return "malformed"


def _part(part: dict[str, Any], out: Said, pieces: list[Any]) -> None:
    if "functionCall" in part:
        call = part["functionCall"]
        if "name" in call:
            arguments = dict(call.get("args") or {})
            out.calls.append((call.get("id", ""), call["name"], arguments, part.get("thoughtSignature", "")))
        for piece in call.get("partialArgs", ()):
            _piece(out.calls[-1][2], piece)
    elif part.get("thought"):
        out.thought += part.get("text", "")
    elif "text" in part:
        out.text += part["text"]
    else:
        out.opaque += [key for key in part if key != "thoughtSignature"]


def _piece(node: Any, piece: dict[str, Any]) -> None:
    words = piece["jsonPath"].removeprefix("$.").replace("[", ".[").split(".")
    steps: list[Any] = [int(word[1:-1]) if word.startswith("[") else word for word in words]
    for step, following in pairwise(steps):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            if len(node) <= step:
                node.append(empty)
            node = node[step]
        else:
            node = node.setdefault(step, empty)
    value = next(value for key, value in piece.items() if key.endswith("Value"))
    last = steps[-1]
    if isinstance(last, int):
        if len(node) <= last:
            node.append(value)
        elif isinstance(value, str):
            node[last] += value
    else:
        node[last] = node.get(last, "") + value if isinstance(value, str) else value


# Requests -------------------------------------------------------------------------------------------------------------


def camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def meaning(body: dict[str, Any], with_ids: bool) -> dict[str, Any]:
    """A request without what may differ between two ways of saying the same: spelling of keys, empty parts, how parts
    are spread over neighbouring turns of one role, the order of a batch's results, ids where the model has none."""
    source = {camel(key): value for key, value in body.items()}
    out: dict[str, Any] = {"turns": _turns(source.pop("contents"), with_ids)}
    system = source.pop("systemInstruction", None) or {"parts": []}
    out["system"] = [part["text"] for part in system["parts"] if part.get("text")]
    out["functions"], out["hosted"] = {}, []
    for entry in source.pop("tools", None) or []:
        for key, value in entry.items():
            if camel(key) == "functionDeclarations":
                for declared in value:
                    out["functions"][declared["name"]] = _declared(declared)
            else:
                out["hosted"].append((camel(key), value))
    config = {camel(key): value for key, value in (source.pop("generationConfig", None) or {}).items()}
    for key in ("responseSchema", "responseJsonSchema"):
        if (found := config.pop(key, None)) is not None:
            config["schema"] = _plain(found)
            config["responseMimeType"] = "application/json"
    if "thinkingConfig" in config:
        thinking = {camel(key): value for key, value in config["thinkingConfig"].items()}
        config["thinkingConfig"] = {k: v.lower() if isinstance(v, str) else v for k, v in thinking.items()}
    out["config"] = {key: value for key, value in config.items() if value is not None}
    choice = dict(source.pop("toolConfig", None) or {})
    calling = choice.get("functionCallingConfig")
    if calling and out["functions"]:
        choice["functionCallingConfig"] = {**calling, "mode": calling["mode"].upper()}
    else:
        choice.pop("functionCallingConfig", None)
    out["choice"] = choice
    source.pop("model", None)
    out["rest"] = source
    return out


def _declared(declared: dict[str, Any]) -> dict[str, Any]:
    out = {camel(key): value for key, value in declared.items()}
    found = _plain(out.pop("parametersJsonSchema", None) or out.pop("parameters", None) or {})
    out["schema"] = found if found.get("properties") or set(found) - EMPTY else {}
    out["description"] = out.get("description") or ""
    return out


def _plain(schema: Any) -> Any:
    """Types in lower case, ``nullable`` as a type, snake_case keywords as they should be."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = {}
    for key, value in schema.items():
        key = camel(key) if key in ("any_of", "property_ordering", "min_items", "max_items") else key
        if key == "properties":
            out[key] = {name: _plain(each) for name, each in value.items()}
        elif key == "type":
            value = NUMBERED[value] if isinstance(value, int) else value
            out[key] = value.lower() if isinstance(value, str) else [each.lower() for each in value]
        elif key in ("enum", "required", "default", "const", "propertyOrdering"):
            out[key] = value
        else:
            out[key] = _plain(value)
    if out.pop("nullable", None):
        if "anyOf" in out:
            out["anyOf"] = [*out["anyOf"], {"type": "null"}]
        else:
            out["type"] = [out["type"], "null"]
            if "enum" in out:
                out["enum"] = [*out["enum"], None]
    return out


def _turns(contents: Any, with_ids: bool) -> list[Any]:
    """Runs of parts of one role; results first within a run, sorted."""
    runs: list[tuple[str, list[Any]]] = []
    for content in contents:
        parts = [_meant(part, with_ids) for part in content.get("parts") or []]
        parts = [part for part in parts if part]
        role = content.get("role") or "user"
        if runs and runs[-1][0] == role:
            runs[-1][1].extend(parts)
        elif parts:
            runs.append((role, parts))
    out = []
    for role, parts in runs:
        results = sorted((part for part in parts if "functionResponse" in part), key=_sorted)
        out.append((role, results + [part for part in parts if "functionResponse" not in part]))
    return out


def _sorted(part: Any) -> str:
    return json.dumps(part, sort_keys=True)


def _meant(part: dict[str, Any], with_ids: bool) -> dict[str, Any]:
    out = {camel(key): value for key, value in part.items()}
    for key in ("functionCall", "functionResponse"):
        if key in out:
            inner = {camel(name): value for name, value in out[key].items() if value is not None}
            if not with_ids:
                inner.pop("id", None)
            if key == "functionCall":
                inner["args"] = inner.get("args") or {}
            if "parts" in inner:
                inner["parts"] = [_meant(each, with_ids) for each in inner["parts"]]
            out[key] = inner
    for key in ("inlineData", "fileData"):
        if key in out:
            out[key] = {camel(name): value for name, value in out[key].items()}
            if "data" in out[key]:
                standard = out[key]["data"].replace("-", "+").replace("_", "/")
                out[key]["data"] = standard + "=" * (-len(standard) % 4)
    out.pop("thought", None) if out.get("thought") is False else None
    return {} if out in ({"text": ""}, {"text": "", "thought": True}) else out
