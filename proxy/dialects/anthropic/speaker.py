"""What this package speaks, in one place; see `chat` for the terms."""

from __future__ import annotations

from proxy.dialects.anthropic.answers import fault_in, read_answer, write_answer
from proxy.dialects.anthropic.count import read_count, write_count
from proxy.dialects.anthropic.request_in import read_request
from proxy.dialects.anthropic.request_out import write_request
from proxy.dialects.anthropic.stream_in import invoke_stream_reader, stream_reader
from proxy.dialects.anthropic.stream_out import stream_writer

__all__ = [
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
