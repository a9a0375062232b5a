"""OpenAI's chat completions, and the many vendors who speak them (`providers.md` 1.2, 1.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.dialects.openai.reading import (
    ChatReader,
    EmbeddingsReader,
    choices_asked,
    loads,
    output_limit,
    speaks,
    tokens,
)

if TYPE_CHECKING:
    from proxy.dialects.openai.answer_in import fault_in, read_answer
    from proxy.dialects.openai.answer_out import write_answer
    from proxy.dialects.openai.request_in import read_request
    from proxy.dialects.openai.request_out import write_request
    from proxy.dialects.openai.stream_in import stream_reader
    from proxy.dialects.openai.stream_out import stream_writer

__all__ = [
    "ChatReader",
    "EmbeddingsReader",
    "choices_asked",
    "fault_in",
    "loads",
    "output_limit",
    "read_answer",
    "read_request",
    "speaks",
    "stream_reader",
    "stream_writer",
    "tokens",
    "write_answer",
    "write_request",
]


def __getattr__(name: str) -> Any:
    """The speaker's functions, imported with the first of them: a sidecar whose targets all speak their callers'
    language starts without."""
    if name not in __all__:
        raise AttributeError(name)
    from proxy.dialects.openai import speaker

    return getattr(speaker, name)
