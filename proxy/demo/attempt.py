"""What a fake provider remembers of one request that reached it. Tests wait on these records, never on time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.demo.script import Fault  # which takes this record into its own names


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The provider's record of one request that reached it. Times are those of the event loop's clock, in seconds.

    A record is replaced by a newer one as things happen; the one you hold does not change.
    """

    n: int
    """1, 2, 3 ... in the order in which the heads came."""
    at: float
    """When the head was complete."""
    method: str
    path: str
    """Path and query, as sent."""
    headers: tuple[tuple[str, str], ...]
    """In order, spelled as sent, read as Latin-1."""
    connection: int
    """1, 2, 3 ... in the order in which the connections came."""
    reused: bool
    """True when this connection carried an earlier request."""
    body: bytes = field(default=b"", repr=False)
    """Without chunk framing. Empty above `BODY_KEPT_MAX`; then `body_bytes` and `sha256` are what is known."""
    body_bytes: int = 0
    body_at: float | None = None
    """When the body was complete; None: not yet, or never."""
    sha256: str = ""
    """Of the body, in hex; empty while it is not complete."""
    model: str = ""
    fault: Fault | None = None
    """What was done to it; None: a healthy answer, or not decided yet."""
    status: int = 0
    """The status sent; 0: none yet."""
    first_byte_at: float | None = None
    """When the first byte of the answer was written."""
    first_word_at: float | None = None
    """When the first content event was written; unary answers: when the body began."""
    words: int = 0
    """Content events written; 1 for an answer in one piece."""
    ended: str = ""
    """Empty while it runs, then one of: ``complete`` (everything was sent that was to be sent, however wrong),
    ``closed`` or ``reset`` (we ended the connection early, as told), ``peer_closed`` or ``peer_reset`` (the other side
    left first), ``bad_request`` (could not be read), ``stopped`` (the provider was stopped)."""
    ended_at: float | None = None
    peer_closed_at: float | None = None
    """When the other side closed the connection, during this attempt or while it was the connection's last."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever its spelling; None when it was not sent."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


BODY_KEPT_MAX: Final = 1 << 20
"""Bytes of a request body that the log keeps."""
