"""Replica exchange goes on bitwise, exchanges by the rule and keeps canonical distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms
from pydantic import ValidationError

from ideal.config import ReplicaExchangeConfig
from ideal.errors import SamplerError
from ideal.samplers import ReplicaExchange
from ideal.samplers.several import Several

from .double_well import HALF, MIDDLE, DoubleWell, pair
from .pair_potential import PairPotential, argon


def ladder(**changes: Any) -> ReplicaExchange:
    """Three replicas of a small argon crystal."""
    keys = {"temperatures": [30.0, 33.0, 36.0], "exchange_every": 2, "timestep": 2.0, "steps": 30, **changes}
    return ReplicaExchange(argon(), PairPotential(), ReplicaExchangeConfig(**keys), seed=4)


@pytest.mark.parametrize("ensemble", ["nvt_langevin", "nvt_bussi"])
def test_restart_is_bitwise(ensemble: str) -> None:
    whole, first = ladder(ensemble=ensemble), ladder(ensemble=ensemble)
    whole.advance(11)
    for n in (3, 1, 4, 3):
        first.advance(n)
        state = first.state()
        first = ladder(ensemble=ensemble)
        first.restore(state)
    assert first.step == 11 and first.observables() == whole.observables() != {}
    for a, b in zip(first.configurations, whole.configurations, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.get_momenta(), b.get_momenta())


def test_an_exchange_swaps_configurations_and_scales_momenta() -> None:
    replicas = ladder(exchange_every=1000)
    replicas.advance(3)
    cold, hot = replicas.configurations[:2]
    before = [(atoms.get_positions(), atoms.get_momenta(), atoms.get_potential_energy()) for atoms in (cold, hot)]
    replicas._swap(0, 1)
    np.testing.assert_array_equal(cold.positions, before[1][0])
    np.testing.assert_allclose(cold.get_momenta(), before[1][1] * np.sqrt(30 / 33), rtol=1e-12)
    np.testing.assert_allclose(hot.get_momenta(), before[0][1] * np.sqrt(33 / 30), rtol=1e-12)
    assert (cold.get_potential_energy(), hot.get_potential_energy()) == (before[1][2], before[0][2])
    assert replicas.walkers.tolist() == [1, 0, 2]


def test_exchanges_are_accepted_as_often_as_the_rule_says() -> None:
    replicas = ladder(temperatures=[30.0, 45.0], exchange_every=1000)
    replicas.advance(60)
    energies = [atoms.get_potential_energy() for atoms in replicas.configurations]
    beta = 1 / (units.kB * np.array(replicas.config.temperatures))
    up = min(1.0, float(np.exp((beta[0] - beta[1]) * (energies[0] - energies[1]))))
    tries, accepted = 2000, 0
    for _ in range(tries):
        replicas._exchanges[:] = 0
        replicas._exchange()
        if replicas._exchanges[0]:
            accepted += 1
            replicas._swap(0, 1)
    assert 0.0 < up < 1.0
    assert abs(accepted / tries - up) < 4 * np.sqrt(up * (1 - up) / tries)


def test_pairs_take_turns() -> None:
    replicas = ladder()
    replicas.advance(2)
    assert (replicas._attempts > 0).tolist() == [False, True]
    replicas.advance(2)
    assert (replicas._attempts > 0).tolist() == [True, True]


def test_a_replica_that_leaves_the_range_puts_all_back() -> None:
    replicas = ladder()
    replicas.advance(3)
    before = replicas.state()
    replicas.set_calculator(PairPotential(epsilon=1e4))
    with pytest.raises(SamplerError, match="replicas at 30 K"):
        replicas.advance(1)
    assert replicas.step == 3
    for atoms, state in zip(replicas.configurations, before["replicas"], strict=True):
        np.testing.assert_array_equal(atoms.positions, state["positions"])


def test_every_replica_can_be_shown() -> None:
    replicas = ladder()
    assert isinstance(replicas, Several) and replicas.atoms is replicas.configurations[0]
    replicas.show(2)
    assert replicas.atoms is replicas.configurations[2] and replicas.temperature == pytest.approx(36.0)
    replicas.show(None)
    assert replicas.atoms is replicas.configurations[0]


def test_temperatures_must_rise() -> None:
    with pytest.raises(ValidationError, match="do not rise"):
        ReplicaExchangeConfig(temperatures=[300, 300])


@pytest.mark.physics
def test_every_temperature_keeps_its_canonical_distribution() -> None:
    """Mean potential energies against quadrature; exchanges are so frequent that a wrong rule would mix them."""
    well = DoubleWell(barrier=0.015, tilt=0.006)
    atoms = pair(MIDDLE + HALF)
    atoms.symbols[:] = "He"  # fast: sixteen steps a period
    atoms.set_constraint(FixAtoms([0]))
    config = ReplicaExchangeConfig(
        temperatures=[60.0, 180.0], exchange_every=4, timestep=10.0, friction=0.01, steps=5000
    )
    replicas = ReplicaExchange(atoms, well, config, seed=11)
    replicas.advance(200)
    energies: list[list[float]] = []
    while not replicas.finished:
        replicas.advance(4)
        energies.append([replica.get_potential_energy() for replica in replicas.configurations])
    distances = np.linspace(MIDDLE - 3 * HALF, MIDDLE + 3 * HALF, 2001)
    for sampled, temperature in zip(np.array(energies).T, config.temperatures, strict=True):
        expected = float(np.average(well.profile(distances), weights=well.density(distances, temperature)))
        blocks = sampled[: len(sampled) // 20 * 20].reshape(20, -1).mean(axis=1)
        error = blocks.std(ddof=1) / np.sqrt(len(blocks))
        assert error < 0.1 * units.kB * temperature
        assert abs(blocks.mean() - expected) < 6 * error, (temperature, blocks.mean(), expected, error)
    assert all(0.2 < share < 0.9 for share in replicas.observables().values())
