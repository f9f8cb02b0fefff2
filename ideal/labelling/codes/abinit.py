"""ABINIT (Gonze et al. 2020, doi:10.1016/j.cpc.2019.107042): plane waves with the user's pseudopotentials.

Each label is one run on one input file; the output must say that the SCF converged (ABINIT itself only warns). With
smearing, ABINIT's total energy is the free energy. Symmetry is off but for time reversal. ABINIT subtracts the net
force before it prints the forces; what it subtracted is read, so that the gate can judge it. Its own output has the
digits that finite differences need, which the results' summary that ASE reads has not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree

from ideal.config import AbinitConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid, kpoint_shift
from ideal.labelling.codes.program import Program, element_file, last_words, sha256, text_of

INSTALL = (
    "apt-get install abinit (Debian, Ubuntu), or conda install -c conda-forge abinit; or give its path in "
    "labelling.code.command"
)
INPUT, OUTPUT, LOG = "run.abi", "run.abo", "abinit.log"


class AbinitCode:
    """ABINIT with the user's pseudopotentials or PAW sets.

    Raises:
        LabelError: the program does not answer, or a pseudopotential is missing.
        MissingPackageError: there is no such program.

    Example:
        >>> code = AbinitCode(AbinitConfig(                                       # doctest: +SKIP
        ...     pseudo_dir="pseudo", pseudopotentials={"Si": "Si.psp8"}))
    """

    name = "abinit"
    energy_kind = "free_energy"

    def __init__(self, config: AbinitConfig) -> None:
        self.config = config
        self._program = Program(config.command, "ABINIT", INSTALL)
        self._pseudo_dir = Path(config.pseudo_dir).resolve()
        hashes = {element: sha256(self._pseudopotential(element)) for element in config.pseudopotentials}
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": self._program.version(r"(?m)^\s*(\d+\.\d[\w.\-]*)\s*$", ["--version"]),
            "vacuum": VACUUM,
            "pseudopotential_hashes": hashes,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered; the pseudopotential of each element is there."""
        config = self.config
        sampling = describe_sampling(config.kpoint_length)
        lines = [f"ABINIT {self.settings['version']}: plane waves to {config.cutoff:.0f} eV, {sampling}"]
        for element in elements:
            path = self._pseudopotential(element)
            number = re.search(r"^\s*(\d+)(?:\.\d*)?\s+\d", path.read_text(errors="replace"), re.M)
            known = re.search(r"(?i)<UPF|<PP_HEADER|<paw_(setup|dataset)", path.read_text(errors="replace")[:5000])
            if not known and (number is None or int(number.group(1)) != atomic_numbers[element]):
                raise LabelError(f"{path} is no pseudopotential of {element!r}; give one that ABINIT reads")
            lines.append(f"{element}: {path.name}")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; input and output are ``folder/run.abi`` and ``run.abo``."""
        for old in folder.glob("run*.abo*"):  # ABINIT does not overwrite: it would write run.abo0001
            old.unlink()
        (folder / INPUT).write_text(self.input_text(atoms))
        status = self._program.run(folder, LOG, [INPUT])
        for scratch in folder.glob("runo_*"):
            scratch.unlink()
        output, log = text_of(folder / OUTPUT), text_of(folder / LOG)
        if "was not enough SCF cycles to converge" in output + log:
            raise NotConvergedError(
                f"ABINIT did not converge in {self.config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations or smearing, or lower mixing"
            )
        if status != 0 or "=>converged" not in output:
            message = re.search(r"--- !(?:ERROR|BUG).*?message: \|\s*(.*?)\n\s*(?:\.\.\.|src_file)", log, re.S)
            words = " ".join(message.group(1).split())[:300] if message else last_words(log)
            raise LabelError(f"ABINIT ended with status {status}: {words}")
        return read_output(output, len(atoms), has_stress(atoms))

    def input_text(self, atoms: Atoms) -> str:
        """The input file of a structure."""
        config = self.config
        cell = fully_periodic(atoms)
        elements = sorted(set(atoms.symbols))
        grid = kpoint_grid(atoms, config.kpoint_length)
        shift = [0.5 * half for half in kpoint_shift(grid)]
        names = ", ".join(self._pseudopotential(element).name for element in elements)
        lines = [
            "# geometry",
            "acell 1 1 1",
            "rprim",
            *(_numbers(vector / Bohr) for vector in cell.cell.array),
            f"natom {len(cell)}",
            f"ntypat {len(elements)}",
            "znucl " + " ".join(str(atomic_numbers[element]) for element in elements),
            "typat " + " ".join(str(elements.index(symbol) + 1) for symbol in cell.symbols),
            "xcart",
            *(_numbers(position / Bohr) for position in cell.positions),
            f'pp_dirpath "{self._pseudo_dir}"',
            f'pseudos "{names}"',
            "# plane waves and k-points, no symmetry but time reversal",
            f"ecut {config.cutoff / Hartree:.10g}",
            f"pawecutdg {(config.paw_cutoff or 2 * config.cutoff) / Hartree:.10g}",
            "ngkpt " + " ".join(map(str, grid)),
            "nshiftk 1",
            "shiftk " + " ".join(map(str, shift)),
            "kptopt 2",
            "nsym 1",
            "chksymbreak 0",
            "chkprim 0",
            "# electrons",
            *([] if config.ixc is None else [f"ixc {config.ixc}"]),
            *(
                ["occopt 3", f"tsmear {config.smearing / Hartree:.10g}", f"fband {config.empty_bands:g}"]
                if config.smearing
                else ["occopt 1"]
            ),
            f"nstep {config.max_iterations}",
            f"tolvrs {config.tolerance:g}",
            f"diemix {config.mixing:g}",
            "# what is printed",
            "optforces 1",
            f"optstress {int(has_stress(atoms))}",
            "prtwf 0",
            "prtden 0",
            "prteig 0",
        ]
        return "\n".join(lines) + "\n"

    def _pseudopotential(self, element: str) -> Path:
        return element_file(self._pseudo_dir, self.config.pseudopotentials, element)


def read_output(output: str, n_atoms: int, stress_wanted: bool) -> CodeResult:
    """The numbers of a finished output.

    Raises:
        LabelError: numbers are missing.
    """
    energy = re.findall(r"^ ETOT\s*\d+\s+(\S+)", output, re.M)
    entropy = re.findall(r"^'-kT\*entropy'\s*:\s*(\S+)", output, re.M)
    block = output.rpartition("cartesian forces (hartree/bohr) at end:")[2].partition("frms,max,avg=")
    rows = re.findall(r"^\s*\d+\s+(\S+)\s+(\S+)\s+(\S+)\s*$", block[0], re.M)
    if not energy or len(rows) != n_atoms:
        raise LabelError(f"ABINIT's output holds no energy and forces of {n_atoms} atoms: {last_words(output)}")
    average = [float(word) for word in block[2].split()[2:5]]
    stress = None
    if stress_wanted:
        values = re.findall(r"^  sigma\((\d) (\d)\)=\s*(\S+)\s+sigma\((\d) (\d)\)=\s*(\S+)", output, re.M)[-3:]
        if len(values) != 3:
            raise LabelError(f"ABINIT's output holds no stress: {last_words(output)}")
        diagonal = [float(row[2]) for row in values]
        shear = [float(row[5]) for row in values]  # 32, 31, 21: Voigt's order
        stress = np.array(diagonal + shear) * (Hartree / Bohr**3)
    return CodeResult(
        energy=float(energy[-1]) * Hartree,
        forces=np.array(rows, dtype=np.float64) * (Hartree / Bohr),
        stress=stress,
        converged=True,
        entropy=-float(entropy[-1]) * Hartree if entropy else None,
        removed_net_force=max(map(abs, average)) * n_atoms * (Hartree / Bohr) if len(average) == 3 else None,
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.14f}" for value in values)
