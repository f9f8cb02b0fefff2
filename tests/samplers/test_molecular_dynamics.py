"""Stepping, restart, limits and constraints of the molecular dynamics sampler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from ideal.config import MolecularDynamicsConfig
from ideal.errors import ConfigError, SamplerError
from ideal.samplers import MolecularDynamics, make_sampler

from .pair_potential import PairPotential, argon

ENSEMBLES = ("nve", "nvt_langevin", "nvt_bussi", "npt_berendsen", "npt_mtk", "npt_proportional")
RAMP = [{"time": 0, "value": 40}, {"time": "0.05 ps", "value": "90 K"}]


def make_config(ensemble: str, **values: Any) -> MolecularDynamicsConfig:
    defaults: dict[str, Any] = {"ensemble": ensemble, "timestep": 5, "steps": 1000, "temperature": 60}
    if ensemble.startswith("npt"):
        defaults["pressure"] = "0.1 GPa"
    if ensemble in ("nvt_langevin", "nvt_bussi", "npt_berendsen"):
        defaults["temperature"] = RAMP
    return MolecularDynamicsConfig.model_validate({**defaults, **values})


def make(ensemble: str, seed: int = 7, **values: Any) -> MolecularDynamics:
    return MolecularDynamics(argon(), PairPotential(), make_config(ensemble, **values), seed)


def assert_same(a: MolecularDynamics, b: MolecularDynamics) -> None:
    assert a.step == b.step
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.get_momenta(), b.atoms.get_momenta())
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)


def test_the_calculator_of_these_tests_is_consistent() -> None:
    atoms = argon()
    atoms.calc = PairPotential()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    h = 1e-4
    for sign, store in ((1, []), (-1, [])):
        moved = atoms.copy()
        moved.calc = PairPotential()
        moved.positions[5, 1] += sign * h
        store.append(moved.get_potential_energy())
        if sign == 1:
            plus = store[0]
    assert forces[5, 1] == pytest.approx(-(plus - store[0]) / (2 * h), abs=1e-7)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.calc = PairPotential()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * np.diag([0, 0, 1])), scale_atoms=True)
        energies.append(strained.get_potential_energy())
    assert stress[2] == pytest.approx((energies[0] - energies[1]) / (2 * h) / atoms.get_volume(), abs=1e-8)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_advance_in_parts_is_advance_at_once(ensemble: str) -> None:
    whole, parts = make(ensemble), make(ensemble)
    whole.advance(20)
    for n in (1, 7, 0, 12):
        parts.advance(n)
    assert_same(whole, parts)
    assert whole.step == 20
    assert not np.array_equal(whole.atoms.positions, argon().positions)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_restart_in_a_new_process_is_bitwise_the_same(ensemble: str, tmp_path: Path) -> None:
    uninterrupted, stopped = make(ensemble), make(ensemble)
    uninterrupted.advance(23)
    stopped.advance(11)
    np.savez(tmp_path / "state.npz", **stopped.state())  # refuses nothing but is read without pickle
    script = Path(__file__).with_name("restart_in_new_process.py")
    command = [sys.executable, str(script), stopped.config.model_dump_json(), "state.npz", "end.npz", "12"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=280)
    end = np.load(tmp_path / "end.npz")
    assert np.array_equal(end["positions"], uninterrupted.atoms.positions)
    assert np.array_equal(end["momenta"], uninterrupted.atoms.get_momenta())
    assert np.array_equal(end["cell"], uninterrupted.atoms.cell.array)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_state_is_a_copy(ensemble: str) -> None:
    dynamics, fresh = make(ensemble), make(ensemble)
    state = dynamics.state()
    before = {key: np.array(value) for key, value in state.items()}
    dynamics.advance(3)
    assert all(np.array_equal(before[key], value) for key, value in state.items())
    dynamics.restore(state)
    assert_same(dynamics, fresh)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_same_seed_same_run_other_seed_other_run(ensemble: str) -> None:
    one, two, other = make(ensemble), make(ensemble), make(ensemble, seed=8)
    for dynamics in (one, two, other):
        dynamics.advance(3)
    assert_same(one, two)
    assert not np.array_equal(one.atoms.positions, other.atoms.positions)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_new_model_continues_from_the_same_frame(ensemble: str) -> None:
    dynamics = make(ensemble)
    dynamics.advance(5)
    positions, momenta = dynamics.atoms.get_positions(), dynamics.atoms.get_momenta()
    dynamics.set_calculator(PairPotential(epsilon=0.012))
    assert np.array_equal(dynamics.atoms.positions, positions)
    assert np.array_equal(dynamics.atoms.get_momenta(), momenta)
    resumed = make(ensemble)
    resumed.restore(dynamics.state())
    resumed.set_calculator(PairPotential(epsilon=0.012))
    dynamics.advance(4)
    resumed.advance(4)
    assert_same(dynamics, resumed)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_stops_at_the_last_step(ensemble: str) -> None:
    dynamics = make(ensemble, steps=4)
    dynamics.advance(100)
    assert dynamics.step == 4
    assert dynamics.finished
    assert dynamics.time_fs == 20


@pytest.mark.parametrize(
    ("ensemble", "per_step"), [("nve", 1), ("nvt_langevin", 1), ("nvt_bussi", 1), ("npt_berendsen", 2), ("npt_mtk", 1)]
)
def test_evaluations_per_step(ensemble: str, per_step: int) -> None:
    calculator = PairPotential()
    dynamics = MolecularDynamics(argon(), calculator, make_config(ensemble), seed=0)
    dynamics.advance(1)
    before = calculator.evaluations
    dynamics.advance(10)
    assert calculator.evaluations - before == 10 * per_step


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_starts_at_the_target_temperature_at_rest(ensemble: str) -> None:
    dynamics = make(ensemble, temperature=80)
    assert dynamics.temperature == pytest.approx(80, rel=1e-10)
    assert np.abs(dynamics.atoms.get_momenta().sum(axis=0)).max() < 1e-12


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_center_of_mass_stays_at_rest(ensemble: str) -> None:
    dynamics = make(ensemble)
    start = dynamics.atoms.get_center_of_mass(scaled=True)
    dynamics.advance(50)
    assert np.abs(dynamics.atoms.get_momenta().sum(axis=0)).max() < 1e-10
    if not ensemble.startswith("npt"):
        assert np.abs(dynamics.atoms.get_center_of_mass(scaled=True) - start).max() < 1e-10


def test_energy_is_conserved() -> None:
    dynamics = make("nve", temperature=40)
    energies = []
    for _ in range(40):
        dynamics.advance(5)
        energies.append(dynamics.atoms.get_total_energy())
    assert np.ptp(energies) < 2e-4 * len(dynamics.atoms)


def test_a_cluster_does_not_rotate() -> None:
    atoms = bulk("Ar", cubic=True, a=5.3).repeat(2)
    atoms.pbc = False
    dynamics = MolecularDynamics(atoms, PairPotential(), make_config("nve", temperature=20), seed=0)
    assert dynamics.temperature == pytest.approx(20)
    assert np.abs(dynamics.atoms.get_angular_momentum()).max() < 1e-10
    assert dynamics.state()["degrees_of_freedom"] == 3 * 32 - 6
    dimer = MolecularDynamics(Atoms("Ar2", [(0, 0, 0), (3.8, 0, 0)]), PairPotential(), make_config("nve"), seed=0)
    assert dimer.state()["degrees_of_freedom"] == 1
    dimer.advance(3)
    assert np.abs(dimer.atoms.positions[:, 1:]).max() < 1e-12


def test_velocities_of_the_file_are_kept() -> None:
    atoms = argon()
    momenta = np.random.default_rng(0).normal(size=(32, 3))
    atoms.set_momenta(momenta)
    kept = MolecularDynamics(atoms, PairPotential(), make_config("nve"), seed=0)
    assert np.array_equal(kept.atoms.get_momenta(), momenta)
    drawn = MolecularDynamics(atoms, PairPotential(), make_config("nve", initial_temperature=30), seed=0)
    assert drawn.temperature == pytest.approx(30)
    assert np.array_equal(atoms.get_momenta(), momenta)


@pytest.mark.parametrize("ensemble", ENSEMBLES[:4])
def test_constraints_of_file_and_configuration_are_kept(ensemble: str) -> None:
    atoms = argon()
    atoms.set_constraint(FixAtoms([0, 1]))
    config = make_config(ensemble, fix_atoms=[4, 9])
    dynamics = MolecularDynamics(atoms, PairPotential(), config, seed=0)
    scaled = dynamics.atoms.get_scaled_positions(wrap=False)
    assert dynamics.state()["degrees_of_freedom"] == 3 * 28
    dynamics.advance(10)
    fixed, free = [0, 1, 4, 9], [2, 3, 5]
    moved = np.abs(dynamics.atoms.get_scaled_positions(wrap=False) - scaled).max(axis=1)
    assert moved[fixed].max() < 1e-12
    assert moved[free].min() > 1e-5
    assert np.all(dynamics.atoms.get_momenta()[fixed] == 0)


def test_schedules_are_piecewise_linear_and_followed() -> None:
    ramp = [{"time": 0, "value": 20}, {"time": 100, "value": 100}, {"time": 200, "value": 60}]
    dynamics = make("nvt_langevin", temperature=ramp, timestep=2, friction="0.2 1/fs")
    targets = []
    for _ in range(5):
        targets.append(dynamics.target_temperature)
        dynamics.advance(25)
    assert targets == [20, 60, 100, 80, 60]
    assert dynamics.target_temperature == 60
    pressures = [{"time": 0, "value": "0 GPa"}, {"time": "1 ps", "value": "1 GPa"}]
    squeezed = make("npt_berendsen", pressure=pressures, temperature=20, barostat_time=50, compressibility=30)
    volume = squeezed.atoms.get_volume()
    squeezed.advance(100)
    assert squeezed.target_pressure == pytest.approx(0.5 * units.GPa)
    assert squeezed.atoms.get_volume() < 0.98 * volume


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_an_explosion_keeps_the_last_good_step(ensemble: str) -> None:
    dynamics = MolecularDynamics(argon(), PairPotential(), make_config(ensemble), seed=1, max_temperature=300)
    dynamics.advance(3)
    dynamics.set_calculator(PairPotential(epsilon=30.0))
    dynamics.max_force = np.inf
    last = dynamics.state()
    with pytest.raises(
        SamplerError, match=r"'md'.*step 4: the temperature is .* above max_temperature 300 K;.*timestep"
    ):
        dynamics.advance(10)
    for key, value in dynamics.state().items():
        assert np.array_equal(value, last[key]), key
    # The frame that stopped is the frame that continues, once the model is better.
    dynamics.set_calculator(PairPotential())
    untouched = MolecularDynamics(argon(), PairPotential(), make_config(ensemble), seed=1)
    untouched.advance(6)
    dynamics.advance(3)
    assert_same(dynamics, untouched)


def test_a_force_above_the_limit_stops_before_the_first_step() -> None:
    atoms = argon()
    atoms.positions[1] = atoms.positions[0] + [0.9, 0, 0]
    dynamics = MolecularDynamics(atoms, PairPotential(), make_config("nve"), seed=0, name="hot")
    with pytest.raises(SamplerError, match=r"'hot' cannot move from step 0: the force on atom [01] is .* max_force 50"):
        dynamics.advance(1)
    assert dynamics.step == 0


def test_values_that_are_not_finite_are_named() -> None:
    dynamics = make("nve")

    class Broken(PairPotential):
        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            super().calculate(*arguments, **keywords)
            self.results["forces"][3] = np.nan

    dynamics.set_calculator(Broken())
    with pytest.raises(SamplerError, match="the forces of atom 3 are not finite"):
        dynamics.advance(1)
    atoms = argon()
    atoms.positions[0, 0] = np.inf
    with pytest.raises(SamplerError, match="not finite"):
        MolecularDynamics(atoms, PairPotential(), make_config("nve"), seed=0)


def test_a_failing_calculator_leaves_the_last_good_step() -> None:
    dynamics = make("nvt_langevin")
    dynamics.advance(2)
    last = dynamics.state()

    class Failing(PairPotential):
        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            super().calculate(*arguments, **keywords)
            if self.evaluations == 2:
                raise KeyboardInterrupt

    dynamics.set_calculator(Failing())
    with pytest.raises(KeyboardInterrupt):
        dynamics.advance(5)
    assert all(np.array_equal(value, last[key]) for key, value in dynamics.state().items())


# --- what cannot be moved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", ["npt_berendsen", "npt_mtk"])
def test_pressure_needs_a_periodic_cell_and_stress(ensemble: str) -> None:
    with pytest.raises(SamplerError, match=r"periodic along all three axes.*nvt_langevin"):
        MolecularDynamics(molecule("H2O"), PairPotential(), make_config(ensemble), seed=0)

    class NoStress(PairPotential):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

    with pytest.raises(SamplerError, match=r"needs stress, which NoStress does not"):
        MolecularDynamics(argon(), NoStress(), make_config(ensemble), seed=0)


def test_mtk_refuses_constraints() -> None:
    with pytest.raises(SamplerError, match=r"cannot keep constraints \(FixAtoms\).*npt_berendsen"):
        make("npt_mtk", fix_atoms=[0])


def test_bussi_refuses_zero_temperature() -> None:
    with pytest.raises(SamplerError, match=r"cannot start from 0 K.*nvt_langevin"):
        make("nvt_bussi", initial_temperature=0)


def test_everything_fixed_is_refused() -> None:
    with pytest.raises(SamplerError, match="0 thermal degrees of freedom"):
        make("nve", fix_atoms=list(range(32)))


def test_a_fixed_atom_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"fix_atoms names atom 32, the structure has 32 atoms; write .* 0 to 31"):
        make("nve", fix_atoms=[1, 32])


def test_a_foreign_state_is_refused() -> None:
    state = make("nve").state()
    with pytest.raises(SamplerError, match="'nve'"):
        make("nvt_bussi").restore(state)
    with pytest.raises(SamplerError, match="32 atoms"):
        MolecularDynamics(bulk("Ar", cubic=True), PairPotential(), make_config("nve"), seed=0).restore(state)


def test_make_sampler_and_the_callers_atoms_are_untouched() -> None:
    atoms = argon()
    sampler = make_sampler(make_config("nvt_langevin"), atoms, PairPotential(), seed=0, name="a")
    sampler.advance(2)
    assert sampler.step == 2
    assert np.array_equal(atoms.positions, argon().positions)
    assert atoms.calc is None
    assert not atoms.has("momenta")
