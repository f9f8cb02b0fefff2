r"""M3GNet layer by layer: pure functions of tensors, each with its derivative written out.

One block maps atoms' features v and edges' features e to the next ones. With pi_ij = (v_i, v_j, e_ij), G gated networks
(layers times gates), and R linear in the radial functions,

    e' = e + T(v, e)                       three-body term; addition theorem, see `ideal.models.fused`
    e'' = e' + G_e(v_i, v_j, e') R_e       edge update
    v''_i = v_i + sum_j G_v(v_i, v_j, e'') R_v      node update

**Interface for callers with neighbor data of their own** (LAMMPS, a domain of a larger box). Atoms are rows of v:
first the n_centers whose edges are known, then their neighbors ("ghosts", if any). Edges lead from centers (``source``,
ascending) to any atom (``target``); ``functions`` is `Basis`'s result for their vectors. Forward, for each block,

    block         = read_block(three_body, graph_layer)        once
    reach, own    = project(block, v), project_own(block, v[:n_centers])
    edges, kept_e = update_edges(block, basis, functions, reach, own, source, target, edges)
    message, kept_v = update_nodes(block, functions, reach, own, source, target, edges)
    v[:n_centers] += message, summed over each center's edges; then the ghosts' v are fetched from their owners

with edges = `embed_edges` at first. Backward, from the last block to the first, with dE/dv of the centers' new v,

    hidden, by_edges = update_nodes_backward(block, kept_v, dE/dv[source], slopes)      plus dE/d(edges) from above
    hidden_e, gates, by_edges = update_edges_backward(block, basis, functions, kept_e, by_edges, slopes)

are collected by `NodeSlopes`; the ghosts' rows of its `gather` are added to their owners, and v's own slope too. A
block needs the v of atoms one cutoff away, never further. At last `embed_edges_backward` completes ``slopes``,
dE/d(functions). tests/models/test_layers.py does all this for two domains.

The derivatives are by v and by the edges' functions, not by the weights: this is evaluation, training differentiates
`ideal.models.fused`. Call under `torch.no_grad`.

Chen and Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ideal.models.basis import Basis, EdgeFunctions

silu_backward = torch.ops.aten.silu_backward
sigmoid_backward = torch.ops.aten.sigmoid_backward


def covers(model: Any) -> bool:
    """Whether the functions below know every network of a matgl M3GNet that `fused.supports`."""
    linear_silu = [nn.Linear, nn.SiLU]
    for three_body, block in zip(model.three_body_interactions, model.graph_layers, strict=True):
        bonds, conv = three_body.update_network_bond, block.conv
        if _kinds(bonds.layers) != linear_silu or _kinds(bonds.gates) != [nn.Linear, nn.Sigmoid]:
            return False
        if _kinds(three_body.update_network_atom.layers) != [nn.Linear, nn.Sigmoid]:
            return False
        for network in (conv.edge_update_func, conv.node_update_func):
            depth = len(network.layers) // 2
            gates = linear_silu * (depth - 1) + [nn.Linear, nn.Sigmoid]
            if depth < 2 or _kinds(network.layers) != linear_silu * depth or _kinds(network.gates) != gates:
                return False
    return _kinds(model.embedding.layer_edge_embedding.layers) == linear_silu


def _kinds(layers: Any) -> list[type]:
    return [type(layer) for layer in layers]


class Gated(NamedTuple):
    """Weights of a gated network of (v_i, v_j, e_ij); layers and gates of the first layer are one matrix.

    Attributes:
        source, target, edge: (2 width, n_features) the first layer's blocks for v_i, v_j and e_ij.
        bias: (2 width,).
        deeper: weight and bias of layer and gate, for each further layer.
        radial: (n_out, n_bond) weights of R.
    """

    source: Tensor
    target: Tensor
    edge: Tensor
    bias: Tensor
    deeper: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    radial: Tensor


class Block(NamedTuple):
    """Weights of one block.

    Attributes:
        atom_weight, atom_bias: of the gates of the three-body sum, (n_angle, n_features) and (n_angle,).
        bond_weight: (2 n_features, n_angle) layer and gate of the three-body term.
        bond_bias: (2 n_features,), or None.
        edge, node: the two gated networks.
    """

    atom_weight: Tensor
    atom_bias: Tensor
    bond_weight: Tensor
    bond_bias: Tensor | None
    edge: Gated
    node: Gated


def read_block(three_body: Any, graph_layer: Any) -> Block:
    """The weights of one block of a matgl M3GNet that `covers`."""
    atom = three_body.update_network_atom.layers[0]
    layer, gate = three_body.update_network_bond.layers[0], three_body.update_network_bond.gates[0]
    conv = graph_layer.conv
    return Block(
        atom.weight.detach(),
        atom.bias.detach(),
        torch.cat([layer.weight.detach(), gate.weight.detach()]),
        None if layer.bias is None else torch.cat([layer.bias.detach(), gate.bias.detach()]),
        _read_gated(conv.edge_update_func, conv.edge_weight_func),
        _read_gated(conv.node_update_func, conv.node_weight_func),
    )


def _read_gated(network: Any, radial: Any) -> Gated:
    layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    gates = [gate for gate in network.gates if isinstance(gate, nn.Linear)]
    first = torch.cat([layers[0].weight.detach(), gates[0].weight.detach()])
    width = first.shape[1] // 3
    deeper = [
        (layer.weight.detach(), layer.bias.detach(), gate.weight.detach(), gate.bias.detach())
        for layer, gate in zip(layers[1:], gates[1:], strict=True)
    ]
    bias = torch.cat([layers[0].bias.detach(), gates[0].bias.detach()])
    blocks = first.split(width, dim=1)
    return Gated(blocks[0], blocks[1], blocks[2], bias, deeper, radial.weight.detach())


class Reach(NamedTuple):
    """What an atom shows to those that have it as a neighbor.

    Attributes:
        gates: (n_atoms, n_angle) its weight in three-body sums.
        edge, node: (n_atoms, 2 width) its part of the first layers.
    """

    gates: Tensor
    edge: Tensor
    node: Tensor


class Own(NamedTuple):
    """A center's part of the first layers of its own edges: (n_centers, 2 width) each."""

    edge: Tensor
    node: Tensor


def project(block: Block, nodes: Tensor) -> Reach:
    """What atoms (n_atoms, n_features) show to their neighbors."""
    gates = torch.addmm(block.atom_bias, nodes, block.atom_weight.t()).sigmoid_()
    return Reach(gates, nodes @ block.edge.target.t(), nodes @ block.node.target.t())


def project_own(block: Block, nodes: Tensor) -> Own:
    """What centers (n_centers, n_features) contribute to their own edges."""
    return Own(
        torch.addmm(block.edge.bias, nodes, block.edge.source.t()),
        torch.addmm(block.node.bias, nodes, block.node.source.t()),
    )


class NodeSlopes:
    """dE/dv of atoms, collected from the edges that lead to them.

    Args:
        block: weights of the block that the v enter.
        nodes: (n_atoms, n_features) v, for shape and type.

    Attributes:
        total: (n_atoms, n_features), complete after `gather`.
        reach: slopes by `Reach`, of all atoms.
    """

    def __init__(self, block: Block, nodes: Tensor) -> None:
        n_atoms = nodes.shape[0]
        self.total = torch.zeros_like(nodes)
        self.reach = Reach(*(nodes.new_zeros(n_atoms, w.shape[0]) for w in (block.atom_weight, *_targets(block))))

    def add(
        self, which: str, weights: Gated, hidden: Tensor, first: int, n: int, source: Tensor, target: Tensor
    ) -> None:
        """Add the slopes (n_edges, 2 width) of a first layer; the centers are atoms ``first`` ... ``first + n - 1``."""
        getattr(self.reach, which).index_add_(0, target, hidden)
        own = hidden.new_zeros(n, hidden.shape[1]).index_add_(0, source, hidden)
        self.total[first : first + n].addmm_(own, weights.source)

    def gather(self, block: Block, gates: Tensor) -> Tensor:
        """The complete dE/dv; ``gates`` as in `Reach`."""
        self.total.addmm_(self.reach.edge, block.edge.target).addmm_(self.reach.node, block.node.target)
        return self.total.addmm_(sigmoid_backward(self.reach.gates, gates), block.atom_weight)


def _targets(block: Block) -> tuple[Tensor, Tensor]:
    return block.edge.target, block.node.target


class KeptGated(NamedTuple):
    """Of a gated network, for its derivative: inputs of the activations, both factors, and R."""

    hidden: list[Tensor]
    layer: Tensor
    value: Tensor
    gate: Tensor
    radial: Tensor


class KeptAngles(NamedTuple):
    """Of the three-body term, for its derivative."""

    gates: Tensor
    weighted: Tensor
    spread: Tensor
    bare: Tensor
    layer: Tensor
    value: Tensor
    gate: Tensor


class KeptEdges(NamedTuple):
    """Of `update_edges`, for its derivative."""

    near_source: Tensor
    near_target: Tensor
    angles: KeptAngles
    gated: KeptGated


class Slopes(NamedTuple):
    """dE/d(`EdgeFunctions`), summed in place."""

    bonds: Tensor
    radial: Tensor
    harmonics: Tensor
    envelope: Tensor

    @classmethod
    def zero(cls, functions: EdgeFunctions) -> Slopes:
        """To begin with."""
        return cls(
            *(torch.zeros_like(x) for x in (functions.bonds, functions.radial, functions.harmonics, functions.envelope))
        )


def embed_edges(weight: Tensor, bias: Tensor, bonds: Tensor) -> Tensor:
    """The first edge features, (n_edges, n_features)."""
    return silu(torch.addmm(bias, bonds, weight.t()), inplace=True)


def embed_edges_backward(weight: Tensor, bias: Tensor, bonds: Tensor, slope: Tensor, slopes: Slopes) -> None:
    """From dE/d(first edge features) to that of the radial functions."""
    slopes.bonds.addmm_(silu_backward(slope, torch.addmm(bias, bonds, weight.t())), weight)


def update_edges(
    block: Block,
    basis: Basis,
    functions: EdgeFunctions,
    reach: Reach,
    own: Own,
    source: Tensor,
    target: Tensor,
    edges: Tensor,
) -> tuple[Tensor, KeptEdges]:
    """Three-body term and edge update.

    Args:
        block: weights.
        basis: constants of the three-body sum.
        functions: of the edges.
        reach: of all atoms that ``target`` names.
        own: of the centers.
        source: (n_edges,) index of the center, ascending.
        target: (n_edges,) index into ``reach``.
        edges: (n_edges, n_features); overwritten.

    Returns:
        the new edge features, and what `update_edges_backward` needs.
    """
    near_source = source.index_select(0, functions.near)
    near_target = target.index_select(0, functions.near)
    gates = reach.gates.index_select(0, near_target)
    message, angles = _three_body(block, basis, functions, gates, near_source, own.edge.shape[0])
    edges.index_add_(0, functions.near, message)
    message, gated = _gated(block.edge, edges, own.edge, source, reach.edge, target, functions.bonds)
    return edges.add_(message), KeptEdges(near_source, near_target, angles, gated)


def update_nodes(
    block: Block, functions: EdgeFunctions, reach: Reach, own: Own, source: Tensor, target: Tensor, edges: Tensor
) -> tuple[Tensor, KeptGated]:
    """Messages (n_edges, n_features) of the node update, and what its derivative needs; arguments as `update_edges`."""
    return _gated(block.node, edges, own.node, source, reach.node, target, functions.bonds)


def update_nodes_backward(block: Block, kept: KeptGated, slope: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
    """From dE/d(message) (n_edges, n_features) to slopes by the first layer (n_edges, 2 width) and by the edges."""
    hidden = _gated_backward(block.node, kept, slope, slopes)
    return hidden, hidden @ block.node.edge


def update_edges_backward(
    block: Block, basis: Basis, functions: EdgeFunctions, kept: KeptEdges, slope: Tensor, slopes: Slopes
) -> tuple[Tensor, Tensor, Tensor]:
    """From dE/d(new edges) (n_edges, n_features), which is overwritten, to what was before.

    Returns:
        slopes by the first layer (n_edges, 2 width), by the gates of the near neighbors (n_near, n_angle), and by the
        old edges (n_edges, n_features).
    """
    hidden = _gated_backward(block.edge, kept.gated, slope, slopes)
    slope.addmm_(hidden, block.edge.edge)
    gates = _three_body_backward(
        block, basis, functions, kept.angles, kept.near_source, slope.index_select(0, functions.near), slopes
    )
    return hidden, gates, slope


def _gated(
    weights: Gated, edges: Tensor, own: Tensor, source: Tensor, reach: Tensor, target: Tensor, bonds: Tensor
) -> tuple[Tensor, KeptGated]:
    first = reach.index_select(0, target)
    first.add_(own.index_select(0, source)).addmm_(edges, weights.edge.t())
    hidden = [first]
    x = silu(first)
    for index, (layer, layer_bias, gate, gate_bias) in enumerate(weights.deeper):
        values, gates = x.chunk(2, dim=1)
        if index + 1 < len(weights.deeper):
            after = x.new_empty(x.shape[0], 2 * layer.shape[0])
            torch.addmm(layer_bias, values, layer.t(), out=after[:, : layer.shape[0]])
            torch.addmm(gate_bias, gates, gate.t(), out=after[:, layer.shape[0] :])
            hidden.append(after)
            x = silu(after)
    last = torch.addmm(layer_bias, values, layer.t())
    factor = torch.addmm(gate_bias, gates, gate.t()).sigmoid_()
    value, radial = silu(last), bonds @ weights.radial.t()
    return (value * factor).mul_(radial), KeptGated(hidden, last, value, factor, radial)


def _gated_backward(weights: Gated, kept: KeptGated, slope: Tensor, slopes: Slopes) -> Tensor:
    by_value, by_gate = slope * kept.gate, slope * kept.value
    slopes.bonds.addmm_(by_value * kept.value, weights.radial)
    by_value, by_gate = by_value.mul_(kept.radial), by_gate.mul_(kept.radial)
    by_value, by_gate = silu_backward(by_value, kept.layer), sigmoid_backward(by_gate, kept.gate)
    for (layer, _, gate, _), before in zip(reversed(weights.deeper), reversed(kept.hidden), strict=True):
        after = torch.empty_like(before)
        width = layer.shape[1]
        torch.mm(by_value, layer, out=after[:, :width])
        torch.mm(by_gate, gate, out=after[:, width:])
        torch.ops.aten.silu_backward.grad_input(after, before, grad_input=after)
        by_value, by_gate = after[:, :width], after[:, width:]
    return after


def _three_body(
    block: Block, basis: Basis, functions: EdgeFunctions, gates: Tensor, source: Tensor, n_centers: int
) -> tuple[Tensor, KeptAngles]:
    weighted = functions.radial * gates
    terms = (weighted @ basis.columns).mul_(functions.harmonics)
    spread = terms.new_zeros(n_centers, terms.shape[1]).index_add_(0, source, terms).index_select(0, source)
    bare = (spread * functions.harmonics) @ basis.contraction
    bare.addcmul_(weighted, basis.self_term, value=-1)
    both = (bare * functions.envelope) @ block.bond_weight.t()
    if block.bond_bias is not None:
        both += block.bond_bias
    layer, gate = both.chunk(2, dim=1)
    value, factor = silu(layer), torch.sigmoid(gate)
    return value * factor, KeptAngles(gates, weighted, spread, bare, layer, value, factor)


def _three_body_backward(
    block: Block,
    basis: Basis,
    functions: EdgeFunctions,
    kept: KeptAngles,
    source: Tensor,
    slope: Tensor,
    slopes: Slopes,
) -> Tensor:
    width = slope.shape[1]
    both = slope.new_empty(slope.shape[0], 2 * width)
    both[:, :width] = silu_backward(slope * kept.gate, kept.layer)
    both[:, width:] = sigmoid_backward(slope * kept.value, kept.gate)
    by_angle = both @ block.bond_weight
    slopes.envelope.add_((by_angle * kept.bare).sum(1, keepdim=True))
    by_angle *= functions.envelope
    by_product = by_angle @ basis.contraction.t()
    slopes.harmonics.addcmul_(by_product, kept.spread)
    by_product *= functions.harmonics
    n_centers = int(source[-1]) + 1 if source.shape[0] else 0
    sums = slope.new_zeros(n_centers, by_product.shape[1]).index_add_(0, source, by_product)
    by_terms = sums.index_select(0, source)
    slopes.harmonics.addcmul_(by_terms, kept.weighted @ basis.columns)
    by_weighted = by_terms.mul_(functions.harmonics) @ basis.columns.t()
    by_weighted.addcmul_(by_angle, basis.self_term, value=-1)
    slopes.radial.addcmul_(by_weighted, kept.gates)
    return by_weighted.mul_(functions.radial)
