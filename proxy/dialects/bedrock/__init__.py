"""Amazon Bedrock's Converse and ConverseStream.

Claude over InvokeModel speaks Anthropic's dialect; for its streams `unwrap_stream` takes the frames off.
"""

from __future__ import annotations

from proxy.dialects.bedrock.answers import fault_in, read_answer, write_answer
from proxy.dialects.bedrock.asked import read_request
from proxy.dialects.bedrock.asking import write_request
from proxy.dialects.bedrock.count import read_count, write_count
from proxy.dialects.bedrock.listening import stream_reader
from proxy.dialects.bedrock.speaking import stream_writer
from proxy.dialects.eventstream import unwrap_stream

__all__ = [
    "fault_in",
    "read_answer",
    "read_count",
    "read_request",
    "stream_reader",
    "stream_writer",
    "unwrap_stream",
    "write_answer",
    "write_count",
    "write_request",
]
