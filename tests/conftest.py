"""What every test shares: two Hypothesis profiles, byte code that is kept, and a heap that is looked at once.

`check` (the default) draws the same examples on every run, so that a red build is red everywhere; `torture` draws new
ones and more of them. Choose with ``pytest --hypothesis-profile=torture``, as ``make torture`` does.
"""

from __future__ import annotations

import gc
import os
import sys

from hypothesis import HealthCheck, settings

# Some environments forbid byte code. Without it every worker rewrites every test file and each of some hundred
# processes compiles the proxy again: two fifths of a second each (`Makefile` says the same to itself).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Both run on shared machines: a slow example is no finding, and a deadline would measure the neighbours.
settings.register_profile(
    "check", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "torture", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("check")


def pytest_collection_finish() -> None:
    """What is there by now (SDKs, thousands of tests) stays to the end; no later look of the collector need pass it."""
    gc.collect()
    gc.freeze()
