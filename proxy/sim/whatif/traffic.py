"""Who calls when: arrivals by a rate, or from a recorded trace, as a stream of `Call`s in order of time.

Traces are read in the shapes in which they are published:

* CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens`` (Azure's LLM inference traces);
* JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length`` (Mooncake);
* CSV with ``client,time_s,rate_rps,cv`` (ServeGen): rates per client in windows of ten minutes, from which arrivals are
  drawn; token counts are then the traffic's own.

Any of them may be gzipped. A trace shorter than the run begins again when it is over.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from proxy.sim.whatif.model import Call, Flow

WINDOW_S: Final = 600.0
"""Length of ServeGen's windows."""
ROWS_MAX: Final = 5_000_000
"""Requests or windows of one trace."""


class BadTrace(ValueError):
    """A trace cannot be read; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens of a request where a trace does not tell them."""

    prompt_tokens: int = 500
    output_tokens: int = 150


Row = tuple[float, int, int]
"""(seconds from the beginning, prompt tokens, output tokens); tokens 0: not told."""
Arrivals = Iterator[Row]


# Arrivals by rate -----------------------------------------------------------------------------------------------------


def at_rate(rate: float, burst: float, duration_s: float, rng: random.Random) -> Arrivals:
    """`rate` requests per second; `burst`: coefficient of variation of the gaps, 1 is Poisson, 0 a metronome."""
    if rate <= 0.0:
        return
    if burst <= 0.0:
        draw: Callable[[], float] = lambda: 1.0 / rate  # noqa: E731
    elif burst == 1.0:
        draw = lambda: rng.expovariate(rate)  # noqa: E731
    else:
        shape = 1.0 / burst**2
        scale = 1.0 / (rate * shape)
        draw = lambda: rng.gammavariate(shape, scale)  # noqa: E731
    at = draw()
    while at < duration_s:
        yield at, 0, 0
        at += draw()


def exactly(requests: int, duration_s: float, rng: random.Random) -> Arrivals:
    """So many requests, each at a time of its own within the duration: the order statistics of uniform draws."""
    at = 0.0
    for left in range(requests, 0, -1):
        at += (duration_s - at) * (1.0 - rng.random() ** (1.0 / left))
        yield at, 0, 0


# Traces ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace that was read."""

    length_s: float
    begin: Callable[[random.Random], Arrivals]
    """Its arrivals from the beginning; the dice are those of a trace that tells rates only."""


def trace(path: str) -> Trace:
    """Read a trace. Raises `BadTrace`."""
    try:
        with _open(path) as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise BadTrace(f"{path}: cannot be read: {error}") from None
    columns = {name.strip() for name in first.split(",")}
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= columns:
        rows = _checked(path, _azure)
    elif {"time_s", "rate_rps", "cv"} <= columns:
        windows = _checked(path, _servegen)
        if not windows:
            raise BadTrace(f"{path}: holds no window")
        times = [at for at, _, _ in windows]
        return Trace(length_s=max(times) - min(times) + WINDOW_S, begin=lambda rng: _drawn(windows, rng))
    elif first.lstrip().startswith("{"):
        rows = _checked(path, _mooncake)
    else:
        raise BadTrace(
            f"{path}: is no trace; wanted are CSV with TIMESTAMP,ContextTokens,GeneratedTokens, CSV with "
            'client,time_s,rate_rps,cv, or JSON lines with "timestamp", "input_length", "output_length"'
        )
    if not rows:
        raise BadTrace(f"{path}: holds no request")
    rows.sort()
    begin = rows[0][0]
    shifted = [(at - begin, prompt, output) for at, prompt, output in rows]
    return Trace(length_s=shifted[-1][0], begin=lambda rng: iter(shifted))


def _open(path: str) -> Any:
    plain = Path(path)
    opener: Any = gzip.open if plain.suffix == ".gz" else open
    return opener(plain, "rt", encoding="utf-8", newline="")


def _checked(path: str, read: Callable[[Any], Iterator[Any]]) -> list[Any]:
    """All rows; an error names the file and the line."""
    rows: list[Any] = []
    with _open(path) as file:
        try:
            for row in read(file):
                rows.append(row)
                if len(rows) > ROWS_MAX:
                    raise BadTrace(f"{path}: more than {ROWS_MAX:,} rows")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            if isinstance(error, BadTrace):
                raise
            raise BadTrace(f"{path}: row {len(rows) + 1}: {error}") from None
    return rows


def _azure(file: Iterable[str]) -> Iterator[Row]:
    for row in csv.DictReader(file):
        # Seven decimals are one more than `datetime` takes.
        at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26]).timestamp()
        yield at, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _mooncake(file: Iterable[str]) -> Iterator[Row]:
    for line in file:
        if line.strip():
            row = json.loads(line)
            yield row["timestamp"] / 1000.0, int(row["input_length"]), int(row["output_length"])


def _servegen(file: Iterable[str]) -> Iterator[tuple[float, float, float]]:
    for row in csv.DictReader(file):
        yield float(row["time_s"]), float(row["rate_rps"]), float(row["cv"])


def _drawn(windows: list[tuple[float, float, float]], rng: random.Random) -> Arrivals:
    """Arrivals of all clients, window by window; gaps are Gamma with the window's rate and variation."""
    begin = min(at for at, _, _ in windows)
    by_window: dict[float, list[tuple[float, float]]] = {}
    for at, rate, burst in windows:
        by_window.setdefault(at - begin, []).append((rate, burst))
    for start in sorted(by_window):
        streams = [at_rate(rate, burst, WINDOW_S, rng) for rate, burst in by_window[start]]
        for offset, prompt, output in heapq.merge(*streams):
            yield start + offset, prompt, output


def repeated(recorded: Trace, duration_s: float, keep: float, rng: random.Random) -> Arrivals:
    """A trace up to `duration_s`, from its beginning again whenever it is over; `keep`: share of its requests."""
    offset = 0.0
    while True:
        for at, prompt, output in recorded.begin(rng):
            if offset + at > duration_s:
                return
            if keep >= 1.0 or rng.random() < keep:
                yield offset + at, prompt, output
        offset += recorded.length_s
        if recorded.length_s <= 0.0 or offset >= duration_s:
            return


def calls(arrivals: Arrivals, flow: Flow, sizes: Sizes, rng: random.Random) -> Iterator[Call]:
    """Arrivals as calls of `flow`, each with its fate."""
    draw = rng.random
    for at, prompt, output in arrivals:
        yield Call(at, flow, prompt or sizes.prompt_tokens, output or sizes.output_tokens, draw(), draw() or 1e-9)


def merged(streams: Iterable[Iterator[Call]]) -> Iterator[Call]:
    """Several streams of calls in order of time."""
    listed = list(streams)
    return listed[0] if len(listed) == 1 else heapq.merge(*listed, key=lambda call: call.at)
