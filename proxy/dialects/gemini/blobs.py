"""Images, documents, audio and video as Gemini's ``inlineData`` and ``fileData`` (`providers.md` 1.6, 2.3)."""

from __future__ import annotations

from typing import Any, Final

from proxy.dialects.chat import Document, Image, Media, ModelFacts, NotPortable
from proxy.dialects.spelling import Warnings

IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
_ENDINGS: Final = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "heic": "image/heic",
    "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain", "csv": "text/csv", "html": "text/html",
    "md": "text/markdown", "mp3": "audio/mp3", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg",
    "mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mpeg": "video/mpeg",
}  # fmt: skip
_FALLBACK: Final = {"image": "image/jpeg", "document": "application/pdf", "audio": "audio/mp3", "video": "video/mp4"}


def written(part: Image | Document | Media, facts: ModelFacts, own: bool, warn: Warnings) -> list[dict[str, Any]]:
    """The parts that one image, document or recording becomes. `own`: the caller speaks Gemini's dialect, so what he
    names is at home there. Raises `NotPortable`."""
    if isinstance(part, Image):
        if facts.vision is False:
            raise NotPortable("vision", "the target takes no images")
        if part.detail:
            warn.dropped("detail")
        if part.media_type and part.media_type not in IMAGES and not own:
            raise NotPortable("vision", f"the target takes no images of type {part.media_type}")
    elif isinstance(part, Document):
        if part.text or part.context:
            return _as_text(part, facts, own, warn)
        _check_document(part, facts, own)
    elif (facts.audio if part.kind == "audio" else facts.video) is False:
        raise NotPortable(part.kind, f"the target takes no {part.kind}")
    return [_blob(part, facts, own)]


def _check_document(part: Document, facts: ModelFacts, own: bool) -> None:
    if facts.documents is False:
        raise NotPortable("documents", "the target takes no documents")
    kind = part.media_type
    if kind and not own and kind != "application/pdf" and not kind.startswith(("text/", "image/")):
        raise NotPortable("documents", f"the target takes no documents of type {kind}")


def _as_text(part: Document, facts: ModelFacts, own: bool, warn: Warnings) -> list[dict[str, Any]]:
    """A document whose words are known needs no file, and what the caller says about one goes before it."""
    head = "\n".join(line for line in (part.name, part.context) if line)
    out = [{"text": head}] if head else []
    if part.text:
        return [*out, {"text": part.text}]
    bare = Document(data=part.data, media_type=part.media_type, url=part.url, file_id=part.file_id)
    return out + written(bare, facts, own, warn)


def _blob(part: Image | Document | Media, facts: ModelFacts, own: bool) -> dict[str, Any]:
    kind = "image" if isinstance(part, Image) else "document" if isinstance(part, Document) else part.kind
    if part.data:
        return {"inlineData": {"mimeType": part.media_type or _FALLBACK[kind], "data": part.data}}
    uri = part.url
    if not isinstance(part, Media) and part.file_id:
        if not own:
            raise NotPortable("file_id", "a file lives at the caller's provider")
        uri = part.file_id
    if not own:
        if uri.startswith("gs://") and facts.vendor != "vertex":
            raise NotPortable("file_id", "only Vertex reads from a storage bucket")
        if not uri.startswith(("gs://", "http://", "https://")):
            raise NotPortable("url_images" if kind == "image" else "documents", "the address is not one of the web")
        if facts.url_images is False and not uri.startswith("gs://"):
            raise NotPortable("vision" if kind == "image" else "documents", "the target fetches nothing by URL")
    data = {"fileUri": uri}
    if media_type := part.media_type or ("" if own else _guessed(uri, kind)):
        data["mimeType"] = media_type
    return {"fileData": data}


def _guessed(uri: str, kind: str) -> str:
    """The type by the ending of the address; Vertex demands one."""
    path = uri.split("?", 1)[0].split("#", 1)[0].rsplit("/", 1)[-1]
    found = _ENDINGS.get(path.rsplit(".", 1)[-1].lower(), "") if "." in path else ""
    return found if found.startswith(f"{kind}/") or (kind == "document" and found) else _FALLBACK[kind]
