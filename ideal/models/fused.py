r"""M3GNet's forward pass, reorganized: the same parameters, the same numbers to rounding, less than half the time.

matgl evaluates the three-body term over a list of triples (j, i, k). The addition theorem of spherical harmonics,

    P_l(cos theta_jik) = sum_m S_lm(r_ij) S_lm(r_ik)        (S: real spherical harmonics, Racah's normalization),

turns that into a sum over neighbors per atom, T^i_nlm = sum_k f_c(r_ik) g_nl(r_ik) a_nl(k) S_lm(r_ik), followed by a
scalar product with S_lm(r_ij) per edge; the term k = j, which matgl leaves out, is subtracted in closed form
(P_l(1) = 1). In addition

* all radial functions are sines divided by r times one constant matrix (matgl's come from a symbolic recurrence), and
* the first layer of each message network acts on (v_i, v_j, e_ij): on v once per atom, on e once per edge.

Parameters are read from the matgl model at every call, never copied, so that one pass serves dynamics and training.

Chen and Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3; radial basis: Kocer, Mason
and Erturk, AIP Advances 10, 015021 (2020), doi:10.1063/1.5111045.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ideal.records import FloatArray

Activation = Callable[[Tensor], Tensor]

MAX_L = 4
"""Angular functions (l < MAX_L) that the closed forms below cover."""


def supports(model: Any) -> bool:
    """Whether this pass reproduces the given matgl M3GNet; otherwise matgl's own pass must be used."""
    activations = model.embedding.layer_edge_embedding.layers
    return (
        not model.include_state
        and not model.is_intensive
        and model.bond_expansion.rbf_type.lower() == "sphericalbessel"
        and model.bond_expansion.smooth
        and not model.basis_expansion.use_phi
        and model.max_l <= MAX_L
        and all(isinstance(layer, nn.SiLU) for layer in activations[1::2])
        and all(block.dropout is None for block in model.graph_layers)
    )


class FusedForward:
    """Per-atom energies of a matgl M3GNet from edge vectors.

    Args:
        model: a `matgl.models.M3GNet` for which `supports` holds.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cutoff = float(model.cutoff)
        self._threebody_cutoff = float(model.threebody_cutoff)
        n_max, l_max = int(model.max_n), int(model.max_l)
        self._n_bond, self._n_angle = n_max, n_max * l_max
        self._bond_matrix = torch.from_numpy(radial_matrix(self._n_bond, self._cutoff))
        self._angle_matrix = torch.from_numpy(radial_matrix(self._n_angle, self._cutoff))
        self._wave_numbers = torch.arange(1, self._n_angle + 2, dtype=torch.float64) * math.pi / self._cutoff
        # Column (L, n, m) of the three-body sum takes radial function L * n_max + n and harmonic L^2 + m.
        columns = [(L, n, m) for L in range(l_max) for n in range(n_max) for m in range(2 * L + 1)]
        self._radial_column = torch.tensor([L * n_max + n for L, n, _ in columns])
        self._angular_column = torch.tensor([L * L + m for L, _, m in columns])
        norm = np.repeat([math.sqrt((2 * L + 1) / (4 * math.pi)) for L in range(l_max)], n_max)
        self._self_term = torch.from_numpy(norm)
        self._contraction = torch.zeros(len(columns), self._n_angle, dtype=torch.float64)
        for row, column in enumerate(self._radial_column.tolist()):
            self._contraction[row, column] = norm[column]
        self._l_max = l_max
        self._placed: tuple[torch.dtype, torch.device] | None = None

    def _place(self, like: Tensor) -> None:
        """Bring the constants to the type and device of ``like``."""
        if self._placed == (like.dtype, like.device):
            return
        for name in ("_bond_matrix", "_angle_matrix", "_wave_numbers", "_contraction", "_self_term"):
            setattr(self, name, getattr(self, name).to(dtype=like.dtype, device=like.device))
        for name in ("_radial_column", "_angular_column"):
            setattr(self, name, getattr(self, name).to(like.device))
        self._placed = (like.dtype, like.device)

    def __call__(self, types: Tensor, source: Tensor, target: Tensor, vectors: Tensor, twice: bool = False) -> Tensor:
        """(n_atoms,) energies in units of the model's energy scale; arguments as for `nodes`."""
        return self._model.final_layer(self.nodes(types, source, target, vectors, twice)).view(-1)

    def nodes(self, types: Tensor, source: Tensor, target: Tensor, vectors: Tensor, twice: bool = False) -> Tensor:
        """Features of atoms after the last message-passing block, from which the readout makes energies.

        Args:
            types: (n_atoms,) int64.
            source, target: (n_edges,) int64.
            vectors: (n_edges, 3), Å.
            twice: the result will be derived twice (training on forces); same numbers, other operations.

        Returns:
            (n_atoms, units)
        """
        activation = twice_differentiable_silu if twice else silu
        self._place(vectors)
        model = self._model
        distances = (vectors * vectors).sum(1).sqrt()
        sines = torch.sin(distances[:, None] * self._wave_numbers) / distances[:, None]
        bond_basis = sines[:, : self._n_bond + 1] @ self._bond_matrix

        near = torch.nonzero(distances <= self._threebody_cutoff).squeeze(1)
        near_distances = distances.index_select(0, near)
        near_source, near_target = source.index_select(0, near), target.index_select(0, near)
        envelope = _polynomial_cutoff(near_distances / self._threebody_cutoff)[:, None]
        radial = (sines.index_select(0, near) @ self._angle_matrix) * envelope
        directions = vectors.index_select(0, near) / near_distances[:, None]
        harmonics = real_harmonics(directions, self._l_max).index_select(1, self._angular_column)

        nodes = model.embedding.layer_node_embedding(types)
        edges = _chain(model.embedding.layer_edge_embedding.layers, bond_basis, activation)
        for three_body, block in zip(model.three_body_interactions, model.graph_layers, strict=True):
            atoms = three_body.update_network_atom(nodes)
            weighted = radial * atoms.index_select(0, near_target)
            terms = weighted.index_select(1, self._radial_column) * harmonics
            sums = terms.new_zeros(nodes.shape[0], terms.shape[1]).index_add(0, near_source, terms)
            angular = (sums.index_select(0, near_source) * harmonics) @ self._contraction
            angular = (angular - weighted * self._self_term) * envelope
            bonds = three_body.update_network_bond
            message = _chain(bonds.layers, angular, activation) * bonds.gates(angular)
            edges = edges.index_add(0, near, message)
            nodes, edges = _convolve(block.conv, nodes, edges, source, target, bond_basis, activation)
        return nodes


def _convolve(
    conv: Any,
    nodes: Tensor,
    edges: Tensor,
    source: Tensor,
    target: Tensor,
    bond_basis: Tensor,
    activation: Activation,
) -> tuple[Tensor, Tensor]:
    """Edge update, then node update (equations 4 and 5 of Chen and Ong)."""
    message = _gated(conv.edge_update_func, nodes, edges, source, target, activation)
    edges = edges + message * conv.edge_weight_func(bond_basis)
    message = _gated(conv.node_update_func, nodes, edges, source, target, activation)
    message = message * conv.node_weight_func(bond_basis)
    return nodes + torch.zeros_like(nodes).index_add(0, source, message), edges


class _Silu(torch.autograd.Function):
    """x sigmoid(x) whose second derivative costs five passes over memory; torch's own takes fifteen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return silu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SiluGradient.apply(gradient, x)


class _SiluGradient(torch.autograd.Function):
    """(g, x) -> g silu'(x), with silu' = s + x s (1 - s) and silu'' = s (1 - s) (2 + x (1 - 2 s)), s = sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, x)
        return torch.ops.aten.silu_backward(gradient, x)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor]:
        gradient, x = ctx.saved_tensors
        s = torch.sigmoid(x)
        curvature = torch.addcmul(x + 2, x, s, value=-2)
        curvature = torch.ops.aten.sigmoid_backward(curvature, s)
        return torch.ops.aten.silu_backward(outer, x), curvature.mul_(gradient).mul_(outer)


def twice_differentiable_silu(x: Tensor) -> Tensor:
    """x sigmoid(x), cheap to derive twice."""
    result: Tensor = _Silu.apply(x)
    return result


def _chain(layers: Iterable[nn.Module], x: Tensor, activation: Activation) -> Tensor:
    """Apply layers in turn, with ``activation`` in place of every SiLU."""
    for layer in layers:
        x = activation(x) if isinstance(layer, nn.SiLU) else layer(x)
    return x


def _gated(
    network: Any, nodes: Tensor, edges: Tensor, source: Tensor, target: Tensor, activation: Activation
) -> Tensor:
    """A gated network of (v_i, v_j, e_ij) with its first layer split into per-atom and per-edge parts."""
    width = nodes.shape[1]
    layers, gates = list(network.layers), list(network.gates)
    weight = torch.cat([layers[0].weight, gates[0].weight])
    bias = torch.cat([layers[0].bias, gates[0].bias])
    from_source = linear(nodes, weight[:, :width], bias)
    from_target = linear(nodes, weight[:, width : 2 * width])
    hidden = linear(edges, weight[:, 2 * width :])
    hidden = activation(hidden + from_source.index_select(0, source) + from_target.index_select(0, target))
    value, gate = hidden.chunk(2, dim=1)
    return _chain(layers[2:], value, activation) * _chain(gates[2:], gate, activation)


def _polynomial_cutoff(x: Tensor) -> Tensor:
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
