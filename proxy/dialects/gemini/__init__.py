"""Google's Gemini: ``generateContent``, ``streamGenerateContent``, ``countTokens``, ``batchEmbedContents``."""

from proxy.dialects.gemini.answer import fault_in, read_answer
from proxy.dialects.gemini.answer_out import stream_writer, write_answer
from proxy.dialects.gemini.count import read_count, read_embeddings, write_count, write_embeddings
from proxy.dialects.gemini.request_in import read_request
from proxy.dialects.gemini.request_out import write_request
from proxy.dialects.gemini.stream import stream_reader

__all__ = [
    "fault_in",
    "read_answer",
    "read_count",
    "read_embeddings",
    "read_request",
    "stream_reader",
    "stream_writer",
    "write_answer",
    "write_count",
    "write_embeddings",
    "write_request",
]
