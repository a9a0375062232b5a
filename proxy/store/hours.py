"""Counts by hour, a row for every hour and run of the process."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.store.schema import parsed


def put(connection: sqlite3.Connection, run: str, hours: list[tuple[int, Mapping[str, Any]]]) -> None:
    """The present state of some hours of this run, in the place of what was there of them."""
    connection.executemany(
        "INSERT OR REPLACE INTO hours (hour, run, counts) VALUES (?, ?, ?)",
        [(number, run, orjson.dumps(counts).decode()) for number, counts in hours],
    )


def between(
    connection: sqlite3.Connection, first: int, last: int, without_run: str = ""
) -> list[tuple[int, dict[str, Any]]]:
    """Counts of the hours `first` to `last` (since 1970, both included), of every run but one."""
    rows = connection.execute(
        "SELECT hour, counts FROM hours WHERE hour BETWEEN ? AND ? AND run <> ? ORDER BY hour",
        (first, last, without_run),
    )
    return [(number, parsed(counts)) for number, counts in rows]


def of_run(connection: sqlite3.Connection, run: str, first: int) -> list[tuple[int, dict[str, Any]]]:
    """Counts of one run, from the hour `first` on."""
    rows = connection.execute("SELECT hour, counts FROM hours WHERE hour >= ? AND run = ? ORDER BY hour", (first, run))
    return [(number, parsed(counts)) for number, counts in rows]


def forget_before(connection: sqlite3.Connection, hour: int) -> None:
    """Delete the counts of earlier hours."""
    connection.execute("DELETE FROM hours WHERE hour < ?", (hour,))
