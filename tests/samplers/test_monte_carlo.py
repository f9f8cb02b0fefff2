"""Monte Carlo: moves, adapting, mixing with dynamics, state, limits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixCartesian
from pydantic import ValidationError

from ideal.config import MonteCarloConfig
from ideal.errors import ConfigError, SamplerError
from ideal.samplers import MonteCarlo, make_sampler
from ideal.samplers.moves import ShapeChange, VolumeChange, make_moves, overlaps
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis
from ideal.uncertainty.structure import PowerMean

from .pair_potential import PairPotential, argon

CORNERS = {"displacement": 2, "volume": 1}


def make_config(moves: dict[str, Any] | None = None, **values: Any) -> MonteCarloConfig:
    defaults = {"temperature": 40, "pressure": "0.1 GPa", "steps": 1000, "burn_in": 10}
    return MonteCarloConfig.model_validate({**defaults, **values, "moves": moves or {}})


def learn() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Ar"], r_cut=4.5, n_max=3, l_max=2), ridge=1e-3)
    for seed in range(3):
        atoms = argon()
        atoms.rattle(0.05, seed=seed)
        uncertainty.update(atoms)
    return uncertainty


VARIANTS: dict[str, dict[str, Any]] = {
    "displacement": {},
    "volume": {"moves": CORNERS},
    "biased": {"bias": {"strength": 0.2, "burn_in": 6}},
    "mixed": {"moves": CORNERS, "dynamics": {"trials": 3, "steps": 2, "timestep": 4}},
    "mixed and biased": {
        "moves": CORNERS,
        "dynamics": {"trials": 3, "steps": 2, "timestep": 4},
        "bias": {"strength": 0.2, "burn_in": 3},
    },
}


@pytest.fixture(scope="module")
def known() -> SoapMahalanobis:
    return learn()


def make(known: SoapMahalanobis, variant: str, seed: int = 7) -> MonteCarlo:
    return MonteCarlo(argon(), PairPotential(), make_config(**VARIANTS[variant]), seed, known)


def assert_same(a: MonteCarlo, b: MonteCarlo) -> None:
    assert a.step == b.step
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)
    assert np.array_equal(a.atoms.get_momenta(), b.atoms.get_momenta())
    assert a.observables() == b.observables()


# --- the sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_restart_and_parts_are_bitwise_the_same(known: SoapMahalanobis, variant: str) -> None:
    whole, parts, again = make(known, variant), make(known, variant), make(known, variant, seed=99)
    whole.advance(29)
    for n in (7, 1, 0, 9):
        parts.advance(n)
    state = parts.state()
    assert all(isinstance(value, np.ndarray | int | str) for value in state.values())
    before = {key: np.array(value) for key, value in state.items()}
    parts.advance(12)
    assert all(np.array_equal(before[key], value) for key, value in state.items())
    again.restore(state)
    again.advance(12)
    assert_same(whole, parts)
    assert_same(whole, again)
    assert not np.array_equal(whole.atoms.positions, argon().positions)


@pytest.mark.parametrize("variant", VARIANTS)
def test_seeds_and_reseeding(known: SoapMahalanobis, variant: str) -> None:
    one, two, other = make(known, variant), make(known, variant), make(known, variant, seed=8)
    for sampler in (one, two, other):
        sampler.advance(12)
    assert_same(one, two)
    assert not np.array_equal(one.atoms.positions, other.atoms.positions)
    two.reseed(5)
    for sampler in (one, two):
        sampler.advance(6)
    assert not np.array_equal(one.atoms.positions, two.atoms.positions)


def test_a_new_model_is_noticed(known: SoapMahalanobis) -> None:
    sampler = make(known, "mixed")
    sampler.advance(2)
    positions = sampler.atoms.positions
    sampler.set_calculator(PairPotential(epsilon=0.05))
    assert np.array_equal(sampler.atoms.positions, positions)
    plain = sampler.atoms.copy()
    plain.calc = PairPotential(epsilon=0.05)
    assert sampler.atoms.get_potential_energy() == plain.get_potential_energy()
    sampler.advance(3)  # from moves to dynamics: it starts where the moves went
    assert np.abs(sampler.atoms.positions - positions).max() < 0.5


def test_steps_adapt_during_the_burn_in_alone() -> None:
    config = make_config({"displacement_step": 0.01}, burn_in=150, acceptance=0.5)
    sampler = MonteCarlo(argon(), PairPotential(), config, 0)
    sampler.advance(150)
    adapted = sampler.observables()["step_displacement"]
    assert adapted > 0.05
    assert sampler.observables()["acceptance_displacement"] == 0
    sampler.advance(60)
    assert sampler.observables()["step_displacement"] == adapted
    assert 0.2 < sampler.observables()["acceptance_displacement"] < 0.8


def test_the_bias_is_fixed_after_its_burn_in(known: SoapMahalanobis) -> None:
    sampler = make(known, "biased")
    sampler.advance(5)
    assert sampler.observables()["tau"] == 0
    sampler.advance(2)
    tau = sampler.observables()["tau"]
    assert tau > 0
    sampler.advance(20)
    values = sampler.observables()
    assert values["tau"] == tau
    assert values["bias_energy"] == pytest.approx(-tau * PowerMean(known).total(sampler.atoms))


def test_time_and_temperature(known: SoapMahalanobis) -> None:
    plain, mixed = make(known, "volume"), make(known, "mixed")
    for sampler in (plain, mixed):
        sampler.advance(10)
    assert (plain.time_fs, plain.temperature) == (0.0, 40.0)
    assert mixed.time_fs == 4 * 4.0
    assert mixed.temperature != 40.0
    assert mixed.config.fs_per_step == pytest.approx(1.6)


def test_it_finishes(known: SoapMahalanobis) -> None:
    sampler = MonteCarlo(argon(), PairPotential(), make_config(steps=3, burn_in=0), 0)
    assert sampler.conclusion == ""
    sampler.advance(10)
    assert re.fullmatch(r"accepted: displacement \d+ %", sampler.conclusion)
    assert sampler.step == 3
    assert sampler.finished


def test_a_force_above_the_limit_is_an_error_and_leaves_the_state() -> None:
    sampler = MonteCarlo(argon(), PairPotential(), make_config(), 0, max_force=1e-6)
    before = sampler.state()
    with pytest.raises(SamplerError, match="above max_force"):
        sampler.advance(5)
    after = sampler.state()
    assert all(np.array_equal(before[key], after[key]) for key in ("positions", "rng", "step"))


# --- moves ------------------------------------------------------------------------------------------------------------


def test_volume_and_shape_keep_fractions_and_shape_the_volume() -> None:
    atoms, rng = bulk("Cu", cubic=True), np.random.default_rng(0)
    for move in (VolumeChange(0.0, 0.1), ShapeChange()):
        trial = move.propose(atoms, 0.05, rng).atoms
        np.testing.assert_allclose(trial.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
        if isinstance(move, ShapeChange):
            assert trial.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-12)
            assert not np.allclose(trial.cell.array, atoms.cell.array)
        else:
            np.testing.assert_allclose(trial.cell.angles(), 90)


def test_swaps_exchange_positions_of_two_elements() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    move = make_moves(make_config({"displacement": 0, "swap": 1}), atoms, "a")["swap"]
    trial = move.propose(atoms, 0.0, np.random.default_rng(0))
    assert trial is not None
    changed = np.flatnonzero((trial.atoms.positions != atoms.positions).any(axis=1))
    assert len(changed) == 2
    assert set(atoms.symbols[changed]) == {"Na", "Cl"}
    assert np.array_equal(trial.atoms.positions[changed], atoms.positions[changed[::-1]])
    assert trial.log_weight == 0


def test_hops_go_to_the_vacancy_and_keep_the_displacement() -> None:
    atoms = bulk("Cu", cubic=True).repeat(2)
    vacancy = atoms.get_scaled_positions()[5].tolist()
    del atoms[5]
    config = make_config({"displacement": 0, "hop": 1, "vacancies": [vacancy], "hop_radius": 2.6})
    move = make_moves(config, atoms, "a")["hop"]
    rng = np.random.default_rng(0)
    start = atoms.copy()
    start.rattle(0.05, seed=0)
    reached = set()
    for _ in range(60):
        trial = move.propose(start, 0.0, rng)
        assert trial is not None
        (moved,) = np.flatnonzero((trial.atoms.positions != start.positions).any(axis=1))
        vector = trial.atoms.positions[moved] - start.positions[moved]
        assert np.linalg.norm(vector) == pytest.approx(3.61 / np.sqrt(2), abs=1e-6)
        assert trial.log_weight == pytest.approx(0.0)
        reached.add(int(moved))
    assert len(reached) == 12
    back = move.propose(trial.atoms, 0.0, rng)
    assert back is not None


def test_atoms_inside_each_other_are_refused() -> None:
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    assert overlaps(atoms, 0.6)
    assert not overlaps(atoms, 0.5)


def test_fixed_atoms_stay(known: SoapMahalanobis) -> None:
    config = make_config({"displaced_atoms": None, "displacement_step": 0.01}, fix_atoms=[0, 3])
    sampler = MonteCarlo(argon(), PairPotential(), config, 0)
    sampler.advance(40)
    moved = (sampler.atoms.positions != argon().positions).any(axis=1)
    assert not moved[[0, 3]].any()
    assert moved.sum() == 30


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ({"displacement": 0}, "every weight is 0"),
        ({"hop": 1}, "`hop` and `vacancies` go together"),
        ({"vacancies": [[0, 0, 0]]}, "`hop` and `vacancies` go together"),
    ],
)
def test_refused_configurations(moves: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_config(moves)


@pytest.mark.parametrize(
    ("atoms", "moves", "values", "message"),
    [
        (argon(), {"swap": 1}, {}, "swaps need free atoms of two elements; there are Ar"),
        (argon(), {"swap": 1, "swap_elements": ["Ar", "Ne"]}, {}, "swap_elements Ar and Ne; there are Ar"),
        (argon(), {"displaced_atoms": 99}, {}, "displaced_atoms is 99, but 32 atoms are free"),
        (molecule("CH4"), {"volume": 1}, {}, "need a cell periodic along all three axes"),
        (argon(), {"shape": 1}, {"fix_atoms": [0]}, "some are fixed"),
        (argon(), {}, {"fix_atoms": list(range(32))}, "every atom is fixed"),
        (argon(), {}, {"fix_atoms": [32]}, "fix_atoms names atom 32"),
        (argon(), {}, {"bias": {}}, "sampler.bias follows an uncertainty"),
        (molecule("CH4"), {"hop": 1, "vacancies": [[0, 0, 0]]}, {}, "hops need a cell"),
        (Atoms(), {}, {}, "the structure is empty"),
    ],
)
def test_structures_that_do_not_fit(atoms: Atoms, moves: dict[str, Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, SamplerError), match=message):
        MonteCarlo(atoms, EMT(), make_config(moves, **values), 0)


def test_a_state_of_other_moves_is_refused(known: SoapMahalanobis) -> None:
    with pytest.raises(SamplerError, match="resume with that of the run"):
        make(known, "volume").restore(make(known, "displacement").state())


def test_make_sampler(known: SoapMahalanobis) -> None:
    assert isinstance(make_sampler(make_config(), argon(), PairPotential(), seed=0), MonteCarlo)
    assert [name for name, _ in make_config(CORNERS).facts()] == ["Monte Carlo moves", "Temperature", "Pressure"]


@pytest.mark.parametrize("bias", [{"tau": 0.1}, {"strength": 0.2, "burn_in": 3}])
def test_an_atom_that_nothing_is_known_of_ends_a_biased_walk(bias: dict[str, float]) -> None:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Ar", "Ne"], r_cut=4.5, n_max=3, l_max=2), ridge=1e-3)
    uncertainty.update(argon())
    atoms = argon()
    atoms.symbols[0] = "Ne"
    sampler = MonteCarlo(atoms, PairPotential(), make_config(bias=bias), 0, uncertainty)
    with pytest.raises(SamplerError, match="no bias can be taken at step 0"):
        sampler.advance(5)
    assert sampler.step == 0


def test_constraints_that_moves_would_break_are_refused() -> None:
    atoms = argon()
    atoms.set_constraint(FixCartesian([0], mask=(True, False, False)))
    with pytest.raises(SamplerError, match="FixCartesian"):
        MonteCarlo(atoms, PairPotential(), make_config(), 0)
