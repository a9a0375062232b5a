"""Lists of incidents, as status pages publish them, made into spells.

A list says when, whose and how bad, never what share of calls failed. So (chosen, by the weight that the researchers
behind the ICPE 2025 data set give to partial outages): a *minor* incident fails 30 % of the calls with 500, a *major*
one all of them with 503, a *critical* one leaves them without any answer. From "monitoring" on, where the list tells
it, half as many calls are hit. Level 0 (no impact) and 4 (maintenance) do nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from proxy.sim.whatif.outages import Kind, Spell

COLUMNS: Final = ("provider", "start_timestamp", "close_timestamp", "incident_impact_level")
LEVELS: Final[Mapping[str, tuple[Kind, float, int]]] = {
    "1": ("error", 0.3, 500),
    "2": ("error", 1.0, 503),
    "3": ("hang", 1.0, 503),
}


class BadList(ValueError):
    """The list cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One line of a list; times are seconds since 1970."""

    provider: str
    start: float
    monitoring: float | None
    end: float
    level: str


def read(path: str) -> list[Incident]:
    """All incidents in order of time. Raises `BadList`."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise BadList(f"{path}: has no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}")
            found = [_incident(row, f"{path}: row {n}") for n, row in enumerate(rows, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadList(f"{path}: cannot be read: {error}") from None
    return sorted(found, key=lambda incident: incident.start)


def _incident(row: Mapping[str, Any], place: str) -> Incident:
    monitoring = row.get("monitoring_timestamp") or ""
    return Incident(
        provider=row["provider"],
        start=_moment(row["start_timestamp"], place),
        monitoring=_moment(monitoring, place) if monitoring else None,
        end=_moment(row["close_timestamp"], place),
        level=row["incident_impact_level"],
    )


def _moment(text: str | None, place: str) -> float:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        raise BadList(f"{place}: {text!r} is no date and time such as 2024-02-26 17:09:00+00:00") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def spells(incidents: list[Incident], names: Mapping[str, str], begin: float, duration_s: float) -> Iterator[Spell]:
    """Their spells within [begin, begin + duration_s). `names`: whom the list's providers stand for; others are left
    out."""
    for incident in incidents:
        who = names.get(incident.provider)
        if who is None or incident.level not in LEVELS or incident.end <= begin or incident.start - begin >= duration_s:
            continue
        kind, share, status = LEVELS[incident.level]
        turn = (
            incident.end if incident.monitoring is None else min(max(incident.monitoring, incident.start), incident.end)
        )
        for start, end, part in ((incident.start, turn, share), (turn, incident.end, share / 2)):
            if end > start:
                yield Spell(
                    who=who, start=max(0.0, start - begin), end=end - begin, kind=kind, share=part, status=status
                )
