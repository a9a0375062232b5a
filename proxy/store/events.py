"""Rows of the audit log: written one by one inside a batch, read by filter, newest or oldest first."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import orjson

from proxy.store.schema import parsed

COLUMNS: Final = (
    *("id", "at", "kind", "route", "provider", "model", "region", "request_id", "attempt", "attempt_kind", "error"),
    *("status", "message", "latency_ms", "first_content_ms", "retries", "fallback", "completed", "input_tokens"),
    *("output_tokens", "cost_usd", "detail"),
)
"""Of the table, which are the names of an entry's fields; the last is JSON."""

LIMIT_MAX: Final = 1000

_INSERT: Final = f"INSERT OR REPLACE INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_VALUES: Final = attrgetter(*COLUMNS[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows; None and empty: no condition."""

    since_id: int | None = None
    """Only greater ids."""
    before_id: int | None = None
    """Only smaller ids."""
    since: float | None = None
    """Unix seconds; only from then on."""
    until: float | None = None
    """Unix seconds; only before."""
    provider: str = ""
    kinds: tuple[str, ...] = ()
    request_id: str = ""
    limit: int = 100
    """At most `LIMIT_MAX`, and one more, which tells whether there are more."""
    oldest_first: bool = False


def insert(connection: sqlite3.Connection, entry: Any) -> None:
    """Write one entry: anything with the attributes `COLUMNS`. Twice is once."""
    connection.execute(_INSERT, (*_VALUES(entry), orjson.dumps(entry.detail, default=str).decode()))


def select(connection: sqlite3.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Rows as the fields of entries, in order of their ids."""
    conditions, values = _conditions(wanted)
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    order = "ASC" if wanted.oldest_first else "DESC"
    rows = connection.execute(
        f"SELECT {', '.join(COLUMNS)} FROM entries {where}ORDER BY id {order} LIMIT ?",
        (*values, min(wanted.limit, LIMIT_MAX + 1)),
    )
    return [_fields(row) for row in rows]


def _conditions(wanted: Filter) -> tuple[list[str], list[Any]]:
    stated = [
        ("id > ?", wanted.since_id),
        ("id < ?", wanted.before_id),
        ("at >= ?", wanted.since),
        ("at < ?", wanted.until),
        ("provider = ?", wanted.provider or None),
        ("request_id = ? AND request_id <> ''", wanted.request_id or None),
    ]
    conditions = [condition for condition, value in stated if value is not None]
    values: list[Any] = [value for _, value in stated if value is not None]
    if wanted.kinds:
        conditions.append(f"kind IN ({', '.join('?' * len(wanted.kinds))})")
        values.extend(wanted.kinds)
    return conditions, values


def _fields(row: tuple[Any, ...]) -> dict[str, Any]:
    fields = dict(zip(COLUMNS, row, strict=True))
    fields["detail"] = parsed(fields["detail"])
    if fields["completed"] is not None:
        fields["completed"] = bool(fields["completed"])
    return fields


def last_id(connection: sqlite3.Connection) -> int:
    """The greatest id; 0: there is none."""
    found = connection.execute("SELECT max(id) FROM entries").fetchone()[0]
    return int(found or 0)


def forget_before(connection: sqlite3.Connection, at: float, most: int = 5000) -> int:
    """Delete at most so many rows from before `at` (Unix seconds); how many it were."""
    done = connection.execute(
        "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE at < ? ORDER BY at LIMIT ?)", (at, most)
    )
    return done.rowcount


def forget_oldest(connection: sqlite3.Connection, count: int) -> int:
    """Delete the `count` oldest rows; how many it were."""
    done = connection.execute("DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY id LIMIT ?)", (count,))
    return done.rowcount
