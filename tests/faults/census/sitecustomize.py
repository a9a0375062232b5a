"""Looks into a running proxy from outside: what objects it holds, counted by class, on a signal.

Python imports a module of this name at its start when the folder is on `PYTHONPATH`; the product has no switch for it.
On `SIGNAL` the file named by `OUTRIDER_CENSUS` is written anew: the number of tasks that are not done, of objects that
only the cycle collector could free, since the start, and of living objects by class, for all classes of the product and
for what an event loop holds. Garbage is collected first and free
memory given back to the system: what is counted is what somebody still points at, and so is what is resident then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

SIGNAL = signal.SIGRTMIN + 7
garbage = 0
LOOPS = ("TimerHandle", "UVTimer", "Handle", "TCPTransport", "_SSLProtocolTransport")


def count() -> dict[str, int]:
    """Class -> living objects; ``tasks`` and ``garbage``."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the C library of another system
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        module = kind.__dict__.get("__module__", "")
        if kind.__name__ in LOOPS or (isinstance(module, str) and module.startswith("proxy.")):
            found[kind.__name__] += 1
    return {"tasks": len(asyncio.all_tasks()), "garbage": garbage, **found}


def note(phase: str, info: dict[str, int]) -> None:
    """One of the collector's callbacks."""
    global garbage
    if phase == "stop":
        garbage += info["collected"]


def answer(_signum: int, _frame: FrameType | None) -> None:
    target = Path(os.environ["OUTRIDER_CENSUS"])
    whole = target.with_suffix(".new")
    whole.write_text(json.dumps(count()))
    whole.rename(target)


if "OUTRIDER_CENSUS" in os.environ:
    signal.signal(SIGNAL, answer)
    gc.callbacks.append(note)
