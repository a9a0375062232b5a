"""Inputs and commands of the engine: the whole conversation between judgement and act."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from proxy.base.outcome import Outcome

# Inputs ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A response head has come (any status)."""

    attempt: int


@dataclass(frozen=True, slots=True)
class FirstContent:
    """The first content event of a stream, or the whole body of a unary answer."""

    attempt: int


@dataclass(frozen=True, slots=True)
class HoldFull:
    """What is held back before commit has reached its cap: commit now or never."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempt has ended before commit, or well after it; `outcome` is its one outcome."""

    attempt: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Broke:
    """The committed attempt broke before its proper end."""

    attempt: int
    outcome: Outcome


class Timer(StrEnum):
    DEADLINE = "deadline"
    BACKOFF = "backoff"
    HEDGE = "hedge"


@dataclass(frozen=True, slots=True)
class Fired:
    timer: Timer


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The caller left, or the process drains."""

    reason: Literal["downstream", "drain"] = "downstream"


Input = Opened | FirstContent | HoldFull | Finished | Broke | Fired | ClientGone

# Commands -------------------------------------------------------------------------------------------------------------

Kind = Literal["first", "retry", "failover", "hedge"]


@dataclass(frozen=True, slots=True)
class Dial:
    """Send the request to `candidate` (index into the plan's chain) as attempt number `attempt` (from 0)."""

    attempt: int
    candidate: int
    kind: Kind
    first_byte_s: float | None
    """None: the last possible attempt waits as long as the deadline lets it."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Arm `timer` for the monotonic time `at`; an earlier setting of the same timer is replaced. None disarms it."""

    timer: Timer
    at: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the attempt; its outcome is already recorded and no further input about it is expected."""

    attempt: int
    reason: Literal["superseded", "deadline", "downstream", "drain"]


@dataclass(frozen=True, slots=True)
class Commit:
    """From here on the caller sees bytes of this attempt and of no other."""

    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No answer: tell the caller `outcome`."""

    outcome: Outcome
    retry_after_s: float | None
    """Soonest time at which a target may be tried again; None when nothing is known."""
    final: bool
    """Our own retries are spent: the caller's client should not multiply them (``x-should-retry: false``)."""


Command = Dial | SetTimer | Cancel | Commit | GiveUp
