"""What has happened, for those who ask: the audit log, one request, analytics, uptime.

Everything is told from the store, after what is still queued has been written to it: what an answer shows is on disk.
While the store fails, the last events are told from memory, and ``complete`` is false.

Rows are read, added up and rendered in threads: thousands of them would keep requests waiting.
"""

from __future__ import annotations

import asyncio
import csv
import sqlite3
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import orjson

from proxy.base.exchange import Inbound
from proxy.config.checks import nearest
from proxy.config.compiled import Config
from proxy.observe import analysis
from proxy.observe.entry import FIELDS, KINDS, Entry, iso, to_json
from proxy.observe.journal import Journal
from proxy.observe.rollup import HOUR_S, Counts, Rollup
from proxy.server.status import Answer, Query, Route, Wrong, told
from proxy.store import events, hours
from proxy.store.events import LIMIT_MAX, Filter
from proxy.store.faults import StoreError
from proxy.store.sqlite import Store

LIMIT: Final = 100
DAYS: Final = 30
DAY_S: Final = 86_400.0
DAYS_MAX: Final = 366
FLUSH_S: Final = 1.0
"""Longest wait for what is queued; then the answer says that it is not complete."""
ID_DIGITS: Final = 15
"""An id counts microseconds since 1970, so it has at least so many digits; a moment in seconds has fewer."""
_RISKY: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With these at the beginning a spreadsheet takes a text for a formula; the last four are the first four in the width
of Chinese and Japanese letters."""


class History:
    """The routes over journal, counts and store."""

    def __init__(
        self, journal: Journal, rollup: Rollup, store: Store, wall: Callable[[], float], run: str, config: Config
    ) -> None:
        """`run`: this run of the process, whose counts are in memory."""
        self._journal = journal
        self._rollup = rollup
        self._store = store
        self._wall = wall
        self._run = run
        self.config = config
        self.windows: Callable[[], list[dict[str, Any]]] = list
        """Maintenance windows that are announced, as ``/status`` shows them."""

    def routes(self) -> dict[str, Route]:
        """By path."""
        return {
            "/v1/events": self._events,
            "/v1/explain/": self._explain,
            "/v1/analytics": self._analytics,
            "/v1/uptime": self._uptime,
        }

    async def _found(self, wanted: Filter) -> tuple[list[Entry], bool]:
        """Matching entries in the order asked for, and whether they are all there are."""
        complete = await self._flushed()
        try:
            stored = await self._store.read(
                lambda connection: [Entry(**row) for row in events.select(connection, wanted)]
            )
        except StoreError:
            stored, complete = [], False
        if complete:
            return stored, True
        found = {entry.id: entry for entry in (*stored, *self._journal.recent()) if matches(entry, wanted)}
        ordered = sorted(found.values(), key=lambda entry: entry.id, reverse=not wanted.oldest_first)
        return ordered[: wanted.limit], False

    async def _flushed(self) -> bool:
        """Whether everything told so far has been written."""
        try:
            async with asyncio.timeout(FLUSH_S):
                return await self._store.flush()
        except TimeoutError:
            return False

    # The audit log ----------------------------------------------------------------------------------------------------

    async def _events(self, inbound: Inbound) -> Answer:
        query = Query(inbound)
        shape = query.text("format", "json", among=("json", "csv"))
        limit = query.whole("limit", LIMIT, 1, LIMIT_MAX)
        wanted = _filter(query, limit + 1)
        query.finish()
        found, complete = await self._found(wanted)
        if not found and complete and wanted.provider not in ("", *self.config.providers):
            await self._known_provider(wanted.provider)
        more = str(found[limit - 1].id) if len(found) > limit else None
        shown = found[:limit]
        link = _next_link(inbound, more)
        if shape == "csv":
            attach = [("Content-Type", "text/csv; charset=utf-8; header=present"), ("Cache-Control", "no-store")]
            attach += [("Content-Disposition", 'attachment; filename="outrider-events.csv"'), *link]
            return 200, attach, await asyncio.to_thread(to_csv, shown)
        status, headers, body = await asyncio.to_thread(_listed, shown, more, complete)
        return status, [*headers, *link], body

    async def _known_provider(self, name: str) -> None:
        """Raises for a name that is neither in the file nor in the history: a misspelt filter would find nothing."""
        if not (await self._found(Filter(provider=name, limit=1)))[0]:
            names = list(self.config.providers)
            message = f"provider: {name[:50]!r} is none of {', '.join(names)}{nearest(name[:50], names)}"
            raise Wrong(400, "invalid_parameter", f"{message}; nor does the history know it", param="provider")

    # One request ------------------------------------------------------------------------------------------------------

    async def _explain(self, inbound: Inbound) -> Answer:
        request_id = unquote(inbound.path.removeprefix("/v1/explain/"))[:200]
        Query(inbound).finish()
        found = self._journal.of_request(request_id)
        if not any(entry.kind == "request" for entry in found):
            wanted = Filter(request_id=request_id, limit=LIMIT_MAX, oldest_first=True)
            found, _ = await self._found(wanted)
        if not found:
            message = (
                f"there is no request {request_id!r} in the history; one that went as it should is kept only while "
            )
            raise Wrong(404, "unknown_request", message + "it is one of the last ones")
        return told(explained(request_id, found))

    # Sums -------------------------------------------------------------------------------------------------------------

    async def _sums(self, days: int, shape: Callable[[dict[str, Counts]], dict[str, Any]]) -> dict[str, Any]:
        """What `shape` makes, in a thread, of the counts by day of the last `days` days, today included."""
        last = int(self._wall() // HOUR_S)
        first = (last // analysis.DAY_H - days + 1) * analysis.DAY_H
        present, kept = self._rollup.own_hours(), self._rollup.hours()

        def stored(connection: sqlite3.Connection) -> dict[str, Any]:
            past = hours.between(connection, first, last, self._run)
            # The newest hours of this run are in memory, and only those.
            own = [each for each in hours.of_run(connection, self._run, first) if each[0] not in present]
            return shape(analysis.by_day([*past, *own, *present.items()], first, last))

        try:
            return {"days": days, "complete": True, **await self._store.read(stored)}
        except StoreError:
            shaped = await asyncio.to_thread(lambda: shape(analysis.by_day(kept, first, last)))
            return {"days": days, "complete": False, **shaped}

    async def _analytics(self, inbound: Inbound) -> Answer:
        query = Query(inbound)
        days = query.whole("days", DAYS, 1, DAYS_MAX)
        query.finish()
        sums = await self._sums(days, analysis.analytics)
        return await asyncio.to_thread(told, sums)

    async def _uptime(self, inbound: Inbound) -> Answer:
        query = Query(inbound)
        days = query.whole("days", DAYS, 1, DAYS_MAX)
        query.finish()
        config = self.config
        sums = await self._sums(
            days, lambda by_day: _in_parts(analysis.uptime(by_day, config.providers, config.slo_availability))
        )
        first = (self._wall() // DAY_S - days + 1) * DAY_S
        past, _ = await self._found(Filter(kinds=("maintenance_started", "maintenance_ended"), limit=LIMIT_MAX))
        windows = self.windows()
        return await asyncio.to_thread(lambda: told({**sums, "maintenance": _windows(windows, past, first)}))


def _listed(entries: list[Entry], cursor: str | None, complete: bool) -> Answer:
    return told({"events": [to_json(entry) for entry in entries], "next": cursor, "complete": complete})


def _in_parts(sums: dict[str, Any]) -> dict[str, Any]:
    """With each provider as JSON, made in the thread that has added it up: the event loop waits while a piece of JSON
    is made, in whatever thread, and would have to free thousands of small objects."""
    return {**sums, "providers": [orjson.Fragment(orjson.dumps(each)) for each in sums["providers"]]}


def _filter(query: Query, limit: int) -> Filter:
    """What is asked for. ``since`` is a moment, or an id, which has more digits than any moment."""
    given = query.text("since")
    is_id = given.isdigit() and len(given) >= ID_DIGITS
    since_id = query.whole("since", 0, 0, 1 << 62) if is_id else None
    since = query.moment("since", 0.0) if given and not is_id else None
    until = query.moment("until", None)
    oldest_first = bool(given)
    cursor = query.whole("cursor", None, 0, 1 << 62)
    if oldest_first and cursor is not None:
        since_id = cursor
    return Filter(
        since_id=since_id,
        before_id=None if oldest_first else cursor,
        since=since,
        until=until,
        provider=query.text("provider"),
        kinds=query.words("kind", KINDS),
        request_id=query.text("request_id"),
        limit=limit,
        oldest_first=oldest_first,
    )


def matches(entry: Entry, wanted: Filter) -> bool:
    """The same conditions on an entry in memory."""
    return (
        (wanted.since_id is None or entry.id > wanted.since_id)
        and (wanted.before_id is None or entry.id < wanted.before_id)
        and (wanted.since is None or entry.at >= wanted.since)
        and (wanted.until is None or entry.at < wanted.until)
        and wanted.provider in ("", entry.provider)
        and (not wanted.kinds or entry.kind in wanted.kinds)
        and wanted.request_id in ("", entry.request_id)
    )


def _next_link(inbound: Inbound, cursor: str | None) -> list[tuple[str, str]]:
    """Where the next page is, for whoever reads CSV; none after the last one."""
    if cursor is None:
        return []
    asked = [(name, value) for name, value in parse_qsl(inbound.query) if name != "cursor"]
    return [("Link", f'<{inbound.path}?{urlencode([*asked, ("cursor", cursor)])}>; rel="next"')]


def to_csv(entries: Iterable[Entry]) -> bytes:
    """RFC 4180 with a line of names. Texts that a spreadsheet would run get an apostrophe in front."""
    out = StringIO()
    writer = csv.writer(out)
    writer.writerow(FIELDS)
    for entry in entries:
        row = [getattr(entry, name) for name in FIELDS]
        row[1] = iso(entry.at)
        row[-1] = orjson.dumps(entry.detail, default=str).decode() if entry.detail else ""
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_RISKY) else cell for cell in row])
    return out.getvalue().encode()


def explained(request_id: str, entries: list[Entry]) -> dict[str, Any]:
    """One request and its dials in order of their start; other entries about it as they are."""
    request = next((entry for entry in entries if entry.kind == "request"), None)
    dials = [entry for entry in entries if entry.attempt_kind]
    others = [entry for entry in entries if entry.kind != "request" and not entry.attempt_kind]
    return {
        "request_id": request_id,
        "request": to_json(request) if request is not None else None,
        "attempts": [
            {
                "attempt": dial.attempt,
                "kind": dial.attempt_kind,
                "provider": dial.provider,
                "model": dial.model,
                "region": dial.region or None,
                "outcome": dial.error or "ok",
                "status": dial.status,
                "message": dial.message or None,
                "start_ms": dial.detail.get("start_ms"),
                "end_ms": dial.detail.get("end_ms"),
                "first_content_ms": None if dial.first_content_ms is None else round(dial.first_content_ms, 3),
                "won": dial.detail.get("won", False),
            }
            for dial in sorted(dials, key=lambda dial: (dial.detail.get("start_ms") or 0.0, dial.attempt or 0))
        ],
        "events": [to_json(entry) for entry in others],
    }


def _second(at: float) -> str:
    """Unix seconds in the form in which windows are told."""
    return f"{iso(at)[:19]}Z"


def _windows(announced: Iterable[dict[str, Any]], past: Iterable[Entry], first: float) -> list[dict[str, Any]]:
    """What is announced, then what `past` tells, newest first, of windows that held after `first` (Unix seconds)."""
    listed = {(window["id"], window["from"]): window for window in announced}
    for entry in past:  # the end of a window comes before its beginning, and knows better when that was
        window = _window(entry)
        if str(window["until"]) > _second(first):
            listed.setdefault((window["id"], window["from"]), window)
    return list(listed.values())


def _window(entry: Entry) -> dict[str, Any]:
    """A window that is over, in the form of those that are announced."""
    until = entry.detail.get("until")
    if entry.kind == "maintenance_ended":
        until = min(str(until), _second(entry.at))  # one that was cancelled ended earlier than it was announced
    return {
        "id": entry.detail.get("id"),
        "provider": entry.provider or None,
        "model": entry.model or None,
        "route": entry.route or None,
        "from": entry.detail.get("from"),
        "until": until,
        "active": False,
        "note": entry.message,
    }
