"""Real structures for the embedding's tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, fcc211, make_supercell, molecule
from ase.cluster import Octahedron
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal


def rattled(atoms: Atoms, stdev: float, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(stdev, seed=seed)
    return atoms


def twist_boundary(element: str = "Cu") -> Atoms:
    """Two (001) twist boundaries, Σ5, of a face-centered cubic metal, 960 atoms."""
    cell = bulk(element, cubic=True)
    grains = []
    for sign in (1, -1):
        grain = make_supercell(cell, [[2, sign, 0], [-sign, 2, 0], [0, 0, 3]])
        angle = np.degrees(np.arctan2(grain.cell[0, 1], grain.cell[0, 0]))
        grain.rotate(-angle, "z", rotate_cell=True)
        grains.append(grain.repeat((3, 3, 1)))
    low, high = grains
    height = low.cell[2, 2]
    high.positions[:, 2] += height
    cell = low.cell.array.copy()
    cell[2, 2] = 2 * height
    both = Atoms(
        np.concatenate([low.numbers, high.numbers]),
        positions=np.concatenate([low.positions, high.positions]),
        cell=cell,
        pbc=True,
    )
    both.wrap()
    return both


def alumina(repeat: tuple[int, int, int]) -> Atoms:
    """Corundum in its hexagonal cell."""
    basis = [(0, 0, 0.352), (0.306, 0, 0.25)]
    return crystal(["Al", "O"], basis, spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120]).repeat(repeat)


def screw_dislocation() -> Atoms:
    """A screw dislocation along [001] of a body-centered cubic metal, in a cylinder."""
    atoms = bulk("Fe", cubic=True).repeat((14, 14, 4))
    middle = atoms.cell.lengths()[:2] / 2 + 0.7
    x, y = (atoms.positions[:, :2] - middle).T
    atoms.positions[:, 2] += atoms.cell[2, 2] / 4 * np.arctan2(y, x) / (2 * np.pi)
    atoms = atoms[np.hypot(x, y) < 19.0]
    atoms.pbc = (False, False, True)
    return atoms


def water(n: int, seed: int) -> Atoms:
    """n³ molecules on a loose grid, turned at random."""
    rng = np.random.default_rng(seed)
    liquid = Atoms(cell=[3.2 * n] * 3, pbc=True)
    for corner in np.ndindex(n, n, n):
        one = molecule("H2O")
        one.positions -= one.positions.mean(axis=0)
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += 3.2 * (np.array(corner) + 0.5) + rng.normal(0, 0.1, 3)
        liquid += one
    return liquid


def ammonia_on_iridium(repeat: int = 7, seed: int = 0) -> Atoms:
    """An Ir(111) slab with ammonia, atomic hydrogen and nitrogen on it, and nitrogen and hydrogen gas above."""
    rng = np.random.default_rng(seed)
    slab = fcc111("Ir", (repeat, repeat + repeat % 2, 4), orthogonal=True, periodic=True, vacuum=8.0)
    for species, height, x, y in (("NH3", 2.1, 6.0, 6.0), ("H", 1.0, 2.0, 9.0), ("N", 1.2, 10.0, 3.0)):
        adsorbate = molecule(species) if len(species) > 1 else Atoms(species)
        if species == "NH3":
            adsorbate.rotate(180, "x")
        add_adsorbate(slab, adsorbate, height, position=(x, y))
    for k, species in enumerate(("N2", "H2", "H2", "N2")):
        gas = molecule(species)
        gas.rotate(rng.uniform(0, 360), rng.normal(size=3))
        top = slab.positions[slab.numbers == 77, 2].max()
        gas.positions += (3.0 + 4.0 * k, 3.0 + 3.5 * k, top + 4.0)
        slab += gas
    slab.rattle(0.03, seed=seed)
    return slab


def particle_in_gas(seed: int = 0) -> Atoms:
    """An octahedral iridium particle of 405 atoms in a periodic box with ammonia around it."""
    rng = np.random.default_rng(seed)
    particle = Octahedron("Ir", 9, cutoff=3)
    particle.center(vacuum=9.0)
    particle.pbc = True
    lengths = particle.cell.lengths()
    corners = [(0.1, 0.1, 0.1), (0.9, 0.15, 0.1), (0.12, 0.9, 0.88), (0.5, 0.5, 0.06), (0.08, 0.5, 0.5)]
    for corner in corners:
        gas = molecule("NH3")
        gas.rotate(rng.uniform(0, 360), rng.normal(size=3))
        gas.positions += np.array(corner) * lengths
        particle += gas
    particle.rattle(0.03, seed=seed)
    return particle


def stepped_surface() -> Atoms:
    """A (211) surface: monatomic steps."""
    return fcc211("Cu", (6, 6, 4), vacuum=8.0, orthogonal=True)


def quartz(repeat: tuple[int, int, int]) -> Atoms:
    """α-quartz in its hexagonal cell."""
    basis = [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2142)]
    return crystal(["Si", "O"], basis, spacegroup=152, cellpar=[4.916, 4.916, 5.405, 90, 90, 120]).repeat(repeat)


def polycrystal(element: str = "Cu", length: float = 23.0, n_grains: int = 3, seed: int = 4) -> Atoms:
    """Grains of a face-centered cubic metal, turned at random, in the Voronoi cells of as many points."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, length, (n_grains, 3))
    block = bulk(element, cubic=True).repeat(14)
    images = length * np.array(list(np.ndindex(3, 3, 3))) - length
    found = []
    for k, own in enumerate(seeds):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        points = (block.positions - block.positions.mean(axis=0)) @ turn + own
        everything = (seeds[:, None] + images[None]).reshape(-1, 3)
        distance = np.linalg.norm(points[:, None] - everything[None], axis=2)
        found.append(points[np.argmin(distance, axis=1) == 27 * k + 13])
    atoms = Atoms(f"{element}{sum(map(len, found))}", positions=np.concatenate(found), cell=[length] * 3, pbc=True)
    atoms.wrap()
    return without_overlaps(atoms, 2.2)


def without_overlaps(atoms: Atoms, shortest: float) -> Atoms:
    """The atoms without the later one of every pair closer than ``shortest`` (Å)."""
    first, second = neighbor_list("ij", atoms, shortest)
    gone: set[int] = set()
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if i < j and i not in gone:
            gone.add(j)
    return atoms[[k for k in range(len(atoms)) if k not in gone]]


def solution(n: int, seed: int) -> Atoms:
    """Water with a methanol molecule every 27 or so."""
    liquid = water(n, seed)
    chosen = [k for k in range(n**3) if k % 27 == 13]
    rng = np.random.default_rng(seed)
    keep = np.ones(len(liquid), dtype=bool)
    solutes = Atoms()
    for k in chosen:
        keep[3 * k : 3 * k + 3] = False
        one = molecule("CH3OH")
        one.positions -= one.positions.mean(axis=0)
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += liquid.positions[3 * k : 3 * k + 3].mean(axis=0)
        solutes += one
    return liquid[keep] + solutes


DISORDERED = Path(__file__).parent / "data" / "disordered.npz"


def disordered(name: str) -> tuple[list[Atoms], Atoms]:
    """Small frames and a large one of molecular dynamics (`data/make.py`): amorphous Si or C, liquid SiO2."""
    with np.load(DISORDERED) as stored:

        def frames(kind: str) -> list[Atoms]:
            numbers, lengths = stored[f"{name}_{kind}_numbers"], stored[f"{name}_{kind}_lengths"]
            return [
                Atoms(numbers, positions=positions.astype(float), cell=lengths, pbc=True)
                for positions in stored[f"{name}_{kind}"]
            ]

        return frames("known"), frames("frame")[0]
