"""Reading an answer: when it counts as content, what of it may be sent on, and how it ended.

Five readers of a response, chosen by what was asked and what came:

* `Unary`: the whole body is the first content; it is checked (``200`` is not success) and sent on untouched.
* `Stream`: events are parsed until the first content, which is the commit point; afterwards a cheap scan watches for
  the end and for errors, and only whole events are sent on.
* `Raw`: passthrough; the first body byte of an answer is content.
* `Translated`: as `Stream` or `Unary`, but what is sent on is written anew in the caller's dialect.
* `Refused`: status 400 and above, or a body that is no answer; read up to a limit and classified.

Each tells its `Driver` what the engine must know, and keeps what may be sent in `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from proxy.base.outcome import OK, Class, Outcome
from proxy.dialects import sse
from proxy.dialects.joining import UNFIT, Joiner
from proxy.dialects.reading import Reader, Verdict
from proxy.dialects.translation import Converter, Translator
from proxy.policy import classify
from proxy.upstream.call import Call
from proxy.upstream.decode import Damaged, Decoder
from proxy.upstream.wire import Headers

ERROR_BODY_MAX: Final = 64 * 1024
"""Bytes read of an answer that is none."""
LEFT_OUT: Final = b": an event that was not JSON was left out\n\n"
"""The comment in the place of such an event: it may have carried text (`lessons.md` S10)."""
TRANSLATED_MAX: Final = 32 * 1024 * 1024
"""A whole body above this is not translated: it has to be held and parsed in one piece."""


class Driver(Protocol):
    """Who is told; attempts are known by their number."""

    def sent(self, n: int) -> None: ...
    def opened(self, n: int) -> None: ...
    def content(self, n: int) -> None: ...
    def full(self, n: int) -> None: ...
    def finished(self, n: int, outcome: Outcome) -> None: ...
    def readable(self, n: int) -> None: ...
    def forwards(self, n: int, data: bytes, begin: int) -> bool:
        """Send a chunk (see `wire.Receiver`) on at once, when nothing stands before it; False: its content has to wait
        in `Pump.out`."""

    def crashed(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What the pump must know about the request."""

    mode: Literal["unary", "stream", "raw"]
    dialect: str
    hold_bytes: int
    wall: Callable[[], float]
    caller_key: bool
    assembles: bool = False
    """A stream was asked for on behalf of a caller who gets one body (`mode` is unary)."""


class Pump:
    """The answer of one attempt."""

    __slots__ = (
        "_after_content",
        "_asked",
        "_buffer",
        "_decoder",
        "_driver",
        "_in_step",
        "_kind",
        "_n",
        "_size",
        "call",
        "committed",
        "dropped",
        "error_body",
        "headers",
        "in_pieces",
        "is_whole",
        "out",
        "out_size",
        "over",
        "reader",
        "status",
        "translator",
    )

    def __init__(
        self,
        n: int,
        driver: Driver,
        reader: Reader | None,
        asked: Asked,
        translator: Translator | Converter | Joiner | None = None,
    ) -> None:
        self._n = n
        self._driver = driver
        self._asked = asked
        self._kind: Literal["unary", "stream", "raw", "refused"] = "unary"
        self._buffer = b""
        self._size = 0
        self._decoder: Decoder | None = None
        self._after_content = False
        self._in_step = False
        """A stream in the caller's dialect has shown content, and no part of an event is held."""
        self.reader = reader
        self.translator = translator
        """Set for a target of another dialect; `reader` is then None."""
        self.call: Call | None = None
        self.status = 0
        self.headers: Headers = ()
        self.out: list[bytes] = []
        """Pieces that may be sent once the attempt is committed."""
        self.out_size = 0
        self.committed = False
        self.in_pieces = False
        """The answer is sent as a stream; False: as one body."""
        self.error_body = b""
        """Body of an error answer, for a caller of the same dialect."""
        self.over = False
        self.is_whole = True
        """Nothing of what came has been thrown away."""
        self.dropped = 0
        """Events that were not JSON and were left out."""

    # What the call tells ----------------------------------------------------------------------------------------------

    def sent(self) -> None:
        self._driver.sent(self._n)

    def head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self._driver.opened(self._n)
        if self.over:
            return
        encoding = kind = ""
        length = -1
        for name, value in headers:
            size = len(name)
            if size == 12 and name.lower() == b"content-type":
                kind = value.decode("latin-1").lower()
            elif size == 16 and name.lower() == b"content-encoding":
                encoding = value.decode("latin-1").strip().lower()
            elif size == 14 and name.lower() == b"content-length" and value.isdigit():
                length = int(value)
        mode = self._asked.mode
        if mode == "raw":
            self._kind = "refused" if status >= 400 else "raw"
            self.in_pieces = not 0 <= length <= 1 << 20
            if status < 400:
                return
        elif status >= 300 or "text/html" in kind:
            self._kind = "refused"
        elif "text/event-stream" in kind or ((mode == "stream" or self._asked.assembles) and "json" not in kind):
            self._kind = "stream"
            self.in_pieces = not self._asked.assembles
        elif self.translator is not None:
            self.in_pieces = mode == "stream"  # one body came where events were asked for: it is told as events
        if encoding not in ("", "identity"):
            try:
                self._decoder = Decoder(encoding)
            except Damaged as damaged:
                if status < 400:  # an error says enough by its status
                    self._fail(Class.SERVER_ERROR, f"the answer cannot be read: {damaged}")

    def data(self, piece: bytes) -> None:
        if self._decoder is not None:
            decoded = self._decode(piece)
            if not decoded:
                return
            piece = decoded
        if self.translator is not None and self._kind == "stream":
            self._translated(piece)
            return
        if self._after_content:
            self._more(piece)
            return
        self._size += len(piece)
        kind = self._kind
        if kind == "stream":
            self._buffer += piece
            self._preamble()
        elif kind == "raw":
            self._put(piece)
            if self.in_pieces or self._size > 1 << 20:
                self.in_pieces = True
                self._content()
        elif kind == "unary":
            self._put(piece)
            if self.translator is not None:
                if self._size > TRANSLATED_MAX:
                    self._fail(Class.SERVER_ERROR, "the answer is too large to be translated")
            elif self._size > self._asked.hold_bytes:
                self.in_pieces = True
                self._content()
        else:
            self.out.append(piece)
            if self._size > ERROR_BODY_MAX:
                self._refuse()

    def chunk(self, data: bytes, begin: int) -> None:
        """See `Receiver.on_chunk`. Nearly always it is one event of many, which leaves as it came."""
        reader, call = self.reader, self.call
        if self._in_step and reader is not None and call is not None and reader.is_another(data, begin, len(data) - 2):
            call.content_at = call.last_byte
            if not self._driver.forwards(self._n, data, begin):
                self._put(data[begin:-2])
                self._driver.readable(self._n)
        else:
            self.data(data[begin:-2])

    def end(self) -> None:
        if self.over:
            return
        if self._decoder is not None and not self._decoder.is_whole and self._size:
            self.cut(Outcome(cls=Class.STREAM_INTERRUPTED, message="the compressed answer ended before its end"))
        elif self._kind == "stream":
            self._stream_end()
        elif self._kind == "raw" or self._after_content:
            self._content()
            self._finish(OK)
        elif self._kind == "unary":
            self._unary_end()
        else:
            self._refuse()

    def is_complete(self) -> bool:
        if self._kind != "stream":
            return False
        if self.translator is not None:
            return self.translator.is_finished
        return self.reader is not None and self.reader.is_finished

    def cut(self, outcome: Outcome) -> None:
        """The attempt ended early: a timer, a broken connection."""
        if self.over:
            return
        if self._kind == "refused" and self.status >= 400 and self.out:
            self._refuse()  # the status and what came of the body say more than how the connection ended
        else:
            self._finish(outcome)

    def crashed(self, error: Exception) -> None:
        """A fault of ours: the attempt is over, the request's task is told."""
        self.over = True
        if self.call is not None:
            self.call.stop()
        self._driver.crashed(error)

    # What dispatch asks -----------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Everything that may be sent now."""
        out = self.out
        piece = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.out_size = 0
        return piece

    def forget(self) -> None:
        """Let go of what could be sent: nobody will take this answer."""
        self.out.clear()
        self.out_size = 0
        self.is_whole = False

    @property
    def usage(self) -> tuple[int, int] | None:
        """(input, output) tokens as the provider reported them; None: not reported."""
        source = self.translator or self.reader
        return source.usage if source is not None else None

    @property
    def caller_key(self) -> bool:
        """The call was made with the caller's own key."""
        return self._asked.caller_key

    @property
    def left_out(self) -> int:
        """Events that were not JSON and never reach the caller."""
        return self.dropped + (self.translator.dropped if self.translator is not None else 0)

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error object that came inside the answer; None: none."""
        source = self.translator or self.reader
        return source.error if source is not None else None

    def header(self, name: str) -> str | None:
        """A response header by its lower-case name; None when it is missing."""
        wanted = name.encode("latin-1")
        for key, value in self.headers:
            if len(key) == len(wanted) and key.lower() == wanted:
                return value.decode("latin-1")
        return None

    # Streams ----------------------------------------------------------------------------------------------------------

    def _preamble(self) -> None:
        """Before the first content: judge event by event."""
        reader = self.reader
        assert reader is not None
        at = kept = 0
        buffer = self._buffer
        while (end := sse.next_event(buffer, at)) > 0:
            begin, at = at, end
            verdict = reader.event(sse.data_of(buffer[begin:end]))
            if verdict is Verdict.HOLD:
                continue  # held in one piece with its neighbours: tiny events must not cost an object each
            if verdict is Verdict.CONTENT:
                self._put(buffer[kept:at])
                self._buffer = b""
                self._content()
                if not self.over and at < len(buffer):
                    self._more(buffer[at:])
                return
            if verdict is Verdict.DROP:
                self.dropped += 1
                if begin > kept:
                    self._put(buffer[kept:begin])
                kept = at
            elif verdict is Verdict.ERROR:
                self._in_band_error()
                return
            else:
                self._fail(Class.SERVER_ERROR, "the answer was empty")
                return
        if at > kept:
            self._put(buffer[kept:at])
        self._buffer = buffer[at:]
        if self._size > self._asked.hold_bytes:
            self._buffer, rest = b"", self._buffer
            self._after_content = True
            self._driver.full(self._n)
            self._more(rest)

    def _more(self, piece: bytes) -> None:
        """After the first content: whole events only, a cheap scan, nothing parsed."""
        call = self.call
        if self._kind != "stream":
            if call is not None:
                call.content_at = call.last_byte
            self._put(piece)
            self._driver.readable(self._n)
            return
        reader = self.reader
        assert reader is not None
        if self._buffer:
            piece = self._buffer + piece
        if piece.endswith(b"\n\n"):
            self._buffer = b""
        else:
            ends = sse.whole_events(piece)
            self._buffer = piece[ends:]
            if not ends:
                self._in_step = False
                return
            piece = piece[:ends]
        self._in_step = not self._buffer and self._decoder is None
        if reader.is_plain(piece):  # nearly always
            if call is not None:
                call.content_at = call.last_byte
            self._put(piece)
            self._driver.readable(self._n)
            return
        if not sse.is_sound(piece):
            piece, dropped = sse.without_malformed(piece, LEFT_OUT)
            self.dropped += dropped
        if call is not None and b"data:" in piece:
            call.content_at = call.last_byte
        clean = reader.scan(piece)
        if clean < len(piece):
            if clean:
                self._put(piece[:clean])
            self._in_band_error()
            return
        self._put(piece)
        self._driver.readable(self._n)

    def _translated(self, piece: bytes) -> None:
        """A piece of a stream in another dialect: what it completes is sent on in the caller's."""
        translator = self.translator
        assert translator is not None
        out = translator.feed(piece)
        if out:
            self._put(out)
        if self._asked.assembles:
            self._size += len(piece)
            if self._size > TRANSLATED_MAX:
                self._fail(Class.SERVER_ERROR, "the answer is too large to be put together")
                return
            out = piece  # progress, though nothing can be sent yet
        if translator.error is not None:
            self._in_band_error()
        elif self._after_content:
            if out:
                if self.call is not None:
                    self.call.content_at = self.call.last_byte
                self._driver.readable(self._n)
        elif translator.has_content:
            self._content()
        else:
            self._size += len(piece)
            if translator.has_progress and self.call is not None:
                self.call.content_at = self.call.last_byte  # text that cannot be sent yet is no silence
            if self._size > self._asked.hold_bytes:
                self._after_content = True
                self._driver.full(self._n)

    def _translated_end(self) -> None:
        translator = self.translator
        assert translator is not None
        out = translator.close()
        if out:
            self._put(out)
        if translator.error is not None:
            self._in_band_error()
            return
        if translator.has_content:
            self._content()
        if not self._after_content:
            self._fail(Class.SERVER_ERROR, "the stream ended without content")
        elif translator.is_finished:
            self._finish(OK)
        else:
            self._finish(Outcome(cls=Class.STREAM_INTERRUPTED, message="the stream ended before its proper end"))

    def _stream_end(self) -> None:
        if self.translator is not None:
            self._translated_end()
            return
        reader = self.reader
        assert reader is not None
        rest, self._buffer = self._buffer, b""
        if rest.strip() and reader.tail(rest):
            self._in_band_error()
        elif not self._after_content:
            self._fail(Class.SERVER_ERROR, "the stream ended without content")
        elif reader.is_finished:
            if rest.strip() and b"data:" in rest and reader.event(sse.data_of(rest)) is not Verdict.DROP:
                self._put(rest + b"\n\n")  # a last event without its blank line, as some servers end
            self._finish(OK)
        else:
            self._finish(Outcome(cls=Class.STREAM_INTERRUPTED, message="the stream ended before its proper end"))

    def _in_band_error(self) -> None:
        error: Mapping[str, Any] = self.error or {}
        if error.get("type") == UNFIT and isinstance(self.translator, Joiner):
            # No fault of the target's: it answered, but not what could be joined to what the caller has.
            self._finish(Outcome(cls=Class.LOCAL_REJECT, sub=UNFIT, message=str(error.get("message", ""))))
            return
        outcome = classify.classify_error_object(
            self._asked.dialect,
            self.status,
            error,
            get=self.header,
            wall_s=self._asked.wall(),
            caller_key=self._asked.caller_key,
        )
        self._finish(outcome)

    # Bodies -----------------------------------------------------------------------------------------------------------

    def _unary_end(self) -> None:
        reader, translator = self.reader, self.translator
        if reader is None and translator is None:
            self._content()
            self._finish(OK)
            return
        body = self.out[0] if len(self.out) == 1 else b"".join(self.out)
        if translator is not None:
            verdict, translated = translator.whole(body)
            self.out = [translated]
            self.out_size = len(translated)
        else:
            assert reader is not None
            verdict = reader.whole(body)
        if not verdict:
            self._content()
            self._finish(OK)
        elif verdict == "error":
            self.error_body = body
            self._in_band_error()
        else:
            reason = {"empty": "the answer was empty", "not_json": "the answer was not JSON"}[verdict]
            self._fail(Class.SERVER_ERROR, reason)

    def _refuse(self) -> None:
        body = b"".join(self.out)[:ERROR_BODY_MAX]
        if self.status < 400:
            what = "an HTML page" if self.status < 300 else f"a redirect ({self.status})"
            self._fail(Class.SERVER_ERROR, f"the answer was {what}", body)
            return
        self.error_body = body
        reply = classify.Reply(self._asked.dialect, self.status, self.header, body, self._asked.wall())
        self._finish(classify.classify(reply, caller_key=self._asked.caller_key))

    def _decode(self, piece: bytes) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.feed(piece, 64 * 1024 * 1024 if self._after_content else self._asked.hold_bytes)
        except Damaged as damaged:
            if self._kind == "refused":
                self._refuse()  # the status stays what it is
                return b""
            cls = Class.STREAM_INTERRUPTED if self._after_content else Class.SERVER_ERROR
            self._fail(cls, f"the answer cannot be read: {damaged}")
            return b""

    # Telling ----------------------------------------------------------------------------------------------------------

    def _put(self, piece: bytes) -> None:
        self.out.append(piece)
        self.out_size += len(piece)

    def _content(self) -> None:
        if not self._after_content:
            self._after_content = True
            if self.call is not None:
                self.call.content_at = self.call.last_byte
            self._driver.content(self._n)

    def _fail(self, cls: Class, message: str, body: bytes = b"") -> None:
        self._finish(Outcome(cls=cls, status=self.status, message=message))

    def _finish(self, outcome: Outcome) -> None:
        if self.over:
            return
        self.over = True
        if outcome.cls is not Class.OK:
            if self.call is not None:
                self.call.stop()
            if not self.committed and not self._after_content:
                self.out.clear()
                self.out_size = 0
        self._driver.finished(self._n, outcome)
