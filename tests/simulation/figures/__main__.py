"""``make figures``: every figure at full length, as a table; ARGS='claim C6' runs only those, ``--short`` the short
versions that `make check` runs. The exit code is 1 when one does not hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.data import DATA
from tests.simulation.figures import breaking, claims, hedging, real, retrying
from tests.simulation.figures.stage import Row

Figure = Callable[[], Iterator[Row]]

FULL: dict[str, list[Figure]] = {
    "C1": [partial(hedging.tail, 10_000)],
    "C4": [partial(retrying.load, 60_000)],
    "C5": [partial(retrying.collapse, 50)],
    "C6": [partial(breaking.detections, 60)],
    "C7": [partial(hedging.creep, 12_000)],
    "C8": [partial(breaking.magnet, 600.0)],
    "C9": [partial(retrying.rates, 600.0)],
    "C11": [partial(breaking.half_open, 10_000)],
    "C12": [partial(retrying.retry_after, 120.0), partial(retrying.retry_after, 600.0)],
    "C13": [partial(claims.nines, 60.0)],
    "claim": [
        claims.two_hours,
        partial(claims.month, 2_400_000, 0.995, 0.999),
        partial(claims.detection_and_return, 20),
        claims.timeline,
    ],
    "real": [
        partial(real.year, DATA, "ServeGen", 365.0, 0.01),
        partial(real.year, DATA, "Azure code", 30.0, 0.1),
    ],
}
SHORT: dict[str, list[Figure]] = {
    "C1": [partial(hedging.tail, 250)],
    "C4": [partial(retrying.load, 6_000)],
    "C5": [partial(retrying.collapse, 3)],
    "C6": [partial(breaking.detections, 5)],
    "C7": [partial(hedging.creep, 12_000)],
    "C8": [partial(breaking.magnet, 30.0)],
    "C9": [partial(retrying.rates, 600.0)],
    "C11": [partial(breaking.half_open, 300)],
    "C12": [partial(retrying.retry_after, 120.0)],
    "C13": [partial(claims.nines, 1.5)],
    "claim": [
        claims.two_hours,
        partial(claims.month, 12_000, 0.995, 0.999),
        partial(claims.detection_and_return, 1),
        claims.timeline,
    ],
    "real": [partial(real.year, DATA, "Azure code", 5.0, 0.02)],
}


def main(words: list[str]) -> int:
    """Print the table, a line at a time as it comes."""
    chosen = SHORT if "--short" in words else FULL
    wanted = [word for word in words if not word.startswith("-")] or list(chosen)
    unknown = [word for word in (*wanted, *words) if word not in chosen and word != "--short"]
    if unknown:
        print(f"no figure is called {', '.join(unknown)}; there are {', '.join(chosen)}", file=sys.stderr)
        return 2
    print("| figure | what | expected | got | holds | processor |\n|---|---|---|---|---|--:|", flush=True)
    missed = 0
    for name in wanted:
        if name == "real" and not DATA.exists():
            print(f"| {name} | needs OUTRIDER_DATA: {DATA} not found | | | | |")
            continue
        for figure in chosen[name]:
            begun = time.process_time()
            for each in figure():
                spent = time.process_time() - begun
                begun = time.process_time()
                missed += not each.holds
                print(
                    f"| {each.figure} | {each.what} | {each.expected} | {each.got} | "
                    f"{'yes' if each.holds else '**no**'} | {spent:.1f} s |",
                    flush=True,
                )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
