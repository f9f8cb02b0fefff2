"""The layers with ghosts: two domains that exchange features and slopes give what the whole structure gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ideal.models import layers
from ideal.models.layers import NodeSlopes, Slopes

from .conftest import crystal, tiny_potential


class Domain:
    """Some centers of a graph, their edges, and copies ("ghosts") of the atoms that these lead to."""

    def __init__(self, graph, centers: range) -> None:
        mine = (graph.source >= centers.start) & (graph.source < centers.stop)
        target = graph.target[mine]
        ghosts = sorted(set(target.tolist()) - set(centers))
        self.atoms = torch.tensor([*centers, *ghosts])
        local = {int(atom): row for row, atom in enumerate(self.atoms)}
        self.n = len(centers)
        self.edge_rows = torch.nonzero(mine).squeeze(1)
        self.source = graph.source[mine] - centers.start
        self.target = torch.tensor([local[int(atom)] for atom in target])
        self.vectors = graph.vectors[mine].detach().requires_grad_(True)
        self.kept: list = []


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_two_domains_equal_the_whole(n_blocks: int) -> None:
    potential = tiny_potential(n_blocks=n_blocks, max_n=2, max_l=3).double()
    graph = potential.graph(crystal().repeat((2, 1, 1)))
    energies, gradient = potential._energies_and_gradient(graph)
    model, basis = potential._model, potential._fused.basis
    blocks = [layers.read_block(t, g) for t, g in zip(model.three_body_interactions, model.graph_layers, strict=True)]
    embedding = model.embedding.layer_edge_embedding.layers[0]
    domains = [Domain(graph, range(3)), Domain(graph, range(3, 8))]
    for d in domains:
        d.functions = basis(d.vectors)
        d.slopes = Slopes.zero(d.functions)
        d.edges = layers.embed_edges(embedding.weight.detach(), embedding.bias.detach(), d.functions.bonds.detach())

    with torch.no_grad():
        nodes = [model.embedding.layer_node_embedding(graph.types)]
        for block in blocks:
            new = nodes[-1].clone()
            for d in domains:
                v = nodes[-1][d.atoms]  # what a forward communication brings
                reach, own = layers.project(block, v), layers.project_own(block, v[: d.n])
                d.edges, kept_edges = layers.update_edges(
                    block, basis, d.functions, reach, own, d.source, d.target, d.edges
                )
                message, kept_nodes = layers.update_nodes(block, d.functions, reach, own, d.source, d.target, d.edges)
                new[d.atoms[: d.n]] += v.new_zeros(d.n, v.shape[1]).index_add_(0, d.source, message)
                d.kept.append((kept_edges, kept_nodes, reach, v))
            nodes.append(new)
    found, slope = readout(model, nodes[-1])
    torch.testing.assert_close(found * potential.energy_scale, energies)

    with torch.no_grad():
        by_edges: list[Tensor | None] = [None, None]
        for block in reversed(blocks):
            below = slope.clone()
            for index, d in enumerate(domains):
                kept_edges, kept_nodes, reach, v = d.kept.pop()
                slopes = NodeSlopes(block, v)
                centers = slope[d.atoms[: d.n]]
                hidden, above = layers.update_nodes_backward(block, kept_nodes, centers[d.source], d.slopes)
                slopes.add("node", block.node, hidden, 0, d.n, d.source, d.target)
                above = above if by_edges[index] is None else above + by_edges[index]
                hidden, gates, by_edges[index] = layers.update_edges_backward(
                    block, basis, d.functions, kept_edges, above, d.slopes
                )
                slopes.add("edge", block.edge, hidden, 0, d.n, d.source, d.target)
                slopes.reach.gates.index_add_(0, kept_edges.near_target, gates)
                below.index_add_(0, d.atoms, slopes.gather(block, reach.gates))  # and what a reverse one takes
            slope = below
        for d, last in zip(domains, by_edges, strict=True):
            layers.embed_edges_backward(embedding.weight, embedding.bias, d.functions.bonds, last, d.slopes)
    for d in domains:
        f = d.functions
        outputs = (f.bonds, f.radial, f.harmonics, f.envelope)
        (by_vectors,) = torch.autograd.grad(outputs, d.vectors, tuple(d.slopes))
        torch.testing.assert_close(by_vectors * potential.energy_scale, gradient[d.edge_rows])


def readout(model, nodes: Tensor) -> tuple[Tensor, Tensor]:
    nodes = nodes.detach().requires_grad_(True)
    energies = model.final_layer(nodes).view(-1)
    (slope,) = torch.autograd.grad(energies.sum(), nodes)
    return energies.detach(), slope
