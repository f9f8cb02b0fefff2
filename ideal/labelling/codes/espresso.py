"""Quantum ESPRESSO's pw.x (Giannozzi et al. 2017, doi:10.1088/1361-648X/aa8f79), through ASE's input writer and
output reader.

The command is split into words and run without a shell. With smearing, pw.x's total energy is the free energy. Use
one MPI rank per worker on shared cores. With GTH files, energy and forces of pw.x 6.7 are right, but not its stress
(finite differences; ABINIT with the same file): such labels have none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Rydberg

from ideal.config import EspressoConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError, first_line, installed_version
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid, kpoint_shift
from ideal.labelling.codes.program import Program, element_file, sha256, text_of

INSTALL = (
    "apt-get install quantum-espresso (Debian, Ubuntu), or conda install -c conda-forge qe; or give its path in "
    "labelling.code.command"
)
OUTPUT = "espresso.pwo"


class EspressoCode:
    """pw.x with the user's pseudopotentials.

    Raises:
        LabelError: the program does not answer, or a pseudopotential is missing.
        MissingPackageError: there is no such program.

    Example:
        >>> code = EspressoCode(EspressoConfig(                                     # doctest: +SKIP
        ...     pseudo_dir="pseudo", pseudopotentials={"Si": "Si.pbe-rrkj.UPF"}))
    """

    name = "espresso"
    energy_kind = "free_energy"

    def __init__(self, config: EspressoConfig) -> None:
        self.config = config
        program = Program(config.command, "pw.x", INSTALL)
        self._pseudo_dir = Path(config.pseudo_dir).resolve()
        hashes = {element: sha256(self._pseudopotential(element)) for element in config.pseudopotentials}
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": program.version(r"Program PWSCF\s+v\.?\s*(\S+)"),
            "ase_version": installed_version("ase", "labelling"),
            "vacuum": VACUUM,
            "pseudopotential_hashes": hashes,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered with its version; each pseudopotential is read."""
        config = self.config
        sampling = describe_sampling(config.kpoint_length)
        lines = [
            f"pw.x {self.settings['version']}: plane waves to {config.ecutwfc:.0f} eV, {sampling}, {config.command!r}"
        ]
        for element in elements:
            path = self._pseudopotential(element)
            if not re.search(rb"UPF|PP_HEADER|\A\s*'", path.read_bytes()[:5000]):
                raise LabelError(f"{path} does not look like a pseudopotential; give a UPF file for {element!r}")
            lines.append(f"{element}: {path.name}")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; input and output are ``folder/espresso.pwi`` and ``espresso.pwo``."""
        from ase.calculators.espresso import Espresso, EspressoProfile

        config = self.config
        elements = sorted(set(atoms.symbols))
        for element in elements:
            self._pseudopotential(element)
        cell = fully_periodic(atoms)
        cell.calc = Espresso(
            profile=EspressoProfile(command=config.command, pseudo_dir=self._pseudo_dir),
            directory=folder,
            input_data=self._input(folder),
            pseudopotentials={element: config.pseudopotentials[element] for element in elements},
            kpts=(grid := kpoint_grid(atoms, config.kpoint_length)),
            koffset=kpoint_shift(grid),
        )
        try:
            energy = cell.get_potential_energy(force_consistent=True)
            forces = cell.get_forces(apply_constraint=False)
            stress = cell.get_stress(apply_constraint=False) if has_stress(atoms) and not self._gth(elements) else None
        except (subprocess.CalledProcessError, OSError) as error:
            raise self._failure(folder, first_line(error)) from error
        except (AssertionError, LookupError, RuntimeError, StopIteration, ValueError) as error:
            raise self._failure(folder, f"its output could not be read ({first_line(error)})") from error
        finally:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
        output = text_of(folder / OUTPUT)
        if "convergence has been achieved" not in output:
            raise self._failure(folder, "it does not say that the SCF converged")
        entropy = re.findall(r"smearing contrib\. \(-TS\)\s*=\s*(\S+) Ry", output)
        return CodeResult(
            energy=float(energy),
            forces=np.array(forces, dtype=np.float64),
            stress=None if stress is None else np.array(stress, dtype=np.float64),
            energy_kind=self.energy_kind,
            converged=True,
            entropy=-float(entropy[-1]) * Rydberg if entropy else None,
        )

    def _input(self, folder: Path) -> dict[str, Any]:
        config = self.config
        ecutrho = 4 * config.ecutwfc if config.ecutrho is None else config.ecutrho
        system: dict[str, Any] = {"ecutwfc": config.ecutwfc / Rydberg, "ecutrho": ecutrho / Rydberg, "nosym": True}
        if config.smearing > 0:
            system |= {"occupations": "smearing", "smearing": "fermi-dirac", "degauss": config.smearing / Rydberg}
        else:
            system |= {"occupations": "fixed"}
        if config.input_dft is not None:
            system["input_dft"] = config.input_dft
        return {
            "control": {
                "calculation": "scf",
                "tprnfor": True,
                "tstress": True,
                "disk_io": "none",
                "outdir": str(folder / "scratch"),
            },
            "system": system,
            "electrons": {
                "conv_thr": config.conv_thr,
                "electron_maxstep": config.max_iterations,
                "mixing_beta": config.mixing,
                "diagonalization": config.diagonalization,
            },
        }

    def _gth(self, elements: Sequence[str]) -> bool:
        """Whether a pseudopotential is a GTH file: with one, the stress of pw.x 6.7 is wrong (by gigapascals)."""
        return any(self.config.pseudopotentials[element].lower().endswith("gth") for element in elements)

    def _pseudopotential(self, element: str) -> Path:
        return element_file(self._pseudo_dir, self.config.pseudopotentials, element)

    def _failure(self, folder: Path, fallback: str) -> LabelError:
        """What pw.x says about its failure."""
        output = text_of(folder / OUTPUT)
        if "convergence NOT achieved" in output:
            return NotConvergedError(
                f"pw.x did not converge in {self.config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations or smearing"
            )
        routine = re.search(r"Error in routine\s+(.+?):?\s*\n\s*(.+?)\s*\n", output)
        if routine is not None:
            return LabelError(f"pw.x stopped in {routine.group(1)}: {routine.group(2)}")
        return LabelError(f"pw.x failed: {fallback}")
