"""One number for a structure from the u of its atoms, with its gradient: what a bias E - tau u is made of.

    power mean   U = (1/N sum_i u_i^p)^(1/p)       dU/d(u_i^2) = U^(1-p) u_i^(p-2) / (2N)
    largest      U = max_i u_i                     dU/d(u_i^2) = 1 / (2U) for the largest, 0 for the others

p = 1 is the mean of the atoms, p = 2 the root mean square; a large p approaches the largest, smoothly. Both satisfy
`ideal.uncertainty.base.TotalUncertainty` and are dimensionless. For a distribution and p = 2 value and gradient come
from one pass over the atoms; otherwise from two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ideal.errors import UncertaintyError
from ideal.records import FloatArray
from ideal.uncertainty.base import AtomwiseUncertainty, DistributionUncertainty


@dataclass(frozen=True)
class PowerMean:
    """Power mean of the atoms' u.

    Attributes:
        uncertainty: of the atoms; may learn in place.
        p: exponent, at least 1.

    Raises:
        UncertaintyError: p is below 1 or not finite; later what ``uncertainty`` raises, and an atom of infinite u where
            a gradient is wanted.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.soap import SoapPowerSpectrum
        >>> from ideal.uncertainty import SoapMahalanobis
        >>> hot = bulk("Li", cubic=True) * (3, 3, 3)
        >>> hot.rattle(0.1, seed=0)
        >>> uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"], n_max=4, l_max=3))
        >>> uncertainty.update(hot)
        >>> u, gradient, strain = PowerMean(uncertainty).total_gradient(hot)
        >>> round(u, 2), gradient.shape, strain.shape
        (0.99, (54, 3), (3, 3))
    """

    uncertainty: AtomwiseUncertainty
    p: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.p < math.inf:
            raise UncertaintyError(f"p = {self.p} makes no mean; give a finite number of at least 1")

    def total(self, atoms: Atoms) -> float:
        """U; infinite where an atom's u is."""
        return self._mean(self.uncertainty.atomic(atoms))

    def total_gradient(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """U, dU/d(positions) (n_atoms, 3) in 1/Å, dU/d(strain) (3, 3)."""
        if self.p == 2 and isinstance(self.uncertainty, DistributionUncertainty):
            squares, gradient, strain, _ = self.uncertainty.hinge(atoms, floor=0.0)
            value = math.sqrt(squares / max(len(atoms), 1))
            return (value, *_scaled(gradient, strain, 0.5 / (value * len(atoms)) if value > 0 else 0.0))
        u = self.uncertainty.atomic(atoms)
        value = self._mean(u)
        weights = np.zeros(len(atoms))
        known = u > 0
        # U^(1-p) u^(p-2) as (u/U)^(p-1) / u, which does not overflow
        with np.errstate(invalid="ignore"):
            weights[known] = (u[known] / value) ** (self.p - 1) / (2 * len(atoms) * u[known])
        return (value, *self.uncertainty.squared_gradient(atoms, _finite(weights, u)))

    def _mean(self, u: FloatArray) -> float:
        largest = float(u.max(initial=0.0))
        if largest == 0 or math.isinf(largest):
            return largest
        return largest * float(np.mean((u / largest) ** self.p)) ** (1 / self.p)


@dataclass(frozen=True)
class Largest:
    """The largest u of all atoms; its gradient jumps where another atom becomes the largest.

    Attributes:
        uncertainty: of the atoms; may learn in place.
    """

    uncertainty: AtomwiseUncertainty

    def total(self, atoms: Atoms) -> float:
        """U; infinite where an atom's u is."""
        return float(self.uncertainty.atomic(atoms).max(initial=0.0))

    def total_gradient(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """U, dU/d(positions) (n_atoms, 3) in 1/Å, dU/d(strain) (3, 3); only the largest one's derivative is taken."""
        u = self.uncertainty.atomic(atoms)
        weights = np.zeros(len(atoms))
        value = float(u.max(initial=0.0))
        if value > 0:
            weights[int(u.argmax())] = 0.5 / value
        return (value, *self.uncertainty.squared_gradient(atoms, _finite(weights, u)))


def _finite(weights: FloatArray, u: FloatArray) -> FloatArray:
    """Weights that make `squared_gradient` name an atom of infinite u instead of losing it in a limit."""
    return np.where(np.isinf(u), 1.0, weights)


def _scaled(gradient: FloatArray, strain: FloatArray, factor: float) -> tuple[FloatArray, FloatArray]:
    return gradient * factor, strain * factor
