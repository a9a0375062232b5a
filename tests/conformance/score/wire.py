"""Bytes of a recorded answer taken apart, with nothing of the proxy's own: SSE, AWS frames, JSON."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any


def sse(body: bytes) -> Iterator[tuple[str, str]]:
    """(event name or empty, joined data) of every event, the unfinished last one included."""
    name, data = "", list[str]()
    for line in [*body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            data.append(text)
        elif field == b"event":
            name = text


def objects(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event name, parsed data) of the events that hold a JSON object; text that is none is left out."""
    for name, data in sse(body):
        if isinstance(parsed := load(data), dict):
            yield name, parsed


def load(text: str | bytes) -> Any:
    """Parsed JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def bare(body: bytes) -> Any:
    """JSON at the end of a stream that is no event at all (Gemini; GPUStack's ``error: {...}``); None: none."""
    lines = body.replace(b"\r", b"\n").split(b"\n")
    for at, line in enumerate(lines):
        if line.startswith(b"error:") and isinstance(found := load(line[6:]), dict):
            return found
        if line[:1] in (b"{", b"["):
            return load(b"\n".join(lines[at:]))
    return None


def frames(body: bytes) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """(headers, payload) of every AWS event-stream message; an unfinished last one is left out.

    Raises ValueError when a checksum is wrong.
    """
    at = 0
    while len(body) - at >= 16:
        total, length, prelude = struct.unpack_from(">III", body, at)
        if len(body) - at < total:
            return
        message = body[at : at + total]
        if zlib.crc32(message[:8]) != prelude or zlib.crc32(message[:-4]) != struct.unpack(">I", message[-4:])[0]:
            raise ValueError("checksum")
        yield _headers(message[12 : 12 + length]), load(message[12 + length : -4]) or {}
        at += total


def _headers(raw: bytes) -> dict[str, str]:
    found, at = dict[str, str](), 0
    while at < len(raw):
        size = raw[at]
        name = raw[at + 1 : at + 1 + size].decode()
        at += 1 + size
        if raw[at] != 7:
            raise ValueError(f"header of type {raw[at]}")
        (size,) = struct.unpack_from(">H", raw, at + 1)
        found[name] = raw[at + 3 : at + 3 + size].decode()
        at += 3 + size
    return found


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One AWS event-stream message."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", len(packed) + len(payload) + 16, len(packed))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack(">I", zlib.crc32(message))


def event(kind: str, payload: dict[str, Any]) -> bytes:
    """One event of ConverseStream as AWS frames it."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    if kind.endswith("Exception"):
        headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps(payload).encode())


def unwrapped(body: bytes) -> bytes:
    """Claude over InvokeModel: the SSE that the frames' payloads stand for."""
    out = []
    for headers, payload in frames(body):
        if headers.get(":message-type") == "exception":
            kind = headers.get(":exception-type", "")
            error = {"type": "error", "error": {"type": kind, "message": payload.get("message", "")}}
            out.append(b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n")
        elif "bytes" in payload:
            inner = base64.b64decode(payload["bytes"])
            out.append(b"event: x\ndata: " + inner + b"\n\n")
    return b"".join(out)
