"""Other readings of the same bytes: a careless one of our own, in every variety of carelessness, and h11.

What was forwarded must say the same to all of them and to `strict`. The careless reader does what real ones have been
caught at: lines end at LF, folded lines are joined, names are trimmed and underscores taken for hyphens, one of two
lengths wins, or the coding does, numbers are read as Python reads them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import product

import h11

from tests.fuzz import strict

Said = tuple[str, str, bytes]
"""Method, target and body of one request."""

CARELESS = tuple(product((0, -1), (True, False)))
"""Which of two equal fields wins, and whether a transfer coding beats a length."""


def strictly(raw: bytes) -> list[Said]:
    """Raises AssertionError where the bytes are anything but whole, correct requests."""
    found = strict.read(raw)
    assert not found.breach, found.breach
    assert not any(message.oddities or message.trailers for message in found.messages), "odd framing"
    return [(message.method, message.target, message.body) for message in found.messages]


def carelessly(raw: bytes, which: int, coding_first: bool) -> list[Said]:
    """As a lenient server would read it; what is left over becomes a request of its own."""
    out: list[Said] = []
    rest = raw
    while rest.strip(b"\r\n \t"):
        head, rest = _split_head(rest)
        first, *lines = head.split(b"\n")
        words = first.split() or [b""]
        fields = _loose_fields(lines)
        coded = any(b"chunked" in value.lower() for value in fields.get(b"transfer-encoding", []))
        lengths = fields.get(b"content-length", [])
        body = b""
        if coded and (coding_first or not lengths):
            body, rest = _loose_chunks(rest)
        elif lengths:
            size = _loose_number(lengths[which], 10)
            body, rest = rest[:size], rest[size:]
        out.append((words[0].decode("latin-1"), b" ".join(words[1:-1]).decode("latin-1"), body))
    return out


def _split_head(raw: bytes) -> tuple[bytes, bytes]:
    raw = raw.lstrip(b"\r\n")
    end = re.search(rb"\n\r?\n", raw)
    return (raw, b"") if end is None else (raw[: end.start()], raw[end.end() :])


def _loose_fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    name = b""
    for line in lines:
        if line[:1] in (b" ", b"\t") and name:
            fields[name][-1] += b" " + line.strip()
            continue
        key, _, value = line.partition(b":")
        name = key.strip().lower().replace(b"_", b"-")
        fields.setdefault(name, []).append(value.strip(b" \t\r\x0b\x0c\x00"))
    return fields


def _loose_number(text: bytes, base: int) -> int:
    with suppress(ValueError):
        return max(0, int(text.strip() or b"0", base))
    return 0


def _loose_chunks(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while raw:
        line, _, raw = raw.partition(b"\n")
        size = _loose_number(line.split(b";")[0], 16)
        if not size:
            _, raw = _split_head(b"\n" + raw) if not raw.startswith((b"\r\n", b"\n")) else (b"", raw.lstrip(b"\r\n"))
            break
        body, raw = body + raw[:size], raw[size:].lstrip(b"\r\n")
    return body, raw


def by_h11(raw: bytes) -> list[Said]:
    """Raises AssertionError where h11 refuses the bytes or wants more."""
    connection = h11.Connection(h11.SERVER)
    if raw:  # to h11 no bytes are the end of the connection
        connection.receive_data(raw)
    out: list[Said] = []
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise AssertionError(f"h11: {error}") from None
        if event is h11.NEED_DATA:
            assert connection.their_state is h11.IDLE, "h11 waits for more"
            return out
        if isinstance(event, h11.Request):
            out.append((event.method.decode(), event.target.decode(), b""))
        elif isinstance(event, h11.Data):
            method, target, body = out[-1]
            out[-1] = (method, target, body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            raise AssertionError(f"h11: {event!r}")


def the_same_to_all(raw: bytes) -> list[Said]:
    """What every reader takes the bytes of one upstream connection for. Raises AssertionError where two differ."""
    said = strictly(raw)
    others = {"h11": by_h11(raw)}
    others |= {f"careless {which} {first}": carelessly(raw, which, first) for which, first in CARELESS}
    for name, other in others.items():
        assert other == said, f"{name} reads {other}, the strict reader {said}"
    return said
