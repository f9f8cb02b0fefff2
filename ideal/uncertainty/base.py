"""What every atom-wise uncertainty offers to selection, samplers and calculators, and what only some have.

* `AtomwiseUncertainty`: one number u per atom, its gradient, learning, a file. Every implementation has it:
  `SoapMahalanobis`, `ModelCommittee`, `GradientFeatures`; `tests/uncertainty/test_contract.py` runs on all of them.
* `TotalUncertainty`: one number per structure and its gradient, what a bias potential E - tau u needs.
* `DistributionUncertainty`: what only a distribution of environments has; embedding needs it.

Units: u has none; positions in Å.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from ase import Atoms

Array = np.ndarray[Any, np.dtype[np.float64]]


@runtime_checkable
class AtomwiseUncertainty(Protocol):
    """One number u per atom: not negative, of order 1 near the training set, infinite where nothing is known.

    u does not change with translation, rotation or the order of atoms. A structure without atoms has no u, and learning
    it changes nothing. Implementations raise UncertaintyError where u or its gradient cannot be given: unknown
    elements, positions that are not finite, coincident atoms. Several threads may evaluate while one learns.
    """

    @property
    def counts(self) -> dict[str, int]:
        """Environments learned, per element."""
        ...

    def update(
        self, structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None = None
    ) -> None:
        """Learn the environments of structures; masks: per structure, which of its atoms (n_atoms,) bool."""
        ...

    def atomic(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """u of the centers (all atoms by default), (n_centers,)."""
        ...

    def squared_gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[Array, Array]:
        """Derivative of L = sum_i weights_i u_i^2, weights (n_atoms,) of any sign, 1 by default.

        Returns:
            dL/d(positions) (n_atoms, 3), 1/Å, and dL/d(strain) (3, 3), symmetric, for r -> (1 + strain) r, periodic or
            not. With weights_i = 1/(2 u_i) these are the derivatives of sum_i u_i.

        Raises:
            UncertaintyError: u of an atom of non-zero weight is infinite; weights of the wrong shape or not finite.
        """
        ...

    def save(self, path: str | Path) -> None:
        """Write the state in one step: an interrupted write leaves the old one readable."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; UncertaintyError when it is missing or damaged."""
        ...


@runtime_checkable
class TotalUncertainty(Protocol):
    """One number u(S) per structure and its gradient; its unit is the implementation's (tau has eV per that unit).

    A bias potential is built on it (van der Oord et al. 2023, eq. 1; Zaverkin et al. 2024, eqs. 5-7):

        E_bias = E - tau u,   F_bias = F + tau du/dr,   stress_bias = stress - tau du/dstrain / volume.
    """

    def total(self, atoms: Atoms) -> float:
        """u of the structure."""
        ...

    def total_gradient(self, atoms: Atoms) -> tuple[float, Array, Array]:
        """u, du/d(positions) (n_atoms, 3), du/d(strain) (3, 3), symmetric; both derivatives 0 where u is 0.

        Raises:
            UncertaintyError: as for `total`; u is infinite.
        """
        ...


@runtime_checkable
class DistributionUncertainty(AtomwiseUncertainty, Protocol):
    """An uncertainty that is the distance Unc to a distribution of environments, u = sqrt(Unc / d_eff)."""

    def squared_mahalanobis(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """Unc of the centers, (n_centers,)."""
        ...

    def gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[Array, Array]:
        """Derivative of sum_i weights_i Unc_i by positions (n_atoms, 3), 1/Å, and strain (3, 3)."""
        ...

    def hinge(
        self,
        atoms: Atoms,
        floor: float | np.ndarray,
        mask: np.ndarray | None = None,
        width: float | np.ndarray = 0.0,
    ) -> tuple[float, Array, Array, Array]:
        """sum_i mask_i phi(u_i^2 - floor_i), its derivative by positions and strain, and u (n_atoms,).

        phi(x) is 0 for x <= 0, x^2 / (2 width_i) for x < width_i, x - width_i / 2 beyond.
        """
        ...

    def merge(self, other: Self) -> None:
        """Learn everything the other one has learned."""
        ...

    def copy(self) -> Self:
        """An independent copy."""
        ...
