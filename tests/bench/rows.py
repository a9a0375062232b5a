"""The table's lines: what is printed of each measurement, and what outrider aims at. What they mean is in README.md."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.foreign import DIALECTS

CONCURRENCY = 16
LONG, SHORT = 200, 20
"""Content events of the two lengths of paced streams whose difference is the price of a chunk."""
BURST = 31
"""Content events of a stream at full speed; the shape of the public bench of the most used gateway."""
HELD = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    key: str
    label: str
    ratio: bool = False
    """Also print the ratio to the reference."""
    digits: int = 0
    aim: float | None = None
    """Upper bound that outrider aims at: of the ratio where there is one, else of the value."""
    beside: str = ""
    """The row whose value of the reference the ratio is to, where the reference has none in this one."""
    aims_at_value: bool = False
    """The aim is one of the value although there is a ratio."""


ROWS = (
    Row(key="unary_1k_us", label="CPU per unary request, 1 KiB answer, us", ratio=True, aim=1.8),
    Row(key="unary_8k_us", label="CPU per unary request, 8 KiB answer, us", ratio=True, aim=1.8),
    Row(key="unary_split_us", label="the same, 1 KiB, head and body in two segments, us", ratio=True),
    Row(
        key="watching",
        label="  with history in a file, probes, traces / without",
        digits=3,
        aim=1.08,
    ),
    Row(
        key="chunk_us",
        label=f"CPU per streamed chunk ({LONG} against {SHORT} events), us",
        ratio=True,
        digits=1,
        aim=1.1,
    ),
    Row(key="chunk_whole_us", label=f"CPU of {LONG}-event streams / chunks, us", ratio=True, digits=1, aim=1.1),
    Row(key="stream_base_us", label="CPU of a stream beyond its chunks, us", ratio=True),
    Row(key="burst_us", label=f"CPU per stream of {BURST} events at full speed, us", ratio=True),
    *(
        Row(
            key=f"chunk_{dialect}_us",
            label=f"CPU per streamed event, chat caller, {dialect} target, us",
            ratio=True,
            beside="chunk_us",
            digits=1,
            aim=60,
            aims_at_value=True,
        )
        for dialect in DIALECTS
    ),
    *(
        Row(key=f"unary_{dialect}_us", label=f"added by translation, unary 1 KiB, {dialect}, us", aim=150)
        for dialect in DIALECTS
    ),
    *(
        Row(key=f"unary_{dialect}_kib_us", label=f"  and for each further KiB of the answer, {dialect}, us", digits=1)
        for dialect in DIALECTS
    ),
    *(
        Row(key=f"pure_{dialect}_us", label=f"translation alone, request and 1 KiB answer, {dialect}, us", aim=150)
        for dialect in DIALECTS
    ),
    *(
        Row(key=f"pure_{dialect}_kib_us", label=f"  and for each further KiB of the answer, {dialect}, us", digits=2)
        for dialect in DIALECTS
    ),
    *(
        Row(key=f"pure_{dialect}_event_us", label=f"translation alone, streamed event, {dialect}, us", digits=1, aim=60)
        for dialect in DIALECTS
    ),
    Row(key="unary_per_s", label=f"unary requests/s, 1 KiB, {CONCURRENCY} callers"),
    Row(key="unary_busy", label="  share of its core in use meanwhile", digits=2),
    Row(key="burst_per_s", label=f"streams/s of {BURST} events, {CONCURRENCY} callers"),
    Row(key="burst_busy", label="  share of its core in use meanwhile", digits=2),
    Row(key="added_p50_us", label="added latency at 1 caller, p50, us"),
    Row(key="added_p99_us", label="added latency at 1 caller, p99, us"),
    Row(key="first_p50_us", label="added time to first content, p50, us"),
    Row(key="first_p99_us", label="added time to first content, p99, us"),
    Row(key="start_s", label="exec to first answer, s", digits=3, aim=0.5),
    Row(key="start_cpu_s", label="  CPU spent until then, s", digits=3),
    Row(key="idle_mb", label="RSS idle, MB", digits=1, aim=70),
    Row(key="held_mb", label=f"RSS with {HELD} open streams, MB", digits=1),
    Row(key="left_mb", label="RSS after they have gone, MB", digits=1),
)
