"""Recorded provider traffic, for tests only: it lives outside the repository and may be absent.

A test that needs it skips with a clear message, it never fails for that reason and never passes silently.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = pathlib.Path(os.environ.get("OUTRIDER_DATA") or ROOT / "../shared/data")


def need(name: str) -> pathlib.Path:
    """The path of a file or folder of the data; skips the test when it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs OUTRIDER_DATA: {path} not found")
    return path


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The records of a `.jsonl` or `.csv` file, plain or gzipped, one at a time."""
    path = need(name)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if ".csv" in path.name else map(json.loads, file)


def body(response: dict[str, Any]) -> bytes:
    """The bytes of a recorded answer; exactly one of the two keys is there."""
    return base64.b64decode(response["body_b64"]) if "body_b64" in response else response["body"].encode()
