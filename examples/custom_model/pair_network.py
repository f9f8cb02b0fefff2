"""A model of one's own in one file: a network of distances, with everything that the package asks of a potential.

    model: {type: custom, module: examples/custom_model/pair_network.py:PairPotential, arguments: {width: 16}}

Put MACE, NequIP or any other network of edge vectors in the place of `PairNetwork`: `network_energies` hands it the
edges, and autograd does the rest (forces, stress, training).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ideal.models.edge_potential import EdgePotential, ordered_elements
from ideal.models.graph import Graph, GraphBatch


class PairNetwork(nn.Module):
    """e_i = network(sum_j c(Z_i, Z_j) g(r_ij)), with Gaussians g that vanish smoothly at the cutoff."""

    def __init__(self, n_elements: int, cutoff: float, width: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.pairs = nn.Embedding(n_elements * n_elements, width)
        self.register_buffer("centers", torch.linspace(0.5, cutoff, width))
        self.readout = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.n_elements = n_elements

    def forward(self, types: Tensor, source: Tensor, target: Tensor, vectors: Tensor) -> Tensor:
        r = (vectors * vectors).sum(1).sqrt()[:, None]
        gaussians = torch.exp(-4 * (r - self.centers) ** 2) * (1 - (r / self.cutoff) ** 2) ** 3
        kinds = types[source] * self.n_elements + types[target]
        terms = self.pairs(kinds) * gaussians
        environment = terms.new_zeros(types.shape[0], terms.shape[1]).index_add(0, source, terms)
        return self.readout(environment).view(-1)


class PairPotential(EdgePotential):
    """The network as a potential."""

    FORMAT = "pair-network-1"

    @classmethod
    def new(
        cls, elements: Sequence[str], seed: int, cutoff: float = 5.0, width: int = 16, **options: Any
    ) -> PairPotential:
        architecture = {"element_types": ordered_elements(elements), "cutoff": cutoff, "width": width}
        return cls(cls.construct(architecture, seed), architecture, {}, is_fitted=False, **options)

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PairNetwork(len(architecture["element_types"]), architecture["cutoff"], architecture["width"])

    def network_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        return self._model(graph.types, graph.source, graph.target, vectors)
