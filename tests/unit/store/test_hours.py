"""Rows of counts by hour and run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from proxy.store import hours
from proxy.store.schema import VERSION, Newer, prepare


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    prepare(made)
    yield made
    made.close()


def test_a_later_state_takes_the_place_of_an_earlier_one(connection: sqlite3.Connection) -> None:
    hours.put(connection, "a", [(10, {"requests": 1})])
    hours.put(connection, "a", [(10, {"requests": 5}), (11, {"requests": 2})])
    assert hours.of_run(connection, "a", 0) == [(10, {"requests": 5}), (11, {"requests": 2})]
    assert hours.of_run(connection, "a", 11) == [(11, {"requests": 2})]


def test_runs_stand_side_by_side(connection: sqlite3.Connection) -> None:
    hours.put(connection, "a", [(10, {"requests": 1})])
    hours.put(connection, "b", [(10, {"requests": 2}), (12, {"requests": 3})])
    assert hours.between(connection, 10, 11) == [(10, {"requests": 1}), (10, {"requests": 2})]
    assert hours.between(connection, 0, 99, without_run="b") == [(10, {"requests": 1})]


def test_earlier_hours_are_forgotten(connection: sqlite3.Connection) -> None:
    hours.put(connection, "a", [(10, {}), (11, {})])
    hours.forget_before(connection, 11)
    assert [hour for hour, _ in hours.between(connection, 0, 99)] == [11]


def test_the_tables_are_made_once(connection: sqlite3.Connection) -> None:
    hours.put(connection, "a", [(10, {})])
    prepare(connection)
    assert len(hours.between(connection, 0, 99)) == 1
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_later_version_is_not_touched(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(Newer, match=str(VERSION + 1)):
        prepare(connection)
