"""The dimer: from one structure uphill along its softest mode to a saddle point, by ASE's implementation.

Henkelman and Jonsson, 10.1063/1.480097, with the rotation of Heyden, Bell and Keil, 10.1063/1.2104507.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate

from ideal.config import DimerConfig
from ideal.errors import ConfigError
from ideal.records import FloatArray
from ideal.samplers.optimizers import largest_norm
from ideal.samplers.own_results import OwnResults
from ideal.samplers.search import REMEDY, Search
from ideal.samplers.structures import check_forces, prepare
from ideal.samplers.velocities import free_atoms


class Dimer(Search):
    """One structure on its way to a saddle point.

    Args:
        atoms: the starting structure, commonly a minimum; copied with its constraints, then displaced at random.
        calculator: ASE calculator that gives forces.
        config: displacement, rotations, tolerance.
        seed: decides the displacement.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: ``config.fix_atoms`` or ``config.center`` names atoms that do not exist.

    Example:
        >>> dimer = Dimer(slab_with_adatom, EMT(), DimerConfig(center=27, steps=300), seed=1)
        >>> dimer.advance(300)
        >>> dimer.conclusion
        'converged, largest force 0.04 eV/Å, curvature -1.3 eV/Å²'
    """

    kind = "dimer"

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: DimerConfig,
        seed: int,
        max_force: float = 50.0,
        *,
        name: str = "dimer",
    ) -> None:
        super().__init__(config, max_force, name)
        self.config = config
        self.atoms = prepare(atoms, config.fix_atoms, name)
        self.atoms.set_momenta(np.zeros((len(self.atoms), 3)))
        displacement = self._displacement(np.random.default_rng([seed, 0]))
        self.atoms.set_positions(self.atoms.positions + displacement)
        self._use(calculator)
        # A translation of the whole costs no energy and would be the softest mode of all.
        mode = displacement if self.atoms.constraints else displacement - displacement.mean(axis=0)
        mode = mode / np.linalg.norm(mode)
        self._dimer = MinModeAtoms(self.atoms, _control(config), eigenmodes=[mode], random_seed=0)
        self._translation = MinModeTranslate(self._dimer, logfile=None)

    def _displacement(self, rng: np.random.Generator) -> FloatArray:
        """(n_atoms, 3) Å; zero for atoms that are fixed or far from the center."""
        displacement = rng.standard_normal((len(self.atoms), 3)) * self.config.displacement
        moved = np.isin(np.arange(len(self.atoms)), free_atoms(self.atoms))
        center = self.config.center
        if center is not None:
            if center >= len(self.atoms):
                raise ConfigError(
                    f"trajectory {self.name!r}: sampler.center is {center}, the structure has {len(self.atoms)} atoms; "
                    f"write an index from 0 to {len(self.atoms) - 1}"
                )
            moved &= self.atoms.get_distances(center, range(len(self.atoms)), mic=True) <= self.config.radius
        if not moved.any():
            raise ConfigError(
                f"trajectory {self.name!r}: every atom within sampler.radius {self.config.radius:g} Å of atom {center} "
                "is fixed; choose another center or a larger radius"
            )
        displacement[~moved] = 0.0
        return displacement

    # --- the search ---------------------------------------------------------------------------------------------------

    @property
    def curvature(self) -> float:
        """Curvature along the mode in eV/Å²; below 0 at a saddle point."""
        return float(self._dimer.get_curvature())

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator; one more step looks whether it is still converged."""
        super().set_calculator(calculator)
        self._dimer.check_atoms = None  # evaluated and rotated anew
        self._translation.cg_init = True

    def _use(self, calculator: BaseCalculator) -> None:
        self.atoms.calc = OwnResults(calculator)

    def _move(self) -> None:
        self._translation.step()

    def _check(self, where: str) -> None:
        check_forces(self.atoms, self.max_force, where, REMEDY)

    def _is_converged(self) -> bool:
        projected = self._dimer.get_forces()  # turns the dimer where it has moved
        return self.curvature < 0 and largest_norm(projected) < self.config.force_tolerance

    def _outcome(self) -> str:
        force = largest_norm(self.atoms.get_forces())
        return f"largest force {force:.2g} eV/Å, curvature {self.curvature:.2g} eV/Å²"

    # --- state --------------------------------------------------------------------------------------------------------

    def _variables(self) -> dict[str, Any]:
        dimer, translation = self._dimer, self._translation
        assert dimer.curvatures is not None
        rotated = not dimer.calculation_required() and not dimer.rotation_required
        variables = {
            "positions": self.atoms.get_positions(),
            "cell": self.atoms.cell.array.copy(),
            "mode": np.array(dimer.eigenmodes[0]),
            "curvature": float(dimer.curvatures[0]),
            "rotated": rotated,
            "begun": not translation.cg_init,
        }
        if not translation.cg_init:
            variables["direction"] = np.array(translation.cg_direction)
            variables["old_direction"] = np.array(translation.direction_old)
        return variables

    def _set_variables(self, state: Mapping[str, Any]) -> None:
        self.atoms.set_cell(state["cell"], scale_atoms=False, apply_constraint=False)
        self.atoms.set_positions(state["positions"], apply_constraint=False)
        dimer, translation = self._dimer, self._translation
        dimer.eigenmodes, dimer.curvatures = [np.array(state["mode"])], [float(state["curvature"])]
        dimer.minmode_init, dimer.check_atoms = False, None
        if state["rotated"]:
            dimer.calculate_real_forces_and_energies()
            dimer.rotation_required = False
        translation.cg_init = not state["begun"]
        if state["begun"]:
            translation.cg_direction = np.array(state["direction"])
            translation.direction_old = np.array(state["old_direction"])


def _control(config: DimerConfig) -> DimerControl:
    """ASE keeps the parameters of all dimers in one dictionary of the class; this one has its own."""

    class Control(DimerControl):
        parameters = {  # noqa: RUF012
            **DimerControl.parameters,
            "dimer_separation": config.separation,
            "max_num_rot": config.rotations,
            "f_rot_min": 0.01,  # ASE's 0.1 and 1 eV/Å² never turn the dimer in a soft crystal
            "f_rot_max": 0.1,
            "maximum_translation": config.max_move,
        }

    return Control(logfile=None)
