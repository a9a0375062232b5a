"""Which reader reads which answer. The only place that knows all speakers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.anthropic import MessagesReader
from proxy.dialects.openai import ChatReader, EmbeddingsReader, choices_asked
from proxy.dialects.reading import Reader
from proxy.dialects.responses import ResponsesReader


def reader(endpoint: str, body: Mapping[str, Any]) -> Reader | None:
    """A fresh reader for one answer; None: the answer is passed through unread.

    `endpoint` is the value of the engine's Endpoint: ``chat``, ``embeddings``, ``messages``, ``responses``, ``raw``.
    """
    if endpoint == "chat":
        return ChatReader(choices_asked(body))
    if endpoint == "messages":
        return MessagesReader()
    if endpoint == "responses":
        return ResponsesReader()
    if endpoint == "embeddings":
        return EmbeddingsReader()
    return None
