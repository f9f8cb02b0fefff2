"""The biased surface, the strength of the bias, and dynamics on it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from ideal import IdealCalculator
from ideal.config import BiasConfig, BiasedDynamicsConfig, ModelConfig, MolecularDynamicsConfig
from ideal.errors import ConfigError, SamplerError
from ideal.models.m3gnet import M3GNetPotential
from ideal.samplers import BiasedDynamics, MolecularDynamics, make_sampler
from ideal.samplers.base import Sampler, observables
from ideal.samplers.bias_strength import NormRatio
from ideal.samplers.biased_surface import BiasedSurface
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis
from ideal.uncertainty.committee import ModelCommittee
from ideal.uncertainty.gradient_features import GradientFeatures
from ideal.uncertainty.structure import PowerMean

from .pair_potential import PairPotential, argon

ENSEMBLES = ("nve", "nvt_langevin", "nvt_bussi", "npt_berendsen", "npt_mtk", "npt_proportional")


def learn(n: int = 3) -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Ar"], r_cut=4.5, n_max=3, l_max=2), ridge=1e-3)
    for seed in range(n):
        atoms = argon()
        atoms.rattle(0.05, seed=seed)
        uncertainty.update(atoms)
    return uncertainty


@pytest.fixture(scope="module")
def known() -> SoapMahalanobis:
    return learn()


def make_config(ensemble: str = "nvt_langevin", bias: dict[str, Any] | None = None, **values: Any) -> Any:
    defaults: dict[str, Any] = {"ensemble": ensemble, "timestep": 5, "steps": 1000, "temperature": 40}
    if ensemble.startswith("npt"):
        defaults["pressure"] = "0.1 GPa"
    bias = {"strength": 0.3, "burn_in": 4, "window": 6, **(bias or {})}
    return BiasedDynamicsConfig.model_validate({**defaults, "bias": bias, **values})


def make(known: SoapMahalanobis, ensemble: str = "nvt_langevin", seed: int = 7, **values: Any) -> BiasedDynamics:
    return BiasedDynamics(argon(), PairPotential(), make_config(ensemble, **values), seed, known)


def assert_same(a: Sampler, b: Sampler) -> None:
    assert a.step == b.step
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.get_momenta(), b.atoms.get_momenta())
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)


# --- the surface ------------------------------------------------------------------------------------------------------


def surface_of(known: SoapMahalanobis, tau: float = 0.2, **values: Any) -> BiasedSurface:
    surface = BiasedSurface(PairPotential(), PowerMean(known), **values)
    surface.set_strength(tau)
    return surface


def energy_of(known: SoapMahalanobis, atoms: Atoms) -> float:
    other = atoms.copy()
    other.calc = surface_of(known)
    return float(other.get_potential_energy())


def test_forces_and_stress_derive_from_the_biased_energy(known: SoapMahalanobis) -> None:
    atoms, h = argon(), 1e-4
    atoms.calc = surface_of(known)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    plain = argon()
    plain.calc = PairPotential()
    assert np.abs(forces - plain.get_forces()).max() > 0.01
    for atom, axis in ((0, 0), (5, 1), (31, 2)):
        moved = []
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[atom, axis] += sign * h
            moved.append(energy_of(known, other))
        assert forces[atom, axis] == pytest.approx(-(moved[0] - moved[1]) / (2 * h), abs=1e-7)
    h = 1e-5
    for axis in range(3):  # the pair potential takes orthogonal cells only
        moved = []
        for sign in (1, -1):
            scale = np.ones(3)
            scale[axis] += sign * h
            other = atoms.copy()
            other.set_cell(atoms.cell.array * scale, scale_atoms=True)
            moved.append(energy_of(known, other))
        assert stress[axis, axis] == pytest.approx((moved[0] - moved[1]) / (2 * h) / atoms.get_volume(), abs=1e-8)


def test_the_strength_changes_without_a_new_evaluation(known: SoapMahalanobis) -> None:
    atoms = argon()
    surface = surface_of(known, 0.0)
    atoms.calc = surface
    plain, biased = atoms.get_forces(), {}
    for tau in (0.1, 0.2):
        surface.set_strength(tau)
        biased[tau] = atoms.get_forces() - plain
    np.testing.assert_allclose(biased[0.2], 2 * biased[0.1], atol=1e-12)
    assert surface.physical.evaluations == 1  # type: ignore[attr-defined]


def test_a_large_bias_force_is_limited(known: SoapMahalanobis) -> None:
    atoms = argon()
    atoms.calc = surface_of(known, 100.0, max_force=0.05)
    plain = argon()
    plain.calc = PairPotential()
    bias = atoms.get_forces() - plain.get_forces()
    assert np.linalg.norm(bias, axis=1).max() == pytest.approx(0.05)
    assert np.abs(bias.sum(axis=0)).max() < 1e-10


def test_factors_of_elements_leave_the_center_of_mass_alone() -> None:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Ar", "H"], r_cut=4.5, n_max=3, l_max=2), ridge=1e-3)
    atoms = argon()
    atoms.symbols[::2] = "H"
    uncertainty.update(atoms)
    atoms.rattle(0.1, seed=1)
    surface = BiasedSurface(PairPotential(), PowerMean(uncertainty), {"H": 0.0})
    surface.set_strength(0.2)
    atoms.calc = PairPotential()
    plain = atoms.get_forces()
    atoms.calc = surface
    bias = atoms.get_forces() - plain
    assert np.abs(bias[::2]).max() == 0
    assert np.abs(bias[1::2]).max() > 0.01
    assert np.abs(bias.sum(axis=0)).max() < 1e-12


# --- the strength -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, None])
@pytest.mark.parametrize("average", ["mean", "rms"])
def test_ratio_of_norms(window: int | None, average: str) -> None:
    ratio = NormRatio(window, average)
    assert ratio.value == 0
    pairs = np.random.default_rng(0).uniform(1, 2, (7, 2))
    for pair in pairs:
        ratio.add(*pair)
    counted = pairs if window is None else pairs[-3:]
    if average == "mean":
        expected = counted[:, 0].sum() / counted[:, 1].sum()
    else:
        expected = np.linalg.norm(counted[:, 0]) / np.linalg.norm(counted[:, 1])
    assert ratio.value == pytest.approx(expected)
    again = NormRatio(window, average)
    again.restore(ratio.state())
    assert again.value == ratio.value


def test_tau_follows_the_norms_after_the_burn_in(known: SoapMahalanobis) -> None:
    dynamics = make(known)
    pairs = []
    for step in range(12):
        before = dynamics.observables()["tau"]
        expected = 0.0 if step < 4 else 0.3 * np.sum(pairs[-6:], axis=0)[0] / np.sum(pairs[-6:], axis=0)[1]
        assert before == pytest.approx(expected)
        dynamics.advance(1)
        atoms = dynamics.atoms
        gradient = PowerMean(known).total_gradient(atoms)[1]
        pairs.append((np.linalg.norm(atoms.get_forces()), np.linalg.norm(gradient)))


def test_a_fixed_tau_needs_no_burn_in(known: SoapMahalanobis) -> None:
    dynamics = make(known, bias={"tau": 0.07})
    values = dynamics.observables()
    assert values["tau"] == 0.07
    assert values["bias_energy"] == pytest.approx(-0.07 * PowerMean(known).total(argon()))


def test_no_bias_where_it_is_too_hot(known: SoapMahalanobis) -> None:
    hot = make(known, bias={"tau": 0.07, "max_temperature": 20})
    assert hot.temperature > 20
    assert hot.observables()["tau"] == 0
    cool = make(known, bias={"tau": 0.07, "max_temperature": 400})
    assert cool.observables()["tau"] == 0.07


def test_the_bias_drives_to_uncertainty(known: SoapMahalanobis) -> None:
    reached = {}
    for strength in (0.0, 0.5):
        dynamics = make(known, bias={"strength": strength, "burn_in": 10, "window": 20})
        dynamics.advance(10)
        values = []
        for _ in range(6):
            dynamics.advance(25)
            values.append(PowerMean(known).total(dynamics.atoms))
        reached[strength] = np.mean(values)
    assert reached[0.5] > 1.2 * reached[0.0]


def test_bias_stress_has_a_strength_of_its_own(known: SoapMahalanobis) -> None:
    one = make(known, "npt_mtk", bias={"stress_strength": 0.0})
    other = make(known, "npt_mtk", bias={"stress_strength": 2.0})
    for dynamics in (one, other):
        dynamics.advance(30)
    assert one.atoms.get_volume() != other.atoms.get_volume()


# --- the sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_strength_zero_is_molecular_dynamics_to_the_bit(known: SoapMahalanobis, ensemble: str) -> None:
    config = make_config(ensemble)
    plain_values = config.model_dump(exclude={"type", "bias"})
    plain = MolecularDynamics(argon(), PairPotential(), MolecularDynamicsConfig(**plain_values), seed=7)
    for bias in ({"strength": 0.0}, {"tau": 0.0}, {"strength": 0.4, "burn_in": 20}):
        biased = make(known, ensemble, bias=bias)
        biased.advance(20)
        while plain.step < 20:
            plain.advance(1)
        assert_same(plain, biased)
        assert biased.atoms.get_potential_energy() == plain.atoms.get_potential_energy()
    biased.advance(3)
    plain.advance(3)
    assert not np.array_equal(plain.atoms.positions, biased.atoms.positions)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("bias", [{}, {"average": "rms", "window": None, "stress_strength": 0.5}])
def test_restart_is_bitwise_the_same(known: SoapMahalanobis, ensemble: str, bias: dict[str, Any]) -> None:
    if not ensemble.startswith("npt"):
        bias = {key: value for key, value in bias.items() if key != "stress_strength"}
    whole, stopped, parts = (make(known, ensemble, bias=bias) for _ in range(3))
    whole.advance(17)
    for n in (3, 1, 13):
        parts.advance(n)
    assert_same(whole, parts)
    stopped.advance(9)
    again = make(known, ensemble, seed=99, bias=bias)
    state = stopped.state()
    assert all(isinstance(value, np.ndarray | int | str) for value in state.values())
    again.restore(state)
    again.advance(8)
    assert_same(whole, again)
    assert whole.observables() == again.observables()


def test_a_new_model_and_a_grown_distribution_are_noticed() -> None:
    known = learn()
    dynamics = make(known, bias={"tau": 0.1})
    dynamics.advance(3)
    frame = dynamics.atoms
    before = dynamics.observables()["u"]
    strange = argon()
    strange.rattle(0.4, seed=5)
    known.update([strange, strange])
    dynamics.set_calculator(PairPotential(epsilon=0.012))
    assert np.array_equal(dynamics.atoms.positions, frame.positions)
    assert dynamics.observables()["u"] == pytest.approx(PowerMean(known).total(frame), rel=1e-10)
    assert dynamics.observables()["u"] < 0.99 * before
    assert dynamics.atoms.get_potential_energy() != frame.get_potential_energy()


def test_observers_see_the_physical_surface(known: SoapMahalanobis) -> None:
    dynamics = make(known, bias={"tau": 0.1})
    dynamics.advance(2)
    atoms = dynamics.atoms
    plain = atoms.copy()
    plain.calc = PairPotential()
    assert atoms.get_potential_energy() == plain.get_potential_energy()
    assert np.array_equal(atoms.get_forces(), plain.get_forces())
    atoms.positions += 1.0
    assert not np.array_equal(atoms.positions, dynamics.atoms.positions)


def test_it_leaves_a_state_on_another_way(known: SoapMahalanobis) -> None:
    one, other = make(known), make(known)
    for dynamics, seed in ((one, 1), (other, 2)):
        dynamics.advance(2)
        dynamics.reseed(seed)
        dynamics.advance(2)
    assert not np.array_equal(one.atoms.positions, other.atoms.positions)


def test_fixed_atoms_stay_and_do_not_count(known: SoapMahalanobis) -> None:
    dynamics = make(known, fix_atoms=[0, 1], bias={"tau": 0.3})
    dynamics.advance(5)
    assert np.array_equal(dynamics.atoms.positions[:2], argon().positions[:2])
    assert isinstance(dynamics.atoms.constraints[0], FixAtoms)


def test_an_infinite_uncertainty_is_an_error() -> None:
    unknown = SoapMahalanobis(SoapPowerSpectrum(["Ar"], r_cut=4.5, n_max=3, l_max=2))
    with pytest.raises(SamplerError, match="the bias has no gradient here"):
        make(unknown, bias={"tau": 0.1}).advance(1)


@pytest.mark.slow
def test_other_uncertainties_drive_too() -> None:
    """A committee and gradient features, atom by atom and by their own number of the structure."""
    size = ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2)
    models = [M3GNetPotential.new(size, ["Li"], seed=seed) for seed in range(2)]
    start = bulk("Li", cubic=True)
    start.rattle(0.1, seed=0)
    for uncertainty in (ModelCommittee(models), GradientFeatures(models[0], size=16)):
        other = start.copy()
        other.rattle(0.1, seed=1)
        uncertainty.update([start, other])
        for u in ("total", "p_norm"):
            config = make_config(bias={"u": u, "burn_in": 2}, timestep=1)
            dynamics = BiasedDynamics(start, IdealCalculator(models[0]), config, 0, uncertainty)
            dynamics.advance(4)
            assert dynamics.observables()["tau"] > 0


def test_make_sampler(known: SoapMahalanobis) -> None:
    sampler = make_sampler(make_config(), argon(), PairPotential(), seed=7, uncertainty=known)
    assert isinstance(sampler, BiasedDynamics)
    assert set(observables(sampler)) == {"tau", "u", "bias_energy"}
    plain = make_sampler(MolecularDynamicsConfig(temperature=40), argon(), PairPotential(), seed=7)
    assert observables(plain) == {}
    with pytest.raises(ConfigError, match="biased_dynamics follows an uncertainty"):
        make_sampler(make_config(), argon(), PairPotential(), seed=7)
    with pytest.raises(ConfigError, match="which SoapMahalanobis has not"):
        make(known, bias={"u": "total"})
    with pytest.raises(ConfigError, match="names 'Xy', no chemical symbol"):
        make(known, bias={"species": {"Xy": 0.5}})


def test_limits_of_the_trajectory_hold(known: SoapMahalanobis) -> None:
    dynamics = BiasedDynamics(argon(), PairPotential(), make_config(), 7, known, max_temperature=1e-3)
    with pytest.raises(SamplerError, match="above max_temperature"):
        dynamics.advance(1)
    assert dynamics.step == 0


def test_the_configuration_survives_json() -> None:
    config = make_config(bias={"species": {"H": 0.0}})
    assert BiasedDynamicsConfig.model_validate(json.loads(config.model_dump_json())) == config
    assert BiasConfig().species == {"H": 0.25}
