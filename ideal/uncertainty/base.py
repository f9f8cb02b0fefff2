"""What every atom-wise uncertainty offers to selection, embedding and samplers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from ase import Atoms

Array = np.ndarray[Any, np.dtype[np.float64]]


@runtime_checkable
class AtomwiseUncertainty(Protocol):
    """One number u per atom: not negative, of order 1 on the training set, infinite where nothing is known.

    Implementations raise UncertaintyError where u or its gradient cannot be given.
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

    def squared_mahalanobis(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """Unc of the centers: the squared distance that u is the scaled root of, (n_centers,)."""
        ...

    def gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[Array, Array]:
        """Derivative of sum_i weights_i Unc_i by positions (n_atoms, 3), 1/Å, and strain (3, 3)."""
        ...

    def hinge(
        self, atoms: Atoms, floor: float | np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[float, Array, Array, Array]:
        """sum_i mask_i max(0, u_i^2 - floor_i), its derivative by positions and strain, and u (n_atoms,)."""
        ...

    def merge(self, other: Self) -> None:
        """Learn everything the other one has learned."""
        ...

    def copy(self) -> Self:
        """An independent copy."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the state to one file."""
        ...
