"""The ASE calculator in ordinary ASE scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ideal import IdealCalculator
from ideal.models.m3gnet import M3GNetPotential

from .conftest import alcohol, crystal, tiny_potential


class DistanceUncertainty:
    """A stand-in: each atom's uncertainty is its distance from the origin."""

    def atomic(self, atoms: Atoms) -> np.ndarray:
        return np.linalg.norm(atoms.positions, axis=1)


@pytest.fixture
def potential() -> M3GNetPotential:
    return tiny_potential()


def test_properties(potential: M3GNetPotential) -> None:
    atoms = crystal()
    atoms.calc = IdealCalculator(model=potential)
    expected = potential.evaluate(atoms)
    assert atoms.get_potential_energy() == expected.energy
    assert atoms.get_potential_energy(force_consistent=True) == expected.energy
    np.testing.assert_array_equal(atoms.get_forces(), expected.forces)
    np.testing.assert_array_equal(atoms.get_stress(), expected.stress)
    np.testing.assert_array_equal(atoms.get_potential_energies(), expected.energies)
    assert "uncertainty" not in atoms.calc.results


def test_model_from_a_path(potential: M3GNetPotential, tmp_path: Path) -> None:
    potential.save(tmp_path / "model")
    atoms = crystal()
    atoms.calc = IdealCalculator(model=str(tmp_path / "model"))
    assert atoms.get_potential_energy() == potential.evaluate(atoms).energy


def test_molecule_has_no_stress(potential: M3GNetPotential) -> None:
    atoms = alcohol()
    atoms.calc = IdealCalculator(model=potential)
    assert atoms.get_forces().shape == (9, 3)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_uncertainty_in_results_and_files(potential: M3GNetPotential, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.calc = IdealCalculator(model=potential, uncertainty=DistanceUncertainty())
    atoms.get_forces()
    expected = np.linalg.norm(atoms.positions, axis=1)
    np.testing.assert_array_equal(atoms.calc.results["uncertainty"], expected)
    assert atoms.calc.results["max_uncertainty"] == expected.max()
    np.testing.assert_array_equal(atoms.calc.get_property("uncertainty", atoms), expected)
    write(tmp_path / "a.extxyz", atoms)
    write(tmp_path / "a.traj", atoms)
    for name in ("a.extxyz", "a.traj"):
        np.testing.assert_allclose(read(tmp_path / name).get_forces(), atoms.get_forces(), atol=1e-6)


def test_relaxation_goes_downhill(potential: M3GNetPotential) -> None:
    """A random network has no minimum to speak of; a few steps must still lower the energy, cell included."""
    potential.set_normalization(energy_scale=60.0)
    atoms = crystal()
    atoms.calc = IdealCalculator(model=potential)
    energies = [atoms.get_potential_energy()]
    with BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.02) as optimizer:
        for _ in optimizer.irun(fmax=1e-6, steps=6):
            energies.append(atoms.get_potential_energy())
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0]


def test_dynamics_conserves_energy(potential: M3GNetPotential) -> None:
    potential.set_normalization(energy_scale=60.0)
    atoms = crystal().repeat((2, 1, 1))
    atoms.calc = IdealCalculator(model=potential)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(8, 3)))
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.5 * units.fs).run(40)
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3 * atoms.get_kinetic_energy() + 1e-3)


def test_a_potential_that_learned_is_evaluated_anew(potential: M3GNetPotential) -> None:
    atoms = crystal()
    atoms.calc = IdealCalculator(model=potential)
    before = atoms.get_potential_energy()
    potential.set_normalization({"O": -431.0})
    assert atoms.get_potential_energy() == pytest.approx(before - 1.0, abs=1e-6)


@pytest.mark.slow
def test_long_dynamics_does_not_drift() -> None:
    """NVE over 0.4 ps, in float32: the total energy drifts far less than the kinetic energy varies."""
    potential = tiny_potential(n_blocks=2)
    potential.set_normalization(energy_scale=20.0)  # a random network has no repulsion: atoms must not reach each other
    atoms = crystal().repeat((2, 2, 1))
    atoms.calc = IdealCalculator(model=potential)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.5, size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    total, kinetic = [], []
    dynamics.attach(lambda: total.append(atoms.get_total_energy()), interval=10)
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()), interval=10)
    dynamics.run(800)
    slope = np.polyfit(np.linspace(0, 1, len(total)), total, 1)[0]
    assert np.ptp(kinetic) > 0.01
    assert abs(slope) < 2e-3 * np.ptp(kinetic)
