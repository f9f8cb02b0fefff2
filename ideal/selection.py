"""Which atoms of a frame earn a label.

Candidates are the atoms above the threshold. They are taken one after another, up to ``max_per_frame`` cells; a taken
atom is joined by the candidates (in their order) that share its cell: all of them lie within ``merge`` of
their middle, around which the cell will be cut. An atom closer than ``min_distance`` to a taken one is left out: most
of its environment is in that cell. Which one comes next is the strategy's:

    uncertainty   the most uncertain one
    variance      the most uncertain one after a copy of the distribution has been conditioned on what was taken
                  before: the environments within `LEARNED_RADIUS` of the cell's middle (an exact update of rank k), and
                  the candidates are scored again. Atoms that have become known drop out: repeats of what was taken do,
                  however large the distribution is. This is the greedy maximization of the posterior's determinant
                  (Zaverkin et al., npj Comput. Mater. 10, 83, 2024, doi:10.1038/s41524-024-01254-1), with the
                  distance that the run uses anyway as the prior and the threshold as the noise.
    farthest      the one farthest in position from all taken before, the most uncertain first
    random        drawn uniformly, for comparison; the same seed and frame give the same draw

Where several trajectories ask at once, "variance" chooses over all of them: each frame is told what was taken from the
others before and is not learned yet (`Pending`), so that equal environments of many trajectories are labelled once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import ArrayLike

from ideal.config import SelectionConfig
from ideal.errors import UncertaintyError
from ideal.records import BoolArray, FloatArray, Frame, IntArray, Selection

LEARNED_RADIUS = 4.0
"""Environments within this distance (Å) of a cell's middle are what its core will teach."""


class UpdatableUncertainty(Protocol):
    """What the strategy "variance" needs (`ideal.uncertainty.mahalanobis.SoapMahalanobis` has it)."""

    def atomic(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> FloatArray:
        """u of the centers."""
        ...

    def condition(self, atoms: Atoms, mask: np.ndarray, noise: float) -> None:
        """Learn the environments of a structure that the mask names, so that repeats fall below the noise."""
        ...

    def copy(self) -> Self:
        """An independent copy."""
        ...


@dataclass(frozen=True)
class Pending:
    """Environments that were taken elsewhere and will be learned.

    Attributes:
        atoms: a frame or an embedded cell.
        mask: (n_atoms,) which of its environments the label will teach.
    """

    atoms: Atoms
    mask: BoolArray

    @classmethod
    def around(cls, atoms: Atoms, centers: Sequence[int], radius: float = LEARNED_RADIUS) -> Pending:
        """The environments within a distance (Å) of the middle of some atoms, around which a cell will be cut."""
        offsets, _ = find_mic(atoms.positions[list(centers)] - atoms.positions[centers[0]], atoms.cell, atoms.pbc)
        middle = atoms.positions[centers[0]] + offsets.mean(axis=0)
        return cls(atoms, _distances(atoms, middle, np.arange(len(atoms))) < radius)


def select(
    frame: Frame,
    u: ArrayLike,
    threshold: float,
    config: SelectionConfig,
    uncertainty: UpdatableUncertainty | None = None,
    seed: int = 0,
    pending: Sequence[Pending] = (),
) -> Selection:
    """Choose the atoms of ``frame`` to embed and label.

    Args:
        frame: any cell, any periodicity; distances are minimum-image ones.
        u: (n_atoms,) uncertainty; infinite for a species that was never seen (comes first).
        threshold: atoms with ``u`` above it count as uncertain.
        config: how many, how far apart, by which strategy.
        uncertainty: the distribution that gave ``u``; it is copied, never changed. Without it "variance" is the same as
            "uncertainty".
        seed: of the strategy "random".
        pending: taken from other frames and not learned yet; of an effect with the strategy "variance" alone.

    Returns:
        The selection in the order of choice (ties: lower index first); empty when no atom is above the threshold,
        filled up with atoms above ``config.fill`` times the threshold when one is. Atoms that are known once what
        is pending was learned do not count.

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
    values = _checked(frame, u)
    learned = None
    scores = values
    if pending and config.strategy == "variance" and uncertainty is not None and (values > threshold).any():
        learned = uncertainty.copy()
        for other in pending:
            learned.condition(other.atoms, other.mask, threshold)
        scores = np.minimum(values, learned.atomic(frame.atoms))
    asks = bool((scores > threshold).any())
    least = config.fill * threshold
    candidates = np.flatnonzero(scores > least) if asks else np.empty(0, dtype=np.int64)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    if config.strategy == "random":
        candidates = _generator(frame, seed).permutation(candidates)
    cells: list[list[int]] = []
    current = scores[candidates]
    nearest = np.full(len(candidates), np.inf)
    while candidates.size and len(cells) < config.max_per_frame:
        position = int(np.argmax(nearest)) if config.strategy == "farthest" and cells else 0
        cell, middle = _shared(frame.atoms, int(candidates[position]), candidates, config.merge)
        cells.append(cell)
        for taken in cell:
            nearest = np.minimum(nearest, _distances(frame.atoms, frame.atoms.positions[taken], candidates))
        keep = (nearest >= config.min_distance) & ~np.isin(candidates, cell)
        if config.strategy == "variance" and uncertainty is not None and keep.any():
            if len(cells) == config.max_per_frame:
                break
            learned = learned or uncertainty.copy()
            _learn(learned, frame.atoms, middle, threshold)
            current[keep] = learned.atomic(frame.atoms, candidates[keep])
            keep &= current > least
        candidates, nearest, current = candidates[keep], nearest[keep], current[keep]
        if config.strategy == "variance":
            order = np.argsort(-current, kind="stable")
            candidates, nearest, current = candidates[order], nearest[order], current[order]
    return Selection(
        frame=frame,
        indices=np.array([cell[0] for cell in cells], dtype=np.int64),
        u=values,
        threshold=float(threshold),
        cells=tuple(tuple(cell) for cell in cells),
    )


def _shared(atoms: Atoms, first: int, candidates: IntArray, merge: float) -> tuple[list[int], FloatArray]:
    """The candidates that share a cell with ``first``, which leads them, and their middle (3,).

    Each is taken in as it comes, where all of the cell stay within ``merge`` (Å) of the middle then.
    """
    origin = atoms.positions[first]
    cell, vectors = [first], np.zeros((1, 3))
    if merge > 0:
        offsets, distances = find_mic(atoms.positions[candidates] - origin, atoms.cell, atoms.pbc)
        for k in np.flatnonzero((distances <= 2 * merge) & (candidates != first)):
            grown = np.vstack([vectors, offsets[k]])
            if np.linalg.norm(grown - grown.mean(axis=0), axis=1).max() <= merge:
                cell.append(int(candidates[k]))
                vectors = grown
    return cell, origin + vectors.mean(axis=0)


def _checked(frame: Frame, u: ArrayLike) -> FloatArray:
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
            "number; check the frame for positions or a cell that are not finite"
        )
    return values


def _distances(atoms: Atoms, place: FloatArray, others: IntArray) -> FloatArray:
    """Minimum-image distances (n,) of atoms from a place, Å."""
    _, distances = find_mic(atoms.positions[others] - place, atoms.cell, atoms.pbc)
    return np.asarray(distances)


def _learn(learned: UpdatableUncertainty, atoms: Atoms, middle: FloatArray, threshold: float) -> None:
    """Let the copy know the environments that a cell around ``middle`` will teach."""
    near = _distances(atoms, middle, np.arange(len(atoms))) < LEARNED_RADIUS
    learned.condition(atoms, near, threshold)


def _generator(frame: Frame, seed: int) -> np.random.Generator:
    """The same draws for the same seed and frame, whatever was drawn before."""
    name = f"{frame.trajectory}/{frame.step}".encode()
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name).digest()[:8], "little")])
