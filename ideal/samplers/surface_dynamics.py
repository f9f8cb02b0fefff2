"""Molecular dynamics on another surface than the physical one: what such samplers have in common.

The integrators of `MolecularDynamics` move the atoms on the other surface; what a sampler shows as its atoms has the
calculator of the physical one, so that energies and forces that anyone reads there are the model's.
"""

from __future__ import annotations

from typing import Protocol

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ideal.samplers.molecular_dynamics import MolecularDynamics


class Surface(Protocol):
    """A calculator around that of the physical surface."""

    @property
    def physical(self) -> BaseCalculator:
        """The calculator of the surface below."""

    def set_physical(self, physical: BaseCalculator, /) -> None:
        """Take another surface below."""


class SurfaceDynamics:
    """The part of a sampler that passes on what `MolecularDynamics` does; moving and state are the subclass's.

    Args:
        dynamics: moves the atoms; its calculator is ``surface``.
        surface: of energies and forces that move the atoms.

    Example:
        >>> class Walled(SurfaceDynamics):
        ...     def __init__(self, atoms, calculator, config, seed):
        ...         surface = WalledSurface(calculator)
        ...         super().__init__(MolecularDynamics(atoms, surface, config, seed), surface)
    """

    def __init__(self, dynamics: MolecularDynamics, surface: Surface) -> None:
        self._dynamics = dynamics
        self._surface = surface

    @property
    def atoms(self) -> Atoms:
        """A copy of the present configuration with the calculator of the physical surface."""
        atoms = self._dynamics.atoms.copy()
        atoms.calc = self._surface.physical
        return atoms

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._dynamics.step

    @property
    def time_fs(self) -> float:
        """Simulated time in fs."""
        return self._dynamics.time_fs

    @property
    def temperature(self) -> float:
        """Instantaneous temperature in K."""
        return self._dynamics.temperature

    @property
    def finished(self) -> bool:
        """Whether ``config.steps`` steps are taken."""
        return self._dynamics.finished

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator of the physical surface from the same positions and momenta.

        Raises:
            SamplerError: it gives no stress and the ensemble needs it.
        """
        self._surface.set_physical(calculator)
        self._dynamics.set_calculator(self._dynamics.atoms.calc)

    def reseed(self, seed: int) -> None:
        """Go on with other noise and new velocities (`MolecularDynamics.reseed`)."""
        self._dynamics.reseed(seed)
