"""Events out: frozen values, told to observers who cannot answer, cannot raise into us and cannot make us wait.

An observer is a plain function that returns at once (a counter, an append to a bounded queue). What it raises is
counted and dropped here, at the one border where that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Observer = Callable[[Any], None]


class Bus:
    """Tells every event to every observer, in the order of their subscription."""

    __slots__ = ("_observers", "failures", "last_failure")

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self.failures = 0
        self.last_failure = ""

    def subscribe(self, observer: Observer) -> None:
        self._observers = (*self._observers, observer)

    def publish(self, event: object) -> None:
        """Never raises, never waits."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:  # an observer's fault is not the request's
                self.failures += 1
                self.last_failure = f"{type(error).__name__}: {error}"[:200]
