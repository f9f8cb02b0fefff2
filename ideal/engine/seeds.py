"""Random seeds: one independent stream per (seed of the run, purpose, trajectory, step, atom).

A stream that is derived instead of shared makes a replay after a crash draw the same numbers whatever was drawn before.
"""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(seed: int, purpose: str, trajectory: str = "", step: int = 0, atom: int = 0) -> int:
    """A seed of 63 bits for one purpose.

    Args:
        seed: the run's seed.
        purpose: what it is for, such as "embedding".
        trajectory: name of the trajectory, empty for the run itself.
        step: MD step.
        atom: index of the atom.

    Example:
        >>> derive_seed(0, "embedding", "md", 10, 3) == derive_seed(0, "embedding", "md", 10, 4)
        False
    """
    entropy = (seed, zlib.crc32(purpose.encode()), zlib.crc32(trajectory.encode()), step, atom)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
