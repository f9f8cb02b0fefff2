"""What every potential must satisfy; add a potential to `POTENTIALS` and these tests run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from ideal.config import ModelConfig
from ideal.errors import TrainingError
from ideal.models import make_potential
from ideal.models.base import Potential
from ideal.models.edge_potential import EdgePotential
from ideal.models.tensornet import TensorNetPotential

from .conftest import ELEMENTS, STRUCTURES, TINY, crystal, tiny_potential

CUSTOM = Path(__file__).parents[2] / "examples" / "custom_model" / "pair_network.py"


def _double(potential: EdgePotential) -> EdgePotential:
    return potential.double()


def _matgl_pass() -> EdgePotential:
    """A potential that the reorganized forward pass does not cover (angular functions beyond l = 3)."""
    return _double(tiny_potential(max_n=1, max_l=4).without_fused_pass())


def _tensornet() -> Potential:
    config = TINY.model_copy(update={"type": "tensornet", "n_radial": 8})
    return _double(_normalized(TensorNetPotential.new(config, ELEMENTS, seed=3), 60.0))


def _custom() -> Potential:
    """The example of docs/extending.md, through the configuration."""
    config = ModelConfig(type="custom", module=f"{CUSTOM}:PairPotential", arguments={"width": 8}, device="cpu")
    return _double(_normalized(make_potential(config, ELEMENTS, seed=3), 10.0))


def _normalized(potential: EdgePotential, scale: float) -> EdgePotential:
    potential.set_normalization({"H": -3.0, "C": -150.0, "O": -430.0, "Al": -60.0}, energy_scale=scale)
    return potential


POTENTIALS: dict[str, Callable[[], Potential]] = {
    "tensornet": _tensornet,
    "custom": _custom,
    "m3gnet": lambda: _double(tiny_potential()),
    "m3gnet two blocks": lambda: _double(tiny_potential(n_blocks=2, max_n=1, max_l=4)),
    "m3gnet matgl pass": _matgl_pass,
}


@pytest.fixture(scope="module", params=list(POTENTIALS))
def potential(request: pytest.FixtureRequest) -> Potential:
    return POTENTIALS[request.param]()


def test_satisfies_the_protocol(potential: Potential) -> None:
    assert isinstance(potential, Potential)


def test_forces_are_the_derivative_of_the_energy(potential: Potential, structure: Atoms) -> None:
    forces = potential.evaluate(structure).forces
    assert abs(forces).max() > 0.01
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        energies = []
        for sign in (1, -1):
            moved = structure.copy()
            moved.positions[atom, axis] += sign * 1e-5
            energies.append(potential.evaluate(moved).energy)
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / 2e-5, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["crystal", "slab"])
def test_stress_is_the_derivative_with_respect_to_strain(potential: Potential, name: str) -> None:
    atoms = STRUCTURES[name]()
    stress = potential.evaluate(atoms).stress
    assert stress is not None
    assert abs(stress).max() > 1e-5
    for voigt, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * 5e-6
            strain[j, i] += sign * 5e-6
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(potential.evaluate(strained).energy)
        expected = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
        assert stress[voigt] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_no_stress_without_a_cell(potential: Potential) -> None:
    assert potential.evaluate(STRUCTURES["molecule"]()).stress is None


def test_energies_sum_to_the_energy_and_forces_to_zero(potential: Potential, structure: Atoms) -> None:
    result = potential.evaluate(structure)
    assert result.energies.sum() == pytest.approx(result.energy, abs=1e-9)
    assert abs(result.forces.sum(axis=0)).max() < 1e-10


def test_supercell_energy_is_extensive(potential: Potential) -> None:
    one, eight = potential.evaluate(crystal()), potential.evaluate(crystal().repeat(2))
    assert eight.energy == pytest.approx(8 * one.energy, rel=1e-10)
    np.testing.assert_allclose(eight.forces[:4], one.forces, atol=1e-9)
    np.testing.assert_allclose(eight.stress, one.stress, atol=1e-10)


def test_rotation_translation_and_permutation(potential: Potential, structure: Atoms) -> None:
    rotation = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    order = np.random.default_rng(0).permutation(len(structure))
    moved = structure.copy()
    moved.set_cell(structure.cell.array @ rotation.T)
    moved.positions = structure.positions @ rotation.T + [3.0, -7.0, 11.0]
    moved = moved[order]
    before, after = potential.evaluate(structure), potential.evaluate(moved)
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, (before.forces @ rotation.T)[order], atol=1e-9)
    np.testing.assert_allclose(after.energies, before.energies[order], atol=1e-9)


def test_wrapping_changes_nothing(potential: Potential) -> None:
    atoms = crystal()
    outside = atoms.copy()
    outside.positions += atoms.cell.array[0] * 3 - atoms.cell.array[2]
    outside.positions[1] += atoms.cell.array[1] * 40
    assert potential.evaluate(outside).energy == pytest.approx(potential.evaluate(atoms).energy, abs=1e-9)


def test_energy_is_continuous_at_the_cutoff(potential: Potential) -> None:
    energies = [
        potential.evaluate(Atoms("Al2", positions=[[0, 0, 0], [0, 0, potential.cutoff + d]])).energy
        for d in (-1e-4, 1e-4)
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_isolated_atom_and_pair(potential: Potential) -> None:
    """No neighbor; then neighbors but no three-body term."""
    atom = potential.evaluate(Atoms("Al"))
    assert np.isfinite(atom.energy)
    assert not atom.forces.any()
    far = potential.evaluate(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 30]], cell=[50, 50, 90], pbc=True))
    assert far.energy == pytest.approx(2 * atom.energy, abs=1e-9)
    assert not far.forces.any()
    assert not far.stress.any()
    pair = potential.evaluate(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 3]]))
    assert pair.forces[0, 2] == pytest.approx(-pair.forces[1, 2])
    assert pair.forces[0, 2] != 0


def test_batch_equals_one_by_one(potential: Potential) -> None:
    structures = [make() for make in STRUCTURES.values()] + [Atoms("O"), crystal().repeat((2, 2, 1))]
    for atoms, batched in zip(structures, potential.evaluate_batch(structures), strict=True):
        single = potential.evaluate(atoms)
        assert batched.energy == pytest.approx(single.energy, abs=1e-9)
        np.testing.assert_allclose(batched.forces, single.forces, atol=1e-9)
        np.testing.assert_allclose(batched.energies, single.energies, atol=1e-9)
        if single.stress is None:
            assert batched.stress is None
        else:
            np.testing.assert_allclose(batched.stress, single.stress, atol=1e-10)


def test_evaluation_is_bitwise_reproducible(potential: Potential, structure: Atoms) -> None:
    first, second = potential.evaluate(structure), potential.evaluate(structure.copy())
    assert first.energy == second.energy
    assert (first.forces == second.forces).all()


def test_unknown_element(potential: Potential) -> None:
    with pytest.raises(TrainingError, match=r"does not know Au, Si \(it knows H, C, O, Al\)"):
        potential.evaluate(Atoms("AuSi", positions=[[0, 0, 0], [0, 0, 3]]))


def test_positions_that_are_not_finite(potential: Potential) -> None:
    atoms = crystal()
    atoms.positions[2, 1] = np.nan
    with pytest.raises(TrainingError, match=r"position of atom 2 is .*nan"):
        potential.evaluate(atoms)


def test_coincident_atoms(potential: Potential) -> None:
    atoms = crystal()
    atoms.positions[3] = atoms.positions[1] + atoms.cell.array[0]
    with pytest.raises(TrainingError, match=r"atoms [13] and [13] are .* apart"):
        potential.evaluate(atoms)


def test_structures_that_cannot_be_evaluated(potential: Potential) -> None:
    with pytest.raises(TrainingError, match="0 atoms"):
        potential.evaluate(Atoms())
    with pytest.raises(TrainingError, match="axis 2 is periodic but its cell vector is zero"):
        potential.evaluate(Atoms("Al", cell=[4, 4, 0], pbc=True))


def test_save_changes_the_disk_and_nothing_else(potential: Potential, tmp_path: Path) -> None:
    before = potential.fingerprint()
    potential.save(tmp_path / "a" / "model")
    assert potential.fingerprint() == before
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "model"]
