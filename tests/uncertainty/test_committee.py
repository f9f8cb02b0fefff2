"""The committee's quantities against their definitions, its members, its scale, its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.errors import ConfigError, UncertaintyError
from ideal.models.base import Evaluation
from ideal.uncertainty.committee import ModelCommittee, softmax_criterion

from .examples import potential, salt, training_set


class Spring:
    """A potential without derivatives: every atom tied to the origin with the given stiffness (eV/Å²)."""

    elements = ("Na", "Cl")
    cutoff = 1.0
    revision = 0

    def __init__(self, stiffness: float) -> None:
        self.stiffness = stiffness

    def evaluate(self, atoms: Atoms) -> Evaluation:
        energies = 0.5 * self.stiffness * (atoms.positions**2).sum(axis=1)
        return Evaluation(float(energies.sum()), -self.stiffness * atoms.positions, None, energies)

    def evaluate_batch(self, structures: list[Atoms]) -> list[Evaluation]:
        return [self.evaluate(atoms) for atoms in structures]

    def fingerprint(self) -> str:
        return str(self.stiffness)

    def save(self, directory: str | Path) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def committee() -> ModelCommittee:
    result = ModelCommittee([potential(seed) for seed in range(3)])
    result.update(training_set(2))
    return result


def test_spread_against_the_definitions(committee: ModelCommittee) -> None:
    atoms = salt(1)
    results = [member.evaluate(atoms) for member in committee.members]
    forces = np.array([result.forces for result in results])
    mean = sum(forces) / 3
    spread = committee.spread(atoms)
    for i in range(len(atoms)):
        squares = [sum((force[i] - mean[i]) ** 2) for force in forces]
        assert spread.force_std[i] == pytest.approx(np.sqrt(sum(squares) / 9), rel=1e-10)
        relative = sum(np.sqrt(squares)) / 3 / (np.linalg.norm(mean[i]) + 0.2)
        assert spread.relative_force[i] == pytest.approx(relative, rel=1e-10)
    energies = np.array([result.energy for result in results])
    assert spread.energy_std == pytest.approx(np.sqrt(((energies - energies.mean()) ** 2).sum() / 3), rel=1e-10)
    assert committee.total(atoms) == spread.energy_std
    np.testing.assert_allclose(spread.stress_std, np.std([result.stress for result in results], axis=0), rtol=1e-10)
    np.testing.assert_allclose(spread.forces, mean, atol=1e-12)
    np.testing.assert_allclose(committee.atomic(atoms), spread.force_std / _scales(committee, atoms), rtol=1e-12)


def _scales(committee: ModelCommittee, atoms: Atoms) -> np.ndarray:
    return np.array([committee.scales[symbol] for symbol in atoms.symbols])


def test_springs_by_hand() -> None:
    """Stiffness 1 and 3: sigma = |r| / sqrt(3), f = |r| / (2 |r| + epsilon), sigma_E = |r|^2 / 2."""
    atoms = Atoms("NaCl", positions=[[2, 0, 0], [0, 0, 3]])
    committee = ModelCommittee([Spring(1.0), Spring(3.0)], epsilon=0.5)
    spread = committee.spread(atoms)
    np.testing.assert_allclose(spread.force_std, np.array([2, 3]) / np.sqrt(3))
    np.testing.assert_allclose(spread.relative_force, [2 / 4.5, 3 / 6.5])
    assert spread.energy_std == pytest.approx(13 / 2)
    assert spread.stress_std is None
    sigma, gradient, strain = committee.total_gradient(atoms)
    assert sigma == pytest.approx(13 / 2)
    np.testing.assert_allclose(gradient, atoms.positions)
    np.testing.assert_allclose(strain, np.diag([4.0, 0, 9]))
    committee.update(atoms)
    with pytest.raises(UncertaintyError, match="Spring cannot be derived twice"):
        committee.squared_gradient(atoms)


def test_softmax_criterion() -> None:
    f = np.array([0.3, 2.0, 0.1])
    np.testing.assert_allclose(softmax_criterion(f), np.exp(f) / np.exp(f).sum(), rtol=1e-14)
    assert softmax_criterion(np.array([1e4, 0.0])).tolist() == [1.0, 0.0]
    assert softmax_criterion(np.zeros(0)).shape == (0,)
    f = np.full(50, 0.2)
    f[7] += np.log(49)
    assert softmax_criterion(f).max() == pytest.approx(0.5)


def test_equal_members_know_nothing() -> None:
    committee = ModelCommittee([potential(), potential()])
    committee.update(training_set())
    assert committee.scales == {"Cl": 0.0, "Na": 0.0, "O": 0.0}
    assert np.isinf(committee.atomic(salt())).all()
    value, gradient, strain = committee.total_gradient(salt())
    assert (value, gradient.any(), strain.any()) == (0.0, False, False)


def test_a_perfect_crystal_teaches_no_scale() -> None:
    committee = ModelCommittee([potential(seed) for seed in range(2)])
    committee.update(bulk("NaCl", "rocksalt", a=5.6))
    assert committee.counts == {"Cl": 1, "Na": 1, "O": 0}
    assert np.isinf(committee.atomic(salt())).all()


def test_members_that_do_not_fit() -> None:
    with pytest.raises(UncertaintyError, match="at least two"):
        ModelCommittee([potential()])
    with pytest.raises(UncertaintyError, match="member 1 knows Cl, Na, member 0 knows Cl, Na, O"):
        ModelCommittee([potential(), potential(1, ["Na", "Cl"])])
    with pytest.raises(ConfigError, match="did you mean 'force_std'"):
        ModelCommittee([potential(), potential(1)], measure="force_sdt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="epsilon 0"):
        ModelCommittee([potential(), potential(1)], epsilon=0)


def test_a_scale_belongs_to_its_members() -> None:
    members = [potential(seed) for seed in range(2)]
    committee = ModelCommittee(members)
    committee.update(training_set(2))
    before = committee.atomic(salt())
    weights = members[0].weights()
    members[0].set_weights({name: 1.1 * value for name, value in weights.items()})
    for call in (committee.atomic, committee.update, committee.squared_gradient):
        with pytest.raises(UncertaintyError, match=r"members have changed.*rebuild"):
            call(salt())
    assert committee.spread(salt()).energy_std > 0
    members[0].set_weights(weights)
    np.testing.assert_array_equal(committee.atomic(salt()), before)
    members[0].set_weights({name: 1.1 * value for name, value in weights.items()})
    committee.rebuild(training_set(2))
    assert committee.counts["Na"] == 8
    u = np.concatenate([committee.atomic(atoms) for atoms in training_set(2)])
    assert (u**2).mean() == pytest.approx(1, rel=1e-10)


def test_set_members_starts_anew() -> None:
    committee = ModelCommittee([potential(seed) for seed in range(2)])
    committee.update(training_set(2))
    committee.set_members([potential(seed) for seed in range(5, 8)])
    assert len(committee.members) == 3
    assert not any(committee.counts.values())
    assert np.isinf(committee.atomic(salt())).all()


def test_folder(committee: ModelCommittee, tmp_path: Path) -> None:
    folder = tmp_path / "committee"
    other = ModelCommittee([potential(seed) for seed in range(7, 9)], "relative_force", epsilon=0.1)
    other.save(folder)
    assert ModelCommittee.load(folder).epsilon == 0.1
    committee.save(folder)
    loaded = ModelCommittee.load(folder)
    assert loaded.measure == "force_std"
    assert loaded.scales == committee.scales
    assert [m.fingerprint() for m in loaded.members] == [m.fingerprint() for m in committee.members]
    np.testing.assert_array_equal(loaded.atomic(salt()), committee.atomic(salt()))
    models = sorted(folder.glob("model-*"))
    assert len(models) == 3
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} == {".safetensors"}
    potential(99).save(models[0])
    with pytest.raises(UncertaintyError, match="is not the model that was saved"):
        ModelCommittee.load(folder)
    (models[0] / "model.safetensors").unlink()
    with pytest.raises(UncertaintyError, match="cannot be loaded"):
        ModelCommittee.load(folder)


def test_an_interrupted_write_leaves_the_old_state(
    committee: ModelCommittee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "committee"
    committee.save(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ideal.uncertainty.storage.write_file", full)
    with pytest.raises(UncertaintyError, match="No space left"):
        ModelCommittee([potential(seed) for seed in range(7, 9)]).save(folder)
    assert ModelCommittee.load(folder).counts == committee.counts


def test_float32_members(committee: ModelCommittee) -> None:
    """The usual precision: u to five digits, its gradient to four."""
    singles = [potential(seed) for seed in range(3)]
    for single in singles:
        single._model.float()
    single = ModelCommittee(singles)
    single.update(training_set(2))
    atoms = salt(3)
    np.testing.assert_allclose(single.atomic(atoms), committee.atomic(atoms), rtol=1e-5)
    for found, exact in zip(single.squared_gradient(atoms), committee.squared_gradient(atoms), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4 * abs(exact).max())


def test_foreign_folder(tmp_path: Path) -> None:
    from ideal.uncertainty.gradient_features import GradientFeatures

    GradientFeatures(potential(), size=8).save(tmp_path)
    with pytest.raises(UncertaintyError, match=r"holds 'ideal.GradientFeatures'.*'ideal.ModelCommittee'"):
        ModelCommittee.load(tmp_path)
