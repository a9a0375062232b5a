"""OpenAI's Responses API (`providers.md` 1.3, 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.dialects.responses.reading import ResponsesReader

if TYPE_CHECKING:
    from proxy.dialects.responses.answers import fault_in, read_answer, write_answer
    from proxy.dialects.responses.request_in import read_request
    from proxy.dialects.responses.request_out import write_request
    from proxy.dialects.responses.stream_in import stream_reader
    from proxy.dialects.responses.stream_out import stream_writer

__all__ = [
    "ResponsesReader",
    "fault_in",
    "read_answer",
    "read_request",
    "stream_reader",
    "stream_writer",
    "write_answer",
    "write_request",
]


def __getattr__(name: str) -> Any:
    """The speaker's functions, imported with the first of them: a sidecar whose targets all speak their callers'
    language starts without."""
    if name not in __all__:
        raise AttributeError(name)
    from proxy.dialects.responses import speaker

    return getattr(speaker, name)
