"""A strict reading of a connection's bytes, by the grammar of RFC 9112 and nothing else.

It shares no code with the proxy, with aiohttp or with llhttp, and is slow and plain on purpose: it is what the proxy's
verdicts are held against, and one of the readers of what arrived upstream. It stops at the first breach.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
URI_BYTES = re.compile(rb"[!-~]+")
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^?#]*)(\?[^#]*)?")
REG_NAME = rb"(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+"
HOST = re.compile(rb"(?:" + REG_NAME + rb"|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")
"""The grammar's ports have any length; TCP's have five digits."""
LINE_END = re.compile(rb"\r\n|\r|\n")
WHITE = (b" ", b"\t", b"\v", b"\f")
"""What RFC 9112 §3 lets a lenient reader take for a space, the bare CR apart."""
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
HEX = re.compile(rb"[0-9A-Fa-f]+")
EXTENSION = re.compile(
    rb'(?:;[!#$%&\'*+.^_`|~0-9A-Za-z-]+(?:=(?:[!#$%&\'*+.^_`|~0-9A-Za-z-]+|"[^"\x00-\x08\x0a-\x1f]*"))?)*'
)
KNOWN_METHODS = frozenset(b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split())  # RFC 9110 §9.3 and RFC 5789


class Breach(Exception):
    """The bytes are no HTTP/1.1 from here on; the first argument is a name in `rules.BREACHES`."""

    def __init__(self, name: str, partial: Message | None = None) -> None:
        super().__init__(name)
        self.partial = partial
        """The message, where its grammar is right and its target or host is not: other rules may be told first."""


class Unfinished(Exception):
    """More bytes are needed; the argument is ``head`` or ``body``."""


@dataclass(slots=True, kw_only=True)
class Message:
    """One request as its sender meant it."""

    method: str
    target: str
    version: str
    fields: list[tuple[str, bytes]]
    """Lower-case names; values without surrounding white space."""
    body: bytes = b""
    trailers: list[str] = field(default_factory=list)
    """Lower-case names."""
    chunked: bool = False
    oddities: set[str] = field(default_factory=set)
    """Names in `rules.HOUSE` that the spelling of the framing meets."""

    def values(self, name: str) -> list[bytes]:
        return [value for each, value in self.fields if each == name]

    def tokens(self, name: str) -> list[str]:
        """Members of a comma-separated list, lower case, without empty ones."""
        joined = b",".join(self.values(name)).decode("latin-1").lower()
        return [token for part in joined.split(",") if (token := part.strip(" \t"))]

    @property
    def closes(self) -> bool:
        """The connection ends behind this message (RFC 9112 §9.3)."""
        options = self.tokens("connection")
        return "close" in options or (self.version == "1.0" and "keep-alive" not in options)


@dataclass(slots=True)
class Reading:
    """What a connection's bytes say."""

    messages: list[Message] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Offset behind each message."""
    breach: str = ""
    """What stops the reading: a name in `rules.BREACHES`; empty: the bytes ended between two messages."""
    also: str = ""
    """What else is wrong with a request line to who takes the lone CR or LF within it for its end; empty: nothing."""
    partial: Message | None = None
    """The message whose head was read and whose body was not, or that has another fault before that one."""


def read(raw: bytes, *, loose_blanks: bool = False) -> Reading:
    """All requests of `raw`; `loose_blanks`: a CR or LF alone before a request line is ignored as an empty line is."""
    found, at = Reading(), 0
    while True:
        try:
            at = _skip_blank(raw, at, loose_blanks)
            if at == len(raw):
                return found
            message, at = _head(raw, at)
            found.partial = message
            at = _body(raw, at, message)
        except Breach as breach:
            found.breach = str(breach)
            if found.partial is None:
                found.partial = breach.partial
            if found.partial is None:
                found.also, found.partial = _ended_alone(raw, at)
            return found
        except Unfinished as rest:
            found.breach = f"{rest}_unfinished"
            return found
        found.partial = None
        found.messages.append(message)
        found.ends.append(at)
        if message.closes:
            return found


def _skip_blank(raw: bytes, at: int, loose: bool) -> int:
    """RFC 9112 §2.2: empty lines before a request line are ignored.

    `loose`: §2.2 lets a line end in LF alone, and §3 lets white space before the method be ignored, a bare CR with it.
    """
    if loose:
        return len(raw) - len(raw[at:].lstrip(b"\r\n"))
    while raw.startswith(b"\r\n", at):
        at += 2
    return at


def _line(raw: bytes, at: int, part: str) -> tuple[bytes, int]:
    """The line at an offset without its CRLF, and the offset behind it."""
    end = raw.find(b"\n", at)
    line = raw[at:end] if end >= 0 else raw[at:]
    lone = line.find(b"\r", 0, len(line) - 1 if line else 0)
    if lone >= 0:
        raise Breach("bare_cr")
    if end < 0:
        raise Unfinished(part)
    if not line.endswith(b"\r"):
        raise Breach("bare_lf")
    return line[:-1], end + 1


def _ended_alone(raw: bytes, at: int) -> tuple[str, Message | None]:
    """A request line that a lone CR or LF ends, as who takes that for its end reads it: a breach, or a message."""
    end = LINE_END.search(raw, at)
    if end is None or end[0] == b"\r\n":
        return "", None
    try:
        return "", _start(raw[at : end.start()])
    except Breach as breach:
        return str(breach), breach.partial


def _head(raw: bytes, at: int) -> tuple[Message, int]:
    line, at = _line(raw, at, "head")
    message = _start(line)
    message.fields, at = _fields(raw, at, first="space_before_headers")
    _check_hosts(message)
    return message, at


def _start(line: bytes) -> Message:
    if line[:1] in WHITE:
        raise Breach("space_before_method")
    parts = line.split(b" ")
    words = [part for part in parts if part]
    if parts[0] and TOKEN.fullmatch(parts[0]) and parts[0] not in KNOWN_METHODS:
        raise Breach("unknown_method")
    if len(words) == 2:
        raise Breach("http09")
    if len(words) != 3 or not parts[-1]:
        raise Breach("request_line")
    method, target, version = words
    if TOKEN.fullmatch(method) is None:
        raise Breach("method")
    numbers = VERSION.fullmatch(version)
    if numbers is None:
        raise Breach("version")
    if numbers[1] != b"1":
        raise Breach("other_version")
    if method == b"CONNECT":
        raise Breach("connect")
    made = Message(
        method=method.decode(), target=target.decode("latin-1"), version=f"1.{numbers[2].decode()}", fields=[]
    )
    if len(parts) != 3:
        made.oddities.add("spaces")
    if breach := _target_breach(method, target):
        raise Breach(breach, made)
    return made


def _target_breach(method: bytes, target: bytes) -> str:
    if URI_BYTES.fullmatch(target) is None:
        return "target"
    if b"#" in target:
        return "fragment"
    absolute = ABSOLUTE.fullmatch(target)
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS") or (absolute and absolute[1]):
        return ""
    return "target_form"


def _fields(raw: bytes, at: int, first: str) -> tuple[list[tuple[str, bytes]], int]:
    """Field lines up to the empty line; `first`: the breach of a first line that begins with white space."""
    fields: list[tuple[str, bytes]] = []
    while True:
        line, at = _line(raw, at, "head")
        if not line:
            return fields, at
        if line[0] in b" \t":
            raise Breach("obs_fold" if fields else first)
        name, colon, value = line.partition(b":")
        if not colon:
            raise Breach("no_colon")
        if name.rstrip(b" \t") != name:
            raise Breach("space_before_colon")
        if TOKEN.fullmatch(name) is None:
            raise Breach("field_name")
        if CONTROLS.search(value):
            raise Breach("control")
        fields.append((name.decode().lower(), value.strip(b" \t")))


def _check_hosts(message: Message) -> None:
    hosts = message.values("host")
    if not hosts and message.version != "1.0":
        raise Breach("no_host", message)
    if len(hosts) > 1:
        raise Breach("hosts", message)
    if hosts and not hosts[0]:
        raise Breach("host_empty", message)
    if hosts and HOST.fullmatch(hosts[0]) is None:
        raise Breach("host", message)


# Bodies ---------------------------------------------------------------------------------------------------------------


def _body(raw: bytes, at: int, message: Message) -> int:
    """Read the body of `message` at an offset (RFC 9112 §6.3); the offset behind it."""
    if message.values("transfer-encoding"):
        _check_coding(message)
        message.chunked = True
        return _chunks(raw, at, message)
    size = _length(message)
    if len(raw) - at < size:
        raise Unfinished("body")
    message.body = raw[at : at + size]
    return at + size


def _check_coding(message: Message) -> None:
    codings = message.tokens("transfer-encoding")
    if message.version == "1.0":
        raise Breach("coding_http10")
    if message.values("content-length"):
        raise Breach("both_framings")
    if codings[-1:] != ["chunked"] or codings.count("chunked") != 1:
        raise Breach("coding_not_last")
    if codings != ["chunked"]:
        raise Breach("coding_unknown")
    if [value.lower() for value in message.values("transfer-encoding")] != [b"chunked"]:
        message.oddities.add("coding_plain")


def _length(message: Message) -> int:
    lengths = message.values("content-length")
    if not lengths:
        return 0
    if len(lengths) > 1 or b"," in lengths[0]:
        raise Breach("lengths")
    if re.fullmatch(rb"[0-9]+", lengths[0]) is None:
        raise Breach("length")
    size = int(lengths[0])
    if size >= 2**63:
        raise Breach("length_overflow")
    if lengths[0] != b"%d" % size:
        message.oddities.add("length_zeros")
    return size


def _chunks(raw: bytes, at: int, message: Message) -> int:
    body = bytearray()
    while True:
        line, at = _line(raw, at, "body")
        size = _chunk_size(line, message)
        if size == 0:
            break
        if len(raw) - at < size:
            raise Unfinished("body")
        body += raw[at : at + size]
        at += size
        if not raw.startswith(b"\r\n", at):
            if raw[at : at + 2] in (b"", b"\r"):
                raise Unfinished("body")
            raise Breach("chunk_end")
        at += 2
    message.body = bytes(body)
    try:
        trailers, at = _fields(raw, at, first="obs_fold")
    except Unfinished:
        raise Unfinished("body") from None
    message.trailers = [name for name, _ in trailers]
    if {"content-length", "transfer-encoding"} & set(message.trailers):
        raise Breach("trailer_framing")
    return at


def _chunk_size(line: bytes, message: Message) -> int:
    digits = HEX.match(line)
    if digits is None:
        raise Breach("chunk_size")
    rest = line[digits.end() :]
    if rest and rest.lstrip(b" \t")[:1] not in (b";", b""):
        raise Breach("chunk_size")
    squeezed = re.sub(rb"[ \t]*([;=])[ \t]*", rb"\1", rest) if b'"' not in rest else rest
    if rest.endswith((b" ", b"\t")) or EXTENSION.fullmatch(squeezed) is None:
        raise Breach("chunk_extension")
    if squeezed != rest:
        message.oddities.add("chunk_space")
    size = int(digits[0], 16)
    if size >= 2**64:
        raise Breach("chunk_overflow")
    return size
