"""Log lines: one JSON object each on stderr, UTC, written by a thread from a bounded queue.

A full pipe must not stop the event loop, so a line that finds the queue full is dropped and counted. Requests that
ended as they should are not logged at all; every retry, failover, error and truncated answer is, once, with its
attempts. Prompts and keys never come here: records do not carry them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, Final, TextIO

import orjson

from proxy.observe.record import RequestRecord

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
QUEUE_MAX: Final = 10_000


class Log:
    """`write` never blocks. `format`: ``json`` or ``text``; `level`: the least that is written."""

    def __init__(
        self,
        form: str = "json",
        level: str = "info",
        wall: Callable[[], float] | None = None,
        out: TextIO | None = None,
    ) -> None:
        self._text = form == "text"
        self._least = LEVELS[level]
        self._wall = wall
        self._out = out or sys.stderr
        self._queue: Queue[bytes | None] = Queue(QUEUE_MAX)
        self._thread: Thread | None = None
        self.dropped = 0

    def set_level(self, level: str) -> None:
        """One of debug, info, warning, error; KeyError for another word."""
        self._least = LEVELS[level]

    def set_form(self, form: str) -> None:
        """``json`` or ``text``, from the next line on."""
        self._text = form == "text"

    def write(self, level: str, msg: str, **fields: Any) -> None:
        """Queue a line; fields with None are left out."""
        if LEVELS[level] < self._least:
            return
        if self._thread is None:
            self._thread = Thread(target=self._drain, name="log", daemon=True)
            self._thread.start()
        if self._queue.full():  # before the line is made: lines that nobody reads must cost nothing
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(self._line(level, msg, fields))
        except Full:
            self.dropped += 1

    def _line(self, level: str, msg: str, fields: Mapping[str, Any]) -> bytes:
        now = datetime.now(UTC) if self._wall is None else datetime.fromtimestamp(self._wall(), UTC)
        stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        known = {key: value for key, value in fields.items() if value is not None}
        if self._text:
            rest = " ".join(f"{key}={_on_one_line(value)}" for key, value in known.items())
            return f"{stamp} {level:<7} {msg} {rest}".rstrip().encode("utf-8", "replace") + b"\n"
        return orjson.dumps({"ts": stamp, "level": level, "msg": msg, **known}, default=str) + b"\n"

    def _drain(self) -> None:
        while True:
            line = self._queue.get()
            if line is None:
                return
            try:
                self._out.buffer.write(line)
                if self._queue.empty():
                    self._out.buffer.flush()
            except (OSError, ValueError):
                self.dropped += 1

    def take(self, event: object) -> None:
        """The observer of finished requests."""
        if type(event) is not RequestRecord or (event.result == "ok" and len(event.attempts) == 1):
            return
        last = event.attempts[-1] if event.attempts else None
        level = "info" if event.result in ("ok", "client_error", "client_cancelled", "drained") else "warning"
        self.write(
            level,
            "request",
            request_id=event.request_id,
            trace_id=event.trace.id if event.trace is not None else None,
            route=event.route,
            target=f"{last.provider}/{last.model}" if last is not None else None,
            attempt=len(event.attempts),
            outcome=event.result,
            error=event.error or None,
            failover=event.failover_reason or None,
            status=event.status or None,
            dur_ms=round(event.total_ms, 1),
            attempts=[
                f"{a.provider}/{a.model} {a.kind} {a.detail} {a.end_ms - a.start_ms:.0f}ms" for a in event.attempts
            ],
        )

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, within the timeout."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=timeout_s)
            except Full:
                while True:
                    try:
                        self._queue.get_nowait()
                    except Empty:
                        break
                self._queue.put_nowait(None)
            self._thread.join(timeout_s)
            self._thread = None


def _on_one_line(value: object) -> str:
    """`value` as text without line ends and control characters: nobody writes a second line into ours."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
