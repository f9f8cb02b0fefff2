"""VASP (Kresse and Furthmüller 1996, doi:10.1103/PhysRevB.54.11169): INCAR, KPOINTS, POSCAR and POTCAR through ASE's
writer, results from vasprun.xml.

VASP does not tell its version without a run, so that the configuration names it and every output is held against it.
Up to version 5, VASP calls an SCF that ran out of iterations converged; here it counts as failed when it used all of
NELM. Energies are VASP's free energy (e_fr_energy), which the forces are the derivative of, not the extrapolated one.
The POTCAR files are the user's (VASP_PP_PATH); their titles enter the key.
"""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa

from ideal.config import VaspConfig
from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.codes.base import CodeResult, NotConvergedError, first_line, installed_version
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid
from ideal.labelling.codes.program import Program, last_words, text_of

INSTALL = "VASP is licensed by vasp.at; give the path of vasp_std in labelling.code.command"
RESULT, LOG = "vasprun.xml", "vasp.log"
PRESETS: dict[str, dict[str, Any]] = {
    "accurate": {"prec": "Accurate", "lreal": False, "lasph": True, "addgrid": False},
    "fast": {"prec": "Normal", "lreal": "Auto", "lasph": True, "addgrid": False},
}
METAGGA = ("SCAN", "RSCAN", "R2SCAN", "TPSS", "RTPSS", "M06L", "MBJ", "MS0", "MS1", "MS2")


class VaspCode:
    """VASP with the user's POTCAR files.

    Raises:
        LabelError: VASP_PP_PATH is not set or holds no POTCAR of this functional.

    Example:
        >>> code = VaspCode(VaspConfig(version="6.4.3", command="mpirun -n 8 vasp_std"))     # doctest: +SKIP
    """

    name = "vasp"
    energy_kind = "free_energy"

    def __init__(self, config: VaspConfig) -> None:
        self.config = config
        self._program = Program(config.command, "VASP", INSTALL)
        self._titles = self._all_titles()
        self.settings: dict[str, Any] = {
            "code": self.name,
            "ase_version": installed_version("ase", "labelling"),
            "vacuum": VACUUM,
            "tags": PRESETS[config.preset],
            "potcar_titles": self._titles,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program is on the path, the POTCAR of each element is there."""
        config = self.config
        if shutil.which(self._program.words[0]) is None:
            raise MissingPackageError(self._program.words[0], "labelling with VASP", INSTALL, "program")
        sampling = describe_sampling(config.kpoint_length)
        lines = [f"VASP {config.version} (as configured): {config.xc}, plane waves to {config.cutoff:g} eV, {sampling}"]
        for element in elements:
            if element not in self._titles:
                raise LabelError(
                    f"no POTCAR of {element!r} for setups {config.setups!r} and xc {config.xc!r} below VASP_PP_PATH; "
                    "choose another labelling.code.setups, or add the file"
                )
            lines.append(f"{element}: {self._titles[element]}")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; everything is in ``folder``, VASP's standard output in ``vasp.log``."""
        order = self.write_input(atoms, folder)
        status = self._program.run(folder, LOG)
        for scratch in ("WAVECAR", "CHGCAR", "CHG", "POTCAR"):
            (folder / scratch).unlink(missing_ok=True)
        if status != 0 or not (folder / RESULT).is_file():
            raise LabelError(f"VASP ended with status {status}: {_error_box(text_of(folder / LOG))}")
        result = read_vasprun(folder / RESULT, self.config, text_of(folder / "OUTCAR"))
        if len(result.forces) != len(atoms):
            raise LabelError(f"{RESULT} holds {len(result.forces)} forces for {len(atoms)} atoms; remove old files")
        forces = result.forces[order]
        return CodeResult(**{**vars(result), "forces": forces, "stress": result.stress if has_stress(atoms) else None})

    def write_input(self, atoms: Atoms, folder: Path) -> list[int]:
        """Write the four input files; ``forces_of_VASP[order]`` are in the order of ``atoms``."""
        calculator = self._calculator(atoms, folder)
        try:
            calculator.write_input(fully_periodic(atoms))
        except (RuntimeError, LookupError, OSError, ValueError) as error:
            raise LabelError(f"VASP's input cannot be written: {first_line(error)}") from error
        return list(calculator.resort)

    def _calculator(self, atoms: Atoms, folder: Path) -> Any:
        from ase.calculators.vasp import Vasp

        config = self.config
        tags = {
            **PRESETS[config.preset],
            "encut": config.cutoff,
            "ismear": -1,
            "sigma": config.smearing,
            "ediff": config.ediff,
            "nelm": config.max_iterations,
            "algo": {"veryfast": "VeryFast"}.get(config.algorithm, config.algorithm.capitalize()),
            "ispin": 2 if config.spin else 1,
            "isym": 0,
            "nsw": 0,
            "ibrion": -1,
            "isif": 2,
            "lwave": False,
            "lcharg": False,
            **({} if config.mixing is None else {"amix": config.mixing}),
            **({"metagga": config.xc.upper()} if config.xc.upper() in METAGGA else {}),
            **config.incar,
        }
        functional = {"pp": "PBE"} if config.xc.upper() in METAGGA else {"xc": config.xc}
        try:
            return Vasp(
                directory=str(folder),
                setups=config.setups,
                kpts=kpoint_grid(atoms, config.kpoint_length),
                gamma=False,
                **functional,
                **tags,
            )
        except (TypeError, ValueError) as error:
            raise LabelError(f"VASP's input is refused by ASE: {first_line(error)}; correct labelling.code") from error

    def _all_titles(self) -> dict[str, str]:
        """The first line of the POTCAR of every element that has one."""
        titles, problem = {}, "no POTCAR of any element"
        for element in chemical_symbols[1:]:
            atoms = Atoms(element, cell=[5, 5, 5], pbc=True)
            calculator = self._calculator(atoms, Path())
            try:
                calculator.initialize(atoms)
            except (RuntimeError, LookupError, OSError) as error:
                if "does not exist" in str(error) or "VASP_PP_PATH" in str(error):
                    problem = first_line(error)
                continue
            for file in map(Path, calculator.ppp_list):
                with file.open(errors="replace") as potcar:
                    titles[element] = " ".join(potcar.readline().split())
        if not titles:
            raise LabelError(
                f"{problem}; set VASP_PP_PATH to the folder that holds potpaw_PBE (files potpaw_PBE/Si/POTCAR ...)"
            )
        return titles


def read_vasprun(path: Path, config: VaspConfig, outcar: str = "") -> CodeResult:
    """Energy, forces (in VASP's order of atoms) and stress of a finished calculation.

    Raises:
        NotConvergedError: the SCF used all of NELM.
        LabelError: the file is damaged, of another version, or numbers are missing.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise LabelError(f"{path.name} is not complete ({first_line(error)}): VASP was killed or crashed") from error
    version = (root.findtext("generator/i[@name='version']") or "").strip()
    if version != config.version:
        raise LabelError(
            f"the output is of VASP {version or 'unknown'}, labelling.code.version says {config.version}; write the "
            "true version, which is part of every label's key"
        )
    calculation = root.find("calculation[last()]")
    if calculation is None:
        raise LabelError(f"{path.name} holds no calculation: see {LOG}")
    limit = int(root.findtext(".//parameters//i[@name='NELM']") or config.max_iterations)
    if len(calculation.findall("scstep")) >= limit:
        raise NotConvergedError(
            f"VASP did not converge in {limit} SCF iterations; raise labelling.code.max_iterations, or set "
            "algorithm: all"
        )
    values = {name: calculation.findtext(f"energy/i[@name='{name}']") for name in ("e_fr_energy", "e_wo_entrp")}
    forces, stress = _array(calculation, "forces"), _array(calculation, "stress")
    if values["e_fr_energy"] is None or forces is None:
        raise LabelError(f"{path.name} holds no energy and forces: see {LOG}")
    free, internal = float(values["e_fr_energy"]), values["e_wo_entrp"]
    drift = re.findall(r"total drift:\s+(\S+)\s+(\S+)\s+(\S+)", outcar)
    return CodeResult(
        energy=free,
        forces=forces,
        stress=None if stress is None else -0.1 * GPa * stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        converged=True,
        entropy=None if internal is None else float(internal) - free,
        removed_net_force=max(abs(float(word)) for word in drift[-1]) if drift else None,
    )


def _array(calculation: ElementTree.Element, name: str) -> Any:
    rows = calculation.findall(f"varray[@name='{name}']/v")
    return np.array([[float(word) for word in (row.text or "").split()] for row in rows]) if rows else None


def _error_box(log: str) -> str:
    """The text of VASP's framed error message, else its last words."""
    box = [line.strip("|").strip() for line in log.splitlines() if line.startswith("|") and line.rstrip().endswith("|")]
    words = " ".join(line for line in box if re.search(r"[A-Za-z]{3}", line))
    return words[:300] or last_words(log)
