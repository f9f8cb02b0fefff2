"""Optimization of the filler: every filler atom's uncertainty below the threshold, and no further.

The objective is a hinge on each squared uncertainty, one on their mean over the n filler atoms, and a guard against
contacts,

    L = sum_i phi(u_i^2 - f_i; f_i) + n phi(<u^2> - m; 0.2 m) + k/2 sum_{pairs} max(0, 0.85 d_min - d_ij)^2,
    phi(x; w) = 0 for x < 0,    x^2 / 2 w  for x < w,    x - w / 2  beyond,

with f_i = (0.9 threshold)^2 and m = max(1, (0.45 threshold)^2) in a known state (`usual_mean_square`). A core atom
counts only beyond what it had in the frame: f_i is its own u^2 there, where that is larger. Without this term a core in
a small cell may meet its own image in ways that no frame shows.
phi rounds the hinge's corner. With the bare hinge the gradient jumps whenever an atom crosses f_i, and the estimate of
the Hessian is spoiled again and again: in hot SiO2 with a poor distribution 100 evaluations brought 10 % of the crops
below the threshold, with phi 47 %.

Minimizing the sum of all u^2, as the paper does, goes on where nothing is unknown any more: the forces on the filler
fall to half or three quarters of the frame's, and a model learns less from them. With the hinge only what exceeds the
threshold moves. The hinge on each atom alone errs the other way: it leaves the filler piled up just below the
threshold, hotter than any frame. So the mean is held to what the atoms of unseen frames of a known state have, and no
lower; where the frame itself is in a less known state (it has become hotter), to what it has around the center: colder
filler would teach another state.

Free are the filler's positions and, where asked, one scale per cut axis. The core keeps its positions
relative to the center, bit for bit; filler follows the cell affinely and is drawn back (k as above) from 1.5 Å on, lest
it leave a surface for good. L-BFGS, steps of at most 0.2 Å, stopped
as soon as all is well; an optimization can be continued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms

from ideal.embedding.composition import Crop
from ideal.embedding.descent import Descent
from ideal.embedding.distances import CONTACT, ShortestDistances, periodic_pairs
from ideal.records import FloatArray, IntArray

FLOOR = 0.9
"""u counts from this fraction of the threshold on."""

STOP = 0.95
"""The optimization ends when the largest u of the filler is below this fraction of the threshold."""

USUAL = 0.45
"""Root mean square of u in unseen frames of a known state, in thresholds (Li, Al, Si, SiO2: 0.41 to 0.47)."""

MEAN_WIDTH = 0.2
"""Width of the rounded corner of the hinge on the mean, as a fraction of its floor."""

MEAN_STOP = 1.05
"""The optimization ends when the mean of u² is below this times its floor, too."""

GUARD = 0.85
"""The guard acts below this fraction of the shortest training distance, a little above contact."""

GUARD_STIFFNESS = 50.0
"""k of the guard and of the tether, 1/Å² (u² has no unit)."""

TETHER = 1.5
"""Displacement (Å) from which a filler atom is drawn back: one far from everything has a u without gradient."""

MAX_STEP = 0.2
"""Largest displacement of an atom per step, Å."""

MAX_STRAIN = 0.08
"""Largest change of a cell vector, as a fraction of it."""

CORE_TOLERANCE = 1.5
"""A core atom's u may exceed its own value in the frame by this factor (or reach what filler may)."""


class FillerUncertainty(Protocol):
    """What the optimization needs of an uncertainty (`ideal.uncertainty.mahalanobis.SoapMahalanobis` has it)."""

    def atomic(self, atoms: Atoms, centers: IntArray | None = None) -> FloatArray:
        """u of the centers, of every atom by default."""
        ...

    def hinge(
        self,
        atoms: Atoms,
        floor: float | FloatArray,
        mask: FloatArray | None = None,
        width: float | FloatArray = 0.0,
    ) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """Value, gradient (n, 3), strain derivative (3, 3) of the hinge with its corner rounded, and u (n,)."""
        ...


@dataclass(frozen=True)
class Optimized:
    """A crop after its filler moved.

    Attributes:
        crop: the crop it started from.
        reference: (n,) u of the core atoms in the frame; 0 for filler.
        vectors: (n, 3) positions relative to the center, Å.
        cell: (3, 3) lattice vectors, Å.
        u: (n,) uncertainty of every atom.
        closest: smallest distance between two atoms, in units of the shortest known one.
        evaluations: how often the objective was evaluated.
    """

    crop: Crop
    reference: FloatArray
    vectors: FloatArray
    cell: FloatArray
    u: FloatArray
    closest: float
    evaluations: int

    @property
    def max_u(self) -> float:
        """Largest u of the filler."""
        return float(self.u[~self.crop.core].max(initial=0.0))

    def excess(self, limit: float) -> float:
        """Largest u in units of what is allowed: ``limit``, for core atoms also what the frame had."""
        return float((self.u / np.maximum(limit, CORE_TOLERANCE * self.reference)).max())

    @property
    def in_contact(self) -> bool:
        """Whether two atoms are closer to each other than contact allows."""
        return self.closest < CONTACT


@dataclass(frozen=True)
class _Point:
    """The objective at one set of parameters."""

    parameters: FloatArray
    value: float
    gradient: FloatArray
    result: Optimized


class FillerOptimization:
    """Moves the filler of a crop until its uncertainty is below ``STOP * threshold``.

    Args:
        crop: the crop; its core atoms stay.
        reference: (n,) u of the core atoms in the frame; 0 for filler.
        uncertainty: gives u, the hinge and its derivatives.
        threshold: the value of u that counts as known.
        shortest: shortest distances of the training set.
        strain: let the cut axes change their length too.
        start: begin at the end of an earlier optimization of the same crop (with the crop's own cell).
    """

    def __init__(
        self,
        crop: Crop,
        reference: FloatArray,
        uncertainty: FillerUncertainty,
        threshold: float,
        shortest: ShortestDistances,
        strain: bool = False,
        start: Optimized | None = None,
    ) -> None:
        self.crop, self.reference = crop, reference
        problem = _Problem(crop, reference, uncertainty, threshold, shortest, strain)
        self._descent = Descent(problem, problem.parameters(crop.vectors if start is None else start.vectors))

    def run(self, max_evaluations: int) -> Optimized:
        """Go on, to at most ``max_evaluations`` of the objective in all; the point of lowest objective so far."""
        return self._descent.run(max_evaluations).result

    @property
    def result(self) -> Optimized:
        """The point of lowest objective so far."""
        return self._descent.point.result

    @property
    def over(self) -> bool:
        """Whether going on would change nothing."""
        return self._descent.over


class _Problem:
    """Parameters -> cell -> objective. Parameters: filler displacements (Å), then weighted strains of the cut axes."""

    def __init__(
        self,
        crop: Crop,
        reference: FloatArray,
        uncertainty: FillerUncertainty,
        threshold: float,
        shortest: ShortestDistances,
        strain: bool,
    ) -> None:
        self.crop, self.uncertainty, self.threshold = crop, uncertainty, threshold
        self.reference = reference
        self.floor = np.maximum(FLOOR * threshold, reference) ** 2
        self.usual = usual_mean_square(reference[crop.core], threshold)
        self.free = np.flatnonzero(~crop.core)
        self.axes = np.flatnonzero(crop.cut) if strain else np.zeros(0, dtype=np.int64)
        # one unit of a strain parameter shall move the atoms about as much as one unit of all displacements
        self.weight = 2.0 * np.sqrt(len(crop))
        inverse = np.linalg.inv(crop.cell)
        self.generators = [np.outer(inverse[:, k], crop.cell[k]) for k in self.axes]
        self.cutoff = GUARD * shortest.longest(crop.numbers)
        self.limits = shortest.of(crop.numbers[:, None], crop.numbers[None, :])
        self.evaluations = 0

    def parameters(self, vectors: FloatArray) -> FloatArray:
        displacements = (vectors - self.crop.vectors)[self.free]
        return np.concatenate([displacements.ravel(), np.zeros(len(self.axes))])

    def evaluate(self, parameters: FloatArray) -> _Point:
        crop, free = self.crop, self.free
        displacements = parameters[: 3 * len(free)].reshape(-1, 3)
        strains = parameters[3 * len(free) :] / self.weight
        deformation = np.eye(3)
        for strain, generator in zip(strains, self.generators, strict=True):
            deformation += strain * generator
        vectors, cell = crop.vectors.copy(), crop.cell @ deformation
        vectors[free] = (crop.vectors[free] + displacements) @ deformation
        atoms = crop.atoms(vectors, cell)
        value, gradient, virial, u = self.uncertainty.hinge(atoms, self.floor, None, self.floor)
        surplus = _mean_square(u[free]) - self.usual
        if surplus > 0.0:
            width = MEAN_WIDTH * self.usual
            slope_of_mean = min(surplus / width, 1.0)
            value += len(free) * (0.5 * surplus * slope_of_mean if surplus < width else surplus - 0.5 * width)
            _, of_mean, virial_of_mean, _ = self.uncertainty.hinge(atoms, 0.0, np.where(crop.core, 0.0, slope_of_mean))
            gradient, virial = gradient + of_mean, virial + virial_of_mean
        guard, guard_gradient, guard_virial, closest = self._guard(vectors, cell)
        value, gradient, virial = value + guard, gradient + guard_gradient, virial + guard_virial
        self.evaluations += 1

        by_strain = []
        core = crop.core
        for strain, generator in zip(strains, self.generators, strict=True):
            everything = float((virial * generator).sum())
            frozen = float((gradient[core] * (vectors[core] @ generator)).sum())
            by_strain.append((everything - frozen) / (1.0 + strain) / self.weight)
        strayed = np.linalg.norm(displacements, axis=1)[:, None]
        beyond = np.maximum(strayed - TETHER, 0.0)
        value += 0.5 * GUARD_STIFFNESS * float((beyond**2).sum())
        drawn_back = GUARD_STIFFNESS * beyond / np.maximum(strayed, TETHER) * displacements
        slope = np.concatenate([(gradient[free] @ deformation.T + drawn_back).ravel(), by_strain])
        result = Optimized(crop, self.reference, vectors, cell, np.asarray(u), closest, self.evaluations)
        return _Point(parameters, float(value), slope, result)

    def _guard(self, vectors: FloatArray, cell: FloatArray) -> tuple[float, FloatArray, FloatArray, float]:
        """Value, gradient, strain derivative of the guard; smallest distance in units of the shortest known one."""
        # pairs of core atoms count too: across a seam a strain brings them together
        pairs = periodic_pairs(vectors, cell, self.crop.pbc, self.cutoff)
        first, second, distance, vector = pairs.first, pairs.second, pairs.distances, pairs.vectors
        limit = self.limits[first, second]
        closest = float((distance / limit).min(initial=np.inf))
        overlap = np.maximum(GUARD * limit - distance, 0.0)
        # every pair is listed twice, hence 1/4 in the value; i moves along -vector when the pair is pushed apart
        value = 0.25 * GUARD_STIFFNESS * float((overlap**2).sum())
        force = (GUARD_STIFFNESS * overlap / np.maximum(distance, 1e-9))[:, None] * vector
        gradient = np.zeros_like(vectors)
        np.add.at(gradient, first, force)
        virial = -0.5 * force.T @ vector
        return value, gradient, virial, closest

    def limit(self, parameters: FloatArray, step: FloatArray) -> float:
        """Largest factor (at most 1) by which ``step`` may be taken."""
        n = 3 * len(self.free)
        moved = float(np.linalg.norm(step[:n].reshape(-1, 3), axis=1).max(initial=0.0))
        # a strain is held to the displacement that it causes at the cell's faces
        lengths = np.linalg.norm(self.crop.cell[self.axes], axis=1)
        moved = max(moved, float(np.abs(step[n:] / self.weight * lengths).max(initial=0.0)))
        factor = min(1.0, MAX_STEP / moved) if moved > 0 else 1.0
        for now, change in zip(parameters[n:] / self.weight, step[n:] / self.weight, strict=True):
            room = MAX_STRAIN - now if change > 0 else MAX_STRAIN + now
            if abs(change) * factor > room:
                factor = max(room, 0.0) / abs(change)
        return factor

    def finished(self, point: _Point) -> bool:
        result = point.result
        usual = _mean_square(result.u[self.free]) < MEAN_STOP * self.usual
        return usual and result.excess(STOP * self.threshold) < 1.0 and not result.in_contact


def usual_mean_square(core: FloatArray, threshold: float) -> float:
    """Floor of the mean of u² of the filler.

    Args:
        core: (n,) u of the core atoms in the frame.
        threshold: the value of u that counts as known.

    Returns:
        that of a known state, or the median of the core's own u² where that is more (the median, since the center
        and its neighbors may be odd in a frame that is not), at most that of the hinge on each atom.
    """
    state = float(np.median(core**2)) if len(core) else 0.0
    return max(1.0, (USUAL * threshold) ** 2, min(state, (FLOOR * threshold) ** 2))


def _mean_square(u: FloatArray) -> float:
    """Mean of u² (0 for no atom)."""
    return float((u**2).sum()) / max(len(u), 1)


def smallest_room(crop: Crop, shortest: ShortestDistances) -> float:
    """Smallest distance of a filler atom of the crop to another atom, in units of the shortest known one."""
    pairs = periodic_pairs(crop.vectors, crop.cell, crop.pbc, GUARD * shortest.longest(crop.numbers))
    movable = ~(crop.core[pairs.first] & crop.core[pairs.second])
    limit = shortest.of(crop.numbers[pairs.first], crop.numbers[pairs.second])
    return float((pairs.distances / limit)[movable].min(initial=np.inf))
