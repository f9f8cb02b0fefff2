"""A code whose energies are brought onto the scale of another: minus so many eV for each atom of an element.

Codes, functionals and pseudopotentials count energies from different zeros, hundreds of eV apart. Forces and stress do
not know of it, but a model that learns the energies of two codes takes the difference for structure. With offsets

    E = E_code - sum over atoms of offset(element)

both are on one scale up to what the codes really disagree on. `fit_offsets` finds them from structures that both
have labelled. They are part of the label's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import CodeSection
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, ReferenceCode
from ideal.records import Label


class WithOffsets:
    """A code with the ``energy_offsets`` of its section.

    Example:
        >>> WithOffsets(code).settings["energy_offsets"]                        # doctest: +SKIP
        {'H': -13.2, 'O': -431.7}
    """

    def __init__(self, code: ReferenceCode) -> None:
        self._code = code
        self._offsets = code.config.energy_offsets
        self.name = code.name
        self.energy_kind = code.energy_kind
        self.settings: dict[str, Any] = {**code.settings, "energy_offsets": dict(self._offsets)}

    @property
    def config(self) -> CodeSection:
        """The configuration of the code, offsets included."""
        return self._code.config

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`; every element must have its offset."""
        offsets = ", ".join(f"{element} {self._offset(element):g}" for element in elements)
        return [*self._code.check(elements), f"energy offsets (eV): {offsets}"]

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`."""
        shift = sum(self._offset(symbol) for symbol in atoms.symbols)
        result = self._code.compute(atoms, folder)
        return replace(result, energy=result.energy - shift)

    def _offset(self, element: str) -> float:
        if element not in self._offsets:
            raise LabelError(
                f"labelling: the code {self.name} has energy_offsets for {', '.join(self._offsets)} but none for "
                f"{element!r}; add it (eV per atom), so that its energies are on one scale with the others'"
            )
        return self._offsets[element]


def fit_offsets(labels: Sequence[Label], reference: Sequence[Label]) -> dict[str, float]:
    """Energy offsets of one code against another, by least squares over structures that both have labelled.

    Args:
        labels: of the code that gets the offsets.
        reference: the same structures, in the same order, by the code that sets the scale.

    Returns:
        eV per atom by element.

    Raises:
        LabelError: the structures differ, or their compositions do not tell the elements apart.

    Example:
        >>> fit_offsets(read_labels("pyscf.extxyz"), read_labels("gpaw.extxyz"))     # doctest: +SKIP
        {'H': -9.81, 'O': -1643.02}
    """
    if len(labels) != len(reference) or any(
        one.atoms.get_chemical_formula() != other.atoms.get_chemical_formula()
        for one, other in zip(labels, reference, strict=False)
    ):
        raise LabelError(
            f"{len(labels)} labels and {len(reference)} of the reference are not of the same structures; label one "
            "file with both codes"
        )
    elements = sorted({symbol for label in labels for symbol in label.atoms.symbols})
    counts = np.array([[list(label.atoms.symbols).count(element) for element in elements] for label in labels])
    if np.linalg.matrix_rank(counts) < len(elements):
        raise LabelError(
            f"the compositions of {len(labels)} structures do not tell {', '.join(elements)} apart; add structures of "
            "other compositions, such as single atoms or the elements"
        )
    differences = [one.energy - other.energy for one, other in zip(labels, reference, strict=True)]
    found = np.linalg.lstsq(counts.astype(float), np.array(differences), rcond=None)[0]
    return {element: float(value) for element, value in zip(elements, found, strict=True)}
