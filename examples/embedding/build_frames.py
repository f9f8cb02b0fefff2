"""Build the frames of this example: what a simulation came across, and what is known already.

    python build_frames.py

Rattled structures stand in for molecular dynamics, so that nothing but ASE is needed.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.cluster import Octahedron
from ase.io import write


def rattled(atoms: Atoms, stdev: float, seed: int) -> Atoms:
    """A copy with every atom displaced at random, Å."""
    moved = atoms.copy()
    moved.rattle(stdev, seed=seed)
    return moved


def known(cells: list[Atoms], stdev: float, copies: int) -> list[Atoms]:
    """Small structures of the same kind, each rattled several times."""
    return [rattled(cell, stdev, seed) for cell in cells for seed in range(copies)]


def silica() -> Atoms:
    """The conventional cell of beta-cristobalite, 24 atoms."""
    silicon = bulk("Si", cubic=True, a=7.16)
    fractional = silicon.get_scaled_positions()
    steps = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / 8
    oxygen = [(fractional[i] + step) % 1.0 for i in range(0, 8, 2) for step in steps]
    return Atoms("Si8O16", scaled_positions=[*fractional, *oxygen], cell=silicon.cell, pbc=True)


def slab(size: tuple[int, int, int]) -> Atoms:
    """Aluminum (111) with 7 Å of vacuum on both sides."""
    made = fcc111("Al", size, a=4.05, orthogonal=True, vacuum=7.0)
    made.pbc = True
    made.info.clear()  # what ASE notes of the surface is nothing that a file could hold
    return made


def in_gas(length: int, cutoff: int, molecules: int, box: float, seed: int) -> Atoms:
    """An iridium particle with nitrogen, hydrogen and ammonia around it."""
    rng = np.random.default_rng(seed)
    made = Octahedron("Ir", length, cutoff=cutoff)
    made.set_cell([box] * 3)
    made.center()
    made.pbc = True
    tree = made.copy()
    names = ["N2", "H2", "NH3"]
    while molecules:
        gas = molecule(names[molecules % 3])
        gas.euler_rotate(*rng.uniform(0, 180, 3))
        gas.translate(rng.uniform(0, box, 3) - gas.positions.mean(axis=0))
        trial = tree + gas
        trial.pbc = True
        distances = trial.get_all_distances(mic=True)[len(tree) :, : len(tree)]
        if distances.min() > 2.2:
            tree, molecules = trial, molecules - 1
    tree.wrap()
    return tree


def main() -> None:
    lithium = bulk("Li", cubic=True, a=3.49)
    frame = rattled(lithium.repeat(7), 0.10, 1)
    middle = int(np.argmin(np.linalg.norm(frame.positions - frame.cell.sum(axis=0) / 2, axis=1)))
    neighbor = int(np.argsort(frame.get_distances(middle, range(len(frame)), mic=True))[1])
    del frame[middle]
    neighbor -= neighbor > middle
    write("lithium.extxyz", frame)
    write("lithium_known.extxyz", known([lithium.repeat(3)], 0.10, 10))
    print(f"lithium.extxyz: {len(frame)} atoms, a vacancy beside atom {neighbor}")

    frame = rattled(silica().repeat(3), 0.12, 1)
    write("silica.extxyz", frame)
    write("silica_known.extxyz", known([silica().repeat(2)], 0.12, 6))
    print(f"silica.extxyz: {len(frame)} atoms")

    frame = slab((8, 8, 6))
    add_adsorbate(frame, "Al", height=2.3, position=frame.positions[np.argmax(frame.positions[:, 2]), :2] + (0, 1.65))
    frame = rattled(frame, 0.08, 1)
    frame.info.clear()
    top = len(frame) - 1
    write("slab.extxyz", frame)
    write("slab_known.extxyz", known([slab((4, 4, 6))], 0.08, 8))
    print(f"slab.extxyz: {len(frame)} atoms, atom {top} sits on the surface")

    frame = rattled(in_gas(7, 2, 24, 34.0, 1), 0.05, 1)
    nitrogen = int(np.flatnonzero(frame.numbers == 7)[0])
    write("particle.extxyz", frame)
    write("particle_known.extxyz", known([in_gas(5, 1, 18, 24.0, seed) for seed in range(30)], 0.05, 1))
    print(f"particle.extxyz: {len(frame)} atoms, atom {nitrogen} is nitrogen in the gas")


if __name__ == "__main__":
    main()
