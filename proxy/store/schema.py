"""The tables of the history. Every statement may run again; what is there stays as it is."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import orjson

VERSION: Final = 1
"""``user_version`` of the file. A file of a later version is set aside like a broken one: it may mean other things."""

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS entries (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, route TEXT NOT NULL, provider TEXT NOT NULL,
        model TEXT NOT NULL, region TEXT NOT NULL, request_id TEXT NOT NULL, attempt INTEGER,
        attempt_kind TEXT NOT NULL, error TEXT NOT NULL, status INTEGER, message TEXT NOT NULL, latency_ms REAL,
        first_content_ms REAL, retries INTEGER, fallback TEXT NOT NULL, completed INTEGER, input_tokens INTEGER,
        output_tokens INTEGER, cost_usd REAL, detail TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS entries_at ON entries (at)",
    "CREATE INDEX IF NOT EXISTS entries_request ON entries (request_id) WHERE request_id <> ''",
    "CREATE INDEX IF NOT EXISTS entries_kind ON entries (kind, id)",
    """CREATE TABLE IF NOT EXISTS hours (
        hour INTEGER NOT NULL, run TEXT NOT NULL, counts TEXT NOT NULL, PRIMARY KEY (hour, run)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS documents (
        kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID""",
)
"""`entries` is the audit log; `hours` holds the counts of one hour (since 1970) by one run of the process.
`documents` holds incidents, subscriptions and what is to be delivered, as JSON."""


def parsed(text: str | bytes) -> dict[str, Any]:
    """The JSON object of a column; empty for what is none: one row that a disk has spoilt hides no other."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class Newer(sqlite3.DatabaseError):
    """The file was written by a later version."""


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing. Raises `Newer`, and sqlite3's errors."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise Newer(f"the file has version {found}, this program writes {VERSION}")
    with connection:
        for statement in TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
