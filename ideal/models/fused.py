r"""M3GNet's forward pass, reorganized: the same parameters, the same numbers to rounding, less than half the time.

matgl evaluates the three-body term over a list of triples (j, i, k). The addition theorem of spherical harmonics,

    P_l(cos theta_jik) = sum_m S_lm(r_ij) S_lm(r_ik)        (S: real spherical harmonics, Racah's normalization),

turns that into a sum over neighbors per atom, T^i_nlm = sum_k f_c(r_ik) g_nl(r_ik) a_nl(k) S_lm(r_ik), followed by a
scalar product with S_lm(r_ij) per edge; the term k = j, which matgl leaves out, is subtracted in closed form
(P_l(1) = 1). In addition

* all radial functions are sines divided by r times one constant matrix (`ideal.models.basis`), and
* the first layer of each message network acts on (v_i, v_j, e_ij): on v once per atom, on e once per edge.

Parameters are read from the matgl model at every call, never copied, so that one pass serves dynamics and training.

Chen and Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ideal.models.basis import MAX_L, Basis

Activation = Callable[[Tensor], Tensor]


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
        self.basis = Basis(model)

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
        model, basis = self._model, self.basis
        basis.place(vectors)
        bond_basis, near, radial, harmonics, envelope = basis(vectors)
        near_source, near_target = source.index_select(0, near), target.index_select(0, near)
        nodes = model.embedding.layer_node_embedding(types)
        edges = _chain(model.embedding.layer_edge_embedding.layers, bond_basis, activation)
        for three_body, block in zip(model.three_body_interactions, model.graph_layers, strict=True):
            atoms = three_body.update_network_atom(nodes)
            weighted = radial * atoms.index_select(0, near_target)
            terms = (weighted @ basis.columns) * harmonics
            sums = terms.new_zeros(nodes.shape[0], terms.shape[1]).index_add(0, near_source, terms)
            angular = (sums.index_select(0, near_source) * harmonics) @ basis.contraction
            angular = (angular - weighted * basis.self_term) * envelope
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
