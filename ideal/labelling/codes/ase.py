"""Any ASE calculator, named by its import path.

The calculator is made anew for every label, so that a label never depends on the ones before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import AseConfig
from ideal.errors import LabelError, did_you_mean
from ideal.labelling.codes.base import CodeResult, first_line, installed_version
from ideal.labelling.codes.cells import has_stress

CHECK_DISTANCE = 2.5
"""Distance of the two atoms of the calculation that proves an element, Å."""


class AseCode:
    """An ASE calculator such as ``ase.calculators.emt:EMT`` with keyword arguments.

    Raises:
        LabelError: the module does not exist.

    Example:
        >>> from ase.build import bulk
        >>> code = AseCode(AseConfig(calculator="ase.calculators.emt:EMT"))
        >>> code.compute(bulk("Cu", cubic=True), Path()).stress.shape
        (6,)
    """

    name = "ase"
    energy_kind = "free_energy"

    def __init__(self, config: AseConfig) -> None:
        self.config = config
        if not config.force_consistent:
            self.energy_kind = "total_energy"
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": _version(config.calculator.partition(":")[0]),
            "ase_version": installed_version("ase", "labelling"),
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: makes the calculator and calculates a dimer of each element."""
        self.calculator()
        lines = [f"{self.config.calculator} ({self.settings['version']})"]
        for element in elements:
            dimer = Atoms([element, element], positions=[[0, 0, 0], [0, 0, CHECK_DISTANCE]])
            dimer.cell, dimer.pbc = np.diag([12.0, 12.0, 12.0]), True
            try:
                self.compute(dimer, Path())
            except LabelError as error:
                raise LabelError(f"{self.config.calculator} does not answer for {element!r}: {error}") from error
            lines.append(f"{element}: answers")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; the calculation runs with ``folder`` as the working directory."""
        from ase.calculators.calculator import PropertyNotImplementedError

        config = self.config
        copy = atoms.copy()
        copy.calc = self.calculator()
        energy_kind, stress = self.energy_kind, None
        with contextlib.chdir(folder):
            try:
                forces = copy.get_forces(apply_constraint=False)
                try:
                    energy = copy.get_potential_energy(force_consistent=config.force_consistent)
                except PropertyNotImplementedError:
                    energy, energy_kind = copy.get_potential_energy(), "total_energy"
                if has_stress(atoms):
                    with contextlib.suppress(PropertyNotImplementedError):
                        stress = copy.get_stress(apply_constraint=False)
            except (ArithmeticError, LookupError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
                raise LabelError(f"{config.calculator} failed: {first_line(error)}") from error
        return CodeResult(
            energy=float(energy),
            forces=np.array(forces, dtype=np.float64),
            stress=None if stress is None else np.array(stress, dtype=np.float64),
            energy_kind=energy_kind,
        )

    def calculator(self) -> Any:
        """A new calculator.

        Raises:
            LabelError: it cannot be imported or does not take its arguments.
        """
        factory = _import(self.config.calculator)
        try:
            return factory(**self.config.arguments)
        except Exception as error:
            raise LabelError(
                f"{self.config.calculator} does not accept the arguments {self.config.arguments}: {first_line(error)}"
            ) from error


def _import(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise LabelError(
            f"labelling.code.calculator: the module {module_name!r} cannot be imported ({error}); install the package "
            "that holds it, or correct the path"
        ) from error
    if not hasattr(module, name):
        raise LabelError(
            f"labelling.code.calculator: {module_name!r} has no {name!r}; {did_you_mean(name, dir(module))}"
        )
    factory: Callable[..., Any] = getattr(module, name)
    return factory


def _version(module_name: str) -> str:
    """Name and version of the distribution that holds a module; for a loose file, the hash of its text."""
    top = module_name.partition(".")[0]
    try:
        version = importlib.metadata.version(top)
        return version if top == "ase" else f"{top} {version}"
    except importlib.metadata.PackageNotFoundError:
        pass
    distributions = importlib.metadata.packages_distributions().get(top)
    if distributions:
        return f"{distributions[0]} {importlib.metadata.version(distributions[0])}"
    try:
        spec = importlib.util.find_spec(module_name)
    except ImportError as error:
        raise LabelError(
            f"labelling.code.calculator: no module {module_name!r} ({error}); install it or correct the path"
        ) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise LabelError(
            f"labelling.code.calculator: no module {module_name!r}; install the package that holds it, or correct the "
            "path"
        )
    return f"{top} sha256:{hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]}"
