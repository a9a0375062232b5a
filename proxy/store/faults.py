"""What SQLite's errors mean here: whose fault, and what it is called in status, log and metrics."""

from __future__ import annotations

import sqlite3
from typing import Final

from proxy.store.schema import Newer

TROUBLES: Final = ("full", "locked", "broken", "read_only", "gone", "io")
"""Why nothing can be written: no space; another process holds the lock; not a database (or a later one); no right to
write; the file or its directory cannot be opened; the system refused for another reason."""

_BY_CODE: Final = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_CORRUPT: "broken",
    sqlite3.SQLITE_NOTADB: "broken",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_CANTOPEN: "gone",
    sqlite3.SQLITE_PERM: "read_only",
}
_PRIMARY: Final = 0xFF
"""The lower byte of an extended result code is the primary one."""


class StoreError(Exception):
    """The store cannot do it now. Whoever asked may try again later."""


def trouble_of(error: Exception) -> str:
    """One of `TROUBLES`."""
    if isinstance(error, Newer):
        return "broken"
    code = getattr(error, "sqlite_errorcode", None)
    return "io" if code is None else _BY_CODE.get(code & _PRIMARY, "io")


def is_of_job(error: Exception) -> bool:
    """Whether a job failed by its own fault, so that trying it again would fail again."""
    if not isinstance(error, sqlite3.Error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.OperationalError)
    of_job = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE)
    return code & _PRIMARY in (*of_job, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG)
