"""One request as it came in, and the way back to its caller: what the server hands to the inner rooms."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Inbound:
    """A complete, checked request. Its framing was unambiguous and its body has been read to the end."""

    request_id: str
    method: str
    """Upper case; never CONNECT or TRACE."""
    path: str
    """Raw as received, without the query; ASCII, begins with ``/``, holds no dot segment."""
    query: str
    """Raw, without the ``?``; empty when there was none or nothing followed it."""
    headers: tuple[tuple[bytes, bytes], ...]
    """As received, original spelling and order; values are printable ASCII and tabs. Hop-by-hop fields are here too."""
    body: bytes
    """As received: a content coding is neither removed nor checked."""
    accepted_at: float
    """Monotonic seconds at which the last byte of the head arrived."""


class WriteTimeout(Exception):
    """The caller took no byte of the answer for `write_timeout_s`."""


class Sink(Protocol):
    """The way back. Either `whole` once, or `begin`, any number of `write`, and `end`; `abort` ends it at any point."""

    def whole(self, status: int, headers: list[tuple[str, str]], body: bytes) -> Awaitable[None]:
        """Send a complete answer. `Content-Length` is ours, other framing and connection fields are ignored."""
        ...

    def pace(self, *, write_timeout_s: float, buffer_bytes: int) -> None:
        """Set, before `begin`, how long the caller may take no byte and how much is held for it meanwhile."""
        ...

    async def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Open a streamed answer: chunked on HTTP/1.1, ended by the close of the connection on HTTP/1.0."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a piece; waits while more than `buffer_bytes` are held. Empty data sends nothing and only waits.

        Raises `WriteTimeout` when the caller stood still for `write_timeout_s`, `ConnectionError` when it has gone.
        """
        ...

    def push(self, data: bytes) -> bool:
        """Send a piece without waiting; False: more than `buffer_bytes` are held now, so that somebody has to wait.

        Raises `ConnectionError` when the caller has gone.
        """
        ...

    def forward(self, data: bytes, begin: int) -> bool:
        """`push` what stands between `begin` and the last two bytes; the whole of `data` is that as one chunk."""
        ...

    async def end(self) -> None:
        """Close the streamed answer properly. Raises as `write` does."""
        ...

    def abort(self) -> None:
        """Close the connection without the terminating chunk, so that the caller knows the answer to be cut.

        Bytes already written still go out. The running request is not cancelled. Harmless when repeated.
        """
        ...
