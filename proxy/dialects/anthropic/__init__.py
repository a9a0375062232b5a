"""Anthropic's Messages, on Anthropic's own platform and on other clouds (`providers.md` 1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.dialects.anthropic.reading import MessagesReader

if TYPE_CHECKING:
    from proxy.dialects.anthropic.answers import fault_in, read_answer, write_answer
    from proxy.dialects.anthropic.count import read_count, write_count
    from proxy.dialects.anthropic.request_in import read_request
    from proxy.dialects.anthropic.request_out import write_request
    from proxy.dialects.anthropic.stream_in import invoke_stream_reader, stream_reader
    from proxy.dialects.anthropic.stream_out import stream_writer

__all__ = [
    "MessagesReader",
    "fault_in",
    "invoke_stream_reader",
    "read_answer",
    "read_count",
    "read_request",
    "stream_reader",
    "stream_writer",
    "write_answer",
    "write_count",
    "write_request",
]


def __getattr__(name: str) -> Any:
    """The speaker's functions, imported with the first of them: a sidecar whose targets all speak their callers'
    language starts without."""
    if name not in __all__:
        raise AttributeError(name)
    from proxy.dialects.anthropic import speaker

    return getattr(speaker, name)
