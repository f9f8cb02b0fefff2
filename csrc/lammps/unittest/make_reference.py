"""Write the force-style tests of ``pair_style ideal`` in LAMMPS' own YAML form (``unittest/force-styles`` of its tree).

    python csrc/lammps/unittest/make_reference.py

makes ``model.safetensors`` (a small seeded M3GNet of lithium and oxygen), ``data.ideal`` and ``data.ideal-real`` (54
moving atoms in a triclinic box, in two systems of units) and one YAML file for each case. Energies, forces and virials
are those of the Python program in float64, before and behind four steps of velocity Verlet; LAMMPS has no part in them.

LAMMPS' own tester takes the files as they are: set LAMMPS_PLUGIN_PATH to the folder of ``idealplugin.so`` and run
``test_pair_style pair-ideal.yaml`` in this folder. ``tests/lammps_plugin/test_force_styles.py`` does what the tester
does without LAMMPS' build tree.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from ideal.config import ModelConfig
from ideal.models.m3gnet import M3GNetPotential

HERE = Path(__file__).resolve().parent
KCAL = 23.060549  # kcal/mol per eV, LAMMPS' constant
STEPS, TIMESTEP = 4, 1.0 * units.fs
EPSILON = "2e-4"  # relative, of every number: what float32 leaves of the smallest force components


@dataclass(frozen=True)
class Case:
    """One YAML file.

    Attributes:
        units: of LAMMPS.
        style: words behind ``pair_style``.
        coefficients: lines of ``pair_coeff``.
        elements: those that the network sees.
    """

    units: str
    style: str
    coefficients: tuple[str, ...]
    elements: tuple[str, ...]


CASES = {
    "pair-ideal": Case("metal", "ideal", ("* * ${input_dir}/model.safetensors Li O",), ("Li", "O")),
    "pair-ideal-real": Case("real", "ideal", ("* * ${input_dir}/model.safetensors Li O",), ("Li", "O")),
    "pair-ideal-hybrid": Case(
        "metal",
        "hybrid/overlay zero 6.0 ideal",
        ("* * zero", "* * ideal ${input_dir}/model.safetensors Li NULL"),
        ("Li",),
    ),
}


def structure() -> Atoms:
    """Two species in a triclinic box in LAMMPS' orientation, with velocities."""
    atoms = bulk("Li", "bcc", a=3.4, cubic=True) * (3, 3, 3)
    atoms.symbols[::6] = "O"
    atoms.set_cell(atoms.cell.array + np.array([[0, 0, 0], [0.4, 0, 0], [-0.3, 0.5, 0]]), scale_atoms=True)
    atoms.rattle(0.25, seed=3)
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(4))
    return atoms


def model() -> M3GNetPotential:
    """Two blocks of eight units."""
    config = ModelConfig(n_blocks=2, units=8, max_n=2, max_l=3, cutoff=4.5, threebody_cutoff=4.0, device="cpu")
    potential = M3GNetPotential.new(config, ["Li", "O"], seed=1)
    potential.set_normalization({"Li": -1.9, "O": -4.5}, energy_scale=20.0)
    return potential


def block(name: str, lines: Iterable[str]) -> str:
    return f"{name}: ! |2\n" + "".join(f"  {line}\n" for line in lines)


def numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value: .16e}" for value in values)


def evaluate(atoms: Atoms, potential: M3GNetPotential, case: Case) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), virial (xx yy zz xy xz yz, eV) and forces (eV/Å); zero forces on atoms that the network does not
    see."""
    seen = np.isin(atoms.get_chemical_symbols(), case.elements)
    result = potential.evaluate(atoms[seen])
    forces = np.zeros((len(atoms), 3))
    forces[seen] = result.forces
    assert result.stress is not None
    return result.energy, -result.stress[[0, 1, 2, 5, 4, 3]] * atoms.get_volume(), forces


def moved(atoms: Atoms, potential: M3GNetPotential, case: Case) -> Atoms:
    """Behind the steps: velocity Verlet as in fix nve."""
    atoms = atoms.copy()
    velocities, masses = atoms.get_velocities(), atoms.get_masses()[:, None]
    forces = evaluate(atoms, potential, case)[2]
    for _ in range(STEPS):
        velocities += 0.5 * TIMESTEP * forces / masses
        atoms.positions += TIMESTEP * velocities
        forces = evaluate(atoms, potential, case)[2]
        velocities += 0.5 * TIMESTEP * forces / masses
    return atoms


def state(prefix: str, atoms: Atoms, potential: M3GNetPotential, case: Case) -> str:
    """Entries of the YAML file, in LAMMPS' units."""
    scale = KCAL if case.units == "real" else 1.0
    energy, virial, forces = evaluate(atoms, potential, case)
    return (
        f"{prefix}_vdwl: {scale * energy:.16e}\n{prefix}_coul: 0\n"
        + block(f"{prefix}_stress", [numbers(scale * virial)])
        + block(f"{prefix}_forces", [f"{i + 1} {numbers(scale * row)}" for i, row in enumerate(forces)])
    )


def write_case(name: str, case: Case, atoms: Atoms, potential: M3GNetPotential) -> None:
    """One YAML file."""
    text = (
        f"---\nlammps_version: 22 Jul 2025\ndate_generated: {datetime.now(UTC):%a %b %e %H:%M:%S %Y}\n"
        f"epsilon: {EPSILON}\nskip_tests: single extract\n"
        + block("prerequisites", ["atom atomic", "pair ideal"])
        + block("pre_commands", [f"variable units index {case.units}"])
        + 'post_commands: ! ""\ninput_file: in.ideal\n'
        + f"pair_style: {case.style}\n"
        + block("pair_coeff", case.coefficients)
        + f'extract: ! ""\nnatoms: {len(atoms)}\n'
        + state("init", atoms, potential, case)
        + state("run", moved(atoms, potential, case), potential, case)
        + "...\n"
    )
    (HERE / f"{name}.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    """Model, data, cases."""
    atoms, potential = structure(), model()
    for name, system in (("data.ideal", "metal"), ("data.ideal-real", "real")):
        write_lammps_data(HERE / name, atoms, masses=True, velocities=True, specorder=["Li", "O"], units=system)
    with tempfile.TemporaryDirectory() as folder:
        potential.save(Path(folder) / "model")
        shutil.copy(Path(folder) / "model" / "model.safetensors", HERE / "model.safetensors")
    for name, case in CASES.items():
        write_case(name, case, atoms, potential.double())


if __name__ == "__main__":
    main()
