"""Images, files and recordings as the content parts of a chat message (`providers.md` 1.2, 2.2)."""

from __future__ import annotations

from typing import Any, Final

from proxy.dialects.chat import Document, Image, Media, ModelFacts, NotPortable, Opaque, Part, Refusal, Text, Thinking
from proxy.dialects.media import data_url, text_of
from proxy.dialects.openai.quirks import Quirks, vendor
from proxy.dialects.spelling import Warnings

_AUDIO: Final = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
}
_CACHING: Final = ("claude", "gemini", "qwen")
"""Families whose prompt cache OpenRouter marks by ``cache_control``."""


def cache(holder: dict[str, Any], mark: str, own: bool, quirks: Quirks, facts: ModelFacts, warn: Warnings) -> None:
    """Set a cache mark on a part or message where the target takes it."""
    taken = quirks.cache is True and (own or facts.family in _CACHING)
    if taken or (own and quirks.cache is None):
        holder["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if mark == "1h" else {"type": "ephemeral"}
    else:
        warn.dropped("cache")


def written(part: Part, own: bool, quirks: Quirks, facts: ModelFacts, warn: Warnings) -> list[dict[str, Any]]:
    """The parts that one part becomes. `own`: the caller speaks this dialect, so what he names is at home there.
    Raises `NotPortable`."""
    if isinstance(part, Text):
        out: dict[str, Any] = {"type": "text", "text": part.text}
        if not part.text and not own:
            return []
    elif isinstance(part, Image):
        out = _image(part, own, quirks, facts)
    elif isinstance(part, Document):
        out = _document(part, own, quirks, facts)
    elif isinstance(part, Media):
        return [_media(part, own, facts)]
    elif isinstance(part, Opaque) and own:
        return [dict(part.raw)]
    elif isinstance(part, Refusal):
        return [{"type": "refusal" if own else "text", "refusal" if own else "text": part.text}]
    elif isinstance(part, Thinking):
        warn.dropped("thinking")
        return []
    else:
        kind = part.kind if isinstance(part, Opaque) else type(part).__name__
        raise NotPortable("server_tools", f"a block of type {kind} has no counterpart")
    if part.cache:
        cache(out, part.cache, own, quirks, facts, warn)
    return [out]


def _image(part: Image, own: bool, quirks: Quirks, facts: ModelFacts) -> dict[str, Any]:
    if facts.vision is False:
        raise NotPortable("vision", "the target takes no images")
    if part.file_id:
        raise NotPortable("file_id", "a file lives at the caller's provider")
    url = data_url(part.media_type, part.data) if part.data else part.url
    if part.url and not (own and not vendor(facts)):
        fetches = facts.url_images if facts.url_images is not None else quirks.url_images
        if not fetches or not part.url.startswith(("http://", "https://")):
            raise NotPortable("vision", "the target fetches no images of this address")
    image = {"url": url}
    if part.detail:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def document_text(part: Document) -> str:
    """What can be read of a document without a reader of files; empty: nothing."""
    known = part.text
    if not known and part.data and (part.media_type.startswith("text/") or part.media_type == "application/json"):
        known = text_of(part.data) or ""
    if not known:
        return ""
    return "\n".join(line for line in (part.name, part.context, known) if line)


def _document(part: Document, own: bool, quirks: Quirks, facts: ModelFacts) -> dict[str, Any]:
    if not own and (known := document_text(part)):
        return {"type": "text", "text": known}
    if facts.documents is False:
        raise NotPortable("documents", "the target takes no documents")
    form = quirks.documents
    if own and not vendor(facts):
        return _file(part, own)
    if part.file_id:
        if not own:
            raise NotPortable("file_id", "a file lives at the caller's provider")
        return _file(part, own)
    if not form and not (own or facts.documents):
        raise NotPortable("documents", "the target is not known to take documents")
    if not own and part.media_type not in ("", "application/pdf"):
        raise NotPortable("documents", f"the target takes no documents of type {part.media_type}")
    if form == "document_url":
        return _document_url(part)
    if part.url and vendor(facts) != "openrouter" and not own:
        raise NotPortable("documents", "the target fetches no documents")
    return _file(part, own)


def _document_url(part: Document) -> dict[str, Any]:
    url = part.url or data_url(part.media_type or "application/pdf", part.data)
    out = {"type": "document_url", "document_url": url}
    if part.name:
        out["document_name"] = part.name
    return out


def _file(part: Document, own: bool) -> dict[str, Any]:
    if part.file_id:
        file = {"file_id": part.file_id}
    else:
        data = data_url(part.media_type or "application/pdf", part.data) if part.data else part.url
        file = {"file_data": data}
        if not part.name and part.data and not own:
            file["filename"] = "document.pdf"  # OpenAI refuses a file without a name
    if part.name:
        file["filename"] = part.name
    return {"type": "file", "file": file}


def _media(part: Media, own: bool, facts: ModelFacts) -> dict[str, Any]:
    known = facts.audio if part.kind == "audio" else facts.video
    if known is False or (not own and not known):
        raise NotPortable(part.kind, f"the target is not known to take {part.kind}")
    if part.kind == "video" or not part.data:
        url = data_url(part.media_type or "video/mp4", part.data) if part.data else part.url
        if part.kind == "audio":
            return {"type": "input_audio", "input_audio": {"data": url}}
        return {"type": "video_url", "video_url": {"url": url}}
    form = _AUDIO.get(part.media_type)
    if form is None and not own:
        raise NotPortable("audio", f"the target takes no audio of type {part.media_type}")
    return {"type": "input_audio", "input_audio": {"data": part.data, "format": form or part.media_type[6:]}}
