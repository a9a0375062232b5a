"""Targets that an operator has taken out for a time: maintenance windows and drained targets (G9).

A target that is out is as if it were not in the chain: no new attempt goes there, whatever is running there ends by
itself, and nobody's breaker learns from it. Windows are announced on the wall clock, days ahead; what is asked on the
way of a request is only the short list of those that hold now, made anew once a second and at every change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from proxy.base.target import Target

WINDOWS_MAX: Final = 256
Reason = Literal["maintenance", "drained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """What is out now."""

    reason: Reason
    until: float
    """Monotonic seconds; infinite: until further notice."""
    provider: str = ""
    """Empty: every provider."""
    model: str = ""
    """Empty: every model of the provider."""
    route: str = ""
    """Empty: in every route."""

    def covers(self, target: Target, route: str) -> bool:
        """Whether requests of `route` may not go to `target`."""
        return self.provider in ("", target.provider) and self.model in ("", target.model) and self.route in ("", route)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """An announced time of maintenance, in Unix seconds. It names a provider, a route, or both."""

    id: str
    begins: float
    ends: float
    provider: str = ""
    model: str = ""
    route: str = ""
    note: str = ""
    from_file: bool = False
    """Stated in the file; False: announced on the admin port."""

    def covers(self, wall: float) -> bool:
        """Whether it holds at this time."""
        return self.begins <= wall < self.ends


class Windows:
    """All announced windows of the process."""

    __slots__ = ("listed",)

    def __init__(self) -> None:
        self.listed: tuple[Window, ...] = ()

    def adopt(self, stated: Iterable[Window]) -> None:
        """The windows of a file take the place of those of the file before it."""
        self.listed = (*stated, *(window for window in self.listed if not window.from_file))

    def announce(self, window: Window) -> bool:
        """False: there are too many."""
        if len(self.listed) >= WINDOWS_MAX:
            return False
        self.listed = (*self.listed, window)
        return True

    def cancel(self, id: str) -> Window | None:
        """Take a window out; None: there is none of this id."""
        found = next((window for window in self.listed if window.id == id), None)
        self.listed = tuple(window for window in self.listed if window is not found)
        return found

    def active(self, wall: float, now: float) -> list[Absence]:
        """What is out at the time `wall`, which is `now` on the monotonic clock. Past announcements are forgotten."""
        self.listed = tuple(window for window in self.listed if window.from_file or window.ends > wall)
        return [
            Absence(
                reason="maintenance",
                until=now + (window.ends - wall),
                provider=window.provider,
                model=window.model,
                route=window.route,
            )
            for window in self.listed
            if window.covers(wall)
        ]
