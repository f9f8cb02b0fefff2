"""Whether the samplers sample the ensembles that are known in closed form. Marker ``physics``.

Every test is one random experiment with a fixed seed; with another seed, and where the dynamics is chaotic with another
processor's rounding, a correct sampler fails it with the probability that ``FALSE_ALARM`` says. Samples are correlated:
error bars come from block means (`block_error`), whose ratio follows Student's t with BLOCKS - 1 degrees of freedom,
and distributions are compared by the sums over cells of known probability, each tested in this way with the rate shared
among them (Bonferroni).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from scipy import stats

from ideal.config import BiasConfig, BiasedDynamicsConfig, MolecularDynamicsConfig, MonteCarloConfig
from ideal.samplers import BiasedDynamics, MolecularDynamics, MonteCarlo
from ideal.samplers.base import Sampler

from .known_systems import EinsteinCrystal, HarmonicVolume, IdealGas, KnownPotential, SiteEnergies, SpringUncertainty

pytestmark = pytest.mark.physics

FALSE_ALARM = 1e-5
BLOCKS = 20
TEMPERATURE = 300.0
KT = units.kB * TEMPERATURE
STIFFNESS = 2.0  # eV/Å²


def z_limit(n_tests: int = 1) -> float:
    """How many block errors a mean may be off, at a rate of false alarms shared among tests."""
    return float(stats.t.ppf(1 - FALSE_ALARM / (2 * n_tests), BLOCKS - 1))


def assert_mean(values: np.ndarray, expected: float, n_tests: int = 1, precision: float = 0.1) -> None:
    """The mean of correlated values is the expected one, and is known to better than ``precision`` of it."""
    means = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    error = float(means.std(ddof=1) / np.sqrt(BLOCKS))
    assert abs(values.mean() - expected) < z_limit(n_tests) * error
    assert error < precision * abs(expected)


def assert_distribution(values: np.ndarray, law: Any, n_cells: int = 8) -> None:
    """Each of ``n_cells`` cells of equal probability holds its share."""
    edges = law.ppf(np.arange(1, n_cells) / n_cells)
    cells = np.searchsorted(edges, values)
    for cell in range(n_cells):
        assert_mean((cells == cell).astype(float), 1 / n_cells, n_cells, precision=0.3)


def observe(sampler: Sampler, what: Any, burn_in: int, n: int, every: int) -> np.ndarray:
    sampler.advance(burn_in)
    values = []
    for _ in range(n):
        sampler.advance(every)
        values.append(what(sampler.atoms))
    return np.array(values)


def einstein() -> Atoms:
    return Atoms("Ar4", positions=[[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]], cell=[12, 12, 12])


def anchored() -> Atoms:
    """With a fifth atom to fix: thermostats leave the center of mass alone where nothing is fixed, springs do not."""
    return einstein() + Atoms("Ar", positions=[[6, 6, 6]])


def monte_carlo(atoms: Atoms, potential: KnownPotential, moves: dict[str, Any], seed: int, **values: Any) -> MonteCarlo:
    defaults = {"temperature": TEMPERATURE, "steps": 10**6, "burn_in": 500}
    config = MonteCarloConfig.model_validate({**defaults, **values, "moves": {"displacement": 0, "core": 0, **moves}})
    return MonteCarlo(atoms, potential, config, seed, SpringUncertainty(atoms.positions.copy(), 1.0))


# --- displacements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_monte_carlo_of_an_einstein_crystal(tau: float) -> None:
    """Each coordinate is Gaussian with variance kT / k; the bias - tau |r - site|^2 makes k - 2 tau of k."""
    atoms = einstein()
    potential = EinsteinCrystal(atoms.positions.copy(), STIFFNESS)
    bias = {"bias": {"tau": tau, "u": "total"}} if tau else {}
    sampler = monte_carlo(atoms, potential, {"displacement": 1, "displaced_atoms": None}, 1, **bias)
    away = observe(sampler, lambda a: (a.positions - potential.sites).ravel(), 500, 1600, 3)
    sigma = np.sqrt(KT / (STIFFNESS - 2 * tau))
    assert_mean((away**2).mean(axis=1), sigma**2)
    assert_distribution(away[:, 0], stats.norm(scale=sigma))


@pytest.mark.parametrize(("ensemble", "tau"), [("nvt_langevin", 0.5), ("nvt_bussi", 0.0)])
def test_dynamics_of_an_einstein_crystal(ensemble: str, tau: float) -> None:
    """The same distribution from dynamics, plain and biased."""
    atoms = anchored()
    potential = EinsteinCrystal(atoms.positions.copy(), STIFFNESS)
    values: dict[str, Any] = {
        "ensemble": ensemble,
        "temperature": TEMPERATURE,
        "timestep": 10.0,
        "steps": 10**6,
        "fix_atoms": [4],
        "friction": 0.02,
        "thermostat_time": 40.0,
    }
    uncertainty = SpringUncertainty(potential.sites, 1.0)
    config = BiasedDynamicsConfig(**values, bias=BiasConfig(tau=tau, u="total"))
    sampler = BiasedDynamics(atoms, potential, config, 3, uncertainty)  # type: ignore[arg-type]
    away = observe(sampler, lambda a: (a.positions[:4] - potential.sites[:4]).ravel(), 500, 1500, 6)
    # Velocity Verlet of a harmonic oscillator samples a variance larger by 1 / (1 - (omega dt / 2)^2) (Langevin and
    # stochastic rescaling around it change this at higher order): 1 % here.
    mass, stiffness = atoms.get_masses()[0], STIFFNESS - 2 * tau
    sigma = np.sqrt(KT / stiffness / (1 - stiffness / mass * (10 * units.fs) ** 2 / 4))
    assert_mean((away**2).mean(axis=1), sigma**2)


# --- volumes ----------------------------------------------------------------------------------------------------------


def gas(n: int) -> Atoms:
    atoms = Atoms("Ar" * n, cell=[9.0] * 3, pbc=True)
    atoms.set_scaled_positions(np.random.default_rng(0).random((n, 3)))
    return atoms


def test_volume_of_an_ideal_gas() -> None:
    """p(V) ~ V^N exp(-PV/kT): a gamma distribution of shape N + 1 and scale kT/P."""
    n, pressure = 8, 9 * KT / 9.0**3
    sampler = monte_carlo(gas(n), IdealGas(), {"volume": 1, "volume_step": 0.3}, 2, pressure=pressure)
    volumes = observe(sampler, lambda a: a.get_volume(), 500, 1600, 4)
    law = stats.gamma(n + 1, scale=KT / pressure)
    assert_mean(volumes, law.mean())
    assert_mean((volumes - law.mean()) ** 2, law.var(), precision=0.2)
    assert_distribution(volumes, law)


def harmonic_volume(n: int, stiffness: float, centre: float, pressure: float) -> tuple[float, float]:
    """Mean and variance of p(V) ~ V^N exp(-(k (V - V0)^2 / 2 + PV)/kT), by quadrature."""
    volumes = np.linspace(0.2 * centre, 3 * centre, 200001)
    log = n * np.log(volumes) - (0.5 * stiffness * (volumes - centre) ** 2 + pressure * volumes) / KT
    weight = np.exp(log - log.max())
    mean = float((weight * volumes).sum() / weight.sum())
    return mean, float((weight * (volumes - mean) ** 2).sum() / weight.sum())


def test_volume_and_shape_of_a_known_potential() -> None:
    """Shape moves at constant volume change nothing in the distribution of the volume."""
    n, pressure = 8, 0.5 * units.GPa
    potential = HarmonicVolume(KT / 60.0**2, 700.0)
    moves = {"volume": 1, "shape": 1, "volume_step": 0.2}
    sampler = monte_carlo(gas(n), potential, moves, 3, pressure=pressure)
    volumes = observe(sampler, lambda a: a.get_volume(), 500, 1600, 5)
    mean, variance = harmonic_volume(n, potential.stiffness, potential.volume, pressure)
    assert_mean(volumes, mean)
    assert_mean((volumes - mean) ** 2, variance, precision=0.2)


def test_volume_of_martyna_tobias_klein() -> None:
    """Dynamics at constant pressure: the center of mass is at rest, so N - 1 atoms fill the volume."""
    n, pressure = 8, 0.5 * units.GPa
    potential = HarmonicVolume(KT / 60.0**2, 700.0)
    config = MolecularDynamicsConfig(
        ensemble="npt_mtk",
        temperature=TEMPERATURE,
        timestep=5.0,
        steps=10**6,
        pressure=pressure,
        thermostat_time=50.0,
        barostat_time=200.0,
    )
    sampler = MolecularDynamics(gas(n), potential, config, seed=4)
    volumes = observe(sampler, lambda a: a.get_volume(), 1000, 1500, 8)
    mean, variance = harmonic_volume(n - 1, potential.stiffness, potential.volume, pressure)
    assert_mean(volumes, mean)
    assert_mean((volumes - mean) ** 2, variance, precision=0.2)


# --- lattices ---------------------------------------------------------------------------------------------------------


def test_swaps_between_two_kinds_of_sites() -> None:
    """One gold atom among copper ones: p(site) ~ exp(-cost/kT), exactly countable."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    costs = np.array([0.0, 0.5, 1.0, 1.5]) * KT
    potential = SiteEnergies(atoms.positions.copy(), costs, 79)
    sampler = monte_carlo(atoms, potential, {"swap": 1}, 5)
    sites = observe(sampler, lambda a: potential.occupied(a)[0], 50, 2000, 2)
    expected = np.exp(-costs / KT) / np.exp(-costs / KT).sum()
    for site, share in enumerate(expected):
        assert_mean((sites == site).astype(float), share, 4)


def test_hops_of_vacancies() -> None:
    """Two vacancies among eight sites with costs: 28 states with known weights, some reached only by hops."""
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    sites = atoms.positions.copy()
    vacancies = atoms.get_scaled_positions()[[1, 6]].tolist()
    del atoms[[1, 6]]
    costs = np.linspace(0, 1.5, 8) * KT
    potential = SiteEnergies(sites, costs, 29)
    sampler = monte_carlo(atoms, potential, {"hop": 1, "vacancies": vacancies, "hop_radius": 2.6}, 6)

    def empty(a: Atoms) -> tuple[int, int]:
        vectors = (a.positions[:, None] - sites[None]).reshape(-1, 3)
        fractions = np.linalg.solve(a.cell.array.T, vectors.T).T
        distances = np.linalg.norm((fractions - np.rint(fractions)) @ a.cell.array, axis=1).reshape(len(a), 8)
        first, second = np.setdiff1d(np.arange(8), distances.argmin(axis=1))
        return int(first), int(second)

    # an atom may hop across the boundary: what it pays for is the site modulo the cell
    potential.occupied = lambda a: np.setdiff1d(np.arange(8), empty(a))  # type: ignore[method-assign]
    pairs = observe(sampler, empty, 50, 1200, 2)
    gains = np.exp(costs / KT)
    expected = {(i, j): gains[i] * gains[j] for i in range(8) for j in range(i + 1, 8)}
    total = sum(expected.values())
    for i in range(8):
        share = sum(weight for pair, weight in expected.items() if i in pair) / total
        assert_mean((pairs == i).any(axis=1).astype(float), share, 8)


def test_moves_between_blocks_of_dynamics() -> None:
    """Langevin dynamics and displacements together keep the Gaussian of the Einstein crystal."""
    atoms = anchored()
    potential = EinsteinCrystal(atoms.positions.copy(), STIFFNESS)
    moves = {"displacement": 1, "displacement_step": 0.2}
    blocks = {"trials": 10, "steps": 10, "timestep": 5.0, "friction": 0.02}
    sampler = monte_carlo(atoms, potential, moves, 7, dynamics=blocks, fix_atoms=[4])
    away = observe(sampler, lambda a: (a.positions[:4] - potential.sites[:4]).ravel(), 500, 1200, 6)
    assert_mean((away**2).mean(axis=1), KT / STIFFNESS)
    assert_distribution(away[:, 0], stats.norm(scale=np.sqrt(KT / STIFFNESS)))
