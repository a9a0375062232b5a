"""What became of each outage: how soon its target was left, how many requests met it, how soon it was used again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from proxy.base.target import Target
from proxy.engine.attempt import Attempt
from proxy.engine.cluster import Event, Moved
from proxy.policy.window import State
from proxy.sim.whatif.model import EPOCH_S
from proxy.sim.whatif.outages import Spell

EPISODES_MAX: Final = 1000
"""Outages followed one by one; of longer lists the first so many."""


class Episode:
    """One spell."""

    __slots__ = ("back_at", "left_at", "met", "opened_at", "spell")

    def __init__(self, spell: Spell) -> None:
        self.spell = spell
        self.opened_at: float | None = None
        """When the breaker of a target that it hits opened for the first time; None: it did not."""
        self.left_at: float | None = None
        """When a request began for the first time with another target although this one comes first; None: never."""
        self.met = 0
        """Attempts that began while it lasted and failed, on the way to the opening and afterwards as probes."""
        self.back_at: float | None = None
        """When a request was served by such a target again after the end; None: never, or nobody had noticed."""

    def told(self) -> dict[str, Any]:
        """For the report, in seconds."""
        spell = self.spell
        return {
            "target": spell.who,
            "what": spell.kind,
            "share": round(spell.share, 4),
            "from_s": round(spell.start, 3),
            "for_s": round(spell.end - spell.start, 3),
            "left_after_s": None if self.left_at is None else round(self.left_at - spell.start, 3),
            "opened_after_s": None if self.opened_at is None else round(self.opened_at - spell.start, 3),
            "attempts_met": self.met,
            "back_after_s": None if self.back_at is None else round(self.back_at - spell.end, 3),
        }


class Episodes:
    """All of a run. Times are seconds from its beginning."""

    def __init__(self, spells: Iterable[Spell]) -> None:
        ordered = sorted(spells, key=lambda spell: spell.start)
        self.all = [Episode(spell) for spell in ordered[:EPISODES_MAX]]
        self.opened = 0
        """How often a breaker opened, for whatever reason."""
        self._coming = self.all[::-1]
        self._live: list[Episode] = []

    def _present(self, at: float) -> list[Episode]:
        """Those that have begun and whose target is not back yet, or whose successor has not begun."""
        while self._coming and self._coming[-1].spell.start <= at:
            fresh = self._coming.pop()
            self._live = [each for each in self._live if each.spell.end > at or each.spell.who != fresh.spell.who]
            self._live.append(fresh)
        return self._live

    def moved(self, event: Event) -> None:
        """A breaker has changed its state."""
        if isinstance(event, Moved) and event.change.to is State.OPEN:
            at = event.change.at - EPOCH_S
            self.opened += 1
            for each in self._present(at):
                if each.opened_at is None and at < each.spell.end and each.spell.hits(event.target):
                    each.opened_at = at

    def over(self, primary: Target, attempts: Sequence[Attempt]) -> None:
        """A request of which `primary` is the first target is over."""
        for attempt in attempts:
            self._attempt(attempt, attempt.content_at is not None)
        if self._live and attempts and attempts[0].index:
            began = attempts[0].started - EPOCH_S
            for each in self._live:
                spell = each.spell
                if each.left_at is None and spell.start <= began < spell.end and spell.hits(primary):
                    each.left_at = began

    def _attempt(self, attempt: Attempt, is_good: bool) -> None:
        began = attempt.started - EPOCH_S
        for each in tuple(self._present(began)):
            spell = each.spell
            if not spell.hits(attempt.candidate.target):
                continue
            if spell.start <= began < spell.end:
                each.met += not is_good
            elif is_good and began >= spell.end:
                if each.met or each.left_at is not None:
                    each.back_at = began
                self._live.remove(each)
