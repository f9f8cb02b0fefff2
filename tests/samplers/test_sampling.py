"""Whether the samplers sample what they say: temperature, its fluctuation, pressure. Slow (marker ``physics``).

The dynamics is chaotic: another processor's rounding makes another random experiment of a test in spite of its seed. A
correct sampler fails one comparison in 100,000 (Student's t of the block means).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms
from scipy import stats

from ideal.config import MolecularDynamicsConfig
from ideal.samplers import MolecularDynamics

from .pair_potential import PairPotential, argon

pytestmark = pytest.mark.physics
TARGET = 50.0
BLOCKS = 20
LIMIT = float(stats.t.ppf(1 - 0.5e-5, BLOCKS - 1))
"""How many standard errors a mean may be off."""
PRESSURE = 0.3 * units.GPa  # at less the small crystal of a truncated potential evaporates


def sample(ensemble: str, equilibrate: int, steps: int, fixed: int = 0, **values: Any) -> dict[str, np.ndarray]:
    atoms = argon()
    atoms.set_constraint(FixAtoms(list(range(fixed))) if fixed else None)
    config = MolecularDynamicsConfig.model_validate(
        {"ensemble": ensemble, "timestep": 8, "steps": equilibrate + steps, "temperature": TARGET, **values}
    )
    dynamics = MolecularDynamics(atoms, PairPotential(), config, seed=5)
    dynamics.advance(equilibrate)
    temperatures, pressures, volumes = [], [], []
    while not dynamics.finished:
        dynamics.advance(10)
        temperatures.append(dynamics.temperature)
        volumes.append(dynamics.atoms.get_volume())
        stress = dynamics.atoms.get_stress(include_ideal_gas=True)
        pressures.append(-stress[:3].mean())
    degrees = dynamics.state()["degrees_of_freedom"]
    return {
        "temperature": np.array(temperatures),
        "pressure": np.array(pressures),
        "volume": np.array(volumes),
        "degrees": np.array(degrees),
    }


def standard_error(values: np.ndarray) -> float:
    means = [block.mean() for block in np.array_split(values, BLOCKS)]
    return float(np.std(means, ddof=1) / np.sqrt(BLOCKS))


@pytest.mark.parametrize(
    ("ensemble", "values"),
    [
        ("nvt_langevin", {"friction": 0.005}),
        ("nvt_langevin", {"friction": 0.005, "fixed": 8}),
        ("nvt_bussi", {"thermostat_time": 100}),
        ("nvt_bussi", {"thermostat_time": 100, "fixed": 8}),
        ("npt_mtk", {"thermostat_time": 200, "barostat_time": 1000, "pressure": PRESSURE}),
    ],
)
def test_canonical_temperature_and_its_fluctuation(ensemble: str, values: dict[str, Any]) -> None:
    """<T> = target and var(T) = 2 T^2 / n_dof, both within the errors of sampling."""
    result = sample(ensemble, 1000, 12000, **values)
    temperature = result["temperature"]
    assert abs(temperature.mean() - TARGET) < LIMIT * standard_error(temperature)
    assert standard_error(temperature) < 0.02 * TARGET
    expected = 2 * TARGET**2 / result["degrees"]
    squares = (temperature - TARGET) ** 2
    assert abs(squares.mean() - expected) < LIMIT * standard_error(squares)


@pytest.mark.parametrize("ensemble", ["npt_berendsen", "npt_mtk", "npt_proportional"])
def test_pressure_reaches_its_target(ensemble: str) -> None:
    values = {"pressure": PRESSURE, "thermostat_time": 200, "barostat_time": 1000, "compressibility": 60}
    result = sample(ensemble, 1500, 8000, **values)
    assert abs(result["pressure"].mean() - PRESSURE) < LIMIT * standard_error(result["pressure"])
    assert standard_error(result["pressure"]) < 0.1 * PRESSURE
    assert abs(result["temperature"].mean() - TARGET) < max(LIMIT * standard_error(result["temperature"]), 1.0)


def test_both_barostats_agree_on_the_volume() -> None:
    values: dict[str, Any] = {
        "pressure": PRESSURE,
        "thermostat_time": 200,
        "barostat_time": 1000,
        "compressibility": 60,
    }
    one, other = (sample(ensemble, 1500, 8000, **values)["volume"] for ensemble in ("npt_berendsen", "npt_mtk"))
    assert one.mean() == pytest.approx(other.mean(), rel=0.01)


def test_energy_drift_of_velocity_verlet_is_of_second_order() -> None:
    def fluctuation(timestep: float) -> float:
        config = MolecularDynamicsConfig(
            ensemble="nve", timestep=timestep, steps=round(4000 / timestep), temperature=40
        )
        dynamics = MolecularDynamics(argon(), PairPotential(), config, seed=5)
        energies = []
        while not dynamics.finished:
            dynamics.advance(5)
            energies.append(dynamics.atoms.get_total_energy())
        return float(np.std(energies))

    assert fluctuation(10.0) / fluctuation(5.0) == pytest.approx(4, rel=0.3)
