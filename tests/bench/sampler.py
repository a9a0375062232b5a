"""A sampling profiler that is wrapped around a program from outside; the program knows nothing of it.

    python -m tests.bench.sampler --out FILE proxy.cli:main run --config outrider.yaml

On every tick of CPU time (`ITIMER_PROF`) the handler of SIGPROF counts the instruction it interrupted. Two
real-time signals open and close the window: `BEGIN` starts the timer, `DUMP` stops it and writes the counts as JSON.

What an honest sample needs: CPython runs signal handlers between bytecodes, so time spent in C is seen only when C
returns. After a call it is seen on the CALL itself, where it belongs. But when C (the event loop, a parser) calls
Python, it is seen at the RESUME of a function that has not run yet; such a sample is given to the caller instead, which
for a callback of the event loop is the frame that runs the loop. Source positions name the call, so that
`orjson.loads(...)` and `transport.write(...)` can be told apart from the lines around them.
"""

from __future__ import annotations

import argparse
import dis
import functools
import importlib
import json
import linecache
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

BEGIN = signal.SIGRTMIN + 5
DUMP = signal.SIGRTMIN + 6
INTERVAL_S = 0.001
"""Of CPU time; the kernel rounds it up to its tick, which is 4 ms on many machines."""

OURS = f"{os.sep}proxy{os.sep}"
RESUME = dis.opmap["RESUME"]

Spot = tuple[CodeType, int, str]
"""(code, offset of the instruction, file of the innermost frame of ours below it or "")"""

counts: Counter[Spot] = Counter()


@functools.cache
def resumes(code: CodeType) -> frozenset[int]:
    """Offsets at which a function has only just begun or been resumed."""
    return frozenset(it.offset for it in dis.get_instructions(code) if it.opcode == RESUME)


def sample(_signum: int, frame: FrameType | None) -> None:
    if frame is None:
        return
    if frame.f_lasti in resumes(frame.f_code) and frame.f_back is not None:
        frame = frame.f_back
    ours: FrameType | None = frame
    while ours is not None and OURS not in ours.f_code.co_filename:
        ours = ours.f_back
    counts[frame.f_code, frame.f_lasti, ours.f_code.co_filename if ours is not None else ""] += 1


def begin(_signum: int, _frame: FrameType | None) -> None:
    counts.clear()
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)


def spots() -> list[dict[str, object]]:
    """The counts with names instead of code objects: file, line, function, source of the call, file of ours, count."""
    found: list[dict[str, object]] = []
    for (code, at, ours), count in counts.items():
        line, end_line, column, end_column = list(code.co_positions())[at // 2] if at >= 0 else (None,) * 4
        text = linecache.getline(code.co_filename, line) if line else ""
        if text and line == end_line and column is not None:
            text = text.encode()[column:end_column].decode(errors="replace")
        found.append(
            {
                "file": code.co_filename,
                "line": line or code.co_firstlineno,
                "function": code.co_qualname,
                "text": text.strip(),
                "ours": ours,
                "count": count,
            }
        )
    return found


def dump(out: Path) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    unfinished = out.with_suffix(".part")
    unfinished.write_text(json.dumps(spots()))
    unfinished.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("program", help="module:function")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    module, _, function = asked.program.partition(":")
    signal.signal(signal.SIGPROF, sample)
    signal.signal(BEGIN, begin)
    signal.signal(DUMP, lambda _signum, _frame: dump(asked.out))
    sys.argv = [module, *asked.arguments]
    sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main()
