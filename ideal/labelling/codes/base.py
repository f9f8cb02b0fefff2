"""What a reference code is: settings that decide the result, a quick check, and one calculation.

A new code is one file with one class of this protocol, one configuration section in `ideal.config_codes`, and one line
in `ideal.labelling.codes`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms

from ideal.config import CodeSection
from ideal.errors import LabelError, MissingPackageError
from ideal.records import FloatArray


@dataclass(frozen=True)
class CodeResult:
    """The numbers of one calculation.

    Attributes:
        energy: eV, the energy that the forces are the derivative of.
        forces: (n_atoms, 3), eV/Å.
        stress: (6,), eV/Å³, ASE's sign and Voigt order; None where there is none (open boundaries,
            or a code without stress).
        energy_kind: "free_energy" or "total_energy".
        converged: what the code says about its SCF; None where the notion has no meaning or is not reported. An
            adapter raises `NotConvergedError` itself; the gate refuses a False that slips through.
        entropy: T S of the smeared electrons, eV, at least 0; None where it is not known.
        removed_net_force: largest component of the net force, eV/Å, that the code subtracted from the forces before it
            printed them; None where it subtracts none or does not say.
    """

    energy: float
    forces: FloatArray
    stress: FloatArray | None
    energy_kind: str = "free_energy"
    converged: bool | None = None
    entropy: float | None = None
    removed_net_force: float | None = None


class NotConvergedError(LabelError):
    """The SCF did not converge: the one failure that the retries of `CodeSection` are for."""


class ReferenceCode(Protocol):
    """A program that labels structures.

    Attributes:
        name: short name of the code.
        config: the configuration that it was made from; a worker process makes the code anew from it.
        settings: JSON-able; everything that decides the result, the code's version included. It enters the label's key.
        energy_kind: "free_energy" or "total_energy", what `compute` returns unless its result says otherwise.
    """

    name: str
    settings: dict[str, Any]
    energy_kind: str

    @property
    def config(self) -> CodeSection:
        """The configuration section."""
        ...

    def check(self, elements: Sequence[str]) -> list[str]:
        """Prove in seconds that the code answers for ``elements``.

        Returns:
            Lines that tell what was found.

        Raises:
            LabelError: an element, file or setting is missing.
            MissingPackageError: the code is not installed.
        """
        ...

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """Calculate energy, forces and stress; every file that is written goes to ``folder``.

        Raises:
            NotConvergedError: the SCF did not converge.
            LabelError: the calculation could not be run.
        """
        ...


def installed_version(distribution: str, purpose: str, install: str | None = None) -> str:
    """Version of an installed package, without importing it.

    Raises:
        MissingPackageError: it is not installed; ``install`` is the command to show.

    Example:
        >>> installed_version("numpy", "labelling")  # doctest: +ELLIPSIS
        '...'
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackageError(distribution, purpose, install) from None


def first_line(error: BaseException) -> str:
    """An exception as one line: its class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name
