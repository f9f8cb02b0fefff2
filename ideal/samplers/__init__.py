"""Samplers: what moves a trajectory from frame to frame."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ideal.config import (
    BiasedDynamicsConfig,
    DimerConfig,
    ElasticBandConfig,
    LammpsSamplerConfig,
    MolecularDynamicsConfig,
    MonteCarloConfig,
    PlumedConfig,
    RelaxationConfig,
    ReplicaExchangeConfig,
    SamplerSection,
)
from ideal.errors import ConfigError
from ideal.samplers.base import Sampler
from ideal.samplers.biased_dynamics import BiasedDynamics
from ideal.samplers.dimer import Dimer
from ideal.samplers.elastic_band import ElasticBand
from ideal.samplers.lammps import LammpsSampler
from ideal.samplers.molecular_dynamics import MolecularDynamics
from ideal.samplers.monte_carlo import MonteCarlo
from ideal.samplers.plumed_dynamics import PlumedDynamics
from ideal.samplers.relaxation import Relaxation
from ideal.samplers.replica_exchange import ReplicaExchange
from ideal.uncertainty.base import AtomwiseUncertainty

__all__ = [
    "BiasedDynamics",
    "Dimer",
    "ElasticBand",
    "LammpsSampler",
    "MolecularDynamics",
    "MonteCarlo",
    "PlumedDynamics",
    "Relaxation",
    "ReplicaExchange",
    "Sampler",
    "make_sampler",
]


def make_sampler(
    config: SamplerSection,
    atoms: Atoms,
    calculator: BaseCalculator,
    seed: int,
    max_temperature: float = 10000.0,
    max_force: float = 50.0,
    name: str = "md",
    uncertainty: AtomwiseUncertainty | None = None,
    final: Atoms | None = None,
    folder: Path | None = None,
) -> Sampler:
    """The sampler that ``config.type`` names, at step 0.

    Args:
        config: how the trajectory moves.
        atoms: the starting structure; copied.
        calculator: ASE calculator that gives forces (and stress where the pressure is controlled).
        seed: decides initial velocities and thermostat noise.
        max_temperature: largest instantaneous temperature, K.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.
        uncertainty: what biased samplers follow (`ideal.samplers.base`); it learns in place.
        final: the other end of a path.
        folder: for files of the sampler's own (PLUMED's, LAMMPS'); made when needed.

    Raises:
        ConfigError: ``config`` belongs to no sampler, needs an uncertainty and gets none, or does not fit the
            structure (an atom index out of range).
        SamplerError: the structure cannot be moved in this ensemble.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> sampler = make_sampler(MolecularDynamicsConfig(steps=10), bulk("Cu", cubic=True), EMT(), seed=0)
        >>> sampler.advance(5)
        >>> sampler.step, sampler.finished
        (5, False)
    """
    match config:
        case MolecularDynamicsConfig():
            return MolecularDynamics(atoms, calculator, config, seed, max_temperature, max_force, name=name)
        case BiasedDynamicsConfig():
            known = _known(uncertainty, config, name)
            return BiasedDynamics(atoms, calculator, config, seed, known, max_temperature, max_force, name=name)
        case MonteCarloConfig():
            return MonteCarlo(atoms, calculator, config, seed, uncertainty, max_temperature, max_force, name=name)
        case RelaxationConfig():
            return Relaxation(atoms, calculator, config, max_force, name=name)
        case ElasticBandConfig():
            if final is None:
                raise ConfigError(f"trajectory {name!r}: neb needs the other end of the path; pass `final`")
            return ElasticBand(atoms, final, calculator, config, max_force, name=name)
        case DimerConfig():
            return Dimer(atoms, calculator, config, seed, max_force, name=name)
        case ReplicaExchangeConfig():
            return ReplicaExchange(atoms, calculator, config, seed, max_temperature, max_force, name=name)
        case PlumedConfig():
            return PlumedDynamics(atoms, calculator, config, seed, max_temperature, max_force, folder=folder, name=name)
        case LammpsSamplerConfig():
            limits = (max_temperature, max_force)
            return LammpsSampler(
                atoms, calculator, config, seed, *limits, name=name, uncertainty=uncertainty, folder=folder
            )
    raise ConfigError(f"trajectory {name!r}: no sampler belongs to {type(config).__name__}; add it to make_sampler")


def _known(uncertainty: AtomwiseUncertainty | None, config: SamplerSection, name: str) -> AtomwiseUncertainty:
    if uncertainty is None:
        raise ConfigError(f"trajectory {name!r}: {config.type} follows an uncertainty; pass `uncertainty`")
    return uncertainty
