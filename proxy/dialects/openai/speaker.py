"""What this package speaks, in one place; see `chat` for the terms."""

from __future__ import annotations

from proxy.dialects.openai.answer_in import fault_in, read_answer
from proxy.dialects.openai.answer_out import write_answer
from proxy.dialects.openai.request_in import read_request
from proxy.dialects.openai.request_out import write_request
from proxy.dialects.openai.stream_in import stream_reader
from proxy.dialects.openai.stream_out import stream_writer

__all__ = [
    "fault_in",
    "read_answer",
    "read_request",
    "stream_reader",
    "stream_writer",
    "write_answer",
    "write_request",
]
