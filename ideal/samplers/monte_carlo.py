"""Metropolis Monte Carlo on the model's surface or a biased one, alone or between blocks of molecular dynamics.

One step is one trial move of `ideal.samplers.moves` (Metropolis et al., 10.1063/1.1699114), or one time step of the
dynamics. Step sizes follow the share of accepted moves only during ``burn_in``; from then on nothing depends on the
past, and the moves are in detailed balance with exp(-(E - tau U) / kT), or at constant pressure with its NPT analogue.
Langevin dynamics between them keeps the same distribution, as far as its time step allows and no limit or factor of
an element changes its bias.

tau is found as in `BiasedDynamics`. Without dynamics it is fixed after its burn-in. With dynamics it goes on following
the forces, from block to block; within a block of moves it is constant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from ideal.config import BiasConfig, BiasedDynamicsConfig, MolecularDynamicsConfig, MonteCarloConfig
from ideal.errors import ConfigError, SamplerError, UncertaintyError
from ideal.samplers.bias_strength import Strength
from ideal.samplers.biased_dynamics import BiasedDynamics, uncertainty_of_structure
from ideal.samplers.molecular_dynamics import MolecularDynamics
from ideal.samplers.moves import Move, Trial, make_moves, overlaps
from ideal.samplers.structures import prepare
from ideal.samplers.velocities import free_atoms
from ideal.uncertainty.base import AtomwiseUncertainty, TotalUncertainty

_NO_BIAS = BiasConfig(strength=0.0)


class MonteCarlo:
    """One trajectory of Monte Carlo moves.

    Args:
        atoms: the starting structure; copied with its constraints. Where atoms hop, it marks the occupied sites.
        calculator: of the physical surface; gives energy and forces.
        config: moves, temperature, pressure, dynamics, bias.
        seed: decides everything random.
        uncertainty: of the atoms; needed with a bias.
        max_temperature: largest instantaneous temperature of the dynamics, K.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: a bias without uncertainty, or moves that do not fit the structure.
        SamplerError: the structure cannot be moved in this way.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> sampler = MonteCarlo(bulk("Cu", cubic=True), EMT(), MonteCarloConfig(steps=50), seed=0)
        >>> sampler.advance(50)
        >>> 0 < sampler.observables()["acceptance_displacement"] <= 1
        True
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: MonteCarloConfig,
        seed: int,
        uncertainty: AtomwiseUncertainty | None = None,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        name: str = "mc",
    ) -> None:
        self.config = config
        self.name = name
        self.max_force = max_force
        self._physical = calculator
        self._rng = np.random.default_rng([seed, 2])
        self._step = 0
        self._atoms = prepare(atoms, config.fix_atoms, name)
        self._atoms.arrays.pop("momenta", None)
        self._free = free_atoms(self._atoms)
        self._moves: dict[str, Move] = make_moves(config, self._atoms, name)
        weights = np.array([getattr(config.moves, move) for move in self._moves])
        self._chances = weights / weights.sum()
        self._sizes = {move: getattr(config.moves, f"{move}_step", 0.0) for move in self._moves}
        self._counts = {move: [0, 0] for move in self._moves}  # tried, accepted
        bias = config.bias or _NO_BIAS
        self._strength = Strength(bias)
        self._uncertainty: TotalUncertainty | None = None
        if not self._strength.is_off:
            if uncertainty is None:
                raise ConfigError(f"trajectory {name!r}: sampler.bias follows an uncertainty; pass `uncertainty`")
            self._uncertainty = uncertainty_of_structure(bias, uncertainty, name)
        self._dynamics = self._make_dynamics(seed, uncertainty, max_temperature)
        self._is_moved = False  # away from where the dynamics stands
        self._known: tuple[float, float] | None = None  # E and U of the present state

    def _make_dynamics(
        self, seed: int, uncertainty: AtomwiseUncertainty | None, max_temperature: float
    ) -> MolecularDynamics | BiasedDynamics | None:
        blocks, limits = self.config.dynamics, (max_temperature, self.max_force)
        if blocks is None:
            return None
        values: dict[str, Any] = {
            "ensemble": "nvt_langevin",
            "steps": self.config.steps,
            "temperature": self.config.temperature,
            "timestep": blocks.timestep,
            "friction": blocks.friction,
        }
        if uncertainty is None or self._uncertainty is None:
            plain = MolecularDynamicsConfig(**values)
            return MolecularDynamics(self._atoms, self._physical, plain, seed, *limits, name=self.name)
        biased = BiasedDynamicsConfig(**values, bias=self.config.bias or _NO_BIAS)
        return BiasedDynamics(self._atoms, self._physical, biased, seed, uncertainty, *limits, name=self.name)

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def atoms(self) -> Atoms:
        """A copy of the present configuration with the calculator of the physical surface."""
        atoms = self._atoms.copy()
        if self._dynamics is not None:
            atoms.set_momenta(self._dynamics.atoms.get_momenta(), apply_constraint=False)
        atoms.calc = self._physical
        return atoms

    @property
    def step(self) -> int:
        """Trial moves and time steps so far."""
        return self._step

    @property
    def time_fs(self) -> float:
        """Simulated time of the dynamics in fs; 0 without."""
        return 0.0 if self._dynamics is None else self._dynamics.time_fs

    @property
    def temperature(self) -> float:
        """Instantaneous temperature of the dynamics, the one of the moves without, K."""
        return self.config.temperature if self._dynamics is None else self._dynamics.temperature

    @property
    def finished(self) -> bool:
        """Whether ``config.steps`` steps are taken."""
        return self._step >= self.config.steps

    @property
    def tau(self) -> float:
        """Strength of the bias, eV per unit of the uncertainty."""
        return self._dynamics.tau if isinstance(self._dynamics, BiasedDynamics) else self._strength.tau

    def observables(self) -> dict[str, float]:
        """Per move its share of accepted trials (since the burn-in, when it is over) and its step size; bias."""
        values = {}
        for move, (tried, accepted) in self._counts.items():
            values[f"acceptance_{move}"] = accepted / tried if tried else 0.0
            if self._sizes[move]:
                values[f"step_{move}"] = self._sizes[move]
        if self._uncertainty is not None:
            u = self._present()[1]
            values |= {"tau": self.tau, "u": u, "bias_energy": -self.tau * u}
        return values

    @property
    def conclusion(self) -> str:
        """Shares of accepted trials, at the end; empty before."""
        shares = (f"{move} {100 * taken / tried:.0f} %" for move, (tried, taken) in self._counts.items() if tried)
        return f"accepted: {', '.join(shares)}" if self.finished else ""

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when ``config.steps`` is reached before.

        Raises:
            SamplerError: energy or forces of an accepted state are not finite, or a limit is exceeded; the state is
                that of the last good step.
        """
        for _ in range(n):
            if self.finished:
                return
            generator = self._rng.bit_generator.state
            try:
                self._move_in_time() if self._is_dynamics else self._try_move()
            except BaseException:
                self._rng.bit_generator.state = generator
                raise
            self._step += 1
            if self._step == self.config.burn_in:
                self._counts = {move: [0, 0] for move in self._moves}

    @property
    def _is_dynamics(self) -> bool:
        blocks = self.config.dynamics
        return blocks is not None and self._step % (blocks.trials + blocks.steps) >= blocks.trials

    def _move_in_time(self) -> None:
        dynamics = self._dynamics
        assert dynamics is not None
        if self._is_moved:
            frame = {"positions": self._atoms.get_positions(), "cell": self._atoms.cell.array.copy()}
            dynamics.restore(dynamics.state() | frame)
            self._is_moved = False
        dynamics.advance(1)
        self._known = None
        moved = dynamics.atoms
        self._atoms.set_cell(moved.cell.array, scale_atoms=False, apply_constraint=False)
        self._atoms.set_positions(moved.positions, apply_constraint=False)

    def _try_move(self) -> None:
        energy, u = self._present()
        self._record()
        name = list(self._moves)[int(self._rng.choice(len(self._moves), p=self._chances))]
        move = self._moves[name]
        trial = move.propose(self._atoms, self._sizes[name], self._rng)
        hurdle = math.log(self._rng.uniform(np.finfo(float).tiny, 1.0))
        accepted = trial is not None and self._accept(trial, energy - self.tau * u, hurdle)
        tried, taken = self._counts[name]
        self._counts[name] = [tried + 1, taken + accepted]
        if self._step < self.config.burn_in and move.largest:
            gain = 1 / (1 + 0.1 * self._counts[name][0])
            size = self._sizes[name] * math.exp(gain * (accepted - self.config.acceptance))
            self._sizes[name] = min(size, move.largest)

    def _accept(self, trial: Trial, surface: float, hurdle: float) -> bool:
        """Take the trial where the hurdle, ln of a uniform random number, is passed."""
        if overlaps(trial.atoms, self.config.moves.core):
            return False
        energy, u = self._evaluate(trial.atoms)
        rise = (energy - self.tau * u - surface) / (units.kB * self.config.temperature)
        if hurdle >= trial.log_weight - rise:
            return False
        self._check(trial.atoms, energy)
        self._atoms = trial.atoms
        self._known, self._is_moved = (energy, u), True
        return True

    def _present(self) -> tuple[float, float]:
        if self._known is None:
            self._known = self._evaluate(self._atoms)
        return self._known

    def _evaluate(self, atoms: Atoms) -> tuple[float, float]:
        """Physical energy, eV, and the uncertainty of the structure."""
        energy = float(self._physical.get_property("energy", atoms))
        if self._uncertainty is None:
            return energy, 0.0
        try:
            u = self._uncertainty.total(atoms)
        except UncertaintyError as error:
            raise self._no_bias(error) from error
        if not math.isfinite(u):
            raise self._no_bias(f"u of the structure is {u}; give initial labels with all its elements")
        return energy, u

    def _no_bias(self, reason: object) -> SamplerError:
        return SamplerError(f"trajectory {self.name!r}: no bias can be taken at step {self._step}: {reason}")

    def _check(self, atoms: Atoms, energy: float) -> None:
        forces = np.asarray(self._physical.get_property("forces", atoms))[self._free]
        where = f"trajectory {self.name!r} left the physical range at step {self._step + 1}"
        if not math.isfinite(energy) or not np.isfinite(forces).all():
            raise SamplerError(f"{where}: energy or forces are not finite; start from a relaxed structure")
        norms = np.linalg.norm(forces, axis=1)
        worst = int(norms.argmax())
        if norms[worst] > self.max_force:
            raise SamplerError(
                f"{where}: the force on atom {self._free[worst]} is {norms[worst]:.4g} eV/Å, above max_force "
                f"{self.max_force:g} eV/Å; raise sampler.moves.core, lower the temperature, or raise max_force"
            )

    def _record(self) -> None:
        """Take note of the norms from which tau follows, while it burns in; with dynamics these do."""
        if self._dynamics is not None or self._uncertainty is None or not self._strength.is_burning_in:
            return
        forces = np.asarray(self._physical.get_property("forces", self._atoms))
        try:
            gradient = self._uncertainty.total_gradient(self._atoms)[1]
        except UncertaintyError as error:
            raise self._no_bias(error) from error
        self._strength.record(
            (float(np.linalg.norm(forces[self._free])), float(np.linalg.norm(gradient[self._free]))), None
        )

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator, and an uncertainty that has learned, from the same configuration."""
        self._physical = calculator
        self._known = None
        if self._dynamics is not None:
            self._dynamics.set_calculator(calculator)

    def reseed(self, seed: int) -> None:
        """Go on with other random numbers; the dynamics with new velocities."""
        self._rng.bit_generator.state = np.random.default_rng([seed, 2]).bit_generator.state
        if self._dynamics is not None:
            self._dynamics.reseed(seed)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: configuration, random generator, step sizes, counts, bias, dynamics."""
        state: dict[str, Any] = {
            "moves": ",".join(self._moves),
            "step": self._step,
            "rng": json.dumps(self._rng.bit_generator.state),
            "numbers": self._atoms.numbers.copy(),
            "positions": self._atoms.get_positions(),
            "cell": self._atoms.cell.array.copy(),
            "sizes": np.array(list(self._sizes.values())),
            "counts": np.array(list(self._counts.values()), dtype=np.int64),
            **self._strength.state(),
        }
        if self._dynamics is not None:
            state["is_moved"] = int(self._is_moved)
            state |= {f"dynamics.{key}": value for key, value in self._dynamics.state().items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            SamplerError: the state belongs to another structure or other moves.
        """
        if str(state["moves"]) != ",".join(self._moves) or not np.array_equal(state["numbers"], self._atoms.numbers):
            raise SamplerError(
                f"trajectory {self.name!r}: the state was saved with the moves {state['moves']} and "
                f"{len(state['numbers'])} atoms, others than the configuration's; resume with that of the run"
            )
        self._step = int(state["step"])
        self._rng.bit_generator.state = json.loads(str(state["rng"]))
        cell, positions = (np.array(state[key], dtype=np.float64) for key in ("cell", "positions"))
        self._atoms.set_cell(cell, scale_atoms=False, apply_constraint=False)
        self._atoms.set_positions(positions, apply_constraint=False)
        self._sizes = dict(zip(self._moves, (float(size) for size in state["sizes"]), strict=True))
        self._counts = dict(zip(self._moves, np.asarray(state["counts"]).tolist(), strict=True))
        self._strength.restore(state)
        self._known = None
        if self._dynamics is not None:
            prefix = "dynamics."
            self._dynamics.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            self._is_moved = bool(state["is_moved"])
