"""The ways to make training cells around an atom of a large frame that the ablation compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from references import Material, Reference

from ideal import SoapMahalanobis
from ideal.config import EmbeddingConfig
from ideal.embedding import embed, filler
from ideal.embedding.composition import Crop, build_crop
from ideal.embedding.crop import FrameView
from ideal.embedding.distances import ShortestDistances, periodic_pairs


@dataclass(frozen=True)
class Setting:
    """What every arm is given.

    Attributes:
        material: the reference.
        known: distribution of the target state.
        threshold: its held-out 99 % quantile.
        distances: shortest distances of the known frames.
        r_core: Å.
        margin: Å.
        growth: attempts with larger cells.
    """

    material: Material
    known: SoapMahalanobis
    threshold: float
    distances: dict[tuple[int, int], float]
    r_core: float = 4.0
    margin: float = 3.0
    growth: int = 1

    @property
    def config(self) -> EmbeddingConfig:
        return EmbeddingConfig(r_core=self.r_core, margin=self.margin, growth_attempts=self.growth, young_factor=1.0)


@dataclass(frozen=True)
class Cell:
    """A training cell; ``accepted``: all filler below the threshold, formula kept, no contact."""

    atoms: Atoms
    core: np.ndarray
    center: int
    accepted: bool


Arm = Callable[[Setting, Atoms, int, np.random.Generator], Cell]


def sphere_in_vacuum(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """The core sphere with 10 Å of vacuum."""
    vectors = frame.get_distances(index, np.arange(len(frame)), mic=True, vector=True)
    near = np.flatnonzero((vectors**2).sum(axis=1) < setting.r_core**2)
    atoms = Atoms(frame.numbers[near], positions=vectors[near])
    atoms.center(vacuum=5.0)
    atoms.pbc = True
    return Cell(atoms, np.ones(len(near), dtype=bool), int(np.flatnonzero(near == index)[0]), False)


def _random_crop(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator, n: int = 50) -> Crop:
    """The paper's first step: the least uncertain of ``n`` crops with random faces, contacts removed."""
    shortest = ShortestDistances(setting.distances)
    view = FrameView(frame, index, float(setting.known.soap.support)).surroundings(
        setting.r_core, setting.margin, 10**6
    )
    best, least = None, np.inf
    for _ in range(n):
        lo = -setting.r_core - rng.uniform(0, setting.margin, 3)
        hi = setting.r_core + rng.uniform(0, setting.margin, 3)
        crop = build_crop(view, lo, hi, shortest, None, fill=False)
        if crop is None or crop.core.all():
            continue
        total = float((setting.known.atomic(crop.atoms())[~crop.core] ** 2).mean())
        if total < least:
            best, least = crop, total
    if best is None:
        raise RuntimeError(f"no random crop around atom {index} keeps its core apart")
    return best


def random_crop(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """The paper's first step alone."""
    crop = _random_crop(setting, frame, index, rng)
    return _judged(setting, crop.atoms(), crop.core, crop.center)


def paper(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """The paper: random crop, then the filler's positions minimize the total uncertainty (100 evaluations)."""
    crop = _random_crop(setting, frame, index, rng)
    known = setting.known
    free = ~crop.core

    def objective(vectors: np.ndarray) -> tuple[float, np.ndarray]:
        atoms = crop.atoms(vectors)
        value, gradient, _, _ = known.hinge(atoms, -1.0)  # a floor below zero: the plain sum
        return value, gradient

    vectors = _minimize(objective, crop.vectors, free)
    return _judged(setting, crop.atoms(vectors), crop.core, crop.center)


def ours(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """`ideal.embedding.embed`."""
    cell = embed(frame, index, setting.known, rng, setting.config, setting.threshold, min_distances=setting.distances)
    return Cell(cell.atoms, cell.core, cell.center, cell.accepted)


def hinge_alone(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """Ours without the bound on the filler's mean u²: only what exceeds the threshold is moved."""
    usual = filler.USUAL
    filler.USUAL = np.inf
    try:
        return ours(setting, frame, index, rng)
    finally:
        filler.USUAL = usual


def energy_relaxed(setting: Setting, frame: Atoms, index: int, rng: np.random.Generator) -> Cell:
    """Our seam-matched crop whose filler relaxes in the reference potential instead (30 evaluations)."""
    crop = embed(
        frame,
        index,
        setting.known,
        rng,
        setting.config.model_copy(update={"max_evaluations": 1, "growth_attempts": 0, "optimize_cell": False}),
        setting.threshold,
        min_distances=setting.distances,
    )
    if not crop.atoms.pbc.all():
        return Cell(crop.atoms, crop.core, crop.center, False)
    reference = Reference(setting.material)

    def objective(positions: np.ndarray) -> tuple[float, np.ndarray]:
        moved = crop.atoms.copy()
        moved.positions = positions
        label = reference.label(moved)
        return label.energy, -label.forces

    atoms = crop.atoms.copy()
    atoms.positions = _minimize(objective, crop.atoms.positions, ~crop.core, 30)
    return _judged(setting, atoms, crop.core, crop.center)


def _minimize(objective, start: np.ndarray, free: np.ndarray, evaluations: int = 100) -> np.ndarray:
    from scipy.optimize import minimize

    def flat(x: np.ndarray) -> tuple[float, np.ndarray]:
        positions = start.copy()
        positions[free] = x.reshape(-1, 3)
        value, gradient = objective(positions)
        return value, gradient[free].ravel()

    found = minimize(flat, start[free].ravel(), jac=True, method="L-BFGS-B", options={"maxfun": evaluations})
    result = start.copy()
    result[free] = found.x.reshape(-1, 3)
    return result


def _judged(setting: Setting, atoms: Atoms, core: np.ndarray, center: int) -> Cell:
    u = setting.known.atomic(atoms)
    accepted = bool(u[~core].max(initial=0.0) < setting.threshold) and _is_sound(setting, atoms)
    return Cell(atoms, core, center, accepted)


def _is_sound(setting: Setting, atoms: Atoms) -> bool:
    """Whether no atoms are in contact and the formula of the material is kept."""
    from ideal.embedding.distances import CONTACT

    shortest = ShortestDistances(setting.distances)
    pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.array), atoms.pbc, shortest.longest(atoms.numbers))
    touching = pairs.distances < CONTACT * shortest.of(atoms.numbers[pairs.first], atoms.numbers[pairs.second])
    counts = np.array([np.count_nonzero(atoms.numbers == z) for z in np.unique(setting.material.cell.numbers)])
    formula = np.array(
        [np.count_nonzero(setting.material.cell.numbers == z) for z in np.unique(setting.material.cell.numbers)]
    )
    return not touching.any() and len(set(counts / formula)) == 1


def small_cells(material: Material, count: int, seed: int) -> list[Atoms]:
    """Small-cell sampling: rattled and strained cells of 1 to 8 formula units, nothing cropped."""
    rng = np.random.default_rng(seed)
    made = []
    primitive = material.cell
    while len(made) < count:
        atoms = primitive.copy()
        if len(atoms) < 8 and rng.random() < 0.5:
            atoms = atoms.repeat([(1, 1, 1), (2, 1, 1), (2, 2, 1)][rng.integers(3)])
        strain = np.eye(3) + 0.06 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.positions += rng.normal(0, rng.uniform(0.05, 0.35), (len(atoms), 3))
        pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.array), atoms.pbc, 4.0)
        if (pairs.distances > ShortestDistances().of(atoms.numbers[pairs.first], atoms.numbers[pairs.second])).all():
            made.append(atoms)
    return made


ARMS: dict[str, Arm] = {
    "sphere in vacuum": sphere_in_vacuum,
    "random crop": random_crop,
    "paper": paper,
    "energy-relaxed filler": energy_relaxed,
    "hinge alone": hinge_alone,
    "ours": ours,
}

__all__ = ["ARMS", "Cell", "Setting", "small_cells"]
