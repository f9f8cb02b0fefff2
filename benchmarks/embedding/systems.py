"""The systems on which the success of the embedding is counted: bulk materials, slabs, a particle in gas.

Bulk and slabs come from molecular dynamics with the references; corundum and the iridium particle are rattled
structures, since nothing but u decides whether a cell is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import fcc111, molecule
from ase.cluster import Octahedron
from ase.spacegroup import crystal
from cells import known_frames, large_frames
from references import MATERIALS, dynamics, stored

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.embedding import minimum_distances

Frames = tuple[list[Atoms], Atoms]
"""The frames that the distribution knows, and the frame to be embedded."""


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: for tables.
        kind: "elemental", "compound or slab" or "particle in gas".
        goal: the share of cells that ought to be accepted.
        frames: makes or reads the frames.
        species: chemical symbols.
        descriptor: (n_max, l_max).
        chosen: atoms that may be centers, by atomic number; None: all. Half of the centers are drawn from them.
    """

    name: str
    kind: str
    goal: float
    frames: Callable[[Path], Frames]
    species: tuple[str, ...]
    descriptor: tuple[int, int] = (6, 4)
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Known:
    """What a system's distribution knows."""

    uncertainty: SoapMahalanobis
    threshold: float
    distances: dict[tuple[int, int], float]


def known(system: System, frames: list[Atoms]) -> Known:
    """Distribution of ``frames``, and the 99 % quantile of u of frames left out of it in three folds."""

    def distribution(some: list[Atoms]) -> SoapMahalanobis:
        n_max, l_max = system.descriptor
        made = SoapMahalanobis(SoapPowerSpectrum(list(system.species), r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5))
        made.update(some)
        return made

    held_out = [
        distribution([f for k, f in enumerate(frames) if k % 3 != fold]).atomic(frame)
        for fold in range(3)
        for frame in frames[fold::3]
    ]
    threshold = float(np.quantile(np.concatenate(held_out), 0.99))
    return Known(distribution(frames), threshold, minimum_distances(frames))


def _bulk(name: str) -> Callable[[Path], Frames]:
    def make(folder: Path) -> Frames:
        return known_frames(MATERIALS[name], folder), large_frames(MATERIALS[name], folder, 0)[-1]

    return make


def _slab(name: str, cell: Atoms, stage: tuple[float, float]) -> Callable[[Path], Frames]:
    material = replace(MATERIALS[name], stages=(stage,))

    def make(folder: Path) -> Frames:
        small = stored(
            folder / "frames" / f"{name}-slab_small.extxyz", lambda: dynamics(material, cell.repeat((2, 2, 1)), 10, 1)
        )
        large = stored(
            folder / "frames" / f"{name}-slab_large.extxyz", lambda: dynamics(material, cell.repeat((4, 4, 1)), 1, 10)
        )
        return small, large[-1]

    return make


def _aluminum_slab() -> Atoms:
    slab = fcc111("Al", (3, 4, 6), a=4.1, orthogonal=True, vacuum=8.0)
    slab.pbc = True
    return slab


def _silica_slab() -> Atoms:
    slab = MATERIALS["SiO2"].cell.repeat((1, 1, 2))
    slab.center(vacuum=8.0, axis=2)
    return slab


def _corundum(folder: Path) -> Frames:
    cell = crystal(
        ["Al", "O"],
        [(0, 0, 0.35216), (0.30624, 0, 0.25)],
        spacegroup=167,
        cellpar=[4.7589, 4.7589, 12.9911, 90, 90, 120],
    )
    return [_rattled(cell.repeat((2, 2, 1)), 0.12, seed) for seed in range(1, 11)], _rattled(
        cell.repeat((5, 5, 2)), 0.12, 0
    )


def _rattled(atoms: Atoms, size: float, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(size, seed=seed)
    return atoms


def _particle(length: int, cutoff: int, n_gas: int, seed: int) -> Atoms:
    """An iridium octahedron with N, H, NH and NH2 on it, in a box of ammonia, nitrogen and hydrogen."""
    rng = np.random.default_rng(seed)
    particle = Octahedron("Ir", length, cutoff=cutoff)
    particle.center(vacuum=8.0)
    particle.pbc = True
    middle = particle.cell.lengths() / 2
    metal = particle.positions.copy()
    for adsorbate in ("N", "H", "NH", "NH2") * (n_gas // 4):
        # outward from an atom of the surface in a random direction, until the bond length is reached
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        one = Atoms("N") if adsorbate == "N" else Atoms("H") if adsorbate == "H" else molecule(adsorbate)
        one.positions -= one.positions[0]
        one.rotate(rng.uniform(0, 360), direction)
        distance = 1.7 if adsorbate == "H" else 2.0
        for reach in np.arange(2.0, 20.0, 0.05):
            place = one.positions + middle + reach * direction
            nearest = np.linalg.norm(metal[:, None] - place[None], axis=2).min()
            others = particle.positions[len(metal) :]
            room = np.linalg.norm(others[:, None] - place[None], axis=2).min(initial=np.inf)
            if nearest > distance and room > 2.0:
                one.positions = place
                particle += one
                break
    lengths = particle.cell.lengths()
    wanted = ("NH3", "N2", "H2") * (n_gas // 3)
    for name in wanted:
        gas = molecule(name)
        gas.positions -= gas.positions.mean(axis=0)
        for _ in range(200):
            gas.rotate(rng.uniform(0, 360), rng.normal(size=3))
            trial = particle + Atoms(gas.numbers, positions=gas.positions + rng.uniform(0, 1, 3) * lengths)
            own = np.arange(len(particle), len(trial))
            nearest = min(trial.get_distances(int(k), range(len(particle)), mic=True).min() for k in own)
            if nearest > 2.6:
                particle = trial
                break
    size = np.where(particle.numbers == 77, 0.12, 0.05)[:, None]
    particle.positions += size * rng.normal(size=(len(particle), 3))
    return particle


def _particles(folder: Path) -> Frames:
    small = stored(
        folder / "frames" / "IrNH_small.extxyz", lambda: [_particle(6, 1, 18, seed) for seed in range(1, 13)]
    )
    large = stored(folder / "frames" / "IrNH_large.extxyz", lambda: [_particle(10, 3, 36, 0)])
    return small, large[0]


SYSTEMS = {
    s.name: s
    for s in (
        System("Li, hot solid", "elemental", 0.95, _bulk("Li"), ("Li",)),
        System("Al, hot solid", "elemental", 0.95, _bulk("Al"), ("Al",)),
        System("Si, hot amorphous", "elemental", 0.95, _bulk("Si"), ("Si",)),
        System("SiO2, liquid", "compound or slab", 0.90, _bulk("SiO2"), ("Si", "O")),
        System("Al2O3, rattled corundum", "compound or slab", 0.90, _corundum, ("Al", "O")),
        System("Al(111) slab, 600 K", "compound or slab", 0.90, _slab("Al", _aluminum_slab(), (600.0, 2.0)), ("Al",)),
        System(
            "SiO2 slab, 1500 K", "compound or slab", 0.90, _slab("SiO2", _silica_slab(), (1500.0, 3.0)), ("Si", "O")
        ),
        System(
            "Ir particle in N2, H2, NH3",
            "particle in gas",
            0.80,
            _particles,
            ("Ir", "N", "H"),
            (3, 3),
            (1, 7),
        ),
    )
}
