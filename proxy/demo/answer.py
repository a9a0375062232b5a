"""One answer of a fake provider: the steps of a fault, walked with the clock and put on the wire.

What is said was decided before (`steps.py`); here it gets its head, its framing and its compression, each of which a
fault may get wrong in its own way. An answer that is cut needs the length that it would have had, so its steps are made
a second time without the cut.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson

from proxy.demo import shapes
from proxy.demo.asked import FRAMED_APIS, Asked
from proxy.demo.error_shapes import error_headers
from proxy.demo.request import Request
from proxy.demo.script import SPOOFED, Fault
from proxy.demo.steps import Cut, Damage, End, Send, Step, Wait, say_of, stream_steps, unary_steps

if TYPE_CHECKING:
    from proxy.demo.connection import Connection

TEMPLATES_MAX: Final = 256
"""Healthy answers kept, so that they are made once."""
DATE: Final = b"@the date@"
"""Stands for the Date header in a kept answer."""
JSON: Final = "application/json"
SSE: Final = "text/event-stream; charset=utf-8"
FRAMES: Final = "application/vnd.amazon.eventstream"
HEALTHY: Final = Fault()
"""The fault that is none; the steps of its streams are kept."""
_YIELD_EVERY: Final = 64
_SETTLE_S: Final = 0.02
"""Between the last bytes and a cut or damage. Many readers forget what they hold when they learn of an error, so
without it a cut after 40 words would be one after any number up to 40 when the words come at full speed."""
_RUBBISH: Final = b"\xff" * 16


STREAMED: Final = frozenset({SSE, FRAMES})


def stream_type(asked: Asked) -> str:
    """Return the content type of a streamed answer."""
    return FRAMES if asked.api in FRAMED_APIS else SSE


class _Coder:
    """Compresses a body, or only says so. `feed` flushes what it gets, so that every word can be read at once."""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if encoding == "gzip" else None
        self._is_rubbish = False

    def feed(self, data: bytes) -> bytes:
        if self._is_rubbish:
            return _RUBBISH
        if self._encoding == "br":
            return bytes(byte ^ 0xA5 for byte in data)
        if self._gzip is None or not data:
            return data
        return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)

    def damage(self) -> bytes:
        self._is_rubbish = True
        return _RUBBISH

    def finish(self) -> bytes:
        return self._gzip.flush() if self._gzip is not None and not self._is_rubbish else b""


class Answer:
    """Writes one answer under a fault; `run` is the task of the attempt."""

    def __init__(self, connection: Connection, request: Request, asked: Asked, fault: Fault) -> None:
        self._connection = connection
        self._provider = connection.provider
        self._request = request
        self._asked = asked
        self._fault = fault
        self._n = connection.attempt.n if connection.attempt is not None else 0
        self._coder = _Coder(fault.encoding)
        self._unsent = b""
        """Head that waits for the first bytes of the body, to leave in one piece with them."""
        self._is_chunked = False
        self._error_fields: list[tuple[str, str]] = []

    async def run(self) -> None:
        connection = self._connection
        try:
            if self._fault.silence_s:
                await _sleep(self._fault.silence_s)
            if self._fault.reset or self._fault.close:
                connection.close(is_reset=self._fault.reset)
            elif self._fault.raw is not None:
                self._mark_first_byte(0)
                connection.write(self._fault.raw.encode("latin-1", "replace"))
                connection.end("complete")
                connection.hang_up()
            else:
                await self._respond()
        except asyncio.CancelledError:
            if connection.peer_left_at is None and not connection.is_gone:
                raise

    async def _respond(self) -> None:
        fault, connection = self._fault, self._connection
        status, content_type, steps = self._plan()
        framing = fault.framing or ("chunked" if content_type in STREAMED or fault.bomb_bytes else "length")
        if framing in ("chunked", "both") and self._request.is_old:
            framing = "close"
        if fault.no_last_chunk:
            framing = "chunked"
        has_body = self._request.method != "HEAD" and not ((status < 200 or status in (204, 304)) and not steps)
        self._is_chunked = framing in ("chunked", "both") and has_body
        must_close = self._must_close(framing)
        for _ in range(fault.early_hints or 0):
            connection.write(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
        fields = self._fields(status, content_type, framing if has_body else "none", steps, must_close)
        line = fault.status_line if fault.status_line is not None else f"HTTP/1.1 {status} {phrase(status)}"
        self._unsent = shapes.stamp(response_head(line, fields, fault.raw_head or ""), self._n)
        self._mark_first_byte(status)
        if has_body and not await self._walk(steps):
            return
        await self._finish(must_close)

    def _plan(self) -> tuple[int, str, list[Step]]:
        """Status, content type and the steps of the body."""
        fault, asked = self._fault, self._asked
        say = say_of(fault, self._provider.name, self._provider.prompt_tokens)
        status = fault.status if fault.status is not None else 200
        if fault.is_error:
            return self._plan_error(say)
        if fault.body is not None:
            is_json = fault.body.lstrip()[:1] in ("{", "[")
            kind = JSON if is_json else "text/plain; charset=utf-8"
            return status, kind, unary_steps(fault, fault.body.encode(), say)
        if fault.html_bytes is not None:
            return status, "text/html; charset=utf-8", unary_steps(fault, shapes.html(fault.html_bytes), say)
        is_stream = asked.stream and asked.api in shapes.STREAM_APIS
        if fault.empty in ("zero_bytes", "whitespace"):
            blank = b" \n\n \n" if fault.empty == "whitespace" else b""
            return status, stream_type(asked) if is_stream else JSON, unary_steps(fault, blank, say)
        if status < 200 or status in (204, 304):
            return status, JSON, []
        if is_stream:
            return status, stream_type(asked), self._stream_steps(say)
        if fault.error_after_words is not None:
            return self._plan_error(say)
        if fault.big_body_bytes:
            say = replace(say, words=("x" * fault.big_body_bytes,))
        body = self._request.echo or shapes.unary(asked, say, self._provider.dialect)
        return status, JSON, unary_steps(fault, body, say)

    def _plan_error(self, say: shapes.Say) -> tuple[int, str, list[Step]]:
        fault = self._fault
        family = shapes.family(self._asked, self._provider.dialect)
        in_stream = 200 if fault.error_after_words is not None else None  # asked for in one piece: a 200 all the same
        kind = fault.error or shapes.kind_of_status(fault.status or 503)
        status = fault.status or in_stream or shapes.error_status(family, kind)
        wait_s = fault.retry_hint_s
        body = shapes.error(family, kind, status=status, code=fault.code, message=fault.message, wait_s=wait_s)
        if status >= 400:
            self._error_fields = error_headers(family, kind, code=fault.code, wait_s=wait_s, now=time.time())
        return status, JSON, unary_steps(fault, orjson.dumps(body), say, is_content=False)

    def _stream_steps(self, say: shapes.Say) -> list[Step]:
        """The steps of a stream; those of a healthy one are made once."""
        provider, asked = self._provider, self._asked
        if self._fault is not HEALTHY:
            return stream_steps(self._fault, asked, say, provider.pause_s)
        key = (asked, provider.pause_s)
        steps = provider.healthy_steps.get(key)
        if steps is None:
            steps = stream_steps(HEALTHY, asked, say, provider.pause_s)
            if len(provider.healthy_steps) < TEMPLATES_MAX:
                provider.healthy_steps[key] = steps
        return steps

    def _fields(
        self, status: int, content_type: str, framing: str, steps: list[Step], must_close: bool
    ) -> list[tuple[str, str]]:
        """The response headers, with whatever the fault puts among them."""
        fault = self._fault
        now = time.time() + (fault.date_skew_s or 0.0)
        fields = [("date", formatdate(now, usegmt=True))]
        fields += self._provider.headers(self._asked, status, is_stream=content_type in STREAMED)
        fields = [(k, content_type if k == "content-type" else v) for k, v in fields]
        if fault.encoding is not None:
            fields.append(("content-encoding", "br" if fault.encoding == "br" else "gzip"))
        if framing in ("length", "both"):
            length = self._length(steps) + int(fault.length_off or 0)
            fields.append(("content-length", str(max(0, length))))
            if fault.two_lengths:
                fields.append(("content-length", str(max(0, length) + 7)))
        if framing in ("chunked", "both"):
            fields.append(("transfer-encoding", "chunked"))
        if framing == "close" or fault.connection_close or (must_close and self._request.wants_close):
            fields.append(("connection", "close"))
        fields += self._error_fields
        if fault.retry_after_date_s is not None:
            fields.append(("retry-after", formatdate(now + fault.retry_after_date_s, usegmt=True)))
        if fault.spoof:
            fields += SPOOFED
        for name, values in fault.headers:
            fields = [(k, v) for k, v in fields if k.lower() != name.lower()]
            fields += [(name, value) for value in values]
        return fields

    def _length(self, steps: list[Step]) -> int:
        """Bytes that the whole body would have on the wire: the true Content-Length, also of a body that is cut."""
        whole = steps
        if self._fault.cut_after_words is not None or self._fault.cut_after_bytes is not None:
            uncut = replace(self._fault, cut_after_words=None, cut_after_bytes=None, cut=None)
            whole = Answer(self._connection, self._request, self._asked, uncut)._plan()[2]
        coder = _Coder(self._fault.encoding)
        total = 0
        for step in whole:
            if isinstance(step, Send):
                total += len(coder.feed(shapes.stamp(step.data, self._n)))
            elif isinstance(step, Damage):
                total += len(coder.damage())
        return total + len(coder.finish())

    def _must_close(self, framing: str) -> bool:
        fault = self._fault
        is_short = framing == "length" and (fault.length_off or 0) > 0
        is_told = fault.connection_close or self._request.wants_close
        return framing == "close" or fault.no_last_chunk or is_short or is_told

    async def _walk(self, steps: list[Step]) -> bool:
        """Do the steps; False when one of them ended the connection."""
        for i, step in enumerate(steps):
            match step:
                case Send(data, is_word):
                    self._connection.words += is_word
                    if is_word and self._connection.words == 1:
                        self._connection.note(first_word_at=asyncio.get_running_loop().time())
                    await self._write(self._coder.feed(shapes.stamp(data, self._n)))
                    if i % _YIELD_EVERY == _YIELD_EVERY - 1:
                        await asyncio.sleep(0)
                case Wait():
                    self._flush_head()
                    await self._wait(step)
                case Damage():
                    await self._connection.flushed()
                    await asyncio.sleep(_SETTLE_S)
                    await self._write(self._coder.damage())
                case Cut(is_reset):
                    self._flush_head()
                    await self._connection.flushed()
                    await asyncio.sleep(_SETTLE_S)
                    self._connection.close(is_reset=is_reset)
                    return False
                case End():
                    return True
        return True

    async def _wait(self, step: Wait) -> None:
        if not step.pieces:
            await _sleep(step.for_s)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + step.for_s
        said = 0
        while (left := until - loop.time()) > 0:
            await self._write(self._coder.feed(shapes.stamp(step.pieces[said % len(step.pieces)], self._n)))
            said += 1
            await _sleep(min(left, step.every_s))

    async def _write(self, data: bytes) -> None:
        """Write a piece of the encoded body in its framing, and wait while the other side takes no more."""
        if not data:
            return
        size = self._fault.split_bytes or len(data)
        for at in range(0, len(data), size):
            if at:
                await _sleep(self._fault.split_pause_s or 0.0)
            piece = data[at : at + size]
            head, self._unsent = self._unsent, b""
            self._connection.write(head + (chunk(piece) if self._is_chunked else piece))
            await self._connection.drained()

    def _flush_head(self) -> None:
        if self._unsent:
            self._connection.write(self._unsent)
            self._unsent = b""

    async def _finish(self, must_close: bool) -> None:
        """The end of the body and what follows it."""
        fault, connection = self._fault, self._connection
        await self._write(self._coder.finish())
        self._flush_head()
        if self._is_chunked and not fault.no_last_chunk:
            connection.write(b"0\r\n\r\n")
        if fault.after_end is not None:
            connection.write(fault.after_end.encode("latin-1", "replace"))
        connection.end("complete")
        if fault.early_answer:
            connection.half_close()
        elif must_close:
            connection.hang_up()
        elif fault.close_idle_s is not None:
            connection.close_later(fault.close_idle_s)

    def _mark_first_byte(self, status: int) -> None:
        self._connection.note(status=status, first_byte_at=asyncio.get_running_loop().time())


async def _sleep(for_s: float) -> None:
    """Sleep; for ever when `for_s` is infinite."""
    if math.isinf(for_s):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(for_s)


def chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def phrase(status: int) -> str:
    """Return the reason phrase of a status; "Unknown" for one that nobody has registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def response_head(line: str, fields: Sequence[tuple[str, str]], raw: str = "") -> bytes:
    """A response head with its blank line; header names and values go out as they are, in Latin-1."""
    text = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{line}\r\n{text}{raw}\r\n".encode("latin-1", "replace")
