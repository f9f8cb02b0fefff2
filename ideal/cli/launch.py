"""Whether ``ideal-run`` was started as one of several ranks by an MPI launcher, told without importing MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping

SIZES = {
    "PMI_RANK": "PMI_SIZE",
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "PMIX_RANK": "SLURM_STEP_NUM_TASKS",
}
"""Variables that launchers set in every rank (MPICH and its kin, Open MPI, MVAPICH, PMIx): its number, their number.

PMIx does not say how many there are; Slurm, which sets it also for a single task, does."""


def launched_ranks(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many ranks a launcher started: 1 without a launcher, None where it does not say.

    Example:
        >>> launched_ranks({"PMI_RANK": "2", "PMI_SIZE": "3"})
        3
        >>> launched_ranks({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "1"})
        1
    """
    for rank, size in SIZES.items():
        if rank in environment:
            return int(environment[size]) if size in environment else None
    return 1
