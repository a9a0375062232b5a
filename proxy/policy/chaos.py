"""Faults on purpose: what ``X-Chaos`` and drills do to attempts, and for how long (F14).

A fault names whom it hits and what happens: ``primary:error=503``, ``anthropic:delay_ms=2000,after=content``.

* `error`: where it acts `after` the start, the target is not called and answers with this status. Later on an answer
  has begun, which no status can undo: the connection breaks.
* `delay_ms`: nothing comes for so long. With `error` as well, first the silence, then the error.
* `after`: ``start`` (before anything is sent; the default), ``headers`` (the answer's head has come), ``content`` (its
  first content has come, which makes sense for streams only).

An injected fault counts like a real one, for breaker, budget and cool-down too: a drill that did not would show what
nobody wants to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from proxy.base.target import Target

After = Literal["start", "headers", "content"]
AFTERS: Final = get_args(After)
KEYS: Final = ("error", "delay_ms", "after")
PRIMARY: Final = "primary"
ERROR_MIN, ERROR_MAX = 400, 599
DELAY_MS_MAX: Final = 600_000
DRILL_S_MAX: Final = 3600.0
DRILLS_MAX: Final = 16
"""Running at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to the attempts it hits."""

    who: str
    """``primary``, a provider, or provider/model."""
    error: int = 0
    """HTTP status; 0: no error, only the delay."""
    delay_s: float = 0.0
    after: After = "start"

    def aimed(self, primary: Target) -> Fault:
        """The fault with its target by name, for a request whose chain begins with `primary`."""
        return replace(self, who=primary.name) if self.who == PRIMARY else self

    def hits(self, target: Target) -> bool:
        """Whether an attempt at `target` is meant, once it is aimed."""
        return self.who in (target.provider, target.name)

    def __str__(self) -> str:
        parts = [f"error={self.error}"] if self.error else []
        parts += [f"delay_ms={self.delay_s * 1000:g}"] if self.delay_s else []
        parts += [f"after={self.after}"] if self.after != "start" else []
        return f"{self.who}:{','.join(parts)}"


class Unclear(ValueError):
    """A text that is no fault. `key`: which part; empty: the whole. `got`: what stands there, where that helps."""

    def __init__(self, key: str, must: str, got: str | None = None) -> None:
        super().__init__(f"{key}: {must}" if key else must)
        self.key = key
        self.must = must
        self.got = got


def parse(text: str) -> Fault:
    """The fault in `text`; raises `Unclear`. Whether its target exists is for the caller to say."""
    who, colon, listed = text.strip().partition(":")
    if not colon or not who:
        raise Unclear("", "must look like primary:error=503", text)
    stated: dict[str, str] = {}
    for part in listed.split(","):
        key, _, value = (piece.strip(" \t") for piece in part.partition("="))
        if key not in KEYS:
            raise Unclear(key, "unknown key")
        if key in stated:
            raise Unclear(key, "is stated twice")
        stated[key] = value
    after = stated.get("after", "start")
    if after not in AFTERS:
        raise Unclear("after", f"must be one of {', '.join(AFTERS)}", after)
    error = _whole("error", stated, ERROR_MIN, ERROR_MAX)
    delay_ms = _whole("delay_ms", stated, 0, DELAY_MS_MAX)
    if not error and not delay_ms:
        raise Unclear("", "must state error or delay_ms")
    return Fault(who=who.strip(), error=error, delay_s=delay_ms / 1000, after=after)  # type: ignore[arg-type]


def _whole(key: str, stated: dict[str, str], low: int, high: int) -> int:
    text = stated.get(key)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise Unclear(key, f"must be a whole number from {low} to {high}", text)
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """A fault in the routes of a running sidecar, until a monotonic time."""

    id: str
    routes: frozenset[str]
    """Empty: every route."""
    fault: Fault
    until: float


class Drills:
    """The drills of the process. Empty is the ordinary case, and false."""

    __slots__ = ("_ended", "running")

    def __init__(self, ended: Callable[[Drill], None] = lambda drill: None) -> None:
        """`ended` is told of every drill that is over, when that is noticed."""
        self.running: tuple[Drill, ...] = ()
        self._ended = ended

    def __bool__(self) -> bool:
        return bool(self.running)

    def start(self, drill: Drill) -> bool:
        """False: there are too many."""
        if len(self.running) >= DRILLS_MAX:
            return False
        self.running = (*self.running, drill)
        return True

    def stop(self, id: str = "") -> list[Drill]:
        """End the drill of this id, or all of them; those that were ended."""
        over = [drill for drill in self.running if id in ("", drill.id)]
        self._drop(over)
        return over

    def expire(self, now: float) -> None:
        """End what is over by time."""
        self._drop([drill for drill in self.running if drill.until <= now])

    def _drop(self, over: list[Drill]) -> None:
        if over:
            self.running = tuple(drill for drill in self.running if drill not in over)
            for drill in over:
                self._ended(drill)

    def of_route(self, route: str, now: float) -> tuple[Fault, ...]:
        """The faults that a request of this route meets now."""
        return tuple(
            drill.fault for drill in self.running if drill.until > now and (not drill.routes or route in drill.routes)
        )
