"""``data:`` URLs, base64 text and media types, as every dialect that carries files meets them (`providers.md` 1.2)."""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

_SPELT: Final = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "audio/mpeg3": "audio/mpeg"}


def media_type(written: str) -> str:
    """A media type without parameters, in small letters and in its usual spelling (``image/jpg`` is ``image/jpeg``)."""
    plain = written.split(";", 1)[0].strip().lower()
    return _SPELT.get(plain, plain)


def split_data_url(url: str) -> tuple[str, str] | None:
    """(media type, base64) of a ``data:`` URL, also of one that is not in base64; None: it is none."""
    if url[:5].lower() != "data:":
        return None
    head, comma, data = url[5:].partition(",")
    if not comma:
        return None
    kind = media_type(head) or "text/plain"
    if head[-7:].lower() == ";base64":
        return kind, data
    return kind, base64.b64encode(unquote_to_bytes(data)).decode("ascii")


def data_url(kind: str, data: str) -> str:
    """The ``data:`` URL of base64 `data`."""
    return f"data:{kind};base64,{data}"


def text_of(data: str) -> str | None:
    """The text that base64 `data` stands for; None: it is none."""
    try:
        return base64.b64decode(data, validate=False).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
