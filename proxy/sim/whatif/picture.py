"""A run as a picture: one HTML file with inline SVG, nothing fetched from anywhere, no script.

Three drawings share the axis of time: who answered (stacked by target, failures on top), what callers saw with and
without the policy, and the outages as bars. Whatever came from the user's files is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from proxy.sim.whatif.report import describe, spoken_time
from proxy.sim.whatif.simulate import Run
from proxy.sim.whatif.tally import Slice

WIDTH: Final = 960
HEIGHT: Final = 180
COLOURS: Final = ("#2f6fb3", "#3a9a6b", "#b3812f", "#7a5bb0", "#3aa0a8", "#8a8a3a")
FAILED: Final = "#c8372d"
ALONE: Final = "#d98b84"
BARS_MAX: Final = 400
"""Outages drawn; of more the first so many."""

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin-bottom:.2rem}h2{font-size:1rem;margin:1.6rem 0 .3rem}
table{border-collapse:collapse}td,th{padding:.15rem .9rem .15rem 0;text-align:right;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}th{font-weight:600;border-bottom:1px solid #8886}
svg{width:100%;height:auto;display:block;shape-rendering:crispEdges}
td{white-space:nowrap}td:last-child{white-space:normal}text{fill:currentColor;font-size:11px}
.key span,.key i{display:inline-block}.key span{margin-right:1.2rem}.key i{width:.8em;height:.8em;margin-right:.35em}
.quiet{opacity:.7}
"""


def draw(run: Run) -> str:
    """The whole page."""
    told = describe(run)
    names = sorted(run.tally.loads)
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    slices = run.tally.slices
    title = escape(run.title)
    lasted = f"{told['with_policy']['requests']:,} requests in {spoken_time(run.duration_s)}, seed {run.seed}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}: what callers would have seen</h1>",
        f"<p class=quiet>{lasted}</p>",
        *(f"<p class=quiet>{escape(note)}</p>" for note in run.notes),
        _comparison(told),
        "<h2>Who answered</h2>",
        _key([*((name, colours[name]) for name in names), ("failed", FAILED)]),
        _svg(_stack(slices, names, colours), run.duration_s),
        "<h2>Failed requests, share</h2>",
        _key([("with the policy", FAILED), ("primary alone", ALONE)]),
        _svg(_shares(slices), run.duration_s),
        *_outages(told["outages"], run.duration_s),
        "<h2>Targets</h2>",
        _targets(told["targets"]),
        "</html>",
    ]
    return "\n".join(parts)


def _comparison(told: dict[str, Any]) -> str:
    mine, alone = told["with_policy"], told["primary_alone"]
    rows = [
        ("availability", *(f"{side['availability_percent']:.4f} %" for side in (mine, alone))),
        ("requests failed", *(f"{side['failed']:,}" for side in (mine, alone))),
        *(
            (f"first content {name}", *(_ms(side["first_content_ms"][name]) for side in (mine, alone)))
            for name in ("p50", "p95", "p99", "p99.9")
        ),
        *([("cost", *(f"${side['cost_usd']:,.4f}" for side in (mine, alone)))] if mine["cost_usd"] else []),
        ("extra calls", f"{told['attempts']['extra_percent']:.3f} %", "0 %"),
    ]
    return _table(("", "with the policy", "primary alone"), rows)


def _targets(targets: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{load['attempts']:,}",
            f"{load['served']:,}",
            _ms(load["first_content_ms"]["p50"]),
            _ms(load["first_content_ms"]["p95"]),
            ", ".join(f"{n:,} {outcome}" for outcome, n in load["outcomes"].items()),
        )
        for name, load in targets.items()
    ]
    return _table(("target", "attempts", "served", "p50", "p95", "outcomes"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _key(entries: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f"<span><i style='background:{colour}'></i>{escape(name)}</span>" for name, colour in entries)
    return f"<p class=key>{shown}</p>"


def _svg(drawn: Iterator[str], duration_s: float, height: int = HEIGHT) -> str:
    """A drawing with its axis of time."""
    marks = []
    for n in range(5):
        x = WIDTH * n / 4
        anchor = "start" if n == 0 else "end" if n == 4 else "middle"
        marks.append(
            f"<line x1={x:.0f} x2={x:.0f} y1=0 y2={height} stroke=currentColor stroke-opacity=.15 />"
            f"<text x={x:.0f} y={height + 14} text-anchor={anchor}>{spoken_time(duration_s * n / 4)}</text>"
        )
    return f"<svg viewBox='0 0 {WIDTH} {height + 18}' role=img>{''.join(drawn)}{''.join(marks)}</svg>"


def _stack(slices: Sequence[Slice], names: Sequence[str], colours: dict[str, str]) -> Iterator[str]:
    most = max((part.requests for part in slices), default=0) or 1
    width = WIDTH / len(slices)
    for n, part in enumerate(slices):
        y = float(HEIGHT)
        shown = [(name, part.served_by[name], colours[name]) for name in names]
        for name, count, colour in [*shown, ("failed", part.failed, FAILED)]:
            if count:
                tall = HEIGHT * count / most
                y -= tall
                yield (
                    f"<rect x={n * width:.2f} y={y:.2f} width={width:.2f} height={tall:.2f} fill='{colour}'>"
                    f"<title>{escape(name)}: {count:,}</title></rect>"
                )


def _shares(slices: Sequence[Slice]) -> Iterator[str]:
    width = WIDTH / len(slices)
    for is_alone, colour in ((True, ALONE), (False, FAILED)):
        for n, part in enumerate(slices):
            failed = part.alone_failed if is_alone else part.failed
            if part.requests and failed:
                share = failed / part.requests
                yield (
                    f"<rect x={n * width:.2f} y={HEIGHT * (1 - share):.2f} width={width:.2f} "
                    f"height={HEIGHT * share:.2f} fill='{colour}'><title>{100 * share:.2f} %</title></rect>"
                )


def _outages(episodes: Sequence[dict[str, Any]], duration_s: float) -> Iterator[str]:
    if not episodes:
        return
    names = sorted({each["target"] for each in episodes})
    height = 16 * len(names)

    def bars() -> Iterator[str]:
        for each in episodes[:BARS_MAX]:
            x = WIDTH * each["from_s"] / duration_s
            wide = max(1.0, WIDTH * each["for_s"] / duration_s)
            y = 16 * names.index(each["target"]) + 2
            back = "not used again" if each["back_after_s"] is None else f"back after {each['back_after_s']:.1f} s"
            said = f"{each['target']}: {each['what']} for {spoken_time(each['for_s'])}, {back}"
            yield (
                f"<rect x={x:.2f} y={y} width={wide:.2f} height=12 fill='{FAILED}' "
                f"fill-opacity={max(0.25, each['share']):.2f}><title>{escape(said)}</title></rect>"
            )
        for n, name in enumerate(names):
            yield f"<text x=4 y={16 * n + 12}>{escape(name)}</text>"

    yield "<h2>Outages</h2>"
    yield _svg(bars(), duration_s, height)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"
