"""Reading an error body: every shape seen in the field, gathered into one record, judged by nobody yet.

Providers and the servers that imitate them put the same few facts (a code, a sentence, perhaps a wait) into a dozen
shapes: an `error` object, an `error` string, `detail` as text or list, flat fields, a list of one, numbers for codes,
an event of a stream, a second error quoted inside the first. Telling the shapes apart by provider does not work,
because gateways mix them; so the reader takes what it knows wherever it stands. It is bounded in bytes, depth and
items, and never raises, whatever the bytes. `classify` decides what the words mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from proxy.policy import retry_after

CODE_MAX: Final = 64
TEXT_MAX: Final = 4096
_JSON_BYTES_MAX: Final = 1 << 20
_TEXT_BYTES_MAX: Final = 16 << 10
_DEPTH_MAX: Final = 4
_ITEMS_MAX: Final = 16


@dataclass(slots=True)
class Said:
    """What an error body says, gathered from every known shape."""

    words: list[str] = field(default_factory=list)
    """Codes, types and status words as sent, the most telling first."""
    message: str = ""
    """The first human sentence, as sent."""
    text: str = ""
    """Everything phrases are looked for in, lower-case."""
    status: int = 0
    """Status stated inside the body; 0: none."""
    original_status: int = 0
    """Bedrock's status of the model behind it; 0: none."""
    delays_s: list[float] = field(default_factory=list)
    """Waits stated inside the body (google.rpc.RetryInfo)."""
    quotas: list[str] = field(default_factory=list)
    """Lower-case ids of the quotas that were exceeded (google.rpc.QuotaFailure)."""
    headers: dict[str, str] = field(default_factory=dict)
    """Rate-limit headers quoted inside the body (OpenRouter), lower-case names."""
    html: bool = False


def read(body: bytes, status: int) -> Said:
    """What `body` says, as JSON, as an event stream, as a page of HTML or as plain text.

    `status` is that of the answer: below 300 a text that is no JSON may be a piece of a good answer.
    """
    said = Said()
    head = body[:_TEXT_BYTES_MAX].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] in (b"{", b"["):
        parsed = _json(body) if len(body) <= _JSON_BYTES_MAX else None
        if parsed is not None:
            collect(parsed, said, 0)
            return said
    elif head[:5] in (b"data:", b"event", b"error") and b"{" in head:
        for line in head.splitlines():
            _, _, data = line.partition(b":")
            parsed = _json(data) if data.strip()[:1] == b"{" and b"error" in data else None
            if isinstance(parsed, dict):
                collect(parsed, said, 0)
        if said.words or said.message:
            return said
    text = head.decode("utf-8", "replace")
    start = text[:256].lower()
    if start.startswith("<") and ("<html" in start or "<!doctype" in start or "<head" in start or "<?xml" in start):
        said.html = True
        title = re.search(r"<title[^>]{0,80}>([^<]{0,160})", text, re.IGNORECASE)
        said.message = f"HTML page: {title[1]}" if title else "HTML page"
        return said
    if status < 300:
        # It may be a piece of an answer: its words decide nothing, and it is shown to nobody.
        said.message = "the answer is not JSON" if text else "the answer is empty"
    else:
        _sentence(text, said)
    return said


def _json(data: bytes) -> object:
    """The parsed value, or None; a byte order mark and white space around it are let pass."""
    try:
        return orjson.loads(data.strip(b"\xef\xbb\xbf \t\r\n"))
    except ValueError:
        return None


def collect(value: object, said: Said, depth: int) -> None:
    """Add to `said` what the parsed `value` says; `depth` counts from 0 and bounds the walk."""
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, list):
        for item in value[:_ITEMS_MAX]:
            collect(item, said, depth + 1)
        return
    if isinstance(value, str):
        _sentence(value, said)
        return
    if not isinstance(value, Mapping):
        return
    # Inner objects first: what is most specific about an error sits deepest.
    for key in ("error", "response", "errors"):
        if key in value:
            collect(value[key], said, depth + 1)
    _words_of(value, said)
    for key in ("message", "Message", "msg", "detail", "error_description"):
        inner = value.get(key)
        if isinstance(inner, str):
            _sentence(inner, said)
        elif inner is not None:
            collect(inner, said, depth + 1)
    if isinstance(param := value.get("param"), str):
        said.text = f"{said.text} {param.lower()[:CODE_MAX]}"[:TEXT_MAX]
    _metadata(value.get("metadata"), said)


def _words_of(value: Mapping[str, object], said: Said) -> None:
    """Codes and types, the most telling first."""
    details = value.get("details")
    inner = value.get("innererror")
    code, kind = value.get("code"), value.get("type")
    if isinstance(details, Mapping):
        _add_word(details.get("error_code"), said)
    if isinstance(inner, Mapping):
        _add_word(inner.get("code"), said)
    if isinstance(details, list):
        for item in details[:_ITEMS_MAX]:
            if isinstance(item, Mapping):
                _detail(item, said)
    # The envelope's own type ("error", "response.failed") says nothing; unknown words do no harm.
    for word in (value.get("error_code"), code, value.get("__type"), value.get("error_type"), kind):
        _add_word(word, said)
    for key in ("status", "status_code", "reason"):
        _add_word(value.get(key), said)
    original = value.get("originalStatusCode")
    if isinstance(original, int):
        said.original_status = original


def _add_word(word: object, said: Said) -> None:
    """Take a code; a number from 400 to 599 is a status, other numbers say nothing we know."""
    if isinstance(word, bool) or word is None:
        return
    if isinstance(word, int) or (isinstance(word, str) and word.isascii() and word.isdigit() and len(word) < 10):
        if 400 <= int(word) <= 599:
            said.status = said.status or int(word)
    elif isinstance(word, str) and word and len(said.words) < _ITEMS_MAX:
        said.words.append(word_of(word))


def word_of(text: str) -> str:
    """A code in its plain form: Bedrock writes `com.amazon.coral#Name` and `Name:http://...`."""
    return text[:256].split(":", 1)[0].rsplit("#", 1)[-1].strip()[:CODE_MAX]


def _sentence(text: str, said: Said) -> None:
    said.message = said.message or text[:TEXT_MAX]
    if len(said.text) < TEXT_MAX:
        said.text = f"{said.text} {text[:TEXT_MAX].lower()}"[:TEXT_MAX].strip()


def _detail(item: Mapping[str, object], said: Said) -> None:
    """One of google.rpc's details."""
    kind = item.get("@type")
    kind = kind.rsplit(".", 1)[-1] if isinstance(kind, str) else ""
    delay = item.get("retryDelay")
    if isinstance(delay, str):
        wait = retry_after.parse_wait(delay, 0.0)
        if wait is not None:
            said.delays_s.append(wait)
    if kind == "ErrorInfo":
        _add_word(item.get("reason"), said)
    violations = item.get("violations")
    for violation in violations[:_ITEMS_MAX] if isinstance(violations, list) else ():
        if isinstance(violation, Mapping):
            quota = violation.get("quotaId") or violation.get("quotaMetric")
            said.quotas.append(quota.lower()[:256] if isinstance(quota, str) else "")


def _metadata(metadata: object, said: Said) -> None:
    """OpenRouter: the upstream's own words, and the headers it quotes."""
    if not isinstance(metadata, Mapping):
        return
    _add_word(metadata.get("error_type"), said)
    raw = metadata.get("raw")
    if isinstance(raw, str):
        said.text = f"{said.text} {raw[:1024].lower()}"[:TEXT_MAX]
    headers = metadata.get("headers")
    if isinstance(headers, Mapping):
        for name, value in list(headers.items())[:_ITEMS_MAX]:
            if isinstance(name, str) and isinstance(value, str):
                said.headers[name.lower()] = value
