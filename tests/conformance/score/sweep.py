"""The sweep over all recordings: one judgement per (kind, pair, record), gathered into a table."""

from __future__ import annotations

import json
import pathlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.conformance.score import answers, assembled, errors, parallels, rendered, requests, rounds, wishes
from tests.conformance.score.records import APIS, Record, parallel_api, recorded

KINDS = (
    "requests",
    "wishes",
    "parallel",
    "round requests",
    "answers",
    "streams",
    "assembled",
    "pieces",
    "round answers",
    "errors",
    "told errors",
)
FLOORS = pathlib.Path(__file__).with_name("floors.json")
Judgement = tuple[str, str, str, list[str] | str]
"""Kind, pair, id of the record, and what differs; a word instead of a list: why the record is excluded."""


@dataclass(slots=True)
class Row:
    total: int = 0
    excluded: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """(id, first difference)."""

    @property
    def judged(self) -> int:
        return self.total - self.excluded

    @property
    def right(self) -> int:
        return self.judged - len(self.wrong)

    @property
    def percent(self) -> float:
        return 100.0 * self.right / self.judged if self.judged else 100.0


@dataclass(slots=True)
class Table:
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, judgement: Judgement) -> None:
        kind, pair, name, found = judgement
        row = self.rows.setdefault((kind, pair), Row())
        row.total += 1
        if isinstance(found, str):
            row.excluded += 1
            self.reasons[found] += 1
        elif found:
            row.wrong.append((name, found[0]))


def chosen(name: str, seed: int, share: int) -> bool:
    """Whether a record belongs to the sample: one of `share`, another one for every seed."""
    return share <= 1 or zlib.crc32(f"{seed}/{name}".encode()) % share == 0


def judged(seed: int = 0, share: int = 1) -> Iterator[Judgement]:
    """All judgements, or those of a sample."""
    yield from _requests(record for record in requests.sources() if chosen(record.id, seed, share))
    for record in recorded():
        if chosen(record.id, seed, share) and answers.sources(record):
            yield from _answer(record)
    for record in errors.sources():
        if chosen(record.id, seed, share):
            yield "errors", errors.dialect_of(record), record.id, guarded(lambda r=record: errors.differences(r))
    yield from _strict(seed, share)


def _strict(seed: int, share: int) -> Iterator[Judgement]:
    """Every parameter of requests, hand-made translations, and errors as callers see them."""
    for name, api, body in wishes.sources():
        if chosen(name, seed, share):
            for target in APIS:
                for model, facts in wishes.TARGETS[target]:
                    found = guarded(lambda a=api, b=body, t=target, f=facts: wishes.differences(a, b, t, f))
                    yield "wishes", f"{api} -> {target}", f"{name} ({model})", found
    for case, a, b, ours, theirs in parallels.cases():
        if chosen(case, seed, share):
            found = guarded(lambda a=a, b=b, x=ours, y=theirs: parallels.differences(a, b, x, y))
            yield "parallel", f"{parallel_api(a)} -> {parallel_api(b)}", f"{case} ({a} -> {b})", found
    for record in rendered.sources():
        if chosen(record.id, seed, share):
            for dialect in rendered.CALLERS:
                found = guarded(lambda r=record, d=dialect: rendered.differences(r, d))
                yield "told errors", f"{record.api} -> {dialect}", record.id, found


def _requests(records: Iterable[Record]) -> Iterator[Judgement]:
    for record in records:
        home = requests.home_of(record)
        for target in APIS:
            pair = f"{home} -> {target}"
            for facts in requests.targets(target):
                name = f"{record.id} ({facts.model})"
                yield (
                    "requests",
                    pair,
                    name,
                    guarded(lambda r=record, t=target, f=facts: requests.differences(r, t, f)),
                )
                if target != home:
                    back = guarded(lambda r=record, t=target, f=facts: requests.round_trip(r, t, f))
                    yield "round requests", f"{home} -> {target} -> {home}", name, back


def _answer(record: Record) -> Iterator[Judgement]:
    for caller in APIS:
        pair = f"{record.api} -> {caller}"
        kind = "streams" if record.stream else "answers"
        yield kind, pair, record.id, guarded(lambda r=record, c=caller: rounds.one_way(r, c))
        if record.stream:
            yield "assembled", pair, record.id, guarded(lambda r=record, c=caller: assembled.differences(r, c))
            yield "pieces", pair, record.id, guarded(lambda r=record, c=caller: answers.cut_faults(r, c))
        if caller != record.api:
            back = guarded(lambda r=record, c=caller: rounds.differences(r, c))
            yield "round answers", f"{pair} -> {record.api}", record.id, back


def guarded(judge: Callable[[], list[str] | str]) -> list[str] | str:
    """A judge's verdict; whatever else it raises counts as wrong."""
    try:
        return judge()
    except requests.Excluded as obstacle:
        return str(obstacle)
    except Exception as fault:  # a sweep goes on over everything
        return [f"raised {type(fault).__name__}: {fault}"]


def table(judgements: Iterable[Judgement]) -> Table:
    out = Table()
    for judgement in judgements:
        out.add(judgement)
    return out


def floors() -> dict[str, dict[str, float]]:
    """Kind -> pair -> percent that must be reached."""
    found: dict[str, dict[str, float]] = json.loads(FLOORS.read_text())
    return found


def below(found: Table, least: dict[str, dict[str, float]], slack: int = 0) -> list[str]:
    """Pairs under their floor. `slack`: wrong ones that a pair of a sample may have more than its share."""
    out = []
    for (kind, pair), row in found.rows.items():
        floor = least.get(kind, {}).get(pair)
        if floor is None:
            out.append(f"{kind} {pair}: no floor")
            continue
        allowed = row.judged * (100.0 - floor) / 100.0 + slack
        if len(row.wrong) > allowed + 1e-9:
            out.append(f"{kind} {pair}: {row.percent:.2f} % < {floor:.2f} %, first {row.wrong[0]}")
    return out
