"""Replica exchange: copies of one structure at several temperatures that exchange their configurations.

    p(i <-> j) = min(1, exp[(1/kT_i - 1/kT_j) (E_i - E_j)])

for neighbors i, j with potential energies E; after an exchange the momenta are scaled by sqrt(T_new / T_old) (Sugita
and Okamoto, 10.1016/S0009-2614(99)01123-9), so that each temperature keeps its canonical distribution. Even and odd
pairs take turns in a fixed order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from ideal.config import MolecularDynamicsConfig, ReplicaExchangeConfig
from ideal.errors import SamplerError
from ideal.samplers.molecular_dynamics import MolecularDynamics
from ideal.samplers.own_results import OwnResults
from ideal.samplers.structures import check_same_atoms


class ReplicaExchange:
    """A ladder of replicas; one step is one time step of each.

    Args:
        atoms: the starting structure of every replica; copied with its constraints.
        calculator: ASE calculator that gives forces.
        config: temperatures, attempts, dynamics.
        seed: decides velocities, thermostat noise and exchanges.
        max_temperature: largest instantaneous temperature of a replica, K.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Attributes:
        configurations: the replicas from the coldest to the hottest.
        walkers: which of the starting configurations is at each temperature now.

    Raises:
        ConfigError, SamplerError: as `MolecularDynamics`.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> config = ReplicaExchangeConfig(temperatures=[300, 330, 360], exchange_every=5, steps=100)
        >>> ladder = ReplicaExchange(bulk("Cu", cubic=True), EMT(), config, seed=0)
        >>> ladder.advance(100)
        >>> ladder.observables()
        {'exchanged_0_1': 1.0, 'exchanged_1_2': 1.0}
    """

    kind = "replica_exchange"

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: ReplicaExchangeConfig,
        seed: int,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        name: str = "replicas",
    ) -> None:
        self.config = config
        self.name = name
        self._rng = np.random.default_rng([seed, 2])
        seeds = np.random.SeedSequence([seed, 3]).generate_state(len(config.temperatures), np.uint64)
        self._replicas = [
            MolecularDynamics(
                atoms,
                OwnResults(calculator),
                _dynamics(config, temperature),
                int(own_seed),
                max_temperature,
                max_force,
                name=f"{name} at {temperature:g} K",
            )
            for temperature, own_seed in zip(config.temperatures, seeds, strict=True)
        ]
        self.configurations = tuple(replica.atoms for replica in self._replicas)
        n_pairs = len(self._replicas) - 1
        self._attempts, self._exchanges = np.zeros(n_pairs, dtype=np.int64), np.zeros(n_pairs, dtype=np.int64)
        self.walkers = np.arange(len(self._replicas))
        self._shown = 0

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def atoms(self) -> Atoms:
        """The replica that is shown: the coldest, or the one that `show` named."""
        return self.configurations[self._shown]

    def show(self, index: int | None) -> None:
        """Make ``atoms`` the replica of that index; None: the coldest."""
        self._shown = 0 if index is None else index

    @property
    def step(self) -> int:
        """Time steps of every replica so far."""
        return self._replicas[0].step

    @property
    def time_fs(self) -> float:
        """Simulated time of every replica in fs."""
        return self._replicas[0].time_fs

    @property
    def temperature(self) -> float:
        """Instantaneous temperature in K of the replica that is shown."""
        return self._replicas[self._shown].temperature

    @property
    def finished(self) -> bool:
        """Whether ``config.steps`` steps are taken."""
        return self._replicas[0].finished

    def observables(self) -> dict[str, float]:
        """Share of accepted exchanges of each pair of neighbors that was tried, the coldest pair first."""
        tried = np.flatnonzero(self._attempts)
        return {f"exchanged_{i}_{i + 1}": float(self._exchanges[i] / self._attempts[i]) for i in tried}

    @property
    def conclusion(self) -> str:
        """How often neighbors exchanged, in a few words; empty before the end."""
        if not self.finished:
            return ""
        shares = [
            f"{cold:g}-{hot:g} K {exchanges} of {attempts}"
            for (cold, hot), exchanges, attempts in zip(
                pairwise(self.config.temperatures), self._exchanges, self._attempts, strict=True
            )
        ]
        return "exchanged " + ", ".join(shares)

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when ``config.steps`` is reached before.

        Raises:
            SamplerError: a replica left the physical range; all are back at the last good step.
        """
        for _ in range(n):
            if self.finished:
                return
            good = self.state()
            try:
                for replica in self._replicas:
                    replica.advance(1)
                if self.step % self.config.exchange_every == 0:
                    self._exchange()
            except BaseException:
                self.restore(good)
                raise

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator from the same positions and momenta."""
        for replica in self._replicas:
            replica.set_calculator(OwnResults(calculator))

    def reseed(self, seed: int) -> None:
        """Go on with other noise, exchanges and velocities."""
        self._rng = np.random.default_rng([seed, 2])
        seeds = np.random.SeedSequence([seed, 3]).generate_state(len(self._replicas), np.uint64)
        for replica, own_seed in zip(self._replicas, seeds, strict=True):
            replica.reseed(int(own_seed))

    def _exchange(self) -> None:
        """Try every other pair of neighbors."""
        parity = (self.step // self.config.exchange_every) % 2
        inverse = 1 / (units.kB * np.array(self.config.temperatures))
        for cold in range(parity, len(self._replicas) - 1, 2):
            hot = cold + 1
            energies = [self.configurations[index].get_potential_energy() for index in (cold, hot)]
            exponent = (inverse[cold] - inverse[hot]) * (energies[0] - energies[1])
            self._attempts[cold] += 1
            if self._rng.random() < np.exp(min(0.0, exponent)):
                self._swap(cold, hot)

    def _swap(self, cold: int, hot: int) -> None:
        """Exchange two configurations, with their results and scaled momenta."""
        self._exchanges[cold] += 1
        self.walkers[[cold, hot]] = self.walkers[[hot, cold]]
        one, other = self.configurations[cold], self.configurations[hot]
        scale = np.sqrt(self.config.temperatures[cold] / self.config.temperatures[hot])
        places, momenta = (one.get_positions(), other.get_positions()), (one.get_momenta(), other.get_momenta())
        one.calc, other.calc = other.calc, one.calc
        one.set_positions(places[1], apply_constraint=False)
        one.set_momenta(momenta[1] * scale, apply_constraint=False)
        other.set_positions(places[0], apply_constraint=False)
        other.set_momenta(momenta[0] / scale, apply_constraint=False)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: the replicas' states, exchanges and random numbers."""
        return {
            "kind": self.kind,
            "numbers": self.atoms.numbers.copy(),
            "replicas": [replica.state() for replica in self._replicas],
            "rng": json.dumps(self._rng.bit_generator.state),
            "attempts": self._attempts.copy(),
            "exchanges": self._exchanges.copy(),
            "walkers": self.walkers.copy(),
            "shown": self._shown,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            SamplerError: the state belongs to another structure, sampler or number of replicas.
        """
        check_same_atoms(state, self.atoms, self.kind, self.name)
        if len(state["replicas"]) != len(self._replicas):
            raise SamplerError(
                f"trajectory {self.name!r}: the state has {len(state['replicas'])} replicas, the configuration says "
                f"{len(self._replicas)}; resume with the configuration of the run"
            )
        for replica, own in zip(self._replicas, state["replicas"], strict=True):
            replica.restore(own)
        self._rng.bit_generator.state = json.loads(state["rng"])
        self._attempts, self._exchanges = np.array(state["attempts"]), np.array(state["exchanges"])
        self.walkers = np.array(state["walkers"])
        self._shown = int(state["shown"])


def _dynamics(config: ReplicaExchangeConfig, temperature: float) -> MolecularDynamicsConfig:
    """Molecular dynamics of one replica."""
    return MolecularDynamicsConfig(
        ensemble=config.ensemble,
        steps=config.steps,
        fix_atoms=config.fix_atoms,
        timestep=config.timestep,
        temperature=temperature,
        initial_temperature=temperature,
        friction=config.friction,
        thermostat_time=config.thermostat_time,
    )
