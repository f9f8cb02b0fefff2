"""Molecular dynamics that is drawn to what the model does not know.

The integrators of `MolecularDynamics` move the atoms on a `BiasedSurface`, E - tau u, in any ensemble; its bias stress
acts on the cell. tau is constant while a step is taken and follows the norms of the steps before (`bias_strength`).

What the sampler shows as its atoms has the calculator of the physical surface, so that energies and forces that anyone
reads there are the model's. With strength 0 the trajectory is that of `MolecularDynamics`, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_numbers

from ideal.config import BiasConfig, BiasedDynamicsConfig
from ideal.errors import ConfigError, did_you_mean
from ideal.samplers.bias_strength import Strength
from ideal.samplers.biased_surface import BiasedSurface, voigt
from ideal.samplers.molecular_dynamics import MolecularDynamics
from ideal.samplers.surface_dynamics import SurfaceDynamics
from ideal.samplers.velocities import free_atoms
from ideal.uncertainty.base import AtomwiseUncertainty, TotalUncertainty
from ideal.uncertainty.structure import Largest, PowerMean


class BiasedDynamics(SurfaceDynamics):
    """One trajectory of biased molecular dynamics.

    Args:
        atoms: the starting structure; copied with its constraints and momenta.
        calculator: of the physical surface; for npt ensembles it must give stress.
        config: ensemble, time step, schedules and bias.
        seed: decides initial velocities and thermostat noise.
        uncertainty: of the atoms, or (``bias.u: total``) of the structure too; it may learn in place, when
            `set_calculator` must be called afterwards.
        max_temperature: largest instantaneous temperature, K.
        max_force: largest force on a free atom, bias included, eV/Å.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: the uncertainty has no u of the structure, an element is unknown, or as `MolecularDynamics`.
        SamplerError: as `MolecularDynamics`.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> from ideal.soap import SoapPowerSpectrum
        >>> from ideal.uncertainty import SoapMahalanobis
        >>> hot = bulk("Cu", cubic=True) * (2, 2, 2)
        >>> hot.rattle(0.1, seed=0)
        >>> uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Cu"], n_max=4, l_max=3))
        >>> uncertainty.update(hot)
        >>> config = BiasedDynamicsConfig(bias=BiasConfig(strength=0.2, burn_in=5))
        >>> dynamics = BiasedDynamics(hot, EMT(), config, seed=1, uncertainty=uncertainty)
        >>> dynamics.advance(10)
        >>> dynamics.observables()["tau"] > 0
        True
    """

    _surface: BiasedSurface

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: BiasedDynamicsConfig,
        seed: int,
        uncertainty: AtomwiseUncertainty,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        name: str = "md",
    ) -> None:
        self.config = config
        self._strength = Strength(config.bias)
        surface = make_surface(config.bias, calculator, uncertainty, name)
        dynamics = MolecularDynamics(atoms, surface, config, seed, max_temperature, max_force, name=name)
        super().__init__(dynamics, surface)
        self._free = free_atoms(self._dynamics.atoms)

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def tau(self) -> float:
        """Strength of the next step, eV per unit of the uncertainty, where no limit lowers it."""
        return self._strength.tau

    def observables(self) -> dict[str, float]:
        """tau (eV), u of the structure, and the bias energy - tau u (eV) here and now."""
        if self._strength.is_off:
            return {"tau": 0.0, "bias_energy": 0.0}
        self._follow()
        atoms = self._dynamics.atoms
        tau, u = self._surface.strength_at(atoms), self._surface.gradient(atoms)[0]
        return {"tau": tau, "u": u, "bias_energy": -tau * u}

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when ``config.steps`` is reached before.

        Raises:
            SamplerError: as `MolecularDynamics.advance`, or the uncertainty has no gradient.
        """
        for _ in range(n):
            if self.finished:
                return
            self._follow()
            self._dynamics.advance(1)
            self._record()

    def _follow(self) -> None:
        """Let the surface have the strength of the next step."""
        limit = self.config.bias.max_temperature
        if limit is not None and self.temperature > limit:
            self._surface.set_strength(0.0, None if self._strength.stress_tau is None else 0.0)
        else:
            self._surface.set_strength(self._strength.tau, self._strength.stress_tau)

    def _record(self) -> None:
        """Take note of the norms of forces and stresses at the present positions."""
        if self._strength.is_off:
            return
        atoms, physical = self._dynamics.atoms, self._surface.physical
        _, gradient, strain = self._surface.gradient(atoms)
        forces = np.asarray(physical.get_property("forces", atoms))
        norms = float(np.linalg.norm(forces[self._free])), float(np.linalg.norm(gradient[self._free]))
        stresses = None
        if self._strength.wants_stress:
            bias_stress = voigt(strain) / atoms.get_volume()
            stress = np.asarray(physical.get_property("stress", atoms))
            stresses = float(np.linalg.norm(stress)), float(np.linalg.norm(bias_stress))
        self._strength.record(norms, stresses)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: what `MolecularDynamics.state` holds and ``bias.*``."""
        return {**self._dynamics.state(), **self._strength.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            SamplerError: the state belongs to another structure or ensemble.
        """
        self._strength.restore(state)
        self._dynamics.restore(state)


def make_surface(
    config: BiasConfig, calculator: BaseCalculator, uncertainty: AtomwiseUncertainty, name: str
) -> BiasedSurface:
    """The biased surface of a configuration, with tau 0.

    Raises:
        ConfigError: the uncertainty has no u of the structure, or an element is unknown.
    """
    for symbol in config.species:
        if symbol not in atomic_numbers:
            raise ConfigError(
                f"trajectory {name!r}: sampler.bias.species names {symbol!r}, no chemical symbol; "
                f"{did_you_mean(symbol, atomic_numbers)}"
            )
    return BiasedSurface(
        calculator, uncertainty_of_structure(config, uncertainty, name), config.species, config.max_force
    )


def uncertainty_of_structure(config: BiasConfig, uncertainty: AtomwiseUncertainty, name: str) -> TotalUncertainty:
    """What ``config.u`` makes of an uncertainty.

    Raises:
        ConfigError: it has no u of the structure.
    """
    match config.u:
        case "max":
            return Largest(uncertainty)
        case "mean":
            return PowerMean(uncertainty, 1.0)
        case "p_norm":
            return PowerMean(uncertainty, config.p)
    if not isinstance(uncertainty, TotalUncertainty):
        raise ConfigError(
            f"trajectory {name!r}: sampler.bias.u total needs an uncertainty with a number of its own for structures, "
            f"which {type(uncertainty).__name__} has not; write p_norm, mean or max"
        )
    return uncertainty
