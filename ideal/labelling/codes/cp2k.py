"""CP2K's Quickstep (Kühne et al. 2020, doi:10.1063/5.0007045): Gaussians and plane waves, one input file per label.

ASE's own calculator (``cp2k_shell``) tells nobody that an SCF did not converge, and CP2K before 2023.2 goes on with
wrong forces. So the program is run on an input file and its output must say that the SCF converged. The energy holds
the electronic entropy: it is the free energy, which the forces are the derivative of. Stress in CP2K's output is a
pressure (positive under compression), ASE's sign is the other.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, Rydberg, kB

from ideal.config import Cp2kConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid
from ideal.labelling.codes.program import Program, last_words, sha256, text_of
from ideal.records import FloatArray

INSTALL = (
    "apt-get install cp2k (Debian, Ubuntu), or conda install -c conda-forge cp2k; or give its path in "
    "labelling.code.command"
)
DATA_DIR = "/usr/share/cp2k"
INPUT, OUTPUT = "cp2k.inp", "cp2k.out"
STRESS_UNITS = {"GPa": GPa, "bar": 1e-4 * GPa, "kbar": 0.1 * GPa}
MIN_EMPTY_BANDS = 4


class Cp2kCode:
    """CP2K with its own basis sets and pseudopotentials.

    Raises:
        LabelError: the program does not answer, or a data file is missing.
        MissingPackageError: there is no such program.

    Example:
        >>> code = Cp2kCode(Cp2kConfig(kpoint_length=8))               # doctest: +SKIP
        >>> code.compute(bulk("Si"), Path("work")).stress.shape        # doctest: +SKIP
        (6,)
    """

    name = "cp2k"
    energy_kind = "free_energy"

    def __init__(self, config: Cp2kConfig) -> None:
        self.config = config
        self._program = Program(config.command, "CP2K", INSTALL)
        self._data = Path(config.data_dir or os.environ.get("CP2K_DATA_DIR", DATA_DIR)).resolve()
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": self._program.version(r"CP2K version (\S+)", ["--version"]),
            "vacuum": VACUUM,
            "basis_hash": sha256(self._file("basis_file")),
            "potential_hash": sha256(self._file("potential_file")),
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered; basis set and potential of each element are found."""
        config = self.config
        sampling = describe_sampling(config.kpoint_length)
        lines = [f"CP2K {self.settings['version']}: {config.xc}, grid to {config.cutoff:.0f} eV, {sampling}"]
        for element in elements:
            lines.append(f"{element}: {self._basis(element)}, {config.potential} ({self._valence(element)} electrons)")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; input and output are ``folder/cp2k.inp`` and ``cp2k.out``."""
        (folder / INPUT).write_text(self.input_text(atoms))
        status = self._program.run(folder, OUTPUT, ["-i", INPUT])
        for scratch in folder.glob("ideal-RESTART*"):
            scratch.unlink()
        output = text_of(folder / OUTPUT)
        if re.search(r"SCF run NOT\s+converged", output):
            raise NotConvergedError(
                f"CP2K did not converge in {self.config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations or smearing, or lower mixing"
            )
        if status != 0:
            raise LabelError(f"CP2K ended with status {status}: {_abort_message(output)}")
        return read_output(output, len(atoms), has_stress(atoms))

    def input_text(self, atoms: Atoms) -> str:
        """The input file of a structure."""
        config = self.config
        cell = fully_periodic(atoms)
        elements = sorted(set(atoms.symbols))
        grid = kpoint_grid(atoms, config.kpoint_length)
        electrons = sum(self._valence(symbol) for symbol in atoms.symbols) - config.charge
        empty = max(MIN_EMPTY_BANDS, math.ceil(config.empty_bands * electrons / 2))
        smear = f"""
      ADDED_MOS {empty}{f" {empty}" if config.spin else ""}
      &SMEAR ON
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] {config.smearing / kB:.10g}
      &END SMEAR"""
        sampling = f"""
    &KPOINTS
      SCHEME MONKHORST-PACK {grid[0]} {grid[1]} {grid[2]}
      EPS_GEO 1.0E-8
    &END KPOINTS"""
        vectors = "\n".join(
            f"      {axis} {_numbers(vector)}" for axis, vector in zip("ABC", cell.cell.array, strict=True)
        )
        positions = "\n".join(
            f"      {symbol} {_numbers(position)}"
            for symbol, position in zip(cell.symbols, cell.positions, strict=True)
        )
        kinds = "".join(
            f"""
    &KIND {element}
      BASIS_SET {self._basis(element)}
      POTENTIAL {config.potential}
    &END KIND"""
            for element in elements
        )
        return f"""&GLOBAL
  PROJECT ideal
  RUN_TYPE ENERGY_FORCE
  PRINT_LEVEL MEDIUM
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP
  STRESS_TENSOR {"ANALYTICAL" if has_stress(atoms) else "NONE"}
  &PRINT
    &FORCES ON
      NDIGITS 12
    &END FORCES
    &STRESS_TENSOR ON
    &END STRESS_TENSOR
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME {self._file("basis_file")}
    POTENTIAL_FILE_NAME {self._file("potential_file")}
    CHARGE {config.charge}
    MULTIPLICITY {config.spin + 1}
    UKS {"T" if config.spin else "F"}
    &QS
      EPS_DEFAULT 1.0E-12
    &END QS
    &MGRID
      CUTOFF [Ry] {config.cutoff / Rydberg:.10g}
      REL_CUTOFF [Ry] {config.rel_cutoff / Rydberg:.10g}
    &END MGRID
    &POISSON
      PERIODIC XYZ
    &END POISSON
    &XC
      &XC_FUNCTIONAL {config.xc}
      &END XC_FUNCTIONAL
    &END XC{sampling if grid != (1, 1, 1) else ""}
    &SCF
      SCF_GUESS ATOMIC
      EPS_SCF {config.eps_scf:g}
      MAX_SCF {config.max_iterations}{smear if config.smearing else ""}
      &DIAGONALIZATION ON
        ALGORITHM STANDARD
      &END DIAGONALIZATION
      &MIXING ON
        METHOD BROYDEN_MIXING
        ALPHA {config.mixing:g}
        NBROYDEN 8
      &END MIXING
      &PRINT
        &RESTART OFF
        &END RESTART
      &END PRINT
    &END SCF
  &END DFT
  &SUBSYS
    &CELL
{vectors}
      PERIODIC XYZ
    &END CELL
    &COORD
{positions}
    &END COORD{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""

    def _file(self, key: str) -> Path:
        path = self._data / getattr(self.config, key)
        if not path.is_file():
            raise LabelError(
                f"labelling.code.{key} {path.name!r} is not in {self._data}; set labelling.code.data_dir (or "
                "CP2K_DATA_DIR) to the folder `data` of CP2K"
            )
        return path

    def _basis(self, element: str) -> str:
        name = self.config.basis_by_element.get(element, self.config.basis)
        if name not in _entries(self._file("basis_file"), element):
            known = sorted(_entries(self._file("basis_file"), element))
            raise LabelError(
                f"CP2K's {self.config.basis_file} has no basis {name!r} for {element!r}; it has "
                f"{', '.join(known) or 'none'}: set labelling.code.basis_by_element or basis_file"
            )
        return name

    def _valence(self, element: str) -> int:
        name = self.config.potential
        entries = _entries(self._file("potential_file"), element)
        if name not in entries:
            raise LabelError(
                f"CP2K's {self.config.potential_file} has no potential {name!r} for {element!r}; it has "
                f"{', '.join(sorted(entries)) or 'none'}: set labelling.code.potential or potential_file"
            )
        return sum(int(word) for word in entries[name].split())


def read_output(output: str, n_atoms: int, stress_wanted: bool) -> CodeResult:
    """The numbers of an output that says it converged.

    Raises:
        NotConvergedError: it does not say so.
        LabelError: numbers are missing.
    """
    if "SCF run converged in" not in output:
        raise NotConvergedError("CP2K's output does not say that the SCF converged; see its last lines")
    energy = re.findall(r"ENERGY\| Total FORCE_EVAL.*?:\s+(\S+)", output)
    entropy = re.findall(r"Electronic entropic energy:\s+(\S+)", output)
    block = re.search(r"ATOMIC FORCES in \[a\.u\.\](.*?)SUM OF ATOMIC FORCES", output, re.S)
    rows = re.findall(r"^\s*\d+\s+\d+\s+\w+\s+(\S+)\s+(\S+)\s+(\S+)\s*$", block.group(1), re.M) if block else []
    if not rows:  # since 2024: FORCES| lines, in hartree/bohr
        rows = re.findall(r"^\s*FORCES\|\s+\d+\s+(\S+)\s+(\S+)\s+(\S+)\s+\S+\s*$", output, re.M)
    if not energy or len(rows) != n_atoms:
        raise LabelError(f"CP2K's output holds no energy and forces of {n_atoms} atoms: {last_words(output)}")
    return CodeResult(
        energy=float(energy[-1]) * Hartree,
        forces=np.array(rows, dtype=np.float64) * (Hartree / Bohr),
        stress=_stress(output) if stress_wanted else None,
        converged=True,
        entropy=-float(entropy[-1]) * Hartree if entropy else None,
    )


def _stress(output: str) -> FloatArray:
    head = re.search(r"STRESS\| Analytical stress tensor \[(\w+)\]", output)
    rows = re.findall(r"^\s*STRESS\|\s+[xyz]\s+(\S+)\s+(\S+)\s+(\S+)\s*$", output, re.M)
    if head is None or head.group(1) not in STRESS_UNITS or len(rows) < 3:
        raise LabelError("CP2K's output holds no stress; this version prints it differently: tell the maintainers")
    tensor = -np.array(rows[:3], dtype=np.float64) * STRESS_UNITS[head.group(1)]
    tensor = 0.5 * (tensor + tensor.T)
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _entries(path: Path, element: str) -> dict[str, str]:
    """Name (and aliases) of the entries of an element in a data file, and the line below each."""
    found = {}
    for match in re.finditer(rf"^ *{element} +(\S.*)\n(.*)$", path.read_text(), re.M):
        for name in match.group(1).split("#")[0].split():
            found[name] = match.group(2).split("#")[0]
    return found


def _abort_message(output: str) -> str:
    found = re.search(r"\[ABORT\](.*?)(?:\n\s*=+|\n\s*\n|\Z)", output, re.S)
    if found is None:
        return last_words(output)
    words = re.sub(r"(?<!\S)[O|/\\*_.]+(?!\S)", " ", found.group(1))  # the drawing beside the message
    return " ".join(words.split())[:300] or last_words(output)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.14f}" for value in values)
