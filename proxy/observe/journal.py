"""The journal: makes entries of what the bus tells, numbers them, keeps the last ones, hands them on.

Numbers begin at the microseconds of the wall clock at the start and go up by one. So they rise over restarts without
asking the disk first, a client that resumes after a restart misses nothing, and a gap between two numbers of one run
says that an entry was lost on its way to the store. They stay below 2^53, which is what JavaScript can count to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from proxy.observe.bus import Bus, Observer
from proxy.observe.entry import Entry
from proxy.observe.narration import Narration
from proxy.observe.record import RequestRecord
from proxy.observe.rollup import Rollup

RECENT: Final = 2000


class Journal:
    """`take` observes the bus. Everything here runs on the event loop and returns at once."""

    def __init__(
        self,
        narration: Narration,
        rollup: Rollup,
        wall: Callable[[], float],
        recent: int = RECENT,
    ) -> None:
        """`recent`: how many entries, and how many finished requests, are kept in memory."""
        self._narration = narration
        self._rollup = rollup
        self._wall = wall
        self._next = int(wall() * 1e6)
        self._entries: deque[Entry] = deque(maxlen=recent)
        self._records: deque[tuple[RequestRecord, float]] = deque(maxlen=recent)
        self.told = Bus()
        """Tells the numbered entries; it counts the faults of those who listen."""
        self._untold: deque[Entry] = deque()
        self._is_telling = False

    def listen(self, listener: Observer) -> None:
        """`listener` is called with each numbered `Entry`, in order, and must return at once."""
        self.told.subscribe(listener)

    def start_after(self, last: int) -> None:
        """Number on from `last`, the greatest number on disk, where the clock has gone back since it was given."""
        self._next = max(self._next, last + 1)

    @property
    def last_id(self) -> int:
        """Number of the latest entry; below every number to come."""
        return self._next - 1

    def take(self, event: object) -> None:
        """The observer of the bus. A plain success is counted and remembered, nothing more."""
        if type(event) is RequestRecord:
            now = self._wall()
            self._records.append((event, now))
            self._rollup.request(event, now)
            if not self._narration.is_plain(event):
                self._tell(self._narration.of_request(event, now))
        elif type(event) is Entry:
            self._tell((event,))
        else:
            self._tell(self._narration.of_event(event, self._wall()))

    def _tell(self, entries: Iterable[Entry]) -> None:
        """Number the entries and tell them. A listener may publish another one: its turn comes after these."""
        for entry in entries:
            numbered = replace(entry, id=self._next)
            self._next += 1
            self._entries.append(numbered)
            self._rollup.entry(numbered)
            self._untold.append(numbered)
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._untold:
                self.told.publish(self._untold.popleft())
        finally:
            self._is_telling = False

    # What is still in memory ------------------------------------------------------------------------------------------

    def recent(self, since_id: int = 0) -> list[Entry]:
        """Entries with a greater number than `since_id`, oldest first; only the last ones are here."""
        found = []
        for entry in reversed(self._entries):
            if entry.id <= since_id:
                break
            found.append(entry)
        found.reverse()
        return found

    @property
    def oldest_id(self) -> int:
        """Number of the oldest entry in memory; that of the next one when there is none."""
        return self._entries[0].id if self._entries else self._next

    def of_request(self, request_id: str) -> list[Entry]:
        """Entries of one request, oldest first; also those of a plain success, which are made for the asking and have
        no number. Empty: it is unknown here."""
        found = [entry for entry in self._entries if entry.request_id == request_id]
        if found:
            return found
        for record, at in self._records:
            if record.request_id == request_id:
                return list(self._narration.of_request(record, at))
        return []
