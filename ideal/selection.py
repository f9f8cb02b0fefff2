"""Which atoms of a frame earn a label.

Greedy: the most uncertain atom above the threshold is taken first, then the next most uncertain one that is at least
``min_distance`` away from all taken before (nearer atoms share an environment, so that one label serves both), up to
``max_per_frame``.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import find_mic
from numpy.typing import ArrayLike

from ideal.config import SelectionConfig
from ideal.errors import UncertaintyError
from ideal.records import Frame, Selection


def select(frame: Frame, u: ArrayLike, threshold: float, config: SelectionConfig) -> Selection:
    """Choose the atoms of ``frame`` to embed and label.

    Args:
        frame: any cell, any periodicity; distances are minimum-image ones.
        u: (n_atoms,) uncertainty; infinite for a species that was never seen (comes first).
        threshold: atoms with ``u`` above it count as uncertain.
        config: how many, how far apart.

    Returns:
        The selection, the most uncertain first (ties: lower index first); empty when no atom is above the threshold,
        filled up with atoms above ``config.fill`` times the threshold when one is.

    Raises:
        UncertaintyError: ``u`` has another length than the frame, or is not a number somewhere.

    Example:
        >>> from ase.build import bulk
        >>> frame = Frame(bulk("Li", cubic=True).repeat(4), "md", step=0)
        >>> u = np.ones(128)
        >>> u[[3, 70]] = 5.0, 9.0
        >>> select(frame, u, threshold=2.0, config=SelectionConfig()).indices.tolist()
        [70, 3]
    """
    values = np.asarray(u, dtype=np.float64)
    n_atoms = len(frame.atoms)
    if values.shape != (n_atoms,):
        raise UncertaintyError(
            f"uncertainty of shape {values.shape} for a frame of {n_atoms} atoms: give one value per atom, ({n_atoms},)"
        )
    undefined = np.flatnonzero(np.isnan(values))
    if undefined.size:
        raise UncertaintyError(
            f"trajectory {frame.trajectory!r}, step {frame.step}: the uncertainty of atom {undefined[0]} is not a "
            "number; "
            "check the frame for positions or a cell that are not finite"
        )
    asks = bool((values > threshold).any())
    candidates = np.flatnonzero(values > config.fill * threshold) if asks else np.empty(0, dtype=np.int64)
    candidates = candidates[np.argsort(-values[candidates], kind="stable")]
    chosen: list[int] = []
    while candidates.size and len(chosen) < config.max_per_frame:
        first = candidates[0]
        chosen.append(int(first))
        candidates = candidates[1:]
        vectors = frame.atoms.positions[candidates] - frame.atoms.positions[first]
        if candidates.size:
            _, distances = find_mic(vectors, frame.atoms.cell, frame.atoms.pbc)
            candidates = candidates[distances >= config.min_distance]
    return Selection(frame=frame, indices=np.array(chosen, dtype=np.int64), u=values, threshold=float(threshold))
