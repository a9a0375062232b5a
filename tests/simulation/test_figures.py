"""The figures of the resilience specification and the claims of the field: short versions always, long ones as torture.

What each reproduces, and the bound that it has to keep, stands beside it in `figures`; `make figures` prints the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.data import need
from tests.simulation.figures.__main__ import FULL, SHORT, Figure


def holds(figures: Mapping[str, list[Figure]], name: str) -> None:
    if name == "real":
        need("incidents")
        need("traces")
    rows = [row for figure in figures[name] for row in figure()]
    assert rows
    missed = [f"{row.figure} {row.what}: expected {row.expected}, got {row.got}" for row in rows if not row.holds]
    assert not missed, "\n" + "\n".join(missed)


@pytest.mark.parametrize("name", SHORT)
def test_short_figure(name: str) -> None:
    holds(SHORT, name)


@pytest.mark.torture
@pytest.mark.parametrize("name", FULL)
def test_full_figure(name: str) -> None:
    holds(FULL, name)
