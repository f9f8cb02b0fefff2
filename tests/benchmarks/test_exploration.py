"""The measures of the exploration benchmark on cases whose answers are known, and its reference and dynamics."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "exploration"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's files import each other by name, as they do when they run."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


def test_coverage_of_nothing_one_point_and_everything() -> None:
    from measures import coverage

    assert coverage(np.zeros((0, 2))) == 0.0
    # One node of every level: (1 + 1/4 + ... + 1/4^5) / 6.
    assert coverage(np.array([[0.1, -2.0]])) == pytest.approx(sum(4.0**-level for level in range(6)) / 6)
    grid = (np.arange(32) + 0.5) / 32 * 2 * np.pi - np.pi
    everything = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    assert coverage(everything) == 1.0
    assert coverage(everything + 6 * np.pi) == 1.0


def test_coverage_rewards_large_parts_before_small_ones() -> None:
    from measures import coverage

    near = np.array([[0.1, 0.1], [0.3, 0.1], [0.5, 0.1]])  # three cells of the deepest level in one corner
    far = np.array([[0.1, 0.1], [0.1, -0.1], [-0.1, 0.1]])  # three quarters
    assert coverage(far) > coverage(near) > coverage(near[:1])
    assert coverage(np.concatenate([near, near])) == coverage(near)
    # Depth 1: the root and three of four.
    assert coverage(far, depth=1) == pytest.approx((1 + 0.75) / 2)


def test_autocorrelation_time_of_noise_and_of_an_autoregressive_process() -> None:
    from measures import autocorrelation, autocorrelation_time

    rng = np.random.default_rng(3)
    noise = rng.normal(size=(20000, 4))
    assert autocorrelation_time(noise) == pytest.approx(0.5, abs=0.1)
    series = np.zeros_like(noise)
    for k in range(1, len(noise)):
        series[k] = 0.9 * series[k - 1] + noise[k]
    # A(k) = 0.9^k: 1/2 + 0.9 / (1 - 0.9).
    assert autocorrelation_time(series, interval=2.0) == pytest.approx(2 * 9.5, rel=0.2)
    assert autocorrelation(series)[1] == pytest.approx(0.9, abs=0.02)


def test_autocorrelation_leaves_out_what_does_not_move() -> None:
    from measures import autocorrelation_time

    moving = np.random.default_rng(0).normal(size=(500, 1))
    still = np.ones((500, 1))
    assert autocorrelation_time(np.hstack([moving, still])) == autocorrelation_time(moving)
    with pytest.raises(ValueError, match="every series is constant"):
        autocorrelation_time(still)


def test_dihedrals_of_the_molecule() -> None:
    from dipeptide import PHI, PSI, dihedrals, molecule

    atoms = molecule()
    wanted = [atoms.get_dihedral(*four) for four in (PHI, PSI)]
    found = np.rad2deg(dihedrals(np.array([atoms.positions, atoms.positions[:, [1, 0, 2]]])))
    assert np.allclose(np.mod(found[0], 360), wanted)
    assert np.allclose(found[1], -found[0])  # the mirror image


def test_cis_is_told_from_trans_at_both_amide_bonds() -> None:
    from dipeptide import OMEGA, is_cis, molecule

    assert not is_cis(molecule().positions)
    for four in OMEGA:
        atoms = molecule()
        for degrees, expected in ((-80.0, True), (100.0, False), (10.0, True), (-95.0, False)):
            atoms.set_dihedral(*four, degrees, indices=range(four[2] + 1, len(atoms)))
            assert is_cis(np.array([atoms.positions])).tolist() == [expected]


def test_rows_are_read_again_and_averaged_over_seeds(tmp_path: Path) -> None:
    from rows import cached, table

    path = tmp_path / "row.json"
    assert cached(path, lambda n: {"energy": n}, 1.5) == {"energy": 1.5}
    assert cached(path, lambda n: {"energy": n}, 2.5) == {"energy": 1.5}
    assert list(tmp_path.iterdir()) == [path]
    lines = table(
        [{"arm": "a", "seed": 1, "force": 1.0}, {"arm": "a", "seed": 2, "force": 3.0, "x": None}], ["force", "x"]
    )
    assert lines.splitlines()[2:] == ["| a | 1 | 1 |  |", "| a | 2 | 3 |  |", "| a | 2 seeds | 2 ± 1.4 |  |"]


def test_reference_forces_are_the_energy_s_derivative() -> None:
    pytest.importorskip("openmm")
    from dipeptide import Amber, label, molecule

    atoms = molecule()
    calculator = Amber()
    assert np.abs(label(atoms, calculator).forces).max() < 0.1  # minimized
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    numeric = calculate_numerical_forces(atoms, 1e-3, iatoms=[3, 8])
    assert np.allclose(atoms.get_forces()[[3, 8]], numeric, atol=1e-4)
    atoms.positions[1] += 2.0  # a bond torn
    assert label(atoms, calculator) is None  # forces beyond 20 eV/Å are no label


def test_network_is_invariant_and_its_gradients_are_exact() -> None:
    from dipeptide import molecule
    from moments import SYMBOLS, MomentPotential
    from walkers import Uncertain

    from ideal.records import Label

    atoms = molecule()
    atoms.rattle(0.05, seed=2)
    potential = MomentPotential.new(SYMBOLS, 0, examples=[atoms], n_basis=4, hidden=8).double()
    other = molecule()
    other.rattle(0.05, seed=3)
    model = Uncertain(potential, size=16)
    model.learn([Label("a", other, 0.0, np.zeros((22, 3)), None, "none")])
    found = model.evaluate(atoms.positions[None], biased=True)
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    assert model.evaluate(turned.positions[None], biased=False).energies == pytest.approx(found.energies, abs=1e-9)
    step, values = 1e-4, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[8, 0] += sign * step
        surface = model.evaluate(moved.positions[None], biased=False)
        values.append((surface.energies[0], np.sqrt((surface.atomic[0] ** 2).mean())))
    energy, u = (np.array(values[0]) - values[1]) / (2 * step)
    assert found.forces[0, 8, 0] == pytest.approx(-energy, rel=1e-5)
    assert found.slopes[0, 8, 0] == pytest.approx(u, rel=1e-4)
    evaluation = potential.evaluate(atoms)
    assert evaluation.energy == pytest.approx(found.energies[0])
    assert evaluation.forces == pytest.approx(found.forces[0], abs=1e-9)
    batched = potential.predict([potential.graph(atoms), potential.graph(turned)])
    assert batched.forces[: len(atoms)].numpy() == pytest.approx(evaluation.forces, abs=1e-9)


def test_walkers_repeat_themselves_and_stop_where_they_are_told() -> None:
    from dipeptide import molecule
    from moments import SYMBOLS, MomentPotential
    from walkers import Dynamics, Uncertain, choose, walk

    from ideal.records import Label

    atoms = molecule()
    potential = MomentPotential.new(SYMBOLS, 0, examples=[atoms], n_basis=2, hidden=4)
    model = Uncertain(potential, size=8)
    model.learn([Label("a", atoms, 0.0, np.zeros((22, 3)), None, "none")])
    free = Dynamics(300.0, steps=6, limit=1e9, record=1)
    walks = walk(model, [atoms] * 3, free, np.random.default_rng(0))
    assert [each.steps for each in walks] == [6] * 3 and not any(each.stopped for each in walks)
    assert walks[0].positions.shape == (4, 22, 3)
    again = walk(model, [atoms] * 3, free, np.random.default_rng(0))
    assert np.array_equal(walks[2].positions, again[2].positions)
    stopped = walk(model, [atoms] * 2, Dynamics(300.0, bias=0.25, steps=6, limit=0.0), np.random.default_rng(0))
    assert [each.steps for each in stopped] == [0, 0] and all(each.stopped for each in stopped)
    chosen = choose(model, np.concatenate([each.features for each in walks]), 3)
    assert len(set(chosen)) == len(chosen) == 3


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    pytest.importorskip("openmm")
    from dipeptide import Amber, label, molecule
    from fitting import Plan, fit, normalize
    from moments import SYMBOLS, MomentPotential

    labels = []
    for seed in range(4):
        atoms = molecule()
        atoms.rattle(0.05, seed=seed)
        labels.append(label(atoms, Amber()))
    wanted = np.concatenate([each.forces for each in labels])
    errors = []
    for steps in (0, 60, 60):
        potential = MomentPotential.new(SYMBOLS, 0, n_basis=4, hidden=16)
        normalize(potential, labels)
        fit(potential, labels, Plan(steps), seed=0)
        forces = potential.predict([potential.graph(each.atoms) for each in labels]).forces.numpy()
        errors.append(np.sqrt(((forces - wanted) ** 2).mean()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] == errors[2]


def test_weights_decay_where_nothing_pulls() -> None:
    import torch
    from fitting import Soap

    matrix, vector = torch.ones(2, 3), torch.ones(3)
    matrix.grad, vector.grad = torch.zeros(2, 3), torch.zeros(3)
    optimizer = Soap([matrix, vector])
    for _ in range(3):  # the first only looks
        optimizer.step(0.5, decay=0.2)
    assert torch.allclose(matrix, torch.full((2, 3), 0.81))
    assert torch.equal(vector, torch.ones(3))


def test_a_molecule_is_whole_until_a_bond_breaks() -> None:
    from dipeptide import molecule
    from survival import bonds, is_whole

    atoms = molecule()
    pairs, lengths = bonds(atoms)
    assert len(pairs) == 21  # a tree of 22 atoms
    walkers = np.array([atoms.positions, atoms.positions])
    assert is_whole(walkers, pairs, lengths)
    walkers[1, 1] += (0.0, 0.0, -0.8)
    assert not is_whole(walkers, pairs, lengths)
    walkers[1] = np.nan
    assert not is_whole(walkers, pairs, lengths)
