"""Request ids: unique over processes, cheap to make, safe in a header."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count


def id_maker(prefix: str) -> Callable[[], str]:
    """Return a function giving ``req_<prefix>_<n>``; `prefix` must be unique per process (random hex)."""
    numbers = count(1)
    head = f"req_{prefix}"
    return lambda: f"{head}{next(numbers):08x}"
