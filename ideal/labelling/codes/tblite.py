"""tblite: GFN1-xTB and GFN2-xTB (Bannwarth et al. 2021, doi:10.1002/wcms.1493), semi-empirical, for tests and quick
looks.

Its energy holds the electronic entropy already, so that it is the free energy which the forces are the derivative
of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import TbliteConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError, first_line, installed_version
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress

CHECK_DISTANCE = 2.5
"""Distance of the two atoms of the calculation that proves an element, Å."""


class TbliteCode:
    """tblite through its ASE calculator.

    Raises:
        MissingPackageError: tblite is not installed.

    Example:
        >>> from ase.build import molecule
        >>> code = TbliteCode(TbliteConfig())
        >>> code.compute(molecule("H2O"), Path()).forces.shape
        (3, 3)
    """

    name = "tblite"
    energy_kind = "free_energy"

    def __init__(self, config: TbliteConfig) -> None:
        self.config = config
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": installed_version("tblite", "labelling with tblite"),
            "vacuum": VACUUM,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: calculates a dimer of each element."""
        lines = [f"tblite {self.settings['version']}: {self.config.method}, semi-empirical"]
        for element in elements:
            dimer = Atoms([element, element], positions=[[0, 0, 0], [0, 0, CHECK_DISTANCE]])
            try:
                self.compute(dimer, Path())
            except LabelError as error:
                raise LabelError(f"{self.config.method} does not answer for {element!r}: {error}") from error
            lines.append(f"{element}: parametrized")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; nothing is written."""
        from ase.calculators.calculator import CalculationFailed, InputError
        from tblite.ase import TBLite

        config = self.config
        cell = fully_periodic(atoms) if np.any(atoms.pbc) else atoms.copy()
        if not np.any(cell.pbc):
            cell.cell = None
        try:
            cell.calc = TBLite(
                method=config.method,
                accuracy=config.accuracy,
                electronic_temperature=config.electronic_temperature,
                max_iterations=config.max_iterations,
                mixer_damping=config.mixing,
                verbosity=0,
            )
            energy = cell.get_potential_energy()
            forces = cell.get_forces(apply_constraint=False)
            stress = cell.get_stress(apply_constraint=False) if has_stress(atoms) else None
        except (CalculationFailed, InputError, RuntimeError) as error:
            kind = NotConvergedError if "converge" in str(error) else LabelError
            raise kind(
                f"tblite {config.method} failed within {config.max_iterations} iterations ({first_line(error)}); raise "
                "labelling.code.max_iterations or electronic_temperature"
            ) from error
        return CodeResult(
            energy=float(energy),
            forces=np.array(forces, dtype=np.float64),
            stress=None if stress is None else np.array(stress, dtype=np.float64),
            energy_kind=self.energy_kind,
            converged=True,
        )
