"""FHI-aims (Blum et al. 2009, doi:10.1016/j.cpc.2009.06.022): all electrons, numeric atomic orbitals.

geometry.in and control.in are written here, with the species defaults of the user's folder appended; the output must
say that the self-consistency cycle converged. The energy is the electronic free energy. FHI-aims removes the net force
before it prints the forces and says how large it was, so that the gate can judge it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ideal.config import AimsConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid, kpoint_shift
from ideal.labelling.codes.program import Program, last_words, sha256, text_of

INSTALL = "FHI-aims is licensed by fhi-aims.org; give the path of its program in labelling.code.command"
OUTPUT = "aims.out"


class AimsCode:
    """FHI-aims with the species defaults of one folder.

    Raises:
        LabelError: the program does not answer, or the folder holds no species.
        MissingPackageError: there is no such program.

    Example:
        >>> code = AimsCode(AimsConfig(species_dir="defaults_2020/light"))        # doctest: +SKIP
    """

    name = "aims"
    energy_kind = "free_energy"

    def __init__(self, config: AimsConfig) -> None:
        self.config = config
        self._program = Program(config.command, "FHI-aims", INSTALL)
        self._species_dir = Path(config.species_dir).resolve()
        files = sorted(self._species_dir.glob("*_default"))
        if not files:
            raise LabelError(
                f"labelling.code.species_dir {self._species_dir} holds no species files (14_Si_default ...); name a "
                "folder such as species_defaults/defaults_2020/light"
            )
        digest = hashlib.sha256("".join(path.name + sha256(path) for path in files).encode()).hexdigest()
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": self._program.version(r"(?:FHI-aims version|Version)\s*:?\s*(\S+)"),
            "vacuum": VACUUM,
            "species_hash": digest,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered; the species file of each element is there."""
        config = self.config
        sampling = describe_sampling(config.kpoint_length)
        lines = [f"FHI-aims {self.settings['version']}: {config.xc}, {self._species_dir.name}, {sampling}"]
        return lines + [f"{element}: {self._species(element).name}" for element in elements]

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; the output is ``folder/aims.out``."""
        self.write_input(atoms, folder)
        status = self._program.run(folder, OUTPUT)
        output = text_of(folder / OUTPUT)
        unfinished = "WARNING! SELF-CONSISTENCY CYCLE DID NOT CONVERGE" in output
        if unfinished or ("Convergence:" in output and "Self-consistency cycle converged." not in output):
            raise NotConvergedError(
                f"FHI-aims did not converge in {self.config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations or smearing, or lower mixing"
            )
        if status != 0 or "Have a nice day." not in output:
            raise LabelError(f"FHI-aims ended with status {status}: {last_words(output)}")
        return read_output(output, len(atoms), has_stress(atoms))

    def write_input(self, atoms: Atoms, folder: Path) -> None:
        """Write geometry.in and control.in."""
        config = self.config
        periodic = bool(np.any(atoms.pbc))
        cell = fully_periodic(atoms) if periodic else atoms
        moments = atoms.get_initial_magnetic_moments()
        geometry = [f"lattice_vector {_numbers(vector)}" for vector in cell.cell.array] if periodic else []
        for symbol, position, moment in zip(cell.symbols, cell.positions, moments, strict=True):
            geometry.append(f"atom {_numbers(position)} {symbol}")
            if config.spin and moment:
                geometry.append(f"    initial_moment {moment:g}")
        control = [
            f"xc {config.xc}",
            f"relativistic {config.relativistic}",
            f"spin {'collinear' if config.spin else 'none'}",
            f"charge {config.charge:g}",
            f"occupation_type fermi {config.smearing:g}",
            f"sc_accuracy_rho {config.tolerance:g}",
            f"sc_iter_limit {config.max_iterations}",
            *([] if config.mixing is None else [f"charge_mix_param {config.mixing:g}"]),
            "compute_forces .true.",
            *(["compute_analytical_stress .true."] if has_stress(atoms) else []),
        ]
        if periodic:
            grid = kpoint_grid(atoms, config.kpoint_length)
            offset = [0.5 * half / n for half, n in zip(kpoint_shift(grid), grid, strict=True)]
            control += ["k_grid " + " ".join(map(str, grid)), "k_offset " + " ".join(f"{o:.12g}" for o in offset)]
        control += [f"{name} {value}" for name, value in config.keywords.items()]
        species = [self._species(element).read_text() for element in sorted(set(atoms.symbols))]
        (folder / "geometry.in").write_text("\n".join(geometry) + "\n")
        (folder / "control.in").write_text("\n".join(control) + "\n" + "\n".join(species))

    def _species(self, element: str) -> Path:
        path = self._species_dir / f"{atomic_numbers[element]:02d}_{element}_default"
        if not path.is_file():
            raise LabelError(
                f"no species file {path.name} in labelling.code.species_dir {self._species_dir}; choose another folder"
            )
        return path


def read_output(output: str, n_atoms: int, stress_wanted: bool) -> CodeResult:
    """The numbers of a finished output.

    Raises:
        LabelError: numbers are missing.
    """
    free = re.findall(r"\| Electronic free energy\s+:\s+(\S+) eV", output)
    total = re.findall(r"\| Total energy uncorrected\s+:\s+(\S+) eV", output)
    block = output.rpartition("Total atomic forces (unitary forces cleaned) [eV/Ang]:")[2]
    rows = re.findall(r"^\s*\|\s+\d+\s+(\S+)\s+(\S+)\s+(\S+)\s*$", block, re.M)[:n_atoms]
    net = re.findall(r"Net force on center of mass :\s+(\S+)\s+(\S+)\s+(\S+) eV/A", output)
    if not free or not total or len(rows) != n_atoms:
        raise LabelError(f"FHI-aims' output holds no energy and forces of {n_atoms} atoms: {last_words(output)}")
    stress = None
    if stress_wanted:
        table = output.rpartition("Analytical stress tensor - Symmetrized")[2]
        lines = re.findall(r"^\s*\|\s+[xyz]\s+(-?\d\S*)\s+(\S+)\s+(\S+)\s+\|", table, re.M)[:3]
        if len(lines) != 3:
            raise LabelError(f"FHI-aims' output holds no stress: {last_words(output)}")
        stress = np.array(lines, dtype=np.float64)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return CodeResult(
        energy=float(free[-1]),
        forces=np.array(rows, dtype=np.float64),
        stress=stress,
        converged=True,
        entropy=float(total[-1]) - float(free[-1]),
        removed_net_force=max(abs(float(word)) for word in net[-2]) if len(net) >= 2 else None,
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.12f}" for value in values)
