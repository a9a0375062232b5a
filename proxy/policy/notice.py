"""Who is told what of an incident, and in which words. Pure; `observe/notify` keeps and sends what is decided here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from proxy.policy.incident import Change, Incident, Severity, Type

Channel = Literal["webhook", "email", "sms", "slack"]
CHANNELS: Final[tuple[Channel, ...]] = ("webhook", "email", "sms", "slack")
ADDRESS_OF: Final[Mapping[str, str]] = {"webhook": "webhook_url", "email": "email", "sms": "phone"}
"""The field that a channel needs. Slack goes where the file says."""
TOLD: Final = frozenset({"opened", "escalated", "unacknowledged", "resolved"})
"""Kinds of `Change` that subscribers hear of."""
GIVE_UP_S: Final = 86_400.0
"""A notification that could not be delivered for so long is dropped."""
EMAIL: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}")
PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}")
"""E.164."""
URL_MAX: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Somebody who wants to know."""

    id: str
    channels: tuple[Channel, ...]
    threshold: Severity = Severity.MEDIUM
    types: frozenset[Type] = frozenset(Type)
    regions: frozenset[str] = frozenset()
    """Empty: every region, and incidents without one."""
    webhook_url: str = ""
    email: str = ""
    phone: str = ""
    secret: str = field(default="", repr=False)
    """Signs its webhooks; empty: `notify.signing_key` does. Never shown again after it was told once."""
    created_at: float = 0.0
    from_file: bool = False

    def wants(self, incident: Incident) -> bool:
        """Whether it is told of `incident`. One that has had a wanted type stays wanted, or its end would be missed."""
        return (
            incident.told_severity >= self.threshold
            and not self.types.isdisjoint(incident.types)
            and (not self.regions or incident.region in self.regions)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What is to be delivered to one subscription through one channel. Its id stays the same whenever it is sent."""

    id: str
    subscription: str
    channel: Channel
    created_at: float
    due_at: float
    notices: tuple[Mapping[str, Any], ...]
    """JSON of what is told; more than one: a digest."""
    attempts: int = 0
    error: str = ""
    """Why it was not delivered so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of an attempt to deliver."""

    result: Literal["delivered", "failed", "refused", "never"]
    """`failed`: nobody answers there as they should, so other letters to that place wait too. `refused`: somebody
    answers, and does not want this letter. `never`: it must not be tried again."""
    reason: str = ""


def address_fault(url: str) -> str:
    """What is wrong with the address of a webhook by its text alone; empty: nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no address"
    if len(url) > URL_MAX or not url.isprintable() or not url.isascii() or set(" \\") & set(url):
        return f"must be at most {URL_MAX} printable ASCII characters without spaces and backslashes"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "must begin with https:// or http:// and name a host"
    if parts.username is not None or parts.password is not None:
        return "must not carry a user name or password"
    return ""


class Noise:
    """Counts what one subscription is told, to know when to gather."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: list[float] = []

    def due_at(self, now: float, after: int, window_s: float) -> float:
        """When a letter made now is sent: now, or after a window when `after` were made within the last one.

        0 for `after`: always now.
        """
        self._times = [at for at in self._times if at > now - window_s]
        is_noisy = 0 < after <= len(self._times)
        self._times = [*self._times[-max(after, 1) :], now]
        return now + window_s if is_noisy else now


def is_urgent(change: Change) -> bool:
    """Whether it is told at once however noisy it is."""
    return change.kind != "resolved" and change.incident.told_severity is Severity.CRITICAL


def recipients(change: Change, subscriptions: Iterable[Subscription]) -> list[tuple[Subscription, Channel]]:
    """Who hears of `change`, and how."""
    if change.kind not in TOLD:
        return []
    return [(each, channel) for each in subscriptions if each.wants(change.incident) for channel in each.channels]


def subject(letter: Letter) -> str:
    """One line: ``[HIGH] outage of openai opened``, or how many there are."""
    first = letter.notices[0]
    if len(letter.notices) > 1:
        return f"{len(letter.notices)} changes of incidents, the first: {_line(first)}"
    return _line(first)


def text(letter: Letter) -> str:
    """The letter for people, without markup."""
    return "\n\n".join(_paragraph(notice) for notice in letter.notices)


def _line(notice: Mapping[str, Any]) -> str:
    incident = notice["incident"]
    what = str(incident["type"]).replace("_", " ")
    return f"[{str(notice['severity']).upper()}] {what} of {incident['provider']} {notice['kind']}"


def _paragraph(notice: Mapping[str, Any]) -> str:
    incident = notice["incident"]
    lines = [
        _line(notice),
        f"at {notice['at']}, incident {incident['id']}, since {incident['timestamp']}",
        str(incident["cause"]),
        str(incident["impact"]),
    ]
    if incident["ended_at"]:
        lines.append(f"ended {incident['ended_at']}: {incident['resolution']}")
    return "\n".join(line for line in lines if line)
