"""The options of `outrider simulate` and `outrider replay`, and the bar that shows how far they are."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # the command line looks in here at every start, whatever the command is
    from proxy.sim.whatif.simulate import Progress


def of_simulate(parser: argparse.ArgumentParser) -> None:
    """Flags say what a scenario file says, and win over it."""
    parser.add_argument("--scenario", default="", metavar="FILE", help="traffic, targets and outages as YAML")
    parser.add_argument("--for", dest="duration", metavar="TIME", help="how long: 90s, 10m, 4h, 30d")
    parser.add_argument("--rate", type=float, metavar="N", help="requests per second")
    parser.add_argument("--requests", type=int, metavar="N", help="so many requests instead")
    parser.add_argument("--trace", metavar="FILE", help="a recorded trace of arrivals")
    parser.add_argument("--keep", type=float, metavar="SHARE", help="share of the trace's requests that are played")
    parser.add_argument("--model", help="that callers ask for")
    parser.add_argument("--unary", action="store_true", help="callers do not ask for streams")
    parser.add_argument("--outage", action="append", default=[], metavar="WHO:WHAT,from=TIME,for=TIME")
    parser.add_argument("--incidents", metavar="FILE", help="a list of incidents as CSV")
    parser.add_argument("--map", action="append", default=[], metavar="THEIRS=OURS", help="providers of that list")
    parser.add_argument("--since", default="", metavar="DATE", help="begin the incidents at this date")


def of_replay(parser: argparse.ArgumentParser) -> None:
    """The one thing a replay needs beside the configuration."""
    parser.add_argument("history", metavar="FILE", help="history file, JSON of /v1/events, or JSON log lines")


def of_both(parser: argparse.ArgumentParser) -> None:
    """What the two share."""
    parser.add_argument("-H", "--header", action="append", default=[], metavar="'NAME: VALUE'")
    parser.add_argument("--seed", type=int, metavar="N", help="other dice")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--html", metavar="FILE", help="draw it, too")


def spoken(args: argparse.Namespace, headers: dict[str, str]) -> dict[str, Any]:
    """The flags of `simulate` in the words of a scenario file. Raises `BadScenario`."""
    from proxy.sim.whatif.scenario import outage

    traffic: dict[str, Any] = {name: getattr(args, name) for name in ("rate", "requests", "trace", "keep", "model")}
    if args.unary:
        traffic["stream"] = False
    if headers:
        traffic["headers"] = headers
    flags: dict[str, Any] = {"seed": args.seed, "duration": args.duration, "traffic": traffic}
    flags["outages"] = [outage(said) for said in args.outage]
    if args.incidents:
        pairs = dict(said.partition("=")[::2] for said in args.map)
        flags["incidents"] = {"file": args.incidents, "providers": pairs, "start": args.since}
    return flags


def bar(out: TextIO) -> Progress:
    """A bar on a terminal; nothing anywhere else, and nothing for what is over in a second."""
    begun, shown = time.monotonic(), -1
    is_terminal = out.isatty()

    def draw(share: float) -> None:
        nonlocal shown
        spent, percent = time.monotonic() - begun, int(100 * share)
        if not is_terminal or spent < 1.0 or percent == shown:
            return
        shown = percent
        left = f"{spent * (1.0 - share) / share:.0f} s left" if 0.0 < share < 1.0 else ""
        out.write(f"\r[{'#' * (percent // 4):<25}] {percent:3} % {left:<14}")
        if share >= 1.0:
            out.write(f"\r{'':<50}\r")
        out.flush()

    return draw
