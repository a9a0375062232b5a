"""The grammar of a Responses stream (`providers.md` 1.3), for holding the writer to it."""

from __future__ import annotations

import json
from typing import Any

MEMBERS = [
    "id",
    "object",
    "created_at",
    "status",
    "model",
    "output",
    "parallel_tool_calls",
    "tool_choice",
    "tools",
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "temperature",
    "top_p",
    "usage",
    "store",
]
FRAMES = ("response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed")


def events(raw: bytes) -> list[dict[str, Any]]:
    """The stream's events; each is named by its type and counted on by one."""
    out = []
    for number, block in enumerate(raw.decode().split("\n\n")[:-1]):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        out.append(event)
    return out


def check(raw: bytes) -> dict[str, Any]:
    """Hold a whole stream to the grammar; returns the response of its last event."""
    found = events(raw)
    first, second, last = found[0], found[1], found[-1]
    assert (first["type"], second["type"]) == FRAMES[:2]
    assert first["response"]["output"] == []
    done: list[dict[str, Any]] = []
    at = 2
    while found[at]["type"] == "response.output_item.added":
        at = _item(found, at, done)
    assert found[at] is last, found[at]["type"]
    for event in (first, second, last):
        assert set(MEMBERS) <= set(event["response"])
        assert event["response"]["id"].startswith("resp_")
        assert event["response"]["store"] is False
    response: dict[str, Any] = last["response"]
    assert last["type"] == f"response.{response['status']}"
    if response["status"] != "failed":
        assert response["output"] == done
        assert response["error"] is None
        assert (response["incomplete_details"] is None) == (response["status"] == "completed")
    return response


def _item(found: list[dict[str, Any]], at: int, done: list[dict[str, Any]]) -> int:
    """Check one item from its opening on; returns the place behind its end."""
    item = found[at]["item"]
    index = found[at]["output_index"]
    assert index == len(done)
    texts: list[str] = []
    parts: list[Any] = []
    for place in range(at + 1, len(found)):
        event = found[place]
        kind = event["type"]
        if kind in FRAMES:  # only a failure leaves an item open
            assert kind == "response.failed"
            return place
        assert event["output_index"] == index
        if kind == "response.output_item.done":
            _same(event["item"], item, texts, parts)
            done.append(event["item"])
            return place + 1
        assert event["item_id"] == item["id"]
        assert event.get("content_index", event.get("summary_index", 0)) == len(parts)
        if kind.endswith(".added") and "annotation" not in event:
            texts = []
        elif kind.endswith(".delta"):
            assert event["delta"]
            texts.append(event["delta"])
        elif "part" in event:
            assert event["part"].get("text", event["part"].get("refusal")) == "".join(texts)
            parts.append(event["part"])
        elif kind.endswith(".done"):
            whole = event.get("text", event.get("refusal", event.get("arguments", event.get("input"))))
            assert whole == "".join(texts)
    raise AssertionError("an item is not closed")


def _same(item: dict[str, Any], opened: dict[str, Any], texts: list[str], parts: list[Any]) -> None:
    assert (item["id"], item["type"]) == (opened["id"], opened["type"])
    if item["type"] == "message":
        assert item["content"] == parts
    elif item["type"] == "reasoning":
        assert item["summary"] == (parts or item["summary"])
    elif item["type"] in ("function_call", "custom_tool_call"):
        assert item["call_id"] == opened["call_id"]
        assert item.get("arguments", item.get("input")) == "".join(texts)
