"""DFTB+ (Hourahine et al. 2020, doi:10.1063/1.5143190): density-functional tight binding, semi-empirical.

One input file per label, results from ``results.tag``. The energy is Mermin's free energy, which the forces are the
derivative of. DFTB+ stops when its charges do not converge. The Slater-Koster files enter the key as one hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ideal.config import DftbConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import kpoint_grid, kpoint_shift
from ideal.labelling.codes.program import Program, last_words, sha256, text_of
from ideal.records import FloatArray

INSTALL = "conda install -c conda-forge dftbplus; or give its path in labelling.code.command"
INPUT, OUTPUT, RESULT = "dftb_in.hsd", "dftb.log", "results.tag"


class DftbCode:
    """DFTB+ with the Slater-Koster files of one folder.

    Raises:
        LabelError: the program does not answer, or files are missing.
        MissingPackageError: there is no such program.

    Example:
        >>> code = DftbCode(DftbConfig(                                                      # doctest: +SKIP
        ...     slako_dir="3ob-3-1", max_angular_momentum={"O": "p", "H": "s"}))
    """

    name = "dftb"
    energy_kind = "free_energy"

    def __init__(self, config: DftbConfig) -> None:
        self.config = config
        self._program = Program(config.command, "DFTB+", INSTALL)
        self._folder = Path(config.slako_dir).resolve()
        elements = sorted(config.max_angular_momentum)
        files = [self._pair(first, second) for first in elements for second in elements]
        digest = hashlib.sha256("".join(path.name + sha256(path) for path in files).encode()).hexdigest()
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": self._program.version(r"DFTB\+ (?:release|version|development version)\s+(\S+)"),
            "vacuum": VACUUM,
            "slako_hash": digest,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered; the files of each pair of elements are there."""
        lines = [f"DFTB+ {self.settings['version']}: {self._folder.name}, semi-empirical"]
        for element in elements:
            momentum = self._momentum(element)
            for other in elements:
                self._pair(element, other)
            lines.append(f"{element}: up to {momentum} orbitals")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; input and output are ``folder/dftb_in.hsd`` and ``dftb.log``."""
        (folder / RESULT).unlink(missing_ok=True)
        (folder / INPUT).write_text(self.input_text(atoms))
        status = self._program.run(folder, OUTPUT)
        for scratch in ("charges.bin", "band.out", "detailed.xml"):
            (folder / scratch).unlink(missing_ok=True)
        output = text_of(folder / OUTPUT)
        if "SCC is NOT converged" in output:
            raise NotConvergedError(
                f"DFTB+ did not converge in {self.config.max_iterations} SCC iterations; raise "
                "labelling.code.max_iterations or electronic_temperature, or lower mixing"
            )
        if status != 0 or not (folder / RESULT).is_file():
            message = re.search(r"ERROR!\s*\n-?>?\s*(.+)", output)
            words = message.group(1) if message else last_words(output)
            raise LabelError(f"DFTB+ ended with status {status}: {words[:300]}")
        return read_results(text_of(folder / RESULT), len(atoms), has_stress(atoms))

    def input_text(self, atoms: Atoms) -> str:
        """The input file of a structure."""
        config = self.config
        periodic = bool(np.any(atoms.pbc))
        cell = fully_periodic(atoms) if periodic else atoms
        elements = sorted(set(atoms.symbols))
        coordinates = "\n".join(
            f"    {elements.index(symbol) + 1} {_numbers(position)}"
            for symbol, position in zip(cell.symbols, cell.positions, strict=True)
        )
        lattice = points = third = ""
        if periodic:
            vectors = "\n".join(f"    {_numbers(vector)}" for vector in cell.cell.array)
            lattice = f"\n  Periodic = Yes\n  LatticeVectors [Angstrom] {{\n{vectors}\n  }}"
            grid = kpoint_grid(atoms, config.kpoint_length)
            shift = " ".join(f"{0.5 * half:g}" for half in kpoint_shift(grid))
            points = (
                f"\n  KPointsAndWeights = SupercellFolding {{\n    {grid[0]} 0 0\n    0 {grid[1]} 0\n"
                f"    0 0 {grid[2]}\n    {shift}\n  }}"
            )
        if config.third_order:
            derivatives = "\n".join(f"    {element} = {config.third_order[element]:g}" for element in elements)
            third = f"\n  ThirdOrderFull = Yes\n  HubbardDerivs {{\n{derivatives}\n  }}"
        momenta = "\n".join(f'    {element} = "{self._momentum(element)}"' for element in elements)
        names = " ".join(f'"{element}"' for element in elements)
        return f"""Geometry {{
  TypeNames {{ {names} }}
  TypesAndCoordinates [Angstrom] {{
{coordinates}
  }}{lattice}
}}
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = {config.scc_tolerance:g}
  MaxSCCIterations = {config.max_iterations}
  Charge = {config.charge:g}
  Mixer = Broyden {{
    MixingParameter = {config.mixing:g}
  }}
  MaxAngularMomentum {{
{momenta}
  }}
  SlaterKosterFiles = Type2FileNames {{
    Prefix = "{self._folder}/"
    Separator = "-"
    Suffix = ".skf"
  }}
  Filling = Fermi {{
    Temperature [Kelvin] = {config.electronic_temperature:g}
  }}{points}{third}
}}
Analysis {{
  CalculateForces = Yes
}}
Options {{
  WriteResultsTag = Yes
}}
ParserOptions {{
  ParserVersion = 10
}}
"""

    def _momentum(self, element: str) -> str:
        momentum = self.config.max_angular_momentum.get(element)
        if momentum is None:
            raise LabelError(
                f"labelling.code.max_angular_momentum has no entry for {element!r}; add the one that the parameter "
                "set's documentation states"
            )
        return momentum

    def _pair(self, first: str, second: str) -> Path:
        path = self._folder / f"{first}-{second}.skf"
        if not path.is_file():
            raise LabelError(f"labelling.code.slako_dir {self._folder} holds no {path.name}; choose a set that has it")
        return path


def read_results(text: str, n_atoms: int, stress_wanted: bool) -> CodeResult:
    """The numbers of a results.tag file (atomic units; columns of Fortran arrays first).

    Raises:
        LabelError: numbers are missing.
    """
    found: dict[str, FloatArray] = {}
    for match in re.finditer(r"^(\w+)\s*:real:\d+:([\d,]*)\n((?:(?!\w+\s*:).*\n?)*)", text, re.M):
        found[match.group(1)] = np.array(match.group(3).split(), dtype=np.float64)
    energy = found.get("mermin_energy")
    forces = found.get("forces")
    stress = found.get("stress")
    if energy is None or forces is None or forces.size != 3 * n_atoms:
        raise LabelError(f"{RESULT} holds no energy and forces of {n_atoms} atoms; see {OUTPUT}")
    if stress_wanted and (stress is None or stress.size != 9):
        raise LabelError(f"{RESULT} holds no stress; see {OUTPUT}")
    total = found.get("total_energy")
    tensor = None
    if stress_wanted and stress is not None:
        full = -stress.reshape(3, 3) * (Hartree / Bohr**3)
        tensor = (0.5 * (full + full.T))[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return CodeResult(
        energy=float(energy[0]) * Hartree,
        forces=forces.reshape(n_atoms, 3) * (Hartree / Bohr),
        stress=tensor,
        converged=True,
        entropy=None if total is None else float(total[0] - energy[0]) * Hartree,
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.12f}" for value in values)
