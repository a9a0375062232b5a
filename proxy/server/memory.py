"""How much memory the container may use, and what follows from it.

One process serves everything, so the limit of its control group is its own. Most of what can grow is request bodies:
each is held once as it came and, where a target is spoken to in another language, once more as that target gets it. A
limit below what `limits.max_held_mb` allows would have the kernel kill the process in the middle of everybody's
requests; a request that is refused with 503 costs one caller one retry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
OWN_MIB: Final = 96
"""What the process needs beside bodies: measured 60 at rest, the rest for connections and plans under load."""
COPIES: Final = 2
"""A body as it came and as it goes out."""
LEAST_MIB: Final = 16
"""Room for bodies that is kept whatever the limit says: one large request must fit."""
M_MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD_BYTES: Final = 1024 * 1024
_NO_LIMIT: Final = 1 << 60


def limit_bytes(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int | None:
    """Memory limit of this process's control group, version 2 or 1; None: there is none, or none that can be told."""
    groups = {fields[1]: fields[2] for line in _read(own).splitlines() if len(fields := line.split(":", 2)) == 3}
    unified, memory = groups.get("", "/"), groups.get("memory", "/")
    # Inside a container the own group is usually mounted as the root, whatever its path is called outside.
    places = (
        Path(root, unified.lstrip("/"), "memory.max"),
        Path(root, "memory.max"),
        Path(root, "memory", memory.lstrip("/"), "memory.limit_in_bytes"),
        Path(root, "memory", "memory.limit_in_bytes"),
    )
    for place in places:
        text = _read(str(place)).strip()
        if text:
            return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def held_bytes(stated_mb: int, limit: int | None) -> int:
    """Bytes of bodies that may be held at once: what the file states, less where the limit leaves less."""
    if limit is None:
        return stated_mb * MIB
    room = max(LEAST_MIB * MIB, (limit - OWN_MIB * MIB) // COPIES)
    return min(stated_mb * MIB, room)


def give_back() -> None:
    """Have glibc return large blocks to the system when they are freed.

    By itself it raises its threshold with the first freed image of a few MiB and keeps such blocks from then on: after
    a crowd of large bodies the process stayed at 197 MB, where 60 are in use. Other allocators have no such call.
    """
    import ctypes

    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    except (OSError, AttributeError):
        return
