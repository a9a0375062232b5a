"""What this package speaks, in one place; see `chat` for the terms."""

from __future__ import annotations

from proxy.dialects.responses.answers import fault_in, read_answer, write_answer
from proxy.dialects.responses.request_in import read_request
from proxy.dialects.responses.request_out import write_request
from proxy.dialects.responses.stream_in import stream_reader
from proxy.dialects.responses.stream_out import stream_writer

__all__ = [
    "fault_in",
    "read_answer",
    "read_request",
    "stream_reader",
    "stream_writer",
    "write_answer",
    "write_request",
]
