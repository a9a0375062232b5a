"""What a sidecar has recorded of its own requests, read back for `outrider replay`.

Three sources, told apart by their content:

* the history file (``store.path``), a SQLite database, opened read-only;
* the JSON of ``GET /v1/events``;
* the proxy's JSON log lines, in which an attempt has a length but no beginning: attempts are then taken to follow one
  another.

All three tell requests that did not go as they should, attempt by attempt. Plain successes are only counted, hour by
hour, and only in the history file.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.request import pathname2url

from proxy.base.outcome import OK, Class, Outcome

DIALS: Final = ("attempt", "retry", "failover", "hedge")
"""Kinds of entries that tell a dial."""
ENTRIES_MAX: Final = 5_000_000
_LOGGED: Final = re.compile(r"(?P<target>.+) (?P<kind>first|retry|failover|hedge) (?P<name>[a-z_.]+) (?P<ms>[0-9]+)ms")


class BadHistory(ValueError):
    """The history cannot be read; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """One attempt as it was."""

    target: str
    """provider/model."""
    kind: str
    at: float
    """Unix seconds at which it began."""
    length_s: float
    content_s: float | None
    """First content, from its beginning; None: none came, or nobody has written it down."""
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One request as it was."""

    id: str
    at: float
    """Unix seconds at which it came."""
    route: str
    endpoint: str
    """``chat``, ``messages``, ...; empty: not told."""
    stream: bool
    answered: bool
    dials: tuple[Dialled, ...]
    prompt_tokens: int = 0
    """0: not told."""
    output_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class History:
    """Everything that was recorded."""

    requests: list[Past] = field(default_factory=list)
    """In order of time."""
    plain: dict[int, int] = field(default_factory=dict)
    """Hour since 1970 -> requests that the primary answered at once."""
    unreadable: int = 0
    """Rows that tell nothing we understand."""


def read(path: str) -> History:
    """The history at `path`. Raises `BadHistory`."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            if head.startswith(b"SQLite format 3"):
                return _from_database(path)
            content = head + file.read()
    except OSError as error:
        raise BadHistory(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return _from_text(content.decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadHistory(
            f"{path}: is neither a history file, nor the JSON of /v1/events, nor JSON log lines: {error}"
        ) from None


# The database ---------------------------------------------------------------------------------------------------------


def _from_database(path: str) -> History:
    uri = f"file:{pathname2url(str(Path(path).resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(
                "SELECT * FROM entries WHERE request_id <> '' ORDER BY request_id, id LIMIT ?", (ENTRIES_MAX,)
            )
            history = _gathered(map(_entry_of_row, rows))
            for hour, counts in connection.execute("SELECT hour, counts FROM hours"):
                plain = json.loads(counts).get("first_ok", 0)
                history.plain[hour] = history.plain.get(hour, 0) + int(plain)
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise BadHistory(f"{path}: is no history file of this version: {error}") from None
    return history


def _entry_of_row(row: sqlite3.Row) -> Mapping[str, Any]:
    entry = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over its values
    entry["detail"] = json.loads(entry["detail"] or "{}")
    return entry


# Text -----------------------------------------------------------------------------------------------------------------


def _from_text(text: str) -> History:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        lines = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
        return _from_lines([line for line in lines if isinstance(line, dict)])
    if isinstance(whole, dict) and whole.get("msg"):
        return _from_lines([whole])
    listed = whole if isinstance(whole, list) else whole.get("events") if isinstance(whole, dict) else None
    if not isinstance(listed, list):
        raise json.JSONDecodeError("a list of events, or a mapping with `events`, is wanted", text[:40], 0)
    entries = [dict(entry) for entry in listed if isinstance(entry, dict) and entry.get("request_id")]
    for entry in entries:
        entry["at"] = _unix(entry.get("at"))
    entries.sort(key=lambda entry: (str(entry["request_id"]), entry.get("id") or 0))
    return _gathered(entries)


def _from_lines(lines: list[dict[str, Any]]) -> History:
    history = History()
    if not any("msg" in line for line in lines):
        raise json.JSONDecodeError("lines with `msg` are wanted", "", 0)
    for line in lines:
        if line.get("msg") != "request":
            continue
        try:
            history.requests.append(_logged(line))
        except (KeyError, TypeError, ValueError):
            history.unreadable += 1
    history.requests.sort(key=lambda past: past.at)
    return history


def _logged(line: Mapping[str, Any]) -> Past:
    """A request from its line in the log."""
    began = _unix(line["ts"]) - line["dur_ms"] / 1000
    at, dials = began, []
    for said in line["attempts"]:
        found = _LOGGED.fullmatch(said)
        if found is None:
            raise ValueError(said)
        length = int(found["ms"]) / 1000
        outcome = _outcome(found["name"], 0)
        content = length if outcome is OK else None
        # A hedge runs beside the attempt before it; when it began nobody has written down.
        begin = max(began, at - length) if found["kind"] == "hedge" else at
        dials.append(
            Dialled(
                target=found["target"],
                kind=found["kind"],
                at=begin,
                length_s=length,
                content_s=content,
                outcome=outcome,
            )
        )
        at = max(at, begin + length)
    return Past(
        id=str(line["request_id"]),
        at=began,
        route=line["route"],
        endpoint="",
        stream=True,
        answered=line["outcome"] == "ok",
        dials=tuple(dials),
    )


# Entries to requests --------------------------------------------------------------------------------------------------


def _gathered(entries: Iterable[Mapping[str, Any]]) -> History:
    """Requests out of entries that are sorted by request."""
    history = History()
    for _, group in groupby(entries, key=lambda entry: entry["request_id"]):
        listed = list(group)
        try:
            past = _past(listed)
        except (KeyError, TypeError, ValueError):
            history.unreadable += 1
            continue
        if past is not None:
            history.requests.append(past)
    history.requests.sort(key=lambda past: past.at)
    return history


def _past(entries: list[Mapping[str, Any]]) -> Past | None:
    """One request; None: the entries do not tell how it ended."""
    whole = next((entry for entry in entries if entry["kind"] == "request"), None)
    if whole is None:
        return None
    detail = whole.get("detail") or {}
    began = whole["at"] - whole["latency_ms"] / 1000
    return Past(
        id=str(whole["request_id"]),
        at=began,
        route=whole.get("route") or "",
        endpoint=detail.get("endpoint") or "",
        stream=bool(detail.get("stream")),
        answered=bool(whole.get("completed")),
        dials=tuple(_dials(entries, began)),
        prompt_tokens=int(whole.get("input_tokens") or 0),
        output_tokens=int(whole.get("output_tokens") or 0),
    )


def _dials(entries: list[Mapping[str, Any]], began: float) -> Iterator[Dialled]:
    for entry in entries:
        if entry["kind"] in DIALS:
            content = entry.get("first_content_ms")
            start_ms = (entry.get("detail") or {}).get("start_ms", 0.0)
            yield Dialled(
                target=f"{entry['provider']}/{entry.get('model') or ''}".rstrip("/"),
                kind=entry.get("attempt_kind") or "first",
                at=began + start_ms / 1000,
                length_s=entry["latency_ms"] / 1000,
                content_s=None if content is None else content / 1000,
                outcome=_outcome(entry.get("error") or "ok", entry.get("status") or 0),
            )


def _outcome(name: str, status: int) -> Outcome:
    """The outcome of this full name. Raises ValueError for a class that we do not know."""
    if name == "ok":
        return OK
    cls, _, sub = name.partition(".")
    return Outcome(cls=Class(cls), sub=sub, status=status)


def _unix(at: Any) -> float:
    """Unix seconds from a number or from ISO 8601."""
    return float(at) if isinstance(at, int | float) else datetime.fromisoformat(str(at)).timestamp()
