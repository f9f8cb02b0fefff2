"""ORCA (Neese et al. 2020, doi:10.1063/5.0004608): molecules, energies and analytic gradients (EnGrad).

The gradient is read from ``orca.engrad`` (its digits suffice for finite differences), and only when the output says
that ORCA terminated normally and nowhere that the wave function is not fully converged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ideal.config import OrcaConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError
from ideal.labelling.codes.program import Program, last_words, text_of

INSTALL = "ORCA is free for academic use from faccts.de; give its full path in labelling.code.command"
INPUT, OUTPUT, GRADIENT = "orca.inp", "orca.out", "orca.engrad"
HELP = {"normal": "", "slow": "SlowConv", "very_slow": "VerySlowConv"}
UNCONVERGED = r"SCF NOT CONVERGED|not fully converged|IS NOT CONVERGED|CONVERGENCE.* FAILED|has not converged"


class OrcaCode:
    """ORCA for molecules.

    Raises:
        LabelError: the program does not answer as ORCA.
        MissingPackageError: there is no such program.

    Example:
        >>> code = OrcaCode(OrcaConfig(command="/opt/orca/orca", method="B3LYP", basis="def2-TZVP"))  # doctest: +SKIP
    """

    name = "orca"
    energy_kind = "total_energy"

    def __init__(self, config: OrcaConfig) -> None:
        self.config = config
        self._program = Program(config.command, "ORCA", INSTALL)
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": self._program.version(r"Program Version\s+(\S+)", ["no-such-input"]),
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the program has answered; ORCA keeps its basis sets inside."""
        config = self.config
        lines = [f"ORCA {self.settings['version']}: {config.method}/{config.basis} {config.keywords}".rstrip()]
        return lines + [f"{element}: basis {config.basis}, known at the first label" for element in elements]

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; input and output are ``folder/orca.inp`` and ``orca.out``."""
        if np.any(atoms.pbc):
            raise LabelError(
                f"ORCA labels molecules, not pbc {atoms.pbc.tolist()}; use gpaw, espresso, cp2k, abinit, vasp or aims"
            )
        (folder / GRADIENT).unlink(missing_ok=True)
        (folder / INPUT).write_text(self.input_text(atoms))
        status = self._program.run(folder, OUTPUT, [INPUT])
        for scratch in [*folder.glob("orca*.tmp"), *folder.glob("orca.gbw"), *folder.glob("orca.densities*")]:
            scratch.unlink(missing_ok=True)
        output = text_of(folder / OUTPUT)
        if re.search(UNCONVERGED, output):
            raise NotConvergedError(
                f"ORCA did not converge in {self.config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations, or set convergence: slow"
            )
        if status != 0 or "ORCA TERMINATED NORMALLY" not in output:
            message = re.search(r"(?:INPUT ERROR|UNRECOGNIZED[^\n]*|Error[^\n]*:[^\n]*)\n?[^\n]*", output)
            words = " ".join(message.group(0).split()) if message else last_words(output)
            raise LabelError(f"ORCA ended with status {status}: {words[:300]}")
        return read_gradient(text_of(folder / GRADIENT), len(atoms))

    def input_text(self, atoms: Atoms) -> str:
        """The input file of a molecule."""
        config = self.config
        words = ["!", config.method, config.basis, config.keywords, HELP[config.convergence], "EnGrad"]
        lines = [
            " ".join(word for word in words if word),
            f"%scf MaxIter {config.max_iterations} end",
            *([config.blocks.strip()] if config.blocks.strip() else []),
            f"* xyz {config.charge} {config.spin + 1}",
            *(
                f"{symbol:<2} " + " ".join(f"{value:17.12f}" for value in position)
                for symbol, position in zip(atoms.symbols, atoms.positions, strict=True)
            ),
            "*",
        ]
        return "\n".join(lines) + "\n"


def read_gradient(text: str, n_atoms: int) -> CodeResult:
    """Energy and forces of an ``engrad`` file: comments that start with #, and numbers.

    Raises:
        LabelError: numbers are missing.
    """
    numbers = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    if len(numbers) < 2 + 3 * n_atoms or int(numbers[0]) != n_atoms:
        raise LabelError(f"{GRADIENT} holds no energy and gradient of {n_atoms} atoms; does the method have gradients?")
    gradient = np.array(numbers[2 : 2 + 3 * n_atoms], dtype=np.float64).reshape(n_atoms, 3)
    return CodeResult(
        energy=float(numbers[1]) * Hartree,
        forces=-gradient * (Hartree / Bohr),
        stress=None,
        energy_kind="total_energy",
        converged=True,
    )
