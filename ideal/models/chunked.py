r"""Energies of M3GNet and their gradient, block by block over chunks of atoms, without autograd.

A chunk is a run of centers with all their edges; it is sized so that its arrays stay in the processor's cache. Forward
keeps v_l of all atoms. What the derivative needs of a chunk is kept while it fits into a budget; beyond it, backward
computes the chunk's block again. Edge features are handled likewise: while they fit they are kept between blocks,
beyond that each chunk computes them again from v_0 ... v_l (edge features need no neighbors' edge features). So memory
grows with the atoms alone: about (3 n_blocks + 8) n_features numbers per atom plus the neighbor list.

    pass                              computes                                   when edge features do not fit
    forward, blocks 0 ... L-2         v_(l+1)                                    edge updates of blocks < l again
    last block                        energies, dE/dv_L, dE/dv_(L-1), dE/de      down to the first edge features at once
    backward, blocks L-2 ... 0        dE/dv_l, dE/de                             likewise

The numbers do not depend on what was kept (up to the order of float sums). The readout of an atom, a few per cent of
the work, is differentiated by autograd, as are the functions of edge vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ideal.models import layers
from ideal.models.basis import Basis, EdgeFunctions
from ideal.models.layers import Block, Gated, KeptEdges, KeptGated, NodeSlopes, Own, Reach, Slopes

KEEP_BYTES = 2 << 30
"""Budget for intermediate results of all chunks together."""

_CACHE_VALUES = 262_144
_GPU_VALUES = 128 * _CACHE_VALUES


@dataclass
class _Chunk:
    """Centers ``first`` ... ``last - 1`` and their edges ``begin`` ... ``end - 1``, with what is kept of them."""

    first: int
    last: int
    begin: int
    end: int
    source: Tensor
    target: Tensor
    vectors: Tensor
    keeps: bool = False
    functions: EdgeFunctions | None = None
    slopes: Slopes | None = None
    edges: Tensor | None = None
    edge_slope: Tensor | None = None
    blocks: dict[int, tuple[KeptEdges, KeptGated]] = field(default_factory=dict)

    @property
    def atoms(self) -> slice:
        return slice(self.first, self.last)

    @property
    def n_centers(self) -> int:
        return self.last - self.first


class ChunkedEvaluator:
    """Per-atom energies and the gradient of their sum by edge vectors.

    Args:
        model: a `matgl.models.M3GNet` that `layers.covers`.
        basis: its functions of edge vectors.
        chunk_atoms: atoms per chunk; None: as many as keep a chunk in the processor's cache.
        keep_bytes: budget for intermediate results, beyond which they are computed again.
    """

    def __init__(self, model: Any, basis: Basis, chunk_atoms: int | None = None, keep_bytes: int = KEEP_BYTES) -> None:
        self._model = model
        self._basis = basis
        self._chunk_atoms = chunk_atoms
        self._keep_bytes = keep_bytes

    @torch.no_grad()
    def __call__(self, types: Tensor, source: Tensor, target: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n_atoms,) in units of the model's energy scale and their sum's gradient (n_edges, 3).

        Args:
            types: (n_atoms,) int64.
            source: (n_edges,) int64, ascending.
            target: (n_edges,) integers.
            vectors: (n_edges, 3), Å.
        """
        self._basis.place(vectors)
        run = _Run(self._model, self._basis, types, vectors)
        run.cut(source, target, self._chunk_atoms)
        run.plan(self._keep_bytes)
        return run.evaluate()


class _Run:
    """One evaluation."""

    def __init__(self, model: Any, basis: Basis, types: Tensor, vectors: Tensor) -> None:
        self.model, self.basis, self.vectors = model, basis, vectors
        self.blocks: list[Block] = [
            layers.read_block(three_body, block)
            for three_body, block in zip(model.three_body_interactions, model.graph_layers, strict=True)
        ]
        embedding = model.embedding.layer_edge_embedding.layers[0]
        self.edge_weight, self.edge_bias = embedding.weight.detach(), embedding.bias.detach()
        self.nodes: list[Tensor] = [model.embedding.layer_node_embedding(types).detach()]
        self.reach: list[Reach] = []
        self.slopes: list[NodeSlopes] = []
        self.gradient = torch.zeros_like(vectors)
        self.chunks: list[_Chunk] = []

    def cut(self, source: Tensor, target: Tensor, chunk_atoms: int | None) -> None:
        """Divide atoms into chunks."""
        n_atoms = self.nodes[0].shape[0]
        ends = torch.bincount(source, minlength=n_atoms).cumsum(0).cpu().numpy()
        if chunk_atoms:
            cuts = list(range(chunk_atoms, n_atoms, chunk_atoms))
        else:
            values = _GPU_VALUES if self.vectors.is_cuda else _CACHE_VALUES
            most_edges = max(64, values // self.blocks[0].edge.edge.shape[0])
            wanted = np.linspace(0, ends[-1], -(-int(ends[-1]) // most_edges) + 1)[1:-1]
            cuts = np.unique(np.searchsorted(ends, wanted) + 1).tolist()
            cuts = [cut for cut in cuts if cut < n_atoms]
        first = begin = 0
        for last in [*cuts, n_atoms]:
            end = int(ends[last - 1])
            here = slice(begin, end)
            self.chunks.append(_Chunk(first, last, begin, end, source[here] - first, target[here], self.vectors[here]))
            first, begin = last, end

    def plan(self, budget: int) -> None:
        """Decide which chunks keep their intermediate results, and whether edge features are kept between blocks."""
        size = self.vectors.element_size()
        features = self.nodes[0].shape[1]
        n_blocks = len(self.blocks)
        per_edge = 2 * features * size
        self.keep_edges = n_blocks > 1 and self.vectors.shape[0] * per_edge <= budget
        if not self.keep_edges:
            return
        budget -= self.vectors.shape[0] * per_edge
        wide = self.blocks[0].edge.edge.shape[0]
        kept = 2 * (wide * len(self.blocks[0].edge.deeper) + 4 * features) + 3 * features + 4 * self.basis.n_columns
        per_edge = ((n_blocks - 1) * kept + 6 * self.basis.n_columns) * size
        for chunk in self.chunks:
            budget -= (chunk.end - chunk.begin) * per_edge
            chunk.keeps = budget >= 0

    # --- the passes ---

    def evaluate(self) -> tuple[Tensor, Tensor]:
        last = len(self.blocks) - 1
        for index in range(last):
            self._forward(index)
        energies = self._last(last)
        for index in range(last - 1, -1, -1):
            self._backward(index)
        return energies, self.gradient

    def _forward(self, index: int) -> None:
        self.reach.append(layers.project(self.blocks[index], self.nodes[index]))
        nodes = self.nodes[index].clone()
        for chunk in self.chunks:
            functions = self._functions(chunk, slopes=False)
            _, edges = self._edges_before(index, chunk, functions)
            message, edges, kept = self._block(index, chunk, functions, edges)
            nodes[chunk.atoms].index_add_(0, chunk.source, message)
            if chunk.keeps:
                chunk.blocks[index] = kept
            if self.keep_edges:
                chunk.edges = edges
        self.nodes.append(nodes)

    def _last(self, index: int) -> Tensor:
        """Forward and backward through the last block: nothing of it is kept."""
        self.reach.append(layers.project(self.blocks[index], self.nodes[index]))
        self.slopes = [NodeSlopes(b, v) for b, v in zip(self.blocks[1:], self.nodes[1:], strict=True)]
        energies = self.vectors.new_zeros(self.nodes[0].shape[0])
        for chunk in self.chunks:
            functions = self._functions(chunk, slopes=True)
            below, edges = self._edges_before(index, chunk, functions)
            message, _, kept = self._block(index, chunk, functions, edges)
            nodes = self.nodes[index][chunk.atoms].clone().index_add_(0, chunk.source, message)
            energies[chunk.atoms], slope = self._readout(nodes)
            if index:
                self.slopes[index - 1].total[chunk.atoms] += slope
            self._block_backward(index, chunk, functions, kept, below, slope)
        return energies

    def _backward(self, index: int) -> None:
        """Through a block below the last; dE/dv_(index + 1) is completed first."""
        above = self.slopes.pop()
        slope = above.gather(self.blocks[index + 1], self.reach.pop().gates)
        del above
        if index:
            self.slopes[index - 1].total += slope
        for chunk in self.chunks:
            functions = self._functions(chunk, slopes=True)
            below: list[KeptEdges] = []
            if index in chunk.blocks:
                kept = chunk.blocks.pop(index)
            else:
                below, edges = self._edges_before(index, chunk, functions, again=True)
                _, _, kept = self._block(index, chunk, functions, edges)
            self._block_backward(index, chunk, functions, kept, below, slope[chunk.atoms])

    # --- one chunk ---

    def _functions(self, chunk: _Chunk, slopes: bool) -> EdgeFunctions:
        if chunk.functions is not None:
            return chunk.functions
        if not slopes and not chunk.keeps:
            return self.basis(chunk.vectors)
        with torch.enable_grad():
            chunk.vectors = chunk.vectors.detach().requires_grad_(True)
            functions = self.basis(chunk.vectors)
        chunk.functions = functions
        chunk.slopes = Slopes.zero(functions)
        return functions

    def _own(self, index: int, chunk: _Chunk) -> Own:
        return layers.project_own(self.blocks[index], self.nodes[index][chunk.atoms])

    def _edges_before(
        self, index: int, chunk: _Chunk, functions: EdgeFunctions, again: bool = False
    ) -> tuple[list[KeptEdges], Tensor]:
        """Edge features that enter a block, and what the derivative of the way to them needs (none if it was kept)."""
        if self.keep_edges and index and chunk.edges is not None and not again:
            edges, chunk.edges = chunk.edges, None
            return [], edges
        edges = layers.embed_edges(self.edge_weight, self.edge_bias, functions.bonds)
        below = []
        for earlier in range(index):
            edges, kept = layers.update_edges(
                self.blocks[earlier],
                self.basis,
                functions,
                self.reach[earlier],
                self._own(earlier, chunk),
                chunk.source,
                chunk.target,
                edges,
            )
            below.append(kept)
        return below, edges

    def _block(
        self, index: int, chunk: _Chunk, functions: EdgeFunctions, edges: Tensor
    ) -> tuple[Tensor, Tensor, tuple[KeptEdges, KeptGated]]:
        block, reach, own = self.blocks[index], self.reach[index], self._own(index, chunk)
        edges, kept_edges = layers.update_edges(
            block, self.basis, functions, reach, own, chunk.source, chunk.target, edges
        )
        message, kept_nodes = layers.update_nodes(block, functions, reach, own, chunk.source, chunk.target, edges)
        return message, edges, (kept_edges, kept_nodes)

    def _readout(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of atoms and their slope by the atoms' features."""
        with torch.enable_grad():
            nodes = nodes.requires_grad_(True)
            energies = self.model.final_layer(nodes).view(-1)
            (slope,) = torch.autograd.grad(energies.sum(), nodes)
        return energies.detach(), slope

    def _block_backward(
        self,
        index: int,
        chunk: _Chunk,
        functions: EdgeFunctions,
        kept: tuple[KeptEdges, KeptGated],
        below: list[KeptEdges],
        slope: Tensor,
    ) -> None:
        """From dE/dv of the chunk's atoms after a block to everything before it."""
        assert chunk.slopes is not None
        by_message = slope.index_select(0, chunk.source)
        hidden, by_edges = layers.update_nodes_backward(self.blocks[index], kept[1], by_message, chunk.slopes)
        if index:
            self._scatter("node", index, chunk, hidden)
        if chunk.edge_slope is not None:
            by_edges += chunk.edge_slope
            chunk.edge_slope = None
        by_edges = self._edges_backward(index, chunk, functions, kept[0], by_edges)
        if self.keep_edges and index:
            chunk.edge_slope = by_edges
        else:
            for earlier in range(index - 1, -1, -1):
                by_edges = self._edges_backward(earlier, chunk, functions, below[earlier], by_edges)
            layers.embed_edges_backward(self.edge_weight, self.edge_bias, functions.bonds, by_edges, chunk.slopes)
        if index == 0 or not chunk.keeps:
            self._to_vectors(chunk)

    def _edges_backward(
        self, index: int, chunk: _Chunk, functions: EdgeFunctions, kept: KeptEdges, slope: Tensor
    ) -> Tensor:
        assert chunk.slopes is not None
        hidden, gates, slope = layers.update_edges_backward(
            self.blocks[index], self.basis, functions, kept, slope, chunk.slopes
        )
        if index:
            self._scatter("edge", index, chunk, hidden)
            self.slopes[index - 1].reach.gates.index_add_(0, kept.near_target, gates)
        return slope

    def _scatter(self, which: str, index: int, chunk: _Chunk, hidden: Tensor) -> None:
        """Slopes of a first layer to the atoms; v_0 does not depend on positions."""
        weights: Gated = getattr(self.blocks[index], which)
        self.slopes[index - 1].add(which, weights, hidden, chunk.first, chunk.n_centers, chunk.source, chunk.target)

    def _to_vectors(self, chunk: _Chunk) -> None:
        """Slopes of the chunk's functions to its edge vectors; the functions are let go."""
        functions, slopes = chunk.functions, chunk.slopes
        assert functions is not None
        assert slopes is not None
        values = (functions.bonds, functions.radial, functions.harmonics, functions.envelope)
        outputs = [(value, slope) for value, slope in zip(values, slopes, strict=True) if value.requires_grad]
        (gradient,) = torch.autograd.grad([v for v, _ in outputs], chunk.vectors, [s for _, s in outputs])
        self.gradient[chunk.begin : chunk.end] += gradient
        chunk.functions = chunk.slopes = None
