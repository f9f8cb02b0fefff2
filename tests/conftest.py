"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before anything loads torch or BLAS: the processes of `pytest -n` share the cores, and threads add in any order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Equal examples in every run, however slow the machine: a failure repeats, and a merge does not depend on the dice.
# New examples: pytest --hypothesis-profile=default --hypothesis-seed=N
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
