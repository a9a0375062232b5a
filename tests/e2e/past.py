"""The store as an earlier run of the process has left it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from proxy.observe.entry import Entry
from proxy.store import events
from proxy.store.schema import prepare
from proxy.store.sqlite import connected


def leave(
    path: Path, entries: Iterable[Entry] = (), documents: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
) -> None:
    """Write these into the file, which is made if it is not there."""
    with closing(connected(str(path))) as connection:
        prepare(connection)
        connection.execute("BEGIN")
        for entry in entries:
            events.insert(connection, entry)
        for (kind, id), document in (documents or {}).items():
            connection.execute("INSERT INTO documents VALUES (?, ?, ?)", (kind, id, orjson.dumps(document)))
        connection.execute("COMMIT")
