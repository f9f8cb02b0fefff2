"""D3 and D4 dispersion (Grimme et al. 2010, doi:10.1063/1.3382344; Caldeweyher et al. 2019, doi:10.1063/1.5090222)
on top of any reference code, by the packages dftd3 and dftd4.

    E = E_code + E_disp,   F = F_code - dE_disp/dr,   stress = stress_code + (1 / V) dE_disp/dstrain

The correction is part of the label's settings: labels with and without it never share a key. It belongs to functionals
without dispersion of their own: not to xTB, DFTB with dispersion, or functionals such as VV10, rev-vdW-DF2, wB97X-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from ideal.config import CodeSection, DispersionConfig, TbliteConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, ReferenceCode, first_line, installed_version


class DispersionCorrected:
    """A reference code with dispersion added.

    Args:
        code: the code; its section asks for the correction.

    Raises:
        LabelError: no damping parameters for the functional, or a code that holds dispersion already.
        MissingPackageError: dftd3 or dftd4 is not installed.

    Example:
        >>> from ideal.config import PyscfConfig
        >>> from ideal.labelling.codes import make_code
        >>> config = PyscfConfig(dispersion=DispersionConfig())                 # doctest: +SKIP
        >>> make_code(config).settings["dispersion"]["functional"]              # doctest: +SKIP
        'pbe'
    """

    def __init__(self, code: ReferenceCode) -> None:
        config = code.config.dispersion
        if config is None:
            raise LabelError(f"{code.name}: labelling.code.dispersion is not set; write `dispersion: {{method: d3bj}}`")
        if isinstance(code.config, TbliteConfig):
            raise LabelError("tblite's GFN-xTB holds dispersion already: remove labelling.code.dispersion")
        self._code = code
        self.dispersion = Dispersion(config, _functional(code.config, config))
        self.name = f"{code.name}+{config.method}"
        self.energy_kind = code.energy_kind
        self.settings: dict[str, Any] = {
            **code.settings,
            "code": self.name,
            "dispersion": self.dispersion.settings,
        }

    @property
    def config(self) -> CodeSection:
        """The configuration of the code, dispersion included."""
        return self._code.config

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`; the first line names the correction too."""
        first, *rest = self._code.check(elements)
        settings = self.dispersion.settings
        name = f"{settings['method'].upper()}({settings['functional']})"
        return [f"{first}, {name} by {settings['package']}", *rest]

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`."""
        charge = float(getattr(self.config, "charge", 0))
        energy, forces, stress = self.dispersion.evaluate(atoms, charge)
        result = self._code.compute(atoms, folder)
        return replace(
            result,
            energy=result.energy + energy,
            forces=result.forces + forces,
            stress=None if result.stress is None or stress is None else result.stress + stress,
        )


class Dispersion:
    """Energy, forces and stress of D3 or D4 for one functional.

    Args:
        config: the method.
        functional: name as the package knows it.

    Raises:
        LabelError: the package has no parameters for the functional.
        MissingPackageError: the package is not installed.
    """

    def __init__(self, config: DispersionConfig, functional: str) -> None:
        package = "dftd4" if config.method == "d4" else "dftd3"
        version = installed_version(package, f"{config.method.upper()} dispersion")
        self._method = config.method
        three_body = (package == "dftd4") if config.three_body is None else config.three_body
        try:
            self._damping = _damping(config.method, functional, three_body)
        except RuntimeError as error:
            raise LabelError(
                f"{package} has no {config.method} parameters for the functional {functional!r} ({first_line(error)}); "
                "name one by labelling.code.dispersion.functional, such as pbe, scan, b3-lyp"
            ) from error
        self.settings: dict[str, Any] = {
            "method": config.method,
            "functional": functional,
            "three_body": three_body,
            "package": f"{package} {version}",
        }

    def evaluate(self, atoms: Atoms, charge: float = 0.0) -> tuple[float, Any, Any]:
        """Energy (eV), forces (n_atoms, 3) (eV/Å), stress (6,) (eV/Å³) or None without a volume."""
        options: dict[str, Any] = {}
        if np.any(atoms.pbc):
            options = {"lattice": atoms.cell.complete().array / Bohr, "periodic": np.asarray(atoms.pbc)}
        if self._method == "d4":
            from dftd4.interface import DispersionModel

            options["charge"] = charge
        else:
            from dftd3.interface import DispersionModel
        try:
            model = DispersionModel(atoms.numbers, atoms.positions / Bohr, **options)
            values = model.get_dispersion(self._damping, grad=True)
        except RuntimeError as error:
            raise LabelError(f"{self.settings['package']} failed: {first_line(error)}") from error
        stress = None
        if np.all(atoms.pbc):
            tensor = np.asarray(values["virial"]) * (Hartree / atoms.get_volume())
            tensor = 0.5 * (tensor + tensor.T)
            stress = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return float(values["energy"]) * Hartree, -np.asarray(values["gradient"]) * (Hartree / Bohr), stress


def _damping(method: str, functional: str, three_body: bool) -> Any:
    if method == "d4":
        from dftd4.interface import DampingParam

        return DampingParam(method=functional, atm=three_body)
    from dftd3.interface import RationalDampingParam, ZeroDampingParam

    damping = RationalDampingParam if method == "d3bj" else ZeroDampingParam
    return damping(method=functional, atm=three_body)


def _functional(code: CodeSection, config: DispersionConfig) -> str:
    """The functional whose parameters are used: the section's own unless another is named."""
    own = config.functional or next(
        (value for name in ("xc", "input_dft", "method") if isinstance(value := getattr(code, name, None), str)), None
    )
    if own is None:
        raise LabelError(
            "labelling.code.dispersion.functional: this section does not name its functional; write it, such as pbe"
        )
    return own.lower()
