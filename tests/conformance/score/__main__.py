"""Prints how well every pair of dialects is translated: ``make score``, with ``ARGS=--list`` what went wrong."""

from __future__ import annotations

import argparse
import json
import math
import sys

from tests.conformance.score import sdk, sweep


def main() -> int:
    parser = argparse.ArgumentParser(prog="score", description=__doc__)
    parser.add_argument(
        "--list", action="store_true", help="also the records that went wrong, with the first difference"
    )
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="only one record in N")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--raise-floors", action="store_true", help="write what was reached where it is more than before"
    )
    told = parser.parse_args()
    if absent := sdk.missing():
        print(f"without the judgement of {', '.join(absent)}: not installed", file=sys.stderr)
    found = sweep.table(sweep.judged(told.seed, told.sample))
    show(found, told.list)
    if told.raise_floors:
        raise_floors(found)
    under = sweep.below(found, sweep.floors(), slack=1 if told.sample > 1 else 0)
    for line in under:
        print(f"below its floor: {line}")
    return 1 if under else 0


def show(found: sweep.Table, with_list: bool) -> None:
    print(f"{'kind':15} {'pair':38} {'right':>6} {'total':>6} {'excl.':>6} {'percent':>8}")
    for kind in sweep.KINDS:
        rows = [(pair, row) for (each, pair), row in found.rows.items() if each == kind]
        for pair, row in rows:
            print(f"{kind:15} {pair:38} {row.right:6} {row.total:6} {row.excluded:6} {row.percent:8.2f}")
        if rows:
            judged, right = sum(row.judged for _, row in rows), sum(row.right for _, row in rows)
            share = 100.0 * right / judged if judged else 100.0
            total, excluded = sum(row.total for _, row in rows), sum(row.excluded for _, row in rows)
            print(f"{kind:15} {'all':38} {right:6} {total:6} {excluded:6} {share:8.2f}\n")
    print("excluded:", ", ".join(f"{reason} {count}" for reason, count in found.reasons.most_common()))
    for (kind, pair), row in found.rows.items() if with_list else ():
        for name, difference in row.wrong:
            print(f"{kind} {pair} {name}: {difference}")


def raise_floors(found: sweep.Table) -> None:
    """Floors only grow; a lower one is an edit by hand, with a reason."""
    least = sweep.floors() if sweep.FLOORS.exists() else {}
    for (kind, pair), row in sorted(found.rows.items()):
        reached = math.floor(row.percent * 100) / 100
        held = least.setdefault(kind, {})
        held[pair] = max(held.get(pair, 0.0), reached)
    sweep.FLOORS.write_text(json.dumps(least, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
