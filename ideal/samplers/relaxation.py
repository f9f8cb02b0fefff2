"""Relaxation of positions and cell by ASE's optimizers, watched like any trajectory.

With a free cell the degrees of freedom are the positions in the starting cell and the logarithm of the deformation
(ASE's FrechetCellFilter), which relaxes the enthalpy E + pV.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.filters import FrechetCellFilter

from ideal.config import RelaxationConfig
from ideal.errors import SamplerError
from ideal.samplers.optimizers import largest_norm, make_optimizer
from ideal.samplers.search import REMEDY, Search
from ideal.samplers.structures import check_forces, prepare


class Relaxation(Search):
    """One structure on its way to the minimum.

    Args:
        atoms: the starting structure; copied with its constraints, momenta set to zero.
        calculator: ASE calculator; with a free cell it must give stress.
        config: optimizer, cell, tolerances.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: ``config.fix_atoms`` names atoms that do not exist.
        SamplerError: a free cell without periodicity, or a calculator without stress for it.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> relaxation = Relaxation(bulk("Cu", a=3.7), EMT(), RelaxationConfig(cell="full"))
        >>> relaxation.advance(500)
        >>> relaxation.conclusion, round(2 * relaxation.atoms.cell[0, 1], 2)
        ('converged, largest force 1e-15 eV/Å, largest stress error 0.0003 eV/Å³', 3.59)
    """

    kind = "relaxation"

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: RelaxationConfig,
        max_force: float = 50.0,
        *,
        name: str = "relaxation",
    ) -> None:
        super().__init__(config, max_force, name)
        self.config = config
        self.atoms = prepare(atoms, config.fix_atoms, name)
        self.atoms.set_momenta(np.zeros((len(self.atoms), 3)))
        self._filter: FrechetCellFilter | None = None
        if config.cell != "fixed":
            if not self.atoms.pbc.all() or self.atoms.cell.rank < 3:
                raise SamplerError(
                    f"trajectory {name!r}: only a cell that is periodic along all three axes can relax, got pbc "
                    f"{self.atoms.pbc.tolist()}: write cell: fixed"
                )
            self._filter = FrechetCellFilter(
                self.atoms, hydrostatic_strain=config.cell == "isotropic", scalar_pressure=config.pressure
            )
        self._use(calculator)
        self._optimizer = make_optimizer(config.optimizer, self._filter or self.atoms, config.max_move)

    # --- the search ---------------------------------------------------------------------------------------------------

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator; one more step looks whether it is still converged.

        Raises:
            SamplerError: it gives no stress and the cell is free.
        """
        super().set_calculator(calculator)
        self._optimizer.forget_gradient()

    def _use(self, calculator: BaseCalculator) -> None:
        properties = getattr(calculator, "implemented_properties", None)
        if self._filter is not None and properties and "stress" not in properties:
            raise SamplerError(
                f"trajectory {self.name!r}: a free cell needs stress, which {type(calculator).__name__} does not give; "
                "write cell: fixed"
            )
        self.atoms.calc = calculator

    def _move(self) -> None:
        self._optimizer.step()

    def _check(self, where: str) -> None:
        check_forces(self.atoms, self.max_force, where, REMEDY)

    def _is_converged(self) -> bool:
        if largest_norm(self.atoms.get_forces()) >= self.config.force_tolerance:
            return False
        return self._filter is None or self._stress_error() < self.config.stress_tolerance

    def _stress_error(self) -> float:
        """Largest deviation of the stress from the pressure, of the strains that may change; eV/Å³."""
        deviation = self.atoms.get_stress() + self.config.pressure * np.array([1, 1, 1, 0, 0, 0])
        if self.config.cell == "isotropic":
            return float(abs(deviation[:3].mean()))
        return float(abs(deviation).max())

    def _outcome(self) -> str:
        text = f"largest force {largest_norm(self.atoms.get_forces()):.2g} eV/Å"
        return text if self._filter is None else f"{text}, largest stress error {self._stress_error():.2g} eV/Å³"

    # --- state --------------------------------------------------------------------------------------------------------

    def _variables(self) -> dict[str, Any]:
        return {
            "positions": self.atoms.get_positions(),
            "cell": self.atoms.cell.array.copy(),
            "starting_cell": self.atoms.cell.array.copy() if self._filter is None else np.array(self._filter.orig_cell),
            "optimizer": self._optimizer.state(),
        }

    def _set_variables(self, state: Mapping[str, Any]) -> None:
        self.atoms.set_cell(state["cell"], scale_atoms=False, apply_constraint=False)
        self.atoms.set_positions(state["positions"], apply_constraint=False)
        if self._filter is not None:
            self._filter.orig_cell = np.asarray(state["starting_cell"])
        self._optimizer.restore(state["optimizer"])
