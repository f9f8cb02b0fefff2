"""The neighbor graph of a structure.

One directed edge per ordered pair (i, j, image) with 0 < r <= cutoff. Edge vectors are differences taken in float64 and
then rounded: absolute float32 positions would lose 5e-5 eV/Å in a 280 Å box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor

from ideal.errors import TrainingError
from ideal.models.neighbor_list import NeighborList, find_edges
from ideal.records import IntArray

_BATCH_EDGES = 30_000


@dataclass(frozen=True)
class Graph:
    """A structure as a potential sees it.

    Attributes:
        types: (n_atoms,) int64, index of each atom's element in the potential's list.
        source: (n_edges,) int64, ascending.
        target: (n_edges,) int64.
        vectors: (n_edges, 3), from source to target, Å.
        volume: Å³; None where stress is not defined.
    """

    types: Tensor
    source: Tensor
    target: Tensor
    vectors: Tensor
    volume: float | None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.types.shape[0]


@dataclass(frozen=True)
class GraphBatch:
    """Several graphs as one, with the structure of each atom and edge.

    Attributes:
        types, source, target, vectors: as in `Graph`, atoms numbered through.
        atom_structure: (n_atoms,) int64.
        edge_structure: (n_edges,) int64.
        inverse_volumes: (n_structures,), 1/Å³; zero where stress is not defined.
    """

    types: Tensor
    source: Tensor
    target: Tensor
    vectors: Tensor
    atom_structure: Tensor
    edge_structure: Tensor
    inverse_volumes: Tensor


def element_lookup(elements: Sequence[str]) -> IntArray:
    """(119,) index of each atomic number in ``elements``; -1 for those that are missing."""
    table = np.full(len(chemical_symbols), -1, dtype=np.int64)
    for index, symbol in enumerate(elements):
        if symbol not in chemical_symbols[1:]:
            raise TrainingError(f"{symbol!r} is not a chemical symbol; write elements such as 'Li' or 'O'")
        table[chemical_symbols.index(symbol)] = index
    return table


def element_types(atoms: Atoms, lookup: IntArray) -> IntArray:
    """(n_atoms,) index of each atom's element.

    Raises:
        TrainingError: an element is missing from the lookup table.
    """
    types = lookup[atoms.numbers]
    if types.size and types.min() < 0:
        unknown = sorted({chemical_symbols[z] for z in atoms.numbers[types < 0]})
        known = [chemical_symbols[z] for z in np.flatnonzero(lookup >= 0)]
        raise TrainingError(
            f"the model does not know {', '.join(unknown)} (it knows {', '.join(known)}); train a model with "
            "these elements (`model.elements`) or load one that has them (`model.path`)"
        )
    return types


def build_graph(
    atoms: Atoms,
    cutoff: float,
    lookup: IntArray,
    dtype: torch.dtype,
    device: torch.device,
    neighbors: NeighborList | None = None,
) -> Graph:
    """The graph of one structure.

    Args:
        atoms: the structure.
        cutoff: Å.
        lookup: index of each atomic number, see `element_lookup`.
        dtype: of the edge vectors.
        device: where the arrays go.
        neighbors: a list to reuse, of the same cutoff.

    Raises:
        TrainingError: no atoms, unknown elements, and as for `ideal.models.neighbor_list.find_edges`.
    """
    if len(atoms) == 0:
        raise TrainingError("the structure has 0 atoms; give at least one")
    types = element_types(atoms, lookup)
    edges = find_edges(atoms, cutoff) if neighbors is None else neighbors(atoms)
    periodic = bool(np.any(atoms.pbc)) and atoms.cell.rank == 3
    source = torch.repeat_interleave(torch.from_numpy(edges.counts), output_size=len(edges.target))
    return Graph(
        types=torch.from_numpy(types).to(device),
        source=source.to(device),
        target=torch.from_numpy(edges.target).to(device=device, dtype=torch.int64),
        vectors=torch.from_numpy(edges.vectors).to(device=device, dtype=dtype),
        volume=float(atoms.get_volume()) if periodic else None,
    )


def collate(graphs: Sequence[Graph]) -> GraphBatch:
    """Join graphs into one; order of atoms and edges is kept."""
    device, dtype = graphs[0].vectors.device, graphs[0].vectors.dtype
    n_atoms = torch.tensor([g.n_atoms for g in graphs], device=device)
    n_edges = torch.tensor([g.source.shape[0] for g in graphs], device=device)
    structures = torch.arange(len(graphs), device=device)
    edge_structure = torch.repeat_interleave(structures, n_edges)
    first_atom = (n_atoms.cumsum(0) - n_atoms)[edge_structure]
    inverse_volumes = [0.0 if g.volume is None else 1.0 / g.volume for g in graphs]
    return GraphBatch(
        types=torch.cat([g.types for g in graphs]),
        source=torch.cat([g.source for g in graphs]) + first_atom,
        target=torch.cat([g.target for g in graphs]) + first_atom,
        vectors=torch.cat([g.vectors for g in graphs]),
        atom_structure=torch.repeat_interleave(structures, n_atoms),
        edge_structure=edge_structure,
        inverse_volumes=torch.tensor(inverse_volumes, dtype=dtype, device=device),
    )


def bounded(graphs: Sequence[Graph]) -> Iterator[list[Graph]]:
    """Consecutive groups of graphs with a bounded number of edges."""
    group: list[Graph] = []
    edges = 0
    for graph in graphs:
        if group and edges + graph.source.shape[0] > _BATCH_EDGES:
            yield group
            group, edges = [], 0
        group.append(graph)
        edges += graph.source.shape[0]
    if group:
        yield group
