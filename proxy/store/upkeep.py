"""Keeping the file within its bounds: old rows go, then the oldest; a broken file gets another name."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from proxy.store import events, hours

EVERY_S: Final = 10.0
"""Between two looks at age and size."""
PASS_S: Final = 1.0
"""Longest time of one look: what it leaves, the next one finds."""
CHUNK: Final = 2000
"""Rows deleted in one transaction, so that a reader never waits long."""
ASIDE_MAX: Final = 2
"""Broken files kept; older ones are deleted."""


def forget(connection: sqlite3.Connection, before: float, bytes_max: int) -> int:
    """Delete rows from before `before` (Unix seconds), and the oldest ones beyond `bytes_max`; the bytes in use."""
    until = time.monotonic() + PASS_S
    hours.forget_before(connection, int(before // 3600))
    while events.forget_before(connection, before, CHUNK) and time.monotonic() < until:
        pass
    while (used := bytes_used(connection)) > bytes_max and time.monotonic() < until:
        if not events.forget_oldest(connection, CHUNK):
            break
    connection.execute("PRAGMA incremental_vacuum(256)").fetchall()
    return used


def bytes_used(connection: sqlite3.Connection) -> int:
    """Size of the database without its free pages, which are used again first."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def set_aside(path: str, wall: float) -> None:
    """Rename the file with its log, so that a new one can be begun. Raises OSError."""
    stamp = datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = f"{path}.broken-{stamp}"
    if os.path.exists(path):
        os.replace(path, aside)
    for end in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(path + end, aside + end)
    _thin_out(path)


def _thin_out(path: str) -> None:
    folder, name = os.path.split(path)
    start = f"{name}.broken-"
    found = sorted(each for each in os.listdir(folder or ".") if each.startswith(start) and each.endswith("Z"))
    for old in found[:-ASIDE_MAX]:
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(os.path.join(folder, old + end))
