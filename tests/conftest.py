"""What every test shares: two Hypothesis profiles.

`check` (the default) draws the same examples on every run, so that a red build is red everywhere; `torture` draws new
ones and more of them. Choose with ``pytest --hypothesis-profile=torture``, as ``make torture`` does.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Both run on shared machines: a slow example is no finding, and a deadline would measure the neighbours.
settings.register_profile(
    "check", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "torture", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("check")
