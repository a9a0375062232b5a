"""The words between a breaker and those who ask it: what an operator may set, and what is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from proxy.policy.window import State


class Forced(StrEnum):
    """What an operator has set, for a time or until further notice."""

    NONE = "none"
    OPEN = "open"
    """Refuse everything."""
    CLOSED = "closed"
    """Admit everything, judge nothing."""
    METRICS_ONLY = "metrics_only"
    """Judge and report, refuse nothing."""


class Mark(StrEnum):
    """How the target's first-content times stand against what it used to need."""

    NORMAL = "normal"
    WATCHED = "watched"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The target's circuit moved. Times are monotonic seconds; `at` may lie a little before the call that noticed."""

    from_: State
    to: State
    reason: str
    at: float
    open_until: float | None
    """Earliest time of the next probe; None unless it opened, or when an operator forced it open without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Not admitted. Nothing was taken and nothing is to be given back."""

    reason: Literal["open", "half_open", "overlay", "forced", "excluded"]
    """`half_open`: all probes are out. `excluded`: refused by nothing but the exclusion, which is a preference."""
    retry_after_s: float
    """Seconds until it may be tried again, >= 0."""
    state: State = State.OPEN
    """What `X-Circuit-Status` tells: every refusal is `open` there."""
    warning: str = ""
