"""A run in words: the JSON tree, and the same as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.sim.whatif.simulate import Run
from proxy.sim.whatif.tally import Load, Side

EPISODES_SHOWN: Final = 12
"""Outages listed in the text; the JSON has all that were followed."""


def describe(run: Run) -> dict[str, Any]:
    """The report as a JSON-able tree, the same for the same run but for `cpu_s`."""
    tally = run.tally
    bridged, felt = tally.bridged()
    return {
        "title": run.title,
        "duration_s": round(run.duration_s, 3),
        "seed": run.seed,
        "notes": list(run.notes),
        "traffic": [{"model": model, "targets": list(chain)} for model, chain in run.chains],
        "with_policy": _side(tally.sidecar),
        "primary_alone": _side(tally.alone),
        "attempts": {
            "all": tally.attempts,
            "extra_percent": round(100 * tally.extra_calls, 4),
            **{kind: tally.kinds[kind] for kind in ("first", "retry", "failover", "hedge")},
            "hedges_won": tally.hedges_won,
        },
        "answered_by_fallback": tally.failed_over,
        "streams_continued": tally.continued,
        "outage_minutes": {"felt_without_policy": felt, "bridged": bridged},
        "breaker_openings": tally.episodes.opened,
        "cost_known": tally.priced,
        "targets": {name: _load(load) for name, load in sorted(tally.loads.items())},
        "outages": [episode.told() for episode in tally.episodes.all],
        "cpu_s": round(run.cpu_s, 2),
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "requests": side.requests,
        "failed": side.failed,
        "availability_percent": round(100 * side.availability, 5),
        "errors": dict(side.errors.most_common()),
        "first_content_ms": side.first_content.told(),
        "total_ms": side.total.told(),
        "cost_usd": round(side.cost, 6),
    }


def _load(load: Load) -> dict[str, Any]:
    return {
        "attempts": load.attempts,
        "served": load.served,
        "kinds": dict(load.kinds.most_common()),
        "outcomes": dict(load.outcomes.most_common()),
        "first_content_ms": load.first_content.told(),
    }


# Text -----------------------------------------------------------------------------------------------------------------


def render(told: dict[str, Any]) -> str:
    """`describe`'s tree as text, ending in a newline."""
    return "\n".join(_lines(told)) + "\n"


def _lines(told: dict[str, Any]) -> Iterator[str]:
    mine, alone, attempts = told["with_policy"], told["primary_alone"], told["attempts"]
    yield (
        f"{told['title']}: {mine['requests']:,} requests in {spoken_time(told['duration_s'])}, seed {told['seed']} "
        f"({told['cpu_s']:g} s of processor time)"
    )
    yield from (f"  {kind['model'] or 'passthrough'}: {' > '.join(kind['targets'])}" for kind in told["traffic"])
    yield from (f"  {note}" for note in told["notes"])
    yield ""
    yield f"{'':<24}{'with the policy':>18}{'primary alone':>18}"
    yield _row("availability", *(f"{side['availability_percent']:.4f} %" for side in (mine, alone)))
    yield _row("requests failed", *(f"{side['failed']:,}" for side in (mine, alone)))
    for name in ("p50", "p95", "p99", "p99.9"):
        label = f"first content {name:>8}"
        yield _row(label, *(_ms(side["first_content_ms"][name]) for side in (mine, alone)))
    yield _row("whole answer      p99", *(_ms(side["total_ms"]["p99"]) for side in (mine, alone)))
    if mine["cost_usd"]:
        note = "" if told["cost_known"] else "   (targets without a price are not counted)"
        yield _row("cost", *(f"${side['cost_usd']:,.4f}" for side in (mine, alone))) + note
    yield ""
    yield (
        f"attempts {attempts['all']:,}, {attempts['extra_percent']:.3f} % more than requests: "
        f"{attempts['retry']:,} retries, {attempts['failover']:,} failovers, "
        f"{attempts['hedge']:,} hedges ({attempts['hedges_won']:,} won)"
    )
    yield f"answered by a fallback {told['answered_by_fallback']:,}, streams continued {told['streams_continued']:,}"
    minutes = told["outage_minutes"]
    if minutes["felt_without_policy"]:
        share = 100 * minutes["bridged"] / minutes["felt_without_policy"]
        yield f"outage minutes bridged {minutes['bridged']:,} of {minutes['felt_without_policy']:,} ({share:.2f} %)"
    if mine["errors"]:
        yield "errors seen by callers: " + ", ".join(f"{n:,} {name}" for name, n in mine["errors"].items())
    yield ""
    yield f"{'target':<40}{'attempts':>10}{'served':>10}{'failed':>9}{'p50':>11}{'p95':>11}"
    yield from (_target(name, load) for name, load in told["targets"].items())
    if told["outages"]:
        yield ""
        yield from _outages(told["outages"])


def _outages(episodes: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'outage':<28}{'from':>10}{'for':>10}{'left after':>12}{'opened after':>14}{'met':>6}{'back after':>12}"
    for each in episodes[:EPISODES_SHOWN]:
        share = "" if each["share"] >= 1.0 else f" {100 * each['share']:g} %"
        yield (
            f"{(each['target'] + ' ' + each['what'] + share)[:27]:<28}"
            f"{spoken_time(each['from_s']):>10}{spoken_time(each['for_s']):>10}"
            f"{_after(each['left_after_s']):>12}{_after(each['opened_after_s']):>14}"
            f"{each['attempts_met']:>6}{_after(each['back_after_s']):>12}"
        )
    if len(episodes) > EPISODES_SHOWN:
        yield f"... and {len(episodes) - EPISODES_SHOWN} more"


def _row(label: str, *values: str) -> str:
    return f"{label:<24}" + "".join(f"{value:>18}" for value in values)


def _target(name: str, load: dict[str, Any]) -> str:
    good = load["outcomes"].get("ok", 0)
    cancelled = sum(n for outcome, n in load["outcomes"].items() if outcome.startswith("cancelled"))
    failed = load["attempts"] - good - cancelled
    first = load["first_content_ms"]
    return (
        f"{name[:39]:<40}{load['attempts']:>10,}{load['served']:>10,}{failed:>9,}"
        f"{_ms(first['p50']):>11}{_ms(first['p95']):>11}"
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


def _after(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def spoken_time(seconds: float) -> str:
    """``45 s``, ``12.5 m``, ``2 h``, ``31 d``."""
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{round(seconds / size, 2):g} {unit}"
    return f"{round(seconds, 1):g} s"
