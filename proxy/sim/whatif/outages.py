"""What goes wrong with targets, and when: scripts, random outages, incident lists; and the world that plays them.

A *spell* is a stretch of time in which something is wrong with a provider or one of its targets, for a share of its
calls. Spells come from three places: the user's script, a two-state chain with a stated availability and mean length,
and lists of incidents as vendors publish them.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from statistics import NormalDist
from typing import Final, Literal

from proxy.base.outcome import OK, Class, Outcome
from proxy.base.target import Target
from proxy.policy.classify import Reply, classify
from proxy.sim.whatif.model import Call, Play

Kind = Literal["error", "refuse", "hang", "slow", "cut"]

FAILS_AFTER_S: Final = 0.15
"""An error answer takes so long (`resilience.md` C6)."""
REFUSES_AFTER_S: Final = 0.005
"""A refused connection: one round trip within a region."""

_NORMAL: Final = NormalDist()
_Z95: Final = _NORMAL.inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """Something is wrong with `who` from `start` to `end` (seconds from the beginning)."""

    who: str
    """A provider, or provider/model."""
    start: float
    end: float
    kind: Kind = "error"
    share: float = 1.0
    """Of the calls that begin meanwhile, 0 to 1."""
    status: int = 503
    """Of `error`."""
    retry_after_s: float | None = None
    """Told with `error`; None: nothing is told."""
    factor: float = 3.0
    """Of `slow`: first content and end come so many times later."""

    def hits(self, target: Target) -> bool:
        """Whether calls to `target` are meant."""
        return self.who in (target.provider, target.name)

    @property
    def fails(self) -> bool:
        """Whether calls that it hits bring no answer."""
        return self.kind != "slow"


def outcome_of(status: int, retry_after_s: float | None = None) -> Outcome:
    """What the classifier of the proxy makes of an error answer without a body."""
    told = "" if retry_after_s is None else f"{retry_after_s:g}"
    get: Callable[[str], str | None] = lambda name: told if told and name.lower() == "retry-after" else None  # noqa: E731
    return classify(Reply("openai", status, get, b"", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a target answers when nothing is wrong."""

    first_content_p50_s: float = 0.8
    first_content_p95_s: float = 1.82
    """Lognormal between the two; the defaults are those of the breaker experiment (`resilience.md` C6)."""
    recorded_s: tuple[float, ...] = ()
    """First-content times to draw from in their place; empty: none."""
    tokens_per_s: float = 60.0
    """Output after the first content. Chosen: about the middle of the recorded streams."""
    error_share: float = 0.0
    """Calls that fail (500) without any outage."""

    def first_content_s(self, pace: float) -> float:
        """The quantile `pace` (0 < pace < 1) of the first-content time."""
        if self.recorded_s:
            return self.recorded_s[int(pace * len(self.recorded_s))]
        ratio = self.first_content_p95_s / self.first_content_p50_s
        return float(self.first_content_p50_s * ratio ** (_NORMAL.inv_cdf(pace) / _Z95))


class Scripted:
    """A world of profiles and spells. Time must not run backwards: what is over is forgotten."""

    def __init__(
        self, profiles: dict[str, Profile], spells: Iterable[Spell], rng: random.Random, default: Profile | None = None
    ) -> None:
        """`profiles` by provider or provider/model, the latter first; `default`: of all others."""
        self._profiles = profiles
        self._default = default or Profile()
        self._rng = rng.random
        self._coming = sorted(spells, key=lambda spell: spell.start, reverse=True)
        self._present: list[Spell] = []
        self._change = self._coming[-1].start if self._coming else inf
        """When the list of present spells has to be looked at again."""
        self._known: dict[Target, tuple[Profile, list[Spell]]] = {}
        self._outcomes: dict[tuple[int, float | None], Outcome] = {}

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        """See `model.World`."""
        if now >= self._change:
            self._turn(now)
        found = self._known.get(target)
        if found is None:
            found = self._known[target] = self._look(target)
        profile, spells = found
        luck, pace = (call.luck, call.pace) if is_own_fate else (self._rng(), self._rng())
        first = profile.first_content_s(pace or 1e-9)
        end = first + call.output_tokens / profile.tokens_per_s
        for spell in spells:
            if luck >= spell.share:
                luck = (luck - spell.share) / (1.0 - spell.share)  # what is left of one draw decides about the next
            elif spell.kind == "slow":
                first, end = first * spell.factor, end * spell.factor
            else:
                return self._failed(spell, first, end, streams)
        if luck < profile.error_share:
            return Play(FAILS_AFTER_S, inf, FAILS_AFTER_S, self._outcome(500, None))
        if streams:
            return Play(first, first, end, OK)
        return Play(end, end, end, OK)

    def spells_now(self, target: Target, now: float) -> list[Spell]:
        """What is wrong with `target` at present."""
        if now >= self._change:
            self._turn(now)
        return [spell for spell in self._present if spell.hits(target)]

    def _failed(self, spell: Spell, first: float, end: float, streams: bool) -> Play:
        if spell.kind == "hang":
            return Play(inf, inf, inf, OK)
        if spell.kind == "refuse":
            refused = Outcome(cls=Class.CONNECT_ERROR, sub="refused")
            return Play(inf, inf, REFUSES_AFTER_S, refused, False)
        if spell.kind == "cut":
            cut = Outcome(cls=Class.STREAM_INTERRUPTED)
            half = (first + end) / 2
            return Play(first, first, half, cut) if streams else Play(half, inf, half, cut)
        return Play(FAILS_AFTER_S, inf, FAILS_AFTER_S, self._outcome(spell.status, spell.retry_after_s))

    def _outcome(self, status: int, retry_after_s: float | None) -> Outcome:
        key = (status, retry_after_s)
        if key not in self._outcomes:
            self._outcomes[key] = outcome_of(status, retry_after_s)
        return self._outcomes[key]

    def _turn(self, now: float) -> None:
        """Spells begin and end."""
        while self._coming and self._coming[-1].start <= now:
            self._present.append(self._coming.pop())
        self._present = [spell for spell in self._present if spell.end > now]
        following = self._coming[-1].start if self._coming else inf
        self._change = min([following, *(spell.end for spell in self._present)])
        self._known.clear()

    def _look(self, target: Target) -> tuple[Profile, list[Spell]]:
        profiles = self._profiles
        profile = profiles.get(target.name) or profiles.get(target.provider) or profiles.get("*") or self._default
        return profile, [spell for spell in self._present if spell.hits(target)]


def flapping(spell: Spell, every_s: float, until: float) -> Iterator[Spell]:
    """`spell` again and again, one every `every_s` seconds."""
    from dataclasses import replace

    length, n = spell.end - spell.start, 0
    while (start := spell.start + n * every_s) < until:
        yield replace(spell, start=start, end=start + length)
        n += 1


def chain(who: str, availability: float, mean_s: float, duration_s: float, rng: random.Random) -> Iterator[Spell]:
    """Outages of a two-state Markov chain: `availability` (0 < a < 1) of the time up, outages of `mean_s` on average.

    Half of the outages answer 503, the other half are silent: what is down does not always say so.
    """
    up_s = mean_s * availability / (1.0 - availability)
    at = rng.expovariate(1.0 / up_s)
    while at < duration_s:
        length = rng.expovariate(1.0 / mean_s)
        kind: Kind = "error" if rng.random() < 0.5 else "hang"
        yield Spell(who=who, start=at, end=at + length, kind=kind)
        at += length + rng.expovariate(1.0 / up_s)


class Down:
    """When at least one spell that brings no answer hits a provider or target: for shares of outage minutes."""

    def __init__(self, spells: Sequence[Spell], target: Target) -> None:
        edges = sorted((spell.start, spell.end) for spell in spells if spell.hits(target) and spell.fails)
        self._starts: list[float] = []
        self._ends: list[float] = []
        for start, end in edges:
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    @property
    def total_s(self) -> float:
        """How long in all."""
        return sum(end - start for start, end in zip(self._starts, self._ends, strict=True))

    def __call__(self, at: float) -> bool:
        n = bisect.bisect_right(self._starts, at) - 1
        return n >= 0 and at < self._ends[n]
