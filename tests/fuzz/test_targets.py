"""Every target of `targets` under Hypothesis: seeds with a few changes, short in `make check`, long in `make torture`.

Coverage-guided runs of the same targets are `make fuzz`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.fuzz.changes import changed
from tests.fuzz.targets import TARGETS

SHORT = settings(settings.get_profile("check"), max_examples=40)
LONG = settings(settings.get_profile("torture"), max_examples=3_000)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_right(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds(name: str) -> None:
    target = TARGETS[name]
    SHORT(given(changed(target.seeds(), target.words))(target.check))()


@pytest.mark.torture
@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_at_length(name: str) -> None:
    target = TARGETS[name]
    LONG(given(changed(target.seeds(), target.words))(target.check))()
