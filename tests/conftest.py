"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Equal examples in every run, however slow the machine: a failure repeats, and a merge does not depend on the dice.
# New examples: pytest --hypothesis-profile=default --hypothesis-seed=N
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
