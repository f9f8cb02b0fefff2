"""Molecular dynamics on ASE's integrators that can stop at any step and go on bitwise, in another process
too.

A step depends on positions, momenta, cell, the integrator's internal variables, the random generator's state
and the step number (schedules), and on nothing else. `MolecularDynamics.state` holds exactly these. Positions
are never wrapped, so that forces recomputed after a restart are the forces of the uninterrupted run, provided
that the calculator's result depends on the atoms alone (a calculator that sums in the order of an old
neighbor list agrees only to rounding).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from ideal.config import DynamicsSection
from ideal.errors import SamplerError
from ideal.samplers import velocities
from ideal.samplers.integrators import INTEGRATORS
from ideal.samplers.structures import check_finite, check_forces, check_numbers, prepare

_CONSERVES_ROTATION = ("nve", "nvt_bussi")
_REMEDY = "shorten sampler.timestep, start from a relaxed structure or check that the model knows such environments"


class MolecularDynamics:
    """One trajectory of molecular dynamics.

    Velocities at the start: those of ``atoms`` when it has any and ``config.initial_temperature`` is None
    (thermostats remove their net momentum), else Maxwell-Boltzmann with the whole at rest.

    Args:
        atoms: the starting structure; copied with its constraints and momenta.
        calculator: ASE calculator; for npt ensembles it must give stress.
        config: ensemble, time step, schedules.
        seed: decides initial velocities and thermostat noise.
        max_temperature: largest instantaneous temperature, K.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: ``config.fix_atoms`` names atoms that do not exist.
        SamplerError: the structure cannot be moved in this ensemble.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> config = MolecularDynamicsConfig(ensemble="nvt_bussi", steps=100, temperature=300)
        >>> dynamics = MolecularDynamics(bulk("Cu", cubic=True).repeat(2), EMT(), config, seed=1)
        >>> round(dynamics.temperature)
        300
        >>> dynamics.advance(10)
        >>> dynamics.step
        10
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: DynamicsSection,
        seed: int,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        name: str = "md",
    ) -> None:
        self.atoms = prepare(atoms, config.fix_atoms, name)
        self.config = config
        self.name = name
        self.max_temperature = max_temperature
        self.max_force = max_force
        self._step = 0
        self._rng = np.random.default_rng([seed, 1])
        self._degrees_of_freedom = velocities.count_degrees_of_freedom(
            self.atoms, without_rotation=config.ensemble in _CONSERVES_ROTATION
        )
        self._temperatures = config.schedule("temperature")
        self._pressures = config.schedule("pressure")
        self._start_velocities(np.random.default_rng([seed, 0]))
        self.set_calculator(calculator)
        self._integrator = INTEGRATORS[config.ensemble](self.atoms, config, self._rng, self._degrees_of_freedom)

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._step

    @property
    def time_fs(self) -> float:
        """Simulated time in fs."""
        return self._step * self.config.timestep

    @property
    def temperature(self) -> float:
        """Instantaneous temperature in K of the thermal degrees of freedom (`ideal.samplers.velocities`)."""
        return velocities.temperature(self.atoms, self._degrees_of_freedom)

    @property
    def target_temperature(self) -> float:
        """What the thermostat aims at now, K."""
        return float(np.interp(self.time_fs, *self._temperatures))

    @property
    def target_pressure(self) -> float:
        """What the barostat aims at now, eV/Å³."""
        return float(np.interp(self.time_fs, *self._pressures))

    @property
    def finished(self) -> bool:
        """Whether ``config.steps`` steps are taken."""
        return self._step >= self.config.steps

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when ``config.steps`` is reached before.

        Raises:
            SamplerError: a value is not finite, or temperature or force exceeds its limit; ``atoms`` is back
                at the last good step and `state` describes that step.
        """
        if n <= 0 or self.finished:
            return
        self._check(f"trajectory {self.name!r} cannot move from step {self._step}")
        for _ in range(min(n, self.config.steps - self._step)):
            good = self._snapshot()
            try:
                self._integrator.set_targets(self.target_temperature, self.target_pressure)
                with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported by the check
                    self._integrator.step()
                self._check(f"trajectory {self.name!r} left the physical range at step {self._step + 1}")
            except PropertyNotImplementedError as error:
                self._set(good)
                raise SamplerError(
                    f"trajectory {self.name!r}: the calculator cannot give what {self.config.ensemble} "
                    f"needs ({error}); "
                    "use nve, nvt_langevin or nvt_bussi"
                ) from None
            except BaseException as error:
                finite = np.isfinite(self.atoms.positions).all() and np.isfinite(self.atoms.cell.array).all()
                self._set(good)
                if isinstance(error, Exception) and not isinstance(error, SamplerError) and not finite:
                    raise SamplerError(
                        f"trajectory {self.name!r} left the physical range at step {self._step + 1}: positions or cell "
                        f"are not finite; {_REMEDY}"
                    ) from error
                raise
            self._step += 1

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator from the same positions and momenta.

        Raises:
            SamplerError: it gives no stress and the ensemble needs it.
        """
        properties = getattr(calculator, "implemented_properties", None)
        if self.config.ensemble.startswith("npt") and properties and "stress" not in properties:
            raise SamplerError(
                f"trajectory {self.name!r}: {self.config.ensemble} needs stress, which "
                f"{type(calculator).__name__} does not "
                "give; use nve, nvt_langevin or nvt_bussi"
            )
        self.atoms.calc = calculator

    def reseed(self, seed: int) -> None:
        """Go on with other noise and velocities drawn anew, at the thermostat's target (nve: the present temperature).

        Args:
            seed: decides both.
        """
        self._rng.bit_generator.state = np.random.default_rng([seed, 1]).bit_generator.state
        velocities.draw_velocities(
            self.atoms,
            self.temperature if self.config.ensemble == "nve" else self.target_temperature,
            self._degrees_of_freedom,
            np.random.default_rng([seed, 0]),
            without_rotation=self.config.ensemble in _CONSERVES_ROTATION,
        )
        self._integrator.set_variables(self._integrator.variables())  # an integrator may keep momenta of its own

    def _check(self, where: str) -> None:
        check_forces(self.atoms, self.max_force, where, _REMEDY)
        check_finite(where, _REMEDY, momenta=self.atoms.get_momenta())
        temperature = self.temperature
        if temperature > self.max_temperature:
            raise SamplerError(
                f"{where}: the temperature is {temperature:.4g} K, above max_temperature "
                f"{self.max_temperature:g} K; "
                f"{_REMEDY}, or raise max_temperature"
            )

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: numpy arrays, integers and strings.

        Keys: ``ensemble``, ``step``, ``degrees_of_freedom``, ``rng`` (JSON), ``numbers`` (n,), ``positions``
        (n, 3) Å, ``momenta`` (n, 3), ``cell`` (3, 3) Å, and ``integrator.*`` (internal variables of
        thermostat and barostat).
        """
        snapshot = self._snapshot()
        return {
            "ensemble": self.config.ensemble,
            "step": snapshot["step"],
            "degrees_of_freedom": self._degrees_of_freedom,
            "rng": json.dumps(snapshot["rng"]),
            "numbers": self.atoms.numbers.copy(),
            "positions": snapshot["positions"],
            "momenta": snapshot["momenta"],
            "cell": snapshot["cell"],
            **{f"integrator.{key}": value for key, value in snapshot["variables"].items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            SamplerError: the state belongs to another structure or ensemble.
        """
        if str(state["ensemble"]) != self.config.ensemble:
            raise SamplerError(
                f"trajectory {self.name!r}: the state was saved in ensemble {str(state['ensemble'])!r}, the "
                "configuration "
                f"says {self.config.ensemble!r}; resume with the configuration of the run"
            )
        check_numbers(state, self.atoms, self.name)
        self._degrees_of_freedom = int(state["degrees_of_freedom"])
        self._integrator.degrees_of_freedom = self._degrees_of_freedom
        prefix = "integrator."
        self._set(
            {
                "step": int(state["step"]),
                "rng": json.loads(str(state["rng"])),
                "positions": state["positions"],
                "momenta": state["momenta"],
                "cell": state["cell"],
                "variables": {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)},
            }
        )

    def _snapshot(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "rng": self._rng.bit_generator.state,
            "positions": self.atoms.get_positions(),
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array.copy(),
            "variables": self._integrator.variables(),
        }

    def _set(self, snapshot: Mapping[str, Any]) -> None:
        self._step = snapshot["step"]
        self._rng.bit_generator.state = snapshot["rng"]
        self.atoms.set_cell(np.asarray(snapshot["cell"], dtype=np.float64), scale_atoms=False, apply_constraint=False)
        self.atoms.set_positions(np.asarray(snapshot["positions"], dtype=np.float64), apply_constraint=False)
        self.atoms.set_momenta(np.asarray(snapshot["momenta"], dtype=np.float64), apply_constraint=False)
        self._integrator.set_variables(snapshot["variables"])

    # --- the start ----------------------------------------------------------------------------------------------------

    def _start_velocities(self, rng: np.random.Generator) -> None:
        start = self.config.initial_temperature
        if start is None and self.atoms.has("momenta") and np.any(self.atoms.get_momenta()):
            self.atoms.set_momenta(self.atoms.get_momenta())  # applies the constraints
            if self.config.ensemble != "nve" and velocities.is_free(self.atoms):
                velocities.remove_net_momentum(self.atoms)
            return
        target = self._temperatures[1][0] if start is None else start
        velocities.draw_velocities(
            self.atoms,
            target,
            self._degrees_of_freedom,
            rng,
            without_rotation=self.config.ensemble in _CONSERVES_ROTATION,
        )
