r"""What M3GNet sees of an edge: radial functions, real spherical harmonics, and the envelope of the three-body term.

    bonds_n = g_n(r),  radial_nl = f_c(r) g_nl(r),  harmonics_nlm = S_lm(d / r),  f_c = 1 - 10 x^3 + 15 x^4 - 6 x^5

All radial functions are sines divided by r times one constant matrix (matgl's come from a symbolic recurrence); x is r
over the three-body cutoff.

Radial basis: Kocer, Mason and Erturk, AIP Advances 10, 015021 (2020), doi:10.1063/1.5111045.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ideal.records import FloatArray

MAX_L = 4
"""Angular functions (l < MAX_L) that the closed forms below cover."""


class EdgeFunctions(NamedTuple):
    """Functions of edge vectors that no layer changes.

    Attributes:
        bonds: (n_edges, n_bond) radial functions.
        near: (n_near,) int64, the edges within the three-body cutoff, ascending.
        radial: (n_near, n_angle) radial functions of the three-body term, envelope included; column l n_max + n.
        harmonics: (n_near, n_columns) spherical harmonics, one for each column (l, n, m) of the three-body sum.
        envelope: (n_near, 1).
    """

    bonds: Tensor
    near: Tensor
    radial: Tensor
    harmonics: Tensor
    envelope: Tensor


class Basis:
    """The functions of edge vectors of one architecture, and the constants of the three-body sum.

    Args:
        model: a `matgl.models.M3GNet` for which `ideal.models.fused.supports` holds.

    Attributes:
        columns: (n_angle, n_columns) 0 or 1: the radial function that each column of the three-body sum takes.
        contraction: (n_columns, n_angle): ``columns`` transposed, times the norm of the harmonics.
        self_term: (n_angle,) what atom k = j contributes per unit of its weight.
    """

    def __init__(self, model: Any) -> None:
        self._cutoff = float(model.cutoff)
        self._threebody_cutoff = float(model.threebody_cutoff)
        n_max, l_max = int(model.max_n), int(model.max_l)
        self._l_max = l_max
        self._n_bond, n_angle = n_max, n_max * l_max
        # Column (L, n, m) of the three-body sum takes radial function L * n_max + n and harmonic L^2 + m.
        indices = [(L, n, m) for L in range(l_max) for n in range(n_max) for m in range(2 * L + 1)]
        columns = torch.zeros(n_angle, len(indices), dtype=torch.float64)
        orders = torch.zeros(l_max * l_max, len(indices), dtype=torch.float64)
        for index, (L, n, m) in enumerate(indices):
            columns[L * n_max + n, index] = 1
            orders[L * L + m, index] = 1
        norms = [math.sqrt((2 * L + 1) / (4 * math.pi)) for L in range(l_max) for _ in range(n_max)]
        norm = torch.tensor(norms, dtype=torch.float64)
        self._exact = {
            "_bond_matrix": torch.from_numpy(radial_matrix(self._n_bond, self._cutoff)),
            "_angle_matrix": torch.from_numpy(radial_matrix(n_angle, self._cutoff)),
            "_wave_numbers": torch.arange(1, n_angle + 2, dtype=torch.float64) * math.pi / self._cutoff,
            "_orders": orders,
            "columns": columns,
            "contraction": (columns * norm[:, None]).T.contiguous(),
            "self_term": norm,
        }
        self._placed: tuple[torch.dtype, torch.device] | None = None

    @property
    def n_columns(self) -> int:
        """Number of columns (l, n, m) of the three-body sum."""
        return self._exact["columns"].shape[1]

    _bond_matrix: Tensor
    _angle_matrix: Tensor
    _wave_numbers: Tensor
    _orders: Tensor
    columns: Tensor
    contraction: Tensor
    self_term: Tensor

    def place(self, like: Tensor) -> None:
        """Bring the constants to the type and device of ``like``."""
        if self._placed == (like.dtype, like.device):
            return
        for name, constant in self._exact.items():
            setattr(self, name, constant.to(dtype=like.dtype, device=like.device))
        self._placed = (like.dtype, like.device)

    def __call__(self, vectors: Tensor) -> EdgeFunctions:
        """All functions of edge vectors (n_edges, 3) in Å; `place` has been called with their type."""
        distances = (vectors * vectors).sum(1).sqrt()
        sines = torch.sin(distances[:, None] * self._wave_numbers) / distances[:, None]
        bonds = sines[:, : self._n_bond + 1] @ self._bond_matrix
        near = torch.nonzero(distances <= self._threebody_cutoff).squeeze(1)
        near_distances = distances.index_select(0, near)
        envelope = polynomial_cutoff(near_distances / self._threebody_cutoff)[:, None]
        radial = (sines.index_select(0, near) @ self._angle_matrix) * envelope
        directions = vectors.index_select(0, near) / near_distances[:, None]
        harmonics = real_harmonics(directions, self._l_max) @ self._orders
        return EdgeFunctions(bonds, near, radial, harmonics, envelope)


def polynomial_cutoff(x: Tensor) -> Tensor:
    """1 - 10 x^3 + 15 x^4 - 6 x^5, which falls from 1 to 0 with two vanishing derivatives at x = 1."""
    return 1 + x * x * x * (-10 + x * (15 - 6 * x))


def real_harmonics(directions: Tensor, l_max: int) -> Tensor:
    """Real spherical harmonics for l < ``l_max`` <= 4 in Racah's normalization (sum_m S_lm^2 = 1).

    Args:
        directions: (n, 3) unit vectors.
        l_max: number of angular momenta.

    Returns:
        (n, l_max^2), l ascending.
    """
    x, y, z = directions.unbind(1)
    columns = [torch.ones_like(x)]
    if l_max > 1:
        columns += [x, y, z]
    if l_max > 2:
        a = math.sqrt(3.0)
        columns += [a * x * y, a * y * z, 1.5 * z * z - 0.5, a * x * z, 0.5 * a * (x * x - y * y)]
    if l_max > 3:
        a, b, c = math.sqrt(5 / 8), math.sqrt(15), math.sqrt(3 / 8)
        columns += [
            a * y * (3 * x * x - y * y),
            b * x * y * z,
            c * y * (5 * z * z - 1),
            0.5 * z * (5 * z * z - 3),
            c * x * (5 * z * z - 1),
            0.5 * b * z * (x * x - y * y),
            a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(columns, dim=1)


def radial_matrix(n: int, cutoff: float) -> FloatArray:
    """Coefficients of the smooth spherical Bessel basis in sin(k pi r / cutoff) / r, k = 1 ... n + 1.

    Args:
        n: number of radial functions.
        cutoff: Å.

    Returns:
        (n + 1, n), float64: basis(r) = sines(r) @ matrix.
    """
    index = np.arange(n, dtype=float)
    sines = np.zeros((n + 1, n))
    for i in range(n):
        prefactor = (-1) ** i * math.sqrt(2) * math.pi / cutoff**1.5 * (i + 1) * (i + 2)
        prefactor /= math.sqrt((i + 1) ** 2 + (i + 2) ** 2)
        sines[i, i] = prefactor * cutoff / ((i + 1) * math.pi)
        sines[i + 1, i] = prefactor * cutoff / ((i + 2) * math.pi)
    # Gram-Schmidt in closed form: g_i = (f_i + sqrt(e_i / d_{i-1}) g_{i-1}) / sqrt(d_i).
    e = index**2 * (index + 2) ** 2 / (4 * (index + 1) ** 4 + 1)
    d = np.ones(n)
    mixing = np.zeros((n, n))
    mixing[0, 0] = 1.0
    for i in range(1, n):
        d[i] = 1 - e[i] / d[i - 1]
        mixing[i] = math.sqrt(e[i] / d[i - 1]) * mixing[i - 1]
        mixing[i, i] += 1
        mixing[i] /= math.sqrt(d[i])
    return sines @ mixing.T


def radial_functions(max_n: int, cutoff: float = 5.0) -> list[Callable[[Tensor], Tensor]]:
    """The smooth spherical Bessel basis as ``max_n`` functions of r (any shape), for cutoff in Å."""

    def function(column: Tensor) -> Callable[[Tensor], Tensor]:
        def evaluate(r: Tensor) -> Tensor:
            waves = torch.arange(1, max_n + 2, dtype=r.dtype, device=r.device) * (math.pi / cutoff)
            return (torch.sin(r[..., None] * waves) / r[..., None]) @ column.to(r)

        return evaluate

    return [function(column) for column in torch.from_numpy(radial_matrix(max_n, cutoff)).T]
